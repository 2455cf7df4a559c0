/** Who hears what: gives each event its place in its session, and brings it to everyone who may hear it. */
import { reaches } from '../auth/tokens.ts'
import type { EventBlock } from '../contract/block.ts'
import { CAPS } from '../contract/connect.ts'
import type { EventName, Payload } from '../contract/index.ts'
import { eventBlock } from '../contract/index.ts'
import type { nodeEvents } from '../contract/nodes.ts'
import { holds } from '../contract/scopes.ts'
import { type Announcement, announce, placed, type Variant } from './announcement.ts'
import type { Piece } from './backlog.ts'
import { createDelivery, type Recipient } from './delivery.ts'
import type { Hearing } from './peer.ts'
import type { Position, Replay } from './replay.ts'

export interface Audience {
  /** The canonical key of the session whose event it is: it has a place in that session's stream. */
  sessionKey?: string
  /** The session it is about where it is no event of one: whoever reads that is not given it again by `chat.resume`. */
  about?: string | undefined
  /**
   * Narrows the audience further; of an event of a session not for peers that count offsets, which hear it all the same: offsets have
   * no holes.
   */
  only?: (peer: Hearing) => boolean
  /** The run that this event is the last of. */
  endOf?: string
  /** The part of a text that this event adds. A slow reader hears it as part of a later one. */
  piece?: Piece
  /** For events of protocol 3 and 4 that count state: `presence` and `health`. */
  stateVersion?: { presence: number; health: number }
}

/** The events that are told to one node. */
type NodeEvent = keyof typeof nodeEvents

export interface Hub {
  join(peer: Hearing): void
  leave(connId: string): void
  peers(): Iterable<Hearing>
  /** Sends an event to everyone who may hear it. `render` makes the payload's JSON for a variant; it is called once for each. */
  publish(name: EventName, render: (variant: Variant) => string, audience?: Audience): void
  /** Keeps back what a peer would hear of a session, until it is released. False: it is kept back already. */
  hold(connId: string, sessionKey: string): boolean
  /** Sends a peer what was kept back, in order; from then on it hears the session again. */
  release(connId: string, sessionKey: string): void
  /** Lets a node hear a session. False: it hears as many as it may. Without effect for anybody else. */
  follow(connId: string, sessionKey: string): boolean
  unfollow(connId: string, sessionKey: string): void
  /** Sends one node an event that is for it alone. False: it is not here. */
  tellNode<E extends NodeEvent>(connId: string, name: E, payload: Payload<E>): boolean
  /** Sends an event whose payload is the same for everyone. */
  tellAll<E extends EventName>(name: E, payload: Payload<E>, audience?: Audience): void
}

/** Whether somebody reaches a session, or ('') what is about none: a token for some sessions reaches those only. */
export const mayReach = ({ sessions }: Pick<Hearing, 'sessions'>, sessionKey: string): boolean =>
  sessions === undefined || (sessionKey !== '' && reaches(sessions, sessionKey))

export interface HubNeeds {
  /** A peer has read too slowly for too long: it is to be disconnected. */
  onSlow(peer: Hearing): void
  /** The socket of a peer threw: it is to be disconnected. */
  onBroken?(peer: Hearing, error: unknown): void
  /** Gives each event of a session its place in the session's stream, and keeps it. */
  replay: Pick<Replay, 'next' | 'take'>
}

/** What the hub itself knows of a peer. */
interface Member extends Recipient {
  /** What is kept back, by session. */
  held: Map<string, Announcement[]> | undefined
  /** The sessions that a node took. */
  followed: Set<string> | undefined
}

/** Sessions that one node may hear. */
const MOST_FOLLOWED = 64

export function createHub({ onSlow, onBroken = () => {}, replay }: HubNeeds): Hub {
  const members = new Map<string, Member>()
  const delivery = createDelivery({
    onSlow(recipient) {
      members.delete(recipient.connId)
      onSlow(recipient)
    },
    onBroken(recipient, error) {
      members.delete(recipient.connId)
      onBroken(recipient, error)
    },
  })

  function mayHear(member: Member, scope: EventBlock['scope'], sessionKey: string): boolean {
    if (scope === 'everyone') return true
    // It is told to one, by name.
    if (scope === 'node') return false
    if (!mayReach(member, sessionKey)) return false
    if (member.role === 'node')
      return scope === 'operator.read' && sessionKey !== '' && member.followed?.has(sessionKey) === true
    return holds(member.scopes, scope)
  }

  const hub: Hub = {
    join(peer) {
      const member: Member = Object.assign(peer, {
        seq: 0,
        deltaOnly: peer.caps.has(CAPS.deltaOnly),
        withOffsets: peer.caps.has(CAPS.streamOffsets),
        late: undefined,
        patience: undefined,
        isGone: false,
        held: undefined,
        followed: undefined,
      })
      members.set(peer.connId, member)
      peer.wire.onEventsSent(() => delivery.relieve(member))
    },
    leave(connId) {
      const member = members.get(connId)
      if (member) delivery.end(member)
      members.delete(connId)
    },
    peers: () => members.values(),
    publish(name, render, { sessionKey = '', about = sessionKey, only, endOf, piece, stateVersion } = {}) {
      const { scope } = eventBlock(name)
      let position: Position | undefined
      if (sessionKey !== '') {
        // Rendered before it takes its place: what cannot be said must not leave a hole.
        const payload = render({ protocol: 4, deltaOnly: true, sessionKey })
        position = replay.next(sessionKey)
        replay.take(sessionKey, `{"event":"${name}","payload":${placed(payload, position)}}`, endOf)
      }
      const said = announce(name, render, { sessionKey, position, piece, stateVersion })
      for (const member of members.values()) {
        if (!mayHear(member, scope, about)) continue
        // Who counts offsets hears also what is meant for others.
        if (only && !(position && member.withOffsets) && !only(member)) continue
        const held = member.held?.get(sessionKey)
        if (held) held.push(said)
        else delivery.bring(member, said)
      }
    },
    hold(connId, sessionKey) {
      const member = members.get(connId)
      if (!member) return true
      member.held ??= new Map()
      if (member.held.has(sessionKey)) return false
      // What was said before this belongs before it.
      delivery.flush(member, sessionKey)
      member.held.set(sessionKey, [])
      return true
    },
    release(connId, sessionKey) {
      const member = members.get(connId)
      const held = member?.held?.get(sessionKey)
      if (!member || !held) return
      member.held!.delete(sessionKey)
      for (const said of held) if (!member.isGone) delivery.bring(member, said)
    },
    follow(connId, sessionKey) {
      const member = members.get(connId)
      if (member?.role !== 'node') return true
      member.followed ??= new Set()
      if (member.followed.size >= MOST_FOLLOWED && !member.followed.has(sessionKey)) return false
      member.followed.add(sessionKey)
      return true
    },
    unfollow: (connId, sessionKey) => void members.get(connId)?.followed?.delete(sessionKey),
    tellNode(connId, name, payload) {
      const member = members.get(connId)
      if (member?.role !== 'node' || eventBlock(name).scope !== 'node') return false
      const text = JSON.stringify(payload)
      const about = { sessionKey: '', position: undefined, piece: undefined, stateVersion: undefined }
      delivery.bring(
        member,
        announce(name, () => text, about),
      )
      return !member.isGone
    },
    tellAll(name, payload, audience) {
      const text = JSON.stringify(payload)
      hub.publish(name, () => text, audience)
    },
  }
  return hub
}

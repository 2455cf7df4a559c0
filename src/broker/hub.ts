/** Who hears what: encodes an event once for each way it can look, and writes it to everyone who may see it. */

import type { Role, Scope } from '../contract/block.ts'
import type { Close } from '../contract/closes.ts'
import { CAPS, LIMITS } from '../contract/connect.ts'
import type { Protocol } from '../contract/errors.ts'
import type { EventName, Payload } from '../contract/index.ts'
import { eventBlock } from '../contract/index.ts'
import type { Replay } from './replay.ts'

/** The socket of a peer, as far as the broker is concerned. */
export interface Wire {
  /** Sends a whole text frame. */
  send(text: string): void
  /** Sends an event frame whose `head` is shared with other sockets; `head + tail` is its text. */
  sendShared(head: Buffer, tail: string): void
  close(close: Close): void
  /** Ends the socket without a close frame. */
  terminate(): void
  /** Bytes of event frames that have not left the process yet. */
  readonly eventBytesWaiting: number
  /** Bytes of all frames that have not left the process yet. */
  readonly bytesWaiting: number
  /** Takes frames of so many bytes; a larger one ends the socket with 1009 before it is buffered. */
  takeFramesOf(bytes: number): void
  /** Reads no further, until `resume`. */
  pause(): void
  resume(): void
  /** Calls back whenever everything that waited has left. */
  onDrained(callback: () => void): void
}

/** An authenticated peer. */
export interface Peer {
  readonly connId: string
  readonly protocol: Protocol
  readonly role: Role
  readonly principal: string
  readonly scopes: ReadonlySet<Scope>
  readonly caps: ReadonlySet<string>
  readonly wire: Wire
  /** How it spelled a session that it addressed, where that is not the canonical key (protocol 3 only). */
  readonly spellings: Map<string, string>
}

/** The ways one event can look. */
export interface Variant {
  protocol: Protocol
  deltaOnly: boolean
  /** How the peer spells the session the event is about. */
  sessionKey: string
}

export interface Audience {
  /** The canonical key of the session the event is about. */
  sessionKey?: string
  /** Narrows the audience further. */
  only?: (peer: Peer) => boolean
  /** The run that this event is the last of. */
  endOf?: string
  /** For events of protocol 3 and 4 that count state: `presence` and `health`. */
  stateVersion?: { presence: number; health: number }
}

export interface Hub {
  join(peer: Peer): void
  leave(connId: string): void
  peers(): Iterable<Peer>
  /** Sends an event to everyone who may hear it. `render` makes the payload's JSON for a variant; it is called once for each. */
  publish(name: EventName, render: (variant: Variant) => string, audience?: Audience): void
  /** Keeps back what a peer would hear of a session, until it is released. False: it is kept back already. */
  hold(connId: string, sessionKey: string): boolean
  /** Sends a peer what was kept back, in order; from then on it hears the session again. */
  release(connId: string, sessionKey: string): void
  /** Sends an event whose payload is the same for everyone. */
  tellAll<E extends EventName>(name: E, payload: Payload<E>, audience?: Audience): void
}

/** Whether the scopes of a connection include one. `operator.admin` implies all, `operator.write` implies `operator.read`. */
export function holds(scopes: ReadonlySet<Scope>, scope: Scope): boolean {
  return (
    scopes.has(scope) || scopes.has('operator.admin') || (scope === 'operator.read' && scopes.has('operator.write'))
  )
}

export interface HubNeeds {
  /** A peer reads too slowly for an event that must not be skipped: it is to be disconnected. */
  onSlow(peer: Peer, event: EventName): void
  /** The socket of a peer threw: it is to be disconnected. */
  onBroken?(peer: Peer, error: unknown): void
  /** Gives each event of a session its place in the session's stream, and keeps it. */
  replay: Pick<Replay, 'next' | 'take'>
}

/** What the hub itself knows of a peer. */
interface Member extends Peer {
  seq: number
  deltaOnly: boolean
  withOffsets: boolean
  /** What is kept back, by session. */
  held: Map<string, { head: Buffer; end: string }[]> | undefined
}

export function createHub({ onSlow, onBroken = () => {}, replay }: HubNeeds): Hub {
  const members = new Map<string, Member>()

  function mayHear(peer: Peer, scope: Scope | 'everyone'): boolean {
    if (scope === 'everyone') return true
    return peer.role === 'operator' && holds(peer.scopes, scope)
  }

  function send(member: Member, head: Buffer, end: string): void {
    // Each connection counts its own events: a hole means a loss, never that somebody else was meant.
    member.seq += 1
    try {
      member.wire.sendShared(head, `${member.seq}${end}`)
    } catch (error) {
      // One socket that throws is its own peer's trouble, not that of whoever speaks or of the others.
      members.delete(member.connId)
      onBroken(member, error)
    }
  }

  const hub: Hub = {
    join: (peer) =>
      void members.set(
        peer.connId,
        Object.assign(peer, {
          seq: 0,
          deltaOnly: peer.caps.has(CAPS.deltaOnly),
          withOffsets: peer.caps.has(CAPS.streamOffsets),
          held: undefined,
        }),
      ),
    leave: (connId) => void members.delete(connId),
    peers: () => members.values(),
    publish(name, render, { sessionKey = '', only, endOf, stateVersion } = {}) {
      const { scope, delivery } = eventBlock(name)
      let place = ''
      if (sessionKey !== '') {
        // Rendered before it takes its place: what cannot be said must not leave a hole.
        const payload = render({ protocol: 4, deltaOnly: true, sessionKey })
        const { epoch, offset } = replay.next(sessionKey)
        place = `,"epoch":"${epoch}","offset":${offset}}`
        replay.take(sessionKey, `{"event":"${name}","payload":${payload.slice(0, -1)}${place}}`, endOf)
      }
      const encode = (variant: Variant, withOffsets: boolean) => {
        const payload = render(variant)
        const placed = withOffsets && place !== '' ? payload.slice(0, -1) + place : payload
        return Buffer.from(`{"type":"event","event":"${name}","payload":${placed},"seq":`)
      }
      // Nearly everybody spells the session as the gateway does: those are found without making a key.
      const usual: (Buffer | undefined)[] = []
      const spelled = new Map<string, Buffer>()
      const end = stateVersion ? `,"stateVersion":${JSON.stringify(stateVersion)}}` : '}'
      for (const peer of members.values()) {
        const { protocol, deltaOnly, withOffsets, spellings } = peer
        if (!mayHear(peer, scope)) continue
        // Offsets have no holes: who counts them hears also what is meant for others.
        if (only && !withOffsets && !only(peer)) continue
        if (peer.wire.eventBytesWaiting > LIMITS.maxBufferedBytes) {
          if (delivery === 'kept') {
            // It hears nothing more: a hole in what it hears would be worse than the end.
            members.delete(peer.connId)
            onSlow(peer, name)
          }
          continue
        }
        const shape = protocol * 4 + Number(deltaOnly) * 2 + Number(withOffsets)
        const spelling = spellings.size === 0 ? sessionKey : (spellings.get(sessionKey) ?? sessionKey)
        let head = spelling === sessionKey ? usual[shape] : spelled.get(`${shape}${spelling}`)
        if (!head) {
          head = encode({ protocol, deltaOnly, sessionKey: spelling }, withOffsets)
          if (spelling === sessionKey) usual[shape] = head
          else spelled.set(`${shape}${spelling}`, head)
        }
        const held = peer.held?.get(sessionKey)
        if (held) held.push({ head, end })
        else send(peer, head, end)
      }
    },
    hold(connId, sessionKey) {
      const member = members.get(connId)
      if (!member) return true
      member.held ??= new Map()
      if (member.held.has(sessionKey)) return false
      member.held.set(sessionKey, [])
      return true
    },
    release(connId, sessionKey) {
      const member = members.get(connId)
      const held = member?.held?.get(sessionKey)
      if (!member || !held) return
      member.held!.delete(sessionKey)
      for (const { head, end } of held) if (members.get(connId) === member) send(member, head, end)
    },
    tellAll(name, payload, audience) {
      const text = JSON.stringify(payload)
      hub.publish(name, () => text, audience)
    },
  }
  return hub
}

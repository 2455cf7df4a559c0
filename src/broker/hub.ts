/** Who hears what: encodes an event once for each way it can look, and writes it to everyone who may see it. */

import type { Role, Scope } from '../contract/block.ts'
import type { Close } from '../contract/closes.ts'
import { CAPS, LIMITS } from '../contract/connect.ts'
import type { Protocol } from '../contract/errors.ts'
import type { EventName, Payload } from '../contract/index.ts'
import { eventBlock } from '../contract/index.ts'

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
  /** For events of protocol 3 and 4 that count state: `presence` and `health`. */
  stateVersion?: { presence: number; health: number }
}

export interface Hub {
  join(peer: Peer): void
  leave(connId: string): void
  peers(): Iterable<Peer>
  /** Sends an event to everyone who may hear it. `render` makes the payload's JSON for a variant; it is called once for each. */
  publish(name: EventName, render: (variant: Variant) => string, audience?: Audience): void
  /** Sends an event whose payload is the same for everyone. */
  tellAll<E extends EventName>(name: E, payload: Payload<E>, audience?: Audience): void
}

/** Whether the scopes of a connection include one. `operator.admin` implies all, `operator.write` implies `operator.read`. */
export function holds(scopes: ReadonlySet<Scope>, scope: Scope): boolean {
  return (
    scopes.has(scope) || scopes.has('operator.admin') || (scope === 'operator.read' && scopes.has('operator.write'))
  )
}

/** @param onSlow a peer reads too slowly for an event that must not be skipped: it is to be disconnected */
export function createHub({ onSlow }: { onSlow(peer: Peer, event: EventName): void }): Hub {
  const members = new Map<string, Peer & { seq: number; deltaOnly: boolean }>()

  function mayHear(peer: Peer, scope: Scope | 'everyone'): boolean {
    if (scope === 'everyone') return true
    return peer.role === 'operator' && holds(peer.scopes, scope)
  }

  const hub: Hub = {
    join: (peer) =>
      void members.set(peer.connId, Object.assign(peer, { seq: 0, deltaOnly: peer.caps.has(CAPS.deltaOnly) })),
    leave: (connId) => void members.delete(connId),
    peers: () => members.values(),
    publish(name, render, { sessionKey = '', only, stateVersion } = {}) {
      const { scope, delivery } = eventBlock(name)
      const encode = (variant: Variant) =>
        Buffer.from(`{"type":"event","event":"${name}","payload":${render(variant)},"seq":`)
      // Nearly everybody spells the session as the gateway does: those are found without making a key.
      const usual: (Buffer | undefined)[] = []
      const spelled = new Map<string, Buffer>()
      const end = stateVersion ? `,"stateVersion":${JSON.stringify(stateVersion)}}` : '}'
      for (const peer of members.values()) {
        if (!mayHear(peer, scope) || (only && !only(peer))) continue
        if (peer.wire.eventBytesWaiting > LIMITS.maxBufferedBytes) {
          if (delivery === 'kept') {
            // It hears nothing more: a hole in what it hears would be worse than the end.
            members.delete(peer.connId)
            onSlow(peer, name)
          }
          continue
        }
        const { protocol, deltaOnly, spellings } = peer
        const shape = protocol * 2 + Number(deltaOnly)
        const spelling = spellings.size === 0 ? sessionKey : (spellings.get(sessionKey) ?? sessionKey)
        let head = spelling === sessionKey ? usual[shape] : spelled.get(`${shape}${spelling}`)
        if (!head) {
          head = encode({ protocol, deltaOnly, sessionKey: spelling })
          if (spelling === sessionKey) usual[shape] = head
          else spelled.set(`${shape}${spelling}`, head)
        }
        // Each connection counts its own events: a hole means a loss, never that somebody else was meant.
        peer.seq += 1
        peer.wire.sendShared(head, `${peer.seq}${end}`)
      }
    },
    tellAll(name, payload, audience) {
      const text = JSON.stringify(payload)
      hub.publish(name, () => text, audience)
    },
  }
  return hub
}

/** Somebody who is connected and known, and the socket they are spoken to by. */
import type { Role, Scope } from '../contract/block.ts'
import type { Close } from '../contract/closes.ts'
import type { Protocol } from '../contract/errors.ts'

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
  /** Calls back, and nobody else, whenever event frames have left. */
  onEventsSent(callback: () => void): void
}

/** As much of a socket as is needed to hear events. */
export type Ear = Pick<Wire, 'sendShared' | 'terminate' | 'eventBytesWaiting' | 'bytesWaiting' | 'onEventsSent'>

/** Somebody who hears events. */
export interface Hearing extends Omit<Peer, 'wire'> {
  readonly wire: Ear
}

/** An authenticated peer. */
export interface Peer {
  readonly connId: string
  readonly protocol: Protocol
  readonly role: Role
  readonly principal: string
  readonly scopes: ReadonlySet<Scope>
  /** The only sessions it can reach, as patterns; absent = all. */
  readonly sessions?: readonly string[] | undefined
  readonly caps: ReadonlySet<string>
  readonly wire: Wire
  /** How it spelled a session that it addressed, where that is not the canonical key (protocol 3 only). */
  readonly spellings: Map<string, string>
}

/** Brings events to one peer: counts them, gathers pieces for a slow reader, and gives up on one that stays too slow. */
import { LIMITS } from '../contract/connect.ts'
import type { Announcement, Hearer } from './announcement.ts'
import { type Backlog, createBacklog } from './backlog.ts'
import type { Hearing } from './peer.ts'

/** From so many bytes that wait for a peer its pieces of texts are gathered instead of sent. */
export const GATHERED_FROM_BYTES = LIMITS.maxBufferedBytes / 2
/** A peer may be over the limit for so many ms: it is not slow because much was said at once. */
export const PATIENCE_MS = 500

/** A peer, and what has been brought to it. */
export interface Recipient extends Hearing, Pick<Hearer, 'deltaOnly' | 'withOffsets'> {
  seq: number
  /** What waits for it to read on; undefined when nothing does. */
  late: Backlog<Announcement> | undefined
  /** Runs while more waits for it than may. */
  patience: NodeJS.Timeout | undefined
  /** Nothing is brought to it any more. */
  isGone: boolean
}

export interface Delivery {
  /** Sends an event, or lets it wait with others that it says, too. */
  bring(recipient: Recipient, said: Announcement): void
  /** Sends what waits of a session. */
  flush(recipient: Recipient, sessionKey: string): void
  /** Some of what was sent has left: there may be room for what waits. */
  relieve(recipient: Recipient): void
  /** Brings nothing more. */
  end(recipient: Recipient): void
}

export interface DeliveryNeeds {
  /** A peer has read too slowly for too long. Nothing more is brought to it. */
  onSlow(recipient: Recipient): void
  /** The socket of a peer threw. Nothing more is brought to it. */
  onBroken(recipient: Recipient, error: unknown): void
}

export function createDelivery({ onSlow, onBroken }: DeliveryNeeds): Delivery {
  function send(recipient: Recipient, head: Buffer, end: string): void {
    const { wire } = recipient
    // Each connection counts its own events: a hole means a loss, never that somebody else was meant.
    recipient.seq += 1
    try {
      wire.sendShared(head, `${recipient.seq}${end}`)
    } catch (error) {
      // One socket that throws is its own peer's trouble, not that of whoever speaks or of the others.
      return broken(recipient, error)
    }
    if (wire.eventBytesWaiting > LIMITS.maxBufferedBytes) recipient.patience ??= hurry(recipient)
  }

  function broken(recipient: Recipient, error: unknown): void {
    delivery.end(recipient)
    onBroken(recipient, error)
  }

  /** Gives a peer until later to read. When the loop itself was late, the sockets are served once more before the second look. */
  function hurry(recipient: Recipient): NodeJS.Timeout {
    const patience = setTimeout(
      () =>
        setImmediate(() => {
          if (recipient.patience !== patience) return
          delivery.end(recipient)
          onSlow(recipient)
        }),
      PATIENCE_MS,
    )
    return patience
  }

  const delivery: Delivery = {
    bring(recipient, said) {
      const { wire } = recipient
      if (recipient.late === undefined && wire.eventBytesWaiting <= GATHERED_FROM_BYTES)
        return send(recipient, said.head(recipient), said.end)
      const { sessionKey, piece, position, delivery: policy } = said
      if (piece && position) {
        if (recipient.late && recipient.late.epochOf(sessionKey) !== position.epoch)
          delivery.flush(recipient, sessionKey)
        recipient.late ??= createBacklog()
        recipient.late.add(sessionKey, said, piece, position)
        if (wire.eventBytesWaiting <= GATHERED_FROM_BYTES) delivery.flush(recipient, sessionKey)
        return
      }
      if (policy === 'droppable' && wire.eventBytesWaiting > LIMITS.maxBufferedBytes) return
      // What came before it is said before it.
      delivery.flush(recipient, sessionKey)
      if (!recipient.isGone) send(recipient, said.head(recipient), said.end)
    },
    flush(recipient, sessionKey) {
      if (recipient.late === undefined) return
      const waited = recipient.late.take(sessionKey)
      if (recipient.late.isEmpty) recipient.late = undefined
      for (const gathered of waited) {
        if (recipient.isGone) return
        let head: Buffer
        try {
          head = gathered.last.head(recipient, gathered)
        } catch (error) {
          // Nobody waits for it any more who could be told that it cannot be said.
          return broken(recipient, error)
        }
        send(recipient, head, gathered.last.end)
      }
    },
    relieve(recipient) {
      if (recipient.patience && recipient.wire.eventBytesWaiting <= LIMITS.maxBufferedBytes) {
        clearTimeout(recipient.patience)
        recipient.patience = undefined
      }
      if (recipient.late === undefined) return
      for (const sessionKey of recipient.late.sessions()) {
        if (recipient.isGone || recipient.wire.eventBytesWaiting > GATHERED_FROM_BYTES) return
        delivery.flush(recipient, sessionKey)
      }
    },
    end(recipient) {
      recipient.isGone = true
      recipient.late = undefined
      clearTimeout(recipient.patience)
      recipient.patience = undefined
    },
  }
  return delivery
}

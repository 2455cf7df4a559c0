/** What a slow reader has not been sent yet: pieces of texts that grow, of which the last says what all before it said. */
import type { Position } from './replay.ts'

/** Part of a text that grows: a later piece of the same text, told from where this one starts, says what both say. */
export interface Piece {
  /** Which text: no two runs have one of the same name. */
  of: string
  /** Where in the text it starts. */
  start: number
}

/** A piece that also says what others of the same text would have said before it. */
export interface Gathered<Event> {
  last: Event
  /** Where in the text the first of them starts. */
  start: number
  /** The first offset of the session that it stands for. */
  from: number
  /** The last one. */
  offset: number
}

export interface Backlog<Event> {
  /** Takes a piece. What waits of the session must be of the same epoch, and all that was said since the first of it. */
  add(sessionKey: string, event: Event, piece: Piece, position: Position): void
  /** The epoch of what waits of a session, if anything does. */
  epochOf(sessionKey: string): string | undefined
  /**
   * Takes out what waits of a session, one event for each text.
   *
   * Together they stand for every offset since the first piece, each for a stretch of its own. One may tell more than its stretch,
   * never less of what lies up to its end: whoever is cut off between two is given again what the second would have said, and knows
   * by the run's `seq` what it has heard of the first text already.
   */
  take(sessionKey: string): Gathered<Event>[]
  /** The sessions of which something waits; who has waited longest comes first. */
  sessions(): Iterable<string>
  readonly isEmpty: boolean
}

interface Waiting<Event> {
  epoch: string
  lastOffset: number
  /** By the text they are part of, in the order of their first pieces. */
  texts: Map<string, { last: Event; start: number; from: number }>
}

export function createBacklog<Event>(): Backlog<Event> {
  const sessions = new Map<string, Waiting<Event>>()
  return {
    add(sessionKey, event, { of, start }, { epoch, offset }) {
      let waiting = sessions.get(sessionKey)
      if (!waiting) {
        waiting = { epoch, lastOffset: offset, texts: new Map() }
        sessions.set(sessionKey, waiting)
      }
      waiting.lastOffset = offset
      const text = waiting.texts.get(of)
      if (text) text.last = event
      else waiting.texts.set(of, { last: event, start, from: offset })
    },
    epochOf: (sessionKey) => sessions.get(sessionKey)?.epoch,
    take(sessionKey) {
      const waiting = sessions.get(sessionKey)
      if (!waiting) return []
      sessions.delete(sessionKey)
      const texts = [...waiting.texts.values()]
      return texts.map((text, index) => ({ ...text, offset: (texts[index + 1]?.from ?? waiting.lastOffset + 1) - 1 }))
    },
    sessions: () => sessions.keys(),
    get isEmpty() {
      return sessions.size === 0
    },
  }
}

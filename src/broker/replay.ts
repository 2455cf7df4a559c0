/**
 * What was said in each session, by offset: kept for those who come back. Every session has a stream `(epoch, offset)`; offsets
 * run from 1 without a gap. An epoch ends when something that was sent may be missing from what is kept.
 */
import { nanoid } from 'nanoid'
import type { Store } from '../stores/store.ts'
import { StoreError } from '../stores/store.ts'
import type { Log } from './log.ts'

/** Where an event stands in its session's stream. */
export interface Position {
  epoch: string
  offset: number
}

/** An event as it is kept and as `chat.resume` gives it back: in the form of protocol 4, without the cumulative text. */
export interface KeptEvent {
  event: string
  payload: { [member: string]: unknown }
}

export type Recovery =
  | { recovered: true; position: Position; events: KeptEvent[] }
  | { recovered: false; position: Position; reason: 'epoch_changed' | 'too_old' | 'too_large' }

export interface Replay {
  /** Gives an event its place. */
  next(sessionKey: string): Position
  /**
   * Takes an event that has a place, as JSON text of a {@link KeptEvent}. It is on disk soon, and at once when it ends a run.
   * @param endOf the run that this event is the last of
   */
  take(sessionKey: string, json: string, endOf?: string): void
  /** How far a session's stream has come. */
  position(sessionKey: string): Position
  /** Resolves when every event of a session that has a place now is on disk, or was refused. */
  keep(sessionKey: string): Promise<void>
  /** Every event after a position that a client was at, up to where the stream is when this is called. */
  since(sessionKey: string, from: Position): Promise<Recovery>
  /** Reads where the streams are, and begins a new epoch where a former process may have sent more than is kept. */
  recover(): Promise<{ renewed: number }>
  /** A session is gone, and its stream with it. */
  forget(sessionKey: string): void
  /** Writes what waits. */
  flush(): Promise<void>
}

export interface ReplayNeeds {
  store: Pick<Store, 'appendEvents' | 'events' | 'streams' | 'unfinishedStreams' | 'beginEpoch'>
  log: Log
  now(): number
  newEpoch?(): string
}

/** An event waits at most this long, in milliseconds, before it is on its way to the disk. */
const KEEP_EVERY_MS = 250
/** JSON bytes that wait at the most before they are on their way. */
const KEEP_EVERY_BYTES = 64 * 1024
/** JSON characters that wait for a disk that refuses; beyond it they are given up, and the epoch ends. */
const MOST_WAITING = 8 * 1024 * 1024
/** JSON bytes of one answer at the most. */
const MOST_RECOVERED = 4 * 1024 * 1024
const RETRY_MS = 1_000

/** Before the first event of a session. No stream has this epoch, so that who was here is told of what came meanwhile. */
const NOTHING_SAID: Position = { epoch: 'none', offset: 0 }

interface Stream extends Position {
  /** Taken and not yet on their way: the events after `offset - waiting.length`. */
  waiting: string[]
  waitingChars: number
  /** Runs that end in `waiting`. */
  endings: string[]
  timer: NodeJS.Timeout | undefined
  /** The writing that is under way: one at a time, so that chunks reach the disk in the order of their offsets. */
  writing: Promise<void> | undefined
}

export function createReplay({ store, log, now, newEpoch = () => nanoid(12) }: ReplayNeeds): Replay {
  const streams = new Map<string, Stream>()

  const make = (position: Position): Stream => ({
    ...position,
    waiting: [],
    waitingChars: 0,
    endings: [],
    timer: undefined,
    writing: undefined,
  })

  function get(sessionKey: string): Stream {
    let stream = streams.get(sessionKey)
    if (!stream) {
      stream = make({ epoch: newEpoch(), offset: 0 })
      streams.set(sessionKey, stream)
    }
    return stream
  }

  /** Writes what waits, and what comes to wait meanwhile. Never rejects: who reads afterwards sees how far it came. */
  function write(sessionKey: string, stream: Stream): Promise<void> {
    stream.writing ??= writeAll(sessionKey, stream).then(() => {
      stream.writing = undefined
      // Taken after the last look and before this: nobody else would write it.
      const isLeft = stream.waiting.length > 0 && stream.timer === undefined && streams.get(sessionKey) === stream
      return isLeft ? write(sessionKey, stream) : undefined
    })
    return stream.writing
  }

  async function writeAll(sessionKey: string, stream: Stream): Promise<void> {
    while (stream.waiting.length > 0) {
      clearTimeout(stream.timer)
      stream.timer = undefined
      const { waiting: events, waitingChars, endings: announced, epoch, offset: to } = stream
      const from = to - events.length + 1
      stream.waiting = []
      stream.waitingChars = 0
      stream.endings = []
      try {
        await store.appendEvents({ sessionKey, epoch, from, to, events: `[${events.join(',')}]`, at: now(), announced })
      } catch (error) {
        stream.waiting.unshift(...events)
        stream.waitingChars += waitingChars
        stream.endings.unshift(...announced)
        return refused(sessionKey, stream, error)
      }
    }
  }

  /** The disk took nothing. While there is hope and room, what was said waits; then whoever comes back must be told. */
  function refused(sessionKey: string, stream: Stream, error: unknown): void {
    const full = error instanceof StoreError && error.code === 'FULL'
    log.warn({ sessionKey, err: error }, full ? 'the disk is full: events wait' : 'events could not be kept')
    if (streams.get(sessionKey) !== stream) return
    if (full && stream.waitingChars <= MOST_WAITING) {
      stream.timer ??= setTimeout(() => void write(sessionKey, stream), RETRY_MS)
      return
    }
    clearTimeout(stream.timer)
    streams.set(sessionKey, make({ epoch: newEpoch(), offset: 0 }))
  }

  return {
    next(sessionKey) {
      const stream = get(sessionKey)
      stream.offset += 1
      return { epoch: stream.epoch, offset: stream.offset }
    },
    take(sessionKey, json, endOf) {
      const stream = get(sessionKey)
      stream.waiting.push(json)
      stream.waitingChars += json.length
      if (endOf !== undefined) stream.endings.push(endOf)
      if (endOf !== undefined || stream.waitingChars >= KEEP_EVERY_BYTES) void write(sessionKey, stream)
      else stream.timer ??= setTimeout(() => void write(sessionKey, stream), KEEP_EVERY_MS)
    },
    position(sessionKey) {
      // Asking makes no stream: anybody can ask for anything. Nothing has been said in a session that has none.
      const { epoch, offset } = streams.get(sessionKey) ?? NOTHING_SAID
      return { epoch, offset }
    },
    async keep(sessionKey) {
      const stream = streams.get(sessionKey)
      if (stream) await write(sessionKey, stream)
    },
    async since(sessionKey, from) {
      const stream = streams.get(sessionKey)
      const position = stream ? { epoch: stream.epoch, offset: stream.offset } : NOTHING_SAID
      if (!stream || from.epoch !== position.epoch || from.offset > position.offset)
        return { recovered: false, position, reason: 'epoch_changed' }
      if (from.offset === position.offset) return { recovered: true, position, events: [] }
      await write(sessionKey, stream)
      const answer = await store.events(sessionKey, from.epoch, from.offset, MOST_RECOVERED)
      switch (answer.kind) {
        case 'events': {
          const events = answer.chunks.flatMap((chunk) =>
            (JSON.parse(chunk.events) as KeptEvent[]).filter((_, index) => {
              const offset = chunk.from + index
              return offset > from.offset && offset <= position.offset
            }),
          )
          // What waits for a disk that refuses is not there to be given: no silent part of it.
          if (events.length !== position.offset - from.offset) return { recovered: false, position, reason: 'too_old' }
          return { recovered: true, position, events }
        }
        case 'tooLarge':
          return { recovered: false, position, reason: 'too_large' }
        case 'tooOld':
          return { recovered: false, position, reason: 'too_old' }
        default:
          return { recovered: false, position, reason: 'epoch_changed' }
      }
    },
    async recover() {
      for (const { sessionKey, epoch, offset } of await store.streams())
        streams.set(sessionKey, make({ epoch, offset }))
      const unfinished = await store.unfinishedStreams()
      for (const sessionKey of unfinished) {
        const epoch = newEpoch()
        await store.beginEpoch(sessionKey, epoch, now())
        streams.set(sessionKey, make({ epoch, offset: 0 }))
      }
      return { renewed: unfinished.length }
    },
    forget(sessionKey) {
      clearTimeout(streams.get(sessionKey)?.timer)
      streams.delete(sessionKey)
    },
    async flush() {
      await Promise.all([...streams].map(([sessionKey, stream]) => write(sessionKey, stream)))
    },
  }
}

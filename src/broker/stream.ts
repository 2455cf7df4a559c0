/**
 * What a run says while it runs: numbers its events, gathers its deltas, and puts them on the hub. Text goes through here and
 * past the run's chart; the chart opens and closes it.
 */
import type { RunOutcome } from '../../machines/run.ts'
import { CAPS } from '../contract/connect.ts'
import type { Sink } from '../runtimes/runtime.ts'
import type { TranscriptMessage } from '../stores/store.ts'
import type { Variant } from './announcement.ts'
import type { Audience, Hub } from './hub.ts'
import { readArguments } from './prompt.ts'

/** A waiting delta leaves at the latest after this many milliseconds. */
export const LONGEST_WAIT_MS = 50
/** Between two `chat` deltas of a run, in milliseconds, as in the reference gateway. */
const CHAT_GAP_MS = 150
/** Since each event repeats the whole text, a long text is sent less often: 2 KiB of it cost a millisecond of waiting. */
const BYTES_PER_WAITING_MS = 2048
/** Streamed text is kept at least this often: milliseconds, and characters. */
const KEEP_EVERY_MS = 250
const KEEP_EVERY_CHARS = 4096

/** Which model failed, and how it answered. */
export interface FailureDetail {
  provider: string
  model: string
  httpStatus?: number
}

export interface Stream extends Sink {
  /** Tells those who count offsets how many runs of the session come before it. */
  announcePlace(place: number): void
  /** Says that the run has started; deltas pass from now on. */
  open(startedAt: number): void
  /** From now on deltas are dropped; the ones that wait are sent. */
  close(): void
  /** The text that has been said: `text` without what still waits. */
  readonly said: string
  /** Says that a tool is called, or what it answered. */
  tool(said: ToolSaid): void
  /** Says nothing any more, not even what waits. */
  abandon(): void
  /** The one terminal pair of events. */
  end(outcome: RunOutcome, endedAt: number, message: TranscriptMessage | undefined, failure?: FailureDetail): void
  readonly text: string
}

/** How much of its tools is heard, as a session's setting `verboseLevel` says. */
export type VerboseLevel = 'off' | 'on' | 'full'

/** What is told of a tool: a part of protocols 3 and 4. */
export type ToolSaid = { name: string; toolCallId: string } & (
  | { phase: 'start'; args: string }
  | { phase: 'result'; isError: boolean; result: string }
)

export interface StreamNeeds {
  runId: string
  sessionKey: string
  agentId: string
  hub: Pick<Hub, 'publish'>
  now(): number
  /** How much of its tools those hear who do not count offsets: nothing, that they are called, or also what they answer. */
  verbose: VerboseLevel
  /** Told of the first piece of text. */
  onFirst(): void
  /** Keeps what has been streamed. */
  keep(text: string): void
  /** Something could not be said; nobody else is there to hear of it, since it was said by the clock. */
  onFailure(error: unknown): void
}

/** What an event says of a tool. Where only the calls are to be heard, it does not say what came of them. */
function toolData(said: ToolSaid, verbose: VerboseLevel): object {
  const { name, toolCallId, phase } = said
  if (phase === 'start') return { phase, name, toolCallId, args: readArguments(said.args) }
  const result = { content: [{ type: 'text', text: said.result }] }
  return { phase, name, toolCallId, isError: said.isError, ...(verbose !== 'on' && { result }) }
}

/** Protocol 3 has no use for a last delta right before the final text. */
const PROTOCOL_4: Pick<Audience, 'only'> = { only: (peer) => peer.protocol >= 4 }
/** What protocols 3 and 4 do not know. */
const WITH_OFFSETS: Pick<Audience, 'only'> = { only: (peer) => peer.caps.has(CAPS.streamOffsets) }

/** JSON text of a string without its quotes, to be joined with other pieces: pieces are escaped once, not once an event. */
const escaped = (text: string): string => JSON.stringify(text).slice(1, -1)

function later(run: () => void, ms: number): () => void {
  const timer = setTimeout(run, ms)
  return () => clearTimeout(timer)
}

function soon(run: () => void): () => void {
  const immediate = setImmediate(run)
  return () => clearImmediate(immediate)
}

export function createStream(needs: StreamNeeds): Stream {
  const { runId, sessionKey, agentId, hub, now, onFirst, keep } = needs
  const id = JSON.stringify(runId)
  const agent = JSON.stringify(agentId)
  const agentText = `${runId} assistant`
  const chatText = `${runId} chat`
  const thoughts = `${runId} reasoning`
  let isOpen = false
  /** Which half of the ending has been told: after a throw it is asked for again, and each half is told once. */
  let toldAgent = false
  let toldChat = false
  let seq = 0
  let text = ''
  let escapedText = ''
  let escapedThoughts = ''
  /** What has come since the last `assistant` event. */
  let waiting = ''
  /** What has come since the last `chat` delta, escaped. */
  let waitingChat = ''
  /** Calls off the flush that is due. */
  let callOff: (() => void) | undefined
  // By a clock that nobody sets: what waits must not wait for the wall clock to come again to where it was.
  let sentAt = Number.NEGATIVE_INFINITY
  let chatAt = Number.NEGATIVE_INFINITY
  let keptAt = Number.NEGATIVE_INFINITY
  let keptChars = 0

  /** The members that every event of the run has. Protocol 4 also names the agent. */
  const head = (variant: Variant): string =>
    `{"runId":${id},"sessionKey":${JSON.stringify(variant.sessionKey)}${variant.protocol >= 4 ? `,"agentId":${agent}` : ''}`

  function agentEvent(
    stream: string,
    data: string | ((variant: Variant) => string),
    audience: Pick<Audience, 'only' | 'piece'> = {},
  ): void {
    const number = ++seq
    const ts = now()
    hub.publish(
      'agent',
      (variant) =>
        `${head(variant)},"stream":"${stream}","data":${typeof data === 'string' ? data : data(variant)},"seq":${number},"ts":${ts}}`,
      { sessionKey, ...audience },
    )
  }

  /** What a turn that waits has to say. It has no number, so that those of the run are whole for everybody. */
  function queueEvent(data: { place: number } | { absorbedBy: string }): void {
    const ts = now()
    hub.publish(
      'agent',
      (variant) => `${head(variant)},"stream":"queue","data":${JSON.stringify(data)},"seq":0,"ts":${ts}}`,
      { sessionKey, ...WITH_OFFSETS },
    )
  }

  function chatEvent(
    rest: (variant: Variant) => string,
    audience: Pick<Audience, 'only' | 'endOf' | 'piece'> = {},
  ): void {
    const number = seq
    hub.publish('chat', (variant) => `${head(variant)},"seq":${number},${rest(variant)}}`, {
      sessionKey,
      ...audience,
    })
  }

  const message = (escapedContent: string, timestamp: number): string =>
    `{"role":"assistant","content":[{"type":"text","text":"${escapedContent}"}],"timestamp":${timestamp}}`

  function chatDelta(audience: Pick<Audience, 'only'> = {}): void {
    const at = now()
    const whole = escapedText
    const added = waitingChat
    chatEvent(
      ({ protocol, deltaOnly, start }) => {
        const more = start === undefined ? added : whole.slice(start)
        return `"state":"delta"${protocol >= 4 ? `,"deltaText":"${more}"` : ''}${deltaOnly ? '' : `,"message":${message(whole, at)}`}`
      },
      { ...audience, piece: { of: chatText, start: whole.length - added.length } },
    )
    waitingChat = ''
    chatAt = performance.now()
  }

  function flush(): void {
    callOff?.()
    callOff = undefined
    if (waiting === '') return
    const delta = escaped(waiting)
    text += waiting
    waiting = ''
    // A character cut in two by the provider (a lone half of a surrogate pair) is escaped as \udXXX in both halves; joined, they
    // read as the one character again.
    const added = { of: agentText, start: escapedText.length }
    escapedText += delta
    waitingChat += delta
    const whole = escapedText
    agentEvent(
      'assistant',
      ({ deltaOnly, start }) => {
        const more = start === undefined ? delta : whole.slice(start)
        return deltaOnly ? `{"delta":"${more}"}` : `{"text":"${whole}","delta":"${more}"}`
      },
      { piece: added },
    )
    const at = performance.now()
    sentAt = at
    if (at - chatAt >= CHAT_GAP_MS) chatDelta()
    if (at - keptAt >= KEEP_EVERY_MS || text.length - keptChars >= KEEP_EVERY_CHARS) {
      keptAt = at
      keptChars = text.length
      keep(text)
    }
  }

  /** A throw out of a timer would end the process. */
  function flushByClock(): void {
    try {
      flush()
    } catch (error) {
      needs.onFailure(error)
    }
  }

  return {
    get text() {
      return text + waiting
    },
    get said() {
      return text
    },
    announcePlace: (place) => queueEvent({ place }),
    open(startedAt) {
      isOpen = true
      keptAt = performance.now()
      agentEvent('lifecycle', `{"phase":"start","startedAt":${startedAt}}`)
    },
    delta(piece) {
      if (!isOpen || piece === '') return
      const first = text === '' && waiting === ''
      waiting += piece
      if (first) {
        flush()
        onFirst()
      } else if (callOff === undefined) {
        const gap = Math.min(LONGEST_WAIT_MS, Math.floor(escapedText.length / BYTES_PER_WAITING_MS))
        const wait = gap - (performance.now() - sentAt)
        // All pieces of one read leave together, even when there is no need to wait.
        callOff = wait > 0 ? later(flushByClock, wait) : soon(flushByClock)
      }
    },
    reasoning(piece) {
      if (!isOpen || piece === '') return
      const delta = escaped(piece)
      const added = { of: thoughts, start: escapedThoughts.length }
      escapedThoughts += delta
      const whole = escapedThoughts
      agentEvent('reasoning', ({ start }) => `{"delta":"${start === undefined ? delta : whole.slice(start)}"}`, {
        piece: added,
      })
    },
    tool(said) {
      if (!isOpen) return
      flush()
      agentEvent('tool', JSON.stringify(toolData(said, needs.verbose)), {
        only: ({ caps }) => needs.verbose !== 'off' && caps.has(CAPS.toolEvents),
      })
    },
    close() {
      if (!isOpen) return
      flush()
      isOpen = false
    },
    abandon() {
      isOpen = false
      callOff?.()
      callOff = undefined
    },
    end(outcome, endedAt, entry, failure) {
      const { state, stopReason, error, absorbedBy } = outcome
      const failed = state === 'failed' || state === 'interrupted'
      const cutShort = state === 'aborted' || state === 'timedOut'
      if (waitingChat !== '') chatDelta(PROTOCOL_4)
      if (!toldAgent && absorbedBy !== undefined) {
        queueEvent({ absorbedBy })
        // As the first event of a run that never began.
        seq = 1
      } else if (!toldAgent)
        agentEvent(
          'lifecycle',
          JSON.stringify(
            failed
              ? { phase: 'error', error, endedAt }
              : { phase: 'end', ...(cutShort && { aborted: true, stopReason }), endedAt },
          ),
        )
      toldAgent = true
      const shown = entry && JSON.stringify({ role: entry.role, content: entry.content, timestamp: entry.timestamp })
      if (toldChat) return
      chatEvent(
        ({ protocol }) => {
          if (failed) {
            const detail = protocol >= 4 && failure ? `,"errorDetail":${JSON.stringify(failure)}` : ''
            return `"state":"error","errorMessage":${JSON.stringify(error ?? 'unknown error')}${detail}`
          }
          if (cutShort)
            return `"state":"aborted","stopReason":${JSON.stringify(stopReason)}${protocol >= 4 && shown ? `,"message":${shown}` : ''}`
          return `"state":"final"${protocol >= 4 && stopReason ? `,"stopReason":${JSON.stringify(stopReason)}` : ''}${shown ? `,"message":${shown}` : ''}`
        },
        { endOf: runId },
      )
      toldChat = true
    },
  }
}

/**
 * The same for a run that nobody asked for: it says nothing before its end, and nothing at all when there is no message then.
 */
export function createQuietStream(needs: StreamNeeds): Stream {
  const loud = createStream({ ...needs, onFirst() {} })
  let text = ''
  let startedAt = 0
  let isOpen = false
  let isTold = false
  return {
    get text() {
      return text
    },
    get said() {
      return isTold ? loud.said : ''
    },
    announcePlace() {},
    open(at) {
      startedAt = at
      isOpen = true
    },
    delta(piece) {
      if (!isOpen || piece === '') return
      const isFirst = text === ''
      text += piece
      if (isFirst) needs.onFirst()
    },
    reasoning() {},
    tool() {},
    close() {
      isOpen = false
    },
    abandon: loud.abandon,
    end(outcome, endedAt, message, failure) {
      if (message === undefined) return
      if (!isTold) {
        isTold = true
        loud.open(startedAt)
        loud.delta(message.content.map((part) => (part.type === 'text' ? String(part['text'] ?? '') : '')).join(''))
        loud.close()
      }
      loud.end(outcome, endedAt, message, failure)
    },
  }
}

/** Lets the requests of one connection in: a bounded number and bytes of them at a time, and none while their answers are not read. */
import type { RequestFrame } from '../contract/frames.ts'
import type { Wire } from './peer.ts'

/** Requests under way at once on one connection. */
const MOST_UNDER_WAY = 32
/** Requests that wait before the socket is read no further. */
const MOST_WAITING = 64
/** Bytes of requests that may be under way at once, and as many that wait before the socket is read no further. */
const MOST_TAKEN_BYTES = 8 * 1024 * 1024
/** Bytes that wait to be read by the peer before none of its requests is begun: it gets those first. */
export const MOST_UNREAD_BYTES = 8 * 1024 * 1024

export interface Turnstile {
  /** @param bytes of its frame */
  come(request: RequestFrame, bytes: number): void
  /** Of the requests that wait and those under way. */
  readonly bytesTaken: number
}

export interface TurnstileNeeds {
  wire: Pick<Wire, 'send' | 'bytesWaiting' | 'pause' | 'resume' | 'onDrained'>
  /** Whether the answer to it may have megabytes: of those, one is under way at a time. */
  isLarge(request: RequestFrame): boolean
  /** Begins a request; `done` is to be called when its (first) answer is on its way. */
  start(request: RequestFrame, send: (text: string) => void, done: () => void): void
}

interface Waiting {
  request: RequestFrame
  bytes: number
  isLarge: boolean
}

export function createTurnstile({ wire, isLarge, start }: TurnstileNeeds): Turnstile {
  const waiting: Waiting[] = []
  let bytesWaiting = 0
  let underWay = 0
  let bytesUnderWay = 0
  let isLargeUnderWay = false
  /** Characters of the longest answer so far that nobody expected to be long: the next ones may be no shorter. */
  let longest = 0
  let paused = false

  function hasRoomFor(next: Waiting): boolean {
    if (wire.bytesWaiting >= MOST_UNREAD_BYTES) return false
    if (underWay === 0) return true
    if (underWay === MOST_UNDER_WAY || bytesUnderWay + next.bytes > MOST_TAKEN_BYTES) return false
    if (next.isLarge && isLargeUnderWay) return false
    // What is under way has yet to be answered, and will be, whether it is read or not.
    return wire.bytesWaiting + underWay * longest < MOST_UNREAD_BYTES
  }

  function begin({ request, bytes, isLarge }: Waiting): void {
    underWay += 1
    bytesUnderWay += bytes
    bytesWaiting -= bytes
    isLargeUnderWay ||= isLarge
    const send = (text: string) => {
      if (!isLarge) longest = Math.max(longest, text.length)
      wire.send(text)
    }
    start(request, send, () => {
      underWay -= 1
      bytesUnderWay -= bytes
      if (isLarge) isLargeUnderWay = false
      letIn()
    })
  }

  function letIn(): void {
    while (waiting.length > 0 && hasRoomFor(waiting[0]!)) begin(waiting.shift()!)
    if (paused && waiting.length < MOST_WAITING && bytesWaiting < MOST_TAKEN_BYTES) {
      paused = false
      wire.resume()
    }
  }

  wire.onDrained(letIn)
  return {
    come(request, bytes) {
      waiting.push({ request, bytes, isLarge: isLarge(request) })
      bytesWaiting += bytes
      letIn()
      if (!paused && (waiting.length >= MOST_WAITING || bytesWaiting >= MOST_TAKEN_BYTES)) {
        paused = true
        wire.pause()
      }
    },
    get bytesTaken() {
      return bytesUnderWay + bytesWaiting
    },
  }
}

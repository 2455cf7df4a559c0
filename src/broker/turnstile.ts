/** Lets the requests of one connection in: a bounded number at a time, and none while their answers are not being read. */
import type { RequestFrame } from '../contract/frames.ts'
import type { Wire } from './peer.ts'

/** Requests under way at once on one connection. */
const MOST_UNDER_WAY = 32
/** Requests that wait before the socket is read no further. */
const MOST_WAITING = 64
/** Bytes that wait to be read by the peer before none of its requests is begun: it gets those first. */
export const MOST_UNREAD_BYTES = 8 * 1024 * 1024

/** @param start begins a request; `done` is to be called when its (first) answer is on its way */
export function createTurnstile(
  wire: Pick<Wire, 'bytesWaiting' | 'pause' | 'resume' | 'onDrained'>,
  start: (request: RequestFrame, done: () => void) => void,
): (request: RequestFrame) => void {
  const waiting: RequestFrame[] = []
  let underWay = 0
  let paused = false

  function letIn(): void {
    while (waiting.length > 0 && underWay < MOST_UNDER_WAY && wire.bytesWaiting < MOST_UNREAD_BYTES) {
      underWay += 1
      start(waiting.shift()!, () => {
        underWay -= 1
        letIn()
      })
    }
    if (paused && waiting.length < MOST_WAITING) {
      paused = false
      wire.resume()
    }
  }

  wire.onDrained(letIn)
  return (request) => {
    waiting.push(request)
    letIn()
    if (!paused && waiting.length >= MOST_WAITING) {
      paused = true
      wire.pause()
    }
  }
}

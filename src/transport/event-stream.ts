/** Server-sent events: an answer that is told while it is made. */
import type { ServerResponse } from 'node:http'

export interface EventStream {
  /** Sends whole events, each with the blank line behind it. Whoever has left is told nothing. */
  send(events: string): void
  /** Bytes that have not left the process yet. */
  readonly bytesWaiting: number
  /** Calls back, and nobody else, whenever some of what was sent has left. */
  onSent(callback: () => void): void
  end(): void
  /** Ends the connection in the middle: that the answer is not whole is said by that. */
  cut(): void
}

/** Proxies close what says nothing for a minute. */
const KEPT_ALIVE_MS = 15_000

/** Begins one: its head leaves at once. */
export function openEventStream(response: ServerResponse): EventStream {
  response.writeHead(200, {
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-cache',
    'x-content-type-options': 'nosniff',
    'referrer-policy': 'no-referrer',
    // Some proxies gather what they pass on, unless they are told.
    'x-accel-buffering': 'no',
  })
  response.flushHeaders()
  let onSent = () => {}
  const send = (text: string) => {
    if (!response.destroyed && !response.writableEnded) response.write(text, () => onSent())
  }
  const timer = setInterval(() => send(': still here\n\n'), KEPT_ALIVE_MS).unref()
  response.once('close', () => clearInterval(timer))
  return {
    send,
    get bytesWaiting() {
      return response.writableLength
    },
    onSent(callback) {
      onSent = callback
    },
    end() {
      clearInterval(timer)
      response.end()
    },
    cut: () => void response.destroy(),
  }
}

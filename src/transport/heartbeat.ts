/** Which sockets still have somebody at the other end: each is pinged now and then, and ended when nothing comes back. */
import type { Socket } from 'node:net'
import type { WebSocket } from 'ws'

export interface Heartbeat {
  /** Watches a socket until `forget`. */
  watch(ws: Beating, raw: Signs): void
  forget(ws: Beating): void
  stop(): void
}

type Beating = Pick<WebSocket, 'ping' | 'terminate' | 'isPaused'>
type Signs = Pick<Socket, 'bytesRead' | 'bytesWritten' | 'writableLength'>

/** Sweeps between two pings of a socket. */
const PING_AFTER = 10
/** Sweeps after an unanswered ping until the socket is ended. */
const ENDED_AFTER = 13

interface Pulse {
  raw: Signs
  pingedIn: number
  isAwaited: boolean
  /** What `signOf` was when the ping left. */
  sign: number
}

/**
 * Time is counted in sweeps, not read from a clock: a process that was stopped for minutes makes one sweep when it goes on, and the
 * answers that came meanwhile are read before the next.
 * @param pingEveryMs between two pings of a socket; it is ended a quarter longer than that after one that brought nothing back
 */
export function startHeartbeat(pingEveryMs: number): Heartbeat {
  const pulses = new Map<Beating, Pulse>()
  let sweep = 0

  function look(): void {
    sweep += 1
    for (const [ws, pulse] of pulses) {
      // Whatever comes is as good as a pong.
      if (pulse.isAwaited && signOf(ws, pulse.raw) !== pulse.sign) pulse.isAwaited = false
      const since = sweep - pulse.pingedIn
      if (pulse.isAwaited) {
        if (since >= ENDED_AFTER) ws.terminate()
      } else if (since >= PING_AFTER) {
        pulse.pingedIn = sweep
        pulse.isAwaited = true
        pulse.sign = signOf(ws, pulse.raw)
        ws.ping()
      }
    }
  }

  const timer = setInterval(look, pingEveryMs / PING_AFTER)
  timer.unref()
  return {
    watch: (ws, raw) => void pulses.set(ws, { raw, pingedIn: sweep, isAwaited: false, sign: 0 }),
    forget: (ws) => void pulses.delete(ws),
    stop: () => clearInterval(timer),
  }
}

/** Changes with every sign of life. While the gateway itself does not read, what the peer takes is the only one there is. */
const signOf = (ws: Beating, raw: Signs): number =>
  ws.isPaused ? raw.bytesWritten - raw.writableLength : raw.bytesRead

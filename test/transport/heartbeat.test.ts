import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { startHeartbeat } from '../../src/transport/heartbeat.ts'

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

const PING_MS = 20_000
/** A ping may be due for as long as this, and its answer a quarter longer. */
const LONGEST_MS = 50_000

/** A socket of which a test says what happens at the other end. */
function open() {
  const heartbeat = startHeartbeat(PING_MS)
  const raw = { bytesRead: 0, bytesWritten: 0, writableLength: 0 }
  const ws = { ping: vi.fn(), terminate: vi.fn(() => heartbeat.forget(ws)), isPaused: false }
  heartbeat.watch(ws, raw)
  return { heartbeat, raw, ws }
}

describe('a socket', () => {
  it('is pinged every so often, and stays while anything comes back', () => {
    const { ws, raw } = open()
    ws.ping.mockImplementation(() => {
      raw.bytesRead += 6
    })
    vi.advanceTimersByTime(60 * PING_MS)
    expect(ws.ping).toHaveBeenCalledTimes(60)
    expect(ws.terminate).not.toHaveBeenCalled()
  })

  it('stays while its peer speaks, though no pong comes', () => {
    const { ws, raw } = open()
    for (let n = 0; n < 20; n++) {
      raw.bytesRead += 100
      vi.advanceTimersByTime(PING_MS)
    }
    expect(ws.terminate).not.toHaveBeenCalled()
  })

  it('is ended when nothing comes back, a quarter longer than the interval after the ping and not sooner', () => {
    const { ws } = open()
    vi.advanceTimersByTime(PING_MS)
    expect(ws.ping).toHaveBeenCalledOnce()
    vi.advanceTimersByTime(1.25 * PING_MS)
    expect(ws.terminate).not.toHaveBeenCalled()
    vi.advanceTimersByTime(LONGEST_MS - 2.25 * PING_MS)
    expect(ws.terminate).toHaveBeenCalledOnce()
    expect(ws.ping).toHaveBeenCalledOnce()
  })

  it('is not ended because the gateway itself was stopped for a while', () => {
    const { ws, raw } = open()
    vi.advanceTimersByTime(PING_MS)
    // Stopped and continued: the clock has gone on, and one sweep comes before the answer is read.
    vi.setSystemTime(Date.now() + 600_000)
    vi.advanceTimersByTime(PING_MS / 10)
    raw.bytesRead += 6
    vi.advanceTimersByTime(2 * PING_MS)
    expect(ws.terminate).not.toHaveBeenCalled()
  })

  it('that is not read stays while its peer has nothing to take or takes it, and is ended when it takes nothing', () => {
    const { ws, raw } = open()
    ws.isPaused = true
    ws.ping.mockImplementation(() => {
      raw.bytesWritten += 2
    })
    vi.advanceTimersByTime(5 * PING_MS)
    expect(ws.terminate).not.toHaveBeenCalled()
    ws.ping.mockImplementation(() => {
      raw.bytesWritten += 2
      raw.writableLength += 2
    })
    vi.advanceTimersByTime(LONGEST_MS)
    expect(ws.terminate).toHaveBeenCalledOnce()
  })

  it('is looked at no more once it is gone, nor when all is over', () => {
    const { heartbeat, ws } = open()
    heartbeat.forget(ws)
    vi.advanceTimersByTime(10 * PING_MS)
    expect(ws.ping).not.toHaveBeenCalled()
    heartbeat.stop()
    expect(vi.getTimerCount()).toBe(0)
  })
})

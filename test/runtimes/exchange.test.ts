import { expect, it, vi } from 'vitest'
import { Secret } from '../../src/config/secret.ts'
import { exchange } from '../../src/runtimes/exchange.ts'
import { model } from '../support/rooms.ts'

it('that is stopped before it has asked asks nothing, and leaves no timer that holds the process', async () => {
  vi.useFakeTimers()
  try {
    const stop = new AbortController()
    const asking = Promise.withResolvers<unknown>()
    const options = {
      model: { ...model, baseUrl: 'http://127.0.0.1:1', apiKey: new Secret('a key') },
      sink: { delta() {}, reasoning() {} },
      signal: stop.signal,
      headers: () => ({}),
    }
    const answer = exchange(options, async (wire) => {
      // As an SDK does it: it prepares for a while, then asks.
      await Promise.resolve()
      stop.abort(new Error('stopped'))
      asking.resolve(await wire.fetch('http://127.0.0.1:1/').catch((error: unknown) => error))
      throw new Error('nobody waits for this')
    })
    await expect(answer).rejects.toThrow('stopped')
    expect(await asking.promise).toMatchObject({ message: 'stopped' })
    expect(vi.getTimerCount()).toBe(0)
  } finally {
    vi.useRealTimers()
  }
})

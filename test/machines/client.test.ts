/** How a client keeps its connection: when it tries again, when it gives up, and when it takes the other side for dead. */
import { describe, expect, test } from 'vitest'
import { clientMachine } from '../../machines/client.ts'
import { BACKOFF } from './plans.ts'
import { type Rig, rig } from './rig.ts'

const start = (backoff: object | null = BACKOFF) => rig(clientMachine, { input: { backoff, handshakeMs: 15_000 } })
const lost = (changes: object = {}) => ({ type: 'lost', retryAfterMs: 0, jitter: 0, ...changes })

async function online(bench: Rig): Promise<Rig> {
  bench.send({ type: 'challenged', nonce: 'n' })
  await bench.resolve('greet', { admitted: true, tickIntervalMs: 1_000 })
  await bench.resolve('catchUp')
  return bench
}

/** How long it waits before it tries again, to the millisecond. */
function waits(bench: Rig): number {
  const sockets = () => bench.effects().filter((name) => name === 'openSocket').length
  const before = sockets()
  let ms = 0
  while (sockets() === before && ms < 100_000) {
    bench.wait(1)
    ms += 1
  }
  return ms
}

describe('after a cut, a client', () => {
  test('waits twice as long each time, up to a limit', () => {
    const bench = start({ ...BACKOFF, minMs: 100, maxMs: 500 })
    const waited: number[] = []
    for (let n = 0; n < 5; n += 1) {
      bench.send(lost())
      waited.push(waits(bench))
    }
    expect(waited).toEqual([50, 100, 200, 250, 250])
  })

  test('adds up to as much again by chance', () => {
    const bench = start({ ...BACKOFF, minMs: 100 })
    bench.send(lost({ jitter: 0.5 }))
    expect(waits(bench)).toBe(75)
  })

  test('comes no sooner than the gateway asked, nor all at that moment', () => {
    const bench = start({ ...BACKOFF, minMs: 100 })
    bench.send(lost({ retryAfterMs: 3_000, jitter: 0.5 }))
    expect(waits(bench)).toBe(3_075)
  })

  test('begins with short waits again once a connection has stood a while, not before', async () => {
    const bench = start({ ...BACKOFF, minMs: 100 })
    bench.send(lost())
    expect(waits(bench)).toBe(50)
    await online(bench)
    bench.send(lost())
    expect(waits(bench)).toBe(100)
    await online(bench)
    for (let n = 0; n < 10; n += 1) {
      bench.wait(500)
      bench.send({ type: 'heard' })
    }
    bench.send(lost())
    expect(waits(bench)).toBe(50)
  })

  test('tries at once when it is told that the network is back', () => {
    const bench = start()
    bench.send(lost({ retryAfterMs: 10_000 }))
    bench.send({ type: 'retry' })
    expect(bench.state()).toBe('connecting.opening')
  })

  test('gives up after as many tries as it may', async () => {
    const bench = await online(start({ ...BACKOFF, attempts: 2 }))
    for (let tries = 0; tries < 2; tries += 1) {
      bench.send(lost())
      waits(bench)
    }
    bench.send(lost())
    expect(bench.state()).toBe('gone')
  })

  test('does not come again to where it never was, unless told to', () => {
    const bench = start({ ...BACKOFF, fromStart: false })
    bench.send(lost())
    expect(bench.state()).toBe('gone')
  })
})

describe('a gateway that falls silent', () => {
  test('is dropped after more than two ticks, and not while it says anything', async () => {
    const bench = await online(start())
    for (let n = 0; n < 10; n += 1) {
      bench.wait(1_900)
      bench.send({ type: 'heard' })
    }
    expect(bench.effects()).not.toContain('dropSocket')
    bench.wait(2_000)
    expect(bench.effects()).not.toContain('dropSocket')
    bench.wait(250)
    expect(bench.effects()).toContain('dropSocket')
  })

  test('is not waited for longer than a handshake may take', () => {
    const bench = start()
    bench.wait(14_999)
    expect(bench.effects()).toEqual(['openSocket'])
    bench.wait(1)
    expect(bench.effects()).toEqual(['openSocket', 'dropSocket'])
  })
})

describe('a client that is refused', () => {
  test('does not try again', async () => {
    const bench = start()
    bench.send({ type: 'challenged', nonce: 'n' })
    await bench.resolve('greet', { admitted: false })
    expect(bench.state()).toBe('refused')
  })

  test('tries again when it was only for now', async () => {
    const bench = start()
    bench.send({ type: 'challenged', nonce: 'n' })
    await bench.reject('greet', new Error('starting'))
    expect(bench.effects()).toEqual(['openSocket', 'dropSocket'])
    bench.send(lost())
    expect(bench.state()).toBe('waiting')
  })
})

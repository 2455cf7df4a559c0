/** When a tool server is begun again, and when it is left alone. */
import { describe, expect, test } from 'vitest'
import { toolServerMachine } from '../../machines/tool-server.ts'
import { POLICY } from './plans.ts'
import { rig } from './rig.ts'

const START_MS = 20_000

function begin() {
  const bench = rig(toolServerMachine, { input: { name: 's', startMs: START_MS, policy: POLICY } })
  bench.send({ type: 'begin' })
  let now = 0
  const begun = () => bench.log.filter(({ kind, name }) => kind === 'begun' && name === 'connect').length
  return {
    bench,
    begun,
    lose: (why = 'it ended') => bench.send({ type: 'lost', why }),
    clear: (jitter = 0) => bench.resolve('clear', { at: now, jitter }),
    wait(ms: number) {
      now += ms
      bench.wait(ms)
    },
    /** How long it takes until it is begun again. */
    untilBegun(most: number) {
      const before = begun()
      for (let ms = 10; ms <= most; ms += 10) {
        now += 10
        bench.wait(10)
        if (begun() > before) return ms
      }
      return undefined
    },
  }
}

/** Has it fail once more than it may. */
async function tire(server: ReturnType<typeof begin>): Promise<void> {
  for (let n = 0; n <= POLICY.restarts; n += 1) {
    server.lose()
    await server.clear()
    if (n < POLICY.restarts) server.untilBegun(10_000)
  }
}

describe('a tool server', () => {
  test('is not begun before somebody asks for it', () => {
    const bench = rig(toolServerMachine, { input: { name: 's', startMs: START_MS, policy: POLICY } })
    expect([bench.state(), bench.working]).toEqual(['away', []])
    bench.send({ type: 'stop' })
    expect(bench.state()).toBe('stopped')
  })

  test('offers its tools when it is ready, and withdraws them when it goes away', async () => {
    const { bench, lose } = begin()
    expect(bench.effects()).toEqual([])
    await bench.resolve('connect')
    expect(bench.effects()).toEqual(['offer'])
    lose('it ended with code 3')
    expect(bench.log.filter(({ kind }) => kind === 'effect').slice(1)).toMatchObject([
      { name: 'withdraw', params: { name: 's' } },
      { name: 'tellLost', params: { name: 's', why: 'it ended with code 3' } },
    ])
  })

  test('that is not ready in time is put away, and begun again', async () => {
    const server = begin()
    server.wait(START_MS)
    expect(server.bench.state()).toBe('clearing')
    expect(server.bench.log.at(-1)).toMatchObject({ kind: 'begun', name: 'clear' })
    expect(server.bench.log.find(({ name }) => name === 'tellLost')).toMatchObject({
      params: { why: 'it was not ready within 20 s' },
    })
    await server.clear()
    expect(server.untilBegun(1_000)).toBe(POLICY.backoffMs)
  })

  test('is begun again after a time that doubles, and never before the last one is put away', async () => {
    const server = begin()
    const waits: unknown[] = []
    for (let n = 0; n < POLICY.restarts; n += 1) {
      await server.bench.resolve('connect')
      server.lose()
      expect(server.untilBegun(2_000)).toBeUndefined()
      await server.clear()
      waits.push(server.untilBegun(5_000))
    }
    expect(waits).toEqual([100, 200, 400, 800, 1_600])
  })

  test('waits a random while longer, so that servers do not come back in step', async () => {
    const server = begin()
    server.lose()
    await server.clear(70)
    expect(server.untilBegun(1_000)).toBe(170)
  })

  test('that fails too often is left alone for long, and then starts afresh', async () => {
    const server = begin()
    await tire(server)
    expect(server.bench.state()).toBe('quarantined')
    expect(server.bench.log.at(-1)).toMatchObject({ name: 'quarantine', params: { name: 's', restMs: POLICY.restMs } })
    expect(server.untilBegun(100_000)).toBe(POLICY.restMs)
    server.lose()
    await server.clear()
    expect(server.untilBegun(1_000)).toBe(POLICY.backoffMs)
  })

  test('is forgiven what was longer than 30 s ago', async () => {
    const server = begin()
    for (let n = 0; n < 12; n += 1) {
      server.lose()
      await server.clear()
      expect(server.untilBegun(1_000)).toBe(POLICY.backoffMs)
      server.wait(POLICY.windowMs / 2)
      await server.bench.resolve('connect')
      server.wait(POLICY.windowMs / 2)
    }
    expect(server.bench.effects()).not.toContain('quarantine')
  })

  test('of which nobody knows what is left is left alone for long', async () => {
    const { bench, lose } = begin()
    lose()
    await bench.reject('clear', new Error('it does not end'))
    expect(bench.state()).toBe('quarantined')
  })

  test.each(['starting', 'ready', 'clearing'])('is put away before it is stopped, when it was %s', async (state) => {
    const { bench, lose, clear } = begin()
    if (state !== 'starting') await bench.resolve('connect')
    if (state === 'clearing') lose()
    expect(bench.state()).toBe(state)
    bench.send({ type: 'stop' })
    expect([bench.state(), bench.working]).toEqual(['stopping', ['clear']])
    await clear()
    expect(bench.state()).toBe('stopped')
  })

  test('is not begun again once it is stopped', async () => {
    const server = begin()
    server.lose()
    await server.clear()
    server.bench.send({ type: 'stop' })
    expect(server.bench.state()).toBe('stopped')
    expect(server.untilBegun(1_000)).toBeUndefined()
  })
})

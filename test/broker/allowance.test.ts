import { describe, expect, it } from 'vitest'
import { type Allowance, createAllowance } from '../../src/broker/allowance.ts'

const LIMITS = { requestsPerSecond: 100, burst: 200, deniedPerMinute: 50 }

function begin(limits = LIMITS) {
  let clock = 77
  const allowance = createAllowance(limits, () => clock)
  const count = (times: number, ask: (of: Allowance) => { kind: string }) => {
    const kinds: Record<string, number> = {}
    for (let n = 0; n < times; n++) {
      const { kind } = ask(allowance)
      kinds[kind] = (kinds[kind] ?? 0) + 1
    }
    return kinds
  }
  return {
    allowance,
    pass: (ms: number) => {
      clock += ms
    },
    requests: (times: number) => count(times, (it) => it.request()),
    writes: (times: number, method = 'config.set') => count(times, (it) => it.write(method)),
    denials: (times: number) => count(times, (it) => it.denied()),
  }
}

describe('requests', () => {
  it('may come 200 at once and 100 a second after that', () => {
    const { requests, pass } = begin()
    expect(requests(250)).toEqual({ yes: 200, later: 50 })
    for (let n = 0; n < 5; n++) {
      pass(1_000)
      expect(requests(120)).toEqual({ yes: 100, later: 20 })
    }
    pass(60_000)
    expect(requests(201)).toEqual({ yes: 200, later: 1 })
  })

  it('never come faster in any second than the burst and what it brings, out of a million tries', () => {
    const { allowance, pass } = begin({ ...LIMITS, requestsPerSecond: 7, burst: 11 })
    const taken: number[] = []
    let seed = 1206
    let at = 0
    for (let n = 0; n < 1_000_000; n++) {
      seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0
      const step = seed % 97 === 0 ? seed % 500 : 0
      pass(step)
      at += step
      const { kind } = allowance.request()
      if (kind === 'yes') taken.push(at)
    }
    expect(taken.length).toBeGreaterThan(1_000)
    for (let n = 18; n < taken.length; n++) expect(taken[n]! - taken[n - 18]!).toBeGreaterThanOrEqual(1_000 - 1e-6)
  })

  it('that are refused at once are told to come back one after the other, and find a turn then', () => {
    const { allowance, requests, pass } = begin()
    requests(200)
    const waits = Array.from({ length: 300 }, () => {
      const answer = allowance.request()
      return answer.kind === 'later' ? answer.retryAfterMs : 0
    })
    expect(waits).toEqual(Array.from({ length: 300 }, (_, n) => (n + 1) * 10))
    for (const _ of waits) {
      pass(10)
      expect(allowance.request().kind).toBe('yes')
    }
  })

  it('that are far too many are never told to wait for more than ten seconds', () => {
    const { allowance, requests } = begin()
    requests(200)
    const waits = Array.from({ length: 5_000 }, () => {
      const answer = allowance.request()
      return answer.kind === 'later' ? answer.retryAfterMs : 0
    })
    expect(Math.max(...waits)).toBe(10_000)
  })

  it('that go on at twice the rate for ten seconds end the connection', () => {
    const { allowance, pass, requests } = begin()
    requests(200)
    let ms = 0
    let answer = allowance.request()
    for (; ms < 60_000 && answer.kind !== 'close'; ms += 2) {
      pass(2)
      answer = allowance.request()
    }
    expect(answer).toEqual({ kind: 'close', close: 'rateLimited' })
    expect(ms).toBeGreaterThanOrEqual(10_000)
    expect(ms).toBeLessThan(12_000)
  })

  it('that are a little too many, or pause, are refused and nothing more', () => {
    const steady = begin()
    for (let n = 0; n < 20_000; n++) {
      steady.pass(7)
      expect(steady.allowance.request().kind).not.toBe('close')
    }
    const pausing = begin()
    for (let n = 0; n < 100; n++) {
      expect(pausing.requests(2_000)['close']).toBeUndefined()
      pausing.pass(2_000)
    }
  })

  it('are not counted where the limit is 0', () => {
    const { requests, writes } = begin({ requestsPerSecond: 0, burst: 0, deniedPerMinute: 0 })
    expect(requests(100_000)).toEqual({ yes: 100_000 })
    expect(writes(1_000)).toEqual({ yes: 1_000 })
  })

  it('come at the rate where the burst is less than that', () => {
    const { requests } = begin({ ...LIMITS, requestsPerSecond: 5, burst: 0 })
    expect(requests(10)).toEqual({ yes: 5, later: 5 })
  })
})

describe('writes that change the gateway', () => {
  it('may come 30 times in any minute, each method by itself', () => {
    const { writes, pass, allowance } = begin()
    expect(writes(20)).toEqual({ yes: 20 })
    pass(30_000)
    expect(writes(15)).toEqual({ yes: 10, later: 5 })
    expect(allowance.write('config.set')).toEqual({ kind: 'later', retryAfterMs: 30_000 })
    expect(writes(30, 'config.patch')).toEqual({ yes: 30 })
    pass(29_999)
    expect(writes(1)).toEqual({ later: 1 })
    pass(1)
    expect(writes(30)).toEqual({ yes: 20, later: 10 })
    pass(30_000)
    expect(writes(30)).toEqual({ yes: 10, later: 20 })
  })
})

describe('calls that were refused', () => {
  it('may be fifty in any minute; one more ends the connection', () => {
    const { denials, pass, allowance } = begin()
    expect(denials(50)).toEqual({ yes: 50 })
    pass(60_000)
    expect(denials(50)).toEqual({ yes: 50 })
    pass(59_999)
    expect(allowance.denied()).toEqual({ kind: 'close', close: 'repeatedlyDenied' })
  })

  it('are not counted where the limit is 0', () => {
    expect(begin({ ...LIMITS, deniedPerMinute: 0 }).denials(10_000)).toEqual({ yes: 10_000 })
  })
})

describe('answers under way', () => {
  const MIB = 1024 * 1024

  it('may be 8 MiB at once and 4 MiB a second after that; beyond that they wait', () => {
    const { allowance, pass } = begin()
    expect(allowance.streamed(8 * MIB)).toBe(0)
    expect(allowance.streamed(2 * MIB)).toBe(500)
    pass(500)
    expect(allowance.streamed(0)).toBe(0)
    pass(1_000)
    expect(allowance.streamed(4 * MIB)).toBe(0)
    expect(allowance.streamed(4)).toBe(1)
    pass(60_000)
    expect(allowance.streamed(8 * MIB)).toBe(0)
    expect(allowance.streamed(4 * MIB)).toBe(1_000)
  })

  it('cost no requests, and requests cost them nothing', () => {
    const { allowance, requests } = begin()
    for (let n = 0; n < 10_000; n++) expect(allowance.streamed(100)).toBe(0)
    expect(requests(201)).toEqual({ yes: 200, later: 1 })
    expect(allowance.streamed(MIB)).toBe(0)
  })

  it('are not counted where nothing is', () => {
    const { allowance } = begin({ ...LIMITS, requestsPerSecond: 0 })
    expect(allowance.streamed(1_000 * MIB)).toBe(0)
  })
})

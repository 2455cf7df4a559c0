import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { createBudget, type Lease } from '../../src/transport/budget.ts'

const LIMITS = { preauthPerIp: 32, preauthTotal: 512 }
const PROXY = '10.0.0.9'

/** A door; those who had to give way stand in `gone`, by the number they came as. */
function door(limits = LIMITS) {
  const gone: number[] = []
  let came = 0
  const budget = createBudget(limits, (address) => address === PROXY)
  return {
    gone,
    budget,
    come(address: string): Lease | undefined {
      const number = came++
      return budget.entered(address, () => void gone.push(number))
    },
    /** How many of so many find a place. */
    crowd: (count: number, address: string): number =>
      Array.from({ length: count }, () => budget.entered(address, () => {})).filter((lease) => lease !== undefined)
        .length,
  }
}

const client = (address: string, more: { isForwarded?: boolean; hasOrigin?: boolean } = {}) => ({
  address,
  isForwarded: false,
  hasOrigin: false,
  ...more,
})

describe('at the door', () => {
  it('so many of one address have a place, and the next when one of them is known or has gone', () => {
    const { come } = door()
    const leases = Array.from({ length: 32 }, () => come('203.0.113.1'))
    expect(leases.every((lease) => lease !== undefined)).toBe(true)
    expect(come('203.0.113.1')).toBeUndefined()
    expect(come('203.0.113.2')).toBeDefined()
    leases[7]!.over()
    leases[7]!.over()
    expect(come('203.0.113.1')).toBeDefined()
    expect(come('203.0.113.1')).toBeUndefined()
  })

  it('an address is one whatever way it is written, and a network of IPv6 is one', () => {
    const { crowd } = door()
    expect(crowd(16, '203.0.113.1') + crowd(16, '::ffff:203.0.113.1') + crowd(16, '::ffff:cb00:7101')).toBe(32)
    expect(crowd(16, '2001:db8::1') + crowd(16, '2001:db8::ffff:1') + crowd(16, '2001:0db8:0:0:1:2:3:4')).toBe(32)
    expect(crowd(40, '2001:db8:0:1::1')).toBe(32)
  })

  it('this machine and a listed proxy are not counted by address, only in all', () => {
    for (const address of ['127.0.0.1', '::ffff:127.0.0.1', '::1', PROXY]) {
      const { crowd, budget } = door()
      expect(crowd(600, address)).toBe(600)
      expect(budget.size).toBe(512)
    }
    expect(door().crowd(40, '127.0.0.2')).toBe(32)
  })

  it('a page on this machine is counted, however many programs of it are there', () => {
    const { come, crowd } = door()
    crowd(100, '127.0.0.1')
    const pages = Array.from({ length: 40 }, () => come('127.0.0.1')!.seenAs(client('127.0.0.1', { hasOrigin: true })))
    expect(pages.filter(Boolean)).toHaveLength(32)
    expect(come('127.0.0.1')!.seenAs(client('127.0.0.1'))).toBe(true)
    expect(come('127.0.0.1')!.seenAs(client('127.0.0.1', { isForwarded: true }))).toBe(false)
  })

  it('who comes through a proxy is counted by its own address', () => {
    const { come, budget } = door()
    const seen = (address: string, isForwarded = true) => come(PROXY)!.seenAs(client(address, { isForwarded }))
    expect(Array.from({ length: 40 }, () => seen('198.51.100.1')).filter(Boolean)).toHaveLength(32)
    expect(seen('198.51.100.2')).toBe(true)
    expect(Array.from({ length: 40 }, () => seen(PROXY, false)).every(Boolean)).toBe(true)
    expect(Array.from({ length: 40 }, () => seen(PROXY)).every(Boolean)).toBe(true)
    // Who found no place left none behind.
    expect(budget.size).toBe(32 + 1 + 80)
  })

  it('the oldest of the address that holds most gives way when there are as many as may be', () => {
    const { come, gone, budget } = door({ preauthPerIp: 0, preauthTotal: 6 })
    for (const address of ['a', 'b', 'b', 'b', 'c', 'c'].map((name) => `10.1.1.${name.charCodeAt(0)}`)) come(address)
    come('10.2.0.1')
    expect(gone).toEqual([1])
    // Two of them hold two: the one with the oldest.
    come('10.2.0.2')
    expect(gone).toEqual([1, 2])
    come('10.2.0.3')
    expect(gone).toEqual([1, 2, 4])
    // All hold one: the oldest of all.
    come('10.2.0.4')
    expect(gone).toEqual([1, 2, 4, 0])
    expect(budget.size).toBe(6)
  })

  it('whoever had to give way has no place to be seen at, and none to leave', () => {
    const { come, gone, budget } = door({ preauthPerIp: 0, preauthTotal: 1 })
    const first = come('10.1.1.1')!
    come('10.1.1.2')
    expect(gone).toEqual([0])
    expect(first.seenAs(client('10.1.1.1'))).toBe(false)
    expect(first.seenAs(client('10.1.1.3', { isForwarded: true }))).toBe(false)
    first.over()
    expect(budget.size).toBe(1)
  })

  it('a flood from fifty addresses leaves a place for somebody else', () => {
    const { come, gone } = door()
    const flood = Array.from({ length: 10_000 }, (_, n) => come(`127.0.1.${n % 50}`))
    expect(flood.filter((lease) => lease !== undefined).length).toBeGreaterThanOrEqual(512)
    const before = gone.length
    const honest = 10_000
    expect(come('203.0.113.1')).toBeDefined()
    for (let n = 0; n < 1_000; n++) come(`127.0.1.${n % 50}`)
    expect(gone.length).toBeGreaterThan(before)
    expect(gone).not.toContain(honest)
  })

  it('there is no limit where it is 0', () => {
    const { crowd, budget } = door({ preauthPerIp: 0, preauthTotal: 0 })
    expect(crowd(2_000, '203.0.113.1')).toBe(2_000)
    expect(budget.size).toBe(2_000)
  })

  it('the count is that of those who are there, whatever happens', () => {
    const step = fc.record({ what: fc.constantFrom('come', 'seen', 'over'), who: fc.nat(11), which: fc.nat(60) })
    const address = (who: number) => (who === 0 ? PROXY : who === 1 ? '127.0.0.1' : `10.1.0.${who}`)
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const there = new Map<number, { lease: Lease; group: string; order: number }>()
        const budget = createBudget({ preauthPerIp: 3, preauthTotal: 12 }, (it) => it === PROXY)
        const free = (group: string) => group === PROXY || group === '127.0.0.1'
        const held = (group: string) => [...there.values()].filter((it) => it.group === group)
        for (const [number, { what, who, which }] of steps.entries()) {
          const group = address(who)
          const [key, it] = [...there][which % Math.max(there.size, 1)] ?? []
          if (what === 'come') {
            const isRefused = !free(group) && held(group).length >= 3
            const most = Math.max(...[...there.values()].map((one) => held(one.group).length), 0)
            let left: number | undefined
            const lease = budget.entered(group, () => {
              left = number
            })
            expect(lease === undefined).toBe(isRefused)
            if (!lease) continue
            there.set(number, { lease, group, order: number })
            expect(left).toBeUndefined()
            if (there.size > 12) {
              // One of the fullest has gone; the model finds which by asking each of them where it is.
              const [lost, ...more] = [...there].filter(
                ([, one]) => one.order !== number && !isThere(one.lease, one.group),
              )
              expect(more).toEqual([])
              expect(held(lost![1].group).filter((one) => one.order !== number)).toHaveLength(most)
              there.delete(lost![0])
            }
          } else if (it && what === 'over') {
            it.lease.over()
            there.delete(key!)
          } else if (it && it.group === PROXY && !free(group)) {
            const isRefused = held(group).length >= 3
            expect(it.lease.seenAs(client(group, { isForwarded: true }))).toBe(!isRefused)
            if (isRefused) there.delete(key!)
            else it.group = group
          }
          expect(budget.size).toBe(there.size)
        }
      }),
      { seed: 1206, numRuns: 300 },
    )
  })
})

const isThere = (lease: Lease, group: string): boolean => lease.seenAs(client(group))

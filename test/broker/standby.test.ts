import { describe, expect, it } from 'vitest'
import { createStandby } from '../../src/broker/standby.ts'
import { quiet } from '../support/rooms.ts'

const agent = (id: string, failoverFor: string[] = []) => ({
  id,
  name: id,
  models: [],
  thinking: 'off' as const,
  failoverFor,
})

function open(agents = [agent('main'), agent('ops', ['main']), agent('aide', ['main'])]) {
  const away = new Set<string>()
  const standby = createStandby({
    agents: { list: () => agents },
    everyMs: 1_000,
    misses: 3,
    isReachable: (id) => !away.has(id),
    log: quiet,
  })
  const check = async (times: number) => {
    for (let n = 0; n < times; n += 1) await standby.check()
    // Events reach an actor in a microtask of their own.
    await new Promise((resolve) => setImmediate(resolve))
  }
  return { standby, away, check }
}

describe('an agent that others stand in for', () => {
  it('is replaced by the first of them after three missed checks, and answers for itself after one that it passes', async () => {
    const { standby, away, check } = open()
    away.add('main')
    await check(2)
    expect(standby.standInFor('main')).toBeUndefined()
    await check(1)
    expect(standby.standInFor('main')).toBe('ops')
    expect(standby.standingInFor('ops')).toEqual(['main'])
    away.delete('main')
    await check(1)
    expect(standby.standInFor('main')).toBeUndefined()
    expect(standby.standingInFor('ops')).toEqual([])
  })

  it('is not replaced when a check in between is passed', async () => {
    const { standby, away, check } = open()
    away.add('main')
    await check(2)
    away.delete('main')
    await check(1)
    away.add('main')
    await check(2)
    expect(standby.standInFor('main')).toBeUndefined()
  })

  it('is replaced by the next one where the first cannot be reached either, and by nobody where none can', async () => {
    const { standby, away, check } = open()
    for (const id of ['main', 'ops']) away.add(id)
    await check(3)
    expect(standby.standInFor('main')).toBe('aide')
    away.add('aide')
    await check(1)
    expect(standby.standInFor('main')).toBeUndefined()
  })

  it('misses a check when what answers for it failed last', async () => {
    const { standby, check } = open()
    for (let n = 0; n < 3; n += 1) {
      standby.asked('main', false)
      await check(1)
    }
    expect(standby.standInFor('main')).toBe('ops')
    const other = open()
    for (let n = 0; n < 3; n += 1) {
      other.standby.asked('main', false)
      other.standby.asked('main', true)
      await other.check(1)
    }
    expect(other.standby.standInFor('main')).toBeUndefined()
  })

  it('misses one check for one failure, though it is away meanwhile', async () => {
    const { standby, away, check } = open()
    standby.asked('main', false)
    away.add('main')
    await check(3)
    expect(standby.standInFor('main')).toBe('ops')
    away.delete('main')
    await check(1)
    expect(standby.standInFor('main')).toBeUndefined()
  })

  it('is replaced again at once by a failure soon after it was handed back, and not by one later', async () => {
    const { standby, away, check } = open()
    const replaceAndHandBack = async () => {
      away.add('main')
      await check(3)
      away.delete('main')
      await check(1)
      expect(standby.standInFor('main')).toBeUndefined()
    }
    await replaceAndHandBack()
    await check(2)
    standby.asked('main', false)
    await check(0)
    expect(standby.standInFor('main')).toBe('ops')
    // It was replaced for that failure: the next check is not missed for it once more.
    await check(1)
    expect(standby.standInFor('main')).toBeUndefined()
    await check(3)
    standby.asked('main', false)
    await check(1)
    expect(standby.standInFor('main')).toBeUndefined()
  })

  it('is not there while it is replaced, nor when its last check says so', async () => {
    const { standby, away, check } = open()
    expect(['main', 'ops', 'nobody'].map(standby.isThere)).toEqual([undefined, undefined, undefined])
    away.add('ops')
    await check(1)
    expect(['main', 'ops', 'nobody'].map(standby.isThere)).toEqual([true, false, undefined])
    for (let n = 0; n < 3; n += 1) {
      standby.asked('main', false)
      await check(1)
    }
    expect(standby.isThere('main')).toBe(false)
  })

  it('never stands in for itself, nor for somebody who is no agent', async () => {
    const { standby, away, check } = open([agent('main', ['main', 'nobody'])])
    away.add('main')
    await check(3)
    expect(standby.standInFor('main')).toBeUndefined()
  })
})

/** When a job is carried out, and what must be on disk before. */
import { describe, expect, test } from 'vitest'
import { scheduleMachine } from '../../machines/schedule.ts'
import { rig } from './rig.ts'

const INPUT = { jobId: 'j', longestMs: 60_000, retryMs: 1_000, isOpen: false }

function begin(changes: Partial<typeof INPUT> = {}) {
  const bench = rig(scheduleMachine, { input: { ...INPUT, ...changes } })
  bench.send({ type: 'begin' })
  return bench
}

describe('a job', () => {
  test('waits for its time, is written down, carried out, and waits again', async () => {
    const bench = begin()
    await bench.resolve('look', { waitMs: 20_000 })
    expect([bench.state(), bench.working]).toEqual(['waiting', []])
    bench.wait(20_000)
    await bench.resolve('look', { waitMs: 0 })
    await bench.resolve('place')
    expect([bench.state(), bench.working]).toEqual(['firing', ['journalFiring']])
    await bench.resolve('journalFiring', { fired: 'open' })
    expect([bench.state(), bench.working]).toEqual(['running', ['carryOut']])
    await bench.resolve('carryOut')
    await bench.resolve('journalEnd', { isLast: false })
    expect([bench.state(), bench.working]).toEqual(['looking', ['look']])
  })

  test('whose time is years away looks again each minute: the clock may be set', async () => {
    const bench = begin()
    await bench.resolve('look', { waitMs: 1e12 })
    bench.wait(59_999)
    expect(bench.state()).toBe('waiting')
    bench.wait(1)
    expect(bench.state()).toBe('looking')
  })

  test('that is disabled waits for nothing, and looks again when it is changed', async () => {
    const bench = begin()
    await bench.resolve('look', { waitMs: null })
    bench.wait(1e9)
    expect([bench.state(), bench.working]).toEqual(['idle', []])
    bench.send({ type: 'change' })
    expect(bench.state()).toBe('looking')
  })

  test.each(['idle', 'waiting', 'looking'])(
    'is carried out when somebody wants it, although it was %s',
    async (state) => {
      const bench = begin()
      if (state !== 'looking') await bench.resolve('look', { waitMs: state === 'idle' ? null : 9_000 })
      bench.send({ type: 'force' })
      await bench.resolve('place')
      expect(bench.log.at(-1)).toMatchObject({ name: 'journalFiring', params: { jobId: 'j', isForced: true } })
      await bench.resolve('journalFiring', { fired: 'open' })
      await bench.resolve('carryOut')
      await bench.resolve('journalEnd', { isLast: false })
      await bench.resolve('look', { waitMs: 0 })
      await bench.resolve('place')
      expect(bench.log.at(-1)).toMatchObject({ name: 'journalFiring', params: { isForced: false } })
    },
  )

  test('that a former process left under way is carried out to its end first', async () => {
    const bench = begin({ isOpen: true })
    expect([bench.state(), bench.working]).toEqual(['running', ['carryOut']])
    await bench.resolve('carryOut')
    await bench.resolve('journalEnd', { isLast: false })
    expect(bench.log.filter(({ name }) => name === 'journalFiring')).toEqual([])
    expect(bench.state()).toBe('looking')
  })

  test('is not carried out before the disk has it, however often that refuses', async () => {
    const bench = begin()
    await bench.resolve('look', { waitMs: 0 })
    for (let n = 0; n < 3; n += 1) {
      await bench.resolve('place')
      await bench.reject('journalFiring', new Error('full'))
      expect(bench.state()).toBe('unfired')
      bench.wait(1_000)
      expect(bench.state()).toBe('due')
    }
    expect(bench.effects()).toEqual(['storageFailed', 'storageFailed', 'storageFailed'])
  })

  test('tries to write down how it ended until that is done', async () => {
    const bench = begin({ isOpen: true })
    await bench.resolve('carryOut')
    await bench.reject('journalEnd', new Error('full'))
    expect(bench.state()).toBe('unsettled')
    bench.wait(1_000)
    await bench.resolve('journalEnd', { isLast: true })
    expect(bench.state()).toBe('ended')
  })

  test('whose time was taken back while it waited for room is not carried out', async () => {
    const bench = begin()
    await bench.resolve('look', { waitMs: 0 })
    bench.send({ type: 'change' })
    await bench.resolve('place')
    await bench.resolve('journalFiring', { fired: 'refused' })
    expect(bench.state()).toBe('looking')
  })

  test('that is removed is over, wherever it was', async () => {
    for (const isOpen of [true, false]) {
      const bench = begin({ isOpen })
      bench.send({ type: 'remove' })
      expect([bench.state(), bench.snapshot.status]).toEqual(['removed', 'done'])
    }
  })
})

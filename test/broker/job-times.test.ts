/** When a job is due next. */
import { describe, expect, it } from 'vitest'
import { awaitedTime, firstTime, nextTime } from '../../src/broker/job-times.ts'
import type { CronJob } from '../../src/contract/cron.ts'
import { cronJob } from '../support/job.ts'

const NOW = Date.parse('2026-05-01T10:00:30Z')
const SECOND = 1_000
const MINUTE = 60_000
const HOUR = 60 * MINUTE

const job = (schedule: CronJob['schedule'], state: CronJob['state'] = {}) => cronJob('j', { schedule, state })
const failed = (schedule: CronJob['schedule'], consecutiveErrors: number) => job(schedule, { consecutiveErrors })

describe('a job', () => {
  it('that is due again and again is due at whole intervals from its anchor', () => {
    const every = job({ kind: 'every', everyMs: HOUR, anchorMs: NOW - 90 * MINUTE })
    expect(firstTime(every, NOW)).toBe(NOW + 30 * MINUTE)
    expect(nextTime(every, NOW + 30 * MINUTE)).toBe(NOW + 90 * MINUTE)
    expect(firstTime(job({ kind: 'every', everyMs: HOUR, anchorMs: NOW + 5 }), NOW)).toBe(NOW + 5)
  })

  it('that is due by the clock is due at its next minute, or second', () => {
    expect(firstTime(job({ kind: 'cron', expr: '* * * * *', tz: 'UTC' }), NOW)).toBe(NOW + 30 * SECOND)
    expect(firstTime(job({ kind: 'cron', expr: '*/10 * * * * *', tz: 'UTC' }), NOW)).toBe(NOW + 10 * SECOND)
  })

  it.each([
    ['2026-05-01T11:00:00Z', HOUR - 30 * SECOND],
    ['2026-05-01T11:00:00', HOUR - 30 * SECOND],
    ['2026-05-01T13:00:00+02:00', HOUR - 30 * SECOND],
    [String(NOW + 5), 5],
    ['2026-05-02', 14 * HOUR - 30 * SECOND],
  ])('that is due at %s is due then', (at, ms) => {
    expect(firstTime(job({ kind: 'at', at }), NOW)).toBe(NOW + ms)
  })

  it.each([
    [
      'is skipped, comes once that day, when the clock has gone on',
      '2026-03-28T12:00:00Z',
      '2026-03-29T01:00:00Z',
      '2026-03-30T00:30:00Z',
    ],
    [
      'comes twice, comes once that day, the first time',
      '2026-10-24T12:00:00Z',
      '2026-10-25T00:30:00Z',
      '2026-10-26T01:30:00Z',
    ],
  ])('at an hour of the clock that %s', (_, before, first, second) => {
    const night = job({ kind: 'cron', expr: '30 2 * * *', tz: 'Europe/Berlin' })
    const time = firstTime(night, Date.parse(before))
    expect(time).toBe(Date.parse(first))
    expect(nextTime(night, time + SECOND)).toBe(Date.parse(second))
  })

  it('that comes each hour comes in both of an hour that the clock shows twice', () => {
    const hourly = job({ kind: 'cron', expr: '0 * * * *', tz: 'Europe/Berlin' })
    const times = [Date.parse('2026-10-24T23:30:00Z')]
    for (let n = 0; n < 4; n++) times.push(nextTime(hourly, times.at(-1)!)!)
    expect(times.slice(1)).toEqual([0, 1, 2, 3].map((n) => Date.parse('2026-10-25T00:00:00Z') + n * HOUR))
  })

  it('that is due each second has a second of pause', () => {
    expect(nextTime(job({ kind: 'cron', expr: '* * * * * *', tz: 'UTC' }), NOW + 1)).toBe(NOW + SECOND + 1)
  })

  it('whose next time is beyond the last moment has none', () => {
    const most = 8_640_000_000_000_000
    const seldom = job({ kind: 'every', everyMs: most, anchorMs: NOW + HOUR })
    expect(firstTime(seldom, NOW)).toBe(NOW + HOUR)
    expect(nextTime(seldom, NOW + HOUR)).toBeUndefined()
  })

  it('that was made while the clock was wrong does not wait for that time', () => {
    const at = NOW + 50 * 365 * 24 * HOUR
    const made = { ...job({ kind: 'every', everyMs: HOUR, anchorMs: at }, { nextRunAtMs: at + HOUR }), updatedAtMs: at }
    const time = awaitedTime(made, NOW)!
    expect(time - NOW).toBeLessThanOrEqual(HOUR)
  })

  it('has at least a second of pause', () => {
    expect(nextTime(job({ kind: 'every', everyMs: 1, anchorMs: 0 }), NOW)).toBe(NOW + SECOND)
  })

  it('rests longer after each failure, for an hour at the most', () => {
    const rests = [1, 2, 3, 4, 5, 6].map(
      (errors) => nextTime(failed({ kind: 'every', everyMs: 1, anchorMs: 0 }, errors), NOW)! - NOW,
    )
    expect(rests).toEqual([30 * SECOND, MINUTE, 5 * MINUTE, 15 * MINUTE, HOUR, HOUR])
  })

  it('that comes seldom does not come sooner because it failed', () => {
    expect(nextTime(failed({ kind: 'every', everyMs: 24 * HOUR, anchorMs: NOW }, 3), NOW)).toBe(NOW + 24 * HOUR)
  })

  it('that was due once is tried three times more when it fails, and has no next time when it went well', () => {
    const once = { kind: 'at', at: '2026-05-01T10:00:00Z' } as const
    expect(nextTime(job(once), NOW)).toBeUndefined()
    expect([1, 2, 3, 4].map((errors) => nextTime(failed(once, errors), NOW) !== undefined)).toEqual([
      true,
      true,
      true,
      false,
    ])
  })

  it('does not wait for a time that only a clock that was wrong has seen', () => {
    const schedule = { kind: 'every', everyMs: HOUR, anchorMs: NOW } as const
    expect(awaitedTime(job(schedule, { nextRunAtMs: NOW + 1_000 * HOUR }), NOW)).toBe(NOW + HOUR)
    // This far away it may be by resting.
    expect(awaitedTime(job(schedule, { nextRunAtMs: NOW + 2 * HOUR }), NOW)).toBe(NOW + 2 * HOUR)
    // Nor is what was missed passed over.
    expect(awaitedTime(job(schedule, { nextRunAtMs: NOW - HOUR }), NOW)).toBe(NOW - HOUR)
  })
})

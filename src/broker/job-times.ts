/** When a job is due. */
import { Cron } from 'croner'
import type { CronJob } from '../contract/cron.ts'
import { GatewayError } from '../contract/errors.ts'

/** Between the end of a job and its next time, in ms, at the least. */
const SHORTEST_GAP_MS = 1_000
/** After so many failures one behind the other it rests so long, in ms; after more, as long as after the last of these. */
const RESTS_MS = [30_000, 60_000, 5 * 60_000, 15 * 60_000, 60 * 60_000]
const LONGEST_REST_MS = RESTS_MS.at(-1)!
/** How often what is due once is tried. */
const MOST_TRIES = 4
/** What is due once may have been due so long ago, in ms, when it is asked for. */
const MOST_LATE_MS = 60_000

/** The last moment that a clock shows, in wall-clock ms. */
const LAST_MOMENT = 8.64e15

/** When a job is due once, in wall-clock ms; NaN when that is no moment. Without a zone it is UTC. */
function momentOf(at: string): number {
  const text = at.trim()
  if (/^\d+$/.test(text)) return Number(text)
  if (/^\d{4}-\d\d-\d\d$/.test(text)) return Date.parse(`${text}T00:00:00Z`)
  return Date.parse(/(?:Z|[+-]\d\d:?\d\d)$/i.test(text) ? text : `${text}Z`)
}

/** The first time after a moment at which a job is due by its schedule; undefined when there is none. */
function timeAfter({ schedule, createdAtMs, updatedAtMs }: CronJob, after: number) {
  switch (schedule.kind) {
    case 'at':
      return momentOf(schedule.at)
    case 'every': {
      const { everyMs, anchorMs = createdAtMs } = schedule
      // An anchor ahead of the clock is where it begins, unless it was set by a clock that has been set back since.
      if (after < anchorMs && updatedAtMs < anchorMs) return anchorMs
      return anchorMs + (Math.floor((after - anchorMs) / everyMs) + 1) * everyMs
    }
    case 'cron': {
      const timezone = schedule.tz?.trim()
      return new Cron(schedule.expr, timezone ? { timezone } : {}).nextRun(new Date(after))?.getTime()
    }
  }
}

/**
 * The first time of a job that is new, or has other times now.
 * @throws GatewayError INVALID_JOB when it has none, or the one it has is over
 */
export function firstTime(job: CronJob, now: number): number {
  const { schedule } = job
  const invalid = (why: string, key = '') => new GatewayError('INVALID_JOB', `schedule${key}: ${why}`)
  let time: number | undefined
  try {
    time = timeAfter(job, now)
  } catch (error) {
    const { message } = error as Error
    if (schedule.kind === 'cron' && /timezone/i.test(message))
      throw invalid(`no timezone is called ${JSON.stringify(schedule.tz?.slice(0, 60))}; Europe/Berlin is one`, '.tz')
    throw invalid(message.slice(0, 200), '.expr')
  }
  if (time === undefined) throw invalid('its time never comes')
  if (!Number.isFinite(time) || Math.abs(time) > LAST_MOMENT)
    throw invalid(`this is no moment that a clock shows${EXAMPLE[schedule.kind] ?? ''}`)
  if (schedule.kind === 'at' && time < now - MOST_LATE_MS) throw invalid('its time is over')
  return time
}

/** How a moment is written. */
const EXAMPLE: { [kind: string]: string } = { at: '; at is one such as 2030-01-31T09:00:00Z, or ms since 1970' }

/** The next time of a job after one that has ended, or was missed, as its state tells; undefined when there is none. */
export function nextTime(job: CronJob, endedAt: number): number | undefined {
  const { schedule, state } = job
  const errors = state.consecutiveErrors ?? 0
  const rest = errors > 0 ? RESTS_MS[Math.min(errors, RESTS_MS.length) - 1]! : SHORTEST_GAP_MS
  if (schedule.kind === 'at') return errors > 0 && errors < MOST_TRIES ? endedAt + rest : undefined
  const time = timeAfter(job, endedAt)
  return time === undefined || time > LAST_MOMENT ? undefined : Math.max(time, endedAt + rest)
}

/**
 * The time that a job is waiting for; undefined when there is none. Where the clock has been set back, that is farther away than any it could wait for: then it is
 * the next one by the present clock.
 */
export function awaitedTime(job: CronJob, now: number): number | undefined {
  const { nextRunAtMs } = job.state
  if (job.schedule.kind === 'at') return nextRunAtMs
  const time = timeAfter(job, now)
  // It was under way, and how that ended is not known any more.
  if (nextRunAtMs === undefined) return time
  return time !== undefined && nextRunAtMs > time + LONGEST_REST_MS ? time : nextRunAtMs
}

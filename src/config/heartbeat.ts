/** When and how an agent is asked whether something needs attention. */
import type { HeartbeatConfig } from './config.ts'
import type { Findings } from './findings.ts'
import { type ConfigFile, defaults } from './schema.ts'

type HeartbeatFile = NonNullable<NonNullable<NonNullable<ConfigFile['agents']>['defaults']>['heartbeat']>

const UNITS: { [unit: string]: number } = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }
/** Shorter, it would be asked without a pause. */
const SHORTEST_MS = 1_000

/** @param at what is read, for the words about what is wrong with it */
export function readHeartbeat(
  { every = '0m', prompt, model, activeHours, ackMaxChars = defaults.ackMaxChars }: HeartbeatFile,
  at: string,
  { findings }: { findings: Findings },
): HeartbeatConfig {
  const hours = activeHours && readHours(activeHours, at, findings)
  return {
    every,
    everyMs: readDuration(every, at, findings),
    ackMaxChars,
    ...(prompt?.trim() && { prompt: prompt.trim() }),
    ...(model !== undefined && { model }),
    ...(hours && { activeHours: hours }),
  }
}

function readDuration(text: string, at: string, findings: Findings): number {
  const [, number, unit = 'm'] = /^\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*$/i.exec(text) ?? []
  if (number === undefined) {
    findings.problems.push(`${at}.every: must be a duration such as 30m, got ${JSON.stringify(text.slice(0, 40))}`)
    return 0
  }
  const ms = Math.floor(Number(number) * UNITS[unit.toLowerCase()]!)
  return ms === 0 ? 0 : Math.max(ms, SHORTEST_MS)
}

function readHours(
  { start = '00:00', end = '24:00', timezone }: NonNullable<HeartbeatFile['activeHours']>,
  at: string,
  findings: Findings,
): HeartbeatConfig['activeHours'] {
  const [from, to] = [readMinute(start), readMinute(end)]
  if (from === undefined || to === undefined) {
    findings.problems.push(`${at}.activeHours: start and end must be HH:MM, from 00:00 to 24:00`)
    return undefined
  }
  if (timezone !== undefined && !isTimeZone(timezone)) {
    findings.problems.push(
      `${at}.activeHours.timezone: no time zone is called ${JSON.stringify(timezone.slice(0, 60))}`,
    )
    return undefined
  }
  if (from === to) findings.warnings.push(`${at}.activeHours: start is end, so that no heartbeat comes by itself`)
  return { from, to, ...(timezone !== undefined && { timezone }) }
}

/** Minutes since midnight. */
function readMinute(text: string): number | undefined {
  const [, hours, minutes] = /^(\d{1,2}):(\d\d)$/.exec(text.trim()) ?? []
  const minute = Number(hours) * 60 + Number(minutes)
  return Number(minutes) < 60 && minute <= 24 * 60 ? minute : undefined
}

function isTimeZone(name: string): boolean {
  try {
    new Intl.DateTimeFormat('en', { timeZone: name })
    return true
  } catch {
    return false
  }
}

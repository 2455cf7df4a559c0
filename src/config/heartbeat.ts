/** When and how an agent is asked whether something needs attention. */
import type { HeartbeatConfig } from './config.ts'
import type { Findings } from './findings.ts'
import { type ConfigFile, defaults } from './schema.ts'

type HeartbeatFile = NonNullable<NonNullable<NonNullable<ConfigFile['agents']>['defaults']>['heartbeat']>

const UNITS: { [unit: string]: number } = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }
/** Shorter, it would be asked without a pause. */
const SHORTEST_MS = 1_000

/** @param at where a key of it stands in the file: of the agent, or of all; what is wrong with the latter is told once */
export function readHeartbeat(
  { every = '0m', prompt, model, activeHours, ackMaxChars = defaults.ackMaxChars }: HeartbeatFile,
  at: (key: 'every' | 'activeHours') => string,
  { findings }: { findings: Findings },
): HeartbeatConfig {
  const hours = activeHours && readHours(activeHours, at('activeHours'), findings)
  return {
    every,
    everyMs: readDuration(every, at('every'), findings),
    ackMaxChars,
    ...(prompt?.trim() && { prompt: prompt.trim() }),
    ...(model !== undefined && { model }),
    ...(hours && { activeHours: hours }),
  }
}

function readDuration(text: string, at: string, findings: Findings): number {
  const [, number, unit = 'm'] = /^\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*$/i.exec(text) ?? []
  if (number === undefined) {
    tell(findings.problems, `${at}: must be a duration such as 30m, got ${quoted(text)}`)
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
  for (const [key, text, minute] of [['start', start, from] as const, ['end', end, to] as const])
    if (minute === undefined)
      tell(findings.problems, `${at}.${key}: must be HH:MM, from 00:00 to 24:00, got ${quoted(text)}`)
  const isZone = timezone === undefined || isTimeZone(timezone)
  if (!isZone) tell(findings.problems, `${at}.timezone: no time zone is called ${quoted(timezone)}`)
  if (from === undefined || to === undefined || !isZone) return undefined
  if (from === to) tell(findings.warnings, `${at}: start is end, so that no heartbeat comes by itself`)
  return { from, to, ...(timezone !== undefined && { timezone }) }
}

/** What stands in the defaults is read for every agent, and told once. */
function tell(lines: string[], line: string): void {
  if (!lines.includes(line)) lines.push(line)
}

const quoted = (text: string): string => JSON.stringify(text.slice(0, 60))

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

/** The log: JSON lines in a file, readable lines on the console. */
import { closeSync, fstatSync, mkdirSync, openSync, renameSync, writeSync } from 'node:fs'
import { dirname } from 'node:path'
import { type Logger, multistream, pino, type StreamEntry } from 'pino'
import type { Config } from './config/config.ts'

export type { Logger } from 'pino'

const NAMES: Record<number, string> = { 10: 'trace', 20: 'debug', 30: 'info', 40: 'WARN', 50: 'ERROR', 60: 'FATAL' }
/** A file that is larger is put beside, in the place of the one before it: the log takes twice this on the disk, at most. */
const LARGEST_BYTES = 64 * 1024 * 1024
const HIDDEN = new Set(['level', 'time', 'pid', 'hostname'])
/** The last instant that a date can be. */
const MOST_MS = 8.64e15

/** Makes control characters and direction marks visible: a log line is one line, whoever's text is in it. */
const visible = (text: string): string =>
  text.replace(
    /[\p{Cc}\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/gu,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )

/** One line for a person: time, level, message, details. */
export function readable(line: string): string {
  const record = JSON.parse(line) as LogRecord
  const at = new Date(Number(record.time)).toISOString().slice(11, 23)
  return `${at} ${(NAMES[Number(record.level)] ?? String(record.level)).padEnd(5)} ${wordsOf(record)}\n`
}

/**
 * The same line for clients, which look for its words in `1` and for its level and time in `_meta`. What is not of this log
 * stays as it is.
 */
export function forClients(line: string): string {
  const record = recordIn(line)
  if (record === undefined) return line
  const { level, time } = record
  const _meta = {
    date: new Date(time).toISOString(),
    logLevelName: NAMES[level]?.toUpperCase() ?? String(level),
    name: '{"subsystem":"gateway"}',
  }
  return visible(JSON.stringify({ ...record, 1: wordsOf(record), _meta }))
}

interface LogRecord {
  level: number
  /** Milliseconds since 1970. */
  time: number
  msg: string
  err?: { stack?: string }
}

function recordIn(line: string): LogRecord | undefined {
  try {
    const record = JSON.parse(line) as Partial<LogRecord> | null
    const isOurs = typeof record?.level === 'number' && typeof record.time === 'number' && record.msg !== undefined
    return isOurs && Math.abs(record.time!) <= MOST_MS ? (record as LogRecord) : undefined
  } catch {
    return undefined
  }
}

function wordsOf({ msg, err, ...rest }: LogRecord): string {
  const details = Object.entries(rest)
    .filter(([name]) => !HIDDEN.has(name))
    .map(([name, value]) => `${name}=${visible(typeof value === 'string' ? value : JSON.stringify(value))}`)
  const said = `${visible(String(msg))}${details.length > 0 ? ` (${details.join(' ')})` : ''}`
  return err?.stack ? `${said}\n${err.stack.split('\n').map(visible).join('\n')}` : said
}

export interface Logs {
  log: Logger
  /** Closes the file. */
  close(): void
  /** Why there is no file, if there is none. */
  problem: string | undefined
}

/** Opens the log. A file that cannot be written is a warning, not a reason not to start. */
export function openLog({ level, consoleLevel, file }: Config['logging']): Logs {
  const streams: StreamEntry[] = []
  let fd: number | undefined
  let problem: string | undefined
  if (level !== 'silent') {
    try {
      mkdirSync(dirname(file), { recursive: true, mode: 0o700 })
      const open = () => openSync(file, 'a', 0o600)
      fd = open()
      let size = fstatSync(fd).size
      streams.push({
        level,
        stream: {
          write: (line) => {
            try {
              if (size > LARGEST_BYTES) {
                renameSync(file, `${file}.1`)
                closeSync(fd!)
                fd = open()
                size = 0
              }
              size += writeSync(fd!, `${visible(line.trimEnd())}\n`)
            } catch {
              // A full disk must not end the gateway; the console still says what happens.
            }
          },
        },
      })
    } catch (error) {
      problem = `the log file cannot be written: ${(error as Error).message}`
    }
  }
  if (consoleLevel !== 'silent')
    streams.push({ level: consoleLevel, stream: { write: (line) => void process.stderr.write(readable(line)) } })
  const lowest = [level, consoleLevel].map((name) =>
    name === 'silent' ? Number.POSITIVE_INFINITY : pino.levels.values[name]!,
  )
  const least = Math.min(...lowest)
  const log = pino(
    { level: least === Number.POSITIVE_INFINITY ? 'silent' : pino.levels.labels[least]!, base: null },
    multistream(streams),
  )
  return { log, problem, close: () => void (fd !== undefined && closeSync(fd)) }
}

/**
 * Compares what was recorded with what came here: by shape and by meaning, not by value where a value is a moment's (ids, times,
 * counts, addresses).
 */
import type { Frame } from '../support/gateway.ts'
import type { Names } from './recording.ts'

export interface Difference {
  /** Connection, what it is part of, and the path of the member: `A chat.send 2 › payload.status`. */
  where: string
  /** `untrimmed`: the same text with the blank that the model ended with. */
  kind: 'missing' | 'extra' | 'changed' | 'untrimmed' | 'order' | 'rule'
  recorded?: unknown
  here?: unknown
}

/** Values that mean the same thing on both sides: what was recorded, and what it is here. */
export type Equivalents = Map<string, string>

/** Members whose value is a moment's: only their type is compared. */
const VOLATILE = new Set([
  ...[
    'ts',
    'startedAt',
    'endedAt',
    'timestamp',
    'acceptedAt',
    'updatedAt',
    'createdAtMs',
    'approvedAtMs',
    'connectedAtMs',
    'issuedAtMs',
    'expiresAtMs',
    'rotatedAtMs',
    'updatedAtMs',
    'anchorMs',
    'runAtMs',
    'nextRunAtMs',
    'revokedAtMs',
    'generatedAt',
    'created',
    'created_at',
  ],
  ...[
    'date',
    'durationMs',
    'uptimeMs',
    'age',
    'seq',
    'connId',
    'nonce',
    'host',
    'ip',
    'path',
    'configPath',
    'stateDir',
  ],
  ...[
    'version',
    'input',
    'output',
    'cacheRead',
    'total',
    'totalTokens',
    'inputTokens',
    'outputTokens',
    'contextTokens',
  ],
  ...[
    'deviceToken',
    'publicKey',
    'health',
    'presence',
    'count',
    'baseUrl',
    'file',
    'size',
    'remainingTokens',
    'percentUsed',
  ],
  ...['prompt_tokens', 'completion_tokens', 'total_tokens', 'input_tokens', 'output_tokens'],
])
/** Names that a gateway gives: the same where they were the same, different where they were different. */
const IDS = new Set(['sessionId', 'requestId', 'messageId', 'jobId', 'hash', 'cursor', 'item_id'])
const DEVICE = /^<DEVICE_ID_\d+>$/
const UUID = /^([a-z]+_)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/
/** Times that are said more than once of one run: then they are the same. */
const REPEATED = new Set(['startedAt', 'endedAt', 'acceptedAt'])
/** Lists of whatever there is: each element looks like one of those recorded. */
const LISTINGS = new Set(['agents', 'recent', 'byAgent'])
/** The place of a member: `A chat.send 2 › payload.status`. */
const path = (where: string, name: string | number): string => `${where}${where.includes(' › ') ? '.' : ' › '}${name}`

/** Lists in which stands, too, what was done in the recordings before. */
const KEPT = new Set(['presence', 'paired', 'pending', 'nodes'])
/** Lists of names in any order. */
const SETS = new Set(['methods', 'events'])

/** Whether a member holds a name that a gateway gave. */
export const isName = (key: string, value: unknown): boolean =>
  IDS.has(key) || (key === 'id' && UUID.test(String(value)))

const isObject = (value: unknown): value is Frame =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
const isElided = (value: unknown): boolean => typeof value === 'string' && /…<\d+ /.test(value)
const isPlaceholder = (value: unknown): boolean => typeof value === 'string' && /<[A-Z][A-Z_0-9]+>/.test(value)
const typeOf = (value: unknown): string => (value === null ? 'null' : Array.isArray(value) ? 'array' : typeof value)

/** Compares values, one after the other, and tells each difference. */
export function comparer(
  names: Pick<Names, 'runs'>,
  same: Equivalents,
  /** When the recording began, in ms since 1970: what is older was there before. */
  began: number,
  differ: (difference: Difference) => void,
): (then: unknown, now: unknown, where: string) => void {
  return (then, now, where) => shape(then, now, where, '', undefined)

  function shape(then: unknown, now: unknown, where: string, key: string, run: string | undefined): void {
    if (isElided(then)) return
    if (then === null || now === null || typeOf(then) !== typeOf(now)) {
      if (then !== now) differ({ where, kind: 'changed', recorded: then, here: now })
      return
    }
    if (isObject(then) && isObject(now)) {
      const open = '...' in then
      const about = then['runId'] ?? run
      for (const name of Object.keys(then)) {
        if (name === '...') continue
        if (name in now) shape(then[name], now[name], path(where, name), name, about)
        else differ({ where: path(where, name), kind: 'missing', recorded: then[name] })
      }
      lasts(then, now, where)
      if (open) return
      for (const name of Object.keys(now))
        if (!(name in then)) differ({ where: path(where, name), kind: 'extra', here: now[name] })
      return
    }
    if (Array.isArray(then) && Array.isArray(now)) return list(then, now, where, key, run)
    if (isName(key, then)) return identity(`${key} ${then}`, String(now), then, now, where)
    if (REPEATED.has(key)) return identity(`${key} ${run} ${then}`, String(now), then, now, where)
    if (typeof then === 'string' && DEVICE.test(then)) return identity(then, String(now), then, now, where)
    if (VOLATILE.has(key) || isPlaceholder(then)) return
    if (key === 'runId' && !names.runs.has(String(then))) return
    if (then === now) return
    const untrimmed = typeof then === 'string' && typeof now === 'string' && now.trimEnd() === then
    differ({ where, kind: untrimmed ? 'untrimmed' : 'changed', recorded: then, here: now })
  }

  /** What is open for a while is so for as long as it was. */
  function lasts(then: Frame, now: Frame, where: string): void {
    const { createdAtMs, expiresAtMs } = then
    if (createdAtMs === undefined || expiresAtMs === undefined) return
    const here = now['expiresAtMs'] - now['createdAtMs']
    if (here !== expiresAtMs - createdAtMs)
      differ({ where: path(where, 'expiresAtMs'), kind: 'changed', recorded: expiresAtMs - createdAtMs, here })
  }

  function identity(name: string, value: string, then: unknown, now: unknown, where: string): void {
    const known = same.get(name)
    if (known === undefined) same.set(name, value)
    else if (known !== value) differ({ where, kind: 'changed', recorded: then, here: `${now}, but ${known} before` })
  }

  function list(then: unknown[], now: unknown[], where: string, key: string, run: string | undefined): void {
    if (SETS.has(key)) {
      const missing = then.filter((name) => !now.includes(name) && !isElided(name))
      const extra = now.filter((name) => !then.includes(name) && !then.some(isElided))
      if (missing.length > 0) differ({ where, kind: 'missing', recorded: missing })
      if (extra.length > 0) differ({ where, kind: 'extra', here: extra })
      return
    }
    if (LISTINGS.has(key)) return listing(then, now, where)
    if (key === 'sessions') {
      // Those that other recordings left behind are not there.
      const keys = now.map((session) => (session as Frame)['key'])
      const known = then.filter((session) => keys.includes((session as Frame)['key']))
      for (const session of keys)
        if (!known.some((row) => (row as Frame)['key'] === session))
          differ({ where: path(where, session), kind: 'extra', here: session })
      const inOrder = now.filter((session) => known.some((row) => (row as Frame)['key'] === (session as Frame)['key']))
      for (const [index, row] of known.entries())
        shape(row, inOrder[index], path(where, String((row as Frame)['key'])), '', run)
      return
    }
    const isCut = isElided(then.at(-1))
    if (isCut) then = then.slice(0, -1)
    if (KEPT.has(key) || / system-presence \S+ › payload$/.test(where)) then = then.filter(isOurs)
    if (isCut ? now.length < then.length : then.length !== now.length)
      differ({ where: path(where, 'length'), kind: 'changed', recorded: then.length, here: now.length })
    for (const [index, element] of then.entries())
      if (index < now.length) shape(element, now[index], path(where, index), '', run)
  }

  /** Whether an element of a list is of this recording, and not left from one before. */
  function isOurs(element: unknown): boolean {
    if (!isObject(element)) return true
    const { ts, createdAtMs, deviceId, nodeId } = element
    const at = ts ?? createdAtMs
    const device = String(deviceId ?? nodeId)
    return (at === undefined || at >= began) && (!DEVICE.test(device) || same.has(device))
  }

  /** Each object has the members that all of those recorded have, and none that none of them has. */
  function listing(then: unknown[], now: unknown[], where: string): void {
    const known = then.filter(isObject)
    if (known.length === 0) return
    for (const element of now.filter(isObject)) {
      for (const name of Object.keys(known[0]!))
        if (known.every((one) => name in one) && !(name in element))
          differ({ where: path(where, name), kind: 'missing', recorded: known[0]![name] })
      for (const name of Object.keys(element)) {
        const example = known.find((one) => name in one)
        if (!example) differ({ where: path(where, name), kind: 'extra', here: element[name] })
        else if (isObject(example[name]) && isObject(element[name]))
          listing([example[name]], [element[name]], path(where, name))
        else if (typeOf(example[name]) !== typeOf(element[name]))
          differ({ where: path(where, name), kind: 'changed', recorded: example[name], here: element[name] })
      }
    }
  }
}

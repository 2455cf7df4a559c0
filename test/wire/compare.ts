/**
 * Compares what was recorded with what was heard here: by shape and by meaning, not by value where a value is a moment's (ids,
 * times, counts, addresses). Streams of deltas are one step each, since how many they are is a matter of time.
 */
import type { Frame } from '../support/gateway.ts'
import type { Heard, Names, Recording } from './recording.ts'

export interface Difference {
  /** Connection, what it is part of, and the path of the member: `A chat.send 2 payload.status`. */
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
    'updatedAtMs',
    'anchorMs',
    'runAtMs',
    'nextRunAtMs',
  ],
  ...['durationMs', 'uptimeMs', 'age', 'seq', 'connId', 'nonce', 'host', 'ip', 'path', 'configPath', 'stateDir'],
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
  ...['deviceToken', 'publicKey', 'presence', 'health', 'count'],
])
/** Ids that a gateway makes: the same where they were the same, different where they were different. */
const IDS = new Set(['sessionId', 'requestId', 'messageId', 'jobId'])
/** Times that are said more than once of one run: then they are the same. */
const REPEATED = new Set(['startedAt', 'endedAt', 'acceptedAt'])
/** Lists of whatever there is: each element looks like one of those recorded. */
const LISTINGS = new Set(['presence', 'agents', 'recent'])
/** Lists of names in any order. */
const SETS = new Set(['methods', 'events'])

const isObject = (value: unknown): value is Frame =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
const isElided = (value: unknown): boolean => typeof value === 'string' && /…<\d+ /.test(value)
const isPlaceholder = (value: unknown): boolean => typeof value === 'string' && /<[A-Z][A-Z_0-9]+>/.test(value)
const typeOf = (value: unknown): string => (value === null ? 'null' : Array.isArray(value) ? 'array' : typeof value)

/** Every difference of a conversation. */
export function compare(
  recording: Recording,
  names: Names,
  recorded: ReadonlyMap<string, Heard>,
  here: ReadonlyMap<string, Heard>,
  same: Equivalents,
): Difference[] {
  const differences: Difference[] = []
  const differ = (difference: Difference) => void differences.push(difference)
  for (const [conn, then] of recorded) {
    const now = here.get(conn) ?? { frames: [] }
    if (now.refused !== undefined) {
      differ({ where: `${conn} upgrade`, kind: 'changed', recorded: 101, here: now.refused })
      continue
    }
    const cut = /delta (frames|events) left out/i.test(
      recording.note + recording.entries.map(({ note }) => note).join(),
    )
    const before = partsOf(conn, then.frames, names)
    const after = partsOf(conn, now.frames, names)
    for (const [where, frame] of before) {
      const counterpart = after.get(where)
      if (counterpart === undefined) differ({ where, kind: 'missing', recorded: frame })
      else shape(frame, counterpart, where, '', undefined)
    }
    for (const [where, frame] of after) {
      if (before.has(where)) continue
      if (/ (tick|health|presence|connect\.challenge)$/.test(where)) continue
      if (cut && /(assistant|chat delta)$/.test(where)) continue
      differ({ where, kind: 'extra', here: frame })
    }
    order(conn, before, after)
    for (const here of broken(now.frames)) differ({ where: `${conn} ${here}`, kind: 'rule', here })
    if (JSON.stringify(then.close) !== JSON.stringify(now.close))
      differ({ where: `${conn} close`, kind: 'changed', recorded: then.close, here: now.close })
  }
  return differences

  /** The steps of each run, and whether an answer that names it came before or behind all of them. */
  function order(conn: string, before: Parts, after: Parts): void {
    const common = (parts: Parts, others: Parts) => [...parts.keys()].filter((where) => others.has(where))
    const then = common(before, after)
    const now = common(after, before)
    for (const run of new Set(then.flatMap((where) => runOf(where) ?? []))) {
      const steps = (parts: string[]) => parts.filter((where) => runOf(where) === run)
      if (steps(then).join() !== steps(now).join())
        differ({ where: `${conn} run ${run}`, kind: 'order', recorded: steps(then), here: steps(now) })
      let accepted = false
      for (const where of then) {
        if (!answers(before.get(where)!, run)) continue
        // A second acceptance answers a repeat, whenever that comes.
        const { status } = before.get(where)!['payload']
        if (status === 'accepted' && accepted) continue
        accepted ||= status === 'accepted'
        const side = (parts: string[]) => {
          const ahead = steps(parts.slice(0, parts.indexOf(where))).length
          return ahead === 0 ? 'before' : ahead === steps(parts).length ? 'behind' : 'between'
        }
        if (side(then) !== 'between' && side(then) !== side(now))
          differ({ where: `${conn} run ${run}`, kind: 'order', recorded: `${where} ${side(then)}`, here: side(now) })
      }
    }
  }

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
      if (open) return
      for (const name of Object.keys(now))
        if (!(name in then)) differ({ where: path(where, name), kind: 'extra', here: now[name] })
      return
    }
    if (Array.isArray(then) && Array.isArray(now)) return list(then, now, where, key, run)
    if (IDS.has(key)) return identity(`${key} ${then}`, String(now), then, now, where)
    if (key === 'id' && / node\.invoke\./.test(where)) return identity(`${key} ${then}`, String(now), then, now, where)
    if (key === 'id' && / cron\./.test(where)) return identity(`jobId ${then}`, String(now), then, now, where)
    if (REPEATED.has(key)) return identity(`${key} ${run} ${then}`, String(now), then, now, where)
    if (typeof then === 'string' && /^<DEVICE_ID_\d+>$/.test(then)) return identity(then, String(now), then, now, where)
    if (VOLATILE.has(key) || isPlaceholder(then)) return
    if (key === 'runId' && !names.runs.has(String(then))) return
    if (then === now) return
    const untrimmed = typeof then === 'string' && typeof now === 'string' && now.trimEnd() === then
    differ({ where, kind: untrimmed ? 'untrimmed' : 'changed', recorded: then, here: now })
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
    if (then.length !== now.length)
      differ({ where: path(where, 'length'), kind: 'changed', recorded: then.length, here: now.length })
    for (const [index, element] of then.entries())
      if (index < now.length) shape(element, now[index], path(where, index), '', run)
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

/** Frames of one connection by what they are, deltas gathered; in the order in which each came first. */
type Parts = Map<string, Frame>

/** The place of a member: `A chat.send 2 › payload.status`. */
const path = (where: string, name: string | number): string => `${where}${where.includes(' › ') ? '.' : ' › '}${name}`

const RUN = /^\S+ run (.+?) (?:lifecycle|assistant|chat|run_status|usage|tool|reasoning|error)\b/
const runOf = (where: string): string | undefined => RUN.exec(where)?.[1]

/** Whether an answer names a run, and was not given while it was under way: then only the pace decides when. */
const answers = ({ type, payload }: Frame, run: string): boolean =>
  type === 'res' && (payload?.runId === run || payload?.runIds?.includes(run)) && payload.status !== 'in_flight'

function partsOf(conn: string, frames: Frame[], names: Names): Parts {
  const parts: Parts = new Map()
  const unknown: string[] = []
  const add = (where: string, frame: Frame) => {
    let name = where
    for (let count = 2; parts.has(name); count++) name = `${where} #${count}`
    parts.set(name, frame)
  }
  const runName = (runId: string) => {
    if (names.runs.has(runId)) return runId
    if (runId.startsWith('inject-')) return 'inject'
    if (!unknown.includes(runId)) unknown.push(runId)
    return `unknown ${unknown.indexOf(runId) + 1}`
  }
  for (const frame of frames) {
    const { type, event, payload } = frame
    if (type === 'res') {
      add(answerName(conn, frame, names), frame)
      continue
    }
    if (event === 'cron') {
      add(`${conn} cron ${payload.action}`, frame)
      continue
    }
    if (event !== 'agent' && event !== 'chat') {
      if (!parts.has(`${conn} ${event}`)) parts.set(`${conn} ${event}`, frame)
      continue
    }
    const run = `${conn} run ${runName(payload.runId)}`
    if (payload.stream === 'assistant' || payload.state === 'delta') {
      const where = `${run} ${event === 'chat' ? 'chat delta' : 'assistant'}`
      // How far the text went is compared where it is final.
      if (!parts.has(where)) parts.set(where, withoutText(frame))
    } else if (event === 'chat') add(`${run} chat ${payload.state}${payload.phase ? ` ${payload.phase}` : ''}`, frame)
    else add(`${run} ${payload.stream}${payload.data.phase ? ` ${payload.data.phase}` : ''}`, frame)
  }
  return parts
}

function answerName(conn: string, { id }: Frame, { methods }: Names): string {
  return `${conn} ${methods.get(`${conn} ${id}`) ?? 'answer'} ${id}`
}

function withoutText(frame: Frame): Frame {
  const copy = structuredClone(frame)
  const { data, message } = copy['payload']
  if (data?.text !== undefined) data.text = ''
  if (data?.delta !== undefined) data.delta = ''
  if (copy['payload'].deltaText !== undefined) copy['payload'].deltaText = ''
  for (const part of message?.content ?? []) part.text = ''
  return copy
}

/** What must hold of everything that is heard here, whatever was recorded. */
function* broken(frames: Frame[]): Iterable<string> {
  let seq = 0
  const runs = new Map<string, { seq: number | undefined; ts: number; text: string; chat: string; ended: boolean }>()
  for (const { type, event, payload, seq: number } of frames) {
    if (type !== 'event' || event === 'connect.challenge') continue
    if (number !== ++seq) yield `event ${number} came as the ${seq}th of its connection`
    if (event !== 'agent' && event !== 'chat') continue
    const { runId } = payload
    let run = runs.get(runId)
    if (!run) {
      run = { seq: undefined, ts: 0, text: '', chat: '', ended: false }
      runs.set(runId, run)
    }
    if (run.ended) yield `something of ${runId} came after its end`
    if (event === 'agent') {
      if (run.seq !== undefined && payload.seq !== run.seq + 1) yield `hole in the numbers of ${runId}`
      run.seq = payload.seq
      if (payload.ts < run.ts) yield `time runs backwards in ${runId}`
      run.ts = payload.ts
      if (payload.stream !== 'assistant') continue
      run.text += payload.data.delta
      if (payload.data.text !== run.text) yield `the deltas of ${runId} do not add up to its text`
      continue
    }
    if (run.seq !== undefined && payload.seq !== run.seq) yield `a chat event of ${runId} has a number of its own`
    if (payload.state === 'delta') {
      const text = payload.message.content[0].text
      if (!run.text.startsWith(text)) yield `a chat delta of ${runId} is not the text so far`
      if (payload.deltaText !== undefined && run.chat + payload.deltaText !== text)
        yield `the deltaTexts of ${runId} do not add up`
      run.chat = text
      continue
    }
    run.ended = true
    if (payload.state === 'final' && run.text !== '' && payload.message?.content[0].text !== run.text)
      yield `the final text of ${runId} is not what was streamed`
  }
}

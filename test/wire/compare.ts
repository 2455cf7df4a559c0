/**
 * Compares what was recorded with what was heard here: by shape and by meaning, not by value where a value is a moment's (ids,
 * times, counts, addresses). Streams of deltas are one step each, since how many they are is a matter of time.
 */
import type { Frame } from '../support/gateway.ts'
import type { Heard, Names, Recording } from './recording.ts'
import { comparer, type Difference, type Equivalents } from './values.ts'

/** Events that come by the clock: how many of them is a matter of time. */
export const PERIODIC = new Set(['tick', 'health', 'presence', 'connect.challenge'])

/** Whether a part is such an event: `A tick`. */
const isPeriodic = (where: string): boolean => PERIODIC.has(where.slice(where.indexOf(' ') + 1))

/** When a recording began, in ms since 1970, as far as its frames tell; 0 if they do not. */
const beginning = ({ entries }: Recording): number =>
  entries.reduce((began, { t, frame }) => Math.max(began, (frame?.['payload']?.ts ?? 0) - (t ?? 0)), 0)

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
  const shape = comparer(names, same, beginning(recording), differ)
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
      else shape(frame, counterpart, where)
    }
    for (const [where, frame] of after) {
      if (before.has(where)) continue
      if (isPeriodic(where)) continue
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
    const others = (parts: string[]) => parts.filter((where) => runOf(where) === undefined && !isPeriodic(where))
    if (others(then).join() !== others(now).join())
      differ({ where: `${conn} answers and events`, kind: 'order', recorded: others(then), here: others(now) })
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
}

/** Frames of one connection by what they are, deltas gathered; in the order in which each came first. */
type Parts = Map<string, Frame>

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
      if (!PERIODIC.has(event)) add(`${conn} ${event}`, frame)
      else if (!parts.has(`${conn} ${event}`)) parts.set(`${conn} ${event}`, frame)
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

/** Whether a run was under way when this connection came. */
const hasJoined = (frames: Frame[], runId: string): boolean =>
  !frames.some(
    ({ event, payload }) =>
      event === 'agent' && payload.runId === runId && payload.stream === 'lifecycle' && payload.data.phase === 'start',
  )

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
      // Whoever came in the middle hears all of the text that there is.
      if (run.text === '' && hasJoined(frames, runId)) run.text = payload.data.text
      else run.text += payload.data.delta
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

/** Whether every message of the councillors came to one end, and every sender heard of it once: from what they wrote down, and from the file. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { answerTo, idOf, type Order } from './council-orders.ts'
import type { KeptRun, Records } from './records.ts'
import type { Tally } from './tally.ts'

export const BREACHES = [
  'lost',
  'doubled',
  'woken twice',
  'never told',
  'refused',
  'out of order',
  'answers that differ',
] as const

/** A line that a councillor wrote down. */
export type Note =
  /** It was asked for an answer; again, when the gateway began that again. */
  | { what: 'asked'; run: string; id: string }
  | { what: 'sends'; run: string; id: string }
  /** The tool's words. */
  | { what: 'told'; run: string; id: string; text: string }
  | { what: 'done'; run: string; id: string }
  /** Answers to what it had sent: those that waited together come together. */
  | { what: 'woken'; run: string; texts: string[] }

export interface Council {
  /** What each of them wrote down, in its order. */
  notes: Map<string, Note[]>
  /** Every order that was to be carried out, by its id. */
  orders: Map<string, Order>
  /** How often an order was sent by one answer, where that is more than once. */
  times: Map<string, number>
  /** Messages of which the gateway told that they are delivered. */
  delivered: Set<string>
  records: Records
  where: string
}

export const STATES = ['replied', 'failed', 'expired', 'delivered', 'started'] as const

const stateOf = ({ state, stopReason }: KeptRun): (typeof STATES)[number] => {
  if (state === 'admitted') return 'delivered'
  if (state === 'started') return 'started'
  if (state === 'completed') return 'replied'
  return stopReason === 'expired' ? 'expired' : 'failed'
}

export function notesOf(folder: string, councillor: string): Note[] {
  const file = join(folder, `${councillor}.log`)
  if (!existsSync(file)) return []
  // The last line of one that was killed may be half a line.
  return readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line.endsWith('}'))
    .map((line) => JSON.parse(line) as Note)
}

interface Told {
  status?: string
  messageId?: string
  reply?: string
}

/** What a tool said; nothing in it, when it refused. */
export function readTold(text: string): Told {
  try {
    return JSON.parse(text) as Told
  } catch {
    return {}
  }
}

export function checkCouncil(council: Council, tally: Tally): void {
  const { notes, orders, times, delivered, records, where } = council
  const { runs } = records
  const byId = new Map(runs.map((run) => [run.runId, run]))
  const messages = runs.filter(({ mail }) => mail.sent !== undefined)
  const all = [...notes.values()].flat()
  const named = ({ runId, message, state }: KeptRun) => `${idOf(message)} (${runId}, ${state}) ${where}`
  for (const problem of records.problems) tally.breach('damaged files', `${problem} ${where}`)

  countStates()
  checkAcknowledged()
  checkRefused()
  checkCopies()
  checkAnswers()
  checkOrder()

  function countStates(): void {
    tally.add('messages', messages.length)
    for (const message of messages) {
      tally.add(stateOf(message))
      if (message.endedAt === undefined) tally.breach('lost', `it has no end: ${named(message)}`)
    }
    for (const run of runs)
      if (run.mail.sent === undefined && run.endedAt === undefined) tally.breach('lost', `no end: ${named(run)}`)
  }

  /** Whatever somebody was told to be delivered is there. */
  function checkAcknowledged(): void {
    const told = all.flatMap((note) => (note.what === 'told' ? [readTold(note.text).messageId ?? []].flat() : []))
    for (const messageId of new Set([...told, ...delivered]))
      if (!byId.get(messageId)?.mail.sent)
        tally.breach('lost', `it was delivered, and is not there: ${messageId} ${where}`)
    for (const note of all)
      if (note.what === 'asked' && !byId.has(note.run)) tally.breach('lost', `somebody was asked ${note.id} ${where}`)
  }

  /** Nothing but to wait for oneself is refused: what is to be done is within all limits. */
  function checkRefused(): void {
    for (const note of all) {
      if (note.what !== 'told' || !orders.has(note.id) || readTold(note.text).messageId !== undefined) continue
      if (note.text.includes('takes no turn before that')) tally.add('waits refused')
      else tally.breach('refused', `${note.text}: ${note.id}, by ${note.run} ${where}`)
    }
  }

  /** Each letter is one message, and one run of whoever got it. */
  function checkCopies(): void {
    const sent = new Map<string, KeptRun[]>()
    for (const message of messages) {
      const id = idOf(message.message)
      sent.set(id, [...(sent.get(id) ?? []), message])
    }
    for (const [id, copies] of sent)
      if (copies.length > (times.get(id) ?? 1))
        tally.breach(
          'doubled',
          `${copies.length} messages, ${copies.map(({ runId }) => runId).join(', ')}: ${id} ${where}`,
        )
    const askedAs = new Map<string, Set<string>>()
    for (const note of all)
      if (note.what === 'asked') askedAs.set(note.id, (askedAs.get(note.id) ?? new Set()).add(note.run))
    for (const [id, as] of askedAs)
      if (as.size > (times.get(id) ?? 1)) tally.breach('doubled', `asked as ${[...as].join(' and ')}: ${id} ${where}`)
    // An answer that was carried out to its end has sent all that it was to send.
    for (const [id, wanted] of times) {
      const [first] = sent.get(id) ?? []
      const sender = first && byId.get(first.mail.sent!.from.runId)
      if (sender?.state === 'completed' && sent.get(id)!.length < wanted)
        tally.breach('lost', `${sent.get(id)!.length} of ${wanted} messages: ${id} ${where}`)
    }
  }

  /** The last time that an answer was carried out, by its run: what its councillor wrote down from when it was asked on. */
  function lastAttempts(): Map<string, Note[]> {
    const attempts = new Map<string, Note[]>()
    for (const note of all) {
      if (note.what === 'asked') attempts.set(note.run, [])
      attempts.get(note.run)?.push(note)
    }
    return attempts
  }

  function checkAnswers(): void {
    const attempts = lastAttempts()
    const brought = new Map<string, KeptRun[]>()
    for (const run of runs) {
      const { answers } = run.mail
      if (answers !== undefined) brought.set(answers, [...(brought.get(answers) ?? []), run])
    }
    const woken = new Set(
      all.flatMap((note) => (note.what === 'woken' ? note.texts.map((text) => `${note.run} ${text}`) : [])),
    )
    tally.add('answers brought by a turn', brought.size)
    for (const message of messages) {
      const { runId, mail } = message
      const { from, reply } = mail.sent!
      const turns = brought.get(runId) ?? []
      const sender = byId.get(from.runId)
      const attempt = attempts.get(from.runId)
      const heard = (attempt ?? []).filter((note) => {
        if (note.what !== 'told') return false
        const { messageId, status } = readTold(note.text)
        return messageId === runId && status !== undefined && !['delivered', 'pending'].includes(status)
      })
      tally.add('answers heard in the run that waited', heard.length > 0 ? 1 : 0)
      checkText(message, heard, turns)
      if (turns.length > 1) tally.breach('woken twice', `${turns.length} turns: ${named(message)}`)
      if (heard.length > 1) tally.breach('doubled', `heard ${heard.length} times in one run: ${named(message)}`)
      if (reply === 'none') {
        if (turns.length > 0) tally.breach('woken twice', `nobody was to be told: ${named(message)}`)
        continue
      }
      if (mail.heard !== true) tally.breach('never told', `nothing says that it was heard: ${named(message)}`)
      // What was heard by one that did not come to its end may have been forgotten with it.
      if (sender?.state === 'completed' && attempt !== undefined) {
        if (heard.length > 0 && turns.length > 0)
          tally.breach('woken twice', `heard in its run and by a turn: ${named(message)}`)
        if (heard.length === 0 && turns.length === 0) tally.breach('never told', `neither way: ${named(message)}`)
      }
      for (const turn of turns) {
        // Those that waited together are answered by the last of them.
        const by = turn.mail.absorbedBy ?? turn.runId
        if (turn.state === 'completed' && !woken.has(`${by} ${turn.message}`))
          tally.breach('never told', `its turn has ended, and nobody was asked: ${named(message)}`)
      }
      if (message.endedAt !== undefined)
        tally.add('senders told once', turns.length === 1 || heard.length === 1 ? 1 : 0)
    }
  }

  /** What was said is what was to be said, to the letter, wherever it is heard. */
  function checkText({ message, state, text, runId }: KeptRun, heard: Note[], turns: KeptRun[]): void {
    const order = orders.get(idOf(message))
    const whole = order ? answerTo(order) : `${idOf(message)}:`
    const what = `${idOf(message)} (${runId}) ${where}`
    if (state === 'completed' ? text !== whole : !whole.startsWith(text))
      tally.breach('answers that differ', `${JSON.stringify(text)} for ${JSON.stringify(whole)}: ${what}`)
    if (state !== 'completed') return
    for (const note of heard)
      if (note.what === 'told' && readTold(note.text).reply !== whole)
        tally.breach('answers that differ', `heard ${note.text}: ${what}`)
    for (const turn of turns)
      if (!turn.message.endsWith(`\n\n${whole}`))
        tally.breach('answers that differ', `brought ${turn.message}: ${what}`)
  }

  /** What one run sent to one session begins in the order in which it was told that it is delivered. */
  function checkOrder(): void {
    const begun = new Map<string, number>()
    for (const list of notes.values())
      for (const [place, note] of list.entries())
        if (note.what === 'asked' && !begun.has(note.run)) begun.set(note.run, place)
    const last = new Map<string, { place: number; id: string }>()
    const seen = new Set<string>()
    for (const note of all) {
      const { status, messageId } = note.what === 'told' ? readTold(note.text) : {}
      const message = messageId === undefined ? undefined : byId.get(messageId)
      if (status !== 'delivered' || !message || seen.has(message.runId)) continue
      seen.add(message.runId)
      const place = begun.get(message.runId)
      if (place === undefined) continue
      const pair = `${message.mail.sent!.from.runId} → ${message.sessionKey}`
      const before = last.get(pair)
      if (before) tally.add('pairs in order')
      if (before && before.place > place)
        tally.breach('out of order', `${named(message)} began before ${before.id}, which ${pair} was told of first`)
      last.set(pair, { place, id: idOf(message.message) })
    }
  }
}

/**
 * What each call of a store does, whatever keeps the records: one set of rules over a handful of tables.
 *
 * Everything here is synchronous. A store gives the tables, the order of the calls and the durability. Each operation
 * looks before it writes: when it throws a {@link StoreError}, nothing of it was written, so the transaction it runs in
 * may go on.
 */
import type { CronJob } from '../contract/cron.ts'
import type {
  Acceptance,
  Attachment,
  Earlier,
  Ending,
  EventChunk,
  Firing,
  Json,
  NewTurn,
  Quotas,
  Replay,
  RunRecord,
  SessionFilter,
  SessionRecord,
  Spent,
  Store,
  SystemEvent,
  TranscriptMessage,
  UsageDay,
  WantedSession,
} from './store.ts'
import { StoreError } from './store.ts'

/** How far a session's stream has come, and when: by the wall clock and, never back within an epoch, by its era. */
export interface StreamRecord {
  sessionKey: string
  epoch: string
  offset: number
  at: number
  /** Absent in those of an older gateway. */
  era?: number
}

/**
 * How old things are. Age is counted by the calls of {@link Store.age} and in eras, 24 of them in the time that things are kept:
 * what is added in an era is at most as old as the era itself, and at least as old as the next one.
 */
interface Ages {
  /** The milliseconds of all calls. */
  now: number
  /** The newest last; those that nothing to be forgotten needs are left out. */
  eras: { number: number; began: number }[]
}

/** The records themselves. What is read is the caller's own copy. */
export interface Tables {
  session(key: string): SessionRecord | undefined
  /** Touched at or after `updatedSince`; the newest first, by key where two are equally new. */
  sessions(updatedSince: number): Iterable<SessionRecord>
  putSession(session: SessionRecord): void
  deleteSession(key: string): void

  /** The session a transcript belongs to. */
  owner(sessionId: string): string | undefined
  addTranscript(sessionId: string, key: string): void
  /** Removes a transcript with its entries and its hold on pictures. */
  deleteTranscript(sessionId: string): void
  /** The same for every transcript of a session, past and present. */
  deleteTranscripts(key: string): void
  addMessage(sessionId: string, message: TranscriptMessage): void
  /** Removes all entries but the newest `keep`. */
  deleteOldMessages(sessionId: string, keep: number): void
  /** Has a transcript hold whatever pictures another one does. */
  copyHolds(from: string, to: string): void
  /** The entries as JSON, the newest first; read one at a time. */
  messages(sessionId: string): Iterable<string>

  /** As put, so always with an empty `text`. */
  run(runId: string): RunRecord | undefined
  /** The run that was admitted for these four. */
  runOf(turn: { principal: string; method: string; sessionKey: string; key: string }): RunRecord | undefined
  /** The keys of a principal's runs. */
  countKeys(principal: string): number
  /** Runs without `endedAt`, in the order they were added. */
  openRuns(): Iterable<RunRecord>
  addRun(run: RunRecord, era: number): void
  /** Replaces a run; its id and the four that make its key never change. */
  putRun(run: RunRecord): void
  /** As in {@link Store.unheard}. */
  unheardRuns(): Iterable<RunRecord>
  /** Those whose `chain` has this id, in the order they were added. */
  chainRuns(chainId: string): Iterable<RunRecord>
  /** Those that were `sent`, to one agent or to any, the newest first; read one at a time. */
  sentRuns(agentId: string | undefined): Iterable<RunRecord>
  /**
   * Removes ended runs of eras before this one, except for the unheard, with their keys and their hold on pictures; how many
   * there were.
   */
  deleteRuns(beforeEra: number): number

  /** Notes that a run's end is told, even before it has ended. Nothing for an unknown run. */
  announce(runId: string): void
  /** The same for every ended run of a session. */
  announceEnded(sessionKey: string): void
  /** The sessions of the ended runs that were never announced, each once. */
  unannounced(): Iterable<string>

  stream(sessionKey: string): StreamRecord | undefined
  streams(): Iterable<StreamRecord>
  putStream(stream: StreamRecord): void
  /** Removes a stream and its chunks. */
  deleteStream(sessionKey: string): void
  /** To a stream that exists. */
  addChunk(sessionKey: string, chunk: EventChunk & { era: number }): void
  /** Those that end after this offset, the oldest first; read one at a time. */
  chunks(sessionKey: string, after: number): Iterable<EventChunk>
  deleteChunks(sessionKey: string): void
  /** Removes those of eras before this one and those that end `keep` or more before their stream does; how many. */
  deleteOldChunks(beforeEra: number, keep: number): number

  usageOf(of: Pick<UsageDay, 'day' | 'sessionKey' | 'provider' | 'model'>): UsageDay | undefined
  putUsage(usage: UsageDay): void
  /** Between two days, both included, of one session or of all: by day, then by session, provider and model. */
  usage(from: string, to: string, sessionKey: string | undefined): Iterable<UsageDay>
  newestUsage(): UsageDay | undefined
  /** Removes what is of earlier days. */
  deleteUsage(before: string): void

  /** The streamed text of a started run. */
  text(runId: string): string | undefined
  addText(runId: string): void
  /** Replaces the text if there is one. */
  putText(runId: string, text: string): void
  deleteText(runId: string): void

  picture(sha256: string): Uint8Array | undefined
  /** Keeps the bytes unless they are kept already. */
  addPicture(sha256: string, bytes: Uint8Array): void
  holdPicture(sha256: string, holder: { run: string } | { transcript: string }): void
  /** Removes the pictures nobody holds. */
  dropPictures(): void

  addSystemEvent(event: SystemEvent): void
  /** Of one session or of all, the oldest first. */
  systemEvents(sessionKey: string | undefined): SystemEvent[]
  deleteSystemEvent(event: Pick<SystemEvent, 'id' | 'sessionKey'>): void

  jobs(): Iterable<CronJob>
  job(jobId: string): CronJob | undefined
  putJob(job: CronJob): void
  /** Removes a job and its firings. */
  deleteJob(jobId: string): void
  firing(jobId: string, dueAt: number): Firing | undefined
  putFiring(firing: Firing): void
  /** Of one job or of all, the one that was due last first; read one at a time. */
  firings(jobId: string | undefined): Iterable<Firing>
  openFirings(): Iterable<Firing>
  /** Removes the ended ones of a job that were due before this. */
  deleteFirings(jobId: string, before: number): void

  document(kind: string, id: string): Json | undefined
  documents(kind: string): { id: string; value: Json }[]
  putDocument(kind: string, id: string, value: Json): void
  deleteDocument(kind: string, id: string): boolean
}

/** The calls of a {@link Store} that only need the tables. */
export type Operation = Exclude<keyof Store, 'kind' | 'verify' | 'close'>

/**
 * A transcript on its way from the thread of the tables: one JSON text. To parse that once costs less than to parse each entry
 * there and to copy thousands of objects from thread to thread.
 */
interface HistoryText {
  sessionId?: string
  entries: string
}

/** What a call answers before it is passed on. */
type Answer<O extends Operation> = O extends 'history' ? HistoryText : Awaited<ReturnType<Store[O]>>

/** A {@link Store} without the waiting. */
export type Ledger = { [O in Operation]: (...args: Parameters<Store[O]>) => Answer<O> } & {
  /** What was done last was undone: what is counted is to be counted anew. */
  undone(): void
}

/** Passes one call on to whatever runs the ledger. */
export type Ask = <O extends Operation>(operation: O, args: Parameters<Store[O]>) => Promise<Answer<O>>

/** Makes the calls of a store out of one function that passes them on. */
export const asking = (ask: Ask): Pick<Store, Operation> => ({
  accept: (turn) => ask('accept', [turn]),
  start: (runId, startedAt, attempt = 1) => ask('start', [runId, startedAt, attempt]),
  progress: (runId, text) => ask('progress', [runId, text]),
  settle: (runId, ending) => ask('settle', [runId, ending]),
  run: (runId) => ask('run', [runId]),
  chain: (chainId) => ask('chain', [chainId]),
  mail: (filter) => ask('mail', [filter]),
  unheard: () => ask('unheard', []),
  usage: (filter) => ask('usage', [filter]),
  unsettled: () => ask('unsettled', []),
  age: (elapsedMs, bounds) => ask('age', [elapsedMs, bounds]),
  session: (key) => ask('session', [key]),
  sessionOf: (sessionId) => ask('sessionOf', [sessionId]),
  sessions: (filter) => ask('sessions', [filter]),
  overview: (recent) => ask('overview', [recent]),
  patchSession: (session, settings, at) => ask('patchSession', [session, settings, at]),
  resetSession: (session, at) => ask('resetSession', [session, at]),
  compactSession: (key, archive) => ask('compactSession', [key, archive]),
  deleteSession: (key) => ask('deleteSession', [key]),
  append: (key, message, create) => ask('append', create === undefined ? [key, message] : [key, message, create]),
  async history(key, bounds) {
    const { entries, ...session } = await ask('history', [key, bounds])
    return { ...session, messages: JSON.parse(entries) as TranscriptMessage[] }
  },
  appendEvents: (chunk) => ask('appendEvents', [chunk]),
  stream: (sessionKey) => ask('stream', [sessionKey]),
  streams: () => ask('streams', []),
  events: (sessionKey, epoch, after, maxBytes) => ask('events', [sessionKey, epoch, after, maxBytes]),
  unfinishedStreams: () => ask('unfinishedStreams', []),
  beginEpoch: (sessionKey, epoch, at) => ask('beginEpoch', [sessionKey, epoch, at]),
  attachment: (sha256) => ask('attachment', [sha256]),
  addSystemEvent: (event) => ask('addSystemEvent', [event]),
  systemEvents: (sessionKey) => ask('systemEvents', sessionKey === undefined ? [] : [sessionKey]),
  jobs: () => ask('jobs', []),
  keepJob: (step) => ask('keepJob', [step]),
  removeJob: (jobId) => ask('removeJob', [jobId]),
  firings: (filter) => ask('firings', [filter]),
  openFirings: () => ask('openFirings', []),
  put: (kind, id, value) => ask('put', [kind, id, value]),
  get: (kind, id) => ask('get', [kind, id]),
  list: (kind) => ask('list', [kind]),
  remove: (kind, id) => ask('remove', [kind, id]),
})

/** How many days before the newest one usage is kept for. */
const USAGE_DAYS = 400
const DAY_MS = 24 * 3_600_000
const dayOf = (at: number): string => new Date(at).toISOString().slice(0, 10)

/** System events that one session is yet to hear of. */
const MOST_EVENTS = 20
/** Firings that are remembered of one job. */
const MOST_FIRINGS = 200

const NO_QUOTAS: Quotas = { sessions: 0, keys: 0 }

/** Binds the rules to tables. */
export const ledger = (tables: Tables, quotas: Quotas = NO_QUOTAS): Ledger => {
  /** Counted once, and then kept up to date: to count 100,000 keys takes longer than all the rest of an `accept`. */
  let sessionCounts: Map<string | undefined, number> | undefined
  const keyCounts = new Map<string, number>()

  /** Counts a session that was made or removed, where sessions are counted. */
  const countSession = ({ madeBy }: SessionRecord, change: 1 | -1): void => {
    sessionCounts?.set(madeBy, (sessionCounts.get(madeBy) ?? 0) + change)
  }

  const refuseOneMoreSession = (principal: string | undefined): void => {
    const most = quotas.sessions
    if (most === 0) return
    if (sessionCounts === undefined) {
      sessionCounts = new Map()
      for (const session of tables.sessions(Number.NEGATIVE_INFINITY)) countSession(session, 1)
    }
    const count = sessionCounts.get(principal) ?? 0
    if (count >= most)
      throw new StoreError(
        'SESSION_QUOTA',
        `there are ${count} sessions that this principal made, which is as many as may be; delete some`,
      )
  }

  const refuseOneMoreKey = (principal: string): void => {
    const { keysOf = {} } = quotas
    const most = Object.hasOwn(keysOf, principal) ? keysOf[principal]! : quotas.keys
    if (most === 0) return
    let count = keyCounts.get(principal)
    if (count === undefined) {
      count = tables.countKeys(principal)
      keyCounts.set(principal, count)
    }
    if (count >= most)
      throw new StoreError(
        'DEDUPE_QUOTA',
        `${count} idempotency keys of this principal are remembered, which is as many as may be; each is for 24 hours`,
      )
  }

  /** Gives the session, making it with a new transcript when there is none. Throws before it writes. */
  const sessionOrNew = (wanted: WantedSession, at: number): SessionRecord => {
    const known = tables.session(wanted.key)
    if (known !== undefined) return known
    if (tables.owner(wanted.sessionId) !== undefined) throw foreignTranscript(wanted.sessionId)
    tables.addTranscript(wanted.sessionId, wanted.key)
    const made = newSession(wanted, at)
    countSession(made, 1)
    return made
  }

  /**
   * Puts a turn's own entry in a transcript, which from then on holds the turn's pictures too, behind what was said before if it
   * is the first. Answers the entries.
   */
  const addUserMessage = (
    { sessionId, messageCount }: Pick<SessionRecord, 'sessionId' | 'messageCount'>,
    run: RunRecord,
    timestamp: number,
  ): TranscriptMessage[] => {
    // A command has no words of its own to keep, only its answer.
    if (run.message === '' && run.attachments.length === 0) return []
    const earlier = messageCount === 0 ? (run.earlier ?? []) : []
    const added = [...earlier.map((said) => earlierMessage(said, timestamp)), userMessage(run, timestamp)]
    for (const message of added) tables.addMessage(sessionId, message)
    for (const { sha256 } of run.attachments) tables.holdPicture(sha256, { transcript: sessionId })
    return added
  }

  /** Puts what a session was yet to hear of in its transcript. Answers the entry, if there is one. */
  const addSystemMessage = ({ key, sessionId }: SessionRecord, timestamp: number): TranscriptMessage[] => {
    const events = tables.systemEvents(key)
    if (events.length === 0) return []
    const message: TranscriptMessage = { role: 'user', content: [{ type: 'text', text: toldOf(events) }], timestamp }
    tables.addMessage(sessionId, message)
    for (const event of events) tables.deleteSystemEvent(event)
    return [message]
  }

  /** A run whose message tells of what its session is yet to hear of. */
  const telling = (run: RunRecord): RunRecord => {
    const events = tables.systemEvents(run.sessionKey)
    if (events.length === 0) return run
    return { ...run, message: `${run.message}\n\n${toldOf(events)}`, takes: events.map(({ id }) => id) }
  }

  const putSystemEvent = (event: SystemEvent): void => {
    tables.addSystemEvent(event)
    for (const old of tables.systemEvents(event.sessionKey).slice(0, -MOST_EVENTS)) tables.deleteSystemEvent(old)
  }

  /** Whether a firing is a step on from what is kept of it. */
  const isNext = ({ jobId, dueAt, endedAt }: Firing): boolean => {
    const known = tables.firing(jobId, dueAt)
    return tables.job(jobId) !== undefined && known?.endedAt === undefined && (!known || endedAt !== undefined)
  }

  const putFiring = (firing: Firing): void => {
    tables.putFiring(firing)
    const { jobId } = firing
    const due = Array.from(tables.firings(jobId), ({ dueAt }) => dueAt)
    if (due.length > MOST_FIRINGS) tables.deleteFirings(jobId, due[MOST_FIRINGS - 1]!)
  }

  const ages = (): Ages => (tables.document('store', 'age') as Ages | undefined) ?? { now: 0, eras: [] }
  let present: number | undefined
  /** The era that things are added in. A step that is undone leaves it ahead of what is kept: then they count as younger. */
  const era = (): number => {
    present ??= ages().eras.at(-1)?.number ?? 0
    return present
  }

  const withText = (run: RunRecord): RunRecord => ({ ...run, text: tables.text(run.runId) ?? '' })

  /** A message, unless it is heard or unknown. */
  const notYetHeard = (runId: string): RunRecord | undefined => {
    const run = tables.run(runId)
    return run?.heard === undefined ? run : undefined
  }

  const hear = (run: RunRecord | undefined): void => {
    if (run !== undefined) tables.putRun({ ...run, heard: true })
  }

  const addUsage = ({ sessionKey, agentId }: RunRecord, endedAt: number, spent: Spent[]): void => {
    const day = dayOf(endedAt)
    const seen = new Set<string>()
    for (const one of spent) {
      const name = JSON.stringify([one.provider, one.model])
      const runs = seen.has(name) ? 0 : 1
      seen.add(name)
      const known = tables.usageOf({ day, sessionKey, provider: one.provider, model: one.model })
      tables.putUsage(
        known === undefined
          ? { ...one, day, sessionKey, agentId, runs }
          : { ...known, ...sumOf(known, one), runs: known.runs + runs },
      )
    }
  }

  /** The newest day at the last look for usage that is too old. */
  let newestDay: string | undefined
  const forgetOldUsage = (): void => {
    const newest = tables.newestUsage()?.day
    if (newest === undefined || newest === newestDay) return
    tables.deleteUsage(dayOf(Date.parse(newest) - USAGE_DAYS * DAY_MS))
    newestDay = newest
  }

  return {
    accept(turn): Acceptance {
      const run = tables.runOf(turn)
      if (run?.fingerprint === turn.fingerprint) return { kind: 'known', run: withText(run) }
      if (run !== undefined) return { kind: 'reused', runId: run.runId }
      const answered = turn.answers === undefined ? undefined : notYetHeard(turn.answers)
      if (turn.answers !== undefined && answered === undefined) return { kind: 'heard' }
      const known = tables.session(turn.sessionKey)
      if (answered !== undefined && known === undefined) {
        // Nobody is there to hear it, and an answer brings no session back.
        hear(answered)
        return { kind: 'heard' }
      }
      if (known?.settings['sendPolicy'] === 'deny') {
        // Nor is it to be heard: it would be asked for until the message is forgotten, which it is not before it is heard.
        hear(answered)
        return { kind: 'denied' }
      }
      const runId = tables.run(turn.runId) === undefined ? turn.runId : turn.spareRunId
      if (tables.run(runId) !== undefined) throw new StoreError('CONFLICT', `both ids for the run are taken: ${runId}`)
      refuseOneMoreKey(turn.principal)
      if (known === undefined) refuseOneMoreSession(turn.principal)
      const session = sessionOrNew({ ...turn, key: turn.sessionKey }, turn.acceptedAt)
      tables.putSession(touched(session, turn.acceptedAt))
      tables.addRun(newRun(turn, runId, session.sessionId), era())
      hear(answered)
      const keys = keyCounts.get(turn.principal)
      if (keys !== undefined) keyCounts.set(turn.principal, keys + 1)
      for (const { sha256, bytes } of turn.attachments) {
        tables.addPicture(sha256, bytes)
        tables.holdPicture(sha256, { run: runId })
      }
      return { kind: 'accepted', runId, sessionId: session.sessionId, settings: session.settings }
    },

    start(runId, startedAt, attempt) {
      const run = tables.run(runId)
      const before = run?.state === 'started' ? (run.attempt ?? 1) : 0
      if (!run || run.endedAt !== undefined || attempt !== before + 1)
        throw new StoreError('CONFLICT', `cannot start attempt ${attempt}: ${runId} is ${run?.state ?? 'unknown'}`)
      if (attempt > 1) {
        tables.putRun({ ...run, startedAt, attempt })
        tables.putText(runId, '')
        return
      }
      const session = sessionOrNew({ ...run, key: run.sessionKey }, startedAt)
      // Before the entry: a transcript has an owner only once its session is there.
      tables.putSession({ ...session, systemSent: true })
      const added = run.quiet
        ? []
        : [...addSystemMessage(session, startedAt), ...addUserMessage(session, run, startedAt)]
      tables.putSession(added.reduce(withEntry, { ...session, systemSent: true }))
      const { earlier: _, ...rest } = run.quiet ? telling(run) : run
      tables.putRun({ ...rest, sessionId: session.sessionId, state: 'started', startedAt })
      tables.addText(runId)
    },

    progress(runId, text) {
      tables.putText(runId, text)
    },

    settle(runId, ending) {
      const run = tables.run(runId)
      if (run === undefined) throw new StoreError('CONFLICT', `cannot settle: ${runId} is unknown`)
      if (run.endedAt !== undefined) return false
      const session = tables.session(run.sessionKey)
      // A started turn ends in the transcript it began in, even if the session has begun another one since. An ending
      // never brings a deleted session back.
      const sessionId = run.state === 'started' ? run.sessionId : (session?.sessionId ?? run.sessionId)
      const added: TranscriptMessage[] = []
      if (tables.owner(sessionId) === run.sessionKey) {
        if ((run.state === 'admitted' || run.quiet) && session && !ending.unsaid)
          added.push(...addUserMessage({ ...session, sessionId }, run, ending.endedAt))
        for (const message of entriesOf(ending)) {
          tables.addMessage(sessionId, message)
          added.push(message)
        }
      }
      if (session?.sessionId === sessionId) tables.putSession(added.reduce(withEntry, afterRun(session, ending)))
      tables.putRun(ended({ ...run, sessionId }, ending))
      tables.deleteText(runId)
      if (run.quiet && ending.unsaid) tables.announce(runId)
      if (ending.state === 'completed')
        for (const id of run.takes ?? []) tables.deleteSystemEvent({ id, sessionKey: run.sessionKey })
      if (ending.spent !== undefined) addUsage(run, ending.endedAt, ending.spent)
      if (ending.state !== 'interrupted') for (const message of ending.heard ?? []) hear(notYetHeard(message))
      return true
    },

    run(runId) {
      const run = tables.run(runId)
      return run && withText(run)
    },

    chain(chainId) {
      const runs = [...tables.chainRuns(chainId)].filter(({ runId }) => runId !== chainId)
      const first = tables.run(chainId)
      return (first === undefined ? runs : [first, ...runs]).map(withText)
    },

    mail({ agentId, limit }) {
      const found: RunRecord[] = []
      if (limit <= 0) return found
      for (const run of tables.sentRuns(agentId)) {
        found.push(withText(run))
        if (found.length >= limit) break
      }
      return found
    },

    unheard: () => [...tables.unheardRuns()],

    // Without an end of its own, up to what is after every day.
    usage: ({ from = '', to = '~', sessionKey }) => [...tables.usage(from, to, sessionKey)],

    unsettled: () => Array.from(tables.openRuns(), withText),

    age(elapsedMs, { keepMs, eventsPerSession }) {
      const { now: before, eras: known } = ages()
      const now = before + elapsedMs
      const last = known.at(-1)
      const isDue = last === undefined || now - last.began >= keepMs / 24
      const eras = isDue ? [...known, { number: (last?.number ?? 0) + 1, began: now }] : known
      // Whatever was added before an era this old began.
      const old = eras.findLast(({ began }) => now - began >= keepMs)?.number ?? 0
      tables.putDocument('store', 'age', { now, eras: eras.filter(({ number }) => number >= old) })
      present = eras.at(-1)?.number
      const runs = tables.deleteRuns(old)
      if (runs > 0) {
        tables.dropPictures()
        keyCounts.clear()
      }
      forgetOldUsage()
      return { runs, chunks: tables.deleteOldChunks(old, eventsPerSession) }
    },

    session: (key) => tables.session(key),

    sessionOf(sessionId) {
      const key = tables.owner(sessionId)
      const session = key === undefined ? undefined : tables.session(key)
      return session?.sessionId === sessionId ? session : undefined
    },

    sessions(filter) {
      const found: SessionRecord[] = []
      const limit = filter.limit ?? Number.POSITIVE_INFINITY
      if (limit <= 0) return found
      for (const session of tables.sessions(filter.updatedSince ?? Number.NEGATIVE_INFINITY)) {
        if (!matches(session, filter)) continue
        found.push(session)
        if (found.length >= limit) break
      }
      return found
    },

    overview(most) {
      const agents = new Map<string, { agentId: string; count: number; recent: SessionRecord[] }>()
      for (const session of tables.sessions(Number.NEGATIVE_INFINITY)) {
        const { agentId } = session
        const agent = agents.get(agentId) ?? { agentId, count: 0, recent: [] }
        agents.set(agentId, agent)
        agent.count += 1
        if (agent.recent.length < most) agent.recent.push(session)
      }
      return [...agents.values()]
    },

    patchSession(wanted, settings, at) {
      if (tables.session(wanted.key) === undefined) refuseOneMoreSession(wanted.principal)
      const session = sessionOrNew(wanted, at)
      // `fromEntries` defines members, so one named `__proto__` stays a member.
      const merged = Object.fromEntries(
        Object.entries({ ...session.settings, ...settings }).filter(([, value]) => value !== null),
      )
      const patched = { ...touched(session, at), settings: merged }
      tables.putSession(patched)
      return patched
    },

    resetSession(wanted, at) {
      const known = tables.session(wanted.key)
      const owner = tables.owner(wanted.sessionId)
      if (owner !== undefined && owner !== wanted.key) throw foreignTranscript(wanted.sessionId)
      if (known === undefined) refuseOneMoreSession(wanted.principal)
      if (owner !== undefined) tables.deleteTranscript(wanted.sessionId)
      tables.addTranscript(wanted.sessionId, wanted.key)
      const { contextTokens: _, opening: __, latest: ___, ...kept } = touched(known ?? newSession(wanted, at), at)
      if (known === undefined) countSession(kept, 1)
      const reset: SessionRecord = {
        ...kept,
        sessionId: wanted.sessionId,
        ...UNUSED,
      }
      tables.putSession(reset)
      return reset
    },

    compactSession(key, { sessionId: pastId, keep }) {
      const session = tables.session(key)
      if (session === undefined) return undefined
      if (tables.owner(pastId) !== undefined) throw foreignTranscript(pastId)
      const { sessionId } = session
      const newestFirst = [...tables.messages(sessionId)].map((json) => JSON.parse(json) as TranscriptMessage)
      let kept = Math.min(keep, newestFirst.length)
      const moved = () => newestFirst.length - kept
      while (moved() > 0 && newestFirst[kept - 1]?.role === 'toolResult') kept -= 1
      if (moved() === 0) return { kept, moved: 0 }
      tables.addTranscript(pastId, key)
      for (const message of newestFirst.slice(kept).reverse()) tables.addMessage(pastId, message)
      tables.copyHolds(sessionId, pastId)
      tables.deleteOldMessages(sessionId, kept)
      // How much is left of what the last answer was asked with, nobody has counted.
      const { contextTokens: _, ...rest } = session
      tables.putSession({ ...rest, messageCount: kept })
      return { kept, moved: moved() }
    },

    deleteSession(key) {
      const session = tables.session(key)
      if (session === undefined) return false
      tables.deleteTranscripts(key)
      tables.deleteStream(key)
      for (const event of tables.systemEvents(key)) tables.deleteSystemEvent(event)
      tables.deleteSession(key)
      tables.dropPictures()
      countSession(session, -1)
      return true
    },

    append(key, message, create) {
      if (create && tables.session(key) === undefined) refuseOneMoreSession(create.principal)
      const session = create ? sessionOrNew({ key, ...create }, message.timestamp) : tables.session(key)
      if (session === undefined) return undefined
      tables.addMessage(session.sessionId, message)
      const appended = withEntry(touched(session, message.timestamp), message)
      tables.putSession(appended)
      return appended
    },

    history(key, bounds): HistoryText {
      const session = tables.session(key)
      if (session === undefined) return { entries: '[]' }
      const entries: string[] = []
      let room = bounds.maxBytes
      if (bounds.limit > 0) {
        for (const json of tables.messages(session.sessionId)) {
          room -= Buffer.byteLength(json)
          if (room < 0) break
          entries.push(json)
          if (entries.length >= bounds.limit) break
        }
      }
      return { sessionId: session.sessionId, entries: `[${entries.reverse().join(',')}]` }
    },

    appendEvents({ sessionKey, epoch, from, to, events, at, announced }) {
      const stream = tables.stream(sessionKey)
      if (stream !== undefined || tables.session(sessionKey) !== undefined) {
        const known = stream?.epoch === epoch ? stream : undefined
        const next = (known?.offset ?? 0) + 1
        if (from !== next || to < from)
          throw new StoreError('CONFLICT', `cannot add events ${from} to ${to} of ${sessionKey}: the next is ${next}`)
        if (known === undefined) tables.deleteChunks(sessionKey)
        // Never back: what is dropped by age is then always the beginning of a stream.
        const added = Math.max(known?.era ?? 0, era())
        tables.putStream({ sessionKey, epoch, offset: to, at, era: added })
        tables.addChunk(sessionKey, { from, to, events, era: added })
      }
      for (const runId of announced) tables.announce(runId)
    },

    stream(sessionKey) {
      const stream = tables.stream(sessionKey)
      return stream && { epoch: stream.epoch, offset: stream.offset }
    },

    streams: () => Array.from(tables.streams(), ({ at: _, era: __, ...stream }) => stream),

    events(sessionKey, epoch, after, maxBytes): Replay {
      const stream = tables.stream(sessionKey)
      if (stream?.epoch !== epoch) return { kind: 'epochChanged' }
      if (after > stream.offset) return { kind: 'ahead' }
      const chunks: EventChunk[] = []
      let next = after + 1
      let room = maxBytes
      for (const chunk of tables.chunks(sessionKey, after)) {
        if (chunk.from > next) return { kind: 'tooOld', oldest: chunk.from }
        room -= Buffer.byteLength(chunk.events)
        if (room < 0) return { kind: 'tooLarge' }
        chunks.push(chunk)
        next = chunk.to + 1
      }
      return next > stream.offset ? { kind: 'events', chunks } : { kind: 'tooOld', oldest: stream.offset + 1 }
    },

    unfinishedStreams() {
      const keys = new Set(tables.unannounced())
      for (const run of tables.openRuns()) keys.add(run.sessionKey)
      return [...keys].filter((key) => tables.stream(key) !== undefined)
    },

    beginEpoch(sessionKey, epoch, at) {
      const stream = tables.stream(sessionKey)
      if (stream === undefined && tables.session(sessionKey) === undefined) return
      if (stream?.epoch === epoch)
        throw new StoreError('CONFLICT', `the stream of ${sessionKey} has that epoch already`)
      tables.deleteChunks(sessionKey)
      tables.putStream({ sessionKey, epoch, offset: 0, at })
      tables.announceEnded(sessionKey)
    },

    attachment: (sha256) => tables.picture(sha256),

    addSystemEvent: putSystemEvent,
    systemEvents: (sessionKey) => tables.systemEvents(sessionKey),
    jobs: () => [...tables.jobs()],
    keepJob({ job, firing, event }) {
      if (firing !== undefined && !isNext(firing)) return false
      tables.putJob(job)
      if (firing !== undefined) putFiring(firing)
      if (event !== undefined) putSystemEvent(event)
      return true
    },
    removeJob(jobId) {
      const isThere = tables.job(jobId) !== undefined
      if (isThere) tables.deleteJob(jobId)
      return isThere
    },
    firings({ jobId, limit }) {
      const found: Firing[] = []
      for (const firing of tables.firings(jobId)) {
        if (found.length >= limit) break
        if (firing.endedAt !== undefined) found.push(firing)
      }
      return found
    },
    openFirings: () => [...tables.openFirings()],

    put: (kind, id, value) => tables.putDocument(kind, id, value),
    get: (kind, id) => tables.document(kind, id),
    list: (kind) => tables.documents(kind),
    remove: (kind, id) => tables.deleteDocument(kind, id),

    undone() {
      sessionCounts = undefined
      newestDay = undefined
      keyCounts.clear()
    },
  }
}

const foreignTranscript = (sessionId: string): StoreError =>
  new StoreError('CONFLICT', `the transcript ${sessionId} belongs to another session`)

/** What a session counts and notes, where nothing has been said in it since it began. */
const UNUSED = {
  systemSent: false,
  abortedLastRun: false,
  inputTokens: 0,
  outputTokens: 0,
  totalTokens: 0,
  messageCount: 0,
}

const newSession = (wanted: WantedSession, at: number): SessionRecord => ({
  key: wanted.key,
  agentId: wanted.agentId,
  sessionId: wanted.sessionId,
  ...(wanted.principal !== undefined && { madeBy: wanted.principal }),
  createdAt: at,
  updatedAt: at,
  settings: {},
  ...UNUSED,
})

const newRun = (turn: NewTurn, runId: string, sessionId: string): RunRecord => ({
  runId,
  principal: turn.principal,
  method: turn.method,
  sessionKey: turn.sessionKey,
  agentId: turn.agentId,
  sessionId,
  key: turn.key,
  fingerprint: turn.fingerprint,
  message: turn.message,
  attachments: turn.attachments.map(({ bytes: _, ...attachment }) => attachment),
  meta: turn.meta,
  state: 'admitted',
  acceptedAt: turn.acceptedAt,
  text: '',
  ...(turn.chain && { chain: turn.chain }),
  ...(turn.sent && { sent: turn.sent }),
  ...(turn.answers === undefined ? {} : { answers: turn.answers }),
  ...(turn.earlier && { earlier: turn.earlier }),
  ...(turn.quiet && { quiet: true }),
})

/** Whether the answer to a run is still to be told to whoever sent it. */
export const isUnheard = ({ sent, endedAt, heard }: RunRecord): boolean =>
  sent?.reply === 'once' && endedAt !== undefined && heard === undefined

const userMessage = (run: RunRecord, timestamp: number): TranscriptMessage => ({
  role: 'user',
  content: [{ type: 'text', text: run.message }, ...run.attachments.map(imageBlock)],
  timestamp,
})

const earlierMessage = ({ role, text }: Earlier, timestamp: number): TranscriptMessage => ({
  role,
  content: [{ type: 'text', text }],
  timestamp,
})

/** System events in the words in which a session hears of them. */
const toldOf = (events: readonly SystemEvent[]): string =>
  events.map(({ at, text }) => `System: [${new Date(at).toISOString()}] ${text}`).join('\n')

const imageBlock = ({ mimeType, sha256, fileName }: Attachment): { type: string; [name: string]: Json } => ({
  type: 'image',
  mimeType,
  sha256,
  ...(fileName === undefined ? {} : { fileName }),
})

/** Moves `updatedAt` on, never back: the wall clock may have been set. */
const touched = (session: SessionRecord, at: number): SessionRecord => ({
  ...session,
  updatedAt: Math.max(session.updatedAt, at),
})

/** Characters of an entry that are kept with its session, for lists. */
const KEPT_CHARS = 240

/** A session with one more entry in its present transcript. */
const withEntry = (session: SessionRecord, { role, content }: TranscriptMessage): SessionRecord => {
  const texts = content.map((part) => (part.type === 'text' && typeof part['text'] === 'string' ? part['text'] : ''))
  const latest = texts.join('').trimStart().slice(0, KEPT_CHARS)
  const isOpening = role === 'user' && session.opening === undefined && latest !== ''
  return { ...session, messageCount: session.messageCount + 1, latest, ...(isOpening && { opening: latest }) }
}

const afterRun = (session: SessionRecord, ending: Ending): SessionRecord => ({
  ...touched(session, ending.endedAt),
  abortedLastRun: ending.state === 'aborted' || ending.state === 'timedOut',
  inputTokens: session.inputTokens + (ending.usage?.input ?? 0),
  outputTokens: session.outputTokens + (ending.usage?.output ?? 0),
  totalTokens: session.totalTokens + (ending.usage?.totalTokens ?? 0),
  ...(ending.usage && { contextTokens: ending.contextTokens ?? ending.usage.totalTokens }),
  ...(ending.modelProvider === undefined ? {} : { modelProvider: ending.modelProvider }),
  ...(ending.model === undefined ? {} : { model: ending.model }),
})

const entriesOf = ({ before = [], message }: Ending): TranscriptMessage[] =>
  message === undefined ? before : [...before, message]

const ended = ({ earlier: _, ...run }: RunRecord, ending: Ending): RunRecord => ({
  ...run,
  state: ending.state,
  endedAt: ending.endedAt,
  ...(ending.stopReason === undefined ? {} : { stopReason: ending.stopReason }),
  ...(ending.error === undefined ? {} : { error: ending.error }),
  ...(ending.absorbedBy === undefined ? {} : { absorbedBy: ending.absorbedBy }),
  ...(ending.spent === undefined ? {} : { spent: ending.spent }),
  ...(ending.result === undefined ? {} : { result: ending.result }),
})

/** Two uses of one model together. */
const sumOf = (a: Spent, b: Spent): Spent => ({
  provider: a.provider,
  model: a.model,
  input: a.input + b.input,
  output: a.output + b.output,
  cacheRead: a.cacheRead + b.cacheRead,
  cacheWrite: a.cacheWrite + b.cacheWrite,
  totalTokens: a.totalTokens + b.totalTokens,
  cost: {
    input: a.cost.input + b.cost.input,
    output: a.cost.output + b.cost.output,
    cacheRead: a.cost.cacheRead + b.cost.cacheRead,
    cacheWrite: a.cost.cacheWrite + b.cost.cacheWrite,
    total: a.cost.total + b.cost.total,
  },
})

const matches = (session: SessionRecord, { agentId, search }: SessionFilter): boolean => {
  if (agentId !== undefined && session.agentId !== agentId) return false
  if (search === undefined) return true
  const label = session.settings['label']
  const sought = search.toLowerCase()
  return [session.key, label].some((text) => typeof text === 'string' && text.toLowerCase().includes(sought))
}

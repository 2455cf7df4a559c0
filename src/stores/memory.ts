/** A store that forgets everything with the process, for tests: the same rules over plain maps. */
import type { CronJob } from '../contract/cron.ts'
import type { Ask, StreamRecord, Tables } from './ledger.ts'
import { asking, isUnheard, ledger } from './ledger.ts'
import type {
  EventChunk,
  Firing,
  Json,
  Quotas,
  RunRecord,
  SessionRecord,
  Store,
  SystemEvent,
  UsageDay,
} from './store.ts'
import { StoreError } from './store.ts'

/** Opens an empty store. Its `verify` finds nothing, and nothing in it outlives `close`. */
export const openMemoryStore = (quotas?: Quotas): Store => {
  const book = ledger(mapTables(), quotas)
  let closed = false
  const refuseClosed = (): void => {
    if (closed) throw new StoreError('CLOSED', 'the store is closed')
  }
  // A call runs to its end before it returns its promise, so calls are applied in the order they were made.
  const ask: Ask = (async (operation: keyof typeof book, args: never) => {
    refuseClosed()
    return (book[operation] as (...args: never[]) => unknown)(...(args as never[]))
  }) as Ask
  return {
    kind: 'memory',
    ...asking(ask),
    async verify() {
      refuseClosed()
      return []
    },
    async close() {
      closed = true
    },
  }
}

interface RunRow {
  json: string
  sessionKey: string
  ended: boolean
  era: number
  fourKey: string
  chainId: string | undefined
  /** Whom it was sent to, if an agent sent it. */
  sentTo: string | undefined
  isUnheard: boolean
}

/** Records are kept as JSON, so what a caller holds and what the store holds never share an object. */
const mapTables = (): Tables => {
  const sessions = new Map<string, string>()
  const transcripts = new Map<string, { key: string; messages: string[]; pictures: Set<string> }>()
  const runs = new Map<string, RunRow & { pictures: Set<string>; announced: boolean }>()
  const runIds = new Map<string, string>()
  const streams = new Map<string, StreamRecord & { chunks: (EventChunk & { era: number })[] }>()
  const usage = new Map<string, string>()
  const texts = new Map<string, string>()
  const pictures = new Map<string, Uint8Array>()
  const documents = new Map<string, Map<string, string>>()
  const systemEvents = new Map<string, string>()
  const jobs = new Map<string, { json: string; firings: Map<number, string> }>()

  const parse = <T>(json: string | undefined): T | undefined =>
    json === undefined ? undefined : (JSON.parse(json) as T)
  const fourKey = (run: { principal: string; method: string; sessionKey: string; key: string }): string =>
    JSON.stringify([run.principal, run.method, run.sessionKey, run.key])
  const usageKey = ({ day, sessionKey, provider, model }: Parameters<Tables['usageOf']>[0]): string =>
    JSON.stringify([day, sessionKey, provider, model])
  const usageBetween = (from: string, to: string): UsageDay[] =>
    [...usage]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([, json]) => JSON.parse(json) as UsageDay)
      .filter(({ day }) => day >= from && day <= to)
  const rowOf = (run: RunRecord, era: number): RunRow => ({
    json: JSON.stringify(run),
    sessionKey: run.sessionKey,
    ended: run.endedAt !== undefined,
    era,
    fourKey: fourKey(run),
    chainId: run.chain?.id,
    sentTo: run.sent && run.agentId,
    isUnheard: isUnheard(run),
  })
  const firingsOf = (jobId: string | undefined): Firing[] =>
    [...jobs]
      .flatMap(([id, { firings }]) => (jobId === undefined || id === jobId ? [...firings.values()] : []))
      .map((json) => JSON.parse(json) as Firing)
      .sort((a, b) => b.dueAt - a.dueAt || (a.jobId < b.jobId ? -1 : 1))
  const runsWhere = (isSought: (row: RunRow) => boolean): RunRecord[] =>
    Array.from(runs.values())
      .filter(isSought)
      .map(({ json }) => JSON.parse(json) as RunRecord)

  return {
    session: (key) => parse<SessionRecord>(sessions.get(key)),
    sessions: (updatedSince) =>
      Array.from(sessions.values(), (json) => JSON.parse(json) as SessionRecord)
        .filter(({ updatedAt }) => updatedAt >= updatedSince)
        .sort((a, b) => b.updatedAt - a.updatedAt || (a.key < b.key ? -1 : 1)),
    putSession: (session) => void sessions.set(session.key, JSON.stringify(session)),
    deleteSession: (key) => void sessions.delete(key),

    owner: (sessionId) => transcripts.get(sessionId)?.key,
    addTranscript: (sessionId, key) => void transcripts.set(sessionId, { key, messages: [], pictures: new Set() }),
    deleteTranscript: (sessionId) => void transcripts.delete(sessionId),
    deleteTranscripts(key) {
      for (const [sessionId, transcript] of transcripts) if (transcript.key === key) transcripts.delete(sessionId)
    },
    addMessage: (sessionId, message) => void transcripts.get(sessionId)?.messages.push(JSON.stringify(message)),
    deleteOldMessages: (sessionId, keep) =>
      void transcripts.get(sessionId)?.messages.splice(0, transcripts.get(sessionId)!.messages.length - keep),
    copyHolds(from, to) {
      for (const sha256 of transcripts.get(from)?.pictures ?? []) transcripts.get(to)?.pictures.add(sha256)
    },
    messages: (sessionId) => transcripts.get(sessionId)?.messages.toReversed() ?? [],

    run: (runId) => parse<RunRecord>(runs.get(runId)?.json),
    runOf: (turn) => parse<RunRecord>(runs.get(runIds.get(fourKey(turn)) ?? '')?.json),
    countKeys: (principal) => [...runIds.keys()].filter((key) => JSON.parse(key)[0] === principal).length,
    openRuns: () => runsWhere(({ ended }) => !ended),
    addRun(run, era) {
      runs.set(run.runId, { ...rowOf(run, era), pictures: new Set(), announced: false })
      runIds.set(fourKey(run), run.runId)
    },
    putRun(run) {
      const row = runs.get(run.runId)
      if (row !== undefined) runs.set(run.runId, { ...row, ...rowOf(run, row.era) })
    },
    unheardRuns: () => runsWhere((row) => row.isUnheard),
    chainRuns: (chainId) => runsWhere((row) => row.chainId === chainId),
    sentRuns: (agentId) => runsWhere(({ sentTo }) => sentTo !== undefined && sentTo === (agentId ?? sentTo)).reverse(),
    deleteRuns(beforeEra) {
      const old = [...runs].filter(([, row]) => row.ended && row.era < beforeEra && !row.isUnheard)
      for (const [runId, row] of old) {
        runs.delete(runId)
        runIds.delete(row.fourKey)
      }
      return old.length
    },

    announce(runId) {
      const row = runs.get(runId)
      if (row !== undefined) row.announced = true
    },
    announceEnded(sessionKey) {
      for (const row of runs.values()) if (row.ended && row.sessionKey === sessionKey) row.announced = true
    },
    unannounced: () =>
      new Set([...runs.values()].filter((row) => row.ended && !row.announced).map((row) => row.sessionKey)),

    stream: (sessionKey) => streams.get(sessionKey),
    streams: () => Array.from(streams.values(), ({ chunks: _, ...stream }) => stream),
    putStream: (stream) =>
      void streams.set(stream.sessionKey, { ...stream, chunks: streams.get(stream.sessionKey)?.chunks ?? [] }),
    deleteStream: (sessionKey) => void streams.delete(sessionKey),
    addChunk: (sessionKey, chunk) => void streams.get(sessionKey)?.chunks.push(chunk),
    chunks: (sessionKey, after) =>
      (streams.get(sessionKey)?.chunks ?? [])
        .filter(({ to }) => to > after)
        .map(({ from, to, events }) => ({ from, to, events })),
    deleteChunks: (sessionKey) => void streams.get(sessionKey)?.chunks.splice(0),
    deleteOldChunks(beforeEra, keep) {
      let count = 0
      for (const stream of streams.values()) {
        const kept = stream.chunks.filter(({ to, era }) => era >= beforeEra && stream.offset - to < keep)
        count += stream.chunks.length - kept.length
        stream.chunks = kept
      }
      return count
    },

    usageOf: (of) => parse<UsageDay>(usage.get(usageKey(of))),
    putUsage: (used) => void usage.set(usageKey(used), JSON.stringify(used)),
    usage: (from, to, sessionKey) =>
      usageBetween(from, to).filter((used) => used.sessionKey === (sessionKey ?? used.sessionKey)),
    newestUsage: () => usageBetween('', '~').at(-1),
    deleteUsage(before) {
      for (const [key, json] of usage) if ((JSON.parse(json) as UsageDay).day < before) usage.delete(key)
    },

    text: (runId) => texts.get(runId),
    addText: (runId) => void texts.set(runId, ''),
    putText: (runId, text) => void (texts.has(runId) && texts.set(runId, text)),
    deleteText: (runId) => void texts.delete(runId),

    picture: (sha256) => pictures.get(sha256)?.slice(),
    addPicture: (sha256, bytes) => void (pictures.has(sha256) || pictures.set(sha256, new Uint8Array(bytes))),
    holdPicture(sha256, holder) {
      const held = 'run' in holder ? runs.get(holder.run)?.pictures : transcripts.get(holder.transcript)?.pictures
      held?.add(sha256)
    },
    dropPictures() {
      const held = [...runs.values(), ...transcripts.values()]
      for (const sha256 of [...pictures.keys()]) {
        if (!held.some((holder) => holder.pictures.has(sha256))) pictures.delete(sha256)
      }
    },

    addSystemEvent: (event) => void systemEvents.set(event.id, JSON.stringify(event)),
    systemEvents: (sessionKey) =>
      Array.from(systemEvents.values(), (json) => JSON.parse(json) as SystemEvent).filter(
        (event) => event.sessionKey === (sessionKey ?? event.sessionKey),
      ),
    deleteSystemEvent: ({ id }) => void systemEvents.delete(id),

    jobs: () => Array.from(jobs.values(), ({ json }) => JSON.parse(json) as CronJob),
    job: (jobId) => parse<CronJob>(jobs.get(jobId)?.json),
    putJob: (job) =>
      void jobs.set(job.id, { json: JSON.stringify(job), firings: jobs.get(job.id)?.firings ?? new Map() }),
    deleteJob: (jobId) => void jobs.delete(jobId),
    firing: (jobId, dueAt) => parse<Firing>(jobs.get(jobId)?.firings.get(dueAt)),
    putFiring: (firing) => void jobs.get(firing.jobId)?.firings.set(firing.dueAt, JSON.stringify(firing)),
    firings: firingsOf,
    openFirings: () => firingsOf(undefined).filter(({ endedAt }) => endedAt === undefined),
    deleteFirings(jobId, before) {
      for (const { dueAt, endedAt } of firingsOf(jobId))
        if (dueAt < before && endedAt !== undefined) jobs.get(jobId)?.firings.delete(dueAt)
    },

    document: (kind, id) => parse<Json>(documents.get(kind)?.get(id)),
    documents: (kind) =>
      Array.from(documents.get(kind) ?? [], ([id, json]) => ({ id, value: JSON.parse(json) as Json })),
    putDocument(kind, id, value) {
      const ofKind = documents.get(kind) ?? new Map<string, string>()
      documents.set(kind, ofKind.set(id, JSON.stringify(value)))
    },
    deleteDocument: (kind, id) => documents.get(kind)?.delete(id) ?? false,
  }
}

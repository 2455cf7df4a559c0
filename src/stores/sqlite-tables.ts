/**
 * The tables of a store in an SQLite connection. Every statement is prepared once.
 *
 * SQLite finds damage in its own structures only, and node:sqlite cannot load its page checksums: so each record carries a
 * checksum, and a changed one is {@link Damage} and never an answer. The columns that are only compared carry none: an index has
 * each of them again, and SQLite compares the two. Where none does, the record's checksum is over the column, too.
 */
import type { DatabaseSync, SQLInputValue } from 'node:sqlite'
import { crc32 } from 'node:zlib'
import type { CronJob } from '../contract/cron.ts'
import { isUnheard, type StreamRecord, type Tables } from './ledger.ts'
import type { Firing, Json, RunRecord, SessionRecord, SystemEvent, UsageDay } from './store.ts'

export const sqliteTables = (db: DatabaseSync): Tables => {
  /** A statement that answers rows; its first column is what counts. */
  const query = (sql: string) => {
    const statement = db.prepare(sql)
    return {
      text(...values: SQLInputValue[]): string | undefined {
        const row = statement.get(...values)
        return row === undefined ? undefined : firstOf(row)
      },
      row: (...values: SQLInputValue[]): Row | undefined => statement.get(...values),
      *rows(...values: SQLInputValue[]): Iterable<Row> {
        yield* statement.iterate(...values)
      },
      *texts(...values: SQLInputValue[]): Iterable<string> {
        for (const row of statement.iterate(...values)) yield firstOf(row)
      },
    }
  }
  /** A statement that changes rows; gives how many. */
  const change = (sql: string) => {
    const statement = db.prepare(sql)
    return (...values: SQLInputValue[]): number => Number(statement.run(...values).changes)
  }

  const session = query('SELECT record FROM sessions WHERE key = ?')
  const sessionsSince = query('SELECT record FROM sessions WHERE updated_at >= ? ORDER BY updated_at DESC, key')
  const putSession = change(
    `INSERT INTO sessions (key, updated_at, record) VALUES (?, ?, ?)
     ON CONFLICT (key) DO UPDATE SET updated_at = excluded.updated_at, record = excluded.record`,
  )
  const deleteSession = change('DELETE FROM sessions WHERE key = ?')

  const owner = query('SELECT session_key FROM transcripts WHERE session_id = ?')
  const addTranscript = change('INSERT INTO transcripts (session_id, session_key) VALUES (?, ?)')
  const deleteTranscript = [
    change('DELETE FROM messages WHERE session_id = ?'),
    change("DELETE FROM holds WHERE holder = 'transcript:' || ?"),
    change('DELETE FROM transcripts WHERE session_id = ?'),
  ]
  const ofSession = '(SELECT session_id FROM transcripts WHERE session_key = ?)'
  const deleteTranscripts = [
    change(`DELETE FROM messages WHERE session_id IN ${ofSession}`),
    change(`DELETE FROM holds WHERE holder IN (SELECT 'transcript:' || session_id FROM ${ofSession})`),
    change('DELETE FROM transcripts WHERE session_key = ?'),
  ]
  const addMessage = change(
    `INSERT INTO messages (session_id, seq, message)
     SELECT ?1, coalesce(max(seq), 0) + 1, ?2 FROM messages WHERE session_id = ?1`,
  )
  const messages = query('SELECT message, session_id FROM messages WHERE session_id = ? ORDER BY seq DESC')

  const deleteOldMessages = change(
    `DELETE FROM messages WHERE session_id = ?1 AND seq <=
       (SELECT seq FROM messages WHERE session_id = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)`,
  )
  const copyHolds = change(
    `INSERT OR IGNORE INTO holds (holder, sha256)
     SELECT 'transcript:' || ?2, sha256 FROM holds WHERE holder = 'transcript:' || ?1`,
  )

  const run = query('SELECT record FROM runs WHERE run_id = ?')
  const runOf = query(
    `SELECT record FROM keys JOIN runs ON runs.seq = keys.run
     WHERE keys.principal = ? AND keys.method = ? AND keys.session_key = ? AND keys.key = ?`,
  )
  const countKeys = query('SELECT count(*) AS n FROM keys WHERE principal = ?')
  const openRuns = query('SELECT record FROM runs WHERE ended_at IS NULL ORDER BY seq')
  const addRun = change('INSERT INTO runs (run_id, era, unannounced, record) VALUES (?, ?, ?, ?)')
  const addKey = change(
    'INSERT INTO keys (principal, method, session_key, key, run) SELECT ?, ?, ?, ?, seq FROM runs WHERE run_id = ?',
  )
  const putRun = change('UPDATE runs SET ended_at = ?, record = ? WHERE run_id = ?')
  const addMail = change('INSERT INTO mail (run, chain, agent) SELECT seq, ?, ? FROM runs WHERE run_id = ?')
  const putMail = change('UPDATE mail SET unheard = ? WHERE run = (SELECT seq FROM runs WHERE run_id = ?)')
  // CROSS keeps the order: there are many runs, and few of them are messages.
  const mailed = 'SELECT record FROM mail CROSS JOIN runs ON runs.seq = mail.run'
  const unheardRuns = query(`${mailed} WHERE unheard = 1 ORDER BY mail.run`)
  const chainRuns = query(`${mailed} WHERE chain = ? ORDER BY mail.run`)
  const sentRuns = query(`${mailed} WHERE agent IS NOT NULL ORDER BY mail.run DESC`)
  const sentRunsTo = query(`${mailed} WHERE agent = ? ORDER BY mail.run DESC`)
  const old = `ended_at IS NOT NULL AND era < ?
    AND NOT EXISTS (SELECT 1 FROM mail WHERE mail.run = runs.seq AND unheard IS NOT NULL)`
  const deleteKeysOfOld = change(`DELETE FROM keys WHERE run IN (SELECT seq FROM runs WHERE ${old})`)
  const deleteHoldsOfOld = change(`DELETE FROM holds WHERE holder IN (SELECT 'run:' || run_id FROM runs WHERE ${old})`)
  const deleteMailOfOld = change(`DELETE FROM mail WHERE run IN (SELECT seq FROM runs WHERE ${old})`)
  const deleteOld = change(`DELETE FROM runs WHERE ${old}`)

  const announce = change('UPDATE runs SET unannounced = NULL WHERE run_id = ?')
  const announceEnded = change('UPDATE runs SET unannounced = NULL WHERE unannounced = ? AND ended_at IS NOT NULL')
  const unannounced = query(
    'SELECT DISTINCT unannounced FROM runs WHERE unannounced IS NOT NULL AND ended_at IS NOT NULL',
  )

  const stream = query('SELECT record FROM streams WHERE session_key = ?')
  const streams = query('SELECT record FROM streams')
  const putStream = change(
    `INSERT INTO streams (session_key, last, record) VALUES (?, ?, ?)
     ON CONFLICT (session_key) DO UPDATE SET last = excluded.last, record = excluded.record`,
  )
  const deleteStream = change('DELETE FROM streams WHERE session_key = ?')
  const ofStream = 'stream = (SELECT seq FROM streams WHERE session_key = ?)'
  const addChunk = change(
    `INSERT INTO chunks (stream, first, last, era, events)
     SELECT seq, ?2, ?3, ?4, ?5 FROM streams WHERE session_key = ?1`,
  )
  const chunks = query(`SELECT events, first, last FROM chunks WHERE ${ofStream} AND last > ? ORDER BY last`)
  const deleteChunks = change(`DELETE FROM chunks WHERE ${ofStream}`)
  const deleteOldChunks = change(
    `DELETE FROM chunks WHERE seq IN (
       SELECT seq FROM chunks WHERE era < ?1
       UNION ALL
       SELECT chunks.seq FROM streams JOIN chunks ON chunks.stream = streams.seq AND chunks.last <= streams.last - ?2
     )`,
  )

  const usageOf = query('SELECT record FROM usage WHERE day = ? AND session_key = ? AND provider = ? AND model = ?')
  const putUsage = change(
    `INSERT INTO usage (day, session_key, provider, model, record) VALUES (?, ?, ?, ?, ?)
     ON CONFLICT (day, session_key, provider, model) DO UPDATE SET record = excluded.record`,
  )
  const usage = query('SELECT record FROM usage WHERE day BETWEEN ? AND ? ORDER BY day, session_key, provider, model')
  const usageOfSession = query(
    'SELECT record FROM usage WHERE session_key = ?3 AND day BETWEEN ?1 AND ?2 ORDER BY day, provider, model',
  )
  const newestUsage = query('SELECT record FROM usage ORDER BY day DESC LIMIT 1')
  const deleteUsage = change('DELETE FROM usage WHERE day < ?')

  const text = query('SELECT text FROM texts WHERE run_id = ?')
  const addText = change(`INSERT INTO texts (run_id, text) VALUES (?, '""')`)
  const putText = change('UPDATE texts SET text = ? WHERE run_id = ?')
  const deleteText = change('DELETE FROM texts WHERE run_id = ?')

  const picture = query('SELECT bytes, seal FROM blobs WHERE sha256 = ?')
  const addPicture = change('INSERT INTO blobs (sha256, bytes, seal) VALUES (?, ?, ?) ON CONFLICT (sha256) DO NOTHING')
  const holdPicture = change('INSERT INTO holds (holder, sha256) VALUES (?, ?) ON CONFLICT DO NOTHING')
  const dropPictures = change(
    'DELETE FROM blobs WHERE NOT EXISTS (SELECT 1 FROM holds WHERE holds.sha256 = blobs.sha256)',
  )

  const addSystemEvent = change('INSERT INTO system_events (session_key, id, record) VALUES (?, ?, ?)')
  const systemEvents = query('SELECT record FROM system_events ORDER BY seq')
  const systemEventsOf = query('SELECT record FROM system_events WHERE session_key = ? ORDER BY seq')
  const deleteSystemEvent = change('DELETE FROM system_events WHERE session_key = ? AND id = ?')

  const jobs = query('SELECT record, id FROM jobs')
  const job = query('SELECT record, id FROM jobs WHERE id = ?')
  const putJob = change(
    'INSERT INTO jobs (id, record) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET record = excluded.record',
  )
  const deleteJob = [change('DELETE FROM firings WHERE job = ?'), change('DELETE FROM jobs WHERE id = ?')]
  const firing = query('SELECT record, job, due FROM firings WHERE job = ? AND due = ?')
  const putFiring = change(
    `INSERT INTO firings (job, due, is_open, record) VALUES (?, ?, ?, ?)
     ON CONFLICT (job, due) DO UPDATE SET is_open = excluded.is_open, record = excluded.record`,
  )
  const firings = query('SELECT record, job, due FROM firings ORDER BY due DESC, job')
  const firingsOf = query('SELECT record, job, due FROM firings WHERE job = ? ORDER BY due DESC')
  const openFirings = query('SELECT record, job, due FROM firings WHERE is_open IS NOT NULL ORDER BY due DESC, job')
  const deleteFirings = change('DELETE FROM firings WHERE job = ? AND due < ? AND is_open IS NULL')

  const document = query('SELECT record, kind, id FROM documents WHERE kind = ? AND id = ?')
  const documents = query('SELECT record, kind, id FROM documents WHERE kind = ? ORDER BY id')
  const putDocument = change(
    `INSERT INTO documents (kind, id, record) VALUES (?, ?, ?)
     ON CONFLICT (kind, id) DO UPDATE SET record = excluded.record`,
  )
  const deleteDocument = change('DELETE FROM documents WHERE kind = ? AND id = ?')

  return {
    session: (key) => parsed<SessionRecord>(session.text(key)),
    *sessions(updatedSince) {
      for (const json of sessionsSince.texts(updatedSince)) yield JSON.parse(json) as SessionRecord
    },
    putSession: (record) => void putSession(record.key, record.updatedAt, sealed(JSON.stringify(record))),
    deleteSession: (key) => void deleteSession(key),

    owner: (sessionId) => parsed<string>(owner.text(sessionId)),
    addTranscript: (sessionId, key) => void addTranscript(sessionId, JSON.stringify(key)),
    deleteTranscript(sessionId) {
      for (const statement of deleteTranscript) statement(sessionId)
    },
    deleteTranscripts(key) {
      for (const statement of deleteTranscripts) statement(JSON.stringify(key))
    },
    addMessage: (sessionId, message) => void addMessage(sessionId, sealed(JSON.stringify(message), sessionId)),
    deleteOldMessages: (sessionId, keep) => void deleteOldMessages(sessionId, keep),
    copyHolds: (from, to) => void copyHolds(from, to),
    messages: (sessionId) => messages.texts(sessionId),

    run: (runId) => parsed<RunRecord>(run.text(runId)),
    runOf: (turn) => parsed<RunRecord>(runOf.text(turn.principal, turn.method, turn.sessionKey, turn.key)),
    countKeys: (principal) => Number(countKeys.row(principal)?.['n']),
    *openRuns() {
      for (const json of openRuns.texts()) yield JSON.parse(json) as RunRecord
    },
    addRun(record, era) {
      addRun(record.runId, era, JSON.stringify(record.sessionKey), sealed(JSON.stringify(record)))
      addKey(record.principal, record.method, record.sessionKey, record.key, record.runId)
      if (record.chain !== undefined || record.sent !== undefined)
        addMail(record.chain?.id ?? null, record.sent ? record.agentId : null, record.runId)
    },
    putRun(record) {
      putRun(record.endedAt ?? null, sealed(JSON.stringify(record)), record.runId)
      if (record.sent?.reply === 'once') putMail(isUnheard(record) ? 1 : null, record.runId)
    },
    *unheardRuns() {
      for (const json of unheardRuns.texts()) yield JSON.parse(json) as RunRecord
    },
    *chainRuns(chainId) {
      for (const json of chainRuns.texts(chainId)) yield JSON.parse(json) as RunRecord
    },
    *sentRuns(agentId) {
      const texts = agentId === undefined ? sentRuns.texts() : sentRunsTo.texts(agentId)
      for (const json of texts) yield JSON.parse(json) as RunRecord
    },
    deleteRuns(beforeEra) {
      deleteKeysOfOld(beforeEra)
      deleteHoldsOfOld(beforeEra)
      deleteMailOfOld(beforeEra)
      return deleteOld(beforeEra)
    },

    announce: (runId) => void announce(runId),
    announceEnded: (sessionKey) => void announceEnded(JSON.stringify(sessionKey)),
    *unannounced() {
      for (const json of unannounced.texts()) yield JSON.parse(json) as string
    },

    stream: (sessionKey) => parsed<StreamRecord>(stream.text(sessionKey)),
    *streams() {
      for (const json of streams.texts()) yield JSON.parse(json) as StreamRecord
    },
    putStream: (record) => void putStream(record.sessionKey, record.offset, sealed(JSON.stringify(record))),
    deleteStream(sessionKey) {
      deleteChunks(sessionKey)
      deleteStream(sessionKey)
    },
    addChunk: (sessionKey, { from, to, era, events }) =>
      void addChunk(sessionKey, from, to, era, sealed(events, from, to)),
    *chunks(sessionKey, after) {
      for (const row of chunks.rows(sessionKey, after)) {
        yield { from: Number(row['first']), to: Number(row['last']), events: firstOf(row) }
      }
    },
    deleteChunks: (sessionKey) => void deleteChunks(sessionKey),
    deleteOldChunks: (beforeEra, keep) => deleteOldChunks(beforeEra, keep),

    usageOf: ({ day, sessionKey, provider, model }) => parsed<UsageDay>(usageOf.text(day, sessionKey, provider, model)),
    putUsage: (record) =>
      void putUsage(record.day, record.sessionKey, record.provider, record.model, sealed(JSON.stringify(record))),
    *usage(from, to, sessionKey) {
      const texts = sessionKey === undefined ? usage.texts(from, to) : usageOfSession.texts(from, to, sessionKey)
      for (const json of texts) yield JSON.parse(json) as UsageDay
    },
    newestUsage: () => parsed<UsageDay>(newestUsage.text()),
    deleteUsage: (before) => void deleteUsage(before),

    text: (runId) => parsed<string>(text.text(runId)),
    addText: (runId) => void addText(runId),
    putText: (runId, streamed) => void putText(sealed(JSON.stringify(streamed)), runId),
    deleteText: (runId) => void deleteText(runId),

    picture(sha256) {
      const row = picture.row(sha256)
      return row && bytesOf(row)
    },
    addPicture: (sha256, bytes) => void addPicture(sha256, bytes, crc32(bytes)),
    holdPicture(sha256, holder) {
      holdPicture('run' in holder ? `run:${holder.run}` : `transcript:${holder.transcript}`, sha256)
    },
    dropPictures: () => void dropPictures(),

    addSystemEvent: (event) => void addSystemEvent(event.sessionKey, event.id, sealed(JSON.stringify(event))),
    systemEvents: (sessionKey) =>
      Array.from(
        sessionKey === undefined ? systemEvents.texts() : systemEventsOf.texts(sessionKey),
        (json) => JSON.parse(json) as SystemEvent,
      ),
    deleteSystemEvent: ({ id, sessionKey }) => void deleteSystemEvent(sessionKey, id),

    *jobs() {
      for (const json of jobs.texts()) yield JSON.parse(json) as CronJob
    },
    job: (jobId) => parsed<CronJob>(job.text(jobId)),
    putJob: (record) => void putJob(record.id, sealed(JSON.stringify(record), record.id)),
    deleteJob(jobId) {
      for (const statement of deleteJob) statement(jobId)
    },
    firing: (jobId, dueAt) => parsed<Firing>(firing.text(jobId, dueAt)),
    putFiring(record) {
      const { jobId, dueAt, endedAt } = record
      putFiring(jobId, dueAt, endedAt === undefined ? 1 : null, sealed(JSON.stringify(record), jobId, dueAt))
    },
    *firings(jobId) {
      const texts = jobId === undefined ? firings.texts() : firingsOf.texts(jobId)
      for (const json of texts) yield JSON.parse(json) as Firing
    },
    *openFirings() {
      for (const json of openFirings.texts()) yield JSON.parse(json) as Firing
    },
    deleteFirings: (jobId, before) => void deleteFirings(jobId, before),

    document: (kind, id) => parsed<{ value: Json }>(document.text(kind, id))?.value,
    documents: (kind) => Array.from(documents.texts(kind), (json) => JSON.parse(json) as { id: string; value: Json }),
    putDocument: (kind, id, value) => void putDocument(kind, id, sealed(JSON.stringify({ id, value }), kind, id)),
    deleteDocument: (kind, id) => deleteDocument(kind, id) > 0,
  }
}

/** Something kept is not what was put there. */
export class Damage extends Error {
  override readonly name = 'Damage'
}

/** Where sealed texts are, and the columns that their seals are over, too. */
const sealedColumns = {
  sessions: 'record',
  messages: 'message, session_id',
  runs: 'record',
  texts: 'text',
  streams: 'record',
  chunks: 'events, first, last',
  usage: 'record',
  documents: 'record, kind, id',
  system_events: 'record',
  jobs: 'record, id',
  firings: 'record, job, due',
  commits: 'record',
}

/** Looks at every seal; gives the tables with broken ones, in words. */
export const brokenSeals = (db: DatabaseSync): string[] =>
  Object.entries({ ...sealedColumns, blobs: 'bytes, seal' }).flatMap(([table, columns]) => {
    const read = table === 'blobs' ? bytesOf : firstOf
    try {
      for (const row of db.prepare(`SELECT ${columns} FROM ${table}`).iterate()) read(row)
      return []
    } catch (error) {
      if (!(error instanceof Damage)) throw error
      return [`${table}: ${error.message}`]
    }
  })

/** How many transactions changed something. */
export const commitsOf = (db: DatabaseSync): number => {
  const row = db.prepare('SELECT record FROM commits').get()
  if (row === undefined) throw new Damage('the count of the commits is gone')
  return Number(firstOf(row))
}

/** Prepares what counts a transaction as the nth. */
export const commitCounter = (db: DatabaseSync): ((count: number) => void) => {
  const statement = db.prepare('UPDATE commits SET record = ?')
  return (count) => void statement.run(sealed(String(count)))
}

type Row = Record<string, unknown>

/**
 * Puts a checksum before a text: over it, and over what is in the other columns that are read with it. Then, what was a first
 * digit from 0 to f is one from g to v.
 */
const sealed = (json: string, ...place: (string | number)[]): string => {
  const sum = checksum(json, place).toString(16).padStart(8, '0')
  return (place.length > 0 ? (Number.parseInt(sum.charAt(0), 16) + 16).toString(32) + sum.slice(1) : sum) + json
}

/** As node:sqlite reads a text: up to the first NUL. */
const checksum = (json: string, place: unknown[]): number =>
  crc32(json, place.length > 0 ? crc32(place.map((column) => String(column).split('\0', 1)[0]).join('\0')) : 0)

const parsed = <T>(json: string | undefined): T | undefined =>
  json === undefined ? undefined : (JSON.parse(json) as T)

/** The text in a row's first column, without its seal. */
const firstOf = (row: Row): string => {
  const [value, ...place] = Object.values(row)
  if (typeof value !== 'string') throw new Damage(`expected a text, found ${typeof value}`)
  // What schema 1 wrote has no seal, nor has a session's key; both begin as JSON does and as no seal can.
  if (value.startsWith('{') || value.startsWith('"')) return value
  const json = value.slice(8)
  const isPlaced = /^[g-v]/.test(value)
  const first = Number.parseInt(value.charAt(0), 32) - (isPlaced ? 16 : 0)
  const sum = Number.parseInt(first.toString(16) + value.slice(1, 8), 16)
  if (sum !== checksum(json, isPlaced ? place : [])) throw new Damage('a record has changed')
  return json
}

/** A picture and its checksum. */
const bytesOf = (row: Row): Uint8Array => {
  const [bytes, seal] = Object.values(row)
  if (!(bytes instanceof Uint8Array)) throw new Damage(`expected bytes, found ${typeof bytes}`)
  if (seal !== null && seal !== crc32(bytes)) throw new Damage('a picture has changed')
  return bytes
}

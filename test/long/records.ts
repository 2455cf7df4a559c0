/** What stands in the file of a gateway that does not run, read past all of its code. */
import { copyFileSync, existsSync, mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import type { Firing, RunRecord } from '../../src/stores/store.ts'

export interface KeptRun {
  key: string
  method: string
  sessionKey: string
  runId: string
  principal: string
  state: string
  /** By the wall clock, in ms. */
  acceptedAt: number
  endedAt: number | undefined
  /** The whole answer of an ended run. */
  text: string
  /** What was said to it. */
  message: string
  stopReason: string | undefined
  error: string | undefined
  /** Of a message from agent to agent, and of what came of one; as the store has them. */
  mail: Pick<RunRecord, 'agentId' | 'chain' | 'sent' | 'answers' | 'heard' | 'absorbedBy'>
}

export interface Records {
  /** In the order in which they were accepted. */
  runs: KeptRun[]
  /** The entries of each session's present transcript, oldest first. */
  transcripts: Map<string, { role: string; text: string }[]>
  /** The ids of the jobs, and their firings. */
  jobs: Set<string>
  firings: Firing[]
  /** What is not as it has to be in any file: damage, holes in a stream. */
  problems: string[]
}

/** Reads a copy: opening the file itself would change what the next start finds. */
export function readRecords(folder: string): Records {
  const copies = join(folder, 'copy')
  mkdirSync(copies)
  try {
    for (const suffix of ['', '-wal']) {
      const file = join(folder, `kurultai.sqlite${suffix}`)
      if (existsSync(file)) copyFileSync(file, join(copies, `kurultai.sqlite${suffix}`))
    }
    return recordsIn(join(copies, 'kurultai.sqlite'))
  } finally {
    rmSync(copies, { recursive: true })
  }
}

/** What is wrong with the last backup; nothing when there is none. */
export function problemsOfBackup(folder: string): string[] {
  const file = join(folder, 'backups', 'kurultai.sqlite')
  return existsSync(file) ? recordsIn(file).problems : []
}

function recordsIn(file: string): Records {
  const db = new DatabaseSync(file)
  try {
    // A process that was ended before it made its first table left nothing.
    if (db.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'streams'").get() === undefined)
      return { runs: [], transcripts: new Map(), jobs: new Set(), firings: [], problems: [] }
    const check = db
      .prepare('PRAGMA integrity_check')
      .all()
      .map((row) => String(row['integrity_check']))
    return {
      runs: db.prepare('SELECT record FROM runs ORDER BY seq').all().map(runOf),
      transcripts: transcriptsOf(db),
      jobs: new Set(rowsOf(db, 'jobs').map(({ id }) => id)),
      firings: rowsOf(db, 'firings') as Firing[],
      problems: [...check.filter((line) => line !== 'ok'), ...holesOf(db)],
    }
  } finally {
    db.close()
  }
}

// biome-ignore lint/suspicious/noExplicitAny: records of every shape
type Row = { [member: string]: any }

/** A record is JSON behind eight digits of its checksum, or without them. */
function parsed(value: unknown): Row {
  const text = String(value)
  return JSON.parse(/^[{["]/.test(text) ? text : text.slice(8))
}

const rowsOf = (db: DatabaseSync, table: 'jobs' | 'firings'): Row[] =>
  db
    .prepare(`SELECT record FROM ${table}`)
    .all()
    .map(({ record }) => parsed(record))

function runOf(row: Row): KeptRun {
  const { result, ...record } = parsed(row['record'])
  const payloads: { text: string }[] = result?.payloads ?? []
  const { key, method, sessionKey, runId, principal, state, acceptedAt, endedAt, message, stopReason, error } = record
  const { agentId, chain, sent, answers, heard, absorbedBy } = record
  const text = payloads.map((payload) => payload.text).join('')
  const run = {
    key,
    method,
    sessionKey,
    runId,
    principal,
    state,
    acceptedAt,
    endedAt,
    text,
    message,
    stopReason,
    error,
  }
  return { ...run, mail: { agentId, chain, sent, answers, heard, absorbedBy } }
}

function transcriptsOf(db: DatabaseSync): Records['transcripts'] {
  const transcripts: Records['transcripts'] = new Map()
  const messages = db.prepare('SELECT message FROM messages WHERE session_id = ? ORDER BY seq')
  for (const row of db.prepare('SELECT record FROM sessions').all()) {
    const { key, sessionId } = parsed(row['record'])
    const entries = messages.all(sessionId).map(({ message }) => {
      const { role, content } = parsed(message)
      return { role, text: (content as Row[]).map(({ text = '' }) => text).join('') }
    })
    transcripts.set(key, entries)
  }
  return transcripts
}

/** Offsets of a stream run on from the oldest that is kept without a hole, and end where the stream says it is. */
function holesOf(db: DatabaseSync): string[] {
  return db
    .prepare('SELECT seq, record, last FROM streams')
    .all()
    .flatMap(({ seq, record, last }) => {
      const { sessionKey, epoch } = parsed(record)
      const problems: string[] = []
      const chunks = db.prepare('SELECT * FROM chunks WHERE stream = ? ORDER BY first').all(seq!)
      let offset = chunks[0] ? Number(chunks[0]['first']) - 1 : 0
      for (const chunk of chunks) {
        const events = parsed(chunk['events']) as unknown as { payload: { epoch: string; offset: number } }[]
        for (const { payload } of events) {
          if (payload.epoch !== epoch || payload.offset !== offset + 1)
            problems.push(`${sessionKey} ${epoch}: ${payload.epoch} ${payload.offset} follows ${offset}`)
          offset = payload.offset
        }
      }
      if (offset !== Number(last)) problems.push(`${sessionKey} ${epoch}: ends at ${offset}, and says ${last}`)
      return problems
    })
}

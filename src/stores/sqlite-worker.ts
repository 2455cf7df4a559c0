/**
 * The thread that owns a store file. It holds the one connection, runs each batch of calls in one transaction and answers
 * after COMMIT.
 *
 * The connection keeps SQLite's exclusive lock from opening to closing. The system drops the lock with the process, so a
 * killed gateway never leaves it behind. It is a POSIX lock: opening and closing the file by any other way than SQLite
 * anywhere in this process would drop it.
 */
import { closeSync, fsyncSync, mkdirSync, openSync, renameSync, rmSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { parentPort, workerData } from 'node:worker_threads'
import type { Ledger } from './ledger.ts'
import { ledger } from './ledger.ts'
import { knownSchema, migrate, schemaOf } from './sqlite-schema.ts'
import { sqliteTables } from './sqlite-tables.ts'
import type { NewTurn } from './store.ts'
import { StoreError } from './store.ts'

/** What the thread is started with. */
export interface WorkerOptions {
  path: string
  backupDir: string
  maxBytes?: number
}

/** What is done outside of a transaction: such a call comes in a batch of its own. */
export type Maintenance = 'verify' | 'backup'

/** One call. `args` is JSON; the pictures of an `accept` come beside it, in order. */
export interface Call {
  operation: keyof Ledger | Maintenance
  args: string
  pictures: Uint8Array[]
}

export interface Failure {
  code: StoreError['code']
  message: string
}

export type Answer = { value: unknown } | { failure: Failure }

export type RefusalReason = 'locked' | 'newerSchema' | 'damaged' | 'failed'

export type ToWorker = { batch: Call[] } | 'close'

export type FromWorker =
  | { kind: 'opened'; sqliteVersion: string }
  | { kind: 'refused'; reason: RefusalReason; failure: Failure }
  /** `broken`: the disk failed; nothing will be answered any more. */
  | { kind: 'answers'; answers: Answer[]; transactions: number; broken?: Failure }
  | { kind: 'broken'; failure: Failure }

/** SQLite's primary result codes. */
const BUSY = 5
const READONLY = 8
const IOERR = 10
const CORRUPT = 11
const FULL = 13
const CANTOPEN = 14
const CONSTRAINT = 19
const NOTADB = 26

/** Bytes of log, as estimated, after which they are moved to the main file. */
const checkpointAfter = 16 * 1024 * 1024
/** How long without a call until the rest is moved too. */
const idleMs = 1000
/** Tries to get the lock, 25 to 50 ms apart: openers that meet can refuse each other, and a killed one takes a moment. */
const lockTries = 10

/** An opening that failed for a reason known in words. */
class Refusal extends Error {
  readonly reason: RefusalReason

  constructor(reason: RefusalReason, message: string) {
    super(message)
    this.reason = reason
  }
}

/** The primary result code of an SQLite error; undefined for any other. */
const resultCode = (error: unknown): number | undefined => {
  if (!(error instanceof Error) || !('errcode' in error)) return undefined
  return typeof error.errcode === 'number' ? error.errcode & 0xff : undefined
}

const failureOf = (error: unknown): Failure => {
  if (error instanceof StoreError) return { code: error.code, message: error.message }
  const message = error instanceof Error ? error.message : String(error)
  // Unix answers SQLite's own writes with FULL for ENOSPC; the file calls of a backup give the name.
  const noSpace = error instanceof Error && 'code' in error && (error.code === 'ENOSPC' || error.code === 'EDQUOT')
  const code = resultCode(error)
  if (code === FULL || noSpace) return { code: 'FULL', message: `no space to write: ${message}` }
  if (code === CONSTRAINT) return { code: 'CONFLICT', message }
  return { code: 'BROKEN', message: `the store failed: ${message}` }
}

const sleep = (ms: number): void => void Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)

const refuseNewer = (db: DatabaseSync): void => {
  const schema = schemaOf(db)
  if (schema <= knownSchema) return
  const versions = `schema ${schema}; this gateway knows ${knownSchema}`
  throw new Refusal('newerSchema', `the store was written by a newer gateway (${versions}) and is left untouched`)
}

/** Refuses a file of a newer gateway through a connection that cannot write: it leaves even the log as it is. */
const lookFirst = (path: string): void => {
  const db = new DatabaseSync(path, { readOnly: true })
  try {
    refuseNewer(db)
  } catch (error) {
    // Such a connection can neither undo a creation that was cut off nor, on a full disk, make the index file it wants
    // beside the log. The one that writes can, and looks again; were it to refuse, its closing might move the log into
    // the main file, and change nothing else.
    const code = resultCode(error)
    if (code !== READONLY && code !== IOERR && code !== CANTOPEN) throw error
  } finally {
    db.close()
  }
}

/** Opens the file, takes its lock and brings its tables up to date. */
const seize = (path: string, maxBytes: number | undefined): DatabaseSync => {
  lookFirst(path)
  const db = new DatabaseSync(path)
  try {
    // Before the first access, so that the log's index is kept in memory instead of in a file others could share.
    db.exec('PRAGMA locking_mode = EXCLUSIVE')
    refuseNewer(db)
    db.exec('PRAGMA journal_mode = WAL')
    // FULL syncs the log at each COMMIT. `fullfsync` matters on macOS, where fsync alone stops at the drive's cache.
    db.exec('PRAGMA synchronous = FULL; PRAGMA fullfsync = ON; PRAGMA checkpoint_fullfsync = ON')
    db.exec('BEGIN IMMEDIATE; COMMIT')
    db.exec('PRAGMA busy_timeout = 5000')
    // SQLite hides a failed sync of the checkpoint it makes by itself; see `checkpoint`.
    db.exec('PRAGMA wal_autocheckpoint = 0')
    db.exec('PRAGMA cell_size_check = ON; PRAGMA trusted_schema = OFF; PRAGMA cache_size = -16000')
    migrate(db)
    if (maxBytes !== undefined) {
      const pageSize = Number(db.prepare('PRAGMA page_size').get()?.['page_size'])
      db.exec(`PRAGMA max_page_count = ${Math.max(1, Math.floor(maxBytes / pageSize))}`)
    }
    return db
  } catch (error) {
    db.close()
    throw error
  }
}

const open = ({ path, maxBytes }: WorkerOptions): DatabaseSync => {
  for (let tries = 1; ; tries += 1) {
    try {
      return seize(path, maxBytes)
    } catch (error) {
      const code = resultCode(error)
      if (code === CORRUPT || code === NOTADB) throw new Refusal('damaged', `the store is damaged: ${String(error)}`)
      if (code !== BUSY) throw error
      if (tries === lockTries) throw new Refusal('locked', `another gateway uses this folder (${dirname(path)})`)
      sleep(25 + Math.random() * 25)
    }
  }
}

const fsyncPath = (path: string): void => {
  const file = openSync(path, 'r')
  try {
    fsyncSync(file)
  } finally {
    closeSync(file)
  }
}

const integrityOf = (db: DatabaseSync): string[] => {
  const problems: string[] = []
  try {
    for (const row of db.prepare('PRAGMA integrity_check').iterate()) problems.push(String(row['integrity_check']))
  } catch (error) {
    // Bad damage ends the check itself.
    if (resultCode(error) !== CORRUPT) throw error
    problems.push(failureOf(error).message)
  }
  return problems.filter((line) => line !== 'ok')
}

/** Writes a checked copy and puts it in the place of the last one. */
const backUp = (db: DatabaseSync, { path, backupDir }: WorkerOptions): string => {
  mkdirSync(backupDir, { recursive: true, mode: 0o700 })
  const copy = join(backupDir, basename(path))
  const fresh = `${copy}.new`
  rmSync(fresh, { force: true })
  // VACUUM INTO takes an empty file as it finds it, mode included.
  closeSync(openSync(fresh, 'wx', 0o600))
  db.prepare('VACUUM INTO ?').run(fresh)
  const check = new DatabaseSync(fresh, { readOnly: true })
  try {
    const [problem] = integrityOf(check)
    if (problem !== undefined) throw new StoreError('BROKEN', `the copy is damaged: ${problem}`)
  } finally {
    check.close()
  }
  fsyncPath(fresh)
  renameSync(fresh, copy)
  fsyncPath(backupDir)
  return copy
}

/** Serves the calls of the main thread until it says `close` or the disk fails. */
const serve = (db: DatabaseSync, options: WorkerOptions, port: NonNullable<typeof parentPort>): void => {
  const book = ledger(sqliteTables(db))
  let transactions = 0
  let logged = 0
  let broken: Failure | undefined
  let idle: NodeJS.Timeout | undefined

  const post = (message: FromWorker): void => port.postMessage(message)

  /**
   * After a failed write or sync the system may have dropped pages and still answer the next sync with success, so an I/O
   * error is never followed by another try: the store is broken until it is opened anew.
   */
  const noteFailure = (error: unknown): Failure => {
    const failure = failureOf(error)
    if (resultCode(error) === IOERR) broken = failure
    return failure
  }

  const maintenance = { verify: () => integrityOf(db), backup: () => backUp(db, options) } satisfies Record<
    Maintenance,
    () => unknown
  >
  const isMaintenance = (operation: string): operation is Maintenance => Object.hasOwn(maintenance, operation)

  const perform = ({ operation, args, pictures }: Call): unknown => {
    const values = JSON.parse(args) as unknown[]
    if (isMaintenance(operation)) return maintenance[operation]()
    if (operation === 'accept') {
      const turn = values[0] as NewTurn
      return book.accept({ ...turn, attachments: turn.attachments.map((a, i) => ({ ...a, bytes: pictures[i]! })) })
    }
    return (book[operation] as (...args: unknown[]) => unknown)(...values)
  }

  const answer = (call: Call): Answer => {
    try {
      return { value: perform(call) }
    } catch (error) {
      // The ledger throws these before it writes, so the transaction can go on.
      if (error instanceof StoreError) return { failure: failureOf(error) }
      throw error
    }
  }

  const inTransaction = (batch: Call[]): Answer[] => {
    transactions += 1
    db.exec('BEGIN IMMEDIATE')
    try {
      const answers = batch.map(answer)
      db.exec('COMMIT')
      return answers
    } catch (error) {
      // Some failures have rolled back by themselves.
      if (db.isTransaction) db.exec('ROLLBACK')
      throw error
    }
  }

  const run = (batch: Call[]): Answer[] => {
    if (broken !== undefined) return refuse(batch, broken)
    try {
      return batch.some(({ operation }) => isMaintenance(operation)) ? batch.map(answer) : inTransaction(batch)
    } catch (error) {
      const failure = noteFailure(error)
      if (broken !== undefined || batch.length === 1) return refuse(batch, failure)
      return batch.flatMap((call) => run([call]))
    }
  }

  /**
   * Moves the log into the main file. Without space the log simply stays; it holds everything, and a later call writes
   * the same pages again.
   */
  const checkpoint = (mode: 'PASSIVE' | 'TRUNCATE'): void => {
    logged = 0
    try {
      db.prepare(`PRAGMA wal_checkpoint(${mode})`).get()
    } catch (error) {
      if (resultCode(error) !== FULL) broken = failureOf(error)
    }
  }

  const checkpointOrBreak = (): void => {
    if (logged === 0 || broken !== undefined) return
    checkpoint('PASSIVE')
    if (broken !== undefined) post({ kind: 'broken', failure: broken })
  }

  port.on('message', (message: ToWorker) => {
    clearTimeout(idle)
    if (message === 'close') {
      if (broken === undefined) checkpoint('TRUNCATE')
      db.close()
      port.close()
      return
    }
    const answers = run(message.batch)
    post({ kind: 'answers', answers, transactions, ...(broken === undefined ? {} : { broken }) })
    // A guess at the pages touched: some per transaction, one per call, and what the calls carry.
    for (const { args, pictures } of message.batch) {
      logged += 4096 + args.length + pictures.reduce((bytes, picture) => bytes + picture.byteLength, 0)
    }
    logged += 4 * 4096
    // After the answer: whoever waited for the COMMIT does not wait for this.
    if (logged >= checkpointAfter) checkpointOrBreak()
    idle = setTimeout(checkpointOrBreak, idleMs).unref()
  })
}

const refuse = (batch: Call[], failure: Failure): Answer[] => batch.map(() => ({ failure }))

const main = (port: NonNullable<typeof parentPort>, options: WorkerOptions): void => {
  let db: DatabaseSync
  try {
    db = open(options)
  } catch (error) {
    const reason = error instanceof Refusal ? error.reason : 'failed'
    const failure: Failure =
      error instanceof Refusal
        ? { code: reason === 'locked' ? 'CONFLICT' : 'BROKEN', message: error.message }
        : failureOf(error)
    port.postMessage({ kind: 'refused', reason, failure } satisfies FromWorker)
    return
  }
  const sqliteVersion = String(db.prepare('SELECT sqlite_version() AS version').get()?.['version'])
  serve(db, options, port)
  port.postMessage({ kind: 'opened', sqliteVersion } satisfies FromWorker)
}

if (parentPort !== null) main(parentPort, workerData as WorkerOptions)

/**
 * The thread that owns a store file. It holds the one connection, runs each batch of calls in one transaction and answers
 * after COMMIT.
 *
 * The connection keeps SQLite's exclusive lock from opening to closing. The system drops the lock with the process, so a
 * killed gateway never leaves it behind. It is a POSIX lock: opening and closing the file by any other way than SQLite
 * anywhere in this process would drop it.
 */
import {
  closeSync,
  copyFileSync,
  createReadStream,
  createWriteStream,
  existsSync,
  mkdirSync,
  openSync,
  renameSync,
  rmSync,
} from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { pipeline } from 'node:stream/promises'
import { pathToFileURL } from 'node:url'
import { parentPort, Worker, workerData } from 'node:worker_threads'
import type { Operation, Tables } from './ledger.ts'
import { ledger } from './ledger.ts'
import { fsyncFolder, fsyncPath, openNote, readNote, removeNote, sizeOf, writeNote } from './sqlite-note.ts'
import { isOfKnownSchema, knownSchema, migrate, schemaFits, schemaOf, withCommits } from './sqlite-schema.ts'
import { brokenSeals, commitCounter, commitsOf, Damage, sqliteTables } from './sqlite-tables.ts'
import type { NewTurn, Quotas } from './store.ts'
import { StoreError } from './store.ts'

/** What the thread is started with. */
export interface WorkerOptions {
  path: string
  backupDir: string
  maxBytes?: number
  quotas?: Quotas
  /** The wall-clock time, for the name of what is set aside. */
  now: number
  /** Refuse a damaged file instead of setting it aside. */
  refuseDamaged: boolean
}

/** What the thread that admits a backup is started with. */
export interface AdmitOptions {
  fresh: string
  copy: string
}

/** What was found wrong with a file when it was opened, and what took its place. */
export interface Incident {
  /** Where the damaged file is now, or a copy of its damaged log; absent when its log was gone. */
  aside: string | undefined
  /** The backup that took its place; absent when there was none to take and the store began empty. */
  restored: string | undefined
  reason: string
}

/**
 * What is done outside of a transaction: such a call comes in a batch of its own. The answer to `backup` only says that it
 * has begun; a `backup` message follows.
 */
export type Maintenance = 'verify' | 'backup'

/** One call. `args` is JSON; the pictures of an `accept` come beside it, in order. */
export interface Call {
  operation: Operation | Maintenance
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
  | { kind: 'opened'; sqliteVersion: string; incident?: Incident }
  | { kind: 'refused'; reason: RefusalReason; failure: Failure }
  /** `broken`: the disk failed; nothing will be answered any more. */
  | { kind: 'answers'; answers: Answer[]; transactions: number; broken?: Failure }
  | { kind: 'backup'; answer: Answer }
  | { kind: 'broken'; failure: Failure }

/** SQLite's primary result codes. */
const ERROR = 1
const BUSY = 5
const READONLY = 8
const IOERR = 10
const CORRUPT = 11
const FULL = 13
const CANTOPEN = 14
const CONSTRAINT = 19
const NOTADB = 26
/** The extended code for a file that ends in the middle of a page: its disk is well, and its end is missing. */
const SHORT_READ = IOERR | (2 << 8)

/** Bytes of log, as estimated, after which they are moved to the main file. */
const checkpointAfter = 16 * 1024 * 1024
/** How long without a call until the rest is moved too. */
const idleMs = 1000
/**
 * Files up to these many bytes have their structure and their seals checked when they are opened. 50 MB took 110 ms and
 * 310 ms (two shared cores, 40,000 short turns), so that neither takes more than 300 ms. What is not checked then is
 * checked when it is read, at each backup and by `verify`.
 */
const structureUpTo = 128 * 1024 * 1024
const sealsUpTo = 32 * 1024 * 1024
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

/** The extended result code of an SQLite error; undefined for any other. */
const extendedCode = (error: unknown): number | undefined => {
  if (!(error instanceof Error) || !('errcode' in error)) return undefined
  return typeof error.errcode === 'number' ? error.errcode : undefined
}

/** The primary one. */
const resultCode = (error: unknown): number | undefined => {
  const code = extendedCode(error)
  return code === undefined ? undefined : code & 0xff
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
  if (isOfKnownSchema(db)) throw new Damage(`its version is not that of its tables (${versions})`)
  throw new Refusal('newerSchema', `the store was written by a newer gateway (${versions}) and is left untouched`)
}

/**
 * Refuses a file of a newer gateway, and one with a log that is not its own, through a connection that cannot write: it leaves
 * even the log as it is. One that can write moves the log into the file when it is closed.
 */
const lookFirst = (path: string): void => {
  const logThere = existsSync(`${path}-wal`)
  const db = new DatabaseSync(path, { readOnly: true })
  try {
    refuseNewer(db)
    lossOf(db, path, logThere)
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

const backupOf = ({ path, backupDir }: WorkerOptions): string => join(backupDir, basename(path))

/** Notes that the file is in use, if there is space to: without, only a log that goes missing would not be noticed. */
const noteUse = (path: string, count: number): void => orWithoutSpace(() => writeNote(path, { count }))

/** Does what can be left undone when the disk is full. */
const orWithoutSpace = (act: () => void): void => {
  try {
    act()
  } catch (error) {
    if (failureOf(error).code !== 'FULL') throw error
  }
}

/** Whether an error says that a file does not hold what was written to it. */
const isDamage = (error: unknown): boolean => {
  const code = resultCode(error)
  if (code === CORRUPT || code === NOTADB || extendedCode(error) === SHORT_READ) return true
  // What a changed number in the header is called, without a code of its own.
  if (code === ERROR && (error as Error).message === 'unsupported file format') return true
  return error instanceof Damage || error instanceof SyntaxError
}

const structureProblems = (db: DatabaseSync): string[] => {
  const problems: string[] = []
  try {
    for (const row of db.prepare('PRAGMA integrity_check').iterate()) problems.push(String(row['integrity_check']))
  } catch (error) {
    // Bad damage ends the check itself.
    if (!isDamage(error)) throw error
    problems.push(failureOf(error).message)
  }
  return problems.filter((line) => line !== 'ok')
}

const problemsOf = (db: DatabaseSync): string[] => {
  const problems = structureProblems(db)
  // Without a sound structure the seals cannot be read.
  return problems.length > 0 ? problems : brokenSeals(db)
}

const refuseProblems = ([problem]: string[]): void => {
  if (problem !== undefined) throw new Damage(problem)
}

interface Opened {
  db: DatabaseSync
  tables: Tables
  /** Commits so far. */
  count: number
  incident?: Incident
}

/** Opens the file, takes its lock, looks for damage and brings its tables up to date. */
const seize = (options: WorkerOptions): Opened => {
  const { path, maxBytes } = options
  const size = sizeOf(path) ?? 0
  // SQLite takes a file of less than its smallest page for an empty one, and fills it.
  if (size < 512 && (size > 0 || sizeOf(`${path}-wal`) || sizeOf(backupOf(options))))
    throw new Damage('the file is cut off, emptied or gone')
  const logThere = existsSync(`${path}-wal`)
  lookFirst(path)
  const reason = readNote(path)?.reason
  if (reason !== undefined) throw new Damage(reason)
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
    if (!schemaFits(db)) throw new Damage('the tables are not those of its schema')
    const loss = lossOf(db, path, logThere)
    migrate(db)
    const tables = prepareTables(db)
    if (size <= sealsUpTo) refuseProblems(problemsOf(db))
    else if (size <= structureUpTo) refuseProblems(structureProblems(db))
    const count = commitsOf(db) + (loss === undefined ? 0 : 1)
    const aside = loss !== undefined && logThere ? copyLog(options) : undefined
    if (loss !== undefined) forgetStreams(db, count)
    noteUse(path, count)
    if (maxBytes !== undefined) {
      const pageSize = Number(db.prepare('PRAGMA page_size').get()?.['page_size'])
      db.exec(`PRAGMA max_page_count = ${Math.max(1, Math.floor(maxBytes / pageSize))}`)
    }
    if (loss === undefined) return { db, tables, count }
    return { db, tables, count, incident: { aside, restored: undefined, reason: loss } }
  } catch (error) {
    db.close()
    throw error
  }
}

/** With the tables as they should be, only a damaged column name can make a statement wrong. */
const prepareTables = (db: DatabaseSync): Tables => {
  try {
    return sqliteTables(db)
  } catch (error) {
    if (resultCode(error) === ERROR) throw new Damage(String(error))
    throw error
  }
}

/**
 * What was committed and is not there any more, in words.
 *
 * Whoever closes the file leaves no note. After anybody else its log should be there, and hold every commit that the note counts:
 * to SQLite a log with a damaged part looks as if a power cut had ended it there. A log that ends before what is in the main
 * file already, or that was cut off while it was moved there, would put old pages among new ones: that is {@link Damage}.
 */
const lossOf = (db: DatabaseSync, path: string, logThere: boolean): string | undefined => {
  const note = readNote(path)
  if (note === undefined) return undefined
  if (!logThere) return 'the log is gone although the file was in use: the last changes may be lost'
  if (note.isIllegible) return 'the note on the use of the file is damaged: whether changes are lost is not known'
  const there = schemaOf(db) < withCommits ? 0 : commitsOf(db)
  if (there < commitsInMain(path)) throw new Damage('the log ends before what was moved from it')
  if (note.count === undefined || there >= note.count) return undefined
  if (note.isMoving) throw new Damage('the log was damaged while it was moved')
  return `the log is damaged: of ${note.count} changes the last ${note.count - there} are lost`
}

/** The count in the main file, without its log; 0 where that alone cannot be read. */
const commitsInMain = (path: string): number => {
  const location = pathToFileURL(path)
  // As for a file that never changes: neither log nor lock is looked at.
  location.search = '?immutable=1'
  const db = new DatabaseSync(location, { readOnly: true })
  try {
    return schemaOf(db) < withCommits ? 0 : commitsOf(db)
  } catch (error) {
    if (isDamage(error) || resultCode(error) === ERROR) return 0
    throw error
  } finally {
    db.close()
  }
}

/** Keeps a log that SQLite is about to write over, if there is space to; gives where. */
const copyLog = ({ path, now }: WorkerOptions): string | undefined => {
  const aside = `${unusedName(path, now)}-wal`
  orWithoutSpace(() => copyFileSync(`${path}-wal`, aside))
  return existsSync(aside) ? aside : undefined
}

/** Where changes are lost, offsets would be given out twice: without its stream each session begins with a new epoch. */
const forgetStreams = (db: DatabaseSync, count: number): void => {
  db.exec('BEGIN; DELETE FROM chunks; DELETE FROM streams; UPDATE runs SET unannounced = NULL')
  commitCounter(db)(count)
  db.exec('COMMIT')
}

const open = (options: WorkerOptions): Opened => {
  for (let tries = 1; ; tries += 1) {
    try {
      return seize(options)
    } catch (error) {
      if (isDamage(error)) throw new Refusal('damaged', `the store is damaged: ${String(error)}`)
      if (resultCode(error) !== BUSY) throw error
      if (tries === lockTries)
        throw new Refusal('locked', `another gateway uses this folder (${dirname(options.path)})`)
      sleep(25 + Math.random() * 25)
    }
  }
}

const isDamaged = (error: unknown): error is Refusal => error instanceof Refusal && error.reason === 'damaged'

const openOrMend = (options: WorkerOptions): Opened => {
  try {
    return open(options)
  } catch (error) {
    if (!isDamaged(error) || options.refuseDamaged) throw error
  }
  // One at a time: the next one must not set aside what this one put in place. SQLite's lock ends with the process.
  const turn = new DatabaseSync(`${options.path}.mending`)
  try {
    turn.exec('PRAGMA busy_timeout = 10000; BEGIN EXCLUSIVE')
    try {
      return open(options)
    } catch (error) {
      if (!isDamaged(error)) throw error
      const incident = mend(options, error.message)
      return { ...open(options), incident }
    }
  } finally {
    turn.close()
    rmSync(`${options.path}.mending`, { force: true })
  }
}

/**
 * Sets a damaged file aside and puts the last backup in its place, or nothing.
 *
 * It begins with a note and ends without one. Cut off in between it is begun again, goes on with the same names and comes
 * to the same end; nothing is opened as a store before.
 */
const mend = (options: WorkerOptions, reason: string): Incident => {
  const { path } = options
  const aside = readNote(path)?.aside ?? unusedName(path, options.now)
  writeNote(path, { reason, aside })
  const fresh = `${path}.restoring`
  const restored = restore(options, fresh)
  for (const suffix of ['', '-wal', '-shm', '-journal']) {
    if (existsSync(path + suffix) && !existsSync(aside + suffix)) renameSync(path + suffix, aside + suffix)
    // What is there again was made since it was set aside. A log left behind would be played onto the new file.
    rmSync(path + suffix, { force: true })
  }
  fsyncFolder(dirname(path))
  renameSync(fresh, path)
  removeNote(path)
  return { aside, restored, reason }
}

const unusedName = (path: string, now: number): string => {
  const name = `${path}.damaged-${now}`
  return existsSync(name) || existsSync(`${name}-wal`) ? unusedName(path, now + 1) : name
}

/** Makes a file for the place of a damaged one; gives the backup it was made of. */
const restore = (options: WorkerOptions, fresh: string): string | undefined => {
  const backup = backupOf(options)
  for (const suffix of ['', '-wal', '-shm', '-journal']) rmSync(fresh + suffix, { force: true })
  closeSync(openSync(fresh, 'wx', 0o600))
  if (!existsSync(backup)) return undefined
  copyFileSync(backup, fresh)
  try {
    const db = new DatabaseSync(fresh)
    try {
      refuseNewer(db)
      if (!schemaFits(db) || schemaOf(db) === 0) throw new Damage('the tables are not those of its schema')
      migrate(db)
      refuseProblems(problemsOf(db))
      forgetStreams(db, commitsOf(db) + 1)
    } finally {
      db.close()
    }
    fsyncPath(fresh)
    return backup
  } catch (error) {
    if (!isDamage(error)) throw error
    // Kept, because the next backup takes its name.
    renameSync(backup, unusedName(backup, options.now))
    return restore(options, fresh)
  }
}

/** Checks a fresh copy and puts it in the place of the last backup. */
const admit = ({ fresh, copy }: AdmitOptions): { copy: string } | { problem: string } => {
  const db = new DatabaseSync(fresh)
  try {
    const [problem] = problemsOf(db)
    if (problem !== undefined) return { problem }
    // The copy says, as the store does, that it has a log; it needs none.
    db.exec('PRAGMA journal_mode = DELETE')
  } finally {
    db.close()
  }
  fsyncPath(fresh)
  renameSync(fresh, copy)
  fsyncFolder(dirname(copy))
  return { copy }
}

/** Does the same in a thread of its own: on a large file it takes a while. */
const admitElsewhere = (options: AdmitOptions): Promise<ReturnType<typeof admit>> =>
  new Promise((resolve, reject) => {
    const thread = new Worker(new URL(import.meta.url), { workerData: options, execArgv: process.execArgv })
    thread.once('message', (message: ReturnType<typeof admit> | { failure: Failure }) => {
      if ('failure' in message) reject(new StoreError(message.failure.code, message.failure.message))
      else resolve(message)
    })
    thread.once('error', reject)
    thread.once('exit', () => reject(new StoreError('BROKEN', 'the thread that checks the backup ended')))
  })

/** Serves the calls of the main thread until it says `close` or the disk fails. */
const serve = ({ db, tables, count }: Opened, options: WorkerOptions, port: NonNullable<typeof parentPort>): void => {
  const book = ledger(tables, options.quotas)
  const setCount = commitCounter(db)
  const totalChanges = db.prepare('SELECT total_changes() AS n')
  const changesSoFar = (): number => Number(totalChanges.get()?.['n'])
  const note = openNote(options.path)
  let commits = count
  /** The log has begun to be moved, and not all of it was. */
  let isMoving = false
  let transactions = 0
  let logged = 0
  let broken: Failure | undefined
  let copying: Promise<void> | undefined
  /** For reading the main file as it is; closed after the connection, because to close it drops the file's lock. */
  let reading: number | undefined
  let idle: NodeJS.Timeout | undefined

  const post = (message: FromWorker): void => port.postMessage(message)

  /**
   * After a failed write or sync the system may have dropped pages and still answer the next sync with success, so an I/O
   * error is never followed by another try: the store is broken until it is opened anew. So it is by damage: what would
   * be written from now on would be lost with the file.
   */
  const noteFailure = (error: unknown): Failure => {
    const failure = failureOf(error)
    if (resultCode(error) === IOERR) broken = failure
    if (isDamage(error)) noteDamage(failure.message)
    return failure
  }

  /** Before any of these commits is acknowledged: whoever opens the file after a crash misses those that are not there. */
  const noteCommits = (): void => {
    try {
      orWithoutSpace(() => note?.count(commits, isMoving))
    } catch (error) {
      // What was committed stays committed, and is answered.
      broken = failureOf(error)
    }
  }

  const noteDamage = (reason: string): void => {
    broken = { code: 'BROKEN', message: `the store is damaged: ${reason}` }
    try {
      writeNote(options.path, { reason })
    } catch {
      // Without space for the note the damage is met again, and noted then.
    }
  }

  const verify = (): string[] => {
    const problems = problemsOf(db)
    if (problems[0] !== undefined) noteDamage(problems[0])
    return problems
  }

  /**
   * Begins a backup: the log is moved, and as long as it is not moved again the main file does not change. It is read
   * beside the calls: at 50 MB the longest of thousands of calls took 5 to 40 ms. At 97 MB, VACUUM INTO and the check of its
   * copy kept them all for 304 ms; `backup` of node:sqlite holds the connection while it syncs the copy, for 90 to 170 ms, and
   * rejects when a transaction is open at its first step (Node 22.23).
   */
  const beginBackup = (): void => {
    if (copying !== undefined) throw new StoreError('CONFLICT', 'a backup is under way')
    if (!checkpoint('TRUNCATE')) throw new StoreError(broken?.code ?? 'FULL', 'the log could not be moved for a backup')
    copying = backUp()
      .then((value): Answer => ({ value }))
      .catch((error: unknown): Answer => {
        // What there is of it would fill a disk that is full already.
        rmSync(`${backupOf(options)}.new`, { force: true })
        return { failure: failureOf(error) }
      })
      .then((answer) => {
        copying = undefined
        post({ kind: 'backup', answer })
        if (broken !== undefined) post({ kind: 'broken', failure: broken })
        else if (logged >= checkpointAfter) checkpointOrBreak()
      })
  }

  const backUp = async (): Promise<string> => {
    const { path, backupDir } = options
    mkdirSync(backupDir, { recursive: true, mode: 0o700 })
    const copy = backupOf(options)
    const fresh = `${copy}.new`
    for (const suffix of ['', '-wal', '-shm', '-journal']) rmSync(fresh + suffix, { force: true })
    reading ??= openSync(path, 'r')
    await pipeline(
      createReadStream('', { fd: reading, autoClose: false, start: 0, highWaterMark: 1024 * 1024 }),
      createWriteStream(fresh, { flags: 'wx', mode: 0o600 }),
    )
    const admitted = await admitElsewhere({ fresh, copy })
    if ('copy' in admitted) return admitted.copy
    // Byte for byte the same, so this is what the main file has, too.
    noteDamage(admitted.problem)
    throw new StoreError('BROKEN', `the copy is damaged, and so is the store: ${admitted.problem}`)
  }

  const maintenance = { verify, backup: beginBackup } satisfies Record<Maintenance, () => unknown>
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
      // What was undone counts, too: so it is asked each time.
      const before = changesSoFar()
      const answers = batch.map(answer)
      const isChanged = changesSoFar() !== before
      if (isChanged) setCount(commits + 1)
      db.exec('COMMIT')
      if (isChanged) {
        commits += 1
        noteCommits()
      }
      return answers
    } catch (error) {
      // Some failures have rolled back by themselves.
      if (db.isTransaction) db.exec('ROLLBACK')
      book.undone()
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
   * the same pages again. Gives whether all of it was moved.
   */
  const checkpoint = (mode: 'PASSIVE' | 'TRUNCATE'): boolean => {
    logged = 0
    try {
      isMoving = true
      noteCommits()
      isMoving = db.prepare(`PRAGMA wal_checkpoint(${mode})`).get()?.['busy'] !== 0
      noteCommits()
      return !isMoving
    } catch (error) {
      if (resultCode(error) !== FULL) broken = noteFailure(error)
      return false
    }
  }

  const checkpointOrBreak = (): void => {
    if (logged === 0 || broken !== undefined || copying !== undefined) return
    checkpoint('PASSIVE')
    if (broken !== undefined) post({ kind: 'broken', failure: broken })
  }

  const close = (): void => {
    if (broken === undefined) checkpoint('TRUNCATE')
    // Before the connection ends: it takes the log away, and a note without a log says that the log was lost.
    note?.close()
    if (broken === undefined) removeNote(options.path)
    db.close()
    if (reading !== undefined) closeSync(reading)
    port.close()
  }

  port.on('message', (message: ToWorker) => {
    clearTimeout(idle)
    if (message === 'close') {
      if (copying === undefined) close()
      else void copying.then(close)
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
  let opened: Opened
  try {
    opened = openOrMend(options)
  } catch (error) {
    const reason = error instanceof Refusal ? error.reason : 'failed'
    const failure: Failure =
      error instanceof Refusal
        ? { code: reason === 'locked' ? 'CONFLICT' : 'BROKEN', message: error.message }
        : failureOf(error)
    port.postMessage({ kind: 'refused', reason, failure } satisfies FromWorker)
    return
  }
  const { db, incident } = opened
  const sqliteVersion = String(db.prepare('SELECT sqlite_version() AS version').get()?.['version'])
  serve(opened, options, port)
  port.postMessage({ kind: 'opened', sqliteVersion, ...(incident && { incident }) } satisfies FromWorker)
}

const mainOfAdmission = (port: NonNullable<typeof parentPort>, options: AdmitOptions): void => {
  try {
    port.postMessage(admit(options))
  } catch (error) {
    port.postMessage({ failure: failureOf(error) })
  }
}

if (parentPort !== null) {
  const options = workerData as WorkerOptions | AdmitOptions
  if ('copy' in options) mainOfAdmission(parentPort, options)
  else main(parentPort, options)
}

/**
 * A store in one SQLite file, served by a thread of its own.
 *
 * Calls gather while a batch is under way and leave together when it is done: one transaction and one sync for all of
 * them, without waiting for company. A call resolves after the COMMIT that holds it.
 */
import { chmodSync, closeSync, existsSync, mkdirSync, openSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
// Bound here, so that a test's fake clock does not hold back the store.
import { setImmediate } from 'node:timers'
import { Worker } from 'node:worker_threads'
import type { Ask } from './ledger.ts'
import { asking } from './ledger.ts'
import { forgetUse, fsyncFolder } from './sqlite-note.ts'
import type {
  Answer,
  Call,
  Failure,
  FromWorker,
  Incident,
  Maintenance,
  RefusalReason,
  ToWorker,
  WorkerOptions,
} from './sqlite-worker.ts'
import type { NewTurn, Quotas, Store } from './store.ts'
import { StoreError } from './store.ts'

export interface SqliteOptions {
  /** The file; it and its folder are made if missing, for the owner alone. */
  path: string
  /** Where {@link SqliteStore.backup} puts its copy; `backups` beside the file when absent. */
  backupDir?: string
  /** Refuse, with `FULL`, what would make the file larger than this many bytes. Unlimited when absent. */
  maxBytes?: number
  /** Without end when absent. */
  quotas?: Quotas
  /** Wall-clock ms for the name of a damaged file that is set aside; the present when absent. */
  now?: number
  /** Refuse a damaged file and leave it where it is. */
  refuseDamaged?: boolean
  /** Hears, once, what the operator should know about this SQLite. */
  warn?: (message: string) => void
}

export interface SqliteStore extends Store {
  readonly path: string
  /** Transactions so far; far fewer than calls when calls come together. */
  readonly transactions: number
  /**
   * What had happened to the file, if something had. The streams of all sessions are gone then, so that every one begins
   * with a new epoch.
   */
  readonly incident: Incident | undefined
  /** Resolves when the store is BROKEN, also when that is seen while nobody asks for anything. */
  readonly lost: Promise<StoreError>
  /**
   * Puts a checked copy of the file, as it is at this call, in `backupDir`, in the place of the last one, and resolves to
   * its path. Later calls do not wait for it. CONFLICT while another backup is under way. When the copy shows damage the
   * call rejects, the last backup stays, and the store is BROKEN: the next opening mends it.
   */
  backup(): Promise<string>
}

/** A file that could not be opened, and why. */
export class OpenRefused extends StoreError {
  /**
   * `locked`: another gateway has it. `newerSchema`: a newer gateway wrote it. `damaged`: not a sound SQLite file, and told
   * to leave it, or found again after it was mended.
   */
  readonly reason: RefusalReason

  constructor(reason: RefusalReason, failure: Failure) {
    super(failure.code, failure.message)
    this.reason = reason
  }
}

/** What one batch takes at the most: bounds the memory of a transaction and the time until its first answer. */
const batchCalls = 1024
const batchBytes = 8 * 1024 * 1024

interface Pending extends Call {
  resolve(value: unknown): void
  reject(error: StoreError): void
}

/**
 * Opens the store in a file, making it if it is missing.
 *
 * A damaged file is set aside under `<path>.damaged-<now>`, with its log, and the last backup takes its place; without a
 * sound one the store begins empty. {@link SqliteStore.incident} says so.
 *
 * Rejects with {@link OpenRefused}, within about half a second when another gateway holds the file.
 */
export const openSqliteStore = async (options: SqliteOptions): Promise<SqliteStore> => {
  const path = resolve(options.path)
  const backupDir = resolve(options.backupDir ?? join(dirname(path), 'backups'))
  try {
    prepareFile(path)
  } catch (error) {
    throw new StoreError('BROKEN', `cannot make ${path}: ${String(error)}`, { cause: error })
  }
  const { worker, sqliteVersion, incident } = await startWorker({
    path,
    backupDir,
    now: options.now ?? Date.now(),
    refuseDamaged: options.refuseDamaged ?? false,
    ...(options.maxBytes === undefined ? {} : { maxBytes: options.maxBytes }),
    ...(options.quotas && { quotas: options.quotas }),
  })
  if (isOlder(sqliteVersion, [3, 51, 3])) {
    options.warn?.(
      `SQLite ${sqliteVersion} can damage a file when two connections reset its log at once (fixed in 3.51.3). ` +
        'The gateway keeps a single connection, so its own file is safe; open it with nothing else while it runs.',
    )
  }
  return serveQueue(worker, path, incident)
}

/** Makes folder and file, readable by the owner alone, and makes their names durable. */
const prepareFile = (path: string): void => {
  const folder = dirname(path)
  const made = mkdirSync(folder, { recursive: true, mode: 0o700 })
  try {
    // Only a file that was not there is opened here. To open and close one that is in use would drop its lock, and no
    // other opener of this process can come between these two calls.
    closeSync(openSync(path, 'wx', 0o600))
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error
    chmodSync(path, 0o600)
    return
  }
  fsyncFolder(folder)
  for (let at = folder; made !== undefined && at.length >= made.length; at = dirname(at)) fsyncFolder(dirname(at))
}

interface Started {
  worker: Worker
  sqliteVersion: string
  incident: Incident | undefined
}

/** Starts the thread; rejects when it could not open the file. */
const startWorker = (workerData: WorkerOptions): Promise<Started> => {
  // Sources run as they are; a build puts the thread's file beside this one.
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js'
  const worker = new Worker(new URL(`./sqlite-worker.${extension}`, import.meta.url), {
    workerData,
    // node:sqlite is called experimental on Node 22.
    execArgv: ['--disable-warning=ExperimentalWarning'],
  })
  return new Promise((resolve, reject) => {
    const onError = (cause: unknown): void => reject(new StoreError('BROKEN', 'the storage thread failed', { cause }))
    const onExit = (): void => reject(new StoreError('BROKEN', 'the storage thread ended'))
    worker.once('error', onError)
    worker.once('exit', onExit)
    worker.once('message', (message: FromWorker) => {
      if (message.kind === 'refused') return reject(new OpenRefused(message.reason, message.failure))
      if (message.kind !== 'opened') return
      // What follows is for the queue, which starts to listen before anything else can arrive.
      worker.off('error', onError).off('exit', onExit)
      resolve({ worker, sqliteVersion: message.sqliteVersion, incident: message.incident })
    })
  })
}

/** The main thread's side of a store: the calls that wait and the batch that is under way. */
const serveQueue = (worker: Worker, path: string, incident: Incident | undefined): SqliteStore => {
  let waiting: Pending[] = []
  let flying: Pending[] = []
  /** The backup that has begun. */
  let copying: Pending | undefined
  let flushing = false
  let transactions = 0
  /** Why calls are refused, once they are. */
  let ended: StoreError | undefined
  let closing: Promise<void> | undefined
  let exited = false
  const onExit = Promise.withResolvers<void>()
  const lost = Promise.withResolvers<StoreError>()

  const fail = (error: StoreError): void => {
    if (ended === undefined) lost.resolve(error)
    ended ??= error
    const left = [...flying, ...waiting, ...(copying === undefined ? [] : [copying])]
    flying = []
    waiting = []
    copying = undefined
    for (const { reject } of left) reject(error)
    // A broken store holds the file's lock for nothing.
    void worker.terminate()
  }

  const settle = (call: Pending | undefined, answer: Answer): void => {
    if ('value' in answer) call?.resolve(answer.value)
    else call?.reject(new StoreError(answer.failure.code, answer.failure.message))
  }

  worker.on('message', (message: FromWorker) => {
    if (message.kind === 'backup') {
      settle(copying, message.answer)
      copying = undefined
    }
    if (message.kind === 'broken') fail(new StoreError(message.failure.code, message.failure.message))
    if (message.kind !== 'answers') return
    transactions = message.transactions
    const answered = flying
    flying = []
    for (const [index, call] of answered.entries()) {
      const answer = message.answers[index]!
      if (call.operation === 'backup' && 'value' in answer) copying = call
      else settle(call, answer)
    }
    if (message.broken) fail(new StoreError('BROKEN', message.broken.message))
    else flushSoon()
  })
  worker.on('error', (error) => fail(new StoreError('BROKEN', 'the storage thread failed', { cause: error })))
  // SQLite moves the log and takes it away also when the thread is ended from outside. Only a killed process, or a disk that
  // failed, leaves the log, so only then may a missing log mean something.
  const forget = (): void => forgetUse(path)
  process.once('exit', forget)
  worker.on('exit', () => {
    exited = true
    process.off('exit', forget)
    if (!existsSync(`${path}-wal`)) forget()
    // After `close` nothing is left to reject.
    fail(new StoreError('BROKEN', 'the storage thread ended'))
    onExit.resolve()
  })

  const flush = (): void => {
    flushing = false
    if (flying.length > 0 || waiting.length === 0) {
      if (flying.length === 0 && closing !== undefined && !exited) worker.postMessage('close' satisfies ToWorker)
      return
    }
    const count = nextBatch(waiting)
    flying = waiting.slice(0, count)
    waiting = waiting.slice(count)
    const batch = flying.map(({ operation, args, pictures }) => ({ operation, args, pictures }))
    const buffers = batch.flatMap(({ pictures }) => pictures.map(({ buffer }) => buffer as ArrayBuffer))
    worker.postMessage({ batch } satisfies ToWorker, buffers)
  }

  /** Sends what waits once the callbacks at hand have run; they may have more to say. */
  const flushSoon = (): void => {
    if (flushing || flying.length > 0) return
    flushing = true
    setImmediate(flush)
  }

  const enqueue = (operation: Call['operation'], args: unknown[], pictures: Uint8Array[] = []): Promise<unknown> =>
    new Promise((resolve, reject) => {
      if (ended !== undefined) {
        reject(new StoreError(ended.code, ended.message, { cause: ended }))
        return
      }
      // As JSON, and pictures as copies: what the caller changes later does not reach the store.
      waiting.push({ operation, args: JSON.stringify(args), pictures, resolve, reject })
      flushSoon()
    })

  const ask = ((operation: Call['operation'], args: unknown[]) => enqueue(operation, args)) as Ask

  return {
    kind: `sqlite ${path}`,
    path,
    incident,
    lost: lost.promise,
    get transactions() {
      return transactions
    },
    ...asking(ask),
    accept(turn: NewTurn) {
      const attachments = turn.attachments.map(({ bytes: _, ...attachment }) => attachment)
      const pictures = turn.attachments.map(({ bytes }) => new Uint8Array(bytes))
      return enqueue('accept', [{ ...turn, attachments }], pictures) as ReturnType<Store['accept']>
    },
    verify: () => enqueue('verify', []) as Promise<string[]>,
    backup: () => enqueue('backup', []) as Promise<string>,
    close() {
      if (closing === undefined) {
        closing = onExit.promise
        ended ??= new StoreError('CLOSED', 'the store is closed')
        flushSoon()
      }
      return closing
    },
  }
}

/** Damage makes a transaction fail whose calls all succeeded, and SQLite copies no file from inside of one. */
const alone: Record<Maintenance, true> = { verify: true, backup: true }

/** How many of the waiting calls the next batch takes: at least one, and some only alone. */
const nextBatch = (waiting: Pending[]): number => {
  let bytes = 0
  for (const [index, { operation, args, pictures }] of waiting.entries()) {
    bytes += args.length + pictures.reduce((sum, picture) => sum + picture.byteLength, 0)
    const single = operation in alone
    if (index > 0 && (index === batchCalls || bytes > batchBytes || single)) return index
    if (single) return 1
  }
  return waiting.length
}

const isOlder = (version: string, than: [number, number, number]): boolean => {
  const parts = version.split('.').map(Number)
  for (const [index, wanted] of than.entries()) {
    const found = parts[index] ?? 0
    if (found !== wanted) return found < wanted
  }
  return false
}

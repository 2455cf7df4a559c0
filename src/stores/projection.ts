/**
 * What is remembered, also as files for other programs: `agents/<id>/sessions/sessions.json`, the sessions of an agent, and beside it
 * `<sessionId>.jsonl`, a transcript. They are written for those who read them, follow the store within a second, and are never read
 * here but to bring them up to date.
 */
import { constants } from 'node:fs'
import { type FileHandle, lstat, mkdir, open, readdir, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { SessionRecord, Store, TranscriptMessage } from './store.ts'

export interface ProjectionNeeds {
  /** The folder that `agents/` is in. */
  folder: string
  /** Told when files cannot be written, once until they can be again. */
  warn(details: object, message: string): void
}

/** What is written together: changes within so many ms. */
const GATHERED_MS = 500
/** Bytes of a transcript that are written at once, the newest. */
const MOST_BYTES = 64 * 1024 * 1024
/** Bytes of a file in which its first line is looked for. */
const HEAD_BYTES = 4096
/** Names that make a file in its folder and nowhere else. */
const AGENT = /^[a-z0-9][a-z0-9_-]{0,63}$/
const TRANSCRIPT = /^[A-Za-z0-9][A-Za-z0-9-]{0,63}$/

/** Of which session or run a call changed something. */
const CHANGES: {
  [M in keyof Store]?: (...args: Parameters<Extract<Store[M], (...args: never) => unknown>>) => Change
} = {
  accept: ({ sessionKey }) => ({ sessionKey }),
  start: (runId) => ({ runId }),
  settle: (runId) => ({ runId }),
  patchSession: ({ key }) => ({ sessionKey: key }),
  resetSession: ({ key }) => ({ sessionKey: key, isAnew: true }),
  compactSession: (key) => ({ sessionKey: key, isAnew: true }),
  deleteSession: (key) => ({ sessionKey: key }),
  append: (key) => ({ sessionKey: key }),
}
/** `isAnew`: the transcript has lost entries, and may have the same id. */
type Change = { sessionKey: string; isAnew?: true } | { runId: string }

/** The same store, which writes files of what changes in it. What is acknowledged waits for none of them. */
export function projected(store: Store, { folder, warn }: ProjectionNeeds): Store {
  /** The session lists, by agent, then key. */
  const lists = new Map<string, Map<string, SessionRecord>>()
  /** Entries that a transcript's file has, by its id; absent: it is written anew. */
  const written = new Map<string, number>()
  /** The sessions that changed, and whether their transcripts are to be written anew. */
  const keys = new Map<string, boolean>()
  const runs = new Set<string>()
  let timer: NodeJS.Timeout | undefined
  let hasFailed = false
  let isWarned = false
  let working: Promise<void> = begin()

  function changed(change: Change): void {
    if ('runId' in change) runs.add(change.runId)
    else keys.set(change.sessionKey, change.isAnew ?? keys.get(change.sessionKey) ?? false)
    timer ??= setTimeout(write, GATHERED_MS)
  }

  function write(): void {
    clearTimeout(timer)
    timer = undefined
    working = working.then(catchUp)
  }

  /** The lists as they are, the transcripts whose files do not tell what they do, and away with those of sessions that are gone. */
  async function begin(): Promise<void> {
    await attempt(async () => {
      const records = await store.sessions({})
      for (const record of records) listOf(record.agentId).set(record.key, record)
      for (const [agentId, list] of lists)
        await attempt(async () => {
          const at = await folderOf(agentId)
          const counts = await countsIn(join(at, 'sessions.json'))
          for (const record of list.values()) {
            const file = await attempt(async () => transcriptOf(at, record.sessionId))
            const known = file === undefined ? undefined : await lstat(file).catch(() => undefined)
            const isTold = known?.isFile() && known.mtimeMs >= record.updatedAt
            if (!isTold || counts[record.key]?.messageCount !== record.messageCount)
              await attempt(() => writeTranscript(record))
          }
          await writeList(agentId)
          const present = new Set([...list.values()].map(({ sessionId }) => `${sessionId}.jsonl`))
          await removeTranscripts(at, (key) => !list.has(key), present)
        })
    })
  }

  async function catchUp(): Promise<void> {
    // What changes while these are looked up is looked up the next time.
    const ran = [...runs]
    runs.clear()
    await attempt(async () => {
      for (const run of await Promise.all(ran.map((runId) => store.run(runId))))
        if (run) keys.set(run.sessionKey, keys.get(run.sessionKey) ?? false)
    })
    const due = [...keys]
    keys.clear()
    const agents = new Set<string>()
    for (const [key, isAnew] of due)
      await attempt(async () => {
        const record = await store.session(key)
        const agentId = record?.agentId ?? agentOf(key)
        if (agentId === undefined) return
        agents.add(agentId)
        if (record && isAnew) written.delete(record.sessionId)
        if (record) listOf(agentId).set(key, record)
        else listOf(agentId).delete(key)
        await (record ? writeTranscript(record) : removeTranscripts(await folderOf(agentId), (name) => name === key))
      })
    for (const agentId of agents) await attempt(() => writeList(agentId))
    isWarned = hasFailed
    hasFailed = false
  }

  /** Whoever reads the files is told late of a failure here; whoever sends to an agent, never. */
  async function attempt<T>(work: () => Promise<T>): Promise<T | undefined> {
    try {
      return await work()
    } catch (error) {
      if (!isWarned) warn({ err: error }, 'the files of the sessions cannot be written')
      isWarned = true
      hasFailed = true
      return undefined
    }
  }

  const agentOf = (key: string): string | undefined => [...lists].find(([, list]) => list.has(key))?.[0]

  function listOf(agentId: string): Map<string, SessionRecord> {
    const list = lists.get(agentId) ?? new Map<string, SessionRecord>()
    lists.set(agentId, list)
    return list
  }

  /** Makes the folder of an agent's files. @throws where a link or a file stands in its place: it may lead anywhere */
  async function folderOf(agentId: string): Promise<string> {
    if (!AGENT.test(agentId)) throw new Error(`no folder can be called ${JSON.stringify(agentId.slice(0, 64))}`)
    let at = folder
    for (const part of ['agents', agentId, 'sessions']) {
      at = join(at, part)
      await mkdir(at, { mode: 0o700 }).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== 'EEXIST') throw error
      })
      if (!(await lstat(at)).isDirectory()) throw new Error(`${at} is no folder`)
    }
    return at
  }

  async function writeList(agentId: string): Promise<void> {
    const at = await folderOf(agentId)
    const entries = [...listOf(agentId)].map(([key, record]) => [key, entryOf(record, at)])
    await replace(join(at, 'sessions.json'), `${JSON.stringify(Object.fromEntries(entries), null, 2)}\n`)
  }

  /** Adds what its file lacks, so that whoever follows the file goes on following it. */
  async function writeTranscript(found: SessionRecord): Promise<void> {
    const file = transcriptOf(await folderOf(found.agentId), found.sessionId)
    let record = found
    for (;;) {
      const { key, sessionId, messageCount } = record
      const from = written.get(sessionId) ?? 0
      if (written.has(sessionId) && from >= messageCount) return
      // Asked in one breath: nothing comes between the two answers.
      const [now, { messages }] = await Promise.all([
        store.session(key),
        store.history(key, { limit: Math.max(1, messageCount - from), maxBytes: MOST_BYTES }),
      ])
      // Removed, or begun anew: that is a change of its own.
      if (now?.sessionId !== sessionId) return
      record = now
      if (now.messageCount !== messageCount) continue
      const first = messageCount - messages.length
      const lines = messages.map((message, index) => lineOf(first + index, message)).join('')
      if (!written.has(sessionId)) await replace(file, `${headOf(now)}${lines}`)
      else if (!(await append(file, lines))) {
        written.delete(sessionId)
        continue
      }
      written.set(sessionId, messageCount)
      return
    }
  }

  /** Removes the transcripts of some sessions, the present ones and those before them, as far as they are written here. */
  async function removeTranscripts(
    at: string,
    isOf: (key: string) => boolean,
    except: ReadonlySet<string> = new Set(),
  ): Promise<void> {
    for (const name of await readdir(at)) {
      if (!name.endsWith('.jsonl') || except.has(name)) continue
      const key = await keyIn(join(at, name))
      if (key === undefined || !isOf(key)) continue
      await rm(join(at, name), { force: true })
      written.delete(name.slice(0, -'.jsonl'.length))
    }
  }

  return new Proxy(store, {
    get(target, name) {
      const member: unknown = Reflect.get(target, name, target)
      if (typeof member !== 'function') return member
      if (name === 'close')
        return async () => {
          write()
          await working
          await target.close()
        }
      const of = CHANGES[name as keyof Store] as ((...args: unknown[]) => Change) | undefined
      if (!of) return member.bind(target)
      return async (...args: unknown[]) => {
        const result: unknown = await member.apply(target, args)
        changed(of(...args))
        return result
      }
    },
  })
}

function transcriptOf(folder: string, sessionId: string): string {
  if (!TRANSCRIPT.test(sessionId)) throw new Error('no file can be called like this transcript')
  return join(folder, `${sessionId}.jsonl`)
}

/** A session as it stands in the list. */
function entryOf(record: SessionRecord, folder: string): object {
  const { sessionId, updatedAt, systemSent, abortedLastRun, inputTokens, outputTokens, totalTokens, settings } = record
  const { contextTokens, modelProvider, model, messageCount } = record
  return {
    ...settings,
    ...{ sessionId, updatedAt, sessionFile: join(folder, `${sessionId}.jsonl`), chatType: 'direct', messageCount },
    ...{ systemSent, abortedLastRun, inputTokens, outputTokens, totalTokens },
    ...(contextTokens !== undefined && { contextTokens }),
    ...(modelProvider !== undefined && { modelProvider }),
    ...(model !== undefined && { model }),
  }
}

const timeOf = (ms: number): string => new Date(ms).toISOString()

const headOf = ({ sessionId, key, createdAt }: SessionRecord): string =>
  `${JSON.stringify({ type: 'session', version: 3, id: sessionId, timestamp: timeOf(createdAt), sessionKey: key })}\n`

/** @param index of the entry in its transcript, from 0 */
function lineOf(index: number, message: TranscriptMessage): string {
  const [parentId, id] = [index - 1, index].map((at) => (at < 0 ? null : at.toString(16).padStart(8, '0')))
  return `${JSON.stringify({ type: 'message', id, parentId, timestamp: timeOf(message.timestamp), message })}\n`
}

/** The session that a transcript's file is of; undefined for any other file. */
async function keyIn(file: string): Promise<string | undefined> {
  const handle = await openFile(file, constants.O_RDONLY)
  if (!handle) return undefined
  try {
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(HEAD_BYTES), 0, HEAD_BYTES, 0)
    const [line] = buffer.toString('utf8', 0, bytesRead).split('\n', 1)
    return (JSON.parse(line!) as { sessionKey?: string }).sessionKey
  } catch {
    return undefined
  } finally {
    await handle.close()
  }
}

/** How many entries each session had when the list was written; none where there is no such list. */
async function countsIn(file: string): Promise<{ [key: string]: { messageCount?: number } | undefined }> {
  const handle = await openFile(file, constants.O_RDONLY)
  if (!handle) return {}
  try {
    return { ...(JSON.parse(await handle.readFile('utf8')) as object) }
  } catch {
    return {}
  } finally {
    await handle.close()
  }
}

/** Puts a file in the place of another at once: whoever reads has the old one or the new one. */
async function replace(file: string, text: string): Promise<void> {
  const fresh = `${file}.new`
  await rm(fresh, { force: true })
  await writeFile(fresh, text, { mode: 0o600, flag: 'wx' })
  await rename(fresh, file)
}

/** Undefined: there is no such file, but perhaps a link of this name, or a pipe. Waits for nobody at its other end. */
async function openFile(file: string, flags: number): Promise<FileHandle | undefined> {
  const handle = await open(file, flags | constants.O_NOFOLLOW | constants.O_NONBLOCK).catch(() => undefined)
  if (!handle || (await handle.stat()).isFile()) return handle
  await handle.close()
  return undefined
}

/** False: there is no such file. */
async function append(file: string, text: string): Promise<boolean> {
  const handle = await openFile(file, constants.O_WRONLY | constants.O_APPEND)
  if (!handle) return false
  try {
    await handle.writeFile(text)
  } finally {
    await handle.close()
  }
  return true
}

/** The files of one store at some moments of its life, and what a caller could see of it after each change. */
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { openSqliteStore, type SqliteStore } from '../../src/stores/sqlite.ts'
import type { Json } from '../../src/stores/store.ts'
import { turn } from '../support/turn.ts'
import type { random } from './suite.ts'

/** By the end of the name: '' is the file itself. */
export type Image = { [suffix in '' | '-wal' | '.note']?: Buffer }

export interface Life {
  /** With a log that holds more than the main file, as `kill -9` leaves it. */
  crashed: Image
  /** The same, where all but the last changes of the log were moved to the main file, and are written over. */
  moved: Image
  /** The same, where all of the log was moved and nothing has come since. */
  resting: Image
  /** As a close in good order leaves it. */
  closed: Image
  /** Logs of earlier times, and of another store. */
  foreignLogs: Buffer[]
  backup: Buffer
  /** What was seen at the moment of an image, streams and all. */
  whole: Map<Image, string>
  /** What was seen after each change, without the streams. */
  states: Set<string>
  /** What was seen when the backup was made, without the streams. */
  backedUp: string
}

const FILE = 'kurultai.sqlite'
export const SESSIONS = ['agent:main:main', 'agent:main:one', 'agent:main:two']
const TURNS = 24
const EPOCH = 'epoch-1'
const PICTURE = Buffer.from('a picture of nothing much '.repeat(40))
const SHA = createHash('sha256').update(PICTURE).digest('hex')

const digest = (value: unknown) => createHash('sha1').update(JSON.stringify(value)).digest('base64')

/** Everything that can be read. Rejects when the store does. */
export async function see(store: SqliteStore): Promise<{ whole: string; kept: string; streams: number }> {
  const wide = { limit: 1000, maxBytes: 10_000_000 }
  const kept = digest(
    await Promise.all([
      store.sessions({}),
      store.unsettled(),
      store.list('note'),
      store.unheard(),
      store.mail({ limit: 1000 }),
      store.chain('run-0'),
      store.usage({}),
      store.usage({ sessionKey: SESSIONS[1]! }),
      store.attachment(SHA).then((bytes) => bytes && Buffer.from(bytes).toString('base64')),
      ...SESSIONS.flatMap((key) => [store.session(key), store.history(key, wide)]),
      ...Array.from({ length: TURNS }, (_, n) => store.run(`run-${n}`)),
    ]),
  )
  const said = await Promise.all(SESSIONS.map((key) => store.events(key, EPOCH, 0, 1_000_000)))
  const streams = await store.streams()
  const sorted = streams.sort((a, b) => (a.sessionKey < b.sessionKey ? -1 : 1))
  return { whole: digest([kept, said, sorted]), kept, streams: streams.length }
}

/** Whether every key that a store has is known to it as a key, too. */
export async function keysProblem(store: SqliteStore): Promise<string | undefined> {
  for (let n = 0; n < TURNS; n += 1) {
    if ((await store.run(`run-${n}`)) === undefined) continue
    const { kind } = await store.accept(turnOf(n))
    if (kind !== 'known') return `the key of a run that is kept was ${kind}`
  }
  return undefined
}

const sessionOf = (n: number) => SESSIONS[n % SESSIONS.length]!
const turnOf = (n: number) =>
  turn(String(n), {
    sessionKey: sessionOf(n),
    sessionId: `transcript-${n % SESSIONS.length}`,
    message: `message ${n} `.repeat(1 + ((n * 37) % 60)),
    ...(n % 3 !== 0 && { chain: { id: `run-${n % 2}`, hop: 1, path: ['main', 'main'] } }),
    ...(n % 4 === 2 && {
      sent: {
        from: { agentId: 'main', sessionKey: SESSIONS[0]!, runId: 'run-0' },
        reply: n % 8 === 2 ? 'once' : 'none',
      },
    }),
    attachments: n % 9 === 4 ? [{ sha256: SHA, mimeType: 'image/png', bytes: PICTURE }] : [],
  })

const spentBy = (n: number) => ({
  provider: 'one',
  model: `m${n % 2}`,
  input: n,
  output: n,
  cacheRead: 0,
  cacheWrite: 0,
  totalTokens: 2 * n,
  cost: { input: n, output: n, cacheRead: 0, cacheWrite: 0, total: 2 * n },
})
const read = (path: string): Image => ({
  '': readFileSync(path),
  ...(existsSync(`${path}-wal`) && { '-wal': readFileSync(`${path}-wal`) }),
  ...(existsSync(`${path}.note`) && { '.note': readFileSync(`${path}.note`) }),
})

/** Puts an image in a folder of its own, with the backup beside it. */
export function place(folder: string, image: Image, backup: Buffer): string {
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(join(folder, 'backups'), { recursive: true })
  writeFileSync(join(folder, 'backups', FILE), backup)
  for (const [suffix, bytes] of Object.entries(image)) writeFileSync(join(folder, FILE + suffix), bytes)
  return join(folder, FILE)
}

/** Lives a life in `folder`, and takes the pictures. */
export async function live(folder: string, roll: ReturnType<typeof random>): Promise<Life> {
  const path = join(folder, FILE)
  const states = new Set<string>()
  const offsets = new Map<string, number>()
  const foreignLogs: Buffer[] = []
  const whole = new Map<Image, string>()
  let store = await openSqliteStore({ path })
  const after = async (change: Promise<unknown>) => {
    await change
    states.add((await see(store)).kept)
  }
  states.add((await see(store)).kept)

  async function work(n: number): Promise<void> {
    const { runId, sessionKey } = turnOf(n)
    await after(store.accept(turnOf(n)))
    await after(store.start(runId, 2000))
    await after(store.progress(runId, 'so far '.repeat(n)))
    const text = `answer ${n} `.repeat(1 + Math.floor(roll() * 300))
    const message = { role: 'assistant' as const, content: [{ type: 'text' as const, text }], timestamp: 3000 }
    if (n % 7 !== 5)
      await after(
        store.settle(runId, {
          state: 'completed',
          endedAt: 3000 + n * 40_000_000,
          message,
          spent: [spentBy(n)],
          ...(n % 5 === 4 && { heard: [`run-${n - 2}`] }),
        }),
      )
    const from = (offsets.get(sessionKey) ?? 0) + 1
    const to = from + (n % 3)
    offsets.set(sessionKey, to)
    const events = JSON.stringify(Array.from({ length: to - from + 1 }, (_, at) => ({ event: 'e', n, at })))
    await store.appendEvents({ sessionKey, epoch: EPOCH, from, to, events, at: 1, announced: [runId] })
    if (n % 4 === 0) await after(store.put('note', `n${n}`, { text: `note ${n}` } as Json))
    if (n % 8 === 3) await after(store.age(60_000, { keepMs: 86_400_000, eventsPerSession: 10_000 }))
  }

  const picture = async (): Promise<Image> => {
    const image = read(path)
    whole.set(image, (await see(store)).whole)
    return image
  }

  for (let n = 0; n < 6; n += 1) await work(n)
  foreignLogs.push(readFileSync(`${path}-wal`))
  const backup = readFileSync(await store.backup())
  const backedUp = (await see(store)).kept
  for (let n = 6; n < 9; n += 1) await work(n)
  foreignLogs.push(readFileSync(`${path}-wal`))
  await store.close()
  store = await openSqliteStore({ path })
  for (let n = 9; n < 15; n += 1) await work(n)
  // Left alone for a while, it moves its log, and keeps the file of it.
  await new Promise((resolve) => setTimeout(resolve, 1500))
  const resting = await picture()
  for (let n = 15; n < 18; n += 1) await work(n)
  const moved = await picture()
  for (let n = 18; n < TURNS; n += 1) await work(n)
  await store.close()
  const closed = read(path)
  store = await openSqliteStore({ path })
  whole.set(closed, (await see(store)).whole)
  await after(store.put('note', 'last', 1))
  for (let n = 0; n < 8; n += 1) await after(store.put('note', `later ${n}`, 'x'.repeat(Math.floor(roll() * 6000))))
  const crashed = await picture()
  await store.close()

  offsets.clear()
  const other = join(dirname(path), 'other', basename(path))
  store = await openSqliteStore({ path: other })
  await work(0)
  foreignLogs.push(readFileSync(`${other}-wal`))
  await store.close()
  return { crashed, moved, resting, closed, foreignLogs, backup, whole, states, backedUp }
}

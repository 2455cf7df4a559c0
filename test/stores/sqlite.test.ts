import { spawn } from 'node:child_process'
import {
  copyFileSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { DatabaseSync } from 'node:sqlite'
import { fileURLToPath } from 'node:url'
import { isDeepStrictEqual } from 'node:util'
import type { Worker } from 'node:worker_threads'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { OpenRefused, openSqliteStore, type SqliteStore } from '../../src/stores/sqlite.ts'
import { writeNote } from '../../src/stores/sqlite-note.ts'
import { migrate } from '../../src/stores/sqlite-schema.ts'
import type { Spent } from '../../src/stores/store.ts'
import { storeConformance } from '../conformance/store.ts'
import { message, turn } from '../support/turn.ts'

const threads = vi.hoisted((): Worker[] => [])
vi.mock('node:worker_threads', async (original) => {
  const real = await original<typeof import('node:worker_threads')>()
  class Noted extends real.Worker {
    constructor(...args: ConstructorParameters<typeof Worker>) {
      super(...args)
      threads.push(this)
    }
  }
  return { ...real, Worker: Noted }
})

const writer = fileURLToPath(new URL('../support/store-writer.ts', import.meta.url))

const noStore = 'not a database, but long enough to be looked at'.repeat(200)

const spent: Spent = {
  provider: 'one',
  model: 'm',
  input: 7,
  output: 5,
  cacheRead: 0,
  cacheWrite: 0,
  totalTokens: 12,
  cost: { input: 0.7, output: 0.5, cacheRead: 0, cacheWrite: 0, total: 1.2 },
}

let folder: string
let path: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'store-'))
  path = join(folder, 'state', 'store.db')
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

const startWriter = (name: string) => {
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', writer, path, name], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  return { child, lines: createInterface({ input: child.stdout }) }
}

storeConformance('sqlite', () => openSqliteStore({ path }))

describe('sqlite', () => {
  it('keeps everything across a reopening', async () => {
    const attachment = { sha256: 'ab', mimeType: 'image/png', bytes: Buffer.from('p') }
    const first = await openSqliteStore({ path })
    await first.accept(turn('a', { attachments: [attachment] }))
    await first.start('run-a', 2000)
    await first.progress('run-a', 'so far')
    await first.put('device', 'd', { x: 1 })
    const all = async (store: typeof first) => [
      await store.unsettled(),
      await store.sessions({}),
      await store.history('agent:main:main', { limit: 9, maxBytes: 9999 }),
      Buffer.from((await store.attachment('ab')) ?? []),
      await store.list('device'),
    ]
    const before = await all(first)
    await first.close()
    const second = await openSqliteStore({ path })
    expect(await all(second)).toEqual(before)
    expect(await second.accept(turn('a'))).toMatchObject({ kind: 'known', run: { text: 'so far' } })
    await second.close()
  })

  it('keeps across a reopening which messages are heard and what was used, and finds both as before', async () => {
    const first = await openSqliteStore({ path })
    for (const name of ['a', 'b']) {
      await first.accept(message(name))
      await first.settle(`run-${name}`, { state: 'completed', endedAt: 3000, spent: [spent] })
    }
    await first.accept(turn('c', { answers: 'run-a' }))
    const all = async (store: typeof first) => [
      await store.unheard(),
      await store.chain('run-first'),
      await store.mail({ agentId: 'other', limit: 9 }),
    ]
    const usage = await first.usage({})
    expect(usage).toMatchObject([{ day: '1970-01-01', totalTokens: 24, runs: 2 }])
    const before = await all(first)
    expect(before.map((runs) => runs.map(({ runId }) => runId))).toEqual([
      ['run-b'],
      ['run-a', 'run-b'],
      ['run-b', 'run-a'],
    ])
    await first.close()
    const second = await openSqliteStore({ path })
    expect(await all(second)).toEqual(before)
    expect(await second.usage({})).toEqual(usage)
    expect(await second.accept(turn('d', { answers: 'run-a' }))).toEqual({ kind: 'heard' })
    await second.close()
  })

  it('loses no acknowledged turn to kill -9 and doubles none', { timeout: 60_000 }, async () => {
    const acknowledged: string[] = []
    for (let round = 0; round < 12; round += 1) {
      const { child, lines } = startWriter(String(round))
      const enough = 1 + Math.floor(Math.random() * 400)
      let count = 0
      lines.on('line', (line) => {
        acknowledged.push(line)
        count += 1
        if (count === enough) child.kill('SIGKILL')
      })
      await new Promise((resolve) => lines.once('close', resolve))
      expect(count).toBeGreaterThanOrEqual(enough)
    }
    const store = await openSqliteStore({ path })
    expect(await store.verify()).toEqual([])
    const kept = (await store.unsettled()).map(({ runId }) => runId)
    expect(new Set(kept).size).toBe(kept.length)
    const keptSet = new Set(kept)
    expect(acknowledged.filter((runId) => !keptSet.has(runId))).toEqual([])
    const again = await Promise.all(acknowledged.map((runId) => store.accept(turn(runId.slice('run-'.length)))))
    expect(again.filter(({ kind }) => kind !== 'known')).toEqual([])
    expect(await store.unsettled()).toHaveLength(kept.length)
    await store.close()
  })

  it('commits many calls that come together in few transactions', async () => {
    const store = await openSqliteStore({ path })
    await Promise.all(Array.from({ length: 1000 }, (_, n) => store.accept(turn(String(n)))))
    expect(store.transactions).toBeLessThan(20)
    expect(await store.unsettled()).toHaveLength(1000)
    await store.close()
  })

  it('lets one call without space fail alone, and goes on', async () => {
    const store = await openSqliteStore({ path, maxBytes: 1024 * 1024 })
    const outcomes = await Promise.allSettled([
      store.accept(turn('a')),
      store.put('note', 'large', 'x'.repeat(2 * 1024 * 1024)),
      store.accept(turn('b')),
    ])
    expect(outcomes).toMatchObject([
      { status: 'fulfilled' },
      { status: 'rejected', reason: { name: 'StoreError', code: 'FULL' } },
      { status: 'fulfilled' },
    ])
    expect(await store.get('note', 'large')).toBeUndefined()
    expect((await store.unsettled()).map(({ runId }) => runId)).toEqual(['run-a', 'run-b'])
    expect((await store.accept(turn('c'))).kind).toBe('accepted')
    await store.close()
  })

  it('keeps the bytes of a picture once', async () => {
    const store = await openSqliteStore({ path })
    const bytes = new Uint8Array(500_000).fill(7)
    for (let n = 0; n < 10; n += 1) {
      await store.accept(turn(String(n), { attachments: [{ sha256: 'ab', mimeType: 'image/png', bytes }] }))
    }
    await store.close()
    expect(statSync(path).size).toBeLessThan(1_000_000)
  })

  it('refuses a second opener, in this process and in another, until it is closed', async () => {
    const store = await openSqliteStore({ path })
    const second = await openSqliteStore({ path }).catch((error: unknown) => error)
    expect(second).toBeInstanceOf(OpenRefused)
    expect(second).toMatchObject({ name: 'StoreError', reason: 'locked' })
    expect(String(second)).toContain('another gateway uses this folder')
    // After the refusal here, the lock must still hold against others.
    const { lines } = startWriter('other')
    const [line] = await new Promise<string[]>((resolve) => lines.once('line', (...args) => resolve(args as string[])))
    expect(line).toBe('refused locked')
    expect((await store.accept(turn('a'))).kind).toBe('accepted')
    await store.close()
    const third = await openSqliteStore({ path })
    expect(await third.run('run-a')).toBeDefined()
    await third.close()
  })

  it('lets exactly one of many openers in', async () => {
    const opened = await Promise.allSettled(Array.from({ length: 5 }, () => openSqliteStore({ path })))
    const stores = opened.flatMap((each) => (each.status === 'fulfilled' ? [each.value] : []))
    expect(stores).toHaveLength(1)
    await stores[0]?.close()
  })

  it('refuses a file with a newer schema and leaves it untouched', async () => {
    await (await openSqliteStore({ path })).close()
    const db = new DatabaseSync(path)
    db.exec('CREATE TABLE later (id TEXT PRIMARY KEY); PRAGMA user_version = 999')
    db.close()
    const before = readFileSync(path)
    const refused = await openSqliteStore({ path }).catch((error: unknown) => error)
    expect(refused).toMatchObject({ code: 'BROKEN', reason: 'newerSchema' })
    expect(String(refused)).toMatch(/newer gateway .*schema 999/)
    expect(readFileSync(path).equals(before)).toBe(true)
  })

  it('opens a file whose making was cut off', async () => {
    const cut = join(folder, 'cut.db')
    const db = new DatabaseSync(cut)
    // With a cache this small, changes reach the file before their COMMIT, and the journal that undoes them stays.
    db.exec('PRAGMA cache_size = 2; CREATE TABLE other (x); INSERT INTO other VALUES (1); BEGIN')
    const add = db.prepare('INSERT INTO other VALUES (?)')
    for (let n = 0; n < 400; n += 1) add.run('x'.repeat(2000))
    db.exec('UPDATE other SET x = 2')
    const copy = join(folder, 'copy.db')
    copyFileSync(cut, copy)
    copyFileSync(`${cut}-journal`, `${copy}-journal`)
    db.close()
    const store = await openSqliteStore({ path: copy })
    expect(await store.verify()).toEqual([])
    await store.close()
  })

  it('refuses a damaged file when told to, and leaves it where it is', async () => {
    await (await openSqliteStore({ path })).close()
    writeFileSync(path, noStore)
    const refused = openSqliteStore({ path, refuseDamaged: true })
    await expect(refused).rejects.toMatchObject({ code: 'BROKEN', reason: 'damaged' })
    expect(readFileSync(path, 'utf8')).toBe(noStore)
    expect(readdirSync(join(folder, 'state')).filter((each) => each.includes('damaged'))).toEqual([])
  })

  it('takes a file of schema 1, whose ended runs count as announced', async () => {
    const old = join(folder, 'old.db')
    const db = new DatabaseSync(old)
    migrate(db, 1)
    const { spareRunId: _, ...run } = { ...turn('a'), state: 'completed', endedAt: 2000, text: '' }
    db.prepare("INSERT INTO runs (run_id, accepted_at, ended_at, record) VALUES ('run-a', 1000, 2000, ?)").run(
      JSON.stringify(run),
    )
    db.close()
    const store = await openSqliteStore({ path: old })
    expect(await store.verify()).toEqual([])
    expect(await store.run('run-a')).toEqual(run)
    await store.accept(turn('b'))
    const { sessionKey } = turn('b')
    await store.appendEvents({ sessionKey, epoch: 'e', from: 1, to: 1, events: '[]', at: 1, announced: [] })
    await store.settle('run-b', { state: 'completed', endedAt: 3000 })
    expect(await store.unfinishedStreams()).toEqual([sessionKey])
    await store.close()
  })

  it('keeps folder and files to their owner', async () => {
    const store = await openSqliteStore({ path })
    await store.accept(turn('a'))
    const copy = await store.backup()
    const mode = (each: string) => (statSync(each).mode & 0o777).toString(8)
    expect(mode(join(folder, 'state'))).toBe('700')
    expect(mode(copy)).toBe('600')
    const files = readdirSync(join(folder, 'state')).filter((each) => each !== 'backups')
    expect(files.map((each) => mode(join(folder, 'state', each)))).toEqual(files.map(() => '600'))
    await store.close()
  })

  it('makes a copy that opens as a store, in the place of the last one', async () => {
    const store = await openSqliteStore({ path, backupDir: join(folder, 'copies') })
    await store.accept(turn('a'))
    await store.backup()
    const [, copy] = await Promise.all([store.accept(turn('b')), store.backup(), store.accept(turn('c'))])
    await store.close()
    expect(readdirSync(join(folder, 'copies'))).toEqual(['store.db'])
    const restored = await openSqliteStore({ path: copy })
    expect((await restored.unsettled()).map(({ runId }) => runId)).toEqual(['run-a', 'run-b'])
    await restored.close()
  })

  it('serves calls while a backup is made, and one backup at a time', async () => {
    const store = await openSqliteStore({ path })
    for (let n = 0; n < 8; n += 1) await store.put('large', String(n), 'x'.repeat(4 * 1024 * 1024))
    let done = false
    const backup = store.backup().then(() => {
      done = true
    })
    await expect(store.backup()).rejects.toMatchObject({ code: 'CONFLICT' })
    await store.put('small', 'a', 1)
    expect(done).toBe(false)
    const closed = store.close()
    await backup
    await closed
    const again = await openSqliteStore({ path })
    expect(again.incident).toBeUndefined()
    expect(await again.get('small', 'a')).toBe(1)
    await again.close()
  })

  it('rejects what is under way as BROKEN when its thread dies', async () => {
    const store = await openSqliteStore({ path })
    await store.accept(turn('a'))
    const calls = Array.from({ length: 3 }, (_, n) => store.accept(turn(`late-${n}`)))
    void threads.at(-1)?.terminate()
    expect(await store.lost).toMatchObject({ code: 'BROKEN' })
    const rejection = { status: 'rejected', reason: { name: 'StoreError', code: 'BROKEN' } }
    expect(await Promise.allSettled(calls)).toMatchObject(calls.map(() => rejection))
    await expect(store.run('run-a')).rejects.toMatchObject({ code: 'BROKEN' })
    await store.close()
    const again = await openSqliteStore({ path })
    expect(await again.run('run-a')).toBeDefined()
    await again.close()
  })

  it('does not call SQLite experimental on stderr', async () => {
    const child = spawn(process.execPath, [writer, path, 'quiet'], { stdio: ['ignore', 'pipe', 'pipe'] })
    let said = ''
    child.stderr.on('data', (chunk: Buffer) => {
      said += chunk
    })
    await new Promise((resolve) => child.stdout.once('data', resolve))
    child.kill('SIGKILL')
    await new Promise((resolve) => child.once('close', resolve))
    expect(said).not.toContain('SQLite')
  })
})

describe('sqlite on a damaged file', () => {
  const session = { key: turn('').sessionKey, agentId: 'main', sessionId: 'transcript-1' }
  const chunk = (epoch: string, from: number) => ({ epoch, from, to: from, events: '["e"]', at: 1, announced: [] })
  const event = (epoch: string, from: number) => ({ sessionKey: session.key, ...chunk(epoch, from) })
  const names = () => readdirSync(join(folder, 'state')).sort()

  /** Accepts, starts and ends turns, and streams an event for each. */
  const work = async (store: SqliteStore, prefix: string, count: number, done: number) => {
    for (let n = 0; n < count; n += 1) {
      const { runId } = turn(`${prefix}${n}`)
      const text = `answer ${n} `.repeat(40)
      const message = { role: 'assistant' as const, content: [{ type: 'text' as const, text }], timestamp: 3000 }
      await Promise.all([
        store.accept(turn(`${prefix}${n}`)),
        store.start(runId, 2000),
        store.settle(runId, { state: 'completed', endedAt: 3000, message }),
        store.appendEvents(event('one', done + n + 1)),
      ])
    }
  }

  /** What a caller can see. */
  const seen = async (store: SqliteStore) => ({
    history: await store.history(session.key, { limit: 1000, maxBytes: 10_000_000 }),
    runs: await Promise.all(Array.from({ length: 60 }, (_, n) => store.run(`run-new${n}`))),
    session: await store.session(session.key),
    events: await store.events(session.key, 'one', 0, 1_000_000),
  })

  it('sets it aside when only the version in its header is that of a newer one', async () => {
    const first = await openSqliteStore({ path })
    await work(first, 'old', 3, 0)
    await first.backup()
    await first.close()
    const bytes = readFileSync(path)
    bytes.writeUInt32BE(7, 60)
    writeFileSync(path, bytes)
    const store = await openSqliteStore({ path })
    expect(store.incident?.restored).toBeDefined()
    expect(await store.run('run-old0')).toMatchObject({ state: 'completed' })
    await store.close()
  })

  it('sets it aside when its header names a format of another time', async () => {
    const first = await openSqliteStore({ path })
    await work(first, 'old', 3, 0)
    await first.backup()
    await first.close()
    const bytes = readFileSync(path)
    // The number of the schema's format, which is 1 to 4.
    bytes.writeUInt32BE(9, 44)
    writeFileSync(path, bytes)
    const store = await openSqliteStore({ path })
    expect(store.incident?.restored).toBeDefined()
    expect(await store.run('run-old0')).toMatchObject({ state: 'completed' })
    await store.close()
  })

  it('sets it aside with its log, puts the last backup in its place and drops every stream', async () => {
    const first = await openSqliteStore({ path })
    await work(first, 'old', 3, 0)
    const backup = await first.backup()
    await work(first, 'new', 3, 3)
    await first.close()
    writeFileSync(path, noStore)
    writeFileSync(`${path}-wal`, 'a log')
    const second = await openSqliteStore({ path, now: 77 })
    const aside = `${path}.damaged-77`
    expect(second.incident).toMatchObject({ aside, restored: backup, reason: expect.stringContaining('damaged') })
    expect(readFileSync(aside, 'utf8')).toBe(noStore)
    expect(readFileSync(`${aside}-wal`, 'utf8')).toBe('a log')
    expect(await second.verify()).toEqual([])
    expect(await second.run('run-old0')).toBeDefined()
    expect(await second.run('run-new0')).toBeUndefined()
    expect(await second.events(session.key, 'one', 0, 1000)).toEqual({ kind: 'epochChanged' })
    expect(await second.unfinishedStreams()).toEqual([])
    expect((statSync(path).mode & 0o777).toString(8)).toBe('600')
    await second.close()
    const third = await openSqliteStore({ path })
    expect(third.incident).toBeUndefined()
    await third.close()
    expect(names().filter((each) => /note|mending|restoring|wal/.test(each))).toEqual(['store.db.damaged-77-wal'])
  })

  it('begins empty without a sound backup, keeps the unsound one, and says so', async () => {
    const first = await openSqliteStore({ path })
    await first.accept(turn('a'))
    const backup = await first.backup()
    await first.close()
    writeFileSync(path, noStore)
    writeFileSync(backup, noStore)
    const second = await openSqliteStore({ path, now: 77 })
    expect(second.incident).toMatchObject({ aside: `${path}.damaged-77`, restored: undefined })
    expect(await second.unsettled()).toEqual([])
    expect(readFileSync(`${backup}.damaged-77`, 'utf8')).toBe(noStore)
    await second.close()
  })

  it('restores a file that was emptied or is gone, if there is a backup', async () => {
    const first = await openSqliteStore({ path })
    await first.accept(turn('a'))
    await first.backup()
    await first.close()
    for (const lose of [() => truncateSync(path), () => rmSync(path)]) {
      lose()
      const store = await openSqliteStore({ path })
      expect(store.incident?.restored).toBeDefined()
      expect(await store.run('run-a')).toBeDefined()
      await store.close()
    }
  })

  it('goes on where a process that was setting it aside was cut off', async () => {
    const first = await openSqliteStore({ path })
    await first.accept(turn('a'))
    await first.backup()
    await first.close()
    const aside = `${path}.damaged-5`
    // As a crash leaves it: the damaged file is away, its log is not, and what was to come is not there yet.
    writeNote(path, { reason: 'seen', aside })
    writeFileSync(aside, noStore)
    writeFileSync(`${path}-wal`, 'a log')
    writeFileSync(`${path}.restoring`, 'half')
    rmSync(path)
    const second = await openSqliteStore({ path, now: 77 })
    expect(second.incident).toMatchObject({ aside, restored: expect.any(String) })
    expect(readFileSync(aside, 'utf8')).toBe(noStore)
    expect(readFileSync(`${aside}-wal`, 'utf8')).toBe('a log')
    expect(await second.run('run-a')).toBeDefined()
    await second.close()
  })

  it('restores a file that ends in the middle of its last page', async () => {
    const first = await openSqliteStore({ path })
    await first.accept(turn('a'))
    await first.put('note', 'a', 'x'.repeat(20_000))
    await first.backup()
    await first.close()
    truncateSync(path, statSync(path).size - 4096 + 77)
    const second = await openSqliteStore({ path })
    expect(second.incident?.restored).toBeDefined()
    expect(await second.get('note', 'a')).toBe('x'.repeat(20_000))
    await second.close()
  })

  it('lets one of many openers mend it, and the others find it locked', async () => {
    const first = await openSqliteStore({ path })
    await first.accept(turn('a'))
    await first.backup()
    await first.close()
    writeFileSync(path, noStore)
    const opened = await Promise.allSettled(Array.from({ length: 4 }, () => openSqliteStore({ path })))
    const stores = opened.flatMap((each) => (each.status === 'fulfilled' ? [each.value] : []))
    expect(stores).toHaveLength(1)
    expect(stores[0]!.incident?.restored).toBeDefined()
    expect(await stores[0]!.run('run-a')).toBeDefined()
    expect(names().filter((each) => each.includes('damaged'))).toHaveLength(1)
    await stores[0]!.close()
  })

  it('is BROKEN by damage it reads, never answers it, and is mended at the next opening', async () => {
    const first = await openSqliteStore({ path })
    // Larger than what is checked when it is opened.
    for (let n = 0; n < 9; n += 1) await first.put('large', String(n), 'x'.repeat(4 * 1024 * 1024))
    await first.put('note', 'a', 'one two three')
    await first.backup()
    await first.close()
    const whole = readFileSync(path)
    whole.write('ONE', whole.indexOf('one two three'))
    writeFileSync(path, whole)
    const second = await openSqliteStore({ path })
    expect(second.incident).toBeUndefined()
    await expect(second.get('note', 'a')).rejects.toMatchObject({ code: 'BROKEN' })
    await expect(second.put('note', 'b', 1)).rejects.toMatchObject({ code: 'BROKEN' })
    await second.close()
    const third = await openSqliteStore({ path })
    expect(third.incident).toMatchObject({ reason: expect.stringContaining('a record has changed') })
    expect(await third.get('note', 'a')).toBe('one two three')
    await third.close()
  })

  it('reports damage in words, keeps the last backup and is mended at the next opening', async () => {
    for (const find of ['verify', 'backup'] as const) {
      const first = await openSqliteStore({ path })
      for (let n = 0; n < 9; n += 1) await first.put('large', String(n), 'x'.repeat(4 * 1024 * 1024))
      await first.put('note', 'a', 'one two three')
      const copy = await first.backup()
      await first.close()
      const whole = readFileSync(path)
      whole.write('ONE', whole.indexOf('one two three'))
      writeFileSync(path, whole)
      const second = await openSqliteStore({ path })
      if (find === 'verify') expect((await second.verify())[0]).toContain('documents: a record has changed')
      else await expect(second.backup()).rejects.toMatchObject({ code: 'BROKEN' })
      await expect(second.get('large', '0')).rejects.toMatchObject({ code: 'BROKEN' })
      await second.close()
      const third = await openSqliteStore({ path })
      expect(third.incident).toMatchObject({ restored: copy })
      expect(await third.get('note', 'a')).toBe('one two three')
      await third.close()
    }
  })

  /** The files as `kill -9` leaves them, at this moment. */
  const crashed = () => Object.fromEntries(['', '-wal', '.note'].map((suffix) => [suffix, readFileSync(path + suffix)]))
  const putBack = (files: Record<string, Buffer>) => {
    for (const [suffix, bytes] of Object.entries(files)) writeFileSync(path + suffix, bytes)
  }
  const runs = async (store: SqliteStore) => (await store.unsettled()).map(({ runId }) => runId)

  it('says what a damaged log has lost, goes on with what is before it in new epochs, and keeps the log', async () => {
    const first = await openSqliteStore({ path })
    await first.accept(turn('a'))
    await first.appendEvents(event('one', 1))
    const { length } = readFileSync(`${path}-wal`)
    for (const name of ['b', 'c', 'd']) await first.accept(turn(name))
    const files = crashed()
    await first.close()
    files['-wal']![length + 200]! ^= 4
    for (const log of [files['-wal']!, files['-wal']!.subarray(0, length)]) {
      putBack({ ...files, '-wal': log })
      const second = await openSqliteStore({ path, now: 77 })
      expect(second.incident).toMatchObject({ restored: undefined, aside: `${path}.damaged-77-wal` })
      expect(second.incident?.reason).toMatch(/the log is damaged: of \d+ changes the last 3 are lost/)
      expect(readFileSync(`${path}.damaged-77-wal`).equals(log)).toBe(true)
      expect(await runs(second)).toEqual(['run-a'])
      expect(await second.streams()).toEqual([])
      await second.close()
      rmSync(`${path}.damaged-77-wal`)
    }
  })

  it('takes a log that a power cut has ended for whole, with whatever older note', async () => {
    const first = await openSqliteStore({ path })
    const early = crashed()
    await first.accept(turn('a'))
    await first.appendEvents(event('one', 1))
    const { '-wal': log } = crashed()
    await first.accept(turn('b'))
    const files = crashed()
    await first.close()
    // Never acknowledged, and synced in part.
    const torn = Buffer.from(files['-wal']!).fill(0, log!.length + 4096)
    for (const note of [early['.note']!, Buffer.alloc(0), Buffer.alloc(64)]) {
      putBack({ ...files, '-wal': torn, '.note': note })
      const second = await openSqliteStore({ path })
      expect(second.incident).toBeUndefined()
      expect(await runs(second)).toEqual(['run-a'])
      expect(await second.stream(session.key)).toEqual({ epoch: 'one', offset: 1 })
      await second.close()
    }
  })

  it('puts no log of an earlier time over a newer file: it restores the backup', async () => {
    const first = await openSqliteStore({ path })
    await first.accept(turn('a'))
    const { '-wal': log } = crashed()
    await first.backup()
    await first.accept(turn('b'))
    await first.close()
    const second = await openSqliteStore({ path })
    await second.accept(turn('c'))
    const files = crashed()
    await second.close()
    putBack({ ...files, '-wal': log! })
    const third = await openSqliteStore({ path, now: 77 })
    expect(third.incident).toMatchObject({ restored: expect.any(String), aside: `${path}.damaged-77` })
    expect(readFileSync(`${path}.damaged-77-wal`).equals(log!)).toBe(true)
    expect(await runs(third)).toEqual(['run-a'])
    await third.close()
  })

  it('begins new epochs when the note on its use is damaged', async () => {
    const first = await openSqliteStore({ path })
    await first.accept(turn('a'))
    await first.appendEvents(event('one', 1))
    const files = crashed()
    await first.close()
    files['.note']![20]! ^= 1
    putBack(files)
    const second = await openSqliteStore({ path })
    expect(second.incident?.reason).toContain('the note')
    expect(await runs(second)).toEqual(['run-a'])
    expect(await second.streams()).toEqual([])
    await second.close()
  })

  it.each([
    ['a message under another transcript', "UPDATE messages SET session_id = 'transcript-2'"],
    ['a document under another name', "UPDATE documents SET id = 'b'"],
    ['a document of another kind', "UPDATE documents SET kind = 'other' WHERE kind = 'note'"],
    ['events under another offset', 'UPDATE chunks SET first = 0'],
    ['another picture', "UPDATE blobs SET bytes = CAST('q' AS BLOB)"],
    ['other usage', `UPDATE usage SET record = replace(record, '"input":7', '"input":8')`],
    ['no count of the commits', 'DELETE FROM commits'],
  ])('never answers %s', async (_, change) => {
    const first = await openSqliteStore({ path })
    const attachment = { sha256: 'ab', mimeType: 'image/png', bytes: Buffer.from('p') }
    await first.accept(turn('a', { attachments: [attachment] }))
    await first.start('run-a', 2000)
    await first.put('note', 'a', 1)
    await first.appendEvents(event('one', 1))
    await first.settle('run-a', { state: 'completed', endedAt: 3000, spent: [spent] })
    await first.close()
    const db = new DatabaseSync(path)
    db.exec(change)
    db.close()
    const second = await openSqliteStore({ path })
    expect(second.incident?.aside).toBeDefined()
    await second.close()
  })

  it('leaves nothing of a backup that could not be put in its place', async () => {
    const backupDir = join(folder, 'copies')
    const store = await openSqliteStore({ path, backupDir })
    mkdirSync(join(backupDir, 'store.db', 'in the way'), { recursive: true })
    await expect(store.backup()).rejects.toMatchObject({ code: 'BROKEN' })
    expect(readdirSync(backupDir)).toEqual(['store.db'])
    await store.close()
  })

  it('shows every changed image as an incident or with its data whole', { timeout: 60_000 }, async () => {
    const first = await openSqliteStore({ path })
    await work(first, 'old', 5, 0)
    await first.backup()
    await work(first, 'new', 60, 5)
    const whole = await seen(first)
    // As kill -9 leaves it: the log holds what the main file does not have yet.
    const crashed = [path, `${path}-wal`, `${path}.note`].map((each) => readFileSync(each))
    await first.close()
    const closed = readFileSync(path)
    const [main, log] = crashed as [Buffer, Buffer, Buffer]
    let seed = 1
    const random = (below: number): number => {
      seed = (seed * 48271) % 2147483647
      return seed % below
    }
    const flipped = (bytes: Buffer, at = random(bytes.length)): Buffer => {
      const copy = Buffer.from(bytes)
      copy[at]! ^= 1 << random(8)
      return copy
    }
    const zeroed = (bytes: Buffer, page = random(bytes.length / 4096)): Buffer =>
      Buffer.from(bytes).fill(0, page * 4096, page * 4096 + 4096)
    const cut = (bytes: Buffer, at = random(bytes.length)): Buffer => bytes.subarray(0, at)
    const times = (count: number, make: () => Buffer): Buffer[] => Array.from({ length: count }, make)
    const images: { how: string; main: Buffer; log?: Buffer; note?: Buffer }[] = [
      ...times(10, () => flipped(closed)).map((main) => ({ how: 'bit of the file', main })),
      ...[0, 18, 27, 100, 103, 105, 110].map((at) => ({ how: `header ${at}`, main: flipped(closed, at) })),
      ...times(6, () => zeroed(closed)).map((main) => ({ how: 'zeroed page', main })),
      { how: 'schema number 0', main: Buffer.from(closed).fill(0, 60, 64) },
      { how: 'zeroed first page', main: zeroed(closed, 0) },
      ...times(4, () => cut(closed)).map((main) => ({ how: 'cut file', main })),
      ...[0, 1, 99, 511, 512, 4096].map((at) => ({ how: `cut at ${at}`, main: cut(closed, at) })),
      ...times(4, () => flipped(main)).map((bytes) => ({
        how: 'bit beside a log',
        main: bytes,
        log,
        note: crashed[2]!,
      })),
      { how: 'whole after a crash', main, log, note: crashed[2]! },
      { how: 'lost log', main, note: crashed[2]! },
      { how: 'log of a later time', main: closed, log, note: crashed[2]! },
    ]
    for (const [index, image] of images.entries()) {
      const place = join(folder, `image-${index}`)
      cpSync(join(folder, 'state'), place, { recursive: true })
      const file = join(place, 'store.db')
      writeFileSync(file, image.main)
      if (image.log) writeFileSync(`${file}-wal`, image.log)
      if (image.note) writeFileSync(`${file}.note`, image.note)
      const store = await openSqliteStore({ path: file })
      const found = await seen(store)
      const outcome = {
        how: image.how,
        sound: await store.verify(),
        streams: (await store.streams()).length,
        intact: isDeepStrictEqual(found, whole),
        incident: store.incident !== undefined,
      }
      await store.close()
      expect(outcome).toMatchObject(
        outcome.incident ? { sound: [], streams: 0 } : { how: image.how, sound: [], intact: true },
      )
      const again = await openSqliteStore({ path: file })
      expect(again.incident).toBeUndefined()
      await again.close()
    }
  })
})

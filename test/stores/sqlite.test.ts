import { spawn } from 'node:child_process'
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { DatabaseSync } from 'node:sqlite'
import { fileURLToPath } from 'node:url'
import type { Worker } from 'node:worker_threads'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { OpenRefused, openSqliteStore } from '../../src/stores/sqlite.ts'
import { storeConformance } from '../conformance/store.ts'
import { turn } from '../support/turn.ts'

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
    const opening = performance.now()
    const store = await openSqliteStore({ path })
    expect(performance.now() - opening).toBeLessThan(2000)
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
    const started = performance.now()
    const second = await openSqliteStore({ path }).catch((error: unknown) => error)
    expect(performance.now() - started).toBeLessThan(2000)
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
    db.exec('PRAGMA user_version = 999')
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

  it('refuses a file that is no store', async () => {
    await (await openSqliteStore({ path })).close()
    writeFileSync(path, 'not a database, but long enough to be looked at'.repeat(200))
    await expect(openSqliteStore({ path })).rejects.toMatchObject({ code: 'BROKEN', reason: 'damaged' })
  })

  it('reports damage in words', async () => {
    const first = await openSqliteStore({ path })
    await Promise.all(Array.from({ length: 500 }, (_, n) => first.accept(turn(String(n)))))
    await first.close()
    const whole = readFileSync(path)
    whole.fill(0xff, whole.length - 16 * 4096, whole.length - 8 * 4096)
    writeFileSync(path, whole)
    const second = await openSqliteStore({ path })
    expect((await second.verify()).length).toBeGreaterThan(0)
    await second.close()
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

  it('rejects what is under way as BROKEN when its thread dies', async () => {
    const store = await openSqliteStore({ path })
    await store.accept(turn('a'))
    const calls = Array.from({ length: 3 }, (_, n) => store.accept(turn(`late-${n}`)))
    void threads.at(-1)?.terminate()
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

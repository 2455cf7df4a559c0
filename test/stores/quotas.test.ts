/** What a store keeps at the most, whichever it is. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, it } from 'vitest'
import { openMemoryStore } from '../../src/stores/memory.ts'
import { openSqliteStore } from '../../src/stores/sqlite.ts'
import type { Quotas, Store } from '../../src/stores/store.ts'
import { turn } from '../support/turn.ts'

const folders: string[] = []
afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true })
})

function newFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'kurultai-quotas-'))
  folders.push(folder)
  return folder
}

const inFile = (quotas: Quotas, folder = newFolder()) => openSqliteStore({ path: join(folder, 'store.sqlite'), quotas })

const kinds: [string, (quotas: Quotas) => Promise<Store>][] = [
  ['memory', async (quotas) => openMemoryStore(quotas)],
  ['SQLite', inFile],
]
const DAY_MS = 24 * 3_600_000
const BOUNDS = { keepMs: DAY_MS, eventsPerSession: 1_000 }
const OVER = { code: 'DEDUPE_QUOTA' }
const NO_SESSION = { code: 'SESSION_QUOTA' }

/** A turn of another session than all others, unless it says otherwise. */
const fresh = (id: string, more: Parameters<typeof turn>[1] = {}) =>
  turn(id, { sessionKey: `agent:main:${id}`, sessionId: `transcript ${id}`, ...more })

describe.each(kinds)('keys in %s', (_, open) => {
  it('of one principal are so many, and each that is known is answered all the same', async () => {
    const store = await open({ sessions: 0, keys: 3, keysOf: { many: 5 } })
    const accept = (id: string, principal: string) => store.accept(turn(`${principal} ${id}`, { principal }))
    for (const id of ['a', 'b', 'c']) expect(await accept(id, 'few')).toMatchObject({ kind: 'accepted' })
    await expect(accept('d', 'few')).rejects.toMatchObject(OVER)
    expect(await accept('a', 'few')).toMatchObject({ kind: 'known', run: { runId: 'run-few a' } })
    expect(await store.accept(turn('few a', { principal: 'few', fingerprint: 'other' }))).toMatchObject({
      kind: 'reused',
    })
    expect(await accept('d', 'others')).toMatchObject({ kind: 'accepted' })
    for (const id of ['a', 'b', 'c', 'd', 'e']) expect(await accept(id, 'many')).toMatchObject({ kind: 'accepted' })
    await expect(accept('f', 'many')).rejects.toMatchObject(OVER)
    expect(await store.run('run-few d')).toBeUndefined()
    await store.close()
  })

  it('make room as they are forgotten', async () => {
    const store = await open({ sessions: 0, keys: 2 })
    await store.age(0, BOUNDS)
    for (const id of ['a', 'b']) await store.accept(turn(id))
    await expect(store.accept(turn('c'))).rejects.toMatchObject(OVER)
    await store.settle('run-a', { state: 'completed', endedAt: 1 })
    await store.age(DAY_MS + 1, BOUNDS)
    await store.age(DAY_MS + 1, BOUNDS)
    expect(await store.accept(turn('c'))).toMatchObject({ kind: 'accepted' })
    await expect(store.accept(turn('d'))).rejects.toMatchObject(OVER)
    await store.close()
  })

  it('that come at once are as many as may be', async () => {
    const store = await open({ sessions: 0, keys: 7 })
    const all = await Promise.allSettled(Array.from({ length: 20 }, (_, n) => store.accept(turn(String(n)))))
    expect(all.filter(({ status }) => status === 'fulfilled')).toHaveLength(7)
    await store.close()
  })
})

describe.each(kinds)('sessions in %s', (_, open) => {
  it('of one principal are so many, however it makes them; they go on, and others make theirs', async () => {
    const store = await open({ sessions: 4, keys: 0 })
    const wanted = (id: string, principal = 'device-1') => ({
      ...{ key: `agent:main:${id}`, agentId: 'main' },
      ...{ sessionId: `transcript ${id}`, principal },
    })
    const note = { role: 'assistant', content: [], timestamp: 2 } as const
    await store.accept(fresh('a'))
    await store.patchSession(wanted('b'), {}, 1)
    await store.resetSession(wanted('c'), 1)
    await store.append('agent:main:d', { ...note, content: [] }, wanted('d'))
    await expect(store.accept(fresh('e'))).rejects.toMatchObject(NO_SESSION)
    await expect(store.patchSession(wanted('e'), {}, 1)).rejects.toMatchObject(NO_SESSION)
    await expect(store.resetSession(wanted('e'), 1)).rejects.toMatchObject(NO_SESSION)
    await expect(store.append('agent:main:e', { ...note, content: [] }, wanted('e'))).rejects.toMatchObject(NO_SESSION)
    expect(await store.sessions({})).toHaveLength(4)
    expect(await store.accept(fresh('f', { sessionKey: 'agent:main:b' }))).toMatchObject({ kind: 'accepted' })
    expect(await store.resetSession({ ...wanted('c'), sessionId: 'another' }, 1)).toMatchObject({
      sessionId: 'another',
      madeBy: 'device-1',
    })
    expect(await store.patchSession(wanted('g', 'device-2'), {}, 1)).toMatchObject({ madeBy: 'device-2' })
    expect(await store.accept(fresh('h', { principal: 'device-2' }))).toMatchObject({ kind: 'accepted' })
    await store.deleteSession('agent:main:g')
    await expect(store.accept(fresh('e'))).rejects.toMatchObject(NO_SESSION)
    await store.deleteSession('agent:main:d')
    expect(await store.patchSession(wanted('e'), {}, 1)).toMatchObject({ key: 'agent:main:e' })
    await expect(store.patchSession(wanted('i'), {}, 1)).rejects.toMatchObject(NO_SESSION)
    await store.close()
  })

  it('that were removed under a turn come back with it: what is admitted is begun', async () => {
    const store = await open({ sessions: 1, keys: 0 })
    await store.accept(fresh('a'))
    await store.deleteSession('agent:main:a')
    await store.accept(fresh('b'))
    await store.start('run-a', 1)
    await store.deleteSession('agent:main:a')
    await expect(store.accept(fresh('c'))).rejects.toMatchObject(NO_SESSION)
    await store.close()
  })
})

describe('what is counted', () => {
  it('is what the file has: after a restart, and after a batch that was undone', async () => {
    const folder = newFolder()
    const quotas = { sessions: 3, keys: 3 }
    const first = await inFile(quotas, folder)
    await first.accept(fresh('a'))
    // A time that is none cannot be kept: the whole batch is undone, and done again one by one.
    const batch = await Promise.allSettled([
      first.accept(fresh('b')),
      first.accept(fresh('bad', { acceptedAt: { not: 'a time' } as unknown as number })),
    ])
    expect(batch.map(({ status }) => status)).toEqual(['fulfilled', 'rejected'])
    expect(await first.accept(fresh('c'))).toMatchObject({ kind: 'accepted' })
    await expect(first.accept(fresh('d'))).rejects.toMatchObject(OVER)
    await first.close()
    const second = await inFile(quotas, folder)
    expect(await second.accept(fresh('c'))).toMatchObject({ kind: 'known' })
    await expect(second.accept(fresh('d'))).rejects.toMatchObject(OVER)
    await expect(
      second.patchSession({ key: 'agent:main:d', agentId: 'main', sessionId: 'd', principal: 'device-1' }, {}, 1),
    ).rejects.toMatchObject(NO_SESSION)
    await second.close()
  })
})

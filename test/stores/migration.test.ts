/** Steps of a store file that are cut off after any of their statements, and the store that goes on with what is left. */
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openSqliteStore } from '../../src/stores/sqlite.ts'
import { knownSchema, migrate, schemaOf } from '../../src/stores/sqlite-schema.ts'
import { cronJob, systemEvent } from '../support/job.ts'
import { message, turn } from '../support/turn.ts'

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'migration-'))
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

const statementsOf = (sql: string): string[] => sql.split(/;\s*\n/).filter((part) => part.trim() !== '')

/** A file as a gateway of an older schema left it, with an ended run under a key, and an event of schema 2. */
function openOld(path: string, schema: number): DatabaseSync {
  const db = new DatabaseSync(path)
  // With a cache this small, changes reach the log before their COMMIT.
  db.exec('PRAGMA journal_mode = WAL; PRAGMA cache_size = 1')
  migrate(db, Math.min(schema, 2))
  if (schema === 0) return db
  const { spareRunId: _, ...run } = { ...turn('a'), state: 'completed', endedAt: 2000, text: '' }
  db.prepare('INSERT INTO runs (run_id, accepted_at, ended_at, record) VALUES (?, 1000, 2000, ?)').run(
    'run-a',
    JSON.stringify(run),
  )
  db.exec("INSERT INTO keys SELECT 'device-1', 'chat.send', 'agent:main:main', 'key-a', seq FROM runs")
  if (schema === 1) return db
  const stream = JSON.stringify({ sessionKey: 'agent:main:main', epoch: 'e', offset: 1, at: 1 })
  db.prepare('INSERT INTO streams (session_key, last, record) VALUES (?, 1, ?)').run('agent:main:main', stream)
  // As sealed by schema 2: the CRC-32 of the text before it.
  db.exec(`INSERT INTO chunks (stream, first, last, at, events) SELECT seq, 1, 1, 1, '0d4cbb29[]' FROM streams`)
  migrate(db, schema)
  return db
}

class Cut extends Error {}

/** Takes the next step up to a statement, and copies the files as a process that dies there leaves them. False: it has fewer. */
function cutOff(db: DatabaseSync, path: string, copy: string, after: number): boolean {
  let wasCut = false
  const cutting = new Proxy(db, {
    get(target, name) {
      if (name !== 'exec') {
        const member: unknown = Reflect.get(target, name, target)
        return typeof member === 'function' ? member.bind(target) : member
      }
      return (sql: string) => {
        const statements = statementsOf(sql)
        if (statements.length < 2) return target.exec(sql)
        for (const statement of statements.slice(0, after)) target.exec(statement)
        if (after > statements.length) return
        for (const suffix of ['', '-wal']) if (existsSync(path + suffix)) copyFileSync(path + suffix, copy + suffix)
        wasCut = true
        throw new Cut()
      }
    },
  })
  try {
    migrate(cutting, schemaOf(db) + 1)
  } catch (error) {
    if (!(error instanceof Cut)) throw error
  }
  return wasCut
}

describe('a step that is cut off', () => {
  it.each(Array.from({ length: knownSchema }, (_, schema) => schema))(
    'from schema %i, after any of its statements, is taken again by the next opening, which has everything',
    { timeout: 60_000 },
    async (schema) => {
      for (let after = 0; ; after += 1) {
        const place = join(folder, String(after))
        mkdirSync(place)
        const [path, copy] = [join(place, 'old.db'), join(place, 'copy.db')]
        const db = openOld(path, schema)
        const wasCut = cutOff(db, path, copy, after)
        db.close()
        if (!wasCut) {
          expect(after).toBeGreaterThan(2)
          break
        }
        const store = await openSqliteStore({ path: copy })
        expect(store.incident).toBeUndefined()
        expect(await store.verify()).toEqual([])
        if (schema > 0) {
          expect(await store.run('run-a')).toMatchObject({ state: 'completed' })
          expect(await store.accept(turn('a'))).toMatchObject({ kind: 'known' })
        } else expect(await store.accept(turn('a'))).toMatchObject({ kind: 'accepted' })
        if (schema > 1)
          expect(await store.events('agent:main:main', 'e', 0, 100)).toEqual({
            kind: 'events',
            chunks: [{ from: 1, to: 1, events: '[]' }],
          })
        // What the last step made is there to be used, whatever the file was before.
        await store.accept(message('b', { chain: { id: 'run-a', hop: 1, path: ['main', 'other'] } }))
        await store.settle('run-b', { state: 'completed', endedAt: 3000 })
        expect((await store.chain('run-a')).map(({ runId }) => runId)).toEqual(['run-a', 'run-b'])
        expect(await store.unheard()).toHaveLength(1)
        const job = cronJob('j')
        await store.keepJob({ job })
        expect(await store.keepJob({ job, firing: { jobId: 'j', dueAt: 1, startedAt: 2 } })).toBe(true)
        expect([await store.jobs(), await store.openFirings()]).toMatchObject([[job], [{ dueAt: 1 }]])
        await store.addSystemEvent(systemEvent('e'))
        expect(await store.systemEvents()).toHaveLength(1)
        await store.close()
        const again = new DatabaseSync(copy)
        expect(schemaOf(again)).toBe(knownSchema)
        again.close()
      }
    },
  )
})

import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { openMemoryStore } from '../../src/stores/memory.ts'
import { projected } from '../../src/stores/projection.ts'
import type { Store, TranscriptMessage } from '../../src/stores/store.ts'
import { turn } from '../support/turn.ts'

const key = 'agent:main:main'
const main = { key, agentId: 'main', sessionId: 'transcript-1' }
const words = (text: string): TranscriptMessage => ({
  role: 'assistant',
  content: [{ type: 'text', text }],
  timestamp: 1,
})

/** A store that writes files, and what they say. */
function open(under: Store = openMemoryStore(), folder = mkdtempSync(join(tmpdir(), 'projection-'))) {
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const warn = vi.fn()
  const store = projected(under, { folder, warn })
  const sessions = join(folder, 'agents', 'main', 'sessions')
  const said = () =>
    readFileSync(join(sessions, 'transcript-1.jsonl'), 'utf8')
      .trimEnd()
      .split('\n')
      .slice(1)
      .map((line) => JSON.parse(line).message.content[0].text)
  const isSaid = (texts: string[]) => vi.waitFor(() => expect(said()).toEqual(texts), 15_000)
  return { store, folder, sessions, isSaid, warn }
}

describe('the file of a transcript', () => {
  it('is written anew when the session has set entries aside, and goes on from there', async () => {
    const { store, isSaid } = open()
    for (const text of ['one', 'two', 'three']) await store.append(key, words(text), main)
    await isSaid(['one', 'two', 'three'])
    await store.compactSession(key, { sessionId: 'past', keep: 1 })
    await isSaid(['three'])
    await store.append(key, words('four'))
    await isSaid(['three', 'four'])
    await store.close()
  })

  it('is written anew when it begins again under its id, however long it is when it is looked at', async () => {
    const { store, isSaid } = open()
    await store.append(key, words('one'), main)
    await isSaid(['one'])
    await store.resetSession(main, 2)
    for (const text of ['two', 'three']) await store.append(key, words(text))
    await isSaid(['two', 'three'])
    await store.close()
  })

  it('has what was said while the runs before it were looked up', async () => {
    const memory = openMemoryStore()
    const looked = Promise.withResolvers<void>()
    const go = Promise.withResolvers<void>()
    const slow = new Proxy(memory, {
      get: (target, name) =>
        name === 'run'
          ? async (runId: string) => {
              if (runId === 'run-elsewhere') {
                looked.resolve()
                await go.promise
              }
              return target.run(runId)
            }
          : Reflect.get(target, name, target),
    })
    const { store, isSaid } = open(slow)
    await store.accept(turn('here'))
    await store.start('run-here', 1)
    await isSaid(['message here'])
    await store.accept(turn('elsewhere', { sessionKey: 'agent:main:elsewhere', sessionId: 'transcript-2' }))
    await store.start('run-elsewhere', 1)
    await looked.promise
    await store.settle('run-here', { state: 'completed', endedAt: 2, message: words('an answer') })
    go.resolve()
    await isSaid(['message here', 'an answer'])
    await store.close()
  })

  it('is not waited for where somebody put a pipe in its place or beside it', async () => {
    const { store, sessions, isSaid } = open()
    await store.append(key, words('one'), main)
    await isSaid(['one'])
    mkdirSync(sessions, { recursive: true })
    execFileSync('mkfifo', [join(sessions, 'other.jsonl')])
    await store.append('agent:main:gone', words('x'), { agentId: 'main', sessionId: 'transcript-2' })
    await vi.waitFor(() => readFileSync(join(sessions, 'transcript-2.jsonl')), 15_000)
    await store.deleteSession('agent:main:gone')
    rmSync(join(sessions, 'transcript-1.jsonl'))
    execFileSync('mkfifo', [join(sessions, 'transcript-1.jsonl')])
    await store.append(key, words('two'))
    await store.close()
    await isSaid(['one', 'two'])
  })

  it('is brought up to date, and away, when the process died before it was', async () => {
    const memory = openMemoryStore()
    const { store, folder, sessions, isSaid } = open(memory)
    for (const text of ['one', 'two']) await store.append(key, words(text), main)
    const gone = { key: 'agent:main:gone', agentId: 'main', sessionId: 'transcript-2' }
    await store.append(gone.key, words('a secret'), gone)
    const list = () => JSON.parse(readFileSync(join(sessions, 'sessions.json'), 'utf8'))
    await vi.waitFor(() => expect(Object.keys(list())).toEqual([key, gone.key]), 15_000)
    const foreign = join(sessions, 'foreign.jsonl')
    writeFileSync(foreign, '{"type":"session","id":"foreign"}\n')
    // Nobody hears of it who would write it.
    await memory.compactSession(key, { sessionId: 'past', keep: 1 })
    await memory.deleteSession(gone.key)
    const anew = open(memory, folder)
    await isSaid(['two'])
    await vi.waitFor(() => expect(Object.keys(list())).toEqual([key]), 15_000)
    await anew.store.close()
    expect(readdirSync(sessions).toSorted()).toEqual(['foreign.jsonl', 'sessions.json', 'transcript-1.jsonl'])
  })
})

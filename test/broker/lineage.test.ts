import { describe, expect, it } from 'vitest'
import { createLineage } from '../../src/broker/lineage.ts'
import { openMemoryStore } from '../../src/stores/memory.ts'
import type { Ending, Spent } from '../../src/stores/store.ts'
import { message, turn } from '../support/turn.ts'

const spent = (tokens: number): Spent => ({
  provider: 'p',
  model: 'm',
  input: tokens,
  output: 0,
  cacheRead: 0,
  cacheWrite: 0,
  totalTokens: tokens,
  cost: { input: tokens / 10, output: 0, cacheRead: 0, cacheWrite: 0, total: tokens / 10 },
})
const completed = (changes: Partial<Ending> = {}): Ending => ({ state: 'completed', endedAt: 3000, ...changes })

function open() {
  const store = openMemoryStore()
  return { store, lineage: createLineage({ store }) }
}

describe('the tree of a chain', () => {
  it('sums what its runs used, each of their models', async () => {
    const { store, lineage } = open()
    await store.accept(turn('first'))
    await store.accept(message('a'))
    await store.settle('run-a', completed({ spent: [spent(30), spent(10)] }))
    await store.settle('run-first', completed({ spent: [spent(2)] }))
    const tree = await lineage.tree('run-first')
    expect(tree!.totals).toEqual({ messages: 1, tokens: 42, cost: 4.2, hops: 1 })
    expect(tree!.tree).toMatchObject([{ tokens: 2, cost: 0.2, children: [{ tokens: 40, cost: 4 }] }])
  })

  it('has what is left of it when its request is forgotten', async () => {
    const { store, lineage } = open()
    await store.accept(turn('first'))
    for (const name of ['a', 'b']) await store.accept(message(name))
    await store.accept(turn('c', { answers: 'run-a', chain: { id: 'run-first', hop: 0, path: ['main'] } }))
    await store.settle('run-first', completed())
    await store.age(1, { keepMs: 0, eventsPerSession: 1 })
    const tree = await lineage.tree('run-first')
    expect(tree!.tree).toMatchObject([
      { runId: 'run-a', children: [{ runId: 'run-c', answers: 'run-a', state: 'admitted' }] },
      { runId: 'run-b', children: [] },
    ])
    const [summary] = await lineage.newest(9)
    expect(summary).toMatchObject({ chainId: 'run-first', agentId: 'main', isOpen: true })
    expect(summary!.message).toBeUndefined()
    expect(await lineage.chainIdOf('run-b')).toBe('run-first')
    expect(await lineage.chainIdOf('run-first')).toBeUndefined()
  })

  it('has at most 1,000 nodes, the oldest, and says so; its totals are of all', async () => {
    const { store, lineage } = open()
    await store.accept(turn('first'))
    for (let n = 1; n <= 1_000; n++) await store.accept(message(`${n}`))
    const tree = await lineage.tree('run-first')
    expect([tree!.nodes, tree!.truncated, tree!.totals.messages]).toEqual([1_000, true, 1_000])
    expect(tree!.tree[0]!.children.map(({ runId }) => runId)).toEqual(
      Array.from({ length: 999 }, (_, n) => `run-${n + 1}`),
    )
  })

  it('is whole at 1,000 nodes in one line', async () => {
    const { store, lineage } = open()
    await store.accept(turn('0', { runId: 'run-0' }))
    for (let n = 1; n < 1_000; n++)
      await store.accept(
        message(`${n}`, {
          chain: { id: 'run-0', hop: n, path: ['main', 'other'] },
          sent: { from: { agentId: 'main', sessionKey: 'agent:main:main', runId: `run-${n - 1}` }, reply: 'none' },
        }),
      )
    const tree = await lineage.tree('run-0')
    expect([tree!.nodes, tree!.truncated, tree!.totals.hops]).toEqual([1_000, false, 999])
    expect(JSON.parse(JSON.stringify(tree))).toEqual(tree)
  })
})

describe('the newest chains', () => {
  it('come by their newest message, as many as are asked for', async () => {
    const { store, lineage } = open()
    const inChain = (id: string) => ({ chain: { id, hop: 1, path: ['main', 'other'] } })
    for (const name of ['x', 'y', 'z']) await store.accept(turn(name))
    await store.accept(message('a', inChain('run-x')))
    await store.accept(message('b', inChain('run-y')))
    await store.accept(message('c', inChain('run-x')))
    const ids = async (limit: number) => (await lineage.newest(limit)).map(({ chainId }) => chainId)
    expect(await ids(9)).toEqual(['run-x', 'run-y'])
    expect(await ids(1)).toEqual(['run-x'])
  })
})

import { describe, expect, it } from 'vitest'
import { chainOf, createChains } from '../../src/broker/chains.ts'
import type { ChainLimits, Config } from '../../src/config/config.ts'
import type { RunRecord } from '../../src/stores/store.ts'

const OFF: ChainLimits = { hops: 0, visits: 0, messages: 0, fanOut: 0, tokens: 0, cost: 0 }

const run = (runId: string, agentId: string, changes: Partial<RunRecord> = {}) =>
  ({ runId, agentId, sessionKey: `agent:${agentId}:main`, ...changes }) as RunRecord
const cost = (total: number) => ({ input: 0, output: 0, cacheRead: 0, cacheWrite: 0, total })
const spent = (totalTokens: number, total = 0) => [
  { provider: 'p', model: 'm', input: 0, output: 0, cacheRead: 0, cacheWrite: 0, totalTokens, cost: cost(total) },
]

function open(
  limits: Partial<ChainLimits>,
  rules: Partial<Config['tools']['agentToAgent']> = {},
  kept: RunRecord[] = [],
) {
  let reads = 0
  const store = {
    async chain() {
      reads += 1
      return kept
    },
  }
  const chains = createChains({
    store,
    rules: { enabled: true, allow: ['*'], limits: { ...OFF, ...limits }, ...rules },
  })
  return { chains, reads: () => reads }
}

describe('a chain', () => {
  it('begins with the request of an outsider, and every message is one hop more', async () => {
    const { chains } = open({})
    const first = run('r1', 'main')
    expect(chainOf(first)).toEqual({ id: 'r1', hop: 0, path: ['main'] })
    const { chain } = await chains.extend(first, 'researcher', 'k1')
    expect(chain).toEqual({ id: 'r1', hop: 1, path: ['main', 'researcher'] })
    expect((await chains.extend(run('r2', 'researcher', { chain }), 'writer', 'k2')).chain).toEqual({
      id: 'r1',
      hop: 2,
      path: ['main', 'researcher', 'writer'],
    })
  })

  const LIMITS: [string, Partial<ChainLimits>, RunRecord, RegExp][] = [
    [
      'hops',
      { hops: 1 },
      run('r2', 'b', { chain: { id: 'r1', hop: 1, path: ['a', 'b'] } }),
      /no more than 1 messages may follow.*a → b → c.*limits\.hops/,
    ],
    [
      'visits',
      { visits: 1 },
      run('r2', 'b', { chain: { id: 'r1', hop: 2, path: ['c', 'a', 'b'] } }),
      /more than 1 times.*c → a → b → c.*limits\.visits/,
    ],
  ]
  it.each(LIMITS)(
    'ends at its limit of %s, which the refusal names with the way and the key',
    async (name, limits, from, words) => {
      const { chains } = open(limits)
      const refused = chains.extend(from, 'c', 'k')
      await expect(refused).rejects.toThrow(words)
      await expect(refused).rejects.toMatchObject({ kind: 'CHAIN_LIMIT', details: { limit: name, chainId: 'r1' } })
    },
  )

  it('ends when it has had all its messages, also of many runs at once', async () => {
    const { chains, reads } = open({ messages: 3 })
    const from = run('r1', 'a')
    const results = await Promise.allSettled(Array.from({ length: 10 }, (_, n) => chains.extend(from, 'b', `k${n}`)))
    expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(3)
    expect(reads()).toBe(1)
  })

  it('gives back a message that was none, and keeps apart what each run sent', async () => {
    const { chains } = open({ fanOut: 1 })
    const from = run('r1', 'a')
    const { giveBack } = await chains.extend(from, 'b', 'k1')
    await expect(chains.extend(from, 'b', 'k2')).rejects.toThrow(/one turn may send no more than 1/)
    giveBack()
    const { chain } = await chains.extend(from, 'b', 'k2')
    await chains.extend(run('r2', 'b', { chain }), 'a', 'k1')
  })

  it('neither counts nor refuses what a run that was begun again had sent before', async () => {
    const sent = { from: { agentId: 'a', sessionKey: 'agent:a:main', runId: 'r1' }, reply: 'once' as const }
    const kept = ['k1', 'k2'].map((key) => run(`m-${key}`, 'b', { key, sent }))
    const { chains } = open({ fanOut: 2, messages: 2 }, {}, [run('r1', 'a'), ...kept])
    const from = run('r1', 'a')
    const again = await chains.extend(from, 'b', 'k1')
    expect(again.chain).toEqual({ id: 'r1', hop: 1, path: ['a', 'b'] })
    // It was not counted, so there is nothing to give back.
    again.giveBack()
    await chains.extend(from, 'b', 'k2')
    await expect(chains.extend(from, 'b', 'k3')).rejects.toMatchObject({ kind: 'CHAIN_LIMIT' })
  })

  it('ends when it has used its tokens or its money, each run counted once', async () => {
    const kept = [run('r1', 'a', { spent: spent(60) })]
    const { chains } = open({ tokens: 100 }, {}, kept)
    const from = run('r1', 'a')
    await chains.extend(from, 'b', 'k1')
    chains.spend(from, spent(60))
    await chains.extend(from, 'b', 'k2')
    chains.spend(run('r2', 'b', { chain: { id: 'r1', hop: 1, path: ['a', 'b'] } }), spent(40))
    await expect(chains.extend(from, 'b', 'k3')).rejects.toThrow(/used the 100 tokens/)

    const other = open({ cost: 0.5 }, {}, [run('r1', 'a', { spent: spent(1, 0.5) })])
    await expect(other.chains.extend(from, 'b', 'k1')).rejects.toThrow(/cost the 0\.5/)
  })

  it('counts what a run has used while it is under way, and not again when it has ended', async () => {
    const { chains } = open({ tokens: 100 })
    const from = run('r1', 'a')
    chains.spend(from, spent(60))
    await chains.extend(from, 'b', 'k1')
    chains.spend(from, spent(90))
    await chains.extend(from, 'b', 'k2')
    chains.spend(from, spent(100))
    await expect(chains.extend(from, 'b', 'k3')).rejects.toThrow(/used the 100 tokens/)
  })

  it('knows after a restart how far it had come', async () => {
    const kept = [
      run('r1', 'a'),
      run('m1', 'b', { sent: { from: { agentId: 'a', sessionKey: 'agent:a:main', runId: 'r1' }, reply: 'once' } }),
    ]
    const { chains } = open({ messages: 1 }, {}, kept)
    await expect(chains.extend(run('r1', 'a'), 'b', 'k')).rejects.toMatchObject({ kind: 'CHAIN_LIMIT' })
  })
})

describe('who may send to whom', () => {
  const may = (rules: Partial<Config['tools']['agentToAgent']>, from: string, to: string) =>
    open({}, rules).chains.maySend(from, to)

  it.each<[string, Partial<Config['tools']['agentToAgent']>, [string, string], boolean]>([
    ['nobody by default', { enabled: false, allow: ['*'] }, ['a', 'b'], false],
    ['but always to sessions of its own', { enabled: false }, ['a', 'a'], true],
    ['those of a list', { allow: ['a', 'b'] }, ['a', 'b'], true],
    ['none outside the list', { allow: ['a', 'b'] }, ['a', 'c'], false],
    ['those of a row', { allow: { a: ['b'] } }, ['a', 'b'], true],
    ['not the other way round', { allow: { a: ['b'] } }, ['b', 'a'], false],
    ['everybody of a row', { allow: { a: ['*'] } }, ['a', 'c'], true],
    ['a row for everybody', { allow: { '*': ['b'] } }, ['c', 'b'], true],
    ['nobody by a name that objects have', { allow: {} }, ['constructor', 'b'], false],
  ])('%s', (_, rules, [from, to], expected) => {
    expect(may(rules, from, to)).toBe(expected)
  })

  it.each<[string, Partial<Config['tools']['agentToAgent']>, boolean]>([
    ['where agents may not send to each other', { enabled: false }, true],
    ['those of a list', { allow: ['b'] }, true],
    ['none outside it', { allow: ['a'] }, false],
    ['those that every agent may send to', { allow: { '*': ['b'] } }, true],
    ['those that a rule names', { allow: { a: ['b'] } }, true],
    ['none that no rule names', { allow: { a: ['c'] } }, false],
  ])('somebody who is no agent reaches whom agents reach, and everybody %s', (_, rules, expected) => {
    expect(open({}, rules).chains.maySend(undefined, 'b')).toBe(expected)
  })

  it('is said in the refusal, with the rule', async () => {
    await expect(open({}, { allow: ['a'] }).chains.extend(run('r', 'a'), 'b', 'k')).rejects.toMatchObject({
      kind: 'AGENT_NOT_ALLOWED',
      details: { rule: 'tools.agentToAgent.allow', from: 'a', to: 'b' },
    })
  })
})

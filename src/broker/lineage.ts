/** What came of a request, as a tree: who sent to whom, who brought an answer back, and what each used. */
import type { RunRecord, RunState, Spent, Store } from '../stores/store.ts'
import { chainOf } from './chains.ts'
import { type MessageState, stateOf } from './mailbox.ts'

/** A request, a message, or a turn that brings an answer back. */
export interface ChainNode {
  runId: string
  /** The same, of a message. */
  messageId?: string
  /** The message whose answer this turn brings back. */
  answers?: string
  agentId: string
  sessionKey: string
  from?: { agentId: string; sessionKey: string; runId: string }
  hop: number
  path: string[]
  state: MessageState | RunState
  acceptedAt: number
  startedAt?: number
  endedAt?: number
  tokens: number
  /** In the currency of the configured prices. */
  cost: number
  children: ChainNode[]
}

export interface ChainTotals {
  messages: number
  tokens: number
  cost: number
  hops: number
}

export interface ChainTree {
  chainId: string
  /** The request; several where it, or what led to them, is forgotten. */
  tree: ChainNode[]
  nodes: number
  /** Whether there are more than are shown. */
  truncated: boolean
  /** Of all. */
  totals: ChainTotals
}

export interface ChainSummary {
  chainId: string
  agentId: string
  /** Of the request; absent when it is forgotten. */
  sessionKey?: string
  message?: string
  acceptedAt: number
  newestAt: number
  isOpen: boolean
  totals: ChainTotals
  /** What its runs used that are still known, each for itself. */
  spent: Spent[]
}

export interface Lineage {
  /** The chain that a run is in; undefined when the run is not known. */
  chainIdOf(runId: string): Promise<string | undefined>
  /** At most 1,000 nodes, the oldest. Undefined when nothing of the chain is known. */
  tree(chainId: string): Promise<ChainTree | undefined>
  /** The newest chains that have messages, the newest first, as far as the newest 500 messages tell of them. */
  newest(limit: number): Promise<ChainSummary[]>
}

const MOST_NODES = 1_000
const MOST_MESSAGES = 500
/** Characters of a request in a summary. */
const SHOWN = 200

export function createLineage({ store }: { store: Pick<Store, 'run' | 'chain' | 'mail'> }): Lineage {
  return {
    async chainIdOf(runId) {
      const run = await store.run(runId)
      return run && chainOf(run).id
    },
    async tree(chainId) {
      const runs = await store.chain(chainId)
      if (runs.length === 0) return undefined
      const shown = runs.slice(0, MOST_NODES)
      return {
        chainId,
        tree: grown(shown),
        nodes: shown.length,
        truncated: shown.length < runs.length,
        totals: totalsOf(runs),
      }
    },
    async newest(limit) {
      const mail = await store.mail({ limit: MOST_MESSAGES })
      const ids = [...new Set(mail.map((message) => chainOf(message).id))].slice(0, limit)
      const summaries: ChainSummary[] = []
      // One after the other: each may be large.
      for (const chainId of ids) {
        const runs = await store.chain(chainId)
        // It may have been forgotten meanwhile.
        if (runs.length > 0) summaries.push(summaryOf(chainId, runs))
      }
      return summaries
    },
  }
}

/** Hangs each node under what led to it: the run that sent it, or the message that it answers. */
function grown(runs: RunRecord[]): ChainNode[] {
  const nodes = new Map(runs.map((run) => [run.runId, nodeOf(run)]))
  return [...nodes.values()].filter((node) => {
    const parent = nodes.get(node.answers ?? node.from?.runId ?? '')
    parent?.children.push(node)
    return parent === undefined
  })
}

function nodeOf(run: RunRecord): ChainNode {
  const { runId, agentId, sessionKey, sent, answers, acceptedAt, startedAt, endedAt } = run
  const { hop, path } = chainOf(run)
  return {
    runId,
    ...(sent && { messageId: runId, from: sent.from }),
    ...(answers !== undefined && { answers }),
    agentId,
    sessionKey,
    hop,
    path,
    state: sent ? stateOf(run) : run.state,
    acceptedAt,
    ...(startedAt !== undefined && { startedAt }),
    ...(endedAt !== undefined && { endedAt }),
    ...used(run.spent),
    children: [],
  }
}

const used = (spent: readonly Spent[] = []): { tokens: number; cost: number } => ({
  tokens: spent.reduce((sum, { totalTokens }) => sum + totalTokens, 0),
  cost: spent.reduce((sum, { cost }) => sum + cost.total, 0),
})

const totalsOf = (runs: RunRecord[]): ChainTotals => ({
  messages: runs.filter(({ sent }) => sent).length,
  ...used(runs.flatMap(({ spent = [] }) => spent)),
  hops: Math.max(...runs.map((run) => chainOf(run).hop)),
})

function summaryOf(chainId: string, runs: RunRecord[]): ChainSummary {
  const [first] = runs
  const request = runs.find(({ runId }) => runId === chainId)
  const times = runs.map(({ acceptedAt }) => acceptedAt)
  return {
    chainId,
    agentId: chainOf(first!).path[0]!,
    ...(request && { sessionKey: request.sessionKey, message: request.message.slice(0, SHOWN) }),
    acceptedAt: Math.min(...times),
    newestAt: Math.max(...times),
    isOpen: runs.some(({ endedAt }) => endedAt === undefined),
    totals: totalsOf(runs),
    spent: runs.flatMap(({ spent = [] }) => spent),
  }
}

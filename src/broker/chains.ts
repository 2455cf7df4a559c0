/** What comes of one request of an outsider: how far its messages went from agent to agent, how many there are, what they cost. */
import type { ChainLimits, Config } from '../config/config.ts'
import { GatewayError } from '../contract/errors.ts'
import type { Chain, RunRecord, Spent, Store } from '../stores/store.ts'

export interface Chains {
  /**
   * One more link: a message of a run to an agent. It counts from now on, once, also when the run is begun again and sends it again.
   * @param key what is the same then
   * @throws GatewayError AGENT_NOT_ALLOWED naming the rule; CHAIN_LIMIT naming the limit, the way, and the key that sets it
   */
  extend(from: RunRecord, agentId: string, key: string): Promise<Link>
  /** What a run has used so far counts for its chain, from its first answer on. */
  spend(run: RunRecord, spent: readonly Spent[]): void
  /** Whether one agent may send to another at all. `undefined`: somebody who is no agent; where agents may, it reaches whom the rule names. */
  maySend(from: string | undefined, to: string): boolean
  /** Why it may not, naming the rule; undefined = it may. */
  refusalOf(from: string | undefined, to: string): GatewayError | undefined
}

export interface Link {
  chain: Chain
  /** It is no message after all: it was refused. */
  giveBack(): void
}

export interface ChainsNeeds {
  store: Pick<Store, 'chain'>
  rules: Config['tools']['agentToAgent']
}

/** What has come of a request so far. */
interface Tally {
  messages: number
  /** The keys of what was sent, by run. */
  sent: Map<string, Set<string>>
  /** What each run has used. */
  spent: Map<string, { tokens: number; cost: number }>
}

/** Chains whose sums are at hand; those of others are read when they are asked for. */
const MOST_AT_HAND = 10_000

/** The chain a run is in. An outsider's request is the first of its own. */
export const chainOf = ({ chain, runId, agentId }: Pick<RunRecord, 'chain' | 'runId' | 'agentId'>): Chain =>
  chain ?? { id: runId, hop: 0, path: [agentId] }

export function createChains({ store, rules: { enabled, allow, limits } }: ChainsNeeds): Chains {
  const tallies = new Map<string, Promise<Tally>>()

  /** Asked for by several at once, it is read once: nothing is counted twice or forgotten in between. */
  function tallyOf(chainId: string): Promise<Tally> {
    const known = tallies.get(chainId)
    if (known) {
      // The least used come first.
      tallies.delete(chainId)
      tallies.set(chainId, known)
      return known
    }
    const tally = store.chain(chainId).then(tallied)
    tallies.set(chainId, tally)
    tally.catch(() => tallies.delete(chainId))
    if (tallies.size > MOST_AT_HAND) tallies.delete(tallies.keys().next().value!)
    return tally
  }

  function maySend(from: string | undefined, to: string): boolean {
    // To other sessions of its own.
    if (from === to) return true
    if (!enabled) return from === undefined
    if (Array.isArray(allow)) return [from ?? to, to].every((id) => allow.includes('*') || allow.includes(id))
    const receivers =
      from === undefined
        ? Object.entries(allow).flat(2)
        : [...(Object.hasOwn(allow, from) ? allow[from]! : []), ...(allow['*'] ?? [])]
    return receivers.includes('*') || receivers.includes(to)
  }

  /** Why one may not send to another; undefined = it may. */
  function refusalOf(from: string | undefined, to: string): GatewayError | undefined {
    if (maySend(from, to)) return undefined
    const rule = enabled ? 'tools.agentToAgent.allow' : 'tools.agentToAgent.enabled'
    const who = from ?? 'somebody who is no agent'
    return new GatewayError(
      'AGENT_NOT_ALLOWED',
      enabled
        ? `${who} may not send to ${to}, or see its sessions: ${rule} does not say so`
        : `agents may not send to each other, or see each other's sessions: ${rule} is false (${who} to ${to})`,
      { details: { rule, ...(from !== undefined && { from }), to } },
    )
  }

  return {
    maySend,
    refusalOf,
    async extend(from, agentId, key) {
      const refusal = refusalOf(from.agentId, agentId)
      if (refusal) throw refusal
      const { id, hop, path } = chainOf(from)
      const tally = await tallyOf(id)
      const way = [...path, agentId]
      const chain = { id, hop: hop + 1, path: way }
      const sent = sentBy(tally, from.runId)
      if (sent.has(key)) return { chain, giveBack() {} }
      const reached: Record<keyof ChainLimits, number> = {
        hops: hop + 1,
        visits: way.filter((one) => one === agentId).length,
        messages: tally.messages + 1,
        fanOut: sent.size + 1,
        // What has been spent is spent: the message that goes beyond it is the next one.
        tokens: sumOf(tally, 'tokens'),
        cost: sumOf(tally, 'cost'),
      }
      for (const [name, limit] of Object.entries(limits) as [keyof ChainLimits, number][])
        if (limit > 0 && (name === 'tokens' || name === 'cost' ? reached[name] >= limit : reached[name] > limit))
          throw beyond(name, limit, id, way)
      tally.messages += 1
      sent.add(key)
      return {
        chain,
        giveBack() {
          if (sent.delete(key)) tally.messages -= 1
        },
      }
    },
    spend(run, spent) {
      const { id } = chainOf(run)
      // Nobody asks what a chain has used where that has no bound.
      if (limits.tokens === 0 && limits.cost === 0) return
      void tallyOf(id).then(
        (tally) => note(tally, run.runId, spent),
        () => {},
      )
    },
  }
}

function tallied(runs: RunRecord[]): Tally {
  const tally: Tally = { messages: 0, sent: new Map(), spent: new Map() }
  for (const { runId, key, sent, spent = [] } of runs) {
    note(tally, runId, spent)
    if (!sent) continue
    tally.messages += 1
    sentBy(tally, sent.from.runId).add(key)
  }
  return tally
}

function sentBy({ sent }: Tally, runId: string): Set<string> {
  const keys = sent.get(runId) ?? new Set()
  sent.set(runId, keys)
  return keys
}

/** Each time it is told what a run has used in all: whatever was read of it meanwhile, it counts once. */
function note(tally: Tally, runId: string, spent: readonly Spent[]): void {
  if (spent.length === 0) return
  const sum = (of: (one: Spent) => number) => spent.reduce((total, one) => total + of(one), 0)
  tally.spent.set(runId, { tokens: sum(({ totalTokens }) => totalTokens), cost: sum(({ cost }) => cost.total) })
}

const sumOf = ({ spent }: Tally, name: 'tokens' | 'cost'): number =>
  [...spent.values()].reduce((total, one) => total + one[name], 0)

const WORDS: Record<keyof ChainLimits, (limit: number) => string> = {
  hops: (limit) => `no more than ${limit} messages may follow from one another`,
  visits: (limit) => `no agent may be in the line of who sent to whom more than ${limit} times`,
  messages: (limit) => `no more than ${limit} messages may come of one request`,
  fanOut: (limit) => `one turn may send no more than ${limit} messages`,
  tokens: (limit) => `what came of this request has used the ${limit} tokens it may`,
  cost: (limit) => `what came of this request has cost the ${limit} it may`,
}

function beyond(name: keyof ChainLimits, limit: number, chainId: string, path: string[]): GatewayError {
  const key = `tools.agentToAgent.limits.${name === 'tokens' ? 'totalTokens' : name}`
  return new GatewayError(
    'CHAIN_LIMIT',
    `${WORDS[name](limit)} (${path.join(' → ')}); answer with what you have, or raise ${key}`,
    { details: { limit: name, most: limit, chainId, path, key } },
  )
}

/** `usage.*` and `sessions.usage`: what models were used for, and what that cost. */
import type { Caller, Handlers } from '../broker/dispatch.ts'
import type { Lineage } from '../broker/lineage.ts'
import type { Config } from '../config/config.ts'
import { GatewayError } from '../contract/errors.ts'
import type { Params } from '../contract/index.ts'
import type { AgentNames } from '../contract/session-key.ts'
import type { usage as contract } from '../contract/usage.ts'
import type { Spent, Store, UsageDay } from '../stores/store.ts'
import { session } from './door.ts'
import { setting } from './settings.ts'

export interface UsageNeeds {
  agents: AgentNames
  store: Pick<Store, 'usage' | 'session'>
  lineage: Pick<Lineage, 'newest'>
  models: Pick<Config['models'], 'find'>
  now(): number
}

const DAYS = 30
const ROWS = 100
const SESSIONS = 50
const CHAINS = 50
const DAY_MS = 86_400_000

type Used = Spent & Partial<Pick<UsageDay, 'runs'>>

export function usageMethods({ agents, store, lineage, models, now }: UsageNeeds): Handlers<typeof contract> {
  /** Without a price, what was used seems to cost nothing. */
  function hasPrice({ provider, model, cost }: Spent): boolean {
    const prices = Object.values(models.find(`${provider}/${model}`)?.cost ?? {})
    return cost.total > 0 || prices.some((price) => price > 0)
  }

  const countOf = (entries: readonly Used[]) => entries.reduce((count, { runs = 1 }) => count + runs, 0)

  function sumsOf(entries: readonly Used[]) {
    const sum = (of: (entry: Used) => number) => entries.reduce((total, entry) => total + of(entry), 0)
    return {
      input: sum(({ input }) => input),
      output: sum(({ output }) => output),
      cacheRead: sum(({ cacheRead }) => cacheRead),
      cacheWrite: sum(({ cacheWrite }) => cacheWrite),
      totalTokens: sum(({ totalTokens }) => totalTokens),
      totalCost: sum(({ cost }) => cost.total),
      inputCost: sum(({ cost }) => cost.input),
      outputCost: sum(({ cost }) => cost.output),
      cacheReadCost: sum(({ cost }) => cost.cacheRead),
      cacheWriteCost: sum(({ cost }) => cost.cacheWrite),
      missingCostEntries: countOf(entries.filter((entry) => entry.totalTokens > 0 && !hasPrice(entry))),
    }
  }

  /** From so many days ago to today, both included. */
  const window = (days: number) => ({ from: dayOf(now() - days * DAY_MS), to: dayOf(now()) })

  const daily = (entries: UsageDay[]) =>
    groups(entries, ({ day }) => day).map(([date, of]) => {
      const { totalTokens: tokens, totalCost: cost } = sumsOf(of)
      return { date, tokens, cost }
    })

  const byModel = (entries: UsageDay[]) =>
    groups(entries, modelOf).map(([, of]) => {
      const { provider, model } = of[0]!
      return { provider, model, count: countOf(of), totals: sumsOf(of) }
    })

  /** What the newest chains used that had a message since then. */
  async function chains(since: number): Promise<[string, Used[]][]> {
    const newest = await lineage.newest(CHAINS)
    return newest.filter(({ newestAt }) => newestAt >= since).map(({ chainId, spent }) => [chainId, spent])
  }

  async function sessionsUsage(
    { key: spelling, startDate, endDate, limit = SESSIONS, includeContextWeight }: Params<'sessions.usage'>,
    caller: Caller,
  ) {
    const to = endDate ?? dayOf(now())
    const from = startDate ?? dayOf(timeOf('endDate', to) - DAYS * DAY_MS)
    if (timeOf('startDate', from) > timeOf('endDate', to))
      throw new GatewayError('INVALID_PARAMS', 'invalid sessions.usage params: startDate is after endDate')
    const sessionKey = spelling === undefined ? undefined : session(spelling, undefined, agents, caller).key
    const entries = await store.usage({ from, to, ...(sessionKey !== undefined && { sessionKey }) })
    const found = largestFirst(groups(entries, (entry) => entry.sessionKey)).slice(0, limit)
    return {
      updatedAt: now(),
      startDate: from,
      endDate: to,
      sessions: await Promise.all(
        found.map(async ([key, of]) => {
          const record = await store.session(key)
          const label = setting(record, 'label')
          const { contextTokens } = record ?? {}
          return {
            key,
            agentId: of[0]!.agentId,
            ...(record && { sessionId: record.sessionId, updatedAt: record.updatedAt }),
            ...(label !== undefined && { label }),
            usage: { ...sumsOf(of), daily: daily(of), models: byModel(of) },
            ...(includeContextWeight && {
              contextWeight: contextTokens === undefined ? null : { tokens: contextTokens },
            }),
          }
        }),
      ),
      totals: sumsOf(entries),
      aggregates: {
        byAgent: groups(entries, ({ agentId }) => agentId).map(([agentId, of]) => ({ agentId, totals: sumsOf(of) })),
        byModel: byModel(entries),
        daily: daily(entries),
      },
    }
  }

  return {
    'usage.status': () => ({ updatedAt: now(), providers: [] }),

    async 'usage.cost'({ days = DAYS }) {
      const entries = await store.usage(window(days))
      return {
        updatedAt: now(),
        days: days + 1,
        daily: groups(entries, ({ day }) => day).map(([date, of]) => ({ date, ...sumsOf(of) })),
        totals: sumsOf(entries),
      }
    },

    async 'usage.by'({ by, days = DAYS, limit = ROWS }) {
      const { from, to } = window(days)
      const all =
        by === 'chain'
          ? await chains(timeOf('days', from))
          : groups<Used>(await store.usage({ from, to }), (entry) => KEYS[by](entry as UsageDay))
      const ordered = by === 'day' ? all : largestFirst(all)
      return {
        updatedAt: now(),
        by,
        startDate: from,
        endDate: to,
        rows: ordered.slice(0, limit).map(([key, of]) => ({ key, count: countOf(of), ...sumsOf(of) })),
        totals: sumsOf(all.flatMap(([, of]) => of)),
      }
    },

    'sessions.usage': sessionsUsage,
  }
}

const modelOf = ({ provider, model }: Spent): string => `${provider}/${model}`

const KEYS: { [by in 'agent' | 'session' | 'model' | 'day']: (entry: UsageDay) => string } = {
  agent: ({ agentId }) => agentId,
  session: ({ sessionKey }) => sessionKey,
  model: modelOf,
  day: ({ day }) => day,
}

/** In the order in which the keys come first. */
function groups<T>(entries: readonly T[], keyOf: (entry: T) => string): [string, T[]][] {
  const byKey = new Map<string, T[]>()
  for (const entry of entries) {
    const key = keyOf(entry)
    const known = byKey.get(key)
    if (known) known.push(entry)
    else byKey.set(key, [entry])
  }
  return [...byKey]
}

const tokensOf = (entries: readonly Spent[]) => entries.reduce((sum, { totalTokens }) => sum + totalTokens, 0)

const largestFirst = <T extends Spent>(all: [string, T[]][]): [string, T[]][] =>
  all.toSorted(([, one], [, other]) => tokensOf(other) - tokensOf(one))

/** The UTC day of a time in ms. */
const dayOf = (time: number): string => new Date(time).toISOString().slice(0, 10)

/** When a UTC day begins, in ms. */
function timeOf(name: string, day: string): number {
  const time = Date.parse(`${day}T00:00:00Z`)
  if (Number.isNaN(time) || dayOf(time) !== day)
    throw new GatewayError('INVALID_PARAMS', `invalid sessions.usage params: ${name} is no day: ${day}`)
  return time
}

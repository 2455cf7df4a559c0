/** `usage.*` and `sessions.usage`: what models were used for, and what that cost. */
import type { Caller, Handlers } from '../broker/dispatch.ts'
import type { Lineage } from '../broker/lineage.ts'
import type { Config } from '../config/config.ts'
import { GatewayError } from '../contract/errors.ts'
import type { Params } from '../contract/index.ts'
import type { AgentNames } from '../contract/session-key.ts'
import type { usage as contract } from '../contract/usage.ts'
import type { Spent, Store, TranscriptMessage, UsageDay } from '../stores/store.ts'
import { session } from './door.ts'
import { setting } from './settings.ts'

export interface UsageNeeds {
  agents: AgentNames
  store: Pick<Store, 'usage' | 'session' | 'history'>
  lineage: Pick<Lineage, 'newest'>
  models: Pick<Config['models'], 'find'>
  now(): number
}

/** Characters of a name that go into an answer. */
const QUOTED = 64
const DAYS = 30
const ROWS = 100
const SESSIONS = 50
const CHAINS = 50
const DAY_MS = 86_400_000
/** Sessions whose entries are counted: to read a transcript costs more than all the rest. */
const COUNTED_SESSIONS = 50
/** The newest entries of a session, and their bytes, that are counted, told one by one, or drawn. */
const READ_ENTRIES = 10_000
const READ_BYTES = 2 * 1024 * 1024
const LOGS = 200
const LOG_CHARS = 2_000
/** Points of a line that is drawn. */
const POINTS = 200

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
    const from = startDate ?? dayOf(timeOf('sessions.usage', 'endDate', to) - DAYS * DAY_MS)
    if (timeOf('sessions.usage', 'startDate', from) > timeOf('sessions.usage', 'endDate', to))
      throw new GatewayError('INVALID_PARAMS', 'invalid sessions.usage params: startDate is after endDate')
    const sessionKey = spelling === undefined ? undefined : session(spelling, undefined, agents, caller).key
    const entries = await store.usage({ from, to, ...(sessionKey !== undefined && { sessionKey }) })
    const found = largestFirst(groups(entries, (entry) => entry.sessionKey)).slice(0, limit)
    // One after the other: each of them may be long.
    const counts = new Map<string, ReturnType<typeof countsOf>>()
    for (const [key] of found.slice(0, COUNTED_SESSIONS)) {
      const { sessionId, messages } = await read(key)
      if (sessionId !== undefined) counts.set(key, countsOf(messages))
    }
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
            usage: {
              ...sumsOf(of),
              daily: daily(of),
              dailyBreakdown: daily(of),
              activityDates: daily(of).map(({ date }) => date),
              models: byModel(of),
              modelUsage: byModel(of),
              ...counts.get(key),
            },
            ...(contextTokens !== undefined && { contextTokens }),
            ...(includeContextWeight && { contextWeight: null }),
          }
        }),
      ),
      totals: sumsOf(entries),
      aggregates: {
        messages: messagesOf([...counts.values()]),
        tools: toolsOf([...counts.values()].flatMap(({ toolUsage }) => toolUsage.tools)),
        byProvider: groups(entries, ({ provider }) => provider).map(([provider, of]) => ({
          provider,
          count: countOf(of),
          totals: sumsOf(of),
        })),
        byChannel: [],
        byAgent: groups(entries, ({ agentId }) => agentId).map(([agentId, of]) => ({ agentId, totals: sumsOf(of) })),
        byModel: byModel(entries),
        daily: withMessages(
          daily(entries),
          [...counts.values()].flatMap(({ dailyMessageCounts }) => dailyMessageCounts),
        ).filter(({ date }) => from <= date && date <= to),
      },
    }
  }

  /** The newest entries of a session; with its id, if there is one. */
  const read = (key: string) => store.history(key, { limit: READ_ENTRIES, maxBytes: READ_BYTES })

  /** The session that is asked about. @throws GatewayError SESSION_NOT_FOUND, in the words that clients know */
  async function transcriptOf(spelling: string, caller: Caller) {
    const { key } = session(spelling, undefined, agents, caller)
    const { sessionId, messages } = await read(key)
    if (sessionId === undefined)
      throw new GatewayError('SESSION_NOT_FOUND', `No transcript found for session: ${spelling.slice(0, QUOTED)}`)
    return { sessionId, messages }
  }

  return {
    'usage.status': () => ({ updatedAt: now(), providers: [] }),

    async 'usage.cost'({ days = DAYS, startDate, endDate }) {
      const to = endDate ?? dayOf(now())
      const from = startDate ?? dayOf(timeOf('usage.cost', 'endDate', to) - days * DAY_MS)
      const length = (timeOf('usage.cost', 'endDate', to) - timeOf('usage.cost', 'startDate', from)) / DAY_MS + 1
      if (length < 1) throw new GatewayError('INVALID_PARAMS', 'invalid usage.cost params: startDate is after endDate')
      const entries = await store.usage({ from, to })
      return {
        updatedAt: now(),
        days: length,
        daily: groups(entries, ({ day }) => day).map(([date, of]) => ({ date, ...sumsOf(of) })),
        totals: sumsOf(entries),
      }
    },

    async 'usage.by'({ by, days = DAYS, limit = ROWS }) {
      const { from, to } = window(days)
      const all =
        by === 'chain'
          ? await chains(timeOf('usage.by', 'days', from))
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

    async 'sessions.usage.timeseries'({ key }, caller) {
      const { sessionId, messages } = await transcriptOf(key, caller)
      let [cumulativeTokens, cumulativeCost] = [0, 0]
      const points = messages.flatMap(({ timestamp, usage }) => {
        const { input = 0, output = 0, cacheRead = 0, cacheWrite = 0, ...of } = (usage ?? {}) as Counted
        const { totalTokens = input + output + cacheRead + cacheWrite, cost: { total: cost = 0 } = {} } = of
        if (totalTokens === 0) return []
        cumulativeTokens += totalTokens
        cumulativeCost += cost
        return [
          { timestamp, input, output, cacheRead, cacheWrite, totalTokens, cost, cumulativeTokens, cumulativeCost },
        ]
      })
      return { sessionId, points: thinned(points, POINTS) }
    },

    async 'sessions.usage.logs'({ key, limit = LOGS }, caller) {
      const { messages } = await transcriptOf(key, caller)
      const logs = messages.flatMap((message) => {
        const content = lineOf(message)
        if (content === '') return []
        const { totalTokens, cost } = (message['usage'] ?? {}) as Counted
        return [
          {
            timestamp: message.timestamp,
            role: message.role,
            content: content.length > LOG_CHARS ? `${content.slice(0, LOG_CHARS)}…` : content,
            ...(totalTokens !== undefined && { tokens: totalTokens }),
            ...(cost?.total !== undefined && { cost: cost.total }),
          },
        ]
      })
      return { logs: logs.slice(-limit) }
    },
  }
}

/** What an entry of a transcript says that it used. */
interface Counted {
  input?: number
  output?: number
  cacheRead?: number
  cacheWrite?: number
  totalTokens?: number
  cost?: { total?: number }
}

interface Count {
  name: string
  count: number
}

/** Of the tool that was called. */
const nameOf = (call: { [name: string]: unknown }): string => String(call['name'])

/** What the entries of a transcript are. */
function countsOf(messages: readonly TranscriptMessage[]) {
  const days = groups(messages, ({ timestamp }) => dayOf(timestamp))
  return {
    ...spanOf(messages),
    messageCounts: messageCountsOf(messages),
    dailyMessageCounts: days.map(([date, of]) => ({ date, ...messageCountsOf(of) })),
    toolUsage: toolsOf(callsIn(messages).map((call) => ({ name: nameOf(call), count: 1 }))),
  }
}

const callsIn = (messages: readonly TranscriptMessage[]) =>
  messages.flatMap(({ content }) => content.filter(({ type }) => type === 'toolCall'))

function messageCountsOf(messages: readonly TranscriptMessage[]) {
  const of = (wanted: TranscriptMessage['role']) => messages.filter(({ role }) => role === wanted)
  const failed = of('toolResult').filter((result) => result['isError'] === true).length
  return {
    total: messages.length,
    user: of('user').length,
    assistant: of('assistant').length,
    toolCalls: callsIn(messages).length,
    toolResults: of('toolResult').length,
    errors: failed + of('assistant').filter(({ stopReason }) => stopReason === 'error').length,
  }
}

type DayOfMessages = ReturnType<typeof countsOf>['dailyMessageCounts'][number]

/** What was used and what was said, day by day. */
function withMessages(used: { date: string; tokens: number; cost: number }[], said: DayOfMessages[]) {
  const dates = new Set([...used, ...said].map(({ date }) => date))
  return [...dates].toSorted().map((date) => {
    const { tokens, cost } = used.find((day) => day.date === date) ?? { tokens: 0, cost: 0 }
    const of = said.filter((day) => day.date === date)
    const sum = (name: 'total' | 'toolCalls' | 'errors') => of.reduce((total, day) => total + day[name], 0)
    return { date, tokens, cost, messages: sum('total'), toolCalls: sum('toolCalls'), errors: sum('errors') }
  })
}

/** From when to when the entries of a transcript are, which are in their order. */
function spanOf(messages: readonly TranscriptMessage[]) {
  const [first, last] = [messages[0], messages.at(-1)]
  if (!first || !last) return {}
  // A clock may have been set back meanwhile.
  const durationMs = Math.max(0, last.timestamp - first.timestamp)
  return { firstActivity: first.timestamp, lastActivity: last.timestamp, durationMs }
}

function toolsOf(counts: readonly Count[]): { totalCalls: number; uniqueTools: number; tools: Count[] } {
  const tools = groups(counts, ({ name }) => name)
    .map(([name, of]) => ({ name, count: of.reduce((sum, { count }) => sum + count, 0) }))
    .sort((one, other) => other.count - one.count)
  return { totalCalls: tools.reduce((sum, { count }) => sum + count, 0), uniqueTools: tools.length, tools }
}

type Counts = ReturnType<typeof countsOf>

function messagesOf(counts: readonly Counts[]): Counts['messageCounts'] {
  const sum = (name: keyof Counts['messageCounts']) =>
    counts.reduce((total, { messageCounts }) => total + messageCounts[name], 0)
  return {
    total: sum('total'),
    user: sum('user'),
    assistant: sum('assistant'),
    toolCalls: sum('toolCalls'),
    toolResults: sum('toolResults'),
    errors: sum('errors'),
  }
}

/** An entry in a few lines: what was said, and which tools were called. */
function lineOf({ role, content, ...entry }: TranscriptMessage): string {
  const parts = content.map((part) => {
    if (part.type === 'text' && typeof part['text'] === 'string') return part['text']
    return part.type === 'toolCall' ? `[Tool: ${nameOf(part)}]` : ''
  })
  if (role === 'toolResult') parts.unshift(`[Tool: ${entry['toolName']}]`, '[Tool Result]')
  return parts
    .filter((part) => part !== '')
    .join('\n')
    .trim()
}

/** So many of them at the most, one and the same number apart; the last is among them. */
function thinned<T>(all: readonly T[], most: number): T[] {
  const step = Math.ceil(all.length / most)
  return all.filter((_, index) => (all.length - 1 - index) % step === 0)
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
function timeOf(method: string, name: string, day: string): number {
  const time = Date.parse(`${day}T00:00:00Z`)
  if (Number.isNaN(time) || dayOf(time) !== day)
    throw new GatewayError('INVALID_PARAMS', `invalid ${method} params: ${name} is no day: ${day}`)
  return time
}

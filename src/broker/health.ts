/** How the gateway is: made at most once a minute, served from memory. */
import type { AgentNames } from '../contract/session-key.ts'
import type { Model } from '../runtimes/runtime.ts'
import type { SessionRecord, Store } from '../stores/store.ts'
import type { Agents } from './agents.ts'
import type { Heartbeats } from './heartbeats.ts'

export interface Health {
  /** As of the last refresh. */
  current(): HealthSnapshot
  refresh(): Promise<HealthSnapshot>
  status(): Promise<{ [name: string]: unknown }>
  /** Grows with each refresh. */
  readonly version: number
}

export type HealthSnapshot = { ok: boolean; ts: number; [name: string]: unknown }

const RECENT = 5
const RECENT_IN_STATUS = 10

/** The sessions of one agent, or of all. */
interface Some {
  count: number
  recent: SessionRecord[]
}

export function createHealth(needs: {
  agents: AgentNames & Pick<Agents, 'get'>
  store: Pick<Store, 'overview'>
  /** Where the sessions are kept, as everybody is told who may ask how the gateway is. */
  path: string
  now(): number
  modelOf(agentId: string): Model | undefined
  heartbeats: Pick<Heartbeats, 'isOn' | 'words'>
  /** What keeps the gateway from taking turns, in a sentence; undefined when nothing does. */
  problem(): string | undefined
}): Health {
  const { agents, store, path, now, modelOf } = needs
  let version = 0
  let current: HealthSnapshot = { ok: true, ts: now() }

  const look = joined(async () => {
    const agents = await store.overview(RECENT_IN_STATUS)
    const all: Some = {
      count: agents.reduce((sum, { count }) => sum + count, 0),
      recent: agents.flatMap(({ recent }) => recent).sort((one, other) => other.updatedAt - one.updatedAt),
    }
    const of = (id: string): Some => agents.find(({ agentId }) => agentId === id) ?? { count: 0, recent: [] }
    return { all, of }
  })

  const heartbeatOf = (agentId: string) => {
    const { every = '0m', everyMs = 0 } = agents.get(agentId)?.heartbeat ?? {}
    return { enabled: everyMs > 0 && needs.heartbeats.isOn, every, everyMs: everyMs > 0 ? everyMs : null }
  }

  const summary = ({ count, recent }: Some, at: number) => ({
    path,
    count,
    recent: recent.slice(0, RECENT).map(({ key, updatedAt }) => ({ key, updatedAt, age: at - updatedAt })),
  })

  return {
    current() {
      const problem = needs.problem()
      return problem === undefined ? current : { ...current, ok: false, problem }
    },
    async refresh() {
      const at = now()
      const { all, of } = await look()
      version += 1
      current = {
        ok: true,
        ts: at,
        durationMs: now() - at,
        channels: {},
        channelOrder: [],
        channelLabels: {},
        heartbeatSeconds: 0,
        defaultAgentId: agents.defaultId,
        agents: agents.ids().map((agentId) => ({
          agentId,
          isDefault: agentId === agents.defaultId,
          heartbeat: {
            ...heartbeatOf(agentId),
            prompt: agents.get(agentId)?.heartbeat?.prompt ?? '',
            target: 'last',
            ackMaxChars: agents.get(agentId)?.heartbeat?.ackMaxChars ?? 300,
          },
          sessions: summary(of(agentId), at),
        })),
        sessions: summary(all, at),
      }
      return this.current()
    },
    async status() {
      const at = now()
      const [{ all, of }, words] = await Promise.all([look(), needs.heartbeats.words()])
      const row = (session: SessionRecord) => {
        const {
          key,
          agentId,
          sessionId,
          updatedAt,
          systemSent,
          abortedLastRun,
          inputTokens,
          outputTokens,
          totalTokens,
        } = session
        const contextTokens = modelOf(agentId)?.contextWindow
        return {
          agentId,
          key,
          kind: 'direct',
          sessionId,
          updatedAt,
          age: at - updatedAt,
          systemSent,
          abortedLastRun,
          inputTokens,
          outputTokens,
          totalTokens,
          ...(contextTokens && {
            remainingTokens: Math.max(0, contextTokens - totalTokens),
            percentUsed: Math.min(100, Math.round((totalTokens / contextTokens) * 100)),
            contextTokens,
          }),
          model: session.model ?? modelOf(agentId)?.id,
          flags: [...(systemSent ? ['system'] : []), `id:${sessionId}`],
        }
      }
      const model = modelOf(agents.defaultId)
      return {
        heartbeat: {
          defaultAgentId: agents.defaultId,
          agents: agents.ids().map((agentId) => {
            const { enabled, every, everyMs } = heartbeatOf(agentId)
            return { agentId, enabled, every: enabled ? every : 'disabled', everyMs }
          }),
        },
        channelSummary: [],
        queuedSystemEvents: words.map(({ text }) => text),
        sessions: {
          paths: [path],
          count: all.count,
          defaults: { model: model?.id ?? null, contextTokens: model?.contextWindow ?? null },
          recent: all.recent.slice(0, RECENT_IN_STATUS).map(row),
          byAgent: agents.ids().map((agentId) => {
            const { count, recent } = of(agentId)
            return { agentId, path, count, recent: recent.map(row) }
          }),
        },
      }
    },
    get version() {
      return version
    },
  }
}

/** One look at a time: whoever asks while one is under way shares the next with all who do, and so sees what was kept before. */
function joined<T>(look: () => Promise<T>): () => Promise<T> {
  let underWay: Promise<T> | undefined
  let next: Promise<T> | undefined
  const begin = () => {
    const mine = look().finally(() => {
      if (underWay === mine) underWay = undefined
    })
    underWay = mine
    return mine
  }
  const later = () => {
    next = undefined
    return begin()
  }
  return () => {
    if (!underWay) return begin()
    next ??= underWay.then(later, later)
    return next
  }
}

/** How the gateway is: made at most once a minute, served from memory. */
import type { AgentNames } from '../contract/session-key.ts'
import type { Model } from '../runtimes/runtime.ts'
import type { SessionRecord, Store } from '../stores/store.ts'

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

export function createHealth(needs: {
  agents: AgentNames
  store: Pick<Store, 'sessions'>
  /** Where the sessions are kept, as everybody is told who may ask how the gateway is. */
  path: string
  now(): number
  modelOf(agentId: string): Model | undefined
  /** What keeps the gateway from taking turns, in a sentence; undefined when nothing does. */
  problem(): string | undefined
}): Health {
  const { agents, store, path, now, modelOf } = needs
  let version = 0
  let current: HealthSnapshot = { ok: true, ts: now() }

  const summary = (sessions: SessionRecord[], at: number) => ({
    path,
    count: sessions.length,
    recent: sessions.slice(0, RECENT).map(({ key, updatedAt }) => ({ key, updatedAt, age: at - updatedAt })),
  })

  return {
    current() {
      const problem = needs.problem()
      return problem === undefined ? current : { ...current, ok: false, problem }
    },
    async refresh() {
      const at = now()
      const all = await store.sessions({})
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
          heartbeat: { enabled: false, every: '0m', everyMs: null, prompt: '', target: 'last', ackMaxChars: 300 },
          sessions: summary(
            all.filter((session) => session.agentId === agentId),
            at,
          ),
        })),
        sessions: summary(all, at),
      }
      return this.current()
    },
    async status() {
      const at = now()
      const all = await store.sessions({})
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
          agents: agents.ids().map((agentId) => ({ agentId, enabled: false, every: 'disabled', everyMs: null })),
        },
        channelSummary: [],
        queuedSystemEvents: [],
        sessions: {
          paths: [path],
          count: all.length,
          defaults: { model: model?.id ?? null, contextTokens: model?.contextWindow ?? null },
          recent: all.slice(0, 10).map(row),
          byAgent: agents.ids().map((agentId) => {
            const mine = all.filter((session) => session.agentId === agentId)
            return { agentId, path, count: mine.length, recent: mine.slice(0, 10).map(row) }
          }),
        },
      }
    },
    get version() {
      return version
    },
  }
}

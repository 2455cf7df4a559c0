/** What each agent is doing, and whether it can be reached. */
import type { RunRecord } from '../stores/store.ts'
import type { Runs } from './runs.ts'

export interface AgentActivity {
  /** It can answer for itself: what answers for it could be reached at its last check, and nobody stands in for it. */
  reachable: boolean
  /** Runs under way. */
  running: number
  /** Turns that wait for theirs. */
  waiting: number
  /** Why its last run failed; absent when that went well. */
  lastError?: string
}

export interface Activity {
  of(agentId: string): AgentActivity
  /** A run of it has ended. */
  ended(run: Pick<RunRecord, 'agentId'>, error: string | undefined): void
}

export interface ActivityNeeds {
  runs: Pick<Runs, 'ids' | 'record'>
  /** Whether somebody is there to answer for it. */
  isReachable(agentId: string): boolean
}

export function createActivity({ runs, isReachable }: ActivityNeeds): Activity {
  const errors = new Map<string, string>()
  return {
    of(agentId) {
      const live = runs.ids().flatMap((runId) => runs.record(runId) ?? [])
      const own = live.filter((run) => run.agentId === agentId)
      const running = own.filter(({ state }) => state === 'started').length
      const lastError = errors.get(agentId)
      return {
        reachable: isReachable(agentId),
        running,
        waiting: own.length - running,
        ...(lastError !== undefined && { lastError }),
      }
    },
    ended({ agentId }, error) {
      if (error === undefined) errors.delete(agentId)
      else errors.set(agentId, error)
    },
  }
}

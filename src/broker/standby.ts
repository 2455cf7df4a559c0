/** Who answers for an agent that cannot: checks the agents that others stand in for, the host of `machines/standby.ts`. */
import { standbyMachine } from '../../machines/standby.ts'
import type { Agents } from './agents.ts'
import { createHost } from './host.ts'
import type { Log } from './log.ts'

export interface Standby {
  /** The agent that answers for another one now; undefined: it answers for itself. */
  standInFor(agentId: string): string | undefined
  /** Those that an agent answers for now. */
  standingInFor(agentId: string): string[]
  /** Whether an agent can answer for itself, as far as its last check says; undefined: it was never checked. */
  isThere(agentId: string): boolean | undefined
  /** What answers for an agent was asked, and answered, or failed for a reason of its own. */
  asked(agentId: string, isAnswered: boolean): void
  /** Checks every agent once. */
  check(): Promise<void>
  /** Checks them from time to time, until it is stopped. */
  start(): void
  stop(): void
}

export interface StandbyNeeds {
  agents: Pick<Agents, 'list'>
  everyMs: number
  misses: number
  /** Whether what answers for an agent can be reached now. */
  isReachable(agentId: string): boolean | Promise<boolean>
  log: Log
}

export function createStandby({ agents, everyMs, misses, isReachable, log }: StandbyNeeds): Standby {
  /** Who may answer for whom, in the order of the configuration. */
  const standIns = new Map<string, string[]>()
  for (const { id, failoverFor } of agents.list())
    for (const other of failoverFor)
      if (other !== id && agents.list().some((agent) => agent.id === other))
        standIns.set(other, [...(standIns.get(other) ?? []), id])
  /** Agents that cannot answer, and those who do. */
  const replaced = new Set<string>()
  /** Whether an agent could be reached at its last check. */
  const reached = new Map<string, boolean>()
  /** Agents for which what answers for them failed when it was asked last, since their last check. */
  const failed = new Set<string>()
  let timer: NodeJS.Timeout | undefined

  const host = createHost({
    machine: standbyMachine.provide({
      actions: {
        standIn: (_, { agentId, missed }) => {
          replaced.add(agentId)
          failed.delete(agentId)
          log.warn(
            { agentId, missed, standIn: standInFor(agentId) },
            'an agent cannot answer: another one stands in for it',
          )
        },
        handBack: (_, { agentId }) => {
          replaced.delete(agentId)
          log.info({ agentId }, 'an agent answers for itself again')
        },
        unexpected: (_, { agentId, event }) =>
          log.debug({ agentId, event }, 'standby: an event that means nothing now'),
      },
    }),
    onCrash(agentId, error) {
      log.error({ agentId, err: error }, 'the checks of an agent crashed; it answers for itself')
      replaced.delete(agentId)
    },
  })
  for (const agentId of standIns.keys()) host.open(agentId, { agentId, misses })

  const standInFor = (agentId: string): string | undefined =>
    replaced.has(agentId)
      ? standIns.get(agentId)?.find((id) => !replaced.has(id) && reached.get(id) !== false)
      : undefined

  async function checkOne(agentId: string): Promise<void> {
    const isThere = await Promise.resolve(isReachable(agentId)).catch(() => false)
    reached.set(agentId, isThere)
    // A failure costs one check, whatever else that one found.
    const hasFailed = failed.delete(agentId)
    const isWell = isThere && !hasFailed
    if (standIns.has(agentId)) host.tell(agentId, { type: isWell ? 'passed' : 'missed' })
  }

  const checked = new Set([...standIns.keys(), ...[...standIns.values()].flat()])
  const check = async () => void (await Promise.all([...checked].map(checkOne)))

  return {
    standInFor,
    standingInFor: (agentId) => [...replaced].filter((id) => standInFor(id) === agentId),
    isThere: (agentId) => (replaced.has(agentId) ? false : reached.get(agentId)),
    asked(agentId, isAnswered) {
      if (!standIns.has(agentId) || replaced.has(agentId)) return
      if (isAnswered) return void failed.delete(agentId)
      failed.add(agentId)
      host.tell(agentId, { type: 'failed' })
    },
    check,
    start() {
      if (checked.size > 0) timer = setInterval(() => void check(), everyMs).unref()
    },
    stop() {
      clearInterval(timer)
      for (const id of host.ids()) host.drop(id)
    },
  }
}

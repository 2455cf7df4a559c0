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
  /** A run of an agent ended, with or without an answer of what answers for it. */
  ended(agentId: string, isAnswered: boolean): void
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
  /** Agents that could be reached at their last check, or were never checked. */
  const unreachable = new Set<string>()
  /** Agents whose last run since their last check found nobody to answer it. */
  const failed = new Set<string>()
  let timer: NodeJS.Timeout | undefined

  const host = createHost({
    machine: standbyMachine.provide({
      actions: {
        standIn: (_, { agentId, missed }) => {
          replaced.add(agentId)
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
    replaced.has(agentId) ? standIns.get(agentId)?.find((id) => !replaced.has(id) && !unreachable.has(id)) : undefined

  async function checkOne(agentId: string): Promise<void> {
    const isThere = await Promise.resolve(isReachable(agentId)).catch(() => false)
    if (isThere) unreachable.delete(agentId)
    else unreachable.add(agentId)
    const isWell = isThere && !failed.delete(agentId)
    if (standIns.has(agentId)) host.tell(agentId, { type: isWell ? 'passed' : 'missed' })
  }

  const checked = new Set([...standIns.keys(), ...[...standIns.values()].flat()])
  const check = async () => void (await Promise.all([...checked].map(checkOne)))

  return {
    standInFor,
    standingInFor: (agentId) => [...replaced].filter((id) => standInFor(id) === agentId),
    ended(agentId, isAnswered) {
      if (replaced.has(agentId)) return
      if (isAnswered) failed.delete(agentId)
      else failed.add(agentId)
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

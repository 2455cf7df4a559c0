/** The sessions that are awake: each an actor that says whose turn it is. */
import type { AbortReason } from '../../machines/run.ts'
import { sessionMachine } from '../../machines/session.ts'
import { createHost } from './host.ts'
import type { Log } from './log.ts'
import type { Runs } from './runs.ts'

export interface Sessions {
  /** Hands a session a run that is on disk and live. */
  turn(sessionKey: string, runId: string): void
  /** A run of the session has ended. */
  ended(sessionKey: string, runId: string): void
  /** Stops one run of a session, or all. Resolves to the ids stopped, after their endings are on disk and announced. */
  abort(sessionKey: string, runId: string | null, reason: AbortReason): Promise<string[]>
  /** The running run and the waiting ones, in order. */
  queue(sessionKey: string): { running: string | null; waiting: string[] }
  /** Begins a crashed session anew from its live runs. */
  restart(sessionKey: string): void
  /** Lets sessions go that have been idle for a whole period between two calls. */
  sweep(): void
  dropAll(): void
  ids(): string[]
  readonly size: number
}

export interface SessionsNeeds {
  runs: Pick<Runs, 'begin' | 'hasBegun' | 'steer' | 'announcePlace' | 'abort' | 'ending' | 'of' | 'modeOf'>
  log: Log
  /** A session's actor threw. Its runs live on; the supervisor decides when `restart` is called. */
  onCrash(sessionKey: string): void
}

export function createSessions({ runs, log, onCrash }: SessionsNeeds): Sessions {
  /** Sessions that were idle at the last sweep. */
  let drowsy = new Set<string>()
  /** Crashed sessions. */
  const down = new Set<string>()

  const host = createHost({
    machine: sessionMachine.provide({
      actions: {
        begin: (_, { runId, absorbs }) => runs.begin(runId, absorbs),
        steer: (_, { runId, into }) => runs.steer(runId, into),
        announcePlace: (_, { runId, place }) => runs.announcePlace(runId, place),
        abortRun: (_, { runId, reason }) => runs.abort(runId, reason),
        unexpected: (_, { key, event }) =>
          log.debug({ sessionKey: key, event }, 'session: an event that means nothing now'),
      },
    }),
    onCrash(key, error) {
      log.error({ sessionKey: key, err: error }, 'a session crashed; it is begun again from its runs')
      down.add(key)
      onCrash(key)
    },
  })

  const queue = (key: string) => {
    const context = host.get(key)?.getSnapshot().context
    return { running: context?.running ?? null, waiting: context?.queue.map(({ runId }) => runId) ?? [] }
  }

  /** The live runs of a session in the order of admission, which is the order of the table of runs. */
  const runsOf = (key: string) => runs.of(key).map(({ runId }) => runId)

  return {
    turn(key, runId) {
      // While a crashed session rests, its turns stay with the runs: `restart` finds them there.
      if (down.has(key)) return
      drowsy.delete(key)
      if (!host.get(key)) host.open(key, { key })
      host.tell(key, { type: 'turn', runId, mode: runs.modeOf(runId) })
    },
    ended(key, runId) {
      host.tell(key, { type: 'ended', runId })
    },
    async abort(key, runId, reason) {
      // A turn that was admitted in this very tick is in the mailbox, not yet in the queue: look after it.
      await Promise.resolve()
      const { running, waiting } = queue(key)
      const inQueue = [...(running ? [running] : []), ...waiting]
      // A reset ends what was sent before it; what was sent after it waits for it, and is not in the queue yet.
      const meant = reason === 'reset' && !down.has(key) ? inQueue : runsOf(key)
      const stopped = meant.filter((id) => runId === null || id === runId)
      if (stopped.length === 0) return []
      const endings = stopped.map((id) => runs.ending(id))
      // Those of a crashed session, and those that wait until its transcript is changed, no actor could pass it on to.
      for (const id of stopped) if (!inQueue.includes(id)) runs.abort(id, reason)
      host.tell(key, { type: 'abort', runId, reason })
      await Promise.resolve()
      // Its actor crashed in between: there was none any more to pass it on.
      if (down.has(key)) for (const id of stopped) runs.abort(id, reason)
      const ended = await Promise.all(endings)
      // One that was just ending by itself was not stopped by us.
      return stopped.filter((_, index) => ended[index]?.outcome.state === 'aborted')
    },
    queue,
    restart(key) {
      if (!down.delete(key) || host.get(key)) return
      const mine = runsOf(key)
      if (mine.length === 0) return
      host.open(key, { key })
      // The one under way comes first, whatever came before it: it begins no second time, and stops nobody again.
      const order = (runId: string) => (runs.hasBegun(runId) ? 0 : runs.modeOf(runId) === 'interrupt' ? 1 : 2)
      for (const runId of mine.toSorted((one, other) => order(one) - order(other))) {
        const mode = runs.modeOf(runId)
        host.tell(key, { type: 'turn', runId, mode: order(runId) < 2 ? 'followup' : mode })
      }
    },
    sweep() {
      const idle = new Set(host.ids().filter((key) => host.get(key)?.getSnapshot().matches('idle')))
      // At once, not by the mailbox: a turn that comes next must find the actor gone, not going.
      for (const key of idle) if (drowsy.has(key)) host.get(key)?.send({ type: 'retire' })
      drowsy = idle
    },
    dropAll() {
      for (const key of host.ids()) host.drop(key)
    },
    ids: host.ids,
    get size() {
      return host.size
    },
  }
}

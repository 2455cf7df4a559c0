/** Whose turn is it? One run at a time, the others wait in the order they were admitted, or as their mode says. */
import { produce } from 'immer'
import { assign, enqueueActions, setup } from 'xstate'
import type { QueueMode } from '../src/contract/queue-mode.ts'
import { effect, MAX_ITERATIONS } from './effects.ts'
import type { AbortReason } from './run.ts'

interface Waiting {
  runId: string
  mode: QueueMode
}

/** A queue's first turns that are answered together: of one mode that gathers, one behind the other. */
function together(queue: Waiting[]): Waiting[] {
  const mode = queue[0]?.mode
  const gathers = mode === 'collect' || mode === 'interrupt'
  const other = queue.findIndex((turn, place) => place > 0 && !(gathers && turn.mode === mode))
  return other === -1 ? queue : queue.slice(0, other)
}

export const sessionMachine = setup({
  types: {} as {
    input: { key: string }
    context: { key: string; running: string | null; queue: Waiting[] }
    events:
      | { type: 'turn'; runId: string; mode: QueueMode }
      | { type: 'ended'; runId: string }
      | { type: 'abort'; runId: string | null; reason: AbortReason }
      | { type: 'retire' }
  },
  actions: {
    /** `absorbs`: turns that this run answers, too; they were admitted before it. */
    begin: effect<{ runId: string; absorbs: string[] }>('begin'),
    /** The turn may join the run under way, if that is not over yet. */
    steer: effect<{ runId: string; into: string }>('steer'),
    abortRun: effect<{ runId: string; reason: AbortReason }>('abortRun'),
    /** `place`: how many runs of the session come before it. */
    announcePlace: effect<{ runId: string; place: number }>('announcePlace'),
    unexpected: effect<{ key: string; event: string }>('unexpected'),
    /** Waiting runs are stopped before the running one, so that none of them begins in between. */
    abortRuns: enqueueActions(({ enqueue, context, event }) => {
      if (event.type !== 'abort') return
      const inSession = [...context.queue.map(({ runId }) => runId), ...(context.running ? [context.running] : [])]
      for (const runId of inSession)
        if (event.runId === null || event.runId === runId)
          enqueue({ type: 'abortRun', params: { runId, reason: event.reason } })
    }),
    /** The longest waiting run becomes the running one, or the last of those that are answered together. */
    beginNext: enqueueActions(({ enqueue, context }) => {
      const group = together(context.queue)
      const next = group.at(-1)
      if (next === undefined) return
      // The others stay in the queue until they have ended: if this one is stopped before it begins, they have their turn.
      enqueue.assign({ running: next.runId, queue: context.queue.filter((turn) => turn !== next) })
      enqueue({
        type: 'begin',
        params: { runId: next.runId, absorbs: group.slice(0, -1).map(({ runId }) => runId) },
      })
      // Those that could not join the run before may join this one.
      for (const { runId, mode } of context.queue.slice(group.length))
        if (mode === 'steer') enqueue({ type: 'steer', params: { runId, into: next.runId } })
    }),
    wait: enqueueActions(({ enqueue, context, event }) => {
      if (event.type !== 'turn') return
      const { runId, mode } = event
      // One that interrupts comes before all others but those that did so before it.
      const inFront = context.queue.findIndex((turn) => mode === 'interrupt' && turn.mode !== 'interrupt')
      const place = inFront === -1 ? context.queue.length : inFront
      enqueue.assign({ queue: context.queue.toSpliced(place, 0, { runId, mode }) })
      enqueue({ type: 'announcePlace', params: { runId, place: place + 1 } })
    }),
    joinRunning: enqueueActions(({ enqueue, context, event }) => {
      if (event.type === 'turn' && context.running)
        enqueue({ type: 'steer', params: { runId: event.runId, into: context.running } })
    }),
    abortRunning: enqueueActions(({ enqueue, context }) => {
      if (context.running) enqueue({ type: 'abortRun', params: { runId: context.running, reason: 'interrupt' } })
    }),
    unqueue: assign(({ context, event }) =>
      produce(context, (draft) => {
        if (event.type === 'ended') draft.queue = draft.queue.filter(({ runId }) => runId !== event.runId)
      }),
    ),
  },
  guards: {
    isRunning: ({ context, event }) => event.type === 'ended' && event.runId === context.running,
    isLast: ({ context, event }) =>
      event.type === 'ended' && event.runId === context.running && context.queue.length === 0,
    steers: ({ event }) => event.type === 'turn' && event.mode === 'steer',
    interrupts: ({ event }) => event.type === 'turn' && event.mode === 'interrupt',
  },
}).createMachine({
  id: 'session',
  description: 'A conversation with an agent. Its queue lives in its context; its transcript in the store.',
  options: { maxIterations: MAX_ITERATIONS },
  context: ({ input }) => ({ key: input.key, running: null, queue: [] }),
  initial: 'idle',
  on: {
    '*': { actions: { type: 'unexpected', params: ({ context, event }) => ({ key: context.key, event: event.type }) } },
  },
  states: {
    idle: {
      description: 'Nothing runs, nothing waits.',
      entry: assign({ running: null }),
      on: {
        turn: {
          target: 'busy',
          actions: [
            assign({ running: ({ event }) => event.runId }),
            { type: 'begin', params: ({ event }) => ({ runId: event.runId, absorbs: [] }) },
          ],
        },
        abort: {},
        // The run that a crash of this session's former actor left behind: it is over, nobody waits for it here.
        ended: {},
        retire: 'retired',
      },
    },
    busy: {
      description: 'A run is under way; further turns wait.',
      on: {
        turn: [
          { guard: 'steers', actions: ['wait', 'joinRunning'] },
          { guard: 'interrupts', actions: ['wait', 'abortRunning'] },
          { actions: 'wait' },
        ],
        ended: [
          { guard: 'isLast', target: 'idle' },
          { guard: 'isRunning', actions: 'beginNext' },
          { actions: 'unqueue' },
        ],
        abort: { actions: 'abortRuns' },
        retire: {},
      },
    },
    retired: { type: 'final', description: 'Idle for long; the next turn makes a new actor.' },
  },
})

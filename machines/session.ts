/** Whose turn is it? One run at a time, the others wait in the order they were admitted. */
import { produce } from 'immer'
import { assign, enqueueActions, setup } from 'xstate'
import { effect, MAX_ITERATIONS } from './effects.ts'
import type { AbortReason } from './run.ts'

export const sessionMachine = setup({
  types: {} as {
    input: { key: string }
    context: { key: string; running: string | null; queue: string[] }
    events:
      | { type: 'turn'; runId: string }
      | { type: 'ended'; runId: string }
      | { type: 'abort'; runId: string | null; reason: AbortReason }
      | { type: 'retire' }
  },
  actions: {
    begin: effect<{ runId: string }>('begin'),
    abortRun: effect<{ runId: string; reason: AbortReason }>('abortRun'),
    unexpected: effect<{ key: string; event: string }>('unexpected'),
    /** Waiting runs are stopped before the running one, so that none of them begins in between. */
    abortRuns: enqueueActions(({ enqueue, context, event }) => {
      if (event.type !== 'abort') return
      const inSession = [...context.queue, ...(context.running ? [context.running] : [])]
      for (const runId of inSession)
        if (event.runId === null || event.runId === runId)
          enqueue({ type: 'abortRun', params: { runId, reason: event.reason } })
    }),
    /** The longest waiting run becomes the running one. */
    beginNext: enqueueActions(({ enqueue, context }) => {
      const [next, ...queue] = context.queue
      if (next === undefined) return
      enqueue.assign({ running: next, queue })
      enqueue({ type: 'begin', params: { runId: next } })
    }),
    wait: assign(({ context, event }) =>
      produce(context, (draft) => {
        if (event.type === 'turn') draft.queue.push(event.runId)
      }),
    ),
    unqueue: assign(({ context, event }) =>
      produce(context, (draft) => {
        if (event.type === 'ended') draft.queue = draft.queue.filter((runId) => runId !== event.runId)
      }),
    ),
  },
  guards: {
    isRunning: ({ context, event }) => event.type === 'ended' && event.runId === context.running,
    isLast: ({ context, event }) =>
      event.type === 'ended' && event.runId === context.running && context.queue.length === 0,
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
            { type: 'begin', params: ({ event }) => ({ runId: event.runId }) },
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
        turn: { actions: 'wait' },
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

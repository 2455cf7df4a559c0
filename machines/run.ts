/** The life of one run: from an admitted turn to exactly one ending. */
import { assign, setup } from 'xstate'
import type { EndState } from '../src/stores/store.ts'
import { effect, MAX_ITERATIONS, work } from './effects.ts'

export type AbortReason = 'rpc' | 'stop' | 'timeout' | 'reset' | 'shutdown' | 'interrupt' | 'expired'

/** What is known of an ending before it is on disk; the text and the usage stay with the host. */
export interface RunOutcome {
  state: EndState
  stopReason?: string
  error?: string
  /** The run that answers this turn with its own. */
  absorbedBy?: string
}

/** What the model's work comes back with when it ends by itself. */
export interface Answered {
  stopReason: string
  /** Tools that it wants called before it goes on. */
  calls: number
}

const words = (error: unknown): string => (error instanceof Error ? error.message : String(error))

export const runMachine = setup({
  types: {} as {
    /** `outcome`: what was decided before this actor was made; it only has to be written and told. */
    input: { runId: string; timeoutMs: number; retryMs: number; outcome?: RunOutcome }
    context: {
      runId: string
      timeoutMs: number
      retryMs: number
      outcome: RunOutcome | null
      /** Turns that are answered with this one from its beginning. */
      absorbs: string[]
      /** Turns that are to join while it is under way. */
      joining: string[]
    }
    events:
      | { type: 'begin'; absorbs: string[] }
      | { type: 'steer'; runId: string }
      /** Another run answers this turn. */
      | { type: 'absorb'; by: string }
      | { type: 'abort'; reason: AbortReason }
      | { type: 'firstToken' }
  },
  actions: {
    /** Says that the run has started, and lets text through from now on. */
    openStream: effect<{ runId: string }>('openStream'),
    /** Sends what waits, and lets nothing through any more. */
    closeStream: effect<{ runId: string }>('closeStream'),
    announceEnd: effect<{ runId: string; outcome: RunOutcome }>('announceEnd'),
    unexpected: effect<{ runId: string; event: string }>('unexpected'),
    storageFailed: effect<{ runId: string; error: string }>('storageFailed'),
    abortWith: assign({
      outcome: ({ context, event }) =>
        event.type === 'abort' ? { state: 'aborted' as const, stopReason: event.reason } : context.outcome,
    }),
    addJoining: assign({
      joining: ({ context, event }) =>
        event.type === 'steer' && !context.joining.includes(event.runId)
          ? [...context.joining, event.runId]
          : context.joining,
    }),
  },
  actors: {
    journalStart: work<void, { runId: string; absorbs: string[] }>('journalStart'),
    /** Ends other turns as absorbed by this one. Resolves to their ids, once all are on disk. */
    takeIn: work<string[], { runId: string; turns: string[] }>('takeIn'),
    model: work<Answered, { runId: string }>('model'),
    /** Calls the tools that the model asked for. Resolves when there is a result for each; rejects when the run cannot go on. */
    callTools: work<void, { runId: string }>('callTools'),
    /** Resolves when there is room for the run to go on. */
    room: work<void, { runId: string }>('room'),
    journalEnd: work<void, { runId: string; outcome: RunOutcome }>('journalEnd'),
  },
  guards: {
    isJoined: ({ context }) => context.joining.length > 0,
    wantsTools: ({ event }) => 'output' in event && (event.output as Answered).calls > 0,
    hasDeadline: ({ context }) => context.timeoutMs > 0,
    isDecided: ({ context }) => context.outcome !== null,
    isCompleted: ({ context }) => context.outcome?.state === 'completed',
    isFailed: ({ context }) => context.outcome?.state === 'failed',
    isAborted: ({ context }) => context.outcome?.state === 'aborted',
    isTimedOut: ({ context }) => context.outcome?.state === 'timedOut',
  },
  delays: {
    deadline: ({ context }) => context.timeoutMs,
    retry: ({ context }) => context.retryMs,
  },
}).createMachine({
  id: 'run',
  description:
    'One turn of a session. Every run ends in exactly one of the five endings, and says so once it is on disk.',
  options: { maxIterations: MAX_ITERATIONS },
  context: ({ input }) => ({ outcome: null, absorbs: [], joining: [], ...input }),
  initial: 'accepted',
  on: {
    '*': {
      actions: { type: 'unexpected', params: ({ context, event }) => ({ runId: context.runId, event: event.type }) },
    },
  },
  states: {
    accepted: {
      description: 'On disk and acknowledged; waits for the session to be free.',
      always: { guard: 'isDecided', target: 'settling' },
      on: {
        begin: { target: 'starting', actions: assign({ absorbs: ({ event }) => event.absorbs }) },
        steer: { actions: 'addJoining' },
        absorb: {
          target: 'settling',
          actions: assign({
            outcome: ({ event }) => ({ state: 'completed', stopReason: 'absorbed', absorbedBy: event.by }),
          }),
        },
        abort: { target: 'settling', actions: 'abortWith' },
      },
    },
    starting: {
      description:
        'The turns that are answered with it, then its start are being written: the model is called only after that.',
      invoke: {
        src: 'journalStart',
        input: ({ context }) => ({ runId: context.runId, absorbs: context.absorbs }),
        onDone: [{ guard: 'isJoined', target: 'streaming.steering' }, { target: 'streaming' }],
        onError: {
          target: 'settling',
          actions: assign({ outcome: ({ event }) => ({ state: 'failed', error: words(event.error) }) }),
        },
      },
      on: {
        steer: { actions: 'addJoining' },
        abort: { target: 'settling', actions: 'abortWith' },
      },
    },
    streaming: {
      description:
        'The model is answering. Its text goes past this chart, through a stream that is open as long as this state.',
      entry: { type: 'openStream', params: ({ context }) => ({ runId: context.runId }) },
      exit: { type: 'closeStream', params: ({ context }) => ({ runId: context.runId }) },
      after: {
        deadline: [
          {
            guard: 'hasDeadline',
            target: 'settling',
            actions: assign({ outcome: { state: 'timedOut', stopReason: 'timeout' } }),
          },
          // Without a deadline the timer fires at once, and is not to be taken for an event that nobody expected.
          {},
        ],
      },
      on: {
        steer: { actions: 'addJoining' },
        abort: { target: 'settling', actions: 'abortWith' },
      },
      initial: 'asking',
      states: {
        asking: {
          description: 'The model has been asked.',
          invoke: {
            src: 'model',
            input: ({ context }) => ({ runId: context.runId }),
            onDone: [
              { guard: 'wantsTools', target: 'callingTools' },
              {
                target: '#run.settling',
                actions: assign({
                  outcome: ({ event }) => ({ state: 'completed', stopReason: event.output.stopReason }),
                }),
              },
            ],
            onError: {
              target: '#run.settling',
              actions: assign({
                outcome: ({ event }) => ({ state: 'failed', stopReason: 'error', error: words(event.error) }),
              }),
            },
          },
          on: { steer: { target: 'steering', actions: 'addJoining' } },
          initial: 'waiting',
          states: {
            waiting: { description: 'The request is out, no text has come yet.', on: { firstToken: 'writing' } },
            writing: { description: 'Text is coming.' },
          },
        },
        callingTools: {
          description:
            'The model waits for the tools it asked for. The run gives up its place meanwhile: what it waits for may need one.',
          invoke: {
            src: 'callTools',
            input: ({ context }) => ({ runId: context.runId }),
            onDone: { target: 'returning' },
            onError: {
              target: '#run.settling',
              actions: assign({
                outcome: ({ event }) => ({ state: 'failed', stopReason: 'error', error: words(event.error) }),
              }),
            },
          },
          // The last text before the calls may still be on its way.
          on: { firstToken: {} },
        },
        returning: {
          description: 'There is a result for each call; the run waits for a place to go on.',
          invoke: {
            src: 'room',
            input: ({ context }) => ({ runId: context.runId }),
            onDone: { target: 'joined' },
            onError: {
              target: '#run.settling',
              actions: assign({
                outcome: ({ event }) => ({ state: 'failed', stopReason: 'error', error: words(event.error) }),
              }),
            },
          },
          on: { firstToken: {} },
        },
        steering: {
          description: 'The model was called off: turns that join the run are being written, then it is asked again.',
          invoke: {
            src: 'takeIn',
            input: ({ context }) => ({ runId: context.runId, turns: context.joining }),
            onDone: {
              target: 'joined',
              actions: assign({
                joining: ({ context, event }) => context.joining.filter((runId) => !event.output.includes(runId)),
              }),
            },
            onError: { target: 'asking', actions: assign({ joining: [] }) },
          },
          on: { firstToken: {} },
        },
        joined: {
          description: 'What was to be taken in is there; have turns come meanwhile that join?',
          always: [{ guard: 'isJoined', target: 'steering' }, { target: 'asking' }],
        },
      },
    },
    settling: {
      description:
        'The ending is being written: nobody is told before that. What has been decided is not changed any more.',
      on: { begin: {}, steer: {}, absorb: {}, abort: {}, firstToken: {} },
      initial: 'writing',
      states: {
        writing: {
          description: 'The ending is on its way to the disk.',
          invoke: {
            src: 'journalEnd',
            input: ({ context }) => ({ runId: context.runId, outcome: context.outcome! }),
            onDone: [
              { guard: 'isCompleted', target: '#run.completed' },
              { guard: 'isFailed', target: '#run.failed' },
              { guard: 'isAborted', target: '#run.aborted' },
              { guard: 'isTimedOut', target: '#run.timedOut' },
              { target: '#run.interrupted' },
            ],
            onError: {
              target: 'waiting',
              actions: {
                type: 'storageFailed',
                params: ({ context, event }) => ({ runId: context.runId, error: words(event.error) }),
              },
            },
          },
        },
        waiting: {
          description:
            'The disk refused; it is tried again, since an ending that is only spoken would be lost by a restart.',
          after: { retry: 'writing' },
        },
      },
      exit: {
        type: 'announceEnd',
        params: ({ context }) => ({ runId: context.runId, outcome: context.outcome! }),
      },
    },
    completed: { type: 'final', description: 'The model ended by itself.' },
    failed: { type: 'final', description: 'The model or the store failed; the reason was passed on.' },
    aborted: { type: 'final', description: 'Somebody stopped it.' },
    timedOut: { type: 'final', description: 'Its deadline passed.' },
    interrupted: { type: 'final', description: 'The gateway stopped while it was under way.' },
  },
})

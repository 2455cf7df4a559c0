/** The gateway as a whole: what is started after what, and how it stops. */
import { assign, setup } from 'xstate'
import { effect, MAX_ITERATIONS, work } from './effects.ts'

const words = (error: unknown): string => (error instanceof Error ? error.message : String(error))

export const gatewayMachine = setup({
  types: {} as {
    input: { drainMs: number }
    context: { drainMs: number; reason: string; failure: string | null }
    events: { type: 'stop'; reason: string } | { type: 'failed'; error: string }
  },
  actions: {
    refuseNewTurns: effect<undefined>('refuseNewTurns'),
    announceShutdown: effect<{ reason: string }>('announceShutdown'),
    checkpoint: effect<undefined>('checkpoint'),
    unexpected: effect<{ event: string }>('unexpected'),
  },
  actors: {
    /** Opens the store and reads what has no ending yet. */
    openStorage: work<void, undefined>('openStorage'),
    /** Starts what was admitted, ends what was cut off. */
    recover: work<void, undefined>('recover'),
    listen: work<void, undefined>('listen'),
    /** Resolves when no run is under way any more. */
    runsEnded: work<void, undefined>('runsEnded'),
    /** Closes sockets, then the listener. */
    hangUp: work<void, undefined>('hangUp'),
    closeStorage: work<void, undefined>('closeStorage'),
  },
  guards: {
    /** Stopped, or without storage, before it was ready. */
    isUnwanted: ({ context }) => context.reason !== '' || context.failure !== null,
  },
  delays: { drainBudget: ({ context }) => context.drainMs, hangUpBudget: 5_000 },
}).createMachine({
  id: 'gateway',
  description: 'Storage, listener and recovery are started in that order, and closed in reverse.',
  options: { maxIterations: MAX_ITERATIONS },
  context: ({ input }) => ({ drainMs: input.drainMs, reason: '', failure: null }),
  initial: 'starting',
  on: { '*': { actions: { type: 'unexpected', params: ({ event }) => ({ event: event.type }) } } },
  states: {
    starting: {
      description: 'Not ready yet: /readyz answers 503.',
      initial: 'storage',
      // A step that has begun is never abandoned: what it opens must be there to be closed. Runs that recovery has begun are left
      // to the next process.
      on: {
        stop: { actions: assign({ reason: ({ event }) => event.reason }) },
        failed: { actions: assign({ failure: ({ event }) => event.error }) },
      },
      states: {
        storage: {
          description: 'Opening the store.',
          invoke: {
            src: 'openStorage',
            onDone: [{ guard: 'isUnwanted', target: '#gateway.checkpointing' }, { target: 'listener' }],
            onError: { target: '#gateway.stopping', actions: assign({ failure: ({ event }) => words(event.error) }) },
          },
        },
        listener: {
          description:
            'Taking the port. Before recovery: a start that fails here must not have begun a run. Nobody is let in yet.',
          invoke: {
            src: 'listen',
            onDone: [{ guard: 'isUnwanted', target: '#gateway.checkpointing' }, { target: 'recovery' }],
            onError: { target: '#gateway.stopping', actions: assign({ failure: ({ event }) => words(event.error) }) },
          },
        },
        recovery: {
          description: 'Settling what a former process left without an ending.',
          invoke: {
            src: 'recover',
            onDone: [{ guard: 'isUnwanted', target: '#gateway.checkpointing' }, { target: '#gateway.serving' }],
            onError: {
              target: '#gateway.checkpointing',
              actions: assign({ failure: ({ event }) => words(event.error) }),
            },
          },
        },
      },
    },
    serving: {
      description: 'Ready.',
      on: {
        stop: { target: 'draining', actions: assign({ reason: ({ event }) => event.reason }) },
        failed: { target: 'checkpointing', actions: assign({ failure: ({ event }) => event.error }) },
      },
    },
    draining: {
      description: 'Nothing new is taken; runs under way may end. A second stop, or the budget, cuts this short.',
      entry: ['refuseNewTurns', { type: 'announceShutdown', params: ({ context }) => ({ reason: context.reason }) }],
      invoke: { src: 'runsEnded', onDone: 'stopping', onError: 'checkpointing' },
      after: { drainBudget: 'checkpointing' },
      on: {
        stop: 'checkpointing',
        failed: { target: 'checkpointing', actions: assign({ failure: ({ event }) => event.error }) },
      },
    },
    checkpointing: {
      description: 'Runs that did not end are left to the next process, which ends them as interrupted.',
      entry: 'checkpoint',
      always: 'stopping',
    },
    stopping: {
      description: 'Closing in reverse order.',
      initial: 'sockets',
      on: { stop: {}, failed: {} },
      states: {
        sockets: {
          description: 'Closing the sockets and the listener.',
          invoke: { src: 'hangUp', onDone: 'storage', onError: 'storage' },
          // Whoever does not let go of a socket does not keep the gateway from stopping.
          after: { hangUpBudget: 'storage' },
        },
        storage: {
          description: 'Closing the store.',
          invoke: {
            src: 'closeStorage',
            onDone: '#gateway.stopped',
            onError: {
              target: '#gateway.stopped',
              actions: assign({ failure: ({ context, event }) => context.failure ?? words(event.error) }),
            },
          },
        },
      },
    },
    stopped: {
      type: 'final',
      description: 'Everything is closed. With a failure, the process ends with an error code.',
    },
  },
})

/** The life of a tool server: a program that is started, or an address that is greeted, and what follows when it goes away. */
import { assign, setup } from 'xstate'
import { effect, MAX_ITERATIONS, work } from './effects.ts'

type Name = { name: string }

/** Milliseconds, but for `restarts`: how often it may fail within `windowMs` before it rests. */
export interface RestartPolicy {
  restarts: number
  windowMs: number
  /** Before the first restart; doubled with each that follows. */
  backoffMs: number
  restMs: number
}

/** When the last of a server was put away, by a clock that nobody sets, and a while that keeps servers from coming back in step. */
export type Cleared = { at: number; jitter: number }

const words = (error: unknown): string => (error instanceof Error ? error.message : String(error))

export const toolServerMachine = setup({
  types: {} as {
    input: { name: string; startMs: number; policy: RestartPolicy }
    context: {
      name: string
      startMs: number
      policy: RestartPolicy
      /** Failures that still count: when each was put away. */
      failures: number[]
      jitter: number
      /** Why it went away the last time. */
      why: string
    }
    events: { type: 'begin' } | { type: 'lost'; why: string } | { type: 'stop' }
  },
  actions: {
    /** Its tools can be called from now on. */
    offer: effect<Name>('offer'),
    withdraw: effect<Name>('withdraw'),
    tellLost: effect<Name & { why: string }>('tellLost'),
    quarantine: effect<Name & { restMs: number }>('quarantine'),
    unexpected: effect<{ event: string }>('unexpected'),
    blame: assign({ why: (_, { why }: { why: string }) => why }),
    count: assign({
      failures: ({ context }, { at }: Cleared) => [...recent(context, at), at],
      jitter: (_, { jitter }: Cleared) => jitter,
    }),
    forgive: assign({ failures: [] }),
  },
  actors: {
    /** Greets it, and asks for its tools. */
    connect: work<void, Name>('connect'),
    /** Puts away what is left of it; resolves when nothing is. */
    clear: work<Cleared, Name>('clear'),
  },
  guards: {
    tooOften: ({ context }, { at }: Cleared) => recent(context, at).length >= context.policy.restarts,
  },
  delays: {
    start: ({ context }) => context.startMs,
    backoff: ({ context: { policy, failures, jitter } }) => policy.backoffMs * 2 ** (failures.length - 1) + jitter,
    rest: ({ context }) => context.policy.restMs,
  },
}).createMachine({
  id: 'tool-server',
  description: 'One server of tools. What is asked of it goes past this chart.',
  options: { maxIterations: MAX_ITERATIONS },
  context: ({ input }) => ({ ...input, failures: [], jitter: 0, why: '' }),
  initial: 'away',
  on: { '*': { actions: { type: 'unexpected', params: ({ event }) => ({ event: event.type }) } } },
  states: {
    away: {
      description: 'Nobody has asked for it yet.',
      on: { begin: 'starting', stop: 'stopped' },
    },
    starting: {
      description: 'On the way: started, greeted, asked for its tools.',
      invoke: {
        src: 'connect',
        input: ({ context }) => ({ name: context.name }),
        onDone: 'ready',
        onError: {
          target: 'clearing',
          actions: { type: 'blame', params: ({ event }) => ({ why: words(event.error) }) },
        },
      },
      after: {
        start: {
          target: 'clearing',
          actions: {
            type: 'blame',
            params: ({ context }) => ({ why: `it was not ready within ${context.startMs / 1_000} s` }),
          },
        },
      },
      on: {
        lost: { target: 'clearing', actions: { type: 'blame', params: ({ event }) => ({ why: event.why }) } },
        stop: 'stopping',
      },
    },
    ready: {
      description: 'Its tools can be called.',
      entry: { type: 'offer', params: ({ context }) => ({ name: context.name }) },
      exit: { type: 'withdraw', params: ({ context }) => ({ name: context.name }) },
      on: {
        lost: { target: 'clearing', actions: { type: 'blame', params: ({ event }) => ({ why: event.why }) } },
        stop: 'stopping',
      },
    },
    clearing: {
      description: 'It went away, and what is left of it is put away: there are never two of it.',
      entry: { type: 'tellLost', params: ({ context: { name, why } }) => ({ name, why }) },
      invoke: {
        src: 'clear',
        input: ({ context }) => ({ name: context.name }),
        onDone: [
          { guard: { type: 'tooOften', params: ({ event }) => event.output }, target: 'quarantined' },
          { target: 'resting', actions: { type: 'count', params: ({ event }) => event.output } },
        ],
        // Nobody knows what is left of it.
        onError: 'quarantined',
      },
      on: {
        // It says itself what is known already.
        lost: {},
        stop: 'stopping',
      },
    },
    resting: {
      description: 'It is begun again after a while that grows.',
      after: { backoff: 'starting' },
      on: { stop: 'stopped' },
    },
    quarantined: {
      description: 'It failed too often, and is left alone for long.',
      entry: [
        'forgive',
        {
          type: 'quarantine',
          params: ({ context: { name, policy } }) => ({ name, restMs: policy.restMs }),
        },
      ],
      after: { rest: 'starting' },
      on: { stop: 'stopped' },
    },
    stopping: {
      description: 'Nobody needs it any more: it is put away.',
      invoke: {
        src: 'clear',
        input: ({ context }) => ({ name: context.name }),
        onDone: 'stopped',
        onError: 'stopped',
      },
      on: { lost: {}, stop: {} },
    },
    stopped: { type: 'final', description: 'Nothing of it is left.' },
  },
})

/** The failures that still count at a moment. */
function recent({ failures, policy }: { failures: number[]; policy: RestartPolicy }, now: number): number[] {
  return failures.filter((at) => now - at < policy.windowMs)
}

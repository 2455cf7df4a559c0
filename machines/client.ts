/** The far end of a connection: a client greets a gateway, listens for signs of life, and comes back when it was cut off. */
import { assign, enqueueActions, setup } from 'xstate'
import { effect, MAX_ITERATIONS, work } from './effects.ts'

/** How long to wait before the next try. Milliseconds. */
export interface Backoff {
  /** Before the first try; doubled with each one that fails. */
  minMs: number
  maxMs: number
  /** Tries in a row before it gives up; null: it never does. */
  attempts: number | null
  /** Whether a gateway that has not been reached yet is tried again, too. */
  fromStart: boolean
}

/** What `connect` comes to. What is only refused for now is no verdict: the greeting fails, and is tried again. */
export type Greeting = { admitted: true; tickIntervalMs: number } | { admitted: false }

export const clientMachine = setup({
  types: {} as {
    input: { backoff: Backoff | null; handshakeMs: number }
    context: {
      backoff: Backoff | null
      handshakeMs: number
      tickIntervalMs: number
      wasOnline: boolean
      /** Connections in a row that ended, or never began. */
      failures: number
      /** Of the last end: the least that the gateway asked for, and a number in [0, 1) so that not all come back at once. */
      retryAfterMs: number
      jitter: number
    }
    events:
      | { type: 'challenged'; nonce: string }
      | { type: 'heard' }
      | { type: 'silent' }
      | { type: 'lost'; retryAfterMs: number; jitter: number }
      | { type: 'retry' }
      | { type: 'close' }
  },
  actions: {
    openSocket: effect<undefined>('openSocket'),
    /** Ends the socket; the host hears of it as of any other end, as `lost`. */
    dropSocket: effect<{ why: string }>('dropSocket'),
    /** Ends the socket, and nobody hears of it any more. */
    hangUp: effect<undefined>('hangUp'),
    /** Requests leave from now on, the waiting ones first. */
    openLane: effect<undefined>('openLane'),
    /** Requests wait from now on. */
    closeLane: effect<undefined>('closeLane'),
    unexpected: effect<{ event: string }>('unexpected'),
    watch: enqueueActions(({ enqueue }) => {
      // An id that is already pending is not replaced by raise: both would fire.
      enqueue.cancel('silence')
      enqueue.raise({ type: 'silent' }, { id: 'silence', delay: 'silence' })
    }),
    unwatch: enqueueActions(({ enqueue }) => enqueue.cancel('silence')),
    count: assign(({ context, event }) =>
      event.type === 'lost'
        ? { failures: context.failures + 1, retryAfterMs: event.retryAfterMs, jitter: event.jitter }
        : {},
    ),
  },
  actors: {
    greet: work<Greeting, { nonce: string }>('greet'),
    /** Brings the sessions that are followed up to date. */
    catchUp: work<void, undefined>('catchUp'),
  },
  guards: {
    isAdmitted: (_, { greeting }: { greeting: Greeting }) => greeting.admitted,
    mayReturn: ({ context: { backoff, wasOnline, failures } }) =>
      backoff !== null &&
      (wasOnline || backoff.fromStart) &&
      (backoff.attempts === null || failures < backoff.attempts),
  },
  delays: {
    handshake: ({ context }) => context.handshakeMs,
    /** A sign of life is told a quarter of an interval late at the most. */
    silence: ({ context }) => context.tickIntervalMs * 2.25,
    /** Whoever has stood so long has not merely been let in to be thrown out. */
    steady: 5_000,
    backoff: ({ context: { backoff, failures, retryAfterMs, jitter } }) => {
      if (backoff === null) return retryAfterMs
      const wait = Math.min(backoff.maxMs, backoff.minMs * 2 ** (failures - 1))
      return retryAfterMs + wait / 2 + (jitter * wait) / 2
    },
  },
}).createMachine({
  id: 'client',
  description: 'A connection as a client keeps it. What it asks and hears goes past this chart.',
  options: { maxIterations: MAX_ITERATIONS },
  context: ({ input }) => ({
    ...input,
    tickIntervalMs: 0,
    wasOnline: false,
    failures: 0,
    retryAfterMs: 0,
    jitter: 0,
  }),
  initial: 'connecting',
  on: {
    close: '.closed',
    // Told by whoever sees that the network is back, whatever there is to try.
    retry: {},
    '*': { actions: { type: 'unexpected', params: ({ event }) => ({ event: event.type }) } },
  },
  states: {
    connecting: {
      description: 'On the way to a gateway that knows us.',
      entry: 'openSocket',
      after: {
        handshake: { actions: { type: 'dropSocket', params: { why: 'it did not shake hands in time' } } },
      },
      on: {
        lost: [
          { guard: 'mayReturn', target: 'waiting', actions: 'count' },
          { target: 'gone', actions: 'count' },
        ],
      },
      initial: 'opening',
      states: {
        opening: {
          description: 'The socket is being opened; the gateway speaks first.',
          on: { challenged: 'greeting' },
        },
        greeting: {
          description: 'We have said who we are, and wait for the answer.',
          invoke: {
            src: 'greet',
            input: ({ event }) => ({ nonce: (event as { nonce: string }).nonce }),
            onDone: [
              {
                guard: { type: 'isAdmitted', params: ({ event }) => ({ greeting: event.output }) },
                target: '#client.online',
                actions: assign({
                  tickIntervalMs: ({ event }) => (event.output.admitted ? event.output.tickIntervalMs : 0),
                  wasOnline: true,
                }),
              },
              { target: '#client.refused' },
            ],
            onError: { actions: { type: 'dropSocket', params: { why: 'it could not let us in' } } },
          },
          on: { challenged: {} },
        },
      },
    },
    online: {
      description: 'The gateway answers. Its ticks are listened for: who falls silent is taken for dead.',
      entry: ['watch', 'openLane'],
      exit: ['unwatch', 'closeLane'],
      on: {
        heard: { actions: 'watch' },
        silent: { actions: { type: 'dropSocket', params: { why: 'it fell silent' } } },
        challenged: {},
        lost: [
          { guard: 'mayReturn', target: 'waiting', actions: 'count' },
          { target: 'gone', actions: 'count' },
        ],
      },
      initial: 'resuming',
      states: {
        resuming: {
          description: 'What was missed in the sessions that are followed is being asked for.',
          invoke: {
            src: 'catchUp',
            onDone: 'ready',
            onError: { actions: { type: 'dropSocket', params: { why: 'it could not give what was missed' } } },
          },
        },
        ready: {
          description: 'Everything is as if there had been no interruption.',
          after: { steady: { actions: assign({ failures: 0 }) } },
        },
      },
    },
    waiting: {
      description: 'Nobody is there; the next try comes after a while that grows.',
      after: { backoff: 'connecting' },
      on: { retry: 'connecting' },
    },
    refused: {
      type: 'final',
      description: 'The gateway will not have us as we are: trying again would not help.',
      entry: 'hangUp',
    },
    gone: { type: 'final', description: 'The connection ended, and nobody wants another.' },
    closed: { type: 'final', description: 'We hung up.', entry: 'hangUp' },
  },
})

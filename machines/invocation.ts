/** The life of one thing that a node is asked to do: it may be asked again when it comes back, and it ends once. */
import { assign, setup } from 'xstate'
import { effect, MAX_ITERATIONS } from './effects.ts'

export type InvocationEnding = 'answered' | 'failed' | 'lost' | 'cancelled' | 'timedOut'

export const invocationMachine = setup({
  types: {} as {
    /** `isThere`: whether there is a node to be asked. `timeoutMs` 0 = as long as it takes. */
    input: { id: string; isThere: boolean; timeoutMs: number; graceMs: number }
    context: { id: string; isThere: boolean; timeoutMs: number; graceMs: number; error: string | null }
    events: /** The node has said something of it. */
      | { type: 'heard' }
      /** It is done. */
      | { type: 'answer' }
      /** The node cannot do it, and says so. */
      | { type: 'refuse'; error: string }
      /** What the node said of it cannot be taken. */
      | { type: 'break'; error: string }
      /** The node's connection has ended. */
      | { type: 'lost' }
      /** It is here again, or another one that may take over. */
      | { type: 'back' }
      /** Nobody wants it any more. */
      | { type: 'cancel'; reason: string }
  },
  actions: {
    /** Asks the node, with what has arrived already. */
    ask: effect<{ id: string }>('ask'),
    /** Tells the node that it need not go on. */
    callOff: effect<{ id: string; reason: string }>('callOff'),
    /** Tells who waits how it ended. */
    settle: effect<{ id: string; ending: InvocationEnding; error: string | null }>('settle'),
    unexpected: effect<{ id: string; event: string }>('unexpected'),
    noteThere: assign({ isThere: true }),
    noteAway: assign({ isThere: false }),
    noteError: assign({
      error: ({ context, event }) => (event.type === 'refuse' || event.type === 'break' ? event.error : context.error),
    }),
  },
  guards: {
    isThere: ({ context }) => context.isThere,
    isPatient: ({ context }) => context.graceMs > 0,
    hasDeadline: ({ context }) => context.timeoutMs > 0,
  },
  delays: {
    deadline: ({ context }) => context.timeoutMs,
    grace: ({ context }) => context.graceMs,
  },
}).createMachine({
  id: 'invocation',
  description: 'A node was asked to do something. Whoever waits for it hears of exactly one ending.',
  options: { maxIterations: MAX_ITERATIONS },
  context: ({ input }) => ({ ...input, error: null }),
  initial: 'open',
  on: {
    '*': { actions: { type: 'unexpected', params: ({ context, event }) => ({ id: context.id, event: event.type }) } },
  },
  states: {
    open: {
      description: 'Somebody waits for it.',
      after: {
        deadline: [
          { guard: 'hasDeadline', target: 'timedOut' },
          // Without a deadline the timer fires at once, and is not to be taken for an event that nobody expected.
          {},
        ],
      },
      initial: 'away',
      states: {
        present: {
          description: 'The node is connected.',
          on: {
            answer: '#invocation.answered',
            refuse: { target: '#invocation.failed', actions: 'noteError' },
            break: {
              target: '#invocation.failed',
              actions: [
                'noteError',
                { type: 'callOff', params: ({ context, event }) => ({ id: context.id, reason: event.error }) },
              ],
            },
            lost: [{ guard: 'isPatient', target: 'away', actions: 'noteAway' }, { target: '#invocation.lost' }],
            cancel: {
              target: '#invocation.cancelled',
              actions: { type: 'callOff', params: ({ context, event }) => ({ id: context.id, reason: event.reason }) },
            },
            // A node that came back without having been missed.
            back: { target: '.asked', reenter: true },
          },
          initial: 'asked',
          states: {
            asked: {
              description: 'It was asked, for the first time or again, and has said nothing since.',
              entry: { type: 'ask', params: ({ context }) => ({ id: context.id }) },
              on: { heard: 'underWay' },
            },
            underWay: { description: 'It is at it.', on: { heard: {} } },
          },
        },
        away: {
          description: 'The node is not here. It may come back, or another one take over, until its grace is over.',
          always: { guard: 'isThere', target: 'present' },
          after: { grace: '#invocation.lost' },
          on: { back: { actions: 'noteThere' }, cancel: '#invocation.cancelled' },
        },
      },
    },
    answered: { type: 'final', description: 'It was done.', entry: ended('answered') },
    failed: {
      type: 'final',
      description: 'The node could not do it, or what it said of it could not be taken.',
      entry: ended('failed'),
    },
    lost: { type: 'final', description: 'The node went away, and was not back in time.', entry: ended('lost') },
    cancelled: { type: 'final', description: 'Nobody wanted it any more.', entry: ended('cancelled') },
    timedOut: {
      type: 'final',
      description: 'It took too long. The node is told, if it is there.',
      entry: [
        { type: 'callOff', params: ({ context }) => ({ id: context.id, reason: 'it took too long' }) },
        ended('timedOut'),
      ],
    },
  },
})

function ended(ending: InvocationEnding) {
  return {
    type: 'settle' as const,
    params: ({ context: { id, error } }: { context: { id: string; error: string | null } }) => ({ id, ending, error }),
  }
}

/** The life of one request for approval: from the question to exactly one ending, and one answer. */
import { assign, raise, setup } from 'xstate'
import type { Decision } from '../src/contract/approvals.ts'
import { effect, MAX_ITERATIONS, work } from './effects.ts'

export const approvalMachine = setup({
  types: {} as {
    input: { id: string; expiryMs: number }
    context: {
      id: string
      expiryMs: number
      /** How it ends if the disk refuses the rule: the time was up, or the requester gone, while that was being written. */
      otherwise: 'expired' | 'abandoned' | null
    }
    events:
      | { type: 'allowOnce' }
      | { type: 'allowAlways' }
      | { type: 'deny' }
      /** The requester's connection has ended. */
      | { type: 'gone' }
      /** Its time is up; raised here. */
      | { type: 'expire' }
  },
  actions: {
    /** Shows the request to those who may decide. */
    announceRequest: effect<{ id: string }>('announceRequest'),
    /** Tells them that it is over; null: there is nobody left to decide it for. */
    announceDecision: effect<{ id: string; decision: Decision | null }>('announceDecision'),
    /** Answers the requester, who may have gone. */
    answer: effect<{ id: string; decision: Decision | null }>('answer'),
    /** Tells who decided that it could not be kept, and that nothing was decided. */
    tellNotKept: effect<{ id: string; error: unknown }>('tellNotKept'),
    unexpected: effect<{ id: string; event: string }>('unexpected'),
    expire: raise({ type: 'expire' }),
    noteExpiry: assign({ otherwise: ({ context }) => context.otherwise ?? 'expired' }),
    noteLeaving: assign({ otherwise: ({ context }) => context.otherwise ?? 'abandoned' }),
  },
  actors: {
    /** Writes down that the same is allowed from now on. */
    keepRule: work<void, { id: string }>('keepRule'),
  },
  guards: {
    isExpired: ({ context }) => context.otherwise === 'expired',
    isAbandoned: ({ context }) => context.otherwise === 'abandoned',
  },
  delays: { expiry: ({ context }) => context.expiryMs },
}).createMachine({
  id: 'approval',
  description: 'Somebody asks whether a command may be run. The first decision counts, and is told to who asked, once.',
  options: { maxIterations: MAX_ITERATIONS },
  context: ({ input }) => ({ ...input, otherwise: null }),
  initial: 'open',
  on: {
    '*': { actions: { type: 'unexpected', params: ({ context, event }) => ({ id: context.id, event: event.type }) } },
  },
  states: {
    open: {
      description: 'Its time runs.',
      entry: { type: 'announceRequest', params: ({ context }) => ({ id: context.id }) },
      after: { expiry: { actions: 'expire' } },
      initial: 'pending',
      states: {
        pending: {
          description: 'Those who may decide have been asked.',
          on: {
            allowOnce: '#approval.allowedOnce',
            allowAlways: 'keeping',
            deny: '#approval.denied',
            expire: '#approval.expired',
            gone: '#approval.abandoned',
          },
        },
        keeping: {
          description: 'It was allowed for good, and that is on its way to the disk. Nothing but the disk can undo it.',
          invoke: {
            src: 'keepRule',
            input: ({ context }) => ({ id: context.id }),
            onDone: '#approval.allowedAlways',
            onError: [
              { guard: 'isExpired', target: '#approval.expired', actions: notKept() },
              { guard: 'isAbandoned', target: '#approval.abandoned', actions: notKept() },
              { target: 'pending', actions: notKept() },
            ],
          },
          on: {
            allowOnce: {},
            allowAlways: {},
            deny: {},
            expire: { actions: 'noteExpiry' },
            gone: { actions: 'noteLeaving' },
          },
        },
      },
    },
    allowedOnce: {
      type: 'final',
      description: 'It may be run now, and is asked about again.',
      entry: decided('allow-once'),
    },
    allowedAlways: {
      type: 'final',
      description: 'It may be run, now and whenever the same is asked again.',
      entry: decided('allow-always'),
    },
    denied: { type: 'final', description: 'It must not be run.', entry: decided('deny') },
    expired: {
      type: 'final',
      description: 'Nobody decided in time. Those who were asked know the time themselves.',
      entry: { type: 'answer', params: ({ context }) => ({ id: context.id, decision: null }) },
    },
    abandoned: { type: 'final', description: 'Who asked has gone: there is nobody to answer.', entry: decided(null) },
  },
})

function decided(decision: Decision | null) {
  const params = ({ context }: { context: { id: string } }) => ({ id: context.id, decision })
  return [
    { type: 'announceDecision' as const, params },
    { type: 'answer' as const, params },
  ]
}

function notKept() {
  return {
    type: 'tellNotKept' as const,
    params: ({ context, event }: { context: { id: string }; event: { error: unknown } }) => ({
      id: context.id,
      error: event.error,
    }),
  }
}

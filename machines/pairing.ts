/** One request to be paired, of a device or a node: it waits for a word, and nobody is given more by it than the approver holds. */
import { assign, setup } from 'xstate'
import type { Scope } from '../src/contract/block.ts'
import { effect, MAX_ITERATIONS, work } from './effects.ts'

export type PairingDecision = 'approved' | 'rejected' | 'expired' | 'superseded'

export const pairingMachine = setup({
  types: {} as {
    /** `waitsMs`: what is left of `ttlMs` after a restart. */
    input: { requestId: string; wanted: Scope[]; ttlMs: number; waitsMs: number }
    context: {
      requestId: string
      /** What was asked for. It never changes: what is approved is what was shown. */
      wanted: Scope[]
      /** What an approval gives. */
      granted: Scope[]
      verdict: 'approved' | 'rejected' | null
      ttlMs: number
      waitsMs: number
    }
    events: /** The same was asked for again. */
      | { type: 'repeat' }
      /** `holds`: the approver's own scopes, and those that they imply. */
      | { type: 'approve'; holds: Scope[] }
      | { type: 'reject' }
      /** Something else is asked for, or nothing any more. */
      | { type: 'supersede' }
  },
  actions: {
    resolve: effect<{ requestId: string; decision: PairingDecision }>('resolve'),
    unexpected: effect<{ event: string }>('unexpected'),
    grant: assign({
      verdict: 'approved',
      granted: ({ context, event }) => (event.type === 'approve' ? grantOf(context.wanted, event.holds) : []),
    }),
  },
  actors: {
    /** Puts the verdict on disk, and what it grants. */
    keep: work<void, { requestId: string; verdict: 'approved' | 'rejected'; granted: Scope[] }>('keep'),
  },
  guards: {
    /** Who holds nothing of what is asked for has nothing to give; who asks for nothing needs nothing. */
    givesSomething: ({ context, event }) =>
      event.type === 'approve' && (context.wanted.length === 0 || grantOf(context.wanted, event.holds).length > 0),
    isApproved: ({ context }) => context.verdict === 'approved',
  },
  delays: { patience: ({ context }) => context.waitsMs },
}).createMachine({
  id: 'pairing',
  description: 'A request to be paired, from its asking to its end.',
  options: { maxIterations: MAX_ITERATIONS },
  context: ({ input }) => ({ ...input, granted: [], verdict: null }),
  initial: 'waiting',
  on: { '*': { actions: { type: 'unexpected', params: ({ event }) => ({ event: event.type }) } } },
  states: {
    waiting: {
      description: 'Somebody who may has to say yes or no, while there is time.',
      after: { patience: 'expired' },
      on: {
        repeat: { target: 'waiting', reenter: true, actions: assign({ waitsMs: ({ context }) => context.ttlMs }) },
        approve: [{ guard: 'givesSomething', target: 'keeping', actions: 'grant' }, {}],
        reject: { target: 'keeping', actions: assign({ verdict: 'rejected' }) },
        supersede: 'superseded',
      },
    },
    keeping: {
      description: 'The word was given, the first one counts: it is being written down.',
      invoke: {
        src: 'keep',
        input: ({ context: { requestId, verdict, granted } }) => ({ requestId, verdict: verdict!, granted }),
        onDone: [{ guard: 'isApproved', target: 'approved' }, { target: 'rejected' }],
        // Nothing has been decided: whoever decided is told, and may try again.
        onError: {
          target: 'waiting',
          actions: assign({ verdict: null, granted: [], waitsMs: ({ context }) => context.ttlMs }),
        },
      },
      on: { repeat: {}, approve: {}, reject: {}, supersede: {} },
    },
    approved: {
      type: 'final',
      description: 'Paired, with what the approver could give.',
      entry: { type: 'resolve', params: ({ context: { requestId } }) => ({ requestId, decision: 'approved' }) },
    },
    rejected: {
      type: 'final',
      description: 'Refused. It may be asked again.',
      entry: { type: 'resolve', params: ({ context: { requestId } }) => ({ requestId, decision: 'rejected' }) },
    },
    expired: {
      type: 'final',
      description: 'Nobody said anything in time.',
      entry: { type: 'resolve', params: ({ context: { requestId } }) => ({ requestId, decision: 'expired' }) },
    },
    superseded: {
      type: 'final',
      description: 'Something else took its place.',
      entry: { type: 'resolve', params: ({ context: { requestId } }) => ({ requestId, decision: 'superseded' }) },
    },
  },
})

/** What of the wanted scopes an approver can give. */
const grantOf = (wanted: readonly Scope[], holds: readonly Scope[]): Scope[] =>
  wanted.filter((scope) => holds.includes(scope))

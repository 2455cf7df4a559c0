/** Whether an agent answers for itself, or another one for it: decided by checks that it passes or misses. */
import { assign, setup } from 'xstate'
import { effect, MAX_ITERATIONS } from './effects.ts'

export const standbyMachine = setup({
  types: {} as {
    /** `misses`: checks missed in a row until another one answers, 1 or more. */
    input: { agentId: string; misses: number }
    context: { agentId: string; misses: number; missed: number }
    events: { type: 'passed' } | { type: 'missed' }
  },
  actions: {
    /** From now on another one answers. */
    standIn: effect<{ agentId: string; missed: number }>('standIn'),
    /** From now on it answers for itself again. */
    handBack: effect<{ agentId: string }>('handBack'),
    unexpected: effect<{ agentId: string; event: string }>('unexpected'),
    countMiss: assign({ missed: ({ context }) => context.missed + 1 }),
  },
  guards: {
    isLastMiss: ({ context }) => context.missed + 1 >= context.misses,
  },
}).createMachine({
  id: 'standby',
  description: 'An agent that others stand in for. What a check is, its host knows.',
  options: { maxIterations: MAX_ITERATIONS },
  context: ({ input }) => ({ ...input, missed: 0 }),
  initial: 'present',
  on: {
    '*': {
      actions: {
        type: 'unexpected',
        params: ({ context, event }) => ({ agentId: context.agentId, event: event.type }),
      },
    },
  },
  states: {
    present: {
      description: 'It answers for itself.',
      on: {
        passed: { actions: assign({ missed: 0 }) },
        missed: [{ guard: 'isLastMiss', target: 'replaced' }, { actions: 'countMiss' }],
      },
    },
    replaced: {
      description: 'It missed too many checks in a row: another one answers for it, until it passes one.',
      entry: [
        'countMiss',
        { type: 'standIn', params: ({ context }) => ({ agentId: context.agentId, missed: context.missed }) },
      ],
      exit: { type: 'handBack', params: ({ context }) => ({ agentId: context.agentId }) },
      on: { missed: {}, passed: { target: 'present', actions: assign({ missed: 0 }) } },
    },
  },
})

/** Whether an agent answers for itself, or another one for it: decided by checks that it passes or misses. */
import { assign, setup } from 'xstate'
import { effect, MAX_ITERATIONS } from './effects.ts'

export const standbyMachine = setup({
  types: {} as {
    /** `misses`: checks missed in a row until another one answers, 1 or more. */
    input: { agentId: string; misses: number }
    /** `passed`: in a row, since it answers for itself again. */
    context: { agentId: string; misses: number; missed: number; passed: number }
    events:
      | { type: 'passed' }
      | { type: 'missed' } /** It was asked, and its provider did not answer. */
      | { type: 'failed' }
  },
  actions: {
    /** From now on another one answers. */
    standIn: effect<{ agentId: string; missed: number }>('standIn'),
    /** From now on it answers for itself again. */
    handBack: effect<{ agentId: string }>('handBack'),
    unexpected: effect<{ agentId: string; event: string }>('unexpected'),
    countMiss: assign({ missed: ({ context }) => context.missed + 1 }),
    countPass: assign({ passed: ({ context }) => context.passed + 1 }),
    beginAnew: assign({ missed: 0, passed: 0 }),
  },
  guards: {
    isLastMiss: ({ context }) => context.missed + 1 >= context.misses,
    isLastPass: ({ context }) => context.passed + 1 >= context.misses,
  },
}).createMachine({
  id: 'standby',
  description: 'An agent that others stand in for. What a check is, its host knows.',
  options: { maxIterations: MAX_ITERATIONS },
  context: ({ input }) => ({ ...input, missed: 0, passed: 0 }),
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
      entry: 'beginAnew',
      on: {
        passed: { actions: 'beginAnew' },
        missed: [{ guard: 'isLastMiss', target: 'replaced' }, { actions: 'countMiss' }],
        // One run says less than a check in a row of them: the next check is missed for it.
        failed: {},
      },
    },
    replaced: {
      description: 'It missed too many checks in a row: another one answers for it, until it passes one.',
      entry: [
        'countMiss',
        { type: 'standIn', params: ({ context }) => ({ agentId: context.agentId, missed: context.missed }) },
      ],
      exit: { type: 'handBack', params: ({ context }) => ({ agentId: context.agentId }) },
      on: { missed: {}, failed: {}, passed: 'doubtful' },
    },
    doubtful: {
      description:
        'It answers for itself again, and the first miss or failure is one too many, until it has passed enough.',
      entry: 'beginAnew',
      on: {
        passed: [{ guard: 'isLastPass', target: 'present' }, { actions: 'countPass' }],
        missed: 'replaced',
        failed: 'replaced',
      },
    },
  },
})

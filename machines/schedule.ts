/** The life of a job: it waits for its time, is carried out once for each time that it was due, and ends with its last. */
import { assign, setup } from 'xstate'
import { effect, MAX_ITERATIONS, work } from './effects.ts'

type Job = { jobId: string }

/** `null`: there is no next time. */
export type Wait = { waitMs: number | null }

/** What came of a firing that is on disk. `open`: it is under way, and its end is waited for. `refused`: it is not its time any more. */
export type Fired = { fired: 'open' | 'ended' | 'refused' }

/** `isLast`: there is no next time, and it was to be forgotten then. */
export type Settled = { isLast: boolean }

export const scheduleMachine = setup({
  types: {} as {
    /**
     * `longestMs`: after so long it looks again, since somebody may have set the clock; at most what a timer can hold. `isOpen`:
     * a former process left a firing of it under way.
     */
    input: { jobId: string; longestMs: number; retryMs: number; isOpen: boolean }
    context: {
      jobId: string
      longestMs: number
      retryMs: number
      isOpen: boolean
      waitMs: number
      /** It is not its time, and somebody wants it carried out all the same. */
      isForced: boolean
    }
    events:
      | { type: 'begin' }
      /** Its times, or whether it has any, are others now. */
      | { type: 'change' }
      /** Somebody wants it carried out now. */
      | { type: 'force' }
      | { type: 'remove' }
  },
  actions: {
    storageFailed: effect<Job & { error: unknown }>('storageFailed'),
    unexpected: effect<Job & { event: string }>('unexpected'),
    wait: assign({ waitMs: ({ context }, { waitMs }: { waitMs: number }) => Math.min(waitMs, context.longestMs) }),
    insist: assign({ isForced: true }),
    calm: assign({ isForced: false, isOpen: false }),
  },
  actors: {
    /** Says how long it is until its next time. */
    look: work<Wait, Job>('look'),
    /** Resolves when there is room for one more job under way. */
    place: work<void, Job>('place'),
    /** Writes down that its time has come. */
    journalFiring: work<Fired, Job & { isForced: boolean }>('journalFiring'),
    /** Has the turn taken, and waits for its end. What came of it stays with the host. */
    carryOut: work<void, Job>('carryOut'),
    /** Writes down how it ended. */
    journalEnd: work<Settled, Job>('journalEnd'),
  },
  guards: {
    hasLeftOpen: ({ context }) => context.isOpen,
    isNever: (_, { waitMs }: Wait) => waitMs === null,
    isNow: (_, { waitMs }: Wait) => waitMs !== null && waitMs <= 0,
    isOpen: (_, { fired }: Fired) => fired === 'open',
    isEnded: (_, { fired }: Fired) => fired === 'ended',
    isLast: (_, { isLast }: Settled) => isLast,
  },
  delays: {
    nap: ({ context }) => context.waitMs,
    retry: ({ context }) => context.retryMs,
  },
}).createMachine({
  id: 'schedule',
  description:
    'One job. That its time came is on disk before its turn is taken, and how it ended before it waits again.',
  options: { maxIterations: MAX_ITERATIONS },
  context: ({ input }) => ({ ...input, waitMs: 0, isForced: false }),
  initial: 'known',
  on: {
    '*': {
      actions: { type: 'unexpected', params: ({ context, event }) => ({ jobId: context.jobId, event: event.type }) },
    },
    remove: '.removed',
  },
  states: {
    known: {
      description: 'It is not begun with yet. What a former process left of it comes first.',
      on: { begin: [{ guard: 'hasLeftOpen', target: 'running' }, { target: 'looking' }] },
    },
    looking: {
      description: 'It asks when its next time is.',
      entry: 'calm',
      invoke: {
        src: 'look',
        input: ({ context }) => ({ jobId: context.jobId }),
        onDone: [
          { guard: { type: 'isNever', params: ({ event }) => event.output }, target: 'idle' },
          { guard: { type: 'isNow', params: ({ event }) => event.output }, target: 'due' },
          {
            target: 'waiting',
            actions: { type: 'wait', params: ({ event }) => ({ waitMs: event.output.waitMs ?? 0 }) },
          },
        ],
      },
      on: { change: { target: 'looking', reenter: true }, force: { target: 'due', actions: 'insist' } },
    },
    idle: {
      description: 'It is disabled, or has had its last time.',
      on: { change: 'looking', force: { target: 'due', actions: 'insist' } },
    },
    waiting: {
      description: 'Its time will come.',
      after: { nap: 'looking' },
      on: { change: 'looking', force: { target: 'due', actions: 'insist' } },
    },
    due: {
      description: 'Its time has come; it waits for room.',
      invoke: { src: 'place', input: ({ context }) => ({ jobId: context.jobId }), onDone: 'firing' },
      on: {
        // Whether it is still so is asked when it is written down.
        change: {},
        force: { actions: 'insist' },
      },
    },
    firing: {
      description: 'That its time has come is on its way to the disk.',
      invoke: {
        src: 'journalFiring',
        input: ({ context }) => ({ jobId: context.jobId, isForced: context.isForced }),
        onDone: [
          { guard: { type: 'isOpen', params: ({ event }) => event.output }, target: 'running' },
          { guard: { type: 'isEnded', params: ({ event }) => event.output }, target: 'settling' },
          { target: 'looking' },
        ],
        onError: { target: 'unfired', actions: failed() },
      },
      on: { change: {}, force: {} },
    },
    unfired: {
      description: 'The disk refused; it is tried again.',
      after: { retry: 'due' },
      on: { change: {}, force: { actions: 'insist' } },
    },
    running: {
      description: 'Its turn is taken, or waits to be.',
      invoke: {
        src: 'carryOut',
        input: ({ context }) => ({ jobId: context.jobId }),
        onDone: 'settling',
        onError: { target: 'resting', actions: failed() },
      },
      on: { change: {}, force: {} },
    },
    resting: {
      description: 'Its turn could not be taken for now; it is asked for again.',
      after: { retry: 'running' },
      on: { change: {}, force: {} },
    },
    settling: {
      description: 'How it ended is on its way to the disk.',
      invoke: {
        src: 'journalEnd',
        input: ({ context }) => ({ jobId: context.jobId }),
        onDone: [
          { guard: { type: 'isLast', params: ({ event }) => event.output }, target: 'ended' },
          { target: 'looking' },
        ],
        onError: { target: 'unsettled', actions: failed() },
      },
      on: { change: {}, force: {} },
    },
    unsettled: {
      description: 'The disk refused how it ended; it is tried again.',
      after: { retry: 'settling' },
      on: { change: {}, force: {} },
    },
    ended: { type: 'final', description: 'It has had its last time, and was to be forgotten then.' },
    removed: { type: 'final', description: 'Somebody removed it. What was under way goes on without it.' },
  },
})

function failed() {
  return {
    type: 'storageFailed' as const,
    params: ({ context, event }: { context: { jobId: string }; event: { error: unknown } }) => ({
      jobId: context.jobId,
      error: event.error,
    }),
  }
}

/**
 * The policy of the gateway: is this request new, running, answered or a misuse of its key? And what becomes of a session that
 * crashed? It decides; the table of live keys and the sessions themselves are with its host.
 */
import { produce } from 'immer'
import { assign, enqueueActions, setup } from 'xstate'
import { effect, MAX_ITERATIONS } from './effects.ts'

type Ticket = { ticket: string }
type Id = { id: string }

export const supervisorMachine = setup({
  types: {} as {
    input: { restarts: number; windowMs: number; backoffMs: number; restMs: number }
    context: {
      /** Crashes that still count, by session: when each happened. Only sessions that crashed are here. */
      crashes: Record<string, number[]>
      /** Sessions that rest. */
      resting: string[]
      restarts: number
      windowMs: number
      backoffMs: number
      restMs: number
    }
    events:
      | { type: 'admit'; ticket: string; sessionKey: string }
      | { type: 'crashed'; id: string; at: number; jitter: number }
      | { type: 'due'; id: string }
      | { type: 'rested'; id: string }
      | { type: 'drain' }
  },
  actions: {
    /** The key is new as far as memory goes: the store has the last word. */
    journal: effect<Ticket>('journal'),
    /** The key is being handled: this copy gets the same answer, without a second effect. */
    attach: effect<Ticket>('attach'),
    refuseReused: effect<Ticket>('refuseReused'),
    refuseBusy: effect<Ticket>('refuseBusy'),
    refuseResting: effect<Ticket>('refuseResting'),
    refuseDraining: effect<Ticket>('refuseDraining'),
    restart: effect<Id>('restart'),
    quarantine: effect<Id & { restMs: number }>('quarantine'),
    unexpected: effect<{ event: string }>('unexpected'),
    backOff: enqueueActions(({ enqueue, context, event }) => {
      if (event.type !== 'crashed') return
      const recent = [...(context.crashes[event.id] ?? []).filter((at) => event.at - at < context.windowMs), event.at]
      enqueue.assign({
        crashes: produce(context.crashes, (draft) => {
          draft[event.id] = recent
        }),
      })
      // An id that is already pending is not replaced by raise: both would fire.
      enqueue.cancel(`due:${event.id}`)
      enqueue.raise(
        { type: 'due', id: event.id },
        { id: `due:${event.id}`, delay: context.backoffMs * 2 ** (recent.length - 1) + event.jitter },
      )
    }),
    rest: enqueueActions(({ enqueue, context, event }) => {
      if (event.type !== 'crashed') return
      enqueue.assign({
        resting: [...context.resting.filter((id) => id !== event.id), event.id],
        crashes: produce(context.crashes, (draft) => {
          delete draft[event.id]
        }),
      })
      // A restart that was promised before would end the rest.
      enqueue.cancel(`due:${event.id}`)
      enqueue.cancel(`rested:${event.id}`)
      enqueue.raise({ type: 'rested', id: event.id }, { id: `rested:${event.id}`, delay: context.restMs })
      enqueue({ type: 'quarantine', params: { id: event.id, restMs: context.restMs } })
    }),
    wake: assign({
      resting: ({ context, event }) =>
        event.type === 'rested' ? context.resting.filter((id) => id !== event.id) : context.resting,
    }),
  },
  guards: {
    /** The key is live with another body. Bound by the host to its table. */
    isReused: (_, _params: Ticket): boolean => {
      throw new Error('guard "isReused" is not bound')
    },
    /** The key is live with this body. Bound by the host to its table. */
    isLive: (_, _params: Ticket): boolean => {
      throw new Error('guard "isLive" is not bound')
    },
    /** The session keeps no more waiting turns. Bound by the host. */
    isFull: (_, _params: Ticket): boolean => {
      throw new Error('guard "isFull" is not bound')
    },
    isResting: ({ context, event }) => event.type === 'admit' && context.resting.includes(event.sessionKey),
    tooOften: ({ context, event }) =>
      event.type === 'crashed' &&
      (context.crashes[event.id] ?? []).filter((at) => event.at - at < context.windowMs).length >= context.restarts,
  },
}).createMachine({
  id: 'supervisor',
  description: 'Admits each key once, and decides how often a failed session is begun again.',
  options: { maxIterations: MAX_ITERATIONS },
  context: ({ input }) => ({ crashes: {}, resting: [], ...input }),
  initial: 'admitting',
  on: { '*': { actions: { type: 'unexpected', params: ({ event }) => ({ event: event.type }) } } },
  states: {
    admitting: {
      description: 'New turns are taken.',
      on: {
        admit: [
          {
            guard: { type: 'isReused', params: ({ event }) => ({ ticket: event.ticket }) },
            actions: { type: 'refuseReused', params: ({ event }) => ({ ticket: event.ticket }) },
          },
          {
            guard: { type: 'isLive', params: ({ event }) => ({ ticket: event.ticket }) },
            actions: { type: 'attach', params: ({ event }) => ({ ticket: event.ticket }) },
          },
          { guard: 'isResting', actions: { type: 'refuseResting', params: ({ event }) => ({ ticket: event.ticket }) } },
          {
            guard: { type: 'isFull', params: ({ event }) => ({ ticket: event.ticket }) },
            actions: { type: 'refuseBusy', params: ({ event }) => ({ ticket: event.ticket }) },
          },
          { actions: { type: 'journal', params: ({ event }) => ({ ticket: event.ticket }) } },
        ],
        crashed: [{ guard: 'tooOften', actions: 'rest' }, { actions: 'backOff' }],
        due: { actions: { type: 'restart', params: ({ event }) => ({ id: event.id }) } },
        rested: { actions: ['wake', { type: 'restart', params: ({ event }) => ({ id: event.id }) }] },
        drain: 'draining',
      },
    },
    draining: {
      description: 'The gateway stops: keys that are live are still answered, nothing new is taken.',
      on: {
        admit: [
          {
            guard: { type: 'isReused', params: ({ event }) => ({ ticket: event.ticket }) },
            actions: { type: 'refuseReused', params: ({ event }) => ({ ticket: event.ticket }) },
          },
          {
            guard: { type: 'isLive', params: ({ event }) => ({ ticket: event.ticket }) },
            actions: { type: 'attach', params: ({ event }) => ({ ticket: event.ticket }) },
          },
          { actions: { type: 'refuseDraining', params: ({ event }) => ({ ticket: event.ticket }) } },
        ],
        // Its runs must be able to end: no backoff, since the end is near.
        crashed: { actions: { type: 'restart', params: ({ event }) => ({ id: event.id }) } },
        due: { actions: { type: 'restart', params: ({ event }) => ({ id: event.id }) } },
        rested: { actions: { type: 'restart', params: ({ event }) => ({ id: event.id }) } },
        drain: {},
      },
    },
  },
})

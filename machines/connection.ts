/** One socket: it is challenged, proves who it is, speaks, and goes. */
import { assign, setup } from 'xstate'
import type { Close, CloseName } from '../src/contract/closes.ts'
import type { Incoming, RequestFrame } from '../src/contract/frames.ts'
import { effect, MAX_ITERATIONS, work } from './effects.ts'

/** What the decision about a `connect` comes to. The answer itself has been sent, or is sent by `welcome`. */
export type Verdict = { admitted: true } | { admitted: false; close: Close | CloseName }

type Id = { connId: string }

export const connectionMachine = setup({
  types: {} as {
    input: { connId: string; handshakeTimeoutMs: number; pendingLimit: number }
    context: {
      connId: string
      handshakeTimeoutMs: number
      pendingLimit: number
      pending: number
      close: Close | CloseName | null
    }
    events:
      | { type: 'frame.connect'; request: RequestFrame; incoming: Incoming }
      | { type: 'frame.request'; request: RequestFrame; incoming: Incoming }
      | { type: 'frame.invalid'; incoming: Incoming }
      | { type: 'frame.notJson'; incoming: Incoming }
      | { type: 'close'; close: Close | CloseName }
      | { type: 'socket.closed' }
  },
  actions: {
    challenge: effect<Id>('challenge'),
    refuseFirst: effect<Id & { request: RequestFrame }>('refuseFirst'),
    /** The check itself failed: a matter for the log, and an answer that says so. */
    authenticationFailed: effect<Id & { error: unknown }>('authenticationFailed'),
    hold: effect<Id & { incoming: Incoming }>('hold'),
    welcome: effect<Id>('welcome'),
    openLane: effect<Id>('openLane'),
    closeLane: effect<Id>('closeLane'),
    closeSocket: effect<Id & { close: Close | CloseName }>('closeSocket'),
    terminate: effect<Id>('terminate'),
    unexpected: effect<Id & { event: string }>('unexpected'),
  },
  actors: {
    authenticate: work<Verdict, Id & { request: RequestFrame }>('authenticate'),
  },
  guards: {
    hasRoom: ({ context }) => context.pending < context.pendingLimit,
    isAdmitted: (_, { verdict }: { verdict: Verdict }) => verdict.admitted,
  },
  delays: {
    handshake: ({ context }) => context.handshakeTimeoutMs,
    closeGrace: 1_000,
  },
}).createMachine({
  id: 'connection',
  description: 'A peer on a socket. Before it is authenticated it can only connect.',
  options: { maxIterations: MAX_ITERATIONS },
  context: ({ input }) => ({ ...input, pending: 0, close: null }),
  initial: 'handshake',
  on: {
    'socket.closed': '.closed',
    '*': {
      actions: { type: 'unexpected', params: ({ context, event }) => ({ connId: context.connId, event: event.type }) },
    },
  },
  states: {
    handshake: {
      description: 'Nothing but the challenge and a refusal leaves before the peer is known.',
      after: { handshake: { target: 'closing', actions: assign({ close: 'handshakeTimeout' }) } },
      on: { close: { target: 'closing', actions: assign({ close: ({ event }) => event.close }) } },
      initial: 'challenge',
      states: {
        challenge: {
          description: 'The nonce is out; the first frame must be connect.',
          entry: { type: 'challenge', params: ({ context }) => ({ connId: context.connId }) },
          on: {
            'frame.connect': 'connecting',
            'frame.request': {
              target: '#connection.closing',
              actions: [
                {
                  type: 'refuseFirst',
                  params: ({ context, event }) => ({ connId: context.connId, request: event.request }),
                },
                assign({ close: 'notConnect' }),
              ],
            },
            'frame.invalid': { target: '#connection.closing', actions: assign({ close: 'invalidFrame' }) },
            'frame.notJson': { target: '#connection.closing', actions: assign({ close: 'notJson' }) },
          },
        },
        connecting: {
          description: 'The credentials are being checked; a few impatient frames are held.',
          invoke: {
            src: 'authenticate',
            input: ({ context, event }) => ({
              connId: context.connId,
              request: (event as { request: RequestFrame }).request,
            }),
            onDone: [
              {
                guard: { type: 'isAdmitted', params: ({ event }) => ({ verdict: event.output }) },
                target: '#connection.authenticated',
              },
              {
                target: '#connection.closing',
                actions: assign({ close: ({ event }) => (event.output.admitted ? null : event.output.close) }),
              },
            ],
            onError: {
              target: '#connection.closing',
              actions: [
                {
                  type: 'authenticationFailed',
                  params: ({ context, event }) => ({ connId: context.connId, error: event.error }),
                },
                assign({ close: 'internal' }),
              ],
            },
          },
          on: {
            'frame.*': [
              {
                guard: 'hasRoom',
                actions: [
                  {
                    type: 'hold',
                    params: ({ context, event }) => ({ connId: context.connId, incoming: event.incoming }),
                  },
                  assign({ pending: ({ context }) => context.pending + 1 }),
                ],
              },
              { target: '#connection.closing', actions: assign({ close: 'tooManyPending' }) },
            ],
          },
        },
      },
    },
    authenticated: {
      description:
        'The peer is known. Its requests go past this chart, through a lane that is open as long as this state.',
      entry: [
        { type: 'welcome', params: ({ context }) => ({ connId: context.connId }) },
        { type: 'openLane', params: ({ context }) => ({ connId: context.connId }) },
      ],
      exit: { type: 'closeLane', params: ({ context }) => ({ connId: context.connId }) },
      on: { close: { target: 'closing', actions: assign({ close: ({ event }) => event.close }) } },
    },
    closing: {
      description: 'The reason is on its way to the peer; what it still sends is not read.',
      entry: {
        type: 'closeSocket',
        params: ({ context }) => ({ connId: context.connId, close: context.close ?? 'internal' }),
      },
      after: {
        closeGrace: {
          target: 'closed',
          actions: { type: 'terminate', params: ({ context }) => ({ connId: context.connId }) },
        },
      },
      on: { 'frame.*': {}, close: {} },
    },
    closed: { type: 'final', description: 'The socket is gone.' },
  },
})

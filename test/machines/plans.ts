/** How each chart is toured: with what input, which events are worth trying, and what of its context counts. */
import { connectionMachine } from '../../machines/connection.ts'
import { gatewayMachine } from '../../machines/gateway.ts'
import { runMachine } from '../../machines/run.ts'
import { sessionMachine } from '../../machines/session.ts'
import { supervisorMachine } from '../../machines/supervisor.ts'
import type { TourPlan } from './tour.ts'

const request = { type: 'req', id: '1', method: 'connect' }
const frame = () => [{ request, incoming: { kind: 'request', request } }]

/** Tickets whose name says how the host's table knows them. */
export const TICKETS = {
  isReused: (_: unknown, { ticket }: { ticket: string }) => ticket.includes('reused'),
  isLive: (_: unknown, { ticket }: { ticket: string }) => ticket.includes('live'),
  isFull: (_: unknown, { ticket }: { ticket: string }) => ticket.includes('full'),
}

export const POLICY = { restarts: 5, windowMs: 30_000, backoffMs: 100, restMs: 60_000 }

export const RUN_INPUT = { runId: 'r', timeoutMs: 5_000, retryMs: 1_000 }

/** Ids that are neither running nor waiting, so that a session is never told of one run twice. */
const unused = ({ running, queue }: { running: string | null; queue: string[] }) =>
  ['a', 'b', 'c'].filter((id) => id !== running && !queue.includes(id)).slice(0, 1)

export const PLANS: { [name: string]: TourPlan } = {
  gateway: {
    machine: gatewayMachine,
    inputs: [{ drainMs: 60_000 }],
    abstract: ({ context }) => context.failure !== null,
    samples: { stop: () => [{ reason: 'a signal' }], failed: () => [{ error: 'the disk is gone' }] },
  },
  connection: {
    machine: connectionMachine,
    inputs: [{ connId: 'c', handshakeTimeoutMs: 10_000, pendingLimit: 4 }],
    abstract: ({ context }) => [context.pending, context.close],
    samples: {
      'frame.connect': frame,
      'frame.request': frame,
      'frame.invalid': frame,
      'frame.notJson': frame,
      close: () => [{ close: 'slowConsumer' }],
      'done authenticate': () => [{ admitted: true }, { admitted: false, close: 'protocolMismatch' }],
    },
  },
  supervisor: {
    machine: supervisorMachine,
    inputs: [POLICY],
    guards: TICKETS,
    abstract: ({ context }) => [context.crashes['s']?.length ?? 0, context.resting],
    samples: {
      admit: () => ['new', 'full', 'live', 'reused'].map((ticket) => ({ ticket: `${ticket} key`, sessionKey: 's' })),
      crashed: () => [{ id: 's', at: 0, jitter: 0 }],
      due: () => [{ id: 's' }],
      rested: () => [{ id: 's' }],
    },
  },
  session: {
    machine: sessionMachine,
    inputs: [{ key: 's' }],
    abstract: ({ context }) => [context.running, context.queue],
    samples: {
      turn: ({ context }) => unused(context).map((runId) => ({ runId })),
      ended: ({ context }) =>
        [context.running, ...context.queue, 'stranger'].filter(Boolean).map((runId) => ({ runId })),
      abort: ({ context }) =>
        [null, ...context.queue, context.running, 'stranger'].map((runId) => ({ runId, reason: 'rpc' })),
    },
  },
  run: {
    machine: runMachine,
    inputs: [
      RUN_INPUT,
      { ...RUN_INPUT, timeoutMs: 0 },
      { ...RUN_INPUT, outcome: { state: 'interrupted', error: 'cut off' } },
    ],
    abstract: ({ context }) => context.outcome,
    samples: { abort: () => [{ reason: 'rpc' }], 'done model': () => [{ stopReason: 'stop' }] },
  },
}

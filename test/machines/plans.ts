/** How each chart is toured: with what input, which events are worth trying, and what of its context counts. */
import { approvalMachine } from '../../machines/approval.ts'
import { clientMachine } from '../../machines/client.ts'
import { connectionMachine } from '../../machines/connection.ts'
import { gatewayMachine } from '../../machines/gateway.ts'
import { invocationMachine } from '../../machines/invocation.ts'
import { pairingMachine } from '../../machines/pairing.ts'
import { runMachine } from '../../machines/run.ts'
import { scheduleMachine } from '../../machines/schedule.ts'
import { sessionMachine } from '../../machines/session.ts'
import { standbyMachine } from '../../machines/standby.ts'
import { supervisorMachine } from '../../machines/supervisor.ts'
import { toolServerMachine } from '../../machines/tool-server.ts'
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

export const BACKOFF = { minMs: 250, maxMs: 30_000, attempts: null, fromStart: true }

/** Ids that are neither running nor waiting, so that a session is never told of one run twice. */
const unused = (context: { running: string | null; queue: { runId: string }[] }) =>
  ['a', 'b', 'c'].filter((id) => id !== context.running && !waitingIn(context).includes(id)).slice(0, 1)
const waitingIn = ({ queue }: { queue: { runId: string }[] }) => queue.map(({ runId }) => runId)

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
      turn: ({ context }) =>
        unused(context).flatMap((runId) =>
          ['followup', 'collect', 'steer', 'interrupt'].map((mode) => ({ runId, mode })),
        ),
      ended: ({ context }) =>
        [context.running, ...waitingIn(context), 'stranger'].filter(Boolean).map((runId) => ({ runId })),
      abort: ({ context }) =>
        [null, ...waitingIn(context), context.running, 'stranger'].map((runId) => ({ runId, reason: 'rpc' })),
    },
  },
  run: {
    machine: runMachine,
    inputs: [
      RUN_INPUT,
      { ...RUN_INPUT, timeoutMs: 0 },
      { ...RUN_INPUT, outcome: { state: 'interrupted', error: 'cut off' } },
    ],
    abstract: ({ context }) => [context.outcome, context.absorbs, context.joining],
    samples: {
      begin: () => [{ absorbs: [] }, { absorbs: ['older'] }],
      steer: () => [{ runId: 'newer' }, { runId: 'newest' }],
      absorb: () => [{ by: 'other' }],
      abort: () => [{ reason: 'rpc' }],
      'done model': () => [
        { stopReason: 'stop', calls: 0 },
        { stopReason: 'toolUse', calls: 2 },
      ],
      'done takeIn': ({ context }) => [context.joining.slice(0, 1), context.joining],
    },
  },
  client: {
    machine: clientMachine,
    inputs: [
      { backoff: BACKOFF, handshakeMs: 15_000 },
      { backoff: { ...BACKOFF, attempts: 2, fromStart: false }, handshakeMs: 15_000 },
      { backoff: null, handshakeMs: 15_000 },
    ],
    // Beyond the tries that are allowed one failure is like another.
    abstract: ({ context }) => [context.wasOnline, Math.min(context.failures, 3)],
    samples: {
      challenged: () => [{ nonce: 'n' }],
      lost: () => [{ retryAfterMs: 0, jitter: 0.5 }],
      'done greet': () => [{ admitted: true, tickIntervalMs: 30_000 }, { admitted: false }],
    },
  },
  pairing: {
    machine: pairingMachine,
    inputs: [
      { requestId: 'p', wanted: ['operator.read', 'operator.write'], ttlMs: 300_000, waitsMs: 1_000 },
      { requestId: 'p', wanted: [], ttlMs: 300_000, waitsMs: 300_000 },
    ],
    abstract: ({ context }) => [context.verdict, context.granted, context.waitsMs],
    samples: {
      approve: () =>
        [[], ['operator.pairing'], ['operator.read'], ['operator.read', 'operator.write']].map((holds) => ({ holds })),
    },
  },
  standby: {
    machine: standbyMachine,
    inputs: [
      { agentId: 'a', misses: 1 },
      { agentId: 'a', misses: 3 },
    ],
    abstract: ({ context }) => [context.missed, context.passed],
    samples: {},
  },
  approval: {
    machine: approvalMachine,
    inputs: [{ id: 'a', expiryMs: 120_000 }],
    abstract: ({ context }) => context.otherwise,
    samples: {},
  },
  'tool-server': {
    machine: toolServerMachine,
    inputs: [{ name: 's', startMs: 20_000, policy: POLICY }],
    abstract: ({ context }) => context.failures.length,
    samples: {
      lost: () => [{ why: 'it ended' }],
      'done clear': () => [{ at: 0, jitter: 0 }],
    },
  },
  schedule: {
    machine: scheduleMachine,
    inputs: [
      { jobId: 'j', longestMs: 60_000, retryMs: 1_000, isOpen: false },
      { jobId: 'j', longestMs: 60_000, retryMs: 1_000, isOpen: true },
    ],
    abstract: ({ context }) => [context.isForced, context.isOpen, context.waitMs],
    samples: {
      'done look': () => [{ waitMs: null }, { waitMs: 0 }, { waitMs: 20_000 }, { waitMs: 1e10 }],
      'done journalFiring': () => ['open', 'ended', 'refused'].map((fired) => ({ fired })),
      'done journalEnd': () => [{ isLast: true }, { isLast: false }],
    },
  },
  invocation: {
    machine: invocationMachine,
    inputs: [
      { id: 'i', isThere: true, timeoutMs: 0, graceMs: 30_000 },
      { id: 'i', isThere: false, timeoutMs: 0, graceMs: 30_000 },
      { id: 'i', isThere: true, timeoutMs: 700, graceMs: 0 },
    ],
    abstract: ({ context }) => context.error,
    samples: {
      refuse: () => [{ error: 'not today' }],
      break: () => [{ error: 'a hole' }],
      cancel: () => [{ reason: 'stopped' }],
    },
  },
}

/** Turns at set times: jobs, what wakes an agent, and its heartbeat. */
import { type Static, Type } from 'typebox'
import { event, method } from './block.ts'
import { Milliseconds, NonEmpty, SessionKey, Short, Thinking } from './shapes.ts'
import { LONGEST_TIMER_MS } from './timer.ts'

/** The last moment there is, in wall-clock ms. */
const Moment = Type.Integer({ minimum: 0, maximum: 8_640_000_000_000_000 })
/** What an agent is told when its time comes. */
const Words = Type.String({ minLength: 1, maxLength: 32_768 })
const WakeMode = Type.Union([Type.Literal('now'), Type.Literal('next-heartbeat')])
const SessionTarget = Type.Union([Type.Literal('main'), Type.Literal('isolated')])
const Status = Type.Union([Type.Literal('ok'), Type.Literal('error'), Type.Literal('skipped')])

const Schedule = Type.Union([
  /** Once, at a moment as ISO 8601; without a zone it is UTC. */
  Type.Object({ kind: Type.Literal('at'), at: Type.String({ minLength: 1, maxLength: 64 }) }),
  /** Again and again, counted from `anchorMs`; at the earliest a second after the one before has ended. */
  Type.Object({
    kind: Type.Literal('every'),
    everyMs: Type.Integer({ minimum: 1, maximum: 8_640_000_000_000_000 }),
    anchorMs: Type.Optional(Moment),
  }),
  /** By the clock of a time zone (IANA), else of the machine; five or six fields. */
  Type.Object({
    kind: Type.Literal('cron'),
    expr: Type.String({ minLength: 1, maxLength: 256 }),
    tz: Type.Optional(Type.String({ maxLength: 64 })),
  }),
])

const turnOptions = {
  model: Type.Optional(NonEmpty),
  thinking: Type.Optional(Thinking),
  timeoutSeconds: Type.Optional(Type.Integer({ minimum: 1, maximum: Math.floor(LONGEST_TIMER_MS / 1000) })),
  /** How older clients ask for a delivery. */
  deliver: Type.Optional(Type.Boolean()),
}
const Payload = Type.Union([
  Type.Object({ kind: Type.Literal('systemEvent'), text: Words }),
  Type.Object({ kind: Type.Literal('agentTurn'), message: Words, ...turnOptions }),
])
const PayloadPatch = Type.Union([
  Type.Object({ kind: Type.Literal('systemEvent'), text: Type.Optional(Words) }),
  Type.Object({ kind: Type.Literal('agentTurn'), message: Type.Optional(Words), ...turnOptions }),
])

const destination = {
  /** Kept and answered; there are no channels here. */
  channel: Type.Optional(Short),
  to: Type.Optional(Short),
  bestEffort: Type.Optional(Type.Boolean()),
}
/** `announce`: what came of it is told to the main session of the agent. */
const Delivery = Type.Object({ mode: Type.Union([Type.Literal('none'), Type.Literal('announce')]), ...destination })

const JobState = Type.Object({
  nextRunAtMs: Type.Optional(Moment),
  runningAtMs: Type.Optional(Moment),
  lastRunAtMs: Type.Optional(Moment),
  lastStatus: Type.Optional(Status),
  /** The same as `lastStatus`, as protocol 4 calls it. */
  lastRunStatus: Type.Optional(Status),
  lastError: Type.Optional(Type.String()),
  lastDurationMs: Type.Optional(Milliseconds),
  /** Failures one behind the other; each makes the next time come later. */
  consecutiveErrors: Type.Optional(Type.Integer({ minimum: 0 })),
})

const CronJob = Type.Object({
  id: Type.String(),
  agentId: Type.Optional(Type.String()),
  name: Type.String(),
  description: Type.Optional(Type.String()),
  enabled: Type.Boolean(),
  deleteAfterRun: Type.Optional(Type.Boolean()),
  createdAtMs: Type.Integer(),
  updatedAtMs: Type.Integer(),
  schedule: Schedule,
  sessionTarget: SessionTarget,
  wakeMode: WakeMode,
  payload: Payload,
  delivery: Type.Optional(Delivery),
  state: JobState,
})
export type CronJob = Static<typeof CronJob>

const ofRun = {
  status: Type.Optional(Status),
  error: Type.Optional(Type.String()),
  /** The beginning of what was said. */
  summary: Type.Optional(Type.String()),
  sessionId: Type.Optional(Type.String()),
  sessionKey: Type.Optional(Type.String()),
  runId: Type.Optional(Type.String()),
  runAtMs: Type.Optional(Moment),
  durationMs: Type.Optional(Milliseconds),
  nextRunAtMs: Type.Optional(Moment),
}
const CronEntry = Type.Object({ ts: Moment, jobId: Type.String(), action: Type.Literal('finished'), ...ofRun })
export type CronEntry = Static<typeof CronEntry>

/** Where a part of a list is in the whole. */
const page = {
  total: Type.Optional(Type.Integer()),
  offset: Type.Optional(Type.Integer()),
  limit: Type.Optional(Type.Integer()),
  hasMore: Type.Optional(Type.Boolean()),
  nextOffset: Type.Optional(Type.Union([Type.Integer(), Type.Null()])),
}
const Offset = Type.Optional(Type.Integer({ minimum: 0 }))
const Direction = Type.Optional(Type.Union([Type.Literal('asc'), Type.Literal('desc')]))

const HeartbeatPayload = Type.Object({
  ts: Type.Integer(),
  /** `sent`: it had something to say. `ok-token`, `ok-empty`: nothing. `skipped`: it was not asked. */
  status: Type.Union([
    Type.Literal('sent'),
    Type.Literal('ok-empty'),
    Type.Literal('ok-token'),
    Type.Literal('skipped'),
    Type.Literal('failed'),
  ]),
  agentId: Type.String(),
  sessionKey: Type.String(),
  reason: Type.Optional(Type.String()),
  /** The beginning of what it said. */
  preview: Type.Optional(Type.String()),
  durationMs: Type.Optional(Type.Integer()),
  silent: Type.Optional(Type.Boolean()),
  indicatorType: Type.Optional(Type.Union([Type.Literal('ok'), Type.Literal('alert'), Type.Literal('error')])),
})
export type HeartbeatPayload = Static<typeof HeartbeatPayload>

/** Which job: newer clients say `id`, older ones `jobId`. */
const which = { id: Type.Optional(NonEmpty), jobId: Type.Optional(NonEmpty) }
const described = {
  agentId: Type.Optional(Type.Union([NonEmpty, Type.Null()])),
  description: Type.Optional(Type.String({ maxLength: 2_000 })),
  enabled: Type.Optional(Type.Boolean()),
  deleteAfterRun: Type.Optional(Type.Boolean()),
}

export const cron = {
  'cron.list': method({
    summary: 'The jobs, the next one first; those that are disabled only if asked for.',
    scope: 'operator.read',
    unknown: 'ignored',
    isLarge: true,
    params: Type.Object({
      includeDisabled: Type.Optional(Type.Boolean()),
      /** From here on as in protocol 4; an answer to any of these says where it is in the whole. */
      enabled: Type.Optional(Type.Union([Type.Literal('all'), Type.Literal('enabled'), Type.Literal('disabled')])),
      agentId: Type.Optional(NonEmpty),
      query: Type.Optional(Short),
      limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 200 })),
      offset: Offset,
      sortBy: Type.Optional(
        Type.Union([Type.Literal('nextRunAtMs'), Type.Literal('updatedAtMs'), Type.Literal('name')]),
      ),
      sortDir: Direction,
    }),
    result: Type.Object({
      jobs: Type.Array(CronJob),
      ...page,
      /** Parts that have the same one are of one list: the same jobs in the same order. */
      snapshotRevision: Type.Optional(Type.String()),
    }),
  }),
  'cron.get': method({
    summary: 'One job.',
    scope: 'operator.read',
    unknown: 'ignored',
    params: Type.Object(which),
    result: CronJob,
  }),
  'cron.status': method({
    summary: 'Whether jobs are carried out, how many there are, and when the next one is due.',
    scope: 'operator.read',
    unknown: 'ignored',
    params: Type.Object({}),
    result: Type.Object({
      enabled: Type.Boolean(),
      storePath: Type.String(),
      jobs: Type.Integer(),
      nextWakeAtMs: Type.Union([Moment, Type.Null()]),
    }),
  }),
  'cron.add': method({
    summary: 'Make a job; without `wakeMode` its word is not kept waiting (`now`). Answered once it is on disk.',
    scope: 'operator.admin',
    unknown: 'refused',
    audited: true,
    params: Type.Object({
      name: Type.String({ minLength: 1, maxLength: 200 }),
      ...described,
      schedule: Schedule,
      sessionTarget: SessionTarget,
      wakeMode: Type.Optional(WakeMode),
      payload: Payload,
      delivery: Type.Optional(Delivery),
    }),
    meaningless: ['displayName', 'owner', 'sessionKey', 'failureAlert', 'pacing'],
    result: CronJob,
  }),
  'cron.update': method({
    summary: 'Change a job. What is under way of it goes on as it was.',
    scope: 'operator.admin',
    unknown: 'refused',
    audited: true,
    params: Type.Object({
      ...which,
      patch: Type.Object({
        name: Type.Optional(Type.String({ minLength: 1, maxLength: 200 })),
        ...described,
        schedule: Type.Optional(Schedule),
        sessionTarget: Type.Optional(SessionTarget),
        wakeMode: Type.Optional(WakeMode),
        payload: Type.Optional(PayloadPatch),
        delivery: Type.Optional(Type.Partial(Delivery)),
      }),
    }),
    meaningless: ['expectedConfigRevision'],
    result: CronJob,
  }),
  'cron.remove': method({
    summary: 'Remove a job with what is remembered of its runs. A run that is under way goes on.',
    scope: 'operator.admin',
    unknown: 'refused',
    audited: true,
    params: Type.Object(which),
    result: Type.Object({ ok: Type.Literal(true), removed: Type.Boolean() }),
  }),
  'cron.run': method({
    summary:
      'Carry out a job now, or only if it is due. Answered when that has ended; to protocol 4 when it is on disk.',
    scope: 'operator.admin',
    unknown: 'refused',
    audited: true,
    params: Type.Object({
      ...which,
      mode: Type.Optional(Type.Union([Type.Literal('due'), Type.Literal('force'), Type.Literal('if-enabled')])),
    }),
    meaningless: ['expectedProcessInstanceId'],
    result: Type.Object({
      ok: Type.Literal(true),
      ran: Type.Boolean(),
      reason: Type.Optional(Type.String()),
      enqueued: Type.Optional(Type.Boolean()),
      runId: Type.Optional(Type.String()),
    }),
  }),
  'cron.runs': method({
    summary: 'How the newest runs of a job, or of all, ended: the oldest of them first, in protocol 4 last.',
    scope: 'operator.read',
    unknown: 'ignored',
    isLarge: true,
    params: Type.Object({
      ...which,
      limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 5_000 })),
      scope: Type.Optional(Type.Union([Type.Literal('job'), Type.Literal('all')])),
      runId: Type.Optional(NonEmpty),
      status: Type.Optional(
        Type.Union([Type.Literal('all'), Type.Literal('ok'), Type.Literal('error'), Type.Literal('skipped')]),
      ),
      offset: Offset,
      sortDir: Direction,
    }),
    result: Type.Object({ entries: Type.Array(CronEntry), ...page }),
  }),
  wake: method({
    summary: 'Leave word for the main session of an agent: it is heard with the next turn, or now, in a heartbeat.',
    scope: 'operator.write',
    unknown: 'ignored',
    params: Type.Object({
      mode: WakeMode,
      text: Words,
      agentId: Type.Optional(NonEmpty),
      sessionKey: Type.Optional(SessionKey),
    }),
    result: Type.Object({ ok: Type.Literal(true) }),
  }),
  'last-heartbeat': method({
    summary: 'The last heartbeat since the gateway was started, or null.',
    scope: 'operator.read',
    unknown: 'ignored',
    params: Type.Object({}),
    result: Type.Union([HeartbeatPayload, Type.Null()]),
  }),
  'set-heartbeats': method({
    summary: 'Let agents have heartbeats, or let none have any. Remembered.',
    scope: 'operator.admin',
    unknown: 'ignored',
    audited: true,
    params: Type.Object({ enabled: Type.Boolean() }),
    result: Type.Object({ ok: Type.Literal(true), enabled: Type.Boolean() }),
  }),
}

export const cronEvents = {
  cron: event({
    summary: 'A job was added, changed or removed, or began or ended.',
    scope: 'operator.read',
    delivery: 'droppable',
    payload: Type.Object({
      jobId: Type.String(),
      action: Type.Union([
        Type.Literal('added'),
        Type.Literal('updated'),
        Type.Literal('removed'),
        Type.Literal('started'),
        Type.Literal('finished'),
      ]),
      ...ofRun,
    }),
  }),
  heartbeat: event({
    summary: 'What came of a heartbeat.',
    scope: 'operator.read',
    delivery: 'droppable',
    payload: HeartbeatPayload,
  }),
}

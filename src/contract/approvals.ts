/** Commands that wait for somebody to allow them, and the commands that are allowed for good. */
import { type Static, Type } from 'typebox'
import { event, method } from './block.ts'
import { Anything, NonEmpty, SessionKey } from './shapes.ts'

/** Characters of a command: it is shown whole to those who decide, and each request costs all of them its bytes. */
const Command = Type.String({ minLength: 1, maxLength: 64 * 1024 })
const Path = Type.String({ maxLength: 4096 })

const OrNull = <T extends Parameters<typeof Type.Union>[0][number]>(schema: T) => Type.Union([schema, Type.Null()])
const Maybe = <T extends Parameters<typeof Type.Union>[0][number]>(schema: T) => Type.Optional(OrNull(schema))

const Decided = Type.Union([
  Type.Literal('allow-once'),
  Type.Literal('allow-always'),
  Type.Literal('deny'),
  Type.Null(),
])
export type Decision = NonNullable<Static<typeof Decided>>

/** A request as it is shown. */
const Shown = Type.Object({
  command: Command,
  cwd: OrNull(Path),
  host: OrNull(NonEmpty),
  security: OrNull(NonEmpty),
  ask: OrNull(NonEmpty),
  agentId: OrNull(NonEmpty),
  resolvedPath: OrNull(Path),
  sessionKey: OrNull(SessionKey),
})
export type Shown = Static<typeof Shown>

const PendingApproval = Type.Object({
  id: NonEmpty,
  request: Shown,
  /** Who asks, as the gateway knows them: a device by its id, else `token:…` or `user:…`. */
  requestedBy: Type.String(),
  createdAtMs: Type.Integer(),
  expiresAtMs: Type.Integer(),
})
export type PendingApproval = Static<typeof PendingApproval>

/** Of a `deny` that nobody said: the gateway failed. */
const Reason = Type.Optional(Type.String())

const Policy = {
  security: Type.Optional(NonEmpty),
  ask: Type.Optional(NonEmpty),
  askFallback: Type.Optional(NonEmpty),
  autoAllowSkills: Type.Optional(Type.Boolean()),
}

/** Something an agent may run without being asked about. */
const Allowed = Type.Object({
  id: Type.Optional(NonEmpty),
  /**
   * A glob that who runs commands compares with their path; or `sha256:` and the digest of exactly one command, and behind `@` the
   * session it was allowed in.
   */
  pattern: Path,
  /** As it was written once. Beside a digest it becomes part of the pattern: clients of protocol 4 know no such member. */
  sessionKey: Type.Optional(SessionKey),
  lastUsedAt: Type.Optional(Type.Number()),
  lastUsedCommand: Type.Optional(Command),
  lastResolvedPath: Type.Optional(Path),
})

/**
 * What may be run without a question. A file that is only half understood could allow too much: its own members are fixed, those
 * of an agent are kept as they are.
 */
export const ExecApprovals = Type.Object(
  {
    version: Type.Literal(1),
    /** Not used here; its token is not kept. */
    socket: Type.Optional(
      Type.Object(
        { path: Type.Optional(Path), token: Type.Optional(Type.String({ maxLength: 512 })) },
        { additionalProperties: false },
      ),
    ),
    defaults: Type.Optional(Type.Object(Policy, { additionalProperties: false })),
    agents: Type.Optional(
      Type.Record(Type.String(), Type.Object({ ...Policy, allowlist: Type.Optional(Type.Array(Allowed)) })),
    ),
  },
  { additionalProperties: false },
)
export type ExecApprovals = Static<typeof ExecApprovals>

const Kept = Type.Object({
  path: Type.String(),
  exists: Type.Boolean(),
  /** Changes whenever the file does. */
  hash: Type.String(),
  file: ExecApprovals,
})

export const approvals = {
  'exec.approval.request': method({
    summary:
      'Asks whether a command may be run. Answers when somebody has decided, with a null decision when nobody did in time, or with deny and a `reason` when the gateway failed.',
    scope: 'operator.approvals',
    unknown: 'refused',
    audited: true,
    unlisted: true,
    params: Type.Object({
      /** An id that was in use in the last minutes is refused. */
      id: Type.Optional(NonEmpty),
      command: Command,
      cwd: Maybe(Path),
      host: Maybe(NonEmpty),
      security: Maybe(NonEmpty),
      /** `always`: what is allowed for good is asked about, too. */
      ask: Maybe(NonEmpty),
      agentId: Maybe(NonEmpty),
      resolvedPath: Maybe(Path),
      sessionKey: Maybe(SessionKey),
      /** 120,000 if it is not said; more than 300,000 is 300,000. */
      timeoutMs: Type.Optional(Type.Integer({ minimum: 1 })),
    }),
    result: Type.Object({
      id: NonEmpty,
      decision: Decided,
      createdAtMs: Type.Integer(),
      expiresAtMs: Type.Integer(),
      reason: Reason,
    }),
  }),
  'exec.approval.resolve': method({
    summary:
      'Decides a request: allow-once, allow-always (this command, of this agent, in this session) or deny. The first decision counts.',
    scope: 'operator.approvals',
    bySession: true,
    unknown: 'refused',
    audited: true,
    unlisted: true,
    params: Type.Object({ id: NonEmpty, decision: NonEmpty }),
    result: Type.Object({ ok: Type.Literal(true) }),
  }),
  'exec.approval.list': method({
    summary: 'The requests that wait for a decision, the oldest first.',
    scope: 'operator.approvals',
    bySession: true,
    unknown: 'ignored',
    unlisted: true,
    params: Type.Object({}),
    result: Type.Array(PendingApproval),
  }),
  'exec.approvals.get': method({
    summary: 'What may be run without a question, with the hash that exec.approvals.set asks for.',
    scope: 'operator.admin',
    unknown: 'ignored',
    params: Type.Object({}),
    result: Kept,
  }),
  'exec.approvals.set': method({
    summary: 'Replaces what may be run without a question, if it is still what was read.',
    scope: 'operator.admin',
    unknown: 'refused',
    audited: true,
    params: Type.Object({
      file: ExecApprovals,
      /** The hash of what is replaced; needed once something was kept. */
      baseHash: Type.Optional(NonEmpty),
    }),
    result: Kept,
  }),
  'exec.approvals.node.get': method({
    summary:
      'What a node may run without a question, as the node itself says: it is asked by `system.execApprovals.get`.',
    scope: 'operator.admin',
    unknown: 'ignored',
    params: Type.Object({ nodeId: NonEmpty }),
    result: Anything,
  }),
  'exec.approvals.node.set': method({
    summary: 'Have a node replace what it may run without a question: it is asked by `system.execApprovals.set`.',
    scope: 'operator.admin',
    unknown: 'refused',
    audited: true,
    params: Type.Object({ nodeId: NonEmpty, file: ExecApprovals, baseHash: Type.Optional(NonEmpty) }),
    result: Anything,
  }),
}

export const approvalEvents = {
  'exec.approval.requested': event({
    summary: 'A command waits for a decision until `expiresAtMs`.',
    scope: 'operator.approvals',
    // An approver that misses one without knowing would keep an agent waiting.
    delivery: 'kept',
    payload: PendingApproval,
  }),
  'exec.approval.resolved': event({
    summary:
      'A request is over before its time: somebody decided, or (null) its requester has gone, or (deny, with a `reason`) the gateway failed. Nothing is said when the time is up.',
    scope: 'operator.approvals',
    delivery: 'kept',
    payload: Type.Object({
      id: NonEmpty,
      decision: Decided,
      resolvedBy: OrNull(Type.String()),
      reason: Reason,
      ts: Type.Integer(),
    }),
  }),
}

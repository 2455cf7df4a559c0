/** The agents and their models; runs addressed to an agent rather than typed into a chat. */
import { Type } from 'typebox'
import { method } from './block.ts'
import { Anything, IdempotencyKey, Milliseconds, NonEmpty, Open, Said, SessionKey, Short, Thinking } from './shapes.ts'

const WorkspaceFile = {
  name: Type.String(),
  path: Type.String(),
  missing: Type.Boolean(),
  /** Bytes. */
  size: Type.Optional(Type.Integer()),
  updatedAtMs: Type.Optional(Type.Number()),
}
const SaidBefore = Type.Object(
  { role: Type.Union([Type.Literal('user'), Type.Literal('assistant')]), text: Said },
  { additionalProperties: false },
)
const ofWorkspace = { agentId: Type.String(), workspace: Type.String() }

export const agents = {
  agent: method({
    summary: 'Give an agent a turn. Answered twice under one id: `accepted` once it is on disk, then the result.',
    scope: 'operator.write',
    bySession: true,
    unknown: 'refused',
    params: Type.Object({
      message: Said,
      agentId: Type.Optional(NonEmpty),
      sessionKey: Type.Optional(SessionKey),
      sessionId: Type.Optional(NonEmpty),
      thinking: Type.Optional(Thinking),
      attachments: Type.Optional(Type.Array(Anything, { maxItems: 16 })),
      /** What was said before it elsewhere: the beginning of a session that has none. At most 1 MiB. */
      earlier: Type.Optional(Type.Array(SaidBefore, { maxItems: 1000 })),
      /** Seconds; 0 = no deadline. */
      timeout: Type.Optional(Type.Integer({ minimum: 0 })),
      extraSystemPrompt: Type.Optional(Type.String({ maxLength: 64 * 1024 })),
      idempotencyKey: IdempotencyKey,
      label: Type.Optional(Type.String({ minLength: 1, maxLength: 64 })),
      spawnedBy: Type.Optional(Short),
      deliver: Type.Optional(Type.Boolean()),
      to: Type.Optional(Short),
      channel: Type.Optional(Short),
    }),
    meaningless: [
      'replyTo',
      'replyChannel',
      'accountId',
      'replyAccountId',
      'threadId',
      'groupId',
      'groupChannel',
      'groupSpace',
      'lane',
      'bestEffortDeliver',
      'cleanupBundleMcpOnRunEnd',
      'promptMode',
      'bootstrapContextMode',
      'bootstrapContextRunKind',
      'inputProvenance',
      'voiceWakeTrigger',
      'provider',
      'model',
    ],
    result: Type.Object(
      {
        runId: Type.String(),
        status: Type.String(),
        summary: Type.Optional(Type.String()),
        result: Type.Optional(Anything),
      },
      { additionalProperties: true },
    ),
  }),
  'agent.wait': method({
    summary: 'Wait until a run has ended, 30 s unless told otherwise.',
    scope: 'operator.write',
    bySession: true,
    unknown: 'ignored',
    params: Type.Object({ runId: NonEmpty, timeoutMs: Type.Optional(Milliseconds) }),
    result: Type.Object({
      runId: Type.String(),
      status: Type.Union([Type.Literal('ok'), Type.Literal('error'), Type.Literal('timeout')]),
      startedAt: Type.Optional(Type.Number()),
      endedAt: Type.Optional(Type.Number()),
      error: Type.Optional(Type.String()),
    }),
  }),
  'agent.result': method({
    summary:
      'What a run came to, or `accepted` while it has not ended; of another agent than `agentId` there is none. HTTP asks it for messages that it answered with 202.',
    scope: 'operator.read',
    bySession: true,
    unknown: 'ignored',
    unlisted: true,
    params: Type.Object({ runId: NonEmpty, agentId: Type.Optional(NonEmpty) }),
    result: Type.Object({
      runId: Type.String(),
      agentId: Type.String(),
      sessionKey: Type.String(),
      status: Type.Union([Type.Literal('accepted'), Type.Literal('ok')]),
      text: Type.Optional(Type.String()),
    }),
  }),
  'agent.identity.get': method({
    summary: 'The name and the sign an agent goes by.',
    scope: 'operator.read',
    unknown: 'ignored',
    params: Type.Object({ agentId: Type.Optional(NonEmpty), sessionKey: Type.Optional(SessionKey) }),
    result: Type.Object({ agentId: Type.String(), name: Type.String(), avatar: Type.String() }),
  }),
  'agents.list': method({
    summary: 'All agents.',
    scope: 'operator.read',
    unknown: 'ignored',
    params: Type.Object({}),
    result: Type.Object({
      defaultId: Type.String(),
      mainKey: Type.String(),
      scope: Type.String(),
      agents: Type.Array(
        Type.Object({ id: Type.String(), name: Type.Optional(Type.String()), identity: Type.Optional(Open) }),
      ),
    }),
  }),
  'agents.status': method({
    summary: 'What each agent is doing, and whether it can be reached.',
    scope: 'operator.read',
    unknown: 'ignored',
    params: Type.Object({}),
    result: Type.Object({
      agents: Type.Array(
        Type.Object({
          id: Type.String(),
          name: Type.String(),
          reachable: Type.Boolean(),
          /** Runs under way. */
          running: Type.Integer(),
          /** Turns that wait for theirs. */
          waiting: Type.Integer(),
          /** Why its last run failed; absent when that went well, or there was none since the gateway was started. */
          lastError: Type.Optional(Type.String()),
          /** The model that is asked first. */
          model: Type.Optional(Type.String()),
          /** In place of a model: the node that answers, by its id or name where one is named. */
          connector: Type.Optional(Type.Object({ node: Type.Optional(Type.String()) })),
          /** The agents for which it answers now. */
          standingInFor: Type.Array(Type.String()),
          /** Who answers for it now. */
          replacedBy: Type.Optional(Type.String()),
        }),
      ),
    }),
  }),
  'models.list': method({
    summary: 'All models that are configured.',
    scope: 'operator.read',
    unknown: 'ignored',
    params: Type.Object({}),
    result: Type.Object({ models: Type.Array(Open) }),
  }),
}

/** The files of an agent's workspace that are about the agent. */
export const agentFiles = {
  'agents.files.list': method({
    summary: 'The files of an agent that make its prompt, or that it keeps for itself.',
    scope: 'operator.admin',
    unknown: 'ignored',
    params: Type.Object({ agentId: NonEmpty }),
    result: Type.Object({ ...ofWorkspace, files: Type.Array(Type.Object(WorkspaceFile)) }),
  }),
  'agents.files.get': method({
    summary: 'One of these files, with its text.',
    scope: 'operator.admin',
    unknown: 'ignored',
    params: Type.Object({ agentId: NonEmpty, name: NonEmpty }),
    result: Type.Object({
      ...ofWorkspace,
      file: Type.Object({ ...WorkspaceFile, content: Type.Optional(Type.String()) }),
    }),
  }),
  'agents.files.set': method({
    summary:
      'Replace one of these files, or make it; at most 1 MiB. What makes the prompt is used from the next turn on.',
    scope: 'operator.admin',
    unknown: 'refused',
    audited: true,
    params: Type.Object({ agentId: NonEmpty, name: NonEmpty, content: Type.String({ maxLength: 1_048_576 }) }),
    result: Type.Object({
      ok: Type.Literal(true),
      ...ofWorkspace,
      file: Type.Object({ ...WorkspaceFile, content: Type.String() }),
    }),
  }),
}

/** The agents and their models; runs addressed to an agent rather than typed into a chat. */
import { Type } from 'typebox'
import { method } from './block.ts'
import { Anything, IdempotencyKey, Milliseconds, NonEmpty, Open, Said, SessionKey, Short, Thinking } from './shapes.ts'

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
  'models.list': method({
    summary: 'All models that are configured.',
    scope: 'operator.read',
    unknown: 'ignored',
    params: Type.Object({}),
    result: Type.Object({ models: Type.Array(Open) }),
  }),
}

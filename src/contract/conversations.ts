/** Protocol 4: a session as something one follows and speaks in. */
import { Type } from 'typebox'
import { event, method } from './block.ts'
import { chat } from './chat.ts'
import { AttachmentInput, IdempotencyKey, Message, Milliseconds, NonEmpty, SessionKey, Thinking } from './shapes.ts'

const Addressed = { key: SessionKey, agentId: Type.Optional(NonEmpty) }
const Turn = Type.Object({
  ...Addressed,
  message: Type.String(),
  thinking: Type.Optional(Thinking),
  attachments: Type.Optional(Type.Array(AttachmentInput, { maxItems: 16 })),
  timeoutMs: Type.Optional(Milliseconds),
  /** One of the gateway's own, unless it is given. */
  idempotencyKey: Type.Optional(IdempotencyKey),
})
const Followed = Type.Object({ subscribed: Type.Boolean(), key: Type.String() })

export const conversations = {
  'sessions.messages.subscribe': method({
    summary: 'Hear `session.message` of one session, until the connection ends; of 64 at the most.',
    scope: 'operator.read',
    bySession: true,
    unknown: 'ignored',
    params: Type.Object(Addressed),
    result: Followed,
  }),
  'sessions.messages.unsubscribe': method({
    summary: 'Hear it no more.',
    scope: 'operator.read',
    bySession: true,
    unknown: 'ignored',
    params: Type.Object(Addressed),
    result: Followed,
  }),
  'sessions.send': method({
    summary: 'What `chat.send` does, by the name and with the members that protocol 4 has besides.',
    scope: 'operator.write',
    bySession: true,
    unknown: 'refused',
    params: Turn,
    result: chat['chat.send'].result,
  }),
  'sessions.steer': method({
    summary: 'The same for a message that joins what is under way (`queueMode: "steer"`).',
    scope: 'operator.write',
    bySession: true,
    unknown: 'refused',
    params: Turn,
    result: chat['chat.send'].result,
  }),
  'sessions.abort': method({
    summary: 'Stop a run, which may be named alone, or all of a session.',
    scope: 'operator.write',
    bySession: true,
    unknown: 'refused',
    params: Type.Object({
      key: Type.Optional(SessionKey),
      runId: Type.Optional(NonEmpty),
      agentId: Type.Optional(NonEmpty),
    }),
    meaningless: ['clearQueued'],
    result: Type.Object({
      ok: Type.Literal(true),
      abortedRunId: Type.Union([Type.String(), Type.Null()]),
      status: Type.Union([Type.Literal('aborted'), Type.Literal('no-active-run')]),
    }),
  }),
}

const OfSession = { sessionKey: Type.String(), agentId: Type.String(), runId: Type.Optional(Type.String()) }

export const conversationEvents = {
  'sessions.changed': event({
    summary:
      'Something became of a session: `reason` send, patch, reset, compact or delete; or `phase` start, end or error of a run, or message when something was put into it. To those who called `sessions.subscribe`.',
    scope: 'operator.read',
    delivery: 'droppable',
    payload: Type.Object({
      ...OfSession,
      reason: Type.Optional(Type.String()),
      phase: Type.Optional(Type.String()),
      sessionId: Type.Optional(Type.String()),
      updatedAt: Type.Optional(Type.Number()),
      ts: Type.Number(),
    }),
  }),
  'session.message': event({
    summary:
      'An entry that is in the transcript of a session now, as `chat.history` has it; a picture is left out. To those who called `sessions.messages.subscribe`.',
    scope: 'operator.read',
    delivery: 'kept',
    payload: Type.Object({ ...OfSession, sessionId: Type.String(), message: Message, ts: Type.Number() }),
  }),
}

/** The mailboxes of the agents: messages that agents sent them, and what became of each. */
import { Type } from 'typebox'
import { event, method } from './block.ts'
import { NonEmpty } from './shapes.ts'

const STATES = ['delivered', 'started', 'replied', 'failed', 'expired'] as const

const From = Type.Object({ agentId: Type.String(), sessionKey: Type.String(), runId: Type.String() })
const To = Type.Object({ agentId: Type.String(), sessionKey: Type.String() })

const report = {
  /** Also the id of the run that it becomes. */
  messageId: Type.String(),
  state: Type.Enum([...STATES]),
  from: From,
  to: To,
  /** Whether its sender is to hear an answer. */
  reply: Type.Union([Type.Literal('once'), Type.Literal('none')]),
  /** Whether its sender has heard it, or is going to: it is on disk with what tells it. */
  heard: Type.Boolean(),
  chainId: Type.String(),
  hop: Type.Integer(),
  path: Type.Array(Type.String()),
  acceptedAt: Type.Number(),
  expiresAt: Type.Optional(Type.Number()),
  startedAt: Type.Optional(Type.Number()),
  endedAt: Type.Optional(Type.Number()),
  /** Why it has failed or expired. */
  error: Type.Optional(Type.String()),
}

export const messages = {
  'messages.list': method({
    summary:
      'The newest messages that agents sent to an agent, or to any; 50 unless told otherwise. With a state: those of the newest 500 that are in it.',
    scope: 'operator.read',
    unknown: 'ignored',
    params: Type.Object({
      agentId: Type.Optional(NonEmpty),
      state: Type.Optional(Type.Enum([...STATES])),
      limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 500 })),
    }),
    result: Type.Object({ messages: Type.Array(Type.Object(report)) }),
  }),
  'messages.get': method({
    summary: 'A message, what it says, and, once it is replied, the answer.',
    scope: 'operator.read',
    unknown: 'ignored',
    params: Type.Object({ messageId: NonEmpty }),
    result: Type.Object({ ...report, message: Type.String(), answer: Type.Optional(Type.String()) }),
  }),
}

export const messageEvents = {
  'agent.message': event({
    summary:
      'A message between agents is in another state; `answered`: its sender has the answer. For connections with the cap `stream-offsets`. It is of two sessions, and in the stream of neither: who comes back asks `messages.list`.',
    scope: 'operator.read',
    delivery: 'kept',
    payload: Type.Object({
      messageId: Type.String(),
      chainId: Type.String(),
      from: From,
      to: To,
      hop: Type.Integer(),
      path: Type.Array(Type.String()),
      state: Type.Enum([...STATES, 'answered']),
      ts: Type.Number(),
    }),
  }),
}

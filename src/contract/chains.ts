/** What came of a request: the messages that followed from it, from agent to agent. */
import { Type } from 'typebox'
import { method } from './block.ts'
import { Anything, NonEmpty } from './shapes.ts'

const Totals = Type.Object({
  messages: Type.Integer(),
  tokens: Type.Integer(),
  /** In the currency of the configured prices. */
  cost: Type.Number(),
  /** Messages that follow from one another, the longest line of them. */
  hops: Type.Integer(),
})

const Node = Type.Object({
  runId: Type.String(),
  /** The same, of a message. */
  messageId: Type.Optional(Type.String()),
  /** The message whose answer this turn brings back. */
  answers: Type.Optional(Type.String()),
  agentId: Type.String(),
  sessionKey: Type.String(),
  from: Type.Optional(Type.Object({ agentId: Type.String(), sessionKey: Type.String(), runId: Type.String() })),
  hop: Type.Integer(),
  path: Type.Array(Type.String()),
  /** Of a message: `delivered`, `started`, `replied`, `failed`, `expired`; else the state of the run. */
  state: Type.String(),
  acceptedAt: Type.Number(),
  startedAt: Type.Optional(Type.Number()),
  endedAt: Type.Optional(Type.Number()),
  tokens: Type.Integer(),
  cost: Type.Number(),
  /** Nodes like this one. */
  children: Type.Array(Anything),
})

export const chains = {
  'chains.get': method({
    summary:
      'The tree of a chain, by its id or by one of its runs: the request, the messages that followed from it, and the turns that brought answers back, with what each used. At most 1,000 nodes, the oldest; the totals are of all. What has been forgotten is no part of it.',
    scope: 'operator.read',
    unknown: 'ignored',
    params: Type.Object({ chainId: Type.Optional(NonEmpty), runId: Type.Optional(NonEmpty) }),
    result: Type.Object({
      chainId: Type.String(),
      /** The request; several nodes where it, or what led to them, is forgotten. */
      tree: Type.Array(Node),
      /** Nodes in the tree, and whether there are more. */
      nodes: Type.Integer(),
      truncated: Type.Boolean(),
      totals: Totals,
    }),
  }),
  'chains.list': method({
    summary:
      'The newest chains that have messages, as far as the newest 500 messages tell of them; 20 unless told otherwise.',
    scope: 'operator.read',
    unknown: 'ignored',
    params: Type.Object({ limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 50 })) }),
    result: Type.Object({
      chains: Type.Array(
        Type.Object({
          chainId: Type.String(),
          /** Who was asked first. */
          agentId: Type.String(),
          /** Of the request, and its first 200 characters; absent when it is forgotten. */
          sessionKey: Type.Optional(Type.String()),
          message: Type.Optional(Type.String()),
          acceptedAt: Type.Number(),
          /** When the newest of it was accepted. */
          newestAt: Type.Number(),
          /** Whether something of it has not ended. */
          isOpen: Type.Boolean(),
          totals: Totals,
        }),
      ),
    }),
  }),
}

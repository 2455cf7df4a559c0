/** Nodes: machines that do what they are asked, and connectors, which are agents. */
import { type Static, Type } from 'typebox'
import { event, method } from './block.ts'
import { Anything, IdempotencyKey, Milliseconds, NonEmpty, Open } from './shapes.ts'

const Names = Type.Array(Type.String())
const Text = Type.Optional(Type.String())

const Node = {
  /** The id of its device. */
  nodeId: Type.String(),
  /** The name it was paired under; without one, what it calls itself. */
  displayName: Text,
  platform: Text,
  version: Text,
  deviceFamily: Text,
  modelIdentifier: Text,
  caps: Names,
  /** What it said at its connect that it does. */
  commands: Names,
  connectedAtMs: Type.Optional(Milliseconds),
  paired: Type.Boolean(),
  connected: Type.Boolean(),
}
const NodeRow = Type.Object(Node)
export type NodeRow = Static<typeof NodeRow>

const NodeError = Type.Object({ code: Type.Optional(NonEmpty), message: Type.Optional(Type.String({ minLength: 1 })) })

/** Something that JSON cannot hold in a frame, or that a client has as text anyway. */
const PayloadJson = Type.Optional(Type.String())

export const nodes = {
  'node.list': method({
    summary: 'The nodes: those that are connected, and those that are only paired.',
    scope: 'operator.read',
    unknown: 'ignored',
    params: Type.Object({}),
    result: Type.Object({ ts: Milliseconds, nodes: Type.Array(NodeRow) }),
  }),
  'node.describe': method({
    summary: 'One node.',
    scope: 'operator.read',
    unknown: 'ignored',
    params: Type.Object({ nodeId: NonEmpty }),
    result: Type.Object({ ts: Milliseconds, ...Node }),
  }),
  'node.invoke': method({
    summary:
      'Have a node do one of the commands that it named at its connect, and wait for what comes of it. `system.run`, `system.which` and `system.execApprovals.*` need `operator.admin`. Asked again under its key within five minutes, it is not done again.',
    scope: 'operator.write',
    unknown: 'refused',
    audited: true,
    params: Type.Object({
      nodeId: NonEmpty,
      command: NonEmpty,
      params: Type.Optional(Anything),
      /** 30,000 if it is not said, or 0; more than 600,000 is 600,000. */
      timeoutMs: Type.Optional(Milliseconds),
      idempotencyKey: IdempotencyKey,
    }),
    result: Type.Object({
      ok: Type.Literal(true),
      nodeId: Type.String(),
      command: Type.String(),
      payload: Type.Optional(Anything),
      payloadJSON: Type.Union([Type.String(), Type.Null()]),
    }),
  }),
  'node.rename': method({
    summary:
      'Give a paired node another name. An agent whose connector is not named by device id is answered by the node that is paired under its name: this is for administrators and for who came by a credential that was given out by hand.',
    scope: 'operator.pairing',
    unknown: 'refused',
    audited: true,
    params: Type.Object({ nodeId: NonEmpty, displayName: Type.String({ minLength: 1, maxLength: 128 }) }),
    result: Type.Object({ nodeId: Type.String(), displayName: Type.String() }),
  }),

  'node.invoke.result': method({
    summary: 'What came of something this node was asked to do.',
    role: 'node',
    unknown: 'refused',
    params: Type.Object({
      id: NonEmpty,
      nodeId: NonEmpty,
      ok: Type.Boolean(),
      payload: Type.Optional(Anything),
      payloadJSON: PayloadJson,
      error: Type.Optional(NodeError),
    }),
    result: Type.Object({
      ok: Type.Literal(true),
      /** It is over already: nobody waits for it. */
      ignored: Type.Optional(Type.Literal(true)),
    }),
  }),
  'node.event': method({
    summary:
      'Something a node has to say: `agent.delta` {id, offset, text} and `agent.reasoning` {id, text} of an answer under way, `chat.subscribe` and `chat.unsubscribe` {sessionKey} to hear a session or no more. `offset` counts the UTF-16 units of the answer before `text`.',
    role: 'node',
    unknown: 'refused',
    params: Type.Object({ event: NonEmpty, payload: Type.Optional(Anything), payloadJSON: PayloadJson }),
    result: Type.Union([
      Type.Object({ ok: Type.Literal(true), ignored: Type.Optional(Type.Literal(true)) }),
      /** Protocol 4: `handled: false` says what `ignored: true` says in protocol 3. */
      Type.Object({
        ok: Type.Literal(true),
        event: Type.String(),
        handled: Type.Boolean(),
        reason: Type.Optional(Type.String()),
      }),
    ]),
  }),
  'skills.bins': method({
    summary: 'The programs that the skills of this gateway call: it has no skills, so there are none.',
    role: 'node',
    unknown: 'ignored',
    params: Type.Object({}),
    result: Type.Object({ bins: Names }),
  }),
  'tools.invoke': method({
    summary:
      'Call a tool for an answer that this node is writing, as a model would. Answers when the tool is done; asked again under its `callId`, it is not called again.',
    role: 'node',
    unknown: 'refused',
    params: Type.Object({
      /** Of the invoke that the answer is for. */
      id: NonEmpty,
      /** Of this call, unique within the answer. */
      callId: NonEmpty,
      name: NonEmpty,
      arguments: Open,
    }),
    result: Type.Object({ text: Type.String(), isError: Type.Boolean() }),
  }),
}

/** The payload of `agent.delta`, which has an offset, and of `agent.reasoning`. */
export const AgentPiece = Type.Object({
  id: NonEmpty,
  offset: Type.Optional(Type.Integer({ minimum: 0 })),
  text: Type.String(),
})
export type AgentPiece = Static<typeof AgentPiece>
/** The payload of `chat.subscribe` and `chat.unsubscribe`. */
export const SessionNamed = Type.Object({ sessionKey: Type.String({ minLength: 1, maxLength: 512 }) })
export type SessionNamed = Static<typeof SessionNamed>

export const nodeEvents = {
  'node.invoke.request': event({
    summary:
      'The node is asked to do something; it answers with `node.invoke.result`. The same id again: it was away meanwhile, and goes on with what it was doing.',
    scope: 'node',
    delivery: 'kept',
    payload: Type.Object({
      id: Type.String(),
      nodeId: Type.String(),
      command: Type.String(),
      /** For `agent.run`: runId, sessionKey, agentId, message, messages, system, thinking, tools, `received`, the UTF-16 units of the answer that have arrived, and `called`, how many tools were called for it: whoever knows of neither does not begin it anew. */
      paramsJSON: Type.Optional(Type.String()),
      /** 0 = as long as it takes. */
      timeoutMs: Milliseconds,
      idempotencyKey: Type.String(),
    }),
  }),
  'node.invoke.cancel': event({
    summary: 'The node need not go on with something it was asked to do.',
    scope: 'node',
    delivery: 'kept',
    payload: Type.Object({ id: Type.String(), reason: Type.String() }),
  }),
}

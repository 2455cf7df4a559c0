/** The gateway itself: how it is, who is there, what it logs, how it is set. */
import { Type } from 'typebox'
import { event, method } from './block.ts'
import { Open, Short } from './shapes.ts'

const Name = Type.Optional(Short)
const Names = Type.Optional(Type.Array(Short, { maxItems: 64 }))

export const system = {
  health: method({
    summary: 'How the gateway is: agents, sessions, storage.',
    scope: 'operator.read',
    unknown: 'ignored',
    params: Type.Object({ probe: Type.Optional(Type.Boolean()) }),
    result: Open,
  }),
  status: method({
    summary: 'What the gateway is doing: recent sessions by agent, tokens used.',
    scope: 'operator.read',
    unknown: 'ignored',
    params: Type.Object({}),
    result: Open,
  }),
  'system-presence': method({
    summary: 'Who is connected, and who was in the last five minutes.',
    scope: 'operator.read',
    unknown: 'ignored',
    params: Type.Object({}),
    result: Type.Array(Open),
  }),
  'system-event': method({
    summary:
      'Say how a machine is, which is listed in the presence for five minutes; or, with a text that does not begin with `Node:`, something that the default agent reads in its main session with its next turn.',
    scope: 'operator.admin',
    unknown: 'refused',
    audited: true,
    params: Type.Object({
      text: Type.String({ maxLength: 4096 }),
      deviceId: Name,
      instanceId: Name,
      host: Name,
      ip: Name,
      mode: Name,
      version: Name,
      platform: Name,
      deviceFamily: Name,
      modelIdentifier: Name,
      lastInputSeconds: Type.Optional(Type.Number()),
      reason: Name,
      roles: Names,
      scopes: Names,
      tags: Names,
    }),
    result: Type.Object({ ok: Type.Literal(true) }),
  }),
  'logs.tail': method({
    summary:
      'The newest lines of the log, or those after a cursor: JSON records, with their words in `1`, level and time in `_meta`.',
    scope: 'operator.read',
    unknown: 'ignored',
    isLarge: true,
    params: Type.Object({
      cursor: Type.Optional(Type.Integer({ minimum: 0 })),
      limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 5000 })),
      maxBytes: Type.Optional(Type.Integer({ minimum: 1, maximum: 1_000_000 })),
    }),
    result: Type.Object({
      file: Type.String(),
      cursor: Type.Integer(),
      size: Type.Integer(),
      lines: Type.Array(Type.String()),
      truncated: Type.Boolean(),
      reset: Type.Boolean(),
    }),
  }),
  'audit.entries': method({
    summary: 'Who was let in or refused, and who changed the gateway or decided for others; the newest first.',
    scope: 'operator.admin',
    unknown: 'ignored',
    unlisted: true,
    isLarge: true,
    params: Type.Object({
      kind: Type.Optional(Type.Union([Type.Literal('connect'), Type.Literal('call')])),
      limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 2_000 })),
    }),
    result: Type.Object({ entries: Type.Array(Open) }),
  }),
}

export const systemEvents = {
  'connect.challenge': event({
    summary: 'The first frame of every connection: the nonce that a device signs.',
    scope: 'everyone',
    delivery: 'kept',
    payload: Type.Object({ nonce: Type.String(), ts: Type.Integer() }),
  }),
  tick: event({
    summary: 'A sign of life, every `policy.tickIntervalMs`.',
    scope: 'everyone',
    delivery: 'droppable',
    payload: Type.Object({ ts: Type.Integer() }),
  }),
  shutdown: event({
    summary: 'The gateway is about to stop.',
    scope: 'everyone',
    delivery: 'kept',
    payload: Type.Object({
      reason: Type.String(),
      /** Null in protocol 3, absent in 4, when it is not known. */
      restartExpectedMs: Type.Optional(Type.Union([Type.Integer(), Type.Null()])),
    }),
  }),
  health: event({
    summary: 'The same as the method `health`, every minute.',
    scope: 'operator.read',
    delivery: 'droppable',
    payload: Open,
  }),
  presence: event({
    summary: 'Somebody left, or said where they are.',
    scope: 'operator.read',
    delivery: 'droppable',
    payload: Type.Object({ presence: Type.Array(Open) }),
  }),
}

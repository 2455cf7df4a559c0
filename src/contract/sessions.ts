/** The sessions of all agents: list, look into, set, begin anew, remove. */
import { Type } from 'typebox'
import { method } from './block.ts'
import { Clearable, Message, NonEmpty, Open, SessionKey } from './shapes.ts'

const Entry = Type.Object({ sessionId: Type.String(), updatedAt: Type.Number() }, { additionalProperties: true })
const Label = Type.String({ minLength: 1, maxLength: 64 })

/** Which sessions are listed. */
const Wanted = Type.Object({
  limit: Type.Optional(Type.Integer({ minimum: 1 })),
  activeMinutes: Type.Optional(Type.Integer({ minimum: 1 })),
  includeDerivedTitles: Type.Optional(Type.Boolean()),
  includeLastMessage: Type.Optional(Type.Boolean()),
  label: Type.Optional(Label),
  spawnedBy: Type.Optional(NonEmpty),
  agentId: Type.Optional(NonEmpty),
  search: Type.Optional(Type.String({ maxLength: 256 })),
})
const Found = Type.Object({
  ts: Type.Number(),
  path: Type.String(),
  count: Type.Integer(),
  defaults: Open,
  sessions: Type.Array(Open),
})

export const sessions = {
  'sessions.list': method({
    summary: 'Sessions, the last touched first.',
    scope: 'operator.read',
    bySession: true,
    unknown: 'ignored',
    isLarge: true,
    params: Wanted,
    result: Found,
  }),
  'sessions.subscribe': method({
    summary:
      'Hear `sessions.changed` of all sessions that this connection reaches, until it ends (protocol 4). With parameters it also answers what `sessions.list` does.',
    scope: 'operator.read',
    bySession: true,
    unknown: 'ignored',
    isLarge: true,
    params: Wanted,
    result: Type.Object({ subscribed: Type.Literal(true), list: Type.Optional(Found) }),
  }),
  'sessions.digest': method({
    summary: 'Which sessions there are, and how much has been said in them. HTTP answers `/api/sessions` with it.',
    scope: 'operator.read',
    bySession: true,
    unknown: 'ignored',
    unlisted: true,
    params: Type.Object({}),
    result: Type.Object({
      sessions: Type.Array(
        Type.Object({
          /** The key. */
          sessionId: Type.String(),
          agentId: Type.String(),
          /** Milliseconds since 1970. */
          lastActivity: Type.Number(),
          /** Entries of the present transcript. */
          messageCount: Type.Integer(),
        }),
      ),
    }),
  }),
  'sessions.preview': method({
    summary: 'The last few entries of several sessions, the first 64 of those asked for, as short text.',
    scope: 'operator.read',
    unknown: 'ignored',
    isLarge: true,
    params: Type.Object({
      keys: Type.Array(SessionKey, { minItems: 1 }),
      limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 200 })),
      maxChars: Type.Optional(Type.Integer({ minimum: 20, maximum: 4000 })),
    }),
    result: Type.Object({ ts: Type.Number(), previews: Type.Array(Open) }),
  }),
  'sessions.describe': method({
    summary: 'One session as `sessions.list` has it, or null (protocol 4).',
    scope: 'operator.read',
    bySession: true,
    unknown: 'ignored',
    params: Type.Object({
      key: SessionKey,
      agentId: Type.Optional(NonEmpty),
      includeDerivedTitles: Type.Optional(Type.Boolean()),
      includeLastMessage: Type.Optional(Type.Boolean()),
    }),
    result: Type.Object({ session: Type.Union([Open, Type.Null()]) }),
  }),
  'sessions.get': method({
    summary: 'The newest entries of a session, 200 unless told otherwise, as many as fit in 6 MiB (protocol 4).',
    scope: 'operator.read',
    bySession: true,
    unknown: 'ignored',
    isLarge: true,
    params: Type.Object({
      key: SessionKey,
      agentId: Type.Optional(NonEmpty),
      limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000 })),
    }),
    result: Type.Object({ messages: Type.Array(Message) }),
  }),
  'sessions.create': method({
    summary:
      'Have a session before anything is said in it; one that is there stays as it is. Without a key it is given one (protocol 4).',
    scope: 'operator.write',
    bySession: true,
    unknown: 'refused',
    params: Type.Object({
      key: Type.Optional(SessionKey),
      agentId: Type.Optional(NonEmpty),
      label: Type.Optional(Label),
    }),
    meaningless: [
      ...['parentSessionKey', 'succeedsParent', 'emitCommandHooks', 'displayName', 'category', 'visibility'],
      'spawnDepth',
    ],
    result: Type.Object({
      ok: Type.Literal(true),
      key: Type.String(),
      sessionId: Type.String(),
      entry: Entry,
      runStarted: Type.Literal(false),
    }),
  }),
  'sessions.resolve': method({
    summary: 'The canonical key of a session, found by key, id or label.',
    scope: 'operator.admin',
    unknown: 'ignored',
    unlisted: true,
    params: Type.Object({
      key: Type.Optional(SessionKey),
      sessionId: Type.Optional(NonEmpty),
      label: Type.Optional(Label),
      agentId: Type.Optional(NonEmpty),
      spawnedBy: Type.Optional(NonEmpty),
    }),
    result: Type.Object({
      ok: Type.Literal(true),
      key: Type.String(),
      /** Protocol 4: whose session it is. */
      agentId: Type.Optional(Type.String()),
    }),
  }),
  'sessions.patch': method({
    summary: 'Set or clear (null) settings of a session.',
    scope: 'operator.admin',
    unknown: 'refused',
    audited: true,
    params: Type.Object({
      key: SessionKey,
      agentId: Type.Optional(NonEmpty),
      label: Clearable(Label),
      thinkingLevel: Clearable(NonEmpty),
      verboseLevel: Clearable(NonEmpty),
      reasoningLevel: Clearable(NonEmpty),
      responseUsage: Clearable(Type.Union(['off', 'tokens', 'full', 'on'].map((level) => Type.Literal(level)))),
      elevatedLevel: Clearable(NonEmpty),
      execHost: Clearable(NonEmpty),
      execSecurity: Clearable(NonEmpty),
      execAsk: Clearable(NonEmpty),
      execNode: Clearable(NonEmpty),
      model: Clearable(NonEmpty),
      spawnedBy: Clearable(NonEmpty),
      sendPolicy: Clearable(Type.Union([Type.Literal('allow'), Type.Literal('deny')])),
      groupActivation: Clearable(Type.Union([Type.Literal('mention'), Type.Literal('always')])),
    }),
    meaningless: [
      'icon',
      'color',
      'category',
      'boardFace',
      'statusNote',
      'attention',
      'ttlMinutes',
      'archived',
      'pinned',
      'unread',
      'contextWindow',
      'fastMode',
      'traceLevel',
    ],
    result: Type.Object({
      ok: Type.Literal(true),
      path: Type.String(),
      key: Type.String(),
      entry: Entry,
      resolved: Open,
    }),
  }),
  'sessions.reset': method({
    summary: 'Begin a new transcript, keeping the settings. Stops what runs.',
    scope: 'operator.admin',
    unknown: 'refused',
    audited: true,
    params: Type.Object({ key: SessionKey, agentId: Type.Optional(NonEmpty) }),
    meaningless: ['reason'],
    result: Type.Object({ ok: Type.Literal(true), key: Type.String(), entry: Entry }),
  }),
  'sessions.compact': method({
    summary:
      'Leave the newest entries of a transcript, 400 unless told otherwise; those before them are set aside, as a reset does with all. An agent reads no more of a session than is left.',
    scope: 'operator.admin',
    unknown: 'refused',
    audited: true,
    params: Type.Object({
      key: SessionKey,
      agentId: Type.Optional(NonEmpty),
      maxLines: Type.Optional(Type.Integer({ minimum: 1, maximum: 1_000_000 })),
    }),
    result: Type.Object({
      ok: Type.Literal(true),
      key: Type.String(),
      compacted: Type.Boolean(),
      /** The id of the transcript that what was set aside is in. */
      archived: Type.Optional(Type.String()),
      /** Entries that are left. */
      kept: Type.Optional(Type.Integer()),
      reason: Type.Optional(Type.String()),
    }),
  }),
  'sessions.delete': method({
    summary: 'Remove a session and its transcript. Stops what runs.',
    scope: 'operator.admin',
    unknown: 'refused',
    audited: true,
    params: Type.Object({
      key: SessionKey,
      agentId: Type.Optional(NonEmpty),
      deleteTranscript: Type.Optional(Type.Boolean()),
    }),
    meaningless: ['emitLifecycleHooks'],
    result: Type.Object({
      ok: Type.Literal(true),
      key: Type.String(),
      deleted: Type.Boolean(),
      archived: Type.Array(Type.String()),
    }),
  }),
}

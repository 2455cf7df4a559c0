/** Talking to a session: `chat.*`, and the events an answer arrives in. */
import { Type } from 'typebox'
import { event, method } from './block.ts'
import { QUEUE_MODES } from './queue-mode.ts'
import {
  Anything,
  AttachmentInput,
  IdempotencyKey,
  Message,
  Milliseconds,
  NonEmpty,
  Open,
  Said,
  SessionKey,
  Thinking,
} from './shapes.ts'

export const chat = {
  'chat.send': method({
    summary:
      'Give a session a turn. Answered once the turn is on disk; the reply streams as `agent` and `chat` events.',
    scope: 'operator.write',
    bySession: true,
    unknown: 'refused',
    params: Type.Object({
      sessionKey: SessionKey,
      message: Type.String(),
      thinking: Type.Optional(Thinking),
      deliver: Type.Optional(Type.Boolean()),
      attachments: Type.Optional(Type.Array(AttachmentInput, { maxItems: 16 })),
      timeoutMs: Type.Optional(Milliseconds),
      idempotencyKey: IdempotencyKey,
      /** What becomes of it when a run is under way; else as `/queue` or the configuration says. */
      queueMode: Type.Optional(Type.Enum([...QUEUE_MODES])),
      /** Kept with the turn, at most 16 KiB of JSON; without effect here. */
      context: Type.Optional(Anything),
      agentId: Type.Optional(NonEmpty),
    }),
    meaningless: [
      'sessionId',
      'intent',
      'fastMode',
      'fastAutoOnSeconds',
      'originatingChannel',
      'originatingTo',
      'originatingAccountId',
      'originatingThreadId',
      'replyToId',
      'toolBindings',
      'systemInputProvenance',
      'systemProvenanceReceipt',
      'suppressCommandInterpretation',
      'channel',
      'to',
    ],
    result: Type.Union([
      Type.Object({
        runId: Type.String(),
        /** `started` (a new turn), `in_flight` (this key is running), `ok` (this key has ended). */
        status: Type.Union([Type.Literal('started'), Type.Literal('in_flight'), Type.Literal('ok')]),
      }),
      /** The answer to a stop word. */
      Type.Object({ ok: Type.Literal(true), aborted: Type.Boolean(), runIds: Type.Array(Type.String()) }),
    ]),
  }),

  'chat.abort': method({
    summary: 'Stop one run of a session, or all of them.',
    scope: 'operator.write',
    bySession: true,
    unknown: 'refused',
    params: Type.Object({
      sessionKey: SessionKey,
      runId: Type.Optional(NonEmpty),
      agentId: Type.Optional(NonEmpty),
    }),
    meaningless: ['preserveSideRuns'],
    result: Type.Object({ ok: Type.Literal(true), aborted: Type.Boolean(), runIds: Type.Array(Type.String()) }),
  }),

  'chat.history': method({
    summary: 'The newest entries of a session, oldest first, as many as fit in 6 MiB.',
    scope: 'operator.read',
    bySession: true,
    unknown: 'ignored',
    isLarge: true,
    params: Type.Object({
      sessionKey: SessionKey,
      limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000 })),
      agentId: Type.Optional(NonEmpty),
    }),
    result: Type.Object({
      /** As it was sent. */
      sessionKey: Type.String(),
      sessionId: Type.Optional(Type.String()),
      messages: Type.Array(Message),
      thinkingLevel: Type.String(),
      verboseLevel: Type.Optional(Type.String()),
    }),
  }),

  'chat.resume': method({
    summary:
      'Everything said in a session after a position, once and in order, joined to what is said from then on; or a snapshot to draw from, and why.',
    scope: 'operator.read',
    bySession: true,
    unknown: 'ignored',
    isLarge: true,
    params: Type.Object({
      sessionKey: SessionKey,
      /** The position of the last event seen: `payload.epoch` and `payload.offset`. Without it, a snapshot is answered. */
      epoch: Type.Optional(NonEmpty),
      offset: Type.Optional(Type.Integer({ minimum: 0 })),
      /** Runs whose state and text the snapshot is to hold, besides those under way. */
      runIds: Type.Optional(Type.Array(NonEmpty, { maxItems: 64 })),
      agentId: Type.Optional(NonEmpty),
    }),
    result: Type.Union([
      Type.Object({
        recovered: Type.Literal(true),
        epoch: Type.String(),
        /** Of the last of `events`. What came live before this answer is among them; what has a later offset follows. */
        offset: Type.Integer(),
        events: Type.Array(Type.Object({ event: Type.String(), payload: Open })),
      }),
      Type.Object({
        recovered: Type.Literal(false),
        /** Events with later offsets than this follow as events. */
        epoch: Type.String(),
        offset: Type.Integer(),
        reason: Type.Union([
          Type.Literal('no_position'),
          Type.Literal('epoch_changed'),
          Type.Literal('too_old'),
          Type.Literal('too_large'),
        ]),
        snapshot: Type.Object({
          sessionId: Type.Optional(Type.String()),
          /** The newest entries, as `chat.history` answers them. */
          messages: Type.Array(Message),
          /** Under way, or asked for: `state` is `admitted`, `started`, or how it ended; `text` is what has been said of it. */
          runs: Type.Array(
            Type.Object({
              runId: Type.String(),
              state: Type.String(),
              text: Type.String(),
              error: Type.Optional(Type.String()),
              stopReason: Type.Optional(Type.String()),
              /** The run that answered it with its own. */
              absorbedBy: Type.Optional(Type.String()),
            }),
          ),
        }),
      }),
    ]),
  }),

  'commands.list': method({
    summary: 'The commands that a message may be in place of something said (protocol 4).',
    scope: 'operator.read',
    unknown: 'ignored',
    params: Type.Object({
      scope: Type.Optional(Type.Union([Type.Literal('text'), Type.Literal('native'), Type.Literal('both')])),
      includeArgs: Type.Optional(Type.Boolean()),
    }),
    result: Type.Object({
      commands: Type.Array(
        Type.Object({
          name: Type.String(),
          textAliases: Type.Array(Type.String()),
          description: Type.String(),
          source: Type.Literal('native'),
          scope: Type.Literal('text'),
          acceptsArgs: Type.Boolean(),
          args: Type.Optional(
            Type.Array(Type.Object({ name: Type.String(), description: Type.String(), type: Type.Literal('string') })),
          ),
        }),
      ),
    }),
  }),

  'chat.inject': method({
    summary: 'Put an entry of the assistant into a session without a run.',
    scope: 'operator.admin',
    unknown: 'refused',
    audited: true,
    unlisted: true,
    params: Type.Object({
      sessionKey: SessionKey,
      message: Said,
      label: Type.Optional(Type.String({ maxLength: 100 })),
      agentId: Type.Optional(NonEmpty),
    }),
    result: Type.Object({ ok: Type.Literal(true), messageId: Type.String() }),
  }),
}

const ToRun = {
  /** Where the event stands in its session's stream; only for connections with the capability `stream-offsets`. */
  epoch: Type.Optional(Type.String()),
  offset: Type.Optional(Type.Integer()),
  /**
   * On a piece of text that waited for a slow reader: the first offset it stands for, `offset` being the last. It may tell what
   * has a later offset, too: if that comes again after a resume, its `seq` is not above the last one heard of this text.
   */
  from: Type.Optional(Type.Integer()),
  runId: Type.String(),
  sessionKey: Type.String(),
  agentId: Type.Optional(Type.String()),
  seq: Type.Integer(),
}

export const chatEvents = {
  agent: event({
    summary:
      'What a run does: `lifecycle` (data.phase start, end, error), `assistant` (data.delta, data.text), `reasoning`. `seq` counts from 1 in each run. Connections with the capability `stream-offsets` also hear `queue`, with `seq` 0: data.place is the number of runs of the session that come before it (0: it waits for room among all sessions), data.absorbedBy the run that answers it with its own.',
    scope: 'operator.read',
    delivery: 'kept',
    payload: Type.Object({
      ...ToRun,
      stream: Type.String(),
      data: Type.Object({}, { additionalProperties: true }),
      ts: Type.Number(),
    }),
  }),
  chat: event({
    summary: 'The answer as a whole: `delta` now and then, then exactly one of `final`, `aborted`, `error`.',
    scope: 'operator.read',
    delivery: 'kept',
    payload: Type.Object({
      ...ToRun,
      state: Type.Union([Type.Literal('delta'), Type.Literal('final'), Type.Literal('aborted'), Type.Literal('error')]),
      message: Type.Optional(Message),
      /** Protocol 4: what a delta adds to the one before. */
      deltaText: Type.Optional(Type.String()),
      stopReason: Type.Optional(Type.String()),
      errorMessage: Type.Optional(Type.String()),
      /** Protocol 4: whose words `errorMessage` are. */
      errorDetail: Type.Optional(
        Type.Object({
          provider: Type.Optional(Type.String()),
          model: Type.Optional(Type.String()),
          httpStatus: Type.Optional(Type.Integer()),
        }),
      ),
    }),
  }),
}

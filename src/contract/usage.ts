/** What models were used for, and what that cost, by the prices in the configuration. */
import { Type } from 'typebox'
import { method } from './block.ts'
import { Open, SessionKey } from './shapes.ts'

/** At most as many as are remembered. */
const Days = Type.Integer({ minimum: 1, maximum: 400 })
const Day = Type.String({ pattern: '^[0-9]{4}-[0-9]{2}-[0-9]{2}$' })

const sums = {
  input: Type.Integer(),
  output: Type.Integer(),
  cacheRead: Type.Integer(),
  cacheWrite: Type.Integer(),
  totalTokens: Type.Integer(),
  totalCost: Type.Number(),
  inputCost: Type.Number(),
  outputCost: Type.Number(),
  cacheReadCost: Type.Number(),
  cacheWriteCost: Type.Number(),
  /** How often a model was used by a run that has no price: what is missing from the costs. */
  missingCostEntries: Type.Integer(),
}
const Sums = Type.Object(sums)
const OfModel = Type.Object({ provider: Type.String(), model: Type.String(), count: Type.Integer(), totals: Sums })
const OfDay = Type.Object({ date: Type.String(), tokens: Type.Integer(), cost: Type.Number() })

/** How many entries of transcripts are what. */
const messageCounts = {
  total: Type.Integer(),
  user: Type.Integer(),
  assistant: Type.Integer(),
  toolCalls: Type.Integer(),
  toolResults: Type.Integer(),
  errors: Type.Integer(),
}
const MessageCounts = Type.Object(messageCounts)
const ToolUsage = Type.Object({
  totalCalls: Type.Integer(),
  uniqueTools: Type.Integer(),
  tools: Type.Array(Type.Object({ name: Type.String(), count: Type.Integer() })),
})

export const usage = {
  'usage.status': method({
    summary: 'The quotas that providers tell of; the interfaces of models that are served here tell of none.',
    scope: 'operator.read',
    unknown: 'ignored',
    params: Type.Object({}),
    result: Type.Object({ updatedAt: Type.Number(), providers: Type.Array(Open) }),
  }),
  'usage.cost': method({
    summary:
      'Tokens and cost of each UTC day in which something was used, from so many days ago (30 unless told otherwise) to today; or from one day to another.',
    scope: 'operator.read',
    unknown: 'ignored',
    params: Type.Object({
      days: Type.Optional(Days),
      startDate: Type.Optional(Day),
      endDate: Type.Optional(Day),
    }),
    result: Type.Object({
      updatedAt: Type.Number(),
      /** Days looked at, the first and the last included. */
      days: Type.Integer(),
      daily: Type.Array(Type.Object({ date: Type.String(), ...sums })),
      totals: Sums,
    }),
  }),
  'usage.by': method({
    summary:
      'Tokens and cost by agent, session, model, day or chain, from so many days ago (30 unless told otherwise) to today; the largest first, days in their order, 100 unless told otherwise. Chains: of the newest 50 that have messages those with one in that time, with what their runs used as far as they are still known.',
    scope: 'operator.read',
    unknown: 'ignored',
    params: Type.Object({
      by: Type.Enum(['agent', 'session', 'model', 'day', 'chain']),
      days: Type.Optional(Days),
      limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000 })),
    }),
    result: Type.Object({
      updatedAt: Type.Number(),
      by: Type.String(),
      startDate: Type.String(),
      endDate: Type.String(),
      rows: Type.Array(
        Type.Object({
          /** Id of the agent, key of the session, `provider/model`, `YYYY-MM-DD`, or id of the chain. */
          key: Type.String(),
          /** How often a model was used by a run. */
          count: Type.Integer(),
          ...sums,
        }),
      ),
      /** Of all rows, also of those beyond the limit. */
      totals: Sums,
    }),
  }),
  'sessions.usage': method({
    summary:
      'Tokens and cost of sessions, by day and model; the last 30 days, and the 50 sessions that used most, unless told otherwise. Of the 50 that used most, the newest entries of the transcript are counted (10,000 of them, or 2 MiB): what was said, and which tools were called.',
    // The reference gateway counts whatever it does not name as administration, and lists it not.
    scope: 'operator.admin',
    unlisted: true,
    unknown: 'ignored',
    isLarge: true,
    params: Type.Object({
      key: Type.Optional(SessionKey),
      startDate: Type.Optional(Day),
      endDate: Type.Optional(Day),
      limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000 })),
      includeContextWeight: Type.Optional(Type.Boolean()),
    }),
    result: Type.Object({
      updatedAt: Type.Number(),
      startDate: Type.String(),
      endDate: Type.String(),
      sessions: Type.Array(
        Type.Object({
          key: Type.String(),
          agentId: Type.String(),
          /** Absent, like the next two, when the session is gone: what it used is remembered. */
          sessionId: Type.Optional(Type.String()),
          label: Type.Optional(Type.String()),
          updatedAt: Type.Optional(Type.Number()),
          usage: Type.Object({
            ...sums,
            daily: Type.Array(OfDay),
            models: Type.Array(OfModel),
            /** The same again, in the words of the reference gateway. */
            dailyBreakdown: Type.Array(OfDay),
            activityDates: Type.Array(Type.String()),
            modelUsage: Type.Array(OfModel),
            /** Of the entries that are counted: when the first and the last of them came, in ms, and what lies between. */
            firstActivity: Type.Optional(Type.Number()),
            lastActivity: Type.Optional(Type.Number()),
            durationMs: Type.Optional(Type.Number()),
            messageCounts: Type.Optional(MessageCounts),
            dailyMessageCounts: Type.Optional(Type.Array(Type.Object({ date: Type.String(), ...messageCounts }))),
            toolUsage: Type.Optional(ToolUsage),
          }),
          /** What the last answer and what it was asked with came to; absent when that is not known. */
          contextTokens: Type.Optional(Type.Integer()),
          /** What a prompt is made of is not told. */
          contextWeight: Type.Optional(Type.Null()),
        }),
      ),
      /** Of all sessions, also of those beyond the limit. */
      totals: Sums,
      aggregates: Type.Object({
        messages: MessageCounts,
        tools: ToolUsage,
        byProvider: Type.Array(Type.Object({ provider: Type.String(), count: Type.Integer(), totals: Sums })),
        /** There are no channels. */
        byChannel: Type.Array(Open),
        byAgent: Type.Array(Type.Object({ agentId: Type.String(), totals: Sums })),
        byModel: Type.Array(OfModel),
        /** With the messages that are counted. */
        daily: Type.Array(
          Type.Object({
            date: Type.String(),
            tokens: Type.Integer(),
            cost: Type.Number(),
            messages: Type.Integer(),
            toolCalls: Type.Integer(),
            errors: Type.Integer(),
          }),
        ),
      }),
    }),
  }),
  'sessions.usage.timeseries': method({
    summary:
      'What the answers of a session used, one after the other, and all together up to each; 200 points at the most.',
    scope: 'operator.admin',
    unlisted: true,
    unknown: 'ignored',
    isLarge: true,
    params: Type.Object({ key: SessionKey }),
    result: Type.Object({
      sessionId: Type.String(),
      points: Type.Array(
        Type.Object({
          timestamp: Type.Number(),
          input: Type.Integer(),
          output: Type.Integer(),
          cacheRead: Type.Integer(),
          cacheWrite: Type.Integer(),
          totalTokens: Type.Integer(),
          cost: Type.Number(),
          cumulativeTokens: Type.Integer(),
          cumulativeCost: Type.Number(),
        }),
      ),
    }),
  }),
  'sessions.usage.logs': method({
    summary: 'The newest entries of a session in a few lines each, 200 unless told otherwise, and what each used.',
    scope: 'operator.admin',
    unlisted: true,
    unknown: 'ignored',
    isLarge: true,
    params: Type.Object({ key: SessionKey, limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000 })) }),
    result: Type.Object({
      logs: Type.Array(
        Type.Object({
          timestamp: Type.Number(),
          role: Type.String(),
          content: Type.String(),
          tokens: Type.Optional(Type.Integer()),
          cost: Type.Optional(Type.Number()),
        }),
      ),
    }),
  }),
}

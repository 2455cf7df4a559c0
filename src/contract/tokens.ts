/** Named tokens: credentials that are worth less than the shared one, and may end by themselves. */
import { Type } from 'typebox'
import { method, OPERATOR_SCOPES } from './block.ts'
import { Milliseconds } from './shapes.ts'

const TokenName = Type.String({ minLength: 1, maxLength: 128 })
const ScopeName = Type.Enum([...OPERATOR_SCOPES])
/** A session key; `*` stands for any characters: `agent:main:*`. */
const SessionPattern = Type.String({ minLength: 1, maxLength: 512 })

const NamedToken = Type.Object({
  id: Type.String(),
  name: Type.String(),
  scopes: Type.Array(Type.String()),
  /** The only sessions it can reach; absent = all. */
  sessions: Type.Optional(Type.Array(Type.String())),
  createdAtMs: Milliseconds,
  expiresAtMs: Type.Optional(Milliseconds),
  revokedAtMs: Type.Optional(Milliseconds),
  status: Type.Union([Type.Literal('valid'), Type.Literal('expired'), Type.Literal('revoked')]),
})

export const tokens = {
  'tokens.create': method({
    summary: 'Make a named token with these scopes and no others. Its text is told here once, and kept nowhere.',
    scope: 'operator.admin',
    unknown: 'refused',
    audited: true,
    unlisted: true,
    params: Type.Object({
      name: TokenName,
      scopes: Type.Array(ScopeName, { maxItems: OPERATOR_SCOPES.length }),
      /**
       * The only sessions it can reach: it may call what says so, and is told of no others. Not with `operator.admin` or
       * `operator.pairing`, which reach beyond any session.
       */
      sessions: Type.Optional(Type.Array(SessionPattern, { minItems: 1, maxItems: 64 })),
      /** Milliseconds since 1970; absent = it does not end by itself. */
      expiresAt: Type.Optional(Milliseconds),
    }),
    result: Type.Object({ ...NamedToken.properties, token: Type.String() }),
  }),
  'tokens.list': method({
    summary: 'The named tokens, the newest first, those that have ended among them; never their text.',
    scope: 'operator.admin',
    unknown: 'ignored',
    unlisted: true,
    params: Type.Object({}),
    result: Type.Object({ tokens: Type.Array(NamedToken) }),
  }),
  'tokens.revoke': method({
    summary:
      'End a named token. Its connections are closed within a second. Of what it has sent, runs that have begun go on to their end; what waits ends `aborted` with the stopReason `revoked`.',
    scope: 'operator.admin',
    unknown: 'refused',
    audited: true,
    unlisted: true,
    params: Type.Object({ id: Type.String({ minLength: 1, maxLength: 64 }) }),
    result: Type.Object({ id: Type.String(), revokedAtMs: Milliseconds }),
  }),
}

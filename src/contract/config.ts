/** The configuration file, as far as clients may see and write it: `config.*`. */
import { Type } from 'typebox'
import { method } from './block.ts'
import { NonEmpty, Open, SessionKey } from './shapes.ts'
import { LONGEST_TIMER_MS } from './timer.ts'

const Written = Type.Object({
  ok: Type.Literal(true),
  path: Type.String(),
  /** As it is now, without its secrets. */
  config: Open,
  /** For the next change. */
  hash: Type.String(),
  /** What was written is used from the next start on. `scheduled`: the gateway starts anew by itself, after so many ms. */
  restart: Type.Object({ scheduled: Type.Boolean(), delayMs: Type.Optional(Type.Integer()) }),
})

/** JSON5 text of at most 256 Ki characters: reading and hiding one takes about a second, and everybody waits meanwhile. */
const Raw = Type.String({ minLength: 1, maxLength: 262_144 })
const change = {
  raw: Raw,
  /** `hash` of the file that the change is meant for. */
  baseHash: Type.Optional(NonEmpty),
}
const andRestart = {
  ...change,
  /** One restart is scheduled at a time: the answer says when it comes. */
  restartDelayMs: Type.Optional(Type.Integer({ minimum: 0, maximum: LONGEST_TIMER_MS })),
  /** Said in the log. */
  note: Type.Optional(Type.String({ maxLength: 1000 })),
  sessionKey: Type.Optional(SessionKey),
}

export const config = {
  'config.get': method({
    summary: 'The configuration as it stands in its file, without its secrets.',
    // The reference asks admin for this: a configuration tells an attacker what to try.
    scope: 'operator.admin',
    unknown: 'ignored',
    params: Type.Object({}),
    result: Open,
  }),
  'config.schema': method({
    summary: 'What a configuration may hold, as a JSON Schema.',
    scope: 'operator.admin',
    unknown: 'ignored',
    params: Type.Object({}),
    result: Open,
  }),
  'config.set': method({
    summary:
      'Replace the text of the configuration. Only with `commands.config: true` in the file, and never by one that lets more people in or more out.',
    scope: 'operator.admin',
    unknown: 'refused',
    audited: true,
    params: Type.Object(change),
    result: Written,
  }),
  'config.patch': method({
    summary:
      'Apply a merge patch (RFC 7396) to the configuration, whose comments stay; then restart, if `commands.restart: true`. Refused like `config.set`.',
    scope: 'operator.admin',
    unknown: 'refused',
    audited: true,
    params: Type.Object(andRestart),
    result: Written,
  }),
  'config.apply': method({
    summary:
      'Replace the text of the configuration; then restart, if `commands.restart: true`. Refused like `config.set`.',
    scope: 'operator.admin',
    unknown: 'refused',
    audited: true,
    params: Type.Object(andRestart),
    result: Written,
  }),
}

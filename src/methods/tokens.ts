/** Named tokens: made, listed and ended by administrators. */
import type { Tokens } from '../auth/tokens.ts'
import type { Handlers } from '../broker/dispatch.ts'
import type { Log } from '../broker/log.ts'
import type { tokens as contract } from '../contract/tokens.ts'

export interface TokensNeeds {
  tokens: Tokens
  log: Pick<Log, 'info'>
}

export function tokenMethods({ tokens, log }: TokensNeeds): Handlers<typeof contract> {
  return {
    async 'tokens.create'({ name, scopes, sessions, expiresAt }, { principal }) {
      const { token, text } = await tokens.create(
        { name, scopes, ...(sessions && { sessions }), ...(expiresAt !== undefined && { expiresAtMs: expiresAt }) },
        principal,
      )
      log.info({ ...token, principal }, 'a named token was made')
      return { ...token, token: text.reveal() }
    },
    'tokens.list': () => ({ tokens: tokens.list() }),
    async 'tokens.revoke'({ id }, { principal }) {
      const revoked = await tokens.revoke(id)
      log.info({ id, principal }, 'a named token was revoked')
      return revoked
    },
  }
}

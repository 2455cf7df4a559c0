/** Named tokens: made, listed and ended by administrators. */
import type { Tokens } from '../auth/tokens.ts'
import type { Handlers } from '../broker/dispatch.ts'
import type { tokens as contract } from '../contract/tokens.ts'

export interface TokensNeeds {
  tokens: Tokens
}

export function tokenMethods({ tokens }: TokensNeeds): Handlers<typeof contract> {
  return {
    async 'tokens.create'({ name, scopes, sessions, expiresAt }, { principal }) {
      const { token, text } = await tokens.create(
        { name, scopes, ...(sessions && { sessions }), ...(expiresAt !== undefined && { expiresAtMs: expiresAt }) },
        principal,
      )
      return { ...token, token: text.reveal() }
    },
    'tokens.list': () => ({ tokens: tokens.list() }),
    'tokens.revoke': ({ id }) => tokens.revoke(id),
  }
}

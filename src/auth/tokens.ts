/** Named tokens: narrower than the shared one, listed by name, ended by hand or by the clock. */
import type { Secret } from '../config/secret.ts'
import type { Scope } from '../contract/block.ts'
import { GatewayError } from '../contract/errors.ts'
import type { Json, Store } from '../stores/store.ts'
import type { OnRevoked } from './devices.ts'
import { isNamedToken, tokenPrincipal } from './principals.ts'
import { fitsHash, makeToken, readTokenText, type TokenText } from './token-text.ts'

/** Tokens that are kept, those that have ended among them: the oldest of those make room. */
const MOST_TOKENS = 1_000

interface TokenRecord {
  id: string
  name: string
  scopes: Scope[]
  sessions?: string[]
  createdAtMs: number
  expiresAtMs?: number
  revokedAtMs?: number
  /** Of the secret, which is kept nowhere. */
  hash: string
}

type NamedToken = Omit<TokenRecord, 'hash'> & { status: TokenStatus }
type TokenStatus = 'valid' | 'expired' | 'revoked'

/** What a text given as a token came to. */
type TokenCheck =
  /** Not one of these: it may be the shared token, or a device's. */
  | { kind: 'other'; form: Exclude<TokenText['form'], 'whole'> | 'node' }
  /** One of these by its form, and none that there is. */
  | { kind: 'unknown' }
  | { kind: 'known'; token: NamedToken }

export interface NewToken {
  name: string
  scopes: readonly Scope[]
  sessions?: readonly string[]
  expiresAtMs?: number
}

export interface Tokens {
  /** Makes a token for a principal; durable when it resolves. @throws GatewayError TOKEN_TOO_WIDE, INVALID_PARAMS, TOO_MANY_TOKENS */
  create(token: NewToken, by: string): Promise<{ token: NamedToken; text: Secret }>
  /** The newest first. */
  list(): NamedToken[]
  /** Ends a token; durable when it resolves, and its sockets are closed then. Again, it stays as it was. @throws GatewayError UNKNOWN_TOKEN */
  revoke(id: string): Promise<{ id: string; revokedAtMs: number }>
  check(text: string): TokenCheck
  /** Closes the sockets of tokens that have expired since the last call. To be called each second. */
  sweep(): void
}

export interface TokensNeeds {
  store: Pick<Store, 'list' | 'put' | 'remove'>
  /** The wall clock: an end is a date. */
  now(): number
  onRevoked: OnRevoked
}

/** Opens the tokens of a store. */
export async function openTokens({ store, now, onRevoked }: TokensNeeds): Promise<Tokens> {
  const records = new Map((await store.list('token')).map(({ id, value }) => [id, value as unknown as TokenRecord]))
  /** The expired ones whose sockets were closed. */
  const swept = new Set<string>()
  let last: Promise<unknown> = Promise.resolve()

  /** One change after the other: each sees what the one before it has left on the disk. */
  function inTurn<T>(change: () => Promise<T>): Promise<T> {
    const changed = last.then(change)
    last = changed.catch(() => {})
    return changed
  }

  const isOver = ({ expiresAtMs }: TokenRecord) => expiresAtMs !== undefined && now() >= expiresAtMs
  const statusOf = (record: TokenRecord): TokenStatus =>
    record.revokedAtMs !== undefined ? 'revoked' : isOver(record) ? 'expired' : 'valid'

  function shown(record: TokenRecord): NamedToken {
    const { hash: _, ...rest } = record
    return { ...rest, status: statusOf(record) }
  }

  async function keep(record: TokenRecord): Promise<void> {
    await store.put('token', record.id, record as unknown as Json)
    records.set(record.id, record)
  }

  async function makeRoom(): Promise<void> {
    if (records.size < MOST_TOKENS) return
    const oldest = [...records.values()]
      .filter((record) => statusOf(record) !== 'valid')
      .sort((a, b) => a.createdAtMs - b.createdAtMs)[0]
    if (!oldest) throw new GatewayError('TOO_MANY_TOKENS', `there are ${MOST_TOKENS} valid tokens; revoke some first`)
    await store.remove('token', oldest.id)
    records.delete(oldest.id)
    swept.delete(oldest.id)
  }

  return {
    async create({ name, scopes, sessions, expiresAtMs }, by) {
      // What a named token makes would be there when its own time is over.
      if (isNamedToken(by)) throw new GatewayError('TOKEN_TOO_WIDE', 'a named token makes no others')
      if (expiresAtMs !== undefined && expiresAtMs <= now())
        throw new GatewayError('INVALID_PARAMS', 'invalid tokens.create params: at /expiresAt: is in the past')
      const beyond = sessions && scopes.find((scope) => scope === 'operator.admin' || scope === 'operator.pairing')
      if (beyond)
        throw new GatewayError(
          'TOKEN_TOO_WIDE',
          `a token for some sessions cannot hold ${beyond}: with that it could make itself one for all`,
        )
      return inTurn(async () => {
        await makeRoom()
        const { id, hash, text } = makeToken('named')
        const record: TokenRecord = {
          id,
          name,
          scopes: [...new Set(scopes)],
          ...(sessions && { sessions: [...sessions] }),
          createdAtMs: now(),
          ...(expiresAtMs !== undefined && { expiresAtMs }),
          hash,
        }
        await keep(record)
        return { token: shown(record), text }
      })
    },
    list: () =>
      [...records.values()].map(shown).sort((a, b) => b.createdAtMs - a.createdAtMs || (a.id < b.id ? -1 : 1)),
    revoke: (id) =>
      inTurn(async () => {
        const record = records.get(id)
        if (!record) throw new GatewayError('UNKNOWN_TOKEN', 'unknown token id')
        const revokedAtMs = record.revokedAtMs ?? now()
        if (record.revokedAtMs === undefined) await keep({ ...record, revokedAtMs })
        onRevoked({ principal: tokenPrincipal(id), silences: true })
        return { id, revokedAtMs }
      }),
    check(text) {
      const read = readTokenText(text)
      if (read.form !== 'whole') return { kind: 'other', form: read.form }
      if (read.kind !== 'named') return { kind: 'other', form: 'node' }
      const record = records.get(read.id)
      return fitsHash(read.secret, record?.hash) ? { kind: 'known', token: shown(record!) } : { kind: 'unknown' }
    },
    sweep() {
      for (const [id, record] of records) {
        // A clock that was set back makes a token valid again, and what comes in by it has to go again.
        if (statusOf(record) !== 'expired') swept.delete(id)
        else if (!swept.has(id)) {
          swept.add(id)
          onRevoked({ principal: tokenPrincipal(id), silences: true })
        }
      }
    },
  }
}

/** Whether a token for some sessions reaches this one. `*` stands for any characters, the case counts for nothing. */
export function reaches(patterns: readonly string[] | undefined, sessionKey: string): boolean {
  if (patterns === undefined) return true
  const key = sessionKey.toLowerCase()
  return patterns.some((pattern) => fits(pattern.toLowerCase().split('*'), key))
}

/** Whether the parts between the stars stand in a text in this order, the first and the last at its ends. */
function fits([first = '', ...rest]: string[], text: string): boolean {
  const last = rest.pop()
  if (last === undefined) return text === first
  if (!text.startsWith(first)) return false
  let at = first.length
  for (const part of rest) {
    const found = text.indexOf(part, at)
    if (found < 0) return false
    at = found + part.length
  }
  return text.length - last.length >= at && text.endsWith(last)
}

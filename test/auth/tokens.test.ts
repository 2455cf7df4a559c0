import { describe, expect, it } from 'vitest'
import type { Revocation } from '../../src/auth/devices.ts'
import { SHARED } from '../../src/auth/principals.ts'
import { makeToken, readTokenText } from '../../src/auth/token-text.ts'
import { type NewToken, openTokens, reaches } from '../../src/auth/tokens.ts'
import { Secret } from '../../src/config/secret.ts'
import type { Scope } from '../../src/contract/block.ts'
import { openMemoryStore } from '../../src/stores/memory.ts'

const NOW = 1_800_000_000_000

async function open(store = openMemoryStore()) {
  const revoked: Revocation[] = []
  const clock = { at: NOW }
  const tokens = await openTokens({ store, now: () => clock.at, onRevoked: (revocation) => revoked.push(revocation) })
  return {
    tokens,
    store,
    clock,
    revoked,
    async make(changes: Partial<NewToken> = {}) {
      const { token, text } = await tokens.create({ name: 'a bridge', scopes: ['operator.read'], ...changes }, SHARED)
      return { ...token, text: text.reveal() }
    },
  }
}

describe('a named token', () => {
  it('says by its text what it is, and by its last digits whether it is whole', async () => {
    const { make } = await open()
    const { id, text } = await make()
    expect(text).toMatch(new RegExp(`^kur_named_${id}_[0-9a-f]{64}_[0-9a-f]{8}$`))
    for (let at = 4; at < text.length; at += 1) {
      const typo = text.slice(0, at) + (text[at] === '1' ? '2' : '1') + text.slice(at + 1)
      expect([at, readTokenText(typo).form]).toEqual([at, 'mistyped'])
    }
    for (let length = 4; length < text.length; length += 1)
      expect(readTokenText(text.slice(0, length)).form).toBe('mistyped')
    expect(readTokenText(`${text} `).form).toBe('mistyped')
  })

  it('is told from the tokens of devices and nodes, and from what people choose', () => {
    expect(readTokenText('0123456789abcdef0123456789abcdef').form).toBe('device')
    expect(readTokenText(makeToken('node').text.reveal())).toMatchObject({ form: 'whole', kind: 'node' })
    for (const text of ['', 'kur', 'a-token-for-tests-0123456789', '0123456789ABCDEF0123456789ABCDEF'])
      expect(readTokenText(text).form).toBe('other')
  })

  it('is known by its text alone, and worth what its record says', async () => {
    const { make, tokens } = await open()
    const { text, id } = await make({ scopes: ['operator.read', 'operator.read'], sessions: ['agent:main:*'] })
    expect(tokens.check(text)).toEqual({
      kind: 'known',
      token: {
        id,
        name: 'a bridge',
        scopes: ['operator.read'],
        sessions: ['agent:main:*'],
        createdAtMs: NOW,
        status: 'valid',
      },
    })
    expect(tokens.check(makeToken('named').text.reveal())).toEqual({ kind: 'unknown' })
  })

  it('is not known by the id of one and the secret of another', async () => {
    const { make, tokens } = await open()
    const [one, other] = [await make(), await make()]
    // A forger can make a checksum that fits: it keeps nobody out.
    const { createHash } = await import('node:crypto')
    const body = `kur_named_${one.id}_${other.text.split('_')[3]}`
    const sum = createHash('sha256').update(body).digest('hex').slice(0, 8)
    expect(readTokenText(`${body}_${sum}`).form).toBe('whole')
    expect(tokens.check(`${body}_${sum}`)).toEqual({ kind: 'unknown' })
  })

  it('shows its text once: it is in no list and not on disk', async () => {
    const { make, tokens, store } = await open()
    const { text } = await make()
    const secret = text.split('_')[3]!
    const kept = JSON.stringify([tokens.list(), tokens.check(text), await store.list('token')])
    expect(kept).not.toContain(secret)
    expect(String((await tokens.create({ name: 'x', scopes: [] }, SHARED)).text)).toBe(Secret.marker)
  })

  it('is remembered after a restart, with its end', async () => {
    const { make, tokens, store } = await open()
    const [kept, ended] = [await make(), await make()]
    await tokens.revoke(ended.id)
    const { tokens: again } = await open(store)
    expect(again.check(kept.text)).toMatchObject({ kind: 'known', token: { status: 'valid' } })
    expect(again.check(ended.text)).toMatchObject({ kind: 'known', token: { status: 'revoked', revokedAtMs: NOW } })
    expect(
      again
        .list()
        .map(({ id }) => id)
        .sort(),
    ).toEqual([kept.id, ended.id].sort())
  })

  it('ends by the clock, and its sockets are closed by the next sweep, once', async () => {
    const { make, tokens, clock, revoked } = await open()
    const { id, text } = await make({ expiresAtMs: NOW + 1_000 })
    const status = () => {
      const check = tokens.check(text)
      return check.kind === 'known' && check.token.status
    }
    clock.at = NOW + 999
    tokens.sweep()
    expect([status(), revoked]).toEqual(['valid', []])
    clock.at = NOW + 1_000
    expect(status()).toBe('expired')
    tokens.sweep()
    tokens.sweep()
    expect(revoked).toEqual([{ principal: `token:${id}`, silences: true }])
  })

  it('ends by hand, closes its sockets, and stays as it ended', async () => {
    const { make, tokens, clock, revoked } = await open()
    const { id } = await make()
    await tokens.revoke(id)
    clock.at += 5_000
    expect(await tokens.revoke(id)).toEqual({ id, revokedAtMs: NOW })
    expect(revoked[0]).toEqual({ principal: `token:${id}`, silences: true })
    await expect(tokens.revoke('nobody')).rejects.toMatchObject({ kind: 'UNKNOWN_TOKEN' })
  })

  it('ends once, however many end it at the same time', async () => {
    const { make, tokens, clock, store } = await open()
    const { id } = await make()
    const put = store.put
    // Time goes by with each write.
    store.put = (...record) => {
      clock.at += 1_000
      return put(...record)
    }
    const ends = await Promise.all([tokens.revoke(id), tokens.revoke(id), tokens.revoke(id)])
    expect(new Set(ends.map(({ revokedAtMs }) => revokedAtMs))).toEqual(new Set([NOW]))
    expect(tokens.list()[0]!.revokedAtMs).toBe(NOW)
  })

  it('is ended also when the disk has refused the change before', async () => {
    const { make, tokens, store } = await open()
    const { id } = await make()
    const put = store.put
    store.put = () => Promise.reject(new Error('the disk is away'))
    const refused = tokens.revoke(id)
    await expect(refused).rejects.toThrow('away')
    store.put = put
    expect(await tokens.revoke(id)).toEqual({ id, revokedAtMs: NOW })
  })

  it('is not made with an end that has been', async () => {
    const { make } = await open()
    await expect(make({ expiresAtMs: NOW })).rejects.toMatchObject({ kind: 'INVALID_PARAMS' })
  })

  it('for some sessions holds nothing that reaches beyond them', async () => {
    const { make } = await open()
    const sessions = ['agent:main:*']
    for (const scope of ['operator.admin', 'operator.pairing'] satisfies Scope[])
      await expect(make({ sessions, scopes: ['operator.read', scope] })).rejects.toMatchObject({
        kind: 'TOKEN_TOO_WIDE',
      })
    expect(await make({ sessions, scopes: ['operator.read', 'operator.write'] })).toMatchObject({ sessions })
  })

  it('makes room for others once it has ended, and not before', async () => {
    const { make, tokens } = await open()
    const first = await make()
    for (let n = 1; n < 999; n += 1) await make()
    // There is room for one more, whoever asks first.
    const last = await Promise.allSettled([make(), make(), make()])
    expect(last.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'rejected'])
    await expect(make()).rejects.toMatchObject({ kind: 'TOO_MANY_TOKENS' })
    await tokens.revoke(first.id)
    await make()
    expect(tokens.list()).toHaveLength(1_000)
    expect(tokens.check(first.text)).toEqual({ kind: 'unknown' })
  })
})

describe('the sessions a token reaches', () => {
  it.for([
    { pattern: 'agent:main:main', yes: ['agent:main:main', 'AGENT:Main:main'], no: ['agent:main:main2', 'main', ''] },
    {
      pattern: 'agent:main:*',
      yes: ['agent:main:', 'agent:main:a:b'],
      no: ['agent:main', 'agent:mainly:x', 'x agent:main:y'],
    },
    { pattern: '*:notes', yes: ['agent:x:notes', ':notes'], no: ['notes', 'agent:x:notes2'] },
    { pattern: 'agent:*:notes*', yes: ['agent:a:notes', 'agent:a:b:notes!'], no: ['agent:notes', 'agent:a:note'] },
    { pattern: 'ab*ba', yes: ['abba', 'ab--ba'], no: ['aba'] },
    { pattern: 'a.c', yes: ['a.c'], no: ['abc'] },
    { pattern: '*', yes: ['', 'anything'], no: [] },
  ])('by $pattern', ({ pattern, yes, no }) => {
    expect(yes.filter((key) => !reaches([pattern], key))).toEqual([])
    expect(no.filter((key) => reaches([pattern], key))).toEqual([])
  })

  it('are all where no pattern is, and none where none fits', () => {
    expect(reaches(undefined, 'agent:main:main')).toBe(true)
    expect(reaches([], 'agent:main:main')).toBe(false)
  })
})

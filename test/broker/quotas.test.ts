import { describe, expect, it } from 'vitest'
import { createQuotas, type Share } from '../../src/broker/quotas.ts'

const LIMITS = { socketsPerPrincipal: 3, sessions: 4, liveKeys: 5 }
const DEVICE = 'd'.repeat(64)
const NAMED = 'token:ci'
const SHARED = 'token:shared'

const isShare = (taken: object): taken is Share => 'giveBack' in taken

/** How many of so many are had. */
const have = (
  quotas: ReturnType<typeof createQuotas>,
  kind: 'sockets' | 'sessions' | 'keys',
  who: string,
  tries = 100,
) => Array.from({ length: tries }, () => quotas.take(kind, who)).filter(isShare).length

describe('a principal', () => {
  it('has so much and no more, whatever the others have', () => {
    const quotas = createQuotas(LIMITS)
    for (const who of [DEVICE, NAMED, 'e'.repeat(64)])
      expect([have(quotas, 'sockets', who), have(quotas, 'sessions', who), have(quotas, 'keys', who)]).toEqual([
        3, 4, 5,
      ])
  })

  it('that is everybody with the shared token has ten times the keys, and sockets without end', () => {
    const quotas = createQuotas(LIMITS)
    expect([have(quotas, 'sockets', SHARED), have(quotas, 'sessions', SHARED), have(quotas, 'keys', SHARED)]).toEqual([
      100, 4, 50,
    ])
  })

  it('is told in words what there is no more of, and when to ask again', () => {
    const quotas = createQuotas(LIMITS)
    for (const [kind, error] of [
      ['sockets', 'SOCKET_QUOTA'],
      ['sessions', 'SESSION_QUOTA'],
      ['keys', 'DEDUPE_QUOTA'],
    ] as const) {
      const most = have(quotas, kind, DEVICE)
      expect(quotas.take(kind, DEVICE)).toEqual({
        kind: error,
        message: expect.stringContaining(`${most} `),
        retryAfterMs: expect.any(Number),
      })
    }
  })

  it('has one more when it gives one back, once', () => {
    const quotas = createQuotas(LIMITS)
    const [first] = Array.from({ length: 3 }, () => quotas.take('sockets', DEVICE))
    if (!first || !isShare(first)) throw new Error('nothing was taken')
    first.giveBack()
    first.giveBack()
    expect(have(quotas, 'sockets', DEVICE)).toBe(1)
  })

  it('has as much as it likes where the limit is 0', () => {
    const quotas = createQuotas({ socketsPerPrincipal: 0, sessions: 0, liveKeys: 0 })
    for (const kind of ['sockets', 'sessions', 'keys'] as const) expect(have(quotas, kind, DEVICE, 1_000)).toBe(1_000)
  })
})

describe('counting anew', () => {
  it('takes what the store has, and leaves nobody who is not there', async () => {
    const quotas = createQuotas(LIMITS)
    have(quotas, 'keys', DEVICE)
    have(quotas, 'keys', NAMED)
    await quotas.recount('keys', async () => [[DEVICE, 2]])
    expect([quotas.count('keys', DEVICE), quotas.count('keys', NAMED)]).toEqual([2, 0])
    expect(have(quotas, 'keys', DEVICE)).toBe(3)
  })

  it('adds what comes and goes while the store is read', async () => {
    const quotas = createQuotas(LIMITS)
    let answer = (_: [string, number][]) => {}
    const counted = quotas.recount('keys', () => new Promise((resolve) => (answer = resolve)))
    await Promise.resolve()
    const [first, second] = [quotas.take('keys', DEVICE), quotas.take('keys', DEVICE)]
    if (isShare(first)) first.giveBack()
    expect(isShare(second)).toBe(true)
    answer([[DEVICE, 3]])
    await counted
    expect(quotas.count('keys', DEVICE)).toBe(4)
    expect(have(quotas, 'keys', DEVICE)).toBe(1)
  })

  it('goes one after the other', async () => {
    const quotas = createQuotas(LIMITS)
    let under = 0
    const read = async (): Promise<[string, number][]> => {
      expect(++under).toBe(1)
      await Promise.resolve()
      under -= 1
      return [[NAMED, 1]]
    }
    await Promise.all([quotas.recount('sessions', read), quotas.recount('keys', read), quotas.recount('keys', read)])
    expect([quotas.count('sessions', NAMED), quotas.count('keys', NAMED)]).toEqual([1, 1])
  })

  it('leaves everything as it was when the store fails', async () => {
    const quotas = createQuotas(LIMITS)
    have(quotas, 'sessions', DEVICE, 2)
    const fail = async () => {
      throw new Error('the store is closed')
    }
    await expect(quotas.recount('sessions', fail)).rejects.toThrow('closed')
    expect(quotas.count('sessions', DEVICE)).toBe(2)
    await quotas.recount('sessions', async () => [[DEVICE, 1]])
    expect(quotas.count('sessions', DEVICE)).toBe(1)
  })
})

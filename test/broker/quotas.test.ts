import { describe, expect, it } from 'vitest'
import { SHARED } from '../../src/auth/principals.ts'
import { createQuota, quotasOf } from '../../src/broker/quotas.ts'

const DEVICE = 'd'.repeat(64)

/** How many of a hundred are had. */
const have = (quota: ReturnType<typeof createQuota>, who: string) =>
  Array.from({ length: 100 }, () => quota.take(who)).filter(Boolean).length

describe('a principal', () => {
  it('has so many sockets and no more, whatever the others have', () => {
    const quota = createQuota(3)
    for (const who of [DEVICE, 'token:ci', 'e'.repeat(64)]) expect(have(quota, who)).toBe(3)
  })

  it('that is everybody with the shared token has sockets without end, and ten times the keys', () => {
    expect(have(createQuota(3), SHARED)).toBe(100)
    expect(quotasOf({ socketsPerPrincipal: 3, sessions: 4, liveKeys: 5 })).toEqual({
      sessions: 4,
      keys: 5,
      keysOf: { [SHARED]: 50 },
    })
  })

  it('has so much and no more where things have sizes, and gives back what it took', () => {
    const quota = createQuota(10, 20)
    const first = quota.take(DEVICE, 7)!
    expect([quota.hasRoom(DEVICE, 3), quota.hasRoom(DEVICE, 4), quota.take(DEVICE, 4)]).toEqual([
      true,
      false,
      undefined,
    ])
    first.giveBack()
    expect(quota.take(DEVICE, 10)).toBeDefined()
    expect([quota.hasRoom(SHARED, 20), quota.hasRoom(SHARED, 21)]).toEqual([true, false])
  })

  it('has one more when it gives one back, once', () => {
    const quota = createQuota(3)
    const [first] = Array.from({ length: 3 }, () => quota.take(DEVICE))
    first!.giveBack()
    first!.giveBack()
    expect(have(quota, DEVICE)).toBe(1)
  })

  it('has as many as it likes where the limit is 0', () => expect(have(createQuota(0), DEVICE)).toBe(100))
})

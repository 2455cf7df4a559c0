import { describe, expect, it } from 'vitest'
import { openAudit } from '../../src/broker/audit.ts'
import { openMemoryStore } from '../../src/stores/memory.ts'
import { StoreError } from '../../src/stores/store.ts'
import { quiet, storeWith } from '../support/rooms.ts'

const call = (what: string) => ({ kind: 'call', ok: true, principal: 'token:shared', connId: 'c', what }) as const
const refusal = {
  kind: 'connect',
  ok: false,
  connId: 'c',
  what: 'credential wrong',
  code: 'AUTH_TOKEN_MISMATCH',
} as const
const admission = {
  kind: 'connect',
  ok: true,
  principal: 'token:shared',
  connId: 'c',
  what: 'shared, no device',
} as const

async function open(store = openMemoryStore()) {
  let ms = 0
  const audit = await openAudit({ store, log: quiet, now: () => 1_000 + ms, monotonic: () => ms })
  const pass = (by: number) => {
    ms += by
  }
  return { audit, store, pass }
}

describe('the audit', () => {
  it('lists the newest first, by kind, and knows them after a restart', async () => {
    const { audit, store, pass } = await open()
    audit.note(call('config.set'))
    pass(5)
    audit.note(refusal)
    await audit.flush()
    for (const one of [audit, (await open(store)).audit]) {
      expect(one.list({ limit: 10 })).toEqual([
        { at: 1_005, ...refusal },
        { at: 1_000, ...call('config.set') },
      ])
      expect(one.list({ limit: 10, kind: 'call' })).toHaveLength(1)
      expect(one.list({ limit: 1 })).toHaveLength(1)
    }
  })

  it('knows the order of what it noted, wherever the clock was set', async () => {
    const { audit, store, pass } = await open()
    for (const what of ['a', 'b', 'c']) {
      audit.note(call(what))
      pass(-10)
    }
    await audit.flush()
    const { audit: again } = await open(store)
    again.note(call('a'))
    expect(again.list({ limit: 10 }).map(({ what }) => what)).toEqual(['a', 'c', 'b', 'a'])
  })

  it('keeps the newest two thousand connections, and five hundred calls of a method', async () => {
    const { audit, store } = await open()
    for (let n = 0; n < 2_500; n++) audit.note({ ...admission, connId: `c${n}` })
    for (let n = 0; n < 700; n++) audit.note({ ...call('tokens.revoke'), connId: `t${n}` })
    await audit.flush()
    const { audit: again } = await open(store)
    for (const [kind, most, newest] of [
      ['connect', 2_000, 'c2499'],
      ['call', 500, 't699'],
    ] as const) {
      const list = again.list({ limit: 10_000, kind })
      expect([list.length, list[0]!.connId]).toEqual([most, newest])
    }
    expect(await store.list('audit')).toHaveLength(25)
  })

  it('forgets of one sort what makes room for more of it, and nothing of another', async () => {
    const { audit, pass } = await open()
    const rare = [call('tokens.create'), { ...call('tokens.create'), ok: false, code: 'TOKEN_TOO_WIDE' }, admission]
    for (const entry of rare) audit.note(entry)
    for (let n = 0; n < 3_000; n++) {
      audit.note(refusal)
      audit.note(call('device.token.rotate'))
      audit.note({ ...call('node.pair.reject'), connId: `${n}` })
      pass(100)
    }
    const list = audit.list({ limit: 10_000 })
    for (const entry of rare)
      expect(list.filter(({ what, ok }) => what === entry.what && ok === entry.ok)).toHaveLength(1)
  })

  it('lists no more than it is asked for', async () => {
    const { audit } = await open()
    for (let n = 0; n < 5; n++) audit.note(call('a'))
    expect([0, 3, 10].map((limit) => audit.list({ limit }).length)).toEqual([0, 3, 5])
  })

  it('notes ten refusals a second of each kind, says how many it left out, and leaves out nothing that was done', async () => {
    const { audit, pass } = await open()
    const refusedCall = { ...call('tokens.create'), ok: false, code: 'TOKEN_TOO_WIDE' }
    for (let n = 0; n < 1_000; n++) audit.note(refusal)
    for (let n = 0; n < 100; n++) audit.note(refusedCall)
    for (let n = 0; n < 50; n++) audit.note(call('tokens.create'))
    for (let n = 0; n < 50; n++) audit.note(admission)
    pass(1_000)
    for (const entry of [admission, call('tokens.create'), refusal, refusedCall, refusal]) audit.note(entry)
    const list = audit.list({ limit: 10_000 })
    const counted = (kind: string, ok: boolean) => list.filter((entry) => entry.kind === kind && entry.ok === ok)
    expect([counted('connect', false).length, counted('call', false).length]).toEqual([12, 11])
    expect([counted('connect', true).length, counted('call', true).length]).toEqual([51, 51])
    // The newest come first: those that were noted a second later.
    expect(list.slice(0, 6)).toEqual([
      { at: 2_000, ...refusal },
      { at: 2_000, ...refusedCall, skipped: 90 },
      { at: 2_000, ...refusal, skipped: 990 },
      { at: 2_000, ...call('tokens.create') },
      { at: 2_000, ...admission },
      { at: 1_000, ...admission },
    ])
    expect(list.filter(({ skipped }) => skipped !== undefined)).toHaveLength(2)
  })

  it('takes over what was kept before each sort had its place', async () => {
    const store = openMemoryStore()
    await store.put('audit', '000000000002', [{ at: 3, ...refusal }])
    await store.put('audit', '000000000001', [
      { at: 1, ...call('a') },
      { at: 2, ...admission },
    ])
    const { audit } = await open(store)
    audit.note(call('b'))
    await audit.flush()
    for (const one of [audit, (await open(store)).audit])
      expect(one.list({ limit: 10 }).map(({ what }) => what)).toEqual(['b', refusal.what, admission.what, 'a'])
  })

  it('keeps what a full disk refused, and writes it later', async () => {
    const kept = openMemoryStore()
    let full = true
    const store = storeWith(kept, {
      put: (...record) => (full ? Promise.reject(new StoreError('FULL', 'no space')) : kept.put(...record)),
    })
    const { audit } = await open(store)
    audit.note(call('a'))
    await audit.flush()
    full = false
    audit.note(call('b'))
    await audit.flush()
    expect((await open(kept)).audit.list({ limit: 10 }).map(({ what }) => what)).toEqual(['b', 'a'])
  })

  it('cuts what a client can make as long as it likes', async () => {
    const { audit } = await open()
    audit.note({ ...refusal, about: { client: 'x'.repeat(10_000) } })
    expect(audit.list({ limit: 1 })[0]!.about!['client']).toHaveLength(200)
  })
})

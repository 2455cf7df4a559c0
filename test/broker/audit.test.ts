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

  it('keeps the newest two thousand', async () => {
    const { audit, store } = await open()
    for (let n = 0; n < 2_500; n++) audit.note(call(`m${n}`))
    await audit.flush()
    const { audit: again } = await open(store)
    const list = again.list({ limit: 10_000 })
    expect([list.length, list[0]!.what, list.at(-1)!.what]).toEqual([2_000, 'm2499', 'm500'])
  })

  it('notes ten refused connections a second, says how many it left out, and leaves no call out', async () => {
    const { audit, pass } = await open()
    for (let n = 0; n < 1_000; n++) audit.note(refusal)
    for (let n = 0; n < 50; n++) audit.note(call('tokens.create'))
    pass(1_000)
    audit.note(refusal)
    const list = audit.list({ limit: 10_000 })
    expect(list.filter(({ kind }) => kind === 'connect')).toHaveLength(11)
    expect(list.filter(({ kind }) => kind === 'call')).toHaveLength(50)
    expect(list.reduce((sum, { skipped = 0 }) => sum + skipped, 0)).toBe(990)
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

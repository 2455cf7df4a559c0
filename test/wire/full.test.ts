import { describe, expect, it } from 'vitest'
import { openMemoryStore } from '../../src/stores/memory.ts'
import { type Store, StoreError } from '../../src/stores/store.ts'
import { startGateway } from '../support/gateway.ts'

/** A store on a disk that is full as long as it is told so: what writes is refused, what reads is answered. */
function openFillable(): { store: Store; disk: { isFull: boolean } } {
  const disk = { isFull: false }
  const writes = new Set<string | symbol>(['accept', 'start', 'settle', 'patchSession', 'put', 'append', 'age'])
  const store = new Proxy(openMemoryStore(), {
    get(target, name) {
      const member = Reflect.get(target, name, target)
      if (!writes.has(name)) return member
      return async (...args: unknown[]) => {
        if (disk.isFull) throw new StoreError('FULL', 'no space to write')
        return (member as (...args: unknown[]) => unknown)(...args)
      }
    },
  })
  return { store, disk }
}

describe('a full disk', () => {
  it('refuses turns, says so to who asks whether it is ready, and still serves those who read and those who come', async () => {
    const { store, disk } = openFillable()
    await using gateway = await startGateway({ store })
    const status = async (path: string) => (await fetch(`http://127.0.0.1:${gateway.port}${path}`)).status
    const peer = await gateway.connect()
    const send = () => peer.request('chat.send', { sessionKey: 'main', message: 'hello', idempotencyKey: 'k1' })
    expect(await status('/readyz')).toBe(200)
    disk.isFull = true
    const { ok, error } = await send()
    expect(ok).toBe(false)
    expect(error).toMatchObject({ code: 'UNAVAILABLE', retryable: true, details: { code: 'STORAGE_FULL' } })
    expect(error.retryAfterMs).toBeGreaterThan(0)
    expect(await status('/readyz')).toBe(503)
    expect(await status('/health')).toBe(200)
    const late = await gateway.connect()
    expect(await late.request('sessions.list', {})).toMatchObject({ ok: true })
    const health = async (probe: boolean) => (await late.request('health', { probe }))['payload']
    for (const probe of [false, true])
      expect(await health(probe)).toMatchObject({ ok: false, problem: expect.stringContaining('the disk is full') })
    disk.isFull = false
    while ((await status('/readyz')) !== 200) await new Promise((resolve) => setTimeout(resolve, 20))
    expect(await health(true)).toMatchObject({ ok: true })
    expect(await send()).toMatchObject({ ok: true, payload: { status: 'started' } })
  })
})

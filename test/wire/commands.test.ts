import { describe, expect, it } from 'vitest'
import { openMemoryStore } from '../../src/stores/memory.ts'
import { StoreError } from '../../src/stores/store.ts'
import { endOf, startGateway } from '../support/gateway.ts'
import { storeWith } from '../support/rooms.ts'

describe('a command that cannot be obeyed', () => {
  it('is answered in the chat, ends, and leaves nothing for the next process', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    const params = { sessionKey: 'main', message: '/model nobody/nothing', idempotencyKey: 'k1' }
    expect((await peer.request('chat.send', params)).payload).toMatchObject({ status: 'started' })
    const end = await peer.next(endOf('k1'))
    expect(end['payload'].message.content[0].text).toContain('nobody/nothing')
    expect((await peer.request('chat.send', params)).payload).toEqual({ runId: 'k1', status: 'ok' })
    expect(await gateway.store.unsettled()).toEqual([])
  })

  it('has failed when the store refused it, and so has each repeat', async () => {
    const kept = openMemoryStore()
    const patchSession = () => Promise.reject(new StoreError('FULL', 'no space'))
    await using gateway = await startGateway({ store: storeWith(kept, { patchSession }) })
    const peer = await gateway.connect()
    const params = { sessionKey: 'main', message: '/think high', idempotencyKey: 'k1' }
    expect(await peer.request('chat.send', params)).toMatchObject({ ok: true, payload: { status: 'started' } })
    expect((await peer.next(endOf('k1')))['payload']).toMatchObject({ state: 'error' })
    expect(await peer.request('chat.send', params)).toMatchObject({ ok: false, payload: { runId: 'k1' } })
    expect(await kept.unsettled()).toEqual([])
  })
})

describe('the answer to a command', () => {
  it('is in the snapshot of who missed it', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    await peer.request('chat.send', { sessionKey: 'main', message: '/think high', idempotencyKey: 'k1' })
    const said = (await peer.next(endOf('k1')))['payload'].message.content[0].text
    const { payload } = await peer.request('chat.resume', { sessionKey: 'main', runIds: ['k1'] })
    expect(payload.snapshot.runs).toMatchObject([{ runId: 'k1', state: 'completed', text: said }])
  })
})

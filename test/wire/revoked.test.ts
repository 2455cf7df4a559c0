/** A credential that is taken away while its turns are under way, over real sockets. */
import { describe, expect, it } from 'vitest'
import { SHARED } from '../../src/auth/principals.ts'
import { openTokens } from '../../src/auth/tokens.ts'
import type { Runtime } from '../../src/runtimes/runtime.ts'
import { openMemoryStore } from '../../src/stores/memory.ts'
import { createDevice, nonceOf } from '../support/device.ts'
import {
  CONNECT,
  endOf,
  type Frame,
  type Peer,
  startGateway,
  type TestGateway,
  type TestGatewayOptions,
} from '../support/gateway.ts'

const GONE = { code: 4001, reason: 'gateway auth changed' }
const SCOPES = ['operator.read', 'operator.write']

/** A gateway whose model says half of its first answer, and the rest when it is let; later ones come at once. */
async function open(options: TestGatewayOptions = {}) {
  const held = Promise.withResolvers<void>()
  const asked = Promise.withResolvers<void>()
  let times = 0
  const runtime: Runtime = {
    api: 'echo',
    async answer(model, _call, sink, signal) {
      times += 1
      sink.delta('half')
      asked.resolve()
      if (times === 1) await held.promise
      signal.throwIfAborted()
      sink.delta(' and whole')
      const usage = { input: 0, output: 0, cacheRead: 0, cacheWrite: 0, totalTokens: 0 }
      return { stopReason: 'stop', usage, model }
    },
  }
  const gateway = await startGateway({ runtimes: new Map([['echo', runtime]]), ...options })
  const operator = await gateway.connect()
  return { gateway, operator, begun: asked.promise, goOn: held.resolve, [Symbol.asyncDispose]: () => gateway.stop() }
}

const send = (peer: Peer, key: string) =>
  peer.request('chat.send', { sessionKey: 'main', message: `message ${key}`, idempotencyKey: key })

interface Taken {
  peer: Peer
  takeAway(operator: Peer): Promise<unknown>
}

/** Somebody by a named token. */
async function byToken(gateway: TestGateway, operator: Peer, params: object = {}): Promise<Taken> {
  const { payload } = await operator.request('tokens.create', { name: 'a bridge', scopes: SCOPES, ...params })
  const peer = await gateway.connect({ scopes: undefined, auth: { token: payload.token } })
  return { peer, takeAway: (by) => by.request('tokens.revoke', { id: payload.id }) }
}

/** Somebody by a device of their own. */
async function byDevice(
  gateway: TestGateway,
  takeAway: (by: Peer, own: { deviceId: string; role: string }) => Promise<unknown>,
): Promise<Taken> {
  const device = createDevice()
  const come = async (token?: string) => {
    const peer = await gateway.open()
    const proof = device.prove(await nonceOf(peer), { scopes: SCOPES, ...(token && { token }) })
    const auth = token ? { token } : CONNECT.auth
    const { payload } = await peer.request('connect', { ...CONNECT, scopes: SCOPES, auth, device: proof })
    return { peer, token: payload.auth.deviceToken as string }
  }
  const { peer } = await come((await come()).token)
  return { peer, takeAway: (by) => takeAway(by, { deviceId: device.id, role: 'operator' }) }
}

const WAYS: [string, (gateway: TestGateway, operator: Peer) => Promise<Taken>][] = [
  ['a named token that is revoked', byToken],
  [
    'a device whose token is revoked',
    (gateway) => byDevice(gateway, (by, own) => by.request('device.token.revoke', own)),
  ],
  [
    'a device that is removed',
    (gateway) => byDevice(gateway, (by, { deviceId }) => by.request('device.pair.remove', { deviceId })),
  ],
  [
    'a device whose token is narrowed to reading',
    (gateway) =>
      byDevice(gateway, (by, own) => by.request('device.token.rotate', { ...own, scopes: ['operator.read'] })),
  ],
]

describe('what was sent by', () => {
  it.each(WAYS)('%s goes on where it has begun, and is dropped where it waits', async (_, come) => {
    await using at = await open()
    const { gateway, operator } = at
    const { peer, takeAway } = await come(gateway, operator)
    await send(peer, 'running')
    await at.begun
    await send(peer, 'waiting')
    await send(operator, 'of another')
    expect(await takeAway(operator)).toMatchObject({ ok: true })
    expect(await peer.closed).toEqual(GONE)
    expect((await operator.next(endOf('waiting')))['payload']).toMatchObject({
      state: 'aborted',
      stopReason: 'revoked',
    })
    expect(operator.frames.some(endOf('running'))).toBe(false)
    at.goOn()
    expect((await operator.next(endOf('running')))['payload']).toMatchObject({
      state: 'final',
      message: { content: [{ text: 'half and whole' }] },
    })
    expect((await operator.next(endOf('of another')))['payload']).toMatchObject({ state: 'final' })
    const { messages } = (await operator.request('chat.history', { sessionKey: 'main' }))['payload']
    // What was dropped was never said.
    expect(messages.map(({ content }: Frame) => content[0].text)).toEqual([
      ...['message running', 'half and whole', 'message of another', 'half and whole'],
    ])
  })

  it('a named token is dropped when its time is up, too', async () => {
    let ahead = 0
    await using at = await open({ now: () => Date.now() + ahead })
    const { gateway, operator } = at
    const { peer } = await byToken(gateway, operator, { expiresAt: Date.now() + 3_600_000 })
    await send(peer, 'running')
    await at.begun
    await send(peer, 'waiting')
    ahead = 3_600_001
    expect(await peer.closed).toEqual(GONE)
    expect((await operator.next(endOf('waiting')))['payload']).toMatchObject({ stopReason: 'revoked' })
    at.goOn()
    expect((await operator.next(endOf('running')))['payload']).toMatchObject({ state: 'final' })
  })

  it('a device whose token is rotated waits on: it is still somebody who may send', async () => {
    await using at = await open()
    const { gateway, operator } = at
    const { peer, takeAway } = await byDevice(gateway, (by, own) => by.request('device.token.rotate', own))
    await send(peer, 'running')
    await at.begun
    await send(peer, 'waiting')
    expect(await takeAway(operator)).toMatchObject({ ok: true })
    at.goOn()
    expect((await operator.next(endOf('waiting')))['payload']).toMatchObject({ state: 'final' })
  })

  it('somebody who was revoked just before the process died is dropped by the next one', async () => {
    const store = openMemoryStore()
    const tokens = await openTokens({ store, now: () => Date.now(), onRevoked() {} })
    const { id } = (await tokens.create({ name: 'a bridge', scopes: ['operator.write'] }, SHARED)).token
    await tokens.revoke(id)
    const left = (key: string, principal: string) =>
      store.accept({
        ...{ runId: key, spareRunId: `${key}-spare`, principal, method: 'chat.send', sessionKey: 'agent:main:main' },
        ...{ agentId: 'main', sessionId: 's', key, fingerprint: key, message: key, attachments: [], meta: {} },
        acceptedAt: Date.now(),
      })
    await left('k1', `token:${id}`)
    await left('k2', 'token:shared')
    await left('k3', createDevice().id)
    await using gateway = await startGateway({ store })
    const operator = await gateway.connect()
    await operator.request('agent.wait', { runId: 'k2' })
    expect(await store.run('k1')).toMatchObject({ state: 'aborted', stopReason: 'revoked' })
    expect(await store.run('k2')).toMatchObject({ state: 'completed' })
    expect(await store.run('k3')).toMatchObject({ state: 'aborted', stopReason: 'revoked' })
  })
})

/** Pairing, device tokens and named tokens, over real sockets; shapes as they were recorded. */
import { describe, expect, it } from 'vitest'
import { createDevice, type Device, nonceOf, type ProofChanges } from '../support/device.ts'
import {
  CONNECT,
  type Frame,
  type Peer,
  type PeerOptions,
  startGateway,
  type TestGateway,
  TOKEN,
} from '../support/gateway.ts'

const ADMIN = ['operator.admin', 'operator.approvals', 'operator.pairing']
const AFAR: PeerOptions = { headers: { Host: 'gateway.example' } }
const PAGE: PeerOptions = { headers: { Host: 'gateway.example', Origin: 'https://gateway.example' } }
const CONFIG = { gateway: { controlUi: { allowedOrigins: ['https://gateway.example'] } } }
const GONE = { code: 4001, reason: 'gateway auth changed' }

/** Connects with the proof of a device. */
async function connect(gateway: TestGateway, device: Device, changes: ProofChanges & { peer?: PeerOptions } = {}) {
  const { token = TOKEN, role = 'operator', scopes = ADMIN } = changes
  const peer = await gateway.open(changes.peer)
  const proof = device.prove(await nonceOf(peer), { ...changes, scopes })
  const answer = await peer.request('connect', { ...CONNECT, role, scopes, auth: { token }, device: proof })
  return { peer, answer, auth: answer['payload']?.auth }
}

const hears = (peer: Peer, name: string) => peer.next(({ event }) => event === name)
/** What is heard before this answer is all there is. */
const silence = async (peer: Peer, name: string) => {
  await peer.request('device.pair.list', {})
  return peer.frames.filter(({ event }) => event === name)
}

describe('a device from afar', () => {
  it('waits to be paired while it is let in by the shared token, and has its own token once somebody approved', async () => {
    await using gateway = await startGateway()
    const operator = await gateway.connect()
    const device = createDevice()
    const first = await connect(gateway, device, { peer: AFAR, scopes: ['operator.read'] })
    expect(first.answer).toMatchObject({ ok: true })
    expect(first.auth).toBeUndefined()
    const { payload: request } = await hears(operator, 'device.pair.requested')
    expect(request).toMatchObject({ deviceId: device.id, scopes: ['operator.read'], isRepair: false })
    await connect(gateway, device, { peer: AFAR, scopes: ['operator.read'] })
    const { payload } = await operator.request('device.pair.list', {})
    expect(payload).toEqual({ pending: [{ ...request, ts: expect.any(Number) }], paired: [] })

    const { payload: approved } = await operator.request('device.pair.approve', { requestId: request.requestId })
    expect(approved).toMatchObject({
      requestId: request.requestId,
      device: { deviceId: device.id, scopes: ['operator.read'] },
    })
    expect((await hears(operator, 'device.pair.resolved'))['payload']).toMatchObject({ decision: 'approved' })
    const second = await connect(gateway, device, { peer: AFAR, scopes: ['operator.read'] })
    expect(second.auth).toMatchObject({
      scopes: ['operator.read'],
      deviceToken: expect.stringMatching(/^[0-9a-f]{32}$/),
    })
    const third = await connect(gateway, device, { peer: AFAR, token: second.auth.deviceToken })
    expect(third.auth.scopes).toEqual([])
    const fourth = await connect(gateway, device, {
      peer: AFAR,
      token: second.auth.deviceToken,
      scopes: ['operator.read'],
    })
    expect(fourth.auth.scopes).toEqual(['operator.read'])
  })

  it('is refused in a browser, with the id of its request, until somebody approves it', async () => {
    await using gateway = await startGateway({ config: CONFIG })
    const operator = await gateway.connect()
    const device = createDevice()
    const { answer, peer } = await connect(gateway, device, { peer: PAGE })
    const { payload: request } = await hears(operator, 'device.pair.requested')
    expect(answer['error']).toMatchObject({
      code: 'NOT_PAIRED',
      message: 'pairing required',
      details: { requestId: request.requestId },
    })
    expect(await peer.closed).toEqual({ code: 1008, reason: 'pairing required' })
    await operator.request('device.pair.approve', { requestId: request.requestId })
    expect((await connect(gateway, device, { peer: PAGE })).auth.scopes).toEqual(ADMIN)
  })

  it('is one behind a page of another origin, though the page is allowed and the browser is here', async () => {
    await using gateway = await startGateway({ config: CONFIG })
    const [other, own] = [createDevice(), createDevice()]
    const Host = `127.0.0.1:${gateway.port}`
    const { answer } = await connect(gateway, other, { peer: { headers: { Host, Origin: 'https://gateway.example' } } })
    expect(answer['error']).toMatchObject({ code: 'NOT_PAIRED', details: { code: 'PAIRING_REQUIRED' } })
    const { auth } = await connect(gateway, own, { peer: { headers: { Host, Origin: `http://${Host}` } } })
    expect(auth).toMatchObject({ deviceToken: expect.stringMatching(/^[0-9a-f]{32}$/) })
    const operator = await gateway.connect()
    const { payload } = await operator.request('device.pair.list', {})
    expect(payload).toMatchObject({ pending: [{ deviceId: other.id }], paired: [{ deviceId: own.id }] })
  })

  it('as a node is refused without being paired, and let in as one with it', async () => {
    await using gateway = await startGateway()
    const operator = await gateway.connect()
    const device = createDevice()
    const node = { peer: AFAR, role: 'node', scopes: [] }
    const { answer } = await connect(gateway, device, node)
    const { requestId } = answer['error'].details
    expect(await operator.request('device.pair.approve', { requestId })).toMatchObject({
      payload: { device: { role: 'node', roles: ['node'], tokens: [{ role: 'node', scopes: [] }] } },
    })
    expect((await connect(gateway, device, node)).auth).toMatchObject({ role: 'node', scopes: [] })
    const { answer: asOperator } = await connect(gateway, device, { peer: AFAR, scopes: ['operator.read'] })
    expect(asOperator['payload'].auth).toBeUndefined()
  })
})

describe('who may say yes', () => {
  it('is nobody without operator.pairing, and such hear of nothing', async () => {
    await using gateway = await startGateway()
    const reader = await gateway.connect({ scopes: ['operator.read', 'operator.write', 'operator.approvals'] })
    const operator = await gateway.connect()
    const { requestId } = (await connect(gateway, createDevice(), { peer: AFAR, role: 'node', scopes: [] })).answer[
      'error'
    ].details
    await hears(operator, 'device.pair.requested')
    for (const method of ['device.pair.approve', 'device.pair.reject', 'node.pair.approve'])
      expect((await reader.request(method, { requestId }))['error'].message).toBe('missing scope: operator.pairing')
    expect(await silence(reader, 'device.pair.requested')).toEqual([])
  })

  it('gives no more than they hold', async () => {
    await using gateway = await startGateway()
    const pairer = await gateway.connect({ scopes: ['operator.pairing', 'operator.read'] })
    const device = createDevice()
    await connect(gateway, device, { peer: AFAR })
    const { requestId } = (await hears(pairer, 'device.pair.requested'))['payload']
    expect(await pairer.request('device.pair.approve', { requestId })).toMatchObject({
      payload: { device: { scopes: ['operator.pairing'] } },
    })
    const { auth } = await connect(gateway, device, { peer: AFAR })
    const own = await connect(gateway, device, { peer: AFAR, token: auth.deviceToken })
    expect(own.auth.scopes).toEqual(['operator.pairing'])
    // And having been paired it lets nobody else in, nor sees them.
    const stranger = createDevice()
    await connect(gateway, stranger, { peer: AFAR, scopes: ['operator.pairing'] })
    const { payload: other } = await pairer.next(({ payload }) => payload?.deviceId === stranger.id)
    expect(await own.peer.request('device.pair.approve', { requestId: other.requestId })).toMatchObject({
      ok: false,
      error: { message: 'unknown requestId' },
    })
    const { payload } = await own.peer.request('device.pair.list', {})
    expect(payload.paired.map(({ deviceId }: Frame) => deviceId)).toEqual([device.id])
    expect(JSON.stringify(own.peer.frames)).not.toContain(other.deviceId)
  })
})

describe('a token that is taken away', () => {
  it('of a device closes its sockets, and no others', async () => {
    await using gateway = await startGateway()
    const operator = await gateway.connect()
    const [device, other] = [createDevice(), createDevice()]
    const { auth } = await connect(gateway, device)
    const own = await connect(gateway, device, { token: auth.deviceToken })
    const bystander = await connect(gateway, other)
    const revoked = await operator.request('device.token.revoke', { deviceId: device.id, role: 'operator' })
    expect(revoked['payload']).toEqual({ deviceId: device.id, role: 'operator', revokedAtMs: expect.any(Number) })
    expect(await own.peer.closed).toEqual(GONE)
    expect((await connect(gateway, device, { token: auth.deviceToken })).answer).toMatchObject({ ok: false })
    expect(await bystander.peer.request('device.pair.list', {})).toMatchObject({ ok: true })
    expect(await operator.request('device.token.revoke', { deviceId: device.id, role: 'operator' })).toMatchObject({
      error: { message: 'unknown deviceId/role' },
    })
  })

  it('of a device that was rotated leaves it a while to change over', async () => {
    let ahead = 0
    await using gateway = await startGateway({ now: () => Date.now() + ahead })
    const operator = await gateway.connect()
    const device = createDevice()
    const { auth } = await connect(gateway, device)
    const onOld = await connect(gateway, device, { token: auth.deviceToken })
    const { payload } = await operator.request('device.token.rotate', { deviceId: device.id, role: 'operator' })
    expect(payload).toEqual({
      ...{ deviceId: device.id, role: 'operator', scopes: ADMIN },
      ...{ token: expect.stringMatching(/^[0-9a-f]{32}$/), rotatedAtMs: expect.any(Number) },
    })
    expect(payload.token).not.toBe(auth.deviceToken)
    const changing = await connect(gateway, device, { token: auth.deviceToken })
    expect(changing.auth.deviceToken).toBe(payload.token)
    const onNew = await connect(gateway, device, { token: payload.token })
    ahead = 60_000
    expect(await onOld.peer.closed).toEqual(GONE)
    expect(await changing.peer.closed).toEqual(GONE)
    const stale = await connect(gateway, device, { token: auth.deviceToken, signedAt: Date.now() + ahead })
    expect(stale.answer['error'].message).toMatch(/gateway token mismatch/)
    expect(await onNew.peer.request('device.pair.list', {})).toMatchObject({ ok: true })
  })

  it('by removing the device is gone with it', async () => {
    await using gateway = await startGateway()
    const operator = await gateway.connect()
    const device = createDevice()
    const { peer } = await connect(gateway, device)
    expect(await operator.request('device.pair.remove', { deviceId: device.id })).toMatchObject({
      payload: { deviceId: device.id },
    })
    expect(await peer.closed).toEqual(GONE)
    expect((await operator.request('device.pair.list', {}))['payload'].paired).toEqual([])
  })
})

describe('a named token', () => {
  const create = async (operator: Peer, params: object = {}) =>
    (await operator.request('tokens.create', { name: 'bridge', scopes: ['operator.read'], ...params }))['payload']

  it('lets in with its own scopes and no others, and is listed without its text', async () => {
    await using gateway = await startGateway()
    const operator = await gateway.connect()
    const { token, ...rest } = await create(operator)
    const v4 = { minProtocol: 4, maxProtocol: 4, scopes: undefined, auth: { token } }
    const peer = await gateway.connect(v4)
    expect(peer.hello['payload'].auth).toEqual({ role: 'operator', scopes: ['operator.read'] })
    for (const method of ['tokens.list', 'device.pair.list', 'chat.send'])
      expect((await peer.request(method, {}))['error'].message).toMatch(/^missing scope/)
    const list = await operator.request('tokens.list', {})
    expect(list['payload']).toEqual({ tokens: [rest] })
    expect(JSON.stringify(list)).not.toContain(token)
  })

  it('is over in every socket when it is revoked', async () => {
    await using gateway = await startGateway()
    const operator = await gateway.connect()
    const { token, id } = await create(operator)
    const [one, other] = [await gateway.connect({ auth: { token } }), await gateway.connect({ auth: { token } })]
    expect((await operator.request('tokens.revoke', { id }))['payload']).toMatchObject({ id })
    expect([await one.closed, await other.closed]).toEqual([GONE, GONE])
    await expect(gateway.connect({ auth: { token } })).rejects.toThrow('the named token was revoked')
    expect(await operator.request('tokens.revoke', { id: 'nobody' })).toMatchObject({
      error: { message: 'unknown token id' },
    })
  })

  it('is over in every socket when its time is up', async () => {
    let ahead = 0
    await using gateway = await startGateway({ now: () => Date.now() + ahead })
    const operator = await gateway.connect()
    const { token } = await create(operator, { expiresAt: Date.now() + 3_600_000 })
    const peer = await gateway.connect({ auth: { token } })
    ahead = 3_600_000
    expect(await peer.closed).toEqual(GONE)
    await expect(gateway.connect({ auth: { token } })).rejects.toThrow('the named token has expired')
  })

  it('makes no others, and pairs no device', async () => {
    await using gateway = await startGateway()
    const operator = await gateway.connect()
    const { token } = await create(operator, { scopes: ['operator.admin'] })
    const peer = await gateway.connect({ auth: { token } })
    expect((await peer.request('tokens.create', { name: 'x', scopes: [] }))['error'].message).toBe(
      'a named token makes no others',
    )
    const { auth } = await connect(gateway, createDevice(), { token })
    expect(auth).toBeUndefined()
    expect((await operator.request('device.pair.list', {}))['payload']).toEqual({ pending: [], paired: [] })
  })

  it('is refused where it is asked for what there is not', async () => {
    await using gateway = await startGateway()
    const operator = await gateway.connect()
    const problem = async (params: object) =>
      (await operator.request('tokens.create', { name: 'bridge', scopes: [], ...params }))['error'].message
    expect(await problem({ scopes: ['operator.everything'] })).toMatch(/^invalid tokens.create params/)
    expect(await problem({ expiresAt: Date.now() - 1 })).toMatch(/is in the past/)
    expect(await problem({ sessions: ['*'], scopes: ['operator.admin'] })).toMatch(/cannot hold operator.admin/)
    expect(await problem({ name: '' })).toMatch(/name/)
  })
})

import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createDevice, type Device, nonceOf, type ProofChanges } from '../support/device.ts'
import { CONNECT, type PeerOptions, startGateway, type TestGateway, TOKEN } from '../support/gateway.ts'

let gateway: TestGateway
beforeAll(async () => {
  gateway = await startGateway()
})
afterAll(() => gateway.stop())

/** Connects with a proof; `alter` may spoil what was proved. */
async function connect(
  device: Device,
  {
    alter = (it) => it,
    peer: options,
    ...changes
  }: ProofChanges & { alter?(params: object): object; peer?: PeerOptions } = {},
) {
  const peer = await gateway.open(options)
  const nonce = await nonceOf(peer)
  const { token = TOKEN, role = 'operator', scopes = CONNECT.scopes } = changes
  const params = { ...CONNECT, role, scopes, auth: { token }, device: device.prove(nonce, changes) }
  const answer = await peer.request('connect', alter(params))
  return { peer, answer, params, auth: answer['payload']?.auth }
}

describe('the proof of a device', () => {
  it('in version 2 or 3 pairs a device from here, and gives it a token', async () => {
    for (const version of ['v2', 'v3'] as const) {
      const { auth } = await connect(createDevice(), { version })
      expect(auth).toMatchObject({ deviceToken: expect.stringMatching(/^[0-9a-f]{32}$/), role: 'operator' })
    }
  })

  it('in version 1, which covers no nonce, is not taken', async () => {
    const { answer } = await connect(createDevice(), { version: 'v1' })
    expect(answer['error'].message).toBe('device signature invalid')
  })

  it('is refused in the words of what is wrong with it', async () => {
    const other = createDevice()
    const device = (change: object) => (params: object) => ({
      ...params,
      device: { ...(params as { device: object }).device, ...change },
    })
    const cases: [string, Parameters<typeof connect>[1]][] = [
      ['device signature expired', { signedAt: Date.now() - 130_000 }],
      ['device signature expired', { signedAt: Date.now() + 130_000 }],
      ['device identity mismatch', { alter: device({ id: other.id }) }],
      ['device identity mismatch', { alter: device({ publicKey: other.publicKey }) }],
      ['device public key invalid', { alter: device({ publicKey: 'AAAA' }) }],
      ['device nonce required', { alter: device({ nonce: undefined }) }],
      ['device nonce mismatch', { alter: device({ nonce: 'another' }) }],
      ['device signature invalid', { alter: device({ signature: 'A'.repeat(86) }) }],
      ['device signature invalid', { alter: device({ signedAt: Date.now() + 1 }) }],
      ['device signature invalid', { alter: (params) => ({ ...params, scopes: ['operator.read'] }) }],
      ['device signature invalid', { alter: (params) => ({ ...params, role: 'node' }) }],
      ['device signature invalid', { alter: (params) => ({ ...params, auth: { token: 'x' } }) }],
      ['device signature invalid', { version: 'v3', platform: 'windows' }],
    ]
    for (const [message, changes] of cases) {
      const { answer, peer } = await connect(createDevice(), changes)
      expect(answer).toMatchObject({ ok: false, error: { message } })
      expect(await peer.closed).toEqual({ code: 1008, reason: message })
    }
  })

  it('cannot be used on another socket', async () => {
    const first = await connect(createDevice())
    const peer = await gateway.open()
    await nonceOf(peer)
    const answer = await peer.request('connect', first.params)
    expect(answer['error'].message).toBe('device nonce mismatch')
  })

  it('does not stand in for a credential', async () => {
    const { answer } = await connect(createDevice(), { token: 'wrong-token-wrong-token-wrong' })
    expect(answer['error'].message).toMatch(/^unauthorized: gateway token mismatch/)
    expect((await connect(createDevice(), { token: '' })).answer['error'].message).toMatch(
      /^unauthorized: gateway token missing/,
    )
  })
})

describe('the token of a device', () => {
  it('lets the device in instead of the shared one, and stays the same', async () => {
    const device = createDevice()
    const { auth } = await connect(device)
    const again = await connect(device, { token: auth.deviceToken })
    expect(again.auth).toEqual(auth)
    expect((await connect(device)).auth).toEqual(auth)
  })

  it('is worth nothing to another device, or to none', async () => {
    const { auth } = await connect(createDevice())
    expect((await connect(createDevice(), { token: auth.deviceToken })).answer).toMatchObject({ ok: false })
    const peer = await gateway.open()
    const answer = await peer.request('connect', { ...CONNECT, auth: { token: auth.deviceToken } })
    expect(answer).toMatchObject({ ok: false })
  })

  it('is worth what the device was paired for, and no more', async () => {
    const device = createDevice()
    const { auth } = await connect(device, { scopes: ['operator.read'] })
    const { answer } = await connect(device, { token: auth.deviceToken, scopes: ['operator.admin', 'operator.read'] })
    expect(answer['payload'].auth.scopes).toEqual(['operator.read'])
  })

  it('is worth nothing in another role than the one it was given for', async () => {
    const device = createDevice()
    const { auth } = await connect(device, { role: 'node', scopes: [] })
    const { answer } = await connect(device, { role: 'operator', token: auth.deviceToken })
    expect(answer).toMatchObject({ ok: false })
  })
})

describe('pairing without being asked', () => {
  const remote: [string, PeerOptions][] = [['a name that is not local', { headers: { Host: 'gateway.example' } }]]
  for (const [what, peer] of remote)
    it(`is not for a device that comes by ${what}`, async () => {
      const { answer, auth } = await connect(createDevice(), { peer })
      expect(answer).toMatchObject({ ok: true })
      expect(auth?.deviceToken).toBeUndefined()
      const node = await connect(createDevice(), { peer, role: 'node', scopes: [] })
      expect(node.answer['error']).toMatchObject({ code: 'NOT_PAIRED', message: 'pairing required' })
    })

  it('is for a page of the gateway itself', async () => {
    const headers = { Origin: `http://127.0.0.1:${gateway.port}` }
    expect((await connect(createDevice(), { peer: { headers } })).auth).toHaveProperty('deviceToken')
  })
})

describe('a node', () => {
  it('may call nothing that is for operators, and hears no sessions', async () => {
    const { peer } = await connect(createDevice(), { role: 'node', scopes: [] })
    for (const method of ['chat.send', 'health', 'config.get', 'nothing'])
      expect((await peer.request(method, {}))['error'].message).toBe('unauthorized role: node')
    const operator = await gateway.connect()
    await operator.request('chat.send', { sessionKey: 'main', message: '/status', idempotencyKey: 'n1' })
    await operator.next(({ event }) => event === 'chat')
    expect(peer.frames.filter(({ event }) => event === 'chat' || event === 'agent')).toEqual([])
  })
})

describe('a shared token', () => {
  it('is compared as a whole', async () => {
    for (const token of [TOKEN.slice(0, -1), `${TOKEN}x`, TOKEN.toUpperCase(), ` ${TOKEN}`, 'ä'.repeat(TOKEN.length)]) {
      const peer = await gateway.open()
      const answer = await peer.request('connect', { ...CONNECT, auth: { token } })
      expect([token, answer['ok']]).toEqual([token, false])
      expect((await peer.closed).code).toBe(1008)
    }
  })

  it('grants what is asked for of the operator scopes: all when nothing is named, nothing for an empty list', async () => {
    const granted = async (scopes: string[] | undefined) =>
      (await gateway.connect({ minProtocol: 4, maxProtocol: 4, scopes })).hello['payload'].auth.scopes
    expect(await granted(undefined)).toContain('operator.admin')
    expect(await granted([])).toEqual([])
    expect(await granted(['operator.read', 'operator.everything', '__proto__'])).toEqual(['operator.read'])
  })
})

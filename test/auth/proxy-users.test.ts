import { afterEach, describe, expect, it } from 'vitest'
import { type Frame, openPeer, startGateway, type TestGateway } from '../support/gateway.ts'

let gateway: TestGateway
afterEach(() => gateway[Symbol.asyncDispose]())

const start = async (trustedProxy: object = {}, trustedProxies = ['127.0.0.1']) => {
  gateway = await startGateway({
    config: {
      gateway: { trustedProxies, auth: { trustedProxy: { userHeader: 'X-Forwarded-User', ...trustedProxy } } },
    },
  })
}

/** Connects with these headers, and without a credential unless one is given. */
async function connect(headers: Record<string, string>, params: object = {}): Promise<Frame> {
  const peer = await openPeer(gateway.url, { headers })
  await peer.next(({ event }) => event === 'connect.challenge')
  return peer.request('connect', { minProtocol: 4, maxProtocol: 4, ...params })
}
const VIA = { 'X-Forwarded-For': '203.0.113.7', 'X-Forwarded-User': 'temujin@example.org' }

describe('somebody whom a listed proxy names', () => {
  it('is let in by name, with what is configured for such people', async () => {
    await start()
    const { payload } = await connect(VIA)
    expect(payload.auth).toMatchObject({ role: 'operator', scopes: ['operator.read', 'operator.write'] })
    expect(payload.auth.deviceToken).toBeUndefined()
  })

  it('holds no more than that, whatever is asked for', async () => {
    await start({ scopes: ['operator.read'] })
    const { payload } = await connect(VIA, { scopes: ['operator.admin', 'operator.read'] })
    expect(payload.auth.scopes).toEqual(['operator.read'])
  })

  it('is refused in words when only others may come', async () => {
    await start({ allowUsers: ['jochi@example.org'] })
    expect((await connect(VIA))['error'].message).toContain('gateway.auth.trustedProxy.allowUsers')
    expect((await connect({ ...VIA, 'X-Forwarded-User': 'jochi@example.org' }))['ok']).toBe(true)
  })

  it('is no node, and no better for a wrong credential', async () => {
    await start()
    expect((await connect(VIA, { role: 'node' }))['ok']).toBe(false)
    expect((await connect(VIA, { auth: { token: 'wrong' } }))['error'].details.code).toBe('AUTH_TOKEN_MISMATCH')
    expect((await connect(VIA, { auth: { password: 'wrong' } }))['ok']).toBe(false)
  })

  it('is nobody without a name, with two, or with one that is none', async () => {
    await start()
    for (const name of ['', '\t', '../root', 'x'.repeat(200), 'a, b'])
      expect((await connect({ ...VIA, 'X-Forwarded-User': name }))['ok'], name).toBe(false)
  })
})

describe('somebody who names himself', () => {
  it('is refused: the header of a peer that is no listed proxy is a stranger’s claim', async () => {
    await start({}, ['10.0.0.1'])
    for (const headers of [VIA, { 'X-Forwarded-User': 'temujin@example.org' }])
      expect((await connect(headers as Record<string, string>))['error'].details.code).toBe(
        'PROXY_ATTRIBUTION_REQUIRED',
      )
  })

  it('is not even asked where every peer is a proxy', async () => {
    await expect(start({}, ['*'])).rejects.toThrow(/everybody could write X-Forwarded-User/)
    await start()
  })
})

import { request } from 'node:http'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { CONNECT, openPeer, startGateway, type TestGateway } from '../support/gateway.ts'

let gateway: TestGateway
beforeAll(async () => {
  gateway = await startGateway({
    config: { gateway: { controlUi: { allowedOrigins: ['https://kurultai.example'] } } },
  })
})
afterAll(() => gateway.stop())

const knock = async (headers: Record<string, string>, path = '/') => {
  try {
    const { socket } = await openPeer(gateway.url, { headers, path })
    socket.terminate()
    return 101
  } catch (error) {
    return (error as { status?: number }).status
  }
}

describe('a page', () => {
  const port = () => gateway.port
  const own = (): [string, string][] => [
    [`http://127.0.0.1:${port()}`, `127.0.0.1:${port()}`],
    [`https://127.0.0.1:${port()}`, `127.0.0.1:${port()}`],
    [`http://localhost:${port()}`, `localhost:${port()}`],
    [`http://localhost:${port()}`, `LOCALHOST:${port()}`],
    ['https://kurultai.example', `127.0.0.1:${port()}`],
    ['https://kurultai.example', 'kurultai.example'],
    ['http://gateway:18789', 'gateway:18789'],
    ['http://host.docker.internal:1', 'host.docker.internal:1'],
  ]
  it('of the gateway itself, or of the list, may open a socket', async () => {
    for (const [Origin, Host] of own())
      expect([Origin, Host, await knock({ Origin, Host })]).toEqual([Origin, Host, 101])
  })

  it('of any other origin may not, before a socket is open', async () => {
    const host = `127.0.0.1:${port()}`
    for (const Origin of [
      'https://evil.example',
      'null',
      '*',
      'file://',
      `http://127.0.0.1:${port() + 1}`,
      'http://127.0.0.1',
      `http://127.0.0.1:${port()}/`,
      `http://127.0.0.1:${port()}.evil.example`,
      `http://user@127.0.0.1:${port()}`,
      `http://127.0.0.1.:${port()}`,
      `HTTP://127.0.0.1:${port()}`,
      `http://localhost:${port()}`,
      `http://[::1]:${port()}`,
      'http://kurultai.example',
      'https://kurultai.example:443',
      'https://KURULTAI.example',
      'https://kurultai.example.',
      'https://kurultai.example.evil.example',
      'https://evil.example#https://kurultai.example',
      'https://kurultai.example, https://evil.example',
      'chrome-extension://abcdef',
    ])
      expect([Origin, await knock({ Origin, Host: host })]).toEqual([Origin, 403])
  })

  it('that was led here by a name of a stranger is turned away with 421', async () => {
    for (const Host of ['rebind.example', `a.b.c:${port()}`, '127.0.0.1.nip.io', 'localhost.', 'evil.example.']) {
      expect([Host, await knock({ Origin: `http://${Host}`, Host })]).toEqual([Host, 421])
      expect([Host, await knock({ 'Sec-Fetch-Mode': 'websocket', Host })]).toEqual([Host, 421])
    }
  })
})

describe('a client that is no page', () => {
  it('may use any name for the gateway', async () => {
    expect(await knock({ Host: 'whatever.example' })).toBe(101)
  })

  it('with forwarding headers from an address that is no listed proxy is refused in words that say why', async () => {
    for (const headers of [
      { 'X-Forwarded-For': '10.0.0.1' },
      { Forwarded: 'for=10.0.0.1' },
      { 'X-Real-IP': '127.0.0.1' },
      { 'X-Forwarded-Proto': 'https' },
    ]) {
      const peer = await gateway.open({ headers })
      await peer.next(({ event }) => event === 'connect.challenge')
      expect((await peer.request('connect', CONNECT))['error'].details).toMatchObject({
        code: 'PROXY_ATTRIBUTION_REQUIRED',
      })
      expect((await peer.closed).code).toBe(1008)
    }
  })
})

interface Answer {
  status: number | undefined
  headers: Record<string, unknown>
  text: string
}

const ask = (path: string, method = 'GET', headers: Record<string, string | string[]> = {}): Promise<Answer> =>
  new Promise((resolve, reject) => {
    request({ port: gateway.port, host: '127.0.0.1', path, method, headers }, (response) => {
      let text = ''
      response.setEncoding('utf8').on('data', (part: string) => {
        text += part
      })
      response.on('end', () => resolve({ status: response.statusCode, headers: response.headers, text }))
    })
      .on('error', reject)
      .end()
  })

describe('over HTTP', () => {
  it('health and readiness are told, and nothing that a stranger could use', async () => {
    for (const path of ['/health', '/healthz', '/health?x=1']) {
      const { status, text, headers } = await ask(path)
      expect(status).toBe(200)
      expect(Object.keys(JSON.parse(text)).sort()).toEqual(['ok', 'service', 'status', 'uptimeMs'])
      expect(headers['x-content-type-options']).toBe('nosniff')
    }
    for (const path of ['/readyz', '/startupz']) expect((await ask(path)).status).toBe(200)
  })

  it('HEAD is answered without a body, and other methods not at all', async () => {
    expect(await ask('/health', 'HEAD')).toMatchObject({ status: 200, text: '' })
    expect(await ask('/', 'HEAD')).toMatchObject({ status: 200, text: '' })
    for (const method of ['POST', 'PUT', 'DELETE', 'OPTIONS'])
      expect(await ask('/health', method)).toMatchObject({ status: 405, headers: { allow: 'GET, HEAD' } })
  })

  it('what is not there is not there, in JSON', async () => {
    for (const path of [
      '/nothing',
      '/health/',
      '/../etc/passwd',
      '/%2e%2e/x',
      '/__proto__',
      '/constructor',
      '//',
      '/ws',
    ])
      expect(await ask(path)).toMatchObject({
        status: 404,
        headers: { 'content-type': 'application/json; charset=utf-8' },
        text: expect.stringContaining('"NOT_FOUND"'),
      })
  })

  it('the page runs no script and may not be framed', async () => {
    const { headers, text } = await ask('/')
    expect(headers['content-security-policy']).toContain("default-src 'none'")
    expect(headers['content-security-policy']).toContain("frame-ancestors 'none'")
    expect(text).toContain('<title>')
  })

  it('an upgrade to something else, of another version, or with no key, is refused and harms nobody', async () => {
    const socket = { Connection: 'Upgrade', Upgrade: 'h2c' }
    expect((await ask('/', 'GET', socket)).status).toBe(400)
    const upgrade = { Connection: 'Upgrade', Upgrade: 'WebSocket', 'Sec-WebSocket-Version': '13' }
    expect((await ask('/', 'GET', upgrade)).status).toBe(400)
    const older = { ...upgrade, 'Sec-WebSocket-Version': '8', 'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==' }
    expect(await ask('/', 'GET', older)).toMatchObject({
      status: 426,
      headers: { 'sec-websocket-version': '13', upgrade: 'websocket' },
    })
    expect((await ask('/health')).status).toBe(200)
  })
})

/** What a stranger is told: every path, every verb, nonsense, and the first frames of a socket. */

import { connect } from 'node:net'
import { hostname, networkInterfaces, userInfo } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { version } from '../../src/version.ts'
import { CONNECT, openPeer, startGateway, type TestGateway } from '../support/gateway.ts'
import { UNCOUNTED } from './ground.ts'

let gateway: TestGateway
beforeAll(async () => {
  gateway = await startGateway({
    config: { gateway: { limits: UNCOUNTED }, agents: { list: [{ id: 'main', name: 'Ögedei-the-agent' }] } },
  })
})
afterAll(() => gateway.stop())

/** What nobody is told who has not said who they are. */
const secrets = (): [string, RegExp | string][] => [
  ['the version', version],
  ['the version of Node.js', process.version.slice(1)],
  // As a word: a short one may stand by chance in what is random.
  ['the name of the machine', new RegExp(`\\b${hostname().replaceAll('.', '\\.')}\\b`)],
  ...addresses().map((address): [string, string] => ['an address of the machine', address]),
  ['the state folder', gateway.stateDir],
  ['a path of the machine', /\/(home|root|tmp|usr|var|etc|work|opt|proc)\//],
  ['the user', new RegExp(`\\b(user|uid)\\W+${userInfo().username}\\b`)],
  ['a line of a stack', /\bat .*[:(]\d+:\d+|node:internal|\.ts:\d+|\.js:\d+/],
  ['the name of an agent', 'Ögedei'],
  ['a header that names the server', /^(server|x-powered-by|via):/im],
]
const addresses = () =>
  Object.values(networkInterfaces())
    .flat()
    .flatMap((one) => (one && !one.internal ? [one.address] : []))

/** What was told to somebody who was not to be told it. */
const leaksOf = (text: string): string[] =>
  secrets().flatMap(([what, form]) =>
    (typeof form === 'string' ? text.includes(form) : form.test(text)) ? [what] : [],
  )

/** Writes bytes and reads until the other side closes, or has said nothing more for a while. */
const say = (bytes: string) =>
  new Promise<string>((resolve) => {
    const socket = connect(gateway.port, '127.0.0.1', () => socket.write(bytes, 'latin1'))
    let heard = ''
    socket.setTimeout(1_500, () => socket.destroy())
    socket.on('data', (data) => {
      heard += data.toString('latin1')
    })
    socket.on('error', () => {})
    socket.on('close', () => resolve(heard))
  })

const NAMES = [
  ...[
    '',
    'health',
    'healthz',
    'readyz',
    'startupz',
    'ws',
    'gateway',
    'index.html',
    'favicon.ico',
    'robots.txt',
    'metrics',
  ],
  ...[
    'status',
    'version',
    'info',
    'debug',
    'debug/pprof',
    'admin',
    'config',
    'config.get',
    'openclaw.json5',
    '.env',
    '.git/config',
  ],
  ...[
    '.state/gateway-token',
    'gateway-token',
    'kurultai.sqlite',
    'logs/gateway.log',
    'package.json',
    'dist/index.js',
    'src/index.ts',
  ],
  ...[
    'node_modules/ws/package.json',
    'v1/models',
    'v1/chat/completions',
    'v1/responses',
    'agent',
    'api',
    'rpc',
    'inspect',
    'assets',
  ],
  ...[
    '__proto__',
    'constructor',
    'toString',
    '%00',
    '%2e%2e/%2e%2e/etc/passwd',
    '../../etc/passwd',
    '..%5c..%5cwin.ini',
    '~',
    '*',
  ],
  ...[
    'health/../config',
    'health%2f..%2f',
    'HEALTH',
    'health;x=1',
    'health%20',
    'é'.repeat(50),
    '%ff%fe',
    'a'.repeat(8_000),
  ],
]
const VERBS = ['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'OPTIONS', 'PATCH', 'TRACE', 'PROPFIND']
const FORMS: [string, string][] = [
  ['', ''],
  ['?token=x&debug=1', ''],
  ['', 'Origin: https://evil.example\r\n'],
  ['', 'Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n'],
  ['', 'Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 7\r\n'],
  ['', 'X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Host: evil.example\r\n'],
  ['', 'Authorization: Bearer nonsense\r\nContent-Type: application/json\r\nContent-Length: 2\r\n'],
  ['', 'Expect: 100-continue\r\nRange: bytes=0-\r\nIf-None-Match: "x"\r\n'],
]

describe('a stranger', () => {
  it('who asks for anything there may be, in any way, is told nothing of machine, version, paths or code', async () => {
    const requests = NAMES.flatMap((name) =>
      VERBS.flatMap((verb) =>
        FORMS.map(
          ([query, headers]) =>
            `${verb} /${name}${query} HTTP/1.1\r\nHost: localhost\r\n${headers}Connection: close\r\n\r\n{}`,
        ),
      ),
    )
    expect(requests.length).toBeGreaterThan(3_000)
    const statuses = new Set<string>()
    for (let at = 0; at < requests.length; at += 64)
      await Promise.all(
        requests.slice(at, at + 64).map(async (request) => {
          const answer = await say(request)
          statuses.add(answer.slice(9, 12))
          const leaks = leaksOf(answer)
          if (leaks.length > 0) throw new Error(`${leaks} in the answer to ${request.slice(0, 100)}:\n${answer}`)
        }),
      )
    // It was not one answer to everything.
    for (const status of ['200', '403', '404', '405']) expect(statuses).toContain(status)
  }, 60_000)

  it('who speaks no HTTP at all is told nothing either', async () => {
    const nonsense = [
      ...[
        '\0\0\0\0',
        'GET\r\n\r\n',
        'GET / HTTP/9.9\r\n\r\n',
        'GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n',
        '\x16\x03\x01\x02\0\x01',
      ],
      ...[
        'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
        'GET http://evil.example/ HTTP/1.1\r\nHost: x\r\n\r\n',
        'CONNECT evil.example:443 HTTP/1.1\r\nHost: x\r\n\r\n',
      ],
      ...[
        `GET / HTTP/1.1\r\nHost: localhost\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`,
        'POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nzz',
      ],
      ...[
        'GET / HTTP/1.1\r\nHost: localhost\r\nX : y\r\n\r\n',
        'GET / HTTP/1.1\nHost: localhost\n\n',
        'GET  /  HTTP/1.1\r\n\r\n',
        '*'.repeat(70_000),
      ],
    ]
    for (const answer of await Promise.all(nonsense.map(say))) expect([answer, leaksOf(answer)]).toEqual([answer, []])
  })

  it('is told by /health how it is and how long, and no more', async () => {
    const response = await fetch(`http://127.0.0.1:${gateway.port}/health`)
    expect(await response.json()).toEqual({
      ok: true,
      status: 'ok',
      service: 'kurultai-gateway',
      uptimeMs: expect.any(Number),
    })
    expect([...response.headers.keys()].toSorted()).toEqual([
      'cache-control',
      'connection',
      'content-length',
      'content-security-policy',
      'content-type',
      'date',
      'keep-alive',
      'referrer-policy',
      'x-content-type-options',
      'x-frame-options',
    ])
  })

  it('who opens a socket hears a nonce, and why it is refused, and nothing else', async () => {
    const first: (object | string)[] = [
      { type: 'req', id: '1', method: 'health' },
      { type: 'req', id: '1', method: 'config.get', params: {} },
      { type: 'req', id: '1', method: 'connect', params: 5 },
      { type: 'req', id: '1', method: 'connect', params: { ...CONNECT, minProtocol: 99, maxProtocol: 99 } },
      { type: 'req', id: '1', method: 'connect', params: { ...CONNECT, auth: {} } },
      {
        type: 'req',
        id: '1',
        method: 'connect',
        params: { ...CONNECT, auth: { token: 'wrong-0123456789-0123456789' } },
      },
      { type: 'req', id: '1', method: 'connect', params: { ...CONNECT, role: 'nobody' } },
      { type: 'event', event: 'tick' },
      'nonsense',
      '['.repeat(5_000),
    ]
    for (const frame of first) {
      const peer = await openPeer(gateway.url)
      const challenge = await peer.next()
      expect(Object.keys(challenge['payload']).toSorted()).toEqual(['nonce', 'ts'])
      peer.send(frame)
      const { reason } = await peer.closed
      const heard = JSON.stringify(peer.frames) + reason
      expect([heard, leaksOf(heard)]).toEqual([heard, []])
      expect(peer.frames.length).toBeLessThanOrEqual(2)
    }
  })
})

describe('who may read, and is no administrator,', () => {
  it('is told the names of files, and not the folders that they are in', async () => {
    await using gateway = await startGateway()
    const reader = await gateway.connect({ ...CONNECT, scopes: ['operator.read'] })
    const admin = await gateway.connect({ ...CONNECT, scopes: ['operator.admin'] })
    const calls: [string, object][] = [
      ['health', { probe: true }],
      ['health', {}],
      ['status', {}],
      ['sessions.list', {}],
      ['logs.tail', {}],
    ]
    for (const [method, params] of calls)
      expect(await reader.request(method, params), method).toMatchObject({ ok: true })
    expect(JSON.stringify(reader.frames)).not.toContain(gateway.stateDir)
    expect((await reader.request('sessions.list', {}))['payload'].path).toBe('kurultai.sqlite')
    const { path } = (await admin.request('sessions.list', {}))['payload']
    expect(path).toBe(join(gateway.stateDir, 'kurultai.sqlite'))
    expect((await admin.request('logs.tail', {}))['payload'].file).toContain(gateway.stateDir)
  })
})

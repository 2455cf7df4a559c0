/** The port as a web server: it has a page and four words about its health, and nothing anybody sends makes it more. */
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Secret } from '../../src/config/secret.ts'
import { openLog } from '../../src/logging.ts'
import { openStore } from '../../src/stores/index.ts'
import { page } from '../../src/transport/page.ts'
import { random } from '../long/suite.ts'
import { CONNECT, openPeer, startGateway, type TestGateway, TOKEN } from '../support/gateway.ts'
import { answerTo, dial, request, UPGRADE } from './raw-line.ts'

/** Stands in files that nobody may be given. */
const CANARY = 'canary-5d1f0c'
const SEED = 20_260_731

let gateway: TestGateway
beforeAll(async () => {
  gateway = await startGateway({ config: { gateway: { limits: { preauthPerIp: 0 } } } })
  for (const name of ['planted.txt', 'index.html', 'health', 'logs/planted.txt', 'ws']) {
    mkdirSync(join(gateway.stateDir, name, '..'), { recursive: true })
    writeFileSync(join(gateway.stateDir, name), CANARY)
  }
})
afterAll(() => gateway.stop())

interface Answer {
  status: number
  headers: { [name: string]: string }
  body: string
}

/** The answers that came on a line, one after the other. A HEAD has none of the body it names. */
function answersIn(text: string, isHead = false): Answer[] {
  const answers: Answer[] = []
  for (let rest = text; rest.startsWith('HTTP/1.1 '); ) {
    const end = rest.indexOf('\r\n\r\n')
    if (end < 0) break
    const [first, ...lines] = rest.slice(0, end).split('\r\n')
    const headers = Object.fromEntries(
      lines.map((line) => [line.slice(0, line.indexOf(':')).toLowerCase(), line.slice(line.indexOf(':') + 2)]),
    )
    const from = end + 4
    const to = from + (isHead ? 0 : Number(headers['content-length'] ?? 0))
    answers.push({ status: Number(first!.split(' ', 2)[1]), headers, body: rest.slice(from, to) })
    rest = rest.slice(to)
  }
  return answers
}

const last = 'Connection: close'
const ask = async (first: string, headers: string[] = [], body = ''): Promise<Answer | undefined> => {
  const { text } = await answerTo(gateway.port, request(`${first} HTTP/1.1`, [...headers, last]) + body)
  return answersIn(text, first.startsWith('HEAD'))[0]
}

const ROUTES = ['/', '/health', '/healthz', '/readyz', '/startupz']
const NOT_FOUND =
  '{"ok":false,"error":{"code":"NOT_FOUND","message":"there is nothing here; see /health, or open a WebSocket on /"}}'

describe('a method and a path', () => {
  const paths = [
    ...ROUTES,
    ...[
      '/index.html',
      '/api',
      '/v1/chat/completions',
      '/agent/main',
      '/config',
      '/ws',
      '/gateway',
      '/metrics',
      '/.env',
    ],
    ...['/health/', '/health.json', '/HEALTH', '/health%20', '/%68ealth', '//health', '/./health', '/health;x', '*'],
  ]
  const methods = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE', 'PROPFIND', 'QUERY']
  const senders = [
    [],
    ['Origin: http://localhost', 'Sec-Fetch-Site: same-origin', `Authorization: Bearer ${TOKEN}`],
    ['Cookie: session=1; token=x', 'Content-Type: text/plain', 'Content-Length: 2'],
  ]

  it('are answered as the table says, to whoever asks, and set no cookie and no permission', async () => {
    let cases = 0
    for (const path of paths)
      for (const method of methods)
        for (const headers of senders) {
          const answer = await ask(
            `${method} ${path}`,
            headers,
            headers.length === 3 && headers[2] === 'Content-Length: 2' ? '{}' : '',
          )
          // What the parser takes for no request target at all is not answered.
          if (path === '*' && answer === undefined) continue
          const isRoute = ROUTES.includes(path) || path === '*'
          const reads = method === 'GET' || method === 'HEAD'
          expect([method, path, answer?.status]).toEqual([method, path, isRoute ? (reads ? 200 : 405) : 404])
          const { headers: given, body } = answer!
          for (const name of Object.keys(given))
            expect(name).not.toMatch(/cookie|access-control|location|server|powered|etag/)
          expect(given).toMatchObject({
            'x-content-type-options': 'nosniff',
            'referrer-policy': 'no-referrer',
            'x-frame-options': 'DENY',
            'content-security-policy': expect.stringMatching(/^default-src 'none';.*frame-ancestors 'none'$/),
          })
          if (answer!.status === 404 && method !== 'HEAD') expect(body).toBe(NOT_FOUND)
          if (answer!.status === 405) expect(given['allow']).toBe('GET, HEAD')
          cases += 1
        }
    expect(cases).toBeGreaterThan(600)
  })

  it('from a foreign page are refused, whatever they are', async () => {
    for (const path of paths.filter((one) => one !== '*'))
      for (const method of methods)
        expect((await ask(`${method} ${path}`, ['Origin: https://evil.example']))?.status).toBe(403)
    const preflight = ['Origin: https://evil.example', 'Access-Control-Request-Method: POST']
    expect((await ask('OPTIONS /', preflight))?.headers['access-control-allow-origin']).toBeUndefined()
  })

  it('with a body are answered without it: ten megabytes are not read', async () => {
    const line = await dial(gateway.port)
    line.write(request('POST / HTTP/1.1', ['Content-Length: 10485760']))
    line.write('x'.repeat(1000))
    await line.until(({ received }) => received.includes('\r\n\r\n'))
    expect(answersIn(line.received.toString('latin1'))[0]?.status).toBe(405)
    line.close()
  })
})

describe('a head', () => {
  it.each([
    ['of 8 KiB in one header is read', [`X-Large: ${'x'.repeat(8 * 1024)}`], '200'],
    ['of 15 KiB in many headers is read', Array.from({ length: 15 }, (_, n) => `X-${n}: ${'x'.repeat(1_000)}`), '200'],
    ['of 17 KiB in one header is not', [`X-Large: ${'x'.repeat(17 * 1024)}`], 'none'],
    ['of 17 KiB in many headers is not', Array.from({ length: 17 }, (_, n) => `X-${n}: ${'x'.repeat(1_000)}`), 'none'],
  ])('%s', async (_, headers, status) => {
    expect((await answerTo(gateway.port, request('GET /health HTTP/1.1', [...headers, last]))).status).toBe(status)
    const upgrade = await dial(gateway.port, { text: request('GET / HTTP/1.1', [...UPGRADE, ...headers]) })
    await upgrade.until(({ received }) => received.length > 0)
    expect(upgrade.received.toString('latin1').split(' ', 2)[1] ?? 'none').toBe(status === '200' ? '101' : 'none')
    upgrade.close()
  })

  it('with a path of 17 KiB is not read', async () => {
    expect((await answerTo(gateway.port, request(`GET /${'x'.repeat(17 * 1024)} HTTP/1.1`))).status).toBe('none')
  })
})

/** A request that a proxy might take for the body of the one before it: its answer would be 200, and has no place. */
const HIDDEN = 'GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n'
const hex = (text: string) => text.length.toString(16)
const post = (headers: string[], body: string) =>
  `POST /x HTTP/1.1\r\n${['Host: localhost', ...headers].join('\r\n')}\r\n\r\n${body}`
const SMUGGLED: [string, string][] = [
  [
    'a length and chunks',
    post([`Content-Length: ${HIDDEN.length + 5}`, 'Transfer-Encoding: chunked'], `0\r\n\r\n${HIDDEN}`),
  ],
  [
    'chunks and a length',
    post(['Transfer-Encoding: chunked', `Content-Length: ${HIDDEN.length + 5}`], `0\r\n\r\n${HIDDEN}`),
  ],
  ['two lengths', post(['Content-Length: 0', `Content-Length: ${HIDDEN.length}`], HIDDEN)],
  ['two lengths in one header', post([`Content-Length: 0, ${HIDDEN.length}`], HIDDEN)],
  ['a length with a sign', post(['Content-Length: +0'], HIDDEN)],
  ['a negative length', post(['Content-Length: -1'], HIDDEN)],
  ['a length in hex', post(['Content-Length: 0x0'], HIDDEN)],
  ['a length that is no number', post(['Content-Length: nought'], HIDDEN)],
  ['a length beyond all numbers', post([`Content-Length: ${'9'.repeat(40)}`], HIDDEN)],
  ['an empty length', post(['Content-Length:'], HIDDEN)],
  ['a length with a blank before the colon', post(['Content-Length : 0'], HIDDEN)],
  ['chunks with a blank before the colon', post(['Transfer-Encoding : chunked'], `0\r\n\r\n${HIDDEN}`)],
  ['chunks under another name', post(['Transfer-Encoding: xchunked'], `0\r\n\r\n${HIDDEN}`)],
  ['chunks that are not the last coding', post(['Transfer-Encoding: chunked, identity'], `0\r\n\r\n${HIDDEN}`)],
  ['chunks twice', post(['Transfer-Encoding: chunked', 'Transfer-Encoding: identity'], `0\r\n\r\n${HIDDEN}`)],
  ['chunks behind a vertical tab', post(['Transfer-Encoding: \x0bchunked'], `0\r\n\r\n${HIDDEN}`)],
  ['chunks behind a bare line feed', post(['X: y\nTransfer-Encoding: chunked'], `0\r\n\r\n${HIDDEN}`)],
  ['chunks behind a bare return', post(['X: y\rTransfer-Encoding: chunked'], `0\r\n\r\n${HIDDEN}`)],
  ['chunks on a folded line', post(['Transfer-Encoding:\r\n chunked'], `0\r\n\r\n${HIDDEN}`)],
  ['a header on a folded line', post(['X: y', ' Content-Length: 0'], HIDDEN)],
  ['a chunk whose size has a sign', post(['Transfer-Encoding: chunked'], `+0\r\n\r\n${HIDDEN}`)],
  ['a chunk whose size has a prefix', post(['Transfer-Encoding: chunked'], `0x0\r\n\r\n${HIDDEN}`)],
  ['a chunk whose size has a blank', post(['Transfer-Encoding: chunked'], `0 \r\n\r\n${HIDDEN}`)],
  ['a chunk whose size overflows', post(['Transfer-Encoding: chunked'], `${'f'.repeat(20)}\r\n${HIDDEN}\r\n0\r\n\r\n`)],
  ['a chunk longer than it says', post(['Transfer-Encoding: chunked'], `1\r\nxx\r\n0\r\n\r\n${HIDDEN}`)],
  ['a chunk that ends in a line feed', post(['Transfer-Encoding: chunked'], `1\nx\n0\n\n${HIDDEN}`)],
  ['an extension with a line feed', post(['Transfer-Encoding: chunked'], `1;a\nb\r\nx\r\n0\r\n\r\n${HIDDEN}`)],
  ['a name with a byte of nought', post(['X\0: y', 'Content-Length: 0'], HIDDEN)],
  ['a value with a byte of nought', post(['X: \0', 'Content-Length: 0'], HIDDEN)],
  ['a name without a colon', post(['X', 'Content-Length: 0'], HIDDEN)],
  ['an empty name', post([': y', 'Content-Length: 0'], HIDDEN)],
  ['another protocol', `POST /x HTTQ/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n${HIDDEN}`],
  ['a later version', `POST /x HTTP/9.9\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n${HIDDEN}`],
  ['no version', `POST /x\r\nHost: localhost\r\n\r\n${HIDDEN}`],
  ['the preface of HTTP/2', `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n${HIDDEN}`],
  ['lines that end in a line feed', `POST /x HTTP/1.1\nHost: localhost\nContent-Length: 0\n\n${HIDDEN}`],
  ['no Host', `POST /x HTTP/1.1\r\nContent-Length: 0\r\n\r\n${HIDDEN}`],
  ['a hello of TLS', `\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03${HIDDEN}`],
  ['a hidden request as its body', post([`Content-Length: ${HIDDEN.length}`], HIDDEN)],
  ['a hidden request in a chunk', post(['Transfer-Encoding: chunked'], `${hex(HIDDEN)}\r\n${HIDDEN}\r\n0\r\n\r\n`)],
  [
    'a hidden request in the trailer',
    post(['Transfer-Encoding: chunked'], `0\r\nX: ${HIDDEN.replaceAll('\r\n', ' ')}\r\n\r\n`),
  ],
]

describe('a request that two parsers could read differently', () => {
  /** What comes within a moment, or until the line ends. */
  const told = async (bytes: string, isUpgrade = false) => {
    const line = await dial(gateway.port)
    line.write(Buffer.from(bytes, 'latin1'))
    line.socket.end()
    await line.until(() => false)
    const text = line.received.toString('latin1')
    return isUpgrade ? [text] : answersIn(text).map(({ status }) => status)
  }

  it.each(SMUGGLED)('%s, never begins a second one', async (_, bytes) => {
    const statuses = await told(bytes)
    expect(statuses.length).toBeLessThanOrEqual(1)
    expect(statuses).not.toContain(200)
    expect(statuses).not.toContain(101)
  })

  it('is told from two that follow each other', async () => {
    expect(await told(post(['Content-Length: 2'], `{}${HIDDEN}`))).toEqual([404, 200])
    expect(await told(post(['Transfer-Encoding: chunked'], `2\r\n{}\r\n0\r\n\r\n${HIDDEN}`))).toEqual([404, 200])
  })

  it('is no upgrade with a body, of another method, version or key', async () => {
    const upgrade = (first: string, headers: string[]) =>
      `${[first, 'Host: localhost', ...headers].join('\r\n')}\r\n\r\n`
    const without = (name: string) => UPGRADE.filter((line) => !line.startsWith(name))
    for (const bytes of [
      ...['POST', 'PUT', 'HEAD', 'OPTIONS', 'CONNECT'].map((method) => upgrade(`${method} / HTTP/1.1`, UPGRADE)),
      upgrade('GET / HTTP/1.1', without('Sec-WebSocket-Key')),
      upgrade('GET / HTTP/1.1', without('Connection')),
      upgrade('GET / HTTP/1.1', [...without('Upgrade'), 'Upgrade: h2c']),
      upgrade('GET / HTTP/1.1', [...without('Upgrade'), 'Upgrade: websocket, h2c']),
      upgrade('GET / HTTP/1.1', [...without('Sec-WebSocket-Key'), 'Sec-WebSocket-Key: short']),
      upgrade('GET / HTTP/1.1', [...UPGRADE, 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==']),
    ])
      expect([bytes, ...(await told(bytes, true))][1]).not.toMatch(/^HTTP\/1\.1 101/)
    for (const version of [undefined, '0', '7', '8', '12', '14', '255', '-13', '0xd', '13.0', '13, 14', '8, 13']) {
      const headers = version === undefined ? [] : [`Sec-WebSocket-Version: ${version}`]
      const [answer] = await told(upgrade('GET / HTTP/1.1', [...without('Sec-WebSocket-Version'), ...headers]), true)
      expect([version, answer]).toEqual([version, expect.stringMatching(/^HTTP\/1\.1 426 Upgrade Required\r\n/)])
      expect(answer).toContain('\r\nSec-WebSocket-Version: 13\r\n')
    }
  })
})

/** Ways to write a step up, a slash and a name, which some server has taken for such. */
const UP = [
  '..',
  '.',
  '%2e%2e',
  '%2e.',
  '.%2e',
  '%252e%252e',
  '%c0%ae%c0%ae',
  '%e0%80%ae.',
  '..;',
  '...',
  '.\u002e%00',
  '%uff0e%uff0e',
  '..%01',
  '~',
]
const SLASH = ['/', '//', '\\', '%2f', '%5c', '%252f', '%c0%af', '%e0%80%af', '%u2215', '/./', '/;/', '%2f%2f', '\\\\']
const NAMES = [
  ...[
    'planted.txt',
    'index.html',
    'logs/planted.txt',
    'openclaw.json5',
    'kurultai.sqlite',
    'gateway-token',
    'package.json',
  ],
  ...[
    'etc/passwd',
    'etc%2fpasswd',
    'proc/self/environ',
    'src/index.ts',
    'dist/index.js',
    '.git/config',
    'health',
    'ws',
  ],
]
const ENDS = [
  '',
  '%00',
  '%00.html',
  '?',
  '?/../planted.txt',
  '#',
  ';.html',
  '.',
  '/',
  '/.',
  '%20',
  '::$DATA',
  '.gz',
  '~',
]

describe('a path', () => {
  it('of ten thousand that lead elsewhere leads nowhere: the answers are those that everybody knows', async () => {
    const next = random(SEED)
    const one = <T>(list: T[]): T => list[Math.floor(next() * list.length)]!
    const paths = new Set<string>()
    while (paths.size < 10_000) {
      const steps = Array.from({ length: Math.floor(next() * 6) }, () => one(UP) + one(SLASH)).join('')
      const from = one([
        '/',
        '/',
        '/',
        '/health/',
        '/assets/',
        '//',
        '/\\',
        `${gateway.stateDir}/`,
        'file://',
        'http://localhost/',
      ])
      paths.add(from + steps + one(NAMES) + one(ENDS))
    }
    const asked = async (batch: string[]): Promise<Answer[]> => {
      const requests = batch.map((path, n) => request(`GET ${path} HTTP/1.1`, n === batch.length - 1 ? [last] : []))
      const { text } = await answerTo(gateway.port, requests.join(''))
      expect(text).not.toContain(CANARY)
      return answersIn(text)
    }
    const judge = (path: string, { status, body }: Answer) => {
      const name = path.split('?', 1)[0]!
      // What is no path names nothing, and is answered with the page.
      const isKnown = ROUTES.includes(name) || !name.startsWith('/')
      expect([path, status]).toEqual([path, isKnown ? 200 : 404])
      if (!ROUTES.includes(name)) expect(body).toBe(isKnown ? page.body.toString('latin1') : NOT_FOUND)
    }
    const plain = [...paths].filter((path) => path.startsWith('/'))
    for (let at = 0; at < plain.length; at += 200) {
      const batch = plain.slice(at, at + 200)
      const answers = await asked(batch)
      expect(answers).toHaveLength(batch.length)
      for (const [n, answer] of answers.entries()) judge(batch[n]!, answer)
    }
    // Whole addresses; the parser refuses some.
    for (const path of paths) if (!path.startsWith('/')) for (const answer of await asked([path])) judge(path, answer)
    expect(plain.length).toBeGreaterThan(5_000)
  })

  it('is no upgrade either, unless it is one that is served', async () => {
    for (const path of ['/../ws', '/ws/..', '/%77s', '//ws', '/ws/../planted.txt', '/ws%00', '/gateway/x', '\\ws'])
      expect([path, (await answerTo(gateway.port, request(`GET ${path} HTTP/1.1`, UPGRADE))).status]).toEqual([
        path,
        path === '\\ws' ? 'none' : '404',
      ])
  })
})

describe('a name of a client', () => {
  it('is never the name of a file, whatever it is the name of', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'kurultai-names-'))
    mkdirSync(join(folder, 'state'))
    const store = await openStore('sqlite', { path: join(folder, 'state', 'kurultai.sqlite') })
    const alone = await startGateway({ store, config: { commands: { config: true } } })
    const mark = 'mark-81c2'
    const names = [
      `../../${mark}`,
      `/${mark}`,
      `${folder}/${mark}`,
      `..\\..\\${mark}`,
      `${mark}\0.txt`,
      `%2e%2e%2f${mark}`,
      `~/${mark}`,
      `file:///tmp/${mark}`,
      `agent:main:../../../${mark}`,
      `con/${mark}`,
    ]
    const peer = await alone.connect()
    for (const name of names) {
      const image = { type: 'image', mimeType: 'image/png', fileName: name, content: 'iVBORw0KGgo=' }
      const turn = { sessionKey: name, message: 'x', idempotencyKey: name, attachments: [image] }
      await peer.request('chat.send', turn, name.slice(0, 128))
      await peer.request('agent', { message: 'x', idempotencyKey: `2 ${name}`, sessionKey: name, agentId: name })
      await peer.request('chat.inject', { sessionKey: name, message: name, label: name })
      await peer.request('sessions.patch', { key: name, label: name.slice(0, 60), model: name })
      for (const method of ['chat.history', 'chat.abort', 'chat.resume', 'sessions.reset', 'sessions.delete'])
        await peer.request(method, { sessionKey: name, key: name, runId: name })
      await peer.request('agent.identity.get', { agentId: name, sessionKey: name })
      await peer.request('tokens.create', { name, scopes: ['operator.read'] })
      const guest = await openPeer(alone.url)
      await guest.next()
      await guest.request('connect', {
        ...CONNECT,
        client: { ...CONNECT.client, id: name, instanceId: name, displayName: name },
      })
      guest.socket.terminate()
    }
    const made = [folder, alone.stateDir].flatMap((at) => readdirSync(at, { recursive: true, encoding: 'utf8' }))
    expect(made.filter((file) => file.includes('81c2'))).toEqual([])
    for (const at of [tmpdir(), homedir(), process.cwd(), '/'])
      expect(readdirSync(at).filter((file) => file.includes('81c2'))).toEqual([])
    expect(existsSync(join(folder, 'state', 'kurultai.sqlite'))).toBe(true)
    await alone.stop()
    rmSync(folder, { recursive: true, force: true })
  })
})

describe('a query', () => {
  const queries = [
    ...[
      '?gatewayUrl=wss://evil.example',
      '?gatewayUrl=//evil.example',
      '?url=wss://evil.example',
      '?ws=wss://evil.example',
    ],
    ...[
      '?host=evil.example',
      '?server=evil.example',
      '?redirect=https://evil.example',
      '?next=//evil.example',
      '?base=x',
    ],
    ...[
      '?session=%3Cscript%3Ealert(1)%3C/script%3E',
      '?theme=";alert(1)//',
      '?callback=alert',
      '?jsonp=alert',
      '?x=%0d%0aSet-Cookie:a=b',
    ],
    ...[
      '?',
      '??',
      '?a=b&a=c',
      '?__proto__[x]=1',
      '?constructor.prototype.x=1',
      '?%00',
      '?%ff',
      `?${'a'.repeat(8_000)}`,
    ],
    ...Array.from({ length: 28 }, (_, n) => `?gatewayUrl=${'%25'.repeat(n)}wss%3A%2F%2Fevil${n}.example&token=${n}`),
  ]

  it('chooses nothing: the page is the same bytes, runs no script, and may ask nobody', async () => {
    expect(queries.length).toBeGreaterThanOrEqual(50)
    const digest = (text: string) => createHash('sha256').update(text, 'latin1').digest('hex')
    for (const query of queries) {
      const { status, headers, body } = (await ask(`GET /${query}`))!
      expect([query, status, digest(body)]).toEqual([query, 200, digest(page.body.toString('latin1'))])
      expect(headers['content-security-policy']).toContain("default-src 'none'")
      expect(headers['content-security-policy']).not.toMatch(/connect-src|script-src|img-src/)
      expect(Object.keys(headers)).not.toContain('location')
    }
    expect(page.body.toString()).not.toMatch(/<script|\son\w+=|src=|href="(?!health"|readyz")/i)
  })

  it('is no credential, and a token in it does not reach the log', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'kurultai-query-'))
    const file = join(folder, 'gateway.log')
    const { log, close } = openLog({ level: 'trace', consoleLevel: 'silent', file })
    const logging = await startGateway({ log, env: { LOG_LEVEL: 'trace' } })
    for (const path of [`/?token=${TOKEN}`, `/ws?token=${TOKEN}&auth=${TOKEN}`, `/?password=${TOKEN}&token=`])
      for (const headers of [{}, { Authorization: `Bearer ${TOKEN}`, Cookie: `token=${TOKEN}` }]) {
        const peer = await logging.open({ path, headers })
        await peer.next()
        const { auth: _, ...params } = CONNECT
        expect(await peer.request('connect', params)).toMatchObject({ ok: false })
        await peer.closed
      }
    await expect(openPeer(logging.url, { path: `/x?token=${TOKEN}` })).rejects.toMatchObject({ status: 404 })
    await expect(
      openPeer(logging.url, { path: `/?token=${TOKEN}`, headers: { Origin: `https://evil.example/?token=${TOKEN}` } }),
    ).rejects.toMatchObject({ status: 403 })
    await logging.stop()
    close()
    const text = readFileSync(file, 'utf8')
    expect(text).toContain('connection refused')
    expect(text).not.toContain(TOKEN)
    expect(text).not.toContain(Secret.marker)
    rmSync(folder, { recursive: true })
  })
})

import type { IncomingMessage } from 'node:http'
import { connect } from 'node:net'
import { describe, expect, it } from 'vitest'
import { parseRange } from '../../src/config/address.ts'
import { type DoorPolicy, knock } from '../../src/transport/door.ts'
import { startGateway } from '../support/gateway.ts'

const POLICY: DoorPolicy = {
  allowedOrigins: ['https://kurultai.example', 'https://chat.kurultai.example:8443', 'http://10.1.2.3:18789'],
  trustedProxies: [parseRange('10.0.0.9')!],
}

/** A request as the HTTP parser gives it. */
function request(headers: Record<string, string | undefined>, remoteAddress = '127.0.0.1'): IncomingMessage {
  const given = Object.fromEntries(
    Object.entries(headers).flatMap(([name, value]) => (value === undefined ? [] : [[name.toLowerCase(), value]])),
  )
  return {
    url: '/',
    httpVersion: '1.1',
    headers: given,
    headersDistinct: Object.fromEntries(Object.entries(given).map(([name, value]) => [name, [value]])),
    socket: { remoteAddress },
  } as unknown as IncomingMessage
}

const statusOf = (headers: Record<string, string | undefined>, address?: string): number => {
  const knocked = knock(request(headers, address), POLICY)
  return knocked.admitted ? 101 : knocked.status
}

/** Names no stranger's DNS can lead here by, and those of the list; each with any port and in either case. */
const OURS = [
  ...['localhost', 'LocalHost', '127.0.0.1', '127.9.9.9', '0.0.0.0', '192.168.1.20', '10.1.2.3', '255.255.255.255'],
  ...['[::1]', '[::]', '[fe80::1]', '[2001:db8::1]', '[::ffff:127.0.0.1]', '[2001:DB8:0:0:0:0:0:1]'],
  // Other spellings of addresses: browsers look none of them up.
  ...['127.1', '0x7f.0.0.1', '2130706433', '0177.0.0.1'],
  ...['gateway', 'GATEWAY', 'kurultai_gateway', 'my-host', 'n1', 'xn--bcher-kva', 'a'],
  ...['host.docker.internal', 'gateway.internal', 'a.b.c.internal', 'HOST.Docker.Internal'],
  ...['kurultai.example', 'KURULTAI.example', 'chat.kurultai.example'],
]
const STRANGERS = [
  ...[
    'evil.example',
    'localhost.',
    'LOCALHOST.',
    '127.0.0.1.',
    'kurultai.example.',
    'gateway.',
    'host.docker.internal.',
  ],
  ...['127.0.0.1.nip.io', '127-0-0-1.nip.io', '7f000001.nip.io', 'localtest.me', 'lvh.me', '127.0.0.1.sslip.io'],
  ...['localhost.evil.example', 'evil.example.localhost.evil.example', 'kurultai.example.evil.example'],
  ...['evilkurultai.example', 'www.kurultai.example', 'x.chat.kurultai.example', 'kurultai.example.co'],
  ...['internal.evil.example', 'evil-internal.example', 'docker.internal.example', 'evil.internal.', 'evil.internals'],
  ...['.localhost', '.kurultai.example', '..', '.', ''],
  ...['.internal', '..internal', 'a..internal'],
  ...['256.0.0.1', '1.2.3.4.5', '127.0.0.1.1', '1.2.3.999', '127.0.0.1x', '1e3.2.3.4'],
  ...[
    '[::1%lo]',
    '[fe80::1%eth0]',
    '[fe80::1%25eth0]',
    '[::1',
    '::1]',
    '[]',
    '[:::1]',
    '[127.0.0.1]',
    '[evil.example]',
    '[v1.a]',
  ],
  ...[
    'user@localhost',
    'user:pass@localhost',
    'localhost@evil.example',
    'localhost/evil',
    'localhost?x',
    'localhost#x',
  ],
  ...[
    'localhost\\evil',
    'http://localhost',
    '//localhost',
    'localhost,evil.example',
    'localhost evil',
    ' localhost',
    'localhost ',
  ],
  ...[
    'local%68ost',
    '%6cocalhost',
    'l\u00f6calhost',
    'b\u00fccher.example',
    '127.0.0.1\u3002evil',
    'loc*lhost',
    '*',
    'local\tho',
  ],
  ...[
    'localhost:',
    'localhost:x',
    'localhost:-1',
    'localhost:65536',
    'localhost:123456',
    'localhost:80:80',
    'evil.example:80',
  ],
  ...['[::1]:', '[::1]x', '[::1]:x', '[::1].evil.example', '[::1]80', 'evil.example:18789', 'rebind.network'],
]

describe('a Host that a browser sends directly', () => {
  it('is one of a hundred forms, each of which is ours or is not', () => {
    expect(new Set([...OURS, ...STRANGERS]).size).toBeGreaterThan(100)
    for (const signs of [
      { 'Sec-Fetch-Mode': 'websocket' },
      { 'Sec-Fetch-Site': 'same-origin' },
      { 'Sec-Fetch-Dest': 'empty' },
    ]) {
      for (const Host of OURS)
        for (const port of ['', ':80', ':18789', ':65535'])
          expect([Host + port, statusOf({ ...signs, Host: Host + port })]).toEqual([Host + port, 101])
      for (const Host of STRANGERS) expect([Host, statusOf({ ...signs, Host })]).toEqual([Host, 421])
    }
  })

  it('is told that it is not ours before its Origin is looked at', () => {
    for (const Host of STRANGERS) {
      expect([Host, statusOf({ Origin: `http://${Host}`, Host })]).toEqual([Host, 421])
      expect([Host, statusOf({ Origin: 'https://kurultai.example', Host })]).toEqual([Host, 421])
    }
  })

  it('may be anything where no browser sends it, or a listed proxy passes it on', () => {
    for (const Host of STRANGERS) {
      expect(statusOf({ Host })).toBe(101)
      expect(statusOf({ Host, 'Sec-Fetch-Mode': 'websocket', 'X-Forwarded-For': '198.51.100.1' }, '10.0.0.9')).toBe(101)
      expect(statusOf({ Host, 'Sec-Fetch-Mode': 'websocket', 'X-Forwarded-For': '198.51.100.1' })).toBe(421)
    }
  })
})

it('a request is passed on wherever a header says so, also by a proxy that names itself', () => {
  const isForwarded = (headers: Record<string, string>, address: string) => {
    const knocked = knock(request({ Host: 'localhost', ...headers }, address), POLICY)
    return knocked.admitted && knocked.isForwarded
  }
  expect(isForwarded({ 'X-Forwarded-For': '10.0.0.9' }, '10.0.0.9')).toBe(true)
  expect(isForwarded({ 'X-Forwarded-For': '198.51.100.1' }, '10.0.0.9')).toBe(true)
  expect(isForwarded({ Forwarded: 'for=127.0.0.1' }, '127.0.0.1')).toBe(true)
  expect(isForwarded({}, '10.0.0.9')).toBe(false)
})

it.each([
  ['203.0.113.7', '203.0.113.7'],
  ['203.0.113.7:55555', '203.0.113.7'],
  ['198.51.100.1, 203.0.113.7:1', '203.0.113.7'],
  ['203.0.113.7:1, 10.0.0.9:2', '203.0.113.7'],
  ['[2001:db8::1]:443', '2001:db8::1'],
  ['[2001:db8::1]', '2001:db8::1'],
  ['2001:db8::1', '2001:db8::1'],
  ['::ffff:203.0.113.7', '203.0.113.7'],
  // What is no address is nobody: the proxy itself is the nearest that is known.
  ['203.0.113.7:', undefined],
  ['203.0.113.7:x', undefined],
  ['203.0.113.7:1:2', undefined],
  ['198.51.100.1, unknown', undefined],
  ['', undefined],
])('a listed proxy that says X-Forwarded-For: %s speaks for %s', (chain, client) => {
  const knocked = knock(request({ Host: 'localhost', 'X-Forwarded-For': chain }, '10.0.0.9'), POLICY)
  expect(knocked).toMatchObject({
    namesNobody: client === undefined,
    facts: { clientAddress: client ?? '10.0.0.9', guesser: { isShared: client === undefined } },
  })
})

it('a listed proxy that says so in another header only speaks for nobody', () => {
  const namesNobody = (headers: Record<string, string>, address: string) => {
    const knocked = knock(request({ Host: 'localhost', ...headers }, address), POLICY)
    return knocked.admitted && knocked.namesNobody
  }
  expect(namesNobody({ Forwarded: 'for=203.0.113.7' }, '10.0.0.9')).toBe(true)
  expect(namesNobody({ 'X-Forwarded-Proto': 'https' }, '10.0.0.9')).toBe(true)
  expect(namesNobody({ Forwarded: 'for=203.0.113.7' }, '203.0.113.7')).toBe(false)
  expect(namesNobody({}, '10.0.0.9')).toBe(false)
})

/** What an Origin is, read letter by letter; undefined if it is not written as browsers write it. */
function readOrigin(origin: string): { scheme: string; host: string; port: string } | undefined {
  const [, scheme, host, port] =
    /^(https?):\/\/((?:[a-z0-9_-]+\.)*[a-z0-9_-]+|\[[0-9a-f:.]+\])(?::([1-9]\d{0,4}))?$/.exec(origin) ?? []
  if (scheme === undefined || host === undefined) return undefined
  return { scheme, host, port: port ?? '' }
}

/** Whether a page of this origin may come by this Host, which is ours. */
function mayCome(origin: string, host: string): boolean {
  const read = readOrigin(origin)
  if (!read) return false
  const isSame = (other: { scheme?: string; host: string; port: string }) =>
    (other.scheme ?? read.scheme) === read.scheme && other.host === read.host && other.port === read.port
  const [, name, port = ''] = /^(\[.*\]|[^:]*)(?::(\d+))?$/.exec(host.toLowerCase())!
  return (
    isSame({ host: name!, port }) ||
    isSame({ scheme: 'https', host: 'kurultai.example', port: '' }) ||
    isSame({ scheme: 'https', host: 'chat.kurultai.example', port: '8443' }) ||
    isSame({ scheme: 'http', host: '10.1.2.3', port: '18789' })
  )
}

/** Some of an origin's near relations. */
function variants(origin: string): string[] {
  const { scheme, host, port } = readOrigin(origin)!
  const at = (name: string, suffix = port && `:${port}`) => `${scheme}://${name}${suffix}`
  return [
    origin,
    origin.toUpperCase(),
    at(host.toUpperCase()),
    origin.replace(scheme, scheme.toUpperCase()),
    origin.replace(scheme, scheme === 'http' ? 'https' : 'http'),
    ...['ws', 'wss', 'file', 'chrome-extension', 'javascript'].map((other) => origin.replace(scheme, other)),
    ...['/', '/x', '?', '#', '#x', ' ', '\t', '.', ':', ':0', `, ${origin}`, ' https://evil.example'].map(
      (end) => origin + end,
    ),
    ` ${origin}`,
    at(`${host}.`),
    at(`${host}.evil.example`),
    at(`evil-${host}`),
    at(`evil.${host}`),
    at(`user@${host}`),
    at(`user:pass@${host}`),
    at(`evil.example@${host}`),
    at(`${host}@evil.example`),
    at(host, ':1'),
    at(host, ''),
    at(host, ':80'),
    at(host, ':443'),
    at(host, ':018789'),
    at(host.replace(/[ae]/, '\u0430')),
    at(host.replace(/[ae01]/, '%61')),
    origin.replace('://', ':'),
    origin.replace('://', ':///'),
    origin.replace('://', ':\\\\'),
  ]
}

describe('an Origin', () => {
  const hosts = [
    '127.0.0.1:18789',
    'localhost:18789',
    'LOCALHOST:18789',
    '[::1]:18789',
    'gateway',
    'kurultai.example',
    'host.docker.internal:8443',
  ]
  const origins = [
    ...new Set([
      ...[
        '',
        'null',
        'NULL',
        '*',
        'https://*',
        'https://*.example',
        'undefined',
        'http://',
        'https://',
        '//localhost:18789',
      ],
      ...[
        'https://evil.example',
        'http://0.0.0.0:18789',
        'http://127.1:18789',
        'http://0x7f.1:18789',
        'http://2130706433:18789',
      ],
      ...[
        'http://[::ffff:127.0.0.1]:18789',
        'http://[0:0:0:0:0:0:0:1]:18789',
        'https://xn--kurulti-9fg.example',
        'about:blank',
      ],
      ...POLICY.allowedOrigins.flatMap(variants),
      ...['http://127.0.0.1:18789', 'http://localhost:18789', 'http://[::1]:18789', 'https://gateway'].flatMap(
        variants,
      ),
    ]),
  ]

  it('of three hundred is let in where a reading letter by letter says so, whatever its Host', () => {
    expect(origins.length).toBeGreaterThan(270)
    let admitted = 0
    for (const Host of hosts)
      for (const Origin of origins) {
        const may = mayCome(Origin, Host)
        expect([Host, Origin, statusOf({ Origin, Host })]).toEqual([Host, Origin, may ? 101 : 403])
        admitted += Number(may)
      }
    expect(admitted).toBeGreaterThan(hosts.length * 4)
    expect(admitted).toBeLessThan(hosts.length * 8)
  })

  it('through a listed proxy is held to the host that the proxy names, and from a stranger to the Host alone', () => {
    for (const Origin of origins)
      for (const named of ['Chat.example', 'kurultai.example', 'chat.example:8443']) {
        const through = { Origin, Host: 'gateway:18789', 'X-Forwarded-Host': named, 'X-Forwarded-For': '198.51.100.1' }
        expect([Origin, named, statusOf(through, '10.0.0.9')]).toEqual([
          Origin,
          named,
          mayCome(Origin, named) ? 101 : 403,
        ])
        expect([Origin, statusOf(through)]).toEqual([Origin, mayCome(Origin, 'gateway:18789') ? 101 : 403])
      }
    const own = { Origin: 'https://chat.example', Host: 'gateway:18789', 'X-Forwarded-Host': 'chat.example' }
    expect([statusOf(own, '10.0.0.9'), statusOf(own, '10.0.0.8')]).toEqual([101, 403])
  })
})

describe('over the wire', () => {
  const UPGRADE = [
    'Connection: Upgrade',
    'Upgrade: websocket',
    'Sec-WebSocket-Version: 13',
    'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
  ]
  const answer = (port: number, lines: string[]) =>
    new Promise<string>((resolve, reject) => {
      const socket = connect(port, '127.0.0.1', () => socket.write(`${lines.join('\r\n')}\r\n\r\n`))
      socket.setTimeout(5_000, () => socket.destroy(new Error('no answer')))
      socket.once('data', (data) => {
        resolve(data.toString('latin1').split('\r\n', 1)[0]!.split(' ')[1]!)
        socket.destroy()
      })
      socket.once('close', () => resolve('gone'))
      socket.once('error', reject)
    })

  it.each([
    ['one Host', ['GET / HTTP/1.1', 'Host: localhost'], '101'],
    ['two of them', ['GET / HTTP/1.1', 'Host: localhost', 'Host: localhost'], '400'],
    ['two that differ', ['GET / HTTP/1.1', 'Host: localhost', 'host: evil.example'], '400'],
    ['a stranger’s, in a browser', ['GET / HTTP/1.1', 'Host: evil.example', 'Sec-Fetch-Site: cross-site'], '421'],
    ['an absolute target, which names nothing', ['GET http://evil.example/ HTTP/1.1', 'Host: localhost'], '101'],
    [
      'two Origins',
      ['GET / HTTP/1.1', 'Host: localhost', 'Origin: http://localhost', 'Origin: http://localhost'],
      '403',
    ],
    ['an empty Origin', ['GET / HTTP/1.1', 'Host: localhost', 'Origin:'], '403'],
    ['no Host in HTTP/1.0, in a browser', ['GET / HTTP/1.0', 'Origin: http://localhost'], '403'],
  ])('%s is answered with what stands behind', async (_, lines, status) => {
    await using gateway = await startGateway()
    expect(await answer(gateway.port, [...lines, ...UPGRADE])).toBe(status)
  })

  it('no Host at all is no request of HTTP/1.1', async () => {
    await using gateway = await startGateway()
    expect(await answer(gateway.port, ['GET / HTTP/1.1', ...UPGRADE])).toBe('400')
  })
})

describe('somebody here', () => {
  const host = '127.0.0.1:18789'
  it.for<[what: string, headers: Record<string, string | undefined>, address: string, isHere: boolean]>([
    ['a program', { host }, '127.0.0.1', true],
    ['a program that sends no Host', {}, '::1', true],
    ["the gateway's own page", { host, origin: `http://${host}` }, '127.0.0.1', true],
    ["the gateway's own page by another name", { host: 'LOCALHOST:1', origin: 'https://localhost:1' }, '::1', true],
    ['a page of the list', { host, origin: 'https://kurultai.example' }, '127.0.0.1', false],
    ['a page of the list, at an address', { host, origin: 'http://10.1.2.3:18789' }, '127.0.0.1', false],
    ['a page of the list that sends no Host', { origin: 'https://kurultai.example' }, '127.0.0.1', false],
    [
      'a page of the list by its own name',
      { host: 'kurultai.example', origin: 'https://kurultai.example' },
      '::1',
      false,
    ],
    ['a program from afar', { host }, '10.1.1.1', false],
    ['the own page from afar', { host: '10.1.2.9:1', origin: 'http://10.1.2.9:1' }, '10.1.1.1', false],
  ])('is, or is not, %s', ([, headers, address, isHere]) => {
    const httpVersion = headers['host'] === undefined ? '1.0' : '1.1'
    const knocked = knock(Object.assign(request(headers, address), { httpVersion }), POLICY)
    expect(knocked.admitted && knocked.facts.local).toBe(isHere)
  })
})

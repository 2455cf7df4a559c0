/** What strangers can make the log say: it stays JSON lines, one event a line, and does not fill the disk. */
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type Logs, openLog, readable } from '../../src/logging.ts'
import { random } from '../long/suite.ts'
import { CONNECT, startGateway, type TestGatewayOptions } from '../support/gateway.ts'
import { answerTo, dial, request, UPGRADE } from './raw-line.ts'

const SEED = 20_260_732
let folder: string
let file: string
let logs: Logs | undefined
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'kurultai-log-'))
  file = join(folder, 'gateway.log')
})
afterEach(() => {
  logs?.close()
  rmSync(folder, { recursive: true })
})

/** A gateway that logs to the file. */
function logging(level: 'trace' | 'info', options: TestGatewayOptions = {}) {
  logs = openLog({ level, consoleLevel: 'silent', file })
  const limits = { requestsPerSecond: 0, preauthPerIp: 0, deniedPerMinute: 0 }
  return startGateway({ log: logs.log, config: { gateway: { limits } }, ...options })
}

/** What moves a cursor, turns text round, ends a line, or looks like another entry. */
const TRICKS = [
  ...[
    '\n',
    '\r',
    '\r\n',
    '\t',
    '\0',
    '\x07',
    '\b',
    '\x1b[2J',
    '\x1b[1;31m',
    '\x1b]0;title\x07',
    '\x1b]8;;http://evil.example\x07',
    '\x7f',
  ],
  ...[
    '\u0085',
    '\u009b2J',
    '\u009d0;t\u009c',
    '\u2028',
    '\u2029',
    '\u202a',
    '\u202b',
    '\u202d',
    '\u202e',
    '\u2066',
    '\u2067',
    '\u2068',
  ],
  ...[
    '\u2069',
    '\u200e',
    '\u200f',
    '\u061c',
    '\ufeff',
    '"',
    '\\',
    '\\n',
    '\\u000a',
    '"}',
    '"}\n{"level":60,"msg":"forged"}',
    '{"a":1}',
    '${jndi:ldap://x}',
    '%s%n%d',
  ],
]
/** Raw, none of these may stand in the file, or on a terminal. */
const RAW = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/

const next = random(SEED)
const one = <T>(list: T[]): T => list[Math.floor(next() * list.length)]!
const hostile = (most: number): string => {
  const parts = Array.from(
    { length: 1 + Math.floor(next() * 4) },
    () => one(TRICKS) + one(['', 'x', 'admin', '2026-01-01 ERROR ']),
  )
  return `mark ${parts.join('')}`.slice(0, most)
}

function linesOf(): { text: string; entry: { [name: string]: unknown } }[] {
  const text = readFileSync(file, 'utf8')
  expect(text.endsWith('\n')).toBe(true)
  return text
    .slice(0, -1)
    .split('\n')
    .map((line) => ({ text: line, entry: JSON.parse(line) as { [name: string]: unknown } }))
}

function judge(lines: ReturnType<typeof linesOf>): void {
  for (const { text, entry } of lines) {
    expect(text).not.toMatch(RAW)
    expect(text.length).toBeLessThan(16 * 1024)
    expect(entry['msg']).not.toBe('forged')
    expect(entry).toMatchObject({ level: expect.any(Number), time: expect.any(Number), msg: expect.any(String) })
    const shown = readable(`${text}\n`)
    expect(shown.replace(/\n(?= {4}at )/g, '').split('\n').length).toBeLessThanOrEqual(entry['err'] ? 60 : 2)
    expect(shown).not.toMatch(RAW)
  }
}

describe('the log', () => {
  it('has a line for each of four thousand names of methods, and none that was made up', async () => {
    const gateway = await logging('trace')
    const peer = await gateway.connect({ minProtocol: 4, maxProtocol: 4 })
    const before = linesOf().length
    for (let n = 0; n < 4_000; n++)
      peer.send({ type: 'req', id: `${n}`, method: n % 50 === 0 ? hostile(60) + 'x'.repeat(10_000) : hostile(500) })
    await peer.next(({ id }) => id === '3999')
    const lines = linesOf().slice(before)
    judge(lines)
    expect(lines.filter(({ entry }) => entry['kind'] === 'UNKNOWN_METHOD')).toHaveLength(4_000)
    await gateway.stop()
  })

  it('has a line for each of two thousand parameters that are refused', async () => {
    const gateway = await logging('trace')
    const peer = await gateway.connect({ minProtocol: 4, maxProtocol: 4 })
    const before = linesOf().length
    for (let n = 0; n < 2_000; n++) {
      const text = hostile(500)
      const params = one<object>([
        { [text]: text },
        { sessionKey: text, message: text, idempotencyKey: text, [text]: 1 },
        { sessionKey: `agent:${text}:x`, message: 'x', idempotencyKey: `${n}` },
      ])
      peer.send({ type: 'req', id: `${n}`, method: 'chat.send', params })
    }
    await peer.next(({ id }) => id === '1999')
    await gateway.stop()
    const lines = linesOf().slice(before)
    judge(lines)
    expect(lines.filter(({ entry }) => entry['msg'] === 'request refused').length).toBeGreaterThan(1_000)
  })

  it('has a line for each of five hundred clients that are let in, and some for those that are not, whatever they call themselves', async () => {
    const gateway = await logging('trace')
    for (let n = 0; n < 1_000; n++) {
      const peer = await gateway.open()
      await peer.next()
      const [id, version] = [hostile(120), hostile(120)]
      const params =
        n % 2 === 0
          ? { ...CONNECT, client: { ...CONNECT.client, id, version, displayName: id }, scopes: [version] }
          : {
              ...CONNECT,
              role: hostile(500),
              scopes: [hostile(120)],
              auth: {},
              locale: hostile(500),
              userAgent: hostile(10_000),
            }
      expect((await peer.request('connect', params))['ok']).toBe(n % 2 === 0)
      peer.socket.terminate()
    }
    await gateway.stop()
    const lines = linesOf()
    judge(lines)
    const ofClients = lines.filter(({ entry }) => String(entry['client']).startsWith('mark'))
    expect(ofClients.filter(({ entry }) => entry['msg'] === 'connected')).toHaveLength(500)
    // Of scopes that were refused, only some.
    expect(ofClients.some(({ entry }) => entry['denied'] !== undefined)).toBe(true)
  })

  it('is not told what stands in the headers of three thousand requests, nor ten thousand scopes at length', async () => {
    const gateway = await logging('trace')
    // What a header may hold: no line ends and no nought, those end the request.
    const value = () => Buffer.from(hostile(500).replace(/[\0\r\n]/g, ''), 'utf8').toString('latin1')
    for (let n = 0; n < 3_000; n += 100) {
      const lines = Array.from({ length: 100 }, (_, m) =>
        request('GET /health HTTP/1.1', [
          `User-Agent: ${value()}`,
          `X-Request-Id: ${value()}`,
          ...(m === 99 ? ['Connection: close'] : []),
        ]),
      )
      await answerTo(gateway.port, Buffer.from(lines.join(''), 'latin1'))
    }
    for (let n = 0; n < 300; n++) {
      const headers = one([
        [`Origin: ${value()}`],
        [`X-Forwarded-For: ${value()}`, `Forwarded: ${value()}`],
        [`Origin: http://localhost`, `User-Agent: ${value()}`, `Sec-WebSocket-Protocol: ${value()}`],
      ])
      const line = await dial(gateway.port)
      line.write(Buffer.from(request('GET / HTTP/1.1', [...UPGRADE, ...headers]), 'latin1'))
      await line.until(({ received }) => received.length > 0)
      line.close()
    }
    for (let n = 0; n < 50; n++) {
      const scopes = Array.from({ length: 60 }, () => hostile(120))
      const peer = await gateway.connect({ scopes: [...scopes, 'operator.read'] })
      peer.socket.terminate()
    }
    await gateway.stop()
    const lines = linesOf()
    expect(lines.filter(({ entry }) => entry['msg'] === 'connected')).toHaveLength(50)
    const ofHeaders = lines.filter(({ entry }) => entry['denied'] === undefined)
    for (const { text } of ofHeaders) expect(text).not.toContain('mark')
    judge(lines)
  })

  it('is not filled by those who are refused: a flood leaves a few lines a second', async () => {
    const gateway = await logging('info')
    const before = statSync(file, { throwIfNoEntry: false })?.size ?? 0
    const began = performance.now()
    for (let n = 0; n < 1_000; n += 50)
      await Promise.all(
        Array.from({ length: 50 }, async (_, m) => {
          if (m % 2 === 0) {
            await answerTo(gateway.port, request('GET / HTTP/1.1', [...UPGRADE, 'Origin: https://evil.example']))
            return
          }
          const peer = await gateway.open()
          await peer.next()
          await peer.request('connect', { ...CONNECT, auth: {} })
          peer.socket.terminate()
        }),
      )
    const seconds = Math.ceil((performance.now() - began) / 1_000)
    const lines = linesOf().filter(({ entry }) => /refused/.test(String(entry['msg'])))
    expect(lines.length).toBeGreaterThan(0)
    // Ten a second of each kind, and as many more for the second that had begun.
    expect(lines.length).toBeLessThanOrEqual(20 * (seconds + 1))
    expect(statSync(file).size - before).toBeLessThan((1024 ** 2 / 60) * (seconds + 1))
    await gateway.stop()
  })
})

describe('a listed proxy that names nobody', () => {
  it('is warned of, once', async () => {
    await using gateway = await logging('info', { config: { gateway: { trustedProxies: ['127.0.0.1'] } } })
    for (let n = 0; n < 3; n += 1) await gateway.open({ headers: { forwarded: 'for=203.0.113.7' } })
    await gateway.open({ headers: { 'x-forwarded-for': '203.0.113.7' } })
    const told = linesOf().filter(({ entry }) => String(entry['msg']).includes('a listed proxy does not say'))
    expect(told.map(({ entry }) => entry['proxy'])).toEqual(['127.0.0.1'])
  })
})

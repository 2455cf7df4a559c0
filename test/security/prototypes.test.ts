/** Names that every object has, as members of whatever a client may send. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import JSON5 from 'json5'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { patchText } from '../../src/config/edit.ts'
import { openConfigFile } from '../../src/config/file.ts'
import { loadConfig } from '../../src/config/load.ts'
import { GatewayError } from '../../src/contract/errors.ts'
import { decode } from '../../src/contract/frames.ts'
import { CONNECT, endOf, openPeer, startGateway } from '../support/gateway.ts'
import { startProcess } from '../support/gateway-process.ts'
import { startModelServer } from '../support/model-server.ts'
import { UNCOUNTED } from './ground.ts'

const NAMES = ['__proto__', 'constructor', 'prototype', '__defineGetter__', 'toString', 'valueOf', 'hasOwnProperty']
/** Would change what the gateway does, if it could be inherited. */
const POISON = {
  ok: true,
  polluted: 1,
  scopes: ['operator.admin'],
  auth: { mode: 'none' },
  sessions: [],
  config: true,
  level: 'x',
}

/** Everything that objects of this process inherit, as it is. */
const inherited = () =>
  [Object.prototype, Array.prototype, Function.prototype, String.prototype, Map.prototype, Promise.prototype].map(
    (one) => Reflect.ownKeys(one).map((key) => [String(key), Object.getOwnPropertyDescriptor(one, key)]),
  )
let before: ReturnType<typeof inherited>
beforeEach(() => {
  before = inherited()
})
afterEach(() => {
  const now = inherited()
  for (const one of [Object.prototype, Array.prototype])
    for (const name of Object.keys(POISON)) delete (one as unknown as Record<string, unknown>)[name]
  expect(now).toEqual(before)
  expect(({} as Record<string, unknown>)['polluted']).toBeUndefined()
})

/** The text of an object with one of the names in it, at any depth, around or beside something else. */
const poisoned = (names: string[]) =>
  fc
    .record({
      path: fc.array(fc.constantFrom(...names, ...NAMES), { minLength: 0, maxLength: 6 }),
      name: fc.constantFrom(...NAMES),
      inner: fc.constantFrom(...NAMES, 'x'),
      value: fc.constantFrom<unknown>(POISON, { polluted: 1 }, null, 1, 'x', [POISON]),
      inArray: fc.boolean(),
    })
    .map(({ path, name, inner, value, inArray }) => {
      const member = (key: string, text: string) => `{"${key}":${text}}`
      const core = member(name, inner === 'x' ? JSON.stringify(value) : member(inner, JSON.stringify(value)))
      return path.reduceRight((text, key) => member(key, text), inArray ? `[${core}]` : core)
    })

/** Whatever is in it is a member of its own, or it is not there: every object stays one like any other. */
function checkOwn(value: unknown, text: string): void {
  if (typeof value !== 'object' || value === null) return
  const usual = Array.isArray(value) ? Array.prototype : Object.prototype
  if (Object.getPrototypeOf(value) !== usual) throw new Error(`another prototype: ${text}`)
  for (const key of Object.keys(value)) checkOwn(Object.getOwnPropertyDescriptor(value, key)!.value, text)
}

describe('a name that every object has', () => {
  let folder: string
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'kurultai-prototypes-'))
  })
  afterEach(() => rmSync(folder, { recursive: true, force: true }))

  it('in a patch of the configuration changes nothing that is read of it, a thousand times on disk', () => {
    const file = join(folder, 'openclaw.json5')
    const text =
      "{ gateway: { auth: { token: 'a-token-that-nobody-sees-0123' } }, agents: { defaults: {} }, commands: { config: true } }"
    writeFileSync(file, text)
    const source = { env: {}, home: folder, cwd: folder, flags: { stateDir: folder, allowUnconfigured: true } }
    const config = openConfigFile(loadConfig(source), source)
    const { hash } = config.show()
    /** What the gateway goes by: all but the text itself, and what is said of it. */
    const meaning = ({ raw: _, parsed: __, warnings: ___, ...rest } = loadConfig(source)) => rest
    const served = meaning()
    let refused = 0
    fc.assert(
      fc.property(
        poisoned(['gateway', 'agents', 'commands', 'auth', 'models', 'defaults', 'list']),
        fc.boolean(),
        (patch, whole) => {
          try {
            if (whole) config.set(patch, hash)
            else config.patch(patch, hash)
          } catch (error) {
            if (!(error instanceof GatewayError)) throw error
            refused += 1
          }
          const now = readFileSync(file, 'utf8')
          if (now !== text) {
            const after = meaning()
            writeFileSync(file, text)
            if (JSON.stringify(after) !== JSON.stringify(served)) throw new Error(`it means something: ${patch}`)
            expect((after as unknown as Record<string, unknown>)['polluted']).toBeUndefined()
          }
        },
      ),
      { numRuns: 1_000 },
    )
    expect(refused).toBeGreaterThan(100)
  })

  it('in a patch is a member of that name, to be refused or written, 4,000 times', () => {
    const text = "{ gateway: { auth: { token: 'a' } }, agents: { defaults: {} }, __proto__: { mine: 1 } }"
    fc.assert(
      fc.property(poisoned(['gateway', 'agents', 'auth', 'defaults']), (patch) => {
        const read: unknown = JSON5.parse(patch)
        if (Array.isArray(read)) return
        checkOwn(JSON5.parse(patchText(text, read as { [name: string]: unknown })), patch)
      }),
      { numRuns: 4_000 },
    )
  }, 60_000)

  it('in a frame becomes at most a member of that name, 95,000 times', () => {
    fc.assert(
      fc.property(
        poisoned(['sessionKey', 'message', 'context', 'auth', 'client', 'device', 'attachments', 'key']),
        (params) => {
          const incoming = decode(Buffer.from(`{"type":"req","id":"1","method":"chat.send","params":${params}}`))
          if (incoming.kind !== 'request') return
          checkOwn(incoming.request, params)
        },
      ),
      { numRuns: 95_000 },
    )
  }, 60_000)

  it('in requests of every kind is refused or does nothing', async () => {
    await using gateway = await startGateway({
      config: { gateway: { limits: UNCOUNTED }, commands: { config: true } },
    })
    const peer = await gateway.connect()
    const { payload } = await peer.request('config.get', {})
    const around: [string, (text: string, at: number) => string][] = [
      ['config.patch', (text) => `{"baseHash":"${payload.hash}","raw":${JSON.stringify(text)}}`],
      ['config.patch', (text) => `{"baseHash":"${payload.hash}","raw":"{}",${text.slice(1)}`],
      ['sessions.patch', (text) => `{"key":"main",${text.slice(1)}`],
      ['sessions.patch', (text) => `{"key":"main","label":${text}}`],
      [
        'chat.send',
        (text, at) => `{"sessionKey":"main","message":"/status","idempotencyKey":"k${at}",${text.slice(1)}`,
      ],
      [
        'chat.send',
        (text, at) => `{"sessionKey":"main","message":"/status","idempotencyKey":"c${at}","context":${text}}`,
      ],
      ['exec.approvals.set', (text) => `{"file":{"version":1,"agents":${text}}}`],
      ['tokens.create', (text) => `{"name":"t","scopes":[],${text.slice(1)}`],
    ]
    const texts = fc
      .sample(poisoned(['gateway', 'context', 'label']), { numRuns: 100, seed: 30 })
      .filter((it) => it[0] === '{')
    for (const [at, text] of texts.entries())
      for (const [method, params] of around) {
        const id = `${at} ${method} ${params('{}', 0).length}`
        const answer = peer.next((frame) => frame['type'] === 'res' && frame['id'] === id)
        peer.send(`{"type":"req","id":"${id}","method":"${method}","params":${params(text, at)}}`)
        await answer
      }
    // As connect parameters, beside and inside of what is right.
    for (const text of texts.slice(0, 40))
      for (const params of [`{${JSON.stringify(CONNECT).slice(1, -1)},${text.slice(1)}`, `{"auth":${text}}`, text]) {
        const stranger = await openPeer(gateway.url)
        await stranger.next()
        stranger.send(`{"type":"req","id":"1","method":"connect","params":${params}}`)
        const answer = await stranger.next(({ type }) => type === 'res')
        if (answer['ok'] && !params.includes(CONNECT.auth.token)) throw new Error(`let in on ${params}`)
        stranger.socket.terminate()
      }
    // What was taken is there as it was sent, and nothing inherits it.
    const { payload: sessions } = await peer.request('sessions.list', {})
    expect(JSON.stringify(sessions)).not.toContain('polluted')
    expect(
      (await peer.request('chat.send', { sessionKey: 'main', message: '/status', idempotencyKey: 'last' }))['ok'],
    ).toBe(true)
    await peer.next(endOf('last'))
    expect((await peer.request('toString', {}))['error'].message).toBe('unknown method: toString')
  })
})

describe('a process without __proto__', () => {
  it('serves a turn: nothing in it reads or sets one', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'kurultai-no-proto-'))
    await using models = await startModelServer()
    // The flag is one for the command line only; `env` sets it without a shell.
    const node = ['env', 'NODE_OPTIONS=--disable-proto=throw']
    expect(
      spawnSync(node[0]!, [node[1]!, process.execPath, '-e', '({}).__proto__'], { encoding: 'utf8' }).status,
    ).not.toBe(0)
    const gateway = await startProcess(folder, models.url, { under: node })
    try {
      const peer = await gateway.connect()
      await peer.request('chat.send', { sessionKey: 'main', message: 'hello', idempotencyKey: 'k' })
      expect((await peer.next(endOf('k')))['payload']).toMatchObject({ state: 'final' })
      for (const method of ['health', 'config.get', 'sessions.list', 'chat.history', 'audit.entries'])
        await peer.request(method, { sessionKey: 'main' })
      expect(await peer.request('health', {})).toMatchObject({ ok: true })
    } finally {
      await gateway.kill()
      rmSync(folder, { recursive: true, force: true })
    }
  })
})

describe('a start without __proto__', () => {
  const read = (file: string) => readFileSync(new URL(`../../${file}`, import.meta.url), 'utf8')
  for (const [file, command] of [
    ['src/index.ts', /^#!\/usr\/bin\/env -S node (.+)\n/],
    ['src/index.ts', /spawn\(node, \[(.+), \.\.\.process\.argv/],
    ['tools/run.mjs', /spawn\(node, \[(.+), join\(root, 'dist\/index\.js'\)/],
    ['Dockerfile', /^CMD \["node", (.+), "dist\/index\.js"/m],
  ] as const)
    it(`is what starts the gateway: ${file} by ${command}`, () => {
      const [, options = ''] = command.exec(read(file)) ?? []
      const { status } = spawnSync(
        process.execPath,
        [...options.split(', ').map((option) => option.replace(/^['"]|['"]$/g, '')), '-e', '({}).__proto__'],
        { encoding: 'utf8' },
      )
      expect([options, status]).toEqual([expect.stringContaining('--disable-proto=throw'), 1])
    })
})

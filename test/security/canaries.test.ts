/** Secrets that are marked, put wherever a secret may stand, and looked for wherever the gateway says something. */
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { METHODS, type MethodName } from '../../src/contract/index.ts'
import { createDevice, nonceOf } from '../support/device.ts'
import { CONNECT, endOf, type Frame, openPeer, type Peer } from '../support/gateway.ts'
import { leave } from '../support/leftovers.ts'
import { UNCOUNTED } from './ground.ts'

const entry = fileURLToPath(new URL('../../src/index.ts', import.meta.url))

const canaries: string[] = []
/** A secret that is like no other text. Not of a form that a scanner for keys would know. */
function canary(): string {
  const number = String(canaries.length).padStart(2, '0')
  const made = `kanari${number}x${Array.from({ length: 20 }, (_, at) => ((at * 7 + canaries.length * 13) % 36).toString(36)).join('')}z${number}`
  canaries.push(made)
  return made
}

/** What may tell of a secret: itself, its halves, and the ways in which bytes are written. */
const formsOf = (secret: string): string[] => [
  secret,
  secret.slice(0, 12),
  secret.slice(-12),
  // Wherever it stands in what was encoded, these of its bytes look the same.
  ...[0, 1, 2].map((skip) => Buffer.from(secret.slice(skip)).toString('base64').slice(0, 16)),
  Buffer.from(secret).toString('hex'),
]
/** The secrets that a text gives away. */
const foundIn = (text: string, secrets: readonly string[]): string[] =>
  secrets.filter((secret) => formsOf(secret).some((form) => text.includes(form)))

const TOKEN = canary()
const ENV = Object.fromEntries(
  [
    'MOONSHOT_API_KEY',
    'KIMI_API_KEY',
    'FAKE_KEY',
    'HEADER_VALUE',
    'BOT_TOKEN',
    'OPENCLAW_GATEWAY_PASSWORD',
    'UNUSED_SECRET',
    'NPM_TOKEN',
  ].map((name) => [name, canary()]),
)
/** The configuration: a secret at every place where people put one. */
const configOf = (modelUrl: string) => `{
  // the old one was token: '${canary()}'
  /* apiKey = ${canary()}, and https://user:${canary()}@old.example/ */
  gateway: {
    auth: { mode: 'token', token: '${TOKEN}', password: '${canary()}' },
    remote: { url: 'wss://user:${canary()}@far.example/?token=${canary()}', token: '${canary()}' },
    limits: ${JSON.stringify(UNCOUNTED)},
  },
  commands: { config: true },
  models: {
    providers: {
      fake: {
        baseUrl: '${modelUrl}/v1', apiKey: '${canary()}', api: 'openai-completions', models: [{ id: 'm' }],
        headers: { Authorization: 'Bearer ${canary()}', 'X-Api-Key': '${canary()}', Cookie: 'sid=${canary()}', 'X-Named': '\${HEADER_VALUE}' },
      },
      other: { baseUrl: '${modelUrl}', apiKey: '\${FAKE_KEY}', api: 'anthropic-messages', models: [{ id: 'n' }] },
      gone: { baseUrl: 'http://127.0.0.1:9/v1', apiKey: '${canary()}', models: [{ id: 'g' }] },
    },
  },
  agents: { defaults: { model: 'fake/m' }, list: [{ id: 'main' }, { id: 'second', model: 'other/n' }, { id: 'third', model: 'gone/g' }] },
  env: { vars: { SOME_VALUE: '${canary()}' }, OTHER_VALUE: '${canary()}' },
  channels: {
    telegram: { botToken: '\${BOT_TOKEN}' },
    slack: { appToken: '${canary()}', signingSecret: '${canary()}', webhookUrl: 'https://hooks.example/${canary()}' },
    discord: { accounts: { one: { token: '${canary()}' } } },
    proxy: 'http://user:${canary()}@proxy.example:3128',
  },
  tools: { web: { search: { apiKey: '${canary()}' } } },
  plugins: { entries: { voice: { config: { clientSecret: '${canary()}', jwt: '${canary()}', dsn: 'https://${canary()}@sentry.example/1' } } } },
  browser: { cdpUrl: 'ws://127.0.0.1:1/?token=${canary()}' },
  hooks: { token: '${canary()}', mappings: [{ url: 'https://x.example/?sig=${canary()}&key=${canary()}' }] },
}`

/** Refuses who asks, and says back all it was told: a provider that knows no shame. */
async function startTattler() {
  const server = createServer((request, response) => {
    const told = JSON.stringify(request.headers)
    response.writeHead(401, { 'content-type': 'application/json', 'x-told': told })
    response.end(JSON.stringify({ error: { message: `Incorrect API key provided: ${told}`, type: 'auth' } }))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, close: () => server.close() }
}

/** What clients say that is wrong and no less secret. */
const guess = canary

const parametersOf: Record<MethodName, () => object> = {
  health: () => ({ probe: true }),
  status: () => ({}),
  'system-presence': () => ({}),
  'last-heartbeat': () => ({}),
  'set-heartbeats': () => ({ enabled: true }),
  wake: () => ({ mode: 'next-heartbeat', text: 'a word' }),
  'cron.add': () => ({
    name: 'a job',
    enabled: false,
    schedule: { kind: 'every', everyMs: 3_600_000 },
    sessionTarget: 'main',
    wakeMode: 'next-heartbeat',
    payload: { kind: 'systemEvent', text: 'a word' },
  }),
  'cron.list': () => ({ includeDisabled: true }),
  'cron.get': () => ({ id: 'nothing' }),
  'cron.status': () => ({}),
  'cron.update': () => ({ id: 'nothing', patch: { enabled: false } }),
  'cron.run': () => ({ id: 'nothing' }),
  'cron.runs': () => ({ id: 'nothing' }),
  'cron.remove': () => ({ id: 'nothing' }),
  'logs.tail': () => ({ limit: 5_000, maxBytes: 1_000_000 }),
  'audit.entries': () => ({ limit: 2_000 }),
  'config.get': () => ({}),
  'config.schema': () => ({}),
  'config.set': () => ({ raw: '{}' }),
  'config.patch': () => ({ raw: '{}' }),
  'config.apply': () => ({ raw: '{}' }),
  agent: () => ({ message: 'hello', agentId: 'second', idempotencyKey: 'agent' }),
  'agent.result': () => ({ runId: 'agent' }),
  'agent.wait': () => ({ runId: 'agent', timeoutMs: 1 }),
  'agent.identity.get': () => ({}),
  'agents.list': () => ({}),
  'agents.status': () => ({}),
  'agents.files.list': () => ({ agentId: 'main' }),
  'agents.files.get': () => ({ agentId: 'main', name: 'SOUL.md' }),
  'agents.files.set': () => ({ agentId: 'main', name: 'SOUL.md', content: 'a word' }),
  'chains.get': () => ({ runId: 'agent' }),
  'chains.list': () => ({}),
  'messages.list': () => ({}),
  'messages.get': () => ({ messageId: 'agent' }),
  'usage.status': () => ({}),
  'usage.cost': () => ({}),
  'usage.by': () => ({ by: 'model' }),
  'sessions.usage': () => ({ includeContextWeight: true }),
  'sessions.usage.timeseries': () => ({ key: 'main' }),
  'sessions.usage.logs': () => ({ key: 'main' }),
  'models.list': () => ({}),
  'channels.status': () => ({ probe: true }),
  'channels.logout': () => ({ channel: 'telegram' }),
  'channels.start': () => ({ channel: 'telegram' }),
  'channels.stop': () => ({ channel: 'telegram' }),
  'web.login.start': () => ({ force: true }),
  'web.login.wait': () => ({}),
  send: () => ({ to: 'x', message: 'hi', channel: 'telegram', idempotencyKey: guess() }),
  poll: () => ({ to: 'x', question: 'what?', options: ['a', 'b'], idempotencyKey: guess() }),
  'skills.status': () => ({}),
  'skills.install': () => ({ name: 'x', installId: 'y' }),
  'skills.update': () => ({ skillKey: 'x', apiKey: guess(), env: { TOKEN: guess() } }),
  'tts.status': () => ({}),
  'tts.providers': () => ({}),
  'tts.enable': () => ({}),
  'tts.disable': () => ({}),
  'tts.convert': () => ({ text: guess() }),
  'tts.setProvider': () => ({ provider: guess() }),
  'voicewake.get': () => ({}),
  'voicewake.set': () => ({ triggers: ['computer'] }),
  'talk.mode': () => ({ enabled: true, phase: 'listening' }),
  'wizard.start': () => ({}),
  'wizard.next': () => ({ sessionId: 'x', answer: { stepId: 'y', value: guess() } }),
  'wizard.cancel': () => ({ sessionId: 'x' }),
  'wizard.status': () => ({ sessionId: 'x' }),
  'browser.request': () => ({ method: 'GET', path: '/', body: { token: guess() } }),
  'update.run': () => ({}),
  'system-event': () => ({ text: 'Node: a machine' }),
  'question.list': () => ({}),
  'plugin.approval.list': () => ({}),
  'commands.list': () => ({}),
  'sessions.list': () => ({ includeDerivedTitles: true, includeLastMessage: true }),
  'sessions.digest': () => ({}),
  'sessions.preview': () => ({ keys: ['main', 'other'] }),
  'sessions.describe': () => ({ key: 'main', includeDerivedTitles: true, includeLastMessage: true }),
  'sessions.get': () => ({ key: 'main' }),
  'sessions.create': () => ({ key: 'created', label: 'another label' }),
  'sessions.subscribe': () => ({}),
  'sessions.messages.subscribe': () => ({ key: 'main' }),
  'sessions.messages.unsubscribe': () => ({ key: 'other' }),
  'sessions.send': () => ({ key: 'main', message: '/status' }),
  'sessions.steer': () => ({ key: 'main', message: '/status' }),
  'sessions.abort': () => ({ key: 'main' }),
  'sessions.compact': () => ({ key: 'main', maxLines: 1 }),
  'sessions.resolve': () => ({ key: 'main' }),
  'sessions.patch': () => ({ key: 'main', label: 'a label' }),
  'sessions.reset': () => ({ key: 'reset' }),
  'sessions.delete': () => ({ key: 'deleted' }),
  'chat.send': () => ({ sessionKey: 'main', message: '/status', idempotencyKey: 'status' }),
  'chat.abort': () => ({ sessionKey: 'main' }),
  'chat.history': () => ({ sessionKey: 'main' }),
  'chat.resume': () => ({ sessionKey: 'main' }),
  'chat.inject': () => ({ sessionKey: 'main', message: 'a word' }),
  'exec.approval.request': () => ({ command: 'ls', timeoutMs: 1 }),
  'exec.approval.resolve': () => ({ id: 'nothing', decision: 'deny' }),
  'exec.approval.list': () => ({}),
  'exec.approvals.get': () => ({}),
  'exec.approvals.set': () => ({ file: { version: 1, socket: { path: '/run/x', token: guess() } } }),
  'exec.approvals.node.get': () => ({ nodeId: 'nothing' }),
  'exec.approvals.node.set': () => ({ nodeId: 'nothing', file: { version: 1, socket: { token: guess() } } }),
  'tokens.create': () => ({ name: 'a token', scopes: ['operator.read'] }),
  'tokens.list': () => ({}),
  'tokens.revoke': () => ({ id: 'nothing' }),
  'device.pair.list': () => ({}),
  'device.pair.approve': () => ({ requestId: 'nothing' }),
  'device.pair.reject': () => ({ requestId: 'nothing' }),
  'device.pair.remove': () => ({ deviceId: 'nothing' }),
  'device.token.rotate': () => ({ deviceId: 'nothing', role: 'operator' }),
  'device.token.revoke': () => ({ deviceId: 'nothing', role: 'operator' }),
  'node.pair.request': () => ({ nodeId: 'n1' }),
  'node.pair.list': () => ({}),
  'node.pair.approve': () => ({ requestId: 'nothing' }),
  'node.pair.reject': () => ({ requestId: 'nothing' }),
  'node.pair.remove': () => ({ nodeId: 'nothing' }),
  'node.pair.verify': () => ({ nodeId: 'n1', token: guess() }),
  'node.list': () => ({}),
  'node.describe': () => ({ nodeId: 'nothing' }),
  'node.invoke': () => ({ nodeId: 'nothing', command: 'x', idempotencyKey: guess() }),
  'node.rename': () => ({ nodeId: 'nothing', displayName: 'a name' }),
  'node.invoke.result': () => ({ id: 'nothing', nodeId: 'nothing', ok: true, payload: { apiKey: guess() } }),
  'node.event': () => ({ event: 'agent.delta', payload: { id: 'nothing', offset: 0, text: guess() } }),
  'skills.bins': () => ({}),
  'tools.call': () => ({ name: 'agents_list', arguments: { apiKey: guess() } }),
  'tools.invoke': () => ({ id: 'nothing', callId: 'c', name: 'x', arguments: { apiKey: guess() } }),
}

/** Parameters that do not fit, with secrets where something else should stand. */
const unfit = (params: object): unknown[] => {
  const secret = guess()
  const wrong = Object.fromEntries(Object.keys(params).map((name) => [name, { apiKey: secret, list: [secret] }]))
  return [secret, [secret], { ...params, token: secret, password: secret }, wrong, { auth: { token: secret } }]
}

describe('a secret', () => {
  const folder = mkdtempSync(join(tmpdir(), 'kurultai-canaries-'))
  const config = join(folder, 'openclaw.json5')
  const logFile = join(folder, 'logs', 'gateway.log')
  let said = ''
  let url = ''
  let pid = 0
  let end = async () => {}
  /** Frames in which a secret was issued: who asked for it is told it, once. */
  const issues = new Set<Frame>()
  const issued: string[] = []
  const secretsIssued: string[] = []
  const peers: Peer[] = []
  const told: string[] = []

  beforeAll(async () => {
    const models = await startTattler()
    writeFileSync(config, configOf(models.url), { mode: 0o600 })
    const crash = join(folder, 'crash.mjs')
    // What may go wrong anywhere: an error that nobody handles, with all there is hanging on it.
    writeFileSync(
      crash,
      `const carried = (Secret) => Object.assign(new Error('a planted error'), { auth: { token: new Secret(process.env.FAKE_KEY) }, cause: new Error('because') })
      process.on('SIGUSR2', async () => {
        const { Secret } = await import(${JSON.stringify(new URL('../../src/config/secret.ts', import.meta.url).href)})
        setImmediate(() => { throw carried(Secret) })
        Promise.reject(carried(Secret))
      })`,
    )
    const args = ['--port', '0', '--bind', 'loopback', '--state-dir', folder, '--config', config]
    const env = { PATH: process.env['PATH'], HOME: folder, LOG_LEVEL: 'trace', ...ENV }
    const child = spawn(
      process.execPath,
      ['--disable-warning=ExperimentalWarning', '--import', crash, entry, 'gateway', ...args],
      {
        stdio: ['ignore', 'pipe', 'pipe'],
        env,
      },
    )
    pid = child.pid!
    const gone = leave(() => child.kill('SIGKILL'))
    const exited = once(child, 'exit')
    const running = new Promise<string>((resolve, reject) => {
      for (const stream of [child.stdout, child.stderr])
        stream.setEncoding('utf8').on('data', (text: string) => {
          said += text
          const port = /running on \S+?:(\d+)/.exec(said)?.[1]
          if (port) resolve(`ws://127.0.0.1:${port}/`)
        })
      child.on('exit', () => reject(new Error(said)))
    })
    url = await running
    end = async () => {
      child.kill('SIGKILL')
      await exited
      gone()
      models.close()
    }
  })
  afterAll(async () => {
    await end()
    rmSync(folder, { recursive: true, force: true })
  })

  const open = async (path = '/', headers: Record<string, string> = {}) => {
    const peer = await openPeer(url, { path, headers })
    peers.push(peer)
    return peer
  }
  const connect = async (params: object = {}, headers: Record<string, string> = {}) => {
    const peer = await open('/', headers)
    await peer.next(({ event }) => event === 'connect.challenge')
    const hello = await peer.request('connect', { ...CONNECT, auth: { token: TOKEN }, ...params })
    return { peer, hello }
  }
  /** What an answer issued, and the frame it may stand in. */
  const note = (frame: Frame, secret: string) => {
    issues.add(frame)
    issued.push(secret)
    // The id of a token is no secret: it is listed.
    secretsIssued.push(secret.replace(/^kur_[a-z]+_[0-9a-f]{12}_/, ''))
  }

  it('is told to nobody by any method or event, right or wrong, and is in no log, dump or file but its own', async () => {
    const hearing = await Promise.all([
      connect({ caps: ['stream-offsets', 'tool-events'] }),
      connect({ minProtocol: 4, maxProtocol: 4 }),
      connect({ scopes: ['operator.read'] }),
    ])
    const operator = hearing[0].peer

    // Issued: a named token, a node's, a device's at the door and by rotation.
    const named = await operator.request('tokens.create', { name: 'named', scopes: ['operator.read'] })
    note(named, named['payload'].token)
    const node = await operator.request('node.pair.request', { nodeId: 'a-node' })
    const paired = await operator.request('node.pair.approve', { requestId: node['payload'].request.requestId })
    note(paired, paired['payload'].node.token)
    const device = createDevice()
    const asDevice = await open()
    const proof = device.prove(await nonceOf(asDevice), { token: TOKEN })
    const hello = await asDevice.request('connect', { ...CONNECT, auth: { token: TOKEN }, device: proof })
    note(hello, hello['payload'].auth.deviceToken)
    const rotated = await operator.request('device.token.rotate', { deviceId: device.id, role: 'operator' })
    note(rotated, rotated['payload'].token)

    // Every method, right and wrong, by three who may differently much.
    for (const method of Object.keys(METHODS) as MethodName[])
      for (const { peer } of hearing) {
        const params = parametersOf[method]()
        const answer = await peer.request(method, params)
        if (method === 'tokens.create' && answer['ok']) note(answer, answer['payload'].token)
        for (const wrong of unfit(params)) {
          const refused = await peer.request(method, wrong)
          if (refused['payload']?.token) note(refused, refused['payload'].token)
        }
      }
    // The right secrets, where they do not belong.
    await operator.request('node.pair.verify', { nodeId: 'a-node', token: issued[1] })
    await operator.request('tokens.revoke', { id: issued[0] })
    await operator.request('sessions.resolve', { key: 'x', label: 'y', sessionId: 'z' })

    // Changes to the configuration: those that are taken, and those that are refused in all ways there are.
    for (const raw of [
      "{ agents: { defaults: { thinkingDefault: 'low' } } }",
      `{ gateway: { auth: { token: '${guess()}' } } }`,
      `{ gateway: { auth: { token: { nested: '${guess()}' }, password: ['${guess()}'] } } }`,
      "{ gateway: { port: 'no port' } }",
      `{ models: { providers: { fake: { baseUrl: 'http://user:${guess()}@x.example/' } } } }`,
      `{ models: { providers: { fake: { apiKey: 5, headers: '${guess()}' } } } }`,
      "{ logging: { level: 'no level' } }",
      `{ gateway: { auth: { token: '${guess()}`,
      '{ gateway: { auth: { mode: "none" } } }',
    ])
      for (const method of ['config.patch', 'config.set', 'config.apply']) {
        const { payload } = await operator.request('config.get', {})
        const answer = await operator.request(method, { raw, baseHash: payload.hash })
        expect([method, raw, answer['ok']]).toEqual([
          method,
          raw,
          method === 'config.patch' && raw.includes('thinking'),
        ])
        if (raw.includes('thinking')) break
      }

    // Runs that fail: a provider that says back what it was sent, one that is not there.
    for (const sessionKey of ['main', 'agent:second:main', 'agent:third:main']) {
      const { payload } = await operator.request('chat.send', {
        sessionKey,
        message: 'hello',
        idempotencyKey: sessionKey,
      })
      await operator.next(endOf(payload.runId))
      await operator.request('chat.resume', { sessionKey, runIds: [sessionKey], epoch: 'none' })
      await operator.request('chat.history', { sessionKey })
    }

    // At the door: in the query, in headers, in frames that are wrong.
    const inHeaders = { Authorization: `Bearer ${guess()}`, Cookie: `token=${guess()}`, 'X-Api-Key': guess() }
    await open(`/?token=${guess()}&gatewayUrl=wss://x.example&password=${guess()}`, inHeaders)
    // As a page: who guesses on this machine and is none has to wait longer and longer.
    const asPage = { Origin: new URL(url.replace('ws', 'http')).origin }
    for (const params of [
      ...[{ token: guess() }, { password: guess() }, { deviceToken: guess() }, { token: { a: guess() } }].map(
        (auth) => ({ auth }),
      ),
      ...[{ auth: { token: `${issued[0]!.slice(0, -1)}0` } }, { auth: {}, token: guess() }, { minProtocol: guess() }],
    ])
      await connect(params, asPage)
    const http = url.replace('ws', 'http')
    for (const [path, headers] of [
      [`health?token=${guess()}`, inHeaders],
      [`${guess()}`, {}],
      ['health', { Origin: `https://${guess()}.example` }],
    ] as const)
      told.push(await (await fetch(`${http}${path}`, { headers })).text())

    // Who leaves, what is asked after all this, and what the log says of it.
    asDevice.socket.close()
    await operator.next(({ event }) => event === 'presence')
    for (const method of [
      'config.get',
      'audit.entries',
      'logs.tail',
      'sessions.list',
      'device.pair.list',
      'tokens.list',
    ] as const)
      for (const { peer } of hearing) await peer.request(method, parametersOf[method]())

    // An error that nobody handles.
    process.kill(pid, 'SIGUSR2')
    // One record may say it twice, in its words and in its stack: both records are waited for.
    await vi.waitFor(
      () => {
        const said = readFileSync(logFile, 'utf8')
        for (const what of ['an error nobody handled', 'a rejection nobody handled']) expect(said).toContain(what)
      },
      { timeout: 10_000 },
    )

    // The command line, with the same secrets around it.
    const env = { PATH: process.env['PATH'] ?? '', HOME: folder, ...ENV }
    for (const command of [
      ['doctor', '--json', '--state-dir', folder, '--config', config],
      ['doctor', '--state-dir', folder, '--config', config],
    ]) {
      const { stdout, stderr } = spawnSync(
        process.execPath,
        ['--disable-warning=ExperimentalWarning', entry, ...command],
        { env, encoding: 'utf8' },
      )
      expect(stdout).toContain('model fake/m of main')
      told.push(stdout, stderr)
    }

    expect(canaries.length).toBeGreaterThanOrEqual(50)
    const secrets = [...canaries, ...secretsIssued]
    // What is looked for can be found.
    expect(foundIn(readFileSync(config, 'utf8'), secrets).length).toBeGreaterThan(25)
    const frames = peers.flatMap((peer) => peer.frames)
    expect(frames.length).toBeGreaterThan(500)
    const heard = frames.flatMap((frame) => {
      const found = foundIn(JSON.stringify(frame), secrets)
      const may = issues.has(frame)
        ? [frame['payload'].token, frame['payload'].auth?.deviceToken, frame['payload'].node?.token]
        : []
      return found
        .filter((secret) => !may.some((text) => text?.endsWith(secret)))
        .map((secret) => [secret, JSON.stringify(frame).slice(0, 300)])
    })
    expect(heard).toEqual([])
    expect(foundIn(told.join('\n'), secrets)).toEqual([])
    expect(foundIn(said, secrets)).toEqual([])
    const log = readFileSync(logFile, 'utf8')
    expect(log).toMatch(/"level":(10|20),/)
    expect(foundIn(log, secrets)).toEqual([])
    // What is kept holds none of them either: neither what was issued nor what was tried.
    for (const name of readdirSync(folder).filter((it) => it.startsWith('kurultai.sqlite')))
      expect([name, foundIn(readFileSync(join(folder, name), 'latin1'), secrets)]).toEqual([name, []])
  }, 120_000)
})

/** Swapping the gateway with no patch: Z1 to Z12, true for every client. */
// biome-ignore-all lint/suspicious/noTemplateCurlyInString: ${VAR} is what the configuration file calls a variable
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { ConfigError, loadConfig, trustedProxiesLine } from '../../src/config/load.ts'
import { build, stale } from '../../tools/build.mjs'
import { freePort } from '../support/free-port.ts'
import { CONNECT, endOf, type Frame, openPeer, type Peer, startGateway, TOKEN } from '../support/gateway.ts'
import { DEPLOYED, deployed, type Kurultai, startKurultai } from '../support/kurultai.ts'
import { leave } from '../support/leftovers.ts'
import { startModelServer } from '../support/model-server.ts'

const root = fileURLToPath(new URL('../../', import.meta.url))
const folders: string[] = []
afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true })
})

/** A new folder with these files in it. */
function folder(files: Record<string, string> = {}): string {
  const made = mkdtempSync(join(tmpdir(), 'kurultai-z-'))
  folders.push(made)
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(made, name)), { recursive: true, mode: 0o700 })
    writeFileSync(join(made, name), text, { mode: 0o600 })
  }
  return made
}

const STATE = '.openclaw/openclaw.json5'
/** What a configuration file in the state folder comes to. */
const load = (text: string, env: Record<string, string> = {}, name = STATE) => {
  const home = folder({ [name]: text })
  return loadConfig({ env: { OPENCLAW_GATEWAY_TOKEN: TOKEN, ...env }, home, cwd: home })
}
const problemsOf = (attempt: () => unknown): string[] => {
  try {
    attempt()
    return []
  } catch (error) {
    if (error instanceof ConfigError) return error.problems
    throw error
  }
}

const OPERATOR = ['operator.admin', 'operator.approvals', 'operator.pairing', 'operator.read', 'operator.write']

let kurultai: Kurultai
beforeAll(async () => {
  kurultai = await startKurultai({ dialect: false })
})
afterAll(() => kurultai.stop())

describe('Z1', () => {
  /** The line that starts the image, as its words. */
  const launch = JSON.parse(
    /^CMD (\[.*\])$/m.exec(readFileSync(join(root, 'Dockerfile'), 'utf8'))?.[1] ?? '[]',
  ) as string[]
  let home: string
  let command: string
  let gateway: ChildProcess
  let model: Awaited<ReturnType<typeof startModelServer>>

  const environment = () => ({
    PATH: `${dirname(process.execPath)}:${process.env['PATH']}`,
    HOME: home,
    OPENCLAW_GATEWAY_TOKEN: TOKEN,
    OPENCLAW_COMPAT: 'kurultai',
  })
  const openclaw = (...args: string[]) =>
    new Promise<{ code: number; out: string }>((resolve) =>
      execFile(command, args, { env: environment() }, (error, stdout, stderr) =>
        resolve({ code: error ? Number(error.code) : 0, out: `${stdout}${stderr}` }),
      ),
    )

  beforeAll(async () => {
    if (stale()) await build()
    model = await startModelServer()
    const file = deployed()
    const fake = {
      baseUrl: `${model.url}/v1`,
      apiKey: '${KEY_OF_FAKE}',
      api: 'openai-completions',
      models: [{ id: 'm' }],
    }
    home = folder()
    mkdirSync(join(home, '.openclaw'), { mode: 0o700 })
    const config = join(home, STATE)
    writeFileSync(
      config,
      JSON.stringify({
        ...file,
        agents: { ...file.agents, defaults: { model: 'fake/m' } },
        models: { providers: { fake } },
        logging: { consoleLevel: 'debug', file: join(home, 'logs/gateway.log') },
      }),
    )
    chmodSync(config, 0o444)
    // As the image has it: a link to the built file, by the name that scripts call.
    command = join(home, 'openclaw')
    symlinkSync(join(root, 'dist/index.js'), command)
    const port = String(await freePort())
    const [node, ...args] = launch.map((word) => (word === '18789' ? port : word))
    expect([node, launch.at(-2)]).toEqual(['node', '18789'])
    gateway = spawn(process.execPath, args, {
      cwd: root,
      env: { ...environment(), KEY_OF_FAKE: 'x' },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    leave(() => gateway.kill('SIGKILL'))
    let said = ''
    await new Promise<void>((resolve, reject) => {
      gateway.stderr!.on('data', (data) => {
        said += data
      })
      gateway.stdout!.on('data', (data) => {
        said += data
        if (said.includes('The gateway is running on 0.0.0.0:')) resolve()
      })
      gateway.on('exit', () => reject(new Error(said)))
    })
  }, 60_000)
  afterAll(async () => {
    gateway.kill('SIGKILL')
    await model.close()
  })

  it('Z1: the launch line of the image starts it with the deployed file, and openclaw finds it', async () => {
    expect(launch.slice(-6)).toEqual(['gateway', '--bind', 'lan', '--port', '18789', '--allow-unconfigured'])
    expect(launch).toContain('dist/index.js')
    expect(readFileSync(join(root, 'Dockerfile'), 'utf8')).toContain('/usr/local/bin/openclaw')
    const health = await openclaw('gateway', 'call', 'health')
    expect([health.code, JSON.parse(health.out).ok]).toEqual([0, true])
    // As the reference gateway's own page has it.
    const preview = await openclaw('gateway', 'call', 'sessions.preview', '--params', '{"keys":["main"]}')
    expect([preview.code, JSON.parse(preview.out).previews]).toEqual([0, [expect.objectContaining({ key: 'main' })]])
    for (const status of [['gateway', 'status'], ['status']]) expect((await openclaw(...status)).code).toBe(0)
    const turn = await openclaw('agent', '--agent', 'mongke', '--message', '[[text=found it]]')
    expect(turn).toEqual({ code: 0, out: expect.stringContaining('found it') })
    const delivery = ['--to', '42', '--channel', 'discord', '--deliver', '--timeout', '120']
    const delivered = await openclaw('agent', '--agent', 'ops', '--message', '[[text=sent]]', ...delivery)
    expect(delivered).toEqual({ code: 0, out: expect.stringContaining('sent') })
    expect((await openclaw('agent', '--message', 'x', '--timeout', '2m')).code).toBe(64)
  }, 60_000)

  it('Z1: doctor says what is wrong, by either of its names', async () => {
    for (const doctor of [['doctor'], ['gateway', 'doctor']]) {
      const { out } = await openclaw(...doctor)
      expect(out).toContain(join(home, STATE))
      expect(out).toContain('KEY_OF_FAKE')
    }
  }, 60_000)

  it('Z1: doctor has no more than warnings about the file as it is deployed', async () => {
    const state = folder()
    const env = {
      ...environment(),
      HOME: state,
      OPENCLAW_CONFIG_PATH: DEPLOYED,
      MOONSHOT_API_KEY: 'x',
      KIMI_API_KEY: 'x',
    }
    const port = String(await freePort())
    const said = await new Promise<string>((resolve) =>
      execFile(command, ['doctor', '--json', '--port', port], { env }, (_, stdout) => resolve(stdout)),
    )
    const { ok, findings } = JSON.parse(said)
    expect([ok, findings.filter(({ state }: Frame) => state === 'problem')]).toEqual([true, []])
  })

  it('Z1: a signal stops it, with 0', async () => {
    const exited = once(gateway, 'exit')
    gateway.kill('SIGTERM')
    expect(await exited).toEqual([0, null])
  })
})

describe('Z2', () => {
  it('Z2: the file is found by folder or name, in JSON5 or JSON, and two are not guessed between', () => {
    const home = folder({
      'state/openclaw.json': '{"gateway":{"port":1}}',
      'named.json5': '{gateway:{port:2}}',
      'two/openclaw.json': '{}',
      'two/openclaw.json5': '{}',
    })
    const port = (env: Record<string, string>) => loadConfig({ env, home, cwd: home }).gateway.port
    expect(port({ OPENCLAW_STATE_DIR: join(home, 'state') })).toBe(1)
    for (const name of ['OPENCLAW_CONFIG_PATH', 'OPENCLAW_CONFIG'])
      expect(port({ OPENCLAW_STATE_DIR: join(home, 'state'), [name]: join(home, 'named.json5') })).toBe(2)
    expect(problemsOf(() => port({ OPENCLAW_STATE_DIR: join(home, 'two') }))).toEqual([
      expect.stringMatching(/both .* exist/),
    ])
  })

  it('Z2: variables are filled in, and one that is missing is named with its place', () => {
    const text =
      '{ gateway: { auth: { token: "${TOKEN_HERE}" } }, models: { providers: { p: { baseUrl: "http://x", apiKey: "$${KEPT}" } } } }'
    const config = load(text, { TOKEN_HERE: TOKEN })
    expect(config.gateway.auth.token?.reveal()).toBe(TOKEN)
    expect(config.models.find('p/any')?.apiKey?.reveal()).toBe('${KEPT}')
    expect(problemsOf(() => load(text))).toEqual([expect.stringMatching(/gateway\.auth\.token: .*TOKEN_HERE/)])
    expect(load('{ channels: { signal: { account: "${NOBODY}" } } }').warnings).toContainEqual(
      expect.stringMatching(/channels\.signal\.account: .*NOBODY/),
    )
  })

  it('Z2: nobody writes it unless commands.config says so', async () => {
    await using allowed = await startGateway({ config: { commands: { config: true } } })
    for (const [gateway, mayWrite] of [
      [kurultai, false],
      [allowed, true],
    ] as const) {
      const file = join(gateway.stateDir, 'openclaw.json5')
      const before = readFileSync(file, 'utf8')
      const peer = await gateway.connect()
      const { payload } = await peer.request('config.get')
      const raw = '{ messages: { queue: { limit: 7 } } }'
      const { ok } = await peer.request('config.patch', { raw, baseHash: payload.hash })
      expect([ok, readFileSync(file, 'utf8') !== before]).toEqual([mayWrite, mayWrite])
    }
  })
})

describe('Z3', () => {
  it('Z3: a key that is not known is one warning with the nearest that is, and it starts', () => {
    const { warnings } = load('{ gateway: { bnid: "loopback" }, agents: { defaults: { thinkingDefualt: "high" } } }')
    expect(warnings.filter((line) => line.includes('did you mean'))).toEqual([
      expect.stringMatching(/^gateway\.bnid: .*did you mean gateway\.bind\?$/),
      expect.stringMatching(/^agents\.defaults\.thinkingDefualt: .*did you mean agents\.defaults\.thinkingDefault\?$/),
    ])
    const others =
      '{ channels: {}, plugins: {}, skills: {}, browser: { enabled: true }, wizard: {}, bindings: [], meta: {} }'
    expect(load(others).warnings.filter((line) => line.startsWith('not served here:'))).toHaveLength(1)
  })

  it('Z3: a wrong type ends the start with 78, and every one is listed with its place', async () => {
    const home = folder({ [STATE]: '{ gateway: { port: "abc", bind: 5 }, agents: { list: [{ id: 7 }] } }' })
    const env = { PATH: process.env['PATH'], HOME: home }
    const started = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', 'src/index.ts', 'gateway'], {
      cwd: root,
      env,
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    let said = ''
    started.stderr.on('data', (data) => {
      said += data
    })
    const [code] = await once(started, 'close')
    expect(code).toBe(78)
    for (const place of ['gateway.port', 'gateway.bind', 'agents.list[0].id']) expect(said).toContain(place)
  })
})

describe('Z4', () => {
  it('Z4: bind is a word or an address', () => {
    const hosts = (gateway: object) => load(JSON.stringify({ gateway })).gateway.hosts
    const loopback = ['127.0.0.1', '::1']
    for (const bind of ['loopback', 'localhost', 'auto']) expect(hosts({ bind })).toEqual(loopback)
    for (const bind of ['lan', '0.0.0.0']) expect(hosts({ bind })).toEqual(['0.0.0.0'])
    expect(hosts({ bind: '127.0.0.3' })).toEqual(['127.0.0.3'])
    expect(hosts({ bind: '::1' })).toEqual(['::1'])
    expect(hosts({ bind: 'custom', customBindHost: '127.0.0.4' })).toEqual(['127.0.0.4'])
    expect(problemsOf(() => hosts({ bind: 'custom' }))).toHaveLength(1)
    expect(problemsOf(() => hosts({ bind: 'moon' }))).toHaveLength(1)
  })

  it('Z4: it listens there and nowhere else', async () => {
    await using gateway = await startGateway({ config: { gateway: { bind: 'custom', customBindHost: '127.0.0.5' } } })
    expect(gateway.gateway.addresses).toEqual([{ host: '127.0.0.5', port: gateway.port }])
    expect((await fetch(`http://127.0.0.5:${gateway.port}/health`)).status).toBe(200)
    await expect(fetch(`http://127.0.0.1:${gateway.port}/health`)).rejects.toThrow()
  })
})

describe('Z5', () => {
  /** Whether forwarded headers are believed that come from an address. */
  async function believes(trustedProxies: string[], localAddress: string): Promise<boolean> {
    await using gateway = await startGateway({ config: { gateway: { trustedProxies } } })
    const peer = await gateway.open({ headers: { 'X-Forwarded-For': '203.0.113.7' }, localAddress })
    await peer.next()
    const { ok, error } = await peer.request('connect', CONNECT)
    if (!ok) expect(error.details.code).toBe('PROXY_ATTRIBUTION_REQUIRED')
    return ok
  }

  it('Z5: proxies are listed by address and range, of either version, mapped, or all of them', async () => {
    for (const list of [['127.0.0.9'], ['127.0.0.8/30'], ['::ffff:127.0.0.9'], ['::ffff:127.0.0.0/104'], ['*']])
      expect([list, await believes(list, '127.0.0.9')]).toEqual([list, true])
    for (const list of [[], ['127.0.0.10'], ['127.0.0.0/30'], ['fd00::/8', 'fe80::1']])
      expect([list, await believes(list, '127.0.0.9')]).toEqual([list, false])
    expect(problemsOf(() => load('{ gateway: { trustedProxies: ["10.0.0.0/33"] } }'))).toHaveLength(1)
  })

  it('Z5: a line at the start says who is believed', () => {
    const env = { OPENCLAW_GATEWAY_TOKEN: TOKEN, OPENCLAW_CONFIG_PATH: DEPLOYED }
    const home = folder()
    expect(trustedProxiesLine(loadConfig({ env, home, cwd: home }))).toBe(
      'trusting forwarded headers from 127.0.0.1, 100.64.0.1, 100.64.0.2, 100.64.0.0/10',
    )
  })
})

describe('Z6', () => {
  it('Z6: a WebSocket is opened on /, /ws, /ws/ and /gateway, with any query', async () => {
    for (const path of [
      '/',
      '/ws',
      '/ws/',
      '/gateway',
      '/?a=1',
      '/ws?token=x&gatewayUrl=ws://x',
      '/ws/?x',
      '/gateway?',
    ])
      expect((await kurultai.connect({}, { path })).hello['ok']).toBe(true)
    for (const path of ['/ws/x', '/api', '/health']) await expect(kurultai.open({ path })).rejects.toThrow('HTTP 404')
  })
})

describe('Z7', () => {
  it('Z7: protocols 3 and 4 are spoken, by any range that touches one of them', async () => {
    const spoken = async (minProtocol?: number, maxProtocol?: number) => {
      const peer = await kurultai.open()
      await peer.next()
      const range = { minProtocol, maxProtocol }
      const { ok, payload, error } = await peer.request('connect', { ...CONNECT, ...range })
      return ok ? payload.protocol : error.details.code
    }
    for (const [min, max, protocol] of [
      [3, 3, 3],
      [4, 4, 4],
      [3, 4, 4],
      [1, 3, 3],
      [4, 99, 4],
      [1, 99, 4],
      [undefined, undefined, 3],
    ] as const)
      expect([min, max, await spoken(min, max)]).toEqual([min, max, protocol])
    for (const [min, max] of [
      [1, 2],
      [5, 9],
    ] as const)
      expect(await spoken(min, max)).toBe('PROTOCOL_MISMATCH')
  })
})

describe('Z8', () => {
  const scopesOf = async (changes: object) => {
    const peer = await kurultai.connect({ minProtocol: 4, maxProtocol: 4, ...changes })
    return { peer, scopes: peer.hello['payload'].auth.scopes as string[] }
  }

  it('Z8: the shared token needs no device and keeps the scopes that were asked for; none named are all', async () => {
    for (const scopes of [['operator.admin'], ['operator.read'], ['operator.approvals', 'operator.pairing'], []])
      expect((await scopesOf({ scopes })).scopes).toEqual(scopes)
    expect((await scopesOf({ scopes: undefined })).scopes.toSorted()).toEqual(OPERATOR)
  })

  it('Z8: who may administer may do the rest', async () => {
    const { peer } = await scopesOf({ scopes: ['operator.admin'] })
    for (const method of ['sessions.list', 'exec.approval.list', 'device.pair.list'])
      expect([method, (await peer.request(method, {}))['ok']]).toEqual([method, true])
    const { ok } = await peer.request('chat.send', { sessionKey: 'main', message: 'x', idempotencyKey: 'z8' })
    expect(ok).toBe(true)
  })
})

describe('Z9', () => {
  it('Z9: hello-ok is the first frame after connect, however much is being said, and a tick comes', async () => {
    await using gateway = await startGateway({ config: { gateway: { tickIntervalMs: 1_000 } } })
    const busy = await gateway.connect()
    await busy.request('chat.send', { sessionKey: 'main', message: 'word '.repeat(500), idempotencyKey: 'z9' })
    const late = await gateway.connect()
    expect(late.frames.map(({ event, payload }) => event ?? payload.type).slice(0, 2)).toEqual([
      'connect.challenge',
      'hello-ok',
    ])
    await late.next(({ event }) => event === 'tick')
    // No longer wait can be configured, nor is one by default.
    expect((await kurultai.connect()).hello['payload'].policy.tickIntervalMs).toBe(30_000)
    expect(problemsOf(() => load('{ gateway: { tickIntervalMs: 30001 } }'))).toHaveLength(1)
  })
})

describe('Z10', () => {
  it('Z10: /health is JSON for everybody, and a path of the API that is none is 404, never the page', async () => {
    for (const path of ['/health', '/healthz']) {
      const response = await fetch(`${kurultai.http}${path}`)
      expect([response.status, response.headers.get('content-type')]).toEqual([200, 'application/json; charset=utf-8'])
      expect(await response.json()).toMatchObject({ ok: true, status: 'ok', service: expect.any(String) })
    }
    for (const path of ['/api/nothing', '/api', '/api/health/x', '/v1/nothing', '/agent', '/index.html']) {
      const response = await fetch(`${kurultai.http}${path}`)
      expect([path, response.status, response.headers.get('content-type')]).toEqual([
        path,
        404,
        'application/json; charset=utf-8',
      ])
      expect(await response.json()).toMatchObject({ ok: false })
    }
  })
})

describe('Z11', () => {
  it('Z11: of five hundred that come at once from one client some are let in and the rest told when to come again; others notice nothing', async () => {
    await using gateway = await startGateway()
    const others = await gateway.connect()
    const flood = Array.from({ length: 500 }, () =>
      openPeer(gateway.url, { localAddress: '127.0.0.77' }).catch(
        (error: { status?: number }) => error.status ?? error,
      ),
    )
    for (let n = 0; n < 20; n++) expect((await others.request('health'))['ok']).toBe(true)
    const came = await Promise.all(flood)
    const peers = came.filter((one): one is Peer => typeof one === 'object' && one !== null && 'socket' in one)
    expect(peers.length).toBeGreaterThan(0)
    expect(peers.length).toBeLessThanOrEqual(32)
    // Those who were not let in were told so, or found the door shut before they had said a word.
    expect(came.length - peers.length).toBeGreaterThanOrEqual(468)
    const refused = await fetchFrom(gateway.port, '127.0.0.77')
    expect(refused).toMatch(/^HTTP\/1\.1 503 [\s\S]*\r\nRetry-After: \d+\r\n/)
    expect((await gateway.connect({}, { localAddress: '127.0.0.78' })).hello['ok']).toBe(true)
    for (const { socket } of peers) socket.terminate()
  })

  it('Z11: who asks too much after it has connected is told when to ask again', async () => {
    await using gateway = await startGateway({ config: { gateway: { limits: { requestsPerSecond: 1, burst: 2 } } } })
    const peer = await gateway.connect()
    const answers = await Promise.all(Array.from({ length: 6 }, () => peer.request('health')))
    const refused = answers.filter(({ ok }) => !ok)
    expect(refused.length).toBeGreaterThan(0)
    for (const { error } of refused) expect(error.retryAfterMs).toBeGreaterThan(0)
  })

  /** What the door says to a request from an address. */
  async function fetchFrom(port: number, localAddress: string): Promise<string> {
    const { connect } = await import('node:net')
    const socket = connect({ port, host: '127.0.0.1', localAddress })
    let said = ''
    socket.on('data', (data) => {
      said += data
    })
    socket.on('error', () => {})
    await once(socket, 'close')
    return said
  }
})

describe('Z12', () => {
  const PAGES = [
    { id: 'openclaw-control-ui', version: 'dev', platform: 'web', mode: 'webchat' },
    { id: 'webchat', version: 'dev', platform: 'web', mode: 'webchat' },
    { id: 'webchat-ui', version: 'dev', platform: 'web', mode: 'webchat' },
  ]
  /** How a page is let in that comes through the proxy, from afar. */
  async function page(gateway: { open: Kurultai['open'] }, client: object, more: object = {}, headers = {}) {
    const peer = await gateway.open({
      headers: {
        Origin: 'https://kurultai.example',
        Host: 'kurultai.example',
        'X-Forwarded-For': '203.0.113.7',
        'X-Forwarded-Proto': 'https',
        ...headers,
      },
    })
    await peer.next()
    const { ok, error } = await peer.request('connect', { ...CONNECT, client, scopes: undefined, ...more })
    return ok ? 'in' : error.details.code
  }

  it('Z12: by the keys of the deployment every page comes in with the token and without a device, and not with a wrong one', async () => {
    for (const key of ['allowInsecureAuth', 'dangerouslyDisableDeviceAuth']) {
      await using gateway = await startKurultai({ gateway: { controlUi: { enabled: true, [key]: true } } })
      for (const client of PAGES) {
        expect([key, await page(gateway, client)]).toEqual([key, 'in'])
        const wrong = { auth: { token: `wrong-${client.id}-0123456789` } }
        expect(await page(gateway, client, wrong)).toBe('AUTH_TOKEN_MISMATCH')
      }
    }
    await using strict = await startKurultai({ gateway: { controlUi: {} } })
    expect(await page(strict, PAGES[0]!)).toBe('CONTROL_UI_DEVICE_IDENTITY_REQUIRED')
  })

  it('Z12: behind single sign-on a page needs no token', async () => {
    const auth = { mode: 'token', token: TOKEN, trustedProxy: { userHeader: 'X-Authentik-Username' } }
    await using gateway = await startKurultai({ gateway: { auth } })
    for (const client of PAGES) {
      expect(await page(gateway, client, { auth: undefined }, { 'X-Authentik-Username': 'borte' })).toBe('in')
      expect(await page(gateway, client, { auth: undefined })).toBe('AUTH_TOKEN_MISSING')
    }
  })

  it('Z12: the page names no address but its own, so that it finds its WebSocket wherever it is served', async () => {
    const response = await fetch(kurultai.http)
    const text = await response.text()
    expect([response.status, response.headers.get('content-type')]).toEqual([200, 'text/html; charset=utf-8'])
    expect(text).not.toMatch(/(https?|wss?):\/\/|(href|src)="\//)
  })
})

describe('the council', () => {
  it('is found by id, by name and by name without accents, whatever the case', async () => {
    const peer = await kurultai.connect()
    for (const name of ['researcher', 'Möngke', 'mongke', 'MONGKE']) {
      const idempotencyKey = `council-${name}`
      await peer.request('chat.send', { sessionKey: `agent:${name}:main`, message: 'hello', idempotencyKey })
      await peer.next(endOf(idempotencyKey))
      expect((await kurultai.store.run(idempotencyKey))?.sessionKey).toBe('agent:researcher:main')
    }
    expect(statSync(kurultai.stateDir).isDirectory()).toBe(true)
  })
})

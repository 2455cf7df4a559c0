import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { networkInterfaces, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { echo } from '../../src/runtimes/echo.ts'
import { startCutter } from '../client/cutter.ts'
import { startFake } from '../client/fake-gateway.ts'
import { canMakeCertificates, makeCertificate } from '../support/certificate.ts'
import { freePort } from '../support/free-port.ts'
import { startGateway, TOKEN } from '../support/gateway.ts'
import { startModelServer } from '../support/model-server.ts'

const entry = fileURLToPath(new URL('../../src/index.ts', import.meta.url))
const folders: string[] = []
afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true })
})

function folder(): string {
  const made = mkdtempSync(join(tmpdir(), 'kurultai-cli-'))
  folders.push(made)
  return made
}

interface Finished {
  code: number | null
  out: string
  err: string
}

interface Running {
  child: ChildProcess
  finished: Promise<Finished>
  /** Resolves when the standard output or error has held the text. */
  says(text: string): Promise<void>
}

/** Starts the command line as a process of its own, in an empty environment but for what is given. */
function start(args: string[], env: Record<string, string> = {}): Running {
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', entry, ...args], {
    env: { PATH: process.env['PATH'] ?? '', HOME: folder(), ...env },
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  let out = ''
  let err = ''
  const waiting: { text: string; resolve(): void }[] = []
  const look = () => {
    for (const wait of [...waiting])
      if ((out + err).includes(wait.text)) {
        waiting.splice(waiting.indexOf(wait), 1)
        wait.resolve()
      }
  }
  child.stdout!.on('data', (data) => {
    out += data
    look()
  })
  child.stderr!.on('data', (data) => {
    err += data
    look()
  })
  return {
    child,
    finished: new Promise((resolve) => child.on('close', (code) => resolve({ code, out, err }))),
    says: (text) =>
      new Promise((resolve, reject) => {
        waiting.push({ text, resolve })
        child.on('close', () => reject(new Error(`ended without saying "${text}": ${out}${err}`)))
        look()
      }),
  }
}

const run = (args: string[], env?: Record<string, string>): Promise<Finished> => {
  const { child, finished } = start(args, env)
  child.stdin!.end()
  return finished
}

describe('the command line', () => {
  it('shows help and ends with 0', async () => {
    const { code, out } = await run(['--help'])
    expect(code).toBe(0)
    for (const command of ['gateway', 'chat', 'call', 'agent', 'status', 'doctor']) expect(out).toContain(command)
  })

  it('says what was wrong with a command it does not know, and ends with 64', async () => {
    const { code, err } = await run(['frobnicate'])
    expect(code).toBe(64)
    expect(err).toContain("unknown command 'frobnicate'")
  })

  it('names the programs of tool servers that are not there when it is asked what is wrong', async () => {
    const state = folder()
    writeFileSync(join(state, 'tool.sh'), '', { mode: 0o755 })
    writeFileSync(join(state, 'no-program'), '', { mode: 0o644 })
    const servers = {
      there: { command: 'node' },
      here: { command: './tool.sh', cwd: state },
      gone: { command: 'no-such-program-here' },
      text: { command: join(state, 'no-program') },
      nowhere: { command: 'node', cwd: join(state, 'no-folder') },
      off: { enabled: false, command: 'no-such-program-here' },
      web: { url: 'http://127.0.0.1:1/mcp?key=secret' },
    }
    const config = join(state, 'openclaw.json5')
    writeFileSync(config, JSON.stringify({ mcp: { servers } }))
    const { code, out } = await run(['doctor', '--json', '--state-dir', state, '--config', config])
    expect(code).toBe(1)
    const { findings } = JSON.parse(out) as { findings: { what: string; state: string; detail: string }[] }
    const found = findings.filter(({ what }) => what.startsWith('tool server'))
    expect(found.map(({ what, state: how }) => [what.slice('tool server '.length), how])).toEqual([
      ['there', 'ok'],
      ['here', 'ok'],
      ['gone', 'problem'],
      ['text', 'problem'],
      ['nowhere', 'problem'],
      ['web', 'ok'],
    ])
    expect(found[2]).toMatchObject({ detail: 'no-such-program-here is not found' })
    expect(out).not.toContain('secret')
  })

  it('is told by the doctor of misspelt keys beside what is wrong, and of a model without a key once', async () => {
    const state = folder()
    const doctor = async (config: object) => {
      writeFileSync(join(state, 'openclaw.json5'), JSON.stringify(config))
      const { out } = await run(['doctor', '--state-dir', state])
      return out
    }
    const wrong = await doctor({ cron: { enable: true, maxConcurrentRuns: '4' } })
    expect(wrong).toContain('cron.maxConcurrentRuns: must be integer')
    expect(wrong).toContain('cron.enable: unknown key; did you mean cron.enabled?')
    const list = [{ id: 'main' }, { id: 'writer' }]
    const keyless = await doctor({ agents: { defaults: { model: 'moonshot/kimi-k2.5' }, list } })
    expect(keyless).toContain('PROBLEM  model moonshot/kimi-k2.5 of main, writer: has no key')
    expect(keyless.match(/has no key/g)).toHaveLength(1)
  })

  it('says that nobody answers, and how to start one, and ends with 69', async () => {
    const { code, err } = await run(['status', '--url', `ws://127.0.0.1:${await freePort()}/`, '--token', 'x'])
    expect(code).toBe(69)
    expect(err).toContain('npm start')
  })

  it('says that parameters are not JSON, with an example, and ends with 64', async () => {
    const { code, err } = await run(['call', 'health', '{nope'])
    expect(code).toBe(64)
    expect(err).toContain('kurultai call chat.history')
  })
})

describe('gateway', () => {
  it('does not start without a configuration, says what to do, and ends with 78', async () => {
    const { code, err } = await run(['gateway'])
    expect(code).toBe(78)
    expect(err).toContain('--allow-unconfigured')
  })

  it('lists every problem of a configuration at once', async () => {
    const state = folder()
    writeFileSync(join(state, 'openclaw.json5'), '{ gateway: { port: "abc", bind: 5 } }')
    const { code, err } = await run(['gateway', '--state-dir', state])
    expect(code).toBe(78)
    expect(err).toContain('gateway.port')
    expect(err).toContain('gateway.bind')
  })

  it('does not listen beyond loopback without a token', async () => {
    const { code, err } = await run(['gateway', '--allow-unconfigured', '--bind', 'lan', '--port', '0'])
    expect(code).toBe(78)
    expect(err).toMatch(/token/i)
  })

  it('that fails before it has started, for a reason nobody foresaw, does not end like one that was stopped', async () => {
    const state = folder()
    mkdirSync(join(state, 'gateway-token'))
    const { code, err } = await run(['gateway', '--allow-unconfigured', '--port', '0', '--state-dir', state])
    expect([code, err]).toEqual([70, expect.stringContaining('the gateway could not be started: Error: EISDIR')])
  })

  it.each(["{ tls: { cert: 'a.pem' } }", '{ tls: {} }', '{ auth: { trustedProxy: {} } }'])(
    'and `doctor` are refused half of what belongs together: %s',
    async (half) => {
      const state = folder()
      writeFileSync(join(state, 'openclaw.json5'), `{ gateway: ${half} }`)
      for (const command of ['gateway', 'doctor']) {
        const { code, out, err } = await run([command, '--state-dir', state])
        expect([code, out + err]).toEqual([78, expect.stringContaining('is required')])
      }
    },
  )

  it('that listens everywhere says where others find it', async ({ skip }) => {
    const others = Object.values(networkInterfaces())
      .flatMap((all) => all ?? [])
      .filter(({ internal, family }) => !internal && family === 'IPv4')
    if (others.length === 0) skip('this machine has no address but its own')
    const env = { OPENCLAW_GATEWAY_TOKEN: TOKEN }
    const gateway = start(['gateway', '--allow-unconfigured', '--bind', 'lan', '--port', '0'], env)
    await gateway.says('Stop   Ctrl-C')
    gateway.child.kill('SIGTERM')
    const { out } = await gateway.finished
    for (const { address } of others) expect(out).toContain(`  or     http://${address}:`)
    expect(out).toMatch(/Open {3}http:\/\/localhost:/)
  })

  it('says who may have the port when it is taken', async () => {
    const server = createServer()
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const { port } = server.address() as { port: number }
    const { code, err } = await run(['gateway', '--allow-unconfigured', '--port', String(port)])
    server.close()
    expect(code).toBe(70)
    expect(err).toContain('--port')
  })
})

describe('a running gateway', () => {
  let state: string
  let port: number
  let gateway: Running
  let models: Awaited<ReturnType<typeof startModelServer>>
  const at = () => ({ OPENCLAW_STATE_DIR: state, OPENCLAW_GATEWAY_PORT: String(port) })

  beforeAll(async () => {
    state = folder()
    port = await freePort()
    models = await startModelServer()
    writeFileSync(
      join(state, 'openclaw.json5'),
      JSON.stringify({
        agents: { defaults: { model: 'fake/fake-1' }, list: [{ id: 'main', name: 'Kublai' }] },
        models: {
          providers: {
            fake: {
              baseUrl: `${models.url}/v1`,
              apiKey: 'a-key',
              api: 'openai-completions',
              models: [{ id: 'fake-1' }],
            },
          },
        },
      }),
    )
    gateway = start(['gateway'], at())
    await gateway.says('The gateway is running')
  })
  afterAll(async () => {
    gateway.child.kill('SIGKILL')
    await gateway.finished
    await models.close()
  })

  it('made a token that only its owner can read', () => {
    expect(statSync(join(state, 'gateway-token')).mode & 0o777).toBe(0o600)
    expect(readFileSync(join(state, 'gateway-token'), 'utf8').trim().length).toBeGreaterThanOrEqual(24)
  })

  it('streams an answer to the terminal', async () => {
    const { code, out } = await run(['chat', 'hello [[text=Good day to you.]]'], at())
    expect(out).toBe('Good day to you.\n')
    expect(code).toBe(0)
  })

  it('prints the answer of a command', async () => {
    const { code, out } = await run(['chat', '/status'], at())
    expect(code).toBe(0)
    expect(out).toContain('Kublai')
  })

  it('stops an answer at Ctrl-C, and says so', async () => {
    const chat = start(['chat', 'hello [[chunks=1000 gap=20]]'], at())
    await chat.says('word')
    chat.child.kill('SIGINT')
    const { code, err } = await chat.finished
    expect(code).toBe(130)
    expect(err).toContain('(stopped)')
  })

  it('goes on with a conversation line by line', async () => {
    const chat = start(['chat', '--session', 'talk'], at())
    chat.child.stdin!.end('one [[text=First.]]\ntwo [[text=Second.]]\n')
    const { code, out } = await chat.finished
    expect(code).toBe(0)
    expect(out.indexOf('First.')).toBeGreaterThanOrEqual(0)
    expect(out.indexOf('Second.')).toBeGreaterThan(out.indexOf('First.'))
  })

  it('passes on the words of a model that refuses, and ends with 1', async () => {
    const { code, err } = await run(['chat', 'hello [[fail=400]]'], at())
    expect(code).toBe(1)
    expect(err).toContain('fake failure 400')
  })

  it('answers a whole turn to `agent`', async () => {
    const { code, out } = await run(['agent', '--agent', 'Kublai', '--message', 'hi [[text=At your service.]]'], at())
    expect(code).toBe(0)
    expect(out).toBe('At your service.\n')
  })

  it('answers any method to `call` and to `gateway call`', async () => {
    for (const command of [['call'], ['gateway', 'call']]) {
      const { code, out } = await run([...command, 'health'], at())
      expect(code).toBe(0)
      expect(JSON.parse(out)).toMatchObject({ ok: true, defaultAgentId: 'main' })
    }
  })

  it('names a wrong token and ends with 1', async () => {
    const { code, err } = await run(['health', '--token', 'wrong'], at())
    expect(code).toBe(1)
    expect(err).toContain('AUTH_TOKEN_MISMATCH')
  })

  it('is found in order by the doctor, also while it runs', async () => {
    const { code, out } = await run(['doctor', '--json'], at())
    expect(JSON.parse(out)).toMatchObject({ ok: true })
    expect(code).toBe(0)
  })

  it('refuses a second gateway on the same folder', async () => {
    const { code, err } = await run(['gateway', '--port', String(await freePort())], at())
    expect(code).toBe(70)
    expect(err).toContain('gateway')
  })

  it('ends with 0 when it is told to stop, and closes what it had open', async () => {
    gateway.child.kill('SIGTERM')
    const { code, err } = await gateway.finished
    expect(code).toBe(0)
    expect(err).toContain('stopped')
    expect(existsSync(join(state, 'kurultai.sqlite-wal'))).toBe(false)
  })
})

describe('explain-auth', () => {
  const ask = (...flags: string[]) => run(['gateway', 'explain-auth', '--state-dir', folder(), ...flags])

  it('says who would be let in, with what, and by which rule', async () => {
    const { code, out } = await ask('--credential', 'named', '--holds', 'read', '--scopes', 'read,operator.admin')
    expect(code).toBe(0)
    expect(out).toContain('let in as operator by the rule "named token"')
    expect(out).toContain('granted: operator.read')
    expect(out).toContain('denied: operator.admin (not granted to this credential)')
    expect(out).toContain('not looked at: lock-outs')
  })

  it.each([
    ['a wrong token', ['--from', '203.0.113.7', '--credential', 'wrong'], 'AUTH_TOKEN_MISMATCH'],
    ['a page of which it is not said from where', ['--client-id', 'webchat'], 'next: say from where the page is'],
    ['a page from elsewhere', ['--header', 'Origin: https://evil.example'], 'HTTP 403'],
    [
      'a proxy that nobody named',
      ['--from', '10.0.0.9', '--header', 'X-Forwarded-For: 1.2.3.4'],
      'next: list the address of the proxy in gateway.trustedProxies',
    ],
    ['nobody in particular', ['--from', '203.0.113.7', '--credential', 'absent'], 'next: send a token'],
    ['a node that is not paired', ['--from', '203.0.113.7', '--role', 'node'], 'PAIRING_REQUIRED'],
  ])('says why %s would be refused, and what to do', async (_, flags, words) => {
    const { code, out } = await ask(...flags)
    expect(code).toBe(1)
    expect(out).toContain('refused by the rule')
    expect(out).toContain(words)
  })

  it.each([
    [['--credential', 'good'], '--credential is one of'],
    [['--from', 'localhost'], '--from is the address of a socket'],
    [['--scopes', 'everything'], 'there is no scope "operator.everything"; there are admin, read'],
    [['--holds', 'operator.all'], '--holds: there is no scope'],
    [['--device', 'valid', '--paired', 'operator:rad'], '--paired: there is no scope'],
  ])('says what it does not understand in %j, and ends with 64', async (flags, words) => {
    const { code, err } = await ask(...flags)
    expect([code, err]).toEqual([64, expect.stringContaining(words)])
  })

  it('takes a page of the gateway itself for what it is', async () => {
    const { code, out } = await ask('--header', 'Origin: http://localhost:18789', '--client-mode', 'webchat')
    expect(out).toContain('origin allowed')
    expect(code).toBe(0)
  })
})

describe('tokens', () => {
  it('are made, used, listed without their text, and ended', async () => {
    await using gateway = await startGateway()
    const at = ['--url', gateway.url]
    const asAdmin = [...at, '--token', TOKEN]
    const made = await run(['tokens', 'create', 'a page', '--scopes', 'read', '--expires', '2h', ...asAdmin])
    expect(made).toMatchObject({
      code: 0,
      err: expect.stringMatching(/shown once.*\(a page\): operator\.read in every session, until 20/),
    })
    const text = made.out.trim()
    expect(await run(['status', ...at, '--token', text])).toMatchObject({ code: 0 })
    expect(await run(['call', 'tokens.list', ...at, '--token', text])).toMatchObject({
      code: 1,
      err: expect.stringMatching(/operator\.admin\n.*tokens create NAME --scopes admin/),
    })
    const { out: list } = await run(['tokens', 'list', ...asAdmin])
    expect(list).toMatch(/valid +a page: operator.read in every session, until /)
    expect(list).not.toContain(text.split('_')[3])
    expect(await run(['tokens', 'revoke', list.split(' ', 1)[0]!, ...asAdmin])).toMatchObject({ code: 0 })
    const refused = await run(['status', ...at, '--token', text])
    expect([refused.code, refused.err]).toEqual([1, expect.stringContaining('revoked')])
    expect(refused.err).not.toContain('--token')
    const again = await run(['tokens', 'revoke', 'nobody', ...asAdmin])
    expect([again.code, again.err]).toEqual([1, expect.stringContaining('tokens list" shows the ids')])
  })

  it('for some sessions are for these by their whole keys, and say so', async () => {
    await using gateway = await startGateway()
    const at = ['--url', gateway.url, '--token', TOKEN]
    const sessions = 'main, notes:*, agent:other:x, *'
    const { code, err } = await run(['tokens', 'create', 'x', '--scopes', 'write', '--sessions', sessions, ...at])
    expect(code).toBe(0)
    expect(err).toContain('in agent:main:main, agent:main:notes:*, agent:other:x, *, without end')
  })

  it.each([
    [['--scopes', 'read', '--sessions', ''], '--sessions is empty'],
    [['--scopes', 'read', '--sessions', ' , '], '--sessions is empty'],
    [['--scopes', ''], '--scopes is empty'],
    [['--scopes', 'read', '--expires', ''], '30m, 12h or 90d'],
  ])('are not made of a variable that nobody set: %j', async (flags, words) => {
    await using gateway = await startGateway()
    const { code, err, out } = await run(['tokens', 'create', 'x', ...flags, '--url', gateway.url, '--token', TOKEN])
    expect([code, out, err]).toEqual([64, '', expect.stringContaining(words)])
    expect(await run(['tokens', 'list', '--url', gateway.url, '--token', TOKEN])).toMatchObject({
      out: expect.stringContaining('no named tokens'),
    })
  })

  it('say what is wrong with a span of time or a scope', async () => {
    await using gateway = await startGateway()
    const at = ['--url', gateway.url, '--token', TOKEN]
    expect(await run(['tokens', 'create', 'x', '--scopes', 'read', '--expires', 'soon', ...at])).toMatchObject({
      code: 64,
      err: expect.stringContaining('30m, 12h or 90d'),
    })
    expect(await run(['tokens', 'create', 'x', '--scopes', 'everything', ...at])).toMatchObject({
      code: 64,
      err: expect.stringContaining('there is no scope "operator.everything"'),
    })
  })
})

describe('a command', () => {
  const withFile = (config: object) => {
    const state = folder()
    writeFileSync(join(state, 'openclaw.json5'), JSON.stringify(config))
    return state
  }
  const PASSWORD = 'correct horse battery'

  it('shows a password where the gateway asks for one, wherever it is said', async () => {
    const state = withFile({ gateway: { auth: { mode: 'password' } } })
    const env = { OPENCLAW_STATE_DIR: state, OPENCLAW_GATEWAY_PASSWORD: PASSWORD }
    const gateway = start(['gateway', '--port', '0'], env)
    await gateway.says('The gateway is running')
    const { url } = JSON.parse(readFileSync(join(state, 'running.json'), 'utf8'))
    const there = { OPENCLAW_STATE_DIR: state }
    expect(await run(['status'], env)).toMatchObject({ code: 0 })
    expect(await run(['status', '--password', PASSWORD], there)).toMatchObject({ code: 0 })
    expect(await run(['status', '--url', url], { OPENCLAW_GATEWAY_PASSWORD: PASSWORD })).toMatchObject({ code: 0 })
    const { code, err } = await run(['status', '--password', 'wrong'], there)
    expect([code, err]).toEqual([1, expect.stringMatching(/^AUTH_PASSWORD_MISMATCH: .*\n.*--password/)])
    gateway.child.kill('SIGKILL')
    await gateway.finished
  })

  it('with a token needs none of the variables that the configuration names', async () => {
    // biome-ignore lint/suspicious/noTemplateCurlyInString: so a file names a variable
    const state = withFile({ gateway: { auth: { token: '${OPENCLAW_GATEWAY_TOKEN}' } } })
    const env = { OPENCLAW_STATE_DIR: state }
    const gateway = start(['gateway', '--port', '0'], { ...env, OPENCLAW_GATEWAY_TOKEN: TOKEN })
    await gateway.says('The gateway is running')
    expect(await run(['status', '--token', TOKEN], env)).toMatchObject({ code: 0 })
    const { code, err } = await run(['status'], env)
    expect([code, err]).toEqual([
      78,
      expect.stringMatching(/OPENCLAW_GATEWAY_TOKEN is not set.*\nSet it in this terminal, too, or .* --token/),
    ])
    const { err: wrong } = await run(['status', '--token', 'wrong'], env)
    expect(wrong).not.toContain('gateway.remote')
    gateway.child.kill('SIGKILL')
    await gateway.finished
  })

  it.skipIf(!canMakeCertificates)('believes the certificate that the configuration names', async () => {
    const files = folder()
    const { cert, key } = makeCertificate(files, 'own', { names: 'DNS:localhost' })
    const state = withFile({ gateway: { tls: { cert, key }, auth: { token: TOKEN } } })
    const env = { OPENCLAW_STATE_DIR: state }
    const gateway = start(['gateway', '--port', '0'], env)
    await gateway.says('The gateway is running')
    expect(await run(['status'], env)).toMatchObject({ code: 0 })
    const { out } = await run(['doctor'], env)
    expect(out).toContain('the gateway of this folder runs at wss://localhost:')
    const { url } = JSON.parse(readFileSync(join(state, 'running.json'), 'utf8'))
    const { code, err } = await run(['status', '--url', url, '--token', TOKEN])
    expect([code, err]).toEqual([69, expect.stringContaining('NODE_EXTRA_CA_CERTS')])
    gateway.child.kill('SIGKILL')
    await gateway.finished
  })

  it.skipIf(!canMakeCertificates)('`doctor` knows its own gateway, whatever name its certificate has', async () => {
    const { cert, key } = makeCertificate(folder(), 'gateway.example')
    const state = withFile({ gateway: { tls: { cert, key }, auth: { token: TOKEN } } })
    const env = { OPENCLAW_STATE_DIR: state }
    const gateway = start(['gateway', '--port', '0'], env)
    await gateway.says('The gateway is running')
    expect(await run(['doctor', '--json'], env)).toMatchObject({ out: expect.stringContaining('of this folder runs') })
    gateway.child.kill('SIGKILL')
    await gateway.finished
  })

  it('says what is wrong with a configuration that a client wrote', async () => {
    await using gateway = await startGateway({ config: { commands: { config: true } } })
    const at = ['--url', gateway.url, '--token', TOKEN]
    const { hash } = JSON.parse((await run(['call', 'config.get', ...at])).out)
    const patch = { raw: '{ gateway: { tls: {} } }', baseHash: hash }
    const { code, err } = await run(['call', 'config.patch', JSON.stringify(patch), ...at])
    expect([code, err]).toEqual([1, expect.stringContaining('CONFIG_INVALID')])
    expect(err).toContain('  - gateway.tls.cert: is required\n  - gateway.tls.key: is required')
  })

  it('that waits for an approval waits for its end, and one that waits too shortly is told that the gateway runs', async () => {
    await using gateway = await startGateway()
    const at = ['--url', gateway.url, '--token', TOKEN]
    const asked = ['call', 'exec.approval.request', '{"command":"ls","timeoutMs":2000}', ...at]
    const ended = await run(asked)
    expect(JSON.parse(ended.out)).toMatchObject({ decision: null })
    const { code, err } = await run([...asked, '--timeout', '500'])
    expect([code, err]).toEqual([69, expect.stringContaining('--timeout')])
    expect(err).not.toContain('Is it running?')
    const wrong = ['call', 'exec.approval.resolve', '{"id":"x","decision":"yes"}', ...at]
    expect((await run(wrong)).err).toContain('one of allow-once, allow-always, deny')
  })

  it('says what to do about what is not served, also where the refusal has the words that clients know', async () => {
    await using gateway = await startGateway()
    const at = ['--url', gateway.url, '--token', TOKEN]
    const known = await run(['call', 'web.login.start', ...at])
    expect(known.err).toMatch(/^NOT_SERVED: web login provider is not available\n.{20}/)
    const own = await run(['call', 'update.run', ...at])
    expect(own.err.trim().split('\n')).toHaveLength(1)
  })

  it('shows each of its options once', async () => {
    for (const command of [['call'], ['gateway', 'status'], ['gateway', 'explain-auth']]) {
      const { out } = await run([...command, '--help'])
      const options = [...out.matchAll(/^ +(?:-\w, )?(--[\w-]+)/gm)].map(([, name]) => name)
      expect(options).toEqual([...new Set(options)])
    }
  })
})

it('a chat of somebody whose token is revoked says so', async () => {
  await using gateway = await startGateway()
  const at = ['--url', gateway.url, '--token', TOKEN]
  const { out } = await run(['tokens', 'create', 'x', '--scopes', 'write', ...at])
  const chat = start(['chat', '--url', gateway.url, '--token', out.trim()])
  chat.child.stdin!.write('one\n')
  await chat.says('You said: one\n')
  expect((await run(['tokens', 'revoke', out.split('_')[2]!, ...at])).code).toBe(0)
  const { code, err } = await chat.finished
  expect([code, err]).toEqual([1, expect.stringContaining('AUTH_NAMED_TOKEN_REVOKED')])
  expect(err).not.toContain('has gone')
})

describe('a chat whose line is cut', () => {
  const AWAY = '(the gateway is away; connecting again)'

  it('in the middle of an answer has the whole of it, and says once what happened', async () => {
    await using gateway = await startGateway({ runtimes: new Map([['echo', echo({ wordMs: 20 })]]) })
    await using line = await startCutter(gateway.port)
    const words = Array.from({ length: 60 }, (_, index) => `w${index}`).join(' ')
    const chat = start(['chat', '--url', line.url, '--token', TOKEN, words])
    await chat.says('w10 ')
    line.cut()
    const { code, out, err } = await chat.finished
    expect(code).toBe(0)
    expect(out.endsWith(`You said: ${words}\n`)).toBe(true)
    expect(err).toBe(`${AWAY}\n`)
  })

  it('by a restart of the gateway goes on with the next line', async () => {
    const state = folder()
    const port = await freePort()
    const env = { OPENCLAW_STATE_DIR: state, OPENCLAW_GATEWAY_PORT: String(port) }
    const first = start(['gateway', '--allow-unconfigured'], env)
    await first.says('The gateway is running')
    const chat = start(['chat'], env)
    chat.child.stdin!.write('one\n')
    await chat.says('You said: one\n')
    first.child.kill('SIGKILL')
    await chat.says(AWAY)
    const second = start(['gateway', '--allow-unconfigured'], env)
    chat.child.stdin!.end('two\n')
    const { code, out, err } = await chat.finished
    expect(out).toContain('You said: two\n')
    expect(err).toBe(`${AWAY}\n`)
    expect(code).toBe(0)
    second.child.kill('SIGKILL')
    await second.finished
  })
})

it('a gateway that answers no goodbye does not keep a command', async () => {
  await using fake = await startFake({
    onRequest(guest, { id }) {
      guest.answer(id, { ok: true, agents: [] })
      guest.socket.pause()
    },
  })
  const { code, out } = await run(['health', '--url', fake.url, '--token', 'x'])
  expect(out).toBe('ok\n')
  expect(code).toBe(0)
})

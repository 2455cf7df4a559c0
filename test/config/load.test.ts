// biome-ignore-all lint/suspicious/noTemplateCurlyInString: ${VAR} is what the configuration file calls a variable
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { ConfigError, loadConfig, trustedProxiesLine } from '../../src/config/load.ts'
import { Secret } from '../../src/config/secret.ts'
import { folder, goodToken, load, problemsOf } from './folder.ts'

const problemsWith = (source: Parameters<typeof loadConfig>[0]): string[] => {
  try {
    loadConfig(source)
    return []
  } catch (error) {
    if (error instanceof ConfigError) return error.problems
    throw error
  }
}

describe('the deployed configuration', () => {
  const deployed = path.resolve(import.meta.dirname, '../../../shared/kurultai/openclaw.json5')

  it('loads as it is', ({ skip }) => {
    if (!existsSync(deployed)) skip('the folder with the deployed configuration is not beside this checkout')
    const home = folder()
    const env = { OPENCLAW_GATEWAY_TOKEN: goodToken, OPENCLAW_CONFIG_PATH: deployed }
    const config = loadConfig({ env, home, cwd: home, flags: { bind: 'lan', port: 18_789, allowUnconfigured: true } })
    expect(config.gateway).toMatchObject({ port: 18_789, hosts: ['0.0.0.0'], loopbackOnly: false })
    expect(config.gateway.auth.token?.reveal()).toBe(goodToken)
    expect(config.agents.list.map(({ id, name }) => `${id} ${name}`)).toEqual([
      'main Kublai',
      'researcher Möngke',
      'writer Chagatai',
      'developer Temüjin',
      'analyst Jochi',
      'ops Ögedei',
    ])
    expect(config.agents).toMatchObject({ defaultId: 'main', bootstrapMaxChars: 50_000 })
    expect(config.agents.list[5]).toMatchObject({ failoverFor: ['main'], thinking: 'high' })
    expect(config.agents.list[1]?.models).toEqual(['moonshot/kimi-k2.5', 'kimi-coding/k2p5'])
    expect(config.logging).toMatchObject({ consoleLevel: 'debug', file: '/data/logs/gateway.log' })
    expect(trustedProxiesLine(config)).toBe(
      'trusting forwarded headers from 127.0.0.1, 100.64.0.1, 100.64.0.2, 100.64.0.0/10',
    )
    expect(config.warnings.filter((line) => line.startsWith('not served here'))).toEqual([
      'not served here: channels, plugins',
    ])
    expect(config.warnings).toContain(
      'channels.signal.account: the variable SIGNAL_ACCOUNT is not set (the section is not served here)',
    )
    expect(config.warnings.filter((line) => line.includes('unknown key'))).toEqual([])
    expect(JSON.stringify(config.parsed)).not.toContain(goodToken)
    expect(config.raw).toBe(readFileSync(deployed, 'utf8'))
  })
})

describe('the file', () => {
  it('is found by flag, OPENCLAW_CONFIG_PATH, OPENCLAW_CONFIG, then in the state folder', () => {
    const home = folder({
      'a.json5': '{gateway:{port:1}}',
      'b.json5': '{gateway:{port:2}}',
      'c.json5': '{gateway:{port:3}}',
      '.openclaw/openclaw.json': '{"gateway":{"port":4}}',
      'state/openclaw.json5': '{gateway:{port:5}}',
    })
    const port = (env: Record<string, string>, flags = {}) => loadConfig({ env, home, cwd: home, flags }).gateway.port
    const env = { OPENCLAW_CONFIG_PATH: '~/b.json5', OPENCLAW_CONFIG: 'c.json5' }
    expect(port(env, { configPath: 'a.json5' })).toBe(1)
    expect(port(env)).toBe(2)
    expect(port({ OPENCLAW_CONFIG: 'c.json5', OPENCLAW_CONFIG_PATH: '' })).toBe(3)
    expect(port({})).toBe(4)
    expect(port({ OPENCLAW_STATE_DIR: '~/state' })).toBe(5)
    expect(port({ OPENCLAW_STATE_DIR: '/nowhere' }, { stateDir: 'state' })).toBe(5)
  })

  it('is not guessed when there are two', () => {
    const home = folder({ '.openclaw/openclaw.json': '{}', '.openclaw/openclaw.json5': '{}' })
    expect(problemsWith({ env: {}, home, cwd: home })).toEqual([
      expect.stringMatching(/both .*openclaw\.json5 and .*openclaw\.json exist/),
    ])
  })

  it('may be absent only when that is allowed', () => {
    const home = folder()
    expect(problemsWith({ env: {}, home, cwd: home })).toEqual([expect.stringContaining('--allow-unconfigured')])
    const config = loadConfig({ env: {}, home, cwd: home, flags: { allowUnconfigured: true } })
    expect(config).toMatchObject({ path: undefined, raw: undefined, parsed: undefined, warnings: [] })
    expect(config.gateway).toMatchObject({ port: 18_789, hosts: ['127.0.0.1', '::1'], auth: { mode: 'token' } })
    expect(config.gateway.auth.token).toBeUndefined()
    expect(config.stateDir).toBe(path.join(home, '.openclaw'))
    expect(config.logging.file).toBe(path.join(home, '.openclaw/logs/gateway.log'))
    expect(existsSync(config.stateDir)).toBe(false)
    const named = loadConfig({ env: { OPENCLAW_CONFIG: 'no' }, home, cwd: home, flags: { allowUnconfigured: true } })
    expect(named.warnings).toEqual([expect.stringContaining('starting with defaults')])
  })

  it('is never written', () => {
    const text = '{ /* mine */ gateway: { prot: 1 }, commands: { config: true } }'
    const home = folder({ '.openclaw/openclaw.json5': text })
    const file = path.join(home, '.openclaw/openclaw.json5')
    chmodSync(file, 0o444)
    const { raw, path: from } = loadConfig({ env: {}, home, cwd: home })
    expect([raw, from, readFileSync(file, 'utf8')]).toEqual([text, file, text])
  })

  it('is refused with a line and a column when it is no JSON5', () => {
    expect(problemsOf('{\n  gateway: {\n    port 1\n  }\n}')).toEqual(["line 3, column 10: invalid character '1'"])
    expect(problemsOf('{')).toEqual([expect.stringMatching(/^line 1, column 2: /)])
    expect(problemsOf('')).toEqual([expect.stringMatching(/^line 1, column 1: /)])
  })

  it('is refused when it is a folder, too large, or not UTF-8', () => {
    const home = folder({ 'large.json5': ' '.repeat(1_048_577) })
    writeFileSync(path.join(home, 'latin.json5'), Buffer.from([0x7b, 0xff, 0x7d]))
    mkdirSync(path.join(home, 'folder.json5'))
    const problems = (name: string) => problemsWith({ env: { OPENCLAW_CONFIG: name }, home, cwd: home })
    expect(problems('large.json5')).toEqual(['larger than 1048576 bytes'])
    expect(problems('latin.json5')).toEqual(['is not UTF-8'])
    expect(problems('folder.json5')).toEqual(['cannot be read (EISDIR)'])
  })
})

describe('a refusal', () => {
  it('lists every problem at once, more than a handful too', () => {
    const list = Array.from({ length: 20 }, (_, at) => `{ id: "a${at}", name: ${at} }`)
    const problems = problemsOf(`{ gateway: { port: "abc", bind: "moon" }, agents: { list: [${list}] } }`)
    expect(problems).toHaveLength(22)
    expect(problems).toContain('gateway.port: must be integer, got "abc"')
    expect(problems).toContain('agents.list[19].name: must be string, got 19')
  })

  it('ends with exit code 78 and a message that names the file', () => {
    const home = folder({ 'a.json5': '{ gateway: 1 }' })
    try {
      loadConfig({ env: {}, home, cwd: home, flags: { configPath: 'a.json5' } })
      expect.unreachable()
    } catch (error) {
      expect(error).toMatchObject({ name: 'ConfigError', exitCode: 78 })
      expect(String(error)).toContain(`${path.join(home, 'a.json5')} is refused`)
    }
  })

  it('never repeats a secret', () => {
    const secret = 'hunter2hunter2'
    const texts = [
      `{ gateway: { bind: "lan", auth: { token: "${secret}" } } }`,
      `{ gateway: { auth: { token: ["${secret}"] } } }`,
      `{ gateway: { auth: { password: { a: "${secret}" } } } }`,
      '{ gateway: { bind: "lan", auth: { token: 4711471147114711 } } }',
      `{ models: { providers: { a: { baseUrl: "ftp://me:${secret}@host" } } } }`,
      `{ models: { providers: { a: { headers: { X: 4711471147114711 } } } } }`,
    ]
    for (const text of texts) {
      const problems = problemsOf(text)
      expect(problems).not.toEqual([])
      expect(problems.join()).not.toMatch(/hunter2|47114711/)
    }
    const shown = problemsOf('{ gateway: { port: "${HIDDEN}" } }', { env: { HIDDEN: secret } })
    expect(shown).toEqual(['gateway.port: must be integer, got "${HIDDEN}"'])
  })
})

/** As they are made for people. */
const named = `kur_named_0123456789ab_${'0f'.repeat(32)}_01234567`
const userFrom = (proxies: string) =>
  `{ gateway: { auth: { trustedProxy: { userHeader: "X-User" } }, trustedProxies: [${proxies}] } }`
const origins = (origin: string) => `{ gateway: { controlUi: { allowedOrigins: ["${origin}"] } } }`
const lan = (auth: string) => `{ gateway: { bind: "lan", auth: ${auth} } }`

describe('a weak or wrong configuration', () => {
  it.each<[string, string | RegExp, Record<string, string>?]>([
    ['[]', 'the file must hold an object, got an array'],
    ['null', 'the file must hold an object, got null'],
    ['"gateway"', 'the file must hold an object, got a string'],
    ['{ gateway: null }', 'gateway: must be object, got null'],
    ['{ gateway: [] }', 'gateway: must be object, got an array'],
    ['{ gateway: { port: 1.5 } }', 'gateway.port: must be integer, got 1.5'],
    ['{ gateway: { port: 65536 } }', 'gateway.port: must be <= 65535, got 65536'],
    ['{ gateway: { port: -1 } }', 'gateway.port: must be >= 0, got -1'],
    ['{ gateway: { port: NaN } }', 'gateway.port: must be integer, got NaN'],
    ['{ gateway: { port: null } }', 'gateway.port: must be integer, got null'],
    ['{ gateway: { mode: "else" } }', 'gateway.mode: must be one of local, remote, got "else"'],
    ['{ gateway: { bind: "tailnet" } }', /^gateway\.bind: must be loopback, lan, .* got "tailnet"$/],
    ['{ gateway: { bind: "example.org" } }', /^gateway\.bind: /],
    ['{ gateway: { bind: "" } }', /^gateway\.bind: /],
    ['{ gateway: { bind: "custom" } }', /^gateway\.customBindHost: .* missing$/],
    ['{ gateway: { bind: "custom", customBindHost: "moon" } }', /^gateway\.customBindHost: .* got "moon"$/],
    ['{ gateway: { tls: { cert: "a.pem" } } }', 'gateway.tls.key: is required'],
    ['{ gateway: { tls: { cert: "a.pem", key: 7 } } }', 'gateway.tls.key: must be string, got a number'],
    ['{ gateway: { auth: { trustedProxy: {} } } }', 'gateway.auth.trustedProxy.userHeader: is required'],
    [
      '{ gateway: { auth: { trustedProxy: { userHeader: "X User" } } } }',
      /^gateway\.auth\.trustedProxy\.userHeader: must match pattern .*, got "X User"$/,
    ],
    [userFrom('"0.0.0.0/0"'), /trustedProxies is 0\.0\.0\.0\/0, so that everybody could write X-User$/],
    [userFrom('"::/0"'), /trustedProxies is ::\/0, so that everybody could write X-User$/],
    [userFrom('"::ffff:0.0.0.0/96"'), /trustedProxies is ::ffff:0\.0\.0\.0\/96, so that everybody/],
    [userFrom('"*"'), /trustedProxies is \*, so that everybody could write X-User$/],
    [
      `{ gateway: { auth: { token: "${named}" } } }`,
      /^gateway\.auth\.token: the token is one that was made for somebody/,
    ],
    ['{}', /^OPENCLAW_GATEWAY_TOKEN: the token is one that was made for/, { OPENCLAW_GATEWAY_TOKEN: named }],
    ['{ gateway: { limits: { burst: -1 } } }', 'gateway.limits.burst: must be >= 0, got -1'],
    ['{ gateway: { tickIntervalMs: 60000 } }', 'gateway.tickIntervalMs: must be <= 30000, got 60000'],
    ['{ gateway: { controlUi: { enabled: "yes" } } }', 'gateway.controlUi.enabled: must be boolean, got "yes"'],
    ['{ gateway: { trustedProxies: "10.0.0.1" } }', 'gateway.trustedProxies: must be array, got "10.0.0.1"'],
    [
      '{ gateway: { trustedProxies: ["10.0.0.1", "10.0.0.0/33"] } }',
      /^gateway\.trustedProxies\[1\]: .*"10\.0\.0\.0\/33"$/,
    ],
    ['{ gateway: { trustedProxies: [7] } }', 'gateway.trustedProxies[0]: must be string, got 7'],
    ['{ gateway: { compat: { kurultai: 1 } } }', 'gateway.compat.kurultai: must be boolean, got 1'],
    ['{ gateway: { auth: { mode: "trusted-proxy" } } }', /^gateway\.auth\.mode: must be one of token, password, none/],
    ['{ gateway: { auth: { mode: "password" } } }', /^gateway\.auth\.password: mode password needs one/],
    ['{ gateway: { auth: { token: "${MISSING}" } } }', /^gateway\.auth\.token: the variable MISSING is not set/],
    [
      '{ gateway: { auth: { token: "${EMPTY}" } } }',
      /^gateway\.auth\.token: the variable EMPTY is empty/,
      { EMPTY: '' },
    ],
    ['{ gateway: { auth: { token: "${constructor}" } } }', /the variable constructor is not set/],
    ['{ gateway: { auth: { token: "__OPENCLAW_REDACTED__" } } }', /^gateway\.auth\.token: holds the redaction marker/],
    [lan('{}'), /^gateway\.auth\.token: a token is required beyond loopback/],
    [lan('{ token: "${MISSING}" }'), /^gateway\.auth\.token: the variable MISSING/],
    [lan('{ mode: "none" }'), /^gateway\.auth\.mode: none .*loopback only$/],
    [lan('{ token: "" }'), /^gateway\.auth\.token: the token is empty/],
    [lan('{ token: "   " }'), /^gateway\.auth\.token: the token is empty/],
    [lan('{ token: "undefined" }'), /the token is the word undefined/],
    [lan('{ token: "null" }'), /the token is the word null/],
    [lan('{ token: "changeme" }'), /the token is a placeholder/],
    [lan('{ token: "change-me-change-me-change-me" }'), /the token is a placeholder/],
    [lan('{ token: "<put your own long token here>" }'), /the token is a placeholder/],
    [lan('{ token: "your-gateway-token-goes-here" }'), /the token is a placeholder/],
    [lan('{ token: "replace-with-a-long-random-string" }'), /the token is a placeholder/],
    [lan('{ token: "$${OPENCLAW_GATEWAY_TOKEN}" }'), /the token still holds a variable/],
    [lan('{ token: "0123456789abcdefghijklm" }'), /the token has 23 characters; at least 24/],
    [lan('{ token: "abababababababababababababab" }'), /the token repeats a few characters/],
    [lan('{}'), /^OPENCLAW_GATEWAY_TOKEN: the token has 5 characters/, { OPENCLAW_GATEWAY_TOKEN: 'short' }],
    [lan('{}'), /^OPENCLAW_GATEWAY_TOKEN: the token is the word undefined/, { OPENCLAW_GATEWAY_TOKEN: 'undefined' }],
    [lan('{}'), /^OPENCLAW_GATEWAY_TOKEN: the token is empty/, { OPENCLAW_GATEWAY_TOKEN: '' }],
    [lan('{ mode: "password", password: "changeme" }'), /^gateway\.auth\.password: the password is a placeholder/],
    ['{ gateway: { auth: { token: "" } } }', /^gateway\.auth\.token: the token is empty; put .* or leave it out/],
    ['{ gateway: { auth: { token: "  " } } }', /^gateway\.auth\.token: the token is empty/],
    ['{ gateway: { auth: { token: "null" } } }', /^gateway\.auth\.token: the token is the word null/],
    ['{ gateway: { auth: { token: "changeme" } } }', /^gateway\.auth\.token: the token is a placeholder/],
    ['{}', /^OPENCLAW_GATEWAY_TOKEN: the token is empty/, { OPENCLAW_GATEWAY_TOKEN: '' }],
    ['{}', /^OPENCLAW_GATEWAY_TOKEN: the token is the word undefined/, { OPENCLAW_GATEWAY_TOKEN: ' undefined ' }],
    ['{ gateway: { auth: { mode: "password", password: "   " } } }', /^gateway\.auth\.password: the password is empty/],
    [
      '{ gateway: { auth: { mode: "password" } } }',
      /^OPENCLAW_GATEWAY_PASSWORD: the password is a placeholder/,
      { OPENCLAW_GATEWAY_PASSWORD: 'changeme' },
    ],
    ['{ gateway: { bind: "::" } }', /a token is required beyond loopback/],
    ['{ gateway: { bind: "0.0.0.0" } }', /a token is required beyond loopback/],
    ['{ gateway: { bind: "::ffff:10.0.0.1" } }', /a token is required beyond loopback/],
    ['{ gateway: { bind: "custom", customBindHost: "10.0.0.1" } }', /a token is required beyond loopback/],
    ['{}', /^OPENCLAW_GATEWAY_PORT: must be a port/, { OPENCLAW_GATEWAY_PORT: 'tcp://10.0.0.1:18789' }],
    ['{}', 'PORT: must be a port from 0 to 65535, got "x"', { PORT: 'x' }],
    ['{}', 'PORT: must be a port from 0 to 65535, got "65536"', { PORT: '65536' }],
    ['{ agents: { list: {} } }', 'agents.list: must be array, got an object'],
    ['{ agents: { list: ["main"] } }', 'agents.list[0]: must be object, got "main"'],
    ['{ agents: { list: [{}] } }', 'agents.list[0].id: is required'],
    ['{ agents: { list: [{ id: "Ögedei" }] } }', /^agents\.list\[0\]\.id: must be 1 to 64 letters/],
    ['{ agents: { list: [{ id: "../../etc" }] } }', /^agents\.list\[0\]\.id: /],
    ['{ agents: { list: [{ id: "__proto__" }] } }', /^agents\.list\[0\]\.id: .*reserved/],
    ['{ agents: { list: [{ id: "a" }, { id: "A" }] } }', 'agents.list[1].id: "A" is the same agent as agents.list[0]'],
    ['{ agents: { defaults: { model: 7 } } }', 'agents.defaults.model: must be string or object, got 7'],
    ['{ agents: { defaults: { model: { primary: 7 } } } }', 'agents.defaults.model.primary: must be string, got 7'],
    ['{ agents: { defaults: { model: "" } } }', 'agents.defaults.model: must be string or object, got ""'],
    [
      '{ agents: { defaults: { thinkingDefault: "hard" } } }',
      /^agents\.defaults\.thinkingDefault: must be one of off,/,
    ],
    ['{ agents: { defaults: { timeoutSeconds: 1e9 } } }', /^agents\.defaults\.timeoutSeconds: must be <= /],
    ['{ agents: { defaults: { maxConcurrent: 0 } } }', 'agents.defaults.maxConcurrent: must be >= 1, got 0'],
    ['{ models: { mode: "add" } }', 'models.mode: must be one of merge, replace, got "add"'],
    ['{ models: { providers: { "a/b": {} } } }', /a provider id must be a name without a slash/],
    [
      '{ models: { providers: { a: { baseUrl: "api.example.org" } } } }',
      /^models\.providers\.a\.baseUrl: must be an http/,
    ],
    [
      '{ models: { providers: { a: { baseUrl: "https://a:b@h" } } } }',
      /baseUrl: must be .* without user and password$/,
    ],
    ['{ models: { providers: { a: { models: [{}] } } } }', 'models.providers.a.models[0].id: is required'],
    ['{ models: { providers: { a: { models: [{ id: "m", cost: { input: -1 } }] } } } }', /cost\.input: must be >= 0/],
    ['{ models: { providers: { a: { apiKey: "${NO_KEY}" } } } }', /^models\.providers\.a\.apiKey: the variable NO_KEY/],
    ['{ session: { mainKey: "a:b" } }', /^session\.mainKey: must /],
    ['{ messages: { queue: { limit: 0 } } }', 'messages.queue.limit: must be >= 1, got 0'],
    ['{ logging: { level: "loud" } }', /^logging\.level: must be one of trace, debug/],
    ['{ tools: { agentToAgent: { allow: "main" } } }', 'tools.agentToAgent.allow: must be array or object, got "main"'],
    ['{ __proto__: { gateway: { bind: "lan" } } }', '__proto__: the key __proto__ is reserved'],
    ['{ channels: { "constructor": 1 } }', 'channels.constructor: the key constructor is reserved'],
    ['{ unknown: [{ prototype: 1 }] }', 'unknown[0].prototype: the key prototype is reserved'],
    [`{ meta: ${'['.repeat(100)}${']'.repeat(100)} }`, /nested more than 64 deep$/],
  ])('%s is refused: %s', (text, expected, env = {}) => {
    const match = typeof expected === 'string' ? expected : expect.stringMatching(expected)
    expect(problemsOf(text, { env })).toEqual([match])
  })

  it.each<[string, string | RegExp, Record<string, string>?]>([
    ['{ gateway: { prot: 1 } }', 'gateway.prot: unknown key; did you mean gateway.port?'],
    ['{ gatewya: { port: 1 } }', 'gatewya: unknown key; did you mean gateway?'],
    ['{ gateway: { controlUI: {} } }', 'gateway.controlUI: unknown key; did you mean gateway.controlUi?'],
    ['{ gateway: { trustedProxy: [] } }', /did you mean gateway\.trustedProxies\?$/],
    ['{ gateway: { allowInsecureAuth: true } }', /did you mean gateway\.controlUi\.allowInsecureAuth\?$/],
    ['{ gateway: { somethingElse: "${MISSING}" } }', 'gateway.somethingElse: unknown key'],
    [
      '{ agents: { list: [{ id: "a", nam: "A" }] } }',
      'agents.list[0].nam: unknown key; did you mean agents.list[0].name?',
    ],
    ['{ "not known": 1 }', '["not known"]: unknown key'],
    ['{ toString: 1 }', 'toString: unknown key'],
    ['{ skills: {}, browser: {}, wizard: {} }', 'not served here: skills, browser, wizard'],
    [
      '{ gateway: { auth: { token: "short" } } }',
      /^gateway\.auth\.token: the token has 5 characters; at least 24 are needed; .*openssl rand -hex 32/,
    ],
    ['{ gateway: { auth: { mode: "none" } } }', /^gateway\.auth\.mode: none lets in everybody/],
    [
      '{ gateway: { auth: { mode: "password", password: "correct1" } } }',
      /the password has 8 characters only; .*openssl rand -hex 32/,
    ],
    ['{ gateway: { trustedProxies: ["*"] } }', /believes the forwarded headers of every peer$/],
    ['{ gateway: { trustedProxies: ["0.0.0.0/0"] } }', /0\.0\.0\.0\/0 believes the forwarded headers of every peer$/],
    ['{ gateway: { trustedProxies: ["10.0.0.0/7"] } }', /10\.0\.0\.0\/7 is a very wide range/],
    ['{ gateway: { trustedProxies: ["2001:db8::/31"] } }', /2001:db8::\/31 is a very wide range/],
    [userFrom('"127.0.0.1"'), /^gateway\.auth\.trustedProxy: .*every program on it can come in as whoever/],
    [userFrom('"::1"'), /every program on it can come in as whoever it names in X-User$/],
    [userFrom(''), /^gateway\.auth\.trustedProxy: no proxy is listed/],
    [origins('*'), /allowedOrigins\[0\]: no page comes from "\*"; write it as https:\/\/name/],
    [origins('foo'), /no page comes from "foo"/],
    [origins('https://a.example/chat'), /no page comes from .*; did you mean https:\/\/a\.example\?$/],
    [origins('https://A.example:443'), /did you mean https:\/\/a\.example\?$/],
    ['{}', /^OPENCLAW_GATEWAY_PASSWORD is set, and nobody is asked for it/, { OPENCLAW_GATEWAY_PASSWORD: 'x' }],
    ['{ gateway: { mode: "remote" } }', /^gateway\.mode: remote describes a client/],
    ['{}', 'LOG_LEVEL: no level is called "loud"', { LOG_LEVEL: 'loud' }],
    ['{}', /^OPENCLAW_COMPAT: only kurultai is known/, { OPENCLAW_COMPAT: 'other' }],
    ['{ env: { shellEnv: { enabled: true } } }', /^env\.shellEnv\.enabled: /],
    [
      '{ agents: { defaults: { workspace: "nowhere" }, list: [{ id: "a" }, { id: "b" }] } }',
      /^no workspace folder for a .* b /,
    ],
    [
      '{ agents: { defaults: { model: "nobody/m" } } }',
      /^agents\.defaults\.model: no provider has the model "nobody\/m"/,
    ],
    ['{ agents: { list: [{ id: "a", model: "nobody/m" }] } }', /^agents\.list\[0\]\.model: no provider/],
    [
      '{ agents: { list: [{ id: "a", default: true }, { id: "b", default: true }] } }',
      /^agents\.list: a, b are all the default/,
    ],
    ['{ agents: { list: [{ id: "a", failoverFor: ["b"] }] } }', /^agents\.list: a stands in for b, who is no agent$/],
    [
      '{ models: { providers: { a: { baseUrl: "http://h", api: "google" } } } }',
      /^models\.providers\.a\.api: "google" is not served/,
    ],
    ['{ models: { providers: { a: {} } } }', /^models\.providers\.a\.baseUrl: is missing/],
    [
      `{ gateway: { auth: { token: "${goodToken}" } } }`,
      'gateway.auth.token: differs from OPENCLAW_GATEWAY_TOKEN; the one from the file is used',
      { OPENCLAW_GATEWAY_TOKEN: `${goodToken}2` },
    ],
    [
      `{ gateway: { bind: "lan", auth: { token: "${goodToken}" } } }`,
      'gateway.bind: 0.0.0.0 is reached over plain HTTP; put a proxy that ends TLS in front',
    ],
  ])('%s loads with the warning: %s', (text, expected, env = {}) => {
    const match = typeof expected === 'string' ? expected : expect.stringMatching(expected)
    expect(load(text, { env }).warnings).toEqual([match])
  })
})

it.each(['10.0.0.0/8', '2001:db8::/32', '100.64.0.1'])('a proxy at %s needs no word', (range) => {
  expect(load(`{ gateway: { trustedProxies: ["${range}"] } }`).warnings).toEqual([])
})

it.each(['https://a.example', 'http://a.example:8080', 'app://localhost'])('an origin %s needs no word', (origin) => {
  expect(load(origins(origin)).warnings).toEqual([])
})

describe('a file that others can read, outside the state folder', () => {
  const warnings = (text: string, mode: number) => {
    const home = folder({ 'etc/a.json5': text, '.openclaw/x': '' })
    chmodSync(path.join(home, '.openclaw'), 0o700)
    chmodSync(path.join(home, 'etc/a.json5'), mode)
    const env = { OPENCLAW_CONFIG_PATH: 'etc/a.json5', T: goodToken }
    return loadConfig({ env, home, cwd: home }).warnings
  }

  it('is warned of when a secret stands in it', () => {
    const literal = `{ gateway: { auth: { token: "${goodToken}" } } }`
    expect(warnings(literal, 0o644)).toEqual([
      expect.stringMatching(/others can read .*a\.json5 \(mode 0644\), and gateway\.auth\.token is in it/),
    ])
    expect(warnings(literal, 0o600)).toEqual([])
    expect(warnings('{ gateway: { auth: { token: "${T}" } } }', 0o644)).toEqual([])
  })
})

describe('${VAR}', () => {
  it('is replaced in texts, once, and $${VAR} is the text itself', () => {
    const text = '{ agents: { list: [{ id: "a", name: "${A}-${B} $${A}" }] } }'
    const { agents, parsed } = load(text, { env: { A: '${B}', B: 'b' } })
    expect(agents.list[0]?.name).toBe('${B}-b ${A}')
    expect(parsed).toEqual({ agents: { list: [{ id: 'a', name: '${A}-${B} $${A}' }] } })
  })

  it('names every missing variable, and only warns in a section that is not served', () => {
    expect(problemsOf('{ agents: { list: [{ id: "a", name: "${A} ${B} ${A}", workspace: "${C}" }] } }')).toEqual([
      'agents.list[0].name: the variable A is not set; set it (or write $${A}, where the text itself is meant)',
      'agents.list[0].name: the variable B is not set; set it (or write $${B}, where the text itself is meant)',
      'agents.list[0].workspace: the variable C is not set; set it (or write $${C}, where the text itself is meant)',
    ])
    expect(load('{ plugins: { a: [{ k: "${A}" }] } }').warnings).toEqual([
      'plugins.a[0].k: the variable A is not set (the section is not served here)',
      'not served here: plugins',
    ])
  })
})

describe('the port', () => {
  it('comes from the flag, OPENCLAW_GATEWAY_PORT, the file, PORT, then is 18789', () => {
    const env = { OPENCLAW_GATEWAY_PORT: '2', PORT: '4' }
    expect(load('{ gateway: { port: 3 } }', { env, flags: { port: 1 } }).gateway.port).toBe(1)
    expect(load('{ gateway: { port: 3 } }', { env, flags: { port: '1' } }).gateway.port).toBe(1)
    expect(load('{ gateway: { port: 3 } }', { env }).gateway.port).toBe(2)
    expect(load('{ gateway: { port: 3 } }', { env: { PORT: 'tcp://x' } }).gateway.port).toBe(3)
    expect(load('{}', { env: { PORT: '4' } }).gateway.port).toBe(4)
    expect(load('{}', { env: { PORT: '', OPENCLAW_GATEWAY_PORT: '' } }).gateway.port).toBe(18_789)
    expect(problemsOf('{}', { flags: { port: Number.NaN } })).toEqual([
      expect.stringMatching(/^--port: must be a port/),
    ])
  })
})

describe('bind', () => {
  it.each([
    ['loopback', ['127.0.0.1', '::1'], true],
    ['localhost', ['127.0.0.1', '::1'], true],
    ['auto', ['127.0.0.1', '::1'], true],
    ['127.0.0.2', ['127.0.0.2'], true],
    ['::1', ['::1'], true],
    ['[::1]', ['::1'], true],
    ['lan', ['0.0.0.0'], false],
    ['LAN', ['0.0.0.0'], false],
    ['0.0.0.0', ['0.0.0.0'], false],
    ['::', ['::'], false],
    ['192.168.1.7', ['192.168.1.7'], false],
    ['fe80::1%eth0', ['fe80::1%eth0'], false],
  ])('%s listens on %j', (bind, hosts, loopbackOnly) => {
    const { gateway } = load('{}', { flags: { bind, token: goodToken } })
    expect(gateway).toMatchObject({ hosts, loopbackOnly })
  })

  it('takes the literal address of customBindHost', () => {
    const { gateway } = load('{ gateway: { bind: "custom", customBindHost: "127.0.0.9" } }')
    expect(gateway).toMatchObject({ hosts: ['127.0.0.9'], loopbackOnly: true })
  })
})

describe('the credential', () => {
  it('is the token of the flag, the file, then the variable', () => {
    const env = { OPENCLAW_GATEWAY_TOKEN: ` ${goodToken}E\n` }
    const text = `{ gateway: { auth: { token: "${goodToken}F" } } }`
    const token = (...given: Parameters<typeof load>) => load(...given).gateway.auth.token?.reveal()
    expect(token(text, { env, flags: { token: goodToken } })).toBe(goodToken)
    expect(token(text, { env })).toBe(`${goodToken}F`)
    expect(token('{ gateway: { auth: { token: "" } } }', { env })).toBe(`${goodToken}E`)
    expect(token('{}', { env })).toBe(`${goodToken}E`)
    expect(token('{}')).toBeUndefined()
  })

  it('is a password when the mode says so, or when there is nothing else', () => {
    const env = { OPENCLAW_GATEWAY_PASSWORD: 'correct horse battery' }
    const asked = load(lan('{ mode: "password" }'), { env }).gateway.auth
    expect([asked.mode, asked.password?.reveal(), asked.token]).toEqual([
      'password',
      'correct horse battery',
      undefined,
    ])
    expect(load('{ gateway: { auth: { password: "correct horse battery" } } }').gateway.auth.mode).toBe('password')
    expect(load('{ gateway: { auth: { password: "x" } } }', { flags: { token: goodToken } }).gateway.auth.mode).toBe(
      'token',
    )
  })

  it('is asked for when the command line gives one, whatever the file says', () => {
    expect(load('{ gateway: { auth: { mode: "none" } } }', { flags: { token: goodToken } }).gateway.auth.mode).toBe(
      'token',
    )
  })
})

describe('the agents', () => {
  it('are told where what is wrong with a heartbeat stands, once', () => {
    const own = '{ id: "b", heartbeat: { activeHours: { start: "8", end: "25:00", timezone: "Mars/X" } } }'
    const agents = `{ defaults: { heartbeat: { every: "soon" } }, list: [{ id: "a" }, ${own}] }`
    expect(problemsOf(`{ agents: ${agents} }`)).toEqual([
      'agents.defaults.heartbeat.every: must be a duration such as 30m, got "soon"',
      'agents.list[1].heartbeat.activeHours.start: must be HH:MM, from 00:00 to 24:00, got "8"',
      'agents.list[1].heartbeat.activeHours.end: must be HH:MM, from 00:00 to 24:00, got "25:00"',
      'agents.list[1].heartbeat.activeHours.timezone: no time zone is called "Mars/X"',
    ])
  })

  it('are one, main, when none is listed', () => {
    for (const text of ['{}', '{ agents: { list: [] } }']) {
      const { agents } = load(text)
      expect(agents).toMatchObject({
        defaultId: 'main',
        maxConcurrent: 64,
        timeoutMs: 600_000,
        bootstrapMaxChars: 20_000,
      })
      expect(agents.list).toEqual([
        {
          ...{ id: 'main', name: 'Assistant', models: ['echo/echo'], thinking: 'off', failoverFor: [] },
          heartbeat: { every: '0m', everyMs: 0, ackMaxChars: 300 },
        },
      ])
    }
  })

  it('have one default: the one that says so, else main, else the first', () => {
    const of = (list: string) => load(`{ agents: { list: ${list} } }`).agents.defaultId
    expect(of('[{ id: "a" }, { id: "main" }, { id: "b", default: true }]')).toBe('b')
    expect(of('[{ id: "a" }, { id: "Main" }]')).toBe('main')
    expect(of('[{ id: "a" }, { id: "b", default: false }]')).toBe('a')
  })

  it('take models and workspace from the defaults unless they have their own', () => {
    const home = folder({ '.openclaw/openclaw.json5': '' })
    chmodSync(path.join(home, '.openclaw'), 0o700)
    mkdirSync(path.join(home, 'w/b'), { recursive: true })
    writeFileSync(
      path.join(home, '.openclaw/openclaw.json5'),
      `{ agents: {
        defaults: { model: { primary: "echo/a", fallbacks: ["echo/b"] }, workspace: "~/w", thinkingDefault: "low" },
        list: [
          { id: "a" },
          { id: "b", model: "echo/c", workspace: "w/b", thinkingDefault: "xhigh" },
          { id: "c", model: { primary: "echo/c", fallbacks: [] } },
          { id: "d", model: { fallbacks: ["k2p5", "echo/a"] } },
        ] } }`,
    )
    const { agents, warnings } = loadConfig({ env: {}, home, cwd: home })
    expect(warnings).toEqual([])
    expect(agents.list.map(({ models }) => models)).toEqual([
      ['echo/a', 'echo/b'],
      ['echo/c', 'echo/b'],
      ['echo/c'],
      ['echo/a', 'kimi-coding/k2p5'],
    ])
    expect(agents.list.map(({ thinking }) => thinking)).toEqual(['low', 'high', 'low', 'low'])
    expect(agents.list.slice(0, 2).map(({ workspace }) => workspace)).toEqual([
      path.join(home, 'w'),
      path.join(home, 'w/b'),
    ])
  })

  it('think with Kimi when its key is there and nothing is configured', () => {
    const [agent] = load('{}', { env: { MOONSHOT_API_KEY: 'k' } }).agents.list
    expect(agent).toMatchObject({ models: ['moonshot/kimi-k2.5'], thinking: 'low' })
    const replaced = load('{ models: { mode: "replace" } }', { env: { MOONSHOT_API_KEY: 'k' } })
    expect(replaced.agents.list[0]?.models).toEqual(['echo/echo'])
  })
})

describe('the models', () => {
  it('are built in, with the variable that holds their key', () => {
    const { models } = load('{}', { env: { KIMI_API_KEY: 'secret-kimi-key' } })
    expect(models.list.map(({ ref }) => ref)).toEqual(['moonshot/kimi-k2.5', 'kimi-coding/k2p5', 'echo/echo'])
    expect(models.find('moonshot/kimi-k2.5')).toMatchObject({
      baseUrl: 'https://api.moonshot.ai/v1',
      api: 'openai-completions',
      apiKeyVariable: 'MOONSHOT_API_KEY',
      contextWindow: 256_000,
      input: ['text', 'image'],
      reasoning: true,
    })
    expect(models.find('moonshot/kimi-k2.5')?.apiKey).toBeUndefined()
    expect(models.find('kimi-coding/k2p5')?.apiKey).toBeInstanceOf(Secret)
    expect(models.find('kimi-coding/k2p5')?.apiKey?.reveal()).toBe('secret-kimi-key')
    expect(models.find('kimi-k2.5')?.ref).toBe('moonshot/kimi-k2.5')
    expect(models.find('echo/echo')).not.toHaveProperty('apiKeyVariable')
    expect(['nobody/m', 'nobody', '', '/', 'moonshot/'].map((ref) => models.find(ref))).toEqual(
      Array(5).fill(undefined),
    )
  })

  it('are merged with the providers of the file', () => {
    const { models } = load(
      `{ models: { providers: {
        moonshot: { baseUrl: "https://proxy.example/v1", models: [{ id: "kimi-k2.5", maxTokens: 9 }, { id: "next", api: "echo" }] },
        "zai-coding": { baseUrl: "https://z.example", api: "anthropic-messages", headers: { "X-A": "b" } },
      } } }`,
      { env: { ZAI_CODING_API_KEY: 'k' } },
    )
    expect(models.find('moonshot/kimi-k2.5')).toMatchObject({
      baseUrl: 'https://proxy.example/v1',
      name: 'Kimi K2.5',
      maxTokens: 9,
      contextWindow: 256_000,
      apiKeyVariable: 'MOONSHOT_API_KEY',
    })
    expect(models.find('moonshot/next')).toMatchObject({
      api: 'echo',
      name: 'next',
      input: ['text'],
      contextWindow: 200_000,
    })
    expect(models.find('moonshot/other')).toBeUndefined()
    const passedOn = models.find('zai-coding/glm/5')
    expect(passedOn).toMatchObject({
      id: 'glm/5',
      api: 'anthropic-messages',
      headers: { 'X-A': 'b' },
      baseUrl: 'https://z.example',
    })
    expect([passedOn?.apiKeyVariable, passedOn?.apiKey?.reveal()]).toEqual(['ZAI_CODING_API_KEY', 'k'])
    expect(models.list.some(({ provider }) => provider === 'zai-coding')).toBe(false)
  })

  it('are those of the file and echo in replace mode', () => {
    const text = '{ models: { mode: "replace", providers: { moonshot: { models: [{ id: "m" }] } } } }'
    const { models } = load(text)
    expect(models.list.map(({ ref }) => ref)).toEqual(['echo/echo', 'moonshot/m'])
    expect(models.find('moonshot/m')?.baseUrl).toBe('https://api.moonshot.ai/v1')
  })
})

describe('the rest', () => {
  it('has the documented defaults', () => {
    const config = load('{}')
    expect(config.gateway.limits).toMatchObject({
      requestsPerSecond: 100,
      burst: 200,
      preauthPerIp: 32,
      preauthTotal: 512,
      maxConnections: 20_000,
      deniedPerMinute: 50,
      socketsPerPrincipal: 256,
      sessions: 10_000,
      liveKeys: 100_000,
    })
    expect(config).toMatchObject({
      session: { mainKey: 'main', scope: 'per-sender' },
      messages: { queueLimit: 32 },
      commands: { config: false, restart: false },
      tools: { deny: [], agentToAgent: { enabled: false, allow: [] } },
      logging: { level: 'info', consoleLevel: 'info' },
      compat: { kurultai: false },
    })
    expect(load('{ gateway: { limits: { burst: 0 } } }').gateway.limits).toMatchObject({
      burst: 0,
      requestsPerSecond: 100,
    })
    expect(trustedProxiesLine(config)).toBe('trusting forwarded headers from nobody')
  })

  it('lets LOG_LEVEL and OPENCLAW_COMPAT decide', () => {
    const { logging, compat } = load('{ logging: { level: "error" } }', {
      env: { LOG_LEVEL: 'DEBUG', OPENCLAW_COMPAT: 'kurultai' },
    })
    expect([logging.level, logging.consoleLevel, compat.kurultai]).toEqual(['debug', 'debug', true])
    expect(load('{ gateway: { compat: { kurultai: true } } }').compat.kurultai).toBe(true)
  })

  it('warns of a state folder that others can read and of a log that cannot be written', () => {
    const home = folder({ 'open/openclaw.json5': '{ logging: { file: "~/open/openclaw.json5/x.log" } }' })
    chmodSync(path.join(home, 'open'), 0o755)
    const { warnings } = loadConfig({ env: { OPENCLAW_STATE_DIR: '~/open' }, home, cwd: home })
    expect(warnings).toEqual([
      expect.stringMatching(/^logging\.file: .* cannot be written/),
      expect.stringMatching(/^others can read the state folder .*\(mode 0755\)/),
    ])
  })

  it('prints no secret', () => {
    const config = load(
      `{ gateway: { auth: { token: "\${T}" } }, models: { providers: { a: { baseUrl: "http://h", apiKey: "\${K}" } } } }`,
      {
        env: { T: goodToken, K: 'canary-canary' },
      },
    )
    expect(config.models.find('a/b')?.apiKey?.reveal()).toBe('canary-canary')
    expect(JSON.stringify([config, config.models.find('a/b')])).not.toMatch(new RegExp(`${goodToken}|canary`))
  })
})

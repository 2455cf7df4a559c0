// biome-ignore-all lint/suspicious/noTemplateCurlyInString: that is how a configuration names a variable
import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  lstatSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import fc from 'fast-check'
import JSON5 from 'json5'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openConfigFile } from '../../src/config/file.ts'
import { loadConfig } from '../../src/config/load.ts'
import { GatewayError } from '../../src/contract/errors.ts'
import { canMakeCertificates, makeCertificate } from '../support/certificate.ts'

let folder: string
beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'config-file-'))
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

const TEXT = `{
  // who comes in
  gateway: {
    bind: 'loopback', // nobody else
    auth: { mode: 'token', token: 'a-token-that-nobody-sees-0123' },
    controlUi: { allowedOrigins: ['https://a.example'] },
    trustedProxies: ['10.0.0.1'],
  },
  models: { providers: { local: { baseUrl: 'http://127.0.0.1:1/v1', apiKey: '\${KEY}', models: [{ id: 'm' }] } } },
  agents: { defaults: { thinkingDefault: 'low' }, list: [{ id: 'main', workspace: '~/souls' }] },
  commands: { config: true },
  tools: { deny: ['exec'] },
}
`

const file = () => path.join(folder, 'openclaw.json5')
const text = () => readFileSync(file(), 'utf8')
function open(raw: string | null = TEXT) {
  if (raw !== null) writeFileSync(file(), raw, { mode: 0o600 })
  const source = {
    env: { KEY: 'a-key-nobody-sees', OTHER: 'another-secret' },
    home: folder,
    cwd: folder,
    flags: { stateDir: folder, allowUnconfigured: true },
  }
  return openConfigFile(loadConfig(source), source)
}
const codeOf = (act: () => unknown) => {
  try {
    act()
  } catch (error) {
    if (error instanceof GatewayError) return error.kind
    throw error
  }
  return 'written'
}

describe('the configuration file', () => {
  it('is patched in place: comments and layout stay, the old one is beside it, for its owner only', () => {
    const config = open()
    const { hash } = config.show()
    const after = config.patch("{ agents: { defaults: { thinkingDefault: 'high' } } }", hash)
    expect(text()).toBe(TEXT.replace("'low'", '"high"'))
    expect(after).toMatchObject({ valid: true, exists: true })
    expect(after.hash).not.toBe(hash)
    expect(readFileSync(`${file()}.bak`, 'utf8')).toBe(TEXT)
    expect(statSync(file()).mode & 0o777).toBe(0o600)
    expect(readdirSync(folder).sort()).toEqual(['openclaw.json5', 'openclaw.json5.bak'])
  })

  it('takes back what it showed, secrets and all, to the letter', () => {
    const config = open()
    const { raw, hash } = config.show()
    expect(raw).not.toContain('nobody-sees')
    config.set(raw!, hash)
    expect(text()).toBe(TEXT)
  })

  it('is not written without the hash of what it is, nor twice with the same', () => {
    const config = open()
    const { hash } = config.show()
    const patch = "{ logging: { level: 'debug' } }"
    expect(() => config.patch(patch, undefined)).toThrow('config base hash required; re-run config.get and retry')
    expect(() => config.patch(patch, 'stale')).toThrow('config changed since last load; re-run config.get and retry')
    config.patch(patch, hash)
    expect(() => config.patch(patch, hash)).toThrow('config changed since last load')
  })

  it('is not written unless the operator allows it', () => {
    const config = open(TEXT.replace('config: true', 'config: false'))
    expect(() => config.patch('{}', config.show().hash)).toThrow('set commands.config: true')
    expect(text()).toContain('config: false')
  })

  it('is not replaced by what the gateway could not be started with', () => {
    const config = open()
    const { hash } = config.show()
    expect(() => config.set('{ nope', hash)).toThrow(/SyntaxError|invalid config/)
    expect(() => config.patch('[]', hash)).toThrow('must hold an object')
    for (const patch of ['{ gateway: { port: "a" } }', '{ __proto__: { a: 1 } }'])
      expect(() => config.patch(patch, hash), patch).toThrow('invalid config')
    expect(text()).toBe(TEXT)
  })

  it('is never given the marker of what is hidden', () => {
    const config = open()
    const { raw, hash } = config.show()
    const moved = raw!.replace('// who comes in', '// __OPENCLAW_REDACTED__')
    expect(() => config.set(moved, hash)).toThrow('where nothing is hidden')
    const added = raw!.replace('tools:', "x: { token: '__OPENCLAW_REDACTED__' }, tools:")
    expect(codeOf(() => config.set(added, hash))).toBe('CONFIG_INVALID')
    expect(() => config.patch("{ gateway: { auth: { password: '__OPENCLAW_REDACTED__' } } }", hash)).toThrow()
    expect(text()).toBe(TEXT)
  })

  it('is made where there was none', () => {
    const config = open(null)
    expect(config.show()).toMatchObject({ exists: false, raw: null, path: null })
    expect(codeOf(() => config.patch("{ logging: { level: 'debug' } }", undefined))).toBe('CONFIG_WRITES_OFF')
  })

  it('that somebody broke meanwhile is shown as broken, and can be mended', () => {
    const config = open()
    writeFileSync(file(), '{ nope')
    const { valid, hash, issues } = config.show()
    expect([valid, issues.length]).toEqual([false, 1])
    config.set(TEXT, hash)
    expect(text()).toBe(TEXT)
  })

  it('is written where a link to it leads', () => {
    writeFileSync(path.join(folder, 'real.json5'), TEXT)
    symlinkSync('real.json5', file())
    const config = open(null)
    config.patch("{ logging: { level: 'debug' } }", config.show().hash)
    expect(lstatSync(file()).isSymbolicLink()).toBe(true)
    expect(readFileSync(path.join(folder, 'real.json5'), 'utf8')).toContain('debug')
  })

  it('is never replaced by its first part: a disk that takes only that is one that refuses', () => {
    const script = `
      const { openConfigFile } = await import(process.argv[1])
      const { loadConfig } = await import(process.argv[2])
      const source = { env: { KEY: 'k' }, home: '/', cwd: '/', flags: { stateDir: process.argv[3] } }
      const config = openConfigFile(loadConfig(source), source)
      const name = 'x'.repeat(20_000)
      try { config.patch(JSON.stringify({ agents: { defaults: { thinkingDefault: 'high' } }, session: { note: name } }), config.show().hash) }
      catch (error) { console.log(error.kind) }`
    open()
    const [from, load] = ['file', 'load'].map((name) => new URL(`../../src/config/${name}.ts`, import.meta.url).href)
    // Files of this process may have 4 KiB.
    const { stdout } = spawnSync(
      'bash',
      [
        '-c',
        'trap "" XFSZ; ulimit -f 4; exec "$0" --input-type=module -e "$1" "$2" "$3" "$4"',
        process.execPath,
        script,
        from!,
        load!,
        folder,
      ],
      { encoding: 'utf8' },
    )
    expect(stdout.trim()).toBe('CONFIG_UNWRITABLE')
    expect(text()).toBe(TEXT)
  })

  it('that cannot be written says so, and leaves nothing behind', () => {
    const config = open()
    const { hash } = config.show()
    chmodSync(folder, 0o500)
    const said = codeOf(() => config.patch("{ logging: { level: 'debug' } }", hash))
    chmodSync(folder, 0o700)
    // The superuser may write anyway.
    expect(said).toBe(process.getuid?.() === 0 ? 'written' : 'CONFIG_UNWRITABLE')
    expect(readdirSync(folder).filter((name) => name.endsWith('.new'))).toEqual([])
  })

  it('that is read-only is not replaced by another one either, although its folder would allow it', () => {
    const config = open()
    const { hash } = config.show()
    chmodSync(file(), 0o400)
    const said = codeOf(() => config.patch("{ logging: { level: 'debug' } }", hash))
    // The superuser may write anyway.
    expect(said).toBe(process.getuid?.() === 0 ? 'written' : 'CONFIG_UNWRITABLE')
    expect(text() === TEXT).toBe(said === 'CONFIG_UNWRITABLE')
  })
})

describe('a change that lets more in or out', () => {
  const weaker: [string, string][] = [
    ['no credential', "{ gateway: { auth: { mode: 'none' } } }"],
    ['another kind of credential', "{ gateway: { auth: { mode: 'password', password: 'x'.repeat(30) } } }"],
    ['no token', '{ gateway: { auth: { token: null } } }'],
    ['another token', "{ gateway: { auth: { token: 'a-token-of-the-attacker-0123' } } }"],
    ['a token from a variable', "{ gateway: { auth: { token: '${KEY}' } } }"],
    ['everybody on the network', "{ gateway: { bind: 'lan' } }"],
    ['any address', "{ gateway: { bind: 'custom', customBindHost: '0.0.0.0' } }"],
    ['another origin', "{ gateway: { controlUi: { allowedOrigins: ['https://a.example', 'https://evil.example'] } } }"],
    ['every origin', "{ gateway: { controlUi: { allowedOrigins: ['*'] } } }"],
    ['another proxy', "{ gateway: { trustedProxies: ['10.0.0.1', '10.0.0.2'] } }"],
    ['every proxy', "{ gateway: { trustedProxies: ['*'] } }"],
    ['pages without devices', '{ gateway: { controlUi: { allowInsecureAuth: true } } }'],
    ['no devices at all', '{ gateway: { controlUi: { dangerouslyDisableDeviceAuth: true } } }'],
    ['no limit', '{ gateway: { limits: { requestsPerSecond: 0 } } }'],
    ['a higher limit', '{ gateway: { limits: { preauthPerIp: 100000 } } }'],
    ['no end of calls without a scope', '{ gateway: { limits: { deniedPerMinute: 0 } } }'],
    ['clients that restart it', '{ commands: { restart: true } }'],
    ['tools that were denied', '{ tools: { deny: [] } }'],
    ['agents that were apart', '{ tools: { agentToAgent: { enabled: true } } }'],
    ['another address for a key', "{ models: { providers: { local: { baseUrl: 'https://evil.example/v1' } } } }"],
    [
      'a new address',
      "{ models: { providers: { evil: { baseUrl: 'https://evil.example', models: [{ id: 'm' }] } } } }",
    ],
    ['a new address without models', "{ models: { providers: { openai: { baseUrl: 'https://evil.example' } } } }"],
    ['another key for a provider', "{ models: { providers: { local: { apiKey: 'a-key-of-the-attacker' } } } }"],
    ['the key of the environment for a provider', '{ models: { providers: { local: { apiKey: null } } } }'],
    ['another provider', "{ models: { providers: { other: { models: [{ id: 'm' }] } } } }"],
    [
      'another provider at an address that has one',
      "{ models: { providers: { other: { baseUrl: 'http://127.0.0.1:1/v1', apiKey: 'x', models: [{ id: 'm' }] } } } }",
    ],
    ['a built-in provider that was not used', "{ models: { providers: { openai: { apiKey: 'k' } } } }"],
    ['another key for a built-in provider', "{ models: { providers: { 'kimi-coding': { apiKey: 'k' } } } }"],
    ['headers for a provider', "{ models: { providers: { local: { headers: { 'x-a': 'b' } } } } }"],
    [
      'a key that goes elsewhere',
      "{ models: { providers: { other: { apiKey: '${KEY}' }, local: { apiKey: null } } } }",
    ],
    ['a variable in place of another', "{ models: { providers: { local: { apiKey: '${OTHER}' } } } }"],
    ['a variable that is written in another way', "{ agents: { list: [{ id: 'main', name: '\\u0024{OTHER}' }] } }"],
    [
      'another address for the key of a built-in provider',
      "{ models: { providers: { moonshot: { baseUrl: 'http://127.0.0.1:1/v1' } } } }",
    ],
    ['a variable somewhere else', "{ agents: { list: [{ id: 'main', name: '${OTHER}' }] } }"],
    ['a file somewhere else', "{ agents: { list: [{ id: 'main', workspace: '/etc' }] } }"],
    ['a log somewhere else', "{ logging: { file: '/tmp/elsewhere.log' } }"],
    ['a log of less', "{ logging: { level: 'warn' } }"],
    ['no log on the console', "{ logging: { consoleLevel: 'silent' } }"],
    ['another port', '{ gateway: { port: 1 } }'],
    ['one connection for all', '{ gateway: { limits: { maxConnections: 1 } } }'],
    ['more connections', '{ gateway: { limits: { maxConnections: 0 } } }'],
    ['more turns that wait', '{ messages: { queue: { limit: 1000 } } }'],
    ['more runs at once', '{ agents: { defaults: { maxConcurrent: 100000 } } }'],
    ['longer runs', '{ agents: { defaults: { timeoutSeconds: 601 } } }'],
    ['runs without an end', '{ agents: { defaults: { timeoutSeconds: 0 } } }'],
    ['another form of requests', "{ models: { providers: { local: { api: 'anthropic-messages' } } } }"],
    [
      'another form of requests for a model',
      "{ models: { providers: { local: { models: [{ id: 'm', api: 'anthropic-messages' }] } } } }",
    ],
  ]
  for (const [what, patch] of weaker)
    it(`is refused: ${what}`, () => {
      const config = open()
      const said = codeOf(() =>
        config.patch(patch.replace("'x'.repeat(30)", `'${'x'.repeat(30)}'`), config.show().hash),
      )
      expect(['CONFIG_WEAKER', 'CONFIG_INVALID']).toContain(said)
      expect(text()).toBe(TEXT)
    })

  it('is a variable that stood in a comment, or only as a text', () => {
    const noted = TEXT.replace('// who comes in', () => '// ${OTHER}').replace(
      "id: 'main',",
      () => "id: 'main', name: '$${OTHER}',",
    )
    const config = open(noted)
    const patch = "{ agents: { list: [{ id: 'main', workspace: '~/souls', name: '${OTHER}' }] } }"
    expect(codeOf(() => config.patch(patch, config.show().hash))).toBe('CONFIG_WEAKER')
  })

  it('is another agent in the folder of one, or another provider at the address of one', () => {
    const two = TEXT.replace("workspace: '~/souls' }", "workspace: '~/souls' }, { id: 'b', workspace: '~/b' }").replace(
      'local: {',
      "other: { baseUrl: 'http://127.0.0.1:2/v1', apiKey: 'literal-key-1' }, local: {",
    )
    for (const patch of [
      "{ models: { providers: { local: { baseUrl: 'http://127.0.0.1:2/v1' } } } }",
      "{ agents: { list: [{ id: 'main', workspace: '~/b' }, { id: 'b', workspace: '~/b' }] } }",
    ]) {
      const config = open(two)
      expect(
        codeOf(() => config.patch(patch, config.show().hash)),
        patch,
      ).toBe('CONFIG_WEAKER')
    }
  })

  it('is a built-in provider that would be asked with the key of the environment again', () => {
    const config = open(TEXT.replace('local: {', "moonshot: { apiKey: 'literal-key-1' }, local: {"))
    expect(codeOf(() => config.patch('{ models: { providers: { moonshot: null } } }', config.show().hash))).toBe(
      'CONFIG_WEAKER',
    )
  })

  it('is a built-in provider that would be asked at its own address again', () => {
    const own = TEXT.replace('local: {', "moonshot: { baseUrl: 'http://127.0.0.1:2/v1' }, local: {")
    for (const patch of [
      '{ models: { providers: { moonshot: { baseUrl: null } } } }',
      '{ models: { providers: { moonshot: null } } }',
      '{ models: { providers: null } }',
    ]) {
      const config = open(own)
      expect(() => config.patch(patch, config.show().hash), patch).toThrow(/models\.providers\.moonshot/)
    }
    const replaced = open(TEXT.replace('providers: {', "mode: 'replace', providers: {"))
    expect(() => replaced.patch("{ models: { mode: 'merge' } }", replaced.show().hash)).toThrow('moonshot')
  })

  it('is named with the provider whose key is another, and never with a key', () => {
    const config = open(TEXT.replace("'${KEY}'", "'the-key-before'"))
    const { hash } = config.show()
    const patch = "{ models: { providers: { local: { apiKey: 'the-key-after' }, other: { apiKey: 'a-third-key' } } } }"
    const said = () => config.patch(patch, hash)
    expect(said).toThrow('models.providers.local.apiKey is another')
    expect(said).toThrow('models.providers gains other')
    expect(said).not.toThrow(/the-key|a-third-key/)
  })

  it('is named without what is hidden beside it', () => {
    const headers = "headers: { authorization: 'Bearer a-hidden-one' }"
    const config = open(TEXT.replace('models: [{', `${headers}, models: [{`))
    const { hash } = config.show()
    const said = () => config.patch("{ models: { providers: { local: { headers: { 'x-a': 'b' } } } } }", hash)
    expect(said).toThrow('models.providers.local.headers is another')
    expect(said).not.toThrow('a-hidden-one')
  })

  it('is not a provider that is left out, nor its name', () => {
    for (const patch of [
      '{ models: { providers: { local: null } } }',
      "{ models: { providers: { local: { models: [{ id: 'm', name: 'M' }] } } } }",
    ]) {
      const config = open()
      expect(
        codeOf(() => config.patch(patch, config.show().hash)),
        patch,
      ).toBe('written')
    }
  })

  it.skipIf(!canMakeCertificates)('is a certificate, whatever there was before', () => {
    for (const name of ['one', 'two']) makeCertificate(folder, name)
    const tls = (name: string) => `{ gateway: { tls: { cert: '${name}.crt', key: '${name}.key' } } }`
    const config = open()
    expect(codeOf(() => config.patch(tls('one'), config.show().hash))).toBe('CONFIG_WEAKER')
    expect(text()).toBe(TEXT)
    const secured = open(TEXT.replace('gateway: {', "gateway: { tls: { cert: 'one.crt', key: 'one.key' },"))
    for (const patch of [tls('two'), '{ gateway: { tls: null } }'])
      expect(codeOf(() => secured.patch(patch, secured.show().hash))).toBe('CONFIG_WEAKER')
  })

  it.each(['{ tls: {} }', "{ tls: { cert: 'a.pem' } }", '{ auth: { trustedProxy: {} } }'])(
    'is not half of what belongs together: %s',
    (half) => {
      const config = open()
      expect(codeOf(() => config.patch(`{ gateway: ${half} }`, config.show().hash))).toBe('CONFIG_INVALID')
      expect(text()).toBe(TEXT)
    },
  )

  it('is refused together with what is harmless', () => {
    const config = open()
    const patch = "{ logging: { level: 'debug' }, gateway: { trustedProxies: ['*'] } }"
    expect(codeOf(() => config.patch(patch, config.show().hash))).toBe('CONFIG_WEAKER')
    expect(text()).toBe(TEXT)
  })

  it('is not what makes it stricter', () => {
    const config = open()
    const patch = `{ gateway: { trustedProxies: [], controlUi: { enabled: false }, limits: { burst: 1 } }, tools: { deny: ['exec', 'web'] },
      messages: { queue: { limit: 1 } }, logging: { level: 'trace', consoleLevel: 'debug' },
      agents: { defaults: { maxConcurrent: 1, timeoutSeconds: 60 }, list: [{ id: 'main', workspace: '~/souls', name: 'Kublai' }] } }`
    config.patch(patch, config.show().hash)
    expect(JSON5.parse(text())).toMatchObject({ gateway: { trustedProxies: [], limits: { burst: 1 } } })
  })
})

describe('whatever is asked', () => {
  it('the file is always one that the gateway can be started with, and never a weaker one', () => {
    const config = open()
    const piece = fc.constantFrom(
      'a',
      'gateway',
      'auth',
      'mode',
      'none',
      'token',
      'bind',
      'lan',
      '__proto__',
      'constructor',
      '${KEY}',
    )
    const value = fc.letrec((tie) => ({
      node: fc.oneof(
        { depthSize: 'small' },
        piece,
        fc.integer(),
        fc.boolean(),
        fc.constant(null),
        fc.dictionary(piece, tie('node'), { maxKeys: 4 }),
        fc.array(tie('node'), { maxLength: 2 }),
      ),
    })).node
    fc.assert(
      fc.property(value, fc.boolean(), (asked, whole) => {
        const change = JSON.stringify(asked)
        const { hash } = config.show()
        codeOf(() => (whole ? config.set(change, hash) : config.patch(change, hash)))
        const now = config.show()
        expect(now.valid).toBe(true)
        expect(JSON5.parse(text())).toMatchObject({
          gateway: { auth: { mode: 'token', token: 'a-token-that-nobody-sees-0123' } },
        })
      }),
      { numRuns: 500 },
    )
  })
})

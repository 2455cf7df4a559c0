/** More than sixty ways to set it up: the weak ones are refused or named, by `doctor` and by the start alike. */
import { spawn } from 'node:child_process'
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { doctor } from '../../src/cli/doctor.ts'

const GOOD = 'kD83-xQ0v_71mZsYw2LtPbR9'
const entry = fileURLToPath(new URL('../../src/index.ts', import.meta.url))

interface SetUp {
  what: string
  gateway?: object
  /** The file as it stands, instead. */
  text?: string
  env?: Record<string, string>
  bind?: string
  /** Mode of the state folder; 0700 unless given. */
  mode?: number
  /** Mode of the file; 0600 unless given. */
  fileMode?: number
  /** What a start ends with; 0: it runs. */
  exit: 0 | 78
  /** The one problem where it is refused; one of the warnings where it runs; absent: there are none. */
  says?: RegExp
}

const lan = (auth: object) => ({ bind: 'lan', auth })
const local = (auth: object) => ({ auth })
const variable = (value: string) => ({ OPENCLAW_GATEWAY_TOKEN: value })

const SET_UPS: SetUp[] = [
  {
    what: 'no authentication on all interfaces',
    gateway: lan({ mode: 'none' }),
    exit: 78,
    says: /none lets in everybody .*loopback only/,
  },
  { what: 'no authentication on ::', gateway: { bind: '::', auth: { mode: 'none' } }, exit: 78, says: /loopback only/ },
  {
    what: 'no authentication on an address',
    gateway: { bind: '10.0.0.1', auth: { mode: 'none' } },
    exit: 78,
    says: /loopback only/,
  },
  {
    what: 'no authentication on a mapped address',
    gateway: { bind: '::ffff:10.0.0.1', auth: { mode: 'none' } },
    exit: 78,
    says: /loopback only/,
  },
  {
    what: 'no authentication on a custom host',
    gateway: { bind: 'custom', customBindHost: '10.0.0.1', auth: { mode: 'none' } },
    exit: 78,
    says: /loopback only/,
  },
  {
    what: 'no authentication, bound wide by a flag',
    gateway: local({ mode: 'none' }),
    bind: 'lan',
    exit: 78,
    says: /loopback only/,
  },
  { what: 'no token on all interfaces', gateway: lan({}), exit: 78, says: /a token is required beyond loopback/ },
  { what: 'no file, bound wide by a flag', bind: 'lan', exit: 78, says: /a token is required beyond loopback/ },
  { what: 'an empty token', gateway: lan({ token: '' }), exit: 78, says: /the token is empty/ },
  { what: 'a token of blanks', gateway: lan({ token: ' \t' }), exit: 78, says: /the token is empty/ },
  { what: 'an empty variable', gateway: lan({}), env: variable(''), exit: 78, says: /the token is empty/ },
  { what: 'the word undefined', gateway: lan({ token: 'undefined' }), exit: 78, says: /the word undefined/ },
  {
    what: 'the word undefined in the variable',
    gateway: lan({}),
    env: variable('undefined'),
    exit: 78,
    says: /the word undefined/,
  },
  { what: 'the word null', gateway: lan({ token: 'null' }), exit: 78, says: /the word null/ },
  { what: 'the word null in the variable', gateway: lan({}), env: variable('null'), exit: 78, says: /the word null/ },
  { what: 'changeme', gateway: lan({ token: 'changeme' }), exit: 78, says: /is a placeholder/ },
  {
    what: 'Change-Me at length',
    gateway: lan({ token: 'Change-Me-Change-Me-Change-Me' }),
    exit: 78,
    says: /is a placeholder/,
  },
  {
    what: 'what an example says',
    gateway: lan({ token: '<your long random token here>' }),
    exit: 78,
    says: /is a placeholder/,
  },
  {
    what: 'a name in brackets',
    gateway: lan({ token: '{{ gateway_token_from_vault }}' }),
    exit: 78,
    says: /is a placeholder/,
  },
  {
    what: 'replace-with-…',
    gateway: lan({ token: 'replace-with-output-of-openssl' }),
    exit: 78,
    says: /is a placeholder/,
  },
  {
    what: 'a variable nobody replaced',
    gateway: lan({ token: '$${OPENCLAW_GATEWAY_TOKEN}' }),
    exit: 78,
    says: /a variable that was not replaced/,
  },
  {
    what: 'a variable nobody set',
    gateway: lan({ token: '${NOBODY_SET_THIS}' }),
    exit: 78,
    says: /NOBODY_SET_THIS is not set/,
  },
  {
    what: 'what is shown instead of a secret',
    gateway: lan({ token: '__OPENCLAW_REDACTED__' }),
    exit: 78,
    says: /redaction marker/,
  },
  {
    what: 'a token of 23 characters',
    gateway: lan({ token: GOOD.slice(0, 23) }),
    exit: 78,
    says: /has 23 characters; at least 24/,
  },
  {
    what: 'a token of one character',
    gateway: lan({ token: 'x' }),
    exit: 78,
    says: /has 1 characters|is a placeholder/,
  },
  {
    what: 'a short token in the variable',
    gateway: lan({}),
    env: variable('correct-horse'),
    exit: 78,
    says: /has 13 characters/,
  },
  {
    what: 'a token of one letter',
    gateway: lan({ token: 'a'.repeat(40) }),
    exit: 78,
    says: /repeats a few characters/,
  },
  { what: 'a password nobody set', gateway: lan({ mode: 'password' }), exit: 78, says: /mode password needs one/ },
  {
    what: 'a password nobody set, on loopback',
    gateway: local({ mode: 'password' }),
    exit: 78,
    says: /mode password needs one/,
  },
  {
    what: 'the password password',
    gateway: lan({ mode: 'password', password: 'password' }),
    exit: 78,
    says: /the password is a placeholder/,
  },
  {
    what: 'the password undefined',
    gateway: lan({ mode: 'password', password: 'undefined' }),
    exit: 78,
    says: /the word undefined/,
  },
  { what: 'a mode nobody knows', gateway: local({ mode: 'trusted-proxy' }), exit: 78, says: /gateway\.auth\.mode/ },
  {
    what: 'a bind nobody knows',
    gateway: { bind: 'everywhere', auth: { token: GOOD } },
    exit: 78,
    says: /gateway\.bind/,
  },
  {
    what: 'a name to bind to',
    gateway: { bind: 'gateway.example', auth: { token: GOOD } },
    exit: 78,
    says: /gateway\.bind/,
  },
  {
    what: 'a range nobody can read',
    gateway: { trustedProxies: ['10.0.0.0/99'] },
    exit: 78,
    says: /gateway\.trustedProxies\[0\]/,
  },
  {
    what: 'half a certificate',
    gateway: { auth: { token: GOOD }, tls: { cert: 'a.pem' } },
    exit: 78,
    says: /^gateway\.tls\.key: is required$/,
  },
  {
    what: 'a header that names people, from everybody',
    gateway: { auth: { token: GOOD, trustedProxy: { userHeader: 'X-User' } }, trustedProxies: ['0.0.0.0/0'] },
    exit: 78,
    says: /everybody could write X-User/,
  },
  {
    what: 'a header that names people, from this machine',
    gateway: { auth: { token: GOOD, trustedProxy: { userHeader: 'X-User' } }, trustedProxies: ['127.0.0.1'] },
    exit: 0,
    says: /every program on it can come in as whoever/,
  },
  {
    what: "somebody's named token on loopback",
    gateway: local({ token: `kur_named_0123456789ab_${'0f'.repeat(32)}_01234567` }),
    exit: 78,
    says: /made for somebody with less/,
  },
  { what: 'a file that is no JSON5', text: '{ gateway: { bind: "loopback" ', exit: 78, says: /line|JSON5|end/i },
  { what: 'a file that holds a list', text: '[]', exit: 78, says: /must hold an object/ },
  {
    what: 'a key that changes all objects',
    text: '{ "__proto__": { gateway: { auth: { mode: "none" } } } }',
    exit: 78,
    says: /reserved/,
  },
  { what: 'limits below nought', gateway: { limits: { burst: -1 } }, exit: 78, says: /gateway\.limits\.burst/ },
  {
    what: 'a token that is a number',
    gateway: local({ token: 123456789012345 }),
    exit: 78,
    says: /gateway\.auth\.token/,
  },
  {
    what: 'an empty token on loopback',
    gateway: local({ token: '' }),
    exit: 78,
    says: /^gateway\.auth\.token: the token is empty; put 24 random characters/,
  },
  {
    what: 'a token of blanks on loopback',
    gateway: local({ token: ' \t' }),
    exit: 78,
    says: /^gateway\.auth\.token: the token is empty; .*or leave it out/,
  },
  {
    what: 'an empty variable on loopback',
    gateway: {},
    env: variable(''),
    exit: 78,
    says: /^OPENCLAW_GATEWAY_TOKEN: the token is empty; .*or leave it out/,
  },
  {
    what: 'a variable of blanks on loopback',
    env: variable('  '),
    exit: 78,
    says: /^OPENCLAW_GATEWAY_TOKEN: the token is empty/,
  },
  {
    what: 'the word undefined on loopback',
    gateway: local({ token: 'undefined' }),
    exit: 78,
    says: /^gateway\.auth\.token: the token is the word undefined; put/,
  },
  {
    what: 'the word undefined in the variable on loopback',
    env: variable('undefined'),
    exit: 78,
    says: /^OPENCLAW_GATEWAY_TOKEN: the token is the word undefined; put/,
  },
  {
    what: 'the word null on loopback',
    gateway: local({ token: 'null' }),
    exit: 78,
    says: /^gateway\.auth\.token: the token is the word null/,
  },
  {
    what: 'the word null in the variable on loopback',
    gateway: {},
    env: variable('null'),
    exit: 78,
    says: /^OPENCLAW_GATEWAY_TOKEN: the token is the word null/,
  },
  {
    what: 'changeme on loopback',
    gateway: local({ token: 'changeme' }),
    exit: 78,
    says: /^gateway\.auth\.token: the token is a placeholder; put/,
  },
  {
    what: 'what an example says, on loopback',
    gateway: local({ token: '<your long random token here>' }),
    exit: 78,
    says: /the token is a placeholder/,
  },
  {
    what: 'a variable nobody replaced, on loopback',
    gateway: local({ token: '$${OPENCLAW_GATEWAY_TOKEN}' }),
    exit: 78,
    says: /a variable that was not replaced; put/,
  },
  {
    what: 'an empty password on loopback',
    gateway: local({ mode: 'password', password: '' }),
    exit: 78,
    says: /^gateway\.auth\.password: the password is empty; put one there/,
  },
  {
    what: 'a password of blanks on loopback',
    gateway: local({ mode: 'password', password: ' '.repeat(30) }),
    exit: 78,
    says: /^gateway\.auth\.password: the password is empty/,
  },
  {
    what: 'a password of blanks on all interfaces',
    gateway: lan({ mode: 'password', password: ' '.repeat(30) }),
    exit: 78,
    says: /^gateway\.auth\.password: the password is empty/,
  },
  {
    what: 'the password undefined on loopback',
    gateway: local({ mode: 'password', password: 'undefined' }),
    exit: 78,
    says: /^gateway\.auth\.password: the password is the word undefined; put/,
  },
  {
    what: 'the password null in the variable, on loopback',
    gateway: local({ mode: 'password' }),
    env: { OPENCLAW_GATEWAY_PASSWORD: 'null' },
    exit: 78,
    says: /^OPENCLAW_GATEWAY_PASSWORD: the password is the word null; put/,
  },
  {
    what: 'the password password on loopback',
    gateway: local({ mode: 'password', password: 'password' }),
    exit: 78,
    says: /^gateway\.auth\.password: the password is a placeholder/,
  },
  {
    what: 'a good token in the file beside an empty variable',
    gateway: local({ token: GOOD }),
    env: variable(''),
    exit: 0,
  },
  {
    what: 'a short password on loopback',
    gateway: local({ mode: 'password', password: 'corr-1' }),
    exit: 0,
    says: /has 6 characters only/,
  },
  { what: 'a good token on loopback', gateway: local({ token: GOOD }), exit: 0 },
  { what: 'a good token in the variable', gateway: {}, env: variable(GOOD), exit: 0 },
  { what: 'nothing at all, on loopback: a token is made', gateway: {}, exit: 0 },
  { what: 'a file that nobody may write', gateway: local({ token: GOOD }), fileMode: 0o444, exit: 0 },
  {
    what: 'a good password on loopback',
    gateway: local({ mode: 'password', password: 'correct horse battery' }),
    exit: 0,
  },
  {
    what: 'a good token on all interfaces',
    gateway: lan({ token: GOOD }),
    exit: 0,
    says: /plain HTTP; put a proxy that ends TLS/,
  },
  { what: 'a good token on an address', gateway: { bind: '::', auth: { token: GOOD } }, exit: 0, says: /plain HTTP/ },
  {
    what: 'a good token, bound wide by a flag',
    gateway: local({ token: GOOD }),
    bind: 'lan',
    exit: 0,
    says: /plain HTTP/,
  },
  {
    what: 'a good password on all interfaces',
    gateway: lan({ mode: 'password', password: 'correct horse battery' }),
    exit: 0,
    says: /plain HTTP/,
  },
  {
    what: 'a short password on all interfaces',
    gateway: lan({ mode: 'password', password: 'corr-1' }),
    exit: 0,
    says: /has 6 characters only/,
  },
  {
    what: 'no authentication on loopback',
    gateway: local({ mode: 'none' }),
    exit: 0,
    says: /none lets in everybody who reaches the port/,
  },
  {
    what: 'a short token on loopback',
    gateway: local({ token: 'correct-horse' }),
    exit: 0,
    says: /has 13 characters; at least 24/,
  },
  {
    what: 'a token of 23 characters on loopback',
    gateway: local({ token: GOOD.slice(0, 23) }),
    exit: 0,
    says: /has 23 characters/,
  },
  {
    what: 'a token of one letter on loopback',
    gateway: local({ token: 'a'.repeat(40) }),
    exit: 0,
    says: /repeats a few characters/,
  },
  {
    what: 'a state folder that a group can read',
    gateway: local({ token: GOOD }),
    mode: 0o750,
    exit: 0,
    says: /can be read by others|others can read/,
  },
  {
    what: 'a state folder that everybody can read',
    gateway: local({ token: GOOD }),
    mode: 0o755,
    exit: 0,
    says: /can be read by others|others can read/,
  },
  {
    what: 'a state folder that everybody can write',
    gateway: local({ token: GOOD }),
    mode: 0o777,
    exit: 0,
    says: /can be read by others|others can read/,
  },
  {
    what: 'every proxy believed',
    gateway: { auth: { token: GOOD }, trustedProxies: ['*'] },
    exit: 0,
    says: /believes the forwarded headers of every peer/,
  },
  {
    what: 'two tokens',
    gateway: local({ token: GOOD }),
    env: variable(`${GOOD}2`),
    exit: 0,
    says: /differs from OPENCLAW_GATEWAY_TOKEN/,
  },
  { what: 'a key that is misspelt', gateway: { auth: { token: GOOD }, bnid: 'lan' }, exit: 0, says: /unknown key/ },
]

let folder: string
let stateDir: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'kurultai-setup-'))
  stateDir = join(folder, 'state')
  mkdirSync(stateDir)
})
afterEach(() => {
  vi.unstubAllEnvs()
  rmSync(folder, { recursive: true, force: true })
})

/** Makes the folder; returns the flags that go with it. */
function laid({ gateway, text, mode = 0o700, fileMode = 0o600, bind }: SetUp) {
  const written = text ?? (gateway && JSON.stringify({ gateway }))
  if (written !== undefined) {
    const file = join(stateDir, 'openclaw.json5')
    writeFileSync(file, written)
    chmodSync(file, fileMode)
  }
  chmodSync(stateDir, mode)
  return { stateDir, port: '0', allowUnconfigured: true, ...(bind && { bind }) }
}

interface Finding {
  what: string
  state: 'ok' | 'warning' | 'problem'
  detail: string
}

/** What the doctor says, and what it ends with. */
async function examined(setUp: SetUp): Promise<{ code: number; findings: Finding[] }> {
  const flags = laid(setUp)
  vi.stubEnv('HOME', folder)
  for (const name of Object.keys(process.env))
    if (/^OPENCLAW_|^PORT$|^LOG_LEVEL$|_API_KEY$/.test(name)) vi.stubEnv(name, undefined)
  for (const [name, value] of Object.entries(setUp.env ?? {})) vi.stubEnv(name, value)
  const said: string[] = []
  const spy = vi.spyOn(console, 'log').mockImplementation((line: string) => void said.push(line))
  const code = await doctor({ ...flags, json: true })
  spy.mockRestore()
  return { code, findings: (JSON.parse(said.join('\n')) as { findings: Finding[] }).findings }
}

describe('the doctor', () => {
  it('is asked about more than sixty set-ups', () => expect(SET_UPS.length).toBeGreaterThan(60))

  for (const setUp of SET_UPS)
    it(`${setUp.exit === 0 ? 'lets pass' : 'refuses'} ${setUp.what}${setUp.says ? ', and says why' : ''}`, async () => {
      const { exit, says } = setUp
      const { code, findings } = await examined(setUp)
      const told = (asked: Finding['state']) =>
        findings.filter(({ state, what }) => state === asked && !what.startsWith('model')).map(({ detail }) => detail)
      expect(code).toBe(exit)
      expect(told('problem')).toEqual(exit === 78 ? [expect.stringMatching(says!)] : [])
      if (exit === 78) return
      if (says) expect(told('warning')).toContainEqual(expect.stringMatching(says))
      else expect(told('warning')).toEqual([])
    })
})

/** Starts it as a process; ends it once it runs. */
async function started(setUp: SetUp): Promise<{ code: number | 'ran'; err: string }> {
  const { port, bind } = laid(setUp)
  const args = [entry, 'gateway', '--port', port, '--state-dir', stateDir, '--allow-unconfigured']
  const child = spawn(
    process.execPath,
    ['--disable-warning=ExperimentalWarning', ...args, ...(bind ? ['--bind', bind] : [])],
    {
      env: { PATH: process.env['PATH'], HOME: folder, ...setUp.env },
    },
  )
  let ran = false
  let err = ''
  child.stdout.on('data', (data) => {
    if (String(data).includes('running on')) {
      ran = true
      child.kill('SIGTERM')
    }
  })
  child.stderr.on('data', (data) => {
    err += data
    if (String(data).includes('running on')) {
      ran = true
      child.kill('SIGTERM')
    }
  })
  const code = await new Promise<number>((resolve) => child.on('close', (status) => resolve(status ?? -1)))
  return { code: ran && code === 0 ? 'ran' : code, err }
}

describe('a start', () => {
  const named = (...names: string[]) => {
    const found = SET_UPS.filter(({ what }) => names.includes(what))
    expect(found).toHaveLength(names.length)
    return found
  }

  for (const setUp of named(
    'no authentication on all interfaces',
    'no file, bound wide by a flag',
    'the word undefined in the variable',
    'what an example says',
    'a token of 23 characters',
    'a file that is no JSON5',
    'an empty variable on loopback',
    'changeme on loopback',
    'a password of blanks on loopback',
  ))
    it(`with ${setUp.what} ends with 78, says what is wrong, and makes nothing`, async () => {
      const { code, err } = await started(setUp)
      expect(code).toBe(78)
      expect(err).toMatch(new RegExp(setUp.says!.source.replace(/^\^/, ''), setUp.says!.flags))
      expect(readdirSync(stateDir).filter((name) => name !== 'openclaw.json5')).toEqual([])
    })

  for (const setUp of named(
    'a file that nobody may write',
    'nothing at all, on loopback: a token is made',
    'a good token, bound wide by a flag',
    'a short token on loopback',
    'a state folder that everybody can read',
  ))
    it(`with ${setUp.what} runs${setUp.says ? ', and says what is weak' : ''}; what it makes is its own`, async () => {
      const { code, err } = await started(setUp)
      expect(code).toBe('ran')
      if (setUp.says) expect(err).toMatch(setUp.says)
      const made = readdirSync(stateDir, { recursive: true, encoding: 'utf8' }).filter(
        (name) => name !== 'openclaw.json5',
      )
      expect(made.length).toBeGreaterThan(1)
      for (const name of made) expect([name, statSync(join(stateDir, name)).mode & 0o077]).toEqual([name, 0])
      expect(statSync(stateDir).mode & 0o077).toBe(0)
    })
})

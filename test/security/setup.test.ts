/** Sixty ways to set it up: the weak ones are refused or named, by `doctor` and by the start alike. */
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
}

const lan = (auth: object) => ({ bind: 'lan', auth })
const local = (auth: object) => ({ auth })
const variable = (value: string) => ({ OPENCLAW_GATEWAY_TOKEN: value })

/** With these nothing is started: a line of the problem each. */
const REFUSED: [SetUp, RegExp][] = [
  [
    { what: 'no authentication on all interfaces', gateway: lan({ mode: 'none' }) },
    /none lets in everybody .*loopback only/,
  ],
  [{ what: 'no authentication on ::', gateway: { bind: '::', auth: { mode: 'none' } } }, /loopback only/],
  [{ what: 'no authentication on an address', gateway: { bind: '10.0.0.1', auth: { mode: 'none' } } }, /loopback only/],
  [
    { what: 'no authentication on a mapped address', gateway: { bind: '::ffff:10.0.0.1', auth: { mode: 'none' } } },
    /loopback only/,
  ],
  [
    {
      what: 'no authentication on a custom host',
      gateway: { bind: 'custom', customBindHost: '10.0.0.1', auth: { mode: 'none' } },
    },
    /loopback only/,
  ],
  [{ what: 'no authentication, bound wide by a flag', gateway: local({ mode: 'none' }), bind: 'lan' }, /loopback only/],
  [{ what: 'no token on all interfaces', gateway: lan({}) }, /a token is required beyond loopback/],
  [{ what: 'no file, bound wide by a flag', bind: 'lan' }, /a token is required beyond loopback/],
  [{ what: 'an empty token', gateway: lan({ token: '' }) }, /the token is empty/],
  [{ what: 'a token of blanks', gateway: lan({ token: '   \t' }) }, /the token is empty/],
  [{ what: 'an empty variable', gateway: lan({}), env: variable('') }, /the token is empty/],
  [{ what: 'the word undefined', gateway: lan({ token: 'undefined' }) }, /the word undefined/],
  [{ what: 'the word undefined in the variable', gateway: lan({}), env: variable('undefined') }, /the word undefined/],
  [{ what: 'the word null', gateway: lan({ token: 'null' }) }, /the word null/],
  [{ what: 'the word null in the variable', gateway: lan({}), env: variable('null') }, /the word null/],
  [{ what: 'changeme', gateway: lan({ token: 'changeme' }) }, /is a placeholder/],
  [{ what: 'Change-Me at length', gateway: lan({ token: 'Change-Me-Change-Me-Change-Me' }) }, /is a placeholder/],
  [{ what: 'what an example says', gateway: lan({ token: '<your long random token here>' }) }, /is a placeholder/],
  [{ what: 'a name in brackets', gateway: lan({ token: '{{ gateway_token_from_vault }}' }) }, /is a placeholder/],
  [{ what: 'replace-with-…', gateway: lan({ token: 'replace-with-output-of-openssl' }) }, /is a placeholder/],
  [
    { what: 'a variable nobody replaced', gateway: lan({ token: '$${OPENCLAW_GATEWAY_TOKEN}' }) },
    /a variable that was not replaced/,
  ],
  [{ what: 'a variable nobody set', gateway: lan({ token: '${NOBODY_SET_THIS}' }) }, /NOBODY_SET_THIS is not set/],
  [{ what: 'what is shown instead of a secret', gateway: lan({ token: '__OPENCLAW_REDACTED__' }) }, /redaction marker/],
  [{ what: 'a token of 23 characters', gateway: lan({ token: GOOD.slice(0, 23) }) }, /has 23 characters; at least 24/],
  [{ what: 'a token of one character', gateway: lan({ token: 'x' }) }, /has 1 characters|is a placeholder/],
  [{ what: 'a short token in the variable', gateway: lan({}), env: variable('correct-horse') }, /has 13 characters/],
  [{ what: 'a token of one letter', gateway: lan({ token: 'a'.repeat(40) }) }, /repeats a few characters/],
  [{ what: 'a password nobody set', gateway: lan({ mode: 'password' }) }, /mode password needs one/],
  [{ what: 'a password nobody set, on loopback', gateway: local({ mode: 'password' }) }, /mode password needs one/],
  [
    { what: 'the password password', gateway: lan({ mode: 'password', password: 'password' }) },
    /the password is a placeholder/,
  ],
  [{ what: 'the password undefined', gateway: lan({ mode: 'password', password: 'undefined' }) }, /the word undefined/],
  [{ what: 'a mode nobody knows', gateway: local({ mode: 'trusted-proxy' }) }, /gateway\.auth\.mode/],
  [{ what: 'a bind nobody knows', gateway: { bind: 'everywhere', auth: { token: GOOD } } }, /gateway\.bind/],
  [{ what: 'a name to bind to', gateway: { bind: 'gateway.example', auth: { token: GOOD } } }, /gateway\.bind/],
  [{ what: 'a range nobody can read', gateway: { trustedProxies: ['10.0.0.0/99'] } }, /gateway\.trustedProxies\[0\]/],
  [{ what: 'a file that is no JSON5', text: '{ gateway: { bind: "loopback" ' }, /line|JSON5|end/i],
  [{ what: 'a file that holds a list', text: '[]' }, /must hold an object/],
  [
    { what: 'a key that changes all objects', text: '{ "__proto__": { gateway: { auth: { mode: "none" } } } }' },
    /reserved/,
  ],
  [{ what: 'limits below nought', gateway: { limits: { burst: -1 } } }, /gateway\.limits\.burst/],
  [{ what: 'a token that is a number', gateway: local({ token: 123456789012345 }) }, /gateway\.auth\.token/],
]

/** With these it starts, and says what is weak; undefined: nothing is. */
const STARTED: [SetUp, RegExp | undefined][] = [
  [{ what: 'a good token on loopback', gateway: local({ token: GOOD }) }, undefined],
  [{ what: 'a good token in the variable', gateway: {}, env: variable(GOOD) }, undefined],
  [{ what: 'nothing at all, on loopback: a token is made', gateway: {} }, undefined],
  [{ what: 'a file that nobody may write', gateway: local({ token: GOOD }), fileMode: 0o444 }, undefined],
  [
    { what: 'a good password on loopback', gateway: local({ mode: 'password', password: 'correct horse battery' }) },
    undefined,
  ],
  [{ what: 'a good token on all interfaces', gateway: lan({ token: GOOD }) }, /plain HTTP; put a proxy that ends TLS/],
  [{ what: 'a good token on an address', gateway: { bind: '::', auth: { token: GOOD } } }, /plain HTTP/],
  [{ what: 'a good token, bound wide by a flag', gateway: local({ token: GOOD }), bind: 'lan' }, /plain HTTP/],
  [
    {
      what: 'a good password on all interfaces',
      gateway: lan({ mode: 'password', password: 'correct horse battery' }),
    },
    /plain HTTP/,
  ],
  [
    { what: 'a short password on all interfaces', gateway: lan({ mode: 'password', password: 'corr-1' }) },
    /has 6 characters only/,
  ],
  [
    { what: 'no authentication on loopback', gateway: local({ mode: 'none' }) },
    /none lets in everybody who reaches the port/,
  ],
  [{ what: 'a short token on loopback', gateway: local({ token: 'correct-horse' }) }, /has 13 characters; at least 24/],
  [{ what: 'a token of 23 characters on loopback', gateway: local({ token: GOOD.slice(0, 23) }) }, /has 23 characters/],
  [
    { what: 'a token of one letter on loopback', gateway: local({ token: 'a'.repeat(40) }) },
    /repeats a few characters/,
  ],
  [
    { what: 'a state folder that a group can read', gateway: local({ token: GOOD }), mode: 0o750 },
    /can be read by others|others can read/,
  ],
  [
    { what: 'a state folder that everybody can read', gateway: local({ token: GOOD }), mode: 0o755 },
    /can be read by others|others can read/,
  ],
  [
    { what: 'a state folder that everybody can write', gateway: local({ token: GOOD }), mode: 0o777 },
    /can be read by others|others can read/,
  ],
  [
    { what: 'every proxy believed', gateway: { auth: { token: GOOD }, trustedProxies: ['*'] } },
    /believes the forwarded headers of every peer/,
  ],
  [
    { what: 'two tokens', gateway: local({ token: GOOD }), env: variable(`${GOOD}2`) },
    /differs from OPENCLAW_GATEWAY_TOKEN/,
  ],
  [{ what: 'a key that is misspelt', gateway: { auth: { token: GOOD }, bnid: 'lan' } }, /unknown key/],
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
  it('is asked about sixty set-ups', () => expect(REFUSED.length + STARTED.length).toBeGreaterThanOrEqual(60))

  for (const [setUp, says] of REFUSED)
    it(`refuses ${setUp.what}`, async () => {
      const { code, findings } = await examined(setUp)
      const problems = findings.filter(({ state }) => state === 'problem')
      expect([code, problems.map(({ detail }) => detail)]).toEqual([78, [expect.stringMatching(says)]])
    })

  for (const [setUp, says] of STARTED)
    it(`lets pass ${setUp.what}${says ? ', and says so' : ''}`, async () => {
      const { code, findings } = await examined(setUp)
      expect(findings.filter(({ state }) => state === 'problem')).toEqual([])
      expect(code).toBe(0)
      const warnings = findings.filter(({ state, what }) => state === 'warning' && !what.startsWith('model'))
      if (says) expect(warnings.map(({ detail }) => detail).join('\n')).toMatch(says)
      else expect(warnings).toEqual([])
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
  const named = (list: [SetUp, unknown][], ...names: string[]) => list.filter(([{ what }]) => names.includes(what))

  for (const [setUp, says] of named(
    REFUSED,
    'no authentication on all interfaces',
    'no file, bound wide by a flag',
    'the word undefined in the variable',
    'what an example says',
    'a token of 23 characters',
    'a file that is no JSON5',
  ) as typeof REFUSED)
    it(`with ${setUp.what} ends with 78, says what is wrong, and makes nothing`, async () => {
      const { code, err } = await started(setUp)
      expect(code).toBe(78)
      expect(err).toMatch(says)
      expect(readdirSync(stateDir).filter((name) => name !== 'openclaw.json5')).toEqual([])
    })

  for (const [setUp, says] of named(
    STARTED,
    'a file that nobody may write',
    'a good token, bound wide by a flag',
    'a short token on loopback',
    'a state folder that everybody can read',
  ) as typeof STARTED)
    it(`with ${setUp.what} runs${says ? ', and says what is weak' : ''}; what it makes is its own`, async () => {
      const { code, err } = await started(setUp)
      expect(code).toBe('ran')
      if (says) expect(err).toMatch(says)
      const made = readdirSync(stateDir, { recursive: true, encoding: 'utf8' }).filter(
        (name) => name !== 'openclaw.json5',
      )
      expect(made.length).toBeGreaterThan(1)
      for (const name of made) expect([name, statSync(join(stateDir, name)).mode & 0o077]).toEqual([name, 0])
      expect(statSync(stateDir).mode & 0o077).toBe(0)
    })
})

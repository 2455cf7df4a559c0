/** Every half-valid way to come in, against a table that was written without looking at the code. */
import type { IncomingMessage } from 'node:http'
import { beforeAll, describe, expect, it } from 'vitest'
import type { Attempts } from '../../src/auth/attempts.ts'
import { createAuthenticator } from '../../src/auth/authenticate.ts'
import { type DeviceRecord, type Devices, openDevices, worthOf } from '../../src/auth/devices.ts'
import { SHARED } from '../../src/auth/principals.ts'
import { makeToken } from '../../src/auth/token-text.ts'
import { openTokens, type Tokens } from '../../src/auth/tokens.ts'
import { parseRange } from '../../src/config/address.ts'
import { Secret } from '../../src/config/secret.ts'
import { OPERATOR_SCOPES, type Scope } from '../../src/contract/block.ts'
import type { ConnectParams } from '../../src/contract/connect.ts'
import { openMemoryStore } from '../../src/stores/memory.ts'
import { knock } from '../../src/transport/door.ts'
import { createDevice } from '../support/device.ts'
import { patient } from '../support/rooms.ts'

const NOW = 1_800_000_000_000
const NONCE = 'the-nonce-of-this-socket'
const ASKED: Scope[] = ['operator.admin', 'operator.read', 'operator.write']
const PAIRED_FOR: Scope[] = ['operator.read', 'operator.write']
const NAMED_FOR: Scope[] = ['operator.approvals', 'operator.read']
const TEXTS = {
  shared: 'the-shared-token-0123456789abc',
  password: 'the-shared-password-0123456789',
  wrong: 'some-other-token-0123456789abc',
}
const SECRET = new Uint8Array(32).fill(7)
const guesser = { network: '::1', origin: undefined, isShared: true }

const THREE = ['absent', 'wrong', 'right'] as const
type Three = (typeof THREE)[number]
const TOKENS = [...THREE, 'named', 'unknown', 'expired', 'revoked', 'mistyped', 'of a node'] as const

interface Case {
  mode: 'token' | 'password'
  page: boolean
  token: (typeof TOKENS)[number]
  password: Three
  /** `wrong`: of another device. `right`: of this one, for whatever role it is paired in. */
  deviceToken: Three
  /** `absent`: no device is shown at all. */
  signature: Three
  nonce: Three
  /** `wrong`: paired as a node. */
  pairing: Three
  /** `wrong`: foreign. */
  origin: Three
  /** `wrong`: forwarding headers of a peer that is no trusted proxy. `right`: of one that is. */
  proxy: Three
}

/** What a case comes to, in short. */
interface Verdict {
  refused?: string
  scopes?: Scope[]
  knownBy?: 'the shared credential' | 'the device' | 'the named token'
  /** It is paired, or what it is paired for is widened. */
  pairs?: true
  /** The answer has a device token. */
  hasToken?: true
  /** It waits for somebody's word. */
  waits?: true
}

// The table. A case is judged by the first row it fits.

const isHere = ({ proxy }: Case) => proxy === 'absent'
const isProven = ({ signature, nonce }: Case) => signature === 'right' && nonce === 'right'
const isPaired = (it: Case) => isProven(it) && it.pairing === 'right'

/** Of several tokens the first one counts; a password counts only where one is asked for. */
function credential(it: Case): 'none' | 'misplaced' | 'wrong' | 'shared' | 'own' | 'named' | 'expired' | 'revoked' {
  if (it.mode === 'password' && it.password === 'right') return 'shared'
  switch (it.token) {
    case 'right':
      return it.mode === 'token' ? 'shared' : 'wrong'
    case 'named':
    case 'expired':
    case 'revoked':
      return it.token
    case 'wrong':
    case 'unknown':
    case 'mistyped':
    case 'of a node':
      return 'wrong'
  }
  if (it.deviceToken === 'right') return isPaired(it) ? 'own' : 'wrong'
  if (it.deviceToken === 'wrong') return 'wrong'
  if (it.mode === 'password') return it.password === 'wrong' ? 'wrong' : 'none'
  return it.password === 'absent' ? 'none' : 'misplaced'
}

const KIND = { token: 'AUTH_TOKEN', password: 'AUTH_PASSWORD' }
const ALL = ASKED
const shared = 'the shared credential'

const TABLE: [row: string, fits: (it: Case) => boolean, verdict: (it: Case) => Verdict][] = [
  ['a page of elsewhere', (it) => it.origin === 'wrong', () => ({ refused: 'HTTP 403' })],
  ['a stranger forwards', (it) => it.proxy === 'wrong', () => ({ refused: 'PROXY_ATTRIBUTION_REQUIRED' })],
  [
    'a page that comes from nowhere',
    (it) => it.page && it.origin === 'absent',
    () => ({ refused: 'CONTROL_UI_ORIGIN_NOT_ALLOWED' }),
  ],
  [
    'a page without a device',
    (it) => it.page && it.signature === 'absent',
    () => ({ refused: 'CONTROL_UI_DEVICE_IDENTITY_REQUIRED' }),
  ],
  [
    'nothing to know it by',
    (it) => it.signature === 'absent' && credential(it) === 'none',
    () => ({ refused: 'DEVICE_IDENTITY_REQUIRED' }),
  ],
  [
    'a device without a nonce',
    (it) => it.signature !== 'absent' && it.nonce === 'absent',
    () => ({ refused: 'DEVICE_AUTH_NONCE_REQUIRED' }),
  ],
  [
    'a device with the nonce of another socket',
    (it) => it.signature !== 'absent' && it.nonce === 'wrong',
    () => ({ refused: 'DEVICE_AUTH_NONCE_MISMATCH' }),
  ],
  ['a forged signature', (it) => it.signature === 'wrong', () => ({ refused: 'DEVICE_AUTH_SIGNATURE_INVALID' })],
  [
    'no credential',
    (it) => ['none', 'misplaced'].includes(credential(it)),
    ({ mode }) => ({ refused: `${KIND[mode]}_MISSING` }),
  ],
  ['a wrong credential', (it) => credential(it) === 'wrong', ({ mode }) => ({ refused: `${KIND[mode]}_MISMATCH` })],
  ['an old named token', (it) => credential(it) === 'expired', () => ({ refused: 'AUTH_NAMED_TOKEN_EXPIRED' })],
  ['a revoked named token', (it) => credential(it) === 'revoked', () => ({ refused: 'AUTH_NAMED_TOKEN_REVOKED' })],
  [
    'a browser from afar whose device is not paired',
    (it) => isProven(it) && !isPaired(it) && !isHere(it) && it.origin === 'right',
    // What it was paired for would outlive a named token.
    (it) => ({ refused: 'PAIRING_REQUIRED', ...(credential(it) !== 'named' && { waits: true as const }) }),
  ],
  [
    'a named token',
    (it) => credential(it) === 'named',
    () => ({ scopes: ['operator.read'], knownBy: 'the named token' }),
  ],
  [
    "a device's own token: it has less than it asks for, so it waits for the rest",
    (it) => credential(it) === 'own',
    () => ({ scopes: PAIRED_FOR, knownBy: 'the device', hasToken: true, waits: true }),
  ],
  ['no device', (it) => it.signature === 'absent', () => ({ scopes: ALL, knownBy: shared })],
  [
    'a device from here, paired for as much as it asks for from now on',
    isHere,
    () => ({ scopes: ALL, knownBy: 'the device', pairs: true, hasToken: true }),
  ],
  [
    'a paired device from afar that asks for more',
    isPaired,
    () => ({ scopes: ALL, knownBy: 'the device', hasToken: true, waits: true }),
  ],
  ['an unpaired device from afar', isProven, () => ({ scopes: ALL, knownBy: shared, waits: true })],
]

const verdictOf = (it: Case) => TABLE.find(([, fits]) => fits(it))![2](it)
const rowOf = (it: Case) => TABLE.find(([, fits]) => fits(it))![0]

// The gateway's side.

const device = createDevice()
const proofs = new Map<string, object>()
let tokenTexts: { [token in Case['token']]: string }
let deviceTexts: { [pairing in Three]: string }
let otherDevicesToken: string
let devicesBy: { [pairing in Three]: Devices }
let tokens: Tokens

const newPairing = (deviceId: string, role: string) => ({
  deviceId,
  publicKey: device.publicKey,
  platform: 'linux',
  clientId: 'gateway-client',
  clientMode: 'backend',
  role,
  granted: role === 'operator' ? PAIRED_FOR : [],
})

beforeAll(async () => {
  let at = NOW - 10_000
  tokens = await openTokens({ store: openMemoryStore(), now: () => at, onRevoked() {} })
  const make = async (expiresAtMs?: number) => {
    const { token, text } = await tokens.create(
      {
        name: 'a test',
        scopes: NAMED_FOR,
        ...(expiresAtMs !== undefined && { expiresAtMs }),
      },
      SHARED,
    )
    return { id: token.id, text: text.reveal() }
  }
  const [named, expired, revoked] = [await make(NOW + 1), await make(NOW), await make()]
  await tokens.revoke(revoked.id)
  at = NOW
  tokenTexts = {
    absent: '',
    wrong: TEXTS.wrong,
    right: TEXTS.shared,
    named: named.text,
    unknown: makeToken('named').text.reveal(),
    expired: expired.text,
    revoked: revoked.text,
    mistyped: named.text.slice(0, -1),
    'of a node': makeToken('node').text.reveal(),
  }
  const paired = async (role?: string) => {
    const devices = await openDevices(openMemoryStore(), SECRET, { now: () => NOW })
    const record = role ? await devices.pair(newPairing(device.id, role)) : undefined
    return { devices, token: record ? devices.token(record) : 'f'.repeat(32) }
  }
  const [absent, wrong, right] = [await paired(), await paired('node'), await paired('operator')]
  devicesBy = { absent: absent.devices, wrong: wrong.devices, right: right.devices }
  deviceTexts = { absent: absent.token, wrong: wrong.token, right: right.token }
  otherDevicesToken = absent.devices.token(await absent.devices.pair(newPairing('another', 'operator')))
})

/** The `device` member, spoiled as the case says. */
function proofFor(it: Case, token: string, clientId: string): NonNullable<ConnectParams['device']> {
  const key = [it.signature, it.nonce, token, clientId].join()
  let proof = proofs.get(key)
  if (!proof) {
    proof = device.prove(it.nonce === 'wrong' ? 'of-another-socket' : NONCE, {
      token,
      scopes: ASKED,
      signedAt: NOW,
      clientId,
    })
    if (it.nonce === 'absent') proof = { ...proof, nonce: undefined }
    if (it.signature === 'wrong') proof = { ...proof, signature: 'A'.repeat(86) }
    proofs.set(key, proof)
  }
  return proof as NonNullable<ConnectParams['device']>
}

/** As the door sees it. */
function requestOf({ origin, proxy }: Case): IncomingMessage {
  const headers = {
    host: '127.0.0.1:18789',
    ...(origin !== 'absent' && { origin: origin === 'right' ? 'http://127.0.0.1:18789' : 'https://elsewhere.example' }),
    ...(proxy !== 'absent' && { 'x-forwarded-for': '203.0.113.7' }),
  }
  const headersDistinct = Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, [value]]))
  const remoteAddress = { absent: '127.0.0.1', wrong: '10.0.0.8', right: '10.0.0.9' }[proxy]
  const request = { httpVersion: '1.1', url: '/', headers, headersDistinct, socket: { remoteAddress } }
  return request as unknown as IncomingMessage
}

async function judge(it: Case): Promise<Verdict> {
  const auth = {
    token: tokenTexts[it.token],
    deviceToken: { absent: '', wrong: otherDevicesToken, right: deviceTexts[it.pairing] }[it.deviceToken],
    password: { absent: '', wrong: TEXTS.wrong, right: TEXTS.password }[it.password],
  }
  const clientId = it.page ? 'openclaw-control-ui' : 'gateway-client'
  const seen: Pick<Verdict, 'pairs' | 'waits'> = {}
  // Pairs as it would, and forgets it: one case is nothing to the next.
  const devices: Devices = {
    ...devicesBy[it.pairing],
    async pair({ granted, ...rest }) {
      seen.pairs = true
      return { ...rest, scopes: [...granted], createdAtMs: NOW, approvedAtMs: NOW, issuedAtMs: NOW } as DeviceRecord
    },
  }
  const authenticator = createAuthenticator({
    auth: { mode: it.mode, token: new Secret(TEXTS.shared), password: new Secret(TEXTS.password) },
    pagesNeedNoDevice: false,
    devices,
    tokens,
    pairings: {
      async ask() {
        seen.waits = true
        return 'the-request'
      },
      pairedSilently() {},
    },
    attempts: patient,
    pause: () => Promise.resolve(),
    now: () => NOW,
  })
  const params: ConnectParams = {
    client: { id: clientId, version: 'dev', platform: 'linux', mode: 'backend' },
    role: 'operator',
    scopes: ASKED,
    auth,
    ...(it.signature !== 'absent' && { device: proofFor(it, auth.token || auth.deviceToken, clientId) }),
  }
  const knocked = knock(requestOf(it), { allowedOrigins: [], trustedProxies: [parseRange('10.0.0.9')!] })
  if (!knocked.admitted) return { refused: `HTTP ${knocked.status}` }
  const outcome = await authenticator.authenticate(params, knocked.facts, NONCE)
  if (!('principal' in outcome)) {
    const said = JSON.stringify(outcome)
    if (Object.values(auth).some((text) => text && said.includes(text))) throw new Error(`a credential is in ${said}`)
    const { code, requestId } = outcome.decision.details
    if (requestId !== (seen.waits ? 'the-request' : undefined))
      throw new Error(`${requestId} is not the request that waits`)
    return { refused: code, ...seen }
  }
  const { principal, deviceToken, decision } = outcome
  return {
    scopes: decision.granted,
    knownBy: principal === device.id ? 'the device' : principal === 'token:shared' ? shared : 'the named token',
    ...(deviceToken && { hasToken: true as const }),
    ...seen,
  }
}

function* cases(mode: Case['mode'], page: boolean, firsts: readonly Case['token'][]): Generator<Case> {
  for (const token of firsts)
    for (const password of THREE)
      for (const deviceToken of THREE)
        for (const signature of THREE)
          for (const nonce of THREE)
            for (const pairing of THREE)
              for (const origin of THREE)
                for (const proxy of THREE)
                  yield { mode, page, token, password, deviceToken, signature, nonce, pairing, origin, proxy }
}

describe('every combination of what is absent, wrong or right', () => {
  const fitted = new Set<string>()

  it.for([
    { mode: 'token', page: false, firsts: TOKENS, many: 19_683 },
    { mode: 'token', page: true, firsts: THREE, many: 6_561 },
    { mode: 'password', page: false, firsts: [...THREE, 'named'], many: 8_748 },
  ] as const)(
    'equals the table: $many where a $mode is asked for, page: $page',
    { timeout: 120_000 },
    async ({ mode, page, firsts, many }) => {
      let count = 0
      const wrong: object[] = []
      for (const it of cases(mode, page, firsts)) {
        count += 1
        fitted.add(rowOf(it))
        const verdict = await judge(it)
        if (
          JSON.stringify(sorted(verdict)) !== JSON.stringify(sorted(verdictOf(it))) &&
          wrong.push({ it, verdict }) > 3
        )
          break
      }
      expect(wrong).toEqual([])
      expect(count).toBe(many)
    },
  )

  it('leaves no row of the table without a case', () => {
    expect(TABLE.map(([row]) => row).filter((row) => !fitted.has(row))).toEqual([])
  })
})

const sorted = ({ scopes, ...rest }: Verdict) =>
  Object.entries({
    ...rest,
    ...(scopes && { scopes: OPERATOR_SCOPES.filter((scope) => scopes.includes(scope)) }),
  }).sort(([a], [b]) => (a < b ? -1 : 1))

describe('what is said of a token that is not the one', () => {
  const words = async (token: Case['token'] | 'of a device') => {
    const auth = { token: token === 'of a device' ? otherDevicesToken : tokenTexts[token] }
    const authenticator = createAuthenticator({
      auth: { mode: 'token', token: new Secret(TEXTS.shared) },
      pagesNeedNoDevice: false,
      devices: devicesBy.absent,
      tokens,
      attempts: patient,
      pause: () => Promise.resolve(),
      now: () => NOW,
    })
    const facts = { address: '::1', clientAddress: '::1', local: true, origin: 'absent', path: '/' } as const
    const { decision } = await authenticator.authenticate(
      { auth },
      { ...facts, guesser, forwardedByStranger: false },
      NONCE,
    )
    return decision.admitted ? '' : decision.message
  }

  it('names what it is instead', async () => {
    expect(await words('wrong')).toBe('unauthorized: gateway token mismatch (provide gateway auth token)')
    expect(await words('unknown')).toMatch(/named token, and not one of this gateway/)
    expect(await words('expired')).toMatch(/^unauthorized: the named token has expired/)
    expect(await words('revoked')).toMatch(/^unauthorized: the named token was revoked/)
    expect(await words('mistyped')).toMatch(/mismatch \(it begins like a named token, and is cut off or mistyped/)
    expect(await words('of a node')).toMatch(/mismatch \(it is the token of a node/)
    expect(await words('of a device')).toMatch(/mismatch \(it looks like the token of a device/)
  })
})

describe('a guess', () => {
  it.each([
    ['password', { password: TEXTS.wrong }, false],
    ['password', { password: TEXTS.password }, true],
    ['password', { password: TEXTS.password, token: TEXTS.wrong }, true],
    // What the token lets in, the right password would let in further.
    ['password', { password: TEXTS.wrong, token: 'named' }, false],
    ['password', { token: 'named' }, true],
    ['token', { token: TEXTS.wrong }, false],
    ['token', { token: TEXTS.shared, password: TEXTS.wrong }, true],
    ['token', { token: TEXTS.wrong, password: TEXTS.password, deviceToken: 'bogus' }, false],
    ['token', { token: 'named', password: TEXTS.wrong }, true],
    ['token', {}, undefined],
  ] as const)('where the gateway asks for a %s, with %j, is right: %s', async (mode, given, isRight) => {
    const auth = { ...given, ...('token' in given && given.token === 'named' && { token: tokenTexts.named }) }
    const ends: boolean[] = []
    const authenticator = createAuthenticator({
      auth: { mode, token: new Secret(TEXTS.shared), password: new Secret(TEXTS.password) },
      pagesNeedNoDevice: false,
      devices: devicesBy.absent,
      tokens,
      attempts: {
        begin: () => ({
          mayTry: true,
          delayMs: 0,
          async end(right) {
            ends.push(right)
          },
        }),
      },
      pause: () => Promise.resolve(),
      now: () => NOW,
    })
    const facts = { address: '::1', clientAddress: '::1', local: true, origin: 'absent', path: '/' } as const
    await authenticator.authenticate({ auth }, { ...facts, guesser, forwardedByStranger: false }, NONCE)
    expect(ends).toEqual(isRight === undefined ? [] : [isRight])
  })

  it('of a device that has proved itself is counted as that of nobody else', async () => {
    const counted = async (pairing: Three, signature: Three) => {
      const seen: (string | undefined)[] = []
      const authenticator = createAuthenticator({
        auth: { mode: 'token', token: new Secret(TEXTS.shared) },
        pagesNeedNoDevice: false,
        devices: devicesBy[pairing],
        attempts: {
          begin(guesser, value) {
            seen.push(guesser.device)
            return patient.begin(guesser, value)
          },
        },
        pause: () => Promise.resolve(),
        now: () => NOW,
      })
      const facts = { address: '::1', clientAddress: '::1', local: true, origin: 'absent', path: '/' } as const
      const proof = device.prove(NONCE, {
        token: TEXTS.wrong,
        scopes: ASKED,
        signedAt: NOW,
        clientId: 'gateway-client',
      })
      await authenticator.authenticate(
        {
          client: { id: 'gateway-client', version: 'dev', platform: 'linux', mode: 'backend' },
          role: 'operator',
          scopes: ASKED,
          auth: { token: TEXTS.wrong },
          device: signature === 'right' ? proof : { ...proof, signature: 'A'.repeat(86) },
        } as ConnectParams,
        { ...facts, guesser, forwardedByStranger: false },
        NONCE,
      )
      return seen
    }
    expect(await counted('right', 'right')).toEqual([device.id])
    expect(await counted('absent', 'right')).toEqual([undefined])
    expect(await counted('right', 'wrong')).toEqual([undefined])
  })

  it('is not looked at when there were too many, and waits where it is to wait', async () => {
    const said: string[] = []
    const authenticate = async (attempt: ReturnType<Attempts['begin']>) => {
      const authenticator = createAuthenticator({
        auth: { mode: 'token', token: new Secret(TEXTS.shared) },
        pagesNeedNoDevice: false,
        devices: devicesBy.absent,
        attempts: { begin: () => attempt },
        async pause(ms) {
          said.push(`paused ${ms}`)
        },
        now: () => NOW,
      })
      const facts = { address: '::1', clientAddress: '::1', local: true, origin: 'absent', path: '/' } as const
      const peer = { ...facts, guesser, forwardedByStranger: false }
      const { decision } = await authenticator.authenticate({ auth: { token: TEXTS.shared } }, peer, NONCE)
      return decision
    }
    expect(await authenticate({ mayTry: false, retryAfterMs: 7, kept: Promise.resolve() })).toMatchObject({
      admitted: false,
      retryAfterMs: 7,
      details: { code: 'AUTH_RATE_LIMITED' },
    })
    const end = async (isRight: boolean) => void said.push(`ended ${isRight}`)
    expect(await authenticate({ mayTry: true, delayMs: 250, end })).toMatchObject({ admitted: true })
    expect(said).toEqual(['paused 250', 'ended true'])
  })
})

describe('what somebody was admitted on', () => {
  const facts = { address: '::1', clientAddress: '::1', local: true, origin: 'absent', path: '/' } as const

  async function admit(
    auth: object,
    prove?: (token: string) => object,
    tokenOf?: (devices: Devices) => Promise<string>,
  ) {
    const store = openMemoryStore()
    const devices = await openDevices(store, SECRET, { now: () => NOW })
    const own = await tokenOf?.(devices)
    const named = await openTokens({ store, now: () => NOW, onRevoked() {} })
    const { token, text } = await named.create(
      {
        name: 'a test',
        scopes: ['operator.read'],
        sessions: ['agent:main:*'],
      },
      SHARED,
    )
    const authenticator = createAuthenticator({
      auth: { mode: 'token', token: new Secret(TEXTS.shared) },
      pagesNeedNoDevice: false,
      devices,
      tokens: named,
      attempts: patient,
      pause: () => Promise.resolve(),
      now: () => NOW,
    })
    const given = { token: own ?? text.reveal(), ...auth }
    const params = { role: 'operator', scopes: ASKED, auth: given, ...(prove && { device: prove(given.token) }) }
    const outcome = await authenticator.authenticate(
      {
        client: { id: 'gateway-client', version: 'dev', platform: 'linux', mode: 'backend' },
        ...params,
      } as ConnectParams,
      { ...facts, guesser, forwardedByStranger: false },
      NONCE,
    )
    if (!('principal' in outcome)) throw new Error(outcome.decision.message)
    return { outcome, devices, named, id: token.id }
  }
  const prove = (token: string) => device.prove(NONCE, { token, scopes: ASKED, signedAt: NOW })

  it('by a named token stands as long as the token, and reaches the sessions of the token', async () => {
    const { outcome, named, id } = await admit({}, prove)
    expect(outcome).toMatchObject({ principal: `token:${id}`, credential: `token:${id}`, sessions: ['agent:main:*'] })
    expect(outcome.isCurrent!()).toBe(true)
    await named.revoke(id)
    expect(outcome.isCurrent!()).toBe(false)
  })

  it('as a device stands as long as its pairing, whatever it came in by', async () => {
    const { outcome, devices } = await admit({ token: TEXTS.shared }, prove)
    expect(outcome).toMatchObject({ principal: device.id, credential: 'shared' })
    expect(outcome.isCurrent!()).toBe(true)
    await devices.rotate(device.id, 'operator', worthOf)
    expect(outcome.isCurrent!()).toBe(true)
    await devices.revoke(device.id, 'operator')
    expect(outcome.isCurrent!()).toBe(false)
  })

  it("by a device's token does not stand where that is narrowed, though it is taken for a while", async () => {
    let own = ''
    const { outcome, devices } = await admit({}, prove, async (devices) => {
      own = devices.token(await devices.pair(newPairing(device.id, 'operator')))
      return own
    })
    expect(outcome).toMatchObject({ principal: device.id, decision: { granted: PAIRED_FOR.toSorted() } })
    expect(outcome.isCurrent!()).toBe(true)
    const narrowed = await devices.rotate(device.id, 'operator', () => ['operator.read'])
    expect(devices.credential(narrowed, own)).toBe(outcome.credential)
    expect(outcome.isCurrent!()).toBe(false)
  })

  it('by the shared token alone stands', async () => {
    const { outcome } = await admit({ token: TEXTS.shared })
    expect(outcome).toMatchObject({ principal: 'token:shared', credential: 'shared' })
    expect(outcome).not.toHaveProperty('sessions')
    expect(outcome.isCurrent!()).toBe(true)
  })
})

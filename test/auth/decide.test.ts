import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { decide, type Facts } from '../../src/auth/decide.ts'
import { OPERATOR_SCOPES, type Scope } from '../../src/contract/block.ts'

const scopes = fc.subarray([...OPERATOR_SCOPES])
const device = fc.constantFrom<Facts['device']>(
  { kind: 'none' },
  { kind: 'valid', deviceId: 'd', publicKey: 'k' },
  { kind: 'invalid', reason: 'device signature invalid', code: 'DEVICE_AUTH_SIGNATURE_INVALID' },
)
const facts: fc.Arbitrary<Facts> = fc.record({
  mode: fc.constantFrom<Facts['mode']>('token', 'password', 'none'),
  misplaced: fc.boolean(),
  credential: fc.constantFrom<Facts['credential']>(
    ...(['notNeeded', 'absent', 'wrong', 'shared', 'device', 'named', 'expired', 'revoked', 'proxy'] as const),
  ),
  looksLike: fc.constantFrom<Facts['looksLike']>(undefined, 'mistyped', 'device', 'node', 'named'),
  named: scopes,
  device,
  paired: fc.option(
    fc
      .record({ scopes, worthless: fc.boolean() })
      .map(({ worthless, ...paired }) => ({ ...paired, tokenScopes: worthless ? paired.scopes.slice(1) : undefined })),
    { nil: undefined },
  ),
  role: fc.constantFrom('operator', 'node', 'admin', '__proto__', ''),
  requestedScopes: fc.option(fc.array(fc.oneof(fc.constantFrom(...OPERATOR_SCOPES), fc.string({ maxLength: 5 }))), {
    nil: undefined,
  }),
  clientId: fc.constantFrom('cli', 'openclaw-control-ui', 'webchat', 'webchat-ui', 'gateway-client', 'toString'),
  clientMode: fc.constantFrom('cli', 'webchat', 'backend', 'ui'),
  local: fc.boolean(),
  forwardedByStranger: fc.boolean(),
  origin: fc.constantFrom<Facts['origin']>('absent', 'allowed'),
  pagesNeedNoDevice: fc.boolean(),
})
// A device's own token was compared with the record of the very device that proved itself: nothing else is a fact.
const possible = facts.filter(
  ({ credential, device: { kind }, paired }) => credential !== 'device' || (kind === 'valid' && paired !== undefined),
)
const always = (holds: (facts: Facts, decision: ReturnType<typeof decide>) => void) =>
  fc.assert(
    fc.property(possible, (given) => holds(given, decide(given))),
    { numRuns: 20_000 },
  )

const isPage = ({ clientId, clientMode }: Facts) =>
  ['openclaw-control-ui', 'webchat', 'webchat-ui'].includes(clientId) || clientMode === 'webchat'
const isLifted = ({ pagesNeedNoDevice, credential }: Facts) => pagesNeedNoDevice || credential === 'proxy'

/** What scopes are worth. */
const implied = (scopes: readonly Scope[]): readonly string[] =>
  scopes.includes('operator.admin')
    ? OPERATOR_SCOPES
    : [...scopes, ...(scopes.includes('operator.write') ? ['operator.read'] : [])]

/** The table at the head of the code: each rule, what it fits, and what becomes of it where that is a refusal. */
const TABLE: [rule: string, fits: (facts: Facts) => boolean, refusal?: (facts: Facts) => string][] = [
  [
    'forwarded headers from a stranger',
    ({ forwardedByStranger }) => forwardedByStranger,
    () => 'PROXY_ATTRIBUTION_REQUIRED',
  ],
  ['role', ({ role }) => !['operator', 'node'].includes(role), () => 'INVALID_ROLE'],
  ['origin', (it) => isPage(it) && it.origin === 'absent', () => 'CONTROL_UI_ORIGIN_NOT_ALLOWED'],
  [
    'page without device',
    (it) =>
      it.clientId === 'openclaw-control-ui' &&
      it.device.kind === 'none' &&
      !isLifted(it) &&
      it.credential !== 'notNeeded',
    () => 'CONTROL_UI_DEVICE_IDENTITY_REQUIRED',
  ],
  [
    'nothing to know the peer by',
    (it) => it.device.kind === 'none' && it.credential === 'absent' && !it.misplaced && !isPage(it),
    () => 'DEVICE_IDENTITY_REQUIRED',
  ],
  [
    'device proof',
    ({ device }) => device.kind === 'invalid',
    ({ device }) => (device?.kind === 'invalid' ? device.code : ''),
  ],
  [
    'credential missing',
    ({ credential }) => credential === 'absent',
    ({ mode }) => (mode === 'password' ? 'AUTH_PASSWORD_MISSING' : 'AUTH_TOKEN_MISSING'),
  ],
  [
    'credential wrong',
    ({ credential }) => credential === 'wrong',
    ({ mode }) => (mode === 'password' ? 'AUTH_PASSWORD_MISMATCH' : 'AUTH_TOKEN_MISMATCH'),
  ],
  ['named token expired', ({ credential }) => credential === 'expired', () => 'AUTH_NAMED_TOKEN_EXPIRED'],
  ['named token revoked', ({ credential }) => credential === 'revoked', () => 'AUTH_NAMED_TOKEN_REVOKED'],
  ['user for a node', ({ credential, role }) => credential === 'proxy' && role === 'node', () => 'INVALID_ROLE'],
  [
    'named token for a node',
    ({ credential, role }) => credential === 'named' && role === 'node',
    () => 'AUTH_NAMED_TOKEN_ROLE',
  ],
  [
    'node without pairing',
    ({ role, device, paired, local }) => role === 'node' && (device.kind === 'none' || (!paired && !local)),
    () => 'PAIRING_REQUIRED',
  ],
  [
    'page with an unpaired device',
    (it) => it.device.kind === 'valid' && !it.paired && !it.local && it.origin === 'allowed' && !isLifted(it),
    () => 'PAIRING_REQUIRED',
  ],
  ['named token', ({ credential }) => credential === 'named'],
  ['user of a proxy', ({ credential }) => credential === 'proxy'],
  ['no device', ({ device }) => device.kind === 'none'],
  ['paired device', ({ paired }) => paired !== undefined],
  ['newly paired device', ({ local }) => local],
  ['unpaired device', () => true],
]

/** The rule of a row: what a decision names has the credential before it, or what that looks like behind it. */
const ruleOf = (rule: string) => rule.replace(/^(?:shared|notNeeded|device), /, '').replace(/: \w+$/, '')

describe('the table', () => {
  it('stands at the head of the code, row by row', () => {
    const code = readFileSync(new URL('../../src/auth/decide.ts', import.meta.url), 'utf8')
    const rows = [...code.matchAll(/^ \* \| ([^|]+) \|[^|]+\|([^|]+)\|$/gm)].slice(1)
    expect(rows.map(([, rule]) => rule)).toEqual(TABLE.map(([rule]) => rule))
    for (const [at, [, , said]] of rows.entries()) {
      const refusal = TABLE[at]![2]
      expect(/^ (admitted|paired|the same)/.test(said!)).toBe(refusal === undefined)
      const codes = new Set((['token', 'password'] as const).map((mode) => refusal?.({ mode } as Facts) || ''))
      for (const code of codes) expect(said).toContain(code)
    }
  })

  it('is what is decided, by the first row that fits, and each row is the first for somebody', () => {
    const met = new Set<string>()
    always((facts, decision) => {
      const [rule, , refusal] = TABLE.find(([, fits]) => fits(facts))!
      met.add(rule)
      expect([ruleOf(decision.rule), decision.admitted ? undefined : decision.details.code]).toEqual([
        rule,
        refusal?.(facts),
      ])
    })
    expect(TABLE.map(([rule]) => rule).filter((rule) => !met.has(rule))).toEqual([])
  })
})

describe('a decision', () => {
  it('grants exactly what was asked for and is held, if only since something else implies it', () =>
    always(({ credential, role, paired, named, requestedScopes }, decision) => {
      if (!decision.admitted) return
      const grants: { [credential: string]: readonly Scope[] } = {
        device: paired?.tokenScopes ?? paired?.scopes ?? [],
        named: named ?? [],
        proxy: named ?? [],
        shared: OPERATOR_SCOPES,
        notNeeded: OPERATOR_SCOPES,
      }
      const grant = role === 'node' ? [] : grants[credential]!
      expect(decision.granted).toEqual(requestedScopes?.filter((scope) => implied(grant).includes(scope)) ?? grant)
    }))

  it('admits nobody on a wrong credential or a bad proof, by whatever else is true', () =>
    always(({ credential, device: { kind }, forwardedByStranger, role }, decision) => {
      const isWorthless = ['absent', 'wrong', 'expired', 'revoked'].includes(credential)
      if (isWorthless || kind === 'invalid' || forwardedByStranger) expect(decision.admitted).toBe(false)
      if (role !== 'operator' && role !== 'node') expect(decision.admitted).toBe(false)
    }))

  it('pairs only a proven device that is here', () =>
    always(({ device: { kind }, local }, decision) => {
      if (!decision.admitted || !decision.pair) return
      expect([kind, local]).toEqual(['valid', true])
    }))

  it('gives a token only to a proven device that is or becomes paired', () =>
    always(({ device: { kind }, paired }, decision) => {
      if (!decision.admitted || !decision.issueToken) return
      expect(kind).toBe('valid')
      expect(decision.pair || paired !== undefined).toBe(true)
      expect(decision.asDevice).toBe(true)
    }))

  it('pairs nothing by a named token, and knows its holder as nobody else', () =>
    always(({ credential, role }, decision) => {
      if (credential !== 'named') return
      expect(decision.asks).toBeUndefined()
      if (!decision.admitted) return
      expect([decision.pair, decision.issueToken, decision.asDevice, decision.asks]).toEqual([
        ...[false, false, false, undefined],
      ])
      expect(role).toBe('operator')
    }))

  it('lets only a proven device ask to be paired, and only somebody with a credential', () =>
    always(({ credential, device: { kind } }, decision) => {
      if (!decision.asks) return
      expect(kind).toBe('valid')
      expect(['notNeeded', 'shared', 'device']).toContain(credential)
    }))

  it('lets a device ask for what it wants and does not have, and for nothing unheard of', () =>
    always(({ requestedScopes, paired }, decision) => {
      if (!decision.asks) return
      for (const scope of decision.asks.scopes) {
        expect(OPERATOR_SCOPES).toContain(scope)
        if (requestedScopes) expect(requestedScopes).toContain(scope)
      }
      if (decision.admitted && paired)
        expect(decision.asks.scopes.filter((scope) => !implied(paired.scopes).includes(scope))).not.toEqual([])
    }))

  it('lets no page in from an origin that is not allowed', () =>
    always(({ clientId, clientMode, origin }, decision) => {
      const page = ['openclaw-control-ui', 'webchat', 'webchat-ui'].includes(clientId) || clientMode === 'webchat'
      if (page && origin === 'absent') expect(decision.admitted).toBe(false)
    }))

  it('lets no node in that is neither paired nor here', () =>
    always(({ role, paired, local, device: { kind } }, decision) => {
      if (role !== 'node' || !decision.admitted) return
      expect(kind).toBe('valid')
      expect(local || paired !== undefined).toBe(true)
    }))

  it('says in each refusal what was wrong, in a code and in words', () =>
    always((_, decision) => {
      if (decision.admitted) return
      expect(decision.message).not.toBe('')
      expect(decision.details.code).toMatch(/^[A-Z_]+$/)
    }))
})

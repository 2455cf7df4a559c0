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
  credential: fc.constantFrom<Facts['credential']>(
    ...(['notNeeded', 'absent', 'wrong', 'shared', 'device', 'named', 'expired', 'revoked'] as const),
  ),
  looksLike: fc.constantFrom<Facts['looksLike']>(undefined, 'mistyped', 'device', 'node', 'named'),
  named: scopes,
  device,
  paired: fc.option(
    fc
      .record({ role: fc.constantFrom('operator', 'node'), scopes, worthless: fc.boolean() })
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
  origin: fc.constantFrom<Facts['origin']>('absent', 'allowed', 'foreign'),
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

describe('a decision', () => {
  it('never grants what the credential does not hold, nor what was not asked for', () =>
    always(({ credential, role, paired, named, requestedScopes }, decision) => {
      if (!decision.admitted) return
      const grants: { [credential: string]: readonly Scope[] } = {
        device: paired?.tokenScopes ?? paired?.scopes ?? [],
        named: named ?? [],
        shared: OPERATOR_SCOPES,
        notNeeded: OPERATOR_SCOPES,
      }
      const grant = role === 'node' ? [] : grants[credential]!
      for (const scope of decision.granted) {
        expect(grant).toContain(scope)
        if (requestedScopes) expect(requestedScopes).toContain(scope)
      }
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
    always(({ device: { kind }, paired, role }, decision) => {
      if (!decision.admitted || !decision.issueToken) return
      expect(kind).toBe('valid')
      expect(decision.pair || paired?.role === role).toBe(true)
      expect(decision.asDevice).toBe(true)
    }))

  it('takes no device token for another role than the one it was given for', () =>
    always(({ credential, paired, role }, decision) => {
      if (credential === 'device' && paired?.role !== role) expect(decision.admitted).toBe(false)
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
    always(({ requestedScopes, paired, role }, decision) => {
      if (!decision.asks) return
      for (const scope of decision.asks.scopes) {
        expect(OPERATOR_SCOPES).toContain(scope)
        if (requestedScopes) expect(requestedScopes).toContain(scope)
      }
      if (decision.admitted && paired?.role === role)
        expect(decision.asks.scopes.filter((scope) => !paired.scopes.includes(scope))).not.toEqual([])
    }))

  it('lets no page in from an origin that is not allowed', () =>
    always(({ clientId, clientMode, origin }, decision) => {
      const page = ['openclaw-control-ui', 'webchat', 'webchat-ui'].includes(clientId) || clientMode === 'webchat'
      if (page && origin !== 'allowed') expect(decision.admitted).toBe(false)
    }))

  it('lets no node in that is neither paired nor here', () =>
    always(({ role, paired, local, device: { kind } }, decision) => {
      if (role !== 'node' || !decision.admitted) return
      expect(kind).toBe('valid')
      expect(local || paired?.role === 'node').toBe(true)
    }))

  it('says in each refusal what was wrong, in a code and in words', () =>
    always((_, decision) => {
      if (decision.admitted) return
      expect(decision.message).not.toBe('')
      expect(decision.details.code).toMatch(/^[A-Z_]+$/)
    }))
})

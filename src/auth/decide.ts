/**
 * Who may come in, and with what. One pure function of verified facts; no other place decides.
 *
 * The table, from the top; the first row that fits decides:
 *
 * | fact | decision |
 * |---|---|
 * | forwarding headers from a peer that is no trusted proxy | refused: PROXY_ATTRIBUTION_REQUIRED |
 * | role is neither operator nor node | refused: invalid role |
 * | a browser client from an Origin that is not allowed | refused: origin not allowed |
 * | no credential of either kind and no device, and credentials are asked for | refused: device identity required |
 * | a control page without a device, unless the configuration lifts it | refused: secure context required |
 * | a device whose proof does not hold | refused in the words of the proof |
 * | credential missing, wrong, or a device's token for another role | refused: unauthorized |
 * | role node without a paired device | pairing required |
 * | right credential, a device from here | paired silently, device token issued |
 * | right credential, an unpaired device from afar, a browser | pairing required, unless the configuration lifts it |
 * | right credential, an unpaired device from afar, no browser | admitted on the credential's grant, no device token |
 * | right credential, no device | admitted on the credential's grant |
 * | a paired device's own token | admitted on what it was paired for |
 */
import { OPERATOR_SCOPES, type Role, type Scope } from '../contract/block.ts'
import type { Refusal } from '../contract/errors.ts'
import type { DeviceProof } from './devices.ts'

export type CredentialFact =
  /** No credential is asked for (`auth.mode: none`). */
  | 'notNeeded'
  | 'absent'
  | 'wrong'
  /** The shared token or password. */
  | 'shared'
  /** The device's own token, for the very device whose proof is valid. */
  | 'device'

export interface Facts {
  mode: 'token' | 'password' | 'none'
  credential: CredentialFact
  /** A credential of the other kind was sent: a password where a token is asked for. Nothing is admitted on it. */
  misplaced?: boolean
  device: DeviceProof
  /** What the device was paired for, if it was. */
  paired: { role: string; scopes: readonly Scope[] } | undefined
  role: string
  /** Undefined = not asked for anything. */
  requestedScopes: readonly string[] | undefined
  clientId: string
  clientMode: string
  /** Loopback peer, no forwarding headers, local Host, no foreign Origin. */
  local: boolean
  /** Forwarding headers that came from a peer which is not a trusted proxy. */
  forwardedByStranger: boolean
  origin: 'absent' | 'allowed' | 'foreign'
  /** `gateway.controlUi.allowInsecureAuth` or `dangerouslyDisableDeviceAuth`. */
  pagesNeedNoDevice: boolean
}

export type Decision =
  | {
      admitted: true
      role: Role
      granted: Scope[]
      denied: { scope: string; reason: string }[]
      /** Pair the device now, or widen what it was paired for. */
      pair: boolean
      /** Whether the answer carries a device token. */
      issueToken: boolean
      /** Whether the verified device is who the peer is known as. */
      asDevice: boolean
      rule: string
    }
  | {
      admitted: false
      code: 'INVALID_REQUEST' | 'NOT_PAIRED'
      message: string
      details: { code: Refusal; [name: string]: unknown }
      rule: string
    }

const BROWSERS = new Set(['openclaw-control-ui', 'webchat', 'webchat-ui'])
/** Whether a client says it is a web page. Only ever makes the rules stricter. */
const saysBrowser = (clientId: string, clientMode: string): boolean =>
  BROWSERS.has(clientId) || clientMode === 'webchat'

function hint(clientId: string, mode: Facts['mode']): string {
  const what = mode === 'password' ? 'password' : 'token'
  if (clientId === 'cli') return `set gateway.remote.${what} to match gateway.auth.${what}`
  if (BROWSERS.has(clientId)) return `open the dashboard URL and paste the ${what} in Control UI settings`
  return `provide gateway auth ${what}`
}

const refused = (
  rule: string,
  message: string,
  code: Refusal,
  more: { wire?: 'NOT_PAIRED'; next?: string; reason?: string } = {},
): Decision => ({
  admitted: false,
  code: more.wire ?? 'INVALID_REQUEST',
  message,
  details: {
    code,
    ...(more.reason && { authReason: more.reason, canRetryWithDeviceToken: false }),
    ...(more.next && { recommendedNextStep: more.next }),
  },
  rule,
})

export function decide(facts: Facts): Decision {
  const { credential, device, paired, role, clientId, clientMode, local, mode } = facts
  const browser = saysBrowser(clientId, clientMode)
  const what = mode === 'password' ? 'password' : 'token'

  if (facts.forwardedByStranger)
    return refused(
      'forwarded headers from a stranger',
      'forwarded headers from an address that is not in gateway.trustedProxies',
      'PROXY_ATTRIBUTION_REQUIRED',
      { next: 'add_trusted_proxy' },
    )
  if (role !== 'operator' && role !== 'node') return refused('role', 'invalid role', 'INVALID_ROLE')
  if (browser && facts.origin !== 'allowed')
    return refused(
      'origin',
      'origin not allowed (open the Control UI from the gateway host or allow it in gateway.controlUi.allowedOrigins)',
      'CONTROL_UI_ORIGIN_NOT_ALLOWED',
    )
  if (device.kind === 'none') {
    if (clientId === 'openclaw-control-ui' && !facts.pagesNeedNoDevice && credential !== 'notNeeded')
      return refused(
        'page without device',
        'control ui requires HTTPS or localhost (secure context)',
        'CONTROL_UI_DEVICE_IDENTITY_REQUIRED',
      )
    if (credential === 'absent' && !browser && !facts.misplaced)
      return refused('nothing to know the peer by', 'device identity required', 'DEVICE_IDENTITY_REQUIRED', {
        wire: 'NOT_PAIRED',
      })
  }
  if (device.kind === 'invalid') return refused('device proof', device.reason, device.code)
  if (credential === 'absent')
    return refused(
      'credential missing',
      `unauthorized: gateway ${what} missing (${hint(clientId, mode)})`,
      mode === 'password' ? 'AUTH_PASSWORD_MISSING' : 'AUTH_TOKEN_MISSING',
      { reason: `${what}_missing`, next: 'update_auth_configuration' },
    )
  // A device's token is for the role it was given for: a node's makes nobody an operator.
  if (credential === 'wrong' || (credential === 'device' && paired?.role !== role))
    return refused(
      'credential wrong',
      `unauthorized: gateway ${what} mismatch (${hint(clientId, mode)})`,
      mode === 'password' ? 'AUTH_PASSWORD_MISMATCH' : 'AUTH_TOKEN_MISMATCH',
      { reason: `${what}_mismatch`, next: 'update_auth_credentials' },
    )

  const known = device.kind === 'valid' && paired?.role === role
  if (role === 'node' && !known && !(device.kind === 'valid' && local))
    return refused('node without pairing', 'pairing required', 'PAIRING_REQUIRED', {
      wire: 'NOT_PAIRED',
      next: 'approve_device',
    })
  if (device.kind === 'valid' && !known && !local && facts.origin !== 'absent' && !facts.pagesNeedNoDevice)
    return refused('page with an unpaired device', 'pairing required', 'PAIRING_REQUIRED', {
      wire: 'NOT_PAIRED',
      next: 'approve_device',
    })

  // A device's own token is worth what the device was paired for; the shared credential holds every operator scope.
  const grant: readonly Scope[] =
    role === 'node' ? [] : credential === 'device' ? (paired?.scopes ?? []) : OPERATOR_SCOPES
  const granted: Scope[] = []
  const denied: { scope: string; reason: string }[] = []
  // Asked for nothing in particular = everything there is to have; asked for an empty list = nothing.
  for (const scope of facts.requestedScopes ?? grant) {
    if (grant.includes(scope as Scope)) granted.push(scope as Scope)
    else
      denied.push({
        scope,
        reason: OPERATOR_SCOPES.includes(scope as Scope) ? 'not granted to this credential' : 'no such scope',
      })
  }

  if (device.kind !== 'valid')
    return {
      admitted: true,
      role,
      granted,
      denied,
      pair: false,
      issueToken: false,
      asDevice: false,
      rule: `${credential}, no device`,
    }
  const pair = !known
    ? local
    : local && credential !== 'device' && granted.some((scope) => !paired!.scopes.includes(scope))
  return {
    admitted: true,
    role,
    granted,
    denied,
    pair,
    issueToken: known || pair,
    asDevice: known || pair,
    rule: `${credential}, ${known ? 'paired' : pair ? 'newly paired' : 'unpaired'} device`,
  }
}

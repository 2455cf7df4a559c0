/**
 * Who may come in, and with what. One pure function of verified facts. Before it the door has turned away what comes of a page or a
 * name that is not allowed; instead of it, attempts refuse who has guessed too often; after it, a principal that has all its sockets is
 * told so.
 *
 * The table, from the top; the first row that fits decides. Its first column is the rule that a decision names.
 *
 * | rule | fact | decision |
 * |---|---|---|
 * | forwarded headers from a stranger | forwarding headers from a peer that is no trusted proxy | PROXY_ATTRIBUTION_REQUIRED |
 * | role | neither operator nor node | INVALID_ROLE |
 * | origin | a browser client without an Origin | CONTROL_UI_ORIGIN_NOT_ALLOWED |
 * | page without device | the control page without a device, unless the configuration lifts it, no credential is asked for, or a proxy names its user | CONTROL_UI_DEVICE_IDENTITY_REQUIRED |
 * | nothing to know the peer by | no device and no credential of either kind, and no browser | DEVICE_IDENTITY_REQUIRED |
 * | device proof | a device whose proof does not hold | the code of the proof |
 * | credential missing | none, or one of the other kind only | AUTH_TOKEN_MISSING or AUTH_PASSWORD_MISSING |
 * | credential wrong | it is none that there is, or one of another device or role | AUTH_TOKEN_MISMATCH or AUTH_PASSWORD_MISMATCH |
 * | named token expired | its time is over | AUTH_NAMED_TOKEN_EXPIRED |
 * | named token revoked | it was taken away | AUTH_NAMED_TOKEN_REVOKED |
 * | user for a node | whom a proxy names, as a node | INVALID_ROLE |
 * | named token for a node | a right one, as a node | AUTH_NAMED_TOKEN_ROLE |
 * | node without pairing | a node that is not paired, unless it is a proven device from here | PAIRING_REQUIRED |
 * | page with an unpaired device | from afar, with an Origin, unless the configuration lifts it or a proxy names its user | PAIRING_REQUIRED |
 * | named token | a right one | admitted on the scopes of its record, known by the token: nothing is paired and no device token issued, since those would outlive it |
 * | user of a proxy | whom a listed proxy names, and who is allowed | admitted on the scopes that are configured for them, known by the name; nothing is paired |
 * | no device | a right credential | admitted on what it holds, known by it |
 * | paired device | a right credential, or the device's own token | admitted on what that holds, known as the device, with a device token; from here any but that token widens what it is paired for |
 * | newly paired device | a right credential, from here, as a node or an operator | paired silently for what it is granted; the same |
 * | unpaired device | a right credential, from afar, no browser | admitted on what it holds, known by it, without a device token |
 *
 * A proven device that is told to be paired, or that is let in and holds less by its pairing than it asks for, leaves a request to
 * be paired (`asks`): only somebody who may grants it. By a named token nobody asks.
 */
import { OPERATOR_SCOPES, type Role, type Scope } from '../contract/block.ts'
import type { Refusal } from '../contract/errors.ts'
import { holds } from '../contract/scopes.ts'
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
  /** A named token that is valid, or was. */
  | 'named'
  | 'expired'
  | 'revoked'
  /** No credential, but a listed proxy says who it is, and that user is allowed. */
  | 'proxy'

/** What a wrong token looks like. It changes the words and nothing else. */
export type Likeness = 'mistyped' | 'device' | 'node' | 'named' | 'user'

export interface Facts {
  mode: 'token' | 'password' | 'none'
  credential: CredentialFact
  /** A credential of the other kind was sent: a password where a token is asked for. Nothing is admitted on it. */
  misplaced?: boolean
  looksLike?: Likeness | undefined
  /** The scopes of the named token, or of those whom the proxy names. */
  named?: readonly Scope[] | undefined
  device: DeviceProof
  /** What the device was paired for in that role, if it was, and what its token is worth where that is less. */
  paired: { scopes: readonly Scope[]; tokenScopes?: readonly Scope[] | undefined } | undefined
  role: string
  /** Undefined = not asked for anything. */
  requestedScopes: readonly string[] | undefined
  clientId: string
  clientMode: string
  /** Loopback peer, no forwarding headers, local Host, no page but the gateway's own. */
  local: boolean
  /** Forwarding headers that came from a peer which is not a trusted proxy. */
  forwardedByStranger: boolean
  /** One that is not allowed does not come as far as this. */
  origin: 'absent' | 'allowed'
  /** `gateway.controlUi.allowInsecureAuth` or `dangerouslyDisableDeviceAuth`. */
  pagesNeedNoDevice: boolean
}

/** What a device asks to be paired for. */
export interface Asking {
  role: Role
  /** Those that there are, as requested; everything the credential holds where nothing was named. */
  scopes: Scope[]
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
      /** Leave a request to be paired. */
      asks?: Asking | undefined
      rule: string
    }
  | {
      admitted: false
      code: 'INVALID_REQUEST' | 'NOT_PAIRED'
      message: string
      details: { code: Refusal; [name: string]: unknown }
      asks?: Asking | undefined
      retryAfterMs?: number
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
  more: { wire?: 'NOT_PAIRED'; next?: string; reason?: string; asks?: Asking | undefined } = {},
): Decision => ({
  admitted: false,
  code: more.wire ?? 'INVALID_REQUEST',
  message,
  details: {
    code,
    ...(more.reason && { authReason: more.reason, canRetryWithDeviceToken: false }),
    ...(more.next && { recommendedNextStep: more.next }),
  },
  ...(more.asks && { asks: more.asks }),
  rule,
})

/** What is said of a wrong token that looks like something. Never the token. */
const LIKENESSES: { [L in Likeness]: string } = {
  mistyped: 'it begins like a named token, and is cut off or mistyped: copy it whole',
  device: 'it looks like the token of a device: of another one, or one that was rotated or revoked',
  node: 'it is the token of a node, which lets no operator in',
  named: 'it is a named token, and not one of this gateway',
  user: 'the proxy names a user who is not in gateway.auth.trustedProxy.allowUsers',
}

const BARE_DEVICE = 'it looks like the token of a device, which counts only beside a proof by the key of that device'

const RULES: { [C in CredentialFact]?: string } = { named: 'named token', proxy: 'user of a proxy' }

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
  if (browser && facts.origin === 'absent')
    return refused(
      'origin',
      'origin not allowed (open the Control UI from the gateway host or allow it in gateway.controlUi.allowedOrigins)',
      'CONTROL_UI_ORIGIN_NOT_ALLOWED',
    )
  if (device.kind === 'none') {
    if (clientId === 'openclaw-control-ui' && !facts.pagesNeedNoDevice && !['notNeeded', 'proxy'].includes(credential))
      return refused(
        'page without device',
        'control ui requires HTTPS or localhost (secure context)',
        'CONTROL_UI_DEVICE_IDENTITY_REQUIRED',
      )
    if (credential === 'absent' && !browser && !facts.misplaced)
      return refused('nothing to know the peer by', 'device identity required', 'DEVICE_IDENTITY_REQUIRED', {
        wire: 'NOT_PAIRED',
        next: 'send_token',
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
  if (credential === 'wrong') {
    const isBare = facts.looksLike === 'device' && device.kind === 'none'
    const why = isBare ? BARE_DEVICE : facts.looksLike ? LIKENESSES[facts.looksLike] : hint(clientId, mode)
    return refused(
      facts.looksLike ? `credential wrong: ${facts.looksLike}` : 'credential wrong',
      `unauthorized: gateway ${what} mismatch (${why})`,
      mode === 'password' ? 'AUTH_PASSWORD_MISMATCH' : 'AUTH_TOKEN_MISMATCH',
      { reason: `${what}_mismatch`, next: 'update_auth_credentials' },
    )
  }
  if (credential === 'expired' || credential === 'revoked')
    return refused(
      `named token ${credential}`,
      credential === 'expired'
        ? 'unauthorized: the named token has expired (ask for a new one)'
        : 'unauthorized: the named token was revoked (ask for a new one)',
      credential === 'expired' ? 'AUTH_NAMED_TOKEN_EXPIRED' : 'AUTH_NAMED_TOKEN_REVOKED',
      { reason: `named_token_${credential}`, next: 'update_auth_credentials' },
    )
  if (credential === 'proxy' && role === 'node')
    return refused('user for a node', 'invalid role: whom a proxy names is an operator', 'INVALID_ROLE')
  if (credential === 'named' && role === 'node')
    return refused(
      'named token for a node',
      'unauthorized: a named token is for operators (pair the node)',
      'AUTH_NAMED_TOKEN_ROLE',
      { reason: 'named_token_role', next: 'approve_device' },
    )

  const known = device.kind === 'valid' && paired !== undefined
  // A device's own token is worth what it was given for; the shared credential holds every operator scope.
  const grant = role === 'node' ? [] : grantOf(facts)
  const wanted =
    role === 'node' ? [] : OPERATOR_SCOPES.filter((scope) => (facts.requestedScopes ?? grant).includes(scope))
  const asking: Asking = { role, scopes: wanted }
  const pairing = {
    wire: 'NOT_PAIRED' as const,
    next: 'approve_device',
    asks: device.kind === 'valid' ? asking : undefined,
  }
  if (role === 'node' && !known && !(device.kind === 'valid' && local))
    return refused('node without pairing', 'pairing required', 'PAIRING_REQUIRED', pairing)
  if (
    device.kind === 'valid' &&
    !known &&
    !local &&
    facts.origin !== 'absent' &&
    !facts.pagesNeedNoDevice &&
    credential !== 'proxy'
  )
    // What it is paired for would outlive a named token, and reach beyond its sessions.
    return credential === 'named'
      ? refused(
          'page with an unpaired device',
          'pairing required (a named token pairs nothing: pair this browser by another credential first)',
          'PAIRING_REQUIRED',
          { wire: 'NOT_PAIRED' },
        )
      : refused('page with an unpaired device', 'pairing required', 'PAIRING_REQUIRED', pairing)

  const granted: Scope[] = []
  const denied: { scope: string; reason: string }[] = []
  // Asked for nothing in particular = everything there is to have; asked for an empty list = nothing.
  const held = new Set(grant)
  for (const scope of facts.requestedScopes ?? grant) {
    if (!isScope(scope)) denied.push({ scope, reason: 'no such scope' })
    else if (holds(held, scope)) granted.push(scope)
    else denied.push({ scope, reason: 'not granted to this credential' })
  }

  // Who comes by a named token is known by it alone: what a pairing gives would outlive the token.
  if (device.kind !== 'valid' || credential === 'named' || credential === 'proxy')
    return {
      admitted: true,
      role,
      granted,
      denied,
      pair: false,
      issueToken: false,
      asDevice: false,
      rule: RULES[credential] ?? `${credential}, no device`,
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
    asks: !pair && (!known || wanted.some((scope) => !holds(new Set(paired!.scopes), scope))) ? asking : undefined,
    rule: `${credential}, ${known ? 'paired' : pair ? 'newly paired' : 'unpaired'} device`,
  }
}

const isScope = (text: string): text is Scope => (OPERATOR_SCOPES as readonly string[]).includes(text)

/** What an operator's credential holds. */
function grantOf({ credential, paired, named }: Facts): readonly Scope[] {
  switch (credential) {
    case 'shared':
    case 'notNeeded':
      return OPERATOR_SCOPES
    case 'device':
      return paired?.tokenScopes ?? paired?.scopes ?? []
    case 'named':
    case 'proxy':
      return named ?? []
    default:
      return []
  }
}

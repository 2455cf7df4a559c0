/** `gateway explain-auth`: whether somebody would be let in, and by which rule, without trying it. */
import type { IncomingMessage } from 'node:http'
import { isIP } from 'node:net'
import { type CredentialFact, type Decision, decide } from '../auth/decide.ts'
import { parseRange, type Range } from '../config/address.ts'
import type { Config } from '../config/config.ts'
import { ConfigError } from '../config/load.ts'
import { OPERATOR_SCOPES, type Scope } from '../contract/block.ts'
import { knock } from '../transport/door.ts'
import { EXIT } from './exit.ts'
import { configFrom, type StartFlags } from './gateway.ts'
import { scopesOf } from './scopes.ts'
import { UsageError } from './target.ts'

export interface ExplainFlags extends StartFlags {
  from: string
  header: string[]
  credential: string
  /** `none`, `valid`, `invalid`. */
  device: string
  /** `role` or `role:scope,scope`. */
  paired?: string
  role: string
  scopes?: string
  /** What a named token holds; absent = every scope. */
  holds?: string
  clientId: string
  clientMode: string
  json?: boolean
}

const CREDENTIALS: readonly string[] = [
  'absent',
  'wrong',
  'shared',
  'device',
  'named',
  'expired',
  'revoked',
] satisfies CredentialFact[]

/** Prints the decision. Exit code 0: let in; 1: refused. */
export function explainAuth(flags: ExplainFlags): number {
  if (!CREDENTIALS.includes(flags.credential)) return misused(`--credential is one of ${CREDENTIALS.join(', ')}`)
  if (!['none', 'valid', 'invalid'].includes(flags.device)) return misused('--device is one of none, valid, invalid')
  const malformed = flags.header.find((line) => !line.includes(':'))
  if (malformed !== undefined) return misused(`--header ${malformed}: write it as "Name: value"`)
  if (isIP(flags.from) === 0)
    return misused(`--from is the address of a socket, such as 203.0.113.7, not ${flags.from}`)
  let config: Config
  try {
    // Without a file it says what the defaults would: a gateway that was started so runs with them.
    config = configFrom({ ...flags, allowUnconfigured: true })
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    console.error(error.message)
    return EXIT.config
  }
  let explained: Explained
  try {
    explained = explain(config, flags)
  } catch (error) {
    if (!(error instanceof UsageError)) throw error
    return misused(error.message)
  }
  if (flags.json) console.log(JSON.stringify(explained, null, 2))
  else for (const line of inWords(explained)) console.log(line)
  return explained.admitted ? 0 : 1
}

function misused(why: string): number {
  console.error(why)
  return EXIT.usage
}

type Explained = { facts: object } & (
  | { admitted: false; rule: string; message: string; code: string; next?: unknown; closes?: string }
  | Pick<Extract<Decision, { admitted: true }>, 'admitted' | 'rule' | 'role' | 'granted' | 'denied' | 'pair' | 'asks'>
)

function explain({ gateway }: Config, flags: ExplainFlags): Explained {
  const { auth, controlUi } = gateway
  const knocked = knock(described(flags, gateway.port), {
    allowedOrigins: controlUi.allowedOrigins,
    trustedProxies: gateway.trustedProxies.map(parseRange).filter((range): range is Range => range !== undefined),
    userHeader: auth.trustedProxy?.userHeader,
  })
  if (!knocked.admitted) {
    const { status, message } = knocked
    return { admitted: false, rule: 'the door', message, code: `HTTP ${status}`, facts: {} }
  }
  const { local, origin, forwardedByStranger, address, clientAddress, user } = knocked.facts
  const { allowUsers = [], scopes: ofUsers = [] } = auth.trustedProxy ?? {}
  // Whom the proxy names needs nothing else, and is asked for nothing else.
  const isNamed = user !== undefined && flags.credential === 'absent'
  const isAllowed = isNamed && (allowUsers.length === 0 || allowUsers.includes(user))
  // A device's own token counts in the role that it was given for.
  const paired = pairedOf(flags.paired, flags.role)
  const given = flags.credential === 'device' && !paired ? 'wrong' : (flags.credential as CredentialFact)
  const shown = isNamed ? (isAllowed ? 'proxy' : 'wrong') : given
  const asked = flags.scopes === undefined ? undefined : scopesOf('--scopes', flags.scopes)
  const held = flags.holds === undefined ? OPERATOR_SCOPES : scopesOf('--holds', flags.holds)
  const decision = decide({
    mode: auth.mode,
    credential: auth.mode === 'none' ? 'notNeeded' : shown,
    ...(isNamed && !isAllowed && { looksLike: 'user' as const }),
    ...(shown === 'named' && { named: held }),
    ...(shown === 'proxy' && { named: ofUsers }),
    device: deviceOf(flags.device),
    paired,
    role: flags.role,
    requestedScopes: asked,
    clientId: flags.clientId,
    clientMode: flags.clientMode,
    local,
    origin,
    forwardedByStranger,
    pagesNeedNoDevice: controlUi.allowInsecureAuth || controlUi.dangerouslyDisableDeviceAuth,
  })
  const facts = {
    address,
    clientAddress,
    ...(user !== undefined && { user }),
    local,
    origin,
    forwardedByStranger,
    mode: auth.mode,
  }
  if (decision.admitted) {
    const { role, rule, granted, denied, pair, asks } = decision
    return { admitted: true, rule, role, granted, denied, pair, ...(asks && { asks }), facts }
  }
  const { rule, message, details } = decision
  return { admitted: false, rule, message, code: details.code, next: details['recommendedNextStep'], facts }
}

/** A request as the door would see it. */
function described({ from, header }: ExplainFlags, port: number): IncomingMessage {
  const headers: { [name: string]: string } = {}
  const headersDistinct: { [name: string]: string[] } = {}
  for (const line of [`Host: localhost:${port}`, ...header]) {
    const name = line.slice(0, line.indexOf(':')).trim().toLowerCase()
    const value = line.slice(line.indexOf(':') + 1).trim()
    // What is said of a Host takes the place of the usual one.
    headersDistinct[name] = name === 'host' ? [value] : [...(headersDistinct[name] ?? []), value]
    headers[name] = name === 'host' || headers[name] === undefined ? value : `${headers[name]}, ${value}`
  }
  const request = { httpVersion: '1.1', url: '/', headers, headersDistinct, socket: { remoteAddress: from } }
  return request as unknown as IncomingMessage
}

function deviceOf(kind: string): Parameters<typeof decide>[0]['device'] {
  if (kind === 'valid') return { kind, deviceId: 'the-device', publicKey: '' }
  if (kind === 'invalid') return { kind, reason: 'device signature invalid', code: 'DEVICE_AUTH_SIGNATURE_INVALID' }
  return { kind: 'none' }
}

/** What a device is paired for in a role, of `role:scope,scope`. */
function pairedOf(text: string | undefined, role: string): { scopes: Scope[] } | undefined {
  const [of, scopes] = text?.split(':', 2) ?? []
  return of === role
    ? { scopes: scopes === undefined ? [...OPERATOR_SCOPES] : scopesOf('--paired', scopes) }
    : undefined
}

/** What to do, by the step as the wire names it or else by the rule, in words. */
const NEXT: { [step: string]: string } = {
  add_trusted_proxy:
    'list the address of the proxy in gateway.trustedProxies, or let the client send no forwarding headers',
  send_token: 'send a token (auth.token), or the proof of a device',
  update_auth_configuration: 'send the credential that gateway.auth asks for',
  update_auth_credentials: 'send the right credential: that of this gateway, or a new one',
  approve_device: 'somebody who may approves the request (device.pair.list, device.pair.approve)',
  // Has no step on the wire: a page cannot do without. Here it has been forgotten.
  origin:
    "say from where the page is, as its browser does: --header 'Origin: https://…', and the proxy's X-Forwarded-Host",
}

const UNSEEN = 'not looked at: lock-outs after wrong credentials, limits, and which tokens and devices there are'

function inWords(explained: Explained): string[] {
  const facts = Object.entries(explained.facts).map(([name, value]) => `${name} ${value}`)
  const lines = facts.length > 0 ? [`seen: ${facts.join(', ')}`] : []
  if (!explained.admitted) {
    const { rule, message, code, next } = explained
    const step = NEXT[String(next)] ?? NEXT[rule]
    return [...lines, `refused by the rule "${rule}": ${message} (${code})`, ...(step ? [`next: ${step}`] : []), UNSEEN]
  }
  const { rule, role, granted, denied, pair, asks } = explained
  return [
    ...lines,
    `let in as ${role} by the rule "${rule}"`,
    `granted: ${granted.join(', ') || 'nothing'}`,
    ...denied.map(({ scope, reason }) => `denied: ${scope} (${reason})`),
    ...(pair ? ['the device is paired without being asked'] : []),
    ...(asks ? [`a request to be paired is left, for ${asks.scopes.join(', ') || 'nothing'}`] : []),
    UNSEEN,
  ]
}

/** The effective values of the `gateway` section: flags over variables over file, and what may not be combined. */
import { X509Certificate } from 'node:crypto'
import { readFileSync, statSync } from 'node:fs'
import { isIP } from 'node:net'
import { createSecureContext } from 'node:tls'
import { canonical, contains, isLoopback, parseRange, type Range } from './address.ts'
import type { Config } from './config.ts'
import { shortestToken, type Weakness, weakness } from './credential.ts'
import type { Findings } from './findings.ts'
import type { Environment, Reading } from './reading.ts'
import { defaults } from './schema.ts'
import { Secret } from './secret.ts'

/** What the command line said. An empty text is an empty value, not an absent one. */
export interface ListenerFlags {
  /** 0-65535; a text must be digits. */
  port?: number | string | undefined
  bind?: string | undefined
  token?: string | undefined
}

/** What it takes from one place to the next. */
interface Sources {
  reading: Reading
  env: Environment
  flags: ListenerFlags
  findings: Findings
  /** Makes a path that stands in the file absolute, as seen from there. */
  fromFile(path: string): string
}

export function readListener(sources: Sources): Config['gateway'] {
  const { gateway = {} } = sources.reading.file
  const hosts = readHosts(sources)
  const loopbackOnly = hosts.every(isLoopback)
  const tls = readTlsFiles(sources)
  if (!loopbackOnly && !tls) {
    sources.findings.warnings.push(
      `gateway.bind: ${hosts.join(', ')} is reached over plain HTTP; put a proxy that ends TLS in front`,
    )
  }
  if (gateway.mode === 'remote') {
    sources.findings.warnings.push('gateway.mode: remote describes a client; this gateway serves locally all the same')
  }
  return {
    port: readPort(sources),
    hosts,
    loopbackOnly,
    auth: { ...readAuth(sources, loopbackOnly), ...readTrustedUser(sources) },
    controlUi: {
      enabled: gateway.controlUi?.enabled ?? true,
      allowInsecureAuth: gateway.controlUi?.allowInsecureAuth ?? false,
      dangerouslyDisableDeviceAuth: gateway.controlUi?.dangerouslyDisableDeviceAuth ?? false,
      allowedOrigins: readOrigins(sources),
    },
    http: {
      chatCompletions: gateway.http?.endpoints?.chatCompletions?.enabled ?? false,
      responses: gateway.http?.endpoints?.responses?.enabled ?? false,
    },
    trustedProxies: readTrustedProxies(sources).map(({ text }) => text),
    tls,
    limits: { ...defaults.limits, ...gateway.limits },
    handshakeTimeoutMs: gateway.handshakeTimeoutMs ?? defaults.handshakeTimeoutMs,
    tickIntervalMs: gateway.tickIntervalMs ?? defaults.tickIntervalMs,
    drainMs: (gateway.drainSeconds ?? defaults.drainSeconds) * 1_000,
  }
}

/** A certificate that ends sooner than this is told of. */
const RENEW_MS = 14 * 86_400_000

/**
 * The files of the certificate. Those that cannot be read, or are no pair, refuse the start: plain HTTP in their place would be
 * weaker than asked.
 */
function readTlsFiles({ reading, findings, fromFile }: Sources): Config['gateway']['tls'] {
  const { tls } = reading.file.gateway ?? {}
  if (!tls) return undefined
  const files = { cert: fromFile(tls.cert), key: fromFile(tls.key) }
  const texts = (['cert', 'key'] as const).map((name) => {
    try {
      return readFileSync(files[name])
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      findings.problems.push(`gateway.tls.${name}: ${files[name]} cannot be read (${code})`)
      return undefined
    }
  })
  const [cert, key] = texts
  if (cert && key) judgePair(files, { cert, key }, findings)
  return files
}

function judgePair(
  files: { cert: string; key: string },
  pair: { cert: Buffer; key: Buffer },
  findings: Findings,
): void {
  try {
    createSecureContext(pair)
  } catch (error) {
    findings.problems.push(
      `gateway.tls: ${files.cert} and ${files.key} are no certificate with its key, both PEM (${(error as Error).message})`,
    )
    return
  }
  const { validTo } = new X509Certificate(pair.cert)
  const left = Date.parse(validTo) - Date.now()
  if (left < RENEW_MS)
    findings.warnings.push(
      `gateway.tls.cert: ${files.cert} ${left < 0 ? 'has ended' : 'ends soon'} (${validTo}); renew it: it is read again when it changes`,
    )
  const mode = statSync(files.key).mode & 0o777
  if ((mode & 0o077) !== 0)
    findings.warnings.push(`gateway.tls.key: others can read ${files.key} (mode 0${mode.toString(8)}); chmod 600 it`)
}

/** An origin is compared letter by letter with what browsers send; one that they never send is of no use. */
function readOrigins({ reading, findings }: Sources): string[] {
  const origins = reading.file.gateway?.controlUi?.allowedOrigins ?? []
  for (const [index, origin] of origins.entries()) {
    const url = URL.parse(origin)
    const isWeb = url?.protocol === 'http:' || url?.protocol === 'https:'
    const sent = isWeb ? url.origin : undefined
    // Programs that show pages have schemes of their own: `app://localhost`.
    if (sent === origin || (url && !isWeb && /^[a-z][a-z0-9+.-]*:\/\/[^/?#]+$/.test(origin))) continue
    const meant = sent === undefined ? 'write it as https://name or https://name:port' : `did you mean ${sent}?`
    findings.warnings.push(
      `gateway.controlUi.allowedOrigins[${index}]: no page comes from ${JSON.stringify(origin.slice(0, 60))}; ${meant}`,
    )
  }
  return origins
}

/**
 * Flag, `OPENCLAW_GATEWAY_PORT`, file, `PORT`, 18789. `PORT` is anybody's variable, so it is looked at only when it
 * counts.
 */
function readPort({ reading, env, flags, findings }: Sources): number {
  const own = portOf('OPENCLAW_GATEWAY_PORT', env['OPENCLAW_GATEWAY_PORT'] || undefined, findings)
  const named = portOf('--port', flags.port, findings) ?? own ?? reading.file.gateway?.port
  if (named !== undefined) return named
  const platform = reading.dropped('gateway.port') ? undefined : portOf('PORT', env['PORT'] || undefined, findings)
  return platform ?? defaults.port
}

function portOf(name: string, value: string | number | undefined, findings: Findings): number | undefined {
  if (value === undefined) return undefined
  const text = String(value).trim()
  const port = /^\d{1,5}$/.test(text) ? Number(text) : Number.NaN
  if (port <= 65_535) return port
  findings.problems.push(`${name}: must be a port from 0 to 65535, got ${JSON.stringify(text.slice(0, 60))}`)
  return undefined
}

const loopbackHosts = ['127.0.0.1', '::1']

/**
 * Returns addresses only. A bind that is not understood is loopback besides being a problem: never wider than asked.
 */
function readHosts({ reading, flags, findings }: Sources): string[] {
  const written = flags.bind ?? reading.file.gateway?.bind ?? 'loopback'
  const source = flags.bind === undefined ? 'gateway.bind' : '--bind'
  const bind = written.trim().toLowerCase()
  switch (bind) {
    case 'loopback':
    case 'localhost':
    // The reference picks loopback as well, as long as it can be had. A guess that widens would be no help.
    case 'auto':
      return [...loopbackHosts]
    case 'lan':
      return ['0.0.0.0']
    case 'custom': {
      const custom = reading.file.gateway?.customBindHost?.trim()
      if (custom === undefined && reading.dropped('gateway.customBindHost')) return [...loopbackHosts]
      const hosts = custom === undefined ? undefined : literal(custom)
      if (hosts !== undefined) return hosts
      const got = custom === undefined ? 'which is missing' : `got ${JSON.stringify(custom)}`
      findings.problems.push(`gateway.customBindHost: must be a literal address for bind "custom", ${got}`)
      return [...loopbackHosts]
    }
    default: {
      const hosts = literal(bind)
      if (hosts !== undefined) return hosts
      findings.problems.push(
        `${source}: must be loopback, lan, auto, custom, localhost or a literal address, got ${JSON.stringify(written)}`,
      )
      return [...loopbackHosts]
    }
  }
}

/** An address as one can listen on it: without brackets, but with the zone, which a link-local address needs. */
function literal(text: string): string[] | undefined {
  if (text.toLowerCase() === 'localhost') return [...loopbackHosts]
  const bare = text.replace(/^\[(.*)\]$/, '$1')
  if (isIP(bare) === 0) return undefined
  return [bare.includes('%') ? bare : (canonical(bare) ?? bare)]
}

function readTrustedProxies({ reading, findings }: Sources): Range[] {
  const texts = reading.file.gateway?.trustedProxies ?? []
  const ranges = texts.map((text, index) => {
    const range = parseRange(text)
    if (range === undefined) {
      const got = JSON.stringify(text)
      findings.problems.push(`gateway.trustedProxies[${index}]: must be an address, a CIDR range or *, got ${got}`)
    }
    return range
  })
  for (const { text, family, prefix } of ranges.filter((range) => range !== undefined)) {
    if (prefix === 0)
      findings.warnings.push(`gateway.trustedProxies: ${text} believes the forwarded headers of every peer`)
    else if (prefix < (family === 'ipv4' ? 8 : 32))
      findings.warnings.push(`gateway.trustedProxies: ${text} is a very wide range; list your proxies only`)
  }
  return ranges.filter((range) => range !== undefined)
}

/** Decides the mode, finds its credential and judges it by who can reach the port. */
function readAuth(sources: Sources, loopbackOnly: boolean): Config['gateway']['auth'] {
  const { reading, flags, findings, env } = sources
  const auth = reading.file.gateway?.auth ?? {}
  const hasToken = Boolean(flags.token ?? auth.token ?? env['OPENCLAW_GATEWAY_TOKEN'])
  const asked = auth.mode ?? (auth.password !== undefined && !hasToken ? 'password' : 'token')
  // A token on the command line is an order to ask for one.
  const mode = asked === 'none' && flags.token !== undefined ? 'token' : asked
  switch (mode) {
    case 'none': {
      const what = 'gateway.auth.mode: none lets in everybody who reaches the port'
      if (loopbackOnly) findings.warnings.push(what)
      else findings.problems.push(`${what}; it is for loopback only`)
      return { mode }
    }
    case 'token': {
      if (env['OPENCLAW_GATEWAY_PASSWORD'])
        findings.warnings.push(
          'OPENCLAW_GATEWAY_PASSWORD is set, and nobody is asked for it: gateway.auth.mode is token (write password there)',
        )
      const token = readToken(sources, loopbackOnly)
      return token === undefined ? { mode } : { mode, token: new Secret(token) }
    }
    case 'password': {
      const password = readPassword(sources, loopbackOnly)
      return password === undefined ? { mode } : { mode, password: new Secret(password) }
    }
  }
}

/** The header in which a proxy names people. Without a listed proxy nobody is named. */
function readTrustedUser({ reading, findings }: Sources): Pick<Config['gateway']['auth'], 'trustedProxy'> {
  const { auth, trustedProxies = [] } = reading.file.gateway ?? {}
  const proxy = auth?.trustedProxy
  if (!proxy) return {}
  const path = 'gateway.auth.trustedProxy'
  const ranges = trustedProxies.map(parseRange).filter((range) => range !== undefined)
  if (trustedProxies.length === 0)
    findings.warnings.push(`${path}: no proxy is listed in gateway.trustedProxies, so nobody is let in by it`)
  const all = ranges.find(({ prefix }) => prefix === 0)
  if (all)
    findings.problems.push(
      `${path}: gateway.trustedProxies is ${all.text}, so that everybody could write ${proxy.userHeader}`,
    )
  else if (ranges.some((range) => ['127.0.0.1', '::1'].some((address) => contains(range, address))))
    findings.warnings.push(
      `${path}: gateway.trustedProxies lists this machine, so that every program on it can come in as whoever it names in ${proxy.userHeader}`,
    )
  const { userHeader, allowUsers = [], scopes = ['operator.read', 'operator.write'] } = proxy
  return { trustedProxy: { userHeader: userHeader.toLowerCase(), allowUsers, scopes } }
}

/** Flag, file, `OPENCLAW_GATEWAY_TOKEN`, without surrounding white space. `undefined`, without a problem = the caller makes one. */
function readToken({ reading, env, flags, findings }: Sources, loopbackOnly: boolean): string | undefined {
  const path = 'gateway.auth.token'
  const candidates = [
    { source: '--token', text: flags.token?.trim() },
    { source: path, text: reading.file.gateway?.auth?.token?.trim() },
    { source: 'OPENCLAW_GATEWAY_TOKEN', text: env['OPENCLAW_GATEWAY_TOKEN']?.trim() },
  ]
  const [, inFile, inEnv] = candidates
  if (inFile?.text && inEnv?.text && inFile.text !== inEnv.text) {
    const used = flags.token?.trim() ? '--token' : 'the file'
    findings.warnings.push(`${path}: differs from OPENCLAW_GATEWAY_TOKEN; the one from ${used} is used`)
  }
  const chosen = candidates.find(({ text }) => text) ?? candidates.find(({ text }) => text === '')
  if (chosen?.text === undefined) {
    if (!loopbackOnly && !reading.dropped(path)) {
      findings.problems.push(`${path}: a token is required beyond loopback; set OPENCLAW_GATEWAY_TOKEN`)
    }
    return undefined
  }
  const weak = weakness(chosen.text, shortestToken)
  if (weak) report(findings, `${chosen.source}: the token`, weak, loopbackOnly, mendToken(loopbackOnly))
  // An empty token would be matched by a client that shows none.
  return chosen.text === '' ? undefined : chosen.text
}

const mendToken = (loopbackOnly: boolean): string =>
  `put ${shortestToken} random characters or more there (openssl rand -hex 32)${loopbackOnly ? ', or leave it out: then one is made' : ''}`

/**
 * The file, then `OPENCLAW_GATEWAY_PASSWORD`. People choose passwords, so what is weak about the length is a warning
 * only.
 */
function readPassword({ reading, env, findings }: Sources, loopbackOnly: boolean): string | undefined {
  const path = 'gateway.auth.password'
  const candidates = [
    { source: path, text: reading.file.gateway?.auth?.password },
    { source: 'OPENCLAW_GATEWAY_PASSWORD', text: env['OPENCLAW_GATEWAY_PASSWORD'] },
  ]
  const chosen = candidates.find(({ text }) => text) ?? candidates.find(({ text }) => text === '')
  if (chosen?.text === undefined) {
    if (!reading.dropped(path)) {
      findings.problems.push(`${path}: mode password needs one; set it or OPENCLAW_GATEWAY_PASSWORD`)
    }
    return undefined
  }
  const { source, text } = chosen
  const weak = weakness(text, 0)
  if (weak)
    report(
      findings,
      `${source}: the password`,
      weak,
      loopbackOnly,
      'put one there that nobody can guess (openssl rand -hex 32)',
    )
  else if (text.length < 12)
    findings.warnings.push(
      `${source}: the password has ${text.length} characters only; one of 12 or more is harder to guess (openssl rand -hex 32)`,
    )
  return text === '' ? undefined : text
}

/** A credential that is none is a broken set-up, wherever it would let people in; a poor one is refused beyond loopback. */
function report(
  findings: Findings,
  what: string,
  { why, isNone }: Weakness,
  loopbackOnly: boolean,
  mend: string,
): void {
  if (isNone || !loopbackOnly) findings.problems.push(`${what} ${why}; ${mend}`)
  else findings.warnings.push(`${what} ${why}; ${mend}`)
}

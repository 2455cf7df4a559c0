/** Which gateway a command talks to, and with what credential. */
import { homedir } from 'node:os'
import { readToken } from '../auth/token-file.ts'
import { type Client, type ClientOptions, ConnectionError, connect, RequestError } from '../client/client.ts'
import { ConfigError, type ConfigSource, loadConfig, stateDirOf } from '../config/load.ts'
import { version } from '../version.ts'
import { EXIT } from './exit.ts'
import { findRunning, trust, urlOf } from './running.ts'
import { duration, typed } from './words.ts'

export interface TargetFlags {
  url?: string
  token?: string
  password?: string
  stateDir?: string
  timeout?: string
  json?: boolean
}

const TIMEOUT_MS = 30_000

/**
 * Connects to the gateway of the flags, else to the one that runs in this state folder, else to the one configured there. It does not
 * come back after a cut unless told to.
 */
export async function connectTo(
  flags: TargetFlags,
  reconnect: NonNullable<ClientOptions['reconnect']> = false,
): Promise<Client> {
  const timeoutMs = Number(flags.timeout ?? TIMEOUT_MS)
  if (!Number.isInteger(timeoutMs) || timeoutMs < 0)
    throw new UsageError(`--timeout must be a number of milliseconds, not "${flags.timeout}"`)
  const { url, token, password, cert } = targetOf(flags)
  if (cert !== undefined) trust(cert)
  return connect({
    url,
    token,
    password,
    timeoutMs,
    ...(timeoutMs > 0 && { handshakeMs: timeoutMs }),
    reconnect,
    client: { id: 'cli', version, platform: process.platform, mode: 'cli' },
  })
}

interface Target {
  url: string
  token?: string | undefined
  password?: string | undefined
  /** The file of the certificate it shows, where the configuration says so. */
  cert?: string | undefined
}

/** @throws ConfigError when the configuration is needed to know, and cannot be used */
function targetOf(flags: TargetFlags): Target {
  const { token, password } = flags
  const url = flags.url === undefined || /^wss?:\/\//.test(flags.url) ? flags.url : withScheme(flags.url)
  const isTold = token !== undefined || password !== undefined
  if (url !== undefined && isTold) return { url, token, password }
  const source: ConfigSource = {
    env: process.env,
    home: homedir(),
    cwd: process.cwd(),
    flags: { stateDir: flags.stateDir, allowUnconfigured: true },
    // A client needs no model's key, and must work while the rest of the file is being mended.
    gatewayOnly: true,
  }
  const hasPort = process.env['OPENCLAW_GATEWAY_PORT'] !== undefined
  const running = url === undefined && !hasPort ? findRunning(stateDirOf(source)) : undefined
  // Neither where it is nor what it asks for is left to be read: the file may name variables that another terminal has.
  if (running && isTold) return { url: running.url, cert: running.cert, token, password }
  const { gateway, stateDir } = loadConfig(source)
  const where = url ?? running?.url ?? urlOf(gateway, gateway.port)
  const cert = running ? running.cert : url === undefined ? gateway.tls?.cert : undefined
  if (isTold) return { url: where, cert, token, password }
  if (gateway.auth.mode === 'password') return { url: where, cert, password: gateway.auth.password?.reveal() }
  const known = gateway.auth.token?.reveal() ?? readToken(stateDir)?.reveal()
  // One that is elsewhere may ask for what this machine's own does not.
  const elsewhere = url === undefined ? undefined : process.env['OPENCLAW_GATEWAY_PASSWORD'] || undefined
  return { url: where, cert, token: known, password: elsewhere }
}

const withScheme = (url: string): string => (/^https?:\/\//.test(url) ? url.replace(/^http/, 'ws') : `ws://${url}`)

/** Hangs up. Whoever does not answer the goodbye does not keep the process, once everything is printed. */
export function leave(client: Client): void {
  client.close()
  const ending = setInterval(() => {
    if (process.stdout.writableLength === 0 && process.stderr.writableLength === 0) process.exit()
  }, 1_000)
  ending.unref()
}

/** A command that was used wrongly. */
export class UsageError extends Error {}

/** Says on stderr why a command failed, and what to do. Returns the exit code. */
export function explain(error: unknown): number {
  if (error instanceof ConnectionError) {
    console.error([`${error.message}.`, ...afterSilence(error.message)].join(' '))
    return EXIT.unavailable
  }
  if (error instanceof RequestError) {
    for (const line of refusalIn(error.shape)) console.error(line)
    return 1
  }
  if (error instanceof ConfigError) {
    console.error(error.message)
    if (error.problems.some((problem) => /the variable \w+ is (not set|empty)|mode password needs one/.test(problem)))
      console.error('Set it in this terminal, too, or give the credential with --token or --password.')
    return EXIT.config
  }
  if (error instanceof UsageError) {
    console.error(error.message)
    return EXIT.usage
  }
  console.error(error instanceof Error ? error.message : String(error))
  return 1
}

/** What to do when there is no answer: whoever let us in runs. */
function* afterSilence(message: string): Generator<string> {
  if (/^no answer to /.test(message)) yield 'It runs; give it longer with --timeout (in ms; 0 = as long as it takes).'
  if (!message.startsWith('no gateway answers')) return
  yield `Is it running? Start it with "${typed('gateway')}" (in a checkout: npm start).`
  if (message.includes('wss://'))
    yield 'Or its certificate is not trusted here, or not for that name: NODE_EXTRA_CA_CERTS=FILE trusts one, and --url gives the name.'
}

const TOKEN = "Give the gateway's token with --token or OPENCLAW_GATEWAY_TOKEN, or its folder with --state-dir."
const PASSWORD = "Give the gateway's password with --password or OPENCLAW_GATEWAY_PASSWORD."

/** What to do about a refusal, by its precise code. */
const ADVICE: { [code: string]: (details: { [name: string]: unknown }) => string } = {
  DEVICE_IDENTITY_REQUIRED: () => TOKEN,
  AUTH_TOKEN_MISSING: () => TOKEN,
  AUTH_TOKEN_MISMATCH: () => TOKEN,
  AUTH_PASSWORD_MISSING: () => PASSWORD,
  AUTH_PASSWORD_MISMATCH: () => PASSWORD,
  AUTH_RATE_LIMITED: () => 'Until then the right one is refused from there, too; another address is not.',
  PAIRING_REQUIRED: ({ requestId }) =>
    requestId === undefined
      ? `"${typed('call device.pair.list')}" shows who waits.`
      : `Somebody who may has to approve it: ${typed(`call device.pair.approve '{"requestId":"${String(requestId)}"}'`)}`,
  MISSING_SCOPE: ({ missingScope }) =>
    `The credential does not hold it: use one that does (the shared token holds all; ${typed(`tokens create NAME --scopes ${String(missingScope ?? 'SCOPE').replace('operator.', '')}`)} makes one).`,
  INVALID_PARAMS: ({ allowed }) => (Array.isArray(allowed) ? `It is one of ${allowed.join(', ')}.` : ''),
  UNKNOWN_TOKEN: () => `"${typed('tokens list')}" shows the ids.`,
  UNKNOWN_PAIRING: () =>
    `"${typed('call device.pair.list')}" (or node.pair.list) shows who waits; they wait five minutes.`,
  UNKNOWN_DEVICE: () => `"${typed('call device.pair.list')}" (or node.pair.list) shows who is paired.`,
  UNKNOWN_APPROVAL: () => `"${typed('call exec.approval.list')}" shows what waits.`,
  // Where the sentence is one that clients know, it does not say what to do.
  NOT_SERVED: ({ instead }) => String(instead ?? ''),
  CONFIG_INVALID: ({ issues }) => issuesIn(issues).join('\n'),
}

function issuesIn(issues: unknown): string[] {
  if (!Array.isArray(issues)) return []
  return (issues as { path?: string; message?: string }[]).map(
    ({ path, message }) => `  - ${path ? `${path}: ` : ''}${message}`,
  )
}

function refusalIn({ code, message, details, retryAfterMs }: RequestError['shape']): string[] {
  const { code: precise = code, ...more } = (details ?? {}) as { code?: string; [name: string]: unknown }
  // What the wire says to such a client names a key that is none here.
  const words = message.replace(/ \(set gateway\.remote\.\w+ to match [\w.]+\)/, '')
  const advice = ADVICE[precise]?.(more)
  return [
    `${precise}: ${words}${retryAfterMs ? ` (again in ${duration(Math.max(1_000, retryAfterMs))})` : ''}`,
    ...(advice && !words.includes(advice) ? [advice] : []),
  ]
}

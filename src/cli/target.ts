/** Which gateway a command talks to, and with what token. */
import { homedir } from 'node:os'
import { readToken } from '../auth/token-file.ts'
import { type Client, type ClientOptions, ConnectionError, connect, RequestError } from '../client/client.ts'
import { ConfigError, loadConfig } from '../config/load.ts'
import { version } from '../version.ts'
import { EXIT } from './exit.ts'
import { findRunning } from './running.ts'

export interface TargetFlags {
  url?: string
  token?: string
  stateDir?: string
  timeout?: string
  json?: boolean
}

/**
 * Connects to the gateway of the flags, else to the one that runs in this state folder, else to the one configured there. It does not
 * come back after a cut unless told to.
 */
export async function connectTo(
  flags: TargetFlags,
  reconnect: NonNullable<ClientOptions['reconnect']> = false,
): Promise<Client> {
  const timeoutMs = Number(flags.timeout ?? 30_000)
  if (!Number.isInteger(timeoutMs) || timeoutMs < 0)
    throw new UsageError(`--timeout must be a number of milliseconds, not "${flags.timeout}"`)
  let { url, token } = flags
  if (url !== undefined && !/^wss?:\/\//.test(url)) url = `ws://${url.replace(/^https?:\/\//, '')}`
  if (url === undefined || token === undefined) {
    const { gateway, stateDir } = loadConfig({
      env: process.env,
      home: homedir(),
      cwd: process.cwd(),
      flags: { stateDir: flags.stateDir, allowUnconfigured: true },
      // A client needs no model's key, and must work while the rest of the file is being mended.
      gatewayOnly: true,
    })
    token ??= gateway.auth.token?.reveal() ?? readToken(stateDir)?.reveal()
    const named = process.env['OPENCLAW_GATEWAY_PORT'] === undefined ? findRunning(stateDir)?.url : undefined
    url ??=
      named ??
      `ws://${gateway.loopbackOnly || gateway.hosts[0] === '0.0.0.0' ? '127.0.0.1' : gateway.hosts[0]}:${gateway.port}/`
  }
  return connect({
    url,
    token,
    timeoutMs,
    ...(timeoutMs > 0 && { handshakeMs: timeoutMs }),
    reconnect,
    client: { id: 'cli', version, platform: process.platform, mode: 'cli' },
  })
}

/** Hangs up. Whoever does not answer the goodbye does not keep the process, once everything is printed. */
export function leave(client: Client): void {
  client.close()
  const ending = setInterval(() => {
    if (process.stdout.writableLength === 0 && process.stderr.writableLength === 0) process.exit()
  }, 1_000)
  ending.unref()
}

/** A command that was used wrongly. */
class UsageError extends Error {}

/** Says on stderr why a command failed, and what to do. Returns the exit code. */
export function explain(error: unknown): number {
  if (error instanceof ConnectionError) {
    console.error(`${error.message}. Is it running? Start it with "kurultai gateway" (in a checkout: npm start).`)
    return EXIT.unavailable
  }
  if (error instanceof RequestError) {
    const { code, message, details, retryAfterMs } = error.shape
    const precise = (details as { code?: string } | undefined)?.code
    console.error(`${precise ?? code}: ${message}${retryAfterMs ? ` (again in ${retryAfterMs} ms)` : ''}`)
    if (/^(AUTH_|DEVICE_IDENTITY)/.test(precise ?? ''))
      console.error("Give the gateway's token with --token or OPENCLAW_GATEWAY_TOKEN, or its folder with --state-dir.")
    return 1
  }
  if (error instanceof ConfigError) {
    console.error(error.message)
    return EXIT.config
  }
  if (error instanceof UsageError) {
    console.error(error.message)
    return EXIT.usage
  }
  console.error(error instanceof Error ? error.message : String(error))
  return 1
}

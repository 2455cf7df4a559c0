/** Which gateway a command talks to, and with what token. */
import { homedir } from 'node:os'
import { readToken } from '../auth/token-file.ts'
import { type Client, ConnectionError, connect, RequestError } from '../client/client.ts'
import { loadConfig } from '../config/load.ts'
import { version } from '../version.ts'
import { EXIT } from './exit.ts'

export interface TargetFlags {
  url?: string
  token?: string
  stateDir?: string
  timeout?: string
  json?: boolean
}

/** Connects to the gateway of the flags, else to the one that the configuration of this state folder describes. */
export function connectTo(flags: TargetFlags, caps: string[] = []): Promise<Client> {
  let { url, token } = flags
  if (url === undefined || token === undefined) {
    const { gateway, stateDir } = loadConfig({
      env: process.env,
      home: homedir(),
      cwd: process.cwd(),
      flags: { stateDir: flags.stateDir, allowUnconfigured: true },
    })
    token ??= gateway.auth.token?.reveal() ?? readToken(stateDir)?.reveal()
    url ??= `ws://${gateway.loopbackOnly || gateway.hosts[0] === '0.0.0.0' ? '127.0.0.1' : gateway.hosts[0]}:${gateway.port}/`
  }
  return connect({
    url,
    token,
    caps,
    timeoutMs: Number(flags.timeout ?? 30_000),
    client: { id: 'cli', version, platform: process.platform, mode: 'cli' },
  })
}

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
    return 1
  }
  console.error(error instanceof Error ? error.message : String(error))
  return 1
}

/** Debian's Caddy with the Caddyfile of the deployment, in front of a gateway on this machine. */
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { freePort } from './free-port.ts'
import { leave } from './leftovers.ts'

const caddy = '/usr/bin/caddy'
export const hasCaddy = existsSync(caddy)
export const CADDYFILE = fileURLToPath(new URL('../kurultai/deployed/Caddyfile', import.meta.url))

export interface Caddy extends AsyncDisposable {
  port: number
  close(): Promise<void>
}

/**
 * Starts it on a free port. Its file is taken as it stands: `PORT` and `UPSTREAM`, which it asks for, say where the gateway is, and of
 * what `caddy adapt` makes of it only the address to listen on is changed, from every address to loopback.
 */
export async function startCaddy(upstreamPort: number, file = CADDYFILE): Promise<Caddy> {
  const folder = mkdtempSync(join(tmpdir(), 'kurultai-caddy-'))
  const port = await freePort()
  const env = {
    PATH: process.env['PATH'],
    HOME: folder,
    XDG_DATA_HOME: join(folder, 'data'),
    XDG_CONFIG_HOME: join(folder, 'config'),
    PORT: String(port),
    UPSTREAM: `127.0.0.1:${upstreamPort}`,
  }
  const adapted = execFileSync(caddy, ['adapt', '--adapter', 'caddyfile', '--config', file], { env, stdio: 'pipe' })
  const config = join(folder, 'caddy.json')
  writeFileSync(config, adapted.toString().replace(`":${port}"`, `"127.0.0.1:${port}"`))
  const child = spawn(caddy, ['run', '--config', config], { env, stdio: ['ignore', 'ignore', 'pipe'] })
  let said = ''
  child.stderr.on('data', (data) => {
    said += data
  })
  const gone = leave(() => child.kill('SIGKILL'))
  const exited = once(child, 'exit')
  const close = async () => {
    child.kill('SIGTERM')
    await exited
    gone()
    rmSync(folder, { recursive: true, force: true })
  }
  for (let tries = 0; !(await answers(port)); tries++) {
    if (child.exitCode !== null || tries > 200) {
      await close()
      throw new Error(`caddy does not listen:\n${said}`)
    }
    await setTimeout(50)
  }
  return { port, close, [Symbol.asyncDispose]: close }
}

const answers = (port: number) =>
  new Promise<boolean>((resolve) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.destroy()
      resolve(true)
    })
    socket.on('error', () => resolve(false))
  })

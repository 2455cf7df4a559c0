/** The real gateway as a process of its own, with SQLite in a folder that outlives it. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { CONNECT, openPeer, type Peer, TOKEN } from './gateway.ts'

const entry = fileURLToPath(new URL('../../src/index.ts', import.meta.url))

export interface GatewayProcess {
  url: string
  /** Connects and shakes hands. */
  connect(): Promise<Peer>
  /** Ends it as a power cut would end the process: nothing of its own runs any more. */
  kill(): Promise<void>
  /** Asks it to stop. */
  terminate(): void
  /** How it ended. */
  exited: Promise<{ code: number | null; signal: string | null }>
}

/** Starts a gateway on the state in `folder`, answering with the models at `modelUrl`. Resolves when it says it runs. */
export async function startProcess(folder: string, modelUrl: string): Promise<GatewayProcess> {
  const config = join(folder, 'openclaw.json5')
  const provider = { baseUrl: `${modelUrl}/v1`, apiKey: 'none', api: 'openai-completions', models: [{ id: 'm' }] }
  writeFileSync(
    config,
    JSON.stringify({
      gateway: { auth: { token: TOKEN } },
      models: { providers: { fake: provider } },
      agents: { defaults: { model: 'fake/m', workspace: join(folder, 'workspace') } },
    }),
  )
  const args = ['gateway', '--port', '0', '--bind', 'loopback', '--state-dir', folder, '--config', config]
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', entry, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { PATH: process.env['PATH'], HOME: folder, LOG_LEVEL: 'info' },
  })
  const exited = once(child, 'exit').then(([code, signal]) => ({ code, signal }))
  const url = await address(child)
  return {
    url,
    async connect() {
      const peer = await openPeer(url)
      await peer.next((frame) => frame['event'] === 'connect.challenge')
      const { ok, error } = await peer.request('connect', CONNECT)
      if (!ok) throw new Error(`connect was refused: ${JSON.stringify(error)}`)
      return peer
    },
    async kill() {
      child.kill('SIGKILL')
      await exited
    },
    terminate: () => void child.kill('SIGTERM'),
    exited,
  }
}

/** The address it prints; rejects with what it said when it ends instead. */
function address(child: ChildProcess): Promise<string> {
  return new Promise((resolve, reject) => {
    const said: string[] = []
    const listen = (stream: NodeJS.ReadableStream) =>
      createInterface({ input: stream }).on('line', (line) => {
        said.push(line)
        const port = /running on \S+?:(\d+)/.exec(line)?.[1]
        if (port) resolve(`ws://127.0.0.1:${port}/`)
      })
    listen(child.stdout!)
    listen(child.stderr!)
    child.on('exit', (code) => reject(new Error(`the gateway ended with ${code}:\n${said.join('\n')}`)))
  })
}

/** The real gateway as a process of its own, with SQLite in a folder that outlives it. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { CONNECT, openPeer, type Peer, TOKEN } from './gateway.ts'
import { leave } from './leftovers.ts'

const entry = fileURLToPath(new URL('../../src/index.ts', import.meta.url))

export interface GatewayProcess {
  pid: number
  url: string
  /** Connects and shakes hands, with these members of `connect` instead of the usual ones. */
  connect(changes?: object): Promise<Peer>
  /** Ends it as a power cut would end the process: nothing of its own runs any more. */
  kill(): Promise<void>
  /** Asks it to stop. */
  terminate(): void
  /** How it ended. */
  exited: Promise<{ code: number | null; signal: string | null }>
}

/** A gateway that may not have come up yet. */
export interface StartingProcess extends Pick<GatewayProcess, 'pid' | 'kill' | 'terminate' | 'exited'> {
  /** Resolves when it says it runs; rejects when it ends instead. */
  running: Promise<GatewayProcess>
}

export interface ProcessOptions {
  /** A free one unless given. */
  port?: number
  /** A program and its arguments, to run the gateway under. It is to make the gateway the process that it was itself. */
  under?: string[]
  /** Modules that are loaded before it. */
  preload?: string[]
  /** More members of the section `gateway` of its configuration. */
  gateway?: object
  /** More members of `agents.defaults` in its configuration. */
  agents?: object
  /** More members of the model in its configuration. */
  model?: object
  /** More sections of its configuration. */
  sections?: object
  /** More providers of models. */
  providers?: object
  /** The agents; only `main` unless given. */
  list?: object[]
}

/** Starts a gateway on the state in `folder`, answering with the models at `modelUrl`. Resolves when it says it runs. */
export const startProcess = (folder: string, modelUrl: string, options?: ProcessOptions): Promise<GatewayProcess> =>
  spawnProcess(folder, modelUrl, options).running

/** The same for those who do not wait until it runs. */
export function spawnProcess(folder: string, modelUrl: string, options: ProcessOptions = {}): StartingProcess {
  const config = join(folder, 'openclaw.json5')
  const models = [{ id: 'm', ...options.model }]
  const provider = { baseUrl: `${modelUrl}/v1`, apiKey: 'none', api: 'openai-completions', models }
  writeFileSync(
    config,
    JSON.stringify({
      gateway: { auth: { token: TOKEN }, ...options.gateway },
      models: { providers: { fake: provider, ...options.providers } },
      agents: {
        defaults: { model: 'fake/m', workspace: join(folder, 'workspace'), ...options.agents },
        ...(options.list && { list: options.list }),
      },
      ...options.sections,
    }),
  )
  const port = String(options.port ?? 0)
  const args = ['gateway', '--port', port, '--bind', 'loopback', '--state-dir', folder, '--config', config]
  const imports = (options.preload ?? []).flatMap((module) => ['--import', module])
  const node = [process.execPath, '--disable-warning=ExperimentalWarning', ...imports]
  const [program, ...programArgs] = [...(options.under ?? []), ...node, entry, ...args]
  const child = spawn(program!, programArgs, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { PATH: process.env['PATH'], HOME: folder, LOG_LEVEL: 'info' },
  })
  const gone = leave(() => child.kill('SIGKILL'))
  const exited = once(child, 'exit').then(([code, signal]) => {
    gone()
    return { code, signal }
  })
  const ends = {
    pid: child.pid!,
    async kill() {
      child.kill('SIGKILL')
      await exited
    },
    terminate: () => void child.kill('SIGTERM'),
    exited,
  }
  const running = address(child).then((url) => ({
    ...ends,
    url,
    async connect(changes = {}) {
      const peer = await openPeer(url)
      await peer.next((frame) => frame['event'] === 'connect.challenge')
      const { ok, error } = await peer.request('connect', { ...CONNECT, ...changes })
      if (!ok) throw new Error(`connect was refused: ${JSON.stringify(error)}`)
      return peer
    },
  }))
  // Who does not wait for it does not ask why it never ran.
  running.catch(() => {})
  return { ...ends, running }
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

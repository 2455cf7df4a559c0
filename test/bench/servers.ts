/** The processes of a bench: started on free ports of loopback, watched from outside, and gone at the end whatever happens. */
import { type ChildProcess, spawn } from 'node:child_process'
import {
  closeSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { transform } from 'esbuild'

export type Mode = 'limit' | 'limit-http' | 'limit-hist-http' | 'limit-tick5'

/** A server under measurement. */
export interface Server {
  name: 'gateway' | Mode
  pid: number
  port: number
  /** When it was spawned, in ms of `performance.now()`. */
  spawnedAt: number
  /** User and system time of all its threads so far, in ms. */
  cpu(): number
  /** Resident memory in bytes. */
  rss(): number
  /** Kills it, or with a signal lets it end by itself. */
  stop(signal?: 'SIGINT'): Promise<void>
}

const root = join(dirname(fileURLToPath(import.meta.url)), '../..')
export const TOKEN = 'a-token-for-the-bench-0123456789'

/** One temporary folder for everything that is written. */
export const folder = mkdtempSync(join(tmpdir(), 'kurultai-bench-'))
/** A copy, since a build in the middle of the bench would take the files away from under it. */
const dist = join(folder, 'dist')
const children = new Set<ChildProcess>()

let model: ChildProcess | undefined

/** Kills the servers that a row left behind when it failed, each by its id. */
export function killServers(): void {
  for (const child of children) if (child !== model) child.kill('SIGKILL')
}

/** Kills everything and removes the folder. Safe to call more than once, also while the process exits. */
export function cleanUp(): void {
  killServers()
  model?.kill('SIGKILL')
  rmSync(folder, { recursive: true, force: true })
}

/** Builds the gateway unless it is fresh, copies it, and puts the reference beside it as plain JavaScript. */
export async function prepare(): Promise<void> {
  const { build, stale } = (await import('../../tools/build.mjs')) as {
    build(): Promise<unknown>
    stale(): boolean
  }
  if (stale()) await build()
  cpSync(join(root, 'dist'), dist, { recursive: true })
  // Without it Node would have to find out that the files are modules.
  writeFileSync(join(folder, 'package.json'), '{"type":"module"}')
  const source = readFileSync(join(root, 'test/bench/limit.ts'), 'utf8')
  const { code } = await transform(source, { loader: 'ts', format: 'esm', target: 'node22' })
  writeFileSync(join(folder, 'limit.mjs'), code)
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
}

let count = 0

/** Spawns a server; resolves once it has said where it runs. */
async function start(name: Server['name'] | 'model', args: string[], says: RegExp): Promise<Server> {
  const home = join(folder, `${name}-${++count}`)
  mkdirSync(home, { mode: 0o700 })
  const errors = openSync(join(home, 'stderr'), 'w')
  const spawnedAt = performance.now()
  const child = spawn(
    process.execPath,
    args.map((arg) => arg.replaceAll('{home}', home)),
    {
      cwd: home,
      env: { PATH: process.env['PATH'] ?? '', HOME: home, NODE_ENV: 'production' },
      stdio: ['ignore', 'pipe', errors],
    },
  )
  closeSync(errors)
  children.add(child)
  if (name === 'model') model = child
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()))
  const port = await new Promise<number>((resolve, reject) => {
    let out = ''
    const onGone = () => reject(new Error(`${name} ended before it ran: ${readFileSync(join(home, 'stderr'), 'utf8')}`))
    child.once('error', reject).once('exit', onGone)
    child.stdout!.setEncoding('utf8').on('data', (text: string) => {
      out += text
      const said = says.exec(out)
      if (said) resolve(Number(said[1]))
    })
  })
  const pid = child.pid!
  return {
    name: name as Server['name'],
    pid,
    port,
    spawnedAt,
    cpu: () => cpuOf(pid),
    rss: () => Number(readFileSync(`/proc/${pid}/statm`, 'utf8').split(' ')[1]) * 4096,
    async stop(signal) {
      child.kill(signal ?? 'SIGKILL')
      const impatience = setTimeout(() => child.kill('SIGKILL'), 5_000)
      await exited
      clearTimeout(impatience)
      children.delete(child)
      rmSync(home, { recursive: true, force: true })
    },
  }
}

/**
 * User and system time of a process in ms. `/proc/<pid>/stat` counts in steps of 10 ms; the scheduler's own sum for each
 * thread is the same time in nanoseconds.
 */
function cpuOf(pid: number): number {
  const tasks = `/proc/${pid}/task`
  if (!existsSync(`/proc/${pid}/schedstat`)) {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ')
    return (Number(fields[11]) + Number(fields[12])) * 10
  }
  let nanoseconds = 0
  for (const task of readdirSync(tasks)) {
    try {
      nanoseconds += Number(readFileSync(`${tasks}/${task}/schedstat`, 'utf8').split(' ')[0])
    } catch {
      // A thread that ended just now.
    }
  }
  return nanoseconds / 1e6
}

/** Starts the model server. Its address is the base URL of a provider. */
export async function startModel(): Promise<{ url: string; stop(): Promise<void> }> {
  const server = await start('model', [join(root, 'test/support/model-server.ts')], /http:\/\/127\.0\.0\.1:(\d+)/)
  return { url: `http://127.0.0.1:${server.port}`, stop: server.stop }
}

const LISTENS = /127\.0\.0\.1:(\d+)/

/** Starts the built gateway in a fresh state folder, its limits off, its model the given server. */
export function startGateway(model: string, nodeArgs: string[] = []): Promise<Server> {
  const limits = Object.fromEntries(
    [
      'requestsPerSecond',
      'burst',
      'preauthPerIp',
      'preauthTotal',
      'maxConnections',
      'deniedPerMinute',
      'socketsPerPrincipal',
      'sessions',
      'liveKeys',
    ].map((name) => [name, 0]),
  )
  const config = {
    gateway: { limits },
    models: {
      providers: { bench: { baseUrl: model, apiKey: 'none', api: 'openai-completions', models: [{ id: 'm' }] } },
    },
    agents: { defaults: { model: 'bench/m' } },
  }
  const path = join(folder, 'gateway.json5')
  writeFileSync(path, JSON.stringify(config), { mode: 0o600 })
  const flags = ['--port', '0', '--token', TOKEN, '--state-dir', '{home}/state', '--config', path]
  return start('gateway', [...nodeArgs, join(dist, 'index.js'), 'gateway', ...flags], LISTENS)
}

export const startLimit = (mode: Mode, model: string): Promise<Server> =>
  start(mode, [join(folder, 'limit.mjs'), '--mode', mode, '--model', model], LISTENS)

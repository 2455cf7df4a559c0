/** `doctor`: checks what a gateway needs, and says how to mend what is wrong. */
import { accessSync, constants, existsSync, statSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { delimiter, dirname, join, resolve } from 'node:path'
import { readToken } from '../auth/token-file.ts'
import type { Config, McpServerConfig } from '../config/config.ts'
import { ConfigError } from '../config/load.ts'
import { openStore } from '../stores/index.ts'
import { EXIT } from './exit.ts'
import { configFrom, type StartFlags } from './gateway.ts'
import { findRunning, isAlive, trust, urlOf } from './running.ts'

interface Finding {
  what: string
  state: 'ok' | 'warning' | 'problem'
  detail: string
  /** What to do. */
  mend?: string
}

/** Prints the findings. Resolves to 0 when there is no problem, 78 when the configuration is one, else 1. */
export async function doctor(flags: StartFlags & { json?: boolean }): Promise<number> {
  const findings: Finding[] = []
  let config: Config | undefined
  try {
    // A gateway that has no file and was not told to do without one is not found out here: there is nothing wrong with the rest.
    config = configFrom({ ...flags, allowUnconfigured: true })
    findings.push(
      config.path
        ? { what: 'configuration', state: 'ok', detail: config.path }
        : {
            what: 'configuration',
            state: 'warning',
            detail: `there is no file in ${config.stateDir}; defaults are used`,
            mend: 'start the gateway with --allow-unconfigured (as npm start does), or write openclaw.json5',
          },
    )
    for (const warning of config.warnings) findings.push({ what: 'configuration', state: 'warning', detail: warning })
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    for (const problem of error.problems)
      findings.push({
        what: 'configuration',
        state: 'problem',
        detail: problem,
        mend: `correct it in ${error.file ?? 'the environment'}`,
      })
    for (const warning of error.warnings) findings.push({ what: 'configuration', state: 'warning', detail: warning })
  }
  if (config) {
    findings.push(
      checkNode(),
      checkToken(config),
      checkState(config),
      await checkStore(config),
      await checkPort(config),
      ...checkModels(config),
      ...config.mcp.servers.map(checkToolServer),
    )
  }
  if (flags.json)
    console.log(JSON.stringify({ ok: findings.every(({ state }) => state !== 'problem'), findings }, null, 2))
  else
    for (const { what, state, detail, mend } of findings) {
      console.log(`${{ ok: '  ok     ', warning: '  warning', problem: '  PROBLEM' }[state]}  ${what}: ${detail}`)
      if (mend) console.log(`             ${mend}`)
    }
  if (!config) return EXIT.config
  return findings.some(({ state }) => state === 'problem') ? 1 : 0
}

const checkNode = (): Finding => ({ what: 'Node.js', state: 'ok', detail: process.version })

function checkToken({ gateway, stateDir }: Config): Finding {
  if (gateway.auth.mode !== 'token') return { what: 'credentials', state: 'ok', detail: `mode ${gateway.auth.mode}` }
  if (gateway.auth.token) return { what: 'credentials', state: 'ok', detail: 'a token is configured' }
  return readToken(stateDir)
    ? { what: 'credentials', state: 'ok', detail: 'a token was made and is kept in the state folder' }
    : { what: 'credentials', state: 'ok', detail: 'none yet; the first start makes a token' }
}

function checkState({ stateDir }: Config): Finding {
  let nearest = stateDir
  while (!existsSync(nearest)) nearest = dirname(nearest)
  try {
    accessSync(nearest, constants.R_OK | constants.W_OK | constants.X_OK)
  } catch {
    return {
      what: 'state folder',
      state: 'problem',
      detail: `${stateDir} cannot be written`,
      mend: `chown it to the user of the gateway, or choose another with --state-dir`,
    }
  }
  if (nearest !== stateDir)
    return { what: 'state folder', state: 'ok', detail: `${stateDir}; the first start makes it` }
  const open = (statSync(stateDir).mode & 0o077) !== 0
  return open
    ? {
        what: 'state folder',
        state: 'warning',
        detail: `${stateDir} can be read by others`,
        mend: `chmod 700 ${stateDir}`,
      }
    : { what: 'state folder', state: 'ok', detail: stateDir }
}

async function checkStore({ stateDir }: Config): Promise<Finding> {
  const path = join(stateDir, 'kurultai.sqlite')
  if (!existsSync(path)) return { what: 'storage', state: 'ok', detail: 'nothing is stored yet' }
  try {
    const store = await openStore('sqlite', { path, refuseDamaged: true })
    try {
      const problems = await store.verify()
      return problems.length === 0
        ? { what: 'storage', state: 'ok', detail: `${path} is sound` }
        : {
            what: 'storage',
            state: 'problem',
            detail: `${path} is damaged: ${problems[0]}`,
            mend: 'restore the last backup',
          }
    } finally {
      await store.close()
    }
  } catch (error) {
    const { message } = error as Error
    return /gateway/i.test(message) && /another|uses|locked/i.test(message)
      ? { what: 'storage', state: 'ok', detail: `${path} is in use by a running gateway` }
      : { what: 'storage', state: 'problem', detail: message, mend: 'see the message; nothing was changed' }
  }
}

async function checkPort({ gateway, stateDir }: Config): Promise<Finding> {
  const running = findRunning(stateDir)
  const cert = running?.cert ?? gateway.tls?.cert
  if (cert !== undefined) trust(cert)
  // One whose certificate is for another name does not answer here, and is not to be taken for a stranger.
  if (running && ((await isGateway(running.url)) || (isAlive(running) && (await isTaken(running.url)))))
    return {
      what: 'port',
      state: 'ok',
      detail: `the gateway of this folder runs at ${running.url} (process ${running.pid})`,
    }
  const host = gateway.hosts[0]!
  const free = await new Promise<NodeJS.ErrnoException | undefined>((resolve) => {
    const server = createServer()
    server.once('error', resolve)
    server.listen(gateway.port, host, () => server.close(() => resolve(undefined)))
  })
  if (!free) return { what: 'port', state: 'ok', detail: `${host}:${gateway.port} is free` }
  const mend = 'stop what has it, or choose another with --port'
  if (free.code !== 'EADDRINUSE') return { what: 'port', state: 'problem', detail: free.message, mend }
  const ours = await isGateway(urlOf(gateway, gateway.port))
  return {
    what: 'port',
    state: 'problem',
    detail: `${gateway.port} is taken by ${ours ? 'another gateway' : 'another program'}`,
    mend,
  }
}

/** Whether anything listens there. */
function isTaken(url: string): Promise<boolean> {
  const { hostname, port } = new URL(url)
  return new Promise((resolve) => {
    const socket = connect({ host: hostname.replace(/^\[|\]$/g, ''), port: Number(port) })
    const end = (isThere: boolean) => {
      socket.destroy()
      resolve(isThere)
    }
    socket.setTimeout(2_000, () => end(false))
    socket.once('connect', () => end(true)).once('error', () => end(false))
  })
}

/** Whether a gateway answers there. */
async function isGateway(url: string): Promise<boolean> {
  try {
    const response = await fetch(new URL('/health', url.replace(/^ws/, 'http')), { signal: AbortSignal.timeout(2_000) })
    return ((await response.json()) as { service?: string }).service === 'kurultai-gateway'
  } catch {
    return false
  }
}

function checkModels({ agents, models }: Config): Finding[] {
  const refs = new Set(agents.list.flatMap((agent) => agent.models))
  return [...refs].map((ref): Finding => {
    const model = models.find(ref)
    const users = agents.list.filter((agent) => agent.models.includes(ref)).map(({ id }) => id)
    const what = `model ${ref} of ${users.join(', ')}`
    if (!model)
      return { what, state: 'problem', detail: 'is not configured', mend: `add its provider to models.providers` }
    if (model.api === 'echo')
      return {
        what,
        state: 'warning',
        detail: 'is the built-in echo',
        mend: 'set MOONSHOT_API_KEY, or configure a model',
      }
    if (!model.apiKey)
      return {
        what,
        state: 'problem',
        detail: 'has no key',
        mend: `set ${model.apiKeyVariable ?? 'its apiKey in models.providers'}`,
      }
    return { what, state: 'ok', detail: 'has a key' }
  })
}

function checkToolServer({ name, reach }: McpServerConfig): Finding {
  const what = `tool server ${name}`
  if ('url' in reach) {
    // The rest of the address may hold a key.
    const { origin, pathname } = new URL(reach.url)
    return { what, state: 'ok', detail: `${origin}${pathname} (it is not asked here)` }
  }
  const { command, cwd = '.', env } = reach
  if (!existsSync(cwd))
    return { what, state: 'problem', detail: `${cwd} is not there`, mend: `correct mcp.servers.${name}.cwd` }
  const folders = (env['PATH']?.reveal() ?? process.env['PATH'] ?? '').split(delimiter)
  // As a start looks for it: a name along PATH, a path from where the program is started.
  const places = command.includes('/')
    ? [resolve(cwd, command)]
    : folders.map((folder) => resolve(cwd, folder, command))
  const found = places.find(isProgram)
  return found === undefined
    ? {
        what,
        state: 'problem',
        detail: `${command} is not found`,
        mend: `install it, or correct mcp.servers.${name}.command`,
      }
    : { what, state: 'ok', detail: found }
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return statSync(path).isFile()
  } catch {
    return false
  }
}

/** `gateway`: from flags and files to a gateway that runs until it is told to stop. */
import { accessSync, constants, existsSync, mkdirSync, statSync } from 'node:fs'
import { homedir, networkInterfaces } from 'node:os'
import { dirname } from 'node:path'
import { ensureToken, readToken, tokenFile } from '../auth/token-file.ts'
import type { Config } from '../config/config.ts'
import { ConfigError, type ConfigSource, loadConfig, trustedProxiesLine } from '../config/load.ts'
import { createGateway, type Gateway } from '../gateway.ts'
import { openLog } from '../logging.ts'
import { version } from '../version.ts'
import { EXIT } from './exit.ts'
import { findRunning, forgetRunning, noteRunning, urlOf } from './running.ts'
import { typed } from './words.ts'

/** Errors that nobody handled, and are logged each second. */
const MOST_UNHANDLED = 10
/** How long a gateway may take to end by itself that was told so twice, in ms. */
const TOLD_TWICE_MS = 5_000
/** How long a gateway that has failed may take to end by itself, in ms. */
const LEFT_MS = 2_000

export interface StartFlags {
  bind?: string
  port?: string
  token?: string
  stateDir?: string
  config?: string
  allowUnconfigured?: boolean
}

const sourceOf = ({ config: configPath, ...flags }: StartFlags): ConfigSource => ({
  env: process.env,
  home: homedir(),
  cwd: process.cwd(),
  flags: { ...flags, configPath },
})

/** The configuration that flags, files and environment come to. @throws ConfigError */
export const configFrom = (flags: StartFlags): Config => loadConfig(sourceOf(flags))

/** Prints the problems of a configuration, one a line. */
function printProblems({ problems, warnings, file }: ConfigError): void {
  console.error(`The configuration${file ? ` in ${file}` : ''} cannot be used:`)
  for (const problem of problems) console.error(`  - ${problem}`)
  for (const warning of warnings) console.error(`  (also: ${warning})`)
  console.error(`Nothing was started. ${typed('doctor')} checks it again.`)
}

/**
 * Makes the state folder, for its owner alone. Step by step: with `recursive`, Node.js does not come back from a place such as
 * /proc where nothing can be made.
 */
function makeStateDir(stateDir: string): void {
  const missing: string[] = []
  for (let folder = stateDir; !existsSync(folder); folder = dirname(folder)) missing.unshift(folder)
  for (const folder of missing) mkdirSync(folder, { mode: 0o700 })
  accessSync(stateDir, constants.R_OK | constants.W_OK | constants.X_OK)
  if (!statSync(stateDir).isDirectory()) throw new Error(`${stateDir} is not a folder`)
}

/** Runs a gateway until a signal stops it, and begins again when a client that may says so. Resolves to the exit code. */
export async function runGateway(flags: StartFlags): Promise<number> {
  // Every promise has an owner and every actor an observer; should one be forgotten all the same, it costs its own request, not
  // everybody's gateway. What is on disk is true in any case.
  const toConsole: Told['error'] = ({ err }, what) => console.error(`${what}:`, err)
  let log: Told = { error: toConsole, fatal: toConsole }
  let logged = 0
  let since = 0
  const unhandled = (what: string) => (error: unknown) => {
    // One that comes of saying so would come for ever.
    const now = performance.now()
    if (now - since > 1_000) [since, logged] = [now, 0]
    logged += 1
    if (logged <= MOST_UNHANDLED) log.error({ err: error }, what)
  }
  // Whoever read what it prints has gone: it goes on without, and the log is in its file.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {})
  process.on('uncaughtException', unhandled('an error nobody handled'))
  process.on('unhandledRejection', unhandled('a rejection nobody handled'))
  const signals = stopOnSignals()
  let good: Config | undefined
  try {
    for (;;) {
      const { ended, config } = await serve(flags, signals, good, (logger) => {
        log = logger
      })
      if (ended !== 'again') return ended
      good = config
    }
  } catch (error) {
    // Whoever started it must not take it for one that was stopped in order.
    log.fatal({ err: error }, 'the gateway could not be started')
    return EXIT.storage
  }
}

/** Who is told of what nobody foresaw. */
type Told = Record<'error' | 'fatal', (details: { err: unknown }, what: string) => void>

/**
 * Runs one gateway. Resolves to the exit code, or to `again` with what it was run with.
 * @param good what the one before it was run with: nobody may be there to start it by hand, so it is run with that once more when
 * the new configuration cannot be read, or its port cannot be had
 */
async function serve(
  flags: StartFlags,
  signals: Signals,
  good: Config | undefined,
  onUnhandled: (log: Told) => void,
  isSecondTry = false,
): Promise<{ ended: number | 'again'; config?: Config }> {
  const over = (ended: number) => ({ ended })
  let config: Config
  try {
    config = isSecondTry && good ? good : configFrom(flags)
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    printProblems(error)
    if (!good) return over(EXIT.config)
    console.error('It is run with the configuration it had before.')
    config = good
  }
  const { stateDir } = config
  try {
    makeStateDir(stateDir)
  } catch (error) {
    console.error(`The state folder ${stateDir} cannot be used: ${(error as Error).message}`)
    console.error('Make it writable for this user, or choose another one with --state-dir or OPENCLAW_STATE_DIR.')
    return over(EXIT.storage)
  }
  const { auth } = config.gateway
  const made = auth.mode === 'token' && auth.token === undefined
  if (made) {
    const first = readToken(stateDir) === undefined
    auth.token = ensureToken(stateDir)
    if (first) config.warnings.push(`no token is configured; one was made and kept in ${tokenFile(stateDir)}`)
  }
  const { log, problem, close } = openLog(config.logging)
  for (const warning of [...config.warnings, ...(problem ? [problem] : [])]) log.warn(warning)
  onUnhandled(log)
  let again: { timer: NodeJS.Timeout; at: number } | undefined
  const gateway = createGateway({
    config,
    log,
    source: sourceOf(flags),
    restart(delayMs, reason) {
      log.warn({ reason, delayMs }, 'a client asked for a restart')
      if (signals.count > 0) return undefined
      again ??= {
        timer: setTimeout(() => ending.begin('gateway restarting'), delayMs),
        at: performance.now() + delayMs,
      }
      return Math.max(0, Math.ceil(again.at - performance.now()))
    },
  })
  const ending = endingOf(gateway)
  signals.end(ending)
  try {
    await gateway.start()
  } catch (error) {
    const { message, cause } = error as Error
    if (signals.count > 0) {
      log.info('stopped while it started')
      close()
      return over(0)
    }
    log.fatal(message)
    console.error(adviceFor(message, config))
    close()
    if (good && !isSecondTry) {
      console.error('It is run with the configuration it had before.')
      return serve(flags, signals, good, onUnhandled, true)
    }
    return over((cause as { reason?: string } | undefined)?.reason === 'newerSchema' ? EXIT.schema : EXIT.storage)
  }
  const { port } = gateway.addresses[0]!
  try {
    const cert = config.gateway.tls?.cert
    noteRunning(stateDir, { url: urlOf(config.gateway, port), pid: process.pid, ...(cert && { cert }) })
  } catch (error) {
    log.warn({ err: error }, 'commands do not find this gateway by its state folder: give them --url')
  }
  log.info(
    { version, pid: process.pid, port, config: config.path ?? 'none', agents: config.agents.list.map(({ id }) => id) },
    `listening; ${trustedProxiesLine(config)}`,
  )
  announce(gateway, config, made, flags)
  const { failure } = await gateway.stopped
  forgetRunning(stateDir)
  // Without its storage it cannot go on, whatever still waits for an answer here.
  if (failure) setTimeout(() => process.exit(EXIT.storage), LEFT_MS).unref()
  if (failure) log.fatal(failure)
  else log.info('stopped')
  clearTimeout(again?.timer)
  close()
  if (failure) return over(EXIT.storage)
  return again && signals.count === 0 ? { ended: 'again', config } : over(0)
}

/** The end of a gateway, which may be asked for from two sides. */
interface Ending {
  /** Lets its runs end, however many ask for that. */
  begin(reason: string): void
  /** Cuts off the runs that go on since it began. */
  hurry(): void
}

function endingOf(gateway: Gateway): Ending {
  let hasBegun = false
  return {
    begin(reason) {
      if (!hasBegun) gateway.stop(reason)
      hasBegun = true
    },
    hurry: () => gateway.stop('gateway stopping'),
  }
}

interface Signals {
  readonly count: number
  /** What a signal ends. */
  end(ending: Ending): void
}

/** The first signal stops it when its runs have ended, the second at once. */
function stopOnSignals(): Signals {
  let count = 0
  let ending: Ending | undefined
  for (const signal of ['SIGTERM', 'SIGINT'] as const)
    process.on(signal, () => {
      count += 1
      if (count === 1 && signal === 'SIGINT') console.error('\nStopping; runs may end. Once more cuts them off.')
      if (count === 1) ending?.begin('gateway stopping')
      else ending?.hurry()
      if (count === 2) setTimeout(() => process.exit(EXIT.storage), TOLD_TWICE_MS).unref()
    })
  // A terminal that goes away is no reason to stop a gateway that was told to run.
  process.on('SIGHUP', () => {})
  return {
    get count() {
      return count
    },
    end(one) {
      ending = one
      if (count > 0) one.begin('gateway stopping')
    },
  }
}

/** How one talks to this gateway, in the way in which it was started. */
function chatCommand({ stateDir }: StartFlags): string {
  const script = process.env['npm_lifecycle_event']
  const where = stateDir ? ` --state-dir ${stateDir}` : ''
  if (script === 'start') return `npm run chat --${where}`
  return typed(`chat${where}`)
}

/** Tells a person where the gateway is and how to talk to it. */
function announce({ addresses }: Gateway, config: Config, madeToken: boolean, flags: StartFlags): void {
  const { port } = addresses[0]!
  const { host } = addresses[0]!
  const isAnywhere = host === '0.0.0.0' || host === '::'
  const scheme = config.gateway.tls ? 'https' : 'http'
  const token = madeToken ? `#token=${config.gateway.auth.token!.reveal()}` : ''
  // Whoever listens everywhere is to be reached from elsewhere, too.
  const others = isAnywhere ? addressesOfMachine(host === '::') : []
  const here = config.gateway.loopbackOnly || isAnywhere ? 'localhost' : inUrl(host)
  const lines = [
    '',
    `  The gateway is running on ${addresses.map(({ host: at }) => `${inUrl(at)}:${port}`).join(' and ')}.`,
    '',
    `  Open   ${scheme}://${here}:${port}/${token}`,
    ...others.map((at) => `  or     ${scheme}://${inUrl(at)}:${port}/   (from elsewhere)`),
    `  Type   ${chatCommand(flags)} "hello"   (in another terminal)`,
    '  Stop   Ctrl-C',
    '',
  ]
  console.log(lines.join('\n'))
}

const inUrl = (address: string): string => (address.includes(':') ? `[${address}]` : address)

/** Where other machines may find this one. */
const addressesOfMachine = (withV6: boolean): string[] =>
  Object.values(networkInterfaces())
    .flatMap((all) => all ?? [])
    .filter(({ internal, family, scopeid }) => !internal && (family === 'IPv4' || (withV6 && !scopeid)))
    .map(({ address }) => address)

function adviceFor(message: string, { gateway, stateDir }: Config): string {
  if (message.includes('EADDRINUSE'))
    return `Port ${gateway.port} is taken, perhaps by another gateway. Stop that one, or choose another port with --port.`
  if (message.includes('EACCES')) return 'The port may not be used by this user; choose another one with --port.'
  const other = findRunning(stateDir)
  if (message.includes('another gateway') && other)
    return `It is process ${other.pid}, at ${other.url}. Stop it (kill ${other.pid}), or choose another folder with --state-dir.`
  return `The gateway could not be started. ${typed('doctor')} looks for the cause.`
}

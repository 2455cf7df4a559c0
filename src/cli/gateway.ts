/** `gateway`: from flags and files to a gateway that runs until it is told to stop. */
import { homedir } from 'node:os'
import { ensureToken, readToken, tokenFile } from '../auth/token-file.ts'
import type { Config } from '../config/config.ts'
import { ConfigError, loadConfig, trustedProxiesLine } from '../config/load.ts'
import { createGateway, type Gateway } from '../gateway.ts'
import { openLog } from '../logging.ts'
import { EXIT } from './exit.ts'

export interface StartFlags {
  bind?: string
  port?: string
  token?: string
  stateDir?: string
  config?: string
  allowUnconfigured?: boolean
}

/** The configuration that flags, files and environment come to. @throws ConfigError */
export function configFrom({ config: configPath, ...flags }: StartFlags): Config {
  return loadConfig({ env: process.env, home: homedir(), cwd: process.cwd(), flags: { ...flags, configPath } })
}

/** Prints the problems of a configuration, one a line. */
export function printProblems({ problems }: ConfigError): void {
  console.error('The configuration cannot be used:')
  for (const problem of problems) console.error(`  - ${problem}`)
  console.error('Nothing was started. `kurultai doctor` checks it again.')
}

/** Runs a gateway until a signal stops it. Resolves to the exit code. */
export async function runGateway(flags: StartFlags): Promise<number> {
  let config: Config
  try {
    config = configFrom(flags)
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    printProblems(error)
    return EXIT.config
  }
  const { auth } = config.gateway
  const made = auth.mode === 'token' && auth.token === undefined
  if (made) {
    const first = readToken(config.stateDir) === undefined
    auth.token = ensureToken(config.stateDir)
    if (first) config.warnings.push(`no token is configured; one was made and kept in ${tokenFile(config.stateDir)}`)
  }
  const { log, problem, close } = openLog(config.logging)
  for (const warning of [...config.warnings, ...(problem ? [problem] : [])]) log.warn(warning)
  const gateway = createGateway({ config, log })
  stopOnSignals(gateway)
  // Every promise has an owner and every actor an observer; should one be forgotten all the same, it costs its own request, not
  // everybody's gateway. What is on disk is true in any case.
  process.on('uncaughtException', (error) => log.error({ err: error }, 'an error nobody handled'))
  process.on('unhandledRejection', (error) => log.error({ err: error }, 'a rejection nobody handled'))
  try {
    await gateway.start()
  } catch (error) {
    const { message, code } = error as NodeJS.ErrnoException
    log.fatal(message)
    console.error(adviceFor(message, config, code))
    close()
    return message.includes('newer schema') ? EXIT.schema : EXIT.storage
  }
  log.info(
    { config: config.path ?? 'none', agents: config.agents.list.map(({ id }) => id) },
    trustedProxiesLine(config),
  )
  announce(gateway, config, made)
  const { failure } = await gateway.stopped
  if (failure) log.fatal(failure)
  else log.info('stopped')
  close()
  return failure ? EXIT.storage : 0
}

function stopOnSignals(gateway: Gateway): void {
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => gateway.stop('gateway stopping'))
  // A terminal that goes away is no reason to stop a gateway that was told to run.
  process.on('SIGHUP', () => {})
}

/** Tells a person where the gateway is and how to talk to it. */
function announce({ addresses }: Gateway, config: Config, madeToken: boolean): void {
  const { port } = addresses[0]!
  const host = config.gateway.loopbackOnly
    ? 'localhost'
    : addresses[0]!.host === '0.0.0.0'
      ? 'localhost'
      : addresses[0]!.host
  const lines = [
    '',
    `  The gateway is running on ${addresses.map(({ host: at }) => `${at.includes(':') ? `[${at}]` : at}:${port}`).join(' and ')}.`,
    '',
    `  Open   http://${host}:${port}/${madeToken ? `#token=${config.gateway.auth.token!.reveal()}` : ''}`,
    `  Type   ${process.env['npm_lifecycle_event'] === 'start' ? 'npm run chat -- "hello"' : 'kurultai chat "hello"'}   (in another terminal)`,
    '  Stop   Ctrl-C',
    '',
  ]
  console.log(lines.join('\n'))
}

function adviceFor(message: string, config: Config, code: string | undefined): string {
  if (code === 'EADDRINUSE' || message.includes('EADDRINUSE'))
    return `Port ${config.gateway.port} is taken, perhaps by another gateway. Stop that one, or choose another port with --port.`
  if (message.includes('EACCES'))
    return 'The port or the state folder may not be used by this user; choose another one.'
  return 'The gateway could not be started. `kurultai doctor` looks for the cause.'
}

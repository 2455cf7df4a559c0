/** Reads the configuration: finds the file, checks it, and adds what flags and variables say. It never writes. */
import { accessSync, constants, existsSync, readFileSync, statSync } from 'node:fs'
import path from 'node:path'
import { readQueueMode } from '../contract/queue-mode.ts'
import { readAgents } from './agents.ts'
import type { Config, LogLevel } from './config.ts'
import { ConfigError, type Findings, type Path, pathText } from './findings.ts'
import { type ListenerFlags, readListener } from './listener.ts'
import { readModels } from './models.ts'
import { type Environment, parseText, readFile, variablesOf } from './reading.ts'
import { isSecret } from './redact.ts'
import { type ConfigFile, defaults } from './schema.ts'
import { readMcp, readTools } from './tools.ts'

export { ConfigError } from './findings.ts'

/** Everything the result depends on, besides the files it names. */
export interface ConfigSource {
  env: Environment
  /** What `~` stands for. */
  home: string
  /** What relative paths start from. */
  cwd: string
  flags?: ListenerFlags & {
    stateDir?: string | undefined
    configPath?: string | undefined
    /** Start with defaults when there is no file. */
    allowUnconfigured?: boolean | undefined
  }
  /** What the file is to hold, instead of what it holds. */
  text?: string
  /** Read nothing of the file but its section `gateway`: enough to find a gateway, and none of the others' secrets. */
  gatewayOnly?: boolean
}

const onlyGateway = (parsed: unknown): unknown =>
  parsed !== null && typeof parsed === 'object' && 'gateway' in parsed ? { gateway: parsed.gateway } : {}

/** A file of more bytes is not a configuration. */
const largestFile = 1_048_576

/**
 * Reads and checks the configuration. Throws a {@link ConfigError} that lists every problem, with the config path of
 * each.
 */
export function loadConfig({ env, home, cwd, flags = {}, text, gatewayOnly = false }: ConfigSource): Config {
  const resolve = (text: string, from = cwd): string => resolvePath(text, from, home)
  const findings: Findings = { problems: [], warnings: [] }
  const stateDir = stateDirOf({ env, home, cwd, flags })

  const named = flags.configPath || env['OPENCLAW_CONFIG_PATH']?.trim() || env['OPENCLAW_CONFIG']?.trim()
  const file = named ? resolve(named) : fileIn(stateDir)
  const raw = file === undefined ? undefined : (text ?? readText(file))
  if (raw === undefined) {
    // Who names a file in the command means that file.
    if (!flags.allowUnconfigured || flags.configPath) throw new ConfigError([nothingFound(file, stateDir)])
    if (file !== undefined) findings.warnings.push(`there is no file ${file}; starting with defaults`)
  }
  const parsed = raw === undefined || file === undefined ? undefined : parseText(raw, file)

  const reading = readFile(raw === undefined ? {} : gatewayOnly ? onlyGateway(parsed) : parsed, env, findings)
  const settings = reading.file
  const beside = file === undefined ? cwd : path.dirname(file)
  const gateway = readListener({ reading, env, flags, findings, fromFile: (text) => resolve(text, beside) })
  const models = readModels(settings.models, env, findings)
  const agents = readAgents(settings.agents, { models, env, findings, resolve })
  const tools = readTools(settings.tools, agents.list, findings)
  const mcp = readMcp(settings.mcp, tools.timeoutMs, agents.list, findings)
  const logging = readLogging(settings.logging, env, resolve, path.join(stateDir, 'logs', 'gateway.log'), findings)
  const kurultai = readDialect(settings, env, findings)
  warnOfStateDir(stateDir, findings)
  if (file !== undefined && path.dirname(file) !== stateDir) warnOfReaders(file, parsed, findings)
  if (settings.env?.shellEnv?.enabled) {
    findings.warnings.push('env.shellEnv.enabled: the login shell is not asked for variables here')
  }
  if (findings.problems.length > 0)
    throw new ConfigError(findings.problems, raw === undefined ? undefined : file, findings.warnings)

  return {
    path: raw === undefined ? undefined : file,
    raw,
    parsed,
    stateDir,
    warnings: findings.warnings,
    gateway,
    agents,
    models,
    session: {
      mainKey: (settings.session?.mainKey ?? defaults.mainKey).toLowerCase(),
      scope: settings.session?.scope ?? defaults.scope,
      projectFiles: settings.session?.projectFiles ?? false,
    },
    messages: {
      queueLimit: settings.messages?.queue?.limit ?? defaults.queueLimit,
      queueMode: readQueueMode(settings.messages?.queue?.mode) ?? defaults.queueMode,
    },
    cron: {
      enabled: settings.cron?.enabled ?? true,
      maxConcurrentRuns: settings.cron?.maxConcurrentRuns ?? defaults.cronRuns,
    },
    commands: { config: settings.commands?.config ?? false, restart: settings.commands?.restart ?? false },
    tools,
    mcp,
    logging,
    compat: { kurultai },
  }
}

/** Absolute path of the state folder. */
export const stateDirOf = ({ env, home, cwd, flags = {} }: ConfigSource): string =>
  resolvePath(flags.stateDir || env['OPENCLAW_STATE_DIR']?.trim() || path.join(home, '.openclaw'), cwd, home)

const resolvePath = (text: string, from: string, home: string): string =>
  path.resolve(
    from,
    text.replace(/^~(?=$|[/\\])/, () => home),
  )

/** Says at start-up whose forwarded headers are believed. */
export function trustedProxiesLine({ gateway }: Pick<Config, 'gateway'>): string {
  const { trustedProxies } = gateway
  if (trustedProxies.length === 0) return 'trusting forwarded headers from nobody'
  return `trusting forwarded headers from ${trustedProxies.includes('*') ? 'everybody (*)' : trustedProxies.join(', ')}`
}

/** The file in the state folder. Which of two was meant is not guessed: the other may hold the token that counts. */
function fileIn(stateDir: string): string | undefined {
  const found = ['openclaw.json5', 'openclaw.json']
    .map((name) => path.join(stateDir, name))
    .filter((one) => existsSync(one))
  if (found.length > 1) {
    throw new ConfigError([`both ${found.join(' and ')} exist; remove one, or name one with OPENCLAW_CONFIG_PATH`])
  }
  return found[0]
}

function nothingFound(file: string | undefined, stateDir: string): string {
  const where = file === undefined ? `no openclaw.json5 or openclaw.json in ${stateDir}` : `no file ${file}`
  return `${where}; write one, name one with OPENCLAW_CONFIG_PATH, or start with --allow-unconfigured`
}

/** The file's text as it stands; `undefined` when there is no such file. */
function readText(file: string): string | undefined {
  try {
    const { size } = statSync(file)
    if (size > largestFile) throw new ConfigError([`larger than ${largestFile} bytes`], file)
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(readFileSync(file))
  } catch (error) {
    if (error instanceof ConfigError) throw error
    if (error instanceof TypeError) throw new ConfigError(['is not UTF-8'], file)
    const code = error instanceof Error && 'code' in error ? error.code : undefined
    if (code === 'ENOENT') return undefined
    throw new ConfigError([`cannot be read (${String(code ?? error)})`], file)
  }
}

const levels: Record<string, LogLevel> = {
  trace: 'trace',
  verbose: 'debug',
  debug: 'debug',
  info: 'info',
  warn: 'warn',
  warning: 'warn',
  error: 'error',
  fatal: 'fatal',
  silent: 'silent',
}

function readLogging(
  written: ConfigFile['logging'],
  env: Environment,
  resolve: (text: string) => string,
  usual: string,
  findings: Findings,
): Config['logging'] {
  const asked = env['LOG_LEVEL']?.trim().toLowerCase()
  const level = asked && Object.hasOwn(levels, asked) ? levels[asked] : undefined
  // Platforms set LOG_LEVEL to words of their own; a start is not refused for that.
  if (asked && level === undefined)
    findings.warnings.push(`LOG_LEVEL: no level is called ${JSON.stringify(asked.slice(0, 60))}`)
  const file = written?.file ? resolve(written.file) : usual
  if (!isWritable(file))
    findings.warnings.push(`logging.file: ${file} cannot be written; the log goes to the console only`)
  return {
    level: level ?? written?.level ?? defaults.level,
    consoleLevel: level ?? written?.consoleLevel ?? defaults.level,
    file,
  }
}

/**
 * Whether the file can be written, or made, with the folders above it. Asked of the nearest that exists, without making
 * any.
 */
function isWritable(file: string): boolean {
  for (let at = file; ; at = path.dirname(at)) {
    try {
      const isFolder = statSync(at).isDirectory()
      if ((at === file) === isFolder) return false
      accessSync(at, constants.W_OK)
      return true
    } catch (error) {
      const missing = error instanceof Error && 'code' in error && error.code === 'ENOENT'
      if (!missing || at === path.dirname(at)) return false
    }
  }
}

/** The file's key, or the variable, for a deployed file that is read-only and lacks the key. */
function readDialect(file: ConfigFile, env: Environment, findings: Findings): boolean {
  const asked = env['OPENCLAW_COMPAT']?.trim()
  if (asked && asked !== 'kurultai') {
    findings.warnings.push(`OPENCLAW_COMPAT: only kurultai is known, got ${JSON.stringify(asked.slice(0, 60))}`)
  }
  return file.gateway?.compat?.kurultai === true || asked === 'kurultai'
}

/** A file that is not in the state folder has no folder to protect it. */
function warnOfReaders(file: string, parsed: unknown, findings: Findings): void {
  const at = secretIn(parsed, [])
  if (at === undefined || !existsSync(file)) return
  const mode = statSync(file).mode & 0o777
  if ((mode & 0o077) !== 0)
    findings.warnings.push(
      `others can read ${file} (mode 0${mode.toString(8)}), and ${pathText(at)} is in it; chmod 600 it, or name a variable there`,
    )
}

/** The first place that holds a secret as it is: one that names a variable holds none. */
function secretIn(value: unknown, at: Path): Path | undefined {
  if (typeof value === 'string')
    return value !== '' && variablesOf(value).size === 0 && isSecret(at) && at[1] !== 'tls' ? at : undefined
  if (typeof value !== 'object' || value === null) return undefined
  for (const [key, member] of Object.entries(value)) {
    const found = secretIn(member, [...at, key])
    if (found) return found
  }
  return undefined
}

function warnOfStateDir(stateDir: string, findings: Findings): void {
  try {
    const mode = statSync(stateDir).mode & 0o777
    if ((mode & 0o077) === 0) return
    findings.warnings.push(`others can read the state folder ${stateDir} (mode 0${mode.toString(8)}); chmod 700 it`)
  } catch {
    // Not there yet: whoever makes it makes it 0700.
  }
}

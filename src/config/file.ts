/** The configuration file: what it holds now, and the only way in which the gateway writes it. */
import { createHash } from 'node:crypto'
import {
  accessSync,
  closeSync,
  constants,
  copyFileSync,
  existsSync,
  fsyncSync,
  openSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import JSON5 from 'json5'
import { GatewayError } from '../contract/errors.ts'
import type { Config } from './config.ts'
import { patchText, withSecrets } from './edit.ts'
import { ConfigError } from './findings.ts'
import { type ConfigSource, loadConfig } from './load.ts'
import { redactConfig, redactRaw } from './redact.ts'
import { Secret } from './secret.ts'
import { weakenings } from './weaker.ts'

/** A configuration as `config.get` answers it: without its secrets. */
export interface ShownConfig {
  path: string | null
  exists: boolean
  raw: string | null
  parsed: unknown
  valid: boolean
  config: unknown
  /** SHA-256 of the file's text, in hex. */
  hash: string
  issues: { path: string; message: string }[]
  warnings: { path: string; message: string }[]
  legacyIssues: never[]
}

export interface ConfigFileOnDisk {
  /** The file as it is now, which may be another than the gateway was started with. */
  show(): ShownConfig
  /**
   * Writes the whole text. Hidden secrets are those that stand at the same place now.
   * @param baseHash of the file that the change is meant for; may be left out while there is none
   * @throws GatewayError CONFIG_*: nothing was written
   */
  set(text: string, baseHash: string | undefined): ShownConfig
  /** Writes a merge patch (RFC 7396, as JSON5 text) into the file, whose comments and layout stay. The same errors. */
  patch(text: string, baseHash: string | undefined): ShownConfig
}

/** @param running what the gateway was started with; @param source how that was found */
export function openConfigFile(running: Config, source: ConfigSource): ConfigFileOnDisk {
  const named = running.path ?? path.join(running.stateDir, 'openclaw.json5')
  const file = realPath(named)

  function show(): ShownConfig {
    const raw = textOf(file)
    const base = {
      path: raw === undefined ? null : file,
      exists: raw !== undefined,
      hash: hashOf(raw ?? ''),
      legacyIssues: [],
    }
    try {
      const { parsed = {}, warnings } = raw === undefined ? { warnings: running.warnings } : read(raw)
      const shown = redactConfig(parsed)
      const messages = warnings.map((message) => ({ path: '', message }))
      const text = raw === undefined ? null : redactRaw(raw, parsed)
      return { ...base, raw: text, parsed: shown, valid: true, config: shown, issues: [], warnings: messages }
    } catch (error) {
      // Somebody broke it meanwhile; the gateway goes on with what it was started with.
      return {
        ...base,
        raw: null,
        parsed: null,
        valid: false,
        config: redactConfig(running.parsed),
        issues: issuesOf(error),
        warnings: [],
      }
    }
  }

  /** @throws ConfigError */
  const read = (text: string): Config => loadConfig({ ...source, flags: { ...source.flags, configPath: named }, text })

  function write(change: (present: string) => string, baseHash: string | undefined): ShownConfig {
    if (!running.commands.config)
      throw new GatewayError(
        'CONFIG_WRITES_OFF',
        'clients may not write the configuration; set commands.config: true in the file and start the gateway again',
      )
    const present = textOf(file)
    if (present !== undefined && baseHash === undefined)
      throw new GatewayError('CONFIG_CHANGED', 'config base hash required; re-run config.get and retry')
    if (baseHash !== undefined && baseHash !== hashOf(present ?? ''))
      throw new GatewayError('CONFIG_CHANGED', 'config changed since last load; re-run config.get and retry')
    const text = checked(change, present)
    if (text !== present) save(file, text)
    return show()
  }

  /** The text that is to be written: it can be read, hides nothing, and lets nobody do more than before. */
  function checked(change: (present: string) => string, present = '{}'): string {
    let text: string
    let before = running
    let after: Config
    try {
      before = read(present)
    } catch {
      // Somebody broke it: a change that mends it is compared with what the gateway was started with.
    }
    try {
      text = withSecrets(change(present), present)
      after = read(text)
    } catch (error) {
      if (error instanceof SyntaxError) throw new GatewayError('CONFIG_INVALID', `SyntaxError: ${error.message}`)
      if (!(error instanceof ConfigError)) throw error
      throw new GatewayError('CONFIG_INVALID', 'invalid config', { details: { issues: issuesOf(error) } })
    }
    if (text.includes(Secret.marker))
      throw new GatewayError(
        'CONFIG_INVALID',
        `the text holds ${Secret.marker} where nothing is hidden; write what is meant, or leave it as config.get shows it`,
      )
    const found = weakenings(before, after)
    if (found.length > 0)
      throw new GatewayError(
        'CONFIG_WEAKER',
        `refused, since it lets more in or out: ${found.join('; ')}. Edit the file on the gateway's machine for that`,
        { details: { weakenings: found } },
      )
    return text
  }

  return {
    show,
    set: (text, baseHash) => write(() => text, baseHash),
    patch(text, baseHash) {
      return write((present) => {
        const patch: unknown = JSON5.parse(text)
        if (typeof patch !== 'object' || patch === null || Array.isArray(patch))
          throw new SyntaxError('the patch must hold an object')
        return patchText(present, patch as { [name: string]: unknown })
      }, baseHash)
    },
  }
}

/** Where a link leads: what is written takes the place of the file, not of the link. */
function realPath(file: string): string {
  try {
    return realpathSync(file)
  } catch {
    return file
  }
}

const hashOf = (text: string): string => createHash('sha256').update(text).digest('hex')

function textOf(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw new GatewayError('CONFIG_UNREADABLE', `the configuration file cannot be read (${codeOf(error)})`)
  }
}

/** Replaces a file in one step, so that a crash leaves the old or the new one. The old one stays beside it as `.bak`. */
function save(file: string, text: string): void {
  const fresh = `${file}.${process.pid}.new`
  try {
    // Whoever made it read-only does not mean it to be replaced either, which its folder alone decides.
    if (existsSync(file)) accessSync(file, constants.W_OK)
    const handle = openSync(fresh, 'w', 0o600)
    try {
      // Not writeSync: on a disk that is nearly full it writes a part, and says so in its result only.
      writeFileSync(handle, text)
      fsyncSync(handle)
    } finally {
      closeSync(handle)
    }
    keepOld(file)
    renameSync(fresh, file)
  } catch (error) {
    rmSync(fresh, { force: true })
    throw new GatewayError(
      'CONFIG_UNWRITABLE',
      `the configuration file cannot be written (${codeOf(error)}); make it and its folder writable for the gateway, or edit the file itself`,
    )
  }
  syncFolder(path.dirname(file))
}

/** Makes the new name durable. It is written already: a power cut that comes before this leaves the old one or the new one. */
function syncFolder(folder: string): void {
  try {
    const handle = openSync(folder, 'r')
    try {
      fsyncSync(handle)
    } finally {
      closeSync(handle)
    }
  } catch {
    // Some systems, such as Windows, sync no folders.
  }
}

function keepOld(file: string): void {
  try {
    copyFileSync(file, `${file}.bak`)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
}

const codeOf = (error: unknown): string => String((error as NodeJS.ErrnoException).code ?? error)

/** The problems of a file, the path of each by itself. */
function issuesOf(error: unknown): ShownConfig['issues'] {
  if (!(error instanceof ConfigError)) return [{ path: '', message: String(error) }]
  return error.problems.map((problem) => {
    const [, at = '', message = problem] = /^([\w$.[\]"-]+): (.*)$/s.exec(problem) ?? []
    return { path: at, message }
  })
}

/** `config.*`: the configuration file, as far as clients may see and write it. */
import type { Handlers } from '../broker/dispatch.ts'
import type { Log } from '../broker/log.ts'
import type { ConfigFileOnDisk, ShownConfig } from '../config/file.ts'
import type { config as contract } from '../contract/config.ts'

export interface ConfigNeeds {
  configFile: ConfigFileOnDisk
  /** A JSON Schema of the file, and what else a form has to know. */
  configForm: { schema: object; uiHints: object }
  version: string
  /**
   * Starts the gateway anew after so many ms, and says in how many it does: one that was asked for before comes first. Absent: it may
   * not, or nobody is there to do it.
   */
  restart: ((delayMs: number, note: string) => number | undefined) | undefined
  log: Pick<Log, 'info'>
}

const RESTART_DELAY_MS = 2_000

export function configMethods(needs: ConfigNeeds): Handlers<typeof contract> {
  const { configFile, configForm, version, restart, log } = needs

  function written({ path, config, hash }: ShownConfig, delayMs?: number) {
    log.info({ path, hash, delayMs }, 'a client wrote the configuration: it is used from the next start on')
    return {
      ok: true as const,
      path: path!,
      config: config as { [name: string]: unknown },
      hash,
      restart: { scheduled: delayMs !== undefined, ...(delayMs !== undefined && { delayMs }) },
    }
  }

  // The answer is on its way before any timer runs.
  const andRestart = (shown: ShownConfig, { restartDelayMs = RESTART_DELAY_MS, note = '' }, method: string) =>
    written(shown, restart?.(restartDelayMs, note ? `${method}: ${note}` : method))

  return {
    'config.get': () => ({ ...configFile.show() }),
    'config.schema': () => ({ ...configForm, version, generatedAt: new Date().toISOString() }),
    'config.set': ({ raw, baseHash }) => written(configFile.set(raw, baseHash)),
    'config.patch': ({ raw, baseHash, ...rest }) => andRestart(configFile.patch(raw, baseHash), rest, 'config.patch'),
    'config.apply': ({ raw, baseHash, ...rest }) => andRestart(configFile.set(raw, baseHash), rest, 'config.apply'),
  }
}

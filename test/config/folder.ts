/** A folder for one test, and a configuration loaded from it. */
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { onTestFinished } from 'vitest'
import type { Config } from '../../src/config/config.ts'
import { ConfigError, type ConfigSource, loadConfig } from '../../src/config/load.ts'

export const goodToken = 'kD83-xQ0v_71mZsYw2LtPbR9'

/** Makes a folder with these files; it is gone after the test. */
export function folder(files: Record<string, string> = {}): string {
  const made = mkdtempSync(path.join(tmpdir(), 'config-'))
  onTestFinished(() => rmSync(made, { recursive: true, force: true }))
  chmodSync(made, 0o700)
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(path.dirname(path.join(made, name)), { recursive: true })
    writeFileSync(path.join(made, name), text)
  }
  return made
}

type Given = { env?: Record<string, string>; flags?: ConfigSource['flags'] }

/** Loads the text as `openclaw.json5` of a fresh state folder. */
export function load(text: string, { env = {}, flags = {} }: Given = {}): Config {
  const home = folder({ '.openclaw/openclaw.json5': text })
  chmodSync(path.join(home, '.openclaw'), 0o700)
  return loadConfig({ env, home, cwd: home, flags })
}

/** The problems the text is refused for; empty when it loads. */
export function problemsOf(text: string, given: Given = {}): string[] {
  try {
    load(text, given)
    return []
  } catch (error) {
    if (error instanceof ConfigError) return error.problems
    throw error
  }
}

/**
 * What a running gateway leaves in its state folder for the commands beside it: where it listens, and which process it is. It locks
 * nothing; after a crash it is merely wrong, and the next start replaces it.
 */
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

export interface Running {
  url: string
  pid: number
}

const fileIn = (stateDir: string): string => join(stateDir, 'running.json')

export function noteRunning(stateDir: string, running: Running): void {
  writeFileSync(fileIn(stateDir), `${JSON.stringify(running)}\n`, { mode: 0o600 })
}

/** The gateway that was started last in this folder, if it said so and was not stopped in order. */
export function findRunning(stateDir: string): Running | undefined {
  try {
    const { url, pid } = JSON.parse(readFileSync(fileIn(stateDir), 'utf8')) as Partial<Running>
    return typeof url === 'string' && typeof pid === 'number' ? { url, pid } : undefined
  } catch {
    return undefined
  }
}

export function forgetRunning(stateDir: string): void {
  rmSync(fileIn(stateDir), { force: true })
}

/** Brings other people's packages into a folder that git does not see: they are large, and nobody needs them to run. */
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const packages = fileURLToPath(new URL('packages/', import.meta.url))
const cache = fileURLToPath(new URL('../../.cache/clients/', import.meta.url))

/**
 * Installs exactly what the lock file of `packages/<name>` says, without running anybody's install scripts, unless it is
 * there already.
 * @returns the folder that `node_modules` is in
 * @throws what npm said, when it could not
 */
export function installClient(name: string): string {
  const from = join(packages, name)
  const folder = join(cache, name)
  const lock = createHash('sha256')
    .update(readFileSync(join(from, 'package-lock.json')))
    .digest('hex')
  const mark = join(folder, 'installed')
  if (existsSync(mark) && readFileSync(mark, 'utf8') === lock) return folder
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  cpSync(from, folder, { recursive: true })
  const npm = spawnSync('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund'], {
    cwd: folder,
    encoding: 'utf8',
    maxBuffer: 2 ** 26,
  })
  if (npm.status !== 0) throw new Error(`npm ci in ${name} ended with ${npm.status}:\n${npm.stderr}`)
  writeFileSync(mark, lock)
  return folder
}

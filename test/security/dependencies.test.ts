/** What this project is made of besides its own code: few packages, each pinned, none that runs anything when it is installed. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'

const ROOT = join(import.meta.dirname, '../..')
const read = (file: string) => JSON.parse(readFileSync(join(ROOT, file), 'utf8'))

interface Locked {
  version: string
  integrity?: string
  link?: boolean
  dev?: boolean
  optional?: boolean
  devOptional?: boolean
  hasInstallScript?: boolean
  resolved?: string
}

const manifest = read('package.json') as {
  dependencies: { [name: string]: string }
  devDependencies: { [name: string]: string }
}
const { packages, lockfileVersion } = read('package-lock.json') as {
  packages: { [path: string]: Locked }
  lockfileVersion: number
}
const installed = Object.entries(packages).filter(([path]) => path.startsWith('node_modules/'))
const runtime = installed.filter(([, { dev, devOptional, link }]) => !dev && !devOptional && !link)

describe('the packages', () => {
  it('that the gateway needs to run are twenty at the most', () => {
    expect(Object.keys(manifest.dependencies).length).toBeGreaterThan(0)
    expect(Object.keys(manifest.dependencies).length).toBeLessThanOrEqual(20)
  })

  it('are named in one exact version, which is the one that is locked', () => {
    for (const [name, version] of Object.entries({ ...manifest.dependencies, ...manifest.devDependencies })) {
      if (version.startsWith('file:tools/')) continue
      expect([name, version]).toEqual([name, expect.stringMatching(/^\d+\.\d+\.\d+$/)])
      expect([name, packages[`node_modules/${name}`]?.version]).toEqual([name, version])
    }
  })

  it('are locked with the hash of what they are, each of them', () => {
    expect(lockfileVersion).toBeGreaterThanOrEqual(3)
    expect(installed.length).toBeGreaterThan(Object.keys(manifest.dependencies).length)
    const loose = installed.filter(
      ([, { integrity, link }]) => !link && !/^sha512-[A-Za-z0-9+/]{86}==$/.test(integrity ?? ''),
    )
    // What lies in this repository has no hash of its own.
    expect(loose.map(([path]) => path).filter((path) => !path.startsWith('node_modules/node-'))).toEqual([])
  })

  it('have ws in a version that bounds pieces and chunks', () => {
    const [major, minor] = packages['node_modules/ws']!.version.split('.').map(Number)
    expect(major! > 8 || (major === 8 && minor! >= 21)).toBe(true)
  })

  it('run nothing when they are installed, by the lock and by their own word', () => {
    expect(runtime.length).toBeGreaterThanOrEqual(Object.keys(manifest.dependencies).length)
    expect(runtime.filter(([, { hasInstallScript }]) => hasInstallScript).map(([path]) => path)).toEqual([])
    const scripts = runtime.flatMap(([path]) => {
      const file = join(path, 'package.json')
      if (!existsSync(join(ROOT, file))) return []
      const { scripts: own = {} } = read(file) as { scripts?: { [name: string]: string } }
      return ['preinstall', 'install', 'postinstall']
        .filter((name) => own[name] !== undefined)
        .map((name) => `${path}: ${name}`)
    })
    expect(scripts).toEqual([])
    expect(runtime.filter(([path]) => existsSync(join(ROOT, path, 'binding.gyp')))).toEqual([])
    // Of those that only build or test it, the ones that may are named.
    const others = installed.filter(([, { hasInstallScript }]) => hasInstallScript).map(([path]) => path)
    expect(others.filter((path) => !['node_modules/esbuild', 'node_modules/fsevents'].includes(path))).toEqual([])
  })
})

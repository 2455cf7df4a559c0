/** What lies in an image, looked at from outside, file by file. */
import assert from 'node:assert/strict'
import { lstatSync, readdirSync, readFileSync, type Stats } from 'node:fs'
import { join } from 'node:path'
import type { Settings } from './buildah.ts'
import type { Checks } from './checks.ts'

interface Contents {
  /** Where the files of the image are. */
  rootfs: string
  /** Where those of the image are that it was built on. */
  base: string
  settings: Settings
  /** Everything that is said about the image, its history, too. */
  description: string
  /** Stands in every file of the checkout that is no part of the gateway. */
  canary: string
  /** Whether it was built without packages of anybody's choice. */
  isPlain: boolean
}

/** What the gateway, its user and its folders consist of. */
const OURS = [
  /^\/app(\/dist(\/types(\/.*)?|\/[\w.-]+\.(js|js\.map|js\.LEGAL\.txt|json))?|\/package\.json|\/LICENSE)?$/,
  /^\/data(\/\.openclaw)?$/,
  /^\/etc\/(passwd|shadow|group|gshadow|subuid|subgid)-?$/,
  /^\/usr\/local\/bin\/(kurultai|openclaw)$/,
]
const TOOLS = ['cc', 'gcc', 'g++', 'c++', 'clang', 'make', 'ld', 'python3', 'git', 'tsc', 'esbuild', 'vitest', 'biome']
/** Of the machine, not of the image. */
const OUTSIDE = new Set(['/dev', '/proc', '/sys'])

export async function checkContents(contents: Contents, { check }: Checks): Promise<void> {
  const { rootfs, settings, description, canary, isPlain } = contents
  const files = filesIn(rootfs)
  const base = filesIn(contents.base)
  const added = [...files].filter(([path, stats]) => isAnother(stats, base.get(path)))
  const [uid, gid] = settings.User.split(':').map(Number)

  if (isPlain) {
    await check('the image adds the gateway, its user and its folders, and nothing else', () => {
      assert.deepEqual(foreign(added.map(([path]) => path)), [])
      const gone = [...base.keys()].filter((path) => !files.has(path))
      assert.deepEqual(gone, [])
    })
    await check('it has no compilers, and no packages beside those of npm itself', () => {
      const programs = [...files.keys()].filter((path) => TOOLS.some((tool) => path.endsWith(`bin/${tool}`)))
      const packages = [...files.keys()].filter((path) => /^(?!\/usr\/local\/lib\/).*\/node_modules$/.test(path))
      assert.deepEqual([...programs, ...packages], [])
    })
  }
  await check(`nobody may write in it, but everybody in /tmp and user ${uid} in /data`, () => {
    const writable = [...files].filter(([path, stats]) => {
      if (stats.isSymbolicLink() || path.startsWith('/data')) return false
      const isAnybodys = (stats.mode & 0o002) !== 0 && !(stats.isDirectory() && (stats.mode & 0o1000) !== 0)
      return isAnybodys || stats.uid === uid || (stats.gid === gid && (stats.mode & 0o020) !== 0)
    })
    assert.deepEqual(
      writable.map(([path]) => path),
      [],
    )
    const state = files.get('/data/.openclaw')
    assert.deepEqual([state?.uid, state?.gid, (state?.mode ?? 0) & 0o7777], [uid, gid, 0o700])
  })
  await check('what it adds runs with the rights of whoever starts it', () => {
    const raised = added.filter(([, { mode }]) => (mode & 0o6000) !== 0)
    assert.deepEqual(
      raised.map(([path]) => path),
      [],
    )
  })
  await check('no secret of the checkout is in it', () => {
    const holding = added
      .filter(([path, stats]) => stats.isFile() && readFileSync(join(rootfs, path)).includes(canary))
      .map(([path]) => path)
    assert.deepEqual(holding, [])
    assert.ok(!description.includes(canary), 'its description holds one')
    const names = settings.Env.map((each) => each.split('=')[0]!)
    assert.deepEqual(
      names.filter((name) => /TOKEN|KEY|SECRET|PASSWORD/i.test(name)),
      [],
    )
  })
  await check('its labels say what it is, in the words of package.json', () => {
    const manifest = JSON.parse(readFileSync(join(rootfs, 'app/package.json'), 'utf8')) as Record<string, string>
    const said = ['title', 'description', 'version', 'licenses'].map(
      (label) => settings.Labels[`org.opencontainers.image.${label}`],
    )
    assert.deepEqual(said, [manifest['name'], manifest['description'], manifest['version'], manifest['license']])
  })
  const bytes = added.reduce((sum, [, stats]) => sum + (stats.isFile() ? stats.size : 0), 0)
  console.log(`         ${added.length} files and folders, ${(bytes / 1e6).toFixed(1)} MB beside the base image`)
}

const foreign = (paths: string[]): string[] => paths.filter((path) => !OURS.some((ours) => ours.test(path)))

/** Every path of a file system, and what is there. */
function filesIn(root: string): Map<string, Stats> {
  const files = new Map<string, Stats>()
  const walk = (folder: string) => {
    for (const name of readdirSync(join(root, folder))) {
      const path = `${folder}/${name}`
      if (OUTSIDE.has(path)) continue
      const stats = lstatSync(join(root, path))
      files.set(path, stats)
      if (stats.isDirectory()) walk(path)
    }
  }
  walk('')
  return files
}

/** Whether there is something else than was there before. Of a folder only who may do what with it. */
function isAnother(after: Stats, before: Stats | undefined): boolean {
  if (before === undefined) return true
  if (after.mode !== before.mode || after.uid !== before.uid || after.gid !== before.gid) return true
  return !after.isDirectory() && (after.size !== before.size || after.mtimeMs !== before.mtimeMs)
}

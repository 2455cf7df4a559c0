/**
 * An image that stands in for the one that the Dockerfile begins with, made of what a machine has that reaches packages, but
 * no images: Debian's own packages, and Node.js and npm as npm has them.
 */
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { copyFileSync, cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pinnedNode } from '../../tools/node/find-node.mjs'
import { type Images, Unable } from './buildah.ts'

const RELEASE = 'bookworm'
/** The one that comes with Node.js 22. */
const NPM = '10.9.9'
/** Of the machine, which may trust more than Debian does: a proxy of its own, for example. */
const CERTIFICATES = '/etc/ssl/certs/ca-certificates.crt'

/**
 * Makes the image, or finds the one that was made in `folder` before.
 * @param image what it is to be called
 * @throws Unable when the packages cannot be had, or nothing can be run in it
 */
export function makeBase(images: Images, image: string, folder: string): void {
  const node = pinnedNode()
  if (node === undefined) throw new Unable('npm has no Node.js for this machine')
  const registry = ask('npm', ['config', 'get', 'registry'])
  const made = createHash('sha256')
  for (const part of [ask(node, ['--version']), NPM, RELEASE, registry]) made.update(`${part}\n`)
  if (existsSync(CERTIFICATES)) made.update(readFileSync(CERTIFICATES))
  const mark = join(folder, 'base')
  const key = `${made.digest('hex')} `
  const known = existsSync(mark) ? readFileSync(mark, 'utf8') : ''
  if (!known.startsWith(key) || !has(images, known.slice(key.length))) {
    const rootfs = join(folder, 'rootfs')
    fill(rootfs, node, registry)
    writeFileSync(mark, key + commit(images, image, rootfs, ask(node, ['--version'])))
    rmSync(rootfs, { recursive: true })
  }
  const { name } = images.open(image)
  images.run(['run', name, '--', 'npm', 'view', '--fetch-retries=0', 'ws', 'version'], {
    onFailure: (said) => new Unable(`a container cannot be run here, or does not reach the registry of npm: ${said}`),
  })
}

const ask = (command: string, args: string[]): string =>
  spawnSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).stdout.trim()

function has(images: Images, id: string): boolean {
  return images.run(['images', '--quiet', '--no-trunc']).includes(id)
}

/** Lays the files of the image into a folder. */
function fill(rootfs: string, node: string, registry: string): void {
  rmSync(rootfs, { recursive: true, force: true })
  run('debootstrap', ['--variant=minbase', '--include=ca-certificates', RELEASE, rootfs, ...mirror()], 8)
  const local = join(rootfs, 'usr/local')
  run('npm', ['install', '--global', '--prefix', local, '--ignore-scripts', '--no-audit', '--no-fund', `npm@${NPM}`], 3)
  copyFileSync(node, join(local, 'bin/node'))
  // In files, not in variables, which images that are built on this one would have, too.
  mkdirSync(join(local, 'etc'), { recursive: true })
  writeFileSync(join(local, 'etc/npmrc'), `registry=${registry}\ncafile=${CERTIFICATES}\n`)
  if (existsSync(CERTIFICATES)) cpSync(CERTIFICATES, join(rootfs, CERTIFICATES), { dereference: true })
  writeFileSync(join(rootfs, 'etc/hosts'), '127.0.0.1 localhost\n::1 localhost\n')
  // The user that images with Node.js have; the id of the gateway's must not be its.
  run('chroot', [rootfs, 'groupadd', '--gid', '1000', 'node'], 1)
  run('chroot', [rootfs, 'useradd', '--uid', '1000', '--gid', 'node', '--create-home', 'node'], 1)
  for (const fetched of ['var/cache/apt/archives', 'var/lib/apt/lists'])
    rmSync(join(rootfs, fetched), { recursive: true, force: true })
}

/** Where this machine has its packages from, if it has those of the same release. */
function mirror(): string[] {
  const format = ['--format', '$(REPO_URI) $(CODENAME) $(COMPONENT)', 'Created-By: Packages']
  const sources = ask('apt-get', ['indextargets', ...format]).split('\n')
  const [uri] = sources.find((source) => source.endsWith(` ${RELEASE} main`))?.split(' ') ?? []
  return uri ? [uri] : []
}

function run(command: string, args: string[], minutes: number): void {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    encoding: 'utf8',
    timeout: minutes * 60_000,
    maxBuffer: 2 ** 26,
  })
  if (status === 0) return
  const said = `${stdout}\n${stderr}`.trim().split('\n').slice(-5).join('\n')
  throw new Unable(`${command} ended with ${status ?? error?.message}:\n${said}`)
}

/** Makes an image of a folder. Returns its id. */
function commit(images: Images, image: string, rootfs: string, version: string): string {
  const { name } = images.open('scratch')
  images.run(['add', '--quiet', name, rootfs, '/'])
  const path = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
  const settings = ['--env', `PATH=${path}`, '--env', `NODE_VERSION=${version.slice(1)}`, '--cmd', 'node']
  images.run(['config', ...settings, name])
  images.run(['commit', '--quiet', name, image])
  const ids = images.run(['images', '--quiet', '--no-trunc', image])
  return ids.replace('sha256:', '')
}

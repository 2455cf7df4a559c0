/**
 * `npm run test:image -- [--packages "curl git"]`: builds the image from the Dockerfile, looks at what is in it, and lets it do
 * its work under the conditions it will meet. With `--packages` it has these packages of Debian, too.
 *
 * It asks no registry of images: what the Dockerfile begins with is made of packages. Where a machine lacks something for that,
 * it says what is left out and why, and ends well.
 */
import { spawn, spawnSync } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { bringPackages } from '../../tools/debian.mjs'
import { leave } from '../support/leftovers.ts'
import { makeBase } from './base.ts'
import { type Images, openImages, Unable } from './buildah.ts'
import { type Checks, openChecks } from './checks.ts'
import { type Image, tryContainer } from './container.ts'
import { checkContents } from './contents.ts'

const root = fileURLToPath(new URL('../../', import.meta.url))
const cache = join(root, '.cache/image')
const TAG = 'kurultai-gateway-under-test'
const WORK_MINUTES = 12

const PACKAGES = [
  { name: 'buildah', file: '/usr/bin/buildah' },
  { name: 'debootstrap', file: '/usr/sbin/debootstrap' },
  { name: 'debian-archive-keyring', file: '/usr/share/keyrings/debian-archive-keyring.gpg' },
  { name: 'iproute2', file: '/sbin/ip' },
].map((each) => ({ ...each, suite: 'the image' }))

const { values } = parseArgs({ options: { packages: { type: 'string', default: '' } } })
const began = performance.now()
const checks = openChecks()
try {
  await testImage(checks)
} catch (error) {
  if (!(error instanceof Unable)) throw error
  console.log(`skipped: the image (${error.message})`)
}
console.log(`\nin ${Math.round((performance.now() - began) / 1000)} s`)
console.log(`${checks.passed} passed, ${checks.failed} failed`)
process.exit(checks.failed === 0 ? 0 : 1)

async function testImage(checks: Checks): Promise<void> {
  if (process.getuid?.() !== 0) throw new Unable('only root may make and run it here')
  bringPackages(PACKAGES)
  const missing = PACKAGES.filter(({ file }) => !existsSync(file)).map(({ name }) => name)
  if (missing.length > 0) throw new Unable(`without ${missing.join(', ')}`)
  const images = openImages(cache)
  const dockerfile = readFileSync(join(root, 'Dockerfile'), 'utf8')
  const base = /^ARG NODE_IMAGE=(\S+)$/m.exec(dockerfile)?.[1]
  if (base === undefined) throw new Error('the Dockerfile does not say what it begins with')
  makeBase(images, `docker.io/library/${base}`, cache)
  console.log(`the base image is there after ${Math.round((performance.now() - began) / 1000)} s`)

  const canary = randomUUID()
  await checks.check('the Dockerfile builds', () => build(images, canary))
  if (checks.failed > 0) return
  const { rootfs } = images.open(TAG)
  const settings = images.settings(TAG)
  const description = images.run(['inspect', '--type', 'image', TAG])
  const under = images.open(base)
  await checkContents(
    { rootfs, base: under.rootfs, settings, description, canary, isPlain: values.packages === '' },
    checks,
  )
  await atWork({ rootfs, settings }, checks)
}

/** Builds a copy of this checkout in which everything that is no part of the gateway holds a canary. */
function build(images: Images, canary: string): void {
  const context = mkdtempSync(join(tmpdir(), 'kurultai-context-'))
  leave(() => rmSync(context, { recursive: true, force: true }))
  const left = new Set(['.git', '.cache', '.state', 'node_modules', 'dist', 'coverage'])
  cpSync(root, context, { recursive: true, filter: (path) => !left.has(relative(root, path)) })
  for (const file of [
    '.git/config',
    '.state/gateway-token',
    'node_modules/ws/index.js',
    'dist/left.js',
    '.env',
    'src/.env',
  ]) {
    mkdirSync(dirname(join(context, file)), { recursive: true })
    writeFileSync(join(context, file), canary)
  }
  appendFileSync(join(context, '.npmrc'), `\n//registry.invalid/:_authToken=${canary}\n`)
  const added = ['--build-arg', `PACKAGES=${values.packages}`]
  // Health checks exist in Docker's format only.
  const fresh = ['--format', 'docker', '--pull-never', '--no-cache']
  images.run(['build', ...fresh, ...added, '--tag', TAG, context], { minutes: 10 })
  leave(() => images.run(['rmi', '--force', TAG]))
}

/** Lets it run in a network of its own, which leads nowhere. There its port is free whatever else runs here. */
async function atWork(image: Image, checks: Checks): Promise<void> {
  await tryContainer(image)
  const alone = ['--net', 'sh', '-c', 'ip link set lo up && ip address add 10.11.12.13/32 dev lo && exec "$@"', 'sh']
  if (spawnSync('unshare', [...alone, 'true']).status !== 0)
    throw new Unable('at work: a network of its own cannot be made here')
  const worker = fileURLToPath(new URL('work.ts', import.meta.url))
  const child = spawn('unshare', [...alone, process.execPath, '--disable-warning=ExperimentalWarning', worker], {
    stdio: ['pipe', 'inherit', 'inherit', 'ipc'],
    timeout: WORK_MINUTES * 60_000,
  })
  child.stdin!.end(JSON.stringify(image))
  let counted: Pick<Checks, 'passed' | 'failed'> | undefined
  child.on('message', (message) => {
    counted = message as Pick<Checks, 'passed' | 'failed'>
  })
  const status = await new Promise((resolve) => child.on('exit', (code, signal) => resolve(code ?? signal)))
  checks.passed += counted?.passed ?? 0
  checks.failed += counted?.failed ?? 0
  await checks.check('the image was watched at work to the end', () => {
    if (counted === undefined) throw new Error(`it was not: ${status}`)
  })
}

// Runs the tests: brings what they need where it may, checks types and style, and closes with "N passed, N failed".
import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { bringPackages } from './debian.mjs'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const launcher = join(root, 'tools/node/with-node.mjs')
const report = join(root, '.cache/vitest.json')
const args = process.argv.slice(2)

/** Debian packages that some suites need: the file that shows a package is there, and what is skipped without it. */
const PACKAGES = [
  { name: 'openssl', file: '/usr/bin/openssl', suite: 'TLS' },
  { name: 'strace', file: '/usr/bin/strace', suite: 'the order of system calls, power cuts, failing disks' },
  {
    name: 'python3-websockets',
    file: '/usr/lib/python3/dist-packages/websockets/__init__.py',
    suite: 'the Python script of the documented wire, the health tests of Kurultai',
  },
  { name: 'caddy', file: '/usr/bin/caddy', suite: 'the proxy of Kurultai' },
  {
    name: 'python3-websocket',
    file: '/usr/lib/python3/dist-packages/websocket/__init__.py',
    suite: 'the monitor of Kurultai',
  },
  {
    name: 'python3-aiohttp',
    file: '/usr/lib/python3/dist-packages/aiohttp/__init__.py',
    suite: 'the health tests and the delegation client of Kurultai',
  },
  { name: 'python3-yaml', file: '/usr/lib/python3/dist-packages/yaml/__init__.py', suite: 'the compose file' },
]

const run = (command, rest, options = {}) =>
  spawnSync(command, rest, { cwd: root, stdio: 'inherit', ...options }).status === 0

bringPackages(PACKAGES)

let passed = 0
let failed = 0
const check = (name, ok) => {
  ok ? passed++ : failed++
  if (!ok) console.log(`FAILED: ${name}`)
}

if (args.length === 0) {
  check('npm run typecheck', run('npx', ['tsc', '-p', '.']))
  check('npm run lint', run('npx', ['biome', 'check', '.']))
  check('every platform package is in the lock file', run('node', ['tools/check-lock.mjs']))
  check('npm run build', run('node', ['tools/build.mjs']))
}
mkdirSync(dirname(report), { recursive: true })
rmSync(report, { force: true })
const green = run('node', [
  launcher,
  'vitest',
  'run',
  '--reporter=default',
  '--reporter=json',
  `--outputFile.json=${report}`,
  ...args,
])
try {
  const { numPassedTests, numFailedTests, numFailedTestSuites } = JSON.parse(readFileSync(report, 'utf8'))
  passed += numPassedTests
  // A file that could not even be loaded has no failed test, but has failed.
  failed += Math.max(numFailedTests, numFailedTestSuites > 0 && numFailedTests === 0 ? numFailedTestSuites : 0)
} catch {
  failed++
}
if (!green && failed === 0) failed++
console.log(`\n${passed} passed, ${failed} failed`)
process.exit(failed === 0 ? 0 : 1)

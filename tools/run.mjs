// Runs the command line of this checkout: builds it if it is stale, and keeps everything in .state/ unless told otherwise.
import { spawn } from 'node:child_process'
import { constants } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build, stale } from './build.mjs'
import { forwardSignals, pinnedNode, supported, tooOld } from './node/find-node.mjs'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const node = supported() ? process.execPath : pinnedNode()
if (!node) {
  console.error(tooOld)
  process.exit(1)
}
if (stale()) {
  console.error('Building (once after each change) …')
  await build()
}
const child = spawn(node, ['--disable-proto=throw', join(root, 'dist/index.js'), ...process.argv.slice(2)], {
  stdio: 'inherit',
  env: { ...process.env, OPENCLAW_STATE_DIR: process.env.OPENCLAW_STATE_DIR || join(root, '.state') },
})
forwardSignals(child)
child.on('exit', (code, signal) => process.exit(signal ? 128 + constants.signals[signal] : (code ?? 1)))

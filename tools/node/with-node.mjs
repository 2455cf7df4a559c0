// Runs `node ARGS`, or a package's command under node, with a Node.js that is new enough:
//   node tools/node/with-node.mjs [--node-option ...] file.ts ARGS
//   node tools/node/with-node.mjs vitest run
import { spawn } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { constants } from 'node:os'
import { delimiter, dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { forwardSignals, pinnedNode, supported, tooOld } from './find-node.mjs'

const root = resolve(dirname(fileURLToPath(import.meta.url)), '../..')
const node = supported() ? process.execPath : pinnedNode()
if (!node) {
  console.error(tooOld)
  process.exit(1)
}

/** The script behind a package's command, or undefined if no installed package of that name has one. */
function packageCommand(name) {
  const manifest = join(root, 'node_modules', name, 'package.json')
  if (!/^[a-z@]/.test(name) || !existsSync(manifest)) return undefined
  const { bin } = JSON.parse(readFileSync(manifest, 'utf8'))
  const script = typeof bin === 'string' ? bin : (bin?.[name] ?? Object.values(bin ?? {})[0])
  return script && join(root, 'node_modules', name, script)
}

const args = process.argv.slice(2)
const at = args.findIndex((arg) => !arg.startsWith('-'))
const command = at >= 0 ? packageCommand(args[at]) : undefined
if (command) args[at] = command

const child = spawn(node, args, {
  stdio: 'inherit',
  env: { ...process.env, PATH: `${dirname(node)}${delimiter}${process.env.PATH ?? ''}` },
})
forwardSignals(child)
child.on('exit', (code, signal) => process.exit(signal ? 128 + constants.signals[signal] : (code ?? 1)))

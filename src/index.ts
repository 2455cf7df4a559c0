#!/usr/bin/env -S node --disable-proto=throw
/** The process: finds a Node.js that is new enough, then runs the command line. Everything else is loaded after that. */
import { spawn } from 'node:child_process'
import { constants } from 'node:os'
import { join } from 'node:path'
import { forwardSignals, pinnedNode, supported, tooOld } from '../tools/node/find-node.mjs'

if (supported()) {
  // What V8 made of the built files is kept beside them: a tenth of the CPU of every further start. Where nothing may be written,
  // nothing happens.
  if (import.meta.url.endsWith('.js'))
    process.getBuiltinModule('node:module').enableCompileCache(join(import.meta.dirname, '.cache'))
  const { main } = await import('./cli/program.ts')
  await main(process.argv)
} else {
  const node = pinnedNode(import.meta.url)
  if (node === undefined) {
    console.error(tooOld)
    process.exitCode = 1
  } else {
    const child = spawn(node, ['--disable-proto=throw', ...process.argv.slice(1)], { stdio: 'inherit' })
    forwardSignals(child)
    child.on('exit', (code, signal) => process.exit(signal ? 128 + constants.signals[signal] : (code ?? 1)))
  }
}

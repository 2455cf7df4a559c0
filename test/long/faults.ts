/** Faults that are planted in a copy of the project, one at a time: for each guarantee there is a test that notices. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { leave } from '../support/leftovers.ts'
import { FAULTS, type Fault } from './planted.ts'
import { random, type Suite } from './suite.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
/** What a copy consists of; the rest is not needed to run a test. */
const COPIED = ['machines', 'src', 'test', 'tools', 'package.json', 'tsconfig.json', 'vitest.config.ts', 'README.md']

/** Puts a fault in place. @throws Error when what it replaces is not there exactly once: then the fault is out of date */
function plant(folder: string, { file, from, to }: Fault): () => void {
  const path = join(folder, file)
  const sound = readFileSync(path, 'utf8')
  const places = sound.split(from).length - 1
  if (places !== 1) throw new Error(`${file} has ${places} places that read:\n${from}`)
  writeFileSync(
    path,
    sound.replace(from, () => to),
  )
  return () => writeFileSync(path, sound)
}

/** Runs tests of a copy. Resolves to how many failed and how many passed. */
async function runTests(folder: string, tests: string[], name?: string): Promise<{ failed: number; passed: number }> {
  const report = join(folder, 'report.json')
  rmSync(report, { force: true })
  const args = [
    'node_modules/vitest/vitest.mjs',
    'run',
    '--reporter=json',
    `--outputFile=${report}`,
    '--bail=1',
    ...tests,
  ]
  const child = spawn(process.execPath, [...args, ...(name ? ['-t', name] : [])], {
    cwd: folder,
    stdio: 'ignore',
  })
  const gone = leave(() => child.kill('SIGKILL'))
  await once(child, 'close')
  gone()
  const { numFailedTests, numPassedTests } = JSON.parse(readFileSync(report, 'utf8')) as {
    numFailedTests: number
    numPassedTests: number
  }
  return { failed: numFailedTests, passed: numPassedTests }
}

export const faults: Suite = {
  summary: 'a fault is planted for each guarantee, and the test that is there for it notices',
  few: 2,
  many: FAULTS.length,
  async run({ rounds, seed, say }) {
    const folder = mkdtempSync(join(tmpdir(), 'faults-'))
    const gone = leave(() => rmSync(folder, { recursive: true, force: true }))
    const broken: string[] = []
    let noticed = 0
    try {
      for (const name of COPIED) cpSync(join(root, name), join(folder, name), { recursive: true })
      symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
      const next = random(seed)
      const chosen = FAULTS.map((fault) => ({ fault, lot: next() }))
        .sort((a, b) => a.lot - b.lot)
        .slice(0, rounds)
      for (const { fault } of chosen) {
        const { guarantee, what, tests, name } = fault
        const sound = await runTests(folder, tests, name)
        if (sound.failed > 0 || sound.passed === 0)
          broken.push(`${guarantee}, ${what}: without the fault ${sound.failed} tests fail and ${sound.passed} pass`)
        const mend = plant(folder, fault)
        const { failed, passed } = await runTests(folder, tests, name)
        mend()
        if (failed > 0) noticed += 1
        else if (passed === 0) broken.push(`${guarantee}: no test runs at all when ${what}`)
        else broken.push(`${guarantee}: nothing in ${tests.join(', ')} notices when ${what}`)
        say(`${guarantee}: ${what}: ${failed > 0 ? 'noticed' : 'NOT NOTICED'}`)
      }
    } finally {
      rmSync(folder, { recursive: true, force: true })
      gone()
    }
    return { counts: { planted: Math.min(rounds, FAULTS.length), noticed }, broken }
  },
}

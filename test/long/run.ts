/** `npm run test:long -- [suite…] [--rounds n] [--seed n]`: goes the rounds of each suite, and prints what was counted. */
import { parseArgs } from 'node:util'
import { suites } from './suites.ts'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { rounds: { type: 'string' }, seed: { type: 'string' } },
})
const names = positionals.length > 0 ? positionals : Object.keys(suites)
const unknown = names.filter((name) => !suites[name])
if (unknown.length > 0) {
  console.error(`no such suite: ${unknown.join(', ')}; there are ${Object.keys(suites).join(', ')}`)
  process.exit(64)
}

let failed = 0
for (const name of names) {
  const suite = suites[name]!
  const rounds = Number(values.rounds ?? suite.many)
  const seed = Number(values.seed ?? Date.now() % 2 ** 32)
  console.log(`${name}: ${suite.summary}\n  ${rounds} rounds, seed ${seed}`)
  const began = performance.now()
  const { counts, broken } = await suite.run({ rounds, seed, say: (line) => console.log(`  … ${line}`) })
  for (const [what, count] of Object.entries(counts)) console.log(`  ${what}: ${count}`)
  for (const sentence of broken) console.log(`  BROKEN: ${sentence}`)
  console.log(`  ${broken.length === 0 ? 'kept' : 'BROKEN'} in ${Math.round((performance.now() - began) / 1000)} s\n`)
  if (broken.length > 0) failed += 1
}
console.log(`${names.length - failed} passed, ${failed} failed`)
process.exit(failed === 0 ? 0 : 1)

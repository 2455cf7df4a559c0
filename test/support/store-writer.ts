/**
 * A process that accepts turns without end and says so: one line with the run id after each acknowledgment. It is meant
 * to be killed. Arguments: the file, a name for its turns. Prints `refused <reason>` when the file cannot be opened.
 */
import { writeSync } from 'node:fs'
import { OpenRefused, openSqliteStore } from '../../src/stores/sqlite.ts'
import { turn } from './turn.ts'

const [path = '', name = ''] = process.argv.slice(2)
const lanes = 8

const refused = (error: unknown): never => {
  writeSync(1, `refused ${error instanceof OpenRefused ? error.reason : String(error)}\n`)
  process.exit(1)
}

const store = await openSqliteStore({ path }).catch(refused)

const write = async (lane: number): Promise<never> => {
  for (let n = 0; ; n += 1) {
    const answer = await store.accept(turn(`${name}-${lane}-${n}`))
    if (answer.kind === 'accepted') writeSync(1, `${answer.runId}\n`)
  }
}

await Promise.all(Array.from({ length: lanes }, (_, lane) => write(lane)))

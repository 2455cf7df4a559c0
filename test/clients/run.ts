/**
 * `npm run test:clients -- [name…] [--write]`: installs other people's clients, lets each do its work with this gateway, and
 * prints a table of how it went. `--write` puts the table into the README, where `npm test` looks for it.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { bringPackages } from '../../tools/debian.mjs'
import type { Client, Session } from './client.ts'
import { CLIENTS } from './clients.ts'
import { putTable, type Row, tableOf } from './table.ts'

const { values, positionals } = parseArgs({ allowPositionals: true, options: { write: { type: 'boolean' } } })
const wanted = CLIENTS.filter(({ name, version }) =>
  positionals.length === 0 ? true : positionals.some((part) => `${name} ${version}`.includes(part)),
)
if (wanted.length === 0) {
  console.error(`no such client; there are ${CLIENTS.map(({ name, version }) => `"${name} ${version}"`).join(', ')}`)
  process.exit(64)
}
bringPackages(wanted.flatMap(({ name, needs = [] }) => needs.map((each) => ({ ...each, suite: name }))))

const rows: Row[] = []
let failed = 0
let passed = 0
for (const client of wanted) {
  if (client.needs?.some(({ file }) => !existsSync(file))) continue
  console.log(`${client.name} ${client.version}`)
  const began = performance.now()
  const commands = await tryCommands(client)
  const good = commands.filter(({ ok }) => ok)
  passed += good.length
  failed += commands.length - good.length
  rows.push({ client, commands })
  console.log(`  ${Math.round((performance.now() - began) / 1000)} s\n`)
}

const table = tableOf(rows)
console.log(table)
const readme = fileURLToPath(new URL('../../README.md', import.meta.url))
if (values.write) {
  if (failed > 0 || rows.length < CLIENTS.length) {
    console.error('the README is left as it is: it shows all clients, and all of them at work')
    process.exit(1)
  }
  writeFileSync(readme, putTable(readFileSync(readme, 'utf8'), table))
}
console.log(`\n${passed} passed, ${failed} failed`)
process.exit(failed === 0 ? 0 : 1)

async function tryCommands(client: Client): Promise<Row['commands']> {
  const done: Row['commands'] = []
  const say = (name: string, error?: unknown) => {
    done.push({ name, ok: error === undefined })
    console.log(`  ${error === undefined ? 'ok    ' : 'FAILED'} ${name}`)
    if (error !== undefined)
      console.log(String(error instanceof Error ? error.message : error).replace(/^/gm, '         '))
  }
  let session: Session | undefined
  try {
    session = await client.open()
    for (const { name, run } of session.commands) {
      await run().then(
        () => say(name),
        (error: unknown) => say(name, error),
      )
    }
  } catch (error) {
    say('install and start', error)
  } finally {
    await session?.close()
  }
  return done
}

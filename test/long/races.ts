/** Many who want the same state folder at once, again and again after `kill -9`: there is one writer, never two and never none. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { openSqliteStore } from '../../src/stores/sqlite.ts'
import { spawnProcess } from '../support/gateway-process.ts'
import { leave } from '../support/leftovers.ts'
import { turn } from '../support/turn.ts'
import { GATEWAY, type Ground, onGround, wait } from './ground.ts'
import { openLine } from './line.ts'
import { type Rounds, random, type Suite } from './suite.ts'
import { createTally, type Tally } from './tally.ts'

const WRITER = fileURLToPath(new URL('../support/store-writer.ts', import.meta.url))
const WRITERS = 5
const GATEWAYS = 3
/** One race in so many is one of whole gateways. */
const GATEWAYS_EVERY = 3
/** Races on one folder, so that every winner but the first takes over from one that was killed. */
const RACES_A_FOLDER = 25
const PATIENCE_MS = 30_000
const BREACHES = ['two writers', 'no writer', 'refused in another way', 'lost', 'damaged files']

/** A process that wants the file. Its first line says whether it has it; the others what it acknowledged. */
function startWriter(path: string, name: string) {
  const child: ChildProcess = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', WRITER, path, name], {
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  const gone = leave(() => child.kill('SIGKILL'))
  const said: string[] = []
  const first = Promise.withResolvers<string>()
  const lines = createInterface({ input: child.stdout! })
  lines.on('line', (line) => {
    said.push(line)
    first.resolve(line)
  })
  const ended = once(lines, 'close').then(() => {
    gone()
    first.resolve('ended')
  })
  return { said, first: first.promise, ended, kill: () => child.kill('SIGKILL') }
}

async function raceWriters(
  path: string,
  race: number,
  roll: () => number,
  tally: Tally,
  where: string,
): Promise<string[]> {
  const writers = Array.from({ length: WRITERS }, (_, n) => startWriter(path, `${race}-${n}`))
  try {
    await Promise.race([Promise.all(writers.map(({ first }) => first)), wait(PATIENCE_MS)])
    await wait(roll() * 100)
  } finally {
    for (const { kill } of writers) kill()
    await Promise.all(writers.map(({ ended }) => ended))
  }
  const winners = writers.filter(({ said }) => said.some((line) => line.startsWith('run-')))
  if (winners.length > 1) tally.breach('two writers', `${winners.length} of ${WRITERS} wrote ${where}`)
  if (winners.length === 0)
    tally.breach('no writer', `${writers.map(({ said }) => said[0] ?? 'nothing').join(', ')} ${where}`)
  for (const { said } of writers)
    if (said[0] && !said[0].startsWith('run-') && said[0] !== 'refused locked')
      tally.breach('refused in another way', `${said[0]} ${where}`)
  tally.add('races of writers')
  return winners.flatMap(({ said }) => said.map((line) => line.slice('run-'.length)))
}

async function raceGateways({ folder, babbler }: Ground, race: number, tally: Tally, where: string): Promise<string[]> {
  const gateways = Array.from({ length: GATEWAYS }, () => spawnProcess(folder, babbler.url, GATEWAY))
  const acked: string[] = []
  try {
    const outcomes = await Promise.allSettled(gateways.map(({ running }) => running))
    const winners = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []))
    if (winners.length !== 1)
      tally.breach(
        winners.length > 1 ? 'two writers' : 'no writer',
        `${winners.length} of ${GATEWAYS} gateways run ${where}`,
      )
    for (const [n, outcome] of outcomes.entries()) {
      if (outcome.status === 'fulfilled') continue
      const { code } = await gateways[n]!.exited
      if (code !== 70 || !String(outcome.reason).includes('another gateway uses this folder'))
        tally.breach('refused in another way', `${code}: ${outcome.reason} ${where}`)
    }
    for (const winner of winners) {
      const line = await openLine(winner.url, { protocol: 4, onEvent() {}, onGap() {} })
      const key = `gateway-${race}`
      const answer = await line.ask('chat.send', { sessionKey: 'main', message: `${key} hello`, idempotencyKey: key })
      if (answer?.['ok']) acked.push(key)
      line.cut()
    }
  } finally {
    await Promise.all(gateways.map(({ kill }) => kill()))
  }
  tally.add('races of gateways')
  return acked
}

export const races: Suite = {
  summary: 'of many who want one state folder at once, one has it, also right after the last one was killed',
  few: 1,
  many: 500,
  async run({ rounds, seed, say }: Rounds) {
    const tally = createTally(['races of writers', 'races of gateways', 'acknowledged turns', ...BREACHES])
    const roll = random(seed)
    for (let first = 0; first < rounds; first += RACES_A_FOLDER) {
      await onGround('races', async (ground) => {
        const { folder } = ground
        const path = join(folder, 'kurultai.sqlite')
        mkdirSync(folder, { recursive: true })
        const names: string[] = []
        const keys: string[] = []
        for (let race = first; race < Math.min(rounds, first + RACES_A_FOLDER); race += 1) {
          const where = `(race ${race}, seed ${seed})`
          if (race % GATEWAYS_EVERY === GATEWAYS_EVERY - 1)
            keys.push(...(await raceGateways(ground, race, tally, where)))
          else names.push(...(await raceWriters(path, race, roll, tally, where)))
          if (race % 25 === 24) say(`${race + 1} races, ${tally.broken.length} broken`)
        }
        const store = await openSqliteStore({ path })
        try {
          for (const problem of await store.verify()) tally.breach('damaged files', problem)
          if (store.incident) tally.breach('damaged files', store.incident.reason)
          for (const runId of [...names.map((name) => turn(name).runId), ...keys])
            if (!(await store.run(runId))) tally.breach('lost', `${runId} (seed ${seed})`)
          tally.add('acknowledged turns', names.length + keys.length)
        } finally {
          await store.close()
        }
      })
    }
    return tally
  },
}

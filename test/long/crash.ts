/** `kill -9` of the gateway under load, over and over, at any moment and at chosen ones: what was acknowledged is kept. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { type GatewayProcess, spawnProcess } from '../support/gateway-process.ts'
import { GATEWAY, inStints, type Stint, wait } from './ground.ts'
import type { Line } from './line.ts'
import { problemsOfBackup, readRecords } from './records.ts'
import { type Rounds, random, type Suite } from './suite.ts'
import { createTally, type Tally } from './tally.ts'
import { BREACHES, createWitness, type Sight, type Witness } from './witness.ts'

/** When a process is ended. `moment`: at any; `late`: in the middle of a long answer; `start`: before it serves; `recovery`: when it asks a model before it serves. */
type Point = 'moment' | 'late' | Sight | 'backup' | 'start' | 'recovery'

const POINTS: Point[] = [
  'moment',
  'moment',
  'late',
  'late',
  'ack',
  'delta',
  'final',
  'abort',
  'backup',
  'start',
  'recovery',
]
/** A process that is to be ended at a moment that does not come is ended after so many ms. */
const PATIENCE_MS = 4_000
/** Kills that one state folder lives through: what is in it stays small enough to be read after each. */
const KILLS_A_FOLDER = 25
const LINES = 4
const SESSIONS = 5
const LONG = { pieces: 1200, longest: 40, gap: 4 }

const HASTY = new URL('../support/hasty-backups.ts', import.meta.url).href

export const crash: Suite = {
  summary:
    'kill -9 under load and at named points loses no acknowledged turn, doubles none, and leaves none without an end',
  few: 3,
  many: 1000,
  async run(how) {
    const tally = createTally([
      'cycles',
      'acknowledged turns',
      'acknowledged aborts',
      'repeats of ended keys',
      ...BREACHES,
      'starts that failed',
    ])
    await inStints('crash', { rounds: how.rounds, each: KILLS_A_FOLDER }, (stint) => liveThrough(stint, tally, how))
    return tally
  },
}

/** Cycles on one folder: ask what became of the last load, put on another, kill, read the file. */
async function liveThrough({ folder, babbler, first, last }: Stint, tally: Tally, how: Rounds): Promise<void> {
  const roll = random(how.seed + first)
  let cycle = first
  let point: Point = 'moment'
  const where = () => `in cycle ${cycle} (${point}; seed ${how.seed})`
  const witness = createWitness({ random: roll, tally, where })
  let asked = 0
  let running: Pick<GatewayProcess, 'kill'> | undefined

  /** Ends a process, and compares what it leaves with what was said. */
  async function kill(): Promise<void> {
    witness.killed()
    await running?.kill()
    running = undefined
    tally.add('cycles')
    if (existsSync(copyOf(folder))) tally.add('killed while a backup was made')
    else if (point === 'backup') tally.add('killed between two backups')
    tally.add(`killed at: ${point}`)
    // What was sent to the model before the end may still be on its way to it.
    await wait(5)
    witness.compare(readRecords(folder), babbler.asked)
  }

  /** A process that is ended before it serves. */
  async function killStarting(): Promise<void> {
    const starting = spawnProcess(folder, babbler.url, GATEWAY)
    running = starting
    const due = Promise.withResolvers<void>()
    if (point === 'recovery') babbler.onAsked = () => due.resolve()
    await Promise.race([
      due.promise,
      point === 'start' ? wait(150 + roll() * 500) : starting.running.then(() => wait(roll() * 50)),
    ])
    babbler.onAsked = () => {}
    await kill()
  }

  /** A process that serves, and has answered for what was sent to the ones before. Undefined: it did not come up. */
  async function start(): Promise<Line[] | undefined> {
    const preload = point === 'backup' ? [HASTY] : []
    const starting = spawnProcess(folder, babbler.url, { ...GATEWAY, preload })
    running = starting
    const gateway = await starting.running.catch((error: Error) =>
      tally.breach('starts that failed', `${error.message} ${where()}`),
    )
    if (!gateway) return undefined
    const lines = await witness.come(gateway.url, LINES)
    const since = [...witness.turns.values()].slice(asked)
    asked += since.length
    await witness.question(lines[0]!, since)
    return lines
  }

  try {
    while (cycle < last) {
      cycle += 1
      point = POINTS[Math.floor(roll() * POINTS.length)]!
      if (point === 'start' || point === 'recovery') await killStarting()
      else {
        const lines = await start()
        if (!lines) return
        await load(witness, lines, roll, untilMoment(point, folder, witness, roll), () => running!.kill())
        await kill()
      }
      if (cycle % 20 === 0) how.say(`${cycle} cycles, ${tally.counts['acknowledged turns']} turns acknowledged`)
    }
    await start()
    witness.killed()
    await running!.kill()
    witness.compare(readRecords(folder), babbler.asked)
    for (const problem of problemsOfBackup(folder)) tally.breach('damaged files', `the backup: ${problem} ${where()}`)
  } finally {
    await running?.kill()
  }
}

/** Resolves when it is time to kill. */
async function untilMoment(point: Point, folder: string, witness: Witness, roll: () => number): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>()
  const patience = setTimeout(resolve, PATIENCE_MS)
  let nth = 1 + Math.floor(roll() * 25)
  witness.onSight = (sight) => {
    if (sight === point && --nth === 0) resolve()
  }
  if (point === 'moment') setTimeout(resolve, roll() * 700)
  if (point === 'late') setTimeout(resolve, 1500 + roll() * 1000)
  if (point === 'backup') void untilBackup(folder).then(() => setTimeout(resolve, roll() * 60))
  await promise
  clearTimeout(patience)
  witness.onSight = () => {}
}

/** Resolves when the copy of a backup is being made. */
async function untilBackup(folder: string): Promise<void> {
  const end = performance.now() + PATIENCE_MS
  await wait(200)
  while (!existsSync(copyOf(folder)) && performance.now() < end) await wait(1)
}

/** The copy that a backup makes, before it takes the place of the last one. */
const copyOf = (folder: string): string => join(folder, 'backups', 'kurultai.sqlite.new')

/** Sends on every line until it is time, then ends the process, with no turn of the loop in between. */
async function load(
  witness: Witness,
  lines: Line[],
  roll: () => number,
  moment: Promise<void>,
  end: () => Promise<void>,
): Promise<void> {
  const sessions = Array.from({ length: SESSIONS }, (_, n) => `agent:main:s${n}`)
  let isOver = false
  const talk = async (line: Line) => {
    for (let acts = 0; acts < 9 && !isOver; acts++) {
      void witness.act(line, sessions)
      await wait(roll() * 60)
    }
  }
  // One is in the middle of its answer when the end comes.
  const seed = Math.floor(roll() * 1e9)
  void witness.send(lines[0]!, witness.turn('agent:main:long', 'chat.send', { seed, ...LONG }))
  const talks = lines.map(talk)
  await moment
  witness.killed()
  const ended = end()
  isOver = true
  await Promise.all([ended, ...talks])
  await Promise.all(lines.map(({ closed }) => closed))
}

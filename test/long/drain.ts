/** SIGTERM under load: what was acknowledged ends before the exit, or after the next start; nothing new is begun. */
import { type GatewayProcess, startProcess } from '../support/gateway-process.ts'
import { GATEWAY, inStints, type Stint, someSpeech, wait } from './ground.ts'
import { type Line, openLine } from './line.ts'
import { readRecords } from './records.ts'
import { type Rounds, random, type Suite } from './suite.ts'
import { createTally, type Tally } from './tally.ts'
import { BREACHES, createWitness, type Turn, type Witness } from './witness.ts'

/**
 * `ends`: every run ends by itself. `again`: one does not, and a second SIGTERM cuts it off. `budget`: one does not, and is cut
 * off when the gateway's time is over.
 */
type Kind = 'ends' | 'again' | 'budget'

const DRAINS_A_FOLDER = 25
/** One drain in so many takes all the time there is. */
const DRAINS_A_BUDGET = 6
/** How long runs may go on, in seconds: where they end by themselves, and where one never does. */
const DRAIN_SECONDS = { ends: 60, again: 60, budget: 3 }
const LINES = 4
const SESSIONS = 6
/** That and what closing may take, in ms, with room for a busy machine. */
const MOST_MS = { ends: 90_000, again: 30_000, budget: 33_000 }
const ENDLESS = { pieces: 40_000, longest: 4, gap: 10 }

export const drain: Suite = {
  summary: 'SIGTERM under load loses no acknowledged turn, begins no new one, says so to everybody, and exits with 0',
  few: 2,
  many: 500,
  async run(how) {
    const tally = createTally([
      'drains',
      'acknowledged turns',
      'ended before the exit',
      'ended by the next process',
      'sockets closed with 1012',
      'sends refused as DRAINING',
      'upgrades refused with 503',
      ...BREACHES,
      ...DRAIN_BREACHES,
    ])
    await inStints('drain', { rounds: how.rounds, each: DRAINS_A_FOLDER }, (stint) => drainOften(stint, tally, how))
    return tally
  },
}

const DRAIN_BREACHES = [
  'cut off though there was time',
  'ends not told before the close',
  'taken while stopping',
  'closed in another way',
  'shutdown not announced',
  'ready while stopping',
  'wrong exits',
]

async function drainOften({ folder, babbler, first, last }: Stint, tally: Tally, how: Rounds): Promise<void> {
  const roll = random(how.seed + first)
  let round = first
  let kind: Kind = 'ends'
  const where = () => `in drain ${round} (${kind}; seed ${how.seed})`
  const witness = createWitness({ random: roll, tally, where })
  let running: GatewayProcess | undefined
  let asked = 0

  /** A process that has answered for what was sent to the ones before. */
  async function start(): Promise<Line[]> {
    const gateway = { ...GATEWAY.gateway, drainSeconds: DRAIN_SECONDS[kind] }
    running = await startProcess(folder, babbler.url, { ...GATEWAY, gateway })
    const lines = await witness.come(running.url, LINES)
    const since = [...witness.turns.values()].slice(asked)
    asked += since.length
    await witness.question(lines[0]!, since)
    return lines
  }

  try {
    while (round < last) {
      round += 1
      kind = round % DRAINS_A_BUDGET === DRAINS_A_BUDGET / 2 ? 'budget' : roll() < 0.3 || round === 2 ? 'again' : 'ends'
      const lines = await start()
      await drainOnce({ kind, witness, lines, gateway: running!, tally, roll, where })
      const records = readRecords(folder)
      witness.compare(records, babbler.asked)
      const ended = new Set(records.runs.filter(({ endedAt }) => endedAt !== undefined).map(({ key }) => key))
      for (const turn of [...witness.turns.values()].slice(asked)) {
        if (!turn.acked) continue
        tally.add(ended.has(turn.key) ? 'ended before the exit' : 'ended by the next process')
        if (!ended.has(turn.key) && kind === 'ends')
          tally.breach('cut off though there was time', `${turn.key} ${where()}`)
        // An end that was on its way to the disk when all was cut off is kept, and nobody hears of it before the next start.
        if (ended.has(turn.key) && turn.told.size === 0 && kind === 'ends')
          tally.breach('ends not told before the close', `${turn.key} ${where()}`)
      }
      if (round % 10 === 0) how.say(`${round} drains, ${tally.counts['acknowledged turns']} turns acknowledged`)
    }
    // What was left last ends as well.
    await start()
    await running!.kill()
    witness.compare(readRecords(folder), babbler.asked)
  } finally {
    await running?.kill()
  }
}

interface Drain {
  kind: Kind
  witness: Witness
  lines: Line[]
  gateway: GatewayProcess
  tally: Tally
  roll(): number
  where(): string
}

async function drainOnce({ kind, witness, lines, gateway, tally, roll, where }: Drain): Promise<void> {
  const sessions = Array.from({ length: SESSIONS }, (_, n) => `agent:main:s${n}`)
  const [firstLine] = lines
  if (kind !== 'ends') {
    const seed = Math.floor(roll() * 1e9)
    await witness.send(firstLine!, witness.turn('agent:main:endless', 'chat.send', { seed, ...ENDLESS }))
  }
  let isStopping = false
  let isLoaded = false
  const announced = Promise.withResolvers<void>()
  let announcements = 0
  witness.onSight = (sight) => {
    if (sight !== 'shutdown') return
    isStopping = true
    announcements += 1
    announced.resolve()
  }
  const talks = lines.map(async (line) => {
    for (let acts = 0; acts < 8 && !isLoaded; acts++) {
      void witness.act(line, sessions)
      await wait(roll() * 50)
    }
  })
  await wait(roll() * 500)
  const began = performance.now()
  gateway.terminate()
  isLoaded = true
  const isOver = wait(MOST_MS[kind]).then(() => undefined)
  await Promise.race([announced.promise, gateway.exited])
  const late = lines.map(async (line) => {
    for (let sends = 0; sends < 3 && isStopping; sends++) {
      await sendLate(line, witness.turn(sessions[sends]!, 'chat.send', someSpeech(roll)), tally, where)
      await wait(roll() * 30)
    }
  })
  await knock(gateway.url, tally, where)
  let again = began
  if (kind === 'again') {
    await wait(roll() * 300)
    again = performance.now()
    gateway.terminate()
  }
  const exit = await Promise.race([gateway.exited, isOver])
  tally.add('drains')
  if (!exit) {
    tally.breach('wrong exits', `none within ${MOST_MS[kind]} ms ${where()}`)
    await gateway.kill()
  } else if (exit.code !== 0) tally.breach('wrong exits', `${JSON.stringify(exit)} ${where()}`)
  tally.most(`ms from the last SIGTERM to the exit at most (${kind})`, performance.now() - again)
  await Promise.all([...talks, ...late])
  for (const { closed } of lines) {
    const { code, reason } = await closed
    if (code === 1012) tally.add('sockets closed with 1012')
    else tally.breach('closed in another way', `${code} ${reason} ${where()}`)
  }
  if (announcements !== lines.length)
    tally.breach('shutdown not announced', `${announcements} of ${lines.length} were told ${where()}`)
  witness.onSight = () => {}
}

/** A new turn, sent after the announcement: it is refused, and may be sent again later. */
async function sendLate(line: Line, turn: Turn, tally: Tally, where: () => string): Promise<void> {
  const { key, sessionKey, message } = turn
  const answer = await line.ask('chat.send', { sessionKey, message, idempotencyKey: key })
  if (!answer) return
  const { ok, error } = answer
  if (!ok && error.code === 'UNAVAILABLE' && error.retryable && error.details.code === 'DRAINING')
    return tally.add('sends refused as DRAINING')
  tally.breach('taken while stopping', `${JSON.stringify(answer)} ${where()}`)
}

/** Somebody new comes while it stops: it is not ready, and takes nobody. */
async function knock(url: string, tally: Tally, where: () => string): Promise<void> {
  const readiness = await fetch(new URL('/readyz', url.replace('ws', 'http'))).then(
    ({ status }) => status,
    () => undefined,
  )
  if (readiness === 200) tally.breach('ready while stopping', where())
  await openLine(url, { protocol: 3, onEvent() {}, onGap() {} }).then(
    () => tally.breach('taken while stopping', `an upgrade ${where()}`),
    ({ status }: { status?: number }) => {
      // Without a status nobody listened any more.
      if (status === 503) tally.add('upgrades refused with 503')
      else if (status !== undefined) tally.breach('taken while stopping', `HTTP ${status} for an upgrade ${where()}`)
    },
  )
}

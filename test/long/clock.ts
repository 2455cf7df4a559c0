/** Clocks that are set, and a process that is stopped for a while: no key is forgotten early, no turn begun twice, nobody cut off. */
import { renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Runtime } from '../../src/runtimes/runtime.ts'
import { openSqliteStore } from '../../src/stores/sqlite.ts'
import { question } from '../support/babbler.ts'
import { endOf, type Peer, startGateway, type TestGateway } from '../support/gateway.ts'
import { startProcess } from '../support/gateway-process.ts'
import { GATEWAY, type Ground, onGround, wait } from './ground.ts'
import { openLine } from './line.ts'
import { readRecords } from './records.ts'
import { type Rounds, random, type Suite } from './suite.ts'
import { createTally, type Tally } from './tally.ts'
import { BREACHES, createWitness } from './witness.ts'

const SECOND = 1000
const HOUR = 3600 * SECOND
const DAY = 24 * HOUR
const JUMPS = [SECOND, 60 * SECOND, HOUR, DAY, 30 * DAY, 365 * DAY].flatMap((ms) => [ms, -ms])
/** One round in so many is a process of its own that is stopped and goes on; in the others hours go by in milliseconds. */
const PROCESS_EVERY = 4
/** One such process in so many is stopped for longer than a peer may be silent. */
const LONG_STOP_EVERY = 10
const LONG_STOP_MS = 40_000
/** What each of three clients does: so little that no session is full. */
const ACTS = 14
const SESSIONS = ['agent:main:one', 'agent:main:two', 'agent:main:three', 'agent:main:four']
const STEPS = 40
const LONGEST_STEP = 1.5 * HOUR
/** What is late: one era, and the step that drew it out. */
const LATE = DAY / 24 + 2 * LONGEST_STEP
const SWEEP_MS = 4
const PATIENCE_MS = 30_000
const CLOCK_BREACHES = [
  'keys forgotten early',
  'keys kept for ever',
  'started twice',
  'events forgotten early',
  'cut off',
  'streams that stand still',
]

type Roll = () => number

const pick = <T>(list: readonly T[], roll: Roll): T => list[Math.floor(roll() * list.length)]!

/** A gateway in this process, whose clocks are ours: its days go by in a second, and its wall clock is set over and over. */
async function liveDays({ folder }: Ground, roll: Roll, tally: Tally, where: string): Promise<void> {
  let wall = 1.75e12
  let steady = 0
  /** Before the present process: what it counts begins anew with each. */
  let before = 0
  const lived = () => before + steady
  const starts = new Map<string, number>()
  const counting: Runtime = {
    api: 'echo',
    async answer(model, { messages }, sink) {
      const text = messages.at(-1)!.text
      starts.set(text, (starts.get(text) ?? 0) + 1)
      sink.delta('yes')
      return { stopReason: 'stop', usage: { input: 0, output: 0, cacheRead: 0, cacheWrite: 0, totalTokens: 0 }, model }
    },
  }
  const keys = new Map<string, { session: string; message: string; born: number; admissions: number }>()
  const places: { session: string; epoch: string; offset: number; at: number }[] = []
  const breach = (what: string, sentence: string) => tally.breach(what, `${sentence} (${where})`)
  let gateway: TestGateway | undefined
  let peer: Peer | undefined
  let isClosing = false

  async function start(): Promise<void> {
    const store = await openSqliteStore({ path: join(folder, 'days.sqlite') })
    gateway = await startGateway({
      store,
      runtimes: new Map([['echo', counting]]),
      sweepMs: SWEEP_MS,
      now: () => wall,
      monotonic: () => steady,
    })
    peer = await gateway.connect({ minProtocol: 4, maxProtocol: 4, caps: ['stream-offsets'] })
    isClosing = false
    void peer.closed.then(({ code, reason }) => {
      if (!isClosing) breach('cut off', `closed with ${code} ${reason}`)
    })
  }

  async function send(key: string): Promise<string> {
    const known = keys.get(key)!
    const { session, message } = known
    const answer = await peer!.request('chat.send', { sessionKey: session, message, idempotencyKey: key })
    const status = answer['ok'] ? answer['payload'].status : JSON.stringify(answer['error'])
    if (status === 'started') {
      known.admissions += 1
      known.born = lived()
      const { payload } = await peer!.next(endOf(key))
      places.push({ session, epoch: payload.epoch, offset: payload.offset - 1, at: lived() })
    }
    return status
  }

  try {
    await start()
    for (let step = 0; step < STEPS; step += 1) {
      if (roll() < 0.8) {
        wall += pick(JUMPS, roll)
        tally.add('jumps')
      }
      const elapsed = roll() < 0.3 ? 0 : roll() * LONGEST_STEP
      steady += elapsed
      wall += elapsed
      await wait(3 * SWEEP_MS)
      const key = `key-${step}`
      keys.set(key, { session: `s${step % 2}`, message: `message ${step}`, born: lived(), admissions: 0 })
      await send(key)
      for (let old = 0; old < 4; old += 1) {
        const again = pick([...keys.keys()], roll)
        const { born } = keys.get(again)!
        const age = lived() - born
        const status = await send(again)
        tally.add('repeats of keys')
        const hours = (age / HOUR).toFixed(1)
        if (age < DAY && status !== 'ok') breach('keys forgotten early', `after ${hours} h: ${status}`)
        if (age > DAY + LATE && status !== 'started') breach('keys kept for ever', `after ${hours} h: ${status}`)
      }
      const place = pick(places, roll)
      const age = lived() - place.at
      const { payload } = await peer!.request('chat.resume', {
        sessionKey: place.session,
        epoch: place.epoch,
        offset: place.offset,
      })
      if (age < DAY && !payload.recovered)
        breach('events forgotten early', `after ${(age / HOUR).toFixed(1)} h: ${payload.reason}`)
      if (roll() < 0.1) {
        isClosing = true
        await gateway!.stop()
        before += steady
        steady = 0
        await start()
        tally.add('restarts')
      }
    }
    for (const { message, admissions } of keys.values()) {
      const times = starts.get(message) ?? 0
      if (times !== admissions) breach('started twice', `${message}: ${times} starts of ${admissions} admissions`)
    }
  } finally {
    isClosing = true
    await gateway?.stop()
  }
}

/** A gateway as a process of its own, whose wall clock is set and which is stopped and goes on, under load. */
async function stopAndGo(
  { folder, babbler }: Ground,
  roll: Roll,
  tally: Tally,
  where: string,
  isLong: boolean,
): Promise<void> {
  const witness = createWitness({ random: roll, tally, where: () => where })
  const breach = (what: string, sentence: string) => tally.breach(what, `${sentence} (${where})`)
  const preload = [new URL('../support/jumping-clock.ts', import.meta.url).href]
  const gateway = await startProcess(folder, babbler.url, { ...GATEWAY, preload })
  let heard = 0
  let isOver = false
  try {
    const lines = await witness.come(gateway.url, 3)
    const listener = await openLine(gateway.url, {
      protocol: 4,
      caps: ['delta-only'],
      onEvent: ({ event, payload }) => {
        if (event === 'agent' && payload.runId === 'long' && payload.stream === 'assistant') heard += 1
      },
      onGap: (sentence) => breach('events out of order', sentence),
    })
    for (const { closed } of [...lines, listener])
      void closed.then(({ code, reason }) => {
        if (!isOver) breach('cut off', `closed with ${code} ${reason}`)
      })
    const message = question('long', { seed: 1, pieces: 100_000, longest: 6, gap: 3 })
    await listener.ask('chat.send', { sessionKey: 'agent:main:long', message, idempotencyKey: 'long' })
    let isTalking = true
    const talks = lines.map(async (line) => {
      for (let acts = 0; acts < ACTS && isTalking; acts += 1) {
        void witness.act(line, SESSIONS)
        await wait(roll() * 400)
      }
    })
    let off = 0
    for (let step = 0; step < 6; step += 1) {
      off += pick(JUMPS, roll)
      // At once: half a number is another time.
      writeFileSync(join(folder, 'clock.new'), String(off))
      renameSync(join(folder, 'clock.new'), join(folder, 'clock'))
      tally.add('jumps')
      await wait(30)
      const before = heard
      const end = performance.now() + PATIENCE_MS
      while (heard < before + 10 && performance.now() < end) await wait(20)
      if (heard < before + 10) breach('streams that stand still', `after the clock was set off by ${off} ms`)
      if (step % 3 !== 1) continue
      isTalking = !isLong
      process.kill(gateway.pid, 'SIGSTOP')
      await wait(isLong ? LONG_STOP_MS : 300 + roll() * 1500)
      process.kill(gateway.pid, 'SIGCONT')
      tally.add('stops')
    }
    isTalking = false
    await Promise.all(talks)
    await witness.question(lines[0]!, [...witness.turns.values()])
    isOver = true
    witness.killed()
    await gateway.kill()
    await wait(10)
    witness.compare(readRecords(folder), babbler.asked)
  } finally {
    isOver = true
    await gateway.kill()
  }
}

export const clock: Suite = {
  summary: 'whoever sets the clock or stops the process: no key is forgotten early or kept for ever, nobody is cut off',
  few: 3,
  many: 400,
  async run({ rounds, seed, say }: Rounds) {
    const tally = createTally([
      'jumps',
      'stops',
      'restarts',
      'repeats of keys',
      'acknowledged turns',
      ...CLOCK_BREACHES,
      ...BREACHES,
    ])
    for (let round = 0; round < rounds; round += 1) {
      const roll = random(seed + round)
      const where = `round ${round}, seed ${seed}`
      const isLong = round % (PROCESS_EVERY * LONG_STOP_EVERY) === PROCESS_EVERY * (LONG_STOP_EVERY - 1)
      await onGround('clock', (ground) =>
        round % PROCESS_EVERY === 0
          ? stopAndGo(ground, roll, tally, where, isLong)
          : liveDays(ground, roll, tally, where),
      )
      if (round % 10 === 9) say(`${round + 1} rounds, ${tally.broken.length} broken`)
    }
    return tally
  },
}

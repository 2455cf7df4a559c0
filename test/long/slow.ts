/** Clients that stop reading: those who read on catch up, those who do not are let go, and nobody else notices. */
import { readFileSync } from 'node:fs'
import { LIMITS } from '../../src/contract/connect.ts'
import { answerTo, question } from '../support/babbler.ts'
import type { Frame } from '../support/gateway.ts'
import { type GatewayProcess, startProcess } from '../support/gateway-process.ts'
import { GATEWAY, type Ground, onGround, wait } from './ground.ts'
import { type Line, openLine } from './line.ts'
import { watchMemory } from './memory.ts'
import { type Report, type Rounds, random, type Suite } from './suite.ts'
import { createTally, type Tally } from './tally.ts'

/** For each that reads all the time so many stop now and then. */
const STALLING = 4
const TALKS = ['agent:main:talk-0', 'agent:main:talk-1']
/** Here much is said that cannot be joined, so that who stops for long is over the limit. */
const NOISE = 'agent:main:noise'
const NOTE_BYTES = 60_000
/** What all clients are sent of it together, in bytes a second. */
const NOISE_BYTES = 25e6
/** So many of each kind hear the whole text with every delta; it is theirs that is joined when they are slow. */
const HEARING_ALL = 4
const hearsAll = (n: number) => n % 2 === 0 && n < 2 * HEARING_ALL
/** One stall in so many lasts until the gateway ends it. */
const STALLS_A_LONG_ONE = 4
/** A stalled peer is gone after so many ms at the latest, be it that it answers no ping. */
const LET_GO_MS = 60_000
/** How long the last may take to catch up, in ms. */
const ENDING_MS = 30_000
/** What the garbage collector may leave lying about, however little is held. */
const GARBAGE_BYTES = 64 * 1024 * 1024

const BREACHES = [
  'events lost',
  'events heard twice',
  'texts unlike the model’s',
  'resumes that did not recover',
  'healthy ones that were closed',
  'stalled ones that were neither closed nor caught up',
  'bytes of memory above what the stalled may hold',
]

export const slow: Suite = {
  summary: 'who stops reading catches up or is closed and resumes, at a bounded cost, and who reads misses nothing',
  few: 1,
  many: 50,
  run: (how) => onGround('slow', (ground) => stall(ground, how)),
}

async function stall({ folder, babbler }: Ground, { rounds, seed, say }: Rounds): Promise<Report> {
  const roll = random(seed)
  const tally = createTally([
    'healthy',
    'stalling',
    'stalls',
    'stalls that ended with reading on',
    'stalls that ended with being closed',
    'resumes',
    'events for a stretch of offsets',
    'runs',
    'texts compared',
    'MiB of memory while all read',
    'MiB of memory at the most',
    ...BREACHES,
  ])
  const gateway = await startProcess(folder, babbler.url, GATEWAY)
  try {
    const stage: Stage = { gateway, roll, tally, seed, answers: new Map(), isOver: false }
    const healthy = Array.from({ length: rounds }, (_, n) => createClient(stage, `healthy ${n}`, !hearsAll(n)))
    const stalling = Array.from({ length: rounds * STALLING }, (_, n) =>
      createClient(stage, `stalling ${n}`, !hearsAll(n)),
    )
    const all = [...healthy, ...stalling]
    tally.add('healthy', healthy.length)
    tally.add('stalling', stalling.length)
    for (const client of all) await client.come()
    const talk = speak(stage, all.length)
    const memory = watchMemory(gateway.pid)
    await wait(Math.min(10_000, 500 * rounds))
    const whileAllRead = memory.most()
    let done = 0
    await Promise.all(
      stalling.map(async (client) => {
        for (let n = 0; n < Math.max(2, rounds / 2); n++) await client.stall()
        done += 1
        if (done % 20 === 0) say(`${done} of ${stalling.length} have stalled ${tally.counts['stalls']} times in all`)
      }),
    )
    const most = Math.max(whileAllRead, memory.most())
    memory.stop()
    stage.isOver = true
    await talk
    await endTogether(all, healthy[0]!, tally, seed)
    for (const client of all) client.count()
    for (const client of healthy)
      if (client.closes() > 0) tally.breach('healthy ones that were closed', `${client.name} was closed (seed ${seed})`)
    for (const client of all) client.leave()
    tally.add('MiB of memory while all read', Math.round(whileAllRead / 2 ** 20))
    tally.add('MiB of memory at the most', Math.round(most / 2 ** 20))
    const above = most - whileAllRead - stalling.length * LIMITS.maxBufferedBytes - GARBAGE_BYTES
    if (above > 0)
      tally.breach(
        'bytes of memory above what the stalled may hold',
        `${above} bytes too many were held (seed ${seed})`,
      )
  } finally {
    await gateway.kill()
  }
  return tally
}

/** What all clients of the suite share. */
interface Stage {
  gateway: GatewayProcess
  roll(): number
  tally: Tally
  seed: number
  /** What the model has to say in each run. */
  answers: Map<string, string>
  /** Nothing more is begun. */
  isOver: boolean
}

/** Keeps the sessions talking until all is over and the last run has ended. */
async function speak(stage: Stage, listeners: number): Promise<void> {
  const { gateway, roll, tally, seed, answers } = stage
  const ends = new Map<string, () => void>()
  const line = await openLine(gateway.url, {
    protocol: 4,
    caps: ['delta-only'],
    onEvent({ event, payload }) {
      if (event === 'chat' && payload.state !== 'delta') ends.get(payload.runId)?.()
    },
    onGap: (sentence) => tally.breach('events lost', `${sentence} (seed ${seed})`),
  })
  async function talk(sessionKey: string): Promise<void> {
    for (let n = 0; !stage.isOver; n++) {
      const runId = `${sessionKey} ${n}`
      const speech = { seed: Math.floor(roll() * 1e9), pieces: 60, longest: 1500, gap: 40 }
      const message = question(runId.replaceAll(' ', '-'), speech)
      answers.set(runId, answerTo(message))
      const ended = new Promise<void>((resolve) => ends.set(runId, resolve))
      await line.ask('chat.send', { sessionKey, message, idempotencyKey: runId })
      await ended
      tally.add('runs')
    }
  }
  async function chatter(): Promise<void> {
    const everyMs = (1000 * NOTE_BYTES * listeners) / NOISE_BYTES
    await line.ask('chat.send', { sessionKey: NOISE, message: '/status', idempotencyKey: NOISE })
    while (!stage.isOver) {
      await line.ask('chat.inject', { sessionKey: NOISE, message: 'x'.repeat(NOTE_BYTES) })
      await wait(everyMs)
    }
  }
  await Promise.all([chatter(), ...TALKS.map(talk)])
  line.cut()
}

/** A run as a client heard it. */
interface Heard {
  /** By `assistant` events, and the number of the last. */
  text: string
  seq: number
  /** By `chat` deltas, and the number of the last. */
  shown: string
  shownSeq: number
}

interface Place {
  epoch: string | undefined
  offset: number
  /** What comes before the answer to a resume. */
  early: Frame[] | undefined
}

type Client = ReturnType<typeof createClient>

/** Follows the talks by offsets; it comes back to where it was whenever it was closed. */
function createClient({ gateway, roll, tally, seed, answers }: Stage, name: string, deltaOnly: boolean) {
  const places = new Map<string, Place>(TALKS.map((key) => [key, { epoch: undefined, offset: 0, early: undefined }]))
  const runs = new Map<string, Heard>()
  /** Those that have ended. */
  const ended = new Set<string>()
  let line: Line
  let isClosed = true
  let closes = 0
  const breach = (kind: string, sentence: string) => tally.breach(kind, `${name}: ${sentence} (seed ${seed})`)

  function take(place: Place, { event, payload }: Frame): void {
    const { epoch, offset, from = offset } = payload
    if (from !== offset) tally.add('events for a stretch of offsets')
    place.epoch ??= epoch
    if (epoch !== place.epoch || from > place.offset + 1)
      breach('events lost', `${epoch} ${from} came after ${place.epoch} ${place.offset}`)
    if (from <= place.offset) breach('events heard twice', `${from} came after ${place.offset}`)
    place.offset = offset
    hear(event, payload, false)
  }

  /** @param again it was asked for again, and may have been heard as part of a later event */
  function hear(event: string, payload: Frame['payload'], again: boolean): void {
    const { runId, seq, stream, data, state, deltaText, message } = payload
    const run = runs.get(runId) ?? { text: '', seq: 0, shown: '', shownSeq: 0 }
    if (ended.has(runId)) return breach('events heard twice', `${runId}: ${event} ${seq} came after its end`)
    runs.set(runId, run)
    const shown = message?.content[0].text
    if (event === 'agent' && stream === 'assistant') {
      if (seq > run.seq) run.text += data.delta
      else if (!again) breach('events heard twice', `${runId}: ${seq} came after ${run.seq}`)
      run.seq = Math.max(run.seq, seq)
      if (data.text !== undefined && data.text !== run.text) breach('texts unlike the model’s', `${runId} after ${seq}`)
    }
    if (event === 'chat' && state === 'delta') {
      if (seq > run.shownSeq) run.shown += deltaText
      else if (!again) breach('events heard twice', `${runId}: chat ${seq} came after ${run.shownSeq}`)
      run.shownSeq = Math.max(run.shownSeq, seq)
      if (shown !== undefined && shown !== run.shown) breach('texts unlike the model’s', `${runId}, chat ${seq}`)
    }
    if (event === 'chat' && state !== 'delta') {
      const answer = answers.get(runId)
      if (run.text !== answer || run.shown !== answer || shown !== answer)
        breach(
          'texts unlike the model’s',
          `${runId}: ${run.text.length}, ${run.shown.length} and ${shown?.length} characters of ${answer?.length}`,
        )
      tally.add('texts compared')
      ended.add(runId)
      runs.delete(runId)
    }
  }

  const client = {
    name,
    closes: () => closes,
    offsets: () => TALKS.map((key) => places.get(key)!.offset).join(),
    async come(): Promise<void> {
      for (const place of places.values()) place.early = []
      const opened = await openLine(gateway.url, {
        protocol: 4,
        caps: deltaOnly ? ['stream-offsets', 'delta-only'] : ['stream-offsets'],
        onEvent(frame) {
          const place = places.get(frame['payload']?.sessionKey)
          if (place?.early) place.early.push(frame)
          else if (place) take(place, frame)
        },
        onGap: (sentence) => breach('events lost', sentence),
      })
      line = opened
      isClosed = false
      void opened.closed.then(() => {
        isClosed = true
        closes += 1
      })
      for (const [sessionKey, place] of places) {
        if (place.epoch !== undefined) {
          const { epoch, offset } = place
          const answer = await opened.ask('chat.resume', { sessionKey, epoch, offset })
          if (!answer) return client.come()
          const { payload, error } = answer
          if (!payload?.recovered)
            return breach('resumes that did not recover', `${sessionKey}: ${payload?.reason ?? error?.message}`)
          tally.add('resumes')
          for (const { event, payload: recovered } of payload.events) hear(event, recovered, true)
          place.offset = payload.offset
        }
        const { early = [] } = place
        place.early = undefined
        for (const frame of early) if (frame['payload'].offset > place.offset) take(place, frame)
      }
    },
    /** Comes back if it was closed. */
    async beThere(): Promise<void> {
      if (isClosed) await client.come()
    },
    /** Stops reading for a while, or until it is closed. */
    async stall(): Promise<void> {
      await wait(roll() * 1000)
      await client.beThere()
      tally.add('stalls')
      const isLong = roll() * STALLS_A_LONG_ONE < 1
      line.pause(true)
      if (isLong) {
        const began = performance.now()
        while (isEstablished(gateway.url, line.port)) {
          if (performance.now() - began > LET_GO_MS)
            return breach('stalled ones that were neither closed nor caught up', 'it was kept though it read nothing')
          await wait(200)
        }
      } else await wait(roll() * 3000)
      line.pause(false)
      if (isLong) await line.closed
      await wait(100)
      tally.add(isClosed ? 'stalls that ended with being closed' : 'stalls that ended with reading on')
      await client.beThere()
    },
    /** Every run was heard to its end. */
    count(): void {
      if (ended.size !== answers.size)
        breach('events lost', `it heard the end of ${ended.size} runs of ${answers.size}`)
    },
    leave: () => line.cut(),
  }
  return client
}

/** Waits until all are where one is that never stopped. */
async function endTogether(all: Client[], healthy: Client, tally: Tally, seed: number): Promise<void> {
  const began = performance.now()
  for (const client of all) {
    while (client.offsets() !== healthy.offsets()) {
      if (performance.now() - began > ENDING_MS) {
        const sentence = `${client.name} is at ${client.offsets()} of ${healthy.offsets()} (seed ${seed})`
        tally.breach('stalled ones that were neither closed nor caught up', sentence)
        break
      }
      await client.beThere()
      await wait(20)
    }
  }
}

/** Whether the gateway still has its end of a connection: a peer that does not read is not told. */
function isEstablished(url: string, port: number): boolean {
  const hex = (number: number) => number.toString(16).toUpperCase().padStart(4, '0')
  const [near, far] = [`:${hex(Number(new URL(url).port))}`, `:${hex(port)}`]
  return readFileSync('/proc/net/tcp', 'utf8')
    .split('\n')
    .some((entry) => {
      const [, local, remote, state] = entry.trim().split(/\s+/)
      return local?.endsWith(near) && remote?.endsWith(far) && state === '01'
    })
}

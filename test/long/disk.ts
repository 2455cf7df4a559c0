/** A disk that is full, and one that fails: nothing is acknowledged that is not kept, and what was kept is there afterwards. */
import { execFileSync } from 'node:child_process'
import { closeSync, cpSync, mkdirSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { question } from '../support/babbler.ts'
import {
  type GatewayProcess,
  type ProcessOptions,
  type StartingProcess,
  spawnProcess,
  startProcess,
} from '../support/gateway-process.ts'
import { leave } from '../support/leftovers.ts'
import { GATEWAY, type Ground, onGround, wait } from './ground.ts'
import { type Line, openLine } from './line.ts'
import { readRecords } from './records.ts'
import { type Rounds, random, type Suite } from './suite.ts'
import { createTally, type Tally } from './tally.ts'
import { BREACHES, createWitness } from './witness.ts'

/** One round in so many fills a disk; in the others a call fails. */
const FULL_EVERY = 4
const SIZE = '16m'
/** Nothing here takes so long, in ms, on however busy a machine. */
const PATIENCE_MS = 30_000
const SESSIONS = ['agent:main:main', 'agent:main:one', 'agent:main:two', 'agent:main:three']
/** What each of three clients does: so little that no session is full. */
const ACTS = 14
/** Where a run streams all the time. */
const LONG = 'agent:main:long'
const DISK_BREACHES = [
  'refused in another way',
  'reads refused',
  'streams cut off',
  'ready though full',
  'dead though full',
  'not recovered',
  'went on with a failed disk',
  'wrong exits',
  'starts that failed',
]

type Roll = () => number

/** Whether calls can be made to fail here. */
function canTrace(): boolean {
  try {
    execFileSync('strace', ['-D', '-f', '--seccomp-bpf', '-o', '/dev/null', 'true'], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

/** A file system of its own, small enough to be filled. Undefined: it may not be mounted here. */
function mountSmall(folder: string): (() => void) | undefined {
  mkdirSync(folder)
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${SIZE},mode=0700`, 'none', folder], { stdio: 'ignore' })
  } catch {
    return undefined
  }
  const unmount = () => void execFileSync('umount', ['-l', folder], { stdio: 'ignore' })
  const unmounted = leave(unmount)
  return () => {
    unmounted()
    unmount()
  }
}

/** Writes until nothing more fits; gives what makes space again. */
function fill(folder: string): () => void {
  const filler = join(folder, 'filler')
  const file = openSync(filler, 'w')
  try {
    for (const size of [65_536, 4096, 1]) {
      try {
        for (;;) writeSync(file, Buffer.alloc(size))
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error
      }
    }
  } finally {
    closeSync(file)
  }
  return () => rmSync(filler)
}

/** Asks again until the answer fits. Undefined: it never did. */
async function until<T>(ask: () => Promise<T>, fits: (answer: T) => boolean): Promise<T | undefined> {
  const end = performance.now() + PATIENCE_MS
  while (performance.now() < end) {
    const answer = await ask().catch(() => undefined)
    if (answer !== undefined && fits(answer)) return answer
    await wait(50)
  }
  return undefined
}

const statusOf = async (gateway: GatewayProcess, path: string): Promise<number> =>
  (await fetch(new URL(path, gateway.url.replace('ws', 'http')))).status

/** Fills the disk under a gateway that works, looks what it still does, makes space, and looks again. */
async function fillOnce({ folder: ground, babbler }: Ground, roll: Roll, tally: Tally, where: string): Promise<void> {
  const folder = join(ground, 'small')
  const unmount = mountSmall(folder)
  if (!unmount) return tally.add('not tried: nothing may be mounted here')
  let running: Pick<GatewayProcess, 'kill'> | undefined
  const acked = new Set<string>()
  const refused = new Set<string>()
  let isOver = false
  let heard = 0
  const breach = (what: string, sentence: string) => tally.breach(what, `${sentence} (${where})`)

  const open = (gateway: GatewayProcess) =>
    openLine(gateway.url, {
      protocol: 4,
      caps: ['delta-only'],
      onEvent: ({ event, payload }) => {
        if (event === 'agent' && payload.runId === 'long' && payload.stream === 'assistant') heard += 1
      },
      onGap: (sentence) => breach('streams cut off', sentence),
    })

  /** Sends a turn; whatever is refused is refused as it should be. */
  async function send(line: Line, key: string, pieces: number, gap: number): Promise<boolean> {
    const message = question(key, { seed: Math.floor(roll() * 1e9), pieces, longest: 12, gap })
    const sessionKey = key === 'long' ? LONG : SESSIONS[Number(key.slice(4)) % SESSIONS.length]!
    const answer = await line.ask('chat.send', { sessionKey, message, idempotencyKey: key })
    if (!answer) return false
    if (answer['ok']) {
      acked.add(key)
      refused.delete(key)
      return true
    }
    const { code, details, retryAfterMs } = answer['error'] ?? {}
    if (details?.code === 'SESSION_BUSY') return false
    refused.add(key)
    if (code !== 'UNAVAILABLE' || details?.code !== 'STORAGE_FULL' || !(retryAfterMs > 0))
      breach('refused in another way', JSON.stringify(answer))
    return false
  }

  try {
    const gateway = await startProcess(folder, babbler.url, GATEWAY)
    running = gateway
    void gateway.exited.then(({ code, signal }) => {
      if (!isOver) breach('dead though full', `it ended with ${code ?? signal}`)
    })
    const [line, other] = [await open(gateway), await open(gateway)]
    await send(line, 'long', 100_000, 4)
    const work = (async () => {
      for (let n = 0; !isOver; n += 1) {
        await send(other, `key-${n}`, 1 + Math.floor(roll() * 10), 3)
        await wait(20 + roll() * 30)
      }
    })()
    await wait(300 + roll() * 900)
    const makeSpace = fill(folder)
    // A log that has been moved is written over: that takes turns until it would grow.
    if (
      (await until(
        async () => refused.size,
        (count) => count > 0,
      )) === undefined
    )
      breach('refused in another way', 'nothing was refused although nothing fits')
    if (
      (await until(
        () => statusOf(gateway, '/readyz'),
        (status) => status === 503,
      )) === undefined
    )
      breach('ready though full', 'readiness is not 503')
    if ((await statusOf(gateway, '/health')) !== 200) breach('dead though full', 'health is not 200')
    for (const [method, params] of [
      ['health', {}],
      ['sessions.list', {}],
      ['chat.history', { sessionKey: 'main' }],
    ] as const) {
      const answer = await line.ask(method, params)
      if (!answer?.['ok']) breach('reads refused', `${method}: ${JSON.stringify(answer)}`)
    }
    const late = await open(gateway).catch((error: Error) =>
      breach('reads refused', `nobody comes in: ${error.message}`),
    )
    late?.cut()
    const before = heard
    if (
      (await until(
        async () => heard,
        (now) => now > before + 20,
      )) === undefined
    )
      breach('streams cut off', 'a run that streamed streams no more')
    await wait(roll() * 1500)

    makeSpace()
    const freedAt = performance.now()
    const count = acked.size
    if (
      (await until(
        async () => acked.size,
        (now) => now > count,
      )) === undefined
    )
      breach('not recovered', 'turns are still refused though there is space')
    tally.most('ms until turns were taken again, at most', performance.now() - freedAt)
    if (
      (await until(
        () => statusOf(gateway, '/readyz'),
        (status) => status === 200,
      )) === undefined
    )
      breach('not recovered', 'readiness is still not 200')
    isOver = true
    await work
    isOver = false
    tally.add('turns refused because the disk was full', refused.size)
    for (const key of [...refused])
      await until(
        () => send(other, key, 1, 0),
        (taken) => taken,
      )
    if (refused.size > 0) breach('not recovered', `${refused.size} turns that were refused are not taken later`)
    await line.ask('chat.abort', { sessionKey: LONG })
    const ends = [...acked].map(async (key) => {
      const answer = await other.ask('agent.wait', { runId: key, timeoutMs: PATIENCE_MS })
      if (!answer?.['ok'] || answer['payload'].status === 'timeout')
        breach('runs without exactly one terminal event', `${key}: ${JSON.stringify(answer)}`)
    })
    await Promise.all(ends)
    isOver = true
    line.cut()
    other.cut()
    await gateway.kill()
    tally.add('acknowledged turns', acked.size)
    // Beside it: there is no space for a copy where it is.
    const copy = join(ground, 'copy-of-small')
    cpSync(folder, copy, { recursive: true })
    const kept = new Map(readRecords(copy).runs.map((run) => [run.key, run]))
    for (const key of acked) {
      if (kept.get(key)?.endedAt === undefined) breach('lost', `${key} is ${kept.get(key)?.state}`)
      if ((babbler.asked.get(key) ?? 0) > 1) breach('doubled', `the model was asked twice for ${key}`)
    }
    const again = await startProcess(folder, babbler.url, GATEWAY)
    running = again
    const { status } = (await (await fetch(new URL('/health', again.url.replace('ws', 'http')))).json()) as {
      status: string
    }
    if (status !== 'ok') breach('damaged files', `after a restart it is ${status}`)
    tally.add('disks filled')
  } finally {
    isOver = true
    await running?.kill()
    unmount()
  }
}

/** The calls that can fail, and how often a gateway makes each in the time it is given. */
const CALLS = { pwrite64: 500, fsync: 130, ftruncate: 3 }

/** Makes a call fail, once or from then on; whatever the gateway does then, nothing that it had acknowledged is lost. */
async function failOnce({ folder, babbler }: Ground, roll: Roll, tally: Tally, where: string): Promise<void> {
  const [call, most] = Object.entries(CALLS)[Math.floor(roll() ** 2 * Object.keys(CALLS).length)]!
  const nth = 1 + Math.floor(roll() ** 2 * most)
  const inject = `inject=${call}:error=EIO:when=${nth}${roll() < 0.5 ? '+' : ''}`
  const witness = createWitness({ random: roll, tally, where: () => `${where}, ${inject}` })
  const breach = (what: string, sentence: string) => tally.breach(what, `${sentence} (${where}, ${inject})`)
  const calls = join(tmpdir(), `long-disk-${process.pid}.trace`)
  const removed = leave(() => rmSync(calls, { force: true }))
  const under = [
    'strace',
    '-D',
    '-f',
    '--seccomp-bpf',
    '-qq',
    '-yy',
    '-s',
    '0',
    '-o',
    calls,
    '-e',
    `trace=${call}`,
    '-e',
    inject,
  ]
  let running: StartingProcess | undefined

  /** Starts it; undefined when it ends before it serves, which is right only where a call may fail. */
  async function start(options: ProcessOptions): Promise<GatewayProcess | undefined> {
    const starting = spawnProcess(folder, babbler.url, options)
    running = starting
    return starting.running.catch((error: Error) => {
      if (!options.under) breach('starts that failed', error.message)
      return undefined
    })
  }

  try {
    const gateway = await start({ ...GATEWAY, under })
    let hasEnded = false
    running!.exited.then(() => {
      hasEnded = true
      witness.killed()
    })
    if (gateway) {
      const lines = await witness.come(gateway.url, 3).catch(() => [])
      // What was heard before the disk failed is not kept later; of the end of the process one hears later still.
      for (const { closed } of lines) void closed.then(() => witness.killed())
      const talk = async (line: Line) => {
        for (let acts = 0; acts < ACTS && !hasEnded; acts += 1) {
          void witness.act(line, SESSIONS)
          await wait(roll() * 200)
        }
      }
      await Promise.all(lines.map(talk))
    }
    // SQLite syncs its folder for the name of the log, and does not mind if it cannot; the gateway syncs it again.
    const hasFailed = () =>
      call !== 'ftruncate' && /<[^>]*kurultai\.sqlite.*INJECTED/.test(readFileSync(calls, 'latin1'))
    if (
      hasFailed() &&
      (await until(
        async () => hasEnded,
        (ended) => ended,
      )) === undefined
    )
      breach('went on with a failed disk', 'it is still there')
    tally.add(hasEnded ? 'ended by the failing call' : 'outlived the failing call, or never made it')
    const wasKilled = !hasEnded
    await running!.kill()
    const { code, signal } = await running!.exited
    if (!wasKilled && code !== 70) breach('wrong exits', `it ended with ${code ?? signal}`)
    await wait(20)
    witness.compare(readRecords(folder), babbler.asked)
    const again = await start(GATEWAY)
    if (!again) return
    const [line] = await witness.come(again.url, 1)
    await witness.question(line!, [...witness.turns.values()])
    witness.killed()
    await again.kill()
    witness.compare(readRecords(folder), babbler.asked)
    tally.add(`${call} that failed`)
  } finally {
    await running?.kill()
    rmSync(calls, { force: true })
    removed()
  }
}

export const disk: Suite = {
  summary:
    'a disk that is full refuses turns and nothing else; one that fails ends the gateway; neither loses what was kept',
  few: 2,
  many: 400,
  async run({ rounds, seed, say }: Rounds) {
    const tally = createTally([
      'disks filled',
      'turns refused because the disk was full',
      'ended by the failing call',
      'outlived the failing call, or never made it',
      'acknowledged turns',
      ...BREACHES,
      ...DISK_BREACHES,
    ])
    const traces = canTrace()
    if (!traces) tally.add('not tried: strace is not there, or may not trace')
    for (let round = 0; round < rounds; round += 1) {
      const roll = random(seed + round)
      const where = `round ${round}, seed ${seed}`
      if (round % FULL_EVERY === 0) await onGround('disk', (ground) => fillOnce(ground, roll, tally, where))
      else if (traces) await onGround('disk', (ground) => failOnce(ground, roll, tally, where))
      if (round % 10 === 9) say(`${round + 1} rounds, ${tally.broken.length} broken`)
    }
    return tally
  },
}

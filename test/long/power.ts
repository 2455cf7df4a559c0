/** The power cut: of what the gateway wrote and did not sync, anything may be gone; of what it acknowledged, nothing. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openSqliteStore } from '../../src/stores/sqlite.ts'
import { question } from '../support/babbler.ts'
import { startProcess } from '../support/gateway-process.ts'
import { leave } from '../support/leftovers.ts'
import { GATEWAY, onGround, wait } from './ground.ts'
import { openLine } from './line.ts'
import { cutPower, FATES, readTrace, type Trace, traced } from './power-trace.ts'
import { type Rounds, random, type Suite } from './suite.ts'
import { createTally, type Tally } from './tally.ts'

const FILE = 'kurultai.sqlite'
/** Images that are made of one recording. */
const IMAGES_A_RECORDING = 40
const SESSIONS = ['agent:main:main', 'agent:main:one', 'agent:main:two']
const LANES = 3
const BREACHES = [
  'lost',
  'endings lost',
  'models asked before the start was kept',
  'old epochs',
  'damaged',
  'incidents for nothing',
]

/** What had left the gateway at a moment: what it must be able to answer for. */
interface Said {
  acked: { key: string; at: number }[]
  ended: { key: string; at: number }[]
  asked: { key: string; at: number }[]
  events: { sessionKey: string; epoch: string; offset: number; at: number }[]
}

/** Finds it in what was sent: frames are not masked, and neither frames nor requests are compressed. */
function readSaid(trace: Trace): Said {
  const said: Said = { acked: [], ended: [], asked: [], events: [] }
  const find = (text: string, pattern: RegExp) => [...text.matchAll(pattern)].map(({ groups }) => groups!)
  for (const { at, text } of trace.sent) {
    for (const { key } of find(text, /"ok":true,"payload":\{"runId":"(?<key>[^"]+)","status":"started"/g))
      said.acked.push({ key: key!, at })
    for (const { key } of find(text, /"event":"chat","payload":\{"runId":"(?<key>[^"]+)"[^{}]*"state":"final"/g))
      said.ended.push({ key: key!, at })
    for (const { key } of find(text, /"(?:content|text)":"(?<key>key-[\w-]+) babble [^"]*"\}?\]?\}\]/g))
      said.asked.push({ key: key!, at })
    for (const { sessionKey, epoch, offset } of find(
      text,
      /"sessionKey":"(?<sessionKey>agent:[^"]+)"(?:(?!"type":"event").)*?"epoch":"(?<epoch>[^"]+)","offset":(?<offset>\d+)\}/gs,
    ))
      said.events.push({ sessionKey: sessionKey!, epoch: epoch!, offset: Number(offset), at })
  }
  return said
}

/** Lets a gateway work for some seconds, with pauses in which it moves its log, and writes down every call. */
async function record(seed: number): Promise<Trace> {
  const roll = random(seed)
  return onGround('power', async ({ folder, babbler }) => {
    const file = join(tmpdir(), `long-power-${process.pid}-${seed}.trace`)
    const removed = leave(() => rmSync(file, { force: true }))
    try {
      const gateway = await startProcess(folder, babbler.url, { ...GATEWAY, under: traced(file) })
      const line = await openLine(gateway.url, {
        protocol: 4,
        caps: ['stream-offsets', 'delta-only'],
        onEvent() {},
        onGap() {},
      })
      for (let burst = 0; burst < 3; burst += 1) {
        const talk = async (lane: number) => {
          for (let n = 0; n < 6 + Math.floor(roll() * 6); n += 1) {
            const key = `key-${burst}-${lane}-${n}`
            const speech = { seed: Math.floor(roll() * 1e9), pieces: 2 + Math.floor(roll() * 30), longest: 40, gap: 4 }
            const message = question(key, speech)
            await line.ask('chat.send', { sessionKey: SESSIONS[lane]!, message, idempotencyKey: key })
            if (roll() < 0.6) await line.ask('agent.wait', { runId: key, timeoutMs: 20_000 })
          }
        }
        await Promise.all(Array.from({ length: LANES }, (_, lane) => talk(lane)))
        // Longer than it takes to be called idle.
        if (burst < 2) await wait(1_400)
      }
      await gateway.kill()
      line.cut()
      // strace writes its last lines when the process is gone.
      await wait(200)
      return readTrace(file, folder, FILE)
    } finally {
      rmSync(file, { force: true })
      removed()
    }
  })
}

/** Opens what a cut leaves, and compares it with what had been said before. */
async function judge(
  folder: string,
  trace: Trace,
  said: Said,
  at: number,
  how: string,
  image: Map<string, Buffer>,
  tally: Tally,
): Promise<void> {
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  for (const [name, bytes] of image) writeFileSync(join(folder, name), bytes)
  const before = <T extends { at: number }>(list: T[]) => list.filter((each) => each.at < at)
  const where = `cut at ${at} of ${trace.length}, ${how}`
  const store = await openSqliteStore({ path: join(folder, FILE) }).catch((error: Error) =>
    tally.breach('damaged', `${error.message}; ${where}`),
  )
  if (!store) return
  try {
    if (store.incident) tally.breach('incidents for nothing', `${store.incident.reason}; ${where}`)
    const problems = await store.verify()
    if (problems[0]) tally.breach('damaged', `${problems[0]}; ${where}`)
    for (const { key } of before(said.acked)) {
      tally.add('acknowledged before the cut')
      if (!(await store.run(key))) tally.breach('lost', `${key}; ${where}`)
    }
    for (const { key } of before(said.ended))
      if ((await store.run(key))?.state !== 'completed') tally.breach('endings lost', `${key}; ${where}`)
    for (const { key } of before(said.asked)) {
      tally.add('asked of the model before the cut')
      const state = (await store.run(key))?.state
      if (state === undefined || state === 'admitted')
        tally.breach('models asked before the start was kept', `${key} is ${state}; ${where}`)
    }
    // As at boot: these begin a new epoch. Any other goes on where it was.
    const renewed = await store.unfinishedStreams()
    const last = new Map(before(said.events).map((event) => [event.sessionKey, event]))
    for (const { sessionKey, epoch, offset } of last.values()) {
      const stream = await store.stream(sessionKey)
      tally.add('streams compared')
      if (stream?.epoch === epoch && stream.offset < offset && !renewed.includes(sessionKey))
        tally.breach('old epochs', `${sessionKey} was told ${offset}, and is at ${stream.offset}; ${where}`)
    }
  } finally {
    await store.close()
  }
}

export const power: Suite = {
  summary:
    'a power cut at any moment, whatever of the unsynced is lost, loses nothing that was acknowledged or announced',
  few: 3,
  many: 200,
  async run({ rounds, seed, say }: Rounds) {
    const tally = createTally([
      'images',
      'acknowledged before the cut',
      'asked of the model before the cut',
      'streams compared',
      ...BREACHES,
    ])
    try {
      // Where there is one that may not trace, it fails.
      execFileSync('strace', ['-D', '-f', '--seccomp-bpf', '-o', '/dev/null', 'true'], { stdio: 'ignore' })
    } catch {
      tally.add('not tried: strace is not there, or may not trace')
      return tally
    }
    const folder = mkdtempSync(join(tmpdir(), 'long-power-image-'))
    const removed = leave(() => rmSync(folder, { recursive: true, force: true }))
    try {
      for (let first = 0; first < rounds; first += IMAGES_A_RECORDING) {
        const trace = await record(seed + first)
        const said = readSaid(trace)
        tally.add('calls recorded', trace.changes.length + trace.syncs.length + trace.namings.length)
        if (said.acked.length === 0 || said.asked.length === 0 || said.events.length === 0)
          throw new Error('the recording says nothing: frames are not what they were')
        const roll = random(seed + first + 1)
        for (let image = first; image < Math.min(rounds, first + IMAGES_A_RECORDING); image += 1) {
          const fate = FATES[image % FATES.length]!
          // Anywhere, or right behind something that was said.
          const moments = [said.acked, said.ended, said.asked, said.events][Math.floor(roll() * 4)]!
          const near = moments[Math.floor(roll() * moments.length)]!.at + 1 + Math.floor(roll() * 3)
          const at = roll() < 0.5 ? near : Math.floor(roll() * trace.length)
          const how = `${fate} (image ${image}, seed ${seed})`
          await judge(join(folder, 'state'), trace, said, at, how, cutPower(trace, at, fate, roll), tally)
          tally.add('images')
        }
        say(`${Math.min(rounds, first + IMAGES_A_RECORDING)} images, ${tally.broken.length} broken`)
      }
    } finally {
      rmSync(folder, { recursive: true, force: true })
      removed()
    }
    return tally
  },
}

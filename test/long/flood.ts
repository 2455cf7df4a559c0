/** Floods from many addresses: sockets that never say who they are, requests without end, guesses; and somebody honest meanwhile. */
import { spawn } from 'node:child_process'
import { connect, type Socket } from 'node:net'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import {
  closeOf,
  connectFrame,
  dial,
  frame,
  OPCODE,
  type RawLine,
  request,
  textsOf,
  UPGRADE,
  upgraded,
} from '../security/raw-line.ts'
import { type Frame, TOKEN } from '../support/gateway.ts'
import { type GatewayProcess, startProcess } from '../support/gateway-process.ts'
import { leave } from '../support/leftovers.ts'
import { type Ground, onGround, wait } from './ground.ts'
import type { Stretch } from './honest.ts'
import { watchMemory } from './memory.ts'
import { type Report, type Rounds, random, type Suite } from './suite.ts'
import { createTally, type Tally } from './tally.ts'

const HONEST = fileURLToPath(new URL('./honest.ts', import.meta.url))
const HONEST_ADDRESS = '127.200.0.1'
/** Addresses that a flood comes from, others for each. */
const ADDRESSES = 60
const NETWORKS = { door: 1, asking: 2, guessing: 3, proxies: 9 }
const addressIn = (network: keyof typeof NETWORKS, n: number) => `127.${NETWORKS[network]}.0.${1 + (n % ADDRESSES)}`
/** Listed proxies that clients come through, and those clients, each of them as it may be written. */
const PROXIES = '127.9.0.0/16'
const spellings = (n: number) => [
  `203.0.113.${1 + n}`,
  `::ffff:203.0.113.${1 + n}`,
  `::ffff:cb00:71${(1 + n).toString(16).padStart(2, '0')}`,
]

/** What the gateway promises, as it is set here. */
const PLACES = { ofOne: 32, inAll: 512 }
const LOOKS_A_MINUTE = 10
/** Of those that are slowed and not locked out: ten at once, five that are delayed by up to 5 s, then one in 5 s. */
const SLOWED_LOOKS_A_MINUTE = 26
const MINUTE = 60_000
const RATE = 100
const BURST = 200
/** A silent socket is gone by then, in ms: the time for a handshake, with room for a busy machine. */
const SILENT_MS = 20_000

/** Guesses for each socket of either kind that stands at the door, and for each second of requests. */
const GUESSES_A_SOCKET = 10
const GUESSES_A_SECOND = 2_000
/** Calm before and after, in ms at the most. */
const CALM_MS = 8_000
const AT_ONCE = 32
/** Those who ask without end, and how much of it: three times what they may. */
const ABUSERS = 50
const ASKED_EVERY_MS = 100
const ASKED_AT_ONCE = (3 * RATE * ASKED_EVERY_MS) / 1_000
/** What a flood at the door may cost, and what the garbage collector may leave lying about. */
const DOOR_BYTES = 64 * 2 ** 20
const GARBAGE_BYTES = 64 * 2 ** 20

const MALFORMED = [
  '\x16\x03\x01\x02\x00\x01',
  'GET / HTTP/9.9\r\n\r\n',
  'GET / HTTP/1.1\r\nUpgrade: websocket\r\n',
  '\0',
]

const BREACHES = [
  'honest ones who were refused',
  'honest requests that were lost',
  'more at the door than there are places',
  'silent ones that stayed',
  'requests served beyond the allowance',
  'abusers ended in another way',
  'looks beyond those of a minute',
  'guesses answered in another way',
  'right values taken of who is locked out',
  'MiB of memory beyond what a flood may cost',
]

export const flood: Suite = {
  summary:
    'floods from many addresses cost little and gain nothing, and whoever is honest is let in and answered meanwhile',
  few: 2_400,
  many: 100_000,
  run: (how) => onGround('flood', (ground) => withstand(ground, how)),
}

interface Stage {
  port: number
  roll(): number
  tally: Tally
  seed: number
}

/** @param rounds guesses; the rest follows from that */
async function withstand({ folder, babbler }: Ground, { rounds, seed, say }: Rounds): Promise<Report> {
  const tally = createTally([
    'sockets at the door',
    'of these turned away with 503',
    'of these ended without a word',
    'at the door at the most, of all addresses',
    'at the door at the most, of one address',
    'abusive connections',
    'requests of theirs',
    'of these served',
    'of these told to come back',
    'abusers ended with 1008 rate limited',
    'guesses',
    'looked at',
    'looked at in a minute at the most, of one client afar',
    'looked at in a minute at the most, of all pages here',
    'looked at in a minute at the most, of all programs here',
    'refused with AUTH_RATE_LIMITED',
    'turned away at the door',
    'MiB of memory before',
    'MiB at the most while they stood at the door',
    'MiB at the most while they asked',
    'MiB at the most while they guessed',
    'MiB of memory after',
    ...BREACHES,
  ])
  const figures: Record<string, string> = {}
  const gateway = await startProcess(folder, babbler.url, { gateway: { trustedProxies: [PROXIES] } })
  const honest = startHonest(gateway)
  const memory = watchMemory(gateway.pid)
  const mib = (bytes: number) => Math.round(bytes / 2 ** 20)
  try {
    const stage: Stage = { port: Number(new URL(gateway.url).port), roll: random(seed), tally, seed }
    const calmMs = Math.min(CALM_MS, rounds)
    /** Ends a stretch of the honest one; whatever they were refused in it is a breach. */
    const heard = async (name: string) => {
      const stretch = await honest.next()
      figures[`honest requests ${name}`] = spread(stretch.requests)
      figures[`honest logins ${name}`] = spread(stretch.logins)
      for (const why of stretch.lost) tally.breach('honest requests that were lost', `${why}, ${name} (seed ${seed})`)
      return stretch
    }
    const heardWell = async (name: string) => {
      const { refused, logins } = await heard(name)
      for (const why of refused) tally.breach('honest ones who were refused', `${why}, ${name} (seed ${seed})`)
      if (logins.length === 0) tally.breach('honest ones who were refused', `nobody came in ${name} (seed ${seed})`)
    }

    await honest.ready
    await wait(Math.min(1_000, calmMs))
    await honest.next()
    await wait(calmMs)
    await heardWell('before')
    const before = memory.now()
    tally.add('MiB of memory before', mib(before))

    memory.most()
    const crowd = await standAtTheDoor(stage, Math.ceil(rounds / GUESSES_A_SOCKET))
    await heardWell('while they stood at the door')
    const atTheDoor = memory.most()
    tally.add('MiB at the most while they stood at the door', mib(atTheDoor))
    const above = atTheDoor - before - DOOR_BYTES - GARBAGE_BYTES
    if (above > 0)
      tally.breach(
        'MiB of memory beyond what a flood may cost',
        `${mib(above)} MiB too many at the door (seed ${seed})`,
      )
    say(`${tally.counts['sockets at the door']} sockets at the door`)

    await askWithoutEnd(stage, Math.max(2_000, (rounds / GUESSES_A_SECOND) * 1_000))
    await heardWell('while they asked')
    tally.add('MiB at the most while they asked', mib(memory.most()))
    say(`${tally.counts['requests of theirs']} requests`)

    const fromAfar = Math.ceil(rounds * 0.7)
    const guesses = createGuesses(stage)
    await guesses.make(fromAfar, (n) => (n % 3 === 0 ? 'page' : 'afar'))
    await heardWell('while they guessed')
    tally.add('MiB at the most while they guessed', mib(memory.most()))
    say(`${fromAfar} guesses from afar and by pages`)
    await guesses.tryRight()

    await wait(calmMs)
    await heardWell('after')
    tally.add('MiB of memory after', mib(memory.now()))

    // Whoever is on this machine is one, and waits like all who guess there: to come in, not once they are in.
    await guesses.make(rounds - fromAfar, () => 'here')
    const { refused } = await heard('while programs here guessed')
    figures['honest logins while programs here guessed'] += `, ${refused.length} told to come back`
    guesses.judge()
    await crowd.allGone()
  } finally {
    memory.stop()
    honest.end()
    await gateway.kill()
  }
  return { counts: { ...figures, ...tally.counts }, broken: tally.broken }
}

/** Half of them, and all but one of a hundred, took no longer than this. */
function spread(times: number[]): string {
  if (times.length === 0) return 'none'
  const sorted = times.toSorted((a, b) => a - b)
  const at = (share: number) => (sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0).toFixed(1)
  return `p50 ${at(0.5)} ms, p99 ${at(0.99)} ms of ${times.length}`
}

function startHonest({ url }: GatewayProcess) {
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', HONEST, url, HONEST_ADDRESS], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const gone = leave(() => child.kill('SIGKILL'))
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const read = async () => {
    const { value, done } = await lines.next()
    if (done) throw new Error('the honest one has ended')
    return value
  }
  return {
    ready: read(),
    async next(): Promise<Stretch> {
      child.stdin.write('next\n')
      return JSON.parse(await read()) as Stretch
    },
    end() {
      child.kill('SIGKILL')
      gone()
    },
  }
}

/** Sockets that are silent, begin and do not go on, or talk nonsense: so many of the silent ones and as many of the others. */
async function standAtTheDoor({ port, tally, seed }: Stage, each: number) {
  const standing = new Map<Socket, { address: string; since: number }>()
  let opened = 0
  const open = async () => {
    while (opened < 2 * each) {
      const n = opened++
      // Every other one comes from the same address, so that it alone would fill the door.
      const address = addressIn('door', n % 4 < 2 ? 0 : n)
      const socket = connect({ port, host: '127.0.0.1', localAddress: address })
      socket.on('error', () => {})
      let isToldWhy = false
      socket.on('data', (data) => {
        isToldWhy ||= data.toString('latin1').startsWith('HTTP/1.1 503')
      })
      socket.on('close', () => {
        standing.delete(socket)
        tally.add(isToldWhy ? 'of these turned away with 503' : 'of these ended without a word')
      })
      await new Promise<void>((resolve) => socket.once('connect', resolve).once('close', () => resolve()))
      if (socket.destroyed) continue
      standing.set(socket, { address, since: Date.now() })
      if (n % 2 === 1) socket.write(MALFORMED[n % MALFORMED.length]!)
      else if (n % 6 === 0) socket.write(request('GET / HTTP/1.1', UPGRADE))
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, open))
  tally.add('sockets at the door', opened)
  // Those that are on their way out are given the time to go.
  await wait(500)
  const counted = Map.groupBy(standing.values(), ({ address }) => address)
  const most = Math.max(...[...counted.values()].map((those) => those.length))
  tally.most('at the door at the most, of all addresses', standing.size)
  tally.most('at the door at the most, of one address', most)
  if (standing.size > PLACES.inAll || most > PLACES.ofOne)
    tally.breach(
      'more at the door than there are places',
      `${standing.size} in all, ${most} of one address (seed ${seed})`,
    )
  return {
    async allGone(): Promise<void> {
      while ([...standing.values()].some(({ since }) => Date.now() - since < SILENT_MS)) await wait(100)
      if (standing.size > 0)
        tally.breach('silent ones that stayed', `${standing.size} are still there after ${SILENT_MS} ms (seed ${seed})`)
      for (const socket of standing.keys()) socket.destroy()
    },
  }
}

/** Those who are let in ask three times as much as they may; who is ended for that comes again. */
async function askWithoutEnd(stage: Stage, forMs: number): Promise<void> {
  const until = Date.now() + forMs
  await Promise.all(
    Array.from({ length: ABUSERS }, async (_, n) => {
      await wait((n * ASKED_EVERY_MS) / ABUSERS)
      while (Date.now() < until) await abuse(stage, addressIn('asking', n), until)
    }),
  )
}

const QUESTIONS = Buffer.concat(
  Array.from({ length: ASKED_AT_ONCE }, () => frame(JSON.stringify({ type: 'req', id: 'q', method: 'health' }))),
)

async function abuse({ port, tally, seed }: Stage, localAddress: string, until: number): Promise<void> {
  const line = await upgraded(port, [], localAddress)
  line.write(frame(connectFrame()))
  await line.until(({ frames }) => textsOf(frames).some(({ id }) => id === 'c'))
  line.frames.splice(0)
  tally.add('abusive connections')
  const began = performance.now()
  let served = 0
  let close: ReturnType<typeof closeOf>
  const count = () => {
    const frames = line.frames.splice(0)
    close ??= closeOf(frames)
    for (const { opcode, payload } of frames) {
      if (opcode !== OPCODE.text || !payload.subarray(0, 20).includes('"res"')) continue
      const isServed = payload.subarray(0, 64).includes('"ok":true')
      served += Number(isServed)
      tally.add(isServed ? 'of these served' : 'of these told to come back')
    }
  }
  while (Date.now() < until && !line.isGone && !close) {
    line.write(QUESTIONS)
    tally.add('requests of theirs', ASKED_AT_ONCE)
    await Promise.race([wait(ASKED_EVERY_MS), line.gone])
    count()
  }
  await Promise.race([wait(ASKED_EVERY_MS), line.gone])
  count()
  const seconds = (performance.now() - began) / 1_000
  line.close()
  const allowed = BURST + RATE * seconds
  if (served > allowed)
    tally.breach('requests served beyond the allowance', `${served} in ${seconds.toFixed(1)} s (seed ${seed})`)
  if (!close && Date.now() >= until) return
  if (close?.reason === 'rate limited') tally.add('abusers ended with 1008 rate limited')
  else tally.breach('abusers ended in another way', `with ${JSON.stringify(close)} (seed ${seed})`)
}

/** Where a guess comes from: a client behind a listed proxy, a page on this machine, a program on it. */
type From = 'afar' | 'page' | 'here'

function createGuesses({ port, roll, tally, seed }: Stage) {
  /** When a value of each guesser was looked at. */
  const looks = new Map<string, number[]>()
  let made = 0

  /** The line that a guess is made on, and whose it is. */
  async function come(from: From): Promise<{ line: RawLine; guesser: string }> {
    const n = Math.floor(roll() * ADDRESSES)
    const ways = {
      afar: () => ({
        guesser: `afar ${n}`,
        localAddress: addressIn('proxies', made),
        headers: [`X-Forwarded-For: ${spellings(n)[Math.floor(roll() * 3)]}`],
      }),
      page: () => ({ guesser: 'page', localAddress: addressIn('guessing', n), headers: ['Origin: http://localhost'] }),
      here: () => ({ guesser: 'here', localAddress: addressIn('guessing', n), headers: [] }),
    }
    const { guesser, localAddress, headers } = ways[from]()
    return {
      line: await dial(port, { text: request('GET / HTTP/1.1', [...UPGRADE, ...headers]), localAddress }),
      guesser,
    }
  }

  /** Shows a credential. Resolves to what came of it: the code of the refusal, `let in`, or what else the line was told. */
  async function show(from: From, auth: object): Promise<{ said: string; guesser: string }> {
    const { line, guesser } = await come(from)
    try {
      await line.until(({ frames }) => frames.length > 0)
      line.write(frame(connectFrame({ auth })))
      let answer: Frame | undefined
      await line.until(({ frames }) => {
        answer = textsOf(frames).find(({ id }) => id === 'c')
        return answer !== undefined
      })
      if (answer) return { said: answer['ok'] ? 'let in' : answer['error'].details.code, guesser }
      return { said: line.received.toString('latin1').split('\r\n', 1)[0]!, guesser }
    } finally {
      line.close()
    }
  }

  /** A value that was not shown before, as any client might spell it. */
  function wrong(): object {
    const token = `guess ${seed} ${made++}`
    const spelled = [
      { token },
      { token, deviceToken: `bogus ${token}` },
      { deviceToken: token },
      { token, password: token },
    ]
    return spelled[Math.floor(roll() * spelled.length)]!
  }

  async function guess(from: From): Promise<void> {
    const { said, guesser } = await show(from, wrong())
    tally.add('guesses')
    switch (said) {
      case 'AUTH_TOKEN_MISMATCH':
        tally.add('looked at')
        looks.set(guesser, [...(looks.get(guesser) ?? []), Date.now()])
        return
      case 'AUTH_RATE_LIMITED':
        return tally.add('refused with AUTH_RATE_LIMITED')
      case 'HTTP/1.1 503 Service Unavailable':
        return tally.add('turned away at the door')
      default:
        tally.breach('guesses answered in another way', `${said} to ${guesser} (seed ${seed})`)
    }
  }

  return {
    async make(many: number, fromOf: (n: number) => From): Promise<void> {
      let next = 0
      const work = async () => {
        while (next < many) await guess(fromOf(next++))
      }
      await Promise.all(Array.from({ length: AT_ONCE }, work))
    },
    /** Whoever is locked out shows the right value. */
    async tryRight(): Promise<void> {
      for (const from of ['afar', 'page'] as const) {
        const { said, guesser } = await show(from, { token: TOKEN })
        const isLocked = (looks.get(guesser)?.length ?? 0) >= LOOKS_A_MINUTE
        if (isLocked && said !== 'AUTH_RATE_LIMITED')
          tally.breach('right values taken of who is locked out', `${said} to ${guesser} (seed ${seed})`)
      }
    },
    judge(): void {
      for (const [guesser, times] of looks) {
        const most = mostInAMinute(times)
        const name =
          guesser === 'here' ? 'all programs here' : guesser === 'page' ? 'all pages here' : 'one client afar'
        tally.most(`looked at in a minute at the most, of ${name}`, most)
        if (most > (guesser === 'here' ? SLOWED_LOOKS_A_MINUTE : LOOKS_A_MINUTE))
          tally.breach('looks beyond those of a minute', `${most} of ${guesser} (seed ${seed})`)
      }
    },
  }
}

function mostInAMinute(times: number[]): number {
  const sorted = times.toSorted((a, b) => a - b)
  return Math.max(0, ...sorted.map((at, n) => sorted.filter((other, m) => m >= n && other - at < MINUTE).length))
}

/** Clients that are cut off while sessions stream, and come back with where they were: they hear every letter once. */
import { answerTo, question, type Speech } from '../support/babbler.ts'
import type { Frame } from '../support/gateway.ts'
import { type GatewayProcess, startProcess } from '../support/gateway-process.ts'
import { GATEWAY, type Ground, onGround, wait } from './ground.ts'
import { type Line, openLine } from './line.ts'
import { type Records, readRecords } from './records.ts'
import { type Report, type Rounds, random, type Suite } from './suite.ts'
import { createTally, type Tally } from './tally.ts'

const MOST_SESSIONS = 50
/** Each follows the sessions of its share, so that a cut tears several streams at once. */
const FOLLOWERS = 10
/** One cut in so many is a kill of the gateway, which cuts everybody. */
const CUTS_A_KILL = 100
/** How long the last runs may take to end, in ms. */
const ENDING_MS = 30_000

const CAPABLE = { protocol: 4 as const, caps: ['stream-offsets', 'delta-only'] }

/** A run as it is known to whoever asked for it. */
interface Run {
  key: string
  sessionKey: string
  /** All that the model has to say. */
  answer: string
  /** What the client that was never cut heard; undefined when it was not there from the first to the last letter. */
  oracle: string | undefined
}

/** A run as somebody heard it. */
interface Heard {
  text: string
  /** What its terminal event said, or the snapshot. */
  ending: string | undefined
}

export const replay: Suite = {
  summary: 'who is cut off and comes back hears everything once, in order and to the letter, or is told that it cannot',
  few: 100,
  many: 10_000,
  run: (how) => onGround('replay', (ground) => cutOff(ground, how)),
}

async function cutOff({ folder, babbler }: Ground, { rounds, seed, say }: Rounds): Promise<Report> {
  const roll = random(seed)
  const tally = createTally([
    'cuts',
    'cuts in the middle of a resume',
    'kills of the gateway',
    'sessions',
    'resumes that recovered',
    'events recovered',
    'resumes that answered epoch_changed',
    'runs heard to the end',
    'texts compared with the store',
    'texts compared with those of the one never cut',
    ...BREACHES,
  ])
  const sessions = Array.from({ length: Math.min(MOST_SESSIONS, 10 + rounds / 10) }, (_, n) => `agent:main:s${n}`)
  tally.add('sessions', sessions.length)
  let gateway: GatewayProcess | undefined
  try {
    gateway = await startProcess(folder, babbler.url, GATEWAY)
    const stage: Stage = { roll, tally, runs: new Map(), ends: new Map(), kills: 0, seed }
    const speaker = createSpeaker(stage, sessions)
    const followers = Array.from({ length: FOLLOWERS }, (_, n) =>
      createFollower(
        stage,
        `follower ${n}`,
        sessions.filter((_, at) => at % FOLLOWERS === n),
      ),
    )
    await speaker.come(gateway.url)
    const cuts = () => tally.counts['cuts']!
    while (cuts() < rounds) {
      const until = Math.min(rounds, cuts() + CUTS_A_KILL - 1)
      const { url } = gateway
      await Promise.all(
        followers.map(async (follower) => {
          await follower.come(url)
          while (cuts() < until) {
            tally.add('cuts')
            await follower.cutAndBack(url)
          }
        }),
      )
      say(`${cuts()} cuts, ${tally.counts['runs heard to the end']} runs heard to the end`)
      if (cuts() >= rounds) break
      tally.add('cuts')
      tally.add('kills of the gateway')
      await wait(roll() * 100)
      stage.kills += 1
      await gateway.kill()
      gateway = await startProcess(folder, babbler.url, GATEWAY)
      await speaker.come(gateway.url)
    }
    await speaker.finish()
    const { url } = gateway
    await Promise.all(followers.map((follower) => follower.come(url)))
    await gateway.kill()
    const records = readRecords(folder)
    for (const follower of followers) follower.compare(records)
    for (const problem of records.problems) tally.breach('gaps', `in the file: ${problem} (seed ${seed})`)
  } finally {
    await gateway?.kill()
  }
  return tally
}

const BREACHES = [
  'gaps',
  'duplicates',
  'texts unlike those of the one never cut',
  'texts unlike the model’s',
  'texts unlike the store’s',
  'changes of epoch not reported',
  'positions lost without a kill',
  'resumes refused',
]

/** What all clients of the suite share. */
interface Stage {
  roll(): number
  tally: Tally
  runs: Map<string, Run>
  /** Resolved when a run has ended, as the speaker heard. */
  ends: Map<string, PromiseWithResolvers<void>>
  /** How often the gateway was killed so far. */
  kills: number
  seed: number
}

/** Keeps every session talking, hears everything, and is never cut but by the end of the gateway. */
function createSpeaker(stage: Stage, sessions: string[]) {
  const { roll, runs, ends, tally, seed } = stage
  let line: Line
  let isOver = false
  let talks: Promise<void>[] = []

  const speech = (): Speech => ({
    seed: Math.floor(roll() * 1e9),
    pieces: 5 + Math.floor(roll() * 60),
    longest: 1 + Math.floor(roll() * 30),
    gap: 10 + Math.floor(roll() * 40),
  })

  /** What has been heard of the runs that began on this line. */
  const heard = new Map<string, string>()

  function hear({ event, payload }: Frame): void {
    const run = runs.get(payload?.runId)
    if (!run) return
    if (event === 'agent' && payload.data.phase === 'start') heard.set(run.key, '')
    if (event === 'agent' && payload.stream === 'assistant' && heard.has(run.key))
      heard.set(run.key, heard.get(run.key)! + payload.data.delta)
    if (event === 'chat' && payload.state !== 'delta') {
      run.oracle = heard.get(run.key)
      ends.get(run.key)?.resolve()
    }
  }

  async function talk(sessionKey: string): Promise<void> {
    const here = line
    let isOpen = true
    void here.closed.then(() => {
      isOpen = false
    })
    while (isOpen && !isOver) {
      const key = `k${runs.size}`
      const message = question(key, speech())
      runs.set(key, { key, sessionKey, answer: answerTo(message), oracle: undefined })
      const end = Promise.withResolvers<void>()
      ends.set(key, end)
      const answer = await here.ask('chat.send', { sessionKey, message, idempotencyKey: key })
      if (answer && !answer['ok']) throw new Error(`a turn was refused: ${JSON.stringify(answer)}`)
      // Twice at once: one runs, one waits.
      if (answer && roll() < 0.8) await Promise.race([end.promise, here.closed])
    }
  }

  return {
    async come(url: string): Promise<void> {
      heard.clear()
      line = await openLine(url, {
        ...CAPABLE,
        onEvent: hear,
        onGap: (sentence) => tally.breach('gaps', `${sentence} (seed ${seed})`),
      })
      talks = sessions.map(talk)
    },
    /** Says nothing new, and hears out what has begun. */
    async finish(): Promise<void> {
      isOver = true
      await Promise.all(talks)
      // One runs at a time: when the last has ended, all have.
      const last = new Map([...runs.values()].map(({ sessionKey, key }) => [sessionKey, key]))
      const waits = [...last.values()].map((runId) => line.ask('agent.wait', { runId, timeoutMs: ENDING_MS }))
      for (const answer of await Promise.all(waits))
        if (answer?.['payload'].status === 'timeout') tally.breach('gaps', `no end: ${JSON.stringify(answer)}`)
    },
  }
}

/** Keeps where it was in each of its sessions, and knows nothing else of the past. */
function createFollower(stage: Stage, name: string, sessions: string[]) {
  const { roll, tally, runs } = stage
  const heard = new Map<string, Heard>()
  const positions = new Map<string, { epoch: string; offset: number; kills: number }>()
  let line: Line | undefined
  /** Sessions whose resume has been answered on this line. */
  let joined = new Set<string>()
  /** Runs whose question stood in a snapshot. */
  const recounted = new Set<string>()
  /** What came live before that: it has to be among what the answer gives. */
  let early = new Map<string, Frame[]>()

  const where = (sessionKey: string) => `${name} in ${sessionKey}, cut ${tally.counts['cuts']} (seed ${stage.seed})`

  function hearOf(runId: string): Heard {
    const known = heard.get(runId) ?? { text: '', ending: undefined }
    heard.set(runId, known)
    return known
  }

  /** The next event of a session, live or recovered. */
  function hear({ event, payload }: Frame): void {
    const { sessionKey, epoch, offset } = payload
    const position = positions.get(sessionKey)!
    if (epoch !== position.epoch) {
      // Nothing had been said in the session when it asked.
      if (position.epoch !== 'none')
        tally.breach('changes of epoch not reported', `${epoch} after ${position.epoch}: ${where(sessionKey)}`)
      position.offset = 0
      position.epoch = epoch
    }
    if (offset <= position.offset)
      return tally.breach('duplicates', `${offset} after ${position.offset}: ${where(sessionKey)}`)
    if (offset > position.offset + 1) tally.breach('gaps', `${offset} after ${position.offset}: ${where(sessionKey)}`)
    position.offset = offset
    const run = hearOf(payload.runId)
    if (run.ending !== undefined)
      tally.breach('duplicates', `${payload.runId} goes on after its end: ${where(sessionKey)}`)
    if (event === 'agent' && payload.stream === 'assistant') run.text += payload.data.delta
    if (event === 'chat' && payload.state !== 'delta') {
      run.ending = payload.state
      tally.add('runs heard to the end')
    }
  }

  function onEvent(frame: Frame): void {
    const { payload } = frame
    if (payload?.offset === undefined || !sessions.includes(payload.sessionKey)) return
    if (joined.has(payload.sessionKey)) return hear(frame)
    early.set(payload.sessionKey, [...(early.get(payload.sessionKey) ?? []), frame])
  }

  /** Runs whose end it has not heard: it does not know what became of them after an epoch. */
  const unended = (sessionKey: string) =>
    [...heard].flatMap(([runId, { ending }]) =>
      ending === undefined && runs.get(runId)?.sessionKey === sessionKey ? [runId] : [],
    )

  /** The answer to a resume, in the same turn of the loop in which it came: what is next is live. */
  function join(sessionKey: string, { ok, payload, error }: Frame): void {
    const before = positions.get(sessionKey)
    if (!ok) return tally.breach('resumes refused', `${JSON.stringify(error)}: ${where(sessionKey)}`)
    const { epoch, offset } = payload
    if (payload.recovered) {
      tally.add('resumes that recovered')
      tally.add('events recovered', payload.events.length)
      if (!before || epoch !== before.epoch)
        tally.breach('changes of epoch not reported', `recovered in ${epoch}: ${where(sessionKey)}`)
      for (const event of payload.events) hear(event)
      const reached = positions.get(sessionKey)!.offset
      if (reached !== offset) tally.breach('gaps', `recovered to ${reached}, not to ${offset}: ${where(sessionKey)}`)
    } else {
      if (before) {
        const mayBe = before.kills !== stage.kills || before.epoch === 'none'
        tally.add(`resumes that answered ${payload.reason}`)
        if (!mayBe || payload.reason !== 'epoch_changed' || epoch === before.epoch)
          tally.breach('positions lost without a kill', `${payload.reason} at ${before.offset}: ${where(sessionKey)}`)
      }
      positions.set(sessionKey, { epoch, offset, kills: stage.kills })
      for (const { role, content } of payload.snapshot.messages)
        if (role === 'user') recounted.add(content[0].text.split(' ', 1)[0])
      for (const { runId, state, text } of payload.snapshot.runs) {
        const run = hearOf(runId)
        run.text = text
        if (state !== 'admitted' && state !== 'started') run.ending = state
      }
    }
    positions.get(sessionKey)!.kills = stage.kills
    for (const { payload: live } of early.get(sessionKey) ?? [])
      if (live.epoch !== epoch || live.offset > offset)
        tally.breach('gaps', `${live.offset} came before the answer and is not in it (${offset}): ${where(sessionKey)}`)
    joined.add(sessionKey)
  }

  /** Comes back, and asks for all of its sessions; `answered` resolves when all are answered, or the connection has ended. */
  async function back(url: string): Promise<{ answered: Promise<unknown> }> {
    line?.cut()
    await line?.closed
    if (roll() < 0.3) await wait(roll() * 80)
    joined = new Set()
    early = new Map()
    const here = await openLine(url, {
      ...CAPABLE,
      onEvent,
      onAnswer: (answer, method, { sessionKey }) => {
        if (method === 'chat.resume') join(sessionKey, answer)
      },
      onGap: (sentence) => tally.breach('gaps', `${sentence}: ${name} (seed ${stage.seed})`),
    })
    line = here
    const answers = sessions.map((sessionKey) => {
      const { epoch, offset } = positions.get(sessionKey) ?? {}
      return here.ask('chat.resume', { sessionKey, ...(epoch && { epoch, offset }), runIds: unended(sessionKey) })
    })
    return { answered: Promise.all(answers) }
  }

  const come = async (url: string) => {
    await (await back(url)).answered
  }

  return {
    come,
    /** Is cut, comes back, and listens for a while; or is to be cut again before it has heard all the answers. */
    async cutAndBack(url: string): Promise<void> {
      if (roll() < 0.7) {
        await come(url)
        await wait(roll() * 60)
        return
      }
      const { answered } = await back(url)
      await Promise.race([answered, wait(roll() * 10)])
      if (joined.size < sessions.length) tally.add('cuts in the middle of a resume')
    },
    /** Compares what it has in the end with what stands in the store, what the model said, and what the speaker heard. */
    compare(kept: Records): void {
      for (const { key, sessionKey, state, text } of kept.runs) {
        if (!sessions.includes(sessionKey)) continue
        const run = heard.get(key)
        const { answer, oracle } = runs.get(key)!
        const differs = (what: string, from: string) =>
          tally.breach(
            what,
            `${run?.text.length} characters of ${key} (${state}), not ${from.length}: ${where(sessionKey)}`,
          )
        if (run?.ending === undefined) {
          // What began and ended while it was away, before an epoch that it was told of.
          if (!recounted.has(key)) tally.breach('gaps', `no end of ${key} (${state}): ${where(sessionKey)}`)
          continue
        }
        tally.add('texts compared with the store')
        if (run.text !== text) differs('texts unlike the store’s', text)
        if (state === 'completed' && run.text !== answer) differs('texts unlike the model’s', answer)
        if (oracle === undefined) continue
        tally.add('texts compared with those of the one never cut')
        if (run.text !== oracle) differs('texts unlike those of the one never cut', oracle)
      }
    },
  }
}

/** `kill -9` of a gateway that carries out jobs, over and over: no time of a job is lost, and none is carried out twice. */
import type { CronJob } from '../../src/contract/cron.ts'
import { question } from '../support/babbler.ts'
import type { Peer } from '../support/gateway.ts'
import { type GatewayProcess, startProcess } from '../support/gateway-process.ts'
import { GATEWAY, inStints, type Stint, wait } from './ground.ts'
import { type KeptRun, readRecords } from './records.ts'
import { type Rounds, random, type Suite } from './suite.ts'
import { createTally, type Tally } from './tally.ts'

/** Kills that one state folder lives through. */
const KILLS_A_FOLDER = 15
/** How long what is under way at the end may take. */
const PATIENCE_MS = 60_000
const SPEECH = { pieces: 3, longest: 6, gap: 20 }

/** A job that was acknowledged. */
interface Kept {
  id: string
  kind: 'word' | 'turn'
  /** Of one that is due once, when that is. */
  at: number | undefined
}

export const schedule: Suite = {
  summary: 'kill -9 of a gateway that carries out jobs: none is lost, none is carried out twice for one time',
  few: 2,
  many: 300,
  async run(how) {
    const tally = createTally([
      'kills',
      'acknowledged jobs',
      'firings',
      'turns of jobs',
      'jobs lost',
      'jobs that came back',
      'firings doubled',
      'firings without an end',
      'firings without their turn',
      'turns without their firing',
      'asked twice',
      'damaged files',
    ])
    await inStints('schedule', { rounds: how.rounds, each: KILLS_A_FOLDER }, (stint) => liveThrough(stint, tally, how))
    return tally
  },
}

async function liveThrough({ folder, babbler, first, last }: Stint, tally: Tally, how: Rounds): Promise<void> {
  const roll = random(how.seed + first)
  let round = first
  const where = () => `in round ${round}, seed ${how.seed}`
  const jobs = new Map<string, Kept>()
  const removed = new Set<string>()
  /** Those whose removal was asked for, and not answered. */
  const unsure = new Set<string>()
  let gateway: GatewayProcess | undefined
  /** When the last process was there to carry out what was missed. */
  let servedAt = 0

  async function act(peer: Peer, number: number): Promise<void> {
    const kind = roll() < 0.5 ? 'word' : 'turn'
    const isOnce = roll() < 0.4
    const at = Date.now() + Math.floor(roll() * 1_500)
    const message = question(`job-${round}-${number}`, { seed: number, ...SPEECH })
    const answer = await peer.request('cron.add', {
      name: `job ${round} ${number}`,
      schedule: isOnce ? { kind: 'at', at: new Date(at).toISOString() } : { kind: 'every', everyMs: 1_000 },
      deleteAfterRun: false,
      sessionTarget: kind === 'word' ? 'main' : 'isolated',
      wakeMode: 'next-heartbeat',
      payload: kind === 'word' ? { kind: 'systemEvent', text: 'a word' } : { kind: 'agentTurn', message },
      ...(kind === 'turn' && { delivery: { mode: 'none' } }),
    })
    if (!answer['ok']) return
    const { id } = answer['payload']
    jobs.set(id, { id, kind, at: isOnce ? at : undefined })
    tally.add('acknowledged jobs')
  }

  async function remove(peer: Peer): Promise<void> {
    const id = [...jobs.keys()].find((one) => !removed.has(one) && !unsure.has(one))
    if (id === undefined) return
    unsure.add(id)
    const answer = await peer.request('cron.remove', { id })
    if (answer['ok']) removed.add(id)
  }

  try {
    while (round < last) {
      round += 1
      gateway = await startProcess(folder, babbler.url, GATEWAY)
      const peer = await gateway.connect()
      // What is asked is cut off with the process: then nobody knows, and nothing is claimed.
      const ignore = () => {}
      for (let number = 0; number < 3; number += 1) void act(peer, number).catch(ignore)
      if (roll() < 0.5) void remove(peer).catch(ignore)
      await wait(300 + roll() * 1_800)
      await gateway.kill()
      tally.add('kills')
      await wait(5)
      compare(false)
      if (round % 10 === 0)
        how.say(`${round} kills, ${tally.counts['acknowledged jobs']} jobs, ${tally.broken.length} broken`)
    }
    gateway = await startProcess(folder, babbler.url, GATEWAY)
    const peer = await gateway.connect()
    servedAt = Date.now()
    await wait(1_500)
    for (const id of jobs.keys())
      if (!removed.has(id)) await peer.request('cron.update', { id, patch: { enabled: false } })
    const end = performance.now() + PATIENCE_MS
    while (performance.now() < end) {
      const { payload } = await peer.request('cron.list', { includeDisabled: true })
      if ((payload.jobs as CronJob[]).every(({ state }) => state.runningAtMs === undefined)) break
      await wait(50)
    }
    await gateway.kill()
    compare(true)
  } finally {
    await gateway?.kill()
  }

  /** @param isOver whether nothing may be under way any more */
  function compare(isOver: boolean): void {
    const { runs, jobs: kept, firings, problems } = readRecords(folder)
    for (const problem of problems) tally.breach('damaged files', `${problem} ${where()}`)
    const ofJobs = runs.filter(({ method }) => method === 'cron')
    for (const { id } of jobs.values()) {
      const isKept = kept.has(id)
      if (!isKept && !unsure.has(id)) tally.breach('jobs lost', `${id} ${where()}`)
      if (isKept && removed.has(id)) tally.breach('jobs that came back', `${id} ${where()}`)
    }
    const byKey = new Map<string, KeptRun[]>()
    for (const run of ofJobs) byKey.set(run.key, [...(byKey.get(run.key) ?? []), run])
    for (const [key, several] of byKey)
      if (several.length > 1) tally.breach('firings doubled', `${key}: ${several.length} runs ${where()}`)
    const due = new Set(firings.map(({ jobId, dueAt }) => `cron/${jobId}/${dueAt}`))
    for (const { key } of ofJobs) {
      const id = key.split('/')[1]!
      // With a job goes what is remembered of its firings, and of many only the newest are.
      if (kept.has(id) && !due.has(key) && firings.filter(({ jobId }) => jobId === id).length < 200)
        tally.breach('turns without their firing', `${key} ${where()}`)
    }
    if (!isOver) return
    tally.add('firings', firings.length)
    tally.add('turns of jobs', ofJobs.length)
    for (const { jobId, dueAt, endedAt } of firings) {
      const key = `cron/${jobId}/${dueAt}`
      if (endedAt === undefined) tally.breach('firings without an end', `${key} ${where()}`)
      if (jobs.get(jobId)?.kind === 'turn' && !byKey.has(key))
        tally.breach('firings without their turn', `${key} ${where()}`)
    }
    for (const { id, at } of jobs.values()) {
      if (at === undefined || unsure.has(id)) continue
      const times = firings.filter(({ jobId, status }) => jobId === id && status === 'ok').length
      if (times > 1) tally.breach('firings doubled', `${id}, which is due once: ${times} times ${where()}`)
      const tries = firings.filter(({ jobId }) => jobId === id).length
      if (tries === 0 && at < servedAt) tally.breach('jobs lost', `${id} was never carried out ${where()}`)
    }
    // The model hears a turn once for each time that it was begun.
    const begun = new Map<string, number>()
    for (const { message } of ofJobs) {
      const mark = message.split(' ')[0]!
      begun.set(mark, (begun.get(mark) ?? 0) + 1)
    }
    for (const [mark, times] of begun)
      if ((babbler.asked.get(mark) ?? 0) > times)
        tally.breach('asked twice', `${mark}: ${babbler.asked.get(mark)} times for ${times} turns ${where()}`)
  }
}

/** The jobs: each an actor that waits for its time, and what is carried out then. */
import { randomUUID } from 'node:crypto'
import { scheduleMachine } from '../../machines/schedule.ts'
import type { CronEntry, CronJob } from '../contract/cron.ts'
import { GatewayError } from '../contract/errors.ts'
import type { Payload } from '../contract/index.ts'
import { type Firing, type Json, type RunRecord, type Store, StoreError, type SystemEvent } from '../stores/store.ts'
import { worthHearing } from './acknowledgement.ts'
import type { Agents } from './agents.ts'
import { lastWordsOfEnded } from './endings.ts'
import { createHost, type HostOptions, work } from './host.ts'
import type { Hub } from './hub.ts'
import { awaitedTime, firstTime, nextTime } from './job-times.ts'
import { createLane } from './lane.ts'
import type { Log } from './log.ts'
import type { Runs } from './runs.ts'
import type { Turns } from './turns.ts'

/** What a job is made of. */
export type NewJob = Omit<CronJob, 'id' | 'createdAtMs' | 'updatedAtMs' | 'state' | 'enabled'> & { enabled?: boolean }
/** What of it is to be another; null takes it away. */
export type JobChange = { [M in Exclude<keyof NewJob, 'agentId'>]?: NewJob[M] | undefined } & {
  agentId?: string | null | undefined
}

/** What became of the wish to have a job carried out. */
export type Asked =
  | { ran: false; reason: 'already-running' | 'not-due' }
  /** `fired`: its run's id, once it is on disk; `ended`: it has ended, and that is on disk, or the job was removed. */
  | { ran: true; fired: Promise<string>; ended: Promise<void> }

export interface Schedules {
  /** In no order. */
  list(): CronJob[]
  get(jobId: string): CronJob | undefined
  /**
   * Durable when it resolves.
   * @throws GatewayError INVALID_JOB, TOO_MANY_JOBS
   */
  add(job: NewJob): Promise<CronJob>
  /**
   * Durable when it resolves.
   * @throws GatewayError CRON_JOB_NOT_FOUND, INVALID_JOB
   */
  update(jobId: string, change: JobChange): Promise<CronJob>
  /** Durable when it resolves, to whether there was one. */
  remove(jobId: string): Promise<boolean>
  /**
   * Carries out a job now.
   * @param isForced although it is not due
   * @throws GatewayError CRON_JOB_NOT_FOUND
   */
  run(jobId: string, isForced: boolean): Asked
  /** The newest that have ended, of one job or of all, the newest first. */
  entries(filter: { jobId?: string; limit: number }): Promise<CronEntry[]>
  /** When the next job is due, as far as any is waited for. */
  readonly nextAt: number | undefined
  /** Takes up the jobs that are kept, and what a former process left of them. Call it when the runs are live again. */
  recover(): Promise<{ jobs: number; missed: number; unfinished: number }>
  /** Carries nothing out any more: the next process does. */
  stop(): void
}

export interface SchedulesNeeds {
  store: Pick<Store, 'jobs' | 'keepJob' | 'removeJob' | 'firings' | 'openFirings' | 'run' | 'session'>
  agents: Pick<Agents, 'get' | 'defaultId' | 'mainKey'>
  turns: Pick<Turns, 'admit' | 'startAnew'>
  runs: Pick<Runs, 'ending'>
  hub: Pick<Hub, 'tellAll'>
  /** A session has heard of something that is not to wait. */
  onUrgent(event: SystemEvent, reason: string): void
  /** Whether jobs are carried out by themselves. */
  isOn: boolean
  /** Jobs under way at once. */
  maxConcurrent: number
  log: Log
  /** Wall-clock ms. */
  now(): number
  retryMs?: number
  clock?: NonNullable<HostOptions<typeof scheduleMachine>['clock']>
}

const MOST_JOBS = 1_000
/** Characters of what was said that are kept of a run. */
const SUMMARY_CHARS = 2_000
/** Somebody may have set the clock: each job looks again after so many ms. */
const LONGEST_WAIT_MS = 60_000

/** How a firing ended. */
interface Outcome {
  status: 'ok' | 'error'
  endedAt: number
  error?: string
  summary?: string
  sessionId?: string
}

/** Somebody who waits for a firing. */
interface Waiter {
  fired: PromiseWithResolvers<string>
  ended: PromiseWithResolvers<void>
}

export function createSchedules(needs: SchedulesNeeds): Schedules {
  const { store, agents, turns, runs, hub, onUrgent, isOn, log, now } = needs
  const jobs = new Map<string, CronJob>()
  /** The firings under way. */
  const open = new Map<string, Firing>()
  /** How those ended whose end is yet to be written. */
  const outcomes = new Map<string, Outcome>()
  const waiters = new Map<string, Waiter[]>()
  /** When each job was due the last time, as far as that is remembered here. */
  const lastDue = new Map<string, number>()
  /** Those that are on their way out of the store. */
  const removals = new Map<string, Promise<boolean>>()
  const lane = createLane(needs.maxConcurrent)
  const inside = new Set<string>()

  const host = createHost({
    machine: scheduleMachine.provide({
      actions: {
        storageFailed: (_, { jobId, error }) =>
          log.warn({ jobId, err: error }, 'a step of a job could not be taken; trying again'),
        unexpected: (_, { jobId, event }) => log.debug({ jobId, event }, 'job: an event that means nothing now'),
      },
      actors: {
        look: work(async ({ jobId }) => {
          leave(jobId)
          const job = jobs.get(jobId)
          if (!job?.enabled || !isOn) return { waitMs: null }
          const at = now()
          const due = awaitedTime(job, at)
          if (due === undefined) return { waitMs: null }
          if (due !== job.state.nextRunAtMs) jobs.set(jobId, { ...job, state: { ...job.state, nextRunAtMs: due } })
          return { waitMs: Math.max(0, due - at) }
        }),
        place: work(
          ({ jobId }, signal) =>
            new Promise<void>((resolve) => {
              if (inside.has(jobId)) return resolve()
              signal.addEventListener('abort', () => inside.has(jobId) || lane.leave(jobId), { once: true })
              lane.enter(jobId, '', () => {
                inside.add(jobId)
                resolve()
              })
            }),
        ),
        journalFiring: work(({ jobId, isForced }) => fire(jobId, isForced)),
        carryOut: work(async ({ jobId }) => {
          const firing = open.get(jobId)!
          outcomes.set(jobId, await carryOut(firing))
        }),
        journalEnd: work(({ jobId }) => end(jobId)),
      },
    }),
    onDone: forget,
    onCrash(jobId, error) {
      log.error({ jobId, err: error }, 'a job crashed; it is begun again with the next start')
      forget(jobId)
    },
    ...(needs.clock && { clock: needs.clock }),
  })

  function begin(jobId: string, isOpen: boolean): void {
    host.open(jobId, { jobId, longestMs: LONGEST_WAIT_MS, retryMs: needs.retryMs ?? 1_000, isOpen })
    host.tell(jobId, { type: 'begin' })
  }

  function leave(jobId: string): void {
    inside.delete(jobId)
    lane.leave(jobId)
  }

  function forget(jobId: string): void {
    leave(jobId)
    open.delete(jobId)
    outcomes.delete(jobId)
    lastDue.delete(jobId)
    release(jobId)
  }

  function release(jobId: string): void {
    for (const { fired, ended } of waiters.get(jobId) ?? []) {
      fired.resolve('')
      ended.resolve()
    }
    waiters.delete(jobId)
  }

  const agentOf = ({ agentId }: Pick<CronJob, 'agentId'>): string => agentId ?? agents.defaultId
  /** What was meant for an agent that is not there any more is asked of no other. */
  const whyNobody = (job: CronJob): string | undefined =>
    agents.get(agentOf(job)) ? undefined : `there is no agent "${agentOf(job)}"`
  const mainOf = (job: CronJob): string => `agent:${agentOf(job)}:${agents.mainKey}`
  /** The session that a job is about. */
  const sessionOf = (job: CronJob): string =>
    job.sessionTarget === 'main' ? mainOf(job) : `agent:${agentOf(job)}:cron:${job.id}`

  function tell(job: CronJob, payload: Omit<Payload<'cron'>, 'jobId'>): void {
    hub.tellAll('cron', { jobId: job.id, ...payload }, { about: sessionOf(job) })
  }

  const nextOf = ({ state }: CronJob) => state.nextRunAtMs !== undefined && { nextRunAtMs: state.nextRunAtMs }

  /**
   * Puts a job in the place of the one that is known, and on disk. What the disk refuses is taken back. False when nothing was kept:
   * the firing is known, or somebody removed the job meanwhile.
   */
  async function keep(next: CronJob, more: { firing?: Firing; event?: SystemEvent } = {}): Promise<boolean> {
    const before = jobs.get(next.id)
    jobs.set(next.id, next)
    let isKept = false
    try {
      const removal = removals.get(next.id)
      if (removal) await removal.catch(() => {})
      isKept = jobs.has(next.id) && (await store.keepJob({ job: next, ...more }))
      return isKept && jobs.has(next.id)
    } finally {
      if (!isKept && jobs.get(next.id) === next) {
        if (before) jobs.set(next.id, before)
        else jobs.delete(next.id)
      }
    }
  }

  /** Takes a job away, from the disk first. What is to be kept of it meanwhile waits, and is not kept. */
  async function erase(jobId: string): Promise<boolean> {
    const removal = store.removeJob(jobId).then((isRemoved) => {
      jobs.delete(jobId)
      return isRemoved
    })
    removals.set(jobId, removal)
    try {
      return await removal
    } finally {
      removals.delete(jobId)
    }
  }

  const eventFor = (job: CronJob, text: string): SystemEvent => ({
    id: randomUUID(),
    sessionKey: mainOf(job),
    agentId: agentOf(job),
    text,
    at: now(),
    ...(job.wakeMode === 'now' && { isUrgent: true }),
  })

  /** Writes down that a job's time has come. What only leaves word for a session has ended with that. */
  async function fire(jobId: string, isForced: boolean) {
    const job = jobs.get(jobId)
    if (!job) return { fired: 'refused' as const }
    const at = now()
    const { nextRunAtMs: next } = job.state
    const isDue = job.enabled && isOn && next !== undefined && next <= at
    if (!isDue && !isForced) return { fired: 'refused' as const }
    const dueAt = isDue ? next : Math.max(at, (lastDue.get(jobId) ?? 0) + 1)
    const runId = `cron/${jobId}/${dueAt}`
    const sessionKey = sessionOf(job)
    const firing: Firing = { jobId, dueAt, startedAt: at, sessionKey, runId, job }
    if (job.payload.kind === 'agentTurn') {
      const { nextRunAtMs: _, ...state } = job.state
      const running = { ...job, state: { ...state, runningAtMs: at } }
      // Here before anybody can hear that it began.
      open.set(jobId, firing)
      if (!(await keep(running, { firing }).catch((error) => unopened(jobId, error)))) return skip(jobId, dueAt)
      started(job, firing)
      return { fired: 'open' as const }
    }
    const { text } = job.payload
    const error = whyNobody(job)
    const event = error === undefined ? eventFor(job, text) : undefined
    const endedAt = now()
    const outcome: Outcome =
      error === undefined
        ? { status: 'ok', endedAt, summary: text.slice(0, SUMMARY_CHARS) }
        : { status: 'error', endedAt, error }
    const ended = after(job, firing, outcome)
    const { job: _, runId: __, sessionKey: ___, ...rest } = firing
    const entry: Firing = { ...rest, ...outcome, ...nextOf(ended), durationMs: Math.max(0, endedAt - at) }
    if (!(await keep(ended, { firing: entry, ...(event && { event }) }))) return skip(jobId, dueAt)
    started(job, firing)
    finished(ended, entry)
    if (event?.isUrgent) onUrgent(event, `cron:${jobId}`)
    return { fired: 'ended' as const }
  }

  function unopened(jobId: string, error: unknown): never {
    open.delete(jobId)
    throw error
  }

  /** It was carried out at that time already, before somebody set the clock: its next time is a later one. */
  async function skip(jobId: string, dueAt: number) {
    open.delete(jobId)
    release(jobId)
    lastDue.set(jobId, Math.max(dueAt, lastDue.get(jobId) ?? 0))
    const job = jobs.get(jobId)
    if (job?.state.nextRunAtMs === dueAt) {
      const { nextRunAtMs: _, ...state } = job.state
      const next = nextTime(job, Math.max(now(), dueAt))
      await keep({ ...job, state: { ...state, ...(next !== undefined && { nextRunAtMs: next }) } })
    }
    return { fired: 'refused' as const }
  }

  function started(job: CronJob, { jobId, dueAt, startedAt, runId = '' }: Firing): void {
    lastDue.set(jobId, Math.max(dueAt, lastDue.get(jobId) ?? 0))
    tell(job, { action: 'started', runAtMs: startedAt })
    for (const { fired } of waiters.get(jobId) ?? []) fired.resolve(runId)
  }

  function finished(job: CronJob, firing: Firing): void {
    const { action, ts: _, jobId: __, ...entry } = entryOf(firing)
    tell(job, { action, ...entry })
    log.debug({ jobId: job.id, status: firing.status, ms: firing.durationMs }, 'a job was carried out')
    release(job.id)
  }

  /** A job after one of its times. */
  function after(job: CronJob, { startedAt }: Firing, { status, endedAt, error }: Outcome): CronJob {
    const { nextRunAtMs: _, runningAtMs: __, lastError: ___, consecutiveErrors = 0, ...kept } = job.state
    const errors = status === 'error' ? consecutiveErrors + 1 : 0
    const ended: CronJob = {
      ...job,
      state: {
        ...kept,
        lastRunAtMs: startedAt,
        lastStatus: status,
        lastRunStatus: status,
        lastDurationMs: Math.max(0, endedAt - startedAt),
        ...(errors > 0 && { consecutiveErrors: errors }),
        ...(error !== undefined && { lastError: error }),
      },
    }
    if (!ended.enabled) return ended
    const next = nextTime(ended, endedAt)
    if (next === undefined) return { ...ended, enabled: false }
    return { ...ended, state: { ...ended.state, nextRunAtMs: next } }
  }

  /** Has a turn taken, once, whatever a former process did of that, and waits for its end. */
  async function carryOut({ jobId, job, sessionKey, runId }: Firing): Promise<Outcome> {
    const { payload } = job!
    if (payload.kind !== 'agentTurn') return { status: 'error', endedAt: now(), error: 'there is no turn to take' }
    try {
      const nobody = whyNobody(job!)
      if (nobody !== undefined && !(await store.run(runId!))) return { status: 'error', endedAt: now(), error: nobody }
      const meta: { [name: string]: Json } = { reset: true, job: jobId }
      if (payload.model !== undefined) meta['model'] = payload.model
      if (payload.thinking !== undefined) meta['thinking'] = payload.thinking
      if (payload.timeoutSeconds !== undefined) meta['timeoutMs'] = payload.timeoutSeconds * 1_000
      const admission = await turns.admit({
        principal: `cron:${jobId}`,
        method: 'cron',
        sessionKey: sessionKey!,
        agentId: agentOf(job!),
        key: runId!,
        message: payload.message,
        attachments: [],
        meta,
      })
      if (admission.kind === 'new') (await turns.startAnew(admission.record))()
      const id = admission.kind === 'new' ? admission.record.runId : admission.runId
      await runs.ending(id)
      const run = await store.run(id)
      if (run?.endedAt === undefined) throw new Error(`the run ${id} is not live, and has not ended`)
      return outcomeOf(run)
    } catch (error) {
      if (mayPass(error)) throw error
      log.warn({ jobId, err: error }, 'the turn of a job was refused')
      return { status: 'error', endedAt: now(), error: (error as Error).message.slice(0, SUMMARY_CHARS) }
    }
  }

  /** Writes down how a firing ended. What is forgotten with it is gone when this resolves. */
  async function end(jobId: string) {
    const firing = open.get(jobId)
    const outcome = outcomes.get(jobId)
    const job = jobs.get(jobId)
    if (!job) return { isLast: false }
    if (firing && outcome) {
      const ended = after(job, firing, outcome)
      const { job: asked, ...rest } = firing
      const entry: Firing = {
        ...rest,
        ...outcome,
        durationMs: Math.max(0, outcome.endedAt - firing.startedAt),
        ...nextOf(ended),
      }
      const heard =
        asked?.delivery?.mode === 'announce' && whyNobody(asked) === undefined
          ? worthHearing(outcome.summary ?? outcome.error ?? '')
          : undefined
      const said = `Job "${job.name}" ${outcome.status === 'ok' ? 'says' : 'failed'}: ${heard}`
      const event = heard === undefined ? undefined : eventFor(asked!, said)
      const isNew = await keep(ended, { firing: entry, ...(event && { event }) })
      open.delete(jobId)
      outcomes.delete(jobId)
      if (isNew) {
        finished(ended, entry)
        if (event?.isUrgent) onUrgent(event, `cron:${jobId}`)
      }
    }
    const left = jobs.get(jobId)
    if (!left || removals.has(jobId) || !isOver(left)) return { isLast: false }
    await erase(jobId)
    tell(left, { action: 'removed' })
    return { isLast: true }
  }

  function checked(job: CronJob): CronJob {
    const { payload, sessionTarget } = job
    const invalid = (why: string) => new GatewayError('INVALID_JOB', why)
    if (sessionTarget === 'main' && payload.kind !== 'systemEvent')
      throw invalid('main cron jobs require payload.kind="systemEvent"')
    if (sessionTarget === 'isolated' && payload.kind !== 'agentTurn')
      throw invalid('isolated cron jobs require payload.kind="agentTurn"')
    return job
  }

  /** A job whose next time is the first by the present clock, if it is enabled. */
  function timed(job: CronJob, at: number): CronJob {
    const { nextRunAtMs: _, consecutiveErrors: __, ...state } = job.state
    return { ...job, state: job.enabled ? { ...state, nextRunAtMs: firstTime(job, at) } : state }
  }

  function found(jobId: string): CronJob {
    const job = jobs.get(jobId)
    if (!job) throw missing(jobId)
    return job
  }

  const missing = (jobId: string) =>
    new GatewayError('CRON_JOB_NOT_FOUND', `unknown cron job id: ${jobId.slice(0, 64)}`, {
      details: { jobId: jobId.slice(0, 64) },
    })

  return {
    list: () => [...jobs.values()],
    get: (jobId) => jobs.get(jobId),

    async add(given) {
      if (jobs.size >= MOST_JOBS) throw new GatewayError('TOO_MANY_JOBS', `there are ${jobs.size} jobs; remove some`)
      const at = now()
      const { schedule, enabled = true, deleteAfterRun = schedule.kind === 'at' ? true : undefined, ...rest } = given
      const made = checked({
        ...rest,
        id: randomUUID(),
        enabled,
        ...(deleteAfterRun !== undefined && { deleteAfterRun }),
        createdAtMs: at,
        updatedAtMs: at,
        schedule: anchored(schedule, at),
        state: {},
      })
      firstTime(made, at)
      const job = timed(made, at)
      await keep(job)
      begin(job.id, false)
      tell(job, { action: 'added', ...nextOf(job) })
      return job
    },

    async update(jobId, change) {
      const at = now()
      const before = found(jobId)
      const { schedule, agentId, ...others } = change
      const { agentId: _, ...rest } = before
      const named = agentId === undefined ? before.agentId : (agentId ?? undefined)
      const changed = checked({
        ...rest,
        ...(Object.fromEntries(Object.entries(others).filter(([, value]) => value !== undefined)) as Partial<CronJob>),
        ...(named !== undefined && { agentId: named }),
        ...(schedule && { schedule: anchored(schedule, at) }),
        updatedAtMs: at,
      })
      if (changed.sessionTarget === 'main') delete changed.delivery
      // What has been due stays due, and what is under way goes on as it was.
      const isTimed = schedule !== undefined || changed.enabled !== before.enabled
      if (schedule) firstTime(changed, at)
      const job = isTimed ? timed(changed, at) : changed
      if (!(await keep(job))) throw missing(jobId)
      host.tell(jobId, { type: 'change' })
      tell(job, { action: 'updated', ...nextOf(job) })
      return job
    },

    async remove(jobId) {
      const removal = removals.get(jobId)
      if (removal) await removal
      const job = jobs.get(jobId)
      if (!job) return false
      const isRemoved = await erase(jobId)
      host.tell(jobId, { type: 'remove' })
      if (isRemoved) tell(job, { action: 'removed' })
      return isRemoved
    },

    run(jobId, isForced) {
      const { enabled, state } = found(jobId)
      const stage = host.get(jobId)?.getSnapshot()
      const isBusy = !['known', 'looking', 'idle', 'waiting', 'due', 'unfired'].includes(String(stage?.value))
      if (isBusy) return { ran: false, reason: 'already-running' }
      const isDue = enabled && state.nextRunAtMs !== undefined && state.nextRunAtMs <= now()
      if (!isForced && !isDue) return { ran: false, reason: 'not-due' }
      const waiter: Waiter = { fired: Promise.withResolvers(), ended: Promise.withResolvers() }
      waiters.set(jobId, [...(waiters.get(jobId) ?? []), waiter])
      host.tell(jobId, { type: 'force' })
      return { ran: true, fired: waiter.fired.promise, ended: waiter.ended.promise }
    },

    async entries(filter) {
      return (await store.firings(filter)).map(entryOf)
    },

    get nextAt() {
      const times = [...jobs.values()].flatMap(({ enabled, state }) => (enabled ? (state.nextRunAtMs ?? []) : []))
      return isOn && times.length > 0 ? Math.min(...times) : undefined
    },

    async recover() {
      const [kept, unfinished] = await Promise.all([store.jobs(), store.openFirings()])
      for (const firing of unfinished) open.set(firing.jobId, firing)
      const at = now()
      let missed = 0
      for (const job of kept) {
        jobs.set(job.id, job)
        if (job.enabled && (job.state.nextRunAtMs ?? at) < at) missed += 1
        if (!open.has(job.id) && isOver(job)) {
          jobs.delete(job.id)
          await store.removeJob(job.id)
        } else begin(job.id, open.has(job.id))
      }
      return { jobs: jobs.size, missed: isOn ? missed : 0, unfinished: unfinished.length }
    },

    stop() {
      for (const jobId of host.ids()) host.drop(jobId)
      for (const jobId of waiters.keys()) release(jobId)
    },
  }
}

/** Whether a job has had its only time, went well, and is to be forgotten then. */
const isOver = ({ schedule, enabled, deleteAfterRun, state }: CronJob): boolean =>
  schedule.kind === 'at' &&
  !enabled &&
  deleteAfterRun === true &&
  state.lastStatus === 'ok' &&
  state.runningAtMs === undefined

const anchored = (schedule: CronJob['schedule'], at: number): CronJob['schedule'] =>
  schedule.kind === 'every' ? { ...schedule, anchorMs: schedule.anchorMs ?? at } : schedule

const entryOf = ({ dueAt: _, startedAt, endedAt, job: __, jobId, ...rest }: Firing): CronEntry => ({
  ts: endedAt ?? startedAt,
  jobId,
  action: 'finished',
  ...rest,
  runAtMs: startedAt,
})

/** Whether a turn that was refused may be taken later. */
const mayPass = (error: unknown): boolean =>
  error instanceof StoreError
    ? error.code !== 'SESSION_QUOTA' && error.code !== 'DEDUPE_QUOTA'
    : !(error instanceof GatewayError) || error.isRetryable

function outcomeOf(run: RunRecord): Outcome {
  const { state, error, sessionId, endedAt } = run
  const summary = lastWordsOfEnded(run).slice(0, SUMMARY_CHARS)
  return {
    status: state === 'completed' ? 'ok' : 'error',
    endedAt: endedAt!,
    sessionId,
    ...(summary !== '' && { summary }),
    ...(state !== 'completed' && { error: (error ?? whyNot(run)).slice(0, SUMMARY_CHARS) }),
  }
}

const whyNot = ({ state }: RunRecord): string =>
  state === 'timedOut' ? 'it took longer than its deadline' : 'it was stopped'

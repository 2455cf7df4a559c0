/** From a request for a turn to a run under way: the order of keep, answer, start, wherever the request came from. */
import { createHash, randomUUID } from 'node:crypto'
import { nanoid } from 'nanoid'
import type { AbortReason, RunOutcome } from '../../machines/run.ts'
import { type QueueMode, readQueueMode } from '../contract/queue-mode.ts'
import { isOneShot } from '../contract/session-key.ts'
import type { Json, NewTurn, RunRecord, SessionRecord, Store, TranscriptMessage } from '../stores/store.ts'
import type { Replay } from './replay.ts'
import type { Runs } from './runs.ts'
import type { Sessions } from './sessions.ts'
import type { VerboseLevel } from './stream.ts'
import type { Admission, Supervisor } from './supervisor.ts'

export interface TurnRequest extends Pick<NewTurn, 'chain' | 'sent' | 'answers' | 'earlier' | 'quiet'> {
  principal: string
  method: string
  sessionKey: string
  agentId: string
  /** The client's idempotency key; also the id it wants for the run. */
  key: string
  message: string
  attachments: NewTurn['attachments']
  meta: { [name: string]: Json }
  /** What makes two requests the same, beyond message, attachments and meta: for commands, the text that was typed. */
  typed?: string
}

export interface Turns {
  /** Notes that a request for a turn is on its way to a session, from the moment it came in. Returns its answer. */
  arriving<T>(sessionKey: string, answer: Promise<T>): Promise<T>
  /** Resolves when every turn that was on its way to the session when this was called has been started or refused. */
  arrived(sessionKey: string): Promise<void>
  /** The same for all sessions. */
  arrivedAll(): Promise<void>
  /** Keeps a turn: resolves once it is on disk, or was. */
  admit(request: TurnRequest): Promise<Admission>
  /** Starts a turn that is on disk and acknowledged, in its own queue mode, that of its session, or that of the gateway. */
  start(record: RunRecord, settings?: SessionRecord['settings']): void
  /**
   * Begins a new transcript for a turn that is on disk. Resolves to what starts the turn: it is to be called, and whatever was
   * sent to the session meanwhile waits for it.
   */
  startAnew(record: RunRecord): Promise<() => void>
  /** Ends a turn that needed no run: a command. Durable when it resolves. */
  end(record: RunRecord, outcome: RunOutcome, message: TranscriptMessage): Promise<void>
  /** Ends a turn that was kept and cannot be carried out; it says so like any run. */
  fail(record: RunRecord, error: string): void
  /** Removes a session. Stops what runs in it first. Resolves to whether there was one. */
  remove(sessionKey: string): Promise<boolean>
  /** Begins a new transcript. Stops what runs in the session first. */
  reset(sessionKey: string, agentId: string, principal: string): ReturnType<Store['resetSession']>
  /**
   * Ends what somebody has sent and what has not begun, as `aborted` with the reason `revoked`, and says it to no model. What has begun
   * goes on to its end: it was admitted from somebody who might send it. Resolves when the endings are on disk.
   */
  drop(principal: string): Promise<void>
  /** Starts, ends or resumes what a former process left; drops what those left who are revoked, or whom nobody can answer any more. Resolves to how many of each. */
  recover(): Promise<{ started: number; interrupted: number; resumed: number; dropped: number }>
}

export interface TurnsNeeds {
  store: Pick<Store, 'unsettled' | 'resetSession' | 'settle' | 'deleteSession' | 'session'>
  supervisor: Pick<Supervisor, 'admit' | 'restore' | 'ended'>
  runs: Pick<Runs, 'admit' | 'record' | 'ids'>
  sessions: Pick<Sessions, 'turn' | 'abort'>
  replay: Pick<Replay, 'forget'>
  now(): number
  /** What a turn does when a run is under way, where neither it nor its session says so. */
  queueMode: QueueMode
  /** Whether a principal may still send. */
  stands(principal: string): boolean
  /** What becomes of a run that was under way when the process died. */
  recovery: 'interrupt' | 'resume'
}

/** A turn that the process died of so often is not tried again. */
const MOST_ATTEMPTS = 3

export function createTurns(needs: TurnsNeeds): Turns {
  const { store, supervisor, runs, sessions, replay, now } = needs

  /** Sessions whose transcript is being changed: what is to start there waits until that is done. */
  const holds = new Map<string, Promise<void>>()

  /** Takes a session for oneself, in the order of the calls. Resolves, once it is one's turn, to what gives it back. */
  async function hold(key: string): Promise<() => void> {
    const before = holds.get(key)
    const { promise, resolve } = Promise.withResolvers<void>()
    const released = Promise.all([before, promise]).then(() => {
      if (holds.get(key) === released) holds.delete(key)
    })
    holds.set(key, released)
    await before
    return resolve
  }

  /** Where a turn stands was settled when it was asked for: what it waits for, or, if it begins anew, its hold. */
  const places = new WeakMap<RunRecord, { after: Promise<void> | undefined; hold: Promise<() => void> | undefined }>()

  async function renew(
    key: string,
    agentId: string,
    principal: string,
    sessionId: string = randomUUID(),
  ): ReturnType<Store['resetSession']> {
    // Turns that were kept before this in the same turn of the loop are about to be started: they are to be ended, too.
    await new Promise((resolve) => setImmediate(resolve))
    await sessions.abort(key, null, 'reset')
    return store.resetSession({ key, agentId, sessionId, principal }, now())
  }

  function modeOf({ method, meta }: RunRecord, settings: SessionRecord['settings']): QueueMode {
    // Answers that came while a run was under way are heard together.
    if (method === 'answer') return 'collect'
    // Who calls an agent waits for its answer, and nobody else's.
    if (method !== 'chat.send' || meta['reset'] === true) return 'followup'
    return readQueueMode(meta['queueMode']) ?? readQueueMode(settings['queueMode']) ?? needs.queueMode
  }

  /** Makes a turn live, and gives it its turn once the session is free to take it. */
  function begin(record: RunRecord, mode: QueueMode, settings: SessionRecord['settings']): void {
    const { sessionKey, runId } = record
    runs.admit(record, { mode, verbose: verboseOf(settings) })
    const held = places.has(record) ? places.get(record)?.after : holds.get(sessionKey)
    if (!held) return sessions.turn(sessionKey, runId)
    void held.then(() => {
      // It may have been stopped meanwhile.
      if (runs.record(runId)) sessions.turn(sessionKey, runId)
    })
  }

  /** Answers that are being made, by session. */
  const onTheirWay = new Map<string, Set<Promise<unknown>>>()

  const turns: Turns = {
    arriving(sessionKey, answer) {
      const here = onTheirWay.get(sessionKey) ?? new Set()
      onTheirWay.set(sessionKey, here.add(answer))
      const gone = () => {
        here.delete(answer)
        if (here.size === 0 && onTheirWay.get(sessionKey) === here) onTheirWay.delete(sessionKey)
      }
      answer.then(gone, gone)
      return answer
    },
    async arrivedAll() {
      await Promise.allSettled([...onTheirWay.values()].flatMap((here) => [...here]))
    },
    async arrived(sessionKey) {
      // Who made the request waits for the same promise, and began to wait before us: the turn is started before we go on.
      await Promise.allSettled(onTheirWay.get(sessionKey) ?? [])
    },
    async admit({ typed, ...request }) {
      const { key, message, attachments, meta, sessionKey, earlier } = request
      // Behind what was asked for before it, and before what is asked for later, however long the disk takes.
      const place = { after: holds.get(sessionKey), hold: meta['reset'] === true ? hold(sessionKey) : undefined }
      let isPlaced = false
      try {
        const admission = await supervisor.admit({
          ...request,
          runId: key,
          spareRunId: nanoid(),
          sessionId: randomUUID(),
          fingerprint: fingerprint({
            message: typed ?? message,
            attachments: attachments.map(({ sha256 }) => sha256),
            meta,
            earlier,
          }),
          acceptedAt: now(),
        })
        if (admission.kind === 'new') {
          isPlaced = true
          places.set(admission.record, place)
        }
        return admission
      } finally {
        if (!isPlaced) void place.hold?.then((release) => release())
      }
    },
    start: (record, settings = {}) => begin(record, modeOf(record, settings), settings),
    async startAnew(record) {
      const { sessionKey, agentId, runId, principal } = record
      const release = await (places.get(record)?.hold ?? hold(sessionKey))
      try {
        // A job that comes again and again leaves no transcript behind for each of its times.
        await renew(sessionKey, agentId, principal, record.method === 'cron' ? record.sessionId : undefined)
      } catch (error) {
        release()
        // It is on disk and acknowledged as that: it ends like any other run.
        return () => {
          runs.admit(record, {
            outcome: { state: 'failed', error: `the session could not be begun anew: ${(error as Error).message}` },
          })
        }
      }
      return () => {
        runs.admit(record)
        sessions.turn(sessionKey, runId)
        release()
      }
    },
    async end(record, outcome, message) {
      const payloads = message.content.flatMap(({ type, text }) =>
        type === 'text' && typeof text === 'string' ? [{ text, mediaUrl: null }] : [],
      )
      await store.settle(record.runId, { ...outcome, endedAt: now(), message, result: { payloads } })
      supervisor.ended(record, outcome)
    },
    fail: (record, error) => runs.admit(record, { outcome: { state: 'failed', error } }),
    async reset(key, agentId, principal) {
      const holding = hold(key)
      // What was sent before is ended with the rest; what is sent later waits for the new transcript.
      await turns.arrived(key)
      const release = await holding
      return renew(key, agentId, principal).finally(release)
    },
    async remove(key) {
      const holding = hold(key)
      // What was sent before is removed with it; none of it waits for this hold. What is sent later does.
      await turns.arrived(key)
      const release = await holding
      try {
        await sessions.abort(key, null, 'reset')
        const removed = await store.deleteSession(key)
        replay.forget(key)
        return removed
      } finally {
        release()
      }
    },
    async drop(principal) {
      const end = () =>
        Promise.all(
          runs.ids().map((runId) => {
            const run = runs.record(runId)
            if (run?.principal !== principal || run.startedAt !== undefined) return undefined
            return sessions.abort(run.sessionKey, runId, 'revoked')
          }),
        )
      const waiting = end()
      // What was on its way to the disk comes to wait after this.
      await turns.arrivedAll()
      await Promise.all([waiting, end()])
    },
    async recover() {
      const counts = { started: 0, interrupted: 0, resumed: 0, dropped: 0 }
      // As the queues stood: what was under way comes first, then what interrupts, which now interrupts nobody any more.
      const order = ({ state, meta }: RunRecord) =>
        state === 'started' ? 0 : meta['queueMode'] === 'interrupt' ? 1 : 2
      for (const record of (await store.unsettled()).toSorted((one, other) => order(one) - order(other))) {
        supervisor.restore(record)
        const { message, attachments, attempt = 1, state, meta, principal } = record
        if (isOneShot(record.sessionKey)) {
          counts.dropped += 1
          runs.admit(record, { outcome: UNAWAITED })
          continue
        }
        if (state === 'admitted' && !needs.stands(principal)) {
          counts.dropped += 1
          runs.admit(record, { outcome: REVOKED })
          continue
        }
        if (state === 'admitted' && record.sent?.expiresAt !== undefined && record.sent.expiresAt <= now()) {
          counts.dropped += 1
          runs.admit(record, { outcome: EXPIRED })
          continue
        }
        // A command has no words for a model: whether it was obeyed before the process died, nobody knows.
        const isCommand = message === '' && attachments.length === 0
        const isResumed = state === 'started' && needs.recovery === 'resume' && attempt < MOST_ATTEMPTS
        if (isCommand || (state === 'started' && !isResumed)) {
          counts.interrupted += 1
          runs.admit(record, { outcome: INTERRUPTED })
          continue
        }
        counts[isResumed ? 'resumed' : 'started'] += 1
        // A turn that was to begin a new transcript: the process may have died between its admission and the reset. Doing it
        // again is harmless, since nothing of the turn is in the transcript yet.
        if (meta['reset'] === true && !isResumed) (await turns.startAnew(record))()
        else {
          const { settings = {} } = (await store.session(record.sessionKey)) ?? {}
          const mode = modeOf(record, settings)
          begin(record, mode === 'interrupt' ? 'followup' : mode, settings)
        }
      }
      return counts
    },
  }
  return turns
}

const verboseOf = ({ verboseLevel }: SessionRecord['settings']): VerboseLevel =>
  verboseLevel === 'on' || verboseLevel === 'full' ? verboseLevel : 'off'

const INTERRUPTED: RunOutcome = {
  state: 'interrupted',
  error: 'the gateway stopped while this run was under way; send it again under a new idempotency key to repeat it',
}

/** Whoever waited for it has gone with the process that it asked. */
const UNAWAITED: RunOutcome = { state: 'aborted', stopReason: 'shutdown' satisfies AbortReason }
const EXPIRED: RunOutcome = { state: 'aborted', stopReason: 'expired' satisfies AbortReason }
const REVOKED: RunOutcome = { state: 'aborted', stopReason: 'revoked' satisfies AbortReason }

/** SHA-256 over a value whose members are put in order first: the same request gives the same digest, however it was spelled. */
function fingerprint(value: unknown): string {
  return createHash('sha256')
    .update(JSON.stringify(ordered(value)))
    .digest('hex')
}

function ordered(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(ordered)
  if (value === null || typeof value !== 'object') return value
  const members = Object.entries(value).filter(([, member]) => member !== undefined)
  // Null-prototype: a member called `__proto__` stays a member.
  return Object.assign(
    Object.create(null),
    Object.fromEntries(members.sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, member]) => [name, ordered(member)])),
  )
}

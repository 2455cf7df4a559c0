/** Admits each request once, and begins crashed sessions again: the hands of `machines/supervisor.ts`. */
import { createActor } from 'xstate'
import type { RunOutcome } from '../../machines/run.ts'
import { supervisorMachine } from '../../machines/supervisor.ts'
import { GatewayError } from '../contract/errors.ts'
import type { NewTurn, RunRecord, RunState, SessionRecord, Store } from '../stores/store.ts'
import type { Log } from './log.ts'
import { createQuota, type Share } from './quotas.ts'

/** What became of a request to run something. */
export type Admission =
  /** It is new, on disk, and yours to start, as the settings of its session say. */
  | { kind: 'new'; record: RunRecord; settings: SessionRecord['settings'] }
  | { kind: 'running'; runId: string; acceptedAt: number }
  | { kind: 'ended'; runId: string; state: RunState; error?: string }

/** The answer that a turn was to bring to a sender has reached it already. */
export class AlreadyHeard extends Error {
  override readonly name = 'AlreadyHeard'
}

export interface Supervisor {
  /**
   * Asks for a turn to be admitted: once per (principal, method, session, key). Resolves when it is on disk, or was.
   * @throws GatewayError IDEMPOTENCY_KEY_REUSED, SEND_DENIED, SESSION_BUSY, TURNS_TOO_LARGE, SESSION_QUARANTINED, DRAINING
   * @throws AlreadyHeard for a turn with `answers`
   * @throws StoreError when it could not be kept
   */
  admit(turn: NewTurn): Promise<Admission>
  /** Remembers a run that a former process admitted. */
  restore(record: RunRecord): void
  /** A run has ended: repeats of its key are answered with this. */
  ended(record: RunRecord, outcome: RunOutcome): void
  crashed(sessionKey: string): void
  /** Forgets the ended runs it has at hand: repeats of their keys are answered from the store, which knows how old they are. */
  forget(): void
  /** Resolves when no turn is on its way to the disk. */
  settled(): Promise<void>
  drain(): void
  stop(): void
}

export interface SupervisorNeeds {
  store: Pick<Store, 'accept' | 'run'>
  log: Log
  /** Whether the session takes no more turns; it has `unfinished` ones: running, waiting, or on their way to it. */
  isFull(sessionKey: string, unfinished: number): boolean
  restartSession(sessionKey: string): void
  /** The policy itself threw: a gateway without it is to be stopped. */
  onCrash(error: unknown): void
  /** Monotonic milliseconds. */
  monotonic(): number
  random(): number
  policy?: { restarts: number; windowMs: number; backoffMs: number; restMs: number }
}

interface Entry {
  fingerprint: string
  /** Settles when the turn is on disk (or is found to have been); rejects when it could not be kept. */
  durable: Promise<Admission>
  runId: string
  acceptedAt: number
  ended: { state: RunState; error?: string } | undefined
  /** Of the bytes of its principal, until it has ended. */
  share: Share | undefined
}

/** Ended runs whose answer is kept at hand; older ones are asked of the store. */
const RECENT = 10_000
/** Bytes of the turns of one principal that have not ended: they are in memory. Of all with the shared credential, and of others. */
const MOST_BYTES_OF_SHARED = 256 * 1024 * 1024
const MOST_BYTES = 64 * 1024 * 1024
/** How long a client that was refused for lack of room should wait, in milliseconds. */
const BUSY_RETRY_MS = 1_000

const ticketOf = ({
  principal,
  method,
  sessionKey,
  key,
}: Pick<RunRecord, 'principal' | 'method' | 'sessionKey' | 'key'>): string =>
  JSON.stringify([principal, method, sessionKey, key])

export function createSupervisor(needs: SupervisorNeeds): Supervisor {
  const { store, log, isFull, restartSession, monotonic, random } = needs
  const policy = needs.policy ?? { restarts: 5, windowMs: 30_000, backoffMs: 100, restMs: 60_000 }
  const entries = new Map<string, Entry>()
  /** Tickets of ended runs, oldest first. */
  const recent = new Set<string>()
  /** Turns without an ending, by session, from the moment they are sent to the disk. */
  const unfinished = new Map<string, number>()
  /** The bytes of the same, by principal. */
  const bytes = createQuota(MOST_BYTES, MOST_BYTES_OF_SHARED)
  /** Admissions on their way to the disk. */
  const journaling = new Set<Promise<Admission>>()
  /** The request being decided: the actor handles `admit` before `send` returns. */
  let asking: { turn: NewTurn; bytes: number; decide: (answer: Promise<Admission>) => void } | undefined

  const sessionIsFull = (key: string) => isFull(key, unfinished.get(key) ?? 0)

  const decide = (answer: Promise<Admission>) => asking!.decide(answer)
  const refuse = (...error: ConstructorParameters<typeof GatewayError>) =>
    decide(unlessKept(asking!.turn, new GatewayError(...error)))

  const actor = createActor(
    supervisorMachine.provide({
      guards: {
        isReused: (_, { ticket }) => {
          const entry = entries.get(ticket)
          return entry !== undefined && entry.fingerprint !== asking!.turn.fingerprint
        },
        isLive: (_, { ticket }) => entries.has(ticket),
        isFull: () => sessionIsFull(asking!.turn.sessionKey) || !bytes.hasRoom(asking!.turn.principal, asking!.bytes),
      },
      actions: {
        journal: (_, { ticket }) => {
          const { turn } = asking!
          const { fingerprint, runId, acceptedAt } = turn
          const share = bytes.take(turn.principal, asking!.bytes)
          const entry: Entry = { fingerprint, durable: NOTHING, runId, acceptedAt, ended: undefined, share }
          // From here on, in the same tick as the question, every copy finds this entry.
          entries.set(ticket, entry)
          entry.durable = journal(ticket, entry, turn)
          const done = () => journaling.delete(entry.durable)
          journaling.add(entry.durable)
          entry.durable.then(done, done)
          decide(entry.durable)
        },
        attach: (_, { ticket }) => decide(attach(entries.get(ticket)!)),
        refuseReused: (_, { ticket }) => decide(refuseReused(entries.get(ticket)!, asking!.turn)),
        refuseBusy: () =>
          sessionIsFull(asking!.turn.sessionKey)
            ? refuse('SESSION_BUSY', 'the session has too many turns waiting; try again later', {
                retryAfterMs: BUSY_RETRY_MS,
              })
            : refuse('TURNS_TOO_LARGE', 'your unfinished turns are too large together; try again later', {
                retryAfterMs: BUSY_RETRY_MS,
              }),
        refuseResting: () =>
          refuse('SESSION_QUARANTINED', 'the session failed too often and rests for a while', {
            retryAfterMs: policy.restMs,
          }),
        refuseDraining: () =>
          refuse('DRAINING', 'the gateway is stopping; reconnect and send this again', { retryAfterMs: 2_000 }),
        restart: (_, { id }) => restartSession(id),
        quarantine: (_, { id, restMs }) =>
          log.error({ sessionKey: id, restMs }, 'a session failed too often; it rests'),
        unexpected: (_, { event }) => log.warn({ event }, 'supervisor: an event that means nothing now'),
      },
    }),
    { input: policy },
  )
  actor.subscribe({
    // A throw here is a bug in the policy, not in a session: without a supervisor nothing may be admitted.
    error: (error) => {
      log.error({ err: error }, 'the supervisor crashed; no further turn is admitted')
      needs.onCrash(error)
    },
  })
  actor.start()

  async function journal(ticket: string, entry: Entry, turn: NewTurn): Promise<Admission> {
    const { sessionKey } = turn
    count(sessionKey, 1)
    try {
      const acceptance = await store.accept(turn)
      if (acceptance.kind === 'reused') throw new GatewayError('IDEMPOTENCY_KEY_REUSED', REUSED)
      if (acceptance.kind === 'heard') throw new AlreadyHeard()
      if (acceptance.kind === 'denied') throw new GatewayError('SEND_DENIED', 'send blocked by session policy')
      if (acceptance.kind === 'known') {
        const { run } = acceptance
        count(sessionKey, -1)
        entry.runId = run.runId
        entry.acceptedAt = run.acceptedAt
        // A run that is under way was counted when it came.
        entry.share?.giveBack()
        if (run.endedAt !== undefined) remember(ticket, entry, run)
        return answerFor(entry)
      }
      entry.runId = acceptance.runId
      const { spareRunId: _spare, ...kept } = turn
      const { runId, sessionId, settings } = acceptance
      return { kind: 'new', record: { ...kept, runId, sessionId, state: 'admitted', text: '' }, settings }
    } catch (error) {
      // A request that was refused does not use up its key.
      entries.delete(ticket)
      entry.share?.giveBack()
      count(sessionKey, -1)
      throw error
    }
  }

  function count(sessionKey: string, change: 1 | -1): void {
    const now = (unfinished.get(sessionKey) ?? 0) + change
    if (now > 0) unfinished.set(sessionKey, now)
    else unfinished.delete(sessionKey)
  }

  /** A copy is answered only after the first is on disk; if that fails, the copy fails the same way. */
  async function attach(entry: Entry): Promise<Admission> {
    await entry.durable
    return answerFor(entry)
  }

  /** Refuses a new turn. One that only the store knows is no new one, and is answered. */
  async function unlessKept(turn: NewTurn, refusal: GatewayError): Promise<Admission> {
    const run = await store.run(turn.runId)
    if (!run || ticketOf(run) !== ticketOf(turn)) throw refusal
    if (run.fingerprint !== turn.fingerprint) throw new GatewayError('IDEMPOTENCY_KEY_REUSED', REUSED)
    const { runId, acceptedAt, endedAt, state, error } = run
    return endedAt === undefined
      ? { kind: 'running', runId, acceptedAt }
      : { kind: 'ended', runId, state, ...(error !== undefined && { error }) }
  }

  /** A body is another one only than a body that was kept: if the first comes to nothing, this one is asked for anew. */
  async function refuseReused(entry: Entry, turn: NewTurn): Promise<Admission> {
    const kept = await entry.durable.then(
      () => true,
      () => false,
    )
    if (kept) throw new GatewayError('IDEMPOTENCY_KEY_REUSED', REUSED)
    return admit(turn)
  }

  const answerFor = ({ runId, acceptedAt, ended }: Entry): Admission =>
    ended ? { kind: 'ended', runId, ...ended } : { kind: 'running', runId, acceptedAt }

  function remember(ticket: string, entry: Entry, { state, error }: Pick<RunRecord, 'state' | 'error'>): void {
    entry.ended = { state, ...(error !== undefined && { error }) }
    recent.add(ticket)
    if (recent.size > RECENT) {
      const [oldest] = recent
      recent.delete(oldest!)
      entries.delete(oldest!)
    }
  }

  function admit(turn: NewTurn): Promise<Admission> {
    return new Promise<Admission>((resolve, reject) => {
      asking = { turn, bytes: bytesOf(turn), decide: (answer) => answer.then(resolve, reject) }
      actor.send({ type: 'admit', ticket: ticketOf(turn), sessionKey: turn.sessionKey })
      if (actor.getSnapshot().status !== 'active')
        reject(new GatewayError('DRAINING', 'the gateway takes no new turns', { retryAfterMs: 2_000 }))
      asking = undefined
    })
  }

  return {
    admit,
    restore(record) {
      const { fingerprint, runId, acceptedAt } = record
      count(record.sessionKey, 1)
      const share = bytes.take(record.principal, bytesOf(record))
      entries.set(ticketOf(record), { fingerprint, durable: NOTHING, runId, acceptedAt, ended: undefined, share })
    },
    ended(record, outcome) {
      const ticket = ticketOf(record)
      const entry = entries.get(ticket)
      if (!entry || entry.ended) return
      entry.share?.giveBack()
      count(record.sessionKey, -1)
      remember(ticket, entry, outcome)
    },
    crashed: (sessionKey) =>
      actor.send({ type: 'crashed', id: sessionKey, at: monotonic(), jitter: Math.floor(random() * policy.backoffMs) }),
    forget() {
      for (const ticket of recent) entries.delete(ticket)
      recent.clear()
    },
    async settled() {
      while (journaling.size > 0) await Promise.allSettled(journaling)
    },
    drain: () => actor.send({ type: 'drain' }),
    stop: () => void actor.stop(),
  }
}

/** What a turn takes in memory, about. The pictures of one that a former process admitted are on the disk. */
function bytesOf({
  message,
  meta,
  earlier = [],
  attachments,
}: Pick<NewTurn, 'message' | 'meta' | 'earlier'> & { attachments: object[] }): number {
  const pictures = attachments.reduce((sum, one) => sum + ((one as { bytes?: Uint8Array }).bytes?.length ?? 0), 0)
  const said = earlier.reduce((sum, { text }) => sum + Buffer.byteLength(text), Buffer.byteLength(message))
  return said + Buffer.byteLength(JSON.stringify(meta)) + pictures
}

/** Stands where nobody waits for the disk: the turn was there before. */
const NOTHING: Promise<Admission> = Promise.resolve({ kind: 'running', runId: '', acceptedAt: 0 })
const REUSED = 'this idempotency key was used for another request; use a new key'

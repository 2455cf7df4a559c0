/**
 * How far each session has been heard, and what is done about it after a cut: every event with a place reaches the listeners
 * once and in order, or they are told of a gap.
 */
import type { Result } from '../contract/index.ts'
import { RequestError } from './failures.ts'
import type { RequestOptions } from './requests.ts'

/** Where an event stands in its session's stream. */
export interface Position {
  epoch: string
  offset: number
}

export type Snapshot = Extract<Result<'chat.resume'>, { recovered: false }>['snapshot']

/** Something was said that is not to be had any more as events. */
export interface Gap {
  /** As the gateway spells it, or as it was asked for when nothing had been heard of it. */
  sessionKey: string
  /** `no_position`, `epoch_changed`, `too_old`, `too_large`; `refused`: the gateway does not say what was missed. */
  reason: string
  /** What there is to draw the session from; absent when it was refused. */
  snapshot?: Snapshot
}

/** Where a snapshot was taken. */
export interface Drawn extends Position {
  /** Nothing later was heard, and nothing before it is waiting to be. */
  isNewest: boolean
}

/** A session as a caller spells it. */
export interface Address {
  sessionKey: string
  agentId?: string | undefined
}

/** A run that somebody waits for. */
export interface OpenRun {
  runId: string
  address: Address
  /** Its session as the gateway spells it, once something was heard of it. */
  sessionKey: string | undefined
  /** It is not known how it stood when we began to hear of it. */
  isUnclear: boolean
}

export interface Streams {
  /** Takes an event as it came over the wire. */
  hear(event: string, payload: unknown): void
  /** A turn under this id is on its way to a session, of which nothing may have been heard yet. */
  expect(runId: string, address: Address): void
  /** Nothing will be heard of that turn. */
  forget(runId: string): void
  /** There is another connection. If it tells what was missed, what comes of those who have to catch up waits until they have. */
  reopen(canResume: boolean): void
  /**
   * Asks for what was missed, and delivers it.
   * @throws what makes it pointless to go on with this connection
   */
  catchUp(signal: AbortSignal): Promise<void>
  /** Asks how a run stands. Never rejects: where no answer comes, the next connection asks again. */
  look(runId: string, address: Address): Promise<void>
}

export interface StreamsNeeds {
  ask(method: 'chat.resume', params: object, options: RequestOptions): Promise<unknown>
  /** Hands an event to whoever listens. */
  deliver(event: string, payload: unknown): void
  /** Whether anybody listens to everything that is said. */
  hasListeners(): boolean
  openRuns(): OpenRun[]
  /** Some runs stand as a snapshot says, which was taken at a position; `asked` are those that it ought to hold. */
  sync(runs: Snapshot['runs'], asked: string[], at: Drawn): void
  /** The gateway does not say how these runs stand. */
  fail(runIds: string[], error: Error): void
  gap(gap: Gap): void
  /** This connection cannot give what was missed: another one is to try. */
  onStuck(error: unknown): void
}

/** Sessions that are remembered, and turns of which nothing was heard: the last ones. */
const MOST_REMEMBERED = 1_000
/** Sessions that catch up at the same time. */
const ABREAST = 8
/** Runs that one `chat.resume` may ask for. */
const MOST_RUNS = 64
/** After a refusal that says that trying again helps, but not when. */
const RETRY_MS = 1_000

/** The members of a payload that say where in its session it stands. */
type Place = Position & { from: number; sessionKey: string }

interface Placed {
  event: string
  payload: unknown
  sessionKey: string
  /** The last offset it stands for, and the first. */
  at: Position
  from: number
}

interface Session extends Position {
  sessionKey: string
  /** Texts of which joined pieces were heard, which may tell more than their offsets say: the `seq` of the last one. */
  joined: Map<string, number>
  /** What came while it catches up, which is in part what it will be given. */
  held: Placed[] | undefined
}

type Resumed = Result<'chat.resume'>

/** What an event of a run says of its place in the run. */
interface Piece {
  runId?: string
  seq?: number
  from?: number
  stream?: string
  state?: string
}

/** Whether a piece of text was told before, as part of another that was joined. Notes how far such ones reach. */
function wasJoined(
  joined: Map<string, number>,
  event: string,
  { runId, seq = 0, from, stream, state }: Piece,
): boolean {
  const text = `${runId}\n${event} ${stream ?? ''}`
  if (event === 'chat' && state !== 'delta') {
    for (const other of [...joined.keys()]) if (other.startsWith(`${runId}\n`)) joined.delete(other)
    return false
  }
  const told = joined.get(text)
  if (told !== undefined && seq <= told) return true
  if (from !== undefined) joined.set(text, seq)
  return false
}

export function createStreams(needs: StreamsNeeds): Streams {
  const sessions = new Map<string, Session>()
  /** Turns of which nothing has been heard yet, by the id of their run. */
  const expected = new Map<string, Address>()
  /** Those that were on their way when the connection was cut. */
  let missed: [string, Address][] = []
  /** Runs whose beginning was to be looked at when the connection was cut. */
  let unclear: OpenRun[] = []
  /** What came of unknown sessions while it is not clear which of them a missed turn is in. */
  let held: Placed[] | undefined
  /** How far snapshots of such sessions reach, by epoch. */
  const drawn = new Map<string, number>()

  function remember(sessionKey: string, { epoch, offset }: Position): void {
    const known = sessions.get(sessionKey)
    const joined = known?.epoch === epoch ? known.joined : new Map()
    // Whoever was heard last stands last.
    sessions.delete(sessionKey)
    sessions.set(sessionKey, { epoch, offset, sessionKey, joined, held: known?.held })
    bound(sessions)
  }

  function deliver(event: string, payload: unknown): void {
    const { runId } = (payload ?? {}) as { runId?: string }
    if (runId !== undefined) expected.delete(runId)
    needs.deliver(event, payload)
  }

  /** Delivers an event if it is the next one, and drops it if it was heard. False: something before it is missing. */
  function deliverNext({ event, payload, sessionKey, at, from }: Placed): boolean {
    const known = sessions.get(sessionKey)
    // A stream that one listens to begins anew with its first event.
    const heard = known?.epoch === at.epoch ? known.offset : (drawn.get(at.epoch) ?? (known && 0))
    if (heard !== undefined && at.offset <= heard) return true
    if (heard !== undefined && from !== heard + 1) return false
    remember(sessionKey, at)
    if (!wasJoined(sessions.get(sessionKey)!.joined, event, payload as Piece)) deliver(event, payload)
    return true
  }

  function hear(placed: Placed): void {
    const { sessionKey } = placed
    const session = sessions.get(sessionKey)
    const waiting = session ? session.held : held
    if (waiting) return void waiting.push(placed)
    if (deliverNext(placed)) return
    // A hole in a connection that was not cut. What is missing is asked for, and nothing is heard out of order meanwhile.
    const { epoch } = placed.at
    const known = session ?? { epoch, offset: drawn.get(epoch) ?? 0, sessionKey, joined: new Map() }
    const behind: Session = { ...known, held: [placed] }
    sessions.set(sessionKey, behind)
    recover(behind, new AbortController().signal).catch(needs.onStuck)
  }

  /** Asks until there is an answer that stands. Not repeated over a cut: the next connection begins with asking anew. */
  async function resume(
    { sessionKey, agentId, epoch, offset }: Address & Partial<Position>,
    runIds: string[],
    signal: AbortSignal,
  ): Promise<Resumed | RequestError> {
    const params = {
      sessionKey,
      ...(agentId !== undefined && { agentId }),
      ...(epoch !== undefined && { epoch, offset }),
      ...(runIds.length > 0 && { runIds }),
    }
    for (;;) {
      try {
        return (await needs.ask('chat.resume', params, { repeatable: false })) as Resumed
      } catch (error) {
        if (!(error instanceof RequestError)) throw error
        if (!error.shape.retryable) return error
        await pause(error.shape.retryAfterMs ?? RETRY_MS, signal)
      }
    }
  }

  /** Brings one session up to date from where it was heard last. */
  async function recover(session: Session, signal: AbortSignal): Promise<void> {
    const { sessionKey } = session
    const runIds = needs
      .openRuns()
      .filter((run) => run.sessionKey === sessionKey)
      .slice(0, MOST_RUNS)
      .map(({ runId }) => runId)
    const answer = await resume(session, runIds, signal)
    // Another connection has come meanwhile, and asks anew.
    if (signal.aborted || sessions.get(sessionKey) !== session) return
    const later = session.held ?? []
    session.held = undefined
    if (answer instanceof RequestError) {
      sessions.delete(sessionKey)
      needs.fail(runIds, answer)
      needs.gap({ sessionKey, reason: 'refused' })
    } else if (answer.recovered) {
      for (const { event, payload } of answer.events) {
        const { epoch = answer.epoch, offset = answer.offset } = payload as Partial<Position>
        deliverNext({ event, payload, sessionKey, at: { epoch, offset }, from: offset })
      }
      remember(sessionKey, answer)
    } else {
      remember(sessionKey, answer)
      needs.sync(answer.snapshot.runs, runIds, { ...answer, isNewest: true })
      needs.gap({ sessionKey, reason: answer.reason, snapshot: answer.snapshot })
    }
    for (const placed of later) hear(placed)
  }

  /** Asks how a run stands whose session has no place that is known, and so cannot be asked for what came after it. */
  async function lookAt(
    runId: string,
    address: Address,
    signal: AbortSignal,
    isNewest = false,
  ): Promise<Resumed | RequestError> {
    const answer = await resume(address, [runId], signal)
    if (signal.aborted) return answer
    if (answer instanceof RequestError) needs.fail([runId], answer)
    else if (!answer.recovered) needs.sync(answer.snapshot.runs, [runId], { ...answer, isNewest })
    return answer
  }

  /** Looks at the turns of which nothing was heard before the cut, nor in what was given of other sessions since. */
  async function findExpected(signal: AbortSignal): Promise<void> {
    for (const [runId, address] of missed) {
      if (signal.aborted || !expected.has(runId)) continue
      const answer = await lookAt(runId, address, signal, true)
      if (signal.aborted || answer instanceof RequestError || answer.recovered) continue
      const { epoch, offset, snapshot } = answer
      if (snapshot.runs.some((run) => run.runId === runId && run.state !== 'admitted' && run.state !== 'started'))
        expected.delete(runId)
      const isFollowed = [...sessions.values()].some((session) => session.epoch === epoch)
      // Nothing was missed where nothing was said, or where all of it is heard.
      if (offset === 0 || isFollowed) continue
      // From the first snapshot on, what came is heard.
      if (drawn.has(epoch)) continue
      drawn.set(epoch, offset)
      needs.gap({ sessionKey: address.sessionKey, reason: answer.reason, snapshot })
    }
    if (signal.aborted) return
    const later = held ?? []
    held = undefined
    for (const placed of later) hear(placed)
    drawn.clear()
    for (const { runId, address } of unclear) if (!signal.aborted) await lookAt(runId, address, signal)
  }

  return {
    hear(event, payload) {
      const { epoch, offset, from = offset, sessionKey } = (payload ?? {}) as Partial<Place>
      if (epoch === undefined || offset === undefined || sessionKey === undefined) deliver(event, payload)
      else hear({ event, payload, sessionKey, at: { epoch, offset }, from: from ?? offset })
    },
    expect(runId, address) {
      expected.set(runId, address)
      bound(expected)
    },
    forget: (runId) => void expected.delete(runId),
    reopen(canResume) {
      drawn.clear()
      held = undefined
      missed = []
      unclear = []
      if (!canResume) {
        sessions.clear()
        expected.clear()
        return
      }
      const runs = needs.openRuns()
      const all = needs.hasListeners()
      const wanted = new Set(runs.map(({ sessionKey }) => sessionKey))
      for (const session of [...sessions.values()])
        if (all || wanted.has(session.sessionKey)) sessions.set(session.sessionKey, { ...session, held: [] })
        else sessions.delete(session.sessionKey)
      const waitedFor = new Set(runs.map(({ runId }) => runId))
      for (const runId of [...expected.keys()]) if (!all && !waitedFor.has(runId)) expected.delete(runId)
      for (const { runId, address, sessionKey } of runs)
        if (sessionKey !== undefined && !sessions.has(sessionKey)) expected.set(runId, address)
      missed = [...expected]
      unclear = runs.filter((run) => run.isUnclear && !expected.has(run.runId))
      if (missed.length > 0) held = []
    },
    async catchUp(signal) {
      const behind = [...sessions.values()].filter((session) => session.held).reverse()
      const next = async (): Promise<void> => {
        for (let session = behind.shift(); session && !signal.aborted; session = behind.shift())
          await recover(session, signal)
      }
      await Promise.all(Array.from({ length: ABREAST }, next))
      await findExpected(signal)
    },
    look: (runId, address) =>
      lookAt(runId, address, new AbortController().signal).then(
        () => {},
        (error: unknown) => needs.onStuck(error),
      ),
  }
}

/** Forgets what was put in first where there is too much. */
function bound(map: Map<string, unknown>): void {
  if (map.size > MOST_REMEMBERED) map.delete(map.keys().next().value!)
}

/** Rejects with the signal's reason when it is aborted. */
function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const leave = () => {
      clearTimeout(timer)
      reject(signal.reason)
    }
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', leave)
      resolve()
    }, ms)
    if (signal.aborted) leave()
    else signal.addEventListener('abort', leave, { once: true })
  })
}

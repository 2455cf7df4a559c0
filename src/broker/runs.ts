/** The runs that are under way: each an actor, its stream, and what the model is asked. */
import type { SnapshotFrom } from 'xstate'
import { type AbortReason, type RunOutcome, runMachine } from '../../machines/run.ts'
import type { QueueMode } from '../contract/queue-mode.ts'
import { LONGEST_TIMER_MS } from '../contract/timer.ts'
import type { Answer, Model, Sink } from '../runtimes/runtime.ts'
import { type RunRecord, type Spent, type Store, StoreError, type TranscriptMessage } from '../stores/store.ts'
import { endingOf, failureOf, type RunSoFar, spentOf, toldAtEnd } from './endings.ts'
import { createHost, work } from './host.ts'
import type { Hub } from './hub.ts'
import { createLane } from './lane.ts'
import type { Log } from './log.ts'
import type { Step } from './prompt.ts'
import { createQuota } from './quotas.ts'
import { createQuietStream, createStream, type FailureDetail, type Stream, type VerboseLevel } from './stream.ts'
import type { Toolbox } from './toolbox.ts'

/** How a run ended, for those who waited for it. */
export interface Ended {
  sessionKey: string
  outcome: RunOutcome
  startedAt: number | undefined
  endedAt: number
  /** Messages whose answers it took in. */
  heard: readonly string[]
}

export interface Runs {
  /**
   * Takes a turn that is on disk. It waits for `begin`, or is ended at once in a way that is decided already.
   */
  admit(record: RunRecord, how?: { mode?: QueueMode; verbose?: VerboseLevel; outcome?: RunOutcome }): void
  /** It is the run's turn: it begins as soon as there is room for it. It answers `absorbs` with itself. */
  begin(runId: string, absorbs: string[]): void
  /** Lets a waiting turn join a run that is under way; without effect if that one is over, or answers a call of an agent. */
  steer(runId: string, into: string): void
  /** Tells those who count offsets how many runs of its session come before it. */
  announcePlace(runId: string, place: number): void
  abort(runId: string, reason: AbortReason): void
  /** The connector that answers a live run was given the answers to these messages. */
  heard(runId: string, messageIds: readonly string[]): void
  /**
   * Lets a live run do without its place while it waits for something that may need one. It goes on at once after that, and counts
   * again as soon as there is room.
   */
  away<T>(runId: string, work: () => Promise<T>): Promise<T>
  /** The ending of a live run, once it is on disk and announced; undefined if no such run is live. */
  ending(runId: string): Promise<Ended> | undefined
  /**
   * The next ending of a run of that id, also of one that is yet to be admitted; undefined when the time is up, it is given up, or
   * the principal that asks waits for as many as it may.
   * @param counts of which endings it is to be told; all unless given
   */
  wait(
    runId: string,
    timeoutMs: number,
    principal: string,
    givenUp?: AbortSignal,
    counts?: (ended: Ended) => boolean,
  ): Promise<Ended | undefined>
  /** The live runs of a session in the order of admission, with the text that has been said of each. */
  of(sessionKey: string): { runId: string; state: 'admitted' | 'started'; text: string }[]
  /** Whether a live run was told to begin. */
  hasBegun(runId: string): boolean
  /** What a live turn does when a run is under way. */
  modeOf(runId: string): QueueMode
  /** The turn of a live run. */
  record(runId: string): RunRecord | undefined
  ids(): string[]
  /** Resolves when none is live. */
  idle(): Promise<void>
  /** Leaves every live run to the next process, and every one that is admitted later. */
  dropAll(): void
  readonly size: number
}

export interface RunsNeeds {
  store: Pick<Store, 'start' | 'progress' | 'settle'>
  hub: Pick<Hub, 'publish'>
  log: Log
  now(): number
  /**
   * Prepares what a model is asked, behind the start in the store's queue, so that the user's message is in the transcript by then.
   * Resolves to what asks, which is called once the start is on disk.
   * @param steps what the run has done so far
   */
  prepare(record: RunRecord, steps: readonly Step[]): Promise<Ask>
  toolbox: Pick<Toolbox, 'call'>
  /** How often in one run a model may ask for tools. */
  maxRounds: number
  /** The first start of a run is on disk. */
  onStarted?(record: RunRecord): void
  /** What a run under way has used so far; told after each answer of its models. */
  onSpent?(record: RunRecord, spent: readonly Spent[]): void
  /** A run has ended, in whatever way; it is on disk and announced. */
  onEnded(record: RunRecord, ended: Ended): void
  /** The deadline of a turn that names none, in ms; 0 = none. */
  deadlineMs: number
  /** Runs under way at once. */
  maxConcurrent: number
  /** The same for one agent; absent = as many as of all. */
  maxConcurrentOf?(agentId: string): number | undefined
  /** Milliseconds between tries to write an ending that the disk refused. */
  retryMs?: number
}

/**
 * Asks the agent's model, or whatever stands in for one.
 * @param asking told of each model before it is asked; a fallback comes after the first
 */
export type Ask = (sink: Sink, signal: AbortSignal, asking: (model: Model) => void) => Promise<Answer>

interface Live {
  record: RunRecord
  mode: QueueMode
  /** Whether its session has told it to begin. */
  hasBegun: boolean
  /** What it has done so far, besides what it is saying. */
  steps: Step[]
  stream: Stream
  prepared: Promise<Ask> | undefined
  /** Of its models, the last one last. */
  answers: Answer[]
  /** Rounds of calls, one behind the other, in which a call was wrong. */
  malformed: number
  /** Messages whose answers are in its steps. */
  heard: string[]
  /** The same of answers that only its connector has. */
  passedOn: string[]
  /** What its ending on disk says it heard. */
  keptHeard: readonly string[]
  /** What it waits for without its place. */
  away: number
  /** The model that was asked last. */
  model: Model | undefined
  failure: FailureDetail | undefined
  endedAt: number
  /** What is told at the end. */
  told: TranscriptMessage | undefined
  /** How it ended, once that is on disk. */
  kept: RunOutcome | undefined
  /** Calls the model off: when its state is left, or when the actor threw and can call nothing off any more. */
  calledOff: AbortController
  ended: PromiseWithResolvers<Ended>
}

/** Rounds of calls, one behind the other, in which a call was wrong, until the run ends. */
const MOST_MALFORMED = 3
/** Callers of `agent.wait` at once: over all connections, of all with the shared credential, and of each other principal. */
const MOST_WAITS = 20_000
const MOST_WAITS_OF_SHARED = 10_000
const MOST_WAITS_OF_ONE = 1_000
/** The deadline of a turn in milliseconds, as it asked or by default; 0 = none. */
function deadlineOf({ meta }: Pick<RunRecord, 'meta'>, defaultMs: number): number {
  const { timeoutMs } = meta
  return Math.min(typeof timeoutMs === 'number' ? timeoutMs : defaultMs, LONGEST_TIMER_MS)
}

export function createRuns(needs: RunsNeeds): Runs {
  const { store, hub, log, now, onEnded, retryMs = 1_000 } = needs
  const live = new Map<string, Live>()
  const lane = createLane(needs.maxConcurrent, (agentId) => needs.maxConcurrentOf?.(agentId) ?? needs.maxConcurrent)
  /** All were left to the next process: so is what comes now. */
  let isOver = false
  const idleWaiters: (() => void)[] = []
  const waiting = new Map<string, Set<(ended: Ended) => void>>()
  let waits = 0
  const places = createQuota(MOST_WAITS_OF_ONE, MOST_WAITS_OF_SHARED)

  /** A run that an effect of its own actor is about is live by construction. */
  const get = (runId: string): Live => {
    const run = live.get(runId)
    if (!run) throw new Error(`run ${runId} is not live`)
    return run
  }

  /** The run is over: nobody finds it here any more, and those who waited are told. */
  function finish(run: Live, outcome: RunOutcome): void {
    const { record } = run
    live.delete(record.runId)
    lane.leave(record.runId)
    const ended: Ended = {
      sessionKey: record.sessionKey,
      outcome,
      startedAt: record.startedAt,
      endedAt: run.endedAt,
      heard: run.keptHeard,
    }
    run.ended.resolve(ended)
    for (const wake of waiting.get(record.runId) ?? []) wake(ended)
    onEnded(record, ended)
    if (live.size === 0) for (const wake of idleWaiters.splice(0)) wake()
  }

  const host = createHost({
    machine: runMachine.provide({
      actions: {
        openStream: (_, { runId }) => {
          const { stream, record } = get(runId)
          stream.open(record.startedAt ?? now())
        },
        closeStream: (_, { runId }) => get(runId).stream.close(),
        announceEnd: (_, { runId, outcome }) => {
          const run = get(runId)
          run.stream.end(outcome, run.endedAt, run.told, run.failure)
        },
        storageFailed: (_, { runId, error }) =>
          log.error({ runId, error }, 'the ending of a run could not be kept; trying again'),
        unexpected: (_, { runId, event }) => log.debug({ runId, event }, 'run: an event that means nothing now'),
      },
      actors: {
        journalStart: work(async ({ runId, absorbs }, signal) => {
          const run = get(runId)
          if (absorbs.length > 0) await takeIn(runId, absorbs)
          signal.throwIfAborted()
          const startedAt = now()
          const attempt = run.record.state === 'started' ? (run.record.attempt ?? 1) + 1 : 1
          const started = store.start(runId, startedAt, attempt)
          prepare(run)
          await started
          Object.assign(run.record, { startedAt, state: 'started', text: '' } satisfies Partial<RunRecord>)
          if (attempt === 1) needs.onStarted?.(run.record)
        }),
        takeIn: work(async ({ runId, turns }) => {
          const run = get(runId)
          const text = unsettledText(run)
          const taken = await takeIn(runId, turns)
          if (text !== '') run.steps.push({ kind: 'said', text })
          run.steps.push(...taken)
          prepare(run)
          return turns
        }),
        model: work(async ({ runId }, signal) => {
          const run = get(runId)
          const calledOff = new AbortController()
          run.calledOff = calledOff
          // Not AbortSignal.any, which stays known to its sources for as long as anybody listens to it.
          signal.addEventListener('abort', () => calledOff.abort(signal.reason), { once: true })
          const ask = await run.prepared!
          try {
            const answer = await ask(sinkOf(run, calledOff.signal), calledOff.signal, (model) => {
              run.model = model
            })
            // An ending that cannot be written would be tried for ever.
            if (!answer?.usage || !answer.model) throw new Error('the runtime answered without its usage or its model')
            run.answers.push(answer)
            needs.onSpent?.(run.record, spentOf(run.answers))
            return { stopReason: answer.stopReason, calls: answer.calls?.length ?? 0 }
          } catch (error) {
            run.failure = failureOf(run.model, error)
            throw error
          }
        }),
        callTools: work(({ runId }, signal) => callTools(get(runId), signal)),
        room: work(
          ({ runId }) => new Promise<void>((resolve) => lane.enter(runId, get(runId).record.agentId, resolve)),
        ),
        journalEnd: work(async ({ runId, outcome }) => {
          const run = get(runId)
          await keepEnding(run, outcome)
        }),
      },
    }),
    onDone: (id, snapshot: SnapshotFrom<typeof runMachine>) => finish(get(id), snapshot.context.outcome!),
    onCrash: (id, error) => {
      log.error({ runId: id, err: error }, 'a run crashed')
      const run = live.get(id)
      if (run) void settleCrashed(run)
    },
  })

  function prepare(run: Live): void {
    run.prepared = needs.prepare(run.record, run.steps)
    // Who waits for it comes later, or, after an abort, never.
    run.prepared.catch(() => {})
  }

  /** What a run has said since its last step. */
  const unsettledText = ({ stream, steps }: Live): string =>
    stream.text.slice(steps.reduce((length, step) => length + (step.kind === 'joined' ? 0 : step.text.length), 0))

  /** Calls what the model asked for, all at once. Resolves when its model can be asked again. */
  async function callTools(run: Live, signal: AbortSignal): Promise<void> {
    const { record, stream, answers, steps } = run
    lane.leave(record.runId)
    const rounds = steps.filter(({ kind }) => kind === 'called').length
    if (rounds >= needs.maxRounds)
      throw new Error(
        `the model asked for tools more than ${needs.maxRounds} times; tools.maxRounds sets how often it may`,
      )
    const answer = answers.at(-1)!
    const { calls = [], carried } = answer
    const text = unsettledText(run)
    const outcomes = await Promise.all(
      calls.map(async (call) => {
        const { id: toolCallId, name } = call
        stream.tool({ phase: 'start', name, toolCallId, args: call.arguments })
        const outcome = await needs.toolbox.call(call, record, signal)
        stream.tool({ phase: 'result', name, toolCallId, isError: outcome.isError, result: outcome.text })
        return outcome
      }),
    )
    const wrong = outcomes.find(({ isMalformed }) => isMalformed)
    run.malformed = wrong ? run.malformed + 1 : 0
    if (wrong && run.malformed >= MOST_MALFORMED)
      throw new Error(`the model called tools wrongly ${MOST_MALFORMED} times, one after the other: ${wrong.text}`)
    run.heard.push(...outcomes.flatMap(({ heard = [] }) => heard))
    steps.push({
      kind: 'called',
      text,
      calls,
      ...(carried && { carried }),
      results: outcomes.map(({ text: said, isError }, place) => {
        const { id: callId, name } = calls[place]!
        return { callId, name, text: said, isError }
      }),
      answer,
      at: now(),
    })
    prepare(run)
  }

  /** Ends waiting turns as absorbed by a run. Resolves to them once they are over: their words are in the transcript then. */
  async function takeIn(runId: string, turns: string[]): Promise<(Step & { kind: 'joined' })[]> {
    const endings = turns.map(async (id) => {
      const turn = live.get(id)
      return turn && { message: turn.record.message, ended: await turn.ended.promise }
    })
    for (const id of turns) host.tell(id, { type: 'absorb', by: runId })
    const all = await Promise.all(endings)
    return all.flatMap((turn) =>
      turn?.ended.outcome.absorbedBy === runId
        ? [{ kind: 'joined' as const, message: turn.message, at: turn.ended.endedAt }]
        : [],
    )
  }

  /** Where a model's words go: nowhere once it is called off, and into a paragraph of their own when it was asked before. */
  function sinkOf(run: Live, calledOff: AbortSignal): Sink {
    const { stream, record, steps } = run
    let isNewParagraph = steps.length > 0
    return {
      delta(piece) {
        if (calledOff.aborted || piece === '') return
        if (isNewParagraph) {
          isNewParagraph = false
          if (stream.text !== '') {
            // The stream tells of the first text of all; this is the first since the model was asked again.
            host.tell(record.runId, { type: 'firstToken' })
            stream.delta('\n\n')
          }
        }
        stream.delta(piece)
      },
      reasoning(piece) {
        if (!calledOff.aborted) stream.reasoning(piece)
      },
    }
  }

  /** Writes an ending. A record that does not fit it will not fit it later: that is said in the log, and not tried for ever. */
  async function keepEnding(run: Live, outcome: RunOutcome): Promise<void> {
    const { runId } = run.record
    run.endedAt ||= now()
    // What only a connector knows is lost with it, unless it ended well.
    const heard = [...run.heard, ...(outcome.state === 'completed' ? run.passedOn : [])]
    const soFar = { ...summary(run), heard }
    const ending = endingOf(soFar, outcome)
    run.told = ending.unsaid ? undefined : toldAtEnd(soFar, ending.message)
    try {
      await store.settle(runId, ending)
      run.keptHeard = heard
    } catch (error) {
      if (!(error instanceof StoreError) || error.code !== 'CONFLICT') throw error
      log.error({ runId, err: error }, 'the ending of a run does not fit what is kept of it')
    }
    run.kept = outcome
  }

  /** A crash is one run's: it still ends exactly once, on disk first, and in words that say so. */
  async function settleCrashed(run: Live): Promise<void> {
    const { runId } = run.record
    run.calledOff.abort(new Error('the run crashed'))
    const outcome: RunOutcome = run.kept ?? {
      state: 'failed',
      stopReason: 'error',
      error: 'internal error: the run crashed',
    }
    try {
      run.stream.close()
    } catch (error) {
      log.error({ runId, err: error }, 'the last words of a crashed run could not be said')
    }
    // As the chart does it: an ending that is only spoken would be lost by a restart.
    while (!run.kept) {
      try {
        await keepEnding(run, outcome)
      } catch (error) {
        log.error({ runId, err: error }, 'the ending of a crashed run could not be kept; trying again')
        await new Promise((resolve) => setTimeout(resolve, retryMs))
        if (live.get(runId) !== run) return
      }
    }
    try {
      run.stream.end(outcome, run.endedAt, run.told, run.failure)
    } catch (error) {
      log.error({ runId, err: error }, 'the ending of a crashed run could not be announced')
    }
    finish(run, outcome)
  }

  return {
    admit(record, { mode = 'followup', verbose = 'off', outcome } = {}) {
      if (isOver) return
      const { runId, sessionKey, agentId } = record
      const run: Live = {
        record,
        mode,
        hasBegun: false,
        steps: [],
        prepared: undefined,
        answers: [],
        malformed: 0,
        heard: [],
        passedOn: [],
        keptHeard: [],
        away: 0,
        model: undefined,
        failure: undefined,
        endedAt: 0,
        told: undefined,
        kept: undefined,
        calledOff: new AbortController(),
        ended: Promise.withResolvers<Ended>(),
        stream: (record.quiet ? createQuietStream : createStream)({
          runId,
          sessionKey,
          agentId,
          hub,
          now,
          verbose,
          onFirst: () => host.tell(runId, { type: 'firstToken' }),
          onFailure: (error) => {
            log.error({ runId, err: error }, 'the text of a run could not be said; the run is ended')
            run.calledOff.abort(error)
          },
          keep: (text) => {
            store
              .progress(runId, text)
              .catch((error) => log.warn({ runId, err: error }, 'streamed text could not be kept'))
          },
        }),
      }
      live.set(runId, run)
      host.open(runId, {
        runId,
        timeoutMs: deadlineOf(record, needs.deadlineMs),
        retryMs,
        ...(outcome && { outcome }),
      })
    },
    begin(runId, absorbs) {
      const run = live.get(runId)
      // It was stopped in the same batch in which the one before it ended: that it is over is on its way to the session.
      if (!run) return
      run.hasBegun = true
      lane.enter(runId, run.record.agentId, () => host.tell(runId, { type: 'begin', absorbs }))
      if (lane.isWaiting(runId)) run.stream.announcePlace(0)
    },
    steer(runId, into) {
      const record = live.get(into)?.record
      // Who calls an agent waits for its answer, and nobody else's; and what a quiet run says may be heard by nobody.
      if (record?.quiet || ['agent', 'message', 'cron'].includes(record?.method ?? '')) return
      host.tell(into, { type: 'steer', runId })
    },
    announcePlace: (runId, place) => live.get(runId)?.stream.announcePlace(place),
    hasBegun: (runId) => live.get(runId)?.hasBegun ?? false,
    modeOf: (runId) => live.get(runId)?.mode ?? 'followup',
    abort: (runId, reason) => void host.tell(runId, { type: 'abort', reason }),
    heard: (runId, messageIds) => void live.get(runId)?.passedOn.push(...messageIds),
    async away(runId, work) {
      const run = get(runId)
      run.away += 1
      lane.leave(runId)
      try {
        return await work()
      } finally {
        run.away -= 1
        if (run.away === 0 && live.get(runId) === run) lane.enter(runId, run.record.agentId, () => {})
      }
    },
    ending: (runId) => live.get(runId)?.ended.promise,
    wait(runId, timeoutMs, principal, givenUp, counts = () => true) {
      // Each wait costs memory for as long as its caller likes: beyond this many, nobody waits.
      if (givenUp?.aborted || waits >= MOST_WAITS) return Promise.resolve(undefined)
      const place = places.take(principal)
      if (!place) return Promise.resolve(undefined)
      waits += 1
      const { promise, resolve } = Promise.withResolvers<Ended | undefined>()
      const here = waiting.get(runId) ?? new Set()
      const wake = (ended: Ended) => counts(ended) && resolve(ended)
      waiting.set(runId, here.add(wake))
      // Nobody's waiting holds up the end of the process.
      const timer = setTimeout(() => resolve(undefined), Math.min(timeoutMs, LONGEST_TIMER_MS)).unref()
      givenUp?.addEventListener('abort', () => resolve(undefined))
      return promise.finally(() => {
        waits -= 1
        place.giveBack()
        clearTimeout(timer)
        here.delete(wake)
        if (here.size === 0) waiting.delete(runId)
      })
    },
    of: (sessionKey) =>
      [...live.values()]
        .filter(({ record }) => record.sessionKey === sessionKey)
        .map(({ record, stream }) => ({
          runId: record.runId,
          state: record.startedAt === undefined ? 'admitted' : 'started',
          text: stream.said,
        })),
    record: (runId) => live.get(runId)?.record,
    ids: () => [...live.keys()],
    idle: () => (live.size === 0 ? Promise.resolve() : new Promise((resolve) => idleWaiters.push(resolve))),
    dropAll() {
      isOver = true
      for (const runId of host.ids()) host.drop(runId)
      for (const { stream } of live.values()) stream.abandon()
      live.clear()
      for (const wake of idleWaiters.splice(0)) wake()
    },
    get size() {
      return live.size
    },
  }
}

/** What its ending is made of; also that of one that a former process was streaming. */
const summary = ({ record, stream, steps, answers, model, heard, endedAt }: Live): RunSoFar => ({
  record,
  text: stream.text || record.text,
  steps,
  answers,
  model,
  heard,
  endedAt,
})

/** The runtimes there are, and how a call goes through the models that may answer it. */
import { anthropicMessages } from './anthropic-messages.ts'
import { type EchoOptions, echo } from './echo.ts'
import type { StreamingOptions } from './exchange.ts'
import { openaiCompletions } from './openai-completions.ts'
import { pause } from './pause.ts'
import { type Answer, type Model, type ModelCall, ModelFailure, type Runtime, type Sink } from './runtime.ts'

/** Runtimes by the `api` of the models they can call. */
export type Runtimes = ReadonlyMap<string, Runtime>

/** Every runtime of this gateway. */
export function createRuntimes(options: StreamingOptions & EchoOptions = {}): Runtimes {
  const all = [openaiCompletions(options), anthropicMessages(options), echo(options)]
  return new Map(all.map((runtime) => [runtime.api, runtime]))
}

interface FallbackOptions {
  runtimes: Runtimes
  /** In the order they are tried. */
  candidates: readonly Model[]
  call: ModelCall
  sink: Sink
  signal: AbortSignal
  /** Hears of each try before it begins; `attempt` counts from 1 for each model. */
  onAttempt?: (model: Model, attempt: number) => void
  /** Tries of one model at the most (3); up to `baseMs` (500) before the second, twice as long each time after. */
  retry?: { attempts: number; baseMs: number }
  /** Waits so many milliseconds, and rejects when the signal aborts. */
  sleep?: (ms: number, signal: AbortSignal) => Promise<void>
  /** From 0 to below 1. Spreads the waits, so that many runs that failed together do not come back together. */
  random?: () => number
}

/** A provider that asks for a longer wait than this, in milliseconds, is not tried again. */
const longestWaitMs = 10_000

/**
 * Asks one model after the other until one answers.
 *
 * A failure that may pass is tried again with the same model, then with the next; one that will not pass, such as a
 * wrong key, goes to the next at once; a request the provider calls wrong would be wrong everywhere and ends it. Once a
 * piece has reached the sink nothing is tried again, for the reader would see two beginnings.
 *
 * Rejects with the signal's reason when it aborts, with the failure when only one model failed, and otherwise with one
 * that has the kind of the last and names each model with its words.
 */
export async function answerWithFallbacks(options: FallbackOptions): Promise<Answer> {
  const {
    candidates,
    call,
    signal,
    retry = { attempts: 3, baseMs: 500 },
    sleep = pause,
    random = Math.random,
  } = options
  const failures = new Map<string, ModelFailure>()
  let begun = false
  const sink: Sink = {
    delta(text) {
      begun = true
      options.sink.delta(text)
    },
    reasoning(text) {
      begun = true
      options.sink.reasoning(text)
    },
  }

  for (const model of candidates) {
    for (let attempt = 1; ; attempt++) {
      signal.throwIfAborted()
      options.onAttempt?.(model, attempt)
      try {
        return await runtimeOf(options.runtimes, model).answer(model, call, sink, signal)
      } catch (error) {
        signal.throwIfAborted()
        if (begun || !(error instanceof ModelFailure)) throw error
        failures.set(model.ref, error)
        const next = afterwards(error)
        if (next === 'stop') throw summary(failures)
        const backoff = retry.baseMs * 2 ** (attempt - 1) * (0.5 + random() / 2)
        const wait = Math.max(backoff, error.retryAfterMs ?? 0)
        if (next === 'move on' || attempt >= retry.attempts || wait > longestWaitMs) break
        await sleep(wait, signal)
      }
    }
  }
  throw summary(failures)
}

function runtimeOf(runtimes: Runtimes, model: Model): Runtime {
  const runtime = runtimes.get(model.api)
  if (runtime !== undefined) return runtime
  const known = [...runtimes.keys()].join(', ')
  throw new ModelFailure('unconfigured', `${model.ref} has the api "${model.api}"; known are ${known}`)
}

/** What to do after a failure that came before any piece of the answer. */
function afterwards({ kind, status }: ModelFailure): 'try again' | 'move on' | 'stop' {
  switch (kind) {
    case 'rateLimited':
    case 'overloaded':
    case 'unreachable':
    case 'stalled':
    case 'cut':
      return 'try again'
    case 'auth':
    case 'unconfigured':
      return 'move on'
    case 'refused':
      // 408 and 409 are about the moment; 402 about this account and 404 about this model. The rest is about the
      // request itself.
      if (status === 408 || status === 409) return 'try again'
      return status === 402 || status === 404 ? 'move on' : 'stop'
    default:
      return kind satisfies never
  }
}

/** Whether the model could not be had: another one, or the same one later, might do what it was asked. */
export const isNotToBeHad = (error: unknown): boolean => error instanceof ModelFailure && afterwards(error) !== 'stop'

function summary(failures: ReadonlyMap<string, ModelFailure>): ModelFailure {
  const last = [...failures.values()].at(-1)
  if (last === undefined) return new ModelFailure('unconfigured', 'no model is configured for this agent')
  if (failures.size === 1) return last
  const each = [...failures].map(([ref, { message }]) => (message.includes(ref) ? message : `${ref}: ${message}`))
  const { status, retryAfterMs } = last
  return new ModelFailure(last.kind, `no model answered. ${each.join('; ')}`, { status, retryAfterMs, cause: last })
}

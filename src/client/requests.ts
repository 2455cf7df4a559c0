/** What was asked and is not answered: each request with its deadline, sent again after a cut where that is harmless. */
import type { ErrorShape } from '../contract/errors.ts'
import { ConnectionError, RequestError } from './failures.ts'
import { isRepeatable } from './repeatable.ts'

export interface RequestOptions {
  /** How long it may take altogether, in ms, cuts and repeats included; 0 = as long as it takes. */
  timeoutMs?: number
  /** Skips a first answer whose status is `accepted`, and resolves with the one after it. */
  final?: boolean
  /** Whether it may be asked twice. Unless said: methods with an idempotency key, and those that change nothing. */
  repeatable?: boolean
  /** Withdraws the request while it is certain that the gateway has not accepted it; after that it changes nothing. */
  signal?: AbortSignal
}

export interface AskOptions extends RequestOptions {
  /** Called each time the request leaves. */
  onLeaving?: () => void
}

export interface ResponseFrame {
  id: unknown
  ok: boolean
  payload?: unknown
  error?: ErrorShape
}

/** Puts a frame on the wire. Throws when it cannot be sent, now or ever. */
export type Send = (frame: object) => void

export interface Requests {
  /**
   * Asks, as soon as there is somebody to ask.
   * @throws RequestError what the gateway answered; ConnectionError no answer in time, or no connection; RangeError too large
   */
  ask(method: string, params: unknown, options?: AskOptions): Promise<unknown>
  /** Takes an answer. */
  answer(frame: ResponseFrame): void
  /** There is a connection: what waits is sent, the oldest first, and what is asked from now on at once. */
  open(send: Send): void
  /** The connection is gone. What was on its way and may be asked twice waits for the next one; the rest is rejected. */
  cut(): void
  /** There will be no other connection. */
  end(error: Error): void
}

interface Pending {
  id: string
  method: string
  params: unknown
  final: boolean
  repeatable: boolean
  /** Monotonic ms; Infinity: none. */
  deadline: number
  /** `certain`: the gateway has not accepted it. `out`: it is on its way. `unknown`: the connection went before an answer came. */
  state: 'certain' | 'out' | 'unknown'
  timer: ReturnType<typeof setTimeout> | undefined
  /** A repeat that the gateway asked for. */
  again: ReturnType<typeof setTimeout> | undefined
  signal: AbortSignal | undefined
  onLeaving: (() => void) | undefined
  resolve(value: unknown): void
  reject(error: unknown): void
  /** Unhooks it from the caller's signal. */
  unhook(): void
}

/** What a timer can hold. Of the contract, a client has types only: it is one file without the rest. */
const LONGEST_TIMER_MS = 2 ** 31 - 1

/** @param timeoutMs for requests that say nothing else */
export function createRequests(timeoutMs: number): Requests {
  const pending = new Map<string, Pending>()
  let send: Send | undefined
  let ended: Error | undefined
  let count = 0

  function take(request: Pending): void {
    clearTimeout(request.timer)
    clearTimeout(request.again)
    request.unhook()
    pending.delete(request.id)
  }

  function reject(request: Pending, error: unknown): void {
    take(request)
    request.reject(error)
  }

  function put(request: Pending): void {
    if (!send || request.again !== undefined) return
    request.state = 'out'
    request.onLeaving?.()
    try {
      send({ type: 'req', id: request.id, method: request.method, params: request.params })
    } catch (error) {
      reject(request, error)
    }
  }

  /** The gateway refused for now, and said when to come again. False: there is no time left for that. */
  function later(request: Pending, afterMs: number): boolean {
    // A refusal keeps nothing: whoever has withdrawn meanwhile, or does it now, has asked nothing.
    request.state = 'certain'
    if (request.signal?.aborted) {
      reject(request, request.signal.reason)
      return true
    }
    if (performance.now() + afterMs >= request.deadline) return false
    request.again = setTimeout(() => {
      request.again = undefined
      put(request)
    }, afterMs)
    return true
  }

  const unknownEnd = ({ method }: Pending) =>
    new ConnectionError(`the connection ended before ${method} was answered: nobody knows whether it was done`)

  return {
    ask(method, params, { timeoutMs: limit = timeoutMs, final = false, repeatable, signal, onLeaving } = {}) {
      if (ended) return Promise.reject(ended)
      if (signal?.aborted) return Promise.reject(signal.reason)
      return new Promise((resolve, rejectPromise) => {
        const withdraw = () => {
          if (request.state === 'certain') reject(request, signal?.reason)
        }
        const request: Pending = {
          id: String(++count),
          method,
          params,
          final,
          repeatable: repeatable ?? isRepeatable(method),
          deadline: limit > 0 ? performance.now() + limit : Number.POSITIVE_INFINITY,
          state: 'certain',
          timer: undefined,
          again: undefined,
          signal,
          onLeaving,
          resolve,
          reject: rejectPromise,
          unhook: () => signal?.removeEventListener('abort', withdraw),
        }
        if (limit > 0)
          request.timer = setTimeout(
            () => reject(request, new ConnectionError(`no answer to ${method} within ${limit} ms`)),
            Math.min(limit, LONGEST_TIMER_MS),
          )
        signal?.addEventListener('abort', withdraw)
        pending.set(request.id, request)
        put(request)
      })
    },
    answer({ id, ok, payload, error }) {
      const request = pending.get(String(id))
      if (request?.state !== 'out') return
      if (!ok) {
        const shape = error ?? { code: 'UNAVAILABLE', message: 'refused without a reason' }
        if (shape.retryable && shape.retryAfterMs !== undefined && request.repeatable)
          if (later(request, shape.retryAfterMs)) return
        return reject(request, new RequestError(shape, payload))
      }
      if (request.final && (payload as { status?: string } | null)?.status === 'accepted') return
      take(request)
      request.resolve(payload)
    },
    open(to) {
      send = to
      for (const request of [...pending.values()]) put(request)
    },
    cut() {
      send = undefined
      for (const request of [...pending.values()]) {
        if (request.state !== 'out') continue
        request.state = 'unknown'
        if (!request.repeatable) reject(request, unknownEnd(request))
      }
    },
    end(error) {
      ended = error
      send = undefined
      for (const request of [...pending.values()])
        reject(request, request.state === 'certain' ? error : unknownEnd(request))
    },
  }
}

/** From a request to its answer: finds the method, checks the scope and the parameters, calls, answers. */
import { nanoid } from 'nanoid'
import type { MethodBlock, ParamsOf, ResultOf, Role, Scope } from '../contract/block.ts'
import type { ClientInfo } from '../contract/connect.ts'
import { GatewayError, missingScope, type Protocol } from '../contract/errors.ts'
import type { RequestFrame, ResponseFrame } from '../contract/frames.ts'
import { type METHODS, methodBlock } from '../contract/index.ts'
import { holds } from '../contract/scopes.ts'
import { type Validator, validator } from '../contract/validate.ts'
import { StoreError } from '../stores/store.ts'
import type { Allowed } from './allowance.ts'
import type { Audit } from './audit.ts'
import type { Log } from './log.ts'

/** Who asks. */
export interface Caller {
  readonly connId: string
  readonly principal: string
  readonly role: Role
  readonly scopes: ReadonlySet<Scope>
  /** The only sessions it can reach, as patterns; absent = all. */
  readonly sessions?: readonly string[] | undefined
  readonly protocol: Protocol
  readonly client: ClientInfo
  /** Aborted when the caller's connection has ended. */
  gone(): AbortSignal
  /** It was refused a call for want of a scope or the role. */
  denied?(): void
  /** Whether it may begin one more write of a method that changes the gateway itself. */
  write?(method: string): Allowed
  /** Remembers how this caller spells a session, so that its events say the same. */
  addressed(sessionKey: string, spelling: string): void
}

const REPLY = Symbol('reply')

/** An answer with something to follow it. */
export interface Reply<R> {
  [REPLY]: true
  /** Absent: the only answer comes later. */
  result?: R
  /** Done once the answer is on its way: what must not happen before it. */
  next?: () => void
  /** A second answer under the same id. */
  later?: Promise<R | Failure>
}

/** An answer with `ok: false` that has a payload, too. */
export class Failure {
  readonly error: GatewayError
  readonly payload: unknown

  constructor(error: GatewayError, payload: unknown) {
    this.error = error
    this.payload = payload
  }
}

/** Answers first, then does the rest: keep, answer, start. */
export const after = <R>(result: R, next: () => void): Reply<R> => ({ [REPLY]: true, result, next })

/** Answers now, and once more under the same id. */
export const twice = <R>(result: R, later: Promise<R | Failure>, next?: () => void): Reply<R> => ({
  [REPLY]: true,
  result,
  later,
  ...(next && { next }),
})

/** Answers once, when there is something to answer: no other request of the connection waits for it. */
export const eventually = <R>(later: Promise<R | Failure>): Reply<R> => ({ [REPLY]: true, later })

export type Handler<B> = (
  params: ParamsOf<B>,
  caller: Caller,
) => MaybePromise<ResultOf<B> | Reply<ResultOf<B>> | Failure>
type MaybePromise<T> = T | Promise<T>
/** One function for each method of a table: a missing or mistyped one does not compile. */
export type Handlers<T> = { [M in keyof T]: Handler<T[M]> }

export interface Dispatch {
  /**
   * Answers a request, once or twice. Never throws, never rejects.
   * @param done called when the first answer is on its way, or when there is nothing but a later one to wait for
   */
  dispatch(request: RequestFrame, caller: Caller, send: (text: string) => void, done?: () => void): void
  /** Resolves when nobody is owed a second answer. */
  answered(): Promise<void>
}

/** How long a client that met a quota should wait, in ms. */
const QUOTA_RETRY_MS = 60_000
/** Characters of a client's text that go into a message or the log. */
const QUOTED = 64

/** The members of parameters and results that say what a call was about. No secret has one of these names. */
const NAMING = ['id', 'requestId', 'deviceId', 'nodeId', 'name', 'role', 'decision', 'key', 'sessionKey', 'agentId']

function namesIn(members: unknown): { [name: string]: string } {
  const given = Object.entries(members ?? {})
  return Object.fromEntries(given.filter(([name, value]) => NAMING.includes(name) && typeof value === 'string'))
}

export interface DispatchNeeds {
  handlers: Handlers<typeof METHODS>
  log: Log
  audit: Pick<Audit, 'note'>
}

export function createDispatch({ handlers, log, audit }: DispatchNeeds): Dispatch {
  const checks = new Map<string, Validator>()
  /** Second answers that are yet to come. */
  let owed = 0
  const onAnswered: (() => void)[] = []

  /** Drops what means nothing here, then says what does not fit. */
  function checked(name: string, block: MethodBlock, given: unknown): unknown {
    let params = given ?? {}
    if (block.unknown === 'refused' && block.meaningless && typeof params === 'object' && !Array.isArray(params)) {
      const rest: Record<string, unknown> = { ...params }
      for (const member of block.meaningless) delete rest[member]
      params = rest
    }
    let check = checks.get(name)
    if (!check) {
      check = validator(block.unknown === 'refused' ? { ...block.params, additionalProperties: false } : block.params)
      checks.set(name, check)
    }
    const problem = check.problem(params)
    if (problem !== undefined) throw new GatewayError('INVALID_PARAMS', `invalid ${name} params: ${problem}`)
    return params
  }

  function find(name: string, caller: Caller): MethodBlock {
    if (name === 'connect') throw new GatewayError('CONNECT_TWICE', 'connect is only valid as the first request')
    const block = methodBlock(name)
    // To a node what there is for operators and what there is not looks the same.
    if ((block?.role ?? 'operator') !== caller.role)
      throw new GatewayError('UNAUTHORIZED_ROLE', `unauthorized role: ${caller.role}`)
    if (block?.role === 'node') return block
    // What there is and what there is not looks the same to those who may not know.
    const scope = block?.scope ?? 'operator.admin'
    if (!holds(caller.scopes, scope)) throw missingScope(scope)
    if (caller.sessions && !block?.bySession)
      throw new GatewayError('MISSING_SCOPE', `not for a token of some sessions: ${name.slice(0, QUOTED)}`)
    if (!block) throw new GatewayError('UNKNOWN_METHOD', `unknown method: ${name.slice(0, QUOTED)}`)
    if (block.scope === 'operator.admin' && block.unknown === 'refused') {
      const allowed = caller.write?.(name)
      if (allowed?.kind === 'later')
        throw new GatewayError('RATE_LIMITED', `too many ${name} calls on this connection`, {
          retryAfterMs: allowed.retryAfterMs,
        })
    }
    return block
  }

  async function call(
    request: RequestFrame,
    caller: Caller,
    send: (text: string) => void,
    done: () => void,
  ): Promise<void> {
    const { id, method } = request
    let finished = false
    const finish = () => {
      if (finished) return
      finished = true
      done()
    }
    let isAudited = false
    const note = (result: unknown, code?: string) => {
      if (!isAudited) return
      const { connId, principal } = caller
      // What a call has made is named by its answer.
      const about = { ...namesIn(result), ...namesIn(request.params) }
      audit.note({
        kind: 'call',
        ok: code === undefined,
        principal,
        connId,
        what: method,
        about,
        ...(code && { code }),
      })
      // Of two answers the first says that it was done.
      isAudited = false
    }
    const answer = (result: unknown) => {
      note(result)
      send(encode({ type: 'res', id, ok: true, payload: result }))
    }
    const fail = ({ error, payload }: Failure) => {
      note(undefined, error.kind)
      send(
        encode({
          type: 'res',
          id,
          ok: false,
          ...(payload !== undefined && { payload }),
          error: error.shape(caller.protocol),
        }),
      )
    }
    try {
      const block = find(method, caller)
      isAudited = block.audited === true
      const params = checked(method, block, request.params)
      // The table of handlers has the type of each; which one this is, only the name knows.
      const handler = handlers[method as keyof typeof METHODS] as unknown as Handler<MethodBlock>
      const reply = await handler(params as never, caller)
      if (reply instanceof Failure) return fail(reply)
      if (!isReply(reply)) return answer(reply)
      if ('result' in reply) answer(reply.result)
      try {
        reply.next?.()
      } catch (error) {
        // The request was answered: what it started is not its caller's any more, and a second answer would only confuse.
        log.error({ method, connId: caller.connId, err: error }, 'what follows an answer failed')
      }
      if (!reply.later) return
      finish()
      // A request that only waits holds nobody up; one that has been told of its turn is told of its end.
      const isOwed = 'result' in reply
      if (isOwed) owed += 1
      try {
        const later = await reply.later
        if (later instanceof Failure) fail(later)
        else answer(later)
      } finally {
        if (isOwed) owed -= 1
        if (owed === 0) for (const wake of onAnswered.splice(0)) wake()
      }
    } catch (error) {
      fail(new Failure(told(error, method, caller), undefined))
    } finally {
      finish()
    }
  }

  /** What a client is told of a failure: the listed ones as they are, all others as an incident that stands in the log. */
  function told(error: unknown, method: string, caller: Caller): GatewayError {
    if (error instanceof GatewayError) {
      if (error.kind === 'MISSING_SCOPE' || error.kind === 'UNAUTHORIZED_ROLE') caller.denied?.()
      log.debug(
        { method: method.slice(0, QUOTED), connId: caller.connId, kind: error.kind, reason: error.message },
        'request refused',
      )
      return error
    }
    if (error instanceof StoreError && (error.code === 'SESSION_QUOTA' || error.code === 'DEDUPE_QUOTA')) {
      log.debug({ method, connId: caller.connId, kind: error.code, reason: error.message }, 'request refused')
      return new GatewayError(error.code, error.message, { retryAfterMs: QUOTA_RETRY_MS })
    }
    const incident = nanoid(10)
    log.error({ incident, method, connId: caller.connId, err: error }, 'request failed')
    if (error instanceof StoreError)
      return error.code === 'FULL'
        ? new GatewayError(
            'STORAGE_FULL',
            `the disk is full: nothing was kept; free space and try again (incident ${incident})`,
            { retryAfterMs: 5_000 },
          )
        : new GatewayError('STORAGE_FAILED', `the store failed: nothing was kept (incident ${incident})`, {
            retryAfterMs: 1_000,
          })
    return new GatewayError('INTERNAL', `internal error (incident ${incident})`, { details: { incident } })
  }

  return {
    dispatch: (request, caller, send, done = () => {}) => void call(request, caller, send, done),
    answered: () => (owed === 0 ? Promise.resolve() : new Promise((resolve) => onAnswered.push(resolve))),
  }
}

const isReply = (value: unknown): value is Reply<unknown> =>
  typeof value === 'object' && value !== null && REPLY in value

/** The text of a response frame. */
export const encode = (frame: ResponseFrame): string => JSON.stringify(frame)

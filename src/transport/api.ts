/**
 * Agents over plain HTTP. Each route is a request of the wire, sent by a caller that is let in and checked like every other: what
 * may not be done over a WebSocket cannot be done here.
 */
import { randomUUID } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Admitted, Authenticator, PeerFacts } from '../auth/authenticate.ts'
import type { Agents } from '../broker/agents.ts'
import { type Allowance, type AllowanceLimits, createAllowance } from '../broker/allowance.ts'
import type { Audit } from '../broker/audit.ts'
import type { Caller, Dispatch } from '../broker/dispatch.ts'
import type { Log } from '../broker/log.ts'
import { GENERIC_CLIENT } from '../contract/connect.ts'
import { ERRORS, type ErrorName, type WireCode } from '../contract/errors.ts'
import type { ResponseFrame } from '../contract/frames.ts'
import { scan } from '../contract/json-bounds.ts'
import { agentIn, canonical } from '../contract/session-key.ts'
import { pathOf } from './door.ts'
import { type Reply, replyOn } from './reply.ts'

export interface Api {
  /** Answers a request for one of its paths. False: it is for none of them. */
  answer(path: string, request: IncomingMessage, response: ServerResponse, facts: PeerFacts): boolean
}

export interface ApiNeeds {
  authenticator: Pick<Authenticator, 'authenticate'>
  dispatch: Pick<Dispatch, 'dispatch'>
  audit: Pick<Audit, 'note'>
  agents: Pick<Agents, 'resolve' | 'ids' | 'defaultId' | 'mainKey'>
  /** Whether one agent may send to another; `undefined` stands for a sender that is no agent. */
  maySend(from: string | undefined, to: string): boolean
  limits: AllowanceLimits
  log: Pick<Log, 'error'>
  monotonic(): number
  now(): number
  /** How long an answer is waited for, in ms. */
  patienceMs?: number
}

/** Clients of the reference wait 30 s for an answer. */
const PATIENCE_MS = 25_000
const MOST_BYTES = 8 * 1024 * 1024

interface Visit {
  request: IncomingMessage
  facts: PeerFacts
  reply: Reply
  /** What is in the path. */
  parts: string[]
}

/** A TCP connection, as far as requests that come on it have it in common. */
interface Line {
  allowance: Allowance
  /** Aborted when it has closed. */
  left: AbortSignal
}

/** A refusal with its status. */
class HttpError extends Error {
  override readonly name = 'HttpError'
  readonly status: number
  readonly code: string
  readonly more: object
  readonly headers: Record<string, string>

  constructor(status: number, code: string, message: string, more: object = {}, headers: Record<string, string> = {}) {
    super(message)
    this.status = status
    this.code = code
    this.more = more
    this.headers = headers
  }
}

/** The status of failures that say more than the code of the wire does. */
const STATUS: Partial<Record<string, number>> = {
  UNKNOWN_AGENT: 404,
  UNKNOWN_RUN: 404,
  SESSION_NOT_FOUND: 404,
  MISSING_SCOPE: 403,
  AGENT_NOT_ALLOWED: 403,
  SEND_DENIED: 403,
  IDEMPOTENCY_KEY_REUSED: 409,
  MESSAGE_TOO_LARGE: 413,
  SESSION_BUSY: 429,
  RATE_LIMITED: 429,
  INTERNAL: 500,
} satisfies Partial<Record<ErrorName, number>>

/** How a failure of the wire is told. */
export function statusOf(name: string): number {
  if (!isErrorName(name)) return 500
  const { code }: { code: WireCode } = ERRORS[name]
  const own = STATUS[name]
  if (own !== undefined) return own
  if ('retryable' in ERRORS[name]) return 503
  switch (code) {
    case 'AGENT_TIMEOUT':
      return 504
    case 'UNAVAILABLE':
      return 502
    default:
      return 400
  }
}

const isErrorName = (name: string): name is ErrorName => Object.hasOwn(ERRORS, name)

export function createApi(needs: ApiNeeds): Api {
  const { authenticator, dispatch, audit, agents, log, now, monotonic, patienceMs = PATIENCE_MS } = needs
  const lines = new WeakMap<Socket, Line>()

  /** What belongs to a connection, made with its first request. */
  function lineOf(socket: Socket): Line {
    const known = lines.get(socket)
    if (known) return known
    const left = new AbortController()
    // Of one that has closed already nothing more is heard.
    if (socket.destroyed) left.abort()
    else socket.once('close', () => left.abort())
    const line = { allowance: createAllowance(needs.limits, monotonic), left: left.signal }
    lines.set(socket, line)
    return line
  }

  /** Who asks. @throws HttpError 401, 429 */
  async function callerOf({ request, facts }: Visit): Promise<Caller> {
    const [, token] = /^Bearer ([\x21-\x7e]{1,512})$/i.exec(request.headers.authorization?.trim() ?? '') ?? []
    const connId = `http-${randomUUID()}`
    const auth = token === undefined ? {} : { auth: { token } }
    const outcome = await authenticator.authenticate({ client: GENERIC_CLIENT, role: 'operator', ...auth }, facts, '')
    const { decision } = outcome
    if (!decision.admitted) {
      const { message, details, rule, retryAfterMs } = decision
      audit.note({
        kind: 'connect',
        ok: false,
        connId,
        what: rule,
        about: { client: 'http', address: facts.clientAddress },
        code: details.code,
      })
      if (retryAfterMs !== undefined)
        throw new HttpError(429, details.code, message, {}, { 'retry-after': seconds(retryAfterMs) })
      throw new HttpError(
        401,
        details.code,
        `${message}; send Authorization: Bearer <token>`,
        {},
        { 'www-authenticate': 'Bearer' },
      )
    }
    const line = lineOf(request.socket)
    const allowed = line.allowance.request()
    if (allowed.kind !== 'yes')
      throw new HttpError(
        429,
        'RATE_LIMITED',
        'too many requests on this connection',
        {},
        {
          'retry-after': seconds(allowed.kind === 'later' ? allowed.retryAfterMs : 10_000),
        },
      )
    return asCaller(connId, outcome as Admitted, line)
  }

  /** Sends a request of the wire. Resolves to its answers, the last of which may be long in coming. */
  function call(
    caller: Caller,
    method: string,
    params: object,
  ): { first: Promise<ResponseFrame>; last: Promise<ResponseFrame> } {
    const first = Promise.withResolvers<ResponseFrame>()
    const last = Promise.withResolvers<ResponseFrame>()
    dispatch.dispatch({ type: 'req', id: 'http', method, params }, caller, (text) => {
      const frame = JSON.parse(text) as ResponseFrame
      first.resolve(frame)
      if (!isAccepted(frame)) last.resolve(frame)
    })
    return { first: first.promise, last: last.promise }
  }

  /** `POST /agent/{id}/message` */
  async function send(visit: Visit): Promise<void> {
    const { request, reply, parts } = visit
    const caller = await callerOf(visit)
    const body = await readBody(request)
    const { message, context = {}, sessionKey } = body as { message?: unknown; context?: unknown; sessionKey?: unknown }
    if (typeof message !== 'string' || message.trim() === '')
      throw new HttpError(400, 'INVALID_PARAMS', 'message: must be a text that says something')
    if (typeof context !== 'object' || context === null || Array.isArray(context))
      throw new HttpError(400, 'INVALID_PARAMS', 'context: must be an object')
    if (sessionKey !== undefined && typeof sessionKey !== 'string')
      throw new HttpError(400, 'INVALID_PARAMS', 'sessionKey: must be a text')
    const agentId = agentOf(parts[0]!)
    const { task_id: task, delegated_by: sender } = context as { task_id?: unknown; delegated_by?: unknown }
    const from = typeof sender === 'string' ? agents.resolve(sender) : undefined
    if (!needs.maySend(from, agentId))
      throw new HttpError(
        403,
        'AGENT_NOT_ALLOWED',
        `${from ?? 'nobody'} may send to ${agentId}: tools.agentToAgent does not say so`,
      )
    const idempotencyKey =
      header(request, 'idempotency-key') ?? (typeof task === 'string' && task !== '' ? task : randomUUID())
    const params = { message, agentId, idempotencyKey, ...(sessionKey !== undefined && { sessionKey }) }
    const { first, last } = call(caller, 'agent', params)
    const accepted = await first
    const isPatient = !/(^|[,;\s])respond-async($|[,;\s])/i.test(header(request, 'prefer') ?? '')
    const end = isPatient || !isAccepted(accepted) ? await within(last, patienceMs) : undefined
    if (end?.ok === false) throw failureOf(end)
    const { runId } = accepted.payload as { runId: string }
    const about = {
      agent: agentId,
      thread_id: keyOf(agentId, sessionKey),
      timestamp: new Date(now()).toISOString(),
      runId,
    }
    if (end) return reply(200, { response: textOf(end), ...about })
    reply(
      202,
      { status: 'accepted', ...about },
      {
        location: `/agent/${agentId}/message/${encodeURIComponent(runId)}`,
        ...(!isPatient && { 'preference-applied': 'respond-async' }),
      },
    )
  }

  /** `GET /agent/{id}/message/{runId}`: how a message is that was answered 202. */
  async function look(visit: Visit): Promise<void> {
    const { reply, parts } = visit
    const caller = await callerOf(visit)
    const agentId = agentOf(parts[0]!)
    const end = await call(caller, 'agent.result', { runId: parts[1], agentId }).first
    if (!end.ok) throw failureOf(end)
    const { status, text, sessionKey } = end.payload as { status: string; text?: string; sessionKey?: string }
    const about = { agent: agentId, thread_id: sessionKey, runId: parts[1], timestamp: new Date(now()).toISOString() }
    if (status === 'accepted') return reply(202, { status, ...about }, { 'retry-after': '2' })
    reply(200, { response: text, ...about })
  }

  /** `GET /api/sessions` */
  async function sessions(visit: Visit): Promise<void> {
    const caller = await callerOf(visit)
    const end = await call(caller, 'sessions.digest', {}).last
    if (!end.ok) throw failureOf(end)
    visit.reply(200, (end.payload as { sessions: unknown[] }).sessions)
  }

  /** The session that a message to an agent is for, which was taken as one of its own. */
  function keyOf(agentId: string, spelling = agents.mainKey): string {
    return canonical(agentIn(spelling) === undefined ? `agent:${agentId}:${spelling}` : spelling, agents).key
  }

  function agentOf(name: string): string {
    const agentId = agents.resolve(name)
    if (agentId !== undefined) return agentId
    const known = agents.ids()
    throw new HttpError(404, 'UNKNOWN_AGENT', `unknown agent "${name.slice(0, 64)}" (known: ${known.join(', ')})`, {
      known,
    })
  }

  /** Tells a refusal as it stands, and all else as an incident that stands in the log. */
  function refuse({ request, reply }: Visit, error: unknown): void {
    // Who left in the middle of a request is told nothing.
    if (error === request.errored) return
    if (error instanceof HttpError) {
      const { status, code, message, more, headers } = error
      return reply(status, { ok: false, error: { code, message, ...more } }, headers)
    }
    const incident = randomUUID()
    log.error({ incident, path: pathOf(request), err: error }, 'request failed')
    const message = `internal error (incident ${incident})`
    reply(500, { ok: false, error: { code: 'INTERNAL', message, incident } })
  }

  const ROUTES: [string, RegExp, (visit: Visit) => Promise<void>][] = [
    ['POST', /^\/(?:api\/)?agent\/([^/]{1,256})\/message$/, send],
    ['GET', /^\/(?:api\/)?agent\/([^/]{1,256})\/message\/([^/]{1,512})$/, look],
    ['GET', /^\/(?:api\/)?sessions$/, sessions],
  ]

  return {
    answer(path, request, response, facts) {
      const found = ROUTES.filter(([, pattern]) => pattern.test(path))
      if (found.length === 0) return false
      const reply = replyOn(response)
      const [, pattern, handle] = found.find(([method]) => method === request.method) ?? []
      if (!pattern || !handle) {
        const allow = found.map(([method]) => method).join(', ')
        reply(405, { ok: false, error: { code: 'METHOD_NOT_ALLOWED', message: `use ${allow}` } }, { allow })
        return true
      }
      const parts = pattern.exec(path)!.slice(1).map(decoded)
      const visit: Visit = { request, facts, reply, parts }
      handle(visit).catch((error: unknown) => refuse(visit, error))
      return true
    },
  }
}

function asCaller(connId: string, { decision, principal, sessions }: Admitted, { allowance, left }: Line): Caller {
  return {
    connId,
    principal,
    role: 'operator',
    scopes: new Set(decision.granted),
    sessions,
    protocol: 4,
    client: GENERIC_CLIENT,
    gone: () => left,
    denied: () => void allowance.denied(),
    write: (method) => allowance.write(method),
    addressed() {},
  }
}

const isAccepted = ({ ok, payload }: ResponseFrame): boolean =>
  ok && (payload as { status?: string } | undefined)?.status === 'accepted'

/** What a run said, in the shape that `agent` answers. */
function textOf({ payload }: ResponseFrame): string {
  const { result } = payload as { result?: { payloads?: { text: string }[]; lastWords?: string } }
  return result?.lastWords ?? (result?.payloads ?? []).map(({ text }) => text).join('')
}

function failureOf({ error, payload }: ResponseFrame): HttpError {
  const { code = 'INTERNAL', ...details } = (error?.details ?? {}) as { code?: string }
  const runId = (payload as { runId?: string } | undefined)?.runId
  return new HttpError(
    statusOf(code),
    code,
    error?.message ?? 'failed',
    { ...details, ...(runId !== undefined && { runId }) },
    error?.retryAfterMs === undefined ? {} : { 'retry-after': seconds(error.retryAfterMs) },
  )
}

/** Reads a JSON object. @throws HttpError 400, 413, 415 */
async function readBody(request: IncomingMessage): Promise<object> {
  // Pages of elsewhere can send other types without being asked for.
  if (!/^application\/json\s*(;|$)/i.test(request.headers['content-type'] ?? ''))
    throw new HttpError(415, 'UNSUPPORTED_MEDIA_TYPE', 'send application/json')
  const tooLarge = () =>
    new HttpError(413, 'MESSAGE_TOO_LARGE', `more than ${MOST_BYTES} bytes`, {}, { connection: 'close' })
  if (Number(request.headers['content-length'] ?? 0) > MOST_BYTES) throw tooLarge()
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length
    if (size > MOST_BYTES) throw tooLarge()
    chunks.push(chunk)
  }
  const bytes = Buffer.concat(chunks)
  const overstep = scan(bytes)
  if (overstep) throw new HttpError(400, 'INVALID_PARAMS', overstep.problem)
  let value: unknown
  try {
    value = JSON.parse(bytes.toString('utf8'))
  } catch {
    throw new HttpError(400, 'INVALID_PARAMS', 'the body is no JSON')
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new HttpError(400, 'INVALID_PARAMS', 'the body must be a JSON object')
  return value
}

/** Undefined when the time is up. */
async function within<T>(promise: Promise<T>, ms: number): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined
  const patience = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), ms)
  })
  return Promise.race([promise, patience]).finally(() => clearTimeout(timer))
}

const seconds = (ms: number): string => String(Math.max(1, Math.ceil(ms / 1000)))

function header(request: IncomingMessage, name: string): string | undefined {
  const value = request.headers[name]
  const text = (Array.isArray(value) ? value[0] : value)?.trim()
  return text === '' ? undefined : text
}

/** What no URL can hold stays as it is, and is then the name of nothing. */
function decoded(part: string): string {
  try {
    return decodeURIComponent(part)
  } catch {
    return part
  }
}

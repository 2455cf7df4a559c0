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
import { createQuota, type Share } from '../broker/quotas.ts'
import { GENERIC_CLIENT } from '../contract/connect.ts'
import { ERRORS, type ErrorName, type GatewayError, type WireCode } from '../contract/errors.ts'
import type { ResponseFrame } from '../contract/frames.ts'
import { scan } from '../contract/json-bounds.ts'
import { agentIn, canonical } from '../contract/session-key.ts'
import { pathOf } from './door.ts'
import { type Reply, replyOn } from './reply.ts'

export interface Api {
  /** Answers a request for one of its paths. False: it is for none of them. */
  answer(path: string, request: IncomingMessage, response: ServerResponse, door: Door): boolean
  /** Resolves when nobody is owed an answer. */
  answered(): Promise<void>
}

/** What the door knows of a request. */
export interface Door {
  facts: PeerFacts
  /** Whether anything is done for it now; reading is, also while the gateway drains. */
  status: 'serving' | 'draining' | 'starting'
  /** It is known who asks: its connection gives its place at the door back. */
  known(): void
}

export interface ApiNeeds {
  authenticator: Pick<Authenticator, 'authenticate'>
  dispatch: Pick<Dispatch, 'dispatch'>
  audit: Pick<Audit, 'note'>
  agents: Pick<Agents, 'resolve' | 'ids' | 'defaultId' | 'mainKey'>
  /** Why one agent may not send to another; `undefined` stands for a sender that is no agent. */
  refusalOf(from: string | undefined, to: string): GatewayError | undefined
  limits: AllowanceLimits & { socketsPerPrincipal: number }
  log: Pick<Log, 'error'>
  monotonic(): number
  now(): number
  /** How long an answer is waited for, in ms. */
  patienceMs?: number
}

/** Clients of the reference wait 30 s for an answer. */
const PATIENCE_MS = 25_000
const MOST_BYTES = 8 * 1024 * 1024
/** Bytes of bodies and answers that are held for all requests together. */
const MOST_HELD = 64 * 1024 * 1024

interface Visit {
  request: IncomingMessage
  door: Door
  reply: Reply
  /** What is in the path. */
  parts: string[]
  /** Takes room for so many bytes, until its answer has been read. @throws HttpError 503 where there is none */
  hold(bytes: number): void
}

/** A TCP connection, as far as requests that come on it have it in common. */
interface Line {
  allowance: Allowance
  /** Aborted when it has closed. */
  left: AbortSignal
  /** Resolves when its last request has been answered: one comes behind the other, however many are sent at once. */
  free: Promise<void>
  /** Of the connections of its principal, once that is known. */
  share: Share | undefined
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
  const connections = createQuota(needs.limits.socketsPerPrincipal)
  /** Requests that have not been answered, or whose answers have not been read. */
  let open = 0
  let held = 0
  const onAnswered: (() => void)[] = []

  /** What belongs to a connection, made with its first request. */
  function lineOf(socket: Socket): Line {
    const known = lines.get(socket)
    if (known) return known
    const left = new AbortController()
    const line: Line = {
      allowance: createAllowance(needs.limits, monotonic),
      left: left.signal,
      free: Promise.resolve(),
      share: undefined,
    }
    // Of one that has closed already nothing more is heard.
    if (socket.destroyed) left.abort()
    else
      socket.once('close', () => {
        left.abort()
        line.share?.giveBack()
      })
    lines.set(socket, line)
    return line
  }

  /** Who asks. @throws HttpError 401, 429 */
  async function callerOf({ request, door }: Visit): Promise<Caller> {
    const { facts } = door
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
        token === undefined ? 'AUTH_TOKEN_MISSING' : details.code,
        token === undefined ? 'no token: send Authorization: Bearer <token>' : message,
        {},
        { 'www-authenticate': 'Bearer' },
      )
    }
    const line = lineOf(request.socket)
    const { principal } = outcome as Admitted
    line.share ??= line.left.aborted ? undefined : connections.take(principal)
    if (!line.share && !line.left.aborted)
      throw new HttpError(
        429,
        'SOCKET_QUOTA',
        `too many connections of one principal (${connections.most})`,
        {},
        {
          'retry-after': '5',
        },
      )
    door.known()
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
    const body = await readBody(request, visit.hold)
    const { message, context = {}, sessionKey } = body as { message?: unknown; context?: unknown; sessionKey?: unknown }
    if (typeof message !== 'string' || message.trim() === '')
      throw new HttpError(400, 'INVALID_PARAMS', 'message: must be a text that says something')
    if (typeof context !== 'object' || context === null || Array.isArray(context))
      throw new HttpError(400, 'INVALID_PARAMS', 'context: must be an object')
    if (sessionKey !== undefined && typeof sessionKey !== 'string')
      throw new HttpError(400, 'INVALID_PARAMS', 'sessionKey: must be a text')
    const agentId = agentOf(parts[0]!)
    const { task_id: task, delegated_by: sender } = context as { task_id?: unknown; delegated_by?: unknown }
    if (task !== undefined && (typeof task !== 'string' || task === ''))
      throw new HttpError(400, 'INVALID_PARAMS', 'context.task_id: must be a text that is not empty')
    if (sender !== undefined && typeof sender !== 'string')
      throw new HttpError(400, 'INVALID_PARAMS', 'context.delegated_by: must be the id or name of an agent')
    const from = sender === undefined ? undefined : agents.resolve(sender)
    if (sender !== undefined && from === undefined)
      throw new HttpError(
        400,
        'INVALID_PARAMS',
        `context.delegated_by: no agent is called "${sender.slice(0, 64)}" (known: ${agents.ids().join(', ')})`,
      )
    const refusal = needs.refusalOf(from, agentId)
    if (refusal) throw new HttpError(403, refusal.kind, refusal.message, refusal.details)
    const idempotencyKey = header(request, 'idempotency-key') ?? task ?? randomUUID()
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
    if (end) {
      const response = textOf(end)
      visit.hold(response.length)
      return reply(200, { response, ...about })
    }
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
    visit.hold(text?.length ?? 0)
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

  /** Waits for its turn on its connection, does it, and counts it as open until its answer has been read. */
  async function take(
    asked: Omit<Visit, 'hold'>,
    response: ServerResponse,
    handle: (visit: Visit) => Promise<void>,
  ): Promise<void> {
    let own = 0
    const visit: Visit = {
      ...asked,
      hold(bytes) {
        if (held + bytes > MOST_HELD)
          throw new HttpError(503, 'TOO_MUCH_AT_ONCE', 'too much is said at once', {}, { 'retry-after': '2' })
        held += bytes
        own += bytes
      },
    }
    const line = lineOf(visit.request.socket)
    const before = line.free
    const closed = new Promise<void>((resolve) => {
      if (response.closed) resolve()
      else response.once('close', resolve)
    })
    line.free = closed
    open += 1
    try {
      await before
      if (!line.left.aborted) await handle(visit).catch((error: unknown) => refuse(visit, error))
      await closed
    } finally {
      open -= 1
      held -= own
      if (open === 0) for (const wake of onAnswered.splice(0)) wake()
    }
  }

  const ROUTES: [string, RegExp, (visit: Visit) => Promise<void>][] = [
    ['POST', /^\/(?:api\/)?agent\/([^/]{1,256})\/message$/, send],
    ['GET', /^\/(?:api\/)?agent\/([^/]{1,256})\/message\/([^/]{1,512})$/, look],
    ['GET', /^\/(?:api\/)?sessions$/, sessions],
  ]

  return {
    answer(path, request, response, door) {
      const found = ROUTES.filter(([, pattern]) => pattern.test(path))
      if (found.length === 0) return false
      const reply = replyOn(response)
      const refused = (status: number, code: string, message: string, headers: Record<string, string>) => {
        reply(status, { ok: false, error: { code, message } }, headers)
        return true
      }
      const [, pattern, handle] = found.find(([method]) => method === request.method) ?? []
      if (!pattern || !handle) {
        const allow = found.map(([method]) => method).join(', ')
        return refused(405, 'METHOD_NOT_ALLOWED', `use ${allow}`, { allow })
      }
      // Whoever asks how his message is, is told, as long as anybody is.
      if (door.status === 'starting' || (door.status === 'draining' && request.method !== 'GET'))
        return refused(503, door.status.toUpperCase(), `the gateway is ${door.status}; come back`, {
          'retry-after': '2',
        })
      const parts = pattern.exec(path)!.slice(1).map(decoded)
      void take({ request, door, reply, parts }, response, handle)
      return true
    },
    answered: () => (open === 0 ? Promise.resolve() : new Promise((resolve) => onAnswered.push(resolve))),
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
async function readBody(request: IncomingMessage, hold: (bytes: number) => void): Promise<object> {
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
    hold(chunk.length)
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

/**
 * Requests over HTTP that ask for something of the wire: who asks, one behind the other on each connection, and never holding more
 * than there is room for. What is asked is sent on as a request of the wire, by a caller that is let in and checked like every other.
 */
import { randomUUID } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Admitted, Authenticator, PeerFacts } from '../auth/authenticate.ts'
import type { Revocation } from '../auth/devices.ts'
import { type Allowance, type AllowanceLimits, createAllowance } from '../broker/allowance.ts'
import type { Audit } from '../broker/audit.ts'
import type { Caller, Dispatch } from '../broker/dispatch.ts'
import type { Log } from '../broker/log.ts'
import { createQuota, type Share } from '../broker/quotas.ts'
import { GENERIC_CLIENT } from '../contract/connect.ts'
import type { ResponseFrame } from '../contract/frames.ts'
import { scan } from '../contract/json-bounds.ts'
import { isJsonObject, type JsonObject } from '../contract/json-object.ts'
import { pathOf } from './door.ts'
import { HttpError, seconds } from './http-error.ts'
import type { Reply } from './reply.ts'

/** What the door knows of a request. */
export interface Door {
  facts: PeerFacts
  /** Whether anything is done for it now; reading is, also while the gateway drains. */
  status: 'serving' | 'draining' | 'starting'
  /** It is known who asks: its connection gives its place at the door back. */
  known(): void
}

export interface Visit {
  request: IncomingMessage
  response: ServerResponse
  door: Door
  reply: Reply
  /** What is in the path. */
  parts: string[]
  /** Takes room for so many bytes, until its answer has been read. @throws HttpError 503 where there is none */
  hold(bytes: number): void
}

/** A path, what is done there, and in which shape it is told what went wrong. */
export interface Route {
  method: string
  path: RegExp
  handle(visit: Visit): Promise<void>
  tell(error: HttpError): { body: object; headers?: Record<string, string> }
}

export interface Visits {
  /**
   * Waits for its turn on its connection, does it, and counts it as open until its answer has been read, or its connection cut
   * because nobody reads it. Never rejects.
   */
  take(visit: Omit<Visit, 'hold'>, route: Route): Promise<void>
  /** Who asks. @throws HttpError 401, 429 */
  callerOf(visit: Visit): Promise<Caller>
  /**
   * Sends a request of the wire. Resolves to its answers, the last of which may be long in coming.
   * @param onFirst told of the first one at once, before anything follows it
   */
  call(
    caller: Caller,
    method: string,
    params: object,
    onFirst?: (frame: ResponseFrame) => void,
  ): { first: Promise<ResponseFrame>; last: Promise<ResponseFrame> }
  /** Closes the connections on which somebody asks by what was revoked. */
  revoke(revocation: Revocation): void
  /** Resolves when nobody is owed an answer. */
  answered(): Promise<void>
}

export interface VisitsNeeds {
  authenticator: Pick<Authenticator, 'authenticate'>
  dispatch: Pick<Dispatch, 'dispatch'>
  audit: Pick<Audit, 'note'>
  limits: AllowanceLimits & { socketsPerPrincipal: number }
  log: Pick<Log, 'error'>
  monotonic(): number
  /** How long nothing of an answer may be read once it is whole, in ms. */
  unreadMs?: number | undefined
}

const UNREAD_MS = 30_000
const MOST_BYTES = 8 * 1024 * 1024
/** Pieces that a body comes in: each is an object, however small it is. */
const MOST_PIECES = 16_384
/** Bytes of bodies and answers that are held for all requests together, and for those of one principal. */
const MOST_HELD = 64 * 1024 * 1024
const MOST_HELD_BY_ONE = MOST_HELD / 2

/** A TCP connection, as far as requests that come on it have it in common. */
interface Line {
  socket: Socket
  allowance: Allowance
  /** Aborted when it has closed. */
  left: AbortSignal
  /** Resolves when its last request has been answered: one comes behind the other, however many are sent at once. */
  free: Promise<void>
  /** Of the connections of its principal, once that is known. */
  share: Share | undefined
  /** Who asks on it now: a proxy's connection is many people's, one after the other. */
  present: Pick<Admitted, 'principal' | 'credential'> | undefined
}

export function createVisits(needs: VisitsNeeds): Visits {
  const { authenticator, dispatch, audit, log, monotonic, unreadMs = UNREAD_MS } = needs
  const lines = new Map<Socket, Line>()
  const connections = createQuota(needs.limits.socketsPerPrincipal)
  /** Requests that have not been answered, or whose answers have not been read. */
  let open = 0
  let held = 0
  /** By principal. */
  const heldBy = new Map<string, number>()
  const onAnswered: (() => void)[] = []

  /** What belongs to a connection, made with its first request. */
  function lineOf(socket: Socket): Line {
    const known = lines.get(socket)
    if (known) return known
    const left = new AbortController()
    const line: Line = {
      socket,
      allowance: createAllowance(needs.limits, monotonic),
      left: left.signal,
      free: Promise.resolve(),
      share: undefined,
      present: undefined,
    }
    // Of one that has closed already nothing more is heard.
    if (socket.destroyed) left.abort()
    else {
      lines.set(socket, line)
      socket.once('close', () => {
        lines.delete(socket)
        left.abort()
        line.share?.giveBack()
      })
    }
    return line
  }

  /** Tells a refusal as it stands, and all else as an incident that stands in the log. */
  function refuse({ request, response, reply }: Visit, { tell }: Route, error: unknown): void {
    // Who left in the middle of a request is told nothing.
    if (error === request.errored) return
    const refusal = error instanceof HttpError ? error : incidentOf(error, pathOf(request))
    // Half an answer is out: that it is not whole is said by its end.
    if (response.headersSent) return void response.destroy()
    const { body, headers } = tell(refusal)
    reply(refusal.status, body, { ...refusal.headers, ...headers })
  }

  function incidentOf(error: unknown, path: string): HttpError {
    const incident = randomUUID()
    log.error({ incident, path, err: error }, 'request failed')
    return new HttpError(500, 'INTERNAL', `internal error (incident ${incident})`, { incident })
  }

  return {
    async take(asked, route) {
      const { response } = asked
      const line = lineOf(asked.request.socket)
      let own = 0
      /** Of nobody yet until it is known who asks. */
      let holder = ''
      const visit: Visit = {
        ...asked,
        hold(bytes) {
          holder = line.present?.principal ?? holder
          const before = heldBy.get(holder) ?? 0
          if (held + bytes > MOST_HELD || before + bytes > MOST_HELD_BY_ONE)
            throw new HttpError(
              503,
              'TOO_MUCH_AT_ONCE',
              'too much is said at once',
              {},
              { 'retry-after': '2', connection: 'close' },
            )
          heldBy.set(holder, before + bytes)
          held += bytes
          own += bytes
        },
      }
      const before = line.free
      const closed = new Promise<void>((resolve) => {
        if (response.closed) resolve()
        else response.once('close', resolve)
      })
      line.free = closed
      open += 1
      try {
        await before
        if (!line.left.aborted) await route.handle(visit).catch((error: unknown) => refuse(visit, route, error))
        // Room that is everybody's is not held for one who does not read. When all has left, it waits for the next request as ever.
        if (!response.writableFinished) line.socket.setTimeout(unreadMs)
        await closed
      } finally {
        line.present = undefined
        open -= 1
        held -= own
        const left = (heldBy.get(holder) ?? 0) - own
        if (left > 0) heldBy.set(holder, left)
        else heldBy.delete(holder)
        if (open === 0) for (const wake of onAnswered.splice(0)) wake()
      }
    },

    async callerOf({ request, door }) {
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
      const admitted = outcome as Admitted
      // It was taken away while it was being looked at.
      if (admitted.isCurrent?.() === false)
        throw new HttpError(
          401,
          'AUTH_TOKEN_MISMATCH',
          'the credential has ended',
          {},
          { 'www-authenticate': 'Bearer' },
        )
      const line = lineOf(request.socket)
      const { principal, credential } = admitted
      line.share ??= line.left.aborted ? undefined : connections.take(principal)
      if (!line.share && !line.left.aborted)
        throw new HttpError(
          429,
          'SOCKET_QUOTA',
          `too many connections of one principal (${connections.most})`,
          {},
          { 'retry-after': '5' },
        )
      door.known()
      line.present = { principal, ...(credential !== undefined && { credential }) }
      const allowed = line.allowance.request()
      if (allowed.kind !== 'yes')
        throw new HttpError(
          429,
          'RATE_LIMITED',
          'too many requests on this connection',
          {},
          { 'retry-after': seconds(allowed.kind === 'later' ? allowed.retryAfterMs : 10_000) },
        )
      return asCaller(connId, admitted, line)
    },

    call(caller, method, params, onFirst = () => {}) {
      const first = Promise.withResolvers<ResponseFrame>()
      const last = Promise.withResolvers<ResponseFrame>()
      let isFirst = true
      dispatch.dispatch({ type: 'req', id: 'http', method, params }, caller, (text) => {
        const frame = JSON.parse(text) as ResponseFrame
        if (isFirst) onFirst(frame)
        isFirst = false
        first.resolve(frame)
        if (!isAccepted(frame)) last.resolve(frame)
      })
      return { first: first.promise, last: last.promise }
    },

    revoke({ principal, role, credential }) {
      if (role !== undefined && role !== 'operator') return
      for (const { socket, present } of lines.values()) {
        if (present?.principal !== principal) continue
        if (credential === undefined || present.credential === credential) socket.destroy()
      }
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

/** The turn is on disk, and its end is still to come. */
export const isAccepted = ({ ok, payload }: ResponseFrame): boolean =>
  ok && (payload as { status?: string } | undefined)?.status === 'accepted'

/** Reads a JSON object. @throws HttpError 400, 413, 415 */
export async function readBody({ request, hold }: Pick<Visit, 'request' | 'hold'>): Promise<JsonObject> {
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
    if (chunks.length === MOST_PIECES)
      throw new HttpError(413, 'MESSAGE_TOO_LARGE', `more than ${MOST_PIECES} pieces`, {}, { connection: 'close' })
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
  if (!isJsonObject(value)) throw new HttpError(400, 'INVALID_PARAMS', 'the body must be a JSON object')
  return value
}

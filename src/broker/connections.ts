/** The peers that are connected: each an actor, its socket, and the lane its requests take. */
import { randomBytes, randomUUID } from 'node:crypto'
import { nanoid } from 'nanoid'
import { connectionMachine, type Verdict } from '../../machines/connection.ts'
import type { Admitted, Authenticator, PeerFacts } from '../auth/authenticate.ts'
import type { Revocation } from '../auth/devices.ts'
import type { Scope } from '../contract/block.ts'
import { type Close, type CloseName, Closes, refusal } from '../contract/closes.ts'
import {
  CAPS,
  type ClientInfo,
  ConnectParams,
  GENERIC_CLIENT,
  type HelloAuth,
  LIMITS,
  negotiate,
} from '../contract/connect.ts'
import { type ErrorShape, GatewayError, type Protocol } from '../contract/errors.ts'
import { decode, type Incoming, type RequestFrame } from '../contract/frames.ts'
import { FEATURES } from '../contract/index.ts'
import { validator } from '../contract/validate.ts'
import { type AllowanceLimits, createAllowance } from './allowance.ts'
import type { Audit } from './audit.ts'
import { type Caller, type Dispatch, encode } from './dispatch.ts'
import { createHost, work } from './host.ts'
import type { Hub } from './hub.ts'
import { type Log, sampled } from './log.ts'
import type { Peer, Wire } from './peer.ts'
import type { Presence } from './presence.ts'
import { createQuota, type Share } from './quotas.ts'
import { createTurnstile, MOST_UNREAD_BYTES } from './turnstile.ts'

/** The broker's side of a socket. */
export interface Connection {
  readonly connId: string
  /** A frame came in: the bytes of its text. */
  receive(data: Buffer): void
  /** The socket is gone. */
  gone(): void
  /** Ends the connection for a reason of the transport. */
  close(close: Close): void
}

export interface Connections {
  accept(wire: Wire, facts: PeerFacts): Connection
  close(connId: string, close: CloseName): void
  /** Closes those who came in by what was revoked. What they have sent and what has not been begun is not done. */
  revoke(revocation: Revocation): void
  /** Closes every connection, a batch at a time so that not all come back at once. Resolves when all are gone. */
  closeAll(close: CloseName, batch: { size: number; everyMs: number }): Promise<void>
  readonly size: number
}

export interface ConnectionsNeeds {
  authenticator: Authenticator
  dispatch: Dispatch
  hub: Hub
  presence: Presence
  log: Log
  audit: Pick<Audit, 'note'>
  now(): number
  monotonic(): number
  limits: AllowanceLimits & { socketsPerPrincipal: number }
  handshakeTimeoutMs: number
  tickIntervalMs: number
  version: string
  /** What `hello-ok.snapshot` says to a peer with these scopes. */
  snapshot(scopes: readonly Scope[]): object
  /** Somebody listed has left. */
  onLeft(): void
}

interface Port {
  connId: string
  wire: Wire
  facts: PeerFacts
  nonce: string
  held: Incoming[]
  /** The `connect` that is being checked, or was. */
  connecting: RequestFrame | undefined
  lane: ((incoming: Incoming) => void) | undefined
  /** Bytes a frame may have; `ws` itself stops at what it may have at the most. */
  maxPayload: number
  /** Made for those who want to know when the peer has left. */
  left: AbortController | undefined
  /** Set by `authenticate`, used by `welcome`. */
  admitted:
    | { request: RequestFrame; protocol: Protocol; client: ClientInfo; caps: readonly string[]; outcome: Admitted }
    | undefined
  presenceKey: string | undefined
  /** Who it is, and what it came in by, once it is welcomed. */
  known: { principal: string; role: string; credential: string | undefined } | undefined
  /** Of the sockets of its principal. */
  share: Share | undefined
  /** What it came in by was revoked: it is being closed. */
  isRevoked: boolean
}

const connectParams = validator(ConnectParams)
/** Refused connections that are in the log each second: a flood is not to fill the disk. */
const REFUSALS_PER_SECOND = 10
/** Sessions whose spelling is remembered for each connection of protocol 3. */
const MOST_SPELLINGS = 1000
/** Frames too deep or too long to be read, until the connection is closed. */
const MOST_STRIKES = 3

export function createConnections(needs: ConnectionsNeeds): Connections {
  const { authenticator, dispatch, hub, presence, log, audit, now } = needs
  const ports = new Map<string, Port>()
  const warnOfRefusal = sampled((details, message) => log.warn(details, message), REFUSALS_PER_SECOND, needs.monotonic)
  const waiters: (() => void)[] = []
  const sockets = createQuota(needs.limits.socketsPerPrincipal)

  /** A connection that an effect is about is there by construction: it is forgotten only after its actor is done. */
  const get = (connId: string): Port => {
    const port = ports.get(connId)
    if (!port) throw new Error(`connection ${connId} is not there`)
    return port
  }

  function forget(connId: string): void {
    ports.get(connId)?.share?.giveBack()
    ports.delete(connId)
    if (ports.size === 0) for (const wake of waiters.splice(0)) wake()
  }

  const host = createHost({
    machine: connectionMachine.provide({
      actions: {
        challenge: (_, { connId }) => {
          const { wire, nonce } = get(connId)
          wire.send(`{"type":"event","event":"connect.challenge","payload":{"nonce":"${nonce}","ts":${now()}}}`)
        },
        refuseFirst: (_, { connId, request }) =>
          answerError(get(connId), request.id, {
            code: 'INVALID_REQUEST',
            message: Closes.notConnect.reason,
            details: { code: 'CONNECT_FIRST' },
          }),
        authenticationFailed: (_, { connId, error }) => {
          const incident = nanoid(10)
          log.error({ connId, incident, err: error }, 'a peer could not be checked')
          const port = get(connId)
          if (port.connecting)
            answerError(
              port,
              port.connecting.id,
              new GatewayError('INTERNAL', `internal error (incident ${incident})`, { details: { incident } }).shape(3),
            )
        },
        hold: (_, { connId, incoming }) => void get(connId).held.push(incoming),
        welcome: (_, { connId }) => welcome(get(connId)),
        openLane: (_, { connId }) => openLane(get(connId)),
        closeLane: (_, { connId }) => leave(get(connId)),
        closeSocket: (_, { connId, close }) => {
          const why = typeof close === 'string' ? Closes[close] : close
          log.debug({ connId, code: why.code, reason: why.reason }, 'connection closed by the gateway')
          get(connId).wire.close(why)
        },
        terminate: (_, { connId }) => get(connId).wire.terminate(),
        unexpected: (_, { connId, event }) =>
          log.debug({ connId, event }, 'connection: an event that means nothing now'),
      },
      actors: { authenticate: work(({ connId, request }) => authenticate(get(connId), request)) },
    }),
    onDone: forget,
    onCrash(connId, error) {
      log.error({ connId, err: error }, 'a connection crashed; its socket is closed')
      const port = ports.get(connId)
      if (!port) return
      leave(port)
      port.wire.close(Closes.internal)
      forget(connId)
    },
  })

  const answerError = (port: Port, id: unknown, error: ErrorShape) =>
    port.wire.send(encode({ type: 'res', id, ok: false, error }))

  /** Checks a `connect` from its parameters to its credentials. Every refusal is answered before the socket closes. */
  async function authenticate(port: Port, request: RequestFrame): Promise<Verdict> {
    port.connecting = request
    const refuse = (error: ErrorShape, close: Close | CloseName): Verdict => {
      answerError(port, request.id, error)
      return { admitted: false, close }
    }
    const problem = connectParams.problem(request.params ?? {})
    if (problem !== undefined) {
      const message = `invalid connect params: ${problem}`
      return refuse({ code: 'INVALID_REQUEST', message, details: { code: 'INVALID_PARAMS' } }, refusal(message))
    }
    const params = (request.params ?? {}) as ConnectParams
    const protocol = negotiate(params.minProtocol, params.maxProtocol)
    if (protocol === undefined) {
      const details = {
        code: 'PROTOCOL_MISMATCH',
        clientMinProtocol: params.minProtocol,
        clientMaxProtocol: params.maxProtocol,
        expectedProtocol: (params.minProtocol ?? 3) > 4 ? 4 : 3,
      }
      return refuse({ code: 'INVALID_REQUEST', message: Closes.protocolMismatch.reason, details }, 'protocolMismatch')
    }
    const client = params.client ?? GENERIC_CLIENT
    const outcome = await authenticator.authenticate(params, port.facts, port.nonce)
    const { decision } = outcome
    if (!decision.admitted) {
      const { code, message, details, rule, retryAfterMs } = decision
      warnOfRefusal(
        { connId: port.connId, rule, reason: message, client: client.id, address: port.facts.clientAddress },
        'connection refused',
      )
      audit.note({
        kind: 'connect',
        ok: false,
        connId: port.connId,
        what: rule,
        about: { client: client.id, address: port.facts.clientAddress },
        code: details.code,
      })
      return refuse({ code, message, details, ...(retryAfterMs !== undefined && { retryAfterMs }) }, refusal(message))
    }
    // It may have gone meanwhile, and would never give its share back.
    if (!ports.has(port.connId)) return { admitted: false, close: 'handshakeTimeout' }
    const { principal } = outcome as Admitted
    port.share = sockets.take(principal)
    if (!port.share) {
      const message = `too many connections of one principal (${sockets.most}); close some of them`
      warnOfRefusal(
        { connId: port.connId, principal, client: client.id },
        'connection refused: its principal has too many',
      )
      return refuse(
        new GatewayError('SOCKET_QUOTA', message, { retryAfterMs: 5_000 }).shape(protocol),
        refusal(message),
      )
    }
    if (decision.denied.length > 0)
      log.info(
        { connId: port.connId, client: client.id, denied: decision.denied },
        'scopes were asked for and not granted',
      )
    audit.note({
      kind: 'connect',
      ok: true,
      principal,
      connId: port.connId,
      what: decision.rule,
      about: { client: client.id, address: port.facts.clientAddress, role: decision.role },
    })
    port.admitted = { request, protocol, client, caps: params.caps ?? [], outcome: outcome as Admitted }
    return { admitted: true }
  }

  function welcome(port: Port): void {
    const { request, protocol, client, caps, outcome } = port.admitted!
    const { decision, deviceToken, deviceId } = outcome
    // By the device where it is known, else by the instance: a peer that comes back replaces its former entry. `cli` comes and
    // goes with every command, and is not listed.
    if (client.id !== 'cli') {
      port.presenceKey = deviceId ?? client.instanceId ?? port.connId
      presence.join(port.presenceKey, port.connId, client, { role: decision.role, scopes: decision.granted, deviceId })
    }
    // Old clients refuse members they do not know.
    const denied =
      caps.includes(CAPS.streamOffsets) && decision.denied.length > 0 ? { denied: decision.denied } : undefined
    const auth: HelloAuth = { role: decision.role, scopes: decision.granted, ...deviceToken, ...denied }
    port.wire.send(
      encode({
        type: 'res',
        id: request.id,
        ok: true,
        payload: {
          type: 'hello-ok',
          protocol,
          server: {
            version: needs.version,
            ...(protocol === 3 && { host: presence.host }),
            connId: port.connId,
          },
          features: FEATURES,
          // What is said of all sessions is not for a token of some.
          snapshot: needs.snapshot(outcome.sessions ? [] : decision.granted),
          // Protocol 3 has something to tell in `auth` or no `auth` at all; protocol 4 always has it.
          ...((protocol >= 4 || deviceToken || denied) && { auth }),
          policy: {
            maxPayload: LIMITS.maxPayload[protocol],
            maxBufferedBytes: LIMITS.maxBufferedBytes,
            tickIntervalMs: needs.tickIntervalMs,
          },
        },
      }),
    )
    log.debug(
      { connId: port.connId, client: client.id, protocol, rule: decision.rule, principal: outcome.principal },
      'connected',
    )
  }

  function openLane(port: Port): void {
    const { protocol, client, caps, outcome } = port.admitted!
    port.admitted = undefined
    const scopes = new Set(outcome.decision.granted)
    const { connId, wire } = port
    const peer: Peer = {
      connId,
      protocol,
      role: outcome.decision.role,
      principal: outcome.principal,
      scopes,
      sessions: outcome.sessions,
      caps: new Set(caps),
      wire,
      spellings: new Map(),
    }
    const caller: Caller = {
      connId,
      principal: outcome.principal,
      role: peer.role,
      scopes,
      sessions: outcome.sessions,
      protocol,
      client,
      gone() {
        port.left ??= new AbortController()
        return port.left.signal
      },
      denied() {
        const allowed = allowance.denied()
        if (allowed.kind === 'close') end(allowed.close)
      },
      write: (method) => allowance.write(method),
      addressed(sessionKey, spelling) {
        // Clients of protocol 3 drop events whose key differs from their own by one character.
        peer.spellings.delete(sessionKey)
        if (protocol !== 3 || spelling === sessionKey) return
        peer.spellings.set(sessionKey, spelling)
        // Whoever addresses more sessions than this gets the canonical key for those it addressed first.
        if (peer.spellings.size > MOST_SPELLINGS) peer.spellings.delete(peer.spellings.keys().next().value!)
      },
    }
    const send = (text: string) => wire.send(text)
    const allowance = createAllowance(needs.limits, needs.monotonic)
    let strikes = 0
    const end = (close: CloseName) => void host.tell(connId, { type: 'close', close })
    /** Whether a frame is looked at; if not, it is answered. One that is no request costs as much as one that is. */
    const isAllowed = (id: unknown): boolean => {
      const allowed = allowance.request()
      switch (allowed.kind) {
        case 'yes':
          return true
        case 'close':
          end(allowed.close)
          return false
        case 'later': {
          const { retryAfterMs } = allowed
          const refused = new GatewayError('RATE_LIMITED', 'too many requests on this connection', { retryAfterMs })
          if (wire.bytesWaiting > MOST_UNREAD_BYTES) end('slowConsumer')
          else answerError(port, id, refused.shape(protocol))
          return false
        }
      }
    }
    const letIn = createTurnstile(wire, (request, done) =>
      port.isRevoked ? done() : dispatch.dispatch(request, caller, send, done),
    )
    const lane = (incoming: Incoming) => {
      // Refusals are answers, too: who sends what is none and reads nothing does not fill the memory with them.
      if (incoming.kind !== 'request' && wire.bytesWaiting > MOST_UNREAD_BYTES) return end('slowConsumer')
      switch (incoming.kind) {
        case 'request':
          if (isAllowed(incoming.request.id)) letIn(incoming.request)
          return
        case 'invalid':
          if (incoming.isUnbounded && ++strikes >= MOST_STRIKES) return end('invalidFrame')
          if (!isAllowed(incoming.id)) return
          return answerError(
            port,
            incoming.id,
            new GatewayError('INVALID_FRAME', `invalid request frame: ${incoming.problem}`).shape(protocol),
          )
        case 'notJson':
          if (!isAllowed('invalid')) return
          return answerError(
            port,
            'invalid',
            new GatewayError('INVALID_FRAME', 'invalid request frame: not JSON').shape(protocol),
          )
      }
    }
    port.known = { principal: outcome.principal, role: peer.role, credential: outcome.credential }
    hub.join(peer)
    port.lane = lane
    port.maxPayload = LIMITS.maxPayload[protocol]
    wire.takeFramesOf(port.maxPayload)
    // What was revoked while it was being let in was told before there was anybody to close.
    if (outcome.isCurrent?.() === false) return void host.tell(connId, { type: 'close', close: 'authChanged' })
    for (const incoming of port.held.splice(0)) lane(incoming)
  }

  function leave(port: Port): void {
    port.lane = undefined
    port.left?.abort()
    hub.leave(port.connId)
    const { presenceKey } = port
    port.presenceKey = undefined
    if (presenceKey !== undefined && presence.leave(presenceKey, port.connId)) needs.onLeft()
  }

  return {
    accept(wire, facts) {
      const connId = randomUUID()
      const port: Port = {
        connId,
        wire,
        facts,
        nonce: randomBytes(32).toString('base64url'),
        held: [],
        connecting: undefined,
        lane: undefined,
        maxPayload: LIMITS.preauthPayload,
        left: undefined,
        admitted: undefined,
        presenceKey: undefined,
        known: undefined,
        share: undefined,
        isRevoked: false,
      }
      ports.set(connId, port)
      const actor = host.open(connId, {
        connId,
        handshakeTimeoutMs: needs.handshakeTimeoutMs,
        pendingLimit: LIMITS.pendingHandshakeFrames,
      })
      return {
        connId,
        receive(data) {
          if (data.length > port.maxPayload)
            return actor.send({ type: 'close', close: port.lane ? 'tooLarge' : 'preauthTooLarge' })
          const incoming = decode(data)
          if (port.lane) return port.lane(incoming)
          // Frames are told at once, not by a microtask: what comes after must find the lane open or be held in order.
          switch (incoming.kind) {
            case 'request': {
              const { request } = incoming
              return actor.send({
                type: request.method === 'connect' ? 'frame.connect' : 'frame.request',
                request,
                incoming,
              })
            }
            case 'invalid':
              return actor.send({ type: 'frame.invalid', incoming })
            case 'notJson':
              return actor.send({ type: 'frame.notJson', incoming })
          }
        },
        // A peer that was cut off has been forgotten before its socket is gone.
        gone: () => void host.get(connId)?.send({ type: 'socket.closed' }),
        close: (close) => actor.send({ type: 'close', close }),
      }
    },
    close: (connId, close) => void host.tell(connId, { type: 'close', close }),
    revoke({ principal, role, credential }) {
      for (const port of ports.values()) {
        const { connId, known } = port
        if (known?.principal !== principal || (role !== undefined && known.role !== role)) continue
        if (credential !== undefined && known.credential !== credential) continue
        port.isRevoked = true
        host.tell(connId, { type: 'close', close: 'authChanged' })
      }
    },
    async closeAll(close, { size, everyMs }) {
      const ids = host.ids()
      for (let at = 0; at < ids.length; at += size) {
        if (at > 0) await new Promise((resolve) => setTimeout(resolve, everyMs * (0.5 + Math.random())))
        for (const connId of ids.slice(at, at + size)) host.tell(connId, { type: 'close', close })
      }
      if (ports.size > 0) await new Promise<void>((resolve) => waiters.push(resolve))
    },
    get size() {
      return ports.size
    },
  }
}

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
import { FEATURES, methodBlock } from '../contract/index.ts'
import { validator } from '../contract/validate.ts'
import { type AllowanceLimits, createAllowance } from './allowance.ts'
import type { Audit, AuditEntry } from './audit.ts'
import { type Caller, type Dispatch, encode } from './dispatch.ts'
import { createHost, work } from './host.ts'
import type { Hub } from './hub.ts'
import { createLane } from './lane.ts'
import { type Log, sampled } from './log.ts'
import type { Nodes } from './nodes.ts'
import type { Peer, Wire } from './peer.ts'
import type { Presence } from './presence.ts'
import { createQuota, type Share } from './quotas.ts'
import { createTurnstile, MOST_UNREAD_BYTES, type Turnstile } from './turnstile.ts'

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
  /** @param read how its frames are read, where that is not as everybody's are */
  accept(wire: Wire, facts: PeerFacts, read?: (bytes: Uint8Array) => Incoming): Connection
  /** False: it is none of these. */
  close(connId: string, close: CloseName): boolean
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
  nodes: Pick<Nodes, 'join' | 'leave' | 'isOfLive'>
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
  /** Takes a frame of so many bytes. */
  lane: ((incoming: Incoming, bytes: number) => void) | undefined
  turnstile: Turnstile | undefined
  /** Bytes of requests and answers that it held when it was looked at last. */
  load: number
  /** Bytes a frame may have; `ws` itself stops at what it may have at the most. */
  maxPayload: number
  /** Made for those who want to know when the peer has left. */
  left: AbortController | undefined
  /** Set by `authenticate`, used by `welcome`. */
  admitted:
    | {
        request: RequestFrame
        protocol: Protocol
        client: ClientInfo
        caps: readonly string[]
        commands: readonly string[]
        outcome: Admitted
      }
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
/** Refused connections that are in the log each second, and as many with refused scopes: a flood is not to fill the disk. */
const REFUSALS_PER_SECOND = 10
/** Refused scopes of one connection that are named in the log. */
const MOST_DENIED = 8
/** Sessions whose spelling is remembered for each connection of protocol 3. */
const MOST_SPELLINGS = 1000
/** Frames too deep or too long to be read, until the connection is closed. */
const MOST_STRIKES = 3
/** Bytes of requests that are not done and of answers that are not read, over all connections. */
const MOST_HELD_BYTES = 256 * 1024 * 1024
/** Requests under way at once whose answers may have megabytes, over all connections; principals take turns. */
const MOST_LARGE = 8

export function createConnections(needs: ConnectionsNeeds): Connections {
  const { authenticator, dispatch, hub, presence, nodes, log, audit, now } = needs
  const ports = new Map<string, Port>()
  const warnOfRefusal = sampled((details, message) => log.warn(details, message), REFUSALS_PER_SECOND, needs.monotonic)
  const tellOfDenied = sampled((details, message) => log.info(details, message), REFUSALS_PER_SECOND, needs.monotonic)
  const waiters: (() => void)[] = []
  const sockets = createQuota(needs.limits.socketsPerPrincipal)
  const large = createLane(MOST_LARGE)
  /** The loads of all connections together. */
  let held = 0

  /** A connection that an effect is about is there by construction: it is forgotten only after its actor is done. */
  const get = (connId: string): Port => {
    const port = ports.get(connId)
    if (!port) throw new Error(`connection ${connId} is not there`)
    return port
  }

  function forget(connId: string): void {
    const port = ports.get(connId)
    if (port) {
      port.share?.giveBack()
      held -= port.load
      // Its last answers may be yet to come.
      port.load = 0
    }
    ports.delete(connId)
    if (ports.size === 0) for (const wake of waiters.splice(0)) wake()
  }

  /** What a connection holds of the memory. Of the events that wait for a slow reader its delivery takes care. */
  function loadOf({ lane, turnstile, wire }: Port): number {
    if (!lane || !turnstile) return 0
    return turnstile.bytesTaken + Math.max(0, wire.bytesWaiting - wire.eventBytesWaiting)
  }

  /** Notes that a connection may hold more than before. Who holds most makes room, once all together hold too much. */
  function weigh(port: Port): void {
    const load = loadOf(port)
    held += load - port.load
    port.load = load
    if (held <= MOST_HELD_BYTES) return
    // What was read meanwhile nobody told.
    held = 0
    let heaviest = port
    for (const other of ports.values()) {
      other.load = loadOf(other)
      held += other.load
      if (other.load > heaviest.load) heaviest = other
    }
    if (held <= MOST_HELD_BYTES) return
    const { connId, known, wire } = heaviest
    log.warn(
      { connId, principal: known?.principal, bytes: heaviest.load, held },
      'too much is not read; who holds most is disconnected',
    )
    held -= heaviest.load
    heaviest.load = 0
    leave(heaviest)
    host.tell(connId, { type: 'close', close: 'slowConsumer' })
    // A close frame would wait behind all that it has not read.
    wire.terminate()
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
      actors: { authenticate: work(({ connId, request }, signal) => authenticate(get(connId), request, signal)) },
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

  /**
   * Checks a `connect` from its parameters to its credentials. Every refusal is answered before the socket closes.
   * @param signal aborted when nobody waits for the verdict any more
   */
  async function authenticate(port: Port, request: RequestFrame, signal: AbortSignal): Promise<Verdict> {
    port.connecting = request
    const { connId } = port
    const address = port.facts.clientAddress
    const note = (entry: Pick<AuditEntry, 'ok' | 'what' | 'principal' | 'code'>, about: { [name: string]: string }) =>
      audit.note({ kind: 'connect', connId, ...entry, about: { ...about, address } })
    const refuse = (error: ErrorShape, close: Close | CloseName): Verdict => {
      answerError(port, request.id, error)
      return { admitted: false, close }
    }
    const problem = connectParams.problem(request.params ?? {})
    if (problem !== undefined) {
      const message = `invalid connect params: ${problem}`
      note({ ok: false, what: 'connect params', code: 'INVALID_PARAMS' }, {})
      return refuse({ code: 'INVALID_REQUEST', message, details: { code: 'INVALID_PARAMS' } }, refusal(message))
    }
    const params = (request.params ?? {}) as ConnectParams
    const client = params.client ?? GENERIC_CLIENT
    const protocol = negotiate(params.minProtocol, params.maxProtocol)
    if (protocol === undefined) {
      note({ ok: false, what: 'protocol', code: 'PROTOCOL_MISMATCH' }, { client: client.id })
      const details = {
        code: 'PROTOCOL_MISMATCH',
        clientMinProtocol: params.minProtocol,
        clientMaxProtocol: params.maxProtocol,
        expectedProtocol: (params.minProtocol ?? 3) > 4 ? 4 : 3,
      }
      return refuse({ code: 'INVALID_REQUEST', message: Closes.protocolMismatch.reason, details }, 'protocolMismatch')
    }
    const outcome = await authenticator.authenticate(params, port.facts, port.nonce)
    const { decision } = outcome
    if (!decision.admitted) {
      const { code, message, details, rule, retryAfterMs } = decision
      warnOfRefusal(
        {
          connId,
          rule,
          reason: message,
          ...(details['recommendedNextStep'] !== undefined && { next: details['recommendedNextStep'] }),
          ...(details['requestId'] !== undefined && { requestId: details['requestId'] }),
          ...(retryAfterMs !== undefined && { retryAfterMs }),
          client: client.id,
          address,
        },
        'connection refused',
      )
      note({ ok: false, what: rule, code: details.code }, { client: client.id })
      return refuse({ code, message, details, ...(retryAfterMs !== undefined && { retryAfterMs }) }, refusal(message))
    }
    // It may have gone meanwhile, or had its time: it was not let in, and would never give its share back.
    if (signal.aborted) return { admitted: false, close: 'handshakeTimeout' }
    const { principal } = outcome as Admitted
    port.share = sockets.take(principal)
    if (!port.share) {
      const message = `too many connections of one principal (${sockets.most}); close some of them`
      warnOfRefusal({ connId, principal, client: client.id }, 'connection refused: its principal has too many')
      note({ ok: false, principal, what: 'sockets of a principal', code: 'SOCKET_QUOTA' }, { client: client.id })
      return refuse(
        new GatewayError('SOCKET_QUOTA', message, { retryAfterMs: 5_000 }).shape(protocol),
        refusal(message),
      )
    }
    const { denied } = decision
    if (denied.length > 0) {
      const names = denied.slice(0, MOST_DENIED).map(({ scope, reason }) => ({ scope: scope.slice(0, 32), reason }))
      tellOfDenied(
        { connId, client: client.id, denied: names, count: denied.length },
        'scopes were asked for and not granted',
      )
    }
    note({ ok: true, principal, what: decision.rule }, { client: client.id, role: decision.role })
    const { caps = [], commands = [] } = params
    port.admitted = { request, protocol, client, caps, commands, outcome: outcome as Admitted }
    return { admitted: true }
  }

  function welcome(port: Port): void {
    const { request, protocol, client, caps, outcome } = port.admitted!
    const { decision, deviceToken, deviceId } = outcome
    // `cli` comes and goes with every command, and is not listed.
    if (client.id !== 'cli') {
      const { role, granted: scopes } = decision
      port.presenceKey = presence.join(port.connId, client, { principal: outcome.principal, role, scopes, deviceId })
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
          features: FEATURES[decision.role],
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
    const { protocol, client, caps, commands, outcome } = port.admitted!
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
        // Who asks only now may find that it has left already.
        if (!port.lane) port.left.abort()
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
    const pausable = pausableBySeveral(wire)
    // What waited when the lane was closed is not carried out: whoever asked may be nobody any more.
    /** Whether a request is a part of an answer under way. Such are bounded by their bytes: who says more is read more slowly. */
    const isStreamed = (request: RequestFrame, bytes: number): boolean => {
      if (peer.role !== 'node' || !nodes.isOfLive(request, connId)) return false
      const restMs = allowance.streamed(bytes)
      if (restMs > 0) {
        pausable.pause()
        setTimeout(pausable.resume, restMs).unref()
      }
      return true
    }
    const start = (request: RequestFrame, send: (text: string) => void, done: () => void) => {
      // What waited when the lane was closed is not carried out: whoever asked may be nobody any more.
      if (!port.lane || port.isRevoked) return done()
      const weighed = (text: string) => {
        send(text)
        weigh(port)
      }
      dispatch.dispatch(request, caller, weighed, done)
    }
    const isLarge = ({ method }: RequestFrame) => methodBlock(method)?.isLarge === true
    const turnstile = createTurnstile({
      wire: pausable,
      isLarge,
      start(request, send, done) {
        if (!isLarge(request)) return start(request, send, done)
        // It keeps its place until it is done, also when its peer has gone: what it reads is read all the same.
        const leaveLane = () => {
          large.leave(connId)
          done()
        }
        large.enter(connId, peer.principal, () => {
          if (port.lane && !port.isRevoked) start(request, send, leaveLane)
          // Not at once: behind it may wait thousands who have gone, too.
          else queueMicrotask(leaveLane)
        })
      },
    })
    port.turnstile = turnstile
    const lane = (incoming: Incoming, bytes: number) => {
      // Refusals are answers, too: who sends what is none and reads nothing does not fill the memory with them.
      if (incoming.kind !== 'request' && wire.bytesWaiting > MOST_UNREAD_BYTES) return end('slowConsumer')
      switch (incoming.kind) {
        case 'request':
          if (!isStreamed(incoming.request, bytes) && !isAllowed(incoming.request.id)) return
          turnstile.come(incoming.request, bytes)
          return weigh(port)
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
        case 'ping':
          if (isAllowed('ping')) wire.send(incoming.pong)
          return
      }
    }
    port.known = { principal: outcome.principal, role: peer.role, credential: outcome.credential }
    hub.join(peer)
    port.lane = lane
    port.maxPayload = LIMITS.maxPayload[protocol]
    wire.takeFramesOf(port.maxPayload)
    // What was revoked while it was being let in was told before there was anybody to close.
    if (outcome.isCurrent?.() === false) return void host.tell(connId, { type: 'close', close: 'authChanged' })
    if (peer.role === 'node') nodes.join({ connId, nodeId: outcome.principal, client, caps, commands })
    // These are small.
    for (const incoming of port.held.splice(0)) lane(incoming, 0)
  }

  function leave(port: Port): void {
    port.lane = undefined
    port.left?.abort()
    hub.leave(port.connId)
    nodes.leave(port.connId)
    const { presenceKey } = port
    port.presenceKey = undefined
    if (presenceKey !== undefined && presence.leave(presenceKey, port.connId)) needs.onLeft()
  }

  return {
    accept(wire, facts, read = decode) {
      const connId = randomUUID()
      const port: Port = {
        connId,
        wire,
        facts,
        nonce: randomBytes(32).toString('base64url'),
        held: [],
        connecting: undefined,
        lane: undefined,
        turnstile: undefined,
        load: 0,
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
          const incoming = read(data)
          if (port.lane) return port.lane(incoming, data.length)
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
            // Before it is known who asks, nothing but the handshake is answered.
            case 'ping':
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
    close: (connId, close) => host.tell(connId, { type: 'close', close }),
    revoke({ principal, role, credential }) {
      let closed = 0
      for (const port of ports.values()) {
        const { connId, known } = port
        if (known?.principal !== principal || (role !== undefined && known.role !== role)) continue
        if (credential !== undefined && known.credential !== credential) continue
        port.isRevoked = true
        host.tell(connId, { type: 'close', close: 'authChanged' })
        closed += 1
      }
      if (closed > 0) log.info({ principal, role, closed }, 'a credential has ended; what came in by it is closed')
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

/** A socket that is read on only when nobody of several wants it to pause. */
function pausableBySeveral(wire: Wire) {
  let pauses = 0
  return {
    get bytesWaiting() {
      return wire.bytesWaiting
    },
    send: (text: string) => wire.send(text),
    onDrained: (callback: () => void) => wire.onDrained(callback),
    pause() {
      pauses += 1
      if (pauses === 1) wire.pause()
    },
    resume() {
      pauses -= 1
      if (pauses === 0) wire.resume()
    },
  }
}

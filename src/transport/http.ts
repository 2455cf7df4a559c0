/** The one port: health, the page, what is asked over HTTP, and the upgrade to a WebSocket. Everything else does not exist. */
import { isUtf8 } from 'node:buffer'
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { Server as SecureServer } from 'node:https'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { WebSocketServer } from 'ws'
import type { Connection, Connections } from '../broker/connections.ts'
import { type Log, sampled } from '../broker/log.ts'
import { contains } from '../config/address.ts'
import { Closes } from '../contract/closes.ts'
import { LIMITS } from '../contract/connect.ts'
import type { Api } from './api.ts'
import { type BudgetLimits, createBudget, type Lease, RETRY_AFTER_S } from './budget.ts'
import type { Dialect } from './dialect.ts'
import { type DoorPolicy, knock, pathOf } from './door.ts'
import { startHeartbeat } from './heartbeat.ts'
import { page } from './page.ts'
import { replyOn } from './reply.ts'
import { createWire } from './socket.ts'
import { readTls, type TlsFiles, watchTls } from './tls.ts'

export interface Listener {
  /** The addresses it listens on, once it does. */
  readonly addresses: { host: string; port: number }[]
  /** Takes the port on every host. @throws the first host's error; then none is taken */
  listen(hosts: string[], port: number): Promise<void>
  close(): Promise<void>
}

export interface Probe {
  /** Whether peers are let in. */
  serving: boolean
  /** 503 unless it is ready: it may serve those who read although nothing can be kept. */
  ready: boolean
  /** Why not, in a word that tells a stranger nothing. */
  status: 'ok' | 'starting' | 'draining' | 'degraded'
}

export interface ListenerNeeds {
  connections: Pick<Connections, 'accept' | 'size'>
  log: Log
  policy: DoorPolicy
  /** Answers for the paths that are for agents and their sessions. */
  api: Api
  /** Absent: everybody is spoken to alike. */
  dialect?: Dialect | undefined
  probe(): Probe
  uptimeMs(): number
  maxConnections: number
  /** The files of the certificate; undefined = plain HTTP. */
  tls?: TlsFiles | undefined
  limits: BudgetLimits
  /** The page at `/`, unless the configuration turns it off. */
  servePage: boolean
  /** Between two pings of a socket, in ms. */
  heartbeatMs: number
}

/** Upgrades are taken here, with any query; proxies strip `/ws` or do not. */
const UPGRADE_PATHS = new Set(['/', '/ws', '/ws/', '/gateway', '/gateway/'])

/**
 * Connections that the kernel keeps until they are accepted, if it lets so many wait. Of more, TCP tells nobody: they try again after
 * seconds, and a proxy gives up by then and answers 502.
 */
const BACKLOG = 4_096

/** What 426 has to say (RFC 6455, section 4.2.2; RFC 9110, section 15.5.22). */
const VERSION_13 = ['Sec-WebSocket-Version: 13', 'Upgrade: websocket', 'Connection: Upgrade']

/** Somebody at the other end of a socket. */
interface Visitor {
  /** A listed proxy that has not asked for anything yet. */
  isAwaited: boolean
  hasGivenWay: boolean
  /** Asks for a place at the door. */
  enter(): Lease | undefined
  /** Its place; undefined where it needs none, being known. */
  lease: Lease | undefined
}

/** Loaded by `require`: an ESM import of `node:http` also loads the whole of undici, 25 to 45 ms of every start. */
const http = process.getBuiltinModule('node:http')

export async function createListener(needs: ListenerNeeds): Promise<Listener> {
  const { connections, log, policy, probe, uptimeMs } = needs
  const { WebSocketServer } = await import('ws')
  const upgrades: WebSocketServer = new WebSocketServer({
    noServer: true,
    // Before the handshake; `takeFramesOf` lifts it after. Twice the bound, so that a peer slightly over it is told why.
    // Never compressed (a few bytes could become gigabytes).
    maxPayload: 2 * LIMITS.preauthPayload,
    perMessageDeflate: false,
    // Each piece and each chunk is an object, however small it is.
    maxFragments: 64,
    maxBufferedChunks: 1_024,
    skipUTF8Validation: false,
  })
  const isProxy = (address: string) => policy.trustedProxies.some((range) => contains(range, address))
  const budget = createBudget(needs.limits, isProxy)
  const warnOfRefusal = sampled(
    (details, message) => log.warn(details, message),
    10,
    () => performance.now(),
  )
  let isWarned = false

  /** Once: it says so of each request. */
  function warnOfProxy(proxy: string): void {
    if (isWarned) return
    isWarned = true
    log.warn(
      { proxy },
      'a listed proxy does not say in X-Forwarded-For for whom it asks: all who come through it count as one',
    )
  }

  /** By the peer's address and port, which TLS and the TCP socket under it have in common. */
  const visitors = new Map<string, Visitor>()
  const endOf = ({ remoteAddress, remotePort }: Socket): string => `${remoteAddress} ${remotePort}`

  /** Gives a socket its place before a byte of it is read, or turns it away. */
  function onConnection(socket: Socket): void {
    const address = socket.remoteAddress ?? ''
    const visitor: Visitor = {
      isAwaited: isProxy(address),
      hasGivenWay: false,
      enter: () =>
        budget.entered(address, () => {
          visitor.hasGivenWay = true
          // A proxy whose request is not answered tells its client of a broken gateway: it is read first.
          if (!visitor.isAwaited) socket.destroy()
        }),
      lease: undefined,
    }
    visitor.lease = visitor.enter()
    if (!visitor.lease) return turnAway(socket, 503, 'too many wait at the door', [`Retry-After: ${RETRY_AFTER_S}`])
    const end = endOf(socket)
    visitors.set(end, visitor)
    socket.once('close', () => {
      if (visitors.get(end) === visitor) visitors.delete(end)
      visitor.lease?.over()
    })
  }

  /** Who is known frees its place. What comes on the same connection afterwards may be somebody else's: a proxy keeps it. */
  function freePlace(visitor: Visitor | undefined): void {
    visitor?.lease?.over()
    if (visitor) visitor.lease = undefined
  }
  const heartbeat = startHeartbeat(needs.heartbeatMs)
  const servers: Server[] = []
  const unwatch = needs.tls ? watchTls(needs.tls, () => servers as SecureServer[], log) : () => {}
  const addresses: Listener['addresses'] = []

  function onRequest(request: IncomingMessage, response: ServerResponse): void {
    const reply = replyOn(response)
    const refuse = (status: number, code: string, message: string, headers = {}) =>
      reply(status, { ok: false, error: { code, message } }, headers)

    const knocked = knock(request, policy)
    const visitor = visitors.get(endOf(request.socket))
    if (visitor) visitor.isAwaited = false
    // It has no place any more for a second one.
    if (visitor?.hasGivenWay) response.shouldKeepAlive = false
    if (!knocked.admitted) return refuse(knocked.status, 'NOT_ADMITTED', knocked.message)
    const path = pathOf(request)
    const { serving, status } = probe()
    const door = {
      facts: knocked.facts,
      // Before it is ready, what a former process left has to be settled first.
      status: serving ? ('serving' as const) : status === 'starting' ? status : ('draining' as const),
      known: () => freePlace(visitor),
    }
    if (needs.api.answer(path, request, response, door)) return
    const known = ROUTES.has(path)
    if (known && request.method !== 'GET' && request.method !== 'HEAD')
      return refuse(405, 'METHOD_NOT_ALLOWED', 'use GET', { allow: 'GET, HEAD' })
    switch (path) {
      case '/health':
      case '/healthz': {
        const { status } = probe()
        return reply(200, { ok: status === 'ok', status, service: 'kurultai-gateway', uptimeMs: uptimeMs() })
      }
      case '/readyz':
      case '/startupz': {
        const { ready, status } = probe()
        return reply(
          ready ? 200 : 503,
          { ok: ready, status, service: 'kurultai-gateway' },
          ready ? {} : { 'retry-after': '2' },
        )
      }
      case '/':
        if (!needs.servePage) break
        response.writeHead(200, page.headers)
        response.end(request.method === 'HEAD' ? undefined : page.body)
        return
      default:
    }
    refuse(404, 'NOT_FOUND', 'there is nothing here; see /health, or open a WebSocket on /')
  }

  /** Answers an upgrade that is not taken, and ends the socket. */
  function turnAway(socket: Duplex, status: number, message: string, headers: string[] = []): void {
    const body = JSON.stringify({ ok: false, error: { message } })
    socket.on('error', () => socket.destroy())
    // Who does not close its half would keep the socket, and with it the listener, for ever.
    socket.once('finish', () => socket.destroy())
    socket.end(
      [
        `HTTP/1.1 ${status} ${http.STATUS_CODES[status]}`,
        'Connection: close',
        'Content-Type: application/json; charset=utf-8',
        `Content-Length: ${Buffer.byteLength(body)}`,
        ...headers,
        '',
        body,
      ].join('\r\n'),
    )
  }

  function onUpgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    const visitor = visitors.get(endOf(socket as Socket))
    if (visitor) visitor.isAwaited = false
    if (!UPGRADE_PATHS.has(pathOf(request))) return turnAway(socket, 404, 'WebSockets are served on / and /ws')
    // Before it is ready, what a former process left has to be settled first; when it drains, others are to be asked.
    const { serving, status } = probe()
    if (!serving) return turnAway(socket, 503, `the gateway is ${status}`, ['Retry-After: 2'])
    if (needs.maxConnections > 0 && connections.size >= needs.maxConnections)
      return turnAway(socket, 503, 'the gateway has as many connections as it takes', ['Retry-After: 5'])
    const knocked = knock(request, policy)
    if (!knocked.admitted) {
      warnOfRefusal(
        { status: knocked.status, reason: knocked.message, address: request.socket.remoteAddress },
        'upgrade refused',
      )
      return turnAway(socket, knocked.status, knocked.message)
    }
    // `ws` would take 8 as well, in which a page says in another header where it comes from.
    const { upgrade, 'sec-websocket-version': version } = request.headers
    if (upgrade?.toLowerCase() === 'websocket' && version !== '13')
      return turnAway(socket, 426, 'the version of WebSocket that is spoken here is 13', VERSION_13)
    const { facts, isForwarded, namesNobody } = knocked
    if (namesNobody) warnOfProxy(facts.address)
    if (visitor) visitor.lease ??= visitor.enter()
    const lease = visitor?.lease
    if (!lease?.seenAs({ address: facts.clientAddress, isForwarded, hasOrigin: facts.origin !== 'absent' }))
      return turnAway(socket, 503, 'too many wait at the door', [`Retry-After: ${RETRY_AFTER_S}`])
    upgrades.handleUpgrade(request, socket, head, (ws) => {
      const raw = socket as Socket
      raw.setNoDelay(true)
      const wire = createWire(ws, raw, lease.over)
      const interpreter = needs.dialect?.interpret(facts.path, wire)
      const connection: Connection = connections.accept(interpreter?.wire ?? wire, facts, interpreter?.read)
      heartbeat.watch(ws, raw)
      // Binary frames are read as the text they hold. `data` is one Buffer, since `binaryType` is as it was. Of what comes as
      // text, `ws` has made sure.
      ws.on('message', (data, isBinary) => {
        if (isBinary && !isUtf8(data as Buffer)) return connection.close(Closes.notUtf8)
        connection.receive(data as Buffer)
      })
      // `ws` closes by itself on a frame that breaks the protocol; the error only says which.
      ws.on('error', (error) => log.debug({ connId: connection.connId, reason: error.message }, 'socket error'))
      ws.on('close', () => {
        heartbeat.forget(ws)
        connection.gone()
        interpreter?.gone()
      })
    })
  }

  const listenOn = (host: string, port: number) =>
    new Promise<void>((resolve, reject) => {
      const options = {
        maxHeaderSize: 16 * 1024,
        headersTimeout: 5_000,
        requestTimeout: 30_000,
        // How often both are looked at; unless it is said, every 30 s.
        connectionsCheckingInterval: 1_000,
        requireHostHeader: true,
      }
      const server = needs.tls
        ? process.getBuiltinModule('node:https').createServer({ ...options, ...readTls(needs.tls) }, onRequest)
        : http.createServer(options, onRequest)
      // Of the TCP socket, also where TLS is spoken on it: its place is counted before a byte is read.
      server.on('connection', onConnection)
      server.on('upgrade', onUpgrade)
      server.on('clientError', (_, socket) => socket.destroy())
      server.once('error', reject)
      server.listen({ host, port, exclusive: true, backlog: BACKLOG }, () => {
        server.off('error', reject)
        server.on('error', (error) => log.error({ err: error }, 'the listener failed'))
        servers.push(server)
        const bound = server.address()
        addresses.push({ host, port: typeof bound === 'object' && bound ? bound.port : port })
        resolve()
      })
    })

  async function close(): Promise<void> {
    heartbeat.stop()
    unwatch()
    await Promise.all(
      servers.splice(0).map(
        (server) =>
          new Promise<void>((resolve) => {
            server.close(() => resolve())
            server.closeAllConnections()
          }),
      ),
    )
  }

  return {
    addresses,
    async listen([first, ...others], port) {
      await listenOn(first!, port)
      // A free port chosen for the first host is the port of all.
      const chosen = addresses[0]!.port
      for (const host of others) {
        try {
          await listenOn(host, chosen)
        } catch (error) {
          // A machine without IPv6 has no ::1; the other loopback address is enough.
          const { code } = error as NodeJS.ErrnoException
          if (code === 'EADDRNOTAVAIL' || code === 'EAFNOSUPPORT') continue
          await close()
          throw error
        }
      }
    },
    close,
  }
}

const ROUTES = new Set(['/', '/health', '/healthz', '/readyz', '/startupz'])

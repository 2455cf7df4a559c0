/** A whole gateway in this process, on a free port, and peers that speak to it over real sockets. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { WebSocket } from 'ws'
import { quotasOf } from '../../src/broker/quotas.ts'
import type { Config } from '../../src/config/config.ts'
import { loadConfig } from '../../src/config/load.ts'
import { createGateway, type Gateway, type GatewayOptions } from '../../src/gateway.ts'
import { type Logger, openLog } from '../../src/logging.ts'
import { openMemoryStore } from '../../src/stores/memory.ts'
import type { Store } from '../../src/stores/store.ts'

export const TOKEN = 'a-token-for-tests-0123456789'

export interface TestGateway extends AsyncDisposable {
  port: number
  url: string
  stateDir: string
  store: Store
  /** The gateway itself, for what `stop` does all at once. */
  gateway: Gateway
  stop(): Promise<void>
  open(options?: PeerOptions): Promise<Peer>
  /** A peer that has shaken hands. */
  connect(params?: object, options?: PeerOptions): Promise<Peer & { hello: Frame }>
}

export interface TestGatewayOptions {
  /** The configuration file, as an object. `gateway.auth.token` is {@link TOKEN} unless it says otherwise. */
  config?: { [name: string]: unknown }
  env?: Record<string, string>
  /** Memory unless given. */
  store?: Store
  runtimes?: NonNullable<GatewayOptions['runtimes']>
  drainMs?: number
  heartbeatMs?: number
  sweepMs?: number
  healthMs?: number
  now?(): number
  monotonic?(): number
  /** Silent unless given. */
  log?: Logger
  /** Changes what the configuration came to. */
  alter?(config: Config): Config
}

/** Starts a gateway on loopback. */
export async function startGateway(options: TestGatewayOptions = {}): Promise<TestGateway> {
  const stateDir = mkdtempSync(join(tmpdir(), 'kurultai-test-'))
  const loaded = loadConfig({
    env: { OPENCLAW_GATEWAY_TOKEN: TOKEN, LOG_LEVEL: 'silent', ...options.env },
    home: stateDir,
    cwd: stateDir,
    flags: { stateDir, allowUnconfigured: true, port: '0', ...writeConfig(stateDir, options.config) },
  })
  const config = options.alter?.(loaded) ?? loaded
  const store = options.store ?? openMemoryStore(quotasOf(config.gateway.limits))
  const log = options.log ?? openLog({ ...config.logging, level: 'silent' }).log
  const gateway = createGateway({
    config,
    log,
    store: async () => store,
    ...(options.runtimes && { runtimes: options.runtimes }),
    drainMs: options.drainMs ?? 1_000,
    ...(options.heartbeatMs && { heartbeatMs: options.heartbeatMs }),
    ...(options.sweepMs && { sweepMs: options.sweepMs }),
    ...(options.healthMs && { healthMs: options.healthMs }),
    ...(options.now && { now: options.now }),
    ...(options.monotonic && { monotonic: options.monotonic }),
  })
  await gateway.start()
  const { port } = gateway.addresses[0]!
  const url = `ws://127.0.0.1:${port}/`
  const peers: Peer[] = []
  let isStopped = false
  void gateway.stopped.then(() => {
    isStopped = true
  })
  const stop = async () => {
    for (const peer of peers) peer.socket.terminate()
    for (let times = 0; times < 2; times++) if (!isStopped) gateway.stop('the test is over')
    await gateway.stopped
    rmSync(stateDir, { recursive: true, force: true })
  }
  const open = async (peerOptions?: PeerOptions) => {
    const peer = await openPeer(url, peerOptions)
    peers.push(peer)
    return peer
  }
  return {
    port,
    url,
    stateDir,
    store,
    gateway,
    stop,
    open,
    async connect(params, peerOptions) {
      const peer = await open(peerOptions)
      await peer.next((frame) => frame.event === 'connect.challenge')
      const hello = await peer.request('connect', { ...CONNECT, ...params })
      if (!hello.ok) throw new Error(`connect was refused: ${JSON.stringify(hello.error)}`)
      return Object.assign(peer, { hello })
    },
    [Symbol.asyncDispose]: stop,
  }
}

function writeConfig(stateDir: string, config: object | undefined): { configPath?: string } {
  if (config === undefined) return {}
  const configPath = join(stateDir, 'openclaw.json5')
  writeFileSync(configPath, JSON.stringify(config))
  return { configPath }
}

/** What an ordinary protocol-3 client connects with. */
export const CONNECT = {
  minProtocol: 3,
  maxProtocol: 3,
  client: { id: 'gateway-client', version: 'dev', platform: 'linux', mode: 'backend' },
  role: 'operator',
  scopes: ['operator.admin', 'operator.approvals', 'operator.pairing'],
  caps: [],
  auth: { token: TOKEN },
}

// biome-ignore lint/suspicious/noExplicitAny: tests look into frames of every shape
export type Frame = { [member: string]: any }

export interface PeerOptions {
  headers?: Record<string, string>
  path?: string
  /** The address it comes from. */
  localAddress?: string
}

export interface Peer {
  socket: WebSocket
  /** Everything received, in order. */
  frames: Frame[]
  send(frame: object | string): void
  /** Sends a request and resolves to the first response with its id. */
  request(method: string, params?: unknown, id?: string): Promise<Frame>
  /** The first frame, received already or yet to come, that fits and was not taken by an earlier `next`. */
  next(fits?: (frame: Frame) => boolean): Promise<Frame>
  /** Resolves when the socket has closed. */
  closed: Promise<{ code: number; reason: string }>
}

let requests = 0

/** Opens a socket. Rejects with the HTTP status when the upgrade is refused. */
export function openPeer(url: string, { path = '/', ...options }: PeerOptions = {}): Promise<Peer> {
  const socket = new WebSocket(new URL(path, url), options)
  const frames: Frame[] = []
  const taken = new Set<Frame>()
  const waiting: { fits(frame: Frame): boolean; resolve(frame: Frame): void; reject(error: Error): void }[] = []
  const closed = new Promise<{ code: number; reason: string }>((resolve) => {
    socket.on('close', (code, reason) => {
      resolve({ code, reason: reason.toString() })
      for (const { reject } of waiting.splice(0)) reject(new Error(`closed (${code} ${reason}) before the frame came`))
    })
  })
  socket.on('message', (data) => {
    const frame = JSON.parse(data.toString()) as Frame
    frames.push(frame)
    const index = waiting.findIndex(({ fits }) => fits(frame))
    if (index >= 0) {
      taken.add(frame)
      waiting.splice(index, 1)[0]!.resolve(frame)
    }
  })
  const peer: Peer = {
    socket,
    frames,
    closed,
    send: (frame) => socket.send(typeof frame === 'string' ? frame : JSON.stringify(frame)),
    async request(method, params, id = `r${++requests}`) {
      const answer = peer.next((frame) => frame.type === 'res' && frame.id === id)
      peer.send({ type: 'req', id, method, ...(params !== undefined && { params }) })
      return answer
    },
    next(fits = () => true) {
      const here = frames.find((frame) => !taken.has(frame) && fits(frame))
      if (here) {
        taken.add(here)
        return Promise.resolve(here)
      }
      if (socket.readyState === WebSocket.CLOSED) return Promise.reject(new Error('the socket is closed'))
      return new Promise((resolve, reject) => waiting.push({ fits, resolve, reject }))
    },
  }
  return new Promise((resolve, reject) => {
    socket.on('open', () => resolve(peer))
    socket.on('error', reject)
    socket.on('unexpected-response', (_, response) => {
      reject(Object.assign(new Error(`HTTP ${response.statusCode}`), { status: response.statusCode }))
      socket.terminate()
    })
  })
}

/** Fits the terminal `chat` event of a run. */
export const endOf =
  (runId: string) =>
  ({ event, payload }: Frame): boolean =>
    event === 'chat' && payload.runId === runId && payload.state !== 'delta'

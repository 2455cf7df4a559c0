/** A connection to a gateway: the handshake, requests and their answers, events. For Node and for browsers. */
import type { ErrorShape } from '../contract/errors.ts'
import type { EventName, MethodName, Params, Payload, Result } from '../contract/index.ts'

export interface ClientOptions {
  /** `ws://…` or `wss://…`. */
  url: string
  token?: string | undefined
  client?: { id: string; version: string; platform: string; mode: string }
  scopes?: string[]
  caps?: string[]
  /** How long a request may take, in ms; 30,000 unless said. */
  timeoutMs?: number
}

/** What the gateway answered instead of a result. */
export class RequestError extends Error {
  override readonly name = 'RequestError'
  readonly shape: ErrorShape
  /** What a failed run answers besides the error. */
  readonly payload: unknown

  constructor(shape: ErrorShape, payload?: unknown) {
    super(shape.message)
    this.shape = shape
    this.payload = payload
  }
}

/** The connection ended, or never began. */
export class ConnectionError extends Error {
  override readonly name = 'ConnectionError'
}

/** What follows an event's name: its payload. */
export type Listener<E extends EventName> = (payload: Payload<E>) => void

export interface Client {
  /** What the gateway said in `hello-ok`. */
  readonly hello: Hello
  request<M extends MethodName>(method: M, params: Params<M>, options?: RequestOptions): Promise<Result<M>>
  /** A method that the contract of this client need not know. */
  call(method: string, params?: unknown, options?: RequestOptions): Promise<unknown>
  /** Calls the listener for each event of that name, until the function it returns is called. */
  on<E extends EventName>(event: E, listener: Listener<E>): () => void
  close(): void
  /** Resolves when the connection has ended, with why. */
  readonly closed: Promise<{ code: number; reason: string }>
}

export interface RequestOptions {
  timeoutMs?: number
  /** Skips a first answer whose status is `accepted`, and resolves with the one after it. */
  final?: boolean
}

export interface Hello {
  protocol: number
  server: { version: string; connId: string }
  features: { methods: string[]; events: string[] }
  snapshot: { sessionDefaults?: { mainSessionKey: string }; [name: string]: unknown }
}

interface Frame {
  type: string
  id?: unknown
  event?: string
  ok?: boolean
  payload?: unknown
  error?: ErrorShape
}

interface Pending {
  resolve(value: unknown): void
  reject(error: Error): void
  final: boolean
}

const TIMEOUT_MS = 30_000

/**
 * Connects and shakes hands.
 * @throws ConnectionError when nobody answers, RequestError when the gateway refuses
 */
export function connect(options: ClientOptions): Promise<Client> {
  const { url, token, timeoutMs = TIMEOUT_MS } = options
  const socket = new WebSocket(url)
  const pending = new Map<string, Pending>()
  const listeners = new Map<string, Set<(payload: never) => void>>()
  const closed = Promise.withResolvers<{ code: number; reason: string }>()
  let count = 0

  function ask(
    method: string,
    params: unknown,
    { timeoutMs: limit = timeoutMs, final = false }: RequestOptions = {},
  ): Promise<unknown> {
    if (socket.readyState !== WebSocket.OPEN) return Promise.reject(new ConnectionError('the connection is closed'))
    const id = String(++count)
    return new Promise((resolve, reject) => {
      const timer =
        limit > 0
          ? setTimeout(() => settle(new ConnectionError(`no answer to ${method} within ${limit} ms`)), limit)
          : undefined
      const settle = (error: Error) => {
        clearTimeout(timer)
        pending.delete(id)
        reject(error)
      }
      pending.set(id, {
        final,
        resolve(value) {
          clearTimeout(timer)
          pending.delete(id)
          resolve(value)
        },
        reject: settle,
      })
      socket.send(JSON.stringify({ type: 'req', id, method, params }))
    })
  }

  function receive(frame: Frame): void {
    if (frame.type === 'event' && frame.event !== undefined) {
      for (const listener of listeners.get(frame.event) ?? []) listener(frame.payload as never)
      return
    }
    if (frame.type !== 'res') return
    const waiting = pending.get(String(frame.id))
    if (!waiting) return
    if (!frame.ok)
      return waiting.reject(
        new RequestError(frame.error ?? { code: 'UNAVAILABLE', message: 'refused without a reason' }, frame.payload),
      )
    if (waiting.final && (frame.payload as { status?: string } | null)?.status === 'accepted') return
    waiting.resolve(frame.payload)
  }

  return new Promise<Client>((resolve, reject) => {
    socket.addEventListener('error', () => reject(new ConnectionError(`no gateway answers at ${url}`)))
    socket.addEventListener('close', ({ code, reason }) => {
      closed.resolve({ code, reason })
      const error = new ConnectionError(`the connection was closed (${code}${reason ? ` ${reason}` : ''})`)
      for (const waiting of [...pending.values()]) waiting.reject(error)
      reject(error)
    })
    socket.addEventListener('message', ({ data }) => {
      const frame = JSON.parse(String(data)) as Frame
      if (frame.event !== 'connect.challenge') return receive(frame)
      ask('connect', {
        minProtocol: 3,
        maxProtocol: 4,
        client: options.client ?? { id: 'gateway-client', version: '1', platform: 'unknown', mode: 'backend' },
        role: 'operator',
        ...(options.scopes && { scopes: options.scopes }),
        caps: options.caps ?? [],
        ...(token !== undefined && { auth: { token } }),
      }).then((hello) => resolve({ ...client, hello: hello as Hello }), reject)
    })

    const client: Omit<Client, 'hello'> = {
      request: (method, params, how) => ask(method, params, how) as Promise<never>,
      call: (method, params = {}, how) => ask(method, params, how),
      on(event, listener) {
        const here = listeners.get(event) ?? new Set()
        listeners.set(event, here.add(listener))
        return () => void here.delete(listener)
      },
      close: () => socket.close(1000),
      closed: closed.promise,
    }
  })
}

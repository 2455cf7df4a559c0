/** A connection to a gateway that outlives its sockets: the handshake, requests and their answers, events. For Node and for browsers. */
import { type Actor, createActor, fromPromise } from 'xstate'
import { type Backoff, clientMachine, type Greeting } from '../../machines/client.ts'
import type { EventName, MethodName, Params, Payload, Result } from '../contract/index.ts'
import { type Chat, type ChatOptions, type ChatParams, createChats } from './chats.ts'
import { type Answering, createConnectors } from './connector.ts'
import type { Device } from './device.ts'
import { ConnectionError, RequestError } from './failures.ts'
import { isKeyed, type KeyedMethod, newKey } from './repeatable.ts'
import { type AskOptions, createRequests, type RequestOptions, type ResponseFrame } from './requests.ts'
import { type Address, createStreams, type Gap } from './streams.ts'

export type { Chat, ChatOptions, ChatParams, Chunk, Ending } from './chats.ts'
export type { Answering, Run, RunEnd, Said } from './connector.ts'
export { ToolError } from './connector.ts'
export type { Device } from './device.ts'
export { makeDevice, openDevice } from './device.ts'
export { ConnectionError, RequestError, RunError } from './failures.ts'
export type { RequestOptions } from './requests.ts'
export type { Gap, Snapshot } from './streams.ts'

export interface ClientOptions {
  /** `ws://…` or `wss://…`. */
  url: string
  token?: string | undefined
  /** Where the gateway asks for a password instead. */
  password?: string | undefined
  client?: { id: string; version: string; platform: string; mode: string; [member: string]: unknown }
  scopes?: string[]
  /** Besides `stream-offsets` and `delta-only`, which this client always has. */
  caps?: string[]
  /** How long a request may take, in ms; 30,000 unless said, 0 = as long as it takes. */
  timeoutMs?: number
  /** How long a connection may take to be let in, in ms; 15,000 unless said. */
  handshakeMs?: number
  /** Whether and how it comes back after a cut. Unless said it does: 250 ms to 30 s between tries, for ever, from the start. */
  reconnect?: false | Partial<Backoff>
  /** More members of `connect`, made for each challenge: what signs it as a device, for example. */
  prove?(challenge: { nonce: string }): object | Promise<object>
  /** Hears the state from the beginning, before `connect` resolves. */
  onState?(state: ClientState): void
  /** Aborted, it closes the client, also one that has not been let in yet. */
  signal?: AbortSignal
}

/**
 * `connecting`; `resuming`: requests pass, what was missed is being asked for; `ready`; `waiting` for the next try. And three ends:
 * `refused` by the gateway, `gone` without another try, `closed` by the caller.
 */
export type ClientState = 'connecting' | 'resuming' | 'ready' | 'waiting' | 'refused' | 'gone' | 'closed'

/** What follows an event's name: its payload. */
export type Listener<E extends EventName> = (payload: Payload<E>) => void

/** The parameters of a method; where an idempotency key belongs, one is made unless it is given. */
export type Asked<M extends MethodName> = M extends KeyedMethod
  ? Omit<Params<M>, 'idempotencyKey'> & { idempotencyKey?: string }
  : Params<M>

export interface Client {
  /** What the gateway said in `hello-ok`, the last time. */
  readonly hello: Hello
  readonly state: ClientState
  /**
   * Asks, and waits for the answer over cuts: what carries a key, or changes nothing, is asked again under the same key; all else
   * rejects with a ConnectionError, since nobody knows whether it was done. A refusal that says when to come again is taken at its
   * word, as far as the deadline goes.
   * @throws RequestError what the gateway answered; ConnectionError no answer in time, or no connection any more
   */
  request<M extends MethodName>(method: M, params: Asked<M>, options?: RequestOptions): Promise<Result<M>>
  /** A method that the contract of this client need not know. */
  call(method: string, params?: unknown, options?: RequestOptions): Promise<unknown>
  /** Gives a session a turn, and the answer as it is written. */
  chat(params: ChatParams, options?: ChatOptions): Chat
  /**
   * Calls the listener for each event of that name, until the function it returns is called. Events of a session come once and in
   * order, also over cuts, as long as it is among the last 1,000 that were heard. What a listener throws is uncaught, and hurts
   * nobody else.
   */
  on<E extends EventName>(event: E, listener: Listener<E>): () => void
  /** Calls the listener where events were missed that are not to be had any more. */
  onGap(listener: (gap: Gap) => void): () => void
  onState(listener: (state: ClientState) => void): () => void
  /** Tries again at once if it waits to: for whoever sees that the network is back. */
  retry(): void
  close(): void
  /** Resolves when the connection has ended and no other will come, with how the last one did. */
  readonly closed: Promise<{ code: number; reason: string }>
}

export interface Hello {
  protocol: number
  server: { version: string; connId: string }
  features: { methods: string[]; events: string[] }
  snapshot: { sessionDefaults?: { mainSessionKey: string }; [name: string]: unknown }
  auth?: { role: string; scopes: string[]; [member: string]: unknown }
  policy: { maxPayload: number; maxBufferedBytes: number; tickIntervalMs: number }
}

type EventFrame = { type: 'event'; event: string; payload: unknown }
type Frame = EventFrame | ({ type: 'res' } & ResponseFrame)

const TIMEOUT_MS = 30_000
const HANDSHAKE_MS = 15_000
const BACKOFF: Backoff = { minMs: 250, maxMs: 30_000, attempts: null, fromStart: true }
/** The tick of a gateway that does not say how often it ticks. */
const TICK_MS = 30_000
const CONNECT_ID = 'connect'

/**
 * Connects, and resolves when the gateway has let us in for the first time.
 * @throws RequestError when the gateway refuses us; ConnectionError when nobody answers and there are no more tries
 */
export const connect = (options: ClientOptions): Promise<Client> => begin(options).admitted

export interface ConnectorOptions extends Pick<ClientOptions, 'url' | 'token' | 'reconnect' | 'onState' | 'signal'> {
  /** Its key. The gateway pairs it once; from here that needs the shared token only, from elsewhere somebody's word. */
  device: Device
  /** The name it is to be paired under: the id or the name of the agent. Once paired, `node.rename` changes it. */
  name: string
  /** Answers a turn. Several may be under way at once. */
  answer: Answering
}

/**
 * Becomes the agent that the gateway's configuration gives this node: answers its turns until the client is closed. What was said
 * of an answer outlives a cut; what the gateway does not want any more is aborted.
 * @throws as `connect`; NOT_PAIRED until somebody has approved the device
 */
export async function connector({ device, name, answer, ...options }: ConnectorOptions): Promise<Client> {
  const { token = '' } = options
  const node = { role: 'node', scopes: [], caps: ['agent'], commands: ['agent.run'] }
  const info = { id: 'node-host', version: '1', platform: 'unknown', mode: 'node', displayName: name }
  const answers = createConnectors({ ask: (method, params, how) => client.call(method, params, how), answer })
  const { client, admitted } = begin({
    ...options,
    prove: async ({ nonce }) => ({
      ...node,
      client: info,
      device: await device.prove({ ...node, client: info, token, nonce }),
    }),
    onState(state) {
      if (state === 'resuming') answers.reopened()
      else if (state !== 'ready') answers.cut()
      options.onState?.(state)
    },
  })
  // Before it is let in: what it is asked may follow in the same breath.
  client.on('node.invoke.request', answers.request)
  client.on('node.invoke.cancel', answers.cancel)
  void client.closed.then(() => answers.end())
  return admitted
}

function begin(options: ClientOptions): { client: Client; admitted: Promise<Client> } {
  const { url, timeoutMs = TIMEOUT_MS, handshakeMs = HANDSHAKE_MS, reconnect = {}, signal } = options
  const first = Promise.withResolvers<Client>()
  const closed = Promise.withResolvers<{ code: number; reason: string }>()
  const listeners = new Map<string, Set<(payload: never) => void>>()
  const gapListeners = new Set<(gap: Gap) => void>()
  const stateListeners = new Set<(state: ClientState) => void>(options.onState ? [options.onState] : [])
  const requests = createRequests(timeoutMs)
  let socket: WebSocket | undefined
  let hello: Hello | undefined
  let state: ClientState = 'connecting'
  /** The answer to `connect`, while it is waited for. */
  let greeted: ((frame: ResponseFrame) => void) | undefined
  /** The least that the gateway asked to be left alone for, in ms. */
  let retryAfterMs = 0
  let heardAt = 0
  /** How the last connection ended, and what one would tell of it. */
  let last = { code: 1006, reason: '' }
  const nobody = new ConnectionError(`no gateway answers at ${url}`)
  let failure: Error = nobody

  const streams = createStreams({
    ask: (method, params, how) => requests.ask(method, params, how),
    deliver(event, payload) {
      for (const listener of [...(listeners.get(event) ?? [])]) tell(listener, payload as never)
      chats.hear(event, payload)
    },
    hasListeners: () => ['agent', 'chat'].some((event) => (listeners.get(event)?.size ?? 0) > 0),
    openRuns: () => chats.openRuns(),
    sync: (runs, asked, at) => chats.sync(runs, asked, at),
    fail: (runIds, error) => chats.fail(runIds, error),
    gap(gap) {
      for (const listener of [...gapListeners]) tell(listener, gap)
    },
    onStuck: () => drop('it could not give what was missed'),
  })
  const chats = createChats({
    ask,
    look: (runId, address) => (canResume() ? streams.look(runId, address) : Promise.resolve(cannotResume([runId]))),
  })

  const canResume = () => hello?.features?.methods?.includes('chat.resume') === true
  const cannotResume = (runIds: string[]) =>
    chats.fail(runIds, new ConnectionError('the connection was cut, and this gateway does not tell what was missed'))

  /** Asks, under a key of our own where one belongs and none was given. */
  async function ask(method: string, params: unknown, how: AskOptions = {}): Promise<unknown> {
    if (!isKeyed(method) || params === null || typeof params !== 'object') return requests.ask(method, params, how)
    const {
      idempotencyKey: runId = newKey(),
      sessionKey,
      agentId,
    } = params as { idempotencyKey?: string } & Partial<Address>
    const keyed = { ...params, idempotencyKey: runId }
    if (sessionKey === undefined) return requests.ask(method, keyed, how)
    try {
      const onLeaving = () => streams.expect(runId, { sessionKey, agentId })
      const answer = await requests.ask(method, keyed, { ...how, onLeaving })
      if (typeof answer === 'object' && answer !== null && 'aborted' in answer) streams.forget(runId)
      return answer
    } catch (error) {
      streams.forget(runId)
      throw error
    }
  }

  function openSocket(): void {
    // Throws where the URL is none, or the browser forbids it: no other try would mend that, and the client ends.
    const mine = new WebSocket(url)
    socket = mine
    failure = nobody
    mine.addEventListener('message', ({ data }) => {
      if (socket !== mine) return
      try {
        receive(JSON.parse(String(data)) as Frame)
      } catch {
        drop('it does not speak this language')
      }
    })
    const ended = ({ code, reason }: { code: number; reason: string }) => {
      if (socket !== mine) return
      last = { code, reason }
      // Who was refused has been told why, and who reached nobody has been told nothing.
      if (greeted || state !== 'connecting')
        failure = new ConnectionError(`the connection was closed (${code}${reason ? ` ${reason}` : ''})`)
      lost()
    }
    // What was said last is to be understood first: a refusal is followed by the end at once.
    mine.addEventListener('close', (end) => void setTimeout(() => ended(end)))
    // Not everywhere followed by `close`, where a socket could not be opened.
    mine.addEventListener('error', () => void setTimeout(() => ended({ code: 1006, reason: '' })))
  }

  function lost(): void {
    socket = undefined
    greeted = undefined
    actor.send({ type: 'lost', retryAfterMs, jitter: Math.random() })
    retryAfterMs = 0
  }

  /** Ends the socket without waiting for its own end, which takes long where nobody is at the other side. */
  function discard(code: number): void {
    const old = socket
    socket = undefined
    greeted = undefined
    old?.close(code)
  }

  function drop(why: string): void {
    if (!socket) return
    last = { code: 1006, reason: why }
    if (failure === nobody) failure = new ConnectionError(`the connection to ${url} was given up: ${why}`)
    discard(4000)
    lost()
  }

  function receive(frame: Frame): void {
    // Signs of life are told now and then, not with every token.
    const now = performance.now()
    if (now - heardAt >= (hello?.policy?.tickIntervalMs ?? TICK_MS) / 4) {
      heardAt = now
      if (state === 'ready' || state === 'resuming') actor.send({ type: 'heard' })
    }
    if (frame.type === 'res') {
      if (frame.id !== CONNECT_ID) return requests.answer(frame)
      if (greeted && frame.ok) {
        hello = frame.payload as Hello
        // At once: events may follow in the same breath, before the chart hears that we are in.
        streams.reopen(canResume())
      }
      greeted?.(frame)
      greeted = undefined
      return
    }
    if (frame.type !== 'event') return
    checkPayload(frame)
    if (frame.event === 'connect.challenge')
      return actor.send({ type: 'challenged', nonce: String((frame.payload as { nonce?: unknown }).nonce) })
    if (frame.event === 'shutdown')
      retryAfterMs = (frame.payload as Payload<'shutdown'>).restartExpectedMs ?? retryAfterMs
    streams.hear(frame.event, frame.payload)
  }

  /** Says who we are. Rejects when we are not let in for now. */
  async function greet(nonce: string): Promise<Greeting> {
    const { client, scopes, caps = [], token, password } = options
    const here = socket
    const answer = new Promise<ResponseFrame>((resolve) => {
      greeted = resolve
    })
    const proof = await proveOurselves(nonce)
    // The socket may be another one by now: then nobody waits for this.
    if (!here || socket !== here) throw new ConnectionError('the connection ended')
    put({
      type: 'req',
      id: CONNECT_ID,
      method: 'connect',
      params: {
        minProtocol: 3,
        maxProtocol: 4,
        client: client ?? { id: 'gateway-client', version: '1', platform: 'unknown', mode: 'backend' },
        role: 'operator',
        ...(scopes && { scopes }),
        caps: ['stream-offsets', 'delta-only', ...caps],
        ...((token ?? password) !== undefined && { auth: { token, password } }),
        ...proof,
      },
    })
    const { ok, payload, error } = await answer
    if (ok) return { admitted: true, tickIntervalMs: hello?.policy?.tickIntervalMs ?? TICK_MS }
    const shape = error ?? { code: 'UNAVAILABLE', message: 'refused without a reason' }
    failure = new RequestError(shape, payload)
    if (!shape.retryable && shape.code !== 'UNAVAILABLE') return { admitted: false }
    retryAfterMs = shape.retryAfterMs ?? 0
    throw failure
  }

  /** Proof that a device gives of itself. That it cannot is told to whoever waits for the connection. */
  async function proveOurselves(nonce: string): Promise<object | undefined> {
    try {
      return await options.prove?.({ nonce })
    } catch (error) {
      failure = error as Error
      throw error
    }
  }

  /** @throws RangeError when the gateway takes no frame of that size: sent, it would end the connection, and again the next one */
  function put(frame: object): void {
    const text = JSON.stringify(frame)
    const { maxPayload = Number.POSITIVE_INFINITY } = hello?.policy ?? {}
    // UTF-8 has three bytes at the most for what is one unit here: most texts need not be measured.
    const bytes = text.length * 3 > maxPayload ? new TextEncoder().encode(text).length : 0
    if (bytes > maxPayload)
      throw new RangeError(`a request of ${bytes} bytes: the gateway takes ${maxPayload} at the most`)
    socket?.send(text)
  }

  const actor: Actor<typeof clientMachine> = createActor(
    clientMachine.provide({
      actions: {
        openSocket,
        dropSocket: (_, { why }) => drop(why),
        hangUp: () => discard(1000),
        openLane() {
          heardAt = performance.now()
          if (!canResume()) cannotResume(chats.openRuns().map(({ runId }) => runId))
          requests.open(put)
        },
        closeLane: () => requests.cut(),
        unexpected: (_, { event }) => console.warn(`client: an event that means nothing now: ${event}`),
      },
      actors: {
        greet: fromPromise(({ input }) => greet(input.nonce)),
        catchUp: fromPromise(async ({ signal: left }) => {
          if (canResume()) await streams.catchUp(left)
        }),
      },
    }),
    {
      input: {
        backoff: reconnect === false ? null : { ...BACKOFF, ...reconnect },
        handshakeMs,
      },
    },
  )

  const client: Client = {
    get hello() {
      return hello!
    },
    get state() {
      return state
    },
    request: (method, params, how) => ask(method, params, how) as Promise<never>,
    call: (method, params = {}, how) => ask(method, params, how),
    chat: chats.chat,
    on(event, listener) {
      const here = listeners.get(event) ?? new Set()
      listeners.set(event, here.add(listener))
      return () => void here.delete(listener)
    },
    onGap(listener) {
      gapListeners.add(listener)
      return () => void gapListeners.delete(listener)
    },
    onState(listener) {
      stateListeners.add(listener)
      return () => void stateListeners.delete(listener)
    },
    retry: () => over() || actor.send({ type: 'retry' }),
    close: () => over() || actor.send({ type: 'close' }),
    closed: closed.promise,
  }

  const over = () => actor.getSnapshot().status !== 'active'

  /** No other connection will come. */
  function finish(error: Error): void {
    signal?.removeEventListener('abort', client.close)
    requests.end(error)
    chats.end(error)
    first.reject(error)
    closed.resolve(state === 'closed' ? { code: 1000, reason: '' } : last)
  }

  actor.subscribe({
    next({ value }) {
      const now = stateOf(value)
      if (now === state) return
      state = now
      if (state === 'resuming') first.resolve(client)
      for (const listener of [...stateListeners]) tell(listener, state)
    },
    complete() {
      if (state === 'closed') failure = new ConnectionError('the connection was closed by this side')
      finish(failure)
    },
    error(error) {
      // A fault of this client: loud, but the caller's own promises tell it.
      discard(1000)
      finish(error instanceof Error ? error : new Error(String(error)))
    },
  })
  signal?.addEventListener('abort', client.close)
  actor.start()
  if (signal?.aborted) client.close()
  return { client, admitted: first.promise }
}

function stateOf(value: unknown): ClientState {
  if (typeof value === 'string') return value as ClientState
  const { online } = value as { online?: 'resuming' | 'ready' }
  return online ?? 'connecting'
}

/** Listeners look into what they are told without asking whether it is there. */
function checkPayload({ event, payload }: EventFrame): void {
  const isObject = (it: unknown) => typeof it === 'object' && it !== null
  if (!isObject(payload) || (event === 'agent' && !isObject((payload as { data?: unknown }).data)))
    throw new TypeError(`an event without what belongs in it: ${event}`)
}

/** A listener that throws is its own trouble: neither the connection's nor the other listeners'. */
function tell<T>(listener: (it: T) => void, it: T): void {
  try {
    listener(it)
  } catch (error) {
    queueMicrotask(() => {
      throw error
    })
  }
}

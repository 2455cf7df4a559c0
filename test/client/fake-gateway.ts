/** A gateway of a few lines that does to its clients what a real one cannot be made to do. */
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { type WebSocket, WebSocketServer } from 'ws'

// biome-ignore lint/suspicious/noExplicitAny: a fake looks into frames of every shape
type Json = any

/** One connection, as the fake sees it. */
export interface Guest {
  socket: WebSocket
  /** Which connection it is, from 1. */
  nth: number
  /** What it asked, in order, without `connect`. */
  asked: { id: string; method: string; params: Json }[]
  event(event: string, payload: object): void
  /** Answers a request. */
  answer(id: string, payload: object): void
  refuse(id: string, error: object, payload?: object): void
}

export interface FakeOptions {
  /** What becomes of a request; one that is not taken up is never answered. */
  onRequest?(guest: Guest, request: { id: string; method: string; params: Json }): void
  /** Answers `connect` in another way. */
  onConnect?(guest: Guest, request: { id: string; params: Json }): void
  onGreeted?(guest: Guest): void
  tickIntervalMs?: number
  methods?: string[]
  /** Says nothing at all, not even the challenge. */
  silent?: boolean
  port?: number
}

export interface FakeGateway extends AsyncDisposable {
  url: string
  guests: Guest[]
  close(): Promise<void>
}

export async function startFake(options: FakeOptions = {}): Promise<FakeGateway> {
  const { tickIntervalMs = 30_000, methods = ['chat.send', 'chat.abort', 'chat.resume', 'chat.history'] } = options
  const server = new WebSocketServer({ host: '127.0.0.1', port: options.port ?? 0 })
  await once(server, 'listening')
  const guests: Guest[] = []
  server.on('connection', (socket) => {
    const send = (frame: object) => socket.send(JSON.stringify(frame))
    const guest: Guest = {
      socket,
      nth: guests.length + 1,
      asked: [],
      event: (event, payload) => send({ type: 'event', event, payload }),
      answer: (id, payload) => send({ type: 'res', id, ok: true, payload }),
      refuse: (id, error, payload) => send({ type: 'res', id, ok: false, error, ...(payload && { payload }) }),
    }
    guests.push(guest)
    socket.on('message', (data) => {
      const request = JSON.parse(data.toString()) as { id: string; method: string; params: Json }
      if (request.method !== 'connect') {
        guest.asked.push(request)
        options.onRequest?.(guest, request)
        return
      }
      if (options.onConnect) return options.onConnect(guest, request)
      welcome(guest, request.id)
    })
    if (!options.silent) guest.event('connect.challenge', { nonce: 'n', ts: 0 })
  })
  function welcome(guest: Guest, id: string): void {
    guest.answer(id, {
      type: 'hello-ok',
      protocol: 4,
      server: { version: 'fake', connId: `c${guest.nth}` },
      features: { methods, events: [] },
      snapshot: {},
      policy: { maxPayload: 10_000, maxBufferedBytes: 10_000, tickIntervalMs },
    })
    options.onGreeted?.(guest)
  }
  const close = async () => {
    for (const { socket } of guests) socket.terminate()
    await new Promise((resolve) => server.close(resolve))
  }
  const { port } = server.address() as AddressInfo
  return { url: `ws://127.0.0.1:${port}/`, guests, close, [Symbol.asyncDispose]: close }
}

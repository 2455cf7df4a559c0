/** The load: peers that shake hands, ask, and count what they hear. */
import type { Socket } from 'node:net'
import { WebSocket } from 'ws'
import { type Server, TOKEN } from './servers.ts'

export interface Peer {
  /** Sends a request; resolves to the text of its answer. */
  request(method: string, params?: object): Promise<string>
  /** Sends text as it is. */
  send(text: string): void
  /** Hears every frame that answers no `request`; one listener at a time. */
  listen(listener: ((text: string) => void) | undefined): void
  /** Stops or goes on reading from the socket. */
  pause(paused: boolean): void
  /** Several sends leave in one write. */
  together(sends: () => void): void
  readonly closed: boolean
  /** Closes in good order; resolves when it has. */
  close(): Promise<void>
}

const connectParams = (clientId: string) => ({
  minProtocol: 3,
  maxProtocol: 3,
  client: { id: clientId, version: 'dev', platform: 'linux', mode: 'backend' },
  role: 'operator',
  scopes: ['operator.admin', 'operator.approvals', 'operator.pairing'],
  caps: [],
  auth: { token: TOKEN },
})

let requests = 0

/** Opens a socket and shakes hands. A `cli` is not listed among those present, any other client is. */
export function connect({ port }: Pick<Server, 'port'>, clientId = 'gateway-client'): Promise<Peer> {
  const socket = new WebSocket(`ws://127.0.0.1:${port}/`, { perMessageDeflate: false })
  const waiting = new Map<string, (text: string) => void>()
  let listener: ((text: string) => void) | undefined
  let closed = false
  const raw = () => (socket as unknown as { _socket: Socket })._socket
  const peer: Peer = {
    request: (method, params) =>
      new Promise((resolve) => {
        const id = `q${++requests}`
        waiting.set(id, resolve)
        socket.send(JSON.stringify({ type: 'req', id, method, ...(params && { params }) }))
      }),
    send: (text) => socket.send(text),
    listen(next) {
      listener = next
    },
    pause: (paused) => (paused ? socket.pause() : socket.resume()),
    together(sends) {
      raw().cork()
      sends()
      raw().uncork()
    },
    get closed() {
      return closed
    },
    close: () =>
      new Promise((resolve) => {
        if (closed) return resolve()
        socket.once('close', () => resolve())
        socket.close()
      }),
  }
  return new Promise((resolve, reject) => {
    socket.on('error', reject)
    socket.on('close', () => {
      closed = true
      reject(new Error('the socket was closed'))
    })
    socket.on('message', (data: Buffer) => {
      const text = data.toString()
      if (waiting.size > 0 && text.startsWith('{"type":"res"')) {
        const id = /"id":"([^"]*)"/.exec(text)?.[1] ?? ''
        const answered = waiting.get(id)
        if (answered) {
          waiting.delete(id)
          return answered(text)
        }
      }
      if (listener) return listener(text)
      if (text.includes('"connect.challenge"')) {
        peer.request('connect', connectParams(clientId)).then((hello) => {
          if (hello.includes('"hello-ok"')) resolve(peer)
          else reject(new Error(`the handshake was refused: ${hello.slice(0, 300)}`))
        }, reject)
      }
    })
  })
}

/** Opens many, a few at a time. */
export async function connectMany(server: Server, count: number, atOnce = 50): Promise<Peer[]> {
  const peers: Peer[] = []
  while (peers.length < count) {
    const batch = Math.min(atOnce, count - peers.length)
    peers.push(...(await Promise.all(Array.from({ length: batch }, () => connect(server)))))
  }
  return peers
}

/** Keeps `depth` requests in flight on each peer until `count` have been answered. */
export function flood(peers: Peer[], depth: number, count: number, requestText: (n: number) => string): Promise<void> {
  return new Promise((resolve) => {
    let sent = 0
    let answered = 0
    const next = (peer: Peer) => {
      if (sent < count) peer.send(requestText(sent++))
    }
    for (const peer of peers) {
      let owed = 0
      peer.listen((text) => {
        if (!text.startsWith('{"type":"res"')) return
        answered += 1
        if (answered === count) return resolve()
        owed += 1
        if (owed > 1) return
        // All that one read asks for leaves in one write, too.
        setImmediate(() => {
          peer.together(() => {
            for (let n = 0; n < owed; n++) next(peer)
          })
          owed = 0
        })
      })
      peer.together(() => {
        for (let n = 0; n < depth; n++) next(peer)
      })
    }
  })
}

/** The instant in µs of the machine's monotonic clock, which all processes share. */
export const micros = (): number => Number(process.hrtime.bigint() / 1000n)

export const delay = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

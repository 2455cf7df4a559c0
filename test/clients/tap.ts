/** A cable between a client and a gateway that keeps what goes through it: each frame, and whose it is. */
import type { AddressInfo } from 'node:net'
import { type RawData, WebSocket, WebSocketServer } from 'ws'

export interface TappedFrame {
  /** Which connection it went over, from 1. */
  connection: number
  from: 'client' | 'gateway'
  // biome-ignore lint/suspicious/noExplicitAny: frames of every shape
  frame: { [member: string]: any }
}

export interface Tap {
  /** What the client is told to connect to. */
  url: string
  /** Everything that went through, oldest first. */
  frames: TappedFrame[]
  close(): Promise<void>
}

/**
 * Listens on a free port and passes each connection on to the gateway at `target`.
 * @param host the name that the gateway is to believe it was called by; the one that the client used unless given
 */
export async function openTap(target: string, host?: string): Promise<Tap> {
  const frames: TappedFrame[] = []
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0, maxPayload: 2 ** 26 })
  let connections = 0
  server.on('connection', (client, request) => {
    const connection = ++connections
    const { origin } = request.headers
    const headers = { host: host ?? request.headers.host!, ...(origin && { origin }) }
    const gateway = new WebSocket(target, { headers, maxPayload: 2 ** 26 })
    const early: string[] = []
    const keep = (from: TappedFrame['from'], data: RawData) => {
      const text = data.toString()
      frames.push({ connection, from, frame: JSON.parse(text) })
      return text
    }
    client.on('message', (data) => {
      const text = keep('client', data)
      if (gateway.readyState === WebSocket.OPEN) gateway.send(text)
      else early.push(text)
    })
    gateway.on('open', () => {
      for (const text of early.splice(0)) gateway.send(text)
    })
    gateway.on('message', (data) => client.send(keep('gateway', data)))
    // What a socket may not say itself (1005, 1006) is passed on as the loss of the connection that it is.
    const pass = (other: WebSocket) => (code: number, reason: Buffer) =>
      code === 1005 ? other.close() : code === 1006 ? other.terminate() : other.close(code, reason)
    client.on('close', pass(gateway))
    gateway.on('close', pass(client))
    gateway.on('error', () => client.terminate())
    client.on('error', () => gateway.terminate())
  })
  await new Promise((resolve) => server.once('listening', resolve))
  return {
    url: `ws://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    frames,
    async close() {
      for (const client of server.clients) client.terminate()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

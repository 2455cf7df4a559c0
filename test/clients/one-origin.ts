/** The files of a page and a gateway behind one address, as a server that knows nothing of either would put them there. */
import { existsSync, readFileSync, statSync } from 'node:fs'
import { createServer, type IncomingMessage, request } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import { extname, join, normalize } from 'node:path'
import { pipeline } from 'node:stream'

export interface OneOrigin {
  /** Without a slash at the end. */
  url: string
  close(): Promise<void>
}

const TYPES: { [extension: string]: string } = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml',
  '.png': 'image/png',
  '.ico': 'image/x-icon',
}

/**
 * Listens on a free port. What is in `folder` comes from there, each other address that one navigates to is its `index.html`,
 * and the rest is the gateway's, with the headers as they came and none added.
 * @param gatewayPort on loopback
 */
export async function openOneOrigin(folder: string, gatewayPort: number): Promise<OneOrigin> {
  const server = createServer((incoming, response) => {
    const file = fileOf(folder, incoming)
    if (file) {
      response.writeHead(200, { 'content-type': TYPES[extname(file)] ?? 'application/octet-stream' })
      response.end(readFileSync(file))
      return
    }
    const { method, url, headers } = incoming
    const onward = request({ host: '127.0.0.1', port: gatewayPort, method, path: url, headers }, (answer) => {
      response.writeHead(answer.statusCode!, answer.rawHeaders)
      pipeline(answer, response, () => {})
    })
    onward.on('error', () => response.destroy())
    incoming.pipe(onward)
  })
  server.on('upgrade', ({ method, url, rawHeaders }, socket, head) => {
    const onward = connect(gatewayPort, '127.0.0.1', () => {
      const lines = [`${method} ${url} HTTP/1.1`]
      for (let at = 0; at < rawHeaders.length; at += 2) lines.push(`${rawHeaders[at]}: ${rawHeaders[at + 1]}`)
      onward.write(`${lines.join('\r\n')}\r\n\r\n`)
      onward.write(head)
      pipeline(onward, socket, () => {})
      pipeline(socket, onward, () => {})
    })
    onward.on('error', () => socket.destroy())
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `http://localhost:${(server.address() as AddressInfo).port}`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}

function fileOf(folder: string, { url = '/', headers }: IncomingMessage): string | undefined {
  const file = join(folder, normalize(new URL(url, 'http://localhost').pathname))
  if (existsSync(file) && statSync(file).isFile()) return file
  return headers.accept?.includes('text/html') ? join(folder, 'index.html') : undefined
}

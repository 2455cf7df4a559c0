/** A cable to a server, which is a TCP proxy on a loopback port: it can fall silent, and nobody is told. */
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

export interface Cable extends AsyncDisposable {
  /** The address it was made for, by way of this cable. */
  url: string
  /** Hands on nothing more, in neither direction, of those who are connected now. Those who come later are served. */
  fallSilent(): void
  close(): Promise<void>
}

export async function startCable(target: string): Promise<Cable> {
  const { hostname, port } = new URL(target)
  const all: Socket[] = []
  let served: Socket[] = []
  const server = createServer((near) => {
    const far = connect(Number(port), hostname)
    near.pipe(far).pipe(near)
    for (const socket of [near, far]) socket.on('error', () => {}).setNoDelay(true)
    near.on('close', () => far.destroy())
    far.on('close', () => near.destroy())
    all.push(near, far)
    served.push(near, far)
  })
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(0, '127.0.0.1', resolve))
  const close = async () => {
    for (const socket of all) socket.destroy()
    await new Promise((resolve) => server.close(resolve))
  }
  return {
    url: `ws://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    fallSilent() {
      for (const socket of served) {
        socket.unpipe()
        socket.removeAllListeners('close')
        socket.pause()
      }
      served = []
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}

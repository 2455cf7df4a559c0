/** A proxy that cuts the connections that go through it. */
import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

export interface Cutter extends AsyncDisposable {
  url: string
  /** Connections so far. */
  readonly count: number
  /** Tears every connection down in the middle of whatever it says. */
  cut(): void
  /** From now on nothing passes, and nobody is told. */
  freeze(): void
}

/** Lets pass what goes to a port of loopback. */
export async function startCutter(to: number): Promise<Cutter> {
  const open = new Set<Socket>()
  let count = 0
  let isFrozen = false
  const server = createServer((near) => {
    count += 1
    const far = connect(to, '127.0.0.1')
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      open.add(one)
      one.on('data', (data) => void (isFrozen || other.write(data)))
      one.on('error', () => {})
      one.on('close', () => {
        open.delete(one)
        other.destroy()
      })
    }
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const cut = () => {
    for (const socket of open) socket.destroy()
  }
  return {
    url: `ws://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    get count() {
      return count
    },
    cut,
    freeze() {
      isFrozen = true
    },
    async [Symbol.asyncDispose]() {
      cut()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

/**
 * Somebody honest, in a process of their own: they come in again and again, and ask something on a connection that stays. A line on
 * standard input ends a stretch, and is answered with what it was like, as JSON.
 */
import { createInterface } from 'node:readline'
import { CONNECT, openPeer, type Peer } from '../support/gateway.ts'

export interface Stretch {
  /** How long each took, in ms. */
  logins: number[]
  requests: number[]
  /** Why one that was not let in was not, or one that asked was not answered. */
  refused: string[]
  lost: string[]
}

/** Between two, in ms. */
const LOGIN_EVERY_MS = 100
const REQUEST_EVERY_MS = 20

const [url, localAddress] = process.argv.slice(2) as [string, string]
const none = (): Stretch => ({ logins: [], requests: [], refused: [], lost: [] })
let stretch = none()
const wait = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

async function login(): Promise<Peer> {
  const peer = await openPeer(url, { localAddress })
  try {
    await peer.next(({ event }) => event === 'connect.challenge')
    const { ok, error } = await peer.request('connect', CONNECT)
    if (!ok) throw new Error(error.message)
    return peer
  } catch (error) {
    peer.socket.terminate()
    throw error
  }
}

async function comeAndGo(): Promise<void> {
  for (;;) {
    const began = performance.now()
    // What began in one stretch belongs to it.
    const { logins, refused } = stretch
    await login().then(
      (peer) => {
        logins.push(performance.now() - began)
        peer.socket.terminate()
      },
      (error: Error) => refused.push(error.message),
    )
    await wait(LOGIN_EVERY_MS)
  }
}

async function stay(): Promise<void> {
  let peer = await login()
  process.stdout.write('ready\n')
  for (;;) {
    const began = performance.now()
    const { requests, lost } = stretch
    try {
      const { ok, error } = await peer.request('health')
      if (ok) requests.push(performance.now() - began)
      else lost.push(error.message)
    } catch (error) {
      lost.push((error as Error).message)
      await wait(LOGIN_EVERY_MS)
      peer = await login().catch(() => peer)
    }
    peer.frames.splice(0)
    await wait(REQUEST_EVERY_MS)
  }
}

createInterface({ input: process.stdin })
  .on('line', () => {
    process.stdout.write(`${JSON.stringify(stretch)}\n`)
    stretch = none()
  })
  .on('close', () => process.exit())
void stay().then(undefined, (error: Error) => {
  process.stderr.write(`${error.stack}\n`)
  process.exit(1)
})
void comeAndGo()

import { once } from 'node:events'
import { type IncomingMessage, request } from 'node:http'
import { pino } from 'pino'
import { describe, expect, it, vi } from 'vitest'
import { LIMITS } from '../../src/contract/connect.ts'
import type { Runtime, Sink } from '../../src/runtimes/runtime.ts'
import { startCable } from '../support/cable.ts'
import {
  CONNECT,
  endOf,
  type Frame,
  openPeer,
  type Peer,
  startGateway,
  type TestGateway,
  TOKEN,
} from '../support/gateway.ts'

const CAPABLE = { minProtocol: 4, maxProtocol: 4, caps: ['stream-offsets'] }
const KEY = 'agent:main:main'
/** What the kernel holds for a reader that does not read: it fills up before anything waits in the gateway. */
const KERNEL_BYTES = 12 * 1024 * 1024

/** A model that says what a test tells it to. */
function puppet() {
  const asked = Promise.withResolvers<Sink>()
  const finished = Promise.withResolvers<void>()
  const runtime: Runtime = {
    api: 'echo',
    async answer(model, _, sink, signal) {
      signal.addEventListener('abort', () => finished.resolve())
      asked.resolve(sink)
      await finished.promise
      const usage = { input: 0, output: 0, cacheRead: 0, cacheWrite: 0, totalTokens: 0 }
      return { stopReason: 'stop', usage, model }
    },
  }
  return { runtimes: new Map([['echo', runtime]]), asked: asked.promise, finish: finished.resolve }
}

/** For one who says more in a minute than it may otherwise. */
const unlimited = (limits: object = {}) => ({ gateway: { limits: { requestsPerSecond: 0, ...limits } } })

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))
const placed = (frames: Frame[]) => frames.filter(({ payload }) => payload?.offset !== undefined)
const assistant = (frames: Frame[]) => frames.filter(({ payload }) => payload?.stream === 'assistant')
const joined = (frames: Frame[]) =>
  assistant(frames)
    .map(({ payload }) => payload.data.delta)
    .join('')
const shown = (frames: Frame[]) =>
  frames
    .filter(({ event, payload }) => event === 'chat' && payload.state === 'delta')
    .map(({ payload }) => payload.deltaText)
    .join('')

/** Streams to a reader that does not read, until another has heard more than the kernel could hold for the first. */
async function streamPast(sink: Sink, slow: Peer, quick: Peer): Promise<string> {
  let heard = 0
  quick.socket.on('message', (data: Buffer) => {
    heard += data.length
  })
  slow.socket.pause()
  let text = 'x'.repeat(200_000)
  sink.delta(text)
  for (let n = 0; heard < KERNEL_BYTES; n++) {
    sink.delta(` ${n}`)
    text += ` ${n}`
    await pause(20)
  }
  return text
}

describe('a reader that stops for a while', () => {
  it('hears less often and misses nothing when it reads on', async () => {
    const { runtimes, asked, finish } = puppet()
    await using gateway = await startGateway({ runtimes })
    const quick = await gateway.connect(CAPABLE)
    const slow = await gateway.connect(CAPABLE)
    await quick.request('chat.send', { sessionKey: 'main', message: 'x', idempotencyKey: 'k' })
    const sink = await asked
    let text = await streamPast(sink, slow, quick)
    slow.socket.resume()
    for (const piece of [' and', ' so', ' on']) {
      sink.delta(piece)
      text += piece
      await pause(100)
    }
    finish()
    for (const peer of [slow, quick]) {
      const end = await peer.next(endOf('k'))
      expect(end['payload'].message.content[0].text).toBe(text)
      expect(joined(peer.frames)).toBe(text)
      expect(shown(peer.frames)).toBe(text)
      let last = 0
      for (const { payload } of placed(peer.frames)) {
        expect(payload.from ?? payload.offset).toBe(last + 1)
        last = payload.offset
      }
      const seqs = peer.frames.flatMap(({ seq }) => seq ?? [])
      expect(seqs).toEqual(seqs.map((_, index) => index + 1))
    }
    expect(slow.frames.some(({ payload }) => payload?.from !== undefined)).toBe(true)
    expect(quick.frames.some(({ payload }) => payload?.from !== undefined)).toBe(false)
    expect(assistant(slow.frames).length).toBeLessThan(assistant(quick.frames).length)
  })
})

describe('a reader that has more waiting than the policy says', () => {
  /** Two in a session, of whom one stops reading; then more is said than the kernel holds, in answers that cannot be joined. */
  async function fallBehind(gateway: TestGateway) {
    const quick = await gateway.connect(CAPABLE)
    const slow = await gateway.connect(CAPABLE)
    await quick.request('chat.send', { sessionKey: 'main', message: '/status', idempotencyKey: 'k' })
    const { payload: last } = await slow.next(endOf('k'))
    slow.socket.pause()
    for (let said = 0; said < KERNEL_BYTES; said += 250_000) {
      const { ok } = await quick.request('chat.inject', { sessionKey: KEY, message: 'x'.repeat(250_000) })
      expect(ok).toBe(true)
    }
    return { quick, slow, last }
  }

  it('is closed with 1008, though nothing more is said, and finds its place again', async () => {
    const told = Promise.withResolvers<Frame>()
    const write = (line: string) => {
      const entry = JSON.parse(line) as Frame
      if (entry['code'] === 1008) told.resolve(entry)
    }
    await using gateway = await startGateway({ log: pino({ level: 'debug' }, { write }), config: unlimited() })
    const { quick, slow, last } = await fallBehind(gateway)
    expect(await told.promise).toMatchObject({ reason: 'slow consumer' })
    slow.socket.resume()
    expect(await slow.closed).toEqual({ code: 1008, reason: 'slow consumer' })
    const back = await gateway.connect(CAPABLE)
    const { epoch, offset } = last
    const { payload } = await back.request('chat.resume', { sessionKey: 'main', epoch, offset })
    expect(payload).toMatchObject({ recovered: false, reason: 'too_large', epoch })
    expect(payload.offset).toBe(placed(quick.frames).at(-1)!['payload'].offset)
    await quick.request('chat.inject', { sessionKey: KEY, message: 'a note' })
    expect((await back.next(({ event }) => event === 'chat'))['payload'].offset).toBe(payload.offset + 1)
  })

  it('that never reads again is cut off, and its place is free', async () => {
    await using gateway = await startGateway({ config: unlimited({ maxConnections: 2 }) })
    await fallBehind(gateway)
    await comeIn(gateway.url, 1)
  })
})

describe('a reader of an answer over HTTP', () => {
  const config = { gateway: { http: { endpoints: { chatCompletions: { enabled: true } } } } }

  /** One who asks for a stream, and reads nothing of it yet. */
  async function askForStream({ port }: TestGateway): Promise<IncomingMessage> {
    const asking = request({
      ...{ port, method: 'POST', path: '/v1/chat/completions' },
      headers: { authorization: `Bearer ${TOKEN}`, 'content-type': 'application/json' },
    })
    asking.end(
      JSON.stringify({ model: 'openclaw', stream: true, user: 'ann', messages: [{ role: 'user', content: 'hello' }] }),
    )
    const [response] = (await once(asking, 'response')) as [IncomingMessage]
    return response
  }

  it('that has more waiting than the policy says is cut off, and its run stopped', async () => {
    const told = Promise.withResolvers<Frame>()
    const write = (line: string) => {
      const entry = JSON.parse(line) as Frame
      if (entry['msg'] === 'a reader is too slow; it is disconnected') told.resolve(entry)
    }
    const { runtimes, asked } = puppet()
    await using gateway = await startGateway({ runtimes, config, log: pino({ level: 'debug' }, { write }) })
    const response = await askForStream(gateway)
    const sink = await asked
    sink.delta('x'.repeat(2 * KERNEL_BYTES))
    expect((await told.promise)['bytesWaiting']).toBeGreaterThan(LIMITS.maxBufferedBytes)
    await vi.waitFor(async () =>
      expect(await gateway.store.session('agent:main:openai-user:ann')).toMatchObject({ abortedLastRun: true }),
    )
    await expect(response.toArray()).rejects.toThrow('aborted')
  })
})

/** Resolves once so many more have come in, and finds that nobody else can. */
async function comeIn(url: string, count: number): Promise<void> {
  for (let n = 0; n < count; ) {
    const status = await openPeer(url).then(
      () => 101,
      (error: { status?: number }) => error.status,
    )
    if (status === 101) n += 1
    else await pause(20)
    expect([101, 503]).toContain(status)
  }
  await expect(openPeer(url)).rejects.toMatchObject({ status: 503 })
}

describe('peers that are dead', () => {
  it('leave their places to others, and those who are alive keep theirs', async () => {
    const config = { gateway: { limits: { maxConnections: 12 }, handshakeTimeoutMs: 60_000 } }
    await using gateway = await startGateway({ config, heartbeatMs: 200 })
    await using cable = await startCable(gateway.url)
    const called = (instanceId: string) => ({ client: { ...CONNECT.client, instanceId } })
    const alive = await Promise.all([1, 2, 3, 4].map((n) => gateway.connect(called(`alive-${n}`))))
    for (let n = 0; n < 6; n++) {
      const peer = await openPeer(cable.url)
      expect(await peer.request('connect', { ...CONNECT, ...called(`dead-${n}`) })).toMatchObject({ ok: true })
    }
    // Two that never shake hands.
    for (let n = 0; n < 2; n++) await openPeer(cable.url)
    await comeIn(gateway.url, 0)
    cable.fallSilent()
    await comeIn(gateway.url, 8)
    const { payload } = await alive[0]!.request('system-presence')
    const here = payload.filter(({ reason }: Frame) => reason === 'connect').map(({ instanceId }: Frame) => instanceId)
    expect(here.sort()).toEqual(['alive-1', 'alive-2', 'alive-3', 'alive-4'])
    for (const peer of alive) expect(await peer.request('health')).toMatchObject({ ok: true })
  })
})

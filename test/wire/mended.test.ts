/** Ways in which one peer, one run or one refusal of the disk once held up what was not its own. */
import { once } from 'node:events'
import { connect as dial } from 'node:net'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import type { Caller, Reply } from '../../src/broker/dispatch.ts'
import { createHub } from '../../src/broker/hub.ts'
import { createReplay } from '../../src/broker/replay.ts'
import { type AgentsNeeds, agentMethods } from '../../src/methods/agents.ts'
import { echo } from '../../src/runtimes/echo.ts'
import { openMemoryStore } from '../../src/stores/memory.ts'
import { type Store, StoreError } from '../../src/stores/store.ts'
import { createListener } from '../../src/transport/http.ts'
import { createDevice, nonceOf } from '../support/device.ts'
import { CONNECT, endOf, type Frame, type Peer, startGateway } from '../support/gateway.ts'
import { listening, openRooms, quiet, SESSION, settled, storeWith } from '../support/rooms.ts'

const rejections: unknown[] = []
const note = (reason: unknown) => void rejections.push(reason)
beforeEach(() => {
  rejections.length = 0
  process.on('unhandledRejection', note)
})
afterEach(() => {
  process.off('unhandledRejection', note)
  vi.restoreAllMocks()
  expect(rejections).toEqual([])
})

const KEY = SESSION
const MAIN = { sessionKey: 'main' }
/** An answer of the echo that takes about three seconds. */
const long = 'word '.repeat(150)
const quick = { runtimes: new Map([['echo', echo({ wordMs: 1 })]]) }

const send = (peer: Peer, key: string, message: string, sessionKey = 'main') =>
  peer.request('chat.send', { sessionKey, message, idempotencyKey: key })
const endings = (peer: Peer, runId: string) => peer.frames.filter(endOf(runId)).map(({ payload }) => payload.state)
const userTexts = ({ payload }: Frame): string[] =>
  payload.messages.filter(({ role }: Frame) => role === 'user').map(({ content }: Frame) => content[0].text)

/** A call of a store that a test lets go on. */
function gate() {
  const reached = Promise.withResolvers<void>()
  const opened = Promise.withResolvers<void>()
  return {
    reached: reached.promise,
    open: () => opened.resolve(),
    async pass<T>(call: () => Promise<T>): Promise<T> {
      reached.resolve()
      await opened.promise
      return call()
    },
  }
}

describe('a stop', () => {
  it('does not wait for a peer that was turned away and keeps its half open', { timeout: 4_000 }, async () => {
    const listener = await createListener({
      api: { answer: () => false, answered: () => Promise.resolve(), revoke() {} },
      connections: {
        size: 0,
        accept() {
          throw new Error('nobody is let in')
        },
      },
      log: quiet,
      policy: { allowedOrigins: [], trustedProxies: [] },
      probe: () => ({ serving: true, ready: true, status: 'ok' }),
      uptimeMs: () => 0,
      maxConnections: 0,
      limits: { preauthPerIp: 0, preauthTotal: 0 },
      servePage: false,
      heartbeatMs: 20_000,
    })
    await listener.listen(['127.0.0.1'], 0)
    const peer = dial({ port: listener.addresses[0]!.port, host: '127.0.0.1', allowHalfOpen: true })
    peer.on('error', () => {})
    peer.write(
      'GET /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n' +
        'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n',
    )
    let answer = ''
    peer.on('data', (data) => {
      answer += data
    })
    await once(peer, 'end')
    expect(answer).toMatch(/^HTTP\/1\.1 404 /)
    await listener.close()
    peer.destroy()
  })

  it('waits for a turn that is on its way to the disk: it is acknowledged, and it ends', async () => {
    const kept = openMemoryStore()
    const disk = gate()
    await using gateway = await startGateway({
      ...quick,
      drainMs: 10_000,
      store: storeWith(kept, { accept: (turn) => disk.pass(() => kept.accept(turn)) }),
    })
    const peer = await gateway.connect()
    const answer = send(peer, 'k1', 'hello')
    await disk.reached
    gateway.gateway.stop('a test')
    await settled()
    disk.open()
    expect((await answer)['payload']).toEqual({ runId: 'k1', status: 'started' })
    expect(await gateway.gateway.stopped).toEqual({ failure: undefined })
    await peer.closed
    expect(endings(peer, 'k1')).toEqual(['final'])
  })

  it('for the second time leaves a turn that is on its way to the disk to the next process', async () => {
    const kept = openMemoryStore()
    const disk = gate()
    const start = vi.fn(kept.start)
    const settle = vi.fn(kept.settle)
    const store = storeWith(kept, {
      accept: (turn) => disk.pass(() => kept.accept(turn)),
      start,
      settle,
      // Another process would open the same file.
      async close() {},
    })
    const gateway = await startGateway({ ...quick, store })
    const peer = await gateway.connect()
    const answer = send(peer, 'k1', 'hello').catch(() => 'closed')
    await disk.reached
    gateway.gateway.stop('a test')
    gateway.gateway.stop('a test')
    expect(await gateway.gateway.stopped).toEqual({ failure: undefined })
    expect(await answer).toBe('closed')
    disk.open()
    await settled()
    expect([start.mock.calls, settle.mock.calls]).toEqual([[], []])
    expect(await kept.run('k1')).toMatchObject({ state: 'admitted' })
    await gateway.stop()
    await using next = await startGateway({ ...quick, store: kept })
    await vi.waitFor(async () => expect(await next.store.run('k1')).toMatchObject({ state: 'completed' }))
  })

  it('comes of a supervisor that throws, with a failure', async () => {
    let isThrowing = false
    const gateway = await startGateway({
      alter: (config) => ({
        ...config,
        messages: {
          ...config.messages,
          get queueLimit(): number {
            if (isThrowing) throw new Error('a bug in the policy')
            return 32
          },
        },
      }),
    })
    const peer = await gateway.connect()
    isThrowing = true
    const answer = send(peer, 'k1', 'hello').catch(() => {})
    expect(await gateway.gateway.stopped).toEqual({ failure: 'the supervisor crashed' })
    await answer
    await gateway.stop()
  })

  it('leaves nothing to be said by a run that is left to the next process', async () => {
    const rooms = openRooms()
    await rooms.send('k1')
    const { sink } = await rooms.asked('k1')
    sink.delta('one ')
    await settled()
    // One that is not left, and says the same a little later.
    const other = openRooms()
    await other.send('k1')
    const stays = await other.asked('k1')
    stays.sink.delta('one ')
    await settled()
    const heard = () => [rooms, other].map(({ ear }) => ear.heard.length)
    const [before, beforeOther] = heard()
    sink.delta('two ')
    rooms.runs.dropAll()
    sink.delta('three')
    stays.sink.delta('two ')
    await vi.waitFor(() => expect(heard()[1]).toBeGreaterThan(beforeOther!))
    await settled()
    expect(heard()[0]).toBe(before)
  })
})

describe('what cannot be kept', () => {
  const full = async () => {
    throw new StoreError('FULL', 'no space')
  }
  const conflict = async () => {
    throw new StoreError('CONFLICT', 'does not fit')
  }
  const cases: [string, string, Partial<Store>][] = [
    ['a command whose effect the disk refuses', '/think high', { patchSession: full }],
    ['a /new whose transcript the disk refuses', '/new hello', { resetSession: full }],
  ]
  for (const [what, message, changes] of cases)
    it(`ends ${what} with an error under its own id, frees its place, and answers repeats with it`, async () => {
      const store = storeWith(openMemoryStore(), changes)
      await using gateway = await startGateway({ ...quick, store, config: { messages: { queue: { limit: 1 } } } })
      const peer = await gateway.connect()
      for (let n = 0; n < 4; n++) {
        expect(await send(peer, `k${n}`, message)).toMatchObject({
          ok: true,
          payload: { runId: `k${n}`, status: 'started' },
        })
        const { payload } = await peer.next(endOf(`k${n}`))
        expect(payload).toMatchObject({ state: 'error', errorMessage: expect.stringContaining('no space') })
        expect(await send(peer, `k${n}`, message)).toMatchObject({
          ok: false,
          payload: { runId: `k${n}`, status: 'error', summary: payload.errorMessage },
          error: { message: payload.errorMessage },
        })
      }
      expect((await send(peer, 'k9', 'hello'))['payload']).toEqual({ runId: 'k9', status: 'started' })
      await peer.next(endOf('k9'))
      for (let n = 0; n < 4; n++) expect(endings(peer, `k${n}`)).toEqual(['error'])
    })

  it('is a command: one whose answer does not fit still ends, once', async () => {
    await using gateway = await startGateway({ ...quick, store: storeWith(openMemoryStore(), { settle: conflict }) })
    const peer = await gateway.connect()
    await send(peer, 'k1', '/status')
    expect((await peer.next(endOf('k1')))['payload'].state).toBe('error')
    await settled()
    expect(endings(peer, 'k1')).toEqual(['error'])
  })

  it('is an ending that does not fit: it is asked for once, and the run ends and says so', async () => {
    const settle = vi.fn(conflict)
    const rooms = openRooms({ store: storeWith(openMemoryStore(), { settle }) })
    await rooms.send('k1')
    const waited = rooms.runs.wait('k1', 10_000, 'p')
    const { sink, finish } = await rooms.asked('k1')
    sink.delta('text')
    finish()
    expect(await waited).toMatchObject({ outcome: { state: 'completed' } })
    await new Promise((resolve) => setTimeout(resolve, 20))
    expect(settle).toHaveBeenCalledTimes(1)
    expect(rooms.ends('k1')).toHaveLength(1)
    expect(rooms.runs.size).toBe(0)
  })

  it('is a pairing: the peer is given an incident, then 1011', async () => {
    const kept = openMemoryStore()
    const put: Store['put'] = async (kind, ...rest) => {
      if (kind === 'device') throw new StoreError('FULL', 'no space')
      return kept.put(kind, ...rest)
    }
    await using gateway = await startGateway({ store: storeWith(kept, { put }) })
    const peer = await gateway.open()
    const device = createDevice().prove(await nonceOf(peer))
    const answer = await peer.request('connect', { ...CONNECT, device })
    expect(answer).toMatchObject({ ok: false, error: { details: { incident: expect.any(String) } } })
    expect(answer['error'].message).toContain(answer['error'].details.incident)
    expect(answer['error'].message).toMatch(/^internal error/)
    expect(await peer.closed).toMatchObject({ code: 1011 })
  })
})

describe('answers that are not read', () => {
  it('hold up the requests behind them, and come all once they are read', async () => {
    const completed: number[] = []
    let begun = 0
    const text = 'x'.repeat(1_000_000)
    const store = storeWith(openMemoryStore(), {
      async history(_, { limit }) {
        begun += 1
        // Some take longer than others.
        for (let turn = 0; turn < limit % 3; turn++) await new Promise((resolve) => setImmediate(resolve))
        completed.push(limit)
        return { messages: [{ role: 'assistant', content: [{ type: 'text', text }], timestamp: 1 }] }
      },
    })
    await using gateway = await startGateway({ store, config: { gateway: { limits: { requestsPerSecond: 0 } } } })
    const peer = await gateway.connect()
    peer.socket.removeAllListeners('message')
    peer.socket.pause()
    for (let n = 1; n <= 300; n++)
      peer.send({ type: 'req', id: `${n}`, method: 'chat.history', params: { ...MAIN, limit: n } })
    await vi.waitFor(() => expect(begun).toBeGreaterThanOrEqual(9))
    // Others are answered meanwhile.
    const other = await gateway.connect()
    for (let n = 0; n < 100; n++) await other.request('health')
    // Eight MiB and one more; besides those, what the kernel keeps on both sides of a loopback socket.
    expect(begun).toBeLessThan(9 + 40)
    const answered: number[] = []
    const all = new Promise<void>((resolve) => {
      peer.socket.on('message', (data) => {
        answered.push(Number(/"id":"(\d+)"/.exec((data as Buffer).toString('latin1', 0, 100))?.[1]))
        if (answered.length === 300) resolve()
      })
    })
    peer.socket.resume()
    await all
    expect(answered).toEqual(completed)
    expect(new Set(answered).size).toBe(300)
  })
})

describe('agent.wait', () => {
  it('holds up no other request of its connection, and ends with it', async () => {
    // A length of time by which the timers of these waits are known.
    const timeoutMs = 77_777
    const timers: unknown[] = []
    const cleared = new Set<unknown>()
    const set = globalThis.setTimeout
    const clear = globalThis.clearTimeout
    vi.spyOn(globalThis, 'setTimeout').mockImplementation(((run: () => void, ms?: number) => {
      const timer = set(run, ms)
      if (ms === timeoutMs) timers.push(timer)
      return timer
    }) as typeof setTimeout)
    vi.spyOn(globalThis, 'clearTimeout').mockImplementation((timer) => {
      cleared.add(timer)
      clear(timer)
    })
    await using gateway = await startGateway({ config: { gateway: { limits: { requestsPerSecond: 0 } } } })
    const peer = await gateway.connect()
    for (let n = 0; n < 1_000; n++)
      peer.send({ type: 'req', id: `w${n}`, method: 'agent.wait', params: { runId: `none${n}`, timeoutMs } })
    expect(await peer.request('health')).toMatchObject({ ok: true })
    expect(timers).toHaveLength(1_000)
    expect(timers.filter((timer) => cleared.has(timer))).toEqual([])
    peer.socket.terminate()
    await peer.closed
    await vi.waitFor(() => expect(timers.filter((timer) => !cleared.has(timer))).toEqual([]))
  })
})

it('agent.wait of a caller that had gone before it was looked at is over at once', async () => {
  const rooms = openRooms()
  const { 'agent.wait': wait } = agentMethods(rooms as unknown as AgentsNeeds)
  const caller = { gone: () => AbortSignal.abort() } as Caller
  const reply = (await wait({ runId: 'none' }, caller)) as Reply<unknown>
  expect(await reply.later).toEqual({ runId: 'none', status: 'timeout' })
})

describe('requests right behind each other', () => {
  /** Calls that take a turn or two of the loop, and whose answers come several at a time, as from another thread. */
  function gathered(kept: Store): Store {
    let due: (() => void)[] = []
    const late = <T>(answer: Promise<T>): Promise<T> =>
      new Promise((resolve) => {
        if (due.length === 0)
          setTimeout(() => {
            const now = due
            due = []
            for (const run of now) run()
          }, 3)
        due.push(() => resolve(answer))
      })
    return storeWith(kept, {
      session: (key) => late(kept.session(key)),
      accept: (turn) => late(kept.accept(turn)),
      resetSession: (...args) => late(kept.resetSession(...args)),
      deleteSession: (key) => late(kept.deleteSession(key)),
      start: (...args) => late(kept.start(...args)),
      settle: (...args) => late(kept.settle(...args)),
    })
  }

  it('stop a run of agent', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    const id = 'a'
    const first = peer.request('agent', { agentId: 'main', message: long, idempotencyKey: 'k1' }, id)
    const abort = peer.request('chat.abort', MAIN)
    expect((await first)['payload']).toMatchObject({ status: 'accepted' })
    expect((await abort)['payload']).toEqual({ ok: true, aborted: true, runIds: ['k1'] })
    const second = await peer.next((frame) => frame['type'] === 'res' && frame['id'] === id)
    expect(second['payload']).toMatchObject({ runId: 'k1', summary: 'aborted' })
    expect(endings(peer, 'k1')).toEqual(['aborted'])
  })

  for (const [where, open] of [
    ['in memory', openMemoryStore],
    ['on a slow disk', () => gathered(openMemoryStore())],
  ] as const)
    it(`begin each its own transcript, and leave nothing of the former in the latter, ${where}`, async () => {
      for (const message of [long, 'short']) {
        await using gateway = await startGateway({ ...(message === long ? {} : quick), store: open() })
        const peer = await gateway.connect()
        const sent = [
          send(peer, 'k1', `/new A ${message}`),
          send(peer, 'k2', `B ${message}`),
          send(peer, 'k3', '/new C'),
        ]
        for (const { payload } of await Promise.all(sent)) expect(payload.status).toBe('started')
        await Promise.all(['k1', 'k2', 'k3'].map((key) => peer.next(endOf(key))))
        for (const key of ['k1', 'k2']) expect(endings(peer, key)).toEqual([expect.stringMatching(/^(aborted|final)$/)])
        expect(endings(peer, 'k3')).toEqual(['final'])
        const at = (key: string, fits: (frame: Frame) => boolean) =>
          peer.frames.findIndex((frame) => frame['payload']?.runId === key && fits(frame))
        const began = at('k3', ({ event, payload }) => event === 'agent' && payload.data.phase === 'start')
        for (const key of ['k1', 'k2']) expect(at(key, endOf(key))).toBeLessThan(began)
        const history = await peer.request('chat.history', MAIN)
        expect(userTexts(history)).toEqual(['C'])
        expect(history['payload'].messages).toHaveLength(2)
      }
    })

  for (const [where, open] of [
    ['in memory', openMemoryStore],
    ['on a slow disk', () => gathered(openMemoryStore())],
  ] as const)
    it(`end what was sent before a /new, and answer what was sent after it, ${where}`, async () => {
      await using gateway = await startGateway({ store: open() })
      const peer = await gateway.connect()
      const sent = [send(peer, 'k1', long), send(peer, 'k2', '/new B'), send(peer, 'k3', 'C')]
      for (const { payload } of await Promise.all(sent)) expect(payload.status).toBe('started')
      await Promise.all(['k1', 'k2', 'k3'].map((key) => peer.next(endOf(key))))
      expect(['k1', 'k2', 'k3'].map((key) => endings(peer, key))).toEqual([['aborted'], ['final'], ['final']])
      const history = await peer.request('chat.history', MAIN)
      expect(userTexts(history)).toEqual(['B', 'C'])
      expect(history['payload'].messages).toHaveLength(4)
    })

  for (const method of ['sessions.delete', 'sessions.reset'])
    for (const [where, open] of [
      ['in memory', openMemoryStore],
      ['on a slow disk', () => gathered(openMemoryStore())],
    ] as const)
      it(`end by ${method} what was sent before it, and nothing that was sent after it, ${where}`, async () => {
        await using gateway = await startGateway({ store: open() })
        const peer = await gateway.connect()
        const changed = { key: 's' }
        const sent = [
          send(peer, 'k1', long, 's'),
          send(peer, 'k2', `/new ${long}`, 's'),
          peer.request(method, changed),
          send(peer, 'k3', 'C', 's'),
          send(peer, 'k4', '/new D', 's'),
          peer.request(method, changed),
          send(peer, 'k5', 'E', 's'),
        ]
        for (const answer of await Promise.all(sent)) expect(answer).toMatchObject({ ok: true })
        const keys = ['k1', 'k2', 'k3', 'k4', 'k5']
        await Promise.all(keys.map((key) => peer.next(endOf(key))))
        expect(keys.map((key) => endings(peer, key))).toEqual([
          ['aborted'],
          ['aborted'],
          ['aborted'],
          ['aborted'],
          ['final'],
        ])
        expect(userTexts(await peer.request('chat.history', { sessionKey: 's' }))).toEqual(['E'])
      })

  it('end by sessions.reset a turn that is still on its way to the disk', async () => {
    await using gateway = await startGateway({ store: gathered(openMemoryStore()) })
    const peer = await gateway.connect()
    const sent = [send(peer, 'k1', long, 's'), peer.request('sessions.reset', { key: 's' }), send(peer, 'k2', 'B', 's')]
    for (const answer of await Promise.all(sent)) expect(answer).toMatchObject({ ok: true })
    await Promise.all(['k1', 'k2'].map((key) => peer.next(endOf(key))))
    expect([endings(peer, 'k1'), endings(peer, 'k2')]).toEqual([['aborted'], ['final']])
    expect(userTexts(await peer.request('chat.history', { sessionKey: 's' }))).toEqual(['B'])
  })

  it('are not held up by a /new that was refused or repeated', async () => {
    await using gateway = await startGateway({ ...quick, store: gathered(openMemoryStore()) })
    const peer = await gateway.connect()
    await send(peer, 'k1', '/new A')
    await peer.next(endOf('k1'))
    const refused = send(peer, 'k1', '/new something else')
    const repeated = send(peer, 'k1', '/new A')
    await send(peer, 'k2', 'B')
    expect((await refused)['error'].details.code).toBe('IDEMPOTENCY_KEY_REUSED')
    expect((await repeated)['payload']).toEqual({ runId: 'k1', status: 'ok' })
    expect((await peer.next(endOf('k2')))['payload'].state).toBe('final')
    expect(userTexts(await peer.request('chat.history', MAIN))).toEqual(['A', 'B'])
  })

  for (const [where, open] of [
    ['in memory', openMemoryStore],
    ['on a slow disk', () => gathered(openMemoryStore())],
  ] as const)
    it(`remove a session with the turn that was sent before, which ends once, ${where}`, async () => {
      await using gateway = await startGateway({ store: open() })
      const peer = await gateway.connect()
      const sent = send(peer, 'k1', long, 's')
      const removed = peer.request('sessions.delete', { key: 's' })
      expect((await sent)['payload']).toEqual({ runId: 'k1', status: 'started' })
      expect((await removed)['payload']).toMatchObject({ ok: true, deleted: true })
      expect(endings(peer, 'k1')).toEqual(['aborted'])
      expect(await gateway.store.session('agent:main:s')).toBeUndefined()
      expect((await peer.request('chat.history', { sessionKey: 's' }))['payload'].messages).toEqual([])
    })
})

describe('a stream', () => {
  const CAPABLE = { minProtocol: 3, maxProtocol: 4, caps: ['stream-offsets'] }

  it('begins a new epoch when its session was removed', async () => {
    await using gateway = await startGateway(quick)
    const peer = await gateway.connect(CAPABLE)
    const position = async (key: string) => {
      await send(peer, key, 'hello', 's')
      const { epoch, offset } = (await peer.next(endOf(key)))['payload']
      return { epoch, offset }
    }
    const before = await position('k1')
    expect(await peer.request('sessions.delete', { key: 's' })).toMatchObject({ ok: true })
    const asked = await peer.request('chat.resume', { sessionKey: 's', ...before })
    expect(asked['payload']).toMatchObject({ recovered: false, reason: 'epoch_changed' })
    const after = await position('k2')
    expect(after.epoch).not.toBe(before.epoch)
    const events = peer.frames.filter(({ payload }) => payload?.epoch === after.epoch)
    expect(events.map(({ payload }) => payload.offset)).toEqual(events.map((_, index) => index + 1))
    const resumed = await peer.request('chat.resume', { sessionKey: 's', epoch: after.epoch, offset: 0 })
    expect(resumed['payload']).toMatchObject({ recovered: true, offset: after.offset })
  })

  it('loses nothing to others when a socket throws, which costs its own peer the connection', async () => {
    const store = openMemoryStore()
    const broken: string[] = []
    const replay = createReplay({ store, log: quiet, now: () => 1 })
    const hub = createHub({ replay, onSlow() {}, onBroken: ({ connId }) => void broken.push(connId) })
    const peers = [1, 2, 3].map(() => listening({ caps: new Set(['stream-offsets']) }))
    const [first, second, third] = peers as [(typeof peers)[0], (typeof peers)[0], (typeof peers)[0]]
    const working = second.wire.sendShared
    for (const peer of peers) hub.join(peer)
    const say = (text: string) => hub.publish('chat', () => JSON.stringify({ text }), { sessionKey: KEY })
    say('a')
    second.wire.sendShared = () => {
      throw new Error('a bug of the socket')
    }
    say('b')
    second.wire.sendShared = working
    say('c')
    for (const { heard } of [first, third]) {
      expect(heard.map(({ payload, seq }) => [payload.text, payload.offset, seq])).toEqual([
        ['a', 1, 1],
        ['b', 2, 2],
        ['c', 3, 3],
      ])
    }
    expect(second.heard).toHaveLength(1)
    expect(broken).toEqual([second.connId])
    await replay.flush()
  })

  it('tells once of a socket that throws at what was kept back for it', () => {
    const broken: string[] = []
    const replay = { next: () => ({ epoch: 'e', offset: 1 }), take() {} }
    const hub = createHub({ replay, onSlow() {}, onBroken: ({ connId }) => void broken.push(connId) })
    const peer = listening()
    hub.join(peer)
    hub.hold(peer.connId, KEY)
    for (const text of ['a', 'b']) hub.publish('chat', () => JSON.stringify({ text }), { sessionKey: KEY })
    peer.wire.sendShared = () => {
      throw new Error('a bug of the socket')
    }
    hub.release(peer.connId, KEY)
    expect(broken).toEqual([peer.connId])
  })
})

describe('messageCount', () => {
  it('is how many entries chat.history has, after commands, turns and what was put in', async () => {
    await using gateway = await startGateway(quick)
    const peer = await gateway.connect()
    const agree = async () => {
      const { messages } = (await peer.request('chat.history', MAIN))['payload']
      const record = await gateway.store.session(KEY)
      expect(record?.messageCount).toBe(messages.length)
      return messages.length
    }
    const steps: [string, number][] = [
      ['/status', 1],
      ['hello', 3],
      ['/think high', 4],
      ['/new again', 2],
      ['/help', 3],
      ['hello', 5],
    ]
    for (const [index, [message, count]] of steps.entries()) {
      await send(peer, `k${index}`, message)
      await peer.next(endOf(`k${index}`))
      expect([message, await agree()]).toEqual([message, count])
    }
    await peer.request('chat.inject', { ...MAIN, message: 'a note' })
    expect(await agree()).toBe(6)
  })
})

describe('a key that names its agent after a blank', () => {
  const config = { agents: { list: [{ id: 'main' }, { id: 'second' }] } }
  const key = ' Agent:second:Notes'

  it('is of that agent, whatever else the request names', async () => {
    await using gateway = await startGateway({ ...quick, config })
    const peer = await gateway.connect()
    await peer.request('chat.send', { sessionKey: key, agentId: 'main', message: 'hello', idempotencyKey: 'k' })
    await peer.next(endOf('k'))
    await peer.request('agent', { sessionKey: key, agentId: 'second', message: 'hello', idempotencyKey: 'a' })
    const { payload } = await peer.request('sessions.list')
    expect(payload.sessions.map((session: Frame) => session['key'])).toEqual(['agent:second:notes'])
  })

  it('does not go with another agent, where both must be the same', async () => {
    await using gateway = await startGateway({ ...quick, config })
    const peer = await gateway.connect()
    const params = { sessionKey: key, agentId: 'main', message: 'hello', idempotencyKey: 'a' }
    expect((await peer.request('agent', params))['error']).toMatchObject({
      message: 'invalid agent params: agent "main" does not match session key agent "second"',
    })
    const approval = { command: 'ls', sessionKey: key, agentId: 'main' }
    expect((await peer.request('exec.approval.request', approval))['error'].message).toContain('does not match')
  })
})

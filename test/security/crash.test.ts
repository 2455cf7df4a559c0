/** Whatever fails or throws outside the storage costs its own request at the most: the process stays, and nothing is left unhandled. */
import { setTimeout as pause } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { METHODS } from '../../src/contract/index.ts'
import { echo } from '../../src/runtimes/echo.ts'
import type { Runtime, Sink } from '../../src/runtimes/runtime.ts'
import { openMemoryStore } from '../../src/stores/memory.ts'
import { type Store, StoreError } from '../../src/stores/store.ts'
import { CONNECT, endOf, type Peer, startGateway, type TestGateway } from '../support/gateway.ts'

/** What nobody handled. */
let unhandled: unknown[]
const note = (error: unknown) => void unhandled.push(error)
beforeEach(() => {
  unhandled = []
  process.on('unhandledRejection', note)
  process.on('uncaughtException', note)
})
afterEach(() => {
  process.off('unhandledRejection', note)
  process.off('uncaughtException', note)
})

/** Ways to fail. `BROKEN` is not among them: on it the gateway ends, and is meant to. */
const FAILURES: [string, () => unknown][] = [
  ['rejects: the disk is full', () => Promise.reject(new StoreError('FULL', 'no space'))],
  ['rejects: it does not fit', () => Promise.reject(new StoreError('CONFLICT', 'no'))],
  ['rejects with an error of its own', () => Promise.reject(new TypeError('x is not a function'))],
  ['rejects with nothing', () => Promise.reject(undefined)],
  ['rejects with a text', () => Promise.reject('broken')],
  [
    'throws',
    () => {
      throw new RangeError('thrown, not rejected')
    },
  ],
  ['rejects late', () => pause(5).then(() => Promise.reject(new Error('late')))],
]
const HANGS = 'never settles before the store is mended'

/** A memory store one method of which can be made to fail. */
function fragile() {
  const store = openMemoryStore()
  let failing: { name: string; how(): unknown } | undefined
  const hanging: PromiseWithResolvers<unknown>[] = []
  const used = new Set<string>()
  const proxy = new Proxy(store, {
    get(target, name) {
      const member: unknown = Reflect.get(target, name, target)
      if (typeof member !== 'function') return member
      return (...args: unknown[]) => {
        if (failing?.name === name) {
          used.add(name)
          return failing.how()
        }
        return (member as (...list: unknown[]) => unknown).apply(target, args)
      }
    },
  })
  return {
    store: proxy as Store,
    used,
    fail(name: string, how: () => unknown) {
      failing = { name, how }
    },
    /** Fails in that it says nothing until it is mended, and then that it could not. */
    hang(name: string) {
      failing = {
        name,
        how() {
          const one = Promise.withResolvers<unknown>()
          hanging.push(one)
          return one.promise
        },
      }
    },
    mend() {
      failing = undefined
      for (const { reject } of hanging.splice(0)) reject(new StoreError('CONFLICT', 'given up'))
    },
  }
}

const STORE_METHODS = Object.entries(openMemoryStore())
  .filter(([name, member]) => typeof member === 'function' && name !== 'close')
  .map(([name]) => name)

/** Asked by the doctor alone, only of what a former process left, or only after a quarter of a second of text: elsewhere. */
const NOT_ASKED = ['progress', 'stream', 'beginEpoch', 'remove', 'verify']

/** One call of each method that does something, and the turns around them. Nobody waits longer than a moment for an answer. */
async function useEverything(peer: Peer, mark: string, { epoch, job }: Past): Promise<void> {
  const asked = (method: string, params: object) => peer.request(method, params).catch(() => undefined)
  const calls: [string, object][] = [
    ['chat.send', { sessionKey: 'main', message: 'hello', idempotencyKey: `a ${mark}` }],
    ['chat.send', { sessionKey: 'main', message: 'and again', idempotencyKey: `b ${mark}` }],
    ['chat.send', { sessionKey: 'other', message: '/status', idempotencyKey: `c ${mark}` }],
    ['chat.send', { sessionKey: 'other', message: '/new', idempotencyKey: `d ${mark}` }],
    ['agent', { message: 'x', idempotencyKey: `e ${mark}`, sessionKey: 'agent:main:third' }],
    ['agent', { message: 'x', idempotencyKey: `s ${mark}`, sessionId: 'none' }],
    ['agent.wait', { runId: `a ${mark}`, timeoutMs: 20 }],
    ['chat.history', { sessionKey: 'main' }],
    ['chat.resume', { sessionKey: 'main' }],
    ['chat.resume', { sessionKey: 'main', epoch: 'none', offset: 0 }],
    ['chat.resume', { sessionKey: 'past', epoch, offset: 0 }],
    ['chat.send', { sessionKey: 'past', message: 'what was that?', idempotencyKey: `p ${mark}` }],
    ['chat.send', { sessionKey: 'long', message: 'word '.repeat(60), idempotencyKey: `l ${mark}` }],
    ['chat.inject', { sessionKey: 'main', message: 'x' }],
    ['chat.abort', { sessionKey: 'main' }],
    ['sessions.list', { includeDerivedTitles: true, includeLastMessage: true }],
    ['sessions.preview', { keys: ['main', 'other'] }],
    ['sessions.resolve', { key: 'main' }],
    ['sessions.patch', { key: 'main', label: mark }],
    ['sessions.reset', { key: 'other' }],
    ['sessions.compact', { key: 'past', maxLines: 1 }],
    ['sessions.delete', { key: 'other' }],
    ['exec.approval.request', { command: 'ls', timeoutMs: 10 }],
    ['exec.approvals.get', {}],
    ['exec.approvals.set', { file: { version: 1 } }],
    ['device.pair.list', {}],
    ['device.pair.approve', { requestId: 'none' }],
    ['device.token.rotate', { deviceId: 'none', role: 'operator' }],
    ['tokens.create', { name: mark, scopes: ['operator.read'] }],
    ['tokens.list', {}],
    ['tokens.revoke', { id: 'none' }],
    ['health', { probe: true }],
    ['status', {}],
    ['logs.tail', {}],
    ['models.list', {}],
    ['agents.list', {}],
    ['config.get', {}],
    ['audit.entries', {}],
    ['chains.get', { runId: `a ${mark}` }],
    ['chains.list', {}],
    ['messages.list', {}],
    ['usage.cost', { days: 7 }],
    ['agent.result', { runId: `a ${mark}` }],
    ['sessions.digest', {}],
    ['node.list', {}],
    ['wake', { mode: 'next-heartbeat', text: 'look up' }],
    ['wake', { mode: 'now', text: 'look up' }],
    ['cron.add', { ...JOB, name: mark }],
    ['cron.add', { ...JOB, schedule: { kind: 'every', everyMs: 1 }, name: `at once ${mark}` }],
    ['cron.update', { id: job, patch: { description: mark } }],
    ['cron.run', { id: job }],
    ['cron.runs', { id: job }],
    ['cron.remove', { id: job }],
    ['set-heartbeats', { enabled: true }],
  ]
  const answers = Promise.all(calls.map(([method, params]) => asked(method, params)))
  await Promise.race([answers, pause(30)])
}

/** What there is before anything fails. */
interface Past {
  /** Of a session with a picture, an answer, events. */
  epoch: string
  /** The id of a job. */
  job: string
}

/** A turn in a session of its own, not of itself before the test is over. */
const JOB = {
  schedule: { kind: 'every', everyMs: 3_600_000 },
  sessionTarget: 'isolated',
  wakeMode: 'now',
  payload: { kind: 'agentTurn', message: 'what is new?' },
}

async function prepare(peer: Peer): Promise<Past> {
  const attachments = [{ type: 'image', mimeType: 'image/png', fileName: 'p.png', content: PICTURE }]
  await peer.request('chat.send', { sessionKey: 'past', message: 'look', idempotencyKey: 'past', attachments })
  const { payload } = await peer.next(endOf('past'))
  const { payload: job } = await peer.request('cron.add', { ...JOB, name: 'a job' })
  return { epoch: payload.epoch, job: job.id }
}

/** One pixel. */
const PICTURE = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='

/** Whether it still lets somebody in and answers. */
async function lives(gateway: TestGateway): Promise<void> {
  expect((await fetch(`http://127.0.0.1:${gateway.port}/health`)).status).toBe(200)
  const peer = await gateway.connect()
  expect((await peer.request('health'))['ok']).toBe(true)
  peer.socket.terminate()
}

const unlimited = { config: { gateway: { limits: { requestsPerSecond: 0, deniedPerMinute: 0, preauthPerIp: 0 } } } }

describe('a store', () => {
  const used = new Set<string>()

  const ways: [string, (() => unknown) | undefined][] = [...FAILURES, [HANGS, undefined]]

  it.each(ways)(
    'of which one method after the other %s: the gateway stays, and works again when the store does',
    async (_, how) => {
      for (const name of STORE_METHODS) {
        const ground = fragile()
        const runtimes = new Map([['echo', echo({ wordMs: 0 })]])
        const gateway = await startGateway({ ...unlimited, runtimes, store: ground.store, drainMs: 20, sweepMs: 15 })
        const [peer, wrong] = [await gateway.connect({ caps: ['stream-offsets'] }), await gateway.open()]
        const past = await prepare(peer)
        if (how) ground.fail(name, how)
        else ground.hang(name)
        const guess = wrong.request('connect', { ...CONNECT, auth: { token: 'wrong' } }).catch(() => undefined)
        await useEverything(peer, name, past)
        await Promise.race([guess, pause(5)])
        ground.mend()
        for (const one of ground.used) used.add(one)
        expect([name, unhandled]).toEqual([name, []])
        await lives(gateway)
        expect([name, unhandled]).toEqual([name, []])
        await gateway.stop()
        expect([name, unhandled]).toEqual([name, []])
      }
    },
    30_000,
  )

  it.each(FAILURES)('that %s before there is a gateway: it does not start, or starts all the same', async (_, how) => {
    for (const name of STORE_METHODS) {
      const ground = fragile()
      ground.fail(name, how)
      const gateway = await startGateway({ ...unlimited, store: ground.store, drainMs: 20 }).catch(() => undefined)
      for (const one of ground.used) used.add(one)
      ground.mend()
      if (gateway) {
        await lives(gateway)
        await gateway.stop()
      }
      expect([name, unhandled]).toEqual([name, []])
    }
  })

  it('was asked in every way that these turns ask it', () => {
    expect(STORE_METHODS.length).toBeGreaterThan(20)
    expect(STORE_METHODS.filter((name) => !used.has(name) && !NOT_ASKED.includes(name))).toEqual([])
  })
})

describe('a runtime', () => {
  const usage = { input: 0, output: 0, cacheRead: 0, cacheWrite: 0, totalTokens: 0 }
  type Answer = Runtime['answer']
  /** Until then something may still go wrong. */
  let late: Promise<void> = Promise.resolve()
  const ways: [string, Answer, string[]][] = [
    [
      'that throws',
      () => {
        throw new Error('thrown, not rejected')
      },
      ['error'],
    ],
    ['that rejects', async () => Promise.reject(new Error('no')), ['error']],
    ['that rejects with nothing', async () => Promise.reject(undefined), ['error']],
    ['that rejects with a text', async () => Promise.reject('no'), ['error']],
    ['that rejects with a hostile object', async () => Promise.reject(hostileError()), ['error']],
    ['that answers nothing', (async () => undefined) as unknown as Answer, ['error']],
    ['that is no promise', (() => 42) as unknown as Answer, ['error']],
    [
      'that speaks after its end',
      async (model, _, sink) => {
        setTimeout(() => {
          sink.delta('late')
          sink.reasoning('late')
        }, 5)
        sink.delta('in time')
        return { stopReason: 'stop', usage, model }
      },
      ['final'],
    ],
    [
      'that speaks after it failed',
      async (_, __, sink) => {
        setTimeout(() => sink.delta('late'), 5)
        throw new Error('no')
      },
      ['error'],
    ],
    [
      'that fails between two pieces',
      async (_, __, sink) => {
        sink.delta('one')
        await pause(2)
        sink.delta('two')
        throw new Error('no')
      },
      ['error'],
    ],
    [
      'that says what is no text',
      async (model, _, sink) => {
        for (const piece of [undefined, null, 7, {}, Symbol('x'), '\ud800', ''])
          try {
            ;(sink.delta as (piece: unknown) => void)(piece)
          } catch {
            // It is its own fault.
          }
        return { stopReason: 'stop', usage, model }
      },
      ['error', 'final'],
    ],
    [
      'that counts what is no number',
      async (model) => ({
        stopReason: 'stop',
        usage: { ...usage, input: Number.NaN, output: -1, totalTokens: Infinity },
        model,
      }),
      ['error', 'final'],
    ],
    ['that never answers', () => new Promise(() => {}), ['aborted', 'error']],
    [
      'that does not hear the signal, and fails when nobody waits any more',
      () => {
        late = pause(120)
        return late.then(() => Promise.reject(new Error('much too late')))
      },
      ['aborted', 'error'],
    ],
  ]

  it.each(ways)('%s costs its own turn: it ends, and the next one is answered', async (_, answer, ends) => {
    let isBad = true
    const sound: Answer = async (model, __, sink: Sink) => {
      sink.delta('well')
      return { stopReason: 'stop', usage, model }
    }
    const runtime: Runtime = {
      api: 'echo',
      answer: (...args) => (isBad ? answer(...args) : sound(...args)),
    }
    const gateway = await startGateway({ ...unlimited, runtimes: new Map([['echo', runtime]]), drainMs: 50 })
    const peer = await gateway.connect()
    await peer.request('chat.send', { sessionKey: 'main', message: 'x', idempotencyKey: 'bad', timeoutMs: 60 })
    const end = await peer.next(endOf('bad'))
    expect(ends).toContain(end['payload'].state)
    isBad = false
    await peer.request('chat.send', { sessionKey: 'main', message: 'x', idempotencyKey: 'good' })
    expect((await peer.next(endOf('good')))['payload']).toMatchObject({ state: 'final' })
    await pause(10)
    expect(peer.frames.filter(endOf('bad'))).toHaveLength(1)
    await lives(gateway)
    await gateway.stop()
    await late
    expect(unhandled).toEqual([])
  })
})

/** Throws at whoever looks at it. */
function hostileError(): unknown {
  return new Proxy(new Error('x'), {
    get(target, name) {
      if (name === 'message' || name === 'stack') throw new Error(`do not look at my ${String(name)}`)
      return Reflect.get(target, name)
    },
  })
}

describe('a socket', () => {
  const slow: Runtime = {
    api: 'echo',
    async answer(model, _, sink, signal) {
      for (let n = 0; n < 40 && !signal.aborted; n++) {
        sink.delta(`piece ${n} `)
        await pause(1)
      }
      return { stopReason: 'stop', usage: { input: 0, output: 0, cacheRead: 0, cacheWrite: 0, totalTokens: 0 }, model }
    },
  }

  it('that is reset at any moment, in the middle of whatever it asked, costs nobody anything', async () => {
    const gateway = await startGateway({ ...unlimited, runtimes: new Map([['echo', slow]]) })
    const witness = await gateway.connect()
    for (let n = 0; n < 60; n++) {
      const peer = await gateway.open()
      const raw = (peer.socket as unknown as { _socket: { resetAndDestroy(): void } })._socket
      const cut = new Promise<void>((resolve) => setTimeout(() => (raw.resetAndDestroy(), resolve()), n % 12))
      await peer.next().catch(() => {})
      const connected = peer.request('connect', CONNECT).catch(() => undefined)
      for (const method of Object.keys(METHODS))
        if (peer.socket.readyState === peer.socket.OPEN)
          void peer.request(method, { sessionKey: 'main' }).catch(() => {})
      const turn = { sessionKey: 'main', message: 'x', idempotencyKey: `cut ${n}` }
      if (peer.socket.readyState === peer.socket.OPEN) void peer.request('chat.send', turn).catch(() => {})
      await Promise.all([cut, connected])
    }
    await witness.request('chat.send', { sessionKey: 'witness', message: 'x', idempotencyKey: 'w' })
    expect((await witness.next(endOf('w')))['payload'].state).toBe('final')
    await lives(gateway)
    await gateway.stop()
    expect(unhandled).toEqual([])
  })
})

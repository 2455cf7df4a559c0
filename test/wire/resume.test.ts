import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, it } from 'vitest'
import { echo } from '../../src/runtimes/echo.ts'
import { openStore } from '../../src/stores/index.ts'
import { openMemoryStore } from '../../src/stores/memory.ts'
import { endOf, type Frame, type Peer, startGateway, type TestGateway } from '../support/gateway.ts'
import { storeWith } from '../support/rooms.ts'

const folders: string[] = []
afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true })
})

const CAPABLE = { minProtocol: 3, maxProtocol: 4, caps: ['stream-offsets', 'delta-only'] }
const KEY = 'agent:main:main'
const words = (count: number) => Array.from({ length: count }, (_, index) => `w${index}`).join(' ')
const quick = { runtimes: new Map([['echo', echo({ wordMs: 1 })]]) }

/** The events of the session in the order they came: those with an offset. */
const placed = (frames: Frame[]) =>
  frames.filter(({ type, payload }) => type === 'event' && payload?.offset !== undefined)
const offsets = (frames: Frame[]): number[] => frames.map(({ payload }) => payload.offset)
const textOf = (frames: Frame[], runId: string): string =>
  frames
    .filter(({ event, payload }) => event === 'agent' && payload.runId === runId && payload.stream === 'assistant')
    .map(({ payload }) => payload.data.delta)
    .join('')

const send = (peer: Peer, key: string, message: string) =>
  peer.request('chat.send', { sessionKey: 'main', message, idempotencyKey: key })

/** A client that comes back: it remembers its position, and asks for what it missed. */
function follower(gateway: TestGateway) {
  const seen: Frame[] = []
  return {
    seen,
    async come(): Promise<Peer> {
      const peer = await gateway.connect(CAPABLE)
      const last = seen.at(-1)?.['payload']
      if (last) {
        const { payload } = await peer.request('chat.resume', {
          sessionKey: 'main',
          epoch: last.epoch,
          offset: last.offset,
        })
        expect(payload.recovered).toBe(true)
        seen.push(...payload.events)
      }
      // What was said between the handshake and the answer came live, and stands in the answer, too.
      const known = seen.at(-1)?.['payload'].offset ?? 0
      seen.push(...placed(peer.frames).filter(({ payload }) => payload.offset > known))
      peer.socket.on('message', (data) => {
        const frame = JSON.parse(data.toString()) as Frame
        if (placed([frame]).length > 0) seen.push(frame)
      })
      return peer
    },
  }
}

describe('offsets', () => {
  it('count every event of a session from 1 without a hole, over runs and what is put in', async () => {
    await using gateway = await startGateway(quick)
    const peer = await gateway.connect(CAPABLE)
    await send(peer, 'k1', words(20))
    await peer.next(endOf('k1'))
    await peer.request('chat.inject', { sessionKey: 'main', message: 'a note' })
    await send(peer, 'k2', '/status')
    await peer.next(endOf('k2'))
    const events = placed(peer.frames)
    expect(offsets(events)).toEqual(events.map((_, index) => index + 1))
    expect(new Set(events.map(({ payload }) => payload.epoch)).size).toBe(1)
  })

  it('are told to those only who ask for them', async () => {
    await using gateway = await startGateway(quick)
    const peer = await gateway.connect({ minProtocol: 4, maxProtocol: 4 })
    await send(peer, 'k1', words(5))
    await peer.next(endOf('k1'))
    for (const { payload } of peer.frames) {
      expect(payload).not.toHaveProperty('offset')
      expect(payload).not.toHaveProperty('epoch')
    }
  })
})

describe('a client that was cut off', () => {
  it('hears everything once, in order, to the letter, wherever it was cut', async () => {
    await using gateway = await startGateway(quick)
    const watcher = await gateway.connect(CAPABLE)
    const client = follower(gateway)
    let peer = await client.come()
    let seed = 7
    const random = (below: number) => {
      seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648
      return seed % below
    }
    for (let run = 0; run < 6; run++) {
      await send(watcher, `k${run}`, words(60))
      for (let cut = 0; cut < 6; cut++) {
        await new Promise((resolve) => setTimeout(resolve, random(15)))
        peer.socket.terminate()
        await peer.closed
        if (random(3) === 0) await new Promise((resolve) => setTimeout(resolve, random(20)))
        peer = await client.come()
      }
      await watcher.next(endOf(`k${run}`))
    }
    peer.socket.terminate()
    await peer.closed
    await client.come()
    const oracle = placed(watcher.frames)
    const seen = client.seen.slice(0, oracle.length)
    expect(offsets(seen)).toEqual(oracle.map((_, index) => index + 1))
    for (let run = 0; run < 6; run++) expect(textOf(seen, `k${run}`)).toBe(textOf(oracle, `k${run}`))
    expect(client.seen.length).toBe(oracle.length)
  })

  it('hears nothing live between its question and the answer, which has all of it, however long the disk takes', async () => {
    const kept = openMemoryStore()
    let ask = Promise.resolve()
    const store = storeWith(kept, { events: (...of) => ask.then(() => kept.events(...of)) })
    await using gateway = await startGateway({ store, ...quick })
    const watcher = await gateway.connect(CAPABLE)
    await send(watcher, 'k1', words(200))
    await watcher.next(({ payload }) => payload?.offset === 5)
    const slow = Promise.withResolvers<void>()
    ask = slow.promise
    const peer = await gateway.connect(CAPABLE)
    const { epoch } = placed(watcher.frames)[0]!['payload']
    const answer = peer.request('chat.resume', { sessionKey: 'main', epoch, offset: 2 })
    const asked = watcher.frames.length
    await watcher.next((frame) => watcher.frames.indexOf(frame) > asked + 20)
    // What was said before the question was received came live.
    const early = placed(peer.frames).length
    slow.resolve()
    const { payload } = await answer
    const answered = peer.frames.findIndex((frame) => frame['payload']?.recovered !== undefined)
    expect(placed(peer.frames.slice(0, answered)).length).toBe(early)
    await peer.next(endOf('k1'))
    const last = payload.events.at(-1).payload.offset
    const all = [...payload.events, ...placed(peer.frames).filter((frame) => frame['payload'].offset > last)]
    expect(offsets(all)).toEqual(
      placed(watcher.frames)
        .map((_, index) => index + 1)
        .slice(2),
    )
    expect(new Set(offsets(placed(peer.frames))).size).toBe(placed(peer.frames).length)
  })

  it('is given a snapshot that goes on into what is said live, when it has no position', async () => {
    await using gateway = await startGateway(quick)
    const watcher = await gateway.connect(CAPABLE)
    await send(watcher, 'k0', words(3))
    await watcher.next(endOf('k0'))
    await send(watcher, 'k1', words(80))
    await watcher.next(({ event, payload }) => event === 'agent' && payload.stream === 'assistant' && payload.seq > 20)
    const late = await gateway.connect(CAPABLE)
    const { payload } = await late.request('chat.resume', { sessionKey: 'main', runIds: ['k0', 'unknown'] })
    expect(payload).toMatchObject({ recovered: false, reason: 'no_position' })
    const { messages, runs } = payload.snapshot
    expect(messages.map(({ role }: Frame) => role)).toEqual(['user', 'assistant', 'user'])
    expect(runs.map(({ runId, state }: Frame) => [runId, state])).toEqual([
      ['k1', 'started'],
      ['k0', 'completed'],
    ])
    expect(runs[1].text).toBe(messages[1].content[0].text)
    const end = await late.next(endOf('k1'))
    const live = placed(late.frames).filter(({ payload: it }) => it.offset > payload.offset)
    expect(offsets(live)).toEqual(live.map((_, index) => payload.offset + 1 + index))
    expect(runs[0].text + textOf(live, 'k1')).toBe(end['payload'].message.content[0].text)
  })

  it('is told why, and given a snapshot, when what it missed is not kept any more', async () => {
    const store = openMemoryStore()
    await using gateway = await startGateway({ ...quick, store })
    const peer = await gateway.connect(CAPABLE)
    await send(peer, 'k1', words(5))
    const { payload: end } = await peer.next(endOf('k1'))
    await peer.request('chat.resume', { sessionKey: 'main', epoch: end.epoch, offset: 1 })
    await store.age(0, { keepMs: 0, eventsPerSession: 0 })
    const { payload } = await peer.request('chat.resume', { sessionKey: 'main', epoch: end.epoch, offset: 1 })
    expect(payload).toMatchObject({ recovered: false, reason: 'too_old', offset: end.offset })
    expect(payload.snapshot.messages.length).toBe(2)
  })

  it.each([
    ['another epoch', (end: Frame) => ({ epoch: 'another', offset: end['offset'] })],
    ['an offset that never was', (end: Frame) => ({ epoch: end['epoch'], offset: end['offset'] + 1 })],
  ])('is told epoch_changed for %s', async (_, position) => {
    await using gateway = await startGateway(quick)
    const peer = await gateway.connect(CAPABLE)
    await send(peer, 'k1', 'hello')
    const { payload: end } = await peer.next(endOf('k1'))
    const { payload } = await peer.request('chat.resume', { sessionKey: 'main', ...position(end) })
    expect(payload).toMatchObject({ recovered: false, reason: 'epoch_changed' })
  })

  it('needs the scope that hearing needs', async () => {
    await using gateway = await startGateway(quick)
    const peer = await gateway.connect({ ...CAPABLE, scopes: ['operator.approvals'] })
    const { error } = await peer.request('chat.resume', { sessionKey: 'main' })
    expect(error.message).toBe('missing scope: operator.read')
  })
})

describe('a restart', () => {
  const open = async () => {
    const folder = mkdtempSync(join(tmpdir(), 'kurultai-resume-'))
    folders.push(folder)
    return () => openStore('sqlite', { path: join(folder, 'kurultai.sqlite') })
  }

  it('loses nothing of what was said before a stop in order', async () => {
    const store = await open()
    const first = await startGateway({ ...quick, store: await store() })
    const peer = await first.connect(CAPABLE)
    await send(peer, 'k1', words(30))
    const { payload: end } = await peer.next(endOf('k1'))
    const before = placed(peer.frames)
    await first.stop()
    await using second = await startGateway({ ...quick, store: await store() })
    const again = await second.connect(CAPABLE)
    const { payload } = await again.request('chat.resume', { sessionKey: 'main', epoch: end.epoch, offset: 3 })
    expect(payload).toMatchObject({ recovered: true, epoch: end.epoch, offset: end.offset })
    expect(offsets(payload.events)).toEqual(before.slice(3).map(({ payload: it }) => it.offset))
    expect(textOf(payload.events, 'k1')).toBe(textOf(before.slice(3), 'k1'))
    expect(payload.events.at(-1).payload).toEqual(end)
    // And the stream goes on where it was.
    await send(again, 'k2', 'more')
    expect(placed([await again.next(({ event }) => event === 'agent')])[0]?.['payload']).toMatchObject({
      epoch: end.epoch,
      offset: end.offset + 1,
    })
  })

  it('in the middle of an answer begins a new epoch, and the snapshot tells how the run ended', async () => {
    const store = await open()
    const first = await startGateway({ ...quick, store: await store(), drainMs: 1 })
    const peer = await first.connect(CAPABLE)
    await send(peer, 'k1', words(2000))
    const { payload: some } = await peer.next(({ payload }) => payload?.stream === 'assistant' && payload.seq > 5)
    await first.stop()
    await using second = await startGateway({ ...quick, store: await store() })
    const again = await second.connect(CAPABLE)
    const { payload } = await again.request('chat.resume', {
      sessionKey: 'main',
      epoch: some.epoch,
      offset: some.offset,
      runIds: ['k1'],
    })
    expect(payload).toMatchObject({ recovered: false, reason: 'epoch_changed' })
    expect(payload.epoch).not.toBe(some.epoch)
    expect(payload.snapshot.runs).toMatchObject([{ runId: 'k1', state: 'interrupted' }])
    expect(payload.snapshot.runs[0].error).toContain('the gateway stopped')
  })
})

it('a session is what its key says, however it is spelled', async () => {
  await using gateway = await startGateway(quick)
  const peer = await gateway.connect(CAPABLE)
  await send(peer, 'k1', 'hello')
  const { payload: end } = await peer.next(endOf('k1'))
  expect(end.sessionKey).toBe(KEY)
  const { payload } = await peer.request('chat.resume', { sessionKey: KEY, epoch: end.epoch, offset: 0 })
  expect(payload.events.length).toBe(end.offset)
})

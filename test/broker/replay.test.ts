import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { createReplay } from '../../src/broker/replay.ts'
import { openMemoryStore } from '../../src/stores/memory.ts'
import { type NewEvents, type Store, StoreError } from '../../src/stores/store.ts'
import { quiet, SESSION, settled, storeWith } from '../support/rooms.ts'
import { turn } from '../support/turn.ts'

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
})
afterEach(() => {
  vi.useRealTimers()
})

/** A replay over memory, for one session that is there. What is asked of `appendEvents` is noted. */
async function open(append?: (chunk: NewEvents, keep: Store['appendEvents']) => Promise<void>) {
  const kept = openMemoryStore()
  await kept.accept(turn('1'))
  const chunks: [number, number][] = []
  const store = storeWith(kept, {
    appendEvents(chunk) {
      chunks.push([chunk.from, chunk.to])
      return append ? append(chunk, kept.appendEvents) : kept.appendEvents(chunk)
    },
  })
  let epochs = 0
  const newEpoch = vi.fn(() => `e${++epochs}`)
  const replay = createReplay({ store, log: quiet, now: () => 1, newEpoch })
  const say = (text: string, endOf?: string) => {
    const position = replay.next(SESSION)
    replay.take(SESSION, JSON.stringify({ event: 'chat', payload: { text, ...position } }), endOf)
    return position
  }
  return { kept, store, replay, newEpoch, chunks, say }
}

const texts = (recovery: object) =>
  (recovery as { events: { payload: { text: string } }[] }).events.map(({ payload }) => payload.text)

describe('a stream', () => {
  it('gives back what was said after a position, also what was not on disk yet', async () => {
    const { replay, say } = await open()
    const first = say('a')
    say('b')
    say('c')
    const recovery = await replay.since(SESSION, first)
    expect(recovery).toMatchObject({ recovered: true, position: { epoch: 'e1', offset: 3 } })
    expect(texts(recovery)).toEqual(['b', 'c'])
  })

  it('keeps what was said while the disk is full, and writes it in order once there is room', async () => {
    let full = true
    const { replay, say, chunks } = await open(async (chunk, keep) => {
      if (full) throw new StoreError('FULL', 'no space')
      return keep(chunk)
    })
    const first = say('a')
    say('b', 'run-1')
    await settled()
    say('c', 'run-2')
    await settled()
    expect(await replay.since(SESSION, first)).toMatchObject({ recovered: false })
    full = false
    await vi.advanceTimersByTimeAsync(1_000)
    expect(chunks.at(-1)).toEqual([1, 3])
    expect(texts(await replay.since(SESSION, first))).toEqual(['b', 'c'])
    expect(say('d')).toEqual({ epoch: 'e1', offset: 4 })
  })

  it('begins a new epoch when the disk refuses for another reason', async () => {
    let broken = true
    const { replay, say } = await open(async (chunk, keep) => {
      if (broken) throw new StoreError('CONFLICT', 'not the next')
      return keep(chunk)
    })
    const first = say('a', 'run-1')
    await settled()
    broken = false
    expect(say('b')).toEqual({ epoch: 'e2', offset: 1 })
    expect(await replay.since(SESSION, first)).toMatchObject({ recovered: false, reason: 'epoch_changed' })
    expect(texts(await replay.since(SESSION, { epoch: 'e2', offset: 0 }))).toEqual(['b'])
  })

  it('says that there is too much to give it at once', async () => {
    const { replay, say } = await open()
    const first = say('a')
    for (let n = 0; n < 5; n++) {
      say('x'.repeat(1024 * 1024))
      await settled(2)
    }
    expect(await replay.since(SESSION, first)).toMatchObject({ recovered: false, reason: 'too_large' })
    expect(await replay.since(SESSION, { ...first, offset: 5 })).toMatchObject({ recovered: true })
  })

  it('begins a new epoch after its session is gone', async () => {
    const { kept, replay, say } = await open()
    const old = say('a')
    say('b', 'run-1')
    await settled()
    await kept.deleteSession(SESSION)
    replay.forget(SESSION)
    await kept.accept(turn('2'))
    expect(say('c', 'run-2')).toEqual({ epoch: 'e2', offset: 1 })
    await settled()
    expect(await kept.stream(SESSION)).toEqual({ epoch: 'e2', offset: 1 })
    expect(await replay.since(SESSION, old)).toMatchObject({ recovered: false, reason: 'epoch_changed' })
  })

  it('is not made by those who ask for it', async () => {
    const { replay, newEpoch } = await open()
    for (let n = 0; n < 1_000; n++) {
      expect(replay.position(`agent:main:${n}`)).toEqual({ epoch: 'none', offset: 0 })
      const recovery = await replay.since(`agent:main:${n}`, { epoch: 'none', offset: 0 })
      expect(recovery).toMatchObject({ recovered: false, reason: 'epoch_changed' })
    }
    expect(newEpoch).not.toHaveBeenCalled()
  })

  it('writes an ending that comes just when a writing ends', async () => {
    for (let ticks = 0; ticks < 8; ticks++) {
      const asked: (() => void)[] = []
      const { kept, say } = await open(async (chunk, keep) => {
        await new Promise<void>((resolve) => asked.push(resolve))
        return keep(chunk)
      })
      say('a', 'run-1')
      asked.shift()!()
      for (let tick = 0; tick < ticks; tick++) await Promise.resolve()
      say('b', 'run-2')
      for (let turns = 0; turns < 3; turns++) {
        await settled(2)
        asked.shift()?.()
      }
      await settled(2)
      expect([ticks, await kept.stream(SESSION)]).toEqual([ticks, { epoch: 'e1', offset: 2 }])
    }
  })
})

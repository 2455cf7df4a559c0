import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { openMemoryStore } from '../../src/stores/memory.ts'
import { type RunRecord, StoreError } from '../../src/stores/store.ts'
import { openRooms, request, SESSION, settled, storeWith } from '../support/rooms.ts'

const rejections: unknown[] = []
const note = (reason: unknown) => void rejections.push(reason)
beforeEach(() => {
  rejections.length = 0
  process.on('unhandledRejection', note)
})
afterEach(() => {
  process.off('unhandledRejection', note)
  expect(rejections).toEqual([])
})

const record = (changes: Partial<RunRecord> = {}): RunRecord => ({
  runId: 'k1',
  principal: 'token:shared',
  method: 'chat.send',
  sessionKey: SESSION,
  agentId: 'main',
  sessionId: 's1',
  key: 'k1',
  fingerprint: 'f',
  message: 'hello',
  attachments: [],
  meta: {},
  state: 'admitted',
  acceptedAt: 1,
  text: '',
  ...changes,
})

describe('a run', () => {
  it('asks the model only after its start is on disk, and announces its end only after that is', async () => {
    const kept = openMemoryStore()
    const steps: string[] = []
    const rooms = openRooms({
      store: storeWith(kept, {
        async start(...args) {
          await settled()
          await kept.start(...args)
          steps.push('start is on disk')
        },
        async settle(...args) {
          await settled()
          const result = await kept.settle(...args)
          steps.push('end is on disk')
          return result
        },
      }),
      onPublish: ({ state, stream }) => void steps.push(state ?? stream),
    })
    await rooms.send('k1')
    const { sink, finish } = await rooms.asked('k1')
    steps.push('asked')
    sink.delta('text')
    finish()
    await rooms.runs.idle()
    expect(steps).toEqual([
      'start is on disk',
      'lifecycle',
      'asked',
      'assistant',
      'delta',
      'end is on disk',
      'lifecycle',
      'final',
    ])
  })

  it('is not announced as ended while the disk refuses, and ends once when it takes it again', async () => {
    const kept = openMemoryStore()
    let refusals = 3
    const settle = vi.fn(async (...args: Parameters<typeof kept.settle>) => {
      if (refusals-- > 0) throw new StoreError('FULL', 'no space')
      return kept.settle(...args)
    })
    const rooms = openRooms({ store: storeWith(kept, { settle }) })
    await rooms.send('k1')
    const waited = rooms.runs.wait('k1', 60_000, 'p')
    const { sink, finish } = await rooms.asked('k1')
    sink.delta('text')
    finish()
    await vi.waitFor(() => expect(settle).toHaveBeenCalledTimes(2), { interval: 1 })
    expect(rooms.ends('k1')).toEqual([])
    expect(await waited).toMatchObject({ outcome: { state: 'completed' } })
    expect(settle).toHaveBeenCalledTimes(4)
    expect(rooms.ends('k1')).toHaveLength(1)
    expect(rooms.runs.size).toBe(0)
  })

  it('keeps its ending when it is stopped while the disk refuses', async () => {
    const kept = openMemoryStore()
    let refuse = true
    const rooms = openRooms({
      store: storeWith(kept, {
        settle: async (...args) => {
          if (refuse) throw new StoreError('FULL', 'no space')
          return kept.settle(...args)
        },
      }),
    })
    await rooms.send('k1')
    const { finish } = await rooms.asked('k1')
    finish()
    await settled()
    const stopped = rooms.sessions.abort(SESSION, null, 'rpc')
    await settled()
    refuse = false
    expect(await stopped).toEqual([])
    expect(rooms.ends('k1')).toMatchObject([{ payload: { state: 'final' } }])
  })

  it('fails, and says why, when its start cannot be written', async () => {
    const kept = openMemoryStore()
    const rooms = openRooms({
      store: storeWith(kept, { start: () => Promise.reject(new StoreError('FULL', 'no space')) }),
    })
    await rooms.send('k1')
    await rooms.runs.idle()
    expect(rooms.order).toEqual([])
    expect(rooms.ends('k1')).toMatchObject([{ payload: { state: 'error', errorMessage: 'no space' } }])
  })

  it('says nothing of what the model sends after it was stopped', async () => {
    const rooms = openRooms()
    await rooms.send('k1')
    const { sink, signal, finish } = await rooms.asked('k1')
    sink.delta('before ')
    const stopped = rooms.sessions.abort(SESSION, 'k1', 'rpc')
    await settled(1)
    const heard = rooms.ear.heard.length
    expect(signal.aborted).toBe(true)
    sink.delta('after')
    sink.reasoning('after')
    finish()
    await stopped
    await settled()
    const later = rooms.ear.heard.slice(heard)
    expect(later.filter(({ payload }) => payload.stream === 'assistant' || payload.stream === 'reasoning')).toEqual([])
    expect(rooms.ear.heard.at(-1)).toMatchObject({ event: 'chat', payload: { state: 'aborted' } })
    const { messages } = await rooms.store.history(SESSION, { limit: 9, maxBytes: 9999 })
    expect(messages.at(-1)).toMatchObject({ content: [{ text: 'before ' }], stopReason: 'rpc' })
  })

  it('ends at its deadline with the text so far', async () => {
    const rooms = openRooms()
    await rooms.send('k1', { meta: { timeoutMs: 5 } })
    const { sink } = await rooms.asked('k1')
    sink.delta('so far')
    await rooms.runs.idle()
    expect(rooms.ends('k1')).toMatchObject([{ payload: { state: 'aborted', stopReason: 'timeout' } }])
    expect(await rooms.store.run('k1')).toMatchObject({ state: 'timedOut' })
  })

  it('has no deadline that is too long for a timer', async () => {
    const rooms = openRooms()
    await rooms.send('k1', { meta: { timeoutMs: Number.MAX_SAFE_INTEGER } })
    const { finish } = await rooms.asked('k1')
    await settled()
    finish()
    await rooms.runs.idle()
    expect(rooms.ends('k1')).toMatchObject([{ payload: { state: 'final' } }])
  })

  it('that a former process had started ends as interrupted, with its partial text', async () => {
    const rooms = openRooms()
    await rooms.store.accept({ ...record(), spareRunId: 'x', attachments: [] })
    await rooms.store.start('k1', 2)
    await rooms.store.progress('k1', 'partial')
    expect(await rooms.turns.recover()).toEqual({ started: 0, interrupted: 1, resumed: 0, dropped: 0 })
    await rooms.runs.idle()
    expect(rooms.order).toEqual([])
    expect(rooms.ends('k1')).toMatchObject([
      { payload: { state: 'error', errorMessage: expect.stringContaining('stopped') } },
    ])
    const { messages } = await rooms.store.history(SESSION, { limit: 9, maxBytes: 9999 })
    expect(messages).toMatchObject([{ role: 'user' }, { role: 'assistant', content: [{ text: 'partial' }] }])
  })

  it('that a former process had only admitted begins, once', async () => {
    const rooms = openRooms()
    await rooms.store.accept({ ...record(), spareRunId: 'x', attachments: [] })
    expect(await rooms.turns.recover()).toEqual({ started: 1, interrupted: 0, resumed: 0, dropped: 0 })
    const { finish } = await rooms.asked('k1')
    finish()
    await rooms.runs.idle()
    expect(rooms.order).toEqual(['k1'])
  })

  it('asks no model for a command that a former process did not finish', async () => {
    const rooms = openRooms()
    await rooms.store.accept({ ...record({ message: '' }), spareRunId: 'x', attachments: [] })
    await rooms.turns.recover()
    await rooms.runs.idle()
    expect(rooms.order).toEqual([])
    expect(await rooms.store.run('k1')).toMatchObject({ state: 'interrupted' })
  })
})

describe('a run whose actor threw', () => {
  const failing = (stage: (payload: { [member: string]: unknown }) => boolean) => {
    let once = true
    return openRooms({
      onPublish(payload) {
        if (payload['runId'] !== 'bad' || !once || !stage(payload)) return
        once = false
        throw new Error('an effect failed')
      },
    })
  }
  const stages = [
    ['at its start', 'error', ({ stream }: { [member: string]: unknown }) => stream === 'lifecycle'],
    ['when its end is on disk', 'final', ({ state }: { [member: string]: unknown }) => state === 'final'],
  ] as const

  for (const [when, state, stage] of stages)
    it(`${when} ends once, and its neighbours live on`, async () => {
      const rooms = failing(stage)
      const idle = rooms.send('bad').then(() => rooms.runs.idle())
      await rooms.send('next')
      await rooms.send('other', { sessionKey: 'agent:main:other' })
      void rooms.asked('bad').then(({ finish }) => finish())
      for (const id of ['next', 'other']) (await rooms.asked(id)).finish()
      await idle
      expect(rooms.ends('bad')).toHaveLength(1)
      expect(rooms.ends('bad')).toMatchObject([{ payload: { state } }])
      expect(rooms.ends('next')).toMatchObject([{ payload: { state: 'final' } }])
      expect(rooms.ends('other')).toMatchObject([{ payload: { state: 'final' } }])
      expect(await rooms.turns.admit(request('bad'))).toMatchObject({
        kind: 'ended',
      })
    })

  it('while it streams stops asking its model', async () => {
    const rooms = failing(({ data }) => (data as { delta?: string } | undefined)?.delta === 'two')
    await rooms.send('bad')
    const { sink, signal } = await rooms.asked('bad')
    sink.delta('one')
    sink.delta('two')
    rooms.runs.abort('bad', 'rpc')
    await rooms.runs.idle()
    expect(signal.aborted).toBe(true)
    expect(rooms.ends('bad')).toMatchObject([{ payload: { state: 'error' } }])
  })

  it('ends even if nothing it says can be said any more', async () => {
    const rooms = openRooms({
      onPublish({ runId }) {
        if (runId === 'bad') throw new Error('an effect failed')
      },
    })
    const idle = rooms.send('bad').then(() => rooms.runs.idle())
    await idle
    await settled()
    expect(await rooms.store.run('bad')).toMatchObject({ state: 'failed' })
    expect(rooms.runs.size).toBe(0)
  })

  it('ends on disk even if the disk refuses at first', async () => {
    const kept = openMemoryStore()
    let refusals = 2
    let once = true
    const rooms = openRooms({
      store: storeWith(kept, {
        settle: async (...args) => {
          if (refusals-- > 0) throw new StoreError('FULL', 'no space')
          return kept.settle(...args)
        },
      }),
      onPublish() {
        if (!once) return
        once = false
        throw new Error('an effect failed')
      },
    })
    const idle = rooms.send('bad').then(() => rooms.runs.idle())
    await idle
    expect(await kept.run('bad')).toMatchObject({ state: 'failed' })
    expect(rooms.ends('bad')).toHaveLength(1)
  })
})

describe('waiting for a run', () => {
  it('hears of one that is yet to be admitted, and gives up when the time is up', async () => {
    const rooms = openRooms()
    const waited = rooms.runs.wait('k1', 60_000, 'p')
    expect(await rooms.runs.wait('k2', 1, 'p')).toBeUndefined()
    await rooms.send('k1')
    const { finish } = await rooms.asked('k1')
    finish()
    expect(await waited).toMatchObject({ outcome: { state: 'completed' } })
  })
})

describe('waits', () => {
  it('of one principal are so many at once, and one more as one is over; others wait all the same', async () => {
    const { runs } = openRooms()
    const giveUp = new AbortController()
    const over = vi.fn()
    const wait = (principal: string, signal?: AbortSignal) =>
      void runs.wait('none', 60_000, principal, signal).then(() => over(principal))
    wait('greedy', giveUp.signal)
    for (let n = 1; n < 1_000; n++) wait('greedy')
    wait('other')
    await settled()
    expect(over).not.toHaveBeenCalled()
    wait('greedy')
    await settled()
    expect(over.mock.calls).toEqual([['greedy']])
    giveUp.abort()
    await settled()
    expect(over).toHaveBeenCalledTimes(2)
    wait('greedy')
    await settled()
    expect(over).toHaveBeenCalledTimes(2)
  })
})

describe('a wait that was given up before it began', () => {
  it('is over at once, and leaves nothing behind', async () => {
    const { runs } = openRooms()
    expect(await runs.wait('none', 60_000, 'p', AbortSignal.abort())).toBeUndefined()
  })
})

describe('after many runs', () => {
  it('nothing of them is left but their answers', async () => {
    const rooms = openRooms()
    for (let n = 0; n < 500; n++) {
      const idle = rooms.send(`k${n}`, { sessionKey: `agent:main:s${n}` }).then(() => rooms.runs.idle())
      const { finish } = await rooms.asked(`k${n}`)
      finish()
      await idle
    }
    rooms.sessions.sweep()
    rooms.sessions.sweep()
    await settled()
    expect([rooms.runs.size, rooms.sessions.size, rooms.runs.ids(), rooms.sessions.ids()]).toEqual([0, 0, [], []])
  })
})

describe('a run that waits for others', () => {
  it('does without its place meanwhile, goes on at once, and counts again when there is room', async () => {
    const rooms = openRooms({ maxConcurrent: 1 })
    await rooms.send('k1')
    const first = await rooms.asked('k1')
    await rooms.send('k2', { sessionKey: 'agent:main:other' })
    const wait = Promise.withResolvers<string>()
    const away = rooms.runs.away('k1', () => wait.promise)
    const second = await rooms.asked('k2')
    wait.resolve('there')
    expect(await away).toBe('there')
    await rooms.send('k3', { sessionKey: 'agent:main:third' })
    second.finish()
    await vi.waitFor(() => expect(rooms.ends('k2')).toHaveLength(1))
    // The first has its place again, so the third waits for it.
    expect(rooms.order).toEqual(['k1', 'k2'])
    first.finish()
    await rooms.asked('k3')
  })
})

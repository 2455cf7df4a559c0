import { describe, expect, it, vi } from 'vitest'
import { openMemoryStore } from '../../src/stores/memory.ts'
import { StoreError } from '../../src/stores/store.ts'
import { openRooms, type Rooms, SESSION, settled } from '../support/rooms.ts'

const OFFSETS = { caps: ['stream-offsets'] }
const send = (rooms: Rooms, key: string, queueMode?: string) =>
  rooms.send(key, { meta: queueMode === undefined ? {} : { queueMode } })

const texts = async (rooms: Rooms) =>
  (await rooms.store.history(SESSION, { limit: 100, maxBytes: 1e6 })).messages.map(
    ({ role, content }) => `${role}: ${content[0]?.['text']}`,
  )
const queueEvents = (rooms: Rooms) =>
  rooms.ear.heard
    .filter(({ payload }) => payload.stream === 'queue')
    .map(({ payload }) => ({ runId: payload.runId, seq: payload.seq, ...payload.data }))

describe('messages that are collected', () => {
  it('are answered together under the id of the last, each in the transcript in its order', async () => {
    const rooms = openRooms(OFFSETS)
    await send(rooms, 'k1')
    const first = await rooms.asked('k1')
    for (const id of ['k2', 'k3', 'k4']) await send(rooms, id, 'collect')
    first.sink.delta('answer k1')
    first.finish()
    const last = await rooms.asked('k4')
    last.sink.delta('answer to all')
    last.finish()
    await rooms.runs.idle()
    expect(rooms.order).toEqual(['k1', 'k4'])
    expect(await texts(rooms)).toEqual([
      'user: message k1',
      'assistant: answer k1',
      'user: message k2',
      'user: message k3',
      'user: message k4',
      'assistant: answer to all',
    ])
    for (const id of ['k2', 'k3']) {
      const ends = rooms.ends(id)
      expect(ends).toHaveLength(1)
      expect(ends[0]!.payload).toMatchObject({ state: 'final', seq: 1 })
      expect(ends[0]!.payload).not.toHaveProperty('message')
      expect(await rooms.store.run(id)).toMatchObject({ state: 'completed', stopReason: 'absorbed' })
    }
    expect(queueEvents(rooms)).toEqual([
      { runId: 'k2', seq: 0, place: 1 },
      { runId: 'k3', seq: 0, place: 2 },
      { runId: 'k4', seq: 0, place: 3 },
      { runId: 'k2', seq: 0, absorbedBy: 'k4' },
      { runId: 'k3', seq: 0, absorbedBy: 'k4' },
    ])
  })

  it('have all begun by the time the last does, however long the disk takes', async () => {
    const store = openMemoryStore()
    const rooms = openRooms({ store })
    await send(rooms, 'k1')
    const { finish } = await rooms.asked('k1')
    await send(rooms, 'k2', 'collect')
    await send(rooms, 'k3', 'collect')
    const settle = store.settle.bind(store)
    let refusals = 3
    vi.spyOn(store, 'settle').mockImplementation((runId, ending) =>
      runId === 'k2' && refusals-- > 0 ? Promise.reject(new StoreError('FULL', 'no space')) : settle(runId, ending),
    )
    finish()
    ;(await rooms.asked('k3')).finish()
    await rooms.runs.idle()
    expect(refusals).toBeLessThan(0)
    expect((await texts(rooms)).slice(-2)).toEqual(['user: message k2', 'user: message k3'])
  })

  it('are announced to nobody who does not count offsets', async () => {
    const rooms = openRooms()
    await send(rooms, 'k1')
    const { finish } = await rooms.asked('k1')
    await send(rooms, 'k2', 'collect')
    finish()
    ;(await rooms.asked('k2')).finish()
    await rooms.runs.idle()
    expect(queueEvents(rooms)).toEqual([])
    expect(JSON.stringify(rooms.ear.heard)).not.toContain('absorbed')
  })

  it('have their turn when the one that was to answer them is stopped', async () => {
    const rooms = openRooms({ maxConcurrent: 1 })
    await rooms.send('other', { sessionKey: 'agent:main:other' })
    await send(rooms, 'k1')
    for (const id of ['k2', 'k3']) await send(rooms, id, 'collect')
    await rooms.sessions.abort(SESSION, 'k1', 'rpc')
    // k3 waits for room among all sessions, and was to answer k2 with itself.
    await rooms.sessions.abort(SESSION, 'k3', 'rpc')
    ;(await rooms.asked('other')).finish()
    ;(await rooms.asked('k2')).finish()
    await rooms.runs.idle()
    expect(rooms.order).toEqual(['other', 'k2'])
  })
})

describe('a message that steers', () => {
  it('joins the run under way: the model is asked again, and the text goes on', async () => {
    const rooms = openRooms(OFFSETS)
    await send(rooms, 'k1')
    const first = await rooms.asked('k1')
    first.sink.delta('the first half')
    await send(rooms, 'k2', 'steer')
    const second = await rooms.asked('k1', 2)
    expect(first.signal.aborted).toBe(true)
    expect(second.joined).toEqual(['the first half'])
    first.sink.delta('nobody hears this')
    second.sink.delta('the second half')
    second.finish()
    await rooms.runs.idle()
    const whole = 'the first half\n\nthe second half'
    expect(rooms.ends('k1')).toMatchObject([{ payload: { state: 'final', message: { content: [{ text: whole }] } } }])
    expect(rooms.ends('k2')).toMatchObject([{ payload: { state: 'final' } }])
    expect(await texts(rooms)).toEqual(['user: message k1', 'user: message k2', `assistant: ${whole}`])
    expect(queueEvents(rooms)).toEqual([
      { runId: 'k2', seq: 0, place: 1 },
      { runId: 'k2', seq: 0, absorbedBy: 'k1' },
    ])
    const starts = rooms.ear.heard.filter(({ payload }) => payload.data?.phase === 'start')
    expect(starts).toHaveLength(1)
  })

  it('tells the model what it had said before each message that joined', async () => {
    const rooms = openRooms()
    await send(rooms, 'k1')
    ;(await rooms.asked('k1')).sink.delta('one')
    await send(rooms, 'k2', 'steer')
    ;(await rooms.asked('k1', 2)).sink.delta('two')
    await send(rooms, 'k3', 'steer')
    expect((await rooms.asked('k1', 3)).joined).toEqual(['one', '\n\ntwo'])
  })

  it('has a run of its own when the other is over before it can join', async () => {
    const rooms = openRooms()
    await send(rooms, 'k1')
    const { finish } = await rooms.asked('k1')
    finish()
    await send(rooms, 'k2', 'steer')
    ;(await rooms.asked('k2')).finish()
    await rooms.runs.idle()
    expect(rooms.order).toEqual(['k1', 'k2'])
    for (const id of ['k1', 'k2']) expect(rooms.ends(id)).toHaveLength(1)
  })

  it('waits its turn when the run is stopped while it joins', async () => {
    const rooms = openRooms()
    await send(rooms, 'k1')
    await rooms.asked('k1')
    await send(rooms, 'k2', 'steer')
    await rooms.sessions.abort(SESSION, 'k1', 'rpc')
    await rooms.runs.idle()
    for (const id of ['k1', 'k2']) expect(rooms.ends(id)).toHaveLength(1)
  })
})

describe('a message that interrupts', () => {
  it('stops the run under way and is answered next', async () => {
    const rooms = openRooms()
    await send(rooms, 'k1')
    ;(await rooms.asked('k1')).sink.delta('too lon')
    await send(rooms, 'k2')
    await send(rooms, 'k3', 'interrupt')
    ;(await rooms.asked('k3')).finish()
    ;(await rooms.asked('k2')).finish()
    await rooms.runs.idle()
    expect(rooms.order).toEqual(['k1', 'k3', 'k2'])
    expect(rooms.ends('k1')).toMatchObject([{ payload: { state: 'aborted', stopReason: 'interrupt' } }])
    expect((await texts(rooms)).slice(0, 3)).toEqual(['user: message k1', 'assistant: too lon', 'user: message k3'])
  })
})

describe('turns that are stopped', () => {
  it('in the same batch as the one before them leave their session well', async () => {
    const rooms = openRooms()
    for (const id of ['k1', 'k2', 'k3']) await send(rooms, id)
    await rooms.asked('k1')
    await Promise.all([rooms.sessions.abort(SESSION, 'k1', 'rpc'), rooms.sessions.abort(SESSION, 'k2', 'rpc')])
    ;(await rooms.asked('k3')).finish()
    await rooms.runs.idle()
    expect(rooms.crashes).toEqual([])
    for (const id of ['k1', 'k2', 'k3']) expect(rooms.ends(id)).toHaveLength(1)
  })

  it('while they wait for a reset never begin', async () => {
    const store = openMemoryStore()
    const rooms = openRooms({ store })
    await send(rooms, 'k1')
    await rooms.asked('k1')
    const gate = Promise.withResolvers<void>()
    const reset = store.resetSession.bind(store)
    vi.spyOn(store, 'resetSession').mockImplementation((...of) => gate.promise.then(() => reset(...of)))
    const resetting = rooms.turns.reset(SESSION, 'main', 'p')
    await send(rooms, 'k2')
    expect(await rooms.sessions.abort(SESSION, 'k2', 'rpc')).toEqual(['k2'])
    gate.resolve()
    await resetting
    await rooms.runs.idle()
    expect(rooms.order).toEqual(['k1'])
    expect(rooms.ends('k2')).toMatchObject([{ payload: { state: 'aborted' } }])
  })
})

describe('a session that crashed', () => {
  it('does not stop what waited for the one that interrupts, and is under way', async () => {
    const rooms = openRooms({
      onPlace(runId) {
        if (runId === 'x' && rooms.crashes.length === 0) throw new Error('an effect failed')
      },
    })
    await send(rooms, 'k1')
    await rooms.asked('k1')
    await send(rooms, 'f')
    await send(rooms, 'i', 'interrupt')
    const { finish } = await rooms.asked('i')
    await send(rooms, 'x')
    await vi.waitFor(() => expect([rooms.crashes, rooms.sessions.size]).toEqual([[SESSION], 1]))
    finish()
    for (const id of ['f', 'x']) (await rooms.asked(id)).finish()
    await rooms.runs.idle()
    expect(rooms.ends('f')).toMatchObject([{ payload: { state: 'final' } }])
  })
})

describe('the mode of a message', () => {
  it('is its own, else that of its session, else that of the gateway', async () => {
    const rooms = openRooms()
    await rooms.store.patchSession({ key: SESSION, agentId: 'main', sessionId: 's' }, { queueMode: 'interrupt' }, 1)
    await send(rooms, 'k1')
    await rooms.asked('k1')
    await send(rooms, 'k2', 'followup')
    expect(rooms.ends('k1')).toEqual([])
    await send(rooms, 'k3')
    await rooms.asked('k3')
    expect(rooms.ends('k1')).toMatchObject([{ payload: { stopReason: 'interrupt' } }])
  })

  it('is followup for who calls an agent, and waits for its answer', async () => {
    const rooms = openRooms()
    await rooms.store.patchSession({ key: SESSION, agentId: 'main', sessionId: 's' }, { queueMode: 'collect' }, 1)
    await send(rooms, 'k1')
    const { finish } = await rooms.asked('k1')
    await rooms.send('k2', { method: 'agent' })
    await rooms.send('k3', { method: 'agent' })
    finish()
    for (const id of ['k2', 'k3']) (await rooms.asked(id)).finish()
    await rooms.runs.idle()
    expect(rooms.order).toEqual(['k1', 'k2', 'k3'])
  })
})

describe('a message that would join a run', () => {
  it.each(['agent', 'message'])('waits for its own answer when that run answers somebody else: %s', async (method) => {
    const rooms = openRooms()
    await rooms.send('k1', { method })
    const { finish } = await rooms.asked('k1')
    await rooms.send('k2', { meta: { queueMode: 'steer' } })
    await settled()
    expect(rooms.order).toEqual(['k1'])
    finish()
    const second = await rooms.asked('k2')
    expect(second.joined).toEqual([])
    second.finish()
    await rooms.runs.idle()
  })
})

describe('a run that a former process was carrying out', () => {
  const left = async (attempts: number) => {
    const rooms = openRooms({ recovery: 'resume' })
    const { turns: _turns, ...turn } = { ...rooms }
    const admission = await rooms.turns.admit({
      principal: 'token:shared',
      method: 'chat.send',
      sessionKey: SESSION,
      agentId: 'main',
      key: 'k1',
      message: 'message k1',
      attachments: [],
      meta: {},
    })
    expect(admission.kind).toBe('new')
    for (let attempt = 1; attempt <= attempts; attempt += 1) await turn.store.start('k1', attempt, attempt)
    await turn.store.progress('k1', 'half of i')
    return openRooms({ recovery: 'resume', store: turn.store })
  }

  it('is begun again under its id when that is wanted, without what it had said', async () => {
    const rooms = await left(1)
    expect(await rooms.turns.recover()).toEqual({ started: 0, interrupted: 0, resumed: 1, dropped: 0 })
    const { sink, finish } = await rooms.asked('k1')
    expect(await rooms.store.run('k1')).toMatchObject({ state: 'started', attempt: 2, text: '' })
    sink.delta('all of it')
    finish()
    await rooms.runs.idle()
    expect(await texts(rooms)).toEqual(['user: message k1', 'assistant: all of it'])
    expect(rooms.ends('k1')).toMatchObject([{ payload: { state: 'final' } }])
  })

  it('is not begun a fourth time', async () => {
    const rooms = await left(3)
    expect(await rooms.turns.recover()).toEqual({ started: 0, interrupted: 1, resumed: 0, dropped: 0 })
    await rooms.runs.idle()
    expect(rooms.order).toEqual([])
    expect(await rooms.store.run('k1')).toMatchObject({ state: 'interrupted' })
  })
})

describe('room among all sessions', () => {
  it('is given to as many runs as are allowed, and to the agents in turn', async () => {
    const rooms = openRooms({ maxConcurrent: 2, ...OFFSETS })
    const to = (id: string, agentId: string) => rooms.send(id, { agentId, sessionKey: `agent:${agentId}:${id}` })
    for (const id of ['a1', 'a2', 'a3', 'a4']) await to(id, 'a')
    await to('b1', 'b')
    await rooms.asked('a2')
    expect(rooms.order).toEqual(['a1', 'a2'])
    for (const id of ['a1', 'a2', 'a3', 'b1', 'a4']) (await rooms.asked(id)).finish()
    await rooms.runs.idle()
    expect(rooms.order.indexOf('b1')).toBeLessThan(rooms.order.indexOf('a4'))
    expect(queueEvents(rooms)).toEqual(['a3', 'a4', 'b1'].map((runId) => ({ runId, seq: 0, place: 0 })))
  })

  it('is free again when a run that had it crashed or was stopped', async () => {
    const rooms = openRooms({ maxConcurrent: 1 })
    for (const id of ['k1', 'k2', 'k3']) await rooms.send(id, { sessionKey: `agent:main:${id}` })
    ;(await rooms.asked('k1')).fail(new Error('the model failed'))
    await rooms.asked('k2')
    await rooms.sessions.abort('agent:main:k2', null, 'rpc')
    ;(await rooms.asked('k3')).finish()
    await rooms.runs.idle()
  })
})

import { describe, expect, it, vi } from 'vitest'
import { openRooms, request, SESSION, settled } from '../support/rooms.ts'

/** Lets the runs answer, each as soon as its model is asked. */
const answerAll = (rooms: ReturnType<typeof openRooms>, ids: string[]) =>
  Promise.all(
    ids.map(async (id) => {
      const { sink, finish } = await rooms.asked(id)
      sink.delta(`answer ${id}`)
      finish()
    }),
  )

describe('a session', () => {
  it('runs one turn at a time in the order they were admitted, and ends each under its own id', async () => {
    const rooms = openRooms()
    const ids = Array.from({ length: 20 }, (_, n) => `k${n}`)
    await Promise.all(ids.map((id) => rooms.send(id)))
    await rooms.asked('k0')
    expect(rooms.order).toEqual(['k0'])
    expect(rooms.sessions.queue(SESSION)).toEqual({ running: 'k0', waiting: ids.slice(1) })
    const idle = rooms.runs.idle()
    await answerAll(rooms, ids)
    await idle
    expect(rooms.order).toEqual(ids)
    for (const id of ids)
      expect(rooms.ends(id)).toMatchObject([
        { payload: { state: 'final', message: { content: [{ text: `answer ${id}` }] } } },
      ])
    const { messages } = await rooms.store.history(SESSION, { limit: 100, maxBytes: 1e6 })
    expect(messages.map(({ content }) => content[0]?.['text'])).toEqual(
      ids.flatMap((id) => [`message ${id}`, `answer ${id}`]),
    )
  })

  it('does not wait for another session', async () => {
    const rooms = openRooms()
    await rooms.send('k1')
    await rooms.send('k2', { sessionKey: 'agent:main:other' })
    await Promise.all([rooms.asked('k1'), rooms.asked('k2')])
    expect(rooms.runs.size).toBe(2)
  })

  it('goes when it has been idle for a whole period', async () => {
    const rooms = openRooms()
    const idle = rooms.send('k1').then(() => rooms.runs.idle())
    await answerAll(rooms, ['k1'])
    await idle
    await settled()
    rooms.sessions.sweep()
    await settled()
    expect(rooms.sessions.size).toBe(1)
    rooms.sessions.sweep()
    await settled()
    expect(rooms.sessions.size).toBe(0)
  })

  it('loses no turn that comes in the moment it goes', async () => {
    const rooms = openRooms()
    const idle = rooms.send('k1').then(() => rooms.runs.idle())
    await answerAll(rooms, ['k1'])
    await idle
    await settled()
    rooms.sessions.sweep()
    const admission = await rooms.turns.admit(request('k2'))
    if (admission.kind !== 'new') throw new Error('not admitted')
    rooms.sessions.sweep()
    rooms.turns.start(admission.record)
    await answerAll(rooms, ['k2'])
    await vi.waitFor(() => expect(rooms.ends('k2')).toHaveLength(1))
  })

  it('stays while turns come', async () => {
    const rooms = openRooms()
    for (const id of ['k1', 'k2', 'k3']) {
      const idle = rooms.send(id).then(() => rooms.runs.idle())
      await answerAll(rooms, [id])
      await idle
      await settled()
      rooms.sessions.sweep()
      await settled()
      expect(rooms.sessions.size).toBe(1)
    }
  })
})

describe('stopping', () => {
  it('ends a waiting run under its own id without ever starting it', async () => {
    const rooms = openRooms()
    await rooms.send('k1')
    await rooms.send('k2')
    await rooms.asked('k1')
    expect(await rooms.sessions.abort(SESSION, 'k2', 'rpc')).toEqual(['k2'])
    expect(rooms.ends('k2')).toMatchObject([{ payload: { state: 'aborted', stopReason: 'rpc' } }])
    expect(await rooms.store.run('k2')).toMatchObject({ state: 'aborted' })
    expect(rooms.order).toEqual(['k1'])
    await answerAll(rooms, ['k1'])
    await vi.waitFor(() => expect(rooms.ends('k1')).toMatchObject([{ payload: { state: 'final' } }]))
  })

  it('stops everything, none beginning in between', async () => {
    const rooms = openRooms()
    for (const id of ['k1', 'k2', 'k3']) await rooms.send(id)
    await rooms.asked('k1')
    expect(await rooms.sessions.abort(SESSION, null, 'stop')).toEqual(['k1', 'k2', 'k3'])
    expect(rooms.order).toEqual(['k1'])
    expect(rooms.runs.size).toBe(0)
  })

  it('stops a run that was handed over in the same moment', async () => {
    const rooms = openRooms()
    const admission = await rooms.turns.admit(request('k1'))
    if (admission.kind !== 'new') throw new Error('not admitted')
    rooms.turns.start(admission.record)
    expect(await rooms.sessions.abort(SESSION, null, 'rpc')).toEqual(['k1'])
    expect(rooms.order).toEqual([])
  })

  it('says that nothing was stopped when nothing runs', async () => {
    expect(await openRooms().sessions.abort(SESSION, null, 'rpc')).toEqual([])
  })

  it('ends a run once, whoever comes first: the stop or the model', async () => {
    for (let wait = 0; wait < 12; wait++) {
      const rooms = openRooms()
      await rooms.send('k1')
      const { sink, finish } = await rooms.asked('k1')
      sink.delta('text')
      finish()
      for (let n = 0; n < wait; n++) await Promise.resolve()
      const stopped = await rooms.sessions.abort(SESSION, null, 'rpc')
      await rooms.runs.idle()
      const [end, ...more] = rooms.ends('k1')
      expect(more).toEqual([])
      expect(stopped).toEqual(end?.['payload'].state === 'aborted' ? ['k1'] : [])
      expect((await rooms.store.run('k1'))?.state).toBe(end?.['payload'].state === 'aborted' ? 'aborted' : 'completed')
    }
  })
})

describe('a session whose actor threw', () => {
  it('is begun again from its live runs, and loses none of them', async () => {
    let broken = true
    const rooms = openRooms({
      onBegin(runId) {
        if (runId === 'k2' && broken) {
          broken = false
          throw new Error('an effect failed')
        }
      },
    })
    const ids = ['k1', 'k2', 'k3']
    for (const id of ids) await rooms.send(id)
    await rooms.send('n1', { sessionKey: 'agent:main:other' })
    const idle = rooms.runs.idle()
    await answerAll(rooms, [...ids, 'n1'])
    await idle
    expect(rooms.order.filter((id) => id !== 'n1')).toEqual(ids)
    for (const id of [...ids, 'n1']) expect(rooms.ends(id)).toMatchObject([{ payload: { state: 'final' } }])
  })

  it('rests after five restarts while its neighbours go on, and takes its turns up again afterwards', async () => {
    let crashes = 0
    const rooms = openRooms({
      onBegin(runId) {
        if (runId === 'k1' && crashes < 6) {
          crashes += 1
          throw new Error('an effect failed')
        }
      },
    })
    await rooms.send('k1')
    await vi.waitFor(() => expect(crashes).toBe(6), { interval: 1 })
    await expect(rooms.send('k2')).rejects.toMatchObject({ kind: 'SESSION_QUARANTINED' })
    await rooms.send('n1', { sessionKey: 'agent:main:other' })
    await answerAll(rooms, ['n1', 'k1'])
    await vi.waitFor(() => expect(rooms.ends('k1')).toHaveLength(1))
    expect(rooms.ends('n1')).toHaveLength(1)
  })

  it('can be stopped while it is down', async () => {
    const rooms = openRooms({
      policy: { restarts: 5, windowMs: 1000, backoffMs: 60_000, restMs: 60_000 },
      onBegin() {
        throw new Error('an effect failed')
      },
    })
    await rooms.send('k1')
    await rooms.send('k2')
    await settled()
    expect(await rooms.sessions.abort(SESSION, null, 'rpc')).toEqual(['k1', 'k2'])
    expect(rooms.ends('k1')).toMatchObject([{ payload: { state: 'aborted' } }])
    expect(rooms.runs.size).toBe(0)
  })
})

describe('beginning a new transcript', () => {
  it('stops what runs and what waits, and leaves the new transcript empty', async () => {
    const rooms = openRooms()
    await rooms.send('k1')
    await rooms.send('k2')
    await rooms.asked('k1')
    await rooms.turns.reset(SESSION, 'main', 'p')
    expect(rooms.ends('k1')).toMatchObject([{ payload: { state: 'aborted', stopReason: 'reset' } }])
    expect(rooms.ends('k2')).toMatchObject([{ payload: { state: 'aborted', stopReason: 'reset' } }])
    expect((await rooms.store.history(SESSION, { limit: 9, maxBytes: 9999 })).messages).toEqual([])
  })
})

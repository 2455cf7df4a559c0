/** What becomes of the turns of somebody who may send no more. */
import { describe, expect, it } from 'vitest'
import { openMemoryStore } from '../../src/stores/memory.ts'
import { openRooms, type Rooms, SESSION, storeWith } from '../support/rooms.ts'

const GONE = 'token:gone'
const by = (rooms: Rooms, principal: string, key: string, changes: object = {}) =>
  rooms.send(key, { principal, ...changes })
const ended = async (rooms: Rooms, key: string) => {
  const { state, stopReason, startedAt } = (await rooms.store.run(key))!
  return { state, stopReason, hasBegun: startedAt !== undefined }
}
const DROPPED = { state: 'aborted', stopReason: 'revoked', hasBegun: false }

describe('the turns of somebody who was revoked', () => {
  it('end as aborted while they wait, and what is under way goes on to its end', async () => {
    const rooms = openRooms()
    await by(rooms, GONE, 'k1')
    const running = await rooms.asked('k1')
    for (const [key, principal] of [
      ['k2', GONE],
      ['k3', 'token:other'],
      ['k4', GONE],
    ] as const)
      await by(rooms, principal, key)
    await rooms.turns.drop(GONE)
    for (const key of ['k2', 'k4']) {
      expect(await ended(rooms, key)).toEqual(DROPPED)
      expect(rooms.ends(key)).toMatchObject([{ payload: { state: 'aborted', stopReason: 'revoked' } }])
    }
    expect(running.signal.aborted).toBe(false)
    running.sink.delta('the whole answer')
    running.finish()
    ;(await rooms.asked('k3')).finish()
    await rooms.runs.idle()
    expect(rooms.order).toEqual(['k1', 'k3'])
    expect(await ended(rooms, 'k1')).toEqual({ state: 'completed', stopReason: 'stop', hasBegun: true })
    expect(rooms.ends('k1')).toMatchObject([{ payload: { state: 'final' } }])
    expect(await ended(rooms, 'k3')).toMatchObject({ state: 'completed' })
    const { messages } = await rooms.store.history(SESSION, { limit: 10, maxBytes: 1e6 })
    expect(messages.map(({ content }) => content[0]?.['text'])).toEqual([
      'message k1',
      'the whole answer',
      'message k3',
    ])
  })

  it('end while they wait for room among all sessions, too', async () => {
    const rooms = openRooms({ maxConcurrent: 1 })
    await by(rooms, 'token:other', 'k1')
    const { finish } = await rooms.asked('k1')
    await by(rooms, GONE, 'k2', { sessionKey: 'agent:main:k2' })
    await rooms.turns.drop(GONE)
    expect(await ended(rooms, 'k2')).toEqual(DROPPED)
    finish()
    await rooms.runs.idle()
    expect(rooms.order).toEqual(['k1'])
  })

  it('end when they come from the disk only after that', async () => {
    const kept = openMemoryStore()
    const disk = Promise.withResolvers<void>()
    const store = storeWith(kept, {
      accept: (turn) => (turn.principal === GONE ? disk.promise.then(() => kept.accept(turn)) : kept.accept(turn)),
    })
    const rooms = openRooms({ store })
    await by(rooms, 'token:other', 'k1')
    const { finish } = await rooms.asked('k1')
    const sent = rooms.turns.arriving(SESSION, by(rooms, GONE, 'k2'))
    const dropped = rooms.turns.drop(GONE)
    disk.resolve()
    expect(await sent).toMatchObject({ kind: 'new' })
    await dropped
    expect(await ended(rooms, 'k2')).toEqual(DROPPED)
    finish()
    await rooms.runs.idle()
    expect(rooms.order).toEqual(['k1'])
  })

  it('are answered as aborted to a repeat of their key', async () => {
    const rooms = openRooms()
    await by(rooms, 'token:other', 'k1')
    const { finish } = await rooms.asked('k1')
    await by(rooms, GONE, 'k2')
    await rooms.turns.drop(GONE)
    expect(await by(rooms, GONE, 'k2')).toMatchObject({ kind: 'ended', state: 'aborted' })
    finish()
    await rooms.runs.idle()
  })

  it('end with the next start, where the process died before; what had begun is settled like that of others', async () => {
    const store = openMemoryStore()
    const former = openRooms({ store })
    for (const [key, principal] of [
      ['k1', GONE],
      ['k2', GONE],
      ['k3', 'token:other'],
    ] as const)
      await former.turns.admit({
        ...{ principal, method: 'chat.send', sessionKey: SESSION, agentId: 'main', key },
        ...{ message: `message ${key}`, attachments: [], meta: {} },
      })
    await store.start('k1', 1, 1)
    const rooms = openRooms({ store, recovery: 'resume', stands: (principal) => principal !== GONE })
    expect(await rooms.turns.recover()).toEqual({ started: 1, interrupted: 0, resumed: 1, dropped: 1 })
    for (const key of ['k1', 'k3']) (await rooms.asked(key)).finish()
    await rooms.runs.idle()
    expect(rooms.order).toEqual(['k1', 'k3'])
    expect(await ended(rooms, 'k2')).toEqual(DROPPED)
  })
})

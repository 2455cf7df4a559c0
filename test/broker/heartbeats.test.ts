/** Heartbeats: who is asked, what is heard of it, and what is left for the next turn. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { createHeartbeats, type Heartbeats } from '../../src/broker/heartbeats.ts'
import type { AgentConfig, HeartbeatConfig } from '../../src/config/config.ts'
import { openMemoryStore } from '../../src/stores/memory.ts'
import type { Store } from '../../src/stores/store.ts'
import { openRooms, quiet, type Rooms, SESSION, settled } from '../support/rooms.ts'

const BEGIN = Date.parse('2026-05-01T10:00:00Z')
const HALF_AN_HOUR = 30 * 60_000

let stops: (() => void)[] = []
beforeEach(() => void vi.useFakeTimers({ now: BEGIN, toFake: ['setTimeout', 'clearTimeout', 'Date'] }))
afterEach(() => {
  for (const stop of stops) stop()
  stops = []
  vi.useRealTimers()
})

interface Bench {
  heartbeats: Heartbeats
  rooms: Rooms
  store: Store
  pass(ms: number): Promise<void>
  /** The `heartbeat` events so far. */
  told(): { status: string; reason?: string }[]
  /** Answers the heartbeat under way. */
  answer(text: string): Promise<void>
}

async function open(
  changes: Partial<HeartbeatConfig> = {},
  { list = '- look at the disk' as string | null, store = openMemoryStore() } = {},
): Promise<Bench> {
  const rooms = openRooms({ store })
  const heartbeat: HeartbeatConfig = { every: '30m', everyMs: HALF_AN_HOUR, ackMaxChars: 300, ...changes }
  const agent = {
    id: 'main',
    name: 'Main',
    models: [],
    thinking: 'off',
    failoverFor: [],
    heartbeat,
  } satisfies AgentConfig
  const heartbeats = createHeartbeats({
    agents: { mainKey: 'main', list: () => [agent], get: (id) => (id === 'main' ? agent : undefined) },
    store,
    ...{ turns: rooms.turns, runs: rooms.runs, sessions: rooms.sessions, hub: rooms.hub },
    checklistOf: () => list ?? undefined,
    log: quiet,
    now: Date.now,
  })
  await heartbeats.start()
  stops.push(() => heartbeats.stop())
  return {
    heartbeats,
    rooms,
    store,
    async pass(ms) {
      vi.advanceTimersByTime(ms)
      await settled()
    },
    told: () => rooms.ear.heard.filter(({ event }) => event === 'heartbeat').map(({ payload }) => payload),
    async answer(text) {
      await settled()
      const { sink, finish } = await rooms.asked(rooms.order.at(-1)!)
      sink.delta(text)
      finish()
      await settled()
    },
  }
}

const words = async (store: Store): Promise<unknown[]> =>
  (await store.history(SESSION, { limit: 99, maxBytes: 99_999 })).messages.map(({ content }) => content[0]?.['text'])

const ofSession = ({ ear }: Rooms) => ear.heard.filter(({ event }) => event === 'chat' || event === 'agent')

describe('a heartbeat', () => {
  it('comes at its interval, and nobody hears an answer that has nothing to say', async () => {
    const { rooms, store, pass, answer, told } = await open()
    await pass(HALF_AN_HOUR - 1)
    expect(rooms.order).toEqual([])
    await pass(1)
    await answer('**HEARTBEAT_OK**')
    expect(told()).toMatchObject([{ status: 'ok-token', reason: 'interval', silent: true, indicatorType: 'ok' }])
    expect([await words(store), ofSession(rooms)]).toEqual([[], []])
    await pass(HALF_AN_HOUR)
    await answer('')
    expect(told().at(-1)).toMatchObject({ status: 'ok-empty' })
  })

  it('with something to say is heard like any turn, all at once, and kept', async () => {
    const { heartbeats, rooms, store, pass, answer, told } = await open()
    await pass(HALF_AN_HOUR)
    await answer('The disk is full.')
    expect(told()).toMatchObject([{ status: 'sent', preview: 'The disk is full.', indicatorType: 'alert' }])
    expect(heartbeats.last).toMatchObject({ status: 'sent', agentId: 'main', sessionKey: SESSION })
    const [asked, said] = await words(store)
    expect(asked).toContain('# HEARTBEAT.md\n\n- look at the disk')
    expect(said).toBe('The disk is full.')
    const [first] = ofSession(rooms)
    expect(first?.['payload'].data).toMatchObject({ phase: 'start' })
    expect(rooms.ends(rooms.order[0]!)).toMatchObject([
      { payload: { state: 'final', message: { content: [{ text: 'The disk is full.' }] } } },
    ])
  })

  it.each([
    ['there is no list', null],
    ['the list has no words', '# Heartbeat\n\n<!-- nothing\nyet -->\n- [ ]\n- \n'],
  ])('does not come when nothing asks for it: %s', async (_, list) => {
    const { rooms, pass, told } = await open({}, { list })
    await pass(HALF_AN_HOUR)
    expect(told()).toMatchObject([{ status: 'skipped', reason: 'empty-heartbeat-file' }])
    expect(rooms.order).toEqual([])
  })

  it('comes without a list when it has a prompt of its own, which is what is asked', async () => {
    const { store, pass, answer } = await open({ prompt: 'Is the tea ready?' }, { list: null })
    await pass(HALF_AN_HOUR)
    await answer('Yes.')
    expect(await words(store)).toEqual(['Is the tea ready?', 'Yes.'])
  })

  it('comes by itself only in its hours', async () => {
    const { pass, told } = await open({ activeHours: { from: 22 * 60, to: 6 * 60, timezone: 'UTC' } })
    await pass(HALF_AN_HOUR)
    expect(told()).toMatchObject([{ status: 'skipped', reason: 'quiet-hours' }])
    vi.setSystemTime(Date.parse('2026-05-01T21:30:00Z'))
    await pass(HALF_AN_HOUR)
    expect(told()).toHaveLength(1)
  })

  it('does not come while its session is busy', async () => {
    const { rooms, pass, told } = await open()
    await rooms.send('a')
    await rooms.asked('a')
    await pass(HALF_AN_HOUR)
    expect(told()).toMatchObject([{ status: 'skipped', reason: 'requests-in-flight' }])
  })

  it('does not come where nobody is to have any, also after a restart', async () => {
    const store = openMemoryStore()
    const before = await open({}, { store })
    await before.heartbeats.set(false)
    await before.pass(HALF_AN_HOUR)
    expect(before.told()).toMatchObject([{ status: 'skipped', reason: 'disabled' }])
    const after = await open({}, { store })
    expect(after.heartbeats.isOn).toBe(false)
  })
})

describe('word that is left for a session', () => {
  const word = { sessionKey: SESSION, agentId: 'main', text: 'the post is here' }

  it('is heard at once, in a heartbeat, where it is not to wait, and then no more', async () => {
    const { heartbeats, store, answer, told } = await open({ everyMs: 0 }, { list: null })
    await heartbeats.leaveWord({ ...word, isUrgent: true })
    await answer('I shall fetch it.')
    expect(told()).toMatchObject([{ status: 'sent', reason: 'wake' }])
    expect((await words(store))[0]).toContain('the post is here')
    expect(await store.systemEvents()).toEqual([])
  })

  it('waits for the next heartbeat, or for what somebody says before that', async () => {
    const { heartbeats, rooms, store } = await open()
    await heartbeats.leaveWord(word)
    await settled()
    expect(rooms.order).toEqual([])
    await rooms.send('a')
    await rooms.asked('a')
    expect(await words(store)).toEqual([expect.stringContaining('the post is here'), 'message a'])
  })

  it('that comes during a heartbeat is heard in one after it', async () => {
    const { heartbeats, rooms, store, pass, answer } = await open()
    await pass(HALF_AN_HOUR)
    await settled()
    await heartbeats.leaveWord({ ...word, isUrgent: true })
    await heartbeats.leaveWord({ ...word, isUrgent: true })
    expect(rooms.order).toHaveLength(1)
    await answer('HEARTBEAT_OK')
    await settled()
    expect(rooms.order).toHaveLength(2)
    await answer('Two letters.')
    expect((await words(store))[0]).toMatch(/the post is here[\s\S]*the post is here/)
  })

  it('is not lost with a heartbeat that fails, of which nobody else hears', async () => {
    const { heartbeats, rooms, store, told } = await open()
    await heartbeats.leaveWord({ ...word, isUrgent: true })
    await settled()
    ;(await rooms.asked(rooms.order[0]!)).fail(new Error('no model'))
    await settled()
    expect(told()).toMatchObject([{ status: 'failed', reason: 'no model', indicatorType: 'error' }])
    expect([await words(store), ofSession(rooms)]).toEqual([[], []])
    expect(await store.systemEvents()).toHaveLength(1)
  })

  it('is told by the next process when this one dies first', async () => {
    const store = openMemoryStore()
    const before = await open({}, { store })
    await before.heartbeats.leaveWord({ ...word, isUrgent: true })
    await settled()
    await before.rooms.asked(before.rooms.order[0]!)
    before.heartbeats.stop()
    before.rooms.runs.dropAll()
    const rooms = openRooms({ store })
    await rooms.turns.recover()
    await settled()
    const after = await open({}, { store })
    await after.answer('It is here.')
    expect((await words(store))[0]).toContain('the post is here')
  })

  it('is not heard by somebody who steers into the heartbeat: what is said there is answered on its own', async () => {
    const { heartbeats, rooms, answer } = await open()
    await heartbeats.leaveWord({ ...word, isUrgent: true })
    await settled()
    await rooms.send('a', { meta: { queueMode: 'steer' } })
    await answer('HEARTBEAT_OK')
    await settled()
    ;(await rooms.asked('a')).finish()
    await settled()
    expect(rooms.ends('a')).toHaveLength(1)
  })
})

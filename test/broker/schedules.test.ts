/** Jobs and what is carried out of them, with a clock in the hands of the test. */
import { afterEach, describe, expect, it, vi } from 'vitest'
import { SimulatedClock } from 'xstate'
import { createSchedules, type NewJob, type Schedules, type SchedulesNeeds } from '../../src/broker/schedules.ts'
import { GatewayError } from '../../src/contract/errors.ts'
import { openMemoryStore } from '../../src/stores/memory.ts'
import { type Store, StoreError } from '../../src/stores/store.ts'
import { cronJob } from '../support/job.ts'
import { listening, openRooms, quiet, type Rooms, settled, storeWith } from '../support/rooms.ts'

const BEGIN = Date.parse('2026-03-28T12:00:00Z')
const SECOND = 1_000
const MINUTE = 60_000
const HOUR = 3_600_000

/** Leaves word for the main session every hour. */
const word = (changes: Partial<NewJob> = {}): NewJob => ({
  name: 'a job',
  schedule: { kind: 'every', everyMs: HOUR },
  sessionTarget: 'main',
  wakeMode: 'next-heartbeat',
  payload: { kind: 'systemEvent', text: 'look up' },
  ...changes,
})

/** Asks the agent every hour, in a session of its own. */
const turn = (changes: Partial<NewJob> = {}): NewJob =>
  word({ sessionTarget: 'isolated', payload: { kind: 'agentTurn', message: 'what is new?' }, ...changes })

let stops: (() => void)[] = []
afterEach(() => {
  for (const stop of stops) stop()
  stops = []
})

interface Bench {
  schedules: Schedules
  rooms: Rooms
  store: Store
  /** The `cron` events so far: what happened, in words. */
  told(): string[]
  urgent: string[]
  /** Lets time go by, in steps short enough for every timer. */
  pass(ms: number): Promise<void>
  /** Sets the wall clock, without any time going by. */
  set(at: number): void
  now(): number
}

async function open(store = openMemoryStore(), changes: Partial<SchedulesNeeds> = {}, at = BEGIN): Promise<Bench> {
  const clock = new SimulatedClock()
  let wall = at
  const rooms = openRooms({ store })
  const urgent: string[] = []
  const schedules = createSchedules({
    store,
    ...{ turns: rooms.turns, runs: rooms.runs, hub: rooms.hub },
    agents: { defaultId: 'main', mainKey: 'main', get: (id) => (id === 'main' ? ({ id } as never) : undefined) },
    onUrgent: (_, reason) => void urgent.push(reason),
    isOn: true,
    maxConcurrent: 4,
    log: quiet,
    now: () => wall,
    clock,
    ...changes,
  })
  await rooms.turns.recover()
  await schedules.recover()
  stops.push(() => schedules.stop())
  await settled()
  return {
    schedules,
    rooms,
    store,
    urgent,
    told: () =>
      rooms.ear.heard
        .filter(({ event }) => event === 'cron')
        .map(({ payload }) => [payload.action, payload.status].filter(Boolean).join(' ')),
    async pass(ms) {
      await settled()
      for (let left = ms; left > 0; left -= 30 * SECOND) {
        const step = Math.min(left, 30 * SECOND)
        wall += step
        clock.increment(step)
        await settled(3)
      }
      await settled()
    },
    set(time) {
      wall = time
    },
    now: () => wall,
  }
}

/** Lets time go by until a job is under way; gives when it was due. */
async function due(schedules: Schedules, pass: Bench['pass'], id: string): Promise<number | undefined> {
  const { nextRunAtMs } = schedules.get(id)!.state
  while (schedules.get(id)!.state.runningAtMs === undefined) await pass(5 * SECOND)
  return nextRunAtMs
}

const runOf = (jobId: string, dueAt: number) => `cron/${jobId}/${dueAt}`

describe('a job that leaves word', () => {
  it('does so each time that it is due, once', async () => {
    const { schedules, pass, store, told } = await open()
    const job = await schedules.add(word())
    expect(job.state).toEqual({ nextRunAtMs: BEGIN + HOUR })
    await pass(HOUR - SECOND)
    expect(told()).toEqual(['added'])
    await pass(SECOND)
    expect(told()).toEqual(['added', 'started', 'finished ok'])
    expect(await store.systemEvents()).toMatchObject([{ sessionKey: 'agent:main:main', text: 'look up' }])
    await pass(2 * HOUR)
    expect(await store.systemEvents()).toHaveLength(3)
    expect((await schedules.entries({ jobId: job.id, limit: 9 })).map(({ runAtMs }) => runAtMs)).toEqual([
      BEGIN + 3 * HOUR,
      BEGIN + 2 * HOUR,
      BEGIN + HOUR,
    ])
    expect(schedules.get(job.id)?.state).toMatchObject({
      lastStatus: 'ok',
      lastRunAtMs: BEGIN + 3 * HOUR,
      nextRunAtMs: BEGIN + 4 * HOUR,
    })
  })

  it('wakes the agent at once where it is not to wait', async () => {
    const { schedules, pass, urgent } = await open()
    const { id } = await schedules.add(word({ wakeMode: 'now' }))
    await pass(HOUR)
    expect(urgent).toEqual([`cron:${id}`])
  })

  it('that was due once is forgotten when it went well, or kept disabled where that is wanted', async () => {
    const { schedules, pass, told, store } = await open()
    const at = new Date(BEGIN + 10 * SECOND).toISOString()
    await schedules.add(word({ schedule: { kind: 'at', at } }))
    const kept = await schedules.add(word({ schedule: { kind: 'at', at: at.slice(0, -1) }, deleteAfterRun: false }))
    await pass(MINUTE)
    expect(told().filter((words) => words === 'removed')).toEqual(['removed'])
    expect(schedules.list().map(({ id, enabled }) => [id, enabled])).toEqual([[kept.id, false]])
    expect(await store.jobs()).toHaveLength(1)
    expect(await store.systemEvents()).toHaveLength(2)
  })

  it('keeps to the clock of its time zone when that is moved', async () => {
    const { schedules } = await open()
    const schedule = { kind: 'cron', expr: '0 9 * * *', tz: 'Europe/Berlin' } as const
    const job = await schedules.add(word({ schedule }))
    // Summer time began at 1:00 UTC of that day.
    expect(new Date(job.state.nextRunAtMs!).toISOString()).toBe('2026-03-29T07:00:00.000Z')
  })

  it('that is due again and again without a pause has a second of pause', async () => {
    const { schedules, pass } = await open()
    const { id } = await schedules.add(word({ schedule: { kind: 'every', everyMs: 1 } }))
    await pass(30 * SECOND)
    const next = schedules.get(id)!.state.nextRunAtMs!
    expect(next - schedules.get(id)!.state.lastRunAtMs!).toBeGreaterThanOrEqual(SECOND)
  })
})

describe('a job that asks an agent', () => {
  it('takes a turn in a session of its own, anew each time, and says how it ended', async () => {
    const { schedules, rooms, pass, told, store } = await open()
    const { id } = await schedules.add(turn({ delivery: { mode: 'announce' } }))
    const sessionKey = `agent:main:cron:${id}`
    await pass(HOUR)
    expect(told()).toEqual(['added', 'started'])
    expect(schedules.get(id)?.state).toEqual({ runningAtMs: BEGIN + HOUR })
    const first = runOf(id, BEGIN + HOUR)
    const { sink, finish } = await rooms.asked(first)
    sink.delta('nothing much')
    finish()
    await settled()
    expect(told().at(-1)).toBe('finished ok')
    const [entry] = await schedules.entries({ jobId: id, limit: 1 })
    expect(entry).toMatchObject({ status: 'ok', summary: 'nothing much', runId: first, sessionKey })
    expect(await store.systemEvents('agent:main:main')).toMatchObject([{ text: 'Job "a job" says: nothing much' }])
    await pass(HOUR)
    const again = await rooms.asked(runOf(id, BEGIN + 2 * HOUR))
    expect((await store.history(sessionKey, { limit: 9, maxBytes: 9_999 })).messages).toHaveLength(1)
    again.finish()
    await settled()
    expect(await schedules.entries({ jobId: id, limit: 9 })).toHaveLength(2)
  })

  it('does not have its main session told that there is nothing to say, nor where that is not wanted', async () => {
    const { schedules, rooms, pass, store } = await open()
    const loud = await schedules.add(turn({ delivery: { mode: 'announce' } }))
    const silent = await schedules.add(turn({ delivery: { mode: 'none' } }))
    await pass(HOUR)
    for (const [id, words] of [
      [loud.id, '**HEARTBEAT_OK**'],
      [silent.id, 'much'],
    ] as const) {
      const { sink, finish } = await rooms.asked(runOf(id, BEGIN + HOUR))
      sink.delta(words)
      finish()
    }
    await settled()
    expect(await store.systemEvents()).toEqual([])
  })

  it('is tried again after a failure, not before it has rested', async () => {
    const { schedules, rooms, pass } = await open()
    const { id } = await schedules.add(turn({ schedule: { kind: 'every', everyMs: 5 * SECOND } }))
    await pass(5 * SECOND)
    ;(await rooms.asked(runOf(id, BEGIN + 5 * SECOND))).fail(new Error('no model'))
    await settled()
    const { state } = schedules.get(id)!
    expect(state).toMatchObject({ lastStatus: 'error', lastError: 'no model', consecutiveErrors: 1 })
    ;(await rooms.asked(runOf(id, (await due(schedules, pass, id))!))).finish()
    await settled()
    expect(schedules.get(id)?.state.consecutiveErrors).toBeUndefined()
  })

  it('says why it was refused, and goes on', async () => {
    const { schedules, pass, store } = await open()
    const { id } = await schedules.add(turn())
    await store.patchSession(
      { key: `agent:main:cron:${id}`, agentId: 'main', sessionId: 't' },
      { sendPolicy: 'deny' },
      1,
    )
    await pass(HOUR)
    expect(schedules.get(id)?.state).toMatchObject({ lastStatus: 'error', lastError: 'send blocked by session policy' })
    expect(schedules.get(id)?.state.nextRunAtMs).toBeGreaterThan(BEGIN + HOUR)
  })
})

describe('somebody', () => {
  it('has a job carried out although it is disabled, and hears when that is over', async () => {
    const { schedules, told } = await open()
    const { id } = await schedules.add(word({ enabled: false }))
    expect(schedules.run(id, false)).toEqual({ ran: false, reason: 'not-due' })
    const wish = schedules.run(id, true)
    expect(wish.ran).toBe(true)
    if (wish.ran) await wish.ended
    expect(told()).toEqual(['added', 'started', 'finished ok'])
    expect(schedules.get(id)).toMatchObject({ enabled: false })
    expect(schedules.get(id)?.state.nextRunAtMs).toBeUndefined()
  })

  it('does not have it carried out twice at once', async () => {
    const { schedules, rooms } = await open()
    const { id } = await schedules.add(turn())
    const wish = schedules.run(id, true)
    if (!wish.ran) throw new Error('it was refused')
    const runId = await wish.fired
    expect(schedules.run(id, true)).toEqual({ ran: false, reason: 'already-running' })
    ;(await rooms.asked(runId)).finish()
    await wish.ended
    await settled()
    const again = schedules.run(id, true)
    if (!again.ran) throw new Error('it was refused')
    expect(await again.fired).not.toBe(runId)
  })

  it('removes a job: what is under way goes on, and nothing of it comes back', async () => {
    const { schedules, rooms, store, told } = await open()
    const { id } = await schedules.add(turn({ delivery: { mode: 'announce' } }))
    const wish = schedules.run(id, true)
    if (!wish.ran) throw new Error('it was refused')
    const runId = await wish.fired
    expect([await schedules.remove(id), await schedules.remove(id)]).toEqual([true, false])
    await wish.ended
    const { sink, finish } = await rooms.asked(runId)
    sink.delta('late')
    finish()
    await settled()
    expect([await store.jobs(), await store.openFirings(), await store.systemEvents()]).toEqual([[], [], []])
    expect((await store.run(runId))?.state).toBe('completed')
    expect(told()).toEqual(['added', 'started', 'removed'])
  })

  it('changes a job that is being removed: it stays removed, and the change is of no job', async () => {
    const inner = openMemoryStore()
    const gate = Promise.withResolvers<void>()
    const store = storeWith(inner, {
      async removeJob(jobId) {
        const isRemoved = await inner.removeJob(jobId)
        await gate.promise
        return isRemoved
      },
    })
    const { schedules, pass, told } = await open(store)
    const { id } = await schedules.add(word())
    const removals = [schedules.remove(id), schedules.remove(id)]
    const change = schedules.update(id, { description: 'another' })
    // Its time comes meanwhile, too.
    await pass(HOUR + MINUTE)
    gate.resolve()
    expect(await Promise.all(removals)).toEqual([true, false])
    await expect(change).rejects.toMatchObject({ kind: 'CRON_JOB_NOT_FOUND' })
    await settled()
    expect([await inner.jobs(), await inner.systemEvents(), schedules.list()]).toEqual([[], [], []])
    expect(told()).toEqual(['added', 'removed'])
  })

  it('removes a job while its change is on its way to the disk: nobody hears of it after that', async () => {
    const { schedules, store, told } = await open()
    const { id } = await schedules.add(word())
    const change = schedules.update(id, { description: 'another' }).catch(() => {})
    await Promise.all([schedules.remove(id), change])
    expect(told().filter((what) => what !== 'updated')).toEqual(['added', 'removed'])
    expect(told().at(-1)).toBe('removed')
    expect(await store.jobs()).toEqual([])
  })

  it('removes a job and is refused by the disk: it is there as before, and is carried out', async () => {
    const inner = openMemoryStore()
    let isFull = true
    const store = storeWith(inner, {
      removeJob: (jobId) => (isFull ? Promise.reject(new StoreError('FULL', 'full')) : inner.removeJob(jobId)),
    })
    const { schedules, pass } = await open(store)
    const { id } = await schedules.add(word())
    await expect(schedules.remove(id)).rejects.toThrow('full')
    await pass(HOUR)
    expect(await inner.systemEvents()).toHaveLength(1)
    isFull = false
    expect(await schedules.remove(id)).toBe(true)
  })

  it('disables a job whose time has come and that waits for room: it is not carried out', async () => {
    const { schedules, rooms, pass } = await open(openMemoryStore(), { maxConcurrent: 1 })
    const first = await schedules.add(turn())
    const second = await schedules.add(turn())
    await pass(HOUR)
    expect([first, second].map(({ id }) => schedules.get(id)?.state.runningAtMs)).toEqual([BEGIN + HOUR, undefined])
    await schedules.update(second.id, { enabled: false })
    ;(await rooms.asked(runOf(first.id, BEGIN + HOUR))).finish()
    await pass(SECOND)
    expect(await schedules.entries({ jobId: second.id, limit: 9 })).toEqual([])
    await schedules.update(second.id, { enabled: true })
    expect(schedules.get(second.id)?.state.nextRunAtMs).toBe(BEGIN + 2 * HOUR)
  })

  it.each<[string, Partial<NewJob>]>([
    ['main cron jobs require', { payload: { kind: 'agentTurn', message: 'm' } }],
    ['isolated cron jobs require', { sessionTarget: 'isolated' }],
    ['never comes', { schedule: { kind: 'cron', expr: '0 0 30 2 *' } }],
    ['schedule.expr: .*minute', { schedule: { kind: 'cron', expr: '61 * * * *' } }],
    [
      'schedule.tz: no timezone is called "Europe/Nowhere"',
      { schedule: { kind: 'cron', expr: '* * * * *', tz: 'Europe/Nowhere' } },
    ],
    ['no moment .*such as 2030-', { schedule: { kind: 'at', at: 'tomorrow' } }],
    ['is over', { schedule: { kind: 'at', at: '2026-03-28T11:58:59Z' } }],
  ])('is told why there can be no such job: %s', async (why, changes) => {
    const { schedules, store } = await open()
    await expect(schedules.add(word(changes))).rejects.toMatchObject({
      kind: 'INVALID_JOB',
      message: expect.stringMatching(new RegExp(why, 'i')),
    })
    await expect(schedules.add(word({ ...changes, enabled: false }))).rejects.toMatchObject({ kind: 'INVALID_JOB' })
    expect(await store.jobs()).toEqual([])
  })

  it('has at most a thousand jobs', async () => {
    const { schedules } = await open()
    await Promise.all(Array.from({ length: 1_000 }, () => schedules.add(word({ enabled: false }))))
    await expect(schedules.add(word())).rejects.toMatchObject({ kind: 'TOO_MANY_JOBS' })
  })
})

describe('a job whose agent is not there any more', () => {
  const gone: Partial<SchedulesNeeds> = {
    agents: { defaultId: 'main', mainKey: 'main', get: (id) => (id === 'main' ? ({ id } as never) : undefined) },
  }
  const there: Partial<SchedulesNeeds> = {
    agents: { defaultId: 'main', mainKey: 'main', get: (id) => ({ id }) as never },
  }

  it.each([
    ['that asks', turn({ agentId: 'gone', delivery: { mode: 'announce' }, wakeMode: 'now' })],
    ['that leaves word', word({ agentId: 'gone', wakeMode: 'now' })],
  ])('%s: is asked of no other agent, says why, and rests', async (_, job) => {
    const store = openMemoryStore()
    const before = await open(store, there)
    const { id } = await before.schedules.add(job)
    before.schedules.stop()
    const after = await open(store, gone, BEGIN + HOUR)
    await settled()
    expect(after.told()).toEqual(['started', 'finished error'])
    const [entry] = await after.schedules.entries({ jobId: id, limit: 9 })
    expect(entry).toMatchObject({ status: 'error', error: 'there is no agent "gone"' })
    expect(after.schedules.get(id)?.state).toMatchObject({ consecutiveErrors: 1, nextRunAtMs: BEGIN + 2 * HOUR })
    expect([after.rooms.order, await store.systemEvents(), after.urgent]).toEqual([[], [], []])
    // Word of it is heard by those who hear that agent, and by nobody else.
    const narrow = listening({ sessions: ['agent:main:*'] })
    after.rooms.hub.join(narrow)
    await after.pass(HOUR)
    expect(after.told()).toHaveLength(4)
    expect(narrow.heard).toEqual([])
  })

  it('goes on when it is there again', async () => {
    const store = openMemoryStore()
    const before = await open(store, there)
    const { id } = await before.schedules.add(word({ agentId: 'gone' }))
    before.schedules.stop()
    const without = await open(store, gone, BEGIN + HOUR)
    await settled()
    without.schedules.stop()
    const again = await open(store, there, BEGIN + 2 * HOUR)
    await settled()
    expect(again.schedules.get(id)?.state.lastStatus).toBe('ok')
    expect(await store.systemEvents()).toMatchObject([{ agentId: 'gone', sessionKey: 'agent:gone:main' }])
  })
})

describe('a disk that refuses', () => {
  it('a job has it refused, and there is none', async () => {
    const { schedules } = await open(
      storeWith(openMemoryStore(), { keepJob: () => Promise.reject(new StoreError('FULL', 'full')) }),
    )
    await expect(schedules.add(word())).rejects.toThrow('full')
    expect(schedules.list()).toEqual([])
  })

  it('a firing has it carried out when there is space again, and not before', async () => {
    const inner = openMemoryStore()
    let isFull = false
    const store = storeWith(inner, {
      keepJob: (step) => (isFull ? Promise.reject(new StoreError('FULL', 'full')) : inner.keepJob(step)),
    })
    const { schedules, rooms, pass, told } = await open(store)
    const { id } = await schedules.add(turn())
    isFull = true
    await pass(HOUR + 10 * SECOND)
    expect([told(), rooms.order]).toEqual([['added'], []])
    expect(schedules.get(id)?.state).toEqual({ nextRunAtMs: BEGIN + HOUR })
    isFull = false
    await pass(30 * SECOND)
    expect(told()).toEqual(['added', 'started'])
    expect(rooms.order).toEqual([runOf(id, BEGIN + HOUR)])
  })
})

describe('a disk that is full when a turn has ended', () => {
  it('has how it ended written down when there is space again, once, and the turn is not taken again', async () => {
    const inner = openMemoryStore()
    let isFull = false
    const store = storeWith(inner, {
      keepJob: (step) => (isFull ? Promise.reject(new StoreError('FULL', 'full')) : inner.keepJob(step)),
    })
    const { schedules, rooms, pass, told } = await open(store)
    const { id } = await schedules.add(turn())
    await pass(HOUR)
    const { finish } = await rooms.asked(runOf(id, BEGIN + HOUR))
    isFull = true
    finish()
    await pass(10 * SECOND)
    expect(told()).toEqual(['added', 'started'])
    expect(schedules.run(id, true)).toEqual({ ran: false, reason: 'already-running' })
    isFull = false
    await pass(30 * SECOND)
    expect(told()).toEqual(['added', 'started', 'finished ok'])
    expect(rooms.order).toEqual([runOf(id, BEGIN + HOUR)])
    expect(await inner.openFirings()).toEqual([])
  })
})

describe('the next process', () => {
  it('carries out what was missed once, however often it was due', async () => {
    const store = openMemoryStore()
    const before = await open(store)
    const { id } = await before.schedules.add(word())
    before.schedules.stop()
    const after = await open(store, {}, BEGIN + 50 * HOUR + MINUTE)
    await settled()
    expect(await store.systemEvents()).toHaveLength(1)
    expect(after.schedules.get(id)?.state.nextRunAtMs).toBe(BEGIN + 51 * HOUR)
    await after.pass(HOUR)
    expect(await store.systemEvents()).toHaveLength(2)
  })

  it('has a thousand jobs to carry out that were missed, a few of them at once', async () => {
    const store = openMemoryStore()
    const before = await open(store)
    const jobs = await Promise.all(
      Array.from({ length: 1_000 }, () => before.schedules.add(turn({ delivery: { mode: 'none' } }))),
    )
    before.schedules.stop()
    let [underWay, most] = [0, 0]
    const carried: string[] = []
    const after = await open(
      store,
      {
        turns: {
          async admit({ key }) {
            most = Math.max(most, ++underWay)
            carried.push(key)
            await settled(1)
            underWay -= 1
            throw new GatewayError('INVALID_PARAMS', 'refused')
          },
          startAnew: async () => () => {},
        },
      },
      BEGIN + 5 * HOUR,
    )
    await vi.waitFor(() => expect(carried).toHaveLength(1_000), { timeout: 20_000 })
    await settled()
    expect(most).toBe(4)
    expect(carried.toSorted()).toEqual(jobs.map(({ id }) => runOf(id, BEGIN + HOUR)).toSorted())
    expect(after.schedules.list().every(({ state }) => state.nextRunAtMs === BEGIN + 6 * HOUR)).toBe(true)
  })

  it('has others carried out beside a job whose time zone is not known here, and that one too once it is mended', async () => {
    const store = openMemoryStore()
    const schedule = { kind: 'cron', expr: '0 * * * *', tz: 'Nowhere/Such' } as const
    await store.keepJob({ job: cronJob('lost', { schedule, state: { nextRunAtMs: BEGIN + HOUR } }) })
    await store.keepJob({ job: cronJob('sound', { state: { nextRunAtMs: BEGIN + HOUR } }) })
    const { schedules, pass } = await open(store)
    await pass(HOUR)
    expect((await schedules.entries({ limit: 9 })).map(({ jobId }) => jobId)).toEqual(['sound'])
    await schedules.update('lost', { schedule: { ...schedule, tz: 'UTC' } })
    await pass(HOUR)
    expect((await schedules.entries({ jobId: 'lost', limit: 9 })).map(({ status }) => status)).toEqual(['ok'])
  })

  it('takes up a job of which only half of a firing is there', async () => {
    const store = openMemoryStore()
    const { nextRunAtMs: _, ...state } = cronJob('half').state
    await store.keepJob({ job: cronJob('half', { state: { ...state, runningAtMs: BEGIN } }) })
    const { schedules, pass } = await open(store, {}, BEGIN + MINUTE)
    await pass(HOUR)
    expect(schedules.get('half')?.state).toMatchObject({ lastStatus: 'ok' })
  })

  it('has a turn taken that was written down and not asked for, and not a second time', async () => {
    const store = openMemoryStore()
    const before = await open(store, { turns: { admit: () => new Promise(() => {}), startAnew: async () => () => {} } })
    const { id } = await before.schedules.add(turn())
    await before.pass(HOUR)
    expect(await store.unsettled()).toEqual([])
    before.schedules.stop()
    const after = await open(store, {}, BEGIN + HOUR + SECOND)
    const runId = runOf(id, BEGIN + HOUR)
    ;(await after.rooms.asked(runId)).finish()
    await settled()
    expect(after.told()).toEqual(['finished ok'])
    expect(after.rooms.order).toEqual([runId])
    expect(await after.schedules.entries({ jobId: id, limit: 9 })).toHaveLength(1)
    expect(await store.openFirings()).toEqual([])
  })

  it('writes down how a turn ended that ended without that', async () => {
    const store = openMemoryStore()
    let isCut = false
    const before = await open(
      storeWith(store, { keepJob: (step) => (isCut ? new Promise(() => {}) : store.keepJob(step)) }),
    )
    const { id } = await before.schedules.add(turn())
    await before.pass(HOUR)
    isCut = true
    const { sink, finish } = await before.rooms.asked(runOf(id, BEGIN + HOUR))
    sink.delta('done')
    finish()
    await settled()
    before.schedules.stop()
    expect(await store.openFirings()).toHaveLength(1)
    const after = await open(store, {}, BEGIN + HOUR + MINUTE)
    await settled()
    expect(after.rooms.order).toEqual([])
    expect(await after.schedules.entries({ jobId: id, limit: 9 })).toMatchObject([{ status: 'ok', summary: 'done' }])
  })

  it('says of a turn that was under way when the process died that it was cut off', async () => {
    const store = openMemoryStore()
    const before = await open(store)
    const { id } = await before.schedules.add(turn())
    await before.pass(HOUR)
    await before.rooms.asked(runOf(id, BEGIN + HOUR))
    before.schedules.stop()
    before.rooms.runs.dropAll()
    const after = await open(store, {}, BEGIN + HOUR + MINUTE)
    await settled()
    const [entry] = await after.schedules.entries({ jobId: id, limit: 9 })
    expect(entry).toMatchObject({ status: 'error', error: expect.stringContaining('stopped while this run was') })
    expect(after.rooms.order).toEqual([])
  })

  it('forgets a job that had had its only time', async () => {
    const store = openMemoryStore()
    const before = await open(storeWith(store, { removeJob: () => new Promise(() => {}) }))
    await before.schedules.add(word({ schedule: { kind: 'at', at: new Date(BEGIN + SECOND).toISOString() } }))
    await before.pass(MINUTE)
    expect(await store.jobs()).toHaveLength(1)
    before.schedules.stop()
    await open(store, {}, BEGIN + HOUR)
    expect(await store.jobs()).toEqual([])
  })
})

describe('whoever sets the clock', () => {
  it('ahead has what was due meanwhile carried out once', async () => {
    const { schedules, pass, set, store } = await open()
    await schedules.add(word())
    set(BEGIN + 30 * HOUR)
    await pass(MINUTE)
    expect(await store.systemEvents()).toHaveLength(1)
  })

  it('back does not keep a job waiting for the time that has been', async () => {
    const { schedules, pass, set, store } = await open()
    const { id } = await schedules.add(word())
    set(BEGIN + 1_000 * HOUR)
    await pass(MINUTE)
    set(BEGIN)
    await pass(2 * MINUTE)
    expect(schedules.get(id)?.state.nextRunAtMs).toBe(BEGIN + HOUR)
    // For that time it has been carried out.
    await pass(HOUR)
    expect(await store.systemEvents()).toHaveLength(1)
    await pass(HOUR)
    expect(await store.systemEvents()).toHaveLength(2)
  })

  it('back to a time at which a job was carried out does not have it carried out for that time again', async () => {
    const { schedules, pass, set, now } = await open()
    const { id } = await schedules.add(word())
    await pass(3 * HOUR)
    set(now() - 2 * HOUR - MINUTE)
    await pass(2 * HOUR + 2 * MINUTE)
    const due = (await schedules.entries({ jobId: id, limit: 99 })).map(({ runAtMs }) => runAtMs)
    expect(due.filter((at) => at === BEGIN + 2 * HOUR)).toHaveLength(1)
  })
})

it('a gateway whose jobs are off carries out only what somebody wants now', async () => {
  const { schedules, pass, told } = await open(openMemoryStore(), { isOn: false })
  const { id } = await schedules.add(word())
  expect(schedules.nextAt).toBeUndefined()
  await pass(2 * HOUR)
  expect(told()).toEqual(['added'])
  const wish = schedules.run(id, true)
  if (wish.ran) await wish.ended
  expect(told()).toEqual(['added', 'started', 'finished ok'])
})

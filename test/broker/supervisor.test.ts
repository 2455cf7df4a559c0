import { describe, expect, it, vi } from 'vitest'
import { type Admission, createSupervisor, type SupervisorNeeds } from '../../src/broker/supervisor.ts'
import { openMemoryStore } from '../../src/stores/memory.ts'
import { type Store, StoreError } from '../../src/stores/store.ts'
import { quiet, storeWith } from '../support/rooms.ts'
import { turn } from '../support/turn.ts'

const open = (store: Store = openMemoryStore(), more: Partial<SupervisorNeeds> = {}) =>
  createSupervisor({
    store,
    log: quiet,
    isFull: () => false,
    restartSession() {},
    onCrash() {},
    monotonic: () => performance.now(),
    random: () => 0,
    ...more,
  })

const recordOf = (admission: Admission) => {
  if (admission.kind !== 'new') throw new Error(`expected a new run, got ${admission.kind}`)
  return admission.record
}

/** A store that keeps a turn only when it is let. */
function slowStore(store = openMemoryStore()) {
  const gate = Promise.withResolvers<void>()
  const accept = vi.fn(async (asked: Parameters<Store['accept']>[0]) => {
    await gate.promise
    return store.accept(asked)
  })
  return { store: storeWith(store, { accept }), accept, letGo: gate.resolve, fail: gate.reject }
}

describe('admission', () => {
  it('admits one of a thousand copies that come at once, and tells the others of the same run', async () => {
    const { store, accept, letGo } = slowStore()
    const supervisor = open(store)
    const copies = Array.from({ length: 1000 }, () => supervisor.admit(turn('a')))
    letGo()
    const kinds = (await Promise.all(copies)).map((admission) =>
      admission.kind === 'new' ? `new ${admission.record.runId}` : `${admission.kind} ${admission.runId}`,
    )
    expect(kinds).toEqual(['new run-a', ...Array.from({ length: 999 }, () => 'running run-a')])
    expect(accept).toHaveBeenCalledOnce()
  })

  it('keeps the same key apart by principal, method and session', async () => {
    const supervisor = open()
    await supervisor.admit(turn('a'))
    for (const other of [
      { principal: 'device-2' },
      { method: 'agent' },
      { sessionKey: 'agent:main:other', sessionId: 'transcript-2' },
    ])
      expect(await supervisor.admit(turn('a', { ...other, spareRunId: JSON.stringify(other) }))).toMatchObject({
        kind: 'new',
      })
  })

  it('refuses another body under a live key, and leaves the first run as it is', async () => {
    const supervisor = open()
    await supervisor.admit(turn('a'))
    await expect(supervisor.admit(turn('a', { fingerprint: 'f2' }))).rejects.toMatchObject({
      kind: 'IDEMPOTENCY_KEY_REUSED',
    })
    expect(await supervisor.admit(turn('a'))).toMatchObject({ kind: 'running', runId: 'run-a' })
  })

  it('answers a right copy that comes with a wrong one for a run that only the store remembers', async () => {
    const store = openMemoryStore()
    await open(store).admit(turn('a'))
    const supervisor = open(store)
    const wrong = supervisor.admit(turn('a', { fingerprint: 'f2' }))
    const right = supervisor.admit(turn('a'))
    await expect(wrong).rejects.toMatchObject({ kind: 'IDEMPOTENCY_KEY_REUSED' })
    expect(await right).toMatchObject({ kind: 'running', runId: 'run-a' })
  })

  it('fails every copy the same way when the disk refuses, and takes the key again afterwards', async () => {
    const { store, fail } = slowStore()
    const supervisor = open(store)
    const copies = [supervisor.admit(turn('a')), supervisor.admit(turn('a'))]
    fail(new StoreError('FULL', 'no space'))
    for (const copy of copies) await expect(copy).rejects.toMatchObject({ code: 'FULL' })
    vi.spyOn(store, 'accept').mockResolvedValue({ kind: 'accepted', runId: 'run-a', sessionId: 's', settings: {} })
    expect(await supervisor.admit(turn('a', { fingerprint: 'f2' }))).toMatchObject({ kind: 'new' })
  })

  it('does not count a body that the disk refused as the first use of its key', async () => {
    const kept = openMemoryStore()
    let tries = 0
    const supervisor = open(
      storeWith(kept, {
        accept: async (asked) => {
          tries += 1
          if (tries === 1) throw new StoreError('FULL', 'no space')
          return kept.accept(asked)
        },
      }),
    )
    const first = supervisor.admit(turn('a'))
    const other = supervisor.admit(turn('a', { fingerprint: 'f2' }))
    await expect(first).rejects.toMatchObject({ code: 'FULL' })
    expect(await other).toMatchObject({ kind: 'new' })
  })

  it('leaves the key unused when there is no room', async () => {
    let full = true
    const supervisor = open(openMemoryStore(), { isFull: () => full })
    await expect(supervisor.admit(turn('a'))).rejects.toMatchObject({
      kind: 'SESSION_BUSY',
      retryAfterMs: expect.any(Number),
    })
    full = false
    expect(await supervisor.admit(turn('a', { fingerprint: 'f2' }))).toMatchObject({ kind: 'new' })
  })

  it('has a share of bytes for the unfinished turns of each principal, and gives them back as they end', async () => {
    const MIB = 1024 * 1024
    const supervisor = open()
    /** A turn of ten MiB in a session of its own. */
    const large = (name: string, changes: Parameters<typeof turn>[1] = {}) =>
      supervisor.admit(
        turn(name, {
          ...{ sessionKey: `agent:main:${name}`, sessionId: name, message: 'x'.repeat(3 * MIB) },
          meta: { context: 'y'.repeat(3 * MIB) },
          attachments: [{ sha256: name, mimeType: 'image/png', bytes: new Uint8Array(4 * MIB) }],
          ...changes,
        }),
      )
    const records = []
    for (const name of ['a', 'b', 'c', 'd', 'e', 'f']) records.push(recordOf(await large(name)))
    const over = { kind: 'TURNS_TOO_LARGE', retryAfterMs: expect.any(Number) }
    await expect(large('g')).rejects.toMatchObject(over)
    expect(await large('a')).toMatchObject({ kind: 'running' })
    await expect(large('a', { fingerprint: 'f2' })).rejects.toMatchObject({ kind: 'IDEMPOTENCY_KEY_REUSED' })
    expect(await large('h', { principal: 'device-2' })).toMatchObject({ kind: 'new' })
    supervisor.ended(records[0]!, { state: 'completed' })
    supervisor.ended(records[0]!, { state: 'completed' })
    expect(await large('g')).toMatchObject({ kind: 'new' })
    await expect(large('i')).rejects.toMatchObject(over)
  })

  it('counts no bytes of a turn that could not be kept', async () => {
    const supervisor = open(
      storeWith(openMemoryStore(), { accept: () => Promise.reject(new StoreError('FULL', 'no space')) }),
    )
    for (let n = 0; n < 10; n++)
      await expect(supervisor.admit(turn(`${n}`, { message: 'x'.repeat(10 * 1024 * 1024) }))).rejects.toMatchObject({
        code: 'FULL',
      })
  })

  it('answers repeats that only the store remembers also without room, at rest, and while it drains', async () => {
    const store = openMemoryStore()
    await store.accept(turn('a'))
    await store.start('run-a', 1)
    await store.settle('run-a', { state: 'completed', endedAt: 2 })
    const full = open(store, { isFull: () => true })
    const draining = open(store)
    draining.drain()
    for (const supervisor of [full, draining]) {
      expect(await supervisor.admit(turn('a'))).toMatchObject({ kind: 'ended', state: 'completed' })
      await expect(supervisor.admit(turn('a', { fingerprint: 'f2' }))).rejects.toMatchObject({
        kind: 'IDEMPOTENCY_KEY_REUSED',
      })
      await expect(supervisor.admit(turn('a', { principal: 'another' }))).rejects.toThrow(/waiting|stopping/)
      await expect(supervisor.admit(turn('b'))).rejects.toThrow(/waiting|stopping/)
    }
  })

  it('counts every unfinished turn of a session for its room', async () => {
    const counts: number[] = []
    const supervisor = open(openMemoryStore(), {
      isFull: (_, unfinished) => {
        counts.push(unfinished)
        return false
      },
    })
    const record = recordOf(await supervisor.admit(turn('a')))
    await Promise.all([supervisor.admit(turn('b')), supervisor.admit(turn('c'))])
    supervisor.ended(record, { state: 'completed' })
    supervisor.ended(record, { state: 'completed' })
    await supervisor.admit(turn('d'))
    await supervisor.admit(turn('e', { sessionKey: 'agent:main:other', sessionId: 'transcript-2' }))
    expect(counts).toEqual([0, 1, 2, 2, 0])
  })

  it('answers repeats of an ended run with how it ended', async () => {
    const supervisor = open()
    const record = recordOf(await supervisor.admit(turn('a')))
    supervisor.ended(record, { state: 'failed', error: 'the model is gone' })
    expect(await supervisor.admit(turn('a'))).toEqual({
      kind: 'ended',
      runId: 'run-a',
      state: 'failed',
      error: 'the model is gone',
    })
  })

  it('knows the runs that a former process admitted', async () => {
    const record = recordOf(await open().admit(turn('a')))
    const supervisor = open()
    supervisor.restore(record)
    expect(await supervisor.admit(turn('a'))).toMatchObject({ kind: 'running', runId: 'run-a' })
    await expect(supervisor.admit(turn('a', { fingerprint: 'f2' }))).rejects.toMatchObject({
      kind: 'IDEMPOTENCY_KEY_REUSED',
    })
  })

  it('keeps ten thousand endings at hand and asks the store for older ones', async () => {
    const kept = openMemoryStore()
    const accept = vi.fn(kept.accept)
    const supervisor = open(storeWith(kept, { accept }))
    const ended = async (name: string) => {
      const record = recordOf(await supervisor.admit(turn(name)))
      await kept.settle(record.runId, { state: 'completed', endedAt: 1 })
      supervisor.ended(record, { state: 'completed' })
    }
    for (let n = 0; n <= 10_000; n++) await ended(`${n}`)
    accept.mockClear()
    expect(await supervisor.admit(turn('10000'))).toMatchObject({ kind: 'ended' })
    expect(accept).not.toHaveBeenCalled()
    expect(await supervisor.admit(turn('0'))).toMatchObject({ kind: 'ended', runId: 'run-0' })
    expect(accept).toHaveBeenCalledOnce()
  })

  it('takes nothing new while it drains, but still answers live keys', async () => {
    const supervisor = open()
    await supervisor.admit(turn('a'))
    supervisor.drain()
    await expect(supervisor.admit(turn('b'))).rejects.toMatchObject({ kind: 'DRAINING' })
    await expect(supervisor.admit(turn('a', { fingerprint: 'f2' }))).rejects.toMatchObject({
      kind: 'IDEMPOTENCY_KEY_REUSED',
    })
    expect(await supervisor.admit(turn('a'))).toMatchObject({ kind: 'running' })
  })

  it('takes no names that objects inherit for keys it knows', async () => {
    const supervisor = open()
    for (const key of ['__proto__', 'constructor', 'toString', 'hasOwnProperty'])
      expect(await supervisor.admit(turn(key, { key, sessionKey: `agent:main:${key}`, sessionId: key }))).toMatchObject(
        {
          kind: 'new',
        },
      )
  })
})

describe('crashed sessions', () => {
  const policy = { restarts: 5, windowMs: 30_000, backoffMs: 100, restMs: 60_000 }

  it('are begun again after a wait that doubles, five times', () => {
    vi.useFakeTimers()
    try {
      const restartSession = vi.fn()
      const supervisor = open(openMemoryStore(), { restartSession, policy, monotonic: () => Date.now() })
      for (const [count, wait] of [100, 200, 400, 800, 1600].entries()) {
        supervisor.crashed('agent:main:main')
        vi.advanceTimersByTime(wait - 1)
        expect(restartSession).toHaveBeenCalledTimes(count)
        vi.advanceTimersByTime(1)
        expect(restartSession).toHaveBeenCalledTimes(count + 1)
      }
    } finally {
      vi.useRealTimers()
    }
  })

  it('rest after the fifth restart: their turns are refused for a minute, those of others are not', async () => {
    vi.useFakeTimers()
    try {
      const restartSession = vi.fn()
      const supervisor = open(openMemoryStore(), { restartSession, policy, monotonic: () => Date.now() })
      for (let crash = 0; crash < 6; crash++) {
        supervisor.crashed('agent:main:main')
        vi.advanceTimersByTime(3_000)
      }
      expect(restartSession).toHaveBeenCalledTimes(5)
      await expect(supervisor.admit(turn('a'))).rejects.toMatchObject({
        kind: 'SESSION_QUARANTINED',
        retryAfterMs: 60_000,
      })
      const neighbour = turn('b', { sessionKey: 'agent:main:other', sessionId: 'transcript-2' })
      expect(await supervisor.admit(neighbour)).toMatchObject({ kind: 'new' })
      vi.advanceTimersByTime(60_000)
      expect(restartSession).toHaveBeenCalledTimes(6)
      expect(await supervisor.admit(turn('a'))).toMatchObject({ kind: 'new' })
    } finally {
      vi.useRealTimers()
    }
  })

  it('are forgiven crashes that are longer ago than the window', () => {
    vi.useFakeTimers()
    try {
      const restartSession = vi.fn()
      const supervisor = open(openMemoryStore(), { restartSession, policy, monotonic: () => Date.now() })
      for (let crash = 0; crash < 20; crash++) {
        supervisor.crashed('agent:main:main')
        vi.advanceTimersByTime(10_000)
      }
      expect(restartSession).toHaveBeenCalledTimes(20)
    } finally {
      vi.useRealTimers()
    }
  })
})

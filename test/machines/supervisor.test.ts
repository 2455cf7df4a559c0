/** What is admitted, in which order it is refused, and how crashes are answered. */
import { describe, expect, test } from 'vitest'
import { supervisorMachine } from '../../machines/supervisor.ts'
import { POLICY, TICKETS } from './plans.ts'
import { rig } from './rig.ts'

function start() {
  let now = 0
  let restartedAt: number[] = []
  const bench = rig(supervisorMachine, {
    input: POLICY,
    guards: TICKETS,
    onEffect: (name) => name === 'restart' && restartedAt.push(now),
  })
  return {
    bench,
    wait(ms: number) {
      // In small steps, since the clock fires what is set on the way only at the end of a step.
      for (const end = now + ms; now < end; ) {
        now += 10
        bench.wait(10)
      }
    },
    crash: (id = 's', jitter = 0) => bench.send({ type: 'crashed', id, at: now, jitter }),
    admit(ticket: string, sessionKey = 'other') {
      bench.send({ type: 'admit', ticket, sessionKey })
      return bench.effects().at(-1)
    },
    /** How long after this moment the session was begun again. */
    restarts(from: number) {
      const after = restartedAt.map((at) => at - from)
      restartedAt = []
      return after
    },
    get now() {
      return now
    },
  }
}

/** Brings a session to rest: one crash more than the policy allows, each after its restart. */
function tire(supervisor: ReturnType<typeof start>, id = 's'): void {
  for (let n = 0; n < POLICY.restarts; n += 1) {
    supervisor.crash(id)
    supervisor.wait(POLICY.backoffMs * 2 ** n)
  }
  supervisor.crash(id)
}

describe('admission', () => {
  test('refuses a key that was used for something else before it looks at anything else', () => {
    const supervisor = start()
    tire(supervisor)
    expect(supervisor.admit('reused live full', 's')).toBe('refuseReused')
  })

  test('answers a copy of a live request even while its session rests and is full', () => {
    const supervisor = start()
    tire(supervisor)
    expect(supervisor.admit('live full', 's')).toBe('attach')
  })

  test('says that a session rests before it says that it is full', () => {
    const supervisor = start()
    tire(supervisor)
    expect(supervisor.admit('full', 's')).toBe('refuseResting')
    expect(supervisor.admit('full')).toBe('refuseBusy')
    expect(supervisor.admit('new')).toBe('journal')
  })

  test('answers copies and refuses misuse while it drains, and takes nothing new', () => {
    const supervisor = start()
    supervisor.bench.send({ type: 'drain' })
    expect(supervisor.admit('live')).toBe('attach')
    expect(supervisor.admit('reused live')).toBe('refuseReused')
    expect(supervisor.admit('new')).toBe('refuseDraining')
    expect(supervisor.admit('full')).toBe('refuseDraining')
  })
})

describe('a session that crashes', () => {
  test('is begun again after a time that doubles with each crash', () => {
    const supervisor = start()
    for (const expected of [100, 200, 400, 800, 1_600]) {
      const crashedAt = supervisor.now
      supervisor.crash()
      supervisor.wait(2_000)
      expect(supervisor.restarts(crashedAt)).toEqual([expected])
    }
  })

  test('waits a random while longer, so that sessions do not come back in step', () => {
    const supervisor = start()
    supervisor.crash('s', 50)
    supervisor.wait(1_000)
    expect(supervisor.restarts(0)).toEqual([150])
  })

  test('rests after five restarts in 30 s, and is begun again when it has rested', () => {
    const supervisor = start()
    tire(supervisor)
    expect(supervisor.bench.effects().filter((name) => name === 'restart')).toHaveLength(5)
    expect(supervisor.bench.effects().at(-1)).toBe('quarantine')
    const restsSince = supervisor.now
    supervisor.restarts(0)
    supervisor.wait(POLICY.restMs - 10)
    expect(supervisor.admit('new', 's')).toBe('refuseResting')
    supervisor.wait(10)
    expect(supervisor.restarts(restsSince)).toEqual([POLICY.restMs])
    expect(supervisor.admit('new', 's')).toBe('journal')
  })

  test('starts afresh after its rest: the next crash counts as the first', () => {
    const supervisor = start()
    tire(supervisor)
    supervisor.wait(POLICY.restMs)
    supervisor.restarts(0)
    const crashedAt = supervisor.now
    supervisor.crash()
    supervisor.wait(1_000)
    expect(supervisor.restarts(crashedAt)).toEqual([100])
  })

  test('is not begun again during its rest by a restart that was promised before', () => {
    const supervisor = start()
    for (let n = 0; n <= POLICY.restarts; n += 1) supervisor.crash()
    supervisor.wait(POLICY.restMs - 10)
    expect(supervisor.restarts(0)).toEqual([])
  })

  test('is forgiven what was longer than 30 s ago', () => {
    const supervisor = start()
    for (let n = 0; n < 12; n += 1) {
      supervisor.crash()
      supervisor.wait(POLICY.windowMs)
    }
    expect(supervisor.bench.effects()).not.toContain('quarantine')
  })

  test('leaves its neighbours alone', () => {
    const supervisor = start()
    tire(supervisor, 's')
    expect(supervisor.admit('new', 'neighbour')).toBe('journal')
    const crashedAt = supervisor.now
    supervisor.restarts(0)
    supervisor.crash('neighbour')
    supervisor.wait(1_000)
    expect(supervisor.restarts(crashedAt)).toEqual([100])
  })

  test('is begun again when the gateway drains, so that its runs can end', () => {
    const supervisor = start()
    supervisor.crash()
    supervisor.bench.send({ type: 'drain' })
    supervisor.wait(10_000)
    expect(supervisor.bench.effects()).toEqual(['restart'])
  })
})

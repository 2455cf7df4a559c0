import { describe, expect, it } from 'vitest'
import { createHealth } from '../../src/broker/health.ts'
import { openMemoryStore } from '../../src/stores/memory.ts'
import { settled } from '../support/rooms.ts'

const AGENTS = {
  defaultId: 'main',
  mainKey: 'main',
  resolve: (name: string) => name,
  ids: () => ['main'],
  get: () => undefined,
}

describe('how the gateway is', () => {
  /** A store whose looks at all sessions wait for a test, and how many there were. */
  function open() {
    const store = openMemoryStore()
    const looks: (() => void)[] = []
    const health = createHealth({
      agents: { ...AGENTS, ids: () => ['main', 'other'] },
      heartbeats: { isOn: true, words: async () => [] },
      store: {
        async overview(recent) {
          await new Promise<void>((resolve) => looks.push(resolve))
          return store.overview(recent)
        },
      },
      path: '/sessions',
      now: () => 10,
      modelOf: () => undefined,
      problem: () => undefined,
    })
    return { store, health, looks }
  }

  it('is looked at once at a time, and once more for all who asked meanwhile, who see what was kept before', async () => {
    const { store, health, looks } = open()
    const first = health.status()
    const others = [...Array.from({ length: 50 }, () => health.status()), health.refresh()]
    await settled()
    expect(looks).toHaveLength(1)
    looks[0]!()
    await first
    await store.patchSession({ key: 'agent:main:a', agentId: 'main', sessionId: 't' }, {}, 1)
    await settled()
    expect(looks).toHaveLength(2)
    looks[1]!()
    for (const answer of await Promise.all(others)) expect(answer).toMatchObject({ sessions: { count: 1 } })
    expect(looks).toHaveLength(2)
  })

  it('is looked at again after a look that failed', async () => {
    let isWell = false
    const health = createHealth({
      agents: AGENTS,
      heartbeats: { isOn: true, words: async () => [] },
      store: { overview: async () => (isWell ? [] : Promise.reject(new Error('no disk'))) },
      path: '/sessions',
      now: () => 10,
      modelOf: () => undefined,
      problem: () => undefined,
    })
    const failed = await Promise.allSettled([health.status(), health.status()])
    expect(failed.map(({ status }) => status)).toEqual(['rejected', 'rejected'])
    isWell = true
    expect(await health.status()).toMatchObject({ sessions: { count: 0 } })
  })
})

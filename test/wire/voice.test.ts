/** What clients that listen and speak tell each other. */
import { describe, expect, it } from 'vitest'
import { openWakeWords } from '../../src/broker/wake-words.ts'
import { openMemoryStore } from '../../src/stores/memory.ts'
import { startGateway } from '../support/gateway.ts'
import { connectAsNode } from '../support/node.ts'

describe('the words that wake a client', () => {
  it('are told to a node when it comes, and to everybody when they change', async () => {
    await using gateway = await startGateway()
    const operator = await gateway.connect()
    const node = await connectAsNode(gateway)
    const changed = ({ event }: { event?: string }) => event === 'voicewake.changed'
    const first = (await operator.request('voicewake.get'))['payload']
    expect(first.triggers.length).toBeGreaterThan(0)
    expect((await node.next(changed))['payload']).toEqual(first)
    const answer = await operator.request('voicewake.set', { triggers: [' hey ', '', 'gateway'] })
    expect(answer['payload']).toEqual({ triggers: ['hey', 'gateway'] })
    for (const peer of [operator, node])
      expect((await peer.next(changed))['payload']).toEqual({ triggers: ['hey', 'gateway'] })
    expect((await operator.request('voicewake.get'))['payload']).toEqual({ triggers: ['hey', 'gateway'] })
    // Nobody else heard of it when the node came.
    expect(operator.frames.filter(changed)).toHaveLength(1)
    const tooMany = { triggers: Array.from({ length: 33 }, (_, n) => `word ${n}`) }
    expect((await operator.request('voicewake.set', tooMany))['error'].details.code).toBe('INVALID_PARAMS')
  })

  it('outlive the process, and are the first ones again when none is left', async () => {
    const store = openMemoryStore()
    const words = await openWakeWords(store)
    const first = words.current()
    await words.replace(['hey'])
    const later = await openWakeWords(store)
    expect(later.current()).toEqual(['hey'])
    expect(await later.replace([' '])).toEqual(first)
  })
})

describe('the mode of talking', () => {
  it('is told to everybody, also to nodes', async () => {
    await using gateway = await startGateway()
    const operator = await gateway.connect({ scopes: ['operator.write'] })
    const node = await connectAsNode(gateway)
    const { payload } = await operator.request('talk.mode', { enabled: true })
    expect(payload).toEqual({ enabled: true, phase: null, ts: expect.any(Number) })
    for (const peer of [operator, node])
      expect((await peer.next(({ event }) => event === 'talk.mode'))['payload']).toEqual(payload)
  })
})

import { describe, expect, it, vi } from 'vitest'
import { assign, setup } from 'xstate'
import { createHost } from '../../src/broker/host.ts'

const counter = setup({
  types: {} as {
    input: { from: number }
    context: { count: number }
    events: { type: 'add' } | { type: 'throw' } | { type: 'end' }
  },
  actions: {
    fail: () => {
      throw new Error('an effect failed')
    },
  },
}).createMachine({
  id: 'counter',
  context: ({ input }) => ({ count: input.from }),
  initial: 'counting',
  states: {
    counting: {
      on: {
        add: { actions: assign({ count: ({ context }) => context.count + 1 }) },
        throw: { actions: 'fail' },
        end: 'over',
      },
    },
    over: { type: 'final' },
  },
})

const open = () => {
  const done: [string, number][] = []
  const crashed: string[] = []
  const host = createHost({
    machine: counter,
    onDone: (id, snapshot) => void done.push([id, snapshot.context.count]),
    onCrash: (id) => void crashed.push(id),
  })
  return { host, done, crashed }
}

const mailbox = () => new Promise((resolve) => setImmediate(resolve))

describe('a host', () => {
  it('handles what an actor is told in order, and never before the teller is done', async () => {
    const { host, done } = open()
    host.open('a', { from: 0 })
    for (let n = 0; n < 5; n++) host.tell('a', { type: 'add' })
    host.tell('a', { type: 'end' })
    expect(host.get('a')?.getSnapshot().context.count).toBe(0)
    await mailbox()
    expect(done).toEqual([['a', 5]])
    expect(host.size).toBe(0)
  })

  it('says when there is nobody to tell', () => {
    expect(open().host.tell('nobody', { type: 'add' })).toBe(false)
  })

  it('does not make two actors of one id', () => {
    const { host } = open()
    host.open('a', { from: 0 })
    expect(() => host.open('a', { from: 0 })).toThrow('lives already')
  })

  it('forgets an actor that threw, and lets its neighbours live', async () => {
    const { host, crashed, done } = open()
    host.open('a', { from: 0 })
    host.open('b', { from: 0 })
    host.tell('a', { type: 'throw' })
    host.tell('b', { type: 'add' })
    await mailbox()
    expect(crashed).toEqual(['a'])
    expect(host.ids()).toEqual(['b'])
    host.open('a', { from: 7 })
    host.tell('a', { type: 'end' })
    host.tell('b', { type: 'end' })
    await mailbox()
    expect(done).toEqual([
      ['a', 7],
      ['b', 1],
    ])
  })

  it('says of a dropped actor neither that it is done nor that it crashed', async () => {
    const { host, crashed, done } = open()
    host.open('a', { from: 0 })
    host.tell('a', { type: 'end' })
    host.drop('a')
    const warn = vi.spyOn(console, 'warn').mockImplementation(() => {})
    await mailbox()
    warn.mockRestore()
    expect([crashed, done, host.size]).toEqual([[], [], 0])
  })

  it('takes no names that objects inherit for actors', () => {
    const { host } = open()
    for (const id of ['__proto__', 'constructor', 'toString']) {
      expect(host.get(id)).toBeUndefined()
      host.open(id, { from: 1 })
      expect(host.get(id)?.getSnapshot().context.count).toBe(1)
    }
  })
})

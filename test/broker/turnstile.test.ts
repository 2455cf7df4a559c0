import { describe, expect, it } from 'vitest'
import { createTurnstile } from '../../src/broker/turnstile.ts'
import type { RequestFrame } from '../../src/contract/frames.ts'

const MIB = 1024 * 1024

/** A turnstile before a socket that a test plays. */
function open() {
  const started: string[] = []
  const done = new Map<string, () => void>()
  const said: string[] = []
  let drained = () => {}
  const wire = {
    bytesWaiting: 0,
    pause: () => void said.push('pause'),
    resume: () => void said.push('resume'),
    onDrained(callback: () => void) {
      drained = callback
    },
  }
  const letIn = createTurnstile(wire, ({ id }, finished) => {
    started.push(id)
    done.set(id, finished)
  })
  let sent = 0
  return {
    wire,
    said,
    started,
    come(count: number) {
      for (let n = 0; n < count; n++)
        letIn({ type: 'req', id: `${sent++}`, method: 'health', params: undefined } as RequestFrame)
    },
    finish: (id: string) => done.get(id)!(),
    drain() {
      wire.bytesWaiting = 0
      drained()
    },
  }
}

describe('a turnstile', () => {
  it('lets a bounded number in at a time, and the next when one is done, in the order they came', () => {
    const { come, started, finish } = open()
    come(40)
    expect(started).toEqual(Array.from({ length: 32 }, (_, n) => `${n}`))
    finish('7')
    expect(started.slice(32)).toEqual(['32'])
    finish('0')
    finish('32')
    expect(started.slice(32)).toEqual(['32', '33', '34'])
  })

  it('lets nobody in while the answers are not being read, and goes on once they are', () => {
    const { wire, come, started, finish, drain } = open()
    come(2)
    wire.bytesWaiting = 8 * MIB
    come(3)
    finish('0')
    finish('1')
    expect(started).toEqual(['0', '1'])
    drain()
    expect(started).toEqual(['0', '1', '2', '3', '4'])
  })

  it('reads the socket no further while many wait, and says so once each way', () => {
    const { come, said, started, finish } = open()
    come(32 + 63)
    expect(said).toEqual([])
    come(20)
    expect(said).toEqual(['pause'])
    for (let n = 0; n < 19; n++) finish(`${n}`)
    expect(said).toEqual(['pause'])
    finish('19')
    finish('20')
    expect(said).toEqual(['pause', 'resume'])
    expect(started).toHaveLength(32 + 21)
  })

  it('goes on by itself when a request is done before it has returned', () => {
    let count = 0
    const wire = { bytesWaiting: 0, pause() {}, resume() {}, onDrained() {} }
    const letIn = createTurnstile(wire, (_, finished) => {
      count += 1
      finished()
    })
    for (let n = 0; n < 1_000; n++) letIn({ type: 'req', id: `${n}`, method: 'health' } as RequestFrame)
    expect(count).toBe(1_000)
  })
})

import { describe, expect, it } from 'vitest'
import { createTurnstile } from '../../src/broker/turnstile.ts'
import type { RequestFrame } from '../../src/contract/frames.ts'

const MIB = 1024 * 1024

/** A turnstile before a socket that a test plays. A request of the method `large` may have a large answer. */
function open() {
  const started: string[] = []
  const under = new Map<string, { send(text: string): void; done(): void }>()
  const said: string[] = []
  let drained = () => {}
  const wire = {
    bytesWaiting: 0,
    send(text: string) {
      wire.bytesWaiting += text.length
    },
    pause: () => void said.push('pause'),
    resume: () => void said.push('resume'),
    onDrained(callback: () => void) {
      drained = callback
    },
  }
  const turnstile = createTurnstile({
    wire,
    isLarge: ({ method }) => method === 'large',
    start({ id }, send, done) {
      started.push(id)
      under.set(id, { send, done })
    },
  })
  let sent = 0
  return {
    wire,
    said,
    started,
    turnstile,
    come(count: number, { method = 'health', bytes = 100 } = {}) {
      for (let n = 0; n < count; n++)
        turnstile.come({ type: 'req', id: `${sent++}`, method, params: undefined } as RequestFrame, bytes)
    },
    finish: (id: string) => under.get(id)!.done(),
    answer(id: string, bytes: number) {
      under.get(id)!.send('x'.repeat(bytes))
      under.get(id)!.done()
    },
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
    const wire = { bytesWaiting: 0, send() {}, pause() {}, resume() {}, onDrained() {} }
    const turnstile = createTurnstile({
      wire,
      isLarge: () => true,
      start(_, __, done) {
        count += 1
        done()
      },
    })
    for (let n = 0; n < 1_000; n++) turnstile.come({ type: 'req', id: `${n}`, method: 'health' } as RequestFrame, 10)
    expect([count, turnstile.bytesTaken]).toEqual([1_000, 0])
  })
  it('has one request under way whose answer may be large, and what came after it waits its turn', () => {
    const { come, started, finish } = open()
    come(1, { method: 'large' })
    come(2)
    come(2, { method: 'large' })
    come(1)
    expect(started).toEqual(['0', '1', '2'])
    finish('1')
    expect(started).toEqual(['0', '1', '2'])
    finish('0')
    expect(started).toEqual(['0', '1', '2', '3'])
    finish('3')
    expect(started).toEqual(['0', '1', '2', '3', '4', '5'])
  })

  it('has no more under way than would fill what may be unread if each had the longest answer so far', () => {
    const { come, started, answer, drain } = open()
    come(1)
    answer('0', 3 * MIB)
    drain()
    come(5)
    expect(started).toEqual(['0', '1', '2', '3'])
    answer('1', 3 * MIB)
    answer('2', 3 * MIB)
    expect(started).toEqual(['0', '1', '2', '3'])
    drain()
    expect(started).toEqual(['0', '1', '2', '3', '4', '5'])
  })

  it('holds a bounded number of bytes: some under way, some that wait, and reads no further', () => {
    const { come, said, started, finish, turnstile } = open()
    come(1, { bytes: 7 * MIB })
    come(1, { bytes: 2 * MIB })
    expect([started, said]).toEqual([['0'], []])
    come(1, { bytes: 6 * MIB })
    expect([started, said, turnstile.bytesTaken]).toEqual([['0'], ['pause'], 15 * MIB])
    finish('0')
    expect([started, said, turnstile.bytesTaken]).toEqual([['0', '1', '2'], ['pause', 'resume'], 8 * MIB])
  })
})

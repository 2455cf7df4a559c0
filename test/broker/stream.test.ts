import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { createHub } from '../../src/broker/hub.ts'
import { createStream, LONGEST_WAIT_MS } from '../../src/broker/stream.ts'
import { CAPS } from '../../src/contract/connect.ts'
import { type Listening, listening, places } from '../support/rooms.ts'

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

function open() {
  const hub = createHub({ onSlow() {}, replay: places() })
  const whole = listening()
  const deltas = listening({ caps: new Set([CAPS.deltaOnly]) })
  const old = listening({ protocol: 3 })
  for (const peer of [whole, deltas, old]) hub.join(peer)
  const kept: string[] = []
  const onFirst = vi.fn()
  const failures = vi.fn()
  const stream = createStream({
    runId: 'k1',
    sessionKey: 'agent:main:main',
    agentId: 'main',
    verbose: 'off',
    hub,
    now: () => Date.now(),
    onFirst,
    keep: (text) => void kept.push(text),
    onFailure: failures,
  })
  const end = () =>
    stream.end({ state: 'completed', stopReason: 'stop' }, Date.now(), {
      role: 'assistant',
      content: [{ type: 'text', text: stream.text }],
      timestamp: Date.now(),
    })
  return { hub, stream, whole, deltas, old, kept, onFirst, failures, end }
}

const assistant = ({ heard }: Listening) =>
  heard
    .filter(({ event, payload }) => event === 'agent' && payload.stream === 'assistant')
    .map(({ payload }) => payload)
const chat = ({ heard }: Listening, state: string) =>
  heard.filter(({ event, payload }) => event === 'chat' && payload.state === state).map(({ payload }) => payload)

/** Pieces as providers send them: quotes, control characters, characters cut in two, nothing at all. */
const pieces = fc.array(
  fc.tuple(
    fc.oneof(
      fc.string({ unit: 'binary', maxLength: 8 }),
      fc.constantFrom('"', '\\', '\n', '\u0000', '\u2028', '\ud83d', '\ude00', '😀', '</script>', ''),
    ),
    fc.constantFrom(0, 1, 20, 60, 200),
  ),
  { maxLength: 40 },
)

describe('the text of a run', () => {
  it('is what the deltas come to, for those who hear only them and for those who hear the whole, and never shrinks', () => {
    fc.assert(
      fc.property(pieces, (given) => {
        const { stream, whole, deltas, old, end } = open()
        stream.open(Date.now())
        for (const [piece, wait] of given) {
          stream.delta(piece)
          vi.advanceTimersByTime(wait)
        }
        stream.close()
        end()
        const text = given.map(([piece]) => piece).join('')
        expect(stream.text).toBe(text)
        for (const peer of [whole, deltas, old]) {
          expect(
            assistant(peer)
              .map(({ data }) => data.delta)
              .join(''),
          ).toBe(text)
          expect(chat(peer, 'final')[0].message.content[0].text).toBe(text)
          const seqs = peer.heard.filter(({ event }) => event === 'agent').map(({ payload }) => payload.seq)
          expect(seqs).toEqual(seqs.map((_, index) => index + 1))
        }
        for (const peer of [whole, old]) {
          let before = ''
          for (const { data } of assistant(peer)) {
            expect(data.text).toBe(before + data.delta)
            before = data.text
          }
          expect(before).toBe(text)
        }
        expect(assistant(deltas).every(({ data }) => !('text' in data))).toBe(true)
        for (const peer of [whole, deltas])
          expect(
            chat(peer, 'delta')
              .map(({ deltaText }) => deltaText)
              .join(''),
          ).toBe(text)
        let before = ''
        for (const { message } of chat(old, 'delta')) {
          expect(message.content[0].text.startsWith(before)).toBe(true)
          before = message.content[0].text
        }
      }),
      { numRuns: 300 },
    )
  })

  it('is as long as the longest wait away at most, however much there is of it', () => {
    const { stream, whole } = open()
    stream.open(Date.now())
    stream.delta('a'.repeat(1_000_000))
    for (let n = 0; n < 20; n++) {
      const before = assistant(whole).length
      stream.delta('b')
      vi.advanceTimersByTime(10)
      stream.delta('c')
      vi.advanceTimersByTime(LONGEST_WAIT_MS - 10)
      expect(assistant(whole).length).toBeGreaterThan(before)
    }
  })

  it('leaves with its first piece at once, and says so once', () => {
    const { stream, whole, onFirst } = open()
    stream.open(Date.now())
    stream.delta('a')
    expect(assistant(whole)).toHaveLength(1)
    stream.delta('b')
    vi.advanceTimersByTime(100)
    expect(onFirst).toHaveBeenCalledOnce()
  })

  it('leaves in one event when many pieces come in one moment', () => {
    const { stream, whole } = open()
    stream.open(Date.now())
    for (let n = 0; n < 100; n++) stream.delta('word ')
    vi.advanceTimersByTime(LONGEST_WAIT_MS)
    expect(assistant(whole).length).toBeLessThanOrEqual(2)
  })

  it('is said no more once the stream is closed, and what waited leaves before', () => {
    const { stream, whole, deltas } = open()
    stream.delta('too early')
    stream.open(Date.now())
    stream.delta('a')
    stream.delta('b')
    stream.close()
    const heard = [whole.heard.length, deltas.heard.length]
    stream.delta('c')
    stream.reasoning('d')
    stream.close()
    vi.advanceTimersByTime(1000)
    expect([whole.heard.length, deltas.heard.length]).toEqual(heard)
    expect(assistant(whole).at(-1).data.text).toBe('ab')
    expect(stream.text).toBe('ab')
  })

  it('is kept every quarter of a second, or every four thousand characters', () => {
    const { stream, kept } = open()
    stream.open(Date.now())
    for (let n = 0; n < 100; n++) {
      stream.delta('word ')
      vi.advanceTimersByTime(10)
    }
    expect(kept.length).toBeGreaterThanOrEqual(3)
    expect(kept.length).toBeLessThanOrEqual(5)
    const before = kept.length
    stream.delta('x'.repeat(5000))
    vi.advanceTimersByTime(LONGEST_WAIT_MS)
    expect(kept.length).toBe(before + 1)
  })

  it('costs no bytes for the whole where only deltas are wanted', () => {
    const { stream, deltas } = open()
    stream.open(Date.now())
    for (let n = 0; n < 1000; n++) {
      stream.delta('word ')
      vi.advanceTimersByTime(60)
    }
    stream.close()
    const longest = Math.max(...deltas.heard.map((frame) => JSON.stringify(frame).length))
    expect(longest).toBeLessThan(400)
  })
})

describe('a piece that cannot be said', () => {
  it('is told to the run, and does not end the process', () => {
    const { hub, stream, failures } = open()
    stream.open(Date.now())
    stream.delta('first')
    hub.publish = () => {
      throw new Error('too long')
    }
    stream.delta(' second')
    vi.advanceTimersByTime(LONGEST_WAIT_MS)
    expect(failures).toHaveBeenCalledWith(new Error('too long'))
  })
})

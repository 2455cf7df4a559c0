import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { GATHERED_FROM_BYTES } from '../../src/broker/delivery.ts'
import { createHub } from '../../src/broker/hub.ts'
import type { Peer } from '../../src/broker/peer.ts'
import { createStream } from '../../src/broker/stream.ts'
import { CAPS, LIMITS } from '../../src/contract/connect.ts'
import type { Frame } from '../support/gateway.ts'
import { type Listening, listening, SESSION } from '../support/rooms.ts'

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

const BEHIND = GATHERED_FROM_BYTES + 1

/** A session whose events are kept, in which runs stream one after the other. */
function open(...peers: Listening[]) {
  let position = { epoch: 'e1', offset: 0 }
  let kept: Frame[] = []
  const broken = vi.fn()
  const hub = createHub({
    onSlow() {},
    onBroken: (_, error) => broken(error),
    replay: {
      next() {
        position = { ...position, offset: position.offset + 1 }
        return position
      },
      take: (_, json) => void kept.push(JSON.parse(json) as Frame),
    },
  })
  for (const peer of peers) hub.join(peer)
  const run = (runId: string) => {
    const stream = createStream({
      runId,
      sessionKey: SESSION,
      agentId: 'main',
      verbose: 'off',
      hub,
      now: () => Date.now(),
      onFirst() {},
      keep() {},
      onFailure(error) {
        throw error
      },
    })
    stream.open(Date.now())
    return {
      ...stream,
      finish() {
        stream.close()
        const content = [{ type: 'text' as const, text: stream.text }]
        stream.end({ state: 'completed', stopReason: 'stop' }, Date.now(), { role: 'assistant', content, timestamp: 1 })
      },
    }
  }
  return {
    hub,
    run,
    broken,
    /** Every event of the session, as `chat.resume` gives it back. */
    kept: () => kept,
    beginEpoch() {
      position = { epoch: 'e2', offset: 0 }
      kept = []
    },
  }
}

const payloads = ({ heard }: Listening): Frame[] => heard.map(({ payload }) => payload)
const assistant = (peer: Listening) => payloads(peer).filter(({ stream }) => stream === 'assistant')
const placed = (caps: string[] = [], changes: Partial<Omit<Peer, 'wire'>> = {}) =>
  listening({ caps: new Set([CAPS.streamOffsets, ...caps]), ...changes })

/** Which text an event is a piece of, and what it adds to it. */
function pieceOf({ event, payload }: Frame): { text: string; adds: string } | undefined {
  const { runId, stream, data, state, deltaText } = payload
  if (event === 'agent' && (stream === 'assistant' || stream === 'reasoning'))
    return { text: `${runId} ${stream}`, adds: data.delta }
  return event === 'chat' && state === 'delta' ? { text: `${runId} chat`, adds: deltaText } : undefined
}

/** The texts that events come to, where one that was heard already comes again after a cut. */
function texts(events: Frame[]): { [text: string]: string } {
  const told: { [text: string]: string } = {}
  const heard = new Map<string, number>()
  for (const frame of events) {
    const piece = pieceOf(frame)
    const { seq } = frame['payload']
    if (!piece || seq <= (heard.get(piece.text) ?? 0)) continue
    heard.set(piece.text, seq)
    told[piece.text] = (told[piece.text] ?? '') + piece.adds
  }
  return told
}

describe('a slow reader', () => {
  it('hears the latest of what grew meanwhile as soon as it reads on, without a further event', () => {
    const whole = listening()
    const deltas = listening({ caps: new Set([CAPS.deltaOnly]) })
    const { run } = open(whole, deltas)
    const { delta } = run('k1')
    delta('one')
    const before = [whole.heard.length, deltas.heard.length]
    for (const peer of [whole, deltas]) peer.stuckBytes = BEHIND
    for (const word of [' two', ' "three"', ' four']) {
      delta(word)
      vi.advanceTimersByTime(200)
    }
    expect([whole.heard.length, deltas.heard.length]).toEqual(before)
    for (const peer of [whole, deltas]) peer.read(1)
    expect(assistant(whole).slice(1)).toMatchObject([
      { seq: 5, data: { text: 'one two "three" four', delta: ' two "three" four' } },
    ])
    expect(assistant(deltas).slice(1)).toMatchObject([{ seq: 5, data: { delta: ' two "three" four' } }])
    for (const peer of [whole, deltas])
      expect(payloads(peer).at(-1)).toMatchObject({ state: 'delta', deltaText: ' two "three" four' })
    expect(whole.heard.map(({ seq }) => seq)).toEqual(whole.heard.map((_, index) => index + 1))
  })

  it('hears what it is behind with before how the run ended', () => {
    const slow = listening({ protocol: 3 })
    const { run } = open(slow)
    const { delta, finish } = run('k1')
    slow.stuckBytes = BEHIND
    for (const word of ['one', ' two', ' three']) {
      delta(word)
      vi.advanceTimersByTime(200)
    }
    finish()
    const shown = slow.heard.map(
      ({ event, payload }) => `${event} ${payload.data?.phase ?? payload.stream ?? payload.state}`,
    )
    expect(shown).toEqual(['agent start', 'agent assistant', 'chat delta', 'agent end', 'chat final'])
    expect(payloads(slow)[2]).toMatchObject({ message: { content: [{ text: 'one two three' }] } })
  })

  it('is sent one session after the other, as far as it reads', () => {
    const slow = listening()
    const { hub } = open(slow)
    const say = (sessionKey: string, start: number) =>
      hub.publish('agent', ({ start: from = start }) => JSON.stringify({ sessionKey, from }), {
        sessionKey,
        piece: { of: sessionKey, start },
      })
    slow.stuckBytes = BEHIND
    for (const start of [0, 1]) for (const key of ['a', 'b', 'c']) say(key, start)
    const take = slow.wire.sendShared
    slow.wire.sendShared = (head, tail) => {
      take(head, tail)
      slow.stuckBytes = BEHIND
    }
    for (let n = 1; n <= 3; n++) {
      slow.read(1)
      expect(payloads(slow)).toEqual(['a', 'b', 'c'].slice(0, n).map((sessionKey) => ({ sessionKey, from: 0 })))
    }
  })

  it('is sent what it is behind with when it resumes, so that nothing of it is joined to what comes later', () => {
    const slow = placed()
    const { hub, run } = open(slow)
    const { delta } = run('k1')
    slow.stuckBytes = BEHIND
    const say = (word: string) => {
      delta(word)
      vi.advanceTimersByTime(200)
    }
    for (const word of ['one', ' two']) say(word)
    hub.hold(slow.connId, SESSION)
    expect(assistant(slow).map(({ data }) => data.delta)).toEqual(['one two'])
    for (const word of [' three', ' four']) say(word)
    hub.release(slow.connId, SESSION)
    slow.read(1)
    expect(assistant(slow).map(({ data }) => data.delta)).toEqual(['one two', ' three four'])
  })

  it('is told of a new epoch after what it is behind with of the old one', () => {
    const slow = placed()
    const { run, beginEpoch } = open(slow)
    const { delta } = run('k1')
    slow.stuckBytes = BEHIND
    for (const word of ['one', ' two']) {
      delta(word)
      vi.advanceTimersByTime(200)
    }
    beginEpoch()
    delta(' three')
    vi.advanceTimersByTime(200)
    slow.read(1)
    expect(assistant(slow).map(({ epoch, data }) => [epoch, data.delta])).toEqual([
      ['e1', 'one two'],
      ['e2', ' three'],
    ])
  })

  it('costs nobody but itself its connection when what waited cannot be said', () => {
    const slow = listening()
    const quick = listening()
    const { hub, broken } = open(slow, quick)
    slow.stuckBytes = BEHIND
    for (const start of [0, 1])
      hub.publish(
        'agent',
        ({ start: from }) => {
          if (from === 0) throw new Error('too long')
          return '{"runId":"k1"}'
        },
        { sessionKey: SESSION, piece: { of: 'k1', start } },
      )
    slow.read(BEHIND)
    expect(broken).toHaveBeenCalledExactlyOnceWith(new Error('too long'))
    expect([slow.heard.length, quick.heard.length]).toEqual([0, 2])
  })

  it('is not made for it what others hear: each way to look is made once for all who are equally behind', () => {
    const crowd = Array.from({ length: 50 }, () => listening())
    const { hub } = open(...crowd)
    for (const peer of crowd) peer.stuckBytes = BEHIND
    const render = vi.fn(() => '{"runId":"k1"}')
    for (const start of [0, 1, 2]) hub.publish('agent', render, { sessionKey: SESSION, piece: { of: 'k1', start } })
    for (const peer of crowd) peer.read(BEHIND)
    // Three times to be kept.
    expect(render).toHaveBeenCalledTimes(3 + 1)
    expect(new Set(crowd.map(({ heard }) => JSON.stringify(heard))).size).toBe(1)
  })
})

type Step =
  | { kind: 'delta' | 'thought'; text: string }
  | { kind: 'wait'; ms: number }
  | { kind: 'behind' | 'read' | 'hold' | 'release'; peer: number }
  | { kind: 'inject' | 'next' }

const PEERS = 5
const peer = fc.nat(PEERS - 1)
const steps = fc.array(
  fc.oneof(
    {
      weight: 6,
      arbitrary: fc.record({
        kind: fc.constant('delta' as const),
        text: fc.constantFrom('a ', 'bc', '"', '\n', '😀', '\ud83d', '\ude00'),
      }),
    },
    {
      weight: 1,
      arbitrary: fc.record({ kind: fc.constant('thought' as const), text: fc.constantFrom('hm', '\\', 'é') }),
    },
    { weight: 4, arbitrary: fc.record({ kind: fc.constant('wait' as const), ms: fc.constantFrom(1, 20, 160, 400) }) },
    { weight: 2, arbitrary: fc.record({ kind: fc.constantFrom('behind' as const, 'read' as const), peer }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constantFrom('hold' as const, 'release' as const), peer }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constantFrom('inject' as const, 'next' as const) }) },
  ),
  { maxLength: 60 },
) as fc.Arbitrary<Step[]>

/** Plays a session to five peers, of which some are behind now and then. */
function play(given: Step[]) {
  const peers = [
    listening(),
    listening({ protocol: 3, spellings: new Map([[SESSION, 'main']]) }),
    listening({ caps: new Set([CAPS.deltaOnly]) }),
    placed(),
    placed([CAPS.deltaOnly]),
  ]
  const session = open(...peers)
  const oracle: { [runId: string]: { text: string; thoughts: string } } = { k0: { text: '', thoughts: '' } }
  let runs = 0
  let current = session.run('k0')
  for (const step of given) {
    switch (step.kind) {
      case 'delta':
        current.delta(step.text)
        oracle[`k${runs}`]!.text += step.text
        break
      case 'thought':
        current.reasoning(step.text)
        oracle[`k${runs}`]!.thoughts += step.text
        break
      case 'wait':
        vi.advanceTimersByTime(step.ms)
        break
      case 'behind':
        peers[step.peer]!.stuckBytes = BEHIND
        break
      case 'read':
        peers[step.peer]!.read(LIMITS.maxBufferedBytes)
        break
      case 'hold':
        session.hub.hold(peers[step.peer]!.connId, SESSION)
        break
      case 'release':
        session.hub.release(peers[step.peer]!.connId, SESSION)
        break
      case 'inject':
        session.hub.publish('chat', () => '{"runId":"note","seq":0,"state":"final"}', { sessionKey: SESSION })
        break
      case 'next':
        current.finish()
        oracle[`k${++runs}`] = { text: '', thoughts: '' }
        current = session.run(`k${runs}`)
    }
  }
  current.finish()
  for (const listener of peers) {
    session.hub.release(listener.connId, SESSION)
    listener.read(LIMITS.maxBufferedBytes)
  }
  const said = Object.entries(oracle).flatMap(([runId, { text, thoughts }]) => [
    ...(text === ''
      ? []
      : [
          [`${runId} assistant`, text],
          [`${runId} chat`, text],
        ]),
    ...(thoughts === '' ? [] : [[`${runId} reasoning`, thoughts]]),
  ])
  return { peers, kept: session.kept(), said: Object.fromEntries(said) as { [text: string]: string } }
}

describe('whoever falls behind, wherever that is', () => {
  it('hears every text to the letter, every other event, and each before what came after it', () => {
    fc.assert(
      fc.property(steps, (given) => {
        const { peers, kept, said } = play(given)
        const others = kept.filter((frame) => !pieceOf(frame)).map(({ payload }) => [payload.runId, payload.seq])
        for (const { heard, protocol, caps } of peers) {
          expect(heard.map(({ seq }) => seq)).toEqual(heard.map((_, index) => index + 1))
          expect(heard.filter((frame) => !pieceOf(frame)).map(({ payload }) => [payload.runId, payload.seq])).toEqual(
            others,
          )
          const pieces = heard.filter((frame) => pieceOf(frame))
          for (const [text, whole] of Object.entries(said)) {
            const mine = pieces.filter((frame) => pieceOf(frame)!.text === text)
            if (protocol >= 4 || !text.endsWith(' chat'))
              expect(mine.map((frame) => pieceOf(frame)!.adds).join('')).toBe(whole)
            if (caps.has(CAPS.deltaOnly) || text.endsWith('reasoning')) continue
            let before = ''
            for (const { payload } of mine) {
              const cumulative = payload.data?.text ?? payload.message.content[0].text
              expect(cumulative.startsWith(before)).toBe(true)
              if (payload.data) expect(cumulative).toBe(before + payload.data.delta)
              before = cumulative
            }
          }
        }
      }),
      { numRuns: 400 },
    )
  })

  it('is told of every offset once: each event says the stretch that it stands for', () => {
    fc.assert(
      fc.property(steps, (given) => {
        const { peers, kept } = play(given)
        for (const { heard } of peers.slice(3)) {
          let last = 0
          for (const { payload } of heard) {
            expect(payload.from ?? payload.offset).toBe(last + 1)
            expect(payload.offset).toBeGreaterThan(last)
            last = payload.offset
          }
          expect(last).toBe(kept.length)
        }
      }),
      { numRuns: 400 },
    )
  })

  it('loses nothing and hears nothing twice, whichever event it was cut off after', () => {
    fc.assert(
      fc.property(steps, (given) => {
        const { peers, kept, said } = play(given)
        for (const { heard } of peers.slice(3))
          for (let cut = 0; cut <= heard.length; cut++) {
            const position = cut === 0 ? 0 : heard[cut - 1]!['payload'].offset
            expect(texts([...heard.slice(0, cut), ...kept.slice(position)])).toEqual(said)
          }
      }),
      { numRuns: 200 },
    )
  })
})

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Wire } from '../../src/broker/peer.ts'
import { decode } from '../../src/contract/frames.ts'
import { createDialect, type Dialect } from '../../src/transport/dialect.ts'
import type { Frame } from '../support/gateway.ts'

const AGENTS = {
  defaultId: 'main',
  mainKey: 'main',
  resolve: (name: string) => (name === 'main' ? name : undefined),
  ids: () => ['main'],
}
const bytes = (frame: unknown) => Buffer.from(JSON.stringify(frame))
const event = (payload: object, seq: number, name = 'agent') =>
  [Buffer.from(`{"type":"event","event":"${name}","payload":${JSON.stringify(payload)},"seq":`), `${seq}}`] as const

/** A bridge that is connected and has sent to its main session, as the broker sees it; and what it hears. */
function openBridge(dialect: Dialect = createDialect(AGENTS)) {
  const heard: Frame[] = []
  const socket = {
    send: (text: string) => void heard.push(JSON.parse(text)),
    sendShared: (head: Buffer, tail: string) => void heard.push(JSON.parse(`${head}${tail}`)),
  }
  const { wire, read, gone } = dialect.interpret('/ws', socket as unknown as Wire)
  const params = { client: { id: 'discord-bridge' } }
  read(bytes({ type: 'req', id: '1', method: 'connect', params }))
  const payload = { type: 'hello-ok', server: { connId: 'c' } }
  wire.send(JSON.stringify({ type: 'res', id: '1', ok: true, payload }))
  const sendTo = (sessionKey: string) => {
    read(bytes({ type: 'req', id: '2', method: 'chat.send', params: { sessionKey } }))
    wire.send(JSON.stringify({ type: 'res', id: '2', ok: true, payload: {} }))
  }
  heard.length = 0
  let seq = 0
  return {
    heard,
    gone,
    sendTo,
    hear: (said: object, name?: string) => wire.sendShared(...event(said, ++seq, name)),
    deltas: () => heard.flatMap(({ payload: told }) => told?.data?.delta ?? []) as string[],
  }
}

describe('a frame of the dialect', () => {
  it('is one of two; whatever else comes is read as everybody’s is', () => {
    const anything = fc.oneof(
      fc.uint8Array({ maxLength: 200 }),
      fc.json().map((text) => Buffer.from(text)),
      fc.record({ type: fc.constantFrom('req', 'connect', 'ping', 'event', 7), id: fc.anything() }).map(bytes),
      fc.constantFrom('null', '[]', '{}', '"connect"', '{"type":null}', '').map((text) => Buffer.from(text)),
    )
    fc.assert(
      fc.property(fc.array(anything, { maxLength: 4 }), (frames) => {
        const { read } = createDialect(AGENTS).interpret('/ws', {} as Wire)
        for (const [index, frame] of frames.entries()) {
          const usual = decode(frame)
          const type = usual.kind === 'invalid' ? /^\{"type":"(\w+)"/.exec(frame.toString())?.[1] : undefined
          const found = read(frame)
          if (type === 'ping') expect(found.kind === 'ping' || found.kind === 'invalid').toBe(true)
          else if (type === 'connect' && index === 0)
            expect(found.kind === 'request' || found.kind === 'invalid').toBe(true)
          else expect(found).toEqual(usual)
        }
      }),
      { numRuns: 2_000 },
    )
  })
})

describe('a block', () => {
  const about = { runId: 'r', sessionKey: 'main', stream: 'assistant' }

  it('is never lost, doubled or cut, however the text comes', () => {
    const line = fc.constantFrom('a word', '', ' ', '```', '~~~ ts', '- item', '  ', 'ö\u{1f40e}')
    fc.assert(
      fc.property(
        fc.array(line, { maxLength: 20 }),
        fc.infiniteStream(fc.integer({ min: 1, max: 9 })),
        (lines, sizes) => {
          const bridge = openBridge()
          bridge.sendTo('main')
          const text = lines.join('\n')
          for (let at = 0; at < text.length; ) {
            const delta = text.slice(at, at + sizes.next().value!)
            at += delta.length
            bridge.hear({ ...about, data: { text: text.slice(0, at), delta } })
          }
          bridge.hear({ ...about, stream: 'lifecycle', data: { phase: 'end' } })
          const deltas = bridge.deltas()
          expect(deltas.join('')).toBe(text)
          for (const delta of deltas.slice(0, -1)) expect(delta).toMatch(/\S[\s\S]*\n[^\S\n]*\n$/)
          const told = bridge.heard.flatMap(({ payload }) => payload?.data?.text ?? [])
          expect(told).toEqual(deltas.map((_, index) => deltas.slice(0, index + 1).join('')))
          expect(bridge.heard.flatMap(({ seq }) => seq ?? [])).toEqual(
            [...deltas.keys(), deltas.length].map((n) => n + 1),
          )
        },
      ),
    )
  })

  it('that has no end is told before it fills the memory', () => {
    const bridge = openBridge()
    bridge.sendTo('main')
    for (let n = 0; n < 5; n++) bridge.hear({ ...about, data: { delta: 'x'.repeat(4_000) } })
    expect(bridge.deltas()).toEqual(['x'.repeat(20_000)])
  })

  it('of what it thinks is another than that of what it says, and runs do not mix', () => {
    const bridge = openBridge()
    bridge.sendTo('main')
    bridge.hear({ ...about, stream: 'reasoning', data: { delta: 'hm' } })
    bridge.hear({ ...about, data: { delta: 'one ' } })
    bridge.hear({ ...about, runId: 's', data: { delta: 'other' } })
    bridge.hear({ ...about, data: { delta: 'answer' } })
    bridge.hear({ ...about, state: 'final' }, 'chat')
    bridge.hear({ ...about, runId: 's', state: 'final' }, 'chat')
    const told = bridge.heard.flatMap(({ payload }) => (payload?.data ? [[payload.stream, payload.data.delta]] : []))
    expect(told).toEqual([
      ['reasoning', 'hm'],
      ['assistant', 'one answer'],
      ['assistant', 'other'],
    ])
  })
})

describe('a session', () => {
  it('is heard by the bridge that sent to it last; when that goes, by the newest, or the next to come', () => {
    const dialect = createDialect(AGENTS)
    const said = { runId: 'r', sessionKey: 'agent:main:x', state: 'final' }
    const [first, second] = [openBridge(dialect), openBridge(dialect)]
    const heardBy = (...bridges: ReturnType<typeof openBridge>[]) =>
      bridges.map((bridge) => {
        const before = bridge.heard.length
        bridge.hear(said, 'chat')
        return bridge.heard.length - before
      })
    expect(heardBy(first, second)).toEqual([0, 0])
    first.sendTo('x')
    expect(heardBy(first, second)).toEqual([1, 0])
    second.sendTo('agent:main:X')
    expect(heardBy(first, second)).toEqual([0, 1])
    second.gone()
    expect(heardBy(first, second)).toEqual([1, 0])
    first.gone()
    const third = openBridge(dialect)
    expect(heardBy(first, third)).toEqual([0, 1])
  })
})

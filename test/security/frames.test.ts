/** What the receiving side of a WebSocket must take and what it must not, on a real socket of the real gateway. */
import { setTimeout as pause } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { LIMITS } from '../../src/contract/connect.ts'
import { startGateway, type TestGateway } from '../support/gateway.ts'
import { closeOf, closing, connectFrame, frame, known, OPCODE, type RawLine, textsOf, upgraded } from './raw-line.ts'
import { type Case, SECTIONS } from './websocket-cases.ts'

let gateway: TestGateway
beforeAll(async () => {
  const limits = { requestsPerSecond: 0, preauthPerIp: 0, preauthTotal: 0 }
  gateway = await startGateway({ config: { gateway: { limits } } })
})
afterAll(() => gateway.stop())

/** Cases at the same time. */
const AT_ONCE = 16
const END = 'the last one'

interface Outcome {
  name: string
  answered: string[]
  pongs: string[]
  close: number | undefined
}

const expected = ({ name, answered = [], pongs = [], close }: Case): Outcome => ({ name, answered, pongs, close })

/** Plays a case, and says what came of it. */
async function play({ name, writes, isTrickled, close, answered = [], protocol = 3 }: Case): Promise<Outcome> {
  const line = await known(gateway.port, { minProtocol: protocol, maxProtocol: protocol })
  const from = line.frames.length
  for (const bytes of writes) {
    if (isTrickled) await line.trickle(bytes)
    else line.write(bytes)
  }
  // Where it should stay open, a request says so that comes behind everything else.
  const isUnfinished = writes.length > 0 && name === 'one that never ends'
  if (close === undefined && !isUnfinished) line.write(frame(`{"type":"req","id":"${END}","method":"health"}`))
  if (isUnfinished) await line.until(({ frames }) => frames.slice(from).some(({ opcode }) => opcode === OPCODE.pong))
  else
    await line.until(
      ({ frames }) => textsOf(frames.slice(from)).some(({ id }) => id === END) || closeOf(frames) !== undefined,
    )
  const heard = line.frames.slice(from)
  line.close()
  const ids = textsOf(heard).flatMap(({ type, id }) => (type === 'res' ? [String(id)] : []))
  const done = ids.filter((id) => id !== END)
  return {
    name,
    // A close may overtake the answer to what came before it; it never makes one up.
    answered: close === undefined || done.some((id) => !answered.includes(id)) ? done : answered,
    pongs: heard.filter(({ opcode }) => opcode === OPCODE.pong).map(({ payload }) => payload.toString('hex')),
    close: closeOf(heard)?.code,
  }
}

describe('a WebSocket', () => {
  for (const { title, cases } of SECTIONS)
    it(`does with ${title} what RFC 6455 says, in ${cases.length} cases`, async () => {
      const outcomes: Outcome[] = []
      for (let at = 0; at < cases.length; at += AT_ONCE)
        outcomes.push(...(await Promise.all(cases.slice(at, at + AT_ONCE).map(play))))
      expect(new Set(cases.map(({ name }) => name)).size).toBe(cases.length)
      expect(outcomes).toEqual(cases.map(expected))
    })

  it('never sends a frame with a mask, a reserved bit or in pieces, and is still served after all of them', async () => {
    const line = await known(gateway.port)
    line.write(frame('{"type":"req","id":"h","method":"health"}'))
    await line.until(({ frames }) => textsOf(frames).some(({ id }) => id === 'h'))
    for (const { isFinal, reserved } of line.frames) expect([isFinal, reserved]).toEqual([true, 0])
    line.close()
  })
})

/** Writes, and resolves to the close that follows. */
async function closedBy(line: RawLine, ...writes: Buffer[]) {
  for (const bytes of writes) line.write(bytes)
  await line.until(({ frames }) => closeOf(frames) !== undefined)
  const told = textsOf(line.frames).filter(({ event }) => event !== 'connect.challenge')
  line.close()
  return { close: closeOf(line.frames), told }
}

describe('a first frame', () => {
  /** A `connect` of exactly so many bytes. */
  const ofSize = (bytes: number) => `${connectFrame()}${' '.repeat(bytes - Buffer.byteLength(connectFrame()))}`
  const limit = LIMITS.preauthPayload

  for (const size of [limit - 1, limit])
    it(`of ${size} bytes is read, whole or in pieces`, async () => {
      for (const opcode of [OPCODE.text, OPCODE.binary])
        for (const isWhole of [true, false]) {
          const line = await upgraded(gateway.port)
          const text = ofSize(size)
          if (isWhole) line.write(frame(text, { opcode }))
          else {
            line.write(frame(text.slice(0, 1_000), { opcode, isFinal: false }))
            line.write(frame(text.slice(1_000), { opcode: OPCODE.continuation }))
          }
          await line.until(({ frames }) => frames.length > 1)
          expect(textsOf(line.frames)[1]).toMatchObject({ id: 'c', ok: true })
          line.close()
        }
    })

  it('of one byte more is refused by name, and its text is not looked at', async () => {
    for (const text of [ofSize(limit + 1), `{"type":"req","id":"c","method":"health","params":"${'x'.repeat(limit)}"}`])
      expect(await closedBy(await upgraded(gateway.port), frame(text))).toEqual({
        close: { code: 1009, reason: 'preauth payload too large' },
        told: [],
      })
  })

  it('that only says it is large is refused before the rest has come, and costs no memory', async () => {
    const before = process.memoryUsage()
    const heads = [2 * limit + 1, 1024 ** 3, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n]
    const lines = await Promise.all(Array.from({ length: 40 }, () => upgraded(gateway.port)))
    const fates = await Promise.all(
      lines.map((line, n) => closedBy(line, frame('{', { claims: heads[n % heads.length]! }))),
    )
    for (const fate of fates) expect(fate).toEqual({ close: { code: 1009, reason: '' }, told: [] })
    const after = process.memoryUsage()
    const grown = (name: 'external' | 'arrayBuffers') => after[name] - before[name]
    // One of them, had it been believed, would have taken sixteen times as much.
    expect(Math.max(grown('external'), grown('arrayBuffers'))).toBeLessThan(64 * 1024 ** 2)
  })

  it('in pieces that are together too large ends it when they are, not when they are all there', async () => {
    const line = await upgraded(gateway.port)
    const pieces = Array.from({ length: 40 }, (_, n) =>
      frame('x'.repeat(8 * 1024), { opcode: n === 0 ? OPCODE.text : OPCODE.continuation, isFinal: false }),
    )
    expect((await closedBy(line, ...pieces)).close?.code).toBe(1009)
  })

  it('with a reserved bit or without a mask ends the connection, and nothing is said', async () => {
    for (const shape of [{ reserved: 4 }, { reserved: 2 }, { reserved: 1 }, { isMasked: false }, { opcode: 3 }])
      expect(await closedBy(await upgraded(gateway.port), frame(connectFrame(), shape))).toEqual({
        close: { code: 1002, reason: '' },
        told: [],
      })
  })

  it('that is a ping is answered, and is not yet a connection', async () => {
    const line = await upgraded(gateway.port)
    line.write(frame('before', { opcode: OPCODE.ping }))
    await line.until(({ frames }) => frames.some(({ opcode }) => opcode === OPCODE.pong))
    expect(textsOf(line.frames).map(({ event }) => event)).toEqual(['connect.challenge'])
    line.close()
  })
})

describe('pieces without end', () => {
  it.each(['before', 'after'])(
    '%s the handshake: sixty-four are a message, one more ends the connection',
    async (when) => {
      const open = () => (when === 'before' ? upgraded(gateway.port) : known(gateway.port))
      const text = connectFrame().replace('"connect"', when === 'before' ? '"connect"' : '"health"')
      const pieces = (count: number) =>
        Array.from({ length: count }, (_, n) =>
          frame(n === 0 ? text : '', {
            opcode: n === 0 ? OPCODE.text : OPCODE.continuation,
            isFinal: n === count - 1,
          }),
        )
      const line = await open()
      const from = line.frames.length
      for (const piece of pieces(64)) line.write(piece)
      await line.until(({ frames }) => frames.length > from)
      expect(textsOf(line.frames.slice(from))[0]).toMatchObject({ id: 'c' })
      line.close()
      const other = await open()
      const begun = other.frames.length
      for (const piece of pieces(65)) other.write(piece)
      await other.until(({ frames }) => frames.length > begun)
      expect([1008, 1009]).toContain(closeOf(other.frames)?.code)
      other.close()
    },
  )

  it('are what a slow network makes of a large message: one that comes in segments of 1,400 bytes is taken', async () => {
    const line = await known(gateway.port, { minProtocol: 4, maxProtocol: 4 })
    const bytes = frame(
      `{"type":"req","id":"large","method":"health","params":{"pad":"${'x'.repeat(4 * 1024 * 1024)}"}}`,
    )
    for (let at = 0; at < bytes.length && !line.isGone; at += 1_400) {
      line.write(bytes.subarray(at, at + 1_400))
      await new Promise(setImmediate)
    }
    await line.until(({ frames }) => closeOf(frames) !== undefined || textsOf(frames).some(({ id }) => id === 'large'))
    expect(closeOf(line.frames)).toBeUndefined()
    line.close()
  })

  it('of one byte are refused early, and the others are served meanwhile', async () => {
    const other = await gateway.connect()
    const abuser = await upgraded(gateway.port)
    const begin = frame('{', { isFinal: false })
    const flood = Buffer.concat([
      begin,
      ...Array.from({ length: 100_000 }, () => frame(' ', { opcode: OPCODE.continuation, isFinal: false })),
    ])
    abuser.write(flood)
    expect((await other.request('health'))['ok']).toBe(true)
    await abuser.until(({ frames }) => closeOf(frames) !== undefined)
    expect([1008, 1009]).toContain(closeOf(abuser.frames)?.code)
    expect(textsOf(abuser.frames)).toHaveLength(1)
    abuser.close()
  })
})

describe('an upgrade', () => {
  it.each([
    'permessage-deflate',
    'permessage-deflate; client_max_window_bits',
    'permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=8',
    'permessage-deflate, x-webkit-deflate-frame, permessage-bzip2',
  ])('that offers %s gets no extension, and compressed frames are refused', async (offer) => {
    const line = await upgraded(gateway.port, [`Sec-WebSocket-Extensions: ${offer}`])
    expect(line.received.toString('latin1').split('\r\n\r\n', 1)[0]).not.toMatch(/extensions/i)
    // "Hello" as RFC 7692, section 7.2.3.1, compresses it.
    const { close } = await closedBy(line, frame(Buffer.from('f248cdc9c90700', 'hex'), { reserved: 4 }))
    expect(close?.code).toBe(1002)
  })

  it('may carry its first frame along, in whole or in part', async () => {
    for (const size of [0, 1, 2, 100, 1_000]) {
      const line = await upgraded(gateway.port)
      const bytes = frame(connectFrame())
      line.write(bytes.subarray(0, size))
      await pause(1)
      line.write(bytes.subarray(size))
      await line.until(({ frames }) => frames.length > 1)
      expect(textsOf(line.frames)[1]).toMatchObject({ ok: true })
      line.write(closing(1000))
      await line.gone
    }
  })
})

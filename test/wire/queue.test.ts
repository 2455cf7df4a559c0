import { describe, expect, it } from 'vitest'
import { openMemoryStore } from '../../src/stores/memory.ts'
import { endOf, type Frame, startGateway } from '../support/gateway.ts'
import { storeWith } from '../support/rooms.ts'

const send = (key: string, changes: object = {}) => ({
  sessionKey: 'main',
  message: `message ${key}`,
  idempotencyKey: key,
  ...changes,
})
/** An answer of the echo that takes about three seconds. */
const long = 'word '.repeat(150)

describe('a key', () => {
  it('starts one run, however many copies come over however many sockets', async () => {
    const kept = openMemoryStore()
    const starts: string[] = []
    const store = storeWith(kept, {
      start: (runId, at) => {
        starts.push(runId)
        return kept.start(runId, at)
      },
    })
    await using gateway = await startGateway({ store })
    const peers = await Promise.all(Array.from({ length: 50 }, () => gateway.connect()))
    const ends = peers.map((peer) => peer.next(endOf('k1')))
    const answers = await Promise.all(
      peers.flatMap((peer) => Array.from({ length: 20 }, () => peer.request('chat.send', send('k1')))),
    )
    const count = (status: string) => answers.filter(({ payload }) => payload?.status === status).length
    expect([answers.length, count('started'), count('in_flight') + count('ok')]).toEqual([1000, 1, 999])
    expect(answers.every(({ payload }) => payload.runId === 'k1')).toBe(true)
    await Promise.all(ends)
    expect(starts).toEqual(['k1'])
    for (const peer of peers) expect(peer.frames.filter(endOf('k1'))).toHaveLength(1)
    const { messages } = await kept.history('agent:main:main', { limit: 10, maxBytes: 1e6 })
    expect(messages.map(({ role }) => role)).toEqual(['user', 'assistant'])
    expect((await peers[7]!.request('chat.send', send('k1')))['payload']).toEqual({ runId: 'k1', status: 'ok' })
  })

  it('gives every copy of agent both answers, the second the same', async () => {
    await using gateway = await startGateway()
    const peers = await Promise.all(Array.from({ length: 10 }, () => gateway.connect()))
    const params = { agentId: 'main', message: 'hello', idempotencyKey: 'a1' }
    const results = peers.flatMap((peer, at) =>
      Array.from({ length: 5 }, async (_, n) => {
        const id = `${at}-${n}`
        const first = await peer.request('agent', params, id)
        if (first['payload'].status !== 'accepted') return first
        return peer.next((frame: Frame) => frame['type'] === 'res' && frame['id'] === id)
      }),
    )
    const texts = (await Promise.all(results)).map(({ ok, payload }) => [ok, payload.result?.payloads[0].text])
    expect(new Set(texts.map((text) => JSON.stringify(text))).size).toBe(1)
    expect(texts[0]![0]).toBe(true)
  })

  it('with another body is refused, and the first run goes on', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    await peer.request('chat.send', send('k1'))
    const other = await peer.request('chat.send', send('k1', { message: 'something else' }))
    expect(other['error']).toMatchObject({ code: 'INVALID_REQUEST', details: { code: 'IDEMPOTENCY_KEY_REUSED' } })
    expect(other['error'].retryable).toBeUndefined()
    expect((await peer.next(endOf('k1')))['payload']).toMatchObject({ state: 'final' })
  })

  it('with another picture is refused, and with the same one is the same request', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    const picture = (byte: number) => {
      const content = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, byte]).toString('base64')
      return { attachments: [{ type: 'image', mimeType: 'image/png', content }] }
    }
    expect((await peer.request('chat.send', send('k1', picture(1))))['payload']).toMatchObject({ status: 'started' })
    expect((await peer.request('chat.send', send('k1', picture(2))))['error']).toMatchObject({
      details: { code: 'IDEMPOTENCY_KEY_REUSED' },
    })
    expect((await peer.request('chat.send', send('k1', picture(1))))['ok']).toBe(true)
  })

  it('is not used up by a request that was refused', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    const reader = await gateway.connect({ scopes: ['operator.read'] })
    const refused = [
      await reader.request('chat.send', send('k1', { message: 'a' })),
      await peer.request('chat.send', send('k1', { message: 'b', unknown: 1 })),
      await peer.request('chat.send', send('k1', { message: '   ' })),
      await peer.request('chat.send', send('k1', { message: 'x'.repeat(262_145) })),
      await peer.request('chat.send', send('k1', { message: 'c', attachments: [{ content: '!' }] })),
    ]
    expect(refused.map(({ ok }) => ok)).toEqual([false, false, false, false, false])
    expect((await peer.request('chat.send', send('k1', { message: 'd' })))['payload'].status).toBe('started')
  })
})

describe('a session', () => {
  it('keeps as many waiting turns as it is told to, and no more, however fast they come', async () => {
    await using gateway = await startGateway({ config: { messages: { queue: { limit: 3 } } } })
    const peer = await gateway.connect()
    const keys = Array.from({ length: 30 }, (_, n) => `k${n}`)
    const answers = await Promise.all(keys.map((key) => peer.request('chat.send', send(key, { message: long }))))
    expect(answers.map(({ ok }) => ok)).toEqual(keys.map((_, n) => n < 4))
    expect(answers[4]!['error']).toMatchObject({
      code: 'UNAVAILABLE',
      retryable: true,
      retryAfterMs: expect.any(Number),
      details: { code: 'SESSION_BUSY' },
    })
    await peer.request('chat.abort', { sessionKey: 'main' })
    expect((await peer.request('chat.send', send('k4', { message: long })))['payload'].status).toBe('started')
  })

  it('answers turns in the order they were sent, each under its own id', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    const keys = Array.from({ length: 6 }, (_, n) => `k${n}`)
    for (const key of keys) void peer.request('chat.send', send(key))
    await peer.next(endOf('k5'))
    const terminal = peer.frames.filter(({ event, payload }) => event === 'chat' && payload.state !== 'delta')
    expect(terminal.map(({ payload }) => [payload.runId, payload.state])).toEqual(keys.map((key) => [key, 'final']))
    for (const { payload } of terminal) expect(payload.message.content[0].text).toContain(`message ${payload.runId}`)
    const seqs = peer.frames
      .filter(({ type }) => type === 'event')
      .flatMap(({ seq }) => (seq === undefined ? [] : [seq]))
    expect(seqs).toEqual(seqs.map((_, index) => index + 1))
  })

  it('acknowledges a turn before it says anything of it', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    for (let n = 0; n < 20; n++) {
      const id = `id${n}`
      await peer.request('chat.send', send(`k${n}`, { sessionKey: `s${n}` }), id)
      await peer.next(({ event, payload }) => event === 'agent' && payload.runId === `k${n}`)
      const ack = peer.frames.findIndex((frame) => frame['type'] === 'res' && frame['id'] === id)
      const first = peer.frames.findIndex(({ event, payload }) => event === 'agent' && payload.runId === `k${n}`)
      expect(ack).toBeLessThan(first)
    }
  })
})

describe('stopping', () => {
  it.each([
    ['chat.abort with its id', 'chat.abort', { sessionKey: 'main', runId: 'k1' }],
    ['chat.abort of the session', 'chat.abort', { sessionKey: 'main' }],
    ['a stop word', 'chat.send', { sessionKey: 'main', message: 'stop', idempotencyKey: 'k2' }],
  ])('a run by %s works right behind the request that asked for it', async (_, method, params) => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    const sent = peer.request('chat.send', send('k1', { message: long }))
    const stopped = peer.request(method, params)
    expect((await sent)['payload']).toEqual({ runId: 'k1', status: 'started' })
    expect((await stopped)['payload']).toEqual({ ok: true, aborted: true, runIds: ['k1'] })
    expect(peer.frames.find(endOf('k1'))?.['payload']).toMatchObject({ state: 'aborted' })
  })

  it('a waiting run ends it with aborted under its own id, and it never starts', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    await peer.request('chat.send', send('k1', { message: long }))
    await peer.request('chat.send', send('k2'))
    expect((await peer.request('chat.abort', { sessionKey: 'main', runId: 'k2' }))['payload']).toEqual({
      ok: true,
      aborted: true,
      runIds: ['k2'],
    })
    expect(peer.frames.find(endOf('k2'))?.['payload']).toMatchObject({ state: 'aborted', stopReason: 'rpc' })
    expect(
      peer.frames.some(
        ({ event, payload }) => event === 'agent' && payload.data.phase === 'start' && payload.runId === 'k2',
      ),
    ).toBe(false)
    expect((await peer.request('chat.send', send('k2')))['payload']).toEqual({ runId: 'k2', status: 'ok' })
    const other = await peer.request('chat.abort', { sessionKey: 'other', runId: 'k1' })
    expect(other['error'].message).toBe('runId does not match sessionKey')
    expect((await peer.request('chat.abort', { sessionKey: 'main' }))['payload'].runIds).toEqual(['k1'])
    expect((await peer.request('chat.abort', { sessionKey: 'main' }))['payload']).toMatchObject({ aborted: false })
  })

  for (const method of ['sessions.reset', 'sessions.delete'])
    it(`by ${method} ends what runs and what waits, and leaves no entry behind`, async () => {
      await using gateway = await startGateway()
      const peer = await gateway.connect()
      for (const key of ['k1', 'k2']) await peer.request('chat.send', send(key, { sessionKey: 's', message: long }))
      await peer.next(({ event, payload }) => event === 'agent' && payload.stream === 'assistant')
      expect(await peer.request(method, { key: 's' })).toMatchObject({ ok: true })
      for (const key of ['k1', 'k2'])
        expect(peer.frames.find(endOf(key))?.['payload']).toMatchObject({ state: 'aborted', stopReason: 'reset' })
      expect((await peer.request('chat.history', { sessionKey: 's' }))['payload'].messages).toEqual([])
      await peer.request('chat.send', send('k3', { sessionKey: 's' }))
      await peer.next(endOf('k3'))
      expect((await peer.request('chat.history', { sessionKey: 's' }))['payload'].messages).toHaveLength(2)
    })

  it('by /new begins a new transcript with what was said after it', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    await peer.request('chat.send', send('k1', { message: long }))
    await peer.request('chat.send', send('k2', { message: '/new and now' }))
    await peer.next(endOf('k2'))
    expect(peer.frames.find(endOf('k1'))?.['payload']).toMatchObject({ state: 'aborted' })
    const { messages } = (await peer.request('chat.history', { sessionKey: 'main' }))['payload']
    expect(messages[0].content[0].text).toBe('and now')
    expect(messages).toHaveLength(2)
  })

  it('by /new loses nothing that is sent right behind it', async () => {
    const kept = openMemoryStore()
    await using gateway = await startGateway({ store: storeWith(kept, slow(kept)) })
    const peer = await gateway.connect()
    const fresh = peer.request('chat.send', send('k1', { message: '/new first' }))
    const next = peer.request('chat.send', send('k2', { message: 'second' }))
    await Promise.all([fresh, next])
    await Promise.all([peer.next(endOf('k1')), peer.next(endOf('k2'))])
    const { messages } = (await peer.request('chat.history', { sessionKey: 'main' }))['payload']
    expect(messages.filter(({ role }: Frame) => role === 'user').map(({ content }: Frame) => content[0].text)).toEqual([
      'first',
      'second',
    ])
  })
})

/** Calls whose answers come in the order they were asked, some turns of the loop later, as from another thread. */
function slow(kept: ReturnType<typeof openMemoryStore>): Partial<ReturnType<typeof openMemoryStore>> {
  const late = async <T>(answer: Promise<T>): Promise<T> => {
    await new Promise((resolve) => setTimeout(resolve, 5))
    return answer
  }
  return {
    session: (key) => late(kept.session(key)),
    accept: (turn) => late(kept.accept(turn)),
    resetSession: (...args) => late(kept.resetSession(...args)),
    start: (...args) => late(kept.start(...args)),
  }
}

describe('agent.wait', () => {
  it('tells how a run ended, whether it has ended or is yet to end, and says timeout otherwise', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    const waited = peer.request('agent.wait', { runId: 'k1', timeoutMs: 10_000 })
    await peer.request('chat.send', send('k1'))
    expect((await waited)['payload']).toMatchObject({ runId: 'k1', status: 'ok', endedAt: expect.any(Number) })
    expect((await peer.request('agent.wait', { runId: 'k1' }))['payload']).toMatchObject({ status: 'ok' })
    expect((await peer.request('agent.wait', { runId: 'nobody', timeoutMs: 1 }))['payload']).toEqual({
      runId: 'nobody',
      status: 'timeout',
    })
    const endless = peer.request('agent.wait', { runId: 'k2', timeoutMs: Number.MAX_SAFE_INTEGER })
    await peer.request('chat.send', send('k2'))
    expect((await endless)['payload']).toMatchObject({ status: 'ok' })
  })
})

import { describe, expect, it } from 'vitest'
import { endOf, type Peer } from '../../support/gateway.ts'
import { heardOf, PROTOCOL, startFakeGateway, stepsOf, textOf } from './fake-gateway.ts'

const send = (peer: Peer, idempotencyKey: string, message: string, more: object = {}) =>
  peer.request('chat.send', { sessionKey: 'main', message, idempotencyKey, ...more })

const LONG = 'hello [[chunks=400 gap=10]]'

describe('chat.send', () => {
  it.for([3, 4] as const)('streams in protocol %s: start, text, end, final', async (protocol) => {
    await using gateway = await startFakeGateway()
    const peer = await gateway.connect(PROTOCOL[protocol])
    const answer = await send(peer, 'k1', 'hello [[chunks=12 gap=20]]')
    expect(answer).toMatchObject({ ok: true, payload: { runId: 'k1', status: 'started' } })
    const end = await peer.next(endOf('k1'))
    const text = 'word '.repeat(12)
    expect(end.payload).toMatchObject({
      state: 'final',
      message: { role: 'assistant', content: [{ type: 'text', text }] },
    })
    expect(stepsOf(peer, 'k1')).toBe('start end final')
    const heard = heardOf(peer, 'k1')
    expect(heard.map(({ data }) => data?.delta ?? '').join('')).toBe(text)
    const deltas = heard.filter(({ state }) => state === 'delta')
    expect(deltas.length).toBeGreaterThan(0)
    for (const { seq, agentId, sessionKey, deltaText } of deltas) {
      expect(seq).toBeGreaterThan(1)
      expect({ agentId, sessionKey }).toEqual(
        protocol === 4
          ? { agentId: 'main', sessionKey: 'agent:main:main' }
          : { agentId: undefined, sessionKey: 'main' },
      )
      expect(typeof deltaText).toBe(protocol === 4 ? 'string' : 'undefined')
    }
    if (protocol === 4) expect(deltas.map(({ deltaText }) => deltaText).join('')).toBe(text)
    expect(end.payload.stopReason).toBe(protocol === 4 ? 'stop' : undefined)
  })

  it('numbers the events of a connection, and of a run, without a hole', async () => {
    await using gateway = await startFakeGateway()
    const peer = await gateway.connect()
    await send(peer, 'k1', 'hello [[chunks=5 gap=5]]')
    await peer.next(endOf('k1'))
    const events = peer.frames.filter(({ seq }) => seq !== undefined)
    expect(events.map(({ seq }) => seq)).toEqual(events.map((_, index) => index + 1))
    const agent = heardOf(peer, 'k1').filter(({ event }) => event === 'agent')
    expect(agent.map(({ seq }) => seq)).toEqual(agent.map((_, index) => index + 1))
    expect(heardOf(peer, 'k1').at(-1)?.['seq']).toBe(agent.length)
  })

  it('answers messages to a busy session one after the other, each under its own run id', async () => {
    await using gateway = await startFakeGateway()
    const peer = await gateway.connect()
    await send(peer, 'k1', 'one [[chunks=8 gap=10]]')
    const answers = await Promise.all([send(peer, 'k2', 'two [[chunks=2]]'), send(peer, 'k3', 'three [[chunks=1]]')])
    expect(answers.map(({ payload }) => payload.status)).toEqual(['started', 'started'])
    await peer.next(endOf('k3'))
    const ends = peer.frames.filter(({ event, payload }) => event === 'chat' && payload.state === 'final')
    expect(ends.map(({ payload }) => [payload.runId, payload.message.content[0].text])).toEqual([
      ['k1', 'word '.repeat(8)],
      ['k2', 'word word '],
      ['k3', 'word '],
    ])
  })

  it.for([
    { params: { sessionKey: 'main', message: 'x' }, problem: "must have required property 'idempotencyKey'" },
    {
      params: { sessionKey: '', message: 'x', idempotencyKey: 'k' },
      problem: 'at /sessionKey: must NOT have fewer than 1 characters',
    },
    { params: { sessionKey: 'main', message: 5, idempotencyKey: 'k' }, problem: 'at /message: must be string' },
    {
      params: { sessionKey: 'main', message: 'x', idempotencyKey: 'k', bogus: 1 },
      problem: "at root: unexpected property 'bogus'",
    },
    {
      params: { sessionKey: 'main', message: 'x', idempotencyKey: 'k', timeoutMs: -1 },
      problem: 'at /timeoutMs: must be >= 0',
    },
  ])('refuses what does not fit, and says what: $problem', async ({ params, problem }) => {
    await using gateway = await startFakeGateway()
    const { ok, error } = await (await gateway.connect()).request('chat.send', params)
    expect(ok).toBe(false)
    expect(error).toMatchObject({ code: 'INVALID_REQUEST', message: `invalid chat.send params: ${problem}` })
  })

  it('refuses an empty message, and an agent that is not there', async () => {
    await using gateway = await startFakeGateway()
    const peer = await gateway.connect()
    expect((await send(peer, 'k1', '')).error.message).toBe('message or attachment required')
    const { error } = await send(peer, 'k2', 'x', { sessionKey: 'agent:other:main' })
    expect(error).toMatchObject({ code: 'INVALID_REQUEST', details: { code: 'UNKNOWN_AGENT', known: ['main'] } })
    expect(error.message).toContain('(known: main)')
  })
})

describe('two sessions', () => {
  /** Which of two runs did what, in order, as somebody hears it who sent neither. */
  async function order(agents?: object): Promise<string> {
    await using gateway = await startFakeGateway(agents && { config: { agents } })
    const [sender, other] = [await gateway.connect(), await gateway.connect({ scopes: ['operator.read'] })]
    for (const key of ['one', 'two']) await send(sender, key, 'hi [[chunks=12 gap=20]]', { sessionKey: key })
    for (const key of ['one', 'two']) await other.next(endOf(key))
    return other.frames
      .filter(({ payload }) => payload?.stream === 'lifecycle')
      .map(({ payload }) => `${payload.runId} ${payload.data.phase}`)
      .join(', ')
  }

  it('are answered beside each other, and heard by everybody who may read', async () => {
    expect(await order()).toMatch(/^one start, two start, .* end, .* end$/)
  })

  it('are answered one behind the other where only one run may be under way', async () => {
    const defaults = { model: { primary: 'fake/fake-1' }, maxConcurrent: 1 }
    expect(await order({ defaults })).toBe('one start, one end, two start, two end')
  })
})

describe('an idempotency key', () => {
  it('that is running answers in_flight, and after the end ok', async () => {
    await using gateway = await startFakeGateway()
    const peer = await gateway.connect()
    await send(peer, 'k1', 'hello [[chunks=5 gap=20]]')
    expect((await send(peer, 'k1', 'hello [[chunks=5 gap=20]]')).payload).toEqual({ runId: 'k1', status: 'in_flight' })
    await peer.next(endOf('k1'))
    expect((await send(peer, 'k1', 'hello [[chunks=5 gap=20]]')).payload).toEqual({ runId: 'k1', status: 'ok' })
    const { payload } = await peer.request('chat.history', { sessionKey: 'main' })
    expect(payload.messages).toHaveLength(2)
  })

  it('of another message is refused, and the first run is untouched', async () => {
    await using gateway = await startFakeGateway()
    const peer = await gateway.connect()
    await send(peer, 'k1', 'hello [[chunks=3 gap=20]]')
    const { error } = await send(peer, 'k1', 'something else')
    expect(error).toMatchObject({ code: 'INVALID_REQUEST', details: { code: 'IDEMPOTENCY_KEY_REUSED' } })
    expect((await peer.next(endOf('k1'))).payload.state).toBe('final')
  })

  it('is not used up by a request that was refused', async () => {
    await using gateway = await startFakeGateway()
    const peer = await gateway.connect()
    expect((await send(peer, 'k1', 'x', { bogus: 1 })).ok).toBe(false)
    expect((await send(peer, 'k1', 'x [[chunks=1]]')).payload.status).toBe('started')
    await peer.next(endOf('k1'))
  })

  it('is another turn in another session', async () => {
    await using gateway = await startFakeGateway()
    const peer = await gateway.connect()
    await send(peer, 'k1', 'hello [[chunks=3 gap=20]]')
    const { payload } = await send(peer, 'k1', 'hello [[chunks=1]]', { sessionKey: 'other' })
    expect(payload.status).toBe('started')
    expect(payload.runId).not.toBe('k1')
    expect((await peer.next(endOf(payload.runId))).payload.sessionKey).toBe('other')
    await peer.next(endOf('k1'))
  })
})

describe('chat.abort', () => {
  it.for([{ runId: 'k1' }, {}])('stops a run and keeps what it had said: %o', async (more) => {
    await using gateway = await startFakeGateway()
    const peer = await gateway.connect()
    await send(peer, 'k1', LONG)
    await peer.next(textOf('k1'))
    const { payload } = await peer.request('chat.abort', { sessionKey: 'main', ...more })
    expect(payload).toEqual({ ok: true, aborted: true, runIds: ['k1'] })
    expect(stepsOf(peer, 'k1')).toBe('start end aborted')
    expect(heardOf(peer, 'k1').at(-1)).toMatchObject({ state: 'aborted', stopReason: 'rpc' })
    const history = await peer.request('chat.history', { sessionKey: 'main' })
    expect(history['payload'].messages).toMatchObject([{ role: 'user' }, { role: 'assistant', stopReason: 'rpc' }])
    const again = await peer.request('chat.abort', { sessionKey: 'main', ...more })
    expect(again['payload']).toEqual({ ok: true, aborted: false, runIds: [] })
    expect((await send(peer, 'k1', LONG)).payload).toEqual({ runId: 'k1', status: 'ok' })
  })

  it('refuses the run of another session', async () => {
    await using gateway = await startFakeGateway()
    const peer = await gateway.connect()
    await send(peer, 'k1', LONG)
    await peer.next(textOf('k1'))
    const { error } = await peer.request('chat.abort', { sessionKey: 'other', runId: 'k1' })
    expect(error).toMatchObject({ code: 'INVALID_REQUEST', message: 'runId does not match sessionKey' })
  })

  it('stops what waits, too', async () => {
    await using gateway = await startFakeGateway()
    const peer = await gateway.connect()
    await send(peer, 'k1', LONG)
    await send(peer, 'k2', 'two')
    const { payload } = await peer.request('chat.abort', { sessionKey: 'main' })
    expect(payload.runIds.sort()).toEqual(['k1', 'k2'])
    for (const runId of ['k1', 'k2']) expect((await peer.next(endOf(runId))).payload.state).toBe('aborted')
  })

  it.for(['/stop', 'stop', 'ESC', ' wait '])('is what the stop word "%s" does', async (word) => {
    await using gateway = await startFakeGateway()
    const peer = await gateway.connect()
    await send(peer, 'k1', LONG)
    await peer.next(textOf('k1'))
    expect((await send(peer, 'k2', word)).payload).toEqual({ ok: true, aborted: true, runIds: ['k1'] })
    expect((await peer.next(endOf('k1'))).payload).toMatchObject({ state: 'aborted', stopReason: 'stop' })
    expect((await send(peer, 'k3', word)).payload).toEqual({ ok: true, aborted: false, runIds: [] })
  })
})

describe('a command', () => {
  it('such as /status is answered without a run', async () => {
    await using gateway = await startFakeGateway()
    const peer = await gateway.connect()
    expect((await send(peer, 'k1', '/status')).payload).toEqual({ runId: 'k1', status: 'started' })
    const { payload } = await peer.next(endOf('k1'))
    expect(payload).toMatchObject({ state: 'final', seq: 1, message: { role: 'assistant', stopReason: 'injected' } })
    expect(payload.message.content[0].text).toContain('fake/fake-1')
    expect(stepsOf(peer, 'k1')).toBe('final')
    const history = await peer.request('chat.history', { sessionKey: 'main' })
    expect(history['payload'].messages).toMatchObject([{ role: 'assistant', stopReason: 'injected' }])
  })

  it('/new begins a new transcript with a greeting', async () => {
    await using gateway = await startFakeGateway()
    const peer = await gateway.connect()
    await send(peer, 'k1', 'hello [[chunks=1]]')
    await peer.next(endOf('k1'))
    const before = await peer.request('chat.history', { sessionKey: 'main' })
    await send(peer, 'k2', '/new')
    await peer.next(endOf('k2'))
    const { payload } = await peer.request('chat.history', { sessionKey: 'main' })
    expect(payload.sessionId).not.toBe(before['payload'].sessionId)
    expect(payload.messages).toHaveLength(2)
    expect(JSON.stringify(payload.messages)).not.toContain('hello [[chunks=1]]')
  })

  it('that changes a session needs the scope of the method that does', async () => {
    await using gateway = await startFakeGateway()
    const peer = await gateway.connect({ scopes: ['operator.write'] })
    expect((await send(peer, 'k1', '/new')).error.message).toBe('missing scope: operator.admin')
  })
})

describe('a session key', () => {
  it('is heard as it was spelled in protocol 3, and in its full form in protocol 4', async () => {
    await using gateway = await startFakeGateway()
    const three = await gateway.connect(PROTOCOL[3])
    const four = await gateway.connect(PROTOCOL[4])
    await send(three, 'k1', 'hi [[chunks=1]]', { sessionKey: 'MyKey' })
    const keys = (peer: Peer, runId: string) => new Set(heardOf(peer, runId).map(({ sessionKey }) => sessionKey))
    await Promise.all([three.next(endOf('k1')), four.next(endOf('k1'))])
    expect([...keys(three, 'k1')]).toEqual(['MyKey'])
    expect([...keys(four, 'k1')]).toEqual(['agent:main:mykey'])
    await send(four, 'k2', 'hi [[chunks=1]]', { sessionKey: 'mykey' })
    await Promise.all([three.next(endOf('k2')), four.next(endOf('k2'))])
    expect([...keys(three, 'k2')]).toEqual(['MyKey'])
    expect([...keys(four, 'k2')]).toEqual(['agent:main:mykey'])
  })

  it('means one session however it is spelled', async () => {
    await using gateway = await startFakeGateway()
    const peer = await gateway.connect()
    const spellings = ['main', 'Main', 'agent:main:main', 'AGENT:MAIN:main']
    for (const [index, sessionKey] of spellings.entries()) {
      await send(peer, `k${index}`, 'hi [[chunks=1]]', { sessionKey })
      await peer.next(endOf(`k${index}`))
    }
    for (const sessionKey of spellings) {
      const { payload } = await peer.request('chat.history', { sessionKey })
      expect(payload.sessionKey).toBe(sessionKey)
      expect(payload.messages).toHaveLength(8)
    }
  })
})

describe('chat.history', () => {
  it('gives the newest entries, as many as asked for', async () => {
    await using gateway = await startFakeGateway()
    const peer = await gateway.connect()
    await send(peer, 'k1', 'first [[chunks=1]]')
    await send(peer, 'k2', 'second [[chunks=2]]')
    await peer.next(endOf('k2'))
    const { payload } = await peer.request('chat.history', { sessionKey: 'main', limit: 2 })
    expect(payload.messages).toMatchObject([
      { role: 'user', content: [{ type: 'text', text: 'second [[chunks=2]]' }] },
      {
        role: 'assistant',
        content: [{ type: 'text', text: 'word word ' }],
        api: 'openai-completions',
        provider: 'fake',
        model: 'fake-1',
        stopReason: 'stop',
      },
    ])
    expect(payload.thinkingLevel).toBe('off')
  })

  it('of a session that nobody has spoken in is empty', async () => {
    await using gateway = await startFakeGateway()
    const { payload } = await (await gateway.connect()).request('chat.history', { sessionKey: 'never-used' })
    expect(payload).toEqual({ sessionKey: 'never-used', messages: [], thinkingLevel: 'off' })
  })

  it.for([
    { limit: 0, problem: 'at /limit: must be >= 1' },
    { limit: 1001, problem: 'at /limit: must be <= 1000' },
  ])('has bounds: $problem', async ({ limit, problem }) => {
    await using gateway = await startFakeGateway()
    const { error } = await (await gateway.connect()).request('chat.history', { sessionKey: 'main', limit })
    expect(error.message).toBe(`invalid chat.history params: ${problem}`)
  })
})

import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { CONNECT, openPeer, type Peer, startGateway, type TestGateway } from '../support/gateway.ts'

let gateway: TestGateway
beforeAll(async () => {
  gateway = await startGateway({ config: { gateway: { handshakeTimeoutMs: 300 } } })
})
afterAll(() => gateway.stop())

/** What a peer is told besides the challenge, and how it ends. */
async function fate(peer: Peer) {
  const close = await peer.closed
  return { close, told: peer.frames.filter(({ event }) => event !== 'connect.challenge') }
}

const req = (method: string, params?: unknown, more: object = {}) => ({ type: 'req', id: '1', method, params, ...more })
const tooLarge = (fill: string) => JSON.stringify(req('connect', { ...CONNECT, userAgent: fill.repeat(66_000) }))
const nested = (depth: number) =>
  `{"type":"req","id":"1","method":"connect","params":${'['.repeat(depth)}${']'.repeat(depth)}}`

describe('a first frame', () => {
  const closes: [string, object | string, { code: number; reason: string }][] = [
    ['that is not JSON', 'hello', { code: 1000, reason: '' }],
    ['that is JSON but no object', '42', { code: 1008, reason: 'invalid request frame' }],
    ['that is null', 'null', { code: 1008, reason: 'invalid request frame' }],
    ['that is no request', { type: 'event', event: 'x' }, { code: 1008, reason: 'invalid request frame' }],
    ['with a member too many', req('connect', CONNECT, { extra: 1 }), { code: 1008, reason: 'invalid request frame' }],
    ['with a number for an id', { ...req('connect', CONNECT), id: 7 }, { code: 1008, reason: 'invalid request frame' }],
    ['without an id', { type: 'req', method: 'connect' }, { code: 1008, reason: 'invalid request frame' }],
    ['that is too large', tooLarge('x'), { code: 1009, reason: 'preauth payload too large' }],
  ]
  for (const [what, frame, close] of closes)
    it(`${what} ends the connection without a word`, async () => {
      const peer = await gateway.open()
      peer.send(frame)
      expect(await fate(peer)).toEqual({ close, told: [] })
    })

  for (const method of ['health', 'xstate.stop', '__proto__', 'constructor', 'toString', 'socket.closed'])
    it(`that asks for ${method} is refused: a peer connects first`, async () => {
      const peer = await gateway.open()
      peer.send(req(method))
      expect(await fate(peer)).toMatchObject({
        close: { code: 1008, reason: 'invalid handshake: first request must be connect' },
        told: [{ id: '1', ok: false, error: { code: 'INVALID_REQUEST' } }],
      })
    })

  it('that never comes ends the connection', async () => {
    expect(await fate(await gateway.open())).toEqual({ close: { code: 1008, reason: 'handshake timeout' }, told: [] })
  })

  it('may be binary, and is read as the text it holds', async () => {
    const peer = await gateway.open()
    peer.socket.send(Buffer.from(JSON.stringify(req('connect', CONNECT))))
    expect(await peer.next(({ type }) => type === 'res')).toMatchObject({ ok: true, payload: { type: 'hello-ok' } })
  })

  it('that is text but not UTF-8 ends the connection with 1007', async () => {
    const peer = await gateway.open()
    peer.socket.send(Buffer.from([0xff, 0xfe]), { binary: false })
    expect((await fate(peer)).close.code).toBe(1007)
  })

  it('that is binary and not UTF-8 ends the connection with 1007, too, as one that comes later does', async () => {
    const peer = await gateway.open()
    peer.socket.send(Buffer.from([0x7b, 0xff, 0x7d]))
    expect(await fate(peer)).toEqual({ close: { code: 1007, reason: '' }, told: [] })
    const later = await gateway.connect()
    later.socket.send(Buffer.from([...Buffer.from('{"type":"req","id":"'), 0xc3, 0x28, ...Buffer.from('"}')]))
    expect((await later.closed).code).toBe(1007)
  })

  it('that is nested deeply is refused, and costs nobody else anything', async () => {
    for (const depth of [1_000, 10_000, 30_000]) {
      const peer = await gateway.open()
      peer.send(nested(depth))
      expect((await fate(peer)).close.code).toBe(1008)
    }
    await using other = await startGateway()
    await other.connect()
  })

  it('with parameters that do not fit is answered in words that name them', async () => {
    const peer = await gateway.open()
    peer.send(req('connect', { ...CONNECT, client: { id: 'x' } }))
    const { close, told } = await fate(peer)
    expect(told[0]?.['error'].message).toContain("at /client: must have required property 'version'")
    expect(close.code).toBe(1008)
    expect(Buffer.byteLength(close.reason)).toBeLessThanOrEqual(123)
  })

  for (const [min, max] of [
    [1, 2],
    [5, 9],
    [4, 3],
  ])
    it(`for protocols ${min} to ${max} is refused with 1002`, async () => {
      const peer = await gateway.open()
      peer.send(req('connect', { ...CONNECT, minProtocol: min, maxProtocol: max }))
      expect(await fate(peer)).toMatchObject({
        close: { code: 1002, reason: 'protocol mismatch' },
        told: [
          { ok: false, error: { message: 'protocol mismatch', details: { expectedProtocol: expect.any(Number) } } },
        ],
      })
    })

  for (const params of [null, [], 'connect', 7, true])
    it(`with ${JSON.stringify(params)} for parameters does not let anybody in`, async () => {
      const peer = await gateway.open()
      peer.send(req('connect', params))
      const { told } = await fate(peer)
      expect(told).toMatchObject([{ ok: false }])
    })
})

describe('frames that come before the answer to connect', () => {
  const impatient = async (count: number) => {
    const peer = await gateway.open()
    peer.send({ ...req('connect', CONNECT), id: 'c' })
    for (let n = 0; n < count; n++) peer.send({ ...req('health'), id: `h${n}` })
    return peer
  }

  it('are held, four of them, and answered in order after hello-ok', async () => {
    const peer = await impatient(4)
    await peer.next(({ id }) => id === 'h3')
    expect(peer.frames.filter(({ type }) => type === 'res').map(({ id }) => id)).toEqual(['c', 'h0', 'h1', 'h2', 'h3'])
  })

  it('are too many when they are five', async () => {
    // The answer may have come before the fifth frame is read; then nothing is wrong with it.
    const peer = await gateway.open()
    const frames = [{ ...req('connect', CONNECT), id: 'c' }, ...Array.from({ length: 5 }, () => req('health'))]
    // One write of the socket below, so that all of them are read at once.
    const raw = (peer.socket as unknown as { _socket: { cork(): void; uncork(): void } })._socket
    raw.cork()
    for (const frame of frames) peer.send(frame)
    raw.uncork()
    const ended = await Promise.race([peer.closed, peer.next(({ ok }) => ok === true)])
    if ('code' in ended) expect(ended).toEqual({ code: 1008, reason: 'too many pending handshake frames' })
    else expect(ended['payload'].type).toBe('hello-ok')
  })
})

describe('the answer to connect', () => {
  const scopes = ['operator.read', 'operator.everything']

  it.each([3, 4])('tells in protocol %i who asks for offsets which scopes were denied, and why', async (protocol) => {
    const params = { minProtocol: protocol, maxProtocol: protocol, scopes }
    const { hello } = await gateway.connect({ ...params, caps: ['stream-offsets'] })
    expect(hello['payload'].auth).toEqual({
      role: 'operator',
      scopes: ['operator.read'],
      denied: [{ scope: 'operator.everything', reason: 'no such scope' }],
    })
    const { hello: all } = await gateway.connect({ ...params, scopes: ['operator.read'], caps: ['stream-offsets'] })
    expect(all['payload'].auth?.denied).toBeUndefined()
    const { hello: old } = await gateway.connect({ ...params, caps: ['delta-only'] })
    expect(old['payload'].auth).toEqual(protocol === 3 ? undefined : { role: 'operator', scopes: ['operator.read'] })
  })
})

describe('after the handshake', () => {
  it('a bad frame is answered under its id, and the connection stays', async () => {
    const peer = await gateway.connect()
    for (const [frame, id] of [
      ['not JSON', 'invalid'],
      ['null', 'invalid'],
      ['[]', 'invalid'],
      ['{"type":"req","id":7,"method":"health"}', 7],
      ['{"type":"req","id":"x","method":""}', 'x'],
      ['{"type":"req","id":"y","method":"health","more":1}', 'y'],
      ['{"type":"req","id":"z"}', 'z'],
      ['{"type":"event","event":"tick","id":"e"}', 'e'],
    ] as const) {
      peer.send(frame)
      const answer = await peer.next((it) => it['type'] === 'res')
      expect(answer).toMatchObject({ id, ok: false, error: { code: 'INVALID_REQUEST' } })
      expect(answer['error'].message).toMatch(/^invalid request frame: /)
    }
    expect(await peer.request('health')).toMatchObject({ ok: true })
  })

  it('no name chooses anything but a method', async () => {
    const peer = await gateway.connect()
    for (const method of [
      'xstate.stop',
      'xstate.done.actor.0.connection.handshake.connecting',
      'xstate.error.actor.x',
      'socket.closed',
      'close',
      'frame.connect',
      '*',
      '__proto__',
      'constructor',
      'toString',
      'hasOwnProperty',
      'valueOf',
    ])
      expect(await peer.request(method, {}, `id ${method}`)).toMatchObject({
        ok: false,
        error: { code: 'INVALID_REQUEST', message: `unknown method: ${method}`, details: { code: 'UNKNOWN_METHOD' } },
      })
    for (const id of ['__proto__', 'constructor', 'toString'])
      expect(await peer.request('health', undefined, id)).toMatchObject({ id, ok: true })
    expect(await peer.request('connect', CONNECT)).toMatchObject({
      ok: false,
      error: { message: 'connect is only valid as the first request' },
    })
  })

  it('the same request id is answered as often as it is sent', async () => {
    const peer = await gateway.connect()
    peer.send({ ...req('health'), id: 'same' })
    peer.send({ ...req('health'), id: 'same' })
    for (let n = 0; n < 2; n++) expect(await peer.next(({ id }) => id === 'same')).toMatchObject({ ok: true })
  })

  it('session keys that objects inherit are sessions like others', async () => {
    const peer = await gateway.connect({ minProtocol: 4, maxProtocol: 4 })
    for (const sessionKey of ['__proto__', 'constructor', 'hasOwnProperty']) {
      expect((await peer.request('chat.history', { sessionKey }))['payload']).toMatchObject({
        sessionKey,
        messages: [],
      })
      const idempotencyKey = `key ${sessionKey}`
      await peer.request('chat.send', { sessionKey, message: '/status', idempotencyKey })
      const end = await peer.next(({ event, payload }) => event === 'chat' && payload.runId === idempotencyKey)
      expect(end['payload'].sessionKey).toBe(`agent:main:${sessionKey}`.toLowerCase())
    }
    expect(Object.keys(Object.prototype)).toEqual([])
  })

  it('a message to an agent that is not there names those that are', async () => {
    const peer = await gateway.connect()
    const answer = await peer.request('chat.send', {
      sessionKey: 'agent:nobody:main',
      message: 'x',
      idempotencyKey: 'n',
    })
    expect(answer['error']).toMatchObject({
      message: 'unknown agent id "nobody" (known: main)',
      details: { code: 'UNKNOWN_AGENT', known: ['main'] },
    })
  })

  const problem = 'invalid request frame: it is nested more than 32 deep'
  const deepest = (id: string, params: (deep: string) => string, depth: number) =>
    `{"type":"req","id":"${id}","method":"chat.send","params":${params(`${'['.repeat(depth)}${']'.repeat(depth)}`)}}`
  const withContext = (deep: string) =>
    `{"sessionKey":"main","message":"/status","idempotencyKey":"deep","context":${deep}}`

  it('parameters that are nested deeply are refused under their id, twice, and the connection stays', async () => {
    for (const depth of [31, 1_000, 10_000, 100_000]) {
      const peer = await gateway.connect()
      for (const [id, params] of [
        ['a', (deep: string) => `[${deep}]`],
        ['b', withContext],
      ] as const) {
        peer.send(deepest(id, params, depth))
        expect(await peer.next((it) => it['id'] === id)).toMatchObject({ ok: false, error: { message: problem } })
      }
      expect(await peer.request('health')).toMatchObject({ ok: true })
    }
  })

  it('parameters that are nested deeply for the third time end the connection', async () => {
    const peer = await gateway.connect()
    for (const id of ['a', 'b', 'c']) peer.send(deepest(id, withContext, 10_000))
    expect(await peer.closed).toEqual({ code: 1008, reason: 'invalid request frame' })
    expect(peer.frames.filter(({ ok }) => ok === false).map(({ id }) => id)).toEqual(['a', 'b'])
  })

  it('as deep as may be is deep enough', async () => {
    const peer = await gateway.connect()
    for (let times = 0; times < 4; times++) {
      peer.send(deepest('d', withContext, 30))
      expect((await peer.next(({ id }) => id === 'd'))['error']?.message).not.toBe(problem)
    }
  })

  it('a frame that is larger than the policy says ends the connection with 1009', async () => {
    const peer = await gateway.connect()
    const { maxPayload } = peer.hello['payload'].policy
    peer.send(`{"type":"req","id":"1","method":"health","params":{"x":"${'x'.repeat(maxPayload)}"}}`)
    expect((await peer.closed).code).toBe(1009)
  })
})

it('opens on the paths that are served, with any query', async () => {
  for (const path of ['/', '/?token=x', '/ws', '/ws/', '/ws?a=b', '/gateway', '/gateway?session=main'])
    (await openPeer(gateway.url, { path })).socket.terminate()
  for (const path of ['/other', '/ws/x', '/health', '/ws%2f'])
    await expect(openPeer(gateway.url, { path })).rejects.toMatchObject({ status: 404 })
})

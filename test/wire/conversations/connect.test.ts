import { describe, expect, it } from 'vitest'
import { CONNECT, type Frame, type Peer, startGateway, TOKEN } from '../../support/gateway.ts'

const isChallenge = ({ event }: Frame) => event === 'connect.challenge'

/** Shakes hands with exactly these params. */
async function shake(peer: Peer, params: object): Promise<Frame> {
  await peer.next(isChallenge)
  return peer.request('connect', params)
}

const range = (minProtocol: number, maxProtocol: number) => ({ ...CONNECT, minProtocol, maxProtocol })

describe('connect', () => {
  it('is answered to the short form, a bare token, in protocol 3', async () => {
    await using gateway = await startGateway()
    const { ok, payload } = await shake(await gateway.open(), { token: TOKEN })
    expect(ok).toBe(true)
    expect(payload).toMatchObject({ type: 'hello-ok', protocol: 3 })
    expect(payload).not.toHaveProperty('auth')
  })

  it('is answered in protocol 3 without auth, to a client without a device', async () => {
    await using gateway = await startGateway()
    const { payload } = await shake(await gateway.open(), CONNECT)
    expect(Object.keys(payload).sort()).toEqual(['features', 'policy', 'protocol', 'server', 'snapshot', 'type'])
    expect(payload.policy).toEqual({ maxPayload: 524_288, maxBufferedBytes: 1_572_864, tickIntervalMs: 30_000 })
    expect(payload.snapshot.sessionDefaults).toEqual({
      defaultAgentId: 'main',
      mainKey: 'main',
      mainSessionKey: 'agent:main:main',
      scope: 'per-sender',
    })
  })

  it('is answered in protocol 4 with the role and the scopes that are enforced', async () => {
    await using gateway = await startGateway()
    const { payload } = await shake(await gateway.open(), { ...range(4, 4), scopes: ['operator.read', 'bogus'] })
    expect(payload.auth).toEqual({ role: 'operator', scopes: ['operator.read'] })
  })

  it.for([
    { min: 3, max: 4, spoken: 4 },
    { min: 3, max: 3, spoken: 3 },
    { min: 1, max: 9, spoken: 4 },
    { min: 1, max: 3, spoken: 3 },
    { min: 4, max: 12, spoken: 4 },
  ])('speaks protocol $spoken with a client that speaks $min to $max', async ({ min, max, spoken }) => {
    await using gateway = await startGateway()
    const { payload } = await shake(await gateway.open(), range(min, max))
    expect(payload.protocol).toBe(spoken)
  })

  it.for([
    { min: 1, max: 2, expected: 3 },
    { min: 5, max: 9, expected: 4 },
  ])('refuses $min to $max and names the nearest protocol', async ({ min, max, expected }) => {
    await using gateway = await startGateway()
    const peer = await gateway.open()
    const { error } = await shake(peer, range(min, max))
    expect(error).toEqual({
      code: 'INVALID_REQUEST',
      message: 'protocol mismatch',
      details: {
        code: 'PROTOCOL_MISMATCH',
        clientMinProtocol: min,
        clientMaxProtocol: max,
        expectedProtocol: expected,
      },
    })
    expect(await peer.closed).toEqual({ code: 1002, reason: 'protocol mismatch' })
  })

  it.for([
    {
      what: 'a wrong token',
      params: { ...CONNECT, auth: { token: 'wrong-token' } },
      message: 'unauthorized: gateway token mismatch (provide gateway auth token)',
      code: 'AUTH_TOKEN_MISMATCH',
    },
    {
      what: 'a wrong token in the short form',
      params: { token: 'wrong-token' },
      message: 'unauthorized: gateway token mismatch (provide gateway auth token)',
      code: 'AUTH_TOKEN_MISMATCH',
    },
    {
      what: 'a wrong token of the command line',
      params: { ...CONNECT, client: { ...CONNECT.client, id: 'cli', mode: 'cli' }, auth: { token: 'wrong-token' } },
      message: 'unauthorized: gateway token mismatch (set gateway.remote.token to match gateway.auth.token)',
      code: 'AUTH_TOKEN_MISMATCH',
    },
    {
      what: 'a password in place of the token',
      params: { ...CONNECT, auth: { password: 'pw' } },
      message: 'unauthorized: gateway token missing (provide gateway auth token)',
      code: 'AUTH_TOKEN_MISSING',
    },
    {
      what: 'a role there is not',
      params: { ...CONNECT, role: 'admin' },
      message: 'invalid role',
      code: 'INVALID_ROLE',
    },
    {
      what: 'a client without a version',
      params: { ...CONNECT, client: { id: 'cli', platform: 'linux', mode: 'cli' } },
      message: "invalid connect params: at /client: must have required property 'version'",
      code: 'INVALID_PARAMS',
    },
  ])('refuses $what in the words of the wire', async ({ params, message, code }) => {
    await using gateway = await startGateway()
    const peer = await gateway.open()
    const { ok, error } = await shake(peer, params)
    expect(ok).toBe(false)
    expect(error).toMatchObject({ code: 'INVALID_REQUEST', message, details: { code } })
    expect(await peer.closed).toEqual({ code: 1008, reason: message })
  })

  it('asks who neither token nor device tells for a device', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.open()
    const { auth: _, ...anonymous } = CONNECT
    const { error } = await shake(peer, anonymous)
    expect(error).toMatchObject({ code: 'NOT_PAIRED', message: 'device identity required' })
    expect(await peer.closed).toEqual({ code: 1008, reason: 'device identity required' })
  })

  it('must be the first request', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.open()
    const { error } = await peer.request('health')
    expect(error).toMatchObject({ message: 'invalid handshake: first request must be connect' })
    expect(await peer.closed).toEqual({ code: 1008, reason: 'invalid handshake: first request must be connect' })
  })

  it('is refused a second time, and the connection goes on', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    const { error } = await peer.request('connect', CONNECT)
    expect(error).toMatchObject({ message: 'connect is only valid as the first request' })
    expect(await peer.request('last-heartbeat')).toMatchObject({ ok: true, payload: null })
  })

  it('comes in a frame without further members', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.open()
    peer.send({ type: 'req', id: '1', method: 'connect', params: CONNECT, extra: 1 })
    expect(await peer.closed).toEqual({ code: 1008, reason: 'invalid request frame' })
    expect(peer.frames.filter(({ type }) => type === 'res')).toEqual([])
  })
})

describe('a first frame', () => {
  it.for([
    { what: 'is not JSON', frame: 'hello', close: { code: 1000, reason: '' } },
    { what: 'is no request', frame: '{"hello":"world"}', close: { code: 1008, reason: 'invalid request frame' } },
    { what: 'is too large', frame: 'x'.repeat(65_537), close: { code: 1009, reason: 'preauth payload too large' } },
  ])('that $what closes the connection without an answer', async ({ frame, close }) => {
    await using gateway = await startGateway()
    const peer = await gateway.open()
    peer.send(frame)
    expect(await peer.closed).toEqual(close)
    expect(peer.frames.filter((heard) => !isChallenge(heard))).toEqual([])
  })
})

describe('a frame after the handshake', () => {
  it.for([
    { frame: '{"type":"req","method":"health"}', id: 'invalid', problem: "must have required property 'id'" },
    { frame: '{"type":"req","id":7,"method":"health"}', id: 7, problem: 'at /id: must be string' },
    {
      frame: '{"type":"req","id":"x","method":"health","extra":1}',
      id: 'x',
      problem: "at root: unexpected property 'extra'",
    },
    { frame: 'null', id: 'invalid', problem: 'must be object' },
    { frame: 'nonsense', id: 'invalid', problem: 'not JSON' },
  ])('that is no request is answered: $frame', async ({ frame, id, problem }) => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    peer.send(frame)
    const { error } = await peer.next((answer) => answer.type === 'res' && answer.id === id)
    expect(error).toMatchObject({ code: 'INVALID_REQUEST', message: `invalid request frame: ${problem}` })
    expect(await peer.request('last-heartbeat')).toMatchObject({ ok: true })
  })

  it.for([
    { protocol: 3, limit: 524_288 },
    { protocol: 4, limit: 8 * 1024 * 1024 },
  ])('may be as long as policy.maxPayload says in protocol $protocol', async ({ protocol, limit }) => {
    await using gateway = await startGateway()
    const peer = await gateway.connect(range(protocol, protocol))
    expect(peer.hello['payload'].policy.maxPayload).toBe(limit)
    const frame = (text: string) => JSON.stringify({ type: 'req', id: 'x', method: 'last-heartbeat', params: { text } })
    const room = limit - frame('').length
    peer.send(frame('x'.repeat(room)))
    expect(await peer.next(({ id }) => id === 'x')).toMatchObject({ ok: true })
    peer.send(frame('x'.repeat(room + 1)))
    expect(await peer.closed).toEqual({ code: 1009, reason: '' })
  })

  it('is answered once for each time its id is used', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    const answers = await Promise.all([
      peer.request('last-heartbeat', {}, 'dup'),
      peer.request('last-heartbeat', {}, 'dup'),
    ])
    expect(answers.map(({ ok }) => ok)).toEqual([true, true])
  })
})

describe('a scope', () => {
  it.for([
    { protocol: 3, code: 'INVALID_REQUEST' },
    { protocol: 4, code: 'FORBIDDEN' },
  ])('that is missing is $code in protocol $protocol', async ({ protocol, code }) => {
    await using gateway = await startGateway()
    const peer = await gateway.connect({ ...range(protocol, protocol), scopes: ['operator.read'] })
    const { error } = await peer.request('chat.send', { sessionKey: 'main', message: 'x', idempotencyKey: 'k' })
    expect(error).toEqual({
      code,
      message: 'missing scope: operator.write',
      details: { code: 'MISSING_SCOPE', missingScope: 'operator.write', requiredScopes: ['operator.write'] },
    })
  })

  it('is needed to learn that there is no such method', async () => {
    await using gateway = await startGateway()
    const reader = await gateway.connect({ scopes: ['operator.read'] })
    const admin = await gateway.connect()
    expect((await reader.request('no.such')).error.message).toBe('missing scope: operator.admin')
    expect((await admin.request('no.such')).error.message).toBe('unknown method: no.such')
  })
})

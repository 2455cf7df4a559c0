/** Agents over plain HTTP: the delegation client and the dashboard of Kurultai, and whoever else has no WebSocket. */
import { once } from 'node:events'
import { Agent, get as begin, type IncomingMessage } from 'node:http'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { endOf, type Frame, startGateway, type TestGateway, TOKEN } from '../support/gateway.ts'
import { type ModelServer, startModelServer } from '../support/model-server.ts'

let model: ModelServer
beforeEach(async () => {
  model = await startModelServer()
})
afterEach(() => model.close())

const COUNCIL = ['main', 'researcher', 'writer']

const open = (changes: { agentToAgent?: object; gateway?: object } = {}) =>
  startGateway({
    config: {
      gateway: changes.gateway ?? {},
      models: {
        providers: {
          fake: { baseUrl: `${model.url}/v1`, apiKey: 'none', api: 'openai-completions', models: [{ id: 'm' }] },
        },
      },
      agents: {
        defaults: { model: 'fake/m' },
        list: COUNCIL.map((id) => ({ id, name: id === 'researcher' ? 'Möngke' : id })),
      },
      tools: { agentToAgent: changes.agentToAgent ?? { enabled: true, allow: COUNCIL } },
    },
  })

const http = (gateway: TestGateway, path: string) => new URL(path, gateway.url.replace(/^ws/, 'http'))
const bearer = (token = TOKEN) => ({ authorization: `Bearer ${token}` })

async function post(gateway: TestGateway, agent: string, body: unknown, headers: Record<string, string> = bearer()) {
  const response = await fetch(http(gateway, `/agent/${encodeURIComponent(agent)}/message`), {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  })
  return { status: response.status, headers: response.headers, body: (await response.json()) as Frame }
}
async function get(gateway: TestGateway, path: string, headers: Record<string, string> = bearer()) {
  const response = await fetch(http(gateway, path), { headers })
  return { status: response.status, headers: response.headers, body: (await response.json()) as Frame }
}

describe('a message to an agent', () => {
  it('is answered with what the agent said, whatever it is called', async () => {
    await using gateway = await open()
    const context = { task_id: 't1', delegated_by: 'main', task_type: 'search', reply_to: 'main' }
    const { status, body } = await post(gateway, 'Mongke', { message: 'dig [[text=gold]]', context })
    expect(status).toBe(200)
    expect(body).toEqual({
      response: 'gold',
      agent: 'researcher',
      thread_id: 'agent:researcher:main',
      timestamp: expect.stringMatching(/^\d{4}-\d\d-\d\dT/),
      runId: 't1',
    })
  })

  it('is one message, however often it is sent under one key', async () => {
    await using gateway = await open()
    const message = { message: 'dig [[text=gold]]' }
    const key = { ...bearer(), 'idempotency-key': 'k1' }
    const both = await Promise.all([post(gateway, 'main', message, key), post(gateway, 'main', message, key)])
    expect(both.map(({ body }) => body.response)).toEqual(['gold', 'gold'])
    expect((await post(gateway, 'main', message, key)).body.response).toBe('gold')
    expect(model.requests).toHaveLength(1)
    expect(await post(gateway, 'main', { message: 'another' }, key)).toMatchObject({
      status: 409,
      body: { ok: false, error: { code: 'IDEMPOTENCY_KEY_REUSED' } },
    })
  })

  it('is told where to ask again when the client does not want to wait', async () => {
    await using gateway = await open()
    const slow = { message: 'dig [[chunks=20 gap=20]]' }
    const { status, headers, body } = await post(gateway, 'main', slow, { ...bearer(), prefer: 'respond-async' })
    expect([status, body.status, headers.get('preference-applied')]).toEqual([202, 'accepted', 'respond-async'])
    const place = headers.get('location')!
    expect(await get(gateway, place)).toMatchObject({ status: 202, body: { status: 'accepted', runId: body.runId } })
    const peer = await gateway.connect()
    await peer.request('agent.wait', { runId: body.runId })
    expect((await get(gateway, place)).body.response).toBe('word '.repeat(20))
  })

  it('is looked for at its own agent, and is at no other', async () => {
    await using gateway = await open()
    const sent = async (key: string, message: string) =>
      post(gateway, 'main', { message }, { ...bearer(), 'idempotency-key': key })
    expect((await sent('well', 'dig [[text=gold]]')).status).toBe(200)
    expect((await sent('ill', '[[fail=400]]')).status).toBe(502)
    for (const [key, status] of [
      ['well', 200],
      ['ill', 502],
      ['none', 404],
    ] as const)
      expect((await get(gateway, `/agent/main/message/${key}`)).status, key).toBe(status)
    for (const key of ['well', 'ill'])
      expect(await get(gateway, `/agent/writer/message/${key}`)).toMatchObject({
        status: 404,
        body: { ok: false, error: { code: 'UNKNOWN_RUN', message: 'unknown run id' } },
      })
  })

  it.each([
    ['Council', 'agent:researcher:council'],
    [' AGENT:Mongke:Council ', 'agent:researcher:council'],
    ['main', 'agent:researcher:main'],
    [undefined, 'agent:researcher:main'],
  ])('is told with the key of its session, which was spelled %j', async (sessionKey, key) => {
    await using gateway = await open()
    const sent = await post(gateway, 'researcher', { message: '[[text=gold]]', sessionKey })
    const found = await get(gateway, `/agent/researcher/message/${sent.body['runId']}`)
    expect([sent.body['thread_id'], found.body['thread_id']]).toEqual([key, key])
  })

  it('is answered as any other, in the same session as over a WebSocket', async () => {
    await using gateway = await open()
    const peer = await gateway.connect()
    await post(gateway, 'main', { message: 'first [[text=one]]' })
    await peer.request('chat.send', { sessionKey: 'main', message: 'second', idempotencyKey: 'k2' })
    await peer.next(endOf('k2'))
    const { payload } = await peer.request('chat.history', { sessionKey: 'main' })
    expect(payload.messages.map((entry: Frame) => entry.content[0].text).slice(0, 3)).toEqual([
      'first [[text=one]]',
      'one',
      'second',
    ])
  })

  it.each<[string, unknown, Record<string, string>, number, RegExp]>([
    ['no token', { message: 'x' }, {}, 401, /Authorization: Bearer/],
    ['a wrong token', { message: 'x' }, bearer('wrong'), 401, /mismatch/],
    ['another type', { message: 'x' }, { ...bearer(), 'content-type': 'text/plain' }, 415, /application\/json/],
    ['no JSON', '{', bearer(), 400, /no JSON/],
    ['a list', [], bearer(), 400, /JSON object/],
    ['no message', { message: ' ' }, bearer(), 400, /message: must be a text/],
    [
      'a sender that is nobody',
      { message: 'x', context: { delegated_by: 'wrong' } },
      bearer(),
      400,
      /no agent is called "wrong" \(known: main/,
    ],
    ['a task that is no text', { message: 'x', context: { task_id: 5 } }, bearer(), 400, /task_id: must be a text/],
    ['a context that is none', { message: 'x', context: [] }, bearer(), 400, /context: must be an object/],
    ['too long a message', { message: 'x'.repeat(300_000) }, bearer(), 400, /more than 262144 characters/],
    [
      'a page of elsewhere',
      { message: 'x' },
      { ...bearer(), origin: 'https://evil.example' },
      403,
      /origin not allowed/,
    ],
  ])('is refused with %s', async (_, body, headers, status, words) => {
    await using gateway = await open()
    const answer = await post(gateway, 'main', body, headers)
    expect([answer.status, answer.body.error.message]).toEqual([status, expect.stringMatching(words)])
    expect(model.requests).toHaveLength(0)
  })

  it('is refused for an agent that is not there, naming those that are', async () => {
    await using gateway = await open()
    expect(await post(gateway, 'nobody', { message: 'x' })).toMatchObject({
      status: 404,
      body: { error: { code: 'UNKNOWN_AGENT', known: COUNCIL } },
    })
  })

  it('is refused for one that is outside what agents may', async () => {
    await using gateway = await open({ agentToAgent: { enabled: true, allow: { main: ['writer'] } } })
    const by = (sender: string) => ({ message: 'x [[text=yes]]', context: { delegated_by: sender } })
    expect(await post(gateway, 'researcher', by('main'))).toMatchObject({
      status: 403,
      body: { error: { code: 'AGENT_NOT_ALLOWED' } },
    })
    expect(await post(gateway, 'writer', by('researcher'))).toMatchObject({ status: 403 })
    expect(await post(gateway, 'writer', by('main'))).toMatchObject({ status: 200 })
    expect(await post(gateway, 'researcher', { message: 'x' })).toMatchObject({ status: 403 })
  })

  it('is taken where agents may not send to each other, unless it is for an agent', async () => {
    await using gateway = await open({ agentToAgent: { enabled: false } })
    expect(await post(gateway, 'main', { message: '[[text=yes]]' })).toMatchObject({ status: 200 })
    const delegated = { message: 'x', context: { delegated_by: 'main' } }
    expect(await post(gateway, 'writer', delegated)).toMatchObject({ status: 403 })
  })

  it('that fails says why, with the id of its run', async () => {
    await using gateway = await open()
    expect(
      await post(gateway, 'main', { message: '[[fail=400]]' }, { ...bearer(), 'idempotency-key': 'k' }),
    ).toMatchObject({
      status: 502,
      body: { ok: false, error: { code: 'RUN_FAILED', runId: 'k' } },
    })
  })

  it('may be sent by a named token as far as it goes, and by none that only reads', async () => {
    await using gateway = await open()
    const peer = await gateway.connect()
    const make = async (changes: object) =>
      (await peer.request('tokens.create', { name: 'n', ...changes }))['payload'].token as string
    const reader = await make({ scopes: ['operator.read'] })
    expect(await post(gateway, 'main', { message: 'x' }, bearer(reader))).toMatchObject({
      status: 403,
      body: { error: { code: 'MISSING_SCOPE' } },
    })
    const narrow = await make({ scopes: ['operator.read', 'operator.write'], sessions: ['agent:writer:*'] })
    expect(await post(gateway, 'main', { message: 'x' }, bearer(narrow))).toMatchObject({ status: 404 })
    expect(await post(gateway, 'writer', { message: '[[text=yes]]' }, bearer(narrow))).toMatchObject({ status: 200 })
    const { body } = await get(gateway, '/api/sessions', bearer(narrow))
    expect(body.map(({ sessionId }: Frame) => sessionId)).toEqual(['agent:writer:main'])
  })

  it('is refused with the time to come back when there are too many', async () => {
    await using gateway = await open({ gateway: { limits: { requestsPerSecond: 1, burst: 1 } } })
    const answers = await Promise.all(Array.from({ length: 12 }, () => get(gateway, '/api/sessions')))
    const refused = answers.filter(({ status }) => status === 429)
    // Each connection has an allowance of its own, and a client has a few.
    expect(refused.every(({ headers }) => Number(headers.get('retry-after')) >= 1)).toBe(true)
    expect(answers.every(({ status }) => status === 200 || status === 429)).toBe(true)
  })
})

describe('a connection that is kept', () => {
  it('is listened to once, however many requests come on it', async () => {
    await using gateway = await open()
    using line = Object.assign(new Agent({ keepAlive: true, maxSockets: 1 }), {
      [Symbol.dispose]: () => line.destroy(),
    })
    const warned: string[] = []
    const onWarning = ({ message }: Error) => void warned.push(message)
    process.on('warning', onWarning)
    const ports = new Set<number | undefined>()
    for (let times = 0; times < 20; times++) {
      const request = begin(http(gateway, '/api/sessions'), { agent: line, headers: bearer() })
      const [response] = (await once(request, 'response')) as [IncomingMessage]
      expect(response.statusCode).toBe(200)
      ports.add(response.socket.localPort)
      response.resume()
      await once(response, 'close')
    }
    process.off('warning', onWarning)
    expect(ports.size).toBe(1)
    expect(warned).toEqual([])
  })
})

describe('the list of sessions', () => {
  it.each(['/api/sessions', '/sessions'])('is at %s', async (path) => {
    await using gateway = await open()
    await post(gateway, 'researcher', { message: '[[text=gold]]' })
    expect(await get(gateway, path)).toMatchObject({
      status: 200,
      body: [
        {
          sessionId: 'agent:researcher:main',
          agentId: 'researcher',
          lastActivity: expect.any(Number),
          messageCount: 2,
        },
      ],
    })
    expect((await get(gateway, path, {})).status).toBe(401)
  })

  it('is for GET only, and nothing else is there', async () => {
    await using gateway = await open()
    const answer = await fetch(http(gateway, '/api/sessions'), { method: 'DELETE', headers: bearer() })
    expect([answer.status, answer.headers.get('allow')]).toEqual([405, 'GET'])
    for (const path of ['/api/nothing', '/agent/main', '/agent/main/message/', '/sessions/x'])
      expect((await get(gateway, path)).status, path).toBe(404)
  })
})

describe('who reaches some sessions only', () => {
  it('is told of no agent beyond them, by no way to ask for one', async () => {
    await using gateway = await open({
      agentToAgent: { enabled: true, allow: ['main', 'researcher'] },
      gateway: { http: { endpoints: { chatCompletions: { enabled: true } } } },
    })
    const operator = await gateway.connect()
    const tokenOf = async (name: string, more: object) =>
      (await operator.request('tokens.create', { name, ...more }))['payload'].token as string
    const sessions = ['agent:main:mine*']
    const token = await tokenOf('narrow', { scopes: ['operator.read', 'operator.write'], sessions })
    const approver = await tokenOf('approver', { scopes: ['operator.approvals'] })
    const narrow = await gateway.connect({ scopes: undefined, auth: { token } })
    const complete = async (agentId: string, headers: object) => {
      const response = await fetch(http(gateway, '/v1/chat/completions'), {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...bearer(token), ...headers },
        body: JSON.stringify({ model: `openclaw:${agentId}`, messages: [{ role: 'user', content: 'x' }] }),
      })
      return { status: response.status, body: await response.text() }
    }
    const toMine = { message: 'x', sessionKey: 'mine' }
    const ways: ((agentId: string) => Promise<object>)[] = [
      async (agentId) => (await narrow.request('agent', { message: 'x', idempotencyKey: 'x', agentId }))['error'],
      async (agentId) =>
        (await narrow.request('agent', { ...toMine, sessionKey: 'agent:main:mine', idempotencyKey: 'x', agentId }))[
          'error'
        ],
      (agentId) => post(gateway, agentId, { message: 'x' }, bearer(token)),
      (agentId) => post(gateway, agentId, toMine, bearer(token)),
      (agentId) => post(gateway, agentId, { message: 'x' }, bearer(approver)),
      (agentId) => post(gateway, 'main', { ...toMine, context: { delegated_by: agentId } }, bearer(token)),
      (agentId) => get(gateway, `/agent/${agentId}/message/x`, bearer(token)),
      (agentId) => get(gateway, `/agent/${agentId}/message/x`, bearer(approver)),
      (agentId) => complete(agentId, { 'x-openclaw-agent-id': 'main' }),
      (agentId) => complete(agentId, { 'x-openclaw-session-key': 'agent:main:mine' }),
    ]
    for (const [place, way] of ways.entries()) {
      const [there, nowhere] = [await way('writer'), await way('nobody')].map((answer) =>
        JSON.stringify({ ...answer, headers: undefined }),
      )
      expect(there, `way ${place}`).toBe(nowhere)
      expect(there, `way ${place}`).not.toMatch(/writer|researcher|"ok":true|accepted/)
    }
  })
})

/** Agents as models: what programs that speak OpenAI's shapes send and get, at the socket. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import type { Runtime } from '../../src/runtimes/runtime.ts'
import { openMemoryStore } from '../../src/stores/memory.ts'
import type { Store } from '../../src/stores/store.ts'
import { type Frame, startGateway, type TestGateway, TOKEN } from '../support/gateway.ts'
import { type ModelServer, type RequestBody, startModelServer } from '../support/model-server.ts'
import { turn } from '../support/turn.ts'

let model: ModelServer
beforeEach(async () => {
  model = await startModelServer()
})
afterEach(() => model.close())

const PIXEL =
  'data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='
const BOTH = { chatCompletions: { enabled: true }, responses: { enabled: true } }

const open = (
  { store, gateway = {}, messages = {}, input = ['text'] as string[], endpoints = BOTH as object } = {} as {
    store?: Store
    gateway?: object
    messages?: object
    input?: string[]
    endpoints?: object
  },
) =>
  startGateway({
    ...(store && { store }),
    config: {
      gateway: { http: { endpoints }, ...gateway },
      messages,
      models: {
        providers: {
          fake: { baseUrl: `${model.url}/v1`, apiKey: 'none', api: 'openai-completions', models: [{ id: 'm', input }] },
        },
      },
      agents: {
        defaults: { model: 'fake/m' },
        list: [{ id: 'main' }, { id: 'researcher', name: 'Möngke' }, { id: 'writer' }],
      },
    },
  })

const http = (gateway: TestGateway, path: string) => new URL(path, gateway.url.replace(/^ws/, 'http'))
const bearer = (token = TOKEN) => ({ authorization: `Bearer ${token}` })
const CHAT = '/v1/chat/completions'
const RESPONSES = '/v1/responses'

interface Sent {
  status: number
  headers: Headers
  body: Frame
}

const begin = (gateway: TestGateway, path: string, body: unknown, headers: object = {}, signal?: AbortSignal) =>
  fetch(http(gateway, path), {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...bearer(), ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
    ...(signal && { signal }),
  })
async function post(gateway: TestGateway, path: string, body: unknown, headers: object = {}): Promise<Sent> {
  const response = await begin(gateway, path, body, headers)
  return { status: response.status, headers: response.headers, body: (await response.json()) as Frame }
}
async function get(gateway: TestGateway, path: string, headers: object = bearer()): Promise<Sent> {
  const response = await fetch(http(gateway, path), { headers: { ...headers } })
  return { status: response.status, headers: response.headers, body: (await response.json()) as Frame }
}
/** The events of a stream: their names and what they say. */
async function stream(gateway: TestGateway, path: string, body: object, headers: object = {}) {
  const response = await begin(gateway, path, { ...body, stream: true }, headers)
  expect([response.status, response.headers.get('content-type')]).toEqual([200, 'text/event-stream; charset=utf-8'])
  return eventsIn(await response.text())
}
function eventsIn(text: string): { event?: string; data: Frame }[] {
  expect(text.endsWith('\n\n')).toBe(true)
  const blocks = text.split('\n\n').filter((block) => block !== '' && !block.startsWith(':'))
  return blocks.map((block) => {
    const { event, data } = /^(?:event: (?<event>.+)\n)?data: (?<data>.+)$/.exec(block)!.groups!
    return { ...(event && { event }), data: data === '[DONE]' ? { done: true } : JSON.parse(data!) }
  })
}

const user = (content: unknown) => ({ role: 'user', content })
const ask = (content: unknown, more: object = {}) => ({ model: 'openclaw', messages: [user(content)], ...more })
const lastAsked = () => model.requests.at(-1)!.body as RequestBody
const sessionsIn = async (gateway: TestGateway) => (await gateway.store.sessions({})).map(({ key }) => key)

describe('the list of models', () => {
  it('has the agents, each of which is found under all its names', async () => {
    await using gateway = await open()
    const { status, body } = await get(gateway, '/v1/models')
    expect([status, body.object]).toEqual([200, 'list'])
    expect(body.data.map(({ id }: Frame) => id)).toEqual([
      'openclaw',
      'openclaw:main',
      'openclaw:researcher',
      'openclaw:writer',
    ])
    for (const id of ['openclaw', 'openclaw:writer', 'openclaw/writer', 'agent:Möngke', 'openclaw/default'])
      expect(await get(gateway, `/v1/models/${encodeURIComponent(id)}`)).toMatchObject({
        status: 200,
        body: { id, object: 'model', created: body.data[0].created, owned_by: 'kurultai' },
      })
    expect(await get(gateway, '/v1/models/gpt-4o')).toMatchObject({
      status: 404,
      body: { error: { code: 'model_not_found', type: 'invalid_request_error', param: 'model' } },
    })
    expect((await get(gateway, '/v1/models', {})).status).toBe(401)
  })

  it.each([
    [{}, [404, 404, 404]],
    [{ chatCompletions: { enabled: true } }, [200, 200, 404]],
    [{ responses: { enabled: true } }, [200, 404, 200]],
  ])('and the two ways to ask are there as the configuration %j says', async (endpoints, expected) => {
    await using gateway = await open({ endpoints })
    const statuses = [
      (await get(gateway, '/v1/models')).status,
      (await post(gateway, CHAT, ask('hello'))).status,
      (await post(gateway, RESPONSES, { model: 'openclaw', input: 'hello' })).status,
    ]
    expect(statuses).toEqual(expected)
  })
})

describe('a chat completion', () => {
  it('is what the agent says, with what it used', async () => {
    await using gateway = await open()
    const { status, body } = await post(gateway, CHAT, ask('one two [[chunks=3 cached=1]]'))
    expect(status).toBe(200)
    expect(body).toEqual({
      id: expect.stringMatching(/^chatcmpl_[0-9a-f-]{36}$/),
      object: 'chat.completion',
      created: expect.any(Number),
      model: 'openclaw',
      choices: [
        {
          index: 0,
          message: { role: 'assistant', content: 'word word word ', refusal: null },
          finish_reason: 'stop',
          logprobs: null,
        },
      ],
      usage: {
        prompt_tokens: expect.any(Number),
        completion_tokens: 3,
        total_tokens: body.usage.prompt_tokens + 3,
        prompt_tokens_details: { cached_tokens: 1 },
      },
    })
    expect(body.usage.prompt_tokens).toBeGreaterThan(0)
  })

  it('is told piece by piece, between a chunk with the role and one with the reason for stopping', async () => {
    await using gateway = await open()
    const events = await stream(gateway, CHAT, ask('[[chunks=5 gap=20]]', { model: 'openclaw:main' }))
    const chunks = events.slice(0, -1).map(({ data }) => data)
    expect(events.at(-1)!.data).toEqual({ done: true })
    for (const { id, object, created, model: name } of chunks) {
      expect([id, created, name]).toEqual([chunks[0]!.id, chunks[0]!.created, 'openclaw:main'])
      expect([object, id]).toEqual(['chat.completion.chunk', expect.stringMatching(/^chatcmpl_/)])
    }
    expect(chunks.every((chunk) => !('usage' in chunk))).toBe(true)
    expect(chunks[0]!.choices).toEqual([{ index: 0, delta: { role: 'assistant' }, finish_reason: null }])
    expect(chunks.at(-1)!.choices).toEqual([{ index: 0, delta: {}, finish_reason: 'stop' }])
    const pieces = chunks.slice(1, -1).map(({ choices }) => choices[0].delta.content as string)
    expect(pieces.join('')).toBe('word '.repeat(5))
    expect(pieces.length).toBeGreaterThan(1)
  })

  it('ends with what was used, in a chunk of its own, if that is asked for', async () => {
    await using gateway = await open()
    const events = await stream(gateway, CHAT, ask('[[chunks=2]]', { stream_options: { include_usage: true } }))
    const chunks = events.slice(0, -1).map(({ data }) => data)
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { completion_tokens: 2 } })
    expect(chunks.slice(0, -1).every(({ usage }) => usage === null)).toBe(true)
  })

  it.each([false, true])('says that it was cut at the number of tokens (stream: %j)', async (isStreamed) => {
    await using gateway = await open()
    const asked = ask('[[chunks=2 finish=length]]')
    const said = isStreamed
      ? (await stream(gateway, CHAT, asked)).at(-2)!.data
      : (await post(gateway, CHAT, asked)).body
    expect(said['choices'][0].finish_reason).toBe('length')
  })

  it('has the characters whole, however they came', async () => {
    const text = 'Möngke 👍🏽 über 🐎'
    const runtime: Runtime = {
      api: 'echo',
      async answer(answering, _call, sink) {
        for (let at = 0; at < text.length; at++) {
          sink.delta(text[at]!)
          await new Promise((resolve) => setImmediate(resolve))
        }
        const usage = { input: 0, output: 0, cacheRead: 0, cacheWrite: 0, totalTokens: 0 }
        return { stopReason: 'stop', usage, model: answering }
      },
    }
    const config = { gateway: { http: { endpoints: BOTH } } }
    await using gateway = await startGateway({ config, runtimes: new Map([['echo', runtime]]) })
    const events = await stream(gateway, CHAT, ask('x'))
    const pieces = events.flatMap(({ data }) => data['choices']?.[0]?.delta.content ?? [])
    expect(pieces.join('')).toBe(text)
    for (const piece of pieces) expect(piece.isWellFormed()).toBe(true)
  })
})

describe('a response', () => {
  it('is what the agent says, with what it used', async () => {
    await using gateway = await open()
    const { status, body } = await post(gateway, RESPONSES, { model: 'agent:writer', input: 'hi [[chunks=3]]' })
    expect(status).toBe(200)
    expect(body).toMatchObject({
      id: expect.stringMatching(/^resp_/),
      object: 'response',
      status: 'completed',
      model: 'agent:writer',
      error: null,
      incomplete_details: null,
      output: [
        {
          type: 'message',
          id: expect.stringMatching(/^msg_/),
          role: 'assistant',
          status: 'completed',
          content: [{ type: 'output_text', text: 'word word word ', annotations: [] }],
        },
      ],
      usage: { output_tokens: 3 },
    })
  })

  it('is told as events, in order and numbered', async () => {
    await using gateway = await open()
    const events = await stream(gateway, RESPONSES, { model: 'openclaw', input: 'hi [[chunks=4 gap=20]]' })
    expect(events.at(-1)!.data).toEqual({ done: true })
    const told = events.slice(0, -1)
    expect(told.map(({ data }) => data['sequence_number'])).toEqual(told.map((_, number) => number))
    expect(told.every(({ event, data }) => event === data['type'])).toBe(true)
    const isPiece = ({ event }: { event?: string }) => event === 'response.output_text.delta'
    expect(told.filter((one) => !isPiece(one)).map(({ event }) => event)).toEqual([
      'response.created',
      'response.in_progress',
      'response.output_item.added',
      'response.content_part.added',
      'response.output_text.done',
      'response.content_part.done',
      'response.output_item.done',
      'response.completed',
    ])
    const pieces = told.filter(isPiece).map(({ data }) => data['delta'])
    expect(pieces.join('')).toBe('word '.repeat(4))
    expect(pieces.length).toBeGreaterThan(1)
    const { response } = told.at(-1)!.data
    expect(response).toMatchObject({ status: 'completed', usage: { output_tokens: 4 } })
    expect(response.output[0].content[0].text).toBe('word '.repeat(4))
  })

  it('is incomplete when it was cut at the number of tokens', async () => {
    await using gateway = await open()
    const asked = { model: 'openclaw', input: '[[chunks=2 finish=length]]' }
    const incomplete = { status: 'incomplete', incomplete_details: { reason: 'max_output_tokens' } }
    expect((await post(gateway, RESPONSES, asked)).body).toMatchObject(incomplete)
    const last = (await stream(gateway, RESPONSES, asked)).at(-2)!
    expect(last).toMatchObject({ event: 'response.incomplete', data: { response: incomplete } })
  })
})

describe('a conversation', () => {
  it('reaches the agent: its instructions, what was said before, and the last message', async () => {
    await using gateway = await open()
    const messages = [
      { role: 'system', content: 'Speak like a khan.' },
      user('Who are you?'),
      { role: 'assistant', content: [{ type: 'text', text: 'Möngke.' }] },
      { role: 'developer', content: 'Be brief.' },
      user([{ type: 'text', text: 'And your brother?' }]),
    ]
    expect((await post(gateway, CHAT, { model: 'openclaw', messages })).status).toBe(200)
    const [system, ...said] = lastAsked().messages!
    expect(system).toMatchObject({
      role: 'system',
      content: expect.stringMatching(/Speak like a khan\.\n\nBe brief\.$/),
    })
    expect(said.map(({ role, content }) => [role, content])).toEqual([
      ['user', 'Who are you?'],
      ['assistant', 'Möngke.'],
      ['user', 'And your brother?'],
    ])
  })

  it('reaches the agent in the shape of a response, too', async () => {
    await using gateway = await open()
    const input = [
      { role: 'user', content: 'Who are you?' },
      { type: 'message', role: 'assistant', content: [{ type: 'output_text', text: 'Möngke.' }] },
      { type: 'message', role: 'user', content: [{ type: 'input_text', text: 'And your brother?' }] },
    ]
    const asked = { model: 'openclaw', instructions: 'Be brief.', input, reasoning: { effort: 'low' } }
    expect((await post(gateway, RESPONSES, asked)).status).toBe(200)
    const [system, ...said] = lastAsked().messages!
    expect(system!.content).toMatch(/Be brief\.$/)
    expect(said.map(({ content }) => content)).toEqual(['Who are you?', 'Möngke.', 'And your brother?'])
  })

  it.each([
    ['a user', { user: 'Ann' }, {}, /^agent:main:openai-user:~[0-9a-f]{64}$/],
    [
      'a user whose name may stand in a key',
      { user: 'ann@example.com' },
      {},
      /^agent:main:openai-user:ann@example\.com$/,
    ],
    ['a key', {}, { 'x-openclaw-session-key': 'Notes' }, /^agent:main:notes$/],
    ['a whole key', {}, { 'x-openclaw-session-key': 'agent:mongke:notes' }, /^agent:researcher:notes$/],
    ['a key and an agent', {}, { 'x-openclaw-session-key': 'n', 'x-openclaw-agent-id': 'writer' }, /^agent:writer:n$/],
  ])('of %s goes on in its session, which knows what was said', async (_, more, headers, key) => {
    await using gateway = await open()
    await post(gateway, CHAT, ask('first [[text=one]]', more), headers)
    const messages = [user('made up'), { role: 'assistant', content: 'made up' }, user('second')]
    await post(gateway, CHAT, { model: 'openclaw', messages, ...more }, headers)
    // Its own history counts, not what the client remembers of it.
    expect(
      lastAsked()
        .messages!.filter(({ role }) => role !== 'system')
        .map(({ content }) => content),
    ).toEqual(['first [[text=one]]', 'one', 'second'])
    expect(await sessionsIn(gateway)).toEqual([expect.stringMatching(key)])
  })

  it('of nobody in particular has a session of its own, which is gone with the answer', async () => {
    await using gateway = await open()
    await post(gateway, CHAT, ask('first [[text=one]]'))
    await stream(gateway, RESPONSES, { model: 'openclaw', input: 'second' })
    expect(lastAsked().messages!.map(({ content }) => content)).not.toContain('one')
    expect((await post(gateway, CHAT, ask('[[fail=400]]'))).status).toBe(502)
    await vi.waitFor(async () => expect(await sessionsIn(gateway)).toEqual([]))
    // What it cost is remembered.
    const peer = await gateway.connect()
    const { payload } = await peer.request('usage.cost', { days: 1 })
    expect(payload.totals.output).toBeGreaterThan(0)
  })

  it('that a former process left in the middle is removed, and is not answered to nobody', async () => {
    const store = openMemoryStore()
    const left = `agent:main:openai:${'0a'.repeat(16)}`
    for (const [name, sessionKey] of [
      ['left', left],
      ['kept', 'agent:main:openai:notes'],
    ] as const)
      await store.accept(turn(name, { sessionKey, sessionId: name, principal: 'token:shared', method: 'agent' }))
    await using gateway = await open({ store })
    await vi.waitFor(async () => expect(await sessionsIn(gateway)).toEqual(['agent:main:openai:notes']))
    expect(await store.run('run-left')).toMatchObject({ state: 'aborted', stopReason: 'shutdown' })
    await vi.waitFor(async () => expect(await store.run('run-kept')).toMatchObject({ state: 'completed' }))
    expect(model.requests.map(({ body }) => (body as RequestBody).messages!.at(-1)!.content)).toEqual(['message kept'])
    expect(await post(gateway, CHAT, ask('x'), { 'x-openclaw-session-key': left })).toMatchObject({ status: 400 })
  })

  it('has pictures, if the model takes them, and none that lie elsewhere', async () => {
    await using gateway = await open({ input: ['text', 'image'] })
    const picture = { type: 'image_url', image_url: { url: PIXEL } }
    const content = [{ type: 'text', text: 'what is this?' }, picture]
    expect((await post(gateway, CHAT, ask(content))).status).toBe(200)
    expect(JSON.stringify(lastAsked().messages!.at(-1))).toContain(PIXEL.slice(-40))
    const input = [
      { role: 'user', content: [{ type: 'input_image', image_url: PIXEL }] },
      { role: 'user', content: 'and?' },
    ]
    expect((await post(gateway, RESPONSES, { model: 'openclaw', input })).status).toBe(200)
    expect(
      lastAsked()
        .messages!.filter(({ role }) => role === 'user')
        .map((one) => one.content),
    ).toEqual(['[a picture]', 'and?'])
    const elsewhere = { type: 'image_url', image_url: { url: 'http://169.254.169.254/latest' } }
    expect(await post(gateway, CHAT, ask([elsewhere]))).toMatchObject({
      status: 400,
      body: { error: { param: 'messages[0].content[0].image_url', message: expect.stringMatching(/not fetched/) } },
    })
    await using blind = await open()
    expect(await post(blind, CHAT, ask(content))).toMatchObject({
      status: 400,
      body: { error: { code: 'BAD_ATTACHMENT' } },
    })
  })
})

describe('a refusal', () => {
  const many = 'x'.repeat(300 * 1024)
  it.each<[string, unknown, object, number, object]>([
    ['no credential', ask('x'), { authorization: '' }, 401, { code: 'AUTH_TOKEN_MISSING', type: 'unauthorized' }],
    ['a wrong credential', ask('x'), bearer('wrong'), 401, { code: 'AUTH_TOKEN_MISMATCH', message: 'Unauthorized' }],
    ['an unknown model', ask('x', { model: 'gpt-4o' }), {}, 404, { code: 'model_not_found', param: 'model' }],
    ['an unknown agent', ask('x', { model: 'openclaw:nobody' }), {}, 404, { code: 'model_not_found' }],
    ['an unknown agent in the header', ask('x'), { 'x-openclaw-agent-id': 'nobody' }, 404, { code: 'UNKNOWN_AGENT' }],
    ['two agents', ask('x', { model: 'agent:main' }), { 'x-openclaw-agent-id': 'writer' }, 400, { param: 'model' }],
    ['no JSON', '{', {}, 400, { message: 'the body is no JSON', param: null }],
    ['another type', '{}', { 'content-type': 'text/plain' }, 415, { type: 'invalid_request_error' }],
    ['no message', { messages: [] }, {}, 400, { message: 'Missing user message in `messages`.', param: 'messages' }],
    ['no user', { messages: [{ role: 'system', content: 'x' }] }, {}, 400, { message: /^Missing user message/ }],
    [
      'an answer at the end',
      { messages: [user('x'), { role: 'assistant', content: 'y' }] },
      {},
      400,
      { param: 'messages' },
    ],
    ['an empty message', ask(' '), {}, 400, { param: 'messages' }],
    ['a result of a tool', { messages: [{ role: 'tool', content: 'x' }] }, {}, 400, { param: 'messages[0].role' }],
    ['sound', ask([{ type: 'input_audio' }]), {}, 400, { param: 'messages[0].content[0].type' }],
    ['tools', ask('x', { tools: [{ type: 'function' }] }), {}, 400, { code: 'unsupported_parameter', param: 'tools' }],
    ['two answers', ask('x', { n: 2 }), {}, 400, { code: 'unsupported_parameter', param: 'n' }],
    ['a schema', ask('x', { response_format: { type: 'json_object' } }), {}, 400, { param: 'response_format' }],
    ['an effort that is none', ask('x', { reasoning_effort: 'huge' }), {}, 400, { param: 'reasoning_effort' }],
    ['a message that is too long', ask(many), {}, 413, { code: 'MESSAGE_TOO_LARGE' }],
    [
      'too much said before',
      { messages: [...Array.from({ length: 5 }, () => user(many.slice(0, 250_000))), user('x')] },
      {},
      413,
      { code: 'MESSAGE_TOO_LARGE' },
    ],
    ['a body that is too long', 'x'.repeat(9 * 1024 * 1024), {}, 413, { code: 'MESSAGE_TOO_LARGE' }],
    ['a foreign page', ask('x'), { origin: 'https://evil.example' }, 403, { code: 'NOT_ADMITTED' }],
    ['a model that fails', ask('[[fail=400]]'), {}, 502, { code: 'RUN_FAILED', type: 'server_error' }],
    ['a model that breaks off', ask('[[chunks=9 error=2]]'), {}, 502, { code: 'RUN_FAILED' }],
  ])('of %s has its status, and says what it is about', async (_, body, headers, status, error) => {
    await using gateway = await open()
    const answer = await post(gateway, CHAT, body, headers)
    const expected = Object.entries(error).map(([name, value]) => [
      name,
      value instanceof RegExp ? expect.stringMatching(value) : value,
    ])
    expect(answer).toMatchObject({ status, body: { error: Object.fromEntries(expected) } })
    if (status !== 403) expect(Object.keys(answer.body.error).toSorted()).toEqual(['code', 'message', 'param', 'type'])
    expect(answer.headers.get('x-should-retry')).toBe(status === 502 ? 'false' : null)
    expect([...answer.headers.keys()].filter((name) => name.startsWith('access-control'))).toEqual([])
  })

  it.each<[string, object, string]>([
    ['no input', {}, 'input'],
    ['a call of a tool', { input: [{ type: 'function_call' }] }, 'input[0].type'],
    ['a former response', { input: 'x', previous_response_id: 'resp_1' }, 'previous_response_id'],
    ['no waiting', { input: 'x', background: true }, 'background'],
    ['a schema', { input: 'x', text: { format: { type: 'json_schema' } } }, 'text'],
  ])('of %s in a request for a response names the parameter', async (_, body, param) => {
    await using gateway = await open()
    expect(await post(gateway, RESPONSES, body)).toMatchObject({ status: 400, body: { error: { param } } })
  })

  it('is none for what an agent does not use, or does anyway', async () => {
    await using gateway = await open()
    const more = {
      ...{ temperature: 0.1, top_p: 1, max_tokens: 5, max_completion_tokens: 5, seed: 1, presence_penalty: 0 },
      ...{ n: 1, tools: [], stop: null, response_format: { type: 'text' }, store: true, metadata: { a: 'b' } },
      ...{ reasoning_effort: 'high', parallel_tool_calls: true, logprobs: false, service_tier: 'auto', made: 'up' },
    }
    expect((await post(gateway, CHAT, ask('[[text=yes]]', more))).body['choices'][0].message.content).toBe('yes')
    const text = { format: { type: 'text' }, verbosity: 'low' }
    const asked = { model: 'openclaw', input: '[[text=yes]]', text, store: true, truncation: 'auto', tools: [] }
    expect((await post(gateway, RESPONSES, asked)).status).toBe(200)
  })

  it('tells of a rate with the time to come back', async () => {
    await using gateway = await open({ gateway: { limits: { requestsPerSecond: 1, burst: 1 } } })
    const answers = await Promise.all(Array.from({ length: 24 }, () => get(gateway, '/v1/models')))
    const refused = answers.filter(({ status }) => status === 429)
    for (const { headers, body } of refused) {
      expect(body.error).toMatchObject({ type: 'rate_limit_error', code: 'RATE_LIMITED' })
      expect(Number(headers.get('retry-after'))).toBeGreaterThanOrEqual(1)
    }
    expect(answers.every(({ status }) => status === 200 || status === 429)).toBe(true)
  })

  it('tells that a session has as many turns waiting as it keeps', async () => {
    await using gateway = await open({ messages: { queue: { limit: 1 } } })
    const peer = await gateway.connect()
    const send = (idempotencyKey: string) =>
      peer.request('chat.send', { sessionKey: 'busy', message: '[[stall=1]]', idempotencyKey })
    for (const key of ['k1', 'k2']) expect((await send(key)).ok).toBe(true)
    const { status, headers, body } = await post(gateway, CHAT, ask('x'), { 'x-openclaw-session-key': 'busy' })
    expect([status, body.error.code, body.error.type]).toEqual([429, 'SESSION_BUSY', 'rate_limit_error'])
    expect(Number(headers.get('retry-after'))).toBeGreaterThanOrEqual(1)
    await peer.request('chat.abort', { sessionKey: 'busy' })
  })

  it('is told within a stream that has begun', async () => {
    await using gateway = await open()
    const chunks = await stream(gateway, CHAT, ask('[[chunks=9 gap=5 error=2]]'))
    expect(chunks.at(-1)!.data).toEqual({
      error: { message: expect.any(String), type: 'server_error', code: 'RUN_FAILED', param: null },
    })
    expect(chunks.flatMap(({ data }) => data['choices']?.[0]?.delta.content ?? []).join('')).toBe('word word ')
    const events = await stream(gateway, RESPONSES, { model: 'openclaw', input: '[[fail=400]]' })
    expect(events.at(-2)).toMatchObject({
      event: 'response.failed',
      data: { response: { status: 'failed', error: { code: 'RUN_FAILED' } } },
    })
  })
})

describe('a gateway that is told to stop', () => {
  it('lets an answer end, and takes no other', async () => {
    await using gateway = await open()
    const told = stream(gateway, CHAT, ask('[[chunks=6 gap=60]]'))
    await vi.waitFor(() => expect(model.requests.at(-1)?.sent).toBeGreaterThan(0))
    gateway.gateway.stop('a test')
    const refused = await post(gateway, CHAT, ask('x'))
    expect([refused.status, refused.headers.get('retry-after')]).toEqual([503, '2'])
    expect(refused.body).toMatchObject({ error: { type: 'server_error', code: 'DRAINING' } })
    const events = await told
    expect(events.at(-1)!.data).toEqual({ done: true })
    expect(events.flatMap(({ data }) => data['choices']?.[0]?.delta.content ?? []).join('')).toBe('word '.repeat(6))
  })
})

describe('who may ask', () => {
  it('is who may do the same over a WebSocket', async () => {
    await using gateway = await open()
    const peer = await gateway.connect()
    const make = async (changes: object) =>
      (await peer.request('tokens.create', { name: 'n', ...changes }))['payload'].token as string
    const reader = bearer(await make({ scopes: ['operator.read'] }))
    expect((await get(gateway, '/v1/models', reader)).status).toBe(200)
    for (const asked of [ask('x'), ask('x', { stream: true })])
      expect(await post(gateway, CHAT, asked, reader)).toMatchObject({
        status: 403,
        body: { error: { type: 'permission_error', code: 'MISSING_SCOPE' } },
      })
    const scopes = ['operator.read', 'operator.write']
    const narrow = bearer(await make({ scopes, sessions: ['agent:writer:openai-user:*'] }))
    const of = (name: string) => ask('[[text=yes]]', { model: `openclaw:${name}`, user: 'ann' })
    expect((await post(gateway, CHAT, of('writer'), narrow)).status).toBe(200)
    // Which agents there are beyond is nobody's business.
    const [there, nowhere] = await Promise.all(['main', 'nobody'].map((name) => post(gateway, CHAT, of(name), narrow)))
    expect([there!.status, there!.body]).toEqual([nowhere!.status, nowhere!.body])
    expect(there!.body.error).toMatchObject({ code: 'SESSION_NOT_FOUND', message: 'session not found' })
    expect((await get(gateway, '/v1/models', narrow)).status).toBe(403)
  })

  it('is cut off when its token is taken away', async () => {
    await using gateway = await open()
    const peer = await gateway.connect()
    const { payload } = await peer.request('tokens.create', { name: 'n', scopes: ['operator.write'] })
    const response = await begin(gateway, CHAT, ask('[[chunks=9 stall=2]]', { stream: true }), bearer(payload.token))
    const reading = response.text()
    const ended = expect(reading).rejects.toThrow()
    await vi.waitFor(() => expect(model.requests.at(-1)?.sent).toBe(2))
    await peer.request('tokens.revoke', { id: payload.id })
    await ended
    await model.requests.at(-1)!.closed
  })
})

describe('an answer for which nobody waits any more', () => {
  it.each([
    ['a stream', CHAT, ask('[[chunks=9 stall=2]]', { stream: true, user: 'ann' })],
    ['one whole', CHAT, ask('[[chunks=9 stall=2]]', { user: 'ann' })],
    ['a response', RESPONSES, { model: 'openclaw', input: '[[chunks=9 stall=2]]', user: 'ann' }],
  ])('is stopped: %s', async (_, path, body) => {
    await using gateway = await open()
    const leaving = new AbortController()
    const response = begin(gateway, path, body, {}, leaving.signal)
    const gone = expect(response.then((begun) => begun.text())).rejects.toThrow()
    await vi.waitFor(() => expect(model.requests.at(-1)?.sent).toBe(2))
    leaving.abort()
    await gone
    const asked = model.requests.at(-1)!
    await asked.closed
    expect(asked.closedEarly).toBe(true)
    const key = 'agent:main:openai-user:ann'
    await vi.waitFor(async () => {
      expect(await gateway.store.session(key)).toMatchObject({ abortedLastRun: true })
    })
    const { messages } = await gateway.store.history(key, { limit: 9, maxBytes: 9_000 })
    expect(messages.at(-1)).toMatchObject({ role: 'assistant', stopReason: 'rpc' })
  })

  it('of nobody in particular leaves no session', async () => {
    await using gateway = await open()
    const leaving = new AbortController()
    const gone = expect(begin(gateway, CHAT, ask('[[chunks=9 stall=2]]'), {}, leaving.signal)).rejects.toThrow()
    await vi.waitFor(() => expect(model.requests.at(-1)?.sent).toBe(2))
    expect(await sessionsIn(gateway)).toHaveLength(1)
    leaving.abort()
    await gone
    await vi.waitFor(async () => expect(await sessionsIn(gateway)).toEqual([]))
  })

  it('that somebody else stopped is no answer', async () => {
    await using gateway = await open()
    const peer = await gateway.connect()
    const stop = async (count: number) => {
      await vi.waitFor(() => expect([model.requests.length, model.requests.at(-1)?.sent]).toEqual([count, 2]))
      await peer.request('chat.abort', { sessionKey: 'openai-user:ann' })
    }
    const asked = ask('[[chunks=9 stall=2]]', { user: 'ann' })
    const whole = post(gateway, CHAT, asked)
    await stop(1)
    expect(await whole).toMatchObject({ status: 409, body: { error: { code: 'RUN_ABORTED' } } })
    expect((await whole).headers.get('x-should-retry')).toBe('false')
    const told = stream(gateway, CHAT, asked)
    await stop(2)
    expect((await told).at(-1)!.data).toMatchObject({ error: { code: 'RUN_ABORTED' } })
  })
})

describe('an idempotency key', () => {
  const key = { 'idempotency-key': 'k1' }
  const contentOf = ({ body }: Sent) => body['choices'][0].message.content

  it.each([
    ['of nobody in particular', {}],
    ['of a user', { user: 'ann' }],
  ])('makes several requests %s one', async (_, more) => {
    await using gateway = await open()
    const asked = ask('dig [[chunks=4 gap=20]]', more)
    const [one, two, told] = await Promise.all([
      post(gateway, CHAT, asked, key),
      post(gateway, CHAT, asked, key),
      stream(gateway, CHAT, asked, key),
    ])
    expect([contentOf(one), contentOf(two)]).toEqual(['word '.repeat(4), 'word '.repeat(4)])
    expect(one.body.id).toBe(two.body.id)
    const pieces = told.flatMap(({ data }) => data['choices']?.[0]?.delta.content ?? [])
    expect(pieces.join('')).toBe('word '.repeat(4))
    const later = await post(gateway, CHAT, asked, key)
    expect([contentOf(later), later.body.usage]).toEqual([contentOf(one), one.body.usage])
    expect((await stream(gateway, CHAT, asked, key)).slice(1, 2)[0]!.data['choices'][0].delta.content).toBe(
      contentOf(one),
    )
    expect(model.requests).toHaveLength(1)
    const other = await post(gateway, CHAT, ask('another', more), key)
    expect(other).toMatchObject({ status: 409, body: { error: { code: 'IDEMPOTENCY_KEY_REUSED' } } })
    expect(other.headers.get('x-should-retry')).toBe('false')
  })

  it('counts what was said before as part of the request', async () => {
    await using gateway = await open()
    const saying = (before: string) => ({ model: 'openclaw', messages: [user(before), user('last [[text=yes]]')] })
    expect((await post(gateway, CHAT, saying('one'), key)).status).toBe(200)
    expect((await post(gateway, CHAT, saying('two'), key)).status).toBe(409)
  })

  it('is waited for by several, of whom one may leave', async () => {
    await using gateway = await open()
    const asked = ask('dig [[chunks=40 gap=40]]', { user: 'ann' })
    const staying = post(gateway, CHAT, asked, key)
    await vi.waitFor(() => expect(model.requests.at(-1)?.sent).toBeGreaterThan(0))
    const leaving = new AbortController()
    const gone = expect(
      begin(gateway, CHAT, { ...asked, stream: true }, key, leaving.signal).then((r) => {
        leaving.abort()
        return r.text()
      }),
    ).rejects.toThrow()
    await gone
    expect(contentOf(await staying)).toBe('word '.repeat(40))
  })
})

import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { anthropicMessages } from '../../src/runtimes/anthropic-messages.ts'
import type { Model, ModelCall } from '../../src/runtimes/runtime.ts'
import {
  answerAlways,
  key,
  listen,
  newCall,
  newModel,
  type ProviderUnderTest,
  providerConformance,
  runtimeConformance,
  serveModel,
  toolConformance,
  weather,
} from '../conformance/runtime.ts'

const api = 'anthropic-messages'

const subject: ProviderUnderTest = {
  name: 'Messages',
  newRuntime: anthropicMessages,
  newModel: (url) => newModel({ api, baseUrl: `${url}/coding/` }),
  tooLong: 'max_tokens',
}
runtimeConformance(subject)
providerConformance(subject)
toolConformance(subject)

async function ask(text: string, model: Partial<Model> = {}, call: Partial<ModelCall> = {}) {
  const server = await serveModel()
  const heard = listen()
  const callee = newModel({ api, baseUrl: `${server.url}/coding/`, ...model })
  const { signal } = new AbortController()
  const answer = await anthropicMessages().answer(callee, newCall(text, call), heard.sink, signal)
  return { answer, heard, request: server.requests[0], body: server.requests[0]?.body }
}

const user = (...content: unknown[]) => ({ role: 'user', content })
const assistant = (...content: unknown[]) => ({ role: 'assistant', content })
const text = (value: string) => ({ type: 'text', text: value })

describe('Messages', () => {
  test('asks for a stream, with the instructions beside the messages', async () => {
    const { request, body } = await ask('hello', {}, { system: 'Be brief.' })
    expect(request?.path).toBe('/coding/v1/messages')
    expect(request?.headers).toMatchObject({ 'x-api-key': key, 'anthropic-version': '2023-06-01' })
    expect(request?.headers.authorization).toBeUndefined()
    expect(body).toEqual({
      model: 'model-1',
      max_tokens: 4000,
      system: 'Be brief.',
      messages: [user(text('hello'))],
      stream: true,
    })
  })

  test('merges neighbours of the same role and leaves out blank texts', async () => {
    const messages: ModelCall['messages'] = [
      { role: 'user', text: 'one' },
      { role: 'assistant', text: '' },
      { role: 'user', text: 'two' },
      { role: 'assistant', text: 'word word ' },
      { role: 'user', text: ' \n' },
      { role: 'user', text: 'three' },
    ]
    const { body } = await ask('', {}, { messages })
    expect(body).toMatchObject({
      messages: [user(text('one'), text('two')), assistant(text('word word ')), user(text('three'))],
    })
  })

  test('puts a user first when the conversation begins with the assistant', async () => {
    const messages: ModelCall['messages'] = [
      { role: 'assistant', text: 'welcome' },
      { role: 'user', text: 'hello' },
    ]
    const { body } = await ask('', {}, { messages })
    expect(body).toMatchObject({ messages: [user(text('…')), assistant(text('welcome')), user(text('hello'))] })
  })

  test('sends images as base64 blocks, also without a text', async () => {
    const images = [{ mimeType: 'image/png', bytes: Uint8Array.of(1, 2, 3) }]
    const { body } = await ask('', {}, { messages: [{ role: 'user', text: '', images }] })
    const source = { type: 'base64', media_type: 'image/png', data: 'AQID' }
    expect(body).toMatchObject({ messages: [user({ type: 'image', source })] })
  })

  test.each([
    { reasoning: true, thinking: 'low', maxTokens: 32_000, budget: 2048 },
    { reasoning: true, thinking: 'high', maxTokens: 8000, budget: 6976 },
    { reasoning: true, thinking: 'high', maxTokens: 2000, budget: undefined },
    { reasoning: true, thinking: 'off', maxTokens: 32_000, budget: undefined },
    { reasoning: false, thinking: 'high', maxTokens: 32_000, budget: undefined },
  ] as const)('gives $budget of $maxTokens tokens to thinking $thinking with reasoning $reasoning', async (row) => {
    const { reasoning, thinking, maxTokens, budget } = row
    const { body } = await ask('', { reasoning, maxTokens }, { thinking })
    const expected = budget === undefined ? undefined : { type: 'enabled', budget_tokens: budget }
    expect((body as { thinking?: unknown }).thinking).toEqual(expected)
  })

  test('keeps thinking apart from the answer', async () => {
    const { heard } = await ask('[[think=2 chunks=1]]')
    expect(heard).toMatchObject({ thoughts: ['thought ', 'thought '], texts: ['word '] })
  })

  test('counts tokens from the first event and the last', async () => {
    const { answer } = await ask('one two three [[chunks=4 cached=2]]')
    expect(answer.usage).toEqual({ input: 3, output: 4, cacheRead: 2, cacheWrite: 0, totalTokens: 9 })
  })

  test.each([
    ['end_turn', 'stop'],
    ['stop_sequence', 'stop'],
    ['max_tokens', 'length'],
    ['tool_use', 'stop'],
    ['refusal', 'refusal'],
  ])('calls the end %s %s', async (word, stopReason) => {
    expect((await ask(`[[finish=${word}]]`)).answer.stopReason).toBe(stopReason)
  })

  test('prints nothing, whatever the SDK thinks of the model', async () => {
    const warn = vi.spyOn(console, 'warn')
    onTestFinished(() => warn.mockRestore())
    await ask('hello', { id: 'claude-sonnet-4-5' })
    expect(warn).not.toHaveBeenCalled()
  })
})

/** What a provider's stream of such events comes to. */
async function answerTo(events: { type: string; [field: string]: unknown }[]) {
  const frames = events.map((event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`)
  const baseUrl = await answerAlways(200, 'text/event-stream', frames.join(''))
  const heard = listen()
  const model = newModel({ api, baseUrl })
  const answer = await anthropicMessages().answer(model, newCall('a'), heard.sink, new AbortController().signal)
  return { answer, heard }
}

const begin = (index: number, content_block: object) => ({ type: 'content_block_start', index, content_block })
const add = (index: number, delta: object) => ({ type: 'content_block_delta', index, delta })
const finish = (stop_reason: string) => [{ type: 'message_delta', delta: { stop_reason } }, { type: 'message_stop' }]

describe('Messages with tools', () => {
  const calls = ['c1', 'c2'].map((id) => ({ id, name: 'weather', arguments: '{"place": "Karakorum"}' }))
  const use = (id: string) => ({ type: 'tool_use', id, name: 'weather', input: { place: 'Karakorum' } })
  const thought = { type: 'redacted_thinking', data: 'sealed' }
  const carried = { api, model: 'fake/model-1', value: [thought] }
  const results: ModelCall['messages'] = [
    { role: 'tool', callId: 'c1', name: 'weather', text: 'sun', isError: false },
    { role: 'tool', callId: 'c2', name: 'weather', text: 'gone', isError: true },
  ]
  const bodyFor = async (messages: ModelCall['messages'], call: Partial<ModelCall> = {}) => {
    const { body } = await ask('', { reasoning: true, maxTokens: 32_000 }, { messages, tools: [weather], ...call })
    return body as { messages: unknown[]; thinking?: object; tools?: unknown; tool_choice?: unknown }
  }

  test('writes calls and results as blocks, the results in one turn of the user with what is said next', async () => {
    const said: ModelCall['messages'] = [
      { role: 'user', text: 'a' },
      { role: 'assistant', text: 'wait', calls, carried },
      ...results,
      { role: 'user', text: 'b' },
    ]
    const { messages, tools, tool_choice } = await bodyFor(said)
    expect(messages).toEqual([
      user(text('a')),
      assistant(thought, text('wait'), use('c1'), use('c2')),
      user(
        { type: 'tool_result', tool_use_id: 'c1', content: 'sun' },
        { type: 'tool_result', tool_use_id: 'c2', content: 'gone', is_error: true },
        text('b'),
      ),
    ])
    const { name, description, parameters } = weather
    expect(tools).toEqual([{ name, description, input_schema: parameters }])
    expect(tool_choice).toBeUndefined()
  })

  test('defines tools that were called once, and forbids them', async () => {
    const said: ModelCall['messages'] = [
      { role: 'user', text: 'a' },
      { role: 'assistant', text: '', calls },
      ...results,
    ]
    const { tools, tool_choice } = await bodyFor(said, { tools: [] })
    expect(tools).toEqual([{ name: 'weather', input_schema: { type: 'object' } }])
    expect(tool_choice).toEqual({ type: 'none' })
  })

  const round: ModelCall['messages'] = [{ role: 'assistant', text: '', calls }, ...results]
  const thoughtful: ModelCall['messages'] = [{ role: 'assistant', text: '', calls, carried }, ...results]
  test.each([
    { what: 'a word of the user', said: [], thinks: true },
    { what: 'a round that began with thoughts', said: thoughtful, thinks: true },
    { what: 'rounds of which the first has thoughts', said: [...thoughtful, ...round], thinks: true },
    { what: 'a round without thoughts', said: round, thinks: false },
    { what: 'rounds of which only the second has thoughts', said: [...round, ...thoughtful], thinks: false },
    {
      what: 'such a round and a word of the user with it',
      said: [...round, { role: 'user', text: 'b' }],
      thinks: false,
    },
    {
      what: 'such a round that is over',
      said: [...round, { role: 'assistant', text: 'x' }, { role: 'user', text: 'b' }],
      thinks: true,
    },
  ] as { what: string; said: ModelCall['messages']; thinks: boolean }[])(
    'thinks: $thinks, after $what',
    async ({ said, thinks }) => {
      const { thinking } = await bodyFor([{ role: 'user', text: 'a' }, ...said], { thinking: 'low' })
      expect(thinking !== undefined).toBe(thinks)
    },
  )

  test.each([
    { ...carried, api: 'openai-completions' },
    { ...carried, model: 'fake/model-2' },
    { ...carried, value: 'no list' },
  ])('gives no thoughts back that are not its own: %j', async (foreign) => {
    const { messages } = await bodyFor([
      { role: 'user', text: 'a' },
      { role: 'assistant', text: '', calls, carried: foreign },
    ])
    expect(messages[1]).toEqual(assistant(use('c1'), use('c2')))
  })

  test('keeps thoughts as they were signed, and sealed ones, for the calls they led to', async () => {
    const { answer, heard } = await answerTo([
      begin(0, { type: 'thinking', thinking: 'Hm', signature: '' }),
      add(0, { type: 'thinking_delta', thinking: ', hm.' }),
      add(0, { type: 'signature_delta', signature: 'mine' }),
      begin(1, thought),
      begin(2, { type: 'tool_use', id: 't1', name: 'weather', input: {} }),
      ...finish('tool_use'),
    ])
    expect(heard.thoughts).toEqual(['Hm', ', hm.'])
    expect(answer.carried).toEqual({
      api,
      model: 'fake/model-1',
      value: [{ type: 'thinking', thinking: 'Hm, hm.', signature: 'mine' }, thought],
    })
  })

  test('keeps no thoughts that led to a text', async () => {
    const { answer } = await answerTo([begin(0, thought), ...finish('end_turn')])
    expect(answer).not.toHaveProperty('carried')
  })

  test('takes an input that comes whole, calls without an id, and another word for the end', async () => {
    const { answer } = await answerTo([
      begin(0, { type: 'tool_use', name: 'weather', input: { place: 'a' } }),
      begin(1, { type: 'tool_use', id: '', name: 'weather', input: {} }),
      ...finish('end_turn'),
    ])
    expect(answer).toMatchObject({
      stopReason: 'toolUse',
      calls: [
        { id: 'call_0', name: 'weather', arguments: '{"place":"a"}' },
        { id: 'call_1', name: 'weather', arguments: '{}' },
      ],
    })
  })
})

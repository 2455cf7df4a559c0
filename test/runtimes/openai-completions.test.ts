import { describe, expect, test } from 'vitest'
import { openaiCompletions } from '../../src/runtimes/openai-completions.ts'
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

const subject: ProviderUnderTest = {
  name: 'Chat Completions',
  newRuntime: openaiCompletions,
  newModel: (url) => newModel({ baseUrl: `${url}/v1` }),
  tooLong: 'length',
}
runtimeConformance(subject)
providerConformance(subject)
toolConformance(subject)

async function ask(text: string, model: Partial<Model> = {}, call: Partial<ModelCall> = {}) {
  const server = await serveModel()
  const heard = listen()
  const callee = newModel({ baseUrl: `${server.url}/v1`, ...model })
  const { signal } = new AbortController()
  const answer = await openaiCompletions().answer(callee, newCall(text, call), heard.sink, signal)
  return { answer, heard, request: server.requests[0], body: server.requests[0]?.body }
}

describe('Chat Completions', () => {
  test('asks for a stream with token counts', async () => {
    const { request, body } = await ask('hello')
    expect(request).toMatchObject({ path: '/v1/chat/completions', headers: { authorization: `Bearer ${key}` } })
    expect(body).toEqual({
      model: 'model-1',
      messages: [{ role: 'user', content: 'hello' }],
      stream: true,
      stream_options: { include_usage: true },
      max_tokens: 4000,
    })
  })

  test('says who it is, and lets the configuration add headers', async () => {
    const { request } = await ask('hello', { headers: { 'X-Team': 'ops' } })
    expect(request?.headers).toMatchObject({ 'user-agent': 'kurultai-gateway', 'x-team': 'ops' })
  })

  test('puts the instructions first, keeps the turns and leaves out the empty ones', async () => {
    const messages: ModelCall['messages'] = [
      { role: 'user', text: 'one' },
      { role: 'assistant', text: '' },
      { role: 'assistant', text: 'word word ' },
      { role: 'user', text: 'two' },
    ]
    const { body } = await ask('', {}, { system: 'Be brief.', messages })
    expect(body).toMatchObject({
      messages: [
        { role: 'system', content: 'Be brief.' },
        { role: 'user', content: 'one' },
        { role: 'assistant', content: 'word word ' },
        { role: 'user', content: 'two' },
      ],
    })
  })

  test('sends images as data URLs', async () => {
    const images = [{ mimeType: 'image/png', bytes: Uint8Array.of(1, 2, 3) }]
    const { body } = await ask('', {}, { messages: [{ role: 'user', text: 'look', images }] })
    const content = [
      { type: 'text', text: 'look' },
      { type: 'image_url', image_url: { url: 'data:image/png;base64,AQID' } },
    ]
    expect(body).toMatchObject({ messages: [{ role: 'user', content }] })
  })

  test.each([
    { reasoning: true, thinking: 'high', effort: 'high' },
    { reasoning: true, thinking: 'off', effort: undefined },
    { reasoning: false, thinking: 'high', effort: undefined },
  ] as const)('asks for effort $effort when thinking is $thinking and reasoning $reasoning', async (row) => {
    const { body } = await ask('', { reasoning: row.reasoning }, { thinking: row.thinking })
    expect((body as { reasoning_effort?: string }).reasoning_effort).toBe(row.effort)
  })

  test('keeps reasoning apart from the answer', async () => {
    const { heard } = await ask('[[think=2 chunks=1]]')
    expect(heard).toMatchObject({ thoughts: ['thought ', 'thought '], texts: ['word '] })
  })

  test('counts cached tokens apart from the input', async () => {
    const { answer } = await ask('one two three [[chunks=4 cached=2]]')
    expect(answer.usage).toEqual({ input: 3, output: 4, cacheRead: 2, cacheWrite: 0, totalTokens: 9 })
  })

  test.each([
    ['stop', 'stop'],
    ['length', 'length'],
    ['tool_calls', 'stop'],
    ['content_filter', 'content_filter'],
  ])('calls the end %s %s', async (word, stopReason) => {
    expect((await ask(`[[finish=${word}]]`)).answer.stopReason).toBe(stopReason)
  })

  test('takes an answer for whole that breaks behind its finish_reason', async () => {
    const { answer, heard } = await ask('[[cut=finish]]')
    expect(answer.stopReason).toBe('stop')
    expect(heard.text()).toBe('word word word ')
  })

  test('uses a connection again', async () => {
    const server = await serveModel()
    const runtime = openaiCompletions()
    const model = newModel({ baseUrl: `${server.url}/v1` })
    const { signal } = new AbortController()
    for (let turn = 0; turn < 3; turn++) {
      await runtime.answer(model, newCall('hello'), listen().sink, signal)
      await server.requests[turn]?.closed
      // The pool takes the connection back a moment after the last byte.
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
    expect(server.connections).toBe(1)
  })
})

/** What a provider's stream of such choices comes to. */
async function answerTo(deltas: object[], finish: string, call: Partial<ModelCall> = {}) {
  const choices = [...deltas.map((delta) => ({ delta, finish_reason: null })), { delta: {}, finish_reason: finish }]
  const frames = choices.map((choice) => `data: ${JSON.stringify({ choices: [{ index: 0, ...choice }] })}\n\n`)
  const baseUrl = await answerAlways(200, 'text/event-stream', `${frames.join('')}data: [DONE]\n\n`)
  const { signal } = new AbortController()
  return openaiCompletions().answer(newModel({ baseUrl }), newCall('a', call), listen().sink, signal)
}

const pieces = (...tool_calls: object[]) => ({ tool_calls })
const piece = (name: string | null | undefined, args: unknown, more: object = {}) => {
  return { function: { name, arguments: args }, ...more }
}

describe('Chat Completions with tools', () => {
  test('writes calls and results as the format has them', async () => {
    const calls = [{ id: 'c1', name: 'weather', arguments: '{"place": "Karakorum"}' }]
    const messages: ModelCall['messages'] = [
      { role: 'user', text: 'a' },
      { role: 'assistant', text: '', calls },
      { role: 'tool', callId: 'c1', name: 'weather', text: 'sun', isError: false },
      { role: 'assistant', text: 'wait', calls },
      { role: 'tool', callId: 'c1', name: 'weather', text: 'gone', isError: true },
    ]
    const { body } = await ask('', {}, { messages, tools: [weather] })
    const called = (id: string) => [
      { id, type: 'function', function: { name: 'weather', arguments: calls[0]!.arguments } },
    ]
    expect(body).toMatchObject({ tools: [{ type: 'function', function: weather }] })
    expect((body as { messages: unknown }).messages).toEqual([
      { role: 'user', content: 'a' },
      { role: 'assistant', content: null, tool_calls: called('c1') },
      { role: 'tool', tool_call_id: 'c1', content: 'sun' },
      { role: 'assistant', content: 'wait', tool_calls: called('call_1') },
      { role: 'tool', tool_call_id: 'call_1', content: 'gone' },
    ])
    expect(body).not.toHaveProperty('tool_choice')
  })

  const a = { id: 'x', name: 'a', arguments: '{"n":1}' }
  const b = { id: 'y', name: 'b', arguments: '{"n":2}' }
  const [madeUpA, madeUpB] = [
    { ...a, id: 'call_0' },
    { ...b, id: 'call_1' },
  ]
  test.each([
    {
      way: 'whole and all at once',
      deltas: [pieces(piece('a', a.arguments, { index: 0, id: 'x' }), piece('b', b.arguments, { index: 1, id: 'y' }))],
      calls: [a, b],
    },
    {
      way: 'in pieces that are mixed',
      deltas: [
        pieces(piece('a', '', { index: 0, id: 'x' })),
        pieces(piece('b', '{"n"', { index: 1, id: 'y' }), piece(undefined, '{"n":', { index: 0 })),
        pieces(piece(null, '1}', { index: 0 }), piece('', ':2}', { index: 1, id: '' })),
      ],
      calls: [a, b],
    },
    {
      way: 'without an index',
      deltas: [
        pieces(piece('a', '{"n":', { id: 'x' })),
        pieces(piece(undefined, '1}')),
        pieces(piece('b', '{"n":', { id: 'y' })),
        pieces(piece(undefined, '2}', { id: 'y' })),
      ],
      calls: [a, b],
    },
    {
      way: 'without an id',
      deltas: [
        pieces(piece('a', '{"n":', { index: 0 }), piece('b', b.arguments, { index: 1 })),
        pieces(piece(undefined, '1}', { index: 0 })),
      ],
      calls: [madeUpA, madeUpB],
    },
    {
      way: 'without either',
      deltas: [pieces(piece('a', '{"n":1', { index: null })), pieces(piece(null, '}'), piece('b', b.arguments))],
      calls: [madeUpA, madeUpB],
    },
    {
      way: 'each as the first',
      deltas: [
        pieces(piece('a', a.arguments, { index: 0, id: 'x' })),
        pieces(piece('b', b.arguments, { index: 0, id: 'y' })),
      ],
      calls: [a, b],
    },
    {
      way: 'by one id',
      deltas: [pieces(piece('a', a.arguments, { index: 0, id: 'x' }), piece('b', b.arguments, { index: 1, id: 'x' }))],
      calls: [a, { ...b, id: 'call_1' }],
    },
    {
      way: 'with the name and the id in every piece',
      deltas: ['{"n":', '1}'].map((text) => pieces(piece('a', text, { index: 0, id: 'x' }))),
      calls: [a],
    },
    {
      way: 'with arguments that are no text',
      deltas: [pieces(piece('a', { n: 1 }, { index: 0, id: 'x' }))],
      calls: [a],
    },
    {
      way: 'without arguments',
      deltas: [pieces(piece('a', null, { index: 0, id: 'x' }))],
      calls: [{ ...a, arguments: '{}' }],
    },
  ])('takes calls that come $way', async ({ deltas, calls }) => {
    expect(await answerTo(deltas, 'tool_calls')).toMatchObject({ stopReason: 'toolUse', calls })
  })

  test('takes calls for the end, whatever the provider calls it', async () => {
    const deltas = [pieces(piece('a', a.arguments, { index: 0, id: 'x' }))]
    expect(await answerTo(deltas, 'stop')).toMatchObject({ stopReason: 'toolUse', calls: [a] })
  })

  test('makes up ids that no call before has', async () => {
    const calls = ['call_1', 'x'].map((id) => ({ ...a, id }))
    const messages: ModelCall['messages'] = [{ role: 'assistant', text: '', calls }]
    const deltas = [pieces(piece('a', a.arguments), piece('b', b.arguments), piece('a', a.arguments, { id: 'x' }))]
    const { calls: own } = await answerTo(deltas, 'tool_calls', { messages })
    expect(own?.map(({ id }) => id)).toEqual(['call_2', 'call_3', 'call_4'])
  })

  test.each([
    { id: 'kimi-k2.5', reasoning: true, thoughts: ' ' },
    { id: 'kimi-k2', reasoning: false, thoughts: undefined },
    { id: 'model-1', reasoning: true, thoughts: undefined },
  ])(
    'stands $thoughts in for thoughts that $id, reasoning $reasoning, demands back',
    async ({ thoughts, ...model }) => {
      const messages: ModelCall['messages'] = [{ role: 'assistant', text: '', calls: [a] }]
      const { body } = await ask('', model, { messages })
      const [said] = (body as { messages: { reasoning_content?: string }[] }).messages
      expect(said?.reasoning_content).toBe(thoughts)
    },
  )
})

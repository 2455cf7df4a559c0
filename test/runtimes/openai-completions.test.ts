import { describe, expect, test } from 'vitest'
import { openaiCompletions } from '../../src/runtimes/openai-completions.ts'
import type { Model, ModelCall } from '../../src/runtimes/runtime.ts'
import {
  key,
  listen,
  newCall,
  newModel,
  providerConformance,
  type RuntimeUnderTest,
  runtimeConformance,
  serveModel,
} from '../conformance/runtime.ts'

const subject: RuntimeUnderTest = {
  name: 'Chat Completions',
  newRuntime: openaiCompletions,
  newModel: (url) => newModel({ baseUrl: `${url}/v1` }),
}
runtimeConformance(subject)
providerConformance(subject)

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
    ['tool_calls', 'toolUse'],
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

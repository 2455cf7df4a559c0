import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { anthropicMessages } from '../../src/runtimes/anthropic-messages.ts'
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

const api = 'anthropic-messages'

const subject: RuntimeUnderTest = {
  name: 'Messages',
  newRuntime: anthropicMessages,
  newModel: (url) => newModel({ api, baseUrl: `${url}/coding/` }),
}
runtimeConformance(subject)
providerConformance(subject)

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
    ['tool_use', 'toolUse'],
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

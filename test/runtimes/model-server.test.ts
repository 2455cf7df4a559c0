/** The provider that stands in for real ones: were it kinder than they are, the tests of the runtimes would prove little. */
import { describe, expect, test } from 'vitest'
import { serveModel } from '../conformance/runtime.ts'
import { signatureOf } from '../support/model-refusals.ts'

async function post(path: string, body: object) {
  const server = await serveModel()
  const response = await fetch(server.url + path, { method: 'POST', body: JSON.stringify({ model: 'm', ...body }) })
  const text = await response.text()
  return { status: response.status, text, request: server.requests[0], server }
}

const tool = { name: 'weather', description: 'Tells the weather.', parameters: { type: 'object' } }

describe('the fake provider, asked for Chat Completions', () => {
  const path = '/v1/chat/completions'
  const tools = [{ type: 'function', function: tool }]
  const user = { role: 'user', content: 'a' }
  const called = (...ids: string[]) => {
    const tool_calls = ids.map((id) => ({ id, type: 'function', function: { name: 'weather', arguments: '{}' } }))
    return { role: 'assistant', content: null, tool_calls }
  }
  const result = (tool_call_id: string) => ({ role: 'tool', tool_call_id, content: 'sun' })
  const odd = (more: object) => {
    const called = { name: 'weather', arguments: '{}', ...more }
    return { role: 'assistant', content: null, tool_calls: [{ id: 'c', type: 'function', function: called }] }
  }

  test('remembers what was offered', async () => {
    expect((await post(path, { messages: [user], tools })).request?.tools).toEqual([tool])
  })

  test('takes calls with their results', async () => {
    const messages = [user, called('c', 'd'), result('d'), result('c'), user]
    expect((await post(path, { messages, tools })).status).toBe(200)
  })

  test.each([
    ['a call without its result', [user, called('c')]],
    ['one call of two without its result', [user, called('c', 'd'), result('c'), user]],
    ['a word between a call and its result', [user, called('c'), user, result('c')]],
    ['a result without a call', [user, result('c')]],
    ['a second result', [user, called('c'), result('c'), result('c')]],
    ['two calls by one id', [user, called('c', 'c'), result('c')]],
    ['a call without an id', [user, called(''), result('')]],
    ['no calls where some are announced', [user, called()]],
    ['an empty text beside a call', [user, { ...called('c'), content: '' }, result('c')]],
    ['arguments that are no JSON', [user, odd({ arguments: '{' }), result('c')]],
    ['a name that is none', [user, odd({ name: 'a.b' }), result('c')]],
    ['a message that says nothing', [user, { role: 'assistant', content: '' }]],
    ['a call of the user', [{ ...called('c'), role: 'user' }, result('c')]],
  ])('refuses %s', async (_what, messages) => {
    expect((await post(path, { messages, tools })).status).toBe(400)
  })

  test('refuses an empty list of tools', async () => {
    expect((await post(path, { messages: [user], tools: [] })).status).toBe(400)
  })
})

describe('the fake provider, asked for Messages', () => {
  const path = '/v1/messages'
  const tools = [{ name: tool.name, description: tool.description, input_schema: tool.parameters }]
  const turn = (role: string, ...content: object[]) => ({ role, content })
  const text = (text: string) => ({ type: 'text', text })
  const use = (id: string, more: object = {}) => ({ type: 'tool_use', id, name: 'weather', input: {}, ...more })
  const result = (tool_use_id: string, more: object = {}) => ({
    type: 'tool_result',
    tool_use_id,
    content: 'sun',
    ...more,
  })
  const user = turn('user', text('a'))
  const thinking = { type: 'thinking', thinking: 'Hm', signature: signatureOf('m', 'Hm') }

  test('remembers what was offered', async () => {
    expect((await post(path, { messages: [user], tools })).request?.tools).toEqual([tool])
  })

  test('takes calls with their results', async () => {
    const messages = [
      user,
      turn('assistant', thinking, use('c'), use('d')),
      turn('user', result('d'), result('c'), text('b')),
    ]
    expect((await post(path, { messages, tools, thinking: { type: 'enabled' } })).status).toBe(200)
  })

  test.each([
    ['a call without its result', [user, turn('assistant', use('c'))]],
    ['one call of two without its result', [user, turn('assistant', use('c'), use('d')), turn('user', result('c'))]],
    ['a result without a call', [user, turn('assistant', text('b')), turn('user', result('c'))]],
    ['a second result', [user, turn('assistant', use('c')), turn('user', result('c'), result('c'))]],
    ['a result behind a text', [user, turn('assistant', use('c')), turn('user', text('b'), result('c'))]],
    [
      'results in two turns',
      [user, turn('assistant', use('c'), use('d')), turn('user', result('c')), turn('user', result('d'))],
    ],
    ['the user twice', [user, user]],
    ['the assistant first', [turn('assistant', text('a')), user]],
    ['a turn that says nothing', [turn('user')]],
    ['a blank text', [turn('user', text(' '))]],
    [
      'an error that says nothing',
      [user, turn('assistant', use('c')), turn('user', result('c', { content: '', is_error: true }))],
    ],
    ['two calls by one id', [user, turn('assistant', use('c'), use('c')), turn('user', result('c'))]],
    ['an id that is none', [user, turn('assistant', use('a.b:0')), turn('user', result('a.b:0'))]],
    ['a name that is none', [user, turn('assistant', use('c', { name: '' })), turn('user', result('c'))]],
    ['an input that is no object', [user, turn('assistant', use('c', { input: '{}' })), turn('user', result('c'))]],
    ['a call of the user', [turn('user', use('c')), turn('assistant', text('b')), turn('user', result('c'))]],
    [
      'a thought that somebody has changed',
      [user, turn('assistant', { ...thinking, thinking: 'Aha' }, use('c')), turn('user', result('c'))],
    ],
  ])('refuses %s', async (_what, messages) => {
    expect((await post(path, { messages, tools })).status).toBe(400)
  })

  test('refuses calls of tools that are not defined', async () => {
    const messages = [user, turn('assistant', use('c')), turn('user', result('c'))]
    expect((await post(path, { messages })).status).toBe(400)
  })

  test('refuses to think about what was begun without thoughts', async () => {
    const messages = [user, turn('assistant', use('c')), turn('user', result('c'))]
    expect((await post(path, { messages, tools, thinking: { type: 'enabled' } })).status).toBe(400)
    expect((await post(path, { messages: [...messages, turn('assistant', text('b')), user], tools })).status).toBe(200)
  })
})

describe('the directives for tools', () => {
  const tools = [{ type: 'function', function: tool }]
  const askOnce = (content: string, ...more: object[]) =>
    post('/chat/completions', { messages: [{ role: 'user', content }, ...more], tools })
  const tool_calls = [{ id: 'c', type: 'function', function: { name: 'weather', arguments: '{}' } }]
  const round = [
    { role: 'assistant', content: null, tool_calls },
    { role: 'tool', tool_call_id: 'c', content: 'sun' },
  ]

  test('mean nothing to a request that offers no tools', async () => {
    const { text } = await post('/chat/completions', { messages: [{ role: 'user', content: '[[tool=weather]]' }] })
    expect(text).not.toContain('tool_calls')
  })

  test('give every call an id of its own, as long as the server runs', async () => {
    const { server, text } = await askOnce('[[tool=weather]] [[tool=weather]]')
    const body = JSON.stringify({ messages: [{ role: 'user', content: '[[tool=weather]]' }], tools })
    const later = await (await fetch(`${server.url}/chat/completions`, { method: 'POST', body })).text()
    const ids = [...`${text}${later}`.matchAll(/"id":"(call_fake_\d+)"/g)].map(([, id]) => id)
    expect(ids).toHaveLength(3)
    expect(new Set(ids).size).toBe(3)
  })

  test('may have directives for others in their arguments', async () => {
    const { text } = await askOnce('[[tool=tell args={"to":["b"],"say":"[[fail=500]]"}]] [[finish=stop]]')
    expect(text).toMatch(/tool_calls.*"finish_reason":"stop"/s)
  })

  test('confine a failure to a round', async () => {
    const text = '[[tool=weather]] [[fail=500 round=1]]'
    expect((await askOnce(text)).status).toBe(200)
    expect((await askOnce(text, ...round)).status).toBe(500)
  })

  test('begin anew with the next word of the user', async () => {
    const { text } = await askOnce('[[tool=weather]]', ...round, { role: 'user', content: '[[tool=other]]' })
    expect(text).toContain('"name":"other"')
  })
})

import { describe, expect, test } from 'vitest'
import { echo } from '../../src/runtimes/echo.ts'
import type { ContextMessage } from '../../src/runtimes/runtime.ts'
import { listen, newCall, newModel, runtimeConformance, weather } from '../conformance/runtime.ts'

const model = newModel({ api: 'echo', ref: 'echo/echo' })

runtimeConformance({
  name: 'echo',
  newRuntime: () => echo({ wordMs: 0 }),
  newModel: () => model,
})

async function say(...messages: ContextMessage[]) {
  const heard = listen()
  await echo({ wordMs: 0 }).answer(model, newCall('', { messages }), heard.sink, new AbortController().signal)
  return heard
}

describe('echo', () => {
  test('begins a conversation by saying what it is and what to set', async () => {
    const heard = await say({ role: 'user', text: 'hello  there\n' })
    expect(heard.text()).toMatch(/^No model is configured, so this is the built-in echo\. Set MOONSHOT_API_KEY/)
    expect(heard.text()).toMatch(/\n\nYou said: hello {2}there\n$/)
  })

  test('repeats only the words later on', async () => {
    const heard = await say(
      { role: 'user', text: 'a' },
      { role: 'assistant', text: 'b' },
      { role: 'user', text: 'c d' },
    )
    expect(heard.texts).toEqual(['You', ' said:', ' c', ' d'])
  })

  test('mentions images, which it cannot repeat', async () => {
    const images = [{ mimeType: 'image/png', bytes: Uint8Array.of(1) }]
    const heard = await say({ role: 'assistant', text: 'b' }, { role: 'user', text: 'look', images })
    expect(heard.text()).toBe('You said (and an image): look')
  })

  test('calls no tool, and answers the user behind the results of tools that others have called', async () => {
    const heard = await say(
      { role: 'user', text: 'a [[tool=weather]]' },
      { role: 'assistant', text: '', calls: [{ id: 'c1', name: 'weather', arguments: '{}' }] },
      { role: 'tool', callId: 'c1', name: 'weather', text: 'sun', isError: false },
    )
    expect(heard.text()).toBe('You said: a [[tool=weather]]')
    const call = newCall('[[tool=weather]]', { tools: [weather] })
    const answer = await echo({ wordMs: 0 }).answer(model, call, listen().sink, new AbortController().signal)
    expect(answer.stopReason).toBe('stop')
    expect(answer).not.toHaveProperty('calls')
  })

  test('takes brackets for words', async () => {
    const heard = await say({ role: 'assistant', text: 'b' }, { role: 'user', text: '[[fail=400]]' })
    expect(heard.text()).toBe('You said: [[fail=400]]')
  })

  test('gives a long text in a bounded number of pieces', async () => {
    const text = 'word '.repeat(5000)
    const heard = await say({ role: 'assistant', text: 'b' }, { role: 'user', text })
    expect(heard.texts.length).toBeLessThanOrEqual(250)
    expect(heard.text()).toBe(`You said: ${text}`)
  })

  test('stops waiting for the next word on abort', async () => {
    const abort = new AbortController()
    const hours = echo({ wordMs: 10_000_000 })
    const asked = hours.answer(model, newCall('a'), listen(() => abort.abort(new Error('enough'))).sink, abort.signal)
    await expect(asked).rejects.toThrow('enough')
  })
})

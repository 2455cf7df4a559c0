/** The answer of a connected program: what it is asked, and how what it says is put together. */
import { describe, expect, test } from 'vitest'
import { type AskNode, connector, connectorModel } from '../../src/runtimes/connector.ts'
import { pause } from '../../src/runtimes/pause.ts'
import type { ContextMessage, ModelCall } from '../../src/runtimes/runtime.ts'
import { listen, newCall, rejectionOf, runtimeConformance } from '../conformance/runtime.ts'

const never = new AbortController().signal

/** A node that says `word` as often as the message asks it to, each in a turn of its own. */
const talker: AskNode = async ({ params, hear }, signal) => {
  const { message } = params(0) as { message: string }
  const times = Number(/chunks=(\d+)/.exec(message)?.[1] ?? 2)
  for (let n = 0; n < times; n++) {
    await pause(0, signal)
    hear({ kind: 'text', offset: n * 5, text: 'word ' })
  }
  return {}
}

runtimeConformance({
  name: 'connector',
  newRuntime: () => connector(talker),
  newModel: () => connectorModel('main'),
})

/** What a node that says this makes of an answer. */
async function hearing(ask: AskNode, call: Partial<ModelCall> = {}) {
  const heard = listen()
  const answer = await connector(ask).answer(connectorModel('writer'), newCall('', call), heard.sink, never)
  return { ...heard, answer }
}

describe('what a node says', () => {
  const pieces = (...said: [offset: number, text: string][]): AskNode => {
    return async ({ hear }) => {
      for (const [offset, text] of said) hear({ kind: 'text', offset, text })
    }
  }

  test.each([
    [
      'comes in order',
      [
        [0, 'one '],
        [4, 'two'],
      ],
    ],
    [
      'comes twice',
      [
        [0, 'one '],
        [0, 'one '],
        [4, 'two'],
      ],
    ],
    [
      'overlaps',
      [
        [0, 'one t'],
        [2, 'e tw'],
        [4, 'two'],
      ],
    ],
    [
      'is empty in between',
      [
        [0, 'one '],
        [4, ''],
        [4, 'two'],
      ],
    ],
  ] as [string, [number, string][]][])('is told once when it %s', async (_, said) => {
    const { text, texts } = await hearing(pieces(...said))
    expect(text()).toBe('one two')
    expect(texts).not.toContain('')
  })

  test.each([
    [
      'leaves something out',
      [
        [0, 'one'],
        [4, 'two'],
      ],
      'left out characters 3 to 4',
    ],
    [
      'says something else than before',
      [
        [0, 'one'],
        [1, 'on'],
      ],
      'told another text at 1',
    ],
    [
      'says more, and something else than before',
      [
        [0, 'one'],
        [0, 'own words'],
      ],
      'told another text at 0',
    ],
  ] as [string, [number, string][], string][])('fails when it %s', async (_, said, words) => {
    await expect(hearing(pieces(...said))).rejects.toThrow(words)
  })

  test('counts offsets in UTF-16 units', async () => {
    expect((await hearing(pieces([0, '🐎'], [2, '!']))).text()).toBe('🐎!')
  })

  test('is completed by what it says in the end, if that continues it', async () => {
    const ends =
      (text: string): AskNode =>
      async ({ hear }) => {
        hear({ kind: 'text', offset: 0, text: 'one ' })
        return { text }
      }
    expect((await hearing(ends('one two'))).texts).toEqual(['one ', 'two'])
    await expect(hearing(ends('two'))).rejects.toThrow('is not what it told in pieces')
    await expect(hearing(ends('one'))).rejects.toThrow('is not what it told in pieces')
  })

  test('is reasoning apart from the answer', async () => {
    const { texts, thoughts } = await hearing(async ({ hear }) => {
      hear({ kind: 'reasoning', text: 'hm' })
      hear({ kind: 'reasoning', text: '' })
      return { text: 'yes' }
    })
    expect([texts, thoughts]).toEqual([['yes'], ['hm']])
  })

  test.each([
    [{}, { stopReason: 'stop', input: 0, totalTokens: 0, id: 'writer' }],
    [null, { stopReason: 'stop', input: 0, totalTokens: 0, id: 'writer' }],
    [
      { usage: { input: 3, output: 2, cacheRead: 1 }, stopReason: 'length', model: 'mind' },
      { stopReason: 'length', input: 3, totalTokens: 6, id: 'mind' },
    ],
    [
      { usage: { input: -1, output: 'many', totalTokens: 1.5 }, stopReason: 'toolUse', model: 'x'.repeat(200) },
      { stopReason: 'stop', input: 0, totalTokens: 0, id: 'writer' },
    ],
  ])('in the end is %j', async (payload, { stopReason, input, totalTokens, id }) => {
    const { answer } = await hearing(async () => payload)
    expect(answer).toMatchObject({ stopReason, usage: { input, totalTokens }, model: { ref: 'connector/writer', id } })
    expect(answer.calls).toBeUndefined()
  })
})

describe('what a node is asked', () => {
  async function asked(call: Partial<ModelCall>): Promise<{ [name: string]: unknown }> {
    let params = {}
    await hearing(async (wanted) => {
      params = wanted.params(2)
    }, call)
    return params
  }

  test('is the whole turn, without pictures and without what is for providers', async () => {
    const messages: ContextMessage[] = [
      { role: 'user', text: 'look', images: [{ mimeType: 'image/png', bytes: Uint8Array.of(1) }] },
      {
        role: 'assistant',
        text: '',
        calls: [{ id: 'c', name: 'agents_list', arguments: '{}' }],
        carried: { api: 'x', model: 'y', value: 'signed' },
      },
      { role: 'tool', callId: 'c', name: 'agents_list', text: '[]', isError: false },
    ]
    expect(await asked({ agentId: 'writer', system: 'be brief', messages })).toEqual({
      ...{ runId: 'r1', sessionKey: 'main', agentId: 'writer', message: 'look', system: 'be brief', thinking: 'off' },
      messages: [
        { role: 'user', text: 'look' },
        { role: 'assistant', text: '', calls: [{ id: 'c', name: 'agents_list', arguments: '{}' }] },
        { role: 'tool', callId: 'c', name: 'agents_list', text: '[]', isError: false },
      ],
      ...{ tools: [], received: 0, called: 2 },
    })
  })

  test('has of a long conversation the newest that fits, and the last of all in any case', async () => {
    const long = (letter: string): ContextMessage => ({ role: 'user', text: letter.repeat(100_000) })
    const { messages } = await asked({ messages: ['a', 'b', 'c'].map(long) })
    expect((messages as { text: string }[]).map(({ text }) => text[0])).toEqual(['b', 'c'])
    const { messages: one } = await asked({ messages: [long('a'), { role: 'user', text: 'z'.repeat(300_000) }] })
    expect((one as { text: string }[]).map(({ text }) => text[0])).toEqual(['z'])
  })

  test('says how much has arrived, each time it is asked', async () => {
    const received: unknown[] = []
    await hearing(async ({ params, hear }) => {
      const note = () => received.push((params(0) as { received: number }).received)
      note()
      hear({ kind: 'text', offset: 0, text: 'four' })
      note()
    })
    expect(received).toEqual([0, 4])
  })

  test('fails in the words of whoever asks it', async () => {
    const words = new Error('the connector of writer is not connected (waited 30 s)')
    expect(await rejectionOf(hearing(() => Promise.reject(words)))).toBe(words)
  })
})

/** What becomes of a call of a tool that another program has. */
import { describe, expect, it } from 'vitest'
import { createToolbox, type Tool, type ToolSource } from '../../src/broker/toolbox.ts'
import type { RunRecord } from '../../src/stores/store.ts'

const silent = () => {}
const log = { trace: silent, debug: silent, info: silent, warn: silent, error: silent }
const RUN = { runId: 'r', agentId: 'main' } as RunRecord

const tool = (changes: Partial<Tool> = {}): Tool => ({
  name: 't',
  description: '',
  parameters: { type: 'object', properties: { text: { type: 'string', pattern: '^[a-z]+$' } }, required: ['text'] },
  call: async (args) => ({ text: JSON.stringify(args) }),
  ...changes,
})

const toolbox = (source: ToolSource, deny: string[] = []) =>
  createToolbox({ sources: [source], tools: { deny, timeoutMs: 1_000 }, log })

const ask = (source: ToolSource, args: string, deny?: string[]) =>
  toolbox(source, deny).call({ id: 'c', name: 't', arguments: args }, RUN, new AbortController().signal)

describe('the arguments of a call', () => {
  it('are held to the parameters of the tool', async () => {
    const source = { tools: () => [tool()] }
    expect(await ask(source, '{"text":"fine"}')).toMatchObject({ text: '{"text":"fine"}', isError: false })
    expect(await ask(source, '{"text":"NOT FINE"}')).toMatchObject({ isMalformed: true })
    expect(await ask(source, '{}')).toMatchObject({ isMalformed: true })
  })

  it('that are checked elsewhere are held to be an object, and no pattern of a stranger is run', async () => {
    const parameters = {
      type: 'object',
      properties: { text: { type: 'string', pattern: '^(a+)+$' } },
      $ref: '#/nowhere',
    } as const
    const source = { tools: () => [tool({ parameters, isCheckedElsewhere: true })] }
    // To hold this text to that pattern would take longer than anybody lives.
    const text = `${'a'.repeat(100)}!`
    expect(await ask(source, JSON.stringify({ text }))).toMatchObject({
      text: JSON.stringify({ text }),
      isError: false,
    })
    expect(await ask(source, '')).toMatchObject({ text: '{}', isError: false })
    for (const args of ['[]', '"text"', '7', 'null', '{"text":'])
      expect(await ask(source, args)).toMatchObject({ isMalformed: true })
  })
})

describe('a tool that is not there', () => {
  it('is a mistake of the model, unless it was there a moment ago', async () => {
    expect(await ask({ tools: () => [] }, '{}')).toMatchObject({ isError: true, isMalformed: true })
    const source = { tools: () => [], missing: (agentId: string, name: string) => `${name} of ${agentId} is away` }
    expect(await ask(source, '{}')).toEqual({ text: 't of main is away', isError: true, isMalformed: false })
  })

  it('is not spoken of when it is denied', async () => {
    const source = { tools: () => [tool()], missing: () => 'it is away' }
    expect((await ask(source, '{}', ['t*'])).text).toBe('there is no tool "t" here; known are: none')
  })
})

it('a failure is told in so many words and no more', async () => {
  const source = { tools: () => [tool({ call: () => Promise.reject(new Error('x'.repeat(1_000_000))) })] }
  const { text, isError } = await ask(source, '{"text":"a"}')
  expect([isError, text.length < 101_000, text.endsWith('[cut here: the result has 1000000 characters]')]).toEqual([
    true,
    true,
    true,
  ])
})

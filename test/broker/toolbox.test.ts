import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { createToolbox, deniedInVain, namesLike, type Tool } from '../../src/broker/toolbox.ts'
import type { RunRecord } from '../../src/stores/store.ts'
import { quiet } from '../support/rooms.ts'

const RUN = { runId: 'r1', agentId: 'main', sessionKey: 'agent:main:main' } as RunRecord

const tool = (name: string, call: Tool['call'], more: Partial<Tool> = {}): Tool => ({
  name,
  description: `does ${name}`,
  parameters: { type: 'object', properties: { n: { type: 'integer' } }, additionalProperties: false },
  call,
  ...more,
})
const open = (tools: Tool[], deny: string[] = [], timeoutMs = 1_000) =>
  createToolbox({ sources: [{ tools: () => tools }], tools: { deny, timeoutMs }, log: quiet })
const called = (name: string, args = '{}') => ({ id: 'c1', name, arguments: args })
const never = () => new AbortController().signal

describe('a toolbox', () => {
  it('tells what an agent may call, in the order of the names, without what is denied', () => {
    const toolbox = open(
      ['b', 'a', 'files__read', 'files__write'].map((name) => tool(name, async () => ({ text: name }))),
      ['FILES__*'],
    )
    expect(toolbox.specs('main').map(({ name }) => name)).toEqual(['a', 'b'])
    expect(Object.keys(toolbox.specs('main')[0]!)).toEqual(['name', 'description', 'parameters'])
  })

  it('lets somebody outside call what an agent has, and nothing that is denied, or speaks for a run', async () => {
    const call = vi.fn(async (_: object, { run }: Parameters<Tool['call']>[1]) => ({
      text: `${run.agentId} ${run.sessionKey} ${run.runId}`,
    }))
    const toolbox = open([tool('look', call), tool('rm', call), tool('send', call, { isForRuns: true })], ['rm'])
    const asker = { agentId: 'main', sessionKey: 'agent:main:notes', principal: 'token:shared' }
    const ask = (name: string, args?: string) => toolbox.callFor(asker, called(name, args), never())
    expect(await ask('look')).toEqual({ text: 'main agent:main:notes c1', isError: false, isMalformed: false })
    expect(await ask('look', '{"n":"one"}')).toMatchObject({
      isError: true,
      text: expect.stringMatching(/must be int/),
    })
    expect(await Promise.all(['rm', 'send', 'none'].map((name) => ask(name)))).toEqual([
      undefined,
      undefined,
      undefined,
    ])
    expect(call).toHaveBeenCalledTimes(1)
  })

  it('calls nothing that is denied, and says what there is', async () => {
    const call = vi.fn(async () => ({ text: 'no' }))
    const outcome = await open([tool('rm', call), tool('ls', call)], ['rm']).call(called('rm'), RUN, never())
    expect(outcome).toEqual({ text: 'there is no tool "rm" here; known are: ls', isError: true, isMalformed: true })
    expect(call).not.toHaveBeenCalled()
  })

  it.each([
    ['{"n":', /are no JSON .*call add again/],
    ['{"n":"one"}', /^invalid add arguments: .*\/n: must be integer/],
    ['{"m":1}', /unexpected property 'm'/],
    ['[]', /must be object/],
    ['null', /must be object/],
  ])('tells a model what is wrong with %s', async (args, words) => {
    const call = vi.fn(async () => ({ text: 'no' }))
    const outcome = await open([tool('add', call)]).call(called('add', args), RUN, never())
    expect(outcome).toEqual({ text: expect.stringMatching(words), isError: true, isMalformed: true })
    expect(call).not.toHaveBeenCalled()
  })

  it('takes no arguments for an empty object, as models write it', async () => {
    const call = vi.fn(async () => ({ text: 'done' }))
    expect(await open([tool('add', call)]).call(called('add', ' '), RUN, never())).toEqual({
      text: 'done',
      isError: false,
      isMalformed: false,
    })
    expect(call).toHaveBeenCalledWith({}, { run: RUN, isOutside: false }, expect.any(AbortSignal))
  })

  it('says a failure in its own words, as a result and not as a mistake of the model', async () => {
    const fail = tool('add', () => Promise.reject(new Error('the sum is too large')))
    expect(await open([fail]).call(called('add'), RUN, never())).toEqual({
      text: 'the sum is too large',
      isError: true,
      isMalformed: false,
    })
  })

  it('cuts a result that is too long, and says so', async () => {
    const long = tool('add', async () => ({ text: 'x'.repeat(200_000) }))
    const { text } = await open([long]).call(called('add'), RUN, never())
    expect(text).toHaveLength(100_000 + '\n\n[cut here: the result has 200000 characters]'.length)
  })

  describe('by the clock', () => {
    beforeEach(() => void vi.useFakeTimers())
    afterEach(() => void vi.useRealTimers())

    it('gives a tool that hangs up when its time is up, and calls it off', async () => {
      let calledOff: AbortSignal | undefined
      const hang = tool('add', (_args, _context, signal) => {
        calledOff = signal
        return new Promise(() => {})
      })
      const outcome = open([hang]).call(called('add'), RUN, never())
      await vi.advanceTimersByTimeAsync(1_000)
      expect(await outcome).toEqual({ text: 'add did not answer within 1 s', isError: true, isMalformed: false })
      expect(calledOff?.aborted).toBe(true)
    })

    it('lets a tool that ends by itself take its time, and leaves it with the run', async () => {
      const over = new AbortController()
      const wait = tool('add', () => new Promise(() => {}), { timeoutMs: 0 })
      const outcome = open([wait]).call(called('add'), RUN, over.signal)
      await vi.advanceTimersByTimeAsync(3_600_000)
      over.abort(new Error('the run was stopped'))
      await expect(outcome).rejects.toThrow('the run was stopped')
    })
  })
})

describe('a list of names', () => {
  it.each([
    [['a*'], 'abc', true],
    [['*'], 'anything', true],
    [['a.c'], 'abc', false],
    [['x__*'], 'x_y', false],
    [['Exec'], 'exec', true],
    [[], 'a', false],
  ])('%j has %s: %s', (patterns, name, expected) => {
    expect(namesLike(patterns)(name)).toBe(expected)
  })
})

it('denies in vain what is no tool of the gateway, no pattern, and no tool of a server', () => {
  const deny = ['sessions_list', 'Sessions_Send', 'session_list', 'exec', 'files__read', 'fil*', '']
  expect(deniedInVain(deny, ['sessions_list', 'sessions_send'])).toEqual(['session_list', 'exec', ''])
})

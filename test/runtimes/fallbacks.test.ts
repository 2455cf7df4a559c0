import { describe, expect, test } from 'vitest'
import { answerWithFallbacks, createRuntimes, isNotToBeHad } from '../../src/runtimes/index.ts'
import { type Model, ModelFailure, type Runtime } from '../../src/runtimes/runtime.ts'
import { failureOf, listen, newCall, newModel, rejectionOf, serveModel, weather } from '../conformance/runtime.ts'

type Kind = ModelFailure['kind']
type Step = ModelFailure | Error | 'ok' | 'speak, then fail' | 'think, then fail'

const first = newModel({ api: 'scripted', ref: 'a/first' })
const second = newModel({ api: 'scripted', ref: 'b/second' })
const usage = { input: 0, output: 0, cacheRead: 0, cacheWrite: 0, totalTokens: 0 }
const fail = (kind: Kind, message: string = kind, more: { status?: number; retryAfterMs?: number } = {}) =>
  new ModelFailure(kind, message, more)

/** Runs a script of one list of steps for each model, and keeps what happened. */
function play(script: Record<string, Step[]>, { signal = new AbortController().signal, onSleep = () => {} } = {}) {
  const tries: string[] = []
  const waits: number[] = []
  const heard = listen()
  const scripted: Runtime = {
    api: 'scripted',
    async answer(model, _call, sink) {
      const step = script[model.ref]?.shift() ?? 'ok'
      if (step === 'speak, then fail') sink.delta('Once')
      if (step === 'think, then fail') sink.reasoning('Hm')
      if (typeof step === 'string' && step !== 'ok') throw fail('cut', 'broke off')
      if (step !== 'ok') throw step
      sink.delta('ok')
      return { stopReason: 'stop', usage, model }
    },
  }
  const models: Record<string, Model> = { [first.ref]: first, [second.ref]: second }
  const answer = answerWithFallbacks({
    runtimes: new Map([[scripted.api, scripted]]),
    candidates: Object.keys(script).map((ref) => models[ref]!),
    call: newCall('hello'),
    sink: heard.sink,
    signal,
    onAttempt: (model, attempt) => tries.push(`${model.ref} ${attempt}`),
    sleep: async (ms) => {
      waits.push(ms)
      onSleep()
    },
    random: () => 0,
  })
  return { answer, tries, waits, heard }
}

describe('answering with fallbacks', () => {
  test('asks the first model once when it answers', async () => {
    const { answer, tries } = play({ 'a/first': ['ok'], 'b/second': [] })
    expect((await answer).model).toBe(first)
    expect(tries).toEqual(['a/first 1'])
  })

  test.each(['rateLimited', 'overloaded', 'unreachable', 'stalled', 'cut'] as const)(
    'tries the same model three times when it is %s, then the next',
    async (kind) => {
      const { answer, tries, waits } = play({ 'a/first': [fail(kind), fail(kind), fail(kind)], 'b/second': ['ok'] })
      expect((await answer).model).toBe(second)
      expect(tries).toEqual(['a/first 1', 'a/first 2', 'a/first 3', 'b/second 1'])
      expect(waits).toEqual([250, 500])
    },
  )

  test.each(['auth', 'unconfigured'] as const)('goes to the next model at once after %s', async (kind) => {
    const { answer, tries, waits } = play({ 'a/first': [fail(kind)], 'b/second': ['ok'] })
    expect((await answer).model).toBe(second)
    expect(tries).toEqual(['a/first 1', 'b/second 1'])
    expect(waits).toEqual([])
  })

  test('ends with a request that the provider calls wrong', async () => {
    const wrong = fail('refused', 'too long', { status: 400 })
    const { answer, tries } = play({ 'a/first': [wrong], 'b/second': ['ok'] })
    expect(await rejectionOf(answer)).toBe(wrong)
    expect(tries).toEqual(['a/first 1'])
  })

  test('goes to the next model when this one is unknown to its provider', async () => {
    const { answer } = play({ 'a/first': [fail('refused', 'no such model', { status: 404 })], 'b/second': ['ok'] })
    expect((await answer).model).toBe(second)
  })

  test('waits as long as the provider asks', async () => {
    const { answer, waits } = play({ 'a/first': [fail('rateLimited', 'slow down', { retryAfterMs: 7000 }), 'ok'] })
    await answer
    expect(waits).toEqual([7000])
  })

  test('does not wait for a provider that asks for more than ten seconds', async () => {
    const busy = fail('rateLimited', 'come back tomorrow', { retryAfterMs: 86_400_000 })
    const { answer, tries, waits } = play({ 'a/first': [busy], 'b/second': ['ok'] })
    await answer
    expect(tries).toEqual(['a/first 1', 'b/second 1'])
    expect(waits).toEqual([])
  })

  test.each(['speak, then fail', 'think, then fail'] as const)('tries nothing again after: %s', async (step) => {
    const { answer, tries } = play({ 'a/first': [step], 'b/second': ['ok'] })
    expect(await failureOf(answer)).toMatchObject({ kind: 'cut', message: 'broke off' })
    expect(tries).toEqual(['a/first 1'])
  })

  test('rejects with the last failure of an only model', async () => {
    const { answer } = play({
      'a/first': [fail('overloaded', 'one'), fail('overloaded', 'two'), fail('stalled', 'three')],
    })
    expect(await failureOf(answer)).toMatchObject({ kind: 'stalled', message: 'three' })
  })

  test('names every model and its words when all have failed', async () => {
    const { answer } = play({
      'a/first': [fail('auth', 'bad key')],
      'b/second': [fail('refused', 'b/second is gone', { status: 404 })],
    })
    expect(await failureOf(answer)).toMatchObject({
      kind: 'refused',
      status: 404,
      message: 'no model answered. a/first: bad key; b/second is gone',
    })
  })

  test('lets an error that is no failure of a model through', async () => {
    const bug = new TypeError('bug')
    const { answer, tries } = play({ 'a/first': [bug], 'b/second': ['ok'] })
    expect(await rejectionOf(answer)).toBe(bug)
    expect(tries).toEqual(['a/first 1'])
  })

  test('stops at an abort during a wait', async () => {
    const abort = new AbortController()
    const onSleep = () => abort.abort(new Error('enough'))
    const { answer, tries } = play({ 'a/first': [fail('overloaded')] }, { signal: abort.signal, onSleep })
    await expect(answer).rejects.toThrow('enough')
    expect(tries).toEqual(['a/first 1'])
  })

  test('wakes from the wait itself at an abort', async () => {
    const abort = new AbortController()
    const server = await serveModel()
    const model = newModel({ baseUrl: server.url })
    const asked = answerWithFallbacks({
      runtimes: createRuntimes(),
      candidates: [model],
      call: newCall('[[fail=429 retryafter=10]]'),
      sink: listen().sink,
      signal: abort.signal,
      // Asked for as the wait begins.
      random: () => {
        setImmediate(() => abort.abort(new Error('enough')))
        return 0
      },
    })
    await expect(asked).rejects.toThrow('enough')
    expect(server.requests).toHaveLength(1)
  })

  test('says so when there is no model, or none of its api', async () => {
    const nobody = play({}).answer
    expect(await failureOf(nobody)).toMatchObject({
      kind: 'unconfigured',
      message: expect.stringContaining('no model'),
    })
    const asked = answerWithFallbacks({
      runtimes: createRuntimes(),
      candidates: [newModel({ api: 'telepathy' })],
      call: newCall('hello'),
      sink: listen().sink,
      signal: new AbortController().signal,
    })
    expect(await failureOf(asked)).toMatchObject({
      kind: 'unconfigured',
      message: expect.stringMatching(/"telepathy"; known are openai-completions, anthropic-messages, echo/),
    })
  })

  test('recovers over the wire from a provider that fails twice', async () => {
    const server = await serveModel()
    const heard = listen()
    const answer = await answerWithFallbacks({
      runtimes: createRuntimes(),
      candidates: [newModel({ baseUrl: server.url })],
      call: newCall('[[failtimes=2]]'),
      sink: heard.sink,
      signal: new AbortController().signal,
      sleep: async () => {},
    })
    expect(answer.stopReason).toBe('stop')
    expect(heard.text()).toBe('word word word ')
    expect(server.requests).toHaveLength(3)
  })

  const askWire = async (text: string, refs: string[]) => {
    const server = await serveModel()
    const heard = listen()
    const answer = answerWithFallbacks({
      runtimes: createRuntimes(),
      candidates: refs.map((ref) => newModel({ baseUrl: server.url, ref })),
      call: newCall(text, { tools: [weather] }),
      sink: heard.sink,
      signal: new AbortController().signal,
      sleep: async () => {},
    })
    return { answer, heard, requests: server.requests }
  }

  test('hands on what a model wants called, and whose wish it is', async () => {
    const { answer } = await askWire('[[tool=weather]] [[think=1]]', ['fake/a'])
    expect(await answer).toMatchObject({
      stopReason: 'toolUse',
      calls: [{ name: 'weather', arguments: '{}' }],
      carried: { api: 'openai-completions', model: 'fake/a' },
    })
  })

  test('tries again when an answer breaks off in a call before which nothing was said', async () => {
    const { answer, requests } = await askWire('[[tool=weather]] [[cut=1]]', ['fake/a', 'fake/b'])
    expect(await failureOf(answer)).toMatchObject({ kind: 'cut' })
    expect(requests).toHaveLength(6)
  })

  test('tries nothing again when something was said before the call', async () => {
    const { answer, heard, requests } = await askWire('[[tool=weather]] [[before=1 cut=2]]', ['fake/a', 'fake/b'])
    expect(await failureOf(answer)).toMatchObject({ kind: 'cut' })
    expect(heard.texts).toEqual(['word '])
    expect(requests).toHaveLength(1)
  })
})

describe('a model that is not to be had', () => {
  test.each<[ModelFailure['kind'], number | undefined, boolean]>([
    ['auth', 401, true],
    ['rateLimited', 429, true],
    ['overloaded', 500, true],
    ['unreachable', undefined, true],
    ['stalled', undefined, true],
    ['cut', undefined, true],
    ['unconfigured', undefined, true],
    ['refused', 404, true],
    ['refused', 402, true],
    ['refused', 400, false],
    ['refused', 422, false],
  ])('is one that fails as %s (%s): %s', (kind, status, isSo) =>
    expect(isNotToBeHad(new ModelFailure(kind, 'no', { status }))).toBe(isSo),
  )

  test('is none that was asked for too many rounds', () => {
    expect(isNotToBeHad(new Error('the model asked for tools 25 times'))).toBe(false)
  })
})

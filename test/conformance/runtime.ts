/** What every runtime promises, and what those promise besides that call a provider. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { describe, expect, onTestFinished, test } from 'vitest'
import { Secret } from '../../src/config/secret.ts'
import {
  type Answer,
  type ContextMessage,
  type Model,
  type ModelCall,
  ModelFailure,
  type Runtime,
  type Sink,
  type ToolCall,
  type ToolSpec,
} from '../../src/runtimes/runtime.ts'
import { type ModelServer, startModelServer } from '../support/model-server.ts'

export interface RuntimeUnderTest {
  name: string
  newRuntime(options: { stallMs?: number }): Runtime
  /** A model at the given server. */
  newModel(serverUrl: string): Model
}

export interface ProviderUnderTest extends RuntimeUnderTest {
  /** The format's word for an answer that has reached its limit. */
  tooLong: string
}

export const key = 'sk-secret-of-the-tests'

export function newModel(more: Partial<Model> = {}): Model {
  return {
    ref: 'fake/model-1',
    provider: 'fake',
    id: 'model-1',
    name: 'Model 1',
    api: 'openai-completions',
    apiKey: new Secret(key),
    apiKeyVariable: 'FAKE_API_KEY',
    reasoning: false,
    input: ['text', 'image'],
    contextWindow: 100_000,
    maxTokens: 4000,
    cost: { input: 0, output: 0, cacheRead: 0, cacheWrite: 0 },
    ...more,
  }
}

export function newCall(text: string, more: Partial<ModelCall> = {}): ModelCall {
  const messages = [{ role: 'user' as const, text }]
  return { runId: 'r1', sessionKey: 'main', agentId: 'main', system: '', messages, thinking: 'off', tools: [], ...more }
}

/** A sink that keeps what it hears, and may act on each piece. */
export function listen(onPiece: () => void = () => {}) {
  const texts: string[] = []
  const thoughts: string[] = []
  const sink: Sink = {
    delta(text) {
      texts.push(text)
      onPiece()
    },
    reasoning(text) {
      thoughts.push(text)
      onPiece()
    },
  }
  return { sink, texts, thoughts, text: () => texts.join('') }
}

export const weather: ToolSpec = {
  name: 'weather',
  description: 'Tells the weather of a place.',
  parameters: { type: 'object', properties: { place: { type: 'string' } }, required: ['place'] },
}

/** An answer and the results of its calls, as the next call has them in its context. */
function answered({ calls = [], carried }: Answer, said: string, results: string[]): ContextMessage[] {
  return [
    { role: 'assistant', text: said, calls, ...(carried && { carried }) },
    ...calls.map((call, index) => resultOf(call, results[index] ?? '')),
  ]
}

const resultOf = ({ id, name }: ToolCall, text: string, isError = false): ContextMessage => {
  return { role: 'tool', callId: id, name, text, isError }
}

/** What a promise rejected with. */
export async function rejectionOf(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => expect.fail('it fulfilled'),
    (error: unknown) => error,
  )
}

/** The {@link ModelFailure} a promise rejected with. */
export async function failureOf(promise: Promise<unknown>): Promise<ModelFailure> {
  const failure = await rejectionOf(promise)
  if (!(failure instanceof ModelFailure)) throw failure
  return failure
}

/** A server that ends with the test. */
export async function serveModel(): Promise<ModelServer> {
  const server = await startModelServer()
  onTestFinished(() => server.close())
  return server
}

const never = new AbortController().signal

interface AskOptions extends Partial<ModelCall> {
  signal?: AbortSignal
  callee?: Model
}

/** A server, and a call of the runtime under test that goes there. */
async function start({ newRuntime, newModel }: RuntimeUnderTest, text: string, options: { stallMs?: number } = {}) {
  const server = await serveModel()
  const runtime = newRuntime(options)
  const model = newModel(server.url)
  const ask = (sink: Sink, { signal = never, callee = model, ...more }: AskOptions = {}) =>
    runtime.answer(callee, newCall(text, more), sink, signal)
  return { server, runtime, model, ask }
}

/** Every runtime. */
export function runtimeConformance(subject: RuntimeUnderTest): void {
  describe(`${subject.name} as a runtime`, () => {
    test('serves the api of its models', async () => {
      const { runtime, model } = await start(subject, '')
      expect(runtime.api).toBe(model.api)
    })

    test('passes on several pieces, none of them empty, and then says which model stopped and why', async () => {
      const { ask, model } = await start(subject, 'a [[chunks=5]]')
      const heard = listen()
      const answer = await ask(heard.sink)
      expect(heard.texts.length).toBeGreaterThan(1)
      expect(heard.texts).not.toContain('')
      expect(answer).toMatchObject({ stopReason: 'stop', model })
      for (const count of Object.values(answer.usage)) expect(count).toBeGreaterThanOrEqual(0)
    })

    test('passes on nothing once the answer has settled', async () => {
      const { ask } = await start(subject, 'a')
      let settled = false
      const after: boolean[] = []
      const asked = ask(listen(() => after.push(settled)).sink).finally(() => {
        settled = true
      })
      await asked
      await new Promise((resolve) => setImmediate(resolve))
      expect(after).not.toContain(true)
    })

    test('rejects with the reason of a signal that had aborted, and says nothing', async () => {
      const { ask, server } = await start(subject, 'a')
      const heard = listen()
      const reason = new Error('changed my mind')
      expect(await rejectionOf(ask(heard.sink, { signal: AbortSignal.abort(reason) }))).toBe(reason)
      expect(heard.texts).toEqual([])
      expect(server.requests).toEqual([])
    })

    test('rejects with the reason of an abort in the middle, and says nothing more', async () => {
      const { ask } = await start(subject, 'a b c d e f [[chunks=1000 gap=1]]')
      const abort = new AbortController()
      const reason = { not: 'even an error' }
      const heard = listen(() => abort.abort(reason))
      expect(await rejectionOf(ask(heard.sink, { signal: abort.signal }))).toBe(reason)
      expect(heard.texts).toHaveLength(1)
      await new Promise((resolve) => setImmediate(resolve))
      expect(heard.texts).toHaveLength(1)
    })

    test('answers two calls at the same time without mixing them', async () => {
      const { ask } = await start(subject, 'a [[chunks=20]]')
      const [one, two] = [listen(), listen()]
      await Promise.all([ask(one.sink), ask(two.sink)])
      expect(one.text()).toBe(two.text())
    })

    test('passes an error of the sink on as it is', async () => {
      const { ask } = await start(subject, 'a')
      const bug = new Error('bug in the sink')
      const asked = ask(
        listen(() => {
          throw bug
        }).sink,
      )
      expect(await rejectionOf(asked)).toBe(bug)
    })
  })
}

/** Every runtime that calls a provider. */
export function providerConformance(subject: RuntimeUnderTest): void {
  describe(`${subject.name} as a way to a provider`, () => {
    test('passes the text on as the provider sent it, blanks included', async () => {
      const { ask } = await start(subject, '[[chunks=3]]')
      const heard = listen()
      await ask(heard.sink)
      expect(heard.texts).toEqual(['word ', 'word ', 'word '])
    })

    test('keeps characters whole whose bytes arrive apart', async () => {
      const text = ' Temüjin — 成吉思汗 🐎\n\n"quoted" \\ '
      const { ask } = await start(subject, `[[text=${text}]]`)
      const heard = listen()
      await ask(heard.sink)
      expect(heard.text()).toBe(text)
    })

    test('cancels the request to the provider on abort', async () => {
      const { ask, server } = await start(subject, '[[stall=1]]')
      const abort = new AbortController()
      await rejectionOf(ask(listen(() => abort.abort()).sink, { signal: abort.signal }))
      await server.requests[0]?.closed
      expect(server.requests[0]).toMatchObject({ closedEarly: true, sent: 1 })
    })

    test('says nothing after an abort that had arrived before it', async () => {
      const { ask } = await start(subject, '[[burst=1 think=3 chunks=3]]')
      const abort = new AbortController()
      const heard = listen(() => abort.abort())
      expect(await rejectionOf(ask(heard.sink, { signal: abort.signal }))).toBe(abort.signal.reason)
      await new Promise((resolve) => setImmediate(resolve))
      expect(heard).toMatchObject({ thoughts: ['thought '], texts: [] })
    })

    test('cancels the request when the sink throws', async () => {
      const { ask, server } = await start(subject, '[[stall=1]]')
      const asked = ask(
        listen(() => {
          throw new Error('bug in the sink')
        }).sink,
      )
      await rejectionOf(asked)
      await server.requests[0]?.closed
      expect(server.requests[0]?.closedEarly).toBe(true)
    })

    test('takes an empty answer that ended properly', async () => {
      const { ask } = await start(subject, '[[chunks=0]]')
      const heard = listen()
      expect(await ask(heard.sink)).toMatchObject({ stopReason: 'stop' })
      expect(heard.texts).toEqual([])
    })

    test('calls an answer without an end mark cut, with how much had come', async () => {
      const { ask } = await start(subject, '[[end=2]]')
      const heard = listen()
      const failure = await failureOf(ask(heard.sink))
      expect(failure.kind).toBe('cut')
      expect(failure.message).toMatch(/ended without \w+ after 10 characters/)
      expect(heard.text()).toBe('word word ')
    })

    test('calls an answer cut whose connection broke', async () => {
      const { ask } = await start(subject, '[[cut=2]]')
      const heard = listen()
      const failure = await failureOf(ask(heard.sink))
      expect(failure.kind).toBe('cut')
      expect(failure.message).toBe(`the connection broke after ${heard.text().length} characters`)
    })

    test('gives up on a provider that falls silent, and cancels the request', async () => {
      const { ask, server } = await start(subject, '[[stall=1]]', { stallMs: 40 })
      const failure = await failureOf(ask(listen().sink))
      expect(failure).toMatchObject({
        kind: 'stalled',
        message: expect.stringMatching(/^127\.0\.0\.1:\d+ sent nothing for 0.04 s$/),
      })
      await server.requests[0]?.closed
      expect(server.requests[0]?.closedEarly ?? true).toBe(true)
    })

    for (const [status, kind] of [
      [400, 'refused'],
      [401, 'auth'],
      [403, 'auth'],
      [404, 'refused'],
      [429, 'rateLimited'],
      [500, 'overloaded'],
      [529, 'overloaded'],
    ] as const) {
      test(`calls status ${status} ${kind}, in the provider's words, after one request`, async () => {
        const { ask, server } = await start(subject, `[[fail=${status}]]`)
        const failure = await failureOf(ask(listen().sink))
        expect(failure).toMatchObject({ kind, status, message: `fake failure ${status}` })
        expect(server.requests).toHaveLength(1)
      })
    }

    test('tells how long the provider asks to wait', async () => {
      const { ask } = await start(subject, '[[fail=429 retryafter=7]]')
      expect(await failureOf(ask(listen().sink))).toMatchObject({ retryAfterMs: 7000 })
    })

    test("reports an error in the middle of the stream in the provider's words", async () => {
      const { ask } = await start(subject, '[[error=1]]')
      const heard = listen()
      expect(await failureOf(ask(heard.sink))).toMatchObject({ kind: 'overloaded', message: 'fake stream failure' })
      expect(heard.text()).toBe('word ')
    })

    test('names host and port when nobody is there', async () => {
      const { ask, server } = await start(subject, 'a')
      await server.close()
      const failure = await failureOf(ask(listen().sink))
      expect(failure).toMatchObject({
        kind: 'unreachable',
        message: `cannot reach ${new URL(server.url).host} (ECONNREFUSED)`,
      })
    })

    test('names the variable to set when there is no key, before any request', async () => {
      const { ask, model, server } = await start(subject, 'a')
      const { apiKey: _, ...keyless } = model
      const failure = await failureOf(ask(listen().sink, { callee: keyless }))
      expect(failure).toMatchObject({ kind: 'unconfigured', message: expect.stringContaining('FAKE_API_KEY') })
      expect(server.requests).toEqual([])
    })

    test('refuses an address that is none', async () => {
      const { ask, model } = await start(subject, 'a')
      const failure = await failureOf(ask(listen().sink, { callee: { ...model, baseUrl: 'kimi' } }))
      expect(failure).toMatchObject({ kind: 'unconfigured', message: expect.stringContaining('baseUrl') })
    })

    test('never repeats the key, not even when the provider does', async () => {
      const { ask, model } = await start(subject, 'a')
      const server = await answerAlways(401, 'application/json', JSON.stringify({ error: { message: `no ${key}!` } }))
      const told = await failureOf(ask(listen().sink, { callee: { ...model, baseUrl: server } }))
      expect(told.message).toBe('no ***!')
      const unfit = { ...model, apiKey: new Secret(`${key}\nand more`) }
      const failure = await failureOf(ask(listen().sink, { callee: unfit }))
      expect(failure.kind).toBe('unconfigured')
      expect(JSON.stringify([failure.message, failure.cause, failure.stack])).not.toContain(key)
    })

    test('takes nothing from the environment', async () => {
      const { ask, server } = await start(subject, 'a')
      const foreign = { BASE_URL: 'http://127.0.0.1:9', API_KEY: 'foreign', CUSTOM_HEADERS: 'x-foreign: foreign' }
      for (const [variable, value] of Object.entries(foreign)) {
        for (const sdk of ['OPENAI', 'ANTHROPIC']) {
          process.env[`${sdk}_${variable}`] = value
          onTestFinished(() => {
            delete process.env[`${sdk}_${variable}`]
          })
        }
      }
      await ask(listen().sink)
      expect(JSON.stringify(server.requests[0]?.headers)).not.toContain('foreign')
    })

    test('takes a page with status 200 for the refusal it is', async () => {
      const { ask, model } = await start(subject, 'a')
      const baseUrl = await answerAlways(200, 'text/html', '<h1>Welcome</h1>')
      const failure = await failureOf(ask(listen().sink, { callee: { ...model, baseUrl } }))
      expect(failure).toMatchObject({ kind: 'refused', message: 'HTTP 200 and text/html instead of a stream' })
    })

    test('does not carry the key along a redirect', async () => {
      const { ask, model, server } = await start(subject, 'a')
      const baseUrl = await answerAlways(307, 'text/plain', '', { location: `${server.url}/v1/chat/completions` })
      const failure = await failureOf(ask(listen().sink, { callee: { ...model, baseUrl } }))
      expect(failure).toMatchObject({ kind: 'refused', message: 'HTTP 307' })
      expect(server.requests).toEqual([])
    })
  })
}

/** Every runtime that calls a provider with tools. */
export function toolConformance(subject: ProviderUnderTest): void {
  const tools = [weather]
  /** Asks, gives the results back, and so on, until the model no longer calls. */
  async function converse(text: string, results: string[], more: Partial<ModelCall> = {}) {
    const { ask, server, model } = await start(subject, text)
    const messages: ContextMessage[] = [{ role: 'user', text }]
    const answers: Answer[] = []
    for (;;) {
      const heard = listen()
      const answer = await ask(heard.sink, { tools, ...more, messages })
      answers.push(answer)
      if (answer.calls === undefined) return { answers, heard, messages, requests: server.requests, ask, model }
      messages.push(...answered(answer, heard.text(), results))
    }
  }
  /** What the model says to a context: the request was refused if it does not speak at all. */
  async function replyTo(...messages: ContextMessage[]) {
    const { ask, server } = await start(subject, '')
    const heard = listen()
    await ask(heard.sink, { tools, messages })
    return { text: heard.text(), body: server.requests[0]?.body }
  }
  const call = (id: string, more: Partial<ToolCall> = {}): ToolCall => {
    return { id, name: 'weather', arguments: '{"place":"Karakorum"}', ...more }
  }
  const user = (text: string): ContextMessage => ({ role: 'user', text })
  const assistant = (...calls: ToolCall[]): ContextMessage => ({ role: 'assistant', text: '', calls })

  describe(`${subject.name} with tools`, () => {
    test('offers the tools of the call', async () => {
      const { ask, server } = await start(subject, 'a')
      await ask(listen().sink, { tools })
      expect(server.requests[0]?.tools).toEqual(tools)
    })

    test('says nothing of tools where there are none', async () => {
      const { ask, server } = await start(subject, 'a')
      await ask(listen().sink)
      expect(server.requests[0]?.body).not.toHaveProperty('tools')
      expect(server.requests[0]?.body).not.toHaveProperty('tool_choice')
    })

    test('ends an answer with the calls that the model wants, in their order and its words', async () => {
      const one = '{"place": "Karakorum",  "days": [[1, 2]]}'
      const { ask } = await start(subject, `[[tool=weather args=${one}]] [[tool=weather args={"place":"성 🐎"}]]`)
      const answer = await ask(listen().sink, { tools })
      expect(answer.stopReason).toBe('toolUse')
      expect(answer.calls).toEqual([
        { id: expect.any(String), name: 'weather', arguments: one },
        { id: expect.any(String), name: 'weather', arguments: '{"place":"성 🐎"}' },
      ])
      expect(answer.calls?.[0]?.id).not.toBe(answer.calls?.[1]?.id)
      expect(answer.carried).toBeUndefined()
    })

    test('passes on what is said before the calls', async () => {
      const { ask } = await start(subject, '[[tool=weather]] [[before=2]]')
      const heard = listen()
      const answer = await ask(heard.sink, { tools })
      expect(heard.text()).toBe('word word ')
      expect(answer.calls).toMatchObject([{ name: 'weather', arguments: '{}' }])
    })

    test('gives each result back to its call', async () => {
      const text = '[[tool=weather args={"place":"a"}]] [[tool=weather args={"place":"b"}]] [[before=1 chunks=1]]'
      const { answers, heard, requests } = await converse(text, ['sun', 'snow'])
      expect(answers.map(({ stopReason }) => stopReason)).toEqual(['toolUse', 'stop'])
      expect(heard.text()).toBe('result: sun\nresult: snow\nword ')
      expect(requests).toHaveLength(2)
    })

    test('goes on for several rounds, also after arguments that are no JSON', async () => {
      const { answers, heard } = await converse('[[tool=weather args={"place":"a"}]] [[badargs=2 unknowntool=1]]', [
        'x',
      ])
      expect(answers.map(({ calls }) => calls?.map(({ name, arguments: args }) => [name, args]))).toEqual([
        [['no_such_tool', '{"place":"a"']],
        [['weather', '{"place":"a"']],
        [['weather', '{"place":"a"}']],
        undefined,
      ])
      expect(heard.text()).toBe('result: x')
    })

    test('shows the model what it wrote, when that could not be read', async () => {
      const broken = [' ', 'null', '[1]', '{"place":', 'Karakorum']
      const calls = broken.map((text, index) => call(`c${index}`, { arguments: text }))
      const { text, body } = await replyTo(user('a'), assistant(...calls), ...calls.map((each) => resultOf(each, 'x')))
      expect(text).toBe(broken.map(() => 'result: x').join('\n'))
      expect(JSON.stringify(body)).toMatch(/{\\+"place\\+":.*Karakorum/)
    })

    test('gives back calls by names that no tool can have', async () => {
      const calls = ['a.b:c', '', 'x'.repeat(100), 'weather'].map((name, index) => call(`c${index}`, { name }))
      const { text } = await replyTo(user('a'), assistant(...calls), ...calls.map((each) => resultOf(each, 'x')))
      expect(text).toBe('result: x\nresult: x\nresult: x\nresult: x')
    })

    test('gives back calls by ids of another provider, and by ids that came twice', async () => {
      const calls = ['functions.weather:0', '성', 'same', 'same'].map((id) => call(id))
      const round = [assistant(...calls), ...calls.map((each, index) => resultOf(each, String(index)))]
      const { text } = await replyTo(user('a'), ...round, ...round)
      expect(text).toBe('result: 0\nresult: 1\nresult: 2\nresult: 3')
    })

    test('gives a call without a result one that says so', async () => {
      const { text } = await replyTo(user('a'), assistant(call('c1'), call('c2')), resultOf(call('c2'), 'snow'))
      expect(text).toMatch(/^result: snow\nresult: The result of this call is not known\./)
      const cut = await replyTo(user('a'), assistant(call('c1')), assistant(call('c2')), resultOf(call('c2'), 'snow'))
      expect(cut.text).toBe('result: snow')
      expect((await replyTo(user('a'), assistant(call('c1')), user('b'))).text).not.toBe('')
    })

    test('leaves out a result without a call, and a second one', async () => {
      const lone = await replyTo(resultOf(call('c0'), 'from before'), user('a [[chunks=1]]'))
      expect(lone.text).toBe('word ')
      const results = ['snow', 'rain'].map((text) => resultOf(call('c1'), text))
      const { text, body } = await replyTo(user('a'), assistant(call('c1')), ...results, resultOf(call('c9'), 'hail'))
      expect(text).toBe('result: snow')
      expect(JSON.stringify(body)).not.toMatch(/rain|hail/)
    })

    test('puts results in front of what the user has said meanwhile', async () => {
      const results = [resultOf(call('c1'), 'sun'), user('wait'), resultOf(call('c2'), 'snow')]
      const { text, body } = await replyTo(
        user('a'),
        assistant(call('c1'), call('c2')),
        ...results,
        user('go on [[chunks=1]]'),
      )
      expect(text).toBe('word ')
      expect(JSON.stringify(body)).toMatch(/sun.*snow.*wait.*go on/)
    })

    test('tells of calls of old, also when no tool may be called any more', async () => {
      const { ask } = await start(subject, '')
      const heard = listen()
      await ask(heard.sink, { messages: [user('a'), assistant(call('c1')), resultOf(call('c1'), 'sun')] })
      expect(heard.text()).toBe('result: sun')
    })

    test.each(['', ' \n'])('gives back a result that says %j, as an error, too', async (blank) => {
      const results = [resultOf(call('c1'), blank), resultOf(call('c2'), blank, true)]
      const { text } = await replyTo(user('a'), assistant(call('c1'), call('c2')), ...results)
      expect(text).toMatch(/^result:/)
    })

    test('calls nothing when the answer was too long to be whole', async () => {
      const { ask } = await start(subject, `[[tool=weather]] [[finish=${subject.tooLong}]]`)
      const answer = await ask(listen().sink, { tools })
      expect(answer.stopReason).toBe('length')
      expect(answer.calls).toBeUndefined()
    })

    test.each(['cut', 'end', 'error', 'stall'])(
      'calls nothing when the answer breaks off by %s in a call',
      async (way) => {
        const { ask } = await start(subject, `[[tool=weather args={"place":"a"}]] [[${way}=1]]`, { stallMs: 40 })
        const heard = listen()
        await failureOf(ask(heard.sink, { tools }))
        expect(heard.texts).toEqual([])
      },
    )

    test('gives the thoughts before a call back to the model that had them', async () => {
      const callee = { reasoning: true, maxTokens: 32_000 }
      const { answers, requests, ask, messages, model } = await converse('[[tool=weather]] [[think=2 badargs=1]]', [
        'x',
      ])
      expect(answers[0]?.carried).toMatchObject({ api: model.api, model: model.ref })
      expect(answers[2]?.carried).toBeUndefined()
      // As JSON, for that is how it may be kept.
      const kept = JSON.parse(JSON.stringify(messages)) as ContextMessage[]
      await ask(listen().sink, { tools, messages: kept, thinking: 'low', callee: { ...model, ...callee } })
      await ask(listen().sink, { tools, messages: kept, callee: { ...model, ref: 'fake/other', id: 'other' } })
      const shown = requests.map(({ body }) => JSON.stringify(body).match(/thought thought /g)?.length ?? 0)
      expect(shown).toEqual([0, 1, 2, 2, 0])
    })
  })
}

/** The address of a server that gives everybody the same answer, until the test ends. */
export async function answerAlways(
  status: number,
  type: string,
  body: string,
  headers: Record<string, string> = {},
): Promise<string> {
  const server = createServer((request, response) => {
    request.resume().once('end', () => response.writeHead(status, { 'content-type': type, ...headers }).end(body))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

/** What every runtime promises, and what those promise besides that call a provider. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { describe, expect, onTestFinished, test } from 'vitest'
import { Secret } from '../../src/config/secret.ts'
import { type Model, type ModelCall, ModelFailure, type Runtime, type Sink } from '../../src/runtimes/runtime.ts'
import { type ModelServer, startModelServer } from '../support/model-server.ts'

export interface RuntimeUnderTest {
  name: string
  newRuntime(options: { stallMs?: number }): Runtime
  /** A model at the given server. */
  newModel(serverUrl: string): Model
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
  return { runId: 'r1', sessionKey: 'main', agentId: 'main', system: '', messages, thinking: 'off', ...more }
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

/** A server, and a call of the runtime under test that goes there. */
async function start({ newRuntime, newModel }: RuntimeUnderTest, text: string, options: { stallMs?: number } = {}) {
  const server = await serveModel()
  const runtime = newRuntime(options)
  const model = newModel(server.url)
  const ask = (sink: Sink, { signal = never, callee = model }: { signal?: AbortSignal; callee?: Model } = {}) =>
    runtime.answer(callee, newCall(text), sink, signal)
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

/** The address of a server that gives everybody the same answer, until the test ends. */
async function answerAlways(
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

/**
 * What the reference answered where programs speak OpenAI's shapes or call tools, asked of this gateway: every member that it sent has
 * to be there, of the same type and, where it is not made up by a model or a clock, with the same value.
 */
import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startGateway, type TestGateway, TOKEN } from '../support/gateway.ts'
import { type ModelServer, startModelServer } from '../support/model-server.ts'
import { absent } from './recording.ts'

interface Exchange {
  note?: string
  config: string
  request: { method: string; path: string; headers: { [name: string]: string }; body?: object }
  response: { status: number; headers: { [name: string]: string }; body: string }
}

/** Beside the repository; there need not be one. */
const RECORDING = new URL('../../../shared/wire/http.json', import.meta.url)

const OURS = ['/v1/chat/completions', '/v1/responses', '/tools/invoke']

/** Where this gateway says something else on purpose. */
const OTHERWISE: {
  fits(exchange: Exchange): boolean
  status?: number
  body?: object
  lacks?: string[]
  why: string
}[] = [
  {
    fits: ({ config, request }) => config === 'default' && request.path.startsWith('/v1/'),
    status: 404,
    body: { ok: false, error: { code: 'NOT_FOUND' } },
    why: 'what is not served is not there, for every method',
  },
  {
    fits: ({ response }) => response.status === 405,
    body: { error: { code: 'METHOD_NOT_ALLOWED' } },
    why: 'it is told as JSON, like every other refusal',
  },
  {
    fits: ({ request, response }) => request.path === '/tools/invoke' && response.status === 200,
    lacks: ['ok', 'changedModel', 'statusText'].map((name) => `/result/details/${name}`),
    why: 'the tool says in other members how a session is',
  },
]

/** Members that a model, a clock or chance makes up: their type counts. */
const MADE_UP = /^(id|item_id|created|created_at|text|statusText|content|delta|.*_tokens)$/

const exchanges: Exchange[] = absent
  ? []
  : (JSON.parse(readFileSync(RECORDING, 'utf8')) as { exchanges: Exchange[] }).exchanges.filter(({ request }) =>
      OURS.includes(request.path),
    )

/** How an answer falls short of the one that was recorded, by the place where it does. */
function lacking(theirs: unknown, ours: unknown, place = ''): string[] {
  if (typeof theirs !== typeof ours || Array.isArray(theirs) !== Array.isArray(ours)) return [place]
  if (typeof theirs !== 'object' || theirs === null || ours === null) {
    const isMadeUp = MADE_UP.test(place.split('/').at(-1)!)
    return isMadeUp || theirs === ours ? [] : [place]
  }
  return Object.entries(theirs).flatMap(([name, value]) =>
    lacking(value, (ours as { [name: string]: unknown })[name], `${place}/${name}`),
  )
}

interface Told {
  event?: string
  data: unknown
}

/** The whole events of a stream; a recording may have been cut in the middle of one. */
const eventsIn = (text: string): Told[] =>
  text
    .split('\n\n')
    .slice(0, -1)
    .map((block) => {
      const { event, data } = /^(?:event: (?<event>.+)\n)?data: (?<data>.+)$/.exec(block)!.groups!
      return { ...(event && { event }), data: data === '[DONE]' ? data : JSON.parse(data!) }
    })

/** One of each kind, in the order of the first: how many pieces there are is up to the model. */
const kinds = (events: Told[]) =>
  [...new Map(events.map((one) => [one.event ?? Object.keys(deltaOf(one)).join(), one])).entries()].toSorted()
const deltaOf = ({ data }: Told): object =>
  (data as { choices?: { delta: object }[] }).choices?.[0]?.delta ?? { done: true }

describe.skipIf(absent !== undefined)('a recorded exchange', () => {
  let model: ModelServer
  const gateways = new Map<string, TestGateway>()
  beforeAll(async () => {
    model = await startModelServer()
    const fake = { baseUrl: `${model.url}/v1`, apiKey: 'none', api: 'openai-completions', models: [{ id: 'fake-1' }] }
    const config = {
      models: { providers: { fake } },
      agents: { defaults: { model: 'fake/fake-1' } },
    }
    const endpoints = { chatCompletions: { enabled: true }, responses: { enabled: true } }
    for (const [name, gateway] of [
      ['default', {}],
      ['chatCompletions, responses and hooks switched on', { http: { endpoints } }],
    ] as const) {
      const opened = await startGateway({ config: { ...config, gateway } })
      // It had been talked to.
      const peer = await opened.connect()
      const params = { sessionKey: 'main', message: 'hello', idempotencyKey: 'k1' }
      await peer.request('chat.send', params)
      await peer.request('agent.wait', { runId: 'k1' })
      gateways.set(name, opened)
    }
  })
  afterAll(async () => {
    for (const gateway of gateways.values()) await gateway.stop()
    await model.close()
  })

  it('is one of fifteen', () => expect(exchanges).toHaveLength(15))

  it.each(exchanges.map((exchange, place) => ({ exchange, place, ...exchange.request, of: exchange.config })))(
    '$place: $method $path ($of) goes as it went',
    async ({ exchange }) => {
      const { request, response: theirs } = exchange
      const headers = Object.fromEntries(
        Object.entries(request.headers).map(([name, value]) => [name, value.replace('<TOKEN>', TOKEN)]),
      )
      const { port } = gateways.get(exchange.config)!
      const response = await fetch(`http://127.0.0.1:${port}${request.path}`, {
        method: request.method,
        headers: { ...headers, ...(request.body && { 'content-type': 'application/json' }) },
        ...(request.body && { body: JSON.stringify(request.body) }),
      })
      const text = await response.text()
      const other = OTHERWISE.find(({ fits }) => fits(exchange))
      expect([response.status, response.headers.get('access-control-allow-origin')]).toEqual([
        other?.status ?? theirs.status,
        null,
      ])
      if (!other?.status) expect(response.headers.get('allow')).toBe(theirs.headers['allow'] ?? null)
      if (other?.body) return expect(JSON.parse(text)).toMatchObject(other.body)
      expect(response.headers.get('content-type')).toBe(theirs.headers['content-type'])
      if (!theirs.headers['content-type']!.startsWith('text/event-stream'))
        return expect(lacking(JSON.parse(theirs.body), JSON.parse(text))).toEqual(other?.lacks ?? [])
      const ours = new Map(kinds(eventsIn(text)))
      for (const [kind, { event, data }] of kinds(eventsIn(theirs.body)))
        expect([kind, lacking({ event, data }, { event: ours.get(kind)?.event, data: ours.get(kind)?.data })]).toEqual([
          kind,
          // A part is told when it is there, not before.
          kind === 'response.output_item.added' ? ['/data/item/content/0'] : [],
        ])
    },
  )
})

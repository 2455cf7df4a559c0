/** Nobody can send the gateway somewhere: it opens no connection but to the providers of its configuration. */
import dns from 'node:dns'
import { createServer as createHttpServer } from 'node:http'
import { type AddressInfo, createServer, isIP, Socket } from 'node:net'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { METHODS } from '../../src/contract/index.ts'
import { endOf, startGateway } from '../support/gateway.ts'

/** What was asked of the network since the test began, besides connections to the ports that it allows. */
let asked: string[]
let allowed: Set<number>
const { connect } = Socket.prototype
const { fetch } = globalThis
const { lookup } = dns

beforeEach(() => {
  asked = []
  allowed = new Set()
  Socket.prototype.connect = function (this: Socket, ...args: unknown[]) {
    // `net.connect` hands on its arguments as one list, options first.
    const [first] = args.flat() as [{ port?: number; host?: string } | number]
    const port = Number(typeof first === 'object' ? first?.port : first)
    if (!allowed.has(port)) asked.push(`connect ${JSON.stringify(first)}`)
    return (connect as (...list: unknown[]) => Socket).apply(this, args)
  } as typeof connect
  globalThis.fetch = (input, init) => {
    const url = new URL(input instanceof Request ? input.url : String(input))
    if (!allowed.has(Number(url.port))) asked.push(`fetch ${url}`)
    return fetch(input, init)
  }
  dns.lookup = ((host: string, ...rest: unknown[]) => {
    // To listen on an address it is looked up as well.
    if (isIP(host) === 0) asked.push(`lookup ${host}`)
    return (lookup as (...list: unknown[]) => void)(host, ...rest)
  }) as typeof lookup
})
afterEach(() => {
  Socket.prototype.connect = connect
  globalThis.fetch = fetch
  dns.lookup = lookup
})

interface Schema {
  type?: string
  const?: unknown
  enum?: unknown[]
  anyOf?: Schema[]
  properties?: { [name: string]: Schema }
  required?: string[]
  items?: Schema
  minimum?: number
  maxLength?: number
  pattern?: string
}

/** A value that a schema lets through, with this text wherever one may stand. */
function filled(schema: Schema, text: string, at = ''): unknown {
  if ('const' in schema) return schema.const
  if (schema.enum) return schema.enum[0]
  if (schema.anyOf) return filled(schema.anyOf[0]!, text, at)
  switch (schema.type) {
    case 'string':
      return text.slice(0, schema.maxLength ?? text.length)
    case 'integer':
    case 'number':
      return schema.minimum ?? 0
    case 'boolean':
      return true
    case 'array':
      return [filled(schema.items ?? {}, text, at)]
    case 'object':
      return Object.fromEntries(
        Object.entries(schema.properties ?? { url: { type: 'string' } }).map(([name, one]) => [
          name,
          filled(one, text, name),
        ]),
      )
    case 'null':
      return null
    default:
      return { url: text, href: text, baseUrl: text, image_url: { url: text } }
  }
}

/** Places of a parameter where a text may stand. */
function places(schema: Schema, at: string[] = []): string[][] {
  return Object.entries(schema.properties ?? {}).flatMap(([name, one]) => {
    const here = [...at, name]
    const inside = one.items?.type === 'object' ? places(one.items, [...here, '0']) : places(one, here)
    return inside.length > 0 ? inside : [here]
  })
}

/** What makes a call that does something, by the name of the parameter. */
const PLAIN: { [name: string]: unknown } = {
  sessionKey: 'main',
  key: 'main',
  keys: ['main'],
  message: 'hello',
  agentId: 'main',
  scopes: ['operator.read'],
  timeoutMs: 1_000,
  waitMs: 0,
}

/** The parameters that are needed, harmless, and one text at one place. */
function withOne(schema: Schema, place: string[], text: string, n: number): object {
  const params: { [name: string]: unknown } = {}
  for (const name of schema.required ?? [])
    params[name] = PLAIN[name] ?? filled(schema.properties![name]!, `plain-${n}`)
  const [head, ...rest] = place
  const inner = schema.properties![head!]!
  params[head!] = rest.length === 0 && inner.type === 'array' ? [text] : rest.length === 0 ? text : filled(inner, text)
  return params
}

describe('the gateway', () => {
  it('goes nowhere, whatever address stands in whatever parameter of whatever method', async () => {
    let visitors = 0
    const trap = createServer((socket) => {
      visitors += 1
      socket.destroy()
    })
    await new Promise<void>((resolve) => trap.listen(0, '127.0.0.1', resolve))
    const { port } = trap.address() as AddressInfo
    const limits = { requestsPerSecond: 0, preauthPerIp: 0, deniedPerMinute: 0, sessions: 0, liveKeys: 0 }
    const gateway = await startGateway({
      config: { gateway: { limits }, commands: { config: true }, agents: { defaults: { timeoutSeconds: 5 } } },
    })
    allowed.add(gateway.port)
    const peer = await gateway.connect({ minProtocol: 4, maxProtocol: 4 })
    const urls = [
      `http://127.0.0.1:${port}/`,
      `ws://127.0.0.1:${port}/`,
      `//127.0.0.1:${port}/x.png`,
      `127.0.0.1:${port}`,
      `http://user:pass@127.0.0.1:${port}/`,
      'http://169.254.169.254/latest/meta-data/',
      'http://[::ffff:169.254.169.254]/',
      'http://metadata.internal/',
      'file:///etc/passwd',
      `![x](http://127.0.0.1:${port}/x.png)`,
      `/model http://127.0.0.1:${port}/`,
      `data:text/html,<img src=http://127.0.0.1:${port}/>`,
    ]
    const answers = new Map<string, number>()
    let calls = 0
    for (const [method, { params }] of Object.entries(METHODS)) {
      const schema = params as unknown as Schema
      const all = places(schema)
      for (const url of urls) {
        const tries = [filled(schema, url) as object, ...all.map((place) => withOne(schema, place, url, calls))]
        for (const one of tries) {
          calls += 1
          // What waits for somebody is not waited for.
          const id = `e${calls}`
          peer.send({ type: 'req', id, method, params: one })
          const answer = await Promise.race([
            peer.next((frame) => frame.type === 'res' && frame['id'] === id),
            new Promise<undefined>((resolve) => setTimeout(() => resolve(undefined), 20)),
          ])
          if (answer?.['ok']) answers.set(method, (answers.get(method) ?? 0) + 1)
        }
      }
    }
    for (const url of urls) {
      const idempotencyKey = `turn ${url}`
      const attachments = [{ type: 'image', mimeType: 'image/png', content: url, url, source: { type: 'url', url } }]
      await peer.request('chat.send', {
        sessionKey: 'main',
        message: url,
        idempotencyKey,
        attachments,
        context: { url },
      })
      await peer.request('chat.send', { sessionKey: 'main', message: url, idempotencyKey: `2 ${url}` })
      await peer.next(endOf(`2 ${url}`))
    }
    expect(calls).toBeGreaterThan(1_000)
    // Most methods did what they are there for: the addresses came further than the check of the parameters.
    expect(answers.size).toBeGreaterThan(Object.keys(METHODS).length / 2)
    expect([asked, visitors]).toEqual([[], 0])
    await gateway.stop()
    await new Promise((resolve) => trap.close(resolve))
  }, 30_000)

  it('does not follow a provider elsewhere, and what it was asked with does not go there', async () => {
    const visits: string[] = []
    const elsewhere = createHttpServer((request, response) => {
      visits.push(`${request.method} ${request.url} ${JSON.stringify(request.headers)}`)
      response.end()
    })
    await new Promise<void>((resolve) => elsewhere.listen(0, '127.0.0.1', resolve))
    const { port } = elsewhere.address() as AddressInfo
    let asks = 0
    const statuses = [301, 302, 303, 307, 308]
    const provider = createHttpServer((request, response) => {
      request.resume()
      const status = statuses[asks++ % statuses.length]!
      response.writeHead(status, { location: `http://127.0.0.1:${port}/stolen` }).end()
    })
    await new Promise<void>((resolve) => provider.listen(0, '127.0.0.1', resolve))
    const { port: own } = provider.address() as AddressInfo
    const models = {
      providers: Object.fromEntries(
        ['openai-completions', 'anthropic-messages'].map((api) => [
          api.slice(0, 6),
          { baseUrl: `http://127.0.0.1:${own}/v1`, apiKey: 'canary-of-the-provider', api, models: [{ id: 'm' }] },
        ]),
      ),
    }
    for (const model of ['openai/m', 'anthro/m']) {
      const gateway = await startGateway({ config: { models, agents: { defaults: { model } } } })
      allowed.add(gateway.port).add(own)
      const peer = await gateway.connect()
      for (const status of statuses) {
        const idempotencyKey = `${model} ${status}`
        await peer.request('chat.send', { sessionKey: 'main', message: 'x', idempotencyKey })
        expect((await peer.next(endOf(idempotencyKey)))['payload'].state).toBe('error')
      }
      await gateway.stop()
    }
    expect(asks).toBeGreaterThanOrEqual(10)
    expect(visits).toEqual([])
    expect(asked).toEqual([])
    for (const server of [provider, elsewhere]) {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    }
  })
})

/** The deployment's proxy in front: WebSocket, page, HTTP and streams through it, and who is known to have come by it. */
import { request } from 'node:http'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { CADDYFILE, type Caddy, hasCaddy, startCaddy } from '../support/caddy.ts'
import { CONNECT, endOf, openPeer, type Peer, type PeerOptions, TOKEN } from '../support/gateway.ts'
import { type Kurultai, startKurultai } from '../support/kurultai.ts'

const OPERATORS = new URL('../../deploy/Caddyfile', import.meta.url).pathname

// Without Debian's caddy there is nothing to put in front; `npm test` says so.
describe.runIf(hasCaddy).each([
  ['as it is deployed', CADDYFILE],
  ['of deploy/', OPERATORS],
])('behind Caddy with its file %s', (_, file) => {
  let kurultai: Kurultai
  let caddy: Caddy
  beforeAll(async () => {
    kurultai = await startKurultai({ gateway: { limits: { preauthPerIp: 4 } } })
    caddy = await startCaddy(kurultai.port, file)
  })
  afterAll(async () => {
    await caddy.close()
    await kurultai.stop()
  })

  const open = (options?: PeerOptions) => openPeer(`ws://127.0.0.1:${caddy.port}/`, options)
  const connect = async (changes: object = {}, options?: PeerOptions): Promise<Peer> => {
    const peer = await open(options)
    await peer.next()
    expect(await peer.request('connect', { ...CONNECT, ...changes })).toMatchObject({ ok: true })
    return peer
  }
  const get = async (path: string, headers: Record<string, string> = {}) => {
    const response = await fetch(`http://127.0.0.1:${caddy.port}${path}`, { headers })
    return { status: response.status, type: response.headers.get('content-type'), text: await response.text() }
  }

  it('an answer streams over each way in, which the proxy strips or does not', async () => {
    for (const path of ['/', '/ws', '/ws/', '/ws/?room=1', '/gateway']) {
      const peer = await connect({}, { path })
      const idempotencyKey = `caddy ${path}`
      await peer.request('chat.send', { sessionKey: 'main', message: '[[chunks=3 stall=2]]', idempotencyKey })
      // It is heard while it is written: the model says no more until it is told to stop.
      await peer.next(({ event, payload }) => event === 'agent' && payload.data?.text === 'word word ')
      await peer.request('chat.abort', { sessionKey: 'main', runId: idempotencyKey })
      await peer.next(endOf(idempotencyKey))
      const deltas = peer.frames.flatMap(({ event, payload }) =>
        event === 'agent' && payload.stream === 'assistant' ? payload.data.delta : [],
      )
      expect(deltas.join('')).toBe('word word ')
      peer.socket.close()
    }
  })

  it('the hybrid challenge comes on the bare path, which it passes on as it is, and nowhere else', async () => {
    const first = async (path: string) => (await (await open({ path })).next())['method']
    expect(await first('/ws')).toBe('connect.challenge')
    for (const path of ['/', '/ws/']) expect(await first(path)).toBeUndefined()
  })

  it('the page, health and what is not there are served, under /api too', async () => {
    expect(await get('/')).toMatchObject({ status: 200, type: 'text/html; charset=utf-8' })
    for (const path of ['/health', '/api/health']) {
      const { status, text } = await get(path)
      expect([status, JSON.parse(text)]).toEqual([200, expect.objectContaining({ ok: true, status: 'ok' })])
    }
    for (const path of ['/nothing', '/api/nothing', '/ws/nothing'])
      expect(await get(path)).toMatchObject({ status: 404, type: 'application/json; charset=utf-8' })
    const headers = { authorization: `Bearer ${TOKEN}` }
    for (const path of ['/sessions', '/api/sessions'])
      expect(JSON.parse((await get(path, headers)).text)).toContainEqual(
        expect.objectContaining({ sessionId: 'agent:main:main' }),
      )
  })

  it('an agent is asked over HTTP', async () => {
    const response = await fetch(`http://127.0.0.1:${caddy.port}/api/agent/temujin/message`, {
      method: 'POST',
      headers: { authorization: `Bearer ${TOKEN}`, 'content-type': 'application/json' },
      body: JSON.stringify({ message: '[[text=it compiles]]', context: { task_id: 'caddy', delegated_by: 'main' } }),
    })
    expect(await response.json()).toMatchObject({ response: 'it compiles', agent: 'developer' })
  })

  it('a page of its own comes in, and one of elsewhere does not', async () => {
    const client = { id: 'openclaw-control-ui', version: 'dev', platform: 'web', mode: 'webchat' }
    const own = { headers: { Origin: `http://127.0.0.1:${caddy.port}` } }
    const behindTls = { headers: { Origin: 'https://kurultai.example', Host: 'kurultai.example' } }
    for (const options of [own, behindTls]) await connect({ client }, options)
    await expect(open({ headers: { Origin: 'https://evil.example' } })).rejects.toThrow('HTTP 403')
  })

  it('a client is known by the address it has come from, whatever it says itself', async () => {
    const options = {
      localAddress: '127.0.0.21',
      headers: { 'X-Forwarded-For': '203.0.113.7', 'X-Real-Ip': '203.0.113.8' },
    }
    const seen = await connect({ client: { ...CONNECT.client, id: 'seen' } }, options)
    const { payload } = await seen.request('audit.entries', { limit: 50 })
    const entry = payload.entries.find(({ about }: { about: { client?: string } }) => about.client === 'seen')
    expect(entry.about.address).toBe('127.0.0.21')
    // Each client has places of its own at the door.
    const waiting = await Promise.all(Array.from({ length: 4 }, () => open({ localAddress: '127.0.0.22' })))
    await expect(open({ localAddress: '127.0.0.22' })).rejects.toThrow('HTTP 503')
    await connect({}, { localAddress: '127.0.0.23' })
    for (const { socket } of waiting) socket.terminate()
  })

  it('headers of a proxy are believed of nobody else', async () => {
    const headers = { 'X-Forwarded-For': '203.0.113.7' }
    const peer = await openPeer(kurultai.url, { headers, localAddress: '127.0.0.24' })
    await peer.next()
    const { error } = await peer.request('connect', CONNECT)
    expect(error.details.code).toBe('PROXY_ATTRIBUTION_REQUIRED')
  })

  it('nobody is kept waiting by a request that the gateway refuses', async () => {
    const status = await new Promise((resolve, reject) => {
      const asked = request({ port: caddy.port, path: '/agent/main/message', method: 'POST' }, (response) => {
        response.resume()
        resolve(response.statusCode)
      })
      asked.on('error', reject)
      asked.end('{}')
    })
    expect(status).toBe(401)
  })
})

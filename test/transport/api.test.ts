/** Agents over plain HTTP, where what is behind them is slow, or fails. */
import { once } from 'node:events'
import { createServer, type IncomingMessage, request } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import { describe, expect, it, vi } from 'vitest'
import type { Admitted } from '../../src/auth/authenticate.ts'
import { ERRORS, type ErrorName } from '../../src/contract/errors.ts'
import type { RequestFrame } from '../../src/contract/frames.ts'
import { type ApiNeeds, createApi } from '../../src/transport/api.ts'
import { statusOf } from '../../src/transport/http-error.ts'
import type { Door } from '../../src/transport/visits.ts'
import { quiet } from '../support/rooms.ts'

const MORE_THAN_THE_KERNEL_HOLDS = 16 * 1024 * 1024

type Send = (payload: object) => void

/** An API on a free port, in front of a gateway that does what it is told. */
async function open(changes: {
  handle?(asked: RequestFrame, send: Send): void
  fail?: Error
  patienceMs?: number
  unreadMs?: number
  status?: Door['status']
  /** By what they show; who shows something else is one of all who share a token. */
  principals?: { [token: string]: string }
}) {
  const errors: { details: object; message: string }[] = []
  const admitted = { decision: { admitted: true, granted: ['operator.write'] }, principal: 'token:shared' }
  const needs: ApiNeeds = {
    authenticator: {
      async authenticate({ auth }) {
        if (changes.fail) throw changes.fail
        const principal = changes.principals?.[auth?.token ?? ''] ?? admitted.principal
        return { ...admitted, principal } as unknown as Admitted
      },
    },
    dispatch: {
      dispatch: (asked, _, send) =>
        changes.handle?.(asked, (payload) => send(JSON.stringify({ type: 'res', id: asked.id, ok: true, payload }))),
    },
    audit: { note() {} },
    agents: {
      resolve: (name) => (name === 'main' ? name : undefined),
      ids: () => ['main'],
      defaultId: 'main',
      mainKey: 'main',
    },
    refusalOf: () => undefined,
    endpoints: { chatCompletions: false, responses: false },
    hub: { join() {}, leave() {} },
    oneShots: { keyFor: () => 'agent:main:once', end: async () => {} },
    limits: { requestsPerSecond: 0, burst: 0, deniedPerMinute: 0, socketsPerPrincipal: 0 },
    log: { ...quiet, error: (details, message) => void errors.push({ details, message }) },
    monotonic: () => 0,
    now: () => 0,
    ...(changes.unreadMs !== undefined && { unreadMs: changes.unreadMs }),
    ...(changes.patienceMs !== undefined && { patienceMs: changes.patienceMs }),
  }
  const api = createApi(needs)
  let known = 0
  const server = createServer((asked, response) => {
    const door = { facts: {} as never, status: changes.status ?? ('serving' as const), known: () => void ++known }
    if (!api.answer(asked.url!, asked, response, door)) response.destroy()
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/agent/main/message`
  return {
    ...{ url, errors, server, api },
    known: () => known,
    post: (message = 'x') =>
      fetch(url, {
        method: 'POST',
        headers: { authorization: 'Bearer x', 'content-type': 'application/json', connection: 'close' },
        body: JSON.stringify({ message }),
      }),
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

describe('an answer that is long in coming', () => {
  it('is waited for as long as there is patience, and then told where to ask again', async () => {
    await using api = await open({
      handle: (_, send) => send({ runId: 'r/1', status: 'accepted' }),
      patienceMs: 1,
    })
    const response = await api.post()
    expect([response.status, response.headers.get('location'), response.headers.get('preference-applied')]).toEqual([
      202,
      '/agent/main/message/r%2F1',
      null,
    ])
    expect(await response.json()).toMatchObject({ status: 'accepted', runId: 'r/1', thread_id: 'agent:main:main' })
  })

  it('is given when it comes within it', async () => {
    await using api = await open({
      handle(_, send) {
        send({ runId: 'r', status: 'accepted' })
        setImmediate(() => send({ runId: 'r', status: 'ok', result: { payloads: [{ text: 'gold' }] } }))
      },
    })
    const response = await api.post()
    expect([response.status, await response.json()]).toMatchObject([200, { response: 'gold', runId: 'r' }])
  })
})

describe('an answer that nobody reads', () => {
  it('is cut off, and owed to nobody any more', async () => {
    const text = 'x'.repeat(MORE_THAN_THE_KERNEL_HOLDS)
    await using api = await open({
      handle: (_, send) => send({ runId: 'r', status: 'ok', result: { payloads: [{ text }] } }),
      unreadMs: 100,
    })
    const response = await api.post()
    await api.api.answered()
    await expect(response.text()).rejects.toThrow()
  })
})

describe('a failure that nobody expected', () => {
  it('is told as an incident, which stands in the log', async () => {
    const fail = new Error('a bug')
    await using api = await open({ fail })
    const response = await api.post()
    const { error } = (await response.json()) as { error: { code: string; message: string; incident: string } }
    expect([response.status, error.code]).toEqual([500, 'INTERNAL'])
    expect(error.message).toBe(`internal error (incident ${error.incident})`)
    expect(api.errors).toEqual([
      { details: { incident: error.incident, path: '/agent/main/message', err: fail }, message: 'request failed' },
    ])
  })

  it('is none when the client leaves in the middle of what it says', async () => {
    await using api = await open({})
    const asked = request(api.url, {
      method: 'POST',
      headers: { authorization: 'Bearer x', 'content-type': 'application/json', 'content-length': 100 },
    })
    asked.on('error', () => {})
    const begun = once(api.server, 'request')
    asked.write('{')
    const [begunWith] = (await begun) as [IncomingMessage]
    const gone = new Promise((resolve) => begunWith.once('close', resolve))
    asked.destroy()
    await gone
    await new Promise((resolve) => setImmediate(resolve))
    expect(api.errors).toEqual([])
  })
})

describe('the status of a failure', () => {
  const kinds = Object.keys(ERRORS) as ErrorName[]
  const isRetryable = (kind: ErrorName) => 'retryable' in ERRORS[kind]

  it.each(kinds)('of %s says whose it is, and whether it may be tried again', (kind) => {
    const status = statusOf(kind)
    if (isRetryable(kind)) expect([429, 503]).toContain(status)
    else if (ERRORS[kind].code === 'INVALID_REQUEST') expect([400, 403, 404, 409, 413]).toContain(status)
    else expect([500, 502, 504]).toContain(status)
  })

  it('is that of a rate where there is too much of something at once', () =>
    expect(kinds.filter((kind) => statusOf(kind) === 429)).toEqual(['SESSION_BUSY', 'RATE_LIMITED']))

  it('is that of a bug for a name that is not in the list', () => expect(statusOf('NONSENSE')).toBe(500))
})

describe('requests of one connection', () => {
  it('are carried out one behind the other, however many are sent at once', async () => {
    const sends: Send[] = []
    await using api = await open({ handle: (_, send) => void sends.push(send) })
    const socket = connect(Number(new URL(api.url).port), '127.0.0.1')
    const body = JSON.stringify({ message: 'x' })
    const one = `POST /agent/main/message HTTP/1.1\r\nhost: x\r\nauthorization: Bearer x\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`
    let heard = ''
    socket.on('data', (data) => {
      heard += data.toString()
    })
    socket.write(one.repeat(20))
    const answers = () => heard.split('HTTP/1.1 200').length - 1
    for (let n = 1; n <= 20; n++) {
      await vi.waitFor(() => expect(sends).toHaveLength(n))
      sends.at(-1)!({ runId: `r${n}`, status: 'ok', result: { payloads: [{ text: 'y' }] } })
      await vi.waitFor(() => expect(answers()).toBe(n))
    }
    socket.destroy()
    await api.api.answered()
    expect(api.known()).toBe(20)
  })

  it('are owed an answer until that is on its way, or nobody is there to read it', async () => {
    const sends: Send[] = []
    await using api = await open({ handle: (_, send) => void sends.push(send) })
    await api.api.answered()
    const response = api.post()
    await vi.waitFor(() => expect(sends).toHaveLength(1))
    let isAnswered = false
    const answered = api.api.answered().then(() => {
      isAnswered = true
    })
    expect(isAnswered).toBe(false)
    sends[0]!({ runId: 'r', status: 'ok', result: { payloads: [{ text: 'y' }] } })
    expect((await response).status).toBe(200)
    await answered
  })
})

describe('a gateway that does not serve', () => {
  it.each(['starting', 'draining'] as const)('says that it is %s, and when to come back', async (status) => {
    await using api = await open({ status })
    const response = await api.post()
    expect([response.status, response.headers.get('retry-after')]).toEqual([503, '2'])
    expect(await response.json()).toMatchObject({ ok: false, error: { code: status.toUpperCase() } })
  })

  it('still says how a message is while it drains', async () => {
    const handle = (_: RequestFrame, send: Send) => send({ runId: 'r', status: 'ok', text: 'gold', sessionKey: 's' })
    await using api = await open({ status: 'draining', handle })
    const response = await fetch(`${api.url}/r`, { headers: { authorization: 'Bearer x' } })
    expect(await response.json()).toMatchObject({ response: 'gold', runId: 'r' })
  })
})

describe('a body', () => {
  /** What is answered to a body that comes in parts. */
  async function upload(url: string, parts: Iterable<string | Buffer>, token = 'x', more: object = {}) {
    const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json', ...more }
    const asked = request(url, { method: 'POST', headers })
    const answer = once(asked, 'response') as Promise<[IncomingMessage]>
    // It is closed under whoever still writes.
    asked.on('error', () => {})
    for (const part of parts) asked.write(part)
    return { asked, answer: answer.then(([{ statusCode }]) => statusCode) }
  }

  it('that comes in many small pieces is refused before it is kept', async () => {
    await using api = await open({ handle: (_, send) => send({ status: 'ok' }) })
    const { answer } = await upload(api.url, Array(40_000).fill(' '))
    expect(await answer).toBe(413)
  })

  it('that turns out too large is refused in words, though it did not say how large it is', async () => {
    await using api = await open({ handle: (_, send) => send({ status: 'ok' }) })
    const { answer } = await upload(api.url, Array(9).fill(Buffer.alloc(1024 * 1024, ' ')))
    expect(await answer).toBe(413)
  })

  it('of one principal leaves room for those of others, however many of them come slowly', async () => {
    await using api = await open({
      handle: (_, send) => send({ status: 'ok', result: { payloads: [] } }),
      principals: { greedy: 'token:greedy', modest: 'token:modest' },
    })
    const most = 8 * 1024 * 1024
    const body = Buffer.alloc(most - 1, ' ')
    // Five are more than it may have at once, and less than all may together.
    const uploads = await Promise.all(
      Array.from({ length: 5 }, () => upload(api.url, [body], 'greedy', { 'content-length': most })),
    )
    const refused = await Promise.any(uploads.map(({ answer }) => answer))
    expect(refused).toBe(503)
    const { asked, answer } = await upload(api.url, [JSON.stringify({ message: 'x'.repeat(4_000) })], 'modest')
    asked.end()
    expect(await answer).toBe(200)
    for (const { asked } of uploads) asked.destroy()
  })
})

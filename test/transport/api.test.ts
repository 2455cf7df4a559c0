/** Agents over plain HTTP, where what is behind them is slow, or fails. */
import { once } from 'node:events'
import { createServer, type IncomingMessage, request } from 'node:http'
import type { AddressInfo } from 'node:net'
import { describe, expect, it } from 'vitest'
import type { Admitted } from '../../src/auth/authenticate.ts'
import { ERRORS, type ErrorName } from '../../src/contract/errors.ts'
import type { RequestFrame } from '../../src/contract/frames.ts'
import { type ApiNeeds, createApi, statusOf } from '../../src/transport/api.ts'
import { quiet } from '../support/rooms.ts'

type Send = (payload: object) => void

/** An API on a free port, in front of a gateway that does what it is told. */
async function open(changes: { handle?(asked: RequestFrame, send: Send): void; fail?: Error; patienceMs?: number }) {
  const errors: { details: object; message: string }[] = []
  const admitted = { decision: { admitted: true, granted: ['operator.write'] }, principal: 'token:shared' }
  const needs: ApiNeeds = {
    authenticator: {
      async authenticate() {
        if (changes.fail) throw changes.fail
        return admitted as unknown as Admitted
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
    maySend: () => true,
    limits: { requestsPerSecond: 0, burst: 0, deniedPerMinute: 0 },
    log: { ...quiet, error: (details, message) => void errors.push({ details, message }) },
    monotonic: () => 0,
    now: () => 0,
    ...(changes.patienceMs !== undefined && { patienceMs: changes.patienceMs }),
  }
  const api = createApi(needs)
  const server = createServer((asked, response) => {
    if (!api.answer(asked.url!, asked, response, {} as never)) response.destroy()
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/agent/main/message`
  return {
    ...{ url, errors, server },
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

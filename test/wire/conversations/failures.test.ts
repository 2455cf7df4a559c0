import { describe, expect, it } from 'vitest'
import { endOf, type Peer } from '../../support/gateway.ts'
import { heardOf, PROTOCOL, startFakeGateway, stepsOf } from './fake-gateway.ts'

const send = (peer: Peer, idempotencyKey: string, message: string, more: object = {}) =>
  peer.request('chat.send', { sessionKey: 'main', message, idempotencyKey, ...more })

describe('a model that refuses', () => {
  it.for([400, 401, 429, 500].flatMap((status) => [3, 4].map((protocol) => ({ status, protocol: protocol as 3 | 4 }))))(
    'with $status ends the run in an error, in its own words (protocol $protocol)',
    async ({ status, protocol }) => {
      await using gateway = await startFakeGateway()
      const peer = await gateway.connect(PROTOCOL[protocol])
      // A wait that is too long to be worth it: the refusal is final at once.
      const message = `hello [[fail=${status} retryafter=60]]`
      expect((await send(peer, 'k1', message)).payload.status).toBe('started')
      const { payload } = await peer.next(endOf('k1'))
      expect(payload).toMatchObject({ state: 'error', errorMessage: `fake failure ${status}` })
      expect(stepsOf(peer, 'k1')).toBe('start error error')
      expect(heardOf(peer, 'k1').at(-2)).toMatchObject({
        stream: 'lifecycle',
        data: { phase: 'error', error: `fake failure ${status}` },
      })
      const again = await send(peer, 'k1', message)
      expect(again).toMatchObject({
        ok: false,
        payload: { runId: 'k1', status: 'error' },
        error: { code: 'UNAVAILABLE', message: `fake failure ${status}`, details: { code: 'RUN_FAILED' } },
      })
      const history = await peer.request('chat.history', { sessionKey: 'main' })
      expect(history['payload'].messages).toMatchObject([
        { role: 'user' },
        { role: 'assistant', content: [], stopReason: 'error', errorMessage: `fake failure ${status}` },
      ])
    },
  )

  it('ends `agent` with ok: false under the same id', async () => {
    await using gateway = await startFakeGateway()
    const peer = await gateway.connect()
    const params = { message: 'hi [[fail=400]]', sessionKey: 'main', idempotencyKey: 'a1' }
    const accepted = await peer.request('agent', params, 'x')
    expect(accepted['payload']).toMatchObject({ runId: 'a1', status: 'accepted' })
    const result = await peer.next(({ type, id }) => type === 'res' && id === 'x')
    expect(result).toMatchObject({
      ok: false,
      payload: { runId: 'a1', status: 'error', summary: 'fake failure 400' },
      error: { code: 'UNAVAILABLE', message: 'fake failure 400' },
    })
    const waited = await peer.request('agent.wait', { runId: 'a1' })
    expect(waited['payload']).toMatchObject({ runId: 'a1', status: 'error', error: 'fake failure 400' })
  })
})

describe('a model that breaks off', () => {
  it('ends the run in an error and keeps the text that came', async () => {
    await using gateway = await startFakeGateway()
    const peer = await gateway.connect()
    await send(peer, 'k1', 'hello [[chunks=10 cut=3]]')
    const { payload } = await peer.next(endOf('k1'))
    expect(payload.state).toBe('error')
    expect(payload.errorMessage).toMatch(/^the connection broke/)
    const text = heardOf(peer, 'k1')
      .map(({ data }) => data?.delta ?? '')
      .join('')
    const history = await peer.request('chat.history', { sessionKey: 'main' })
    expect(history['payload'].messages[1]).toMatchObject({ stopReason: 'error', errorMessage: payload.errorMessage })
    expect(history['payload'].messages[1].content.map((part: { text: string }) => part.text).join('')).toBe(text)
  })
})

describe('a deadline', () => {
  it('of chat.send ends the run as aborted: timeout, and the next message is answered', async () => {
    await using gateway = await startFakeGateway()
    const peer = await gateway.connect()
    await send(peer, 'k1', 'hello [[chunks=1000 gap=20]]', { timeoutMs: 150 })
    const { payload } = await peer.next(endOf('k1'))
    expect(payload).toMatchObject({ state: 'aborted', stopReason: 'timeout' })
    expect(stepsOf(peer, 'k1')).toBe('start end aborted')
    await send(peer, 'k2', 'hello [[chunks=1]]')
    expect((await peer.next(endOf('k2'))).payload.state).toBe('final')
  })

  it('of agent is in seconds, and its result says so', async () => {
    await using gateway = await startFakeGateway()
    const peer = await gateway.connect()
    const params = { message: 'hi [[stall=1]]', sessionKey: 'main', idempotencyKey: 'a1', timeout: 1 }
    await peer.request('agent', params, 'x')
    const result = await peer.next(({ type, id }) => type === 'res' && id === 'x')
    expect(result).toMatchObject({ ok: false, error: { code: 'AGENT_TIMEOUT', details: { code: 'RUN_TIMED_OUT' } } })
  })
})

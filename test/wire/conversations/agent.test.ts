import { describe, expect, it } from 'vitest'
import { endOf, type Frame, type Peer } from '../../support/gateway.ts'
import { startFakeGateway, stepsOf, textOf } from './fake-gateway.ts'

const answerOf =
  (name: string) =>
  ({ type, id }: Frame): boolean =>
    type === 'res' && id === name

describe('agent', () => {
  it('is answered twice under one id: accepted, then the result; and its run is heard as any other', async () => {
    await using gateway = await startFakeGateway()
    const peer = await gateway.connect()
    const params = { message: 'hi [[text=all is well]]', sessionKey: 'main', channel: 'whatsapp', idempotencyKey: 'a1' }
    const accepted = await peer.request('agent', params, 'x')
    expect(accepted).toMatchObject({ ok: true, payload: { runId: 'a1', status: 'accepted' } })
    const result = await peer.next(answerOf('x'))
    expect(result).toMatchObject({
      ok: true,
      payload: {
        runId: 'a1',
        status: 'ok',
        summary: 'completed',
        result: { payloads: [{ text: 'all is well' }], meta: { agentMeta: { provider: 'fake', model: 'fake-1' } } },
      },
    })
    expect(stepsOf(peer, 'a1')).toBe('start end final')
    const repeated = await peer.request('agent', params)
    expect(repeated['payload']).toEqual(result['payload'])
  })

  it('is told the same again when it is asked twice, and waited for by anybody who knows the run', async () => {
    await using gateway = await startFakeGateway()
    const peer = await gateway.connect()
    const params = { message: 'hi [[chunks=8 gap=20]]', agentId: 'main', idempotencyKey: 'a1' }
    const accepted = await peer.request('agent', params, 'x')
    const again = await peer.request('agent', params, 'y')
    expect(again['payload']).toEqual(accepted['payload'])
    const waited = await peer.request('agent.wait', { runId: 'a1', timeoutMs: 10_000 })
    expect(waited['payload']).toMatchObject({
      runId: 'a1',
      status: 'ok',
      startedAt: expect.any(Number),
      endedAt: expect.any(Number),
    })
    const results = await Promise.all(['x', 'y'].map((id) => peer.next(answerOf(id))))
    expect(results[0]!['payload']).toEqual(results[1]!['payload'])
    expect((await peer.request('agent.wait', { runId: 'nobody', timeoutMs: 1 }))['payload']).toEqual({
      runId: 'nobody',
      status: 'timeout',
    })
  })

  it('needs a session to be in, and an agent that is there', async () => {
    await using gateway = await startFakeGateway()
    const peer = await gateway.connect()
    const ask = async (params: object) =>
      (await peer.request('agent', { message: 'hi', idempotencyKey: 'a1', ...params }))['error'].message
    expect(await ask({})).toContain('sessionKey, sessionId or agentId')
    expect(await ask({ agentId: 'nobody' })).toBe('invalid agent params: unknown agent id "nobody" (known: main)')
  })
})

describe('what tools do', () => {
  it('is heard by whoever asks for it, as far as the session is set to tell', async () => {
    await using gateway = await startFakeGateway()
    const asking = await gateway.connect({ caps: ['tool-events'] })
    const others = [await gateway.connect({ caps: ['tool-events'] }), await gateway.connect()] as const
    const send = async (idempotencyKey: string, verboseLevel: string): Promise<Frame[]> => {
      await asking.request('sessions.patch', { key: 'main', verboseLevel })
      const message = 'how is it? [[tool=session_status args={}]] [[text=well]]'
      await asking.request('chat.send', { sessionKey: 'main', message, idempotencyKey })
      for (const peer of [asking, ...others]) await peer.next(endOf(idempotencyKey))
      return asking.frames.filter(({ payload }) => payload?.runId === idempotencyKey && payload.stream === 'tool')
    }
    const called = { name: 'session_status', toolCallId: expect.any(String) }
    const full = await send('k1', 'full')
    expect(full.map(({ payload }) => payload.data)).toMatchObject([
      { ...called, phase: 'start', args: {} },
      { ...called, phase: 'result', isError: false, result: {} },
    ])
    const on = await send('k2', 'on')
    expect(on.map(({ payload }) => payload.data.phase)).toEqual(['start', 'result'])
    expect(on[1]!['payload'].data).not.toHaveProperty('result')
    expect(await send('k3', 'off')).toEqual([])
    const tools = (peer: Peer) =>
      peer.frames.flatMap(({ payload }) => (payload?.stream === 'tool' ? [payload.data] : []))
    expect(tools(others[0])).toEqual(tools(asking))
    expect(tools(others[1])).toEqual([])
  })
})

describe('a client that leaves', () => {
  it('leaves its run to go on: back again it hears the rest, and finds all of it in the transcript', async () => {
    await using gateway = await startFakeGateway()
    const first = await gateway.connect()
    const params = { sessionKey: 'main', message: 'hello [[chunks=30 gap=20]]', idempotencyKey: 'k1' }
    await first.request('chat.send', params)
    await first.next(textOf('k1'))
    first.socket.terminate()
    await first.closed
    const second = await gateway.connect()
    expect((await second.request('chat.send', params))['payload']).toEqual({ runId: 'k1', status: 'in_flight' })
    const end = await second.next(endOf('k1'))
    const text = 'word '.repeat(30)
    expect(end['payload']).toMatchObject({ state: 'final', message: { content: [{ text }] } })
    const { payload } = await second.request('chat.history', { sessionKey: 'main' })
    expect(payload.messages.map(({ role, content }: Frame) => [role, content[0].text])).toEqual([
      ['user', params.message],
      ['assistant', text],
    ])
    expect((await second.request('chat.send', params))['payload']).toEqual({ runId: 'k1', status: 'ok' })
  })
})

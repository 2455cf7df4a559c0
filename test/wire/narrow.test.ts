/** A token for some sessions, beside a token for all: what it says, hears and is told. */
import { describe, expect, it } from 'vitest'
import { endOf, type Frame, type Peer, startGateway } from '../support/gateway.ts'

async function open() {
  const gateway = await startGateway()
  const operator = await gateway.connect()
  const { payload } = await operator.request('tokens.create', {
    ...{ name: 'a bridge', scopes: ['operator.read', 'operator.write'], sessions: ['agent:main:mine*'] },
  })
  const narrow = await gateway.connect({ scopes: undefined, auth: { token: payload.token } })
  const say = async (peer: Peer, sessionKey: string, message = 'hello') => {
    const answer = await peer.request('chat.send', { sessionKey, message, idempotencyKey: `${sessionKey} ${message}` })
    if (answer['ok']) await operator.next(endOf(answer['payload'].runId))
    return answer
  }
  return { gateway, operator, narrow, say, [Symbol.asyncDispose]: () => gateway.stop() }
}

const about = (peer: Peer) => [
  ...new Set(peer.frames.flatMap(({ payload }: Frame) => (payload?.sessionKey ? [payload.sessionKey] : []))),
]

describe('a token for some sessions', () => {
  it('talks in these, and reads them', async () => {
    await using at = await open()
    expect(await at.say(at.narrow, 'agent:main:mine')).toMatchObject({ ok: true })
    await at.narrow.next(endOf('agent:main:mine hello'))
    const { payload } = await at.narrow.request('chat.history', { sessionKey: 'mine' })
    expect(payload.messages).toHaveLength(2)
    expect(await at.narrow.request('chat.resume', { sessionKey: 'agent:main:mine2' })).toMatchObject({ ok: true })
  })

  it('does nothing in others, whatever they are called, and sees no difference to what is not there', async () => {
    await using at = await open()
    await at.say(at.operator, 'main', 'a secret')
    for (const sessionKey of ['main', 'agent:main:main', 'agent:main:notmine', 'AGENT:main:main'])
      for (const [method, more] of [
        ['chat.send', { message: 'x', idempotencyKey: 'x' }],
        ['chat.history', {}],
        ['chat.abort', {}],
        ['chat.resume', {}],
      ] as const)
        expect(await at.narrow.request(method, { sessionKey, ...more })).toMatchObject({
          ok: false,
          error: { message: 'session not found' },
        })
  })

  it('hears of no others, and is told of none', async () => {
    await using at = await open()
    await at.say(at.operator, 'agent:main:notmine', 'a secret')
    await at.say(at.operator, 'agent:main:mine')
    await at.narrow.next(endOf('agent:main:mine hello'))
    expect(about(at.narrow)).toEqual(['agent:main:mine'])
    expect(JSON.stringify(at.narrow.frames)).not.toMatch(/notmine|a secret/)
    for (const method of ['sessions.list', 'sessions.preview', 'health', 'status', 'logs.tail', 'agent', 'config.get'])
      expect(await at.narrow.request(method, {})).toMatchObject({ ok: false })
  })
  it('is told neither which agents there are, nor whether there is a run of somebody else', async () => {
    await using at = await open()
    await at.say(at.narrow, 'agent:main:mine')
    const unknown = { ok: false, error: { message: 'session not found', details: { code: 'SESSION_NOT_FOUND' } } }
    for (const method of ['chat.history', 'chat.resume', 'chat.abort'])
      for (const params of [{ sessionKey: 'agent:nobody:mine' }, { sessionKey: 'mine', agentId: 'nobody' }])
        expect(await at.narrow.request(method, params)).toMatchObject(unknown)
    // The answer to so many words takes seconds.
    const wait = { message: 'word '.repeat(2_000), idempotencyKey: 'theirs' }
    expect(await at.operator.request('chat.send', { sessionKey: 'main', ...wait })).toMatchObject({ ok: true })
    const abort = (peer: Peer, runId: string) => peer.request('chat.abort', { sessionKey: 'agent:main:mine', runId })
    const [there, nowhere] = [await abort(at.narrow, 'theirs'), await abort(at.narrow, 'nobody')]
    expect(there['payload']).toEqual({ ok: true, aborted: false, runIds: [] })
    expect(there['payload']).toEqual(nowhere['payload'])
    expect((await abort(at.operator, 'theirs'))['error'].details.code).toBe('RUN_NOT_IN_SESSION')
    expect((await at.operator.request('chat.abort', { sessionKey: 'main' }))['payload'].aborted).toBe(true)
  })
})

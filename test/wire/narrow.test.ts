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
})

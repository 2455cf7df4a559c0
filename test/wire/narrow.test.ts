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
    for (const method of ['sessions.preview', 'health', 'status', 'logs.tail', 'config.get', 'exec.approval.request'])
      expect(await at.narrow.request(method, {})).toMatchObject({ ok: false })
  })

  it('is shown its own sessions, also where others are looked for', async () => {
    await using at = await open()
    for (const key of ['agent:main:mine-2', 'agent:main:main', 'agent:main:mine', 'agent:main:notmine'])
      await at.say(at.operator, key, `the words of ${key}`)
    const list = async (params: object) =>
      (await at.narrow.request('sessions.list', params))['payload'] as { count: number; sessions: { key: string }[] }
    const keys = async (params: object) => (await list(params)).sessions.map(({ key }) => key)
    expect(await list({ includeDerivedTitles: true, includeLastMessage: true })).toMatchObject({ count: 2 })
    expect(await keys({})).toEqual(['agent:main:mine', 'agent:main:mine-2'])
    // The newest of all is another's.
    expect(await keys({ limit: 1 })).toEqual(['agent:main:mine'])
    expect(await keys({ search: 'notmine' })).toEqual([])
    expect(await keys({ agentId: 'main' })).toHaveLength(2)
    expect(JSON.stringify(at.narrow.frames)).not.toMatch(/notmine|the words of agent:main:main/)
  })

  it('gives an agent a turn in these, and is told how it ended', async () => {
    await using at = await open()
    const turn = { sessionKey: 'agent:main:mine', message: 'hello', idempotencyKey: 'k' }
    expect(await at.narrow.request('agent', turn, 'a')).toMatchObject({ ok: true, payload: { status: 'accepted' } })
    expect(await at.narrow.next(({ id }) => id === 'a')).toMatchObject({ ok: true, payload: { status: 'ok' } })
    expect(await at.narrow.request('agent.wait', { runId: 'k' })).toMatchObject({ payload: { status: 'ok' } })
    const { payload } = await at.operator.request('sessions.list', {})
    const [{ sessionId }] = payload.sessions
    const byId = { sessionId, message: 'hello', idempotencyKey: 'k2' }
    expect(await at.narrow.request('agent', byId)).toMatchObject({ ok: true, payload: { status: 'accepted' } })
  })

  it('gives no agent a turn in others, by whatever name, as if they were not there', async () => {
    await using at = await open()
    await at.say(at.operator, 'agent:main:notmine', 'a secret')
    const { payload } = await at.operator.request('sessions.list', {})
    const [{ sessionId }] = payload.sessions
    const agent = (where: object) => at.narrow.request('agent', { ...where, message: 'x', idempotencyKey: 'x' })
    for (const where of [{ sessionKey: 'agent:main:notmine' }, { agentId: 'main' }, { sessionKey: 'main' }])
      expect(await agent(where)).toMatchObject({ ok: false, error: { message: 'session not found' } })
    const nowhere = '00000000-0000-4000-8000-000000000000'
    const errors = [await agent({ sessionId }), await agent({ sessionId: nowhere })].map((frame) => frame['error'])
    expect(errors[0]).toEqual({ ...errors[1], message: `No session found: ${sessionId}` })
    expect((await at.operator.request('chat.history', { sessionKey: 'notmine' }))['payload'].messages).toHaveLength(2)
  })

  it('waits for a run of others as for one that there is not', async () => {
    await using at = await open()
    const key = 'agent:main:notmine'
    await at.say(at.operator, key, 'a secret')
    const wait = (runId: string, timeoutMs: number) => at.narrow.request('agent.wait', { runId, timeoutMs })
    for (const runId of [`${key} a secret`, 'a run that there is not'])
      expect((await wait(runId, 1))['payload']).toEqual({ runId, status: 'timeout' })
    // One that ends while it waits does not end the waiting.
    const waiting = at.narrow.request('agent.wait', { runId: `${key} another`, timeoutMs: 60_000 }, 'w')
    const isAnswered = () => at.narrow.frames.some(({ id }) => id === 'w')
    await at.say(at.operator, key, 'another')
    await at.say(at.narrow, 'agent:main:mine')
    expect(isAnswered()).toBe(false)
    at.narrow.socket.terminate()
    await expect(waiting).rejects.toThrow('closed')
  })

  it('sees and decides what waits for an approval in these, and nothing of others', async () => {
    await using at = await open()
    const { payload } = await at.operator.request('tokens.create', {
      ...{ name: 'an approver', scopes: ['operator.approvals'], sessions: ['agent:main:mine*'] },
    })
    const narrow = await at.gateway.connect({ scopes: undefined, auth: { token: payload.token } })
    const ask = (id: string, where: object) =>
      at.operator.request('exec.approval.request', { id, command: `echo ${id}`, ...where }, `ask ${id}`)
    const asked = [
      ask('of-none', {}),
      ask('of-other', { sessionKey: 'notmine' }),
      ask('of-agent', { agentId: 'main' }),
      // However it is spelled.
      ask('of-mine', { sessionKey: 'MINE' }),
    ]
    expect(await narrow.next(({ event }) => event === 'exec.approval.requested')).toMatchObject({
      payload: { id: 'of-mine', request: { command: 'echo of-mine' } },
    })
    const list = async () => (await narrow.request('exec.approval.list', {}))['payload'].map(({ id }: Frame) => id)
    expect(await list()).toEqual(['of-mine'])
    const decide = (id: string) => narrow.request('exec.approval.resolve', { id, decision: 'allow-once' })
    for (const id of ['of-none', 'of-other', 'of-agent', 'of-nothing'])
      expect(await decide(id)).toMatchObject({ ok: false, error: { message: 'unknown approval id' } })
    for (const id of ['of-none', 'of-other', 'of-agent'])
      await at.gateway.connect().then((other) => other.request('exec.approval.resolve', { id, decision: 'deny' }))
    expect(await decide('of-mine')).toMatchObject({ ok: true })
    expect((await Promise.all(asked)).map((answer) => answer['payload'].decision)).toEqual([
      ...['deny', 'deny', 'deny', 'allow-once'],
    ])
    expect(await narrow.next(({ event }) => event === 'exec.approval.resolved')).toMatchObject({
      payload: { id: 'of-mine', decision: 'allow-once' },
    })
    expect(await list()).toEqual([])
    expect(JSON.stringify(narrow.frames.filter(({ type }) => type === 'event'))).not.toMatch(/of-(none|other|agent)/)
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

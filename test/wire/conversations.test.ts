/** Protocol 4: a session as something one makes, follows and speaks in. */
import { describe, expect, it } from 'vitest'
import { echo } from '../../src/runtimes/echo.ts'
import { endOf, type Frame, type Peer, startGateway } from '../support/gateway.ts'

const V4 = { minProtocol: 4, maxProtocol: 4 }
/** An echo whose answers take as long as a test needs to stop them. */
const slow = { runtimes: new Map([['echo', echo({ wordMs: 1_000 })]]) }
const quick = { runtimes: new Map([['echo', echo({ wordMs: 1 })]]) }

async function answer(peer: Peer, method: string, params?: object): Promise<Frame> {
  const { ok, payload, error } = await peer.request(method, params)
  if (!ok) throw new Error(error.message)
  return payload
}

const changes = (peer: Peer) =>
  peer.frames
    .filter(({ event }) => event === 'sessions.changed')
    .map(({ payload: { sessionKey, reason, phase, runId } }) => [
      sessionKey,
      reason ?? phase,
      ...(runId ? [runId] : []),
    ])

describe('a session', () => {
  it('is made before anything is said in it, once, and described like those that are listed', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect({ ...V4, scopes: ['operator.write'] })
    expect(await answer(peer, 'sessions.describe', { key: 'notes' })).toEqual({ session: null })
    const made = await answer(peer, 'sessions.create', { key: 'notes', agentId: 'main', label: 'My notes' })
    expect(made).toMatchObject({ ok: true, key: 'agent:main:notes', runStarted: false })
    const again = await answer(peer, 'sessions.create', { key: 'notes', label: 'Another name', succeedsParent: true })
    expect(again).toMatchObject({ sessionId: made['sessionId'], entry: { label: 'My notes' } })
    const { session } = await answer(peer, 'sessions.describe', { key: 'notes' })
    const { sessions } = await answer(peer, 'sessions.list', {})
    expect(session).toEqual(sessions[0])
    // Without a key there is a new one each time.
    const [one, other] = [await answer(peer, 'sessions.create', {}), await answer(peer, 'sessions.create', {})]
    expect(one['key']).toMatch(/^agent:main:/)
    expect(other['key']).not.toBe(one['key'])
  })

  it('takes a message, gives back what was said, and stops what runs', async () => {
    await using gateway = await startGateway(quick)
    const peer = await gateway.connect(V4)
    const sent = await answer(peer, 'sessions.send', { key: 'notes', message: 'hello', idempotencyKey: 'k1' })
    expect(sent).toEqual({ runId: 'k1', status: 'started' })
    await peer.next(endOf('k1'))
    expect(await answer(peer, 'sessions.send', { key: 'notes', message: 'hello', idempotencyKey: 'k1' })).toEqual({
      ...{ runId: 'k1', status: 'ok' },
    })
    const { messages } = await answer(peer, 'sessions.get', { key: 'notes' })
    expect(messages.map(({ role }: Frame) => role)).toEqual(['user', 'assistant'])
    expect((await answer(peer, 'sessions.get', { key: 'notes', limit: 1 }))['messages']).toEqual(messages.slice(1))
    expect(await answer(peer, 'sessions.abort', { key: 'notes' })).toEqual({
      ...{ ok: true, abortedRunId: null, status: 'no-active-run' },
    })
  })

  it('is steered, and stopped by its key or by the run alone', async () => {
    await using gateway = await startGateway(slow)
    const peer = await gateway.connect(V4)
    const begun = ({ event, payload }: Frame) => event === 'agent' && payload.stream === 'lifecycle'
    for (const named of ['key', 'runId']) {
      const { runId } = await answer(peer, 'sessions.send', { key: 'notes', message: 'a b c d e f' })
      await peer.next((frame) => begun(frame) && frame['payload'].runId === runId)
      const joined = await answer(peer, 'sessions.steer', { key: 'notes', message: 'and this' })
      await peer.next(endOf(joined['runId']))
      const params = named === 'key' ? { key: 'notes' } : { runId }
      expect(await answer(peer, 'sessions.abort', params)).toEqual({ ok: true, abortedRunId: runId, status: 'aborted' })
      await peer.next(endOf(runId))
    }
    expect((await peer.request('sessions.abort', {}))['error'].message).toContain('give key or runId')
    const narrow = await gateway.connect({ ...V4, scopes: ['operator.read'] })
    expect((await narrow.request('sessions.abort', { key: 'notes' }))['error'].details.code).toBe('MISSING_SCOPE')
  })

  it('leaves the newest entries when it is compacted, and an agent reads no others', async () => {
    await using gateway = await startGateway(quick)
    const peer = await gateway.connect()
    for (const idempotencyKey of ['k1', 'k2', 'k3']) {
      await answer(peer, 'chat.send', { sessionKey: 'main', message: `message ${idempotencyKey}`, idempotencyKey })
      await peer.next(endOf(idempotencyKey))
    }
    const { messages } = await answer(peer, 'chat.history', { sessionKey: 'main' })
    const compacted = await answer(peer, 'sessions.compact', { key: 'main', maxLines: 3 })
    expect(compacted).toMatchObject({ ok: true, key: 'agent:main:main', compacted: true, kept: 3 })
    const left = await answer(peer, 'chat.history', { sessionKey: 'main' })
    expect(left['messages']).toEqual(messages.slice(-3))
    expect(compacted['archived'].startsWith(left['sessionId'])).toBe(true)
    expect(await answer(peer, 'sessions.compact', { key: 'main', maxLines: 3 })).toEqual({
      ...{ ok: true, key: 'agent:main:main', compacted: false, kept: 3 },
    })
    expect(await answer(peer, 'sessions.compact', { key: 'never' })).toEqual({
      ...{ ok: true, key: 'agent:main:never', compacted: false, reason: 'no sessionId' },
    })
  })
})

describe('who follows sessions', () => {
  it('hears what becomes of them, in the order in which it was kept', async () => {
    await using gateway = await startGateway(quick)
    const peer = await gateway.connect(V4)
    expect(await answer(peer, 'sessions.subscribe', {})).toEqual({ subscribed: true })
    await answer(peer, 'sessions.send', { key: 'notes', message: 'hello', idempotencyKey: 'k1' })
    await peer.next(({ event, payload }) => event === 'sessions.changed' && payload.phase === 'end')
    await answer(peer, 'sessions.patch', { key: 'notes', label: 'My notes' })
    await answer(peer, 'chat.inject', { sessionKey: 'notes', message: 'a word' })
    await answer(peer, 'sessions.compact', { key: 'notes', maxLines: 1 })
    const { entry } = await answer(peer, 'sessions.reset', { key: 'notes' })
    await answer(peer, 'sessions.delete', { key: 'notes' })
    const key = 'agent:main:notes'
    expect(changes(peer)).toEqual([
      [key, 'send', 'k1'],
      [key, 'start', 'k1'],
      [key, 'end', 'k1'],
      [key, 'patch'],
      [key, 'message'],
      [key, 'compact'],
      [key, 'reset'],
      [key, 'delete'],
    ])
    const told = peer.frames.filter(({ event }) => event === 'sessions.changed').map(({ payload }) => payload)
    expect(told[6]).toMatchObject({ agentId: 'main', sessionId: entry.sessionId, updatedAt: entry.updatedAt })
    // Who asks for something hears it with the answer.
    const { list } = await answer(peer, 'sessions.subscribe', { limit: 1 })
    expect(list).toMatchObject({ count: 0, sessions: [] })
  })

  it('hears that a run failed', async () => {
    const failing = { run: () => Promise.reject(new Error('no model')) }
    await using gateway = await startGateway({ runtimes: new Map([['echo', failing as never]]) })
    const peer = await gateway.connect(V4)
    await answer(peer, 'sessions.subscribe', {})
    await answer(peer, 'sessions.send', { key: 'notes', message: 'hello', idempotencyKey: 'k1' })
    await peer.next(({ event, payload }) => event === 'sessions.changed' && payload.phase === 'error')
  })

  it('hears what is said in those that they follow, as it stands in the transcript, until they let go', async () => {
    await using gateway = await startGateway(quick)
    const [peer, other] = [await gateway.connect(V4), await gateway.connect(V4)]
    const followed = { subscribed: true, key: 'agent:main:notes' }
    expect(await answer(peer, 'sessions.messages.subscribe', { key: 'notes' })).toEqual(followed)
    const said = (at: Peer) =>
      at.frames.filter(({ event }) => event === 'session.message').map(({ payload }) => payload)
    for (const key of ['notes', 'elsewhere']) {
      await answer(other, 'sessions.send', { key, message: 'hello', idempotencyKey: key })
      await other.next(endOf(key))
    }
    const { messages } = await answer(peer, 'sessions.get', { key: 'notes' })
    await peer.next(({ event, payload }) => event === 'session.message' && payload.message.role === 'assistant')
    expect(said(peer).map(({ message }) => message)).toEqual(messages)
    expect(said(peer)).toMatchObject([
      { sessionKey: 'agent:main:notes', agentId: 'main', runId: 'notes' },
      { sessionKey: 'agent:main:notes', agentId: 'main', runId: 'notes' },
    ])
    expect(said(other)).toEqual([])
    const gone = { subscribed: false, key: 'agent:main:notes' }
    expect(await answer(peer, 'sessions.messages.unsubscribe', { key: 'notes' })).toEqual(gone)
    await answer(peer, 'chat.inject', { sessionKey: 'notes', message: 'a word' })
    await answer(peer, 'health')
    expect(said(peer)).toHaveLength(2)
  })

  it('follows as many as they may, and none any more when they have left', async () => {
    await using gateway = await startGateway(quick)
    const peer = await gateway.connect(V4)
    for (let n = 0; n < 64; n++) await answer(peer, 'sessions.messages.subscribe', { key: `s${n}` })
    const refused = await peer.request('sessions.messages.subscribe', { key: 's64' })
    expect(refused['error'].details.code).toBe('TOO_MANY_SESSIONS')
    await answer(peer, 'sessions.messages.subscribe', { key: 's0' })
    await answer(peer, 'sessions.messages.unsubscribe', { key: 's1' })
    await answer(peer, 'sessions.messages.subscribe', { key: 's64' })
  })
})

describe('commands.list', () => {
  it('has what /help says, and nothing of a messenger', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect(V4)
    const { commands } = await answer(peer, 'commands.list', { agentId: 'main', scope: 'text', includeArgs: true })
    await answer(peer, 'chat.send', { sessionKey: 'main', message: '/help', idempotencyKey: 'k1' })
    const help = (await peer.next(endOf('k1')))['payload'].message.content[0].text
    const lines = commands.map(({ textAliases: [alias], args, description }: Frame) =>
      [alias, ...(args ?? []).map((arg: Frame) => arg['description'])].join(' ').concat(`: ${description}`),
    )
    expect(lines.join('\n')).toBe(help)
    const bare = await answer(peer, 'commands.list', { includeArgs: false })
    expect(bare['commands'].filter((command: Frame) => 'args' in command)).toEqual([])
    expect(await answer(peer, 'commands.list', { scope: 'native' })).toEqual({ commands: [] })
  })
})

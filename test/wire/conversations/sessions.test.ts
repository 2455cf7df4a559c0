import { describe, expect, it } from 'vitest'
import { endOf, type Frame, type Peer } from '../../support/gateway.ts'
import { startFakeGateway } from './fake-gateway.ts'

let turns = 0
async function spend(peer: Peer, sessionKey: string, message: string): Promise<void> {
  const idempotencyKey = `turn-${++turns}`
  await peer.request('chat.send', { sessionKey, message: `${message} [[text=so it is]]`, idempotencyKey })
  await peer.next(endOf(idempotencyKey))
}

const payloadOf = async (peer: Peer, method: string, params: object): Promise<Frame> =>
  (await peer.request(method, params))['payload']
const errorOf = async (peer: Peer, method: string, params: object): Promise<Frame> =>
  (await peer.request(method, params))['error']

describe('sessions', () => {
  it('are listed, the newest first, under their canonical keys', async () => {
    await using gateway = await startFakeGateway()
    const peer = await gateway.connect()
    await spend(peer, 'main', 'hello')
    await spend(peer, 'Work', 'to work')
    const derived = { includeDerivedTitles: true, includeLastMessage: true }
    const list = await payloadOf(peer, 'sessions.list', { ...derived, includeGlobal: false, includeUnknown: false })
    expect(list).toMatchObject({
      count: 2,
      defaults: { modelProvider: 'fake', model: 'fake-1', contextTokens: 200_000 },
      sessions: [
        { key: 'agent:main:work', kind: 'direct', derivedTitle: 'to work [[text=so it is]]' },
        { key: 'agent:main:main', lastMessagePreview: 'so it is', modelProvider: 'fake', model: 'fake-1' },
      ],
    })
    const keys = async (params: object) =>
      (await payloadOf(peer, 'sessions.list', params))['sessions'].map(({ key }: Frame) => key)
    expect(await keys({ limit: 1 })).toEqual(['agent:main:work'])
    expect(await keys({ search: 'main:main' })).toEqual(['agent:main:main'])
    expect(await keys({ agentId: 'nobody' })).toEqual([])
  })

  it('are looked into: twelve entries, 240 characters of each, and 64 sessions at the most', async () => {
    await using gateway = await startFakeGateway()
    const peer = await gateway.connect()
    for (let n = 0; n < 7; n++) await spend(peer, 'main', 'long '.repeat(100))
    await peer.request('sessions.reset', { key: 'empty' })
    const { previews } = await payloadOf(peer, 'sessions.preview', { keys: ['main', 'empty', 'nobody'] })
    expect(previews.map(({ key, status, items }: Frame) => [key, status, items.length])).toEqual([
      ['main', 'ok', 12],
      ['empty', 'empty', 0],
      ['nobody', 'missing', 0],
    ])
    expect(previews[0].items[0]).toMatchObject({ role: 'user', text: expect.stringMatching(/^.{239}…$/) })
    expect(previews[0].items[11]).toEqual({ role: 'assistant', text: 'so it is' })
    const short = await payloadOf(peer, 'sessions.preview', { keys: ['main'], limit: 2, maxChars: 20 })
    expect(short['previews'][0].items).toEqual([
      { role: 'user', text: 'long long long long…' },
      { role: 'assistant', text: 'so it is' },
    ])
    const many = Array.from({ length: 70 }, (_, n) => `key-${n}`)
    const first = await payloadOf(peer, 'sessions.preview', { keys: many })
    expect(first['previews'].map(({ key }: Frame) => key)).toEqual(many.slice(0, 64))
    expect((await errorOf(peer, 'sessions.preview', { keys: [] })).message).toBe(
      'invalid sessions.preview params: at /keys: must NOT have fewer than 1 items',
    )
  })

  it('are set, member by member, and null takes a setting back', async () => {
    await using gateway = await startFakeGateway()
    const peer = await gateway.connect()
    const patch = (params: object) => payloadOf(peer, 'sessions.patch', { key: 'work', ...params })
    expect(await patch({ label: 'The work', thinkingLevel: 'high' })).toMatchObject({
      ok: true,
      key: 'agent:main:work',
      entry: { label: 'The work', thinkingLevel: 'high' },
      resolved: { modelProvider: 'fake', model: 'fake-1' },
    })
    const { entry } = await patch({ thinkingLevel: null })
    expect(entry.label).toBe('The work')
    expect(entry).not.toHaveProperty('thinkingLevel')
    expect(await payloadOf(peer, 'sessions.resolve', { label: 'The work' })).toEqual({
      ok: true,
      key: 'agent:main:work',
    })
    for (const [params, message] of [
      [{ thinkingLevel: 'much' }, 'invalid thinkingLevel (use off|minimal|low|medium|high)'],
      [{ model: 'nobody/x' }, 'model not allowed: nobody/x'],
    ] as const)
      expect((await errorOf(peer, 'sessions.patch', { key: 'work', ...params })).message).toBe(message)
  })

  it('send nothing where their policy says so', async () => {
    await using gateway = await startFakeGateway()
    const peer = await gateway.connect()
    await peer.request('sessions.patch', { key: 'main', sendPolicy: 'deny' })
    const params = { sessionKey: 'main', message: 'hello', idempotencyKey: 'k1' }
    expect((await errorOf(peer, 'chat.send', params)).message).toBe('send blocked by session policy')
    await peer.request('sessions.patch', { key: 'main', sendPolicy: null })
    expect(await payloadOf(peer, 'chat.send', params)).toEqual({ runId: 'k1', status: 'started' })
  })

  it('begin anew under another id, and are removed, except the main one', async () => {
    await using gateway = await startFakeGateway()
    const peer = await gateway.connect()
    await spend(peer, 'work', 'hello')
    const { sessionId } = await payloadOf(peer, 'chat.history', { sessionKey: 'work' })
    const reset = await payloadOf(peer, 'sessions.reset', { key: 'work' })
    expect(reset).toMatchObject({ ok: true, key: 'agent:main:work' })
    expect(reset['entry'].sessionId).not.toBe(sessionId)
    expect(await payloadOf(peer, 'chat.history', { sessionKey: 'work' })).toMatchObject({
      sessionId: reset['entry'].sessionId,
      messages: [],
    })
    const removed = { ok: true, key: 'agent:main:work', archived: [] }
    expect(await payloadOf(peer, 'sessions.delete', { key: 'work' })).toEqual({ ...removed, deleted: true })
    expect(await payloadOf(peer, 'sessions.delete', { key: 'work' })).toEqual({ ...removed, deleted: false })
    expect((await errorOf(peer, 'sessions.resolve', { key: 'work' })).message).toBe('No session found: work')
    expect((await errorOf(peer, 'sessions.delete', { key: 'main' })).message).toBe(
      'Cannot delete the main session (agent:main:main).',
    )
  })

  it('take a note of somebody, which is heard as an answer and stands in the transcript', async () => {
    await using gateway = await startFakeGateway()
    const peer = await gateway.connect()
    const note = { sessionKey: 'main', message: 'remember this', label: 'Note' }
    expect((await errorOf(peer, 'chat.inject', note)).message).toBe('session not found')
    await spend(peer, 'main', 'hello')
    const { ok, messageId } = await payloadOf(peer, 'chat.inject', note)
    expect(ok).toBe(true)
    const { payload } = await peer.next(({ payload: { runId } = {} as Frame }) => runId?.startsWith('inject-'))
    expect(payload).toMatchObject({ runId: `inject-${messageId}`, seq: 0, state: 'final' })
    const { messages } = await payloadOf(peer, 'chat.history', { sessionKey: 'main', limit: 1 })
    expect(messages).toMatchObject([
      { role: 'assistant', content: [{ type: 'text', text: '[Note]\n\nremember this' }] },
    ])
    expect(payload.message.content).toEqual(messages[0].content)
  })
})

/** Jobs, wake and heartbeats over a real socket. */
import { describe, expect, it } from 'vitest'
import { type Frame, startGateway, type TestGateway } from '../support/gateway.ts'

const WORD = {
  name: 'a job',
  schedule: { kind: 'every', everyMs: 3_600_000 },
  sessionTarget: 'main',
  wakeMode: 'next-heartbeat',
  payload: { kind: 'systemEvent', text: 'look up' },
}
const TURN = { ...WORD, sessionTarget: 'isolated', payload: { kind: 'agentTurn', message: 'what is new?' } }
const FOUR = { minProtocol: 4, maxProtocol: 4 }

const cronEvent =
  (action: string) =>
  ({ event, payload }: Frame): boolean =>
    event === 'cron' && payload.action === action

async function add(peer: { request: Awaited<ReturnType<TestGateway['connect']>>['request'] }, job: object) {
  const answer = await peer.request('cron.add', job)
  expect(answer['error']).toBeUndefined()
  return answer['payload'] as Frame
}

describe('a job', () => {
  it('is carried out at its time, and asks the agent in a session of its own', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    const { id } = await add(peer, { ...TURN, schedule: { kind: 'at', at: new Date(Date.now() + 50).toISOString() } })
    await peer.next(cronEvent('started'))
    const { payload } = await peer.next(cronEvent('finished'))
    expect(payload).toMatchObject({ jobId: id, status: 'ok', sessionKey: `agent:main:cron:${id}` })
    expect(payload.summary).toContain('what is new?')
    await peer.next(cronEvent('removed'))
    const { payload: listed } = await peer.request('cron.list', { includeDisabled: true })
    expect(listed).toEqual({ jobs: [] })
    const { payload: status } = await peer.request('status')
    expect(status.queuedSystemEvents).toEqual([expect.stringContaining('what is new?')])
  })

  it('is answered for by protocol 4 once it is on disk, and told by pages', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect(FOUR)
    const { id } = await add(peer, { ...TURN, displayName: 'x', delivery: { mode: 'none' } })
    await add(peer, { ...WORD, name: 'another' })
    const ran = await peer.request('cron.run', { id })
    expect(ran['payload']).toMatchObject({ ok: true, ran: true, enqueued: true })
    await peer.next(cronEvent('finished'))
    const { runId } = ran['payload']
    const runs = await peer.request('cron.runs', { id, runId, limit: 10, offset: 0 })
    expect(runs['payload']).toMatchObject({ entries: [{ runId, status: 'ok' }], total: 1, hasMore: false })
    const page = await peer.request('cron.list', { limit: 1, offset: 1, sortBy: 'name', sortDir: 'desc' })
    expect(page['payload']).toMatchObject({ jobs: [{ name: 'a job' }], total: 2, hasMore: false, nextOffset: null })
    // Who reads one page after another is told whether the list is still the same.
    const revision = async (offset: number) =>
      (await peer.request('cron.list', { limit: 1, offset, sortBy: 'name', sortDir: 'desc' }))['payload']
        .snapshotRevision
    expect(page['payload'].snapshotRevision).toMatch(/^[0-9a-f]{64}$/)
    expect(await revision(0)).toBe(page['payload'].snapshotRevision)
    await peer.request('cron.update', { id, patch: { name: 'a job of another name' } })
    expect(await revision(0)).not.toBe(page['payload'].snapshotRevision)
    const got = await peer.request('cron.get', { id })
    expect(got['payload']).toMatchObject({ id, state: { lastStatus: 'ok', lastRunStatus: 'ok' } })
  })

  it('is changed in part, and keeps what is not named', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    const { id } = await add(peer, { ...TURN, payload: { ...TURN.payload, thinking: 'low' }, agentId: 'main' })
    const patch = { payload: { kind: 'agentTurn', timeoutSeconds: 5 }, delivery: { mode: 'none' }, agentId: null }
    const changed = await peer.request('cron.update', { jobId: id, patch })
    expect(changed['payload']).toMatchObject({
      payload: { kind: 'agentTurn', message: 'what is new?', thinking: 'low', timeoutSeconds: 5 },
      delivery: { mode: 'none' },
    })
    expect(changed['payload'].agentId).toBeUndefined()
    const wrong = await peer.request('cron.update', { id, patch: { sessionTarget: 'main' } })
    expect(wrong['error']).toMatchObject({ details: { code: 'INVALID_JOB' } })
    const unknown = await peer.request('cron.update', { id, patch: { payload: { kind: 'systemEvent' } } })
    expect(unknown['error']).toMatchObject({ details: { code: 'INVALID_JOB' } })
  })

  it.each([
    ['an agent that is none', { agentId: 'nobody' }, 'UNKNOWN_AGENT'],
    ['a model that is none', { payload: { ...TURN.payload, model: 'no/model' } }, 'INVALID_JOB'],
    ['a kind that is not served', { payload: { kind: 'command', argv: ['ls'] } }, 'INVALID_PARAMS'],
    ['words without end', { payload: { kind: 'agentTurn', message: 'x'.repeat(40_000) } }, 'INVALID_PARAMS'],
    ['a member that nobody knows', { cost: 5 }, 'INVALID_PARAMS'],
  ])('is refused with %s', async (_, changes, code) => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    const { error } = await peer.request('cron.add', { ...TURN, ...changes })
    expect(error.details.code).toBe(code)
  })

  it('is for administrators to change, and for readers to read', async () => {
    await using gateway = await startGateway()
    const admin = await gateway.connect()
    const { id } = await add(admin, WORD)
    const reader = await gateway.connect({ scopes: ['operator.read'] })
    for (const [method, params] of [
      ['cron.list', {}],
      ['cron.get', { id }],
      ['cron.status', {}],
      ['cron.runs', { id }],
      ['last-heartbeat', {}],
    ] as const)
      expect((await reader.request(method, params))['ok']).toBe(true)
    const writer = await gateway.connect({ scopes: ['operator.write'] })
    for (const [method, params] of [
      ['cron.add', WORD],
      ['cron.update', { id, patch: { enabled: false } }],
      ['cron.run', { id }],
      ['cron.remove', { id }],
      ['set-heartbeats', { enabled: false }],
    ] as const)
      expect((await writer.request(method, params))['error'].details.code).toBe('MISSING_SCOPE')
    expect((await reader.request('wake', { mode: 'now', text: 'x' }))['error'].details.code).toBe('MISSING_SCOPE')
    expect((await writer.request('wake', { mode: 'next-heartbeat', text: 'x' }))['payload']).toEqual({ ok: true })
  })
})

describe('a heartbeat', () => {
  it('comes by itself, is told as an event, and is the last one that is answered', async () => {
    // The model says what it is asked.
    const heartbeat = { every: '1s', prompt: 'HEARTBEAT_OK' }
    await using gateway = await startGateway({ config: { agents: { defaults: { heartbeat } } } })
    const peer = await gateway.connect()
    const { payload } = await peer.next(({ event }) => event === 'heartbeat')
    expect(payload).toMatchObject({ status: 'ok-token', sessionKey: 'agent:main:main', reason: 'interval' })
    const { payload: last } = await peer.request('last-heartbeat')
    expect(last).toMatchObject({ agentId: 'main' })
    const { payload: health } = await peer.request('health', { probe: true })
    expect(health.agents[0].heartbeat).toMatchObject({ enabled: true, every: '1s', everyMs: 1_000 })
    const { payload: history } = await peer.request('chat.history', { sessionKey: 'main' })
    expect(history.messages).toEqual([])
    expect(peer.frames.filter(({ event }) => event === 'chat' || event === 'agent')).toEqual([])
    await peer.request('set-heartbeats', { enabled: false })
    await peer.next(({ event, payload: told }) => event === 'heartbeat' && told.reason === 'disabled')
  })

  it('is what wakes an agent now, and tells it what was said', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    expect((await peer.request('wake', { mode: 'now', text: 'the post is here' }))['payload']).toEqual({ ok: true })
    const { payload } = await peer.next(({ event }) => event === 'heartbeat')
    expect(payload).toMatchObject({ status: 'sent', reason: 'wake' })
    const { payload: history } = await peer.request('chat.history', { sessionKey: 'main' })
    expect(JSON.stringify(history.messages[0])).toContain('the post is here')
  })
})

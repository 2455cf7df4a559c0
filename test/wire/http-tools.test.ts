/** Tools of agents, called over HTTP by whoever is no agent. */
import { describe, expect, it } from 'vitest'
import { type Frame, startGateway, type TestGateway, TOKEN } from '../support/gateway.ts'

const open = (tools: object = {}) =>
  startGateway({
    config: {
      agents: { list: [{ id: 'main' }, { id: 'writer' }] },
      tools: { agentToAgent: { enabled: true, allow: ['main', 'writer'] }, ...tools },
    },
  })

async function invoke(gateway: TestGateway, body: unknown, headers: object = {}) {
  const response = await fetch(new URL('/tools/invoke', gateway.url.replace(/^ws/, 'http')), {
    method: 'POST',
    headers: { authorization: `Bearer ${TOKEN}`, 'content-type': 'application/json', ...headers },
    body: JSON.stringify(body),
  })
  return { status: response.status, headers: response.headers, body: (await response.json()) as Frame }
}

describe('a tool over HTTP', () => {
  it('answers as it would its agent, also with what its text says', async () => {
    await using gateway = await open()
    const { status, body } = await invoke(gateway, { tool: 'agents_list', args: {} })
    expect([status, body.ok]).toEqual([200, true])
    expect(body.result.details).toMatchObject({ you: 'main', agents: [{ id: 'writer' }] })
    expect(JSON.parse(body.result.content[0].text)).toEqual(body.result.details)
    const asWriter = { tool: 'agents_list', sessionKey: 'agent:writer:notes' }
    expect((await invoke(gateway, asWriter)).body.result.details.you).toBe('writer')
    expect((await invoke(gateway, { tool: 'agents_list', agentId: 'writer' })).body.result.details.you).toBe('writer')
  })

  it('is about the session that is named', async () => {
    await using gateway = await open()
    const peer = await gateway.connect()
    await peer.request('chat.send', { sessionKey: 'notes', message: 'hello', idempotencyKey: 'k1' })
    await peer.request('agent.wait', { runId: 'k1' })
    const { body } = await invoke(gateway, { tool: 'session_status', args: {}, sessionKey: 'notes' })
    expect(body.result.details).toMatchObject({ sessionKey: 'agent:main:notes', entries: 2 })
  })

  it('tells of no run: nobody can look up the one that it would be', async () => {
    await using gateway = await open()
    const peer = await gateway.connect()
    await peer.request('chat.send', { sessionKey: 'main', message: 'hello', idempotencyKey: 'k1' })
    await peer.request('agent.wait', { runId: 'k1' })
    const { body } = await invoke(gateway, { tool: 'session_status', args: {} })
    expect(body.result.details.sessionKey).toBe('agent:main:main')
    for (const name of ['runId', 'chainId', 'hop', 'path']) expect(body.result.details).not.toHaveProperty(name)
  })

  it.each<[string, object, object, object, number, object]>([
    ['that is not there', {}, { tool: 'nope' }, {}, 404, { type: 'not_found', message: 'Tool not available: nope' }],
    ['that is denied', { deny: ['agents_*'] }, { tool: 'agents_list' }, {}, 404, { type: 'not_found' }],
    [
      'that speaks for a run',
      {},
      { tool: 'sessions_send', args: { agentId: 'writer', message: 'x' } },
      {},
      404,
      { type: 'not_found' },
    ],
    ['that begins a run', {}, { tool: 'sessions_spawn', args: { task: 'x' } }, {}, 404, { type: 'not_found' }],
    ['without a name', {}, {}, {}, 400, { type: 'invalid_request_error', message: 'tools.invoke requires body.tool' }],
    [
      'with arguments that do not fit',
      {},
      { tool: 'sessions_list', args: { limit: 'x' } },
      {},
      400,
      { type: 'tool_error' },
    ],
    [
      'with arguments that are none',
      {},
      { tool: 'sessions_list', args: [1] },
      {},
      400,
      { type: 'invalid_request_error' },
    ],
    ['that refuses', {}, { tool: 'session_status', args: { sessionKey: 'none' } }, {}, 400, { type: 'tool_error' }],
    [
      'of no agent',
      {},
      { tool: 'agents_list', agentId: 'nobody' },
      {},
      404,
      { type: 'not_found', code: 'UNKNOWN_AGENT' },
    ],
    [
      'without a credential',
      {},
      { tool: 'agents_list' },
      { authorization: '' },
      401,
      { type: 'unauthorized', message: 'Unauthorized' },
    ],
    ['from a foreign page', {}, { tool: 'agents_list' }, { origin: 'https://evil.example' }, 403, {}],
    ['in another type', {}, { tool: 'agents_list' }, { 'content-type': 'text/plain' }, 415, {}],
  ])('%s is not called', async (_, tools, body, headers, status, error) => {
    await using gateway = await open(tools)
    expect(await invoke(gateway, body, headers)).toMatchObject({ status, body: { ok: false, error } })
  })

  it('is for those who may write in every session, and each call is in the audit', async () => {
    await using gateway = await open()
    const peer = await gateway.connect()
    const make = async (changes: object) => ({
      authorization: `Bearer ${(await peer.request('tokens.create', { name: 'n', ...changes }))['payload'].token}`,
    })
    const call = { tool: 'sessions_list' }
    const forbidden = { status: 403, body: { ok: false, error: { type: 'forbidden', code: 'MISSING_SCOPE' } } }
    expect(await invoke(gateway, call, await make({ scopes: ['operator.read'] }))).toMatchObject(forbidden)
    const narrow = await make({ scopes: ['operator.write'], sessions: ['agent:main:*'] })
    expect(await invoke(gateway, call, narrow)).toMatchObject(forbidden)
    expect((await invoke(gateway, call, await make({ scopes: ['operator.write'] }))).status).toBe(200)
    const { payload } = await peer.request('audit.entries', { limit: 20 })
    expect(payload.entries).toContainEqual(
      expect.objectContaining({
        what: 'tools.call',
        ok: true,
        about: { name: 'sessions_list', sessionKey: 'agent:main:main' },
      }),
    )
  })
})

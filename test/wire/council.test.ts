/** What those see who look after agents that work together: chains, mailboxes, what it cost, and how each agent is. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { endOf, type Frame, type Peer, startGateway } from '../support/gateway.ts'
import { type ModelServer, startModelServer } from '../support/model-server.ts'

let model: ModelServer
beforeEach(async () => {
  model = await startModelServer()
})
afterEach(() => model.close())

const PRICES = { input: 1, output: 1_000_000, cacheRead: 1, cacheWrite: 1 }
const COUNCIL = ['main', 'researcher', 'writer']

function open(changes: { limits?: object; options?: Partial<Parameters<typeof startGateway>[0]> } = {}) {
  return startGateway({
    ...changes.options,
    config: {
      models: {
        providers: {
          fake: { baseUrl: `${model.url}/v1`, apiKey: 'none', models: [{ id: 'm', cost: PRICES }, { id: 'free' }] },
        },
      },
      agents: {
        defaults: { model: 'fake/m' },
        list: COUNCIL.map((id) => ({ id, ...(id === 'writer' && { model: 'fake/free' }) })),
      },
      tools: { agentToAgent: { enabled: true, allow: COUNCIL, limits: changes.limits ?? {} } },
    },
  })
}

let keys = 0
async function ask(peer: Peer, message: string, sessionKey = 'main'): Promise<string> {
  const idempotencyKey = `ask-${++keys}`
  await peer.request('chat.send', { sessionKey, message, idempotencyKey })
  await peer.next(endOf(idempotencyKey))
  return idempotencyKey
}

async function answer(peer: Peer, method: string, params: object = {}): Promise<Frame> {
  const { ok, payload, error } = await peer.request(method, params)
  if (!ok) throw new Error(`${method}: ${JSON.stringify(error)}`)
  return payload
}
const errorOf = async (peer: Peer, method: string, params: object): Promise<Frame> =>
  (await peer.request(method, params))['error']

const changes = (peer: Peer): Frame[] =>
  peer.frames.filter(({ event }) => event === 'agent.message').map(({ payload }) => payload)
const changed = (state: string, agentId?: string) => (frame: Frame) =>
  frame['event'] === 'agent.message' &&
  frame['payload'].state === state &&
  (agentId === undefined || frame['payload'].to.agentId === agentId)

const sendTo = (agentId: string, message: string) =>
  `[[tool=sessions_send args={"agentId":"${agentId}","message":"${message}"}]]`
const withOffsets = { caps: ['stream-offsets'] }

describe('a chain', () => {
  it('is shown as a tree: who sent to whom, what became of it, and what it cost', async () => {
    await using gateway = await open()
    const peer = await gateway.connect(withOffsets)
    const inner = '[[tool=sessions_send args={\\"agentId\\":\\"writer\\",\\"message\\":\\"write\\"}]]'
    const chainId = await ask(peer, `${sendTo('researcher', `dig ${inner}`)} ${sendTo('writer', 'hum')}`)
    const { tree, totals, nodes, truncated } = await answer(peer, 'chains.get', { chainId })
    expect([nodes, truncated, tree.length]).toEqual([4, false, 1])
    const [request] = tree
    expect(request).toMatchObject({
      runId: chainId,
      agentId: 'main',
      sessionKey: 'agent:main:main',
      hop: 0,
      path: ['main'],
      state: 'completed',
    })
    expect(request.messageId).toBeUndefined()
    const of = (agentId: string) => request.children.find((node: Frame) => node['agentId'] === agentId)
    expect(request.children).toHaveLength(2)
    expect(of('researcher')).toMatchObject({
      messageId: of('researcher').runId,
      from: { agentId: 'main', sessionKey: 'agent:main:main', runId: chainId },
      hop: 1,
      path: ['main', 'researcher'],
      state: 'replied',
      children: [{ agentId: 'writer', hop: 2, path: ['main', 'researcher', 'writer'], state: 'replied', children: [] }],
    })
    for (const { acceptedAt, startedAt, endedAt } of [request, of('researcher')]) {
      expect(startedAt).toBeGreaterThanOrEqual(acceptedAt)
      expect(endedAt).toBeGreaterThanOrEqual(startedAt)
    }
    const all = [request, ...request.children, ...of('researcher').children]
    const sum = (member: string) => all.reduce((total: number, node: Frame) => total + node[member], 0)
    expect(totals).toEqual({ messages: 3, hops: 2, tokens: sum('tokens'), cost: sum('cost') })
    expect(request.tokens).toBeGreaterThan(0)
    expect(request.cost).toBeGreaterThan(1)
    // The same by any of its runs.
    const [{ children }] = (await answer(peer, 'chains.get', { runId: of('writer').runId })).tree
    expect(children).toEqual(request.children)
  })

  it('has the turn that brought an answer back under the message that it answers', async () => {
    await using gateway = await open()
    const peer = await gateway.connect(withOffsets)
    const chainId = await ask(peer, '[[tool=sessions_spawn args={"agentId":"researcher","task":"dig"}]] [[text=gone]]')
    const { payload } = await peer.next(changed('answered'))
    const { tree } = await answer(peer, 'chains.get', { chainId })
    expect(tree[0].children).toMatchObject([
      { messageId: payload.messageId, children: [{ answers: payload.messageId, agentId: 'main', hop: 0 }] },
    ])
  })

  it('stands in the list, the newest first, once it has messages', async () => {
    await using gateway = await open()
    const peer = await gateway.connect()
    const first = await ask(peer, sendTo('researcher', 'a'))
    await ask(peer, 'alone')
    const second = await ask(peer, sendTo('writer', 'b'))
    const { chains } = await answer(peer, 'chains.list')
    expect(chains.map(({ chainId }: Frame) => chainId)).toEqual([second, first])
    expect(chains[1]).toMatchObject({
      agentId: 'main',
      sessionKey: 'agent:main:main',
      message: sendTo('researcher', 'a'),
      isOpen: false,
      totals: { messages: 1, hops: 1 },
    })
    expect((await answer(peer, 'chains.list', { limit: 1 })).chains).toHaveLength(1)
  })

  it('that nobody knows is refused, and so is none', async () => {
    await using gateway = await open()
    const peer = await gateway.connect()
    for (const params of [{ chainId: 'nothing' }, { runId: 'nothing' }])
      expect((await errorOf(peer, 'chains.get', params))['details']).toEqual({ code: 'UNKNOWN_CHAIN' })
    for (const params of [{}, { chainId: 'a', runId: 'b' }])
      expect((await errorOf(peer, 'chains.get', params))['message']).toContain('give chainId or runId')
  })
})

describe('a message between agents', () => {
  it('is told at each change of its state, once, in order', async () => {
    await using gateway = await open()
    const peer = await gateway.connect(withOffsets)
    const chainId = await ask(peer, sendTo('researcher', 'dig'))
    await peer.next(changed('answered'))
    const all = changes(peer)
    expect(all.map(({ state }) => state)).toEqual(['delivered', 'started', 'replied', 'answered'])
    const { messageId } = all[0]!
    for (const { state, ts, ...rest } of all) {
      expect(ts).toBeTypeOf('number')
      expect([state, rest]).toEqual([
        state,
        {
          messageId,
          chainId,
          from: { agentId: 'main', sessionKey: 'agent:main:main', runId: chainId },
          to: { agentId: 'researcher', sessionKey: 'agent:researcher:main' },
          hop: 1,
          path: ['main', 'researcher'],
        },
      ])
    }
  })

  it('that fails says so, and its sender is told', async () => {
    await using gateway = await open()
    const peer = await gateway.connect(withOffsets)
    await ask(peer, `${sendTo('researcher', '[[fail=401]]')} [[text=well]]`)
    await peer.next(changed('answered'))
    expect(changes(peer).map(({ state }) => state)).toEqual(['delivered', 'started', 'failed', 'answered'])
    const { messages } = await answer(peer, 'messages.list')
    expect(messages).toMatchObject([{ state: 'failed', heard: true, error: expect.stringContaining('401') }])
  })

  it('stands in the mailbox of its receiver, the newest first, and is looked at by its id', async () => {
    await using gateway = await open()
    const peer = await gateway.connect(withOffsets)
    const chainId = await ask(peer, sendTo('researcher', 'dig [[text=gold]]'))
    await ask(peer, '[[tool=sessions_send args={"agentId":"writer","message":"hum","timeoutSeconds":0}]] [[text=so]]')
    await peer.next(changed('replied', 'writer'))
    const list = async (params: object) =>
      (await answer(peer, 'messages.list', params)).messages.map(({ to, state, heard }: Frame) => [
        to.agentId,
        state,
        heard,
      ])
    expect(await list({})).toEqual([
      ['writer', 'replied', false],
      ['researcher', 'replied', true],
    ])
    expect(await list({ agentId: 'Researcher' })).toEqual([['researcher', 'replied', true]])
    expect(await list({ limit: 1 })).toEqual([['writer', 'replied', false]])
    expect(await list({ state: 'failed' })).toEqual([])
    const [{ messageId }] = (await answer(peer, 'messages.list', { agentId: 'researcher' })).messages
    expect(await answer(peer, 'messages.get', { messageId })).toMatchObject({
      messageId,
      chainId,
      reply: 'once',
      heard: true,
      message: 'dig [[text=gold]]',
      answer: 'gold',
    })
    expect((await errorOf(peer, 'messages.list', { agentId: 'nobody' }))['details'].code).toBe('UNKNOWN_AGENT')
    // A request of an outsider is no message.
    expect((await errorOf(peer, 'messages.get', { messageId: chainId }))['details'].code).toBe('UNKNOWN_MESSAGE')
  })
})

describe('usage', () => {
  const DAY = 86_400_000
  const NOON = Date.UTC(2026, 10, 20, 12)

  it('is counted by day in the shape of the wire, and says what has no price', async () => {
    let now = NOON
    await using gateway = await open({ options: { now: () => now } })
    const peer = await gateway.connect()
    await ask(peer, 'one')
    now += DAY
    await ask(peer, 'two')
    await ask(peer, 'free', 'agent:writer:main')
    const cost = await answer(peer, 'usage.cost', { days: 7 })
    expect([cost['updatedAt'], cost['days']]).toEqual([now, 8])
    expect(cost['daily'].map(({ date, missingCostEntries }: Frame) => [date, missingCostEntries])).toEqual([
      ['2026-11-20', 0],
      ['2026-11-21', 1],
    ])
    const [first, second] = cost['daily']
    expect(Object.keys(first).toSorted()).toEqual(
      'cacheRead cacheReadCost cacheWrite cacheWriteCost date input inputCost missingCostEntries output outputCost totalCost totalTokens'.split(
        ' ',
      ),
    )
    expect(first.outputCost).toBe(first.output)
    expect(first.totalCost).toBeCloseTo(first.inputCost + first.outputCost + first.cacheReadCost, 9)
    expect(cost['totals']).toMatchObject({
      totalTokens: first.totalTokens + second.totalTokens,
      totalCost: first.totalCost + second.totalCost,
      missingCostEntries: 1,
    })
    expect((await answer(peer, 'usage.cost', { days: 400 }))['daily']).toHaveLength(2)
    now += 3 * DAY
    expect((await answer(peer, 'usage.cost', { days: 3 }))['daily'].map(({ date }: Frame) => date)).toEqual([
      '2026-11-21',
    ])
    expect(await answer(peer, 'usage.status')).toEqual({ updatedAt: now, providers: [] })
  })

  it('is counted by agent, session, model, day and chain, and comes to the same', async () => {
    await using gateway = await open()
    const peer = await gateway.connect()
    const chainId = await ask(peer, `${sendTo('writer', 'hum [[chunks=50]]')} [[text=well]]`)
    const by = async (what: string) => {
      const { rows, totals } = await answer(peer, 'usage.by', { by: what })
      return { keys: rows.map(({ key }: Frame) => key).toSorted(), totals, rows }
    }
    const agent = await by('agent')
    expect(agent.keys).toEqual(['main', 'writer'])
    expect((await by('session')).keys).toEqual(['agent:main:main', 'agent:writer:main'])
    expect((await by('model')).keys).toEqual(['fake/free', 'fake/m'])
    expect((await by('day')).keys).toHaveLength(1)
    expect((await by('chain')).keys).toEqual([chainId])
    for (const what of ['session', 'model', 'day', 'chain'])
      expect([what, (await by(what)).totals]).toEqual([what, agent.totals])
    expect(agent.rows[0].totalTokens).toBeGreaterThan(agent.rows[1].totalTokens)
    expect((await answer(peer, 'usage.by', { by: 'agent', limit: 1 })).rows).toEqual([agent.rows[0]])
    expect((await errorOf(peer, 'usage.by', { by: 'moon' }))['details'].code).toBe('INVALID_PARAMS')
  })

  it('of sessions is told for each by day and model, also when the session is gone', async () => {
    let now = NOON
    await using gateway = await open({ options: { now: () => now } })
    const peer = await gateway.connect()
    await ask(peer, 'one')
    await ask(peer, 'two [[chunks=90]]', 'agent:writer:gone')
    await peer.request('sessions.patch', { key: 'main', label: 'the first' })
    await peer.request('sessions.delete', { key: 'agent:writer:gone' })
    now += DAY
    await ask(peer, 'three')
    const all = await answer(peer, 'sessions.usage', { includeContextWeight: true })
    expect([all['startDate'], all['endDate']]).toEqual(['2026-10-22', '2026-11-21'])
    const [gone, main] = all['sessions']
    expect(gone).toMatchObject({
      key: 'agent:writer:gone',
      agentId: 'writer',
      usage: { missingCostEntries: 1, models: [{ provider: 'fake', model: 'free', count: 1 }] },
      contextWeight: null,
    })
    expect(gone.sessionId).toBeUndefined()
    expect(main).toMatchObject({ key: 'agent:main:main', label: 'the first', usage: { missingCostEntries: 0 } })
    expect(main.usage.daily.map(({ date }: Frame) => date)).toEqual(['2026-11-20', '2026-11-21'])
    expect(main).toMatchObject({ contextWeight: null, contextTokens: expect.any(Number) })
    // In the words in which pages of the reference gateway look for them.
    expect(main.usage).toMatchObject({
      activityDates: ['2026-11-20', '2026-11-21'],
      dailyBreakdown: main.usage.daily,
      modelUsage: main.usage.models,
      firstActivity: NOON,
      lastActivity: NOON + DAY,
      durationMs: DAY,
      messageCounts: { total: 4, user: 2, assistant: 2, toolCalls: 0, toolResults: 0, errors: 0 },
      toolUsage: { totalCalls: 0, uniqueTools: 0, tools: [] },
    })
    const eachDay = { total: 2, user: 1, assistant: 1, toolCalls: 0, toolResults: 0, errors: 0 }
    expect(main.usage.dailyMessageCounts).toEqual([
      { date: '2026-11-20', ...eachDay },
      { date: '2026-11-21', ...eachDay },
    ])
    const said = { messages: 2, toolCalls: 0, errors: 0 }
    expect(all['aggregates']).toMatchObject({
      daily: [
        { date: '2026-11-20', ...said },
        { date: '2026-11-21', ...said, tokens: main.usage.daily[1].tokens },
      ],
      messages: main.usage.messageCounts,
      tools: main.usage.toolUsage,
      byProvider: [{ provider: 'fake', count: 3, totals: all['totals'] }],
      byChannel: [],
    })
    expect(all['totals'].totalTokens).toBe(gone.usage.totalTokens + main.usage.totalTokens)
    expect(all['aggregates'].byAgent.map(({ agentId }: Frame) => agentId).toSorted()).toEqual(['main', 'writer'])
    const keysOf = async (params: object) =>
      (await answer(peer, 'sessions.usage', params)).sessions.map(({ key }: Frame) => key)
    expect(await keysOf({ key: 'main' })).toEqual(['agent:main:main'])
    expect(await keysOf({ startDate: '2026-11-21' })).toEqual(['agent:main:main'])
    expect(await keysOf({ limit: 1 })).toEqual(['agent:writer:gone'])
    expect(await keysOf({ endDate: '2026-11-19' })).toEqual([])
  })

  it('of a session is told answer by answer, with what was said and which tools were called', async () => {
    await using gateway = await open()
    const peer = await gateway.connect()
    await ask(peer, 'one')
    await ask(peer, '[[tool=agents_list args={}]]')
    const { sessionId, points } = await answer(peer, 'sessions.usage.timeseries', { key: 'main' })
    const { messages, ...history } = await answer(peer, 'chat.history', { sessionKey: 'main' })
    expect(sessionId).toBe(history['sessionId'])
    const used = messages.flatMap(({ usage }: Frame) => usage?.totalTokens ?? [])
    expect(points.map(({ totalTokens }: Frame) => totalTokens)).toEqual(used)
    expect(points.at(-1).cumulativeTokens).toBe(used.reduce((sum: number, tokens: number) => sum + tokens, 0))
    const { logs } = await answer(peer, 'sessions.usage.logs', { key: 'main' })
    expect(logs.map(({ role }: Frame) => role)).toEqual(messages.map(({ role }: Frame) => role))
    expect(logs[0]).toEqual({ timestamp: messages[0].timestamp, role: 'user', content: 'one' })
    expect(logs[3].content).toContain('[Tool: agents_list]')
    expect(logs[4].content).toMatch(/^\[Tool: agents_list\]\n\[Tool Result\]\n/)
    expect((await answer(peer, 'sessions.usage.logs', { key: 'main', limit: 1 })).logs).toEqual(logs.slice(-1))
    const { aggregates } = await answer(peer, 'sessions.usage')
    expect(aggregates.tools).toEqual({ totalCalls: 1, uniqueTools: 1, tools: [{ name: 'agents_list', count: 1 }] })
    for (const what of ['timeseries', 'logs'])
      expect((await errorOf(peer, `sessions.usage.${what}`, { key: 'never' }))['details'].code).toBe(
        'SESSION_NOT_FOUND',
      )
  })

  it('is refused for days that are none, and for a time that ends before it begins', async () => {
    await using gateway = await open()
    const peer = await gateway.connect()
    for (const params of [
      { startDate: 'yesterday' },
      { startDate: '2026-02-30' },
      { endDate: '2026-13-01' },
      { startDate: '2026-11-02', endDate: '2026-11-01' },
    ])
      expect((await errorOf(peer, 'sessions.usage', params))['details'].code).toBe('INVALID_PARAMS')
    for (const params of [{ startDate: '2026-02-30' }, { startDate: '2026-11-02', endDate: '2026-11-01' }])
      expect((await errorOf(peer, 'usage.cost', params))['message']).toMatch(
        /^invalid usage.cost params: startDate is /,
      )
    expect((await errorOf(peer, 'usage.cost', { days: 0 }))['details'].code).toBe('INVALID_PARAMS')
  })
})

describe('agents.status', () => {
  it('says what each agent does, what it thinks with, and why its last run failed', async () => {
    await using gateway = await open()
    const peer = await gateway.connect()
    await ask(peer, '[[fail=401]]', 'agent:writer:main')
    for (const idempotencyKey of ['under way', 'next'])
      await peer.request('chat.send', { sessionKey: 'main', message: '[[chunks=100000 gap=50]]', idempotencyKey })
    await peer.next(({ event, payload }) => event === 'chat' && payload.state === 'delta')
    const { agents } = await answer(peer, 'agents.status')
    const idle = { reachable: true, running: 0, waiting: 0, standingInFor: [] }
    expect(agents).toEqual([
      { ...idle, id: 'main', name: 'Assistant', running: 1, waiting: 1, model: 'fake/m' },
      { ...idle, id: 'researcher', name: 'researcher', model: 'fake/m' },
      { ...idle, id: 'writer', name: 'writer', model: 'fake/free', lastError: expect.stringContaining('401') },
    ])
    await peer.request('chat.abort', { sessionKey: 'main' })
    await ask(peer, 'better', 'agent:writer:main')
    expect((await answer(peer, 'agents.status')).agents[2].lastError).toBeUndefined()
  })
})

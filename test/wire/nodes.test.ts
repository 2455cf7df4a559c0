/** Nodes and connectors over real sockets: who is asked, what is heard of it, and what becomes of it when somebody goes away. */
import { afterEach, describe, expect, it } from 'vitest'
import type { Config } from '../../src/config/config.ts'
import { createDevice, nonceOf } from '../support/device.ts'
import {
  CONNECT,
  endOf,
  type Frame,
  type Peer,
  startGateway,
  type TestGateway,
  type TestGatewayOptions,
} from '../support/gateway.ts'
import { connectAsNode } from '../support/node.ts'

const GRACE_MS = 300

let gateway: TestGateway | undefined
afterEach(async () => {
  await gateway?.stop()
  gateway = undefined
})

/** A gateway whose agent `writer`, called Möngke, is a connector. */
async function start(options: TestGatewayOptions & { node?: string; graceMs?: number } = {}): Promise<TestGateway> {
  const { node, graceMs = GRACE_MS, ...rest } = options
  const runtime = { type: 'connector', ...(node !== undefined && { node }) }
  gateway = await startGateway({
    config: { agents: { list: [{ id: 'main' }, { id: 'writer', name: 'Möngke', runtime }] } },
    alter: (config: Config) => ({
      ...config,
      agents: {
        ...config.agents,
        list: config.agents.list.map((agent) =>
          agent.connector ? { ...agent, connector: { ...agent.connector, graceMs } } : agent,
        ),
      },
    }),
    ...rest,
  })
  return gateway
}

const KEY = 'agent:writer:main'
/** Run programs on the machine of a node, or say which may be run there. */
const OF_THE_SYSTEM = ['system.run', 'system.which', 'system.execApprovals.get', 'system.execApprovals.set']
let turns = 0

/** Gives the writer a turn; the id of its run. */
async function send(operator: Peer, message = 'hello'): Promise<string> {
  const idempotencyKey = `turn-${++turns}`
  const { ok, error } = await operator.request('chat.send', { sessionKey: KEY, message, idempotencyKey })
  if (!ok) throw new Error(error.message)
  return idempotencyKey
}

const deltas = (peer: Peer, runId: string): string[] =>
  peer.frames
    .filter(({ event, payload }) => event === 'agent' && payload.runId === runId && payload.stream === 'assistant')
    .map(({ payload }) => payload.data.delta)

const textOf = ({ payload }: Frame): string => payload.message.content[0].text

describe('an agent that is a connector', () => {
  it('is answered by its node, piece by piece', async () => {
    const gateway = await start()
    const operator = await gateway.connect()
    const node = await connectAsNode(gateway, { name: 'writer' })
    const runId = await send(operator, 'what is new?')
    const { id, command, idempotencyKey, nodeId, params } = await node.asked()
    expect({ command, idempotencyKey, nodeId }).toEqual({
      command: 'agent.run',
      idempotencyKey: runId,
      nodeId: node.device.id,
    })
    expect(params).toMatchObject({
      ...{ runId, sessionKey: KEY, agentId: 'writer', message: 'what is new?', received: 0, thinking: 'off' },
      messages: [{ role: 'user', text: 'what is new?' }],
    })
    expect((await node.say(id, 0, 'Not '))['payload']).toEqual({ ok: true })
    await operator.next(({ event, payload }) => event === 'agent' && payload.data?.delta === 'Not ')
    await node.say(id, 4, 'much.')
    await node.finish(id, { usage: { input: 3, output: 2 }, model: 'a-mind-of-its-own' })
    const end = await operator.next(endOf(runId))
    expect([end['payload'].state, textOf(end)]).toEqual(['final', 'Not much.'])
    expect(deltas(operator, runId).join('')).toBe('Not much.')
    const { payload } = await operator.request('chat.history', { sessionKey: KEY })
    expect(payload.messages.at(-1)).toMatchObject({
      ...{ provider: 'connector', model: 'a-mind-of-its-own', api: 'connector' },
      usage: { input: 3, output: 2, totalTokens: 5 },
    })
  })

  it('goes on to the letter when its node drops and comes back, however far it says it had come', async () => {
    const gateway = await start()
    const operator = await gateway.connect()
    const device = createDevice()
    const first = await connectAsNode(gateway, { name: 'writer', device })
    const runId = await send(operator)
    const { id } = await first.asked()
    await first.say(id, 0, 'one two ')
    first.socket.terminate()
    const second = await connectAsNode(gateway, { name: 'writer', device })
    const again = await second.asked()
    expect([again.id, again.params['received']]).toEqual([id, 8])
    await second.say(id, 4, 'two three')
    await second.finish(id, { text: 'one two three.' })
    const end = await operator.next(endOf(runId))
    expect([end['payload'].state, textOf(end)]).toEqual(['final', 'one two three.'])
    expect(deltas(operator, runId).join('')).toBe('one two three.')
  })

  it('is taken over by the newer connection of a device whose old one is not known to be dead yet', async () => {
    const gateway = await start()
    const operator = await gateway.connect()
    const device = createDevice()
    const old = await connectAsNode(gateway, { name: 'writer', device })
    const runId = await send(operator)
    const { id } = await old.asked()
    await old.say(id, 0, 'one ')
    const fresh = await connectAsNode(gateway, { name: 'writer', device })
    expect((await fresh.asked()).params['received']).toBe(4)
    expect((await old.say(id, 4, 'other'))['payload']).toEqual({ ok: true, ignored: true })
    await fresh.finish(id, { text: 'one two' })
    expect(textOf(await operator.next(endOf(runId)))).toBe('one two')
  })

  it('ends in an error that says so when its node does not come back in time', async () => {
    const gateway = await start()
    const operator = await gateway.connect()
    const node = await connectAsNode(gateway, { name: 'writer' })
    const runId = await send(operator)
    const { id } = await node.asked()
    await node.say(id, 0, 'one ')
    node.socket.terminate()
    const { payload } = await operator.next(endOf(runId))
    expect([payload.state, payload.errorMessage]).toEqual([
      'error',
      'the connector of writer is not connected (waited 0.3 s)',
    ])
  })

  it('waits for a node that is not there yet', async () => {
    const gateway = await start({ graceMs: 20_000 })
    const operator = await gateway.connect()
    const runId = await send(operator)
    await operator.next(({ event, payload }) => event === 'agent' && payload.data?.phase === 'start')
    const node = await connectAsNode(gateway, { name: 'writer' })
    await node.finish((await node.asked()).id, { text: 'here I am' })
    expect(textOf(await operator.next(endOf(runId)))).toBe('here I am')
  })

  it('is stopped at its node when its run is stopped', async () => {
    const gateway = await start()
    const operator = await gateway.connect()
    const node = await connectAsNode(gateway, { name: 'writer' })
    const runId = await send(operator)
    const { id } = await node.asked()
    await node.say(id, 0, 'one ')
    await operator.request('chat.abort', { sessionKey: KEY, runId })
    const { payload } = await node.next(({ event }) => event === 'node.invoke.cancel')
    expect(payload.id).toBe(id)
    expect((await operator.next(endOf(runId)))['payload'].state).toBe('aborted')
    expect((await node.say(id, 4, 'two'))['payload']).toEqual({ ok: true, ignored: true })
    expect((await node.finish(id))['payload']).toEqual({ ok: true, ignored: true })
  })

  it('fails in the words of its node', async () => {
    const gateway = await start()
    const operator = await gateway.connect()
    const node = await connectAsNode(gateway, { name: 'writer' })
    const runId = await send(operator)
    const { id } = await node.asked()
    const error = { code: 'TIRED', message: 'not today' }
    await node.request('node.invoke.result', { id, nodeId: node.device.id, ok: false, error })
    const { payload } = await operator.next(endOf(runId))
    expect([payload.state, payload.errorMessage]).toEqual(['error', 'not today'])
  })

  it.each([
    ['leaves something out', 5, 'two', 'the connector of writer left out characters 4 to 5 of its answer'],
    ['says otherwise than before', 2, 'abc', 'the connector of writer told another text at 2 than before'],
  ])('ends in an error when its node %s, and the node is called off', async (_, offset, text, words) => {
    const gateway = await start()
    const operator = await gateway.connect()
    const node = await connectAsNode(gateway, { name: 'writer' })
    const runId = await send(operator)
    const { id } = await node.asked()
    await node.say(id, 0, 'one ')
    await node.say(id, offset, text)
    expect((await node.next(({ event }) => event === 'node.invoke.cancel'))['payload']).toEqual({ id, reason: words })
    expect((await operator.next(endOf(runId)))['payload'].errorMessage).toBe(words)
  })

  it('passes reasoning on', async () => {
    const gateway = await start()
    const operator = await gateway.connect()
    const node = await connectAsNode(gateway, { name: 'writer' })
    const runId = await send(operator)
    const { id } = await node.asked()
    await node.request('node.event', { event: 'agent.reasoning', payloadJSON: JSON.stringify({ id, text: 'hm' }) })
    await node.finish(id, { text: 'yes' })
    expect(textOf(await operator.next(endOf(runId)))).toBe('yes')
    const thoughts = operator.frames.filter(({ payload }) => payload?.runId === runId && payload.stream === 'reasoning')
    expect(thoughts.map(({ payload }) => payload.data.delta).join('')).toBe('hm')
  })
})

describe('which node is the agent', () => {
  it('is the first to come of those that fit; another takes over as long as nothing was heard', async () => {
    const gateway = await start({ graceMs: 20_000 })
    const operator = await gateway.connect()
    const first = await connectAsNode(gateway, { name: 'writer' })
    const standBy = await connectAsNode(gateway, { name: 'mongke' })
    const runId = await send(operator)
    const { id } = await first.asked()
    first.socket.terminate()
    const again = await standBy.asked()
    expect([again.id, again.params['received']]).toEqual([id, 0])
    await standBy.finish(id, { text: 'I stand in' })
    expect(textOf(await operator.next(endOf(runId)))).toBe('I stand in')
  })

  it('does not change once something was heard', async () => {
    const gateway = await start()
    const operator = await gateway.connect()
    const first = await connectAsNode(gateway, { name: 'writer' })
    const standBy = await connectAsNode(gateway, { name: 'writer' })
    const runId = await send(operator)
    const { id } = await first.asked()
    await first.say(id, 0, 'one')
    first.socket.terminate()
    expect((await operator.next(endOf(runId)))['payload'].state).toBe('error')
    expect(standBy.frames.filter(({ event }) => event === 'node.invoke.request')).toEqual([])
  })

  it.each([
    ['calls itself by the name and was paired under another', 'somebody', {}],
    ['has no cap for it', 'writer', { caps: [] }],
    ['does not declare the command', 'writer', { commands: ['canvas.navigate'] }],
  ])('is not one that %s', async (_, pairedAs, changes) => {
    const gateway = await start()
    const operator = await gateway.connect()
    const device = createDevice()
    const paired = await connectAsNode(gateway, { name: pairedAs, device })
    paired.socket.terminate()
    const impostor = await connectAsNode(gateway, { name: 'writer', device, ...changes })
    const runId = await send(operator)
    expect((await operator.next(endOf(runId)))['payload'].state).toBe('error')
    expect(impostor.frames.filter(({ event }) => event === 'node.invoke.request')).toEqual([])
  })

  it('is named in the configuration by its device or by the name it was paired under', async () => {
    const device = createDevice()
    for (const [node, name] of [
      [device.id, 'nobody'],
      ['The Scribe', 'the scribe'],
    ] as const) {
      const gateway = await start({ node })
      const operator = await gateway.connect()
      const wrong = await connectAsNode(gateway, { name: 'writer' })
      const right = await connectAsNode(gateway, { name, device })
      const runId = await send(operator)
      await right.finish((await right.asked()).id, { text: 'it is I' })
      expect(textOf(await operator.next(endOf(runId)))).toBe('it is I')
      expect(wrong.frames.filter(({ event }) => event === 'node.invoke.request')).toEqual([])
      await gateway.stop()
    }
  })

  it('is one that was renamed to it, also when somebody waits', async () => {
    const gateway = await start({ graceMs: 20_000 })
    const operator = await gateway.connect()
    const node = await connectAsNode(gateway, { name: 'somebody' })
    const runId = await send(operator)
    await operator.next(({ event, payload }) => event === 'agent' && payload.data?.phase === 'start')
    const renamed = await operator.request('node.rename', { nodeId: node.device.id, displayName: 'writer' })
    expect(renamed['payload']).toEqual({ nodeId: node.device.id, displayName: 'writer' })
    await node.finish((await node.asked()).id, { text: 'now I am' })
    expect(textOf(await operator.next(endOf(runId)))).toBe('now I am')
    const { payload } = await operator.request('node.list', {})
    expect(payload.nodes).toMatchObject([{ nodeId: node.device.id, displayName: 'writer', connected: true }])
  })

  it('is nothing that a device says of itself', async () => {
    const gateway = await start()
    const node = await connectAsNode(gateway, { name: 'somebody' })
    const params = { nodeId: node.device.id, displayName: 'writer' }
    const peer = await gateway.open()
    const challenge = await peer.next(({ event }) => event === 'connect.challenge')
    const scopes = ['operator.pairing']
    const device = node.device.prove(challenge['payload'].nonce, { scopes })
    const hello = await peer.request('connect', { ...CONNECT, scopes, device })
    expect(hello['ok']).toBe(true)
    expect((await peer.request('node.rename', params))['error'].message).toBe('unknown nodeId')
  })
})

describe('a node that speaks for a run that is not its own', () => {
  it('is refused, and shown out the third time; the run goes on', async () => {
    const gateway = await start()
    const operator = await gateway.connect()
    const node = await connectAsNode(gateway, { name: 'writer' })
    const other = await connectAsNode(gateway, { name: 'somebody else' })
    const runId = await send(operator)
    const { id } = await node.asked()
    const refusals = [
      await other.say(id, 0, 'lies'),
      await other.finish(id, { text: 'lies' }),
      await other.request('tools.invoke', { id, callId: 'c', name: 'agents_list', arguments: {} }),
    ]
    expect(refusals.map(({ error }) => error.details.code)).toEqual(['NOT_YOUR_RUN', 'NOT_YOUR_RUN', 'NOT_YOUR_RUN'])
    expect(await other.closed).toEqual({ code: 1008, reason: 'repeatedly spoke for a run that is not its own' })
    await node.finish(id, { text: 'the truth' })
    expect(textOf(await operator.next(endOf(runId)))).toBe('the truth')
  })

  it('is not one that is late with its own', async () => {
    const gateway = await start()
    const operator = await gateway.connect()
    const first = await connectAsNode(gateway, { name: 'writer' })
    const runId = await send(operator)
    const { id } = await first.asked()
    await first.finish(id, { text: 'done' })
    await operator.next(endOf(runId))
    for (let times = 0; times < 4; times++)
      expect((await first.say(id, 4, 'more'))['payload']).toEqual({ ok: true, ignored: true })
  })
})

describe('a node', () => {
  const invoke = (command: string, key: string, more: object = {}) => ({ command, idempotencyKey: key, ...more })

  it('does what it said it does, once for each key', async () => {
    const gateway = await start()
    const operator = await gateway.connect()
    const node = await connectAsNode(gateway, { caps: ['canvas'], commands: ['canvas.navigate'] })
    const nodeId = node.device.id
    const asked = { nodeId, ...invoke('canvas.navigate', 'k1', { params: { url: 'about:blank' } }) }
    const answers = [operator.request('node.invoke', asked), operator.request('node.invoke', asked)]
    const { payload } = await node.next(({ event }) => event === 'node.invoke.request')
    expect(payload).toEqual({
      id: expect.any(String),
      ...{
        nodeId,
        command: 'canvas.navigate',
        paramsJSON: '{"url":"about:blank"}',
        timeoutMs: 30_000,
        idempotencyKey: 'k1',
      },
    })
    await node.finish(payload.id, { done: true })
    const answer = { ok: true, nodeId, command: 'canvas.navigate', payload: { done: true }, payloadJSON: null }
    for (const one of [...answers, operator.request('node.invoke', asked)])
      expect((await one)['payload']).toEqual(answer)
    expect(node.frames.filter(({ event }) => event === 'node.invoke.request')).toHaveLength(1)
    const reused = await operator.request('node.invoke', { ...asked, params: {} })
    expect(reused['error'].details.code).toBe('IDEMPOTENCY_KEY_REUSED')
  })

  it('does nothing else, and runs programs for administrators only', async () => {
    const gateway = await start()
    const writer = await gateway.connect({ scopes: ['operator.write'] })
    const node = await connectAsNode(gateway, { commands: ['agent.run', ...OF_THE_SYSTEM] })
    const nodeId = node.device.id
    const refused = async (params: object) => (await writer.request('node.invoke', params))['error']
    expect(await refused({ nodeId, ...invoke('made.up', 'k1') })).toEqual({
      ...{ code: 'INVALID_REQUEST', message: 'node command not allowed' },
      details: { code: 'NODE_COMMAND_NOT_ALLOWED', reason: 'command not declared by node', command: 'made.up' },
    })
    expect((await refused({ nodeId, ...invoke('agent.run', 'k2') })).message).toBe('node command not allowed')
    for (const command of OF_THE_SYSTEM)
      expect((await refused({ nodeId, ...invoke(command, command) })).message).toBe('missing scope: operator.admin')
    expect(await refused({ nodeId: 'nope', ...invoke('made.up', 'k3') })).toEqual({
      ...{ code: 'UNAVAILABLE', message: 'node not connected', details: { code: 'NOT_CONNECTED' } },
    })
    const admin = await gateway.connect()
    const answer = admin.request('node.invoke', { nodeId, ...invoke('system.run', 'k4') })
    const { payload } = await node.next(({ event }) => event === 'node.invoke.request')
    await node.finish(payload.id)
    expect((await answer)['ok']).toBe(true)
    expect(node.frames.filter(({ event }) => event === 'node.invoke.request')).toHaveLength(1)
  })

  it('is asked what may be run on it, and told what may be, by administrators', async () => {
    const gateway = await start()
    const admin = await gateway.connect()
    const node = await connectAsNode(gateway, { commands: OF_THE_SYSTEM })
    const nodeId = node.device.id
    const file = { version: 1, defaults: { security: 'deny' } }
    for (const [method, params, command, asks] of [
      ['exec.approvals.node.get', { nodeId }, 'system.execApprovals.get', {}],
      [
        'exec.approvals.node.set',
        { nodeId, file, baseHash: 'h1' },
        'system.execApprovals.set',
        { file, baseHash: 'h1' },
      ],
    ] as const) {
      const answer = admin.request(method, params)
      const asked = await node.asked()
      expect([asked['command'], asked.params]).toEqual([command, asks])
      const kept = { path: '/x', exists: true, hash: 'h2', file }
      await node.finish(asked.id, kept)
      expect((await answer)['payload']).toEqual(kept)
    }
    const elsewhere = await admin.request('exec.approvals.node.get', { nodeId: 'nope' })
    expect(elsewhere['error'].details.code).toBe('NOT_CONNECTED')
    const bare = await connectAsNode(gateway, { commands: ['agent.run'] })
    const unable = await admin.request('exec.approvals.node.get', { nodeId: bare.device.id })
    expect(unable['error'].details.code).toBe('NODE_COMMAND_NOT_ALLOWED')
  })

  it('hears the sessions it took, once each, and no others, until it lets go of them', async () => {
    const gateway = await start()
    const operator = await gateway.connect()
    const node = await connectAsNode(gateway, { name: 'an ear' })
    const talk = async (sessionKey: string, key: string) => {
      await operator.request('chat.send', { sessionKey, message: 'hi', idempotencyKey: key })
      await operator.next(endOf(key))
    }
    const heard = (peer: Peer, key: string) =>
      peer.frames.filter(({ event, payload }) => ['agent', 'chat'].includes(event) && payload.runId === key)
    const subscribe = (event: string, sessionKey: string) =>
      node.request('node.event', { event, payload: { sessionKey } })
    expect((await subscribe('chat.subscribe', 'agent:main:mine'))['payload']).toEqual({ ok: true })
    await talk('agent:main:mine', 'r1')
    await talk('agent:main:other', 'r2')
    await subscribe('chat.unsubscribe', 'agent:main:mine')
    await talk('agent:main:mine', 'r3')
    await node.request('skills.bins', {})
    expect(heard(node, 'r1').map(({ payload }) => payload)).toEqual(heard(operator, 'r1').map(({ payload }) => payload))
    expect(heard(node, 'r1').length).toBeGreaterThan(2)
    expect([...heard(node, 'r2'), ...heard(node, 'r3')]).toEqual([])
    const numbers = node.frames.flatMap(({ seq }) => (seq === undefined ? [] : [seq]))
    expect(numbers).toEqual(numbers.map((_, index) => index + 1))
  })

  it('hears a bounded number of sessions', async () => {
    const gateway = await start()
    const node = await connectAsNode(gateway)
    const answers = await Promise.all(
      Array.from({ length: 65 }, (_, n) =>
        node.request('node.event', { event: 'chat.subscribe', payload: { sessionKey: `agent:main:s${n}` } }),
      ),
    )
    expect(answers.filter(({ ok }) => ok)).toHaveLength(64)
    expect(answers.at(-1)!['error'].details.code).toBe('TOO_MANY_SESSIONS')
  })

  it.each([
    [
      { event: 'agent.delta', payload: { id: 'x', text: 'a' } },
      "invalid agent.delta payload: must have required property 'offset'",
    ],
    [
      { event: 'agent.delta' },
      "invalid agent.delta payload: must have required property 'id'; must have required property 'text'",
    ],
    [{ event: 'agent.delta', payloadJSON: '{' }, 'invalid payloadJSON of agent.delta: not JSON'],
    [{ event: 'voice.transcript', payload: {} }, 'the node event voice.transcript is not served here'],
  ])('that says %j is told what is wrong', async (params, words) => {
    const gateway = await start()
    const node = await connectAsNode(gateway)
    expect((await node.request('node.event', params))['error'].message).toBe(words)
  })

  it('of protocol 4 is told in the words of protocol 4, and of no parameters where there are none', async () => {
    const gateway = await start()
    const operator = await gateway.connect()
    const device = createDevice()
    const node = await gateway.open()
    const proof = device.prove(await nonceOf(node), { role: 'node', scopes: [], version: 'v3' })
    const protocol = { minProtocol: 4, maxProtocol: 4, role: 'node', scopes: [], commands: ['camera.snap'] }
    await node.request('connect', { ...CONNECT, ...protocol, device: proof })
    const tell = (event: string, payload: object) => node.request('node.event', { event, payload })
    expect((await tell('chat.subscribe', { sessionKey: 'main' }))['payload']).toEqual({
      ok: true,
      event: 'chat.subscribe',
      handled: true,
    })
    const asked = operator.request('node.invoke', { nodeId: device.id, ...invoke('camera.snap', 'k1') })
    const { payload } = await node.next(({ event }) => event === 'node.invoke.request')
    expect(payload).toEqual({
      id: expect.any(String),
      ...{ nodeId: device.id, command: 'camera.snap', timeoutMs: 30_000, idempotencyKey: 'k1' },
    })
    const { id } = payload
    await node.request('node.invoke.result', { id, nodeId: device.id, ok: true })
    await asked
    expect((await tell('agent.delta', { id, offset: 0, text: 'late' }))['payload']).toEqual({
      ok: true,
      event: 'agent.delta',
      handled: false,
      reason: 'nobody waits for it',
    })
  })

  it('may say more pieces of an answer a second than anybody may make requests', async () => {
    const gateway = await start()
    const operator = await gateway.connect()
    const node = await connectAsNode(gateway, { name: 'writer' })
    const runId = await send(operator)
    const { id } = await node.asked()
    const pieces = Array.from({ length: 1_000 }, (_, n) => `${n % 10}`)
    const answers = await Promise.all(pieces.map((piece, offset) => node.say(id, offset, piece)))
    expect(answers.filter(({ ok }) => !ok)).toEqual([])
    await node.finish(id)
    expect(textOf(await operator.next(endOf(runId)))).toBe(pieces.join(''))
  })
})

describe('tools for a connector', () => {
  it('are called for its own run, once for each call', async () => {
    const gateway = await start()
    const operator = await gateway.connect()
    const node = await connectAsNode(gateway, { name: 'writer' })
    const runId = await send(operator)
    const { id } = await node.asked()
    const call = (more: object = {}) =>
      node.request('tools.invoke', { id, callId: 'c1', name: 'no_such_tool', arguments: {}, ...more })
    const { payload } = await call()
    expect(payload).toEqual({ text: expect.stringContaining('there is no tool "no_such_tool" here'), isError: true })
    expect((await call())['payload']).toEqual(payload)
    expect((await call({ name: 'another' }))['error'].details.code).toBe('IDEMPOTENCY_KEY_REUSED')
    await node.finish(id, { text: 'done' })
    await operator.next(endOf(runId))
    expect((await call({ callId: 'c2' }))['payload']).toEqual({
      text: 'this answer is over: nobody waits for it',
      isError: true,
    })
  })

  it('are told to whoever is asked again, so that nobody who does not know of them calls them twice', async () => {
    const gateway = await start()
    const operator = await gateway.connect()
    const device = createDevice()
    const first = await connectAsNode(gateway, { name: 'writer', device })
    const runId = await send(operator)
    const { id, params } = await first.asked()
    expect(params['called']).toBe(0)
    await first.request('tools.invoke', { id, callId: 'c1', name: 'no_such_tool', arguments: {} })
    first.socket.terminate()
    const second = await connectAsNode(gateway, { name: 'writer', device })
    expect((await second.asked()).params).toMatchObject({ received: 0, called: 1 })
    await second.finish(id, { text: 'I know' })
    expect(textOf(await operator.next(endOf(runId)))).toBe('I know')
  })
})

/** Nodes and connectors over real sockets: who is asked, what is heard of it, and what becomes of it when somebody goes away. */
import { afterEach, describe, expect, it } from 'vitest'
import type { Config } from '../../src/config/config.ts'
import { createDevice } from '../support/device.ts'
import { endOf, type Frame, type Peer, startGateway, type TestGateway, type TestGatewayOptions } from '../support/gateway.ts'
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
    const { connect } = await start()
    const operator = await gateway!.connect()
    void connect
    const node = await connectAsNode(gateway!, { name: 'writer' })
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
})

/** What the tools of the council answer, where that is easy to get wrong. */
import { describe, expect, it } from 'vitest'
import { createAgents } from '../../src/broker/agents.ts'
import { createChains } from '../../src/broker/chains.ts'
import type { MessageOutcome } from '../../src/broker/mailbox.ts'
import { createToolbox } from '../../src/broker/toolbox.ts'
import type { RunRecord } from '../../src/stores/store.ts'
import { type CouncilNeeds, councilTools } from '../../src/tools/council.ts'
import { quiet } from '../support/rooms.ts'

const agent = (id: string, name = id) => ({ id, name, models: [], thinking: 'off' as const, failoverFor: [] })
const NO_LIMITS = { hops: 0, visits: 0, messages: 0, fanOut: 0, tokens: 0, cost: 0 }
const RUN = { runId: 'r', agentId: 'main', sessionKey: 'agent:main:main' } as RunRecord

function open(changes: Partial<CouncilNeeds> = {}) {
  const agents = createAgents({
    agents: { list: [agent('main'), agent('researcher', 'Möngke'), agent('writer')], defaultId: 'main' },
    session: { mainKey: 'main' },
  } as never)
  const tools = councilTools({
    agents,
    chains: createChains({
      store: { chain: async () => [] },
      rules: { enabled: true, allow: { main: ['researcher'] }, limits: NO_LIMITS },
    }),
    mailbox: { send: async () => ({ messageId: 'm', sessionKey: 's' }), answer: async () => undefined },
    store: { sessions: async () => [], session: async () => undefined, history: async () => ({ messages: [] }) },
    sessions: { queue: () => ({ running: null, waiting: [] }) },
    activityOf: () => ({ reachable: true, running: 0, waiting: 0 }),
    now: () => 0,
    ...changes,
  })
  const toolbox = createToolbox({
    sources: [{ tools: () => tools }],
    tools: { deny: [], timeoutMs: 1_000 },
    log: quiet,
  })
  return (name: string, args: object) =>
    toolbox.call({ id: 'c', name, arguments: JSON.stringify(args) }, RUN, new AbortController().signal)
}

describe('sessions_send', () => {
  const answered = (outcome: Partial<MessageOutcome>) => ({
    mailbox: {
      send: async () => ({ messageId: 'm', sessionKey: 's' }),
      answer: async (): Promise<MessageOutcome> => ({ messageId: 'm', state: 'replied', text: 'gold', ...outcome }),
    },
  })

  it('tells what was answered, and that it was heard', async () => {
    const outcome = await open(answered({}))('sessions_send', { agentId: 'mongke', message: 'dig' })
    expect(JSON.parse(outcome.text)).toEqual({ status: 'replied', messageId: 'm', reply: 'gold' })
    expect(outcome).toMatchObject({ isError: false, heard: ['m'] })
  })

  it.each(['x', '"', '\n\u0001', '😀'])(
    'shortens an answer that is too long to JSON that can be read: %j',
    async (piece) => {
      const text = piece.repeat(300_000)
      const outcome = await open(answered({ text }))('sessions_send', { agentId: 'researcher', message: 'dig' })
      const { reply, truncated } = JSON.parse(outcome.text) as { reply: string; truncated: string }
      expect(text.startsWith(reply)).toBe(true)
      expect(reply.length).toBeGreaterThan(10_000)
      expect(truncated).toBe(`the answer has ${text.length} characters`)
    },
  )

  it('says that a failure is one, and that it was heard', async () => {
    const failed = answered({ state: 'failed', text: 'the model was away' })
    const outcome = await open(failed)('sessions_send', { agentId: 'researcher', message: 'dig' })
    expect(JSON.parse(outcome.text)).toEqual({ status: 'failed', messageId: 'm', error: 'the model was away' })
    expect(outcome).toMatchObject({ isError: true, heard: ['m'] })
  })

  it('says that the answer comes later when the time is up, and hears nothing', async () => {
    const outcome = await open()('sessions_send', { agentId: 'researcher', message: 'dig', timeoutSeconds: 1 })
    expect(JSON.parse(outcome.text)).toMatchObject({ status: 'pending', messageId: 'm' })
    expect(outcome.heard).toBeUndefined()
  })

  it.each([
    [{ agentId: 'writer', message: 'x' }, /main may not .*writer/],
    [{ agentId: 'nobody', message: 'x' }, /\(known: main, researcher\)/],
    [{ sessionKey: 'agent:nobody:main', message: 'x' }, /\(known: main, researcher\)/],
    [{ message: 'x' }, /give agentId or sessionKey/],
    [{ sessionKey: 'agent:writer:main', message: 'x' }, /main may not .*writer/],
  ])('is refused in words: %j', async (args, words) => {
    const outcome = await open()('sessions_send', args)
    expect([outcome.isError, outcome.text]).toEqual([true, expect.stringMatching(words)])
  })
})

describe('what an agent sees', () => {
  it('is nothing of those it may not send to', async () => {
    const session = (key: string, agentId: string) =>
      ({ key, agentId, settings: {}, updatedAt: 0, messageCount: 1 }) as never
    const sessions = async () => [session('agent:main:a', 'main'), session('agent:writer:b', 'writer')]
    const call = open({ store: { sessions, session: async () => undefined, history: async () => ({ messages: [] }) } })
    const list = JSON.parse((await call('sessions_list', {})).text) as { sessions: { sessionKey: string }[] }
    expect(list.sessions.map(({ sessionKey }) => sessionKey)).toEqual(['agent:main:a'])
    const { agents } = JSON.parse((await call('agents_list', {})).text) as { agents: { id: string }[] }
    expect(agents.map(({ id }) => id)).toEqual(['researcher'])
    expect(await call('sessions_list', { agentId: 'nobody' })).toMatchObject({
      isError: true,
      text: expect.stringContaining('(known: main, researcher)'),
    })
    for (const [name, args] of [
      ['sessions_history', { sessionKey: 'agent:writer:main' }],
      ['session_status', { sessionKey: ' AGENT:Writer:main' }],
    ] as const)
      expect(await call(name, args)).toMatchObject({ isError: true, text: expect.stringContaining('may not') })
  })
})

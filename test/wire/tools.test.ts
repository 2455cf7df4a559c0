/** Models that ask for tools, and agents that send each other messages, over real sockets and real HTTP. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openSqliteStore } from '../../src/stores/sqlite.ts'
import { endOf, type Frame, type Peer, startGateway, type TestGateway } from '../support/gateway.ts'
import { type ModelServer, startModelServer } from '../support/model-server.ts'

let model: ModelServer
let folder: string
beforeEach(async () => {
  model = await startModelServer()
  folder = mkdtempSync(join(tmpdir(), 'tools-'))
})
afterEach(async () => {
  await model.close()
  rmSync(folder, { recursive: true, force: true })
})

const APIS = ['openai-completions', 'anthropic-messages']
const COUNCIL = ['main', 'researcher', 'writer']

function open(api = 'openai-completions', changes: { tools?: object; agents?: object; store?: object } = {}) {
  const { store } = changes
  return startGateway({
    ...(store && { store: store as never }),
    config: {
      models: { providers: { fake: { baseUrl: `${model.url}/v1`, apiKey: 'none', api, models: [{ id: 'm' }] } } },
      agents: {
        defaults: { model: 'fake/m', ...changes.agents },
        list: COUNCIL.map((id) => ({ id, name: id === 'researcher' ? 'Möngke' : id })),
      },
      tools: { agentToAgent: { enabled: true, allow: COUNCIL }, ...changes.tools },
    },
  })
}

const pause = () => new Promise((resolve) => setTimeout(resolve, 20))

let keys = 0
async function ask(peer: Peer, message: string, changes: object = {}): Promise<Frame> {
  const idempotencyKey = `ask-${++keys}`
  const answer = await peer.request('chat.send', { sessionKey: 'main', message, idempotencyKey, ...changes })
  expect(answer['payload']).toEqual({ runId: idempotencyKey, status: 'started' })
  return peer.next(endOf(idempotencyKey))
}
const textOf = (end: Frame): string => end['payload'].message?.content[0]?.text
const historyOf = async (peer: Peer, sessionKey: string): Promise<Frame[]> =>
  (await peer.request('chat.history', { sessionKey }))['payload'].messages

describe.each(APIS)('a model that asks for tools (%s)', (api) => {
  it('is told what they say, and answers with it', async () => {
    await using gateway = await open(api)
    const peer = await gateway.connect()
    const end = await ask(peer, 'who is there? [[tool=agents_list]] [[before=2]] [[text=That is all.]]')
    expect(end['payload'].state).toBe('final')
    expect(textOf(end)).toMatch(/^word word \n\nresult: \{"you":"main","agents":\[.*"Möngke".*\]\}\nThat is all\.$/)
    expect(model.requests.map(({ tools }) => tools!.map(({ name }) => name))).toEqual([
      ['agents_list', 'session_status', 'sessions_history', 'sessions_list', 'sessions_send', 'sessions_spawn'],
      ['agents_list', 'session_status', 'sessions_history', 'sessions_list', 'sessions_send', 'sessions_spawn'],
    ])
  })

  it('leaves its calls and their results in the transcript, and they are told again in the next turn', async () => {
    await using gateway = await open(api)
    const peer = await gateway.connect()
    await ask(peer, 'status? [[tool=session_status args={}]] [[text=done]]')
    const [user, called, result, answer] = await historyOf(peer, 'main')
    expect(user!['role']).toBe('user')
    expect(called).toMatchObject({
      role: 'assistant',
      stopReason: 'toolUse',
      content: [{ type: 'toolCall', arguments: {} }],
    })
    expect(result).toMatchObject({
      role: 'toolResult',
      toolName: 'session_status',
      toolCallId: called!['content'][0].id,
      isError: false,
    })
    expect(answer).toMatchObject({ role: 'assistant', stopReason: 'stop' })
    // The fake provider refuses a context in which a call has no result, as real ones do.
    expect(textOf(await ask(peer, 'and now? [[text=as before]]'))).toBe('as before')
    expect(JSON.stringify(model.requests.at(-1)!.body)).toContain('session_status')
  })

  it('is told of its mistakes three times, then the run ends with an error that quotes the last one', async () => {
    await using gateway = await open(api)
    const peer = await gateway.connect()
    expect(textOf(await ask(peer, '[[tool=agents_list]] [[badargs=2]] [[text=at last]]'))).toContain('at last')
    const end = await ask(peer, '[[unknowntool=9]]')
    expect(end['payload']).toMatchObject({ state: 'error' })
    expect(end['payload'].errorMessage).toMatch(/wrongly 3 times.*no_such_tool.*known are: agents_list/)
  })

  it('sends another agent a message and is told its answer', async () => {
    await using gateway = await open(api)
    const peer = await gateway.connect()
    const end = await ask(
      peer,
      '[[tool=sessions_send args={"agentId":"mongke","message":"look it up [[text=found it]]"}]]',
    )
    expect(textOf(end)).toMatch(/"status":"replied".*"reply":"found it"/)
    const theirs = await historyOf(peer, 'agent:researcher:main')
    expect(theirs.map(({ content }) => content[0].text)).toEqual(['look it up [[text=found it]]', 'found it'])
    const systems = model.requests.map(({ body }) =>
      JSON.stringify(body).includes('The last message is from the agent main (main)'),
    )
    expect(systems).toEqual([false, true, false])
    // Heard in the run: no turn of its own brings it again.
    expect((await historyOf(peer, 'main')).filter(({ role }) => role === 'user')).toHaveLength(1)
  })
})

describe('messages between agents', () => {
  it('are answered later, as one turn, when the sender does not wait', async () => {
    await using gateway = await open()
    const peer = await gateway.connect()
    const end = await ask(
      peer,
      '[[tool=sessions_spawn args={"agentId":"researcher","task":"dig [[text=gold]]"}]] [[tool=sessions_spawn args={"agentId":"writer","task":"write [[text=prose]]"}]] [[text=both are at it]]',
    )
    expect(textOf(end)).toContain('both are at it')
    const users = async () =>
      (await historyOf(peer, 'main')).filter(({ role }) => role === 'user').map(({ content }) => content[0].text)
    while ((await users()).length < 3) await pause()
    expect((await users()).slice(1).toSorted()).toEqual([
      expect.stringMatching(/^\[Möngke \(researcher\) answers your message “dig .*”\]\n\ngold$/),
      expect.stringMatching(/^\[writer \(writer\) answers your message “write .*”\]\n\nprose$/),
    ])
  })

  it('are refused beyond a limit, naming the limit, the way, and the key', async () => {
    await using gateway = await open('openai-completions', {
      tools: { agentToAgent: { enabled: true, allow: COUNCIL, limits: { hops: 1 } } },
    })
    const peer = await gateway.connect()
    const inner = '[[tool=sessions_send args={\\"agentId\\":\\"writer\\",\\"message\\":\\"x\\"}]]'
    const end = await ask(peer, `[[tool=sessions_send args={"agentId":"researcher","message":"go on ${inner}"}]]`)
    expect(textOf(end)).toMatch(
      /no more than 1 messages may follow.*main → researcher → writer.*tools\.agentToAgent\.limits\.hops/,
    )
  })

  it('are refused where the configuration does not allow them', async () => {
    await using gateway = await open('openai-completions', {
      tools: { agentToAgent: { enabled: true, allow: { main: ['writer'] } } },
    })
    const peer = await gateway.connect()
    const end = await ask(peer, '[[tool=sessions_send args={"agentId":"researcher","message":"x"}]]')
    expect(textOf(end)).toMatch(/main may not .*researcher.*tools\.agentToAgent/)
  })

  it('do not wait for a session that waits for them', async () => {
    await using gateway = await open()
    const peer = await gateway.connect()
    const inner = '[[tool=sessions_send args={\\"agentId\\":\\"main\\",\\"message\\":\\"back\\"}]]'
    const end = await ask(peer, `[[tool=sessions_send args={"agentId":"researcher","message":"ask me ${inner}"}]]`)
    expect(textOf(end)).toMatch(/agent:main:main waits for this session/)
  })

  it('take no place from those they wait for', async () => {
    await using gateway = await open('openai-completions', { agents: { maxConcurrent: 1 } })
    const peer = await gateway.connect()
    const end = await ask(peer, '[[tool=sessions_send args={"agentId":"researcher","message":"[[text=room enough]]"}]]')
    expect(textOf(end)).toContain('room enough')
  })

  it('whose answer was on its way when the process ended are heard once, after the restart', async () => {
    const path = join(folder, 'kurultai.sqlite')
    const store = () => openSqliteStore({ path, warn() {} })
    const task = 'dig [[chunks=400 gap=20]]'
    {
      const kept = await store()
      await using gateway = await open('openai-completions', { store: kept })
      const peer = await gateway.connect()
      await ask(peer, `[[tool=sessions_spawn args={"agentId":"researcher","task":"${task}"}]] [[text=it is at it]]`)
    }
    {
      const kept = await store()
      await using gateway: TestGateway = await open('openai-completions', { store: kept })
      const peer = await gateway.connect()
      const heard = async () =>
        (await historyOf(peer, 'main')).filter(
          ({ role, content }) => role === 'user' && content[0].text.startsWith('[Your message'),
        )
      while ((await heard()).length === 0) await pause()
      expect((await heard()).map(({ content }) => content[0].text)).toEqual([
        expect.stringMatching(/^\[Your message “dig .*” to Möngke \(researcher\) failed\]\n\nthe gateway stopped/),
      ])
    }
  })
})

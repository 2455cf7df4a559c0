/** Models that call the tools of other programs, over the whole gateway. */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openLog } from '../../src/logging.ts'
import { endOf, type Frame, type Peer, startGateway, type TestGateway } from '../support/gateway.ts'
import { type ModelServer, startModelServer } from '../support/model-server.ts'
import { isAlive, startHttpToolServer, TOOL_SERVER } from '../support/tool-server.ts'

let model: ModelServer
let folder: string
beforeEach(async () => {
  model = await startModelServer()
  folder = mkdtempSync(join(tmpdir(), 'mcp-'))
})
afterEach(async () => {
  await model.close()
  rmSync(folder, { recursive: true, force: true })
})

const program = (...args: string[]) => ({
  command: process.execPath,
  args: ['--disable-warning=ExperimentalWarning', TOOL_SERVER, ...args],
})

const open = (servers: object, tools: object = {}) =>
  startGateway({
    config: {
      models: {
        providers: {
          fake: { baseUrl: `${model.url}/v1`, apiKey: 'none', api: 'openai-completions', models: [{ id: 'm' }] },
        },
      },
      agents: { defaults: { model: 'fake/m' }, list: [{ id: 'main' }, { id: 'writer' }] },
      tools,
      mcp: { servers },
      logging: { level: 'debug', file: join(folder, 'log') },
    },
    log: openLog({ level: 'debug', consoleLevel: 'silent', file: join(folder, 'log') }).log,
  })

const pause = () => new Promise((resolve) => setTimeout(resolve, 20))

let keys = 0
async function send(peer: Peer, message: string, sessionKey = 'main'): Promise<string> {
  const idempotencyKey = `ask-${++keys}`
  const answer = await peer.request('chat.send', { sessionKey, message, idempotencyKey })
  expect(answer['payload']).toEqual({ runId: idempotencyKey, status: 'started' })
  return idempotencyKey
}
async function ask(peer: Peer, message: string, sessionKey?: string): Promise<Frame> {
  return peer.next(endOf(await send(peer, message, sessionKey)))
}
const textOf = (end: Frame): string => end['payload'].message?.content[0]?.text

/** The tools that a model is told of, besides the gateway's own. */
async function offered(peer: Peer, sessionKey?: string): Promise<string[]> {
  await ask(peer, 'hello', sessionKey)
  return model.requests
    .at(-1)!
    .tools.map(({ name }) => name)
    .filter((name) => name.includes('__'))
}

/** Waits until a model is told of a tool. */
async function untilOffered(peer: Peer, tool: string): Promise<void> {
  while (!(await offered(peer)).includes(tool)) await pause()
}

const logged = (words: string) => {
  const file = join(folder, 'log')
  return existsSync(file)
    ? readFileSync(file, 'utf8')
        .split('\n')
        .filter((line) => line.includes(words))
    : []
}

async function untilLogged(words: string): Promise<string[]> {
  while (logged(words).length === 0) await pause()
  return logged(words)
}

/** The process of the fake server, by what it says of itself. */
async function idOf(file: string): Promise<number> {
  while (!existsSync(file)) await pause()
  return JSON.parse(readFileSync(file, 'utf8'))[0]
}

describe('a tool of another program', () => {
  it('is offered to the model, called by it, and answers it', async () => {
    await using gateway = await open({ fake: program('--ill') })
    const peer = await gateway.connect()
    await untilOffered(peer, 'fake__echo')
    expect(JSON.parse((await untilLogged('a tool server is ready'))[0]!)).toMatchObject({ server: 'fake', tools: 18 })
    const end = await ask(peer, '[[tool=fake__echo args={"text":"over there"}]] [[text=done]]')
    expect(textOf(end)).toBe('result: over there\ndone')
    expect(model.requests.at(-1)!.tools.find(({ name }) => name === 'fake__echo')).toEqual({
      name: 'fake__echo',
      description: 'Says it again.',
      parameters: { type: 'object', properties: { text: { type: 'string' } }, required: ['text'] },
    })
  })

  it('is not offered, and not there, when it is denied', async () => {
    await using gateway = await open({ fake: program(), other: program() }, { deny: ['fake__*'] })
    const peer = await gateway.connect()
    await untilOffered(peer, 'other__echo')
    while (logged('a tool server is ready').length < 2) await pause()
    expect((await offered(peer)).filter((name) => name.startsWith('fake'))).toEqual([])
    expect(textOf(await ask(peer, '[[tool=fake__echo args={"text":"x"}]]'))).toMatch(
      /there is no tool "fake__echo" here/,
    )
  })

  it('that is denied by a name that no tool has is warned of, with the one that is meant', async () => {
    await using _ = await open({}, { deny: ['session_send', 'sessions_history', 'fake__none', 'fly', 'x*'] })
    const warned = (await untilLogged('tools.deny names no tool')).map((line) => JSON.parse(line))
    expect(warned.map(({ name, meant }) => [name, meant])).toEqual([
      ['session_send', 'sessions_send'],
      ['fly', undefined],
    ])
  })

  it('is for the agents that the configuration names', async () => {
    await using gateway = await open({ fake: { ...program(), agents: ['writer'] } })
    const peer = await gateway.connect()
    await untilLogged('a tool server is ready')
    expect(await offered(peer, 'agent:writer:main')).toContain('fake__echo')
    expect(await offered(peer, 'agent:main:main')).toEqual([])
  })

  it('that has a new neighbour is offered with it from the next question on', async () => {
    await using gateway = await open({ fake: program() })
    const peer = await gateway.connect()
    await untilOffered(peer, 'fake__echo')
    await ask(peer, '[[tool=fake__change]]')
    await untilOffered(peer, 'fake__late')
  })

  it('that says very much is cut, and says so', async () => {
    await using gateway = await open({ fake: program() })
    const peer = await gateway.connect()
    await untilOffered(peer, 'fake__large')
    await ask(peer, '[[tool=fake__large args={"size":150000}]] [[text=done]]')
    const told = JSON.stringify(model.requests.at(-1)!.body)
    expect(told).toContain('[cut here: the result has 150000 characters]')
    expect(told.length).toBeLessThan(130_000)
  })

  it('that hangs is given up after its time, and its server told', async () => {
    await using gateway = await open({ fake: { ...program(), timeoutSeconds: 1 } })
    const peer = await gateway.connect()
    await untilOffered(peer, 'fake__hang')
    expect(textOf(await ask(peer, '[[tool=fake__hang]]'))).toBe('result: fake__hang did not answer within 1 s')
    expect(textOf(await ask(peer, '[[tool=fake__calls]]'))).toContain('notifications/cancelled')
  })

  it('over HTTP is like any other', async () => {
    await using server = await startHttpToolServer()
    await using gateway = await open({ web: { url: server.url, headers: { authorization: 'Bearer of-the-gateway' } } })
    const peer = await gateway.connect()
    await untilOffered(peer, 'web__echo')
    expect(textOf(await ask(peer, '[[tool=web__echo args={"text":"far away"}]]'))).toContain('result: far away')
    expect(server.requests[0]!.headers.authorization).toBe('Bearer of-the-gateway')
  })
})

describe('a tool server', () => {
  it('that is killed in the middle of a call is restarted; the model is told, and can call again', async () => {
    const file = join(folder, 'ids')
    await using gateway = await open({ fake: program('--stubborn', file) })
    const peer = await gateway.connect()
    await untilOffered(peer, 'fake__hang')
    const runId = await send(peer, '[[tool=fake__hang]] [[text=so be it]]')
    while (model.requests.at(-1)!.sent === 0) await pause()
    process.kill(await idOf(file), 'SIGKILL')
    expect(textOf(await peer.next(endOf(runId)))).toBe(
      'result: the tool server fake went away; it is being restarted\nso be it',
    )
    await untilOffered(peer, 'fake__echo')
    expect(textOf(await ask(peer, '[[tool=fake__echo args={"text":"again"}]]'))).toContain('result: again')
  })

  it('that cannot be started holds nothing up, and is in the log', async () => {
    await using gateway = await open({ gone: { command: 'no-such-program-here' }, fake: program() })
    const peer = await gateway.connect()
    await untilOffered(peer, 'fake__echo')
    const [first] = await untilLogged('a tool server is not there')
    expect(JSON.parse(first!)).toMatchObject({
      server: 'gone',
      why: expect.stringContaining('no-such-program-here could not'),
    })
  })

  it('that does not want to end is gone when the gateway is', async () => {
    const file = join(folder, 'ids')
    let id: number
    {
      await using _gateway: TestGateway = await open({ fake: program('--stubborn', file) })
      id = await idOf(file)
      expect(isAlive(id)).toBe(true)
    }
    expect(isAlive(id)).toBe(false)
  })
})

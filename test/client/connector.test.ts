/** Agents that are programs with this client: over real sockets, with a way to the gateway that can be cut. */
import { afterEach, describe, expect, it } from 'vitest'
import {
  type Client,
  connector,
  type Device,
  makeDevice,
  openDevice,
  type Run,
  ToolError,
} from '../../src/client/client.ts'
import type { Config } from '../../src/config/config.ts'
import { endOf, type Frame, type Peer, startGateway, type TestGateway, TOKEN } from '../support/gateway.ts'
import { startCutter } from './cutter.ts'

const ends: (() => unknown)[] = []
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end()
})

async function start(graceMs = 20_000): Promise<TestGateway> {
  const runtime = { type: 'connector' }
  const gateway = await startGateway({
    config: {
      agents: { list: [{ id: 'main' }, { id: 'writer', runtime }, { id: 'reader', runtime }] },
      tools: { agentToAgent: { enabled: true, allow: ['*'] } },
    },
    alter: (config: Config) => ({
      ...config,
      agents: {
        ...config.agents,
        list: config.agents.list.map((agent) => (agent.connector ? { ...agent, connector: { graceMs } } : agent)),
      },
    }),
  })
  ends.push(gateway.stop)
  return gateway
}

async function become(
  url: string,
  name: string,
  answer: (run: Run) => Promise<void>,
  device?: Device,
): Promise<Client> {
  const options = { url, token: TOKEN, name, answer, device: device ?? (await makeDevice()) }
  const client = await connector({ ...options, reconnect: { minMs: 5, maxMs: 20 } })
  ends.push(() => client.close())
  return client
}

async function ask(operator: Peer, message: string, agentId = 'writer'): Promise<Frame> {
  const idempotencyKey = `${agentId} ${message}`
  await operator.request('chat.send', { sessionKey: `agent:${agentId}:main`, message, idempotencyKey })
  return (await operator.next(endOf(idempotencyKey)))['payload']
}
const textOf = (payload: Frame) => payload['message'].content[0].text

describe('a device', () => {
  it('is the same when it is opened again', async () => {
    const device = await makeDevice()
    const again = await openDevice(device.secret)
    expect([again.id, again.publicKey]).toEqual([device.id, device.publicKey])
    expect((await makeDevice()).id).not.toBe(device.id)
  })
})

describe('a connector', () => {
  it('is its agent: it is told what was said, and says what it likes', async () => {
    const gateway = await start()
    const operator = await gateway.connect()
    const runs: Run[] = []
    await become(gateway.url, 'writer', async (run) => {
      runs.push(run)
      await run.think('hm')
      for (const word of ['You ', 'said ', run.message]) await run.say(word)
    })
    expect(textOf(await ask(operator, 'hello'))).toBe('You said hello')
    expect(textOf(await ask(operator, 'again'))).toBe('You said again')
    expect(runs[1]).toMatchObject({ agentId: 'writer', sessionKey: 'agent:writer:main', message: 'again' })
    expect(runs[1]!.history).toEqual([
      { role: 'user', text: 'hello' },
      { role: 'assistant', text: 'You said hello' },
      { role: 'user', text: 'again' },
    ])
  })

  it('says its answer to the letter over cuts, also what it says while it is cut off', async () => {
    const gateway = await start()
    await using cutter = await startCutter(gateway.port)
    const operator = await gateway.connect()
    const words = Array.from({ length: 60 }, (_, n) => `${n} 🐎 `)
    await become(cutter.url, 'writer', async (run) => {
      for (const [n, word] of words.entries()) {
        if (n % 20 === 10) cutter.cut()
        const said = run.say(word)
        if (n % 3 === 0) await said
        if (n % 20 === 15) await new Promise((resolve) => setTimeout(resolve, 40))
      }
    })
    const payload = await ask(operator, 'count')
    expect(payload['state']).toBe('final')
    expect(textOf(payload)).toBe(words.join(''))
  })

  it('says a text that no frame could hold', async () => {
    const gateway = await start()
    const operator = await gateway.connect()
    const long = 'a🐎'.repeat(200_000)
    await become(gateway.url, 'writer', (run) => run.say(long))
    expect(textOf(await ask(operator, 'long'))).toBe(long)
  }, 30_000)

  it('tells what went wrong with it as the error of the run', async () => {
    const gateway = await start()
    const operator = await gateway.connect()
    await become(gateway.url, 'writer', async () => {
      throw new Error('out of ink')
    })
    expect(await ask(operator, 'write')).toMatchObject({ state: 'error', errorMessage: 'out of ink' })
  })

  it('is told when nobody waits any more', async () => {
    const gateway = await start()
    const operator = await gateway.connect()
    const aborted = Promise.withResolvers<unknown>()
    await become(gateway.url, 'writer', async (run) => {
      run.signal.addEventListener('abort', () => aborted.resolve(run.signal.reason))
      await run.say('once ')
      await new Promise(() => {})
    })
    await operator.request('chat.send', { sessionKey: 'agent:writer:main', message: 'tell', idempotencyKey: 'k' })
    await operator.next(({ event, payload }) => event === 'agent' && payload.stream === 'assistant')
    await operator.request('chat.abort', { sessionKey: 'agent:writer:main', runId: 'k' })
    expect(await aborted.promise).toMatchObject({ name: 'ConnectionError', message: 'nobody waits for it any more' })
  })

  it('asks other agents, also while its connection is cut', async () => {
    const gateway = await start()
    await using cutter = await startCutter(gateway.port)
    const operator = await gateway.connect()
    let questions = 0
    await become(gateway.url, 'reader', async (run) => {
      questions += 1
      cutter.cut()
      await run.say(`I read ${run.message}`)
    })
    await become(cutter.url, 'writer', async (run) => run.say(`They say: ${await run.send('reader', 'a book')}`))
    expect(textOf(await ask(operator, 'ask'))).toBe('They say: I read a book')
    expect(questions).toBe(1)
  })

  it('hears what a tool says against it', async () => {
    const gateway = await start()
    const operator = await gateway.connect()
    const errors: unknown[] = []
    await become(gateway.url, 'writer', async (run) => {
      await run.call('no_such_tool', {}).catch((error) => errors.push(error))
      await run.say('well')
    })
    expect(textOf(await ask(operator, 'try'))).toBe('well')
    expect(errors[0]).toBeInstanceOf(ToolError)
  })

  it('ends with its client, and its runs with it', async () => {
    const gateway = await start(50)
    const operator = await gateway.connect()
    const started = Promise.withResolvers<Run>()
    const client = await become(gateway.url, 'writer', async (run) => {
      started.resolve(run)
      await new Promise(() => {})
    })
    const answer = ask(operator, 'take your time')
    const run = await started.promise
    client.close()
    expect(await answer).toMatchObject({ state: 'error', errorMessage: expect.stringContaining('is not connected') })
    expect(run.signal.aborted).toBe(true)
  })
})

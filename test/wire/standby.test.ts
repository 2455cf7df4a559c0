/** One agent stands in for another whose provider is away, and hands back when it is there again. */
import { expect, it } from 'vitest'
import { endOf, type Frame, type Peer, startGateway } from '../support/gateway.ts'
import { startModelServer } from '../support/model-server.ts'

const until = async (holds: () => Promise<boolean>) => {
  while (!(await holds())) await new Promise((resolve) => setTimeout(resolve, 100))
}

it('answers for an agent that misses its checks, as itself and in its words, until that one passes one', async () => {
  // A port that nobody listens on any more.
  const gone = await startModelServer()
  const port = Number(new URL(gone.url).port)
  await gone.close()
  await using there = await startModelServer()
  const provider = (url: string) => ({ baseUrl: `${url}/v1`, apiKey: 'none', models: [{ id: 'm' }] })
  await using gateway = await startGateway({
    config: {
      models: { providers: { away: provider(`http://127.0.0.1:${port}`), here: provider(there.url) } },
      agents: {
        defaults: { failover: { everySeconds: 1, misses: 3 } },
        list: [
          { id: 'main', name: 'Kublai', model: 'away/m' },
          { id: 'ops', name: 'Ögedei', model: 'here/m', failoverFor: ['main'] },
        ],
      },
    },
  })
  const peer = await gateway.connect()
  const statusOf = async (id: string): Promise<Frame> =>
    (await peer.request('agents.status'))['payload'].agents.find((agent: Frame) => agent['id'] === id)
  const ask = async (at: Peer, key: string): Promise<Frame> => {
    await at.request('chat.send', {
      sessionKey: 'main',
      message: `${key} [[text=at your service]]`,
      idempotencyKey: key,
    })
    return (await at.next(endOf(key)))['payload']
  }
  await until(async () => (await statusOf('main'))['replacedBy'] === 'ops')
  expect(await statusOf('ops')).toMatchObject({ standingInFor: ['main'] })
  expect(await ask(peer, 'k1')).toMatchObject({ state: 'final', message: { content: [{ text: 'at your service' }] } })
  expect(JSON.stringify(there.requests[0]!.body)).toContain(
    'You stand in for Kublai (main), who cannot be reached now.',
  )

  await using back = await startModelServer({ port })
  await until(async () => (await statusOf('main'))['replacedBy'] === undefined)
  expect(await ask(peer, 'k2')).toMatchObject({ state: 'final' })
  expect([there.requests.length, back.requests.length]).toEqual([1, 1])
})

it('answers for an agent whose provider listens and answers nothing but errors', async () => {
  await using ill = await startModelServer()
  await using well = await startModelServer()
  const provider = (url: string) => ({ baseUrl: `${url}/v1`, apiKey: 'none', models: [{ id: 'm' }] })
  await using gateway = await startGateway({
    config: {
      models: { providers: { ill: provider(ill.url), well: provider(well.url) } },
      agents: {
        defaults: { failover: { everySeconds: 1, misses: 1 } },
        list: [
          { id: 'main', model: 'ill/m' },
          { id: 'ops', model: 'well/m', failoverFor: ['main'] },
          { id: 'aide', model: 'well/m' },
        ],
      },
    },
  })
  const peer = await gateway.connect()
  let asked = 0
  await until(async () => {
    const idempotencyKey = `k${++asked}`
    await peer.request('chat.send', { sessionKey: 'main', message: `${asked} [[fail=401]]`, idempotencyKey })
    await peer.next(endOf(idempotencyKey))
    const { agents } = (await peer.request('agents.status'))['payload']
    const [main] = agents
    // Who is replaced is not there, whatever its provider listens to; who was never checked is.
    expect(main.reachable).toBe(main.replacedBy === undefined)
    expect(agents[2].reachable).toBe(true)
    return main.replacedBy === 'ops'
  })
})

/** What only a client of protocol 4 is told, in the words that its closed schemas know. */
import { expect, it } from 'vitest'
import { startGateway } from '../support/gateway.ts'

const V4 = { minProtocol: 4, maxProtocol: 4 }

it('whose a session is that was looked for', async () => {
  await using gateway = await startGateway()
  const [older, newer] = [await gateway.connect(), await gateway.connect(V4)]
  await older.request('sessions.patch', { key: 'work', label: 'w' })
  const found = { ok: true, key: 'agent:main:work' }
  for (const params of [{ key: 'work' }, { label: 'w' }]) {
    expect((await older.request('sessions.resolve', params))['payload']).toEqual(found)
    expect((await newer.request('sessions.resolve', params))['payload']).toEqual({ ...found, agentId: 'main' })
  }
})

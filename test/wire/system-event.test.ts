/** `system-event`: how a machine is, and what an agent is to know. */
import { describe, expect, it } from 'vitest'
import { endOf, type Frame, startGateway } from '../support/gateway.ts'
import { startModelServer } from '../support/model-server.ts'

describe('a machine that says how it is', () => {
  it('is listed with what its text and its members say, and everybody is told', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    const text = 'Node: laptop (10.0.0.2) · app 1.2 · last input 3s ago · mode ui · reason periodic'
    expect(await peer.request('system-event', { text, deviceId: 'dev-1', tags: ['a'] })).toMatchObject({ ok: true })
    const { payload, stateVersion } = await peer.next(({ event }) => event === 'presence')
    const listed = {
      ...{ host: 'laptop', ip: '10.0.0.2', version: '1.2', lastInputSeconds: 3, mode: 'ui', reason: 'periodic' },
      ...{ deviceId: 'dev-1', tags: ['a'], text, ts: expect.any(Number) },
    }
    expect(payload.presence[1]).toEqual(listed)
    const again = { text: 'Node: laptop', deviceId: 'dev-1', mode: 'idle' }
    await peer.request('system-event', again)
    const second = await peer.next(({ event }) => event === 'presence')
    expect(second['stateVersion'].presence).toBeGreaterThan(stateVersion.presence)
    const ofLaptop = (await peer.request('system-presence'))['payload'].filter(({ host }: Frame) => host === 'laptop')
    expect(ofLaptop).toEqual([{ ...listed, text: 'Node: laptop', mode: 'idle' }])
    // Nothing of it is for an agent.
    expect(await gateway.store.sessions({})).toEqual([])
  })
})

describe('a text that is about no machine', () => {
  it('is read by the default agent in its main session, with its next turn', async () => {
    await using model = await startModelServer()
    await using gateway = await startGateway({
      config: {
        models: { providers: { fake: { baseUrl: `${model.url}/v1`, apiKey: 'none', models: [{ id: 'm' }] } } },
        agents: { defaults: { model: 'fake/m' } },
      },
    })
    const peer = await gateway.connect()
    expect((await peer.request('system-event', { text: ' ' }))['error'].message).toBe('text required')
    expect(await peer.request('system-event', { text: 'the backup is done' })).toMatchObject({ ok: true })
    await peer.request('chat.send', { sessionKey: 'main', message: 'hello', idempotencyKey: 'k1' })
    await peer.next(endOf('k1'))
    const { payload } = await peer.request('chat.history', { sessionKey: 'main' })
    const said = payload.messages.map(({ role, content }: Frame) => [role, content[0].text])
    const words = /^System: \[[^\]]+Z\] the backup is done$/
    expect(said.slice(0, 2)).toEqual([
      ['user', expect.stringMatching(words)],
      ['user', 'hello'],
    ])
    expect(JSON.stringify(model.requests.at(-1))).toContain(said[0][1])
    // It is about nobody, so nobody is listed by it.
    expect((await peer.request('system-presence'))['payload']).toHaveLength(2)
  })
})

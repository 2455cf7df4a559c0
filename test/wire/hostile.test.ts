import { describe, expect, it } from 'vitest'
import { readCommand } from '../../src/methods/commands.ts'
import { endOf, openPeer, startGateway } from '../support/gateway.ts'

const V4 = { minProtocol: 4, maxProtocol: 4 }

describe('a text that is made to be slow or to be taken for another', () => {
  it.each([
    ['chat.send', { sessionKey: 'k\ud800', message: 'x', idempotencyKey: 'k' }],
    ['chat.send', { sessionKey: 'main', message: 'x', idempotencyKey: 'k\udfff' }],
    ['chat.send', { sessionKey: 'main', message: 'half \ud83d', idempotencyKey: 'k' }],
  ])('%s with half a surrogate pair is refused: on disk two of them would be one', async (method, params) => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    const { error } = await peer.request(method, params)
    expect(error.message).toContain('surrogate')
  })

  it('that holds whole pairs is taken, escaped or not', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    peer.send(
      '{"type":"req","id":"e","method":"chat.send","params":{"sessionKey":"main","message":"\\ud83d\\ude00 😀","idempotencyKey":"k"}}',
    )
    expect((await peer.next(({ id }) => id === 'e'))['ok']).toBe(true)
    expect((await peer.next(endOf('k')))['payload'].message.content[0].text).toContain('😀 😀')
  })

  it.each([
    ['agent.identity.get', { agentId: `a${'\u0301\u0316'.repeat(1000)}` }],
    ['agent.wait', { runId: 'r'.repeat(10_000) }],
    ['sessions.list', { search: 'Ä'.repeat(10_000) }],
    ['chat.inject', { sessionKey: 'main', message: 'x'.repeat(300_000) }],
  ])('is too long for %s', async (method, params) => {
    await using gateway = await startGateway()
    const peer = await gateway.connect(V4)
    expect((await peer.request(method, params))['error'].message).toContain('must NOT have more than')
  })

  it('is looked at for a command only where a command stands', () => {
    expect(readCommand(`a${'\u0301\u0316'.repeat(100_000)}`)).toBeUndefined()
    expect(readCommand(`\u200b/new ${'word '.repeat(1000)}`)).toEqual({
      kind: 'new',
      rest: 'word '.repeat(1000).trim(),
    })
    expect(readCommand('／config set')).toEqual({ kind: 'refused', name: 'config' })
    expect(readCommand('/home/user is a path')).toBeUndefined()
  })
})

describe('a frame', () => {
  it('may be as large as its protocol says once the peer is known, and no larger', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect(V4)
    const large = { sessionKey: 'main', message: 'x', idempotencyKey: 'k', intent: 'y'.repeat(4 * 1024 * 1024) }
    expect((await peer.request('chat.send', large))['ok']).toBe(true)
    peer.send({ type: 'req', id: 'z', method: 'chat.send', params: { ...large, intent: 'y'.repeat(9 * 1024 * 1024) } })
    expect((await peer.closed).code).toBe(1009)
  })

  it('of a peer that is not known is not even gathered', async () => {
    await using gateway = await startGateway()
    const peer = await openPeer(gateway.url)
    peer.send('x'.repeat(1024 * 1024))
    expect((await peer.closed).code).toBe(1009)
  })

  it('that is none is not sent back at length', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    peer.send({ type: 'req', id: 'x'.repeat(100_000), method: 'health' })
    const refused = await peer.next(({ type, ok }) => type === 'res' && ok === false)
    expect(refused['id']).toBe('invalid')
  })
})

describe('a peer without the scope to read', () => {
  it('is told nothing at the door of sessions, people or paths', async () => {
    await using gateway = await startGateway()
    const { hello } = await gateway.connect({ scopes: [] })
    expect(hello['payload'].snapshot).toMatchObject({ presence: [], health: { ok: true } })
    expect(JSON.stringify(hello['payload'])).not.toContain(gateway.stateDir)
  })

  it('cannot show everybody a name of any length', async () => {
    await using gateway = await startGateway()
    const client = {
      id: 'gateway-client',
      version: '1',
      platform: 'linux',
      mode: 'backend',
      displayName: 'x'.repeat(60_000),
    }
    await expect(gateway.connect({ client })).rejects.toThrow('at /client/displayName')
  })
})

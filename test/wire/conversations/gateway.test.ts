/** What the gateway says of itself, asked and unasked. */
import { join } from 'node:path'
import { afterEach, describe, expect, it } from 'vitest'
import { openLog } from '../../../src/logging.ts'
import { createDevice, nonceOf } from '../../support/device.ts'
import { CONNECT, endOf, type Frame, type Peer } from '../../support/gateway.ts'
import { startFakeGateway } from './fake-gateway.ts'

const named =
  (name: string) =>
  ({ event }: Frame): boolean =>
    event === name

const presenceOf = async (peer: Peer): Promise<Frame[]> => (await peer.request('system-presence', {}))['payload']

describe('health and status', () => {
  it('tell the agents and their newest sessions, also to those who ask with more than is known', async () => {
    await using gateway = await startFakeGateway()
    const peer = await gateway.connect()
    await peer.request('chat.send', { sessionKey: 'main', message: 'hello', idempotencyKey: 'k1' })
    await peer.next(endOf('k1'))
    const { payload: health } = await peer.request('health', { probe: true, more: 1 })
    const recent = [{ key: 'agent:main:main', updatedAt: expect.any(Number), age: expect.any(Number) }]
    expect(health).toMatchObject({
      ok: true,
      channels: {},
      channelOrder: [],
      channelLabels: {},
      defaultAgentId: 'main',
      agents: [{ agentId: 'main', isDefault: true, sessions: { count: 1, recent } }],
      sessions: { count: 1, recent },
    })
    const { payload: cached } = await peer.request('health')
    expect(cached).toEqual(health)
    const { payload: status } = await peer.request('status')
    expect(status).toMatchObject({
      heartbeat: { defaultAgentId: 'main' },
      channelSummary: [],
      sessions: {
        count: 1,
        defaults: { model: 'fake-1', contextTokens: 200_000 },
        recent: [{ agentId: 'main', key: 'agent:main:main', kind: 'direct', model: 'fake-1', systemSent: true }],
        byAgent: [{ agentId: 'main', count: 1 }],
      },
    })
    expect((await peer.request('last-heartbeat'))['payload']).toBeNull()
  })

  it('are told unasked, and a sign of life is', async () => {
    await using gateway = await startFakeGateway({
      config: { gateway: { tickIntervalMs: 1_000 } },
      healthMs: 100,
    })
    const peer = await gateway.connect({ scopes: ['operator.read'] })
    expect(peer.hello['payload'].policy.tickIntervalMs).toBe(1_000)
    const health = await peer.next(named('health'))
    expect(health).toMatchObject({
      payload: { ok: true, agents: [{ agentId: 'main' }] },
      stateVersion: { presence: expect.any(Number), health: expect.any(Number) },
    })
    expect((await peer.next(named('health')))['stateVersion'].health).toBeGreaterThan(health['stateVersion'].health)
    expect((await peer.next(named('tick')))['payload']).toEqual({ ts: expect.any(Number) })
  })
})

describe('who is present', () => {
  it('is told when somebody leaves, not when they come, and leaves out the command line', async () => {
    await using gateway = await startFakeGateway()
    const peer = await gateway.connect()
    const mac = { ...CONNECT.client, id: 'a-mac', displayName: 'Mac', mode: 'ui', instanceId: 'one' }
    const device = createDevice()
    const guest = await gateway.open()
    const nonce = await nonceOf(guest)
    const proof = device.prove(nonce, { clientId: 'a-mac' })
    // The mode is signed for, too.
    const refused = await guest.request('connect', { ...CONNECT, client: mac, device: proof })
    expect(refused['error'].message).toBe('device signature invalid')
    const other = await gateway.connect({ client: mac })
    await gateway.connect({ client: { ...CONNECT.client, id: 'cli', mode: 'cli' } })
    const here = await presenceOf(peer)
    expect(here.map(({ host, mode, reason }) => [mode === 'gateway' ? 'self' : host, mode, reason])).toEqual([
      ['self', 'gateway', 'self'],
      ['Mac', 'ui', 'connect'],
      ['gateway-client', 'backend', 'connect'],
    ])
    expect(here[1]).toMatchObject({ instanceId: 'one', roles: ['operator'], text: 'Node: Mac · mode ui' })
    expect(peer.frames.filter(named('presence'))).toEqual([])
    other.socket.close()
    const { payload, stateVersion } = await peer.next(named('presence'))
    expect(payload.presence.map(({ reason }: Frame) => reason)).toEqual(['self', 'disconnect', 'connect'])
    expect(stateVersion.presence).toBeGreaterThan(0)
    expect((await presenceOf(peer)).slice(1)).toEqual(payload.presence.slice(1))
  })
})

describe('the log', () => {
  const logs: { close(): void }[] = []
  afterEach(() => {
    for (const log of logs.splice(0)) log.close()
  })

  it('is read from its end, then from where one was, and from its start when it is another file', async () => {
    await using gateway = await startFakeGateway({
      alter(config) {
        const log = openLog({ level: 'info', consoleLevel: 'silent', file: config.logging.file })
        logs.push(log)
        for (let n = 0; n < 9; n++) log.log.info(`line ${n}`)
        return config
      },
    })
    const peer = await gateway.connect()
    const tail = async (params: object): Promise<Frame> => (await peer.request('logs.tail', params))['payload']
    const first = await tail({ limit: 5 })
    expect(first).toMatchObject({ file: join(gateway.stateDir, 'logs/gateway.log'), truncated: true, reset: false })
    expect(first['lines'].map((line: string) => JSON.parse(line).msg)).toEqual([4, 5, 6, 7, 8].map((n) => `line ${n}`))
    expect(first['cursor']).toBe(first['size'])
    const { cursor } = first
    expect(await tail({ cursor, limit: 5 })).toMatchObject({ cursor, lines: [], truncated: false, reset: false })
    const again = await tail({ cursor: cursor + 1 })
    expect(again).toMatchObject({ reset: true, cursor })
    expect(again['lines']).toHaveLength(9)
    expect((await peer.request('logs.tail', { limit: 5_001 }))['error'].message).toBe(
      'invalid logs.tail params: at /limit: must be <= 5000',
    )
  })
})

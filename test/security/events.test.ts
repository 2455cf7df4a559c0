/** Who hears what: every event from where it really comes, every set of scopes, both roles, tokens for some sessions, strangers. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { createHub } from '../../src/broker/hub.ts'
import type { Scope } from '../../src/contract/block.ts'
import { EVENTS, type EventName } from '../../src/contract/index.ts'
import { CONNECT, endOf, openPeer, type Peer, startGateway } from '../support/gateway.ts'
import { startModelServer } from '../support/model-server.ts'
import { connectAsNode } from '../support/node.ts'
import { listening, places } from '../support/rooms.ts'
import { connectDevice, connectNode, isWorth, makeToken, SCOPE_SETS, UNCOUNTED } from './ground.ts'

/** Who may hear each event, written down apart from the contract. */
const HEARD_WITH: Record<EventName, string> = {
  'connect.challenge': 'everyone',
  tick: 'everyone',
  shutdown: 'everyone',
  health: 'operator.read',
  presence: 'operator.read',
  agent: 'operator.read',
  chat: 'operator.read',
  'agent.message': 'operator.read',
  cron: 'operator.read',
  heartbeat: 'operator.read',
  'exec.approval.requested': 'operator.approvals',
  'exec.approval.resolved': 'operator.approvals',
  'device.pair.requested': 'operator.pairing',
  'device.pair.resolved': 'operator.pairing',
  'node.pair.requested': 'operator.pairing',
  'node.pair.resolved': 'operator.pairing',
  'sessions.changed': 'operator.read',
  'session.message': 'operator.read',
  'talk.mode': 'everyone',
  'voicewake.changed': 'everyone',
  'node.invoke.request': 'its node',
  'node.invoke.cancel': 'its node',
}
/** Whether an operator with these scopes may hear an event. */
const mayHear = (scopes: readonly string[], event: string): boolean => {
  const needed = HEARD_WITH[event as EventName]
  return needed === 'everyone' || (needed !== 'its node' && isWorth(scopes, needed))
}
const OF_SESSIONS = new Set(['agent', 'chat'])
/**
 * Sent to one connection at its beginning, each minute, when models send to each other, and to those who asked for it (in tests of
 * their own).
 */
const ELSEWHERE = new Set(['connect.challenge', 'health', 'agent.message', 'sessions.changed', 'session.message'])

const MINE = 'agent:main:mine'
const OTHER = 'agent:main:other'
const NARROW_SETS = SCOPE_SETS.filter((set) => !set.includes('operator.admin') && !set.includes('operator.pairing'))

describe('every event', () => {
  it('has its place in the table', () => {
    expect(Object.keys(HEARD_WITH).toSorted()).toEqual(Object.keys(EVENTS).toSorted())
  })

  it('from where it comes reaches those who may hear it and nobody else, over all sets of scopes', async () => {
    const gateway = await startGateway({
      config: { gateway: { limits: UNCOUNTED, tickIntervalMs: 1_000 } },
      drainMs: 100,
    })
    const ears: { who: string; peer: Peer; may(event: string, sessionKey: string): boolean }[] = []
    const operator = await gateway.connect()
    for (const scopes of SCOPE_SETS) {
      ears.push({
        who: `operator ${scopes}`,
        peer: await gateway.connect({ scopes }),
        may: (event) => mayHear(scopes, event),
      })
      ears.push({
        who: `node ${scopes}`,
        peer: await connectNode(gateway, scopes),
        may: (event) => HEARD_WITH[event as EventName] === 'everyone',
      })
    }
    for (const scopes of NARROW_SETS) {
      const token = await makeToken(operator, { scopes, sessions: [`${MINE}*`] })
      ears.push({
        who: `token for some sessions ${scopes}`,
        peer: await gateway.connect({ scopes: undefined, auth: { token } }),
        may: (event, sessionKey) =>
          HEARD_WITH[event as EventName] === 'everyone' ||
          (OF_SESSIONS.has(event) && sessionKey === MINE && isWorth(scopes, 'operator.read')) ||
          (event.startsWith('exec.approval.') && isWorth(scopes, 'operator.approvals')),
      })
    }
    // One that has not said who it is, and one that was told that it is not known.
    const stranger = await openPeer(gateway.url)
    const refused = await openPeer(gateway.url)
    await refused.next()
    await refused.request('connect', { ...CONNECT, auth: { token: 'not-the-token-0123456789' } })
    await refused.closed
    for (const [who, peer] of [
      ['stranger', stranger],
      ['refused', refused],
    ] as const)
      ears.push({ who, peer, may: () => false })

    const from = ears.map(({ peer }) => peer.frames.length)
    for (const sessionKey of [MINE, OTHER]) {
      const params = { sessionKey, message: `a word in ${sessionKey}`, idempotencyKey: sessionKey }
      await operator.request('chat.send', params)
      await operator.next(endOf(sessionKey))
    }
    // A request for an approval is about a session, too, and is yet no event of it.
    const asked = operator.request('exec.approval.request', { id: 'a1', command: 'ls', sessionKey: MINE })
    await operator.next(({ event }) => event === 'exec.approval.requested')
    await operator.request('exec.approval.resolve', { id: 'a1', decision: 'deny' })
    await asked
    await operator.request('cron.add', {
      ...{ name: 'a job', schedule: { kind: 'every', everyMs: 3_600_000 }, sessionTarget: 'main' },
      ...{ wakeMode: 'next-heartbeat', payload: { kind: 'systemEvent', text: 'a word' } },
    })
    await operator.request('wake', { mode: 'now', text: 'look up', sessionKey: OTHER })
    await operator.next(({ event }) => event === 'heartbeat')
    await connectDevice(gateway, { peer: { headers: { Host: 'gateway.example' } } })
    for (const [kind, ask] of [
      ['device', undefined],
      ['node', operator.request('node.pair.request', { nodeId: 'n1' })],
    ] as const) {
      await ask
      const { payload } = await operator.next(({ event }) => event === `${kind}.pair.requested`)
      await operator.request(`${kind}.pair.reject`, { requestId: payload.requestId })
      await operator.next(({ event }) => event === `${kind}.pair.resolved`)
    }
    // Asked for something, and called off: that one node hears it, and none of those that listen here.
    const target = await connectAsNode(gateway, { commands: ['wait'] })
    const command = { nodeId: target.device.id, command: 'wait', timeoutMs: 20, idempotencyKey: 'k' }
    await operator.request('node.invoke', command)
    for (const event of ['node.invoke.request', 'node.invoke.cancel'])
      await target.next((frame) => frame.event === event)
    await operator.request('talk.mode', { enabled: true })
    await operator.request('voicewake.set', { triggers: ['computer'] })
    ;(await gateway.connect()).socket.close()
    await operator.next(({ event }) => event === 'presence')
    await operator.next(({ event }) => event === 'tick')
    gateway.gateway.stop('the test is over')
    await Promise.all([operator, ...ears.map(({ peer }) => peer)].map(({ closed }) => closed))

    const driven = Object.keys(EVENTS).filter((event) => !ELSEWHERE.has(event))
    for (const [index, { who, peer, may }] of ears.entries()) {
      const heard = peer.frames
        .slice(from[index])
        .filter(({ type, event }) => type === 'event' && event !== 'health')
        .map(({ event, payload }) => `${event} ${OF_SESSIONS.has(event) ? payload.sessionKey : ''}`)
      const expected = driven.flatMap((event) =>
        (OF_SESSIONS.has(event) ? [MINE, OTHER] : ['']).flatMap((key) => (may(event, key) ? [`${event} ${key}`] : [])),
      )
      expect([who, [...new Set(heard)].toSorted()]).toEqual([who, expected.toSorted()])
      const mayReadOther = may('chat', OTHER)
      expect([who, JSON.stringify(peer.frames).includes(`a word in ${OTHER}`)]).toEqual([who, mayReadOther])
    }
    await gateway.stop()
  })

  it('of messages between agents reaches those who may read, know offsets, and are held to no session', async () => {
    await using model = await startModelServer()
    await using gateway = await startGateway({
      config: {
        gateway: { limits: UNCOUNTED },
        models: { providers: { fake: { baseUrl: `${model.url}/v1`, apiKey: 'none', models: [{ id: 'm' }] } } },
        agents: { defaults: { model: 'fake/m' }, list: [{ id: 'main' }, { id: 'other' }] },
        tools: { agentToAgent: { enabled: true, allow: ['*'] } },
      },
    })
    const caps = ['stream-offsets']
    const operator = await gateway.connect({ caps })
    const ears: { who: string; peer: Peer; may: boolean }[] = []
    for (const scopes of SCOPE_SETS) {
      const may = isWorth(scopes, 'operator.read')
      ears.push({ who: `operator ${scopes}`, peer: await gateway.connect({ scopes, caps }), may })
      ears.push({ who: `operator without offsets ${scopes}`, peer: await gateway.connect({ scopes }), may: false })
      ears.push({ who: `node ${scopes}`, peer: await connectNode(gateway, scopes), may: false })
    }
    for (const sessions of [['agent:other:*'], ['agent:main:*'], ['agent:main:mine*', 'agent:other:main']]) {
      const token = await makeToken(operator, { scopes: ['operator.read'], sessions })
      const peer = await gateway.connect({ scopes: undefined, caps, auth: { token } })
      ears.push({ who: `token for ${sessions}`, peer, may: false })
    }
    await operator.request('chat.send', {
      sessionKey: MINE,
      message: '[[tool=sessions_send args={"agentId":"other","message":"hello"}]]',
      idempotencyKey: 'a',
    })
    await operator.next(({ event, payload }) => event === 'agent.message' && payload.state === 'answered')
    // Whatever was said before an answer to them has come to them.
    for (const { who, peer, may } of ears) {
      await peer.request('health')
      const states = peer.frames.filter(({ event }) => event === 'agent.message').map(({ payload }) => payload.state)
      expect([who, states]).toEqual([who, may ? ['delivered', 'started', 'replied', 'answered'] : []])
    }
  })

  it('of jobs and heartbeats reaches those who may read, of the sessions that they reach, and no word of others', async () => {
    const heartbeat = { prompt: 'what is new?' }
    await using gateway = await startGateway({
      config: {
        gateway: { limits: UNCOUNTED },
        agents: { defaults: { heartbeat }, list: [{ id: 'main' }, { id: 'other' }] },
      },
    })
    const operator = await gateway.connect()
    const ears: { who: string; peer: Peer; heard: string[] }[] = []
    const ofMain = ['cron of main', 'heartbeat of main']
    const ofOther = ['cron of other', 'heartbeat of other']
    for (const scopes of SCOPE_SETS) {
      const heard = isWorth(scopes, 'operator.read') ? [...ofMain, ...ofOther] : []
      ears.push({ who: `operator ${scopes}`, peer: await gateway.connect({ scopes }), heard })
      ears.push({ who: `node ${scopes}`, peer: await connectNode(gateway, scopes), heard: [] })
    }
    for (const [sessions, heard] of [
      [['agent:main:*'], ofMain],
      [['agent:other:*'], ofOther],
      [['agent:main:cron:*'], []],
      [['agent:main:main-not', MINE], []],
    ] as const) {
      const token = await makeToken(operator, { scopes: ['operator.read'], sessions: [...sessions] })
      ears.push({
        who: `token for ${sessions}`,
        peer: await gateway.connect({ scopes: undefined, auth: { token } }),
        heard: [...heard],
      })
    }
    for (const agentId of ['main', 'other']) {
      const { payload: job } = await operator.request('cron.add', {
        ...{ name: 'a job', agentId, schedule: { kind: 'every', everyMs: 3_600_000 }, sessionTarget: 'main' },
        ...{ wakeMode: 'now', payload: { kind: 'systemEvent', text: `the word of ${agentId}` } },
      })
      await operator.request('cron.run', { id: job.id })
      await operator.next(({ event, payload }) => event === 'heartbeat' && payload.agentId === agentId)
      await operator.request('cron.remove', { id: job.id })
    }
    const jobs = new Map(
      operator.frames
        .filter(({ event, payload }) => event === 'cron' && payload.summary !== undefined)
        .map(({ payload }) => [payload.jobId, String(payload.summary).split(' ').at(-1)]),
    )
    expect([...jobs.values()]).toEqual(['main', 'other'])
    for (const { who, peer, heard } of ears) {
      await peer.request('health')
      const about = peer.frames
        .filter(({ event }) => event === 'cron' || event === 'heartbeat')
        .map(({ event, payload }) => `${event} of ${payload.agentId ?? jobs.get(payload.jobId)}`)
      expect([who, [...new Set(about)].toSorted()]).toEqual([who, heard.toSorted()])
      const words = ['main', 'other'].filter((id) => JSON.stringify(peer.frames).includes(`the word of ${id}`))
      expect([who, words]).toEqual([who, ['main', 'other'].filter((id) => heard.includes(`cron of ${id}`))])
    }
  })

  it('of what becomes of sessions reaches those who asked for it, of the sessions that they reach', async () => {
    await using gateway = await startGateway({ config: { gateway: { limits: UNCOUNTED } } })
    const operator = await gateway.connect()
    const ears: { who: string; peer: Peer; heard: string[] }[] = []
    for (const scopes of SCOPE_SETS) {
      const isReader = isWorth(scopes, 'operator.read')
      const peer = await gateway.connect({ scopes })
      const asked = await peer.request('sessions.subscribe')
      await peer.request('sessions.messages.subscribe', { key: OTHER })
      expect([scopes, asked['ok']]).toEqual([scopes, isReader])
      const heard = isReader
        ? [`sessions.changed ${MINE}`, `sessions.changed ${OTHER}`, `session.message ${OTHER}`]
        : []
      ears.push({ who: `operator ${scopes}`, peer, heard })
      ears.push({ who: `one who did not ask ${scopes}`, peer: await gateway.connect({ scopes }), heard: [] })
      ears.push({ who: `node ${scopes}`, peer: await connectNode(gateway, scopes), heard: [] })
    }
    const token = await makeToken(operator, { scopes: ['operator.read'], sessions: [`${MINE}*`] })
    const narrow = await gateway.connect({ scopes: undefined, auth: { token } })
    await narrow.request('sessions.subscribe')
    const refused = await narrow.request('sessions.messages.subscribe', { key: OTHER })
    expect(refused['error'].details.code).toBe('SESSION_NOT_FOUND')
    ears.push({ who: 'token for some sessions', peer: narrow, heard: [`sessions.changed ${MINE}`] })
    for (const sessionKey of [MINE, OTHER]) {
      await operator.request('chat.send', { sessionKey, message: 'hello', idempotencyKey: sessionKey })
      await operator.next(endOf(sessionKey))
    }
    await operator.request('sessions.reset', { key: MINE })
    for (const { who, peer, heard } of ears) {
      await peer.request('health')
      const about = peer.frames
        .filter(({ event }) => event === 'sessions.changed' || event === 'session.message')
        .map(({ event, payload }) => `${event} ${payload.sessionKey}`)
      expect([who, [...new Set(about)].toSorted()]).toEqual([who, heard.toSorted()])
    }
  })

  describe('in the hub', () => {
    beforeEach(() => void vi.useFakeTimers())
    afterEach(() => void vi.useRealTimers())

    it('is held to scope, role and session at the moment it is sent, not at the moment somebody came', () => {
      for (const name of Object.keys(EVENTS) as EventName[])
        for (const scopes of SCOPE_SETS)
          for (const role of ['operator', 'node'] as const)
            for (const sessions of [undefined, [`${MINE}*`]])
              for (const sessionKey of [undefined, MINE, OTHER]) {
                const held = new Set<Scope>(scopes)
                const peer = listening({ role, scopes: held, sessions })
                const hub = createHub({ onSlow() {}, replay: places() })
                hub.join(peer)
                const said = () => {
                  const before = peer.heard.length
                  hub.publish(name, () => '{}', sessionKey === undefined ? {} : { sessionKey })
                  return peer.heard.length - before
                }
                const needed = HEARD_WITH[name]
                const reaches = sessions === undefined || sessionKey === MINE
                const may = (now: readonly string[]) =>
                  needed === 'everyone' || (role === 'operator' && reaches && mayHear(now, name))
                expect([name, role, scopes, sessions, sessionKey, said()]).toEqual([
                  ...[name, role, scopes, sessions, sessionKey],
                  may(scopes) ? 1 : 0,
                ])
                held.clear()
                expect([name, role, scopes, 'without scopes', said()]).toEqual([
                  ...[name, role, scopes, 'without scopes'],
                  may([]) ? 1 : 0,
                ])
              }
    })
  })
})

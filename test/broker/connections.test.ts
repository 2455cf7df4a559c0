import { describe, expect, it, vi } from 'vitest'
import type { Admitted, Authenticator, PeerFacts } from '../../src/auth/authenticate.ts'
import { type ConnectionsNeeds, createConnections } from '../../src/broker/connections.ts'
import type { Caller, Dispatch } from '../../src/broker/dispatch.ts'
import { createHub } from '../../src/broker/hub.ts'
import { createPresence } from '../../src/broker/presence.ts'
import { Closes } from '../../src/contract/closes.ts'
import { CONNECT } from '../support/gateway.ts'
import { listening, places, quiet, settled } from '../support/rooms.ts'

const facts: PeerFacts = {
  address: '127.0.0.1',
  clientAddress: '127.0.0.1',
  local: true,
  origin: 'absent',
  guesser: { network: '127.0.0.1', origin: undefined, isShared: true },
  forwardedByStranger: false,
  path: '/',
}

const admitted: Admitted = {
  decision: {
    admitted: true,
    role: 'operator',
    granted: ['operator.admin'],
    denied: [],
    pair: false,
    issueToken: false,
    asDevice: false,
    rule: 'test',
  },
  principal: 'token:shared',
  deviceToken: undefined,
  deviceId: undefined,
}

function open(
  authenticate?: Authenticator['authenticate'],
  limits: Partial<ConnectionsNeeds['limits']> = {},
  changes: Partial<ConnectionsNeeds> = {},
) {
  const hub = createHub({ onSlow() {}, replay: places() })
  const presence = createPresence({ now: () => Date.now(), version: '1' })
  let fails = false
  const failNext = (value: boolean) => {
    fails = value
  }
  const connections = createConnections({
    authenticator: {
      authenticate: authenticate ?? (async () => admitted),
    },
    audit: { note() {} },
    dispatch: { dispatch() {}, answered: () => Promise.resolve() },
    hub,
    presence,
    nodes: { join() {}, leave() {}, isOfLive: () => false },
    log: quiet,
    now: () => Date.now(),
    monotonic: () => performance.now(),
    limits: { requestsPerSecond: 0, burst: 0, deniedPerMinute: 0, socketsPerPrincipal: 0, ...limits },
    handshakeTimeoutMs: 60_000,
    tickIntervalMs: 30_000,
    version: '1',
    snapshot: () => {
      if (fails) throw new Error('an effect failed')
      return {}
    },
    onLeft() {},
    ...changes,
  })
  /** A socket that hears and remembers. */
  const accept = () => {
    const peer = listening()
    const connection = connections.accept(peer.wire, facts)
    const send = (frame: object) => connection.receive(Buffer.from(JSON.stringify(frame)))
    return { peer, connection, send, connect: () => send({ type: 'req', id: 'c', method: 'connect', params: CONNECT }) }
  }
  return { hub, presence, connections, accept, failNext }
}

describe('a connection', () => {
  it('that is gone before it is known takes no place of its principal', async () => {
    const waiting: ((outcome: Admitted) => void)[] = []
    const { accept } = open(() => new Promise((resolve) => waiting.push(resolve)), { socketsPerPrincipal: 1 })
    const [gone, stays, third] = [accept(), accept(), accept()]
    for (const { connect } of [gone, stays, third]) connect()
    await settled()
    gone.connection.gone()
    for (const resolve of waiting) resolve({ ...admitted, principal: 'a device' })
    await settled()
    expect(stays.peer.heard.map(({ ok }) => ok)).toEqual([undefined, true])
    expect(third.peer.heard.at(-1)?.['error'].details.code).toBe('SOCKET_QUOTA')
  })

  it('that had its time before it was known is not noted as let in, and takes no place of its principal', async () => {
    const waiting: ((outcome: Admitted) => void)[] = []
    const noted: object[] = []
    const { accept } = open(
      () => new Promise((resolve) => waiting.push(resolve)),
      { socketsPerPrincipal: 1 },
      { audit: { note: (entry) => void noted.push(entry) } },
    )
    const { peer, connect, connection } = accept()
    connect()
    await settled()
    connection.close(Closes.handshakeTimeout)
    expect(peer.closedBy).toEqual(Closes.handshakeTimeout)
    waiting[0]!({ ...admitted, principal: 'a device' })
    await settled()
    expect(noted).toEqual([])
    const next = accept()
    next.connect()
    await settled()
    waiting[1]!({ ...admitted, principal: 'a device' })
    await settled()
    expect(next.peer.heard.at(-1)).toMatchObject({ ok: true, payload: { type: 'hello-ok' } })
    expect(noted).toMatchObject([{ ok: true, principal: 'a device' }])
  })

  it('that is refused is noted, whatever it is refused for', async () => {
    const noted: object[] = []
    const { accept } = open(
      async () => ({ ...admitted, principal: 'a device' }),
      { socketsPerPrincipal: 1 },
      { audit: { note: (entry) => void noted.push(entry) } },
    )
    for (const changes of [{}, {}, { minProtocol: 9, maxProtocol: 9 }, { client: 7 }]) {
      accept().send({ type: 'req', id: 'c', method: 'connect', params: { ...CONNECT, ...changes } })
      await settled()
    }
    const { address } = facts
    const client = CONNECT.client.id
    const refused = { kind: 'connect', ok: false, connId: expect.any(String) }
    expect(noted).toEqual([
      expect.objectContaining({ ok: true, about: { address, client, role: 'operator' } }),
      {
        ...refused,
        principal: 'a device',
        what: 'sockets of a principal',
        code: 'SOCKET_QUOTA',
        about: { address, client },
      },
      { ...refused, what: 'protocol', code: 'PROTOCOL_MISMATCH', about: { address, client } },
      { ...refused, what: 'connect params', code: 'INVALID_PARAMS', about: { address } },
    ])
  })

  it('whose actor threw is closed with 1011, and its neighbours live on', async () => {
    const { accept, connections, hub, failNext } = open()
    const good = accept()
    good.connect()
    await settled()
    failNext(true)
    const bad = accept()
    bad.connect()
    await settled()
    expect(bad.peer.closedBy).toEqual({ code: 1011, reason: 'internal error' })
    expect(bad.peer.heard.some(({ ok }) => ok)).toBe(false)
    failNext(false)
    expect(connections.size).toBe(1)
    hub.tellAll('tick', { ts: 1 })
    expect(good.peer.heard.at(-1)).toMatchObject({ event: 'tick' })
    bad.connection.gone()
    good.connection.gone()
    await settled()
    expect(connections.size).toBe(0)
  })

  it('is closed with 1011 when its credentials cannot be checked', async () => {
    const { accept } = open(() => Promise.reject(new Error('the store is away')))
    const { peer, connect } = accept()
    connect()
    await settled()
    expect(peer.closedBy).toEqual({ code: 1011, reason: 'internal error' })
  })

  it('is given a nonce of 32 random bytes, and nobody else the same', () => {
    const { accept } = open()
    const nonces = Array.from({ length: 100 }, () => accept().peer.heard[0]!['payload'].nonce as string)
    for (const nonce of nonces) expect(Buffer.from(nonce, 'base64url')).toHaveLength(32)
    expect(new Set(nonces).size).toBe(100)
  })

  it('is told nothing but the challenge before it is known, and nothing after it is gone', async () => {
    const { accept, hub } = open()
    const { peer, connect, connection } = accept()
    hub.tellAll('tick', { ts: 1 })
    expect(peer.heard).toMatchObject([{ event: 'connect.challenge' }])
    connect()
    await settled()
    connection.gone()
    const heard = peer.heard.length
    hub.tellAll('tick', { ts: 2 })
    expect(peer.heard.length).toBe(heard)
  })

  it('is told nothing of what it asked too early until it is known', async () => {
    const { promise: checked, resolve } = Promise.withResolvers<void>()
    const { accept } = open(() => checked.then(() => admitted))
    const { peer, connect, send } = accept()
    connect()
    for (let n = 0; n < 3; n++) send({ type: 'req', id: `${n}`, method: 'health' })
    await settled()
    expect(peer.heard).toMatchObject([{ event: 'connect.challenge' }])
    resolve()
    await settled()
    expect(peer.heard[1]).toMatchObject({ payload: { type: 'hello-ok' } })
  })

  it('that sends a fifth frame while its credentials are checked is closed', async () => {
    const { accept } = open(() => new Promise(() => {}))
    const { peer, connect, send } = accept()
    connect()
    for (let n = 0; n < 4; n++) send({ type: 'req', id: `${n}`, method: 'health' })
    await settled()
    expect(peer.closedBy).toBeUndefined()
    send({ type: 'req', id: '4', method: 'health' })
    await settled()
    expect(peer.closedBy).toEqual({ code: 1008, reason: 'too many pending handshake frames' })
  })

  it('leaves nothing behind, whenever it goes', async () => {
    const { accept, connections, hub } = open()
    const warn = vi.spyOn(console, 'warn').mockImplementation(() => {})
    for (let n = 0; n < 200; n++) {
      const { connect, connection } = accept()
      if (n % 2) connect()
      if (n % 4 === 3) await settled(1)
      connection.gone()
    }
    await settled()
    warn.mockRestore()
    expect([connections.size, [...hub.peers()]]).toEqual([0, []])
  })

  it('is closed with all others when the gateway stops, which is told when all are gone', async () => {
    const { accept, connections } = open()
    const all = Array.from({ length: 5 }, () => accept())
    for (const { connect } of all) connect()
    await settled()
    const closed = connections.closeAll('serviceRestart', { size: 2, everyMs: 1 })
    await vi.waitFor(() => expect(all.every(({ peer }) => peer.closedBy?.code === 1012)).toBe(true))
    for (const { connection } of all) connection.gone()
    await closed
    expect(connections.size).toBe(0)
  })
})

describe('scopes that are asked for and not granted', () => {
  it('are in the log a few times a second, a few of them, and cut', async () => {
    const lines: { [name: string]: unknown }[] = []
    const denied = Array.from({ length: 64 }, () => ({ scope: '\u0001'.repeat(128), reason: 'no such scope' }))
    const { accept } = open(
      async () => ({ ...admitted, decision: { ...admitted.decision, denied } as Admitted['decision'] }),
      {},
      { monotonic: () => 0, log: { ...quiet, info: (details) => void lines.push({ ...details }) } },
    )
    for (let n = 0; n < 50; n++) {
      accept().connect()
      await settled()
    }
    expect(lines).toHaveLength(10)
    const named = { scope: '\u0001'.repeat(32), reason: 'no such scope' }
    expect(lines[0]).toMatchObject({ denied: Array(8).fill(named), count: 64 })
  })
})

describe('a request that waits for those before it', () => {
  /** One connection with 32 requests under way, and 28 more behind them. */
  async function crowd() {
    const under: { caller: Caller; done(): void }[] = []
    const dispatch: Dispatch = {
      dispatch: (_, caller, __, done = () => {}) => void under.push({ caller, done }),
      answered: () => Promise.resolve(),
    }
    const at = open(undefined, {}, { dispatch })
    const { peer, connect, connection, send } = at.accept()
    connect()
    await settled()
    for (let n = 0; n < 60; n++) send({ type: 'req', id: `${n}`, method: 'chat.send' })
    expect(under).toHaveLength(32)
    return { ...at, peer, connection, under }
  }

  it('is carried out in its turn', async () => {
    const { under } = await crowd()
    for (const { done } of under.slice(0, 32)) done()
    expect(under).toHaveLength(60)
  })

  it('is not carried out once what its connection came in by was revoked', async () => {
    const { connections, peer, under } = await crowd()
    connections.revoke({ principal: 'token:shared' })
    await settled()
    expect(peer.closedBy?.code).toBe(4001)
    for (const { done } of under.slice(0, 32)) done()
    await settled()
    expect(under).toHaveLength(32)
  })

  it('is not carried out once its peer has gone', async () => {
    const { connection, under } = await crowd()
    connection.gone()
    for (const { done } of under.slice(0, 32)) done()
    expect(under).toHaveLength(32)
  })

  it('finds by its caller that the peer has gone, however late it asks', async () => {
    const { connection, under } = await crowd()
    const [early, late] = [under[0]!.caller, under[1]!.caller]
    const signal = early.gone()
    expect(signal.aborted).toBe(false)
    connection.gone()
    expect([signal.aborted, late.gone().aborted]).toEqual([true, true])
  })

  it('finds that the peer has gone where nobody asked before', async () => {
    const { connection, under } = await crowd()
    connection.gone()
    expect(under[0]!.caller.gone().aborted).toBe(true)
  })
})

describe('a revocation', () => {
  const GONE = { code: 4001, reason: 'gateway auth changed' }

  /** Lets in whoever comes, one after the other, as these. */
  function letIn(...those: Partial<Admitted>[]) {
    const at = open(async () => ({
      decision: {
        ...{ admitted: true, role: 'operator', granted: ['operator.admin'], denied: [] },
        ...{ pair: false, issueToken: false, asDevice: true, rule: 'test' },
      },
      ...{ principal: 'd', deviceToken: undefined, deviceId: undefined },
      ...those.shift(),
    }))
    const come = async () => {
      const { peer, connect } = at.accept()
      connect()
      await settled()
      return peer
    }
    return { ...at, come }
  }

  it('closes those it names, and nobody else', async () => {
    const { come, connections } = letIn(
      ...[
        { credential: 'old' },
        { credential: 'new' },
        { credential: 'shared' },
        { principal: 'e', credential: 'old' },
      ],
    )
    const peers = [await come(), await come(), await come(), await come()]
    const closed = async () => {
      await settled()
      return peers.map(({ closedBy }) => closedBy)
    }
    connections.revoke({ principal: 'd', role: 'node' })
    connections.revoke({ principal: 'nobody' })
    expect(await closed()).toEqual([undefined, undefined, undefined, undefined])
    connections.revoke({ principal: 'd', role: 'operator', credential: 'old' })
    expect(await closed()).toEqual([GONE, undefined, undefined, undefined])
    connections.revoke({ principal: 'd' })
    expect(await closed()).toEqual([GONE, GONE, GONE, undefined])
  })

  it('leaves what waits behind other requests of the connection undone', async () => {
    const begun: string[] = []
    const ends: (() => void)[] = []
    const dispatch: Dispatch = {
      dispatch: ({ id }, _caller, _send, done) => {
        begun.push(id)
        ends.push(done!)
      },
      answered: () => Promise.resolve(),
    }
    const { accept, connections } = open(undefined, {}, { dispatch })
    const [revoked, other] = [accept(), accept()]
    for (const { connect } of [revoked, other]) connect()
    await settled()
    for (let n = 0; n < 40; n++) revoked.send({ type: 'req', id: `${n}`, method: 'chat.send' })
    const underWay = begun.length
    expect(underWay).toBeLessThan(40)
    connections.revoke({ principal: admitted.principal })
    for (const end of ends) end()
    await settled()
    expect([begun.length, revoked.peer.closedBy]).toEqual([underWay, GONE])
  })

  it('that came while somebody was being let in closes them, and nothing they sent is done', async () => {
    const { come, hub } = letIn({ isCurrent: () => false }, { isCurrent: () => true })
    const late = await come()
    const other = await come()
    expect([late.closedBy, other.closedBy]).toEqual([GONE, undefined])
    expect([...hub.peers()].map(({ connId }) => connId)).toHaveLength(1)
  })
})

const isOfLive = (of: ConnectionsNeeds['nodes']['isOfLive']) => ({ nodes: { join() {}, leave() {}, isOfLive: of } })

describe('the parts of an answer that a node is writing', () => {
  const node: Admitted = {
    ...admitted,
    principal: 'a device',
    decision: { ...admitted.decision, role: 'node', granted: [] },
  } as Admitted
  const limits = { requestsPerSecond: 1, burst: 1 }
  const part = (text = '') => ({ type: 'req', id: 'p', method: 'node.event', params: { text } })
  const refusals = (heard: { [member: string]: unknown }[]) => heard.filter(({ ok }) => ok === false).length

  it('are not counted as requests; what else it says is', async () => {
    const { accept } = open(
      async () => node,
      limits,
      isOfLive(({ method }) => method === 'node.event'),
    )
    const { peer, connect, send } = accept()
    connect()
    await settled()
    for (let n = 0; n < 1_000; n++) send(part())
    expect(refusals(peer.heard)).toBe(0)
    for (let n = 0; n < 3; n++) send({ ...part(), method: 'skills.bins' })
    expect(refusals(peer.heard)).toBe(2)
  })

  it('are requests like others when an operator says them', async () => {
    const { accept } = open(
      undefined,
      limits,
      isOfLive(() => true),
    )
    const { peer, connect, send } = accept()
    connect()
    await settled()
    for (let n = 0; n < 3; n++) send(part())
    expect(refusals(peer.heard)).toBe(2)
  })

  it('are read more slowly when they are too many bytes', async () => {
    vi.useFakeTimers()
    try {
      const { accept } = open(
        async () => node,
        limits,
        isOfLive(() => true),
      )
      const { peer, connect, send } = accept()
      const how: string[] = []
      peer.wire.pause = () => void how.push('pause')
      peer.wire.resume = () => void how.push('resume')
      connect()
      await vi.advanceTimersByTimeAsync(0)
      for (let n = 0; n < 20; n++) send(part('x'.repeat(500_000)))
      expect(how).toEqual(['pause'])
      await vi.advanceTimersByTimeAsync(10_000)
      expect(how).toEqual(['pause', 'resume'])
      send(part('x'.repeat(500_000)))
      expect([how.length, refusals(peer.heard)]).toEqual([2, 0])
    } finally {
      vi.useRealTimers()
    }
  })
})

describe('what is asked and not read', () => {
  const MIB = 1024 * 1024

  /** Peers whose requests wait for a test to answer them. */
  async function peers(count: number, principals: string[] = []) {
    const asked: { id: string; connId: string; send(text: string): void; done(): void }[] = []
    const dispatch: Dispatch = {
      dispatch: ({ id }, { connId }, send, done = () => {}) => void asked.push({ id, connId, send, done }),
      answered: () => Promise.resolve(),
    }
    let come = 0
    const at = open(
      async () => ({ ...admitted, principal: principals[come++] ?? 'token:shared' }),
      {},
      { dispatch, monotonic: () => 0 },
    )
    const all = Array.from({ length: count }, () => {
      const { peer, send, connect, connection } = at.accept()
      const wire = peer.wire as { bytesWaiting: number }
      const ask = (id: string, method: string) => send({ type: 'req', id, method, params: {} })
      return { peer, wire, connect, ask, connection }
    })
    for (const { connect } of all) connect()
    await settled()
    return { ...at, asked, all }
  }

  it('costs whoever holds most the connection, once all together hold too much', async () => {
    const { all, asked } = await peers(4)
    const [most, other, read, last] = all as [(typeof all)[0], (typeof all)[0], (typeof all)[0], (typeof all)[0]]
    for (const [place, { ask }] of all.entries()) ask(`${place}`, 'health')
    const answer = (place: number, wire: { bytesWaiting: number }, bytes: number) => {
      wire.bytesWaiting = bytes
      asked[place]!.send('{}')
    }
    answer(0, most.wire, 120 * MIB)
    answer(1, other.wire, 80 * MIB)
    answer(2, read.wire, 90 * MIB)
    await settled()
    expect(all.map(({ peer }) => peer.closedBy?.reason)).toEqual(['slow consumer', undefined, undefined, undefined])
    // It has read what it was sent, and holds nothing.
    read.wire.bytesWaiting = 0
    answer(3, last.wire, 100 * MIB)
    await settled()
    expect(all.map(({ peer }) => peer.closedBy?.reason)).toEqual(['slow consumer', undefined, undefined, undefined])
  })

  it('is made a few at once where answers may be large, and principals take turns', async () => {
    const { all, asked } = await peers(12, [...Array.from({ length: 11 }, () => 'greedy'), 'modest'])
    for (const [place, { ask }] of all.entries()) {
      ask(`${place}`, 'chat.history')
      ask(`${place} again`, 'chat.history')
    }
    expect(asked.map(({ id }) => id)).toEqual(['0', '1', '2', '3', '4', '5', '6', '7'])
    asked[0]!.done()
    asked[1]!.done()
    expect(asked.map(({ id }) => id).slice(8)).toEqual(['8', '11'])
  })
  it('is not made for those who have gone, however many they are, and others come next', async () => {
    const { all, asked } = await peers(5_001)
    const stays = all.pop()!
    for (const { ask } of all) ask('x', 'chat.history')
    for (const { connection } of all) connection.gone()
    stays.ask('y', 'chat.history')
    await settled()
    expect(asked).toHaveLength(8)
    for (const { send, done } of asked.splice(0)) {
      send('{}')
      done()
    }
    await settled()
    expect(asked.map(({ id }) => id)).toEqual(['y'])
  })

  it('of those who have gone counts no more, and no less', async () => {
    const { all, asked } = await peers(3)
    const [gone, one, other] = all as [(typeof all)[0], (typeof all)[0], (typeof all)[0]]
    for (const [place, { ask }] of all.entries()) ask(`${place}`, 'health')
    gone.wire.bytesWaiting = 200 * MIB
    asked[0]!.send('{}')
    gone.connection.gone()
    asked[0]!.send('{}')
    one.wire.bytesWaiting = 150 * MIB
    asked[1]!.send('{}')
    await settled()
    expect(one.peer.closedBy).toBeUndefined()
    other.wire.bytesWaiting = 151 * MIB
    asked[2]!.send('{}')
    await settled()
    expect([one, other].map(({ peer }) => peer.closedBy?.reason)).toEqual([undefined, 'slow consumer'])
  })
})

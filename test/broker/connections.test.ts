import { describe, expect, it, vi } from 'vitest'
import type { Admitted, Authenticator, PeerFacts } from '../../src/auth/authenticate.ts'
import { createConnections } from '../../src/broker/connections.ts'
import type { Dispatch } from '../../src/broker/dispatch.ts'
import { createHub } from '../../src/broker/hub.ts'
import { createPresence } from '../../src/broker/presence.ts'
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
  limits: { socketsPerPrincipal?: number } = {},
  dispatch: Dispatch['dispatch'] = () => {},
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
    dispatch: { dispatch, answered: () => Promise.resolve() },
    hub,
    presence,
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
    const { accept, connections } = open(undefined, {}, ({ id }, _caller, _send, done) => {
      begun.push(id)
      ends.push(done!)
    })
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

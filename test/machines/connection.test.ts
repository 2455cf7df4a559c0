/** A peer on a socket, from the challenge to the end. */
import { describe, expect, test } from 'vitest'
import { connectionMachine } from '../../machines/connection.ts'
import { type Rig, rig } from './rig.ts'

const request = { type: 'req', id: '1', method: 'connect' }
const frame = (name: string) => ({ type: `frame.${name}`, request, incoming: { kind: 'request', request } })
const start = () => rig(connectionMachine, { input: { connId: 'c', handshakeTimeoutMs: 10_000, pendingLimit: 4 } })

async function authenticated(): Promise<Rig> {
  const peer = start()
  peer.send(frame('connect'))
  await peer.resolve('authenticate', { admitted: true })
  return peer
}

const reason = (peer: Rig) => peer.snapshot.context.close

describe('before it is known, a peer', () => {
  test('hears the challenge, then its welcome', async () => {
    const peer = await authenticated()
    expect(peer.effects()).toEqual(['challenge', 'welcome', 'openLane'])
  })

  test('is refused in words when it does not begin with connect', () => {
    const peer = start()
    peer.send(frame('request'))
    expect(peer.effects()).toEqual(['challenge', 'refuseFirst', 'closeSocket'])
    expect(reason(peer)).toBe('notConnect')
  })

  test.each(['invalid', 'notJson'])('is closed without an answer when its first frame is %s', (name) => {
    const peer = start()
    peer.send(frame(name))
    expect(peer.effects()).toEqual(['challenge', 'closeSocket'])
  })

  test('has so much time and no more, also while its credentials are checked', async () => {
    const peer = start()
    peer.wait(9_000)
    peer.send(frame('connect'))
    peer.wait(999)
    expect(peer.working).toEqual(['authenticate'])
    peer.wait(1)
    expect(reason(peer)).toBe('handshakeTimeout')
    expect(peer.working).toEqual([])
  })

  test('may be four frames ahead, not five', () => {
    const peer = start()
    for (let n = 0; n < 5; n += 1) peer.send(frame('request'))
    expect(reason(peer)).toBe('notConnect')

    const impatient = start()
    impatient.send(frame('connect'))
    for (let n = 0; n < 4; n += 1) impatient.send(frame('request'))
    expect(impatient.state()).toBe('handshake.connecting')
    impatient.send(frame('connect'))
    expect(reason(impatient)).toBe('tooManyPending')
    expect(impatient.effects().filter((name) => name === 'hold')).toHaveLength(4)
  })

  test('is not welcomed when its socket has gone while its credentials were checked', () => {
    const peer = start()
    peer.send(frame('connect'))
    peer.send({ type: 'socket.closed' })
    expect(peer.effects()).toEqual(['challenge'])
    expect(peer.state()).toBe('closed')
  })

  test('is told that it is our fault when its credentials cannot be checked', async () => {
    const peer = start()
    peer.send(frame('connect'))
    await peer.reject('authenticate', new Error('the store is closed'))
    expect(reason(peer)).toBe('internal')
  })
})

describe('a peer that is known', () => {
  test('keeps its lane until it is closed or gone', async () => {
    const closed = await authenticated()
    closed.send({ type: 'close', close: 'slowConsumer' })
    expect(closed.effects().slice(3)).toEqual(['closeLane', 'closeSocket'])

    const gone = await authenticated()
    gone.send({ type: 'socket.closed' })
    expect(gone.effects().slice(3)).toEqual(['closeLane'])
  })

  test('is not bound by the time of the handshake', async () => {
    const peer = await authenticated()
    peer.wait(3_600_000)
    expect(peer.state()).toBe('authenticated')
  })
})

describe('a peer that is being closed', () => {
  test('is closed for the first reason only, and what it still says is not heard', async () => {
    const peer = await authenticated()
    peer.send({ type: 'close', close: 'slowConsumer' })
    peer.send({ type: 'close', close: 'serviceRestart' })
    peer.send(frame('request'))
    expect(peer.effects().slice(3)).toEqual(['closeLane', 'closeSocket'])
    expect(reason(peer)).toBe('slowConsumer')
  })

  test('is torn down when it does not answer within a second', async () => {
    const peer = await authenticated()
    peer.send({ type: 'close', close: 'slowConsumer' })
    peer.wait(999)
    expect(peer.state()).toBe('closing')
    peer.wait(1)
    expect(peer.effects().at(-1)).toBe('terminate')
    expect(peer.state()).toBe('closed')
  })
})

import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { PATIENCE_MS } from '../../src/broker/delivery.ts'
import { createHub } from '../../src/broker/hub.ts'
import { OPERATOR_SCOPES, type Scope } from '../../src/contract/block.ts'
import { CAPS, LIMITS } from '../../src/contract/connect.ts'
import { EVENTS, type EventName } from '../../src/contract/index.ts'
import { holds } from '../../src/contract/scopes.ts'
import { type Listening, listening, places } from '../support/rooms.ts'

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

const open = (...peers: Listening[]) => {
  const onSlow = vi.fn()
  const hub = createHub({ onSlow, replay: places() })
  for (const peer of peers) hub.join(peer)
  return { hub, onSlow }
}
const subsets = Array.from({ length: 2 ** OPERATOR_SCOPES.length }, (_, bits) =>
  OPERATOR_SCOPES.filter((_, index) => bits & (1 << index)),
)

describe('who hears what', () => {
  it('is decided by scopes, for every event and every set of them', () => {
    for (const name of Object.keys(EVENTS) as EventName[])
      for (const scopes of subsets)
        for (const role of ['operator', 'node'] as const) {
          const peer = listening({ role, scopes: new Set<Scope>(scopes) })
          open(peer).hub.publish(name, () => '{}')
          const { scope } = EVENTS[name]
          const may = scope === 'everyone' || (scope !== 'node' && role === 'operator' && holds(peer.scopes, scope))
          expect([name, role, scopes, peer.heard.length]).toEqual([name, role, scopes, may ? 1 : 0])
        }
  })

  it('is nothing of a session for those without read, and for nodes', () => {
    const blind = listening({ scopes: new Set<Scope>(['operator.approvals', 'operator.pairing']) })
    const none = listening({ scopes: new Set() })
    const node = listening({ role: 'node', scopes: new Set<Scope>(['operator.admin']) })
    const reader = listening({ scopes: new Set<Scope>(['operator.read']) })
    const writer = listening({ scopes: new Set<Scope>(['operator.write']) })
    const { hub } = open(blind, none, node, reader, writer)
    hub.publish('agent', () => '{}', { sessionKey: 'agent:main:main' })
    hub.publish('chat', () => '{}', { sessionKey: 'agent:main:main' })
    expect([blind, none, node, reader, writer].map(({ heard }) => heard.length)).toEqual([0, 0, 0, 2, 2])
  })

  it('is for a node what it took of sessions, and what it is told by name', () => {
    const node = listening({ role: 'node', scopes: new Set() })
    const other = listening({ role: 'node', scopes: new Set() })
    const operator = listening()
    const { hub } = open(node, other, operator)
    const asked = { id: 'i', reason: 'r' }
    expect(hub.follow(node.connId, 'agent:main:main')).toBe(true)
    hub.publish('chat', () => '{"n":1}', { sessionKey: 'agent:main:main' })
    hub.publish('chat', () => '{"n":2}', { sessionKey: 'agent:main:other' })
    hub.publish('health', () => '{"n":3}')
    expect(hub.tellNode(node.connId, 'node.invoke.cancel', asked)).toBe(true)
    expect(hub.tellNode(operator.connId, 'node.invoke.cancel', asked)).toBe(false)
    expect(hub.tellNode('nobody', 'node.invoke.cancel', asked)).toBe(false)
    hub.unfollow(node.connId, 'agent:main:main')
    hub.publish('chat', () => '{"n":4}', { sessionKey: 'agent:main:main' })
    expect(node.heard).toEqual([
      { type: 'event', event: 'chat', payload: { n: 1 }, seq: 1 },
      { type: 'event', event: 'node.invoke.cancel', payload: asked, seq: 2 },
    ])
    expect(other.heard).toEqual([])
    expect(operator.heard.map(({ payload }) => payload.n)).toEqual([1, 2, 3, 4])
  })

  it('is nothing any more for those who left', () => {
    const peer = listening()
    const { hub } = open(peer)
    hub.leave(peer.connId)
    hub.tellAll('tick', { ts: 1 })
    expect(peer.heard).toEqual([])
  })
})

describe('an event', () => {
  it('is counted by each connection for itself, without a hole where somebody else was meant', () => {
    const all = listening()
    const few = listening({ scopes: new Set() })
    const { hub } = open(all, few)
    for (let n = 0; n < 10; n++) {
      hub.publish('agent', () => '{}')
      hub.tellAll('tick', { ts: n })
      hub.publish('chat', () => '{}', { only: (peer) => peer === few })
    }
    expect(all.heard.map(({ seq }) => seq)).toEqual(Array.from({ length: 20 }, (_, index) => index + 1))
    expect(few.heard.map(({ seq }) => seq)).toEqual(Array.from({ length: 10 }, (_, index) => index + 1))
  })

  it('is encoded once for each way it can look, and once to be kept', () => {
    const render = vi.fn(() => '{}')
    const many = Array.from({ length: 50 }, () => listening())
    const deltas = listening({ caps: new Set([CAPS.deltaOnly]) })
    const { hub } = open(...many, deltas)
    hub.publish('agent', render, { sessionKey: 'agent:main:main' })
    expect(render).toHaveBeenCalledTimes(3)
  })

  it('names the session as the peer spells it', () => {
    const spells = listening({ protocol: 3, spellings: new Map([['agent:main:main', 'main']]) })
    const canonical = listening({ protocol: 4 })
    const { hub } = open(spells, canonical)
    const render = ({ sessionKey }: { sessionKey: string }) => JSON.stringify({ sessionKey })
    hub.publish('agent', render, { sessionKey: 'agent:main:main' })
    hub.publish('agent', render, { sessionKey: 'agent:main:other' })
    expect(spells.heard.map(({ payload }) => payload.sessionKey)).toEqual(['main', 'agent:main:other'])
    expect(canonical.heard.map(({ payload }) => payload.sessionKey)).toEqual(['agent:main:main', 'agent:main:other'])
  })

  it('carries the version of the state it tells of', () => {
    const peer = listening()
    open(peer).hub.tellAll('presence', { presence: [] }, { stateVersion: { presence: 2, health: 3 } })
    expect(peer.heard[0]).toMatchObject({ stateVersion: { presence: 2, health: 3 }, seq: 1 })
  })
})

describe('a reader that is too slow', () => {
  it('is skipped for what can be spared, and counts no hole for it', () => {
    const slow = listening()
    const { hub, onSlow } = open(slow)
    slow.stuckBytes = LIMITS.maxBufferedBytes + 1
    hub.tellAll('tick', { ts: 1 })
    expect([slow.heard, onSlow.mock.calls]).toEqual([[], []])
    slow.stuckBytes = 0
    hub.tellAll('tick', { ts: 2 })
    expect(slow.heard).toMatchObject([{ seq: 1 }])
  })

  it('is disconnected when it stays so, though nothing more is said; it hears nothing more, and holds nobody up', () => {
    const slow = listening()
    const quick = listening()
    const { hub, onSlow } = open(slow, quick)
    slow.stuckBytes = LIMITS.maxBufferedBytes + 1
    hub.publish('chat', () => '{}')
    vi.advanceTimersByTime(PATIENCE_MS + 1)
    expect(onSlow).toHaveBeenCalledExactlyOnceWith(slow)
    slow.stuckBytes = 0
    hub.publish('chat', () => '{}')
    hub.publish('chat', () => '{}')
    expect([slow.heard.length, quick.heard.length]).toEqual([1, 3])
  })

  it('is left alone when it read on in time, and given as long again when it falls behind again', () => {
    const slow = listening()
    const { hub, onSlow } = open(slow)
    for (let n = 0; n < 3; n++) {
      slow.stuckBytes = LIMITS.maxBufferedBytes + 1
      hub.publish('chat', () => '{}')
      vi.advanceTimersByTime(PATIENCE_MS - 1)
      slow.read(1)
    }
    expect(onSlow).not.toHaveBeenCalled()
  })

  it('that has left is not waited for', () => {
    const slow = listening()
    const { hub, onSlow } = open(slow)
    slow.stuckBytes = LIMITS.maxBufferedBytes + 1
    hub.publish('chat', () => '{}')
    hub.leave(slow.connId)
    expect(vi.getTimerCount()).toBe(0)
    expect(onSlow).not.toHaveBeenCalled()
  })
})

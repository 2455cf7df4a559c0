import { describe, expect, it } from 'vitest'
import { createPresence } from '../../src/broker/presence.ts'

/** A list that a test joins, as a principal with a name or a device of its own. */
function open() {
  const presence = createPresence({ now: () => 1_000, version: '1' })
  let connections = 0
  const join = (principal: string, { instanceId, deviceId }: { instanceId?: string; deviceId?: string } = {}) => {
    const connId = `c${connections++}`
    const client = { id: 'x', version: '1', platform: 'linux', mode: 'ui', ...(instanceId && { instanceId }) }
    const key = presence.join(connId, client, { principal, role: 'operator', scopes: [principal], deviceId })
    return { leave: () => presence.leave(key, connId) }
  }
  /** Whose entries there are, the newest first; without that of the gateway. */
  const listed = () =>
    presence
      .list()
      .slice(1)
      .map(({ scopes }) => (scopes as string[])[0])
  return { presence, join, listed }
}

describe('who is here', () => {
  it('is one entry for each device, and for each instance that a principal says it is', () => {
    const { join, listed } = open()
    for (let times = 0; times < 2; times++) {
      join('a', { deviceId: 'd' })
      join('b', { instanceId: 'i' })
      join('c', { instanceId: 'i' })
    }
    expect(listed()).toEqual(['c', 'b', 'a'])
  })

  it('is an instance by the name of its device, where that is known, whatever it says itself', () => {
    const { presence, join } = open()
    join('a', { deviceId: 'd', instanceId: 'mine' })
    join('b', { deviceId: 'e' })
    join('c', { instanceId: 'i' })
    expect(presence.list().map(({ instanceId }) => instanceId)).toEqual([undefined, 'i', 'e', 'd'])
  })

  it('is what they say of themselves, in their own entry; what they say of others stands beside it', () => {
    const { presence, join } = open()
    join('a', { deviceId: 'a', instanceId: 'i' })
    presence.say({ principal: 'a', instanceId: 'i' }, { text: 'Node: mine', deviceId: 'a', mode: 'idle' })
    presence.say({ principal: 'a', instanceId: 'i' }, { text: 'Node: yours', deviceId: 'b' })
    join('c', { instanceId: 'i' })
    presence.say({ principal: 'c', instanceId: 'i' }, { text: 'Node: my instance', instanceId: 'i', mode: 'away' })
    const entries = presence.list().slice(1)
    expect(entries.map(({ text, mode, deviceId, roles }) => [text, mode, deviceId, roles])).toEqual([
      ['Node: my instance', 'away', undefined, ['operator']],
      ['Node: yours', undefined, 'b', undefined],
      ['Node: mine', 'idle', 'a', ['operator']],
    ])
  })

  it('is forgotten five minutes after somebody spoke of them, if nobody is here', () => {
    let now = 1_000
    const presence = createPresence({ now: () => now, version: '1' })
    presence.say({ principal: 'a' }, { text: 'Node: laptop' })
    now += 5 * 60_000
    expect(presence.list()).toHaveLength(2)
    now += 1
    expect(presence.list()).toHaveLength(1)
  })

  it('is told of no device or instance by who only says it is that one', () => {
    const { presence, join, listed } = open()
    const admin = join('admin', { deviceId: 'd', instanceId: 'd' })
    const forged = ['d', '["device","d"]', 'c0'].map((instanceId) => join('stranger', { instanceId }))
    expect(listed()).toEqual(['stranger', 'stranger', 'stranger', 'admin'])
    for (const { leave } of forged) leave()
    expect(presence.list().find(({ deviceId }) => deviceId === 'd')).toMatchObject({ reason: 'connect' })
    expect(admin.leave()).toBe(true)
  })

  it('is fifty entries of one principal at the most, the newest', () => {
    const { presence, join, listed } = open()
    join('first')
    for (let n = 0; n < 300; n++) join('many', { instanceId: `${n}` })
    expect(listed()).toEqual([...Array(50).fill('many'), 'first'])
    expect(presence.list()[1]).toMatchObject({ instanceId: '299' })
  })

  it('is two hundred entries in all: the principal that has most makes room', () => {
    const { join, listed } = open()
    join('one')
    for (const principal of ['a', 'b', 'c', 'd']) for (let n = 0; n < 50; n++) join(principal, { instanceId: `${n}` })
    join('two')
    const counts = Map.groupBy(listed(), (principal) => principal)
    expect([...counts].map(([principal, all]) => [principal, all.length])).toEqual([
      ['two', 1],
      ['d', 49],
      ['c', 50],
      ['b', 50],
      ['a', 49],
      ['one', 1],
    ])
  })
})

import { describe, expect, it } from 'vitest'
import { createLane } from '../../src/broker/lane.ts'

function open(most: number) {
  const lane = createLane(most)
  const inside: string[] = []
  return {
    lane,
    inside,
    enter: (id: string, agentId = 'main') => lane.enter(id, agentId, () => inside.push(id)),
  }
}

describe('the lane', () => {
  it('lets in as many as there are places, and the next when one leaves', () => {
    const { lane, inside, enter } = open(2)
    for (const id of ['a', 'b', 'c', 'd']) enter(id)
    expect(inside).toEqual(['a', 'b'])
    lane.leave('b')
    expect(inside).toEqual(['a', 'b', 'c'])
    expect(['c', 'd'].map((id) => lane.isWaiting(id))).toEqual([false, true])
  })

  it('lets the agents take turns, however many one of them sends', () => {
    const { lane, inside, enter } = open(1)
    for (const id of ['a1', 'a2', 'a3', 'a4']) enter(id, 'a')
    for (const id of ['b1', 'b2']) enter(id, 'b')
    enter('c1', 'c')
    for (let n = 0; n < 6; n += 1) lane.leave(inside.at(-1)!)
    expect(inside).toEqual(['a1', 'a2', 'b1', 'c1', 'a3', 'b2', 'a4'])
  })

  it('lets in no more of one agent than it may have, and others past those who wait for it', () => {
    const inside: string[] = []
    const lane = createLane(3, (agentId) => (agentId === 'a' ? 1 : 3))
    for (const id of ['a1', 'a2', 'b1', 'b2']) lane.enter(id, id.charAt(0), () => inside.push(id))
    expect(inside).toEqual(['a1', 'b1', 'b2'])
    lane.leave('b1')
    expect(inside).toEqual(['a1', 'b1', 'b2'])
    lane.leave('a1')
    expect(inside).toEqual(['a1', 'b1', 'b2', 'a2'])
  })

  it('passes over one that gave up waiting', () => {
    const { lane, inside, enter } = open(1)
    for (const id of ['a', 'b', 'c']) enter(id)
    lane.leave('b')
    lane.leave('a')
    expect(inside).toEqual(['a', 'c'])
  })

  it('lets nobody in twice', () => {
    const { lane, inside, enter } = open(2)
    enter('a')
    enter('a')
    enter('b')
    enter('c')
    enter('c')
    lane.leave('a')
    lane.leave('b')
    expect(inside).toEqual(['a', 'b', 'c'])
  })

  it('takes no notice of one that was never there', () => {
    const { lane, inside, enter } = open(1)
    enter('a')
    lane.leave('stranger')
    enter('b')
    expect(inside).toEqual(['a'])
  })
})

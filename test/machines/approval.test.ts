/** The life of one request for approval, where it is easy to get wrong. */
import { describe, expect, test } from 'vitest'
import { approvalMachine } from '../../machines/approval.ts'
import { rig } from './rig.ts'

const EXPIRY_MS = 5_000
const start = () => rig(approvalMachine, { input: { id: 'a', expiryMs: EXPIRY_MS } })

describe('a request for approval', () => {
  test.each([
    ['allowOnce', 'allow-once', 'allowedOnce'],
    ['deny', 'deny', 'denied'],
  ])('is over with the first decision: %s', (type, decision, state) => {
    const approval = start()
    approval.send({ type })
    expect(approval.state()).toBe(state)
    expect(approval.log.filter(({ kind }) => kind === 'effect').map(({ name, params }) => [name, params])).toEqual([
      ['announceRequest', { id: 'a' }],
      ['announceDecision', { id: 'a', decision }],
      ['answer', { id: 'a', decision }],
    ])
  })

  test('is answered with nothing when its time is up, and not a millisecond before', () => {
    const approval = start()
    approval.wait(EXPIRY_MS - 1)
    expect(approval.effects()).toEqual(['announceRequest'])
    approval.wait(1)
    expect(approval.state()).toBe('expired')
    expect(approval.effects()).toEqual(['announceRequest', 'answer'])
  })

  test('is over when who asked has gone, and says so to those who were asked', () => {
    const approval = start()
    approval.send({ type: 'gone' })
    expect(approval.state()).toBe('abandoned')
    expect(approval.log.find(({ name }) => name === 'announceDecision')?.params).toEqual({ id: 'a', decision: null })
  })

  test('is allowed for good only once that is on the disk', async () => {
    const approval = start()
    approval.send({ type: 'allowAlways' })
    expect(approval.effects()).toEqual(['announceRequest'])
    await approval.resolve('keepRule')
    expect(approval.state()).toBe('allowedAlways')
  })

  test('lets nobody else decide while that is being written', async () => {
    const approval = start()
    approval.send({ type: 'allowAlways' })
    for (const type of ['deny', 'allowOnce', 'allowAlways'] as const) {
      expect(approval.snapshot.can({ type })).toBe(false)
      approval.send({ type })
    }
    await approval.resolve('keepRule')
    expect(approval.state()).toBe('allowedAlways')
    expect(approval.effects()).not.toContain('unexpected')
  })

  test('was decided in time even if its time is up before that is on the disk', async () => {
    const approval = start()
    approval.send({ type: 'allowAlways' })
    approval.wait(EXPIRY_MS)
    await approval.resolve('keepRule')
    expect(approval.state()).toBe('allowedAlways')
  })

  test('waits on when the disk refuses, for the rest of its time and no longer', async () => {
    const approval = start()
    approval.wait(EXPIRY_MS - 10)
    approval.send({ type: 'allowAlways' })
    await approval.reject('keepRule', new Error('no space'))
    expect(approval.state()).toBe('open.pending')
    expect(approval.effects()).toEqual(['announceRequest', 'tellNotKept'])
    approval.wait(10)
    expect(approval.state()).toBe('expired')
  })

  test.each([
    ['its time is up', 'expire', 'expired'],
    ['who asked has gone', 'gone', 'abandoned'],
  ])('is over when the disk refuses and meanwhile %s', async (_, type, state) => {
    const approval = start()
    approval.send({ type: 'allowAlways' })
    if (type === 'expire') approval.wait(EXPIRY_MS)
    else approval.send({ type })
    expect(approval.state()).toBe('open.keeping')
    await approval.reject('keepRule', new Error('no space'))
    expect(approval.state()).toBe(state)
  })
})

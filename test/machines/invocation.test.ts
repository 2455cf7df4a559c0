/** The life of something a node is asked to do, where it is easy to get wrong. */
import { describe, expect, test } from 'vitest'
import { invocationMachine } from '../../machines/invocation.ts'
import { rig } from './rig.ts'

const GRACE_MS = 30_000
const start = (changes: object = {}) =>
  rig(invocationMachine, { input: { id: 'i', isThere: true, timeoutMs: 0, graceMs: GRACE_MS, ...changes } })
const told = (bench: ReturnType<typeof start>) => bench.log.find(({ name }) => name === 'settle')?.params

describe('something that a node is asked to do', () => {
  test('is asked again when the node is back, and again when it is back without having been missed', () => {
    const invocation = start()
    invocation.send({ type: 'heard' })
    invocation.send({ type: 'lost' })
    expect(invocation.state()).toBe('open.away')
    invocation.send({ type: 'back' })
    expect(invocation.state()).toBe('open.present.asked')
    invocation.send({ type: 'back' })
    expect(invocation.effects()).toEqual(['ask', 'ask', 'ask'])
  })

  test('is lost when the node is not back in time, and not a millisecond before', () => {
    const invocation = start()
    invocation.send({ type: 'lost' })
    invocation.wait(GRACE_MS - 1)
    expect(invocation.state()).toBe('open.away')
    invocation.wait(1)
    expect(told(invocation)).toEqual({ id: 'i', ending: 'lost', error: null })
  })

  test('has its whole grace each time the node goes away', () => {
    const invocation = start()
    for (const _ of [1, 2, 3]) {
      invocation.send({ type: 'lost' })
      invocation.wait(GRACE_MS - 1)
      invocation.send({ type: 'back' })
    }
    expect(invocation.state()).toBe('open.present.asked')
  })

  test('is lost at once where nobody waits for a node that went away', () => {
    const invocation = start({ graceMs: 0 })
    invocation.send({ type: 'lost' })
    expect(invocation.state()).toBe('lost')
  })

  test('waits for a node that was never there', () => {
    const invocation = start({ isThere: false })
    expect(invocation.effects()).toEqual([])
    invocation.send({ type: 'back' })
    expect(invocation.effects()).toEqual(['ask'])
  })

  test('takes too long also while the node is away', () => {
    const invocation = start({ timeoutMs: 700 })
    invocation.send({ type: 'lost' })
    invocation.wait(700)
    expect(told(invocation)).toEqual({ id: 'i', ending: 'timedOut', error: null })
  })

  test('takes as long as it takes without a deadline', () => {
    const invocation = start()
    invocation.wait(100 * 24 * 3_600_000)
    expect(invocation.state()).toBe('open.present.asked')
    expect(invocation.effects()).toEqual(['ask'])
  })

  test.each([
    ['a node that cannot do it', 'refuse', ['ask', 'settle']],
    ['a node that says what does not fit, which is called off', 'break', ['ask', 'callOff', 'settle']],
  ])('fails in the words about %s', (_, type, effects) => {
    const invocation = start()
    invocation.send({ type, error: 'words' })
    expect(told(invocation)).toEqual({ id: 'i', ending: 'failed', error: 'words' })
    expect(invocation.effects()).toEqual(effects)
  })

  test.each([
    ['that is here is called off', true, ['ask', 'callOff', 'settle']],
    ['that is away hears nothing', false, ['settle']],
  ])('when nobody wants it any more is over, and a node %s', (_, isThere, effects) => {
    const invocation = start({ isThere })
    invocation.send({ type: 'cancel', reason: 'stopped' })
    expect(invocation.effects()).toEqual(effects)
    expect(told(invocation)).toEqual({ id: 'i', ending: 'cancelled', error: null })
  })
})

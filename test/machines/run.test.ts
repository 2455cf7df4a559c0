/** The life of one run, where it is easy to get wrong. */
import { describe, expect, test } from 'vitest'
import { runMachine } from '../../machines/run.ts'
import { RUN_INPUT } from './plans.ts'
import { type Rig, rig } from './rig.ts'

const start = (input: object = {}) => rig(runMachine, { input: { ...RUN_INPUT, ...input } })

async function streaming(input: object = {}): Promise<Rig> {
  const run = start(input)
  run.send({ type: 'begin', absorbs: [] })
  await run.resolve('journalStart')
  return run
}

describe('a run', () => {
  test('is told, kept, answered, kept and announced, in that order', async () => {
    const run = await streaming()
    run.send({ type: 'firstToken' })
    await run.resolve('model', { stopReason: 'stop', calls: 0 })
    await run.resolve('journalEnd')
    expect(run.log.filter(({ kind }) => kind !== 'event').map(({ kind, name }) => `${kind} ${name}`)).toEqual([
      'begun journalStart',
      'done journalStart',
      'effect openStream',
      'begun model',
      'done model',
      'effect closeStream',
      'begun journalEnd',
      'done journalEnd',
      'effect announceEnd',
    ])
    expect(run.state()).toBe('completed')
  })

  test('asks the model nothing when it is stopped while its start is being written', async () => {
    const run = start()
    run.send({ type: 'begin', absorbs: [] })
    run.send({ type: 'abort', reason: 'rpc' })
    expect(run.working).toEqual(['journalEnd'])
    await run.resolve('journalEnd')
    expect(run.effects()).toEqual(['announceEnd'])
    expect(run.state()).toBe('aborted')
  })

  test('keeps what was decided when it is stopped while the end is being written', async () => {
    const run = await streaming()
    await run.resolve('model', { stopReason: 'stop', calls: 0 })
    run.send({ type: 'abort', reason: 'rpc' })
    await run.resolve('journalEnd')
    expect(run.state()).toBe('completed')
    expect(run.effects()).not.toContain('unexpected')
  })

  test('is stopped once, for the first reason', async () => {
    const run = await streaming()
    run.send({ type: 'abort', reason: 'rpc' })
    run.send({ type: 'abort', reason: 'shutdown' })
    await run.resolve('journalEnd')
    expect(run.snapshot.context.outcome).toEqual({ state: 'aborted', stopReason: 'rpc' })
  })

  test('begins once: a second begin is noticed and changes nothing', async () => {
    const run = await streaming()
    run.send({ type: 'begin', absorbs: [] })
    expect(run.state()).toBe('streaming.asking.waiting')
    expect(run.effects()).toEqual(['openStream', 'unexpected'])
  })

  test('does not begin when it was stopped while it waited', async () => {
    const run = start()
    run.send({ type: 'abort', reason: 'rpc' })
    run.send({ type: 'begin', absorbs: [] })
    expect(run.working).toEqual(['journalEnd'])
    await run.resolve('journalEnd')
    expect(run.state()).toBe('aborted')
  })

  test('takes as long as the model does when there is no deadline', async () => {
    const run = await streaming({ timeoutMs: 0 })
    run.wait(0)
    run.wait(365 * 24 * 3_600_000)
    expect(run.state()).toBe('streaming.asking.waiting')
    expect(run.effects()).toEqual(['openStream'])
  })

  test('counts its deadline from the question to the model, not from its place in the queue', async () => {
    const run = start({ timeoutMs: 5_000 })
    run.wait(60_000)
    run.send({ type: 'begin', absorbs: [] })
    run.wait(60_000)
    await run.resolve('journalStart')
    run.wait(4_999)
    run.send({ type: 'firstToken' })
    expect(run.state()).toBe('streaming.asking.writing')
    run.wait(1)
    expect(run.working).toEqual(['journalEnd'])
    await run.resolve('journalEnd')
    expect(run.state()).toBe('timedOut')
  })

  test('fails without asking the model when its start cannot be kept', async () => {
    const run = start()
    run.send({ type: 'begin', absorbs: [] })
    await run.reject('journalStart', new Error('the disk is full'))
    await run.resolve('journalEnd')
    expect(run.snapshot.context.outcome).toEqual({ state: 'failed', error: 'the disk is full' })
    expect(run.effects()).toEqual(['announceEnd'])
  })

  test('tries to keep its end until it can, and tells nobody before', async () => {
    const run = await streaming()
    await run.reject('model', new Error('overloaded'))
    for (let n = 0; n < 3; n += 1) {
      await run.reject('journalEnd', new Error('the disk is full'))
      expect(run.working).toEqual([])
      run.wait(1_000)
      expect(run.working).toEqual(['journalEnd'])
    }
    expect(run.effects()).not.toContain('announceEnd')
    await run.resolve('journalEnd')
    expect(run.effects().slice(-4)).toEqual(['storageFailed', 'storageFailed', 'storageFailed', 'announceEnd'])
    expect(run.state()).toBe('failed')
  })

  test('that a former process had begun ends as interrupted, and asks no model', async () => {
    const run = start({ outcome: { state: 'interrupted', error: 'cut off' } })
    run.send({ type: 'begin', absorbs: [] })
    await run.resolve('journalEnd')
    expect(run.state()).toBe('interrupted')
    expect(run.log.map(({ name }) => name)).not.toContain('model')
  })

  test('tells its host which turns it answers, too, before its start is written', () => {
    const run = start()
    run.send({ type: 'begin', absorbs: ['a', 'b'] })
    expect(run.log.at(-1)).toMatchObject({ name: 'journalStart', params: { runId: 'r', absorbs: ['a', 'b'] } })
  })
})

describe('a turn that joins a run', () => {
  test('calls the model off, is written, and has the model asked again, on the same stream', async () => {
    const run = await streaming()
    run.send({ type: 'firstToken' })
    run.send({ type: 'steer', runId: 'x' })
    expect(run.working).toEqual(['takeIn'])
    await run.resolve('takeIn', ['x'])
    expect(run.state()).toBe('streaming.asking.waiting')
    expect(run.effects()).toEqual(['openStream'])
    await run.resolve('model', { stopReason: 'stop', calls: 0 })
    await run.resolve('journalEnd')
    expect(run.state()).toBe('completed')
  })

  test('is joined by others that come meanwhile, before the model is asked again', async () => {
    const run = await streaming()
    for (const runId of ['x', 'y', 'x']) run.send({ type: 'steer', runId })
    await run.resolve('takeIn', ['x'])
    expect(run.working).toEqual(['takeIn'])
    await run.resolve('takeIn', ['y'])
    expect(run.working).toEqual(['model'])
  })

  test('comes before the first question when it came before the run had begun', async () => {
    const run = start()
    run.send({ type: 'steer', runId: 'x' })
    run.send({ type: 'begin', absorbs: [] })
    run.send({ type: 'steer', runId: 'y' })
    await run.resolve('journalStart')
    expect(run.working).toEqual(['takeIn'])
    await run.resolve('takeIn', ['x', 'y'])
    expect(run.working).toEqual(['model'])
  })

  test('is without effect on a run that is deciding how it ended', async () => {
    const run = await streaming()
    await run.resolve('model', { stopReason: 'stop', calls: 0 })
    run.send({ type: 'steer', runId: 'x' })
    await run.resolve('journalEnd')
    expect(run.state()).toBe('completed')
    expect(run.effects()).not.toContain('unexpected')
  })

  test('leaves the deadline of the run where it was', async () => {
    const run = await streaming({ timeoutMs: 5_000 })
    run.wait(3_000)
    run.send({ type: 'steer', runId: 'x' })
    await run.resolve('takeIn', ['x'])
    run.wait(2_000)
    expect(run.working).toEqual(['journalEnd'])
  })

  test('does not keep the run from being asked again when it could not be written', async () => {
    const run = await streaming()
    run.send({ type: 'steer', runId: 'x' })
    await run.reject('takeIn', new Error('the actor crashed'))
    expect(run.working).toEqual(['model'])
  })

  test('can be stopped with the run while it is being written', async () => {
    const run = await streaming()
    run.send({ type: 'steer', runId: 'x' })
    run.send({ type: 'abort', reason: 'rpc' })
    expect(run.working).toEqual(['journalEnd'])
  })

  test('ends under its own id as answered by the other', async () => {
    const run = start()
    run.send({ type: 'absorb', by: 'other' })
    await run.resolve('journalEnd')
    expect(run.snapshot.context.outcome).toEqual({ state: 'completed', stopReason: 'absorbed', absorbedBy: 'other' })
    expect(run.effects()).toEqual(['announceEnd'])
  })
})

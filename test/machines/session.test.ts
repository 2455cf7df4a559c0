/** Whose turn it is. */
import { describe, expect, test } from 'vitest'
import { sessionMachine } from '../../machines/session.ts'
import type { QueueMode } from '../../src/contract/queue-mode.ts'
import { rig } from './rig.ts'

function start() {
  const bench = rig(sessionMachine, { input: { key: 's' } })
  return {
    ...bench,
    bench,
    turn: (runId: string, mode: QueueMode = 'followup') => bench.send({ type: 'turn', runId, mode }),
    ended: (runId: string) => bench.send({ type: 'ended', runId }),
    abort: (runId: string | null) => bench.send({ type: 'abort', runId, reason: 'rpc' }),
    told: () =>
      bench.log
        .filter(({ kind, name }) => kind === 'effect' && name !== 'announcePlace')
        .map(({ name, params }) => {
          const { runId, absorbs = [], into = [] } = params as { runId: string; absorbs?: string[]; into?: string }
          return [name, runId, ...absorbs, ...[into].flat()].join(' ')
        }),
    places: () =>
      bench.log
        .filter(({ name }) => name === 'announcePlace')
        .map(({ params }) => {
          const { runId, place } = params as { runId: string; place: number }
          return `${runId} ${place}`
        }),
  }
}

describe('a session', () => {
  test('starts the next turn only after the run has ended', () => {
    const session = start()
    session.turn('a')
    session.turn('b')
    expect(session.told()).toEqual(['begin a'])
    session.ended('a')
    expect(session.told()).toEqual(['begin a', 'begin b'])
    session.ended('b')
    expect(session.state()).toBe('idle')
  })

  test('begins nothing twice when an ending is told twice', () => {
    const session = start()
    for (const runId of ['a', 'b', 'c']) session.turn(runId)
    session.ended('a')
    session.ended('a')
    expect(session.told()).toEqual(['begin a', 'begin b'])
    expect(session.bench.snapshot.context.queue).toEqual([{ runId: 'c', mode: 'followup' }])
  })

  test('passes over a turn that was stopped while it waited', () => {
    const session = start()
    for (const runId of ['a', 'b', 'c']) session.turn(runId)
    session.abort('b')
    session.ended('b')
    session.ended('a')
    expect(session.told()).toEqual(['begin a', 'abortRun b', 'begin c'])
  })

  test('stops those that wait before the one that runs, so that none begins in between', () => {
    const session = start()
    for (const runId of ['a', 'b', 'c']) session.turn(runId)
    session.abort(null)
    expect(session.told()).toEqual(['begin a', 'abortRun b', 'abortRun c', 'abortRun a'])
  })

  test('takes the ending of a stopped run in whatever order it comes', () => {
    const session = start()
    session.turn('a')
    session.turn('b')
    session.abort(null)
    session.ended('a')
    // Its chart is past beginning; that it is told to is without effect there.
    expect(session.told().at(-1)).toBe('begin b')
    session.ended('b')
    expect(session.state()).toBe('idle')
  })

  test('does not retire while a run is under way', () => {
    const session = start()
    session.turn('a')
    session.bench.send({ type: 'retire' })
    expect(session.state()).toBe('busy')
    session.ended('a')
    session.bench.send({ type: 'retire' })
    expect(session.state()).toBe('retired')
  })

  test('does not retire between the end of one run and the beginning of the next', () => {
    const session = start()
    session.turn('a')
    session.turn('b')
    session.ended('a')
    session.bench.send({ type: 'retire' })
    expect(session.state()).toBe('busy')
  })

  test('is not moved by endings and stops that are about nobody here', () => {
    const session = start()
    session.ended('stranger')
    session.abort('stranger')
    session.turn('a')
    session.ended('stranger')
    session.abort('stranger')
    expect(session.told()).toEqual(['begin a'])
    expect(session.state()).toBe('busy')
  })
})

describe('a turn that comes while a run is under way', () => {
  test('is told its place', () => {
    const session = start()
    for (const runId of ['a', 'b', 'c']) session.turn(runId)
    session.turn('d', 'interrupt')
    expect(session.places()).toEqual(['b 1', 'c 2', 'd 1'])
  })

  test('is answered with its neighbours when they are to be collected, under the id of the last', () => {
    const session = start()
    session.turn('a')
    for (const runId of ['b', 'c', 'd']) session.turn(runId, 'collect')
    session.turn('e')
    session.ended('a')
    expect(session.told()).toEqual(['begin a', 'begin d b c'])
    session.ended('b')
    session.ended('c')
    session.ended('d')
    expect(session.told().at(-1)).toBe('begin e')
  })

  test('has its turn if the one that was to answer it is stopped before it began', () => {
    const session = start()
    session.turn('a')
    for (const runId of ['b', 'c', 'd']) session.turn(runId, 'collect')
    session.ended('a')
    session.ended('d')
    expect(session.told()).toEqual(['begin a', 'begin d b c', 'begin c b'])
  })

  test('is not collected over one that wants its own answer', () => {
    const session = start()
    session.turn('a')
    session.turn('b', 'collect')
    session.turn('c', 'followup')
    session.turn('d', 'collect')
    for (const runId of ['a', 'b', 'c', 'd']) session.ended(runId)
    expect(session.told()).toEqual(['begin a', 'begin b', 'begin c', 'begin d'])
  })

  test('may join the run, and has its own if the run is over before', () => {
    const session = start()
    session.turn('a')
    session.turn('b', 'steer')
    expect(session.told()).toEqual(['begin a', 'steer b a'])
    session.ended('a')
    expect(session.told().at(-1)).toBe('begin b')
  })

  test('stops the run when it interrupts, and comes before those that wait', () => {
    const session = start()
    session.turn('a')
    session.turn('b')
    session.turn('c', 'interrupt')
    expect(session.told()).toEqual(['begin a', 'abortRun a'])
    session.ended('a')
    expect(session.told().at(-1)).toBe('begin c')
    session.ended('c')
    expect(session.told().at(-1)).toBe('begin b')
  })

  test('is answered by the last of those that interrupt one after the other', () => {
    const session = start()
    session.turn('a')
    session.turn('b', 'interrupt')
    session.turn('c', 'interrupt')
    session.ended('a')
    expect(session.told()).toEqual(['begin a', 'abortRun a', 'abortRun a', 'begin c b'])
  })

  test('simply begins when nothing runs, whatever its mode', () => {
    for (const mode of ['collect', 'steer', 'interrupt'] as const) {
      const session = start()
      session.turn('a', mode)
      expect(session.told()).toEqual(['begin a'])
    }
  })
})

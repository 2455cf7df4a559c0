/** Whose turn it is. */
import { describe, expect, test } from 'vitest'
import { sessionMachine } from '../../machines/session.ts'
import { rig } from './rig.ts'

function start() {
  const bench = rig(sessionMachine, { input: { key: 's' } })
  return {
    ...bench,
    bench,
    turn: (runId: string) => bench.send({ type: 'turn', runId }),
    ended: (runId: string) => bench.send({ type: 'ended', runId }),
    abort: (runId: string | null) => bench.send({ type: 'abort', runId, reason: 'rpc' }),
    told: () =>
      bench.log
        .filter(({ kind }) => kind === 'effect')
        .map(({ name, params }) => `${name} ${(params as { runId: string }).runId}`),
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
    expect(session.bench.snapshot.context.queue).toEqual(['c'])
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

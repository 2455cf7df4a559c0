/** What holds on every way through a chart, in a sentence each. They are checked on tours and on random walks. */
import { expect } from 'vitest'
import type { Entry, Rig } from './rig.ts'
import { stateOf } from './rig.ts'

type Watched = Pick<Rig, 'log' | 'snapshot'>
type Invariants = { [sentence: string]: (watched: Watched) => void }

const is = (kind: Entry['kind'], name: string) => (entry: Entry) => entry.kind === kind && entry.name === name
const count = (log: Entry[], kind: Entry['kind'], name: string) => log.filter(is(kind, name)).length
const first = (log: Entry[], kind: Entry['kind'], name: string) => log.findIndex(is(kind, name))
const effects = (log: Entry[]) => log.filter(({ kind }) => kind === 'effect').map(({ name }) => name)
const paramsOf = <P>(entry: Entry) => entry.params as P

/** The second, if it is there at all, comes after the first. */
function inOrder(
  log: Entry[],
  [kind, name]: [Entry['kind'], string],
  [laterKind, later]: [Entry['kind'], string],
): void {
  const at = first(log, laterKind, later)
  if (at < 0) return
  const before = first(log, kind, name)
  expect(before >= 0 && before < at, `${kind} ${name} comes before ${laterKind} ${later}`).toBe(true)
}

const ALWAYS: Invariants = {
  'never crashes': ({ log, snapshot }) => {
    expect(snapshot.status).not.toBe('error')
    expect(count(log, 'failed', 'the chart itself')).toBe(0)
  },
  'is never surprised by its own timers and work': ({ log }) => {
    for (const entry of log.filter(is('effect', 'unexpected')))
      expect(paramsOf<{ event: string }>(entry).event).not.toMatch(/^xstate\./)
  },
  'says so when an event means nothing to it': ({ log }) => {
    expect(count(log, 'effect', 'unexpected')).toBeGreaterThanOrEqual(count(log, 'event', 'nobody.expects.this'))
  },
}

const gateway: Invariants = {
  'opens the storage, then the listener, then recovers': ({ log }) => {
    inOrder(log, ['done', 'openStorage'], ['begun', 'listen'])
    inOrder(log, ['done', 'listen'], ['begun', 'recover'])
  },
  'serves only after it has recovered': ({ log }) => {
    const served = log.findIndex(({ kind, state }) => kind === 'event' && state === 'serving')
    if (served >= 0) expect(first(log, 'done', 'recover')).toBeGreaterThanOrEqual(0)
  },
  'closes the sockets, then the storage, however it comes to stop': ({ log, snapshot }) => {
    inOrder(log, ['begun', 'hangUp'], ['begun', 'closeStorage'])
    if (snapshot.status !== 'done') return
    expect(count(log, 'begun', 'hangUp')).toBe(1)
    expect(count(log, 'begun', 'closeStorage')).toBe(1)
  },
  'cuts off the runs that recovery or clients have begun before it closes anything, unless all have ended': ({
    log,
  }) => {
    const closing = first(log, 'begun', 'hangUp')
    const before = log.slice(0, Math.max(closing, 0))
    if (!before.some(is('begun', 'recover')) || before.some(is('done', 'runsEnded'))) return
    expect(count(before, 'effect', 'checkpoint')).toBe(1)
  },
  'takes nothing new before it says that it stops, and says so once': ({ log }) => {
    inOrder(log, ['effect', 'refuseNewTurns'], ['effect', 'announceShutdown'])
    expect(count(log, 'effect', 'announceShutdown')).toBeLessThanOrEqual(1)
  },
  'ends with a failure exactly when something it needed failed': ({ log, snapshot }) => {
    if (snapshot.status !== 'done') return
    const needed = ['openStorage', 'listen', 'recover', 'closeStorage']
    const lost = log.some((e) => is('event', 'failed')(e) && e.state.startsWith('stopping') && !before(log, e))
    const failed = lost || needed.some((name) => count(log, 'failed', name) > 0)
    expect(snapshot.context.failure !== null).toBe(failed)
  },
}

/** Whether the gateway was stopping already when an event came. */
function before(log: Entry[], entry: Entry): boolean {
  const events = log.slice(0, log.indexOf(entry)).filter(({ kind }) => kind === 'event')
  return (events.at(-1)?.state ?? '').startsWith('stopping')
}

const connection: Invariants = {
  'sends nothing but the challenge and a refusal before the peer is known': ({ log }) => {
    const welcomed = first(log, 'effect', 'welcome')
    const early = effects(welcomed < 0 ? log : log.slice(0, welcomed))
    const allowed = [
      'challenge',
      'refuseFirst',
      'authenticationFailed',
      'hold',
      'closeSocket',
      'terminate',
      'unexpected',
    ]
    expect(early.filter((name) => !allowed.includes(name))).toEqual([])
  },
  'welcomes a peer once, after its credentials were checked, and opens its lane right after': ({ log }) => {
    const all = effects(log)
    expect(count(log, 'effect', 'welcome')).toBeLessThanOrEqual(1)
    inOrder(log, ['done', 'authenticate'], ['effect', 'welcome'])
    if (all.includes('openLane')) expect(all[all.indexOf('openLane') - 1]).toBe('welcome')
    expect(count(log, 'effect', 'openLane')).toBe(count(log, 'effect', 'welcome'))
  },
  'closes the lane it opened on every way out': ({ log, snapshot }) => {
    const open = count(log, 'effect', 'openLane') - count(log, 'effect', 'closeLane')
    expect(open).toBe(snapshot.matches('authenticated') ? 1 : 0)
  },
  'closes the lane before the socket': ({ log }) => {
    const closed = first(log, 'effect', 'closeSocket')
    if (closed >= 0) expect(count(log.slice(closed), 'effect', 'closeLane')).toBe(0)
  },
  'gives the peer one reason, and tears the socket down only after that': ({ log }) => {
    expect(count(log, 'effect', 'closeSocket')).toBeLessThanOrEqual(1)
    inOrder(log, ['effect', 'closeSocket'], ['effect', 'terminate'])
  },
  'closes for the reason it was given': ({ log, snapshot }) => {
    for (const entry of log.filter(is('effect', 'closeSocket')))
      expect(paramsOf<{ close: unknown }>(entry).close).toBe(snapshot.context.close)
  },
  'holds at most four impatient frames': ({ log }) => {
    expect(count(log, 'effect', 'hold')).toBeLessThanOrEqual(4)
  },
  'is closed once the socket is gone': ({ log, snapshot }) => {
    if (count(log, 'event', 'socket.closed') > 0) expect(stateOf(snapshot)).toBe('closed')
  },
}

const ANSWERS = ['journal', 'attach', 'refuseReused', 'refuseBusy', 'refuseResting', 'refuseDraining']

const supervisor: Invariants = {
  'gives every request exactly one answer': ({ log }) => {
    expect(effects(log).filter((name) => ANSWERS.includes(name)).length).toBe(count(log, 'event', 'admit'))
  },
  'admits nothing once it drains, and lets what is down end': ({ log }) => {
    const drained = first(log, 'event', 'drain')
    if (drained < 0) return
    const late = effects(log.slice(drained))
    const allowed = ['refuseReused', 'attach', 'refuseDraining', 'restart', 'unexpected']
    expect(late.filter((name) => !allowed.includes(name))).toEqual([])
  },
  'refuses the turns of a session exactly while it rests': ({ log }) => {
    let resting = false
    for (const entry of log) {
      if (is('effect', 'quarantine')(entry)) resting = true
      if (is('event', 'rested')(entry)) resting = false
      if (is('effect', 'refuseResting')(entry)) expect(resting).toBe(true)
      if (is('effect', 'journal')(entry)) expect(resting).toBe(false)
    }
  },
}

const session: Invariants = {
  'runs one at a time': ({ log }) => {
    let running: string | null = null
    for (const entry of log) {
      const { runId } = (entry.params ?? {}) as { runId?: string }
      if (is('event', 'ended')(entry) && runId === running) running = null
      if (!is('effect', 'begin')(entry)) continue
      expect(running).toBeNull()
      running = runId!
    }
  },
  'begins the runs in the order in which they came, each once': ({ log }) => {
    const waiting: string[] = []
    for (const entry of log) {
      const { runId } = (entry.params ?? {}) as { runId: string }
      if (is('event', 'turn')(entry)) waiting.push(runId)
      if (is('effect', 'begin')(entry)) expect(runId).toBe(waiting.shift())
      if (is('event', 'ended')(entry) && waiting.includes(runId)) waiting.splice(waiting.indexOf(runId), 1)
    }
  },
  'loses no turn: each begins, waits, or ended while it waited': ({ log, snapshot }) => {
    const waiting = new Set<string>()
    for (const entry of log) {
      const { runId } = (entry.params ?? {}) as { runId: string }
      if (is('event', 'turn')(entry)) waiting.add(runId)
      if (is('effect', 'begin')(entry) || is('event', 'ended')(entry)) waiting.delete(runId)
    }
    expect([...waiting]).toEqual(snapshot.context.queue)
  },
  'is idle exactly when nothing runs, and then nothing waits': ({ snapshot }) => {
    const { running, queue } = snapshot.context
    expect(running === null).toBe(!snapshot.matches('busy'))
    if (running === null) expect(queue).toEqual([])
  },
  'stops only what is in it, the waiting ones first': ({ log }) => {
    let queue: string[] = []
    let running: string | undefined
    let expected: string[] = []
    for (const entry of log) {
      const { runId } = (entry.params ?? {}) as { runId?: string | null }
      if (entry.kind === 'event') expect(expected).toEqual([])
      if (is('event', 'turn')(entry)) queue.push(runId!)
      if (is('effect', 'begin')(entry)) {
        running = runId!
        queue = queue.filter((id) => id !== runId)
      }
      if (is('event', 'ended')(entry)) {
        queue = queue.filter((id) => id !== runId)
        if (running === runId) running = undefined
      }
      if (is('event', 'abort')(entry)) {
        const all = [...queue, ...(running === undefined ? [] : [running])]
        expected = all.filter((id) => runId === null || id === runId)
      }
      if (is('effect', 'abortRun')(entry)) expect(runId).toBe(expected.shift())
    }
    expect(expected).toEqual([])
  },
  'retires only when nothing runs': ({ log, snapshot }) => {
    if (snapshot.status !== 'done') return
    const begun = idsOf(log, 'effect', 'begin')
    expect(begun.filter((id) => !idsOf(log, 'event', 'ended').includes(id))).toEqual([])
  },
}

const idsOf = (log: Entry[], kind: Entry['kind'], name: string): string[] =>
  log.filter(is(kind, name)).map((entry) => paramsOf<{ runId: string }>(entry).runId)

const run: Invariants = {
  'announces its end exactly once, and only when the end is on disk': ({ log, snapshot }) => {
    expect(count(log, 'effect', 'announceEnd')).toBe(snapshot.status === 'done' ? 1 : 0)
    inOrder(log, ['done', 'journalEnd'], ['effect', 'announceEnd'])
  },
  'asks the model only when the start is on disk, and once': ({ log }) => {
    inOrder(log, ['done', 'journalStart'], ['begun', 'model'])
    expect(count(log, 'begun', 'model')).toBeLessThanOrEqual(1)
  },
  'opens no stream after an abort': ({ log }) => {
    const aborted = first(log, 'event', 'abort')
    if (aborted >= 0) expect(count(log.slice(aborted), 'effect', 'openStream')).toBe(0)
  },
  'closes the stream it opened, before it writes the end': ({ log, snapshot }) => {
    const open = count(log, 'effect', 'openStream') - count(log, 'effect', 'closeStream')
    expect(open).toBe(snapshot.matches('streaming') ? 1 : 0)
    const ending = first(log, 'begun', 'journalEnd')
    if (ending >= 0) expect(count(log.slice(ending), 'effect', 'closeStream')).toBe(0)
  },
  'lets the model go when it does not wait for it any more': ({ log, snapshot }) => {
    if (count(log, 'begun', 'model') === 0) return
    const over = ['done', 'failed', 'dropped'] as const
    const ended = over.some((kind) => count(log, kind, 'model') > 0)
    expect(ended).toBe(!snapshot.matches('streaming'))
  },
  'ends in the state that its outcome names': ({ snapshot }) => {
    if (snapshot.status === 'done') expect(snapshot.value).toBe(snapshot.context.outcome.state)
  },
  'writes and announces one and the same outcome, however often it tries': ({ log, snapshot }) => {
    const told = log.filter((entry) => is('begun', 'journalEnd')(entry) || is('effect', 'announceEnd')(entry))
    for (const entry of told) expect(paramsOf<{ outcome: unknown }>(entry).outcome).toEqual(snapshot.context.outcome)
  },
  'is aborted when it is stopped before anything else decided': ({ log, snapshot }) => {
    const aborted = log.find(is('event', 'abort'))
    if (!aborted) return
    const decided = log.slice(0, log.indexOf(aborted)).some(is('begun', 'journalEnd'))
    if (!decided) expect(snapshot.context.outcome).toMatchObject({ state: 'aborted', stopReason: 'rpc' })
  },
  'times out only where there is a deadline': ({ snapshot }) => {
    if (snapshot.context.timeoutMs === 0) expect(snapshot.context.outcome?.state).not.toBe('timedOut')
  },
}

const withAlways = (invariants: Invariants): Invariants => ({ ...ALWAYS, ...invariants })

export const INVARIANTS: { [chart: string]: Invariants } = {
  gateway: withAlways(gateway),
  connection: withAlways(connection),
  supervisor: withAlways(supervisor),
  session: withAlways(session),
  run: withAlways(run),
}

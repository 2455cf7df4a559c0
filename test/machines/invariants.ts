/** What holds on every way through a chart, in a sentence each. They are checked on tours and on random walks. */
import { expect } from 'vitest'
import { POLICY } from './plans.ts'
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
  'begins the runs in the order in which they came, interrupting ones first, gathered ones with their last': ({
    log,
    snapshot,
  }) => {
    let queue: Turn[] = []
    for (const entry of log) {
      if (is('event', 'turn')(entry)) queue = arrive(queue, paramsOf<Turn>(entry))
      if (is('effect', 'begin')(entry)) {
        const { runId, absorbs } = paramsOf<{ runId: string; absorbs: string[] }>(entry)
        const ids = queue.map((turn) => turn.runId)
        const group = queue.slice(0, absorbs.length + 1)
        expect([...absorbs, runId]).toEqual(ids.slice(0, group.length))
        const gathers = ['collect', 'interrupt'].includes(group[0]!.mode)
        for (const { mode } of group.slice(1)) expect([gathers, mode]).toEqual([true, group[0]!.mode])
        if (gathers) expect(queue[group.length]?.mode).not.toBe(group[0]!.mode)
        queue = queue.filter((turn) => turn.runId !== runId)
      }
      if (is('event', 'ended')(entry)) queue = queue.filter(({ runId }) => runId !== paramsOf<Turn>(entry).runId)
    }
    expect(snapshot.context.queue).toEqual(queue)
  },
  'tells each turn that waits its place, and lets it join or interrupt only what runs': ({ log, snapshot }) => {
    let running: string | null = null
    const waited = new Set<string>()
    for (const entry of log) {
      const { runId } = (entry.params ?? {}) as { runId: string }
      if (is('event', 'turn')(entry) && running !== null) waited.add(runId)
      if (is('event', 'ended')(entry) && runId === running) running = null
      if (is('effect', 'begin')(entry)) running = runId
      if (is('effect', 'steer')(entry)) expect(paramsOf<{ into: string }>(entry).into).toBe(running)
      if (is('effect', 'announcePlace')(entry)) {
        expect(paramsOf<{ place: number }>(entry).place).toBeGreaterThanOrEqual(1)
        expect(waited.delete(runId)).toBe(true)
      }
    }
    expect([...waited], JSON.stringify(snapshot.context)).toEqual([])
  },
  'is idle exactly when nothing runs, and then nothing waits': ({ snapshot }) => {
    const { running, queue } = snapshot.context
    expect(running === null).toBe(!snapshot.matches('busy'))
    if (running === null) expect(queue).toEqual([])
  },
  'stops only what is in it, the waiting ones first': ({ log }) => {
    let queue: Turn[] = []
    let running: string | undefined
    let expected: string[] = []
    for (const entry of log) {
      const { runId } = (entry.params ?? {}) as { runId?: string | null }
      if (entry.kind === 'event') expect(expected).toEqual([])
      if (is('event', 'turn')(entry)) {
        if (paramsOf<Turn>(entry).mode === 'interrupt' && running !== undefined) expected = [running]
        queue = arrive(queue, paramsOf<Turn>(entry))
      }
      if (is('effect', 'begin')(entry)) {
        running = runId!
        queue = queue.filter((turn) => turn.runId !== runId)
      }
      if (is('event', 'ended')(entry)) {
        queue = queue.filter((turn) => turn.runId !== runId)
        if (running === runId) running = undefined
      }
      if (is('event', 'abort')(entry)) {
        const all = [...queue.map((turn) => turn.runId), ...(running === undefined ? [] : [running])]
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

interface Turn {
  runId: string
  mode: string
}

/** A queue with one more: behind all others, or before all but those that interrupt, too. */
function arrive(queue: Turn[], { runId, mode }: Turn): Turn[] {
  const isUrgent = (turn: Turn) => turn.mode === 'interrupt'
  const turn = { runId, mode }
  if (!isUrgent(turn)) return [...queue, turn]
  return [...queue.filter(isUrgent), turn, ...queue.filter((other) => !isUrgent(other))]
}

const idsOf = (log: Entry[], kind: Entry['kind'], name: string): string[] =>
  log.filter(is(kind, name)).map((entry) => paramsOf<{ runId: string }>(entry).runId)

const standby: Invariants = {
  'lets another one answer after so many misses in a row, or one while it is in doubt, and hands back with the first check that is passed':
    ({ log, snapshot }) => {
      const { misses } = snapshot.context
      let missed = 0
      /** Checks that it has still to pass until it is not in doubt any more. */
      let doubts = 0
      let isReplaced = false
      let isDue = false
      for (const entry of log) {
        if (is('event', 'missed')(entry)) missed += 1
        if (is('event', 'missed')(entry) || is('event', 'failed')(entry)) {
          isDue = !isReplaced && (doubts > 0 || missed === misses)
        }
        if (is('event', 'passed')(entry)) {
          missed = 0
          doubts = isReplaced ? misses : Math.max(0, doubts - 1)
        }
        if (is('effect', 'standIn')(entry)) {
          expect([isReplaced, isDue]).toEqual([false, true])
          isReplaced = true
          isDue = false
          doubts = 0
        }
        if (is('effect', 'handBack')(entry)) {
          expect([isReplaced, missed, doubts]).toEqual([true, 0, misses])
          isReplaced = false
        }
      }
      expect(isDue).toBe(false)
      expect(snapshot.matches('replaced')).toBe(isReplaced)
      expect(snapshot.matches('doubtful')).toBe(doubts > 0)
    },
}

const toolServer: Invariants = {
  'offers its tools exactly while it is ready': ({ log, snapshot }) => {
    const offered = count(log, 'effect', 'offer') - count(log, 'effect', 'withdraw')
    expect(offered).toBe(snapshot.matches('ready') ? 1 : 0)
    expect(count(log, 'effect', 'offer')).toBe(count(log, 'done', 'connect'))
  },
  'is begun again only when nothing is left of the one before': ({ log }) => {
    let isCleared = true
    for (const entry of log) {
      if (is('begun', 'connect')(entry)) {
        expect(isCleared).toBe(true)
        isCleared = false
      }
      if (is('done', 'clear')(entry) || is('failed', 'clear')(entry)) isCleared = true
    }
  },
  'says each time why it went away': ({ log }) => {
    const told = log.filter(is('effect', 'tellLost')).map((entry) => paramsOf<{ why: string }>(entry).why)
    for (const why of told) expect(why).not.toBe('')
    expect(told.length).toBeGreaterThanOrEqual(count(log, 'failed', 'connect'))
  },
  'rests after five restarts, or when nobody knows what is left of it': ({ log, snapshot }) => {
    let failures = 0
    for (const entry of log) {
      if (is('done', 'clear')(entry)) failures += 1
      if (is('failed', 'clear')(entry)) failures = 0
      if (!is('effect', 'quarantine')(entry)) continue
      expect([0, POLICY.restarts + 1]).toContain(failures)
      failures = 0
    }
    if (snapshot.status === 'active' && !snapshot.matches('stopping'))
      expect(failures).toBeLessThanOrEqual(POLICY.restarts)
  },
  'is put away before it is stopped, if it was ever begun': ({ log, snapshot }) => {
    if (snapshot.status !== 'done' || count(log, 'begun', 'connect') === 0) return
    const last = log.findLastIndex(is('begun', 'connect'))
    const cleared = log.slice(last).some((entry) => is('done', 'clear')(entry) || is('failed', 'clear')(entry))
    expect(cleared).toBe(true)
  },
}

const schedule: Invariants = {
  'has its turn taken only when it is on disk that its time has come, and once for each time': ({ log }) => {
    // What a former process left under way is on disk already.
    let written = log.some((entry) => is('begun', 'carryOut')(entry)) && !startsWithLook(log) ? 1 : 0
    for (const entry of log) {
      if (is('done', 'journalFiring')(entry) && paramsOf<{ fired: string }>(entry).fired === 'open') written += 1
      if (is('done', 'carryOut')(entry)) written -= 1
      if (is('begun', 'carryOut')(entry)) expect(written).toBe(1)
    }
  },
  'waits for its next time only when it is on disk how the last one ended': ({ log }) => {
    let isOwed = false
    for (const entry of log) {
      if (is('done', 'carryOut')(entry)) isOwed = true
      if (is('done', 'journalFiring')(entry) && paramsOf<{ fired: string }>(entry).fired === 'ended') isOwed = true
      if (is('done', 'journalEnd')(entry)) isOwed = false
      if (is('begun', 'look')(entry)) expect(isOwed).toBe(false)
    }
  },
  'fires only with a place': ({ log }) => {
    let hasPlace = false
    for (const entry of log) {
      if (is('done', 'place')(entry)) hasPlace = true
      if (is('begun', 'journalFiring')(entry)) expect(hasPlace).toBe(true)
      if (is('begun', 'look')(entry)) hasPlace = false
    }
  },
  'says each time when the disk refused': ({ log }) => {
    const failures = ['journalFiring', 'carryOut', 'journalEnd'].map((name) => count(log, 'failed', name))
    expect(count(log, 'effect', 'storageFailed')).toBe(failures.reduce((sum, n) => sum + n, 0))
  },
  'never waits for longer than a timer can hold': ({ snapshot }) => {
    expect(snapshot.context.waitMs).toBeLessThanOrEqual(snapshot.context.longestMs)
  },
}

const startsWithLook = (log: Entry[]): boolean => log.find(({ kind }) => kind === 'begun')?.name === 'look'

const run: Invariants = {
  'announces its end exactly once, and only when the end is on disk': ({ log, snapshot }) => {
    expect(count(log, 'effect', 'announceEnd')).toBe(snapshot.status === 'done' ? 1 : 0)
    inOrder(log, ['done', 'journalEnd'], ['effect', 'announceEnd'])
  },
  'asks the model only when the start is on disk, once, and once more after turns have joined or tools were called': ({
    log,
  }) => {
    inOrder(log, ['done', 'journalStart'], ['begun', 'model'])
    let asked = 0
    for (const entry of log) {
      if (is('begun', 'takeIn')(entry) || is('done', 'room')(entry)) asked = 0
      if (is('begun', 'model')(entry)) asked += 1
      expect(asked).toBeLessThanOrEqual(1)
    }
  },
  'asks no model while turns are joining, and joins each once': ({ log, snapshot }) => {
    const working = (name: string) =>
      count(log, 'begun', name) - (['done', 'failed', 'dropped'] as const).reduce((n, k) => n + count(log, k, name), 0)
    if (working('takeIn') > 0) expect(working('model')).toBe(0)
    const joined = log.filter(is('done', 'takeIn')).flatMap((entry) => paramsOf<string[]>(entry) ?? [])
    expect(new Set(snapshot.context.joining).size).toBe(snapshot.context.joining.length)
    expect(joined.length).toBeLessThanOrEqual(count(log, 'event', 'steer'))
  },
  'calls tools only for a model that asked for some, and asks it again only with room and a result': ({
    log,
    snapshot,
  }) => {
    const wanted = log.filter((entry) => is('done', 'model')(entry) && paramsOf<{ calls: number }>(entry).calls > 0)
    expect(count(log, 'begun', 'callTools')).toBe(wanted.length)
    expect(count(log, 'begun', 'room')).toBe(count(log, 'done', 'callTools'))
    if (count(log, 'begun', 'callTools') > 0 && count(log, 'done', 'room') === 0)
      inOrder(log, ['begun', 'model'], ['begun', 'callTools'])
    if (snapshot.matches({ streaming: 'callingTools' })) expect(snapshot.context.outcome).toBeNull()
  },
  'answers with another run only what it had not begun': ({ log, snapshot }) => {
    if (snapshot.context.outcome?.absorbedBy === undefined) return
    expect(count(log, 'begun', 'journalStart')).toBe(0)
    expect(snapshot.context.outcome).toMatchObject({ state: 'completed', stopReason: 'absorbed' })
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
    const ended = over.reduce((sum, kind) => sum + count(log, kind, 'model'), 0)
    expect(count(log, 'begun', 'model') - ended).toBe(snapshot.matches({ streaming: 'asking' }) ? 1 : 0)
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

const client: Invariants = {
  'lets requests leave exactly while it is online': ({ log, snapshot }) => {
    const open = count(log, 'effect', 'openLane') - count(log, 'effect', 'closeLane')
    expect(open).toBe(snapshot.matches('online') ? 1 : 0)
  },
  'greets before it lets requests leave, and says who it is only when it was asked': ({ log }) => {
    inOrder(log, ['event', 'challenged'], ['begun', 'greet'])
    inOrder(log, ['done', 'greet'], ['effect', 'openLane'])
  },
  'asks for what was missed on each connection, and only there': ({ log }) => {
    expect(count(log, 'begun', 'catchUp')).toBe(count(log, 'effect', 'openLane'))
  },
  'opens a socket only when the one before is gone': ({ log }) => {
    let open = 0
    for (const entry of log) {
      if (is('effect', 'openSocket')(entry)) open += 1
      if (is('event', 'lost')(entry)) open = 0
      expect(open).toBeLessThanOrEqual(1)
    }
  },
  'tries again only as often as it may': ({ log, snapshot }) => {
    const { backoff } = snapshot.context
    const sockets = count(log, 'effect', 'openSocket')
    if (backoff === null) expect(sockets).toBe(1)
    if (backoff?.fromStart === false && count(log, 'effect', 'openLane') === 0) expect(sockets).toBe(1)
  },
  'lets go of the socket in every end that is its own': ({ log, snapshot }) => {
    if (snapshot.matches('closed') || snapshot.matches('refused')) expect(count(log, 'effect', 'hangUp')).toBe(1)
    else expect(count(log, 'effect', 'hangUp')).toBe(0)
  },
  'watches for silence only while it is online': ({ log, snapshot }) => {
    for (const entry of log.filter(is('effect', 'dropSocket')))
      if (paramsOf<{ why: string }>(entry).why.includes('silent'))
        expect(log.slice(0, log.indexOf(entry)).some(is('effect', 'openLane'))).toBe(true)
    expect(snapshot.context.failures).toBeGreaterThanOrEqual(0)
  },
}

const pairing: Invariants = {
  'gives nobody what was not asked for, or what the approver does not hold': ({ log, snapshot }) => {
    const { wanted, granted } = snapshot.context as { wanted: string[]; granted: string[] }
    const given = log.filter(is('event', 'approve')).map((entry) => paramsOf<{ holds: string[] }>(entry).holds)
    for (const scope of granted) {
      expect(wanted).toContain(scope)
      const held = given.some((holds) => holds.includes(scope))
      expect(held, `${scope} was held by somebody who approved`).toBe(true)
    }
  },
  'asks for the same from its beginning to its end': ({ log, snapshot }) => {
    for (const entry of log.filter(is('begun', 'keep')))
      expect(snapshot.context.wanted).toEqual(expect.arrayContaining(paramsOf<{ granted: string[] }>(entry).granted))
  },
  'is resolved once, in the word of the state it ends in': ({ log, snapshot }) => {
    const words = log.filter(is('effect', 'resolve')).map((entry) => paramsOf<{ decision: string }>(entry).decision)
    expect(words).toEqual(snapshot.status === 'done' ? [snapshot.value] : [])
  },
  'is approved or rejected only when that is on disk': ({ log, snapshot }) => {
    if (snapshot.value === 'approved' || snapshot.value === 'rejected') expect(count(log, 'done', 'keep')).toBe(1)
    else expect(count(log, 'done', 'keep')).toBe(0)
  },
  'grants nothing unless it is approved': ({ snapshot }) => {
    if (snapshot.context.verdict !== 'approved') expect(snapshot.context.granted).toEqual([])
  },
}

const DECIDED: { [state: string]: string | null } = {
  allowedOnce: 'allow-once',
  allowedAlways: 'allow-always',
  denied: 'deny',
  expired: null,
  abandoned: null,
}

const approval: Invariants = {
  'is shown once, before anything else is said of it': ({ log }) => {
    expect(effects(log)[0]).toBe('announceRequest')
    expect(count(log, 'effect', 'announceRequest')).toBe(1)
  },
  'answers who asked exactly once, when it is over, with what its end is': ({ log, snapshot }) => {
    const answers = log.filter(is('effect', 'answer')).map((entry) => paramsOf<{ decision: string | null }>(entry))
    if (snapshot.status !== 'done') return expect(answers).toEqual([])
    expect(answers.map(({ decision }) => decision)).toEqual([DECIDED[stateOf(snapshot)]])
  },
  'tells those who were asked, before the answer, unless they know by the clock': ({ log, snapshot }) => {
    const told = log.filter(is('effect', 'announceDecision')).map((entry) => paramsOf<{ decision: unknown }>(entry))
    const state = stateOf(snapshot)
    expect(told.map(({ decision }) => decision)).toEqual(
      snapshot.status === 'done' && state !== 'expired' ? [DECIDED[state]] : [],
    )
    if (told.length > 0) inOrder(log, ['effect', 'announceDecision'], ['effect', 'answer'])
  },
  'takes the first decision, unless the disk refused it': ({ log, snapshot }) => {
    const decisions: string[] = ['allowOnce', 'allowAlways', 'deny']
    const from = log.findLastIndex(is('effect', 'tellNotKept')) + 1
    const decided = log.slice(from).find((entry) => entry.kind === 'event' && decisions.includes(entry.name))
    const reached: { [event: string]: string[] } = {
      allowOnce: ['allowedOnce'],
      allowAlways: ['open.keeping', 'allowedAlways'],
      deny: ['denied'],
    }
    if (decided) expect(reached[decided.name]).toContain(stateOf(snapshot))
    else expect(['open.pending', 'expired', 'abandoned']).toContain(stateOf(snapshot))
  },
  'is allowed for good only once that is on the disk': ({ log, snapshot }) => {
    expect(count(log, 'done', 'keepRule')).toBe(snapshot.matches('allowedAlways') ? 1 : 0)
    expect(count(log, 'dropped', 'keepRule')).toBe(0)
  },
  'says each time that a decision could not be kept': ({ log }) => {
    expect(count(log, 'effect', 'tellNotKept')).toBe(count(log, 'failed', 'keepRule'))
  },
  'waits neither beyond its time nor for nobody, but for the disk': ({ log, snapshot }) => {
    const over = count(log, 'event', 'gone') + count(log, 'event', 'expire')
    if (over > 0) expect(snapshot.matches({ open: 'pending' })).toBe(false)
  },
}

const invocation: Invariants = {
  'tells who waits exactly once, when it is over, how it ended': ({ log, snapshot }) => {
    const told = log.filter(is('effect', 'settle')).map((entry) => paramsOf<{ ending: string }>(entry).ending)
    expect(told).toEqual(snapshot.status === 'done' ? [stateOf(snapshot)] : [])
  },
  'does nothing once it has told': ({ log }) => {
    const at = first(log, 'effect', 'settle')
    if (at >= 0) expect(effects(log.slice(at + 1)).filter((name) => name !== 'unexpected')).toEqual([])
  },
  'asks at once when there is a node, and once more each time one is back': ({ log }) => {
    const wasThere = log[0]?.name === 'ask' ? 1 : 0
    const over = first(log, 'effect', 'settle')
    const until = over < 0 ? log : log.slice(0, over)
    expect(count(log, 'effect', 'ask')).toBe(wasThere + count(until, 'event', 'back'))
  },
  'has a word from the node before it is answered, and says why where it failed': ({ log, snapshot }) => {
    if (snapshot.matches('answered')) expect(count(log, 'event', 'answer')).toBeGreaterThan(0)
    expect(snapshot.context.error !== null).toBe(snapshot.matches('failed'))
  },
  'calls a node off that is at it and not wanted any more, and none that has answered': ({ log, snapshot }) => {
    const called = count(log, 'effect', 'callOff')
    expect(called).toBeLessThanOrEqual(1)
    if (snapshot.matches('answered') || snapshot.matches('lost') || snapshot.status !== 'done') expect(called).toBe(0)
    if (snapshot.matches('timedOut')) expect(called).toBe(1)
  },
  'waits for a node only where it was given time for that': ({ snapshot }) => {
    if (snapshot.matches({ open: 'away' })) expect(snapshot.context.graceMs).toBeGreaterThan(0)
  },
}

const withAlways = (invariants: Invariants): Invariants => ({ ...ALWAYS, ...invariants })

export const INVARIANTS: { [chart: string]: Invariants } = {
  gateway: withAlways(gateway),
  connection: withAlways(connection),
  supervisor: withAlways(supervisor),
  session: withAlways(session),
  run: withAlways(run),
  client: withAlways(client),
  approval: withAlways(approval),
  standby: withAlways(standby),
  pairing: withAlways(pairing),
  invocation: withAlways(invocation),
  'tool-server': withAlways(toolServer),
  schedule: withAlways(schedule),
}

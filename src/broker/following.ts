/** Who asked to hear what becomes of sessions, and the ear that hears it: whatever changes one passes the store. */
import type { Payload } from '../contract/index.ts'
import { agentIn } from '../contract/session-key.ts'
import type { RunRecord, SessionRecord, Store, TranscriptMessage } from '../stores/store.ts'
import type { Caller } from './dispatch.ts'
import type { Hub } from './hub.ts'
import type { Log } from './log.ts'

type Follower = Pick<Caller, 'connId' | 'gone'>

export interface Following {
  /** Lets somebody hear of every session that they reach, until they leave. */
  followAll(follower: Follower): void
  /** Lets somebody hear what is said in one. False: they hear as many as they may. */
  follow(follower: Follower, sessionKey: string): boolean
  unfollow(follower: Pick<Follower, 'connId'>, sessionKey: string): void
  /** The same store, which tells of what it has kept. */
  ear(store: Store): Store
}

/** Sessions that one connection may follow. */
const MOST_FOLLOWED = 64

type Change = Pick<Payload<'sessions.changed'>, 'reason' | 'phase' | 'runId' | 'sessionId' | 'updatedAt'>

/** @param hub asked for when there is something to tell: it is made after the store */
export function createFollowing({
  hub,
  log,
  now,
}: {
  hub(): Pick<Hub, 'tellAll'>
  log: Log
  now(): number
}): Following {
  const ofAll = new Set<string>()
  /** The sessions of each connection that follows some. */
  const ofSome = new Map<string, Set<string>>()

  function changed({ key: sessionKey, agentId }: Pick<SessionRecord, 'key' | 'agentId'>, change: Change): void {
    if (ofAll.size === 0) return
    const only = ({ connId }: { connId: string }) => ofAll.has(connId)
    hub().tellAll('sessions.changed', { sessionKey, agentId, ...change, ts: now() }, { about: sessionKey, only })
  }

  function said(at: Omit<Payload<'session.message'>, 'message' | 'ts'>, message: TranscriptMessage): void {
    const { sessionKey } = at
    const only = ({ connId }: { connId: string }) => ofSome.get(connId)?.has(sessionKey) === true
    hub().tellAll('session.message', { ...at, message, ts: now() }, { about: sessionKey, only })
  }

  const reset = ({ sessionId, updatedAt }: SessionRecord) => ({ sessionId, updatedAt })
  const placeOf = ({ sessionKey, agentId, runId, sessionId }: RunRecord) => ({ sessionKey, agentId, runId, sessionId })
  const isHeard = () => ofAll.size > 0 || ofSome.size > 0

  return {
    followAll({ connId, gone }) {
      if (ofAll.has(connId) || gone().aborted) return
      ofAll.add(connId)
      gone().addEventListener('abort', () => ofAll.delete(connId), { once: true })
    },
    follow({ connId, gone }, sessionKey) {
      const known = ofSome.get(connId)
      if (known?.has(sessionKey) || gone().aborted) return true
      if (known && known.size >= MOST_FOLLOWED) return false
      if (known) known.add(sessionKey)
      else {
        ofSome.set(connId, new Set([sessionKey]))
        gone().addEventListener('abort', () => ofSome.delete(connId), { once: true })
      }
      return true
    },
    unfollow: ({ connId }, sessionKey) => void ofSome.get(connId)?.delete(sessionKey),
    ear(store) {
      /** Tells of what was done, once it is on disk; nobody who did it waits for that. */
      function then<T>(done: Promise<T>, tell: (result: T) => void | Promise<void>): Promise<T> {
        done.then(tell).catch((error: unknown) => {
          // What was not done, whoever asked for it is told.
          if (isHeard()) log.debug({ err: error }, 'nothing is told of what became of a session')
        })
        return done
      }
      const heard: Partial<Store> = {
        accept: (turn) =>
          then(store.accept(turn), (answer) => {
            if (answer.kind !== 'accepted') return
            const { runId, sessionId } = answer
            changed({ ...turn, key: turn.sessionKey }, { reason: 'send', runId, sessionId, updatedAt: turn.acceptedAt })
          }),
        start: (runId, startedAt, attempt = 1) =>
          then(store.start(runId, startedAt, attempt), async () => {
            const run = isHeard() ? await store.run(runId) : undefined
            if (!run) return
            const at = placeOf(run)
            changed({ ...run, key: run.sessionKey }, { phase: 'start', runId, sessionId: run.sessionId })
            if (attempt > 1 || run.message === '') return
            said(at, { role: 'user', content: [{ type: 'text', text: run.message }], timestamp: startedAt })
          }),
        settle: (runId, ending) =>
          then(store.settle(runId, ending), async (isFirst) => {
            const run = isFirst && isHeard() ? await store.run(runId) : undefined
            if (!run) return
            for (const message of ending.before ?? []) said(placeOf(run), message)
            if (ending.message) said(placeOf(run), ending.message)
            const phase = ending.state === 'completed' || ending.state === 'aborted' ? 'end' : 'error'
            const { sessionId } = run
            changed({ ...run, key: run.sessionKey }, { phase, runId, sessionId, updatedAt: ending.endedAt })
          }),
        patchSession: (session, settings, at) =>
          then(store.patchSession(session, settings, at), (record) =>
            changed(record, { reason: 'patch', ...reset(record) }),
          ),
        resetSession: (session, at) =>
          then(store.resetSession(session, at), (record) => changed(record, { reason: 'reset', ...reset(record) })),
        compactSession: (key, archive) =>
          then(store.compactSession(key, archive), async (compaction) => {
            const record = compaction?.moved && isHeard() ? await store.session(key) : undefined
            if (record) changed(record, { reason: 'compact', ...reset(record) })
          }),
        deleteSession: (key) =>
          then(store.deleteSession(key), (isDone) => {
            if (isDone) changed({ key, agentId: agentIn(key) ?? '' }, { reason: 'delete' })
          }),
        append: (key, message, create) =>
          then(store.append(key, message, create), (record) => {
            if (!record) return
            const { agentId, sessionId } = record
            said({ sessionKey: key, agentId, sessionId }, message)
            changed(record, { phase: 'message', ...reset(record) })
          }),
      }
      return new Proxy(store, {
        get: (target, name) =>
          (heard as { [name: string | symbol]: unknown })[name] ?? Reflect.get(target, name, target),
      })
    },
  }
}

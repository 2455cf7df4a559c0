/** The requests for approval that wait: each an actor, who asked, and who decides. */
import { createHash, randomUUID } from 'node:crypto'
import { approvalMachine } from '../../machines/approval.ts'
import { SHARED } from '../auth/principals.ts'
import type { approvalEvents, Decision, PendingApproval, Shown } from '../contract/approvals.ts'
import type { PayloadOf } from '../contract/block.ts'
import { GatewayError } from '../contract/errors.ts'
import { holds } from '../contract/scopes.ts'
import type { ApprovalsDocument } from './approvals-document.ts'
import type { Caller } from './dispatch.ts'
import { createHost, type HostOptions, work } from './host.ts'
import { mayReach } from './hub.ts'
import type { Log } from './log.ts'

/** A request as it comes in. */
export interface NewApproval {
  /** The id wanted. */
  id: string | undefined
  request: Shown
  /** Whose command it is; with the canonical session, what an `allow-always` is bound to. */
  agentId: string
  sessionKey: string | undefined
  timeoutMs: number | undefined
}

interface AnsweredApproval {
  id: string
  /** Null: nobody decided. */
  decision: Decision | null
  createdAtMs: number
  expiresAtMs: number
  /** Why it was denied where nobody did. */
  reason?: string
}

type Requester = Pick<Caller, 'connId' | 'principal' | 'gone'>
export type Approver = Pick<Caller, 'connId' | 'principal' | 'scopes' | 'sessions' | 'client'>

export interface Approvals {
  /**
   * Asks those who may decide, unless it is allowed already. Resolves, exactly once, to how it ended.
   * @throws GatewayError APPROVAL_ID_USED, TOO_MANY_APPROVALS
   */
  request(asked: NewApproval, requester: Requester): Promise<AnsweredApproval>
  /**
   * Decides a request. Of several who decide, the first does; an `allow-always` is durable when it resolves.
   * @throws GatewayError UNKNOWN_APPROVAL, OWN_APPROVAL, and what the document throws: then it waits on
   */
  resolve(id: string, decision: Decision, approver: Approver): Promise<void>
  /** Those that wait in the sessions of an approver, the oldest first. */
  list(approver: Approver): PendingApproval[]
  readonly size: number
}

export interface ApprovalsNeeds {
  document: Pick<ApprovalsDocument, 'allows' | 'allow'>
  /**
   * Tells the holders of `operator.approvals`. Never as an event of a session: those who may read that would be given it again by
   * `chat.resume`.
   * @param about the session whose command it is
   */
  announceRequested(
    payload: PayloadOf<(typeof approvalEvents)['exec.approval.requested']>,
    about: string | undefined,
  ): void
  announceResolved(
    payload: PayloadOf<(typeof approvalEvents)['exec.approval.resolved']>,
    about: string | undefined,
  ): void
  log: Log
  now(): number
  /** Milliseconds of a clock that nobody sets. */
  monotonic(): number
  clock?: NonNullable<HostOptions<typeof approvalMachine>['clock']>
}

const EXPIRY_MS = 120_000
const LONGEST_EXPIRY_MS = 300_000
/** Requests of a principal that wait at once. */
const MOST_PENDING = 64
/** Ids that a principal chose and that are not free again yet. */
const MOST_SPENT = 1_000
const RETRY_MS = 1_000

const EVENTS = { 'allow-once': 'allowOnce', 'allow-always': 'allowAlways', deny: 'deny' } as const

interface Pending {
  asked: NewApproval
  shown: PendingApproval
  requester: Requester
  commandHash: string
  answered: PromiseWithResolvers<AnsweredApproval>
  /** The name of who decided. */
  resolvedBy: string | null
  /** For who decided: taken, or not kept. */
  taken: PromiseWithResolvers<void> | undefined
  /** The requester is not listened to any more. */
  release(): void
}

export function createApprovals(needs: ApprovalsNeeds): Approvals {
  const { document, log, now, monotonic } = needs
  const pending = new Map<string, Pending>()
  const pendingOf = tally()
  /** Chosen ids of requests that have ended, the oldest first: a late decision about one must not meet another of that id. */
  const spent = new Map<string, { principal: string; at: number }>()
  const spentOf = tally()

  /** A request that an effect is about is there by construction: it is forgotten only after its actor is done. */
  const get = (id: string): Pending => {
    const found = pending.get(id)
    if (!found) throw new Error(`approval ${id} is not there`)
    return found
  }

  const host = createHost({
    machine: approvalMachine.provide({
      actions: {
        announceRequest: (_, { id }) => needs.announceRequested(get(id).shown, get(id).asked.sessionKey),
        announceDecision: (_, { id, decision }) => {
          const { asked, resolvedBy } = get(id)
          needs.announceResolved({ id, decision, resolvedBy, ts: now() }, asked.sessionKey)
        },
        answer: (_, { id, decision }) => answer(get(id), decision),
        tellNotKept: (_, { id, error }) => {
          const { taken } = get(id)
          get(id).taken = undefined
          get(id).resolvedBy = null
          taken?.reject(error)
        },
        unexpected: (_, { id, event }) =>
          log.debug({ approvalId: id, event }, 'approval: an event that means nothing now'),
      },
      actors: {
        keepRule: work(({ id }) => {
          const { asked, commandHash } = get(id)
          return document.allow({ ...asked, commandHash }, asked.request.command, now())
        }),
      },
    }),
    onDone: forget,
    onCrash(id, error) {
      log.error({ approvalId: id, err: error }, 'a request for approval crashed; it is denied')
      const crashed = pending.get(id)
      if (!crashed) return
      const end = { decision: 'deny', reason: 'internal error: the request crashed' } as const
      try {
        needs.announceResolved({ id, ...end, resolvedBy: null, ts: now() }, crashed.asked.sessionKey)
      } catch (failure) {
        log.error({ approvalId: id, err: failure }, 'the end of a request that crashed could not be announced')
      }
      answer(crashed, end.decision, end.reason)
      crashed.taken?.reject(error)
      forget(id)
    },
    ...(needs.clock && { clock: needs.clock }),
  })

  function answer({ shown, answered }: Pending, decision: Decision | null, reason?: string): void {
    const { id, createdAtMs, expiresAtMs } = shown
    answered.resolve({ id, decision, createdAtMs, expiresAtMs, ...(reason !== undefined && { reason }) })
  }

  function forget(id: string): void {
    const { asked, requester, taken, release } = get(id)
    pending.delete(id)
    pendingOf.add(requester.principal, -1)
    release()
    taken?.resolve()
    if (asked.id === undefined) return
    spent.set(id, { principal: requester.principal, at: monotonic() })
    spentOf.add(requester.principal, 1)
  }

  /** Frees the ids that nobody can take for another's any more. */
  function sweep(): void {
    for (const [id, { principal, at }] of spent) {
      if (monotonic() - at < LONGEST_EXPIRY_MS) return
      spent.delete(id)
      spentOf.add(principal, -1)
    }
  }

  function checkRoom(id: string | undefined, principal: string): void {
    if (id !== undefined && pending.has(id)) throw new GatewayError('APPROVAL_ID_USED', 'approval id already pending')
    if (id !== undefined && spent.has(id)) throw new GatewayError('APPROVAL_ID_USED', 'approval id already used')
    if (pendingOf.count(principal) >= MOST_PENDING)
      throw new GatewayError('TOO_MANY_APPROVALS', `too many pending approvals (at most ${MOST_PENDING})`, {
        retryAfterMs: RETRY_MS,
      })
    if (id !== undefined && spentOf.count(principal) >= MOST_SPENT)
      throw new GatewayError('TOO_MANY_APPROVALS', `too many approval ids of your own (at most ${MOST_SPENT})`, {
        retryAfterMs: RETRY_MS,
      })
  }

  return {
    request(asked, requester) {
      sweep()
      const { principal } = requester
      checkRoom(asked.id, principal)
      const { request, timeoutMs = EXPIRY_MS } = asked
      const id = asked.id ?? randomUUID()
      const createdAtMs = now()
      const expiryMs = Math.min(timeoutMs, LONGEST_EXPIRY_MS)
      const expiresAtMs = createdAtMs + expiryMs
      const commandHash = hashOf(request)
      if (request.ask !== 'always' && document.allows({ ...asked, commandHash })) {
        log.info({ approvalId: id, principal, commandHash }, 'a command was allowed for good before')
        return Promise.resolve({ id, decision: 'allow-always', createdAtMs, expiresAtMs })
      }
      const gone = requester.gone()
      const leave = () => void host.get(id)?.send({ type: 'gone' })
      const opened: Pending = {
        asked,
        shown: { id, request, requestedBy: principal, createdAtMs, expiresAtMs },
        requester,
        commandHash,
        answered: Promise.withResolvers(),
        resolvedBy: null,
        taken: undefined,
        release: () => gone.removeEventListener('abort', leave),
      }
      pending.set(id, opened)
      pendingOf.add(principal, 1)
      gone.addEventListener('abort', leave, { once: true })
      host.open(id, { id, expiryMs })
      log.info(
        { approvalId: id, principal, agentId: asked.agentId, sessionKey: asked.sessionKey, commandHash, expiryMs },
        'a command waits for somebody to decide: exec.approval.resolve',
      )
      if (gone.aborted) leave()
      return opened.answered.promise
    },
    async resolve(id, decision, approver) {
      const actor = host.get(id)
      const event = { type: EVENTS[decision] }
      // Told and taken in one step, not by the mailbox: between the two nobody else can decide.
      const found = pending.get(id)
      if (!found || !reaches(approver, found) || !actor?.getSnapshot().can(event))
        throw new GatewayError('UNKNOWN_APPROVAL', 'unknown approval id')
      if (isRequester(approver, found.requester) && !holds(approver.scopes, 'operator.admin'))
        throw new GatewayError('OWN_APPROVAL', 'who asked for an approval cannot decide it')
      const { displayName, id: clientId } = approver.client
      const taken = Promise.withResolvers<void>()
      found.resolvedBy = displayName ?? clientId
      found.taken = taken
      const { commandHash, requester } = found
      actor.send(event)
      await taken.promise
      log.info(
        { approvalId: id, decision, commandHash, requestedBy: requester.principal, resolvedBy: approver.principal },
        'a command was decided about',
      )
    },
    list: (approver) => [...pending.values()].filter((one) => reaches(approver, one)).map(({ shown }) => shown),
    get size() {
      return pending.size
    },
  }
}

/** Whether a request is about a session of an approver. What is about none is for those who reach all. */
const reaches = (approver: Approver, { asked }: Pending): boolean => mayReach(approver, asked.sessionKey ?? '')

/** SHA-256 over what would be run: the words, the place and the program. */
function hashOf({ command, cwd, host, resolvedPath }: Shown): string {
  return createHash('sha256')
    .update(JSON.stringify([command, cwd, host, resolvedPath]))
    .digest('hex')
}

/**
 * Whether somebody is who asked: by the connection, and by the principal. Behind the shared token may be anybody: of that, another
 * connection is somebody else.
 */
function isRequester(approver: Approver, requester: Requester): boolean {
  return (
    approver.connId === requester.connId ||
    (approver.principal === requester.principal && approver.principal !== SHARED)
  )
}

/** How many of each name there are; who has none is forgotten. */
function tally() {
  const counts = new Map<string, number>()
  const count = (name: string) => counts.get(name) ?? 0
  return {
    count,
    add(name: string, difference: 1 | -1) {
      const next = count(name) + difference
      if (next === 0) counts.delete(name)
      else counts.set(name, next)
    },
  }
}

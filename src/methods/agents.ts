/** The agents and their models; turns addressed to an agent. */
import type { Agents } from '../broker/agents.ts'
import { type Caller, eventually, Failure, type Handlers, type Reply, twice } from '../broker/dispatch.ts'
import { lastWordsOfEnded } from '../broker/endings.ts'
import { mayReach } from '../broker/hub.ts'
import type { Ended, Runs } from '../broker/runs.ts'
import type { Turns } from '../broker/turns.ts'
import type { AgentConfig, Config } from '../config/config.ts'
import type { agents as contract } from '../contract/agents.ts'
import { LIMITS } from '../contract/connect.ts'
import { GatewayError } from '../contract/errors.ts'
import type { Params, Result } from '../contract/index.ts'
import { agentIn, type CanonicalKey, canonical, unknownAgent } from '../contract/session-key.ts'
import { LONGEST_TIMER_MS } from '../contract/timer.ts'
import type { Json, RunRecord, Store } from '../stores/store.ts'
import { readAttachments } from './attachments.ts'
import { addressed } from './door.ts'
import { setting } from './settings.ts'

export interface AgentsNeeds {
  agents: Agents
  store: Pick<Store, 'run' | 'session' | 'sessionOf'>
  turns: Turns
  runs: Pick<Runs, 'ending' | 'wait'>
  models: Config['models']
  scope: string
  takesImages(agentId: string, sessionModel: string | undefined): boolean
  identity(agent: AgentConfig): { name: string; avatar?: string | undefined }
  /** What an agent is doing. */
  activityOf(agentId: string): { reachable: boolean; running: number; waiting: number; lastError?: string }
  /** For whom an agent answers now, and who answers for it. Absent: everybody for itself. */
  standIn?(agentId: string): { standingInFor: string[]; replacedBy?: string }
}

const WAIT_MS = 30_000
export function agentMethods(needs: AgentsNeeds): Handlers<typeof contract> {
  const { agents, store, turns, runs } = needs

  /** Resolves when a run has ended that was admitted, though it may not be live yet. */
  async function over(runId: string, principal: string): Promise<void> {
    const known = new AbortController()
    try {
      // Listen first, look second: a run that ends in between is not missed.
      const next = runs.wait(runId, LONGEST_TIMER_MS, principal, known.signal)
      if ((await store.run(runId))?.endedAt === undefined) await next
    } finally {
      known.abort()
    }
  }

  /** What `agent` answers, the second time, for a run that has ended. */
  async function result(runId: string) {
    const run = await store.run(runId)
    if (!run)
      return new Failure(new GatewayError('RUN_FAILED', 'the run is no longer known'), { runId, status: 'error' })
    if (run.endedAt === undefined) {
      const retryAfterMs = 1_000
      return failure(runId, new GatewayError('TOO_MANY_WAITS', 'too many waits for runs', { retryAfterMs }), 'timeout')
    }
    switch (run.state) {
      case 'completed':
        return { runId, status: 'ok', summary: 'completed', result: run.result }
      case 'aborted':
        return { runId, status: 'ok', summary: 'aborted', result: run.result }
      case 'timedOut':
        return failure(runId, new GatewayError('RUN_TIMED_OUT', 'the run reached its deadline'), 'timeout')
      default:
        return failure(runId, new GatewayError('RUN_FAILED', run.error ?? 'the run failed'), 'error')
    }
  }

  const failure = (runId: string, error: GatewayError, status: string) =>
    new Failure(error, { runId, status, summary: error.message })

  /**
   * The ending of a run, once there is one; `timeout` when the time is up or the caller has gone. A run in a session that the caller
   * does not reach is waited for like one that never comes.
   */
  async function waitFor(runId: string, timeoutMs: number, caller: Caller): Promise<Result<'agent.wait'>> {
    const answer = ({
      state,
      startedAt,
      endedAt,
      error,
    }: Pick<RunRecord, 'state' | 'startedAt' | 'endedAt' | 'error'>) => ({
      runId,
      status: state === 'completed' || state === 'aborted' ? ('ok' as const) : ('error' as const),
      ...(startedAt !== undefined && { startedAt }),
      ...(endedAt !== undefined && { endedAt }),
      ...(state === 'timedOut' ? { error: 'the run reached its deadline' } : error !== undefined && { error }),
    })
    const listening = new AbortController()
    const giveUp = () => listening.abort()
    const gone = caller.gone()
    gone.addEventListener('abort', giveUp, { once: true })
    // What has been said already is not said again.
    if (gone.aborted) giveUp()
    try {
      // Listen first, look second: a run that ends in between is not missed.
      const next = runs.wait(runId, timeoutMs, caller.principal, listening.signal, ({ sessionKey }) =>
        mayReach(caller, sessionKey),
      )
      const kept = await store.run(runId)
      if (kept?.endedAt !== undefined && mayReach(caller, kept.sessionKey)) return answer(kept)
      const ended: Ended | undefined = await next
      if (!ended) return { runId, status: 'timeout' }
      const { outcome, startedAt, endedAt } = ended
      return answer({ ...outcome, ...(startedAt !== undefined && { startedAt }), endedAt })
    } finally {
      gone.removeEventListener('abort', giveUp)
      listening.abort()
    }
  }

  /** The key of the session that a request is for: by key, or the agent's main one. Undefined: it has to be looked up by its id. */
  function keyFor(
    params: { sessionKey?: string; sessionId?: string; agentId?: string },
    { sessions: reached }: Caller,
  ): string | undefined {
    // Which agents there are is nobody's business who reaches some sessions only.
    const refuse = (kind: 'UNKNOWN_AGENT' | 'INVALID_PARAMS', message: string, details?: { known: string[] }) =>
      reached
        ? new GatewayError('SESSION_NOT_FOUND', 'session not found')
        : new GatewayError(kind, `invalid agent params: ${message}`, details && { details })
    const agentId = params.agentId === undefined ? undefined : agents.resolve(params.agentId)
    if (params.agentId !== undefined && agentId === undefined)
      throw refuse('UNKNOWN_AGENT', unknownAgent(params.agentId, agents).message, { known: agents.ids() })
    if (params.sessionKey) {
      const named = agentIn(params.sessionKey)
      if (agentId && named !== undefined && agents.resolve(named) !== agentId)
        throw refuse('INVALID_PARAMS', `agent "${agentId}" does not match session key agent "${named.slice(0, 64)}"`)
      return agentId && named === undefined ? `agent:${agentId}:${params.sessionKey}` : params.sessionKey
    }
    if (params.sessionId) return undefined
    if (agentId) return `agent:${agentId}:${agents.mainKey}`
    throw new GatewayError(
      'INVALID_PARAMS',
      'invalid agent params: give sessionKey, sessionId or agentId to choose a session',
    )
  }

  async function keyById(sessionId: string, caller: Caller): Promise<string> {
    const session = await store.sessionOf(sessionId)
    const found = session && mayReach(caller, session.key) ? session : undefined
    if (!found) throw new GatewayError('SESSION_NOT_FOUND', `No session found: ${sessionId.slice(0, 200)}`)
    return found.key
  }

  async function send(
    params: Params<'agent'>,
    caller: Caller,
    { key: sessionKey, agentId }: CanonicalKey,
  ): Promise<Result<'agent'> | Reply<Result<'agent'>> | Failure> {
    if (Buffer.byteLength(params.message) > LIMITS.message)
      throw new GatewayError('MESSAGE_TOO_LARGE', `message is larger than ${LIMITS.message} bytes`)
    const { earlier } = params
    if (earlier && earlier.reduce((sum, { text }) => sum + Buffer.byteLength(text), 0) > LIMITS.earlier)
      throw new GatewayError('MESSAGE_TOO_LARGE', `what was said before is larger than ${LIMITS.earlier} bytes`)
    const attachments = readAttachments(params.attachments)
    if (attachments.length > 0 && !needs.takesImages(agentId, setting(await store.session(sessionKey), 'model')))
      throw new GatewayError('BAD_ATTACHMENT', 'the model of this agent takes no images')
    const { timeout, thinking, extraSystemPrompt, label, spawnedBy, deliver, to, channel } = params
    const meta: RunRecord['meta'] = {}
    if (timeout !== undefined) meta['timeoutMs'] = timeout * 1000
    for (const [name, value] of Object.entries({
      thinking,
      extraSystemPrompt,
      label,
      spawnedBy,
      deliver,
      to,
      channel,
    }))
      if (value !== undefined) meta[name] = value as Json
    const admission = await turns.admit({
      principal: caller.principal,
      method: 'agent',
      sessionKey,
      agentId,
      key: params.idempotencyKey,
      message: params.message,
      attachments,
      meta,
      ...(earlier && { earlier }),
    })
    switch (admission.kind) {
      case 'new': {
        const { runId, acceptedAt } = admission.record
        // The run is live before it is asked for its ending, and begins after the first answer is on its way.
        const { promise, resolve } = Promise.withResolvers<void>()
        return twice(
          { runId, status: 'accepted', acceptedAt },
          promise.then(() => runs.ending(runId)).then(() => result(runId)),
          () => {
            turns.start(admission.record, admission.settings)
            resolve()
          },
        )
      }
      case 'running':
        return twice(
          { runId: admission.runId, status: 'accepted', acceptedAt: admission.acceptedAt },
          over(admission.runId, caller.principal).then(() => result(admission.runId)),
        )
      case 'ended':
        return result(admission.runId)
    }
  }

  return {
    agent(params, caller) {
      const key = keyFor(params, caller)
      const sendTo = (spelling: string) => {
        const session = addressed(spelling, undefined, agents, caller)
        return turns.arriving(session.key, send(params, caller, session))
      }
      return key === undefined ? keyById(params.sessionId!, caller).then(sendTo) : sendTo(key)
    },

    'agent.wait': ({ runId, timeoutMs = WAIT_MS }, caller) => eventually(waitFor(runId, timeoutMs, caller)),

    async 'agent.result'({ runId, agentId }, caller) {
      const run = await store.run(runId)
      const isMeant = run && (agentId === undefined || run.agentId === agentId)
      // In the words for what is not there: what there is beyond is nobody's business.
      if (!isMeant || !mayReach(caller, run.sessionKey)) throw new GatewayError('UNKNOWN_RUN', 'unknown run id')
      const about = { runId, agentId: run.agentId, sessionKey: run.sessionKey }
      if (run.endedAt === undefined) return { ...about, status: 'accepted' }
      const ended = await result(runId)
      return ended instanceof Failure ? ended : { ...about, status: 'ok', text: lastWordsOfEnded(run) }
    },

    'agent.identity.get'(params) {
      let agentId = agents.defaultId
      if (params.agentId) {
        const found = agents.resolve(params.agentId)
        if (found === undefined) throw unknownAgent(params.agentId, agents)
        agentId = found
      } else if (params.sessionKey) agentId = canonical(params.sessionKey, agents).agentId
      const { name, avatar } = needs.identity(agents.get(agentId)!)
      return { agentId, name, avatar: avatar ?? name.slice(0, 1).toUpperCase() }
    },

    'agents.list': () => ({
      defaultId: agents.defaultId,
      mainKey: agents.mainKey,
      scope: needs.scope,
      agents: agents.list().map(({ id, name }) => ({ id, name })),
    }),

    'agents.status': () => ({
      agents: agents.list().map(({ id, name, models: [model], connector }) => ({
        id,
        name,
        ...needs.activityOf(id),
        ...(connector
          ? { connector: connector.node === undefined ? {} : { node: connector.node } }
          : model !== undefined && { model }),
        ...(needs.standIn?.(id) ?? { standingInFor: [] }),
      })),
    }),

    'models.list': () => ({
      models: needs.models.list.map(({ id, name, provider, contextWindow, reasoning, input }) => ({
        id,
        name,
        provider,
        contextWindow,
        reasoning,
        input,
      })),
    }),
  }
}

/** Messages to agents over plain HTTP, what came of them, and the sessions there are: for whoever has no WebSocket. */
import { randomUUID } from 'node:crypto'
import type { Agents } from '../broker/agents.ts'
import type { Caller } from '../broker/dispatch.ts'
import { mayReach } from '../broker/hub.ts'
import type { GatewayError } from '../contract/errors.ts'
import type { ResponseFrame } from '../contract/frames.ts'
import { METHODS } from '../contract/index.ts'
import { isJsonObject } from '../contract/json-object.ts'
import { holds } from '../contract/scopes.ts'
import { agentIn, canonical } from '../contract/session-key.ts'
import { failureOf, HttpError, header } from './http-error.ts'
import { isAccepted, type Route, readBody, type Visit, type Visits } from './visits.ts'

export interface MessagesNeeds {
  visits: Visits
  agents: Pick<Agents, 'resolve' | 'ids' | 'defaultId' | 'mainKey'>
  /** Why one agent may not send to another; `undefined` stands for a sender that is no agent. */
  refusalOf(from: string | undefined, to: string): GatewayError | undefined
  now(): number
  /** How long an answer is waited for, in ms. */
  patienceMs?: number | undefined
}

/** Clients of the reference wait 30 s for an answer. */
const PATIENCE_MS = 25_000

export function messageRoutes(needs: MessagesNeeds): Route[] {
  const { visits, agents, now, patienceMs = PATIENCE_MS } = needs

  /** `POST /agent/{id}/message` */
  async function send(visit: Visit): Promise<void> {
    const { request, reply, parts } = visit
    const caller = await visits.callerOf(visit)
    const body = await readBody(visit)
    const { message, context = {}, sessionKey } = body
    if (typeof message !== 'string' || message.trim() === '')
      throw new HttpError(400, 'INVALID_PARAMS', 'message: must be a text that says something')
    if (!isJsonObject(context)) throw new HttpError(400, 'INVALID_PARAMS', 'context: must be an object')
    if (sessionKey !== undefined && typeof sessionKey !== 'string')
      throw new HttpError(400, 'INVALID_PARAMS', 'sessionKey: must be a text')
    const agentId = await agentFor(parts[0]!, caller, 'agent')
    if (caller.sessions && !isReached(agentId, sessionKey, caller)) throw notFound()
    const { task_id: task, delegated_by: sender } = context
    if (task !== undefined && (typeof task !== 'string' || task === ''))
      throw new HttpError(400, 'INVALID_PARAMS', 'context.task_id: must be a text that is not empty')
    if (sender !== undefined && typeof sender !== 'string')
      throw new HttpError(400, 'INVALID_PARAMS', 'context.delegated_by: must be the id or name of an agent')
    const from = sender === undefined ? undefined : (agents.resolve(sender) ?? (caller.sessions && sender))
    if (sender !== undefined && from === undefined)
      throw new HttpError(
        400,
        'INVALID_PARAMS',
        `context.delegated_by: no agent is called "${sender.slice(0, 64)}" (known: ${agents.ids().join(', ')})`,
      )
    const refusal = needs.refusalOf(from, agentId)
    if (refusal && caller.sessions && from !== undefined)
      throw new HttpError(403, refusal.kind, 'context.delegated_by: this agent may not send to the other')
    if (refusal) throw new HttpError(403, refusal.kind, refusal.message, refusal.details)
    const idempotencyKey = header(request, 'idempotency-key') ?? task ?? randomUUID()
    const params = { message, agentId, idempotencyKey, ...(sessionKey !== undefined && { sessionKey }) }
    const { first, last } = visits.call(caller, 'agent', params)
    const accepted = await first
    const isPatient = !/(^|[,;\s])respond-async($|[,;\s])/i.test(header(request, 'prefer') ?? '')
    const end = isPatient || !isAccepted(accepted) ? await within(last, patienceMs) : undefined
    if (end?.ok === false) throw failureOf(end)
    const { runId } = accepted.payload as { runId: string }
    const about = {
      agent: agentId,
      thread_id: keyOf(agentId, sessionKey),
      timestamp: new Date(now()).toISOString(),
      runId,
    }
    if (end) {
      const response = textOf(end)
      visit.hold(response.length)
      return reply(200, { response, ...about })
    }
    reply(
      202,
      { status: 'accepted', ...about },
      {
        location: `/agent/${agentId}/message/${encodeURIComponent(runId)}`,
        ...(!isPatient && { 'preference-applied': 'respond-async' }),
      },
    )
  }

  /** `GET /agent/{id}/message/{runId}`: how a message is that was answered 202. */
  async function look(visit: Visit): Promise<void> {
    const { reply, parts } = visit
    const caller = await visits.callerOf(visit)
    const agentId = await agentFor(parts[0]!, caller, 'agent.result')
    const end = await visits.call(caller, 'agent.result', { runId: parts[1], agentId }).first
    if (!end.ok) throw failureOf(end)
    const { status, text, sessionKey } = end.payload as { status: string; text?: string; sessionKey?: string }
    const about = { agent: agentId, thread_id: sessionKey, runId: parts[1], timestamp: new Date(now()).toISOString() }
    if (status === 'accepted') return reply(202, { status, ...about }, { 'retry-after': '2' })
    visit.hold(text?.length ?? 0)
    reply(200, { response: text, ...about })
  }

  /** `GET /api/sessions` */
  async function sessions(visit: Visit): Promise<void> {
    const caller = await visits.callerOf(visit)
    const end = await visits.call(caller, 'sessions.digest', {}).last
    if (!end.ok) throw failureOf(end)
    visit.reply(200, (end.payload as { sessions: unknown[] }).sessions)
  }

  /** The session that a message to an agent is for, which was taken as one of its own. */
  function keyOf(agentId: string, spelling = agents.mainKey): string {
    return canonical(agentIn(spelling) === undefined ? `agent:${agentId}:${spelling}` : spelling, agents).key
  }

  /** Whether somebody reaches the session that a message to an agent is for. */
  function isReached(agentId: string, spelling: string | undefined, caller: Caller): boolean {
    try {
      return mayReach(caller, keyOf(agentId, spelling))
    } catch {
      return false
    }
  }

  /**
   * The agent of a path. Who reaches some sessions only has what it says back where there is none: that is found as little as what it
   * does not reach.
   * @throws HttpError 404, and 403 for who may not call the method: that comes before which agents there are
   */
  async function agentFor(name: string, caller: Caller, method: 'agent' | 'agent.result'): Promise<string> {
    if (!holds(caller.scopes, METHODS[method].scope ?? 'operator.admin'))
      throw failureOf(await visits.call(caller, method, {}).first)
    const agentId = agents.resolve(name) ?? (caller.sessions && name)
    if (agentId !== undefined) return agentId
    const known = agents.ids()
    throw new HttpError(404, 'UNKNOWN_AGENT', `unknown agent "${name.slice(0, 64)}" (known: ${known.join(', ')})`, {
      known,
    })
  }

  const tell: Route['tell'] = ({ code, message, more }) => ({ body: { ok: false, error: { code, message, ...more } } })

  return [
    { method: 'POST', path: /^\/(?:api\/)?agent\/([^/]{1,256})\/message$/, handle: send, tell },
    { method: 'GET', path: /^\/(?:api\/)?agent\/([^/]{1,256})\/message\/([^/]{1,512})$/, handle: look, tell },
    { method: 'GET', path: /^\/(?:api\/)?sessions$/, handle: sessions, tell },
  ]
}

const notFound = (): HttpError => new HttpError(404, 'SESSION_NOT_FOUND', 'session not found')

/** What a run said, in the shape that `agent` answers. */
function textOf({ payload }: ResponseFrame): string {
  const { result } = payload as { result?: { payloads?: { text: string }[]; lastWords?: string } }
  return result?.lastWords ?? (result?.payloads ?? []).map(({ text }) => text).join('')
}

/** Undefined when the time is up. */
async function within<T>(promise: Promise<T>, ms: number): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined
  const patience = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), ms)
  })
  return Promise.race([promise, patience]).finally(() => clearTimeout(timer))
}

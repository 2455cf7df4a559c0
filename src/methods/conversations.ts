/** Protocol 4: a session as something one follows and speaks in, in terms of what there is anyway. */
import type { Caller, Handlers } from '../broker/dispatch.ts'
import type { Following } from '../broker/following.ts'
import { mayReach } from '../broker/hub.ts'
import type { Runs } from '../broker/runs.ts'
import type { Sessions } from '../broker/sessions.ts'
import type { Turns } from '../broker/turns.ts'
import type { chat } from '../contract/chat.ts'
import type { conversations as contract } from '../contract/conversations.ts'
import { GatewayError } from '../contract/errors.ts'
import type { Params } from '../contract/index.ts'
import type { AgentNames } from '../contract/session-key.ts'
import { session } from './door.ts'

export interface ConversationsNeeds {
  agents: AgentNames
  following: Pick<Following, 'follow' | 'unfollow'>
  sessions: Pick<Sessions, 'abort'>
  turns: Pick<Turns, 'arrived'>
  runs: Pick<Runs, 'record'>
  newId(): string
}

/** @param sendChat what sends a message anyway */
export function conversationMethods(
  { agents, following, runs, sessions, turns, newId }: ConversationsNeeds,
  sendChat: Handlers<typeof chat>['chat.send'],
): Handlers<typeof contract> {
  function send(params: Params<'sessions.send'>, caller: Caller, queueMode?: 'steer') {
    const { key: sessionKey, idempotencyKey = newId(), ...turn } = params
    return sendChat({ ...turn, sessionKey, idempotencyKey, ...(queueMode && { queueMode }) }, caller)
  }

  /** The session of what is to be stopped; undefined: nothing that the caller could know of. */
  function abortedIn({ key, runId, agentId }: Params<'sessions.abort'>, caller: Caller): string | undefined {
    if (key !== undefined) return session(key, agentId, agents, caller).key
    if (runId === undefined)
      throw new GatewayError('INVALID_PARAMS', 'invalid sessions.abort params: give key or runId')
    const run = runs.record(runId)
    return run && mayReach(caller, run.sessionKey) ? run.sessionKey : undefined
  }

  return {
    'sessions.messages.subscribe'({ key: spelling, agentId }, caller) {
      const { key } = session(spelling, agentId, agents, caller)
      if (!following.follow(caller, key))
        throw new GatewayError('TOO_MANY_SESSIONS', 'this connection follows as many sessions as it may')
      return { subscribed: true, key }
    },

    'sessions.messages.unsubscribe'({ key: spelling, agentId }, caller) {
      const { key } = session(spelling, agentId, agents, caller)
      following.unfollow(caller, key)
      return { subscribed: false, key }
    },

    'sessions.send': (params, caller) => send(params, caller),
    'sessions.steer': (params, caller) => send(params, caller, 'steer'),

    async 'sessions.abort'(params, caller) {
      const sessionKey = abortedIn(params, caller)
      if (sessionKey === undefined) return { ok: true, abortedRunId: null, status: 'no-active-run' }
      await turns.arrived(sessionKey)
      const [abortedRunId = null] = await sessions.abort(sessionKey, params.runId ?? null, 'rpc')
      return { ok: true, abortedRunId, status: abortedRunId === null ? 'no-active-run' : 'aborted' }
    },
  }
}

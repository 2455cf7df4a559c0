/** What every method that is about a session does first: make the key canonical. */
import type { Caller } from '../broker/dispatch.ts'
import { mayReach } from '../broker/hub.ts'
import { GatewayError } from '../contract/errors.ts'
import { type AgentNames, agentIn, type CanonicalKey, canonical, unknownAgent } from '../contract/session-key.ts'

/**
 * The session a request is about.
 * @param agentId protocol 4's way of addressing another agent's session by a bare key
 * @throws GatewayError UNKNOWN_AGENT, SESSION_NOT_FOUND for one that the caller does not reach
 */
export function session(
  spelling: string,
  agentId: string | undefined,
  agents: AgentNames,
  caller: Pick<Caller, 'sessions'>,
): CanonicalKey {
  const found = known(spelling, agentId, agents, caller)
  // In the words for what is not there: what there is beyond is nobody's business.
  if (!mayReach(caller, found.key)) throw new GatewayError('SESSION_NOT_FOUND', 'session not found')
  return found
}

/** To who reaches some sessions only, which agents there are is said by no name that none has. */
function known(
  spelling: string,
  agentId: string | undefined,
  agents: AgentNames,
  caller: Pick<Caller, 'sessions'>,
): CanonicalKey {
  try {
    return canonical(whole(spelling, agentId, agents), agents)
  } catch (error) {
    if (caller.sessions) throw new GatewayError('SESSION_NOT_FOUND', 'session not found')
    throw error
  }
}

function whole(spelling: string, agentId: string | undefined, agents: AgentNames): string {
  if (agentId === undefined || agentIn(spelling) !== undefined) return spelling
  const id = agents.resolve(agentId)
  if (id === undefined) throw unknownAgent(agentId, agents)
  return `agent:${id}:${spelling}`
}

/**
 * The session a caller talks to, or reads: its events will carry the key as this caller spells it. Other methods leave that as it
 * is, so that the key of a run does not change while it is under way.
 */
export function addressed(
  spelling: string,
  agentId: string | undefined,
  agents: AgentNames,
  caller: Caller,
): CanonicalKey {
  const found = session(spelling, agentId, agents, caller)
  caller.addressed(found.key, spelling)
  return found
}

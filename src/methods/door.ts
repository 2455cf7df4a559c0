/** What every method that is about a session does first: make the key canonical. */
import type { Caller } from '../broker/dispatch.ts'
import { type AgentNames, type CanonicalKey, canonical, unknownAgent } from '../contract/session-key.ts'

/**
 * The session a request is about.
 * @param agentId protocol 4's way of addressing another agent's session by a bare key
 * @throws GatewayError UNKNOWN_AGENT
 */
export function session(spelling: string, agentId: string | undefined, agents: AgentNames): CanonicalKey {
  if (agentId === undefined || /^agent:/i.test(spelling)) return canonical(spelling, agents)
  const id = agents.resolve(agentId)
  if (id === undefined) throw unknownAgent(agentId, agents)
  return canonical(`agent:${id}:${spelling}`, agents)
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
  const found = session(spelling, agentId, agents)
  caller.addressed(found.key, spelling)
  return found
}

/** What every method that is about a session does first: make the key canonical, and remember how the caller spells it. */
import type { Caller } from '../broker/dispatch.ts'
import { type AgentNames, type CanonicalKey, canonical, unknownAgent } from '../contract/session-key.ts'

/**
 * The session a request is about.
 * @param agentId protocol 4's way of addressing another agent's session by a bare key
 * @throws GatewayError UNKNOWN_AGENT
 */
export function session(
  spelling: string,
  agentId: string | undefined,
  agents: AgentNames,
  caller: Caller,
): CanonicalKey {
  let full = spelling
  if (agentId !== undefined && !/^agent:/i.test(spelling)) {
    const id = agents.resolve(agentId)
    if (id === undefined) throw unknownAgent(agentId, agents)
    full = `agent:${id}:${spelling}`
  }
  const found = canonical(full, agents)
  caller.addressed(found.key, spelling)
  return found
}

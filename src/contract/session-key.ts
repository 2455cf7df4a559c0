/** Session keys have one canonical form, `agent:<agentId>:<rest>`, lower case; clients spell them as they like. */
import { GatewayError } from './errors.ts'

/** What is needed of the agents to read a key. */
export interface AgentNames {
  defaultId: string
  mainKey: string
  /** The id for an id or a name, whatever the case, with or without accents; undefined if there is none. */
  resolve(name: string): string | undefined
  ids(): string[]
}

export interface CanonicalKey {
  key: string
  agentId: string
}

/** Drops accents and case: `Möngke` -> `mongke`. */
export function plain(name: string): string {
  return name.normalize('NFD').replace(/\p{M}/gu, '').toLowerCase()
}

const WHOLE = /^agent:([^:]*)(?::(.*))?$/is

/** The agent that a key names, as it is spelled there; undefined if it names none. */
export const agentIn = (spelling: string): string | undefined => WHOLE.exec(spelling.trim())?.[1]

/**
 * The canonical form of a key, and the agent it belongs to.
 * @throws GatewayError UNKNOWN_AGENT, listing the known ones
 */
export function canonical(spelling: string, agents: AgentNames): CanonicalKey {
  const text = spelling.trim()
  const parts = WHOLE.exec(text)
  const agentId = parts ? agents.resolve(parts[1]!) : agents.defaultId
  if (agentId === undefined) throw unknownAgent(parts![1]!, agents)
  const rest = (parts ? (parts[2] ?? '') : text).trim().toLowerCase()
  // The configured main key, the word `main` and nothing at all mean the agent's main session.
  const isMain = rest === '' || rest === 'main' || rest === agents.mainKey
  return { key: `agent:${agentId}:${isMain ? agents.mainKey : rest}`, agentId }
}

/** The refusal of a name that no agent has. */
export function unknownAgent(name: string, agents: AgentNames): GatewayError {
  const known = agents.ids()
  return new GatewayError('UNKNOWN_AGENT', `unknown agent id "${name.slice(0, 64)}" (known: ${known.join(', ')})`, {
    details: { known },
  })
}

/** What the keys of sessions of one turn have in them. */
export const ONE_SHOT = ':openai:'

/** @param id 32 hex digits */
export const oneShotKey = (agentId: string, id: string): string => `agent:${agentId}${ONE_SHOT}${id}`

/** Whether a canonical key is that of a session of one turn, whose answer only the one who asked waits for. */
export const isOneShot = (key: string): boolean => /^agent:[^:]+:openai:[0-9a-f]{32}$/.test(key)

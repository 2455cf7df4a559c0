/** The agents there are, found by id, by name, and by name without accents. */
import type { AgentConfig, Config } from '../config/config.ts'
import { type AgentNames, plain } from '../contract/session-key.ts'

export interface Agents extends AgentNames {
  get(id: string): AgentConfig | undefined
  list(): AgentConfig[]
}

export function createAgents(config: Pick<Config, 'agents' | 'session'>): Agents {
  const { list, defaultId } = config.agents
  const byId = new Map(list.map((agent) => [agent.id, agent]))
  const byName = new Map<string, string>()
  // Ids win over names: an agent cannot be hidden by another one's name.
  for (const { id, name } of list) byName.set(plain(name), id)
  for (const { id } of list) byName.set(plain(id), id)
  return {
    defaultId,
    mainKey: config.session.mainKey.toLowerCase(),
    resolve: (name) => byName.get(plain(name.trim())),
    ids: () => list.map(({ id }) => id),
    get: (id) => byId.get(id),
    list: () => list,
  }
}

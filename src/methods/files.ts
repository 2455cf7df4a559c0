/** `agents.files.*`: the files of an agent's workspace. */
import type { Handlers } from '../broker/dispatch.ts'
import type { AgentConfig } from '../config/config.ts'
import type { agentFiles as contract } from '../contract/agents.ts'
import { GatewayError } from '../contract/errors.ts'
import { type AgentNames, unknownAgent } from '../contract/session-key.ts'

interface File {
  name: string
  path: string
  missing: boolean
  size?: number
  updatedAtMs?: number
}

export interface FilesNeeds {
  agents: AgentNames & { get(id: string): AgentConfig | undefined }
  /** What it refuses, it refuses with a GatewayError. */
  workspaceFiles: {
    list(workspace: string): Promise<File[]>
    read(workspace: string, name: string): Promise<File & { content?: string }>
    write(workspace: string, name: string, content: string): Promise<File & { content: string }>
  }
}

export function fileMethods({ agents, workspaceFiles: files }: FilesNeeds): Handlers<typeof contract> {
  function workspaceOf(name: string): { agentId: string; workspace: string } {
    const agentId = agents.resolve(name)
    const agent = agentId === undefined ? undefined : agents.get(agentId)
    if (!agent) throw unknownAgent(name, agents)
    const { id, workspace } = agent
    if (workspace === undefined)
      throw new GatewayError('NO_WORKSPACE', `the agent ${id} has no workspace; set agents.list[].workspace for it`)
    return { agentId: id, workspace }
  }

  return {
    async 'agents.files.list'({ agentId }) {
      const at = workspaceOf(agentId)
      return { ...at, files: await files.list(at.workspace) }
    },
    async 'agents.files.get'({ agentId, name }) {
      const at = workspaceOf(agentId)
      return { ...at, file: await files.read(at.workspace, name) }
    },
    async 'agents.files.set'({ agentId, name, content }) {
      const at = workspaceOf(agentId)
      return { ok: true, ...at, file: await files.write(at.workspace, name, content) }
    },
  }
}

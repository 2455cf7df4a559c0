/** `tools.call`: a tool of an agent, called by somebody who is none. */
import { type Caller, eventually, type Handlers } from '../broker/dispatch.ts'
import type { Toolbox } from '../broker/toolbox.ts'
import { GatewayError } from '../contract/errors.ts'
import type { AgentNames, CanonicalKey } from '../contract/session-key.ts'
import type { tools as contract } from '../contract/tools.ts'
import type { ToolCall } from '../runtimes/runtime.ts'
import { session } from './door.ts'

export interface ToolsNeeds {
  agents: AgentNames
  toolbox: Pick<Toolbox, 'callFor'>
  newId(): string
}

/** Characters of a name that go into an answer. */
const QUOTED = 64

export function toolMethods({ agents, toolbox, newId }: ToolsNeeds): Handlers<typeof contract> {
  async function call(wanted: ToolCall, { key, agentId }: CanonicalKey, caller: Caller) {
    const asker = { agentId, sessionKey: key, principal: caller.principal }
    const gone = caller.gone()
    const outcome = await toolbox.callFor(asker, wanted, gone).catch((error: unknown) => {
      if (!gone.aborted) throw error
      return { text: 'who asked for it has gone', isError: true }
    })
    if (!outcome) throw new GatewayError('UNKNOWN_TOOL', `Tool not available: ${wanted.name.slice(0, QUOTED)}`)
    return { sessionKey: key, text: outcome.text, isError: outcome.isError }
  }

  return {
    'tools.call': ({ name, arguments: args = {}, sessionKey, agentId }, caller) =>
      eventually(
        call(
          { id: newId(), name, arguments: JSON.stringify(args) },
          session(sessionKey ?? agents.mainKey, agentId, agents, caller),
          caller,
        ),
      ),
  }
}

/** `messages.*`: the mailboxes of the agents. */
import type { Handlers } from '../broker/dispatch.ts'
import type { Mailbox } from '../broker/mailbox.ts'
import { GatewayError } from '../contract/errors.ts'
import type { messages as contract } from '../contract/messages.ts'
import { type AgentNames, unknownAgent } from '../contract/session-key.ts'

export interface MessagesNeeds {
  agents: AgentNames
  mailbox: Pick<Mailbox, 'list' | 'look'>
}

const LIMIT = 50
/** What is looked through for messages in a state. */
const MOST = 500

export function messageMethods({ agents, mailbox }: MessagesNeeds): Handlers<typeof contract> {
  return {
    async 'messages.list'({ agentId: name, state, limit = LIMIT }) {
      const agentId = name === undefined ? undefined : agents.resolve(name)
      if (name !== undefined && agentId === undefined) throw unknownAgent(name, agents)
      const newest = await mailbox.list({
        ...(agentId !== undefined && { agentId }),
        limit: state === undefined ? limit : MOST,
      })
      const found = state === undefined ? newest : newest.filter((message) => message.state === state)
      return { messages: found.slice(0, limit) }
    },
    async 'messages.get'({ messageId }) {
      const found = await mailbox.look(messageId)
      if (!found) throw new GatewayError('UNKNOWN_MESSAGE', 'no message has that id')
      return found
    },
  }
}

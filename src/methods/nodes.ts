/** Nodes: what operators have them do, and what they have to say. */
import { eventually, type Handlers } from '../broker/dispatch.ts'
import type { Hub } from '../broker/hub.ts'
import type { Nodes } from '../broker/nodes.ts'
import { GatewayError } from '../contract/errors.ts'
import { scan } from '../contract/json-bounds.ts'
import { AgentPiece, type nodes as contract, SessionNamed } from '../contract/nodes.ts'
import type { AgentNames } from '../contract/session-key.ts'
import { type Validator, validator } from '../contract/validate.ts'
import { addressed, session } from './door.ts'

export interface NodesNeeds {
  agents: AgentNames
  nodes: Omit<Nodes, 'join' | 'leave' | 'ask' | 'hasNodeFor' | 'isOfLive' | 'stop'>
  hub: Pick<Hub, 'follow' | 'unfollow'>
  now(): number
}

const INVOKE_MS = 30_000
const LONGEST_INVOKE_MS = 600_000
/** Characters of a name that go into an answer. */
const QUOTED = 64

const agentPiece = validator(AgentPiece)
const sessionNamed = validator(SessionNamed)

export function nodeMethods({ agents, nodes, hub, now }: NodesNeeds): Handlers<typeof contract> {
  const taken = (isTaken: boolean) => (isTaken ? { ok: true as const } : { ok: true as const, ignored: true as const })

  return {
    'node.list': () => ({ ts: now(), nodes: nodes.list() }),
    'node.describe': ({ nodeId }) => ({ ts: now(), ...nodes.describe(nodeId) }),
    'node.invoke': ({ nodeId, command, params, timeoutMs, idempotencyKey }, caller) =>
      eventually(
        nodes.invoke(
          {
            ...{ nodeId, command, params, idempotencyKey },
            timeoutMs: Math.min(timeoutMs || INVOKE_MS, LONGEST_INVOKE_MS),
          },
          caller,
        ),
      ),
    async 'node.rename'({ nodeId, displayName }, caller) {
      await nodes.rename(nodeId, displayName, caller)
      return { nodeId, displayName }
    },

    'node.invoke.result'({ id, nodeId, ok, error, ...given }, caller) {
      if (!ok) return taken(nodes.finish(id, nodeId, { ok, error }, caller))
      const payload = payloadOf(given, 'node.invoke.result')
      return taken(nodes.finish(id, nodeId, { ok, payload, payloadJSON: given.payloadJSON ?? null }, caller))
    },
    'node.event'({ event, ...given }, caller) {
      const payload = payloadOf(given, event)
      const heard = (isTaken: boolean) => {
        if (caller.protocol < 4) return taken(isTaken)
        return { ok: true as const, event, handled: isTaken, ...(!isTaken && { reason: 'nobody waits for it' }) }
      }
      switch (event) {
        case 'agent.delta': {
          const { id, offset, text } = read<AgentPiece>(agentPiece, payload, event)
          if (offset === undefined)
            throw new GatewayError('INVALID_PARAMS', `invalid ${event} payload: must have required property 'offset'`)
          return heard(nodes.say(id, { kind: 'text', offset, text }, caller))
        }
        case 'agent.reasoning': {
          const { id, text } = read<AgentPiece>(agentPiece, payload, event)
          return heard(nodes.say(id, { kind: 'reasoning', text }, caller))
        }
        case 'chat.subscribe': {
          const { sessionKey } = read<SessionNamed>(sessionNamed, payload, event)
          if (!hub.follow(caller.connId, addressed(sessionKey, undefined, agents, caller).key))
            throw new GatewayError('TOO_MANY_SESSIONS', 'this node hears as many sessions as it may')
          return heard(true)
        }
        case 'chat.unsubscribe': {
          const { sessionKey } = read<SessionNamed>(sessionNamed, payload, event)
          hub.unfollow(caller.connId, session(sessionKey, undefined, agents, caller).key)
          return heard(true)
        }
        default:
          throw new GatewayError('NOT_SERVED', `the node event ${event.slice(0, QUOTED)} is not served here`)
      }
    },
    'skills.bins': () => ({ bins: [] }),
    'tools.invoke': ({ id, callId, name, arguments: args }, caller) =>
      eventually(nodes.callTool({ id, callId, name, args }, caller)),
  }
}

/** What a node says, which it may have as text. @throws GatewayError INVALID_PARAMS */
function payloadOf({ payload, payloadJSON }: { payload?: unknown; payloadJSON?: string }, what: string): unknown {
  if (payloadJSON === undefined) return payload
  const invalid = (why: string) =>
    new GatewayError('INVALID_PARAMS', `invalid payloadJSON of ${what.slice(0, QUOTED)}: ${why}`)
  const overstep = scan(new TextEncoder().encode(payloadJSON))
  if (overstep) throw invalid(overstep.problem)
  try {
    return JSON.parse(payloadJSON)
  } catch {
    throw invalid('not JSON')
  }
}

function read<T>(check: Validator, payload: unknown, event: string): T {
  const problem = check.problem(payload ?? {})
  if (problem !== undefined) throw new GatewayError('INVALID_PARAMS', `invalid ${event} payload: ${problem}`)
  return payload as T
}

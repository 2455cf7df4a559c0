/** The whole contract as two tables: every method and every event there is. */
import { absent, empty } from './absent.ts'
import { agentFiles, agents } from './agents.ts'
import { approvalEvents, approvals } from './approvals.ts'
import type { EventBlock, MethodBlock, ParamsOf, PayloadOf, ResultOf, Role } from './block.ts'
import { chains } from './chains.ts'
import { chat, chatEvents } from './chat.ts'
import { config } from './config.ts'
import { conversationEvents, conversations } from './conversations.ts'
import { cron, cronEvents } from './cron.ts'
import { deviceEvents, devices } from './devices.ts'
import { messageEvents, messages } from './messages.ts'
import { nodeEvents, nodes } from './nodes.ts'
import { sessions } from './sessions.ts'
import { system, systemEvents } from './system.ts'
import { tokens } from './tokens.ts'
import { tools } from './tools.ts'
import { usage } from './usage.ts'
import { voice, voiceEvents } from './voice.ts'

export const METHODS = {
  ...{ ...system, ...config, ...agents, ...agentFiles, ...sessions, ...chat },
  ...{ ...chains, ...messages, ...usage, ...approvals, ...devices, ...nodes, ...tokens, ...tools },
  ...{ ...conversations, ...voice, ...cron, ...empty, ...absent },
}
export const EVENTS = {
  ...{ ...systemEvents, ...chatEvents, ...messageEvents, ...approvalEvents, ...deviceEvents, ...nodeEvents },
  ...{ ...conversationEvents, ...voiceEvents, ...cronEvents },
}

export type MethodName = keyof typeof METHODS
export type EventName = keyof typeof EVENTS
export type Params<M extends MethodName> = ParamsOf<(typeof METHODS)[M]>
export type Result<M extends MethodName> = ResultOf<(typeof METHODS)[M]>
export type Payload<E extends EventName> = PayloadOf<(typeof EVENTS)[E]>

/** The block of a method, undefined for a name that is none (also for names that objects inherit). */
export function methodBlock(name: string): MethodBlock | undefined {
  return Object.hasOwn(METHODS, name) ? METHODS[name as MethodName] : undefined
}

export function eventBlock(name: EventName): EventBlock {
  return EVENTS[name]
}

/** What `hello-ok.features` lists: what somebody in that role may call, and may hear. */
export const FEATURES: Record<Role, { methods: string[]; events: string[] }> = {
  operator: featuresOf('operator', (scope) => scope !== 'node'),
  // A node hears of sessions what it asked for.
  node: featuresOf(
    'node',
    (scope, name) => scope === 'everyone' || scope === 'node' || Object.hasOwn(chatEvents, name),
  ),
}

function featuresOf(role: Role, mayHear: (scope: EventBlock['scope'], name: string) => boolean) {
  return {
    methods: Object.entries<MethodBlock>(METHODS)
      .filter(([, block]) => !block.unlisted && (block.role ?? 'operator') === role)
      .map(([name]) => name),
    events: Object.entries<EventBlock>(EVENTS)
      .filter(([name, { scope }]) => mayHear(scope, name))
      .map(([name]) => name),
  }
}

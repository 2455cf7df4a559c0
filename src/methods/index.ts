/** Every method's function, in one table that the compiler compares with the contract. */
import type { Handlers } from '../broker/dispatch.ts'
import type { METHODS } from '../contract/index.ts'
import { type AgentsNeeds, agentMethods } from './agents.ts'
import { type ApprovalsNeeds, approvalMethods } from './approvals.ts'
import { type ChatNeeds, chatMethods } from './chat.ts'
import { type ConfigNeeds, configMethods } from './config.ts'
import { type DevicesNeeds, deviceMethods } from './devices.ts'
import { type NodesNeeds, nodeMethods } from './nodes.ts'
import { type SessionsNeeds, sessionMethods } from './sessions.ts'
import { type SystemNeeds, systemMethods } from './system.ts'
import { type TokensNeeds, tokenMethods } from './tokens.ts'

export type MethodNeeds = AgentsNeeds &
  ApprovalsNeeds &
  ChatNeeds &
  ConfigNeeds &
  SessionsNeeds &
  SystemNeeds &
  DevicesNeeds &
  NodesNeeds &
  TokensNeeds

export function methodHandlers(needs: MethodNeeds): Handlers<typeof METHODS> {
  return {
    ...systemMethods(needs),
    ...configMethods(needs),
    ...agentMethods(needs),
    ...sessionMethods(needs),
    ...chatMethods(needs),
    ...deviceMethods(needs),
    ...nodeMethods(needs),
    ...tokenMethods(needs),
    ...approvalMethods(needs),
  }
}

/** Every method's function, in one table that the compiler compares with the contract. */
import type { Handlers } from '../broker/dispatch.ts'
import type { METHODS } from '../contract/index.ts'
import { type AgentsNeeds, agentMethods } from './agents.ts'
import { type ApprovalsNeeds, approvalMethods } from './approvals.ts'
import { type ChainsNeeds, chainMethods } from './chains.ts'
import { type ChatNeeds, chatMethods } from './chat.ts'
import { type ConfigNeeds, configMethods } from './config.ts'
import { type CronNeeds, cronMethods } from './cron.ts'
import { type DevicesNeeds, deviceMethods } from './devices.ts'
import { type FilesNeeds, fileMethods } from './files.ts'
import { type MessagesNeeds, messageMethods } from './messages.ts'
import { type NodesNeeds, nodeMethods } from './nodes.ts'
import { type SessionsNeeds, sessionMethods } from './sessions.ts'
import { type SystemNeeds, systemMethods } from './system.ts'
import { type TokensNeeds, tokenMethods } from './tokens.ts'
import { type UsageNeeds, usageMethods } from './usage.ts'

export type MethodNeeds = AgentsNeeds &
  ApprovalsNeeds &
  ChainsNeeds &
  ChatNeeds &
  ConfigNeeds &
  CronNeeds &
  FilesNeeds &
  MessagesNeeds &
  SessionsNeeds &
  SystemNeeds &
  DevicesNeeds &
  NodesNeeds &
  TokensNeeds &
  UsageNeeds

export function methodHandlers(needs: MethodNeeds): Handlers<typeof METHODS> {
  return {
    ...systemMethods(needs),
    ...configMethods(needs),
    ...agentMethods(needs),
    ...fileMethods(needs),
    ...sessionMethods(needs),
    ...chatMethods(needs),
    ...chainMethods(needs),
    ...messageMethods(needs),
    ...usageMethods(needs),
    ...deviceMethods(needs),
    ...nodeMethods(needs),
    ...tokenMethods(needs),
    ...approvalMethods(needs),
    ...cronMethods(needs),
  }
}

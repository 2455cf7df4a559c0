/** Every method's function, in one table that the compiler compares with the contract. */
import type { Handlers } from '../broker/dispatch.ts'
import type { METHODS } from '../contract/index.ts'
import { type AbsentNeeds, absentMethods, emptyMethods } from './absent.ts'
import { type AgentsNeeds, agentMethods } from './agents.ts'
import { type ApprovalsNeeds, approvalMethods } from './approvals.ts'
import { type ChainsNeeds, chainMethods } from './chains.ts'
import { type ChatNeeds, chatMethods } from './chat.ts'
import { type ConfigNeeds, configMethods } from './config.ts'
import { type ConversationsNeeds, conversationMethods } from './conversations.ts'
import { type CronNeeds, cronMethods } from './cron.ts'
import { type DevicesNeeds, deviceMethods } from './devices.ts'
import { type FilesNeeds, fileMethods } from './files.ts'
import { type MessagesNeeds, messageMethods } from './messages.ts'
import { type NodesNeeds, nodeMethods } from './nodes.ts'
import { type SessionsNeeds, sessionMethods } from './sessions.ts'
import { type SystemNeeds, systemMethods } from './system.ts'
import { type TokensNeeds, tokenMethods } from './tokens.ts'
import { type ToolsNeeds, toolMethods } from './tools.ts'
import { type UsageNeeds, usageMethods } from './usage.ts'
import { type VoiceNeeds, voiceMethods } from './voice.ts'

export type MethodNeeds = AbsentNeeds &
  AgentsNeeds &
  ApprovalsNeeds &
  ChainsNeeds &
  ChatNeeds &
  ConfigNeeds &
  ConversationsNeeds &
  CronNeeds &
  FilesNeeds &
  MessagesNeeds &
  SessionsNeeds &
  SystemNeeds &
  DevicesNeeds &
  NodesNeeds &
  TokensNeeds &
  ToolsNeeds &
  UsageNeeds &
  VoiceNeeds

export function methodHandlers(needs: MethodNeeds): Handlers<typeof METHODS> {
  const chat = chatMethods(needs)
  return {
    ...systemMethods(needs),
    ...configMethods(needs),
    ...agentMethods(needs),
    ...fileMethods(needs),
    ...sessionMethods(needs),
    ...chat,
    ...conversationMethods(needs, chat['chat.send']),
    ...chainMethods(needs),
    ...messageMethods(needs),
    ...usageMethods(needs),
    ...deviceMethods(needs),
    ...nodeMethods(needs),
    ...tokenMethods(needs),
    ...toolMethods(needs),
    ...approvalMethods(needs),
    ...voiceMethods(needs),
    ...emptyMethods(needs),
    ...absentMethods(),
    ...cronMethods(needs),
  }
}

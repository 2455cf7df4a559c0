/** What is not served here, as those are told who ask for it. */
import type { Handlers } from '../broker/dispatch.ts'
import type { AgentConfig } from '../config/config.ts'
import { absent, type empty } from '../contract/absent.ts'
import { GatewayError } from '../contract/errors.ts'
import type { Params } from '../contract/index.ts'
import { type AgentNames, unknownAgent } from '../contract/session-key.ts'
import { placeFor } from './place.ts'

export interface AbsentNeeds {
  agents: AgentNames & { get(id: string): AgentConfig | undefined }
  now(): number
}

/** Characters of a name that go into an answer. */
const QUOTED = 64

export function emptyMethods({ agents, now }: AbsentNeeds): Handlers<typeof empty> {
  return {
    'channels.status': () => ({
      ts: now(),
      channelOrder: [],
      channelLabels: {},
      channelDetailLabels: {},
      channelSystemImages: {},
      channelMeta: [],
      channels: {},
      channelAccounts: {},
      channelDefaultAccountId: {},
    }),
    'skills.status'({ agentId: named }, caller) {
      const agentId = named === undefined ? agents.defaultId : agents.resolve(named)
      if (agentId === undefined) throw unknownAgent(named!, agents)
      const workspace = agents.get(agentId)?.workspace
      return {
        workspaceDir: workspace === undefined ? '' : placeFor(caller, workspace),
        managedSkillsDir: '',
        skills: [],
      }
    },
    'tts.status': () => ({
      enabled: false,
      auto: 'off',
      provider: null,
      fallbackProvider: null,
      fallbackProviders: [],
      prefsPath: '',
      hasOpenAIKey: false,
      hasElevenLabsKey: false,
      edgeEnabled: false,
    }),
    'tts.providers': () => ({ providers: [], active: null }),
    'tts.disable': () => ({ enabled: false }),
    'question.list': () => ({ questions: [] }),
    'plugin.approval.list': () => [],
  }
}

type Absent = keyof typeof absent

/** In the words that clients know, where they know some. */
const SENTENCES: { [M in Absent]?: (params: Params<M>) => string } = {
  send: ({ channel = 'whatsapp' }) => `unsupported channel: ${channel.slice(0, QUOTED)}`,
  poll: ({ channel = 'whatsapp' }) => `unsupported poll channel: ${channel.slice(0, QUOTED)}`,
  'web.login.start': () => 'web login provider is not available',
  'web.login.wait': () => 'web login provider is not available',
  'wizard.next': () => 'wizard not found',
  'wizard.cancel': () => 'wizard not found',
  'wizard.status': () => 'wizard not found',
}

export function absentMethods(): Handlers<typeof absent> {
  const refusals = Object.entries(absent).map(([name, { instead }]) => {
    const sentence = SENTENCES[name as Absent] as ((params: object) => string) | undefined
    return [
      name,
      (params: object) => {
        const message = sentence?.(params) ?? `${name} is not served here: ${instead}`
        throw new GatewayError('NOT_SERVED', message, { details: { instead } })
      },
    ] as const
  })
  return Object.fromEntries(refusals) as unknown as Handlers<typeof absent>
}

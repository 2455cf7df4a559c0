/** The configuration as the rest of the gateway sees it: complete, checked, with secrets wrapped. */
import type { Scope } from '../contract/block.ts'
import type { QueueMode } from '../contract/queue-mode.ts'
import type { Model, ThinkingLevel } from '../runtimes/runtime.ts'
import type { Secret } from './secret.ts'

export type LogLevel = 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal' | 'silent'

/** When an agent is asked whether something needs attention, though nobody said anything. */
export interface HeartbeatConfig {
  /** Between two, in ms; 0 = only when it is woken. */
  everyMs: number
  /** As it was written, such as `30m`. */
  every: string
  /** What it is asked; absent = what its HEARTBEAT.md and its system events ask. */
  prompt?: string
  model?: string
  /** Characters beside HEARTBEAT_OK that are not worth hearing. */
  ackMaxChars: number
  /** Minutes of the day by the clock of a time zone, from the first up to the second; absent = always. */
  activeHours?: { from: number; to: number; timezone?: string }
}

export interface AgentConfig {
  id: string
  name: string
  /** Absolute path of the folder whose files make the system prompt; absent = no prompt. */
  workspace?: string
  /** Model references in the order they are tried; the first is the primary. */
  models: string[]
  thinking: ThinkingLevel
  /** Ids of the agents it stands in for. */
  failoverFor: string[]
  /** Runs of it at the same time; absent = as many as of all. */
  maxConcurrent?: number
  /** Absent: it has none. */
  heartbeat?: HeartbeatConfig
  /** A node answers in place of its models; absent = the models do. */
  connector?: {
    /** Device id of the node, or the name it was paired under; absent = paired under the id or the name of the agent. */
    node?: string
    /** How long a run waits for the node, in ms. */
    graceMs: number
  }
}

/** What keeps agents from going round in circles; each 0 = off. */
export interface ChainLimits {
  /** Messages that follow from one another. */
  hops: number
  /** How often one agent is in the line of who sent to whom. */
  visits: number
  /** Messages in all that come of one request. */
  messages: number
  /** Messages that one run sends. */
  fanOut: number
  tokens: number
  /** In the currency of the prices. */
  cost: number
}

/** A server of tools that speaks the Model Context Protocol. */
export interface McpServerConfig {
  name: string
  /** How it is reached: started, or called by its address. */
  reach:
    | { command: string; args: string[]; env: Record<string, Secret>; cwd?: string }
    | { url: string; headers: Record<string, Secret> }
  /** How long one call may take, in ms. */
  timeoutMs: number
  /** How long it may take to be ready, in ms. */
  startMs: number
  /** Ids of the agents that may use it; absent = all. */
  agents?: string[]
}

export interface Config {
  /** The file it was read from; undefined when there is none. */
  path: string | undefined
  /** The file's text as it stands, undefined when there is none. */
  raw: string | undefined
  /** The parsed file before `${VAR}` was replaced, for `config.get`; undefined when there is none. */
  parsed: unknown
  /** Absolute path of the state folder. */
  stateDir: string
  /** One line each: unknown keys, sections that are not served here, missing workspaces, … */
  warnings: string[]
  gateway: {
    port: number
    /** Where to listen: addresses, in order. */
    hosts: string[]
    /** Whether every host is a loopback address. */
    loopbackOnly: boolean
    auth: {
      mode: 'token' | 'password' | 'none'
      token?: Secret
      password?: Secret
      /** The header in lower case. */
      trustedProxy?: { userHeader: string; allowUsers: string[]; scopes: Scope[] }
    }
    controlUi: {
      enabled: boolean
      allowInsecureAuth: boolean
      dangerouslyDisableDeviceAuth: boolean
      allowedOrigins: string[]
    }
    /** What is served to programs that speak OpenAI's shapes. */
    http: { chatCompletions: boolean; responses: boolean }
    /** Literal addresses, CIDR ranges, or `*`. */
    trustedProxies: string[]
    /** Absolute paths of PEM files; undefined = plain HTTP. */
    tls: { cert: string; key: string } | undefined
    /** 0 = off. */
    limits: {
      requestsPerSecond: number
      burst: number
      preauthPerIp: number
      preauthTotal: number
      maxConnections: number
      /** Calls of one socket in a minute that are refused for want of a scope. */
      deniedPerMinute: number
      /** Of a device or a named token. */
      socketsPerPrincipal: number
      /** In all. */
      sessions: number
      /** Of a device or a named token; ten times that of all who have the shared one. */
      liveKeys: number
    }
    /** From accept to a `connect` frame, in ms. */
    handshakeTimeoutMs: number
    tickIntervalMs: number
    /** How long runs may go on after a stop, in ms. */
    drainMs: number
  }
  agents: {
    defaultId: string
    list: AgentConfig[]
    /** Characters of each workspace file that go into the prompt. */
    bootstrapMaxChars: number
    /** Runs at the same time, over all sessions. */
    maxConcurrent: number
    /** Default deadline of a run in ms; 0 = none. */
    timeoutMs: number
    /** What becomes of a run that had started when the process died. */
    recovery: 'interrupt' | 'resume'
    /** When those of `failoverFor` answer: after so many missed checks in a row. */
    failover: { everyMs: number; misses: number }
  }
  models: {
    /** Every model that is configured or built in, by reference. A provider without `models[]` is in `providers` only. */
    list: Model[]
    /** Finds a model by `provider/id`, also one that a provider without `models[]` would pass on. */
    find(ref: string): Model | undefined
  }
  session: {
    mainKey: string
    scope: string
    /** Write the session list and transcripts to files for other programs; absent = no. */
    projectFiles?: boolean
  }
  messages: { queueLimit: number; queueMode: QueueMode }
  /** `enabled`: jobs are carried out by themselves. `maxConcurrentRuns`: jobs under way at once. */
  cron: { enabled: boolean; maxConcurrentRuns: number }
  commands: { config: boolean; restart: boolean }
  tools: {
    /** Names; `*` stands for any characters. */
    deny: string[]
    /** How long one call may take, in ms. */
    timeoutMs: number
    /** How often in one run a model may ask for tools. */
    maxRounds: number
    agentToAgent: {
      enabled: boolean
      /** A list: they may send to each other. A record: who may send to whom. `*` = every agent. */
      allow: string[] | Record<string, string[]>
      limits: ChainLimits
    }
  }
  /** Those that are enabled. */
  mcp: { servers: McpServerConfig[] }
  logging: { level: LogLevel; consoleLevel: LogLevel; file: string }
  compat: { kurultai: boolean }
}

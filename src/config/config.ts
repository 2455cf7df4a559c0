/** The configuration as the rest of the gateway sees it: complete, checked, with secrets wrapped. */
import type { Scope } from '../contract/block.ts'
import type { QueueMode } from '../contract/queue-mode.ts'
import type { Model, ThinkingLevel } from '../runtimes/runtime.ts'
import type { Secret } from './secret.ts'

export type LogLevel = 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal' | 'silent'

export interface AgentConfig {
  id: string
  name: string
  /** Absolute path of the folder whose files make the system prompt; absent = no prompt. */
  workspace?: string
  /** Model references in the order they are tried; the first is the primary. */
  models: string[]
  thinking: ThinkingLevel
  failoverFor: string[]
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
  commands: { config: boolean; restart: boolean }
  tools: { deny: string[]; agentToAgent: { enabled: boolean; allow: string[] } }
  logging: { level: LogLevel; consoleLevel: LogLevel; file: string }
  compat: { kurultai: boolean }
}

/**
 * Who answers a turn. A runtime turns a {@link ModelCall} into text, piece by piece.
 *
 * It promises: pieces reach the sink in order and only before `answer` settles; an aborted signal cancels the request to the
 * provider and makes `answer` reject soon; an answer that stops without the provider's own end mark is a failure, never a short success.
 */
import type { Secret } from '../config/secret.ts'

export type ThinkingLevel = 'off' | 'minimal' | 'low' | 'medium' | 'high'

/** A model as it can be called. */
export interface Model {
  /** `provider/id`, as the configuration names it. */
  ref: string
  provider: string
  id: string
  name: string
  api: string
  baseUrl?: string
  apiKey?: Secret
  /** The environment variable that would hold the key, for the error when there is none. */
  apiKeyVariable?: string
  headers?: Record<string, string>
  reasoning: boolean
  input: ('text' | 'image')[]
  /** Tokens. */
  contextWindow: number
  /** Tokens the answer may have at the most. */
  maxTokens: number
  /** Price per million tokens, in the currency of the configuration. */
  cost: { input: number; output: number; cacheRead: number; cacheWrite: number }
}

export interface ContextMessage {
  role: 'user' | 'assistant'
  text: string
  images?: { mimeType: string; bytes: Uint8Array }[]
}

export interface ModelCall {
  runId: string
  sessionKey: string
  agentId: string
  /** Empty when the agent has no instructions. */
  system: string
  /** Oldest first; the last one is the user's. */
  messages: ContextMessage[]
  thinking: ThinkingLevel
}

/** Where the pieces of an answer go. */
export interface Sink {
  /** A piece of the answer, as the provider sent it: neither trimmed nor empty. */
  delta(text: string): void
  /** A piece of the model's reasoning. */
  reasoning(text: string): void
}

/** Tokens, as the provider counted them. */
export interface Usage {
  input: number
  output: number
  cacheRead: number
  cacheWrite: number
  totalTokens: number
}

export interface Answer {
  /** Why the model stopped: `stop`, `length`, `toolUse`, or the provider's own word. */
  stopReason: string
  usage: Usage
  /** The model that answered, which may be a fallback. */
  model: Model
}

export interface Runtime {
  /** The `api` of the models it can call. */
  readonly api: string
  answer(model: Model, call: ModelCall, sink: Sink, signal: AbortSignal): Promise<Answer>
}

/** A model that did not answer. `message` is the provider's own words where it gave any. */
export class ModelFailure extends Error {
  override readonly name = 'ModelFailure'
  readonly kind: 'auth' | 'rateLimited' | 'overloaded' | 'unreachable' | 'stalled' | 'cut' | 'refused' | 'unconfigured'
  readonly status: number | undefined
  /** How long the provider asked to wait, in milliseconds. */
  readonly retryAfterMs: number | undefined

  /**
   * @param kind `auth` 401 or 403; `rateLimited` 429; `overloaded` 5xx; `unreachable` no connection; `stalled` no bytes for too long;
   * `cut` ended without an end mark; `refused` any other 4xx; `unconfigured` no key, no such provider.
   */
  constructor(
    kind: ModelFailure['kind'],
    message: string,
    more: { status?: number | undefined; retryAfterMs?: number | undefined; cause?: unknown } = {},
  ) {
    super(message, more.cause === undefined ? undefined : { cause: more.cause })
    this.kind = kind
    this.status = more.status
    this.retryAfterMs = more.retryAfterMs
  }
}

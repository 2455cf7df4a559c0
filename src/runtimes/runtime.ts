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

/** A tool as a model is told of it. */
export interface ToolSpec {
  /** Letters, digits, `_` and `-`; at most 64 characters. */
  name: string
  description: string
  /** JSON Schema of an object. */
  parameters: { type: 'object'; [keyword: string]: unknown }
}

/** A model's wish to have a tool called. */
export interface ToolCall {
  /** Given by the model, or made up where it gave none or one that an earlier call in the context has; the result names it. */
  id: string
  name: string
  /** JSON text of an object, as the model wrote it: it may be broken. */
  arguments: string
}

/**
 * What a provider wants back unchanged while the calls it asked for are answered, such as signed reasoning. Only the runtime of
 * `api` reads it, and only for the model it came from.
 */
export interface Carried {
  api: string
  model: string
  value: unknown
}

/**
 * What was said before, in the order it was said: each call of the assistant is followed by its result before anybody else speaks.
 * Where that is not so, a runtime mends what it sends, and tells the model that the result of a call is not known.
 */
export type ContextMessage =
  | { role: 'user'; text: string; images?: { mimeType: string; bytes: Uint8Array }[] }
  | { role: 'assistant'; text: string; calls?: ToolCall[]; carried?: Carried }
  | { role: 'tool'; callId: string; name: string; text: string; isError: boolean }

export interface ModelCall {
  runId: string
  sessionKey: string
  agentId: string
  /** Empty when the agent has no instructions. */
  system: string
  /** Oldest first; the last one is the user's, or the result of a tool. */
  messages: ContextMessage[]
  thinking: ThinkingLevel
  /** What it may call; empty = no tools. */
  tools: ToolSpec[]
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
  /** What is to be called before it goes on, in its order and at least one; when `stopReason` is `toolUse`, and only then. */
  calls?: ToolCall[]
  carried?: Carried
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

/** OpenAI's Chat Completions, and the many providers that speak it. */
import type { OpenAI } from 'openai'
import { exchange, type StreamingOptions } from './exchange.ts'
import { type ContextMessage, type Model, type ModelCall, ModelFailure, type Runtime, type Usage } from './runtime.ts'

type Request = OpenAI.ChatCompletionCreateParamsStreaming
type Delta = OpenAI.ChatCompletionChunk.Choice.Delta & { reasoning_content?: string | null; reasoning?: string | null }
type TokenCounts = OpenAI.CompletionUsage & { cached_tokens?: number }

/** The runtime for the api `openai-completions`. */
export function openaiCompletions(options: StreamingOptions = {}): Runtime {
  return {
    api: 'openai-completions',
    answer: (model, call, sink, signal) => {
      const headers = (key: string) => ({ accept: 'text/event-stream', authorization: `Bearer ${key}` })
      return exchange({ ...options, model, sink, signal, headers }, async (wire) => {
        const client = await connect(wire.baseUrl, wire.fetch)
        const stream = await client.chat.completions.create(requestOf(model, call))
        let finish: string | undefined
        let counts: TokenCounts | undefined
        try {
          for await (const chunk of stream) {
            const choice = chunk.choices?.[0]
            // Moonshot puts the counts into the last choice, OpenAI into a chunk of its own behind it.
            counts = chunk.usage ?? (choice as { usage?: TokenCounts } | undefined)?.usage ?? counts
            if (choice === undefined) continue
            const delta: Delta = choice.delta ?? {}
            wire.sink.reasoning(delta.reasoning_content || delta.reasoning || '')
            wire.sink.delta(delta.content ?? '')
            finish = choice.finish_reason ?? finish
          }
        } catch (error) {
          // With `finish_reason` the answer is whole; what broke afterwards can have cost the counts at most.
          if (finish === undefined || !(error instanceof ModelFailure)) throw error
        }
        if (finish === undefined) throw wire.cut('finish_reason')
        return { stopReason: finish === 'tool_calls' ? 'toolUse' : finish, usage: usageOf(counts), model }
      })
    },
  }
}

/**
 * Makes a client for one exchange: about 35 µs, while the connections are pooled by `fetch` and not by the client. It
 * knows no key: `fetch` adds it. What is left undefined here the SDK would take from the environment; headers it takes
 * from there `fetch` ignores.
 */
async function connect(baseURL: string, fetch: typeof globalThis.fetch): Promise<OpenAI> {
  const sdk = await import('openai')
  const none = { adminAPIKey: null, organization: null, project: null, webhookSecret: null }
  return new sdk.OpenAI({ ...none, apiKey: 'added-by-fetch', baseURL, fetch, maxRetries: 0, logLevel: 'off' })
}

function requestOf(model: Model, call: ModelCall): Request {
  const messages: OpenAI.ChatCompletionMessageParam[] = call.messages.flatMap(messageOf)
  if (call.system !== '') messages.unshift({ role: 'system', content: call.system })
  const request: Request = { model: model.id, messages, stream: true, stream_options: { include_usage: true } }
  if (model.maxTokens > 0) request[limitOf(model)] = model.maxTokens
  if (model.reasoning && call.thinking !== 'off') request.reasoning_effort = call.thinking
  return request
}

/** OpenAI's own models refuse the old name of the limit, and most other servers know no other. */
function limitOf({ baseUrl = '' }: Model): 'max_completion_tokens' | 'max_tokens' {
  return new URL(baseUrl).hostname === 'api.openai.com' ? 'max_completion_tokens' : 'max_tokens'
}

/** Nothing for an empty message, such as an answer aborted before its first word: several providers refuse those. */
function messageOf({ role, text, images = [] }: ContextMessage): OpenAI.ChatCompletionMessageParam[] {
  if (role === 'assistant' || images.length === 0) return text === '' ? [] : [{ role, content: text }]
  const content: OpenAI.ChatCompletionContentPart[] = images.map(({ mimeType, bytes }) => ({
    type: 'image_url',
    image_url: { url: `data:${mimeType};base64,${Buffer.from(bytes).toString('base64')}` },
  }))
  if (text !== '') content.unshift({ type: 'text', text })
  return [{ role, content }]
}

/** `prompt_tokens` counts the cached ones too, `input` does not. */
function usageOf(counts: TokenCounts | undefined): Usage {
  const prompt = counts?.prompt_tokens ?? 0
  const output = counts?.completion_tokens ?? 0
  const cacheRead = counts?.prompt_tokens_details?.cached_tokens ?? counts?.cached_tokens ?? 0
  const input = Math.max(0, prompt - cacheRead)
  return { input, output, cacheRead, cacheWrite: 0, totalTokens: counts?.total_tokens ?? prompt + output }
}

/** OpenAI's Chat Completions, and the many providers that speak it. */
import type { OpenAI } from 'openai'
import { ending, paired } from './calls.ts'
import { exchange, type StreamingOptions } from './exchange.ts'
import {
  type Carried,
  type ContextMessage,
  type Model,
  type ModelCall,
  ModelFailure,
  type Runtime,
  type ToolCall,
  type Usage,
} from './runtime.ts'

type Request = OpenAI.ChatCompletionCreateParamsStreaming
type Delta = OpenAI.ChatCompletionChunk.Choice.Delta & { reasoning_content?: string | null; reasoning?: string | null }
type Message = OpenAI.ChatCompletionMessageParam & { reasoning_content?: string }
/** A piece of a call, or a whole one. Not every provider gives an index or an id, or gives the arguments as a text. */
type CallPiece = {
  index?: number | null
  id?: string | null
  function?: { name?: string | null; arguments?: unknown } | null
}
type TokenCounts = OpenAI.CompletionUsage & { cached_tokens?: number }

const api = 'openai-completions'

/** The runtime for the api `openai-completions`. */
export function openaiCompletions(options: StreamingOptions = {}): Runtime {
  return {
    api,
    answer: (model, call, sink, signal) => {
      const headers = (key: string) => ({ accept: 'text/event-stream', authorization: `Bearer ${key}` })
      return exchange({ ...options, model, sink, signal, headers }, async (wire) => {
        const client = await connect(wire.baseUrl, wire.fetch)
        const stream = await client.chat.completions.create(requestOf(model, call))
        let finish: string | undefined
        let counts: TokenCounts | undefined
        let thoughts = ''
        const calls: PartialCall[] = []
        try {
          for await (const chunk of stream) {
            const choice = chunk.choices?.[0]
            // Moonshot puts the counts into the last choice, OpenAI into a chunk of its own behind it.
            counts = chunk.usage ?? (choice as { usage?: TokenCounts } | undefined)?.usage ?? counts
            if (choice === undefined) continue
            const delta: Delta = choice.delta ?? {}
            wire.sink.reasoning(delta.reasoning_content || delta.reasoning || '')
            wire.sink.delta(delta.content ?? '')
            thoughts += delta.reasoning_content ?? ''
            for (const piece of delta.tool_calls ?? []) addPiece(calls, piece)
            finish = choice.finish_reason ?? finish
          }
        } catch (error) {
          // With `finish_reason` the answer is whole; what broke afterwards can have cost the counts at most.
          if (finish === undefined || !(error instanceof ModelFailure)) throw error
        }
        if (finish === undefined) throw wire.cut('finish_reason')
        const end = ending(finish === 'tool_calls' ? 'toolUse' : finish, calls, call.messages)
        const carried: Carried = { api, model: model.ref, value: thoughts }
        return { ...end, ...(end.calls && thoughts !== '' && { carried }), usage: usageOf(counts), model }
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

interface PartialCall extends ToolCall {
  index: number | undefined
}

/** Puts a piece where it belongs: to the call of its index or its id, or to the last one. A name of its own begins a call. */
function addPiece(calls: PartialCall[], piece: CallPiece): void {
  const index = piece.index ?? undefined
  const id = piece.id ?? ''
  const name = piece.function?.name ?? ''
  const wanted = piece.function?.arguments ?? ''
  const text = typeof wanted === 'string' ? wanted : JSON.stringify(wanted)
  let call = calls.at(-1)
  if (index !== undefined) call = calls.findLast((other) => other.index === index)
  else if (id !== '') call = calls.findLast((other) => other.id === id)
  else if (name !== '') call = undefined
  // Some providers count every call as the first.
  const isOther = call !== undefined && name !== '' && id !== '' && call.id !== '' && id !== call.id
  if (call === undefined || isOther) {
    calls.push({ index, id, name, arguments: text })
    return
  }
  call.id ||= id
  // Others repeat the name with every piece.
  if (name !== call.name) call.name += name
  call.arguments += text
}

function requestOf(model: Model, call: ModelCall): Request {
  const messages: Message[] = paired(call.messages, /./).flatMap((message) => messageOf(message, model))
  if (call.system !== '') messages.unshift({ role: 'system', content: call.system })
  const request: Request = { model: model.id, messages, stream: true, stream_options: { include_usage: true } }
  if (call.tools.length > 0) request.tools = call.tools.map((tool) => ({ type: 'function', function: tool }))
  if (model.maxTokens > 0) request[limitOf(model)] = model.maxTokens
  if (model.reasoning && call.thinking !== 'off') request.reasoning_effort = call.thinking
  return request
}

/** OpenAI's own models refuse the old name of the limit, and most other servers know no other. */
function limitOf({ baseUrl = '' }: Model): 'max_completion_tokens' | 'max_tokens' {
  return new URL(baseUrl).hostname === 'api.openai.com' ? 'max_completion_tokens' : 'max_tokens'
}

/** Nothing for an empty message, such as an answer aborted before its first word: several providers refuse those. */
function messageOf(message: ContextMessage, model: Model): Message[] {
  const { role, text } = message
  switch (role) {
    case 'user': {
      const { images = [] } = message
      if (images.length === 0) return text === '' ? [] : [{ role, content: text }]
      const content: OpenAI.ChatCompletionContentPart[] = images.map(({ mimeType, bytes }) => ({
        type: 'image_url',
        image_url: { url: `data:${mimeType};base64,${Buffer.from(bytes).toString('base64')}` },
      }))
      if (text !== '') content.unshift({ type: 'text', text })
      return [{ role, content }]
    }
    case 'assistant': {
      const { calls = [], carried } = message
      if (calls.length === 0) return text === '' ? [] : [{ role, content: text }]
      const tool_calls = calls.map(({ id, name, arguments: args }) => ({
        id,
        type: 'function' as const,
        function: { name, arguments: args },
      }))
      return [{ role, content: text === '' ? null : text, tool_calls, ...thoughtsOf(carried, model) }]
    }
    case 'tool':
      return [{ role, tool_call_id: message.callId, content: text }]
    default:
      return role satisfies never
  }
}

/**
 * The thoughts that led to calls. Kimi and DeepSeek, when they think, refuse calls without any, and Kimi an empty text,
 * too; other providers refuse the field, and have never sent it.
 */
function thoughtsOf(carried: Carried | undefined, model: Model): { reasoning_content?: string } {
  const own = carried?.api === api && carried.model === model.ref ? carried.value : undefined
  if (typeof own === 'string') return { reasoning_content: own }
  return model.reasoning && /kimi|deepseek/i.test(model.id) ? { reasoning_content: ' ' } : {}
}

/** `prompt_tokens` counts the cached ones too, `input` does not. */
function usageOf(counts: TokenCounts | undefined): Usage {
  const prompt = counts?.prompt_tokens ?? 0
  const output = counts?.completion_tokens ?? 0
  const cacheRead = counts?.prompt_tokens_details?.cached_tokens ?? counts?.cached_tokens ?? 0
  const input = Math.max(0, prompt - cacheRead)
  return { input, output, cacheRead, cacheWrite: 0, totalTokens: counts?.total_tokens ?? prompt + output }
}

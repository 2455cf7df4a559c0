/** Anthropic's Messages, and the providers that speak it. */
import type { Anthropic } from '@anthropic-ai/sdk'
import type { Stream } from '@anthropic-ai/sdk/streaming'
import { exchange, type StreamingOptions } from './exchange.ts'
import type { ContextMessage, Model, ModelCall, Runtime, ThinkingLevel, Usage } from './runtime.ts'

type Request = Anthropic.MessageCreateParamsStreaming
type Block = Anthropic.TextBlockParam | Anthropic.ImageBlockParam
type Turn = { role: 'user' | 'assistant'; content: Block[] }
type TokenCounts = Partial<Anthropic.MessageDeltaUsage>

/** Tokens to think with. The least the API allows is also the least left for the answer. */
const budgets: Record<Exclude<ThinkingLevel, 'off'>, number> = { minimal: 1024, low: 2048, medium: 8192, high: 16_384 }
const leastTokens = 1024
/** The API demands a limit; this one stands in where the model has none. */
const defaultMaxTokens = 8192

const stopReasons: Record<string, string> = {
  end_turn: 'stop',
  stop_sequence: 'stop',
  max_tokens: 'length',
  tool_use: 'toolUse',
}

/** The runtime for the api `anthropic-messages`. */
export function anthropicMessages(options: StreamingOptions = {}): Runtime {
  return {
    api: 'anthropic-messages',
    answer: (model, call, sink, signal) => {
      // The version and the form of the key that every compatible provider documents; the SDK's own are newer.
      const headers = (key: string) => ({
        accept: 'text/event-stream',
        'x-api-key': key,
        'anthropic-version': '2023-06-01',
      })
      return exchange({ ...options, model, sink, signal, headers }, async (wire) => {
        const client = await connect(wire.baseUrl, wire.fetch)
        // Not `messages.create`: that one prints warnings about some models to the console, whatever the log level.
        const stream = await client.post<Stream<Anthropic.RawMessageStreamEvent>>('/v1/messages', {
          body: requestOf(model, call),
          stream: true,
        })
        let stopReason = 'end_turn'
        const usage: Usage = { input: 0, output: 0, cacheRead: 0, cacheWrite: 0, totalTokens: 0 }
        for await (const event of stream) {
          switch (event.type) {
            case 'message_start':
              count(usage, event.message.usage)
              break
            case 'content_block_start':
              if (event.content_block.type === 'text') wire.sink.delta(event.content_block.text ?? '')
              break
            case 'content_block_delta':
              if (event.delta.type === 'text_delta') wire.sink.delta(event.delta.text)
              if (event.delta.type === 'thinking_delta') wire.sink.reasoning(event.delta.thinking)
              break
            case 'message_delta':
              count(usage, event.usage)
              stopReason = event.delta.stop_reason ?? stopReason
              break
            case 'message_stop':
              return { stopReason: stopReasons[stopReason] ?? stopReason, usage, model }
            default: // the ends of blocks, and events that do not exist yet, which the API asks clients to skip
          }
        }
        throw wire.cut('message_stop')
      })
    },
  }
}

/**
 * Makes a client for one exchange: about 40 µs, while the connections are pooled by `fetch` and not by the client. It
 * knows no key: `fetch` adds it. What is left undefined here the SDK would take from the environment; headers it takes
 * from there `fetch` ignores.
 */
async function connect(baseURL: string, fetch: typeof globalThis.fetch): Promise<Anthropic> {
  const sdk = await import('@anthropic-ai/sdk')
  const none = { webhookKey: null, openTelemetry: false } as const
  return new sdk.Anthropic({ ...none, apiKey: 'added-by-fetch', baseURL, fetch, maxRetries: 0, logLevel: 'off' })
}

function requestOf(model: Model, call: ModelCall): Request {
  const maxTokens = model.maxTokens > 0 ? model.maxTokens : defaultMaxTokens
  const messages = turnsOf(call.messages)
  const request: Request = { model: model.id, max_tokens: maxTokens, messages, stream: true }
  if (call.system !== '') request.system = call.system
  if (model.reasoning && call.thinking !== 'off') {
    const budget = Math.min(budgets[call.thinking], maxTokens - leastTokens)
    if (budget >= leastTokens) request.thinking = { type: 'enabled', budget_tokens: budget }
  }
  return request
}

/** User and assistant by turns, the user first, as the API demands; blank texts, which it refuses, are left out. */
function turnsOf(messages: ContextMessage[]): Turn[] {
  const turns: Turn[] = []
  for (const message of messages) {
    const content = blocksOf(message)
    const last = turns.at(-1)
    if (content.length === 0) continue
    if (last?.role === message.role) last.content.push(...content)
    else turns.push({ role: message.role, content })
  }
  // A conversation can begin with the assistant when its beginning was cut off or a greeting was put there.
  if (turns[0]?.role === 'assistant') turns.unshift({ role: 'user', content: [{ type: 'text', text: '…' }] })
  return turns
}

function blocksOf({ role, text, images = [] }: ContextMessage): Block[] {
  const blocks: Block[] = (role === 'user' ? images : []).map(({ mimeType, bytes }) => ({
    type: 'image',
    source: {
      type: 'base64',
      // A type the provider does not take is for the provider to name.
      media_type: mimeType as Anthropic.Base64ImageSource['media_type'],
      data: Buffer.from(bytes).toString('base64'),
    },
  }))
  return text.trim() === '' ? blocks : [...blocks, { type: 'text', text }]
}

/** Adds later counts. They are cumulative and may come in any of the events, so the larger is the later. */
function count(usage: Usage, counts: TokenCounts | undefined): void {
  usage.input = Math.max(usage.input, counts?.input_tokens ?? 0)
  usage.output = Math.max(usage.output, counts?.output_tokens ?? 0)
  usage.cacheRead = Math.max(usage.cacheRead, counts?.cache_read_input_tokens ?? 0)
  usage.cacheWrite = Math.max(usage.cacheWrite, counts?.cache_creation_input_tokens ?? 0)
  usage.totalTokens = usage.input + usage.output + usage.cacheRead + usage.cacheWrite
}

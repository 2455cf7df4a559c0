/** Anthropic's Messages, and the providers that speak it. */
import type { Anthropic } from '@anthropic-ai/sdk'
import type { Stream } from '@anthropic-ai/sdk/streaming'
import { ending, paired } from './calls.ts'
import { exchange, type StreamingOptions } from './exchange.ts'
import type {
  Carried,
  ContextMessage,
  Model,
  ModelCall,
  Runtime,
  Sink,
  ThinkingLevel,
  ToolCall,
  Usage,
} from './runtime.ts'

type Request = Anthropic.MessageCreateParamsStreaming
type Thought = Anthropic.ThinkingBlockParam | Anthropic.RedactedThinkingBlockParam
type Block = Exclude<Anthropic.MessageParam['content'], string>[number]
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

const api = 'anthropic-messages'

/** The runtime for the api `anthropic-messages`. */
export function anthropicMessages(options: StreamingOptions = {}): Runtime {
  return {
    api,
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
        const blocks = gather(wire.sink)
        const usage: Usage = { input: 0, output: 0, cacheRead: 0, cacheWrite: 0, totalTokens: 0 }
        for await (const event of stream) {
          switch (event.type) {
            case 'message_start':
              count(usage, event.message.usage)
              break
            case 'content_block_start':
              blocks.begin(event)
              break
            case 'content_block_delta':
              blocks.add(event)
              break
            case 'message_delta':
              count(usage, event.usage)
              stopReason = event.delta.stop_reason ?? stopReason
              break
            case 'message_stop': {
              const end = ending(stopReasons[stopReason] ?? stopReason, blocks.calls(), call.messages)
              const thoughts = blocks.thoughts()
              const carried: Carried = { api, model: model.ref, value: thoughts }
              return { ...end, ...(end.calls && thoughts.length > 0 && { carried }), usage, model }
            }
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

/** Puts the blocks of an answer together: what is said goes on to the sink at once, the rest is kept. */
function gather(sink: Sink) {
  const calls = new Map<number, ToolCall>()
  const thoughts = new Map<number, Thought>()
  return {
    calls: () => [...calls.values()],
    thoughts: () => [...thoughts.values()],
    begin({ index, content_block: block }: Anthropic.RawContentBlockStartEvent): void {
      switch (block.type) {
        case 'text':
          sink.delta(block.text ?? '')
          break
        case 'tool_use':
          calls.set(index, { id: block.id ?? '', name: block.name ?? '', arguments: wholeInput(block.input) })
          break
        case 'thinking':
          sink.reasoning(block.thinking ?? '')
          thoughts.set(index, { ...block, thinking: block.thinking ?? '', signature: block.signature ?? '' })
          break
        case 'redacted_thinking':
          thoughts.set(index, block)
          break
        default: // what only the provider's own tools give
      }
    },
    add({ index, delta }: Anthropic.RawContentBlockDeltaEvent): void {
      const call = calls.get(index)
      const thought = thoughts.get(index)
      switch (delta.type) {
        case 'text_delta':
          sink.delta(delta.text)
          break
        case 'input_json_delta':
          if (call !== undefined) call.arguments += delta.partial_json
          break
        case 'thinking_delta':
          sink.reasoning(delta.thinking)
          if (thought?.type === 'thinking') thought.thinking += delta.thinking
          break
        case 'signature_delta':
          if (thought?.type === 'thinking') thought.signature += delta.signature
          break
        default: // citations, and pieces that do not exist yet
      }
    },
  }
}

/** The input of a call that some providers send whole with its first event; others begin with an empty one. */
function wholeInput(input: unknown): string {
  const text = JSON.stringify(input ?? {})
  return text === '{}' ? '' : text
}

function requestOf(model: Model, call: ModelCall): Request {
  const maxTokens = model.maxTokens > 0 ? model.maxTokens : defaultMaxTokens
  const messages = turnsOf(paired(call.messages, /^[a-zA-Z0-9_-]+$/), model)
  const request: Request = {
    model: model.id,
    max_tokens: maxTokens,
    messages,
    stream: true,
    ...toolsOf(call, messages),
  }
  if (call.system !== '') request.system = call.system
  if (model.reasoning && call.thinking !== 'off' && mayThink(messages)) {
    const budget = Math.min(budgets[call.thinking], maxTokens - leastTokens)
    if (budget >= leastTokens) request.thinking = { type: 'enabled', budget_tokens: budget }
  }
  return request
}

/** Where tools were called they have to be defined, also when none may be called any more. */
function toolsOf({ tools }: ModelCall, turns: Turn[]): Pick<Request, 'tools' | 'tool_choice'> {
  if (tools.length > 0) {
    const defined = tools.map(({ name, description, parameters }) => ({ name, description, input_schema: parameters }))
    return { tools: defined }
  }
  const called = turns.flatMap(({ content }) =>
    content.flatMap((block) => (block.type === 'tool_use' ? block.name : [])),
  )
  if (called.length === 0) return {}
  const gone = [...new Set(called)].map((name) => ({ name, input_schema: { type: 'object' as const } }))
  return { tools: gone, tool_choice: { type: 'none' } }
}

/**
 * Whether the model may think: what the assistant has said since the last word of the user counts as one turn, which
 * begins with thinking or has none. It has none when another model began it, or when its thoughts were not kept.
 */
function mayThink(turns: Turn[]): boolean {
  const said = turns.findLastIndex(
    ({ role, content }) => role === 'user' && content.every(({ type }) => type !== 'tool_result'),
  )
  const begin = turns[said + 1]?.content[0]
  return begin === undefined || isThought(begin)
}

const isThought = (block: { type: string }): block is Thought =>
  block.type === 'thinking' || block.type === 'redacted_thinking'

/** User and assistant by turns, the user first, as the API demands; blank texts, which it refuses, are left out. */
function turnsOf(messages: ContextMessage[], model: Model): Turn[] {
  const turns: Turn[] = []
  for (const message of messages) {
    const role = message.role === 'assistant' ? 'assistant' : 'user'
    const content = blocksOf(message, model)
    const last = turns.at(-1)
    if (content.length === 0) continue
    if (last?.role === role) last.content.push(...content)
    else turns.push({ role, content })
  }
  // A conversation can begin with the assistant when its beginning was cut off or a greeting was put there.
  if (turns[0]?.role === 'assistant') turns.unshift({ role: 'user', content: [{ type: 'text', text: '…' }] })
  return turns
}

function blocksOf(message: ContextMessage, model: Model): Block[] {
  const text: Block[] = message.text.trim() === '' ? [] : [{ type: 'text', text: message.text }]
  switch (message.role) {
    case 'user':
      return [...(message.images ?? []).map(imageOf), ...text]
    case 'assistant': {
      const { calls = [], carried } = message
      const uses = calls.map(({ id, name, arguments: args }): Block => {
        return { type: 'tool_use', id, name, input: JSON.parse(args) }
      })
      return [...(uses.length > 0 ? thoughtsOf(carried, model) : []), ...text, ...uses]
    }
    case 'tool': {
      // An error has to say something, and nobody may say blanks.
      const said = text.length > 0 ? message.text : message.isError ? 'The tool failed.' : undefined
      const result: Block = { type: 'tool_result', tool_use_id: message.callId }
      return [{ ...result, ...(said !== undefined && { content: said }), ...(message.isError && { is_error: true }) }]
    }
    default:
      return message satisfies never
  }
}

const imageOf = ({ mimeType, bytes }: { mimeType: string; bytes: Uint8Array }): Block => ({
  type: 'image',
  source: {
    type: 'base64',
    // A type the provider does not take is for the provider to name.
    media_type: mimeType as Anthropic.Base64ImageSource['media_type'],
    data: Buffer.from(bytes).toString('base64'),
  },
})

/** What the model thought before it asked for tools: signed, and of no use to another. */
function thoughtsOf(carried: Carried | undefined, model: Model): Thought[] {
  if (carried?.api !== api || carried.model !== model.ref || !Array.isArray(carried.value)) return []
  return carried.value.filter(isThought)
}

/** Adds later counts. They are cumulative and may come in any of the events, so the larger is the later. */
function count(usage: Usage, counts: TokenCounts | undefined): void {
  usage.input = Math.max(usage.input, counts?.input_tokens ?? 0)
  usage.output = Math.max(usage.output, counts?.output_tokens ?? 0)
  usage.cacheRead = Math.max(usage.cacheRead, counts?.cache_read_input_tokens ?? 0)
  usage.cacheWrite = Math.max(usage.cacheWrite, counts?.cache_creation_input_tokens ?? 0)
  usage.totalTokens = usage.input + usage.output + usage.cacheRead + usage.cacheWrite
}

/** The answer of a gateway without a model: the user's own words, and what to set to get a model. */
import { pause } from './pause.ts'
import type { ContextMessage, Runtime } from './runtime.ts'

export interface EchoOptions {
  /** Milliseconds between two pieces. 20. */
  wordMs?: number
}

const explanation =
  'No model is configured, so this is the built-in echo. ' +
  'Set MOONSHOT_API_KEY, or configure models.providers and a model for the agent, and start the gateway again.'

/** A long text comes in this many pieces at the most, so that at the default pace it takes about five seconds. */
const mostPieces = 250

/** The runtime for the api `echo`. It calls nobody, not even a tool, needs no key, and counts no tokens. */
export function echo({ wordMs = 20 }: EchoOptions = {}): Runtime {
  return {
    api: 'echo',
    async answer(model, call, sink, signal) {
      signal.throwIfAborted()
      for (const [index, piece] of piecesOf(replyTo(call.messages)).entries()) {
        if (index > 0) await pause(wordMs, signal)
        sink.delta(piece)
      }
      const usage = { input: 0, output: 0, cacheRead: 0, cacheWrite: 0, totalTokens: 0 }
      return { stopReason: 'stop', usage, model }
    },
  }
}

function replyTo(messages: ContextMessage[]): string {
  // Not simply the last one: after another model's calls of tools the last ones are results.
  const { text = '', images = [] } = messages.findLast((message) => message.role === 'user') ?? {}
  const pictures = images.length === 0 ? '' : ` (and ${images.length === 1 ? 'an image' : `${images.length} images`})`
  const reply = `You said${pictures}: ${text}`
  return messages.some(({ role }) => role === 'assistant') ? reply : `${explanation}\n\n${reply}`
}

/** Words with the space before them; several at a time when there are many. */
function piecesOf(text: string): string[] {
  const words = text.match(/\s*\S+|\s+$/g) ?? []
  const size = Math.ceil(words.length / mostPieces)
  return Array.from({ length: Math.ceil(words.length / size) }, (_, piece) =>
    words.slice(piece * size, (piece + 1) * size).join(''),
  )
}

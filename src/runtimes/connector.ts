/** The answer of an agent that is a connected program: what it is asked, and what it says, put together without hole or double. */
import type { Answer, ContextMessage, Model, ModelCall, Runtime, Sink, Usage } from './runtime.ts'

/** A part of an answer, as a node tells it. `offset`: UTF-16 units of the answer before it. */
export type ConnectorPiece = { kind: 'text'; offset: number; text: string } | { kind: 'reasoning'; text: string }

/** Has the node of an agent answer, and resolves to what it says at the end. */
export type AskNode = (
  wanted: {
    agentId: string
    runId: string
    /** What the node is asked, made each time it is asked. @param called how many tools were called for it */
    params(called: number): object
    /** Takes a piece. What it throws ends the answer. */
    hear(piece: ConnectorPiece): void
  },
  signal: AbortSignal,
) => Promise<unknown>

/** UTF-8 bytes of what was said before that a node is given. */
const MOST_BYTES = 256 * 1024
/** Characters of a name that a node gives its model, or the reason why it stopped. */
const LONGEST_NAME = 128

/** The runtime for the api `connector`: a node answers. */
export function connector(ask: AskNode): Runtime {
  return {
    api: 'connector',
    async answer(model, call, sink, signal) {
      signal.throwIfAborted()
      const told = putTogether(call.agentId, sink)
      let broken: { by: unknown } | undefined
      const payload = await ask(
        {
          agentId: call.agentId,
          runId: call.runId,
          params: (called) => paramsOf(call, { received: told.length, called }),
          hear(piece) {
            try {
              if (piece.kind === 'text') told.take(piece.offset, piece.text)
              else if (piece.text !== '') sink.reasoning(piece.text)
            } catch (error) {
              broken = { by: error }
              throw error
            }
          },
        },
        signal,
      ).catch((error: unknown) => {
        signal.throwIfAborted()
        throw broken ? broken.by : error
      })
      const end = isObject(payload) ? payload : {}
      if (typeof end['text'] === 'string') told.complete(end['text'])
      return answerOf(model, end)
    },
  }
}

/** What stands for the model of an agent that is a connector. */
export const connectorModel = (agentId: string): Model => ({
  ref: `connector/${agentId}`,
  provider: 'connector',
  id: agentId,
  name: agentId,
  api: 'connector',
  reasoning: false,
  input: ['text'],
  // More than is ever sent to it: what it makes of that is its own affair.
  contextWindow: MOST_BYTES,
  maxTokens: 0,
  cost: { input: 0, output: 0, cacheRead: 0, cacheWrite: 0 },
})

/** What has been told of an answer so far. What comes again must be what came before, and nothing may be left out. */
function putTogether(agentId: string, sink: Sink) {
  let text = ''
  return {
    get length() {
      return text.length
    },
    take(offset: number, piece: string) {
      if (offset > text.length)
        throw new Error(`the connector of ${agentId} left out characters ${text.length} to ${offset} of its answer`)
      const known = text.slice(offset, offset + piece.length)
      if (!piece.startsWith(known))
        throw new Error(`the connector of ${agentId} told another text at ${offset} than before`)
      const fresh = piece.slice(known.length)
      if (fresh === '') return
      text += fresh
      sink.delta(fresh)
    },
    complete(whole: string) {
      if (!whole.startsWith(text))
        throw new Error(`the whole answer of the connector of ${agentId} is not what it told in pieces`)
      this.take(0, whole)
    },
  }
}

function paramsOf(call: ModelCall, soFar: { received: number; called: number }): object {
  const { runId, sessionKey, agentId, system, thinking, tools } = call
  const message = call.messages.findLast(({ role }) => role === 'user')?.text ?? ''
  return { runId, sessionKey, agentId, message, messages: newest(call.messages), system, thinking, tools, ...soFar }
}

/** The newest messages that fit, oldest first, without pictures; the newest one always. */
function newest(messages: readonly ContextMessage[]): object[] {
  const chosen: object[] = []
  let left = MOST_BYTES
  for (const message of messages.toReversed()) {
    const told = withoutPictures(message)
    left -= Buffer.byteLength(JSON.stringify(told))
    if (left < 0 && chosen.length > 0) break
    chosen.unshift(told)
  }
  return chosen
}

function withoutPictures(message: ContextMessage): object {
  switch (message.role) {
    case 'user':
      return { role: 'user', text: message.text }
    case 'assistant':
      // What is carried is for the provider it came from.
      return { role: 'assistant', text: message.text, ...(message.calls && { calls: message.calls }) }
    case 'tool':
      return message
  }
}

function answerOf(model: Model, end: { [member: string]: unknown }): Answer {
  const { stopReason, usage } = end
  return {
    // Its tools it calls itself.
    stopReason: isName(stopReason) && stopReason !== 'toolUse' ? stopReason : 'stop',
    usage: usageOf(isObject(usage) ? usage : {}),
    model: isName(end['model']) ? { ...model, id: end['model'] } : model,
  }
}

function usageOf(counts: { [member: string]: unknown }): Usage {
  const count = (name: string) => {
    const value = counts[name]
    return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 ? value : 0
  }
  const usage = {
    input: count('input'),
    output: count('output'),
    cacheRead: count('cacheRead'),
    cacheWrite: count('cacheWrite'),
  }
  const sum = usage.input + usage.output + usage.cacheRead + usage.cacheWrite
  return { ...usage, totalTokens: Math.max(count('totalTokens'), sum) }
}

const isName = (value: unknown): value is string =>
  typeof value === 'string' && value !== '' && value.length <= LONGEST_NAME

const isObject = (value: unknown): value is { [member: string]: unknown } =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

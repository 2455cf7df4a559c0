/** What a model is asked for a turn: who it is, what was said before, what is said now. */
import type { Config } from '../config/config.ts'
import type {
  Answer,
  Carried,
  ContextMessage,
  Model,
  ModelCall,
  ThinkingLevel,
  ToolCall,
  ToolSpec,
} from '../runtimes/runtime.ts'
import type { Json, RunRecord, Sent, Store, TranscriptMessage } from '../stores/store.ts'
import type { Agents } from './agents.ts'

export interface Prompt {
  /**
   * The models to try, in order, and the call.
   * @param steps what the run has done since it began
   */
  for(record: RunRecord, steps?: readonly Step[]): Promise<{ candidates: Model[]; call: ModelCall }>
  /** The model that would answer first. */
  modelOf(agentId: string, sessionModel: string | undefined): Model | undefined
}

/** What a run did before its model was asked again. */
export type Step =
  /** The model was called off after these words. */
  | { kind: 'said'; text: string }
  /** The model asked for tools after these words, and there is a result for each call. */
  | {
      kind: 'called'
      text: string
      calls: ToolCall[]
      carried?: Carried
      results: { callId: string; name: string; text: string; isError: boolean }[]
      answer: Answer
      at: number
    }
  /** Another turn joined the run; its entry was put in the transcript at that time. */
  | { kind: 'joined'; message: string; at: number }

export interface PromptNeeds {
  agents: Agents
  models: Config['models']
  store: Pick<Store, 'history' | 'session' | 'attachment' | 'run'>
  /** The instructions of an agent, from its workspace. */
  instructions(agentId: string): string
  /** What an agent may call. */
  tools(agentId: string): ToolSpec[]
  /** What stands for the model of an agent that a node answers for. */
  connectorModel?(agentId: string): Model
  /** The agent that answers for another one now. */
  standInFor?(agentId: string): string | undefined
}

/** Bytes of text that surely fit in a token of the context: English has about four, code about three. */
const BYTES_PER_TOKEN = 3
const MOST_ENTRIES = 1000
/** JSON bytes of a transcript that are looked at: more than the largest context of today's models. */
const MOST_BYTES = 4 * 1024 * 1024
const LEVELS: readonly string[] = ['off', 'minimal', 'low', 'medium', 'high'] satisfies ThinkingLevel[]

export function createPrompt({
  agents,
  models,
  store,
  instructions,
  tools,
  connectorModel,
  standInFor = () => undefined,
}: PromptNeeds): Prompt {
  /** In the order they are tried. */
  function candidatesOf(agentId: string, sessionModel: string | undefined): Model[] {
    const { connector, models: configured = [] } = agents.get(agentId) ?? {}
    if (connector && connectorModel) return [connectorModel(agentId)]
    const refs = sessionModel ? [sessionModel, ...configured.filter((ref) => ref !== sessionModel)] : configured
    return refs.map(find)
  }

  /** Who says the last words, where that is no person. */
  const speakerOf = ({ from, reply }: Sent) =>
    `The last message is from the agent ${nameOf(from.agentId)}, not from a person. ${reply === 'once' ? 'What you say at the end of this turn is brought to it as your answer.' : 'Nobody waits for an answer.'}`

  const nameOf = (agentId: string) => `${agents.get(agentId)?.name ?? agentId} (${agentId})`

  /** A model that is not configured keeps its place in the row: the run's error then names it. */
  const find = (ref: string): Model => {
    const [provider = ref, ...id] = ref.split('/')
    return models.find(ref) ?? unconfigured(ref, provider, id.join('/'))
  }

  return {
    async for(record, steps = []) {
      const { runId, sessionKey, agentId, meta, sent } = record
      // Asked for together, so that both come with one answer of the store.
      const [session, { messages }, started] = await Promise.all([
        store.session(sessionKey),
        store.history(sessionKey, { limit: MOST_ENTRIES, maxBytes: MOST_BYTES }),
        record.quiet ? store.run(runId) : undefined,
      ])
      // The words of a quiet run are in no transcript yet.
      const said: Piece[] = started ? [...messages, [{ role: 'user', text: started.message }]] : messages
      const standIn = standInFor(agentId)
      const answering = standIn ?? agentId
      // What was chosen for the session was chosen for its agent.
      const sessionModel = standIn === undefined ? (meta['model'] ?? session?.settings['model']) : undefined
      const candidates = candidatesOf(answering, typeof sessionModel === 'string' ? sessionModel : undefined)
      const smallest = Math.min(...candidates.map(({ contextWindow }) => contextWindow))
      const extra = meta['extraSystemPrompt']
      const thinking = [meta['thinking'], session?.settings['thinkingLevel'], agents.get(answering)?.thinking].find(
        (level): level is ThinkingLevel => typeof level === 'string' && LEVELS.includes(level),
      )
      return {
        candidates,
        call: {
          runId,
          sessionKey,
          agentId: answering,
          system: [
            instructions(answering),
            standIn === undefined ? '' : `You stand in for ${nameOf(agentId)}, who cannot be reached now.`,
            sent ? speakerOf(sent) : '',
            typeof extra === 'string' ? extra : '',
          ]
            .filter(Boolean)
            .join('\n\n'),
          messages: await contextOf(newest(withSteps(said, steps), smallest * BYTES_PER_TOKEN), store),
          thinking: thinking ?? 'off',
          tools: tools(agentId),
        },
      }
    },
    modelOf(agentId, sessionModel) {
      return candidatesOf(agentId, sessionModel)[0]
    },
  }
}

const unconfigured = (ref: string, provider: string, id: string): Model => ({
  ref,
  provider,
  id,
  name: ref,
  api: 'openai-completions',
  reasoning: false,
  input: ['text'],
  contextWindow: 128_000,
  maxTokens: 8_192,
  cost: { input: 0, output: 0, cacheRead: 0, cacheWrite: 0 },
})

/** An entry of the transcript, or what a run did that is no part of it yet. */
type Piece = TranscriptMessage | ContextMessage[]

/** The newest pieces that have at most so many characters of text together, oldest first; the newest one always. */
function newest(pieces: Piece[], most: number): Piece[] {
  let left = most
  let first = pieces.length
  while (first > 0) {
    left -= sizeOf(pieces[first - 1]!)
    if (left < 0 && first < pieces.length) break
    first -= 1
  }
  return pieces.slice(first)
}

function sizeOf(piece: Piece): number {
  const texts = Array.isArray(piece)
    ? piece.flatMap((message) => [message.text, ...callsOf(message).map((call) => call.arguments)])
    : piece.content.map((part) => ('arguments' in part ? JSON.stringify(part['arguments']) : part['text']))
  return texts.reduce<number>((size, text) => size + (typeof text === 'string' ? text.length : 0), 0)
}

const callsOf = (message: ContextMessage): ToolCall[] => (message.role === 'assistant' ? (message.calls ?? []) : [])

/** Puts what a run did into its place: the transcript has it only when the run is over. */
function withSteps(messages: Piece[], steps: readonly Step[]): Piece[] {
  const whole: Piece[] = [...messages]
  let done: ContextMessage[] = []
  for (const step of steps) {
    if (step.kind !== 'joined') {
      done.push(...saidIn(step))
      continue
    }
    const place = whole.findLastIndex((piece) => !Array.isArray(piece) && isTurn(piece, step))
    if (place === -1) continue
    whole.splice(place, 0, done)
    done = []
  }
  return [...whole, done]
}

const isTurn = ({ role, timestamp, content }: TranscriptMessage, { message, at }: Step & { kind: 'joined' }): boolean =>
  role === 'user' && timestamp === at && (message === '' || content.some(({ text }) => text === message))

function saidIn(step: Exclude<Step, { kind: 'joined' }>): ContextMessage[] {
  const text = step.text.trim()
  if (step.kind === 'said') return text === '' ? [] : [{ role: 'assistant', text }]
  const { calls, carried, results } = step
  return [
    { role: 'assistant', text, calls, ...(carried && { carried }) },
    ...results.map((result) => ({ role: 'tool' as const, ...result })),
  ]
}

/** A transcript as a model takes it: text, pictures, calls and their results, from the first thing the user said. */
async function contextOf(pieces: Piece[], store: Pick<Store, 'attachment'>): Promise<ContextMessage[]> {
  const context: ContextMessage[] = []
  for (const piece of pieces) {
    if (Array.isArray(piece)) context.push(...piece)
    else {
      const message = await messageOf(piece, store)
      if (message) context.push(message)
    }
  }
  return context.slice(
    Math.max(
      0,
      context.findIndex(({ role }) => role === 'user'),
    ),
  )
}

/** Undefined: nothing that a model could be told, such as an answer that failed before its first word. */
async function messageOf(
  entry: TranscriptMessage,
  store: Pick<Store, 'attachment'>,
): Promise<ContextMessage | undefined> {
  const { role, content } = entry
  const text = content
    .map((part) => (part.type === 'text' && typeof part['text'] === 'string' ? part['text'] : ''))
    .join('')
  switch (role) {
    case 'toolResult':
      return {
        role: 'tool',
        callId: String(entry['toolCallId']),
        name: String(entry['toolName']),
        text,
        isError: entry['isError'] === true,
      }
    case 'assistant': {
      const calls = content.flatMap((part) =>
        part.type === 'toolCall'
          ? [{ id: String(part['id']), name: String(part['name']), arguments: textOfArguments(part['arguments']) }]
          : [],
      )
      if (calls.length > 0) return { role, text, calls }
      return text === '' ? undefined : { role, text }
    }
    case 'user': {
      const images: { mimeType: string; bytes: Uint8Array }[] = []
      for (const part of content) {
        if (part.type !== 'image' || typeof part['sha256'] !== 'string') continue
        const bytes = await store.attachment(part['sha256'])
        if (bytes) images.push({ mimeType: String(part['mimeType']), bytes })
      }
      return text === '' && images.length === 0 ? undefined : { role, text, ...(images.length > 0 && { images }) }
    }
  }
}

/** What a call was given, as JSON; what is none stays the text that it is. */
export function readArguments(text: string): Json {
  try {
    return JSON.parse(text.trim() || '{}') as Json
  } catch {
    return text
  }
}

/** As the model wrote them; what was no JSON was kept as the text that it is. */
const textOfArguments = (args: Json | undefined): string =>
  typeof args === 'string' ? args : JSON.stringify(args ?? {})

/** What a model is asked for a turn: who it is, what was said before, what is said now. */
import type { Config } from '../config/config.ts'
import type { ContextMessage, Model, ModelCall, ThinkingLevel } from '../runtimes/runtime.ts'
import type { RunRecord, Store, TranscriptMessage } from '../stores/store.ts'
import type { Agents } from './agents.ts'

export interface Prompt {
  /**
   * The models to try, in order, and the call.
   * @param joined the turns that joined the run since it began
   */
  for(record: RunRecord, joined?: Joined[]): Promise<{ candidates: Model[]; call: ModelCall }>
  /** The model that would answer first. */
  modelOf(agentId: string, sessionModel: string | undefined): Model | undefined
}

/** A turn that joined a run while it was under way. */
export interface Joined {
  /** What the run had said since the one that joined before it. */
  said: string
  message: string
  /** When its entry was put in the transcript. */
  at: number
}

export interface PromptNeeds {
  agents: Agents
  models: Config['models']
  store: Pick<Store, 'history' | 'session' | 'attachment'>
  /** The instructions of an agent, from its workspace. */
  instructions(agentId: string): string
}

/** Bytes of text that surely fit in a token of the context: English has about four, code about three. */
const BYTES_PER_TOKEN = 3
const MOST_ENTRIES = 1000
/** JSON bytes of a transcript that are looked at: more than the largest context of today's models. */
const MOST_BYTES = 4 * 1024 * 1024
const LEVELS: readonly string[] = ['off', 'minimal', 'low', 'medium', 'high'] satisfies ThinkingLevel[]

export function createPrompt({ agents, models, store, instructions }: PromptNeeds): Prompt {
  function refsOf(agentId: string, sessionModel: string | undefined): string[] {
    const configured = agents.get(agentId)?.models ?? []
    return sessionModel ? [sessionModel, ...configured.filter((ref) => ref !== sessionModel)] : configured
  }

  /** A model that is not configured keeps its place in the row: the run's error then names it. */
  const find = (ref: string): Model => {
    const [provider = ref, ...id] = ref.split('/')
    return models.find(ref) ?? unconfigured(ref, provider, id.join('/'))
  }

  return {
    async for(record, joined = []) {
      const { runId, sessionKey, agentId, meta } = record
      // Asked for together, so that both come with one answer of the store.
      const [session, { messages }] = await Promise.all([
        store.session(sessionKey),
        store.history(sessionKey, { limit: MOST_ENTRIES, maxBytes: MOST_BYTES }),
      ])
      const sessionModel = session?.settings['model']
      const candidates = refsOf(agentId, typeof sessionModel === 'string' ? sessionModel : undefined).map(find)
      const smallest = Math.min(...candidates.map(({ contextWindow }) => contextWindow))
      const extra = meta['extraSystemPrompt']
      const thinking = [meta['thinking'], session?.settings['thinkingLevel'], agents.get(agentId)?.thinking].find(
        (level): level is ThinkingLevel => typeof level === 'string' && LEVELS.includes(level),
      )
      return {
        candidates,
        call: {
          runId,
          sessionKey,
          agentId,
          system: [instructions(agentId), typeof extra === 'string' ? extra : ''].filter(Boolean).join('\n\n'),
          messages: await contextOf(newest(withJoined(messages, joined), smallest * BYTES_PER_TOKEN), store),
          thinking: thinking ?? 'off',
          tools: [],
        },
      }
    },
    modelOf(agentId, sessionModel) {
      const [ref] = refsOf(agentId, sessionModel)
      return ref === undefined ? undefined : find(ref)
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

/** The newest entries that have at most so many characters of text together, oldest first; the newest one always. */
function newest(messages: TranscriptMessage[], most: number): TranscriptMessage[] {
  let left = most
  let first = messages.length
  while (first > 0) {
    for (const part of messages[first - 1]!.content) if (typeof part['text'] === 'string') left -= part['text'].length
    if (left < 0 && first < messages.length) break
    first -= 1
  }
  return messages.slice(first)
}

/** Puts what a run had said before each turn that joined it in front of that turn: the transcript has it only when the run is over. */
function withJoined(messages: TranscriptMessage[], joined: Joined[]): TranscriptMessage[] {
  const whole = [...messages]
  for (const { said, message, at } of joined) {
    const isTurn = ({ role, timestamp, content }: TranscriptMessage) =>
      role === 'user' && timestamp === at && (message === '' || content.some(({ text }) => text === message))
    const place = whole.findLastIndex(isTurn)
    const text = said.trim()
    if (place !== -1 && text !== '')
      whole.splice(place, 0, { role: 'assistant', content: [{ type: 'text', text }], timestamp: at })
  }
  return whole
}

/** A transcript as a model takes it: text and pictures, from the first thing the user said. */
async function contextOf(messages: TranscriptMessage[], store: Pick<Store, 'attachment'>): Promise<ContextMessage[]> {
  const context: ContextMessage[] = []
  for (const { role, content } of messages) {
    if (role === 'toolResult') continue
    let text = ''
    const images: NonNullable<Extract<ContextMessage, { role: 'user' }>['images']> = []
    for (const part of content) {
      if (part.type === 'text' && typeof part['text'] === 'string') text += part['text']
      if (part.type === 'image' && typeof part['sha256'] === 'string') {
        const bytes = await store.attachment(part['sha256'])
        if (bytes) images.push({ mimeType: String(part['mimeType']), bytes })
      }
    }
    // An answer that failed before its first word says nothing to a model.
    if (text === '' && images.length === 0) continue
    context.push(role === 'user' ? { role, text, ...(images.length > 0 && { images }) } : { role, text })
  }
  return context.slice(
    Math.max(
      0,
      context.findIndex(({ role }) => role === 'user'),
    ),
  )
}

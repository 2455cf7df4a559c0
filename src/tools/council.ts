/** The tools by which agents know of each other, and work together. */
import { type Static, type TObject, Type } from 'typebox'
import type { Agents } from '../broker/agents.ts'
import { type Chains, chainOf } from '../broker/chains.ts'
import type { Mailbox, MessageOutcome } from '../broker/mailbox.ts'
import type { Sessions } from '../broker/sessions.ts'
import type { Tool, ToolContext, ToolResult } from '../broker/toolbox.ts'
import { GatewayError } from '../contract/errors.ts'
import { type AgentNames, canonical, unknownAgent } from '../contract/session-key.ts'
import type { RunRecord, SessionRecord, Store, TranscriptMessage } from '../stores/store.ts'

export interface CouncilNeeds {
  agents: Agents
  chains: Pick<Chains, 'maySend' | 'refusalOf'>
  mailbox: Pick<Mailbox, 'send' | 'answer'>
  store: Pick<Store, 'sessions' | 'session' | 'history'>
  sessions: Pick<Sessions, 'queue'>
  /** What an agent is doing. */
  activityOf(agentId: string): { reachable: boolean; running: number; waiting: number }
  now(): number
}

/** How long an answer is waited for unless told otherwise, in seconds, and at the most. */
const WAIT_S = 120
const MOST_WAIT_S = 3_600
/** Characters of an answer in a result, as JSON. */
const MOST_REPLY = 90_000
const HISTORY = { limit: 20, most: 100, maxBytes: 60_000 }
const SESSIONS = { limit: 20, most: 100 }

const Target = {
  agentId: Type.Optional(Type.String({ description: 'The agent, by id or name: its main session.' })),
  sessionKey: Type.Optional(Type.String({ description: 'In place of agentId: a certain session.' })),
}
const Message = Type.String({ minLength: 1, maxLength: 200_000 })

export function councilTools(needs: CouncilNeeds): Tool[] {
  const { agents, chains, mailbox, store, now } = needs

  /** The agents, of which a refusal names only those that this one may know of. */
  const knownTo = ({ agentId }: RunRecord): AgentNames => ({
    defaultId: agents.defaultId,
    mainKey: agents.mainKey,
    resolve: agents.resolve,
    ids: () => agents.ids().filter((id) => chains.maySend(agentId, id)),
  })

  /** The session a call is about, if this agent may know of it. */
  function sessionFor({ agentId, sessionKey }: { agentId?: string; sessionKey?: string }, run: RunRecord) {
    if (sessionKey !== undefined) {
      const found = canonical(sessionKey, knownTo(run))
      refuseStranger(run.agentId, found.agentId)
      return found
    }
    if (agentId === undefined) throw new Error('say which: give agentId or sessionKey')
    const id = agents.resolve(agentId)
    if (id === undefined) throw unknownAgent(agentId, knownTo(run))
    refuseStranger(run.agentId, id)
    return { key: `agent:${id}:${agents.mainKey}`, agentId: id }
  }

  function refuseStranger(from: string, to: string): void {
    const refusal = chains.refusalOf(from, to)
    if (refusal) throw refusal
  }

  const isKnownTo = (run: RunRecord) => (session: SessionRecord) => chains.maySend(run.agentId, session.agentId)

  const shown = (session: SessionRecord) => {
    const { running, waiting } = needs.sessions.queue(session.key)
    const { label } = session.settings
    return {
      sessionKey: session.key,
      agentId: session.agentId,
      ...(typeof label === 'string' && { label }),
      updatedSecondsAgo: Math.max(0, Math.round((now() - session.updatedAt) / 1000)),
      entries: session.messageCount,
      state: running === null ? 'idle' : 'busy',
      waiting: waiting.length,
    }
  }

  async function awaitAnswer(
    run: RunRecord,
    messageId: string,
    seconds: number,
    signal: AbortSignal,
  ): Promise<ToolResult> {
    const outcome = await mailbox.answer(run, messageId, seconds * 1000, signal)
    if (outcome === undefined)
      return json({
        status: 'pending',
        messageId,
        note: `it is delivered, and not answered after ${seconds} s: the answer comes as a message of its own; do not send it again`,
      })
    return { ...json(told(outcome)), isError: outcome.state !== 'replied', heard: [messageId] }
  }

  return [
    tool({
      name: 'agents_list',
      description: 'The agents you may send to: id, name, whether it can be reached, and how much it has to do.',
      parameters: Type.Object({}),
      call: async (_, { run }) =>
        json({
          you: run.agentId,
          agents: agents
            .list()
            .filter(({ id }) => id !== run.agentId && chains.maySend(run.agentId, id))
            .map(({ id, name }) => ({ id, name, ...needs.activityOf(id) })),
        }),
    }),
    tool({
      name: 'sessions_list',
      description: 'The sessions you may see, the newest first.',
      parameters: Type.Object({
        agentId: Type.Optional(Type.String({ description: 'Only those of this agent, by id or name.' })),
        activeMinutes: Type.Optional(Type.Integer({ minimum: 1 })),
        limit: Type.Optional(Type.Integer({ minimum: 1, maximum: SESSIONS.most })),
      }),
      async call({ agentId, activeMinutes, limit = SESSIONS.limit }, { run }) {
        const id = agentId === undefined ? undefined : agents.resolve(agentId)
        if (agentId !== undefined && id === undefined) throw unknownAgent(agentId, knownTo(run))
        const found = await store.sessions({
          ...(id !== undefined && { agentId: id }),
          ...(activeMinutes !== undefined && { updatedSince: now() - activeMinutes * 60_000 }),
        })
        return json({ sessions: found.filter(isKnownTo(run)).slice(0, limit).map(shown) })
      },
    }),
    tool({
      name: 'sessions_history',
      description: 'The newest entries of a session, the oldest of them first.',
      parameters: Type.Object({
        sessionKey: Type.String(),
        limit: Type.Optional(Type.Integer({ minimum: 1, maximum: HISTORY.most })),
        includeTools: Type.Optional(Type.Boolean({ description: 'Also calls of tools and their results.' })),
      }),
      async call({ sessionKey, limit = HISTORY.limit, includeTools = false }, { run }) {
        const { key } = sessionFor({ sessionKey }, run)
        const { messages } = await store.history(key, { limit, maxBytes: HISTORY.maxBytes })
        const entries = messages.filter(({ role }) => includeTools || role !== 'toolResult').map(line)
        return json({ sessionKey: key, entries: entries.filter(({ text }) => text !== '' || includeTools) })
      },
    }),
    tool({
      name: 'sessions_send',
      isForRuns: true,
      description:
        'Send a message to another agent, and get its answer. With timeoutSeconds 0 nobody waits and no answer comes back. When the time is up, the answer comes later as a message of its own.',
      parameters: Type.Object({
        ...Target,
        message: Message,
        timeoutSeconds: Type.Optional(
          Type.Integer({ minimum: 0, maximum: MOST_WAIT_S, description: `Default: ${WAIT_S}.` }),
        ),
      }),
      timeoutMs: 0,
      async call({ agentId, sessionKey, message, timeoutSeconds = WAIT_S }, { run }, signal) {
        const to = sessionFor(given({ agentId, sessionKey }), run)
        const reply = timeoutSeconds === 0 ? 'none' : 'once'
        const { messageId } = await mailbox.send(run, {
          to: { agentId: to.agentId, sessionKey: to.key },
          message,
          reply,
        })
        if (reply === 'none') return json({ status: 'delivered', messageId })
        return awaitAnswer(run, messageId, timeoutSeconds, signal)
      },
    }),
    tool({
      name: 'sessions_spawn',
      isForRuns: true,
      description:
        'Give a task to an agent in a session of its own, and go on. What it comes to is brought to you once, as a message, after your turn.',
      parameters: Type.Object({
        task: Message,
        agentId: Type.Optional(Type.String({ description: 'Default: you yourself.' })),
        label: Type.Optional(Type.String({ minLength: 1, maxLength: 64 })),
        startWithinSeconds: Type.Optional(
          Type.Integer({
            minimum: 1,
            maximum: 86_400,
            description: 'It is dropped when it could not be begun by then.',
          }),
        ),
      }),
      async call({ task, agentId, label, startWithinSeconds }, { run }) {
        const to = sessionFor({ agentId: agentId ?? run.agentId }, run)
        const spawned = await mailbox.send(run, {
          to: { agentId: to.agentId },
          message: task,
          reply: 'once',
          ...(label !== undefined && { label }),
          ...(startWithinSeconds !== undefined && { expiresMs: startWithinSeconds * 1000 }),
        })
        return json({ status: 'delivered', ...spawned })
      },
    }),
    tool({
      name: 'session_status',
      description: 'How a session is; by default the one you are in.',
      parameters: Type.Object({ sessionKey: Type.Optional(Type.String()) }),
      async call({ sessionKey }, { run, isOutside }) {
        const { key } = sessionFor({ sessionKey: sessionKey ?? run.sessionKey }, run)
        const session = await store.session(key)
        if (!session) throw new GatewayError('SESSION_NOT_FOUND', `there is no session ${key}`)
        const { modelProvider, model, totalTokens, contextTokens = 0 } = session
        const { id, hop, path } = chainOf(run)
        return json({
          ...shown(session),
          ...(model !== undefined && { model: `${modelProvider}/${model}` }),
          totalTokens,
          contextTokens,
          ...(key === run.sessionKey && !isOutside && { runId: run.runId, chainId: id, hop, path }),
        })
      },
    }),
  ]
}

/** Ties the arguments of a tool to its parameters: the toolbox has checked that they fit. */
function tool<P extends TObject>({
  parameters,
  call,
  ...rest
}: Pick<Tool, 'name' | 'description' | 'timeoutMs' | 'isForRuns'> & {
  parameters: P
  call(args: Static<P>, context: ToolContext, signal: AbortSignal): Promise<ToolResult>
}): Tool {
  return {
    ...rest,
    // Misspelled arguments are told, not ignored.
    parameters: { ...parameters, additionalProperties: false } as unknown as Tool['parameters'],
    call: (args, context, signal) => call(args as Static<P>, context, signal),
  }
}

const json = (value: unknown): ToolResult => ({ text: JSON.stringify(value) })

const given = <T extends object>(value: T) =>
  Object.fromEntries(Object.entries(value).filter(([, member]) => member !== undefined)) as {
    [K in keyof T]?: NonNullable<T[K]>
  }

/** What a message came to, in JSON that the toolbox does not cut: the reply is shortened where it is too long. */
function told({ messageId, state, text }: MessageOutcome): object {
  if (state !== 'replied') return { status: state, messageId, error: text }
  const size = JSON.stringify(text).length
  if (size <= MOST_REPLY) return { status: state, messageId, reply: text }
  // Characters that are escaped count as what they become.
  const reply = text.slice(0, Math.floor((text.length * MOST_REPLY) / size))
  return { status: state, messageId, reply, truncated: `the answer has ${text.length} characters` }
}

function line({ role, content }: TranscriptMessage): { role: string; text: string; calls?: string[] } {
  const text = content.map((part) => (typeof part['text'] === 'string' ? part['text'] : '')).join('')
  const calls = content.flatMap((part) => (part.type === 'toolCall' ? [String(part['name'])] : []))
  return { role, text, ...(calls.length > 0 && { calls }) }
}

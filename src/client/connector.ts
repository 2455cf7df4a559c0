/** Answers that this side writes: what an agent is asked, kept to the letter so that a dropped connection loses nothing of it. */
import type { Payload } from '../contract/index.ts'
import { ConnectionError, RequestError } from './failures.ts'
import { newKey } from './repeatable.ts'

/** A turn that is to be answered. */
export interface Run {
  readonly runId: string
  readonly sessionKey: string
  readonly agentId: string
  /** What was said last. */
  readonly message: string
  /** What was said, oldest first, `message` included. */
  readonly history: readonly Said[]
  /** The instructions of the agent, from its workspace. */
  readonly system: string
  readonly thinking: string
  /** What `call` may call. */
  readonly tools: readonly { name: string; description: string; parameters: object }[]
  /** Aborted when nobody waits for the answer any more. */
  readonly signal: AbortSignal
  /** Says the next piece. Resolves when the gateway has it, or at once while it is away: then it gets it later. */
  say(piece: string): Promise<void>
  /** Says a piece of the reasoning, which is lost while the gateway is away. */
  think(piece: string): Promise<void>
  /**
   * Calls a tool, over cuts; it is called once.
   * @throws ToolError what the tool says went wrong; the signal's reason when nobody waits any more
   */
  call(name: string, args: object): Promise<string>
  /**
   * Sends another agent a message and waits for its answer, by the tool `sessions_send`; what the gateway had to cut comes as it is.
   * Throws as `call`, also when the answer takes so long that it will come as a message of its own.
   */
  send(agentId: string, message: string): Promise<string>
}

export type Said =
  | { role: 'user'; text: string }
  | { role: 'assistant'; text: string; calls?: { id: string; name: string; arguments: string }[] }
  | { role: 'tool'; callId: string; name: string; text: string; isError: boolean }

/** What may be told at the end of an answer. */
export interface RunEnd {
  usage?: { input?: number; output?: number; cacheRead?: number; cacheWrite?: number }
  stopReason?: string
  model?: string
}

/** Answers a turn: says it, and may tell at the end what it cost. What it throws is the error of the run. */
export type Answering = (run: Run) => Promise<RunEnd | undefined> | Promise<void>

/** A tool refused, or failed. The message is the tool's own. */
export class ToolError extends Error {
  override readonly name = 'ToolError'
}

export interface Connectors {
  /** Takes what the gateway asks. */
  request(asked: Payload<'node.invoke.request'>): void
  cancel(cancelled: Payload<'node.invoke.cancel'>): void
  /** The connection is gone: what is said from now on is kept until the gateway asks again. */
  cut(): void
  /** There is a connection again: what was under way is asked again, or nobody wants it. */
  reopened(): void
  /** There will be no other connection. */
  end(): void
}

export interface ConnectorsNeeds {
  /** Asks the gateway. Rejects with a ConnectionError when the connection is cut before the answer. */
  ask(method: string, params: object, options: { repeatable: boolean; timeoutMs: number }): Promise<unknown>
  answer: Answering
  /** How long after a reconnect an answer that was not asked again is taken for unwanted, in ms. */
  forgetMs?: number
}

interface Work {
  id: string
  runId: string
  nodeId: string
  said: string
  /** Asked on the connection there is: it may be spoken of. */
  isAsked: boolean
  /** Called when it is asked again. */
  waiting: (() => void)[]
  /** How it ended, until the gateway has heard. */
  result: object | undefined
  over: AbortController
}

const FORGET_MS = 60_000
/** UTF-16 units of a text that is told at once. */
const MOST_UNITS = 64 * 1024

/** The next part of a text, which does not end between the two halves of a character. */
function partOf(text: string, at: number): string {
  const part = text.slice(at, at + MOST_UNITS)
  return part.length === MOST_UNITS && /[\ud800-\udbff]$/.test(part) ? part.slice(0, -1) : part
}

const codeOf = ({ shape }: RequestError): unknown => (shape.details as { code?: unknown } | undefined)?.code

export function createConnectors({ ask, answer, forgetMs = FORGET_MS }: ConnectorsNeeds): Connectors {
  const works = new Map<string, Work>()
  const timers = new Set<ReturnType<typeof setTimeout>>()

  function drop(work: Work, why: string): void {
    if (!works.delete(work.id)) return
    work.over.abort(new ConnectionError(why))
  }

  /** Tells the gateway something of an answer. What is not heard is told again when it asks again. */
  async function tell(work: Work, method: string, params: object): Promise<boolean> {
    if (!work.isAsked) return false
    try {
      const heard = await ask(method, params, { repeatable: false, timeoutMs: 0 })
      const { ignored, handled } = heard as { ignored?: boolean; handled?: boolean }
      if (ignored || handled === false) drop(work, 'nobody waits for this answer any more')
      return true
    } catch (error) {
      if (error instanceof ConnectionError) work.isAsked = false
      else giveUp(work, error)
      return false
    }
  }

  /** The gateway does not take what was said: nothing that is said later would fit. */
  function giveUp(work: Work, error: unknown): void {
    const { id, nodeId } = work
    const message = error instanceof Error ? error.message : String(error)
    drop(work, message)
    const isForeign = error instanceof RequestError && codeOf(error) === 'NOT_YOUR_RUN'
    if (isForeign) return
    const result = { id, nodeId, ok: false, error: { code: 'CONNECTOR_FAILED', message } }
    ask('node.invoke.result', result, { repeatable: false, timeoutMs: 0 }).catch(() => {})
  }

  /** Tells the text from an offset on, in frames that any gateway takes. Resolves when all of it has been heard, or cannot be now. */
  async function piece(work: Work, offset: number, text: string): Promise<void> {
    const told: Promise<boolean>[] = []
    for (let at = 0; at < text.length; ) {
      const part = partOf(text, at)
      const payload = { id: work.id, offset: offset + at, text: part }
      told.push(tell(work, 'node.event', { event: 'agent.delta', payload }))
      at += part.length
    }
    await Promise.all(told)
  }

  async function finish(work: Work): Promise<void> {
    const { id, nodeId, result } = work
    if (result && (await tell(work, 'node.invoke.result', { id, nodeId, ...result }))) works.delete(id)
  }

  async function work(one: Work, params: { [name: string]: unknown }): Promise<void> {
    const run = runOf(one, params)
    try {
      const end = await answer(run)
      one.result = { ok: true, payload: { ...end } }
    } catch (error) {
      const message = (error instanceof Error && error.message) || 'the connector failed'
      one.result = { ok: false, error: { code: 'CONNECTOR_FAILED', message } }
    }
    if (works.get(one.id) === one) await finish(one)
  }

  /** Calls a tool, again when it was cut off and this answer is asked for again: a gateway that does not ask knows nothing of it. */
  async function invoke(one: Work, params: object): Promise<{ text: string; isError: boolean }> {
    for (;;) {
      if (!one.isAsked) await new Promise<void>((resolve) => one.waiting.push(resolve))
      try {
        const outcome = await ask('tools.invoke', params, { repeatable: false, timeoutMs: 0 })
        return outcome as { text: string; isError: boolean }
      } catch (error) {
        if (!(error instanceof ConnectionError)) throw error
        one.isAsked = false
      }
    }
  }

  function runOf(one: Work, params: { [name: string]: unknown }): Run {
    const { signal } = one.over
    const run: Run = {
      ...(params as Pick<Run, 'runId' | 'sessionKey' | 'agentId' | 'message' | 'system' | 'thinking' | 'tools'>),
      history: params['messages'] as readonly Said[],
      signal,
      async say(text) {
        signal.throwIfAborted()
        if (text === '') return
        const offset = one.said.length
        one.said += text
        await piece(one, offset, text)
      },
      async think(text) {
        signal.throwIfAborted()
        if (text === '') return
        await tell(one, 'node.event', { event: 'agent.reasoning', payload: { id: one.id, text } })
      },
      async call(name, args) {
        signal.throwIfAborted()
        const gone = Promise.withResolvers<never>()
        gone.promise.catch(() => {})
        const onAbort = () => gone.reject(signal.reason)
        signal.addEventListener('abort', onAbort, { once: true })
        try {
          const params = { id: one.id, callId: newKey(), name, arguments: args }
          const { text, isError } = await Promise.race([invoke(one, params), gone.promise])
          if (isError) throw new ToolError(text)
          return text
        } finally {
          signal.removeEventListener('abort', onAbort)
        }
      },
      async send(agentId, message) {
        const text = await run.call('sessions_send', { agentId, message })
        const outcome = outcomeIn(text)
        if (outcome === undefined) return text
        const { reply, note } = outcome
        if (reply === undefined) throw new ToolError(note ?? text)
        return reply
      },
    }
    return run
  }

  /** It was away, and asks again, from where it has got to. */
  function resume(one: Work, received: number): void {
    one.isAsked = true
    for (const wake of one.waiting.splice(0)) wake()
    const missed = one.said.slice(received)
    if (missed !== '') void piece(one, received, missed)
    void finish(one)
  }

  return {
    request({ id, nodeId, command, paramsJSON, idempotencyKey: runId }) {
      const params = JSON.parse(paramsJSON ?? '{}') as { [name: string]: unknown }
      const known = works.get(id)
      const received = Number(params['received'] ?? 0)
      const isBegun = received > 0 || Number(params['called'] ?? 0) > 0
      if (known) return resume(known, received)
      // A gateway that was started anew begins a run again: nobody waits for what was written for the one before it.
      for (const other of [...works.values()])
        if (other.runId === runId && !other.isAsked) drop(other, 'this run was begun anew')
      const one: Work = {
        id,
        runId,
        nodeId,
        said: '',
        isAsked: true,
        waiting: [],
        result: undefined,
        over: new AbortController(),
      }
      works.set(id, one)
      if (command !== 'agent.run' || isBegun) {
        // Another process said what was received, or called tools for it, and nobody here can go on with it.
        const message = isBegun ? 'the beginning of this answer is lost' : `there is no ${command} here`
        one.result = { ok: false, error: { code: 'CONNECTOR_FAILED', message } }
        return void finish(one)
      }
      void work(one, params)
    },
    cancel({ id, reason }) {
      const one = works.get(id)
      if (one) drop(one, reason)
    },
    cut() {
      for (const timer of timers) clearTimeout(timer)
      timers.clear()
      for (const one of works.values()) one.isAsked = false
    },
    reopened() {
      const before = [...works.values()]
      if (before.length === 0) return
      const timer = setTimeout(() => {
        timers.delete(timer)
        for (const one of before) if (!one.isAsked) drop(one, 'the gateway did not ask for this answer again')
      }, forgetMs)
      timers.add(timer)
    },
    end() {
      for (const timer of timers) clearTimeout(timer)
      for (const one of [...works.values()]) drop(one, 'the connection was closed')
    },
  }
}

/** What the tool `sessions_send` says; undefined when that was cut, and is no JSON any more. */
function outcomeIn(text: string): { reply?: string; note?: string } | undefined {
  try {
    const outcome: unknown = JSON.parse(text)
    return typeof outcome === 'object' && outcome !== null ? outcome : undefined
  } catch {
    return undefined
  }
}

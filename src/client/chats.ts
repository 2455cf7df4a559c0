/** Turns and their answers as they are written: each with exactly one ending, whatever becomes of the connection meanwhile. */
import type { Params, Payload, Result } from '../contract/index.ts'
import { ConnectionError, RequestError, RunError } from './failures.ts'
import { newKey } from './repeatable.ts'
import type { AskOptions } from './requests.ts'
import type { Drawn, OpenRun, Snapshot } from './streams.ts'

/** The parameters of `chat.send`; a key is made where there is none. */
export type ChatParams = Omit<Params<'chat.send'>, 'idempotencyKey'> & { idempotencyKey?: string }

export interface ChatOptions {
  /** Aborted, it stops the run (`chat.abort`), or takes the turn back if it has not left yet. The ending is `aborted`. */
  signal?: AbortSignal
  /** How long the gateway may take to accept the turn, in ms. The answer takes as long as it takes. */
  timeoutMs?: number
}

/** How an answer ended. That it failed is a {@link RunError} instead. */
export type Ending =
  /**
   * `text` is the whole answer. `message` is missing where it was not heard as an event. `absorbedBy` is the run that answers this
   * turn with its own, which then has no text.
   */
  | { type: 'final'; text: string; stopReason?: string; message?: Payload<'chat'>['message']; absorbedBy?: string }
  /** Somebody stopped it, or its deadline passed (`timeout`). */
  | { type: 'aborted'; text: string; stopReason?: string }
  /** The message was a stop word: the runs it stopped. */
  | { type: 'stopped'; runIds: string[] }

export type Chunk =
  /** What comes next. */
  | { type: 'delta'; text: string }
  /** What was said is void: the gateway began the answer again, and this is how far it has come. */
  | { type: 'restart'; text: string }
  | Ending

/**
 * An answer, to be read once with `for await`: pieces, then one ending; a failed run throws a {@link RunError}, a turn that was
 * not accepted a RequestError or ConnectionError. Leaving the loop early does not stop the run, it only ends the reading; `result`
 * still tells the ending.
 */
export interface Chat extends AsyncIterableIterator<Chunk> {
  /** The idempotency key, which is the id of the run. */
  readonly runId: string
  /** The ending, also for those who do not read the pieces. Rejects as the loop throws. */
  readonly result: Promise<Ending>
}

export interface Chats {
  chat(params: ChatParams, options?: ChatOptions): Chat
  /** Takes an event, in its order. */
  hear(event: string, payload: unknown): void
  openRuns(): OpenRun[]
  sync(runs: Snapshot['runs'], asked: string[], at: Drawn): void
  fail(runIds: string[], error: Error): void
  /** There will be no other connection. */
  end(error: Error): void
}

export interface ChatsNeeds {
  ask(method: string, params: unknown, options: AskOptions): Promise<unknown>
  /** Asks how a run stands; the answer comes by `sync` or `fail`. */
  look(runId: string, address: { sessionKey: string; agentId?: string | undefined }): Promise<void>
}

type RunEvent = Payload<'agent'> | Payload<'chat'>

interface Run extends Omit<OpenRun, 'isUnclear'> {
  text: string
  absorbedBy: string | undefined
  /** The gateway has accepted the turn. */
  isAccepted: boolean
  /** A snapshot has told what came until then. */
  drawn: Drawn | undefined
  /** What was heard before it is known whether it was heard from the beginning. */
  held: { event: string; payload: RunEvent }[] | undefined
  out: Outlet
  /** Asks the gateway to stop it. */
  abort(): void
  /** Unhooks it from the caller's signal. */
  unhook(): void
}

export function createChats({ ask, look }: ChatsNeeds): Chats {
  const runs = new Set<Run>()

  function settle(run: Run, how: () => void): void {
    if (!runs.delete(run)) return
    run.unhook()
    how()
  }

  const end = (run: Run, ending: Ending) => settle(run, () => run.out.end(ending))
  const fail = (run: Run, error: unknown) => settle(run, () => run.out.fail(error))

  function add(run: Run, text: string): void {
    if (text === '') return
    run.text += text
    run.out.push({ type: 'delta', text })
  }

  /** What was said is void. */
  function restart(run: Run, text: string): void {
    if (run.text === text) return
    run.text = text
    run.out.push({ type: 'restart', text })
  }

  /** Says what the whole text has more than was said. False: it is not a continuation. */
  function complete(run: Run, whole: string): boolean {
    if (!whole.startsWith(run.text)) return false
    add(run, whole.slice(run.text.length))
    return true
  }

  function take(run: Run, event: string, payload: RunEvent): void {
    run.sessionKey ??= payload.sessionKey
    const { epoch, offset = 0 } = payload
    if (epoch !== undefined && epoch === run.drawn?.epoch && offset <= run.drawn.offset) return
    if (run.held) return void run.held.push({ event, payload })
    if (event === 'agent') {
      const { stream, data } = payload as Payload<'agent'>
      const { delta, absorbedBy, phase } = data as { delta?: unknown; absorbedBy?: unknown; phase?: unknown }
      if (stream === 'lifecycle' && phase === 'start') restart(run, '')
      if (stream === 'assistant' && typeof delta === 'string') add(run, delta)
      if (stream === 'queue' && typeof absorbedBy === 'string') run.absorbedBy = absorbedBy
      return
    }
    const { state, message, stopReason, errorMessage, errorDetail } = payload as Payload<'chat'>
    switch (state) {
      case 'final': {
        const whole = message ? textIn(message.content) : run.text
        if (!complete(run, whole)) restart(run, whole)
        const { absorbedBy } = run
        return end(run, {
          type: 'final',
          text: whole,
          ...(stopReason && { stopReason }),
          ...(message && { message }),
          ...(absorbedBy && { absorbedBy }),
        })
      }
      case 'aborted':
        if (message && !complete(run, textIn(message.content))) restart(run, textIn(message.content))
        return end(run, { type: 'aborted', text: run.text, ...(stopReason && { stopReason }) })
      case 'error':
        return fail(
          run,
          new RunError(errorMessage ?? 'no reason was given', {
            runId: run.runId,
            text: run.text,
            detail: errorDetail as RunError['detail'],
          }),
        )
      default:
    }
  }

  /** It is known how the run stood: what was kept back follows. */
  function release(run: Run): void {
    const { held = [] } = run
    run.held = undefined
    for (const { event, payload } of held) take(run, event, payload)
  }

  /** The run stands as a snapshot says. */
  function draw(run: Run, stands: Snapshot['runs'][number], at: Drawn): void {
    const { state, text, error, stopReason, absorbedBy } = stands
    run.drawn = at
    const isOver = state !== 'admitted' && state !== 'started'
    // Less than was heard, from a snapshot that nothing came after: the run was begun again.
    // One that completed, or was stopped, has the text it has.
    const isWhole = state === 'completed' || state === 'aborted' || state === 'timedOut'
    if (!complete(run, text) && (isWhole || (!isOver && at.isNewest))) restart(run, text)
    switch (state) {
      case 'completed':
        return end(run, { type: 'final', text, ...(stopReason && { stopReason }), ...(absorbedBy && { absorbedBy }) })
      case 'aborted':
        return end(run, { type: 'aborted', text, ...(stopReason && { stopReason }) })
      case 'timedOut':
        return end(run, { type: 'aborted', text, stopReason: 'timeout' })
      case 'admitted':
      case 'started':
        return release(run)
      default:
        return fail(run, new RunError(error ?? 'no reason was given', { runId: run.runId, text }))
    }
  }

  async function send(run: Run, params: Params<'chat.send'>, options: ChatOptions): Promise<void> {
    try {
      const answer = (await ask('chat.send', params, options)) as Result<'chat.send'>
      if ('aborted' in answer) return end(run, { type: 'stopped', runIds: answer.runIds })
      run.isAccepted = true
      const isRenamed = run.runId !== answer.runId
      run.runId = answer.runId
      // It was stopped under the name it had asked for, which belongs to another.
      if (isRenamed && options.signal?.aborted) run.abort()
      if (answer.status === 'started') return release(run)
    } catch (error) {
      // Of a key that was used before, whose run has failed: how it did, its ending says.
      const { runId } = ((error instanceof RequestError && error.payload) || {}) as { runId?: string }
      if (runId === undefined) throw error
      run.isAccepted = true
      run.runId = runId
    }
    // It was accepted earlier, and what was said until now may have been missed.
    if (runs.has(run) && run.held) await look(run.runId, run.address)
  }

  return {
    chat(params, options = {}) {
      const { sessionKey, agentId, idempotencyKey = newKey() } = params
      const { signal } = options
      const out = createOutlet()
      const abort = () => {
        const { runId } = run
        const named = { sessionKey, runId, ...(agentId !== undefined && { agentId }) }
        // A turn that has not left is taken back by the request itself, on this same signal: that it was is known a moment later.
        setTimeout(() => {
          if (runs.has(run)) ask('chat.abort', named, { repeatable: true, timeoutMs: 0 }).catch(() => {})
        })
      }
      const run: Run = {
        runId: idempotencyKey,
        address: { sessionKey, agentId },
        sessionKey: undefined,
        text: '',
        absorbedBy: undefined,
        isAccepted: false,
        drawn: undefined,
        held: [],
        out,
        abort,
        unhook: () => signal?.removeEventListener('abort', abort),
      }
      runs.add(run)
      send(run, { ...params, idempotencyKey }, options).catch((error: unknown) => {
        if (signal?.aborted && error === signal.reason) end(run, { type: 'aborted', text: '' })
        else fail(run, error)
      })
      signal?.addEventListener('abort', abort, { once: true })
      return Object.defineProperty(out.chat, 'runId', { get: () => run.runId, enumerable: true }) as Chat
    },
    hear(event, payload) {
      if (event !== 'agent' && event !== 'chat') return
      const { runId } = payload as RunEvent
      for (const run of [...runs]) if (run.runId === runId) take(run, event, payload as RunEvent)
    },
    openRuns: () =>
      [...runs]
        .filter(({ isAccepted, sessionKey }) => isAccepted || sessionKey !== undefined)
        .map((run) => ({
          runId: run.runId,
          address: run.address,
          sessionKey: run.sessionKey,
          isUnclear: run.isAccepted && run.held !== undefined,
        })),
    sync(stand, asked, at) {
      for (const run of [...runs]) {
        if (!asked.includes(run.runId)) continue
        const now = stand.find(({ runId }) => runId === run.runId)
        if (now) draw(run, now, at)
        // Not accepted yet as far as anybody knows: the request, which is asked again, will tell.
        else if (run.isAccepted)
          fail(run, new ConnectionError(`the gateway does not know the run ${run.runId} any more`))
      }
    },
    fail(runIds, error) {
      for (const run of [...runs]) if (runIds.includes(run.runId)) fail(run, error)
    },
    end(error) {
      for (const run of [...runs]) fail(run, error)
    },
  }
}

/** The text of a transcript entry's content. */
function textIn(content: unknown): string {
  if (typeof content === 'string') return content
  if (!Array.isArray(content)) return ''
  return content.map((part: { text?: unknown }) => (typeof part?.text === 'string' ? part.text : '')).join('')
}

interface Outlet {
  chat: Omit<Chat, 'runId'>
  push(chunk: Chunk): void
  end(ending: Ending): void
  fail(error: unknown): void
}

/** What has been said and not been read yet. */
function createOutlet(): Outlet {
  const result = Promise.withResolvers<Ending>()
  // Whoever reads the pieces need not look at the result.
  result.promise.catch(() => {})
  const unread: Chunk[] = []
  const readers: { resolve(result: IteratorResult<Chunk, undefined>): void; reject(error: unknown): void }[] = []
  let isOver = false
  let isLeft = false
  /** To be thrown once. */
  let failure: { error: unknown } | undefined
  const DONE = { done: true, value: undefined } as const

  function push(chunk: Chunk): void {
    if (isLeft) return
    const reader = readers.shift()
    if (reader) return reader.resolve({ done: false, value: chunk })
    const last = unread.at(-1)
    // A slow reader gets longer pieces, not more of them.
    if (chunk.type === 'delta' && (last?.type === 'delta' || last?.type === 'restart'))
      unread[unread.length - 1] = { ...last, text: last.text + chunk.text }
    else unread.push(chunk)
  }

  function close(): void {
    isOver = true
    for (const { resolve } of readers.splice(0)) resolve(DONE)
  }

  return {
    push,
    end(ending) {
      push(ending)
      result.resolve(ending)
      close()
    },
    fail(error) {
      result.reject(error)
      const reader = readers.shift()
      if (reader) reader.reject(error)
      else failure = { error }
      close()
    },
    chat: {
      result: result.promise,
      next() {
        const chunk = unread.shift()
        if (chunk) return Promise.resolve({ done: false, value: chunk })
        if (failure && !isLeft) {
          const { error } = failure
          failure = undefined
          return Promise.reject(error)
        }
        if (isOver || isLeft) return Promise.resolve(DONE)
        return new Promise((resolve, reject) => readers.push({ resolve, reject }))
      },
      return() {
        isLeft = true
        unread.length = 0
        close()
        return Promise.resolve(DONE)
      },
      [Symbol.asyncIterator]() {
        return this as Chat
      },
    },
  }
}

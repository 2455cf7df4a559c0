/**
 * Messages from agent to agent. A message is a turn of the receiver's, kept before its sender is told that it is delivered; its
 * answer reaches the sender exactly once: in the run that waits for it, or as a turn of the sender's session.
 */
import { createHash } from 'node:crypto'
import { CAPS } from '../contract/connect.ts'
import { GatewayError } from '../contract/errors.ts'
import type { Payload } from '../contract/index.ts'
import { LONGEST_TIMER_MS } from '../contract/timer.ts'
import { type RunRecord, type Sent, type Store, StoreError } from '../stores/store.ts'
import { type Chains, chainOf } from './chains.ts'
import { lastWordsOfEnded } from './endings.ts'
import type { Hub } from './hub.ts'
import type { Log } from './log.ts'
import type { Ended, Runs } from './runs.ts'
import { AlreadyHeard } from './supervisor.ts'
import type { Turns } from './turns.ts'

/** Where a message is. `delivered`: on the receiver's disk, and waits for its turn. */
export type MessageState = 'delivered' | 'started' | 'replied' | 'failed' | 'expired'

export interface Letter {
  /** Without a session: one of its own. */
  to: { agentId: string; sessionKey?: string }
  message: string
  /** Whether the answer is to be heard. */
  reply: 'once' | 'none'
  /** How long it may wait for its turn, in ms; absent = for ever. */
  expiresMs?: number
  /** What the receiver's session is called. */
  label?: string
}

/** What became of a message, in words for its sender. */
export interface MessageOutcome {
  messageId: string
  state: MessageState
  /** The answer, once `replied`; why not, once `failed` or `expired`. */
  text: string
}

/** A message as those are told who look after the gateway. */
export interface MessageReport {
  messageId: string
  state: MessageState
  from: Sent['from']
  to: { agentId: string; sessionKey: string }
  reply: Sent['reply']
  /** Whether its sender has heard it, or is going to: it is on disk with what tells it. */
  heard: boolean
  chainId: string
  hop: number
  path: string[]
  acceptedAt: number
  expiresAt?: number
  startedAt?: number
  endedAt?: number
  /** Why it has failed or expired. */
  error?: string
}

export interface Mailbox {
  /**
   * Sends a message for a run. Resolves once it is on disk. The same letter of a run that is resumed is the same message.
   * @throws GatewayError AGENT_NOT_ALLOWED, CHAIN_LIMIT, and whatever refuses a turn
   */
  send(from: RunRecord, letter: Letter): Promise<{ messageId: string; sessionKey: string }>
  /**
   * Waits for the end of a message of a live run. Undefined when the time is up: then the answer comes as a turn of its own.
   * @throws GatewayError WOULD_WAIT_FOR_ITSELF
   */
  answer(
    from: RunRecord,
    messageId: string,
    timeoutMs: number,
    signal: AbortSignal,
  ): Promise<MessageOutcome | undefined>
  /** The start of a run is on disk. */
  started(run: RunRecord): void
  /** A run has ended and is live no more. */
  ended(run: RunRecord, ended: Pick<Ended, 'outcome' | 'heard'>): void
  /** The newest messages to an agent (by default to any), newest first. */
  list(filter: { agentId?: string; limit: number }): Promise<MessageReport[]>
  /** A message, what it says, and, once it is replied, the answer. Undefined when there is none of that id. */
  look(messageId: string): Promise<(MessageReport & { message: string; answer?: string }) | undefined>
  /** Brings the answers that a former process left, and takes up the deadlines. Call it when the runs are live again. */
  recover(): Promise<number>
  /** Brings no answers any more: the next process does. */
  stop(): void
}

export interface MailboxNeeds {
  store: Pick<Store, 'run' | 'unheard' | 'mail'>
  turns: Pick<Turns, 'admit' | 'start'>
  runs: Pick<Runs, 'record' | 'wait' | 'abort' | 'ids'>
  chains: Pick<Chains, 'extend'>
  hub: Pick<Hub, 'tellAll'>
  /** What people call an agent. */
  nameOf(agentId: string): string
  log: Log
  now(): number
  /** Between two tries to bring an answer, in ms. */
  retryMs?: number
}

const LONGEST_RETRY_MS = 60_000

export const stateOf = ({ state, stopReason }: Pick<RunRecord, 'state' | 'stopReason'>): MessageState => {
  switch (state) {
    case 'admitted':
      return 'delivered'
    case 'started':
      return 'started'
    case 'completed':
      return 'replied'
    default:
      return stopReason === 'expired' ? 'expired' : 'failed'
  }
}

export function createMailbox(needs: MailboxNeeds): Mailbox {
  const { store, turns, runs, chains, hub, nameOf, log, now, retryMs = 1_000 } = needs
  /** Messages whose answer is still to be heard, by the run that sent them. */
  const owed = new Map<string, Set<string>>()
  /** By live run, the numbers that the same letters have. */
  const repeats = new Map<string, Map<string, Set<number>>>()
  /** Messages that a live run waits for, and which one. */
  const awaited = new Map<string, string>()
  const timers = new Map<string, NodeJS.Timeout>()
  let isStopped = false

  function owe(runId: string, messageId: string): void {
    const messages = owed.get(runId) ?? new Set()
    owed.set(runId, messages.add(messageId))
  }

  function forgive(runId: string, messageId: string): void {
    const messages = owed.get(runId)
    messages?.delete(messageId)
    if (messages?.size === 0) owed.delete(runId)
  }

  /** Says where a message is now. Whatever is no message goes by in silence. */
  function tell(message: RunRecord, state: Payload<'agent.message'>['state']): void {
    const { runId: messageId, agentId, sessionKey, sent } = message
    if (!sent) return
    const { id: chainId, hop, path } = chainOf(message)
    const to = { agentId, sessionKey }
    const payload = { messageId, chainId, from: sent.from, to, hop, path, state, ts: now() }
    // In no session's stream: it names two, and comes when an epoch may already count as told. Other clients refuse events
    // that they do not know.
    hub.tellAll('agent.message', payload, { only: ({ caps }) => caps.has(CAPS.streamOffsets) })
  }

  /** Says that a run has taken answers in. */
  async function tellHeard(heard: readonly string[]): Promise<void> {
    for (const messageId of new Set(heard)) {
      const message = await store.run(messageId)
      if (message?.heard) tell(message, 'answered')
    }
  }

  /**
   * The key of a letter: the same when a run is begun again after a restart, and sends the same again as often.
   * @returns the key, and what gives its number back when the letter was refused
   */
  function keyOf({ runId }: RunRecord, { to, message, reply, label }: Letter): { key: string; free(): void } {
    const said = createHash('sha256')
      .update(JSON.stringify([runId, to, message, reply, label]))
      .digest('hex')
      .slice(0, 32)
    const ofRun = repeats.get(runId) ?? new Map<string, Set<number>>()
    const taken = ofRun.get(said) ?? new Set()
    repeats.set(runId, ofRun.set(said, taken))
    let number = 1
    while (taken.has(number)) number += 1
    taken.add(number)
    return { key: `${said}-${number}`, free: () => void taken.delete(number) }
  }

  /** A message that is not begun in time is not begun any more. */
  function watch(messageId: string, expiresAt: number): void {
    const timer = setTimeout(
      () => {
        timers.delete(messageId)
        if (runs.record(messageId)?.state === 'admitted') runs.abort(messageId, 'expired')
      },
      Math.min(Math.max(0, expiresAt - now()), LONGEST_TIMER_MS),
    ).unref()
    timers.set(messageId, timer)
  }

  /** What a message came to, once it has ended. */
  async function outcomeOf(messageId: string): Promise<MessageOutcome | undefined> {
    const run = await store.run(messageId)
    if (!run) return { messageId, state: 'failed', text: 'the message is no longer known' }
    if (run.endedAt === undefined) return undefined
    const state = stateOf(run)
    return { messageId, state, text: state === 'replied' ? lastWordsOfEnded(run) : whyNot(run) }
  }

  /** Brings the answer to a message to its sender's session, as a turn. Done once, however often it is tried. */
  async function bring(messageId: string, tries = 0): Promise<void> {
    if (isStopped) return
    let senderId: string | undefined
    try {
      const message = await store.run(messageId)
      if (message?.endedAt === undefined || message.sent?.reply !== 'once') return
      const { sent, agentId } = message
      senderId = sent.from.runId
      const { id, hop, path } = chainOf(message)
      const admission = await turns.admit({
        principal: `agent:${agentId}`,
        method: 'answer',
        sessionKey: sent.from.sessionKey,
        agentId: sent.from.agentId,
        key: `answer/${messageId}`,
        message: answerOf(message, nameOf(agentId)),
        attachments: [],
        meta: {},
        // Back where the message came from.
        chain: { id, hop: hop - 1, path: path.slice(0, -1) },
        answers: messageId,
      })
      if (admission.kind === 'new') {
        tell(message, 'answered')
        turns.start(admission.record, admission.settings)
      }
    } catch (error) {
      const mayPass = error instanceof StoreError || (error instanceof GatewayError && error.isRetryable)
      if (!(error instanceof AlreadyHeard))
        log.warn({ messageId, tries, err: error }, 'an answer could not be brought to its sender')
      if (mayPass && !isStopped) {
        const delay = Math.min(retryMs * 2 ** tries, LONGEST_RETRY_MS)
        setTimeout(() => void bring(messageId, tries + 1), delay).unref()
        return
      }
    }
    if (senderId !== undefined) forgive(senderId, messageId)
  }

  return {
    async send(from, letter) {
      const { to, message, reply, expiresMs, label } = letter
      const { key, free } = keyOf(from, letter)
      const { chain, giveBack } = await chains.extend(from, to.agentId, key).catch((error: unknown) => {
        free()
        throw error
      })
      const { agentId, runId } = from
      const sessionKey = to.sessionKey ?? `agent:${to.agentId}:sub:${key}`
      try {
        const admission = await turns.admit({
          principal: `agent:${agentId}`,
          method: 'message',
          sessionKey,
          agentId: to.agentId,
          key,
          message,
          attachments: [],
          meta: {
            from: agentId,
            ...(label !== undefined && { label }),
          },
          chain,
          sent: {
            from: { agentId, sessionKey: from.sessionKey, runId },
            reply,
            ...(expiresMs !== undefined && { expiresAt: now() + expiresMs }),
          },
        })
        if (admission.kind === 'new') {
          const { record } = admission
          if (reply === 'once') owe(runId, record.runId)
          if (record.sent?.expiresAt !== undefined) watch(record.runId, record.sent.expiresAt)
          tell(record, 'delivered')
          turns.start(record, admission.settings)
          return { messageId: record.runId, sessionKey }
        }
        if (reply === 'once') owe(runId, admission.runId)
        return { messageId: admission.runId, sessionKey }
      } catch (error) {
        giveBack()
        free()
        throw error
      }
    },

    async answer(from, messageId, timeoutMs, signal) {
      refuseCircle(from, runs.record(messageId))
      const givenUp = new AbortController()
      const giveUp = () => givenUp.abort()
      signal.addEventListener('abort', giveUp, { once: true })
      awaited.set(messageId, from.runId)
      try {
        // Listen first, look second: an ending in between is not missed.
        const next = runs.wait(messageId, timeoutMs, `agent:${from.agentId}`, givenUp.signal)
        const early = await outcomeOf(messageId)
        if (early) return early
        await next
        signal.throwIfAborted()
        return await outcomeOf(messageId)
      } finally {
        signal.removeEventListener('abort', giveUp)
        givenUp.abort()
        awaited.delete(messageId)
      }
    },

    started(run) {
      tell(run, 'started')
    },

    ended(run, { outcome, heard }) {
      const { runId, sent } = run
      tell(run, stateOf(outcome))
      if (heard.length > 0)
        void tellHeard(heard).catch((error: unknown) => log.debug({ runId, err: error }, 'not told'))
      clearTimeout(timers.get(runId))
      timers.delete(runId)
      repeats.delete(runId)
      for (const messageId of heard) forgive(runId, messageId)
      // Of its messages, those that have ended are brought now, the others when they end.
      for (const messageId of owed.get(runId) ?? []) if (!runs.record(messageId)) void bring(messageId)
      // Whoever is live hears it in its run, or when that is over.
      if (sent?.reply === 'once' && !runs.record(sent.from.runId)) void bring(runId)
    },

    list: async (filter) => (await store.mail(filter)).map(reportOf),

    async look(messageId) {
      const run = await store.run(messageId)
      if (!run?.sent) return undefined
      const report = reportOf(run)
      const answer = report.state === 'replied' ? lastWordsOfEnded(run) : undefined
      return { ...report, message: run.message, ...(answer !== undefined && { answer }) }
    },

    async recover() {
      for (const runId of runs.ids()) {
        const { sent } = runs.record(runId) ?? {}
        if (sent?.reply === 'once') owe(sent.from.runId, runId)
        if (sent?.expiresAt !== undefined) watch(runId, sent.expiresAt)
      }
      const left = await store.unheard()
      for (const message of left) {
        const senderId = message.sent!.from.runId
        owe(senderId, message.runId)
        // A sender that was resumed may ask for it again.
        if (!runs.record(senderId)) await bring(message.runId)
      }
      return left.length
    },

    stop() {
      isStopped = true
      for (const timer of timers.values()) clearTimeout(timer)
      timers.clear()
    },
  }

  /** A session that waits for this one, or for one that waits for it, takes no turn before that. */
  function refuseCircle(from: RunRecord, message: RunRecord | undefined): void {
    if (!message) return
    /** What each session that waits waits for. */
    const edges = [...awaited].flatMap(([messageId, waiterId]) => {
      const [waiter, other] = [runs.record(waiterId), runs.record(messageId)]
      return waiter && other ? [{ of: waiter.sessionKey, on: other.sessionKey }] : []
    })
    const reached = new Set([message.sessionKey])
    for (const key of reached) for (const { of, on } of edges) if (of === key) reached.add(on)
    if (!reached.has(from.sessionKey)) return
    throw new GatewayError(
      'WOULD_WAIT_FOR_ITSELF',
      `${message.sessionKey} waits for this session, and takes no turn before that: do not wait for it; its answer comes as a message of its own`,
    )
  }
}

/** @param message a record with `sent`: the only ones that the store keeps as mail */
function reportOf(message: RunRecord): MessageReport {
  const { runId: messageId, agentId, sessionKey, sent, acceptedAt, startedAt, endedAt } = message
  const { from, reply, expiresAt } = sent!
  const { id: chainId, hop, path } = chainOf(message)
  const state = stateOf(message)
  return {
    messageId,
    state,
    from,
    to: { agentId, sessionKey },
    reply,
    heard: message.heard === true,
    chainId,
    hop,
    path,
    acceptedAt,
    ...(expiresAt !== undefined && { expiresAt }),
    ...(startedAt !== undefined && { startedAt }),
    ...(endedAt !== undefined && { endedAt }),
    ...((state === 'failed' || state === 'expired') && { error: whyNot(message) }),
  }
}

function whyNot({ state, error, stopReason }: RunRecord): string {
  if (error !== undefined) return error
  if (state === 'timedOut') return 'it took longer than its deadline'
  return stopReason === 'expired' ? 'it was not begun in time' : 'it was stopped'
}

/** The answer, as its sender hears it. */
function answerOf(message: RunRecord, name: string): string {
  const { agentId, message: asked } = message
  const about = asked.length > 200 ? `${asked.slice(0, 200)}…` : asked
  const state = stateOf(message)
  return state === 'replied'
    ? `[${name} (${agentId}) answers your message “${about}”]\n\n${lastWordsOfEnded(message)}`
    : `[Your message “${about}” to ${name} (${agentId}) ${state === 'expired' ? 'expired' : 'failed'}]\n\n${whyNot(message)}`
}

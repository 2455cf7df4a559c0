/** `chat.*`: what a turn means, from typed text to a run under way. */
import { after, type Caller, Failure, type Handlers, type Reply } from '../broker/dispatch.ts'
import { textOfEnded } from '../broker/endings.ts'
import { type Hub, mayReach } from '../broker/hub.ts'
import type { Replay } from '../broker/replay.ts'
import type { Runs } from '../broker/runs.ts'
import type { Sessions } from '../broker/sessions.ts'
import type { TurnRequest, Turns } from '../broker/turns.ts'
import type { AgentConfig } from '../config/config.ts'
import type { chat } from '../contract/chat.ts'
import { LIMITS } from '../contract/connect.ts'
import { GatewayError, missingScope } from '../contract/errors.ts'
import type { Params, Result } from '../contract/index.ts'
import { QUEUE_MODES, type QueueMode, readQueueMode } from '../contract/queue-mode.ts'
import { holds } from '../contract/scopes.ts'
import type { AgentNames, CanonicalKey } from '../contract/session-key.ts'
import type { Model } from '../runtimes/runtime.ts'
import type { Json, RunRecord, RunState, Store, TranscriptMessage } from '../stores/store.ts'
import { readAttachments } from './attachments.ts'
import { COMMAND_SCOPES, COMMANDS, type Command, GREETING, readCommand } from './commands.ts'
import { addressed, session } from './door.ts'
import { checkSettings, isThinkingLevel, setting } from './settings.ts'

export interface ChatNeeds {
  agents: AgentNames & { get(id: string): AgentConfig | undefined }
  store: Pick<Store, 'session' | 'history' | 'append' | 'patchSession' | 'run'>
  turns: Turns
  sessions: Pick<Sessions, 'abort' | 'queue'>
  runs: Pick<Runs, 'record' | 'of'>
  hub: Pick<Hub, 'publish' | 'hold' | 'release'>
  replay: Pick<Replay, 'position' | 'since' | 'keep'>
  now(): number
  newId(): string
  /** Whether an agent's first model takes images. */
  takesImages(agentId: string, sessionModel: string | undefined): boolean
  knowsModel(ref: string): boolean
  /** The mode of sessions that have none of their own. */
  queueMode: QueueMode
  /** The model that answers in a session of this agent. */
  modelOf(agentId: string, sessionModel: string | undefined): Model | undefined
  version: string
}

const HISTORY_DEFAULT = 200

const WHAT_A_MODE_DOES: Record<QueueMode, string> = {
  followup: 'Messages that come while a run is under way wait, and each gets its own answer.',
  collect: 'Messages that come while a run is under way wait, and are answered together.',
  steer: 'Messages that come while a run is under way join it.',
  interrupt: 'A message that comes while a run is under way stops it.',
}

export function chatMethods(needs: ChatNeeds): Handlers<typeof chat> {
  const { agents, store, turns, sessions, hub, now } = needs

  /** Stops runs and says which, as the answer to `chat.abort` and to stop words. */
  async function abort(sessionKey: string, runId: string | null, reason: 'rpc' | 'stop') {
    // What was sent before it is meant, too, even if its answer is not out yet.
    await turns.arrived(sessionKey)
    const runIds = await sessions.abort(sessionKey, runId, reason)
    return { ok: true as const, aborted: runIds.length > 0, runIds }
  }

  function mayCommand(command: Command, caller: Caller): void {
    const scope = COMMAND_SCOPES[command.kind]
    if (!holds(caller.scopes, scope)) throw missingScope(scope)
    if (command.kind === 'refused')
      throw new GatewayError(
        'NOT_SERVED',
        `/${command.name} is not served in chat; use the gateway's own methods or its configuration`,
      )
  }

  /** What `/status` says. */
  async function describe(key: string, agentId: string): Promise<string> {
    const record = await store.session(key)
    const model = needs.modelOf(agentId, record && setting(record, 'model'))
    const { running, waiting } = sessions.queue(key)
    return [
      `Kurultai gateway ${needs.version}`,
      `Agent: ${agents.get(agentId)?.name ?? agentId} (${agentId})`,
      `Model: ${model?.ref ?? 'none'}`,
      `Session: ${key}, ${record?.messageCount ?? 0} entries`,
      `Tokens: ${record?.contextTokens ?? 0} of ${model?.contextWindow ?? 0} in the last answer's context`,
      `Runs: ${running ? 'one under way' : 'none under way'}, ${waiting.length} waiting`,
    ].join('\n')
  }

  /** Does what a command says, and answers in a sentence. */
  async function obey(command: Command, key: string, agentId: string): Promise<string> {
    const patch = (settings: { [name: string]: Json }) =>
      store.patchSession({ key, agentId, sessionId: needs.newId() }, settings, now())
    switch (command.kind) {
      case 'status':
        return describe(key, agentId)
      case 'help':
        return COMMANDS.map(({ name, args, does }) => `/${name}${args === undefined ? '' : ` ${args}`}: ${does}`).join(
          '\n',
        )
      case 'queue': {
        const { mode } = command
        const known = readQueueMode(mode)
        if (known || mode === 'default' || mode === 'reset') await patch({ queueMode: known ?? null })
        else if (mode !== '') return `Say /queue ${QUEUE_MODES.join(', ')}, or default.`
        const now = readQueueMode(setting(await store.session(key), 'queueMode')) ?? needs.queueMode
        return `Queue mode ${mode === '' ? 'is' : 'set to'} ${now}. ${WHAT_A_MODE_DOES[now]} (${sessions.queue(key).waiting.length} waiting)`
      }
      case 'think':
        if (!isThinkingLevel(command.level)) return 'Say /think off, minimal, low, medium or high.'
        await patch({ thinkingLevel: command.level })
        return `Thinking is set to ${command.level}.`
      case 'model':
        if (command.ref === '') return 'Say /model provider/model, or /model default.'
        if (command.ref === 'default') {
          await patch({ model: null })
          return 'The model is the one of the agent again.'
        }
        checkSettings({ model: command.ref }, needs.knowsModel)
        await patch({ model: command.ref })
        return `The model is set to ${command.ref}.`
      default:
        throw new Error(`the command ${command.kind} is not obeyed here`)
    }
  }

  /** Obeys a command and keeps what it came to. If that cannot be kept, its run ends like any other that failed. */
  async function carryOut(command: Command, record: RunRecord): Promise<() => void> {
    const { runId, sessionKey, agentId } = record
    try {
      const words = await obey(command, sessionKey, agentId).catch((error: unknown) => {
        // Refused in words, such as a model that is not there: that is the answer.
        if (error instanceof GatewayError) return error.message
        throw error
      })
      const message = injected(words)
      await turns.end(record, { state: 'completed', stopReason: 'injected' }, message)
      return () => announce(runId, sessionKey, agentId, 1, message)
    } catch (error) {
      return () => turns.fail(record, `the command could not be carried out: ${(error as Error).message}`)
    }
  }

  /** A final answer without a run: said, and put in the transcript. */
  function announce(runId: string, sessionKey: string, agentId: string, seq: number, message: TranscriptMessage): void {
    hub.publish(
      'chat',
      (variant) =>
        JSON.stringify({
          runId,
          sessionKey: variant.sessionKey,
          ...(variant.protocol >= 4 && { agentId }),
          seq,
          state: 'final',
          message,
        }),
      { sessionKey },
    )
  }

  const injected = (text: string): TranscriptMessage => ({
    role: 'assistant',
    content: [{ type: 'text', text }],
    timestamp: now(),
    stopReason: 'injected',
    usage: { input: 0, output: 0, totalTokens: 0 },
  })

  async function send(
    params: Params<'chat.send'>,
    command: Command | undefined,
    caller: Caller,
    { key: sessionKey, agentId }: CanonicalKey,
  ): Promise<Result<'chat.send'> | Reply<Result<'chat.send'>> | Failure> {
    const attachments = readAttachments(params.attachments)
    const text = params.message
    if (text.trim() === '' && attachments.length === 0)
      throw new GatewayError('MESSAGE_REQUIRED', 'message or attachment required')
    if (Buffer.byteLength(text) > LIMITS.message)
      throw new GatewayError('MESSAGE_TOO_LARGE', `message is larger than ${LIMITS.message} bytes`)

    if (params.context !== undefined && Buffer.byteLength(JSON.stringify(params.context)) > LIMITS.context)
      throw new GatewayError('CONTEXT_TOO_LARGE', `context is larger than ${LIMITS.context} bytes of JSON`)
    if (attachments.length > 0 && !needs.takesImages(agentId, setting(await store.session(sessionKey), 'model')))
      throw new GatewayError('BAD_ATTACHMENT', 'the model of this agent takes no images')

    const request: TurnRequest = {
      principal: caller.principal,
      method: 'chat.send',
      sessionKey,
      agentId,
      key: params.idempotencyKey,
      message: text,
      attachments,
      typed: text,
      meta: {
        ...(params.timeoutMs !== undefined && { timeoutMs: params.timeoutMs }),
        ...(params.thinking && { thinking: params.thinking }),
        ...(params.queueMode && { queueMode: params.queueMode }),
        ...(params.deliver !== undefined && { deliver: params.deliver }),
        ...(params.context !== undefined && { context: params.context as Json }),
      },
    }
    if (command?.kind === 'new') {
      request.message = command.rest || GREETING
      request.meta['reset'] = true
    } else if (command) {
      // A command leaves no entry of its own in the transcript, only its answer.
      request.message = ''
    }

    const admission = await turns.admit(request)
    switch (admission.kind) {
      case 'running':
        return { runId: admission.runId, status: 'in_flight' }
      case 'ended':
        return endedAnswer(admission)
      case 'new': {
        const { record, settings } = admission
        const started = { runId: record.runId, status: 'started' as const }
        if (command?.kind === 'new') return after(started, await turns.startAnew(record))
        return after(started, command ? await carryOut(command, record) : () => turns.start(record, settings))
      }
    }
  }

  return {
    'chat.send'(params, caller) {
      const session = addressed(params.sessionKey, params.agentId, agents, caller)
      const found = readCommand(params.message)
      if (found) mayCommand(found, caller)
      // With a picture it is a message, but nothing that its sender might not have said without.
      const command = params.attachments?.length ? undefined : found
      if (command?.kind === 'stop') return abort(session.key, null, 'stop')
      return turns.arriving(session.key, send(params, command, caller, session))
    },

    async 'chat.abort'(params, caller) {
      const { key } = session(params.sessionKey, params.agentId, agents, caller)
      const { runId } = params
      if (runId !== undefined) {
        await turns.arrived(key)
        const run = needs.runs.record(runId)
        // Whether there is such a run in a session that the caller does not reach is not for it to know.
        if (run && run.sessionKey !== key && mayReach(caller, run.sessionKey))
          throw new GatewayError('RUN_NOT_IN_SESSION', 'runId does not match sessionKey')
      }
      return abort(key, runId ?? null, 'rpc')
    },

    async 'chat.history'(params, caller) {
      const { key } = addressed(params.sessionKey, params.agentId, agents, caller)
      const [record, { sessionId, messages }] = await Promise.all([
        store.session(key),
        store.history(key, { limit: params.limit ?? HISTORY_DEFAULT, maxBytes: LIMITS.history }),
      ])
      const verboseLevel = setting(record, 'verboseLevel')
      return {
        sessionKey: params.sessionKey,
        ...(sessionId !== undefined && { sessionId }),
        messages,
        thinkingLevel: setting(record, 'thinkingLevel') ?? 'off',
        ...(verboseLevel && { verboseLevel }),
      }
    },

    async 'chat.resume'(params, caller) {
      const { key } = addressed(params.sessionKey, params.agentId, agents, caller)
      // From here on, in one tick: what is said later is kept back, what was said before is asked for, and what runs is noted.
      if (!hub.hold(caller.connId, key))
        throw new GatewayError('RESUME_UNDER_WAY', 'this session is being resumed already', { retryAfterMs: 100 })
      const release = () => hub.release(caller.connId, key)
      try {
        const { epoch, offset = 0 } = params
        const live = needs.runs.of(key)
        const position = needs.replay.position(key)
        const recovery =
          epoch === undefined
            ? { recovered: false as const, position, reason: 'no_position' as const }
            : await needs.replay.since(key, { epoch, offset })
        if (recovery.recovered)
          return after({ recovered: true as const, ...recovery.position, events: recovery.events }, release)
        const { sessionId, messages } = await store.history(key, { limit: HISTORY_DEFAULT, maxBytes: LIMITS.snapshot })
        const asked = (params.runIds ?? []).filter((runId) => !live.some((run) => run.runId === runId))
        const kept = await Promise.all(asked.map((runId) => store.run(runId)))
        const ended = kept.flatMap((run) => (run && run.sessionKey === key ? [snapshotOf(run)] : []))
        return after(
          {
            recovered: false as const,
            ...recovery.position,
            reason: recovery.reason,
            snapshot: { ...(sessionId !== undefined && { sessionId }), messages, runs: [...live, ...ended] },
          },
          release,
        )
      } catch (error) {
        release()
        throw error
      }
    },

    'commands.list': ({ scope, includeArgs = true }) => ({
      // None is one of a messenger's own.
      commands: (scope === 'native' ? [] : COMMANDS).map(({ name, args, does }) => ({
        name,
        textAliases: [`/${name}`],
        description: does,
        source: 'native' as const,
        scope: 'text' as const,
        acceptsArgs: args !== undefined,
        ...(includeArgs &&
          args !== undefined && { args: [{ name: 'value', description: args, type: 'string' as const }] }),
      })),
    }),

    async 'chat.inject'(params, caller) {
      const { key, agentId } = session(params.sessionKey, params.agentId, agents, caller)
      const message = injected(params.label ? `[${params.label}]\n\n${params.message}` : params.message)
      if (!(await store.append(key, message))) throw new GatewayError('SESSION_NOT_FOUND', 'session not found')
      const messageId = needs.newId().slice(0, 8)
      announce(`inject-${messageId}`, key, agentId, 0, message)
      // No run stands for this event: were the process to die before it is kept, its place would be given to another.
      await needs.replay.keep(key)
      return { ok: true, messageId }
    },
  }
}

/** How a run that is not live any more stands in a snapshot. */
const snapshotOf = (run: RunRecord) => ({
  runId: run.runId,
  state: run.state,
  text: textOfEnded(run),
  ...(run.error && { error: run.error }),
  ...(run.stopReason && { stopReason: run.stopReason }),
  ...(run.absorbedBy && { absorbedBy: run.absorbedBy }),
})

/** The answer to a repeat of a key whose run has ended: `ok`, or the error it ended in. */
function endedAnswer({ runId, state, error }: { runId: string; state: RunState; error?: string }) {
  if (state !== 'failed' && state !== 'interrupted') return { runId, status: 'ok' as const }
  const message = error ?? 'the run failed'
  return new Failure(new GatewayError('RUN_FAILED', message), { runId, status: 'error', summary: message })
}

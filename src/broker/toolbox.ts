/** The tools that agents have: which of them an agent may use, and what became of a call. */
import type { Config } from '../config/config.ts'
import { isJsonObject } from '../contract/json-object.ts'
import { validator } from '../contract/validate.ts'
import type { ToolCall, ToolSpec } from '../runtimes/runtime.ts'
import type { RunRecord } from '../stores/store.ts'
import type { Log } from './log.ts'

/** What a tool may know of the run that calls it. */
export interface ToolContext {
  run: RunRecord
  /** No run makes the call: what `run` says of itself is made up for it, and nobody can look it up. */
  isOutside: boolean
}

export interface ToolResult {
  /** For the model. After 100,000 characters it is cut: who answers in JSON keeps within that. */
  text: string
  /** The tool refused or failed, and `text` says why and what may be done about it. */
  isError?: boolean
  /** Messages whose answers are in `text`: their sender has heard them, once the run has ended well. */
  heard?: string[]
}

export interface Tool extends ToolSpec {
  /** How long a call may take, in ms, where that is not the gateway's default; 0 = the tool ends by itself. */
  timeoutMs?: number
  /** It speaks for the run that calls it: nobody else can. */
  isForRuns?: boolean
  /** Whoever does it looks at the arguments; here they are held to be an object. Patterns of strangers are not run here. */
  isCheckedElsewhere?: boolean
  /**
   * Does what it is asked. What is thrown is told to the model in its own words, so it must not hold a secret.
   * @param args fit `parameters`, unless they are checked elsewhere
   * @param signal aborted when the time is up or the run is over
   */
  call(args: Record<string, unknown>, context: ToolContext, signal: AbortSignal): Promise<ToolResult>
}

/** Some tools, which may come and go. */
export interface ToolSource {
  tools(agentId: string): readonly Tool[]
  /** Why a tool that this agent may have, or had a while ago, is not there now, in words for a model; undefined if it never was. */
  missing?(agentId: string, name: string): string | undefined
}

/** What became of a call. */
export interface ToolOutcome extends ToolResult {
  isError: boolean
  /** The call itself was wrong: a tool that is not there, or arguments that are none. */
  isMalformed: boolean
}

export interface Toolbox {
  /** What an agent may call, in the order of their names. */
  specs(agentId: string): ToolSpec[]
  /**
   * Calls a tool for a run. What goes wrong is the outcome, in words that its model can use; rejects only with the signal's
   * reason when that aborts.
   */
  call(call: ToolCall, run: RunRecord, signal: AbortSignal): Promise<ToolOutcome>
  /**
   * Calls a tool that an agent has for somebody who is no run, as if the agent had called it in that session. Undefined: the agent
   * has no such tool, or it is for runs alone. Rejects as `call` does.
   */
  callFor(asker: Asker, call: ToolCall, signal: AbortSignal): Promise<ToolOutcome | undefined>
}

/** In whose place a tool is called, and who asks. */
export type Asker = Pick<RunRecord, 'agentId' | 'sessionKey' | 'principal'>

export interface ToolboxNeeds {
  sources: readonly ToolSource[]
  tools: Pick<Config['tools'], 'deny' | 'timeoutMs'>
  log: Log
}

/** Characters of a result that a model is given. */
const MOST_RESULT = 100_000

export function createToolbox({ sources, tools: { deny, timeoutMs }, log }: ToolboxNeeds): Toolbox {
  const isDenied = namesLike(deny)
  const toolsOf = (agentId: string): Tool[] =>
    sources.flatMap((source) => source.tools(agentId)).filter(({ name }) => !isDenied(name))
  const checks = new WeakMap<ToolSpec['parameters'], ReturnType<typeof validator>>()

  function check(tool: Tool): ReturnType<typeof validator> {
    const known = checks.get(tool.parameters)
    if (known) return known
    const made = validator(tool.parameters)
    checks.set(tool.parameters, made)
    return made
  }

  /** The arguments, or what is wrong with them. */
  function read(tool: Tool, text: string): Record<string, unknown> | string {
    let args: unknown
    try {
      // Models leave it out where there is nothing to say.
      args = JSON.parse(text.trim() || '{}')
    } catch (error) {
      return `the arguments are no JSON (${(error as Error).message}); call ${tool.name} again with a JSON object`
    }
    const problem = tool.isCheckedElsewhere ? notAnObject(args) : check(tool).problem(args)
    return problem === undefined ? (args as Record<string, unknown>) : `invalid ${tool.name} arguments: ${problem}`
  }

  const toolbox: Toolbox = {
    specs: (agentId) =>
      toolsOf(agentId)
        .map(({ name, description, parameters }) => ({ name, description, parameters }))
        .toSorted((one, other) => (one.name < other.name ? -1 : 1)),
    async call({ name, arguments: text }, run, signal) {
      signal.throwIfAborted()
      const available = toolsOf(run.agentId)
      const tool = available.find((one) => one.name === name)
      if (!tool) {
        const why = isDenied(name)
          ? undefined
          : sources.flatMap((source) => source.missing?.(run.agentId, name) ?? [])[0]
        // The model could not know: that is no mistake of its own.
        if (why !== undefined) return { text: why, isError: true, isMalformed: false }
        const known = available.map((one) => one.name).join(', ') || 'none'
        return malformed(`there is no tool ${JSON.stringify(name.slice(0, 64))} here; known are: ${known}`)
      }
      const args = read(tool, text)
      if (typeof args === 'string') return malformed(args)
      const limitMs = tool.timeoutMs ?? timeoutMs
      const patience = new AbortController()
      const onAbort = () => patience.abort(signal.reason)
      signal.addEventListener('abort', onAbort, { once: true })
      const given = Promise.withResolvers<never>()
      patience.signal.addEventListener('abort', () => given.reject(patience.signal.reason), { once: true })
      // Nobody listens to it when the tool was faster.
      given.promise.catch(() => {})
      const timer =
        limitMs > 0
          ? setTimeout(() => patience.abort(new Error(`${name} did not answer within ${limitMs / 1000} s`)), limitMs)
          : undefined
      try {
        const {
          text: said,
          isError = false,
          heard,
        } = await Promise.race([
          tool.call(args, { run, isOutside: run.method === OUTSIDE }, patience.signal),
          given.promise,
        ])
        return { text: shortened(said), isError, isMalformed: false, ...(heard && { heard }) }
      } catch (error) {
        signal.throwIfAborted()
        log.debug({ runId: run.runId, tool: name, err: error }, 'a tool failed')
        return { text: shortened((error as Error).message) || 'the tool failed', isError: true, isMalformed: false }
      } finally {
        clearTimeout(timer)
        signal.removeEventListener('abort', onAbort)
      }
    },
    async callFor(asker, call, signal) {
      const found = toolsOf(asker.agentId).find(({ name }) => name === call.name)
      return found && !found.isForRuns ? toolbox.call(call, outsideCall(asker, call), signal) : undefined
    },
  }
  return toolbox
}

const OUTSIDE = 'tools.call'

/** What a tool is told of a call that no run makes. Nobody keeps it. */
const outsideCall = (asker: Asker, { id }: ToolCall): RunRecord => ({
  ...asker,
  runId: id,
  key: id,
  method: OUTSIDE,
  sessionId: '',
  fingerprint: '',
  message: '',
  attachments: [],
  meta: {},
  acceptedAt: 0,
  state: 'admitted',
  text: '',
})

const malformed = (text: string): ToolOutcome => ({ text, isError: true, isMalformed: true })

const notAnObject = (args: unknown): string | undefined => (isJsonObject(args) ? undefined : 'must be object')

const shortened = (text: string): string =>
  text.length <= MOST_RESULT
    ? text
    : `${text.slice(0, MOST_RESULT)}\n\n[cut here: the result has ${text.length} characters]`

/** What is denied, and is no tool of the gateway: neither a pattern nor, with a `__`, a tool of a server, which may come later. */
export const deniedInVain = (deny: readonly string[], known: readonly string[]): string[] =>
  deny.filter((name) => !name.includes('*') && !name.includes('__') && !known.some(namesLike([name])))

/** Whether a name is in a list in which `*` stands for any characters. */
export function namesLike(patterns: readonly string[]): (name: string) => boolean {
  const expressions = patterns.map(
    (pattern) =>
      new RegExp(
        `^${pattern
          .split('*')
          .map((part) => part.replace(/[\\^$.|?+()[\]{}]/g, '\\$&'))
          .join('.*')}$`,
        'i',
      ),
  )
  return (name) => expressions.some((expression) => expression.test(name))
}

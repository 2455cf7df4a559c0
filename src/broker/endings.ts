/** What is kept of a run when it is over: its entries for the transcript, what it used, and what its method answers. */
import type { AbortReason, RunOutcome } from '../../machines/run.ts'
import type { Answer, Model, ModelFailure, Usage } from '../runtimes/runtime.ts'
import type { Ending, Json, RunRecord, Spent, TranscriptMessage } from '../stores/store.ts'
import { worthHearing } from './acknowledgement.ts'
import { readArguments, type Step } from './prompt.ts'
import type { FailureDetail } from './stream.ts'

/** What an ending is made of. */
export interface RunSoFar {
  record: RunRecord
  /** All that it said. */
  text: string
  steps: readonly Step[]
  /** Every answer of its models, the last one last. */
  answers: readonly Answer[]
  /** The model that was asked last. */
  model: Model | undefined
  /** Messages whose answers it took in. */
  heard: readonly string[]
  endedAt: number
}

const NO_USAGE: Usage = { input: 0, output: 0, cacheRead: 0, cacheWrite: 0, totalTokens: 0 }

/** The parts of what a run said: what comes before each round of calls, and what comes after the last one. */
function partsOf({ text, steps }: Pick<RunSoFar, 'text' | 'steps'>): string[] {
  const parts: string[] = []
  let said = 0
  let from = 0
  for (const step of steps) {
    if (step.kind === 'joined') continue
    said += step.text.length
    if (step.kind !== 'called') continue
    parts.push(text.slice(from, said))
    from = said
  }
  parts.push(text.slice(from))
  // What parts them in the stream is not part of either.
  return parts.map((part, place) => (place === 0 ? part : part.replace(/^\n\n/, '')))
}

/** The words that a run ended with: what it said after its last call, or all that it said when that is nothing. */
function lastWords(run: Pick<RunSoFar, 'text' | 'steps'>): string {
  return partsOf(run).at(-1) || run.text
}

/** The entries that a run leaves in the transcript. */
function entriesOf(
  run: RunSoFar,
  outcome: RunOutcome,
): { before: TranscriptMessage[]; message: TranscriptMessage | undefined } {
  const parts = partsOf(run)
  const before = run.steps.flatMap((step) => {
    if (step.kind !== 'called') return []
    const { calls, results, answer, at } = step
    const text = parts.shift()!
    const asked: TranscriptMessage = {
      role: 'assistant',
      content: [
        ...(text === '' ? [] : [{ type: 'text', text }]),
        ...calls.map(({ id, name, arguments: args }) => ({
          type: 'toolCall',
          id,
          name,
          arguments: readArguments(args),
        })),
      ],
      ...usedBy(answer.model, answer.usage),
      stopReason: 'toolUse',
      timestamp: at,
    }
    return [
      asked,
      ...results.map(
        ({ callId, name, text: said, isError }): TranscriptMessage => ({
          role: 'toolResult',
          toolCallId: callId,
          toolName: name,
          content: [{ type: 'text', text: said }],
          isError,
          timestamp: at,
        }),
      ),
    ]
  })
  return { before, message: lastEntry(run, outcome, parts.at(-1)!) }
}

/** The last entry; undefined when there is neither text nor a failure to keep. */
function lastEntry(
  run: RunSoFar,
  { state, stopReason, error }: RunOutcome,
  text: string,
): TranscriptMessage | undefined {
  const failed = state === 'failed' || state === 'interrupted'
  if (text === '' && !failed) return undefined
  const last = run.answers.at(-1)
  // What a provider counts for an answer that was cut off, it tells nobody: zeros, not a guess. An answer that asked for tools
  // has an entry of its own.
  const answer = last?.calls?.length ? undefined : last
  const model = answer?.model ?? run.model
  return {
    role: 'assistant',
    content: text === '' ? [] : [{ type: 'text', text }],
    ...(model && usedBy(model, answer?.usage ?? NO_USAGE)),
    ...(failed
      ? { stopReason: 'error', errorMessage: error ?? 'unknown error' }
      : { stopReason: stopReason ?? 'stop' }),
    timestamp: run.endedAt,
  }
}

const usedBy = (model: Model, usage: Usage) => ({
  api: model.api,
  provider: model.provider,
  model: model.id,
  usage: { ...usage, cost: costOf(usage, model) },
})

/** The message as it is told at the end: all that the run said, in one piece, as it was streamed. */
export const toldAtEnd = (run: RunSoFar, last: TranscriptMessage | undefined): TranscriptMessage | undefined =>
  run.text === '' || (last && run.steps.length === 0)
    ? last
    : { role: 'assistant', content: [{ type: 'text', text: run.text }], timestamp: run.endedAt }

/** Everything about a run's end that is to be kept. What a quiet run came to is kept only where it is worth hearing. */
export function endingOf(run: RunSoFar, outcome: RunOutcome): Ending {
  const isRevoked = outcome.stopReason === ('revoked' satisfies AbortReason)
  const isUnsaid = isRevoked || (run.record.quiet === true && !isWorthHearing(run, outcome))
  const { before, message } = isUnsaid ? { before: [], message: undefined } : entriesOf(run, outcome)
  const last = run.answers.at(-1)
  const total = sum(run.answers.map(({ usage }) => usage))
  return {
    ...outcome,
    endedAt: run.endedAt,
    ...(isUnsaid && { unsaid: true }),
    ...(before.length > 0 && { before }),
    ...(message && { message }),
    ...(last && {
      usage: { input: total.input, output: total.output, totalTokens: total.totalTokens },
      contextTokens: last.usage.totalTokens,
      spent: spentOf(run.answers),
      modelProvider: last.model.provider,
      model: last.model.id,
    }),
    ...(run.heard.length > 0 && { heard: [...run.heard] }),
    result: resultOf(run, outcome, total) as Json,
  }
}

function isWorthHearing(run: RunSoFar, { state }: RunOutcome): boolean {
  const { mostBeside } = run.record.meta
  const most = typeof mostBeside === 'number' ? mostBeside : undefined
  return state === 'completed' && worthHearing(lastWords(run), most) !== undefined
}

/** What a method of agents answers when the run is over, kept for repeats of its key. */
function resultOf(run: RunSoFar, { state, stopReason }: RunOutcome, { totalTokens: total, ...tokens }: Usage) {
  const { record, endedAt, text } = run
  const last = run.answers.at(-1)
  const words = lastWords(run)
  return {
    payloads: text === '' ? [] : [{ text, mediaUrl: null }],
    ...(words !== text && { lastWords: words }),
    meta: {
      durationMs: endedAt - (record.startedAt ?? endedAt),
      agentMeta: {
        sessionId: record.sessionId,
        ...(last && { provider: last.model.provider, model: last.model.id }),
        usage: { ...tokens, total },
      },
      aborted: state === 'aborted' || state === 'timedOut',
      ...(stopReason !== undefined && stopReason !== 'stop' && { stopReason }),
    },
  }
}

/** What a run that has ended said, as its record keeps it. */
export const textOfEnded = ({ result, text }: Pick<RunRecord, 'result' | 'text'>): string => {
  const payloads = (result as { payloads?: { text: string }[] } | undefined)?.payloads
  return payloads ? payloads.map((payload) => payload.text).join('') : text
}

/** The words it ended with. */
export const lastWordsOfEnded = (run: Pick<RunRecord, 'result' | 'text'>): string =>
  (run.result as { lastWords?: string } | undefined)?.lastWords ?? textOfEnded(run)

/** Which model failed, and how it answered; undefined when it was not a model that failed. */
export function failureOf(model: Model | undefined, error: unknown): FailureDetail | undefined {
  if (!model || !(error instanceof Error) || error.name !== ('ModelFailure' satisfies ModelFailure['name']))
    return undefined
  const { status } = error as ModelFailure
  return { provider: model.provider, model: model.id, ...(status !== undefined && { httpStatus: status }) }
}

/** What was used, by model. */
export function spentOf(answers: readonly Answer[]): Spent[] {
  const byModel = new Map<string, { model: Model; usages: Usage[] }>()
  for (const { model, usage } of answers) {
    const known = byModel.get(model.ref)
    if (known) known.usages.push(usage)
    else byModel.set(model.ref, { model, usages: [usage] })
  }
  return [...byModel.values()].map(({ model, usages }) => {
    const usage = sum(usages)
    return { provider: model.provider, model: model.id, ...usage, cost: costOf(usage, model) }
  })
}

const sum = (usages: readonly Usage[]): Usage =>
  usages.reduce(
    (total, usage) => ({
      input: total.input + usage.input,
      output: total.output + usage.output,
      cacheRead: total.cacheRead + usage.cacheRead,
      cacheWrite: total.cacheWrite + usage.cacheWrite,
      totalTokens: total.totalTokens + usage.totalTokens,
    }),
    NO_USAGE,
  )

/** The price of an answer, by the prices in the configuration. */
function costOf(usage: Usage, model: Model): Spent['cost'] {
  const price = (tokens: number, perMillion: number) => (tokens * perMillion) / 1_000_000
  const input = price(usage.input, model.cost.input)
  const output = price(usage.output, model.cost.output)
  const cacheRead = price(usage.cacheRead, model.cost.cacheRead)
  const cacheWrite = price(usage.cacheWrite, model.cost.cacheWrite)
  return { input, output, cacheRead, cacheWrite, total: input + output + cacheRead + cacheWrite }
}

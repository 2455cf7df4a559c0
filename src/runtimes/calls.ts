/** Calls of tools on their way to a provider and back, whatever the format. */
import type { Answer, ContextMessage, ToolCall } from './runtime.ts'

/** What a model hears of a call whose result nobody has kept. */
const unknownResult = 'The result of this call is not known. It may or may not have been carried out.'
/** Ends that break off, so that the last call may be half a call. */
const brokenEnds = ['length', 'content_filter', 'refusal', 'model_context_window_exceeded']

/**
 * Makes a context one that no provider refuses: behind each call stands its result, before anybody else speaks; each
 * call has an id that `fit` matches and no other call has, a name of letters, digits, `_` and `-`, and arguments that
 * are a JSON object.
 *
 * A call without a result gets one that says so. A result without a call, or a second one, is left out.
 */
export function paired(messages: readonly ContextMessage[], fit: RegExp): ContextMessage[] {
  const whole: ContextMessage[] = []
  const used = new Set<string>()
  /** Calls that wait for their results, each with the id under which it is sent. */
  let open: { call: ToolCall; id: string }[] = []
  /** What was said while they waited. */
  let meanwhile: ContextMessage[] = []
  const close = () => {
    for (const { call, id } of open) {
      whole.push({ role: 'tool', callId: id, name: fitName(call.name), text: unknownResult, isError: true })
    }
    whole.push(...meanwhile)
    open = []
    meanwhile = []
  }
  for (const message of messages) {
    switch (message.role) {
      case 'user':
        if (open.length > 0) meanwhile.push(message)
        else whole.push(message)
        break
      case 'assistant':
        close()
        open = (message.calls ?? []).map((call) => ({ call, id: ownId(fit.test(call.id) ? call.id : '', used) }))
        whole.push({
          ...message,
          calls: open.map(({ call, id }) => ({
            id,
            name: fitName(call.name),
            arguments: fitArguments(call.arguments),
          })),
        })
        break
      case 'tool': {
        const place = open.findIndex(({ call }) => call.id === message.callId)
        const [answered] = place === -1 ? [] : open.splice(place, 1)
        if (answered === undefined) break
        whole.push({ ...message, callId: answered.id, name: fitName(answered.call.name) })
        if (open.length === 0) close()
        break
      }
      default:
        message satisfies never
    }
  }
  close()
  return whole
}

/**
 * Says how an answer has ended. Calls are given on only when they are whole, and then the model has stopped for them,
 * whatever word the provider has for that.
 *
 * @param calls as the provider gave them: a call may lack its id, or have one that another call in `messages` has
 */
export function ending(
  stopReason: string,
  calls: readonly ToolCall[],
  messages: readonly ContextMessage[],
): Pick<Answer, 'stopReason' | 'calls'> {
  if (brokenEnds.includes(stopReason)) return { stopReason }
  if (calls.length === 0) return { stopReason: stopReason === 'toolUse' ? 'stop' : stopReason }
  const earlier = messages.flatMap((message) => (message.role === 'assistant' ? (message.calls ?? []) : []))
  const used = new Set(earlier.map(({ id }) => id))
  const own = calls.map((call) => ({
    id: ownId(call.id, used),
    name: call.name,
    arguments: orNone(call.arguments),
  }))
  return { stopReason: 'toolUse', calls: own }
}

/** The id, or one made up when it is empty or taken. Takes it. */
function ownId(id: string, used: Set<string>): string {
  let own = id
  for (let n = used.size; own === '' || used.has(own); n++) own = `call_${n}`
  used.add(own)
  return own
}

/** A model may have made up a name that its provider would not take back. */
const fitName = (name: string) => name.replace(/[^\w-]/g, '_').slice(0, 64) || 'unnamed'

/** Several providers send an empty text where there are no arguments. */
const orNone = (text: string) => (text.trim() === '' ? '{}' : text)

/** Arguments that are no JSON object are shown to the model as the text it wrote: many providers read them. */
function fitArguments(text: string): string {
  const written = orNone(text)
  try {
    const value: unknown = JSON.parse(written)
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return written
  } catch {
    // The same as for JSON that is no object.
  }
  return JSON.stringify({ unreadable: text })
}

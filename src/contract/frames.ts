/** The three frames, and the only way from bytes to a request. */
import { type Static, Type } from 'typebox'
import type { ErrorShape } from './errors.ts'
import { validator } from './validate.ts'

const LONGEST_ID = 128

export const RequestFrame = Type.Object(
  {
    type: Type.Literal('req'),
    id: Type.String({ minLength: 1, maxLength: LONGEST_ID }),
    method: Type.String({ minLength: 1 }),
    params: Type.Optional(Type.Unknown()),
    /** W3C trace context, protocol 4; not used here. */
    traceparent: Type.Optional(Type.String()),
  },
  { additionalProperties: false },
)
export type RequestFrame = Static<typeof RequestFrame>

export interface ResponseFrame {
  type: 'res'
  id: unknown
  ok: boolean
  payload?: unknown
  error?: ErrorShape
}

/** What came in, before anything is known about it but that it is (or is not) a request. */
export type Incoming =
  | { kind: 'request'; request: RequestFrame }
  /** `id` is what the peer sent as id, so that it can match the refusal. */
  | { kind: 'invalid'; id: unknown; problem: string }
  | { kind: 'notJson' }

const requestFrame = validator(RequestFrame)

/** Reads one text frame. Never throws. */
export function decode(text: string): Incoming {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return { kind: 'notJson' }
  }
  const problem = requestFrame.problem(value) ?? brokenText(text, value)
  if (problem === undefined) return { kind: 'request', request: value as RequestFrame }
  const id = value !== null && typeof value === 'object' ? (value as { id?: unknown }).id : undefined
  const echoed = (typeof id === 'string' && id.length <= LONGEST_ID) || typeof id === 'number' ? id : 'invalid'
  return { kind: 'invalid', id: echoed, problem }
}

/**
 * Half a surrogate pair, which only an escape can bring in, has no UTF-8: kept, it would become the same replacement character as
 * any other half, and two keys or two sessions one.
 */
function brokenText(text: string, value: unknown): string | undefined {
  if (!/\\u[dD][89a-fA-F]/.test(text)) return undefined
  const left: unknown[] = [value]
  while (left.length > 0) {
    const next = left.pop()
    if (typeof next === 'string' && !next.isWellFormed()) return 'a string holds half of a surrogate pair'
    if (next === null || typeof next !== 'object') continue
    for (const [name, member] of Object.entries(next)) left.push(name, member)
  }
  return undefined
}

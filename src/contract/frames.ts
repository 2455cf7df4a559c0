/** The three frames, and the only way from bytes to a request. */
import { type Static, Type } from 'typebox'
import type { ErrorShape } from './errors.ts'
import { scan } from './json-bounds.ts'
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
  | { kind: 'invalid'; id: unknown; problem: string; isUnbounded?: true }
  | { kind: 'notJson' }
  /** Only in a dialect that has it: answered with this text, by somebody who is known. */
  | { kind: 'ping'; pong: string }

const requestFrame = validator(RequestFrame)

const utf8 = new TextDecoder('utf-8', { ignoreBOM: true })

/** Reads one frame, the bytes of its text. Never throws. */
export function decode(bytes: Uint8Array): Incoming {
  const overstep = scan(bytes)
  if (overstep?.isUnbounded)
    return { kind: 'invalid', id: overstep.id ?? 'invalid', problem: overstep.problem, isUnbounded: true }
  let value: unknown
  try {
    value = JSON.parse(utf8.decode(bytes))
  } catch {
    return { kind: 'notJson' }
  }
  const problem = requestFrame.problem(value) ?? overstep?.problem
  if (problem === undefined) return { kind: 'request', request: value as RequestFrame }
  const id = value !== null && typeof value === 'object' ? (value as { id?: unknown }).id : undefined
  const echoed = (typeof id === 'string' && id.length <= LONGEST_ID) || typeof id === 'number' ? id : 'invalid'
  return { kind: 'invalid', id: echoed, problem }
}

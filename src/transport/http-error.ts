/** A refusal over HTTP: its status, and what there is to say of it. */
import type { IncomingMessage } from 'node:http'
import { ERRORS, type ErrorName, type WireCode } from '../contract/errors.ts'
import type { ResponseFrame } from '../contract/frames.ts'

/** A refusal with its status. */
export class HttpError extends Error {
  override readonly name = 'HttpError'
  readonly status: number
  readonly code: string
  readonly more: { [name: string]: unknown }
  readonly headers: Record<string, string>

  constructor(
    status: number,
    code: string,
    message: string,
    more: { [name: string]: unknown } = {},
    headers: Record<string, string> = {},
  ) {
    super(message)
    this.status = status
    this.code = code
    this.more = more
    this.headers = headers
  }
}

/** The status of failures that say more than the code of the wire does. */
const STATUS: Partial<Record<string, number>> = {
  UNKNOWN_AGENT: 404,
  UNKNOWN_RUN: 404,
  UNKNOWN_TOOL: 404,
  SESSION_NOT_FOUND: 404,
  MISSING_SCOPE: 403,
  AGENT_NOT_ALLOWED: 403,
  SEND_DENIED: 403,
  IDEMPOTENCY_KEY_REUSED: 409,
  MESSAGE_TOO_LARGE: 413,
  SESSION_BUSY: 429,
  RATE_LIMITED: 429,
  INTERNAL: 500,
} satisfies Partial<Record<ErrorName, number>>

/** How a failure of the wire is told. */
export function statusOf(name: string): number {
  if (!isErrorName(name)) return 500
  const { code }: { code: WireCode } = ERRORS[name]
  const own = STATUS[name]
  if (own !== undefined) return own
  if ('retryable' in ERRORS[name]) return 503
  switch (code) {
    case 'AGENT_TIMEOUT':
      return 504
    case 'UNAVAILABLE':
      return 502
    default:
      return 400
  }
}

const isErrorName = (name: string): name is ErrorName => Object.hasOwn(ERRORS, name)

/** The refusal that an answer of the wire is. */
export function failureOf({ error, payload }: ResponseFrame): HttpError {
  const { code = 'INTERNAL', ...details } = (error?.details ?? {}) as { code?: string }
  const runId = (payload as { runId?: string } | undefined)?.runId
  return new HttpError(
    statusOf(code),
    code,
    error?.message ?? 'failed',
    { ...details, ...(runId !== undefined && { runId }) },
    error?.retryAfterMs === undefined ? {} : { 'retry-after': seconds(error.retryAfterMs) },
  )
}

/** As `Retry-After` says it. */
export const seconds = (ms: number): string => String(Math.max(1, Math.ceil(ms / 1000)))

/** A header that says something. */
export function header(request: IncomingMessage, name: string): string | undefined {
  const value = request.headers[name]
  const text = (Array.isArray(value) ? value[0] : value)?.trim()
  return text === '' ? undefined : text
}

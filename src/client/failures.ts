/** What can go wrong for a client, by name. */
import type { ErrorShape } from '../contract/errors.ts'

/** What the gateway answered instead of a result. */
export class RequestError extends Error {
  override readonly name = 'RequestError'
  readonly shape: ErrorShape
  /** What a failed run answers besides the error. */
  readonly payload: unknown

  constructor(shape: ErrorShape, payload?: unknown) {
    super(shape.message)
    this.shape = shape
    this.payload = payload
  }
}

/** The connection ended, or never began; or no answer came in time. */
export class ConnectionError extends Error {
  override readonly name = 'ConnectionError'
}

/** A run that ended in an error: in the words of the model, or of the gateway that was cut off in the middle of it. */
export class RunError extends Error {
  override readonly name = 'RunError'
  readonly runId: string
  /** What had been said until then. */
  readonly text: string
  /** Which model failed, and how it answered, where that is known. */
  readonly detail: RunFailure | undefined

  constructor(message: string, run: { runId: string; text: string; detail?: RunFailure | undefined }) {
    super(message)
    this.runId = run.runId
    this.text = run.text
    this.detail = run.detail
  }
}

/** Which model failed, and how it answered. */
export interface RunFailure {
  provider?: string
  model?: string
  httpStatus?: number
}

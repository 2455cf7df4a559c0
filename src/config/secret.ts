import { inspect } from 'node:util'

/** A value that never shows itself: printing, logging or serialising it yields the redaction marker. */
export class Secret {
  /** What clients of the wire know a hidden value by. */
  static readonly marker = '__OPENCLAW_REDACTED__'
  readonly #value: string

  constructor(value: string) {
    this.#value = value
  }

  /** The value itself. Call it only where the value leaves for the place it is meant for. */
  reveal(): string {
    return this.#value
  }

  toString(): string {
    return Secret.marker
  }

  toJSON(): string {
    return Secret.marker
  }

  [inspect.custom](): string {
    return Secret.marker
  }
}

/** What the broker needs of a logger: pino's shape. */
type Write = (details: object, message: string) => void

/**
 * The same, for what strangers can cause: so many lines in a second at the most, and the next one says how many were left out.
 * @param monotonic milliseconds
 */
export function sampled(write: Write, perSecond: number, monotonic: () => number): Write {
  let second = Number.NEGATIVE_INFINITY
  let written = 0
  let skipped = 0
  return (details, message) => {
    const at = Math.floor(monotonic() / 1_000)
    if (at !== second) {
      second = at
      written = 0
    }
    if (written === perSecond) {
      skipped += 1
      return
    }
    written += 1
    write(skipped > 0 ? { ...details, skipped } : details, message)
    skipped = 0
  }
}

export interface Log {
  trace: Write
  debug: Write
  info: Write
  warn: Write
  error: Write
}

/** What the broker needs of a logger: pino's shape. */
type Write = (details: object, message: string) => void

export interface Log {
  trace: Write
  debug: Write
  info: Write
  warn: Write
  error: Write
}

/** What JSON has between braces. */
export type JsonObject = { [name: string]: unknown }

/** Whether a value that was read as JSON is an object, and no list and not null. */
export const isJsonObject = (value: unknown): value is JsonObject =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

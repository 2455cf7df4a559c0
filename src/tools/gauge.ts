/** What the JSON of a message would become, told from its characters before anything is built of them. */

/**
 * Objects and arrays inside each other: a text of 8 MB can be 4,000,000 deep, and stops everything for a second. What is less deep
 * than this is parsed, so that one tool of a list is left out and not all of its server.
 */
const MOST_NEST = 100_000
/** A text of 10 MB can hold 3,000,000 empty objects, which take 200 MB. */
const MOST_VALUES = 1_000_000

export interface Gauge {
  /**
   * The next character, or byte of UTF-8.
   * @param isJson whether it is one of the message; of others, nothing is believed that would make it look smaller
   * @throws Error saying what there is too much of
   */
  pass(code: number, isJson: boolean): void
  /** The next one begins a message. */
  reset(): void
}

export function createGauge(): Gauge {
  let depth = 0
  let values = 0
  let isString = false
  let isEscaped = false
  return {
    pass(code, isJson) {
      if (isString && isJson && code !== 10 && code !== 13) {
        if (isEscaped) isEscaped = false
        else if (code === 0x5c) isEscaped = true
        else if (code === 0x22) isString = false
        return
      }
      switch (code) {
        case 0x22: // "
          isString = isJson
          isEscaped = false
          return
        case 0x5b: // [
        case 0x7b: // {
          depth += 1
          if (depth > MOST_NEST) throw new Error('it sent a message that is nested too deep')
          return
        case 0x5d: // ]
        case 0x7d: // }
          if (isJson && depth > 0) depth -= 1
          return
        case 0x2c: // ,
          values += 1
          if (values > MOST_VALUES) throw new Error('it sent a message of too many values')
          return
        case 10:
        case 13:
          // No string of JSON goes over the end of a line.
          isString = false
          return
        default:
      }
    },
    reset() {
      depth = 0
      values = 0
      isString = false
    },
  }
}

/** The same for a whole text. @throws Error saying what there is too much of */
export function gauge(text: string): void {
  const { pass } = createGauge()
  for (let at = 0; at < text.length; at += 1) pass(text.charCodeAt(at), true)
}

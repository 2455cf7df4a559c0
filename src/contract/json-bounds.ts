/** What a JSON text may be made of, told from its bytes before anything is built of them. */

/** Objects and arrays inside each other. A text of 20 KiB can be 10,000 deep: it parses, and what then walks it overflows the stack. */
export const MOST_DEPTH = 32
/** Values and member names together, brackets counted once. */
export const MOST_TOKENS = 20_000

export interface Overstep {
  problem: string
  /** Whether the text is too deep or too long to be parsed at all; else it may be, for the `id` of the refusal. */
  isUnbounded: boolean
  /** Of a text that is not to be parsed: the member `id` of the outermost object, if it came before and is a short string. */
  id?: string
}

/** Bytes of an `id` that is told. */
const LONGEST_ID = 128
/** Names of one object that are compared in place, each of at most so many bytes: what is more goes into a set. */
const NAMES_IN_PLACE = 16
const LONGEST_IN_PLACE = 64
/** Bytes of a string that are looked at here before the search for its end is left to the engine, which costs a call. */
const SHORT = 48
/** An integer, or a fraction without exponent, of so many bytes is below 2^53 whatever its digits are. */
const SAFE_DIGITS = 15

const QUOTE = 0x22
const BACKSLASH = 0x5c

/** Where the names of the open objects stand: start and end of each, `2 * NAMES_IN_PLACE` numbers a level. One scan at a time. */
const places = new Int32Array((MOST_DEPTH + 1) * NAMES_IN_PLACE * 2)
const counts = new Int32Array(MOST_DEPTH + 1)
const isObject = new Uint8Array(MOST_DEPTH + 1)
const sets: (Set<string> | undefined)[] = new Array(MOST_DEPTH + 1).fill(undefined)
const utf8 = new TextDecoder()

/**
 * Says what is wrong with the bytes of a JSON text, or nothing: too deep, too many values, a member name twice in one object, half
 * of a surrogate pair, a number that no double holds exactly. Linear, and without allocating for what ordinary clients send.
 * Never throws. Of a text that is no JSON it says nothing certain: that is for the parser, which stops no later than this does.
 * @param bytes UTF-8, well formed
 */
export function scan(bytes: Uint8Array): Overstep | undefined {
  const end = bytes.length
  const strings = new Strings(bytes)
  let found: Overstep | undefined
  let depth = 0
  let tokens = 0
  let isName = false
  let isId = false
  /** Where the `id` of the outermost object begins. */
  let idAt = 0
  let at = 0
  while (at < end) {
    const byte = bytes[at]!
    switch (byte) {
      case 0x20:
      case 0x09:
      case 0x0a:
      case 0x0d:
      case 0x3a: // :
        at += 1
        continue
      case 0x2c: // ,
        isName = isObject[depth] === 1
        at += 1
        continue
      case 0x7d: // }
      case 0x5d: // ]
        if (depth === 0) return found
        sets[depth] = undefined
        depth -= 1
        isName = false
        at += 1
        continue
      default:
    }
    if (++tokens > MOST_TOKENS) return unbounded(depth, 'has more than 20,000 values and names', idOf(bytes, idAt))
    switch (byte) {
      case 0x7b: // {
      case 0x5b: // [
        if (depth === MOST_DEPTH) return unbounded(depth, 'is nested more than 32 deep', idOf(bytes, idAt))
        depth += 1
        isObject[depth] = byte === 0x7b ? 1 : 0
        counts[depth] = 0
        isName = byte === 0x7b
        at += 1
        continue
      case QUOTE: {
        const start = at + 1
        const stop = strings.end(start)
        if (stop < 0) return released(depth, found)
        if (strings.isBroken) found ??= mild('a string holds half of a surrogate pair')
        if (isName) {
          isName = false
          isId = depth === 1 && stop - start === 2 && bytes[start] === 0x69 && bytes[start + 1] === 0x64
          if (isKnown(bytes, depth, start, stop, strings.isEscaped))
            found ??= mild(`property '${nameAt(bytes, start, stop).slice(0, 64)}' is given twice`)
        } else if (isId && depth === 1 && stop - start <= LONGEST_ID) idAt = start
        at = stop + 1
        continue
      }
      default:
    }
    const start = at
    let hasExponent = false
    for (; at < end; at++) {
      const next = bytes[at]!
      if (next === 0x65 || next === 0x45) hasExponent = true
      else if (!isOfScalar(next)) break
    }
    // A byte that begins nothing: the parser comes no further either.
    if (at === start) return released(depth, found)
    if (byte > 0x39) continue // true, false, null
    if (at - start <= SAFE_DIGITS && !hasExponent) continue
    const number = Number(utf8.decode(bytes.subarray(start, at)))
    if (Math.abs(number) > Number.MAX_SAFE_INTEGER) found ??= mild('a number is too large to be exact')
  }
  return released(depth, found)
}

const mild = (problem: string): Overstep => ({ problem, isUnbounded: false })
const unbounded = (depth: number, problem: string, id: string | undefined): Overstep =>
  released(depth, { problem: `it ${problem}`, isUnbounded: true, ...(id && { id }) })

const idOf = (bytes: Uint8Array, at: number): string | undefined =>
  at === 0 ? undefined : nameAt(bytes, at, new Strings(bytes).end(at))

/** Lets go of the names of the objects that are still open. */
function released<T>(depth: number, answer: T): T {
  for (; depth > 0; depth--) sets[depth] = undefined
  return answer
}

/** What numbers and literals are made of besides `e`. */
const isOfScalar = (byte: number): boolean =>
  (byte >= 0x30 && byte <= 0x39) || byte === 0x2e || byte === 0x2d || byte === 0x2b || (byte >= 0x61 && byte <= 0x7a)

/** Finds where strings end. All its searches go forward only, so that together they pass each byte a bounded number of times. */
class Strings {
  /** Of the string whose end was found last. */
  isEscaped = false
  isBroken = false
  readonly #bytes: Uint8Array
  /** The first of each at or after the place it was searched from last; the length of the text when there is none. */
  #quote = -1
  #backslash = -1

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
  }

  /** The place of the closing quote, or -1. */
  end(start: number): number {
    const bytes = this.#bytes
    this.isEscaped = false
    this.isBroken = false
    let at = start
    for (let near = Math.min(bytes.length, at + SHORT); ; near = Math.min(bytes.length, at + SHORT)) {
      while (at < near && bytes[at] !== QUOTE && bytes[at] !== BACKSLASH) at++
      if (at === near) at = this.#next(at)
      if (at === bytes.length) return -1
      if (bytes[at] === QUOTE) return at
      at = this.#escape(at)
    }
  }

  #next(from: number): number {
    if (this.#quote < from) this.#quote = this.#find(QUOTE, from)
    if (this.#backslash < from) this.#backslash = this.#find(BACKSLASH, from)
    return Math.min(this.#quote, this.#backslash)
  }

  #find(byte: number, from: number): number {
    const place = this.#bytes.indexOf(byte, from)
    return place < 0 ? this.#bytes.length : place
  }

  /** Passes an escape, or two that are a surrogate pair. */
  #escape(at: number): number {
    this.isEscaped = true
    if (this.#bytes[at + 1] !== 0x75) return Math.min(at + 2, this.#bytes.length)
    const half = this.#surrogate(at)
    if (half === undefined) return Math.min(at + 2, this.#bytes.length)
    if (half === 'high' && this.#surrogate(at + 6) === 'low') return at + 12
    this.isBroken = true
    return at + 6
  }

  /** Which half of a pair the escape at this place stands for. */
  #surrogate(at: number): 'high' | 'low' | undefined {
    const bytes = this.#bytes
    // `\ud800` to `\udbff`, `\udc00` to `\udfff`, in either case.
    if (at + 6 > bytes.length || bytes[at] !== BACKSLASH || bytes[at + 1] !== 0x75) return undefined
    if ((bytes[at + 2]! | 0x20) !== 0x64 || !isHex(bytes[at + 4]!) || !isHex(bytes[at + 5]!)) return undefined
    const digit = bytes[at + 3]! | 0x20
    if (digit === 0x38 || digit === 0x39 || digit === 0x61 || digit === 0x62) return 'high'
    return digit >= 0x63 && digit <= 0x66 ? 'low' : undefined
  }
}

const isHex = (byte: number): boolean =>
  (byte >= 0x30 && byte <= 0x39) || ((byte | 0x20) >= 0x61 && (byte | 0x20) <= 0x66)

/** Remembers a name of the innermost object, and says whether it had that one. Two spellings of one name are one name. */
function isKnown(bytes: Uint8Array, depth: number, start: number, stop: number, isEscaped: boolean): boolean {
  const base = depth * NAMES_IN_PLACE * 2
  const count = counts[depth]!
  let set = sets[depth]
  if (set === undefined) {
    if (count < NAMES_IN_PLACE && stop - start <= LONGEST_IN_PLACE && !isEscaped) {
      for (let place = base; place < base + count * 2; place += 2)
        if (isSame(bytes, places[place]!, places[place + 1]!, start, stop)) return true
      places[base + count * 2] = start
      places[base + count * 2 + 1] = stop
      counts[depth] = count + 1
      return false
    }
    set = new Set()
    for (let place = base; place < base + count * 2; place += 2)
      set.add(nameAt(bytes, places[place]!, places[place + 1]!))
    sets[depth] = set
  }
  const size = set.size
  return set.add(nameAt(bytes, start, stop)).size === size
}

function isSame(bytes: Uint8Array, start: number, stop: number, otherStart: number, otherStop: number): boolean {
  let length = stop - start
  if (length !== otherStop - otherStart) return false
  // From the end: names of one object more often begin alike.
  while (length > 0 && bytes[start + length - 1] === bytes[otherStart + length - 1]) length--
  return length === 0
}

/** The name that stands there; as it stands if its escapes are none. */
function nameAt(bytes: Uint8Array, start: number, stop: number): string {
  const text = utf8.decode(bytes.subarray(start, stop))
  if (!text.includes('\\')) return text
  try {
    return JSON.parse(`"${text}"`) as string
  } catch {
    return text
  }
}

/** How much one connection may ask for: a rate of requests, some writes a minute, and few things it may not do. */

const WRITES_PER_MINUTE = 30
/** What a node may say of answers under way: they are bounded by bytes, since a model's pieces are many and small. */
const STREAM = { bytesPerSecond: 4 * 1024 * 1024, burst: 8 * 1024 * 1024 }
const MINUTE_MS = 60_000
/** Seconds of abuse, one after the other, before the connection is closed. */
const ABUSED_S = 10
/** No promise is made for longer than this. */
const LONGEST_WAIT_MS = 10_000

export type Allowed = { kind: 'yes' } | { kind: 'later'; retryAfterMs: number } | { kind: 'close'; close: AbuseClose }
/** Names of `Closes`. */
export type AbuseClose = 'rateLimited' | 'repeatedlyDenied'

export interface Allowance {
  /** Whether one more request may be begun. */
  request(): Allowed
  /** Whether one more write may be begun of a method that changes the gateway itself. */
  write(method: string): Allowed
  /** So many bytes came of answers that are under way. The ms until the next ones may be read; 0 = at once. */
  streamed(bytes: number): number
  /** A call was refused for want of a scope or the role. */
  denied(): Allowed
}

export interface AllowanceLimits {
  /** 0 = off. */
  requestsPerSecond: number
  /** Requests at once after a silence; at least as many as a second brings. */
  burst: number
  /** 0 = off. */
  deniedPerMinute: number
}

const YES: Allowed = { kind: 'yes' }

/**
 * Begins the allowance of one connection, full.
 *
 * Who is over it is told when its own turn would be, each a turn of its own: a hundred refused at once come back one after the other.
 * Only who is refused as much as it is allowed, second after second, abuses it: to be refused costs the gateway something, too.
 */
export function createAllowance(limits: AllowanceLimits, monotonic: () => number): Allowance {
  const { requestsPerSecond: rate, deniedPerMinute } = limits
  const burst = Math.max(limits.burst, rate, 1)
  let tokens = burst
  let filledAt = monotonic()
  /** When the turn of the one that was refused last comes. */
  let promised = 0
  let second = { from: filledAt, refused: 0 }
  let abused = 0
  const writes = new Map<string, Recent>()
  const denials = new Recent(deniedPerMinute)
  /** Below 0: more came than may, which is made up for by not reading on. */
  let credit = STREAM.burst
  let creditedAt = filledAt

  function later(at: number): Allowed {
    if (at - second.from >= 1_000) {
      const isNext = at - second.from < 2_000
      abused = isNext && second.refused >= rate ? abused + 1 : 0
      second = { from: at, refused: 0 }
    }
    second.refused += 1
    if (abused >= ABUSED_S) return { kind: 'close', close: 'rateLimited' }
    const turn = Math.max(at + ((1 - tokens) / rate) * 1_000, promised + 1_000 / rate)
    promised = Math.min(turn, at + LONGEST_WAIT_MS)
    return { kind: 'later', retryAfterMs: Math.ceil(promised - at) }
  }

  return {
    request() {
      if (rate === 0) return YES
      const at = monotonic()
      tokens = Math.min(burst, tokens + ((at - filledAt) / 1_000) * rate)
      filledAt = at
      if (tokens < 1) return later(at)
      tokens -= 1
      return YES
    },
    write(method) {
      // Whoever wants no limit for requests wants none for these.
      if (rate === 0) return YES
      let recent = writes.get(method)
      if (!recent) {
        recent = new Recent(WRITES_PER_MINUTE)
        writes.set(method, recent)
      }
      const retryAfterMs = recent.add(monotonic())
      return retryAfterMs === 0 ? YES : { kind: 'later', retryAfterMs }
    },
    streamed(bytes) {
      if (rate === 0) return 0
      const at = monotonic()
      credit = Math.min(STREAM.burst, credit + ((at - creditedAt) / 1_000) * STREAM.bytesPerSecond) - bytes
      creditedAt = at
      return credit >= 0 ? 0 : Math.ceil((-credit / STREAM.bytesPerSecond) * 1_000)
    },
    denied() {
      if (deniedPerMinute === 0 || denials.add(monotonic()) === 0) return YES
      return { kind: 'close', close: 'repeatedlyDenied' }
    },
  }
}

/** The times of the last few that counted: at most so many in any minute. */
class Recent {
  readonly #most: number
  readonly #times: number[] = []
  /** Where the oldest stands, once there are as many as may be. */
  #oldest = 0

  constructor(most: number) {
    this.#most = most
  }

  /** Counts one more and says 0, or says how long to wait for it, in ms. */
  add(at: number): number {
    if (this.#times.length < this.#most) {
      this.#times.push(at)
      return 0
    }
    const wait = this.#times[this.#oldest]! + MINUTE_MS - at
    if (wait > 0) return Math.ceil(wait)
    this.#times[this.#oldest] = at
    this.#oldest = (this.#oldest + 1) % this.#most
    return 0
  }
}

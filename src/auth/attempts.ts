/** How often somebody may show a wrong credential: a few different ones, then no more for a while. */
import { createHmac, randomBytes } from 'node:crypto'

/** Different wrong values within the window, those being checked among them. */
const MOST_WRONG = 10
const WINDOW_MS = 60_000
const LOCKOUT_MS = 5 * 60_000
/** Until a value that is being checked by somebody else of the same address is likely to be done. */
const HELD_RETRY_MS = 1_000
/** The first delay of a value that was wrong before, or of somebody who is slowed; it doubles. */
const FIRST_DELAY_MS = 250
/** Well within the time a handshake may take. */
const LONGEST_DELAY_MS = 5_000
const ROOM = 50_000
/** The one bucket of those for whom there is no room. */
const OVERFLOW = 'overflow'

/** Who shows a credential. */
export interface Guesser {
  /** The network of the address behind trusted proxies, as `networkOf` gives it. */
  network: string
  /** The Origin header: what comes from a page may be anybody's. */
  origin: string | undefined
  /** Whether many stand behind that address, or only this machine does: loopback without forwarding headers, or a listed proxy itself. */
  isShared: boolean
  /** Which credential the gateway asks for. Nothing the peer chooses. */
  credential: 'token' | 'password'
  /** The paired device that it has proved to be. */
  device?: string | undefined
}

export type Attempt =
  /** Not to be checked. To be answered once `kept` has resolved: what is announced is remembered. Never rejects. */
  | { mayTry: false; retryAfterMs: number; kept: Promise<void> }
  /**
   * To be checked after so many ms. `end` must be called, with what came of it; it resolves when a lockout that followed is
   * remembered, and never rejects.
   */
  | { mayTry: true; delayMs: number; end(isRight: boolean): Promise<void> }

/** What is remembered of one bucket over a restart. Wall-clock ms. */
export interface KeptAttempts {
  /** When the different wrong values came. */
  wrong: number[]
  lockedUntil?: number
}

export interface Attempts {
  /** Takes a place for a value that is about to be checked. */
  begin(guesser: Guesser, value: string): Attempt
  /** Forgets what is over and keeps what has changed. To be called each second or so. Never rejects. */
  sweep(): Promise<void>
  /** Buckets in memory. */
  readonly size: number
}

export interface AttemptsNeeds {
  /** Milliseconds of a clock that nobody sets: all durations. */
  monotonic(): number
  /** The wall clock in ms: only to tell how long the gateway was not there. */
  now(): number
  /** What the last process kept, in any order. */
  kept: Iterable<{ id: string; value: KeptAttempts }>
  /** Makes changes durable; without a value the record goes. */
  keep(changes: { id: string; value: KeptAttempts | undefined }[]): Promise<void>
  /** Buckets that are held. Default: 50,000. */
  room?: number
  /** The changes could not be kept: they hold in memory all the same, and are tried again. */
  onUnkept(error: unknown): void
}

interface Bucket {
  id: string
  /** The different wrong values of the window: when each came first and how often it came, the oldest first. */
  wrong: Map<string, { at: number; times: number }>
  /** Values that are being checked, and by how many. */
  held: Map<string, number>
  lockedUntil: number
  /** When the next one that is slowed may be checked. */
  freeAt: number
}

export function createAttempts(needs: AttemptsNeeds): Attempts {
  const { monotonic, now, keep, onUnkept, room = ROOM } = needs
  /** Those that are not locked, the one whose last wrong value is longest ago first. */
  const open = new Map<string, Bucket>()
  /** Those that are, in the order in which they will be free. */
  const locked = new Map<string, Bucket>()
  const overflow = newBucket(OVERFLOW)
  const changed = new Map<string, Bucket>()
  let keeping = Promise.resolve()
  /**
   * A value is held as a digest, and that is never kept: to tell a repetition from another guess nothing more is needed, and a wrong
   * value is often nearly the right one, or the right one of somewhere else. Keyed, so that nobody who reads the memory can try out
   * short ones; anew in each process, so that no file is of any use for it.
   */
  const secret = randomBytes(32)
  const digestOf = (value: string) => createHmac('sha256', secret).update(value).digest('base64')

  restore()

  function restore(): void {
    const at = monotonic()
    const wall = now()
    const unlocked: Bucket[] = []
    const locks: Bucket[] = []
    for (const { id, value } of needs.kept) {
      const bucket = id === OVERFLOW ? overflow : newBucket(id)
      // Which values they were is forgotten: one of them that comes again counts anew.
      for (const [n, then] of value.wrong.entries()) {
        const age = Math.max(0, wall - then)
        if (age < WINDOW_MS) bucket.wrong.set(`kept ${n}`, { at: at - age, times: 1 })
      }
      // A clock that was set back meanwhile locks nobody for longer than a lockout takes.
      const left = Math.min((value.lockedUntil ?? 0) - wall, LOCKOUT_MS)
      if (left > 0) bucket.lockedUntil = at + left
      if (left <= 0 && bucket.wrong.size === 0) changed.set(id, bucket)
      else if (bucket !== overflow) (left > 0 ? locks : unlocked).push(bucket)
    }
    for (const bucket of unlocked.sort((a, b) => lastWrong(a) - lastWrong(b))) open.set(bucket.id, bucket)
    for (const bucket of locks.sort((a, b) => a.lockedUntil - b.lockedUntil)) locked.set(bucket.id, bucket)
  }

  /** Forgets what is over. */
  function expire(): void {
    const at = monotonic()
    for (const bucket of locked.values()) {
      if (bucket.lockedUntil > at) break
      locked.delete(bucket.id)
      prune(bucket, at)
      changed.set(bucket.id, bucket)
      // Values that were being checked when it was locked are so still.
      if (bucket.held.size > 0) open.set(bucket.id, bucket)
    }
    if (overflow.wrong.size > 0) {
      prune(overflow, at)
      if (overflow.wrong.size === 0) changed.set(OVERFLOW, overflow)
    }
    for (const bucket of open.values()) {
      // One whose values are all being checked for the first time has none that could be over.
      if (bucket.wrong.size === 0) continue
      prune(bucket, at)
      // The rest had a wrong value later.
      if (bucket.wrong.size > 0) break
      changed.set(bucket.id, bucket)
      if (bucket.held.size === 0) open.delete(bucket.id)
    }
  }

  /** The bucket of an id, made if there is room for one more; else the one that such guessers share. */
  function find(id: string): Bucket {
    const known = locked.get(id) ?? open.get(id)
    if (known) return known
    if (open.size + locked.size >= room) {
      const idle = idlest(open)
      if (!idle) return overflow
      open.delete(idle.id)
      changed.set(idle.id, { ...idle, wrong: new Map() })
    }
    const bucket = newBucket(id)
    open.set(id, bucket)
    return bucket
  }

  function begin(guesser: Guesser, value: string): Attempt {
    expire()
    const at = monotonic()
    const bucket = find(idOf(guesser))
    prune(bucket, at)
    if (bucket.lockedUntil > at) return refused(bucket.lockedUntil - at)
    const digest = digestOf(value)
    const before = bucket.wrong.get(digest)
    if (before) return admitted(bucket, digest, doubled(before.times))
    if (bucket.held.has(digest)) return admitted(bucket, digest, 0)
    const different = bucket.wrong.size + bucket.held.size
    if (different < MOST_WRONG) return admitted(bucket, digest, 0)
    if (!isSlowed(bucket)) return refused(HELD_RETRY_MS)
    // One after the other, so that many at once are no faster than one.
    const turn = Math.max(at, bucket.freeAt) + doubled(different - MOST_WRONG + 1)
    if (turn - at > LONGEST_DELAY_MS) return refused(turn - at)
    bucket.freeAt = turn
    return admitted(bucket, digest, turn - at)
  }

  const refused = (ms: number): Attempt => ({ mayTry: false, retryAfterMs: Math.ceil(ms), kept: keeping })

  function admitted(bucket: Bucket, digest: string, delayMs: number): Attempt {
    bucket.held.set(digest, (bucket.held.get(digest) ?? 0) + 1)
    let isOver = false
    return {
      mayTry: true,
      delayMs,
      async end(isRight) {
        if (isOver) return
        isOver = true
        const others = bucket.held.get(digest)! - 1
        if (others > 0) bucket.held.set(digest, others)
        else bucket.held.delete(digest)
        if (!isRight) return wrong(bucket, digest)
        if (bucket.held.size === 0 && bucket.wrong.size === 0) open.delete(bucket.id)
      },
    }
  }

  async function wrong(bucket: Bucket, digest: string): Promise<void> {
    const at = monotonic()
    const before = bucket.wrong.get(digest)
    if (before) {
      before.times += 1
      return
    }
    prune(bucket, at)
    bucket.wrong.set(digest, { at, times: 1 })
    changed.set(bucket.id, bucket)
    const locks = bucket.wrong.size >= MOST_WRONG && !isSlowed(bucket)
    if (locks) bucket.lockedUntil = at + LOCKOUT_MS
    if (bucket !== overflow) {
      open.delete(bucket.id)
      locked.delete(bucket.id)
      const list = locks ? locked : open
      list.set(bucket.id, bucket)
    }
    if (locks) await keepChanges()
  }

  function keepChanges(): Promise<void> {
    keeping = keeping.then(async () => {
      if (changed.size === 0) return
      const batch = [...changed.values()]
      changed.clear()
      try {
        await keep(batch.map((bucket) => ({ id: bucket.id, value: kept(bucket) })))
      } catch (error) {
        for (const bucket of batch) if (!changed.has(bucket.id)) changed.set(bucket.id, bucket)
        onUnkept(error)
      }
    })
    return keeping
  }

  function kept({ wrong, lockedUntil }: Bucket): KeptAttempts | undefined {
    const since = now() - monotonic()
    const isLocked = lockedUntil > monotonic()
    if (wrong.size === 0 && !isLocked) return undefined
    return {
      wrong: [...wrong.values()].map(({ at }) => Math.round(since + at)),
      ...(isLocked && { lockedUntil: Math.round(since + lockedUntil) }),
    }
  }

  return {
    begin,
    sweep() {
      expire()
      return keepChanges()
    },
    get size() {
      return open.size + locked.size
    },
  }
}

const newBucket = (id: string): Bucket => ({ id, wrong: new Map(), held: new Map(), lockedUntil: 0, freeAt: 0 })

/**
 * A paired device has a bucket of its own: nobody else can fill it, so that it comes in whoever guesses beside it. Of the others, a
 * page has the bucket of its origin where it comes from this machine or through a proxy that does not say for whom: a foreign page in
 * somebody's browser must not lock the terminal beside it out, nor have the leave that a terminal has.
 */
function idOf({ network, origin, isShared, credential, device }: Guesser): string {
  if (device !== undefined) return `${credential} device ${device}`
  return isShared && origin === undefined
    ? `${SLOWED}${credential} ${isHere(network) ? 'here' : network}`
    : `${credential} ${isShared ? origin : network}`
}

/** All of this machine is one peer: it has millions of addresses. */
const isHere = (network: string): boolean => network.startsWith('127.') || network === '0:0:0:0::/64'

const lastWrong = ({ wrong }: Bucket): number => Math.max(...[...wrong.values()].map(({ at }) => at))

const SLOWED = 'slowed '
const isSlowed = ({ id }: Bucket): boolean => id.startsWith(SLOWED)

const doubled = (times: number): number => Math.min(FIRST_DELAY_MS * 2 ** (times - 1), LONGEST_DELAY_MS)

/** Drops the wrong values that are older than the window, and all of them once a lockout is over. */
function prune(bucket: Bucket, at: number): void {
  if (bucket.lockedUntil > 0 && bucket.lockedUntil <= at) {
    bucket.wrong.clear()
    bucket.lockedUntil = 0
  }
  for (const [digest, { at: then }] of bucket.wrong) {
    if (at - then < WINDOW_MS) break
    bucket.wrong.delete(digest)
  }
}

/** The bucket that is the least loss: without a value being checked, and its last wrong one the longest ago. */
function idlest(open: Map<string, Bucket>): Bucket | undefined {
  for (const bucket of open.values()) if (bucket.held.size === 0) return bucket
  return undefined
}

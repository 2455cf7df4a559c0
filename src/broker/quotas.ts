/** How much of the gateway one principal may take up: sockets, sessions, idempotency keys that are remembered. */

export interface QuotaLimits {
  /** Each 0 = off. */
  socketsPerPrincipal: number
  sessions: number
  liveKeys: number
}

type Kind = 'sockets' | 'sessions' | 'keys'

/** Why there is no more of it: an error of `ERRORS`, all of them retryable. */
export interface OverQuota {
  kind: 'SOCKET_QUOTA' | 'SESSION_QUOTA' | 'DEDUPE_QUOTA'
  message: string
  retryAfterMs: number
}

/** One of what is counted, taken before it is made. */
export interface Share {
  /** It was not made, or is no more. Again, nothing happens. */
  giveBack(): void
}

export interface Quotas {
  take(kind: Kind, principal: string): Share | OverQuota
  /**
   * Counts anew what the store has: at a start, and after it has forgotten or deleted something. What is taken or given back while it
   * reads is counted on top. Shares taken before then are part of what was read, and are not to be given back after.
   * @param read how many each principal has
   */
  recount(
    kind: Exclude<Kind, 'sockets'>,
    read: () => Promise<Iterable<readonly [principal: string, count: number]>>,
  ): Promise<void>
  count(kind: Kind, principal: string): number
}

/** Everybody who shows the shared credential: there may be a whole fleet of them. */
const SHARED = 'token:shared'
const SHARED_KEYS = 10

const REFUSALS: { [K in Kind]: (most: number) => OverQuota } = {
  sockets: (most) => ({
    kind: 'SOCKET_QUOTA',
    message: `this principal has ${most} connections, which is as many as it may; close some of them`,
    retryAfterMs: 5_000,
  }),
  sessions: (most) => ({
    kind: 'SESSION_QUOTA',
    message: `this principal has ${most} sessions, which is as many as it may; delete some of them`,
    retryAfterMs: 60_000,
  }),
  keys: (most) => ({
    kind: 'DEDUPE_QUOTA',
    message: `${most} idempotency keys of this principal are remembered, which is as many as may be; each is for 24 hours`,
    retryAfterMs: 60_000,
  }),
}

export function createQuotas({ socketsPerPrincipal, sessions, liveKeys }: QuotaLimits): Quotas {
  const counts: { [K in Kind]: Map<string, number> } = { sockets: new Map(), sessions: new Map(), keys: new Map() }
  /** One reading after the other. */
  let reading = Promise.resolve()

  function mostOf(kind: Kind, principal: string): number {
    const isShared = principal === SHARED
    switch (kind) {
      case 'sockets':
        return isShared ? 0 : socketsPerPrincipal
      case 'sessions':
        return sessions
      case 'keys':
        return liveKeys * (isShared ? SHARED_KEYS : 1)
    }
  }

  const count = (kind: Kind, principal: string): number => counts[kind].get(principal) ?? 0

  function add(kind: Kind, principal: string, more: number): void {
    const sum = Math.max(0, count(kind, principal) + more)
    if (sum > 0) counts[kind].set(principal, sum)
    else counts[kind].delete(principal)
  }

  return {
    count,
    take(kind, principal) {
      const most = mostOf(kind, principal)
      if (most > 0 && count(kind, principal) >= most) return REFUSALS[kind](most)
      add(kind, principal, 1)
      let isBack = false
      return {
        giveBack() {
          if (isBack) return
          isBack = true
          add(kind, principal, -1)
        },
      }
    },
    recount(kind, read) {
      const next = reading.then(async () => {
        const before = new Map(counts[kind])
        const found = new Map(await read())
        const principals = new Set([...counts[kind].keys(), ...before.keys(), ...found.keys()])
        for (const principal of principals)
          add(kind, principal, (found.get(principal) ?? 0) - (before.get(principal) ?? 0))
      })
      reading = next.catch(() => {})
      return next
    },
  }
}

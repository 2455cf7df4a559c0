/** How much of the gateway one principal may take up: sockets, and what the store keeps. */
import { SHARED } from '../auth/principals.ts'
import type { Quotas } from '../stores/store.ts'

export interface QuotaLimits {
  /** Each 0 = off. */
  socketsPerPrincipal: number
  sessions: number
  liveKeys: number
}

/** One of what is counted. */
export interface Share {
  /** It is no more. Again, nothing happens. */
  giveBack(): void
}

export interface Quota {
  readonly most: number
  /** Takes one for a principal, or says that it has as many as it may. */
  take(principal: string): Share | undefined
}

/** Behind the shared credential there may be a whole fleet. */
const SHARED_KEYS = 10

/** @param most sockets of one principal, other than those who share the shared credential; 0 = off */
export function createQuota(most: number): Quota {
  const counts = new Map<string, number>()
  return {
    most,
    take(principal) {
      const count = counts.get(principal) ?? 0
      if (most > 0 && principal !== SHARED && count >= most) return undefined
      counts.set(principal, count + 1)
      let isBack = false
      return {
        giveBack() {
          if (isBack) return
          isBack = true
          const left = counts.get(principal)! - 1
          if (left > 0) counts.set(principal, left)
          else counts.delete(principal)
        },
      }
    },
  }
}

/** What the store is to keep at the most, which alone knows what it has. */
export const quotasOf = ({ sessions, liveKeys }: QuotaLimits): Quotas => ({
  sessions,
  keys: liveKeys,
  keysOf: { [SHARED]: liveKeys * SHARED_KEYS },
})

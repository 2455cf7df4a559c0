/** How much of the gateway one principal may take up: sockets, waits, bytes of turns, and what the store keeps. */
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
  /** Takes one for a principal, or so many, or says that it would have more than it may. */
  take(principal: string, amount?: number): Share | undefined
  hasRoom(principal: string, amount?: number): boolean
}

/** Behind the shared credential there may be a whole fleet. */
const SHARED_KEYS = 10

/**
 * @param most of one principal; 0 = off
 * @param mostOfShared of all who share the shared credential, together; 0 = off
 */
export function createQuota(most: number, mostOfShared = 0): Quota {
  const counts = new Map<string, number>()
  const quota: Quota = {
    most,
    hasRoom(principal, amount = 1) {
      const bound = principal === SHARED ? mostOfShared : most
      return bound === 0 || (counts.get(principal) ?? 0) + amount <= bound
    },
    take(principal, amount = 1) {
      if (!quota.hasRoom(principal, amount)) return undefined
      counts.set(principal, (counts.get(principal) ?? 0) + amount)
      let isBack = false
      return {
        giveBack() {
          if (isBack) return
          isBack = true
          const left = counts.get(principal)! - amount
          if (left > 0) counts.set(principal, left)
          else counts.delete(principal)
        },
      }
    },
  }
  return quota
}

/** What the store is to keep at the most, which alone knows what it has. */
export const quotasOf = ({ sessions, liveKeys }: QuotaLimits): Quotas => ({
  sessions,
  keys: liveKeys,
  keysOf: { [SHARED]: liveKeys * SHARED_KEYS },
})

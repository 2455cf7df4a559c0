/** How many may stand at the door who have not said who they are: of one address, and in all. Counted from TCP accept. */
import { canonical, networkOf } from '../config/address.ts'

/** Of an upgrade that finds no place, in seconds. */
export const RETRY_AFTER_S = 5

export interface Budget {
  /**
   * Somebody has come, before a byte of it is read. To be refused where undefined.
   * @param address the socket's own
   * @param giveWay called at most once, when it is the one to go so that another finds a place; its lease is over then
   */
  entered(address: string, giveWay: () => void): Lease | undefined
  /** Those counted in all. */
  readonly size: number
}

/** A place at the door. */
export interface Lease {
  /**
   * Says who it turned out to be, once its headers are read. False: no place for one more of these, and the lease is over.
   * @param client the address behind trusted proxies, else the socket's own
   */
  seenAs(client: { address: string; isForwarded: boolean; hasOrigin: boolean }): boolean
  /** It is known by now, or has gone: the place is free. Again, nothing happens. */
  over(): void
}

export interface BudgetLimits {
  /** 0 = off. */
  preauthPerIp: number
  /** 0 = off. */
  preauthTotal: number
}

interface Place {
  group: string
  /** The greater, the later it came. */
  number: number
  giveWay(): void
}

/** @param isProxy whether an address is a listed proxy: many come from there, and who they are is said by headers only */
export function createBudget(limits: BudgetLimits, isProxy: (address: string) => boolean): Budget {
  const { preauthPerIp, preauthTotal } = limits
  /** By group, each in the order in which they came to it. */
  const places = new Map<string, Set<Place>>()
  let size = 0
  let number = 0

  /** This machine's own programs may be as many as they like, not the pages in its browser. */
  const isFree = (address: string, saysFrom: boolean): boolean =>
    isProxy(address) || (!saysFrom && OWN.has(canonical(address) ?? ''))

  /** Those that are counted together. Those that may be any number make one, too: in all they count. */
  const groupOf = (address: string, saysFrom: boolean): string =>
    `${isFree(address, saysFrom) ? FREE : ''}${networkOf(address)}`

  const isFull = (group: string): boolean =>
    preauthPerIp > 0 && !group.startsWith(FREE) && (places.get(group)?.size ?? 0) >= preauthPerIp

  function put(place: Place): void {
    const others = places.get(place.group)
    if (others) others.add(place)
    else places.set(place.group, new Set([place]))
    size += 1
  }

  function take(place: Place): boolean {
    const others = places.get(place.group)
    if (!others?.delete(place)) return false
    if (others.size === 0) places.delete(place.group)
    size -= 1
    return true
  }

  /** The oldest of the group that holds most; of several such groups, the oldest of all. */
  function oldestOfMost(): Place | undefined {
    let most = 0
    let found: Place | undefined
    for (const others of places.values()) {
      if (others.size < most) continue
      const [oldest] = others
      if (others.size > most || oldest!.number < found!.number) found = oldest
      most = others.size
    }
    return found
  }

  return {
    entered(address, giveWay) {
      const group = groupOf(address, false)
      if (isFull(group)) return undefined
      if (preauthTotal > 0 && size >= preauthTotal) {
        const oldest = oldestOfMost()!
        take(oldest)
        oldest.giveWay()
      }
      const place: Place = { group, number: number++, giveWay }
      put(place)
      return {
        seenAs({ address: client, isForwarded, hasOrigin }) {
          const found = groupOf(client, isForwarded || hasOrigin)
          if (found === place.group) return places.get(found)?.has(place) ?? false
          // It had to give way meanwhile, or there are as many of those as may be.
          if (!take(place) || isFull(found)) return false
          place.group = found
          put(place)
          return true
        },
        over: () => void take(place),
      }
    },
    get size() {
      return size
    },
  }
}

const FREE = 'free '
const OWN = new Set(['127.0.0.1', '::1'])

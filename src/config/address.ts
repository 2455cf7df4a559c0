/** Addresses and ranges of addresses, with IPv4 in IPv6's clothes folded to plain IPv4. */
import { BlockList, isIP, SocketAddress } from 'node:net'

/** One entry of `gateway.trustedProxies`. */
export interface Range {
  /** As it was written, trimmed. */
  text: string
  /** `any` holds every address, also of a peer that has none (a Unix socket). */
  members: BlockList | 'any'
  family: 'ipv4' | 'ipv6' | 'any'
  /** Bits that all its addresses have in common, of 32 or 128; 0 = every address of the family. */
  prefix: number
}

/**
 * The one spelling of an address; `undefined` for anything else. Brackets, IPv6 zone and the IPv4-mapped prefix are
 * dropped.
 */
export function canonical(address: string): string | undefined {
  const bare = address.startsWith('[') && address.endsWith(']') ? address.slice(1, -1) : address
  switch (isIP(bare)) {
    case 4:
      return bare
    case 6: {
      const { address: short } = new SocketAddress({ address: bare, family: 'ipv6' })
      const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/.exec(short)
      return mapped?.[1] ?? short
    }
    default:
      return undefined
  }
}

/**
 * Reads an address, a CIDR range, or `*`; `undefined` when it is none of them.
 *
 * Bits after the prefix are ignored, as routers do. A mapped range (`::ffff:10.0.0.0/104`) is the IPv4 range it means;
 * one that
 * reaches beyond the mapped block is refused, because its IPv4 part has no IPv4 spelling.
 */
export function parseRange(text: string): Range | undefined {
  const trimmed = text.trim()
  if (trimmed === '*') return { text: trimmed, members: 'any', family: 'any', prefix: 0 }
  const [head = '', tail, ...rest] = trimmed.split('/')
  // A zone means something on one machine's link only, so a range cannot have one.
  if (rest.length > 0 || head.includes('%') || head.startsWith('[')) return undefined
  const address = canonical(head)
  if (address === undefined) return undefined
  const family = isIP(address) === 4 ? 'ipv4' : 'ipv6'
  const members = new BlockList()
  if (tail === undefined) {
    members.addAddress(address, family)
    return { text: trimmed, members, family, prefix: family === 'ipv4' ? 32 : 128 }
  }
  if (!/^\d{1,3}$/.test(tail)) return undefined
  const prefix = Number(tail) - (family === 'ipv4' && isIP(head) === 6 ? 96 : 0)
  if (prefix < 0 || prefix > (family === 'ipv4' ? 32 : 128)) return undefined
  members.addSubnet(address, prefix, family)
  return { text: trimmed, members, family, prefix }
}

/** Whether the range holds the address. What is not an address is in no range but `*`. */
export function contains(range: Range, address: string): boolean {
  if (range.members === 'any') return true
  const folded = canonical(address)
  if (folded === undefined) return false
  const family = isIP(folded) === 4 ? 'ipv4' : 'ipv6'
  // A BlockList finds IPv4 in `::/0` by way of the mapped block; who lists IPv6 proxies did not mean all of IPv4.
  return family === range.family && range.members.check(folded, family)
}

const loopback = [parseRange('127.0.0.0/8'), parseRange('::1')].filter((range) => range !== undefined)

/** Whether only this machine can reach the address. */
export function isLoopback(address: string): boolean {
  return loopback.some((range) => contains(range, address))
}

/**
 * What stands for one peer where peers are counted: an IPv4 address, or the first 64 bits of an IPv6 address, since whoever has one
 * of them has all of those. What is no address (a Unix socket) is one peer, too.
 */
export function networkOf(address: string): string {
  const folded = canonical(address)
  if (folded === undefined) return 'none'
  if (isIP(folded) === 4) return folded
  const [head = '', tail = ''] = folded.split('::')
  const groups = head === '' ? [] : head.split(':')
  // An IPv4 tail is two groups.
  const after = tail === '' ? 0 : tail.split(':').length + (tail.includes('.') ? 1 : 0)
  if (folded.includes('::')) while (groups.length + after < 8) groups.push('0')
  return `${[...groups, ...tail.split(':')].slice(0, 4).join(':')}::/64`
}

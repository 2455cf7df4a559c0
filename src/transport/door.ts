/** What can be known of a peer from its request alone: where it comes from, through whom, and on whose page. */
import type { IncomingMessage } from 'node:http'
import type { PeerFacts } from '../auth/authenticate.ts'
import { hostKnown, isLocalName, isOwnPage, type OriginPolicy, originAllowed } from '../auth/origin.ts'
import { canonical, contains, isLoopback, networkOf, type Range } from '../config/address.ts'

/** Headers that proxies add. One of them from a peer that is no trusted proxy is somebody's claim. */
const FORWARDING = ['forwarded', 'x-forwarded-for', 'x-forwarded-host', 'x-forwarded-proto', 'x-real-ip'] as const

export interface DoorPolicy extends OriginPolicy {
  trustedProxies: readonly Range[]
  /** The header in which a listed proxy says who has logged in, in lower case. */
  userHeader?: string | undefined
}

export type Knock =
  /** `namesNobody`: a listed proxy passes it on, and says of no client in `X-Forwarded-For` for whom. */
  | { admitted: true; facts: PeerFacts; isForwarded: boolean; namesNobody: boolean }
  /** 400 malformed, 403 a page from elsewhere, 421 a name that is not ours. */
  | { admitted: false; status: 400 | 403 | 421; message: string }

/** Decides whether a request may come as far as the handshake (or an HTTP route). */
export function knock(request: IncomingMessage, policy: DoorPolicy): Knock {
  const hosts = request.headersDistinct['host'] ?? []
  if (hosts.length > 1) return { admitted: false, status: 400, message: 'more than one Host header' }
  // The HTTP server asks this of every request but an upgrade.
  if (hosts.length === 0 && request.httpVersion === '1.1')
    return { admitted: false, status: 400, message: 'no Host header' }
  const host = hosts[0]
  const address = canonical(request.socket.remoteAddress ?? '') ?? ''
  const trusted = (candidate: string) => policy.trustedProxies.some((range) => contains(range, candidate))
  const { userHeader = '' } = policy
  const named = request.headersDistinct[userHeader]
  // A name is a claim like an address: of a peer that is no listed proxy it is refused, not overlooked.
  const forwarded = named !== undefined || FORWARDING.some((name) => request.headers[name] !== undefined)
  const viaProxy = forwarded && trusted(address)
  const origin = request.headers.origin
  const browser = origin !== undefined || Object.keys(request.headers).some((name) => name.startsWith('sec-fetch-'))

  if (browser && !viaProxy && host !== undefined && !hostKnown(host, policy))
    return {
      admitted: false,
      status: 421,
      message: 'this name is not served here; add it to gateway.controlUi.allowedOrigins',
    }
  const originHost = viaProxy ? (header(request, 'x-forwarded-host') ?? host) : host
  if (origin !== undefined && !originAllowed(origin, originHost, viaProxy, policy))
    return {
      admitted: false,
      status: 403,
      message:
        'origin not allowed; add it to gateway.controlUi.allowedOrigins, or open the page from the gateway itself',
    }
  const clientAddress = viaProxy ? clientBehind(request, address, trusted) : address
  return {
    admitted: true,
    isForwarded: forwarded,
    namesNobody: viaProxy && trusted(clientAddress),
    facts: {
      address,
      clientAddress,
      guesser: {
        network: networkOf(clientAddress),
        origin,
        isShared: (isLoopback(clientAddress) && !forwarded) || trusted(clientAddress),
      },
      local: isLoopback(address) && !forwarded && isHere(host, origin),
      origin: origin === undefined ? 'absent' : 'allowed',
      forwardedByStranger: forwarded && !viaProxy,
      ...(viaProxy && named?.length === 1 && isName(named[0]!) && { user: named[0]!.trim() }),
      path: pathOf(request),
    },
  }
}

/** Whether a request names what only this machine is called, and comes from no page but the gateway's own. */
const isHere = (host: string | undefined, origin: string | undefined): boolean =>
  host === undefined ? origin === undefined : isLocalName(host) && (origin === undefined || isOwnPage(origin, host))

/** What a proxy may call somebody: text of a sensible length, so that it can stand in a log and in an id. */
const isName = (text: string): boolean => /^[\p{L}\p{N}][\p{L}\p{N} ._@+-]{0,127}$/u.test(text.trim())

/** The path a request names, without its query; `/` for what is no path. */
export function pathOf(request: IncomingMessage): string {
  const path = (request.url ?? '/').split('?', 1)[0]!
  return path.startsWith('/') ? path : '/'
}

const header = (request: IncomingMessage, name: string): string | undefined => {
  const value = request.headers[name]
  return (Array.isArray(value) ? value[0] : value)?.split(',')[0]?.trim()
}

/** An address without the port that some proxies write behind it. */
const withoutPort = (entry: string): string => /^(\[[^\]]*\]|\d+(?:\.\d+){3}):\d{1,5}$/.exec(entry)?.[1] ?? entry

/** The nearest address in the chain that is no trusted proxy: what stands further left, anybody could have written. */
function clientBehind(request: IncomingMessage, address: string, trusted: (candidate: string) => boolean): string {
  const chain = [request.headers['x-forwarded-for']].flat().join(',').split(',')
  let nearest = address
  for (const entry of chain.reverse()) {
    const candidate = canonical(withoutPort(entry.trim()))
    if (candidate === undefined) break
    nearest = candidate
    if (!trusted(candidate)) break
  }
  return nearest
}

/** Which web pages may open a socket here, and which names the gateway answers to (DNS rebinding). */

export interface OriginPolicy {
  /** `gateway.controlUi.allowedOrigins`, such as `https://kurultai.example`. */
  allowedOrigins: readonly string[]
}

/** `localhost`, an IP literal, a name without dots, or `*.internal`: names that no stranger's DNS can point here. */
export function isLocalName(host: string): boolean {
  const name = hostname(host)
  if (name === undefined) return false
  return (
    name === 'localhost' ||
    /^\d+\.\d+\.\d+\.\d+$/.test(name) ||
    name.startsWith('[') ||
    !name.includes('.') ||
    name.endsWith('.internal')
  )
}

/** The name in a Host header, lower case, without its port; undefined if it is malformed. */
function hostname(host: string): string | undefined {
  // The URL parser would quietly drop userinfo, paths and blanks: only what a Host header may hold comes near it.
  if (!/^(\[[0-9a-f:.]+\]|[a-z0-9_-]+(\.[a-z0-9_-]+)*)(:\d{1,5})?$/i.test(host)) return undefined
  const url = URL.parse(`http://${host}`)
  return url?.hostname || undefined
}

/**
 * Whether a page of this origin may connect. Exact match only: the list, or the request's own host and port.
 * @param host the Host header, or `X-Forwarded-Host` where a trusted proxy set it
 * @param viaTrustedProxy then `host` needs no local name: the proxy vouches for it
 */
export function originAllowed(
  origin: string,
  host: string | undefined,
  viaTrustedProxy: boolean,
  policy: OriginPolicy,
): boolean {
  if (policy.allowedOrigins.includes(origin)) return true
  if (host === undefined) return false
  if (!viaTrustedProxy && !hostKnown(host, policy)) return false
  return isOwnPage(origin, host)
}

/** Whether a page of this origin came from the very host and port that the request is for. */
export function isOwnPage(origin: string, host: string): boolean {
  const name = host.toLowerCase()
  return origin === `http://${name}` || origin === `https://${name}`
}

/** Whether a browser's direct request names a host that is ours. */
export function hostKnown(host: string, policy: OriginPolicy): boolean {
  if (isLocalName(host)) return true
  const name = hostname(host)
  return name !== undefined && policy.allowedOrigins.some((origin) => URL.parse(origin)?.hostname === name)
}

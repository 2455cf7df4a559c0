/** Hides what is secret in a configuration before anybody sees it. */
import JSON5 from 'json5'
import type { Path } from './findings.ts'
import { Secret } from './secret.ts'
import { keyOf, type Token, tokens } from './tokens.ts'

/** Words that make a key's value a secret, compared without case, dashes and underscores. */
const secretKey =
  /password|passwd|passphrase|secret|credential|authorization|cookie|webhookurl|connectionstring|(token|tokens|key|keys|apikeys?|dsn|jwt)$|^pat$/
/** Keys that end like a secret and are none. */
const openKey =
  /^((main|session|public|idempotency|hot|sort|group|cache|primary|routing)keys?|(max|min|total|reserve|reserved|budget|context|input|output)[a-z]*tokens?)$/
/** Keys whose members are secret by habit, whatever they are called. */
const secretFolder = /^(env|environment|vars|headers|tokens|secrets|credentials)$/
/** Folders whose members are named by the operator, so that a name there says nothing about the value. */
const named = new Set(['providers', 'entries', 'accounts', 'profiles', 'channels'])

/** A secret shorter than this is hidden where it stands, but not where the same text stands for something else. */
const telling = 8

/** Whether a value at this path is a secret, by the names on the way to it. */
export function isSecret(path: Path): boolean {
  if (path[0] === 'env' && path[1] === 'shellEnv') return false
  return path.some((part, at) => {
    if (typeof part !== 'string' || named.has(String(path[at - 1]))) return false
    const word = part.toLowerCase().replace(/[-_]/g, '')
    if (secretFolder.test(word) && (at < path.length - 1 || word === 'headers')) return true
    return secretKey.test(word) && !openKey.test(word)
  })
}

/**
 * Hides the secrets inside a text that is not itself one: userinfo and credentials in URLs, authorization values, known
 * key forms.
 */
export function mask(text: string): string {
  return text
    .replace(/(?<![a-z0-9+.-])([a-z][a-z0-9+.-]*:\/\/)[^\s/?#@"']*(?:@[^\s/?#@"']*)*@/gi, `$1${Secret.marker}@`)
    .replace(
      /([?&#](?:[\w-]*(?:token|key|secret|password|sig|signature|auth|code))=)(?!\$\{)[^&#\s"']+/gi,
      `$1${Secret.marker}`,
    )
    .replace(/\b(Bearer|Basic)\s+(?!\$\{)[\w.~+/=-]{6,}/gi, `$1 ${Secret.marker}`)
    .replace(/\b(?:sk|pk|rk|ghp|gho|github_pat|glpat|xox[abprs])[-_][\w-]{16,}/g, Secret.marker)
}

/**
 * Returns a copy of the parsed file in which every secret is the marker.
 *
 * A value that only names a variable (`${VAR}`) is shown: it is the name, not the secret, and what the operator needs
 * to see.
 */
export function redactConfig(parsed: unknown): unknown {
  const secrets = secretsOf(parsed, [])
  const copy = (value: unknown, path: Path): unknown => {
    if (Array.isArray(value)) return value.map((item, index) => copy(item, [...path, index]))
    if (typeof value === 'object' && value !== null) {
      return Object.fromEntries(
        Object.entries(value).map(([key, member]) => [withoutAny(key, secrets), copy(member, [...path, key])]),
      )
    }
    return redactLeaf(value, path, secrets)
  }
  return copy(parsed, [])
}

/**
 * Returns the file's text in which every secret is the marker; comments, order and layout stay.
 *
 * Secrets are replaced where they stand, so that a short one does not tear up other words; one of {@link telling}
 * characters or more
 * is hidden wherever else its text occurs, comments included. A text that is no JSON5 becomes the marker altogether.
 */
export function redactRaw(raw: string, parsed: unknown): string {
  try {
    return Array.from(redactTokens(raw, parsed), ({ shown }) => shown).join('')
  } catch {
    return Secret.marker
  }
}

/** The pieces of a text, each with what is shown of it. Throws on a text that is no JSON5. */
export function* redactTokens(raw: string, parsed: unknown): Generator<Token & { shown: string }> {
  const secrets = secretsOf(parsed, [])
  for (const token of tokens(raw)) {
    const { text, kind, path } = token
    let shown = text
    if (kind === 'comment') shown = withoutAny(maskComment(text), secrets)
    else if (kind === 'value') shown = redactToken(text, path, secrets)
    else if (kind === 'key') shown = redactKey(text, secrets)
    yield { ...token, shown }
  }
}

function redactToken(text: string, path: Path, secrets: Secrets): string {
  const value: unknown = JSON5.parse(text)
  const redacted = redactLeaf(value, path, secrets)
  return Object.is(redacted, value) ? text : JSON.stringify(redacted)
}

function redactKey(text: string, secrets: Secrets): string {
  const name = keyOf(text)
  const redacted = withoutAny(name, secrets)
  return redacted === name ? text : JSON.stringify(redacted)
}

function redactLeaf(value: unknown, path: Path, secrets: Secrets): unknown {
  if (holdsSecret(value, path)) return Secret.marker
  return typeof value === 'string' ? withoutAny(mask(value), secrets) : value
}

/** Booleans and null tell nothing; the empty string tells that nothing is there. */
function holdsSecret(value: unknown, path: Path): boolean {
  if (typeof value !== 'string' && typeof value !== 'number' && typeof value !== 'bigint') return false
  if (value === '' || (typeof value === 'string' && /^((Bearer|Basic) )?\$\{[A-Za-z_][A-Za-z0-9_]*\}$/.test(value)))
    return false
  return isSecret(path)
}

/** The texts of secrets by their first {@link telling} characters. */
type Secrets = ReadonlyMap<string, readonly string[]>

/** Every secret's text. */
function secretsOf(value: unknown, path: Path): Secrets {
  const found: string[] = []
  const walk = (one: unknown, at: Path): void => {
    if (Array.isArray(one)) one.forEach((item, index) => void walk(item, [...at, index]))
    else if (typeof one === 'object' && one !== null) {
      for (const [key, member] of Object.entries(one)) walk(member, [...at, key])
    } else if (holdsSecret(one, at)) found.push(String(one))
    else if (typeof one === 'string') found.push(...userinfo(one))
  }
  walk(value, path)
  const long = [...new Set(found)].filter((text) => text.length >= telling)
  return Map.groupBy(long, (text) => text.slice(0, telling))
}

/** The password of a URL, as it is written. */
function userinfo(text: string): string[] {
  return [...text.matchAll(/:\/\/[^\s/?#:@]*:([^\s/?#]+)@/g)].map(([, password = '']) => password)
}

/** Pieces of secrets that a text is compared with, for each of its characters: those that all begin alike would take for ever. */
const looks = 16

/** Hides every secret in a text, and those that overlap as one. A text that takes too many {@link looks} is hidden whole. */
function withoutAny(text: string, secrets: Secrets): string {
  if (secrets.size === 0) return text
  let left = looks * text.length
  let shown = ''
  /** Behind the last character that is hidden. */
  let hidden = 0
  for (let at = 0; at + telling <= text.length; at += 1) {
    for (const secret of secrets.get(text.slice(at, at + telling)) ?? []) {
      const end = at + secret.length
      const mayStand = end > hidden && end <= text.length
      left -= mayStand ? 1 + Math.floor(secret.length / 64) : 1
      if (left < 0) return Secret.marker
      if (!mayStand || !text.startsWith(secret, at)) continue
      if (at >= hidden) shown += text.slice(hidden, at) + Secret.marker
      hidden = end
    }
  }
  return shown + text.slice(hidden)
}

/** Hides what looks like a setting in a comment: an old token is still a token to somebody. */
function maskComment(text: string): string {
  return mask(text).replace(
    /(?<![\w-])((["']?)([\w-]+)\2\s*[:=]\s*)("[^"\n]*"|'[^'\n]*'|[^\s,"'{}[\]]+)/g,
    (whole, head: string, _quote, key: string, value: string) => {
      const bare = value.replace(/^["']|["']$/g, '')
      return holdsSecret(bare, [key]) ? `${head}${JSON.stringify(Secret.marker)}` : whole
    },
  )
}

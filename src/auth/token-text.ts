/**
 * The text of the tokens that are made here: `kur_<kind>_<id>_<secret>_<checksum>`. The prefix lets people and scanners see what
 * was found, the checksum tells a token that was cut off or mistyped from one that is wrong.
 */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import { Secret } from '../config/secret.ts'

/** `named`: of an operator. `node`: of a node that was paired by name. */
export type TokenKind = 'named' | 'node'

/** What a text given as a token looks like. Only `whole` has anything to compare. */
export type TokenText =
  | { form: 'whole'; kind: TokenKind; id: string; secret: string }
  /** Begins like one of these, and is none. */
  | { form: 'mistyped' }
  /** As devices have them. */
  | { form: 'device' }
  | { form: 'other' }

const WHOLE = /^(kur_(named|node)_([0-9a-f]{12})_([0-9a-f]{64}))_([0-9a-f]{8})$/

const sha256 = (text: string) => createHash('sha256').update(text)
const checksum = (text: string) => sha256(text).digest('hex').slice(0, 8)

/** Makes a token. Its text is shown once; `hash` is what is kept. */
export function makeToken(kind: TokenKind): { id: string; hash: string; text: Secret } {
  const id = randomBytes(6).toString('hex')
  const secret = randomBytes(32).toString('hex')
  const text = `kur_${kind}_${id}_${secret}`
  return { id, hash: hashOf(secret), text: new Secret(`${text}_${checksum(text)}`) }
}

export function readTokenText(text: string): TokenText {
  if (/^[0-9a-f]{32}$/.test(text)) return { form: 'device' }
  if (!text.startsWith('kur_')) return { form: 'other' }
  const [, body, kind, id, secret, sum] = WHOLE.exec(text) ?? []
  if (body === undefined || checksum(body) !== sum) return { form: 'mistyped' }
  return { form: 'whole', kind: kind as TokenKind, id: id!, secret: secret! }
}

/**
 * SHA-256, once: the secret is 256 random bits, so there is no dictionary to try and nothing for a slow hash to slow down, while
 * at the door a slow hash would be work that anybody can ask for.
 */
const hashOf = (secret: string): string => sha256(secret).digest('hex')

/** Compared where there is nothing to compare with, so that an unknown id takes the time that a known one takes. */
const NOBODY = randomBytes(32).toString('hex')

/** Whether a secret is the one that a hash was made of. False, after the same work, where there is no hash. */
export function fitsHash(secret: string, hash: string | undefined): boolean {
  const fits = timingSafeEqual(Buffer.from(hashOf(secret), 'hex'), Buffer.from(hash ?? NOBODY, 'hex'))
  return fits && hash !== undefined
}

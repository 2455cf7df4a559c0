/** What makes a shared token or password no secret. */
import { Secret } from './secret.ts'

/** Below this many characters a shared token can be searched for. */
export const shortestToken = 24

/**
 * Words people leave where a secret should stand, compared without case, spaces and punctuation. Whatever is looked for
 * in the
 * middle is eight letters or more: a random token holds it about once in 10^10 times.
 */
const placeholder = new RegExp(
  [
    '^(undefined|null|none|nil|nan|true|false|objectobject|token|secret|password|passwd|admin|default|example|test)$',
    '^(openclaw|kurultai|gatewaytoken|todo|tbd|fixme|x+)$',
    'change(me|this|it)|replace(me|this|it|with|by)|(insert|enter)(your|this|here)|placeholder',
    '^(a|the|my|put|set)?your[a-z]*(token|secret|password|key)',
    '(token|secret|password)(goes)?here',
  ].join('|'),
)

/**
 * Says why a token or password is none, as the end of a sentence; `undefined` when nothing is wrong. Never repeats it.
 */
export function weakness(credential: string, shortest: number): string | undefined {
  if (credential === '') return 'is empty'
  if (credential === 'undefined' || credential === 'null') return `is the word ${credential}`
  if (credential.includes(Secret.marker)) return 'is the redaction marker'
  if (/\$\{/.test(credential)) return 'still holds a variable that was not replaced'
  const folded = credential.toLowerCase().replace(/[^a-z0-9]/g, '')
  if (/^<.*>$|^\[.*\]$|^\{.*\}$/.test(credential) || placeholder.test(folded)) return 'is a placeholder'
  if (credential.length < shortest) return `has ${credential.length} characters; at least ${shortest} are needed`
  if (new Set(credential).size < 5) return 'repeats a few characters'
  return undefined
}

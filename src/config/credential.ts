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

/** Why a token or password is a poor one, as the end of a sentence that never repeats it. */
export interface Weakness {
  why: string
  /** It is none at all: whoever wrote it there meant something else to stand there. */
  isNone: boolean
}

/** What is wrong with a token or password, blanks around it aside; `undefined` when nothing is. */
export function weakness(credential: string, shortest: number): Weakness | undefined {
  const text = credential.trim()
  const none = noneAtAll(text)
  if (none !== undefined) return { why: none, isNone: true }
  if (text.length < shortest)
    return { why: `has ${text.length} characters; at least ${shortest} are needed`, isNone: false }
  if (new Set(text).size < 5) return { why: 'repeats a few characters', isNone: false }
  return undefined
}

function noneAtAll(text: string): string | undefined {
  if (text === '') return 'is empty'
  if (text === 'undefined' || text === 'null') return `is the word ${text}`
  if (text.includes(Secret.marker)) return 'is the redaction marker'
  if (/\$\{/.test(text)) return 'still holds a variable that was not replaced'
  const folded = text.toLowerCase().replace(/[^a-z0-9]/g, '')
  if (/^kur_/.test(text)) return 'is one that was made for somebody with less: whoever has it would have everything'
  if (/^<.*>$|^\[.*\]$|^\{.*\}$/.test(text) || placeholder.test(folded)) return 'is a placeholder'
  return undefined
}

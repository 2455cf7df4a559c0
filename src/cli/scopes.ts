/** Scopes as one types them. */
import { OPERATOR_SCOPES, type Scope } from '../contract/block.ts'
import { UsageError } from './target.ts'

/** The items of a list with commas. */
export const listOf = (text: string): string[] =>
  text
    .split(',')
    .map((item) => item.trim())
    .filter((item) => item !== '')

/** The scopes of a list; `read` stands for `operator.read`. @throws UsageError for what is no scope */
export function scopesOf(option: string, text: string): Scope[] {
  const scopes = listOf(text).map((name) => (name.includes('.') ? name : `operator.${name}`))
  const unknown = scopes.find((name) => !(OPERATOR_SCOPES as readonly string[]).includes(name))
  if (unknown === undefined) return scopes as Scope[]
  const known = OPERATOR_SCOPES.map((name) => name.replace('operator.', '')).join(', ')
  throw new UsageError(`${option}: there is no scope ${JSON.stringify(unknown.slice(0, 64))}; there are ${known}`)
}

/** Which scope implies which: said here, and nowhere else. */
import { OPERATOR_SCOPES, type Scope } from './block.ts'

/** Whether scopes include one. `operator.admin` implies all, `operator.write` implies `operator.read`. */
export function holds(scopes: ReadonlySet<Scope>, scope: Scope): boolean {
  return (
    scopes.has(scope) || scopes.has('operator.admin') || (scope === 'operator.read' && scopes.has('operator.write'))
  )
}

/** Scopes, and those that they imply. */
export function withImplied(scopes: Iterable<Scope>): Scope[] {
  const held = new Set(scopes)
  return OPERATOR_SCOPES.filter((scope) => holds(held, scope))
}

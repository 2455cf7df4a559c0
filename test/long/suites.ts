/** The long suites by name. */
import type { Suite } from './suite.ts'

export const suites: Record<string, Suite> = {}

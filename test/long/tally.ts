/** What a suite counts, and the breaches it finds. */
import type { Report } from './suite.ts'

export interface Tally extends Report {
  counts: Record<string, number>
  add(what: string, many?: number): void
  /** Keeps the largest. */
  most(what: string, much: number): void
  /** A promise was not kept: counted under its name, and told in a sentence. */
  breach(what: string, sentence: string): void
}

/** Sentences of one kind; more of the same tell nothing new. */
const MOST_SENTENCES = 8

/** @param names what is counted, in the order it is printed, so that what never happened is a 0 and not a silence */
export function createTally(names: string[]): Tally {
  const counts: Record<string, number> = Object.fromEntries(names.map((name) => [name, 0]))
  const broken: string[] = []
  return {
    counts,
    broken,
    add(what, many = 1) {
      counts[what] = (counts[what] ?? 0) + many
    },
    most(what, much) {
      counts[what] = Math.max(counts[what] ?? 0, Math.round(much))
    },
    breach(what, sentence) {
      counts[what] = (counts[what] ?? 0) + 1
      if (counts[what] <= MOST_SENTENCES) broken.push(`${what}: ${sentence}`)
    },
  }
}

/** A suite that takes long: it goes round and round, counts, and says what broke. */
export interface Suite {
  /** What is tried, in one sentence. */
  readonly summary: string
  /** Rounds in `npm test`: seconds, not minutes. */
  readonly few: number
  /** Rounds of `npm run test:long`. */
  readonly many: number
  /** Goes the rounds. Rejects only when it cannot be carried out; what was found wrong is in the report. */
  run(how: Rounds): Promise<Report>
}

export interface Rounds {
  rounds: number
  /** Whatever is random is drawn from this: the same seed tries the same again. */
  seed: number
  /** Says how far it has come. */
  say(line: string): void
}

export interface Report {
  /** What was counted, in the order it is printed: `{ 'acknowledged turns': 8122, lost: 0 }`. */
  counts: Record<string, number | string>
  /** Each breach of a promise in a sentence that says how to see it again; empty when all was kept. */
  broken: string[]
}

/** Numbers in [0, 1) that follow from a seed (mulberry32). */
export function random(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

import { describe, expect, it } from 'vitest'
import { suites } from './suites.ts'

/** A few rounds of what `npm run test:long` goes for hours, each time another seed: the one to repeat is in the failure. */
describe('a few rounds of the long suites', () => {
  for (const [name, suite] of Object.entries(suites)) {
    const seed = Date.now() % 2 ** 32
    it(`${name} (seed ${seed}): ${suite.summary}`, { timeout: 180_000 }, async () => {
      const { counts, broken } = await suite.run({ rounds: suite.few, seed, say() {} })
      expect(broken, JSON.stringify(counts)).toEqual([])
    })
  }
})

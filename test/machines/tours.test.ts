/** Every chart along every edge it has: nothing is left out, and what must always hold does hold. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { CHARTS } from '../../tools/diagrams/charts.ts'
import { INVARIANTS } from './invariants.ts'
import { PLANS } from './plans.ts'
import { type Coverage, tour, type Walk } from './tour.ts'

const table: { [chart: string]: object } = {}

test('every chart is toured', () => {
  expect(Object.keys(PLANS).sort()).toEqual(Object.keys(CHARTS).sort())
})

for (const [name, plan] of Object.entries(PLANS))
  describe(name, () => {
    let walks: Walk[] = []
    let coverage: Coverage

    beforeAll(async () => {
      ;({ walks, coverage } = await tour(plan))
      const { states, transitions, edges } = coverage
      const share = ({ all, missing }: Coverage['states']) => `${all.length - missing.length}/${all.length}`
      table[name] = { states: share(states), transitions: share(transitions), edges, invariants: 0 }
    })

    test('reaches every state', () => {
      expect(coverage.states.missing).toEqual([])
    })

    test('takes every transition', () => {
      expect(coverage.transitions.missing).toEqual([])
    })

    test('arrives where its graph says, on every edge', () => {
      expect(walks.filter(({ arrived, expected }) => arrived !== expected)).toEqual([])
    })

    const sentences = Object.entries(INVARIANTS[name]!)
    for (const [sentence, holds] of sentences)
      test(sentence, () => {
        expect(walks.length).toBeGreaterThan(0)
        for (const walk of walks) holds(walk)
        Object.assign(table[name]!, { invariants: sentences.length })
      })
  })

afterAll(() => {
  const columns = ['states', 'transitions', 'edges', 'invariants'] as const
  const line = (cells: unknown[]) => cells.map((cell) => String(cell).padEnd(12)).join('')
  console.log(
    [
      line(['chart', ...columns]),
      ...Object.entries(table).map(([name, row]) => line([name, ...columns.map((c) => (row as never)[c])])),
    ].join('\n'),
  )
})

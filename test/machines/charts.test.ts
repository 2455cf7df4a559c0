/** What every chart has, and what none may touch. */
import { readdirSync, readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { CHARTS } from '../../tools/diagrams/charts.ts'
import { effectsOf } from './rig.ts'
import { allNodes } from './tour.ts'

const folder = new URL('../../machines/', import.meta.url)
const files = readdirSync(folder).filter((file) => file.endsWith('.ts'))
const read = (file: string) => readFileSync(new URL(file, folder), 'utf8')
/** The code without what is only said about it, and without texts. */
const code = (file: string) => read(file).replaceAll(/\/\*[\s\S]*?\*\/|(?<!:)\/\/.*$|'(?:[^'\\\n]|\\.)*'/gm, '')

test('each file in machines/ is a chart that is drawn, or the names of effects', () => {
  expect(files.map((file) => file.slice(0, -3)).sort()).toEqual([...Object.keys(CHARTS), 'effects'].sort())
})

for (const [name, machine] of Object.entries(CHARTS))
  describe(name, () => {
    test('is called what its file is called', () => {
      expect(machine.id).toBe(name)
    })

    test('says in a sentence what each of its states is', () => {
      const silent = allNodes(machine.root).filter(({ description }) => !/^\S.*[.:?]$/s.test(description ?? ''))
      expect(silent.map(({ id }) => id)).toEqual([])
    })

    test('tells of events that nobody expected', () => {
      const [anything] = machine.root.transitions.get('*') ?? []
      expect(anything?.actions.map((action) => (action as { type: string }).type)).toEqual(['unexpected'])
    })

    test('cannot go round in circles for ever', () => {
      expect(machine.options?.maxIterations).toBeGreaterThan(0)
      expect(machine.options?.maxIterations).toBeLessThanOrEqual(1_000)
    })

    test('fails loudly where an effect is not bound', () => {
      for (const effect of effectsOf(machine)) {
        const unbound = machine.implementations.actions[effect] as (args: unknown, params: unknown) => void
        expect(() => unbound({}, {})).toThrow(`"${effect}" is not bound`)
      }
    })

    test('leads from every state to an end, if it has one', () => {
      const finals = allNodes(machine.root).filter(({ type }) => type === 'final')
      // These live as long as the process.
      if (['supervisor', 'standby'].includes(name)) return expect(finals).toEqual([])
      expect(finals.length).toBeGreaterThan(0)
      for (const final of finals) expect(final.transitions.size).toBe(0)
    })
  })

describe('machines/', () => {
  test.each(files)('%s imports nothing that acts', (file) => {
    const lines = [...read(file).matchAll(/^import\s+(type\s)?[^'"]*['"]([^'"]+)['"]/gm)]
    expect(lines.length).toBeGreaterThan(0)
    for (const [line, isType, from] of lines)
      if (!isType)
        expect(
          ['xstate', 'immer', './effects.ts', ...Object.keys(CHARTS).map((name) => `./${name}.ts`)],
          `machines/${file}: "${line}" brings in something that runs. A chart names an effect; src/broker does it`,
        ).toContain(from)
    expect(code(file), 'no imports at run time').not.toMatch(/\bimport\(|\brequire\(/)
  })

  test.each(files)('%s asks neither the clock nor the dice nor the process', (file) => {
    const forbidden =
      /\b(Date|Math\.random|performance|crypto|process|setTimeout|setInterval|queueMicrotask|fetch|console|globalThis)\b|node:/
    expect(
      forbidden.exec(code(file))?.[0],
      `machines/${file}: time comes as \`after\`, ids and text as input`,
    ).toBeUndefined()
  })
})

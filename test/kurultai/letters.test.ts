/** The letters of the acceptance list: each has a test that begins with it. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'

const letters = (letter: string, count: number) => Array.from({ length: count }, (_, index) => `${letter}${index + 1}`)

it('have a test each, none of which is skipped', () => {
  const sources = readdirSync(import.meta.dirname)
    .filter((name) => name.endsWith('.test.ts'))
    .map((name) => readFileSync(join(import.meta.dirname, name), 'utf8'))
  const titles = sources.flatMap((source) => [...source.matchAll(/^ +it\('([ZD]\d+): /gm)].map(([, letter]) => letter!))
  const count = (letter: string) => Number(letter.slice(1)) + (letter.startsWith('Z') ? 0 : 100)
  const found = [...new Set(titles)].toSorted((one, other) => count(one) - count(other))
  expect(found).toEqual([...letters('Z', 12), ...letters('D', 9)])
  for (const source of sources) expect(source).not.toMatch(/\b(it|describe)\.(skip|todo)\b(?!\\)/)
})

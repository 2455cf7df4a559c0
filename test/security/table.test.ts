/** The table of `SECURITY.md`: each threat has its row, and each row a test that is there. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { namesIn, problemOf } from '../support/named-test.ts'

const root = fileURLToPath(new URL('../../', import.meta.url))
const THREATS = Array.from({ length: 39 }, (_, index) => `T${index + 1}`)

interface Row {
  id: string
  attack: string
  deed: string
  /** As they are named in the last column, without their quotes. */
  tests: string[]
}

/** The rows of the table, and whatever stands in the last column besides names of tests. */
function read(text: string): { rows: Row[]; stray: string[] } {
  const rows: Row[] = []
  const stray: string[] = []
  for (const line of text.split('\n').filter((it) => /^\| *T\d/.test(it))) {
    const cells = line.split(/(?<!\\)\|/).slice(1, -1)
    const [id = '', attack = '', deed = '', last = ''] = cells.map((cell) => cell.trim())
    const tests = [...last.matchAll(/`([^`]+)`/g)].map(([, name]) => name!)
    const rest = last.replace(/`[^`]+`/g, '').replace(/<br>/g, '')
    if (cells.length !== 4 || rest.trim() !== '') stray.push(line)
    rows.push({ id, attack, deed, tests })
  }
  return { rows, stray }
}

describe('the table of SECURITY.md', () => {
  const { rows, stray } = read(readFileSync(join(root, 'SECURITY.md'), 'utf8'))

  it('has a row for each threat, once and in order, that says something', () => {
    expect(rows.map(({ id }) => id)).toEqual(THREATS)
    expect(stray).toEqual([])
    for (const { id, attack, deed } of rows)
      expect([id, attack.length > 10, deed.length > 20]).toEqual([id, true, true])
  })

  it('names a test behind every row, and each of them is there', () => {
    expect(rows.filter(({ tests }) => tests.length === 0).map(({ id }) => id)).toEqual([])
    expect(
      rows.flatMap(({ id, tests }) => tests.map((name) => [id, problemOf(name)]).filter(([, problem]) => problem)),
    ).toEqual([])
  })

  it('would not get away with a test, a file or a suite that is not there', () => {
    expect(problemOf('test/security/table.test.ts › would not get away with a test')).toBeUndefined()
    expect(problemOf('test/security/table.test.ts › shows that it is safe')).toContain('no test of')
    // Words that stand in the file, and in no name of a test.
    expect(problemOf('test/security/table.test.ts › has these words in its name')).toContain('no test of')
    expect(problemOf('test/security/nothing.test.ts › is there')).toContain('there is no file')
    expect(problemOf('npm run test:long -- nothing')).toContain('no long suite')
    expect(problemOf('npm run test:long -- toString')).toContain('no long suite')
    expect(problemOf('somebody looked at it')).toContain('names no test')
  })

  it('does not take a test that is skipped for one', () => {
    const call = 'it'
    expect(namesIn(`${call}.skip('is safe', () => {})\n${call}.todo('is sound')`)).toEqual([])
    expect(namesIn(`${call}.each([1])('is safe', () => {})\n${call}(\n  'is sound',`)).toEqual(['is safe', 'is sound'])
  })
})

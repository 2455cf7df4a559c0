/** What the README says of other people's clients is of those that are tried, and of all of them. */
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { CLIENTS } from './clients.ts'
import { putTable, type Row, tableIn, tableOf } from './table.ts'

const readme = readFileSync(new URL('../../README.md', import.meta.url), 'utf8')
/** The cells of each row below the head. */
const rowsIn = (table: string) =>
  table
    .split('\n')
    .slice(2)
    .map((line) => line.split('|').map((cell) => cell.trim()))

describe('the table of clients in the README', () => {
  it('has one row for each client that is tried, in their order, and each did all that it was made to do', () => {
    const rows = rowsIn(tableIn(readme) ?? '').map(([, name, version, protocol, commands, ok]) => {
      expect(commands, name).not.toBe('')
      expect(commands, name).not.toContain('**')
      return { name, version, protocol, ok }
    })
    expect(rows).toEqual(CLIENTS.map(({ name, version, protocol }) => ({ name, version, protocol, ok: 'ok' })))
  })

  it('says of a command that failed that it did, and is put where the last one stood', () => {
    const row = (...oks: boolean[]): Row => ({
      client: { name: 'a client', version: '1', protocol: '4' },
      commands: oks.map((ok, n) => ({ name: `do ${n}`, ok })),
    })
    expect(rowsIn(tableOf([row(true, false), row()])).map((cells) => cells.slice(4, 6))).toEqual([
      ['do 0 · **do 1**', '1 of 2'],
      ['', '0 of 0'],
    ])
    const table = tableOf([row(true)])
    const put = putTable(readme, table)
    expect(tableIn(put)).toBe(table)
    expect(put.replace(table, '')).toBe(readme.replace(tableIn(readme)!, ''))
    expect(() => putTable('no place', table)).toThrow('the README has no line')
  })
})

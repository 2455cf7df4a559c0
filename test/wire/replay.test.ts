import { join } from 'node:path/posix'
import { describe, expect, it } from 'vitest'
import { problemOf } from '../support/named-test.ts'
import { DEVIATIONS, type Deviation, explains, isMissing, pattern } from './deviations.ts'
import { replayExchanges } from './exchanges.ts'
import { absent, filesOf, readExchanges, readRecording } from './recording.ts'
import { replay } from './replay.ts'
import { SUBJECTS } from './subjects.ts'
import type { Difference } from './values.ts'

const ALL = filesOf(['*.json', 'v4/*.json'])
/** What was recorded over HTTP. */
const EXCHANGES = filesOf(['http.json'])
const CONVERSATIONS = ALL.filter((file) => !EXCHANGES.includes(file))

/** How long a replay may take, in ms: some start processes, and all are played beside each other. */
const LONGEST_MS = 120_000

const played = new Set<string>()
const used = new Set<Deviation>()

const said = (value: unknown): string => JSON.stringify(value)?.slice(0, 200) ?? '-'

/** The differences that no row explains, in words; rows that explain one are remembered as used. */
function unexplained(file: string, differences: Difference[]): string[] {
  played.add(file)
  return differences.flatMap((difference) => {
    const rows = DEVIATIONS.filter((row) => explains(row, file, difference))
    for (const row of rows) used.add(row)
    const { where, kind, recorded, here } = difference
    return rows.length > 0 ? [] : [`${where}: ${kind}, recorded ${said(recorded)}, here ${said(here)}`]
  })
}

describe.skipIf(absent)(`a recorded conversation${absent ? ` (${absent})` : ''}`, () => {
  it.concurrent.for(CONVERSATIONS)(
    'goes here as it went there: %s',
    { timeout: LONGEST_MS },
    async (file, { expect }) => {
      const differences = await replay(readRecording(file), { isMissing: (where) => isMissing(file, where) })
      expect(unexplained(file, differences)).toEqual([])
    },
  )

  it.concurrent.for(EXCHANGES)('over HTTP is answered here as it was there: %s', async (file, { expect }) => {
    const differences = await replayExchanges(readExchanges(file))
    expect(unexplained(file, differences)).toEqual([])
  })
})

/** A row of the guarantees, of the deployment's acceptance list, a decision, or a fact of the wire. */
const PROMISE =
  /^(G([1-9]|1\d|2[01])|T([1-9]|[12]\d|3\d)|Z([1-9]|1[0-2])|Settled: [GT]\d+|Decided: .+|0\.[1-8] of the wire|section ([1-9]|1[01]) of the (wire|guarantees))$/

describe('each deviation', () => {
  it('gives a reason, and names the promise behind it', () => {
    const parts = DEVIATIONS.flatMap(({ guarantee }) => guarantee.replace(/, (Here|\d( and \d)?)$/, '').split(', '))
    expect(parts.filter((part) => !PROMISE.test(part))).toEqual([])
    expect(DEVIATIONS.filter(({ reason }) => !/^\S.{9,}\.$/s.test(reason))).toEqual([])
  })
})

describe.skipIf(absent)('the list of deviations', () => {
  it('has no row that explains nothing any more', ({ skip }) => {
    if (played.size < CONVERSATIONS.length + EXCHANGES.length) skip('only when every conversation was replayed')
    expect(DEVIATIONS.filter((row) => !row.sometimes && !used.has(row))).toEqual([])
  })
})

describe('a subject', () => {
  it('has a conversation of its own, which is held without any recording', () => {
    const problems = SUBJECTS.map(([, own]) => {
      const [file, words] = own.split(' › ')
      return problemOf(`${join('test/wire', file!)}.test.ts › ${words}`)
    })
    expect(problems.filter((problem) => problem !== undefined)).toEqual([])
  })

  it.skipIf(absent)('is named for every recording that is replayed, and for no other', () => {
    const replayed = [...CONVERSATIONS, ...EXCHANGES]
    const isAbout = (file: string) => SUBJECTS.filter(([about]) => about.some((one) => pattern(one).test(file)))
    expect(replayed.filter((file) => isAbout(file).length !== 1)).toEqual([])
    const unused = SUBJECTS.flatMap(([about]) =>
      about.filter((one) => !replayed.some((file) => pattern(one).test(file))),
    )
    expect(unused).toEqual([])
  })
})

import { describe, expect, it } from 'vitest'
import type { Difference } from './compare.ts'
import { DEVIATIONS, type Deviation, explains, isMissing } from './deviations.ts'
import { absent, filesOf, readRecording } from './recording.ts'
import { replay } from './replay.ts'

const FILES = filesOf([
  'connect-*.json',
  'chat-*.json',
  'agent-run*.json',
  'cron.json',
  'errors.json',
  'limit-payload.json',
  'node-invoke-timeout.json',
  'nodes.json',
  'sessions.json',
  'v4/*.json',
])

const played = new Set<string>()
const used = new Set<Deviation>()

const said = (value: unknown): string => JSON.stringify(value)?.slice(0, 200) ?? '-'

describe.skipIf(absent)(`a recorded conversation${absent ? ` (${absent})` : ''}`, () => {
  it.concurrent.for(FILES)('goes here as it went there: %s', async (file, { expect }) => {
    const differences = await replay(readRecording(file), { isMissing: (where) => isMissing(file, where) })
    played.add(file)
    const unexplained: Difference[] = []
    for (const difference of differences) {
      const rows = DEVIATIONS.filter((row) => explains(row, file, difference))
      for (const row of rows) used.add(row)
      if (rows.length === 0) unexplained.push(difference)
    }
    const lines = unexplained.map(
      ({ where, kind, recorded, here }) => `${where}: ${kind}, recorded ${said(recorded)}, here ${said(here)}`,
    )
    expect(lines).toEqual([])
  })
})

describe.skipIf(absent)('the list of deviations', () => {
  it('has no row that explains nothing any more', ({ skip }) => {
    if (played.size < FILES.length) skip('only when every conversation was replayed')
    expect(DEVIATIONS.filter((row) => !row.sometimes && !used.has(row))).toEqual([])
  })
})

import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { Secret } from '../src/config/secret.ts'
import { forClients, openLog, readable } from '../src/logging.ts'

const line = (record: object) => JSON.stringify({ level: 30, time: 0, msg: 'said', ...record })

describe('a line for people', () => {
  it('has time, level, words and details', () =>
    expect(readable(line({ level: 40, run: 'k1', n: 2 }))).toBe('00:00:00.000 WARN  said (run=k1 n=2)\n'))

  it('stays one line, and shows what would move the cursor or turn the text round', () => {
    for (const hostile of ['a\nb', 'a\r\nb', '\u001b[2Ja', 'a\u202eb', 'a\u2028b', '\u0007']) {
      const shown = readable(line({ msg: hostile, client: hostile }))
      expect(shown.split('\n')).toHaveLength(2)
      expect(shown).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u202e\u2028]/)
    }
  })
})

describe('a line for clients', () => {
  const shown = (record: object) => JSON.parse(forClients(line(record)))

  it('is the record, with its words, its level and its time where clients look for them', () =>
    expect(shown({ level: 40, run: 'k1', n: 2 })).toEqual({
      1: 'said (run=k1 n=2)',
      level: 40,
      time: 0,
      msg: 'said',
      run: 'k1',
      n: 2,
      _meta: { date: '1970-01-01T00:00:00.000Z', logLevelName: 'WARN', name: '{"subsystem":"gateway"}' },
    }))

  it('says what an error was, and where', () =>
    expect(shown({ err: { stack: 'Error: no\n  at here' } })['1']).toBe('said\nError: no\n  at here'))

  it('has words that neither move the cursor nor turn the text round, in its raw form neither', () => {
    for (const hostile of ['a\nb', '\u001b[2Ja', 'a\u202eb', 'a\u2028b', '\u0007']) {
      const raw = forClients(line({ msg: hostile, client: hostile }))
      for (const text of [raw, JSON.parse(raw)['1']]) expect(text).not.toMatch(/[\u0000-\u001f\u202e\u2028]/)
    }
  })

  it('that is not of this log stays as it is', () => {
    for (const other of ['', 'words', '3', 'null', '{}', '{"level":30,"time":"now","msg":"said"}'])
      expect(forClients(other)).toBe(other)
  })
})

describe('the log', () => {
  it('is a file of JSON lines for its owner alone, without secrets', () => {
    const folder = mkdtempSync(join(tmpdir(), 'kurultai-log-'))
    const file = join(folder, 'logs', 'gateway.log')
    const { log, close } = openLog({ level: 'info', consoleLevel: 'silent', file })
    log.info({ token: new Secret('a-canary-0123456789') }, 'a line\nthat is two')
    log.debug({}, 'not this one')
    close()
    const lines = readFileSync(file, 'utf8').trimEnd().split('\n')
    expect(lines).toHaveLength(1)
    expect(JSON.parse(lines[0]!)).toMatchObject({ msg: 'a line\nthat is two', token: Secret.marker })
    expect(statSync(file).mode & 0o777).toBe(0o600)
    rmSync(folder, { recursive: true })
  })

  it('that cannot be written is a problem to tell, not a reason to fail', () => {
    const { problem, log } = openLog({ level: 'info', consoleLevel: 'silent', file: '/dev/null/gateway.log' })
    expect(problem).toContain('cannot be written')
    log.info('nobody hears this')
  })
})

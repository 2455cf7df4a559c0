/** What is heard of an answer that may say that there is nothing to say. */
import { describe, expect, it } from 'vitest'
import { worthHearing } from '../../src/broker/acknowledgement.ts'

describe('an answer', () => {
  it.each([
    'HEARTBEAT_OK',
    '  HEARTBEAT_OK\n',
    '**HEARTBEAT_OK**',
    '<b>HEARTBEAT_OK</b>',
    '`HEARTBEAT_OK` ',
    'HEARTBEAT_OK HEARTBEAT_OK',
    'All is well. HEARTBEAT_OK',
    'HEARTBEAT_OK. Nothing to report.',
    `HEARTBEAT_OK ${'x'.repeat(300)}`,
    '',
    ' \n ',
  ])('that says that there is nothing to say is not heard: %j', (text) => {
    expect(worthHearing(text)).toBeUndefined()
  })

  it.each(['The disk is full.', 'They said HEARTBEAT_OK to me, in the middle.', 'HEARTBEAT_O', 'heartbeat_ok'])(
    'that says something is heard as it is: %j',
    (text) => {
      expect(worthHearing(` ${text} `)).toBe(text)
    },
  )

  it('that says much beside the word is heard without it', () => {
    const much = 'x'.repeat(301)
    expect(worthHearing(`HEARTBEAT_OK\n\n${much}`)).toBe(much)
    expect(worthHearing(`${much}\n**HEARTBEAT_OK**`)).toBe(much)
    expect(worthHearing('HEARTBEAT_OK x', 0)).toBe('x')
    expect(worthHearing('HEARTBEAT_OK', 0)).toBeUndefined()
  })

  it('is looked at in a time that its length does not multiply', () => {
    const long = `${'<a '.repeat(100_000)}HEARTBEAT_OK${' *'.repeat(100_000)}x`
    expect(worthHearing(long)).toBe(long)
  })
})

import { describe, expect, it } from 'vitest'
import { createGauge, gauge } from '../../src/tools/gauge.ts'

const nested = (depth: number) => '['.repeat(depth) + ']'.repeat(depth)

describe('a message', () => {
  it.each([
    ['nothing', ''],
    ['depth', nested(100_000)],
    ['lists beside each other', nested(90_000) + nested(90_000)],
    ['brackets and commas in a string', JSON.stringify('"\\'.repeat(10) + '[{,'.repeat(2_000_000))],
  ])('may have %s', (_, text) => {
    expect(() => gauge(text)).not.toThrow()
  })

  it.each([
    ['a depth of more than 100,000', nested(100_001), 'nested too deep'],
    ['more than a million values', `[${'0,'.repeat(1_000_001)}0]`, 'too many values'],
    ['depth behind a string that ends', `["\\"",${nested(100_001)}]`, 'nested too deep'],
    ['depth behind a string that does not end', `"\n${nested(100_001)}`, 'nested too deep'],
  ])('may not have %s', (_, text, why) => {
    expect(() => gauge(text)).toThrow(why)
  })

  it('is no smaller for what is said beside it', () => {
    const { pass } = createGauge()
    const say = (text: string, isJson: boolean) => {
      for (const character of text) pass(character.charCodeAt(0), isJson)
    }
    say('['.repeat(100_000), true)
    say(']'.repeat(100_000), false)
    say('"', false)
    expect(() => say('[', true)).toThrow('nested too deep')
  })

  it('is measured from its beginning', () => {
    const { pass, reset } = createGauge()
    for (let times = 0; times < 3; times++) {
      for (const character of `"${'['.repeat(200_000)}`) pass(character.charCodeAt(0), true)
      reset()
      for (const character of '['.repeat(100_000)) pass(character.charCodeAt(0), true)
      reset()
    }
  })
})

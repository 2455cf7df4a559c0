import fc from 'fast-check'
import JSON5 from 'json5'
import { describe, expect, it } from 'vitest'
import { patchText, withSecrets } from '../../src/config/edit.ts'
import { redactRaw } from '../../src/config/redact.ts'

const TEXT = `// The council's gateway.
{
  gateway: {
    port: 18789, // as the proxy knows it
    auth: { mode: 'token', token: 'a-token-that-nobody-sees' },
  },
  agents: { list: [{ id: 'main' }] }, // more to come
  /* nothing
     else */
}
`

describe('a patch', () => {
  it('changes a value and leaves everything else as it was written', () => {
    expect(patchText(TEXT, { gateway: { port: 1 } })).toBe(TEXT.replace('18789', '1'))
  })

  it('adds members behind the last, with the comments where they were', () => {
    expect(patchText(TEXT, { gateway: { bind: 'lan' }, logging: { level: 'debug' } })).toBe(
      `// The council's gateway.
{
  gateway: {
    port: 18789, // as the proxy knows it
    auth: { mode: 'token', token: 'a-token-that-nobody-sees' },
    "bind": "lan"
  },
  agents: { list: [{ id: 'main' }] }, // more to come
  /* nothing
     else */
  logging: {
    "level": "debug"
  }
}
`.replace('"bind"', 'bind'),
    )
  })

  it('removes a member with its line and its comma', () => {
    expect(patchText(TEXT, { gateway: { auth: null } })).toBe(
      TEXT.replace("    auth: { mode: 'token', token: 'a-token-that-nobody-sees' },\n", ''),
    )
    expect(JSON5.parse(patchText('{a:1,b:2,c:3}', { c: null, d: 4 }))).toEqual({ a: 1, b: 2, d: 4 })
  })

  it('removes the last member and adds another, whatever blanks are there', () => {
    for (const text of [
      '{\n  a: 1,\n  b: 2   \n}',
      '{ a: 1, b: 2 }',
      '{a:1,b:2}',
      '{ b: 2   }',
      '{\n  b: 2, // that\n}',
    ])
      expect(JSON5.parse(patchText(text, { b: null, c: 3 })), text).toMatchObject({ c: 3 })
  })

  it('means what RFC 7396 says, whatever the text and the patch', () => {
    const name = fc.oneof(fc.constantFrom('a', 'b', 'c', 'a-b', 'ü', '1'), fc.string({ maxLength: 3 }))
    const { value } = fc.letrec((tie) => ({
      value: fc.oneof(
        { depthSize: 'small' },
        fc.integer(),
        fc.string({ maxLength: 4 }),
        fc.boolean(),
        tie('array'),
        tie('object'),
      ),
      array: fc.array(tie('value'), { maxLength: 3 }),
      object: fc.dictionary(name, tie('value'), { maxKeys: 4, noNullPrototype: true }),
    }))
    const object = fc.dictionary(name, value, { maxKeys: 5, noNullPrototype: true })
    const patch = fc.dictionary(name, fc.oneof(value, fc.constant(null)), { maxKeys: 5, noNullPrototype: true })
    // That the outcome is right is proven inside; here it must come out at all, and read the same when nothing is asked.
    fc.assert(
      fc.property(object, patch, fc.constantFrom(0, 2), (before, asked, space) => {
        const text = JSON5.stringify(before, null, space)
        patchText(text, asked)
        expect(patchText(text, {})).toBe(text)
      }),
      { numRuns: 2000 },
    )
  })

  it('is refused for a text that holds no object', () => {
    expect(() => patchText('[1]', {})).toThrow('the text must hold an object')
    expect(() => patchText('{ nope', {})).toThrow(SyntaxError)
  })
})

describe('a text that comes back as it was shown', () => {
  const shown = (text: string) => redactRaw(text, JSON5.parse(text))

  it('has its secrets again, to the letter', () => {
    const text = `{
  // token: 'an-old-token-somebody-left'
  gateway: { auth: { token: 'a-token-that-\\nnobody-sees' } },
  models: { providers: { a: { apiKey: "sk-12345678", baseUrl: 'https://me:pass%20word1@host/v1' }, b: { apiKey: "sk-12345678" } } },
}`
    expect(shown(text)).not.toMatch(/nobody-sees|12345678|pass%20word1|old-token/)
    expect(withSecrets(shown(text), text)).toBe(text)
  })

  it('has them beside what was changed, and keeps hidden what has no secret at its place', () => {
    const changed = shown(TEXT).replace('18789', '1').replace("'main'", "'main', apiKey: '__OPENCLAW_REDACTED__'")
    const whole = withSecrets(changed, TEXT)
    expect(JSON5.parse(whole)).toMatchObject({
      gateway: { port: 1, auth: { token: 'a-token-that-nobody-sees' } },
      agents: { list: [{ apiKey: '__OPENCLAW_REDACTED__' }] },
    })
  })
})

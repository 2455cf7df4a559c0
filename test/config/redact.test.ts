// biome-ignore-all lint/suspicious/noTemplateCurlyInString: ${VAR} is what the configuration file calls a variable
import fc from 'fast-check'
import JSON5 from 'json5'
import { describe, expect, it } from 'vitest'
import { withSecrets } from '../../src/config/edit.ts'
import { mask, redactConfig, redactRaw } from '../../src/config/redact.ts'
import { Secret } from '../../src/config/secret.ts'

const { marker } = Secret
const redact = (raw: string): string => redactRaw(raw, JSON5.parse(raw))

describe('redaction', () => {
  const raw = `// ours
{
  gateway: {
    auth: { mode: 'token', token: 'canary-one-token', password: "canary-two" }, // token: "canary-three"
    port: 18789, remote: { url: 'wss://me:canary-four@host:1/x?token=canary-five&y=1' },
  },
  /* canary-one-token is in the vault */
  models: { providers: {
    'my-token': { baseUrl: "https://h/v1", api: 'openai-completions', apiKey: 'canary-six\\
x', headers: { Authorization: 'Bearer canary-seven', 'X-Any': 'canary-eight' },
      models: [{ id: 'm', maxTokens: 4096, name: 'canary-one-token' }] },
  } },
  env: { shellEnv: { enabled: false }, vars: { A: 'canary-nine' }, B: 'canary-ten' },
  session: { mainKey: 'main' },
  plugins: { entries: { x: { config: { botToken: 'canary-eleven', webhookUrl: 'http://canary-twelve', pin_password: 1234 } } } },
  channels: { a: { signingKey: '\\u0063anary-thirteen' }, 'canary-one-token': 1 },
  tools: { deny: ['sk-canary-fourteen-0123'] },
}`

  it('leaves no secret in the text or the values, wherever it stands', () => {
    expect(redact(raw)).not.toMatch(/canary|1234/)
    expect(JSON.stringify(redactConfig(JSON5.parse(raw)))).not.toMatch(/canary|1234/)
  })

  it('keeps comments, layout and everything that is no secret', () => {
    const text = redact(raw)
    expect(text).toContain('// ours\n{\n  gateway: {\n')
    expect(text).toContain(`auth: { mode: 'token', token: "${marker}", password: "${marker}" }, // token: "${marker}"`)
    expect(text).toContain(`/* ${marker} is in the vault */`)
    expect(text).toContain(`remote: { url: "wss://${marker}@host:1/x?token=${marker}&y=1" }`)
    expect(text).toContain("session: { mainKey: 'main' }")
    expect(text).toContain("{ id: 'm', maxTokens: 4096")
    expect(text).toContain(`"https://h/v1", api: 'openai-completions'`)
    expect(text.split('\n').length).toBe(raw.split('\n').length - 1)
  })

  it('says the same in the text and in the values', () => {
    expect(JSON5.parse(redact(raw))).toEqual(redactConfig(JSON5.parse(raw)))
  })

  it('replaces a short secret where it stands and nowhere else', () => {
    const text = `{ a: 'main', token: 'main', list: ['main'], /* main */ main: 1 }`
    expect(redact(text)).toBe(`{ a: 'main', token: "${marker}", list: ['main'], /* main */ main: 1 }`)
  })

  it('hides the first of two values for one key, which the parsed file has lost', () => {
    expect(redact(`{ token: 'canary-first', token: 'b' }`)).toBe(`{ token: "${marker}", token: "${marker}" }`)
  })

  it('shows the names of variables', () => {
    const text = '{ token: "${OPENCLAW_GATEWAY_TOKEN}", headers: { Authorization: "Bearer ${KEY}" }, apiKey: "" }'
    expect(redact(text)).toBe(text)
    expect(redact('{ token: "a${B}" }')).toBe(`{ token: "${marker}" }`)
  })

  it('gives nothing away of a text it cannot read', () => {
    for (const text of ['{ token: "canary', '{ token: canary / }', '{ "\\u{}": 1 }', '/* canary']) {
      expect(redactRaw(text, {})).toBe(marker)
    }
  })

  it('is the text itself when nothing is secret, whatever the text', () => {
    fc.assert(
      fc.property(fc.jsonValue(), fc.boolean(), (value, quoted) => {
        const text = quoted ? JSON.stringify({ value }, null, 2) : JSON5.stringify({ value }, null, 1)
        const redacted = redact(text)
        expect(JSON5.parse(redacted)).toEqual(redactConfig(JSON5.parse(text)))
      }),
      { numRuns: 300 },
    )
  })

  it('hides a secret of any spelling', () => {
    fc.assert(
      fc.property(fc.string({ minLength: 9, unit: 'binary' }), fc.boolean(), (tail, quoted) => {
        const parsed = { gateway: { auth: { token: `canary${tail}` } }, note: [`canary${tail}`] }
        const text = quoted ? JSON.stringify(parsed) : JSON5.stringify(parsed, null, 2)
        expect(redact(text)).not.toContain('canary')
      }),
      { numRuns: 300 },
    )
  })

  it('comes to an end with a text of many quotes and comments: with the square of its length it would not', () => {
    const text = `{ a: '${"\\'".repeat(200_000)}', ${'/**/'.repeat(50_000)} b: '${'://a:b'.repeat(20_000)}', c: '${'a'.repeat(300_000)}', /*${'a'.repeat(300_000)}*/ }`
    expect(redact(text)).toHaveLength(text.length)
  })
})

describe('many secrets', () => {
  const many = (key: string) =>
    Object.fromEntries(Array.from({ length: 12_000 }, (_, n) => [`${key}${n}`, `s3cr3t-${n}-and-more-of-it`]))

  it('are hidden in a time that grows with the text: with the number of both it would not come to an end', () => {
    for (const key of ['k', 'a-longer-name-', 's3cr3t-']) {
      const text = JSON.stringify({ tokens: many(key), note: 'see s3cr3t-11999-and-more-of-it' })
      const shown = [redact(text), JSON.stringify(redactConfig(JSON5.parse(text)))]
      expect(shown.map((one) => one.includes('-and-more-of-it'))).toEqual([false, false])
    }
  })

  it('that overlap are hidden as one, and one that begins like another whole', () => {
    const text = `{ a: { token: 'abcdefgh12' }, b: { token: 'gh12345678' }, c: { token: 'abcdefgh' }, d: 'x abcdefgh12345678 y abcdefgh z' }`
    expect(redact(text)).toContain(`"x ${marker} y ${marker} z"`)
  })

  it('that all begin alike hide a text that begins so, whole', () => {
    const text = JSON.stringify({ tokens: many('k'), note: 's3cr3t-1 is how they begin' })
    expect(JSON5.parse(redact(text))).toMatchObject({ note: marker })
  })

  it('that look alike are put back in their order, however many', () => {
    const raw = `{ ${Array.from({ length: 20_000 }, (_, n) => `// token: s3cr3t-${n}\n`).join('')} a: 1 }`
    expect(withSecrets(redact(raw), raw) === raw).toBe(true)
  })
})

describe('a masked text', () => {
  it.each([
    ['redis://:pw@host/0', `redis://${marker}@host/0`],
    ['https://user@host', `https://${marker}@host`],
    ['https://a:p@ss@host/x', `https://${marker}@host/x`],
    ['https://host/a@b', 'https://host/a@b'],
    ['see https://host and me@example.org', 'see https://host and me@example.org'],
    ['https://host/?a=1&api_key=abc#x', `https://host/?a=1&api_key=${marker}#x`],
    ['Bearer abcdef123', `Bearer ${marker}`],
    ['kimi-coding/k2p5', 'kimi-coding/k2p5'],
  ])('%s is shown as %s', (text, shown) => {
    expect(mask(text)).toBe(shown)
  })
})

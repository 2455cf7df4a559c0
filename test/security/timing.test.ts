/** Credentials are compared by their digests: neither the length nor the letters of a guess make a difference, nor an error. */
import { describe, expect, it } from 'vitest'
import { sameSecret } from '../../src/auth/devices.ts'
import { CONNECT, startGateway, TOKEN } from '../support/gateway.ts'

const SECRET = 'kD83-xQ0v_71mZsYw2LtPbR9'
/** As many UTF-16 units as a text, and more bytes. */
const inBytes = (text: string): string[] => [
  'é'.repeat(text.length),
  `${text.slice(0, -1)}é`,
  `ß${text.slice(1)}`,
  `${text.slice(0, -2)}😀`,
  '😀'.repeat(Math.floor(text.length / 2)) + 'x'.repeat(text.length % 2),
  '\ud800'.repeat(text.length),
  `${text.slice(0, -1)}\udfff`,
  '€'.repeat(text.length),
]
const near = (text: string): string[] => [
  '',
  text.slice(1),
  text.slice(0, -1),
  `${text}x`,
  ` ${text}`,
  `${text}\0`,
  text.toUpperCase(),
]

describe('a secret', () => {
  it('is itself and no other, whatever the lengths in characters and in bytes', () => {
    for (const secret of [SECRET, 'Geheimnis-für-Ögedei-0123456789', '密鑰'.repeat(12), '😀'.repeat(12)]) {
      expect(sameSecret(secret, secret)).toBe(true)
      for (const guess of [...inBytes(secret), ...near(secret)]) {
        expect([guess, sameSecret(secret, guess)]).toEqual([guess, guess === secret])
        expect([guess, sameSecret(guess, secret)]).toEqual([guess, guess === secret])
      }
    }
  })

  it('that is guessed in other bytes of the same length is refused like any other', async () => {
    await using gateway = await startGateway()
    const refusal = async (token: string) => {
      const peer = await gateway.open()
      await peer.next()
      const { error } = await peer.request('connect', { ...CONNECT, auth: { token } })
      return { error, close: await peer.closed }
    }
    const usual = await refusal('x'.repeat(TOKEN.length))
    expect(usual.error.message).toMatch(/^unauthorized/)
    // Half a pair is no text of JSON, and is refused before anybody compares.
    const whole = inBytes(TOKEN).filter((guess) => guess.isWellFormed())
    for (const guess of [...whole.slice(0, 4), TOKEN.slice(1)]) expect(await refusal(guess)).toEqual(usual)
  })
})

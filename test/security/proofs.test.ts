/** Proofs of devices that were made by no key, changed on the way, or seen elsewhere. */
import { createHash } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { checkDevice } from '../../src/auth/devices.ts'
import { createDevice } from '../support/device.ts'
import { CONNECT } from '../support/gateway.ts'

type Device = NonNullable<Parameters<typeof checkDevice>[0]>

const NOW = 1_800_000_000_000
const signed = (nonce: string) => ({
  ...{ clientId: CONNECT.client.id, clientMode: CONNECT.client.mode, platform: CONNECT.client.platform },
  ...{ deviceFamily: '', role: 'operator', scopes: CONNECT.scopes, token: 'a-token', nonce },
})
const proofOf = (device: ReturnType<typeof createDevice>, nonce: string) =>
  device.prove(nonce, { token: 'a-token', signedAt: NOW }) as Device

/** The order of the group, and the prime of its field (RFC 8032, 5.1). */
const L = 2n ** 252n + 27742317777372353535851937790883648493n
const P = 2n ** 255n - 19n
const bytesOf = (value: bigint): Buffer => Buffer.from(value.toString(16).padStart(64, '0'), 'hex').reverse()
const numberOf = (bytes: Buffer): bigint => BigInt(`0x${Buffer.from(bytes).reverse().toString('hex')}`)

/** The points whose order divides eight, in every way in which they can be written: what they sign, anybody can sign. */
const SMALL = [
  ...[1n, P - 1n, 0n, P, P + 1n],
  ...[
    '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05',
    'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a',
  ].map((hex) => numberOf(Buffer.from(hex, 'hex'))),
].flatMap((y) => [bytesOf(y), bytesOf(y | (1n << 255n))])

describe('the proof of a device', () => {
  it('holds when nothing about it was changed', () => {
    expect(checkDevice(proofOf(createDevice(), 'n'), signed('n'), NOW).kind).toBe('valid')
  })

  it('that was seen on one socket holds on none of ten thousand others', () => {
    const devices = Array.from({ length: 20 }, createDevice)
    for (let at = 0; at < 10_000; at++) {
      const proof = proofOf(devices[at % 20]!, `nonce-${at % 100}`)
      const other = `nonce-${at + 100}`
      expect(checkDevice(proof, signed(other), NOW).kind).toBe('invalid')
      // Not with the nonce of the other socket written over its own either.
      if (at < 500) expect(checkDevice({ ...proof, nonce: other }, signed(other), NOW).kind).toBe('invalid')
    }
  })

  it('is none in another spelling of its numbers', () => {
    const proof = proofOf(createDevice(), 'n')
    const signature = Buffer.from(proof.signature, 'base64url')
    const s = numberOf(signature.subarray(32))
    for (const more of [s + L, s + 2n * L].filter((value) => value < 2n ** 256n)) {
      const changed = Buffer.concat([signature.subarray(0, 32), bytesOf(more)]).toString('base64url')
      expect(checkDevice({ ...proof, signature: changed }, signed('n'), NOW).kind).toBe('invalid')
    }
    for (const changed of [
      signature.subarray(0, 63),
      Buffer.concat([signature, Buffer.from([0])]),
      Buffer.alloc(0),
      Buffer.alloc(64),
    ])
      expect(checkDevice({ ...proof, signature: changed.toString('base64url') }, signed('n'), NOW).kind).toBe('invalid')
  })

  it('is none with any bit of its signature turned', () => {
    const proof = proofOf(createDevice(), 'n')
    for (let bit = 0; bit < 512; bit++) {
      const changed = Buffer.from(proof.signature, 'base64url')
      changed[bit >> 3]! ^= 1 << (bit & 7)
      expect(checkDevice({ ...proof, signature: changed.toString('base64url') }, signed('n'), NOW).kind).toBe('invalid')
    }
  })

  it('is none by a key that signs for everybody', () => {
    const held: string[] = []
    for (const key of SMALL)
      for (const r of SMALL)
        for (let at = 0; at < 16; at++) {
          const id = createHash('sha256').update(key).digest('hex')
          const nonce = `n${at}`
          const signature = Buffer.concat([r, Buffer.alloc(32)]).toString('base64url')
          const device = { id, publicKey: key.toString('base64url'), signature, signedAt: NOW, nonce }
          if (checkDevice(device, signed(nonce), NOW).kind === 'valid') held.push(key.toString('hex'))
        }
    expect([...new Set(held)]).toEqual([])
  })
})

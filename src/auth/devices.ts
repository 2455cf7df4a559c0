/** Devices: the keys that prove them, and the records of those that were paired. */
import { createHash, createHmac, createPublicKey, timingSafeEqual, verify } from 'node:crypto'
import type { Scope } from '../contract/block.ts'
import type { ConnectParams } from '../contract/connect.ts'
import type { Refusal } from '../contract/errors.ts'
import type { Json, Store } from '../stores/store.ts'

/** How far a device's clock may be off, in milliseconds. */
const SKEW_MS = 120_000

export type DeviceProof =
  | { kind: 'none' }
  | { kind: 'valid'; deviceId: string; publicKey: string }
  | { kind: 'invalid'; reason: string; code: Refusal }

/** What the signature must cover. */
export interface Signed {
  clientId: string
  clientMode: string
  platform: string
  deviceFamily: string
  role: string
  /** As requested, in that order. */
  scopes: readonly string[]
  token: string
  nonce: string
}

const invalid = (reason: string, code: Refusal): DeviceProof => ({ kind: 'invalid', reason, code })

/** The prefix of an Ed25519 public key in SPKI form: what comes before the raw 32 bytes. */
const SPKI = Buffer.from('302a300506032b6570032100', 'hex')

/** Checks a device's proof, in the order and in the words of the reference gateway. The nonce is always required. */
export function checkDevice(device: ConnectParams['device'], signed: Signed, now: number): DeviceProof {
  if (!device) return { kind: 'none' }
  const raw = Buffer.from(device.publicKey, 'base64url')
  if (raw.length !== 32) return invalid('device public key invalid', 'DEVICE_AUTH_PUBLIC_KEY_INVALID')
  if (createHash('sha256').update(raw).digest('hex') !== device.id)
    return invalid('device identity mismatch', 'DEVICE_AUTH_DEVICE_ID_MISMATCH')
  if (Math.abs(now - device.signedAt) > SKEW_MS)
    return invalid('device signature expired', 'DEVICE_AUTH_SIGNATURE_EXPIRED')
  if (!device.nonce) return invalid('device nonce required', 'DEVICE_AUTH_NONCE_REQUIRED')
  if (device.nonce !== signed.nonce) return invalid('device nonce mismatch', 'DEVICE_AUTH_NONCE_MISMATCH')
  const key = publicKey(raw)
  if (!key) return invalid('device public key invalid', 'DEVICE_AUTH_PUBLIC_KEY_INVALID')
  const signature = Buffer.from(device.signature, 'base64url')
  const genuine = payloads(device, signed).some((payload) => verify(null, Buffer.from(payload), key, signature))
  return genuine
    ? { kind: 'valid', deviceId: device.id, publicKey: device.publicKey }
    : invalid('device signature invalid', 'DEVICE_AUTH_SIGNATURE_INVALID')
}

function publicKey(raw: Buffer) {
  try {
    return createPublicKey({ key: Buffer.concat([SPKI, raw]), format: 'der', type: 'spki' })
  } catch {
    return undefined
  }
}

/** What versions 2 and 3 of the signature sign. Version 1 has no nonce and is not taken. */
function payloads(device: NonNullable<ConnectParams['device']>, signed: Signed): string[] {
  const { clientId, clientMode, role, scopes, token, nonce } = signed
  const rest = [device.id, clientId, clientMode, role, scopes.join(','), device.signedAt, token, nonce].join('|')
  const fold = (text: string) => text.trim().replace(/[A-Z]/g, (letter) => letter.toLowerCase())
  return [`v2|${rest}`, `v3|${rest}|${fold(signed.platform)}|${fold(signed.deviceFamily)}`]
}

export interface DeviceRecord {
  deviceId: string
  publicKey: string
  platform: string
  clientId: string
  clientMode: string
  role: string
  scopes: Scope[]
  createdAtMs: number
  approvedAtMs: number
  /** When the token in force was issued; the token itself is derived, never kept. */
  issuedAtMs: number
}

/** The paired devices. Records are small and read at each handshake: they are held in memory and written through. */
export interface Devices {
  get(deviceId: string): DeviceRecord | undefined
  /** Pairs a device, or widens what it was paired for. Durable when it resolves. */
  pair(record: DeviceRecord): Promise<void>
  /** The token of a device: 32 hex digits, the same until its record's `issuedAtMs` or scopes change. */
  token(record: DeviceRecord): string
  isToken(record: DeviceRecord, candidate: string): boolean
}

/**
 * Opens the records of a store.
 * @param secret at least 32 bytes that only this gateway knows: the device tokens are derived from them
 */
export async function openDevices(store: Pick<Store, 'list' | 'put'>, secret: Uint8Array): Promise<Devices> {
  const records = new Map((await store.list('device')).map(({ id, value }) => [id, value as unknown as DeviceRecord]))
  const token = ({ deviceId, role, scopes, issuedAtMs }: DeviceRecord): string =>
    createHmac('sha256', secret)
      .update(JSON.stringify([deviceId, role, scopes, issuedAtMs]))
      .digest('hex')
      .slice(0, 32)
  return {
    get: (deviceId) => records.get(deviceId),
    async pair(record) {
      await store.put('device', record.deviceId, record as unknown as Json)
      records.set(record.deviceId, record)
    },
    token,
    isToken: (record, candidate) => sameSecret(token(record), candidate),
  }
}

const perBoot = crypto.getRandomValues(new Uint8Array(32))

/** Compares two secrets in a time that tells nothing of either, not even their lengths. */
export function sameSecret(a: string, b: string): boolean {
  const digest = (text: string) => createHmac('sha256', perBoot).update(text).digest()
  return timingSafeEqual(digest(a), digest(b))
}

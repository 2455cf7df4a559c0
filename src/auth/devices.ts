/** Devices: the keys that prove them, and the records of those that were paired. */
import { createHash, createHmac, createPublicKey, randomBytes, timingSafeEqual, verify } from 'node:crypto'
import type { Scope } from '../contract/block.ts'
import type { ConnectParams } from '../contract/connect.ts'
import { GatewayError, type Refusal } from '../contract/errors.ts'
import { holds } from '../contract/scopes.ts'
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

/**
 * The points of an order that divides eight, by their y: with one of them for a key anybody can sign anything. OpenSSL
 * takes them, and numbers beyond the prime, which are other spellings of some.
 */
const SIGNED_BY_ALL = new Set([
  '00'.repeat(32),
  `01${'00'.repeat(31)}`,
  `ec${'ff'.repeat(30)}7f`,
  '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05',
  'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a',
])

function isWeak(raw: Buffer): boolean {
  const text = Buffer.from(raw.with(31, raw[31]! & 0x7f)).toString('hex')
  const isBeyond = text.endsWith(`${'ff'.repeat(30)}7f`) && raw[0]! >= 0xed
  return isBeyond || SIGNED_BY_ALL.has(text)
}

function publicKey(raw: Buffer) {
  if (isWeak(raw)) return undefined
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

/** Sockets that are to be closed, since what they came in by is worth nothing any more, or less. */
export interface Revocation {
  principal: string
  /** Only those in this role. */
  role?: string
  /** Only those that came in by this credential. */
  credential?: string
  /** It may send no more: what it has sent, and what has not begun, is dropped. */
  silences?: true
}
export type OnRevoked = (revocation: Revocation) => void

/** What a device is paired for in one role. A device that is paired as both has two, which know nothing of each other. */
export interface DeviceRecord {
  deviceId: string
  publicKey: string
  displayName?: string
  platform: string
  clientId: string
  clientMode: string
  role: string
  /** What it was paired for. */
  scopes: Scope[]
  createdAtMs: number
  approvedAtMs: number
  /** When the token in force was issued; the token itself is derived, never kept. */
  issuedAtMs: number
  /** Random, and new with each token: no clock brings an old one back. Absent in records that are older than this member. */
  tokenId?: string
  /** What the token is worth, where that is less than what the device was paired for. */
  tokenScopes?: Scope[]
  rotatedAtMs?: number
  /** From then on it is as good as unpaired. */
  revokedAtMs?: number
  /** The token before this one, and until when it is taken. */
  previous?: { tokenId?: string; untilMs: number }
}

/** A device that is to be paired, as its proof and its client say. */
export type NewPairing = Pick<
  DeviceRecord,
  'deviceId' | 'publicKey' | 'displayName' | 'platform' | 'clientId' | 'clientMode' | 'role'
> & { granted: readonly Scope[] }

/** The paired devices. Records are small and read at each handshake: they are held in memory and written through. */
export interface Devices {
  /** The record of a device that is paired in this role. */
  get(deviceId: string, role: string): DeviceRecord | undefined
  /** All records, also those whose token was revoked; the newest pairing first. */
  list(): DeviceRecord[]
  /**
   * Pairs a device, or widens what it was paired for: then it keeps its token. Of a pairing whose token was revoked nothing is
   * left. Durable when it resolves.
   */
  pair(pairing: NewPairing): Promise<DeviceRecord>
  /** The token of a device: 32 hex digits, the same until it is rotated or revoked. */
  token(record: DeviceRecord): string
  /**
   * The name of the credential that a text is for this device; undefined if it is none. The same work is done where there is no
   * such device.
   */
  credential(record: DeviceRecord | undefined, candidate: string): string | undefined
  /**
   * Gives a paired device a new token, and takes the old one for a while. With fewer scopes than before the sockets that came in
   * by the old one are closed at once, else when its time is up.
   * @param choose says what it is worth, of the record that is there when no other change of the device is under way
   * @throws GatewayError UNKNOWN_DEVICE, TOKEN_TOO_WIDE, and what `choose` throws: then nothing is changed
   */
  rotate(deviceId: string, role: string, choose: (record: DeviceRecord) => readonly Scope[]): Promise<DeviceRecord>
  /** Ends the token, and closes the sockets of the device in that role. @throws GatewayError UNKNOWN_DEVICE */
  revoke(deviceId: string, role: string): Promise<DeviceRecord>
  /** Gives a device in that role another name. Durable when it resolves. @throws GatewayError UNKNOWN_DEVICE */
  rename(deviceId: string, role: string, displayName: string): Promise<DeviceRecord>
  /**
   * Forgets a device in every role, and closes its sockets. The roles are forgotten one after the other: if the disk refuses in
   * between, it rejects, the device is left in the others, and may be removed again.
   * @throws GatewayError UNKNOWN_DEVICE
   */
  remove(deviceId: string): Promise<void>
  /** Closes the sockets of old tokens whose time is up. To be called each second. */
  sweep(): void
}

export interface DevicesOptions {
  onRevoked?: OnRevoked
  /** How long an old token is taken after a rotation. Milliseconds. */
  overlapMs?: number
  now?(): number
}

const OVERLAP_MS = 60_000

/** What the token of a device is worth. */
export const worthOf = ({ scopes, tokenScopes }: DeviceRecord): readonly Scope[] => tokenScopes ?? scopes

/** Whether its token lets a device send. */
const sends = (record: DeviceRecord): boolean => holds(new Set(worthOf(record)), 'operator.write')

/**
 * Opens the records of a store.
 * @param secret at least 32 bytes that only this gateway knows: the device tokens are derived from them
 */
export async function openDevices(
  store: Pick<Store, 'list' | 'put' | 'remove'>,
  secret: Uint8Array,
  { onRevoked = () => {}, overlapMs = OVERLAP_MS, now = () => Date.now() }: DevicesOptions = {},
): Promise<Devices> {
  /** By device and role. Operators are kept by their device alone. */
  const records = new Map<string, DeviceRecord>()
  const keyOf = (deviceId: string, role: string) => (role === 'operator' ? deviceId : `${deviceId}:${role}`)
  for (const { value } of await store.list('device')) {
    const record = value as unknown as DeviceRecord
    records.set(keyOf(record.deviceId, record.role), record)
  }
  const rolesOf = (deviceId: string) => [...records.values()].filter((record) => record.deviceId === deviceId)

  const derive = (deviceId: string, role: string, tokenId: string | undefined): string =>
    createHmac('sha256', secret)
      .update(JSON.stringify([deviceId, role, tokenId ?? null]))
      .digest('hex')
      .slice(0, 32)
  const nameOf = (deviceId: string, role: string, tokenId: string | undefined) =>
    `device:${deviceId}:${role}:${tokenId ?? ''}`
  const newTokenId = () => randomBytes(16).toString('hex')
  const endOf = ({ deviceId, role, previous }: DeviceRecord, more: Pick<Revocation, 'silences'> = {}) =>
    previous && onRevoked({ principal: deviceId, role, credential: nameOf(deviceId, role, previous.tokenId), ...more })
  /** Nothing is left of it in a role. Nodes send nothing. */
  const revoked = (deviceId: string, role: string) =>
    onRevoked({ principal: deviceId, role, ...(role === 'operator' && { silences: true }) })

  /** A clock that was set back takes an old token for no longer than a rotation does. */
  const isTaken = (untilMs: number) => now() < untilMs && now() >= untilMs - overlapMs

  async function keep(record: DeviceRecord): Promise<DeviceRecord> {
    const key = keyOf(record.deviceId, record.role)
    await store.put('device', key, record as unknown as Json)
    records.set(key, record)
    return record
  }

  /** The last write of each device that is being written. */
  const writing = new Map<string, Promise<unknown>>()

  /** Writes of a device are one after the other, each upon what the one before it wrote. */
  function inTurn<T>(deviceId: string, write: () => Promise<T>): Promise<T> {
    const mine = (writing.get(deviceId) ?? Promise.resolve()).then(write)
    const over = mine
      .catch(() => {})
      .then(() => {
        if (writing.get(deviceId) === over) writing.delete(deviceId)
      })
    writing.set(deviceId, over)
    return mine
  }

  return {
    get(deviceId, role) {
      const record = records.get(keyOf(deviceId, role))
      return record?.revokedAtMs === undefined ? record : undefined
    },
    list: () => [...records.values()].sort((a, b) => b.approvedAtMs - a.approvedAtMs),
    pair: ({ granted, ...device }) =>
      inTurn(device.deviceId, async () => {
        const at = now()
        const before = records.get(keyOf(device.deviceId, device.role))
        const and = (scopes: readonly Scope[]) => [...new Set([...scopes, ...granted])]
        if (before && before.revokedAtMs === undefined)
          return keep({
            ...before,
            ...device,
            scopes: and(before.scopes),
            // Whoever narrowed the token did not speak of what is granted now.
            ...(before.tokenScopes && { tokenScopes: and(before.tokenScopes) }),
            approvedAtMs: at,
          })
        return keep({
          ...device,
          scopes: and([]),
          createdAtMs: before?.createdAtMs ?? at,
          approvedAtMs: at,
          issuedAtMs: at,
          tokenId: newTokenId(),
        })
      }),
    token: ({ deviceId, role, tokenId }) => derive(deviceId, role, tokenId),
    credential(record, candidate) {
      // Of nobody, and without a token before this one, the same work: texts of the same length.
      const { deviceId, role, tokenId, previous } = record ?? NOBODY
      const isCurrent = sameSecret(derive(deviceId, role, tokenId), candidate)
      const isPrevious = sameSecret(derive(deviceId, role, previous?.tokenId ?? NOBODY.tokenId), candidate)
      if (!record) return undefined
      if (isCurrent) return nameOf(deviceId, role, tokenId)
      return previous && isPrevious && isTaken(previous.untilMs) ? nameOf(deviceId, role, previous.tokenId) : undefined
    },
    rotate: (deviceId, role, choose) =>
      inTurn(deviceId, async () => {
        const record = paired(deviceId, role)
        const scopes = choose(record)
        const beyond = scopes.find((scope) => !record.scopes.includes(scope))
        if (beyond) throw new GatewayError('TOKEN_TOO_WIDE', `the device was not paired for ${beyond}`)
        const at = now()
        const { previous: _, tokenScopes: __, ...rest } = record
        const isWhole = record.scopes.every((scope) => scopes.includes(scope))
        const rotated = await keep({
          ...rest,
          issuedAtMs: at,
          rotatedAtMs: at,
          tokenId: newTokenId(),
          ...(!isWhole && { tokenScopes: [...new Set(scopes)] }),
          previous: { ...(record.tokenId !== undefined && { tokenId: record.tokenId }), untilMs: at + overlapMs },
        })
        // Of two rotations in a row the first one's old token has had its time.
        endOf(record)
        if (worthOf(record).some((scope) => !worthOf(rotated).includes(scope)))
          endOf(rotated, sends(record) && !sends(rotated) ? { silences: true } : {})
        return rotated
      }),
    revoke: (deviceId, role) =>
      inTurn(deviceId, async () => {
        const { previous: _, ...rest } = paired(deviceId, role)
        const kept = await keep({ ...rest, revokedAtMs: now() })
        revoked(deviceId, role)
        return kept
      }),
    rename: (deviceId, role, displayName) => inTurn(deviceId, () => keep({ ...paired(deviceId, role), displayName })),
    remove: (deviceId) =>
      inTurn(deviceId, async () => {
        const roles = rolesOf(deviceId)
        if (roles.length === 0) throw new GatewayError('UNKNOWN_DEVICE', 'unknown deviceId')
        for (const { role } of roles) {
          await store.remove('device', keyOf(deviceId, role))
          records.delete(keyOf(deviceId, role))
          revoked(deviceId, role)
        }
      }),
    sweep() {
      for (const [key, record] of records) {
        if (!record.previous || isTaken(record.previous.untilMs)) continue
        endOf(record)
        // What is kept of it on disk is worth nothing by its date.
        const { previous: _, ...rest } = record
        records.set(key, rest)
      }
    },
  }

  /** @throws GatewayError UNKNOWN_DEVICE */
  function paired(deviceId: string, role: string): DeviceRecord {
    const record = records.get(keyOf(deviceId, role))
    if (!record || record.revokedAtMs !== undefined) throw new GatewayError('UNKNOWN_DEVICE', 'unknown deviceId/role')
    return record
  }
}

const perBoot = crypto.getRandomValues(new Uint8Array(32))

/** Of nobody: texts as long as those that are kept of a device. */
const NOBODY: Pick<DeviceRecord, 'deviceId' | 'role' | 'tokenId' | 'previous'> = {
  deviceId: '0'.repeat(64),
  role: 'operator',
  tokenId: '0'.repeat(32),
}

/** Compares two secrets in a time that tells nothing of either, not even their lengths. */
export function sameSecret(a: string, b: string): boolean {
  const digest = (text: string) => createHmac('sha256', perBoot).update(text).digest()
  return timingSafeEqual(digest(a), digest(b))
}

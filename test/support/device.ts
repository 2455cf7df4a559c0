/** A device with a key of its own, and the proofs it can give. */
import { createHash, generateKeyPairSync, sign } from 'node:crypto'
import { CONNECT, type Peer, TOKEN } from './gateway.ts'

export interface Device {
  id: string
  publicKey: string
  /** The `device` member of a `connect` with these parameters. */
  prove(nonce: string, changes?: ProofChanges): object
}

export interface ProofChanges {
  version?: 'v1' | 'v2' | 'v3'
  token?: string
  role?: string
  scopes?: string[]
  signedAt?: number
  platform?: string
  deviceFamily?: string
  clientId?: string
}

export function createDevice(): Device {
  const { publicKey, privateKey } = generateKeyPairSync('ed25519')
  const raw = publicKey.export({ format: 'der', type: 'spki' }).subarray(-32)
  const id = createHash('sha256').update(raw).digest('hex')
  return {
    id,
    publicKey: raw.toString('base64url'),
    prove(nonce, changes = {}) {
      const {
        version = 'v2',
        token = TOKEN,
        role = 'operator',
        scopes = CONNECT.scopes,
        signedAt = Date.now(),
      } = changes
      const { mode, platform } = CONNECT.client
      const { clientId = CONNECT.client.id } = changes
      const rest = [id, clientId, mode, role, scopes.join(','), signedAt, token]
      if (version !== 'v1') rest.push(nonce)
      if (version === 'v3') rest.push(changes.platform ?? platform, changes.deviceFamily ?? '')
      const signature = sign(null, Buffer.from([version, ...rest].join('|')), privateKey).toString('base64url')
      return { id, publicKey: raw.toString('base64url'), signature, signedAt, nonce }
    },
  }
}

/** The nonce that a peer was challenged with. */
export async function nonceOf(peer: Peer): Promise<string> {
  return (await peer.next(({ event }) => event === 'connect.challenge'))['payload'].nonce
}

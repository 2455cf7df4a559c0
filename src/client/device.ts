/** A device: an Ed25519 key, and the proof that a `connect` comes from whoever has it. For Node and for browsers. */

export interface Device {
  /** SHA-256 of the raw public key, in hex. */
  readonly id: string
  /** The raw 32 bytes, in base64url without padding. */
  readonly publicKey: string
  /** The private key as text, to be kept where only its owner reads it; `openDevice` takes it. */
  readonly secret: string
  /** The `device` member of a `connect`. */
  prove(signed: Signed): Promise<object>
}

/** What the proof covers, as it stands in the `connect`. */
export interface Signed {
  client: { id: string; mode: string }
  role: string
  scopes: readonly string[]
  token: string
  nonce: string
}

const encode = (bytes: ArrayBuffer | Uint8Array): string =>
  btoa(String.fromCharCode(...new Uint8Array(bytes)))
    .replaceAll('+', '-')
    .replaceAll('/', '_')
    .replace(/=+$/, '')

const decode = (text: string): Uint8Array<ArrayBuffer> =>
  Uint8Array.from(atob(text.replaceAll('-', '+').replaceAll('_', '/')), (letter) => letter.charCodeAt(0))

/** Makes a new device. Needs WebCrypto with Ed25519: Node, and pages that came over HTTPS or from localhost. */
export async function makeDevice(): Promise<Device> {
  const pair = await crypto.subtle.generateKey('Ed25519', true, ['sign', 'verify'])
  if (!('privateKey' in pair)) throw new TypeError('no pair of keys was made')
  return openDevice(encode(await crypto.subtle.exportKey('pkcs8', pair.privateKey)))
}

/** Opens a device that was made before. @param secret as `Device.secret` told it */
export async function openDevice(secret: string): Promise<Device> {
  const key = await crypto.subtle.importKey('pkcs8', decode(secret), 'Ed25519', true, ['sign'])
  // WebCrypto gives the public half of a private key as a JSON Web Key only.
  const { x: publicKey } = await crypto.subtle.exportKey('jwk', key)
  if (publicKey === undefined) throw new TypeError('this is no Ed25519 key')
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', decode(publicKey)))
  const id = Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('')
  return {
    id,
    publicKey,
    secret,
    async prove({ client, role, scopes, token, nonce }) {
      const signedAt = Date.now()
      const text = ['v2', id, client.id, client.mode, role, scopes.join(','), signedAt, token, nonce].join('|')
      const signature = encode(await crypto.subtle.sign('Ed25519', key, new TextEncoder().encode(text)))
      return { id, publicKey, signature, signedAt, nonce }
    },
  }
}

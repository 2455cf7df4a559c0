/** The handshake: what a peer may send as its first request, and the answer that lets it in. */
import { type Static, Type } from 'typebox'
import type { Protocol } from './errors.ts'
import { NonEmpty } from './shapes.ts'

export const PROTOCOLS = [3, 4] as const satisfies readonly Protocol[]

/** What a client says of itself is shown to everybody who lists who is here. */
const Name = Type.String({ minLength: 1, maxLength: 128 })

/** Unknown members are ignored everywhere: newer clients send more, and the handshake is no place to guess. */
export const ConnectParams = Type.Object({
  /** Missing (the documented short form) = 3. */
  minProtocol: Type.Optional(Type.Integer({ minimum: 1 })),
  maxProtocol: Type.Optional(Type.Integer({ minimum: 1 })),
  client: Type.Optional(
    Type.Object({
      id: Name,
      displayName: Type.Optional(Name),
      version: Name,
      platform: Name,
      deviceFamily: Type.Optional(Name),
      modelIdentifier: Type.Optional(Name),
      mode: Name,
      instanceId: Type.Optional(Name),
    }),
  ),
  caps: Type.Optional(Type.Array(Name, { maxItems: 64 })),
  commands: Type.Optional(Type.Array(Name, { maxItems: 256 })),
  permissions: Type.Optional(Type.Record(Type.String(), Type.Boolean())),
  role: Type.Optional(NonEmpty),
  scopes: Type.Optional(Type.Array(Name, { maxItems: 64 })),
  device: Type.Optional(
    Type.Object({
      /** SHA-256 of the raw public key, lower-case hex. */
      id: NonEmpty,
      /** Ed25519, raw 32 bytes, base64url without padding. */
      publicKey: NonEmpty,
      signature: NonEmpty,
      /** Milliseconds since 1970. */
      signedAt: Type.Integer({ minimum: 0 }),
      nonce: Type.Optional(NonEmpty),
    }),
  ),
  auth: Type.Optional(
    Type.Object({
      token: Type.Optional(Type.String()),
      deviceToken: Type.Optional(Type.String()),
      password: Type.Optional(Type.String()),
    }),
  ),
  /** The documented short form of `auth.token`. */
  token: Type.Optional(Type.String()),
  locale: Type.Optional(Type.String()),
  userAgent: Type.Optional(Type.String()),
})
export type ConnectParams = Static<typeof ConnectParams>

/** `hello-ok.auth`: what the connection may do. Protocol 3 has it only where there is something to tell. */
export const HelloAuth = Type.Object({
  role: Type.String(),
  scopes: Type.Array(Type.String()),
  deviceToken: Type.Optional(Type.String()),
  issuedAtMs: Type.Optional(Type.Integer()),
  /** Scopes that were asked for and not granted; only for connections with the capability `stream-offsets`. */
  denied: Type.Optional(Type.Array(Type.Object({ scope: Type.String(), reason: Type.String() }))),
})
export type HelloAuth = Static<typeof HelloAuth>

export interface ClientInfo {
  id: string
  displayName?: string
  version: string
  platform: string
  deviceFamily?: string
  modelIdentifier?: string
  mode: string
  instanceId?: string
}

/** Who the short form's peer is taken for. */
export const GENERIC_CLIENT: ClientInfo = {
  id: 'gateway-client',
  version: 'unknown',
  platform: 'unknown',
  mode: 'backend',
}

/** The capabilities a connection may name that change what it is sent. */
export const CAPS = {
  toolEvents: 'tool-events',
  /** Leaves out the cumulative `data.text` of assistant events. */
  deltaOnly: 'delta-only',
  streamOffsets: 'stream-offsets',
} as const

/** The highest protocol both sides know, or undefined. A missing bound is taken as 3. */
export function negotiate(min: number | undefined, max: number | undefined): Protocol | undefined {
  const low = min ?? Math.min(3, max ?? 3)
  const high = max ?? Math.max(3, low)
  return PROTOCOLS.findLast((protocol) => protocol >= low && protocol <= high)
}

/** What a connection may send and have waiting, by protocol. Bytes and milliseconds. */
export const LIMITS = {
  preauthPayload: 64 * 1024,
  maxPayload: { 3: 512 * 1024, 4: 8 * 1024 * 1024 },
  maxBufferedBytes: 1.5 * 1024 * 1024,
  message: 256 * 1024,
  /** Of what was said before a message, elsewhere. */
  earlier: 1024 * 1024,
  attachment: 5_000_000,
  /** Of `context` as JSON. */
  context: 16 * 1024,
  history: 6 * 1024 * 1024,
  snapshot: 2 * 1024 * 1024,
  pendingHandshakeFrames: 4,
} as const

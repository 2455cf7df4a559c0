/** From a `connect` to a decision: gathers the verified facts, asks `decide`, and pairs where it says so. */

import type { Secret } from '../config/secret.ts'
import type { Scope } from '../contract/block.ts'
import { type ConnectParams, GENERIC_CLIENT } from '../contract/connect.ts'
import { type CredentialFact, type Decision, decide, type Facts } from './decide.ts'
import { checkDevice, type Devices, sameSecret } from './devices.ts'

/** What the transport knows of a peer before it has said anything. */
export interface PeerFacts {
  /** The socket's own address. */
  address: string
  /** The address behind trusted proxies, else `address`. */
  clientAddress: string
  /** Loopback peer, no forwarding headers, local Host, no foreign Origin. */
  local: boolean
  origin: Facts['origin']
  forwardedByStranger: boolean
  /** The path of the upgrade, without its query. */
  path: string
}

export interface Admitted {
  decision: Extract<Decision, { admitted: true }>
  principal: string
  /** What `hello-ok.auth` says of the device's token. */
  deviceToken: { deviceToken: string; issuedAtMs: number } | undefined
  deviceId: string | undefined
}

export type Outcome = Admitted | { decision: Extract<Decision, { admitted: false }> }

export interface Authenticator {
  authenticate(params: ConnectParams, peer: PeerFacts, nonce: string): Promise<Outcome>
}

export interface AuthenticatorNeeds {
  auth: { mode: 'token' | 'password' | 'none'; token?: Secret; password?: Secret }
  pagesNeedNoDevice: boolean
  devices: Devices
  now(): number
}

export function createAuthenticator({ auth, pagesNeedNoDevice, devices, now }: AuthenticatorNeeds): Authenticator {
  return {
    async authenticate(params, peer, nonce) {
      const client = params.client ?? GENERIC_CLIENT
      const role = params.role ?? 'operator'
      const token = params.auth?.token || params.token || params.auth?.deviceToken || ''
      const device = checkDevice(
        params.device,
        {
          clientId: client.id,
          clientMode: client.mode,
          platform: client.platform,
          deviceFamily: client.deviceFamily ?? '',
          role,
          scopes: params.scopes ?? [],
          token,
          nonce,
        },
        now(),
      )
      const record = device.kind === 'valid' ? devices.get(device.deviceId) : undefined

      function credential(): CredentialFact {
        if (auth.mode === 'none') return 'notNeeded'
        if (auth.mode === 'password') {
          const password = params.auth?.password ?? ''
          if (password && auth.password && sameSecret(auth.password.reveal(), password)) return 'shared'
          if (record && token && devices.isToken(record, token)) return 'device'
          return password || token ? 'wrong' : 'absent'
        }
        if (token === '') return 'absent'
        if (auth.token && sameSecret(auth.token.reveal(), token)) return 'shared'
        return record && devices.isToken(record, token) ? 'device' : 'wrong'
      }

      const decision = decide({
        mode: auth.mode,
        credential: credential(),
        misplaced: auth.mode === 'token' && token === '' && Boolean(params.auth?.password),
        device,
        paired: record && { role: record.role, scopes: record.scopes },
        role,
        requestedScopes: params.scopes,
        clientId: client.id,
        clientMode: client.mode,
        local: peer.local,
        forwardedByStranger: peer.forwardedByStranger,
        origin: peer.origin,
        pagesNeedNoDevice,
      })
      if (!decision.admitted) return { decision }
      if (device.kind !== 'valid')
        return { decision, principal: 'token:shared', deviceToken: undefined, deviceId: undefined }

      let paired = record
      if (decision.pair) {
        const at = now()
        const scopes: Scope[] = [...new Set([...(record?.scopes ?? []), ...decision.granted])]
        paired = {
          deviceId: device.deviceId,
          publicKey: device.publicKey,
          platform: client.platform,
          clientId: client.id,
          clientMode: client.mode,
          role,
          scopes,
          createdAtMs: record?.createdAtMs ?? at,
          approvedAtMs: at,
          issuedAtMs: at,
        }
        await devices.pair(paired)
      }
      return {
        decision,
        principal: decision.asDevice ? device.deviceId : 'token:shared',
        deviceToken:
          decision.issueToken && paired
            ? { deviceToken: devices.token(paired), issuedAtMs: paired.issuedAtMs }
            : undefined,
        deviceId: device.deviceId,
      }
    },
  }
}

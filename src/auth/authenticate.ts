/** From a `connect` to a decision: gathers the verified facts, asks `decide`, and pairs where it says so. */

import type { Secret } from '../config/secret.ts'
import type { Scope } from '../contract/block.ts'
import { type ConnectParams, GENERIC_CLIENT } from '../contract/connect.ts'
import { holds } from '../contract/scopes.ts'
import type { Attempts, Guesser } from './attempts.ts'
import { type Asking, type CredentialFact, type Decision, decide, type Facts, type Likeness } from './decide.ts'
import { checkDevice, type DeviceRecord, type Devices, type NewPairing, sameSecret, worthOf } from './devices.ts'
import { SHARED, tokenPrincipal, userPrincipal } from './principals.ts'
import type { Tokens } from './tokens.ts'

const tooMany = (retryAfterMs: number): Extract<Decision, { admitted: false }> => ({
  admitted: false,
  code: 'INVALID_REQUEST',
  message: 'unauthorized: too many failed authentication attempts (retry later)',
  details: { code: 'AUTH_RATE_LIMITED' },
  retryAfterMs,
  rule: 'too many attempts',
})

/** What the transport knows of a peer before it has said anything. */
export interface PeerFacts {
  /** The socket's own address. */
  address: string
  /** The address behind trusted proxies, else `address`. */
  clientAddress: string
  /** Loopback peer, no forwarding headers, local Host, no page but the gateway's own. */
  local: boolean
  origin: Facts['origin']
  /** Whose wrong credentials are counted together. */
  guesser: Omit<Guesser, 'credential' | 'device'>
  forwardedByStranger: boolean
  /** Whom a listed proxy says this is, by the header that is configured for it. */
  user?: string | undefined
  /** The path of the upgrade, without its query. */
  path: string
}

export interface Admitted {
  decision: Extract<Decision, { admitted: true }>
  principal: string
  /** What `hello-ok.auth` says of the device's token. */
  deviceToken: { deviceToken: string; issuedAtMs: number } | undefined
  deviceId: string | undefined
  /** The name of the credential it came in by, as a `Revocation` names it. Never the credential. */
  credential?: string
  /** The only sessions it can reach, as patterns; absent = all. */
  sessions?: readonly string[]
  /** Whether it would still be let in as what it was: asked again when it is welcomed, since there was time for a revocation. */
  isCurrent?(): boolean
}

export type Outcome = Admitted | { decision: Extract<Decision, { admitted: false }> }

export interface Authenticator {
  authenticate(params: ConnectParams, peer: PeerFacts, nonce: string): Promise<Outcome>
}

/** A device that asks to be paired, as its proof and its client say. */
export type PairingAsk = Omit<NewPairing, 'granted' | 'role'> & Asking

/** Where devices wait for somebody's word. */
export interface WaitingRoom {
  /** Leaves a request. Resolves to its id, or to undefined where no more are kept. Never rejects. */
  ask(ask: PairingAsk, clientAddress: string): Promise<string | undefined>
  /** A device was paired without waiting. */
  pairedSilently(deviceId: string, role: string): void
}

export interface AuthenticatorNeeds {
  auth: {
    mode: 'token' | 'password' | 'none'
    token?: Secret
    password?: Secret
    trustedProxy?: { allowUsers: readonly string[]; scopes: readonly Scope[] }
  }
  pagesNeedNoDevice: boolean
  devices: Devices
  /** Without it there are no named tokens. */
  tokens?: Pick<Tokens, 'check'>
  /** Without it nobody waits. */
  pairings?: WaitingRoom
  attempts: Pick<Attempts, 'begin'>
  pause(ms: number): Promise<void>
  now(): number
}

/** What the credentials of a `connect` came to. */
interface Credential {
  fact: CredentialFact
  /** As a `Revocation` names it. */
  name: string
  looksLike?: Likeness
  /** Of a user whom a proxy names. */
  scopes?: readonly Scope[]
  named?: { id: string; scopes: Facts['named']; sessions: readonly string[] | undefined }
}

export function createAuthenticator(needs: AuthenticatorNeeds): Authenticator {
  const { auth, pagesNeedNoDevice, devices, tokens, pairings, now } = needs

  function ofUser(user: string): Credential {
    const { allowUsers, scopes } = auth.trustedProxy ?? { allowUsers: [], scopes: [] }
    if (allowUsers.length > 0 && !allowUsers.includes(user)) return { fact: 'wrong', name: 'none', looksLike: 'user' }
    return { fact: 'proxy', name: userPrincipal(user), scopes }
  }

  /** Compares with everything there is, whatever fits first, so that the time tells nothing. */
  function judge(
    token: string,
    password: string,
    record: DeviceRecord | undefined,
    user: string | undefined,
  ): Credential {
    if (auth.mode === 'none') return { fact: 'notNeeded', name: 'none' }
    const secret = auth.mode === 'password' ? auth.password : auth.token
    const offered = auth.mode === 'password' ? password : token
    const isShared = secret !== undefined && offered !== '' && sameSecret(secret.reveal(), offered)
    const ofDevice = devices.credential(record, token)
    const check = tokens?.check(token) ?? { kind: 'other', form: 'other' }
    if (isShared) return { fact: 'shared', name: 'shared' }
    // A name counts where nothing else is shown: a wrong credential stays one, whoever vouches.
    if (token === '' && password === '' && user !== undefined) return ofUser(user)
    if (token === '') return { fact: offered === '' ? 'absent' : 'wrong', name: 'none' }
    if (ofDevice !== undefined) return { fact: 'device', name: ofDevice }
    switch (check.kind) {
      case 'known': {
        const { id, status, scopes, sessions } = check.token
        return {
          fact: status === 'valid' ? 'named' : status,
          name: tokenPrincipal(id),
          named: { id, scopes, sessions },
        }
      }
      case 'unknown':
        return { fact: 'wrong', name: 'none', looksLike: 'named' }
      case 'other':
        return { fact: 'wrong', name: 'none', ...(check.form !== 'other' && { looksLike: check.form }) }
    }
  }

  /** Whether what somebody was admitted on still stands. */
  function stands(
    { name, named }: Credential,
    token: string,
    device: { id: string; role: string } | undefined,
    granted: readonly Scope[],
  ): boolean {
    if (named) {
      const check = tokens?.check(token)
      if (check?.kind !== 'known' || check.token.status !== 'valid') return false
    }
    if (!device) return true
    const record = devices.get(device.id, device.role)
    if (!record) return false
    if (!name.startsWith('device:')) return true
    // The name alone would not do: the token before a rotation is taken for a while, and is worth what the new one is.
    return (
      devices.credential(record, token) === name && granted.every((scope) => holds(new Set(worthOf(record)), scope))
    )
  }

  return {
    async authenticate(params, peer, nonce) {
      const client = params.client ?? GENERIC_CLIENT
      const role = params.role ?? 'operator'
      const token = params.auth?.token || params.token || params.auth?.deviceToken || ''
      const proof = checkDevice(
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
      const record = proof.kind === 'valid' ? devices.get(proof.deviceId, role) : undefined
      const password = params.auth?.password ?? ''
      const isGuess = !peer.forwardedByStranger && (token !== '' || password !== '')
      const attempt =
        isGuess && auth.mode !== 'none'
          ? needs.attempts.begin(
              { ...peer.guesser, credential: auth.mode, device: record?.deviceId },
              JSON.stringify([token, password]),
            )
          : undefined
      if (attempt && !attempt.mayTry) {
        await attempt.kept
        return { decision: tooMany(attempt.retryAfterMs) }
      }
      if (attempt && attempt.delayMs > 0) await needs.pause(attempt.delayMs)
      const credential = judge(token, password, record, peer.user)
      // A password that is wrong beside a token that is right is a guess like any other: it would be worth more than the token.
      const isWrong = auth.mode === 'password' && password !== '' && credential.fact !== 'shared'
      if (attempt) await attempt.end(!isWrong && credential.fact !== 'wrong')
      const decision = decide({
        mode: auth.mode,
        credential: credential.fact,
        misplaced: auth.mode === 'token' && token === '' && Boolean(params.auth?.password),
        looksLike: credential.looksLike,
        named: credential.named?.scopes ?? credential.scopes,
        device: proof,
        paired: record && { scopes: record.scopes, tokenScopes: record.tokenScopes },
        role,
        requestedScopes: params.scopes,
        clientId: client.id,
        clientMode: client.mode,
        local: peer.local,
        forwardedByStranger: peer.forwardedByStranger,
        origin: peer.origin,
        pagesNeedNoDevice,
      })

      const device = proof.kind === 'valid' && {
        deviceId: proof.deviceId,
        publicKey: proof.publicKey,
        ...(client.displayName !== undefined && { displayName: client.displayName }),
        platform: client.platform,
        clientId: client.id,
        clientMode: client.mode,
      }
      const requestId =
        device && decision.asks && (await pairings?.ask({ ...device, ...decision.asks }, peer.clientAddress))
      if (!decision.admitted)
        return { decision: requestId ? { ...decision, details: { ...decision.details, requestId } } : decision }

      let paired = record
      if (decision.pair && device) {
        paired = await devices.pair({ ...device, role, granted: decision.granted })
        pairings?.pairedSilently(device.deviceId, role)
      }
      const { named } = credential
      const known = decision.asDevice && device ? { id: device.deviceId, role } : undefined
      return {
        decision,
        principal:
          known?.id ?? (named ? tokenPrincipal(named.id) : credential.fact === 'proxy' ? credential.name : SHARED),
        deviceToken:
          decision.issueToken && paired
            ? { deviceToken: devices.token(paired), issuedAtMs: paired.issuedAtMs }
            : undefined,
        deviceId: device ? device.deviceId : undefined,
        credential: credential.name,
        ...(named?.sessions && { sessions: named.sessions }),
        isCurrent: () => stands(credential, token, known, decision.granted),
      }
    },
  }
}

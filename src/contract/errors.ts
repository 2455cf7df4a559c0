/**
 * Every failure a client can be told of, by name. `code` is one of the few codes that protocol 3 knows, so that old clients
 * still parse it; our own, precise name goes to `details.code`. Only `broker/dispatch.ts` turns one into a frame.
 */
import type { Scope } from './block.ts'

export type WireCode = 'NOT_LINKED' | 'NOT_PAIRED' | 'AGENT_TIMEOUT' | 'INVALID_REQUEST' | 'UNAVAILABLE' | 'FORBIDDEN'

/** The error member of a response frame. */
export interface ErrorShape {
  code: WireCode
  message: string
  details?: unknown
  retryable?: boolean
  retryAfterMs?: number
}

interface Kind {
  code: WireCode
  retryable?: true
  /** For PROTOCOL.md: when it happens and what to do. */
  meaning: string
}

export const ERRORS = {
  INVALID_PARAMS: {
    code: 'INVALID_REQUEST',
    meaning: 'The parameters do not fit the method; the message names each member.',
  },
  INVALID_FRAME: {
    code: 'INVALID_REQUEST',
    meaning: 'The frame is not a request frame; the message says what is wrong.',
  },
  UNKNOWN_METHOD: {
    code: 'INVALID_REQUEST',
    meaning: 'There is no such method; `hello-ok.features.methods` lists them.',
  },
  MISSING_SCOPE: {
    code: 'INVALID_REQUEST',
    meaning:
      'The connection was not granted the scope; connect with a credential that has it. Protocol 4 says FORBIDDEN.',
  },
  UNAUTHORIZED_ROLE: { code: 'INVALID_REQUEST', meaning: 'The method is for the other role (operator or node).' },
  CONNECT_TWICE: { code: 'INVALID_REQUEST', meaning: 'connect is only valid as the first request of a connection.' },
  UNKNOWN_AGENT: {
    code: 'INVALID_REQUEST',
    meaning: 'No agent has that id or name; the message lists the known ones.',
  },
  AGENT_NOT_ALLOWED: {
    code: 'INVALID_REQUEST',
    meaning: 'One agent may not send to the other; the message names the rule of the configuration.',
  },
  CHAIN_LIMIT: {
    code: 'INVALID_REQUEST',
    meaning:
      'Too much has come of one request already: the message says what, on which way, and which key of the configuration sets the limit.',
  },
  WOULD_WAIT_FOR_ITSELF: {
    code: 'INVALID_REQUEST',
    meaning: 'The session is waiting for the very run that would wait for it; send without waiting, or answer.',
  },
  UNKNOWN_CHAIN: {
    code: 'INVALID_REQUEST',
    meaning: 'Nothing of such a chain, or no such run, is known: what has ended is remembered for 24 hours.',
  },
  UNKNOWN_MESSAGE: {
    code: 'INVALID_REQUEST',
    meaning: 'No message between agents has that id: what has ended, and was heard, is remembered for 24 hours.',
  },
  CRON_JOB_NOT_FOUND: { code: 'INVALID_REQUEST', meaning: 'No job has that id; `cron.list` lists them.' },
  INVALID_JOB: {
    code: 'INVALID_REQUEST',
    meaning: 'What a job is made of does not go together, or its time can never come; the message says what.',
  },
  TOO_MANY_JOBS: { code: 'INVALID_REQUEST', meaning: 'There are as many jobs as may be (1,000); remove some.' },
  SESSION_NOT_FOUND: { code: 'INVALID_REQUEST', meaning: 'No session has that key, id or label.' },
  UNKNOWN_RUN: { code: 'INVALID_REQUEST', meaning: 'No run has that id, or it ended more than a day ago.' },
  RUN_NOT_IN_SESSION: { code: 'INVALID_REQUEST', meaning: 'The run belongs to another session; send its sessionKey.' },
  SEND_DENIED: {
    code: 'INVALID_REQUEST',
    meaning: 'The session is read-only (sendPolicy); set it to allow with sessions.patch.',
  },
  MESSAGE_REQUIRED: { code: 'INVALID_REQUEST', meaning: 'A message or an attachment is required.' },
  MESSAGE_TOO_LARGE: {
    code: 'INVALID_REQUEST',
    meaning: 'A message is at most 256 KiB, and what was said before it elsewhere 1 MiB.',
  },
  CONTEXT_TOO_LARGE: { code: 'INVALID_REQUEST', meaning: 'The context of a message is at most 16 KiB of JSON.' },
  BAD_ATTACHMENT: {
    code: 'INVALID_REQUEST',
    meaning: 'Attachments are images in base64 of at most 5,000,000 bytes each, for a model that takes images.',
  },
  IDEMPOTENCY_KEY_REUSED: {
    code: 'INVALID_REQUEST',
    meaning: 'The key was used for another request; the first run is untouched. Use a new key.',
  },
  SESSION_BUSY: {
    code: 'UNAVAILABLE',
    retryable: true,
    meaning: 'The session has as many turns waiting as it keeps; try again after retryAfterMs.',
  },
  TURNS_TOO_LARGE: {
    code: 'UNAVAILABLE',
    retryable: true,
    meaning:
      'The turns of this principal that have not ended have as many bytes as they may; try again after retryAfterMs.',
  },
  SESSION_QUARANTINED: {
    code: 'UNAVAILABLE',
    retryable: true,
    meaning: 'The session failed too often and rests; try again after retryAfterMs.',
  },
  DRAINING: {
    code: 'UNAVAILABLE',
    retryable: true,
    meaning: 'The gateway is stopping and takes no new turns; reconnect after retryAfterMs.',
  },
  STORAGE_FULL: {
    code: 'UNAVAILABLE',
    retryable: true,
    meaning: 'The disk is full: nothing was accepted. Free space, then try again.',
  },
  STORAGE_FAILED: {
    code: 'UNAVAILABLE',
    retryable: true,
    meaning: 'The store could not keep the request: nothing was accepted.',
  },
  TOO_MANY_WAITS: {
    code: 'UNAVAILABLE',
    retryable: true,
    meaning: 'This principal waits for as many runs as it may; the run goes on. Ask again after retryAfterMs.',
  },
  RESUME_UNDER_WAY: {
    code: 'UNAVAILABLE',
    retryable: true,
    meaning: 'This connection is being brought up to date in that session already; wait for that answer.',
  },
  INVALID_SETTING: {
    code: 'INVALID_REQUEST',
    meaning: 'A setting has a value that is not allowed; the message lists the allowed ones.',
  },
  MAIN_SESSION: {
    code: 'INVALID_REQUEST',
    meaning: 'The main session of an agent cannot be deleted; reset it instead.',
  },
  UNKNOWN_APPROVAL: {
    code: 'INVALID_REQUEST',
    meaning: 'No such request waits: it was decided, its time was up, its requester has gone, or there was none.',
  },
  OWN_APPROVAL: {
    code: 'INVALID_REQUEST',
    meaning:
      'Who asked does not decide, unless it has operator.admin: let another connection, of another device, decide.',
  },
  APPROVAL_ID_USED: {
    code: 'INVALID_REQUEST',
    meaning: 'A request of that id waits, or did a while ago; leave the id out to be given one.',
  },
  TOO_MANY_APPROVALS: {
    code: 'UNAVAILABLE',
    retryable: true,
    meaning: 'As many requests wait for approval as this principal may have; try again after retryAfterMs.',
  },
  APPROVALS_CHANGED: {
    code: 'INVALID_REQUEST',
    meaning: 'The exec approvals are not what baseHash says, or it is missing; get them again and repeat the change.',
  },
  APPROVALS_TOO_LARGE: {
    code: 'INVALID_REQUEST',
    meaning: 'The exec approvals are at most 256 KiB of JSON; remove some with exec.approvals.set.',
  },
  UNKNOWN_PAIRING: {
    code: 'INVALID_REQUEST',
    meaning:
      'No such request waits, or it is not for this caller to decide; `device.pair.list` and `node.pair.list` say what waits.',
  },
  OWN_PAIRING: {
    code: 'INVALID_REQUEST',
    meaning:
      'A device approves nothing of its own for another role, unless it has operator.admin: let another device or token do so.',
  },
  TOO_MANY_PAIRINGS: {
    code: 'UNAVAILABLE',
    retryable: true,
    meaning: 'As many requests to be paired wait as are kept; decide some of them, or wait until they expire.',
  },
  UNKNOWN_DEVICE: {
    code: 'INVALID_REQUEST',
    meaning: 'No paired device or node has that id and role, or it is not for this caller to change.',
  },
  UNKNOWN_TOKEN: {
    code: 'INVALID_REQUEST',
    meaning: 'No named token has that id; `tokens.list` says which there are.',
  },
  TOO_MANY_TOKENS: {
    code: 'INVALID_REQUEST',
    meaning: 'As many named tokens are valid as are kept; revoke some of them.',
  },
  TOKEN_TOO_WIDE: {
    code: 'INVALID_REQUEST',
    meaning: 'The token would hold more than it may, or could be turned into more; the message says what.',
  },
  CONFIG_WRITES_OFF: {
    code: 'INVALID_REQUEST',
    meaning: 'Clients may not write the configuration: commands.config is not true in the file.',
  },
  CONFIG_CHANGED: {
    code: 'INVALID_REQUEST',
    meaning: 'The file is not what baseHash says, or baseHash is missing; get it again and repeat the change.',
  },
  CONFIG_INVALID: {
    code: 'INVALID_REQUEST',
    meaning: 'The gateway could not be started with that; `details.issues` has each problem. Nothing was written.',
  },
  CONFIG_WEAKER: {
    code: 'INVALID_REQUEST',
    meaning:
      'The change would let more people in, or more out; `details.weakenings` says what. That is for who edits the file itself.',
  },
  CONFIG_UNREADABLE: { code: 'UNAVAILABLE', meaning: 'The file cannot be read; the message says why.' },
  CONFIG_UNWRITABLE: { code: 'UNAVAILABLE', meaning: 'The file cannot be written; the message says why.' },
  NOT_CONNECTED: { code: 'UNAVAILABLE', meaning: 'No node of that id is connected; `node.list` says which are.' },
  NODE_COMMAND_NOT_ALLOWED: {
    code: 'INVALID_REQUEST',
    meaning: 'The node did not say at its connect that it has the command, or the command is not for `node.invoke`.',
  },
  NODE_TIMED_OUT: { code: 'UNAVAILABLE', meaning: 'The node did not answer in time; what it has done is not known.' },
  NODE_DISCONNECTED: {
    code: 'UNAVAILABLE',
    meaning: 'The node went away before it answered; what it has done is not known.',
  },
  NODE_FAILED: { code: 'UNAVAILABLE', meaning: 'The node could not do it; `details.nodeError` has its words.' },
  TOO_MANY_INVOKES: {
    code: 'UNAVAILABLE',
    retryable: true,
    meaning: 'As many commands are under way on nodes as this principal may have; try again after retryAfterMs.',
  },
  NOT_YOUR_RUN: {
    code: 'INVALID_REQUEST',
    meaning:
      'The node was never asked for that id by this process: nothing was taken. Forget the id; the third time that it is one of another node, the connection is closed.',
  },
  TOO_MANY_SESSIONS: {
    code: 'INVALID_REQUEST',
    meaning: 'The node hears as many sessions as it may; let go of one with `chat.unsubscribe`.',
  },
  TOO_MANY_CALLS: { code: 'INVALID_REQUEST', meaning: 'The run has called as many tools as one run may.' },
  UNKNOWN_TOOL: {
    code: 'INVALID_REQUEST',
    meaning: 'The agent has no such tool, `tools.deny` takes it away, or only a run can call it.',
  },
  UNSUPPORTED_FILE: {
    code: 'INVALID_REQUEST',
    meaning: 'Not one of the files of a workspace that clients may see; `agents.files.list` names them.',
  },
  NO_WORKSPACE: {
    code: 'INVALID_REQUEST',
    meaning: 'The agent has no workspace: set agents.list[].workspace in the configuration.',
  },
  FILE_TOO_LARGE: { code: 'INVALID_REQUEST', meaning: 'A file of a workspace is at most 1 MiB.' },
  WORKSPACE_UNREADABLE: {
    code: 'UNAVAILABLE',
    meaning: 'The file is there and cannot be read, or leads out of the workspace; the message says why.',
  },
  WORKSPACE_UNWRITABLE: {
    code: 'UNAVAILABLE',
    meaning: 'The file cannot be written, as in a read-only workspace; the message says why. Nothing was changed.',
  },
  NOT_SERVED: {
    code: 'INVALID_REQUEST',
    meaning: 'The reference gateway has this, this one does not; `details.instead`, or the message, says what to do.',
  },
  RUN_FAILED: {
    code: 'UNAVAILABLE',
    meaning: 'The run ended in an error; the message has the words of the model or the gateway.',
  },
  RUN_TIMED_OUT: { code: 'AGENT_TIMEOUT', meaning: 'The run reached its deadline; the text so far is in the history.' },
  RATE_LIMITED: {
    code: 'UNAVAILABLE',
    retryable: true,
    meaning: 'More requests than gateway.limits allows; nothing was done. Try again after retryAfterMs.',
  },
  SOCKET_QUOTA: { code: 'UNAVAILABLE', retryable: true, meaning: 'The principal has as many connections as it may.' },
  SESSION_QUOTA: {
    code: 'UNAVAILABLE',
    retryable: true,
    meaning: 'This principal has made as many sessions as it may; delete some.',
  },
  DEDUPE_QUOTA: {
    code: 'UNAVAILABLE',
    retryable: true,
    meaning: 'As many idempotency keys of the principal are remembered as may be; the request was not taken.',
  },
  INTERNAL: {
    code: 'UNAVAILABLE',
    meaning: 'The gateway failed; the message has an incident id that stands in its log.',
  },
} as const satisfies Record<string, Kind>

/** Why a `connect` is refused: the `details.code` of its answer, after which the socket is closed. */
export const REFUSALS = {
  CONNECT_FIRST: 'The first request must be connect.',
  INVALID_PARAMS: 'The parameters of connect do not fit; the message names each member.',
  PROTOCOL_MISMATCH: 'The range of protocols has neither 3 nor 4; `details.expectedProtocol` is the nearest.',
  PROXY_ATTRIBUTION_REQUIRED:
    'Forwarding headers came from an address that is not in gateway.trustedProxies; add the proxy there.',
  INVALID_ROLE: 'The role is neither operator nor node.',
  CONTROL_UI_ORIGIN_NOT_ALLOWED: 'A page must come from the gateway itself or from gateway.controlUi.allowedOrigins.',
  CONTROL_UI_DEVICE_IDENTITY_REQUIRED:
    'A page needs a device key, which browsers give on HTTPS and localhost only; or gateway.controlUi.allowInsecureAuth.',
  DEVICE_IDENTITY_REQUIRED: 'Neither a credential nor a device was shown; send auth.token.',
  DEVICE_AUTH_PUBLIC_KEY_INVALID: 'device.publicKey is no Ed25519 key of 32 bytes in base64url.',
  DEVICE_AUTH_DEVICE_ID_MISMATCH: 'device.id is not the SHA-256 of the public key.',
  DEVICE_AUTH_SIGNATURE_EXPIRED: 'device.signedAt is more than two minutes off; set the clock, or sign anew.',
  DEVICE_AUTH_NONCE_REQUIRED: 'The nonce of connect.challenge must be signed.',
  DEVICE_AUTH_NONCE_MISMATCH: 'The nonce is not the one of this connection.',
  DEVICE_AUTH_SIGNATURE_INVALID: 'The signature does not fit what was sent.',
  AUTH_TOKEN_MISSING: 'No token was sent; send auth.token.',
  AUTH_TOKEN_MISMATCH: 'The token is not the one of this gateway.',
  AUTH_NAMED_TOKEN_EXPIRED: 'The named token has expired; ask for a new one.',
  AUTH_NAMED_TOKEN_REVOKED: 'The named token was revoked; ask for a new one.',
  AUTH_NAMED_TOKEN_ROLE: 'A named token is for operators; a node needs to be paired.',
  AUTH_PASSWORD_MISSING: 'No password was sent; send auth.password.',
  AUTH_PASSWORD_MISMATCH: 'The password is not the one of this gateway.',
  AUTH_RATE_LIMITED: 'Too many wrong credentials came from there; try again after retryAfterMs.',
  PAIRING_REQUIRED: 'The device must be approved first: by device.pair.approve, with details.requestId.',
} as const
export type Refusal = keyof typeof REFUSALS

export type ErrorName = keyof typeof ERRORS

/** A failure that a client is told of, as it stands. */
export class GatewayError extends Error {
  override readonly name = 'GatewayError'
  readonly kind: ErrorName
  readonly details: { [name: string]: unknown } | undefined
  readonly retryAfterMs: number | undefined

  constructor(
    kind: ErrorName,
    message: string,
    more: { details?: { [name: string]: unknown }; retryAfterMs?: number } = {},
  ) {
    super(message)
    this.kind = kind
    this.details = more.details
    this.retryAfterMs = more.retryAfterMs
  }

  /** Whether the same request may be taken later. */
  get isRetryable(): boolean {
    return (ERRORS[this.kind] as Kind).retryable === true
  }

  /** The error member of a response on a connection of this protocol. */
  shape(protocol: Protocol): ErrorShape {
    const { code, retryable }: Kind = ERRORS[this.kind]
    return {
      // Protocol 4 has a code of its own for a missing scope; 3 knows only the five.
      code: this.kind === 'MISSING_SCOPE' && protocol >= 4 ? 'FORBIDDEN' : code,
      message: this.message,
      details: { code: this.kind, ...this.details },
      ...(retryable && { retryable }),
      ...(this.retryAfterMs !== undefined && { retryAfterMs: this.retryAfterMs }),
    }
  }
}

/** Somebody's scopes do not include one that is needed. */
export const missingScope = (scope: Scope): GatewayError =>
  new GatewayError('MISSING_SCOPE', `missing scope: ${scope}`, {
    details: { missingScope: scope, requiredScopes: [scope] },
  })

export type Protocol = 3 | 4

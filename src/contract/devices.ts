/** Devices and nodes: who waits to be paired, who is, and with which token. */
import { type Static, Type } from 'typebox'
import { event, method } from './block.ts'
import { Milliseconds, NonEmpty } from './shapes.ts'

const Optional = Type.Optional(NonEmpty)
const Names = Type.Array(NonEmpty, { maxItems: 256 })
const Scopes = Type.Array(NonEmpty, { maxItems: 64 })
const RequestId = Type.Object({ requestId: NonEmpty })
const DeviceRole = { deviceId: NonEmpty, role: NonEmpty }

/** A device that waits. What it says of itself is shown, and means nothing. */
export const DeviceRequest = Type.Object({
  requestId: Type.String(),
  deviceId: Type.String(),
  publicKey: Type.String(),
  displayName: Type.Optional(Type.String()),
  platform: Type.String(),
  clientId: Type.String(),
  clientMode: Type.String(),
  /** Where it came from, unless that is this machine. */
  remoteIp: Type.Optional(Type.String()),
  role: Type.String(),
  roles: Type.Array(Type.String()),
  /** What an approval may give; for operators only. */
  scopes: Type.Optional(Type.Array(Type.String())),
  /** Always false: what is paired without being asked does not wait. */
  silent: Type.Boolean(),
  /** It was paired before: for less, for another role, or until its token was revoked. */
  isRepair: Type.Boolean(),
  ts: Milliseconds,
})
export type DeviceRequest = Static<typeof DeviceRequest>

const PairedDevice = Type.Object({
  deviceId: Type.String(),
  publicKey: Type.String(),
  displayName: Type.Optional(Type.String()),
  platform: Type.String(),
  clientId: Type.String(),
  clientMode: Type.String(),
  role: Type.String(),
  roles: Type.Array(Type.String()),
  scopes: Type.Optional(Type.Array(Type.String())),
  createdAtMs: Milliseconds,
  approvedAtMs: Milliseconds,
  /** Never the token itself. */
  tokens: Type.Array(
    Type.Object({
      role: Type.String(),
      scopes: Type.Array(Type.String()),
      createdAtMs: Milliseconds,
      rotatedAtMs: Type.Optional(Milliseconds),
      revokedAtMs: Type.Optional(Milliseconds),
    }),
  ),
})
export type PairedDevice = Static<typeof PairedDevice>

/** What a node says of itself. */
const NodeSelf = {
  nodeId: NonEmpty,
  displayName: Optional,
  platform: Optional,
  version: Optional,
  coreVersion: Optional,
  uiVersion: Optional,
  deviceFamily: Optional,
  modelIdentifier: Optional,
  caps: Type.Optional(Names),
  commands: Type.Optional(Names),
  remoteIp: Optional,
}
const NodeRequest = Type.Object({ requestId: Type.String(), ...NodeSelf, isRepair: Type.Boolean(), ts: Milliseconds })
export type NodeRequest = Static<typeof NodeRequest>

const PairedNode = Type.Object({ ...NodeSelf, createdAtMs: Milliseconds, approvedAtMs: Milliseconds })
export type PairedNode = Static<typeof PairedNode>

export const devices = {
  'device.pair.list': method({
    summary:
      'The devices that wait to be paired, and those that are. A device that is no administrator sees itself only.',
    scope: 'operator.pairing',
    unknown: 'ignored',
    params: Type.Object({}),
    result: Type.Object({ pending: Type.Array(DeviceRequest), paired: Type.Array(PairedDevice) }),
  }),
  'device.pair.approve': method({
    summary:
      'Pair a device that waits, with what it asked for as far as the caller holds it. A device that is no administrator approves only itself, and only as an operator.',
    scope: 'operator.pairing',
    unknown: 'refused',
    audited: true,
    params: RequestId,
    result: Type.Object({ requestId: Type.String(), device: PairedDevice }),
  }),
  'device.pair.reject': method({
    summary: 'Refuse a device that waits. It may ask again.',
    scope: 'operator.pairing',
    unknown: 'refused',
    audited: true,
    params: RequestId,
    result: Type.Object({ requestId: Type.String(), deviceId: Type.String() }),
  }),
  'device.pair.remove': method({
    summary:
      'Forget a paired device. Its connections are closed, and what it has sent ends as with device.token.revoke.',
    scope: 'operator.pairing',
    unknown: 'refused',
    audited: true,
    unlisted: true,
    params: Type.Object({ deviceId: NonEmpty }),
    result: Type.Object({ deviceId: Type.String() }),
  }),
  'device.token.rotate': method({
    summary:
      'Give a device a new token, told here once. The old one is taken for a minute more. `scopes` narrows what it is worth, within what the device was paired for and the caller holds.',
    scope: 'operator.pairing',
    unknown: 'refused',
    audited: true,
    params: Type.Object({ ...DeviceRole, scopes: Type.Optional(Scopes) }),
    result: Type.Object({
      deviceId: Type.String(),
      role: Type.String(),
      token: Type.String(),
      scopes: Type.Array(Type.String()),
      rotatedAtMs: Milliseconds,
    }),
  }),
  'device.token.revoke': method({
    summary:
      'End the token of a device. Its connections are closed, and it has to be paired again. Of what it has sent, runs that have begun go on to their end; what waits ends `aborted` with the stopReason `revoked`.',
    scope: 'operator.pairing',
    unknown: 'refused',
    audited: true,
    params: Type.Object(DeviceRole),
    result: Type.Object({ deviceId: Type.String(), role: Type.String(), revokedAtMs: Milliseconds }),
  }),
  'node.pair.request': method({
    summary: 'Ask for a node to be paired. Asked again, it is the same request.',
    scope: 'operator.pairing',
    unknown: 'refused',
    audited: true,
    // Nothing is approved without somebody's word.
    meaningless: ['silent'],
    params: Type.Object(NodeSelf),
    result: Type.Object({ status: Type.Literal('pending'), request: NodeRequest, created: Type.Boolean() }),
  }),
  'node.pair.list': method({
    summary: 'The nodes that wait to be paired, and those that are.',
    scope: 'operator.pairing',
    unknown: 'ignored',
    params: Type.Object({}),
    result: Type.Object({ pending: Type.Array(NodeRequest), paired: Type.Array(PairedNode) }),
  }),
  'node.pair.approve': method({
    summary: 'Pair a node that waits. Its token is told here once.',
    scope: 'operator.pairing',
    unknown: 'refused',
    audited: true,
    params: RequestId,
    result: Type.Object({
      requestId: Type.String(),
      node: Type.Object({ ...PairedNode.properties, token: Type.String() }),
    }),
  }),
  'node.pair.reject': method({
    summary: 'Refuse a node that waits. It may be asked for again.',
    scope: 'operator.pairing',
    unknown: 'refused',
    audited: true,
    params: RequestId,
    result: Type.Object({ requestId: Type.String(), nodeId: Type.String() }),
  }),
  'node.pair.remove': method({
    summary: 'Forget a paired node: its token is worth nothing any more.',
    scope: 'operator.pairing',
    unknown: 'refused',
    audited: true,
    unlisted: true,
    params: Type.Object({ nodeId: NonEmpty }),
    result: Type.Object({ nodeId: Type.String() }),
  }),
  'node.pair.verify': method({
    summary: 'Whether a token is the one of a paired node.',
    scope: 'operator.pairing',
    unknown: 'refused',
    params: Type.Object({ nodeId: NonEmpty, token: NonEmpty }),
    result: Type.Object({ ok: Type.Boolean(), node: Type.Optional(PairedNode) }),
  }),
}

const Decision = Type.Union([
  Type.Literal('approved'),
  Type.Literal('rejected'),
  Type.Literal('expired'),
  Type.Literal('superseded'),
])

export const deviceEvents = {
  'device.pair.requested': event({
    summary: 'A device waits to be paired.',
    scope: 'operator.pairing',
    delivery: 'droppable',
    payload: DeviceRequest,
  }),
  'device.pair.resolved': event({
    summary: 'A device waits no more, or was paired without waiting.',
    scope: 'operator.pairing',
    delivery: 'droppable',
    payload: Type.Object({
      requestId: Type.String(),
      deviceId: Type.String(),
      decision: Decision,
      ts: Milliseconds,
    }),
  }),
  'node.pair.requested': event({
    summary: 'A node waits to be paired.',
    scope: 'operator.pairing',
    delivery: 'droppable',
    payload: NodeRequest,
  }),
  'node.pair.resolved': event({
    summary: 'A node waits no more.',
    scope: 'operator.pairing',
    delivery: 'droppable',
    payload: Type.Object({ requestId: Type.String(), nodeId: Type.String(), decision: Decision, ts: Milliseconds }),
  }),
}

/** Devices and nodes that wait to be paired: who asks, who may say yes, and what comes of it. */
import { randomUUID } from 'node:crypto'
import { waitFor } from 'xstate'
import { type PairingDecision, pairingMachine } from '../../machines/pairing.ts'
import type { WaitingRoom } from '../auth/authenticate.ts'
import { type DeviceRecord, type Devices, worthOf } from '../auth/devices.ts'
import { isToken, tokenPrincipal } from '../auth/principals.ts'
import { fitsHash, makeToken, readTokenText } from '../auth/token-text.ts'
import type { Tokens } from '../auth/tokens.ts'
import { OPERATOR_SCOPES, type PayloadOf, type Scope } from '../contract/block.ts'
import type { DeviceRequest, deviceEvents, NodeRequest, PairedDevice, PairedNode } from '../contract/devices.ts'
import { GatewayError, missingScope } from '../contract/errors.ts'
import { holds, withImplied } from '../contract/scopes.ts'
import type { Json, Store } from '../stores/store.ts'
import type { Caller } from './dispatch.ts'
import { createHost, work } from './host.ts'
import type { Log } from './log.ts'

/** Who decides, lists or changes. */
export type Approver = Pick<Caller, 'principal' | 'scopes'>

type NodeSelf = Omit<NodeRequest, 'requestId' | 'isRepair' | 'ts'>

export interface Pairings extends WaitingRoom {
  /** What an approver may see. */
  devices(approver: Approver): { pending: DeviceRequest[]; paired: PairedDevice[] }
  /** @throws GatewayError UNKNOWN_PAIRING, OWN_PAIRING, TOKEN_TOO_WIDE; MISSING_SCOPE when the approver has nothing to give */
  approveDevice(requestId: string, approver: Approver): Promise<PairedDevice>
  /** Resolves to the id of the device. @throws GatewayError UNKNOWN_PAIRING */
  rejectDevice(requestId: string, approver: Approver): Promise<string>
  /** @throws GatewayError UNKNOWN_DEVICE */
  removeDevice(deviceId: string, approver: Approver): Promise<void>
  /** @throws GatewayError UNKNOWN_DEVICE, MISSING_SCOPE, TOKEN_TOO_WIDE */
  rotate(
    device: { deviceId: string; role: string; scopes: readonly string[] | undefined },
    approver: Approver,
  ): Promise<{ token: string; scopes: readonly Scope[]; rotatedAtMs: number }>
  /** @throws GatewayError UNKNOWN_DEVICE */
  revoke(device: { deviceId: string; role: string }, approver: Approver): Promise<{ revokedAtMs: number }>

  nodes(approver: Approver): { pending: NodeRequest[]; paired: PairedNode[] }
  /** Durable when it resolves. @throws GatewayError TOO_MANY_PAIRINGS */
  requestNode(node: NodeSelf, approver: Approver): Promise<{ request: NodeRequest; created: boolean }>
  /** @throws GatewayError UNKNOWN_PAIRING, OWN_PAIRING, TOKEN_TOO_WIDE */
  approveNode(requestId: string, approver: Approver): Promise<{ node: PairedNode; token: string }>
  rejectNode(requestId: string, approver: Approver): Promise<string>
  /** @throws GatewayError UNKNOWN_DEVICE */
  removeNode(nodeId: string, approver: Approver): Promise<void>
  /** The node whose token this is. */
  verifyNode(nodeId: string, token: string, approver: Approver): PairedNode | undefined
  /** Stops waiting; what waits is still there after the next start. */
  stop(): void
}

export interface PairingsNeeds {
  devices: Devices
  /** Without it nobody comes by a named token. */
  tokens?: Pick<Tokens, 'list'>
  store: Pick<Store, 'list' | 'put' | 'remove'>
  log: Log
  now(): number
  /** Tells an event to those of its audience to whom `may` says yes. */
  tell<E extends keyof typeof deviceEvents>(
    event: E,
    payload: PayloadOf<(typeof deviceEvents)[E]>,
    may: (listener: Approver) => boolean,
  ): void
  /** How long a request waits. Milliseconds. */
  ttlMs?: number
  /** Requests that wait at once. */
  most?: number
  /** Of these, from one address, or asked for by one principal. */
  mostFromOne?: number
}

const TTL_MS = 5 * 60_000
const MOST_PENDING = 64
const MOST_FROM_ONE = 8

/** Somebody who waits. */
type Pending = {
  /** The address it came from, or the principal who asked. */
  from: string
} & ({ kind: 'device'; request: DeviceRequest } | { kind: 'node'; request: NodeRequest })

interface NodeRecord extends PairedNode {
  /** Of the token's secret, which is kept nowhere. */
  hash: string
}

/** Opens the requests that waited when the last process ended, those that still have time. */
export async function openPairings(needs: PairingsNeeds): Promise<Pairings> {
  const { devices, tokens, store, log, now, tell } = needs
  const { ttlMs = TTL_MS, most = MOST_PENDING, mostFromOne = MOST_FROM_ONE } = needs
  const waiting = new Map<string, Pending>()
  const nodes = new Map((await store.list('node')).map(({ id, value }) => [id, value as unknown as NodeRecord]))
  /** What an approval came to, for whoever gave it. */
  const results = new Map<string, { device: DeviceRecord } | { node: NodeRecord; token: string }>()
  /** Why a verdict could not be kept, for whoever gave it. */
  const failures = new Map<string, unknown>()
  /** What was being kept when everything stopped waits for the next process. */
  let isOver = false

  const host = createHost({
    machine: pairingMachine.provide({
      actions: {
        resolve: (_, { requestId, decision }) => resolve(requestId, decision),
        unexpected: (_, { event }) => log.debug({ event }, 'pairing: an event that means nothing now'),
      },
      actors: {
        keep: work(async ({ requestId, verdict, granted }) => {
          try {
            await (verdict === 'approved' ? approve(requestId, granted) : store.remove('pairing', requestId))
          } catch (error) {
            failures.set(requestId, error)
            throw error
          }
        }),
      },
    }),
    onCrash(requestId, error) {
      log.error({ requestId, err: error }, 'a request to be paired crashed; it is forgotten')
      waiting.delete(requestId)
      forget(requestId)
    },
  })

  /** What waits on disk and waits no more is of no harm: it would wait out its time after a restart. */
  function forget(requestId: string): void {
    store
      .remove('pairing', requestId)
      .catch((error: unknown) => log.warn({ requestId, err: error }, 'a request that is over is still on disk'))
  }

  function resolve(requestId: string, decision: PairingDecision): void {
    const pending = waiting.get(requestId)
    waiting.delete(requestId)
    if (!pending) return
    if (decision !== 'rejected') forget(requestId)
    const id = subjectOf(pending)
    log.info({ requestId, decision, [pending.kind]: id }, 'a request to be paired was resolved')
    told(pending.kind, id, requestId, decision)
  }

  function told(kind: Pending['kind'], id: string, requestId: string, decision: PairingDecision): void {
    const may = (listener: Approver) => mayHandle(listener, id)
    const resolved = { requestId, decision, ts: now() }
    if (kind === 'device') tell('device.pair.resolved', { ...resolved, deviceId: id }, may)
    else tell('node.pair.resolved', { ...resolved, nodeId: id }, may)
  }

  /** Makes the record that a request asked for, with what was granted, and nothing that was not shown. */
  async function approve(requestId: string, granted: Scope[]): Promise<void> {
    const pending = waiting.get(requestId)
    if (!pending) throw new Error(`request ${requestId} is not there`)
    if (pending.kind === 'device') {
      const { deviceId, publicKey, displayName, platform, clientId, clientMode, role } = pending.request
      const named = displayName !== undefined && { displayName }
      const device = await devices.pair({
        deviceId,
        publicKey,
        ...named,
        platform,
        clientId,
        clientMode,
        role,
        granted,
      })
      results.set(requestId, { device })
    } else {
      const { requestId: _, isRepair: __, ts: ___, ...self } = pending.request
      const { text, hash } = makeToken('node')
      const createdAtMs = nodes.get(self.nodeId)?.createdAtMs ?? now()
      const node: NodeRecord = { ...self, createdAtMs, approvedAtMs: now(), hash }
      await store.put('node', self.nodeId, node as unknown as Json)
      nodes.set(self.nodeId, node)
      results.set(requestId, { node, token: text.reveal() })
    }
  }

  let last: Promise<unknown> = Promise.resolve()

  /** One request after the other: each sees what the one before it has left on the disk. */
  function wait(pending: Pending): Promise<{ pending: Pending; created: boolean }> {
    const mine = last.then(() => add(pending))
    last = mine.catch(() => {})
    return mine
  }

  /**
   * Adds a request, or finds the one that asks for the same. One that asks for something else takes the place of the former under
   * another id: what is approved is what was shown.
   */
  async function add(pending: Pending): Promise<{ pending: Pending; created: boolean }> {
    const former = [...waiting.values()].find((other) => placeOf(other) === placeOf(pending))
    if (former && sameAs(former) === sameAs(pending)) {
      await refresh(former, pending.request.ts)
      return { pending: former, created: false }
    }
    const others = [...waiting.values()].filter((other) => other !== former)
    if (others.length >= most || others.filter(({ from }) => from === pending.from).length >= mostFromOne)
      throw new GatewayError('TOO_MANY_PAIRINGS', 'too many requests wait to be paired', { retryAfterMs: ttlMs })
    await keep(pending)
    // Not before: had the disk refused, the former would still wait.
    if (former) host.get(former.request.requestId)?.send({ type: 'supersede' })
    open(pending, ttlMs)
    // Nobody is told of what waits for the next process.
    if (isOver) return { pending, created: true }
    const id = subjectOf(pending)
    const { requestId } = pending.request
    log.info(
      { requestId, [pending.kind]: id, from: pending.from },
      `a ${pending.kind} asks to be paired: ${pending.kind}.pair.approve or ${pending.kind}.pair.reject with its requestId`,
    )
    const may = (listener: Approver) => mayHandle(listener, id)
    if (pending.kind === 'device') tell('device.pair.requested', pending.request, may)
    else tell('node.pair.requested', pending.request, may)
    return { pending, created: true }
  }

  const keep = (pending: Pending) => store.put('pairing', pending.request.requestId, pending as unknown as Json)

  /** Lets the time of a request begin anew, on disk first. */
  async function refresh(former: Pending, ts: number): Promise<void> {
    const { requestId } = former.request
    // A word was given: what is being removed from the disk is not to be put back.
    if (!host.get(requestId)?.getSnapshot().matches('waiting')) return
    await keep({ ...former, request: { ...former.request, ts } } as Pending)
    former.request.ts = ts
    host.get(requestId)?.send({ type: 'repeat' })
  }

  function open(pending: Pending, waitsMs: number): void {
    if (isOver) return
    const { requestId } = pending.request
    const wanted = pending.kind === 'device' ? ((pending.request.scopes ?? []) as Scope[]) : []
    waiting.set(requestId, pending)
    host.open(requestId, { requestId, wanted, ttlMs, waitsMs })
  }

  /** What somebody made with a token that has an end would be there when that is over. A revocation is for each alone. */
  function refuseEnding({ principal }: Approver): void {
    const ends = tokens
      ?.list()
      .some(({ id, expiresAtMs }) => expiresAtMs !== undefined && tokenPrincipal(id) === principal)
    if (ends)
      throw new GatewayError(
        'TOKEN_TOO_WIDE',
        'a named token that has an end neither pairs nor rotates: that would outlive it',
      )
  }

  /** Gives a request a word, and waits until it is on disk. Of two words the first one counts. */
  async function say(
    kind: Pending['kind'],
    requestId: string,
    approver: Approver,
    word: { type: 'approve'; holds: Scope[] } | { type: 'reject' },
  ): Promise<Pending> {
    const pending = waiting.get(requestId)
    const actor = host.get(requestId)
    const isOpen =
      pending?.kind === kind && mayHandle(approver, subjectOf(pending)) && actor?.getSnapshot().matches('waiting')
    if (!pending || !actor || !isOpen) throw new GatewayError('UNKNOWN_PAIRING', 'unknown requestId')
    if (word.type === 'approve') {
      refuseOwn(pending, approver)
      refuseEnding(approver)
    }
    actor.send(word)
    const end = await waitFor(actor, (snapshot) => !snapshot.matches('keeping'))
    if (end.status === 'done') return pending
    const failure = failures.get(requestId)
    failures.delete(requestId)
    if (failure !== undefined) throw failure
    throw missingScope(end.context.wanted[0] ?? 'operator.admin')
  }

  function resultOf(requestId: string) {
    const result = results.get(requestId)
    results.delete(requestId)
    if (!result) throw new Error(`request ${requestId} was approved without a result`)
    return result
  }

  /** The records of a device by role, as one. */
  function shown(records: DeviceRecord[]): PairedDevice {
    const [{ deviceId, publicKey, displayName, platform, clientId, clientMode, role, approvedAtMs }] = records as [
      DeviceRecord,
    ]
    const operator = records.find((record) => record.role === 'operator')
    return {
      deviceId,
      publicKey,
      ...(displayName !== undefined && { displayName }),
      platform,
      clientId,
      clientMode,
      role,
      roles: records.map((record) => record.role),
      ...(operator && { scopes: operator.scopes }),
      createdAtMs: Math.min(...records.map((record) => record.createdAtMs)),
      approvedAtMs,
      tokens: records.map((record) => ({
        role: record.role,
        scopes: [...worthOf(record)],
        createdAtMs: record.createdAtMs,
        ...(record.rotatedAtMs !== undefined && { rotatedAtMs: record.rotatedAtMs }),
        ...(record.revokedAtMs !== undefined && { revokedAtMs: record.revokedAtMs }),
      })),
    }
  }

  function mayChange(approver: Approver, deviceId: string, words: string): void {
    if (!mayHandle(approver, deviceId)) throw new GatewayError('UNKNOWN_DEVICE', words)
  }

  const kept = (await store.list('pairing')).map(({ value }) => value as unknown as Pending)
  // The process may have died between the keeping of a request and the end of the one whose place it took.
  const newest = new Map(kept.sort((a, b) => a.request.ts - b.request.ts).map((pending) => [placeOf(pending), pending]))
  for (const pending of kept) {
    // A clock that was set back gives nobody more time than there is.
    const waitsMs = ttlMs - Math.max(0, now() - pending.request.ts)
    if (waitsMs > 0 && newest.get(placeOf(pending)) === pending) open(pending, waitsMs)
    else forget(pending.request.requestId)
  }

  return {
    async ask({ deviceId, publicKey, displayName, platform, clientId, clientMode, role, scopes }, clientAddress) {
      const request: DeviceRequest = {
        requestId: randomUUID(),
        deviceId,
        publicKey,
        ...(displayName !== undefined && { displayName }),
        platform,
        clientId,
        clientMode,
        ...(!/^(127\.|::1$)/.test(clientAddress) && { remoteIp: clientAddress }),
        role,
        roles: [role],
        ...(role === 'operator' && { scopes }),
        silent: false,
        isRepair: devices.list().some((record) => record.deviceId === deviceId),
        ts: now(),
      }
      try {
        const { pending } = await wait({ kind: 'device', request, from: clientAddress })
        return pending.request.requestId
      } catch (error) {
        log.warn({ deviceId, err: error }, 'a device cannot wait to be paired')
        return undefined
      }
    },
    pairedSilently(deviceId, role) {
      for (const pending of waiting.values())
        if (pending.kind === 'device' && pending.request.deviceId === deviceId && pending.request.role === role)
          host.get(pending.request.requestId)?.send({ type: 'supersede' })
      log.info({ device: deviceId, role }, 'a device of this machine was paired without being asked about')
      told('device', deviceId, randomUUID(), 'approved')
    },

    devices(approver) {
      const byDevice = Map.groupBy(devices.list(), ({ deviceId }) => deviceId)
      return {
        pending: [...waiting.values()]
          .flatMap((pending) => (pending.kind === 'device' ? [pending.request] : []))
          .filter(({ deviceId }) => mayHandle(approver, deviceId))
          .sort(newestFirst),
        paired: [...byDevice.values()].map(shown).filter(({ deviceId }) => mayHandle(approver, deviceId)),
      }
    },
    async approveDevice(requestId, approver) {
      await say('device', requestId, approver, { type: 'approve', holds: withImplied(approver.scopes) })
      const { device } = resultOf(requestId) as { device: DeviceRecord }
      const records = devices.list().filter(({ deviceId }) => deviceId === device.deviceId)
      return shown(records.length > 0 ? records : [device])
    },
    rejectDevice: async (requestId, approver) =>
      subjectOf(await say('device', requestId, approver, { type: 'reject' })),
    async removeDevice(deviceId, approver) {
      mayChange(approver, deviceId, 'unknown deviceId')
      await devices.remove(deviceId)
      log.info({ device: deviceId, principal: approver.principal }, 'a device was removed')
    },
    async rotate({ deviceId, role, scopes }, approver) {
      mayChange(approver, deviceId, 'unknown deviceId/role')
      refuseEnding(approver)
      const unknown = scopes?.find((scope) => !OPERATOR_SCOPES.includes(scope as Scope))
      if (unknown !== undefined) throw new GatewayError('TOKEN_TOO_WIDE', `there is no scope ${unknown.slice(0, 64)}`)
      const rotated = await devices.rotate(deviceId, role, (record) => {
        const worth = (scopes as readonly Scope[] | undefined) ?? worthOf(record)
        const beyond = worth.find((scope) => !holds(approver.scopes, scope))
        if (beyond) throw missingScope(beyond)
        return worth
      })
      log.info({ device: deviceId, role, principal: approver.principal }, 'the token of a device was rotated')
      return { token: devices.token(rotated), scopes: worthOf(rotated), rotatedAtMs: rotated.issuedAtMs }
    },
    async revoke({ deviceId, role }, approver) {
      mayChange(approver, deviceId, 'unknown deviceId/role')
      const { revokedAtMs } = await devices.revoke(deviceId, role)
      log.info({ device: deviceId, role, principal: approver.principal }, 'the token of a device was revoked')
      return { revokedAtMs: revokedAtMs! }
    },

    nodes: (approver) => ({
      pending: [...waiting.values()]
        .flatMap((pending) => (pending.kind === 'node' ? [pending.request] : []))
        .filter(({ nodeId }) => mayHandle(approver, nodeId))
        .sort(newestFirst),
      paired: [...nodes.values()]
        .filter(({ nodeId }) => mayHandle(approver, nodeId))
        .sort((a, b) => b.approvedAtMs - a.approvedAtMs)
        .map(withoutHash),
    }),
    async requestNode(self, approver) {
      if (!mayHandle(approver, self.nodeId)) throw missingScope('operator.admin')
      const request: NodeRequest = { requestId: randomUUID(), ...self, isRepair: nodes.has(self.nodeId), ts: now() }
      const { pending, created } = await wait({ kind: 'node', request, from: approver.principal })
      return { request: pending.request as NodeRequest, created }
    },
    async approveNode(requestId, approver) {
      await say('node', requestId, approver, { type: 'approve', holds: withImplied(approver.scopes) })
      const { node, token } = resultOf(requestId) as { node: NodeRecord; token: string }
      return { node: withoutHash(node), token }
    },
    rejectNode: async (requestId, approver) => subjectOf(await say('node', requestId, approver, { type: 'reject' })),
    async removeNode(nodeId, approver) {
      if (!mayHandle(approver, nodeId) || !nodes.has(nodeId)) throw new GatewayError('UNKNOWN_DEVICE', 'unknown nodeId')
      await store.remove('node', nodeId)
      nodes.delete(nodeId)
    },
    verifyNode(nodeId, token, approver) {
      const node = mayHandle(approver, nodeId) ? nodes.get(nodeId) : undefined
      const read = readTokenText(token)
      const fits = read.form === 'whole' && read.kind === 'node' && fitsHash(read.secret, node?.hash)
      return fits && node ? withoutHash(node) : undefined
    },
    stop() {
      isOver = true
      for (const requestId of host.ids()) host.drop(requestId)
    },
  }
}

/**
 * Whether somebody sees and handles what is about a device. Administrators do, and whoever came by a credential that was given out
 * by hand (the shared token, or a named one with `operator.pairing`): pairing for others is what they were given that scope for, and
 * they give no more than they hold. A paired device does so for itself only: clients ask for `operator.pairing` by habit, so most
 * devices hold it without anybody having meant them to let others in.
 */
const mayHandle = ({ principal, scopes }: Approver, id: string): boolean =>
  scopes.has('operator.admin') || isToken(principal) || principal === id

/**
 * A device decides for itself because it can give itself nothing that it does not hold. A role is no scope, and nothing that an
 * operator holds: that is for others to give.
 */
function refuseOwn(pending: Pending, { principal, scopes }: Approver): void {
  const role = pending.kind === 'device' ? pending.request.role : 'node'
  if (principal !== subjectOf(pending) || role === 'operator' || scopes.has('operator.admin')) return
  throw new GatewayError(
    'OWN_PAIRING',
    `a device cannot approve its own request for another role (${role}): another approver has to`,
  )
}

const subjectOf = (pending: Pending): string =>
  pending.kind === 'device' ? pending.request.deviceId : pending.request.nodeId

/** What there is one request of. */
const placeOf = (pending: Pending): string =>
  JSON.stringify([pending.kind, subjectOf(pending), pending.kind === 'device' ? pending.request.role : 'node'])

/** What two requests that ask for the same have in common: what they want, not what they say of themselves. */
const sameAs = ({ kind, request }: Pending): string =>
  JSON.stringify(
    kind === 'device' ? [...((request as DeviceRequest).scopes ?? [])].sort() : [request['caps'], request['commands']],
  )

const newestFirst = (a: { ts: number }, b: { ts: number }): number => b.ts - a.ts

function withoutHash({ hash: _, ...node }: NodeRecord): PairedNode {
  return node
}

/** Who is connected as which node, and what nodes have been asked to do. */
import { createHash, randomUUID } from 'node:crypto'
import { type InvocationEnding, invocationMachine } from '../../machines/invocation.ts'
import type { Devices } from '../auth/devices.ts'
import type { ClientInfo } from '../contract/connect.ts'
import { GatewayError } from '../contract/errors.ts'
import type { RequestFrame } from '../contract/frames.ts'
import type { Result } from '../contract/index.ts'
import type { NodeRow } from '../contract/nodes.ts'
import { holds } from '../contract/scopes.ts'
import { plain } from '../contract/session-key.ts'
import type { Agents } from './agents.ts'
import type { Caller } from './dispatch.ts'
import { createHost } from './host.ts'
import type { Hub } from './hub.ts'
import type { Log } from './log.ts'
import type { Runs } from './runs.ts'
import type { Toolbox } from './toolbox.ts'

/** A node that has come: who it is by its device, and what it says of itself. */
export interface Arrival {
  connId: string
  nodeId: string
  client: ClientInfo
  caps: readonly string[]
  commands: readonly string[]
}

/** A part of an answer, as a node tells it. */
export type Piece = { kind: 'text'; offset: number; text: string } | { kind: 'reasoning'; text: string }

/** An answer that the node of an agent is to give. */
export interface AnswerWanted {
  agentId: string
  runId: string
  /** What the node is asked, made each time it is asked. @param called how many tools were called for it */
  params(called: number): object
  /** Takes a piece. What it throws ends the answer, in its words. */
  hear(piece: Piece): void
}

/** Nobody was there to answer for an agent that is a connector, or nobody came back in time. */
export class ConnectorAway extends Error {
  override readonly name = 'ConnectorAway'
}

/** A command for a node. */
export interface CommandWanted {
  nodeId: string
  command: string
  params: unknown
  timeoutMs: number
  idempotencyKey: string
}

/** What a node says came of it. */
export type Outcome =
  | { ok: true; payload: unknown; payloadJSON: string | null }
  | { ok: false; error: { code?: string; message?: string } | undefined }

type Speaker = Pick<Caller, 'connId' | 'principal'>

export interface Nodes {
  join(node: Arrival): void
  leave(connId: string): void
  /** Those that are connected, the first to come first, then those that are only paired. */
  list(): NodeRow[]
  /** @throws GatewayError UNKNOWN_DEVICE */
  describe(nodeId: string): NodeRow
  /** Names a paired node. @throws GatewayError UNKNOWN_DEVICE, also for who may not */
  rename(nodeId: string, displayName: string, caller: Pick<Caller, 'principal' | 'scopes'>): Promise<void>
  /**
   * Has a node do a command that it declared when it came: there is no other list of what is allowed. `system.run`,
   * `system.which` and `system.execApprovals.*`, which run programs on its machine or say which may run there, need operator.admin;
   * `agent.run` is for runs alone. While it is under way or remembered, the same key of the same principal is the same command.
   * @throws GatewayError NOT_CONNECTED, NODE_COMMAND_NOT_ALLOWED, MISSING_SCOPE, IDEMPOTENCY_KEY_REUSED, TOO_MANY_INVOKES, and
   * NODE_TIMED_OUT, NODE_DISCONNECTED, NODE_FAILED
   */
  invoke(wanted: CommandWanted, caller: Caller): Promise<Result<'node.invoke'>>
  /**
   * Has the node of an agent answer, and resolves to what it says at the end. Of several that fit the one that came first is
   * asked; when it goes away, the answer waits for it, or for any of them as long as nothing has been heard.
   * @throws Error in words for the one who asked, a {@link ConnectorAway} when nobody is there; the signal's reason when that aborts
   */
  ask(wanted: AnswerWanted, signal: AbortSignal): Promise<unknown>
  /** Whether there is a node that would answer for an agent that is a connector. */
  hasNodeFor(agentId: string): boolean
  /** Takes a piece of an answer. False: it is over, and nobody wants it. @throws GatewayError NOT_YOUR_RUN */
  say(id: string, piece: Piece, speaker: Speaker): boolean
  /** Takes the end of something. False: it was over. @throws GatewayError NOT_YOUR_RUN */
  finish(id: string, nodeId: string, outcome: Outcome, speaker: Speaker): boolean
  /**
   * Calls a tool for an answer under way.
   * @throws GatewayError NOT_YOUR_RUN, IDEMPOTENCY_KEY_REUSED, TOO_MANY_CALLS
   */
  callTool(
    call: { id: string; callId: string; name: string; args: object },
    speaker: Speaker,
  ): Promise<{ text: string; isError: boolean }>
  /** Whether a request is a part, or the end, of something under way on that connection. */
  isOfLive(request: RequestFrame, connId: string): boolean
  /** Leaves everything as it is. For the end of the process. */
  stop(): void
}

export interface NodesNeeds {
  agents: Pick<Agents, 'get' | 'resolve'>
  devices: Pick<Devices, 'get' | 'list' | 'rename'>
  hub: Pick<Hub, 'tellNode'>
  runs: Pick<Runs, 'record' | 'heard' | 'away'>
  toolbox: Pick<Toolbox, 'call'>
  log: Log
  now(): number
  monotonic(): number
  /** Closes the connection of a node that speaks for others. */
  expel(connId: string): void
}

interface Here extends Arrival {
  connectedAtMs: number
  /** How often it spoke for what another node was asked. */
  strikes: number
}

/** Something that a node was asked to do, or is to be asked. */
interface Invocation {
  id: string
  command: string
  /** Of the answer that it is; undefined for a command of an operator. */
  runId: string | undefined
  /** The node that was asked last, and its connection as long as it is here. */
  nodeId: string | undefined
  connId: string | undefined
  /** Every node that was asked. */
  asked: Set<string>
  /** It was asked, and has said nothing of it since. */
  isAwaited: boolean
  /** The node has said something of it: nobody else can take over. */
  isBegun: boolean
  fits(node: Here): boolean
  params(called: number): unknown
  hear(piece: Piece): void
  timeoutMs: number
  idempotencyKey: string
  outcome: Extract<Outcome, { ok: true }> | undefined
  refused: Extract<Outcome, { ok: false }>['error']
  ended: PromiseWithResolvers<{ ending: InvocationEnding; error: string | null }>
  over: AbortController
  /** The tools it called, by the ids of the calls. */
  calls: Map<string, { asked: string; outcome: Promise<{ text: string; isError: boolean }> }>
}

interface Remembered {
  /** The principal whose command it was. */
  by: string
  fingerprint: string
  answer: Promise<Result<'node.invoke'>>
  /** Monotonic ms; undefined while it is under way. */
  endedAt: number | undefined
  /** Characters of what came of it. */
  size: number
}

/** Strikes until the connection is closed. */
const MOST_STRIKES = 3
/** Ids of what is over by which a late word is known for one. */
const MOST_PAST = 10_000
/** Commands that one principal may have under way. */
const MOST_UNDER_WAY = 64
/** Tools that one answer may call. */
const MOST_CALLS = 256
const REMEMBERED_MS = 5 * 60_000
const MOST_REMEMBERED = 1_000
const MOST_REMEMBERED_SIZE = 16 * 1024 * 1024
/** Run programs, or say which there are, or which may be run without a question. */
const OF_THE_SYSTEM = new Set(['system.run', 'system.which', 'system.execApprovals.get', 'system.execApprovals.set'])
const AGENT_RUN = 'agent.run'

export function createNodes(needs: NodesNeeds): Nodes {
  const { agents, devices, hub, runs, toolbox, log, now, monotonic } = needs
  /** By connection, the first to come first. */
  const here = new Map<string, Here>()
  const live = new Map<string, Invocation>()
  /** Who was asked for what is over, the oldest first. */
  const past = new Map<string, ReadonlySet<string>>()
  const remembered = new Map<string, Remembered>()
  let rememberedSize = 0

  const get = (id: string): Invocation => {
    const invocation = live.get(id)
    if (!invocation) throw new Error(`invoke ${id} is not live`)
    return invocation
  }

  const host = createHost({
    machine: invocationMachine.provide({
      actions: {
        ask: (_, { id }) => {
          const invocation = get(id)
          const { connId, nodeId, command, timeoutMs, idempotencyKey } = invocation
          if (connId === undefined || nodeId === undefined) return
          invocation.asked.add(nodeId)
          invocation.isAwaited = true
          const params = invocation.params(invocation.calls.size)
          hub.tellNode(connId, 'node.invoke.request', {
            ...{ id, nodeId, command, timeoutMs, idempotencyKey },
            ...(params !== undefined && { paramsJSON: JSON.stringify(params) }),
          })
        },
        callOff: (_, { id, reason }) => {
          const { connId } = get(id)
          if (connId !== undefined) hub.tellNode(connId, 'node.invoke.cancel', { id, reason })
        },
        settle: (_, { id, ending, error }) => end(get(id), ending, error),
        unexpected: (_, { id, event }) => log.debug({ id, event }, 'invocation: an event that means nothing now'),
      },
    }),
    onCrash(id, error) {
      log.error({ id, err: error }, 'what a node was asked to do crashed')
      const invocation = live.get(id)
      if (invocation) end(invocation, 'failed', 'internal error: what the node was asked to do crashed')
    },
  })

  function end(invocation: Invocation, ending: InvocationEnding, error: string | null): void {
    const { id, asked, ended, over } = invocation
    live.delete(id)
    past.set(id, asked)
    if (past.size > MOST_PAST) past.delete(past.keys().next().value!)
    over.abort()
    ended.resolve({ ending, error })
  }

  /** The connection that stands for a device: a newer one takes the place of one that is perhaps dead already. */
  const current = (nodeId: string): Here | undefined => [...here.values()].findLast((node) => node.nodeId === nodeId)

  const pairedName = (nodeId: string): string | undefined => devices.get(nodeId, 'node')?.displayName

  /**
   * Whether a node is the one that answers for an agent: by its device, or by the name that stands in its pairing. What it calls
   * itself when it comes is no reason to give it the words of others.
   */
  function answersFor(node: Here, agentId: string, wanted: string | undefined): boolean {
    if (!node.caps.includes('agent') || !node.commands.includes(AGENT_RUN)) return false
    const name = pairedName(node.nodeId)
    if (wanted === undefined) return name !== undefined && agents.resolve(name) === agentId
    return node.nodeId === wanted || (name !== undefined && plain(name.trim()) === plain(wanted.trim()))
  }

  /** Who is to be asked now. */
  function find({ nodeId, isBegun, fits }: Invocation): Here | undefined {
    for (const node of here.values())
      if (current(node.nodeId) === node && (!isBegun || node.nodeId === nodeId) && fits(node)) return node
    return undefined
  }

  /** Gives something to a node that is here. */
  function hand(invocation: Invocation, { nodeId, connId }: Here): void {
    Object.assign(invocation, { nodeId, connId })
    host.get(invocation.id)?.send({ type: 'back' })
  }

  function open(
    wanted: Pick<
      Invocation,
      'command' | 'runId' | 'nodeId' | 'fits' | 'params' | 'hear' | 'timeoutMs' | 'idempotencyKey'
    >,
    graceMs: number,
  ): Invocation {
    const invocation: Invocation = {
      ...wanted,
      id: randomUUID(),
      connId: undefined,
      asked: new Set(),
      isAwaited: false,
      isBegun: false,
      outcome: undefined,
      refused: undefined,
      ended: Promise.withResolvers(),
      over: new AbortController(),
      calls: new Map(),
    }
    const node = find(invocation)
    if (node) Object.assign(invocation, { nodeId: node.nodeId, connId: node.connId })
    const { id, timeoutMs } = invocation
    live.set(id, invocation)
    host.open(id, { id, isThere: node !== undefined, timeoutMs, graceMs })
    return invocation
  }

  /** What a node speaks of, if it is under way on that connection; undefined if it is over, or was given to somebody else. */
  function spokenOf(id: string, { connId, principal }: Speaker): Invocation | undefined {
    const invocation = live.get(id)
    if (invocation?.connId === connId) return invocation
    const asked = invocation?.asked ?? past.get(id)
    if (asked?.has(principal)) return undefined
    const node = here.get(connId)
    // What nobody knows may be its own from before this process: only what is another node's counts against it.
    if (node && asked) {
      node.strikes += 1
      log.warn({ connId, nodeId: principal, strikes: node.strikes }, 'a node spoke for a run that is not its own')
      // It is told why before it is shown out.
      if (node.strikes === MOST_STRIKES) setImmediate(() => needs.expel(connId))
    }
    throw new GatewayError('NOT_YOUR_RUN', 'this node was not asked for that')
  }

  /** The node is at it. */
  function begin(invocation: Invocation): void {
    invocation.isBegun = true
    if (!invocation.isAwaited) return
    invocation.isAwaited = false
    host.get(invocation.id)?.send({ type: 'heard' })
  }

  function row(nodeId: string): NodeRow | undefined {
    const node = current(nodeId)
    const record = devices.get(nodeId, 'node')
    if (!node && !record) return undefined
    const { version, deviceFamily, modelIdentifier } = node?.client ?? {}
    const displayName = record?.displayName ?? node?.client.displayName
    const platform = node?.client.platform ?? record?.platform
    return {
      nodeId,
      ...(displayName !== undefined && { displayName }),
      ...(platform !== undefined && { platform }),
      ...(version !== undefined && { version }),
      ...(deviceFamily !== undefined && { deviceFamily }),
      ...(modelIdentifier !== undefined && { modelIdentifier }),
      caps: [...new Set(node?.caps)].sort(),
      commands: [...new Set(node?.commands)].sort(),
      ...(node && { connectedAtMs: node.connectedAtMs }),
      paired: record !== undefined,
      connected: node !== undefined,
    }
  }

  function forgetAnswers(): void {
    const at = monotonic()
    for (const [key, { endedAt, size }] of remembered) {
      if (endedAt === undefined) continue
      const isOld = at - endedAt > REMEMBERED_MS
      if (!isOld && remembered.size <= MOST_REMEMBERED && rememberedSize <= MOST_REMEMBERED_SIZE) continue
      remembered.delete(key)
      rememberedSize -= size
    }
  }

  /** Asks once, and says how it went in the words that clients know. */
  async function command(wanted: CommandWanted): Promise<Result<'node.invoke'>> {
    const { nodeId, command } = wanted
    const invocation = open(
      {
        ...wanted,
        runId: undefined,
        fits: (node) => node.nodeId === nodeId,
        params: () => wanted.params,
        hear() {},
      },
      0,
    )
    const { ending, error } = await invocation.ended.promise
    switch (ending) {
      case 'answered': {
        const { payload, payloadJSON } = invocation.outcome!
        return { ok: true, nodeId, command, ...(payload !== undefined && { payload }), payloadJSON }
      }
      case 'timedOut': {
        const message = 'node invoke timed out'
        throw new GatewayError('NODE_TIMED_OUT', message, { details: { nodeError: { code: 'TIMEOUT', message } } })
      }
      case 'lost':
      case 'cancelled':
        throw new GatewayError('NODE_DISCONNECTED', `node disconnected (${command})`)
      case 'failed':
        throw new GatewayError('NODE_FAILED', error ?? 'node invoke failed', {
          details: { nodeError: invocation.refused ?? null },
        })
    }
  }

  return {
    join(arrival) {
      const node: Here = { ...arrival, connectedAtMs: now(), strikes: 0 }
      here.set(node.connId, node)
      for (const invocation of [...live.values()]) {
        const isItsOwn = invocation.nodeId === node.nodeId
        const isFree = invocation.connId === undefined && !invocation.isBegun
        if (!(isItsOwn || isFree) || !invocation.fits(node)) continue
        // A command may have been done already; an answer says how much of it has arrived.
        if (invocation.runId === undefined) invocation.connId = node.connId
        else hand(invocation, node)
      }
    },
    leave(connId) {
      if (!here.delete(connId)) return
      for (const invocation of [...live.values()]) {
        if (invocation.connId !== connId) continue
        invocation.connId = undefined
        host.get(invocation.id)?.send({ type: 'lost' })
        const other = live.has(invocation.id) ? find(invocation) : undefined
        if (other) hand(invocation, other)
      }
    },
    list() {
      const connected = new Set([...here.values()].map(({ nodeId }) => nodeId))
      const paired = devices.list().filter(({ role, revokedAtMs }) => role === 'node' && revokedAtMs === undefined)
      const ids = new Set([...connected, ...paired.map(({ deviceId }) => deviceId)])
      return [...ids].map(row).filter((node) => node !== undefined)
    },
    describe(nodeId) {
      const node = row(nodeId)
      if (!node) throw new GatewayError('UNKNOWN_DEVICE', 'unknown nodeId')
      return node
    },
    async rename(nodeId, displayName, { principal, scopes }) {
      // The name says for which agent a node may answer: no device gives itself one.
      const may = scopes.has('operator.admin') || principal.startsWith('token:')
      if (!may || !devices.get(nodeId, 'node')) throw new GatewayError('UNKNOWN_DEVICE', 'unknown nodeId')
      await devices.rename(nodeId, 'node', displayName)
      // It may be the one that somebody waits for.
      for (const invocation of [...live.values()]) {
        const node = invocation.connId === undefined ? find(invocation) : undefined
        if (node) hand(invocation, node)
      }
    },
    async invoke(wanted, { principal, scopes }) {
      forgetAnswers()
      const { nodeId, command: name, idempotencyKey, params } = wanted
      const key = JSON.stringify([principal, idempotencyKey])
      const fingerprint = createHash('sha256')
        .update(JSON.stringify([nodeId, name, params]))
        .digest('base64')
      const known = remembered.get(key)
      if (known && known.fingerprint !== fingerprint)
        throw new GatewayError('IDEMPOTENCY_KEY_REUSED', 'the idempotencyKey was used for another request')
      if (known) return known.answer
      const node = current(nodeId)
      if (!node) throw new GatewayError('NOT_CONNECTED', 'node not connected')
      const refuse = (reason: string) =>
        new GatewayError('NODE_COMMAND_NOT_ALLOWED', 'node command not allowed', { details: { reason, command: name } })
      if (!node.commands.includes(name)) throw refuse('command not declared by node')
      if (name === AGENT_RUN) throw refuse('agents are asked by chat.send and agent')
      if (OF_THE_SYSTEM.has(name) && !holds(scopes, 'operator.admin'))
        throw new GatewayError('MISSING_SCOPE', 'missing scope: operator.admin', {
          details: { missingScope: 'operator.admin', requiredScopes: ['operator.admin'] },
        })
      const underWay = [...remembered.values()].filter((one) => one.endedAt === undefined && one.by === principal)
      if (underWay.length >= MOST_UNDER_WAY)
        throw new GatewayError('TOO_MANY_INVOKES', 'too many commands are under way on nodes', { retryAfterMs: 1_000 })
      const entry: Remembered = { by: principal, fingerprint, answer: command(wanted), endedAt: undefined, size: 0 }
      remembered.set(key, entry)
      const over = (size: number) => {
        Object.assign(entry, { endedAt: monotonic(), size })
        rememberedSize += size
      }
      entry.answer.then(
        (answer) => over(JSON.stringify(answer).length),
        () => over(0),
      )
      return entry.answer
    },
    async ask({ agentId, runId, params, hear }, signal) {
      signal.throwIfAborted()
      const connector = agents.get(agentId)?.connector
      if (!connector) throw new Error(`the agent ${agentId} is no connector`)
      const invocation = open(
        {
          ...{ command: AGENT_RUN, runId, nodeId: undefined, params, hear, timeoutMs: 0, idempotencyKey: runId },
          fits: (node) => answersFor(node, agentId, connector.node),
        },
        connector.graceMs,
      )
      const onAbort = () => host.get(invocation.id)?.send({ type: 'cancel', reason: 'nobody waits for it any more' })
      signal.addEventListener('abort', onAbort, { once: true })
      try {
        const { ending, error } = await invocation.ended.promise
        signal.throwIfAborted()
        if (ending === 'answered') return invocation.outcome!.payload
        if (ending === 'failed') throw new Error(error ?? `the connector of ${agentId} failed`)
        throw new ConnectorAway(`the connector of ${agentId} is not connected (waited ${connector.graceMs / 1_000} s)`)
      } finally {
        signal.removeEventListener('abort', onAbort)
      }
    },
    hasNodeFor(agentId) {
      const connector = agents.get(agentId)?.connector
      return connector !== undefined && [...here.values()].some((node) => answersFor(node, agentId, connector.node))
    },
    say(id, piece, speaker) {
      const invocation = spokenOf(id, speaker)
      if (!invocation) return false
      begin(invocation)
      try {
        invocation.hear(piece)
      } catch (error) {
        host.get(id)?.send({ type: 'break', error: (error as Error).message })
        return false
      }
      return true
    },
    finish(id, nodeId, outcome, speaker) {
      if (nodeId !== speaker.principal) throw new GatewayError('NOT_YOUR_RUN', 'nodeId mismatch')
      const invocation = spokenOf(id, speaker)
      if (!invocation) return false
      if (outcome.ok) {
        invocation.outcome = outcome
        host.get(id)?.send({ type: 'answer' })
      } else {
        invocation.refused = outcome.error
        const { message, code } = outcome.error ?? {}
        host.get(id)?.send({ type: 'refuse', error: message ?? code ?? 'node invoke failed' })
      }
      return true
    },
    async callTool({ id, callId, name, args }, speaker) {
      const isOver = { text: 'this answer is over: nobody waits for it', isError: true }
      const invocation = spokenOf(id, speaker)
      if (!invocation) return isOver
      const { runId, calls, over } = invocation
      const run = runId === undefined ? undefined : runs.record(runId)
      if (!run)
        return { text: 'tools are called for an answer to an agent’s turn, and for nothing else', isError: true }
      const asked = createHash('sha256')
        .update(JSON.stringify([name, args]))
        .digest('base64')
      const known = calls.get(callId)
      if (known && known.asked !== asked)
        throw new GatewayError('IDEMPOTENCY_KEY_REUSED', 'the callId was used for another call')
      if (known) return known.outcome
      if (calls.size >= MOST_CALLS)
        throw new GatewayError('TOO_MANY_CALLS', `an answer may call ${MOST_CALLS} tools at the most`)
      // What a tool has done cannot be taken over by somebody who does not know of it.
      begin(invocation)
      const call = async () => {
        try {
          const asking = { id: callId, name, arguments: JSON.stringify(args) }
          const outcome = await runs.away(run.runId, () => toolbox.call(asking, run, over.signal))
          if (outcome.heard) runs.heard(run.runId, outcome.heard)
          return { text: outcome.text, isError: outcome.isError }
        } catch (error) {
          if (over.signal.aborted) return isOver
          throw error
        }
      }
      const outcome = call()
      calls.set(callId, { asked, outcome })
      return outcome
    },
    isOfLive({ method, params }, connId) {
      if (method !== 'node.event' && method !== 'node.invoke.result') return false
      const given = params as { id?: unknown; payload?: { id?: unknown } | null } | null | undefined
      const id = method === 'node.event' ? given?.payload?.id : given?.id
      return typeof id === 'string' && live.get(id)?.connId === connId
    },
    stop() {
      for (const id of host.ids()) host.drop(id)
      live.clear()
    },
  }
}

/**
 * The dialect of the Kurultai clients, where `gateway.compat.kurultai` asks for it: how their frames are read, and how what they hear
 * is put. It stands between a socket and the broker and changes only connections that show that they need it. It decides nothing:
 * what comes in by it is checked like every other frame, and what goes out is what the peer may hear, or less.
 */
import type { Wire } from '../broker/peer.ts'
import { LIMITS } from '../contract/connect.ts'
import { decode, type Incoming, type RequestFrame } from '../contract/frames.ts'
import { scan } from '../contract/json-bounds.ts'
import { type AgentNames, agentIn, canonical } from '../contract/session-key.ts'

export interface Dialect {
  /** Begins to interpret between a socket that came on this path and the broker. */
  interpret(path: string, wire: Wire): Interpreter
}

export interface Interpreter {
  /** What the broker speaks to in place of the socket. */
  wire: Wire
  /** Reads one frame, the bytes of its text. Never throws. */
  read(bytes: Uint8Array): Incoming
  /** The socket is gone. */
  gone(): void
}

interface EventFrame {
  type: string
  event: string
  payload: {
    sessionKey?: string
    runId?: string
    stream?: string
    state?: string
    data?: { delta?: unknown; text?: unknown }
  }
  seq: number
}

/** Where the clients connect whose challenge and events look different. */
const OWN_PATH = '/ws'
/** A block of more characters is told before it is whole. */
const LONGEST_BLOCK = 16_384
/** Sessions of bridges that are remembered; who opened them first is forgotten first. */
const MOST_OPENED = 10_000

export function createDialect(agents: AgentNames): Dialect {
  const opened = createOpened()

  /** The canonical key of a session; undefined when no agent has it. */
  function keyOf(sessionKey: unknown, agentId?: unknown): string | undefined {
    if (typeof sessionKey !== 'string') return undefined
    const isBare = typeof agentId === 'string' && agentIn(sessionKey) === undefined
    try {
      return canonical(isBare ? `agent:${agentId}:${sessionKey}` : sessionKey, agents).key
    } catch {
      return undefined
    }
  }

  /** An event as the heartbeat monitor knows it. */
  function asEvt(frame: EventFrame): object {
    const agentId = frame.event === 'agent' ? agentIn(keyOf(frame.payload.sessionKey) ?? '') : undefined
    return { ...frame, type: 'evt', payload: { ...frame.payload, ...(agentId !== undefined && { agentId }) } }
  }

  return {
    interpret(path, wire) {
      let isWelcome = false
      let hasSpoken = false
      let client: { id?: unknown; mode?: unknown } = {}
      /** The sessions it has asked to send to, by the id of the request, until that is answered. */
      const asked = new Map<string, string>()
      /** Takes an event in place of the socket. */
      let hear: ((frame: EventFrame) => void) | undefined
      const say = (frame: object) => wire.sendShared(Buffer.from(JSON.stringify(frame)), '')
      const bridge = createBridgeEar(say, (sessionKey) => {
        const key = keyOf(sessionKey)
        return key !== undefined && opened.hears(bridge, key)
      })
      const isBridge = () => client.id === 'discord-bridge'

      /** What it says decides how it is spoken to, never what it may. */
      function note({ id, method, params }: RequestFrame): void {
        const { client: named, sessionKey, agentId } = (params ?? {}) as { [name: string]: unknown }
        if (method === 'connect' && !hasSpoken) client = (named ?? {}) as typeof client
        if (method !== 'chat.send' || !isBridge()) return
        const key = keyOf(sessionKey, agentId)
        if (key !== undefined) asked.set(id, key)
      }

      function sendHandshake(text: string): void {
        const frame = JSON.parse(text) as { event?: string; payload?: Record<string, unknown> }
        const { event, payload = {} } = frame
        if (event === 'connect.challenge' && path === OWN_PATH)
          return wire.send(JSON.stringify({ ...frame, method: event, params: { nonce: payload['nonce'] } }))
        wire.send(text)
        if (payload['type'] !== 'hello-ok') return
        isWelcome = true
        if (isBridge()) {
          const { connId: sessionId } = payload['server'] as { connId: string }
          const method = 'connect.response'
          wire.send(JSON.stringify({ type: 'event', event: method, method, params: { success: true, sessionId } }))
          opened.come(bridge)
          hear = bridge.hear
        } else if (path === OWN_PATH && client.id === 'cli' && client.mode === 'backend')
          hear = (frame) => say(asEvt(frame))
      }

      const interpreted: Wire = Object.assign(Object.create(wire) as Wire, {
        send(text: string): void {
          if (!isWelcome) return sendHandshake(text)
          if (asked.size > 0) {
            const { id, ok } = JSON.parse(text) as { id?: string; ok?: boolean }
            const key = asked.get(id ?? '')
            if (key !== undefined && ok) opened.by(bridge, key)
            asked.delete(id ?? '')
          }
          wire.send(text)
        },
        sendShared(head: Buffer, tail: string): void {
          if (hear) hear(JSON.parse(`${head.toString()}${tail}`) as EventFrame)
          else wire.sendShared(head, tail)
        },
      })

      return {
        wire: interpreted,
        read(bytes) {
          const found = decode(bytes)
          const incoming = found.kind === 'invalid' ? (readShort(bytes, !hasSpoken) ?? found) : found
          if (incoming.kind === 'request') note(incoming.request)
          hasSpoken = true
          return incoming
        },
        gone: () => opened.go(bridge),
      }
    },
  }
}

/** The two short frames: `connect`, which comes first, and `ping`. Undefined for all that is neither, or no sound JSON. */
function readShort(bytes: Uint8Array, isFirst: boolean): Incoming | undefined {
  if (bytes.length > LIMITS.preauthPayload || scan(bytes)) return undefined
  const frame = JSON.parse(Buffer.from(bytes).toString()) as unknown
  if (typeof frame !== 'object' || frame === null) return undefined
  const { type, ...rest } = frame as { type?: unknown; timestamp?: unknown }
  if (type === 'connect' && isFirst)
    return { kind: 'request', request: { type: 'req', id: 'connect', method: 'connect', params: rest } }
  if (type === 'ping') return { kind: 'ping', pong: JSON.stringify({ type: 'pong', timestamp: rest.timestamp }) }
  return undefined
}

interface BridgeEar {
  /** Tells an event now, later as part of a block, or never. */
  hear(frame: EventFrame): void
}

/**
 * Hears for a bridge, which posts each delta as a message of its own: deltas are gathered until a block is whole, which a blank line
 * ends that stands in no code, or the end of what the run says. Events of other sessions are left out, and the rest are counted anew,
 * so that a hole in the numbers still means a loss.
 */
function createBridgeEar(say: (frame: object) => void, hears: (sessionKey: string) => boolean): BridgeEar {
  let seq = 0
  /** By run, the last event that told a delta, with the text that is yet to be told. */
  const waiting = new Map<string, { frame: EventFrame; delta: string }>()

  const tell = (frame: EventFrame) => {
    seq += 1
    say({ ...frame, seq })
  }

  function tellDelta(frame: EventFrame, delta: string, rest: string): void {
    const { data } = frame.payload
    const { text } = data ?? {}
    const said = typeof text === 'string' ? { text: text.slice(0, text.length - rest.length) } : {}
    tell({ ...frame, payload: { ...frame.payload, data: { ...data, ...said, delta } } })
  }

  function tellRest(runId: string): void {
    const last = waiting.get(runId)
    waiting.delete(runId)
    if (last) tellDelta(last.frame, last.delta, '')
  }

  function gather(runId: string, frame: EventFrame, delta: string): void {
    if (waiting.get(runId)?.frame.payload.stream !== frame.payload.stream) tellRest(runId)
    const all = `${waiting.get(runId)?.delta ?? ''}${delta}`
    const end = all.length > LONGEST_BLOCK ? all.length : endOfBlocks(all)
    const rest = all.slice(end)
    if (end > 0) tellDelta(frame, all.slice(0, end), rest)
    if (rest === '') waiting.delete(runId)
    else waiting.set(runId, { frame, delta: rest })
  }

  return {
    hear(frame) {
      const { sessionKey, runId = '', data, state } = frame.payload
      if (sessionKey === undefined) return tell(frame)
      if (!hears(sessionKey)) return void waiting.delete(runId)
      if (frame.event === 'agent' && typeof data?.delta === 'string') return gather(runId, frame, data.delta)
      // Such an event has all of the text again, as the last one has.
      if (frame.event === 'chat' && state === 'delta') return
      tellRest(runId)
      tell(frame)
    },
  }
}

/** Where the last whole block of a text ends; 0 when there is none. */
function endOfBlocks(text: string): number {
  let end = 0
  let from = 0
  let isCode = false
  let hasWords = false
  for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n', from)) {
    const line = text.slice(from, at).trim()
    from = at + 1
    if (/^(```|~~~)/.test(line)) isCode = !isCode
    hasWords ||= line !== ''
    if (line === '' && hasWords && !isCode) end = from
  }
  return end
}

/**
 * Which bridge opened which session, by having sent to it last. What a bridge leaves is the newest one's, or the next one's to come: one
 * that comes back after a lost connection hears the end of what it has asked.
 */
function createOpened() {
  const live = new Set<BridgeEar>()
  const owners = new Map<string, BridgeEar | undefined>()

  const inherit = (from: BridgeEar | undefined, to: BridgeEar | undefined) => {
    for (const [key, owner] of owners) if (owner === from) owners.set(key, to)
  }

  return {
    come(bridge: BridgeEar) {
      live.add(bridge)
      inherit(undefined, bridge)
    },
    go(bridge: BridgeEar) {
      if (live.delete(bridge)) inherit(bridge, [...live].at(-1))
    },
    by(bridge: BridgeEar, key: string) {
      // Its answers may come when it has gone.
      if (!live.has(bridge)) return
      owners.delete(key)
      owners.set(key, bridge)
      if (owners.size > MOST_OPENED) owners.delete(owners.keys().next().value!)
    },
    hears: (bridge: BridgeEar, key: string): boolean => owners.get(key) === bridge,
  }
}

/** The rooms of the broker without sockets: memory for a store, and a model that answers when a test tells it to. */

import type { Attempts } from '../../src/auth/attempts.ts'
import { createHub, type Hub } from '../../src/broker/hub.ts'
import type { Log } from '../../src/broker/log.ts'
import type { Peer } from '../../src/broker/peer.ts'
import type { Step } from '../../src/broker/prompt.ts'
import { createRuns, type Runs, type RunsNeeds } from '../../src/broker/runs.ts'
import { createSessions, type Sessions } from '../../src/broker/sessions.ts'
import type { Supervisor } from '../../src/broker/supervisor.ts'
import { type Admission, createSupervisor, type SupervisorNeeds } from '../../src/broker/supervisor.ts'
import type { Toolbox } from '../../src/broker/toolbox.ts'
import { createTurns, type TurnRequest, type Turns } from '../../src/broker/turns.ts'
import type { Scope } from '../../src/contract/block.ts'
import type { Model, Sink, ToolCall } from '../../src/runtimes/runtime.ts'
import { openMemoryStore } from '../../src/stores/memory.ts'
import type { Store } from '../../src/stores/store.ts'
import type { Frame } from './gateway.ts'

/** Lets everybody try a credential as often as they like. */
export const patient: Pick<Attempts, 'begin'> = {
  begin: () => ({ mayTry: true, delayMs: 0, end: () => Promise.resolve() }),
}

/** A log that says nothing. */
export const quiet: Log = { trace() {}, debug() {}, info() {}, warn() {}, error() {} }

export const model: Model = {
  ref: 'test/model',
  provider: 'test',
  id: 'model',
  name: 'Model',
  api: 'test',
  reasoning: false,
  input: ['text'],
  contextWindow: 1000,
  maxTokens: 100,
  cost: { input: 0, output: 0, cacheRead: 0, cacheWrite: 0 },
}

export interface Listening extends Peer {
  /** The event frames it was sent, in order. */
  heard: Frame[]
  /** Why its socket was closed, once it is. */
  closedBy: { code: number; reason: string } | undefined
  /** Bytes that its socket is said not to have sent yet. */
  stuckBytes: number
  /** Sends so many of them. */
  read(bytes: number): void
}

let peers = 0

/** An operator of protocol 4 that may hear everything, unless a test says otherwise. */
export function listening(changes: Partial<Omit<Peer, 'wire'>> = {}): Listening {
  const heard: Frame[] = []
  const peer: Listening = {
    connId: `peer-${++peers}`,
    protocol: 4,
    role: 'operator',
    principal: 'token:shared',
    scopes: new Set<Scope>(['operator.admin']),
    caps: new Set(),
    spellings: new Map(),
    ...changes,
    heard,
    closedBy: undefined,
    stuckBytes: 0,
    read() {},
    wire: {
      send: (text) => void heard.push(JSON.parse(text) as Frame),
      sendShared: (head, tail) => void heard.push(JSON.parse(`${head.toString()}${tail}`) as Frame),
      close(close) {
        peer.closedBy = close
      },
      terminate() {},
      takeFramesOf() {},
      pause() {},
      resume() {},
      onDrained() {},
      onEventsSent(callback) {
        peer.read = (bytes) => {
          peer.stuckBytes = Math.max(0, peer.stuckBytes - bytes)
          callback()
        }
      },
      bytesWaiting: 0,
      get eventBytesWaiting() {
        return peer.stuckBytes
      },
    },
  }
  return peer
}

/** A model's answer in the hands of a test. */
export interface Asked {
  sink: Sink
  signal: AbortSignal
  /** @param calls tools it wants called before it goes on */
  finish(calls?: ToolCall[]): void
  fail(error: Error): void
  /** What had been said before each turn that had joined the run by then. */
  joined: string[]
  /** What the run had done by then. */
  steps: readonly Step[]
}

export interface Rooms {
  store: Store
  hub: Hub
  runs: Runs
  sessions: Sessions
  supervisor: Supervisor
  turns: Turns
  /** An operator that hears everything. */
  ear: Listening
  /** The ids of the runs whose model was asked, in order. */
  readonly order: string[]
  /** The sessions whose actor threw, as often as one did. */
  readonly crashes: string[]
  /** The model's side of a run, once the model has been asked: for the first time, or for the nth. */
  asked(runId: string, nth?: number): Promise<Asked>
  /** Admits a turn and starts it, as the methods do. */
  send(key: string, changes?: Partial<TurnRequest>): Promise<Admission>
  /** The terminal `chat` events of a run. */
  ends(runId: string): Frame[]
}

export interface RoomsOptions {
  store?: Store
  queueLimit?: number
  maxConcurrent?: number
  maxRounds?: number
  toolbox?: Pick<Toolbox, 'call'>
  /** Whether a principal may still send. */
  stands?(principal: string): boolean
  recovery?: 'interrupt' | 'resume'
  /** What the peer that listens can do. */
  caps?: string[]
  policy?: NonNullable<SupervisorNeeds['policy']>
  retryMs?: number
  /** Called before each event; what it throws, the hub throws. */
  onPublish?(payload: Frame): void
  /** Called before a waiting turn is told its place; what it throws, the session's effect throws. */
  onPlace?(runId: string): void
  /** Called before a session begins a run; what it throws, the session's effect throws. */
  onBegin?(runId: string): void
  onStarted?: NonNullable<RunsNeeds['onStarted']>
  /** Called when supervisor and session know. */
  onEnded?: RunsNeeds['onEnded']
  log?: Log
}

function saidBeforeEach(steps: readonly Step[]): string[] {
  let said = ''
  return steps.flatMap((step) => {
    if (step.kind !== 'joined') {
      said += step.text
      return []
    }
    const before = said
    said = ''
    return [before]
  })
}

/** Gives events their places, and keeps nothing. */
export function places() {
  let offset = 0
  return { next: () => ({ epoch: 'e1', offset: ++offset }), take() {} }
}

export const SESSION = 'agent:main:main'

export function openRooms(options: RoomsOptions = {}): Rooms {
  const { store = openMemoryStore(), queueLimit = 32, retryMs = 1, log = quiet } = options
  const inner = createHub({ onSlow() {}, replay: places() })
  const ear = listening({ caps: new Set(options.caps) })
  inner.join(ear)
  const hub: Hub = {
    ...inner,
    publish(name, render, audience) {
      options.onPublish?.(JSON.parse(render({ protocol: 4, deltaOnly: false, sessionKey: '' })) as Frame)
      inner.publish(name, render, audience)
    },
  }
  const asked = new Map<string, PromiseWithResolvers<Asked>>()
  const askedOf = (runId: string, nth: number) => {
    const id = `${runId} ${nth}`
    const known = asked.get(id) ?? Promise.withResolvers<Asked>()
    asked.set(id, known)
    return known
  }
  const order: string[] = []
  const crashes: string[] = []
  const now = () => Date.now()
  const runs = createRuns({
    store,
    hub,
    log,
    now,
    retryMs,
    deadlineMs: 0,
    maxConcurrent: options.maxConcurrent ?? 64,
    maxRounds: options.maxRounds ?? 32,
    toolbox: options.toolbox ?? { call: () => Promise.reject(new Error('there are no tools')) },
    async prepare({ runId }, sofar) {
      const steps = [...sofar]
      const joined = saidBeforeEach(steps)
      return (sink, signal) =>
        new Promise((resolve, reject) => {
          order.push(runId)
          signal.addEventListener('abort', () => reject(signal.reason as Error))
          const usage = { input: 0, output: 0, cacheRead: 0, cacheWrite: 0, totalTokens: 0 }
          const finish = (calls?: ToolCall[]) =>
            resolve({ stopReason: calls ? 'toolUse' : 'stop', usage, model, ...(calls && { calls }) })
          const nth = order.filter((id) => id === runId).length
          askedOf(runId, nth).resolve({ sink, signal, finish, fail: reject, joined, steps })
        })
    },
    onStarted: (record) => options.onStarted?.(record),
    onEnded(record, ended) {
      supervisor.ended(record, ended.outcome)
      sessions.ended(record.sessionKey, record.runId)
      options.onEnded?.(record, ended)
    },
  })
  const sessions = createSessions({
    runs: {
      ...runs,
      begin(runId, absorbs) {
        options.onBegin?.(runId)
        runs.begin(runId, absorbs)
      },
      announcePlace(runId, place) {
        options.onPlace?.(runId)
        runs.announcePlace(runId, place)
      },
    },
    log,
    onCrash(key) {
      crashes.push(key)
      supervisor.crashed(key)
    },
  })
  const supervisor = createSupervisor({
    store,
    log,
    isFull: (_, unfinished) => unfinished > queueLimit,
    restartSession: (key) => sessions.restart(key),
    onCrash() {},
    monotonic: () => performance.now(),
    random: () => 0,
    policy: options.policy ?? { restarts: 5, windowMs: 30_000, backoffMs: 1, restMs: 20 },
  })
  const turns = createTurns({
    store,
    supervisor,
    runs,
    sessions,
    replay: { forget() {} },
    now,
    queueMode: 'followup',
    stands: options.stands ?? (() => true),
    recovery: options.recovery ?? 'interrupt',
  })
  return {
    store,
    hub,
    runs,
    sessions,
    supervisor,
    turns,
    ear,
    order,
    crashes,
    asked: (runId, nth = 1) => askedOf(runId, nth).promise,
    async send(key, changes) {
      const admission = await turns.admit({ ...request(key), ...changes })
      if (admission.kind === 'new') turns.start(admission.record, admission.settings)
      return admission
    },
    ends: (runId) =>
      ear.heard.filter(
        ({ event, payload }) => event === 'chat' && payload.runId === runId && payload.state !== 'delta',
      ),
  }
}

/** A turn as the methods ask for it; the key becomes the run's id. */
export const request = (key: string): TurnRequest => ({
  principal: 'token:shared',
  method: 'chat.send',
  sessionKey: SESSION,
  agentId: 'main',
  key,
  message: `message ${key}`,
  attachments: [],
  meta: {},
})

/** The same store, some of whose calls a test answers itself. */
export function storeWith(store: Store, changes: Partial<Store>): Store {
  return { ...store, ...changes }
}

/** Lets everything happen that waits for nothing but its turn. */
export async function settled(turns = 20): Promise<void> {
  for (let turn = 0; turn < turns; turn++) await new Promise((resolve) => setImmediate(resolve))
}

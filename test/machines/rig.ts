/** A chart on a bench: its effects are written down, its work ends when told to, and its clock stands still. */
import {
  type AnyEventObject,
  type AnyMachineSnapshot,
  type AnyStateMachine,
  type AnyStateNode,
  type AnyTransitionDefinition,
  createActor,
  fromPromise,
  SimulatedClock,
} from 'xstate'

/** What happened to a chart, and what it had done. Work is noted when it begins and when it ends; once left, it is `dropped`. */
export interface Entry {
  kind: 'event' | 'effect' | 'begun' | 'done' | 'failed' | 'dropped'
  name: string
  params: unknown
  /** The state at the end of the step, for events only. */
  state: string
}

export interface Rig {
  readonly log: Entry[]
  readonly snapshot: AnyMachineSnapshot
  /** Makes an event happen: time passes, work ends, or it is sent. Resolves when all that follows has happened. */
  happen(event: AnyEventObject): Promise<void>
  send(event: AnyEventObject): void
  wait(ms: number): void
  /** Lets work that is under way end well. */
  resolve(name: string, output?: unknown): Promise<void>
  reject(name: string, error: Error): Promise<void>
  /** The work under way. */
  readonly working: string[]
  /** The effects so far, by name. */
  effects(): string[]
  state(): string
}

export interface RigOptions {
  input: unknown
  /** Guards that the host binds, by name. */
  guards?: Record<string, (args: unknown, params: never) => boolean>
  onMicrostep?(transitions: readonly AnyTransitionDefinition[], nodes: readonly AnyStateNode[]): void
  onEffect?(name: string, params: never): void
}

interface Work {
  resolve(output: unknown): void
  reject(error: unknown): void
}

/** Puts a chart on the bench, and starts it. */
export function rig(machine: AnyStateMachine, { input, guards, onMicrostep, onEffect }: RigOptions): Rig {
  const log: Entry[] = []
  const clock = new SimulatedClock()
  const working = new Map<string, Work>()
  const note = (kind: Entry['kind'], name: string, params: unknown) => {
    const entry: Entry = { kind, name, params, state: '' }
    log.push(entry)
    return entry
  }

  const actions = Object.fromEntries(
    effectsOf(machine).map((name) => [
      name,
      (_: unknown, params: unknown) => {
        note('effect', name, params)
        onEffect?.(name, params as never)
      },
    ]),
  )
  const actors = Object.fromEntries(
    Object.keys(machine.implementations.actors).map((name) => [
      name,
      fromPromise(({ input: asked, signal }) => {
        note('begun', name, asked)
        return new Promise((resolve, reject) => {
          const over = (how: 'done' | 'failed', settle: (value: never) => void) => (value: unknown) => {
            working.delete(name)
            note(how, name, value)
            settle(value as never)
          }
          const work = { resolve: over('done', resolve), reject: over('failed', reject) }
          working.set(name, work)
          signal.addEventListener('abort', () => {
            if (working.get(name) !== work) return
            working.delete(name)
            note('dropped', name, undefined)
          })
        })
      }),
    ]),
  )

  const actor = createActor(machine.provide({ actions, actors, ...(guards && { guards }) }), {
    input,
    clock,
    inspect: (step) => {
      if (step.type === '@xstate.microstep')
        onMicrostep?.(step._transitions, (step.snapshot as AnyMachineSnapshot)._nodes)
    },
  })
  actor.subscribe({ error: (error) => note('failed', 'the chart itself', error) })
  actor.start()

  const state = () => stateOf(actor.getSnapshot())

  async function settled(): Promise<void> {
    // A promise's work tells its chart after a few microtasks.
    for (let n = 0; n < 5; n += 1) await null
  }

  async function end(name: string, how: (work: Work) => void): Promise<void> {
    const work = working.get(name)
    if (!work) throw new Error(`no work "${name}" is under way, only: ${[...working.keys()].join(', ') || 'none'}`)
    how(work)
    await settled()
  }

  const bench: Rig = {
    log,
    get snapshot() {
      return actor.getSnapshot() as AnyMachineSnapshot
    },
    get working() {
      return [...working.keys()]
    },
    async happen(event) {
      const entry = note('event', event.type, event)
      const nodes: readonly AnyStateNode[] = bench.snapshot._nodes
      const invoked = workBehind(nodes, event.type)
      const delay = delayBehind(bench.snapshot, event.type)
      if (invoked !== undefined)
        await end(invoked, (work) =>
          event.type.startsWith('xstate.done') ? work.resolve(event['output']) : work.reject(event['error']),
        )
      else if (delay !== undefined) clock.increment(delay)
      else actor.send(event)
      entry.state = state()
    },
    send(event) {
      const entry = note('event', event.type, event)
      actor.send(event)
      entry.state = state()
    },
    wait: (ms) => clock.increment(ms),
    resolve: (name, output) => end(name, (work) => work.resolve(output)),
    reject: (name, error) => end(name, (work) => work.reject(error)),
    effects: () => log.filter(({ kind }) => kind === 'effect').map(({ name }) => name),
    state,
  }
  return bench
}

/** The names of the effects of a chart: its actions that are neither assignments nor lists of other actions. */
export const effectsOf = (machine: AnyStateMachine): string[] =>
  Object.entries(machine.implementations.actions)
    .filter(([, action]) => !Object.hasOwn(action as object, 'type'))
    .map(([name]) => name)

/** `settling.writing` */
export function stateOf({ value }: { value: unknown }): string {
  if (typeof value === 'string') return value
  return Object.entries(value as object)
    .map(([key, inner]) => `${key}.${stateOf({ value: inner })}`)
    .join('|')
}

/** The name of the work whose end an event is. */
export function workBehind(nodes: readonly AnyStateNode[], type: string): string | undefined {
  const [, id] = /^xstate\.(?:done|error)\.actor\.(.*)$/.exec(type) ?? []
  const invoked = nodes.flatMap((node) => node.invoke).find((invoke) => invoke.id === id)
  return id === undefined ? undefined : String(invoked?.src)
}

/** The milliseconds that must pass for an event to come by itself. */
function delayBehind(snapshot: AnyMachineSnapshot, type: string): number | undefined {
  const [, name] = /^xstate\.after\.([^.]+)\./.exec(type) ?? []
  if (name === undefined) return undefined
  const delay: unknown = snapshot.machine.implementations.delays[name]
  return typeof delay === 'function' ? delay({ context: snapshot.context }) : Number(delay)
}

/** Root actors of one kind, by id: the only place where they are made, told something, and forgotten. */
import {
  type Actor,
  type ActorOptions,
  type AnyStateMachine,
  createActor,
  type EventFromLogic,
  fromPromise,
  type InputFrom,
  type SnapshotFrom,
} from 'xstate'

export interface Host<M extends AnyStateMachine> {
  /** Makes and starts an actor. Throws if one of that id lives. */
  open(id: string, input: InputFrom<M>): Actor<M>
  /** Puts an event in an actor's mailbox; false if there is no such actor. It is handled on a fresh microtask, in order. */
  tell(id: string, event: EventFromLogic<M>): boolean
  get(id: string): Actor<M> | undefined
  /** Stops an actor where it stands: no exit actions, no ending. For crashes made by tests and for the end of the process. */
  drop(id: string): void
  ids(): string[]
  readonly size: number
}

export interface HostOptions<M extends AnyStateMachine> {
  machine: M
  /** An actor reached a final state; it has been forgotten already. */
  onDone?(id: string, snapshot: SnapshotFrom<M>): void
  /** An actor threw; it has been forgotten already. Its neighbours live on. */
  onCrash(id: string, error: unknown): void
  clock?: NonNullable<ActorOptions<M>['clock']>
}

/** Makes a host. The machine's effects must be bound: binding them for each actor would cost more than the actor. */
export function createHost<M extends AnyStateMachine>({ machine, onDone, onCrash, clock }: HostOptions<M>): Host<M> {
  const live = new Map<string, Actor<M>>()
  return {
    open(id, input) {
      if (live.has(id)) throw new Error(`an actor "${machine.id}" with the id "${id}" lives already`)
      // The options' type asks for `input` only of machines that declare one, which a generic cannot prove.
      const actor = createActor(machine, { id, input, ...(clock && { clock }) } as unknown as ActorOptions<M>)
      const forget = () => live.get(id) === actor && live.delete(id)
      actor.subscribe({
        // Without an error observer a throw in one actor would end the process.
        error(error) {
          forget()
          onCrash(id, error)
        },
        complete() {
          if (forget()) onDone?.(id, actor.getSnapshot())
        },
      })
      live.set(id, actor)
      actor.start()
      return actor
    },
    tell(id, event) {
      const actor = live.get(id)
      if (!actor) return false
      queueMicrotask(() => actor.send(event))
      return true
    },
    get: (id) => live.get(id),
    drop(id) {
      const actor = live.get(id)
      live.delete(id)
      actor?.stop()
    },
    ids: () => [...live.keys()],
    get size() {
      return live.size
    },
  }
}

/** Binds the work of a chart to an async function. The signal is aborted when the chart leaves the state that asked for it. */
export function work<Out, In>(run: (input: In, signal: AbortSignal) => Promise<Out>) {
  return fromPromise<Out, In>(({ input, signal }) => run(input, signal))
}

/** Names for what a chart wants done. The hosts in `src/broker` bind them; unbound, they throw. */
import { fromPromise } from 'xstate'

/** A named action with typed parameters. */
export function effect<P = undefined>(name: string) {
  return (_: unknown, _params: P): void => {
    throw new Error(`effect "${name}" is not bound: bind it with provide() in the host of this chart`)
  }
}

/** A named piece of asynchronous work. Its promise is abandoned, and its signal aborted, when the state is left. */
export function work<Out, In>(name: string) {
  return fromPromise<Out, In>(() =>
    Promise.reject(new Error(`work "${name}" is not bound: bind it with provide() in the host of this chart`)),
  )
}

/** Ends a loop of eventless transitions or raised events, which would hang the process. */
export const MAX_ITERATIONS = 100

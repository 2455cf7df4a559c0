/** A wait that an abort ends at once. */
import { setTimeout as timer } from 'node:timers/promises'

/** Waits `ms` milliseconds. Rejects with the signal's reason as soon as it aborts. */
export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  try {
    await timer(ms, undefined, { signal })
  } catch (error) {
    // The timer wraps the reason in an error of its own.
    signal.throwIfAborted()
    throw error
  }
}

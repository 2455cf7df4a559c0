/** What a turn does when a run of its session is under way. */

/**
 * - `followup`: it waits, and has an answer of its own.
 * - `collect`: it waits; those that wait one behind the other are answered together, under the id of the last.
 * - `steer`: it joins the run under way, whose model is asked again with it; it waits if that is over before.
 * - `interrupt`: the run under way is stopped, and it comes next.
 */
export const QUEUE_MODES = ['followup', 'collect', 'steer', 'interrupt'] as const
export type QueueMode = (typeof QUEUE_MODES)[number]

/** Names of the reference gateway for what is the same here. */
const ALIASES: ReadonlyMap<string, QueueMode> = new Map([
  ['queue', 'steer'],
  ['steer-backlog', 'steer'],
])

/** The mode that a word in a configuration or a command means. */
export const readQueueMode = (word: unknown): QueueMode | undefined =>
  QUEUE_MODES.find((mode) => mode === word) ?? (typeof word === 'string' ? ALIASES.get(word) : undefined)

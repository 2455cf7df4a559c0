/** What a suite stands on: a model that babbles, a gateway that asks it, and a folder that is gone afterwards. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Babbler, type Speech, startBabbler } from '../support/babbler.ts'
import type { ProcessOptions } from '../support/gateway-process.ts'
import { leave } from '../support/leftovers.ts'

export interface Ground {
  /** A state folder. */
  folder: string
  babbler: Babbler
}

/** How the gateway is set: it remembers so little that the thousandth turn costs what the first one does. */
export const GATEWAY: ProcessOptions = {
  model: { contextWindow: 600 },
  gateway: { limits: { requestsPerSecond: 0 } },
}

export const wait = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))

/** Makes a ground, and takes it away whatever comes of its use. */
export async function onGround<T>(name: string, use: (ground: Ground) => Promise<T>): Promise<T> {
  const babbler = await startBabbler()
  const folder = mkdtempSync(join(tmpdir(), `long-${name}-`))
  const remove = () => rmSync(folder, { recursive: true, force: true, maxRetries: 3 })
  const removed = leave(remove)
  try {
    return await use({ folder, babbler })
  } finally {
    await babbler.close()
    remove()
    removed()
  }
}

/** Rounds that go on one folder. */
export interface Stint extends Ground {
  /** The rounds are those after `first` up to `last`, counted from 1. */
  first: number
  last: number
}

/** Goes many rounds, so many on one ground: what is in its folder stays small enough to be read after each. */
export async function inStints(
  name: string,
  { rounds, each }: { rounds: number; each: number },
  go: (stint: Stint) => Promise<void>,
): Promise<void> {
  for (let first = 0; first < rounds; first += each)
    await onGround(name, (ground) => go({ ...ground, first, last: Math.min(first + each, rounds) }))
}

/** Something to say: mostly a few words, now and then much and fast. */
export function someSpeech(roll: () => number): Speech {
  const isLong = roll() < 0.08
  return {
    seed: Math.floor(roll() * 1e9),
    pieces: isLong ? 250 : 2 + Math.floor(roll() * 40),
    longest: isLong ? 150 : 12,
    gap: Math.floor(roll() * (isLong ? 4 : 8)),
  }
}

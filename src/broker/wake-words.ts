/** The words by which clients that listen are woken: one list, held in memory and written through. */
import type { Store } from '../stores/store.ts'

export interface WakeWords {
  current(): string[]
  /** Replaces them; durable when it resolves to what is kept. None at all brings back those that there were at first. */
  replace(words: readonly string[]): Promise<string[]>
}

const KIND = 'setting'
const ID = 'wake-words'
/** What clients listen for before anybody has said otherwise. */
const FIRST = ['openclaw', 'claude', 'computer']

export async function openWakeWords(store: Pick<Store, 'get' | 'put'>): Promise<WakeWords> {
  let kept = ((await store.get(KIND, ID)) as string[] | undefined) ?? FIRST
  return {
    current: () => [...kept],
    async replace(words) {
      const said = words.map((word) => word.trim()).filter((word) => word !== '')
      const next = said.length > 0 ? said : FIRST
      await store.put(KIND, ID, next)
      kept = next
      return [...next]
    },
  }
}

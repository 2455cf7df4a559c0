/** What is remembered, with an ear on it for a disk that fails. */
import { type Store, StoreError } from './store.ts'

/**
 * The same store. Once the disk or the file has failed, nothing it says can be trusted any more; a disk that is full may have space
 * later.
 */
export function watched(store: Store, { onLost, onFull }: { onLost(error: string): void; onFull(): void }): Store {
  return new Proxy(store, {
    get(target, name) {
      const member: unknown = Reflect.get(target, name, target)
      if (typeof member !== 'function') return member
      return (...args: unknown[]) => {
        const result: unknown = member.apply(target, args)
        if (result instanceof Promise)
          result.catch((error: unknown) => {
            if (!(error instanceof StoreError)) return
            if (error.code === 'BROKEN') onLost(error.message)
            if (error.code === 'FULL') onFull()
          })
        return result
      }
    },
  })
}

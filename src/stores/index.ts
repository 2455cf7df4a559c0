/** The stores by kind. */
import { openMemoryStore } from './memory.ts'
import type { SqliteOptions } from './sqlite.ts'
import { openSqliteStore } from './sqlite.ts'
import type { Store } from './store.ts'

const stores = {
  sqlite: openSqliteStore,
  memory: async () => openMemoryStore(),
} satisfies Record<string, (options: SqliteOptions) => Promise<Store>>

export type StoreKind = keyof typeof stores

/** Opens a store; `memory` needs none of the options. Rejects with {@link StoreError} when it cannot be opened. */
export const openStore = (kind: StoreKind, options: SqliteOptions): Promise<Store> => stores[kind](options)

/** Who was let in or refused, and who changed what: remembered over restarts, without secrets. */
import type { Json, Store } from '../stores/store.ts'
import type { Log } from './log.ts'

export interface AuditEntry {
  at: number
  /** `connect`: somebody came; `call`: somebody used a method that changes the gateway, or decides for others. */
  kind: 'connect' | 'call'
  ok: boolean
  principal?: string
  connId: string
  /** The method, or the rule by which somebody was let in or refused. */
  what: string
  /** Ids and names that say what it was about. */
  about?: { [name: string]: string }
  /** The code of a refusal. */
  code?: string
  /** How many like it were left out before it, because they came too fast. */
  skipped?: number
}

export interface Audit {
  note(entry: Omit<AuditEntry, 'at' | 'skipped'>): void
  /** The newest first. */
  list(filter: { kind?: AuditEntry['kind'] | undefined; limit: number }): AuditEntry[]
  /** Writes what is not written yet. */
  flush(): Promise<void>
}

export interface AuditNeeds {
  store: Pick<Store, 'put' | 'list' | 'remove'>
  log: Log
  now(): number
  /** Monotonic milliseconds. */
  monotonic(): number
}

const KIND = 'audit'
/** Entries in a record, and records that are kept: the oldest go. */
const PER_RECORD = 100
const MOST_RECORDS = 20
const WRITE_EVERY_MS = 2_000
/** Refused connections that are noted each second: a flood is not to fill the disk. */
const REFUSED_PER_SECOND = 10
const LONGEST = 200

/** Reads what was kept. */
export async function openAudit({ store, log, now, monotonic }: AuditNeeds): Promise<Audit> {
  const kept = (await store.list(KIND)).toSorted((a, b) => (a.id < b.id ? -1 : 1))
  const records = new Map(kept.map(({ id, value }) => [id, value as unknown as AuditEntry[]]))
  let last = Number(kept.at(-1)?.id ?? 0)
  let timer: NodeJS.Timeout | undefined
  let writing: Promise<void> = Promise.resolve()
  const dirty = new Set<string>()
  let second = Number.NEGATIVE_INFINITY
  let refused = 0
  let skipped = 0

  /** The record that takes the next entry. */
  function open(): AuditEntry[] {
    let id = idOf(last)
    const present = records.get(id)
    if (present && present.length < PER_RECORD) {
      dirty.add(id)
      return present
    }
    last += 1
    id = idOf(last)
    const fresh: AuditEntry[] = []
    records.set(id, fresh)
    dirty.add(id)
    return fresh
  }

  async function write(): Promise<void> {
    timer = undefined
    const changed = [...dirty]
    dirty.clear()
    const old = [...records.keys()].slice(0, -MOST_RECORDS)
    for (const id of old) records.delete(id)
    try {
      await Promise.all([
        ...changed.filter((id) => records.has(id)).map((id) => store.put(KIND, id, records.get(id) as unknown as Json)),
        ...old.map((id) => store.remove(KIND, id)),
      ])
    } catch (error) {
      for (const id of changed) dirty.add(id)
      log.warn({ err: error }, 'what was audited could not be kept; it is tried again with the next entry')
    }
  }

  /** Whether a refused connection is one too many in this second. */
  function isTooMuch(): boolean {
    const at = Math.floor(monotonic() / 1_000)
    if (at !== second) {
      second = at
      refused = 0
    }
    refused += 1
    return refused > REFUSED_PER_SECOND
  }

  return {
    note(entry) {
      if (entry.kind === 'connect' && !entry.ok && isTooMuch()) {
        skipped += 1
        return
      }
      open().push({ at: now(), ...shortened(entry), ...(skipped > 0 && { skipped }) })
      skipped = 0
      timer ??= setTimeout(() => {
        writing = writing.then(write)
      }, WRITE_EVERY_MS).unref()
    },
    list: ({ kind, limit }) =>
      [...records.values()]
        .flat()
        .filter((entry) => kind === undefined || entry.kind === kind)
        .slice(-limit)
        .reverse(),
    async flush() {
      clearTimeout(timer)
      writing = writing.then(write)
      await writing
    },
  }
}

const idOf = (count: number): string => String(count).padStart(12, '0')

/** The text of a token that somebody gave for its id: what follows the id is not to be remembered. */
const TOKEN_TEXT = /(kur_[a-z]+_[0-9a-f]{12})_\w+/g

/** What clients said of themselves can be as long as they like. */
function shortened<T extends Omit<AuditEntry, 'at' | 'skipped'>>(entry: T): T {
  const about = Object.entries(entry.about ?? {}).map(([name, value]) => [
    name,
    value.replace(TOKEN_TEXT, '$1').slice(0, LONGEST),
  ])
  return { ...entry, what: entry.what.slice(0, LONGEST), ...(entry.about && { about: Object.fromEntries(about) }) }
}

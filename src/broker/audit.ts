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
  /**
   * Remembers an entry. It is on disk up to two seconds later: of what was noted since, a process that is killed leaves nothing.
   *
   * A connection leaves one when it is let in, and when its `connect` is refused, for whatever reason; one that never gets as far
   * (refused at the door, silent, or speaking before its `connect`) leaves none. A call of a method whose block says `audited`
   * leaves one when it is done, and when it is refused for its parameters or by the method itself; one that is refused for want of
   * a scope or the role, or because it came too fast, leaves none. Of what is refused ten a second are remembered, of connections
   * and of calls each; the next one says how many were not.
   */
  note(entry: Omit<AuditEntry, 'at' | 'skipped'>): void
  /** The newest first, so many at the most. */
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
/** Entries in a record, and records that are kept of a ring: the oldest go. */
const PER_RECORD = 100
const MOST_RECORDS = { connect: 20, call: 5 } satisfies { [K in AuditEntry['kind']]: number }
const WRITE_EVERY_MS = 2_000
/** Refusals that are noted each second: a flood is not to fill the disk. */
const REFUSED_PER_SECOND = 10
const LONGEST = 200

/** An entry, and which one it is of all: no clock tells that. */
type Row = AuditEntry & { n: number }

interface Kept {
  /** The name of its ring, and its number in it. */
  id: string
  rows: Row[]
}

/** Entries that make room for each other, and for no others: whoever can make many of one sort leaves the others as they are. */
interface Ring {
  /** The oldest first. */
  records: Kept[]
  last: number
  /** The one that is under way, and how many were refused in it. */
  second: number
  refused: number
  /** Since the last entry. */
  skipped: number
}

/** Each audited method has a ring, as many as there are in the contract; what is refused has one for each kind. */
const ringOf = ({ kind, ok, what }: Pick<AuditEntry, 'kind' | 'ok' | 'what'>): string =>
  ok && kind === 'call' ? `call ${what}` : `${kind} ${ok ? 'admitted' : 'refused'}`

/** Reads what was kept. */
export async function openAudit({ store, log, now, monotonic }: AuditNeeds): Promise<Audit> {
  const rings = new Map<string, Ring>()
  let count = 0
  let timer: NodeJS.Timeout | undefined
  let writing: Promise<void> = Promise.resolve()
  const changed = new Set<Kept>()
  /** Ids of records that are to be removed. */
  const over = new Set<string>()

  function ring(name: string): Ring {
    let found = rings.get(name)
    if (!found) {
      found = { records: [], last: 0, second: Number.NEGATIVE_INFINITY, refused: 0, skipped: 0 }
      rings.set(name, found)
    }
    return found
  }

  function add(entry: AuditEntry): void {
    const name = ringOf(entry)
    const target = ring(name)
    let record = target.records.at(-1)
    if (!record || record.rows.length >= PER_RECORD) {
      target.last += 1
      record = { id: `${name} ${String(target.last).padStart(12, '0')}`, rows: [] }
      target.records.push(record)
    }
    record.rows.push({ ...entry, n: count++ })
    changed.add(record)
    for (const old of target.records.splice(0, target.records.length - MOST_RECORDS[entry.kind])) {
      changed.delete(old)
      over.add(old.id)
    }
  }

  for (const { id, value } of (await store.list(KIND)).toSorted((a, b) => (a.id < b.id ? -1 : 1))) {
    const rows = value as unknown as Row[]
    const at = id.lastIndexOf(' ')
    if (at < 0) {
      // From before there were rings; such ids come before all others.
      for (const row of rows) add(row)
      over.add(id)
    } else {
      const target = ring(id.slice(0, at))
      target.records.push({ id, rows })
      target.last = Number(id.slice(at + 1))
      count = Math.max(count, ...rows.map(({ n }) => n + 1))
    }
  }

  async function write(): Promise<void> {
    timer = undefined
    const [records, ids] = [[...changed], [...over]]
    changed.clear()
    over.clear()
    try {
      await Promise.all([
        ...records.map(({ id, rows }) => store.put(KIND, id, rows as unknown as Json)),
        ...ids.map((id) => store.remove(KIND, id)),
      ])
    } catch (error) {
      for (const record of records) if (!over.has(record.id)) changed.add(record)
      for (const id of ids) over.add(id)
      log.warn({ err: error }, 'what was audited could not be kept; it is tried again with the next entry')
    }
  }

  /** Whether a refusal is one too many in this second. */
  function isTooMuch(target: Ring): boolean {
    const at = Math.floor(monotonic() / 1_000)
    if (at !== target.second) {
      target.second = at
      target.refused = 0
    }
    target.refused += 1
    return target.refused > REFUSED_PER_SECOND
  }

  return {
    note(entry) {
      const target = ring(ringOf(entry))
      if (!entry.ok && isTooMuch(target)) {
        target.skipped += 1
        return
      }
      add({ at: now(), ...shortened(entry), ...(target.skipped > 0 && { skipped: target.skipped }) })
      target.skipped = 0
      timer ??= setTimeout(() => {
        writing = writing.then(write)
      }, WRITE_EVERY_MS).unref()
    },
    list: ({ kind, limit }) =>
      [...rings.values()]
        .flatMap(({ records }) => records.flatMap(({ rows }) => rows))
        .filter((row) => kind === undefined || row.kind === kind)
        .sort((a, b) => b.n - a.n)
        .slice(0, Math.max(0, limit))
        .map(({ n: _, ...entry }) => entry),
    async flush() {
      clearTimeout(timer)
      writing = writing.then(write)
      await writing
    },
  }
}

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

/** What a process did to a folder, call by call, as strace wrote it down; and what a power cut leaves of it. */
import { readFileSync } from 'node:fs'
import { basename, dirname } from 'node:path'

/** In front of a program, so that strace writes down what it does to files and what it sends. It stays the process it was. */
export const traced = (file: string): string[] => [
  'strace',
  '-D',
  '-f',
  '--seccomp-bpf',
  '-qq',
  '-xx',
  '-yy',
  '-s',
  '20000000',
  '-e',
  'trace=pwrite64,write,writev,sendto,sendmsg,ftruncate,fsync,fdatasync,rename,unlink,openat',
  '-o',
  file,
]

/** A change to a file. `begun` and `done` are places in the trace. */
interface Change {
  file: number
  begun: number
  done: number
  /** Bytes put somewhere, or a length. */
  what: { at: number; bytes: Buffer } | { length: number }
}

/** A change to the names in a folder. */
interface Naming {
  folder: string
  begun: number
  done: number
  what: { name: string; file: number } | { gone: string }
}

interface Sync {
  /** A file, or the folder whose names are synced. */
  of: number | string
  begun: number
  done: number
}

export interface Trace {
  changes: Change[]
  namings: Naming[]
  syncs: Sync[]
  /** What left over sockets, as Latin-1. */
  sent: { at: number; text: string }[]
  length: number
}

const CALL = /^(\d+) +(\w+)\((.*)$/
const RESUMED = /^(\d+) +<\.\.\. (\w+) resumed>.*= (-?\d+)/

const bytesOf = (escaped: string): Buffer => Buffer.from(escaped.replaceAll('\\x', ''), 'hex')
const stringsIn = (args: string): Buffer[] =>
  [...args.matchAll(/"((?:\\x[0-9a-f]{2})*)"/g)].map(([, text]) => bytesOf(text!))
/** The path or socket behind the first descriptor of a call. */
const targetOf = (args: string): string => {
  const from = args.indexOf('<')
  const to = args.indexOf('>', from)
  return from < 0 ? '' : args.slice(from + 1, to).replace(/(?:\\x[0-9a-f]{2})+/g, (text) => bytesOf(text).toString())
}
const numbersIn = (args: string): number[] =>
  args
    .slice(args.lastIndexOf('"') + 1)
    .split(')')[0]!
    .split(',')
    .map((part) => Number.parseInt(part, 10))
    .filter((number) => !Number.isNaN(number))

/** Reads a trace, keeping what happened to `folder` and to nothing in it but files that begin with `prefix`. */
export function readTrace(file: string, folder: string, prefix: string): Trace {
  const lines = readFileSync(file, 'latin1').split('\n')
  const trace: Trace = { changes: [], namings: [], syncs: [], sent: [], length: lines.length }
  /** The file of each name as of the line that is read. */
  const names = new Map<string, number>()
  const sizes = new Map<number, number>()
  /** Calls that another thread's line came in between of, by thread. */
  const open = new Map<string, { done: number; undo?: () => void }>()
  let files = 0
  const isOurs = (path: string) => dirname(path) === folder && basename(path).startsWith(prefix)

  const positions = new Map<string, number>()

  for (const [at, line] of lines.entries()) {
    const resumed = RESUMED.exec(line)
    if (resumed) {
      const [, thread, , result] = resumed
      const call = open.get(thread!)
      if (call && Number(result) >= 0) call.done = at
      open.delete(thread!)
      continue
    }
    const parts = CALL.exec(line)
    if (!parts) continue
    const [, thread, call, args] = parts as unknown as [string, string, string, string]
    const isUnfinished = line.endsWith('<unfinished ...>')
    if (!isUnfinished && / = -1 E/.test(line.slice(-120))) continue
    const span = { begun: at, done: isUnfinished ? Number.POSITIVE_INFINITY : at }
    let noted: { done: number } | undefined
    if (call === 'openat') {
      const path = stringsIn(args)[0]?.toString() ?? ''
      if (!isOurs(path)) continue
      const known = names.get(path)
      if (known === undefined && args.includes('O_CREAT')) {
        files += 1
        names.set(path, files)
        noted = { ...span, folder, what: { name: path, file: files } } as Naming
        trace.namings.push(noted as Naming)
      } else if (known !== undefined && args.includes('O_TRUNC')) {
        noted = { ...span, file: known, what: { length: 0 } } as Change
        trace.changes.push(noted as Change)
        sizes.set(known, 0)
      }
      positions.set(path, 0)
    } else if (call === 'unlink' || call === 'rename') {
      const [from, to] = stringsIn(args).map(String) as [string, string?]
      if (!isOurs(from)) continue
      const moved = names.get(from)
      names.delete(from)
      noted = { ...span, folder, what: { gone: from } } as Naming
      trace.namings.push(noted as Naming)
      if (to !== undefined && moved !== undefined && isOurs(to)) {
        names.set(to, moved)
        trace.namings.push({ ...span, folder, what: { name: to, file: moved } })
      }
    } else {
      const target = targetOf(args)
      if (target.startsWith('TCP')) {
        trace.sent.push({ at, text: Buffer.concat(stringsIn(args)).toString('latin1') })
        continue
      }
      if (call.endsWith('sync')) {
        if (target !== folder && !isOurs(target)) continue
        const of = target === folder ? folder : names.get(target)
        if (of === undefined) continue
        noted = { ...span, of } as Sync
        trace.syncs.push(noted as Sync)
      } else {
        const known = isOurs(target) ? names.get(target) : undefined
        if (known === undefined) continue
        if (call === 'ftruncate') noted = { ...span, file: known, what: { length: numbersIn(args).at(-1)! } } as Change
        else {
          const bytes = Buffer.concat(stringsIn(args))
          const place = call === 'pwrite64' ? numbersIn(args)[1]! : (positions.get(target) ?? 0)
          if (call === 'write') positions.set(target, place + bytes.length)
          noted = { ...span, file: known, what: { at: place, bytes } } as Change
        }
        trace.changes.push(noted as Change)
      }
    }
    if (isUnfinished && noted) open.set(thread, noted)
  }
  return trace
}

/** What becomes of that which was not synced: `all` and `none` of it, its beginning, or whatever the dice say, torn or not. */
export const FATES = ['all', 'none', 'beginning', 'any', 'torn'] as const
type Fate = (typeof FATES)[number]

/**
 * The files as a power cut at a place in the trace may leave them: what a sync covers is there in any case; names are
 * journalled in order by every file system in use, so of those a beginning is there.
 */
export function cutPower(trace: Trace, at: number, fate: Fate, roll: () => number): Map<string, Buffer> {
  const syncedAt = (of: number | string, change: { done: number }) =>
    trace.syncs.some((sync) => sync.of === of && sync.begun > change.done && sync.done < at)
  const begun = <T extends { begun: number }>(list: T[]) => list.filter((each) => each.begun < at)

  const namings = begun(trace.namings)
  const sure = namings.findLastIndex((naming) => syncedAt(naming.folder, naming)) + 1
  const extra = fate === 'all' ? namings.length : fate === 'none' ? 0 : Math.floor(roll() * (namings.length - sure + 1))
  const files = new Map<string, number>()
  for (const { what } of namings.slice(0, Math.max(sure, Math.min(namings.length, sure + extra)))) {
    if ('gone' in what) files.delete(what.gone)
    else files.set(what.name, what.file)
  }

  const image = new Map<string, Buffer>()
  for (const [name, file] of files) {
    const changes = begun(trace.changes).filter((change) => change.file === file)
    const isSynced = changes.map((change) => syncedAt(file, change))
    const loose = isSynced.filter((synced) => !synced).length
    let left = fate === 'beginning' ? Math.floor(roll() * (loose + 1)) : fate === 'all' ? loose : 0
    let bytes = Buffer.alloc(0)
    const put = (offset: number, piece: Buffer) => {
      if (offset + piece.length > bytes.length)
        bytes = Buffer.concat([bytes, Buffer.alloc(offset + piece.length - bytes.length)])
      piece.copy(bytes, offset)
    }
    for (const [index, { what }] of changes.entries()) {
      const isKept = isSynced[index] || (fate === 'any' || fate === 'torn' ? roll() < 0.5 : left-- > 0)
      if ('length' in what) {
        if (isKept)
          bytes = Buffer.concat([bytes, Buffer.alloc(Math.max(0, what.length - bytes.length))]).subarray(0, what.length)
      } else if (isKept && (isSynced[index] || fate !== 'torn')) put(what.at, what.bytes)
      else if (fate === 'torn') tear(what.at, what.bytes, roll() < 0.5 ? 512 : 4096, roll, put)
    }
    image.set(basename(name), bytes)
  }
  return image
}

/** Puts some of the sectors that a piece lies in. */
function tear(
  at: number,
  bytes: Buffer,
  sector: number,
  roll: () => number,
  put: (at: number, piece: Buffer) => void,
): void {
  for (let from = at; from < at + bytes.length; ) {
    const to = Math.min(at + bytes.length, (Math.floor(from / sector) + 1) * sector)
    if (roll() < 0.5) put(from, bytes.subarray(from - at, to - at))
    from = to
  }
}

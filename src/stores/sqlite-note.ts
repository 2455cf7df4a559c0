/**
 * The note beside a store file: there from opening to closing, with a count of what was committed, and with words once damage
 * was seen. It outlives the process. So damage that is only met while serving is mended at the next start instead of met again
 * at every one, and a log that ends too early is not taken for one that a power cut ended.
 */
import { closeSync, fsyncSync, openSync, readFileSync, rmSync, statSync, writeFileSync, writeSync } from 'node:fs'
import { dirname } from 'node:path'
import { crc32 } from 'node:zlib'

export interface Note {
  /** Commits that were acknowledged. Not synced: a power cut may leave an older count, and never one too high. */
  count?: number
  /** The log is being moved: without it, the main file is neither as it was nor as it will be. */
  isMoving?: boolean
  /** The damage, in words. */
  reason?: string
  /** Where the damaged file goes, once that has begun. */
  aside?: string
  /** There was something that cannot be read. */
  isIllegible?: boolean
}

const noteOf = (path: string): string => `${path}.note`

/** As long for every count: writing over it leaves nothing behind, and lies within one sector of any disk. */
const LINE_BYTES = 64
const textOf = (note: Note): string => {
  const json = JSON.stringify(note).padEnd(LINE_BYTES - 8)
  return crc32(json).toString(16).padStart(8, '0') + json
}

export const readNote = (path: string): Note | undefined => {
  if (sizeOf(noteOf(path)) === undefined) return undefined
  const text = readFileSync(noteOf(path), 'utf8')
  // Cut off by a power cut, or by a full disk, before anything was in it.
  if (/^\0*$/.test(text)) return {}
  const json = text.slice(8)
  return Number.parseInt(text.slice(0, 8), 16) === crc32(json) ? (JSON.parse(json) as Note) : { isIllegible: true }
}

export const writeNote = (path: string, note: Note): void => {
  writeFileSync(noteOf(path), textOf(note), { mode: 0o600, flush: true })
  fsyncFolder(dirname(path))
}

/** Holds the note open to write the count over it, again and again; undefined when there was no space to make one. */
export const openNote = (
  path: string,
): { count(count: number, isMoving: boolean): void; close(): void } | undefined => {
  if (sizeOf(noteOf(path)) === undefined) return undefined
  const handle = openSync(noteOf(path), 'r+')
  return {
    count: (count, isMoving) => void writeSync(handle, textOf({ count, ...(isMoving && { isMoving }) }), 0),
    close: () => closeSync(handle),
  }
}

export const removeNote = (path: string): void => {
  rmSync(noteOf(path), { force: true })
  fsyncFolder(dirname(path))
}

/** Removes a note without words. */
export const forgetUse = (path: string): void => {
  const note = readNote(path)
  if (note !== undefined && note.reason === undefined) removeNote(path)
}

/** In bytes; undefined when there is no such file. */
export const sizeOf = (path: string): number | undefined => statSync(path, { throwIfNoEntry: false })?.size

export const fsyncPath = (path: string): void => {
  const handle = openSync(path, 'r')
  try {
    fsyncSync(handle)
  } finally {
    closeSync(handle)
  }
}

/** Makes the names in a folder durable. */
export const fsyncFolder = (folder: string): void => {
  // Windows neither can nor needs to.
  if (process.platform !== 'win32') fsyncPath(folder)
}

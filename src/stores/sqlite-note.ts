/**
 * The note beside a store file: there from opening to closing, empty, and with words in it once damage was seen. It outlives
 * the process, so damage that is only met while serving is mended at the next start instead of met again at every one.
 */
import { closeSync, fsyncSync, openSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'

export interface Note {
  /** The damage, in words. */
  reason?: string
  /** Where the damaged file goes, once that has begun. */
  aside?: string
}

const noteOf = (path: string): string => `${path}.note`

export const readNote = (path: string): Note | undefined => {
  if (sizeOf(noteOf(path)) === undefined) return undefined
  const [reason, aside] = readFileSync(noteOf(path), 'utf8').split('\0')
  return { ...(reason && { reason }), ...(aside && { aside }) }
}

export const writeNote = (path: string, { reason = '', aside = '' }: Note): void => {
  writeFileSync(noteOf(path), reason && `${reason}\0${aside}`, { mode: 0o600, flush: true })
  fsyncFolder(dirname(path))
}

export const removeNote = (path: string): void => {
  rmSync(noteOf(path), { force: true })
  fsyncFolder(dirname(path))
}

/** Removes a note without words. */
export const forgetUse = (path: string): void => {
  if (sizeOf(noteOf(path)) === 0) removeNote(path)
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

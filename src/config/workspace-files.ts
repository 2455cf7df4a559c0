/** The files of a workspace that clients may see and replace, and no others. */
import { randomBytes } from 'node:crypto'
import { constants, type Stats } from 'node:fs'
import { type FileHandle, lstat, open, realpath, rename, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { GatewayError } from '../contract/errors.ts'

/** In the order in which they are listed: first those of protocol 3. */
const NAMES: readonly string[] = [
  'AGENTS.md',
  'SOUL.md',
  'TOOLS.md',
  'IDENTITY.md',
  'USER.md',
  'HEARTBEAT.md',
  'BOOTSTRAP.md',
  'MEMORY.md',
  'CLAUDE.md',
]
/** Bytes of a file that is read or written. */
const MOST_BYTES = 1_048_576

export interface WorkspaceFile {
  name: string
  path: string
  missing: boolean
  /** Bytes. */
  size?: number
  updatedAtMs?: number
}

/** Every file there may be, whether it is there or not. What cannot be used is missing. */
export function listFiles(workspace: string): Promise<WorkspaceFile[]> {
  return Promise.all(
    NAMES.map(async (name) => {
      const file = path.join(workspace, name)
      const found = await realFile(workspace, name)
        .then((real) => (real === undefined ? undefined : stat(real)))
        .catch(() => undefined)
      return found?.isFile() ? described(name, file, found) : missing(name, file)
    }),
  )
}

/** @throws GatewayError UNSUPPORTED_FILE, FILE_TOO_LARGE, WORKSPACE_UNREADABLE */
export async function readFile(workspace: string, name: string): Promise<WorkspaceFile & { content?: string }> {
  refuseOthers(name)
  const file = path.join(workspace, name)
  try {
    const real = await realFile(workspace, name)
    if (real === undefined) return missing(name, file)
    // The real path was just checked and is not followed again; without NONBLOCK, opening a pipe would wait for a writer.
    return await opened(real, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK, async (handle) => {
      const found = await handle.stat()
      if (!found.isFile()) throw new Unusable('it is not a file')
      if (found.size > MOST_BYTES) throw tooLarge(name, found.size)
      return { ...described(name, file, found), content: await handle.readFile('utf8') }
    })
  } catch (error) {
    throw refused('WORKSPACE_UNREADABLE', `${file} cannot be read`, error)
  }
}

/**
 * Replaces a file in one step, so that a crash leaves the old or the new one, and keeps who may read it. A link within the
 * workspace stays: what it leads to is replaced.
 * @throws GatewayError UNSUPPORTED_FILE, FILE_TOO_LARGE, WORKSPACE_UNWRITABLE
 */
export async function writeFile(
  workspace: string,
  name: string,
  content: string,
): Promise<WorkspaceFile & { content: string }> {
  refuseOthers(name)
  const bytes = Buffer.from(content)
  if (bytes.length > MOST_BYTES) throw tooLarge(name, bytes.length)
  const file = path.join(workspace, name)
  try {
    const known = await realFile(workspace, name)
    const target = known ?? path.join(await realpath(workspace), name)
    const before = known === undefined ? undefined : await stat(known)
    if (before && !before.isFile()) throw new Unusable('it is not a file')
    // Whoever was shut out of writing the file does not get in by its folder.
    if (before) await opened(target, constants.O_WRONLY | constants.O_NOFOLLOW, async () => {})
    return { ...described(name, file, await replace(target, bytes, before)), content: bytes.toString() }
  } catch (error) {
    throw refused('WORKSPACE_UNWRITABLE', `${file} cannot be written`, error)
  }
}

/** Whether a path is in a folder. Both are real: neither has links in it. */
export const isInside = (folder: string, file: string): boolean =>
  file.startsWith(folder.endsWith(path.sep) ? folder : folder + path.sep)

function refuseOthers(name: string): void {
  if (!NAMES.includes(name))
    throw new GatewayError('UNSUPPORTED_FILE', `unsupported file ${JSON.stringify(name.slice(0, 64))}`)
}

/** Why a file that is there is not used. */
class Unusable extends Error {}

/** The real path of a file, undefined when there is none. Links that lead out of the workspace, or nowhere, are unusable. */
async function realFile(workspace: string, name: string): Promise<string | undefined> {
  const root = await realpath(workspace)
  const file = path.join(root, name)
  let real: string
  try {
    real = await realpath(file)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    if (await lstat(file).catch(() => undefined)) throw new Unusable('it is a link that leads nowhere')
    return undefined
  }
  if (!isInside(root, real)) throw new Unusable('it is a link out of the workspace')
  return real
}

async function replace(target: string, bytes: Buffer, before: Stats | undefined): Promise<Stats> {
  const fresh = path.join(path.dirname(target), `.${path.basename(target)}.${randomBytes(6).toString('hex')}.new`)
  try {
    const stats = await keep(fresh, bytes, before)
    await rename(fresh, target)
    await syncFolder(path.dirname(target))
    return stats
  } catch (error) {
    await rm(fresh, { force: true }).catch(() => {})
    throw error
  }
}

const keep = (fresh: string, bytes: Buffer, before: Stats | undefined): Promise<Stats> =>
  opened(
    fresh,
    'wx',
    async (handle) => {
      await handle.writeFile(bytes)
      // The mask of the process took some of it away.
      if (before) await handle.chmod(before.mode & 0o777)
      await handle.sync()
      return handle.stat()
    },
    before && before.mode & 0o777,
  )

/** Makes the new name durable. It is written already: a power cut that comes before this leaves the old one or the new one. */
async function syncFolder(folder: string): Promise<void> {
  try {
    await opened(folder, 'r', (handle) => handle.sync())
  } catch {
    // Some systems, such as Windows, sync no folders.
  }
}

async function opened<T>(
  file: string,
  flags: string | number,
  use: (handle: FileHandle) => Promise<T>,
  mode?: number,
): Promise<T> {
  const handle = await open(file, flags, mode)
  try {
    return await use(handle)
  } finally {
    await handle.close()
  }
}

const described = (name: string, file: string, { size, mtimeMs }: Stats): WorkspaceFile => ({
  name,
  path: file,
  missing: false,
  size,
  updatedAtMs: Math.floor(mtimeMs),
})

const missing = (name: string, file: string): WorkspaceFile => ({ name, path: file, missing: true })

const tooLarge = (name: string, size: number): GatewayError =>
  new GatewayError('FILE_TOO_LARGE', `${name} has ${size} bytes; a file of a workspace has at most ${MOST_BYTES}`)

function refused(kind: 'WORKSPACE_UNREADABLE' | 'WORKSPACE_UNWRITABLE', what: string, error: unknown): GatewayError {
  if (error instanceof GatewayError) return error
  if (error instanceof Unusable) return new GatewayError(kind, `${what}: ${error.message}`)
  return new GatewayError(kind, `${what}: ${WORDS[codeOf(error)] ?? `the system says ${codeOf(error)}`}`)
}

const codeOf = (error: unknown): string => String((error as NodeJS.ErrnoException).code ?? error)

const WORDS: { [code: string]: string } = {
  ENOENT: 'there is no workspace folder',
  ENOTDIR: 'the workspace is no folder',
  EROFS: 'the workspace is read-only',
  EACCES: 'the gateway may not do that there; the workspace may be read-only',
  EPERM: 'the gateway may not do that there; the workspace may be read-only',
  ENOSPC: 'the disk is full',
  EISDIR: 'it is not a file',
}

/** What an agent's workspace says about it: its instructions and its name. */
import { closeSync, constants, fstatSync, openSync, readSync, realpathSync, statSync } from 'node:fs'
import path from 'node:path'
import type { AgentConfig } from './config.ts'
import { isInside } from './workspace-files.ts'

/** The files that make the prompt, in its order. */
const promptFiles = ['SOUL.md', 'IDENTITY.md', 'AGENTS.md', 'USER.md', 'CLAUDE.md'] as const

/** No file is read beyond this many bytes, whatever the limit in characters. */
const mostBytes = 4 * 1_048_576
/** More remembered files than any gateway has; beyond it all are forgotten. */
const mostRemembered = 10_000
/** Characters of a name that are shown. */
const longestName = 50

/** Told once for each state of a file that is there and cannot be used. */
export type Refused = (file: string, why: string) => void

interface Remembered {
  /** Which bytes they were: device, inode, size, times, and how much was asked for. */
  signature: string
  text: string | undefined
}

const remembered = new Map<string, Remembered>()

/**
 * Joins the workspace's files, each under its name and cut at `bootstrapMaxChars` characters (UTF-16 units) with a mark
 * that says so.
 *
 * Missing and empty files are skipped, also when there is no workspace: then it is the empty string. Costs five `stat`
 * calls when
 * nothing changed. Never throws for a file.
 */
export function systemPrompt(
  agent: Pick<AgentConfig, 'workspace'>,
  bootstrapMaxChars: number,
  refused: Refused = () => {},
): string {
  const { workspace } = agent
  if (workspace === undefined || bootstrapMaxChars <= 0) return ''
  return promptFiles
    .flatMap((name) => {
      const text = read(workspace, name, bootstrapMaxChars, refused)
      return text === undefined || text.trim() === '' ? [] : [`# ${name}\n\n${text.trim()}`]
    })
    .join('\n\n')
}

/** What an agent is to look after: its HEARTBEAT.md, cut like the files of the prompt. Undefined: there is none to be read. */
export function checklist(
  { workspace }: Pick<AgentConfig, 'workspace'>,
  bootstrapMaxChars: number,
  refused: Refused = () => {},
): string | undefined {
  return workspace === undefined ? undefined : read(workspace, 'HEARTBEAT.md', Math.max(1, bootstrapMaxChars), refused)
}

/**
 * How an agent presents itself. `IDENTITY.md` may say `Name: …` and `Emoji: …`, plain or as a list with bold keys;
 * without it the name
 * is the configured one, and the avatar its first letter.
 */
export function identity(agent: Pick<AgentConfig, 'name' | 'workspace'>): { name: string; avatar?: string } {
  const text = agent.workspace === undefined ? undefined : read(agent.workspace, 'IDENTITY.md', 20_000, () => {})
  const said = text === undefined ? {} : settingsIn(text)
  const name = first(said['name'] ?? agent.name, longestName).trim() || agent.name
  const avatar = first(said['emoji'] ?? '', 1) || first(name, 1).toUpperCase()
  return avatar === '' ? { name } : { name, avatar }
}

/** Reads one file of the workspace, or remembers it. `undefined` = missing or refused. */
function read(workspace: string, name: string, most: number, refused: Refused): string | undefined {
  const file = path.join(workspace, name)
  const key = `${most}:${file}`
  try {
    // `stat` follows links, so a link that is turned elsewhere has another inode.
    const stat = statSync(file, { throwIfNoEntry: false, bigint: true })
    if (stat === undefined) {
      remembered.delete(key)
      return undefined
    }
    const signature = [stat.dev, stat.ino, stat.size, stat.mtimeNs, stat.ctimeNs].join(':')
    const known = remembered.get(key)
    if (known?.signature === signature) return known.text
    if (remembered.size >= mostRemembered) remembered.clear()
    const text = readFresh(workspace, file, most, refused)
    remembered.set(key, { signature, text })
    return text
  } catch (error) {
    refused(file, error instanceof Error ? error.message : String(error))
    return undefined
  }
}

function readFresh(workspace: string, file: string, most: number, refused: Refused): string | undefined {
  const root = realpathSync(workspace)
  const real = realpathSync(file)
  if (!isInside(root, real)) {
    refused(file, 'it is a link out of the workspace')
    return undefined
  }
  // The real path was just checked and is not followed again; without NONBLOCK, opening a pipe would wait for a writer.
  const handle = openSync(real, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
  try {
    const stat = fstatSync(handle)
    if (!stat.isFile()) {
      refused(file, 'it is not a file')
      return undefined
    }
    // No character of UTF-8 takes more than three bytes for each UTF-16 unit, plus a byte order mark.
    const wanted = Math.min(stat.size, mostBytes, most * 3 + 3)
    const bytes = Buffer.alloc(wanted)
    let filled = 0
    while (filled < wanted) {
      const count = readSync(handle, bytes, filled, wanted - filled, filled)
      if (count === 0) break
      filled += count
    }
    // As a stream, so that a character cut at the end is left out instead of replaced.
    const text = new TextDecoder().decode(bytes.subarray(0, filled), { stream: true })
    if (text.length <= most && filled >= stat.size) return text
    const whole = withoutHalf(text.slice(0, most))
    return `${whole}\n\n[… ${path.basename(file)} is cut here after ${whole.length} characters; the file has ${stat.size} bytes]`
  } finally {
    closeSync(handle)
  }
}

/** Drops a high surrogate whose other half was cut off. */
const withoutHalf = (text: string): string => (/[\uD800-\uDBFF]$/.test(text) ? text.slice(0, -1) : text)

/**
 * Finds `Key: value` lines; the first of a key counts. Values that are hints to the writer, `*(pick one)*`, are none.
 */
function settingsIn(text: string): Record<string, string> {
  const found: Record<string, string> = {}
  for (const line of text.split(/\r?\n/)) {
    const match = /^\s*(?:[-*+]\s+)?(?:\*\*|__)?(name|emoji)\s*(?:\*\*|__)?\s*:\s*(?:\*\*|__)?\s*(.*)$/i.exec(line)
    if (match === null) continue
    const [, key = '', rest = ''] = match
    const value = rest
      .replace(/[\p{Cc}\p{Bidi_C}]/gu, '')
      .trim()
      .replace(/^([*_`"'])(.*)\1$/, '$2')
      .trim()
    if (value !== '' && !/^[*_]*\(.*\)[*_]*$/.test(value)) found[key.toLowerCase()] ??= value
  }
  return found
}

const segments = new Intl.Segmenter()

/** The first so many characters as people count them. */
function first(text: string, count: number): string {
  let taken = ''
  for (const { segment } of segments.segment(text)) {
    if (count-- <= 0) break
    taken += segment
  }
  return taken
}

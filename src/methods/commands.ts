/** What a message can be besides a message: a stop word, or a command. Each has a scope of its own. */
import type { Scope } from '../contract/block.ts'
import { QUEUE_MODES } from '../contract/queue-mode.ts'

export type Command =
  | { kind: 'stop' }
  | { kind: 'new'; rest: string }
  | { kind: 'status' }
  | { kind: 'help' }
  | { kind: 'queue'; mode: string }
  | { kind: 'think'; level: string }
  | { kind: 'model'; ref: string }
  /** A command of the reference gateway that is not for chat text here. */
  | { kind: 'refused'; name: string }

/** The commands as they are shown, without their slash. */
export const COMMANDS: readonly { name: string; args?: string; does: string }[] = [
  { name: 'status', does: 'how this session is' },
  { name: 'new', args: '[message]', does: 'begin a new conversation' },
  { name: 'stop', does: 'stop what is running (also: stop, esc, abort, wait, exit, interrupt)' },
  { name: 'think', args: 'off|minimal|low|medium|high', does: 'how much to think before answering' },
  { name: 'model', args: 'provider/model', does: 'answer with another model' },
  {
    name: 'queue',
    args: QUEUE_MODES.join('|'),
    does: 'what happens to messages that come while a run is under way',
  },
]

/** What a caller needs for a command: the same as for the method that does the same. */
export const COMMAND_SCOPES: Record<Command['kind'], Scope> = {
  stop: 'operator.write',
  status: 'operator.read',
  help: 'operator.read',
  new: 'operator.admin',
  queue: 'operator.admin',
  think: 'operator.admin',
  model: 'operator.admin',
  refused: 'operator.admin',
}

/** Characters of a text in which a command's name must stand. */
const LOOKED_AT = 256

const STOP_WORDS = new Set(['stop', 'esc', 'abort', 'wait', 'exit', 'interrupt'])
/** They change the gateway or run things: never from text that a run, or whoever may only write, can send. */
const REFUSED = new Set([
  'config',
  'restart',
  'approve',
  'allowlist',
  'elevated',
  'exec',
  'bash',
  'debug',
  'send',
  'activation',
  'plugins',
  'mcp',
])

/** A text without what is not shown: format and control characters, fillers, selectors, joiners. */
const seen = (text: string): string =>
  text.replace(/[\p{Cf}\p{Cc}\p{DI}]/gu, (character) => (/\s/.test(character) ? ' ' : ''))

/** The command in a text, or undefined for an ordinary message. Text that only looks like a path or a name is a message. */
export function readCommand(text: string): Command | undefined {
  // Compatibility forms and invisible characters, however many, must not hide a command from the check of its scope. Only the
  // beginning of what one can see is folded: that takes a time that grows with the square of a hostile text, and a command's name
  // is short.
  const head = seen(seen(text).trimStart().slice(0, LOOKED_AT).normalize('NFKC')).trim()
  if (text.length <= LOOKED_AT && STOP_WORDS.has(head.toLowerCase())) return { kind: 'stop' }
  const match = /^\/([a-z][a-z_-]*)(?:$|[:\s])/i.exec(head)
  if (!match) return undefined
  const name = match[1]!.toLowerCase()
  const rest = text.replace(/^[\s\p{Cf}\p{Cc}\p{DI}]*[^\s:]+:?\s*/u, '').trim()
  switch (name) {
    case 'stop':
    case 'abort':
      return { kind: 'stop' }
    case 'new':
    case 'reset':
      return { kind: 'new', rest }
    case 'status':
      return { kind: 'status' }
    case 'help':
    case 'commands':
      return { kind: 'help' }
    case 'queue':
      return { kind: 'queue', mode: rest.toLowerCase().split(/\s/, 1)[0]! }
    case 'think':
    case 'thinking':
      return { kind: 'think', level: rest.toLowerCase() }
    case 'model':
      return { kind: 'model', ref: rest }
    default:
      return REFUSED.has(name) ? { kind: 'refused', name } : undefined
  }
}

/** The first turn of a conversation that was begun with a bare `/new`. */
export const GREETING =
  'A new conversation begins here. Say hello in your own voice, in a sentence or two, and ask what is to be done.'

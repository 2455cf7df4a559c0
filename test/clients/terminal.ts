/** A program in a terminal of its own: what it draws there, and what one types. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout } from 'node:timers/promises'
import { leave } from '../support/leftovers.ts'

export interface Terminal {
  /** Every line that was drawn, in that order, without colours and movements. A line that is drawn anew comes again. */
  lines: string[]
  type(text: string): void
  /** Resolves once a line is drawn that fits, also one drawn before. @throws after `seconds` (180), with the last lines */
  until(fits: (line: string) => boolean, seconds?: number): Promise<void>
  /** Its exit code, once it has ended. @throws after three minutes */
  ended(): Promise<number | null>
  /** Ends it, unless it has ended. */
  close(): Promise<void>
}

/** The Debian package that makes the terminal. */
export const SCRIPT = { name: 'bsdutils', file: '/usr/bin/script' }

/** On a busy machine a program may take a minute to begin. */
const LIMIT_S = 180
const ROWS = 40
const COLUMNS = 100

/** Movements, colours, links and titles. */
const DRAWING = /\x1b\[[0-9;?<>=]*[a-zA-Z]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[()][A-Z0-9]|\x1b[=>]/g

/** @param command words without blanks and quotes */
export function openTerminal(command: string[], env: Record<string, string>): Terminal {
  const inside = `stty rows ${ROWS} cols ${COLUMNS}; exec ${command.join(' ')}`
  const child = spawn(SCRIPT.file, ['-qefc', inside, '/dev/null'], { env, stdio: ['pipe', 'pipe', 'inherit'] })
  const gone = leave(() => child.kill('SIGKILL'))
  const exited = once(child, 'exit').then(([code]) => {
    gone()
    return code as number | null
  })
  const lines: string[] = []
  const watchers = new Set<() => void>()
  let open = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    const pieces = `${open}${text}`.split(/\r\n|\n|\r/)
    // What is not ended by a line's end may be half a movement.
    open = pieces.pop() ?? ''
    lines.push(...pieces.map((piece) => piece.replace(DRAWING, '').trimEnd()))
    for (const look of watchers) look()
  })
  const drawn = () => [...lines, open.replace(DRAWING, '').trimEnd()]
  return {
    lines,
    async ended() {
      const late = Symbol('late')
      const code = await Promise.race([exited, setTimeout(LIMIT_S * 1_000, late, { ref: false })])
      if (code === late)
        throw new Error(`it did not end within ${LIMIT_S} s; the last lines:\n${drawn().slice(-20).join('\n')}`)
      return code
    },
    type: (text) => void child.stdin.write(text),
    async until(fits, seconds = LIMIT_S) {
      if (drawn().some(fits)) return
      const { promise, resolve, reject } = Promise.withResolvers<void>()
      const look = () => drawn().some(fits) && resolve()
      watchers.add(look)
      const late = globalThis.setTimeout(
        () => reject(new Error(`not drawn within ${seconds} s; the last lines:\n${drawn().slice(-20).join('\n')}`)),
        seconds * 1_000,
      )
      await promise.finally(() => {
        clearTimeout(late)
        watchers.delete(look)
      })
    },
    async close() {
      child.kill('SIGKILL')
      await exited
    },
  }
}

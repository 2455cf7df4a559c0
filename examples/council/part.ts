/** The processes that an example consists of: started, waited for, and ended with it. */
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'

export interface Part {
  /** The line by which it says that it is ready. Rejects with the part's name and its last words when it ends instead. */
  ready: Promise<string>
  /** Rejects if it ends before it is told to. */
  lives: Promise<never>
  /** Asks it to end, and does not wait for ever. */
  end(): Promise<void>
}

const PATIENCE_MS = 5_000
const LAST_WORDS = 6

/** Parts that run: whatever becomes of this process, they go with it. */
const running = new Set<() => void>()
process.on('exit', () => {
  for (const kill of running) kill()
})

/** @param isReady whether it says so by this line */
export function startPart(
  name: string,
  [program, ...args]: [string, ...string[]],
  { env, isReady }: { env: Record<string, string | undefined>; isReady(line: string): boolean },
): Part {
  // In a group of its own: Ctrl-C is for the one who started it, who ends all in order.
  const child = spawn(program, args, { env, stdio: ['pipe', 'pipe', 'pipe'], detached: true })
  const kill = () => void child.kill('SIGKILL')
  running.add(kill)
  const ready = Promise.withResolvers<string>()
  const lives = Promise.withResolvers<never>()
  const gone = Promise.withResolvers<void>()
  for (const promise of [ready.promise, lives.promise]) promise.catch(() => {})
  const said: string[] = []
  let isToEnd = false
  for (const stream of [child.stdout, child.stderr])
    createInterface({ input: stream }).on('line', (line) => {
      said.push(line)
      if (said.length > LAST_WORDS) said.shift()
      if (isReady(line)) ready.resolve(line)
    })
  const over = (how: string) => {
    running.delete(kill)
    gone.resolve()
    const error = new Error([`${name} ${how}`, ...said].join('\n  '))
    ready.reject(error)
    if (!isToEnd) lives.reject(error)
  }
  child.stdin.on('error', () => {})
  child.on('error', (error) => over(`could not be started: ${error.message}`))
  child.on('close', (code, signal) => over(`ended with ${signal ?? code}`))
  return {
    ready: ready.promise,
    lives: lives.promise,
    async end() {
      isToEnd = true
      child.stdin.end()
      child.kill('SIGTERM')
      const timer = setTimeout(kill, PATIENCE_MS)
      await gone.promise
      clearTimeout(timer)
    },
  }
}

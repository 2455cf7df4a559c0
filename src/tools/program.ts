/** A program that is spoken to line by line, over its standard input and output. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'

export interface ProgramNeeds {
  command: string
  args: readonly string[]
  /** All of its environment. */
  env: Record<string, string>
  cwd?: string
  onLine(line: string): void
  /** A line of its standard error. */
  onSaid(line: string): void
  /** It ended by itself, or can no longer be spoken to. Told once at the most, and not after `close`. */
  onGone(why: string): void
}

export interface Program {
  /** Resolves when it runs; rejects with why it does not. */
  start(): Promise<void>
  /** Throws when it cannot be told anything. */
  say(line: string): void
  /** Ends it and all that it has started: asked at first, killed after 2 s. Never rejects; the same each time. */
  close(): Promise<void>
}

const KILL_AFTER_MS = 2_000
/** How long the system may take to end what it was told to kill. */
const KILLED_MS = 1_000
/** How long what it has said last is waited for. */
const LAST_WORDS_MS = 200
/** Bytes of one line, and of what it has not read yet. */
const MOST_BYTES = 10 * 1024 * 1024
/** Characters of a line of its standard error. */
const MOST_SAID = 10_000

export function createProgram(needs: ProgramNeeds): Program {
  let child: ChildProcess | undefined
  let closing: Promise<void> | undefined
  let isGone = false

  function gone(why: string): void {
    if (isGone || closing) return
    isGone = true
    needs.onGone(why)
  }

  const whyEnded = ({ exitCode, signalCode }: ChildProcess): string => {
    if (signalCode !== null) return `it was ended by ${signalCode}`
    return exitCode === null ? 'it closed its output' : `it ended with code ${exitCode}`
  }

  async function start(): Promise<void> {
    const { command, args, env, cwd } = needs
    // Its own group: what it starts ends with it, and a Ctrl-C at the gateway's terminal does not end it before its calls.
    const started = spawn(command, args, {
      env,
      cwd,
      detached: true,
      stdio: ['pipe', 'pipe', 'pipe'],
      windowsHide: true,
    })
    child = started
    // Writing to a program that has ended fails; that it has ended is told below.
    started.stdin.on('error', () => {})
    try {
      await once(started, 'spawn')
    } catch (error) {
      throw new Error(`${command} could not be started (${(error as NodeJS.ErrnoException).code}); is it installed?`)
    }
    started.on('error', ({ message }) => gone(message))
    if (!closing) remember(started.pid!)
    started.stdout.on(
      'data',
      lines(MOST_BYTES, needs.onLine, () => gone('it sent a line that is too long')),
    )
    const said = lines(MOST_SAID, needs.onSaid)
    started.stderr.on('data', said)
    // The last line may have no end.
    started.stderr.once('end', () => said(Buffer.from('\n')))
    const settle = () => setTimeout(() => gone(whyEnded(started)), LAST_WORDS_MS)
    started.once('close', () => gone(whyEnded(started)))
    started.once('exit', settle)
    started.stdout.once('end', settle)
  }

  async function end(program: ChildProcess): Promise<void> {
    const { pid, stdin, stdout, stderr } = program
    if (pid === undefined) return
    stdin?.end()
    signalGroup(pid, hasEnded(program) ? 'SIGKILL' : 'SIGTERM')
    await until(() => !signalGroup(pid, 0), KILL_AFTER_MS)
    signalGroup(pid, 'SIGKILL')
    await until(() => hasEnded(program), KILLED_MS)
    forget(pid)
    for (const stream of [stdin, stdout, stderr]) stream?.destroy()
  }

  return {
    start,
    say(line) {
      const stdin = child?.stdin
      if (!stdin?.writable) throw new Error('it listens no more')
      if (stdin.writableLength > MOST_BYTES) throw new Error('it does not read what it is told')
      stdin.write(`${line}\n`)
    },
    close() {
      closing ??= child ? end(child) : Promise.resolve()
      return closing
    },
  }
}

/** Cuts a stream of bytes into lines. What is longer than `most` bytes is told to `onOverflow`, or cut. */
function lines(most: number, onLine: (line: string) => void, onOverflow?: () => void): (bytes: Buffer) => void {
  let parts: Buffer[] = []
  let length = 0
  const flush = () => {
    const line = Buffer.concat(parts).toString().trimEnd()
    parts = []
    length = 0
    if (line !== '') onLine(line)
  }
  return (bytes) => {
    for (let from = 0; from < bytes.length; ) {
      const newline = bytes.indexOf(10, from)
      const to = newline < 0 ? bytes.length : newline
      if (length + to - from > most && onOverflow) return onOverflow()
      const part = bytes.subarray(from, Math.min(to, from + most - length))
      // An empty one would keep all the bytes that it was cut from.
      if (part.length > 0) parts.push(part)
      length += part.length
      if (newline >= 0) flush()
      from = to + 1
    }
  }
}

/** Sends a signal to all that a program has started; false when nobody is left. */
function signalGroup(pid: number, signal: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(-pid, signal)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/** Programs that run: they are killed when this process ends without having ended them. */
const running = new Set<number>()

function killAll(): void {
  for (const pid of running) signalGroup(pid, 'SIGKILL')
}

function remember(pid: number): void {
  if (running.size === 0) process.on('exit', killAll)
  running.add(pid)
}

function forget(pid: number): void {
  running.delete(pid)
  if (running.size === 0) process.off('exit', killAll)
}

const hasEnded = ({ exitCode, signalCode }: ChildProcess): boolean => exitCode !== null || signalCode !== null

/** Looks every 20 ms whether something has come true, for so many ms at the most. */
async function until(isSo: () => boolean, mostMs: number): Promise<void> {
  for (const from = performance.now(); !isSo() && performance.now() - from < mostMs; )
    await new Promise((resolve) => setTimeout(resolve, 20))
}

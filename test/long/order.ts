/**
 * The order of system calls, as `strace` sees it: a turn is acknowledged only after the log of the database was synced behind the
 * last page of the transaction that keeps it; the same for its start, before the model is asked, and for its end, before
 * anybody is told. `kill -9` cannot tell: what was written and not synced survives it.
 */
import { spawnSync } from 'node:child_process'
import { createReadStream, readFileSync, statSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { question } from '../support/babbler.ts'
import { type GatewayProcess, startProcess } from '../support/gateway-process.ts'
import { GATEWAY, inStints, type Stint, wait } from './ground.ts'
import { type Line, openLine } from './line.ts'
import { type Rounds, random, type Suite } from './suite.ts'
import { createTally, type Tally } from './tally.ts'

/** Turns that one trace is of: it takes a fifth of a megabyte for each. */
const TURNS_A_TRACE = 200
const LINES = 4
/** Turns at once where they come several at a time. */
const AT_ONCE = 8
/** How long a traced run may take, and the tracer to write what it has, in ms. */
const PATIENCE_MS = 30_000

/**
 * The gateway stays the process that was started (`-D`); strings are long enough for every frame and page; files and sockets
 * are named.
 */
const STRACE = ['strace', '-D', '-f', '--seccomp-bpf', '-q', '-s', '70000', '-yy', '-e', 'signal=none', '-e']
const CALLS = 'trace=pwrite64,fsync,fdatasync,write,writev,sendto,sendmsg'

export const order: Suite = {
  summary: 'each answer leaves after the sync that makes it true: traced with strace, call by call',
  few: 50,
  many: 10_000,
  async run(how) {
    const tally = createTally([
      'acknowledged turns',
      'syncs of the log',
      ...Object.values(BREACH),
      'acknowledged, and not in the trace',
      'turns refused',
    ])
    if (!canTrace()) {
      tally.add('not traced: strace is missing or may not trace', how.rounds)
      return tally
    }
    await inStints('order', { rounds: how.rounds, each: TURNS_A_TRACE }, (stint) => trace(stint, tally, how))
    return tally
  },
}

const canTrace = (): boolean =>
  spawnSync('strace', ['-f', '--seccomp-bpf', '-o', '/dev/null', '-e', CALLS, 'true']).status === 0

/** Sends turns to a gateway that is traced, then reads the trace. */
async function trace({ folder, babbler, first, last }: Stint, tally: Tally, { seed, say }: Rounds): Promise<void> {
  const roll = random(seed + first)
  const file = join(folder, 'trace')
  const under = [...STRACE, CALLS, '-o', file]
  let gateway: GatewayProcess | undefined
  const acked: string[] = []
  try {
    gateway = await startProcess(folder, babbler.url, { ...GATEWAY, under })
    const ends = new Map<string, () => void>()
    const lines = await Promise.all(
      Array.from({ length: LINES }, () =>
        openLine(gateway!.url, {
          protocol: 3,
          onEvent: ({ event, payload }) => {
            if (event === 'chat' && payload.state !== 'delta') ends.get(payload.runId)?.()
          },
          onGap: (sentence) => tally.breach('turns refused', sentence),
        }),
      ),
    )
    const send = async (n: number) => {
      const key = `k${String(n).padStart(6, '0')}z`
      const end = new Promise<void>((resolve) => ends.set(key, resolve))
      const line = lines[Math.floor(roll() * LINES)]!
      const turn = turnOf(key, roll)
      const copies = roll() < 0.1 ? 2 : 1
      const isAcked = await Promise.all(Array.from({ length: copies }, () => turn(line)))
      if (isAcked.includes(false)) return tally.breach('turns refused', `${key} (seed ${seed})`)
      acked.push(key)
      await Promise.race([end, wait(PATIENCE_MS)])
    }
    // One after another first, then several at a time.
    const middle = Math.floor((first + last) / 2)
    for (let n = first; n < middle; n++) await send(n)
    for (let n = middle; n < last; n += AT_ONCE)
      await Promise.all(Array.from({ length: Math.min(AT_ONCE, last - n) }, (_, more) => send(n + more)))
    gateway.terminate()
    await gateway.exited
    await written(file, gateway.pid)
  } finally {
    await gateway?.kill()
  }
  tally.add('acknowledged turns', acked.length)
  await judge(file, acked, tally, `(turns from ${first}, seed ${seed})`)
  say(`${last} turns, ${tally.counts['syncs of the log']} syncs`)
}

/** A turn that can be sent by any line, as often as wanted. Resolves to whether it was acknowledged. */
function turnOf(key: string, roll: () => number): (line: Line) => Promise<boolean> {
  const sessionKey = `s${Math.floor(roll() * 40)}`
  const message = question(key, {
    seed: Math.floor(roll() * 1e9),
    pieces: 1 + Math.floor(roll() * 8),
    longest: 8,
    gap: 3,
  })
  const params = { sessionKey, message, idempotencyKey: key }
  const [method, body] = roll() < 0.3 ? ['agent', { ...params, agentId: 'main' }] : ['chat.send', params]
  return async (line) => (await line.ask(method as string, body as object))?.['ok'] === true
}

/** Resolves when the tracer has written the end of the process. */
async function written(file: string, pid: number): Promise<void> {
  const end = performance.now() + PATIENCE_MS
  while (performance.now() < end) {
    const { size } = statSync(file)
    const handle = await open(file)
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(400), 0, 400, Math.max(0, size - 400))
    await handle.close()
    if (new RegExp(`^${pid} +\\+\\+\\+ exited`, 'm').test(buffer.toString('latin1', 0, bytesRead))) return
    await wait(10)
  }
  throw new Error(`the trace does not end:\n${readFileSync(file, 'latin1').slice(-400)}`)
}

const KEY = /k\d{6}z/g
/** As `strace` prints what is on its way to a client, or to the model. */
const SAID = {
  ack: /\\"ok\\":true,\\"payload\\":\{\\"runId\\":\\"(k\d{6}z)\\"/g,
  start: /(k\d{6}z) babble seed=/g,
  end: /\\"event\\":\\"chat\\",\\"payload\\":\{\\"runId\\":\\"(k\d{6}z)\\"[^}]*?\\"state\\":\\"final\\"/g,
}
/** Synced transactions that have to be behind it: the turn is kept, its start is, its end is. */
const NEEDED = { ack: 1, start: 2, end: 3 }
const BREACH = {
  ack: 'acknowledged before the sync',
  start: 'models asked before the sync of the start',
  end: 'ends told before their sync',
}

/** Goes through a trace, call by call, knowing which transactions have been synced. */
async function judge(file: string, acked: string[], tally: Tally, where: string): Promise<void> {
  /** Keys in the pages of the transaction that is being written, and in those that are written and not synced. */
  let pages = new Set<string>()
  let unsynced: Set<string>[] = []
  let isLastPage = false
  /** In how many synced transactions each key was. A page that is written again for another's sake counts, too. */
  const synced = new Map<string, number>()
  const told = { ack: new Set<string>(), start: new Set<string>(), end: new Set<string>() }
  const kinds = ['ack', 'start', 'end'] as const

  function onPage(text: string): void {
    for (const [key] of text.matchAll(KEY)) pages.add(key)
    if (!isLastPage) return
    unsynced.push(pages)
    pages = new Set()
    isLastPage = false
  }

  function onSynced(): void {
    tally.add('syncs of the log')
    for (const keys of unsynced) for (const key of keys) synced.set(key, (synced.get(key) ?? 0) + 1)
    unsynced = []
  }

  function onSent(text: string, number: number): void {
    for (const kind of kinds)
      for (const [, key] of text.matchAll(SAID[kind])) {
        if (told[kind].has(key!)) continue
        told[kind].add(key!)
        const have = synced.get(key!) ?? 0
        if (have < NEEDED[kind])
          tally.breach(BREACH[kind], `${key} with ${have} of ${NEEDED[kind]} syncs, line ${number} ${where}`)
      }
  }

  /** Threads in the middle of a sync of the log. */
  const syncing = new Set<string>()
  let number = 0
  for await (const line of createInterface({ input: createReadStream(file, 'latin1') })) {
    number += 1
    const [, thread = '', call = '', on = ''] = /^(\d+) +(?:<\.\.\. )?(\w+)(?: resumed>|\(\d+<([^>]*))/.exec(line) ?? []
    if (call === 'pwrite64' && on.endsWith('-wal')) {
      const head = frameHead(line)
      if (head) isLastPage = head.isCommit
      else onPage(line)
    } else if (call === 'fsync' || call === 'fdatasync') {
      if (on.endsWith('-wal')) syncing.add(thread)
      if (line.endsWith('<unfinished ...>') || !syncing.delete(thread)) continue
      if (line.endsWith(' = 0')) onSynced()
    } else if (on.startsWith('TCP')) onSent(line, number)
  }
  for (const kind of kinds)
    for (const key of acked)
      if (!told[kind].has(key)) tally.breach('acknowledged, and not in the trace', `${kind} of ${key} ${where}`)
}

/** The head of a frame of the log, which is written by itself: the number of pages after a commit, else 0, stands at its fourth byte. */
function frameHead(line: string): { isCommit: boolean } | undefined {
  const [, escaped] = /, "((?:[^"\\]|\\.)*)", 24, \d+/.exec(line) ?? []
  if (escaped === undefined) return undefined
  const bytes = [...escaped.matchAll(/\\[0-7]{1,3}|\\.|[^\\]/g)].map(([byte]) => byte)
  return { isCommit: bytes.slice(4, 8).some((byte) => byte !== '\\0') }
}

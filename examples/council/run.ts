/** `npm run council [-- "request"]`: six scripted agents at a gateway of their own, and who of them speaks to whom. Needs no key. */
import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { constants, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Client, connect } from '../../src/client/client.ts'
import type { Payload, Result } from '../../src/contract/index.ts'
import { configOf, SEATS, type Seat } from './council.ts'
import { type Part, startPart } from './part.ts'
import { type Branch, createColumn, createSequence, drawTree, type Paper } from './sequence.ts'

const DEFAULT_REQUEST = 'Write a short note on the history of the kurultai'
/** What this program itself is run by: with types to be stripped. */
const node: [string, string] = [process.execPath, '--disable-warning=ExperimentalWarning']
const YOU = 'You'
/** From the request to the answer. */
const PATIENCE_MS = 60_000

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url))
const nameOf = (agentId: string) => SEATS.find(({ id }) => id === agentId)?.name ?? agentId

const request = process.argv.slice(2).join(' ').trim() || DEFAULT_REQUEST
const paper: Paper = {
  width: Math.max(40, process.stdout.columns ?? (Number(process.env['COLUMNS']) || 80)),
  isColoured: process.stdout.isTTY === true && !process.env['NO_COLOR'],
  write: (text) => void process.stdout.write(text),
}
const folder = mkdtempSync(join(tmpdir(), 'kurultai-council-'))
process.on('exit', () => rmSync(folder, { recursive: true, force: true, maxRetries: 3 }))
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
  process.on(signal, () => {
    console.error('\nstopped')
    process.exit(128 + constants.signals[signal])
  })
// Whoever reads it may have read enough.
process.stdout.on('error', () => process.exit(0))

try {
  await convene()
  process.exit(0)
} catch (error) {
  console.error(`\nThe council failed: ${(error as Error).message}`)
  process.exit(1)
}

async function convene(): Promise<void> {
  const token = randomBytes(24).toString('base64url')
  const parts: Part[] = []
  const orEnd = <T>(promise: Promise<T>): Promise<T> => Promise.race([promise, ...parts.map(({ lives }) => lives)])

  const gateway = startGateway(token)
  parts.push(gateway)
  const url = `ws://127.0.0.1:${/:(\d+)/.exec(await gateway.ready)![1]}/`

  const python = pythonWith(['websockets', 'cryptography'])
  if (python === undefined)
    paper.write('No python3 with websockets and cryptography here: all six agents run in Node.\n')
  const agents = SEATS.map((seat) => startAgent(seat, python, url, token))
  parts.push(...agents)
  await orEnd(Promise.all(agents.map(({ ready }) => ready)))

  const client = await connect({ url, token, reconnect: false })
  await orEnd(Promise.race([converse(client), tooLong()]))
  client.close()
  await Promise.all(agents.map((agent) => agent.end()))
  await gateway.end()
}

function startGateway(token: string): Part {
  const config = join(folder, 'openclaw.json5')
  writeFileSync(config, JSON.stringify(configOf(token, join(folder, 'workspace'))), { mode: 0o600 })
  const args = ['--port', '0', '--bind', 'loopback', '--state-dir', folder, '--config', config, '--allow-unconfigured']
  return startPart('the gateway', [...node, here('../../src/index.ts'), 'gateway', ...args], {
    env: { PATH: process.env['PATH'], HOME: folder, LOG_LEVEL: 'error' },
    isReady: (line) => / running on \S+:\d+/.test(line),
  })
}

function startAgent({ id, name, language }: Seat, python: string | undefined, url: string, token: string): Part {
  const isPython = language === 'Python' && python !== undefined
  const env = { PATH: process.env['PATH'], OPENCLAW_GATEWAY_URL: url, OPENCLAW_GATEWAY_TOKEN: token }
  const isReady = (line: string) => line === 'ready'
  if (!isPython) return startPart(`${name} (Node)`, [...node, here('councillor.ts'), id], { env, isReady })
  return startPart(`${name} (Python)`, [python, here('councillor.py'), id, join(folder, `${id}.key`)], {
    env: {
      ...env,
      PYTHONPATH: here('../../src/client/python'),
      PYTHONDONTWRITEBYTECODE: '1',
      PYTHONIOENCODING: 'utf-8',
    },
    isReady,
  })
}

/** A Python that has these modules; Debian's before the one that is called so. */
function pythonWith(modules: string[]): string | undefined {
  const has = (python: string) =>
    spawnSync(python, ['-c', `import ${modules.join(', ')}`], { stdio: 'ignore' }).status === 0
  return [process.env['KURULTAI_TEST_PYTHON'], '/usr/bin/python3', 'python3'].find(
    (one) => one !== undefined && has(one),
  )
}

/** Puts the request, and draws what comes of it. */
async function converse(client: Client): Promise<void> {
  const sequence = createSequence(paper, [YOU, ...SEATS.map(({ name }) => name)])
  const numbers = new Map<string, number>()
  const startedAt = Date.now()
  const since = (ts: number) => Math.max(0, ts - startedAt)
  let drawn = Promise.resolve()
  /** One after the other, in the order in which it was heard. */
  const draw = (what: () => void | Promise<void>) => {
    drawn = drawn.then(what)
    return drawn
  }

  sequence.begin()
  sequence.arrow({ at: 0, from: YOU, to: nameOf('main'), hop: 0, kind: 'message', label: 'request', text: request })
  const chat = client.chat({ sessionKey: 'agent:main:main', message: request })
  const failed = Promise.withResolvers<never>()
  client.on('agent.message', (event) => {
    if (event.chainId === chat.runId) draw(() => drawMessage(event)).catch(failed.reject)
  })
  await Promise.race([answer(), failed.promise])

  async function drawMessage({ messageId, state, from, to, hop, ts }: Payload<'agent.message'>): Promise<void> {
    // That it was heard is told at the end, for all of them.
    if (state === 'answered') return
    const number = numbers.get(messageId) ?? numbers.size + 1
    numbers.set(messageId, number)
    const [sender, receiver] = [nameOf(from.agentId), nameOf(to.agentId)]
    if (state === 'started') return sequence.mark(since(ts), receiver, number)
    const { message, answer: text, error } = await client.request('messages.get', { messageId })
    const label = `#${number} ${state}`
    if (state === 'delivered')
      return sequence.arrow({ at: since(ts), from: sender, to: receiver, hop, kind: 'message', label, text: message })
    const isBad = state !== 'replied'
    const said = (isBad ? error : text) ?? ''
    sequence.arrow({ at: since(ts), from: receiver, to: sender, hop, kind: 'answer', label, text: said, isBad })
  }

  async function answer(): Promise<void> {
    const write = createColumn(paper, 2)
    let isBegun = false
    for await (const chunk of chat) {
      if (chunk.type === 'aborted' || chunk.type === 'stopped') throw new Error(`Kublai was stopped (${chunk.type})`)
      if (chunk.type !== 'delta') continue
      const at = Date.now()
      await draw(() => {
        if (!isBegun) paper.write(`${(since(at) / 1000).toFixed(2).padStart(6)}  Kublai answers:\n\n`)
        isBegun = true
        write(chunk.text)
      })
    }
    await drawn
    const { tree, totals } = await client.request('chains.get', { chainId: chat.runId })
    const { messages } = await client.request('messages.list', {})
    const branch = branchOf(tree[0]!, new Map(messages.map((message) => [message.messageId, message])))
    paper.write(`\n\nThe chain of it: ${count(totals.messages, 'message')}, ${count(totals.hops, 'hop')} deep\n\n`)
    drawTree(paper, branch)
  }

  type Node = Result<'chains.get'>['tree'][number]
  type Messages = Map<string, Result<'messages.list'>['messages'][number]>

  function branchOf(
    { messageId, agentId, state, hop, acceptedAt, endedAt, children }: Node,
    messages: Messages,
  ): Branch {
    const message = messageId === undefined ? undefined : messages.get(messageId)
    return {
      name: message ? `#${numbers.get(message.messageId) ?? '?'} ${nameOf(agentId)}` : nameOf(agentId),
      facts: [
        state,
        ...(message ? [message.heard ? 'heard once' : 'not heard', `hop ${hop}`] : []),
        ...(endedAt === undefined ? [] : [`${((endedAt - acceptedAt) / 1000).toFixed(2)} s`]),
      ],
      children: (children as Node[]).map((child) => branchOf(child, messages)),
    }
  }
}

function tooLong(): Promise<never> {
  return new Promise((_, reject) => {
    const words = `Kublai has not answered within ${PATIENCE_MS / 1000} s; what is drawn above is how far it came`
    setTimeout(() => reject(new Error(words)), PATIENCE_MS).unref()
  })
}

function count(many: number, what: string): string {
  return `${many} ${what}${many === 1 ? '' : 's'}`
}

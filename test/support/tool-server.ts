/**
 * A server of tools that speaks the Model Context Protocol in plain lines of JSON-RPC, as a program or over HTTP.
 *
 * Its tools: `echo` says its text, `environment` its environment, `hang` never answers, `die` ends the program with a code,
 * `change` adds the tool `late` and says so, `large` says so many characters, `parts` so many in so many parts, `zeros` that are
 * none, `deep` so many lists inside each other, `picture` shows one, `fail` fails, `refuse` is
 * refused, `betray` with the key it is called with, `calls` tells what it was asked so far, `same name` and `same_name` differ in a space.
 *
 * Runs by itself with `node test/support/tool-server.ts [options]`:
 *
 * - `--page N`: so many tools on a page of its list (all).
 * - `--many N`: so many more tools.
 * - `--ill`: more tools, with schemas that are none, and entries that are no tools.
 * - `--silent`: never answers. `--quit CODE`: ends at once, `--last WORDS`: having said this on its standard error. `--noise`: talks besides the protocol.
 * - `--stubborn FILE`: ignores SIGTERM and the end of its input, and starts a program that does so, too; their ids are written
 *   to the file. `--id FILE`: writes its own.
 */
import { spawn } from 'node:child_process'
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { createServer, type IncomingHttpHeaders, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { createInterface } from 'node:readline'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

interface Message {
  jsonrpc: '2.0'
  id?: number
  method?: string
  params?: { [name: string]: unknown }
  result?: unknown
  error?: { code: number; message: string }
}

export interface Behaviour {
  page?: number
  many?: number
  isIll?: boolean
  /** Answers no list but the first until it is called with `release`, and the newest first then. */
  isHolding?: boolean
}

const object = (properties: object = {}, required: string[] = []) => ({ type: 'object', properties, required })

const TOOLS = [
  { name: 'echo', description: 'Says it again.', inputSchema: object({ text: { type: 'string' } }, ['text']) },
  { name: 'environment', inputSchema: object() },
  { name: 'hang', inputSchema: object() },
  { name: 'die', inputSchema: object({ code: { type: 'integer' } }) },
  { name: 'change', inputSchema: object() },
  { name: 'large', inputSchema: object({ size: { type: 'integer' } }, ['size']) },
  { name: 'picture', title: 'Shows a picture.', inputSchema: object() },
  { name: 'fail', inputSchema: object() },
  { name: 'refuse', inputSchema: object() },
  { name: 'calls', inputSchema: object() },
  { name: 'same name', inputSchema: object() },
  { name: 'same_name', inputSchema: object() },
]

/** What `--ill` adds: a pattern that takes for ever, schemas of all that is no object, and what is no tool. */
const ILL = [
  { name: 'slow', inputSchema: object({ text: { type: 'string', pattern: '^(a+)+$' } }) },
  { name: 'wrong', inputSchema: { type: 'object', properties: { x: { $ref: '#/nowhere' }, y: { pattern: '(' } } } },
  { name: 'text', inputSchema: { type: 'string' } },
  { name: 'none' },
  { name: 'yes', inputSchema: true },
  { name: 'deep', inputSchema: { type: 'object', x: 'nest 20000' } },
  { name: 'huge', inputSchema: object({ x: { description: 'x'.repeat(60_000) } }) },
  { name: 'wordy', description: '😀'.repeat(3_000), inputSchema: object() },
  { name: 7 },
  null,
  'tool',
]

/** One server, and whatever way its messages take. */
function createToolServer(
  { page, many = 0, isIll = false, isHolding = false }: Behaviour,
  say: (message: Message) => void,
  die: (code: number) => void,
) {
  const more = Array.from({ length: many }, (_, n) => ({ name: `more${n}`, inputSchema: object() }))
  const tools: unknown[] = [...TOOLS, ...more, ...(isIll ? ILL : [])]
  const asked: string[] = []
  let held: (() => void)[] | undefined

  function call(name: unknown, args: { [name: string]: unknown }): object | undefined {
    const said = (words: string, isError = false) => ({ content: [{ type: 'text', text: words }], isError })
    switch (name) {
      case 'echo':
        return said(String(args['text']))
      case 'environment':
        return said(JSON.stringify(process.env))
      case 'hang':
        return undefined
      case 'die':
        die(Number(args['code'] ?? 1))
        return undefined
      case 'change':
        tools.push({ name: 'late', inputSchema: object() })
        say({ jsonrpc: '2.0', method: 'notifications/tools/list_changed' })
        return said('changed')
      case 'large':
        return said('x'.repeat(Number(args['size'])))
      case 'parts':
        return { content: Array(Number(args['count'])).fill({ type: 'text', text: 'x'.repeat(Number(args['size'])) }) }
      case 'zeros':
        return { content: Array(Number(args['count'])).fill(0) }
      case 'deep':
        return { content: [], structuredContent: `nest ${args['depth']}` }
      case 'picture':
        return {
          content: [
            { type: 'text', text: 'here:' },
            { type: 'image', mimeType: 'image/png', data: 'AAAA' },
            { type: 'resource_link', uri: 'file:///a.txt', name: 'a' },
            { type: 'resource', resource: { uri: 'file:///b.txt', text: 'inside' } },
            { type: 'of tomorrow' },
          ],
        }
      case 'fail':
        return said('it is broken', true)
      case 'release':
        isHolding = false
        for (const say of held?.toReversed() ?? []) say()
        return said('released')
      case 'calls':
        return said(asked.join(' '))
      default:
        return said(`this is ${JSON.stringify(name)}, asked with ${JSON.stringify(args)}`)
    }
  }

  return function hear({ id, method, params = {} }: Message): void {
    asked.push(method === 'tools/call' ? `call:${params['name']}` : `${method}`)
    if (id === undefined) return
    const answer = (result: unknown) => say({ jsonrpc: '2.0', id, result })
    const refuse = (code: number, message: string) => say({ jsonrpc: '2.0', id, error: { code, message } })
    switch (method) {
      case 'initialize':
        return answer({
          protocolVersion: params['protocolVersion'],
          capabilities: { tools: { listChanged: true } },
          serverInfo: { name: 'fake', version: '1' },
        })
      case 'tools/list': {
        const from = Number(params['cursor'] ?? 0)
        const to = from + (page ?? tools.length)
        const list = { tools: tools.slice(from, to), ...(to < tools.length && { nextCursor: String(to) }) }
        if (isHolding && held) return void held.push(() => answer(list))
        held ??= []
        return answer(list)
      }
      case 'tools/call': {
        if (params['name'] === 'refuse') return refuse(-32602, 'not with these arguments')
        if (params['name'] === 'betray')
          return refuse(-32602, `not with ${(params['arguments'] as { [name: string]: unknown })['key']}`)
        const result = call(params['name'], (params['arguments'] ?? {}) as { [name: string]: unknown })
        return result && answer(result)
      }
      default:
        return refuse(-32601, 'no such method')
    }
  }
}

/** A message as it is sent. What is deep is too deep to be made by walking it. */
const textOf = (message: Message): string =>
  JSON.stringify(message).replace(/"nest (\d+)"/, (_, depth) => '['.repeat(Number(depth)) + ']'.repeat(Number(depth)))

export interface HttpToolServer extends AsyncDisposable {
  url: string
  port: number
  /** The headers of every request so far, with its method. */
  requests: { method: string; headers: IncomingHttpHeaders }[]
  /** Breaks what is open and stops listening. */
  close(): Promise<void>
}

export interface HttpOptions extends Behaviour {
  port?: number
  /** Sends everybody there. */
  redirect?: string
  /** Answers with this status instead. */
  status?: number
  /** Answers in events instead of plain JSON. */
  events?: boolean
}

/** The same over HTTP, on a free port of loopback. */
export async function startHttpToolServer({
  port = 0,
  redirect,
  status,
  events,
  ...behaviour
}: HttpOptions = {}): Promise<HttpToolServer> {
  const requests: HttpToolServer['requests'] = []
  /** Whoever listens for what it says by itself. */
  const listeners = new Set<ServerResponse>()
  const waiting = new Map<number, ServerResponse>()
  const write = (response: ServerResponse, message: Message) => response.write(`data: ${textOf(message)}\n\n`)
  const server = createServer(async (request, response) => {
    requests.push({ method: request.method!, headers: request.headers })
    if (redirect !== undefined) return response.writeHead(307, { location: redirect }).end()
    if (status !== undefined) return response.writeHead(status).end('a page')
    if (request.method === 'DELETE') return response.writeHead(200).end()
    if (request.method === 'GET') {
      listeners.add(response.writeHead(200, { 'content-type': 'text/event-stream' }))
      return response.flushHeaders()
    }
    const message = JSON.parse(await text(request)) as Message
    if (message.id === undefined) {
      hear(message)
      return response.writeHead(202).end()
    }
    const session = message.method === 'initialize' ? { 'mcp-session-id': 'a-session' } : {}
    response.writeHead(200, { 'content-type': events ? 'text/event-stream' : 'application/json', ...session })
    response.flushHeaders()
    waiting.set(message.id, response)
    hear(message)
  })
  const hear = createToolServer(
    behaviour,
    (message) => {
      if (message.id === undefined) {
        for (const listener of listeners) write(listener, message)
        return
      }
      const response = waiting.get(message.id)!
      waiting.delete(message.id)
      if (events) write(response, message)
      response.end(events ? undefined : textOf(message))
    },
    () => server.closeAllConnections(),
  )
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve))
  const { port: taken } = server.address() as AddressInfo
  const close = async () => {
    const closed = new Promise((resolve) => server.close(resolve))
    server.closeAllConnections()
    await closed
  }
  return { url: `http://127.0.0.1:${taken}/mcp`, port: taken, requests, close, [Symbol.asyncDispose]: close }
}

export const TOOL_SERVER = fileURLToPath(import.meta.url)

/** Whether a process runs; one that has ended and that nobody has asked about yet does not. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return !existsSync('/proc/self/stat') || !/^\d+ \(.*\) Z/s.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch {
    return false
  }
}

/** So that whoever sees the file sees all of it. */
function writeWhole(file: string, ids: number[]): void {
  writeFileSync(`${file}.part`, JSON.stringify(ids))
  renameSync(`${file}.part`, file)
}

function speak(): void {
  const { values } = parseArgs({
    options: {
      page: { type: 'string' },
      many: { type: 'string' },
      ill: { type: 'boolean' },
      silent: { type: 'boolean' },
      quit: { type: 'string' },
      last: { type: 'string' },
      noise: { type: 'boolean' },
      stubborn: { type: 'string' },
      id: { type: 'string' },
    },
  })
  const { page, many, ill = false, silent, quit, last, noise, stubborn, id } = values
  if (last !== undefined) process.stderr.write(last)
  if (quit !== undefined) process.exit(Number(quit))
  if (id !== undefined) writeWhole(id, [process.pid])
  if (noise) {
    console.log('this is no JSON')
    console.error(`my key is ${process.env['FAKE_KEY']}`)
  }
  if (stubborn !== undefined) {
    const stay = "process.on('SIGTERM', () => {}); setInterval(() => {}, 1000); console.log('here')"
    const child = spawn(process.execPath, ['-e', stay], { stdio: ['ignore', 'pipe', 'ignore'] })
    process.on('SIGTERM', () => {})
    setInterval(() => {}, 1_000)
    child.stdout.once('data', () => writeWhole(stubborn, [process.pid, child.pid!]))
  }
  const hear = createToolServer(
    { ...(page && { page: Number(page) }), ...(many && { many: Number(many) }), isIll: ill },
    (message) => process.stdout.write(`${textOf(message)}\n`),
    (code) => process.exit(code),
  )
  createInterface({ input: process.stdin }).on('line', (line) => {
    if (!silent) hear(JSON.parse(line) as Message)
  })
}

if (process.argv[1] === TOOL_SERVER) speak()

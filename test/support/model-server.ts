/**
 * A model provider on a loopback port that speaks Chat Completions (`…/chat/completions`) and Messages (`…/messages`).
 *
 * What it answers is written in the last user message, in double brackets; several may stand in one pair: `[[chunks=5
 * gap=10]]`.
 *
 * - `chunks=N` answers with N pieces, "word " each (3); `size=N` makes each N characters long.
 * - `text=…` answers with exactly that, in a few pieces, bytes split inside characters. It has brackets of its own.
 * - `think=N` sends N pieces of reasoning first; `gap=ms` waits between pieces.
 * - `fail=STATUS` refuses with that status; `failtimes=N` does so (503) for the first N requests with this text only.
 * - `retryafter=s` goes with a refusal.
 * - `burst=1` writes all at once instead of piece by piece.
 * - `stamp=1` makes each piece the instant at which it is written: µs of the monotonic clock that all processes share.
 * - `cut=N` destroys the connection after N pieces, `end=N` ends in good order but without an end mark,
 *   `stall=N` falls silent, `error=N` sends an error event; `finish` for N is right behind the reason for stopping.
 * - `finish=WORD` and `cached=N` set the reason for stopping and the cached tokens.
 *
 * It asks for tools when the request offers any and the last user message says so. A round is one answer that asks.
 *
 * - `tool=NAME args={…}` asks for that tool with these arguments (`{}`), in brackets of its own; several pairs ask for
 *   several calls in one round. Behind the round the answer is `result: …`, a line for each result, and then what
 *   `text` or `chunks` say, if they say anything.
 * - `badargs=N` breaks the arguments of the first N rounds off, `unknowntool=N` puts `no_such_tool` in the place of
 *   every name in the first N; the round as it was written comes behind these.
 * - `before=N` says N pieces in front of the calls of a round. Pieces of arguments count as pieces, too.
 * - `round=N` confines `fail`, `cut`, `end`, `stall`, `error` and `finish` to the request with N rounds behind it.
 *
 * It refuses (400) what the real ones refuse, see `model-refusals.ts`.
 *
 * Runs by itself with `node test/support/model-server.ts --port 18990`.
 */
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setImmediate, setTimeout } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { refusalOf, signatureOf } from './model-refusals.ts'

export interface RecordedRequest {
  path: string
  headers: IncomingHttpHeaders
  /** As JSON.parse gives it. */
  body: unknown
  /** The tools it offers, whatever the format. */
  tools: OfferedTool[]
  /** Pieces written so far. */
  sent: number
  /** Whether the client went away before the response was complete. */
  closedEarly: boolean
  /** Fulfils when the exchange is over, whoever ended it. */
  closed: Promise<void>
}

export interface OfferedTool {
  name: string
  description: string
  /** The JSON Schema. */
  parameters: unknown
}

export interface ModelServer extends AsyncDisposable {
  /** Without a slash at the end. */
  url: string
  /** Oldest first. */
  requests: RecordedRequest[]
  /** How many were ever made. */
  readonly connections: number
  /** Breaks what is open and stops listening. */
  close(): Promise<void>
}

export interface ModelServerOptions {
  /** 0, the default, takes a free one. */
  port?: number
  /** Gaps are divided by this. */
  pace?: number
  /** How many pieces it answers with unless told otherwise. */
  chunks?: number
  /** Whether its answers say what tools said. */
  quotesResults?: boolean
}

/** Starts a server. */
export async function startModelServer({
  port = 0,
  pace = 1,
  chunks = 3,
  quotesResults = true,
}: ModelServerOptions = {}): Promise<ModelServer> {
  const requests: RecordedRequest[] = []
  const manner: Manner = { seen: new Map(), calls: 0, pace, chunks, quotesResults }
  const server = createServer((request, response) => {
    serve(request, response, requests, manner).catch((error: unknown) => response.destroy(error as Error))
  })
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(port, '127.0.0.1', resolve))
  const close = () =>
    new Promise<void>((resolve) => {
      server.close(() => resolve())
      server.closeAllConnections()
    })
  let connections = 0
  server.on('connection', () => {
    connections += 1
  })
  const { port: taken } = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${taken}`,
    requests,
    get connections() {
      return connections
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}

/** How a server answers, whoever asks. */
interface Manner {
  /** How often each text was asked. */
  seen: Map<string, number>
  /** How many calls of tools it has asked for. */
  calls: number
  pace: number
  chunks: number
  quotesResults: boolean
}

async function serve(
  request: IncomingMessage,
  response: ServerResponse,
  requests: RecordedRequest[],
  manner: Manner,
): Promise<void> {
  const { promise: closed, resolve } = Promise.withResolvers<void>()
  const { url: path = '', headers } = request
  const gone = new AbortController()
  let text = ''
  for await (const chunk of request.setEncoding('utf8')) text += chunk
  const body = JSON.parse(text || '{}') as RequestBody
  const record: RecordedRequest = { path, headers, body, tools: [], sent: 0, closedEarly: false, closed }
  requests.push(record)
  response.once('close', () => {
    record.closedEarly = !response.writableFinished
    gone.abort()
    resolve()
  })
  const dialect = path.endsWith('/chat/completions') ? completions : path.endsWith('/messages') ? messages : undefined
  if (dialect === undefined) {
    refuse(response, 404, { error: { message: `no such path: ${path}` } })
    return
  }
  record.tools = dialect.offered(body)
  const wrong = refusalOf(dialect.name, body)
  if (wrong !== undefined) {
    refuse(response, 400, dialect.error(wrong))
    return
  }
  try {
    await converse(dialect, body, response, record, manner, gone.signal)
  } catch (error) {
    if (!gone.signal.aborted) throw error
  }
}

async function converse(
  dialect: Dialect,
  body: RequestBody,
  response: ServerResponse,
  record: RecordedRequest,
  manner: Manner,
  signal: AbortSignal,
): Promise<void> {
  const { seen, pace, chunks: usual } = manner
  const { prompt, rounds, results } = dialect.conversation(body.messages ?? [])
  const { directives, calls } = directivesOf(prompt)
  if (directives.has('round') && Number(directives.get('round')) !== rounds) {
    for (const name of confined) directives.delete(name)
  }
  const number = (name: string) => Number(directives.get(name) ?? Number.NaN)
  const times = (seen.get(prompt) ?? 0) + 1
  seen.set(prompt, times)
  if (times <= (number('failtimes') || 0) || (directives.has('fail') && !directives.has('failtimes'))) {
    const status = number('fail') || 503
    if (directives.has('retryafter')) response.setHeader('retry-after', directives.get('retryafter') ?? '')
    refuse(response, status, dialect.error(`fake failure ${status}`))
    return
  }

  response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' })
  const interruption = ['cut', 'end', 'stall', 'error'].find((name) => directives.has(name))
  const atFinish = interruption !== undefined && directives.get(interruption) === 'finish'
  const last = interruption === undefined || atFinish ? Number.POSITIVE_INFINITY : number(interruption)
  const wishes = record.tools.length === 0 ? [] : wishesOf(calls, rounds, directives)
  const asks = wishes.length > 0
  const exact = asks ? undefined : directives.get('text')
  const enough = results.length > 0 && manner.quotesResults ? 0 : usual
  const chunks = asks
    ? number('before') || 0
    : Number(directives.get('chunks') ?? (Number.isFinite(last) ? Math.max(enough, last + 1) : enough))
  const stamped = directives.has('stamp')
  const words = stamped ? Array.from({ length: chunks }, () => STAMP) : wordsOf(chunks, number('size'))
  const own = exact === undefined ? words : partsOf(exact)
  const quotes = asks || !manner.quotesResults ? '' : results.map((result) => `result: ${result}`).join('\n')
  const pieces = quotes === '' ? own : [...partsOf(`${quotes}${own.length > 0 ? '\n' : ''}`), ...own]
  const answer: AnswerShape = {
    model: body.model ?? '',
    calls: wishes.map((wish) => ({ ...wish, id: `${dialect.idPrefix}${++manner.calls}` })),
    withUsage: body.stream_options?.include_usage === true,
    finish: directives.get('finish'),
    usage: { input: prompt.split(/\s+/).length, output: pieces.length, cached: number('cached') || 0 },
  }
  const thoughts = Array.from({ length: number('think') || 0 }, () => 'thought ')
  const events = dialect.events(answer, thoughts, pieces)
  const gap = (number('gap') || 0) / pace
  if (directives.has('burst')) {
    response.end([...events].map(({ text }) => text).join(''))
    return
  }

  for (const { text, piece, finish } of events) {
    if (record.sent >= last && !text.startsWith(dialect.opening)) break
    if (piece && record.sent > 0 && gap > 0) await setTimeout(gap, undefined, { signal })
    await write(response, stamped ? text.replace(STAMP, stamp) : text, exact !== undefined || quotes !== '')
    if (piece) record.sent += 1
    // Lets the end of the connection be seen in the middle of a long answer.
    await setImmediate(undefined, { signal })
    if (atFinish && finish) break
  }
  switch (interruption) {
    case 'cut':
      response.destroy()
      return
    case 'stall':
      return
    case 'error':
      await write(response, dialect.errorEvent('fake stream failure'), false)
  }
  response.end()
}

async function write(response: ServerResponse, text: string, split: boolean): Promise<void> {
  if (!split) {
    if (!response.write(text)) await new Promise<void>((resolve) => drained(response, resolve))
    return
  }
  // Odd sizes, so that characters of two to four bytes fall apart.
  const bytes = Buffer.from(text)
  for (let from = 0; from < bytes.length; from += 7) {
    response.write(bytes.subarray(from, from + 7))
    await setImmediate()
  }
}

function drained(response: ServerResponse, then: () => void): void {
  response.once('drain', then)
  response.once('close', then)
}

function refuse(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
}

/** What `round` confines. */
const confined = ['fail', 'cut', 'end', 'stall', 'error', 'finish']

export interface RequestBody {
  model?: string
  stream_options?: { include_usage?: boolean }
  thinking?: { type: string }
  tools?: ToolDefinition[]
  messages?: RequestMessage[]
}

interface ToolDefinition {
  name?: string
  description?: string
  input_schema?: unknown
  function?: { name: string; description: string; parameters: unknown }
}

export interface RequestMessage {
  role: string
  content?: string | null | RequestBlock[]
  tool_calls?: { id: string; type: string; function: { name: string; arguments: string } }[]
  tool_call_id?: string
}

export interface RequestBlock {
  type: string
  text?: string
  thinking?: string
  signature?: string
  id?: string
  name?: string
  input?: unknown
  tool_use_id?: string
  content?: string | { type: string; text?: string }[]
  is_error?: boolean
}

/** What the messages of a request come to: the last thing the user said, and what has happened since. */
interface Conversation {
  /** The text of the last user message, whatever it is wrapped in. */
  prompt: string
  /** Answers since then that asked for tools. */
  rounds: number
  /** The results at the end, in their order. */
  results: string[]
}

const textOf = (content: RequestMessage['content'] | RequestBlock['content'] = '') =>
  typeof content === 'string' ? content : (content ?? []).map(({ text = '' }) => text).join('\n')

interface Wish {
  name: string
  arguments: string
}

/** The names and values in all brackets, and the tools to ask for. */
function directivesOf(prompt: string): { directives: Map<string, string>; calls: Wish[] } {
  const directives = new Map<string, string>()
  const calls: Wish[] = []
  for (let from = prompt.indexOf('[['); from !== -1; from = prompt.indexOf('[[', from)) {
    const end = endOf(prompt, from)
    if (end === -1) break
    const inside = prompt.slice(from + 2, end)
    from = end + 2
    const [, name, args = '{}'] = /^tool=(\S+)(?:\s+args=(.*))?$/s.exec(inside) ?? []
    if (name !== undefined) calls.push({ name, arguments: args })
    const pairs = name !== undefined ? [] : inside.startsWith('text=') ? [inside] : inside.trim().split(/\s+/)
    for (const pair of pairs) directives.set(pair.split('=', 1)[0] ?? '', pair.slice(pair.indexOf('=') + 1))
  }
  return { directives, calls }
}

/** Where the brackets that open at `from` close. Those of a tool may have brackets inside, as long as they are JSON. */
function endOf(prompt: string, from: number): number {
  const first = prompt.indexOf(']]', from)
  const args = /^\[\[tool=\S+\s+args=/.exec(prompt.slice(from, first === -1 ? undefined : first))?.[0].length
  if (args === undefined) return first
  for (let end = first; end !== -1; end = prompt.indexOf(']]', end + 1)) {
    if (isJson(prompt.slice(from + args, end))) return end
  }
  return first
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

/** What is to be asked for after so many rounds. */
function wishesOf(calls: Wish[], rounds: number, directives: Map<string, string>): Wish[] {
  const [bad, unknown] = ['badargs', 'unknowntool'].map((name) => Number(directives.get(name) ?? 0)) as [number, number]
  if (rounds >= Math.max(bad, unknown) + (calls.length > 0 ? 1 : 0)) return []
  const whole = calls.length > 0 ? calls : [{ name: 'no_such_tool', arguments: '{}' }]
  return whole.map((call) => ({
    name: rounds < unknown ? 'no_such_tool' : call.name,
    arguments: rounds < bad ? call.arguments.slice(0, -1) : call.arguments,
  }))
}

/** Stands for the instant of writing until it has come. */
const STAMP = '(now) '
const stamp = () => `${process.hrtime.bigint() / 1000n} `

function wordsOf(chunks: number, size: number): string[] {
  const word = size > 0 ? `${'w'.repeat(size - 1)} ` : 'word '
  return Array.from({ length: chunks }, () => word)
}

function partsOf(text: string): string[] {
  const characters = [...text]
  const size = Math.max(1, Math.ceil(characters.length / 4))
  const parts: string[] = []
  for (let from = 0; from < characters.length; from += size) parts.push(characters.slice(from, from + size).join(''))
  return parts
}

interface AnswerShape {
  model: string
  withUsage: boolean
  finish: string | undefined
  calls: (Wish & { id: string })[]
  usage: { input: number; output: number; cached: number }
}

/** A server-sent event, whether it counts as a piece of the answer, and whether it says why the answer stops. */
interface Event {
  text: string
  piece?: boolean
  finish?: boolean
}

interface Dialect {
  name: 'completions' | 'messages'
  /** How the ids of its calls begin. */
  idPrefix: string
  offered(body: RequestBody): OfferedTool[]
  conversation(messages: RequestMessage[]): Conversation
  /** How the events begin that are sent even when no piece is to follow. */
  opening: string
  events(answer: AnswerShape, thoughts: string[], pieces: string[]): Iterable<Event>
  error(message: string): unknown
  errorEvent(message: string): string
}

const data = (value: unknown) => `data: ${JSON.stringify(value)}\n\n`
const named = (value: { type: string; [field: string]: unknown }) => `event: ${value.type}\n${data(value)}`

const completions: Dialect = {
  name: 'completions',
  idPrefix: 'call_fake_',
  offered: ({ tools = [] }) => tools.flatMap((tool) => tool.function ?? []),
  conversation(messages) {
    const said = messages.findLastIndex(({ role }) => role === 'user')
    const since = messages.slice(said + 1)
    const asked = since.findLastIndex(({ tool_calls }) => tool_calls !== undefined)
    const last = asked === -1 ? [] : since.slice(asked + 1)
    return {
      prompt: textOf(messages[said]?.content),
      rounds: since.filter(({ tool_calls }) => tool_calls !== undefined).length,
      results: last.filter(({ role }) => role === 'tool').map(({ content }) => textOf(content)),
    }
  },
  opening: ': ',
  error: (message) => ({ error: { message, type: 'fake_error', code: null } }),
  errorEvent: (message) => data({ error: { message, type: 'server_error' } }),
  *events({ model, withUsage, calls, finish = calls.length > 0 ? 'tool_calls' : 'stop', usage }, thoughts, pieces) {
    const chunk = (choices: unknown[], more: object = {}) => {
      const frame = { id: 'chatcmpl-1', object: 'chat.completion.chunk', created: 1, model, choices, ...more }
      return data(frame)
    }
    const delta = (value: object, reason: string | null = null) =>
      chunk([{ index: 0, delta: value, finish_reason: reason }])
    yield { text: ': hello\n\n' }
    for (const reasoning_content of thoughts) yield { text: delta({ reasoning_content }) }
    for (const content of pieces) yield { text: delta({ role: 'assistant', content }), piece: true }
    for (const [index, { id, name, arguments: text }] of calls.entries()) {
      yield { text: delta({ tool_calls: [{ index, id, type: 'function', function: { name, arguments: '' } }] }) }
      for (const part of partsOf(text)) {
        yield { text: delta({ tool_calls: [{ index, function: { arguments: part } }] }), piece: true }
      }
    }
    yield { text: delta({}, finish), finish: true }
    if (withUsage) {
      const counts = {
        prompt_tokens: usage.input,
        completion_tokens: usage.output,
        total_tokens: usage.input + usage.output,
        prompt_tokens_details: { cached_tokens: usage.cached },
      }
      yield { text: chunk([], { usage: counts }) }
    }
    yield { text: 'data: [DONE]\n\n' }
  },
}

const messages: Dialect = {
  name: 'messages',
  idPrefix: 'toolu_fake_',
  offered: ({ tools = [] }) =>
    tools.map(({ name = '', description = '', input_schema }) => ({ name, description, parameters: input_schema })),
  conversation(turns) {
    const blocks = turns.flatMap(({ role, content }) =>
      (typeof content === 'string' ? [{ type: 'text', text: content }] : (content ?? [])).map((block) => ({
        role,
        block,
      })),
    )
    // Results stand in the user's turns, and what the user says behind them begins anew.
    const isSaid = ({ role, block }: (typeof blocks)[number]) => role === 'user' && block.type !== 'tool_result'
    const said = blocks.findLastIndex(isSaid)
    const first = blocks.findLastIndex((entry, place) => place < said && !isSaid(entry)) + 1
    const since = blocks.slice(said + 1)
    const answers = since.filter(({ role }, place) => role === 'assistant' && since[place + 1]?.role !== 'assistant')
    const asked = since.findLastIndex(({ role }) => role === 'assistant')
    const last = since.slice(asked + 1).map(({ block }) => block)
    return {
      prompt: textOf(blocks.slice(first, said + 1).map(({ block }) => ({ ...block, text: block.text ?? '' }))),
      rounds: answers.filter(({ block }) => block.type === 'tool_use').length,
      results: last.filter(({ type }) => type === 'tool_result').map(({ content }) => textOf(content)),
    }
  },
  opening: 'event: message_start',
  error: (message) => ({ type: 'error', error: { type: 'fake_error', message } }),
  errorEvent: (message) => named({ type: 'error', error: { type: 'overloaded_error', message } }),
  *events({ model, calls, finish = calls.length > 0 ? 'tool_use' : 'end_turn', usage }, thoughts, pieces) {
    const { input, output, cached } = usage
    const counts = {
      input_tokens: input - cached,
      output_tokens: 1,
      cache_read_input_tokens: cached,
      cache_creation_input_tokens: 0,
    }
    const message = { id: 'msg_1', type: 'message', role: 'assistant', model, content: [], usage: counts }
    let index = 0
    function* block(start: object, deltas: object[], isPiece: boolean): Iterable<Event> {
      yield { text: event('content_block_start', { index, content_block: start }) }
      for (const delta of deltas) yield { text: event('content_block_delta', { index, delta }), piece: isPiece }
      yield { text: event('content_block_stop', { index }) }
      index += 1
    }
    const event = (type: string, more: object = {}) => named({ type, ...more })
    yield { text: event('message_start', { message }) }
    yield { text: event('ping') }
    if (thoughts.length > 0) {
      const signature = signatureOf(model, thoughts.join(''))
      const deltas = thoughts.map((thinking) => ({ type: 'thinking_delta', thinking }))
      const signed = [...deltas, { type: 'signature_delta', signature }]
      yield* block({ type: 'thinking', thinking: '', signature: '' }, signed, false)
    }
    if (pieces.length > 0) {
      const deltas = pieces.map((text) => ({ type: 'text_delta', text }))
      yield* block({ type: 'text', text: '' }, deltas, true)
    }
    for (const { id, name, arguments: text } of calls) {
      const deltas = partsOf(text).map((partial_json) => ({ type: 'input_json_delta', partial_json }))
      yield* block({ type: 'tool_use', id, name, input: {} }, deltas, true)
    }
    const delta = { stop_reason: finish, stop_sequence: null }
    yield { text: event('message_delta', { delta, usage: { output_tokens: output } }), finish: true }
    yield { text: event('message_stop') }
  },
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({ options: { port: { type: 'string', default: '0' } } })
  const { url } = await startModelServer({ port: Number(values.port) })
  console.log(url)
}

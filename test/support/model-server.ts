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
 * Runs by itself with `node test/support/model-server.ts --port 18990`.
 */
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setImmediate, setTimeout } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

export interface RecordedRequest {
  path: string
  headers: IncomingHttpHeaders
  /** As JSON.parse gives it. */
  body: unknown
  /** Pieces written so far. */
  sent: number
  /** Whether the client went away before the response was complete. */
  closedEarly: boolean
  /** Fulfils when the exchange is over, whoever ended it. */
  closed: Promise<void>
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
}

/** Starts a server. */
export async function startModelServer({
  port = 0,
  pace = 1,
  chunks = 3,
}: ModelServerOptions = {}): Promise<ModelServer> {
  const requests: RecordedRequest[] = []
  const manner: Manner = { seen: new Map(), pace, chunks }
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
  pace: number
  chunks: number
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
  const record: RecordedRequest = { path, headers, body, sent: 0, closedEarly: false, closed }
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
  { seen, pace, chunks: usual }: Manner,
  signal: AbortSignal,
): Promise<void> {
  const prompt = promptOf(body)
  const directives = directivesOf(prompt)
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
  const exact = directives.get('text')
  const chunks = Number(directives.get('chunks') ?? (Number.isFinite(last) ? Math.max(usual, last + 1) : usual))
  const stamped = directives.has('stamp')
  const words = stamped ? Array.from({ length: chunks }, () => STAMP) : wordsOf(chunks, number('size'))
  const pieces = exact === undefined ? words : partsOf(exact)
  const answer: AnswerShape = {
    model: body.model ?? '',
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
    await write(response, stamped ? text.replace(STAMP, stamp) : text, exact !== undefined)
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

interface RequestBody {
  model?: string
  stream_options?: { include_usage?: boolean }
  messages?: { role: string; content: string | { type: string; text?: string }[] }[]
}

/** The text of the last user message, whatever it is wrapped in. */
function promptOf({ messages = [] }: RequestBody): string {
  const content = messages.findLast(({ role }) => role === 'user')?.content ?? ''
  return typeof content === 'string' ? content : content.map(({ text = '' }) => text).join('\n')
}

function directivesOf(prompt: string): Map<string, string> {
  const found = new Map<string, string>()
  for (const [, inside = ''] of prompt.matchAll(/\[\[(.*?)\]\]/gs)) {
    const pairs = inside.startsWith('text=') ? [inside] : inside.trim().split(/\s+/)
    for (const pair of pairs) found.set(pair.split('=', 1)[0] ?? '', pair.slice(pair.indexOf('=') + 1))
  }
  return found
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
  usage: { input: number; output: number; cached: number }
}

/** A server-sent event, whether it counts as a piece of the answer, and whether it says why the answer stops. */
interface Event {
  text: string
  piece?: boolean
  finish?: boolean
}

interface Dialect {
  /** How the events begin that are sent even when no piece is to follow. */
  opening: string
  events(answer: AnswerShape, thoughts: string[], pieces: string[]): Iterable<Event>
  error(message: string): unknown
  errorEvent(message: string): string
}

const data = (value: unknown) => `data: ${JSON.stringify(value)}\n\n`
const named = (value: { type: string; [field: string]: unknown }) => `event: ${value.type}\n${data(value)}`

const completions: Dialect = {
  opening: ': ',
  error: (message) => ({ error: { message, type: 'fake_error', code: null } }),
  errorEvent: (message) => data({ error: { message, type: 'server_error' } }),
  *events({ model, withUsage, finish = 'stop', usage }, thoughts, pieces) {
    const chunk = (choices: unknown[], more: object = {}) => {
      const frame = { id: 'chatcmpl-1', object: 'chat.completion.chunk', created: 1, model, choices, ...more }
      return data(frame)
    }
    const delta = (value: object, reason: string | null = null) =>
      chunk([{ index: 0, delta: value, finish_reason: reason }])
    yield { text: ': hello\n\n' }
    for (const reasoning_content of thoughts) yield { text: delta({ reasoning_content }) }
    for (const content of pieces) yield { text: delta({ role: 'assistant', content }), piece: true }
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
  opening: 'event: message_start',
  error: (message) => ({ type: 'error', error: { type: 'fake_error', message } }),
  errorEvent: (message) => named({ type: 'error', error: { type: 'overloaded_error', message } }),
  *events({ model, finish = 'end_turn', usage }, thoughts, pieces) {
    const { input, output, cached } = usage
    const counts = {
      input_tokens: input - cached,
      output_tokens: 1,
      cache_read_input_tokens: cached,
      cache_creation_input_tokens: 0,
    }
    const message = { id: 'msg_1', type: 'message', role: 'assistant', model, content: [], usage: counts }
    const block = (index: number, type: string, field: string, values: string[]): Event[] => [
      { text: event('content_block_start', { index, content_block: { type, [field]: '' } }) },
      ...values.map((value) => ({
        text: event('content_block_delta', { index, delta: { type: `${type}_delta`, [field]: value } }),
        piece: type === 'text',
      })),
      { text: event('content_block_stop', { index }) },
    ]
    const event = (type: string, more: object = {}) => named({ type, ...more })
    yield { text: event('message_start', { message }) }
    yield { text: event('ping') }
    if (thoughts.length > 0) yield* block(0, 'thinking', 'thinking', thoughts)
    if (pieces.length > 0) yield* block(thoughts.length > 0 ? 1 : 0, 'text', 'text', pieces)
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

/** Asks a gateway of this process what was asked over HTTP in a recording, and compares the answers. */
import { request } from 'node:http'
import { TOKEN } from '../support/gateway.ts'
import type { Exchange } from './recording.ts'
import { type Stage, type StageOptions, startStage } from './stage.ts'
import { comparer, type Difference, type Equivalents } from './values.ts'

const HOOK_TOKEN = 'a-token-for-hooks-0123456789'

/** How a gateway is configured, by the words in which a recording says it, and what it is called here. */
const CONFIGS: { [words: string]: { name: string; options: StageOptions } } = {
  default: { name: 'default', options: {} },
  'chatCompletions, responses and hooks switched on': {
    name: 'all',
    options: {
      gateway: { http: { endpoints: { chatCompletions: { enabled: true }, responses: { enabled: true } } } },
      sections: { hooks: { enabled: true, token: HOOK_TOKEN } },
    },
  },
}

/** Headers that say nothing of what is answered. */
const ORDINARY = new Set(['connection', 'content-length', 'date', 'keep-alive', 'transfer-encoding'])

interface Answer {
  status: number
  headers: { [name: string]: unknown }
  body: string
}

/** The name of each exchange: `default POST /tools/invoke`, with a number from the second of its kind on. */
function namesOfExchanges(exchanges: readonly Exchange[]): Map<string, Exchange> {
  const named = new Map<string, Exchange>()
  for (const exchange of exchanges) {
    const { config, request } = exchange
    const name = `${CONFIGS[config]?.name ?? config} ${request.method} ${request.path}`
    let own = name
    for (let count = 2; named.has(own); count++) own = `${name} #${count}`
    named.set(own, exchange)
  }
  return named
}

/** Replays them and returns every difference. */
export async function replayExchanges(exchanges: readonly Exchange[]): Promise<Difference[]> {
  const differences: Difference[] = []
  const named = [...namesOfExchanges(exchanges)]
  for (const [words, { options }] of Object.entries(CONFIGS)) {
    const of = named.filter(([, { config }]) => config === words)
    if (of.length === 0) continue
    const same: Equivalents = new Map()
    const compare = comparer({ runs: new Set() }, same, 0, (difference) => void differences.push(difference))
    await using stage = await startStage(options)
    await talk(stage)
    const url = (await stage.url()).replace('ws:', 'http:')
    for (const [where, { request, response }] of of) compare(told(response), told(await ask(url, request)), where)
  }
  return differences
}

/** Those that were asked had been talked to before. */
async function talk(stage: Stage): Promise<void> {
  const peer = await stage.connect()
  await peer.request('chat.send', { sessionKey: 'main', message: 'hello', idempotencyKey: 'k1' })
  await peer.request('agent.wait', { runId: 'k1' })
  peer.socket.terminate()
}

function ask(url: string, { method, path, headers, body }: Exchange['request']): Promise<Answer> {
  const { promise, resolve, reject } = Promise.withResolvers<Answer>()
  const filled = Object.entries(headers).map(([name, value]) => [
    name,
    value.replace('<TOKEN>', TOKEN).replace('<HOOK_TOKEN>', HOOK_TOKEN),
  ])
  const type = body === undefined ? {} : { 'content-type': 'application/json' }
  const options = { method, path, headers: { ...type, ...Object.fromEntries(filled) } }
  const asking = request(url, options, async (response) => {
    const chunks = await response.toArray()
    resolve({ status: response.statusCode!, headers: response.headers, body: Buffer.concat(chunks).toString() })
  })
  asking.on('error', reject)
  asking.end(body === undefined ? undefined : JSON.stringify(body))
  return promise
}

/** An answer as it is compared: headers that mean something, and what the body says. */
function told({ status, headers, body }: Answer): object {
  const meant = Object.entries(headers).filter(([name]) => !ORDINARY.has(name))
  return { status, headers: Object.fromEntries(meant), ...saying(body, String(headers['content-type'])) }
}

/** What a body says. Of a page, that there is one: its words are nobody's business. */
function saying(body: string, type: string): object {
  if (type.startsWith('text/html') || type.startsWith('image/')) return {}
  if (type.startsWith('application/json')) return { body: JSON.parse(body) }
  if (!type.startsWith('text/event-stream')) return { body }
  const blocks = body.split('\n\n')
  // What is whole ends with a blank line; a recording may have been cut in the middle of an event.
  const rest = blocks.pop()
  return { told: [...gathered(blocks.map(eventIn)), ...(rest ? [rest] : [])] }
}

interface StreamEvent {
  event?: string
  /** JSON where it is an object. */
  data: unknown
}

function eventIn(block: string): StreamEvent {
  const fields = block.split('\n').map((line) => line.split(/: (.*)/s, 2) as [string, string])
  const { data, ...others } = Object.fromEntries(fields) as { [name: string]: string }
  return { ...others, data: data?.startsWith('{') ? JSON.parse(data) : data }
}

/** Pieces of text behind each other as one: in how many it comes is up to the model and the moment. */
function gathered(events: StreamEvent[]): StreamEvent[] {
  const together: StreamEvent[] = []
  for (const one of events) {
    const [before, piece] = [pieceOf(together.at(-1)), pieceOf(one)]
    if (before && piece) before.add(piece.text)
    else together.push(one)
  }
  return together
}

/** The text that an event adds to an answer, in either shape. */
function pieceOf(event?: StreamEvent): { text: string; add(more: string): void } | undefined {
  const data = event?.data as { delta?: unknown; choices?: { delta: { content?: string } }[] } | undefined
  const choice = data?.choices?.[0]?.delta
  const [holder, name] = choice ? [choice, 'content'] : [data, 'delta']
  const text: unknown = Object(holder)[name]
  return typeof text === 'string' ? { text, add: (more) => Object.assign(holder!, { [name]: text + more }) } : undefined
}

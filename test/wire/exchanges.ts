/** Asks a gateway of this process what was asked over HTTP in a recording, and compares the answers. */
import { request } from 'node:http'
import { TOKEN } from '../support/gateway.ts'
import type { Exchange } from './recording.ts'
import { type StageOptions, startStage } from './stage.ts'
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
export function namesOfExchanges(exchanges: readonly Exchange[]): Map<string, Exchange> {
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

/** Replays those that are not skipped and returns every difference. */
export async function replayExchanges(
  exchanges: readonly Exchange[],
  isSkipped: (where: string) => boolean,
): Promise<Difference[]> {
  const differences: Difference[] = []
  const named = [...namesOfExchanges(exchanges)].filter(([where]) => !isSkipped(where))
  for (const [words, { options }] of Object.entries(CONFIGS)) {
    const of = named.filter(([, { config }]) => config === words)
    if (of.length === 0) continue
    const same: Equivalents = new Map()
    const compare = comparer({ runs: new Set() }, same, 0, (difference) => void differences.push(difference))
    await using stage = await startStage(options)
    const url = (await stage.url()).replace('ws:', 'http:')
    for (const [where, { request, response }] of of) compare(told(response), told(await ask(url, request)), where)
  }
  return differences
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
  const events = body.split('\n\n').filter((block) => block !== '')
  return {
    events: events.map((block) => {
      const fields = block.split('\n').map((line) => line.split(/: (.*)/s, 2) as [string, string])
      return Object.fromEntries(
        fields.map(([name, value]) => [name, value.startsWith('{') ? JSON.parse(value) : value]),
      )
    }),
  }
}

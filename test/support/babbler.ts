/**
 * A model provider on a loopback port (Chat Completions, streamed) whose answers follow from the question, so that whoever asked
 * knows every letter of them: `babble seed=7 pieces=40 longest=12 gap=5` is answered with 40 pieces of up to 12 characters, cut
 * anywhere, also inside a character, with up to 5 ms between two.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setImmediate, setTimeout } from 'node:timers/promises'

/** What is to be babbled. */
export interface Speech {
  seed: number
  /** At least 1. */
  pieces: number
  /** Characters (UTF-16) of a piece at most. */
  longest: number
  /** Milliseconds between two pieces at most. */
  gap: number
}

export interface Babbler {
  /** Without a slash at the end. */
  url: string
  /** How often each question was asked, by its first word. */
  asked: Map<string, number>
  /** Told of each question. */
  onAsked: (mark: string) => void
  close(): Promise<void>
}

/** The question that is answered with a speech. The mark, a word, makes it unlike any other. */
export const question = (mark: string, { seed, pieces, longest, gap }: Speech): string =>
  `${mark} babble seed=${seed} pieces=${pieces} longest=${longest} gap=${gap}`

/** The whole answer to a question. */
export function answerTo(text: string): string {
  const speech = speechIn(text)
  if (!speech) throw new Error(`not a question: ${text}`)
  return [...babble(speech)].map(({ piece }) => piece).join('')
}

const PATTERN = /^(\S+) babble seed=(\d+) pieces=(\d+) longest=(\d+) gap=(\d+)$/

function speechIn(text: string): (Speech & { mark: string }) | undefined {
  const [, mark, ...numbers] = PATTERN.exec(text) ?? []
  if (mark === undefined) return undefined
  const [seed, pieces, longest, gap] = numbers.map(Number) as [number, number, number, number]
  return { mark, seed, pieces, longest, gap }
}

/** One, two and more bytes, pairs of surrogates, joined ones, and what JSON and line-based formats have to escape. */
const CHARACTERS = [
  'a',
  'e ',
  'word ',
  '\n',
  '\r\n',
  '"',
  '\\',
  '\t',
  'é',
  '漢字',
  '🙂',
  '👩‍👩‍👧',
  '\u0000',
  '\u2028',
  '</',
  '{}',
  ' ',
]

/** Numbers in [0, 1) that follow from a seed (Lehmer's generator). */
function dice(seed: number): () => number {
  let state = (seed % 2_147_483_646) + 1
  return () => {
    state = (state * 48_271) % 2_147_483_647
    return state / 2_147_483_647
  }
}

function* babble({ seed, pieces, longest, gap }: Speech): Iterable<{ piece: string; pauseMs: number }> {
  const roll = dice(seed)
  let rest = ''
  for (let n = 1; n <= pieces; n++) {
    const length = 1 + Math.floor(roll() * longest)
    while (rest.length < length) rest += CHARACTERS[Math.floor(roll() * CHARACTERS.length)]!
    // The last piece ends where a character ends.
    const piece = n < pieces ? rest.slice(0, length) : rest
    rest = rest.slice(length)
    yield { piece, pauseMs: Math.floor(roll() * (gap + 1)) }
  }
}

export async function startBabbler(): Promise<Babbler> {
  const asked = new Map<string, number>()
  const server = createServer((request, response) => {
    answer(request, response).catch(() => response.destroy())
  })
  const babbler: Babbler = {
    url: '',
    asked,
    onAsked() {},
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let body = ''
    for await (const chunk of request.setEncoding('utf8')) body += chunk
    const speech = speechIn(lastQuestion(JSON.parse(body) as RequestBody))
    if (!speech) {
      response.writeHead(400, { 'content-type': 'application/json' }).end('{"error":{"message":"not a question"}}')
      return
    }
    asked.set(speech.mark, (asked.get(speech.mark) ?? 0) + 1)
    babbler.onAsked(speech.mark)
    const gone = new AbortController()
    response.once('close', () => gone.abort())
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    for (const { piece, pauseMs } of babble(speech)) {
      response.write(data({ content: piece }))
      if (pauseMs > 0) await setTimeout(pauseMs, undefined, { signal: gone.signal })
      else await setImmediate(undefined, { signal: gone.signal })
    }
    response.end(`${data({}, 'stop')}data: [DONE]\n\n`)
  }

  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(0, '127.0.0.1', resolve))
  babbler.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return babbler
}

function data(delta: object, reason: string | null = null): string {
  const choices = [{ index: 0, delta, finish_reason: reason }]
  return `data: ${JSON.stringify({ id: 'b', object: 'chat.completion.chunk', created: 1, model: 'm', choices })}\n\n`
}

interface RequestBody {
  messages?: { role: string; content: string | { text?: string }[] }[]
}

function lastQuestion({ messages = [] }: RequestBody): string {
  const content = messages.findLast(({ role }) => role === 'user')?.content ?? ''
  return typeof content === 'string' ? content : content.map(({ text = '' }) => text).join('')
}

/** `chat`: a turn, or a conversation, in the terminal. */
import { randomUUID } from 'node:crypto'
import { createInterface } from 'node:readline/promises'
import { type Client, ConnectionError, RequestError } from '../client/client.ts'
import { EXIT } from './exit.ts'
import { connectTo, explain, type TargetFlags } from './target.ts'

interface ChatFlags extends TargetFlags {
  session?: string
  agent?: string
}

/** Says something to an agent and prints the answer as it is written. Without text, goes on until the end of the input. */
export async function chat(text: string | undefined, flags: ChatFlags): Promise<number> {
  let client: Client
  try {
    client = await connectTo(flags, ['delta-only'])
  } catch (error) {
    return explain(error)
  }
  const session = flags.session ?? 'main'
  const sessionKey = flags.agent && !session.startsWith('agent:') ? `agent:${flags.agent}:${session}` : session
  try {
    if (text !== undefined) return await turn(client, sessionKey, text, flags.json === true)
    return await conversation(client, sessionKey, flags.json === true)
  } catch (error) {
    if (!(error instanceof GatewayGone)) return explain(error)
    console.error(error.message)
    return EXIT.unavailable
  } finally {
    client.close()
  }
}

/** One turn. Ctrl-C stops the run; once more leaves without waiting for its end. */
async function turn(client: Client, sessionKey: string, message: string, json: boolean): Promise<number> {
  const runId = randomUUID()
  const ended = Promise.withResolvers<number>()
  let column = 0
  const write = (piece: string) => {
    process.stdout.write(piece)
    column = piece.endsWith('\n') ? 0 : 1
  }
  const offs = [
    client.on('agent', (payload) => {
      if (payload.runId !== runId) return
      if (json) return console.log(JSON.stringify({ event: 'agent', ...payload }))
      const { delta } = payload.data as { delta?: string }
      if (payload.stream === 'assistant' && delta) write(delta)
    }),
    client.on('chat', (payload) => {
      if (payload.runId !== runId) return
      if (json) console.log(JSON.stringify({ event: 'chat', ...payload }))
      switch (payload.state) {
        case 'final': {
          // A command has no stream: its answer is in the final event alone.
          const content = (payload.message as { content?: { text?: string }[] } | undefined)?.content ?? []
          if (!json && column === 0) write(content.map(({ text = '' }) => text).join(''))
          if (column === 0) console.error('(the model answered nothing)')
          else if (payload.stopReason && !WHOLE.has(payload.stopReason))
            console.error(`\n(it ends here: ${payload.stopReason})`)
          return ended.resolve(0)
        }
        case 'aborted':
          if (!json)
            console.error(`${column ? '\n' : ''}(stopped${payload.stopReason === 'timeout' ? ' at its deadline' : ''})`)
          column = 0
          return ended.resolve(130)
        case 'error':
          console.error(
            `${column ? '\n' : ''}The run failed: ${payload.errorMessage ?? 'no reason was given'}${detailOf(payload.errorDetail)}`,
          )
          column = 0
          return ended.resolve(1)
        default:
      }
    }),
  ]
  let asked = false
  const onInterrupt = () => {
    if (asked) return ended.resolve(130)
    asked = true
    client.request('chat.abort', { sessionKey, runId }).catch((error: unknown) => ended.reject(error))
  }
  process.on('SIGINT', onInterrupt)
  client.closed.then(() => ended.reject(new GatewayGone()))
  try {
    const answer = await client.request('chat.send', { sessionKey, message, idempotencyKey: runId })
    // A stop word has no run: it says what it stopped.
    if ('aborted' in answer) {
      console.error(answer.aborted ? '(stopped)' : '(nothing is running)')
      return 0
    }
    return await ended.promise
  } finally {
    if (column) process.stdout.write('\n')
    process.off('SIGINT', onInterrupt)
    for (const off of offs) off()
    ended.promise.catch(() => {})
  }
}

/** Turn by turn, until the input ends, the user leaves, or the gateway does. */
async function conversation(client: Client, sessionKey: string, json: boolean): Promise<number> {
  const person = process.stdin.isTTY === true
  const input = createInterface({ input: process.stdin, output: process.stdout, prompt: person ? '> ' : '' })
  if (person) console.error('Say something. /help shows the commands; Ctrl-C stops an answer, Ctrl-D or "exit" leaves.')
  let busy = false
  let open = true
  let code = 0
  let gone: GatewayGone | undefined
  input.on('close', () => {
    open = false
  })
  input.on('SIGINT', () => (busy ? process.emit('SIGINT', 'SIGINT') : input.close()))
  client.closed.then(() => {
    gone = new GatewayGone()
    input.close()
  })
  const prompt = () => void (open && person && input.prompt())
  prompt()
  for await (const line of input) {
    if (person && /^\s*(exit|quit)\s*$/i.test(line)) break
    if (line.trim() !== '' && !gone) {
      busy = true
      code = await turn(client, sessionKey, line, json).catch((error: unknown) => {
        if (!(error instanceof RequestError)) throw error
        return explain(error)
      })
      busy = false
    }
    prompt()
  }
  if (gone) throw gone
  if (person) process.stdout.write('\n')
  return person ? 0 : code
}

class GatewayGone extends ConnectionError {
  constructor() {
    super('The gateway has gone. What it had accepted is on its disk: start it again, and chat.history shows it.')
  }
}

/** Why an answer ends where a reader would expect it to. */
const WHOLE = new Set(['stop', 'injected', 'end_turn'])

/** Who failed, for the user who has to mend it. */
function detailOf(detail: { provider?: string; model?: string; httpStatus?: number } | undefined): string {
  if (!detail?.provider) return ''
  return ` (${detail.provider}/${detail.model}${detail.httpStatus ? `, HTTP ${detail.httpStatus}` : ''})`
}

/** `chat`: a turn, or a conversation, in the terminal. */
import { createInterface } from 'node:readline/promises'
import { type Chat, type Client, ConnectionError, RequestError, RunError } from '../client/client.ts'
import { EXIT } from './exit.ts'
import { connectTo, explain, leave, type TargetFlags } from './target.ts'

interface ChatFlags extends TargetFlags {
  session?: string
  agent?: string
}

/** A restart takes seconds: who has not come back after about a minute has gone. */
const RECONNECT = { maxMs: 4_000, attempts: 20, fromStart: false }

/** Says something to an agent and prints the answer as it is written. Without text, goes on until the end of the input. */
export async function chat(text: string | undefined, flags: ChatFlags): Promise<number> {
  let client: Client
  try {
    client = await connectTo(flags, RECONNECT)
  } catch (error) {
    return explain(error)
  }
  const session = flags.session ?? 'main'
  const sessionKey = flags.agent && !session.startsWith('agent:') ? `agent:${flags.agent}:${session}` : session
  const paper = createPaper()
  tellOfCuts(client, paper)
  try {
    if (text !== undefined) return await turn(client, sessionKey, text, flags.json === true, paper)
    return await conversation(client, sessionKey, flags.json === true, paper)
  } catch (error) {
    if (client.state !== 'gone') return explain(error)
    console.error(
      'The gateway has gone. What it had accepted is on its disk: start it again, and chat.history shows it.',
    )
    return EXIT.unavailable
  } finally {
    leave(client)
  }
}

/** Standard output, and whether a line of it is unfinished. */
interface Paper {
  write(piece: string): void
  /** Ends the line that is unfinished, if one is. */
  endLine(): void
  readonly isInLine: boolean
}

function createPaper(): Paper {
  let isInLine = false
  const paper: Paper = {
    write(piece) {
      if (piece === '') return
      process.stdout.write(piece)
      isInLine = !piece.endsWith('\n')
    },
    endLine() {
      if (isInLine) paper.write('\n')
    },
    get isInLine() {
      return isInLine
    },
  }
  return paper
}

/** One line for each time that the gateway goes away, however often it is tried. */
function tellOfCuts(client: Client, paper: Paper): void {
  let isTold = false
  client.onState((state) => {
    if (state === 'ready') isTold = false
    if (state !== 'waiting' || isTold) return
    isTold = true
    // In a terminal it stands between the words of an answer; elsewhere the answer stays as it is.
    const before = paper.isInLine && process.stdout.isTTY ? '\n' : ''
    console.error(`${before}(the gateway is away; connecting again)`)
  })
}

/** One turn. Ctrl-C stops the run; once more leaves without waiting for its end. */
async function turn(client: Client, sessionKey: string, message: string, json: boolean, paper: Paper): Promise<number> {
  const stop = new AbortController()
  const left = Promise.withResolvers<number>()
  const onInterrupt = () => {
    if (stop.signal.aborted) left.resolve(130)
    stop.abort()
  }
  process.on('SIGINT', onInterrupt)
  const answer = client.chat({ sessionKey, message }, { signal: stop.signal })
  const print = (event: string) => (payload: { runId: string }) => {
    if (payload.runId === answer.runId) console.log(JSON.stringify({ event, ...payload }))
  }
  const offs = json ? [client.on('agent', print('agent')), client.on('chat', print('chat'))] : []
  try {
    return await Promise.race([follow(answer, json, paper), left.promise])
  } finally {
    paper.endLine()
    process.off('SIGINT', onInterrupt)
    for (const off of offs) off()
  }
}

/** Prints an answer as it comes, and says how it ended where that is not the usual way. Resolves to the exit code. */
async function follow(answer: Chat, json: boolean, paper: Paper): Promise<number> {
  let isEmpty = true
  const remark = (words: string) => {
    paper.endLine()
    console.error(words)
  }
  try {
    for await (const chunk of answer)
      switch (chunk.type) {
        case 'restart':
        case 'delta':
          if (chunk.type === 'restart') remark('(the gateway began the answer again)')
          if (!json) paper.write(chunk.text)
          isEmpty = false
          break
        case 'final':
          if (chunk.absorbedBy) remark('(answered together with another message)')
          else if (isEmpty) remark('(the model answered nothing)')
          else if (chunk.stopReason && !WHOLE.has(chunk.stopReason)) remark(`(it ends here: ${chunk.stopReason})`)
          break
        case 'aborted':
          if (!json) remark(`(stopped${chunk.stopReason === 'timeout' ? ' at its deadline' : ''})`)
          return 130
        case 'stopped':
          // A stop word has no run: it says what it stopped.
          remark(chunk.runIds.length > 0 ? '(stopped)' : '(nothing is running)')
      }
    return 0
  } catch (error) {
    if (!(error instanceof RunError)) throw error
    remark(`The run failed: ${error.message}${detailOf(error.detail)}`)
    return 1
  }
}

/** Turn by turn, until the input ends, the user leaves, or the gateway does. */
async function conversation(client: Client, sessionKey: string, json: boolean, paper: Paper): Promise<number> {
  const person = process.stdin.isTTY === true
  const input = createInterface({ input: process.stdin, output: process.stdout, prompt: person ? '> ' : '' })
  if (person) console.error('Say something. /help shows the commands; Ctrl-C stops an answer, Ctrl-D or "exit" leaves.')
  let busy = false
  let open = true
  let code = 0
  let isOver = false
  input.on('close', () => {
    open = false
  })
  input.on('SIGINT', () => (busy ? process.emit('SIGINT', 'SIGINT') : input.close()))
  client.closed.then(() => {
    isOver = true
    input.close()
  })
  const prompt = () => void (open && person && input.prompt())
  prompt()
  for await (const line of input) {
    if (person && /^\s*(exit|quit)\s*$/i.test(line)) break
    if (line.trim() !== '' && !isOver) {
      busy = true
      code = await turn(client, sessionKey, line, json, paper).catch((error: unknown) => {
        // What one turn came to is no reason to end the others, as long as there is somebody to talk to.
        if (isOver || !(error instanceof RequestError || error instanceof ConnectionError)) throw error
        return explain(error)
      })
      busy = false
    }
    prompt()
  }
  // It rejects with the reason why there is nobody any more: the gateway's refusal, where it was one.
  if (isOver) await client.call('health')
  if (person) process.stdout.write('\n')
  return person ? 0 : code
}

/** Why an answer ends where a reader would expect it to. */
const WHOLE = new Set(['stop', 'injected', 'end_turn'])

/** Who failed, for the user who has to mend it. */
function detailOf(detail: RunError['detail']): string {
  if (!detail?.provider) return ''
  return ` (${detail.provider}/${detail.model}${detail.httpStatus ? `, HTTP ${detail.httpStatus}` : ''})`
}

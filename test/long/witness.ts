/** Clients that write down what they sent and what they were told, and judge a gateway by nothing else. */
import { answerTo, question, type Speech } from '../support/babbler.ts'
import type { Frame } from '../support/gateway.ts'
import { someSpeech } from './ground.ts'
import { type Line, openLine } from './line.ts'
import type { Records } from './records.ts'
import type { Tally } from './tally.ts'

/** A turn as its sender remembers it. */
export interface Turn {
  /** Also the id its run gets. */
  key: string
  method: 'chat.send' | 'agent'
  sessionKey: string
  message: string
  /** Told that it is kept. */
  acked: boolean
  /** When it was accepted, as the first answer to `agent` said. */
  acceptedAt: number | undefined
  /** An abort that named it was acknowledged. */
  stopped: boolean
  /** The state its terminal event said, by the process that said it. */
  told: Map<number, string>
  /** What was heard of its text from the last process that said any, and when each length of it was reached. */
  heard: string
  reached: { at: number; length: number }[]
  heardFrom: number
  /** How it ended, once the file said so. */
  ending: string | undefined
  /** All that the model has to say to it. */
  readonly answer: string
}

/** Something that was just seen, for who waits for a moment. */
export type Sight = 'ack' | 'delta' | 'final' | 'abort' | 'shutdown'

export interface Witness {
  turns: Map<string, Turn>
  /** Told of each sight as it comes in. */
  onSight: (sight: Sight) => void
  /** Opens connections to a process, of both protocols in turns. */
  come(url: string, lines: number): Promise<Line[]>
  /** Makes a turn. It is sent by `send`. */
  turn(sessionKey: string, method: Turn['method'], speech: Speech): Turn
  /** Sends a turn, for the first time or again, and judges the answer. Undefined: there was none. */
  send(line: Line, turn: Turn): Promise<Frame | undefined>
  /** Sends another turn under the key of one that was acknowledged, which must be refused. */
  sendOther(line: Line, turn: Turn): Promise<void>
  abort(line: Line, turn: Turn, all: boolean): Promise<void>
  /** Sends some turn, new or old, or stops one, as the dice fall. */
  act(line: Line, sessions: string[]): Promise<void>
  /** Asks a process that runs what became of turns: each ends, once, and says so to whoever asks. */
  question(line: Line, turns: Turn[]): Promise<void>
  /** The process has been ended, this moment. */
  killed(): void
  /** Compares what is in the file with all that was said. */
  compare(records: Records, asked: Map<string, number>): void
}

/** Names of counts that are breaches. */
export const BREACHES = [
  'lost',
  'doubled',
  'runs without exactly one terminal event',
  'keys answered wrongly',
  'texts that are not what the model said',
  'texts lost beyond what is allowed',
  'aborts lost',
  'models asked before the start was kept',
  'events out of order',
  'damaged files',
]

/** An ending has to be there by then, in ms: the next process has five seconds for it, and the rest is how long answers take. */
const SETTLED_MS = 20_000
/** Text that may be missing after a kill however young it is: 4 KiB, and what comes while they are on their way to a busy disk. */
const MOST_LOST_CHARS = 16_384
/** The promise, in ms: more text than that may be missing only if it is younger. */
const YOUNG_MS = 250
/** Text that was heard so long before a kill, in ms, has been kept: that, and what a busy machine takes. */
const MOST_LOST_MS = 1000

const TOLD_BY: { [state: string]: string[] } = {
  final: ['completed'],
  aborted: ['aborted', 'timedOut'],
  error: ['failed', 'interrupted'],
}

export function createWitness({
  random,
  tally,
  where,
}: {
  random(): number
  tally: Tally
  /** Says which process is meant, and how to see it again. */
  where(): string
}): Witness {
  const turns = new Map<string, Turn>()
  const named = (turn: Turn) => `${turn.key} (${turn.method} in ${turn.sessionKey}) ${where()}`
  const pick = <T>(list: T[]): T | undefined => list[Math.floor(random() * list.length)]
  /** Processes that were come to, counted from 1, and when they were ended. */
  let life = 0
  const killedAt = new Map<number, number>()
  let lastKey = 0

  function hear(frame: Frame, isWhole: boolean): void {
    const { event, payload } = frame
    if (event === 'shutdown') return witness.onSight('shutdown')
    const turn = turns.get(payload?.runId)
    if (!turn) return
    const isText = event === 'agent' && payload.stream === 'assistant'
    if (isText && isWhole) {
      if (turn.heardFrom !== life) turn.reached = []
      turn.heardFrom = life
      turn.heard = payload.data.text
      turn.reached.push({ at: performance.now(), length: turn.heard.length })
      witness.onSight('delta')
    }
    if (event === 'chat' && payload.state !== 'delta') {
      turn.told.set(life, payload.state)
      if (payload.state === 'final') witness.onSight('final')
    }
  }

  /** Watches one connection: each run has at most one ending on it, and the events of a session follow each other. */
  function listener(protocol: 3 | 4): (frame: Frame) => void {
    const ended = new Set<string>()
    const places = new Map<string, { epoch: string; offset: number }>()
    return (frame) => {
      const { event, payload } = frame
      if (event === 'chat' && payload.state !== 'delta') {
        if (ended.has(payload.runId))
          tally.breach('runs without exactly one terminal event', `${payload.runId} ended twice on a socket ${where()}`)
        ended.add(payload.runId)
      } else if (event === 'agent' && payload.stream === 'assistant' && ended.has(payload.runId))
        tally.breach('events out of order', `text after the end of ${payload.runId} ${where()}`)
      if (payload?.offset !== undefined) {
        const before = places.get(payload.sessionKey)
        if (before && (before.epoch !== payload.epoch || before.offset + 1 !== payload.offset))
          tally.breach(
            'events out of order',
            `${payload.epoch} ${payload.offset} after ${before.epoch} ${before.offset} in ${payload.sessionKey} ${where()}`,
          )
        places.set(payload.sessionKey, payload)
      }
      hear(frame, protocol === 3)
    }
  }

  const params = ({ key, method, sessionKey, message }: Turn) => ({
    sessionKey,
    message,
    idempotencyKey: key,
    ...(method === 'agent' && { agentId: 'main' }),
  })

  /** What an answer says of the run: that it is new, goes on, has ended well or badly; or that the turn was refused. */
  function verdict(turn: Turn, { ok, payload, error }: Frame): 'new' | 'running' | 'ok' | 'error' | 'refused' | 'odd' {
    if (payload === undefined) return error?.retryable ? 'refused' : 'odd'
    if (payload.runId !== turn.key) return 'odd'
    if (!ok) return payload.status === 'error' ? 'error' : 'odd'
    switch (payload.status) {
      case 'started':
        return 'new'
      case 'in_flight':
        return 'running'
      case 'accepted':
        return turn.acceptedAt !== undefined && turn.acceptedAt !== payload.acceptedAt ? 'new' : 'running'
      case 'ok':
        return 'ok'
      default:
        return 'odd'
    }
  }

  function judge(turn: Turn, before: { acked: boolean; told: string | undefined }, answer: Frame): void {
    const said = verdict(turn, answer)
    const wrong = (why: string) =>
      tally.breach('keys answered wrongly', `${why}: ${JSON.stringify(answer).slice(0, 300)} for ${named(turn)}`)
    if (said === 'odd') return wrong('not an answer to it')
    if (said === 'refused') {
      // A process that is stopping looks nothing up any more.
      if (before.acked && answer['error'].details.code !== 'DRAINING') wrong('refused though it was acknowledged')
      return
    }
    if (said === 'new' && before.acked) tally.breach('lost', `it was acknowledged, and is new again: ${named(turn)}`)
    else if (before.told === undefined) return
    else if ((said === 'error') !== (before.told === 'error') || said === 'running')
      wrong(`it had said "${before.told}"`)
  }

  const toldOf = (turn: Turn): string | undefined => [...turn.told.values()].at(-1)

  const witness: Witness = {
    turns,
    onSight() {},
    async come(url, lines) {
      life += 1
      return Promise.all(
        Array.from({ length: lines }, (_, n) => {
          const protocol = n % 2 === 0 ? 3 : 4
          return openLine(url, {
            protocol,
            caps: protocol === 4 ? ['stream-offsets', 'delta-only'] : [],
            onEvent: listener(protocol),
            onAnswer: ({ ok }, method) => {
              if (ok && (method === 'chat.send' || method === 'agent')) witness.onSight('ack')
              if (ok && method === 'chat.abort') witness.onSight('abort')
            },
            onGap: (sentence) => tally.breach('events out of order', `${sentence} ${where()}`),
          })
        }),
      )
    },
    turn(sessionKey, method, speech) {
      const key = `k${++lastKey}x${speech.seed}`
      const message = question(key, speech)
      const turn: Turn = {
        key,
        method,
        sessionKey,
        message,
        answer: answerTo(message),
        acked: false,
        acceptedAt: undefined,
        stopped: false,
        told: new Map(),
        heard: '',
        reached: [],
        heardFrom: 0,
        ending: undefined,
      }
      turns.set(key, turn)
      return turn
    },
    async send(line, turn) {
      const before = { acked: turn.acked, told: toldOf(turn) }
      const answer = await line.ask(turn.method, params(turn), (second) => judge(turn, before, second))
      if (!answer) return undefined
      judge(turn, before, answer)
      const said = verdict(turn, answer)
      if (said !== 'refused' && said !== 'odd' && !turn.acked) {
        turn.acked = true
        tally.add('acknowledged turns')
      }
      if (said === 'refused') tally.add('refused, to be sent again')
      turn.acceptedAt ??= answer['payload']?.acceptedAt
      return answer
    },
    async sendOther(line, turn) {
      const answer = await line.ask(turn.method, { ...params(turn), message: 'something else' })
      if (answer && answer['error']?.details?.code !== 'IDEMPOTENCY_KEY_REUSED')
        tally.breach('keys answered wrongly', `another turn under the key of ${named(turn)}: ${JSON.stringify(answer)}`)
    },
    async abort(line, { sessionKey, key }, all) {
      const answer = await line.ask('chat.abort', { sessionKey, ...(!all && { runId: key }) })
      for (const runId of answer?.['payload']?.runIds ?? []) {
        const turn = turns.get(runId)
        if (turn) turn.stopped = true
        tally.add('acknowledged aborts')
      }
    },
    async act(line, sessions) {
      const dice = random()
      const old = pick([...turns.values()].slice(-60))
      if (old && dice < 0.1) return void (await witness.send(line, old))
      if (old?.acked && dice < 0.13) return witness.sendOther(line, old)
      if (old && dice < 0.2) return witness.abort(line, old, random() < 0.3)
      const turn = witness.turn(pick(sessions)!, random() < 0.3 ? 'agent' : 'chat.send', someSpeech(random))
      const copies = random() < 0.15 ? 3 : 1
      await Promise.all(Array.from({ length: copies }, () => witness.send(line, turn)))
    },
    killed() {
      if (!killedAt.has(life)) killedAt.set(life, performance.now())
    },
    async question(line, asked) {
      await Promise.all(asked.map((turn) => witness.send(line, turn)))
      const acked = asked.filter((turn) => turn.acked)
      const waits = acked.map(async (turn) => {
        const answer = await line.ask('agent.wait', { runId: turn.key, timeoutMs: SETTLED_MS })
        if (answer?.['payload']?.status === 'timeout')
          tally.breach('runs without exactly one terminal event', `no ending yet: ${named(turn)}`)
      })
      await Promise.all(waits)
      for (const turn of acked) {
        const answer = await line.ask(turn.method, params(turn))
        const said = answer && verdict(turn, answer)
        if (said !== 'ok' && said !== 'error')
          tally.breach('keys answered wrongly', `ended, and answered ${JSON.stringify(answer)}: ${named(turn)}`)
        tally.add('repeats of ended keys')
      }
      for (const sessionKey of new Set(acked.map((turn) => turn.sessionKey))) {
        const answer = await line.ask('chat.history', { sessionKey, limit: 1000 })
        const messages: Frame[] = answer?.['payload']?.messages ?? []
        countUserEntries(
          acked.filter((turn) => turn.sessionKey === sessionKey),
          messages.filter(({ role }) => role === 'user').map(({ content }) => content[0].text),
        )
      }
    },
    compare({ runs, transcripts, problems }, asked) {
      for (const problem of problems) tally.breach('damaged files', `${problem} ${where()}`)
      const kept = new Map<string, Records['runs'][number]>()
      for (const run of runs) {
        if (kept.has(run.key)) tally.breach('doubled', `two runs of ${run.key} ${where()}`)
        kept.set(run.key, run)
      }
      for (const turn of turns.values()) {
        const run = kept.get(turn.key)
        const times = asked.get(turn.key) ?? 0
        if (times > 1) tally.breach('doubled', `the model was asked ${times} times for ${named(turn)}`)
        if (times > 0 && (run === undefined || run.state === 'admitted'))
          tally.breach('models asked before the start was kept', `${run?.state}: ${named(turn)}`)
        if (!run) {
          if (turn.acked) tally.breach('lost', `it was acknowledged, and is not in the file: ${named(turn)}`)
          if (turn.told.size > 0) tally.breach('lost', `it ended, and is not in the file: ${named(turn)}`)
          continue
        }
        compareEnding(turn, run)
        compareText(turn, run)
        if (turn.stopped && run.state !== 'aborted')
          tally.breach('aborts lost', `an abort was acknowledged, and it is ${run.state}: ${named(turn)}`)
        const entries = transcripts.get(turn.sessionKey) ?? []
        if (run.text !== '' && !entries.some(({ role, text }) => role === 'assistant' && text === run.text))
          tally.breach('texts that are not what the model said', `not in the transcript: ${named(turn)}`)
        if (run.state !== 'admitted')
          countUserEntries(
            [turn],
            entries.filter(({ role }) => role === 'user').map(({ text }) => text),
          )
      }
    },
  }

  function countUserEntries(sent: Turn[], texts: string[]): void {
    for (const turn of sent) {
      const times = texts.filter((text) => text === turn.message).length
      if (times !== 1) tally.breach(times > 1 ? 'doubled' : 'lost', `in the transcript ${times} times: ${named(turn)}`)
    }
  }

  function compareEnding(turn: Turn, run: Records['runs'][number]): void {
    const state = run.endedAt === undefined ? undefined : `${run.state} at ${run.endedAt}`
    if (turn.ending !== undefined && turn.ending !== state)
      tally.breach('runs without exactly one terminal event', `${turn.ending}, then ${state}: ${named(turn)}`)
    turn.ending = state
    const told = [...turn.told.values()]
    if (told.length > 1)
      tally.breach('runs without exactly one terminal event', `told ${told.join(' and ')}: ${named(turn)}`)
    if (told.some((said) => !TOLD_BY[said]?.includes(run.state)))
      tally.breach('runs without exactly one terminal event', `told ${told}, kept ${run.state}: ${named(turn)}`)
  }

  function compareText(turn: Turn, run: Records['runs'][number]): void {
    if (run.endedAt === undefined) return
    const whole = turn.answer
    const fits = run.state === 'completed' ? run.text === whole : whole.startsWith(run.text)
    if (!fits || !whole.startsWith(turn.heard))
      tally.breach('texts that are not what the model said', `${run.state}, ${run.text.length} kept: ${named(turn)}`)
    const missing = turn.heard.length - run.text.length
    if (missing <= 0 || turn.reached.length === 0) return
    const since = turn.reached.find(({ length }) => length > run.text.length)!.at
    const age = (killedAt.get(turn.heardFrom) ?? turn.reached.at(-1)!.at) - since
    tally.most('characters of streamed text lost at most', missing)
    tally.most('ms of streamed text lost at most', age)
    const isMuch = missing > MOST_LOST_CHARS && age > YOUNG_MS
    if (run.state !== 'interrupted' || isMuch || age > MOST_LOST_MS)
      tally.breach(
        'texts lost beyond what is allowed',
        `${missing} characters, ${Math.round(age)} ms of it (${run.state}): ${named(turn)}`,
      )
    turn.reached = []
  }
  return witness
}

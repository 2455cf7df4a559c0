/** Frames that nobody should send, by the hundred thousand, before and after the handshake, over real sockets. */
import { Closes } from '../../src/contract/closes.ts'
import { echo } from '../../src/runtimes/echo.ts'
import {
  closeOf,
  closing,
  type FrameShape,
  frame,
  known,
  type RawLine,
  textsOf,
  upgraded,
} from '../security/raw-line.ts'
import { startGateway, type TestGateway, TOKEN } from '../support/gateway.ts'
import { type Report, type Rounds, random, type Suite } from './suite.ts'

/** Of so many frames one comes on a socket of its own, as its first. */
const FIRST_OF = 16
/** Sockets at the same time, before the handshake and after it. */
const AT_ONCE = 24
const LINES = 8
/** Messages on a line before their answers are counted. */
const BATCH = 100
/** How long an answer or an end may take until it is missed, in ms. */
const PATIENCE_MS = 10_000

/** Every code a close is documented with; `ws` itself adds 1002, 1007 and 1009, and echoes the code of a close. */
const CODES = new Set<number>([...Object.values(Closes).map(({ code }) => code), 1000, 1002, 1005, 1007, 1009])

/** What clients send, in its shapes. Nothing here waits: who waits is answered late, and would be missed. */
const SEEDS: { method: string; params?: object }[] = [
  {
    method: 'connect',
    params: {
      minProtocol: 3,
      maxProtocol: 3,
      client: { id: 'cli', version: '1', platform: 'linux', mode: 'cli' },
      role: 'operator',
      scopes: ['operator.admin'],
      caps: [],
      auth: {},
    },
  },
  {
    method: 'connect',
    params: {
      minProtocol: 4,
      maxProtocol: 4,
      client: { id: 'webchat', version: '1', platform: 'web', mode: 'webchat' },
      device: { id: 'a'.repeat(64), publicKey: 'x', signature: 'y', signedAt: 1_700_000_000_000, nonce: 'z' },
    },
  },
  { method: 'health' },
  { method: 'status', params: {} },
  { method: 'system-presence', params: {} },
  { method: 'chat.send', params: { sessionKey: 'main', message: '/status', idempotencyKey: 'key-1' } },
  {
    method: 'chat.send',
    params: {
      sessionKey: 'agent:main:main',
      message: '/new',
      idempotencyKey: 'key-2',
      thinking: 'low',
      timeoutMs: 500,
      attachments: [{ type: 'image', mimeType: 'image/png', content: 'iVBORw0KGgo=' }],
    },
  },
  { method: 'chat.history', params: { sessionKey: 'main', limit: 10 } },
  { method: 'chat.abort', params: { sessionKey: 'main', runId: 'key-1' } },
  { method: 'chat.resume', params: { sessionKey: 'main', epoch: 'e', offset: 3 } },
  { method: 'chat.inject', params: { sessionKey: 'main', message: 'said', label: 'note' } },
  { method: 'sessions.list', params: { limit: 5, activeMinutes: 60, includeDerivedTitles: true } },
  { method: 'sessions.patch', params: { key: 'main', label: 'name', thinkingLevel: 'low', sendPolicy: null } },
  { method: 'sessions.preview', params: { keys: ['main'], limit: 2 } },
  { method: 'sessions.delete', params: { key: 'agent:main:gone', deleteTranscript: true } },
  { method: 'sessions.resolve', params: { key: 'main' } },
  { method: 'config.get', params: {} },
  { method: 'config.patch', params: { raw: '{ gateway: { port: 1 } }', baseHash: 'x' } },
  { method: 'models.list', params: {} },
  { method: 'agents.list', params: {} },
  { method: 'agent.identity.get', params: { agentId: 'main' } },
  { method: 'device.pair.list', params: {} },
  { method: 'device.pair.approve', params: { requestId: 'r' } },
  { method: 'tokens.list', params: {} },
  { method: 'tokens.revoke', params: { id: 'none' } },
  { method: 'exec.approval.resolve', params: { id: 'x', decision: 'allow-once' } },
  { method: 'logs.tail', params: { limit: 1 } },
]

type Dice = ReturnType<typeof dice>

function dice(seed: number) {
  const next = random(seed)
  const upTo = (most: number): number => Math.floor(next() * most)
  const one = <T>(list: readonly T[]): T => list[upTo(list.length)]!
  return {
    upTo,
    one,
    may: (chance: number) => next() < chance,
    bytes: (length: number) => Buffer.from(Array.from({ length }, () => upTo(256))),
  }
}

const WORDS = [
  '',
  'main',
  '__proto__',
  'constructor',
  'connect',
  'health',
  'xstate.stop',
  '*',
  '\u0000',
  '\ud800',
  '\u202e',
  '../..',
  'null',
  'true',
  '-1',
  '"',
  '\\',
  '{"a":1}',
  'é',
  '😀',
  'x'.repeat(600),
]
const SCALARS = [
  'null',
  'true',
  'false',
  '0',
  '-0',
  '-1',
  '1e400',
  '-1e999',
  '9007199254740993',
  '1.5',
  '1e-7',
  '[]',
  '{}',
  '""',
  '"\\ud800"',
  '[[[]]]',
  '{"a":{"b":[]}}',
  'NaN',
  'undefined',
  "'x'",
  '01',
  '.5',
  '+1',
]

/** A text by a loose grammar of JSON: mostly well formed, of any shape. */
function grown({ upTo, one, may }: Dice, depth = 0): string {
  if (depth > 4 || may(0.4)) return may(0.5) ? one(SCALARS) : JSON.stringify(one(WORDS))
  const size = upTo(4)
  if (may(0.3)) return `[${Array.from({ length: size }, () => grown({ upTo, one, may } as Dice, depth + 1)).join(',')}]`
  const members = Array.from(
    { length: size },
    () => `${JSON.stringify(one(WORDS))}:${grown({ upTo, one, may } as Dice, depth + 1)}`,
  )
  return `{${members.join(',')}}`
}

/** A request some of whose members are other than they should be. */
function request(die: Dice, id: string): string {
  const { one, may } = die
  const { method, params } = one(SEEDS)
  const members: [string, string][] = [
    ['type', may(0.95) ? '"req"' : grown(die)],
    ['id', may(0.95) ? JSON.stringify(id) : grown(die)],
    ['method', may(0.9) ? JSON.stringify(method) : JSON.stringify(one(WORDS))],
    ['params', may(0.5) ? JSON.stringify(params ?? {}) : grown(die)],
  ]
  if (may(0.1)) members.push([one(WORDS), grown(die)])
  if (may(0.05)) members.push(one(members))
  if (may(0.05)) members.splice(die.upTo(members.length), 1)
  return `{${members.map(([name, value]) => `${JSON.stringify(name)}:${value}`).join(may(0.02) ? ';' : ',')}}`
}

/** A request as it should be, with a few bytes that are not. */
function mutated(die: Dice, id: string): Buffer {
  const { upTo, one, may, bytes } = die
  const { method, params } = one(SEEDS)
  let text = Buffer.from(JSON.stringify({ type: 'req', id, method, ...(params && { params }) }))
  for (let times = 1 + upTo(4); times > 0; times--) {
    const at = upTo(text.length)
    const end = Math.min(text.length, at + 1 + upTo(12))
    switch (upTo(6)) {
      case 0:
        text[at] = upTo(256)
        break
      case 1:
        text = Buffer.concat([text.subarray(0, at), text.subarray(end)])
        break
      case 2:
        text = Buffer.concat([text.subarray(0, at), bytes(1 + upTo(4)), text.subarray(at)])
        break
      case 3:
        text = Buffer.concat([text.subarray(0, end), text.subarray(at)])
        break
      case 4:
        text = Buffer.concat([text.subarray(0, at), Buffer.from(one(SCALARS)), text.subarray(end)])
        break
      default:
        text = may(0.5) ? text.subarray(0, at) : Buffer.concat([text, Buffer.from(JSON.stringify(one(SEEDS)))])
    }
    if (text.length === 0) break
  }
  return Buffer.from(text)
}

/** What a message holds: by the grammar, a mutation, or anything. */
function message(die: Dice, id: string): Buffer {
  const { upTo, may, bytes } = die
  if (may(0.45)) return Buffer.from(request(die, id))
  if (may(0.8)) return mutated(die, id)
  return may(0.5) ? bytes(upTo(300)) : Buffer.from(grown(die))
}

/** A frame whose head is not what it should be, or whose place is not here. */
function crooked(die: Dice, id: string): Buffer {
  const { upTo, one, may, bytes } = die
  if (may(0.2)) return bytes(1 + upTo(60))
  const shape: FrameShape = { opcode: upTo(16), isFinal: may(0.7), isMasked: may(0.9) }
  if (may(0.3)) shape.reserved = upTo(8)
  if (may(0.2)) shape.claims = one([0, 1, 125, 126, 65_535, 65_536, 1_000_000, 2 ** 31, 2n ** 63n, 2n ** 64n - 1n])
  if (may(0.2)) shape.lengthBytes = shape.claims === undefined ? one([2, 8] as const) : 8
  return frame(message(die, id), shape)
}

interface Tally {
  sent: number
  answered: number
  closes: Map<number, number>
  ended: number
  welcomed: number
}

/** Resolves to whether it came true in time. */
async function inTime(line: RawLine, fits: (line: RawLine) => boolean): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<false>((resolve) => {
    timer = setTimeout(() => resolve(false), PATIENCE_MS)
  })
  const came = await Promise.race([line.until(fits).then(() => true), late])
  clearTimeout(timer)
  return came
}

export const fuzz: Suite = {
  summary:
    'whatever frames come, each is answered or ends its socket, and nobody is told anything before the handshake',
  few: 40_000,
  many: 1_000_000,
  async run({ rounds, seed, say }: Rounds): Promise<Report> {
    const broken: string[] = []
    const unhandled: unknown[] = []
    const onUnhandled = (error: unknown) => void unhandled.push(error)
    process.on('unhandledRejection', onUnhandled)
    process.on('uncaughtException', onUnhandled)
    const limits = {
      requestsPerSecond: 0,
      preauthPerIp: 0,
      preauthTotal: 0,
      deniedPerMinute: 0,
      sessions: 0,
      liveKeys: 0,
    }
    const gateway = await startGateway({
      config: { gateway: { limits } },
      runtimes: new Map([['echo', echo({ wordMs: 0 })]]),
    })
    const tally: Tally = { sent: 0, answered: 0, closes: new Map(), ended: 0, welcomed: 0 }
    const first = Math.floor(rounds / FIRST_OF)
    const each = Math.ceil((rounds - first) / LINES)
    let done = 0
    const sayHowFar = () => {
      if (Math.floor(tally.sent / 100_000) > done) say(`${(++done * 100_000).toLocaleString('en')} frames`)
    }
    try {
      const firsts = Array.from({ length: AT_ONCE }, async (_, n) => {
        const die = dice(seed + n)
        for (let left = Math.ceil(first / AT_ONCE); left > 0 && broken.length < 10; left--) {
          await sendFirst(gateway, die, tally, broken)
          sayHowFar()
        }
      })
      const laters = Array.from({ length: LINES }, async (_, n) => {
        const die = dice(seed + 1_000 + n)
        for (let left = each; left > 0 && broken.length < 10; ) {
          left -= await sendBatch(gateway, die, Math.min(left, BATCH), tally, broken)
          sayHowFar()
        }
      })
      await Promise.all([...firsts, ...laters])
      const peer = await gateway.connect()
      if (!(await peer.request('health'))['ok']) broken.push('it does not answer any more')
    } finally {
      await gateway.stop()
      process.off('unhandledRejection', onUnhandled)
      process.off('uncaughtException', onUnhandled)
    }
    for (const error of unhandled) broken.push(`nobody handled ${error instanceof Error ? error.stack : String(error)}`)
    const closes = [...tally.closes].toSorted(([a], [b]) => a - b)
    const codes = closes.map(([code, times]) => `${code}: ${times}`).join(', ')
    return {
      counts: {
        frames: tally.sent,
        answers: tally.answered,
        'sockets ended': tally.ended,
        welcomed: tally.welcomed,
        closes: codes,
      },
      broken: broken.map((sentence) => `${sentence} (seed ${seed})`),
    }
  },
}

const hasClose = ({ frames }: RawLine): boolean => closeOf(frames) !== undefined

/** A socket's first frame: it is refused, and the socket ends. */
async function sendFirst(gateway: TestGateway, die: Dice, tally: Tally, broken: string[]): Promise<void> {
  const line = await upgraded(gateway.port)
  const isCrooked = die.may(0.3)
  const content = message(die, 'f')
  const bytes = isCrooked ? crooked(die, 'f') : frame(content, { opcode: die.may(0.9) ? 1 : 2 })
  const wire = bytes.toString('hex')
  line.write(bytes)
  // What began and did not end, or was no message, is ended by a close.
  if (isCrooked) line.write(closing(1000))
  tally.sent += 1
  if (isCrooked) line.socket.end()
  if (!(await inTime(line, hasClose))) broken.push(`a socket did not end after its first frame ${wire}`)
  judge(line, isCrooked, wire, tally, broken)
  const texts = textsOf(line.frames)
  const [challenge, ...told] = texts
  if (challenge?.['event'] !== 'connect.challenge') broken.push(`the first word was ${JSON.stringify(challenge)}`)
  if (told.some(({ type, ok }) => type !== 'res' || ok !== false) || told.length > 1)
    broken.push(`before the handshake it said ${JSON.stringify(told)} to ${wire}`)
  line.close()
}

/** Messages on a line whose peer is known: each is answered once, or one of them ends the line. */
async function sendBatch(
  gateway: TestGateway,
  die: Dice,
  size: number,
  tally: Tally,
  broken: string[],
): Promise<number> {
  const line = await known(gateway.port, { minProtocol: die.one([3, 4]), maxProtocol: 4 })
  tally.welcomed += 1
  line.frames.splice(0)
  const sent: string[] = []
  const isLastCrooked = die.may(0.5)
  const plain = isLastCrooked ? size - 1 : size
  let isUtf8 = true
  for (let n = 0; n < plain && isUtf8; n++) {
    const drawn = message(die, `m${n}`)
    // Bytes that are no text end the line, as the last of their batch: most are made text.
    const content = die.may(0.01) ? drawn : Buffer.from(drawn.toString('utf8'))
    isUtf8 = content !== drawn || Buffer.from(drawn.toString('utf8')).equals(drawn)
    sent.push(content.toString('utf8'))
    line.write(frame(content, { opcode: die.may(0.9) ? 1 : 2 }))
  }
  tally.sent += sent.length
  const answers = () =>
    line.frames.filter(({ opcode, payload }) => opcode === 1 && payload.subarray(0, 13).toString() === '{"type":"res"')
      .length
  const isOver = () => answers() >= sent.length || closeOf(line.frames) !== undefined
  if (!(await inTime(line, isOver)))
    broken.push(`${answers()} of ${sent.length} were answered, and the line stayed: ${JSON.stringify(sent)}`)
  else if (closeOf(line.frames) === undefined) {
    if (answers() !== sent.length)
      broken.push(`${answers()} answers to ${sent.length} messages: ${JSON.stringify(sent)}`)
    const bytes = isLastCrooked ? crooked(die, 'last') : closing(1000)
    if (isLastCrooked) tally.sent += 1
    line.write(bytes)
    line.write(closing(1000))
    line.socket.end()
    if (!(await inTime(line, hasClose))) broken.push(`a line did not end after ${bytes.toString('hex')}`)
  }
  tally.answered += answers()
  judge(line, isLastCrooked, sent.at(-1) ?? '', tally, broken)
  line.close()
  return sent.length + Number(isLastCrooked)
}

/** Looks at how a line ended. */
function judge(line: RawLine, isAnyClose: boolean, after: string, tally: Tally, broken: string[]): void {
  tally.ended += 1
  const close = closeOf(line.frames)
  if (!close) return
  tally.closes.set(close.code, (tally.closes.get(close.code) ?? 0) + 1)
  // A close among what was sent is answered with its own code.
  const isEcho = isAnyClose && close.code >= 1000 && close.code < 5000
  if (!CODES.has(close.code) && !isEcho) broken.push(`it ended with ${close.code} ${close.reason} after ${after}`)
  if (Buffer.byteLength(close.reason) > 123)
    broken.push(`it ended with a reason of ${Buffer.byteLength(close.reason)} bytes`)
}

// The credential is in none of the seeds: nobody is let in by chance.
if (SEEDS.some((one) => JSON.stringify(one).includes(TOKEN))) throw new Error('a seed holds the token')

/**
 * Credentials that are taken away in the middle of their use, from named tokens and from devices, while their sockets send and
 * listen. The sockets are hostile: they answer no close, and send on until the line is cut.
 */
import { closeOf, connectFrame, frame, type RawLine, textsOf, upgraded } from '../security/raw-line.ts'
import { question } from '../support/babbler.ts'
import { createDevice } from '../support/device.ts'
import { type Frame, TOKEN } from '../support/gateway.ts'
import { startProcess } from '../support/gateway-process.ts'
import { GATEWAY, inStints, type Stint, wait } from './ground.ts'
import { type Line, openLine } from './line.ts'
import { readRecords } from './records.ts'
import { type Report, type Rounds, random, type Suite } from './suite.ts'
import { createTally, type Tally } from './tally.ts'

const REVOCATIONS_A_FOLDER = 250
/** Credentials in use at once, the sockets of each, and its sessions. */
const HOLDERS = 6
const SOCKETS = 2
const SESSIONS = 2
/** A credential is in use for so long at the most before it is taken away, in ms. */
const LONGEST_USE_MS = 1_500
/** Between two requests of a socket, in ms at the most. One time in so many it sends a lot at once. */
const LONGEST_PAUSE_MS = 180
const BURST_ONE_IN = 25
const BURST = 100
/** The promise, in ms. */
const PROMISED_MS = 1_000
/** A socket that is still there after so many ms is not going to be closed. */
const PATIENCE_MS = 15_000
/** When no model has been asked for so long, in ms, nothing waits any more: no run takes a tenth of it. */
const QUIET_MS = 4_000
const SCOPES = ['operator.read', 'operator.write']
const GONE = '4001 gateway auth changed'

/** How a credential ends. By the last two the principal stays, and what it sent is still its own. */
const WAYS = {
  token: ['tokens.revoke'],
  device: ['device.token.revoke', 'device.pair.remove', 'narrowed', 'rotated twice'],
} as const
type Way = (typeof WAYS)['token' | 'device'][number]
const endsPrincipal = (way: Way): boolean => way !== 'narrowed' && way !== 'rotated twice'

const BREACHES = [
  'frames accepted later than a second after it',
  'frames told later than a second after it',
  'sockets not closed with 4001 gateway auth changed',
  'queued sends that started all the same',
  'credentials taken again',
  'others closed',
]

export const revoke: Suite = {
  summary:
    'a credential that is taken away under load ends its sockets within a second, and what it still wanted is not done',
  few: 8,
  many: 1_000,
  async run(how: Rounds): Promise<Report> {
    const tally = createTally([
      'credentials taken away',
      ...[...WAYS.token, ...WAYS.device].map((way) => `by ${way}`),
      'sockets',
      'sends acknowledged',
      'events heard',
      'frames sent after the answer',
      'sends accepted after the answer, within the second',
      'sends that waited when their principal ended',
      'the longest from the answer to the close, in ms',
      'the longest from the answer to the end of the line, in ms',
      ...BREACHES,
    ])
    await inStints('revoke', { rounds: how.rounds, each: REVOCATIONS_A_FOLDER }, (stint) =>
      revokeOften(stint, tally, how),
    )
    return tally
  },
}

/** A message that was sent. Wall-clock ms. */
interface Send {
  holder: Holder
  ackedAt?: number
  askedAt?: number
}

/** Somebody with a credential, as they and whoever takes it away remember it. */
interface Holder {
  name: string
  principal: string
  /** The members of its `connect`. */
  proofOf(nonce: string): object
  /** What takes the credential away. Resolves when the answer has come. */
  end(): Promise<unknown>
  way: Way
  /** When the answer came that it is taken away. */
  endedAt: number
}

interface Stage {
  url: string
  port: number
  operator: Line
  roll(): number
  tally: Tally
  sends: Map<string, Send>
  where: string
}

async function revokeOften(
  { folder, babbler, first, last }: Stint,
  tally: Tally,
  { seed, say }: Rounds,
): Promise<void> {
  const gateway = await startProcess(folder, babbler.url, GATEWAY)
  const where = `(revocations ${first} to ${last}, seed ${seed})`
  const sends = new Map<string, Send>()
  let askedLast = Date.now()
  babbler.onAsked = (key) => {
    askedLast = Date.now()
    const send = sends.get(key)
    if (send) send.askedAt ??= askedLast
  }
  try {
    const operator = await openLine(gateway.url, { protocol: 4, caps: ['delta-only'], onEvent() {}, onGap() {} })
    let isOver = false
    void operator.closed.then(({ code, reason }) => {
      if (!isOver) tally.breach('others closed', `the operator, with ${code} ${reason} ${where}`)
    })
    const port = Number(new URL(gateway.url).port)
    const stage: Stage = { url: gateway.url, port, operator, roll: random(seed + first), tally, sends, where }
    const holders: Holder[] = []
    let next = first
    const work = async () => {
      while (next < last) {
        const number = ++next
        holders.push(await takeAway(stage, `h${number}`))
        if (number % 100 === 0) say(`${number} credentials, ${tally.broken.length} broken`)
      }
    }
    await Promise.all(Array.from({ length: HOLDERS }, work))
    while (Date.now() - askedLast < QUIET_MS) await wait(100)
    isOver = true
    operator.cut()
    await gateway.kill()
    judge(holders, sends, folder, tally, where)
  } finally {
    await gateway.kill()
  }
}

/** Lets somebody in, has them send and listen, and takes their credential away at some moment. */
async function takeAway(stage: Stage, name: string): Promise<Holder> {
  const { roll, tally } = stage
  const holder = await (roll() < 0.4 ? holderOfToken(stage, name) : holderOfDevice(stage, name))
  const sockets = await Promise.all(Array.from({ length: SOCKETS }, () => open(stage, holder)))
  const ends = sockets.map((line) => use(stage, holder, line))
  await wait(roll() * LONGEST_USE_MS)
  await holder.end()
  holder.endedAt = Date.now()
  tally.add('credentials taken away')
  tally.add(`by ${holder.way}`)
  for (const end of await Promise.all(ends))
    if (end !== GONE)
      tally.breach(
        'sockets not closed with 4001 gateway auth changed',
        `${name} ended by ${holder.way} and its socket with ${end} ${stage.where}`,
      )
  if (holder.way === 'tokens.revoke') await knock(stage, holder)
  return holder
}

async function holderOfToken({ operator }: Stage, name: string): Promise<Holder> {
  const made = await asked(operator, 'tokens.create', { name, scopes: SCOPES })
  return {
    name,
    principal: `token:${made.id}`,
    proofOf: () => ({ auth: { token: made.token } }),
    end: () => asked(operator, 'tokens.revoke', { id: made.id }),
    way: 'tokens.revoke',
    endedAt: Infinity,
  }
}

async function holderOfDevice({ port, operator, roll }: Stage, name: string): Promise<Holder> {
  const device = createDevice()
  const own = { deviceId: device.id, role: 'operator' }
  const proofOf = (token: string) => (nonce: string) => ({
    auth: { token },
    device: device.prove(nonce, { token, scopes: SCOPES }),
  })
  const line = await upgraded(port)
  const { payload } = await shakeHands(line, proofOf(TOKEN))
  line.close()
  const way = WAYS.device[Math.floor(roll() * WAYS.device.length)]!
  const ends: { [W in Exclude<Way, 'tokens.revoke'>]: () => Promise<unknown> } = {
    'device.token.revoke': () => asked(operator, 'device.token.revoke', own),
    'device.pair.remove': () => asked(operator, 'device.pair.remove', { deviceId: device.id }),
    narrowed: () => asked(operator, 'device.token.rotate', { ...own, scopes: ['operator.read'] }),
    async 'rotated twice'() {
      await asked(operator, 'device.token.rotate', own)
      await asked(operator, 'device.token.rotate', own)
    },
  }
  return {
    name,
    principal: device.id,
    proofOf: proofOf(payload.auth.deviceToken),
    end: ends[way],
    way,
    endedAt: Infinity,
  }
}

/** What a request comes to. @throws Error when it is refused: then the suite cannot be carried out */
async function asked(line: Line, method: string, params: object): Promise<Frame> {
  const answer = await line.ask(method, params)
  if (!answer?.['ok']) throw new Error(`${method} was refused: ${JSON.stringify(answer?.['error'])}`)
  return answer['payload']
}

/** Says who it is. Resolves to the answer. */
async function shakeHands(line: RawLine, proofOf: Holder['proofOf']): Promise<Frame> {
  const [challenge] = textsOf(line.frames) as Frame[]
  line.write(frame(connectFrame({ scopes: SCOPES, ...proofOf(challenge!['payload'].nonce) })))
  let hello: Frame | undefined
  await line.until(({ frames }) => {
    hello = textsOf(frames).find(({ id }) => id === 'c')
    return hello !== undefined
  })
  if (!hello) throw new Error('the line ended before the handshake was over')
  return hello
}

async function open({ port, tally }: Stage, { name, proofOf }: Holder): Promise<RawLine> {
  const line = await upgraded(port)
  const hello = await shakeHands(line, proofOf)
  if (!hello['ok']) throw new Error(`${name} was refused: ${JSON.stringify(hello['error'])}`)
  tally.add('sockets')
  return line
}

/** A credential that was taken away is shown once more. */
async function knock({ port, tally, where }: Stage, { name, proofOf }: Holder): Promise<void> {
  const line = await upgraded(port)
  if ((await shakeHands(line, proofOf))['ok']) tally.breach('credentials taken again', `${name} ${where}`)
  line.close()
}

/** Sends and listens until the line is cut. Resolves to what it was told at the end. */
async function use(stage: Stage, holder: Holder, line: RawLine): Promise<string> {
  const { tally, sends, where } = stage
  let close: string | undefined
  const listening = (async () => {
    while (!line.isGone) {
      await line.until(({ frames }) => frames.length > 0)
      const at = Date.now()
      const isLate = at > holder.endedAt + PROMISED_MS
      const frames = line.frames.splice(0)
      const last = closeOf(frames)
      if (last) {
        close ??= `${last.code} ${last.reason}`
        // One that came with the answer, or before it, took no time.
        tally.most('the longest from the answer to the close, in ms', at - holder.endedAt)
      }
      for (const { id, type, ok } of textsOf(frames)) {
        if (isLate) tally.breach('frames told later than a second after it', `${holder.name}: ${type} ${where}`)
        if (type === 'event') tally.add('events heard')
        else if (ok) {
          if (isLate) tally.breach('frames accepted later than a second after it', `${holder.name}: ${id} ${where}`)
          const send = sends.get(String(id))
          if (send) {
            send.ackedAt = at
            tally.add('sends acknowledged')
          }
        }
      }
    }
  })()
  const late = setInterval(() => {
    if (Date.now() > holder.endedAt + PATIENCE_MS) line.close()
  }, 500)
  await Promise.all([listening, keepSending(stage, holder, line)])
  clearInterval(late)
  tally.most('the longest from the answer to the end of the line, in ms', Date.now() - holder.endedAt)
  return close ?? 'no close'
}

async function keepSending({ roll, tally, sends }: Stage, holder: Holder, line: RawLine): Promise<void> {
  while (!line.isGone) {
    const many = roll() * BURST_ONE_IN < 1 ? BURST : 1
    for (let n = 0; n < many; n++) {
      const isRead = roll() < 0.25
      const sessionKey = `agent:main:${holder.name}-${Math.floor(roll() * SESSIONS)}`
      const key = `${holder.name}-${sends.size}`
      const speech = { seed: Math.floor(roll() * 1e9), pieces: 2 + Math.floor(roll() * 8), longest: 12, gap: 40 }
      if (!isRead) sends.set(key, { holder })
      const request = isRead
        ? { id: 'read', method: 'chat.history', params: { sessionKey, limit: 5 } }
        : { id: key, method: 'chat.send', params: { sessionKey, message: question(key, speech), idempotencyKey: key } }
      line.write(frame(JSON.stringify({ type: 'req', ...request })))
      if (Date.now() > holder.endedAt) tally.add('frames sent after the answer')
    }
    await Promise.race([wait(roll() * LONGEST_PAUSE_MS), line.gone])
  }
}

/** Compares what is in the file, and what the model was asked, with when each credential was taken away. */
function judge(holders: Holder[], sends: Map<string, Send>, folder: string, tally: Tally, where: string): void {
  const byName = new Map(holders.map((holder) => [holder.name, holder]))
  for (const { key, acceptedAt } of readRecords(folder).runs) {
    const { name, way, endedAt } = byName.get(key.split('-')[0]!) ?? {}
    if (endedAt === undefined) continue
    if (acceptedAt > endedAt + PROMISED_MS)
      tally.breach(
        'frames accepted later than a second after it',
        `${key} of ${name} was, ${acceptedAt - endedAt} ms after ${way} ${where}`,
      )
    else if (acceptedAt > endedAt) tally.add('sends accepted after the answer, within the second')
  }
  for (const [key, { holder, ackedAt, askedAt }] of sends) {
    const { endedAt, way } = holder
    if (!endsPrincipal(way)) continue
    if (ackedAt !== undefined && ackedAt < endedAt && (askedAt ?? Infinity) > endedAt)
      tally.add('sends that waited when their principal ended')
    if (askedAt !== undefined && askedAt > endedAt + PROMISED_MS)
      tally.breach('queued sends that started all the same', `${key}, ${askedAt - endedAt} ms after ${way} ${where}`)
  }
}

/** Six agents that are programs send each other messages, while they and the gateway are killed: each comes to one end, and is heard of once. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { type Client, connect } from '../../src/client/client.ts'
import { type Cutter, startCutter } from '../client/cutter.ts'
import { TOKEN } from '../support/gateway.ts'
import { type GatewayProcess, type ProcessOptions, startProcess } from '../support/gateway-process.ts'
import { leave } from '../support/leftovers.ts'
import { type ModelServer, startModelServer } from '../support/model-server.ts'
import { BREACHES, checkCouncil, notesOf, readTold, STATES } from './council-check.ts'
import { answerTo, createOrders, letterOf, type Order, ordersIn } from './council-orders.ts'
import { onGround, wait } from './ground.ts'
import { readRecords } from './records.ts'
import { type Rounds, random, type Suite } from './suite.ts'
import { createTally, type Tally } from './tally.ts'

const COUNCIL = ['main', 'researcher', 'writer', 'developer', 'analyst', 'ops']
const PYTHON = ['analyst', 'ops']
/** Who asks a model instead, by the format in which it is asked. */
const MODELS = { scribe: 'openai-completions', clerk: 'anthropic-messages' } as const
const DELEGATIONS_A_KILL = 20
/** Requests of outsiders under way at once. */
const AT_ONCE = 5
const PATIENCE_MS = 2_000
const QUIET_MS = 60_000
const SIGHTS = ['delivered', 'delivered', 'started', 'replied', 'answered'] as const

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url))
const python = process.env['KURULTAI_TEST_PYTHON'] ?? '/usr/bin/python3'

export const council: Suite = {
  summary:
    'six connectors, two of them in Python, delegate while they and the gateway are killed: every message has one end, every sender hears once',
  few: 40,
  many: 500,
  async run(how) {
    const tally = createTally([
      'kills of the gateway',
      'kills of connectors',
      'cuts of connectors',
      'connectors in Python',
      'messages',
      ...STATES,
      ...BREACHES,
      'taken for strangers',
      'senders told once',
      'answers heard in the run that waited',
      'answers brought by a turn',
      'pairs in order',
      'loops of three stopped at their limit',
      'tool loops',
    ])
    const models = await startModelServer()
    try {
      await onGround('council', ({ folder, babbler }) => convene(folder, babbler.url, models, tally, how))
    } finally {
      await models.close()
    }
    return tally
  },
}

function configOf(models: ModelServer, recovery: 'resume' | 'interrupt'): ProcessOptions {
  const seats = COUNCIL.map((id) => ({ id, maxConcurrent: 1, runtime: { type: 'connector', graceSeconds: 1 } }))
  const others = Object.keys(MODELS).map((id) => ({ id, model: `${id}/m` }))
  return {
    gateway: { limits: { requestsPerSecond: 0 } },
    providers: Object.fromEntries(
      Object.entries(MODELS).map(([id, api]) => [
        id,
        {
          baseUrl: api === 'anthropic-messages' ? models.url : `${models.url}/v1`,
          apiKey: 'none',
          api,
          models: [{ id: 'm' }],
        },
      ]),
    ),
    agents: { recovery, timeoutSeconds: 60 },
    list: [...seats, ...others],
    sections: {
      // Nobody is to be refused for want of room.
      messages: { queue: { limit: 1_000 } },
      tools: { agentToAgent: { enabled: true, allow: ['*'] } },
    },
  }
}

async function convene(
  folder: string,
  modelUrl: string,
  models: ModelServer,
  tally: Tally,
  { rounds, seed, say }: Rounds,
): Promise<void> {
  const roll = random(seed)
  const where = `(seed ${seed})`
  const hasPython = canRun(python)
  if (!hasPython) say(`${python} has no websockets or no cryptography: all six are in Node`)
  tally.add('connectors in Python', hasPython ? PYTHON.length : 0)

  let gateway: GatewayProcess = await startProcess(folder, modelUrl, configOf(models, 'resume'))
  const { url } = gateway
  const port = Number(new URL(url).port)
  const orders = new Map<string, Order>()
  const times = new Map<string, number>()
  const councillors = new Map<string, ChildProcess>()
  /** The way of each to the gateway. */
  const ways = new Map<string, Cutter>()
  const seat = async (id: string) => {
    const way = ways.get(id) ?? (await startCutter(port))
    ways.set(id, way)
    councillors.set(id, await startCouncillor(id, way.url, folder, hasPython && PYTHON.includes(id)))
  }
  let client: Client | undefined
  try {
    await Promise.all(COUNCIL.map(seat))
    client = await connect({ url, token: TOKEN, reconnect: { minMs: 50, maxMs: 300 } })
    const watched = watch(client)

    let isOver = false
    const killing = killNowAndThen(() => isOver)
    await askAll(
      client,
      drawUp(() => watched.delivered.size < rounds),
    )
    isOver = true
    await killing

    await untilQuiet(client)
    await goRound(client, folder, tally, where)
    await loopTools(client, models, tally, where, orders)
    await untilQuiet(client)
    for (const child of councillors.values()) child.kill('SIGKILL')
    client.close()
    gateway.terminate()
    const { code } = await gateway.exited
    if (code !== 0) tally.breach('stops that failed', `the gateway ended with ${code} ${where}`)
    const log = readFileSync(join(folder, 'logs/gateway.log'), 'utf8')
    for (const line of log.split('\n').filter((one) => one.includes('spoke for a run that is not its own')))
      tally.breach('taken for strangers', `${line} ${where}`)
    const notes = new Map(COUNCIL.map((id) => [id, notesOf(folder, id)]))
    checkCouncil({ notes, orders, times, delivered: watched.delivered, records: readRecords(folder), where }, tally)

    /** Kills somebody whenever so much has been delivered: right after a sight, or when that does not come. */
    async function killNowAndThen(isOver: () => boolean): Promise<void> {
      const kills = Math.max(2, Math.floor(rounds / DELEGATIONS_A_KILL))
      for (let n = 0; n < kills; n++) {
        const due = ((n + 0.5) / kills) * rounds * 0.9
        const sight = SIGHTS[Math.floor(roll() * SIGHTS.length)]!
        const victim = n === 0 || (n > 1 && roll() < 0.4) ? undefined : COUNCIL[Math.floor(roll() * COUNCIL.length)]!
        const recovery = n === 0 || roll() < 0.7 ? 'resume' : 'interrupt'
        const pauseMs = roll() < 0.4 ? 1_100 + roll() * 500 : roll() * 400
        const cut = COUNCIL.filter((id) => id !== victim && roll() < 0.2)
        while (watched.delivered.size < due && !isOver()) await wait(5)
        await Promise.race([watched.next(sight), wait(PATIENCE_MS)])
        for (const id of cut) ways.get(id)!.cut()
        tally.add('cuts of connectors', cut.length)
        if (victim === undefined) {
          await gateway.kill()
          tally.add('kills of the gateway')
          await wait(pauseMs / 4)
          gateway = await startProcess(folder, modelUrl, { ...configOf(models, recovery), port })
        } else {
          const child = councillors.get(victim)!
          child.kill('SIGKILL')
          await once(child, 'exit')
          tally.add('kills of connectors')
          await wait(pauseMs)
          await seat(victim)
        }
        say(
          `${n + 1} of ${kills} kills: ${victim ?? `the gateway, then ${recovery}`}, at ${watched.delivered.size} messages`,
        )
      }
    }
  } finally {
    client?.close()
    for (const child of councillors.values()) child.kill('SIGKILL')
    for (const way of ways.values()) await way[Symbol.asyncDispose]()
    await gateway.kill()
  }

  /** Requests, as long as more are wanted. What is drawn does not depend on what is killed. */
  function* drawUp(isWanted: () => boolean): Iterable<Request> {
    const draw = random(seed + 1)
    const { next } = createOrders(draw, COUNCIL)
    while (isWanted()) {
      const { who, order } = next()
      for (const one of ordersIn(order)) {
        orders.set(one.id, one)
        for (const act of one.steps.flat()) if (act.do === 'fire') times.set(act.order.id, act.times)
      }
      yield { order, sessionKey: `agent:${who}:${draw() < 0.5 ? 'main' : 'desk'}` }
    }
  }
}

interface Request {
  order: Order
  sessionKey: string
}

/** Hears where messages are. */
function watch(client: Client) {
  const delivered = new Set<string>()
  const waiting = new Map<string, (() => void)[]>()
  client.on('agent.message', ({ messageId, state }) => {
    delivered.add(messageId)
    for (const wake of waiting.get(state) ?? []) wake()
    waiting.delete(state)
  })
  return {
    /** Messages of which something was heard. */
    delivered,
    /** The next time that some message is in a state. */
    next: (state: string) =>
      new Promise<void>((resolve) => waiting.set(state, [...(waiting.get(state) ?? []), resolve])),
  }
}

/** Puts requests, some at once, until each has ended. */
async function askAll(client: Client, requests: Iterable<Request>): Promise<void> {
  const left = requests[Symbol.iterator]()
  const ask = async () => {
    for (let { value, done } = left.next(); !done; { value, done } = left.next()) {
      const { order, sessionKey } = value as Request
      const idempotencyKey = `request-${order.id}`
      const message = letterOf(order)
      await client.request('chat.send', { sessionKey, message, idempotencyKey }, { timeoutMs: QUIET_MS })
      await client.request('agent.wait', { runId: idempotencyKey, timeoutMs: QUIET_MS }, { timeoutMs: 2 * QUIET_MS })
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, ask))
}

/** Resolves when nothing is on its way, and nobody is at anything. */
async function untilQuiet(client: Client): Promise<void> {
  const end = performance.now() + QUIET_MS
  for (let quiet = 0; quiet < 3; ) {
    const { agents } = await client.request('agents.status', {})
    const lists = await Promise.all(
      (['delivered', 'started'] as const).map((state) => client.request('messages.list', { state })),
    )
    const isQuiet = agents.every(({ running, waiting }) => running + waiting === 0)
    quiet = isQuiet && lists.every(({ messages }) => messages.length === 0) ? quiet + 1 : 0
    // Whatever is not quiet by now is told by the file.
    if (performance.now() > end) return
    await wait(100)
  }
}

/** Three who pass a letter on to each other are stopped, and told why. */
async function goRound(client: Client, folder: string, tally: Tally, where: string): Promise<void> {
  const round = ['main', 'researcher', 'analyst']
  const id = 'm0'
  await client.chat({ sessionKey: 'agent:main:main', message: `${id} ${JSON.stringify({ round })}` }).result
  await untilQuiet(client)
  const sent = round
    .flatMap((one) => notesOf(folder, one))
    .filter((note) => note.what === 'told' && note.id.startsWith(`${id}+`))
  const way = Array.from({ length: 10 }, (_, hop) => round[hop % 3]).join(' → ')
  const words = `no more than 8 messages may follow from one another (${way}); answer with what you have, or raise tools.agentToAgent.limits.hops`
  const texts = sent.flatMap((note) => (note.what === 'told' ? [note.text] : []))
  const isStopped = texts.length === 9 && texts.filter((text) => readTold(text).status === 'delivered').length === 8
  if (isStopped && texts.includes(words)) tally.add('loops of three stopped at their limit')
  else tally.breach('loops that go on', `${JSON.stringify(texts)} ${where}`)
}

/** A model that asks for tools, wrongly at times, is told so and gets an answer; one that never does it right is stopped. */
async function loopTools(
  client: Client,
  models: ModelServer,
  tally: Tally,
  where: string,
  orders: Map<string, Order>,
): Promise<void> {
  for (const [agentId, api] of Object.entries(MODELS)) {
    const order: Order = { id: `m0-${agentId}`, words: 2, gap: 0, early: false, steps: [] }
    orders.set(order.id, order)
    const args = JSON.stringify({ agentId: 'writer', message: letterOf(order) })
    const ask = (wrong: string) =>
      client.chat({ sessionKey: `agent:${agentId}:main`, message: `[[${wrong}]] [[tool=sessions_send args=${args}]]` })
        .result
    const before = models.requests.length
    const ending = await ask('unknowntool=1 badargs=2')
    const text = ending.type === 'final' ? ending.text : ending.type
    if (text.includes(answerTo(order)) && models.requests.length - before === 4) tally.add('tool loops')
    else tally.breach('tool loops that failed', `${api}: ${models.requests.length - before} requests, ${text} ${where}`)
    const error = await ask('badargs=9').then(
      ({ type }) => type,
      (error: Error) => error.message,
    )
    if (/arguments/.test(error)) tally.add('tool loops')
    else tally.breach('tool loops that failed', `${api}, always wrong: ${error} ${where}`)
  }
}

function canRun(program: string): boolean {
  try {
    execFileSync(program, ['-c', 'import websockets, cryptography'], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

/** Starts one of the council. Resolves when it has been let in. */
async function startCouncillor(id: string, url: string, folder: string, isPython: boolean): Promise<ChildProcess> {
  const [program, ...args] = isPython
    ? [python, here('councillor.py')]
    : [process.execPath, '--disable-warning=ExperimentalWarning', here('councillor.ts')]
  const library = here('../../src/client/python')
  const child = spawn(program!, [...args, url, TOKEN, id, folder], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { PATH: process.env['PATH'], PYTHONPATH: library, PYTHONDONTWRITEBYTECODE: '1' },
  })
  const gone = leave(() => child.kill('SIGKILL'))
  child.on('exit', gone)
  let complaint = ''
  child.stderr.on('data', (data) => {
    complaint += data
  })
  await new Promise<void>((resolve, reject) => {
    createInterface({ input: child.stdout }).on('line', () => resolve())
    child.on('exit', (code) => reject(new Error(`the councillor ${id} ended with ${code}:\n${complaint}`)))
  })
  return child
}

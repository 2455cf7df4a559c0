import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer as createHttpServer } from 'node:http'
import { type AddressInfo, createServer, connect as dial, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { WebSocketServer } from 'ws'
import { KEYED, READING } from '../../src/client/repeatable.ts'
import { REFUSALS } from '../../src/contract/errors.ts'
import { METHODS } from '../../src/contract/index.ts'
import { type Frame, TOKEN } from '../support/gateway.ts'
import { type GatewayProcess, type ProcessOptions, startProcess } from '../support/gateway-process.ts'
import { type ModelServer, startModelServer } from '../support/model-server.ts'

// Debian's own Python has Debian's own websockets. Another one, with another version of the library, may be named.
const python = process.env['KURULTAI_TEST_PYTHON'] ?? '/usr/bin/python3'
const library = fileURLToPath(new URL('../../src/client/python', import.meta.url))
const program = join(library, 'kurultai_client.py')
const steps = fileURLToPath(new URL('python-steps.py', import.meta.url))
const env = { PATH: process.env['PATH'], PYTHONPATH: library, PYTHONDONTWRITEBYTECODE: '1', PYTHONIOENCODING: 'utf-8' }

let folder: string
let model: ModelServer
let gateway: GatewayProcess
let relay: Relay
const ends: (() => unknown)[] = []

const has = (module: string): boolean => {
  try {
    execFileSync(python, ['-c', `import ${module}`], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

/** A way to a gateway that can be made a bad one. It stays where it is when the gateway comes back elsewhere. */
interface Relay {
  url: string
  /** How many have come. */
  readonly connections: number
  lead(to: string): void
  /** Breaks every connection. */
  cut(): void
  /** Lets nothing through any more on the connections there are, and keeps them open. */
  silence(): void
  /** Cuts in place of passing on what the gateway says with this in it; once. */
  swallow(words: string): void
  /** Answers the next one that comes with this, in place of the gateway. */
  answerNext(head: string): void
  close(): Promise<void>
}

async function openRelay(to: string): Promise<Relay> {
  let target = new URL(to)
  let connections = 0
  let unwanted: string | undefined
  let head: string | undefined
  const open = new Set<Socket>()
  const pairs = new Set<[Socket, Socket]>()
  const track = (socket: Socket) => {
    open.add(socket)
    socket.on('error', () => {}).on('close', () => open.delete(socket))
  }
  const cut = () => {
    for (const socket of open) socket.destroy()
  }
  const server = createServer((near) => {
    connections += 1
    track(near)
    if (head !== undefined) {
      near.end(head)
      head = undefined
      return
    }
    const far = dial(Number(target.port), target.hostname)
    track(far)
    pairs.add([near, far])
    near.pipe(far)
    far.on('data', (data) => {
      if (unwanted !== undefined && data.includes(unwanted)) {
        unwanted = undefined
        cut()
      } else near.write(data)
    })
    near.on('close', () => far.destroy())
    far.on('close', () => near.destroy())
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const close = async () => {
    cut()
    await new Promise((resolve) => server.close(resolve))
  }
  ends.push(close)
  return {
    url: `ws://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    get connections() {
      return connections
    },
    lead(to) {
      target = new URL(to)
    },
    cut,
    silence() {
      for (const [near, far] of pairs) {
        near.unpipe(far)
        near.resume()
        far.removeAllListeners('data').resume()
      }
    },
    swallow(words) {
      unwanted = words
    },
    answerNext(answer) {
      head = answer
    },
    close,
  }
}

/** The client at work on a plan. */
interface Worker {
  /** What it has said so far. */
  said: Frame[]
  /** The first thing said that fits, already or yet to come. */
  until(fits: (line: Frame, index: number, said: Frame[]) => boolean): Promise<Frame>
  /** Lets a `pause` go on. */
  goOn(): void
  /** Everything it said, when it has ended. */
  done: Promise<Frame[]>
}

/**
 * A gateway that does what is written: `answer` is called with each request and how many have connected so far. When it returns
 * `hang up`, the connection ends behind what was said.
 */
async function script(
  answer: (request: Frame, say: (frame: Frame) => void, times: number) => unknown,
): Promise<string> {
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1' })
  await once(server, 'listening')
  let connections = 0
  server.on('connection', (socket) => {
    const times = ++connections
    const say = (frame: Frame) => socket.send(JSON.stringify(frame))
    say({ type: 'event', event: 'connect.challenge', payload: { nonce: 'n', ts: Date.now() } })
    socket.on('message', (data) => {
      const request = JSON.parse(data.toString()) as Frame
      const features = { methods: Object.keys(METHODS), events: [] }
      const hello = {
        ...{ type: 'hello-ok', protocol: 4, features, policy: { tickIntervalMs: 30_000, maxPayload: 1e6 } },
        snapshot: { sessionDefaults: { defaultAgentId: 'main', mainKey: 'main', mainSessionKey: 'agent:main:main' } },
      }
      if (request['method'] === 'connect') say({ type: 'res', id: request['id'], ok: true, payload: hello })
      else if (answer(request, say, times) === 'hang up') socket.close(1012)
    })
  })
  ends.push(() => {
    for (const socket of server.clients) socket.terminate()
    server.close()
  })
  return `ws://127.0.0.1:${(server.address() as AddressInfo).port}/`
}

function work(plan: { steps: object[]; url?: string; token?: string | null; options?: object }): Worker {
  const child = spawn(python, [steps, JSON.stringify({ token: TOKEN, ...plan, url: plan.url ?? relay.url })], { env })
  ends.push(() => child.kill('SIGKILL'))
  const said: Frame[] = []
  const waiting = new Set<() => void>()
  let complaint = ''
  let isOver = false
  child.stderr.on('data', (data) => {
    complaint += data
  })
  createInterface({ input: child.stdout }).on('line', (line) => {
    said.push(JSON.parse(line) as Frame)
    for (const look of waiting) look()
  })
  const done = once(child, 'close').then(([code]) => {
    isOver = true
    for (const look of waiting) look()
    if (code !== 0) throw new Error(`the client ended with ${code}:\n${complaint}`)
    return said
  })
  done.catch(() => {})
  return {
    said,
    until: (fits) =>
      new Promise((resolve, reject) => {
        const look = () => {
          const found = said.find(fits)
          if (!found && !isOver) return
          waiting.delete(look)
          if (found) resolve(found)
          else reject(new Error(`the client ended before it said that:\n${JSON.stringify(said)}\n${complaint}`))
        }
        waiting.add(look)
        look()
      }),
    goOn: () => void child.stdin.write('\n'),
    done,
  }
}

const chat = (message: string, more: object = {}) => ({ do: 'chat', message, ...more })
const words = (count: number) => 'word '.repeat(count)
const endings = (said: Frame[]) => said.filter((line) => 'ending' in line)
const drawn = (least: number) => (_: Frame, index: number, said: Frame[]) =>
  said.slice(0, index + 1).reduce((sum, { chunk = '' }) => sum + chunk.length, 0) >= least

/** The places of all events of a session that the client passed on: each once, in order, none left out. */
function expectNoHole(said: Frame[]): void {
  const heard = said.at(-1)?.['heard'] as [string, number][]
  expect(heard.length).toBeGreaterThan(0)
  expect(new Set(heard.map(([epoch]) => epoch)).size).toBe(1)
  expect(heard.map(([, offset]) => offset)).toEqual(heard.map((_, index) => index + 1))
}

async function start(options: ProcessOptions & { modelUrl?: string } = {}): Promise<void> {
  gateway = await startProcess(folder, options.modelUrl ?? model.url, options)
  ends.push(() => gateway.kill())
  relay = await openRelay(gateway.url)
}

/** Kills the gateway; another one comes up on what it left. */
async function restart(): Promise<void> {
  await gateway.kill()
  gateway = await startProcess(folder, model.url)
  relay.lead(gateway.url)
}

describe('the Python client', () => {
  beforeEach(async (context) => {
    context.skip(!has('websockets'), `${python} has no websockets: apt-get install python3-websockets`)
    folder = mkdtempSync(join(tmpdir(), 'kurultai-python-'))
    ends.push(() => rmSync(folder, { recursive: true, force: true }))
    model = await startModelServer()
    ends.push(() => model.close())
  })
  afterEach(async () => {
    // What was made last goes first.
    for (const end of ends.splice(0).reverse()) await end()
  })

  it('shakes hands, asks, and streams an answer to the letter', async () => {
    await start()
    const text = 'Söz uçar, yazı kalır. 言葉 🐎🏹 \\"quoted"\n'
    const said = await work({
      steps: [{ do: 'hello' }, chat(`[[text=${text}]]`), { do: 'request', method: 'sessions.list', params: {} }],
    }).done
    expect(said[0]).toMatchObject({ hello: { protocol: 4, policy: { tickIntervalMs: 30_000 } } })
    expect(endings(said)).toMatchObject([{ ending: 'whole', text, drawn: text }])
    expect(said.at(-2)).toMatchObject({ answer: { count: 1, sessions: [{ key: 'agent:main:main' }] } })
    expectNoHole(said)
  })

  it('hears each answer whole and each event once, however often it is cut off', async () => {
    await start()
    const lengths = [90, 60, 120]
    const client = work({ steps: lengths.map((chunks) => chat(`[[chunks=${chunks} gap=4]]`)) })
    let seed = 11
    const random = (below: number) => {
      seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648
      return seed % below
    }
    const total = lengths.reduce((sum, chunks) => sum + words(chunks).length, 0)
    let cuts = 0
    for (let at = 5; at < total - 50; at += 60 + random(120)) {
      await client.until(drawn(at))
      relay.cut()
      cuts += 1
    }
    const said = await client.done
    expect(cuts).toBeGreaterThan(5)
    expect(relay.connections).toBeGreaterThan(cuts / 2)
    expect(endings(said)).toMatchObject(
      lengths.map((chunks) => ({ ending: 'whole', text: words(chunks), drawn: words(chunks) })),
    )
    expect(said.filter(({ gap }) => gap)).toEqual([])
    expectNoHole(said)
    expect(model.requests.length).toBe(lengths.length)
  })

  it('says that a run was interrupted when the gateway was killed, and goes on with the next', async () => {
    await start()
    const client = work({ steps: [chat('[[chunks=4000 gap=5]]'), chat('[[chunks=5]]')] })
    await client.until(drawn(50))
    await restart()
    const said = await client.done
    const [first, second] = endings(said)
    expect(first).toMatchObject({ ending: 'RunInterrupted' })
    expect(words(4000).startsWith(first!['text'])).toBe(true)
    expect(first!['text'].length).toBeGreaterThanOrEqual(50)
    expect(first!['drawn']).toBe(first!['text'])
    expect(said.find(({ error }) => error)?.['message']).toContain('the gateway stopped')
    expect(said.find(({ gap }) => gap)).toEqual({ gap: 'epoch_changed' })
    expect(second).toMatchObject({ ending: 'whole', text: words(5) })
    expect(model.requests.length).toBe(2)
  })

  it('goes on with a queued turn over a kill of the gateway', async () => {
    await start()
    const client = work({
      steps: [
        { do: 'both', steps: [chat('[[chunks=4000 gap=5]]'), chat('[[chunks=6]]', { idempotency_key: 'queued' })] },
      ],
    })
    await client.until(drawn(50))
    const peer = await gateway.connect()
    const { payload } = await peer.request('chat.send', {
      sessionKey: 'main',
      message: '[[chunks=6]]',
      idempotencyKey: 'queued',
    })
    expect(payload.status).toBe('in_flight')
    await restart()
    expect(endings(await client.done)).toMatchObject([
      { ending: 'RunInterrupted' },
      { ending: 'whole', text: words(6) },
    ])
  })

  it('sends a message again under its key when the answer got lost, and it is one run', async () => {
    await start()
    const client = work({ steps: [{ do: 'pause' }, chat('[[chunks=8]]')] })
    await client.until(({ paused }) => paused)
    relay.swallow('"status":"started"')
    client.goOn()
    const said = await client.done
    expect(relay.connections).toBe(2)
    expect(endings(said)).toMatchObject([{ ending: 'whole', text: words(8) }])
    expect(model.requests.length).toBe(1)
  })

  it('gives the same answer to who asks again under the same key, while it runs and after it', async () => {
    await start()
    const one = work({ steps: [chat('[[chunks=60 gap=5]]', { idempotency_key: 'k' })] })
    await one.until(drawn(40))
    const two = work({ steps: [chat('[[chunks=60 gap=5]]', { idempotency_key: 'k' })] })
    const whole = { ending: 'whole', text: words(60), drawn: words(60), runId: 'k' }
    expect(endings(await one.done)).toMatchObject([whole])
    expect(endings(await two.done)).toMatchObject([whole])
    // Who came later was told nothing that had to be taken back.
    expect(two.said.filter(({ replaces }) => replaces)).toEqual([])
    const three = work({ steps: [chat('[[chunks=60 gap=5]]', { idempotency_key: 'k' })] })
    expect(endings(await three.done)).toMatchObject([whole])
    expect(model.requests.length).toBe(1)
  })

  it('sends a message again, under its key, when the gateway says later', async () => {
    const keys: string[] = []
    const url = await script(({ id, params }, say) => {
      keys.push(params.idempotencyKey)
      const about = { runId: params.idempotencyKey, sessionKey: 'agent:main:main', seq: 1 }
      if (keys.length < 3) {
        const error = { code: 'UNAVAILABLE', message: 'busy', details: { code: 'SESSION_BUSY' }, retryable: true }
        return say({ type: 'res', id, ok: false, error: { ...error, retryAfterMs: 10 } })
      }
      say({ type: 'res', id, ok: true, payload: { runId: params.idempotencyKey, status: 'started' } })
      say({ type: 'event', event: 'chat', payload: { ...about, epoch: 'e', offset: 1, state: 'final' } })
    })
    expect(endings(await work({ url, steps: [chat('hello')] }).done)).toMatchObject([{ ending: 'whole' }])
    expect(keys.length).toBe(3)
    expect(new Set(keys).size).toBe(1)
  })

  it('tells no text twice that was joined for it while it read slowly, when it is cut off in between', async () => {
    const asked: Frame[] = []
    const url = await script(({ id, method, params }, say, times) => {
      const piece = (seq: number, offset: number, text: string, more = {}) => ({
        event: 'agent',
        payload: { ...about, seq, epoch: 'e', offset, stream: 'assistant', data: { delta: text }, ...more },
      })
      const about = { runId: 'k', sessionKey: 'agent:main:main' }
      const start = { ...about, seq: 1, epoch: 'e', offset: 1, stream: 'lifecycle', data: { phase: 'start' } }
      if (method === 'chat.send') {
        say({ type: 'res', id, ok: true, payload: { runId: 'k', status: times === 1 ? 'started' : 'in_flight' } })
        say({ type: 'event', event: 'agent', payload: start })
        // Stands for the offsets 2 and 3, and tells what has offset 5, too: a chat delta with offset 4 waited behind it.
        say({ type: 'event', ...piece(4, 3, 'one two three ', { from: 2 }) })
        return 'hang up'
      }
      asked.push(params)
      const chatDelta = { ...about, seq: 3, epoch: 'e', offset: 4, state: 'delta', deltaText: 'one two ' }
      const final = { ...about, seq: 6, epoch: 'e', offset: 7, state: 'final' }
      const events = [{ event: 'chat', payload: chatDelta }, piece(4, 5, 'three '), piece(5, 6, 'four')]
      say({ type: 'res', id, ok: true, payload: { recovered: true, epoch: 'e', offset: 6, events } })
      say({ type: 'event', event: 'chat', payload: final })
    })
    const said = await work({ url, steps: [chat('hello', { idempotency_key: 'k' })] }).done
    expect(asked).toMatchObject([{ epoch: 'e', offset: 3, runIds: ['k'] }])
    const text = 'one two three four'
    expect(endings(said)).toMatchObject([{ ending: 'whole', text, drawn: text }])
    expect(said.at(-1)?.['heard'].map(([, offset]: [string, number]) => offset)).toEqual([1, 3, 4, 6, 7])
  })

  it('is told an answer from its beginning when it missed that, and how the record says that it ended', async () => {
    const asked: Frame[] = []
    const about = { runId: 'k', sessionKey: 'agent:main:main' }
    const delta = (offset: number, text: string) => ({
      type: 'event',
      event: 'agent',
      payload: { ...about, seq: offset, epoch: 'e', offset, stream: 'assistant', data: { delta: text } },
    })
    const url = await script(({ id, method, params }, say) => {
      if (method === 'chat.send') {
        say({ type: 'res', id, ok: true, payload: { runId: 'k', status: 'started' } })
        return 'hang up'
      }
      const snapshot = (offset: number, run: object) =>
        say({
          type: 'res',
          id,
          ok: true,
          payload: {
            ...{ recovered: false, epoch: 'e', offset, reason: 'no_position' },
            snapshot: { messages: [], runs: [{ runId: 'k', ...run }] },
          },
        })
      asked.push(params)
      if (asked.length > 1) return snapshot(6, { state: 'interrupted', text: 'one two three ', error: 'cut off' })
      // What comes before the answer is in it.
      say(delta(4, 'two '))
      snapshot(4, { state: 'started', text: 'one two ' })
      say(delta(5, 'three '))
      say({ type: 'event', event: 'chat', payload: { ...about, seq: 5, epoch: 'e', offset: 6, state: 'error' } })
    })
    const said = await work({ url, steps: [chat('hello', { idempotency_key: 'k' })] }).done
    const text = 'one two three '
    expect(endings(said)).toMatchObject([{ ending: 'RunInterrupted', text, drawn: text }])
    expect(said.filter(({ replaces }) => replaces)).toEqual([])
    const question = { sessionKey: 'agent:main:main', runIds: ['k'] }
    expect(asked).toEqual([question, question])
    expect(said.at(-1)?.['heard']).toEqual([
      ['e', 5],
      ['e', 6],
    ])
  })

  it('tells no middle of an answer before its beginning, and nothing twice that the gateway says twice', async () => {
    const about = { runId: 'k', sessionKey: 'agent:main:main', epoch: 'e' }
    const url = await script(({ id, method }, say) => {
      const three = { ...about, seq: 3, offset: 3, stream: 'assistant', data: { delta: 'three ' } }
      const four = { ...about, seq: 4, offset: 4, stream: 'assistant', data: { delta: 'four' } }
      if (method === 'chat.send') {
        say({ type: 'res', id, ok: true, payload: { runId: 'k', status: 'in_flight' } })
        return say({ type: 'event', event: 'agent', payload: three })
      }
      const runs = [{ runId: 'k', state: 'started', text: 'one two three ' }]
      const snapshot = { messages: [], runs }
      const payload = { recovered: false, epoch: 'e', offset: 3, reason: 'no_position', snapshot }
      say({ type: 'res', id, ok: true, payload })
      for (const offset of [4, 4, 3]) say({ type: 'event', event: 'agent', payload: offset === 4 ? four : three })
      say({ type: 'event', event: 'chat', payload: { ...about, seq: 4, offset: 5, state: 'final' } })
    })
    const said = await work({ url, steps: [chat('hello', { idempotency_key: 'k' })] }).done
    const text = 'one two three four'
    expect(endings(said)).toMatchObject([{ ending: 'whole', text, drawn: text }])
    expect(said.filter(({ replaces }) => replaces)).toEqual([])
    expect(said.at(-1)?.['heard'].map(([, offset]: [string, number]) => offset)).toEqual([3, 4, 5])
  })

  it('hears a session once that it knows by two names', async () => {
    const asked: Frame[] = []
    const about = { runId: 'k', sessionKey: 'agent:main:main', epoch: 'e' }
    const kept = [
      { event: 'agent', payload: { ...about, seq: 1, offset: 3, stream: 'lifecycle', data: { phase: 'start' } } },
      { event: 'agent', payload: { ...about, seq: 2, offset: 4, stream: 'assistant', data: { delta: 'one ' } } },
      { event: 'agent', payload: { ...about, seq: 3, offset: 5, stream: 'assistant', data: { delta: 'two' } } },
      { event: 'chat', payload: { ...about, seq: 4, offset: 6, state: 'final' } },
    ]
    const url = await script(({ id, method, params }, say, times) => {
      const answer = (payload: object) => say({ type: 'res', id, ok: true, payload })
      if (method === 'chat.send') {
        answer({ runId: 'k', status: 'started' })
        return 'hang up'
      }
      if (method === 'health') return answer({})
      asked.push(params)
      if (times === 2) {
        const snapshot = { messages: [], runs: [{ runId: 'k', state: 'admitted', text: '' }] }
        answer({ recovered: false, epoch: 'e', offset: 2, reason: 'no_position', snapshot })
        for (const said of kept.slice(0, 2)) say({ type: 'event', ...said })
        return 'hang up'
      }
      const events = kept.filter(({ payload }) => payload.offset > params.offset)
      answer({ recovered: true, epoch: 'e', offset: 6, events })
    })
    const name = 'agent:kublai:main'
    // Answered after all that was asked before it.
    const last = { do: 'request', method: 'health' }
    const said = await work({ url, steps: [chat('hello', { idempotency_key: 'k', session: name }), last] }).done
    expect(asked.map(({ sessionKey, offset }) => [sessionKey, offset])).toEqual([
      [name, undefined],
      ['agent:main:main', 4],
      [name, 2],
    ])
    expect(endings(said)).toMatchObject([{ ending: 'whole', text: 'one two' }])
    expect(said.at(-1)?.['heard'].map(([, offset]: [string, number]) => offset)).toEqual([3, 4, 5, 6])
  })

  it('asks again what only reads, and says of the rest that nobody knows', async () => {
    await start()
    const reading = { do: 'request', method: 'chat.history', params: { sessionKey: 'main' } }
    const writing = { do: 'request', method: 'sessions.patch', params: { key: 'main', label: 'a label' } }
    const client = work({ steps: [{ do: 'pause' }, reading, { do: 'pause' }, writing] })
    await client.until(({ paused }) => paused)
    relay.swallow('"messages":')
    client.goOn()
    await client.until(({ answer }) => answer)
    relay.swallow('"entry":')
    client.goOn()
    const said = await client.done
    expect(relay.connections).toBe(2)
    expect(said.find(({ answer }) => answer)).toMatchObject({ answer: { sessionKey: 'main', messages: [] } })
    expect(said.find(({ error }) => error)).toMatchObject({
      error: 'ConnectionLost',
      message: expect.stringContaining('nobody knows whether it was carried out'),
    })
  })

  it('waits for the second answer of an agent, also over a lost connection', async () => {
    await start()
    const params = { agentId: 'main', message: '[[chunks=60 gap=5]]' }
    const client = work({ steps: [{ do: 'request', method: 'agent', params, final: true }] })
    await expect.poll(() => model.requests[0]?.sent ?? 0, { timeout: 15_000 }).toBeGreaterThan(5)
    relay.cut()
    const said = await client.done
    expect(said[0]).toMatchObject({ answer: { status: 'ok', result: { payloads: [{ text: words(60) }] } } })
    expect(relay.connections).toBe(2)
    expect(model.requests.length).toBe(1)
  })

  it('leaves a connection that has fallen silent, and goes on with the answer', async () => {
    await start({ gateway: { tickIntervalMs: 1000 } })
    const client = work({ steps: [chat('[[chunks=40 gap=5]]')] })
    await client.until(drawn(50))
    relay.silence()
    const said = await client.done
    expect(endings(said)).toMatchObject([{ ending: 'whole', text: words(40), drawn: words(40) }])
    expectNoHole(said)
    expect(relay.connections).toBe(2)
  })

  it('is refused once with a wrong token, and says what to do', async () => {
    await start()
    const said = await work({ token: 'not-the-token-0123456789abcd', steps: [] }).done
    expect(said[0]).toMatchObject({
      error: 'RequestRefused',
      code: 'AUTH_TOKEN_MISMATCH',
      advice: expect.stringContaining('gateway.auth.token'),
    })
    expect(JSON.stringify(said)).not.toContain('not-the-token')
    expect(relay.connections).toBe(1)
  })

  it('comes back after an HTTP 503, and not after a 403', async () => {
    await start()
    relay.answerNext(
      'HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n',
    )
    expect(await work({ steps: [{ do: 'hello' }] }).done).toMatchObject([{ hello: { protocol: 4 } }, { heard: [] }])
    expect(relay.connections).toBe(2)
    relay.answerNext('HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n')
    expect((await work({ steps: [] }).done)[0]).toMatchObject({ error: 'RequestRefused' })
    expect(relay.connections).toBe(3)
  })

  it('stops the run when its reader is cancelled, unless it is told to leave it', async () => {
    await start()
    const stopped = work({ steps: [chat('[[chunks=4000 gap=5]]', { cancel_after: 20 })] })
    expect(endings(await stopped.done)).toMatchObject([{ ending: 'cancelled' }])
    await model.requests[0]!.closed
    expect(model.requests[0]).toMatchObject({ closedEarly: true })
    const left = work({ steps: [chat('[[chunks=50 gap=5]]', { cancel_after: 20, abort_on_cancel: false })] })
    expect(endings(await left.done)).toMatchObject([{ ending: 'cancelled' }])
    await model.requests[1]!.closed
    expect(model.requests[1]).toMatchObject({ closedEarly: false, sent: 50 })
    const early = work({ steps: [chat('[[chunks=4000 gap=5]]', { leave_after: 20 })] })
    expect(endings(await early.done)).toMatchObject([{ ending: 'left' }])
    await model.requests[2]!.closed
    expect(model.requests[2]).toMatchObject({ closedEarly: true })
  })

  it('raises Aborted for a run that was stopped, and RunFailed in the words of the model', async () => {
    await start()
    const said = await work({ steps: [chat('[[chunks=4000 gap=5]]', { abort_after: 20 }), chat('[[fail=400]]')] }).done
    expect(endings(said)).toMatchObject([{ ending: 'Aborted' }, { ending: 'RunFailed' }])
    expect(said.find(({ error }) => error === 'RunFailed')?.['message']).toContain('fake failure 400')
  })

  it('answers commands and stop words, which are no runs of a model', async () => {
    await start()
    const said = await work({ steps: [chat('/help'), chat('stop')] }).done
    const [help, stop] = endings(said)
    expect(help).toMatchObject({ ending: 'whole', text: expect.stringContaining('/status') })
    expect(stop).toMatchObject({ ending: 'whole', text: '' })
    expect(model.requests.length).toBe(0)
  })

  it('does not send what the gateway would hang up for, nor what is no text', async () => {
    await start()
    const client = work({
      steps: [chat('x', { times: 9_000_000 }), chat('half of a horse: \ud83d'), chat('[[chunks=2]]')],
    })
    const said = await client.done
    expect(said.flatMap(({ error = [] }) => error)).toEqual(['RequestRefused', 'UnicodeEncodeError'])
    expect(endings(said).at(-1)).toMatchObject({ ending: 'whole', text: words(2) })
    expect(relay.connections).toBe(1)
    expect(model.requests.length).toBe(1)
  })

  it('joins a character that the model sent in two halves', async () => {
    const halves = createHttpServer((_, response) => {
      const say = (content: string) =>
        response.write(`data: ${JSON.stringify({ choices: [{ index: 0, delta: { content } }] })}\n\n`)
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      say('a horse: \ud83d')
      setTimeout(() => {
        say('\udc0e.')
        response.end('data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
      }, 300)
    })
    await once(halves.listen(0, '127.0.0.1'), 'listening')
    ends.push(() => halves.close())
    await start({ modelUrl: `http://127.0.0.1:${(halves.address() as AddressInfo).port}` })
    const said = await work({ steps: [chat('what is that?')] }).done
    expect(endings(said)).toMatchObject([{ ending: 'whole', text: 'a horse: 🐎.', drawn: 'a horse: 🐎.' }])
    expect(said.filter(({ replaces }) => replaces)).toEqual([])
  })

  it('proves a device, and is let in with that device alone afterwards', async (context) => {
    context.skip(!has('cryptography'), `${python} has no cryptography: apt-get install python3-cryptography`)
    await start()
    const options = { device: join(folder, 'device.key') }
    const [first] = await work({ options, steps: [{ do: 'hello' }] }).done
    const { deviceToken } = first!['hello'].auth
    expect(deviceToken).toMatch(/^[0-9a-f]{32}$/)
    const [second] = await work({
      token: null,
      options: { ...options, device_token: deviceToken },
      steps: [{ do: 'hello' }],
    }).done
    expect(second).toMatchObject({ hello: { protocol: 4 } })
    const other = { device: join(folder, 'other.key'), device_token: deviceToken }
    const [third] = await work({ token: null, options: other, steps: [] }).done
    expect(third).toMatchObject({ error: 'RequestRefused' })
  })

  it('prints an answer as a program, and fails in a sentence', async () => {
    await start()
    const run = async (token: string, url = relay.url, message = '[[chunks=4]]') => {
      const child = spawn(python, [program, '--url', url, '--wait', '0.1', message], {
        env: { ...env, OPENCLAW_GATEWAY_TOKEN: token },
      })
      const said = { out: '', err: '' }
      child.stdout.on('data', (data) => {
        said.out += data
        // As Ctrl-C does; only the answer that is too long to wait for gets here.
        if (said.out.length > words(100).length) child.kill('SIGINT')
      })
      child.stderr.on('data', (data) => {
        said.err += data
      })
      const [code] = await once(child, 'close')
      return { code, ...said }
    }
    expect(await run(TOKEN)).toEqual({ code: 0, out: `${words(4)}\n`, err: '' })
    expect(await run('another-token-0123456789ab')).toMatchObject({
      code: 1,
      err: expect.stringContaining('AUTH_TOKEN_MISMATCH'),
    })
    expect(await run(TOKEN, relay.url, '[[chunks=4000 gap=2]]')).toMatchObject({ code: 130, err: '' })
    await model.requests[1]!.closed
    expect(model.requests[1]).toMatchObject({ closedEarly: true })
    const { url } = relay
    await relay.close()
    expect(await run(TOKEN, url)).toMatchObject({
      code: 69,
      err: expect.stringContaining(`no gateway answers at ${url}`),
    })
  })

  it('repeats the methods that the other client repeats, and has no advice for refusals that there are not', () => {
    const inside =
      'import json, kurultai_client as k; print(json.dumps([sorted(k.READING), sorted(k.KEYED), sorted(k.ADVICE)]))'
    const [reading, keyed, advice] = JSON.parse(execFileSync(python, ['-c', inside], { env, encoding: 'utf8' }))
    expect(reading).toEqual(Object.keys(READING).sort())
    expect(keyed).toEqual(Object.keys(KEYED).sort())
    // What it has no advice for, the gateway's own words must do.
    expect(advice.filter((name: string) => !(name in REFUSALS))).toEqual([])
  })
})

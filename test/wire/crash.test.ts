import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { endOf, type Frame, type Peer } from '../support/gateway.ts'
import { type GatewayProcess, startProcess } from '../support/gateway-process.ts'
import { type ModelServer, startModelServer } from '../support/model-server.ts'

let folder: string
let model: ModelServer
let gateway: GatewayProcess | undefined

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'crash-'))
  model = await startModelServer()
})
afterEach(async () => {
  await gateway?.kill()
  await model.close()
  rmSync(folder, { recursive: true, force: true })
})

/** A turn as the client remembers it. */
interface Sent {
  key: string
  session: string
  message: string
  acked: boolean
  /** Terminal `chat` events, on whatever connection. */
  ends: Frame[]
}

/** A client that writes down what it sent and what it was told, and trusts nothing else. */
function createClient() {
  const log: Sent[] = []
  let peer: Peer
  const turn = ({ session, message, key }: Sent) => ({ sessionKey: session, message, idempotencyKey: key })

  async function ask(sent: Sent): Promise<Frame> {
    const answer = await peer.request('chat.send', turn(sent))
    // A turn that was kept and cut off before its first answer left is answered with how it ended.
    if (answer['ok'] || answer['payload']?.status === 'error') sent.acked = true
    return answer
  }

  return {
    log,
    async connect(to: GatewayProcess) {
      peer = await to.connect()
      peer.socket.on('message', (data) => {
        const frame = JSON.parse(data.toString()) as Frame
        for (const sent of log) if (endOf(sent.key)(frame)) sent.ends.push(frame)
      })
      return peer
    },
    /** Sends a turn without waiting; resolves to the answer, or to undefined when the connection ended first. */
    send(session: string, message: string): { sent: Sent; answer: Promise<Frame | undefined> } {
      const key = `key-${log.length}`
      const sent: Sent = { key, session, message: `${key} ${message}`, acked: false, ends: [] }
      log.push(sent)
      return { sent, answer: ask(sent).catch(() => undefined) }
    },
    /** Asks again for everything ever sent, waits for every ending, and compares the history with the log. */
    async check() {
      for (const sent of log) {
        const { payload, ok } = await ask(sent)
        if (ok) expect(['started', 'in_flight', 'ok']).toContain(payload.status)
        if (payload?.status === 'started') expect(sent.ends).toEqual([])
      }
      for (const { key } of log)
        expect((await peer.request('agent.wait', { runId: key, timeoutMs: 15_000 }))['payload'].status).not.toBe(
          'timeout',
        )
      for (const sent of log) {
        const { ok, payload } = await ask(sent)
        expect(ok ? payload.status : payload.status).toBe(ok ? 'ok' : 'error')
        expect(sent.ends.length, `terminal events of ${sent.key}`).toBeLessThanOrEqual(1)
      }
      for (const session of new Set(log.map((sent) => sent.session))) {
        const { payload } = await peer.request('chat.history', { sessionKey: session, limit: 1000 })
        const entries = payload.messages as Frame[]
        const mine = log.filter((sent) => sent.session === session)
        const users = entries.filter(({ role }) => role === 'user').map(({ content }) => content[0].text)
        expect([...users].sort()).toEqual(mine.map(({ message }) => message).sort())
        for (const { message } of mine) {
          const at = entries.findIndex(({ role, content }) => role === 'user' && content[0].text === message)
          expect(entries[at + 1], `the ending of "${message}"`).toMatchObject({ role: 'assistant' })
        }
      }
      for (const { message } of log) expect(timesAsked(message), `starts of "${message}"`).toBeLessThanOrEqual(1)
    },
  }
}

/** How often the model was asked for a turn: the last thing said in the request is the turn's message. */
function timesAsked(message: string): number {
  return model.requests.filter(({ body }) => {
    const { messages } = body as { messages: { role: string; content: unknown }[] }
    return JSON.stringify(messages.findLast(({ role }) => role === 'user')?.content).includes(`"${message}"`)
  }).length
}

const restart = async () => {
  await gateway?.kill()
  // Every turn of a test is asked for again at once.
  gateway = await startProcess(folder, model.url, { gateway: { limits: { requestsPerSecond: 0 } } })
  return gateway
}

describe('kill -9', () => {
  it('right after an ack loses nothing: the turn is started once by the next process, or ended as interrupted', async () => {
    const client = createClient()
    await client.connect(await restart())
    for (let round = 0; round < 3; round++) {
      const { answer } = client.send('main', '[[chunks=3]]')
      expect((await answer)?.['payload']).toMatchObject({ status: 'started' })
      await client.connect(await restart())
      await client.check()
    }
  })

  it('during an answer keeps its partial text, and says why it ended', async () => {
    const client = createClient()
    const peer = await client.connect(await restart())
    const { sent } = client.send('main', '[[chunks=2000 gap=2]]')
    let text = ''
    while (text.length < 1500) {
      const { payload } = await peer.next(({ event, payload: it }) => event === 'agent' && it.stream === 'assistant')
      text = payload.data.text
    }
    const waiting = client.send('main', '[[chunks=1]]')
    await waiting.answer
    await restart()
    const again = await client.connect(gateway!)
    await client.check()
    const { payload } = await again.request('chat.history', { sessionKey: 'main' })
    const [, interrupted, second] = payload.messages as Frame[]
    expect(interrupted).toMatchObject({ role: 'assistant', stopReason: 'error' })
    expect(interrupted!['errorMessage']).toContain('the gateway stopped')
    const kept: string = interrupted!['content'][0].text
    expect(kept.length).toBeGreaterThan(0)
    expect('word '.repeat(2000).startsWith(kept)).toBe(true)
    expect(second!['content'][0].text).toBe(waiting.sent.message)
    const repeat = await again.request('chat.send', {
      sessionKey: 'main',
      message: sent.message,
      idempotencyKey: sent.key,
    })
    expect(repeat).toMatchObject({ ok: false, payload: { runId: sent.key, status: 'error' } })
  })

  it('right after the final keeps the answer', async () => {
    const client = createClient()
    const peer = await client.connect(await restart())
    const { sent } = client.send('main', '[[text=all of it]]')
    await peer.next(endOf(sent.key))
    await restart()
    const again = await client.connect(gateway!)
    await client.check()
    const { payload } = await again.request('chat.history', { sessionKey: 'main' })
    expect(payload.messages[1].content[0].text).toBe('all of it')
  })

  it('at any moment loses no acknowledged turn, doubles none, and leaves none without an ending', async () => {
    const client = createClient()
    let seed = 20_260_206
    const random = (below: number) => {
      seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648
      return seed % below
    }
    for (let cycle = 0; cycle < 8; cycle++) {
      await client.connect(await restart())
      for (const session of ['main', 'one', 'agent:main:two'])
        for (let turn = 0; turn < 3; turn++) client.send(session, `[[chunks=${5 + random(10)} gap=${random(12)}]]`)
      await new Promise((resolve) => setTimeout(resolve, random(250)))
    }
    await client.connect(await restart())
    await client.check()
    expect(client.log.every(({ acked }) => acked)).toBe(true)
    // Once more, after everything has ended: nothing begins again.
    const asked = model.requests.length
    await client.connect(await restart())
    await client.check()
    expect(model.requests.length).toBe(asked)
  }, 40_000)
})

describe('SIGTERM', () => {
  it('lets a run end, refuses new turns meanwhile, closes with 1012 and exits with 0', async () => {
    const client = createClient()
    const peer = await client.connect(await restart())
    const { sent } = client.send('main', '[[chunks=60 gap=10]]')
    await peer.next(({ event, payload }) => event === 'agent' && payload.stream === 'assistant')
    // Whoever waits for something that does not come holds nothing up.
    void peer.request('agent.wait', { runId: 'nobody', timeoutMs: 600_000 }).catch(() => {})
    gateway!.terminate()
    expect((await peer.next(({ event }) => event === 'shutdown'))['payload']).toMatchObject({
      reason: 'gateway stopping',
      restartExpectedMs: null,
    })
    const refused = await peer.request('chat.send', { sessionKey: 'main', message: 'late', idempotencyKey: 'late' })
    expect(refused['error']).toMatchObject({ code: 'UNAVAILABLE', retryable: true, details: { code: 'DRAINING' } })
    expect((await fetch(new URL('/readyz', gateway!.url.replace('ws', 'http')))).status).toBe(503)
    expect((await peer.next(endOf(sent.key)))['payload']).toMatchObject({ state: 'final' })
    expect(await peer.closed).toEqual({ code: 1012, reason: 'service restart' })
    expect(await gateway!.exited).toEqual({ code: 0, signal: null })
    const again = await client.connect(await restart())
    const { payload } = await again.request('chat.send', {
      sessionKey: 'main',
      message: 'late',
      idempotencyKey: 'late',
    })
    expect(payload).toMatchObject({ status: 'started' })
  })

  it('sends the second answer of agent before it closes', async () => {
    const peer = await (await restart()).connect()
    const message = '[[chunks=30 gap=10]]'
    const first = await peer.request('agent', { message, agentId: 'main', idempotencyKey: 'a1' }, 'both')
    expect(first['payload']).toMatchObject({ status: 'accepted' })
    gateway!.terminate()
    const second = await peer.next(({ type, id }) => type === 'res' && id === 'both')
    expect(second).toMatchObject({ ok: true, payload: { status: 'ok', summary: 'completed' } })
    expect(await gateway!.exited).toEqual({ code: 0, signal: null })
  })

  it('is not held up by somebody who waits for a run that has ended', async () => {
    const client = createClient()
    const peer = await client.connect(await restart())
    const { sent } = client.send('main', '[[chunks=1]]')
    await peer.next(endOf(sent.key))
    await peer.request('agent.wait', { runId: sent.key, timeoutMs: 600_000 })
    gateway!.terminate()
    expect(await gateway!.exited).toEqual({ code: 0, signal: null })
  })
})

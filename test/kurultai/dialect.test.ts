/** What differs for the clients of Kurultai, and what does not: D1 to D9. */
import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { endOf, type Frame, type Peer, type PeerOptions, startGateway, TOKEN } from '../support/gateway.ts'
import { deployed, type Kurultai, startKurultai } from '../support/kurultai.ts'

const BRIDGE = { client: { id: 'discord-bridge', version: '0.4.0', platform: 'linux', mode: 'backend' } }
const MONITOR = { client: { id: 'cli', version: '1.0.0', platform: 'linux', mode: 'backend' } }
const WS: PeerOptions = { path: '/ws' }

let kurultai: Kurultai
beforeAll(async () => {
  kurultai = await startKurultai()
})
afterAll(() => kurultai.stop())

let keys = 0
/** Sends a turn and resolves to its run's id once it is acknowledged. */
async function send(peer: Peer, sessionKey: string, message: string, more: object = {}): Promise<string> {
  const idempotencyKey = `key-${++keys}`
  const { ok, payload, error } = await peer.request('chat.send', { sessionKey, message, idempotencyKey, ...more })
  if (!ok) throw new Error(error.message)
  return payload.runId
}

const agentEvents = (peer: Peer, runId: string): Frame[] =>
  peer.frames.filter(({ event, payload }) => event === 'agent' && payload.runId === runId)
const deltas = (peer: Peer, runId: string): string[] =>
  agentEvents(peer, runId).flatMap(({ payload }) => payload.data.delta ?? [])
const numbers = (peer: Peer): number[] => peer.frames.flatMap(({ seq }) => seq ?? [])
const counted = (length: number) => Array.from({ length }, (_, index) => index + 1)

describe('D1', () => {
  it('D1: the challenge on /ws is also one that is called by method, and elsewhere it is as everybody knows it', async () => {
    const challenge = async (options: PeerOptions, gateway: { open: Kurultai['open'] } = kurultai) =>
      (await gateway.open(options)).next()
    const plain = {
      type: 'event',
      event: 'connect.challenge',
      payload: { nonce: expect.any(String), ts: expect.any(Number) },
    }
    for (const path of ['/ws', '/ws?room=1']) {
      const hybrid = await challenge({ path })
      const { nonce } = hybrid['payload']
      expect(hybrid).toEqual({ ...plain, method: 'connect.challenge', params: { nonce } })
    }
    for (const path of ['/', '/ws/', '/gateway']) expect(await challenge({ path })).toEqual(plain)
    await using strict = await startKurultai({ dialect: false })
    expect(await challenge(WS, strict)).toEqual(plain)
  })
})

describe('D2', () => {
  it('D2: any client may come, with its challenge and a token in its short place, and what a turn is about is kept', async () => {
    for (const id of ['discord-bridge', 'somebody-else', 'x'.repeat(128)]) {
      const client = { ...BRIDGE.client, id }
      const peer = await kurultai.connect({ client, challenge: { nonce: 'n' }, auth: undefined, token: TOKEN }, WS)
      expect(peer.hello['payload'].type).toBe('hello-ok')
    }
    const bridge = await kurultai.connect(BRIDGE, WS)
    const context = { channelId: '42', author: 'Börte' }
    const runId = await send(bridge, 'd2', 'hello', { deliver: true, context })
    expect((await kurultai.store.run(runId))?.meta).toMatchObject({ context, deliver: true })
  })

  it('D2: a wrong token in the short place is a wrong token', async () => {
    const peer = await kurultai.open(WS)
    await peer.next()
    const { ok, error } = await peer.request('connect', { ...BRIDGE, token: 'wrong-token-0123456789abcdef' })
    expect([ok, error.details.code]).toEqual([false, 'AUTH_TOKEN_MISMATCH'])
    expect((await peer.closed).code).toBe(1008)
    expect(peer.frames.filter(({ event }) => event === 'connect.response')).toEqual([])
  })
})

describe('D3', () => {
  it('D3: the bridge is told by one more frame that it is connected, right behind hello-ok, and nobody else is', async () => {
    const bridge = await kurultai.connect(BRIDGE, WS)
    await bridge.request('health')
    const [challenge, hello, response] = bridge.frames
    expect([challenge!['event'], hello!['payload'].type]).toEqual(['connect.challenge', 'hello-ok'])
    expect(response).toEqual({
      type: 'event',
      event: 'connect.response',
      method: 'connect.response',
      params: { success: true, sessionId: hello!['payload'].server.connId },
    })
    const other = await kurultai.connect({}, WS)
    await other.request('health')
    expect(other.frames.filter(({ event }) => event === 'connect.response')).toEqual([])
  })
})

describe('D4', () => {
  it('D4: the monitor on /ws hears evt with the agent by its id; as cli elsewhere, or as another on /ws, one does not', async () => {
    const monitor = await kurultai.connect(MONITOR, WS)
    const elsewhere = await kurultai.connect(MONITOR)
    const user = await kurultai.connect({ client: { ...MONITOR.client, mode: 'cli' } }, WS)
    const runId = await send(monitor, 'agent:mongke:d4', '[[text=all is well]]')
    for (const peer of [monitor, elsewhere, user]) await peer.next(endOf(runId))
    const heard = monitor.frames.filter(({ payload, type }) => type !== 'res' && payload?.runId === runId)
    expect(new Set(heard.map(({ type }) => type))).toEqual(new Set(['evt']))
    const own = agentEvents(monitor, runId)
    expect(new Set(own.map(({ payload }) => payload.agentId))).toEqual(new Set(['researcher']))
    expect(own.at(-1)!['payload'].data.phase).toBe('end')
    expect(deltas(monitor, runId).join('')).toBe('all is well')
    for (const peer of [elsewhere, user])
      for (const { type, payload } of agentEvents(peer, runId))
        expect([type, Object.hasOwn(payload, 'agentId')]).toEqual(['event', false])
    expect(numbers(monitor)).toEqual(counted(numbers(monitor).length))
  })
})

describe('D5', () => {
  it('D5: the bridge hears the sessions that it has sent to, and no others', async () => {
    const bridge = await kurultai.connect(BRIDGE, WS)
    const other = await kurultai.connect()
    const foreign = await send(other, 'd5-foreign', 'hello')
    await other.next(endOf(foreign))
    const own = await send(bridge, 'd5-own', 'hello')
    await bridge.next(endOf(own))
    // What somebody else asks in a session that is its own it hears, too.
    const shared = await send(other, 'agent:main:d5-own', 'again')
    await bridge.next(endOf(shared))
    const about = bridge.frames.flatMap(({ payload }) => payload?.sessionKey ?? [])
    expect(new Set(about)).toEqual(new Set(['d5-own']))
    expect(numbers(bridge)).toEqual(counted(numbers(bridge).length))
  })

  it('D5: a delta to it is a whole block: a paragraph, or code from its fence to its fence', async () => {
    const bridge = await kurultai.connect(BRIDGE, WS)
    const other = await kurultai.connect()
    const blocks = ['One line\nand its next.\n\n', '```\na\n\nb\n```\n\n', 'The end, ünd nöthing möre.']
    const runId = await send(bridge, 'd5-blocks', `[[text=${blocks.join('')}]]`)
    await Promise.all([bridge, other].map((peer) => peer.next(endOf(runId))))
    expect(deltas(bridge, runId)).toEqual(blocks)
    const said = agentEvents(bridge, runId).flatMap(({ payload }) => payload.data.text ?? [])
    expect(said).toEqual(blocks.map((_, index) => blocks.slice(0, index + 1).join('')))
    expect(agentEvents(bridge, runId).at(-1)!['payload'].data.phase).toBe('end')
    expect(bridge.frames.filter(({ event, payload }) => event === 'chat' && payload.state === 'delta')).toEqual([])
    expect(deltas(other, runId).join('')).toBe(blocks.join(''))
  })

  it('D5: a block that was not whole when the answer failed is told before the failure', async () => {
    const bridge = await kurultai.connect(BRIDGE, WS)
    const runId = await send(bridge, 'd5-cut', '[[chunks=9 cut=2]]')
    await bridge.next(endOf(runId))
    const [start, ...rest] = agentEvents(bridge, runId)
    expect(start!['payload'].data.phase).toBe('start')
    expect(rest.map(({ payload }) => payload.stream)).toEqual(['assistant', 'lifecycle'])
    expect(rest[1]!['payload'].data.phase).toBe('error')
  })

  it('D5: one that comes back hears the end of what it had asked; of two, each hears what it has asked', async () => {
    await using gateway = await startKurultai()
    const first = await gateway.connect(BRIDGE, WS)
    const runId = await send(first, 'd5-back', '[[chunks=3 stall=2]]')
    first.socket.terminate()
    const [second, third] = [await gateway.connect(BRIDGE, WS), await gateway.connect(BRIDGE, WS)]
    const runs = await Promise.all([send(second, 'd5-second', 'hello'), send(third, 'd5-third', 'hello')])
    const owner = await gateway.connect()
    await owner.request('chat.abort', { sessionKey: 'd5-back', runId })
    await Promise.race([second, third].map((peer) => peer.next(endOf(runId))))
    await second.next(endOf(runs[0]!))
    await third.next(endOf(runs[1]!))
    const heard = [second, third].map(
      (peer) => new Set(peer.frames.flatMap(({ event, payload }) => (event === 'chat' ? payload.runId : []))),
    )
    expect(heard[0]!.has(runs[0]) && heard[1]!.has(runs[1])).toBe(true)
    expect(heard[0]!.has(runs[1]) || heard[1]!.has(runs[0])).toBe(false)
    expect(heard[0]!.has(runId)).not.toBe(heard[1]!.has(runId))
  })

  it('D5: it opens nothing by a turn that it may not send, and takes nobody else his session by it', async () => {
    const bridge = await kurultai.connect(BRIDGE, WS)
    const runId = await send(bridge, 'd5-kept', '[[chunks=8 gap=30]]')
    const reader = await kurultai.connect({ ...BRIDGE, scopes: ['operator.read'] }, WS)
    const refused = await reader.request('chat.send', { sessionKey: 'd5-kept', message: 'x', idempotencyKey: 'x' })
    expect(refused['error'].details.code).toBe('MISSING_SCOPE')
    await bridge.next(endOf(runId))
    expect(deltas(bridge, runId).join('')).toBe('word '.repeat(8))
    expect(agentEvents(reader, runId)).toEqual([])
  })
})

describe('the bridge', () => {
  it('D5: what it may not hear by its token it does not hear', async () => {
    await using gateway = await startKurultai()
    const owner = await gateway.connect()
    const scopes = ['operator.read', 'operator.write']
    const { payload } = await owner.request('tokens.create', { name: 'bridge', scopes, sessions: ['agent:main:mine'] })
    const bridge = await gateway.connect({ ...BRIDGE, scopes: undefined, auth: { token: payload.token } }, WS)
    const beyond = { sessionKey: 'agent:main:theirs', message: 'x', idempotencyKey: 'd5-beyond' }
    expect((await bridge.request('chat.send', beyond))['ok']).toBe(false)
    const theirs = await send(owner, 'agent:main:theirs', 'hello')
    await owner.next(endOf(theirs))
    const mine = await send(bridge, 'agent:main:mine', 'hello')
    await bridge.next(endOf(mine))
    expect(new Set(bridge.frames.flatMap(({ payload }) => payload?.sessionKey ?? []))).toEqual(
      new Set(['agent:main:mine']),
    )
  })
})

const bearer = { authorization: `Bearer ${TOKEN}` }

async function delegate(agent: string, body: object, headers: Record<string, string> = bearer) {
  const response = await fetch(`${kurultai.http}/agent/${encodeURIComponent(agent)}/message`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: JSON.stringify(body),
  })
  return { status: response.status, body: (await response.json()) as Frame }
}

describe('D6', () => {
  const context = { task_id: 'd6', delegated_by: 'main', task_type: 'research', reply_to: 'main', priority: 'high' }

  it('D6: a message to an agent by HTTP has its answer, once for each task', async () => {
    const message = '[[text=three facts]]'
    const { status, body } = await delegate('Möngke', { message, context })
    expect([status, body]).toEqual([
      200,
      {
        response: 'three facts',
        agent: 'researcher',
        thread_id: 'agent:researcher:main',
        timestamp: expect.stringMatching(/^\d{4}-\d\d-\d\dT/),
        runId: 'd6',
      },
    ])
    const asked = kurultai.model.requests.length
    expect((await delegate('researcher', { message, context })).body['response']).toBe('three facts')
    expect(kurultai.model.requests.length).toBe(asked)
  })

  it('D6: what may not be is 401, 403 and 404, and a longer answer is 202 with the run', async () => {
    const { task_id: _, ...about } = context
    expect((await delegate('writer', { message: 'x', context: about }, {})).status).toBe(401)
    const unknown = await delegate('nobody', { message: 'x', context: about })
    expect([unknown.status, unknown.body['error'].known]).toEqual([404, deployed().agents.list.map(({ id }) => id)])
    const later = { ...bearer, prefer: 'respond-async', 'idempotency-key': 'd6-later' }
    const accepted = await delegate('writer', { message: 'x', context: about }, later)
    expect([accepted.status, accepted.body['runId']]).toEqual([202, 'd6-later'])
    await using narrow = await startKurultai({
      sections: { tools: { agentToAgent: { enabled: true, allow: ['main', 'researcher'] } } },
    })
    const response = await fetch(`${narrow.http}/agent/writer/message`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...bearer },
      body: JSON.stringify({ message: 'x', context: about }),
    })
    expect(response.status).toBe(403)
  })
})

describe('D7', () => {
  it('D7: the sessions are listed under /api/sessions and /sessions, to who has the token', async () => {
    const peer = await kurultai.connect()
    const runId = await send(peer, 'agent:analyst:main', 'hello')
    await peer.next(endOf(runId))
    for (const path of ['/api/sessions', '/sessions']) {
      const response = await fetch(`${kurultai.http}${path}`, { headers: bearer })
      const list = (await response.json()) as Frame[]
      expect(list.find(({ agentId }) => agentId === 'analyst')).toEqual({
        sessionId: 'agent:analyst:main',
        agentId: 'analyst',
        lastActivity: expect.any(Number),
        messageCount: 2,
      })
      expect((await fetch(`${kurultai.http}${path}`)).status).toBe(401)
    }
  })
})

describe('D8', () => {
  const connect = { type: 'connect', role: 'operator', token: TOKEN, scopes: ['operator.read'] }

  it('D8: a short connect is taken for one, and a ping is answered', async () => {
    const peer = await kurultai.open()
    peer.send(connect)
    expect(await peer.next(({ type }) => type === 'res')).toMatchObject({ ok: true, payload: { type: 'hello-ok' } })
    peer.send({ type: 'ping', timestamp: 1_234 })
    expect(await peer.next(({ type }) => type === 'pong')).toEqual({ type: 'pong', timestamp: 1_234 })
    // It holds what it asked for, and is a request among others.
    const { error } = await peer.request('chat.send', { sessionKey: 'main', message: 'x', idempotencyKey: 'd8' })
    expect(error.details.code).toBe('MISSING_SCOPE')
  })

  it('D8: neither is a way around what holds for everybody', async () => {
    const fate = async (...frames: (object | string)[]) => {
      const peer = await kurultai.open()
      for (const frame of frames) peer.send(frame)
      const { code } = await peer.closed
      return [code, peer.frames.filter(({ type }) => type !== 'event').map(({ error }) => error?.details.code)]
    }
    expect(await fate({ ...connect, token: 'wrong-token-0123456789abcdef' })).toEqual([1008, ['AUTH_TOKEN_MISMATCH']])
    expect(await fate({ ...connect, token: undefined })).toEqual([1008, ['DEVICE_IDENTITY_REQUIRED']])
    expect(await fate({ ...connect, role: 'king' })).toEqual([1008, ['INVALID_ROLE']])
    expect(await fate({ type: 'ping', timestamp: 1 })).toEqual([1008, []])
    expect(await fate({ type: 'hello' })).toEqual([1008, []])
    expect(await fate(`{"type":"connect","token":"x","token":"${TOKEN}"}`)).toEqual([1008, []])
    expect(await fate(`{"type":"connect","x":${'['.repeat(40)}${']'.repeat(40)}}`)).toEqual([1008, []])
    const peer = await kurultai.connect()
    peer.send(connect)
    expect(await peer.next(({ id }) => id === 'invalid')).toMatchObject({ ok: false })
    await using strict = await startKurultai({ dialect: false })
    const stranger = await strict.open()
    stranger.send(connect)
    expect(await stranger.closed).toEqual({ code: 1008, reason: 'invalid request frame' })
  })

  it('D8: pings are counted like requests', async () => {
    await using narrow = await startKurultai({ gateway: { limits: { requestsPerSecond: 1, burst: 3 } } })
    const peer = await narrow.connect()
    for (let n = 0; n < 5; n++) peer.send({ type: 'ping', timestamp: n })
    const refused = await peer.next(({ type, ok }) => type === 'res' && ok === false)
    expect(refused['error']).toMatchObject({ details: { code: 'RATE_LIMITED' }, retryAfterMs: expect.any(Number) })
    expect(peer.frames.filter(({ type }) => type === 'pong').map(({ timestamp }) => timestamp)).toEqual([0, 1, 2])
  })
})

describe('D9', () => {
  const projecting = () => startKurultai({ sections: { session: { projectFiles: true } } })
  const lines = (file: string): Frame[] =>
    readFileSync(file, 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line))

  it('D9: sessions and transcripts are there as files, which follow what is said', async () => {
    await using gateway = await projecting()
    const peer = await gateway.connect()
    const folder = join(gateway.stateDir, 'agents', 'researcher', 'sessions')
    for (const text of ['first', 'second']) {
      const runId = await send(peer, 'agent:researcher:notes', `[[text=${text}]]`)
      await peer.next(endOf(runId))
    }
    const { sessionId } = (await gateway.store.session('agent:researcher:notes'))!
    const transcript = join(folder, `${sessionId}.jsonl`)
    await vi.waitFor(() => expect(existsSync(transcript) && lines(transcript)).toHaveLength(5), 15_000)
    const [head, ...entries] = lines(transcript)
    expect(head).toMatchObject({ type: 'session', id: sessionId, sessionKey: 'agent:researcher:notes' })
    expect(entries.map(({ message }) => [message.role, message.content[0].text])).toEqual([
      ['user', '[[text=first]]'],
      ['assistant', 'first'],
      ['user', '[[text=second]]'],
      ['assistant', 'second'],
    ])
    expect(entries.map(({ parentId }) => parentId)).toEqual([null, ...entries.slice(0, 3).map(({ id }) => id)])
    await vi.waitFor(
      () =>
        expect(JSON.parse(readFileSync(join(folder, 'sessions.json'), 'utf8'))).toEqual({
          'agent:researcher:notes': expect.objectContaining({ sessionId, sessionFile: transcript, messageCount: 4 }),
        }),
      15_000,
    )
    expect([statSync(transcript).mode & 0o777, statSync(folder).mode & 0o777]).toEqual([0o600, 0o700])
    await peer.request('sessions.delete', { key: 'agent:researcher:notes' })
    await vi.waitFor(() => expect(existsSync(transcript)).toBe(false), 15_000)
    expect(JSON.parse(readFileSync(join(folder, 'sessions.json'), 'utf8'))).toEqual({})
  })

  it('D9: a file that was changed or taken away is read by nobody, and comes back whole', async () => {
    await using gateway = await projecting()
    const peer = await gateway.connect()
    await peer.next(endOf(await send(peer, 'main', '[[text=kept]]')))
    const { sessionId } = (await gateway.store.session('agent:main:main'))!
    const transcript = join(gateway.stateDir, 'agents', 'main', 'sessions', `${sessionId}.jsonl`)
    await vi.waitFor(() => expect(existsSync(transcript) && lines(transcript)).toHaveLength(3), 15_000)
    rmSync(transcript)
    // Nothing is written where a link leads.
    const target = join(gateway.stateDir, 'elsewhere')
    symlinkSync(target, transcript)
    await peer.next(endOf(await send(peer, 'main', '[[text=on]]')))
    await vi.waitFor(() => {
      expect(lstatSync(transcript).isSymbolicLink()).toBe(false)
      expect(lines(transcript)).toHaveLength(5)
    }, 15_000)
    expect(
      lines(transcript)
        .slice(1)
        .map(({ message }) => message.content[0].text),
    ).toEqual(['[[text=kept]]', 'kept', '[[text=on]]', 'on'])
    expect(existsSync(target)).toBe(false)
    const { payload } = await peer.request('chat.history', { sessionKey: 'main' })
    expect(payload.messages).toHaveLength(4)
  })

  it('D9: a transcript that was compacted is a file of what is left of it, and goes on', async () => {
    await using gateway = await projecting()
    const peer = await gateway.connect()
    for (const text of ['first', 'second', 'third'])
      await peer.next(endOf(await send(peer, 'main', `[[text=${text}]]`)))
    const { sessionId } = (await gateway.store.session('agent:main:main'))!
    const folder = join(gateway.stateDir, 'agents', 'main', 'sessions')
    const transcript = join(folder, `${sessionId}.jsonl`)
    const said = () =>
      lines(transcript)
        .slice(1)
        .map(({ message }) => message.content[0].text)
    await vi.waitFor(() => expect(existsSync(transcript) && lines(transcript)).toHaveLength(7), 15_000)
    const { payload } = await peer.request('sessions.compact', { key: 'main', maxLines: 1 })
    expect(payload).toMatchObject({ compacted: true, kept: 1 })
    await vi.waitFor(() => expect(said()).toEqual(['third']), 15_000)
    await peer.next(endOf(await send(peer, 'main', '[[text=on]]')))
    await vi.waitFor(() => expect(said()).toEqual(['third', '[[text=on]]', 'on']), 15_000)
    await vi.waitFor(() => {
      const list = JSON.parse(readFileSync(join(folder, 'sessions.json'), 'utf8'))
      expect(list['agent:main:main'].messageCount).toBe(3)
    }, 15_000)
  })

  it('D9: nothing is written into a folder that is a link', async () => {
    await using gateway = await projecting()
    const elsewhere = join(gateway.stateDir, 'elsewhere')
    mkdirSync(elsewhere)
    symlinkSync(elsewhere, join(gateway.stateDir, 'agents'))
    const peer = await gateway.connect()
    await peer.next(endOf(await send(peer, 'main', 'hello')))
    // When it stops, all that was to be written was tried.
    gateway.gateway.stop('the test looks')
    gateway.gateway.stop('the test looks')
    await gateway.gateway.stopped
    expect(readdirSync(elsewhere)).toEqual([])
  })

  it('D9: without its key no file is written', async () => {
    const peer = await kurultai.connect()
    await peer.next(endOf(await send(peer, 'main', 'hello')))
    expect(existsSync(join(kurultai.stateDir, 'agents'))).toBe(false)
  })
})

describe('without the switch', () => {
  it('the clients of the dialect are spoken to like everybody', async () => {
    await using strict = await startGateway()
    const [bridge, monitor] = [await strict.connect(BRIDGE, WS), await strict.connect(MONITOR, WS)]
    const runId = await send(monitor, 'main', '[[text=x]]')
    await Promise.all([bridge, monitor].map((peer) => peer.next(endOf(runId))))
    for (const peer of [bridge, monitor])
      for (const frame of peer.frames) {
        expect(['event', 'res']).toContain(frame['type'])
        for (const member of ['method', 'params']) expect(frame).not.toHaveProperty(member)
      }
  })
})

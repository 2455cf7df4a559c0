/** What one may ask for at the door and after it, and what becomes of those who ask for more. */
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { createDevice } from '../support/device.ts'
import { CONNECT, endOf, openPeer, type Peer, startGateway, TOKEN } from '../support/gateway.ts'
import { startProcess } from '../support/gateway-process.ts'

const limited = (limits: object) => ({ config: { gateway: { limits } } })

describe('a frame', () => {
  const deep = `{"type":"req","id":"d","method":"health","params":${'['.repeat(40)}${']'.repeat(40)}}`

  it('that is too deep ends the connection when it is the third, not before', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    const message = 'invalid request frame: it is nested more than 32 deep'
    for (let n = 0; n < 2; n++) {
      peer.send(deep)
      expect(await peer.next(({ type }) => type === 'res')).toMatchObject({
        id: 'd',
        error: { code: 'INVALID_REQUEST', message },
      })
    }
    expect((await peer.request('health'))['ok']).toBe(true)
    peer.send(deep)
    expect(await peer.closed).toEqual({ code: 1008, reason: 'invalid request frame' })
  })

  it('that is too deep ends the connection at once when nobody has connected yet', async () => {
    await using gateway = await startGateway()
    const early = await gateway.open()
    early.send(deep.replace('health', 'connect'))
    expect(await early.closed).toEqual({ code: 1008, reason: 'invalid request frame' })
  })

  it('of too many values is refused like one that is too deep', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    for (let n = 0; n < 3; n++)
      peer.send(`{"type":"req","id":"m","method":"health","params":[${'1,'.repeat(20_000)}1]}`)
    expect(await peer.closed).toEqual({ code: 1008, reason: 'invalid request frame' })
    const answers = peer.frames.filter(({ id }) => id === 'm')
    expect(answers.map(({ error }) => error.message)).toEqual(
      Array(2).fill('invalid request frame: it has more than 20,000 values and names'),
    )
  })

  it('with a name twice is refused under its id', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    peer.send('{"type":"req","id":"t","method":"health","method":"status"}')
    expect(await peer.next(({ id }) => id === 't')).toMatchObject({
      error: { message: "invalid request frame: property 'method' is given twice" },
    })
  })
})

describe('wrong credentials', () => {
  const guess = async (url: string, token: string, headers: Record<string, string>) => {
    const peer = await openPeer(url, { headers })
    await peer.next()
    const auth = { token, deviceToken: `bogus ${token}` }
    const { ok, error } = await peer.request('connect', { ...CONNECT, auth })
    const close = error && (await peer.closed)
    peer.socket.terminate()
    return { ok, code: error?.details.code, retryAfterMs: error?.retryAfterMs, close }
  }
  const reason = 'unauthorized: too many failed authentication attempts (retry later)'

  it('from a page end in a lockout that a kill does not end, and a terminal is let in', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'kurultai-limits-'))
    const first = await startProcess(folder, 'http://127.0.0.1:9')
    const port = Number(new URL(first.url).port)
    const headers = { Origin: `http://127.0.0.1:${port}` }
    for (let n = 0; n < 10; n++)
      expect((await guess(first.url, `wrong ${n}`, headers)).code).toBe('AUTH_TOKEN_MISMATCH')
    const locked = await guess(first.url, TOKEN, headers)
    expect(locked).toMatchObject({ ok: false, code: 'AUTH_RATE_LIMITED', close: { code: 1008, reason } })
    expect(locked.retryAfterMs).toBeGreaterThan(200_000)
    await first.kill()
    const second = await startProcess(folder, 'http://127.0.0.1:9', { port })
    const after = await guess(second.url, TOKEN, headers)
    expect(after).toMatchObject({ ok: false, code: 'AUTH_RATE_LIMITED', close: { code: 1008, reason } })
    expect(after.retryAfterMs).toBeLessThanOrEqual(locked.retryAfterMs)
    await second.connect()
    await second.kill()
    rmSync(folder, { recursive: true })
  })

  it('that come at once are ten, however many they are', async () => {
    await using gateway = await startGateway(limited({ preauthPerIp: 0 }))
    const headers = { Origin: `http://127.0.0.1:${gateway.port}` }
    const answers = await Promise.all(Array.from({ length: 60 }, (_, n) => guess(gateway.url, `wrong ${n}`, headers)))
    expect(answers.filter(({ code }) => code === 'AUTH_TOKEN_MISMATCH')).toHaveLength(10)
    expect(answers.filter(({ code }) => code === 'AUTH_RATE_LIMITED')).toHaveLength(50)
  })

  it('are those of one address alone, and a value that is right is none', async () => {
    await using gateway = await startGateway()
    const from = async (localAddress: string, token: string) => {
      const peer = await gateway.open({ localAddress, headers: { Origin: `http://127.0.0.1:${gateway.port}` } })
      await peer.next()
      return (await peer.request('connect', { ...CONNECT, auth: { token } }))['error']?.details.code
    }
    // Pages of one origin on this machine are one guesser, whatever loopback address they come from.
    for (let n = 0; n < 10; n++) expect(await from(`127.0.0.${n + 2}`, `wrong ${n}`)).toBe('AUTH_TOKEN_MISMATCH')
    expect(await from('127.0.0.99', TOKEN)).toBe('AUTH_RATE_LIMITED')
    for (let n = 0; n < 20; n++) (await gateway.connect()).socket.terminate()
  })
})

describe('a connection', () => {
  it('that asks too much is refused with a time to come back, and others are not', async () => {
    await using gateway = await startGateway({ monotonic: () => 0 })
    const [flood, other] = [await gateway.connect(), await gateway.connect()]
    for (let n = 0; n < 400; n++) flood.send({ type: 'req', id: `f${n}`, method: 'health' })
    const last = await flood.next(({ id }) => id === 'f399')
    expect(last['error']).toMatchObject({
      code: 'UNAVAILABLE',
      retryable: true,
      retryAfterMs: expect.any(Number),
      details: { code: 'RATE_LIMITED' },
    })
    await flood.next(({ id }) => id === 'f199')
    const served = flood.frames.filter(({ id, ok }) => String(id).startsWith('f') && ok)
    expect(served.map(({ id }) => id)).toEqual(Array.from({ length: 200 }, (_, n) => `f${n}`))
    expect((await other.request('health'))['ok']).toBe(true)
  })

  it('that goes on like that for ten seconds is ended, and an honest one hears nothing of it', async () => {
    let clock = 0
    await using gateway = await startGateway({
      ...limited({ requestsPerSecond: 10, burst: 20 }),
      monotonic: () => clock,
    })
    const [abuser, honest] = [await gateway.connect(), await gateway.connect()]
    let seconds = 0
    let closed: { code: number; reason: string } | undefined
    void abuser.closed.then((close) => {
      closed = close
    })
    for (; !closed && seconds < 30; seconds++) {
      for (let n = 0; n < 50; n++) abuser.send({ type: 'req', id: `${seconds} ${n}`, method: 'health' })
      await Promise.race([abuser.closed, abuser.next(({ id }) => id === `${seconds} 49`)]).catch(() => {})
      for (let n = 0; n < 10; n++) expect((await honest.request('health'))['ok']).toBe(true)
      clock += 1_000
    }
    expect(closed).toEqual({ code: 1008, reason: 'rate limited' })
    expect(seconds).toBeGreaterThan(10)
    expect(seconds).toBeLessThan(15)
  })

  it('that sends what is no request is held to the same rate', async () => {
    await using gateway = await startGateway({ monotonic: () => 0 })
    const peer = await gateway.connect()
    for (let n = 0; n < 150; n++) peer.send('no JSON')
    for (let n = 0; n < 50; n++) peer.send({ type: 'req', id: `i${n}`, method: 'health', extra: 1 })
    for (const method of ['health', 'node.event', 'node.invoke.result'])
      expect((await peer.request(method))['error'].details.code).toBe('RATE_LIMITED')
    peer.send('no JSON either')
    expect((await peer.next(({ error }) => error?.message === 'too many requests on this connection'))['id']).toBe(
      'invalid',
    )
    expect(peer.frames.filter(({ error }) => error?.details.code === 'INVALID_FRAME')).toHaveLength(200)
  })

  it('that is denied fifty calls in a minute is ended at the next', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect({ scopes: [] })
    for (let n = 0; n < 50; n++) peer.send({ type: 'req', id: `d${n}`, method: 'config.get' })
    expect((await peer.next(({ id }) => id === 'd49'))['error'].details.code).toBe('MISSING_SCOPE')
    expect((await peer.request('config.nothing'))['error'].details.code).toBe('MISSING_SCOPE')
    expect(await peer.closed).toEqual({ code: 1008, reason: 'repeated unauthorized calls' })
  })

  it('is denied as often as it likes where the limit is 0', async () => {
    await using gateway = await startGateway(limited({ deniedPerMinute: 0 }))
    const peer = await gateway.connect({ scopes: [] })
    for (let n = 0; n < 120; n++) peer.send({ type: 'req', id: `d${n}`, method: 'config.get' })
    expect((await peer.next(({ id }) => id === 'd119'))['error'].details.code).toBe('MISSING_SCOPE')
  })

  it('changes the gateway thirty times a minute by one method, and goes on by others', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    const patch = (n: number) => peer.request('sessions.patch', { key: 'agent:main:main', label: `label ${n}` })
    for (let n = 0; n < 30; n++) expect(await patch(n)).toMatchObject({ ok: true })
    const { error } = await patch(30)
    expect(error).toMatchObject({ code: 'UNAVAILABLE', retryable: true, details: { code: 'RATE_LIMITED' } })
    expect(error.retryAfterMs).toBeLessThanOrEqual(60_000)
    expect((await peer.request('sessions.reset', { key: 'agent:main:main' }))['ok']).toBe(true)
    expect((await peer.request('sessions.list'))['ok']).toBe(true)
  })
})

/** The first line that a bare socket is told; `gone` when it is ended without a word. */
const toldTo = (socket: Socket) =>
  new Promise<string>((resolve) => {
    if (socket.destroyed) resolve('gone')
    socket.once('data', (data) => resolve(data.toString().split('\r\n', 1)[0]!))
    socket.once('error', () => resolve('gone'))
    socket.once('close', () => resolve('gone'))
  })

/** As many as the kernel lets wait to be accepted. */
const MOST_QUEUED = Number(readFileSync('/proc/sys/net/core/somaxconn', 'utf8'))

/** In what state of TCP the connections of this machine to a port are, as the kernel numbers them. */
function statesTo(port: number): string[] {
  const lines = readFileSync('/proc/net/tcp', 'utf8').trim().split('\n').slice(1)
  const rows = lines.map((line) => line.trim().split(/\s+/))
  return rows.flatMap(([, , remote, state]) => (Number.parseInt(remote!.split(':')[1]!, 16) === port ? [state!] : []))
}
const ESTABLISHED = '01'

/** A gateway of which two addresses are proxies. */
const behindProxy = (limits: object) => ({
  config: { gateway: { trustedProxies: ['127.0.0.61', '127.0.0.62'], limits } },
})

async function dialAs(port: number, localAddress: string): Promise<Socket> {
  const socket = connect({ port, host: '127.0.0.1', localAddress })
  await once(socket, 'connect')
  return socket
}

/** A request as it stands on the wire; the connection is kept. */
const asks = (path: string, ...headers: string[]) =>
  [`GET ${path} HTTP/1.1`, 'Host: localhost', 'X-Forwarded-For: 203.0.113.9', ...headers, '', ''].join('\r\n')

const upgrades = (from: string) =>
  [
    'GET / HTTP/1.1',
    'Host: localhost',
    `X-Forwarded-For: ${from}`,
    'Upgrade: websocket',
    'Connection: Upgrade',
    'Sec-WebSocket-Version: 13',
    'Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==',
    '',
    '',
  ].join('\r\n')

const TURNED_AWAY = 'HTTP/1.1 503 Service Unavailable'

describe('the door', () => {
  it('has so many places for one address, and any number for this machine', async () => {
    await using gateway = await startGateway(limited({ preauthPerIp: 3 }))
    const sockets: Socket[] = []
    const dial = (localAddress: string, says = '') => {
      const socket = connect({ port: gateway.port, host: '127.0.0.1', localAddress })
      sockets.push(socket)
      socket.write(says)
      return toldTo(socket)
    }
    /** How many of five are heard. They stay where they are. */
    const heard = async (address: string) => {
      const told = Array.from({ length: 5 }, () => dial(address, 'GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n'))
      return (await Promise.all(told)).filter((line) => line === 'HTTP/1.1 200 OK').length
    }
    expect(await heard('127.0.0.7')).toBe(3)
    expect(await dial('127.0.0.7')).toBe(TURNED_AWAY)
    expect(await heard('127.0.0.1')).toBe(5)
    expect(await heard('127.0.0.8')).toBe(3)
    for (const socket of sockets) socket.destroy()
  })

  it('gives a place back when somebody has said who it is, or has gone', async () => {
    await using gateway = await startGateway(limited({ preauthPerIp: 3 }))
    const localAddress = '127.0.0.7'
    for (let n = 0; n < 8; n++) await gateway.connect({}, { localAddress })
    const waiting = [1, 2, 3].map(() => gateway.open({ localAddress }))
    const [first] = await Promise.all(waiting)
    await expect(gateway.open({ localAddress })).rejects.toBeDefined()
    first!.socket.terminate()
    await first!.closed
    await expect.poll(() => gateway.open({ localAddress }).then(Boolean, () => false)).toBe(true)
  })

  it('lets an honest client in each time while hundreds stand there silent or talk nonsense', async () => {
    await using gateway = await startGateway(limited({ preauthTotal: 128 }))
    const addresses = Array.from({ length: 20 }, (_, n) => `127.0.1.${n + 1}`)
    const sockets = new Set<Socket>()
    let gone = 0
    const dial = (localAddress: string, says: string) => {
      const socket = connect({ port: gateway.port, host: '127.0.0.1', localAddress })
      sockets.add(socket)
      socket.on('error', () => {})
      socket.resume()
      socket.on('close', () => {
        gone += 1
      })
      socket.on('connect', () => says && socket.write(says))
      return once(socket, 'connect').catch(() => {})
    }
    const malformed = [
      '\x16\x03\x01\x02\x00\x01',
      'GET / HTTP/9.9\r\n\r\n',
      'GET / HTTP/1.1\r\nUpgrade: websocket\r\n',
      '\0',
    ]
    const honest: Peer[] = []
    for (let wave = 0; wave < 30; wave++) {
      // In each wave the odd addresses talk, the even ones are silent.
      await Promise.all(addresses.map((address, n) => dial(address, n % 2 ? malformed[wave % malformed.length]! : '')))
      const peer = await gateway.connect({}, { localAddress: wave % 2 ? '127.0.2.1' : '127.0.0.1' })
      expect((await peer.request('health'))['ok']).toBe(true)
      honest.push(peer)
    }
    expect(sockets.size).toBe(600)
    // Nobody waits beyond the total: who is there longest gives way.
    await expect.poll(() => sockets.size - gone).toBeLessThanOrEqual(128)
    expect(honest.every(({ socket }) => socket.readyState === socket.OPEN)).toBe(true)
    for (const socket of sockets) socket.destroy()
  })

  it.runIf(MOST_QUEUED >= 1_024)(
    'has seven hundred come at once while it is busy, and none of them waits for TCP',
    async () => {
      await using gateway = await startGateway(limited({ preauthTotal: 0 }))
      const sockets = Array.from({ length: 700 }, () => connect({ port: gateway.port, host: '127.0.0.1' }))
      for (const socket of sockets) socket.on('error', () => {})
      // Each has asked the kernel to be connected by then, and the gateway had no turn yet to take one.
      const states = await new Promise<string[]>((resolve) => process.nextTick(() => resolve(statesTo(gateway.port))))
      expect(states).toHaveLength(700)
      expect(new Set(states)).toEqual(new Set([ESTABLISHED]))
      for (const socket of sockets) socket.destroy()
    },
  )

  it('tells a proxy that there is no place, also where the request is read after the place is gone', async () => {
    await using gateway = await startGateway(behindProxy({ preauthTotal: 2 }))
    const [first, second, third] = await Promise.all([1, 2, 3].map(() => dialAs(gateway.port, '127.0.0.61')))
    // Once another is answered, all three have come; the older two had to give way.
    const other = await dialAs(gateway.port, '127.0.0.62')
    other.write(asks('/health'))
    expect(await toldTo(other)).toBe('HTTP/1.1 200 OK')
    first!.write(upgrades('203.0.113.1'))
    expect(await toldTo(first!)).toBe(TURNED_AWAY)
    second!.write(asks('/health'))
    expect(await toldTo(second!)).toBe('HTTP/1.1 200 OK')
    third!.write(upgrades('203.0.113.3'))
    expect(await toldTo(third!)).toBe('HTTP/1.1 101 Switching Protocols')
    for (const socket of [first, second, third, other]) socket!.destroy()
  })

  it('ends the connection of a proxy that had to give way and says nothing', async () => {
    await using gateway = await startGateway(behindProxy({ preauthTotal: 1 }))
    const silent = await dialAs(gateway.port, '127.0.0.61')
    const other = await dialAs(gateway.port, '127.0.0.62')
    silent.resume()
    await once(silent, 'close')
    other.destroy()
  })

  it('gives a place to who upgrades on the connection that a proxy has asked for another before', async () => {
    await using gateway = await startGateway(behindProxy({}))
    const socket = await dialAs(gateway.port, '127.0.0.61')
    socket.write(asks('/sessions', `Authorization: Bearer ${TOKEN}`))
    expect(await toldTo(socket)).toBe('HTTP/1.1 200 OK')
    socket.write(upgrades('203.0.113.1'))
    expect(await toldTo(socket)).toBe('HTTP/1.1 101 Switching Protocols')
    socket.destroy()
  })

  it('asks every browser for a name that is ours, also where it only asks how the gateway is', async () => {
    await using gateway = await startGateway()
    const ask = (path: string, headers: Record<string, string>) =>
      new Promise<number>((resolve, reject) => {
        const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}`)
        const socket = connect(gateway.port, '127.0.0.1', () =>
          socket.write([`GET ${path} HTTP/1.1`, ...lines, 'Connection: close', '', ''].join('\r\n')),
        )
        socket.once('data', (data) => resolve(Number(data.toString().split(' ')[1])))
        socket.once('error', reject)
      })
    for (const path of ['/health', '/healthz', '/readyz', '/startupz', '/', '/nowhere']) {
      expect(await ask(path, { Host: 'evil.example', 'Sec-Fetch-Site': 'same-origin' })).toBe(421)
      expect(await ask(path, { Host: 'localhost', Origin: 'https://evil.example' })).toBe(403)
      const served = path === '/nowhere' ? 404 : 200
      expect(await ask(path, { Host: 'localhost', 'Sec-Fetch-Site': 'same-origin' })).toBe(served)
      expect(await ask(path, { Host: 'evil.example' })).toBe(served)
    }
  })
})

describe('a quota', () => {
  const send = (peer: Peer, key: string, sessionKey = 'main') =>
    peer.request('chat.send', { sessionKey, message: `say ${key}`, idempotencyKey: key })

  it('of sockets is for each device, and whoever closes one has one more', async () => {
    await using gateway = await startGateway(limited({ socketsPerPrincipal: 2 }))
    const devices = [createDevice(), createDevice()]
    const come = async (device: (typeof devices)[number]) => {
      const peer = await gateway.open()
      const challenge = await peer.next()
      const proof = device.prove(challenge['payload'].nonce, { token: TOKEN, scopes: CONNECT.scopes })
      return { peer, answer: await peer.request('connect', { ...CONNECT, device: proof }) }
    }
    const [first] = [await come(devices[0]!), await come(devices[0]!), await come(devices[1]!)]
    expect(first.answer).toMatchObject({ ok: true })
    const third = await come(devices[0]!)
    expect(third.answer['error']).toMatchObject({
      code: 'UNAVAILABLE',
      retryable: true,
      retryAfterMs: expect.any(Number),
      details: { code: 'SOCKET_QUOTA' },
    })
    expect((await third.peer.closed).code).toBe(1008)
    expect((await come(devices[1]!)).answer['ok']).toBe(true)
    first.peer.socket.close()
    await first.peer.closed
    await expect.poll(async () => (await come(devices[0]!)).answer['ok']).toBe(true)
    for (let n = 0; n < 10; n++) await gateway.connect()
  })

  it('of keys refuses what is new and answers what is known, and the key that was refused is not used up', async () => {
    await using gateway = await startGateway(limited({ liveKeys: 1 }))
    const peer = await gateway.connect()
    // Ten times as many for all who have the shared token.
    for (let n = 0; n < 10; n++) {
      expect(await send(peer, `k${n}`)).toMatchObject({ ok: true })
      await peer.next(endOf(`k${n}`))
    }
    for (let times = 0; times < 2; times++)
      expect((await send(peer, 'k10'))['error']).toMatchObject({
        code: 'UNAVAILABLE',
        retryable: true,
        retryAfterMs: expect.any(Number),
        details: { code: 'DEDUPE_QUOTA' },
      })
    expect(await send(peer, 'k0')).toMatchObject({ ok: true, payload: { runId: 'k0', status: 'ok' } })
  })

  it('of what comes with a message is named where it is met', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect({ minProtocol: 4, maxProtocol: 4 })
    const ask = async (method: string, more: object) => {
      const params = { sessionKey: 'main', message: 'x', idempotencyKey: `${method} ${Object.keys(more)}`, ...more }
      const { ok, error } = await peer.request(method, params)
      return ok ? 'ok' : `${error.details.code}: ${error.message}`
    }
    const text = (length: number) => 'x'.repeat(length)
    expect(await ask('chat.send', { context: text(16_383) })).toBe(
      'CONTEXT_TOO_LARGE: context is larger than 16384 bytes of JSON',
    )
    expect(await ask('chat.send', { context: { deep: [text(16_000)] } })).toBe('ok')
    for (const [method, member, most] of [
      ['chat.send', 'thinking', 64],
      ['agent', 'thinking', 64],
      ['agent', 'extraSystemPrompt', 64 * 1024],
      ['agent', 'to', 512],
      ['agent', 'channel', 512],
      ['agent', 'spawnedBy', 512],
    ] as const) {
      expect(await ask(method, { [member]: text(most + 1) })).toBe(
        `INVALID_PARAMS: invalid ${method} params: at /${member}: must NOT have more than ${most} characters`,
      )
    }
  })

  it('of sessions refuses a new one and goes on with those that are there', async () => {
    await using gateway = await startGateway(limited({ sessions: 2 }))
    const peer = await gateway.connect()
    for (const name of ['a', 'b']) {
      expect(await send(peer, `first ${name}`, name)).toMatchObject({ ok: true })
      await peer.next(endOf(`first ${name}`))
    }
    const over = { code: 'UNAVAILABLE', retryable: true, details: { code: 'SESSION_QUOTA' } }
    expect((await send(peer, 'first c', 'c'))['error']).toMatchObject(over)
    expect((await peer.request('sessions.patch', { key: 'agent:main:c', label: 'x' }))['error']).toMatchObject(over)
    expect(await send(peer, 'second a', 'a')).toMatchObject({ ok: true })
    await peer.next(endOf('second a'))
    expect((await peer.request('sessions.delete', { key: 'agent:main:a' }))['ok']).toBe(true)
    expect(await send(peer, 'first c', 'c')).toMatchObject({ ok: true })
  })
})

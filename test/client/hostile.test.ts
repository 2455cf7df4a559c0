/** What the client makes of a gateway that drops, repeats, refuses, leaves out and falls silent. */
import { describe, expect, it } from 'vitest'
import { ConnectionError, connect, type Gap, RequestError } from '../../src/client/client.ts'
import { type FakeOptions, type Guest, startFake } from './fake-gateway.ts'

const QUICK = { minMs: 1, maxMs: 5 }
const KEY = 'agent:main:main'

/** A client of a fake, and all it heard of sessions. The fake speaks on each connection once it is listened to. */
async function meet({ speak, ...options }: FakeOptions & { speak?(guest: Guest): void }) {
  const fake = await startFake({
    ...options,
    onGreeted: (guest) => void (guest.nth > 1 && speak?.(guest)),
    onRequest(guest, request) {
      if (request.method !== 'listening') return options.onRequest?.(guest, request)
      guest.asked.pop()
      guest.answer(request.id, {})
      speak?.(guest)
    },
  })
  const client = await connect({ url: fake.url, reconnect: QUICK })
  const heard: (number | string)[] = []
  const gaps: Gap[] = []
  client.on('agent', ({ offset, data }) => {
    heard.push((data as { delta?: string }).delta ?? offset ?? 'without a place')
  })
  client.onGap((gap) => void gaps.push(gap))
  if (speak) client.call('listening').catch(() => {})
  return {
    fake,
    client,
    heard,
    gaps,
    async [Symbol.asyncDispose]() {
      client.close()
      await fake.close()
    },
  }
}

/** Says something in a session, at a place. */
function say(guest: Guest, offset: number, more: { data?: object; epoch?: string; [member: string]: unknown } = {}) {
  guest.event('agent', {
    runId: 'r',
    sessionKey: KEY,
    stream: 'lifecycle',
    data: {},
    seq: offset,
    epoch: 'e',
    offset,
    ...more,
  })
}

const kept = (offset: number, more: object = {}) => ({
  event: 'agent',
  payload: { runId: 'r', sessionKey: KEY, stream: 'lifecycle', data: {}, seq: offset, epoch: 'e', offset, ...more },
})

async function until(what: () => boolean): Promise<void> {
  while (!what()) await new Promise((resolve) => setTimeout(resolve, 2))
}

const REFUSED = { code: 'UNAVAILABLE', message: 'not now', retryable: true }

describe('a request that was on its way when the connection was cut', () => {
  it('is asked again under the same key, which the client has made', async () => {
    await using at = await meet({
      onRequest(guest, { id }) {
        if (guest.nth === 1) guest.socket.terminate()
        else guest.answer(id, { runId: 'r', status: 'started' })
      },
    })
    expect(await at.client.request('chat.send', { sessionKey: 'main', message: 'hello' })).toMatchObject({ runId: 'r' })
    const keys = at.fake.guests.flatMap(({ asked }) =>
      asked.filter(({ method }) => method === 'chat.send').map(({ params }) => params.idempotencyKey),
    )
    expect(keys.length).toBe(2)
    expect(keys[0]).toBe(keys[1])
    expect(keys[0].length).toBeGreaterThan(20)
  })

  it('is asked again when it only reads', async () => {
    await using at = await meet({
      onRequest(guest, { id }) {
        if (guest.nth < 3) guest.socket.terminate()
        else guest.answer(id, { messages: [] })
      },
    })
    expect(await at.client.request('chat.history', { sessionKey: 'main' })).toEqual({ messages: [] })
  })

  it('is not asked again when that might do it twice, and nobody pretends to know', async () => {
    await using at = await meet({ onRequest: (guest) => void (guest.nth === 1 && guest.socket.terminate()) })
    const error = await at.client.request('sessions.reset', { key: 'main' }).catch((reason: unknown) => reason)
    expect(error).toBeInstanceOf(ConnectionError)
    expect((error as Error).message).toContain('nobody knows whether it was done')
    await until(() => at.client.state === 'ready')
    expect(at.fake.guests.map(({ asked }) => asked.length)).toEqual([1, 0])
  })

  it('is asked again when the caller says that it may be', async () => {
    await using at = await meet({
      onRequest(guest, { id }) {
        if (guest.nth === 1) guest.socket.terminate()
        else guest.answer(id, { done: true })
      },
    })
    expect(await at.client.call('of.another.gateway', {}, { repeatable: true })).toEqual({ done: true })
  })

  it('ends at its deadline, wherever it is', async () => {
    await using at = await meet({ onRequest: (guest) => guest.socket.terminate() })
    const asked = at.client.request('chat.send', { sessionKey: 'main', message: 'hello' }, { timeoutMs: 60 })
    await expect(asked).rejects.toThrow('no answer to chat.send within 60 ms')
  })
})

describe('a refusal that says when to come again', () => {
  const refuseTwice: FakeOptions['onRequest'] = (guest, { id }) => {
    if (guest.asked.length <= 2) guest.refuse(id, { ...REFUSED, retryAfterMs: 5 })
    else guest.answer(id, { runId: 'r', status: 'started' })
  }

  it('is taken at its word for a request with a key', async () => {
    await using at = await meet({ onRequest: refuseTwice })
    const params = { sessionKey: 'main', message: 'hello', idempotencyKey: 'mine' }
    expect(await at.client.request('chat.send', params)).toMatchObject({ status: 'started' })
    expect(at.fake.guests[0]!.asked.map(({ params: { idempotencyKey } }) => idempotencyKey)).toEqual([
      'mine',
      'mine',
      'mine',
    ])
  })

  it('is passed on for one without', async () => {
    await using at = await meet({ onRequest: refuseTwice })
    await expect(at.client.request('sessions.reset', { key: 'main' })).rejects.toThrow(RequestError)
    expect(at.fake.guests[0]!.asked.length).toBe(1)
  })

  it('is passed on when there is no time left to come again', async () => {
    await using at = await meet({
      onRequest: (guest, { id }) => guest.refuse(id, { ...REFUSED, retryAfterMs: 60_000 }),
    })
    await expect(at.client.request('chat.send', { sessionKey: 'main', message: 'hello' })).rejects.toThrow('not now')
  })
})

describe('a gateway that will not have us', () => {
  const mismatch = { code: 'INVALID_REQUEST', message: 'unauthorized', details: { code: 'AUTH_TOKEN_MISMATCH' } }

  it('is asked once', async () => {
    await using fake = await startFake({
      onConnect(guest, { id }) {
        guest.refuse(id, mismatch)
        guest.socket.close(1008, 'unauthorized')
      },
    })
    const states: string[] = []
    const error = await connect({ url: fake.url, reconnect: QUICK, onState: (state) => void states.push(state) }).catch(
      (reason: unknown) => reason,
    )
    expect(error).toBeInstanceOf(RequestError)
    expect((error as RequestError).shape).toEqual(mismatch)
    expect(states).toEqual(['refused'])
    expect(fake.guests.length).toBe(1)
  })

  it('is asked again when it says that it may be', async () => {
    await using fake = await startFake({
      onConnect(guest, { id }) {
        if (guest.nth < 3) {
          guest.refuse(id, { ...REFUSED, retryAfterMs: 1 })
          guest.socket.close(1013)
        } else
          guest.answer(id, { protocol: 4, server: {}, features: { methods: [], events: [] }, snapshot: {}, policy: {} })
      },
    })
    const client = await connect({ url: fake.url, reconnect: QUICK })
    expect(fake.guests.length).toBe(3)
    client.close()
  })

  it('is named as the reason when the tries are used up', async () => {
    await using fake = await startFake({
      onConnect(guest, { id }) {
        guest.refuse(id, REFUSED)
        guest.socket.close(1013)
      },
    })
    await expect(connect({ url: fake.url, reconnect: false })).rejects.toThrow('not now')
    expect(fake.guests.length).toBe(1)
  })

  it('ends what is under way when it changes its mind', async () => {
    await using at = await meet({
      onConnect(guest, { id }) {
        const hello = { protocol: 4, server: {}, features: { methods: [], events: [] }, snapshot: {}, policy: {} }
        if (guest.nth === 1) guest.answer(id, hello)
        else guest.refuse(id, mismatch)
      },
      onRequest: (guest) => guest.socket.terminate(),
    })
    await expect(at.client.request('chat.history', { sessionKey: 'main' })).rejects.toThrow('nobody knows')
    await at.client.closed
    expect(at.client.state).toBe('refused')
    await expect(at.client.request('chat.history', { sessionKey: 'main' })).rejects.toThrow('unauthorized')
  })
})

describe('a gateway that says nothing', () => {
  it('is left for a new connection when it fell silent', async () => {
    await using at = await meet({ tickIntervalMs: 20 })
    await until(() => at.fake.guests.length > 1)
    expect(at.client.hello.server.connId).toMatch(/^c\d$/)
  })

  it('is stayed with as long as it ticks, when one that does not has been left', async () => {
    await using ticking = await meet({
      tickIntervalMs: 600,
      speak(guest) {
        const ticks = setInterval(() => guest.event('tick', { ts: 0 }), 100)
        guest.socket.on('close', () => clearInterval(ticks))
      },
    })
    await using silent = await meet({ tickIntervalMs: 600 })
    await until(() => silent.fake.guests.length > 1)
    expect([ticking.fake.guests.length, ticking.client.state]).toEqual([1, 'ready'])
  })

  it('is given up when it does not shake hands', async () => {
    await using fake = await startFake({ silent: true })
    await expect(connect({ url: fake.url, reconnect: false, handshakeMs: 30 })).rejects.toThrow('shake hands')
  })

  it('is given up when it does not speak the language', async () => {
    await using fake = await startFake({ onConnect: (guest) => guest.socket.send('<html>') })
    await expect(connect({ url: fake.url, reconnect: false })).rejects.toThrow('this language')
  })
})

describe('a gateway that talks nonsense', () => {
  it.each([
    'null',
    '7',
    '{"type":"event","event":"agent"}',
    '{"type":"event","event":"chat","payload":null}',
    '{"type":"event","event":"agent","payload":{"epoch":"e","offset":1,"sessionKey":"s"}}',
    '{"type":"res","id":{}}',
    '{"type":"event","event":"connect.challenge"}',
    '{"type":"event","event":"shutdown"}',
  ])('harms neither the client nor what it asks next: %s', async (nonsense) => {
    await using at = await meet({
      speak: (guest) => void (guest.nth === 1 && guest.socket.send(nonsense)),
      onRequest: (guest, { id, method }) => method === 'chat.history' && guest.answer(id, { messages: [] }),
    })
    const chat = at.client.chat({ sessionKey: 'main', message: 'hello' })
    expect(await at.client.request('chat.history', { sessionKey: 'main' })).toEqual({ messages: [] })
    at.client.close()
    await expect(chat.result).rejects.toThrow(ConnectionError)
  })
})

it('a request that is larger than the gateway takes is not sent at all', async () => {
  await using at = await meet({})
  const message = 'ä'.repeat(6_000)
  await expect(at.client.request('chat.send', { sessionKey: 'main', message })).rejects.toThrow(RangeError)
  await expect(at.client.chat({ sessionKey: 'main', message }).result).rejects.toThrow('10000 at the most')
  expect(at.fake.guests.map(({ asked }) => asked.length)).toEqual([0])
})

describe('the events of a session', () => {
  it('are heard once, however often they are said', async () => {
    await using at = await meet({
      speak(guest) {
        for (const offset of [1, 2, 2, 1, 3]) say(guest, offset)
      },
    })
    await until(() => at.heard.length === 3)
    expect(at.heard).toEqual([1, 2, 3])
  })

  it('that were left out are asked for, and nothing is heard out of order meanwhile', async () => {
    await using at = await meet({
      speak(guest) {
        for (const offset of [1, 2, 5, 6]) say(guest, offset)
      },
      onRequest(guest, { id, params }) {
        const events = [kept(3), kept(4), kept(5), kept(6)].slice(params.offset - 2)
        say(guest, 7)
        guest.answer(id, { recovered: true, epoch: 'e', offset: 6, events })
        say(guest, 8)
      },
    })
    await until(() => at.heard.length === 8)
    expect(at.heard).toEqual([1, 2, 3, 4, 5, 6, 7, 8])
    expect(at.fake.guests[0]!.asked.map(({ params }) => params)).toEqual([{ sessionKey: KEY, epoch: 'e', offset: 2 }])
  })

  it('go on from the snapshot where they are not to be had any more, and that is told', async () => {
    const snapshot = { messages: [], runs: [] }
    await using at = await meet({
      speak(guest) {
        for (const offset of guest.nth === 1 ? [1, 2] : [8, 9]) say(guest, offset)
        if (guest.nth === 1) guest.socket.terminate()
      },
      onRequest(guest, { id }) {
        guest.answer(id, { recovered: false, epoch: 'e', offset: 9, reason: 'too_old', snapshot })
        say(guest, 10)
      },
    })
    await until(() => at.heard.length === 3)
    expect(at.heard).toEqual([1, 2, 10])
    expect(at.gaps).toEqual([{ sessionKey: KEY, reason: 'too_old', snapshot }])
  })

  it('are told in pieces that were joined without saying anything twice', async () => {
    const text = (of: string, delta: string, more: object) => ({
      runId: of,
      stream: 'assistant',
      data: { delta },
      ...more,
    })
    await using at = await meet({
      speak(guest) {
        if (guest.nth > 1) return
        say(guest, 1, text('a', 'a1', { seq: 1 }))
        // Two texts by turns, of which the first is told to its end before the connection goes.
        say(guest, 2, text('a', 'a2a4', { from: 2, seq: 3 }))
        guest.socket.close()
      },
      onRequest(guest, { id }) {
        const events = [
          kept(3, text('b', 'b3', { seq: 1 })),
          kept(4, text('a', 'a4', { seq: 3 })),
          kept(5, text('a', 'a5', { seq: 4 })),
        ]
        guest.answer(id, { recovered: true, epoch: 'e', offset: 5, events })
      },
    })
    await until(() => at.heard.length === 4)
    expect(at.heard).toEqual(['a1', 'a2a4', 'b3', 'a5'])
  })

  it('begin anew with an epoch that begins while one listens', async () => {
    await using at = await meet({
      speak(guest) {
        say(guest, 4)
        say(guest, 1, { epoch: 'another' })
        say(guest, 2, { epoch: 'another' })
      },
    })
    await until(() => at.heard.length === 3)
    expect(at.heard).toEqual([4, 1, 2])
  })

  it('that come in one breath with the welcome are not taken for all there was', async () => {
    await using at = await meet({
      speak(guest) {
        if (guest.nth === 1) {
          say(guest, 1)
          guest.socket.terminate()
        } else for (const offset of [3, 4]) say(guest, offset, { epoch: 'another' })
      },
      onRequest(guest, { id }) {
        const snapshot = { messages: [], runs: [] }
        guest.answer(id, { recovered: false, epoch: 'another', offset: 4, reason: 'epoch_changed', snapshot })
        say(guest, 5, { epoch: 'another' })
      },
    })
    await until(() => at.heard.length === 2)
    expect(at.heard).toEqual([1, 5])
    expect(at.gaps).toMatchObject([{ reason: 'epoch_changed' }])
  })

  it('of an epoch whose beginning was not heard are asked for', async () => {
    await using at = await meet({
      speak(guest) {
        say(guest, 4)
        say(guest, 2, { epoch: 'another' })
      },
      onRequest(guest, { id }) {
        const snapshot = { messages: [], runs: [] }
        guest.answer(id, { recovered: false, epoch: 'another', offset: 1, reason: 'epoch_changed', snapshot })
      },
    })
    await until(() => at.heard.length === 2)
    expect(at.heard).toEqual([4, 2])
    expect(at.gaps).toMatchObject([{ reason: 'epoch_changed' }])
  })

  it('without a place are passed on as they come', async () => {
    await using at = await meet({
      speak: (guest) => guest.event('agent', { runId: 'r', sessionKey: KEY, stream: 'lifecycle', data: {}, seq: 1 }),
    })
    await until(() => at.heard.length === 1)
  })

  it('are not asked for when nobody listens', async () => {
    await using fake = await startFake({
      onGreeted(guest) {
        if (guest.nth > 1) return
        say(guest, 1)
        guest.socket.close()
      },
    })
    const client = await connect({ url: fake.url, reconnect: QUICK })
    await until(() => fake.guests.length === 2 && client.state === 'ready')
    expect(fake.guests[1]!.asked).toEqual([])
    client.close()
  })

  it('are asked for again when the gateway cannot say yet, and given up when it will not say', async () => {
    await using at = await meet({
      speak(guest) {
        if (guest.nth > 1) return
        say(guest, 1)
        guest.socket.close()
      },
      onRequest(guest, { id }) {
        if (guest.asked.length === 1) return guest.refuse(id, { ...REFUSED, retryAfterMs: 1 })
        guest.refuse(id, { code: 'INVALID_REQUEST', message: 'unknown agent' })
        say(guest, 7)
      },
    })
    await until(() => at.heard.length === 2)
    expect(at.heard).toEqual([1, 7])
    expect(at.gaps).toEqual([{ sessionKey: KEY, reason: 'refused' }])
  })
})

describe('an answer', () => {
  const piece = (delta: string) => ({ stream: 'assistant', data: { delta } })

  it('that is cut in two by a gateway that remembers nothing ends in an error', async () => {
    await using at = await meet({
      methods: ['chat.send'],
      onRequest(guest, { id, params }) {
        guest.answer(id, { runId: params.idempotencyKey, status: 'started' })
        guest.event('agent', { runId: params.idempotencyKey, sessionKey: KEY, seq: 1, ...piece('half') })
        guest.socket.close()
      },
    })
    const read: string[] = []
    const reading = (async () => {
      for await (const chunk of at.client.chat({ sessionKey: 'main', message: 'hello' }))
        read.push(chunk.type === 'delta' ? chunk.text : chunk.type)
    })()
    await expect(reading).rejects.toThrow('does not tell what was missed')
    expect(read).toEqual(['half'])
  })

  it('goes on from the snapshot, and ends as that says', async () => {
    const runs = (params: { runIds?: string[] }, state: string, text: string) =>
      (params.runIds ?? []).map((runId) => ({ runId, state, text }))
    await using at = await meet({
      onRequest(guest, { id, method, params }) {
        if (method === 'chat.send') {
          guest.answer(id, { runId: params.idempotencyKey, status: 'started' })
          say(guest, 1, { runId: params.idempotencyKey, ...piece('one ') })
          guest.socket.terminate()
          return
        }
        const [state, text] = guest.nth === 2 ? ['started', 'one two '] : ['completed', 'one two three four']
        const snapshot = { messages: [], runs: runs(params, state, text) }
        guest.answer(id, { recovered: false, epoch: `e${guest.nth}`, offset: 9, reason: 'epoch_changed', snapshot })
        if (guest.nth > 2) return
        say(guest, 10, { epoch: 'e2', runId: params.runIds[0], ...piece('three ') })
        setTimeout(() => guest.socket.terminate(), 20)
      },
    })
    const read: string[] = []
    for await (const chunk of at.client.chat({ sessionKey: 'main', message: 'hello' }))
      read.push(chunk.type === 'delta' ? chunk.text : `${chunk.type}: ${'text' in chunk && chunk.text}`)
    expect(read).toEqual(['one ', 'two ', 'three ', 'four', 'final: one two three four'])
  })

  it('that is begun again is told so, and counts from there', async () => {
    await using at = await meet({
      onRequest(guest, { id, method, params }) {
        if (method === 'chat.send') {
          const runId = params.idempotencyKey
          guest.answer(id, { runId, status: 'started' })
          say(guest, 1, { runId, data: { phase: 'start' } })
          say(guest, 2, { runId, ...piece('one two three ') })
          guest.socket.terminate()
          return
        }
        const [runId] = params.runIds
        // What the disk had of it, before it begins again.
        const snapshot = { messages: [], runs: [{ runId, state: 'admitted', text: 'one two ' }] }
        guest.answer(id, { recovered: false, epoch: 'e2', offset: 0, reason: 'epoch_changed', snapshot })
        say(guest, 1, { epoch: 'e2', runId, data: { phase: 'start' } })
        say(guest, 2, { epoch: 'e2', runId, ...piece('uno') })
        guest.event('chat', { epoch: 'e2', offset: 3, runId, sessionKey: KEY, seq: 3, state: 'final' })
      },
    })
    const read: string[] = []
    for await (const chunk of at.client.chat({ sessionKey: 'main', message: 'hello' }))
      read.push(`${chunk.type}: ${'text' in chunk && chunk.text}`)
    expect(read.slice(0, 2)).toEqual(['delta: one two three ', 'restart: one two '])
    expect(read.slice(2).join(', ')).toMatch(/^restart: (, delta: )?uno, final: uno$/)
  })

  it('of a run that the gateway has forgotten ends in an error', async () => {
    await using at = await meet({
      onRequest(guest, { id, method, params }) {
        if (method !== 'chat.send')
          return guest.answer(id, {
            recovered: false,
            epoch: 'x',
            offset: 0,
            reason: 'epoch_changed',
            snapshot: { messages: [], runs: [] },
          })
        guest.answer(id, { runId: params.idempotencyKey, status: 'started' })
        setTimeout(() => guest.socket.terminate(), 10)
      },
    })
    const { result } = at.client.chat({ sessionKey: 'main', message: 'hello' })
    await expect(result).rejects.toThrow('does not know the run')
  })

  it('of a turn that was refused ends as that says', async () => {
    await using at = await meet({
      onRequest: (guest, { id }) => guest.refuse(id, { code: 'INVALID_REQUEST', message: 'unknown agent' }),
    })
    const chat = at.client.chat({ sessionKey: 'main', message: 'hello' })
    await expect(chat.next()).rejects.toThrow('unknown agent')
    await expect(chat.result).rejects.toThrow('unknown agent')
    expect(await chat.next()).toEqual({ done: true, value: undefined })
  })

  it('is taken back while its turn has not left, and is not sent later', async () => {
    await using at = await meet({
      onRequest: (guest, { id }) => guest.refuse(id, { ...REFUSED, retryAfterMs: 20 }),
    })
    const stop = new AbortController()
    const chat = at.client.chat({ sessionKey: 'main', message: 'hello' }, { signal: stop.signal })
    await until(() => at.fake.guests[0]!.asked.length === 1)
    stop.abort()
    expect(await chat.result).toEqual({ type: 'aborted', text: '' })
    await new Promise((resolve) => setTimeout(resolve, 60))
    const asked = at.fake.guests[0]!.asked.map(({ method }) => method)
    expect(asked.filter((method) => method === 'chat.abort')).toEqual([])
    expect(asked.length).toBeLessThanOrEqual(2)
  })
})

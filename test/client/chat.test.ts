/** `client.chat` and a real gateway: an answer piece by piece, and its one ending. */
import { getEventListeners } from 'node:events'
import { afterEach, describe, expect, it } from 'vitest'
import { type Client, connect, RunError } from '../../src/client/client.ts'
import { echo } from '../../src/runtimes/echo.ts'
import type { Runtime } from '../../src/runtimes/runtime.ts'
import { startGateway, type TestGateway, TOKEN } from '../support/gateway.ts'
import { startCutter } from './cutter.ts'

const open: Client[] = []
afterEach(() => {
  for (const client of open.splice(0)) client.close()
})

const words = (count: number) => Array.from({ length: count }, (_, index) => `w${index}`).join(' ')
const slow = (wordMs: number) => ({ runtimes: new Map<string, Runtime>([['echo', echo({ wordMs })]]) })

async function join(gateway: TestGateway, url = gateway.url): Promise<Client> {
  const client = await connect({ url, token: TOKEN, reconnect: { minMs: 1, maxMs: 10 } })
  open.push(client)
  return client
}

describe('an answer', () => {
  it('comes in pieces that are the whole, and then ends once', async () => {
    await using gateway = await startGateway()
    const client = await join(gateway)
    const chat = client.chat({ sessionKey: 'main', message: 'hello' })
    let text = ''
    const endings: unknown[] = []
    for await (const chunk of chat)
      if (chunk.type === 'delta') text += chunk.text
      else endings.push(chunk)
    expect(text).toContain('You said: hello')
    expect(endings).toMatchObject([{ type: 'final', text, stopReason: 'stop', message: { role: 'assistant' } }])
    expect(await chat.result).toEqual(endings[0])
    expect(await chat.next()).toEqual({ done: true, value: undefined })
    const { messages } = await client.request('chat.history', { sessionKey: 'main' })
    expect(messages.at(-1)).toMatchObject({ content: [{ type: 'text', text }] })
  })

  it('of a command comes in one piece', async () => {
    await using gateway = await startGateway()
    const chunks: unknown[] = []
    for await (const chunk of (await join(gateway)).chat({ sessionKey: 'main', message: '/queue' })) chunks.push(chunk)
    expect(chunks).toMatchObject([
      { type: 'delta', text: expect.stringContaining('Queue mode is') },
      { type: 'final', text: expect.stringContaining('Queue mode is') },
    ])
  })

  it('to a stop word is what it stopped', async () => {
    await using gateway = await startGateway(slow(20))
    const client = await join(gateway)
    const chat = client.chat({ sessionKey: 'main', message: words(200) })
    await chat.next()
    expect(await client.chat({ sessionKey: 'main', message: '/stop' }).result).toEqual({
      type: 'stopped',
      runIds: [chat.runId],
    })
    expect(await chat.result).toMatchObject({ type: 'aborted', stopReason: 'stop' })
  })

  it('that fails throws, with what was said until then', async () => {
    const broken: Runtime = {
      api: 'echo',
      async answer(_model, _call, sink) {
        sink.delta('so far')
        throw new Error('the model is gone')
      },
    }
    await using gateway = await startGateway({ runtimes: new Map([['echo', broken]]) })
    const chat = (await join(gateway)).chat({ sessionKey: 'main', message: 'hello' })
    expect(await chat.next()).toEqual({ done: false, value: { type: 'delta', text: 'so far' } })
    const error = await chat.next().catch((reason: unknown) => reason)
    expect(error).toBeInstanceOf(RunError)
    expect(error).toMatchObject({ message: expect.stringContaining('the model is gone'), text: 'so far' })
    await expect(chat.result).rejects.toBe(error)
  })

  it('is had whole by who reads it late, and by who sends the same key again', async () => {
    await using gateway = await startGateway(slow(5))
    const client = await join(gateway)
    const first = client.chat({ sessionKey: 'main', message: words(50), idempotencyKey: 'k' })
    await first.next()
    const second = client.chat({ sessionKey: 'main', message: words(50), idempotencyKey: 'k' })
    const ending = await first.result
    const late = client.chat({ sessionKey: 'main', message: words(50), idempotencyKey: 'k' })
    for (const chat of [second, late]) {
      let text = ''
      for await (const chunk of chat) if (chunk.type === 'delta') text += chunk.text
      expect(ending).toMatchObject({ type: 'final', text })
    }
  })

  it('goes on for others when one of two sends another message under its key', async () => {
    await using gateway = await startGateway(slow(5))
    const client = await join(gateway)
    const first = client.chat({ sessionKey: 'main', message: words(50), idempotencyKey: 'k' })
    await first.next()
    await expect(
      client.chat({ sessionKey: 'main', message: 'other', idempotencyKey: 'k' }).result,
    ).rejects.toMatchObject({ shape: { details: { code: 'IDEMPOTENCY_KEY_REUSED' } } })
    expect(await first.result).toMatchObject({ type: 'final' })
  })
})

describe('whoever stops reading', () => {
  it('does not stop the run, and still learns how it ended', async () => {
    await using gateway = await startGateway(slow(2))
    const client = await join(gateway)
    const chat = client.chat({ sessionKey: 'main', message: words(50) })
    for await (const _ of chat) break
    expect(await chat.result).toMatchObject({ type: 'final', text: expect.stringContaining(words(50)) })
    expect(await chat.next()).toEqual({ done: true, value: undefined })
  })
})

describe('an AbortSignal', () => {
  it('stops the run, which ends as aborted, and is let go of', async () => {
    await using gateway = await startGateway(slow(20))
    const client = await join(gateway)
    const stop = new AbortController()
    const chat = client.chat({ sessionKey: 'main', message: words(200) }, { signal: stop.signal })
    const endings: unknown[] = []
    for await (const chunk of chat)
      if (chunk.type === 'delta') stop.abort()
      else endings.push(chunk)
    expect(endings).toMatchObject([{ type: 'aborted', stopReason: 'rpc' }])
    expect(getEventListeners(stop.signal, 'abort')).toEqual([])
  })

  it('is let go of when the run ends by itself', async () => {
    await using gateway = await startGateway()
    const client = await join(gateway)
    const { signal } = new AbortController()
    await client.chat({ sessionKey: 'main', message: 'hello' }, { signal }).result
    expect(getEventListeners(signal, 'abort')).toEqual([])
  })

  it('that is aborted already lets nothing leave', async () => {
    await using gateway = await startGateway()
    const client = await join(gateway)
    const chat = client.chat({ sessionKey: 'main', message: 'hello' }, { signal: AbortSignal.abort() })
    expect(await chat.result).toEqual({ type: 'aborted', text: '' })
    expect((await client.request('chat.history', { sessionKey: 'main' })).messages).toEqual([])
  })

  it('stops the run also when it is aborted while the gateway is away', async () => {
    await using gateway = await startGateway(slow(20))
    await using line = await startCutter(gateway.port)
    const client = await join(gateway, line.url)
    const stop = new AbortController()
    const chat = client.chat({ sessionKey: 'main', message: words(200) }, { signal: stop.signal })
    await chat.next()
    client.onState((state) => void (state === 'waiting' && stop.abort()))
    line.cut()
    expect(await chat.result).toMatchObject({ type: 'aborted', stopReason: 'rpc' })
  })
})

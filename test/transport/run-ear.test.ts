/** A reader over HTTP, at a real socket, who does not read what an answer says. */
import { once } from 'node:events'
import { createServer, type IncomingMessage, request, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setImmediate } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { GATHERED_FROM_BYTES } from '../../src/broker/delivery.ts'
import { createHub } from '../../src/broker/hub.ts'
import type { Scope } from '../../src/contract/block.ts'
import { LIMITS } from '../../src/contract/connect.ts'
import { openEventStream } from '../../src/transport/event-stream.ts'
import { runEar } from '../../src/transport/run-ear.ts'
import { places } from '../support/rooms.ts'

const SESSION = 'agent:main:main'
const KiB = 1024

/** A run whose text is told to one who reads nothing until told to. */
async function open() {
  const slow = Promise.withResolvers<void>()
  const hub = createHub({
    onSlow({ wire }) {
      wire.terminate()
      slow.resolve()
    },
    replay: places(),
  })
  const server = createServer()
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const asking = request({ port: (server.address() as AddressInfo).port }).end()
  const answered = once(asking, 'response')
  const [, response] = (await once(server, 'request')) as [IncomingMessage, ServerResponse]
  const stream = openEventStream(response)
  const [reading] = (await answered) as [IncomingMessage]
  const caller = { connId: 'c', principal: 'token:shared', scopes: new Set<Scope>(['operator.read']) }
  let text = ''
  let told = 0
  let isWhole = false
  const onText = (piece: string) => {
    stream.send(`data: ${JSON.stringify(piece)}\n\n`)
    told += piece.length
    if (isWhole && told === text.length) stream.end()
  }
  hub.join(runEar(caller, { runId: 'r', sessionKey: SESSION }, stream, onText))
  const started = JSON.stringify({ runId: 'r', stream: 'lifecycle', data: { phase: 'start' } })
  hub.publish('agent', () => started, { sessionKey: SESSION })
  return {
    stream,
    /** Resolves when it is cut off as too slow. */
    slow: slow.promise,
    said: () => text,
    say(words: string) {
      const start = text.length
      text += words
      const render = ({ start: from = start }) =>
        JSON.stringify({ runId: 'r', stream: 'assistant', data: { delta: text.slice(from) } })
      hub.publish('agent', render, { sessionKey: SESSION, piece: { of: 'r', start } })
    },
    /** Nothing more is said: the pieces as they were told. */
    async read(): Promise<string[]> {
      isWhole = true
      const blocks = Buffer.concat(await reading.toArray())
        .toString()
        .split('\n\n')
      return blocks.slice(0, -1).map((block): string => JSON.parse(block.slice('data: '.length)))
    },
    async [Symbol.asyncDispose]() {
      asking.on('error', () => {}).destroy()
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

describe('a reader over HTTP who stops for a while', () => {
  it('is told more at a time and misses nothing; no more waits for it than the policy says', async () => {
    await using run = await open()
    let pieces = 0
    const say = async () => {
      run.say('x'.repeat(64 * KiB))
      pieces += 1
      expect(run.stream.bytesWaiting).toBeLessThan(LIMITS.maxBufferedBytes)
      await setImmediate()
    }
    while (run.stream.bytesWaiting <= GATHERED_FROM_BYTES) await say()
    for (let more = 0; more < 20; more++) await say()
    const told = await run.read()
    expect(told.join('') === run.said()).toBe(true)
    expect(told.length).toBeLessThan(pieces)
  })
})

describe('a reader over HTTP for whom more waits than the policy says', () => {
  it('is cut off', async () => {
    await using run = await open()
    run.say('x'.repeat(16 * KiB * KiB))
    expect(run.stream.bytesWaiting).toBeGreaterThan(LIMITS.maxBufferedBytes)
    await run.slow
    await expect(run.read()).rejects.toThrow('aborted')
  })
})

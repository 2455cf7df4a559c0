/** What a client hears through a line that is cut again and again, held against what one hears that was never cut. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { type Chunk, type Client, connect, RunError } from '../../src/client/client.ts'
import { echo } from '../../src/runtimes/echo.ts'
import { random } from '../long/suite.ts'
import { freePort } from '../support/free-port.ts'
import { startGateway, TOKEN } from '../support/gateway.ts'
import { startProcess } from '../support/gateway-process.ts'
import { startModelServer } from '../support/model-server.ts'
import { startCutter } from './cutter.ts'

const QUICK = { minMs: 1, maxMs: 10 }
const quick = (wordMs: number) => ({ runtimes: new Map([['echo', echo({ wordMs })]]) })
const words = (count: number) => Array.from({ length: count }, (_, index) => `w${index}`).join(' ')
const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

const folders: string[] = []
afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true })
})

/** Everything a client hears of sessions, in order. */
function listen(client: Client): { event: string; payload: object }[] {
  const heard: { event: string; payload: object }[] = []
  client.on('agent', (payload) => void heard.push({ event: 'agent', payload }))
  client.on('chat', (payload) => void heard.push({ event: 'chat', payload }))
  return heard
}

/** What was read of an answer: the pieces joined, and how it ended. */
async function read(chat: AsyncIterable<Chunk>): Promise<{ text: string; endings: Chunk[] }> {
  let text = ''
  const endings: Chunk[] = []
  for await (const chunk of chat)
    if (chunk.type === 'delta') text += chunk.text
    else endings.push(chunk)
  return { text, endings }
}

describe('over 30 cuts at random', () => {
  it.each([1, 2, 3])('an answer and all events come once, in order, to the letter (seed %i)', async (seed) => {
    await using gateway = await startGateway(quick(4))
    await using line = await startCutter(gateway.port)
    const number = random(seed)
    const client = await connect({ url: line.url, token: TOKEN, reconnect: QUICK })
    const oracle = await connect({ url: gateway.url, token: TOKEN })
    const heard = listen(client)
    const all = listen(oracle)
    let gaps = 0
    client.onGap(() => {
      gaps += 1
    })
    const answers: Promise<{ text: string; endings: Chunk[] }>[] = []
    for (let cuts = 0; cuts < 30; cuts++) {
      if (cuts % 6 === 0)
        answers.push(read(client.chat({ sessionKey: cuts % 12 === 0 ? 'one' : 'two', message: words(80) })))
      await sleep(number() * Number(process.env['GAP'] ?? 40))
      line.cut()
    }
    const said = await Promise.all(answers)
    expect(said.length).toBe(5)
    for (const { text, endings } of said) {
      expect(endings).toMatchObject([{ type: 'final', text }])
      expect(text.endsWith(words(80))).toBe(true)
    }
    // The last events may still be on their way to the one that was not cut.
    while (all.length < heard.length) await sleep(5)
    for (const key of ['agent:main:one', 'agent:main:two']) {
      const of = (events: typeof all) =>
        events.filter(({ payload }) => (payload as { sessionKey: string }).sessionKey === key)
      const offsets = of(heard).map(({ payload }) => (payload as { offset: number }).offset)
      // A snapshot may have taken the place of the beginning only: of what was said before anything had been heard.
      const start = offsets[0]!
      expect(start === 1 || gaps > 0).toBe(true)
      expect(offsets).toEqual(offsets.map((_, index) => start + index))
      expect(of(heard)).toEqual(of(all).slice(start - 1))
    }
    expect(line.count).toBeGreaterThan(15)
    client.close()
    oracle.close()
  })
})

function folder(): string {
  const made = mkdtempSync(join(tmpdir(), 'kurultai-client-'))
  folders.push(made)
  return made
}

describe('over the death of the gateway', () => {
  it('an answer that it cut off ends as the error it was, and the next one works', async () => {
    await using models = await startModelServer()
    const port = await freePort()
    const state = folder()
    const first = await startProcess(state, models.url, { port })
    const client = await connect({ url: first.url, token: TOKEN, reconnect: QUICK })
    const gaps: string[] = []
    client.onGap(({ reason }) => void gaps.push(reason))
    client.on('agent', () => {})
    const chat = client.chat({ sessionKey: 'main', message: '[[chunks=2000 gap=5]]' })
    for await (const chunk of chat) if (chunk.type === 'delta') break
    await first.kill()
    const second = await startProcess(state, models.url, { port })
    const error = await chat.result.catch((reason: unknown) => reason)
    expect(error).toBeInstanceOf(RunError)
    expect((error as RunError).runId).toBe(chat.runId)
    expect((error as RunError).message).toContain('the gateway stopped')
    expect(gaps).toEqual(['epoch_changed'])
    const again = await read(client.chat({ sessionKey: 'main', message: 'hello [[text=Good day.]]' }))
    expect(again).toMatchObject({ text: 'Good day.', endings: [{ type: 'final' }] })
    client.close()
    await second.kill()
  })

  it('an answer that is begun again is told from its new beginning', async () => {
    await using models = await startModelServer()
    const port = await freePort()
    const state = folder()
    const options = { port, agents: { recovery: 'resume' } }
    let gateway = await startProcess(state, models.url, options)
    const client = await connect({ url: gateway.url, token: TOKEN, reconnect: QUICK })
    const chat = client.chat({ sessionKey: 'main', message: '[[chunks=40 gap=20]]' })
    let text = ''
    let isKilled = false
    const ways: string[] = []
    for await (const chunk of chat) {
      ways.push(chunk.type)
      if (chunk.type === 'delta') text += chunk.text
      if (chunk.type === 'restart') text = chunk.text
      if (chunk.type === 'final') expect(chunk.text).toBe(text)
      if (isKilled || text.length < 100) continue
      isKilled = true
      await gateway.kill()
      gateway = await startProcess(state, models.url, options)
    }
    expect(text).toBe('word '.repeat(40))
    expect(ways).toContain('restart')
    client.close()
    await gateway.kill()
  })
})

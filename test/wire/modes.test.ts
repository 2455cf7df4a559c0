/** Messages that come while a run is under way: collected, joining it, interrupting it; and runs that are begun again. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { endOf, type Frame, type Peer, startGateway, type TestGateway } from '../support/gateway.ts'
import { type GatewayProcess, startProcess } from '../support/gateway-process.ts'
import { type ModelServer, startModelServer } from '../support/model-server.ts'

let model: ModelServer
let folder: string
beforeEach(async () => {
  model = await startModelServer()
  folder = mkdtempSync(join(tmpdir(), 'modes-'))
})
afterEach(async () => {
  await model.close()
  rmSync(folder, { recursive: true, force: true })
})

const provider = () => ({
  baseUrl: `${model.url}/v1`,
  apiKey: 'none',
  api: 'openai-completions',
  models: [{ id: 'm' }],
})
const open = (messages: object = {}): Promise<TestGateway> =>
  startGateway({
    config: {
      models: { providers: { fake: provider() } },
      agents: { defaults: { model: 'fake/m' } },
      messages,
    },
  })

const send = (key: string, message: string, changes: object = {}) => ({
  sessionKey: 'main',
  message,
  idempotencyKey: key,
  ...changes,
})
const firstDelta = (runId: string) => (frame: Frame) =>
  frame['event'] === 'agent' && frame['payload'].runId === runId && frame['payload'].stream === 'assistant'
const textOf = (end: Frame): string => end['payload'].message.content[0].text
const history = async (peer: Peer) =>
  (await peer.request('chat.history', { sessionKey: 'main' }))['payload'].messages.map(
    ({ role, content }: Frame) => `${role}: ${content[0]?.text}`,
  )
/** What the model was asked last: who said what. */
const asked = () =>
  (model.requests.at(-1)!.body as { messages: { role: string; content: string }[] }).messages
    .filter(({ role }) => role !== 'system')
    .map(({ role, content }) => `${role}: ${content}`)

describe('a message that steers', () => {
  it('joins the run under way: the model hears what it had said and what came', async () => {
    await using gateway = await open()
    const peer = await gateway.connect({ caps: ['stream-offsets'] })
    await peer.request('chat.send', send('k1', 'one [[chunks=500 gap=20]]'))
    await peer.next(firstDelta('k1'))
    const answer = await peer.request('chat.send', send('k2', 'two [[text=the rest]]', { queueMode: 'steer' }))
    expect(answer['payload']).toEqual({ runId: 'k2', status: 'started' })
    const absorbed = await peer.next(endOf('k2'))
    expect(absorbed['payload']).toMatchObject({ state: 'final', runId: 'k2' })
    expect(absorbed['payload']).not.toHaveProperty('message')
    const end = await peer.next(endOf('k1'))
    expect(textOf(end)).toMatch(/^(word )+\n\nthe rest$/)
    expect(asked()).toEqual([
      'user: one [[chunks=500 gap=20]]',
      `assistant: ${textOf(end).split('\n\n')[0]!.trim()}`,
      'user: two [[text=the rest]]',
    ])
    expect(model.requests[0]!.closedEarly).toBe(true)
    const deltas = peer.frames.filter(firstDelta('k1')).map(({ payload }) => payload.data.delta)
    expect(deltas.join('')).toBe(textOf(end))
    const queue = peer.frames.filter(({ payload }) => payload?.stream === 'queue').map(({ payload }) => payload.data)
    expect(queue).toEqual([{ place: 1 }, { absorbedBy: 'k1' }])
  })

  it('is told of its place and of what became of it in no other way to those who do not count offsets', async () => {
    await using gateway = await open()
    const peer = await gateway.connect()
    await peer.request('chat.send', send('k1', 'one [[chunks=500 gap=20]]'))
    await peer.next(firstDelta('k1'))
    await peer.request('chat.send', send('k2', 'two', { queueMode: 'steer' }))
    await peer.next(endOf('k1'))
    expect(peer.frames.filter(({ payload }) => payload?.stream === 'queue')).toEqual([])
    expect(Object.keys((await peer.next(endOf('k2')))['payload']).sort()).toEqual([
      'runId',
      'seq',
      'sessionKey',
      'state',
    ])
  })
})

describe('messages that are collected', () => {
  it('go to the model together, by the setting of the session', async () => {
    await using gateway = await open()
    const peer = await gateway.connect()
    await peer.request('chat.send', send('q', '/queue collect'))
    expect(textOf(await peer.next(endOf('q')))).toContain('set to collect')
    await peer.request('chat.send', send('k1', 'one [[chunks=3 gap=150]]'))
    await peer.next(firstDelta('k1'))
    for (const key of ['k2', 'k3', 'k4']) await peer.request('chat.send', send(key, `message ${key} [[text=to all]]`))
    expect(textOf(await peer.next(endOf('k4')))).toBe('to all')
    expect(model.requests).toHaveLength(2)
    expect(asked().slice(-3)).toEqual(['k2', 'k3', 'k4'].map((key) => `user: message ${key} [[text=to all]]`))
    expect((await history(peer)).at(-1)).toBe('assistant: to all')
    const again = await peer.request('chat.send', send('k2', 'message k2 [[text=to all]]'))
    expect(again['payload']).toEqual({ runId: 'k2', status: 'ok' })
  })
})

describe('a message that interrupts', () => {
  it('stops the run, by the configuration, and its own answer comes next', async () => {
    await using gateway = await open({ queue: { mode: 'interrupt' } })
    const peer = await gateway.connect()
    await peer.request('chat.send', send('k1', 'one [[chunks=500 gap=20]]'))
    await peer.next(firstDelta('k1'))
    await peer.request('chat.send', send('k2', 'two [[text=second]]'))
    expect((await peer.next(endOf('k1')))['payload']).toMatchObject({ state: 'aborted', stopReason: 'interrupt' })
    expect(textOf(await peer.next(endOf('k2')))).toBe('second')
    expect((await history(peer)).slice(-2)).toEqual(['user: two [[text=second]]', 'assistant: second'])
  })
})

describe('the mode of a session', () => {
  it('is set, said and given up by a command, which says what it cannot understand', async () => {
    await using gateway = await open({ queue: { mode: 'steer-backlog' } })
    const peer = await gateway.connect()
    const said = async (key: string, command: string) => {
      await peer.request('chat.send', send(key, command))
      return textOf(await peer.next(endOf(key)))
    }
    expect(await said('a', '/queue')).toContain('Queue mode is steer.')
    expect(await said('b', '/queue interrupt debounce:2s')).toContain('set to interrupt')
    expect(await said('c', '/queue')).toContain('is interrupt')
    expect(await said('d', '/queue sideways')).toBe('Say /queue followup, collect, steer, interrupt, or default.')
    expect(await said('e', '/queue default')).toContain('set to steer')
  })

  it('is refused by name in a message that has another', async () => {
    await using gateway = await open()
    const peer = await gateway.connect()
    const { error } = await peer.request('chat.send', send('k1', 'one', { queueMode: 'sideways' }))
    expect(error).toMatchObject({ code: 'INVALID_REQUEST', message: expect.stringContaining('queueMode') })
  })
})

describe('after kill -9', () => {
  let gateway: GatewayProcess | undefined
  afterEach(() => gateway?.kill())
  const calls = () =>
    model.requests.map(({ body }) => (body as { messages: { content: string }[] }).messages.at(-1)!.content)

  it('a turn that waited to join a run has a run of its own, and its mode is still known', async () => {
    gateway = await startProcess(folder, model.url)
    const peer = await gateway.connect()
    await peer.request('chat.send', send('k1', 'one [[chunks=500 gap=20]]'))
    await peer.next(firstDelta('k1'))
    await peer.request('chat.send', send('f', '[[text=f]]'))
    for (const key of ['c1', 'c2'])
      await peer.request('chat.send', send(key, `[[text=${key}]]`, { queueMode: 'collect' }))
    await gateway.kill()
    gateway = await startProcess(folder, model.url)
    const other = await gateway.connect()
    for (const runId of ['k1', 'f', 'c1', 'c2'])
      await vi.waitFor(async () => {
        const { payload } = await other.request('agent.wait', { runId, timeoutMs: 5_000 })
        expect(payload).toMatchObject({ status: runId === 'k1' ? 'error' : 'ok' })
      })
    expect(calls()).toEqual(['one [[chunks=500 gap=20]]', '[[text=f]]', '[[text=c2]]'])
  })

  it('a run is asked again under its id where that is wanted, and a client that comes back has all of its text', async () => {
    gateway = await startProcess(folder, model.url, { agents: { recovery: 'resume' } })
    const peer = await gateway.connect()
    await peer.request('chat.send', send('k1', 'one [[chunks=20 gap=50]]'))
    await peer.next(firstDelta('k1'))
    await gateway.kill()
    gateway = await startProcess(folder, model.url, { agents: { recovery: 'resume' } })
    const other = await gateway.connect({ caps: ['stream-offsets'] })
    const { payload } = await other.request('chat.resume', { sessionKey: 'main', runIds: ['k1'] })
    expect(payload).toMatchObject({ recovered: false, snapshot: { runs: [{ runId: 'k1' }] } })
    await other.request('agent.wait', { runId: 'k1', timeoutMs: 10_000 })
    expect(await history(other)).toEqual(['user: one [[chunks=20 gap=50]]', `assistant: ${'word '.repeat(20)}`])
    expect(calls()).toHaveLength(2)
    expect((await other.request('chat.send', send('k1', 'one [[chunks=20 gap=50]]')))['payload'].status).toBe('ok')
  })
})

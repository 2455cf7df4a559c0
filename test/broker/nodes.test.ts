/** What nodes are asked to do, where time and numbers count. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import type { DeviceRecord } from '../../src/auth/devices.ts'
import { createAgents } from '../../src/broker/agents.ts'
import type { Caller } from '../../src/broker/dispatch.ts'
import { type CommandWanted, ConnectorAway, createNodes, type NodesNeeds } from '../../src/broker/nodes.ts'
import type { ToolOutcome } from '../../src/broker/toolbox.ts'
import type { Scope } from '../../src/contract/block.ts'
import { GENERIC_CLIENT } from '../../src/contract/connect.ts'
import type { RunRecord } from '../../src/stores/store.ts'
import { quiet } from '../support/rooms.ts'

const GRACE_MS = 30_000

function open() {
  const told: { connId: string; name: string; payload: { id: string; received?: number } }[] = []
  const agent = (id: string, connector?: { graceMs: number }) => ({
    ...{ id, name: id, models: [], thinking: 'off' as const, failoverFor: [] },
    ...(connector && { connector }),
  })
  const list = [agent('main'), agent('writer', { graceMs: GRACE_MS })]
  const heard: string[][] = []
  let outcome: ToolOutcome | Promise<ToolOutcome> = { text: 'done', isError: false, isMalformed: false }
  const calls: { id: string; signal: AbortSignal }[] = []
  const needs: NodesNeeds = {
    agents: createAgents({ agents: { defaultId: 'main', list } as never, session: { mainKey: 'main', scope: '' } }),
    devices: {
      // Every node was paired under the name that its id is.
      get: (deviceId, role) => ({ deviceId, role, displayName: deviceId, platform: 'linux' }) as DeviceRecord,
      list: () => [],
      rename: async () => ({}) as DeviceRecord,
    },
    hub: {
      tellNode(connId, name, payload) {
        told.push({ connId, name, payload })
        return true
      },
    },
    runs: {
      record: (runId) => ({ runId, agentId: 'writer' }) as RunRecord,
      heard: (_, ids) => void heard.push([...ids]),
      away: (_, work) => work(),
    },
    toolbox: {
      async call({ id }, _, signal) {
        calls.push({ id, signal })
        return outcome
      },
    },
    log: quiet,
    now: () => 0,
    monotonic: () => performance.now(),
    expel: vi.fn(),
  }
  const nodes = createNodes(needs)
  const join = (nodeId: string, connId = nodeId, commands = ['agent.run', 'work']) =>
    nodes.join({ connId, nodeId, client: GENERIC_CLIENT, caps: ['agent'], commands })
  const asked = () => told.filter(({ name }) => name === 'node.invoke.request')
  return {
    ...{ nodes, told, asked, join, heard, calls, needs },
    answerToolsWith(next: ToolOutcome | Promise<ToolOutcome>) {
      outcome = next
    },
    ask(signal = new AbortController().signal) {
      return nodes.ask({ agentId: 'writer', runId: 'r', params: () => ({}), hear() {} }, signal)
    },
  }
}

const caller = (changes: Partial<Caller> = {}): Caller =>
  ({ connId: 'c', principal: 'token:shared', scopes: new Set<Scope>(['operator.write']), ...changes }) as Caller
const wanted = (changes: Partial<CommandWanted> = {}): CommandWanted => ({
  ...{ nodeId: 'n', command: 'work', params: {}, timeoutMs: 1_000, idempotencyKey: 'k' },
  ...changes,
})
const as = (nodeId: string, connId = nodeId) => ({ connId, principal: nodeId })
const kindOf = (promise: Promise<unknown>) =>
  promise.then(
    () => 'done',
    ({ kind }) => kind as string,
  )
const done = { ok: true as const, payload: { n: 1 }, payloadJSON: null }

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

describe('a command for a node', () => {
  it('is answered under its key for five minutes, and then done again', async () => {
    const { nodes, join, asked } = open()
    join('n')
    const first = nodes.invoke(wanted(), caller())
    nodes.finish(asked()[0]!.payload.id, 'n', done, as('n'))
    expect(await first).toMatchObject({ payload: { n: 1 } })
    vi.advanceTimersByTime(5 * 60_000)
    expect(await nodes.invoke(wanted(), caller())).toEqual(await first)
    expect(asked()).toHaveLength(1)
    vi.advanceTimersByTime(1)
    void nodes.invoke(wanted(), caller())
    expect(asked()).toHaveLength(2)
  })

  it('is another one for another principal', () => {
    const { nodes, join, asked } = open()
    join('n')
    void nodes.invoke(wanted(), caller())
    void nodes.invoke(wanted(), caller({ principal: 'another' }))
    expect(asked()).toHaveLength(2)
  })

  it('takes too long after its time, and its node is called off', async () => {
    const { nodes, join, told } = open()
    join('n')
    const kind = kindOf(nodes.invoke(wanted(), caller()))
    vi.advanceTimersByTime(1_000)
    expect(await kind).toBe('NODE_TIMED_OUT')
    expect(told.map(({ name }) => name)).toEqual(['node.invoke.request', 'node.invoke.cancel'])
  })

  it('is over when its node goes away, and not given to another', async () => {
    const { nodes, join, asked } = open()
    join('n')
    join('other')
    const kind = kindOf(nodes.invoke(wanted(), caller()))
    nodes.leave('n')
    expect(await kind).toBe('NODE_DISCONNECTED')
    expect(asked()).toHaveLength(1)
  })

  it('is not sent again to a node that is back before it was missed, and is over when that one goes away', async () => {
    const { nodes, join, asked, told } = open()
    join('n')
    const answered = nodes.invoke(wanted(), caller())
    const lost = kindOf(nodes.invoke(wanted({ idempotencyKey: 'another' }), caller()))
    join('n', 'again')
    nodes.leave('n')
    expect(asked().map(({ connId }) => connId)).toEqual(['n', 'n'])
    nodes.finish(asked()[0]!.payload.id, 'n', done, as('n', 'again'))
    expect(await answered).toMatchObject({ payload: { n: 1 } })
    nodes.leave('again')
    expect(await lost).toBe('NODE_DISCONNECTED')
    expect(told).toHaveLength(2)
  })

  it('is one of 64 at the most that somebody has under way', async () => {
    const { nodes, join, asked } = open()
    join('n')
    for (let n = 0; n < 64; n++) void nodes.invoke(wanted({ idempotencyKey: `k${n}` }), caller())
    const one = wanted({ idempotencyKey: 'one more' })
    expect(await kindOf(nodes.invoke(one, caller()))).toBe('TOO_MANY_INVOKES')
    void nodes.invoke(one, caller({ principal: 'another' }))
    nodes.finish(asked()[0]!.payload.id, 'n', done, as('n'))
    await vi.advanceTimersByTimeAsync(0)
    void nodes.invoke(one, caller())
    expect(asked()).toHaveLength(66)
  })

  it('fails in the words of its node', async () => {
    const { nodes, join, asked } = open()
    join('n')
    const answer = nodes.invoke(wanted(), caller())
    const error = { code: 'TIRED', message: 'not today' }
    nodes.finish(asked()[0]!.payload.id, 'n', { ok: false, error }, as('n'))
    await expect(answer).rejects.toMatchObject({
      kind: 'NODE_FAILED',
      message: 'not today',
      details: { nodeError: error },
    })
  })
})

describe('an answer', () => {
  it('waits its whole grace for its node, and no longer', async () => {
    const { ask, join, nodes, asked } = open()
    join('writer')
    const answer = ask().catch((error: unknown) => error)
    nodes.leave('writer')
    vi.advanceTimersByTime(GRACE_MS - 1)
    join('writer', 'again')
    nodes.leave('again')
    vi.advanceTimersByTime(GRACE_MS)
    expect(await answer).toEqual(new ConnectorAway('the connector of writer is not connected (waited 30 s)'))
    expect(asked().map(({ connId }) => connId)).toEqual(['writer', 'again'])
  })

  it('rejects with the reason of the signal, and tells its node', async () => {
    const { ask, join, told } = open()
    join('writer')
    const abort = new AbortController()
    const answer = ask(abort.signal)
    abort.abort('enough')
    await expect(answer).rejects.toBe('enough')
    expect(told.map(({ name }) => name)).toEqual(['node.invoke.request', 'node.invoke.cancel'])
  })

  it('can be had while there is a node for it', () => {
    const { join, nodes } = open()
    join('somebody')
    expect(['writer', 'main', 'nobody'].map(nodes.hasNodeFor)).toEqual([false, false, false])
    join('writer')
    expect(['writer', 'main', 'nobody'].map(nodes.hasNodeFor)).toEqual([true, false, false])
    nodes.leave('writer')
    expect(nodes.hasNodeFor('writer')).toBe(false)
  })

  it('is of nobody who was never asked: the third word ends the connection', () => {
    const { ask, join, nodes, asked, needs } = open()
    join('writer')
    join('other')
    void ask()
    const { id } = asked()[0]!.payload
    const piece = { kind: 'text' as const, offset: 0, text: 'lies' }
    for (let times = 1; times <= 4; times++) {
      expect(() => nodes.say(id, piece, as('other'))).toThrow('this node was not asked for that')
      vi.runAllTimers()
      expect(needs.expel).toHaveBeenCalledTimes(times < 3 ? 0 : 1)
    }
    expect(needs.expel).toHaveBeenCalledWith('other')
  })

  it('that nobody knows, as one of a former process, is refused, and ends no connection', async () => {
    const { join, nodes, needs } = open()
    join('writer')
    const call = { id: 'of-a-former-process', callId: 'c', name: 't', args: {} }
    for (let times = 0; times < 4; times++) {
      expect(await kindOf(nodes.callTool(call, as('writer')))).toBe('NOT_YOUR_RUN')
      vi.runAllTimers()
    }
    expect(needs.expel).not.toHaveBeenCalled()
  })

  it('is known by its parts, on the connection that it was asked on', () => {
    const { ask, join, nodes, asked } = open()
    join('writer')
    void ask()
    const { id } = asked()[0]!.payload
    const request = (method: string, params: unknown) => ({ type: 'req' as const, id: '1', method, params })
    const part = request('node.event', { event: 'agent.delta', payload: { id } })
    const end = request('node.invoke.result', { id })
    expect([part, end].map((one) => nodes.isOfLive(one, 'writer'))).toEqual([true, true])
    expect([part, end].map((one) => nodes.isOfLive(one, 'other'))).toEqual([false, false])
    for (const params of [undefined, null, 5, {}, { payload: null }, { payload: { id: 'x' } }])
      expect(nodes.isOfLive(request('node.event', params), 'writer')).toBe(false)
    expect(nodes.isOfLive(request('tools.invoke', { id }), 'writer')).toBe(false)
    nodes.finish(id, 'writer', done, as('writer'))
    expect(nodes.isOfLive(part, 'writer')).toBe(false)
  })
})

describe('a tool that a connector calls', () => {
  it('tells the run what has been heard by it, once for each call', async () => {
    const { ask, join, nodes, asked, heard, calls, answerToolsWith } = open()
    join('writer')
    void ask()
    answerToolsWith({ text: 'they say', isError: false, isMalformed: false, heard: ['m1'] })
    const call = { id: asked()[0]!.payload.id, callId: 'c', name: 't', args: {} }
    const both = await Promise.all([nodes.callTool(call, as('writer')), nodes.callTool(call, as('writer'))])
    expect(both).toEqual([1, 2].map(() => ({ text: 'they say', isError: false })))
    expect([heard, calls.length]).toEqual([[['m1']], 1])
  })

  it('is over with the answer', async () => {
    const { ask, join, nodes, asked, calls, answerToolsWith } = open()
    join('writer')
    const abort = new AbortController()
    ask(abort.signal).catch(() => {})
    const hanging = Promise.withResolvers<ToolOutcome>()
    answerToolsWith(hanging.promise)
    const call = nodes.callTool({ id: asked()[0]!.payload.id, callId: 'c', name: 't', args: {} }, as('writer'))
    abort.abort()
    expect(calls[0]!.signal.aborted).toBe(true)
    hanging.reject(calls[0]!.signal.reason)
    expect(await call).toEqual({ text: 'this answer is over: nobody waits for it', isError: true })
  })

  it('means that nobody else takes over', async () => {
    const { ask, join, nodes, asked } = open()
    join('writer')
    ask().catch(() => {})
    await nodes.callTool({ id: asked()[0]!.payload.id, callId: 'c', name: 't', args: {} }, as('writer'))
    nodes.leave('writer')
    join('WRITER', 'stand-by')
    expect(asked()).toHaveLength(1)
  })

  it('is one of 256 at the most', async () => {
    const { ask, join, nodes, asked } = open()
    join('writer')
    void ask()
    const { id } = asked()[0]!.payload
    const call = (callId: string) => nodes.callTool({ id, callId, name: 't', args: {} }, as('writer'))
    for (let n = 0; n < 256; n++) await call(`c${n}`)
    expect(await kindOf(call('one more'))).toBe('TOO_MANY_CALLS')
    expect(await call('c0')).toEqual({ text: 'done', isError: false })
  })
})

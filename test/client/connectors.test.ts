/** What a connector keeps of its answers, and when it lets go of them; the gateway is in the hands of the test. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { createConnectors, type Run } from '../../src/client/connector.ts'
import { ConnectionError, RequestError } from '../../src/client/failures.ts'

interface Told {
  method: string
  params: { [name: string]: unknown }
}

function open() {
  const told: Told[] = []
  const runs: Run[] = []
  let answer: (told: Told) => unknown = () => ({ ok: true })
  const connectors = createConnectors({
    async ask(method, params) {
      const one = { method, params: params as Told['params'] }
      told.push(one)
      return answer(one)
    },
    answer: async (run) => {
      runs.push(run)
      await new Promise((resolve) => run.signal.addEventListener('abort', resolve))
    },
  })
  return {
    ...{ connectors, told, runs },
    answerWith(next: typeof answer) {
      answer = next
    },
    request: (id: string, received = 0, runId = 'r', command = 'agent.run', called = 0) =>
      connectors.request({
        ...{ id, nodeId: 'n', command, timeoutMs: 0, idempotencyKey: runId },
        paramsJSON: JSON.stringify({ runId, message: 'hi', messages: [], received, called }),
      }),
    deltas: () =>
      told
        .filter(({ params }) => params['event'] === 'agent.delta')
        .map(({ params }) => params['payload'] as { id: string; offset: number; text: string }),
  }
}

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

describe('an answer', () => {
  it('is told from where it has got to when the gateway asks again, and kept meanwhile', async () => {
    const { connectors, request, runs, deltas } = open()
    request('i')
    await runs[0]!.say('one ')
    connectors.cut()
    await runs[0]!.say('two ')
    expect(deltas()).toHaveLength(1)
    connectors.reopened()
    request('i', 2)
    expect(deltas().at(-1)).toEqual({ id: 'i', offset: 2, text: 'e two ' })
    await runs[0]!.say('three')
    expect(deltas().at(-1)).toEqual({ id: 'i', offset: 8, text: 'three' })
    expect(runs).toHaveLength(1)
  })

  it('is given up when it is not asked for again within a minute, and not while nobody is there to ask', async () => {
    const { connectors, request, runs } = open()
    request('i')
    connectors.cut()
    vi.advanceTimersByTime(3_600_000)
    connectors.reopened()
    vi.advanceTimersByTime(59_000)
    connectors.cut()
    vi.advanceTimersByTime(3_600_000)
    expect(runs[0]!.signal.aborted).toBe(false)
    connectors.reopened()
    vi.advanceTimersByTime(60_000)
    expect(runs[0]!.signal.aborted).toBe(true)
  })

  it('is given up when its run is begun anew', () => {
    const { connectors, request, runs } = open()
    request('i')
    request('other', 0, 'another run')
    connectors.cut()
    connectors.reopened()
    request('i2')
    expect(runs.map(({ signal }) => signal.aborted)).toEqual([true, false, false])
  })

  it.each([
    ['says that it is over', () => ({ ok: true, event: 'agent.delta', handled: false }), 1],
    ['says so in protocol 3', () => ({ ok: true, ignored: true }), 1],
    ['says that it never asked', () => Promise.reject(refusal('NOT_YOUR_RUN')), 1],
    ['does not take what was said', () => Promise.reject(refusal('INVALID_PARAMS')), 2],
  ])('is given up when the gateway %s', async (_, answer, times) => {
    const { request, runs, told, answerWith } = open()
    request('i')
    answerWith(answer)
    await runs[0]!.say('one')
    expect(runs[0]!.signal.aborted).toBe(true)
    expect(told).toHaveLength(times)
    await expect(runs[0]!.say('two')).rejects.toBe(runs[0]!.signal.reason)
  })

  it('goes on where a connection was lost before the gateway had heard', async () => {
    const { request, runs, deltas, answerWith } = open()
    request('i')
    answerWith(() => Promise.reject(new ConnectionError('cut')))
    await runs[0]!.say('one ')
    answerWith(() => ({ ok: true }))
    await runs[0]!.say('two')
    expect(deltas()).toHaveLength(1)
    request('i', 0)
    expect(deltas().at(-1)).toEqual({ id: 'i', offset: 0, text: 'one two' })
  })

  it('whose beginning another process said cannot be gone on with', () => {
    const { request, runs, told } = open()
    request('i', 5)
    expect(runs).toEqual([])
    expect(told[0]!.params).toMatchObject({ ok: false, error: { message: 'the beginning of this answer is lost' } })
  })

  it('for which another process has called tools is not begun anew: they would be called twice', () => {
    const { request, runs, told } = open()
    request('i', 0, 'r', 'agent.run', 1)
    expect(runs).toEqual([])
    expect(told[0]!.params).toMatchObject({ ok: false, error: { message: 'the beginning of this answer is lost' } })
  })

  it('calls its tool again once it is asked again, and not of a gateway that knows nothing of it', async () => {
    const { connectors, request, runs, told, answerWith } = open()
    const calls = () => told.filter(({ method }) => method === 'tools.invoke').map(({ params }) => params['callId'])
    request('i')
    answerWith(() => Promise.reject(new ConnectionError('cut')))
    const called = runs[0]!.call('agents_list', {})
    connectors.cut()
    await vi.advanceTimersByTimeAsync(0)
    connectors.reopened()
    answerWith(({ method }) => (method === 'tools.invoke' ? { text: 'all', isError: false } : { ok: true }))
    await vi.advanceTimersByTimeAsync(100)
    expect(calls()).toHaveLength(1)
    request('i', 0, 'r', 'agent.run', 1)
    expect(await called).toBe('all')
    expect(new Set(calls()).size).toBe(1)
    expect(calls()).toHaveLength(2)
  })

  it('is the only thing that a connector does', () => {
    const { request, told } = open()
    request('i', 0, 'r', 'system.run')
    expect(told[0]!.params).toMatchObject({ ok: false, error: { message: 'there is no system.run here' } })
  })

  it('is told in parts that do not cut a character in two', async () => {
    const { request, runs, deltas } = open()
    const text = `a${'🐎'.repeat(40_000)}`
    request('i')
    await runs[0]!.say(text)
    expect(deltas().map(({ text: part }) => part.isWellFormed())).toEqual([true, true])
    expect(
      deltas()
        .map(({ text: part }) => part)
        .join(''),
    ).toBe(text)
    expect(deltas()[1]!.offset).toBe(deltas()[0]!.text.length)
  })

  it('ends with its client', () => {
    const { connectors, request, runs } = open()
    request('i')
    connectors.end()
    expect(runs[0]!.signal.aborted).toBe(true)
    expect(vi.getTimerCount()).toBe(0)
  })
})

const refusal = (code: string) => new RequestError({ code: 'INVALID_REQUEST', message: 'no', details: { code } })

describe('a message to another agent', () => {
  it.each([
    ['with its reply', '{"status":"ok","reply":"gold"}', 'gold'],
    [
      'with what a gateway cut, as it is',
      '{"status":"ok","reply":"go\n\n[cut here]',
      '{"status":"ok","reply":"go\n\n[cut here]',
    ],
    ['with words that are no object, as they are', '"gold"', '"gold"'],
  ])('is answered %s', async (_, text, reply) => {
    const { request, runs, answerWith } = open()
    request('i')
    answerWith(() => ({ text, isError: false }))
    expect(await runs[0]!.send('reader', 'dig')).toBe(reply)
  })

  it('that has no reply yet throws the note of the gateway', async () => {
    const { request, runs, answerWith } = open()
    request('i')
    answerWith(() => ({ text: '{"status":"accepted","note":"it will come"}', isError: false }))
    await expect(runs[0]!.send('reader', 'dig')).rejects.toThrow('it will come')
  })
})

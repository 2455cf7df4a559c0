import { describe, expect, it } from 'vitest'
import { endOf, startGateway } from '../support/gateway.ts'

describe('chat.send', () => {
  it('streams an answer whose deltas add up to the final text, and ends once', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    const answer = await peer.request('chat.send', { sessionKey: 'main', message: 'hello there', idempotencyKey: 'k1' })
    expect(answer.payload).toEqual({ runId: 'k1', status: 'started' })
    const end = await peer.next(endOf('k1'))
    expect(end.payload.state).toBe('final')
    const mine = peer.frames.filter(({ event, payload }) => event === 'agent' && payload.runId === 'k1')
    const text = mine.map(({ payload }) => payload.data.delta ?? '').join('')
    expect(text).toBe(end.payload.message.content[0].text)
    expect(text).toContain('hello there')
    expect(mine.map(({ payload }) => payload.seq)).toEqual(mine.map((_, index) => index + 1))
    expect(mine.at(0)?.payload.data).toMatchObject({ phase: 'start' })
    expect(mine.at(-1)?.payload.data).toMatchObject({ phase: 'end' })
    const { payload } = await peer.request('chat.history', { sessionKey: 'main' })
    expect(payload.messages.map(({ role }: { role: string }) => role)).toEqual(['user', 'assistant'])
    expect(payload.messages[1].content[0].text).toBe(text)
  })
})

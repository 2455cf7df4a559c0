/** Two principals that use the same idempotency keys in the same session: neither is given what the other was answered. */
import { describe, expect, it } from 'vitest'
import { createRuntimes } from '../../src/runtimes/index.ts'
import { endOf, type Peer, startGateway } from '../support/gateway.ts'
import { openRooms, SESSION } from '../support/rooms.ts'
import { makeToken, UNCOUNTED } from './ground.ts'

const KEYS = 10_000

describe('the same key of two principals', () => {
  it(`is two turns, ${KEYS} times, of which each is answered with its own`, async () => {
    const rooms = openRooms({ queueLimit: 2 * KEYS })
    const ask = (principal: string, key: number) =>
      rooms.turns.admit({
        ...{ principal, method: 'chat.send', sessionKey: SESSION, agentId: 'main', key: `k${key}` },
        // Every third text is the same: alike is not the same.
        ...{ message: key % 3 === 0 ? 'hello' : `a secret of ${principal}`, attachments: [], meta: {} },
      })
    const runs = new Map<string, string>()
    for (let from = 0; from < KEYS; from += 500) {
      const keys = Array.from({ length: 500 }, (_, index) => from + index)
      await Promise.all(
        keys.flatMap((key) =>
          ['anna', 'bert'].map(async (principal) => {
            const admission = await ask(principal, key)
            if (admission.kind !== 'new') throw new Error(`${principal} was answered ${admission.kind} for ${key}`)
            expect(admission.record).toMatchObject({ principal, key: `k${key}` })
            runs.set(`${principal} ${key}`, admission.record.runId)
          }),
        ),
      )
    }
    expect(new Set(runs.values()).size).toBe(2 * KEYS)
    for (let key = 0; key < KEYS; key++)
      for (const principal of ['anna', 'bert']) {
        const again = await ask(principal, key)
        if (again.kind !== 'running' || again.runId !== runs.get(`${principal} ${key}`))
          throw new Error(`${principal} was given ${JSON.stringify(again)} for ${key}`)
      }
  })
})

describe('over the wire', () => {
  async function open() {
    const gateway = await startGateway({
      config: { gateway: { limits: UNCOUNTED } },
      runtimes: createRuntimes({ wordMs: 1 }),
    })
    const operator = await gateway.connect()
    const comeIn = async (sessions: string[]) => {
      const token = await makeToken(operator, { scopes: ['operator.read', 'operator.write'], sessions })
      return gateway.connect({ scopes: undefined, auth: { token } })
    }
    return { gateway, operator, comeIn, [Symbol.asyncDispose]: () => gateway.stop() }
  }
  const send = (peer: Peer, sessionKey: string, message: string, idempotencyKey: string) =>
    peer.request('chat.send', { sessionKey, message, idempotencyKey })

  it('a key of somebody else is a new turn, whether the first is under way or over, and whatever its text', async () => {
    await using at = await open()
    const both = ['agent:main:both']
    const [anna, bert] = [await at.comeIn(both), await at.comeIn(both)]
    for (let key = 0; key < 20; key++) {
      const wordsOf = (who: string) => (key % 2 === 0 ? 'the same' : `of ${who} ${key}`)
      const first = await send(anna, 'both', wordsOf('anna'), `k${key}`)
      expect(first['payload']).toEqual({ runId: `k${key}`, status: 'started' })
      const isOver = key % 4 < 2
      if (isOver) await at.operator.next(endOf(`k${key}`))
      const second = await send(bert, 'both', wordsOf('bert'), `k${key}`)
      const { runId } = second['payload']
      expect([second['payload'].status, runId === `k${key}`]).toEqual(['started', false])
      if (!isOver) await at.operator.next(endOf(`k${key}`))
      await at.operator.next(endOf(runId))
      for (const [peer, who, own] of [
        [anna, 'anna', `k${key}`],
        [bert, 'bert', runId],
      ] as const)
        expect((await send(peer, 'both', wordsOf(who), `k${key}`))['payload']).toEqual({ runId: own, status: 'ok' })
    }
  })

  it('the id of a run of somebody else opens nothing in a session of one’s own', async () => {
    await using at = await open()
    const [anna, bert] = [await at.comeIn(['agent:main:anna*']), await at.comeIn(['agent:main:bert*'])]
    await send(anna, 'agent:main:anna', 'what only anna knows', 'k1')
    await at.operator.next(endOf('k1'))
    await send(anna, 'agent:main:anna', `what only anna knows ${'word '.repeat(200)}`, 'k2')
    await send(bert, 'agent:main:bert', 'hello', 'k1')
    await bert.next(({ event, payload }) => event === 'chat' && payload.state === 'final')
    const asks: [string, object][] = [
      ['chat.resume', { sessionKey: 'agent:main:bert', runIds: ['k1', 'k2'] }],
      ['chat.resume', { sessionKey: 'agent:main:anna', runIds: ['k1', 'k2'] }],
      ['chat.abort', { sessionKey: 'agent:main:bert', runId: 'k2' }],
      ['chat.abort', { sessionKey: 'agent:main:anna', runId: 'k2' }],
      ['chat.history', { sessionKey: 'agent:main:anna' }],
      ['chat.history', { sessionKey: 'anna', agentId: 'main' }],
      ['agent.wait', { runId: 'k2', timeoutMs: 0 }],
      ['agent', { message: 'x', sessionKey: 'agent:main:anna', idempotencyKey: 'k1' }],
    ]
    for (const [method, params] of asks) await bert.request(method, params)
    expect(JSON.stringify(bert.frames)).not.toContain('only anna knows')
    expect((await at.gateway.store.run('k2'))?.state).not.toBe('aborted')
  })
})

import { describe, expect, it } from 'vitest'
import type { MethodBlock } from '../../src/contract/block.ts'
import { Closes, refusal } from '../../src/contract/closes.ts'
import { negotiate } from '../../src/contract/connect.ts'
import { ERRORS, GatewayError } from '../../src/contract/errors.ts'
import { decode } from '../../src/contract/frames.ts'
import { FEATURES, METHODS, methodBlock } from '../../src/contract/index.ts'
import { type AgentNames, agentIn, canonical, plain } from '../../src/contract/session-key.ts'
import { validator } from '../../src/contract/validate.ts'

describe('protocol range', () => {
  it.each([
    [3, 3, 3],
    [4, 4, 4],
    [3, 4, 4],
    [1, 9, 4],
    [undefined, undefined, 3],
    [undefined, 4, 4],
    [4, undefined, 4],
    [3, undefined, 3],
    [1, 2, undefined],
    [5, 6, undefined],
    [4, 3, undefined],
    [undefined, 2, undefined],
  ])('%s to %s is %s', (min, max, protocol) => expect(negotiate(min, max)).toBe(protocol))
})

describe('frames', () => {
  it.each([
    ['{"type":"req","method":"health"}', 'invalid', "must have required property 'id'"],
    ['{"type":"req","id":7,"method":"health"}', 7, 'at /id: must be string'],
    ['{"type":"req","id":"x","method":"health","extra":1}', 'x', "at root: unexpected property 'extra'"],
    ['null', 'invalid', 'must be object'],
    ['[]', 'invalid', 'must be object'],
  ])('%s is refused in words', (text, id, problem) =>
    expect(decode(Buffer.from(text))).toEqual({ kind: 'invalid', id, problem }),
  )

  it('takes a request with the trace context of protocol 4', () =>
    expect(decode(Buffer.from('{"type":"req","id":"1","method":"health","traceparent":"00-1"}')).kind).toBe('request'))

  it('tells what is no JSON apart', () => expect(decode(Buffer.from('nonsense'))).toEqual({ kind: 'notJson' }))
})

describe('validation', () => {
  const check = (method: keyof typeof METHODS, params: unknown) => {
    const block: MethodBlock = METHODS[method]
    const schema = block.unknown === 'refused' ? { ...block.params, additionalProperties: false } : block.params
    return validator(schema).problem(params)
  }
  it('says each missing member', () =>
    expect(check('chat.send', {})).toBe(
      "must have required property 'sessionKey'; must have required property 'message'; must have required property 'idempotencyKey'",
    ))
  it('says where a value does not fit', () => {
    expect(check('chat.history', { sessionKey: 'main', limit: 1001 })).toBe('at /limit: must be <= 1000')
    expect(check('chat.send', { sessionKey: '', message: 'x', idempotencyKey: 'k' })).toBe(
      'at /sessionKey: must NOT have fewer than 1 characters',
    )
  })
  it('names a member it does not know, where that could change what is done', () =>
    expect(
      check('chat.send', { sessionKey: 'main', message: 'x', idempotencyKey: 'k', expectedLeafEntryId: 'a' }),
    ).toBe("at root: unexpected property 'expectedLeafEntryId'"))
  it('ignores it where something is only read', () => expect(check('health', { nonsense: 1 })).toBeUndefined())
})

describe('methods', () => {
  it('are found by their own names only', () => {
    for (const name of ['constructor', 'toString', '__proto__', 'hasOwnProperty'])
      expect(methodBlock(name)).toBeUndefined()
    expect(methodBlock('health')).toBeDefined()
  })
  it('are listed unless they say otherwise', () => {
    expect(FEATURES.operator.methods).toContain('chat.send')
    expect(FEATURES.operator.methods).not.toContain('chat.inject')
  })
  it('are listed for those who may call them, and events for those who may hear them', () => {
    const { operator, node } = FEATURES
    expect(node.methods).toEqual(['node.invoke.result', 'node.event', 'skills.bins', 'tools.invoke'])
    expect(operator.methods.filter((name) => node.methods.includes(name))).toEqual([])
    expect(node.events.toSorted()).toEqual(
      [
        'agent',
        'chat',
        'connect.challenge',
        'node.invoke.cancel',
        'node.invoke.request',
        'shutdown',
        'talk.mode',
        'tick',
        'voicewake.changed',
      ].toSorted(),
    )
    expect(operator.events).not.toContain('node.invoke.request')
  })
})

describe('errors', () => {
  it('give protocol 3 a code it knows, and the precise one in details', () =>
    expect(new GatewayError('SESSION_BUSY', 'later', { retryAfterMs: 5 }).shape(3)).toEqual({
      code: 'UNAVAILABLE',
      message: 'later',
      details: { code: 'SESSION_BUSY' },
      retryable: true,
      retryAfterMs: 5,
    }))
  it('say FORBIDDEN for a missing scope to protocol 4 only', () => {
    const error = new GatewayError('MISSING_SCOPE', 'missing scope: operator.write')
    expect([error.shape(3).code, error.shape(4).code]).toEqual(['INVALID_REQUEST', 'FORBIDDEN'])
  })
  it('each say when they happen and what to do', () => {
    for (const { meaning } of Object.values(ERRORS)) expect(meaning).toMatch(/\.$/)
  })
})

describe('close reasons', () => {
  it('fit into a close frame, cut between characters', () => {
    for (const { reason } of Object.values(Closes)) expect(Buffer.byteLength(reason)).toBeLessThanOrEqual(123)
    const { reason } = refusal('ä'.repeat(200))
    expect(Buffer.byteLength(reason)).toBeLessThanOrEqual(123)
    expect(reason).toMatch(/^ä+$/)
  })
})

describe('session keys', () => {
  const known: Record<string, string> = { main: 'main', kublai: 'main', researcher: 'researcher', mongke: 'researcher' }
  const agents: AgentNames = {
    defaultId: 'main',
    mainKey: 'main',
    resolve: (name) => known[plain(name)],
    ids: () => ['main', 'researcher'],
  }
  it.each([
    ['main', 'agent:main:main'],
    ['MAIN', 'agent:main:main'],
    ['mykey', 'agent:main:mykey'],
    ['agent:main:main', 'agent:main:main'],
    ['agent:Möngke:Notes', 'agent:researcher:notes'],
    ['agent:researcher', 'agent:researcher:main'],
    ['agent:kublai:a:b', 'agent:main:a:b'],
    [' spaced key ', 'agent:main:spaced key'],
  ])('%s is %s', (spelling, key) => expect(canonical(spelling, agents).key).toBe(key))

  it.each([
    ['agent:main:x', 'main'],
    ['\t AGENT:Möngke', 'Möngke'],
    ['agent::x', ''],
    ['agent', undefined],
    ['agents:main:x', undefined],
    ['x agent:main:x', undefined],
  ])('%j names the agent %j', (spelling, name) => expect(agentIn(spelling)).toBe(name))

  it('name the known agents when there is none of that name', () =>
    expect(() => canonical('agent:nobody:main', agents)).toThrow('unknown agent id "nobody" (known: main, researcher)'))
})

import { describe, expect, it, vi } from 'vitest'
import type { Audit } from '../../src/broker/audit.ts'
import { after, type Caller, createDispatch, Failure, twice } from '../../src/broker/dispatch.ts'
import { type MethodBlock, OPERATOR_SCOPES, type Scope } from '../../src/contract/block.ts'
import { GatewayError } from '../../src/contract/errors.ts'
import { METHODS } from '../../src/contract/index.ts'
import { StoreError } from '../../src/stores/store.ts'
import type { Frame } from '../support/gateway.ts'
import { quiet, settled } from '../support/rooms.ts'

type Handlers = Parameters<typeof createDispatch>[0]['handlers']

const caller = (changes: Partial<Caller> = {}): Caller => ({
  connId: 'c1',
  principal: 'token:shared',
  role: 'operator',
  scopes: new Set<Scope>(['operator.admin']),
  protocol: 4,
  client: { id: 'cli', version: '1', platform: 'linux', mode: 'cli' },
  gone: () => new AbortController().signal,
  addressed() {},
  ...changes,
})

/** A dispatch whose methods all do the same; resolves to the answers once nothing is left to do. */
const open = (handler: () => unknown, log = quiet, note: Audit['note'] = () => {}) => {
  const table = Object.fromEntries(Object.keys(METHODS).map((name) => [name, handler])) as unknown as Handlers
  const dispatch = createDispatch({ handlers: table, log, audit: { note } })
  const ask = async (method: string, params?: unknown, who = caller()) => {
    const answers: Frame[] = []
    dispatch.dispatch({ type: 'req', id: '1', method, params }, who, (text) => void answers.push(JSON.parse(text)))
    await settled()
    return answers
  }
  return { dispatch, ask }
}

describe('a request', () => {
  it('reaches its method only with the scope it needs, whatever else the caller holds', async () => {
    for (const [name, { scope }] of Object.entries<MethodBlock>(METHODS))
      for (let bits = 0; scope && bits < 2 ** OPERATOR_SCOPES.length; bits++) {
        const scopes = new Set(OPERATOR_SCOPES.filter((_, index) => bits & (1 << index)))
        const handler = vi.fn(() => ({}))
        const { dispatch } = open(handler)
        const answers: Frame[] = []
        const request = { type: 'req' as const, id: '1', method: name, params: {} }
        dispatch.dispatch(request, caller({ scopes, protocol: 3 }), (text) => void answers.push(JSON.parse(text)))
        await Promise.resolve()
        const may =
          scopes.has(scope) ||
          scopes.has('operator.admin') ||
          (scope === 'operator.read' && scopes.has('operator.write'))
        const refused = answers[0]?.['error']?.message === `missing scope: ${scope}`
        expect([name, [...scopes], refused]).toEqual([name, [...scopes], !may])
        if (!may) expect(handler).not.toHaveBeenCalled()
      }
  })

  it('for what is not there looks, without admin, like one for what may not be known', async () => {
    const { ask } = open(() => ({}))
    const reader = caller({ scopes: new Set<Scope>(['operator.read']), protocol: 3 })
    expect((await ask('nothing', {}, reader))[0]).toMatchObject({
      ok: false,
      error: { code: 'INVALID_REQUEST', message: 'missing scope: operator.admin' },
    })
    expect((await ask('nothing'))[0]?.['error'].message).toBe('unknown method: nothing')
  })

  it('reaches its method in the role that it is for only', async () => {
    for (const [name, { role: wanted = 'operator' }] of Object.entries<MethodBlock>(METHODS))
      for (const role of ['operator', 'node'] as const) {
        const handler = vi.fn(() => ({}))
        const { ask } = open(handler)
        const message = (await ask(name, {}, caller({ role })))[0]?.['error']?.message
        expect([name, role, message === `unauthorized role: ${role}`]).toEqual([name, role, role !== wanted])
        if (role !== wanted) expect(handler).not.toHaveBeenCalled()
      }
  })

  it('with members that it does not know is refused by name, where it has an effect', async () => {
    const { ask } = open(() => ({}))
    const params = { sessionKey: 'main', message: 'x', idempotencyKey: 'k', expectedSessionId: 's' }
    expect((await ask('chat.send', params))[0]?.['error'].message).toBe(
      "invalid chat.send params: at root: unexpected property 'expectedSessionId'",
    )
    expect((await ask('chat.history', { sessionKey: 'main', more: 1 }))[0]).toMatchObject({ ok: true })
    const poisoned = JSON.parse(
      '{"sessionKey":"main","message":"x","idempotencyKey":"k","__proto__":{"a":1}}',
    ) as object
    expect((await ask('chat.send', poisoned))[0]).toMatchObject({ ok: false })
  })
})

describe('an answer', () => {
  it('is on its way before what follows it', async () => {
    const steps: string[] = []
    const { dispatch } = open(() => after({ ok: true }, () => void steps.push('next')))
    dispatch.dispatch({ type: 'req', id: '1', method: 'health' }, caller(), () => void steps.push('answer'))
    await settled()
    expect(steps).toEqual(['answer', 'next'])
  })

  it('may come twice under one id, and the second is waited for', async () => {
    const later = Promise.withResolvers<object>()
    const { dispatch, ask } = open(() => twice({ status: 'accepted' }, later.promise))
    const answers = await ask('health')
    const answered = vi.fn()
    void dispatch.answered().then(answered)
    await settled()
    expect([answers.length, answered.mock.calls.length]).toEqual([1, 0])
    later.resolve(new Failure(new GatewayError('RUN_FAILED', 'why'), { status: 'error' }))
    await settled()
    expect(answers[1]).toMatchObject({ id: '1', ok: false, payload: { status: 'error' }, error: { message: 'why' } })
    expect(answered).toHaveBeenCalledOnce()
    await dispatch.answered()
  })

  it('to a failure nobody listed is an incident that stands in the log, and nothing of the failure', async () => {
    const error = vi.fn()
    const { ask } = open(
      () => {
        throw new TypeError('secret details')
      },
      { ...quiet, error },
    )
    const [answer] = await ask('health')
    expect(JSON.stringify(answer)).not.toContain('secret details')
    const { incident } = answer!['error'].details
    expect(error.mock.calls[0]![0]).toMatchObject({ incident })
  })

  it('to a store that refuses says that nothing was kept, and when to come back', async () => {
    for (const [code, kind] of [
      ['FULL', 'STORAGE_FULL'],
      ['BROKEN', 'STORAGE_FAILED'],
    ] as const) {
      const { ask } = open(() => Promise.reject(new StoreError(code, 'disk words')))
      expect((await ask('health'))[0]).toMatchObject({
        ok: false,
        error: { code: 'UNAVAILABLE', retryable: true, retryAfterMs: expect.any(Number), details: { code: kind } },
      })
    }
  })
})

describe('the audit of calls', () => {
  type Noted = Parameters<Audit['note']>[0]
  const noting = (handler: () => unknown) => {
    const noted: Noted[] = []
    return { ...open(handler, quiet, (entry) => void noted.push(entry)), noted }
  }

  it('has a row of those that change the gateway or decide for others, and of no others', async () => {
    const { ask, noted } = noting(() => {
      throw new GatewayError('INVALID_PARAMS', 'not now')
    })
    for (const name of Object.keys(METHODS)) await ask(name)
    expect(noted.map(({ what }) => what).sort()).toEqual(
      [
        ...['agents.files.set', 'chat.inject', 'config.apply', 'config.patch', 'config.set'],
        ...['cron.add', 'cron.remove', 'cron.run', 'cron.update', 'set-heartbeats'],
        ...['device.pair.approve', 'device.pair.reject', 'device.pair.remove'],
        ...['device.token.revoke', 'device.token.rotate'],
        ...['exec.approval.request', 'exec.approval.resolve', 'exec.approvals.set', 'exec.approvals.node.set'],
        ...['node.invoke', 'node.rename'],
        ...['node.pair.approve', 'node.pair.reject', 'node.pair.remove', 'node.pair.request'],
        ...['sessions.compact', 'sessions.delete', 'sessions.patch', 'sessions.reset', 'system-event'],
        ...['tokens.create', 'tokens.revoke', 'tools.call'],
      ].sort(),
    )
  })

  it('names what a call was about, and what it made, and no secret', async () => {
    const { ask, noted } = noting(() => ({ id: 'made', name: 'a bridge', scopes: [], token: 'kur_named_secret' }))
    await ask('tokens.create', { name: 'a bridge', scopes: [] })
    await ask('tokens.revoke', { id: 'given' })
    expect(noted).toMatchObject([
      { what: 'tokens.create', ok: true, about: { id: 'made', name: 'a bridge' } },
      { what: 'tokens.revoke', ok: true, about: { id: 'given' } },
    ])
    expect(JSON.stringify(noted)).not.toContain('secret')
  })

  it('has a row of what is refused for its parameters or by the method, and none for want of a scope', async () => {
    const { ask, noted } = noting(() => {
      throw new GatewayError('UNKNOWN_TOKEN', 'unknown token id')
    })
    await ask('tokens.revoke', { id: 'given' })
    await ask('tokens.revoke', {})
    await ask('tokens.revoke', { id: 'given' }, caller({ scopes: new Set<Scope>(['operator.pairing']) }))
    expect(noted.map(({ ok, code }) => [ok, code])).toEqual([
      [false, 'UNKNOWN_TOKEN'],
      [false, 'INVALID_PARAMS'],
    ])
  })
})

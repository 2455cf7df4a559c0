/** Approvals over real sockets: who hears and may do what. */
import { describe, expect, it } from 'vitest'
import { openMemoryStore } from '../../src/stores/memory.ts'
import { StoreError } from '../../src/stores/store.ts'
import { CONNECT, endOf, type Frame, type Peer, startGateway } from '../support/gateway.ts'
import { storeWith } from '../support/rooms.ts'

const scoped = (...scopes: string[]) => ({ ...CONNECT, scopes })
const isApproval = ({ event }: Frame): boolean => String(event).startsWith('exec.approval.')
const requested = ({ event }: Frame): boolean => event === 'exec.approval.requested'
const resolved = ({ event }: Frame): boolean => event === 'exec.approval.resolved'

/** A request that stays open. Its answer is the next frame of that id. */
const ask = (peer: Peer, params: object = {}, id = 'ask') =>
  peer.request('exec.approval.request', { command: 'echo hi', ...params }, id)
const decide = (peer: Peer, id: string, decision: string) => peer.request('exec.approval.resolve', { id, decision })

describe('a request for approval', () => {
  it('is shown to those who may decide, and to nobody else', async () => {
    await using gateway = await startGateway()
    const requester = await gateway.connect(scoped('operator.approvals'))
    const admin = await gateway.connect(scoped('operator.admin'))
    const approver = await gateway.connect(scoped('operator.approvals'))
    const other = await gateway.connect(scoped('operator.read', 'operator.write', 'operator.pairing'))
    const answer = ask(requester, { sessionKey: 'main', agentId: 'main' })
    const { payload } = await approver.next(requested)
    expect(payload.request).toMatchObject({ command: 'echo hi', sessionKey: 'main', agentId: 'main' })
    expect(payload.requestedBy).toBe('token:shared')
    expect((await approver.request('exec.approval.list')).payload).toEqual([payload])
    for (const refused of [
      await other.request('exec.approval.list'),
      await decide(other, payload.id, 'allow-once'),
      await ask(other),
    ])
      expect(refused.error.message).toBe('missing scope: operator.approvals')
    await decide(approver, payload.id, 'deny')
    expect((await answer).payload.decision).toBe('deny')
    expect(await admin.next(resolved)).toMatchObject({ payload: { id: payload.id, decision: 'deny' } })
    // What comes behind it has come: so would it have.
    await other.request('health')
    expect(other.frames.filter(isApproval)).toEqual([])
  })

  it('does not come to those who read its session, also not afterwards', async () => {
    await using gateway = await startGateway()
    const reader = await gateway.connect({ ...scoped('operator.read', 'operator.write'), caps: ['stream-offsets'] })
    await reader.request('chat.send', { sessionKey: 'main', message: 'hi', idempotencyKey: 'k1' })
    const { epoch } = (await reader.next(endOf('k1')))['payload']
    const requester = await gateway.connect()
    const answer = ask(requester, { sessionKey: 'main' })
    const approver = await gateway.connect()
    const [{ id }] = (await approver.request('exec.approval.list')).payload
    await decide(approver, id, 'deny')
    await answer
    const { payload } = await reader.request('chat.resume', { sessionKey: 'main', epoch, offset: 0 })
    expect(payload.recovered).toBe(true)
    expect(JSON.stringify(payload.events)).toContain('You said: hi')
    expect(JSON.stringify(reader.frames)).not.toContain('echo hi')
  })

  it('holds up nothing else of its connection', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    const approver = await gateway.connect()
    const answers = [ask(peer, {}, 'a'), ask(peer, {}, 'b')]
    expect((await peer.request('health')).ok).toBe(true)
    expect(peer.frames.some(({ id }) => id === 'a' || id === 'b')).toBe(false)
    for (const { id } of (await approver.request('exec.approval.list')).payload)
      await decide(approver, id, 'allow-once')
    expect((await Promise.all(answers)).map(({ payload }) => payload.decision)).toEqual(['allow-once', 'allow-once'])
  })

  it('is over when its connection is', async () => {
    await using gateway = await startGateway()
    const requester = await gateway.connect(scoped('operator.approvals'))
    const approver = await gateway.connect(scoped('operator.approvals'))
    ask(requester).catch(() => {})
    const { payload } = await approver.next(requested)
    requester.socket.terminate()
    expect(await approver.next(resolved)).toMatchObject({
      payload: { id: payload.id, decision: null, resolvedBy: null },
    })
    expect((await decide(approver, payload.id, 'allow-once')).error).toMatchObject({
      code: 'INVALID_REQUEST',
      message: 'unknown approval id',
      details: { code: 'UNKNOWN_APPROVAL' },
    })
  })

  it('is not decided by who asked', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect(scoped('operator.approvals'))
    ask(peer).catch(() => {})
    const { payload } = await peer.next(requested)
    expect((await decide(peer, payload.id, 'allow-once')).error.details.code).toBe('OWN_APPROVAL')
  })

  it('may be decided by another connection of the shared token, behind which may be anybody', async () => {
    await using gateway = await startGateway()
    const [peer, other] = [await gateway.connect(scoped('operator.approvals')), await gateway.connect()]
    const answer = ask(peer)
    const { payload } = await peer.next(requested)
    await decide(other, payload.id, 'allow-once')
    expect((await answer).payload.decision).toBe('allow-once')
  })

  it('is for an agent that is known, in a session of its own', async () => {
    await using gateway = await startGateway({ config: { agents: { list: [{ id: 'main' }, { id: 'writer' }] } } })
    const peer = await gateway.connect()
    expect((await ask(peer, { agentId: 'nobody' })).error.details.code).toBe('UNKNOWN_AGENT')
    expect((await ask(peer, { agentId: 'writer', sessionKey: 'agent:main:main' })).error).toMatchObject({
      code: 'INVALID_REQUEST',
      message: 'invalid exec.approval.request params: agent "writer" does not match session key agent "main"',
    })
    expect((await ask(peer, { nodeId: 'n' })).error.message).toContain("unexpected property 'nodeId'")
  })

  it('is asked once, if it is allowed for good, however the agent and the session are spelled', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    const approver = await gateway.connect()
    const first = ask(peer, { agentId: 'main', sessionKey: 'agent:main:main' })
    const { payload } = await approver.next(requested)
    await decide(approver, payload.id, 'allow-always')
    await first
    for (const spelling of [
      { sessionKey: 'main' },
      { agentId: 'MAIN', sessionKey: 'MAIN' },
      { sessionKey: 'agent:main' },
    ])
      expect((await ask(peer, spelling)).payload.decision).toBe('allow-always')
    const { payload: kept } = await peer.request('exec.approvals.get')
    expect(kept).toMatchObject({
      exists: true,
      file: { agents: { main: { allowlist: [{ pattern: expect.stringMatching(/@agent:main:main$/) }] } } },
    })
    await peer.request('exec.approvals.set', { file: { version: 1 }, baseHash: kept.hash })
    ask(peer, { sessionKey: 'main' }).catch(() => {})
    await approver.next(requested)
  })

  it('waits on when the disk refuses what was decided', async () => {
    const kept = openMemoryStore()
    let isFull = true
    const put: typeof kept.put = (kind, id, value) =>
      isFull && kind === 'exec-approvals'
        ? Promise.reject(new StoreError('FULL', 'no space'))
        : kept.put(kind, id, value)
    await using gateway = await startGateway({ store: storeWith(kept, { put }) })
    const peer = await gateway.connect()
    const approver = await gateway.connect()
    const answer = ask(peer)
    const { payload } = await approver.next(requested)
    expect((await decide(approver, payload.id, 'allow-always')).error).toMatchObject({
      retryable: true,
      details: { code: 'STORAGE_FULL' },
    })
    isFull = false
    expect((await decide(approver, payload.id, 'allow-always')).ok).toBe(true)
    expect((await answer).payload.decision).toBe('allow-always')
  })
})

it('the id of an approval is free again by the clock that nobody sets', async () => {
  let ms = 0
  await using gateway = await startGateway({ monotonic: () => performance.now() + ms })
  const peer = await gateway.connect()
  const again = (id: string) => ask(peer, { id: 'mine', timeoutMs: 1 }, id)
  expect((await again('a'))['payload']).toMatchObject({ id: 'mine', decision: null })
  expect((await again('b'))['error'].details.code).toBe('APPROVAL_ID_USED')
  ms += 300_000
  expect((await again('c'))['payload']).toMatchObject({ id: 'mine', decision: null })
})

describe('exec.approvals', () => {
  it('are set by somebody who has read them, and keep no secret', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    const { hash } = (await peer.request('exec.approvals.get')).payload
    const file = {
      version: 1,
      socket: { path: '/run/approvals', token: 'canary-token' },
      defaults: { security: 'allowlist' },
      agents: { main: { ask: 'on-miss', allowlist: [{ pattern: '/usr/bin/git', newer: 1 }], newer: { member: true } } },
    }
    const set = await peer.request('exec.approvals.set', { file, baseHash: hash })
    expect(set.payload).toMatchObject({ exists: true, file: { ...file, socket: { path: '/run/approvals' } } })
    expect(JSON.stringify(await gateway.store.list('exec-approvals'))).not.toContain('canary')
    expect((await peer.request('exec.approvals.get')).payload).toEqual(set.payload)
    expect((await peer.request('exec.approvals.set', { file, baseHash: hash })).error).toMatchObject({
      code: 'INVALID_REQUEST',
      message: 'exec approvals changed since last load; re-run exec.approvals.get and retry',
    })
    expect((await peer.request('exec.approvals.set', { file })).error.details.code).toBe('APPROVALS_CHANGED')
  })

  it('are half-understood by nobody', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    for (const file of [
      { version: 2 },
      { version: 1, allowAll: true },
      { version: 1, defaults: { secrity: 'deny' } },
      {},
    ])
      expect((await peer.request('exec.approvals.set', { file })).error.details.code).toBe('INVALID_PARAMS')
    expect((await peer.request('exec.approvals.get')).payload.exists).toBe(false)
  })

  it('are for those who may do everything', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect(scoped('operator.approvals'))
    for (const method of ['exec.approvals.get', 'exec.approvals.set'])
      expect((await peer.request(method, {})).error.message).toBe('missing scope: operator.admin')
  })
})

import { describe, expect, it } from 'vitest'
import { SimulatedClock } from 'xstate'
import { type Approver, createApprovals, type NewApproval } from '../../src/broker/approvals.ts'
import { openApprovalsDocument } from '../../src/broker/approvals-document.ts'
import type { Decision, Shown } from '../../src/contract/approvals.ts'
import type { Scope } from '../../src/contract/block.ts'
import { GENERIC_CLIENT } from '../../src/contract/connect.ts'
import { openMemoryStore } from '../../src/stores/memory.ts'
import { type Store, StoreError } from '../../src/stores/store.ts'
import { quiet, settled, storeWith } from '../support/rooms.ts'

const SESSION = 'agent:main:main'
const SHOWN: Shown = {
  command: 'echo hi',
  cwd: '/tmp',
  host: 'gateway',
  security: 'allowlist',
  ask: 'on-miss',
  agentId: 'main',
  resolvedPath: null,
  sessionKey: SESSION,
}

const asking = ({
  request,
  ...changes
}: Partial<Omit<NewApproval, 'request'>> & { request?: Partial<Shown> } = {}) => ({
  id: undefined,
  agentId: 'main',
  sessionKey: SESSION,
  timeoutMs: undefined,
  ...changes,
  request: { ...SHOWN, ...request },
})

let connections = 0

/** Somebody with a connection of its own, who may approve. */
function somebody(principal = 'token:shared', scopes: Scope[] = ['operator.approvals']) {
  const left = new AbortController()
  return {
    connId: `c${++connections}`,
    principal,
    scopes: new Set(scopes),
    client: GENERIC_CLIENT,
    gone: () => left.signal,
    leave: () => left.abort(),
  }
}

interface Told {
  event: 'requested' | 'resolved'
  id: string
  decision?: Decision | null
  resolvedBy?: string | null
  reason?: string
}

async function open({
  store = openMemoryStore(),
  onRequested = () => {},
  onResolved = () => {},
}: {
  store?: Store
  onRequested?(): void
  onResolved?(): void
} = {}) {
  const clock = new SimulatedClock()
  const told: Told[] = []
  const document = await openApprovalsDocument(store)
  const approvals = createApprovals({
    document,
    announceRequested(shown) {
      onRequested()
      told.push({ event: 'requested', ...shown })
    },
    announceResolved(end) {
      onResolved()
      told.push({ event: 'resolved', ...end })
    },
    log: quiet,
    now: () => 1_000_000 + clock.now(),
    monotonic: () => clock.now(),
    clock,
  })
  return {
    approvals,
    document,
    clock,
    told,
    ended: () => told.filter(({ event }) => event === 'resolved').map(({ decision }) => decision),
    /** The id of the request that was announced last. */
    newest: () => told.findLast(({ event }) => event === 'requested')!.id,
  }
}

/** The name of the failure, or `done`. */
const outcome = (attempt: Promise<unknown>): Promise<string> =>
  attempt.then(
    () => 'done',
    (error: { kind?: string; code?: string }) => error.kind ?? error.code ?? String(error),
  )
/** The name of what is thrown at once. */
function refusal(attempt: () => unknown): string | undefined {
  try {
    attempt()
    return undefined
  } catch (error) {
    return (error as { kind?: string }).kind
  }
}

describe('a request for approval', () => {
  it('is shown whole, and answered with what somebody decided', async () => {
    const { approvals, told, newest } = await open()
    const requester = somebody()
    const answer = approvals.request(asking(), requester)
    expect(told).toEqual([
      {
        event: 'requested',
        id: newest(),
        request: SHOWN,
        requestedBy: requester.principal,
        createdAtMs: 1_000_000,
        expiresAtMs: 1_120_000,
      },
    ])
    await approvals.resolve(newest(), 'allow-once', somebody())
    expect(await answer).toEqual({
      id: newest(),
      decision: 'allow-once',
      createdAtMs: 1_000_000,
      expiresAtMs: 1_120_000,
    })
    expect(told[1]).toMatchObject({ event: 'resolved', decision: 'allow-once', resolvedBy: 'gateway-client' })
    expect(approvals.size).toBe(0)
  })

  it('is answered with nothing when nobody decides in time, and cannot be decided after that', async () => {
    const { approvals, clock, ended, newest } = await open()
    const answer = approvals.request(asking({ timeoutMs: 600 }), somebody())
    clock.increment(600)
    expect(await answer).toMatchObject({ decision: null, expiresAtMs: 1_000_600 })
    expect(await outcome(approvals.resolve(newest(), 'allow-once', somebody()))).toBe('UNKNOWN_APPROVAL')
    expect(ended()).toEqual([])
  })

  it('waits for five minutes at the most, whatever it asks for', async () => {
    const { approvals, clock, newest } = await open()
    const answer = approvals.request(asking({ timeoutMs: 86_400_000 }), somebody())
    clock.increment(299_999)
    expect(approvals.list(somebody()).map(({ id }) => id)).toEqual([newest()])
    clock.increment(1)
    expect(await answer).toMatchObject({ decision: null, expiresAtMs: 1_300_000 })
  })

  it('ends when who asked has gone, and is not listened to any more', async () => {
    const { approvals, ended, newest } = await open()
    const requester = somebody()
    const answer = approvals.request(asking(), requester)
    requester.leave()
    expect(approvals.list(somebody())).toEqual([])
    expect(await answer).toMatchObject({ decision: null })
    expect(ended()).toEqual([null])
    expect(await outcome(approvals.resolve(newest(), 'allow-always', somebody()))).toBe('UNKNOWN_APPROVAL')
  })

  it('ends at once when who asked had gone before it was asked', async () => {
    const { approvals } = await open()
    const requester = somebody()
    requester.leave()
    expect(await approvals.request(asking(), requester)).toMatchObject({ decision: null })
    expect(approvals.size).toBe(0)
  })

  it('leaves nothing behind on a connection that stays', async () => {
    const { approvals, newest } = await open()
    const requester = somebody()
    const listeners = new Set<unknown>()
    const signal = requester.gone()
    const counted = Object.assign(signal, {
      addEventListener: (_: string, listener: unknown) => void listeners.add(listener),
      removeEventListener: (_: string, listener: unknown) => void listeners.delete(listener),
    })
    const answer = approvals.request(asking(), { ...requester, gone: () => counted })
    expect(listeners.size).toBe(1)
    await approvals.resolve(newest(), 'deny', somebody())
    await answer
    expect(listeners.size).toBe(0)
  })

  it('that crashes is denied, to all who were asked and to who asked, and its neighbours live', async () => {
    let isBroken = false
    const { approvals, newest, told } = await open({
      onRequested() {
        if (isBroken) throw new Error('the announcement failed')
      },
    })
    const requester = somebody()
    const neighbour = approvals.request(asking(), requester)
    isBroken = true
    const reason = 'internal error: the request crashed'
    const crashed = await approvals.request(asking(), requester)
    expect(crashed).toMatchObject({ decision: 'deny', reason })
    expect(told.at(-1)).toEqual({
      ...{ event: 'resolved', id: crashed.id, decision: 'deny', resolvedBy: null, reason, ts: 1_000_000 },
    })
    expect(approvals.list(somebody())).toHaveLength(1)
    await approvals.resolve(newest(), 'allow-once', somebody())
    expect(await neighbour).toMatchObject({ decision: 'allow-once' })
  })
})

describe('a request that crashes while it is being decided', () => {
  it('is denied, whatever was decided, and who decided is told that it failed', async () => {
    let times = 0
    const { approvals, newest, told } = await open({
      onResolved() {
        times += 1
        if (times === 1) throw new Error('the announcement failed')
      },
    })
    const answer = approvals.request(asking(), somebody())
    const id = newest()
    await expect(approvals.resolve(id, 'allow-once', somebody())).rejects.toThrow('the announcement failed')
    expect(await answer).toMatchObject({ decision: 'deny', reason: expect.stringContaining('crashed') })
    expect(told.at(-1)).toMatchObject({ event: 'resolved', id, decision: 'deny', resolvedBy: null })
    expect(await outcome(approvals.resolve(id, 'allow-once', somebody()))).toBe('UNKNOWN_APPROVAL')
  })

  it('is answered, though nobody else can be told', async () => {
    const { approvals, newest } = await open({
      onResolved() {
        throw new Error('the announcement failed')
      },
    })
    const answer = approvals.request(asking(), somebody())
    await expect(approvals.resolve(newest(), 'deny', somebody())).rejects.toThrow('the announcement failed')
    expect(await answer).toMatchObject({ decision: 'deny' })
    expect(approvals.size).toBe(0)
  })
})

describe('the id of a request', () => {
  it('is taken as it was given', async () => {
    const { approvals, newest } = await open()
    void approvals.request(asking({ id: 'my-id' }), somebody())
    expect(newest()).toBe('my-id')
  })

  it('is not given a second time while it waits, nor while a late decision may still be on its way', async () => {
    const { approvals, clock } = await open()
    const ask = () => approvals.request(asking({ id: 'my-id' }), somebody())
    const first = ask()
    expect(ask).toThrow('approval id already pending')
    await approvals.resolve('my-id', 'deny', somebody())
    await first
    clock.increment(299_999)
    expect(ask).toThrow('approval id already used')
    clock.increment(1)
    expect(refusal(ask)).toBeUndefined()
  })

  it('can be whatever an object has by nature', async () => {
    const { approvals } = await open()
    for (const id of ['constructor', '__proto__', 'toString']) {
      expect(await outcome(approvals.resolve(id, 'allow-once', somebody()))).toBe('UNKNOWN_APPROVAL')
      const answer = approvals.request(asking({ id }), somebody())
      await approvals.resolve(id, 'deny', somebody())
      expect(await answer).toMatchObject({ id, decision: 'deny' })
    }
  })
})

describe('who decides', () => {
  it.each<[string, () => [ReturnType<typeof somebody>, Approver], string]>([
    [
      'not the connection that asked',
      () => {
        const requester = somebody()
        return [requester, requester]
      },
      'OWN_APPROVAL',
    ],
    ['not another connection of the same device', () => [somebody('device-1'), somebody('device-1')], 'OWN_APPROVAL'],
    ['another connection with the shared token', () => [somebody(), somebody()], 'done'],
    ['another device', () => [somebody('device-1'), somebody('device-2')], 'done'],
    [
      'who asked, if it may do everything anyway',
      () => {
        const requester = somebody('device-1', ['operator.admin'])
        return [requester, requester]
      },
      'done',
    ],
  ])('%s', async (_, people, expected) => {
    const { approvals, newest } = await open()
    const [requester, approver] = people()
    void approvals.request(asking(), requester)
    expect(await outcome(approvals.resolve(newest(), 'allow-always', approver))).toBe(expected)
    expect(approvals.size).toBe(expected === 'done' ? 0 : 1)
  })
})

describe('what is allowed for good', () => {
  const allow = async (room: Awaited<ReturnType<typeof open>>, changes: Parameters<typeof asking>[0] = {}) => {
    const answer = room.approvals.request(asking(changes), somebody())
    await room.approvals.resolve(room.newest(), 'allow-always', somebody())
    return answer
  }

  it('is not asked about again, also after a restart', async () => {
    const store = openMemoryStore()
    expect(await allow(await open({ store }))).toMatchObject({ decision: 'allow-always' })
    const { approvals, told } = await open({ store })
    expect(await approvals.request(asking(), somebody('device-1'))).toMatchObject({ decision: 'allow-always' })
    expect(told).toEqual([])
  })

  it.each<[string, Parameters<typeof asking>[0]]>([
    ['another command', { request: { command: 'echo hi ' } }],
    ['another folder', { request: { cwd: '/' } }],
    ['another host', { request: { host: 'node' } }],
    ['another program', { request: { resolvedPath: '/tmp/echo' } }],
    ['another agent', { agentId: 'writer', sessionKey: 'agent:writer:main' }],
    ['another session', { sessionKey: 'agent:main:other' }],
    ['no session', { sessionKey: undefined }],
    ['one who wants to be asked always', { request: { ask: 'always' } }],
  ])('says nothing about %s', async (_, changes) => {
    const room = await open()
    await allow(room)
    void room.approvals.request(asking(changes), somebody())
    expect(room.approvals.size).toBe(1)
  })

  it('stands in the document with its command, and is gone when it is taken out', async () => {
    const room = await open()
    await allow(room)
    const { file, hash } = room.document.current()
    expect(file.agents?.['main']?.allowlist).toEqual([
      expect.objectContaining({
        pattern: expect.stringMatching(new RegExp(`^sha256:[0-9a-f]{64}@${SESSION}$`)),
        lastUsedCommand: 'echo hi',
      }),
    ])
    await room.document.replace({ version: 1, agents: {} }, hash)
    void room.approvals.request(asking(), somebody())
    expect(room.approvals.size).toBe(1)
  })

  it('is written down once, however often it is allowed', async () => {
    const room = await open()
    const answers = [1, 2, 3].map(() => room.approvals.request(asking(), somebody()))
    await Promise.all(
      room.approvals.list(somebody()).map(({ id }) => room.approvals.resolve(id, 'allow-always', somebody())),
    )
    await Promise.all(answers)
    expect(room.document.current().file.agents?.['main']?.allowlist).toHaveLength(1)
  })

  it('is told to nobody before it is on the disk, and is nothing when the disk refuses', async () => {
    const kept = openMemoryStore()
    const disk = Promise.withResolvers<void>()
    const put = () => disk.promise
    const { approvals, ended, newest, document } = await open({ store: storeWith(kept, { put }) })
    let answered = false
    void approvals.request(asking(), somebody()).then(() => {
      answered = true
    })
    const decided = outcome(approvals.resolve(newest(), 'allow-always', somebody()))
    await settled()
    expect([answered, ended()]).toEqual([false, []])
    expect(await outcome(approvals.resolve(newest(), 'deny', somebody()))).toBe('UNKNOWN_APPROVAL')
    disk.reject(new StoreError('FULL', 'no space'))
    expect(await decided).toBe('FULL')
    expect(document.current().exists).toBe(false)
    await approvals.resolve(newest(), 'allow-once', somebody())
    await settled()
    expect([answered, ended()]).toEqual([true, ['allow-once']])
  })

  it('does not grow beyond what a document may have: then it waits on', async () => {
    const { approvals, document, newest } = await open()
    await document.replace(
      {
        version: 1,
        agents: { main: { allowlist: [{ pattern: '*', lastResolvedPath: 'x'.repeat(256 * 1024 - 200) }] } },
      },
      undefined,
    )
    void approvals.request(asking(), somebody())
    expect(await outcome(approvals.resolve(newest(), 'allow-always', somebody()))).toBe('APPROVALS_TOO_LARGE')
    expect(await outcome(approvals.resolve(newest(), 'allow-once', somebody()))).toBe('done')
  })
})

describe('the document', () => {
  it('is replaced only by somebody who has read it as it is', async () => {
    const { document } = await open()
    const { exists, hash } = document.current()
    expect(exists).toBe(false)
    expect(await outcome(document.replace({ version: 1 }, 'another'))).toBe('APPROVALS_CHANGED')
    const kept = await document.replace({ version: 1, defaults: { ask: 'always' } }, hash)
    expect(await outcome(document.replace({ version: 1 }, undefined))).toBe('APPROVALS_CHANGED')
    expect(await outcome(document.replace({ version: 1 }, hash))).toBe('APPROVALS_CHANGED')
    expect(document.current()).toEqual({
      exists: true,
      hash: kept.hash,
      file: { version: 1, defaults: { ask: 'always' } },
    })
  })

  it('takes one of a thousand changes that were made to the same', async () => {
    const { document } = await open()
    const { hash } = document.current()
    const changes = Array.from({ length: 1000 }, (_, n) =>
      outcome(document.replace({ version: 1, defaults: { security: `s${n}` } }, hash)),
    )
    expect((await Promise.all(changes)).filter((result) => result === 'done')).toHaveLength(1)
  })

  it('has the same hash after a restart', async () => {
    const store = openMemoryStore()
    const file = JSON.parse('{"version":1,"agents":{"7":{},"__proto__":{"ask":"off"},"a":{}}}')
    const { hash } = await (await openApprovalsDocument(store)).replace(file, undefined)
    expect((await openApprovalsDocument(store)).current().hash).toBe(hash)
  })

  it('reads the session of a digest beside it or in the pattern, and shows it in the pattern', async () => {
    const store = openMemoryStore()
    const commandHash = 'a'.repeat(64)
    const allowlist = [{ pattern: `sha256:${commandHash}`, sessionKey: SESSION }, { pattern: '/bin/*' }]
    await store.put('exec-approvals', 'file', { version: 1, agents: { main: { ask: 'off', allowlist } } })
    const document = await openApprovalsDocument(store)
    const shown = document.current().file
    const pattern = `sha256:${commandHash}@${SESSION}`
    expect(shown.agents).toEqual({ main: { ask: 'off', allowlist: [{ pattern }, { pattern: '/bin/*' }] } })
    const allows = (document: { allows(what: object): boolean }) =>
      [SESSION, 'agent:main:other', undefined].map((sessionKey) =>
        document.allows({ agentId: 'main', sessionKey, commandHash }),
      )
    expect(allows(document)).toEqual([true, false, false])
    const replaced = await document.replace({ version: 1, agents: { main: { allowlist } } }, document.current().hash)
    expect(replaced.file.agents?.['main']?.allowlist?.[0]).toEqual({ pattern })
    expect(allows(await openApprovalsDocument(store))).toEqual([true, false, false])
  })

  it('does not lose a change to one that comes while it is being written', async () => {
    const store = openMemoryStore()
    const document = await openApprovalsDocument(store)
    const what = (agentId: string) => ({ agentId, sessionKey: undefined, commandHash: agentId })
    await Promise.all(['a', 'b', '__proto__'].map((agentId) => document.allow(what(agentId), 'true', 1)))
    const again = await openApprovalsDocument(store)
    for (const agentId of ['a', 'b', '__proto__']) expect(again.allows(what(agentId))).toBe(true)
    expect(again.allows(what('constructor'))).toBe(false)
  })
})

describe('a principal', () => {
  it('has 64 requests waiting at the most, and others do not feel it', async () => {
    const { approvals, newest } = await open()
    const ask = (principal: string) => () => approvals.request(asking(), somebody(principal))
    for (let n = 0; n < 64; n++) void ask('device-1')()
    expect(refusal(ask('device-1'))).toBe('TOO_MANY_APPROVALS')
    expect(approvals.size).toBe(64)
    expect(refusal(ask('device-2'))).toBeUndefined()
    await approvals.resolve(approvals.list(somebody())[0]!.id, 'deny', somebody())
    expect(refusal(ask('device-1'))).toBeUndefined()
    expect(newest()).toBe(approvals.list(somebody()).at(-1)!.id)
  })

  it('fills no memory with ids of its own', async () => {
    const { approvals, clock } = await open()
    const burn = (id: string) => {
      const requester = somebody('device-1')
      const answer = approvals.request(asking({ id }), requester)
      requester.leave()
      return answer
    }
    for (let n = 0; n < 1000; n++) await burn(`id-${n}`)
    expect(refusal(() => burn('one more'))).toBe('TOO_MANY_APPROVALS')
    // Ids that are made here are never met again, and cost nothing.
    expect(refusal(() => approvals.request(asking(), somebody('device-1')))).toBeUndefined()
    clock.increment(300_000)
    expect(refusal(() => burn('one more'))).toBeUndefined()
  })
})

describe('10,000 requests, each decided by several at once and again afterwards', () => {
  /** Numbers that look random and are the same each time. */
  function* dice(seed: number): Generator<number, never> {
    for (let state = seed; ; ) {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
      yield state
    }
  }

  const turns = async (count: number) => {
    for (let turn = 0; turn < count; turn++) await null
  }

  it('are consumed once each', { timeout: 60_000 }, async () => {
    const { approvals, clock, told, newest } = await open()
    const numbers = dice(1206)
    const roll = (sides: number) => (numbers.next().value >>> 8) % sides
    const count = 10_000
    const ends = { decided: 0, undecided: 0 }
    /** What must not be, each with its request. */
    const wrong: string[] = []
    for (let n = 0; n < count; n++) {
      const holds = (sentence: string, isTrue: boolean) => isTrue || wrong.push(`${n}: ${sentence}`)
      const requester = somebody(`device-${roll(50)}`)
      const others = Array.from({ length: 3 }, () => somebody(`approver-${roll(50)}`))
      const chosen = roll(2) === 0 ? { id: `id-${n}` } : {}
      const ask = () => approvals.request(asking({ request: { command: `command ${n}` }, ...chosen }), requester)
      const answer = ask()
      const id = newest()
      const decide = async (approver: Approver, decision: Decision) => {
        await turns(roll(3))
        return { result: await outcome(approvals.resolve(id, decision, approver)), decision }
      }
      const ending = roll(8)
      if (ending === 0) clock.increment(120_000)
      if (ending === 1) requester.leave()
      if (ending === 2) void turns(roll(3)).then(requester.leave)
      if (ending === 3) void turns(roll(3)).then(() => clock.increment(120_000))
      const own = decide(requester, 'allow-once')
      // The document has a bound: few are allowed for good.
      const pick = () => (roll(100) === 0 ? 'allow-always' : roll(2) === 0 ? 'allow-once' : 'deny')
      const attempts = await Promise.all(others.map((approver) => decide(approver, pick())))
      const taken = attempts.filter(({ result }) => result === 'done').map((attempt) => attempt.decision)
      const { decision } = await answer
      holds('who asked did not decide', ['OWN_APPROVAL', 'UNKNOWN_APPROVAL'].includes((await own).result))
      holds('the one decision that was taken is the answer', taken.join() === (decision ?? ''))
      ends[decision === null ? 'undecided' : 'decided'] += 1
      // What was heard on the wire is said again, by anybody.
      for (const approver of [...others, requester]) {
        const again = await outcome(approvals.resolve(id, 'allow-once', approver))
        holds('a decision that is repeated finds nothing', again === 'UNKNOWN_APPROVAL')
      }
      if (chosen.id && decision !== 'allow-always')
        holds('nor does a request of the same id', refusal(ask) === 'APPROVAL_ID_USED')
      told.length = 0
      if (n % 100 === 99) clock.increment(30_000)
    }
    expect(wrong).toEqual([])
    expect(ends.decided + ends.undecided).toBe(count)
    expect(Math.min(ends.decided, ends.undecided)).toBeGreaterThan(1_000)
    expect(approvals.size).toBe(0)
  })
})

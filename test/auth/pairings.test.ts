import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import type { PairingAsk } from '../../src/auth/authenticate.ts'
import { openDevices, type Revocation } from '../../src/auth/devices.ts'
import { type Approver, openPairings, type PairingsNeeds } from '../../src/broker/pairings.ts'
import { OPERATOR_SCOPES, type Scope } from '../../src/contract/block.ts'
import { openMemoryStore } from '../../src/stores/memory.ts'
import { StoreError } from '../../src/stores/store.ts'
import { quiet } from '../support/rooms.ts'

const NOW = 1_800_000_000_000
const SECRET = new Uint8Array(32).fill(1)
const MINUTE = 60_000

beforeEach(() => {
  vi.useFakeTimers({ now: NOW })
})
afterEach(() => {
  vi.useRealTimers()
})

const approver = (principal: string, ...scopes: Scope[]): Approver => ({ principal, scopes: new Set(scopes) })
const ROOT = approver('token:shared', 'operator.admin')

const asks = (deviceId: string, scopes: Scope[], changes: Partial<PairingAsk> = {}): PairingAsk => ({
  deviceId,
  publicKey: `key of ${deviceId}`,
  platform: 'linux',
  clientId: 'gateway-client',
  clientMode: 'backend',
  role: 'operator',
  scopes,
  ...changes,
})

interface Told {
  event: string
  payload: { [member: string]: unknown }
  may(listener: Approver): boolean
}

async function open(needs: Partial<PairingsNeeds> = {}, store = openMemoryStore()) {
  const told: Told[] = []
  const revoked: Revocation[] = []
  const now = () => Date.now()
  const devices = await openDevices(store, SECRET, { now, onRevoked: (revocation) => revoked.push(revocation) })
  const pairings = await openPairings({
    devices,
    store,
    log: quiet,
    now,
    tell: (event, payload, may) => void told.push({ event, payload, may }),
    ...needs,
  })
  return {
    pairings,
    devices,
    store,
    told,
    revoked,
    decisions: () => told.filter(({ event }) => event.endsWith('resolved')).map(({ payload }) => payload['decision']),
    /** A device that is paired, and may do these. */
    async paired(deviceId: string, scopes: Scope[]) {
      const requestId = (await pairings.ask(asks(deviceId, scopes), '10.0.0.1'))!
      await pairings.approveDevice(requestId, ROOT)
      return { device: devices.get(deviceId, 'operator')!, as: approver(deviceId, ...scopes) }
    },
  }
}

describe('a device that waits', () => {
  it('is shown with what it asks for, to whom it may concern', async () => {
    const { pairings, told } = await open()
    const requestId = await pairings.ask(asks('d', ['operator.read']), '203.0.113.7')
    const request = {
      ...{ requestId, deviceId: 'd', publicKey: 'key of d', platform: 'linux', clientId: 'gateway-client' },
      ...{ clientMode: 'backend', remoteIp: '203.0.113.7', role: 'operator', roles: ['operator'] },
      ...{ scopes: ['operator.read'], silent: false, isRepair: false, ts: NOW },
    }
    expect(pairings.devices(ROOT)).toEqual({ pending: [request], paired: [] })
    expect(told).toMatchObject([{ event: 'device.pair.requested', payload: request }])
  })

  it('is one, however often it asks, and its time begins anew each time', async () => {
    const { pairings, told } = await open()
    const first = await pairings.ask(asks('d', ['operator.read', 'operator.write']), '10.0.0.1')
    vi.advanceTimersByTime(4 * MINUTE)
    expect(await pairings.ask(asks('d', ['operator.write', 'operator.read']), '10.0.0.9')).toBe(first)
    vi.advanceTimersByTime(4 * MINUTE)
    expect(pairings.devices(ROOT).pending).toMatchObject([{ requestId: first, ts: NOW + 4 * MINUTE }])
    expect(told).toHaveLength(1)
    vi.advanceTimersByTime(MINUTE)
    expect(pairings.devices(ROOT).pending).toEqual([])
    expect(told.at(-1)).toMatchObject({ event: 'device.pair.resolved', payload: { decision: 'expired' } })
  })

  it('gets another id when it asks for something else, so that nobody approves what was not shown', async () => {
    const { pairings, devices, decisions } = await open()
    const shown = (await pairings.ask(asks('d', ['operator.read']), '10.0.0.1'))!
    const other = (await pairings.ask(asks('d', ['operator.read', 'operator.admin']), '10.0.0.1'))!
    expect(other).not.toBe(shown)
    expect(decisions()).toEqual(['superseded'])
    await expect(pairings.approveDevice(shown, ROOT)).rejects.toMatchObject({ kind: 'UNKNOWN_PAIRING' })
    expect(devices.get('d', 'operator')).toBeUndefined()
    expect(pairings.devices(ROOT).pending.map(({ requestId }) => requestId)).toEqual([other])
  })

  it('makes room for the one that takes its place only when that is on disk', async () => {
    const store = openMemoryStore()
    let disk = Promise.withResolvers<void>()
    disk.resolve()
    const put: typeof store.put = (...args) => disk.promise.then(() => store.put(...args))
    const { pairings, devices, decisions } = await open({ store: { ...store, put } }, store)
    const pending = () => pairings.devices(ROOT).pending.map(({ requestId }) => requestId)
    const shown = (await pairings.ask(asks('d', ['operator.read']), '10.0.0.1'))!
    disk = Promise.withResolvers<void>()
    const refused = pairings.ask(asks('d', ['operator.write']), '10.0.0.1')
    await vi.advanceTimersByTimeAsync(1)
    expect([pending(), decisions()]).toEqual([[shown], []])
    disk.reject(new StoreError('FULL', 'no space'))
    expect(await refused).toBeUndefined()
    expect([pending(), decisions(), await store.list('pairing')]).toMatchObject([[shown], [], [{ id: shown }]])
    disk = Promise.withResolvers<void>()
    disk.resolve()
    const other = await pairings.ask(asks('d', ['operator.write']), '10.0.0.1')
    expect([pending(), decisions(), await store.list('pairing')]).toMatchObject([
      [other],
      ['superseded'],
      [{ id: other }],
    ])
    expect(devices.get('d', 'operator')).toBeUndefined()
  })

  it('that asks again while it is being written is answered when it is on disk', async () => {
    const store = openMemoryStore()
    const disk = Promise.withResolvers<void>()
    const put: typeof store.put = (...args) => disk.promise.then(() => store.put(...args))
    const { pairings, told } = await open({ store: { ...store, put } }, store)
    const answers: boolean[] = []
    const ask = async () => void answers.push((await pairings.requestNode({ nodeId: 'n' }, ROOT)).created)
    const both = Promise.all([ask(), ask()])
    await vi.advanceTimersByTimeAsync(1)
    expect([answers, told, pairings.nodes(ROOT).pending]).toEqual([[], [], []])
    disk.resolve()
    await both
    expect(answers).toEqual([true, false])
    expect(await store.list('pairing')).toHaveLength(1)
  })

  it('is told of before its end, and not at all where it waits for the next process', async () => {
    const store = openMemoryStore()
    const disk = Promise.withResolvers<void>()
    const put: typeof store.put = (...args) => disk.promise.then(() => store.put(...args))
    const { pairings, told } = await open({ store: { ...store, put }, ttlMs: 0 }, store)
    const asked = pairings.ask(asks('d', ['operator.read']), '10.0.0.1')
    disk.resolve()
    await asked
    await vi.advanceTimersByTimeAsync(1)
    expect(told.map(({ event }) => event)).toEqual(['device.pair.requested', 'device.pair.resolved'])
    const late = pairings.ask(asks('d', ['operator.write']), '10.0.0.1')
    pairings.stop()
    await late
    expect(told).toHaveLength(2)
    expect(await store.list('pairing')).toHaveLength(1)
  })

  it('is one, though it asks for several things at the same time', async () => {
    const { pairings, store } = await open()
    const wishes: Scope[][] = [['operator.read'], ['operator.write'], ['operator.admin']]
    const ids = await Promise.all(wishes.map((scopes) => pairings.ask(asks('d', scopes), '10.0.0.1')))
    expect(pairings.devices(ROOT).pending).toMatchObject([{ requestId: ids[2], scopes: ['operator.admin'] }])
    expect(await store.list('pairing')).toMatchObject([{ id: ids[2] }])
  })

  it('is the newer one of two, where the process died before the older one was gone', async () => {
    const { pairings, store } = await open()
    await pairings.ask(asks('d', ['operator.read']), '10.0.0.1')
    const [older] = await store.list('pairing')
    vi.advanceTimersByTime(1)
    const newer = await pairings.ask(asks('d', ['operator.write']), '10.0.0.1')
    pairings.stop()
    await store.put('pairing', older!.id, older!.value)
    const again = await open({}, store)
    expect(again.pairings.devices(ROOT).pending).toMatchObject([{ requestId: newer }])
    expect(await store.list('pairing')).toMatchObject([{ id: newer }])
  })

  it('waits on after a restart, for what was left of its time', async () => {
    const { pairings, store } = await open()
    const requestId = await pairings.ask(asks('d', ['operator.read']), '10.0.0.1')
    pairings.stop()
    vi.advanceTimersByTime(3 * MINUTE)
    const again = await open({}, store)
    expect(again.pairings.devices(ROOT).pending).toMatchObject([{ requestId, ts: NOW }])
    vi.advanceTimersByTime(2 * MINUTE)
    expect(again.pairings.devices(ROOT).pending).toEqual([])
    await vi.runAllTimersAsync()
    expect(await store.list('pairing')).toEqual([])
  })

  it('that asked again waits on after a restart for the time that began anew', async () => {
    const { pairings, store } = await open()
    const requestId = await pairings.ask(asks('d', ['operator.read']), '10.0.0.1')
    vi.advanceTimersByTime(4 * MINUTE)
    await pairings.ask(asks('d', ['operator.read']), '10.0.0.1')
    pairings.stop()
    vi.advanceTimersByTime(4 * MINUTE)
    const again = await open({}, store)
    expect(again.pairings.devices(ROOT).pending).toMatchObject([{ requestId, ts: NOW + 4 * MINUTE }])
    vi.advanceTimersByTime(MINUTE)
    expect(again.pairings.devices(ROOT).pending).toEqual([])
  })

  it('that asks again while the disk refuses waits on for what was left, and is told so', async () => {
    const store = openMemoryStore()
    let isFull = false
    const put: typeof store.put = (...args) =>
      isFull ? Promise.reject(new StoreError('FULL', 'no space')) : store.put(...args)
    const { pairings } = await open({ store: { ...store, put } }, store)
    const ask = () => pairings.requestNode({ nodeId: 'n' }, ROOT)
    await ask()
    vi.advanceTimersByTime(4 * MINUTE)
    isFull = true
    await expect(ask()).rejects.toThrow('no space')
    expect(pairings.nodes(ROOT).pending).toMatchObject([{ ts: NOW }])
    vi.advanceTimersByTime(MINUTE)
    expect(pairings.nodes(ROOT).pending).toEqual([])
  })

  it('that asks again while it is being refused does not come back with a restart', async () => {
    const { pairings, store } = await open()
    const requestId = (await pairings.ask(asks('d', ['operator.read']), '10.0.0.1'))!
    const rejected = pairings.rejectDevice(requestId, ROOT)
    await Promise.all([rejected, pairings.ask(asks('d', ['operator.read']), '10.0.0.1')])
    expect(await store.list('pairing')).toEqual([])
  })

  it('is forgotten when its time ran out while nobody was here', async () => {
    const { pairings, store } = await open()
    await pairings.ask(asks('d', ['operator.read']), '10.0.0.1')
    pairings.stop()
    vi.advanceTimersByTime(5 * MINUTE)
    const again = await open({}, store)
    expect(again.pairings.devices(ROOT).pending).toEqual([])
    expect(await store.list('pairing')).toEqual([])
  })

  it('is one of 64 at the most, and of 8 from one address; who waits already is not driven out', async () => {
    const { pairings } = await open()
    const from = (n: number) => `10.0.0.${Math.floor(n / 8)}`
    for (let n = 0; n < 64; n += 1)
      expect(await pairings.ask(asks(`d${n}`, ['operator.read']), from(n))).toEqual(expect.any(String))
    expect(await pairings.ask(asks('one too many', ['operator.read']), '10.0.1.1')).toBeUndefined()
    expect(await pairings.ask(asks('d5', ['operator.write']), from(5))).toEqual(expect.any(String))
    expect(pairings.devices(ROOT).pending).toHaveLength(64)
    await pairings.rejectDevice(
      pairings.devices(ROOT).pending.find(({ deviceId }) => deviceId === 'd63')!.requestId,
      ROOT,
    )
    expect(await pairings.ask(asks('of a full house', ['operator.read']), from(0))).toBeUndefined()
    expect(await pairings.ask(asks('of a house with room', ['operator.read']), from(63))).toEqual(expect.any(String))
  })

  it('is not there when it could not be kept, and may ask again', async () => {
    const store = openMemoryStore()
    let isFull = true
    const put: typeof store.put = (...args) =>
      isFull ? Promise.reject(new StoreError('FULL', 'no space')) : store.put(...args)
    const { pairings, told } = await open({ store: { ...store, put } }, store)
    expect(await pairings.ask(asks('d', ['operator.read']), '10.0.0.1')).toBeUndefined()
    expect([pairings.devices(ROOT).pending, told]).toEqual([[], []])
    isFull = false
    expect(await pairings.ask(asks('d', ['operator.read']), '10.0.0.1')).toEqual(expect.any(String))
  })

  it('is superseded when it was paired without waiting', async () => {
    const { pairings, told } = await open()
    const requestId = await pairings.ask(asks('d', ['operator.read']), '10.0.0.1')
    pairings.pairedSilently('d', 'operator')
    expect(pairings.devices(ROOT).pending).toEqual([])
    expect(told.slice(1).map(({ payload }) => [payload['requestId'] === requestId, payload['decision']])).toEqual([
      [true, 'superseded'],
      [false, 'approved'],
    ])
  })
})

describe('an approval', () => {
  it('gives what was asked for as far as the approver holds it, and is on disk when it is answered', async () => {
    const { pairings, store, decisions } = await open()
    const requestId = (await pairings.ask(asks('d', ['operator.read', 'operator.admin']), '10.0.0.1'))!
    const named = approver('token:abc', 'operator.pairing', 'operator.write')
    expect(await pairings.approveDevice(requestId, named)).toEqual({
      ...{ deviceId: 'd', publicKey: 'key of d', platform: 'linux', clientId: 'gateway-client', clientMode: 'backend' },
      ...{ role: 'operator', roles: ['operator'], scopes: ['operator.read'], createdAtMs: NOW, approvedAtMs: NOW },
      tokens: [{ role: 'operator', scopes: ['operator.read'], createdAtMs: NOW }],
    })
    expect(await store.get('device', 'd')).toMatchObject({ scopes: ['operator.read'] })
    expect(await store.list('pairing')).toEqual([])
    expect(decisions()).toEqual(['approved'])
  })

  it('is none by somebody who has nothing to give, and the device waits on', async () => {
    const { pairings, devices } = await open()
    const requestId = (await pairings.ask(asks('d', ['operator.admin']), '10.0.0.1'))!
    const poor = approver('token:abc', 'operator.pairing', 'operator.read')
    await expect(pairings.approveDevice(requestId, poor)).rejects.toMatchObject({
      message: 'missing scope: operator.admin',
    })
    expect(devices.get('d', 'operator')).toBeUndefined()
    expect(pairings.devices(ROOT).pending).toHaveLength(1)
  })

  it('is none by a named token that has an end, nor is a rotation; it may still refuse, revoke and remove', async () => {
    const list = () => [
      { id: 'ends', name: 'a test', scopes: [], createdAtMs: NOW, expiresAtMs: NOW + 1, status: 'valid' as const },
      { id: 'stays', name: 'a test', scopes: [], createdAtMs: NOW, status: 'valid' as const },
    ]
    const { pairings, devices, paired } = await open({ tokens: { list } })
    const [ends, stays] = [approver('token:ends', 'operator.admin'), approver('token:stays', 'operator.admin')]
    await paired('p', ['operator.read'])
    const requestId = (await pairings.ask(asks('d', ['operator.read']), '10.0.0.1'))!
    const node = (await pairings.requestNode({ nodeId: 'n' }, ends)).request.requestId
    const own = { deviceId: 'p', role: 'operator' }
    for (const act of [
      () => pairings.approveDevice(requestId, ends),
      () => pairings.approveNode(node, ends),
      () => pairings.rotate({ ...own, scopes: undefined }, ends),
    ])
      await expect(act()).rejects.toMatchObject({ kind: 'TOKEN_TOO_WIDE' })
    expect(devices.get('d', 'operator')).toBeUndefined()
    await pairings.rotate({ ...own, scopes: undefined }, stays)
    await pairings.revoke(own, ends)
    await pairings.removeDevice('p', ends)
    await pairings.rejectNode(node, ends)
    expect(await pairings.approveDevice(requestId, stays)).toMatchObject({ scopes: ['operator.read'] })
  })

  it('counts once, of many at the same time', async () => {
    const { pairings, decisions } = await open()
    const requestId = (await pairings.ask(asks('d', ['operator.read']), '10.0.0.1'))!
    const words = await Promise.allSettled([
      pairings.approveDevice(requestId, ROOT),
      pairings.rejectDevice(requestId, ROOT),
      pairings.approveDevice(requestId, ROOT),
    ])
    expect(words.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'rejected'])
    expect(decisions()).toEqual(['approved'])
  })

  it('that cannot be kept is told as such, and the device waits on', async () => {
    const { pairings, devices, decisions } = await open()
    const requestId = (await pairings.ask(asks('d', ['operator.read']), '10.0.0.1'))!
    const failing = vi.spyOn(devices, 'pair').mockRejectedValueOnce(new StoreError('FULL', 'no space'))
    await expect(pairings.approveDevice(requestId, ROOT)).rejects.toThrow('no space')
    failing.mockRestore()
    expect(decisions()).toEqual([])
    expect(await pairings.approveDevice(requestId, ROOT)).toMatchObject({ scopes: ['operator.read'] })
  })

  it('widens what a device was paired for, and leaves it its token', async () => {
    const { pairings, devices, paired } = await open()
    const { device } = await paired('d', ['operator.read'])
    const requestId = (await pairings.ask(asks('d', ['operator.read', 'operator.write']), '10.0.0.1'))!
    expect(pairings.devices(ROOT).pending).toMatchObject([{ isRepair: true }])
    await pairings.approveDevice(requestId, ROOT)
    const wider = devices.get('d', 'operator')!
    expect(wider.scopes).toEqual(['operator.read', 'operator.write'])
    expect(devices.token(wider)).toBe(devices.token(device))
  })

  it('for one role is none for the other', async () => {
    const { pairings, devices, paired } = await open()
    const { device } = await paired('d', ['operator.read'])
    const requestId = (await pairings.ask(asks('d', [], { role: 'node' }), '10.0.0.1'))!
    expect(await pairings.approveDevice(requestId, ROOT)).toMatchObject({ roles: expect.arrayContaining(['node']) })
    const node = devices.get('d', 'node')!
    expect(node.scopes).toEqual([])
    expect(devices.credential(node, devices.token(device))).toBeUndefined()
    expect(devices.credential(device, devices.token(node))).toBeUndefined()
  })
})

describe('a paired device that is no administrator', () => {
  it('sees and hears of itself only', async () => {
    const { pairings, paired, told } = await open()
    const { as } = await paired('d', ['operator.pairing', 'operator.write'])
    await paired('other', ['operator.read'])
    await pairings.ask(asks('third', ['operator.read']), '10.0.0.1')
    expect(pairings.devices(as)).toMatchObject({ pending: [], paired: [{ deviceId: 'd' }] })
    expect(told.filter(({ may }) => may(as)).map(({ payload }) => payload['deviceId'])).toEqual(['d', 'd'])
    expect(told.every(({ may }) => may(ROOT))).toBe(true)
  })

  it('decides nothing for others, in the words for what is not there', async () => {
    const { pairings, paired } = await open()
    const { as } = await paired('d', ['operator.pairing', 'operator.write'])
    await paired('other', ['operator.read'])
    const requestId = (await pairings.ask(asks('third', ['operator.read']), '10.0.0.1'))!
    const other = { deviceId: 'other', role: 'operator' }
    const tries = [
      () => pairings.approveDevice(requestId, as),
      () => pairings.rejectDevice(requestId, as),
      () => pairings.rotate({ ...other, scopes: undefined }, as),
      () => pairings.revoke(other, as),
      () => pairings.removeDevice('other', as),
    ]
    const nobody = [
      () => pairings.approveDevice('nobody', as),
      () => pairings.rejectDevice('nobody', as),
      () => pairings.rotate({ deviceId: 'nobody', role: 'operator', scopes: undefined }, as),
      () => pairings.revoke({ deviceId: 'nobody', role: 'operator' }, as),
      () => pairings.removeDevice('nobody', as),
    ]
    const words = (acts: (() => Promise<unknown>)[]) =>
      Promise.all(
        acts.map((act) =>
          act().then(
            () => 'done',
            ({ message }: Error) => message,
          ),
        ),
      )
    expect(await words(tries)).toEqual(await words(nobody))
    expect(pairings.devices(ROOT)).toMatchObject({ pending: [{ requestId }], paired: [{}, {}] })
  })

  it('cannot let itself in for another role, by either way to ask for one', async () => {
    const { pairings, devices, paired } = await open()
    const { as } = await paired('d', ['operator.pairing', 'operator.write'])
    const requestId = (await pairings.ask(asks('d', [], { role: 'node' }), '10.0.0.1'))!
    const rule = 'a device cannot approve its own request for another role (node): another approver has to'
    await expect(pairings.approveDevice(requestId, as)).rejects.toMatchObject({ kind: 'OWN_PAIRING', message: rule })
    const { request } = await pairings.requestNode({ nodeId: 'd' }, as)
    await expect(pairings.approveNode(request.requestId, as)).rejects.toMatchObject({ message: rule })
    expect([devices.get('d', 'node'), pairings.nodes(ROOT).paired]).toEqual([undefined, []])
    // It may take it back, and others may say yes.
    expect(await pairings.rejectNode(request.requestId, as)).toBe('d')
    const byHand = approver('token:abc', 'operator.pairing')
    expect(await pairings.approveDevice(requestId, byHand)).toMatchObject({ roles: expect.arrayContaining(['node']) })
  })

  it('lets itself in for more of its own role as far as it holds that, and an administrator for whatever it likes', async () => {
    const { pairings, paired } = await open()
    const { as } = await paired('d', ['operator.pairing', 'operator.write'])
    const more = (await pairings.ask(asks('d', ['operator.read', 'operator.write']), '10.0.0.1'))!
    expect(await pairings.approveDevice(more, as)).toMatchObject({ deviceId: 'd' })
    const admin = (await paired('a', ['operator.admin'])).as
    const node = (await pairings.ask(asks('a', [], { role: 'node' }), '10.0.0.1'))!
    expect(await pairings.approveDevice(node, admin)).toMatchObject({ roles: expect.arrayContaining(['node']) })
  })

  it('rotates and ends its own token', async () => {
    const { pairings, paired, revoked } = await open()
    const { as } = await paired('d', ['operator.pairing'])
    const own = { deviceId: 'd', role: 'operator' }
    expect(await pairings.rotate({ ...own, scopes: undefined }, as)).toMatchObject({ scopes: ['operator.pairing'] })
    expect(await pairings.revoke(own, as)).toEqual({ revokedAtMs: NOW })
    expect(revoked).toEqual([{ principal: 'd', role: 'operator', silences: true }])
  })
})

describe('a device token', () => {
  it('that was rotated is taken for a minute more, and then its sockets are closed', async () => {
    const { pairings, devices, paired, revoked } = await open()
    const { device } = await paired('d', ['operator.read'])
    const old = devices.token(device)
    const { token } = await pairings.rotate({ deviceId: 'd', role: 'operator', scopes: undefined }, ROOT)
    const names = (text: string) => devices.credential(devices.get('d', 'operator'), text)
    expect(token).toMatch(/^[0-9a-f]{32}$/)
    expect(new Set([names(old), names(token), undefined]).size).toBe(3)
    const credential = names(old)
    vi.advanceTimersByTime(MINUTE - 1)
    devices.sweep()
    expect([names(old), revoked]).toEqual([credential, []])
    vi.advanceTimersByTime(1)
    expect([names(old), names(token)]).toEqual([undefined, expect.any(String)])
    devices.sweep()
    devices.sweep()
    expect(revoked).toEqual([{ principal: 'd', role: 'operator', credential }])
  })

  it('that was rotated does not live longer by a clock that is set back', async () => {
    const { pairings, devices, paired } = await open()
    const { device } = await paired('d', ['operator.read'])
    await pairings.rotate({ deviceId: 'd', role: 'operator', scopes: undefined }, ROOT)
    vi.setSystemTime(NOW - 1)
    expect(devices.credential(devices.get('d', 'operator'), devices.token(device))).toBeUndefined()
  })

  it('of two rotations ago is over', async () => {
    const { pairings, devices, paired, revoked } = await open()
    const { device } = await paired('d', ['operator.read'])
    const rotate = () => pairings.rotate({ deviceId: 'd', role: 'operator', scopes: undefined }, ROOT)
    const credential = devices.credential(device, devices.token(device))!
    const { token: second } = await rotate()
    await rotate()
    const now = devices.get('d', 'operator')
    expect(devices.credential(now, devices.token(device))).toBeUndefined()
    expect(devices.credential(now, second)).toEqual(expect.any(String))
    expect(revoked).toEqual([{ principal: 'd', role: 'operator', credential }])
  })

  it('that is narrowed closes what came in by the wider one at once, and can be widened again', async () => {
    const { pairings, devices, paired, revoked } = await open()
    const { device } = await paired('d', ['operator.read', 'operator.write'])
    const rotate = (scopes: Scope[]) => pairings.rotate({ deviceId: 'd', role: 'operator', scopes }, ROOT)
    const credential = devices.credential(device, devices.token(device))!
    expect(await rotate(['operator.read'])).toMatchObject({ scopes: ['operator.read'] })
    expect(revoked).toEqual([{ principal: 'd', role: 'operator', credential, silences: true }])
    expect(devices.get('d', 'operator')).toMatchObject({
      scopes: ['operator.read', 'operator.write'],
      tokenScopes: ['operator.read'],
    })
    expect(await rotate(['operator.read', 'operator.write'])).toMatchObject({
      scopes: ['operator.read', 'operator.write'],
    })
    expect(await rotate([])).toMatchObject({ scopes: [] })
  })

  it('that is narrowed stays so, though it is rotated without a word about scopes at the same time', async () => {
    const { pairings, devices, paired } = await open()
    await paired('d', ['operator.read', 'operator.write'])
    const rotate = (scopes: Scope[] | undefined) => pairings.rotate({ deviceId: 'd', role: 'operator', scopes }, ROOT)
    const [, after] = await Promise.all([rotate(['operator.read']), rotate(undefined)])
    expect(after).toMatchObject({ scopes: ['operator.read'] })
    expect(devices.get('d', 'operator')).toMatchObject({ tokenScopes: ['operator.read'] })
  })

  it('is never worth more than the device was paired for, or than the caller holds', async () => {
    const { pairings, paired } = await open()
    await paired('d', ['operator.read', 'operator.approvals'])
    const rotate = (scopes: string[] | undefined, by: Approver) =>
      pairings.rotate({ deviceId: 'd', role: 'operator', scopes }, by)
    await expect(rotate(['operator.write'], ROOT)).rejects.toMatchObject({ kind: 'TOKEN_TOO_WIDE' })
    await expect(rotate(['operator.everything'], ROOT)).rejects.toMatchObject({ kind: 'TOKEN_TOO_WIDE' })
    const poor = approver('token:abc', 'operator.pairing', 'operator.write')
    await expect(rotate(undefined, poor)).rejects.toMatchObject({ message: 'missing scope: operator.approvals' })
    expect(await rotate(['operator.read'], poor)).toMatchObject({ scopes: ['operator.read'] })
    await expect(pairings.rotate({ deviceId: 'd', role: 'node', scopes: undefined }, ROOT)).rejects.toThrow(
      'unknown deviceId/role',
    )
  })

  it('that was revoked is worth nothing, cannot be rotated, and does not come back with the next pairing', async () => {
    const { pairings, devices, paired, revoked, store } = await open()
    const { device } = await paired('d', ['operator.read', 'operator.write'])
    const own = { deviceId: 'd', role: 'operator' }
    await pairings.revoke(own, ROOT)
    expect(revoked).toEqual([{ principal: 'd', role: 'operator', silences: true }])
    expect(devices.get('d', 'operator')).toBeUndefined()
    expect((await open({}, store)).devices.get('d', 'operator')).toBeUndefined()
    await expect(pairings.rotate({ ...own, scopes: undefined }, ROOT)).rejects.toThrow('unknown deviceId/role')
    await expect(pairings.revoke(own, ROOT)).rejects.toThrow('unknown deviceId/role')
    expect(pairings.devices(ROOT).paired).toMatchObject([{ tokens: [{ revokedAtMs: NOW }] }])
    const again = await paired('d', ['operator.read'])
    expect(again.device.scopes).toEqual(['operator.read'])
    expect(devices.credential(again.device, devices.token(device))).toBeUndefined()
  })

  it('of a device that was removed does not come back either', async () => {
    const { pairings, devices, paired, revoked } = await open()
    const { device } = await paired('d', ['operator.read'])
    await pairings.removeDevice('d', ROOT)
    expect([pairings.devices(ROOT).paired, revoked]).toEqual([
      [],
      [{ principal: 'd', role: 'operator', silences: true }],
    ])
    const again = await paired('d', ['operator.read'])
    expect(devices.credential(again.device, devices.token(device))).toBeUndefined()
  })

  it('is none without a record, whatever is guessed', async () => {
    const { devices, paired } = await open()
    const { device } = await paired('d', ['operator.read'])
    expect(devices.credential(undefined, devices.token(device))).toBeUndefined()
    // What the work for nobody derives is nobody's token.
    const nobody = devices.token({ ...device, deviceId: '', role: '', tokenId: undefined } as never)
    expect(devices.credential(undefined, nobody)).toBeUndefined()
  })

  it('is kept nowhere', async () => {
    const { pairings, devices, paired, store } = await open()
    const { device } = await paired('d', ['operator.read'])
    const { token } = await pairings.rotate({ deviceId: 'd', role: 'operator', scopes: undefined }, ROOT)
    const kept = JSON.stringify([await store.list('device'), pairings.devices(ROOT)])
    for (const text of [token, devices.token(device)]) expect(kept).not.toContain(text)
  })
})

describe('a node', () => {
  it('is paired by name, and known by the token that was told once', async () => {
    const { pairings, told, store } = await open()
    const asked = await pairings.requestNode({ nodeId: 'n', displayName: 'Legacy', platform: 'linux' }, ROOT)
    const request = { nodeId: 'n', displayName: 'Legacy', platform: 'linux', isRepair: false, ts: NOW }
    expect(asked).toEqual({ request: { ...request, requestId: asked.request.requestId }, created: true })
    expect(await pairings.requestNode({ nodeId: 'n', platform: 'linux' }, ROOT)).toMatchObject({
      request: { requestId: asked.request.requestId },
      created: false,
    })
    const { node, token } = await pairings.approveNode(asked.request.requestId, ROOT)
    expect(node).toEqual({
      ...{ nodeId: 'n', displayName: 'Legacy', platform: 'linux' },
      ...{ createdAtMs: NOW, approvedAtMs: NOW },
    })
    expect(pairings.verifyNode('n', token, ROOT)).toEqual(node)
    for (const [nodeId, text] of [
      ['n', 'bad'],
      ['n', `${token}0`],
      ['other', token],
    ] as const)
      expect(pairings.verifyNode(nodeId, text, ROOT)).toBeUndefined()
    expect(pairings.nodes(ROOT)).toEqual({ pending: [], paired: [node] })
    expect(JSON.stringify(await store.list('node'))).not.toContain(token.split('_')[3])
    expect((await open({}, store)).pairings.verifyNode('n', token, ROOT)).toEqual(node)
    expect(told.map(({ event }) => event)).toEqual(['node.pair.requested', 'node.pair.resolved'])
  })

  it('asks as another when it can do something else', async () => {
    const { pairings } = await open()
    const one = await pairings.requestNode({ nodeId: 'n', commands: ['camera.snap'] }, ROOT)
    const other = await pairings.requestNode({ nodeId: 'n', commands: ['camera.snap', 'system.run'] }, ROOT)
    expect(other.created).toBe(true)
    await expect(pairings.approveNode(one.request.requestId, ROOT)).rejects.toThrow('unknown requestId')
  })

  it('that was removed is known by nothing', async () => {
    const { pairings } = await open()
    const { request } = await pairings.requestNode({ nodeId: 'n' }, ROOT)
    const { token } = await pairings.approveNode(request.requestId, ROOT)
    await pairings.removeNode('n', ROOT)
    expect(pairings.verifyNode('n', token, ROOT)).toBeUndefined()
    await expect(pairings.removeNode('n', ROOT)).rejects.toMatchObject({ kind: 'UNKNOWN_DEVICE' })
  })

  it('is not asked for by a device that is no administrator, and not decided by the methods for devices', async () => {
    const { pairings, paired } = await open()
    const { as } = await paired('d', ['operator.pairing'])
    await expect(pairings.requestNode({ nodeId: 'n' }, as)).rejects.toMatchObject({ kind: 'MISSING_SCOPE' })
    const { request } = await pairings.requestNode({ nodeId: 'n' }, ROOT)
    await expect(pairings.approveNode(request.requestId, as)).rejects.toThrow('unknown requestId')
    await expect(pairings.approveDevice(request.requestId, ROOT)).rejects.toThrow('unknown requestId')
  })
})

describe('devices that pair each other', () => {
  const NAMES = ['a', 'b', 'c', 'd', 'e']
  const powers = (scopes: Iterable<Scope>) => {
    const all = new Set(scopes)
    if (all.has('operator.write')) all.add('operator.read')
    return all.has('operator.admin') ? new Set(OPERATOR_SCOPES) : all
  }

  it('gain no scope that no approver held, whatever they ask, approve, rotate, revoke and remove, and whoever restarts', async () => {
    const scopes = fc.subarray([...OPERATOR_SCOPES])
    const step = fc.tuple(fc.nat({ max: 8 }), fc.constantFrom(...NAMES), fc.constantFrom(...NAMES), scopes)
    let gained = 0
    await fc.assert(
      fc.asyncProperty(scopes, fc.array(step, { minLength: 120, maxLength: 120 }), async (root, steps) => {
        const store = openMemoryStore()
        let at = await open({}, store)
        const rootPowers = powers(root)
        const byHand = approver('token:abc', ...root)
        const worth = (name: string): Set<Scope> => {
          const record = at.devices.get(name, 'operator')
          return powers(record?.tokenScopes ?? record?.scopes ?? [])
        }
        const as = (name: string): Approver => {
          const record = at.devices.get(name, 'operator')
          return approver(name, ...(record?.tokenScopes ?? record?.scopes ?? []))
        }
        for (const [kind, who, by, wanted] of steps) {
          const before = new Map(NAMES.map((name) => [name, powers(at.devices.get(name, 'operator')?.scopes ?? [])]))
          const approves = kind === 2 ? byHand : as(by)
          const { pairings } = at
          const pending = pairings.devices(ROOT).pending.find(({ deviceId }) => deviceId === who)
          const own = { deviceId: who, role: 'operator' }
          const acts: (() => Promise<unknown>)[] = [
            () => pairings.ask(asks(who, wanted), `10.0.0.${who.charCodeAt(0)}`),
            () => pairings.approveDevice(pending?.requestId ?? 'nobody', approves),
            () => pairings.approveDevice(pending?.requestId ?? 'nobody', approves),
            () => pairings.rejectDevice(pending?.requestId ?? 'nobody', approves),
            () => pairings.rotate({ ...own, scopes: wanted }, approves),
            () => pairings.revoke(own, approves),
            () => pairings.removeDevice(who, approves),
            async () => vi.advanceTimersByTime(2 * MINUTE),
            async () => {
              pairings.stop()
              at = await open({}, store)
            },
          ]
          await acts[kind]!().catch(() => {})
          for (const name of NAMES) {
            for (const scope of powers(at.devices.get(name, 'operator')?.scopes ?? [])) {
              if (!rootPowers.has(scope)) throw new Error(`${scope} came from nowhere`)
              if (before.get(name)!.has(scope)) continue
              gained += 1
              if (name !== who || !powers(approves.scopes).has(scope))
                throw new Error(`${name} gained ${scope} by ${by}`)
              if (!pending?.scopes || !powers(pending.scopes as Scope[]).has(scope))
                throw new Error(`${name} was given ${scope}, which it did not ask for`)
            }
            for (const scope of worth(name))
              if (!powers(at.devices.get(name, 'operator')!.scopes).has(scope)) throw new Error('a token is worth more')
          }
        }
        at.pairings.stop()
      }),
      { seed: 1206, numRuns: 60 },
    )
    expect(gained).toBeGreaterThan(60)
  })
})

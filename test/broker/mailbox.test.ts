import { describe, expect, it, vi } from 'vitest'
import { createChains } from '../../src/broker/chains.ts'
import { createMailbox, type Letter, type Mailbox } from '../../src/broker/mailbox.ts'
import type { Payload } from '../../src/contract/index.ts'
import { openMemoryStore } from '../../src/stores/memory.ts'
import { type RunRecord, type Store, StoreError } from '../../src/stores/store.ts'
import { openRooms, quiet, type Rooms, SESSION, settled } from '../support/rooms.ts'

const limits = { hops: 0, visits: 0, messages: 0, fanOut: 0, tokens: 0, cost: 0 }
const SENDER = 'agent:main:sender'

/** The rooms with a mailbox, and what it tells. */
function open(store: Store = openMemoryStore(), recovery: 'interrupt' | 'resume' = 'interrupt') {
  const told: Payload<'agent.message'>[] = []
  const rooms: Rooms = openRooms({
    store,
    recovery,
    onStarted: (record) => mailbox.started(record),
    onEnded: (record, ended) => mailbox.ended(record, ended),
  })
  const mailbox: Mailbox = createMailbox({
    store,
    turns: rooms.turns,
    runs: rooms.runs,
    chains: createChains({ store, rules: { enabled: true, allow: ['*'], limits } }),
    hub: { tellAll: (_, payload) => void told.push(payload as Payload<'agent.message'>) },
    nameOf: (agentId) => agentId,
    log: quiet,
    now: () => Date.now(),
  })
  return {
    ...rooms,
    mailbox,
    told,
    states: (messageId: string) => told.filter((one) => one.messageId === messageId).map(({ state }) => state),
  }
}

/** A run under way in {@link SENDER}. */
async function sender({ send, runs, asked }: Rooms, key = 'sender'): Promise<RunRecord> {
  await send(key, { sessionKey: SENDER })
  await asked(key)
  return runs.record(key)!
}

const letter = (changes: Partial<Letter> = {}): Letter => ({
  to: { agentId: 'main', sessionKey: SESSION },
  message: 'dig',
  reply: 'once',
  ...changes,
})

describe('a message', () => {
  it('is told to be delivered before it is told to have started, and answered when its answer is brought', async () => {
    const rooms = open()
    const { messageId } = await rooms.mailbox.send(await sender(rooms), letter())
    expect(rooms.states(messageId)).toEqual(['delivered'])
    await rooms.asked(messageId)
    expect(rooms.states(messageId)).toEqual(['delivered', 'started'])
    ;(await rooms.asked(messageId)).finish()
    await vi.waitFor(() => expect(rooms.states(messageId)).toEqual(['delivered', 'started', 'replied']))
    // Its sender is under way, and may still ask for it.
    await settled()
    expect(rooms.states(messageId)).toHaveLength(3)
    ;(await rooms.asked('sender')).finish()
    await vi.waitFor(() => expect(rooms.states(messageId).slice(3)).toEqual(['answered']))
    await settled()
    expect(rooms.states(messageId)).toHaveLength(4)
    // The turn that brought it is no message.
    expect(new Set(rooms.told.map((one) => one.messageId))).toEqual(new Set([messageId]))
  })

  it('that is not begun in time expires, unstarted, and its sender hears that', async () => {
    const rooms = open()
    await rooms.send('busy')
    await rooms.asked('busy')
    const { messageId } = await rooms.mailbox.send(await sender(rooms), letter({ expiresMs: 1 }))
    await vi.waitFor(() => expect(rooms.states(messageId)).toEqual(['delivered', 'expired']))
    expect(await rooms.mailbox.look(messageId)).toMatchObject({
      state: 'expired',
      error: 'it was not begun in time',
      heard: false,
      message: 'dig',
    })
    expect((await rooms.mailbox.look(messageId))!.startedAt).toBeUndefined()
    ;(await rooms.asked('sender')).finish()
    await vi.waitFor(() => expect(rooms.states(messageId)).toEqual(['delivered', 'expired', 'answered']))
    expect((await rooms.mailbox.list({ limit: 9 })).map(({ heard }) => heard)).toEqual([true])
  })

  it('nobody waits for is not told to be answered', async () => {
    const rooms = open()
    const { messageId } = await rooms.mailbox.send(await sender(rooms), letter({ reply: 'none' }))
    ;(await rooms.asked(messageId)).finish()
    ;(await rooms.asked('sender')).finish()
    await vi.waitFor(() => expect(rooms.runs.size).toBe(0))
    await settled()
    expect(rooms.states(messageId)).toEqual(['delivered', 'started', 'replied'])
  })

  it('that is sent again by a run that was resumed is the same, and told once', async () => {
    const store = openMemoryStore()
    const first = open(store)
    const { messageId } = await first.mailbox.send(await sender(first), letter())
    await first.asked(messageId)
    const second = open(store, 'resume')
    await second.turns.recover()
    await second.mailbox.recover()
    await second.asked('sender')
    const again = await second.mailbox.send(second.runs.record('sender')!, letter())
    expect(again.messageId).toBe(messageId)
    await second.asked(messageId)
    // Neither is new: it was delivered, and started, before.
    expect(second.states(messageId)).toEqual([])
    ;(await second.asked(messageId)).finish()
    ;(await second.asked('sender')).finish()
    await vi.waitFor(() => expect(second.states(messageId)).toEqual(['replied', 'answered']))
  })
})

describe('an answer', () => {
  const wait = (
    rooms: ReturnType<typeof open>,
    from: RunRecord,
    messageId: string,
    signal = new AbortController().signal,
  ) => rooms.mailbox.answer(from, messageId, 60_000, signal)
  const turnsIn = async (store: Store, key: string) =>
    (await store.history(key, { limit: 100, maxBytes: 1_000_000 })).messages
      .filter(({ role }) => role === 'user')
      .map(({ content }) => String(content[0]?.['text']))

  it('that the run waits for is heard there, and by no turn', async () => {
    const store = openMemoryStore()
    const rooms = open(store)
    const from = await sender(rooms)
    const { messageId } = await rooms.mailbox.send(from, letter())
    const answer = wait(rooms, from, messageId)
    const receiver = await rooms.asked(messageId)
    receiver.sink.delta('gold')
    receiver.finish()
    expect(await answer).toEqual({ messageId, state: 'replied', text: 'gold' })
    rooms.runs.heard('sender', [messageId])
    ;(await rooms.asked('sender')).finish()
    await vi.waitFor(() => expect(rooms.runs.size).toBe(0))
    await settled()
    expect(await turnsIn(store, SENDER)).toHaveLength(1)
    expect(await store.unheard()).toEqual([])
  })

  it('is brought by a turn when the run that waited for it was stopped', async () => {
    const store = openMemoryStore()
    const rooms = open(store)
    const from = await sender(rooms)
    const { messageId } = await rooms.mailbox.send(from, letter())
    const stopped = new AbortController()
    const answer = wait(rooms, from, messageId, stopped.signal)
    const receiver = await rooms.asked(messageId)
    rooms.runs.abort('sender', 'rpc')
    stopped.abort(new Error('stopped'))
    await expect(answer).rejects.toThrow('stopped')
    receiver.sink.delta('gold')
    receiver.finish()
    await vi.waitFor(async () => expect(await turnsIn(store, SENDER)).toHaveLength(2))
    expect((await turnsIn(store, SENDER))[1]).toMatch(/^\[main \(main\) answers your message “dig”\]\n\ngold$/)
  })

  it('that was heard by a run which the process did not survive is told again', async () => {
    const store = openMemoryStore()
    const first = open(store)
    const from = await sender(first)
    const { messageId } = await first.mailbox.send(from, letter())
    ;(await first.asked(messageId)).finish()
    await vi.waitFor(async () => expect((await store.run(messageId))?.endedAt).toBeDefined())
    first.runs.heard('sender', [messageId])
    const second = open(store)
    await second.turns.recover()
    await second.mailbox.recover()
    await vi.waitFor(async () => expect(await turnsIn(store, SENDER)).toHaveLength(2))
    await settled()
    expect(await store.unheard()).toEqual([])
  })

  it('of a session that waits for the very run that would wait is not waited for', async () => {
    const rooms = open()
    const from = await sender(rooms)
    const { messageId } = await rooms.mailbox.send(from, letter())
    const outer = wait(rooms, from, messageId)
    await rooms.asked(messageId)
    const inner = rooms.runs.record(messageId)!
    const back = await rooms.mailbox.send(inner, letter({ to: { agentId: 'main', sessionKey: SENDER } }))
    await expect(wait(rooms, inner, back.messageId)).rejects.toMatchObject({ kind: 'WOULD_WAIT_FOR_ITSELF' })
    ;(await rooms.asked(messageId)).finish()
    expect(await outer).toMatchObject({ state: 'replied' })
  })

  it('that only a connector was given is told again when its run fails after that', async () => {
    const store = openMemoryStore()
    const rooms = open(store)
    const from = await sender(rooms)
    const { messageId } = await rooms.mailbox.send(from, letter())
    ;(await rooms.asked(messageId)).finish()
    await vi.waitFor(async () => expect((await store.run(messageId))?.endedAt).toBeDefined())
    rooms.runs.heard('sender', [messageId])
    ;(await rooms.asked('sender')).fail(new Error('the connector is not connected'))
    await vi.waitFor(async () => expect(await turnsIn(store, SENDER)).toHaveLength(2))
  })

  it('is not waited for by two sessions that wait for each other', async () => {
    const rooms = open()
    const [OTHER, key] = ['agent:main:other', 'other']
    const one = await sender(rooms)
    await rooms.send(key, { sessionKey: OTHER })
    await rooms.asked(key)
    const other = rooms.runs.record(key)!
    const there = await rooms.mailbox.send(one, letter({ to: { agentId: 'main', sessionKey: OTHER } }))
    const back = await rooms.mailbox.send(other, letter({ to: { agentId: 'main', sessionKey: SENDER } }))
    void wait(rooms, one, there.messageId)
    await expect(wait(rooms, other, back.messageId)).rejects.toMatchObject({ kind: 'WOULD_WAIT_FOR_ITSELF' })
  })

  it('to a message that expired while nobody was there is that, and no model is asked for it', async () => {
    const store = openMemoryStore()
    const first = open(store)
    await first.send('busy')
    await first.asked('busy')
    const { messageId } = await first.mailbox.send(await sender(first), letter({ expiresMs: 1 }))
    await vi.waitFor(() => expect(Date.now()).toBeGreaterThan((first.runs.record(messageId)?.acceptedAt ?? 0) + 1))
    const second = open(store)
    await second.turns.recover()
    await second.mailbox.recover()
    await vi.waitFor(async () => expect(await second.mailbox.look(messageId)).toMatchObject({ state: 'expired' }))
    expect(second.order).not.toContain(messageId)
  })

  it('to a letter that was refused before is to the first one of its words, also when the run is resumed', async () => {
    const store = openMemoryStore()
    const first = open(store)
    const from = await sender(first)
    const accept = vi.spyOn(store, 'accept').mockRejectedValueOnce(new StoreError('FULL', 'no space'))
    await expect(first.mailbox.send(from, letter())).rejects.toThrow('no space')
    accept.mockRestore()
    const { messageId } = await first.mailbox.send(from, letter())
    const second = open(store, 'resume')
    await second.turns.recover()
    await second.mailbox.recover()
    await second.asked('sender')
    expect(await second.mailbox.send(second.runs.record('sender')!, letter())).toMatchObject({ messageId })
  })
})

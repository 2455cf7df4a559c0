/** What every store does, whatever it is made of. */
import { createHash } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type {
  Acceptance,
  Ending,
  Json,
  NewEvents,
  NewTurn,
  Spent,
  Store,
  TranscriptMessage,
} from '../../src/stores/store.ts'
import { cronJob, systemEvent } from '../support/job.ts'
import { message, turn } from '../support/turn.ts'

const key = 'agent:main:main'
const main = { key, agentId: 'main', sessionId: 'transcript-1' }
const wide = { limit: 1000, maxBytes: 1_000_000 }
/** A day of a thousand milliseconds. */
const day = { keepMs: 1000, eventsPerSession: 100 }
/** Whatever is there has been kept long enough. */
const none = { keepMs: 0, eventsPerSession: 100 }

const reply = (text: string, timestamp = 3000): TranscriptMessage => ({
  role: 'assistant',
  content: [{ type: 'text', text }],
  timestamp,
})

const NO_TOKENS = { input: 0, output: 0, totalTokens: 0 }

const completed = (changes: Partial<Ending> = {}): Ending => ({ state: 'completed', endedAt: 3000, ...changes })

const picture = (text: string): NewTurn['attachments'][number] => {
  const bytes = Buffer.from(text)
  const sha256 = createHash('sha256').update(bytes).digest('hex')
  return { sha256, mimeType: 'image/png', fileName: `${text}.png`, bytes }
}

/** As many tokens of each kind, at a price of a half for each. */
const spent = (model: string, tokens: number, provider = 'one'): Spent => ({
  provider,
  model,
  input: tokens,
  output: tokens,
  cacheRead: tokens,
  cacheWrite: tokens,
  totalTokens: 4 * tokens,
  cost: { input: tokens / 2, output: tokens / 2, cacheRead: tokens / 2, cacheWrite: tokens / 2, total: 2 * tokens },
})

const runIdOf = (answer: Acceptance): string | undefined =>
  answer.kind === 'known' ? answer.run.runId : 'runId' in answer ? answer.runId : undefined

/** Runs the suite against fresh stores of one kind. */
export const storeConformance = (name: string, open: () => Promise<Store>): void => {
  describe(`${name} as a store`, () => {
    let store: Store
    beforeEach(async () => {
      store = await open()
    })
    afterEach(() => store.close())

    const texts = async (sessionKey = key): Promise<unknown[]> => {
      const { messages } = await store.history(sessionKey, wide)
      return messages.map(({ content }) => content[0]?.['text'])
    }

    describe('accept', () => {
      it('refuses a turn for a session that is read-only, writes nothing, and still knows the keys it knew', async () => {
        const before = turn('k1')
        await store.accept(before)
        const session = { key: before.sessionKey, agentId: before.agentId, sessionId: 'unused' }
        await store.patchSession(session, { sendPolicy: 'deny' }, 1)
        expect(await store.accept(turn('k2'))).toEqual({ kind: 'denied' })
        expect(await store.run('run-k2')).toBeUndefined()
        expect(await store.accept(before)).toMatchObject({ kind: 'known' })
        await store.patchSession(session, { sendPolicy: null }, 2)
        expect(await store.accept(turn('k2'))).toMatchObject({ kind: 'accepted' })
      })

      it('keeps a turn as an admitted run', async () => {
        const asked = turn('a', { meta: { thinking: 'low', deep: [1, { x: null }] } })
        expect(await store.accept(asked)).toEqual({
          kind: 'accepted',
          runId: 'run-a',
          sessionId: 'transcript-1',
          settings: {},
        })
        const { spareRunId: _, ...kept } = asked
        expect(await store.run('run-a')).toEqual({ ...kept, state: 'admitted', text: '' })
      })

      it('makes the session of its first turn, with nothing in the transcript yet', async () => {
        await store.accept(turn('a'))
        expect(await store.session(key)).toEqual({
          ...main,
          madeBy: 'device-1',
          createdAt: 1000,
          updatedAt: 1000,
          settings: {},
          systemSent: false,
          abortedLastRun: false,
          inputTokens: 0,
          outputTokens: 0,
          totalTokens: 0,
          messageCount: 0,
        })
        expect(await store.history(key, wide)).toEqual({ sessionId: 'transcript-1', messages: [] })
      })

      it('uses the transcript of a session that exists and moves its updatedAt', async () => {
        await store.accept(turn('a'))
        const answer = await store.accept(turn('b', { sessionId: 'transcript-2', acceptedAt: 1500 }))
        expect(answer).toEqual({ kind: 'accepted', runId: 'run-b', sessionId: 'transcript-1', settings: {} })
        expect(await store.session(key)).toMatchObject({ createdAt: 1000, updatedAt: 1500 })
      })

      it('answers the same key and body with the run it has, and writes nothing', async () => {
        await store.accept(turn('a'))
        await store.start('run-a', 2000)
        await store.progress('run-a', 'so far')
        const answer = await store.accept(turn('a', { runId: 'other', acceptedAt: 9000 }))
        expect(answer).toMatchObject({ kind: 'known', run: { runId: 'run-a', state: 'started', text: 'so far' } })
        expect(await store.run('other')).toBeUndefined()
        expect(await store.session(key)).toMatchObject({ updatedAt: 1000 })
      })

      it('answers the same key with another body as reused, and writes nothing', async () => {
        await store.accept(turn('a'))
        const answer = await store.accept(turn('a', { runId: 'other', fingerprint: 'f2', message: 'else' }))
        expect(answer).toEqual({ kind: 'reused', runId: 'run-a' })
        expect(await store.run('run-a')).toMatchObject({ message: 'message a' })
        expect(await store.run('other')).toBeUndefined()
      })

      it('tells keys apart by principal, method, session and key', async () => {
        const same = turn('a')
        const asked = [
          same,
          { ...same, runId: 'r2', principal: 'device-2' },
          { ...same, runId: 'r3', method: 'agent' },
          { ...same, runId: 'r4', sessionKey: 'agent:main:other', sessionId: 'transcript-2' },
          { ...same, runId: 'r5', key: 'key-a\0b' },
          { ...same, runId: 'r6', key: 'key-a\0c' },
        ]
        const answers = await Promise.all(asked.map((each) => store.accept(each)))
        expect(answers.map(({ kind }) => kind)).toEqual(asked.map(() => 'accepted'))
      })

      it('accepts exactly one of many concurrent calls with one key', async () => {
        const calls = Array.from({ length: 20 }, (_, n) =>
          store.accept(turn('a', { runId: `run-${n}`, fingerprint: n % 2 === 0 ? 'f1' : 'f2' })),
        )
        const answers = await Promise.all(calls)
        expect(answers.map(({ kind }) => kind)).toEqual([
          'accepted',
          ...Array.from({ length: 19 }, (_, n) => (n % 2 === 0 ? 'reused' : 'known')),
        ])
        expect(new Set(answers.map(runIdOf))).toEqual(new Set(['run-0']))
        expect(await store.unsettled()).toHaveLength(1)
      })

      it('uses the spare id when another run has the wanted one', async () => {
        await store.accept(turn('a', { runId: 'wanted' }))
        const answer = await store.accept(turn('b', { runId: 'wanted', principal: 'device-2' }))
        expect(answer).toMatchObject({ kind: 'accepted', runId: 'spare-b' })
        expect(await store.accept(turn('b', { runId: 'wanted', principal: 'device-2' }))).toMatchObject({
          kind: 'known',
          run: { runId: 'spare-b', principal: 'device-2' },
        })
      })

      it('rejects with CONFLICT, and writes nothing, when both ids are taken', async () => {
        await store.accept(turn('a'))
        const asked = turn('b', { runId: 'run-a', spareRunId: 'run-a', sessionKey: 'agent:main:new', sessionId: 't2' })
        await expect(store.accept(asked)).rejects.toMatchObject({ name: 'StoreError', code: 'CONFLICT' })
        expect(await store.session('agent:main:new')).toBeUndefined()
      })

      it('does not let a session take the transcript of another', async () => {
        await store.accept(turn('a'))
        const asked = turn('b', { sessionKey: 'agent:main:new' })
        await expect(store.accept(asked)).rejects.toMatchObject({ code: 'CONFLICT' })
        expect(await store.run('run-b')).toBeUndefined()
      })

      it('keeps any text as it came', async () => {
        const message = 'nul \0 lone \ud800 astral 😀 quote " newline \n end'
        await store.accept(turn('a', { message }))
        await store.start('run-a', 2000)
        await store.progress('run-a', message)
        expect(await store.run('run-a')).toMatchObject({ message, text: message })
        expect(await texts()).toEqual([message])
      })

      it('takes what the caller gave at the time of the call', async () => {
        const asked = turn('a', { meta: { x: 1 }, attachments: [picture('p')] })
        const sha256 = asked.attachments[0]!.sha256
        const accepted = store.accept(asked)
        asked.meta['x'] = 2
        asked.attachments[0]!.bytes.fill(0)
        await accepted
        const run = (await store.run('run-a'))!
        expect(run.meta).toEqual({ x: 1 })
        run.meta['x'] = 3
        expect((await store.run('run-a'))!.meta).toEqual({ x: 1 })
        const bytes = (await store.attachment(sha256))!
        expect(Buffer.from(bytes).toString()).toBe('p')
        bytes.fill(0)
        expect(Buffer.from((await store.attachment(sha256))!).toString()).toBe('p')
      })
    })

    describe('start', () => {
      it('puts the user message in the transcript and marks the session', async () => {
        const [one, two] = [picture('one'), { ...picture('two'), mimeType: 'image/gif' }]
        const { fileName: _, ...nameless } = two
        await store.accept(turn('a', { attachments: [one, nameless] }))
        await store.start('run-a', 2000)
        expect(await store.history(key, wide)).toEqual({
          sessionId: 'transcript-1',
          messages: [
            {
              role: 'user',
              content: [
                { type: 'text', text: 'message a' },
                { type: 'image', mimeType: 'image/png', sha256: one.sha256, fileName: 'one.png' },
                { type: 'image', mimeType: 'image/gif', sha256: two.sha256 },
              ],
              timestamp: 2000,
            },
          ],
        })
        expect(await store.run('run-a')).toMatchObject({ state: 'started', startedAt: 2000 })
        expect(await store.session(key)).toMatchObject({ systemSent: true, messageCount: 1, updatedAt: 1000 })
      })

      it('begins an empty transcript with what was said before, and no other', async () => {
        const earlier = [
          { role: 'user' as const, text: 'one' },
          { role: 'assistant' as const, text: 'two' },
        ]
        await store.accept(turn('a', { earlier }))
        expect(await store.run('run-a')).toMatchObject({ earlier })
        await store.start('run-a', 2000)
        await store.settle('run-a', completed({ message: reply('three') }))
        await store.accept(turn('b', { earlier }))
        await store.start('run-b', 2500)
        expect(await texts()).toEqual(['one', 'two', 'message a', 'three', 'message b'])
        const { messages } = await store.history(key, wide)
        expect(messages.map(({ role }) => role)).toEqual(['user', 'assistant', 'user', 'assistant', 'user'])
        expect(await store.session(key)).toMatchObject({ messageCount: 5, opening: 'one' })
        // It is in the transcript, and is not kept twice.
        for (const id of ['run-a', 'run-b']) expect(await store.run(id)).not.toHaveProperty('earlier')
      })

      it('puts what was said before also before a turn that was stopped while it waited', async () => {
        await store.accept(turn('a', { earlier: [{ role: 'user', text: 'one' }] }))
        await store.settle('run-a', { state: 'aborted', endedAt: 2000, stopReason: 'rpc' })
        expect(await texts()).toEqual(['one', 'message a'])
        expect(await store.run('run-a')).not.toHaveProperty('earlier')
      })

      it('rejects with CONFLICT unless the run is admitted', async () => {
        await store.accept(turn('a'))
        await store.start('run-a', 2000)
        await expect(store.start('run-a', 2001)).rejects.toMatchObject({ code: 'CONFLICT' })
        await store.settle('run-a', completed())
        await expect(store.start('run-a', 2002)).rejects.toMatchObject({ code: 'CONFLICT' })
        await expect(store.start('nobody', 2003)).rejects.toMatchObject({ code: 'CONFLICT' })
        expect(await texts()).toEqual(['message a'])
      })

      it('puts the turn in the new transcript when the session was reset since', async () => {
        await store.accept(turn('a'))
        await store.resetSession({ ...main, sessionId: 'transcript-2' }, 1500)
        await store.start('run-a', 2000)
        expect(await store.history(key, wide)).toMatchObject({
          sessionId: 'transcript-2',
          messages: [{ role: 'user' }],
        })
        expect(await store.run('run-a')).toMatchObject({ sessionId: 'transcript-2' })
      })

      it('makes the session anew when it was deleted since', async () => {
        await store.accept(turn('a'))
        await store.deleteSession(key)
        await store.start('run-a', 2000)
        expect(await store.session(key)).toMatchObject({ ...main, createdAt: 2000, messageCount: 1, systemSent: true })
        expect(await texts()).toEqual(['message a'])
      })
    })

    describe('progress', () => {
      it('replaces the text of a started run', async () => {
        await store.accept(turn('a'))
        await store.start('run-a', 2000)
        await Promise.all([store.progress('run-a', 'so'), store.progress('run-a', 'so far')])
        expect(await store.run('run-a')).toMatchObject({ text: 'so far' })
        expect(await store.unsettled()).toMatchObject([{ text: 'so far' }])
      })

      it('is ignored before the start, after the end and for an unknown run', async () => {
        await store.accept(turn('a'))
        await store.progress('run-a', 'early')
        expect(await store.run('run-a')).toMatchObject({ text: '' })
        await store.settle('run-a', completed())
        await store.progress('run-a', 'late')
        await store.progress('nobody', 'lost')
        expect(await store.run('run-a')).toMatchObject({ text: '' })
      })
    })

    describe('settle', () => {
      it('keeps the ending, the answer and the totals, and puts the streamed text away', async () => {
        await store.accept(turn('a'))
        await store.start('run-a', 2000)
        await store.progress('run-a', 'hel')
        const settled = await store.settle(
          'run-a',
          completed({
            stopReason: 'stop',
            message: reply('hello'),
            result: { status: 'ok' },
            usage: { input: 10, output: 5, totalTokens: 15 },
            modelProvider: 'echo',
            model: 'one',
          }),
        )
        expect(settled).toBe(true)
        expect(await store.run('run-a')).toMatchObject({
          state: 'completed',
          startedAt: 2000,
          endedAt: 3000,
          stopReason: 'stop',
          result: { status: 'ok' },
          text: '',
        })
        expect((await store.history(key, wide)).messages[1]).toEqual(reply('hello'))
        expect(await store.session(key)).toMatchObject({
          updatedAt: 3000,
          messageCount: 2,
          abortedLastRun: false,
          inputTokens: 10,
          outputTokens: 5,
          totalTokens: 15,
          modelProvider: 'echo',
          model: 'one',
        })
      })

      it('keeps what was said and called on the way before the answer, and counts it', async () => {
        const call = { type: 'toolCall', id: 'c1', name: 'look', arguments: '{"at":"\\u0000"}' }
        const before: TranscriptMessage[] = [
          { role: 'assistant', content: [{ type: 'text', text: 'one moment' }, call], timestamp: 2500 },
          { role: 'toolResult', content: [{ type: 'text', text: 'seen' }], timestamp: 2600, toolCallId: 'c1' },
        ]
        await store.accept(turn('a'))
        await store.start('run-a', 2000)
        await store.settle('run-a', completed({ before, message: reply('done') }))
        expect((await store.history(key, wide)).messages.slice(1)).toEqual([...before, reply('done')])
        expect(await store.session(key)).toMatchObject({ messageCount: 4 })
        await store.accept(turn('b'))
        await store.settle('run-b', { state: 'failed', endedAt: 3500, before: before.slice(0, 1) })
        expect((await texts()).slice(4)).toEqual(['message b', 'one moment'])
        expect(await store.session(key)).toMatchObject({ messageCount: 6 })
      })

      it('keeps nothing of the way in a transcript that is gone', async () => {
        await store.accept(turn('a'))
        await store.start('run-a', 2000)
        await store.deleteSession(key)
        await store.patchSession({ ...main, sessionId: 'transcript-2' }, {}, 2500)
        await store.settle('run-a', completed({ before: [reply('lost')], message: reply('late') }))
        expect(await texts()).toEqual([])
        expect(await store.session(key)).toMatchObject({ messageCount: 0 })
      })

      it('adds the tokens of each run to the session', async () => {
        for (const name of ['a', 'b']) {
          await store.accept(turn(name))
          await store.start(`run-${name}`, 2000)
          await store.settle(`run-${name}`, completed({ usage: { input: 10, output: 5, totalTokens: 15 } }))
        }
        expect(await store.session(key)).toMatchObject({ inputTokens: 20, outputTokens: 10, totalTokens: 30 })
      })

      it('lets the first ending stay', async () => {
        await store.accept(turn('a'))
        await store.start('run-a', 2000)
        const endings = [
          store.settle('run-a', { state: 'aborted', endedAt: 3000, stopReason: 'rpc' }),
          store.settle('run-a', completed({ message: reply('late'), usage: { input: 1, output: 1, totalTokens: 2 } })),
        ]
        expect(await Promise.all(endings)).toEqual([true, false])
        expect(await store.run('run-a')).toMatchObject({ state: 'aborted', stopReason: 'rpc' })
        expect(await texts()).toEqual(['message a'])
        expect(await store.session(key)).toMatchObject({ totalTokens: 0, abortedLastRun: true })
      })

      it('puts the user message of a run that never started in the transcript first', async () => {
        const sent = picture('p')
        await store.accept(turn('a', { attachments: [sent] }))
        await store.settle('run-a', { state: 'failed', endedAt: 3000, error: 'no model', message: reply('sorry') })
        const { messages } = await store.history(key, wide)
        expect(messages).toMatchObject([
          { role: 'user', timestamp: 3000, content: [{ text: 'message a' }, { type: 'image', sha256: sent.sha256 }] },
          { role: 'assistant' },
        ])
        expect(await store.session(key)).toMatchObject({ messageCount: 2, systemSent: false })
        const run = (await store.run('run-a'))!
        expect(run).toMatchObject({ state: 'failed', error: 'no model' })
        expect(run.startedAt).toBeUndefined()
      })

      it('keeps the user message of a run that never started out of the transcript when it is told to', async () => {
        await store.accept(turn('a'))
        await store.accept(turn('b'))
        await store.start('run-b', 2000)
        for (const id of ['run-a', 'run-b'])
          await store.settle(id, { state: 'aborted', endedAt: 3000, stopReason: 'revoked', unsaid: true })
        // What the model was asked already was said.
        expect(await texts()).toEqual(['message b'])
        expect(await store.session(key)).toMatchObject({ messageCount: 1 })
        expect(await store.run('run-a')).toMatchObject({ state: 'aborted', message: 'message a' })
      })

      it('says whether the last run was aborted', async () => {
        const seen: unknown[] = []
        for (const state of ['aborted', 'completed', 'timedOut', 'completed'] as const) {
          const name = String(seen.length)
          await store.accept(turn(name))
          await store.start(`run-${name}`, 2000)
          await store.settle(`run-${name}`, { state, endedAt: 3000 })
          seen.push((await store.session(key))?.abortedLastRun)
        }
        expect(seen).toEqual([true, false, true, false])
      })

      it('ends a started turn in the transcript it began in', async () => {
        await store.accept(turn('a'))
        await store.start('run-a', 2000)
        await store.resetSession({ ...main, sessionId: 'transcript-2' }, 2500)
        const usage = { input: 1, output: 1, totalTokens: 2 }
        expect(await store.settle('run-a', completed({ message: reply('old'), usage }))).toBe(true)
        expect(await texts()).toEqual([])
        expect(await store.session(key)).toMatchObject({ messageCount: 0, totalTokens: 0, updatedAt: 2500 })
      })

      it('does not bring a deleted session back', async () => {
        await store.accept(turn('a'))
        await store.accept(turn('b'))
        await store.start('run-a', 2000)
        await store.deleteSession(key)
        expect(await store.settle('run-a', completed({ message: reply('late') }))).toBe(true)
        expect(await store.settle('run-b', { state: 'aborted', endedAt: 3000 })).toBe(true)
        expect(await store.session(key)).toBeUndefined()
        expect(await store.run('run-a')).toMatchObject({ state: 'completed' })
      })

      it('rejects with CONFLICT for an unknown run', async () => {
        await expect(store.settle('nobody', completed())).rejects.toMatchObject({ code: 'CONFLICT' })
      })
    })

    describe('runs', () => {
      it('lists the runs without an ending in the order they were accepted', async () => {
        for (const name of ['c', 'a', 'd', 'b']) await store.accept(turn(name))
        await store.start('run-d', 2000)
        await store.settle('run-a', completed())
        expect((await store.unsettled()).map(({ runId, state }) => [runId, state])).toEqual([
          ['run-c', 'admitted'],
          ['run-d', 'started'],
          ['run-b', 'admitted'],
        ])
      })

      it('forgets keys and ended runs that were kept long enough, and no transcript', async () => {
        await store.accept(turn('old'))
        await store.accept(turn('open'))
        await store.settle('run-old', completed())
        expect((await store.age(500, day)).runs).toBe(0)
        await store.accept(turn('new'))
        await store.settle('run-new', completed())
        expect((await store.age(999, day)).runs).toBe(0)
        expect((await store.age(1, day)).runs).toBe(1)
        expect((await store.age(0, day)).runs).toBe(0)
        expect(await store.run('run-old')).toBeUndefined()
        expect((await store.accept(turn('open', { acceptedAt: 3000 }))).kind).toBe('known')
        expect((await store.accept(turn('new', { acceptedAt: 3000 }))).kind).toBe('known')
        expect((await store.accept(turn('old', { acceptedAt: 3000 }))).kind).toBe('accepted')
        expect(await texts()).toEqual(['message old', 'message new'])
      })

      it('never forgets a key early and never keeps one for ever, whatever the steps and the wall clock', async () => {
        let age = 0
        const accepted = new Map<string, number>()
        for (let n = 0; n < 60; n += 1) {
          const elapsed = [0, 1, 30, 41, 42, 100, 700, 5000][(n * 7 + (n >> 3)) % 8]!
          await store.accept(turn(`n${n}`, { acceptedAt: n % 2 === 0 ? 1e15 : -1e15 }))
          await store.settle(`run-n${n}`, completed())
          accepted.set(`run-n${n}`, age)
          await store.age(elapsed, day)
          age += elapsed
          for (const [runId, at] of accepted) {
            const isThere = (await store.run(runId)) !== undefined
            if (age - at < 1000) expect(isThere, `${runId} after ${age - at} of 1000 ms`).toBe(true)
            // Late by at most one era, which the longest step may draw out.
            if (age - at > 1000 + 42 + 5000) expect(isThere, `${runId} after ${age - at} ms`).toBe(false)
          }
        }
      })
    })

    describe('messages', () => {
      const idsOf = (runs: { runId: string }[]) => runs.map(({ runId }) => runId)
      const unheard = async () => idsOf(await store.unheard())
      const heard = async (name: string) => (await store.run(`run-${name}`))?.heard
      /** Messages that have ended. */
      const told = async (...names: string[]) => {
        for (const name of names) {
          await store.accept(message(name))
          await store.settle(`run-${name}`, completed())
        }
      }
      /** A turn that brings the answer to a message. */
      const back = (name: string, answers: string, changes: Partial<NewTurn> = {}) =>
        turn(name, { answers, chain: { id: 'run-first', hop: 0, path: ['main'] }, ...changes })
      // The session that they were sent from.
      beforeEach(() => store.patchSession(main, {}, 1))

      it('keep their chain, their sender and what they answer', async () => {
        const sent = { ...message('a').sent!, expiresAt: 9000 }
        await store.accept(message('a', { sent }))
        await store.accept(back('b', 'run-a'))
        expect(await store.run('run-a')).toMatchObject({ chain: message('a').chain, sent })
        expect(await store.run('run-b')).toMatchObject({ chain: { hop: 0 }, answers: 'run-a' })
      })

      it('are unheard once they have ended, in the order they were accepted', async () => {
        for (const name of ['c', 'a', 'b', 'open']) await store.accept(message(name))
        await store.accept(message('silent', { sent: { ...message('').sent!, reply: 'none' } }))
        await store.accept(turn('plain'))
        expect(await unheard()).toEqual([])
        for (const name of ['b', 'silent', 'plain', 'c']) {
          await store.start(`run-${name}`, 2000)
          await store.settle(`run-${name}`, { state: 'interrupted', endedAt: 3000 })
        }
        await store.settle('run-a', completed({ result: { text: 'yes' } }))
        expect(await store.unheard()).toMatchObject([
          { runId: 'run-c', state: 'interrupted' },
          { runId: 'run-a', result: { text: 'yes' } },
          { runId: 'run-b', sent: { reply: 'once' } },
        ])
      })

      it('are heard with the turn that brings the answer, once', async () => {
        await told('a', 'b')
        expect(await store.accept(back('c', 'run-a'))).toMatchObject({ kind: 'accepted', runId: 'run-c' })
        expect(await unheard()).toEqual(['run-b'])
        expect([await heard('a'), await heard('b')]).toEqual([true, undefined])
        expect(await store.accept(back('d', 'run-a', { sessionKey: 'agent:main:new' }))).toEqual({ kind: 'heard' })
        expect(await store.run('run-d')).toBeUndefined()
        expect(await store.session('agent:main:new')).toBeUndefined()
        expect(await store.accept(back('c', 'run-a'))).toMatchObject({ kind: 'known', run: { runId: 'run-c' } })
        expect(await store.accept(back('c', 'run-a', { fingerprint: 'f2' }))).toMatchObject({ kind: 'reused' })
      })

      it('count as heard when nobody knows them', async () => {
        expect(await store.accept(back('a', 'run-nobody'))).toEqual({ kind: 'heard' })
        expect(await store.accept(back('a', 'run-a'))).toEqual({ kind: 'heard' })
        expect(await store.unsettled()).toEqual([])
      })

      it('stay unheard when the turn that brings the answer does not fit what is there', async () => {
        await told('a')
        const taken = back('c', 'run-a', { runId: 'run-a', spareRunId: 'run-a' })
        await expect(store.accept(taken)).rejects.toMatchObject({ code: 'CONFLICT' })
        expect(await unheard()).toEqual(['run-a'])
      })

      it('are done with where nobody is to hear the answer: a session that is read-only, or gone', async () => {
        await told('a', 'b')
        expect(await store.accept(back('d', 'run-b', { sessionKey: 'agent:main:gone' }))).toEqual({ kind: 'heard' })
        expect(await store.session('agent:main:gone')).toBeUndefined()
        await store.patchSession(main, { sendPolicy: 'deny' }, 1)
        expect(await store.accept(back('c', 'run-a'))).toEqual({ kind: 'denied' })
        expect([await store.run('run-c'), await store.run('run-d')]).toEqual([undefined, undefined])
        expect(await unheard()).toEqual([])
      })

      it('are told to one of many turns that bring the answer at once', async () => {
        await told('a')
        const answers = await Promise.all(Array.from({ length: 5 }, (_, n) => store.accept(back(`b${n}`, 'run-a'))))
        expect(answers.map(({ kind }) => kind)).toEqual(['accepted', 'heard', 'heard', 'heard', 'heard'])
      })

      it('are heard with the run that took their answers in, which may name what it cannot hear', async () => {
        await told('a', 'b', 'c')
        await store.accept(back('d', 'run-a'))
        await store.accept(turn('e'))
        await store.settle('run-e', completed({ heard: ['run-a', 'run-nobody', 'run-b', 'run-b', 'run-e'] }))
        expect(await unheard()).toEqual(['run-c'])
        expect([await heard('a'), await heard('b'), await heard('c')]).toEqual([true, true, undefined])
        expect(await store.run('run-e')).toMatchObject({ state: 'completed', endedAt: 3000 })
        await store.settle('run-e', completed({ heard: ['run-c'] }))
        expect(await unheard()).toEqual(['run-c'])
      })

      it('are still to be heard when the run that took their answers in was interrupted', async () => {
        await told('a')
        await store.accept(turn('b'))
        await store.settle('run-b', { state: 'interrupted', endedAt: 3000, heard: ['run-a'] })
        expect(await unheard()).toEqual(['run-a'])
        expect(await store.accept(back('c', 'run-a'))).toMatchObject({ kind: 'accepted' })
      })

      it('that were heard before they ended are not told again', async () => {
        for (const name of ['a', 'b']) await store.accept(message(name))
        await store.accept(back('c', 'run-a'))
        await store.accept(turn('d'))
        await store.settle('run-d', completed({ heard: ['run-b'] }))
        for (const name of ['a', 'b']) {
          await store.start(`run-${name}`, 2000)
          await store.settle(`run-${name}`, completed())
        }
        expect(await unheard()).toEqual([])
        expect([await heard('a'), await heard('b')]).toEqual([true, true])
      })

      it('are not forgotten before their answer is heard', async () => {
        await told('a', 'b')
        await store.accept(back('c', 'run-a'))
        await store.accept(message('open'))
        expect(await store.age(1, none)).toMatchObject({ runs: 1 })
        expect(idsOf(await store.chain('run-first'))).toEqual(['run-b', 'run-c', 'run-open'])
        expect(idsOf(await store.mail({ limit: 9 }))).toEqual(['run-open', 'run-b'])
        expect(await unheard()).toEqual(['run-b'])
        expect(await store.accept(message('b'))).toMatchObject({ kind: 'known' })
        await store.settle('run-c', completed({ heard: ['run-b'] }))
        expect(await store.age(1, none)).toMatchObject({ runs: 2 })
        expect(idsOf(await store.chain('run-first'))).toEqual(['run-open'])
        expect(await store.accept(back('d', 'run-b'))).toEqual({ kind: 'heard' })
        expect(await store.accept(message('b'))).toMatchObject({ kind: 'accepted' })
      })

      it('stay unheard when the session they were sent to is deleted', async () => {
        await told('a')
        await store.deleteSession('agent:other:main')
        expect(await unheard()).toEqual(['run-a'])
      })

      it('are found by their chain, after the request at its beginning', async () => {
        await store.accept(turn('elsewhere'))
        await store.accept(message('early'))
        await store.accept(turn('first'))
        await store.accept(message('b'))
        await store.accept(message('x', { chain: { id: 'run-elsewhere', hop: 1, path: ['main', 'other'] } }))
        await store.accept(message('a', { chain: { id: 'run-first', hop: 2, path: ['main', 'other', 'other'] } }))
        await store.accept(back('c', 'run-b'))
        await store.start('run-a', 2000)
        await store.progress('run-a', 'so far')
        const chain = await store.chain('run-first')
        expect(idsOf(chain)).toEqual(['run-first', 'run-early', 'run-b', 'run-a', 'run-c'])
        expect(chain[3]).toMatchObject({ state: 'started', text: 'so far' })
        expect(idsOf(await store.chain('run-b'))).toEqual(['run-b'])
        expect(await store.chain('run-nobody')).toEqual([])
      })

      it('are found by their chain once, and whatever its id', async () => {
        for (const id of ['run-odd', 'odd \0 a', 'odd \0 b', "' OR 1"])
          await store.accept(message(id, { runId: id, chain: { id, hop: 0, path: ['other'] } }))
        for (const id of ['run-odd', 'odd \0 a', 'odd \0 b', "' OR 1"])
          expect(idsOf(await store.chain(id))).toEqual([id])
      })

      it('are found by whom they were sent to, the newest first', async () => {
        const third = { agentId: 'third', sessionKey: 'agent:third:main', sessionId: 'transcript-third' }
        await store.accept(turn('first', { agentId: 'other', sessionKey: 'agent:other:x', sessionId: 'x' }))
        await store.accept(message('b'))
        await store.accept(message('c', third))
        await store.accept(message('a', { sent: { ...message('').sent!, reply: 'none' } }))
        await store.accept(back('d', 'run-b'))
        await store.settle('run-b', completed())
        const mail = async (filter: Parameters<Store['mail']>[0]) => idsOf(await store.mail(filter))
        expect(await mail({ limit: 9 })).toEqual(['run-a', 'run-c', 'run-b'])
        expect(await mail({ agentId: 'other', limit: 9 })).toEqual(['run-a', 'run-b'])
        expect(await mail({ agentId: 'third', limit: 9 })).toEqual(['run-c'])
        expect(await mail({ agentId: 'main', limit: 9 })).toEqual([])
        expect(await mail({ limit: 2 })).toEqual(['run-a', 'run-c'])
        expect(await mail({ limit: 0 })).toEqual([])
      })
    })

    describe('system events', () => {
      const words = async () => (await store.systemEvents(key)).map(({ text }) => text)

      it('wait for their session, the oldest first, and the last twenty of them', async () => {
        for (let n = 1; n <= 23; n += 1) await store.addSystemEvent(systemEvent(`e${n}`))
        await store.addSystemEvent(systemEvent('other', { sessionKey: 'agent:other:main' }))
        expect(await words()).toEqual(Array.from({ length: 20 }, (_, n) => `word e${n + 4}`))
        expect(await store.systemEvents()).toHaveLength(21)
      })

      it('are heard with the next turn that starts, once, before its own words', async () => {
        await store.addSystemEvent(systemEvent('a'))
        await store.addSystemEvent(systemEvent('b'))
        await store.accept(turn('k'))
        expect(await words()).toHaveLength(2)
        await store.start('run-k', 2000)
        await store.start('run-k', 2001, 2)
        const at = '[1970-01-01T00:00:01.000Z]'
        expect(await texts()).toEqual([`System: ${at} word a\nSystem: ${at} word b`, 'message k'])
        expect(await words()).toEqual([])
        expect(await store.session(key)).toMatchObject({ messageCount: 2 })
      })

      it('are told in the message of a quiet turn, and wait on until it has completed', async () => {
        await store.addSystemEvent(systemEvent('a'))
        await store.accept(turn('q', { quiet: true }))
        await store.start('run-q', 2000)
        await store.addSystemEvent(systemEvent('b'))
        expect(await store.run('run-q')).toMatchObject({
          message: 'message q\n\nSystem: [1970-01-01T00:00:01.000Z] word a',
        })
        expect(await words()).toEqual(['word a', 'word b'])
        await store.settle('run-q', completed({ unsaid: true }))
        expect(await words()).toEqual(['word b'])
      })

      it.each(['failed', 'aborted', 'timedOut', 'interrupted'] as const)(
        'are heard by the next turn when the quiet one that told of them %s',
        async (state) => {
          await store.addSystemEvent(systemEvent('a'))
          await store.accept(turn('q', { quiet: true }))
          await store.start('run-q', 2000)
          await store.settle('run-q', { state, endedAt: 2001, unsaid: true })
          expect(await words()).toEqual(['word a'])
        },
      )

      it('go with their session', async () => {
        await store.accept(turn('k'))
        await store.addSystemEvent(systemEvent('a'))
        await store.deleteSession(key)
        expect(await words()).toEqual([])
      })
    })

    describe('a quiet turn', () => {
      /** A session whose stream has an event. */
      beforeEach(async () => {
        await store.resetSession(main, 1)
        await store.appendEvents({ sessionKey: key, epoch: 'e', from: 1, to: 1, events: '[]', at: 1, announced: [] })
      })

      it('comes into the transcript with its answer', async () => {
        await store.accept(turn('q', { quiet: true }))
        await store.start('run-q', 2000)
        expect(await texts()).toEqual([])
        await store.settle('run-q', completed({ message: reply('look here') }))
        expect(await texts()).toEqual(['message q', 'look here'])
        expect(await store.session(key)).toMatchObject({ messageCount: 2, opening: 'message q' })
        // Its end is yet to be told.
        expect(await store.unfinishedStreams()).toEqual([key])
      })

      it('that has nothing to say leaves nothing, and nobody waits to hear of its end', async () => {
        await store.accept(turn('q', { quiet: true }))
        await store.start('run-q', 2000)
        await store.settle('run-q', completed({ unsaid: true, usage: { input: 1, output: 2, totalTokens: 3 } }))
        expect(await texts()).toEqual([])
        expect(await store.session(key)).toMatchObject({ messageCount: 0, totalTokens: 3 })
        expect(await store.unfinishedStreams()).toEqual([])
        expect(await store.run('run-q')).toMatchObject({ state: 'completed', quiet: true })
      })
    })

    describe('jobs', () => {
      const due = (dueAt: number, changes: object = {}) => ({ jobId: 'j', dueAt, startedAt: dueAt + 1, ...changes })

      it('are kept, replaced and removed', async () => {
        const job = cronJob('j')
        expect(await store.keepJob({ job })).toBe(true)
        expect(await store.jobs()).toEqual([job])
        await store.keepJob({ job: { ...job, name: 'another' } })
        expect(await store.jobs()).toMatchObject([{ name: 'another' }])
        expect([await store.removeJob('j'), await store.removeJob('j')]).toEqual([true, false])
        expect(await store.jobs()).toEqual([])
      })

      it('fire once for each time they were due, and each firing ends once', async () => {
        const job = cronJob('j')
        await store.keepJob({ job })
        const step = { job: { ...job, name: 'fired' }, firing: due(10) }
        expect([await store.keepJob(step), await store.keepJob(step)]).toEqual([true, false])
        expect(await store.openFirings()).toEqual([due(10)])
        expect(await store.firings({ limit: 9 })).toEqual([])
        const end = { job, firing: due(10, { endedAt: 20, status: 'ok' }) }
        expect([await store.keepJob(end), await store.keepJob(end), await store.keepJob(step)]).toEqual([
          true,
          false,
          false,
        ])
        expect(await store.openFirings()).toEqual([])
        expect(await store.firings({ limit: 9 })).toMatchObject([{ dueAt: 10, status: 'ok' }])
        expect(await store.jobs()).toMatchObject([{ name: 'job j' }])
      })

      it('keep all of a step or nothing of it', async () => {
        const job = cronJob('j')
        await store.keepJob({ job })
        const step = { job, firing: due(10, { endedAt: 11 }), event: systemEvent('e') }
        await store.keepJob(step)
        await store.keepJob({ ...step, event: systemEvent('again') })
        expect((await store.systemEvents(key)).map(({ id }) => id)).toEqual(['e'])
      })

      it('that were removed are not brought back by the end of a firing', async () => {
        const job = cronJob('j')
        await store.keepJob({ job })
        await store.keepJob({ job, firing: due(10) })
        await store.removeJob('j')
        expect(await store.openFirings()).toEqual([])
        const end = { job, firing: due(10, { endedAt: 20 }), event: systemEvent('e') }
        expect(await store.keepJob(end)).toBe(false)
        expect([await store.jobs(), await store.systemEvents(key)]).toEqual([[], []])
      })

      it('remember their last 200 firings, each job its own', async () => {
        for (const id of ['j', 'k']) await store.keepJob({ job: cronJob(id) })
        await store.keepJob({ job: cronJob('k'), firing: { jobId: 'k', dueAt: 3, startedAt: 3, endedAt: 4 } })
        await store.keepJob({ job: cronJob('j'), firing: due(1) })
        for (let at = 2; at <= 210; at += 1)
          await store.keepJob({ job: cronJob('j'), firing: due(at, { endedAt: at + 1 }) })
        const kept = await store.firings({ jobId: 'j', limit: 1_000 })
        expect([kept.length, kept[0]?.dueAt, kept.at(-1)?.dueAt]).toEqual([200, 210, 11])
        expect((await store.firings({ limit: 1_000 })).at(-1)).toMatchObject({ jobId: 'k', dueAt: 3 })
        expect(await store.openFirings()).toEqual([due(1)])
        expect(await store.firings({ jobId: 'j', limit: 2 })).toMatchObject([{ dueAt: 210 }, { dueAt: 209 }])
      })
    })

    describe('usage', () => {
      const noon = (date: string) => Date.parse(`${date}T12:00:00Z`)
      let runs = 0
      /** Ends one more run of a session. */
      const used = async (endedAt: number, models: Spent[], changes: Partial<NewTurn> = {}) => {
        runs += 1
        const name = `u${runs}`
        await store.accept(turn(name, changes))
        await store.settle(`run-${name}`, completed({ endedAt, spent: models }))
        return `run-${name}`
      }
      const days = async (filter: Parameters<Store['usage']>[0] = {}) =>
        (await store.usage(filter)).map(({ day, sessionKey, provider, model, totalTokens }) =>
          [day, sessionKey.split(':')[2], provider, model, totalTokens / 4].join(' '),
        )
      const other = { sessionKey: 'agent:other:x', agentId: 'other', sessionId: 'transcript-x' }

      it('is kept with the run, and added up by day, session and model', async () => {
        const runId = await used(noon('2026-03-01'), [spent('m', 1), spent('n', 2)])
        await used(noon('2026-03-01'), [spent('m', 4)])
        await used(noon('2026-03-01'), [spent('m', 8)], other)
        expect(await store.run(runId)).toMatchObject({ spent: [spent('m', 1), spent('n', 2)] })
        expect(await store.usage({})).toEqual([
          { ...spent('m', 5), day: '2026-03-01', sessionKey: key, agentId: 'main', runs: 2 },
          { ...spent('n', 2), day: '2026-03-01', sessionKey: key, agentId: 'main', runs: 1 },
          { ...spent('m', 8), day: '2026-03-01', sessionKey: other.sessionKey, agentId: 'other', runs: 1 },
        ])
      })

      it('tells models of one name apart by their provider, and counts a run once that names one twice', async () => {
        await used(noon('2026-03-01'), [spent('m', 1), spent('m', 2, 'two'), spent('m', 4)])
        expect(await store.usage({})).toMatchObject([
          { provider: 'one', totalTokens: 20, runs: 1 },
          { provider: 'two', totalTokens: 8, runs: 1 },
        ])
      })

      it('is of the UTC day that a run ended in', async () => {
        await used(Date.parse('2026-02-28T23:59:59.999Z'), [spent('m', 1)])
        await used(Date.parse('2026-03-01T00:00:00.000Z'), [spent('m', 2)])
        expect(await days()).toEqual(['2026-02-28 main one m 1', '2026-03-01 main one m 2'])
      })

      it('is of the first ending alone, whatever it is', async () => {
        await store.accept(turn('a'))
        await store.settle('run-a', { state: 'failed', endedAt: noon('2026-03-01'), spent: [spent('m', 1)] })
        await store.settle('run-a', completed({ endedAt: noon('2026-03-02'), spent: [spent('m', 2)] }))
        expect(await days()).toEqual(['2026-03-01 main one m 1'])
      })

      it('is answered from one day to another and for one session, the oldest day first', async () => {
        for (const date of ['2026-03-03', '2026-03-01', '2026-03-02', '2026-03-04']) {
          await used(noon(date), [spent('m', 1)])
          await used(noon(date), [spent('m', 2)], other)
        }
        expect(await days({ from: '2026-03-02', to: '2026-03-03' })).toEqual([
          '2026-03-02 main one m 1',
          '2026-03-02 x one m 2',
          '2026-03-03 main one m 1',
          '2026-03-03 x one m 2',
        ])
        expect(await days({ from: '2026-03-04' })).toEqual(['2026-03-04 main one m 1', '2026-03-04 x one m 2'])
        expect(await days({ to: '2026-03-01', sessionKey: key })).toEqual(['2026-03-01 main one m 1'])
        expect(await days({ from: '2026-03-03', sessionKey: other.sessionKey })).toEqual([
          '2026-03-03 x one m 2',
          '2026-03-04 x one m 2',
        ])
        expect(await days({ from: '2026-03-03', to: '2026-03-02' })).toEqual([])
        expect(await days({ sessionKey: 'agent:main:nobody' })).toEqual([])
      })

      it('keeps sessions and models apart whose names are alike up to a NUL', async () => {
        for (const name of ['a\0', 'a\0b'])
          await used(noon('2026-03-01'), [spent(`m${name}`, 1)], { sessionKey: `agent:main:${name}`, sessionId: name })
        expect(await days({ sessionKey: 'agent:main:a\0b' })).toEqual(['2026-03-01 a\0b one ma\0b 1'])
        expect(await days()).toHaveLength(2)
      })

      it('outlives its session and its runs', async () => {
        const runId = await used(noon('2026-03-01'), [spent('m', 1)])
        await store.deleteSession(key)
        await store.age(1, none)
        expect(await store.run(runId)).toBeUndefined()
        expect(await days()).toEqual(['2026-03-01 main one m 1'])
      })

      it('is forgotten more than 400 days before the newest day', async () => {
        await used(noon('2025-01-24'), [spent('m', 1)])
        await used(noon('2025-01-25'), [spent('m', 2)])
        await used(noon('2025-01-26'), [spent('m', 3)])
        await used(noon('2026-02-28'), [spent('m', 4)])
        await store.age(0, day)
        expect(await days()).toEqual([
          '2025-01-24 main one m 1',
          '2025-01-25 main one m 2',
          '2025-01-26 main one m 3',
          '2026-02-28 main one m 4',
        ])
        await used(noon('2026-03-01'), [spent('m', 5)])
        await store.age(0, day)
        expect((await days())[0]).toBe('2025-01-25 main one m 2')
        await used(noon('2026-03-02'), [spent('m', 6)])
        await store.age(0, day)
        await store.age(0, day)
        expect(await days()).toEqual([
          '2025-01-26 main one m 3',
          '2026-02-28 main one m 4',
          '2026-03-01 main one m 5',
          '2026-03-02 main one m 6',
        ])
      })
    })

    describe('sessions', () => {
      it('sets and clears settings, making the session if it is new', async () => {
        const made = await store.patchSession(main, { label: 'One', thinkingLevel: 'low', deep: { x: null } }, 1000)
        expect(made).toMatchObject({ ...main, createdAt: 1000, settings: { label: 'One', deep: { x: null } } })
        const patched = await store.patchSession({ ...main, sessionId: 'unused' }, { label: null, model: 'm' }, 2000)
        expect(patched.settings).toEqual({ thinkingLevel: 'low', deep: { x: null }, model: 'm' })
        expect(patched).toMatchObject({ sessionId: 'transcript-1', createdAt: 1000, updatedAt: 2000 })
        expect(await store.session(key)).toEqual(patched)
      })

      it('keeps a setting with a name that objects have already', async () => {
        const settings = JSON.parse('{"__proto__": {"polluted": true}, "constructor": "x"}') as { [name: string]: Json }
        const { settings: kept } = await store.patchSession(main, settings, 1000)
        expect(Object.keys(kept).sort()).toEqual(['__proto__', 'constructor'])
        expect(kept['polluted']).toBeUndefined()
      })

      it('never moves updatedAt back', async () => {
        await store.patchSession(main, {}, 2000)
        await store.append(key, reply('old', 1000))
        expect(await store.session(key)).toMatchObject({ updatedAt: 2000 })
      })

      it('begins a new transcript on reset, keeping the settings', async () => {
        await store.patchSession(main, { label: 'One' }, 500)
        await store.accept(turn('a'))
        await store.start('run-a', 2000)
        const usage = { input: 1, output: 1, totalTokens: 2 }
        await store.settle('run-a', { state: 'aborted', endedAt: 3000, usage })
        const reset = await store.resetSession({ ...main, sessionId: 'transcript-2' }, 4000)
        expect(reset).toEqual({
          key,
          agentId: 'main',
          sessionId: 'transcript-2',
          createdAt: 500,
          updatedAt: 4000,
          settings: { label: 'One' },
          systemSent: false,
          abortedLastRun: false,
          inputTokens: 0,
          outputTokens: 0,
          totalTokens: 0,
          messageCount: 0,
        })
        expect(await store.session(key)).toEqual(reset)
        expect(await store.history(key, wide)).toEqual({ sessionId: 'transcript-2', messages: [] })
      })

      it('moves old entries to a past transcript, and keeps the newest and their pictures', async () => {
        await store.accept(turn('a', { attachments: [picture('seen')] }))
        await store.start('run-a', 2000)
        await store.settle('run-a', completed({ message: reply('one'), contextTokens: 9, usage: NO_TOKENS }))
        await store.append(key, reply('two'))
        const compaction = await store.compactSession(key, { sessionId: 'past', keep: 2 })
        expect(compaction).toEqual({ kept: 2, moved: 1 })
        expect(await texts()).toEqual(['one', 'two'])
        expect(await store.session(key)).toMatchObject({ sessionId: 'transcript-1', messageCount: 2, latest: 'two' })
        expect((await store.session(key))?.contextTokens).toBeUndefined()
        await store.append(key, reply('three'))
        expect(await texts()).toEqual(['one', 'two', 'three'])
        // Its run is forgotten; the transcript that was set aside still has the picture, until the session is gone.
        await store.age(1, none)
        const { sha256 } = picture('seen')
        expect(await store.attachment(sha256)).toBeDefined()
        await store.deleteSession(key)
        expect(await store.attachment(sha256)).toBeUndefined()
      })

      it('moves nothing of a transcript that is short enough, and knows no session that is not there', async () => {
        await store.append(key, reply('one'), { agentId: 'main', sessionId: 'transcript-1' })
        expect(await store.compactSession(key, { sessionId: 'past', keep: 1 })).toEqual({ kept: 1, moved: 0 })
        expect(await texts()).toEqual(['one'])
        expect(await store.compactSession('agent:main:none', { sessionId: 'past', keep: 1 })).toBeUndefined()
      })

      it('parts no result of a tool from its call', async () => {
        await store.append(key, reply('one'), { agentId: 'main', sessionId: 'transcript-1' })
        await store.append(key, { ...reply('a call'), content: [{ type: 'toolCall', id: 'c' }] })
        await store.append(key, { ...reply('a result'), role: 'toolResult' })
        await store.append(key, reply('two'))
        expect(await store.compactSession(key, { sessionId: 'past', keep: 2 })).toEqual({ kept: 1, moved: 3 })
        expect(await texts()).toEqual(['two'])
      })

      it('makes the session on reset if it is new', async () => {
        expect(await store.resetSession(main, 1000)).toMatchObject({ ...main, createdAt: 1000, updatedAt: 1000 })
      })

      it('empties the transcript on reset under the same id', async () => {
        await store.append(key, reply('one'), main)
        await store.resetSession(main, 4000)
        expect(await texts()).toEqual([])
      })

      it('deletes a session and all its transcripts, while its runs keep answering their keys', async () => {
        await store.accept(turn('a'))
        await store.start('run-a', 2000)
        await store.settle('run-a', completed({ message: reply('one'), result: { x: 1 } }))
        await store.resetSession({ ...main, sessionId: 'transcript-2' }, 2500)
        await store.append(key, reply('two'))
        expect(await store.deleteSession(key)).toBe(true)
        expect(await store.deleteSession(key)).toBe(false)
        expect(await store.session(key)).toBeUndefined()
        expect(await store.history(key, wide)).toEqual({ messages: [] })
        expect(await store.accept(turn('a'))).toMatchObject({ kind: 'known', run: { result: { x: 1 } } })
        await store.patchSession(main, {}, 3000)
        expect(await texts()).toEqual([])
      })

      it('finds a session by the id of its present transcript, and by no former one', async () => {
        await store.accept(turn('a'))
        expect(await store.sessionOf('transcript-1')).toEqual(await store.session(key))
        await store.resetSession({ ...main, sessionId: 'transcript-2' }, 4000)
        expect(await store.sessionOf('transcript-1')).toBeUndefined()
        expect(await store.sessionOf('transcript-2')).toMatchObject({ key })
        expect(await store.sessionOf('nobody')).toBeUndefined()
      })

      it('keeps with a session how its first words and its newest entry begin, until it is begun anew', async () => {
        const words = async () => {
          const { opening, latest } = (await store.session(key))!
          return { opening, latest }
        }
        await store.accept(turn('a', { message: `  first ${'x'.repeat(300)}` }))
        expect(await words()).toEqual({ opening: undefined, latest: undefined })
        await store.start('run-a', 2000)
        const first = `first ${'x'.repeat(234)}`
        expect(await words()).toEqual({ opening: first, latest: first })
        await store.settle('run-a', completed({ message: reply('one') }))
        expect(await words()).toEqual({ opening: first, latest: 'one' })
        await store.accept(turn('b'))
        await store.settle('run-b', completed({ message: reply('two') }))
        await store.append(key, reply('three'))
        expect(await words()).toEqual({ opening: first, latest: 'three' })
        await store.resetSession({ ...main, sessionId: 'transcript-2' }, 4000)
        expect(await words()).toEqual({ opening: undefined, latest: undefined })
      })

      it('says how many sessions each agent has, and which were touched last', async () => {
        for (const [place, agentId] of ['main', 'main', 'other', 'main'].entries())
          await store.patchSession({ key: `agent:${agentId}:${place}`, agentId, sessionId: `t-${place}` }, {}, place)
        const overview = (await store.overview(2)).map(({ recent, ...agent }) => ({
          ...agent,
          recent: recent.map(({ key }) => key),
        }))
        expect(overview).toEqual([
          { agentId: 'main', count: 3, recent: ['agent:main:3', 'agent:main:1'] },
          { agentId: 'other', count: 1, recent: ['agent:other:2'] },
        ])
      })

      it('lists sessions by agent, time and words, the newest first', async () => {
        const make = (name: string, agentId: string, label: string, at: number) =>
          store.patchSession({ key: `agent:${agentId}:${name}`, agentId, sessionId: `t-${name}` }, { label }, at)
        await make('one', 'main', 'Älteste', 1000)
        await make('two', 'main', 'Second', 3000)
        await make('three', 'other', 'third', 2000)
        const keys = async (filter: Parameters<Store['sessions']>[0]) =>
          (await store.sessions(filter)).map((session) => session.key.split(':')[2])
        expect(await keys({})).toEqual(['two', 'three', 'one'])
        expect(await keys({ agentId: 'main' })).toEqual(['two', 'one'])
        expect(await keys({ updatedSince: 2000 })).toEqual(['two', 'three'])
        expect(await keys({ search: 'äLT' })).toEqual(['one'])
        expect(await keys({ search: 'OTHER:TH' })).toEqual(['three'])
        expect(await keys({ search: '%' })).toEqual([])
        expect(await keys({ limit: 1 })).toEqual(['two'])
        expect(await keys({ agentId: 'main', search: 'agent', limit: 5 })).toEqual(['two', 'one'])
        expect(await keys({ limit: 0 })).toEqual([])
      })
    })

    describe('transcripts', () => {
      it('appends to a session, and to none that does not exist', async () => {
        expect(await store.append(key, reply('lost'))).toBeUndefined()
        const made = await store.append(key, reply('one'), main)
        expect(made).toMatchObject({ ...main, createdAt: 3000, messageCount: 1 })
        expect(await store.append(key, reply('two', 4000))).toMatchObject({ messageCount: 2, updatedAt: 4000 })
        expect(await texts()).toEqual(['one', 'two'])
      })

      it('gives the newest entries that fit, oldest first', async () => {
        const entries = ['one', 'two', 'three 😀', 'four'].map((text) => reply(text))
        for (const entry of entries) await store.append(key, entry, main)
        const size = (n: number) => Buffer.byteLength(JSON.stringify(entries[n]))
        const within = async (limit: number, maxBytes: number) =>
          (await store.history(key, { limit, maxBytes })).messages
        expect(await within(10, 10_000)).toEqual(entries)
        expect(await within(2, 10_000)).toEqual(entries.slice(2))
        expect(await within(0, 10_000)).toEqual([])
        expect(await within(10, size(3) + size(2))).toEqual(entries.slice(2))
        expect(await within(10, size(3) + size(2) - 1)).toEqual(entries.slice(3))
        expect(await within(10, size(3) - 1)).toEqual([])
      })

      it('keeps order across many entries', async () => {
        const words = Array.from({ length: 300 }, (_, n) => `entry ${n}`)
        await Promise.all(words.map((text) => store.append(key, reply(text), main)))
        expect(await texts()).toEqual(words)
        expect(await store.session(key)).toMatchObject({ messageCount: 300 })
      })
    })

    describe('events', () => {
      /** Adds offsets `from` to `to`, each named after its offset. */
      const add = (from: number, to: number, changes: Partial<NewEvents> = {}) => {
        const names = Array.from({ length: to - from + 1 }, (_, n) => `e${from + n}`)
        const events = JSON.stringify(names)
        return store.appendEvents({
          sessionKey: key,
          epoch: 'one',
          from,
          to,
          events,
          at: 1000,
          announced: [],
          ...changes,
        })
      }
      const since = (offset: number, epoch = 'one', maxBytes = 1_000_000) => store.events(key, epoch, offset, maxBytes)
      const ranges = async (offset: number) => {
        const replay = await since(offset)
        return replay.kind === 'events' ? replay.chunks.map(({ from, to }) => [from, to]) : replay
      }
      beforeEach(() => store.patchSession(main, {}, 1000))

      it('gives the chunks that hold later events, in order and as they came', async () => {
        expect(await store.stream(key)).toBeUndefined()
        await Promise.all([add(1, 3), add(4, 4), add(5, 9, { events: '["\\u0000 😀 \\ud800"]' })])
        expect(await store.stream(key)).toEqual({ epoch: 'one', offset: 9 })
        expect(await since(0)).toEqual({
          kind: 'events',
          chunks: [
            { from: 1, to: 3, events: '["e1","e2","e3"]' },
            { from: 4, to: 4, events: '["e4"]' },
            { from: 5, to: 9, events: '["\\u0000 😀 \\ud800"]' },
          ],
        })
        expect(await ranges(2)).toEqual([
          [1, 3],
          [4, 4],
          [5, 9],
        ])
        expect(await ranges(3)).toEqual([
          [4, 4],
          [5, 9],
        ])
        expect(await ranges(8)).toEqual([[5, 9]])
        expect(await ranges(9)).toEqual([])
        expect(await ranges(10)).toEqual({ kind: 'ahead' })
      })

      it('takes a chunk only where the last one ended, and writes nothing else', async () => {
        await add(1, 3)
        for (const [from, to] of [
          [3, 4],
          [5, 6],
          [4, 3],
          [1, 2],
        ] as const) {
          await expect(add(from, to, { announced: ['run-a'] })).rejects.toMatchObject({ code: 'CONFLICT' })
        }
        await expect(add(4, 5, { epoch: 'two' })).rejects.toMatchObject({ code: 'CONFLICT' })
        expect(await store.stream(key)).toEqual({ epoch: 'one', offset: 3 })
        await add(4, 4)
        expect(await ranges(0)).toEqual([
          [1, 3],
          [4, 4],
        ])
      })

      it('puts another epoch in the place of the old one and its events', async () => {
        await add(1, 3)
        await add(1, 1, { epoch: 'two', at: 500 })
        expect(await store.stream(key)).toEqual({ epoch: 'two', offset: 1 })
        expect(await since(0)).toEqual({ kind: 'epochChanged' })
        expect(await since(0, 'two')).toEqual({ kind: 'events', chunks: [{ from: 1, to: 1, events: '["e1"]' }] })
        expect(await store.events('agent:main:nobody', 'one', 0, 100)).toEqual({ kind: 'epochChanged' })
      })

      it('gives all that was asked for or says that it is too large', async () => {
        await add(1, 2)
        await add(3, 3, { events: '["😀"]' })
        const size = Buffer.byteLength('["e1","e2"]["😀"]')
        expect(await since(0, 'one', size)).toMatchObject({ kind: 'events', chunks: [{ to: 2 }, { to: 3 }] })
        expect(await since(0, 'one', size - 1)).toEqual({ kind: 'tooLarge' })
        expect(await since(3, 'one', 0)).toEqual({ kind: 'events', chunks: [] })
      })

      it('forgets what was kept long enough', async () => {
        await add(1, 3)
        await store.age(500, day)
        await add(4, 6)
        expect((await store.age(1000, day)).chunks).toBe(1)
        expect(await ranges(2)).toEqual({ kind: 'tooOld', oldest: 4 })
        expect(await ranges(3)).toEqual([[4, 6]])
        expect((await store.age(1000, day)).chunks).toBe(1)
        expect(await ranges(5)).toEqual({ kind: 'tooOld', oldest: 7 })
        expect(await ranges(6)).toEqual([])
        await add(7, 7)
        expect(await ranges(6)).toEqual([[7, 7]])
      })

      it('forgets what has enough newer events, each session for itself', async () => {
        const other = { ...main, key: 'agent:main:other', sessionId: 'transcript-2' }
        await store.patchSession(other, {}, 1000)
        await add(1, 5, { sessionKey: other.key })
        for (const [from, to] of [
          [1, 3],
          [4, 6],
          [7, 8],
        ] as const)
          await add(from, to)
        expect((await store.age(0, { ...day, eventsPerSession: 6 })).chunks).toBe(0)
        expect((await store.age(0, { ...day, eventsPerSession: 5 })).chunks).toBe(1)
        expect(await ranges(3)).toEqual([
          [4, 6],
          [7, 8],
        ])
        expect(await store.events(other.key, 'one', 0, 1000)).toMatchObject({ kind: 'events', chunks: [{ to: 5 }] })
      })

      it('leaves no gap when the wall clock was set back', async () => {
        await add(1, 1, { at: 2000 })
        await add(2, 2, { at: 500 })
        await store.age(500, day)
        await add(3, 3, { at: 3000 })
        expect((await store.age(999, day)).chunks).toBe(0)
        expect((await store.age(1, day)).chunks).toBe(2)
        expect(await ranges(2)).toEqual([[3, 3]])
      })

      it('goes on with the stream after a reset and ends it with the session', async () => {
        await add(1, 3)
        await store.resetSession({ ...main, sessionId: 'transcript-2' }, 2000)
        await add(4, 4)
        expect(await store.streams()).toEqual([{ sessionKey: key, epoch: 'one', offset: 4 }])
        await store.deleteSession(key)
        expect(await store.stream(key)).toBeUndefined()
        await add(5, 5)
        await store.beginEpoch(key, 'two', 2000)
        expect(await store.streams()).toEqual([])
        await store.patchSession(main, {}, 3000)
        expect(await since(0)).toEqual({ kind: 'epochChanged' })
        await add(1, 1, { epoch: 'two' })
        expect(await since(0, 'two')).toMatchObject({ chunks: [{ from: 1, to: 1 }] })
      })

      it('calls a stream unfinished while a run has not ended, or its end was not announced', async () => {
        await store.accept(turn('a'))
        await store.start('run-a', 2000)
        expect(await store.unfinishedStreams()).toEqual([])
        await add(1, 1)
        expect(await store.unfinishedStreams()).toEqual([key])
        await store.settle('run-a', completed())
        expect(await store.unfinishedStreams()).toEqual([key])
        await add(2, 2, { announced: ['run-a', 'nobody'] })
        expect(await store.unfinishedStreams()).toEqual([])
        await store.accept(turn('b'))
        expect(await store.unfinishedStreams()).toEqual([key])
        await store.settle('run-b', completed())
        expect(await store.unfinishedStreams()).toEqual([key])
        await store.age(1, none)
        expect(await store.unfinishedStreams()).toEqual([])
      })

      it('begins an epoch without events, with nothing left to announce but what still runs', async () => {
        for (const name of ['a', 'b']) await store.accept(turn(name))
        await store.start('run-b', 2000)
        await store.settle('run-a', completed())
        await add(1, 3)
        await expect(store.beginEpoch(key, 'one', 4000)).rejects.toMatchObject({ code: 'CONFLICT' })
        await store.beginEpoch(key, 'two', 4000)
        expect(await store.stream(key)).toEqual({ epoch: 'two', offset: 0 })
        expect(await since(3)).toEqual({ kind: 'epochChanged' })
        expect(await since(0, 'two')).toEqual({ kind: 'events', chunks: [] })
        expect(await store.unfinishedStreams()).toEqual([key])
        await store.settle('run-b', completed())
        await add(1, 1, { epoch: 'two', announced: ['run-b'] })
        expect(await store.unfinishedStreams()).toEqual([])
      })
    })

    describe('pictures', () => {
      it('answers the bytes of a kept picture', async () => {
        const sent = picture('p')
        expect(await store.attachment(sent.sha256)).toBeUndefined()
        await store.accept(turn('a', { attachments: [sent, sent] }))
        expect(Buffer.from((await store.attachment(sent.sha256))!)).toEqual(Buffer.from('p'))
      })

      it('keeps the bytes of a picture that is a window on a larger buffer', async () => {
        const sent = { ...picture('bc'), bytes: Buffer.from('abcd').subarray(1, 3) }
        await store.accept(turn('a', { attachments: [sent] }))
        expect(Buffer.from((await store.attachment(sent.sha256))!).toString()).toBe('bc')
      })

      it('keeps a picture as long as a run or a transcript has it', async () => {
        const sent = picture('p')
        await store.accept(turn('a', { attachments: [sent] }))
        await store.start('run-a', 2000)
        await store.settle('run-a', completed())
        await store.age(1, none)
        expect(await store.attachment(sent.sha256)).toBeDefined()
        await store.accept(turn('b', { attachments: [sent] }))
        await store.deleteSession(key)
        expect(await store.attachment(sent.sha256)).toBeDefined()
        await store.settle('run-b', completed())
        await store.age(1, none)
        expect(await store.attachment(sent.sha256)).toBeUndefined()
      })
    })

    describe('documents', () => {
      it('keeps values by kind and id', async () => {
        await store.put('device', 'a', { name: 'one' })
        await store.put('device', 'a', { name: 'two' })
        await store.put('device', 'b\0c', null)
        await store.put('token', 'a', 7)
        expect(await store.get('device', 'a')).toEqual({ name: 'two' })
        expect(await store.get('device', 'b\0c')).toBeNull()
        expect(await store.get('token', 'a')).toBe(7)
        expect(await store.get('token', 'b')).toBeUndefined()
        const listed = await store.list('device')
        expect(listed).toHaveLength(2)
        expect(listed).toEqual(
          expect.arrayContaining([
            { id: 'a', value: { name: 'two' } },
            { id: 'b\0c', value: null },
          ]),
        )
        expect(await store.list('nothing')).toEqual([])
      })

      it('removes a value once', async () => {
        await store.put('device', 'a', 1)
        expect(await store.remove('device', 'a')).toBe(true)
        expect(await store.remove('device', 'a')).toBe(false)
        expect(await store.get('device', 'a')).toBeUndefined()
      })
    })

    describe('life', () => {
      it('applies calls in the order they were made', async () => {
        const seen = [
          store.accept(turn('a')),
          store.run('run-a'),
          store.start('run-a', 2000),
          store.run('run-a'),
          store.settle('run-a', completed()),
          store.run('run-a'),
        ]
        const [, admitted, , started, , ended] = await Promise.all(seen)
        expect([admitted, started, ended]).toMatchObject([
          { state: 'admitted' },
          { state: 'started' },
          { state: 'completed' },
        ])
      })

      it('does not let a failing call take its neighbours with it', async () => {
        const calls = [store.accept(turn('a')), store.start('nobody', 1), store.accept(turn('b')), store.run('run-b')]
        const outcomes = await Promise.allSettled(calls)
        expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled', 'fulfilled'])
        expect(await store.unsettled()).toHaveLength(2)
      })

      it('finds no damage in a sound store', async () => {
        await store.accept(turn('a'))
        expect(await store.verify()).toEqual([])
      })

      it('finishes what was asked, then rejects later calls as CLOSED', async () => {
        const asked = store.accept(turn('a'))
        const closed = store.close()
        await expect(store.run('run-a')).rejects.toMatchObject({ name: 'StoreError', code: 'CLOSED' })
        await expect(store.verify()).rejects.toMatchObject({ code: 'CLOSED' })
        expect(await asked).toMatchObject({ kind: 'accepted' })
        await closed
        await expect(store.accept(turn('b'))).rejects.toMatchObject({ code: 'CLOSED' })
        await store.close()
      })
    })
  })
}

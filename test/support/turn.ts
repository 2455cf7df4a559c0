/** Turns for tests: complete, and alike but for what a test names. */
import type { NewTurn } from '../../src/stores/store.ts'

/** A turn whose run id, spare id, key and session belong to `name`. */
export const turn = (name: string, changes: Partial<NewTurn> = {}): NewTurn => ({
  runId: `run-${name}`,
  spareRunId: `spare-${name}`,
  principal: 'device-1',
  method: 'chat.send',
  sessionKey: 'agent:main:main',
  agentId: 'main',
  sessionId: 'transcript-1',
  key: `key-${name}`,
  fingerprint: 'f1',
  message: `message ${name}`,
  attachments: [],
  meta: {},
  acceptedAt: 1000,
  ...changes,
})

/** A message from the run `run-first` of the agent `main`, the first of its chain, to the agent `other`, who is to answer. */
export const message = (name: string, changes: Partial<NewTurn> = {}): NewTurn =>
  turn(name, {
    sessionKey: 'agent:other:main',
    agentId: 'other',
    sessionId: 'transcript-other',
    chain: { id: 'run-first', hop: 1, path: ['main', 'other'] },
    sent: { from: { agentId: 'main', sessionKey: 'agent:main:main', runId: 'run-first' }, reply: 'once' },
    ...changes,
  })

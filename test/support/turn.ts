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

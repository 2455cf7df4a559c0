/** Jobs and system events for tests: complete, and alike but for what a test names. */
import type { CronJob } from '../../src/contract/cron.ts'
import type { SystemEvent } from '../../src/stores/store.ts'

/** A job that leaves word for the main session every hour. */
export const cronJob = (id: string, changes: Partial<CronJob> = {}): CronJob => ({
  id,
  name: `job ${id}`,
  enabled: true,
  createdAtMs: 1_000,
  updatedAtMs: 1_000,
  schedule: { kind: 'every', everyMs: 3_600_000, anchorMs: 1_000 },
  sessionTarget: 'main',
  wakeMode: 'next-heartbeat',
  payload: { kind: 'systemEvent', text: `word of ${id}` },
  state: { nextRunAtMs: 3_601_000 },
  ...changes,
})

/** Word for the main session. */
export const systemEvent = (id: string, changes: Partial<SystemEvent> = {}): SystemEvent => ({
  id,
  sessionKey: 'agent:main:main',
  agentId: 'main',
  text: `word ${id}`,
  at: 1_000,
  ...changes,
})

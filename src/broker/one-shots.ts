/** Sessions of one turn each: made for a request that names no session, and gone when it has its answer. */
import { createHash, randomUUID } from 'node:crypto'
import type { Store } from '../stores/store.ts'
import type { Log } from './log.ts'
import type { Turns } from './turns.ts'

export interface OneShots {
  /**
   * The key of a session for one request. Requests with the same idempotency key of the same principal have the same one, so that the
   * second is known for what it is.
   */
  keyFor(agentId: string, by: { principal: string; idempotencyKey: string | undefined }): string
  /** Removes a session whose turn has ended. Never rejects. */
  end(sessionKey: string): Promise<void>
  /** Removes those that a former process left, and stops what was to run in them: nobody waits for it. Resolves to how many. */
  recover(): Promise<number>
}

export interface OneShotsNeeds {
  store: Pick<Store, 'sessions'>
  turns: Pick<Turns, 'remove'>
  log: Pick<Log, 'warn'>
}

const MARK = ':openai:'
const KEY = /^agent:[^:]+:openai:[0-9a-f]{32}$/

/** Whether a canonical key is that of a session of one turn. */
export const isOneShot = (sessionKey: string): boolean => KEY.test(sessionKey)

export function createOneShots({ store, turns, log }: OneShotsNeeds): OneShots {
  return {
    keyFor(agentId, { principal, idempotencyKey }) {
      const id =
        idempotencyKey === undefined
          ? randomUUID().replaceAll('-', '')
          : createHash('sha256')
              .update(JSON.stringify([principal, idempotencyKey]))
              .digest('hex')
              .slice(0, 32)
      return `agent:${agentId}${MARK}${id}`
    },
    async end(sessionKey) {
      try {
        await turns.remove(sessionKey)
      } catch (error) {
        // The next start finds it.
        log.warn({ sessionKey, err: error }, 'a session of one turn could not be removed')
      }
    },
    async recover() {
      const left = (await store.sessions({ search: MARK })).filter(({ key }) => isOneShot(key))
      for (const { key } of left) await turns.remove(key)
      return left.length
    },
  }
}

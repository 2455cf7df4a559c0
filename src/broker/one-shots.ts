/** Sessions of one turn each: made for a request that names no session, and gone when it has its answer. */
import { createHash, randomUUID } from 'node:crypto'
import { isOneShot, ONE_SHOT, oneShotKey } from '../contract/session-key.ts'
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
  /** Begins to remove those that a former process left. Resolves to how many there are. */
  recover(): Promise<number>
}

export interface OneShotsNeeds {
  store: Pick<Store, 'sessions'>
  turns: Pick<Turns, 'remove'>
  log: Pick<Log, 'warn'>
}

export function createOneShots({ store, turns, log }: OneShotsNeeds): OneShots {
  async function end(sessionKey: string): Promise<void> {
    try {
      await turns.remove(sessionKey)
    } catch (error) {
      // The next start finds it.
      log.warn({ sessionKey, err: error }, 'a session of one turn could not be removed')
    }
  }

  return {
    keyFor(agentId, { principal, idempotencyKey }) {
      const id =
        idempotencyKey === undefined
          ? randomUUID().replaceAll('-', '')
          : createHash('sha256')
              .update(JSON.stringify([principal, idempotencyKey]))
              .digest('hex')
              .slice(0, 32)
      return oneShotKey(agentId, id)
    },
    end,
    async recover() {
      const left = (await store.sessions({ search: ONE_SHOT })).filter(({ key }) => isOneShot(key))
      // Nobody waits until the disk takes it.
      for (const { key } of left) void end(key)
      return left.length
    },
  }
}

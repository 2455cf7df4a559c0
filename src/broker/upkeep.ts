/** What is done from time to time while the gateway runs: it forgets what is old, backs up, and says that it is there. */
import type { Attempts } from '../auth/attempts.ts'
import type { Devices } from '../auth/devices.ts'
import type { Tokens } from '../auth/tokens.ts'
import type { Store } from '../stores/store.ts'
import type { Health } from './health.ts'
import type { Hub } from './hub.ts'
import type { Log } from './log.ts'
import type { Presence } from './presence.ts'
import type { Sessions } from './sessions.ts'
import type { Supervisor } from './supervisor.ts'

export interface Upkeep {
  /** Begins, when the gateway is about to serve. */
  start(rooms: KeptUp): void
  /** The disk is full: looks for space, until what is to be written finds some. */
  seekSpace(): void
  /** Whether it looks for space. */
  readonly isFull: boolean
  stop(): void
}

/** What is looked after. */
interface KeptUp {
  hub: Pick<Hub, 'tellAll'>
  health: Pick<Health, 'refresh' | 'version'>
  presence: Pick<Presence, 'version'>
  sessions: Pick<Sessions, 'sweep'>
  supervisor: Pick<Supervisor, 'forget'>
  devices: Pick<Devices, 'sweep'>
  tokens: Pick<Tokens, 'sweep'>
  attempts: Pick<Attempts, 'sweep'>
}

export interface UpkeepNeeds {
  store: Pick<Store, 'age'>
  /** Undefined: there is nothing to be backed up. */
  backUp(): Promise<unknown> | undefined
  log: Log
  /** Wall-clock ms. */
  now(): number
  monotonic(): number
  /** Between two events that say that the gateway is there, in ms. */
  tickMs: number
  /** Between two looks at how the gateway is, in ms; default: a minute. */
  healthMs?: number | undefined
  /** Between two looks for what is old, in ms; default: a minute. */
  sweepMs?: number | undefined
}

/** How long a key is remembered, in ms. */
const KEY_LIFETIME_MS = 24 * 3_600_000
/** Events of a session that can be asked for again, besides those of the last 24 h. */
const EVENTS_PER_SESSION = 10_000
const BACKUP_EVERY_MS = 15 * 60_000
/** The sockets of credentials that have ended are closed within a second. */
const CREDENTIALS_EVERY_MS = 500
const ATTEMPTS_EVERY_MS = 1_000
/** On a full disk. */
const SPACE_EVERY_MS = 1_000

export function createUpkeep(needs: UpkeepNeeds): Upkeep {
  const { store, log, now, monotonic, backUp, tickMs, healthMs = 60_000, sweepMs = 60_000 } = needs
  let agedAt = monotonic()
  let timers: NodeJS.Timeout[] = []
  /** Runs while the disk is full. */
  let seeking: NodeJS.Timeout | undefined

  /** Lets the store know how much time has gone by, and forget. */
  async function age(): Promise<void> {
    const at = monotonic()
    const elapsedMs = at - agedAt
    agedAt = at
    try {
      await store.age(elapsedMs, { keepMs: KEY_LIFETIME_MS, eventsPerSession: EVENTS_PER_SESSION })
    } catch (error) {
      // What the store was not told of has still gone by.
      agedAt -= elapsedMs
      throw error
    }
  }

  const owned = (what: string, promise: Promise<unknown> | undefined) =>
    void promise?.catch((error: unknown) => log.error({ err: error }, `${what} failed`))

  return {
    start({ hub, health, presence, sessions, supervisor, devices, tokens, attempts }) {
      async function tellHealth(): Promise<void> {
        const snapshot = await health.refresh()
        hub.tellAll('health', snapshot, { stateVersion: { presence: presence.version, health: health.version } })
      }
      timers = [
        setInterval(() => {
          devices.sweep()
          tokens.sweep()
        }, CREDENTIALS_EVERY_MS),
        setInterval(() => void attempts.sweep(), ATTEMPTS_EVERY_MS),
        setInterval(() => hub.tellAll('tick', { ts: now() }), tickMs),
        setInterval(() => owned('the health refresh', tellHealth()), healthMs),
        setInterval(() => owned('the backup', backUp()), BACKUP_EVERY_MS),
        setInterval(() => {
          sessions.sweep()
          // All that has ended: it is asked of the store again, which alone knows how old a key is, wherever the clock was set.
          supervisor.forget()
          owned('forgetting what is old', age())
        }, sweepMs),
      ]
    },
    seekSpace() {
      if (seeking) return
      log.error({}, 'the disk is full: what is to be kept is refused until there is space')
      seeking = setInterval(() => {
        age().then(
          () => {
            if (seeking) log.info({}, 'the disk has space again')
            clearInterval(seeking)
            seeking = undefined
          },
          () => {},
        )
      }, SPACE_EVERY_MS).unref()
    },
    get isFull() {
      return seeking !== undefined
    },
    stop() {
      for (const timer of [...timers, seeking]) clearInterval(timer)
    },
  }
}

/** `cron.*`: jobs at set times. `wake` and the heartbeats: what has an agent look up. */
import { createHash } from 'node:crypto'
import { eventually, type Handlers } from '../broker/dispatch.ts'
import type { Heartbeats } from '../broker/heartbeats.ts'
import type { JobChange, NewJob, Schedules } from '../broker/schedules.ts'
import type { Config } from '../config/config.ts'
import type { CronJob, cron as contract } from '../contract/cron.ts'
import { GatewayError } from '../contract/errors.ts'
import type { Params } from '../contract/index.ts'
import { type AgentNames, unknownAgent } from '../contract/session-key.ts'
import { session } from './door.ts'
import { placeFor } from './place.ts'

export interface CronNeeds {
  agents: AgentNames
  schedules: Omit<Schedules, 'recover' | 'stop'>
  heartbeats: Pick<Heartbeats, 'last' | 'set' | 'leaveWord'>
  config: Pick<Config, 'cron'>
  /** Where the jobs are kept. */
  path: string
  knowsModel(ref: string): boolean
}

const ENTRIES = 200
const MOST_ENTRIES = 5_000
const PAGE = 50

export function cronMethods(needs: CronNeeds): Handlers<typeof contract> {
  const { agents, schedules, heartbeats, path } = needs

  /** The id of an agent as a job keeps it; null: none is named. */
  function agentId(name: string | null | undefined): string | null | undefined {
    if (name === null || name === undefined) return name
    const id = agents.resolve(name)
    if (id === undefined) throw unknownAgent(name, agents)
    return id
  }

  function job(id: string): CronJob {
    const found = schedules.get(id)
    if (!found)
      throw new GatewayError('CRON_JOB_NOT_FOUND', `unknown cron job id: ${id.slice(0, 64)}`, {
        details: { jobId: id.slice(0, 64) },
      })
    return found
  }

  function checkModel(payload: CronJob['payload']): CronJob['payload'] {
    if (payload.kind === 'agentTurn' && payload.model !== undefined && !needs.knowsModel(payload.model))
      throw new GatewayError('INVALID_JOB', `model not allowed: ${payload.model.slice(0, 64)}`)
    return payload
  }

  /** What is changed of a payload, on what was there if that is of the same kind. */
  function payloadOf(
    patch: NonNullable<Params<'cron.update'>['patch']['payload']>,
    before: CronJob,
  ): NewJob['payload'] {
    const missing = (member: string) => new GatewayError('INVALID_JOB', `a payload of another kind requires ${member}`)
    const { payload } = before
    if (patch.kind === 'systemEvent') {
      const text = patch.text ?? (payload.kind === 'systemEvent' ? payload.text : undefined)
      if (text === undefined) throw missing('text')
      return { kind: 'systemEvent', text }
    }
    const known = payload.kind === 'agentTurn' ? payload : undefined
    const message = patch.message ?? known?.message
    if (message === undefined) throw missing('message')
    return checkModel(turnOf({ ...known, ...patch, message }))
  }

  return {
    'cron.list'(params) {
      const { includeDisabled, enabled, agentId: name, query, sortBy = 'nextRunAtMs', sortDir = 'asc' } = params
      const which = enabled ?? (includeDisabled ? 'all' : 'enabled')
      const sought = query?.trim().toLowerCase()
      const owner = agentId(name)
      const found = schedules.list().filter((one) => {
        if (which !== 'all' && one.enabled !== (which === 'enabled')) return false
        if (owner !== undefined && (one.agentId ?? agents.defaultId) !== owner) return false
        return !sought || [one.name, one.description, one.id].some((text) => text?.toLowerCase().includes(sought))
      })
      const jobs = found.toSorted(inOrder(sortBy))
      if (sortDir === 'desc') jobs.reverse()
      if (params.limit === undefined && params.offset === undefined) return { jobs }
      const { part, ...page } = pageOf(jobs, params.limit ?? PAGE, params.offset ?? 0)
      return { jobs: part, snapshotRevision: revisionOf(jobs), ...page }
    },

    'cron.get': (params) => job(idOf(params, 'cron.get')),

    'cron.status': (_, caller) => ({
      enabled: needs.config.cron.enabled,
      storePath: placeFor(caller, path),
      jobs: schedules.list().length,
      nextWakeAtMs: schedules.nextAt ?? null,
    }),

    async 'cron.add'(params) {
      const { name, agentId: owner, description, enabled, deleteAfterRun, delivery, payload, ...rest } = params
      const id = agentId(owner)
      const { sessionTarget, wakeMode = 'now', schedule } = rest
      if (delivery !== undefined && sessionTarget === 'main')
        throw new GatewayError('INVALID_JOB', 'delivery is for sessionTarget="isolated"')
      return await schedules.add({
        name: named(name),
        ...(typeof id === 'string' && { agentId: id }),
        ...(description?.trim() && { description: description.trim() }),
        ...(enabled !== undefined && { enabled }),
        ...(deleteAfterRun !== undefined && { deleteAfterRun }),
        schedule: plain(schedule),
        sessionTarget,
        wakeMode,
        payload:
          payload.kind === 'agentTurn' ? checkModel(turnOf(payload)) : { kind: payload.kind, text: payload.text },
        ...(sessionTarget === 'isolated' && { delivery: deliveryOf(delivery ?? asked(payload)) }),
      })
    },

    async 'cron.update'({ patch, ...params }) {
      const before = job(idOf(params, 'cron.update'))
      const { payload, delivery, schedule, name, agentId: owner, ...rest } = patch
      const change: JobChange = {
        ...rest,
        agentId: agentId(owner),
        ...(name !== undefined && { name: named(name) }),
        ...(schedule && { schedule: plain(schedule) }),
        ...(payload && { payload: payloadOf(payload, before) }),
        ...(delivery && {
          delivery: deliveryOf({
            ...before.delivery,
            ...delivery,
            mode: delivery.mode ?? before.delivery?.mode ?? 'none',
          }),
        }),
      }
      return await schedules.update(before.id, change)
    },

    async 'cron.remove'(params) {
      return { ok: true, removed: await schedules.remove(idOf(params, 'cron.remove')) }
    },

    'cron.run'({ mode = 'force', ...params }, { protocol }) {
      const id = idOf(params, 'cron.run')
      if (mode === 'if-enabled' && !job(id).enabled) return { ok: true, ran: false, reason: 'disabled' }
      const wish = schedules.run(id, mode !== 'due')
      if (!wish.ran) return { ok: true, ran: false, reason: wish.reason }
      return eventually(
        protocol >= 4
          ? wish.fired.then((runId) => ({ ok: true, ran: true, enqueued: true, runId }))
          : wish.ended.then(() => ({ ok: true, ran: true })),
      )
    },

    async 'cron.runs'(params, { protocol }) {
      const { scope, runId, status, limit = protocol >= 4 ? PAGE : ENTRIES, offset = 0 } = params
      const all = scope === 'all' && params.id === undefined && params.jobId === undefined
      const filter = all ? {} : { jobId: idOf(params, 'cron.runs') }
      const isNarrow = runId !== undefined || (status !== undefined && status !== 'all')
      const found = (
        await schedules.entries({ ...filter, limit: isNarrow ? MOST_ENTRIES : offset + limit + 1 })
      ).filter(
        (entry) =>
          (runId === undefined || entry.runId === runId) &&
          (!isNarrow || !status || status === 'all' || entry.status === status),
      )
      const { part, total: _, ...page } = pageOf(found, limit, offset)
      const newestFirst = (params.sortDir ?? (protocol >= 4 ? 'desc' : 'asc')) === 'desc'
      const entries = newestFirst ? part : part.toReversed()
      return protocol >= 4 ? { entries, ...page, ...(isNarrow && { total: found.length }) } : { entries }
    },

    async wake({ mode, text, agentId: name, sessionKey }, caller) {
      const owner = agentId(name) ?? undefined
      const to = session(sessionKey ?? 'main', owner, agents, caller)
      await heartbeats.leaveWord({
        sessionKey: to.key,
        agentId: to.agentId,
        text: text.trim() || text,
        ...(mode === 'now' && { isUrgent: true }),
      })
      return { ok: true }
    },

    'last-heartbeat': () => heartbeats.last,

    async 'set-heartbeats'({ enabled }) {
      await heartbeats.set(enabled)
      return { ok: true, enabled }
    },
  }
}

/** Which job a request is about. */
function idOf({ id, jobId }: { id?: string; jobId?: string }, method: string): string {
  const given = id ?? jobId
  if (given === undefined) throw new GatewayError('INVALID_PARAMS', `invalid ${method} params: missing id`)
  return given
}

function named(name: string): string {
  const text = name.trim()
  if (text === '') throw new GatewayError('INVALID_JOB', 'a job needs a name')
  return text
}

/** A schedule without members that nobody here knows. */
function plain(schedule: CronJob['schedule']): CronJob['schedule'] {
  switch (schedule.kind) {
    case 'at':
      return { kind: 'at', at: schedule.at }
    case 'every': {
      const { everyMs, anchorMs } = schedule
      return { kind: 'every', everyMs, ...(anchorMs !== undefined && { anchorMs }) }
    }
    case 'cron':
      return { kind: 'cron', expr: schedule.expr.trim(), ...(schedule.tz?.trim() && { tz: schedule.tz.trim() }) }
  }
}

type AgentTurn = Extract<CronJob['payload'], { kind: 'agentTurn' }>

function turnOf({ message, model, thinking, timeoutSeconds }: AgentTurn): AgentTurn {
  return {
    kind: 'agentTurn',
    message,
    ...(model !== undefined && { model }),
    ...(thinking !== undefined && { thinking }),
    ...(timeoutSeconds !== undefined && { timeoutSeconds }),
  }
}

type Delivery = NonNullable<CronJob['delivery']>

function deliveryOf({ mode, channel, to, bestEffort }: Delivery): Delivery {
  return {
    mode,
    ...(channel?.trim() && { channel: channel.trim() }),
    ...(to?.trim() && { to: to.trim() }),
    ...(bestEffort !== undefined && { bestEffort }),
  }
}

/** The delivery that a payload of an older client asks for; what an agent was asked alone, its main session hears of. */
const asked = (payload: CronJob['payload']): Delivery => ({
  mode: payload.kind === 'agentTurn' && payload.deliver === false ? 'none' : 'announce',
})

const inOrder =
  (by: 'nextRunAtMs' | 'updatedAtMs' | 'name') =>
  (one: CronJob, other: CronJob): number => {
    if (by === 'name') return one.name.localeCompare(other.name)
    if (by === 'updatedAtMs') return one.updatedAtMs - other.updatedAtMs
    // What is not due at all comes last.
    const at = ({ state }: CronJob) => state.nextRunAtMs ?? Number.MAX_SAFE_INTEGER
    return at(one) - at(other)
  }

/** Differs once another job is in the list, one is elsewhere in it, or is another. */
const revisionOf = (jobs: readonly CronJob[]): string =>
  createHash('sha256')
    .update(JSON.stringify(jobs.map(({ id, updatedAtMs, state }) => [id, updatedAtMs, state])))
    .digest('hex')

function pageOf<T>(all: readonly T[], limit: number, offset: number) {
  const part = all.slice(offset, offset + limit)
  const hasMore = offset + part.length < all.length
  return { part, total: all.length, offset, limit, hasMore, nextOffset: hasMore ? offset + part.length : null }
}

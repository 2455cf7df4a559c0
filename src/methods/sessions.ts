/** `sessions.*`: list, look into, set, begin anew, remove. */
import { randomUUID } from 'node:crypto'
import type { Caller, Handlers } from '../broker/dispatch.ts'
import type { Following } from '../broker/following.ts'
import { mayReach } from '../broker/hub.ts'
import type { Turns } from '../broker/turns.ts'
import { LIMITS } from '../contract/connect.ts'
import { GatewayError } from '../contract/errors.ts'
import type { Params } from '../contract/index.ts'
import { type AgentNames, canonical } from '../contract/session-key.ts'
import type { sessions as contract } from '../contract/sessions.ts'
import type { Model } from '../runtimes/runtime.ts'
import type { Json, SessionRecord, Store, TranscriptMessage } from '../stores/store.ts'
import { session } from './door.ts'
import { placeFor } from './place.ts'
import { checkSettings, setting } from './settings.ts'

export interface SessionsNeeds {
  agents: AgentNames
  store: Pick<Store, 'session' | 'sessionOf' | 'sessions' | 'patchSession' | 'history' | 'compactSession'>
  turns: Pick<Turns, 'reset' | 'remove'>
  following: Pick<Following, 'followAll'>
  now(): number
  /** Where the sessions are kept, as clients are told. */
  path: string
  /** The model that answers in a session of this agent. */
  modelOf(agentId: string, sessionModel: string | undefined): Model | undefined
  knowsModel(ref: string): boolean
}

/** Sessions of one preview: the first of those that are asked for. */
const PREVIEW_KEYS = 64
/** Entries that a compaction leaves where nobody says how many. */
const KEPT_ENTRIES = 400
/** Entries that are given where nobody says how many. */
const GOT_ENTRIES = 200
const PREVIEW_LIMIT = 12
const PREVIEW_CHARS = 240
/** JSON bytes of a session's newest entries that a preview is made from. */
const PREVIEW_BYTES = 256 * 1024
const TITLE_CHARS = 60
const LAST_CHARS = 160

/** The text of an entry, its other parts left out. */
function textOf({ content }: Pick<TranscriptMessage, 'content'>): string {
  return content.map((part) => (part.type === 'text' && typeof part['text'] === 'string' ? part['text'] : '')).join('')
}

/** A text on one line, cut at a number of characters. */
function cut(text: string, most: number): string {
  const line = text.replace(/\s+/g, ' ').trim()
  return line.length <= most ? line : `${line.slice(0, most - 1)}…`
}

const resolved = ({ key, agentId }: SessionRecord, { protocol }: Pick<Caller, 'protocol'>) => ({
  ok: true as const,
  key,
  ...(protocol >= 4 && { agentId }),
})

export function sessionMethods(needs: SessionsNeeds): Handlers<typeof contract> {
  const { agents, store, turns, now } = needs

  /** A session as `sessions.patch` and `sessions.reset` answer it. */
  function entryOf(record: SessionRecord) {
    const { sessionId, updatedAt, systemSent, abortedLastRun, inputTokens, outputTokens, totalTokens, settings } =
      record
    // A model that was set is a reference; an entry names provider and model apart.
    const { model: chosen, ...others } = settings
    const { provider: modelProvider = record.modelProvider, id: model = record.model } =
      (typeof chosen === 'string' && needs.modelOf(record.agentId, chosen)) || {}
    return {
      sessionId,
      updatedAt,
      systemSent,
      abortedLastRun,
      chatType: 'direct',
      inputTokens,
      outputTokens,
      totalTokens,
      ...(modelProvider && { modelProvider }),
      ...(model && { model }),
      ...others,
    }
  }

  function rowOf(record: SessionRecord, derive: { title: boolean; lastMessage: boolean }) {
    const model = needs.modelOf(record.agentId, setting(record, 'model'))
    const row: { [name: string]: unknown } = {
      key: record.key,
      kind: 'direct',
      origin: { provider: 'webchat', surface: 'webchat', chatType: 'direct' },
      ...entryOf(record),
      modelProvider: record.modelProvider ?? model?.provider,
      model: record.model ?? model?.id,
      contextTokens: model?.contextWindow,
      deliveryContext: { channel: 'webchat' },
      lastChannel: 'webchat',
    }
    const { opening, latest } = record
    if (derive.title && opening !== undefined) row['derivedTitle'] = cut(opening, TITLE_CHARS)
    if (derive.lastMessage && latest !== undefined) row['lastMessagePreview'] = cut(latest, LAST_CHARS)
    return row
  }

  async function list(params: Params<'sessions.list'>, caller: Caller) {
    const agentId = params.agentId === undefined ? undefined : (agents.resolve(params.agentId) ?? params.agentId)
    const isSifted = params.label !== undefined || params.spawnedBy !== undefined || caller.sessions !== undefined
    const all = await store.sessions({
      ...(params.limit !== undefined && !isSifted && { limit: params.limit }),
      ...(agentId !== undefined && { agentId }),
      ...(params.activeMinutes && { updatedSince: now() - params.activeMinutes * 60_000 }),
      ...(params.search && { search: params.search }),
    })
    const found = all.filter(
      (record) =>
        mayReach(caller, record.key) &&
        (params.label === undefined || setting(record, 'label') === params.label) &&
        (params.spawnedBy === undefined || setting(record, 'spawnedBy') === params.spawnedBy),
    )
    const shown = found.slice(0, params.limit ?? found.length)
    const derive = { title: params.includeDerivedTitles === true, lastMessage: params.includeLastMessage === true }
    const model = needs.modelOf(agents.defaultId, undefined)
    return {
      ts: now(),
      path: placeFor(caller, needs.path),
      count: shown.length,
      defaults: { modelProvider: model?.provider, model: model?.id, contextTokens: model?.contextWindow },
      sessions: shown.map((record) => rowOf(record, derive)),
    }
  }

  return {
    'sessions.list': list,

    async 'sessions.subscribe'(params, caller) {
      needs.following.followAll(caller)
      // Where nothing is asked for, nothing but the events is wanted.
      return Object.keys(params).length === 0
        ? { subscribed: true }
        : { subscribed: true, list: await list(params, caller) }
    },

    async 'sessions.digest'(_, caller) {
      const all = await store.sessions({})
      return {
        sessions: all
          .filter(({ key }) => mayReach(caller, key))
          .map(({ key, agentId, updatedAt, messageCount }) => ({
            sessionId: key,
            agentId,
            lastActivity: updatedAt,
            messageCount,
          })),
      }
    },

    async 'sessions.preview'(params) {
      const limit = params.limit ?? PREVIEW_LIMIT
      const chars = params.maxChars ?? PREVIEW_CHARS
      // One after the other, and no more of each than a preview can show: all of them may be long.
      const previews: { [name: string]: unknown }[] = []
      for (const spelling of params.keys.slice(0, PREVIEW_KEYS)) {
        const { key } = canonical(spelling, agents)
        const { sessionId, messages } = await store.history(key, { limit, maxBytes: PREVIEW_BYTES })
        const items = messages.map((message) => ({ role: message.role, text: cut(textOf(message), chars) }))
        previews.push({
          key: spelling,
          status: sessionId === undefined ? 'missing' : items.length === 0 ? 'empty' : 'ok',
          items,
        })
      }
      return { ts: now(), previews }
    },

    async 'sessions.describe'({ key: spelling, agentId, includeDerivedTitles, includeLastMessage }, caller) {
      const record = await store.session(session(spelling, agentId, agents, caller).key)
      const derive = { title: includeDerivedTitles === true, lastMessage: includeLastMessage === true }
      return { session: record ? rowOf(record, derive) : null }
    },

    async 'sessions.get'({ key: spelling, agentId, limit = GOT_ENTRIES }, caller) {
      const { key } = session(spelling, agentId, agents, caller)
      return { messages: (await store.history(key, { limit, maxBytes: LIMITS.history })).messages }
    },

    async 'sessions.create'({ key: spelling = randomUUID(), agentId: addressed, label }, caller) {
      const { key, agentId } = session(spelling, addressed, agents, caller)
      const known = await store.session(key)
      const wanted = { key, agentId, sessionId: randomUUID(), principal: caller.principal }
      const record = known ?? (await store.patchSession(wanted, label === undefined ? {} : { label }, now()))
      return { ok: true, key, sessionId: record.sessionId, entry: entryOf(record), runStarted: false }
    },

    async 'sessions.resolve'({ key, sessionId, label, agentId }, caller) {
      if (key !== undefined) {
        const found = await store.session(canonical(key, agents).key)
        if (!found) throw new GatewayError('SESSION_NOT_FOUND', `No session found: ${key.slice(0, 200)}`)
        return resolved(found, caller)
      }
      if (sessionId === undefined && label === undefined)
        throw new GatewayError('INVALID_PARAMS', 'invalid sessions.resolve params: give key, sessionId or label')
      const agent = agentId === undefined ? undefined : agents.resolve(agentId)
      const byId = sessionId === undefined ? undefined : await store.sessionOf(sessionId)
      let found = agent === undefined || byId?.agentId === agent ? byId : undefined
      if (!found && label !== undefined)
        found = (await store.sessions(agent === undefined ? {} : { agentId: agent })).find(
          (record) => setting(record, 'label') === label,
        )
      if (!found)
        throw new GatewayError('SESSION_NOT_FOUND', `No session found: ${(sessionId ?? label)!.slice(0, 200)}`)
      return resolved(found, caller)
    },

    async 'sessions.patch'({ key: spelling, agentId: addressed, ...settings }, caller) {
      const { key, agentId } = session(spelling, addressed, agents, caller)
      checkSettings(settings, needs.knowsModel)
      const record = await store.patchSession(
        { key, agentId, sessionId: randomUUID(), principal: caller.principal },
        settings as { [name: string]: Json },
        now(),
      )
      const model = needs.modelOf(agentId, setting(record, 'model'))
      return {
        ok: true,
        path: placeFor(caller, needs.path),
        key,
        entry: entryOf(record),
        resolved: { modelProvider: model?.provider, model: model?.id },
      }
    },

    async 'sessions.reset'(params, caller) {
      const { key, agentId } = session(params.key, params.agentId, agents, caller)
      return { ok: true, key, entry: entryOf(await turns.reset(key, agentId, caller.principal)) }
    },

    async 'sessions.compact'({ key: spelling, agentId, maxLines = KEPT_ENTRIES }, caller) {
      const { key } = session(spelling, agentId, agents, caller)
      const record = await store.session(key)
      if (!record) return { ok: true, key, compacted: false, reason: 'no sessionId' }
      const archived = `${record.sessionId}.bak.${new Date(now()).toISOString()}.${randomUUID().slice(0, 8)}`
      const compaction = await store.compactSession(key, { sessionId: archived, keep: maxLines })
      if (!compaction) return { ok: true, key, compacted: false, reason: 'no sessionId' }
      const { kept, moved } = compaction
      return { ok: true, key, compacted: moved > 0, ...(moved > 0 && { archived }), kept }
    },

    async 'sessions.delete'(params, caller) {
      const { key, agentId } = session(params.key, params.agentId, agents, caller)
      if (key === `agent:${agentId}:${agents.mainKey}`)
        throw new GatewayError('MAIN_SESSION', `Cannot delete the main session (${key}).`)
      return { ok: true, key, deleted: await turns.remove(key), archived: [] }
    },
  }
}

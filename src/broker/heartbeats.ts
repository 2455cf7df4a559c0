/** Asking agents, without anybody having said something, whether anything needs attention. */
import { randomUUID } from 'node:crypto'
import type { HeartbeatConfig } from '../config/config.ts'
import type { HeartbeatPayload } from '../contract/cron.ts'
import { LONGEST_TIMER_MS } from '../contract/timer.ts'
import type { Json, Store, SystemEvent } from '../stores/store.ts'
import { NOTHING_TO_SAY, worthHearing } from './acknowledgement.ts'
import type { Agents } from './agents.ts'
import { lastWordsOfEnded } from './endings.ts'
import type { Hub } from './hub.ts'
import type { Log } from './log.ts'
import type { Runs } from './runs.ts'
import type { Sessions } from './sessions.ts'
import type { Turns } from './turns.ts'

export interface Heartbeats {
  /** What came of the last one; null before the first. */
  readonly last: HeartbeatPayload | null
  readonly isOn: boolean
  /** Lets all have heartbeats, or none. Durable when it resolves. */
  set(isOn: boolean): Promise<void>
  /** Has a session asked soon, once for all who want that meanwhile. */
  wake(agentId: string, sessionKey: string, reason: string): void
  /** Leaves word for a session, and wakes it if that is not to wait. Durable when it resolves. */
  leaveWord(word: Pick<SystemEvent, 'sessionKey' | 'agentId' | 'text' | 'isUrgent'>): Promise<void>
  /** What sessions are yet to hear of. */
  words(): Promise<SystemEvent[]>
  /** Begins, with what a former process was yet to tell. */
  start(): Promise<void>
  stop(): void
}

export interface HeartbeatsNeeds {
  agents: Pick<Agents, 'list' | 'get' | 'mainKey'>
  store: Pick<Store, 'addSystemEvent' | 'systemEvents' | 'run' | 'get' | 'put'>
  turns: Pick<Turns, 'admit' | 'start'>
  runs: Pick<Runs, 'ending'>
  sessions: Pick<Sessions, 'queue'>
  hub: Pick<Hub, 'tellAll'>
  /** What an agent is to look after, from its workspace. */
  checklistOf(agentId: string): string | undefined
  log: Log
  /** Wall-clock ms. */
  now(): number
}

const KIND = 'heartbeats'
const ID = 'isOn'
const PREVIEW_CHARS = 200
const PROMPT = `This is a heartbeat: nobody has said anything, and nobody waits. Look after what stands below, and after nothing that was finished before. If nothing needs attention now, answer ${NOTHING_TO_SAY} and nothing else.`

type Outcome = Pick<HeartbeatPayload, 'status' | 'reason' | 'preview'>

export function createHeartbeats(needs: HeartbeatsNeeds): Heartbeats {
  const { agents, store, turns, runs, sessions, hub, checklistOf, log, now } = needs
  let last: HeartbeatPayload | null = null
  let isOn = true
  let isStopped = false
  const timers = new Map<string, NodeJS.Timeout>()
  /** By session: why it is to be asked again when the heartbeat under way is over; undefined: it is not. */
  const underWay = new Map<string, string | undefined>()

  const mainOf = (agentId: string) => `agent:${agentId}:${agents.mainKey}`

  function tell(agentId: string, sessionKey: string, outcome: Outcome, startedAt: number): void {
    const { status } = outcome
    const indicator = {
      sent: 'alert',
      failed: 'error',
      'ok-token': 'ok',
      'ok-empty': 'ok',
      skipped: undefined,
    } as const
    const indicatorType = indicator[status]
    last = {
      ts: now(),
      ...outcome,
      agentId,
      sessionKey,
      durationMs: Math.max(0, now() - startedAt),
      ...(status !== 'sent' && { silent: true }),
      ...(indicatorType && { indicatorType }),
    }
    hub.tellAll('heartbeat', last, { about: sessionKey })
  }

  /** Asks a session, unless nothing asks for that. */
  async function beat(agentId: string, sessionKey: string, reason: string): Promise<Outcome> {
    const heartbeat = agents.get(agentId)?.heartbeat
    const isWoken = reason !== 'interval'
    const skipped = (why: string): Outcome => ({ status: 'skipped', reason: why })
    if (!isOn || !heartbeat) return skipped('disabled')
    if (!isWoken && !isActive(heartbeat, now())) return skipped('quiet-hours')
    if (!isWoken && sessions.queue(sessionKey).running !== null) return skipped('requests-in-flight')
    const list = checklistOf(agentId)
    const asks = list !== undefined && isAsking(list)
    const words = await store.systemEvents(sessionKey)
    if (words.length === 0 && !asks && heartbeat.prompt === undefined) return skipped('empty-heartbeat-file')
    const meta: { [name: string]: Json } = { reason, mostBeside: heartbeat.ackMaxChars }
    if (heartbeat.model !== undefined) meta['model'] = heartbeat.model
    const admission = await turns.admit({
      principal: `heartbeat:${agentId}`,
      method: 'heartbeat',
      sessionKey,
      agentId,
      key: `heartbeat/${randomUUID()}`,
      message: [heartbeat.prompt ?? PROMPT, ...(asks ? [`# HEARTBEAT.md\n\n${list.trim()}`] : [])].join('\n\n'),
      attachments: [],
      meta,
      quiet: true,
    })
    if (admission.kind !== 'new') return { status: 'failed', reason: 'it was begun before' }
    const { runId } = admission.record
    turns.start(admission.record, admission.settings)
    await runs.ending(runId)
    const run = await store.run(runId)
    if (run?.state !== 'completed')
      return { status: 'failed', reason: run?.error ?? run?.stopReason ?? 'it was cut off' }
    const said = lastWordsOfEnded(run)
    const heard = worthHearing(said, heartbeat.ackMaxChars)
    if (heard !== undefined) return { status: 'sent', reason, preview: heard.slice(0, PREVIEW_CHARS) }
    return { status: said.trim() === '' ? 'ok-empty' : 'ok-token', reason }
  }

  /** Asks a session; whoever wants that meanwhile has it asked once more. */
  async function ask(agentId: string, sessionKey: string, reason: string): Promise<void> {
    if (isStopped) return
    if (underWay.has(sessionKey)) {
      if (reason !== 'interval') underWay.set(sessionKey, reason)
      return
    }
    underWay.set(sessionKey, undefined)
    const startedAt = now()
    try {
      const outcome = await beat(agentId, sessionKey, reason)
      if (!isStopped) tell(agentId, sessionKey, outcome, startedAt)
    } catch (error) {
      if (isStopped) return
      log.warn({ agentId, reason, err: error }, 'a heartbeat failed')
      tell(agentId, sessionKey, { status: 'failed', reason: 'it was refused' }, startedAt)
    } finally {
      const again = underWay.get(sessionKey)
      underWay.delete(sessionKey)
      if (again !== undefined) void ask(agentId, sessionKey, again)
    }
  }

  function wait(agentId: string, everyMs: number, leftMs = everyMs): void {
    const ms = Math.min(leftMs, LONGEST_TIMER_MS)
    const timer = setTimeout(() => {
      if (leftMs > ms) return wait(agentId, everyMs, leftMs - ms)
      wait(agentId, everyMs)
      void ask(agentId, mainOf(agentId), 'interval')
    }, ms).unref()
    timers.set(agentId, timer)
  }

  return {
    get last() {
      return last
    },
    get isOn() {
      return isOn
    },
    async set(wanted) {
      await store.put(KIND, ID, wanted)
      isOn = wanted
    },
    wake: (agentId, sessionKey, reason) => void ask(agentId, sessionKey, reason),
    async leaveWord(word) {
      await store.addSystemEvent({ ...word, id: randomUUID(), at: now() })
      if (word.isUrgent) void ask(word.agentId, word.sessionKey, 'wake')
    },
    words: () => store.systemEvents(),
    async start() {
      isOn = (await store.get(KIND, ID)) !== false
      for (const { id, heartbeat } of agents.list()) if (heartbeat?.everyMs) wait(id, heartbeat.everyMs)
      for (const { agentId, sessionKey, isUrgent } of await store.systemEvents())
        if (isUrgent && agents.get(agentId) && !underWay.has(sessionKey)) void ask(agentId, sessionKey, 'wake')
    },
    stop() {
      isStopped = true
      for (const timer of timers.values()) clearTimeout(timer)
      timers.clear()
    },
  }
}

/** Whether a checklist has more than headings, comments and items without words. */
function isAsking(text: string): boolean {
  const lines = text.replace(/<!--[\s\S]*?-->/g, '').split('\n')
  return lines.some((line) => line.trim() !== '' && !/^\s*(?:#.*|(?:[-*+]|\d+[.)])\s*(?:\[[ xX]?\])?\s*)$/.test(line))
}

/** Whether a moment is within the hours in which heartbeats come by themselves. */
function isActive({ activeHours }: HeartbeatConfig, at: number): boolean {
  if (!activeHours) return true
  const { from, to, timezone } = activeHours
  const clock = new Intl.DateTimeFormat('en-GB', {
    hour: '2-digit',
    minute: '2-digit',
    hourCycle: 'h23',
    ...(timezone !== undefined && { timeZone: timezone }),
  })
  const [hours = 0, minutes = 0] = clock.format(at).split(':').map(Number)
  const minute = hours * 60 + minutes
  return from <= to ? minute >= from && minute < to : minute >= from || minute < to
}

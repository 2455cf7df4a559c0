/** The gateway itself: how it is, who is there, what it logs, how it is set. */
import { open, stat } from 'node:fs/promises'
import type { Audit } from '../broker/audit.ts'
import type { Handlers } from '../broker/dispatch.ts'
import type { Health } from '../broker/health.ts'
import type { Heartbeats } from '../broker/heartbeats.ts'
import type { Presence } from '../broker/presence.ts'
import type { Config } from '../config/config.ts'
import { GatewayError } from '../contract/errors.ts'
import type { AgentNames } from '../contract/session-key.ts'
import type { system } from '../contract/system.ts'
import { placeFor } from './place.ts'

export interface SystemNeeds {
  health: Health
  presence: Presence
  audit: Pick<Audit, 'list'>
  config: Pick<Config, 'logging'>
  /** A line of the log, as clients read it. */
  logLine(line: string): string
  agents: Pick<AgentNames, 'defaultId' | 'mainKey'>
  heartbeats: Pick<Heartbeats, 'leaveWord'>
  /** Tells the presence to everybody who may hear it. */
  announcePresence(): void
}

/** Entries that are answered where nobody says how many. */
const AUDITED = 200
const TAIL_LINES = 500
const TAIL_BYTES = 250_000

export function systemMethods(needs: SystemNeeds): Handlers<typeof system> {
  const { health, presence, config, audit, agents, heartbeats, logLine } = needs

  return {
    health: async ({ probe }) => (probe ? await health.refresh() : health.current()),
    status: () => health.status(),
    'system-presence': () => presence.list(),
    async 'system-event'({ text: given, ...facts }, { principal, client }) {
      const text = given.trim()
      if (text === '') throw new GatewayError('INVALID_PARAMS', 'text required')
      const isAboutSomebody = text.startsWith('Node:')
      if (!isAboutSomebody) {
        const { defaultId: agentId, mainKey } = agents
        await heartbeats.leaveWord({ agentId, sessionKey: `agent:${agentId}:${mainKey}`, text })
      }
      if (isAboutSomebody || facts.deviceId || facts.instanceId || facts.host)
        presence.say({ principal, instanceId: client.instanceId }, { ...facts, text })
      needs.announcePresence()
      return { ok: true }
    },
    'audit.entries': ({ kind, limit = AUDITED }) => ({
      entries: audit.list({ kind, limit }).map((entry) => ({ ...entry })),
    }),
    'logs.tail': async ({ cursor, limit = TAIL_LINES, maxBytes = TAIL_BYTES }, caller) => {
      const { lines, ...place } = await tail(config.logging.file, cursor, limit, maxBytes)
      return { file: placeFor(caller, config.logging.file), ...place, lines: lines.map(logLine) }
    },
  }
}

/** The newest whole lines of a file, or those after a byte offset. A file that shrank is read from its start (`reset`). */
async function tail(file: string, cursor: number | undefined, limit: number, maxBytes: number) {
  const size = (await stat(file).catch(() => undefined))?.size ?? 0
  const reset = cursor !== undefined && cursor > size
  const from = reset ? 0 : Math.max(cursor ?? 0, size - maxBytes)
  const truncated = from > (reset ? 0 : (cursor ?? 0))
  if (size === 0 || from >= size) return { cursor: size, size, lines: [], truncated: false, reset }
  const handle = await open(file)
  try {
    const buffer = Buffer.alloc(size - from)
    const { bytesRead } = await handle.read(buffer, 0, buffer.length, from)
    const text = buffer.subarray(0, bytesRead)
    // A line that is still being written is left for the next call; one that was cut at the front is left out.
    const end = text.lastIndexOf(0x0a) + 1
    const start = truncated ? text.indexOf(0x0a) + 1 : 0
    const lines = text.subarray(Math.min(start, end), end).toString('utf8').split('\n').slice(0, -1)
    return {
      cursor: from + end,
      size,
      lines: lines.slice(-limit),
      truncated: truncated || lines.length > limit,
      reset,
    }
  } finally {
    await handle.close()
  }
}

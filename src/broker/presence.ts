/** Who is here, and who was in the last five minutes: what `system-presence` and `hello-ok` show. */
import { hostname, networkInterfaces, release } from 'node:os'
import type { ClientInfo } from '../contract/connect.ts'

/** How long somebody who left stays listed, in milliseconds. */
const REMEMBERED_MS = 5 * 60_000
const MOST = 200

export type PresenceEntry = { ts: number; [member: string]: unknown }

export interface Presence {
  /** The gateway first, then the others, newest first. */
  list(): PresenceEntry[]
  /** @param key who it is: a device, an instance, or just this connection */
  join(
    key: string,
    connId: string,
    client: ClientInfo,
    access: { role: string; scopes: readonly string[]; deviceId: string | undefined },
  ): void
  /** Whether that was the last connection of somebody who was listed. */
  leave(key: string, connId: string): boolean
  readonly version: number
  /** The name of this machine. */
  readonly host: string
}

export function createPresence({ now, version }: { now(): number; version: string }): Presence {
  const entries = new Map<string, PresenceEntry>()
  /** The connections of each key: one that leaves is not gone while another is here. */
  const connected = new Map<string, Set<string>>()
  let count = 1
  const host = hostname()
  const ip = Object.values(networkInterfaces())
    .flat()
    .find((address) => address && !address.internal && address.family === 'IPv4')?.address
  const where = `${host}${ip ? ` (${ip})` : ''}`

  function self(): PresenceEntry {
    return {
      host,
      ...(ip && { ip }),
      version,
      platform: `${process.platform} ${release()}`,
      deviceFamily: process.platform === 'darwin' ? 'Mac' : process.platform === 'win32' ? 'Windows' : 'Linux',
      modelIdentifier: process.arch,
      mode: 'gateway',
      reason: 'self',
      text: `Gateway: ${where} · app ${version} · mode gateway · reason self`,
      ts: now(),
    }
  }

  return {
    list() {
      const oldest = now() - REMEMBERED_MS
      for (const [key, entry] of entries) if (entry['reason'] === 'disconnect' && entry.ts < oldest) entries.delete(key)
      // Who came or left last stands last in the map.
      return [self(), ...[...entries.values()].reverse()]
    },
    join(key, connId, client, { role, scopes, deviceId }) {
      count += 1
      connected.set(key, (connected.get(key) ?? new Set()).add(connId))
      entries.delete(key)
      entries.set(key, {
        host: client.displayName ?? client.id,
        version: client.version,
        platform: client.platform,
        ...(client.deviceFamily && { deviceFamily: client.deviceFamily }),
        ...(client.modelIdentifier && { modelIdentifier: client.modelIdentifier }),
        mode: client.mode,
        ...(deviceId && { deviceId }),
        ...(client.instanceId && { instanceId: client.instanceId }),
        roles: [role],
        scopes: [...scopes],
        reason: 'connect',
        ts: now(),
        text: `Node: ${client.displayName ?? client.id} · mode ${client.mode}`,
      })
      if (entries.size > MOST) entries.delete(entries.keys().next().value!)
    },
    leave(key, connId) {
      const here = connected.get(key)
      here?.delete(connId)
      if (here?.size) return false
      connected.delete(key)
      const entry = entries.get(key)
      if (!entry) return false
      count += 1
      entries.delete(key)
      entries.set(key, { ...entry, reason: 'disconnect', ts: now() })
      return true
    },
    get version() {
      return count
    },
    host,
  }
}

/** Who is here, and who was in the last five minutes: what `system-presence` and `hello-ok` show. */
import { hostname, networkInterfaces, release } from 'node:os'
import type { ClientInfo } from '../contract/connect.ts'

/** How long somebody who left stays listed, in milliseconds. */
const REMEMBERED_MS = 5 * 60_000
const MOST = 200
/** Entries of one principal, whatever its instances are called. */
const MOST_OF_ONE = 50

export type PresenceEntry = { ts: number; [member: string]: unknown }

export interface Presence {
  /** The gateway first, then the others, newest first. */
  list(): PresenceEntry[]
  /**
   * Lists somebody, in the place of their former entry: that of the device where it is known, else of the instance that this
   * principal says it is, else a new one.
   * @returns the entry's key, for `leave`
   */
  join(
    connId: string,
    client: ClientInfo,
    access: { principal: string; role: string; scopes: readonly string[]; deviceId: string | undefined },
  ): string
  /** Whether that was the last connection of somebody who was listed. */
  leave(key: string, connId: string): boolean
  readonly version: number
  /** The name of this machine. */
  readonly host: string
}

export function createPresence({ now, version }: { now(): number; version: string }): Presence {
  const entries = new Map<string, PresenceEntry>()
  /** The principal of each entry. */
  const principals = new Map<string, string>()
  /** The connections of each key: one that leaves is not gone while another is here. */
  const connected = new Map<string, Set<string>>()
  let count = 1
  const host = hostname()
  const ip = Object.values(networkInterfaces())
    .flat()
    .find((address) => address && !address.internal && address.family === 'IPv4')?.address
  const where = `${host}${ip ? ` (${ip})` : ''}`

  function forget(key: string): void {
    entries.delete(key)
    principals.delete(key)
  }

  /** Lets the oldest entry go: of a principal that has too many, or else, where there are too many, of the one that has most. */
  function makeRoom(principal: string): void {
    const counts = new Map<string, number>()
    for (const one of principals.values()) counts.set(one, (counts.get(one) ?? 0) + 1)
    let fullest = principal
    if (counts.get(principal)! <= MOST_OF_ONE) {
      if (entries.size <= MOST) return
      for (const [one, count] of counts) if (count > counts.get(fullest)!) fullest = one
    }
    for (const key of entries.keys()) if (principals.get(key) === fullest) return forget(key)
  }

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
      for (const [key, entry] of entries) if (entry['reason'] === 'disconnect' && entry.ts < oldest) forget(key)
      // Who came or left last stands last in the map.
      return [self(), ...[...entries.values()].reverse()]
    },
    join(connId, client, { principal, role, scopes, deviceId }) {
      // A name that a client gives itself is one among those of its principal: it takes nobody else's place.
      const { instanceId } = client
      const known = deviceId !== undefined ? ['device', deviceId] : instanceId && ['instance', principal, instanceId]
      const key = JSON.stringify(known || ['connection', connId])
      // Whatever a device says, it is one instance: those who look for instances find it under the name that was verified.
      const instance = deviceId ?? instanceId
      count += 1
      connected.set(key, (connected.get(key) ?? new Set()).add(connId))
      forget(key)
      principals.set(key, principal)
      entries.set(key, {
        host: client.displayName ?? client.id,
        version: client.version,
        platform: client.platform,
        ...(client.deviceFamily && { deviceFamily: client.deviceFamily }),
        ...(client.modelIdentifier && { modelIdentifier: client.modelIdentifier }),
        mode: client.mode,
        ...(deviceId && { deviceId }),
        ...(instance && { instanceId: instance }),
        roles: [role],
        scopes: [...scopes],
        reason: 'connect',
        ts: now(),
        text: `Node: ${client.displayName ?? client.id} · mode ${client.mode}`,
      })
      makeRoom(principal)
      return key
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

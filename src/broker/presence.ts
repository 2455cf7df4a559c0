/** Who is here, and who was in the last five minutes: what `system-presence` and `hello-ok` show. */
import { hostname, networkInterfaces, release } from 'node:os'
import type { ClientInfo } from '../contract/connect.ts'

/** How long somebody who left stays listed, in milliseconds. */
const REMEMBERED_MS = 5 * 60_000
const MOST = 200
/** Entries of one principal, whatever its instances are called. */
const MOST_OF_ONE = 50

export type PresenceEntry = { ts: number; [member: string]: unknown }

/** What is said of somebody; the text may say what the members do not. */
export interface Said {
  text: string
  deviceId?: string
  instanceId?: string
  host?: string
  ip?: string
  mode?: string
  version?: string
  platform?: string
  deviceFamily?: string
  modelIdentifier?: string
  lastInputSeconds?: number
  reason?: string
  roles?: string[]
  scopes?: string[]
  tags?: string[]
}

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
  /** Notes what somebody says of themselves, or of a machine that they look after: as long as they say it again, it is listed. */
  say(by: { principal: string; instanceId?: string | undefined }, what: Said): void
  /** Whether that was the last connection of somebody who was listed. */
  leave(key: string, connId: string): boolean
  readonly version: number
  /** The name of this machine. */
  readonly host: string
}

/** Characters of a text that stands for a name. */
const NAME_CHARS = 64

/** What a text of the form `Node: laptop (10.0.0.2) · app 1.2 · last input 3s ago · mode ui · reason periodic` says. */
function readText(text: string) {
  const [, host, ip] = /^Node: ([^(·]+?)(?: \(([^)·]+)\))?(?: ·|$)/.exec(text) ?? []
  const [, version] = / app ([^·]+?)(?: ·|$)/.exec(text) ?? []
  const [, input] = / last input (\d{1,9})s ago(?: ·|$)/.exec(text) ?? []
  const [, mode] = / mode ([^·]+?)(?: ·|$)/.exec(text) ?? []
  const [, reason] = / reason ([^·]+?)(?: ·|$)/.exec(text) ?? []
  return {
    ...(host && { host }),
    ...(ip && { ip }),
    ...(version && { version }),
    ...(input && { lastInputSeconds: Number(input) }),
    ...(mode && { mode }),
    ...(reason && { reason }),
  }
}

export function createPresence({ now, version }: { now(): number; version: string }): Presence {
  const entries = new Map<string, PresenceEntry>()
  /** The principal of each entry. */
  const principals = new Map<string, string>()
  /** The entries of whom nobody vouches for but who speaks of them. */
  const hearsay = new Set<string>()
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
    hearsay.delete(key)
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
      for (const [key, entry] of entries)
        if ((entry['reason'] === 'disconnect' || hearsay.has(key)) && entry.ts < oldest) forget(key)
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
    say({ principal, instanceId }, said) {
      const read = readText(said.text)
      const { text, deviceId, instanceId: instance, ...facts } = said
      // Who speaks of itself has its own entry changed. Who speaks of others changes none that is theirs.
      const mine = deviceId === principal ? ['device', deviceId] : ['instance', principal, instanceId]
      const isMine = deviceId === principal || (instanceId !== undefined && instance === instanceId)
      const name = deviceId ?? instance ?? facts.host ?? read.host ?? text.slice(0, NAME_CHARS)
      const own = JSON.stringify(mine)
      const key = isMine && entries.has(own) ? own : JSON.stringify(['said', principal, name])
      const before = entries.get(key)
      count += 1
      forget(key)
      principals.set(key, principal)
      if (key !== own) hearsay.add(key)
      entries.set(key, {
        ...before,
        ...read,
        ...facts,
        ...(deviceId !== undefined && { deviceId }),
        ...(instance !== undefined && { instanceId: instance }),
        text,
        ts: now(),
      })
      makeRoom(principal)
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

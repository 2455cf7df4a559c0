/** A recorded conversation: what two ends of a socket said to each other, one scenario in a file. */
import { existsSync, globSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { Frame } from '../support/gateway.ts'

/** Where the recordings are, beside the repository; there need not be any. */
const FOLDER = fileURLToPath(new URL('../../../shared/wire/', import.meta.url))

export interface Recording {
  /** Its path in the folder, without `.json`. */
  file: string
  note: string
  entries: Entry[]
}

export interface Entry {
  conn?: string
  /** Milliseconds since the beginning. */
  t?: number
  dir?: 'client->gateway' | 'gateway->client'
  frame?: Frame
  /** Something sent that is no request frame. */
  raw?: string
  close?: { code: number; reason: string }
  note?: string
}

/** Why there is nothing to replay; undefined when there is. */
export const absent = existsSync(FOLDER) ? undefined : 'the recorded conversations are not on this machine'

/** One request over HTTP and its answer. */
export interface Exchange {
  note?: string
  /** What the gateway was configured with, in words. */
  config: string
  request: { method: string; path: string; headers: Record<string, string>; body?: unknown }
  response: { status: number; headers: Record<string, string>; body: string }
}

/** The recordings that a list of patterns names. */
export function filesOf(patterns: readonly string[]): string[] {
  return absent
    ? []
    : globSync([...patterns], { cwd: FOLDER })
        .map((path) => path.replace(/\.json$/, ''))
        .sort()
}

/** What was recorded over a WebSocket. */
export function readRecording(file: string): Recording {
  const { note, frames } = JSON.parse(readFileSync(`${FOLDER}${file}.json`, 'utf8'))
  return { file, note, entries: frames }
}

/** What was recorded over HTTP. */
export const readExchanges = (file: string): Exchange[] =>
  JSON.parse(readFileSync(`${FOLDER}${file}.json`, 'utf8')).exchanges

export const isSent = ({ dir }: Entry): boolean => dir === 'client->gateway'
export const isReceived = ({ dir }: Entry): boolean => dir === 'gateway->client'

/** What one connection heard: its frames in order, and how it ended, if the gateway ended it. */
export interface Heard {
  frames: Frame[]
  close?: { code: number; reason: string }
  /** The status of an upgrade that was refused. */
  refused?: number
}

/** The names by which both ends know what a conversation is about. */
export interface Names {
  /** Run ids that a client chose. */
  runs: ReadonlySet<string>
  /** Session keys that a client named, as it spelled them, in lower case. */
  sessions: ReadonlySet<string>
  /** The method of each request id of a connection. */
  methods: ReadonlyMap<string, string>
}

export function namesOf({ entries }: Recording): Names {
  const runs = new Set<string>()
  const sessions = new Set<string>()
  const methods = new Map<string, string>()
  for (const { conn, frame } of entries.filter(isSent)) {
    const { idempotencyKey, sessionKey, key } = frame?.params ?? {}
    if (idempotencyKey) runs.add(idempotencyKey)
    for (const name of [sessionKey, key]) if (typeof name === 'string') sessions.add(name.toLowerCase())
    if (frame?.method) methods.set(`${conn} ${frame.id}`, frame.method)
  }
  return { runs, sessions, methods }
}

/** What a recording says each connection heard. What a client itself closed has no ending here. */
export function heardIn({ entries }: Recording, names: Names): Map<string, Heard> {
  const heard = new Map<string, Heard>()
  for (const entry of entries) {
    if (entry.conn === undefined) continue
    let here = heard.get(entry.conn)
    if (!here) {
      here = { frames: [] }
      heard.set(entry.conn, here)
    }
    if (entry.close) {
      if (!closedByClient(here, entry)) here.close = entry.close
    } else if (isReceived(entry) && !isForeign(entry.frame!, names)) here.frames.push(entry.frame!)
  }
  return heard
}

/** A gateway has no reason to say "normal closure" to somebody it has let in: then it was the client who left. */
export const closedByClient = ({ frames }: Pick<Heard, 'frames'>, { close }: Entry): boolean =>
  close?.code === 1000 && frames.some(({ payload }) => payload?.type === 'hello-ok')

/**
 * Whether an event is about a run that another recording started: they were made one after the other at one gateway, which began
 * failed runs again in the background.
 */
export const isForeign = ({ event, payload }: Frame, { runs, sessions }: Names): boolean =>
  (event === 'agent' || event === 'chat') &&
  !runs.has(payload.runId) &&
  !sessions.has(String(payload.sessionKey).toLowerCase())

/** The tools of other programs: each server under a supervisor of its own, `machines/tool-server.ts`, and its tools while it is there. */
import { type RestartPolicy, toolServerMachine } from '../../machines/tool-server.ts'
import type { McpServerConfig } from '../config/config.ts'
import { MOST_DEPTH } from '../contract/json-bounds.ts'
import { createHost, work } from './host.ts'
import { type Log, sampled } from './log.ts'
import type { Tool, ToolResult, ToolSource } from './toolbox.ts'

/** A tool in the words of its server: nothing of it has been looked at. */
export interface ForeignTool {
  name: string
  description: string
  /** JSON Schema of its arguments, or what its server takes for one. */
  schema: unknown
}

/** A line to a server, from its start to its end. */
export interface ToolLine {
  /** Starts or finds it, greets it, and resolves to its tools. Rejects with why not. */
  open(): Promise<ForeignTool[]>
  /** Calls a tool; once `signal` is aborted the server is told that nobody waits any more. Rejects with why it failed, which holds no secret of the server. */
  call(tool: string, args: Record<string, unknown>, signal: AbortSignal): Promise<ToolResult>
  /** Ends the line and what was started for it. Resolves within 4 s, when nothing is left; the same each time. */
  close(): Promise<void>
}

/** What a line tells, until it is closed. */
export interface LineEars {
  /** Its tools are others now. */
  onTools(tools: ForeignTool[]): void
  /** It went away by itself; before the calls under way reject. */
  onLost(why: string): void
  /** What its program says besides the protocol, line by line. */
  onSaid(line: string): void
}

export type OpenLine = (server: McpServerConfig, ears: LineEars) => ToolLine

export interface ToolServers extends ToolSource {
  /** Begins with all of them. Nobody waits: their tools are there when they are. */
  start(): void
  /** Resolves when nothing is left of any. */
  stop(): Promise<void>
}

export interface ToolServersNeeds {
  servers: readonly McpServerConfig[]
  openLine: OpenLine
  log: Log
  /** Monotonic milliseconds. */
  monotonic(): number
  random(): number
  policy?: RestartPolicy
}

/** Of one server. */
const MOST_TOOLS = 128
/** Characters. */
const MOST = { name: 64, description: 2_000, schema: 50_000, line: 2_000 }
/** Names of one server's tools that are no longer there, and how long they are known. */
const MOST_GONE = 1_000
const GONE_MS = 10 * 60_000
/** Lines of one server that are logged in a second. */
const LINES_PER_SECOND = 20

interface Server {
  config: McpServerConfig
  line: ToolLine | undefined
  /** Whether its line has gone away by itself. */
  isLost: boolean
  isReady: boolean
  /** Whether it has ever been ready. */
  isBegun: boolean
  /** How often it went away or could not be started since it was ready last, and why the last time. */
  failures: number
  why: string | undefined
  /** Why it was when it was last logged that it rests, since then. */
  whyResting: string | undefined
  /** Those of the last time it was there. */
  known: ForeignTool[]
  tools: Tool[]
  /** When its list was first without a tool that it had, in monotonic ms, by name, the first to go first. */
  gone: Map<string, number>
}

export function createToolServers(needs: ToolServersNeeds): ToolServers {
  const { openLine, log, monotonic, random } = needs
  const policy = needs.policy ?? { restarts: 5, windowMs: 30_000, backoffMs: 100, restMs: 60_000 }
  const servers = new Map(
    needs.servers.map((config): [string, Server] => [
      config.name,
      {
        config,
        line: undefined,
        isLost: false,
        isReady: false,
        isBegun: false,
        failures: 0,
        why: undefined,
        whyResting: undefined,
        known: [],
        tools: [],
        gone: new Map(),
      },
    ]),
  )
  /** Settled when the last of them is stopped. */
  const ended = Promise.withResolvers<void>()

  const host = createHost({
    machine: toolServerMachine.provide({
      actions: {
        offer: (_, { name }) => {
          const server = servers.get(name)!
          server.isReady = true
          server.isBegun = true
          server.failures = 0
          server.why = undefined
          server.whyResting = undefined
          log.info({ server: name, tools: server.known.length }, 'a tool server is ready')
        },
        withdraw: (_, { name }) => {
          servers.get(name)!.isReady = false
        },
        tellLost(_, { name, why }) {
          const server = servers.get(name)!
          log[server.why === why ? 'debug' : 'warn']({ server: name, why }, 'a tool server is not there')
          server.failures += 1
          server.why = why
        },
        quarantine(_, { name, restMs }) {
          const server = servers.get(name)!
          const { why } = server
          const isKnown = server.whyResting === why
          log[isKnown ? 'debug' : 'error']({ server: name, restMs, why }, 'a tool server failed too often; it rests')
          server.whyResting = why
        },
        unexpected: (_, { event }) => log.debug({ event }, 'tool server: an event that means nothing now'),
      },
      actors: {
        connect: work(async ({ name }, signal) => {
          const server = servers.get(name)!
          const line = openLine(
            server.config,
            earsOf(server, () => server.line === line && !signal.aborted),
          )
          server.line = line
          server.isLost = false
          const tools = await line.open()
          signal.throwIfAborted()
          learn(server, tools)
        }),
        clear: work(async ({ name }) => {
          await servers.get(name)!.line?.close()
          return { at: monotonic(), jitter: Math.floor(random() * policy.backoffMs) }
        }),
      },
    }),
    onDone: forget,
    onCrash(name, error) {
      log.error({ server: name, err: error }, 'the supervisor of a tool server crashed; it is not begun again')
      const server = servers.get(name)!
      server.isReady = false
      void server.line?.close().then(forget, forget)
    },
  })
  for (const { name, startMs } of needs.servers) host.open(name, { name, startMs, policy })

  function forget(): void {
    if (host.size === 0) ended.resolve()
  }

  /** @param isCurrent whether the line is still the one of its server */
  function earsOf(server: Server, isCurrent: () => boolean): LineEars {
    const { name } = server.config
    const write = sampled((details, message) => log.debug(details, message), LINES_PER_SECOND, monotonic)
    return {
      onTools(tools) {
        if (!isCurrent()) return
        learn(server, tools)
        log.info({ server: name, tools: server.known.length }, 'a tool server has other tools')
      },
      onLost(why) {
        if (!isCurrent()) return
        server.isLost = true
        host.tell(name, { type: 'lost', why })
      },
      onSaid: (line) => write({ server: name, line: line.slice(0, MOST.line) }, 'a tool server says'),
    }
  }

  function learn(server: Server, tools: ForeignTool[]): void {
    const { name } = server.config
    // What walks a schema, here or on its way to a model, would overflow the stack.
    const flat = tools.filter(({ schema }) => !isDeeper(schema, MOST_DEPTH))
    if (flat.length < tools.length)
      log.warn(
        { server: name, tools: tools.length - flat.length, most: MOST_DEPTH },
        'tools are left out: their schemas are nested too deep',
      )
    const fitting = flat.filter(({ schema }) => sizeOf(schema) <= MOST.schema)
    if (fitting.length < flat.length)
      log.warn({ server: name, tools: flat.length - fitting.length }, 'tools are left out: their schemas are too large')
    if (fitting.length > MOST_TOOLS)
      log.warn({ server: name, tools: fitting.length, most: MOST_TOOLS }, 'tools are left out: they are too many')
    server.known = fitting.slice(0, MOST_TOOLS)
    nameAll()
  }

  /** Gives every tool a name of its own, in the order of the configuration and of each server. */
  function nameAll(): void {
    const taken = new Set<string>()
    for (const server of servers.values()) {
      const before = new Set(server.tools.map(({ name }) => name))
      server.tools = server.known.map((foreign) => {
        const wish = fitted(`${server.config.name}__${foreign.name}`)
        const name = unused(wish, taken)
        if (name !== wish && !before.has(name)) {
          const tool = foreign.name.slice(0, MOST.name)
          log.warn({ server: server.config.name, tool, name }, 'a tool has the name of another')
        }
        taken.add(name)
        return toolOf(server, foreign, name)
      })
      noteGone(server, before)
    }
  }

  /** Keeps the names of tools that its models may still have been told of. */
  function noteGone({ tools, gone }: Server, before: ReadonlySet<string>): void {
    for (const { name } of tools) gone.delete(name)
    const there = new Set(tools.map(({ name }) => name))
    for (const name of before) if (!there.has(name)) gone.set(name, monotonic())
    for (const name of gone.keys()) {
      if (gone.size <= MOST_GONE) break
      gone.delete(name)
    }
  }

  const toolOf = (server: Server, foreign: ForeignTool, name: string): Tool => ({
    name,
    description: foreign.description.slice(0, MOST.description).toWellFormed(),
    parameters: objectSchema(foreign.schema),
    isCheckedElsewhere: true,
    timeoutMs: server.config.timeoutMs,
    async call(args, _, signal) {
      const { line } = server
      if (!server.isReady || !line) throw new Error(whyAway(server))
      try {
        return await line.call(foreign.name, args, signal)
      } catch (error) {
        // What it failed with says less.
        if (!signal.aborted && (server.isLost || server.line !== line))
          throw new Error(whyAway(server), { cause: error })
        throw error
      }
    },
  })

  const isFor = ({ config: { agents } }: Server, agentId: string) => agents === undefined || agents.includes(agentId)

  return {
    tools: (agentId) =>
      [...servers.values()].flatMap((server) => (server.isReady && isFor(server, agentId) ? server.tools : [])),
    missing(agentId, name) {
      for (const server of servers.values()) {
        if (!isFor(server, agentId)) continue
        const { config, isReady, gone } = server
        if (!isReady && name.startsWith(`${config.name}__`)) return whyAway(server)
        const goneAt = gone.get(name)
        if (goneAt !== undefined && monotonic() - goneAt <= GONE_MS)
          return `the tool ${name} is no longer there: the tool server ${config.name} has other tools now`
      }
      return undefined
    },
    start() {
      for (const name of host.ids()) host.tell(name, { type: 'begin' })
    },
    async stop() {
      for (const name of host.ids()) host.tell(name, { type: 'stop' })
      forget()
      await ended.promise
    },
  }
}

/** Why nothing of it can be called, for a model. */
function whyAway({ config: { name }, isBegun, failures, why }: Server): string {
  const failed = `could not be started (${why}); it is tried again`
  if (isBegun) return `the tool server ${name} went away${failures > 1 ? `, and ${failed}` : '; it is being restarted'}`
  return `the tool server ${name} ${failures > 0 ? failed : 'is not there yet; it is being started'}`
}

/** A name that models can be told. */
const fitted = (name: string): string => name.replace(/[^A-Za-z0-9_-]/g, '_').slice(0, MOST.name)

/** The name itself, or with a number at its end when it is taken. */
function unused(name: string, taken: ReadonlySet<string>): string {
  for (let number = 1; ; number += 1) {
    const ending = number === 1 ? '' : `_${number}`
    const candidate = name.slice(0, MOST.name - ending.length) + ending
    if (!taken.has(candidate)) return candidate
  }
}

/** What is no schema of an object is told to models as one that takes anything: arguments are always an object. */
function objectSchema(schema: unknown): Tool['parameters'] {
  if (typeof schema !== 'object' || schema === null || Array.isArray(schema)) return { type: 'object' }
  const { type = 'object' } = schema as { type?: unknown }
  return type === 'object' ? { ...schema, type } : { type: 'object' }
}

/** Whether objects and arrays are more than so many inside each other, told level by level. */
function isDeeper(value: unknown, most: number): boolean {
  let level = [value].filter(isNest)
  for (let depth = 1; level.length > 0; depth += 1) {
    if (depth > most) return true
    level = level.flatMap((nest) => Object.values(nest).filter(isNest))
  }
  return false
}

const isNest = (value: unknown): value is object => typeof value === 'object' && value !== null

const sizeOf = (schema: unknown): number => JSON.stringify(schema ?? null).length

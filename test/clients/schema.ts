/** What the published schema of protocol 4 says of frames. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import Schema from 'typebox/schema'
import type { Role } from '../../src/contract/block.ts'
import type { TappedFrame } from './tap.ts'

type JsonSchema = { [keyword: string]: unknown; properties?: { [name: string]: JsonSchema } }

export interface PublishedSchema {
  /** Whether the schema says what answers this method, and means one for the same role. */
  namesResultOf(method: string, role: Role): boolean
  namesPayloadOf(event: string): boolean
  /** Looks at each frame that a gateway sent, and says what does not fit. */
  judge(frames: readonly TappedFrame[]): Verdict
}

interface Verdict {
  /** What does not fit, each once: what it is of, where, and why. */
  problems: string[]
  /** Methods of which a result was held against its type, and events likewise. */
  results: Set<string>
  payloads: Set<string>
  /** Methods that said they are not served here. */
  absent: Set<string>
}

/**
 * The schema lacks what the reference itself puts beside `agent` events: whose run it is.
 * Everything else has to be in it.
 */
const BESIDE_AGENT_EVENTS = ['sessionKey', 'sessionId', 'agentId']

/** @param folder where `node_modules` with `@openclaw/gateway-protocol` is */
export function readSchema(folder: string): PublishedSchema {
  const file = join(folder, 'node_modules/@openclaw/gateway-protocol/protocol.schema.json')
  const { definitions, methods: known } = JSON.parse(readFileSync(file, 'utf8')) as {
    definitions: { [name: string]: JsonSchema }
    methods: { [name: string]: { scope: string } }
  }
  const named = (name: string): JsonSchema => {
    const found = definitions[name]
    if (!found) throw new Error(`${file} has no definition ${name}`)
    return found
  }
  const list = (items: JsonSchema): JsonSchema => ({ type: 'array', items })
  const having = (name: string, schema: JsonSchema): JsonSchema => ({
    type: 'object',
    required: [name],
    properties: { [name]: schema },
  })
  const health = named('Snapshot').properties!['health']!
  const { properties, ...rest } = named('AgentEvent')
  const beside = Object.fromEntries(BESIDE_AGENT_EVENTS.map((name) => [name, { type: 'string', minLength: 1 }]))

  /** Where the name of a method or event does not lead to its definition. */
  const RESULTS: { [method: string]: JsonSchema } = {
    connect: named('HelloOk'),
    health,
    'system-presence': list(named('PresenceEntry')),
    'agent.identity.get': named('AgentIdentityResult'),
    'exec.approvals.get': named('ExecApprovalsSnapshot'),
    'exec.approvals.set': named('ExecApprovalsSnapshot'),
    'sessions.list': having('sessions', list(named('SessionRow'))),
    'cron.list': having('jobs', list(named('CronJob'))),
    'cron.get': named('CronJob'),
    'cron.update': named('CronJob'),
    'cron.runs': having('entries', list(named('CronRunLogEntry'))),
  }
  const PAYLOADS: { [event: string]: JsonSchema } = {
    health,
    presence: having('presence', list(named('PresenceEntry'))),
    agent: { ...rest, properties: { ...properties, ...beside } },
  }
  /** `agents.files.get` -> `AgentsFilesGet`. */
  const titled = (name: string) => name.replace(/(?:^|[.-])(\w)/g, (_, letter: string) => letter.toUpperCase())
  function resultOf(method: string, role: Role): JsonSchema | undefined {
    const scope = own(known, method)?.scope
    if (scope !== undefined && (scope === 'node') !== (role === 'node')) return undefined
    return own(RESULTS, method) ?? definitions[`${titled(method)}Result`] ?? definitions[`${titled(method)}Response`]
  }
  const payloadOf = (event: string): JsonSchema | undefined =>
    own(PAYLOADS, event) ?? definitions[`${titled(event)}Event`]

  const compiled = new Map<JsonSchema, ReturnType<typeof Schema.Compile>>()
  /** What is wrong with a value, in words. */
  function faults(schema: JsonSchema, value: unknown): string[] {
    if (!compiled.has(schema)) compiled.set(schema, Schema.Compile(schema))
    const [isFit, errors] = compiled.get(schema)!.Errors(value)
    if (isFit) return []
    return errors
      .filter(({ keyword }) => keyword !== 'boolean')
      .map(({ instancePath, message, params }) => `${instancePath || '/'} ${message} ${JSON.stringify(params)}`)
  }

  return {
    namesResultOf: (method, role) => resultOf(method, role) !== undefined,
    namesPayloadOf: (event) => payloadOf(event) !== undefined,
    judge(frames) {
      const problems = new Set<string>()
      const [results, payloads, absent] = [new Set<string>(), new Set<string>(), new Set<string>()]
      const methods = new Map<string, string>()
      const roles = new Map<number, Role>()
      const hold = (what: string, schema: JsonSchema, value: unknown) => {
        for (const fault of faults(schema, value)) problems.add(`${what}: ${fault.replace(/\/\d+(?=\/| )/g, '/n')}`)
      }
      for (const { connection, from, frame } of frames) {
        if (from === 'client') {
          methods.set(`${connection} ${frame['id']}`, frame['method'])
          if (frame['method'] === 'connect' && frame['params'].role === 'node') roles.set(connection, 'node')
          continue
        }
        if (frame['type'] === 'event') {
          const name = String(frame['event'])
          hold(`the frame of ${name}`, named('EventFrame'), frame)
          const schema = payloadOf(name)
          if (!schema) continue
          hold(name, schema, frame['payload'])
          payloads.add(name)
          continue
        }
        const method = methods.get(`${connection} ${frame['id']}`) ?? '?'
        hold(`the answer to ${method}`, named('ResponseFrame'), frame)
        if (frame['ok'] === true) {
          const schema = resultOf(method, roles.get(connection) ?? 'operator')
          if (!schema) continue
          hold(method, schema, frame['payload'])
          results.add(method)
          continue
        }
        const { details } = frame['error']
        if (details?.code === 'NOT_SERVED') absent.add(method)
        if (details?.code === 'MISSING_SCOPE')
          hold('details of a missing scope', named('MissingScopeErrorDetails'), details)
      }
      return { problems: [...problems].sort(), results, payloads, absent }
    },
  }
}

const own = <T>(table: { [name: string]: T }, name: string): T | undefined =>
  Object.hasOwn(table, name) ? table[name] : undefined

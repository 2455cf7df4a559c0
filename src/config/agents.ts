/** The agents as they will run: who there is, who is the default, and what each thinks with. */
import { statSync } from 'node:fs'
import type { ThinkingLevel } from '../runtimes/runtime.ts'
import type { AgentConfig, Config } from './config.ts'
import type { Findings } from './findings.ts'
import { readHeartbeat } from './heartbeat.ts'
import type { Environment } from './reading.ts'
import { type ConfigFile, defaults } from './schema.ts'

interface Surroundings {
  models: Config['models']
  env: Environment
  findings: Findings
  /** Makes a path absolute. */
  resolve(path: string): string
}

type AgentFile = NonNullable<NonNullable<ConfigFile['agents']>['list']>[number]
type ModelChoice = AgentFile['model']

export function readAgents(file: ConfigFile['agents'], surroundings: Surroundings): Config['agents'] {
  const { findings } = surroundings
  const common = file?.defaults ?? {}
  const written = file?.list?.length ? file.list : [{ id: 'main' }]
  const list: AgentConfig[] = []
  const chosen: string[] = []
  const placeOf = new Map<string, number>()
  for (const [index, agent] of written.entries()) {
    const at = `agents.list[${index}]`
    const id = readId(agent, at, findings)
    if (id === undefined) continue
    const earlier = placeOf.get(id)
    if (earlier !== undefined) {
      findings.problems.push(`${at}.id: ${JSON.stringify(agent.id)} is the same agent as agents.list[${earlier}]`)
      continue
    }
    placeOf.set(id, index)
    if (agent.default) chosen.push(id)
    list.push(readAgent(id, agent, at, common, surroundings))
  }
  if (chosen.length > 1) {
    findings.warnings.push(`agents.list: ${chosen.join(', ')} are all the default; ${chosen[0]} is`)
  }
  const defaultId = chosen[0] ?? (placeOf.has('main') ? 'main' : (list[0]?.id ?? 'main'))
  // Where some have a section of their own, only they have heartbeats; else only the default one.
  const hasOwn = new Set(written.filter(({ heartbeat }) => heartbeat).map(({ id }) => id?.toLowerCase()))
  for (const agent of list)
    if (agent.heartbeat && (hasOwn.size > 0 ? !hasOwn.has(agent.id) : agent.id !== defaultId))
      agent.heartbeat = { ...agent.heartbeat, every: '0m', everyMs: 0 }
  warnOfModels(list, common.model, written, surroundings)
  warnOfWorkspaces(list, findings)
  for (const { id, failoverFor } of list) {
    const unknown = failoverFor.filter((other) => !placeOf.has(other))
    if (unknown.length > 0)
      findings.warnings.push(`agents.list: ${id} stands in for ${unknown.join(', ')}, who is no agent`)
  }
  return {
    defaultId,
    list,
    bootstrapMaxChars: common.bootstrapMaxChars ?? defaults.bootstrapMaxChars,
    maxConcurrent: common.maxConcurrent ?? defaults.maxConcurrent,
    timeoutMs: (common.timeoutSeconds ?? defaults.timeoutSeconds) * 1_000,
    recovery: common.recovery ?? defaults.recovery,
    failover: {
      everyMs: (common.failover?.everySeconds ?? defaults.failover.everySeconds) * 1_000,
      misses: common.failover?.misses ?? defaults.failover.misses,
    },
  }
}

/** Ids are part of session keys and of folder names, so they are plain, short, and the same in every case. */
function readId(agent: AgentFile, at: string, findings: Findings): string | undefined {
  if (agent.id === undefined) {
    findings.problems.push(`${at}.id: is required`)
    return undefined
  }
  const id = agent.id.toLowerCase()
  const reserved = id === '__proto__' || id === 'constructor' || id === 'prototype'
  if (/^[a-z0-9_-]{1,64}$/.test(id) && !reserved) return id
  const got = JSON.stringify(agent.id.slice(0, 80))
  findings.problems.push(`${at}.id: must be 1 to 64 letters a-z, digits, _ or -, and no reserved word, got ${got}`)
  return undefined
}

type Common = NonNullable<NonNullable<ConfigFile['agents']>['defaults']>

function readAgent(id: string, agent: AgentFile, at: string, common: Common, surroundings: Surroundings): AgentConfig {
  const models = readChoice(agent.model, common.model, surroundings)
  const own = agent.heartbeat ?? {}
  const heartbeat = readHeartbeat(
    { ...common.heartbeat, ...own },
    (key) => `${key in own ? at : 'agents.defaults'}.heartbeat.${key}`,
    surroundings,
  )
  const level = agent.thinkingDefault ?? common.thinkingDefault
  const reasons = surroundings.models.find(models[0] ?? '')?.reasoning ?? false
  const config: AgentConfig = {
    id,
    name: agent.name?.trim() || (id === 'main' ? 'Assistant' : id),
    models,
    thinking: level === undefined ? (reasons ? 'low' : 'off') : levelOf(level),
    heartbeat,
    failoverFor: (agent.failoverFor ?? []).map((other) => other.toLowerCase()),
    ...(agent.maxConcurrent !== undefined && { maxConcurrent: agent.maxConcurrent }),
    ...readConnector(agent.runtime),
  }
  const workspace = (agent.workspace ?? common.workspace)?.trim()
  if (workspace) config.workspace = surroundings.resolve(workspace)
  return config
}

function readConnector(runtime: AgentFile['runtime']): Pick<AgentConfig, 'connector'> {
  if (runtime?.type !== 'connector') return {}
  const { node, graceSeconds = defaults.graceSeconds } = runtime
  return { connector: { graceMs: graceSeconds * 1_000, ...(node !== undefined && { node }) } }
}

/** The highest level of the reference is the highest here. */
const levelOf = (level: ThinkingLevel | 'xhigh'): ThinkingLevel => (level === 'xhigh' ? 'high' : level)

/** The models in the order they are tried. Its own primary with the common fallbacks, unless it names its own. */
function readChoice(own: ModelChoice, common: ModelChoice, { models, env }: Surroundings): string[] {
  const [mine, theirs] = [choice(own), choice(common)]
  const fresh = env['MOONSHOT_API_KEY'] && models.find('moonshot/kimi-k2.5') ? 'moonshot/kimi-k2.5' : 'echo/echo'
  const primary = mine.primary ?? theirs.primary ?? fresh
  const refs = [primary, ...(mine.fallbacks ?? theirs.fallbacks ?? [])]
  return [...new Set(refs.map((ref) => models.find(ref)?.ref ?? ref))]
}

const choice = (written: ModelChoice): { primary?: string; fallbacks?: string[] } =>
  typeof written === 'string' ? { primary: written } : (written ?? {})

/** A run that reaches such a model ends with an error that says so; at the start it is a hint. */
function warnOfModels(
  list: AgentConfig[],
  common: ModelChoice,
  written: AgentFile[],
  { models, findings }: Surroundings,
): void {
  const shared = new Set(refsOf(common))
  const places = new Map<string, string>()
  for (const ref of shared) places.set(ref, 'agents.defaults.model')
  for (const [index, agent] of written.entries()) {
    for (const ref of refsOf(agent.model)) if (!places.has(ref)) places.set(ref, `agents.list[${index}].model`)
  }
  const used = new Set(list.flatMap((agent) => agent.models))
  for (const [ref, path] of places) {
    if (!used.has(ref) || models.find(ref) !== undefined) continue
    findings.warnings.push(`${path}: no provider has the model ${JSON.stringify(ref)}; runs with it end with an error`)
  }
}

const refsOf = (written: ModelChoice): string[] => {
  const { primary, fallbacks = [] } = choice(written)
  return primary === undefined ? fallbacks : [primary, ...fallbacks]
}

/** One line for all, because a gateway started away from home misses every one of them. */
function warnOfWorkspaces(list: AgentConfig[], findings: Findings): void {
  const missing = list.filter(({ workspace }) => {
    if (workspace === undefined) return false
    try {
      return !statSync(workspace).isDirectory()
    } catch {
      return true
    }
  })
  if (missing.length === 0) return
  const places = missing.map(({ id, workspace }) => `${id} (${workspace})`)
  findings.warnings.push(`no workspace folder for ${places.join(', ')}; they run without a prompt until there is one`)
}

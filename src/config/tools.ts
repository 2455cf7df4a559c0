/** What agents may do: the tools of the gateway, those of other programs, and who may send to whom. */
import { plain } from '../contract/session-key.ts'
import type { ChainLimits, Config, McpServerConfig } from './config.ts'
import type { Findings } from './findings.ts'
import { type ConfigFile, defaults } from './schema.ts'
import { Secret } from './secret.ts'

type Allow = Config['tools']['agentToAgent']['allow']

/** @param agents those there are; a rule about another is a hint, since it may be there tomorrow */
export function readTools(
  file: ConfigFile['tools'],
  agents: readonly { id: string; name: string }[],
  findings: Findings,
): Config['tools'] {
  const { enabled = false, allow = [], limits } = file?.agentToAgent ?? {}
  const path = 'tools.agentToAgent.allow'
  const named = Array.isArray(allow) ? allow : [...Object.keys(allow), ...Object.values(allow).flat()]
  const idOf = idIn(agents)
  const unknown = [...new Set(named.map(idOf))].filter((id) => id !== '*' && !agents.some((agent) => agent.id === id))
  if (unknown.length > 0)
    findings.warnings.push(`${path}: ${unknown.join(', ')} ${unknown.length > 1 ? 'are' : 'is'} no agent`)
  return {
    deny: file?.deny ?? [],
    timeoutMs: (file?.timeoutSeconds ?? defaults.toolSeconds) * 1_000,
    maxRounds: file?.maxRounds ?? defaults.toolRounds,
    agentToAgent: { enabled, allow: readAllow(allow, idOf), limits: readLimits(limits) },
  }
}

/** Finds the id of an agent that is given by id or by name, as everywhere; what is neither stays as it is. */
const idIn =
  (agents: readonly { id: string; name: string }[]) =>
  (text: string): string => {
    const wanted = plain(text.trim())
    return (agents.find(({ id }) => id === wanted) ?? agents.find(({ name }) => plain(name) === wanted))?.id ?? wanted
  }

const readAllow = (allow: Allow, idOf: (id: string) => string): Allow =>
  Array.isArray(allow)
    ? allow.map(idOf)
    : Object.fromEntries(Object.entries(allow).map(([from, to]) => [idOf(from), to.map(idOf)]))

type LimitsFile = NonNullable<NonNullable<ConfigFile['tools']>['agentToAgent']>['limits']

function readLimits(written: LimitsFile = {}): ChainLimits {
  const { totalTokens: tokens = defaults.chain.tokens, ...others } = written
  return { ...defaults.chain, ...others, tokens }
}

/** Reads the servers that are enabled. What is wrong with one is a problem: a tool that is silently missing costs hours. */
export function readMcp(
  file: ConfigFile['mcp'],
  timeoutMs: number,
  known: readonly { id: string; name: string }[],
  findings: Findings,
): Config['mcp'] {
  const readAllowed = (names: string[], at: string) => {
    const ids = names.map(idIn(known))
    const unknown = ids.filter((id) => !known.some((agent) => agent.id === id))
    if (unknown.length > 0)
      findings.warnings.push(`${at}: ${unknown.join(', ')} ${unknown.length > 1 ? 'are' : 'is'} no agent`)
    return ids
  }
  const servers = Object.entries(file?.servers ?? {}).flatMap(([name, server]): McpServerConfig[] => {
    const { enabled = true, command, url, timeoutSeconds, startSeconds = defaults.mcpStartSeconds, agents } = server
    if (!enabled) return []
    const at = `mcp.servers.${name}`
    if ((command === undefined) === (url === undefined)) {
      findings.problems.push(`${at}: give either command or url`)
      return []
    }
    if (url !== undefined && !(URL.canParse(url) && /^https?:$/.test(new URL(url).protocol))) {
      findings.problems.push(`${at}.url: must be an http or https address`)
      return []
    }
    return [
      {
        name,
        reach:
          url === undefined
            ? {
                command: command!,
                args: server.args ?? [],
                env: secrets(server.env),
                ...(server.cwd !== undefined && { cwd: server.cwd }),
              }
            : { url, headers: secrets(server.headers) },
        timeoutMs: timeoutSeconds === undefined ? timeoutMs : timeoutSeconds * 1_000,
        startMs: startSeconds * 1_000,
        ...(agents && { agents: readAllowed(agents, `${at}.agents`) }),
      },
    ]
  })
  return { servers }
}

const secrets = (written: Record<string, string> = {}): Record<string, Secret> =>
  Object.fromEntries(Object.entries(written).map(([name, value]) => [name, new Secret(value)]))

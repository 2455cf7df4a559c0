/** Which changes of a configuration let more people in, or let them do more. */
import type { Config, LogLevel } from './config.ts'
import { type Path, pathText } from './findings.ts'
import { variablesOf } from './reading.ts'

/**
 * What would be less safe with another configuration, a sentence each; empty when nothing would. These are for whoever sits at the
 * machine and edits the file: not for a client, which may be a run that was talked into it.
 */
export function weakenings(before: Config, after: Config): string[] {
  const [was, is] = [before.gateway, after.gateway]
  const found: string[] = []
  const unless = (kept: boolean, what: string) => {
    if (!kept) found.push(what)
  }
  const gained = (old: readonly string[], now: readonly string[]) => {
    const known = new Set(old)
    return now.filter((one) => !known.has(one))
  }
  const turnedOn = (old: boolean, now: boolean, key: string) => unless(old || !now, `${key} is turned on`)
  const more = (old: readonly string[], now: readonly string[], key: string) =>
    unless(gained(old, now).length === 0, `${key} gains ${gained(old, now).join(', ')}`)
  /** 0 = no limit. */
  const higher = (old: number, now: number, key: string) =>
    unless(now === old || (now !== 0 && (old === 0 || now < old)), `${key} is raised from ${old} to ${now}`)

  unless(is.auth.mode !== 'none' || was.auth.mode === 'none', 'gateway.auth asks for no credential')
  unless(
    is.auth.mode === was.auth.mode || is.auth.mode === 'none' || was.auth.mode === 'none',
    `gateway.auth.mode changes from ${was.auth.mode} to ${is.auth.mode}`,
  )
  for (const kind of ['token', 'password'] as const) {
    const [old, now] = [was.auth[kind]?.reveal(), is.auth[kind]?.reveal()]
    unless(old === now || is.auth.mode === 'none', `gateway.auth.${kind} is replaced`)
  }
  // Added, too: whoever names the files may have read or written them, and a pair that is gone by then is no next start.
  unless(JSON.stringify(is.tls) === JSON.stringify(was.tls), 'gateway.tls is changed')
  more(was.hosts, is.hosts, 'the addresses it listens on')
  unless(
    JSON.stringify(is.auth.trustedProxy) === JSON.stringify(was.auth.trustedProxy) || !is.auth.trustedProxy,
    'gateway.auth.trustedProxy lets people in by name',
  )
  more(was.controlUi.allowedOrigins, is.controlUi.allowedOrigins, 'gateway.controlUi.allowedOrigins')
  more(was.trustedProxies, is.trustedProxies, 'gateway.trustedProxies')
  turnedOn(was.controlUi.enabled, is.controlUi.enabled, 'gateway.controlUi.enabled')
  turnedOn(was.controlUi.allowInsecureAuth, is.controlUi.allowInsecureAuth, 'gateway.controlUi.allowInsecureAuth')
  turnedOn(
    was.controlUi.dangerouslyDisableDeviceAuth,
    is.controlUi.dangerouslyDisableDeviceAuth,
    'gateway.controlUi.dangerouslyDisableDeviceAuth',
  )
  for (const [name, limit] of Object.entries(is.limits))
    higher(was.limits[name as keyof typeof was.limits], limit, `gateway.limits.${name}`)
  // Who cannot reach it cannot undo it, either.
  unless(
    is.limits.maxConnections >= was.limits.maxConnections || is.limits.maxConnections === 0,
    'gateway.limits.maxConnections is lowered: it could keep everybody out',
  )
  unless(is.port === was.port, 'gateway.port is another')
  higher(was.handshakeTimeoutMs, is.handshakeTimeoutMs, 'gateway.handshakeTimeoutMs')
  higher(before.messages.queueLimit, after.messages.queueLimit, 'messages.queue.limit')
  higher(before.agents.maxConcurrent, after.agents.maxConcurrent, 'agents.defaults.maxConcurrent')
  higher(before.agents.timeoutMs, after.agents.timeoutMs, 'agents.defaults.timeoutSeconds (in ms)')
  turnedOn(before.commands.config, after.commands.config, 'commands.config')
  turnedOn(before.commands.restart, after.commands.restart, 'commands.restart')
  more(after.tools.deny, before.tools.deny, 'what may be done, by leaving it out of tools.deny,')
  const { agentToAgent } = after.tools
  turnedOn(before.tools.agentToAgent.enabled, agentToAgent.enabled, 'tools.agentToAgent.enabled')
  const allowed = pairsIn(before.tools.agentToAgent.allow)
  more(
    [],
    pairsIn(agentToAgent.allow)
      .filter((pair) => !allowed.some((old) => covers(old, pair)))
      .map((pair) => pair.join(' to ')),
    'tools.agentToAgent.allow',
  )
  for (const [name, limit] of Object.entries(agentToAgent.limits))
    higher(
      before.tools.agentToAgent.limits[name as keyof typeof agentToAgent.limits],
      limit,
      `tools.agentToAgent.limits.${name}`,
    )
  const serversOf = ({ parsed }: Config) => members(members(parsed, 'mcp'), 'servers')
  for (const name of Object.keys(serversOf(after)))
    unless(textOf(serversOf(before), name) === textOf(serversOf(after), name), `mcp.servers.${name} is new, or another`)
  more(connectorsIn(before), connectorsIn(after), 'agents.list: who answers')
  // Whoever chooses an address is sent what goes there, with the key; whoever names a variable or a file can have it read.
  more(Object.keys(providersOf(before)), Object.keys(providersOf(after)), 'models.providers')
  more(listedIn(before), listedIn(after), 'models.providers')
  // Where nothing is written of a provider any more, what is built in counts.
  for (const id of listedIn(after)) {
    const [old, provider] = [providersOf(before)[id], providersOf(after)[id]]
    // Never what it says: an address and headers, too, can hold what a client is not shown.
    for (const name of ['baseUrl', 'headers', 'apiKey'])
      unless(!old || textOf(old, name) === textOf(provider, name), `models.providers.${id}.${name} is another`)
    unless(
      !listedIn(before).includes(id) || gained(waysTo(id, before), waysTo(id, after)).length === 0,
      `models.providers.${id} would be asked at another address, or in another form`,
    )
  }
  more(workspacesIn(before), workspacesIn(after), 'agents')
  more(variablesIn(before), variablesIn(after), 'what is filled in from the environment')
  unless(before.logging.file === after.logging.file, 'logging.file is another file')
  for (const name of ['level', 'consoleLevel'] as const) {
    const [old, now] = [before.logging[name], after.logging[name]]
    unless(LEVELS.indexOf(now) <= LEVELS.indexOf(old), `logging.${name} is quieter: ${now} in place of ${old}`)
  }
  turnedOn(before.session.projectFiles ?? false, after.session.projectFiles ?? false, 'session.projectFiles')
  return [...new Set(found)]
}

type Allow = Config['tools']['agentToAgent']['allow']

/** Who may send to whom. */
const pairsIn = (allow: Allow): [string, string][] =>
  Array.isArray(allow)
    ? allow.flatMap((from) => allow.map((to): [string, string] => [from, to]))
    : Object.entries(allow).flatMap(([from, list]) => list.map((to): [string, string] => [from, to]))

const covers = (old: [string, string], pair: [string, string]): boolean =>
  old.every((one, place) => one === '*' || one === pair[place])

const connectorsIn = ({ agents }: Config): string[] =>
  agents.list.flatMap(({ id, connector }) => (connector ? [`${connector.node ?? 'a node of its name'} as ${id}`] : []))

/** The providers as the file says: also those whose models it does not list. */
const providersOf = ({ parsed }: Config) => members(members(parsed, 'models'), 'providers')

const textOf = (holder: unknown, name: string): string | undefined => JSON.stringify(members(holder)[name])

/** Every provider that is written, or built in and not left out. */
const listedIn = (config: Config): string[] => [
  ...new Set([...Object.keys(providersOf(config)), ...config.models.list.map(({ provider }) => provider)]),
]

/** Where a provider is asked, and in which form, for the models that are listed and for another. */
const waysTo = (id: string, { models }: Config): string[] =>
  [...models.list.filter(({ provider }) => provider === id), models.find(`${id}/another`)].flatMap((model) =>
    model ? JSON.stringify([model.baseUrl, model.api]) : [],
  )

/** The one that says most first. */
const LEVELS: readonly LogLevel[] = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']

/** Which agent works in which folder, as the file says. */
function workspacesIn({ parsed }: Config): string[] {
  const agents = members(parsed, 'agents')
  const list = Array.isArray(agents['list']) ? agents['list'].map((agent) => members(agent)) : []
  const all = [{ id: 'defaults', ...members(agents, 'defaults') }, ...list]
  return all.flatMap(({ id, workspace }) => (workspace === undefined ? [] : [`${shown(id)} in ${shown(workspace)}`]))
}

/** Which variable stands at which place: elsewhere it could be sent to somebody, or shown. */
function variablesIn({ parsed }: Config): string[] {
  const found: string[] = []
  const walk = (value: unknown, path: Path): void => {
    if (typeof value === 'string') for (const name of variablesOf(value)) found.push(`${name} at ${pathText(path)}`)
    else for (const [key, member] of Object.entries(members(value))) walk(member, [...path, key])
  }
  walk(parsed, [])
  return found
}

const shown = (value: unknown): string => (typeof value === 'string' ? value : JSON.stringify(value))

/** The members of an object, or of a member of it; none of anything else. */
function members(value: unknown, name?: string): { [name: string]: unknown } {
  const inner = name === undefined ? value : members(value)[name]
  return typeof inner === 'object' && inner !== null ? (inner as { [name: string]: unknown }) : {}
}

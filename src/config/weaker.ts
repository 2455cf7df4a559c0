/** Which changes of a configuration let more people in, or let them do more. */
import type { Config } from './config.ts'

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
  const gained = (old: readonly string[], now: readonly string[]) => now.filter((one) => !old.includes(one))
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
  more(was.hosts, is.hosts, 'the addresses it listens on')
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
    higher(was.limits[name as keyof typeof was.limits] ?? limit, limit, `gateway.limits.${name}`)
  higher(was.handshakeTimeoutMs, is.handshakeTimeoutMs, 'gateway.handshakeTimeoutMs')
  turnedOn(before.commands.config, after.commands.config, 'commands.config')
  turnedOn(before.commands.restart, after.commands.restart, 'commands.restart')
  more(after.tools.deny, before.tools.deny, 'what may be done, by leaving it out of tools.deny,')
  const { agentToAgent } = after.tools
  turnedOn(before.tools.agentToAgent.enabled, agentToAgent.enabled, 'tools.agentToAgent.enabled')
  more(before.tools.agentToAgent.allow, agentToAgent.allow, 'tools.agentToAgent.allow')
  // Whoever chooses an address is sent what goes there, with the key; whoever names a variable or a file can have it read.
  more(addressesOf(before), addressesOf(after), 'models.providers')
  more(workspacesOf(before), workspacesOf(after), 'agents.list')
  unless(before.logging.file === after.logging.file, 'logging.file is another file')
  turnedOn(before.session.projectFiles ?? false, after.session.projectFiles ?? false, 'session.projectFiles')
  const named = variablesOf(before)
  for (const [name, times] of variablesOf(after))
    unless(times <= (named.get(name) ?? 0), `the variable ${name} is put in another place`)
  return [...new Set(found)]
}

const addressesOf = ({ models }: Config): string[] => models.list.flatMap(({ baseUrl }) => baseUrl ?? [])
const workspacesOf = ({ agents }: Config): string[] => agents.list.flatMap(({ workspace }) => workspace ?? [])

/** How often the text names each variable. */
function variablesOf({ raw = '' }: Config): Map<string, number> {
  const times = new Map<string, number>()
  for (const [, name = ''] of raw.matchAll(/\$\{([A-Za-z_][A-Za-z0-9_]*)\}/g))
    times.set(name, (times.get(name) ?? 0) + 1)
  return times
}

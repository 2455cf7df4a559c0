/** `tokens`: named tokens of a running gateway, made, listed and ended. */
import type { Params, Result } from '../contract/index.ts'
import { EXIT } from './exit.ts'
import { withClient } from './talk.ts'
import type { TargetFlags } from './target.ts'

interface CreateFlags extends TargetFlags {
  scopes: string
  sessions?: string
  expires?: string
}

const UNITS: { [unit: string]: number } = { m: 60_000, h: 3_600_000, d: 86_400_000 }

/** When a token ends that is to live for so long (`12h`, `30d`), in ms since 1970; undefined for what is no span of time. */
function endOf(span: string): number | undefined {
  const [, count, unit = ''] = /^(\d{1,5})([mhd])$/.exec(span) ?? []
  return count === undefined ? undefined : Date.now() + Number(count) * UNITS[unit]!
}

const listOf = (text: string): string[] =>
  text
    .split(',')
    .map((name) => name.trim())
    .filter(Boolean)

export function createToken(name: string, flags: CreateFlags): Promise<number> {
  const expiresAt = flags.expires === undefined ? undefined : endOf(flags.expires)
  if (flags.expires !== undefined && expiresAt === undefined) {
    console.error('--expires is a span of time, such as 30m, 12h or 90d')
    return Promise.resolve(EXIT.usage)
  }
  // `read` stands for `operator.read`: what is no scope the gateway itself names.
  const scopes = listOf(flags.scopes).map((scope) => (scope.includes('.') ? scope : `operator.${scope}`))
  return withClient(flags, async (client) => {
    const { token, id, ...made } = await client.request('tokens.create', {
      name,
      scopes: scopes as Params<'tokens.create'>['scopes'],
      ...(flags.sessions && { sessions: listOf(flags.sessions) }),
      ...(expiresAt !== undefined && { expiresAt }),
    })
    if (flags.json) return console.log(JSON.stringify({ id, token, ...made }, null, 2))
    console.log(token)
    console.error(`\nThis is shown once. It is token ${id} (${name}) with ${made.scopes.join(', ') || 'no scopes'}.`)
  })
}

export const listTokens = (flags: TargetFlags): Promise<number> =>
  withClient(flags, async (client) => {
    const { tokens } = await client.request('tokens.list', {})
    if (flags.json) return console.log(JSON.stringify(tokens, null, 2))
    if (tokens.length === 0)
      console.log('There are no named tokens. Make one: kurultai tokens create NAME --scopes read')
    for (const token of tokens) console.log(line(token))
  })

function line({ id, name, status, scopes, sessions, expiresAtMs }: Result<'tokens.list'>['tokens'][number]): string {
  const until = expiresAtMs === undefined ? '' : ` until ${new Date(expiresAtMs).toISOString().slice(0, 16)}Z`
  const where = sessions ? ` in ${sessions.join(', ')}` : ''
  return `${id}  ${status.padEnd(8)} ${name}: ${scopes.join(', ') || 'no scopes'}${where}${until}`
}

export const revokeToken = (id: string, flags: TargetFlags): Promise<number> =>
  withClient(flags, async (client) => {
    await client.request('tokens.revoke', { id })
    if (!flags.json) console.log(`Token ${id} has ended; its connections are closed.`)
  })

/** `tokens`: named tokens of a running gateway, made, listed and ended. */
import type { Hello } from '../client/client.ts'
import type { Result } from '../contract/index.ts'
import { listOf, scopesOf } from './scopes.ts'
import { withClient } from './talk.ts'
import { explain, type TargetFlags, UsageError } from './target.ts'
import { typed } from './words.ts'

interface CreateFlags extends TargetFlags {
  scopes: string
  sessions?: string
  expires?: string
}

const UNITS: { [unit: string]: number } = { m: 60_000, h: 3_600_000, d: 86_400_000 }

/** When a token ends that is to live for so long (`12h`, `30d`), in ms since 1970. */
function endOf(span: string): number {
  const [, count = '0', unit = ''] = /^(\d{1,5})([mhd])$/.exec(span) ?? []
  if (Number(count) === 0) throw new UsageError('--expires is a span of time, such as 30m, 12h or 90d')
  return Date.now() + Number(count) * UNITS[unit]!
}

/** A list that was given and is empty is mostly a variable that nobody set: taken for none, it would be worth more than asked. */
function filled<T>(option: string, items: T[], whole: string): T[] {
  if (items.length === 0) throw new UsageError(`${option} is empty (a variable that is not set?); ${whole}`)
  return items
}

/** A pattern as the gateway compares it: with the whole key of a session. */
function patternOf(text: string, hello: Hello): string {
  if (/^(agent:|\*)/i.test(text)) return text
  const defaults = hello.snapshot.sessionDefaults as { mainSessionKey?: string; defaultAgentId?: string } | undefined
  const { mainSessionKey = 'agent:main:main', defaultAgentId = 'main' } = defaults ?? {}
  return text === 'main' ? mainSessionKey : `agent:${defaultAgentId}:${text}`
}

/** @throws UsageError */
function wishOf({ scopes, sessions, expires }: CreateFlags) {
  const every = 'leave it out for a token of every session'
  return {
    scopes: filled('--scopes', scopesOf('--scopes', scopes), 'name at least one'),
    patterns: sessions === undefined ? undefined : filled('--sessions', listOf(sessions), every),
    expiresAt: expires === undefined ? undefined : endOf(expires),
  }
}

export async function createToken(name: string, flags: CreateFlags): Promise<number> {
  let wish: ReturnType<typeof wishOf>
  try {
    wish = wishOf(flags)
  } catch (error) {
    return explain(error)
  }
  const { scopes, patterns, expiresAt } = wish
  return withClient(flags, async (client) => {
    const { token, id, ...made } = await client.request('tokens.create', {
      name,
      scopes,
      ...(patterns && { sessions: patterns.map((pattern) => patternOf(pattern, client.hello)) }),
      ...(expiresAt !== undefined && { expiresAt }),
    })
    if (flags.json) return console.log(JSON.stringify({ id, token, ...made }, null, 2))
    console.log(token)
    console.error(`\nThis is shown once. It is token ${id} (${name}): ${worthOf(made)}.`)
  })
}

export const listTokens = (flags: TargetFlags): Promise<number> =>
  withClient(flags, async (client) => {
    const { tokens } = await client.request('tokens.list', {})
    if (flags.json) return console.log(JSON.stringify(tokens, null, 2))
    if (tokens.length === 0)
      console.log(`There are no named tokens. Make one: ${typed('tokens create NAME --scopes read')}`)
    for (const token of tokens) console.log(`${token.id}  ${token.status.padEnd(8)} ${token.name}: ${worthOf(token)}`)
  })

type Worth = Pick<Result<'tokens.list'>['tokens'][number], 'scopes' | 'sessions' | 'expiresAtMs'>

/** What a token lets do, where, and until when. */
function worthOf({ scopes, sessions, expiresAtMs }: Worth): string {
  const until = expiresAtMs === undefined ? 'without end' : `until ${new Date(expiresAtMs).toISOString().slice(0, 16)}Z`
  return `${scopes.join(', ') || 'no scopes'} in ${sessions ? sessions.join(', ') : 'every session'}, ${until}`
}

export const revokeToken = (id: string, flags: TargetFlags): Promise<number> =>
  withClient(flags, async (client) => {
    await client.request('tokens.revoke', { id })
    if (!flags.json) console.log(`Token ${id} has ended; its connections are closed.`)
  })

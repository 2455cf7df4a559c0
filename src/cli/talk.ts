/** Commands that ask a running gateway something once. */
import type { Client } from '../client/client.ts'
import { EXIT } from './exit.ts'
import { connectTo, explain, leave, type TargetFlags } from './target.ts'
import { duration, typed } from './words.ts'

/** Asks a gateway, and says what went wrong. Resolves to the exit code. */
export async function withClient(flags: TargetFlags, what: (client: Client) => Promise<void>): Promise<number> {
  let client: Client | undefined
  try {
    client = await connectTo(flags)
    await what(client)
    return 0
  } catch (error) {
    return explain(error)
  } finally {
    if (client) leave(client)
  }
}

const print = (value: unknown) => console.log(JSON.stringify(value, null, 2))

export function call(method: string, params: string, flags: TargetFlags & { expectFinal?: boolean }): Promise<number> {
  let parsed: unknown
  try {
    parsed = JSON.parse(params)
  } catch (error) {
    console.error(
      `the parameters are not JSON: ${(error as Error).message}\nFor example: ${typed(`call chat.history '{"sessionKey":"main"}'`)}`,
    )
    return Promise.resolve(EXIT.usage)
  }
  const waits = flags.timeout === undefined && method === 'exec.approval.request' ? waitOf(parsed) : undefined
  return withClient(flags, async (client) =>
    print(
      await client.call(method, parsed, {
        final: flags.expectFinal === true,
        ...(waits !== undefined && { timeoutMs: waits }),
      }),
    ),
  )
}

/** A request for approval waits for people: longer than it does itself, so that its own end is heard. */
function waitOf(params: unknown): number {
  const { timeoutMs = 120_000 } = (params ?? {}) as { timeoutMs?: unknown }
  return (typeof timeoutMs === 'number' ? Math.min(timeoutMs, 300_000) : 300_000) + 10_000
}

interface SessionRow {
  key: string
  age: number
  totalTokens: number
}

export const status = (flags: TargetFlags): Promise<number> =>
  withClient(flags, async (client) => {
    const answer = (await client.call('status')) as { sessions: { count: number; recent: SessionRow[] } }
    if (flags.json) return print(answer)
    const { server, protocol } = client.hello
    console.log(`gateway ${server.version}, protocol ${protocol}, ${sessionsIn(answer.sessions.count)}`)
    for (const { key, age, totalTokens } of answer.sessions.recent)
      console.log(`  ${key.padEnd(40)} ${duration(age).padStart(8)} ago  ${totalTokens} tokens`)
  })

export async function health(flags: TargetFlags): Promise<number> {
  let isWell = true
  const code = await withClient(flags, async (client) => {
    const answer = (await client.call('health', { probe: true })) as {
      ok: boolean
      problem?: string
      agents: { agentId: string; isDefault: boolean; sessions: { count: number } }[]
    }
    isWell = answer.ok
    if (flags.json) return print(answer)
    console.log(answer.ok ? 'ok' : `not ok: ${answer.problem ?? 'it does not say why'}`)
    for (const { agentId, isDefault, sessions } of answer.agents)
      console.log(`  ${agentId}${isDefault ? ' (default)' : ''}: ${sessionsIn(sessions.count)}`)
  })
  return code === 0 && !isWell ? 1 : code
}

interface AgentFlags extends TargetFlags {
  message: string
  agent?: string
  sessionId?: string
  sessionKey?: string
  thinking?: string
  to?: string
  channel?: string
  deliver?: boolean
}

/** @param timeout of the agent, in seconds */
export function agent({ timeout, ...flags }: AgentFlags): Promise<number> {
  const { message, agent: agentId, sessionId, sessionKey, thinking, to, channel, deliver } = flags
  if (timeout !== undefined && !/^\d{1,9}$/.test(timeout)) {
    console.error(`--timeout must be a number of seconds, not "${timeout}"`)
    return Promise.resolve(EXIT.usage)
  }
  return withClient(flags, async (client) => {
    const answer = (await client.call(
      'agent',
      {
        message,
        ...(agentId && { agentId }),
        ...(sessionId && { sessionId }),
        ...(sessionKey && { sessionKey }),
        ...(!agentId && !sessionId && !sessionKey && { sessionKey: 'main' }),
        ...(thinking && { thinking }),
        ...(to && { to }),
        ...(channel && { channel }),
        ...(deliver && { deliver }),
        ...(timeout !== undefined && { timeout: Number(timeout) }),
      },
      // A turn has its own deadline in the gateway.
      { final: true, timeoutMs: 0 },
    )) as { result?: { payloads: { text: string }[] } }
    if (flags.json) return print(answer)
    for (const { text } of answer.result?.payloads ?? []) console.log(text)
  })
}

const sessionsIn = (count: number): string => (count === 1 ? '1 session' : `${count} sessions`)

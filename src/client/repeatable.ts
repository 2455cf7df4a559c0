/**
 * Which methods may be asked twice. They are written out because the contract itself, with its validators, would be a large thing
 * to carry into a browser; a test holds this list against it.
 */
import type { absent } from '../contract/absent.ts'
import type { MethodName, Params } from '../contract/index.ts'

/** What is done, in whatever way. */
type Served = Exclude<MethodName, keyof typeof absent>
/** The methods whose parameters carry an idempotency key. */
export type KeyedMethod = { [M in Served]: 'idempotencyKey' extends keyof Params<M> ? M : never }[Served]

/** With a key, a second copy of a request gets the answer of the first. */
export const KEYED: Record<KeyedMethod, true> = {
  'chat.send': true,
  'sessions.send': true,
  'sessions.steer': true,
  agent: true,
  'node.invoke': true,
}

/** Methods that change nothing, or nothing more the second time. */
export const READING = {
  health: true,
  status: true,
  'system-presence': true,
  'last-heartbeat': true,
  'set-heartbeats': true,
  'cron.list': true,
  'cron.get': true,
  'cron.status': true,
  'cron.runs': true,
  'logs.tail': true,
  'config.get': true,
  'config.schema': true,
  'agent.wait': true,
  'agent.result': true,
  'agents.status': true,
  'agents.files.list': true,
  'agents.files.get': true,
  'sessions.digest': true,
  'chains.get': true,
  'chains.list': true,
  'messages.list': true,
  'messages.get': true,
  'usage.status': true,
  'usage.cost': true,
  'usage.by': true,
  'sessions.usage': true,
  'agent.identity.get': true,
  'agents.list': true,
  'models.list': true,
  'sessions.list': true,
  'sessions.preview': true,
  'sessions.resolve': true,
  'chat.history': true,
  'chat.resume': true,
  'exec.approval.list': true,
  'exec.approvals.get': true,
  'device.pair.list': true,
  'node.pair.list': true,
  'node.list': true,
  'node.describe': true,
  'skills.bins': true,
  'tokens.list': true,
  'audit.entries': true,
  'channels.status': true,
  'skills.status': true,
  'tts.status': true,
  'tts.providers': true,
  'tts.disable': true,
  'question.list': true,
  'plugin.approval.list': true,
  'voicewake.get': true,
  'commands.list': true,
  'sessions.subscribe': true,
  'sessions.describe': true,
  'sessions.get': true,
  'sessions.messages.subscribe': true,
  'sessions.messages.unsubscribe': true,
  'sessions.usage.timeseries': true,
  'sessions.usage.logs': true,
  'exec.approvals.node.get': true,
} as const satisfies { [M in MethodName]?: true }

export const isKeyed = (method: string): method is KeyedMethod => Object.hasOwn(KEYED, method)

export const isRepeatable = (method: string): boolean => isKeyed(method) || Object.hasOwn(READING, method)

/** A key that nobody else has. Also where a page has no secure context, and so no `crypto.randomUUID`. */
export function newKey(): string {
  const hex = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join(
    '',
  )
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-')
}

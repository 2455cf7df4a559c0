/** The settings of a session: what `sessions.patch` and the commands that do the same allow. */

import { GatewayError } from '../contract/errors.ts'
import type { ThinkingLevel } from '../runtimes/runtime.ts'
import type { SessionRecord } from '../stores/store.ts'

const THINKING_LEVELS = ['off', 'minimal', 'low', 'medium', 'high'] as const satisfies readonly ThinkingLevel[]
const VERBOSE_LEVELS = ['off', 'on', 'full']
const REASONING_LEVELS = ['off', 'on', 'stream']

function oneOf(name: string, allowed: readonly string[], value: unknown): void {
  if (typeof value === 'string' && !allowed.includes(value))
    throw new GatewayError('INVALID_SETTING', `invalid ${name} (use ${allowed.join('|')})`)
}

/**
 * Checks the values of settings that are more than text.
 * @throws GatewayError INVALID_SETTING, listing the allowed values
 */
export function checkSettings(settings: { [name: string]: unknown }, knowsModel: (ref: string) => boolean): void {
  oneOf('thinkingLevel', THINKING_LEVELS, settings['thinkingLevel'])
  oneOf('verboseLevel', VERBOSE_LEVELS, settings['verboseLevel'])
  oneOf('reasoningLevel', REASONING_LEVELS, settings['reasoningLevel'])
  const { model } = settings
  if (typeof model === 'string' && !knowsModel(model))
    throw new GatewayError('INVALID_SETTING', `model not allowed: ${model.slice(0, 64)}`)
}

/** A setting that is text, if it is set. */
export function setting(record: SessionRecord | undefined, name: string): string | undefined {
  const value = record?.settings[name]
  return typeof value === 'string' ? value : undefined
}

export function isThinkingLevel(text: string): text is ThinkingLevel {
  return (THINKING_LEVELS as readonly string[]).includes(text)
}

/** Compiled checks, with failures said in the words that clients of the wire know. */
import type { TSchema } from 'typebox'
import { Compile } from 'typebox/compile'

export interface Validator {
  /** What is wrong with a value, in words; undefined when it fits. */
  problem(value: unknown): string | undefined
}

/** A check that is compiled at its first use, so that start-up pays for none. */
export function validator(schema: TSchema): Validator {
  let compiled: ReturnType<typeof Compile> | undefined
  return {
    problem(value) {
      compiled ??= Compile(schema)
      if (compiled.Check(value)) return undefined
      const parts = new Set<string>()
      for (const error of compiled.Errors(value)) for (const part of words(error)) parts.add(part)
      return [...parts].join('; ')
    },
  }
}

interface Failure {
  keyword: string
  instancePath: string
  message: string
  params: object
}

function words({ keyword, instancePath, message, params }: Failure): string[] {
  const at = instancePath ? `at ${instancePath}: ` : ''
  const { requiredProperties = [], additionalProperties = [] } = params as Record<string, string[]>
  switch (keyword) {
    case 'required':
      return requiredProperties.map((name) => `${at}must have required property '${name}'`)
    case 'additionalProperties':
      return additionalProperties.map(
        (name) => `at ${instancePath || 'root'}: unexpected property '${name.slice(0, 64)}'`,
      )
    case 'boolean':
      // The other half of `additionalProperties: false`, already said.
      return []
    case 'enum':
      return [`${at}must be one of ${(params as { allowedValues: unknown[] }).allowedValues.join(', ')}`]
    case 'minLength':
      return [`${at}must NOT have fewer than ${(params as { limit: number }).limit} characters`]
    case 'maxLength':
      return [`${at}must NOT have more than ${(params as { limit: number }).limit} characters`]
    case 'minItems':
      return [`${at}must NOT have fewer than ${(params as { limit: number }).limit} items`]
    case 'maxItems':
      return [`${at}must NOT have more than ${(params as { limit: number }).limit} items`]
    default:
      return [`${at}${message}`]
  }
}

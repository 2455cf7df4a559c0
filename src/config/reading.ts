/** The file's way from text to checked values: JSON5, `${VAR}`, known keys, types. */
import JSON5 from 'json5'
import { type TSchema, Type } from 'typebox'
import { Value } from 'typebox/value'
import { isJsonObject } from '../contract/json-object.ts'
import { ConfigError, type Findings, type Path, pathText } from './findings.ts'
import { isSecret, mask } from './redact.ts'
import { type ConfigFile, FileSchema, isServed } from './schema.ts'
import { Secret } from './secret.ts'

export type Environment = Readonly<Record<string, string | undefined>>

/** Deeper files are refused: the readers below and those of `config.get` are recursive. */
const deepest = 64

/** Parses the text. Throws a {@link ConfigError} with line and column, both from 1. */
export function parseText(text: string, file: string): unknown {
  try {
    return JSON5.parse(text)
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error
    const { lineNumber, columnNumber } = error as SyntaxError & { lineNumber?: number; columnNumber?: number }
    const what = error.message.replace(/^JSON5: /, '').replace(/ at \d+:\d+$/, '')
    throw new ConfigError([`line ${lineNumber ?? 1}, column ${columnNumber ?? 1}: ${what}`], file)
  }
}

/** What is left of a file once it was read. */
export interface Reading {
  file: ConfigFile
  /** Whether a value stood at this path but was dropped with a problem, so that nobody need miss it a second time. */
  dropped(path: string): boolean
}

/** Replaces variables and keeps what is known and of the right type; everything else becomes a finding. */
export function readFile(parsed: unknown, env: Environment, findings: Findings): Reading {
  const nothing = { file: {}, dropped: () => false }
  if (!isJsonObject(parsed)) {
    findings.problems.push(`the file must hold an object, got ${kind(parsed)}`)
    return nothing
  }
  if (!checkShape(parsed, [], findings)) return nothing

  const served: Record<string, unknown> = {}
  const others: string[] = []
  for (const [key, value] of Object.entries(parsed)) {
    const schema = propertiesOf(FileSchema)?.[key]
    if (schema === undefined || isServed(schema)) served[key] = value
    else {
      others.push(key)
      for (const [path, name] of missingIn(value, [key], env))
        findings.warnings.push(`${pathText(path)}: the variable ${name} is not set (the section is not served here)`)
    }
  }
  if (others.length > 0) findings.warnings.push(`not served here: ${others.join(', ')}`)

  const visit = new Visit(env, findings)
  const file = visit.value(FileSchema, served, []) ?? {}
  // Holds by construction: whatever the schema refuses was left out on the way.
  if (!Value.Check(FileSchema, file)) throw new Error('the reader kept a value the schema refuses')
  return { file, dropped: (path) => visit.dropped.has(path) }
}

/** Walks file and schema side by side. `undefined` = drop the value. */
class Visit {
  readonly dropped = new Set<string>()
  readonly #env: Environment
  readonly #findings: Findings

  constructor(env: Environment, findings: Findings) {
    this.#env = env
    this.#findings = findings
  }

  value(schema: TSchema, value: unknown, path: Path): unknown {
    if (Type.IsUnion(schema)) {
      const branch = schema.anyOf.find(
        (one) =>
          (isJsonObject(value) && (Type.IsObject(one) || Type.IsRecord(one))) ||
          (Array.isArray(value) && Type.IsArray(one)),
      )
      return branch === undefined ? this.#leaf(schema, value, path) : this.value(branch, value, path)
    }
    if (Type.IsRecord(schema))
      return isJsonObject(value) ? this.#record(schema, value, path) : this.#wrong(schema, value, path)
    if (Type.IsObject(schema))
      return isJsonObject(value) ? this.#object(schema, value, path) : this.#wrong(schema, value, path)
    if (Type.IsArray(schema))
      return Array.isArray(value) ? this.#array(schema, value, path) : this.#wrong(schema, value, path)
    return this.#leaf(schema, value, path)
  }

  #object(schema: TSchema, value: Record<string, unknown>, path: Path): unknown {
    const known = propertiesOf(schema) ?? {}
    const kept: Record<string, unknown> = {}
    for (const [key, member] of Object.entries(value)) {
      const at = [...path, key]
      const inner = Object.hasOwn(known, key) ? known[key] : undefined
      if (inner === undefined) this.#findings.warnings.push(`${pathText(at)}: unknown key${hint(key, path, known)}`)
      else {
        const result = this.value(inner, member, at)
        if (result !== undefined) kept[key] = result
      }
    }
    // Half of what belongs together is not what was meant, and nobody behind this reader expects it.
    const missing = requiredOf(schema).filter((key) => !Object.hasOwn(kept, key))
    for (const key of missing) if (!Object.hasOwn(value, key)) this.#drop([...path, key], 'is required')
    if (missing.length === 0) return kept
    this.dropped.add(pathText(path))
    return undefined
  }

  #record(schema: TSchema, value: Record<string, unknown>, path: Path): unknown {
    const inner = Object.values(patternsOf(schema) ?? {})[0]
    const kept: Record<string, unknown> = {}
    for (const [key, member] of Object.entries(value)) {
      const result = inner === undefined ? undefined : this.value(inner, member, [...path, key])
      if (result !== undefined) kept[key] = result
    }
    return kept
  }

  /** One dropped item drops the array, because the places of the others would no longer be those in the file. */
  #array(schema: TSchema & { items: TSchema }, value: unknown[], path: Path): unknown {
    const kept = value.map((item, index) => this.value(schema.items, item, [...path, index]))
    if (!kept.includes(undefined)) return kept
    this.dropped.add(pathText(path))
    return undefined
  }

  #leaf(schema: TSchema, written: unknown, path: Path): unknown {
    const missing = [...missingIn(written, path, this.#env)]
    for (const [at, name] of missing) {
      const state = lookUp(name, this.#env) === undefined ? 'is not set' : 'is empty'
      this.#drop(at, `the variable ${name} ${state}; set it (or write $\${${name}}, where the text itself is meant)`)
    }
    if (missing.length > 0) return undefined
    if (typeof written === 'string' && written.includes(Secret.marker)) {
      return this.#drop(path, 'holds the redaction marker instead of the value it stands for')
    }
    const value = interpolate(written, this.#env)
    return Value.Check(schema, value) ? value : this.#wrong(schema, written, path)
  }

  #wrong(schema: TSchema, written: unknown, path: Path): undefined {
    const got = isSecret(path) ? kind(written) : shown(written)
    return this.#drop(path, `must ${demand(schema, written)}, got ${got}`)
  }

  #drop(path: Path, text: string): undefined {
    this.dropped.add(pathText(path))
    this.#findings.problems.push(`${pathText(path)}: ${text}`)
  }
}

const reference = /\$(\$?)\{([A-Za-z_][A-Za-z0-9_]*)\}/g

/** The variables that a text names, each once. */
export const variablesOf = (text: string): Set<string> =>
  new Set([...text.matchAll(reference)].filter(([, literal]) => literal === '').map(([, , name = '']) => name))

/** Variables only: an object that stands for the environment has members of its own kind, such as `constructor`. */
const lookUp = (name: string, env: Environment): string | undefined =>
  Object.hasOwn(env, name) ? env[name] : undefined

/**
 * Replaces `${VAR}` by the variable and `$${VAR}` by the text `${VAR}`, in strings at any depth; once, never again in
 * the result.
 */
function interpolate(value: unknown, env: Environment): unknown {
  if (typeof value === 'string') {
    return value.replace(reference, (whole, literal: string, name: string) =>
      literal === '' ? (lookUp(name, env) ?? '') : whole.slice(1),
    )
  }
  if (Array.isArray(value)) return value.map((item) => interpolate(item, env))
  if (isJsonObject(value)) {
    return Object.fromEntries(Object.entries(value).map(([key, member]) => [key, interpolate(member, env)]))
  }
  return value
}

/**
 * The variables a value asks for and does not get. An empty variable is a missing one: it would leave an empty secret.
 */
function* missingIn(value: unknown, path: Path, env: Environment): Generator<[Path, string]> {
  if (typeof value === 'string') {
    for (const name of variablesOf(value)) if (!lookUp(name, env)) yield [path, name]
  } else if (Array.isArray(value)) {
    for (const [index, item] of value.entries()) yield* missingIn(item, [...path, index], env)
  } else if (isJsonObject(value)) {
    for (const [key, member] of Object.entries(value)) yield* missingIn(member, [...path, key], env)
  }
}

/** Refuses, anywhere in the file, keys that name parts of every object, and nesting nobody writes by hand. */
function checkShape(value: unknown, path: Path, findings: Findings): boolean {
  if (path.length > deepest) {
    findings.problems.push(`${pathText(path.slice(0, 3))}: nested more than ${deepest} deep`)
    return false
  }
  if (Array.isArray(value)) return value.every((item, index) => checkShape(item, [...path, index], findings))
  if (!isJsonObject(value)) return true
  let sound = true
  for (const [key, member] of Object.entries(value)) {
    if (key === '__proto__' || key === 'constructor' || key === 'prototype') {
      findings.problems.push(`${pathText([...path, key])}: the key ${key} is reserved`)
      sound = false
    } else if (!checkShape(member, [...path, key], findings)) sound = false
  }
  return sound
}

/** Says what a value must do, without the subject. */
function demand(schema: TSchema, value: unknown): string {
  if (Type.IsUnion(schema))
    return `be ${schema.anyOf.map((one) => ('type' in one ? String(one.type) : 'any')).join(' or ')}`
  const [error] = Value.Errors(schema, value)
  if (error === undefined) return 'be something else'
  if (error.keyword === 'enum') return `be one of ${error.params.allowedValues.join(', ')}`
  if (error.keyword === 'minLength') return 'not be empty'
  return error.message.replace(/^must /, '')
}

function shown(value: unknown): string {
  if (typeof value === 'object' && value !== null) return kind(value)
  const text = typeof value === 'string' ? JSON.stringify(mask(value)) : String(value)
  return text.length > 60 ? `${text.slice(0, 60)}…` : text
}

function kind(value: unknown): string {
  if (value === null) return 'null'
  if (Array.isArray(value)) return 'an array'
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`
}

/** Names the known key that was probably meant: a neighbour spelled alike, else the same name elsewhere in the file. */
function hint(key: string, path: Path, known: Record<string, TSchema>): string {
  const near = nearest(key, Object.keys(known))
  const meant = near === undefined ? pathsOf(FileSchema, []).find((one) => one.at(-1) === key) : [...path, near]
  return meant === undefined ? '' : `; did you mean ${pathText(meant)}?`
}

/** The name that is spelled most alike, if one is alike at all. */
export const nearest = (word: string, names: readonly string[]): string | undefined =>
  names
    .map((name) => ({ name, distance: distance(word.toLowerCase(), name.toLowerCase()) }))
    .filter(({ name, distance }) => distance <= Math.max(1, Math.floor(Math.max(name.length, word.length) / 3)))
    .toSorted((a, b) => a.distance - b.distance)[0]?.name

/** Every path the schema names, outer keys first. Items of arrays are left out: they have no one path. */
function pathsOf(schema: TSchema, path: Path): Path[] {
  return Object.entries(propertiesOf(schema) ?? {}).flatMap(([key, inner]) => {
    const at = [...path, key]
    return [at, ...pathsOf(inner, at)]
  })
}

/** Counts the letters to add, drop, change or swap to get from one word to the other. */
function distance(a: string, b: string): number {
  let before: number[] = []
  let above = Array.from({ length: b.length + 1 }, (_, column) => column)
  for (let row = 1; row <= a.length; row++) {
    const current = [row]
    for (let column = 1; column <= b.length; column++) {
      const same = a[row - 1] === b[column - 1]
      let least = Math.min(above[column]! + 1, current[column - 1]! + 1, above[column - 1]! + (same ? 0 : 1))
      const swapped = row > 1 && column > 1 && a[row - 1] === b[column - 2] && a[row - 2] === b[column - 1]
      if (swapped) least = Math.min(least, before[column - 2]! + 1)
      current.push(least)
    }
    before = above
    above = current
  }
  return above[b.length]!
}

const propertiesOf = (schema: TSchema): Record<string, TSchema> | undefined =>
  Type.IsObject(schema) ? schema.properties : undefined

const requiredOf = (schema: TSchema): readonly string[] => (Type.IsObject(schema) && schema.required) || []

const patternsOf = (schema: TSchema): Record<string, TSchema> | undefined =>
  Type.IsRecord(schema) ? schema.patternProperties : undefined

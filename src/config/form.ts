/**
 * The schema of the configuration as programs read it that make a form of it: each key is one node that says its types, the one
 * that is usual first, where the schema itself has alternatives or says nothing. It holds for the same values.
 */
import type { TSchema } from 'typebox'
import type { Path } from './findings.ts'
import { isSecret } from './redact.ts'

export interface FormSchema {
  type?: string | string[]
  properties?: { [name: string]: FormSchema }
  additionalProperties?: FormSchema
  items?: FormSchema
  [keyword: string]: unknown
}

export interface ConfigForm {
  /** A JSON Schema (draft 7). */
  schema: FormSchema
  /** By path, with `*` for whatever somebody called a member: what is not to be shown while it is typed. */
  uiHints: { [path: string]: { sensitive: true } }
}

/** Objects first: of them a form can show the most. */
const TYPES = ['object', 'array', 'string', 'number', 'boolean', 'null']
const anyType = (first: string): string[] => [first, ...TYPES.filter((type) => type !== first)]
/** What a map says its names are, where they may be any. */
const ANY_NAME = '^.*$'

export function formOf(file: TSchema): ConfigForm {
  const uiHints: ConfigForm['uiHints'] = {}

  /** One node. On its way it notes what is secret. */
  function nodeOf(schema: TSchema, path: Path): FormSchema {
    const { anyOf, patternProperties, properties, items, usually, ...rest } = schema as {
      anyOf?: TSchema[]
      patternProperties?: { [pattern: string]: TSchema }
      properties?: { [name: string]: TSchema }
      items?: TSchema
      usually?: string
    }
    const types = anyOf?.map((each) => (each as { type?: string }).type)
    // Keywords of one type mean nothing for values of another, so alternatives of different types are one node.
    if (types && !types.includes(undefined) && new Set(types).size === types.length)
      return nodeOf(Object.assign({}, ...anyOf!, rest, { type: TYPES.filter((type) => types.includes(type)) }), path)
    if (anyOf) return { ...rest, anyOf: anyOf.map((each) => nodeOf(each, path)) }
    const node: FormSchema = { ...rest }
    if (node.type === undefined && node['enum'] === undefined) {
      node.type = anyType(usually === undefined || usually === 'objects' ? 'object' : usually)
      node.additionalProperties = usually === 'objects' ? { type: anyType('object'), additionalProperties: {} } : {}
      node.items = { type: anyType('string') }
    }
    if (properties)
      node.properties = Object.fromEntries(
        Object.entries(properties).map(([name, of]) => [name, nodeOf(of, [...path, name])]),
      )
    // A map has one pattern, that of its names.
    for (const [pattern, of] of Object.entries(patternProperties ?? {})) {
      node.additionalProperties = nodeOf(of, [...path, '*'])
      if (pattern !== ANY_NAME) node['propertyNames'] = { pattern }
    }
    if (items) node.items = nodeOf(items, path)
    if ([node.type].flat().includes('string') && isSecret(path)) uiHints[path.join('.')] = { sensitive: true }
    return node
  }

  const schema = { $schema: 'http://json-schema.org/draft-07/schema#', ...nodeOf(file, []) }
  return { schema, uiHints }
}

/**
 * The schema of the configuration as programs read it that make a form of it: each key is one node that says its types, the one
 * that is usual first, where the schema itself has alternatives or says nothing. It holds for the same values.
 */
import type { TSchema } from 'typebox'

export interface FormSchema {
  type?: string | string[]
  properties?: { [name: string]: FormSchema }
  additionalProperties?: FormSchema
  items?: FormSchema
  [keyword: string]: unknown
}

/** Objects first: of them a form can show the most. */
const TYPES = ['object', 'array', 'string', 'number', 'boolean', 'null']
const anyType = (first: string): string[] => [first, ...TYPES.filter((type) => type !== first)]
/** What a Record says its names are: any. */
const ANY_NAME = '^.*$'

export function formSchema(schema: TSchema): FormSchema {
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
    return formSchema(Object.assign({}, ...anyOf!, rest, { type: TYPES.filter((type) => types.includes(type)) }))
  if (anyOf) return { ...rest, anyOf: anyOf.map(formSchema) }
  const node: FormSchema = { ...rest }
  if (node.type === undefined && node['enum'] === undefined) {
    node.type = anyType(usually === undefined || usually === 'objects' ? 'object' : usually)
    node.additionalProperties = usually === 'objects' ? { type: anyType('object'), additionalProperties: {} } : {}
    node.items = { type: anyType('string') }
  }
  if (properties) node.properties = mapped(properties)
  const entries = patternProperties?.[ANY_NAME]
  if (entries) node.additionalProperties = formSchema(entries)
  else if (patternProperties)
    Object.assign(node, { patternProperties: mapped(patternProperties), additionalProperties: {} })
  if (items) node.items = formSchema(items)
  return node
}

const mapped = (schemas: { [name: string]: TSchema }): { [name: string]: FormSchema } =>
  Object.fromEntries(Object.entries(schemas).map(([name, of]) => [name, formSchema(of)]))

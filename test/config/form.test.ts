import { Value } from 'typebox/value'
import { describe, expect, it } from 'vitest'
import { type FormSchema, formOf } from '../../src/config/form.ts'
import { FileSchema } from '../../src/config/schema.ts'

const form = formOf(FileSchema).schema

/** Every node of a form, with the path of what it is for: `*` stands for any name, `0` for any place of a list. */
function* nodesOf(node: FormSchema, path: string[] = []): Generator<[string[], FormSchema]> {
  yield [path, node]
  for (const [name, of] of Object.entries(node.properties ?? {})) yield* nodesOf(of, [...path, name])
  if (Object.keys(node.additionalProperties ?? {}).length > 0)
    yield* nodesOf(node.additionalProperties!, [...path, 'name'])
  if (node.items) yield* nodesOf(node.items, [...path, '0'])
}
const nodes = [...nodesOf(form)]

/** A value with another at a path in it, and nothing else. */
const at = (path: string[], value: unknown): unknown =>
  path.reduceRight<unknown>((inner, name) => (name === '0' ? [inner] : { [name]: inner }), value)

const VALUES = [null, true, 0, -1, 7.5, 1e9, '', 'a', 'a/b', 'debug', [], ['a'], [''], [3], {}, { name: 'a' }]
const MORE = [
  { primary: 'a/b' },
  { primary: '' },
  { fallbacks: [''] },
  { a: ['b'] },
  { a: 'b' },
  { a: [3] },
  [{ id: '' }],
]

describe('the schema for forms', () => {
  it('says of each key which types it takes, in one node', () => {
    const silent = nodes.filter(([, node]) => node.type === undefined && node['enum'] === undefined)
    expect(silent.map(([path]) => path.join('.'))).toEqual([])
    expect(nodes.filter(([, node]) => 'anyOf' in node).map(([path]) => path.join('.'))).toEqual([])
  })

  it('holds for the values that the schema itself holds for, and for no others', () => {
    let valid = 0
    for (const [path] of nodes)
      for (const value of [...VALUES, ...MORE]) {
        const file = at(path, value)
        const holds = Value.Check(FileSchema, file)
        if (holds) valid += 1
        expect([file, Value.Check(form, file)]).toEqual([file, holds])
      }
    // Neither all of them nor none.
    expect(valid).toBeGreaterThan(nodes.length)
    expect(valid).toBeLessThan((nodes.length * (VALUES.length + MORE.length)) / 2)
  })

  it('puts first what a key usually is', () => {
    const first = (name: string) => [nodes.find(([path]) => path.join('.') === name)?.[1].type].flat()[0]
    expect(
      ['channels', 'bindings', 'commands.native', 'agents.defaults.model', 'tools.agentToAgent.allow'].map(first),
    ).toEqual(['object', 'array', 'boolean', 'object', 'object'])
  })
})

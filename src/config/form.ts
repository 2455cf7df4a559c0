/** The schema of the configuration as programs read it that draw a form from it. */
import type { TSchema } from 'typebox'
import type { Path } from './findings.ts'
import { isSecret } from './redact.ts'

interface ConfigForm {
  /** A JSON Schema (draft 7). */
  schema: object
  /** By path, with `*` for whatever somebody called a member: what is not to be shown while it is typed. */
  uiHints: { [path: string]: { sensitive: true } }
}

type Node = { [keyword: string]: unknown }

/** How the schema library says that any name may stand there. */
const ANY_NAME = '^.*$'

export function formOf(file: TSchema): ConfigForm {
  const uiHints: ConfigForm['uiHints'] = {}

  /** A copy in which maps are written the usual way. On its way it notes what is secret. */
  function copy(node: Node, path: Path): Node {
    const { patternProperties, ...rest } = node
    const own: Node = { ...rest }
    // A map has one pattern, that of its names.
    for (const [pattern, values] of Object.entries((patternProperties ?? {}) as { [pattern: string]: Node })) {
      own['additionalProperties'] = copy(values, [...path, '*'])
      if (pattern !== ANY_NAME) own['propertyNames'] = { pattern }
    }
    if (node['properties'])
      own['properties'] = Object.fromEntries(
        Object.entries(node['properties'] as { [name: string]: Node }).map(([name, member]) => [
          name,
          copy(member, [...path, name]),
        ]),
      )
    if (node['items']) own['items'] = copy(node['items'] as Node, path)
    if (node['anyOf']) own['anyOf'] = (node['anyOf'] as Node[]).map((one) => copy(one, path))
    if (node['type'] === 'string' && isSecret(path)) uiHints[path.join('.')] = { sensitive: true }
    return own
  }

  const schema = { $schema: 'http://json-schema.org/draft-07/schema#', ...copy(file as unknown as Node, []) }
  return { schema, uiHints }
}

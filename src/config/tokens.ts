/** JSON5 text in pieces that add up to it: for those who change or hide a part and leave the rest as somebody wrote it. */
import JSON5 from 'json5'
import type { Path } from './findings.ts'

/** A piece of JSON5 text. */
export interface Token {
  text: string
  kind: 'comment' | 'key' | 'value' | 'mark' | 'space'
  /** Of a value; of anything else, of the last value or key before it. */
  path: Path
}

const lexeme =
  /(?<comment>\/\/[^\n\r\u2028\u2029]*|\/\*.*?\*\/)|(?<string>"[^"\\]*(?:\\.[^"\\]*)*"|'[^'\\]*(?:\\.[^'\\]*)*')|(?<mark>[{}[\]:,])|(?<space>\s+)|(?<word>[^\s{}[\]:,"'/]+)/sy

/** Splits JSON5 text into pieces that add up to it, each value with its path. Throws on what it does not understand. */
export function* tokens(raw: string): Generator<Token> {
  const open: { array: boolean; at: string | number; expectsKey: boolean }[] = []
  lexeme.lastIndex = 0
  let end = 0
  while (end < raw.length) {
    lexeme.lastIndex = end
    const match = lexeme.exec(raw)
    if (match?.groups === undefined) throw new SyntaxError('not JSON5')
    end = lexeme.lastIndex
    const [text] = match
    const { comment, space, mark } = match.groups
    const inner = open.at(-1)
    const path = open.map(({ at }) => at)
    if (comment !== undefined) yield { text, kind: 'comment', path }
    else if (space !== undefined) yield { text, kind: 'space', path }
    else if (mark !== undefined) {
      if (mark === '{' || mark === '[')
        open.push({ array: mark === '[', at: mark === '[' ? 0 : '', expectsKey: mark === '{' })
      else if (mark === '}' || mark === ']') open.pop()
      else if (mark === ':' && inner !== undefined) inner.expectsKey = false
      else if (mark === ',' && inner !== undefined) {
        if (typeof inner.at === 'number') inner.at += 1
        else inner.expectsKey = true
      }
      yield { text, kind: 'mark', path }
    } else if (inner?.expectsKey) {
      inner.at = keyOf(text)
      yield { text, kind: 'key', path }
    } else yield { text, kind: 'value', path }
  }
}

/** The name that a key is, however it is quoted. */
export function keyOf(text: string): string {
  return Object.keys(JSON5.parse<Record<string, unknown>>(`{${text}:0}`))[0] ?? ''
}

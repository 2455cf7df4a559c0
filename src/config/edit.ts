/** Changes the text of a configuration and leaves the rest, comments and all, as somebody wrote it. */
import { isDeepStrictEqual } from 'node:util'
import JSON5 from 'json5'
import { isJsonObject } from '../contract/json-object.ts'
import { redactTokens } from './redact.ts'
import { Secret } from './secret.ts'
import { keyOf, type Token, tokens } from './tokens.ts'

/** A value and where it stands in its text. */
interface Place {
  start: number
  end: number
  /** Of an object. */
  members?: Map<string, Member>
}

interface Member {
  /** Where its key begins. */
  key: number
  value: Place
  /** Behind the comma that follows it; undefined without one. */
  comma: number | undefined
}

interface Edit {
  start: number
  end: number
  text: string
}

type Members = { [name: string]: unknown }

/**
 * Applies a merge patch (RFC 7396) to a text that holds an object: a member is set, and removed by null; objects are
 * merged, everything else is replaced.
 * @throws SyntaxError when the text is no JSON5 or holds no object
 */
export function patchText(raw: string, patch: Members): string {
  const before: unknown = JSON5.parse(raw)
  if (!isJsonObject(before)) throw new SyntaxError('the text must hold an object')
  // First what is there, then what is new: behind what has been removed nothing can be put.
  const text = [changes, additions].reduce((left, kind) => {
    const edits = kind(left, placeOf(left), patch, '')
    // From the end on, so that places stay what they are; of two at one place the later one first.
    return edits
      .toReversed()
      .toSorted((one, other) => other.start - one.start || other.end - one.end)
      .reduce((rest, { start, end, text }) => rest.slice(0, start) + text + rest.slice(end), left)
  }, raw)
  // The layout is what people see; what is meant is this.
  if (!isDeepStrictEqual(JSON5.parse(text), merged(before, patch))) throw new Error('the patch came out wrong')
  return text
}

/** What a merge patch makes of a value. */
function merged(before: unknown, patch: unknown): unknown {
  if (!isJsonObject(patch)) return patch
  const result = new Map(Object.entries(isJsonObject(before) ? before : {}))
  for (const [name, value] of Object.entries(patch))
    if (value === null) result.delete(name)
    else result.set(name, merged(result.get(name), value))
  return Object.fromEntries(result)
}

/** The edits that set and remove members which are there. */
function changes(raw: string, { members }: Place, patch: Members, indent: string): Edit[] {
  const inner = `${indent}  `
  return Object.entries(patch).flatMap(([name, value]) => {
    const member = members!.get(name)
    if (member === undefined) return []
    if (value === null) return [removal(raw, member)]
    if (isJsonObject(value) && member.value.members) return changes(raw, member.value, value, inner)
    const { start, end } = member.value
    return [{ start, end, text: valueText(merged(undefined, value), inner) }]
  })
}

/** The edits that put new members behind the last one, and behind whatever comment is there. */
function additions(raw: string, { end, members }: Place, patch: Members, indent: string): Edit[] {
  const inner = `${indent}  `
  const added: string[] = []
  const edits: Edit[] = []
  for (const [name, value] of Object.entries(patch)) {
    const member = members!.get(name)
    if (value === null) continue
    if (member === undefined) added.push(`${inner}${nameText(name)}: ${valueText(merged(undefined, value), inner)}`)
    else if (isJsonObject(value) && member.value.members) edits.push(...additions(raw, member.value, value, inner))
  }
  if (added.length === 0) return edits
  const last = [...members!.values()].at(-1)
  if (last && last.comma === undefined) edits.push({ start: last.value.end, end: last.value.end, text: ',' })
  const before = raw.slice(0, end - 1).trimEnd().length
  edits.push({ start: before, end: end - 1, text: `\n${added.join(',\n')}\n${indent}` })
  return edits
}

/** With its comma, and the rest of its line if nothing else is there. */
function removal(raw: string, { key, value, comma }: Member): Edit {
  const end = comma ?? value.end
  const line = raw.lastIndexOf('\n', key) + 1
  const isAlone = raw.slice(line, key).trim() === ''
  const rest = /^[^\S\n]*\n/.exec(raw.slice(end))?.[0].length ?? 0
  return isAlone && rest > 0 ? { start: line, end: end + rest, text: '' } : { start: key, end, text: '' }
}

const nameText = (name: string): string => (/^[A-Za-z_$][\w$]*$/.test(name) ? name : JSON.stringify(name))

const valueText = (value: unknown, indent: string): string =>
  JSON.stringify(value, null, 2).replaceAll('\n', `\n${indent}`)

/** Where the values of a text stand. */
function placeOf(raw: string): Place {
  let at = 0
  const pieces = Array.from(tokens(raw), (token) => {
    const start = at
    at += token.text.length
    return { ...token, start, end: at }
  }).filter(({ kind }) => kind !== 'space' && kind !== 'comment')
  let next = 0
  const isMark = (text: string) => pieces[next]?.kind === 'mark' && pieces[next]?.text === text

  function value(): Place {
    const { start, end } = pieces[next]!
    if (isMark('{')) return object(start)
    if (isMark('[')) return array(start)
    next += 1
    return { start, end }
  }

  function array(start: number): Place {
    next += 1
    while (!isMark(']')) {
      value()
      if (isMark(',')) next += 1
    }
    return { start, end: pieces[next++]!.end }
  }

  function object(start: number): Place {
    const members = new Map<string, Member>()
    next += 1
    while (!isMark('}')) {
      const key = pieces[next]!
      next += 2
      const member: Member = { key: key.start, value: value(), comma: undefined }
      if (isMark(',')) member.comma = pieces[next++]!.end
      members.set(keyOf(key.text), member)
    }
    return { start, end: pieces[next++]!.end, members }
  }

  return value()
}

/**
 * Puts back what was hidden when a text was shown: a value that is shown as the same place of the present text is shown is
 * that value. What cannot be put back stays hidden, for the reader to refuse.
 */
export function withSecrets(text: string, present: string): string {
  if (!text.includes(Secret.marker)) return text
  /** What is hidden behind what is shown, in its order; `used`: how many have been put back. */
  const shown = new Map<string, { texts: string[]; used: number }>()
  const place = (token: Token) => (token.kind === 'value' ? JSON.stringify(token.path) : token.kind)
  for (const token of redactTokens(present, JSON5.parse(present))) {
    if (token.shown === token.text) continue
    const id = `${place(token)} ${meaning({ ...token, text: token.shown })}`
    const alike = shown.get(id)
    if (alike) alike.texts.push(token.text)
    else shown.set(id, { texts: [token.text], used: 0 })
  }
  return Array.from(tokens(text), (token) => {
    if (!token.text.includes(Secret.marker)) return token.text
    const hidden = shown.get(`${place(token)} ${meaning(token)}`)
    // Comments are known by their text only: the first of two that look alike comes first.
    return hidden?.texts[token.kind === 'value' ? 0 : hidden.used++] ?? token.text
  }).join('')
}

/** What a piece says, however it is quoted. */
const meaning = ({ kind, text }: Pick<Token, 'kind' | 'text'>): string =>
  kind === 'value' ? JSON.stringify(JSON5.parse(text)) : kind === 'key' ? keyOf(text) : text

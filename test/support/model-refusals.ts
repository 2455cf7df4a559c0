/** What providers refuse in the messages of a request, as far as tools are concerned: the fake one refuses it, too. */
import type { RequestBlock, RequestBody, RequestMessage } from './model-server.ts'

/** Why a request is refused, or undefined when nothing is wrong with it. */
export function refusalOf(dialect: 'completions' | 'messages', body: RequestBody): string | undefined {
  if (body.tools?.length === 0) return 'tools: must not be empty'
  return dialect === 'completions' ? wrongMessages(body.messages ?? []) : wrongTurns(body)
}

/** The signature of a thinking block: it tells whose it is, and breaks when a character changes. */
export const signatureOf = (model: string, thinking: string) => Buffer.from(`${model}: ${thinking}`).toString('base64')

const fitName = /^[a-zA-Z0-9_-]{1,64}$/

function wrongMessages(messages: RequestMessage[]): string | undefined {
  let open: string[] = []
  for (const [place, { role, content, tool_calls: calls, tool_call_id: id = '' }] of messages.entries()) {
    const at = `messages[${place}]`
    if (role === 'tool') {
      if (!open.includes(id)) return `${at}: ${id} is the result of no call right before it`
      if (typeof content !== 'string') return `${at}: a result needs a content`
      open = open.filter((other) => other !== id)
      continue
    }
    if (open.length > 0) return `${at}: no result for ${open.join(', ')}`
    if (calls === undefined && !content?.length) return `${at}: content must not be empty`
    if (calls === undefined) continue
    if (role !== 'assistant') return `${at}: only the assistant calls`
    if (calls.length === 0) return `${at}: tool_calls must not be empty`
    if (content === '') return `${at}: an empty content beside calls is null`
    for (const { id, function: called } of calls) {
      if (id === '' || open.includes(id)) return `${at}: the id of a call must be its own`
      if (!fitName.test(called.name)) return `${at}: "${called.name}" is no name of a function`
      if (!isObject(parsed(called.arguments))) return `${at}: arguments must be a JSON object`
      open.push(id)
    }
  }
  return open.length > 0 ? `at the end: no result for ${open.join(', ')}` : undefined
}

function wrongTurns({ messages = [], model = '', thinking, tools }: RequestBody): string | undefined {
  const ids = new Set<string>()
  let open: string[] = []
  for (const [place, { role, content }] of messages.entries()) {
    const at = `messages.${place}`
    if (role !== (place % 2 === 0 ? 'user' : 'assistant'))
      return `${at}: user and assistant must take turns, user first`
    const blocks = blocksOf(content)
    if (blocks.length === 0) return `${at}: content must not be empty`
    const results = blocks.filter(({ type }) => type === 'tool_result')
    if (blocks.slice(0, results.length).some(({ type }) => type !== 'tool_result')) {
      return `${at}: results stand in front of everything else`
    }
    const answered = results.map(({ tool_use_id: id = '' }) => id)
    const missing = open.filter((id) => !answered.includes(id))
    if (missing.length > 0) return `${at}: no tool_result for ${missing.join(', ')}`
    const strange = answered.filter((id, index) => !open.includes(id) || answered.indexOf(id) !== index)
    if (strange.length > 0) return `${at}: no tool_use for ${strange.join(', ')}`
    for (const block of blocks) {
      const wrong = wrongBlock(block, model, ids)
      if (wrong !== undefined) return `${at}: ${wrong}`
    }
    open = blocks.flatMap(({ type, id = '' }) => (type === 'tool_use' ? [id] : []))
    if (open.length > 0 && role !== 'assistant') return `${at}: only the assistant calls`
  }
  if (open.length > 0) return `at the end: no tool_result for ${open.join(', ')}`
  if (ids.size > 0 && tools === undefined) return 'tools: must be defined where they are used'
  // What the assistant says between two words of the user is one turn, calls and all: it begins with thinking or has none.
  const said = messages.findLastIndex(
    ({ role, content }) => role === 'user' && blocksOf(content).every(({ type }) => type !== 'tool_result'),
  )
  const [begin] = blocksOf(messages[said + 1]?.content)
  const begins = begin === undefined || /^(redacted_)?thinking$/.test(begin.type)
  return thinking?.type === 'enabled' && !begins ? `messages.${said + 1}: must begin with thinking` : undefined
}

const blocksOf = (content: RequestMessage['content'] = []): RequestBlock[] =>
  typeof content === 'string' ? [{ type: 'text', text: content }] : (content ?? [])

function wrongBlock(block: RequestBlock, model: string, ids: Set<string>): string | undefined {
  const { type, text = '', id = '', name = '', input } = block
  switch (type) {
    case 'text':
      return text.trim() === '' ? 'a text must not be blank' : undefined
    case 'thinking':
      return block.signature === signatureOf(model, block.thinking ?? '') ? undefined : 'the signature is wrong'
    case 'tool_use':
      if (!/^[a-zA-Z0-9_-]+$/.test(id) || ids.has(id)) return `"${id}" is no id of its own`
      if (!fitName.test(name)) return `"${name}" is no name of a tool`
      if (!isObject(input)) return 'input must be an object'
      ids.add(id)
      return undefined
    case 'tool_result':
      return block.is_error && !block.content?.length ? 'an error must have a content' : undefined
    default:
      return undefined
  }
}

const isObject = (value: unknown) => typeof value === 'object' && value !== null && !Array.isArray(value)

function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

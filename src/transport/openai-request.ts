/** What a request in OpenAI's shapes asks for: the words, and whether anything else of it can be had. */
import { LIMITS } from '../contract/connect.ts'
import { isJsonObject, type JsonObject } from '../contract/json-object.ts'
import { HttpError } from './http-error.ts'

/** A request for an answer, whichever of the two shapes it came in. */
export interface Asked {
  /** As it was spelled. */
  model: string
  isStreamed: boolean
  /** Whether a stream of chunks ends with one that says what was used. */
  wantsUsage: boolean
  user: string | undefined
  /** What system and developer messages say. */
  instructions: string
  /** What was said before the message, oldest first. */
  earlier: { role: 'user' | 'assistant'; text: string }[]
  message: string
  /** Pictures of the message, as `data:` URLs. */
  images: string[]
  /** How much to think; undefined: as the agent does. */
  thinking: string | undefined
}

/** Who says what in a conversation. */
interface Said {
  role: 'system' | 'user' | 'assistant'
  text: string
  images: string[]
}

const MOST_INSTRUCTIONS = 64 * 1024
const MOST_IMAGES = 16
/** What an agent is told in place of a picture that came with an earlier message. */
const PICTURE = '[a picture]'

/** What `reasoning_effort` is called here. */
const THINKING: { [effort: string]: string } = {
  none: 'off',
  minimal: 'minimal',
  low: 'low',
  medium: 'medium',
  high: 'high',
  xhigh: 'high',
}

/** Parameters that change what an answer is, and that an agent cannot do. Others that it does not use are passed over. */
const NOT_FOR_AGENTS: [name: string, isAsked: (value: unknown, body: JsonObject) => boolean, why: string][] = [
  ['n', (value) => value !== 1, 'an agent answers once'],
  ['tools', isUsed, 'the agent has tools of its own; those of a client are not called'],
  ['functions', isUsed, 'the agent has tools of its own; those of a client are not called'],
  ['stop', isUsed, 'an agent says when it has finished'],
  ['logprobs', (value) => value === true, 'they are not known'],
  ['top_logprobs', (value) => value !== 0, 'they are not known'],
  ['audio', () => true, 'an agent answers in text'],
  ['modalities', (value) => !isTextOnly(value), 'an agent answers in text'],
  ['response_format', (value) => !isText(value), 'an agent answers in text of no certain form'],
  [
    'text',
    (value) => !isText((value as JsonObject)['format'] ?? { type: 'text' }),
    'an agent answers in text of no certain form',
  ],
  ['background', (value) => value === true, 'the answer is given on this connection'],
  ['conversation', () => true, 'say which session with user or x-openclaw-session-key'],
  ['previous_response_id', () => true, 'say which session with user or x-openclaw-session-key'],
  ['prompt', () => true, 'the agent has instructions of its own; add to them with instructions'],
]

/** Something, and not an empty list or text; of tools also nothing where none may be called. */
function isUsed(value: unknown, { tool_choice: choice, function_call: call }: JsonObject): boolean {
  if (choice === 'none' || call === 'none') return false
  return typeof value === 'string' || Array.isArray(value) ? value.length > 0 : true
}

const isText = (format: unknown): boolean => isJsonObject(format) && format['type'] === 'text'
const isTextOnly = (value: unknown): boolean => Array.isArray(value) && value.every((one) => one === 'text')

/** Reads a request for a chat completion. @throws HttpError 400, which names the parameter */
export function readCompletion(members: JsonObject): Asked {
  const { messages } = members
  if (messages !== undefined && !Array.isArray(messages)) throw wrong('messages', 'must be a list')
  const options = members['stream_options']
  return {
    ...common(members),
    ...turnIn(
      ((messages ?? []) as unknown[]).map((message, place) => saidIn(message, `messages[${place}]`)),
      'messages',
      'Missing user message in `messages`.',
    ),
    wantsUsage: isJsonObject(options) && options['include_usage'] === true,
    thinking: thinkingOf(members['reasoning_effort'], 'reasoning_effort'),
  }
}

/** Reads a request for a response. @throws HttpError 400, which names the parameter */
export function readResponse(members: JsonObject): Asked {
  const { input, instructions = '', reasoning } = members
  if ((typeof input !== 'string' || input === '') && !Array.isArray(input)) throw wrong('input', 'Invalid input')
  if (instructions !== null && typeof instructions !== 'string') throw wrong('instructions', 'must be a text')
  const said: Said[] =
    typeof input === 'string'
      ? [{ role: 'user', text: input, images: [] }]
      : input.map((item, place) => saidIn(item, `input[${place}]`))
  const first: Said[] = instructions ? [{ role: 'system', text: instructions, images: [] }] : []
  return {
    ...common(members),
    ...turnIn([...first, ...said], 'input', 'Missing user message in `input`.'),
    wantsUsage: true,
    thinking: isJsonObject(reasoning) ? thinkingOf(reasoning['effort'], 'reasoning.effort') : undefined,
  }
}

function common(members: JsonObject): Pick<Asked, 'model' | 'isStreamed' | 'user'> {
  const { model = 'openclaw', stream, user } = members
  if (typeof model !== 'string' || model === '') throw wrong('model', 'must be a text')
  if (stream !== undefined && stream !== null && typeof stream !== 'boolean')
    throw wrong('stream', 'must be true or false')
  if (user !== undefined && user !== null && typeof user !== 'string') throw wrong('user', 'must be a text')
  for (const [name, isAsked, why] of NOT_FOR_AGENTS) {
    const value = members[name]
    if (value !== undefined && value !== null && isAsked(value, members))
      throw new HttpError(400, 'unsupported_parameter', `${name}: not served here: ${why}.`, { param: name })
  }
  return { model, isStreamed: stream === true, user: user || undefined }
}

/** The last message, and what comes before it. */
function turnIn(
  said: Said[],
  param: string,
  missing: string,
): Pick<Asked, 'instructions' | 'earlier' | 'message' | 'images'> {
  const instructions = said.flatMap(({ role, text }) => (role === 'system' && text !== '' ? [text] : [])).join('\n\n')
  if (instructions.length > MOST_INSTRUCTIONS)
    throw new HttpError(400, 'INVALID_PARAMS', `${param}: instructions of more than ${MOST_INSTRUCTIONS} characters`, {
      param,
    })
  const talk = said.filter(({ role }) => role !== 'system')
  const last = talk.at(-1)
  if (!talk.some(({ role }) => role === 'user')) throw new HttpError(400, 'INVALID_PARAMS', missing, { param })
  if (last!.role !== 'user')
    throw wrong(param, 'the last message must be of the user: an agent does not go on with an answer')
  const { text, images } = last!
  if (text.trim() === '' && images.length === 0) throw wrong(param, 'the last message must say something')
  if (images.length > MOST_IMAGES) throw wrong(param, `at most ${MOST_IMAGES} pictures come with a message`)
  const earlier = talk.slice(0, -1).flatMap(({ role, text: words, images: { length } }) => {
    const whole = [words, ...Array.from({ length }, () => PICTURE)].filter(Boolean).join('\n')
    return role === 'system' || whole === '' ? [] : [{ role, text: whole }]
  })
  for (const words of [text, ...earlier.map((one) => one.text)])
    if (Buffer.byteLength(words) > LIMITS.message)
      throw new HttpError(413, 'MESSAGE_TOO_LARGE', `${param}: a message of more than ${LIMITS.message} bytes`, {
        param,
      })
  return { instructions, earlier, message: text, images }
}

/** One message of a conversation, in either shape. */
function saidIn(value: unknown, param: string): Said {
  if (!isJsonObject(value)) throw wrong(param, 'must be an object')
  const { type = 'message', role, content, tool_calls: calls } = value
  if (type !== 'message') throw wrong(`${param}.type`, `${quoted(type)} is not served here; send messages`)
  const isCalling = Array.isArray(calls) && calls.length > 0
  switch (role) {
    case 'system':
    case 'developer':
      return { role: 'system', ...partsOf(content, `${param}.content`) }
    case 'user':
      return { role, ...partsOf(content, `${param}.content`) }
    case 'assistant':
      if (isCalling) throw wrong(`${param}.tool_calls`, 'calls of tools of a client are not served here')
      return { role, ...partsOf(content ?? '', `${param}.content`) }
    default:
      throw wrong(`${param}.role`, `${quoted(role)} is not served here; use system, developer, user or assistant`)
  }
}

function partsOf(content: unknown, param: string): Pick<Said, 'text' | 'images'> {
  if (typeof content === 'string') return { text: content, images: [] }
  if (!Array.isArray(content)) throw wrong(param, 'must be a text or a list of parts')
  const texts: string[] = []
  const images: string[] = []
  for (const [place, part] of content.entries()) {
    const at = `${param}[${place}]`
    if (!isJsonObject(part)) throw wrong(at, 'must be an object')
    switch (part['type']) {
      case 'text':
      case 'input_text':
      case 'output_text':
        texts.push(textOf(part['text'], `${at}.text`))
        break
      case 'refusal':
        texts.push(textOf(part['refusal'], `${at}.refusal`))
        break
      case 'image_url':
      case 'input_image':
        images.push(imageIn(part, at))
        break
      default:
        throw wrong(`${at}.type`, `${quoted(part['type'])} is not served here; use text and pictures`)
    }
  }
  return { text: texts.join('\n'), images }
}

function textOf(value: unknown, param: string): string {
  if (typeof value !== 'string') throw wrong(param, 'must be a text')
  return value
}

/** A picture that comes with the request. What lies elsewhere is not fetched: the address is a stranger's. */
function imageIn({ image_url: image }: JsonObject, param: string): string {
  const url = isJsonObject(image) ? image['url'] : image
  if (typeof url !== 'string' || !/^data:[^,]*;base64,/i.test(url))
    throw wrong(`${param}.image_url`, 'send the picture itself, as a data: URL in base64; addresses are not fetched')
  return url
}

function thinkingOf(effort: unknown, param: string): string | undefined {
  if (effort === undefined || effort === null) return undefined
  const level = typeof effort === 'string' && Object.hasOwn(THINKING, effort) ? THINKING[effort] : undefined
  if (level === undefined) throw wrong(param, `use ${Object.keys(THINKING).join(', ')}`)
  return level
}

const wrong = (param: string, why: string): HttpError =>
  new HttpError(400, 'INVALID_PARAMS', `${param}: ${why}`, { param })

const quoted = (value: unknown): string => (JSON.stringify(value) ?? 'nothing').slice(0, 64)

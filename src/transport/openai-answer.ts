/** Answers in OpenAI's shapes: chat completions and responses, whole or as the events of a stream, and errors. */
import type { HttpError } from './http-error.ts'

/** What is known of an answer before its first word. */
export interface About {
  runId: string
  /** As the request spelled it. */
  model: string
  /** Seconds since 1970. */
  created: number
  /** Whether a stream of chunks ends with one that says what was used. */
  wantsUsage: boolean
}

/** How a run ended well. */
export interface Answer {
  text: string
  usage: { input: number; output: number; cacheRead: number; cacheWrite: number }
  /** It had as many tokens as an answer may have. */
  isCut: boolean
}

/** Says one answer in a shape: as one JSON object, or as events, each the text that goes over the line. */
export interface Voice {
  whole(answer: Answer): object
  opening(): string
  piece(text: string): string
  closing(answer: Answer): string
  /** Ends an answer that cannot be ended well. */
  failing(error: HttpError): string
}

/** The body of a refusal. */
export const errorBody = ({ status, code, message, more: { param = null } }: HttpError): { error: object } => ({
  error: { message: status === 401 ? 'Unauthorized' : message, type: typeOf(status), code, param },
})

function typeOf(status: number): string {
  switch (status) {
    case 401:
      return 'unauthorized'
    case 403:
      return 'permission_error'
    case 429:
      return 'rate_limit_error'
    default:
      return status < 500 ? 'invalid_request_error' : 'server_error'
  }
}

const DONE = 'data: [DONE]\n\n'
const said = (data: object): string => `data: ${JSON.stringify(data)}\n\n`

export function completionVoice({ runId, model, created, wantsUsage }: About): Voice {
  const about = (object: string) => ({ id: `chatcmpl_${runId}`, object, created, model })
  const chunk = (delta: object, finish_reason: string | null = null) =>
    said({
      ...about('chat.completion.chunk'),
      choices: [{ index: 0, delta, finish_reason }],
      ...(wantsUsage && { usage: null }),
    })
  const finishOf = ({ isCut }: Answer) => (isCut ? 'length' : 'stop')

  return {
    whole: (answer) => ({
      ...about('chat.completion'),
      choices: [
        {
          index: 0,
          message: { role: 'assistant', content: answer.text, refusal: null },
          finish_reason: finishOf(answer),
          logprobs: null,
        },
      ],
      usage: completionUsage(answer),
    }),
    opening: () => chunk({ role: 'assistant' }),
    piece: (content) => chunk({ content }),
    closing: (answer) =>
      chunk({}, finishOf(answer)) +
      (wantsUsage ? said({ ...about('chat.completion.chunk'), choices: [], usage: completionUsage(answer) }) : '') +
      DONE,
    failing: (error) => said(errorBody(error)),
  }
}

function completionUsage({ usage: { input, output, cacheRead, cacheWrite } }: Answer) {
  const prompt = input + cacheRead + cacheWrite
  return {
    prompt_tokens: prompt,
    completion_tokens: output,
    total_tokens: prompt + output,
    prompt_tokens_details: { cached_tokens: cacheRead },
  }
}

export function responseVoice({ runId, model, created }: About): Voice {
  const itemId = `msg_${runId}`
  const place = { item_id: itemId, output_index: 0, content_index: 0 }
  let number = 0
  let text = ''
  const event = (type: string, data: object) => `event: ${type}\n${said({ type, sequence_number: number++, ...data })}`
  const response = (status: string, more: object = {}) => ({
    id: `resp_${runId}`,
    object: 'response',
    created_at: created,
    status,
    model,
    output: [] as object[],
    error: null,
    incomplete_details: null,
    instructions: null,
    metadata: {},
    parallel_tool_calls: false,
    previous_response_id: null,
    temperature: null,
    tool_choice: 'none',
    tools: [],
    top_p: null,
    usage: { input_tokens: 0, output_tokens: 0, total_tokens: 0 },
    ...more,
  })
  const part = (words: string) => ({ type: 'output_text', text: words, annotations: [] })
  const item = (status: string, content: object[]) => ({
    type: 'message',
    id: itemId,
    role: 'assistant',
    content,
    status,
  })
  const statusOf = ({ isCut }: Answer) => (isCut ? 'incomplete' : 'completed')
  const whole = (answer: Answer) =>
    response(statusOf(answer), {
      output: [item(statusOf(answer), [part(answer.text)])],
      ...(answer.isCut && { incomplete_details: { reason: 'max_output_tokens' } }),
      usage: responseUsage(answer),
    })

  return {
    whole,
    opening: () =>
      event('response.created', { response: response('in_progress') }) +
      event('response.in_progress', { response: response('in_progress') }) +
      event('response.output_item.added', { output_index: 0, item: item('in_progress', []) }) +
      event('response.content_part.added', { ...place, part: part('') }),
    piece(delta) {
      text += delta
      return event('response.output_text.delta', { ...place, delta, logprobs: [] })
    },
    closing: (answer) =>
      event('response.output_text.done', { ...place, text: answer.text, logprobs: [] }) +
      event('response.content_part.done', { ...place, part: part(answer.text) }) +
      event('response.output_item.done', { output_index: 0, item: item(statusOf(answer), [part(answer.text)]) }) +
      event(`response.${statusOf(answer)}`, { response: whole(answer) }) +
      DONE,
    failing: ({ code, message }) =>
      event('response.failed', {
        response: response('failed', {
          output: text === '' ? [] : [item('incomplete', [part(text)])],
          error: { code, message },
        }),
      }) + DONE,
  }
}

function responseUsage({ usage: { input, output, cacheRead, cacheWrite } }: Answer) {
  const prompt = input + cacheRead + cacheWrite
  return {
    input_tokens: prompt,
    input_tokens_details: { cached_tokens: cacheRead },
    output_tokens: output,
    output_tokens_details: { reasoning_tokens: 0 },
    total_tokens: prompt + output,
  }
}

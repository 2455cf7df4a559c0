/** One request to a provider and its streamed answer, watched from the first byte to the last, whatever the format. */
import { connect } from 'node:net'
import { type Model, ModelFailure, type Sink } from './runtime.ts'

export interface StreamingOptions {
  /** Milliseconds without a byte from the provider, response headers included, until it counts as stalled. 120,000. */
  stallMs?: number
}

/** What a format is given to speak with its provider. */
export interface Wire {
  baseUrl: string
  /**
   * Stands in for the global `fetch` inside an SDK. It sends the headers of this exchange and no others, and turns
   * whatever goes wrong below the format (no connection, a status, silence, a broken connection) into a {@link
   * ModelFailure}.
   */
  fetch(url: string | URL | Request, init?: RequestInit): Promise<Response>
  /** Passes on what is not empty, and nothing once the exchange has been stopped. */
  sink: Sink
  /** The failure of an answer that ended in good order but without `mark`, the end mark of the format. */
  cut(mark: string): ModelFailure
}

interface Exchange extends StreamingOptions {
  model: Model
  sink: Sink
  signal: AbortSignal
  /** How the format shows the key, with whatever else it demands. The headers of the model come on top. */
  headers(key: string): Record<string, string>
}

const defaultStallMs = 120_000
/** How long the bytes behind the end mark may take, in milliseconds. */
const lastBytesMs = 1_000
/** How much of an error's body is read, in bytes, and how much text of unknown form is passed on, in characters. */
const errorBytes = 65_536
const errorCharacters = 500

/**
 * Runs one exchange: `read` speaks the format over the given wire and returns the answer.
 *
 * Rejects with the signal's reason at once when it aborts; otherwise with a {@link ModelFailure}, or with what the sink
 * threw. Once it has settled the sink hears nothing more, and unless it succeeded the request is cancelled.
 */
export async function exchange<T>(options: Exchange, read: (wire: Wire) => Promise<T>): Promise<T> {
  const { model, signal, stallMs = defaultStallMs } = options
  signal.throwIfAborted()
  const { baseUrl, key, headers } = connectionOf(options)
  const secrets = secretsOf(key, model.headers)
  const words = (text: string) => secrets.reduce((left, secret) => left.replaceAll(secret, '***'), text)

  const request = new AbortController()
  const aborted = Promise.withResolvers<never>()
  const onAbort = () => {
    request.abort(signal.reason)
    aborted.reject(signal.reason)
  }
  signal.addEventListener('abort', onAbort, { once: true })

  // Both SDKs wrap what their fetch throws, and end in silence when it looks like an abort. The failure is kept here
  // instead.
  let failure: ModelFailure | undefined
  const failed = (what: ModelFailure) => {
    failure ??= what
    return failure
  }
  let silence: NodeJS.Timeout | undefined
  const onSilence = () => {
    request.abort(failed(new ModelFailure('stalled', `${hostOf(baseUrl)} sent nothing for ${stallMs / 1000} s`)))
  }

  let characters = 0
  const soFar = () => (characters === 0 ? 'before any text' : `after ${characters} characters`)

  const watched = (body: ReadableStream<Uint8Array>): ReadableStream<Uint8Array> => {
    const reader = body.getReader()
    return new ReadableStream<Uint8Array>(
      {
        async pull(out) {
          try {
            const { done, value } = await reader.read()
            silence?.refresh()
            if (done) out.close()
            else out.enqueue(value)
          } catch (error) {
            out.error(failed(new ModelFailure('cut', `the connection broke ${soFar()}`, { cause: error })))
          }
        },
        // Called when the format has seen its end mark, or has thrown. In the first case the few bytes left are read,
        // so that the connection can be used again; in the second the request is aborted a moment later, which ends the
        // reading.
        cancel() {
          const impatience = setTimeout(() => request.abort(), lastBytesMs).unref()
          void discard(reader).finally(() => clearTimeout(impatience))
        },
      },
      { highWaterMark: 0 },
    )
  }

  const wire: Wire = {
    baseUrl,
    async fetch(url, init) {
      // Whoever stopped the exchange has ended the watch for silence: begun after that, it would hold the process.
      request.signal.throwIfAborted()
      silence = setTimeout(onSilence, stallMs)
      let response: Response
      try {
        // A redirect would carry the key to a place nobody configured.
        response = await fetch(url, {
          method: 'POST',
          headers,
          body: init?.body ?? null,
          redirect: 'manual',
          signal: request.signal,
        })
      } catch (error) {
        throw failed(noConnection(baseUrl, error))
      }
      silence.refresh()
      if (!response.ok || !mayStream(response)) throw failed(await refusal(response, words))
      return new Response(response.body && watched(response.body), {
        status: response.status,
        headers: response.headers,
      })
    },
    sink: {
      delta(text) {
        if (text === '' || request.signal.aborted) return
        characters += text.length
        options.sink.delta(text)
      },
      reasoning(text) {
        if (text !== '' && !request.signal.aborted) options.sink.reasoning(text)
      },
    },
    cut: (mark) => new ModelFailure('cut', `the answer of ${model.ref} ended without ${mark} ${soFar()}`),
  }

  try {
    return await Promise.race([read(wire), aborted.promise])
  } catch (error) {
    request.abort(error)
    signal.throwIfAborted()
    throw failure ?? errorEvent(error, words) ?? error
  } finally {
    clearTimeout(silence)
    signal.removeEventListener('abort', onAbort)
  }
}

/** How long a provider may take to accept a connection, in ms, when all that is asked is whether it is there. */
const reachMs = 3_000

/** Whether somebody listens at a provider's address; true for models that have none. Nothing is sent. */
export async function canReach(baseUrl: string | undefined): Promise<boolean> {
  if (baseUrl === undefined) return true
  if (!URL.canParse(baseUrl)) return false
  const { hostname, port, protocol } = new URL(baseUrl)
  const socket = connect({
    host: hostname.replace(/^\[|\]$/g, ''),
    port: Number(port) || (protocol === 'https:' ? 443 : 80),
    timeout: reachMs,
  })
  try {
    return await new Promise((resolve) => {
      socket.once('connect', () => resolve(true))
      socket.once('error', () => resolve(false))
      socket.once('timeout', () => resolve(false))
    })
  } finally {
    socket.destroy()
  }
}

/** Checks that a model can be called at all. Throws `unconfigured` before anything leaves the machine. */
function connectionOf({ model, headers }: Exchange): { baseUrl: string; key: string; headers: Headers } {
  const { ref, provider, baseUrl } = model
  const path = `models.providers.${provider}`
  if (model.apiKey === undefined) {
    const variable = model.apiKeyVariable === undefined ? '' : `${model.apiKeyVariable} or `
    throw new ModelFailure('unconfigured', `${ref} has no API key: set ${variable}${path}.apiKey`)
  }
  if (baseUrl === undefined || !/^https?:/.test(baseUrl) || !URL.canParse(baseUrl)) {
    throw new ModelFailure('unconfigured', `${ref} has no address: ${path}.baseUrl must be an http or https URL`)
  }
  const key = model.apiKey.reveal()
  try {
    const all = new Headers({ 'content-type': 'application/json', 'user-agent': 'kurultai-gateway', ...headers(key) })
    for (const [name, value] of Object.entries(model.headers ?? {})) all.set(name, value)
    return { baseUrl, key, headers: all }
  } catch {
    // The reason is dropped on purpose: it quotes the header, and with it the key.
    throw new ModelFailure('unconfigured', `${ref}: the API key or a header holds characters that HTTP cannot carry`)
  }
}

/** What a provider was sent and could say back, the longest first. A short text stands for other things, too. */
const secretsOf = (key: string, headers: Record<string, string> = {}): string[] =>
  [key, ...Object.values(headers).flatMap((value) => [value, ...value.split(/[\s;,=]+/)])]
    .filter((text) => text.length >= 8)
    .toSorted((a, b) => b.length - a.length)

function hostOf(baseUrl: string): string {
  const { protocol, hostname, port } = new URL(baseUrl)
  return `${hostname}:${port || (protocol === 'https:' ? 443 : 80)}`
}

function noConnection(baseUrl: string, error: unknown): ModelFailure {
  const code = codeOf(error)
  if (code === 'UND_ERR_HEADERS_TIMEOUT') {
    return new ModelFailure('stalled', `${hostOf(baseUrl)} did not answer`, { cause: error })
  }
  const why = code === undefined ? '' : ` (${code})`
  return new ModelFailure('unreachable', `cannot reach ${hostOf(baseUrl)}${why}`, { cause: error })
}

function codeOf(error: unknown): string | undefined {
  const code = field(field(error, 'cause'), 'code')
  return typeof code === 'string' ? code : undefined
}

/** A page or a plain JSON object is no answer, whatever its status. Any other type, or none, is given a chance. */
function mayStream(response: Response): boolean {
  return !/^(text\/html|application\/json)/i.test(response.headers.get('content-type') ?? '')
}

async function refusal(response: Response, words: (text: string) => string): Promise<ModelFailure> {
  const { status, headers } = response
  // Before it is cut, and after: half a key is none to be found.
  const said = messageOf(words(await beginning(response)))
  const bare = response.ok ? `HTTP ${status} and ${headers.get('content-type')} instead of a stream` : `HTTP ${status}`
  return new ModelFailure(kindOfStatus(status), said === undefined ? bare : words(said), {
    status,
    retryAfterMs: retryAfterMs(headers),
  })
}

/** The failure an SDK reports for an error event inside the stream, or for an event it could not read. */
function errorEvent(error: unknown, words: (text: string) => string): ModelFailure | undefined {
  if (error instanceof ModelFailure) return undefined
  if (error instanceof SyntaxError) {
    return new ModelFailure('cut', 'the provider sent an event that is not JSON', { cause: error })
  }
  // Both SDKs keep the event under `error`; Anthropic's is one level deeper.
  const event = field(error, 'error')
  if (!(error instanceof Error) || event === undefined || event === null) return undefined
  const said = messageOf(typeof event === 'string' ? event : JSON.stringify(event)) ?? 'the provider reported an error'
  const inner = field(event, 'error') ?? event
  return new ModelFailure(kindOfEvent(field(inner, 'code'), field(inner, 'type')), words(said))
}

function kindOfStatus(status: number): ModelFailure['kind'] {
  if (status === 401 || status === 403) return 'auth'
  if (status === 429) return 'rateLimited'
  return status >= 500 ? 'overloaded' : 'refused'
}

/** Names the kind of an error event, which has a type in words and at times a status as its code. */
function kindOfEvent(code: unknown, type: unknown): ModelFailure['kind'] {
  const status = Number(code ?? Number.NaN)
  if (status >= 400 && status < 600) return kindOfStatus(status)
  const name = `${type} ${code}`
  if (/authentication|permission|api_key/.test(name)) return 'auth'
  if (/rate_limit|quota/.test(name)) return 'rateLimited'
  return /invalid|not_found|too_large/.test(name) ? 'refused' : 'overloaded'
}

/** The provider's own words in the body of an error: the message of the usual JSON shapes, or a short plain text. */
function messageOf(body: string): string | undefined {
  const text = body.trim()
  if (text === '' || text.startsWith('<')) return undefined
  try {
    const value: unknown = JSON.parse(text)
    const error = field(value, 'error')
    const found = [field(error, 'message'), error, field(value, 'message'), field(value, 'detail'), value]
    const said = found.find((candidate) => typeof candidate === 'string' && candidate !== '')
    return typeof said === 'string' ? said : text.slice(0, errorCharacters)
  } catch {
    return text.slice(0, errorCharacters)
  }
}

/** Milliseconds from `retry-after-ms`, or from `retry-after` in seconds or as a date. */
function retryAfterMs(headers: Headers): number | undefined {
  const ms = Number.parseFloat(headers.get('retry-after-ms') ?? '')
  if (ms >= 0) return ms
  const after = headers.get('retry-after') ?? ''
  const seconds = Number(after.trim() || Number.NaN)
  if (seconds >= 0) return seconds * 1000
  const date = Date.parse(after)
  return Number.isNaN(date) ? undefined : Math.max(0, date - Date.now())
}

async function beginning(response: Response): Promise<string> {
  if (response.body === null) return ''
  const decoder = new TextDecoder()
  let text = ''
  let bytes = 0
  try {
    for await (const chunk of response.body) {
      text += decoder.decode(chunk, { stream: true })
      bytes += chunk.length
      if (bytes >= errorBytes) break
    }
  } catch {
    // What had come is still worth more than nothing, and the status is known.
  }
  return text
}

async function discard(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<void> {
  try {
    while (!(await reader.read()).done);
  } catch {
    // The connection is gone, which is as good.
  }
}

function field(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[name] : undefined
}

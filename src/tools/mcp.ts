/** Lines to servers that speak the Model Context Protocol: programs that are started here, or addresses. */
import type { Client, FetchLike, JSONRPCMessage, Transport } from '@modelcontextprotocol/client'
import type { ForeignTool, LineEars, OpenLine, ToolLine } from '../broker/tool-servers.ts'
import type { ToolResult } from '../broker/toolbox.ts'
import type { McpServerConfig } from '../config/config.ts'
import type { Secret } from '../config/secret.ts'
import { LONGEST_TIMER_MS } from '../contract/timer.ts'
import { createGauge, gauge } from './gauge.ts'
import { createProgram } from './program.ts'

export interface McpNeeds {
  /** Of this process: what programs are given of it is in {@link INHERITED}. */
  env: Readonly<Record<string, string | undefined>>
  /** Of the gateway, for its greeting. */
  version: string
}

/** What a program is given of the gateway's environment. Its secrets are in there, too. */
const INHERITED = ['PATH', 'HOME', 'LANG', 'TZ']
/** Of a list of tools, and tools after which no further page is asked for. */
const MOST = { pages: 64, tools: 1_000 }
/** Of a result: parts, and characters after which no further part is read. */
const MOST_READ = { parts: 256, characters: 100_000 }
/** What a line of events begins with that carries a message. */
const DATA = 'data:'
/** Bytes of one message that comes over HTTP. */
const MOST_BYTES = 10 * 1024 * 1024
/** Characters of what a server says is wrong. */
const MOST_WORDS = 2_000
/** Characters of the last line that a program said before it ended. */
const MOST_REASON = 300
/** A list that changes several times at once is asked for once, after so many ms. */
const GATHER_MS = 200
const GOODBYE_MS = 1_000
/** For what the toolbox or the supervisor has a deadline of its own for. */
const NO_DEADLINE_MS = LONGEST_TIMER_MS

/** Takes a result as it comes. It is read here piece by piece: one odd tool is not to cost all the others. */
const AS_IT_IS = { '~standard': { version: 1, vendor: 'kurultai', validate: (value: unknown) => ({ value }) } } as const

/** How the messages of one line travel. */
interface Way {
  transport: Transport
  /** Ends it, and what was started for it. Never rejects. */
  end(): Promise<void>
  /** What went wrong, in words that hold none of the secrets it was given. */
  words(error: unknown): string
}

type Sdk = typeof import('@modelcontextprotocol/client')

export const mcpLines =
  (needs: McpNeeds): OpenLine =>
  (server, ears) =>
    openLine(needs, server, ears)

function openLine({ env, version }: McpNeeds, server: McpServerConfig, ears: LineEars): ToolLine {
  const { reach } = server
  let way: Way | undefined
  let client: Client | undefined
  let closing: Promise<void> | undefined
  let isClosed = false
  let isLost = false
  /** A change has been told, and its list is not asked for yet. */
  let gathering: NodeJS.Timeout | undefined
  /** Settled when no list is under way: a slow old one is not to take the place of a newer one. */
  let listed: Promise<unknown> = Promise.resolve()

  function onLost(why: string): void {
    if (isLost || isClosed) return
    isLost = true
    ears.onLost(why)
  }

  async function open(): Promise<ForeignTool[]> {
    const sdk = await import('@modelcontextprotocol/client')
    if (isClosed) throw new Error('it was closed')
    way = 'url' in reach ? overHttp(sdk, reach, onLost) : asProgram(sdk, reach, { env, onLost, onSaid: ears.onSaid })
    client = new sdk.Client(
      { name: 'kurultai-gateway', version },
      // What a tool says in a structure is not held to its server's schema: its patterns are a stranger's.
      {
        capabilities: {},
        jsonSchemaValidator: {
          getValidator: () => (data) => ({ valid: true, data: data as never, errorMessage: undefined }),
        },
      },
    )
    // Requests under way are rejected right behind this.
    client.onclose = () => onLost('the line was closed')
    client.onerror = (error) => ears.onSaid(way!.words(error))
    try {
      await client.connect(way.transport, { timeout: NO_DEADLINE_MS })
      if (client.getServerCapabilities()?.tools === undefined) return []
      client.setNotificationHandler('notifications/tools/list_changed', onChanged)
      const first = list(NO_DEADLINE_MS)
      listed = first.catch(() => {})
      return await first
    } catch (error) {
      throw new Error(way.words(error))
    }
  }

  /** @param timeoutMs of each page */
  async function list(timeoutMs: number): Promise<ForeignTool[]> {
    const found: ForeignTool[] = []
    let cursor: string | undefined
    for (let page = 0; page < MOST.pages && found.length < MOST.tools; page += 1) {
      const result = (await client!.request(
        { method: 'tools/list', ...(cursor !== undefined && { params: { cursor } }) },
        AS_IT_IS,
        { timeout: timeoutMs },
      )) as { tools?: unknown; nextCursor?: unknown }
      if (!Array.isArray(result?.tools)) throw new Error('its list of tools is none')
      found.push(...result.tools.flatMap(toolIn))
      if (typeof result.nextCursor !== 'string') break
      cursor = result.nextCursor
    }
    return found
  }

  /** Asks for the tools once more, one list after the other; what changes meanwhile is asked for after that. */
  function onChanged(): void {
    gathering ??= setTimeout(() => {
      listed = listed.then(refresh)
    }, GATHER_MS)
  }

  async function refresh(): Promise<void> {
    if (isClosed) return
    gathering = undefined
    try {
      const tools = await list(server.startMs)
      if (!isClosed) ears.onTools(tools)
    } catch (error) {
      ears.onSaid(way!.words(error))
    }
  }

  async function call(tool: string, args: Record<string, unknown>, signal: AbortSignal): Promise<ToolResult> {
    try {
      const result = await client!.request(
        { method: 'tools/call', params: { name: tool, arguments: args } },
        AS_IT_IS,
        {
          signal,
          timeout: NO_DEADLINE_MS,
        },
      )
      return resultIn(result)
    } catch (error) {
      // What it was caused by holds what these words leave out, and is logged with it.
      throw new Error(way!.words(error))
    }
  }

  async function end(): Promise<void> {
    clearTimeout(gathering)
    await way?.end()
    await client?.close().catch(() => {})
  }

  return {
    open,
    call,
    close() {
      // First of all: ending it sounds like losing it.
      isClosed = true
      closing ??= end()
      return closing
    },
  }
}

type ProgramReach = Extract<McpServerConfig['reach'], { command: string }>
type AddressReach = Extract<McpServerConfig['reach'], { url: string }>

function asProgram(
  { deserializeMessage }: Sdk,
  { command, args, env: own, cwd }: ProgramReach,
  { env, onLost, onSaid }: McpNeedsOfProgram,
): Way {
  const given = INHERITED.flatMap((name): [string, string][] => (env[name] === undefined ? [] : [[name, env[name]]]))
  const hide = hiding(own)
  let lastSaid = ''
  const program = createProgram({
    command,
    args,
    env: { ...Object.fromEntries(given), ...revealed(own) },
    ...(cwd !== undefined && { cwd }),
    onLine(line) {
      try {
        gauge(line)
      } catch (error) {
        onLost(wordsOf(error))
        transport.onclose?.()
        return
      }
      let message: JSONRPCMessage
      try {
        message = deserializeMessage(line)
      } catch {
        onSaid(hide(line))
        return
      }
      transport.onmessage?.(message)
    },
    onSaid(line) {
      const said = hide(line)
      if (isReason(said)) lastSaid = said.slice(0, MOST_REASON)
      onSaid(said)
    },
    onGone(why) {
      onLost(lastSaid === '' ? why : `${why}: ${lastSaid}`)
      transport.onclose?.()
    },
  })
  const transport: Transport = {
    start: program.start,
    send: async (message) => program.say(JSON.stringify(message)),
    async close() {
      // Whoever waits for an answer does not wait for the end of the program.
      transport.onclose?.()
      await program.close()
    },
  }
  return { transport, end: transport.close, words: (error) => hide(wordsOf(error)) }
}

/** Whether a line says something by itself: where an error was thrown, and by which Node, follows what it was. */
const isReason = (line: string): boolean => /^[^\s{}^]/.test(line) && !/^Node\.js v\d/.test(line)

interface McpNeedsOfProgram extends Pick<McpNeeds, 'env'>, Pick<LineEars, 'onLost' | 'onSaid'> {}

function overHttp(
  { SdkHttpError, StreamableHTTPClientTransport }: Sdk,
  { url, headers }: AddressReach,
  onLost: (why: string) => void,
): Way {
  const home = new URL(url)
  const hide = hiding(headers)
  const where = `${home.hostname}:${home.port || (home.protocol === 'https:' ? 443 : 80)}`

  const words = (error: unknown): string => {
    if (error instanceof SdkHttpError) return hide(httpWords(error, where))
    const reason = reasonOf(error)
    return hide(reason === undefined ? wordsOf(error) : `${where} cannot be reached (${reason})`)
  }

  /** Asks this one address, whatever it answers, and hears when an answer breaks off. */
  const ask: FetchLike = async (address, init) => {
    if (new URL(address).href !== home.href) throw new Error(`only ${where} is asked`)
    const isPost = init?.method === 'POST'
    try {
      const response = await fetch(address, { ...init, redirect: 'manual' })
      // A server that was begun anew knows nothing of this line.
      if (isPost && response.status === 404 && new Headers(init?.headers).has('mcp-session-id'))
        onLost('it has forgotten this line')
      if (!response.body) return response
      const onCut = (error: unknown) => {
        if (isPost && !init?.signal?.aborted) onLost(words(error))
      }
      const { status, statusText } = response
      const isEvents = response.headers.get('content-type')?.includes('event-stream') ?? false
      return new Response(bounded(response.body, isEvents, onCut), { status, statusText, headers: response.headers })
    } catch (error) {
      if (isPost && !init?.signal?.aborted) onLost(words(error))
      throw error
    }
  }

  if (home.username !== '' || home.password !== '')
    throw new Error('its address has a name or a password in it; give them in its headers')
  let given: Headers
  try {
    given = new Headers(revealed(headers))
  } catch {
    // The reason is dropped on purpose: it quotes the header.
    throw new Error('a header holds characters that HTTP cannot carry')
  }
  const transport = new StreamableHTTPClientTransport(home, {
    fetch: ask,
    // A redirect would carry the headers, and what agents say, to a place that nobody configured.
    requestInit: { headers: given, redirect: 'manual' },
  })
  transport.onerror = ({ message }) => {
    if (message.startsWith('Maximum reconnection attempts')) onLost(`${where} cannot be reached`)
  }
  return {
    transport,
    words,
    async end() {
      await Promise.race([transport.terminateSession().catch(() => {}), pause(GOODBYE_MS)])
      await transport.close().catch(() => {})
    },
  }
}

function httpWords({ status, message }: InstanceType<Sdk['SdkHttpError']>, where: string): string {
  if (status !== undefined && status >= 300 && status < 400)
    return `${where} leads elsewhere (HTTP ${status}), which is not followed`
  return status === undefined ? message.slice(0, MOST_WORDS) : `${where} answered with HTTP ${status}`
}

/**
 * The same bytes, unless one message has more than {@link MOST_BYTES} of them, or is more than a {@link Gauge} lets pass. An event
 * ends with an empty line, other answers with all.
 */
function bounded(
  body: ReadableStream<Uint8Array>,
  isEvents: boolean,
  onCut: (error: unknown) => void,
): ReadableStream<Uint8Array> {
  const reader = body.getReader()
  const measure = createGauge()
  let size = 0
  let column = 0
  let isLineEmpty = false
  /** Whether the line is, as far as it has come, one that carries JSON. */
  let isData = true

  function pass(byte: number): void {
    size += 1
    if (size > MOST_BYTES) throw new Error('it sent a message that is too long')
    if (isEvents && column < DATA.length) isData &&= byte === DATA.charCodeAt(column)
    measure.pass(byte, isData)
    if (byte !== 10 && byte !== 13) {
      column += 1
      isLineEmpty = false
      return
    }
    column = 0
    isData = true
    if (byte === 13) return
    if (isEvents && isLineEmpty) {
      size = 0
      measure.reset()
    }
    isLineEmpty = true
  }

  return new ReadableStream<Uint8Array>(
    {
      async pull(out) {
        try {
          const { done, value } = await reader.read()
          if (done) return out.close()
          for (const byte of value) pass(byte)
          out.enqueue(value)
        } catch (error) {
          onCut(error)
          out.error(error)
          reader.cancel().catch(() => {})
        }
      },
      cancel: (reason) => reader.cancel(reason),
    },
    { highWaterMark: 0 },
  )
}

/** What a server lists, where it can be called at all. */
function toolIn(listed: unknown): ForeignTool[] {
  const { name, title, description, inputSchema } = (listed ?? {}) as Record<string, unknown>
  if (typeof name !== 'string' || name === '') return []
  const words = [description, title].find((text) => typeof text === 'string') as string | undefined
  return [{ name, description: words ?? '', schema: inputSchema }]
}

function resultIn(result: unknown): ToolResult {
  const { content, structuredContent, isError } = (result ?? {}) as Record<string, unknown>
  const text = textOf(Array.isArray(content) ? content : [])
  if (text !== '' || structuredContent === undefined) return { text: text || '(nothing)', isError: isError === true }
  return { text: jsonOf(structuredContent), isError: isError === true }
}

function jsonOf(structure: unknown): string {
  try {
    return JSON.stringify(structure)
  } catch {
    return '[a structure, nested too deep to be shown here]'
  }
}

/** The first of the parts; how many are left out stands before them, where no end is cut off. */
function textOf(parts: readonly unknown[]): string {
  const read: string[] = []
  let characters = 0
  for (const part of parts.slice(0, MOST_READ.parts)) {
    if (characters >= MOST_READ.characters) break
    const words = wordsFor(part)
    read.push(words)
    characters += words.length
  }
  const left = parts.length - read.length
  if (left > 0) read.unshift(`[${left} of ${parts.length} parts of this result are left out, at its end]`)
  return read.join('\n')
}

/** A part of a result: its text, or what it is. */
function wordsFor(part: unknown): string {
  const { type, text, mimeType, data, uri, name, resource } = (part ?? {}) as Record<string, unknown>
  const kind = typeof mimeType === 'string' ? mimeType : 'of no known kind'
  switch (type) {
    case 'text':
      return typeof text === 'string' ? text : ''
    case 'image':
    case 'audio':
      return `[${type === 'image' ? 'an image' : 'a sound'}, ${kind}, ${bytesIn(data)} bytes: it cannot be shown here]`
    case 'resource_link':
      return `[a link: ${plainly(uri)}${typeof name === 'string' ? `, ${name}` : ''}]`
    case 'resource': {
      const { uri: at, text: inside, blob, mimeType: of } = (resource ?? {}) as Record<string, unknown>
      if (typeof inside === 'string') return `[${plainly(at)}]\n${inside}`
      return `[${plainly(at)}, ${typeof of === 'string' ? of : 'of no known kind'}, ${bytesIn(blob)} bytes: it cannot be shown here]`
    }
    default:
      return `[a part of the type ${JSON.stringify(plainly(type).slice(0, 64))}, which is not known here]`
  }
}

const plainly = (value: unknown): string => (typeof value === 'string' ? value : 'unknown')

/** Of Base64. */
const bytesIn = (data: unknown): number => (typeof data === 'string' ? Math.floor((data.length * 3) / 4) : 0)

const wordsOf = (error: unknown): string =>
  (error instanceof Error ? error.message : String(error)).slice(0, MOST_WORDS)

/** Why a request failed, where that is not in the words of the failure: the code of the network, or what it says. */
function reasonOf(error: unknown): string | undefined {
  if (!(error instanceof TypeError && error.cause instanceof Error)) return undefined
  const { code } = error.cause as NodeJS.ErrnoException
  return typeof code === 'string' ? code : error.cause.message.slice(0, MOST_REASON)
}

const revealed = (secrets: Record<string, Secret>): Record<string, string> =>
  Object.fromEntries(Object.entries(secrets).map(([name, secret]) => [name, secret.reveal()]))

/** Takes values out of a text, the longest first. A short one stands for other things, too. */
function hiding(secrets: Record<string, Secret>): (text: string) => string {
  const values = Object.values(secrets)
    .flatMap((secret) => [secret.reveal(), ...secret.reveal().split(/[\s;,=]+/)])
    .filter((value) => value.length >= 8)
    .toSorted((one, other) => other.length - one.length)
  return (text) => values.reduce((hidden, value) => hidden.replaceAll(value, '[hidden]'), text)
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

/** Servers that speak the Model Context Protocol, as programs and over HTTP: real ones, that speak it in plain lines. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { inspect } from 'node:util'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { ForeignTool, ToolLine } from '../../src/broker/tool-servers.ts'
import type { McpServerConfig } from '../../src/config/config.ts'
import { Secret } from '../../src/config/secret.ts'
import { mcpLines } from '../../src/tools/mcp.ts'
import {
  type HttpOptions,
  type HttpToolServer,
  isAlive,
  startHttpToolServer,
  TOOL_SERVER,
} from '../support/tool-server.ts'

const KEY = 'a-key-that-is-secret-0123'

interface OpenedLine extends ToolLine {
  tools: ForeignTool[]
  /** What it told of itself. */
  said: string[]
  lost: Promise<string>
  changed: Promise<ForeignTool[]>
  /** Every list of other tools that it told. */
  lists: ForeignTool[][]
  /** Whether it was told that it is lost. */
  readonly isLost: boolean
}

let left: (() => Promise<unknown>)[]
let folder: string
beforeEach(() => {
  left = []
  folder = mkdtempSync(join(tmpdir(), 'mcp-'))
})
afterEach(async () => {
  for (const end of left) await end()
  rmSync(folder, { recursive: true, force: true })
})

const ENV = {
  PATH: process.env['PATH'],
  HOME: '/home/somebody',
  TZ: 'UTC',
  GATEWAY_TOKEN: 'of the gateway',
  LANG: undefined,
}

function line(reach: McpServerConfig['reach']): OpenedLine {
  const said: string[] = []
  const lost = Promise.withResolvers<string>()
  const changed = Promise.withResolvers<ForeignTool[]>()
  const lists: ForeignTool[][] = []
  let isLost = false
  const opened = mcpLines({ env: ENV, version: '1.2.3' })(
    { name: 's', reach, timeoutMs: 60_000, startMs: 60_000 },
    {
      onSaid: (text) => void said.push(text),
      onTools(tools) {
        lists.push(tools)
        changed.resolve(tools)
      },
      onLost(why) {
        isLost = true
        lost.resolve(why)
      },
    },
  )
  left.push(() => opened.close())
  return Object.defineProperty(
    { ...opened, tools: [], said, lost: lost.promise, changed: changed.promise, lists, isLost },
    'isLost',
    {
      get: () => isLost,
    },
  )
}

async function open(reach: McpServerConfig['reach']): Promise<OpenedLine> {
  const opened = line(reach)
  opened.tools = await opened.open()
  return opened
}

const program = (args: string[] = [], env: { [name: string]: string } = {}): McpServerConfig['reach'] => ({
  command: process.execPath,
  args: ['--disable-warning=ExperimentalWarning', TOOL_SERVER, ...args],
  env: Object.fromEntries(Object.entries(env).map(([name, value]) => [name, new Secret(value)])),
})

async function serve(options?: HttpOptions): Promise<HttpToolServer> {
  const server = await startHttpToolServer(options)
  left.push(server.close)
  return server
}

const address = ({ url }: HttpToolServer): McpServerConfig['reach'] => ({
  url,
  headers: { authorization: new Secret(`Bearer ${KEY}`) },
})

const call = (
  opened: ToolLine,
  tool: string,
  args: Record<string, unknown> = {},
  signal = new AbortController().signal,
) => opened.call(tool, args, signal)

const pause = () => new Promise((resolve) => setTimeout(resolve, 10))

const WAYS: [string, () => Promise<McpServerConfig['reach']>][] = [
  ['a program', async () => program([], { FAKE_KEY: KEY })],
  ['an address', async () => address(await serve())],
  ['an address that answers in events', async () => address(await serve({ events: true }))],
]

describe.each(WAYS)('%s', (_, reach) => {
  it('says which tools it has, and does what they are asked', async () => {
    const opened = await open(await reach())
    expect(opened.tools.slice(0, 2)).toEqual([
      {
        name: 'echo',
        description: 'Says it again.',
        schema: { type: 'object', properties: { text: { type: 'string' } }, required: ['text'] },
      },
      { name: 'environment', description: '', schema: { type: 'object', properties: {}, required: [] } },
    ])
    expect(opened.tools.find(({ name }) => name === 'picture')!.description).toBe('Shows a picture.')
    expect(await call(opened, 'echo', { text: 'wörld\n😀' })).toEqual({ text: 'wörld\n😀', isError: false })
    expect((await call(opened, 'large', { size: 3_000_000 })).text).toHaveLength(3_000_000)
  })

  it('answers calls in whatever order it likes, and is told whose answer nobody waits for', async () => {
    const opened = await open(await reach())
    const impatience = new AbortController()
    const hanging = call(opened, 'hang', {}, impatience.signal)
    const given = expect(hanging).rejects.toThrow('nobody waits')
    expect((await call(opened, 'echo', { text: 'first' })).text).toBe('first')
    impatience.abort(new Error('nobody waits'))
    await given
    const asked = async () => (await call(opened, 'calls')).text
    while (!(await asked()).includes('notifications/cancelled')) await pause()
    expect(opened.isLost).toBe(false)
  })

  it('says that its tools are others now', async () => {
    const opened = await open(await reach())
    expect((await call(opened, 'change')).text).toBe('changed')
    expect((await opened.changed).map(({ name }) => name)).toContain('late')
  })

  it('tells what failed and why, and what cannot be shown', async () => {
    const opened = await open(await reach())
    expect(await call(opened, 'fail')).toEqual({ text: 'it is broken', isError: true })
    await expect(call(opened, 'refuse')).rejects.toThrow('not with these arguments')
    const betrayed = await call(opened, 'betray', { key: KEY }).catch((error: unknown) => error)
    expect(inspect(betrayed)).toContain('not with [hidden]')
    expect(inspect(betrayed, { depth: null, showHidden: true })).not.toContain(KEY)
    expect((await call(opened, 'picture')).text.split('\n')).toEqual([
      'here:',
      '[an image, image/png, 3 bytes: it cannot be shown here]',
      '[a link: file:///a.txt, a]',
      '[file:///b.txt]',
      'inside',
      '[a part of the type "of tomorrow", which is not known here]',
    ])
  })

  it('with many parts in a result is read up to 256 of them, or 100,000 characters, and told of the rest', async () => {
    const opened = await open(await reach())
    const parts = async (count: number, size: number) => (await call(opened, 'parts', { count, size })).text.split('\n')
    expect(await parts(256, 1)).toEqual(Array(256).fill('x'))
    expect(await parts(1_000, 1)).toEqual([
      '[744 of 1000 parts of this result are left out, at its end]',
      ...Array(256).fill('x'),
    ])
    const long = 'x'.repeat(60_000)
    expect(await parts(5, 60_000)).toEqual(['[3 of 5 parts of this result are left out, at its end]', long, long])
  })

  it('may nest a structure, which is told when there is nothing else', async () => {
    const opened = await open(await reach())
    expect(await call(opened, 'deep', { depth: 500 })).toEqual({
      text: '['.repeat(500) + ']'.repeat(500),
      isError: false,
    })
    const { text } = await call(opened, 'deep', { depth: 90_000 })
    expect(text).toBe('[a structure, nested too deep to be shown here]')
  })

  it.each([
    ['deep', { depth: 2_000_000 }, 'it sent a message that is nested too deep'],
    ['zeros', { count: 2_000_000 }, 'it sent a message of too many values'],
  ])('that sends what is costly to read is lost, and nothing of it is read: %s', async (tool, args, why) => {
    const opened = await open(await reach())
    const fails = expect(call(opened, tool, args)).rejects.toThrow()
    expect(await opened.lost).toBe(why)
    await opened.close()
    await fails
  })

  it('that goes away in the middle of a call is lost before the call fails', async () => {
    const opened = await open(await reach())
    const fails = expect(call(opened, 'die')).rejects.toThrow()
    await opened.lost
    // Whoever hears of it closes the line.
    await opened.close()
    await fails
  })

  it('can be closed while it is asked something, and twice', async () => {
    const opened = await open(await reach())
    const fails = expect(call(opened, 'hang')).rejects.toThrow()
    await Promise.all([opened.close(), opened.close()])
    await fails
    expect(opened.isLost).toBe(false)
  })
})

describe('a list of tools', () => {
  it('is asked for one at a time, and once more for what has changed meanwhile', async () => {
    const opened = await open(address(await serve({ isHolding: true })))
    const listed = async () => (await call(opened, 'calls')).text.match(/tools\/list/g)!.length
    await call(opened, 'change')
    while ((await listed()) < 2) await pause()
    for (let times = 0; times < 3; times++) await call(opened, 'change')
    // By now it could have asked for the next one.
    await new Promise((resolve) => setTimeout(resolve, 500))
    expect(await listed()).toBe(2)
    await call(opened, 'release')
    while (opened.lists.length < 2) await pause()
    expect(opened.lists.map((tools) => tools.filter(({ name }) => name === 'late').length)).toEqual([1, 4])
    expect(await listed()).toBe(3)
  })

  it('is read over all its pages', async () => {
    const opened = await open(program(['--page', '3', '--many', '40']))
    expect(opened.tools).toHaveLength(52)
    expect(opened.tools.at(-1)!.name).toBe('more39')
  })

  it('with odd entries is not lost because of them', async () => {
    const { tools } = await open(program(['--ill']))
    expect(tools.slice(12).map(({ name }) => name)).toEqual([
      'slow',
      'wrong',
      'text',
      'none',
      'yes',
      'deep',
      'huge',
      'wordy',
    ])
    expect(tools.find(({ name }) => name === 'text')!.schema).toEqual({ type: 'string' })
  })
})

describe('a program', () => {
  it('gets PATH, HOME, LANG, TZ and what its configuration says, and nothing of the gateway', async () => {
    const opened = await open(program([], { FAKE_KEY: KEY, TZ: 'Asia/Ulaanbaatar' }))
    const environment = JSON.parse((await call(opened, 'environment')).text)
    expect(environment).toEqual({ PATH: ENV.PATH, HOME: ENV.HOME, TZ: 'Asia/Ulaanbaatar', FAKE_KEY: KEY })
  })

  it('may talk besides the protocol: that is told, without its secrets', async () => {
    const opened = await open(program(['--noise'], { FAKE_KEY: KEY }))
    expect((await call(opened, 'echo', { text: 'well' })).text).toBe('well')
    while (opened.said.length < 2) await pause()
    expect(opened.said.toSorted()).toEqual(['my key is [hidden]', 'this is no JSON'])
  })

  it('that ends says how', async () => {
    const opened = await open(program())
    call(opened, 'die', { code: 3 }).catch(() => {})
    expect(await opened.lost).toBe('it ended with code 3')
  })

  it('that is not there is named', async () => {
    const opened = line({ command: 'no-such-program-here', args: [], env: {} })
    await expect(opened.open()).rejects.toThrow('no-such-program-here could not be started (ENOENT); is it installed?')
  })

  it('that ends at once is no server', async () => {
    const opened = line(program(['--quit', '7']))
    await expect(opened.open()).rejects.toThrow()
    expect(await opened.lost).toBe('it ended with code 7')
  })

  it.each([
    ['whole lines', 'starting\nno database\n', 'no database'],
    ['no end of the line', 'no database', 'no database'],
    [
      'the trace of an error',
      'Error: no database\n    at main (a.js:1:1) {\n  code: 7\n}\n\nNode.js v22.1.0\n',
      'Error: no database',
    ],
    ['its secret', `no ${KEY} here\n`, 'no [hidden] here'],
    ['too much', `${'x'.repeat(5_000)}\n`, 'x'.repeat(300)],
  ])('that ends is quoted with what it said last: %s', async (_, last, quoted) => {
    const opened = line(program(['--last', last, '--quit', '7'], { FAKE_KEY: KEY }))
    await expect(opened.open()).rejects.toThrow()
    expect(await opened.lost).toBe(`it ended with code 7: ${quoted}`)
  })

  it('that never answers can be closed', async () => {
    const opened = line(program(['--silent']))
    const fails = expect(opened.open()).rejects.toThrow()
    await pause()
    await opened.close()
    await fails
  })

  it('that sends a line without end is lost', async () => {
    const opened = await open(program())
    const fails = expect(call(opened, 'large', { size: 11 * 1024 * 1024 })).rejects.toThrow()
    expect(await opened.lost).toBe('it sent a line that is too long')
    await opened.close()
    await fails
  })

  it('that does not want to end is killed, with what it started', async () => {
    const file = join(folder, 'ids')
    const opened = await open(program(['--stubborn', file]))
    while (!existsSync(file)) await pause()
    const ids: number[] = JSON.parse(readFileSync(file, 'utf8'))
    expect(ids.map(isAlive)).toEqual([true, true])
    await opened.close()
    while (ids.some(isAlive)) await pause()
  })

  it('that is killed leaves nothing of what it started', async () => {
    const file = join(folder, 'ids')
    const opened = await open(program(['--stubborn', file]))
    while (!existsSync(file)) await pause()
    const ids: number[] = JSON.parse(readFileSync(file, 'utf8'))
    process.kill(ids[0]!, 'SIGKILL')
    expect(await opened.lost).toBe('it was ended by SIGKILL')
    await opened.close()
    while (ids.some(isAlive)) await pause()
  })
})

describe('a gateway that ends', () => {
  const starter = fileURLToPath(new URL('../../src/tools/program.ts', import.meta.url))

  /** Starts a program from a process of its own, which then does as it is told. */
  async function startedBy(args: string[], ending: string): Promise<void> {
    const silent = '{ onLine() {}, onSaid() {}, onGone() {} }'
    const needs = JSON.stringify({ command: process.execPath, args: [TOOL_SERVER, ...args], env: {} })
    const source = `import { createProgram } from ${JSON.stringify(starter)}
      import { existsSync } from 'node:fs'
      await createProgram({ ...${needs}, ...${silent} }).start()
      while (!existsSync(${JSON.stringify(join(folder, 'ids'))})) await new Promise((resolve) => setTimeout(resolve, 10))
      ${ending}`
    const child = spawn(process.execPath, ['--input-type=module', '-e', source], { stdio: 'ignore' })
    await once(child, 'exit')
  }

  it('without having closed its programs kills them', async () => {
    await startedBy(['--stubborn', join(folder, 'ids')], 'process.exit(1)')
    const ids: number[] = JSON.parse(readFileSync(join(folder, 'ids'), 'utf8'))
    expect(ids).toHaveLength(2)
    while (ids.some(isAlive)) await pause()
  })

  it('by a kill closes their input, at which they end', async () => {
    await startedBy(['--id', join(folder, 'ids')], "process.kill(process.pid, 'SIGKILL')")
    const [id] = JSON.parse(readFileSync(join(folder, 'ids'), 'utf8')) as number[]
    while (isAlive(id!)) await pause()
  })
})

describe('an address', () => {
  it('gets the configured headers with every request, and a goodbye', async () => {
    const server = await serve()
    const opened = await open(address(server))
    await call(opened, 'echo', { text: 'x' })
    await opened.close()
    expect(server.requests.map(({ method }) => method)).toEqual(expect.arrayContaining(['POST', 'GET', 'DELETE']))
    for (const { headers } of server.requests) expect(headers.authorization).toBe(`Bearer ${KEY}`)
    expect(server.requests.at(-1)).toMatchObject({ method: 'DELETE', headers: { 'mcp-session-id': 'a-session' } })
  })

  it('that leads elsewhere is not followed, whether that is another host or not', async () => {
    const elsewhere = await serve()
    const server = await serve({ redirect: elsewhere.url })
    const opened = line(address(server))
    await expect(opened.open()).rejects.toThrow(
      /^127\.0\.0\.1:\d+ leads elsewhere \(HTTP 307\), which is not followed$/,
    )
    const home = await serve({ redirect: '/other' })
    await expect(line(address(home)).open()).rejects.toThrow('leads elsewhere')
    expect([elsewhere.requests.length, server.requests.length, home.requests.length]).toEqual([0, 1, 1])
  })

  it('that refuses is told by its status, and that nobody is there by the reason', async () => {
    await expect(line(address(await serve({ status: 401 }))).open()).rejects.toThrow(/answered with HTTP 401$/)
    const gone = await serve()
    await gone.close()
    await expect(line(address(gone)).open()).rejects.toThrow(/cannot be reached \(ECONNREFUSED\)$/)
    // No browser asks this port either.
    const never = line({ url: 'http://127.0.0.1:1/mcp', headers: {} })
    await expect(never.open()).rejects.toThrow(/^127\.0\.0\.1:1 cannot be reached \(bad port\)$/)
    expect(await never.lost).toBe('127.0.0.1:1 cannot be reached (bad port)')
  })

  it('with a header that HTTP cannot carry is not asked, and the header is not told', async () => {
    const { url } = await serve()
    const opened = line({ url, headers: { authorization: new Secret(`${KEY}\n`), other: new Secret(`${KEY}\u0000`) } })
    await expect(opened.open()).rejects.toThrow(/^a header holds characters that HTTP cannot carry$/)
  })

  it('with a password in it is not asked, and the password is not told', async () => {
    const { port } = await serve()
    const opened = line({ url: `http://somebody:${KEY}@127.0.0.1:${port}/mcp`, headers: {} })
    await expect(opened.open()).rejects.toThrow(
      /^its address has a name or a password in it; give them in its headers$/,
    )
  })

  it('that sends a message without end is lost', async () => {
    const opened = await open(address(await serve({ events: true })))
    const fails = expect(call(opened, 'large', { size: 11 * 1024 * 1024 })).rejects.toThrow()
    expect(await opened.lost).toBe('it sent a message that is too long')
    await opened.close()
    await fails
  })

  it('where another server listens now is lost at the next call', async () => {
    const server = await serve()
    const opened = await open(address(server))
    await server.close()
    await serve({ port: server.port, status: 404 })
    await expect(call(opened, 'echo', { text: 'x' })).rejects.toThrow()
    expect(await opened.lost).toMatch(/forgotten this line|cannot be reached/)
  })
})

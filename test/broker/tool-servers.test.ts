/** Which tools of other programs are there, what they are called, and what becomes of a call whose server goes away. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { createToolServers, type ForeignTool, type LineEars, type ToolServers } from '../../src/broker/tool-servers.ts'
import type { Tool } from '../../src/broker/toolbox.ts'
import type { McpServerConfig } from '../../src/config/config.ts'
import type { RunRecord } from '../../src/stores/store.ts'

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

const foreign = (name: string, changes: Partial<ForeignTool> = {}): ForeignTool => ({
  name,
  description: '',
  schema: { type: 'object' },
  ...changes,
})

const config = (name: string, changes: Partial<McpServerConfig> = {}): McpServerConfig => ({
  name,
  reach: { command: 'x', args: [], env: {} },
  timeoutMs: 60_000,
  startMs: 20_000,
  ...changes,
})

/** A line that a test holds the other end of. */
interface FakeLine {
  server: string
  ears: LineEars
  opened: PromiseWithResolvers<ForeignTool[]>
  called: PromiseWithResolvers<{ text: string }>
  closed: PromiseWithResolvers<void>
  closes: number
}

function open(servers: McpServerConfig[]) {
  const lines: FakeLine[] = []
  const logged: { message: string; [detail: string]: unknown }[] = []
  const warned: string[] = []
  const write = (details: object, message: string) => void logged.push({ ...details, message })
  const warn = (details: object, message: string) => {
    warned.push(message)
    write(details, message)
  }
  const toolServers = createToolServers({
    servers,
    openLine({ name }, ears) {
      const line: FakeLine = {
        server: name,
        ears,
        opened: Promise.withResolvers(),
        called: Promise.withResolvers(),
        closed: Promise.withResolvers(),
        closes: 0,
      }
      lines.push(line)
      return {
        open: () => line.opened.promise,
        call: () => line.called.promise,
        close() {
          line.closes += 1
          return line.closed.promise
        },
      }
    },
    log: { trace: write, debug: write, info: write, warn, error: warn },
    monotonic: () => Date.now(),
    random: () => 0,
  })
  return { toolServers, lines, logged, warned }
}

const settle = () => vi.advanceTimersByTimeAsync(1)
const names = (toolServers: ToolServers, agentId = 'main') => toolServers.tools(agentId).map(({ name }) => name)
const call = (tool: Tool, signal = new AbortController().signal) =>
  tool.call({}, { run: {} as RunRecord, isOutside: false }, signal)

async function ready(servers: McpServerConfig[], ...tools: ForeignTool[][]) {
  const opened = open(servers)
  opened.toolServers.start()
  await settle()
  for (const [n, list] of tools.entries()) opened.lines[n]!.opened.resolve(list)
  await settle()
  return opened
}

describe('the tools of a server', () => {
  it('are there when it is ready, and gone when it is', async () => {
    const { toolServers, lines, logged } = open([config('files')])
    expect(lines).toEqual([])
    toolServers.start()
    await settle()
    expect(names(toolServers)).toEqual([])
    lines[0]!.opened.resolve([foreign('read'), foreign('write')])
    await settle()
    expect(names(toolServers)).toEqual(['files__read', 'files__write'])
    expect(logged).toContainEqual({ message: 'a tool server is ready', server: 'files', tools: 2 })
    lines[0]!.ears.onLost('it ended with code 1')
    await settle()
    expect(names(toolServers)).toEqual([])
  })

  it('are for the agents that the configuration names', async () => {
    const servers = [config('all'), config('few', { agents: ['writer'] })]
    const { toolServers } = await ready(servers, [foreign('a')], [foreign('b')])
    expect(names(toolServers, 'writer')).toEqual(['all__a', 'few__b'])
    expect(names(toolServers, 'main')).toEqual(['all__a'])
    expect(toolServers.missing!('main', 'few__b')).toBeUndefined()
  })

  it('change when it says so', async () => {
    const { toolServers, lines } = await ready([config('s')], [foreign('old')])
    lines[0]!.ears.onTools([foreign('new')])
    expect(names(toolServers)).toEqual(['s__new'])
  })

  it('that are no longer there are known for ten minutes, to those who had them', async () => {
    const servers = [config('s', { agents: ['main'] })]
    const { toolServers, lines } = await ready(servers, [foreign('old'), foreign('kept')])
    const missing = (name: string, agentId = 'main') => toolServers.missing!(agentId, name)
    lines[0]!.ears.onTools([foreign('kept')])
    expect(missing('s__old')).toBe('the tool s__old is no longer there: the tool server s has other tools now')
    expect([missing('s__old', 'writer'), missing('s__never'), missing('s__kept')]).toEqual(Array(3).fill(undefined))
    lines[0]!.ears.onTools([foreign('old')])
    expect(missing('s__old')).toBeUndefined()
    lines[0]!.ears.onTools([])
    await vi.advanceTimersByTimeAsync(10 * 60_000)
    expect(missing('s__old')).toContain('no longer there')
    await vi.advanceTimersByTimeAsync(1)
    expect(missing('s__old')).toBeUndefined()
  })

  it('that were there under ever new names are known for a thousand of them', async () => {
    const { toolServers, lines } = await ready([config('s')], [])
    for (let n = 0; n <= 1_001; n++) lines[0]!.ears.onTools([foreign(`t${n}`)])
    expect(toolServers.missing!('main', 's__t0')).toBeUndefined()
    expect(toolServers.missing!('main', 's__t1')).toContain('no longer there')
  })

  it('have names that models can be told, each its own, and the log says which are numbered', async () => {
    const long = 'x'.repeat(80)
    const { toolServers, logged } = await ready(
      [config('a'), config('a__b')],
      [foreign('read file'), foreign('read.file'), foreign('läs'), foreign(long), foreign(`${long}y`), foreign('b__c')],
      [foreign('c')],
    )
    expect(names(toolServers)).toEqual([
      'a__read_file',
      'a__read_file_2',
      'a__l_s',
      `a__${'x'.repeat(61)}`,
      `a__${'x'.repeat(59)}_2`,
      'a__b__c',
      'a__b__c_2',
    ])
    for (const name of names(toolServers)) expect(name).toMatch(/^[A-Za-z0-9_-]{1,64}$/)
    const renamed = logged.filter(({ message }) => message === 'a tool has the name of another')
    expect(renamed.map(({ name }) => name)).toEqual(expect.arrayContaining(['a__read_file_2', 'a__b__c_2']))
  })

  it('are 128 at the most, with descriptions of 2,000 characters, and without those of huge schemas', async () => {
    const many = Array.from({ length: 200 }, (_, n) => foreign(`t${n}`, { description: '😀'.repeat(2_000) }))
    const { toolServers, logged } = await ready(
      [config('s')],
      [foreign('huge', { schema: { type: 'object', title: 'x'.repeat(60_000) } }), ...many],
    )
    const tools = toolServers.tools('main')
    expect(tools).toHaveLength(128)
    expect(tools[0]!.name).toBe('s__t0')
    expect(tools[0]!.description).toBe('😀'.repeat(1_000))
    expect(logged.filter(({ message }) => message.startsWith('tools are left out'))).toMatchObject([
      { tools: 1 },
      { tools: 200, most: 128 },
    ])
  })

  it('are without those whose schemas are nested more than 32 deep, and the others do not care', async () => {
    const nested = (depth: number) => {
      let schema: object = {}
      for (let deep = 1; deep < depth; deep++) schema = deep % 2 ? { items: schema } : { anyOf: [schema] }
      return schema
    }
    let lists: unknown[] = []
    for (let deep = 1; deep < 32; deep++) lists = [lists]
    const { toolServers, logged } = await ready(
      [config('s')],
      [
        foreign('deep', { schema: { properties: lists } }),
        foreign('deeper', { schema: nested(100_000) }),
        foreign('fine', { schema: nested(20) }),
        foreign('deepest', { schema: { type: 'object', properties: lists[0] } }),
      ],
    )
    expect(names(toolServers)).toEqual(['s__fine', 's__deepest'])
    expect(JSON.stringify(toolServers.tools('main'))).toContain('anyOf')
    expect(logged).toContainEqual({
      message: 'tools are left out: their schemas are nested too deep',
      server: 's',
      tools: 2,
      most: 32,
    })
  })

  it('are told to models with a schema of an object, whatever the server says it is', async () => {
    const schemas = [
      { type: 'object', properties: { a: {} } },
      { required: ['a'] },
      { type: 'string' },
      true,
      null,
      [],
      undefined,
    ]
    const { toolServers } = await ready(
      [config('s')],
      schemas.map((schema, n) => foreign(`t${n}`, { schema })),
    )
    expect(toolServers.tools('main').map(({ parameters }) => parameters)).toEqual([
      { type: 'object', properties: { a: {} } },
      { type: 'object', required: ['a'] },
      ...Array(5).fill({ type: 'object' }),
    ])
  })
})

describe('a call', () => {
  it('whose server goes away is told that, and not what the line failed with', async () => {
    const { toolServers, lines } = await ready([config('s')], [foreign('t')])
    const [tool] = toolServers.tools('main')
    const answer = call(tool!)
    const refused = expect(answer).rejects.toThrow('the tool server s went away; it is being restarted')
    lines[0]!.ears.onLost('it ended')
    lines[0]!.called.reject(new Error('Connection closed'))
    await refused
  })

  it('that its server refuses is told why', async () => {
    const { toolServers, lines } = await ready([config('s')], [foreign('t')])
    const answer = call(toolServers.tools('main')[0]!)
    const refused = expect(answer).rejects.toThrow('not like this')
    lines[0]!.called.reject(new Error('not like this'))
    await refused
  })

  it('of a tool that was there a moment ago is told that, until it is there again', async () => {
    const { toolServers, lines } = await ready([config('s')], [foreign('t')])
    const [tool] = toolServers.tools('main')
    expect(toolServers.missing!('main', 's__t')).toBeUndefined()
    lines[0]!.ears.onLost('it ended')
    await settle()
    expect(toolServers.missing!('main', 's__t')).toBe('the tool server s went away; it is being restarted')
    expect(toolServers.missing!('main', 'other__t')).toBeUndefined()
    await expect(call(tool!)).rejects.toThrow('went away')
    lines[0]!.closed.resolve()
    await vi.advanceTimersByTimeAsync(200)
    lines[1]!.opened.resolve([foreign('t')])
    await settle()
    lines[1]!.called.resolve({ text: 'here again' })
    expect(await call(toolServers.tools('main')[0]!)).toEqual({ text: 'here again' })
  })
})

describe('a server', () => {
  it('that goes away is closed before it is opened again', async () => {
    const { lines } = await ready([config('s')], [foreign('t')])
    lines[0]!.ears.onLost('it ended')
    await vi.advanceTimersByTimeAsync(5_000)
    expect([lines.length, lines[0]!.closes]).toEqual([1, 1])
    lines[0]!.closed.resolve()
    await vi.advanceTimersByTimeAsync(150)
    expect(lines).toHaveLength(2)
  })

  it('that cannot be opened is tried six times, then rests, and its neighbours do not care', async () => {
    const { toolServers, lines, logged } = await ready([config('good'), config('bad')], [foreign('t')])
    const bad = () => lines.filter(({ server }) => server === 'bad')
    for (let n = 0; n < 6; n += 1) {
      bad().at(-1)!.opened.reject(new Error('no such program'))
      bad().at(-1)!.closed.resolve()
      await vi.advanceTimersByTimeAsync(5_000)
    }
    expect(bad()).toHaveLength(6)
    const why = 'no such program'
    const failed = logged.filter(({ message }) => message === 'a tool server is not there')
    expect(failed).toEqual(Array(6).fill({ message: 'a tool server is not there', server: 'bad', why }))
    expect(logged.at(-1)).toMatchObject({ message: 'a tool server failed too often; it rests', server: 'bad', why })
    expect(names(toolServers)).toEqual(['good__t'])
    await vi.advanceTimersByTimeAsync(60_000)
    expect(bad()).toHaveLength(7)
  })

  it('that cannot be opened is spoken of with the reason, and warned of once for each', async () => {
    const { toolServers, lines, warned } = await ready([config('s', { startMs: 1_000_000 })])
    const fail = async (why: string) => {
      lines.at(-1)!.opened.reject(new Error(why))
      lines.at(-1)!.closed.resolve()
      await vi.advanceTimersByTimeAsync(61_000)
    }
    const missing = () => toolServers.missing!('main', 's__t')
    expect(missing()).toBe('the tool server s is not there yet; it is being started')
    await fail('no such program')
    expect(missing()).toBe('the tool server s could not be started (no such program); it is tried again')
    await fail('no such program')
    await fail('it ended with code 1')
    expect(missing()).toBe('the tool server s could not be started (it ended with code 1); it is tried again')
    expect(warned).toEqual(Array(2).fill('a tool server is not there'))
    lines.at(-1)!.opened.resolve([foreign('t')])
    await settle()
    expect(missing()).toBeUndefined()
    lines.at(-1)!.ears.onLost('it ended with code 1')
    await settle()
    expect(missing()).toBe('the tool server s went away; it is being restarted')
    expect(warned).toHaveLength(3)
    await fail('nobody listens')
    await fail('no such program')
    expect(missing()).toBe('the tool server s went away, and could not be started (no such program); it is tried again')
  })

  it('that fails too often for one reason is an error once', async () => {
    const { lines, warned, logged } = await ready([config('s')])
    for (let n = 0; n < 18; n += 1) {
      lines.at(-1)!.opened.reject(new Error('no such program'))
      lines.at(-1)!.closed.resolve()
      await vi.advanceTimersByTimeAsync(n % 6 === 5 ? 60_000 : 5_000)
    }
    expect(logged.filter(({ message }) => message.endsWith('it rests')).length).toBeGreaterThan(1)
    expect(warned).toEqual(['a tool server is not there', 'a tool server failed too often; it rests'])
  })

  it('that is slow to start is closed, and what it says later is not heard', async () => {
    const { toolServers, lines } = await ready([config('s', { startMs: 1_000 })])
    await vi.advanceTimersByTimeAsync(1_000)
    expect(lines[0]!.closes).toBe(1)
    lines[0]!.opened.resolve([foreign('late')])
    lines[0]!.ears.onTools([foreign('later')])
    await settle()
    expect(names(toolServers)).toEqual([])
    expect(toolServers.missing!('main', 's__later')).toBe(
      'the tool server s could not be started (it was not ready within 1 s); it is tried again',
    )
  })

  it('is closed when all are stopped, which is over when they are', async () => {
    const { toolServers, lines } = await ready([config('a'), config('b')], [foreign('t')])
    let isOver = false
    const stopped = toolServers.stop().then(() => {
      isOver = true
    })
    await settle()
    expect(lines.map(({ closes }) => closes)).toEqual([1, 1])
    lines[0]!.closed.resolve()
    await settle()
    expect(isOver).toBe(false)
    lines[1]!.closed.resolve()
    await stopped
    await vi.advanceTimersByTimeAsync(100_000)
    expect(lines).toHaveLength(2)
  })

  it('is stopped at once when it was never begun, or there is none', async () => {
    await open([config('a')]).toolServers.stop()
    await open([]).toolServers.stop()
  })

  it('that says more than twenty lines in a second is quoted with twenty of them, cut', async () => {
    const { lines, logged } = await ready([config('s')], [])
    for (let n = 0; n < 100; n += 1) lines[0]!.ears.onSaid('x'.repeat(5_000))
    const said = logged.filter(({ message }) => message === 'a tool server says')
    expect(said).toHaveLength(20)
    expect(said[0]!['line']).toBe('x'.repeat(2_000))
  })
})

/** An agent that is a program with the Python client, at a gateway of this process, by a way that can be cut. */
import { execFileSync, spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { endOf, type Frame, type Peer, startGateway, type TestGateway, TOKEN } from '../support/gateway.ts'
import { type Cutter, startCutter } from './cutter.ts'

const python = process.env['KURULTAI_TEST_PYTHON'] ?? '/usr/bin/python3'
const library = fileURLToPath(new URL('../../src/client/python', import.meta.url))
const program = fileURLToPath(new URL('python-connector.py', import.meta.url))
const env = { PATH: process.env['PATH'], PYTHONPATH: library, PYTHONDONTWRITEBYTECODE: '1', PYTHONIOENCODING: 'utf-8' }
const has = (module: string): boolean => {
  try {
    execFileSync(python, ['-c', `import ${module}`], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

let folder: string
let gateway: TestGateway
let cutter: Cutter
let operator: Peer
const ends: (() => unknown)[] = []

/** A program that runs; what it has said so far, and the first line that fits. */
async function run(file: string, args: string[]) {
  const child = spawn(python, [file, ...args], { env })
  ends.push(() => child.kill('SIGKILL'))
  const said: Frame[] = []
  const waiting = new Set<() => void>()
  let complaint = ''
  let isOver = false
  const look = () => {
    for (const one of waiting) one()
  }
  child.stderr.on('data', (data) => {
    complaint += data
  })
  child.on('close', () => {
    isOver = true
    look()
  })
  createInterface({ input: child.stdout }).on('line', (line) => {
    said.push(JSON.parse(line) as Frame)
    look()
  })
  return {
    said,
    kill: () => child.kill('SIGKILL'),
    until: (fits: (line: Frame) => boolean) =>
      new Promise<Frame>((resolve, reject) => {
        const one = () => {
          const found = said.find(fits)
          if (!found && !isOver) return
          waiting.delete(one)
          if (found) resolve(found)
          else reject(new Error(`it ended: ${JSON.stringify(said)}\n${complaint}`))
        }
        waiting.add(one)
        one()
      }),
  }
}

async function become(name: string, url = cutter.url) {
  const agent = await run(program, [url, TOKEN, join(folder, `${name}.key`), name])
  await agent.until(({ ready }) => ready)
  return agent
}

let turns = 0
async function ask(order: object, agentId = 'writer'): Promise<{ runId: string; end: Promise<Frame> }> {
  const runId = `turn-${++turns}`
  const params = { sessionKey: `agent:${agentId}:main`, message: JSON.stringify(order), idempotencyKey: runId }
  const { ok, error } = await operator.request('chat.send', params)
  if (!ok) throw new Error(error.message)
  return { runId, end: operator.next(endOf(runId)).then(({ payload }) => payload) }
}
const textOf = (payload: Frame) => payload['message'].content[0].text

describe('an agent by the Python client', () => {
  beforeEach(async (context) => {
    context.skip(!has('websockets'), `${python} has no websockets: apt-get install python3-websockets`)
    context.skip(!has('cryptography'), `${python} has no cryptography: apt-get install python3-cryptography`)
    folder = mkdtempSync(join(tmpdir(), 'kurultai-python-'))
    const runtime = { type: 'connector' }
    gateway = await startGateway({
      config: {
        agents: { list: [{ id: 'main' }, { id: 'writer', runtime }, { id: 'reader', runtime }] },
        tools: { agentToAgent: { enabled: true, allow: ['*'] } },
      },
    })
    cutter = await startCutter(gateway.port)
    operator = await gateway.connect()
  })
  afterEach(async () => {
    for (const end of ends.splice(0).reverse()) await end()
    await cutter?.[Symbol.asyncDispose]()
    await gateway?.stop()
    if (folder) rmSync(folder, { recursive: true, force: true })
  })

  it('says its answer to the letter, however often it is cut off', async () => {
    const agent = await become('writer')
    const { end } = await ask({ do: 'count', to: 60, every: 10 })
    for (const number of [9, 29, 49]) {
      await agent.until(({ said }) => said === number)
      const before = cutter.count
      cutter.cut()
      await expect.poll(() => cutter.count, { timeout: 10_000 }).toBeGreaterThan(before)
    }
    const payload = await end
    expect(payload['state']).toBe('final')
    expect(textOf(payload)).toBe(Array.from({ length: 60 }, (_, number) => `${number} 🐴 `).join(''))
    expect(agent.said.filter(({ asked }) => asked)).toHaveLength(1)
  })

  it('asks another agent, once, though its connection is cut meanwhile', async () => {
    await become('writer')
    const reader = await become('reader', gateway.url)
    const { end } = await ask({ do: 'send', to: 'reader', message: '{"do": "count", "to": 3, "every": 1}' })
    await reader.until(({ said }) => said === 0)
    cutter.cut()
    expect(textOf(await end)).toBe('They say: 0 🐴 1 🐴 2 🐴 ')
    expect(reader.said.filter(({ asked }) => asked)).toHaveLength(1)
  })

  it('is given what a gateway cut of an answer as it is', () => {
    const lines = [
      'import asyncio, json, kurultai_client',
      'class Cut:',
      '    def __init__(self, text): self.text = text',
      '    async def call(self, tool, **arguments): return self.text',
      'for text in (\'{"reply": "gold"}\', \'{"reply": "go\', \'"gold"\'):',
      '    print(asyncio.run(kurultai_client.Run.send(Cut(text), "reader", "dig")))',
    ]
    expect(execFileSync(python, ['-c', lines.join('\n')], { env, encoding: 'utf8' })).toBe(
      'gold\n{"reply": "go\n"gold"\n',
    )
  })

  it('tells what went wrong, with it or with a tool', async () => {
    const agent = await become('writer')
    expect(await (await ask({ do: 'fail' })).end).toMatchObject({ state: 'error', errorMessage: 'out of ink' })
    expect(textOf(await (await ask({ do: 'call' })).end)).toContain('there is no tool "no_such_tool" here')
    expect(agent.said.at(-1)).toMatchObject({ asked: 'call', history: ['user', 'user'] })
  })

  it('does not begin anew what a process before it called tools for', async () => {
    const before = await become('writer')
    const { end } = await ask({ do: 'call and wait' })
    await before.until(({ called }) => called)
    before.kill()
    const after = await become('writer')
    expect(await end).toMatchObject({ state: 'error', errorMessage: 'the beginning of this answer is lost' })
    expect(after.said.filter(({ asked }) => asked)).toEqual([])
  })

  it('is cancelled when nobody waits any more', async () => {
    const agent = await become('writer')
    const { runId, end } = await ask({ do: 'wait' })
    await operator.next(({ event, payload }) => event === 'agent' && payload.stream === 'assistant')
    await operator.request('chat.abort', { sessionKey: 'agent:writer:main', runId })
    expect(await agent.until((line) => 'cancelled' in line)).toEqual({ cancelled: true })
    expect((await end)['state']).toBe('aborted')
  })

  it('is written in fifteen lines', async () => {
    const lines = [
      'import asyncio, sys',
      'import kurultai_client as kurultai',
      '',
      'async def answer(run):',
      '    for word in run.message.split():',
      '        await run.say(word.upper() + " ")',
      '',
      'async def main(url, token, key):',
      '    device = kurultai.DeviceKey(key)',
      '    async with kurultai.Connector(answer, url, token, name="writer", device=device) as writer:',
      '        print("{}", flush=True)',
      '        await writer.serve()',
      '',
      'asyncio.run(main(*sys.argv[1:]))',
    ]
    expect(lines.length).toBeLessThanOrEqual(15)
    const file = join(folder, 'writer.py')
    writeFileSync(file, lines.join('\n'))
    await (await run(file, [gateway.url, TOKEN, join(folder, 'key')])).until(() => true)
    expect(textOf(await (await ask({ hello: 'there' })).end)).toBe('{"HELLO":"THERE"} ')
  })
})

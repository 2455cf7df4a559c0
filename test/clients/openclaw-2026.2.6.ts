/** The command line of February 2026 and its page for terminals, which speak protocol 3. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { version as ours } from '../../src/version.ts'
import { openPeer, TOKEN } from '../support/gateway.ts'
import { startProcess } from '../support/gateway-process.ts'
import { startModelServer } from '../support/model-server.ts'
import { connectAsNode } from '../support/node.ts'
import type { Client, Session } from './client.ts'
import { installClient } from './install.ts'
import { openTerminal, SCRIPT } from './terminal.ts'

export const openclaw26: Client = {
  name: 'openclaw',
  version: '2026.2.6-3',
  protocol: '3',
  needs: [SCRIPT],
  open,
}

/** A model and an agent as that version writes them: it reads the gateway's configuration, too, and takes no less. */
export const AS_IT_WRITES = { agents: { model: { primary: 'fake/m' } }, model: { name: 'M' } }

interface Said {
  code: number
  stdout: string
  stderr: string
}

async function open(): Promise<Session> {
  const program = join(installClient('openclaw-2026.2.6'), 'node_modules/openclaw/openclaw.mjs')
  const folder = mkdtempSync(join(tmpdir(), 'openclaw-2026.2.6-'))
  const state = join(folder, 'gateway')
  mkdirSync(state, { mode: 0o700 })
  const model = await startModelServer()
  const gateway = await startProcess(state, model.url, AS_IT_WRITES)
  const { port } = new URL(gateway.url)
  let again = gateway

  /** What somebody has in their environment who has configured it so. */
  function home(name: string, config: object | string, more: Record<string, string> = {}): Record<string, string> {
    const at = join(folder, name)
    mkdirSync(join(at, 'state'), { recursive: true, mode: 0o700 })
    const file = typeof config === 'string' ? config : join(at, 'openclaw.json')
    if (typeof config !== 'string') writeFileSync(file, JSON.stringify(config), { mode: 0o600 })
    return {
      PATH: [dirname(process.execPath), process.env['PATH']].join(delimiter),
      HOME: at,
      LANG: 'C.UTF-8',
      TERM: 'xterm-256color',
      OPENCLAW_STATE_DIR: join(at, 'state'),
      OPENCLAW_CONFIG_PATH: file,
      ...more,
    }
  }
  const remote = (token: string) => ({ gateway: { mode: 'remote', remote: { url: gateway.url, token } } })
  const afar = home('afar', remote(TOKEN))
  const stranger = home('stranger', remote('not-the-token-0123456789'))
  // On the gateway's own machine: the gateway's configuration is the client's.
  const beside = home('beside', join(state, 'openclaw.json5'), { OPENCLAW_GATEWAY_PORT: port })

  async function say(env: Record<string, string>, ...args: string[]): Promise<Said> {
    const child = spawn(process.execPath, [program, ...args], {
      env,
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: 180_000,
    })
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
    assert.doesNotMatch(`${stdout}${stderr}`, /\bundefined\b|\bNaN\b|\bnot reachable|\bunknown method|query failed/i)
    return stdout
  }
  const json = async (env: Record<string, string>, ...args: string[]) => JSON.parse(await well(env, ...args, '--json'))
  const terminal = () => openTerminal([process.execPath, program, 'tui'], afar)
  const asked = () => model.requests.map(({ body }) => JSON.stringify(body))

  const commands: Session['commands'] = [
    {
      name: 'gateway call health',
      async run() {
        const health = await json(afar, 'gateway', 'call', 'health')
        assert.equal(health.ok, true)
        assert.deepEqual(
          health.agents.map(({ agentId, isDefault }: { agentId: string; isDefault: boolean }) => [agentId, isDefault]),
          [['main', true]],
        )
      },
    },
    {
      name: 'health',
      async run() {
        assert.match(await well(afar, 'health'), /^Agents: main \(default\)$/m)
        assert.equal((await json(afar, 'health')).defaultAgentId, 'main')
      },
    },
    {
      name: 'status',
      async run() {
        const shown = (await well(afar, 'status')).replace(/\s*│\n│\s*│/g, '')
        assert.match(
          shown,
          /Gateway\s+│ remote · ws:\S+ \(config gateway\.remote\.url\) · reachable \d+ms · auth token/,
        )
        assert.match(shown, new RegExp(`app\\s+${ours.replaceAll('.', '\\.')}`))
        const { gateway: seen } = await json(afar, 'status')
        assert.deepEqual([seen.reachable, seen.error, seen.self.version], [true, null, ours])
      },
    },
    {
      name: 'status --all',
      async run() {
        assert.match(await well(afar, 'status', '--all'), /reachable \d+ms/)
      },
    },
    {
      name: 'agent --agent main --message',
      async run() {
        const before = model.requests.length
        const text = await well(afar, 'agent', '--agent', 'main', '--message', 'first [[chunks=4]]')
        assert.equal(text.trim(), 'word word word word')
        const { status, result } = await json(afar, 'agent', '--agent', 'main', '--message', 'second [[chunks=2]]')
        assert.equal(status, 'ok')
        assert.equal(result.payloads[0].text.trim(), 'word word')
        assert.equal(result.meta.agentMeta.model, 'm')
        // Two turns, and the second knows of the first.
        assert.deepEqual(
          asked()
            .slice(before)
            .map((body) => [body.includes('first [['), body.includes('second [[')]),
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
        const { code, stdout, stderr } = await say(afar, 'agent', '--agent', 'main', '--message', 'no [[fail=401]]')
        assert.notEqual(code, 0, `it ended well: ${stdout}`)
        assert.match(stderr, /401/)
      },
    },
    {
      name: 'devices list',
      async run() {
        assert.match(await well(afar, 'devices', 'list'), /^Paired \(1\)$/m)
        const { pending, paired } = await json(afar, 'devices', 'list')
        assert.deepEqual(pending, [])
        assert.equal(paired[0].clientId, 'cli')
      },
    },
    {
      name: 'nodes status',
      async run() {
        assert.match(await well(afar, 'nodes', 'status'), /Known: 0 · Paired: 0 · Connected: 0/)
        const node = await connectAsNode({ open: () => openPeer(gateway.url) }, { name: 'writer' })
        assert.match(await well(afar, 'nodes', 'status'), /Known: 1 · Paired: 1 · Connected: 1/)
        const { nodes } = await json(afar, 'nodes', 'status')
        assert.deepEqual([nodes[0].nodeId, nodes[0].displayName, nodes[0].connected], [node.device.id, 'writer', true])
        node.socket.close()
      },
    },
    {
      name: 'channels status',
      async run() {
        const { channelOrder, channelAccounts } = await json(afar, 'channels', 'status')
        assert.deepEqual([channelOrder, channelAccounts], [[], {}])
        await well(afar, 'channels', 'status')
      },
    },
    {
      name: 'cron add, list, rm',
      async run() {
        assert.deepEqual((await json(afar, 'cron', 'list')).jobs, [])
        assert.match(await well(afar, 'cron', 'list'), /No cron jobs/)
        const added = await json(
          afar,
          ...['cron', 'add', '--name', 'note', '--every', '1h', '--session', 'main', '--system-event', 'remember'],
        )
        const { jobs } = await json(afar, 'cron', 'list')
        assert.deepEqual(
          jobs.map(({ id, name }: { id: string; name: string }) => [id, name]),
          [[added.id, 'note']],
        )
        assert.match(await well(afar, 'cron', 'list'), /note\s+every 1h/)
        assert.equal((await json(afar, 'cron', 'status')).jobs, 1)
        assert.equal((await json(afar, 'cron', 'rm', added.id)).removed, true)
        assert.deepEqual((await json(afar, 'cron', 'list')).jobs, [])
      },
    },
    {
      name: 'logs',
      async run() {
        const shown = await well(afar, 'logs', '--limit', '50', '--plain')
        assert.match(shown, /^\d{4}-\S+Z? info gateway listening; /m)
        const records = (await well(afar, 'logs', '--limit', '50', '--json')).trim().split('\n')
        const lines = records.map((record) => JSON.parse(record)).filter(({ type }) => type === 'log')
        assert.notEqual(lines.length, 0)
        for (const { time, level, message } of lines) assert.ok(time && level && message, 'a line without its parts')
      },
    },
    {
      name: 'tui: an answer grows on the screen',
      async run() {
        const tui = terminal()
        try {
          await tui.until((line) => /connected \| idle/.test(line))
          tui.type('grow [[chunks=12 gap=150]]')
          await tui.until((line) => line.includes('grow [[chunks=12'))
          tui.type('\r')
          await tui.until((line) => wordsIn(line) === 12)
          const from = tui.lines.findIndex((line) => /streaming/.test(line))
          const grown = tui.lines.slice(from - 3).map(wordsIn)
          const seen = [...new Set(grown.filter((count) => count > 0))]
          assert.ok(seen.length >= 4, `seen only with ${seen} words`)
          assert.deepEqual(
            seen,
            seen.toSorted((one, other) => one - other),
          )
          await leaveTui(tui)
        } finally {
          await tui.close()
        }
      },
    },
    {
      name: 'tui: Escape stops an answer',
      async run() {
        const tui = terminal()
        try {
          await tui.until((line) => /connected \| idle/.test(line))
          tui.type('endless [[chunks=900 gap=50]]')
          await tui.until((line) => line.includes('endless [[chunks=900'))
          tui.type('\r')
          await tui.until((line) => /streaming/.test(line))
          tui.type('\x1b')
          await tui.until((line) => line.includes('run aborted'))
          await model.requests.at(-1)!.closed
          assert.equal(model.requests.at(-1)!.closedEarly, true)
          await leaveTui(tui)
        } finally {
          await tui.close()
        }
      },
    },
    {
      name: 'tui: started anew, it shows what was said',
      async run() {
        const before = model.requests.length
        const tui = terminal()
        try {
          await tui.until((line) => line.includes('grow [[chunks=12'))
          await tui.until((line) => wordsIn(line) === 12)
          await tui.until((line) => line.includes('endless [[chunks=900'))
          assert.equal(model.requests.length, before)
          await leaveTui(tui)
        } finally {
          await tui.close()
        }
      },
    },
    {
      name: 'devices list, after the tui',
      async run() {
        // The page asks for less than the command line does; nothing of that is left to be decided.
        const { pending, paired } = await json(afar, 'devices', 'list')
        assert.deepEqual([pending, paired.length], [[], 2])
      },
    },
    {
      name: 'health, agent and status with the configuration of the gateway',
      async run() {
        assert.equal((await json(beside, 'health')).defaultAgentId, 'main')
        const { result } = await json(beside, 'agent', '--agent', 'main', '--message', 'beside [[chunks=3]]')
        assert.equal(result.payloads[0].text.trim(), 'word word word')
        const { gateway: seen } = await json(beside, 'status')
        assert.deepEqual([seen.mode, seen.reachable, seen.error], ['local', true, null])
      },
    },
    {
      name: 'health with a wrong token',
      async run() {
        const { code, stderr } = await say(stranger, 'health')
        assert.equal(code, 1)
        assert.match(stderr, /unauthorized: gateway token mismatch/)
      },
    },
    {
      name: 'health and agent of a gateway that was killed, and is there again',
      async run() {
        await gateway.kill()
        const { code, stderr } = await say(afar, 'health')
        assert.equal(code, 1)
        assert.match(stderr, /ECONNREFUSED|gateway closed/)
        again = await startProcess(state, model.url, { ...AS_IT_WRITES, port: Number(port) })
        assert.equal((await json(afar, 'health')).ok, true)
        const { result } = await json(afar, 'agent', '--agent', 'main', '--message', 'again [[chunks=3]]')
        assert.equal(result.payloads[0].text.trim(), 'word word word')
        assert.ok(asked().at(-1)!.includes('grow [[chunks=12'), 'what was said before is forgotten')
      },
    },
  ]
  return {
    commands,
    async close() {
      await again.kill()
      await model.close()
      rmSync(folder, { recursive: true, force: true })
    },
  }
}

/** How many words of the model a line consists of; 0 when it has others. */
const wordsIn = (line: string): number => (/^\s*word(?: word)*$/.test(line) ? line.trim().split(' ').length : 0)

/** Leaves with Ctrl-D: Ctrl-C would have to come twice within a second, which is long only on an idle machine. */
async function leaveTui(tui: ReturnType<typeof openTerminal>): Promise<void> {
  tui.type('\x04')
  assert.equal(await tui.ended(), 0)
}

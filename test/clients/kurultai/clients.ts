/** The clients of Kurultai, written anew from what is known of their behaviour; each is let at the gateway itself and, where Debian's Caddy is there, at the proxy in front. */

import { deepEqual, equal, ok } from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { hasCaddy, startCaddy } from '../../support/caddy.ts'
import { openPeer, TOKEN } from '../../support/gateway.ts'
import { type Kurultai, startKurultai } from '../../support/kurultai.ts'
import type { Client } from '../client.ts'

// Debian's own Python has Debian's own packages.
const PYTHON = '/usr/bin/python3'
const PACKAGES = '/usr/lib/python3/dist-packages'
const CADDY = { name: 'caddy', file: '/usr/bin/caddy' }
const AIOHTTP = { name: 'python3-aiohttp', file: `${PACKAGES}/aiohttp/__init__.py` }
const WEBSOCKET = { name: 'python3-websocket', file: `${PACKAGES}/websocket/__init__.py` }
const WEBSOCKETS = { name: 'python3-websockets', file: `${PACKAGES}/websockets/__init__.py` }

/** Runs one of the programs beside this file. Resolves to the lines of JSON that it has printed. @throws what it complains of */
async function run(program: string, ...args: string[]): Promise<{ [name: string]: unknown }[]> {
  const file = fileURLToPath(new URL(program, import.meta.url))
  const env = { PATH: process.env['PATH'], PYTHONIOENCODING: 'utf-8' }
  const { stdout } = await promisify(execFile)(program.endsWith('.py') ? PYTHON : process.execPath, [file, ...args], {
    env,
    timeout: 60_000,
  })
  return stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line))
}

/** Where a command is tried: the gateway itself, or the proxy. */
interface Place {
  kurultai: Kurultai
  http: string
  /** With `/ws`, or another path. */
  ws(path: string): string
  /** A word for keys that are not to meet. */
  name: string
}

const client = (
  name: string,
  protocol: Client['protocol'],
  needs: NonNullable<Client['needs']>,
  commands: { [name: string]: (place: Place) => Promise<void> },
): Client => ({
  name: `Kurultai ${name}`,
  version: 'as deployed',
  protocol,
  needs: [...needs, CADDY],
  async open() {
    const kurultai = await startKurultai()
    const caddy = hasCaddy ? await startCaddy(kurultai.port) : undefined
    const places = [
      { name: 'direct', port: kurultai.port },
      ...(caddy ? [{ name: 'through Caddy', port: caddy.port }] : []),
    ].map(({ name: where, port }): Place => {
      const ws = (path: string) => `ws://127.0.0.1:${port}${path}`
      return { kurultai, http: `http://127.0.0.1:${port}`, ws, name: where }
    })
    return {
      commands: Object.entries(commands).map(([what, work]) => ({
        name: what,
        async run() {
          for (const place of places)
            await work(place).catch((error: Error) => {
              throw new Error(`${place.name}: ${error.message}`, { cause: error })
            })
        },
      })),
      async close() {
        await caddy?.close()
        await kurultai.stop()
      },
    }
  },
})

const PARAGRAPHS = ['First the facts.\n\n', 'Then what they mean.\n\n', 'Then the end.']

export const kurultaiClients: Client[] = [
  client('Discord bridge (Node)', '3', [], {
    async 'posts the answers of its channels block by block'({ ws, name }) {
      const [one, two] = [`discord:1:${name}`, `discord:2:${name}`].map((key) => key.replaceAll(' ', '-').toLowerCase())
      const orders = [`${one}=[[text=${PARAGRAPHS.join('')}]]`, `${two}=[[text=Only this.]]`]
      const [connected, ...posts] = await run('bridge.mjs', ws('/ws'), TOKEN, ...orders)
      equal(connected!['connected'], true)
      ok(typeof connected!['sessionId'] === 'string')
      const inSession = (key: string | undefined) => posts.filter((post) => post['in'] === key).map(({ post }) => post)
      deepEqual([inSession(one), inSession(two)], [PARAGRAPHS, ['Only this.']])
      equal(posts.length, PARAGRAPHS.length + 1)
    },
    async 'hears nothing of what others talk about'({ ws, kurultai, name }) {
      const other = await kurultai.connect()
      const idempotencyKey = `other ${name}`
      await other.request('chat.send', { sessionKey: 'elsewhere', message: '[[chunks=20 gap=20]]', idempotencyKey })
      const key = `discord:3:${name}`.replaceAll(' ', '-').toLowerCase()
      const lines = await run('bridge.mjs', ws('/ws'), TOKEN, `${key}=[[chunks=3 gap=150]]`)
      deepEqual(lines.slice(1), [{ post: 'word word word ', in: key }])
      other.socket.close()
    },
  }),
  client('heartbeat monitor (Python)', '3', [WEBSOCKET], {
    async 'asks an agent and knows it by its id'({ ws }) {
      const [answer] = await run('monitor.py', ws('/ws'), TOKEN, 'agent:ops:main', '[[text=All is well.]]')
      deepEqual(answer, { agent: 'ops', answer: 'All is well.' })
    },
  }),
  client('health tests (Python)', '3', [WEBSOCKETS, AIOHTTP], {
    async 'health, connect and ping'({ http, ws }) {
      deepEqual(await run('health.py', http, ws('/'), TOKEN), [
        { health: 'ok' },
        { read: ['event', 'res'], ok: true, pong: true },
      ])
    },
  }),
  client('dashboard (Node)', 'HTTP', [], {
    async 'lists the sessions'({ http, kurultai, name }) {
      const peer = await kurultai.connect()
      const sessionKey = `agent:researcher:${name}`.replaceAll(' ', '-').toLowerCase()
      const idempotencyKey = `dashboard ${name}`
      await peer.request('chat.send', { sessionKey, message: 'hello', idempotencyKey })
      await peer.next(
        ({ event, payload }) => event === 'chat' && payload.runId === idempotencyKey && payload.state === 'final',
      )
      const sessions = await run('dashboard.mjs', http, TOKEN)
      const found = sessions.find(({ sessionId }) => sessionId === sessionKey)
      deepEqual(found, { sessionId: sessionKey, agentId: 'researcher', isDated: true, messageCount: 2 })
      peer.socket.close()
    },
  }),
  client('delegation (Python)', 'HTTP', [AIOHTTP], {
    async 'a task and its answer, once'({ http, kurultai, name }) {
      const before = kurultai.model.requests.length
      for (const _ of [1, 2]) {
        const [answer] = await run(
          'delegation.py',
          http,
          TOKEN,
          'researcher',
          `task ${name}`,
          '[[text=Three sources.]]',
        )
        const { status, response, agent, thread_id: thread } = answer!
        deepEqual([status, response, agent, thread], [200, 'Three sources.', 'researcher', 'agent:researcher:main'])
      }
      equal(kurultai.model.requests.length, before + 1)
    },
  }),
  client('client without backoff (Node)', '3', [], {
    async 'knocks a thousand times while others are served'({ ws, kurultai, name }) {
      const other = await kurultai.connect()
      const localAddress = name === 'direct' ? '127.0.0.91' : '127.0.0.92'
      const knocks = Array.from({ length: 1_000 }, () =>
        openPeer(ws('/ws'), { localAddress }).then(
          ({ socket }) => {
            socket.terminate()
            return 101
          },
          (error: { status?: number }) => error.status ?? 0,
        ),
      )
      for (let n = 0; n < 20; n++) equal((await other.request('health'))['ok'], true)
      for (const status of await Promise.all(knocks))
        ok([101, 503, 0].includes(status), `an upgrade ended with ${status}`)
      equal((await kurultai.connect()).hello['ok'], true)
      other.socket.close()
    },
  }),
]

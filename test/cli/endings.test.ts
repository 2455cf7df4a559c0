/** How the process of a gateway ends, and what it says when it does. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { fileURLToPath } from 'node:url'
import { afterAll, expect, it, vi } from 'vitest'
import { openStore } from '../../src/stores/index.ts'
import { CONNECT, endOf, openPeer, TOKEN } from '../support/gateway.ts'

const entry = fileURLToPath(new URL('../../src/index.ts', import.meta.url))
const folders: string[] = []
afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true })
})

function stateFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'kurultai-endings-'))
  folders.push(folder)
  return folder
}

/** Starts a gateway on a state folder and a free port. */
function start(folder: string) {
  const args = ['gateway', '--allow-unconfigured', '--port', '0', '--bind', 'loopback', '--state-dir', folder]
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', entry, ...args], {
    env: { PATH: process.env['PATH'] ?? '', HOME: folder, OPENCLAW_GATEWAY_TOKEN: TOKEN },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let said = ''
  const port = Promise.withResolvers<number>()
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (data) => {
      said += data
      const found = /running on \S+?:(\d+)/.exec(said)?.[1]
      if (found) port.resolve(Number(found))
    })
  const finished = new Promise<{ code: number | null; said: string }>((resolve) =>
    child.on('close', (code) => {
      resolve({ code, said })
      port.reject(new Error(`ended with ${code}: ${said}`))
    }),
  )
  port.promise.catch(() => {})
  /** Of each time it began. */
  const ports = () => [...said.matchAll(/running on \S+?:(\d+)/g)].map(([, found]) => Number(found))
  return { child, finished, port: port.promise, ports }
}

it('a file of a newer gateway is left as it is, and the process ends with 65', async () => {
  const folder = stateFolder()
  const path = join(folder, 'kurultai.sqlite')
  const store = await openStore('sqlite', { path })
  await store.close()
  const db = new DatabaseSync(path)
  const version = Number(db.prepare('PRAGMA user_version').get()!['user_version']) + 1
  // What a next step would have made: without it the number alone would be taken for damage.
  db.exec(`CREATE TABLE later (id TEXT PRIMARY KEY); PRAGMA user_version = ${version}`)
  db.close()
  const { code, said } = await start(folder).finished
  expect(said).toContain('newer gateway')
  expect(code).toBe(65)
  const after = new DatabaseSync(path)
  expect(after.prepare('PRAGMA user_version').get()!['user_version']).toBe(version)
  after.close()
})

it('two signals in the middle of an answer end the process with 0, and nothing is left unhandled', async () => {
  const folder = stateFolder()
  const { child, finished, port } = start(folder)
  const peer = await openPeer(`ws://127.0.0.1:${await port}/`)
  await peer.next((frame) => frame['event'] === 'connect.challenge')
  await peer.request('connect', CONNECT)
  for (const sessionKey of ['a', 'b', 'c'])
    await peer.request('chat.send', { sessionKey, message: 'word '.repeat(200), idempotencyKey: sessionKey })
  for (const runId of ['a', 'b', 'c'])
    await peer.next(({ event, payload }) => event === 'chat' && payload.runId === runId && payload.state === 'delta')
  child.kill('SIGTERM')
  await peer.next(({ event }) => event === 'shutdown')
  child.kill('SIGTERM')
  const { code, said } = await finished
  expect(said).not.toMatch(/nobody handled|ERROR|FATAL/)
  expect(said).toContain('runs were cut off')
  expect(code).toBe(0)
  expect((await peer.closed).code).toBe(1012)
})

it('a client that may do so changes the configuration and has the gateway start anew, in the same process', async () => {
  const folder = stateFolder()
  const config = { commands: { config: true, restart: true }, agents: { list: [{ id: 'main', name: 'Before' }] } }
  writeFileSync(join(folder, 'openclaw.json5'), JSON.stringify(config))
  const { child, finished, port, ports } = start(folder)
  const open = async (to: number) => {
    const peer = await openPeer(`ws://127.0.0.1:${to}/`)
    await peer.next(({ event }) => event === 'connect.challenge')
    expect((await peer.request('connect', CONNECT))['ok']).toBe(true)
    return peer
  }
  const peer = await open(await port)
  const { payload } = await peer.request('config.get')
  const patch = {
    raw: "{ agents: { list: [{ id: 'main', name: 'After' }] } }",
    baseHash: payload.hash,
    restartDelayMs: 1,
  }
  expect((await peer.request('config.patch', patch))['payload']).toMatchObject({
    restart: { scheduled: true, delayMs: 1 },
  })
  expect(await peer.closed).toMatchObject({ code: 1012 })
  await vi.waitFor(() => expect(ports()).toHaveLength(2), { timeout: 15_000 })
  const { payload: agents } = await (await open(ports()[1]!)).request('agents.list')
  expect(agents.agents).toMatchObject([{ id: 'main', name: 'After' }])
  child.kill('SIGTERM')
  expect((await finished).code).toBe(0)
})

/** A gateway that clients may restart, and an operator of it. */
async function restartable() {
  const folder = stateFolder()
  writeFileSync(join(folder, 'openclaw.json5'), JSON.stringify({ commands: { config: true, restart: true } }))
  const started = start(folder)
  const peer = await openPeer(`ws://127.0.0.1:${await started.port}/`)
  await peer.next(({ event }) => event === 'connect.challenge')
  await peer.request('connect', CONNECT)
  /** Changes nothing, and asks for a restart. */
  const restart = async (restartDelayMs: number) => {
    const { payload } = await peer.request('config.get')
    const answer = await peer.request('config.patch', { raw: '{}', baseHash: payload.hash, restartDelayMs })
    return answer['payload']?.restart ?? answer['error']
  }
  return { ...started, peer, restart }
}

it.for([
  { when: 'before', delayMs: 300 },
  { when: 'after', delayMs: 1 },
])('one signal $when a restart that was asked for lets runs end, and ends the process', async ({ when, delayMs }) => {
  const { child, finished, peer, restart, ports } = await restartable()
  await peer.request('chat.send', { sessionKey: 'main', message: 'word '.repeat(100), idempotencyKey: 'k' })
  await peer.next(({ event, payload }) => event === 'chat' && payload.state === 'delta')
  expect(await restart(delayMs)).toEqual({ scheduled: true, delayMs })
  if (when === 'after') await peer.next(({ event }) => event === 'shutdown')
  child.kill('SIGTERM')
  const { payload } = await peer.next(endOf('k'))
  expect(payload.state).toBe('final')
  const { code, said } = await finished
  expect(said).not.toContain('runs were cut off')
  expect([code, ports()]).toEqual([0, [expect.any(Number)]])
})

it('who asks for a second restart is told when the first one comes, and nobody can ask for one that no timer holds', async () => {
  const { child, finished, restart } = await restartable()
  expect(await restart(2 ** 31)).toMatchObject({ details: { code: 'INVALID_PARAMS' } })
  expect(await restart(100_000)).toEqual({ scheduled: true, delayMs: 100_000 })
  const { scheduled, delayMs } = await restart(1)
  expect([scheduled, delayMs > 1, delayMs <= 100_000]).toEqual([true, true, true])
  child.kill('SIGTERM')
  expect((await finished).code).toBe(0)
})

it('a restart with a configuration that cannot be used goes on with the one before', async () => {
  const folder = stateFolder()
  const file = join(folder, 'openclaw.json5')
  writeFileSync(file, JSON.stringify({ commands: { config: true, restart: true } }))
  const { child, finished, port, ports } = start(folder)
  const taken = createServer().listen(0, '127.0.0.1')
  await once(taken, 'listening')
  const { port: other } = taken.address() as { port: number }
  for (const [round, breakIt] of [
    (raw: string) => writeFileSync(file, raw.slice(0, -3)),
    (raw: string) => writeFileSync(file, raw.replace('{', `{ "gateway": { "port": ${other} },`)),
  ].entries()) {
    await vi.waitFor(() => expect(ports()).toHaveLength(round + 1), { timeout: 15_000 })
    await port
    const peer = await openPeer(`ws://127.0.0.1:${ports().at(-1)}/`)
    await peer.next(({ event }) => event === 'connect.challenge')
    await peer.request('connect', CONNECT)
    const { payload } = await peer.request('config.get')
    const raw = '{ "commands": { "config": true, "restart": true } }'
    await peer.request('config.apply', { raw, baseHash: payload.hash, restartDelayMs: 200 })
    breakIt(raw)
    await peer.closed
  }
  await vi.waitFor(() => expect(ports()).toHaveLength(3), { timeout: 15_000 })
  taken.close()
  child.kill('SIGTERM')
  expect((await finished).code).toBe(0)
})

it('one whose output nobody reads any more goes on, is stopped like any other, and fills no disk', async () => {
  const folder = stateFolder()
  const { child, finished, port } = start(folder)
  await port
  child.stdout.destroy()
  child.stderr.destroy()
  child.kill('SIGTERM')
  expect(await finished).toMatchObject({ code: 0 })
  expect(statSync(join(folder, 'logs/gateway.log')).size).toBeLessThan(20_000)
})

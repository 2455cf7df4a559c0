/** The image at work, in a network that leads nowhere: as process 1, on a volume, under a configuration it cannot write. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { chownSync, copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { text } from 'node:stream/consumers'
import { setTimeout } from 'node:timers/promises'
import JSON5 from 'json5'
import { CONNECT, endOf, type Frame, openPeer, type Peer } from '../support/gateway.ts'
import { leave } from '../support/leftovers.ts'
import { type ModelServer, startModelServer } from '../support/model-server.ts'
import { type Checks, openChecks } from './checks.ts'
import { type Bind, type Container, type ContainerOptions, type Image, startContainer } from './container.ts'

const TOKEN = 'a-token-for-the-image-0123456789'
const ENV = {
  OPENCLAW_GATEWAY_TOKEN: TOKEN,
  MOONSHOT_API_KEY: 'sk-for-the-image',
  KIMI_API_KEY: 'sk-for-the-other-model',
}
const CONFIG = '/data/.openclaw/openclaw.json5'
const HTTP = 'http://127.0.0.1:18789'
const WS = 'ws://127.0.0.1:18789/'
/** How long Docker waits before it kills (deploy/compose.yaml), and how long the deployment waits for the first health. */
const GRACE_MS = 70_000
const START_MS = 120_000
const DEPLOYED = readFileSync(new URL('../../deploy/openclaw.json5', import.meta.url), 'utf8')

const image = JSON.parse(await text(process.stdin)) as Image

/** One life after another on one volume. */
async function serves(model: ModelServer, { check }: Checks): Promise<void> {
  const volume = newVolume()
  const config = configFile({ models: { providers: { moonshot: { baseUrl: `${model.url}/v1` } } } })
  const options = { env: ENV, binds: [volume, config] }
  const began = performance.now()
  let container = startContainer(image, options)
  let peer: Peer | undefined

  await check('it starts, and says on /health that it is well', async () => {
    await ready(container)
    console.log(`         ${Math.round(performance.now() - began)} ms from nothing to ready`)
    const response = await fetch(`${HTTP}/health`)
    assert.deepEqual([response.status, ((await response.json()) as { status: string }).status], [200, 'ok'])
  })
  await check(
    'it is process 1 of user 1001, without privileges, and nothing but /data and /tmp can be written',
    async () => {
      const { said: status } = await container.exec(['cat', '/proc/1/status'])
      assert.match(status, /^Uid:\t1001\t1001\t1001\t1001$/m)
      assert.match(status, /^Gid:\t1001\t1001\t1001\t1001$/m)
      assert.match(status, /^CapEff:\t0+$/m)
      assert.match(status, /^NoNewPrivs:\t1$/m)
      const places = ['/app/x', '/x', '/etc/x', '/tmp/x', '/data/x']
      const tried = await Promise.all(places.map((path) => container.exec(['touch', path])))
      assert.deepEqual(
        places.filter((_, index) => tried[index]!.status === 0),
        ['/tmp/x', '/data/x'],
      )
      console.log(`         ${/^VmRSS:\s+(\d+)/m.exec(status)?.[1]} kB resident`)
    },
  )
  await check('its HEALTHCHECK is well, too', async () => {
    assert.equal((await container.exec(image.settings.Healthcheck.Test.slice(1))).status, 0)
  })
  if (existsSync(join(image.rootfs, 'usr/bin/curl')))
    await check("so is Kurultai's own, with the package curl", async () => {
      const { status, said } = await container.exec(['curl', '-f', 'http://localhost:18789/health'])
      assert.equal(status, 0, said)
    })
  await check('it listens beyond loopback, for those who have the token', async () => {
    const stranger = await openPeer('ws://10.11.12.13:18789/')
    const { ok, error } = await stranger.request('connect', { ...CONNECT, auth: { token: 'another-token-0123456789' } })
    assert.equal(ok, false)
    assert.equal(error.details.code, 'AUTH_TOKEN_MISMATCH')
    stranger.socket.terminate()
    const friend = await connect('ws://10.11.12.13:18789/')
    assert.equal((await friend.request('agents.list')).payload.agents.length, 6)
    friend.socket.terminate()
  })
  await check('a client that sends a message is streamed what the model says', async () => {
    peer = await connect()
    const { ok } = await send(peer, 'first', 'hello [[chunks=6 gap=300]]')
    assert.equal(ok, true)
    await peer.next(endOf('first'))
    const deltas = peer.frames.filter(({ event, payload }) => event === 'agent' && payload.stream === 'assistant')
    assert.equal(deltas.map(({ payload }) => payload.data.delta).join(''), 'word '.repeat(6))
    assert.ok(deltas.length > 1, `in ${deltas.length} piece`)
    assert.equal(model.requests.at(-1)?.headers.authorization, `Bearer ${ENV.MOONSHOT_API_KEY}`)
  })
  await check('its commands find it, by both of its names', async () => {
    for (const command of [
      ['kurultai', 'status'],
      ['openclaw', 'health'],
      ['openclaw', 'gateway', 'status'],
      ['kurultai', 'doctor'],
    ]) {
      const { status, said } = await container.exec(command)
      assert.equal(status, 0, `${command.join(' ')} ended with ${status}:\n${said}`)
    }
    const asked = ['agent', '--agent', 'Mongke', '--message', 'hello [[text=from Möngke]]']
    const { said } = await container.exec(['openclaw', ...asked])
    assert.match(said, /from Möngke/)
  })
  await check('it writes nothing into its configuration, and says so', async () => {
    assert.equal(await patchRefusal(peer!), 'CONFIG_WRITES_OFF')
  })
  await check('SIGTERM lets the answer end that is under way, closes with 1012, and ends with 0', async () => {
    await send(peer!, 'last', 'hello [[chunks=20 gap=100]]')
    await peer!.next(
      ({ event, payload }) => event === 'agent' && payload.runId === 'last' && payload.stream === 'assistant',
    )
    container.signal('SIGTERM')
    const { payload } = await peer!.next(endOf('last'))
    assert.equal(payload.state, 'final')
    assert.equal((await peer!.closed).code, 1012)
    assert.equal(await ending(container), 0)
  })
  await check('started again, it has the history of before', async () => {
    container = startContainer(image, options)
    await ready(container)
    peer = await connect()
    assert.deepEqual(await textsOf(peer), [
      'hello [[chunks=6 gap=300]]',
      'word '.repeat(6),
      'hello [[chunks=20 gap=100]]',
      'word '.repeat(20),
    ])
  })
  await check('killed, it has what it acknowledged all the same', async () => {
    const { ok } = await send(peer!, 'killed', 'hello [[stall=1]]')
    assert.equal(ok, true)
    await peer!.next(
      ({ event, payload }) => event === 'agent' && payload.runId === 'killed' && payload.stream === 'assistant',
    )
    container.signal('SIGKILL')
    assert.notEqual(await ending(container), 0)
    container = startContainer(image, options)
    await ready(container)
    peer = await connect()
    assert.ok((await textsOf(peer)).includes('hello [[stall=1]]'))
    container.signal('SIGTERM')
    assert.equal(await ending(container), 0)
    const database = new DatabaseSync(join(volume.source, '.openclaw/kurultai.sqlite'), { readOnly: true })
    assert.deepEqual({ ...database.prepare('PRAGMA integrity_check').get() }, { integrity_check: 'ok' })
    database.close()
  })
  // Whatever came of it, its port is for the next.
  container.signal('SIGKILL')
  await container.ended
}

/** What it does not do, and how it says so. */
async function refuses({ check }: Checks): Promise<void> {
  await check('its HEALTHCHECK fails where nobody serves', async () => {
    const container = startContainer(image, { command: image.settings.Healthcheck.Test.slice(1) })
    assert.equal(await ending(container), 1)
  })
  await check(
    'where clients may write the configuration and the file is read-only, they are told so, and it is as it was',
    async () => {
      const volume = newVolume()
      const config = configFile({ commands: { config: true } })
      const before = readFileSync(config.source, 'utf8')
      await during({ env: ENV, binds: [volume, config] }, async (container) => {
        const peer = await connect()
        assert.equal(await patchRefusal(peer), 'CONFIG_UNWRITABLE')
        assert.equal(readFileSync(config.source, 'utf8'), before)
        const { said } = await container.exec(['ls', '/data/.openclaw'])
        const left = said.split('\n').filter((name) => /json5./.test(name))
        assert.deepEqual(left, [])
        peer.socket.terminate()
      })
    },
  )
  await check('a file of root in a folder of its own is as read-only', async () => {
    const volume = newVolume()
    const { source } = configFile({ commands: { config: true } })
    const file = join(volume.source, '.openclaw/openclaw.json5')
    copyFileSync(source, file)
    await during({ env: ENV, binds: [volume] }, async () => {
      const peer = await connect()
      assert.equal(await patchRefusal(peer), 'CONFIG_UNWRITABLE')
      assert.equal(readFileSync(file, 'utf8'), readFileSync(source, 'utf8'))
      peer.socket.terminate()
    })
  })
  await check("Kurultai's own launch line and deploy/openclaw.json5 do, as they are", async () => {
    const env = { ...ENV, KIMI_API_KEY: '' }
    const command = ['node', 'dist/index.js', 'gateway', '--bind', 'lan', '--port', '18789', '--allow-unconfigured']
    await during({ command, env, binds: [newVolume(), configFile({}, DEPLOYED)] }, async () => {
      const peer = await connect()
      const { payload } = await peer.request('agents.list')
      assert.deepEqual(
        payload.agents.map(({ id }: Frame) => id),
        ['main', 'researcher', 'writer', 'developer', 'analyst', 'ops'],
      )
      peer.socket.terminate()
    })
  })
  await check('with a token and nothing else it is an echo', async () => {
    await during({ env: { OPENCLAW_GATEWAY_TOKEN: TOKEN }, binds: [newVolume()] }, async () => {
      const peer = await connect()
      await send(peer, 'echoed', 'hello')
      await peer.next(endOf('echoed'))
      assert.match((await textsOf(peer)).at(-1)!, /You said: hello/)
      peer.socket.terminate()
    })
  })
  await check('without a token it starts for nobody, and names the variable', async () => {
    const container = startContainer(image, { binds: [newVolume()] })
    assert.equal(await ending(container), 78)
    assert.match(container.said(), /OPENCLAW_GATEWAY_TOKEN/)
  })
  await check('on a volume that is not its own it says which folder it cannot write', async () => {
    const volume = newVolume()
    chownSync(join(volume.source, '.openclaw'), 0, 0)
    const container = startContainer(image, { env: ENV, binds: [volume] })
    assert.equal(await ending(container), 70)
    assert.match(container.said(), /The state folder \/data\/\.openclaw cannot be used/)
  })
}

/** A gateway for as long as `use` takes. It ends well. */
async function during(options: ContainerOptions, use: (container: Container) => Promise<void>): Promise<void> {
  const container = startContainer(image, options)
  try {
    await ready(container)
    await use(container)
  } finally {
    container.signal('SIGTERM')
  }
  assert.equal(await ending(container), 0, container.said())
}

/** What a new volume holds: whatever is at its place in the image. */
function newVolume(): Bind {
  const source = newFolder()
  assert.equal(spawnSync('cp', ['--archive', `${image.rootfs}/data/.`, source]).status, 0)
  return { source, destination: '/data' }
}

/** The configuration of deploy/, changed, as one that root wrote and mounted. */
function configFile(changes: object, text = JSON.stringify({ ...JSON5.parse(DEPLOYED), ...changes })): Bind {
  const source = join(newFolder(), 'openclaw.json5')
  writeFileSync(source, text, { mode: 0o444 })
  return { source, destination: CONFIG, isReadOnly: true }
}

function newFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'kurultai-volume-'))
  leave(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** Resolves when it is ready for whoever comes. */
async function ready(container: Container): Promise<void> {
  let over: number | undefined
  void container.ended.then((status) => {
    over = status
  })
  for (const began = performance.now(); performance.now() - began < START_MS; await setTimeout(10)) {
    if (over !== undefined) throw new Error(`it ended with ${over}:\n${container.said()}`)
    const { ok } = await fetch(`${HTTP}/readyz`).catch(() => ({ ok: false }))
    if (ok) return
  }
  throw new Error(`it does not become ready:\n${container.said()}`)
}

/** How it ends by itself, in the time that it is given. */
function ending(container: Container): Promise<number> {
  const late = setTimeout(GRACE_MS, undefined, { ref: false }).then(() => {
    container.signal('SIGKILL')
    throw new Error(`it does not end:\n${container.said()}`)
  })
  return Promise.race([container.ended, late])
}

async function connect(url = WS): Promise<Peer> {
  const peer = await openPeer(url)
  await peer.next(({ event }) => event === 'connect.challenge')
  const { ok, error } = await peer.request('connect', { ...CONNECT, auth: { token: TOKEN } })
  assert.ok(ok, JSON.stringify(error))
  return peer
}

const send = (peer: Peer, idempotencyKey: string, message: string): Promise<Frame> =>
  peer.request('chat.send', { sessionKey: 'main', message, idempotencyKey })

async function textsOf(peer: Peer): Promise<string[]> {
  const { payload } = await peer.request('chat.history', { sessionKey: 'main' })
  return payload.messages.map(({ content }: Frame) =>
    typeof content === 'string' ? content : (content[0]?.text ?? ''),
  )
}

/** The code with which a change of the configuration is refused. */
async function patchRefusal(peer: Peer): Promise<string> {
  const { payload } = await peer.request('config.get')
  const { error } = await peer.request('config.patch', {
    raw: "{ logging: { level: 'debug' } }",
    baseHash: payload.hash,
  })
  console.log(`         “${error.message}”`)
  return error.details.code
}

const checks = openChecks()
const model = await startModelServer()
await serves(model, checks)
await refuses(checks)
await model.close()
process.send!({ passed: checks.passed, failed: checks.failed }, () => process.exit())

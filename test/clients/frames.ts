/** The frames of a protocol-4 connection, held against the schema that was published for it. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { MethodBlock } from '../../src/contract/block.ts'
import { EVENTS, METHODS } from '../../src/contract/index.ts'
import { createDevice, type Device } from '../support/device.ts'
import { CONNECT, endOf, type Frame, openPeer, type Peer, startGateway, TOKEN } from '../support/gateway.ts'
import { startModelServer } from '../support/model-server.ts'
import type { Client, Session } from './client.ts'
import { installClient } from './install.ts'
import { readSchema } from './schema.ts'
import { openTap, type Tap } from './tap.ts'

const SCOPES = ['operator.admin', 'operator.approvals', 'operator.pairing']
const SPARE = 'agent:main:spare'

/**
 * What methods are asked with, where `{}` is not enough: those whose results have a type answer, of the others it does not
 * matter.
 */
const PARAMS: { [method: string]: object } = {
  'agent.identity.get': { agentId: 'main' },
  'agents.files.list': { agentId: 'main' },
  'agents.files.get': { agentId: 'main', name: 'SOUL.md' },
  'agents.files.set': { agentId: 'main', name: 'SOUL.md', content: 'Say little.' },
  'sessions.list': { includeDerivedTitles: true, includeLastMessage: true },
  'sessions.resolve': { key: SPARE },
  'sessions.delete': { key: SPARE, deleteTranscript: true },
  'sessions.preview': { keys: ['main'] },
  'sessions.patch': { key: SPARE, label: 'spare', thinkingLevel: 'low', verboseLevel: 'full' },
  'sessions.reset': { key: 'agent:main:other' },
  'chat.history': { sessionKey: 'main' },
  'chat.inject': { sessionKey: 'main', message: 'put in', label: 'note' },
  'chat.abort': { sessionKey: 'main' },
  'exec.approvals.set': { file: { version: 1, defaults: {}, agents: {} } },
  'node.pair.request': { nodeId: 'n1', displayName: 'one' },
  'cron.add': {
    name: 'note',
    schedule: { kind: 'every', everyMs: 3_600_000 },
    sessionTarget: 'main',
    wakeMode: 'next-heartbeat',
    payload: { kind: 'systemEvent', text: 'remember' },
  },
  'cron.update': { patch: { description: 'to be remembered' } },
  'wizard.next': { sessionId: 'none' },
  'wizard.status': { sessionId: 'none' },
  'tokens.create': { name: 'frames', scopes: ['operator.read'] },
}
/** Asked in their own place, or never: they would change what the others are asked of. */
const APART = new Set([
  'device.token.rotate',
  'device.token.revoke',
  'device.pair.remove',
  'sessions.delete',
  'cron.remove',
])

export const publishedFrames: Client = {
  name: '@openclaw/gateway-protocol',
  version: '2026.9.1',
  protocol: '4',
  async open(): Promise<Session> {
    const schema = readSchema(installClient('gateway-client-2026.9.1'))
    const model = await startModelServer()
    const provider = { baseUrl: `${model.url}/v1`, apiKey: 'none', api: 'openai-completions', models: [{ id: 'm' }] }
    const workspace = mkdtempSync(join(tmpdir(), 'kurultai-frames-'))
    writeFileSync(join(workspace, 'SOUL.md'), 'Say much.')
    const gateway = await startGateway({
      config: {
        // Every method is asked for one after the other.
        gateway: { limits: { requestsPerSecond: 0 } },
        models: { providers: { fake: provider } },
        agents: {
          defaults: { model: 'fake/m', workspace },
          list: [{ id: 'main' }, { id: 'writer', name: 'Möngke', runtime: { type: 'connector' } }],
        },
      },
    })
    const taps: Tap[] = [await openTap(gateway.url), await openTap(gateway.url, 'gateway.example')]
    const [here, afar] = taps as [Tap, Tap]
    const peers: Peer[] = []
    let asked = 0

    /** Connects as a client of protocol 4. */
    async function connect(tap: Tap, changes: object = {}, device?: Device): Promise<Peer & { hello: Frame }> {
      const peer = await openPeer(tap.url)
      peers.push(peer)
      const { payload: challenge } = await peer.next(({ event }) => event === 'connect.challenge')
      const params = { ...CONNECT, minProtocol: 4, maxProtocol: 4, scopes: SCOPES, ...changes }
      const { role, scopes } = params
      const { token = TOKEN } = params.auth as { token?: string }
      const proof = device?.prove(challenge.nonce, { version: 'v3', role, scopes, token })
      const hello = await peer.request('connect', { ...params, ...(proof && { device: proof }) })
      return Object.assign(peer, { hello })
    }

    const send = async (peer: Peer, message: string, more: object = {}) => {
      const idempotencyKey = `frames-${++asked}`
      const params = { sessionKey: 'main', message, idempotencyKey, ...more }
      granted(await peer.request('chat.send', params))
      return idempotencyKey
    }
    const ended = async (peer: Peer, runId: string) => (await soon(peer.next(endOf(runId)), runId))['payload']
    const hasBegun = (peer: Peer, id: string) =>
      soon(
        peer.next(({ event, payload }) => event === 'chat' && payload.runId === id),
        id,
      )
    const hears = (peer: Peer, name: string) =>
      soon(
        peer.next(({ event }) => event === name),
        name,
      )
    /** @throws what does not fit, of all frames so far */
    const fits = (): void => {
      const { problems } = schema.judge(taps.flatMap(({ frames }, place) => ofTap(frames, place)))
      if (problems.length > 0) throw new Error(problems.join('\n'))
    }
    /** A command that is good when what it does succeeds and every frame fits. */
    const command = (name: string, run: () => Promise<void>) => ({
      name,
      async run() {
        await soon(run(), name, 90_000)
        fits()
      },
    })

    let admin!: Peer & { hello: Frame }
    let node!: Peer & { hello: Frame }
    const device = createDevice()

    return {
      commands: [
        command('hello-ok: by token, device, device token, node; and who is refused', async () => {
          admin = await connect(here, { caps: ['tool-events'] })
          granted(admin.hello)
          const paired = await connect(here, {}, device)
          const { deviceToken } = granted(paired.hello).auth
          granted((await connect(here, { auth: { token: deviceToken } }, device)).hello)
          const asNode = { role: 'node', scopes: [], caps: ['agent'], commands: ['agent.run', 'camera.snap'] }
          const client = { ...CONNECT.client, displayName: 'writer' }
          node = await connect(here, { ...asNode, client }, createDevice())
          granted(node.hello)
          for (const changes of [
            { auth: { token: 'wrong' } },
            { auth: {} },
            { minProtocol: 9, maxProtocol: 9 },
            { role: 'nobody' },
          ])
            refused((await connect(here, changes)).hello)
          const stranger = await connect(afar, asNode, createDevice())
          refused(stranger.hello)
          await hears(admin, 'device.pair.requested')
          granted((await connect(here, { scopes: ['operator.read'] })).hello)
        }),
        command(
          'a run: streamed, with a tool, failed, stopped, out of time, by a connector, of a command',
          async () => {
            const { state } = await ended(admin, await send(admin, 'hello [[chunks=40 gap=20 think=2]]'))
            equal(state, 'final')
            granted(await admin.request('sessions.patch', { key: 'main', verboseLevel: 'full' }))
            equal((await ended(admin, await send(admin, 'use it [[tool=agents_list]]'))).state, 'final')
            equal(
              (await ended(admin, await send(admin, 'fail [[fail=400]]', { sessionKey: 'failing' }))).state,
              'error',
            )
            equal((await ended(admin, await send(admin, 'cut [[cut=2]]', { sessionKey: 'failing' }))).state, 'error')
            const steered = await send(admin, 'on and on [[chunks=10 gap=50]]', { sessionKey: SPARE })
            await hasBegun(admin, steered)
            const joining = await send(admin, 'and this [[chunks=2]]', { sessionKey: SPARE, queueMode: 'steer' })
            for (const runId of [steered, joining]) equal((await ended(admin, runId)).state, 'final')
            const long = await send(admin, 'long [[chunks=3 stall=2]]', { sessionKey: SPARE })
            await hasBegun(admin, long)
            granted(await admin.request('chat.abort', { sessionKey: SPARE }))
            equal((await ended(admin, long)).state, 'aborted')
            const late = await send(admin, 'late [[stall=1]]', { sessionKey: SPARE, timeoutMs: 300 })
            equal((await ended(admin, late)).stopReason, 'timeout')
            await ended(admin, await send(admin, '/status'))
            await ended(admin, await send(admin, '/new'))
            granted(await admin.request('chat.send', { sessionKey: 'main', message: '/stop', idempotencyKey: 'stop' }))
            const connected = await send(admin, 'say', { sessionKey: 'agent:writer:main' })
            const { payload } = await hears(node, 'node.invoke.request')
            const { id, nodeId } = payload
            granted(
              await node.request('node.event', { event: 'agent.delta', payload: { id, offset: 0, text: 'Not ' } }),
            )
            granted(await node.request('node.invoke.result', { id, nodeId, ok: true, payload: { text: 'Not much.' } }))
            equal((await ended(admin, connected)).state, 'final')
            const params = { message: 'hello', agentId: 'main', idempotencyKey: 'agent-1' }
            granted(await admin.request('agent', params, 'agent-1'))
            granted(await admin.next(({ type, id }) => type === 'res' && id === 'agent-1'))
            granted(await admin.request('agent.wait', { runId: 'agent-1' }))
            await admin.request(
              'agent',
              { ...params, message: 'fail [[fail=400]]', idempotencyKey: 'agent-2' },
              'agent-2',
            )
            refused(await admin.next(({ type, id }) => type === 'res' && id === 'agent-2'))
          },
        ),
        command('node.invoke, with parameters and without', async () => {
          const { nodeId } = granted(await admin.request('node.list')).nodes[0]
          for (const params of [{ params: { lens: 'front' } }, {}]) {
            const idempotencyKey = `invoke-${++asked}`
            const invoked = admin.request('node.invoke', { nodeId, command: 'camera.snap', idempotencyKey, ...params })
            const { payload } = await hears(node, 'node.invoke.request')
            granted(await node.request('node.invoke.result', { id: payload.id, nodeId, ok: true, payload: {} }))
            granted(await invoked)
          }
          for (const method of ['skills.bins', 'health']) await node.request(method, {})
          granted(await node.request('node.event', { event: 'chat.subscribe', payload: { sessionKey: 'main' } }))
          await ended(node, await send(admin, 'heard by the node'))
          granted(await node.request('node.event', { event: 'chat.unsubscribe', payload: { sessionKey: 'main' } }))
          refused(await node.request('node.event', { event: 'nothing' }))
        }),
        command('devices: one that waits, its approval, a new token, a refusal', async () => {
          const other = createDevice()
          await connect(afar, { scopes: ['operator.read'] }, other)
          const isOf = ({ event, payload }: Frame) => event === 'device.pair.requested' && payload.deviceId === other.id
          const { requestId } = (await admin.next(isOf))['payload']
          granted(await admin.request('device.pair.approve', { requestId }))
          await hears(admin, 'device.pair.resolved')
          granted((await connect(afar, { scopes: ['operator.read'] }, other)).hello)
          granted(await admin.request('device.token.rotate', { deviceId: other.id, role: 'operator' }))
          await connect(afar, { scopes: ['operator.read', 'operator.write'] }, other)
          granted(await admin.request('device.pair.list'))
          granted(await admin.request('device.token.revoke', { deviceId: other.id, role: 'operator' }))
          granted(await admin.request('device.pair.remove', { deviceId: other.id }))
        }),
        command('approvals: asked, decided for good, and shown', async () => {
          const id = 'frames-approval'
          const request = { id, command: 'echo hi', sessionKey: 'agent:main:main' }
          const other = await connect(here)
          const answered = admin.request('exec.approval.request', request)
          await hears(other, 'exec.approval.requested')
          granted(await other.request('exec.approval.resolve', { id, decision: 'allow-always' }))
          equal(granted(await answered).decision, 'allow-always')
          const { file, hash } = granted(await admin.request('exec.approvals.get'))
          equal(file.agents.main.allowlist.length, 1)
          granted(await admin.request('exec.approvals.set', { file, baseHash: hash }))
        }),
        command('every method there is', async () => {
          let job: { id?: string } = {}
          // First what others are asked of.
          const order = Object.keys(METHODS).sort((one, two) => Number(two === 'cron.add') - Number(one === 'cron.add'))
          for (const method of order) {
            if (APART.has(method)) continue
            const { hash: baseHash } = granted(await admin.request('exec.approvals.get'))
            const more = method === 'exec.approvals.set' ? { baseHash } : method.startsWith('cron.') ? job : {}
            const { ok, payload } = await admin.request(method, { ...PARAMS[method], ...more })
            if (ok && method === 'cron.add') job = { id: payload.id }
          }
          granted(await admin.request('sessions.delete', PARAMS['sessions.delete']))
        }),
        command('what is refused: a scope, a role, parameters, a method, a frame', async () => {
          const reader = await connect(here, { scopes: ['operator.read'] })
          for (const method of Object.keys(METHODS)) refused(await admin.request(method, 'not an object'))
          for (const method of ['no.such', 'constructor', '', 'connect']) refused(await admin.request(method, {}))
          for (const method of ['no.such', 'tokens.list', 'exec.approvals.get'])
            refused(await reader.request(method, {}))
          for (const method of ['no.such', 'health', 'chat.send']) refused(await node.request(method, {}))
          refused(await admin.request('chat.history', { sessionKey: 'agent:nobody:main' }))
          const id = 'too-much'
          admin.send({ type: 'req', id, method: 'health', params: {}, extra: true })
          refused(await admin.next((frame) => frame['id'] === id))
        }),
        command('tick, health, presence, shutdown', async () => {
          const leaving = await connect(here, { client: { ...CONNECT.client, instanceId: 'leaving' } })
          leaving.socket.close()
          await hears(admin, 'presence')
          // Every half minute, and every minute.
          for (const name of ['tick', 'health'])
            await soon(
              admin.next(({ event }) => event === name),
              name,
              70_000,
            )
          gateway.gateway.stop('the frames are over')
          await hears(admin, 'shutdown')
          await admin.closed
        }),
        command('every result and every event that the schema has a type for', async () => {
          const frames = taps.flatMap((tap, place) => ofTap(tap.frames, place))
          const { results, payloads, absent } = schema.judge(frames)
          const missing = [
            ...Object.entries<MethodBlock>(METHODS).flatMap(([name, { role }]) =>
              !schema.namesResultOf(name, role ?? 'operator') || results.has(name) || absent.has(name) ? [] : [name],
            ),
            ...Object.keys(EVENTS).filter((name) => schema.namesPayloadOf(name) && !payloads.has(name)),
          ]
          if (missing.length > 0) throw new Error(`not one was seen of ${missing.join(', ')}`)
        }),
      ],
      async close() {
        for (const { socket } of peers) socket.terminate()
        for (const tap of taps) await tap.close()
        await gateway.stop()
        await model.close()
        rmSync(workspace, { recursive: true, force: true })
      },
    }
  },
}

/** The connections of several cables, counted through. */
const ofTap = (frames: Tap['frames'], place: number) =>
  frames.map((each) => ({ ...each, connection: each.connection * 2 + place }))

/** @throws when it takes longer than anything here may */
async function soon<T>(done: Promise<T>, what: string, ms = 20_000): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`nothing came for ${ms / 1000} s: ${what}`)), ms)
  })
  return Promise.race([done, late]).finally(() => clearTimeout(timer))
}

/** The payload of an answer. @throws what was refused */
function granted(answer: Frame): Frame {
  if (answer['ok'] !== true) throw new Error(`refused: ${JSON.stringify(answer['error'])}`)
  return answer['payload']
}

function refused(answer: Frame): void {
  if (answer['ok'] !== false) throw new Error(`not refused: ${JSON.stringify(answer).slice(0, 200)}`)
}

function equal(actual: unknown, expected: unknown): void {
  if (actual !== expected) throw new Error(`${JSON.stringify(actual)} instead of ${JSON.stringify(expected)}`)
}

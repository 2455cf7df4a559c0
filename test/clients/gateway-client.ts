/** The client that other programs embed, as its maker publishes it. */
import assert from 'node:assert/strict'
import { createHash, createPublicKey, generateKeyPairSync, type KeyObject, sign } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { version as ours } from '../../src/version.ts'
import { type Frame, TOKEN } from '../support/gateway.ts'
import { startProcess } from '../support/gateway-process.ts'
import { startModelServer } from '../support/model-server.ts'
import type { Client, Session } from './client.ts'
import { judgeRequests } from './contract.ts'
import { installClient } from './install.ts'
import { readSchema } from './schema.ts'
import { openTap } from './tap.ts'

/** As much of the package as is used here. */
interface GatewayClient {
  start(): void
  stopAndWait(): Promise<void>
  request(method: string, params?: object): Promise<Frame>
}
interface Package {
  GatewayClient: new (options: object) => GatewayClient
}

export const gatewayClient: Client = {
  name: '@openclaw/gateway-client',
  version: '2026.9.1',
  protocol: '4',
  async open(): Promise<Session> {
    const folder = installClient('gateway-client-2026.9.1')
    const schema = readSchema(folder)
    const module = join(folder, 'node_modules/@openclaw/gateway-client/dist/index.mjs')
    const { GatewayClient } = (await import(pathToFileURL(module).href)) as Package
    const state = mkdtempSync(join(tmpdir(), 'gateway-client-'))
    const model = await startModelServer()
    let gateway = await startProcess(state, model.url)
    const { port } = new URL(gateway.url)
    const tap = await openTap(gateway.url)
    const clients: GatewayClient[] = []

    /** A client that was let in, and all that it has told since. */
    async function connect(options: object) {
      const told = { hellos: [] as Frame[], events: [] as Frame[], gaps: [] as object[], closes: [] as number[] }
      const waiting = new Set<() => void>()
      const wake = () => {
        for (const look of waiting) look()
      }
      const { promise: first, resolve, reject } = Promise.withResolvers<Frame>()
      const client = new GatewayClient({
        url: tap.url,
        onHelloOk(hello: Frame) {
          told.hellos.push(hello)
          resolve(hello)
          wake()
        },
        onConnectError: reject,
        onEvent(event: Frame) {
          told.events.push(event)
          wake()
        },
        onGap: (gap: object) => told.gaps.push(gap),
        onClose: (code: number) => told.closes.push(code),
        ...options,
      })
      clients.push(client)
      client.start()
      await first
      return {
        ...told,
        client,
        /** Resolves once something is so. @throws after a minute and a half */
        async until(isSo: () => boolean, what: string): Promise<void> {
          const { promise, resolve: done, reject: late } = Promise.withResolvers<void>()
          const look = () => isSo() && done()
          waiting.add(look)
          const timer = setTimeout(() => late(new Error(`nothing came for 90 s: ${what}`)), 90_000)
          look()
          await promise.finally(() => {
            clearTimeout(timer)
            waiting.delete(look)
          })
        },
      }
    }
    type Connected = Awaited<ReturnType<typeof connect>>

    /** Sends a message and waits for its answer: the pieces that it came in, and the whole. */
    async function chat({ client, events, until }: Connected, message: string, idempotencyKey: string) {
      const { runId, status } = await client.request('chat.send', { sessionKey: 'main', message, idempotencyKey })
      assert.deepEqual([runId, status], [idempotencyKey, 'started'])
      const ofRun = () => events.filter(({ event, payload }) => event === 'chat' && payload.runId === runId)
      await until(() => ofRun().some(({ payload }) => payload.state !== 'delta'), runId)
      const { state, message: final } = ofRun().at(-1)!['payload']
      assert.equal(state, 'final')
      const pieces = ofRun().flatMap(({ payload }) => (payload.state === 'delta' ? [payload.deltaText as string] : []))
      return { pieces, text: final.content[0].text as string }
    }

    const device = createIdentity()
    const tokens = new Map<string, object>()
    let user!: Connected

    const commands: Session['commands'] = [
      {
        name: 'connect, by token',
        async run() {
          user = await connect({ token: TOKEN })
          const { protocol, server, auth } = user.hellos[0]!
          assert.deepEqual(
            [protocol, server.version, auth.role, auth.scopes],
            [4, ours, 'operator', ['operator.admin']],
          )
          assert.equal((await user.client.request('health'))['ok'], true)
        },
      },
      {
        name: 'connect, by device, then by the token of the device',
        async run() {
          const { hellos } = await connect({ token: TOKEN, ...device.options(tokens) })
          const { deviceToken } = hellos[0]!['auth']
          assert.match(deviceToken, /^[0-9a-f]{32}$/)
          const { hellos: again, client } = await connect(device.options(tokens))
          assert.deepEqual(again[0]!['auth'].scopes, ['operator.admin'])
          const { paired } = await client.request('device.pair.list')
          assert.deepEqual(
            paired.map(({ deviceId }: { deviceId: string }) => deviceId),
            [device.id],
          )
        },
      },
      {
        name: 'connect, by a wrong token',
        run: () => assert.rejects(connect({ token: 'not-the-token-0123456789' }), /gateway token mismatch/),
      },
      {
        name: 'request, of what there is not',
        async run() {
          const { client } = user
          await assert.rejects(client.request('no.such'), { message: /unknown method: no\.such/ })
          await assert.rejects(client.request('chat.history', { sessionKey: 'agent:nobody:main' }), /unknown agent id/)
          await assert.rejects(client.request('chat.send', { sessionKey: 'main' }), /must have required property/)
        },
      },
      {
        name: 'chat.send, streamed',
        async run() {
          const { pieces, text } = await chat(user, 'hello [[chunks=30 gap=30]]', 'one')
          assert.ok(pieces.length > 2, `it came in ${pieces.length} pieces`)
          assert.equal(pieces.join(''), text)
          assert.equal(text, 'word '.repeat(30))
        },
      },
      {
        name: 'reconnect, to a gateway that was killed and started again',
        async run() {
          await gateway.kill()
          gateway = await startProcess(state, model.url, { port: Number(port) })
          await user.until(() => user.hellos.length === 2, 'the second hello')
          assert.equal((await chat(user, 'again [[chunks=3]]', 'two')).text, 'word word word ')
          const { messages } = await user.client.request('chat.history', { sessionKey: 'main' })
          assert.equal(messages.length, 4)
          assert.equal(user.closes[0], 1006)
        },
      },
      {
        name: 'every frame, both ways; no gap in seq',
        async run() {
          assert.deepEqual(user.gaps, [])
          assert.deepEqual(schema.judge(tap.frames).problems, [])
          assert.deepEqual(judgeRequests(tap.frames), [
            "chat.send: must have required property 'message'; must have required property 'idempotencyKey'",
            'no.such: there is no such method',
          ])
        },
      },
    ]
    return {
      commands,
      async close() {
        for (const client of clients) await client.stopAndWait()
        await tap.close()
        await gateway.kill()
        await model.close()
        rmSync(state, { recursive: true, force: true })
      },
    }
  },
}

/** A device, with what the client leaves to whoever embeds it: signing, and keeping tokens. */
function createIdentity() {
  const { publicKey, privateKey } = generateKeyPairSync('ed25519')
  const rawOf = (key: KeyObject) => key.export({ format: 'der', type: 'spki' }).subarray(-32)
  const pem = { format: 'pem', type: 'spki' } as const
  const id = createHash('sha256').update(rawOf(publicKey)).digest('hex')
  return {
    id,
    options: (tokens: Map<string, object>) => ({
      deviceIdentity: {
        deviceId: id,
        publicKeyPem: publicKey.export(pem),
        privateKeyPem: privateKey.export({ format: 'pem', type: 'pkcs8' }),
      },
      hostDeps: {
        signDevicePayload: (key: string, payload: string) =>
          sign(null, Buffer.from(payload), key).toString('base64url'),
        publicKeyRawBase64UrlFromPem: (key: string) => rawOf(createPublicKey(key)).toString('base64url'),
        loadDeviceAuthToken: ({ role }: { role: string }) => tokens.get(role) ?? null,
        storeDeviceAuthToken: ({ role, token, scopes }: { role: string; token: string; scopes: string[] }) =>
          tokens.set(role, { token, scopes }),
        clearDeviceAuthToken: ({ role }: { role: string }) => tokens.delete(role),
      },
    }),
  }
}

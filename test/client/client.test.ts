/** The client and a real gateway: who is let in, what is asked and answered, and how it ends. */
import { createServer } from 'node:net'
import { describe, expect, it } from 'vitest'
import { type ClientState, ConnectionError, connect, RequestError } from '../../src/client/client.ts'
import { startGateway, TOKEN } from '../support/gateway.ts'
import { startCutter } from './cutter.ts'
import { startFake } from './fake-gateway.ts'

const QUICK = { minMs: 1, maxMs: 10 }

/** A port where nobody listens. */
async function deadPort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as { port: number }
  await new Promise((resolve) => server.close(resolve))
  return port
}

describe('connect', () => {
  it('resolves when the gateway has let us in, with what it said', async () => {
    await using gateway = await startGateway()
    const states: ClientState[] = []
    const client = await connect({ url: gateway.url, token: TOKEN, onState: (state) => void states.push(state) })
    expect(client.hello).toMatchObject({ protocol: 4, policy: { tickIntervalMs: 30_000 } })
    expect(client.hello.auth!.scopes).toContain('operator.admin')
    await client.request('health', {})
    expect(states).toEqual(['resuming', 'ready'])
    client.close()
    expect(await client.closed).toEqual({ code: 1000, reason: '' })
    expect(client.state).toBe('closed')
  })

  it('rejects with what the gateway said when it refuses us, however often it may try', async () => {
    await using gateway = await startGateway()
    const error = await connect({ url: gateway.url, token: 'wrong', reconnect: QUICK }).catch(
      (reason: unknown) => reason,
    )
    expect(error).toBeInstanceOf(RequestError)
    expect((error as RequestError).shape.details).toMatchObject({ code: 'AUTH_TOKEN_MISMATCH' })
  })

  it.each([
    ['it may not try again', false as const],
    ['it may not try again before it was there', { ...QUICK, fromStart: false }],
    ['its tries are used up', { ...QUICK, attempts: 3 }],
  ])('rejects when nobody answers and %s', async (_, reconnect) => {
    const url = `ws://127.0.0.1:${await deadPort()}/`
    const error = await connect({ url, reconnect }).catch((reason: unknown) => reason)
    expect(error).toBeInstanceOf(ConnectionError)
    expect((error as Error).message).toBe(`no gateway answers at ${url}`)
  })

  it('waits for a gateway that is not there yet', async () => {
    const port = await deadPort()
    const states: ClientState[] = []
    const coming = Promise.withResolvers<void>()
    const connecting = connect({
      url: `ws://127.0.0.1:${port}/`,
      reconnect: QUICK,
      onState(state) {
        states.push(state)
        if (states.length === 4) coming.resolve()
      },
    })
    await coming.promise
    await using _ = await startFake({ port })
    const client = await connecting
    expect(states.slice(0, 4)).toEqual(['waiting', 'connecting', 'waiting', 'connecting'])
    client.close()
  })

  it('can be called off while it waits', async () => {
    const stop = new AbortController()
    const url = `ws://127.0.0.1:${await deadPort()}/`
    const connecting = connect({ url, reconnect: QUICK, signal: stop.signal, onState: () => stop.abort() })
    await expect(connecting).rejects.toThrow('closed by this side')
    await expect(connect({ url, signal: stop.signal })).rejects.toThrow('closed by this side')
  })

  it('rejects when what it was given is no address', async () => {
    await expect(connect({ url: 'http//nowhere' })).rejects.toThrow()
  })

  it('shows what proves a device, made from the challenge, and says why it could not be made', async () => {
    const connected: { [member: string]: unknown }[] = []
    await using fake = await startFake({
      onConnect(guest, { id, params }) {
        connected.push(params)
        guest.refuse(id, { code: 'NOT_PAIRED', message: 'pairing required' })
      },
    })
    const prove = ({ nonce }: { nonce: string }) => Promise.resolve({ device: { signature: `signed ${nonce}` } })
    await expect(connect({ url: fake.url, prove })).rejects.toThrow('pairing required')
    expect(connected).toMatchObject([{ device: { signature: 'signed n' }, caps: ['stream-offsets', 'delta-only'] }])
    const lost = () => Promise.reject(new Error('the key is lost'))
    await expect(connect({ url: fake.url, prove: lost, reconnect: false })).rejects.toThrow('the key is lost')
  })
})

describe('a client', () => {
  it('asks and is answered, by methods it knows and methods it does not', async () => {
    await using gateway = await startGateway()
    const client = await connect({ url: gateway.url, token: TOKEN })
    const { agents } = await client.request('agents.list', {})
    expect(agents.map(({ id }) => id)).toEqual(['main'])
    expect(await client.call('agents.list')).toMatchObject({ defaultId: 'main' })
    await expect(client.call('frobnicate')).rejects.toThrow('unknown method: frobnicate')
    client.close()
  })

  it('waits for the second answer of a method that answers twice', async () => {
    await using gateway = await startGateway()
    const client = await connect({ url: gateway.url, token: TOKEN })
    const params = { sessionKey: 'main', message: 'hi' }
    expect(await client.request('agent', params)).toMatchObject({ status: 'accepted' })
    expect(await client.request('agent', params, { final: true })).toMatchObject({ status: 'ok' })
    client.close()
  })

  it('tells listeners what it hears, until they leave', async () => {
    await using gateway = await startGateway()
    const client = await connect({ url: gateway.url, token: TOKEN })
    const heard: string[] = []
    const off = client.on('chat', ({ state }) => void heard.push(state))
    await client.chat({ sessionKey: 'main', message: '/status' }).result
    off()
    await client.chat({ sessionKey: 'main', message: '/status' }).result
    expect(heard).toEqual(['final'])
    client.close()
  })

  it('rejects what is under way and what is asked later when it is closed, and ends what is being said', async () => {
    await using fake = await startFake()
    const client = await connect({ url: fake.url })
    const waiting = client.request('chat.history', { sessionKey: 'main' })
    const chat = client.chat({ sessionKey: 'main', message: 'hello' })
    client.close()
    await expect(waiting).rejects.toThrow(ConnectionError)
    await expect(chat.result).rejects.toThrow(ConnectionError)
    await expect(client.request('chat.history', { sessionKey: 'main' })).rejects.toThrow('closed by this side')
    client.close()
    client.retry()
  })

  it('says how the connection ended when it may not come back', async () => {
    const gateway = await startGateway()
    const client = await connect({ url: gateway.url, token: TOKEN, reconnect: false })
    gateway.gateway.stop('the test')
    expect(await client.closed).toEqual({ code: 1012, reason: 'service restart' })
    expect(client.state).toBe('gone')
    await gateway.stop()
  })

  it('asks what was asked while it was away when it is back', async () => {
    await using gateway = await startGateway()
    await using line = await startCutter(gateway.port)
    const client = await connect({ url: line.url, token: TOKEN, reconnect: QUICK })
    line.cut()
    await new Promise<void>((resolve) => client.onState((state) => void (state === 'waiting' && resolve())))
    expect(await client.request('agents.list', {})).toMatchObject({ defaultId: 'main' })
    client.close()
  })
})

import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { startGateway } from '../support/gateway.ts'

const FILE = { commands: { config: true }, agents: { defaults: { thinkingDefault: 'low' } } }

describe('the configuration, over the wire', () => {
  it('is got, changed with the hash it was got with, and got again as it is in the file', async () => {
    await using gateway = await startGateway({ config: FILE })
    const peer = await gateway.connect()
    const { payload: before } = await peer.request('config.get')
    expect(before).toMatchObject({ exists: true, valid: true, parsed: FILE })
    const patch = { raw: "{ agents: { defaults: { thinkingDefault: 'high' } } }", baseHash: before.hash }
    const { payload: written } = await peer.request('config.patch', patch)
    expect(written).toMatchObject({ ok: true, path: before.path, restart: { scheduled: false } })
    expect(JSON.parse(readFileSync(before.path, 'utf8')).agents.defaults.thinkingDefault).toBe('high')
    expect((await peer.request('config.get'))['payload'].hash).toBe(written.hash)
    expect((await peer.request('config.patch', patch))['error']).toMatchObject({
      message: 'config changed since last load; re-run config.get and retry',
      details: { code: 'CONFIG_CHANGED' },
    })
  })

  it('is not for who is no admin, and not to be written unless the operator says so', async () => {
    await using gateway = await startGateway({ config: { agents: FILE.agents } })
    const writer = await gateway.connect({ scopes: ['operator.write', 'operator.read'] })
    for (const method of ['config.get', 'config.schema', 'config.set', 'config.patch', 'config.apply'])
      expect((await writer.request(method, { raw: '{}' }))['error'], method).toMatchObject({
        details: { code: 'MISSING_SCOPE' },
      })
    const admin = await gateway.connect()
    const { payload } = await admin.request('config.get')
    const { error } = await admin.request('config.set', { raw: '{}', baseHash: payload.hash })
    expect(error).toMatchObject({ code: 'INVALID_REQUEST', details: { code: 'CONFIG_WRITES_OFF' } })
  })

  it('is refused when it would let more people in, in words that name what', async () => {
    await using gateway = await startGateway({ config: FILE })
    const peer = await gateway.connect()
    const { payload } = await peer.request('config.get')
    const raw = "{ gateway: { controlUi: { allowedOrigins: ['*'] } } }"
    const { error } = await peer.request('config.patch', { raw, baseHash: payload.hash })
    expect(error.message).toContain('allowedOrigins gains *')
    expect(error.details.code).toBe('CONFIG_WEAKER')
  })

  it('says what it may hold', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    const { payload } = await peer.request('config.schema')
    expect(payload.schema).toMatchObject({ type: 'object', properties: { gateway: {}, agents: {} } })
  })
})

/** What whoever reads the log is told of credentials, pairings and approvals. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, vi } from 'vitest'
import { type Logger, openLog } from '../../src/logging.ts'
import { createDevice, nonceOf } from '../support/device.ts'
import { CONNECT, startGateway, TOKEN } from '../support/gateway.ts'

function notedLog() {
  const lines: { what: string; [name: string]: unknown }[] = []
  const note = (details: object | string, what?: string) =>
    void lines.push(typeof details === 'string' ? { what: details } : { ...details, what: String(what) })
  const log = { trace: note, debug() {}, info: note, warn: note, error: note, fatal: note } as unknown as Logger
  return { log, line: (words: string) => lines.find(({ what }) => what.includes(words)), lines }
}

function logFile() {
  const folder = mkdtempSync(join(tmpdir(), 'kurultai-log-'))
  const file = join(folder, 'gateway.log')
  return { folder, file, ...openLog({ level: 'info', consoleLevel: 'silent', file }) }
}

const AFAR = { headers: { 'X-Forwarded-For': '203.0.113.9' } }
const CONFIG = { gateway: { trustedProxies: ['127.0.0.1'] } }

describe('the log', () => {
  it('has a line for a named token that is made and ended, with how many sockets that closed', async () => {
    const { log, line } = notedLog()
    await using gateway = await startGateway({ log })
    const admin = await gateway.connect()
    const { payload } = await admin.request('tokens.create', { name: 'page', scopes: ['operator.read'] })
    expect(line('a named token was made')).toMatchObject({ id: payload.id, name: 'page', principal: 'token:shared' })
    const guest = await gateway.connect({ auth: { token: payload.token }, scopes: ['operator.read'] })
    await admin.request('tokens.revoke', { id: payload.id })
    await guest.closed
    expect(line('a named token was revoked')).toMatchObject({ id: payload.id })
    expect(line('a credential has ended')).toMatchObject({ closed: 1 })
    expect(JSON.stringify(line('a named token was made'))).not.toContain(payload.token.split('_')[3])
  })

  it('says who asks to be paired, by which id that is granted, and who was paired without being asked about', async () => {
    const { log, line } = notedLog()
    await using gateway = await startGateway({ log, config: CONFIG })
    const connect = async (options?: typeof AFAR, changes = {}) => {
      const device = createDevice()
      const peer = await gateway.open(options)
      const params = { ...CONNECT, ...changes }
      const proof = device.prove(await nonceOf(peer), changes)
      return { device, answer: await peer.request('connect', { ...params, auth: { token: TOKEN }, device: proof }) }
    }
    const { device: own } = await connect()
    expect(line('paired without being asked about')).toMatchObject({ device: own.id, role: 'operator' })
    const { device, answer } = await connect(AFAR, { role: 'node', scopes: [] })
    const { requestId } = answer['error'].details
    expect(line('a device asks to be paired: device.pair.approve')).toMatchObject({
      requestId,
      device: device.id,
      from: '203.0.113.9',
    })
    expect(line('connection refused')).toMatchObject({ requestId, next: 'approve_device' })
    const admin = await gateway.connect()
    const about = { deviceId: own.id, role: 'operator' }
    await admin.request('device.token.rotate', about)
    expect(line('the token of a device was rotated')).toMatchObject({ device: own.id })
    await admin.request('device.token.revoke', about)
    expect(line('the token of a device was revoked')).toMatchObject({ device: own.id })
  })

  it('says that a command waits for somebody, and never the command', async () => {
    const { log, line, lines } = notedLog()
    await using gateway = await startGateway({ log })
    const admin = await gateway.connect()
    admin.send(
      JSON.stringify({
        type: 'req',
        id: 'a',
        method: 'exec.approval.request',
        params: { command: 'rm -rf secret-place' },
      }),
    )
    await vi.waitFor(() =>
      expect(line('a command waits for somebody to decide')).toMatchObject({ principal: 'token:shared' }),
    )
    expect(JSON.stringify(lines)).not.toContain('secret-place')
  })

  it('says when what a client wrote into the configuration is used', async () => {
    const { log, line } = notedLog()
    await using gateway = await startGateway({ log, config: { commands: { config: true } } })
    const admin = await gateway.connect()
    const { payload } = await admin.request('config.get')
    await admin.request('config.patch', { raw: '{ logging: { level: "debug" } }', baseHash: payload.hash })
    expect(line('it is used from the next start on')).toBeDefined()
  })

  it('says how long a lock-out is, and what to send where nothing was', async () => {
    const { log, line, lines } = notedLog()
    let at = 0
    await using gateway = await startGateway({ log, config: CONFIG, monotonic: () => at })
    const guess = async (auth?: object) => {
      // Of those who are refused there are ten lines a second.
      at += 1_000
      const peer = await gateway.open(AFAR)
      await nonceOf(peer)
      const { auth: _, ...rest } = CONNECT as typeof CONNECT & { auth?: object }
      return (await peer.request('connect', { ...rest, ...(auth && { auth }) }))['error']
    }
    expect((await guess()).details).toMatchObject({ recommendedNextStep: 'send_token' })
    expect(line('connection refused')).toMatchObject({ next: 'send_token' })
    expect((await guess({ token: '0'.repeat(32) })).message).toContain('counts only beside a proof by the key')
    for (let n = 0; n < 10; n++) await guess({ token: `wrong ${n}` })
    const locked = lines.filter(({ retryAfterMs }) => Number(retryAfterMs) > 200_000)
    expect(locked).toHaveLength(1)
  })

  it('reads the same in a client as on the console: words, level and time stand where other clients look for them', async () => {
    const { folder, file, ...logs } = logFile()
    await using gateway = await startGateway({ log: logs.log, config: { logging: { file } } })
    const admin = await gateway.connect()
    logs.log.warn({ agent: 'main' }, 'a line of a test')
    const { payload } = await admin.request('logs.tail', { limit: 1 })
    expect(JSON.parse(payload.lines[0])).toMatchObject({
      1: 'a line of a test (agent=main)',
      msg: 'a line of a test',
      _meta: { logLevelName: 'WARN', date: expect.stringMatching(/^2\d{3}-/) },
    })
    logs.close()
    rmSync(folder, { recursive: true })
  })
})

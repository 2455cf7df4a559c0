import { execFileSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { request } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TLSSocket } from 'node:tls'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { WebSocket } from 'ws'
import { loadConfig } from '../../src/config/load.ts'
import { readTls, watchTls } from '../../src/transport/tls.ts'
import { startGateway, TOKEN } from '../support/gateway.ts'
import { quiet } from '../support/rooms.ts'

let folder: string
const file = (name: string) => join(folder, name)
const make = (name: string) =>
  execFileSync(
    'openssl',
    [
      'req',
      '-x509',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:prime256v1',
      '-nodes',
      '-days',
      '1',
      '-subj',
      `/CN=${name}`,
      '-keyout',
      file(`${name}.key`),
      '-out',
      file(`${name}.crt`),
    ],
    { stdio: 'ignore' },
  )

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'tls-'))
  if (!existsSync('/usr/bin/openssl')) return
  for (const name of ['one', 'two']) make(name)
  for (const kind of ['crt', 'key']) copyFileSync(file(`one.${kind}`), file(`now.${kind}`))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

/** Asks for /health, and tells whose certificate was shown. */
const whose = (url: string) =>
  new Promise<{ status: number; name: string }>((resolve, reject) => {
    const asked = request(`${url}health`, { rejectUnauthorized: false, agent: false }, (response) => {
      const name = String((response.socket as TLSSocket).getPeerCertificate().subject.CN)
      response.resume().on('end', () => resolve({ status: response.statusCode!, name }))
    })
    asked.on('error', reject).end()
  })

describe.skipIf(!existsSync('/usr/bin/openssl'))('a gateway with a certificate', () => {
  it('speaks https and wss, and nothing else', async () => {
    const tls = { cert: file('now.crt'), key: file('now.key') }
    await using gateway = await startGateway({ config: { gateway: { tls } } })
    const url = gateway.url.replace('ws:', 'https:')
    expect(await whose(url)).toEqual({ status: 200, name: 'one' })
    await expect(fetch(gateway.url.replace('ws:', 'http:'))).rejects.toThrow()
    const socket = new WebSocket(gateway.url.replace('ws:', 'wss:'), { rejectUnauthorized: false })
    const frames: { event?: string; payload?: { type?: string } }[] = []
    socket.on('message', (data) => {
      frames.push(JSON.parse(String(data)))
      if (frames.length === 1)
        socket.send(JSON.stringify({ type: 'req', id: '1', method: 'connect', params: { token: TOKEN } }))
    })
    await vi.waitFor(() => expect(frames[1]?.payload?.type).toBe('hello-ok'))
    socket.close()
  })

  it('shows the new one once its files have changed, and keeps the old one when they do not fit', async () => {
    const errors: string[] = []
    const server = { setSecureContext: vi.fn() }
    const log = { ...quiet, error: (_: object, words: string) => errors.push(words) }
    const files = { cert: file('now.crt'), key: file('now.key') }
    const end = watchTls(files, () => [server as never], log as never, 5)
    copyFileSync(file('two.crt'), file('now.crt'))
    await vi.waitFor(() => expect(errors).toEqual(['the new certificate cannot be used; the old one stays']))
    expect(server.setSecureContext).not.toHaveBeenCalled()
    copyFileSync(file('two.key'), file('now.key'))
    await vi.waitFor(() => expect(server.setSecureContext).toHaveBeenCalledWith(readTls(files)))
    end()
  })

  it('is not started with files that are not there', () => {
    writeFileSync(file('openclaw.json5'), '{ gateway: { tls: { cert: "nowhere.crt", key: "nowhere.key" } } }')
    const source = { env: {}, home: folder, cwd: folder, flags: { stateDir: folder } }
    expect(() => loadConfig(source)).toThrow(/gateway.tls.cert: .*nowhere.crt cannot be read/)
  })
})

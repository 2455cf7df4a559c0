import { chmodSync, copyFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { ConfigError, loadConfig } from '../../src/config/load.ts'
import { canMakeCertificates, makeCertificate } from '../support/certificate.ts'
import { folder } from './folder.ts'

const DAY_MS = 86_400_000

describe.skipIf(!canMakeCertificates)('gateway.tls', () => {
  let home: string
  beforeEach(() => {
    home = folder({ 'etc/openclaw.json5': '{ gateway: { tls: { cert: "one.crt", key: "one.key" } } }' })
    makeCertificate(path.join(home, 'etc'), 'one')
  })
  afterEach(() => void vi.useRealTimers())

  const loaded = () => loadConfig({ env: { OPENCLAW_CONFIG_PATH: 'etc/openclaw.json5' }, home, cwd: home })
  const problems = () => {
    try {
      return loaded().warnings
    } catch (error) {
      if (error instanceof ConfigError) return error.problems
      throw error
    }
  }
  const file = (name: string) => path.join(home, 'etc', name)

  it('names files from the folder of the configuration on', () => {
    expect(loaded().gateway.tls).toEqual({ cert: file('one.crt'), key: file('one.key') })
    expect(loaded().warnings).toEqual([])
  })

  it('is refused with files that are no PEM, or no pair, in words that name both', () => {
    makeCertificate(path.join(home, 'etc'), 'two')
    copyFileSync(file('two.key'), file('one.key'))
    chmodSync(file('one.key'), 0o600)
    const words = expect.stringMatching(/^gateway\.tls: .*one\.crt and .*one\.key are no certificate with its key/)
    expect(problems()).toEqual([words])
    writeFileSync(file('one.key'), 'a key')
    expect(problems()).toEqual([words])
    writeFileSync(file('one.crt'), '')
    expect(problems()).toEqual([words])
  })

  it('is warned of when the certificate has ended, or will within two weeks', () => {
    vi.useFakeTimers({ toFake: ['Date'] })
    const now = Date.now()
    vi.setSystemTime(now + 340 * DAY_MS)
    expect(loaded().warnings).toEqual([])
    vi.setSystemTime(now + 352 * DAY_MS)
    expect(loaded().warnings).toEqual([expect.stringMatching(/^gateway\.tls\.cert: .*one\.crt ends soon/)])
    vi.setSystemTime(now + 366 * DAY_MS)
    expect(loaded().warnings).toEqual([expect.stringMatching(/^gateway\.tls\.cert: .*one\.crt has ended/)])
  })

  it('is warned of when others can read the key', () => {
    chmodSync(file('one.key'), 0o640)
    expect(loaded().warnings).toEqual([expect.stringMatching(/^gateway\.tls\.key: others can read .* \(mode 0640\)/)])
  })
})

/** What an operator of Kurultai finds in deploy/. */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { contains, parseRange } from '../../src/config/address.ts'
import { loadConfig } from '../../src/config/load.ts'
import { CADDYFILE } from '../support/caddy.ts'
import { TOKEN } from '../support/gateway.ts'
import { DEPLOYED, deployed } from '../support/kurultai.ts'

const file = (name: string) => new URL(`../../deploy/${name}`, import.meta.url).pathname
const textOf = (name: string) => readFileSync(file(name), 'utf8')

it('the configuration loads, with the agents of the council and nothing to complain of but what is not there yet', () => {
  const home = mkdtempSync(join(tmpdir(), 'kurultai-deploy-'))
  const env = { OPENCLAW_GATEWAY_TOKEN: TOKEN, MOONSHOT_API_KEY: 'x', KIMI_API_KEY: 'x' }
  const config = loadConfig({ env, home, cwd: home, flags: { configPath: file('kurultai/openclaw.json5') } })
  rmSync(home, { recursive: true })
  expect(config.agents.list.map(({ id }) => id)).toEqual(deployed().agents.list.map(({ id }) => id))
  expect([config.compat.kurultai, config.session.projectFiles]).toEqual([true, true])
  const known = /^(no workspace folder|gateway\.bind: .* plain HTTP|gateway\.trustedProxies: .* is a very wide range)/
  expect(config.warnings.filter((line) => !known.test(line))).toEqual([])
})

it('the proxy of the composition is one that the configuration trusts, and the gateway is reached through it only', () => {
  const compose = textOf('kurultai/compose.yaml')
  const proxy = /caddy:\n[\s\S]*ipv4_address: (\S+) /.exec(compose)?.[1] ?? ''
  const { trustedProxies } = deployed().gateway as { trustedProxies: string[] }
  expect(trustedProxies.some((text) => contains(parseRange(text)!, proxy))).toBe(true)
  expect([...compose.matchAll(/^ {6}- "(\S+)"$/gm)].map(([, port]) => port)).toEqual(['9000:9000'])
  expect(compose).toContain('OPENCLAW_COMPAT: kurultai')
})

it('the unit starts what the image starts, and leaves time for answers to end', ({ skip }) => {
  const unit = textOf('kurultai/kurultai.service')
  expect(unit).toMatch(
    /^ExecStart=\/usr\/bin\/env node --disable-proto=throw dist\/index\.js gateway --bind loopback --port 18789$/m,
  )
  const stop = Number(/^TimeoutStopSec=(\d+)$/m.exec(unit)?.[1])
  expect(stop).toBeGreaterThan(60)
  if (!existsSync('/usr/bin/systemd-analyze')) skip('there is no systemd that could judge it')
  const { stderr } = spawnSync('/usr/bin/systemd-analyze', ['verify', '--man=no', file('kurultai/kurultai.service')], {
    encoding: 'utf8',
  })
  expect(
    stderr.split('\n').filter((line) => line.includes('kurultai.service') && /Unknown|Failed to parse/.test(line)),
  ).toEqual([])
})

it.for([
  ['openclaw.json5', DEPLOYED],
  ['Caddyfile', CADDYFILE],
] as const)('%s, by which all this is tested, is the one that is deployed', ([name, copy], { skip }) => {
  const original = new URL(`../../../shared/kurultai/${name}`, import.meta.url).pathname
  if (!existsSync(original)) skip('the folder with the deployed files is not beside this checkout')
  expect(readFileSync(copy, 'utf8')).toBe(readFileSync(original, 'utf8'))
})

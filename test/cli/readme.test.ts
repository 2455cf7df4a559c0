import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { loadConfig } from '../../src/config/load.ts'
import { absent, empty } from '../../src/contract/absent.ts'
import { startGateway, TOKEN } from '../support/gateway.ts'

const readme = readFileSync(new URL('../../README.md', import.meta.url), 'utf8')

it('the program in the README works as it stands', async () => {
  await using gateway = await startGateway()
  const [, source] = /```js\n([\s\S]*?)```/.exec(readme) ?? []
  expect(source!.split('\n').length).toBeLessThanOrEqual(20)
  const folder = mkdtempSync(join(tmpdir(), 'kurultai-readme-'))
  writeFileSync(join(folder, 'hello.mjs'), source!.replace('127.0.0.1:18789', `127.0.0.1:${gateway.port}`))
  const child = spawn(process.execPath, [join(folder, 'hello.mjs')], {
    env: { TOKEN },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let out = ''
  child.stdout.on('data', (data) => {
    out += data
  })
  const code = await new Promise((resolve) => child.on('close', resolve))
  rmSync(folder, { recursive: true })
  expect(out).toContain('You said: hello')
  expect(code).toBe(0)
})

it('shows configurations that load as they stand, without a word', () => {
  const blocks = [...readme.matchAll(/```json5\n([\s\S]*?)```/g)].map(([, text]) => text!)
  expect(blocks.length).toBeGreaterThan(1)
  for (const text of blocks) {
    const home = mkdtempSync(join(tmpdir(), 'kurultai-readme-'))
    writeFileSync(join(home, 'openclaw.json5'), text, { mode: 0o600 })
    const env = { OPENCLAW_GATEWAY_TOKEN: TOKEN, MOONSHOT_API_KEY: 'x', LOCAL_KEY: 'x', WEATHER_KEY: 'x' }
    const { warnings } = loadConfig({ env, home, cwd: home, flags: { stateDir: home } })
    expect(warnings.filter((line) => !line.startsWith('no workspace folder'))).toEqual([])
    rmSync(home, { recursive: true })
  }
})

it('names every method that is not served, or has nothing to tell, and no other', () => {
  const rowOf = (words: string) => readme.split('\n').find((row) => row.startsWith('|') && row.includes(words))!
  const named = (row: string, names: string[]) => {
    let family = ''
    return [...row.split('|')[1]!.matchAll(/`([^`]+)`/g)].flatMap(([, name]) => {
      // `web.login.*`, or `channels.logout`, `start` and `stop`.
      if (name!.endsWith('.*')) return names.filter((one) => one.startsWith(name!.slice(0, -1)))
      if (name!.includes('.')) family = name!.slice(0, name!.lastIndexOf('.'))
      return name!.includes('.') || family === '' ? [name!] : [`${family}.${name}`]
    })
  }
  for (const [words, methods] of [
    ['that there are none', empty],
    ['`NOT_SERVED`', absent],
  ] as const) {
    const names = Object.keys(methods)
    expect(named(rowOf(words), names).toSorted()).toEqual(names.toSorted())
  }
})

it('gives the two commands', () => {
  expect(readme).toContain('npm ci && npm start')
  expect(readme).toContain('npm ci && npm test')
})

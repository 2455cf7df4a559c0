/** What the configuration says agents may do, as it will hold. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { Config } from '../../src/config/config.ts'
import { loadConfig } from '../../src/config/load.ts'

let home: string
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), 'config-tools-'))
})
afterEach(() => rmSync(home, { recursive: true, force: true }))

function load(text: string): Config {
  writeFileSync(join(home, 'openclaw.json5'), text, { mode: 0o600 })
  const env = { OPENCLAW_GATEWAY_TOKEN: 'a-token-that-is-long-enough-0123', KEY: 'the key' }
  return loadConfig({ env, home, cwd: home, flags: { stateDir: home } })
}
const problems = (text: string): string[] => {
  try {
    load(text)
    return []
  } catch (error) {
    return (error as { problems: string[] }).problems
  }
}

const AGENTS = "agents: { list: [{ id: 'main', name: 'Kublai' }, { id: 'researcher', name: 'Möngke' }] }"

describe('who may send to whom', () => {
  it('is nobody to nobody where nothing is said, within bounds that keep agents from going in circles', () => {
    expect(load('{}').tools).toMatchObject({
      timeoutMs: 60_000,
      maxRounds: 32,
      agentToAgent: {
        enabled: false,
        allow: [],
        limits: { hops: 8, visits: 3, messages: 50, fanOut: 8, tokens: 0, cost: 0 },
      },
    })
  })

  it('is read by id or by name, with or without accents, whatever the case', () => {
    const { tools, warnings } = load(`{ ${AGENTS}, tools: { agentToAgent: { allow: ['KUBLAI', 'mongke', '*'] } } }`)
    expect(tools.agentToAgent.allow).toEqual(['main', 'researcher', '*'])
    expect(warnings).toEqual([])
    const pairs = load(`{ ${AGENTS}, tools: { agentToAgent: { allow: { Kublai: ['Möngke'] } } } }`)
    expect(pairs.tools.agentToAgent.allow).toEqual({ main: ['researcher'] })
  })

  it('is warned of where it names nobody', () => {
    const { warnings } = load(`{ ${AGENTS}, tools: { agentToAgent: { allow: ['main', 'nobody'] } } }`)
    expect(warnings).toEqual(['tools.agentToAgent.allow: nobody is no agent'])
  })

  it.each([
    ["{ main: 'researcher' }", 'tools.agentToAgent.allow.main: must be array, got "researcher"'],
    ['[1]', 'tools.agentToAgent.allow[0]: must be string, got 1'],
    ["'main'", 'tools.agentToAgent.allow: must be array or object, got "main"'],
  ])('is refused at the very place where it is wrong: %s', (allow, problem) => {
    expect(problems(`{ tools: { agentToAgent: { allow: ${allow} } } }`)).toEqual([problem])
  })
})

describe('a server of tools', () => {
  it('is started, or called by its address, with its secrets wrapped', () => {
    const { mcp } = load(`{ ${AGENTS}, mcp: { servers: {
      files: { command: 'files', args: ['/tmp'], env: { A_KEY: '\${KEY}' }, agents: ['Möngke'], timeoutSeconds: 5 },
      web: { url: 'https://tools.example/mcp', headers: { authorization: 'Bearer \${KEY}' } },
      off: { command: 'off', enabled: false },
    } } }`)
    expect(mcp.servers.map(({ name }) => name)).toEqual(['files', 'web'])
    expect(mcp.servers[0]).toMatchObject({ agents: ['researcher'], timeoutMs: 5_000, startMs: 20_000 })
    expect(JSON.stringify(mcp)).not.toContain('the key')
  })

  it.each([
    ['{}', 'give either command or url'],
    ["{ command: 'x', url: 'http://a' }", 'give either command or url'],
    ["{ url: 'file:///etc/passwd' }", 'must be an http or https address'],
  ])('is refused when it cannot be reached as it is written: %s', (server, problem) => {
    expect(problems(`{ mcp: { servers: { s: ${server} } } }`)[0]).toContain(problem)
  })

  it('is warned of where it is for nobody', () => {
    const { warnings } = load(`{ mcp: { servers: { s: { command: 'x', agents: ['wirter'] } } } }`)
    expect(warnings).toEqual(['mcp.servers.s.agents: wirter is no agent'])
  })
})

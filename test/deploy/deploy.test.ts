/** What deploy/, the Dockerfile and the README say about one gateway is the same. The image itself: `npm run test:image`. */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { loadConfig } from '../../src/config/load.ts'
import { defaults } from '../../src/config/schema.ts'

const read = (file: string) => readFileSync(new URL(`../../${file}`, import.meta.url), 'utf8')

const PORT = defaults.port
const STATE = '/data'
const USER = '1001'
const CONFIG = '/data/.openclaw/openclaw.json5'

/** The instructions of the Dockerfile's last stage, those that go on over several lines as one. */
const instructions = read('Dockerfile')
  .replaceAll('\\\n', '')
  .split('\n')
  .filter((line) => /^[A-Z]+ /.test(line))
const lastStage = instructions.slice(instructions.findLastIndex((line) => line.startsWith('FROM ')))
const instruction = (name: string): string =>
  lastStage
    .filter((line) => line.startsWith(`${name} `))
    .map((line) => line.slice(name.length + 1))
    .join(' ')

const python = '/usr/bin/python3'
const canReadYaml = existsSync('/usr/lib/python3/dist-packages/yaml/__init__.py')

describe('the Dockerfile', () => {
  it('starts the gateway as the deployment does, on its port, as its user, on its volume', () => {
    const command = JSON.parse(instruction('CMD')) as string[]
    expect(command.filter((part) => !part.startsWith('--disable'))).toEqual([
      'node',
      'dist/index.js',
      'gateway',
      '--bind',
      'lan',
      '--port',
      String(PORT),
      '--allow-unconfigured',
    ])
    expect(instruction('EXPOSE')).toBe(String(PORT))
    expect(instruction('USER')).toBe(`${USER}:${USER}`)
    expect(instruction('RUN')).toContain(`useradd --uid ${USER} --gid ${USER} --no-create-home --home-dir ${STATE} `)
    expect(instruction('VOLUME')).toBe(STATE)
    expect(instruction('ENV')).toContain(`HOME=${STATE}`)
    expect(instruction('HEALTHCHECK')).toContain(`http://127.0.0.1:${PORT}/health`)
  })

  it('copies what .dockerignore lets through, and nothing else', () => {
    const [all, ...others] = read('.dockerignore').trim().split('\n')
    expect(all).toBe('*')
    const copied = instructions
      .filter((line) => line.startsWith('COPY ') && !line.includes('--from='))
      .flatMap((line) => line.split(' ').slice(1, -1))
      .map((path) => `!${path.split('/')[0]}`)
    expect(others.toSorted()).toEqual([...new Set(copied)].toSorted())
  })
})

describe.skipIf(!canReadYaml)('deploy/compose.yaml', () => {
  interface Compose {
    services: { [name: string]: { [key: string]: unknown } }
    volumes: object
  }
  const script = 'import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)'
  const compose = () =>
    JSON.parse(
      spawnSync(python, ['-c', script], { input: read('deploy/compose.yaml'), encoding: 'utf8' }).stdout,
    ) as Compose

  it('gives the image what the Dockerfile expects, and no privilege', () => {
    const { services, volumes } = compose()
    // Others reach it by this name.
    expect(Object.keys(services)).toEqual(['gateway'])
    expect(services['gateway']).toEqual({
      build: '..',
      environment: {
        // biome-ignore lint/suspicious/noTemplateCurlyInString: compose replaces it
        OPENCLAW_GATEWAY_TOKEN: '${OPENCLAW_GATEWAY_TOKEN:?set a token of at least 24 characters}',
        // biome-ignore lint/suspicious/noTemplateCurlyInString: as above
        MOONSHOT_API_KEY: '${MOONSHOT_API_KEY:-}',
        // biome-ignore lint/suspicious/noTemplateCurlyInString: as above
        KIMI_API_KEY: '${KIMI_API_KEY:-}',
      },
      ports: [`127.0.0.1:${PORT}:${PORT}`],
      volumes: [`state:${STATE}`, `./openclaw.json5:${CONFIG}:ro`],
      read_only: true,
      tmpfs: ['/tmp'],
      cap_drop: ['ALL'],
      security_opt: ['no-new-privileges:true'],
      init: true,
      restart: 'unless-stopped',
      stop_grace_period: expect.stringMatching(/^\d+s$/),
      mem_limit: '512m',
    })
    expect(volumes).toEqual({ state: {} })
  })

  it('waits longer before it kills than answers have to end', () => {
    const { stop_grace_period: grace } = compose().services['gateway']!
    expect(Number.parseInt(String(grace), 10)).toBeGreaterThan(defaults.drainSeconds)
  })
})

describe('deploy/openclaw.json5', () => {
  it('is a configuration without fault, all of whose secrets come from the environment', () => {
    const file = mkdtempSync(join(tmpdir(), 'kurultai-deploy-'))
    try {
      const config = loadConfig({
        env: { OPENCLAW_GATEWAY_TOKEN: 'a-token-of-at-least-24-characters', MOONSHOT_API_KEY: 'k', KIMI_API_KEY: 'k' },
        home: file,
        cwd: file,
        flags: { configPath: new URL('../../deploy/openclaw.json5', import.meta.url).pathname },
      })
      expect(config.agents.list.map(({ name }) => name)).toEqual([
        'Kublai',
        'Möngke',
        'Chagatai',
        'Temüjin',
        'Jochi',
        'Ögedei',
      ])
      expect(config.warnings.filter((warning) => !warning.includes('plain HTTP'))).toEqual([])
      expect(config.commands.config).toBe(false)
    } finally {
      rmSync(file, { recursive: true })
    }
  })
})

describe('deploy/kurultai-gateway.service', () => {
  const unit = read('deploy/kurultai-gateway.service')
  const setting = (name: string): string[] =>
    [...unit.matchAll(new RegExp(`^${name}=(.*)$`, 'gm'))].map(([, value]) => value!)

  it('starts the same gateway, which keeps its state where systemd lets it write', () => {
    const [command = ''] = setting('ExecStart')
    expect(command).toMatch(
      new RegExp(` --disable-proto=throw \\S+/dist/index\\.js gateway --bind loopback --port ${PORT}$`),
    )
    const [folder] = setting('StateDirectory')
    expect(setting('Environment').join(' ')).toContain(`OPENCLAW_STATE_DIR=/var/lib/${folder}`)
    expect(setting('WorkingDirectory')).toEqual([`/var/lib/${folder}`])
  })

  it('waits longer before it kills than answers have to end, and does not start again what no start mends', () => {
    expect(Number(setting('TimeoutStopSec')[0])).toBeGreaterThan(defaults.drainSeconds)
    expect(setting('RestartPreventExitStatus')).toEqual(['64 65 78'])
  })

  it.skipIf(!existsSync('/usr/bin/systemd-analyze'))('is understood by systemd to the last line', () => {
    const folder = mkdtempSync(join(tmpdir(), 'kurultai-unit-'))
    const file = join(folder, 'kurultai-gateway.service')
    // It looks whether the program is there.
    writeFileSync(file, unit.replace('ExecStart=/usr/bin/node', `ExecStart=${process.execPath}`))
    const { status, stderr, stdout } = spawnSync('systemd-analyze', ['verify', file], { encoding: 'utf8' })
    rmSync(folder, { recursive: true })
    const about = `${stdout}${stderr}`.split('\n').filter((line) => line.includes('kurultai-gateway'))
    expect([status, about]).toEqual([0, []])
  })
})

describe('the README and the proxy', () => {
  it('name the port, the volume and the files that there are', () => {
    const readme = read('README.md')
    expect(readme).toContain(`docker run --init -p 127.0.0.1:${PORT}:${PORT} -v kurultai:${STATE} `)
    for (const [file] of readme.matchAll(/\bdeploy\/[\w.-]*\w/g))
      expect(existsSync(new URL(`../../${file}`, import.meta.url)), file).toBe(true)
    expect(read('deploy/Caddyfile').match(/UPSTREAM:127\.0\.0\.1:\d+/g)).toEqual(
      Array(3).fill(`UPSTREAM:127.0.0.1:${PORT}`),
    )
  })
})

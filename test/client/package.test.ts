/** The client as another project has it: by the name of the package. */
import { execFile, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { build, stale } from '../../tools/build.mjs'
import { startGateway, TOKEN } from '../support/gateway.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
let project: string
beforeAll(async () => {
  if (stale()) await build()
  project = mkdtempSync(join(tmpdir(), 'project-'))
  mkdirSync(join(project, 'node_modules'))
  symlinkSync(root, join(project, 'node_modules/kurultai-gateway'))
  writeFileSync(join(project, 'package.json'), '{ "type": "module" }')
}, 60_000)
afterAll(() => rmSync(project, { recursive: true, force: true }))

const run = (...args: string[]) =>
  spawnSync(process.execPath, args, { cwd: project, encoding: 'utf8', timeout: 20_000 })

const PROGRAM = `import { connect } from 'kurultai-gateway/client'
const client = await connect({ url: process.argv[2] ?? '', token: '${TOKEN}' })
const chat = client.chat({ sessionKey: 'main', message: 'hello' })
let text = ''
for await (const chunk of chat) if (chunk.type === 'delta') text += chunk.text
console.log(text)
client.close()
`

it('is imported by the name of the package, and talks', async () => {
  await using gateway = await startGateway()
  writeFileSync(join(project, 'talk.js'), PROGRAM)
  const said = await new Promise<string>((resolve, reject) =>
    execFile(process.execPath, ['talk.js', gateway.url], { cwd: project }, (error, stdout) =>
      error ? reject(error) : resolve(stdout),
    ),
  )
  expect(said).toContain('You said: hello')
})

it('has types, which know each method', () => {
  writeFileSync(
    join(project, 'talk.ts'),
    `${PROGRAM}const { key }: { key: string } = await client.request('sessions.resolve', { key: 'main' })\nconsole.log(key)\n`,
  )
  writeFileSync(
    join(project, 'wrong.ts'),
    "import { connect } from 'kurultai-gateway/client'\nawait (await connect({ url: '' })).request('sessions.nothing', {})\n",
  )
  const compiler = join(root, 'node_modules/typescript/bin/tsc')
  const options = [
    '--noEmit',
    '--strict',
    '--skipLibCheck',
    '--module',
    'nodenext',
    '--target',
    'es2023',
    '--lib',
    'es2024,esnext.disposable,dom',
    '--types',
    'node',
    '--typeRoots',
    join(root, 'node_modules/@types'),
  ]
  expect(run(compiler, 'talk.ts', ...options).stdout).toBe('')
  expect(run(compiler, 'wrong.ts', ...options).stdout).toContain('sessions.nothing')
})

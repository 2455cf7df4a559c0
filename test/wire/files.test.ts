/** The files of an agent's workspace, over the wire, and the prompt that they make. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { endOf, type Peer, startGateway } from '../support/gateway.ts'
import { type ModelServer, startModelServer } from '../support/model-server.ts'

let model: ModelServer
let workspace: string
beforeEach(async () => {
  model = await startModelServer()
  workspace = mkdtempSync(join(tmpdir(), 'workspace-'))
})
afterEach(async () => {
  await model.close()
  rmSync(workspace, { recursive: true, force: true })
})

const open = () =>
  startGateway({
    config: {
      models: { providers: { fake: { baseUrl: `${model.url}/v1`, apiKey: 'none', models: [{ id: 'm' }] } } },
      agents: {
        defaults: { model: 'fake/m', bootstrapMaxChars: 40 },
        list: [{ id: 'main', name: 'Möngke', workspace }, { id: 'bare' }],
      },
    },
  })

let keys = 0
/** What the model was told of who it is. */
async function systemOf(peer: Peer): Promise<string> {
  const idempotencyKey = `ask-${++keys}`
  await peer.request('chat.send', { sessionKey: 'main', message: 'hello', idempotencyKey })
  await peer.next(endOf(idempotencyKey))
  const { messages } = model.requests.at(-1)!.body as { messages: { role: string; content: string }[] }
  return messages.filter(({ role }) => role === 'system' || role === 'developer')[0]?.content ?? ''
}

it('a file that was set is in the next prompt, cut where the configuration says', async () => {
  await using gateway = await open()
  const peer = await gateway.connect()
  expect(await systemOf(peer)).not.toContain('SOUL')
  const set = (content: string) => peer.request('agents.files.set', { agentId: 'main', name: 'SOUL.md', content })
  expect((await set('You are kind.')).ok).toBe(true)
  expect(await systemOf(peer)).toContain('# SOUL.md\n\nYou are kind.')
  await set(`You are terse. ${'x'.repeat(100)}`)
  const cut = await systemOf(peer)
  expect(cut).toContain('You are terse.')
  expect(cut).not.toContain('kind')
  expect(cut).toContain('SOUL.md is cut here after 40 characters; the file has 115 bytes')
})

it('they are listed, got and set in the shapes of the wire', async () => {
  await using gateway = await open()
  const peer = await gateway.connect()
  writeFileSync(join(workspace, 'SOUL.md'), 'soul')
  const at = { agentId: 'main', workspace }
  const { payload: list } = await peer.request('agents.files.list', { agentId: 'mongke' })
  expect(list).toMatchObject(at)
  expect(list.files[0]).toEqual({ name: 'AGENTS.md', path: join(workspace, 'AGENTS.md'), missing: true })
  expect(list.files[1]).toMatchObject({ name: 'SOUL.md', missing: false, size: 4 })
  const get = await peer.request('agents.files.get', { agentId: 'main', name: 'AGENTS.md' })
  expect(get['payload']).toEqual({ ...at, file: list.files[0] })
  const set = await peer.request('agents.files.set', { agentId: 'main', name: 'AGENTS.md', content: 'be good' })
  expect(set['payload']).toMatchObject({ ok: true, ...at, file: { name: 'AGENTS.md', missing: false, size: 7 } })
  expect(readFileSync(join(workspace, 'AGENTS.md'), 'utf8')).toBe('be good')
  const again = await peer.request('agents.files.get', { agentId: 'main', name: 'AGENTS.md' })
  expect(again['payload']).toEqual({ ...at, file: set['payload'].file })
})

it('what is none of them, an agent without a workspace, and one that nobody knows are refused', async () => {
  await using gateway = await open()
  const peer = await gateway.connect()
  const codeOf = async (params: object) =>
    (await peer.request('agents.files.set', { content: 'x', ...params }))['error']
  expect(await codeOf({ agentId: 'main', name: 'NOTES.md' })).toEqual({
    code: 'INVALID_REQUEST',
    message: 'unsupported file "NOTES.md"',
    details: { code: 'UNSUPPORTED_FILE' },
  })
  expect(await codeOf({ agentId: 'bare', name: 'SOUL.md' })).toMatchObject({
    message: expect.stringContaining('agents.list[].workspace'),
    details: { code: 'NO_WORKSPACE' },
  })
  expect(await codeOf({ agentId: 'nobody', name: 'SOUL.md' })).toMatchObject({ details: { code: 'UNKNOWN_AGENT' } })
  const old = await codeOf({ agentId: 'main', name: 'SOUL.md', mode: 'append' })
  expect(old.message).toContain("unexpected property 'mode'")
})

it('a change is audited, whether it was made or refused, without its text', async () => {
  await using gateway = await open()
  const peer = await gateway.connect()
  for (const name of ['SOUL.md', 'NOTES.md'])
    await peer.request('agents.files.set', { agentId: 'main', name, content: 'a canary' })
  await peer.request('agents.files.get', { agentId: 'main', name: 'SOUL.md' })
  const { payload } = await peer.request('audit.entries', { kind: 'call' })
  const calls = payload.entries.filter(({ what }: { what: string }) => what.startsWith('agents.files'))
  expect(calls).toMatchObject([
    { what: 'agents.files.set', ok: false, code: 'UNSUPPORTED_FILE', about: { agentId: 'main', name: 'NOTES.md' } },
    { what: 'agents.files.set', ok: true, about: { agentId: 'main', name: 'SOUL.md' } },
  ])
  expect(JSON.stringify(payload)).not.toContain('canary')
})

/** What the clients of the reference ask for and is not here: what they are told. */
import { describe, expect, it } from 'vitest'
import { absent, empty } from '../../src/contract/absent.ts'
import { startGateway } from '../support/gateway.ts'

/** Parameters that fit each of them. */
const PARAMETERS: Record<keyof typeof absent, object> = {
  'channels.logout': { channel: 'telegram' },
  'channels.start': { channel: 'telegram' },
  'channels.stop': { channel: 'telegram' },
  send: { to: 'x', message: 'hi', channel: 'nope', idempotencyKey: 'k' },
  poll: { to: 'x', question: 'what?', options: ['a', 'b'], idempotencyKey: 'k' },
  'web.login.start': {},
  'web.login.wait': { timeoutMs: 1 },
  'skills.install': { name: 'x', installId: 'brew' },
  'skills.update': { skillKey: 'x', enabled: true },
  'tts.enable': {},
  'tts.convert': { text: 'hello' },
  'tts.setProvider': { provider: 'edge' },
  'browser.request': { method: 'GET', path: '/' },
  'update.run': {},
  'wizard.start': { mode: 'local' },
  'wizard.next': { sessionId: 'nope' },
  'wizard.cancel': { sessionId: 'nope' },
  'wizard.status': { sessionId: 'nope' },
}

/** In the words that clients know. */
const WORDS: Partial<typeof PARAMETERS extends Record<infer M, object> ? Record<M, string> : never> = {
  send: 'unsupported channel: nope',
  poll: 'unsupported poll channel: whatsapp',
  'web.login.start': 'web login provider is not available',
  'web.login.wait': 'web login provider is not available',
  'wizard.next': 'wizard not found',
  'wizard.cancel': 'wizard not found',
  'wizard.status': 'wizard not found',
}

describe('what is not served', () => {
  it('is refused with what to do instead, each method of it', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    for (const [method, { instead }] of Object.entries(absent)) {
      const { error } = await peer.request(method, PARAMETERS[method as keyof typeof absent])
      expect([method, error]).toEqual([
        method,
        {
          code: 'INVALID_REQUEST',
          message: WORDS[method as keyof typeof absent] ?? `${method} is not served here: ${instead}`,
          details: { code: 'NOT_SERVED', instead },
        },
      ])
    }
  })

  it('is listed nowhere, and neither is what there is nothing of', async () => {
    await using gateway = await startGateway()
    const { hello } = await gateway.connect()
    const { methods } = hello['payload'].features
    expect(methods).toContain('chat.send')
    const unlisted = [...Object.keys(absent), ...Object.keys(empty)]
    expect(methods.filter((name: string) => unlisted.includes(name))).toEqual([])
  })

  it('repeats no more of a name than anybody needs to know it again', async () => {
    await using gateway = await startGateway()
    const peer = await gateway.connect()
    const params = { to: 'x', message: 'hi', channel: 'c'.repeat(500), idempotencyKey: 'k' }
    expect((await peer.request('send', params))['error'].message).toBe(`unsupported channel: ${'c'.repeat(64)}`)
  })
})

describe('what there is nothing of', () => {
  it('is answered as nothing, in the shape that clients draw', async () => {
    await using gateway = await startGateway({
      config: { agents: { list: [{ id: 'main' }, { id: 'writer', workspace: '/nowhere/writer' }] } },
    })
    const admin = await gateway.connect()
    const reader = await gateway.connect({ scopes: ['operator.read', 'operator.approvals'] })
    const told = async (method: string, params?: object) => (await reader.request(method, params))['payload']
    expect(await told('channels.status', { probe: true, timeoutMs: 10_000 })).toEqual({
      ts: expect.any(Number),
      channelOrder: [],
      channelLabels: {},
      channelDetailLabels: {},
      channelSystemImages: {},
      channelMeta: [],
      channels: {},
      channelAccounts: {},
      channelDefaultAccountId: {},
    })
    expect(await told('tts.status')).toMatchObject({ enabled: false, auto: 'off', provider: null })
    expect(await told('tts.providers')).toEqual({ providers: [], active: null })
    expect(await told('question.list', {})).toEqual({ questions: [] })
    expect(await told('plugin.approval.list', {})).toEqual([])
    expect(await told('skills.status', {})).toEqual({ workspaceDir: '', managedSkillsDir: '', skills: [] })
    // The folders of the machine are for those who may change it.
    expect(await told('skills.status', { agentId: 'writer' })).toMatchObject({ workspaceDir: 'writer' })
    const whole = await admin.request('skills.status', { agentId: 'writer' })
    expect(whole['payload']).toMatchObject({ workspaceDir: '/nowhere/writer' })
    const unknown = await reader.request('skills.status', { agentId: 'nobody' })
    expect(unknown['error'].details.code).toBe('UNKNOWN_AGENT')
    expect((await admin.request('tts.disable'))['payload']).toEqual({ enabled: false })
  })
})

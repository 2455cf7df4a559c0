/** Commands hidden in chat text, by those who may only write. */
import { describe, expect, it } from 'vitest'
import { createRuntimes } from '../../src/runtimes/index.ts'
import type { Runtime } from '../../src/runtimes/runtime.ts'
import { endOf, type Peer, startGateway } from '../support/gateway.ts'
import { makeToken, UNCOUNTED } from './ground.ts'

/** What each changes; some with words behind them. */
const COMMANDS = [
  ...['config set gateway.auth.mode none', 'restart', 'approve 1 allow-always', 'allowlist add *', 'elevated on'],
  ...['exec rm -rf /', 'bash ls', 'debug set', 'send on', 'activation always', 'plugins', 'mcp set x=y'],
  ...['new', 'reset hello', 'queue interrupt', 'think high', 'thinking: low', 'model echo/other'],
]
const wide = (text: string) => text.replace(/[!-~]/g, (it) => String.fromCodePoint(it.codePointAt(0)! + 0xfee0))
const bold = (text: string) => text.replace(/[a-z]/g, (it) => String.fromCodePoint(0x1d41a + it.codePointAt(0)! - 97))
const SPELLINGS: [string, (command: string) => string][] = [
  ['as it is', (it) => `/${it}`],
  ['in capitals', (it) => `/${it.toUpperCase()}`],
  ['in full width', (it) => wide(`/${it}`)],
  ['in bold letters', (it) => `/${bold(it)}`],
  ['behind a zero width space', (it) => `\u200b/${it}`],
  ['behind a byte order mark and blanks', (it) => `\ufeff \u3000\u00a0\n/${it}`],
  ['behind a mark of direction', (it) => `\u202e\u2066/${it}`],
  ['behind a soft hyphen and a word joiner', (it) => `\u00ad\u2060/${it}`],
  ['behind a joiner of graphemes', (it) => `\u034f/${it}`],
  ['behind a filler and a selector', (it) => `\u3164\ufe0f/${it}`],
  ['with invisible letters inside', (it) => `/${it[0]}\u200d\u180e${it.slice(1)}`],
  ['with invisible marks inside', (it) => `/\ufe0f${it[0]}\u034f${it.slice(1)}`],
  ['with tags inside', (it) => `/\u{e0061}${it}\u{e007f}`],
  ['with a tab', (it) => `\t/${it.replace(/ |$/, '\t')}`],
  ['with a colon', (it) => `/${it.replace(/:? |:?$/, ': ')}`],
  ['with a wide colon', (it) => `/${it.replace(/:? |:?$/, '：')}`],
  ['with a line below', (it) => `/${it.replace(/ |$/, '\r\n')}`],
  ['behind three hundred that nobody sees', (it) => `${'\u200b'.repeat(300)}/${it}`],
  ['behind three hundred blanks', (it) => `${' \n'.repeat(150)}/${it}`],
  ['with three hundred inside that nobody sees', (it) => `/${it[0]}${'\u2062'.repeat(300)}${it.slice(1)}`],
  ['with a control character', (it) => `\0/${it[0]}\u0007${it.slice(1)}`],
]

const PICTURE = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='

async function open() {
  const asked: string[] = []
  const runtime: Runtime = {
    api: 'echo',
    async answer(model, call, sink) {
      asked.push(call.messages.at(-1)?.text ?? '')
      sink.delta('well')
      return { stopReason: 'stop', usage: { input: 0, output: 0, cacheRead: 0, cacheWrite: 0, totalTokens: 0 }, model }
    },
  }
  const gateway = await startGateway({
    config: { gateway: { limits: UNCOUNTED } },
    runtimes: new Map([...createRuntimes(), ['echo', runtime]]),
  })
  const operator = await gateway.connect()
  return { gateway, operator, asked, [Symbol.asyncDispose]: () => gateway.stop() }
}

/** Says something that is to be kept, then everything there is, and looks what became of what was there. */
async function tryAll({ operator, asked, gateway }: Awaited<ReturnType<typeof open>>, peer: Peer, sessionKey: string) {
  await operator.request('chat.send', { sessionKey, message: 'remember this', idempotencyKey: 'first' })
  await operator.next(endOf('first'))
  const before = await gateway.store.session(`agent:main:${sessionKey}`)
  const passed: string[] = []
  for (const command of COMMANDS)
    for (const [how, spell] of SPELLINGS) {
      const idempotencyKey = `${command} ${how}`
      const answer = await peer.request('chat.send', { sessionKey, message: spell(command), idempotencyKey })
      if (answer['error']?.message !== 'missing scope: operator.admin')
        passed.push(`${idempotencyKey}: ${answer['ok']}`)
    }
  return { passed, asked, before, after: await gateway.store.session(`agent:main:${sessionKey}`) }
}

describe('a command in chat text', () => {
  it('is tried in more than two hundred spellings', () => {
    const texts = COMMANDS.flatMap((command) => SPELLINGS.map(([, spell]) => spell(command)))
    expect(new Set(texts).size).toBeGreaterThan(200)
  })

  it('is refused in words to who may only write, however it is spelled, and reaches neither session nor model', async () => {
    await using at = await open()
    const writer = await at.gateway.connect({ scopes: ['operator.write'] })
    const { passed, asked, before, after } = await tryAll(at, writer, 'main')
    expect(passed).toEqual([])
    expect(asked).toEqual(['remember this'])
    expect(after).toEqual(before)
  })

  it('is refused to a token for some sessions, too', async () => {
    await using at = await open()
    const token = await makeToken(at.operator, {
      scopes: ['operator.read', 'operator.write'],
      sessions: ['agent:main:mine'],
    })
    const narrow = await at.gateway.connect({ scopes: undefined, auth: { token } })
    const { passed, asked, before, after } = await tryAll(at, narrow, 'mine')
    expect(passed).toEqual([])
    expect(asked).toEqual(['remember this'])
    expect(after).toEqual(before)
  })

  it('is refused with a picture, too', async () => {
    await using at = await open()
    const writer = await at.gateway.connect({ scopes: ['operator.write'] })
    for (const command of COMMANDS) {
      const attachments = [{ mimeType: 'image/png', content: PICTURE }]
      const params = { sessionKey: 'main', message: `/${command}`, idempotencyKey: command, attachments }
      expect([command, (await writer.request('chat.send', params))['error']?.message]).toEqual([
        command,
        'missing scope: operator.admin',
      ])
    }
    expect(at.asked).toEqual([])
  })

  it('is found where it is one: who may do the same by a method is answered in words, and no model is', async () => {
    await using at = await open()
    for (const [how, spell] of SPELLINGS) {
      const params = { sessionKey: 'main', message: spell('think high'), idempotencyKey: how }
      await at.operator.request('chat.send', params)
      const said = (await at.operator.next(endOf(how)))['payload'].message.content[0].text
      expect([how, said]).toEqual([how, expect.stringMatching(/^(Thinking is set to high|Say \/think)/)])
    }
    expect((await at.gateway.store.session('agent:main:main'))?.settings).toEqual({ thinkingLevel: 'high' })
    expect(at.asked).toEqual([])
  })

  it('that runs or configures something is refused to administrators, too, and no model hears of it', async () => {
    await using at = await open()
    for (const command of COMMANDS.slice(0, 12))
      for (const [how, spell] of SPELLINGS) {
        const idempotencyKey = `${command} ${how}`
        const params = { sessionKey: 'main', message: spell(command), idempotencyKey }
        expect([idempotencyKey, (await at.operator.request('chat.send', params))['error']?.message]).toEqual([
          idempotencyKey,
          expect.stringContaining('is not served in chat'),
        ])
      }
    expect(at.asked).toEqual([])
  })
})

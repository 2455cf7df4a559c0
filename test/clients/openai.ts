/** OpenAI's own package for JavaScript, as a program uses it that has never heard of this gateway. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { OpenAI } from 'openai'
import { startGateway, TOKEN } from '../support/gateway.ts'
import { startModelServer } from '../support/model-server.ts'
import type { Client, Session } from './client.ts'
import { installClient } from './install.ts'

const lock = new URL('packages/openai/package-lock.json', import.meta.url)
const { packages } = JSON.parse(readFileSync(lock, 'utf8')) as { packages: { [path: string]: { version: string } } }

export const openaiPackage: Client = {
  name: 'openai (npm)',
  version: packages['node_modules/openai']!.version,
  protocol: 'HTTP',
  open,
}

async function open(): Promise<Session> {
  const entry = join(installClient('openai'), 'node_modules/openai/index.mjs')
  const sdk = (await import(pathToFileURL(entry).href)) as typeof import('openai')
  const model = await startModelServer()
  const endpoints = { chatCompletions: { enabled: true }, responses: { enabled: true } }
  const gateway = await startGateway({
    config: {
      gateway: { http: { endpoints } },
      models: {
        providers: {
          fake: { baseUrl: `${model.url}/v1`, apiKey: 'none', api: 'openai-completions', models: [{ id: 'm' }] },
        },
      },
      agents: { defaults: { model: 'fake/m' }, list: [{ id: 'main' }, { id: 'writer', name: 'Chagatai' }] },
    },
  })
  const baseURL = `http://127.0.0.1:${gateway.port}/v1`
  const client = new sdk.OpenAI({ apiKey: TOKEN, baseURL })
  const say = (content: string, more: Partial<OpenAI.ChatCompletionCreateParams> = {}) => ({
    model: 'openclaw:writer',
    messages: [{ role: 'user' as const, content }],
    ...more,
  })
  const words = (count: number) => 'word '.repeat(count)
  /** Resolves when the session's last run was stopped. @throws when it was not within five seconds */
  async function stopped(key: string): Promise<void> {
    for (let times = 0; times < 100; times++) {
      if ((await gateway.store.session(key))?.abortedLastRun) return
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
    throw new Error(`the run of ${key} was not stopped`)
  }

  const commands: Session['commands'] = [
    {
      name: 'models.list',
      async run() {
        const ids: string[] = []
        for await (const { id } of client.models.list()) ids.push(id)
        assert.deepEqual(ids, ['openclaw', 'openclaw:main', 'openclaw:writer'])
        assert.equal((await client.models.retrieve('openclaw:writer')).id, 'openclaw:writer')
      },
    },
    {
      name: 'chat.completions.create',
      async run() {
        const completion = await client.chat.completions.create({ ...say('[[chunks=4]]'), stream: false })
        assert.equal(completion.choices[0]!.message.content, words(4))
        assert.equal(completion.choices[0]!.finish_reason, 'stop')
        assert.equal(completion.usage!.completion_tokens, 4)
      },
    },
    {
      name: 'chat.completions.create, streamed',
      async run() {
        const told = { ...say('[[chunks=6 gap=20]]'), stream: true as const, stream_options: { include_usage: true } }
        let text = ''
        let used: number | undefined
        for await (const chunk of await client.chat.completions.create(told)) {
          text += chunk.choices[0]?.delta.content ?? ''
          used = chunk.usage?.completion_tokens ?? used
        }
        assert.deepEqual([text, used], [words(6), 6])
      },
    },
    {
      name: 'chat.completions.stream',
      async run() {
        const stream = client.chat.completions.stream({ ...say('[[chunks=5 gap=5]]'), stream: true })
        const { choices } = await stream.finalChatCompletion()
        assert.equal(choices[0]!.message.content, words(5))
      },
    },
    {
      name: 'a conversation, and a user',
      async run() {
        const messages = [
          { role: 'system' as const, content: 'Be brief.' },
          { role: 'user' as const, content: 'first' },
          { role: 'assistant' as const, content: 'one' },
          { role: 'user' as const, content: 'second [[text=two]]' },
        ]
        await client.chat.completions.create({ model: 'openclaw', messages, user: 'ann' })
        await client.chat.completions.create({ ...say('third', { model: 'openclaw' }), user: 'ann', stream: false })
        const asked = model.requests.at(-1)!.body as { messages: { role: string; content: string }[] }
        const said = asked.messages.filter(({ role }) => role !== 'system').map(({ content }) => content)
        assert.deepEqual(said, ['first', 'one', 'second [[text=two]]', 'two', 'third'])
      },
    },
    {
      name: 'responses.create',
      async run() {
        const response = await client.responses.create({
          model: 'openclaw',
          input: '[[chunks=3]]',
          instructions: 'Hm.',
        })
        assert.deepEqual([response.status, response.output_text], ['completed', words(3)])
        assert.equal(response.usage!.output_tokens, 3)
      },
    },
    {
      name: 'responses.stream',
      async run() {
        const stream = client.responses.stream({ model: 'agent:Chagatai', input: '[[chunks=5 gap=20]]' })
        let text = ''
        stream.on('response.output_text.delta', ({ delta }) => {
          text += delta
        })
        const { output_text } = await stream.finalResponse()
        assert.deepEqual([text, output_text], [words(5), words(5)])
      },
    },
    {
      name: 'abort',
      async run() {
        const told = { ...say('[[chunks=9 stall=2]]', { user: 'bob' }), stream: true as const }
        const stream = await client.chat.completions.create(told)
        for await (const chunk of stream) if (chunk.choices[0]?.delta.content) break
        await stopped('agent:writer:openai-user:bob')
      },
    },
    {
      name: 'a run that fails midway',
      async run() {
        const failing = say('[[chunks=9 gap=5 error=2]]')
        const before = model.requests.length
        await assert.rejects(client.chat.completions.create({ ...failing, stream: false }), { status: 502 })
        // It is not repeated: what an agent does cannot be undone.
        assert.equal(model.requests.length, before + 1)
        let text = ''
        await assert.rejects(async () => {
          for await (const chunk of await client.chat.completions.create({ ...failing, stream: true }))
            text += chunk.choices[0]?.delta.content ?? ''
        }, sdk.APIError)
        assert.equal(text, words(2))
      },
    },
    {
      name: 'an unknown model, a wrong key',
      async run() {
        const asked = { ...say('x', { model: 'gpt-4o' }), stream: false as const }
        await assert.rejects(client.chat.completions.create(asked), sdk.NotFoundError)
        const stranger = new sdk.OpenAI({ apiKey: 'sk-wrong', baseURL })
        await assert.rejects(stranger.models.list(), sdk.AuthenticationError)
      },
    },
  ]
  return {
    commands,
    async close() {
      await gateway.stop()
      await model.close()
    },
  }
}

/** The control page that is in the package of February 2026, in a browser. Pictures of it stay in the folder of the client. */
import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { chromium, type Page } from 'playwright-core'
import { openPeer, TOKEN } from '../support/gateway.ts'
import { startProcess } from '../support/gateway-process.ts'
import { startModelServer } from '../support/model-server.ts'
import { connectAsNode } from '../support/node.ts'
import type { Client, Command, Session } from './client.ts'
import { installClient } from './install.ts'
import { openOneOrigin } from './one-origin.ts'
import { AS_IT_WRITES } from './openclaw-2026.2.6.ts'

const CHROMIUM = { name: 'chromium', file: '/usr/bin/chromium' }

export const controlPage26: Client = {
  name: 'control page of openclaw',
  version: '2026.2.6-3',
  protocol: '3',
  needs: [CHROMIUM],
  open,
}

const AGENTS = [
  { id: 'main', name: 'Kublai', default: true },
  { id: 'researcher', name: 'Möngke' },
]

const TODAY = new Intl.DateTimeFormat('en', { weekday: 'short' }).format()

/** What a tab is to show of a gateway that has two agents, a node, and nothing of what it does not do. */
const TABS: { [tab: string]: RegExp[] } = {
  overview: [/STATUS\s+Connected/i, /INSTANCES\s+[1-9]/i, /SESSIONS\s+2/i, /CRON\s+(?:Enabled|Disabled)/i],
  channels: [/Channel health/i],
  instances: [/openclaw-control-ui/, /Reason self/],
  sessions: [/agent:main:main/, /agent:main:notes/],
  usage: [/Activity by Time/, new RegExp(`${TODAY}\\s+[1-9]`, 'i'), /Throughput[^—]*\d/i, /PEAK ERROR DAYS\s+\w+ \d+/i],
  cron: [/No jobs yet/i],
  agents: [/2 configured/, /Kublai/, /Möngke/, /fake\/m/],
  skills: [/No skills found/i],
  nodes: [/Exec approvals/, /writer/],
  config: [/valid/, /Gateway/],
  debug: [/"ok": true/, /"defaultAgentId": "main"/],
  logs: [/info\s+gateway\s+listening; /],
}

const PARTS_OF_AGENTS: { [part: string]: RegExp } = {
  Files: /SOUL\.md/,
  Tools: /sessions_send/,
  Skills: /No skills found/i,
  Channels: /No channels found/i,
  'Cron Jobs': /No jobs assigned/i,
}

async function open(): Promise<Session> {
  const client = installClient('openclaw-2026.2.6')
  const pictures = join(client, 'pictures')
  mkdirSync(pictures, { recursive: true })
  const state = mkdtempSync(join(tmpdir(), 'control-page-'))
  const model = await startModelServer()
  const gateway = await startProcess(state, model.url, {
    ...AS_IT_WRITES,
    list: AGENTS,
  })
  const node = await connectAsNode({ open: () => openPeer(gateway.url) }, { name: 'writer' })
  const other = await gateway.connect()
  await other.request('chat.send', { sessionKey: 'notes', message: 'a note', idempotencyKey: 'a-note' })
  await other.next(({ event, payload }) => event === 'chat' && payload.state === 'final')
  const origin = await openOneOrigin(
    join(client, 'node_modules/openclaw/dist/control-ui'),
    Number(new URL(gateway.url).port),
  )
  const browser = await chromium.launch({ executablePath: CHROMIUM.file, args: ['--no-sandbox'] })
  const page = await browser.newPage({ viewport: { width: 1300, height: 1600 } })
  page.setDefaultTimeout(60_000)
  // It asks another origin for fonts, and does without.
  await page.route(
    (url) => url.origin !== origin.url,
    (route) => route.abort(),
  )
  const wire = watchWire(page)

  const textOf = () => page.locator('openclaw-app').innerText()
  const stopButton = page.getByRole('button', { name: 'Stop' })
  const streaming = page.locator('.chat-bubble.streaming .chat-text')
  const answers = page.locator('.chat-group.assistant .chat-bubble:not(.streaming) .chat-text')
  async function send(text: string): Promise<void> {
    await page.locator('.chat-compose textarea').fill(text)
    await page.getByRole('button', { name: /^Send/ }).click()
  }
  /** Waits until the text of a bubble has that many words of the model or more; how many it has. */
  async function words(atLeast: number, bubble = streaming.last()): Promise<number> {
    const deadline = performance.now() + 60_000
    for (;;) {
      const text = (await bubble.count()) > 0 ? await bubble.innerText().catch(() => '') : ''
      const count = text.match(/word/g)?.length ?? 0
      if (count >= atLeast) return count
      if (performance.now() > deadline) assert.fail(`${count} words are shown, not ${atLeast}: ${await textOf()}`)
      await page.waitForTimeout(20)
    }
  }
  const wentWell = () => assert.deepEqual(wire.problems.splice(0), [])
  /** Nothing was refused, and nothing on the page looks as if. */
  async function wentWellOn(): Promise<void> {
    wentWell()
    assert.doesNotMatch(await textOf(), /\bundefined\b|\bNaN\b|Invalid Date|\[object Object\]|unknown method|Error:/)
    const alarms = page.locator('.callout.danger:visible, .cfg-field--error:visible')
    assert.deepEqual(await alarms.allInnerTexts(), [])
  }
  const picture = (name: string) => page.screenshot({ path: join(pictures, `${name}.png`), fullPage: true })

  const commands: Command[] = [
    {
      name: 'connects with the token in its address',
      async run() {
        await page.goto(`${origin.url}/?token=${TOKEN}`)
        await page.getByText('Health OK').waitFor()
        await page.locator('.chat-compose textarea:enabled').waitFor()
        assert.equal(new URL(page.url()).searchParams.has('token'), false)
        wentWell()
      },
    },
    {
      name: 'an answer grows while it is written',
      async run() {
        await send('grow [[chunks=30 gap=100]]')
        const first = await words(1)
        const more = await words(first + 1)
        assert.ok(more < 30, 'it was complete when it was seen growing')
        await picture('chat, an answer grows')
        assert.equal(await words(30, answers.last()), 30)
        await stopButton.waitFor({ state: 'detached' })
        wentWell()
      },
    },
    {
      name: 'Stop ends an answer',
      async run() {
        await send('endless [[chunks=900 gap=50]]')
        await words(3)
        await stopButton.click()
        await stopButton.waitFor({ state: 'detached' })
        await model.requests.at(-1)!.closed
        assert.equal(model.requests.at(-1)!.closedEarly, true)
        assert.equal(await streaming.count(), 0)
        wentWell()
      },
    },
    {
      name: 'shows what was said after a reload',
      async run() {
        const before = model.requests.length
        await page.reload()
        await page.getByText('grow [[chunks=30 gap=100]]').waitFor()
        await page.getByText('endless [[chunks=900 gap=50]]').waitFor()
        assert.equal(await words(30, answers.first()), 30)
        // What had come of the stopped one is there, too.
        const stopped = await words(3, answers.last())
        assert.ok(stopped < 900)
        assert.equal(model.requests.length, before)
        await picture('chat')
        wentWell()
      },
    },
    {
      name: 'another session',
      async run() {
        const choice = page.locator('.chat-controls__session select')
        const keys = (await choice.locator('option').allInnerTexts()).map((key) => key.trim()).toSorted()
        assert.deepEqual(keys, ['agent:main:main', 'agent:main:notes'])
        await choice.selectOption('agent:main:notes')
        await page.getByText('a note').waitFor()
        assert.equal(await page.getByText('grow [[chunks=30 gap=100]]').count(), 0)
        await choice.selectOption('agent:main:main')
        await page.getByText('grow [[chunks=30 gap=100]]').waitFor()
        wentWell()
      },
    },
    {
      name: 'an answer that fails says why',
      async run() {
        await send('no [[fail=401]]')
        await page.locator('.callout.danger', { hasText: 'fake failure 401' }).waitFor()
        await stopButton.waitFor({ state: 'detached' })
      },
    },
    {
      name: 'a tool that is used',
      async run() {
        await send('whom [[tool=agents_list args={}]]')
        await page.locator('.chat-tool-card', { hasText: 'agents_list' }).first().waitFor()
        await stopButton.waitFor({ state: 'detached' })
        assert.match(await answers.last().innerText(), /"you":"main"/)
        wentWell()
      },
    },
    ...Object.entries(TABS).map(([tab, shows]) => ({
      name: tab,
      async run() {
        await page.locator(`a[href="/${tab}"]`).click()
        await wire.settled()
        if (tab === 'usage') {
          await page.getByRole('button', { name: 'Refresh' }).click()
          await wire.settled()
        }
        await picture(tab)
        await wentWellOn()
        for (const words of shows) assert.match(await textOf(), words)
      },
    })),
    {
      name: 'agents: files, tools, skills, channels, cron jobs',
      async run() {
        await page.locator('a[href="/agents"]').click()
        for (const [part, shows] of Object.entries(PARTS_OF_AGENTS)) {
          await page.locator('.agent-tab', { hasText: part }).click()
          await wire.settled()
          await picture(`agents, ${part}`)
          assert.match(await textOf(), shows)
          await wentWellOn()
        }
      },
    },
    {
      name: 'sessions: a label',
      async run() {
        await page.locator('a[href="/sessions"]').click()
        const label = page.locator('input[placeholder="(optional)"]').first()
        await label.fill('a label')
        await label.press('Tab')
        await wire.settled()
        const { payload } = await other.request('sessions.list', {})
        assert.deepEqual(payload.sessions.map((each: { label?: string }) => each.label ?? '').toSorted(), [
          '',
          'a label',
        ])
        wentWell()
      },
    },
    {
      name: 'New session begins anew',
      async run() {
        await page.locator('a[href="/chat"]').click()
        await page.getByText('grow [[chunks=30 gap=100]]').waitFor()
        await page.getByRole('button', { name: 'New session' }).click()
        await page.getByText('grow [[chunks=30 gap=100]]').waitFor({ state: 'detached' })
        await stopButton.waitFor({ state: 'detached' })
        wentWell()
      },
    },
    {
      name: 'comes back by itself after the gateway was killed',
      async run() {
        await page.locator('a[href="/chat"]').click()
        await gateway.kill()
        await page.getByText('Health Offline').waitFor()
        again = await startProcess(state, model.url, {
          ...AS_IT_WRITES,
          list: AGENTS,
          port: Number(new URL(gateway.url).port),
        })
        await page.getByText('Health OK').waitFor({ timeout: 60_000 })
        await send('again [[chunks=60]]')
        assert.equal(await words(60, answers.last()), 60)
        await picture('chat, after the gateway was killed')
      },
    },
  ]
  let again = gateway
  return {
    commands,
    async close() {
      await browser.close()
      await origin.close()
      for (const { socket } of [node, other]) socket.terminate()
      await again.kill()
      await model.close()
      rmSync(state, { recursive: true, force: true })
    },
  }
}

/** What goes over the wire of a page: what was refused or broke, and when nothing is under way. */
function watchWire(page: Page) {
  const problems: string[] = []
  const waiting = new Map<string, string>()
  page.on('pageerror', (error) => problems.push(String(error)))
  page.on('websocket', (socket) => {
    socket.on('framesent', ({ payload }) => {
      const { type, id, method } = JSON.parse(String(payload))
      if (type === 'req') waiting.set(id, method)
    })
    socket.on('framereceived', ({ payload }) => {
      const { type, id, ok, error } = JSON.parse(String(payload))
      if (type !== 'res') return
      if (!ok) problems.push(`${waiting.get(id)}: ${error.message}`)
      waiting.delete(id)
    })
    socket.on('close', () => waiting.clear())
  })
  return {
    problems,
    /** Resolves once everything was answered, and nothing more was asked for a while. */
    async settled() {
      for (let quiet = 0; quiet < 5; ) {
        await page.waitForTimeout(100)
        quiet = waiting.size === 0 ? quiet + 1 : 0
      }
    },
  }
}

/** A councillor by the client for JavaScript: `node councillor.ts URL TOKEN ID FOLDER`. It writes down what it does before it does more. */
import { appendFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { connector, makeDevice, openDevice, type Run, ToolError } from '../../src/client/client.ts'
import { type Act, letterOf, type Order } from './council-orders.ts'

const [url = '', token = '', me = '', folder = ''] = process.argv.slice(2)
const log = (line: object) => appendFileSync(join(folder, `${me}.log`), `${JSON.stringify(line)}\n`)

async function answer(run: Run): Promise<void> {
  const { message, runId } = run
  if (message.startsWith('[')) {
    const before = run.history.findLastIndex(({ role }) => role !== 'user')
    log({ what: 'woken', run: runId, texts: run.history.slice(before + 1).map(({ text }) => text) })
    return run.say('noted')
  }
  const [id] = message.split(' ', 1) as [string]
  const order = { id, ...JSON.parse(message.slice(id.length)) } as Order & { round?: string[] }
  log({ what: 'asked', run: runId, id })
  if (order.round) return passOn(run, id, order.round)
  if (order.early) await run.say(`${id}:`)
  for (const step of order.steps) await Promise.all(step.map((act) => perform(run, act)))
  if (!order.early) await run.say(`${id}:`)
  for (let n = 0; n < order.words; n++) {
    await run.say(` w${n}`)
    await sleep(order.gap)
  }
  log({ what: 'done', run: runId, id })
}

async function perform(run: Run, act: Act): Promise<void> {
  const message = letterOf(act.order)
  if (act.do === 'spawn') {
    const within = act.within === undefined ? {} : { startWithinSeconds: act.within }
    return call(run, act.order.id, 'sessions_spawn', { task: message, agentId: act.to, ...within })
  }
  const timeoutSeconds = act.do === 'ask' ? act.wait : 0
  for (let n = 0; n < (act.do === 'fire' ? act.times : 1); n++)
    await call(run, act.order.id, 'sessions_send', { agentId: act.to, message, timeoutSeconds })
}

/** Sends what it got to the next of the round, on and on. */
async function passOn(run: Run, id: string, round: string[]): Promise<void> {
  const agentId = round[(round.indexOf(me) + 1) % round.length]!
  const message = `${id}+ ${JSON.stringify({ round })}`
  await call(run, `${id}+`, 'sessions_send', { agentId, message, timeoutSeconds: 0 })
  await run.say(`${id}:`)
}

async function call(run: Run, id: string, tool: string, args: object): Promise<void> {
  log({ what: 'sends', run: run.runId, id })
  try {
    log({ what: 'told', run: run.runId, id, text: await run.call(tool, args) })
  } catch (error) {
    if (!(error instanceof ToolError)) throw error
    log({ what: 'told', run: run.runId, id, text: error.message })
  }
}

const key = join(folder, `${me}.key`)
if (!existsSync(key)) writeFileSync(key, (await makeDevice()).secret, { mode: 0o600 })
const device = await openDevice(readFileSync(key, 'utf8'))
const reconnect = { minMs: 50, maxMs: 300 }
const client = await connector({ url, token, name: me, device, answer, reconnect })
console.log('ready')
await client.closed

/** One of the council, as a program of its own: `node councillor.ts ID`. It ends when its standard input does. */
import { setTimeout as sleep } from 'node:timers/promises'
import { connector, makeDevice, type Run } from '../../src/client/client.ts'

const THINKING_MS = 250

const SCRIPTS: { [id: string]: (run: Run) => Promise<void> } = {
  async main(run) {
    const [facts, outline] = await Promise.all([
      run.send('researcher', `What is known about this? ${run.message}`),
      run.send('developer', `Which parts should it have? ${run.message}`),
    ])
    const draft = await run.send('writer', `${outline}\n${facts}`)
    const verdict = await run.send('analyst', draft)
    const excuse = /kurultai/i.test(run.message) ? '' : 'We are six scripts, and know of one thing only.\n\n'
    await speak(run, `${excuse}${draft}\n\nJochi has read it: ${verdict}`)
  },
  async researcher(run) {
    await sleep(THINKING_MS)
    const shelves = await run.send('ops', 'Which shelves of the library are open?')
    await speak(run, `${FACTS.join(' ')} (${shelves})`)
  },
  async developer(run) {
    await sleep(THINKING_MS)
    await speak(run, 'Three parts: what it is; what it decided; what became of it.')
  },
  async writer(run) {
    await sleep(THINKING_MS)
    const [outline = '', facts = ''] = run.message.split('\n')
    const headings = outline.replace(/^.*?: |\.$/g, '').split('; ')
    const sentences = facts.replace(/ \(.*\)$/, '').split(/(?<=\.) /)
    await speak(run, headings.map((heading, part) => `${capital(heading)}. ${sentences[part] ?? ''}`).join('\n'))
  },
  async analyst(run) {
    await sleep(THINKING_MS)
    const words = run.message.split(/\s+/).length
    await speak(run, `${words} words in ${run.message.split('\n').length} parts, and nothing is missing.`)
  },
  async ops(run) {
    await sleep(THINKING_MS)
    await speak(run, 'History and law are open.')
  },
}

const FACTS = [
  'The kurultai was the assembly of the Mongol and Turkic peoples.',
  'One of 1206 made Temüjin khan of all, and others chose his heirs and their wars.',
  'Its name lives on in gatherings and parliaments of today.',
]

const capital = (text: string): string => text.slice(0, 1).toUpperCase() + text.slice(1)

/** Says a text word by word, as a model would. */
async function speak(run: Run, text: string): Promise<void> {
  for (const word of text.match(/\S+\s*/g) ?? []) {
    await run.say(word)
    await sleep(12)
  }
}

const [id = ''] = process.argv.slice(2)
const answer = SCRIPTS[id]
if (!answer) throw new Error(`there is no script for ${JSON.stringify(id)}`)
const url = process.env['OPENCLAW_GATEWAY_URL'] ?? 'ws://127.0.0.1:18789/'
const client = await connector({
  url,
  token: process.env['OPENCLAW_GATEWAY_TOKEN'] ?? '',
  name: id,
  device: await makeDevice(),
  answer,
})
console.log('ready')
process.stdin.on('end', () => client.close()).resume()
await client.closed

/** The table of clients, as it stands in the README. */
import type { Client } from './client.ts'

export interface Row {
  client: Pick<Client, 'name' | 'version' | 'protocol'>
  commands: { name: string; ok: boolean }[]
}

const BEGIN = '<!-- clients: made by npm run test:clients -- --write -->'
const END = '<!-- /clients -->'

export function tableOf(rows: Row[]): string {
  const lines = rows.map(({ client, commands }) => {
    const good = commands.filter(({ ok }) => ok).length
    const names = commands.map(({ name, ok }) => (ok ? name : `**${name}**`)).join(' · ')
    const ok = good === commands.length && good > 0 ? 'ok' : `${good} of ${commands.length}`
    return `| ${client.name} | ${client.version} | ${client.protocol} | ${names} | ${ok} |`
  })
  return ['| client | version | protocol | commands | ok |', '|---|---|---|---|---|', ...lines].join('\n')
}

/** @throws when the text has no place for it */
export function putTable(text: string, table: string): string {
  const [from, to] = [text.indexOf(BEGIN), text.indexOf(END)]
  if (from < 0 || to < from) throw new Error(`the README has no line ${BEGIN}`)
  return `${text.slice(0, from)}${BEGIN}\n${table}\n${text.slice(to)}`
}

/** The table as it stands in a text; undefined when there is no place for it. */
export function tableIn(text: string): string | undefined {
  const [from, to] = [text.indexOf(BEGIN), text.indexOf(END)]
  return from < 0 || to < from ? undefined : text.slice(from + BEGIN.length, to).trim()
}

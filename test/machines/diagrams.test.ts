/** The pictures in diagrams/ show the charts as they are. */
import { readdirSync, readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { CHARTS } from '../../tools/diagrams/charts.ts'
import { toMermaid } from '../../tools/diagrams/mermaid.ts'
import { toSvg } from '../../tools/diagrams/svg.ts'
import { allNodes } from './tour.ts'

const folder = new URL('../../diagrams/', import.meta.url)
const read = (file: string) => readFileSync(new URL(file, folder), 'utf8').replaceAll('\r\n', '\n')
const HINT = 'is older than its chart; run `npm run diagrams`'
const DRAWN_BY_HAND = ['house.mmd', 'chat-send.mmd']

test('there is a picture of every chart, and of nothing that is gone', () => {
  const expected = [...Object.keys(CHARTS).flatMap((name) => [`${name}.mmd`, `${name}.svg`]), ...DRAWN_BY_HAND]
  expect(readdirSync(folder).sort(), 'run `npm run diagrams`').toEqual(expected.sort())
})

describe.each(Object.entries(CHARTS))('%s', (name, machine) => {
  test('is fresh as Mermaid', () => {
    expect(read(`${name}.mmd`) === toMermaid(machine), `diagrams/${name}.mmd ${HINT}`).toBe(true)
  })

  test('is fresh as SVG', async () => {
    expect(read(`${name}.svg`) === (await toSvg(machine)), `diagrams/${name}.svg ${HINT}`).toBe(true)
  })

  test('shows every state, by its id, so that a page can light it up', async () => {
    const svg = await toSvg(machine)
    for (const { id, parent } of allNodes(machine.root).filter(({ parent }) => parent))
      expect(svg, `${id} in ${parent?.id}`).toMatch(
        new RegExp(`<title>(cluster_)?${id.replaceAll('.', '\\.')}</title>`),
      )
  })

  test('shows every guard and every action that a state or a transition names', () => {
    const text = toMermaid(machine)
    const { actions, guards } = machine.implementations
    const written = JSON.stringify(machine.config)
    const named = [...Object.keys(actions), ...Object.keys(guards)].filter((it) => written.includes(`"${it}"`))
    expect(named.length).toBeGreaterThan(0)
    for (const it of named) expect(text).toContain(it)
  })
})

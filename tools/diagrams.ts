/** Writes what `machines/` looks like to `diagrams/`. A test fails when the files there are older than the charts. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { CHARTS } from './diagrams/charts.ts'
import { toMermaid } from './diagrams/mermaid.ts'
import { toSvg } from './diagrams/svg.ts'

const folder = new URL('../diagrams/', import.meta.url)
mkdirSync(folder, { recursive: true })
for (const [name, machine] of Object.entries(CHARTS)) {
  writeFileSync(new URL(`${name}.mmd`, folder), toMermaid(machine))
  writeFileSync(new URL(`${name}.svg`, folder), await toSvg(machine))
}

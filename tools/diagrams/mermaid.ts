/** A chart as Mermaid text, which code hosts draw where they show it. */
import type { AnyStateMachine } from 'xstate'
import { type Arrow, type Box, pictureOf, wrap } from './picture.ts'

const WIDTH = 48

/** The text of a `stateDiagram-v2`. */
export function toMermaid(machine: AnyStateMachine): string {
  const { name, description, initial, boxes, arrows } = pictureOf(machine)
  return `${[
    '---',
    `title: ${name}`,
    '---',
    `%% ${description}`,
    '%% Made from machines/ by `npm run diagrams`.',
    'stateDiagram-v2',
    `  [*] --> ${safe(initial)}`,
    ...boxes.flatMap((box) => stateLines(box, '  ')),
    ...arrows.map(arrowLine),
  ].join('\n')}\n`
}

function stateLines({ id, label, description, isFinal, lines, initial, boxes }: Box, indent: string): string[] {
  const name = safe(id)
  const text = (description: string[]) => [...description, ...lines].map(escaped)
  if (boxes.length === 0)
    return [
      `${indent}state "${label}" as ${name}`,
      ...text(description ? wrap(description, WIDTH) : []).map((line) => `${indent}${name} : ${line}`),
      ...(isFinal ? [`${indent}${name} --> [*]`] : []),
    ]
  return [
    `${indent}state "${label}" as ${name} {`,
    ...(initial ? [`${indent}  [*] --> ${safe(initial)}`] : []),
    ...boxes.flatMap((box) => stateLines(box, `${indent}  `)),
    `${indent}}`,
    `${indent}note right of ${name}`,
    // Mermaid wraps notes by itself.
    ...text(description ? [description] : []).map((line) => `${indent}  ${line}`),
    `${indent}end note`,
  ]
}

const arrowLine = ({ from, to, labels }: Arrow): string =>
  `  ${safe(from)} --> ${safe(to)} : ${labels.map(escaped).join('<br/>')}`

const safe = (id: string): string => id.replace('*', 'any').replace(/\W/g, '_')

/** Mermaid ends a statement at a semicolon and a name at a colon, and knows no way to write them in a state. */
const escaped = (text: string): string => text.replaceAll(/[;:]/g, ',')

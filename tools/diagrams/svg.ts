/** A chart as a picture, drawn by Graphviz. */
import { type IState, type ITransition, render } from 'state-machine-cat'
import type { AnyStateMachine } from 'xstate'
import { type Box, type Picture, pictureOf } from './picture.ts'

const FINAL = 'final'
const INITIAL = 'initial'

/** Graphviz measures in Verdana, the widest of the usual fonts: where another one is shown, the text still fits its box. */
const FONT = { name: 'fontname', value: 'Verdana' }
const FONT_STACK = "Verdana, 'DejaVu Sans', Geneva, sans-serif"
/** Keeps a label legible where an arrow passes behind it. */
const STYLE =
  '<style>.edge text { paint-order: stroke; stroke: white; stroke-width: 4px; stroke-linejoin: round }</style>'
/** Graphviz puts a label's left edge on the arrow; its box has blanks on the right to move into. */
const LABEL_SHIFT = 5

/** The text of an SVG file. The `title` of each group is the id of its state, so that a page can light up the ones that are on. */
export async function toSvg(machine: AnyStateMachine): Promise<string> {
  const picture = pictureOf(machine)
  const svg = await render(
    { states: states(picture.boxes, picture.initial, picture.name), transitions: transitions(picture) },
    {
      inputType: 'json',
      outputType: 'svg',
      dotGraphAttrs: [
        FONT,
        { name: 'bgcolor', value: 'white' },
        { name: 'pad', value: '0.2' },
        { name: 'nodesep', value: '0.9' },
        { name: 'ranksep', value: '0.35' },
      ],
      dotNodeAttrs: [FONT],
      dotEdgeAttrs: [FONT],
    },
  )
  return `${svg
    .trimEnd()
    .replace('<title>state transitions</title>', `<title>${picture.name}</title>\n${STYLE}`)
    // A hyphen of a name, which Graphviz writes as a number.
    .replaceAll(/(?<=\w)&#45;(?=\w)/g, '-')
    .replaceAll('font-family="Verdana"', `font-family="${FONT_STACK}"`)
    .replaceAll(/(<text [^>]*text-anchor="start" x=")([-\d.]+)("[^>]*font-size="10)/g, (_, before, x, after) =>
      [before, (Number(x) + LABEL_SHIFT).toFixed(2), after].join(''),
    )}\n`
}

function states(boxes: Box[], initial: string | undefined, parent: string): IState[] {
  const drawn = boxes.map(
    (box): IState => ({
      name: box.id,
      type: 'regular',
      label: box.label,
      ...(box.lines.length > 0 && { actions: box.lines.map((body) => ({ type: 'activity' as const, body })) }),
      ...(box.boxes.length > 0 && { statemachine: { states: states(box.boxes, box.initial, box.id) } }),
    }),
  )
  return [
    ...(initial ? [{ name: `${parent}.${INITIAL}`, type: 'initial' as const }] : []),
    ...drawn,
    ...(boxes.some(({ isFinal }) => isFinal) ? [{ name: `${parent}.${FINAL}`, type: 'final' as const }] : []),
  ]
}

function transitions({ name, initial, boxes, arrows }: Picture): ITransition[] {
  const all = [
    ...starts(boxes, initial, name),
    ...arrows.map(({ from, to, labels }) => ({ from, to, label: labels.join('\n') })),
    ...boxes.filter(({ isFinal }) => isFinal).map(({ id }) => ({ from: id, to: `${name}.${FINAL}` })),
  ]
  return all.map((arrow, id) => ({ id, ...arrow }))
}

/** The arrows from the dots at which one begins. */
function starts(boxes: Box[], initial: string | undefined, parent: string): { from: string; to: string }[] {
  return [
    ...(initial ? [{ from: `${parent}.${INITIAL}`, to: initial }] : []),
    ...boxes.flatMap((box) => starts(box.boxes, box.initial, box.id)),
  ]
}

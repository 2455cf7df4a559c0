/** A chart as one would draw it: boxes with what happens inside them, and arrows with what makes them go. */
import type { AnyStateMachine, AnyStateNode, AnyTransitionDefinition } from 'xstate'

export interface Box {
  /** Unique in the chart: `run.settling.writing`. */
  id: string
  label: string
  description: string
  isFinal: boolean
  /** What is done on the way in and out, what is under way, and what is heard without leaving. */
  lines: string[]
  initial: string | undefined
  boxes: Box[]
}

export interface Arrow {
  from: string
  to: string
  /** One line for each transition that goes this way. */
  labels: string[]
}

export interface Picture {
  name: string
  description: string
  initial: string
  boxes: Box[]
  arrows: Arrow[]
}

/** Draws a chart. What holds in every state is a box of its own, since the chart itself has none. */
export function pictureOf(machine: AnyStateMachine): Picture {
  const { root } = machine
  const everywhere = `${root.id}.*`
  const arrows: Arrow[] = []

  function box(node: AnyStateNode): Box {
    const lines = [...effects(node.entry, 'entry'), ...underWay(node), ...effects(node.exit, 'exit')]
    for (const { label, targets } of transitions(node)) {
      if (targets.length === 0) lines.push(label)
      for (const to of targets) add(node === root ? everywhere : node.id, to, label)
    }
    return {
      id: node === root ? everywhere : node.id,
      label: node === root ? 'in every state' : node.key,
      description: node === root ? '' : (node.description ?? ''),
      isFinal: node.type === 'final',
      lines,
      initial: node !== root && node.type === 'compound' ? node.initial.target[0]?.id : undefined,
      boxes: node === root ? [] : children(node).map(box),
    }
  }

  function add(from: string, to: string, label: string): void {
    const same = arrows.find((arrow) => arrow.from === from && arrow.to === to)
    if (same) same.labels.push(label)
    else arrows.push({ from, to, labels: [label] })
  }

  const boxes = children(root).map(box)
  return {
    name: root.id,
    description: root.description ?? '',
    initial: root.initial.target[0]!.id,
    boxes: [...boxes, box(root)],
    arrows,
  }
}

const children = (node: AnyStateNode): AnyStateNode[] => Object.values(node.states)

function transitions(node: AnyStateNode): { label: string; targets: string[] }[] {
  const groups = [...node.transitions.values(), node.always ?? []]
  return groups.flatMap((group) =>
    group.map((transition: AnyTransitionDefinition, index: number) => ({
      label: words(node, transition, index > 0),
      targets: (transition.target ?? []).map(({ id }) => id),
    })),
  )
}

/** `abort [isRunning] / abortRuns`. */
function words(node: AnyStateNode, transition: AnyTransitionDefinition, isAlternative: boolean): string {
  const condition = transition.guard ? nameOf(transition.guard) : isAlternative ? 'else' : ''
  const named = effects(transition.actions, '').map((effect) => effect.slice(2))
  const event = eventWords(node, transition.eventType)
  const isIgnored = !transition.target && transition.actions.length === 0
  return [
    event,
    ...(condition ? [`[${condition}]`] : []),
    ...(named.length > 0 ? ['/', named.join(', ')] : []),
    ...(isIgnored ? ['(ignored)'] : []),
  ].join(' ')
}

/** Events of our own are named as they are; those of XState in words: `after deadline`, `done model`, `error model`. */
function eventWords(node: AnyStateNode, type: string): string {
  if (type === '') return 'always'
  if (type === '*') return 'anything else'
  const [, kind, id] = /^xstate\.(done|error)\.actor\.(.*)$/.exec(type) ?? []
  if (kind) return `${kind} ${node.invoke.find((invoked) => invoked.id === id)?.src ?? id}`
  const [, delay] = /^xstate\.after\.([^.]+)\./.exec(type) ?? []
  if (delay) return `after ${delay}${duration(node, delay)}`
  return type.startsWith('xstate.done.state') ? 'done' : type
}

/** A delay that is the same for every actor is shown as a number. */
function duration(node: AnyStateNode, delay: string): string {
  const value: unknown = node.machine.implementations.delays[delay]
  return typeof value === 'number' ? ` (${value} ms)` : ''
}

const underWay = (node: AnyStateNode): string[] => node.invoke.map(({ src }) => `do / ${String(src)}`)

/** The effects among some actions, by name. What only keeps the context up to date is not drawn. */
function effects(actions: readonly unknown[], when: string): string[] {
  return actions
    .filter((action) => typeof action !== 'function')
    .map((action) => nameOf(action))
    .filter((name) => !name.startsWith('xstate.'))
    .map((name) => `${when} / ${name}`.trim())
}

/** `hasRoom(4)` for a guard or an action with fixed parameters, else its name. */
function nameOf(named: unknown): string {
  if (typeof named === 'string') return named
  if (typeof named === 'function') return named.name || 'a condition'
  const { type, params } = named as { type: string; params?: unknown }
  return params !== undefined && typeof params === 'object' ? `${type}(${Object.values(params!).join(', ')})` : type
}

/** Cuts a text into lines of about a width, at spaces. */
export function wrap(text: string, width: number): string[] {
  const lines: string[] = []
  for (const word of text.split(' ')) {
    const last = lines.at(-1)
    if (last !== undefined && last.length + word.length < width) lines[lines.length - 1] = `${last} ${word}`
    else lines.push(word)
  }
  return lines
}

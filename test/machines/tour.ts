/** Walks a chart along every edge it has, as the graph of its states says, with a real actor. */
import type { AnyEventObject, AnyMachineSnapshot, AnyStateMachine, AnyStateNode, AnyTransitionDefinition } from 'xstate'
import { getAdjacencyMap, getShortestPaths } from 'xstate/graph'
import { type Entry, type Rig, type RigOptions, rig, stateOf, workBehind } from './rig.ts'

export interface TourPlan {
  machine: AnyStateMachine
  /** One tour is made for each. */
  inputs: unknown[]
  guards?: NonNullable<RigOptions['guards']>
  /** What of the context makes a difference to what may happen next. Must be bounded. */
  abstract(snapshot: AnyMachineSnapshot): unknown
  /** The events worth trying where a state listens to a name. Work that ends is `done <name>` and `error <name>`. */
  samples: { [name: string]: (snapshot: AnyMachineSnapshot) => object[] }
  /** Transitions that nothing can lead to, each with the reason. */
  unreachable?: { [transition: string]: string }
}

/** One edge, walked: how one came there, and all that happened on the way. */
export interface Walk {
  edge: string
  expected: string
  arrived: string
  log: Entry[]
  snapshot: AnyMachineSnapshot
}

export interface Coverage {
  states: { all: string[]; missing: string[] }
  transitions: { all: string[]; missing: string[] }
  edges: number
}

/** The events that may happen next, as far as the chart is concerned, and one that it does not know. */
export function alphabet({ samples }: Pick<TourPlan, 'samples'>, snapshot: AnyMachineSnapshot): AnyEventObject[] {
  if (snapshot.status !== 'active') return []
  const nodes: readonly AnyStateNode[] = snapshot._nodes
  const names = new Set(nodes.flatMap((node) => [...node.transitions.keys()]))
  return [...names].flatMap((name): AnyEventObject[] => {
    if (name === '*') return [{ type: 'nobody.expects.this' }]
    if (name.endsWith('.*')) {
      const known = Object.keys(samples).filter((sample) => sample.startsWith(name.slice(0, -1)))
      return known.flatMap((type) => samples[type]!(snapshot).map((event) => ({ type, ...event })))
    }
    const work = workBehind(nodes, name)
    if (work === undefined) return (samples[name]?.(snapshot) ?? [{}]).map((event) => ({ type: name, ...event }))
    if (name.startsWith('xstate.error')) return [{ type: name, error: new Error(`${work} failed`) }]
    const outputs = samples[`done ${work}`]?.(snapshot) ?? [{}]
    return outputs.map((output) => ({ type: name, output }))
  })
}

/** Makes the tours. */
export async function tour(plan: TourPlan): Promise<{ walks: Walk[]; coverage: Coverage }> {
  const { machine, inputs, guards } = plan
  const seenStates = new Set<string>()
  const seenTransitions = new Set<string>()
  const walks: Walk[] = []
  const key = (snapshot: AnyMachineSnapshot) =>
    JSON.stringify([stateOf(snapshot), plan.abstract(snapshot) ?? null, snapshot.status])

  for (const input of inputs) {
    const options = {
      input,
      events: (snapshot: AnyMachineSnapshot) => alphabet(plan, snapshot),
      serializeState: key,
      serializeEvent: (event: AnyEventObject) => JSON.stringify(event),
      limit: 5_000,
    }
    const bound = guards ? machine.provide({ guards }) : machine
    const paths = new Map(getShortestPaths(bound, options).map(({ state, steps }) => [key(state), steps]))
    for (const [from, { transitions }] of Object.entries(getAdjacencyMap(bound, options))) {
      const way = (paths.get(from) ?? []).slice(1).map(({ event }) => event)
      for (const { event, state } of Object.values<{ event: AnyEventObject; state: AnyMachineSnapshot }>(transitions)) {
        const bench: Rig = rig(machine, {
          input,
          ...(guards && { guards }),
          onMicrostep(taken, nodes) {
            for (const transition of taken) seenTransitions.add(nameOf(transition))
            for (const node of nodes) seenStates.add(node.id)
          },
        })
        for (const node of bench.snapshot._nodes) seenStates.add(node.id)
        for (const step of [...way, event]) await bench.happen(step)
        const { log, snapshot } = bench
        walks.push({ edge: `${from} --${event.type}`, expected: key(state), arrived: key(snapshot), log, snapshot })
      }
    }
  }

  const nodes = allNodes(machine.root)
  const transitions = nodes.flatMap((node) => allTransitions(node).map(nameOf))
  const excused = new Set(Object.keys(plan.unreachable ?? {}))
  const coverage: Coverage = {
    states: { all: nodes.map(({ id }) => id), missing: nodes.map(({ id }) => id).filter((id) => !seenStates.has(id)) },
    transitions: { all: transitions, missing: transitions.filter((t) => !seenTransitions.has(t) && !excused.has(t)) },
    edges: walks.length,
  }
  return { walks, coverage }
}

export const allNodes = (node: AnyStateNode): AnyStateNode[] => [node, ...Object.values(node.states).flatMap(allNodes)]

const allTransitions = (node: AnyStateNode): AnyTransitionDefinition[] => [
  ...[...node.transitions.values()].flat(),
  ...(node.always ?? []),
]

/** `run.streaming | abort | 0`: the state, the event, and which of its candidates. */
function nameOf(transition: AnyTransitionDefinition): string {
  const { source, eventType } = transition
  const group = eventType === '' ? (source.always ?? []) : (source.transitions.get(eventType) ?? [])
  return [source.id, eventType || 'always', group.indexOf(transition)].join(' | ')
}

/** Who sits in the council: what they are called, and how the gateway is told. */

export interface Seat {
  /** In session keys and in the configuration. */
  id: string
  name: string
  /** What its script is written in, where that is there. */
  language: 'Node' | 'Python'
}

export const SEATS: readonly Seat[] = [
  { id: 'main', name: 'Kublai', language: 'Node' },
  { id: 'researcher', name: 'Möngke', language: 'Node' },
  { id: 'writer', name: 'Chagatai', language: 'Node' },
  { id: 'developer', name: 'Temüjin', language: 'Node' },
  { id: 'analyst', name: 'Jochi', language: 'Python' },
  { id: 'ops', name: 'Ögedei', language: 'Python' },
]

/** The configuration of a gateway whose agents are these, none of them a model. */
export const configOf = (token: string, workspace: string): object => ({
  gateway: { auth: { token } },
  agents: {
    defaults: { workspace },
    list: SEATS.map(({ id, name }) => ({ id, name, runtime: { type: 'connector', graceSeconds: 5 } })),
  },
  tools: { agentToAgent: { enabled: true, allow: SEATS.map(({ id }) => id) } },
})

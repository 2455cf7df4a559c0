/** How many runs may be under way at once, over all sessions and of each agent. Who is too many waits; the agents take turns. */
export interface Lane {
  /** Calls `go` at once when there is room, else as soon as there is. An id that is here already stays as it is. */
  enter(id: string, agentId: string, go: () => void): void
  /** Gives a place back, or gives up waiting for one. */
  leave(id: string): void
  /** Whether it still waits for a place. */
  isWaiting(id: string): boolean
}

/**
 * @param most places, 1 or more
 * @param mostOf how many of them an agent may have; by default all
 */
export function createLane(most: number, mostOf: (agentId: string) => number = () => most): Lane {
  /** Who is in, and whose run it is. */
  const inside = new Map<string, string>()
  /** Those who wait, by agent; the agent whose turn it is comes first. */
  const waiting = new Map<string, Map<string, () => void>>()

  const agentOf = (id: string) => {
    for (const [agentId, queue] of waiting) if (queue.has(id)) return agentId
    return undefined
  }

  const hasRoom = (agentId: string) => [...inside.values()].filter((one) => one === agentId).length < mostOf(agentId)

  function unqueue(agentId: string, id: string): (() => void) | undefined {
    const queue = waiting.get(agentId)
    const go = queue?.get(id)
    queue?.delete(id)
    if (queue?.size === 0) waiting.delete(agentId)
    return go
  }

  function letIn(): void {
    while (inside.size < most) {
      const agentId = [...waiting.keys()].find(hasRoom)
      const id = agentId === undefined ? undefined : waiting.get(agentId)?.keys().next().value
      if (agentId === undefined || id === undefined) return
      const go = unqueue(agentId, id)
      // Before it comes again, every other agent that waits has had its turn.
      const rest = waiting.get(agentId)
      if (rest && waiting.delete(agentId)) waiting.set(agentId, rest)
      inside.set(id, agentId)
      go?.()
    }
  }

  return {
    enter(id, agentId, go) {
      if (inside.has(id) || agentOf(id) !== undefined) return
      const queue = waiting.get(agentId) ?? new Map<string, () => void>()
      waiting.set(agentId, queue.set(id, go))
      letIn()
    },
    leave(id) {
      if (inside.delete(id)) return letIn()
      const agentId = agentOf(id)
      if (agentId !== undefined) unqueue(agentId, id)
    },
    isWaiting: (id) => agentOf(id) !== undefined,
  }
}

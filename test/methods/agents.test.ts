import { expect, it } from 'vitest'
import { createAgents } from '../../src/broker/agents.ts'
import type { AgentConfig, Config } from '../../src/config/config.ts'
import { type AgentsNeeds, agentMethods } from '../../src/methods/agents.ts'

const agent = (id: string, changes: Partial<AgentConfig> = {}): AgentConfig => ({
  id,
  name: id,
  models: ['p/m', 'p/n'],
  thinking: 'off',
  failoverFor: [],
  ...changes,
})

it('agents.status names the model or the node that answers, and who stands in for whom', () => {
  const list = [
    agent('main'),
    agent('ops', { failoverFor: ['main'] }),
    agent('node', { connector: { graceMs: 1, node: 'laptop' } }),
    agent('named', { connector: { graceMs: 1 } }),
    agent('nothing', { models: [] }),
  ]
  const agents = createAgents({ agents: { list, defaultId: 'main' }, session: { mainKey: 'main' } } as Config)
  const activity = { reachable: true, running: 0, waiting: 0 }
  const standIns: { [id: string]: { standingInFor: string[]; replacedBy?: string } } = {
    main: { standingInFor: [], replacedBy: 'ops' },
    ops: { standingInFor: ['main'] },
  }
  const methods = agentMethods({
    agents,
    activityOf: (id: string) => ({ ...activity, reachable: id !== 'main' }),
    standIn: (id: string) => standIns[id] ?? { standingInFor: [] },
  } as unknown as AgentsNeeds)
  const own = { ...activity, standingInFor: [] }
  expect(methods['agents.status']({}, {} as never)).toEqual({
    agents: [
      { ...own, id: 'main', name: 'main', reachable: false, model: 'p/m', replacedBy: 'ops' },
      { ...own, id: 'ops', name: 'ops', model: 'p/m', standingInFor: ['main'] },
      { ...own, id: 'node', name: 'node', connector: { node: 'laptop' } },
      { ...own, id: 'named', name: 'named', connector: {} },
      { ...own, id: 'nothing', name: 'nothing' },
    ],
  })
})

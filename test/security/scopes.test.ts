/** Who may call what: every method, every set of scopes, both roles, over real sockets. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { METHODS } from '../../src/contract/index.ts'
import { type Peer, startGateway, type TestGateway } from '../support/gateway.ts'
import { connectNode, isWorth, makeToken, SCOPE_SETS, UNCOUNTED } from './ground.ts'

/** What each method needs, written down apart from the contract: who changes one has to change the other. */
const NEEDED = {
  'operator.read':
    'health status system-presence last-heartbeat logs.tail agent.identity.get agents.list agents.status models.list sessions.list sessions.digest sessions.preview agent.result chat.history chat.resume node.list node.describe chains.get chains.list messages.list messages.get usage.status usage.cost usage.by channels.status skills.status tts.status tts.providers voicewake.get question.list commands.list sessions.describe sessions.get sessions.subscribe sessions.messages.subscribe sessions.messages.unsubscribe cron.list cron.get cron.status cron.runs',
  'operator.write':
    'agent agent.wait chat.send chat.abort node.invoke send browser.request tts.enable tts.disable tts.convert tts.setProvider voicewake.set talk.mode tools.call sessions.create sessions.send sessions.steer sessions.abort wake',
  'operator.admin':
    'audit.entries config.get config.schema config.set config.patch config.apply sessions.resolve sessions.patch sessions.reset sessions.delete chat.inject exec.approvals.get exec.approvals.set tokens.create tokens.list tokens.revoke agents.files.list agents.files.get agents.files.set sessions.usage sessions.usage.timeseries sessions.usage.logs sessions.compact system-event exec.approvals.node.get exec.approvals.node.set channels.logout channels.start channels.stop poll skills.install skills.update update.run web.login.start web.login.wait wizard.start wizard.next wizard.cancel wizard.status cron.add cron.update cron.remove cron.run set-heartbeats',
  'operator.approvals': 'exec.approval.request exec.approval.resolve exec.approval.list plugin.approval.list',
  'operator.pairing':
    'device.pair.list device.pair.approve device.pair.reject device.pair.remove device.token.rotate device.token.revoke node.pair.request node.pair.list node.pair.approve node.pair.reject node.pair.remove node.pair.verify node.rename',
}
/** What only nodes may call. */
const OF_NODES = ['node.invoke.result', 'node.event', 'skills.bins', 'tools.invoke']
const TABLE = Object.entries(NEEDED).flatMap(([scope, methods]) =>
  methods.split(' ').map((method) => [method, scope] as const),
)
/** What a token for some sessions may call, if its scopes say so. */
const BY_SESSION =
  'chat.send chat.abort chat.history chat.resume sessions.list sessions.digest agent agent.wait agent.result exec.approval.resolve exec.approval.list sessions.describe sessions.get sessions.create sessions.subscribe sessions.messages.subscribe sessions.messages.unsubscribe sessions.send sessions.steer sessions.abort'.split(
    ' ',
  )

/** Names that are none, among them those that every object has. */
const NO_METHODS = [
  ...Object.getOwnPropertyNames(Object.prototype),
  ...Object.getOwnPropertyNames(Function.prototype),
  ...['prototype', 'nothing', 'config.nothing', 'Health', 'HEALTH', ' health', 'health ', 'health\u200b', 'health\0'],
  ...[
    'chat.send.',
    '.chat.send',
    'chat/send',
    'ｈealth',
    'xstate.stop',
    'xstate.done.actor.x',
    '*',
    'system',
    'x'.repeat(60_000),
  ],
]

let gateway: TestGateway
beforeAll(async () => {
  gateway = await startGateway({ config: { gateway: { limits: UNCOUNTED } } })
})
afterAll(() => gateway.stop())

/** What a request came to whose parameters no method takes: nothing is done by it, whoever may call what. */
async function ask(peer: Peer, method: string): Promise<string> {
  const { ok, error } = await peer.request(method, 5)
  if (ok) return 'done'
  return error.message.startsWith(`invalid ${method} params`) ? 'reached' : error.message
}

describe('a method', () => {
  it('has its place in the table, each of them', () => {
    const methods = [...TABLE.map(([method]) => method), ...OF_NODES]
    expect(methods.toSorted()).toEqual(Object.keys(METHODS).toSorted())
  })

  it('is reached by those with its scope and by nobody else, over all sets of scopes', async () => {
    for (const scopes of SCOPE_SETS) {
      const peer = await gateway.connect({ scopes })
      const came = await Promise.all(TABLE.map(async ([method]) => [method, await ask(peer, method)]))
      expect([scopes, came]).toEqual([
        scopes,
        TABLE.map(([method, scope]) => [method, isWorth(scopes, scope) ? 'reached' : `missing scope: ${scope}`]),
      ])
      peer.socket.close()
    }
  })

  it('is reached by no node unless it is for nodes, whatever scopes it asked for', async () => {
    for (const scopes of SCOPE_SETS) {
      const peer = await connectNode(gateway, scopes)
      const others = [...TABLE.map(([method]) => method), ...NO_METHODS]
      const came = await Promise.all(others.map((method) => ask(peer, method)))
      expect([scopes, [...new Set(came)]]).toEqual([scopes, ['unauthorized role: node']])
      expect(await Promise.all(OF_NODES.map((method) => ask(peer, method)))).toEqual(OF_NODES.map(() => 'reached'))
      peer.socket.close()
    }
  })

  it('for nodes is reached by no operator, whatever its scopes', async () => {
    for (const scopes of SCOPE_SETS) {
      const peer = await gateway.connect({ scopes })
      const came = await Promise.all(OF_NODES.map((method) => ask(peer, method)))
      expect([scopes, [...new Set(came)]]).toEqual([scopes, ['unauthorized role: operator']])
      peer.socket.close()
    }
  })

  it('is reached by a token for some sessions if it asks for the session, and its scopes say so', async () => {
    const operator = await gateway.connect()
    for (const scopes of SCOPE_SETS.filter(
      (set) => !set.includes('operator.admin') && !set.includes('operator.pairing'),
    )) {
      const token = await makeToken(operator, { scopes, sessions: ['agent:main:mine*'] })
      const peer = await gateway.connect({ scopes: undefined, auth: { token } })
      const came = await Promise.all(TABLE.map(async ([method]) => [method, await ask(peer, method)]))
      expect([scopes, came]).toEqual([
        scopes,
        TABLE.map(([method, scope]) => {
          if (!isWorth(scopes, scope)) return [method, `missing scope: ${scope}`]
          return [method, BY_SESSION.includes(method) ? 'reached' : `not for a token of some sessions: ${method}`]
        }),
      ])
    }
  })
})

describe('a name that is no method', () => {
  it('looks to everybody but an administrator like one that only an administrator may call', async () => {
    for (const scopes of SCOPE_SETS.filter((set) => !set.includes('operator.admin'))) {
      const peer = await gateway.connect({ scopes })
      const answers = await Promise.all(
        ['config.get', 'tokens.list', 'audit.entries', 'sessions.resolve', ...NO_METHODS].map(async (method) => {
          const { id: _, ...answer } = await peer.request(method, {})
          return JSON.stringify(answer)
        }),
      )
      expect(new Set(answers).size).toBe(1)
      expect(JSON.parse(answers[0]!)).toMatchObject({ ok: false, error: { message: 'missing scope: operator.admin' } })
      peer.socket.close()
    }
  })

  it('is none to an administrator either, also one that objects inherit', async () => {
    const peer = await gateway.connect()
    for (const method of NO_METHODS)
      expect((await peer.request(method, {}))['error'].message).toBe(`unknown method: ${method.slice(0, 64)}`)
  })
})

/** `exec.approval.*`: may this be run? `exec.approvals.*`: what may be run without a question. */
import type { Approvals } from '../broker/approvals.ts'
import type { ApprovalsDocument, KeptApprovals } from '../broker/approvals-document.ts'
import { type Caller, eventually, type Handlers } from '../broker/dispatch.ts'
import type { Nodes } from '../broker/nodes.ts'
import type { approvals as contract, Decision } from '../contract/approvals.ts'
import { GatewayError } from '../contract/errors.ts'
import { type AgentNames, agentIn, canonical, unknownAgent } from '../contract/session-key.ts'

export interface ApprovalsNeeds {
  agents: AgentNames
  approvals: Approvals
  approvalsDocument: Pick<ApprovalsDocument, 'current' | 'replace'>
  /** Where the document is kept, as clients are told. */
  path: string
  nodes: Pick<Nodes, 'invoke'>
  newId(): string
}

/** How long a node may take to say or change what it may run. */
const NODE_MS = 30_000

const DECISIONS = ['allow-once', 'allow-always', 'deny'] as const satisfies readonly Decision[]
const isDecision = (text: string): text is Decision => (DECISIONS as readonly string[]).includes(text)

export function approvalMethods(needs: ApprovalsNeeds): Handlers<typeof contract> {
  const { agents, approvals, approvalsDocument, path, nodes } = needs

  /** Whose command it is: the agent that is named, the one of the session, or the default one. */
  function ownerOf({ agentId, sessionKey }: { agentId: string | null; sessionKey: string | null }) {
    const named = agentId === null ? undefined : agents.resolve(agentId)
    if (agentId !== null && named === undefined) throw unknownAgent(agentId, agents)
    if (sessionKey === null) return { agentId: named ?? agents.defaultId, sessionKey: undefined }
    const isWhole = agentIn(sessionKey) !== undefined
    const session = canonical(named === undefined || isWhole ? sessionKey : `agent:${named}:${sessionKey}`, agents)
    if (named !== undefined && session.agentId !== named)
      throw new GatewayError(
        'INVALID_PARAMS',
        `invalid exec.approval.request params: agent "${named}" does not match session key agent "${session.agentId}"`,
      )
    return { agentId: session.agentId, sessionKey: session.key }
  }

  const told = ({ exists, hash, file }: KeptApprovals) => ({ path, exists, hash, file })

  /** Has a node do something about its own document, and answers what it says. */
  async function ofNode(nodeId: string, command: string, params: object, caller: Caller): Promise<unknown> {
    const asked = { nodeId, command, params, timeoutMs: NODE_MS, idempotencyKey: needs.newId() }
    const { payload } = await nodes.invoke(asked, caller)
    return payload ?? null
  }

  return {
    'exec.approval.request'({ id, timeoutMs, ...given }, caller) {
      const request = {
        command: given.command,
        cwd: given.cwd ?? null,
        host: given.host ?? null,
        security: given.security ?? null,
        ask: given.ask ?? null,
        agentId: given.agentId ?? null,
        resolvedPath: given.resolvedPath ?? null,
        sessionKey: given.sessionKey ?? null,
      }
      return eventually(approvals.request({ id, request, timeoutMs, ...ownerOf(request) }, caller))
    },

    async 'exec.approval.resolve'({ id, decision }, caller) {
      if (!isDecision(decision))
        throw new GatewayError('INVALID_PARAMS', 'invalid decision', { details: { allowed: [...DECISIONS] } })
      await approvals.resolve(id, decision, caller)
      return { ok: true }
    },

    'exec.approval.list': (_, caller) => approvals.list(caller),

    'exec.approvals.get': () => told(approvalsDocument.current()),

    async 'exec.approvals.set'({ file, baseHash }) {
      const { socket, ...rest } = file
      // Nothing here opens that socket: its token would be a secret that is kept for nobody.
      const { token: _, ...address } = socket ?? {}
      return told(await approvalsDocument.replace({ ...rest, ...(socket && { socket: address }) }, baseHash))
    },

    'exec.approvals.node.get': ({ nodeId }, caller) =>
      eventually(ofNode(nodeId, 'system.execApprovals.get', {}, caller)),

    'exec.approvals.node.set': ({ nodeId, file, baseHash }, caller) =>
      eventually(
        ofNode(nodeId, 'system.execApprovals.set', { file, ...(baseHash !== undefined && { baseHash }) }, caller),
      ),
  }
}

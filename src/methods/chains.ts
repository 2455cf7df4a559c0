/** `chains.*`: what came of a request, as a tree. */
import type { Handlers } from '../broker/dispatch.ts'
import type { Lineage } from '../broker/lineage.ts'
import type { chains as contract } from '../contract/chains.ts'
import { GatewayError } from '../contract/errors.ts'

export interface ChainsNeeds {
  lineage: Lineage
}

const LIMIT = 20

export function chainMethods({ lineage }: ChainsNeeds): Handlers<typeof contract> {
  return {
    async 'chains.get'({ chainId, runId }) {
      if ((chainId === undefined) === (runId === undefined))
        throw new GatewayError('INVALID_PARAMS', 'invalid chains.get params: give chainId or runId')
      const id = chainId ?? (await lineage.chainIdOf(runId!))
      const tree = id === undefined ? undefined : await lineage.tree(id)
      if (!tree) throw new GatewayError('UNKNOWN_CHAIN', 'nothing of that chain is known')
      return tree
    },
    async 'chains.list'({ limit = LIMIT }) {
      const newest = await lineage.newest(limit)
      return { chains: newest.map(({ spent: _, ...summary }) => summary) }
    },
  }
}

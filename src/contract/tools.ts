/** The tools of agents, for whoever is no agent. */
import { Type } from 'typebox'
import { method } from './block.ts'
import { NonEmpty, Open, SessionKey } from './shapes.ts'

export const tools = {
  'tools.call': method({
    summary:
      'Call a tool that an agent has, as it could in that session (by default its main one). Tools that speak for a run, such as `sessions_send`, are not to be had here. HTTP asks it for `POST /tools/invoke`.',
    scope: 'operator.write',
    unknown: 'refused',
    audited: true,
    unlisted: true,
    params: Type.Object({
      name: NonEmpty,
      arguments: Type.Optional(Open),
      sessionKey: Type.Optional(SessionKey),
      agentId: Type.Optional(NonEmpty),
    }),
    /** `isError`: the tool refused or failed, and `text` says why. */
    result: Type.Object({ sessionKey: Type.String(), text: Type.String(), isError: Type.Boolean() }),
  }),
}

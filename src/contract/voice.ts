/** What clients that listen and speak tell each other through the gateway, which does neither. */
import { Type } from 'typebox'
import { event, method } from './block.ts'

/** Words that wake a client, as it hears them. */
const Triggers = Type.Array(Type.String({ maxLength: 64 }), { maxItems: 32 })
const Phase = Type.Union([Type.String(), Type.Null()])
const Mode = Type.Object({ enabled: Type.Boolean(), phase: Phase, ts: Type.Number() })

export const voice = {
  'voicewake.get': method({
    summary: 'The words by which clients that listen are woken.',
    scope: 'operator.read',
    unknown: 'ignored',
    params: Type.Object({}),
    result: Type.Object({ triggers: Triggers }),
  }),
  'voicewake.set': method({
    summary:
      'Have clients listen for other words. They are kept, without blanks around them and without empty ones; none at all brings back those that there were at first.',
    scope: 'operator.write',
    unknown: 'refused',
    params: Type.Object({ triggers: Triggers }),
    result: Type.Object({ triggers: Triggers }),
  }),
  'talk.mode': method({
    summary: 'Tell the other clients that somebody begins or ends to talk with an agent. It is not kept.',
    scope: 'operator.write',
    unknown: 'refused',
    params: Type.Object({ enabled: Type.Boolean(), phase: Type.Optional(Type.String({ maxLength: 64 })) }),
    result: Mode,
  }),
}

export const voiceEvents = {
  'voicewake.changed': event({
    summary: 'The words by which a client is woken: to a node when it comes, to everybody when they have changed.',
    scope: 'everyone',
    delivery: 'droppable',
    payload: Type.Object({ triggers: Triggers }),
  }),
  'talk.mode': event({
    summary: 'Somebody begins or ends to talk with an agent.',
    scope: 'everyone',
    delivery: 'droppable',
    payload: Mode,
  }),
}

/** `voicewake.*` and `talk.mode`: what clients that listen and speak tell each other. */
import type { Handlers } from '../broker/dispatch.ts'
import type { Hub } from '../broker/hub.ts'
import type { WakeWords } from '../broker/wake-words.ts'
import type { voice as contract } from '../contract/voice.ts'

export interface VoiceNeeds {
  wakeWords: WakeWords
  hub: Pick<Hub, 'tellAll'>
  now(): number
}

export function voiceMethods({ wakeWords, hub, now }: VoiceNeeds): Handlers<typeof contract> {
  return {
    'voicewake.get': () => ({ triggers: wakeWords.current() }),
    async 'voicewake.set'({ triggers }) {
      const kept = { triggers: await wakeWords.replace(triggers) }
      hub.tellAll('voicewake.changed', kept)
      return kept
    },
    'talk.mode'({ enabled, phase }) {
      const mode = { enabled, phase: phase ?? null, ts: now() }
      hub.tellAll('talk.mode', mode)
      return mode
    },
  }
}

/** A peer that has turns run, and hears how they go. */
import type { Peer } from './client.ts'

interface RunHeard {
  runId: string
  /** Milliseconds until the answer to `chat.send`. Rejects when it was refused. */
  acked: Promise<number>
  /** Milliseconds until the first text. */
  first: Promise<number>
  /** The whole text, once the run has ended well. */
  ended: Promise<string>
}

interface Talker {
  run(sessionKey: string, message: string, onDelta?: (delta: string) => void): RunHeard
  /** The text of somebody else's run, put together from its deltas. */
  hear(runId: string): Promise<string>
  /** Counts the first and the last events of a run from now on. */
  count(runId: string): () => { starts: number; ends: number }
}

interface Listening {
  onDelta(delta: string): void
  onStart?(): void
  onEnd(failure: string | undefined): void
}

let runIds = 0

const AGENT = '{"type":"event","event":"agent"'
const CHAT = '{"type":"event","event":"chat"'

/** Takes over what a peer hears. */
export function createTalker(peer: Peer): Talker {
  const listening = new Map<string, Listening>()

  peer.listen((text) => {
    const isChat = text.startsWith(CHAT)
    if (!isChat && !text.startsWith(AGENT)) return
    const at = text.indexOf('"runId":"') + 9
    const heard = listening.get(text.slice(at, text.indexOf('"', at)))
    if (!heard) return
    if (isChat) {
      if (text.includes('"state":"final"')) heard.onEnd(undefined)
      else if (!text.includes('"state":"delta"')) heard.onEnd(text.slice(0, 300))
    } else if (text.includes('"stream":"assistant"')) {
      // No piece of the bench holds a quote.
      const from = text.lastIndexOf('"delta":"') + 9
      heard.onDelta(text.slice(from, text.indexOf('"', from)))
    } else if (text.includes('"phase":"start"')) heard.onStart?.()
  })

  function listen(runId: string, onDelta: (delta: string) => void): Promise<string> {
    return new Promise((resolve, reject) => {
      const parts: string[] = []
      listening.set(runId, {
        onDelta(delta) {
          parts.push(delta)
          onDelta(delta)
        },
        onEnd(failure) {
          listening.delete(runId)
          if (failure === undefined) resolve(parts.join(''))
          else reject(new Error(`a run failed: ${failure}`))
        },
      })
    })
  }

  return {
    run(sessionKey, message, onDelta) {
      const runId = `bench-run-${++runIds}`
      const began = performance.now()
      const first = Promise.withResolvers<number>()
      const ended = listen(runId, (delta) => {
        first.resolve(performance.now() - began)
        onDelta?.(delta)
      })
      const acked = peer.request('chat.send', { sessionKey, message, idempotencyKey: runId }).then((answer) => {
        if (!answer.includes('"status":"started"')) throw new Error(`chat.send was refused: ${answer.slice(0, 300)}`)
        return performance.now() - began
      })
      ended.catch(first.reject)
      // A refusal is heard by whoever waits for the end; not everybody waits for the answer or for the first text.
      first.promise.catch(() => {})
      acked.catch(() => {})
      return { runId, acked, first: first.promise, ended: Promise.all([ended, acked]).then(([text]) => text) }
    },
    hear: (runId) => listen(runId, () => {}),
    count(runId) {
      const counted = { starts: 0, ends: 0 }
      listening.set(runId, {
        onDelta() {},
        onStart() {
          counted.starts += 1
        },
        onEnd() {
          counted.ends += 1
        },
      })
      return () => {
        listening.delete(runId)
        return counted
      }
    },
  }
}

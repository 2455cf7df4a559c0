/** What somebody hears who waits over HTTP for one run: its text, while it is said. */
import type { Caller } from '../broker/dispatch.ts'
import type { Hearing } from '../broker/peer.ts'
import { CAPS } from '../contract/connect.ts'
import type { EventStream } from './event-stream.ts'

interface AgentEvent {
  event: string
  payload: { runId?: string; stream?: string; data?: { phase?: string; delta?: string } }
}

/**
 * Somebody who joins the hub and hears of one session. What has been said before the run began to speak in its hearing is not made up
 * for: who comes in the middle of it is told no piece, and has the whole at the end.
 * @param stream where its text goes, with what waits to be read
 * @param onText told of each piece, in order
 */
export function runEar(
  { connId, principal, scopes }: Pick<Caller, 'connId' | 'principal' | 'scopes'>,
  { runId, sessionKey }: { runId: string; sessionKey: string },
  stream: Pick<EventStream, 'bytesWaiting' | 'onSent' | 'cut'>,
  onText: (piece: string) => void,
): Hearing {
  let isFromTheBeginning = false
  return {
    connId,
    principal,
    scopes,
    // It reaches this one, or its turn would not have been taken.
    sessions: [sessionKey],
    role: 'operator',
    protocol: 4,
    caps: new Set([CAPS.deltaOnly]),
    spellings: new Map(),
    wire: {
      sendShared(head, tail) {
        const { event, payload } = JSON.parse(head.toString() + tail) as AgentEvent
        if (event !== 'agent' || payload.runId !== runId) return
        const { stream: kind, data = {} } = payload
        if (kind === 'lifecycle' && data.phase === 'start') isFromTheBeginning = true
        if (kind === 'assistant' && isFromTheBeginning && data.delta) onText(data.delta)
      },
      terminate: stream.cut,
      get eventBytesWaiting() {
        return stream.bytesWaiting
      },
      get bytesWaiting() {
        return stream.bytesWaiting
      },
      onEventsSent: stream.onSent,
    },
  }
}

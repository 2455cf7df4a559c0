/** What somebody hears who waits over HTTP for one run: its text, while it is said. */
import type { ServerResponse } from 'node:http'
import type { Caller } from '../broker/dispatch.ts'
import type { Hearing } from '../broker/peer.ts'
import { CAPS } from '../contract/connect.ts'

interface AgentEvent {
  event: string
  payload: { runId?: string; stream?: string; data?: { phase?: string; delta?: string } }
}

/**
 * Somebody who joins the hub and hears of one session. What has been said before the run began to speak in its hearing is not made up
 * for: who comes in the middle of it is told no piece, and has the whole at the end.
 * @param onText told of each piece, in order
 */
export function runEar(
  { connId, principal, scopes }: Caller,
  { runId, sessionKey }: { runId: string; sessionKey: string },
  response: ServerResponse,
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
        const { stream, data = {} } = payload
        if (stream === 'lifecycle' && data.phase === 'start') isFromTheBeginning = true
        if (stream === 'assistant' && isFromTheBeginning && data.delta) onText(data.delta)
      },
      terminate: () => void response.destroy(),
      get eventBytesWaiting() {
        return response.writableLength
      },
      get bytesWaiting() {
        return response.writableLength
      },
      onEventsSent: (callback) => void response.on('drain', callback),
    },
  }
}

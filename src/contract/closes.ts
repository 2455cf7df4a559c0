/** Why the gateway closes a connection. The reason is at most 123 bytes (RFC 6455, section 5.5); 1002, 1007 and 1009 of `ws` itself have none. */
export interface Close {
  code: number
  reason: string
}

export const Closes = {
  /** The first frame was not JSON: as the reference gateway, without a word. */
  notJson: { code: 1000, reason: '' },
  /** The same of a binary frame that holds no text as `ws` does of a text frame. */
  notUtf8: { code: 1007, reason: '' },
  invalidFrame: { code: 1008, reason: 'invalid request frame' },
  handshakeTimeout: { code: 1008, reason: 'handshake timeout' },
  tooManyPending: { code: 1008, reason: 'too many pending handshake frames' },
  preauthTooLarge: { code: 1009, reason: 'preauth payload too large' },
  /** As `ws` itself: without a word. */
  tooLarge: { code: 1009, reason: '' },
  notConnect: { code: 1008, reason: 'invalid handshake: first request must be connect' },
  protocolMismatch: { code: 1002, reason: 'protocol mismatch' },
  /** The credential it came in by was revoked, has ended, or is worth less now. */
  authChanged: { code: 4001, reason: 'gateway auth changed' },
  rateLimited: { code: 1008, reason: 'rate limited' },
  repeatedlyDenied: { code: 1008, reason: 'repeated unauthorized calls' },
  /** A node said for the third time something of an invoke that is another node's. */
  notYourRun: { code: 1008, reason: 'repeatedly spoke for a run that is not its own' },
  slowConsumer: { code: 1008, reason: 'slow consumer' },
  internal: { code: 1011, reason: 'internal error' },
  serviceRestart: { code: 1012, reason: 'service restart' },
} as const satisfies Record<string, Close>
export type CloseName = keyof typeof Closes

/** A policy close whose reason is the sentence the client was told, cut to what a close frame can carry. */
export function refusal(sentence: string): Close {
  const bytes = Buffer.from(sentence, 'utf8')
  if (bytes.length <= 120) return { code: 1008, reason: sentence }
  // Decoding drops a character that was cut in two as U+FFFD, which is removed.
  return {
    code: 1008,
    reason: bytes
      .subarray(0, 120)
      .toString('utf8')
      .replace(/\uFFFD+$/, ''),
  }
}

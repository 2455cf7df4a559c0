/** How a request that is no upgrade is answered: with JSON, which nobody keeps and nobody takes for something else. */
import type { ServerResponse } from 'node:http'

export type Reply = (status: number, body: unknown, headers?: Record<string, string>) => void

/** Answers once: whoever has been answered, or has left, is told nothing more. */
export const replyOn =
  (response: ServerResponse): Reply =>
  (status, body, headers = {}) => {
    if (response.headersSent || response.destroyed) return
    const text = JSON.stringify(body)
    response.writeHead(status, {
      'content-type': 'application/json; charset=utf-8',
      'content-length': Buffer.byteLength(text),
      'cache-control': 'no-store',
      'x-content-type-options': 'nosniff',
      'x-frame-options': 'DENY',
      'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
      'referrer-policy': 'no-referrer',
      ...headers,
    })
    response.end(response.req.method === 'HEAD' ? undefined : text)
  }

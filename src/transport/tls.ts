/** The certificate the gateway shows, where it ends TLS itself: read from its files, and again when they change. */
import { readFileSync, statSync } from 'node:fs'
import type { Server } from 'node:https'
import { createSecureContext } from 'node:tls'
import type { Log } from '../broker/log.ts'

export interface TlsFiles {
  cert: string
  key: string
}

/** How often the files are looked at, in ms: certificates are renewed days before they end. */
const LOOK_EVERY_MS = 10_000

/** @throws Error when a file cannot be read, or the two do not belong together */
export function readTls({ cert, key }: TlsFiles): { cert: Buffer; key: Buffer } {
  const pair = { cert: readFileSync(cert), key: readFileSync(key) }
  createSecureContext(pair)
  return pair
}

const changed = ({ cert, key }: TlsFiles): string => [cert, key].map((file) => statSync(file).mtimeMs).join(' ')

/** Gives servers the files' new content when they change. A pair that does not fit is said, and the old one stays. */
export function watchTls(
  files: TlsFiles,
  servers: () => Iterable<Server>,
  log: Log,
  everyMs = LOOK_EVERY_MS,
): () => void {
  let known = changed(files)
  const timer = setInterval(() => {
    try {
      const now = changed(files)
      if (now === known) return
      known = now
      const pair = readTls(files)
      for (const server of servers()) server.setSecureContext(pair)
      log.info(files, 'the certificate has changed; new connections see the new one')
    } catch (error) {
      log.error({ err: error, ...files }, 'the new certificate cannot be used; the old one stays')
    }
  }, everyMs).unref()
  return () => clearInterval(timer)
}

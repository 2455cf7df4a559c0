/** The token that a gateway on loopback makes for itself, so that nobody has to invent one to begin. */
import { randomBytes } from 'node:crypto'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Secret } from '../config/secret.ts'

export const tokenFile = (stateDir: string): string => join(stateDir, 'gateway-token')

/** The token that was made in this state folder; undefined if none was. */
export function readToken(stateDir: string): Secret | undefined {
  try {
    const text = readFileSync(tokenFile(stateDir), 'utf8').trim()
    return text === '' ? undefined : new Secret(text)
  } catch {
    return undefined
  }
}

/** The token of this state folder, made and kept (0600) if there is none. */
export function ensureToken(stateDir: string): Secret {
  const kept = readToken(stateDir)
  if (kept) return kept
  const token = randomBytes(32).toString('base64url')
  mkdirSync(stateDir, { recursive: true, mode: 0o700 })
  writeFileSync(tokenFile(stateDir), `${token}\n`, { mode: 0o600 })
  return new Secret(token)
}

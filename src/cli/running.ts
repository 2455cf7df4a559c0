/**
 * What a running gateway leaves in its state folder for the commands beside it: where it listens, and which process it is. It locks
 * nothing; after a crash it is merely wrong, and the next start replaces it.
 */
import { X509Certificate } from 'node:crypto'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import * as tls from 'node:tls'
import { isLoopback } from '../config/address.ts'
import type { Config } from '../config/config.ts'

export interface Running {
  url: string
  pid: number
  /** The file of the certificate it shows. */
  cert?: string
}

const fileIn = (stateDir: string): string => join(stateDir, 'running.json')

export function noteRunning(stateDir: string, running: Running): void {
  writeFileSync(fileIn(stateDir), `${JSON.stringify(running)}\n`, { mode: 0o600 })
}

/** The gateway that was started last in this folder, if it said so and was not stopped in order. */
export function findRunning(stateDir: string): Running | undefined {
  try {
    const { url, pid, cert } = JSON.parse(readFileSync(fileIn(stateDir), 'utf8')) as Partial<Running>
    if (typeof url !== 'string' || typeof pid !== 'number') return undefined
    return { url, pid, ...(typeof cert === 'string' && { cert }) }
  } catch {
    return undefined
  }
}

export function forgetRunning(stateDir: string): void {
  rmSync(fileIn(stateDir), { force: true })
}

/** Whether there is a process of that id: after a crash perhaps another one. */
export function isAlive({ pid }: Running): boolean {
  try {
    return process.kill(pid, 0)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/** Where a gateway of this configuration is reached from this machine. */
export function urlOf({ hosts: [host = '127.0.0.1'], tls: files }: Config['gateway'], port: number): string {
  const here = host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '::1' : host
  const isLocal = isLoopback(here)
  const name = files && isLocal && !isFor(files.cert, here) && isFor(files.cert, 'localhost') ? 'localhost' : here
  return `${files ? 'wss' : 'ws'}://${name.includes(':') ? `[${name}]` : name}:${port}/`
}

/** Whether a certificate is for an address or a name. */
function isFor(cert: string, name: string): boolean {
  try {
    const shown = new X509Certificate(readFileSync(cert))
    return (name === 'localhost' ? shown.checkHost(name) : shown.checkIP(name)) !== undefined
  } catch {
    return false
  }
}

/** Lets this process believe a certificate that the configuration names, besides those that everybody believes. */
export function trust(cert: string): void {
  // Node.js has it from 22.19 on; before, NODE_EXTRA_CA_CERTS does the same.
  if (typeof tls.setDefaultCACertificates !== 'function') return
  try {
    tls.setDefaultCACertificates([...tls.getCACertificates('default'), readFileSync(cert, 'utf8')])
  } catch {
    // Then it is believed as far as everybody believes it.
  }
}

/** How much memory another process has, looked at again and again. */
import { readFileSync } from 'node:fs'

export interface Memory {
  /** Bytes, this moment. */
  now(): number
  /** The most there was since the last call, in bytes. */
  most(): number
  stop(): void
}

const LOOK_EVERY_MS = 50

export function watchMemory(pid: number): Memory {
  let most = 0
  const now = () => {
    const kilobytes = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
    return Number(kilobytes) * 1024
  }
  const look = () => {
    most = Math.max(most, now())
  }
  const timer = setInterval(look, LOOK_EVERY_MS)
  return {
    now,
    most() {
      look()
      const was = most
      most = 0
      return was
    },
    stop: () => clearInterval(timer),
  }
}

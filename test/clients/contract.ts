/** What this gateway's contract says of the frames that a client sends. */
import { ConnectParams } from '../../src/contract/connect.ts'
import { decode } from '../../src/contract/frames.ts'
import { methodBlock } from '../../src/contract/index.ts'
import { validator } from '../../src/contract/validate.ts'
import type { TappedFrame } from './tap.ts'

/** What of a client's frames does not fit, each once. */
export function judgeRequests(frames: readonly TappedFrame[]): string[] {
  const problems = new Set<string>()
  for (const { from, frame } of frames) {
    if (from !== 'client') continue
    const incoming = decode(new TextEncoder().encode(JSON.stringify(frame)))
    if (incoming.kind !== 'request') {
      problems.add(`no request: ${JSON.stringify(frame).slice(0, 200)}`)
      continue
    }
    const problem = problemOf(incoming.request)
    if (problem !== undefined) problems.add(`${incoming.request.method}: ${problem}`)
  }
  return [...problems].sort()
}

function problemOf({ method, params = {} }: { method: string; params?: unknown }): string | undefined {
  if (method === 'connect') return validator(ConnectParams).problem(params)
  const block = methodBlock(method)
  if (!block) return 'there is no such method'
  const known = Object.fromEntries(
    Object.entries(params as object).filter(([name]) => !block.meaningless?.includes(name)),
  )
  const isClosed = block.unknown === 'refused'
  return validator(isClosed ? { ...block.params, additionalProperties: false } : block.params).problem(known)
}

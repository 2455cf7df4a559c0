/** What may be run without a question: one document, held in memory and written through. */
import { createHash } from 'node:crypto'
import { nanoid } from 'nanoid'
import type { ExecApprovals } from '../contract/approvals.ts'
import { GatewayError } from '../contract/errors.ts'
import type { Json, Store } from '../stores/store.ts'

/** Of a digest that stands alone. */
const DIGEST = /^sha256:[0-9a-f]{64}$/

/** Exactly one command, of one agent, in one session or in none. */
interface Allowance {
  agentId: string
  /** Canonical. */
  sessionKey: string | undefined
  commandHash: string
}

export interface KeptApprovals {
  /** Whether anything was ever kept. */
  exists: boolean
  hash: string
  file: ExecApprovals
}

export interface ApprovalsDocument {
  current(): KeptApprovals
  /**
   * Replaces the document. Durable when it resolves; of two with the same `baseHash`, whatever their order, one is refused.
   * @throws GatewayError APPROVALS_CHANGED, APPROVALS_TOO_LARGE
   */
  replace(file: ExecApprovals, baseHash: string | undefined): Promise<KeptApprovals>
  allows(what: Allowance): boolean
  /**
   * Adds one to what is allowed. Durable when it resolves.
   * @param example the command, for those who read the document
   * @throws GatewayError APPROVALS_TOO_LARGE
   */
  allow(what: Allowance, example: string, at: number): Promise<void>
}

const KIND = 'exec-approvals'
const ID = 'file'
/** Of the document as JSON. */
const MOST_BYTES = 256 * 1024
/** Of a command that stands beside its digest. */
const EXAMPLE_CHARS = 1024

export async function openApprovalsDocument(store: Pick<Store, 'get' | 'put'>): Promise<ApprovalsDocument> {
  const found = (await store.get(KIND, ID)) as ExecApprovals | undefined
  let kept = keep(joined(found ?? { version: 1, defaults: {}, agents: {} }), found !== undefined)
  let last: Promise<unknown> = Promise.resolve()

  /** One change after the other: each sees what the one before it has left on the disk. */
  function change(next: (file: ExecApprovals) => ExecApprovals): Promise<KeptApprovals> {
    const changed = last.then(async () => {
      const file = next(kept.file)
      if (Buffer.byteLength(JSON.stringify(file)) > MOST_BYTES)
        throw new GatewayError('APPROVALS_TOO_LARGE', 'the exec approvals are too large (at most 256 KiB)')
      await store.put(KIND, ID, file as unknown as Json)
      kept = keep(file, true)
      return kept
    })
    last = changed.catch(() => {})
    return changed
  }

  function allows(what: Allowance): boolean {
    const { allowlist = [] } = kept.file.agents?.[what.agentId] ?? {}
    return allowlist.some(({ pattern }) => pattern === patternOf(what))
  }

  return {
    current: () => kept,
    replace: (file, baseHash) =>
      change(() => {
        if (kept.exists && baseHash === undefined)
          throw new GatewayError(
            'APPROVALS_CHANGED',
            'exec approvals base hash required; re-run exec.approvals.get and retry',
          )
        if (baseHash !== undefined && baseHash !== kept.hash)
          throw new GatewayError(
            'APPROVALS_CHANGED',
            'exec approvals changed since last load; re-run exec.approvals.get and retry',
          )
        return joined(file)
      }),
    allows,
    async allow(what, example, at) {
      const { agentId } = what
      await change((file) => {
        if (allows(what)) return file
        const agent = file.agents?.[agentId] ?? {}
        const entry = {
          id: nanoid(),
          pattern: patternOf(what),
          lastUsedAt: at,
          lastUsedCommand: example.length <= EXAMPLE_CHARS ? example : `${example.slice(0, EXAMPLE_CHARS - 1)}…`,
        }
        const allowlist = [...(agent.allowlist ?? []), entry]
        return { ...file, agents: { ...file.agents, [agentId]: { ...agent, allowlist } } }
      })
    },
  }
}

const patternOf = ({ commandHash, sessionKey }: Pick<Allowance, 'commandHash' | 'sessionKey'>): string =>
  `sha256:${commandHash}${sessionKey === undefined ? '' : `@${sessionKey}`}`

/** Puts a session that stands beside a digest, as it once did, into the pattern. */
function joined(file: ExecApprovals): ExecApprovals {
  if (!file.agents) return file
  const agents = Object.entries(file.agents).map(([id, { allowlist, ...agent }]) => [
    id,
    {
      ...agent,
      ...(allowlist && {
        allowlist: allowlist.map(({ sessionKey, ...entry }) => {
          if (sessionKey === undefined) return entry
          return DIGEST.test(entry.pattern)
            ? { ...entry, pattern: `${entry.pattern}@${sessionKey}` }
            : { ...entry, sessionKey }
        }),
      }),
    },
  ])
  return { ...file, agents: Object.fromEntries(agents) }
}

const keep = (file: ExecApprovals, exists: boolean): KeptApprovals => ({
  exists,
  hash: createHash('sha256').update(JSON.stringify(file)).digest('hex'),
  file,
})

/** The two kinds of block the contract is made of: one says everything about a method, the other about an event. */
import type { Static, TObject, TSchema } from 'typebox'

export const OPERATOR_SCOPES = [
  'operator.admin',
  'operator.read',
  'operator.write',
  'operator.approvals',
  'operator.pairing',
] as const
export type Scope = (typeof OPERATOR_SCOPES)[number]
export type Role = 'operator' | 'node'

export type MethodBlock<P extends TObject = TObject, R extends TSchema = TSchema> = Method<P, R> &
  (ForOperators | ForNodes)

interface ForOperators {
  role?: never
  /** What an operator needs; `operator.admin` implies all, `operator.write` implies `operator.read`. */
  scope: Scope
}

/** Only nodes may call it. They hold no scopes. */
interface ForNodes {
  role: 'node'
  scope?: never
}

interface Method<P extends TObject, R extends TSchema> {
  /** One sentence for PROTOCOL.md. */
  summary: string
  params: P
  result: R
  /**
   * `ignored`: members of `params` that the schema does not know are dropped (reading methods; newer clients send more).
   * `refused`: they are an error naming the member (methods with an effect must not half-understand a request).
   */
  unknown: 'ignored' | 'refused'
  /** Members of protocol 4 that a `refused` method accepts and does not use: they mean nothing here. */
  meaningless?: readonly string[]
  /** Asks of each session it is about whether the caller reaches it: a token for some sessions may call nothing else. */
  bySession?: true
  /** Changes the gateway itself, or decides for others: each call leaves a row in the audit. */
  audited?: true
  /** Its answer may have megabytes: of those few are made at once, and one of each connection. */
  isLarge?: true
  /** Works, but is not listed in `hello-ok.features`, as in the reference gateway. */
  unlisted?: true
}

export interface EventBlock<P extends TSchema = TSchema> {
  summary: string
  /** Who may hear it: an operator with this scope, everybody who is connected, or only the node that it is told to. */
  scope: Scope | 'everyone' | 'node'
  /**
   * `kept`: a slow reader hears it, pieces of text joined to fewer and longer ones, or is disconnected; `droppable`: it is skipped
   * for one that has more waiting than the policy says.
   */
  delivery: 'kept' | 'droppable'
  payload: P
}

/** Declares a method. */
export const method = <P extends TObject, R extends TSchema>(block: MethodBlock<P, R>): MethodBlock<P, R> => block

/** Declares an event. */
export const event = <P extends TSchema>(block: EventBlock<P>): EventBlock<P> => block

export type ParamsOf<B> = B extends MethodBlock<infer P, infer _R> ? Static<P> : never
export type ResultOf<B> = B extends MethodBlock<infer _P, infer R> ? Static<R> : never
export type PayloadOf<B> = B extends EventBlock<infer P> ? Static<P> : never

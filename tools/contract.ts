/** Writes src/contract/protocol.json and src/contract/PROTOCOL.md from the contract. `npm run contract`. */
import { writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { TSchema } from 'typebox'
import type { EventBlock, MethodBlock } from '../src/contract/block.ts'
import { Closes } from '../src/contract/closes.ts'
import { CAPS, ConnectParams, HelloAuth, LIMITS, PROTOCOLS } from '../src/contract/connect.ts'
import { ERRORS, REFUSALS } from '../src/contract/errors.ts'
import { RequestFrame } from '../src/contract/frames.ts'
import { EVENTS, METHODS } from '../src/contract/index.ts'

/** The contract as JSON Schema, for clients in other languages. */
export function protocolJson(): string {
  const methods = Object.entries<MethodBlock>(METHODS).map(
    ([name, { summary, role, scope, unknown, unlisted, ...rest }]) => [
      name,
      {
        summary,
        ...(role ? { role } : { scope }),
        unknownMembers: unknown,
        listed: !unlisted,
        params: unknown === 'refused' ? { ...rest.params, additionalProperties: false } : rest.params,
        ...(rest.meaningless && { acceptedWithoutMeaning: rest.meaningless }),
        result: rest.result,
      },
    ],
  )
  const events = Object.entries<EventBlock>(EVENTS).map(([name, block]) => [name, block])
  const protocol = {
    $comment: 'Made by "npm run contract" from src/contract. Do not edit.',
    protocols: PROTOCOLS,
    frames: { request: RequestFrame },
    connect: { params: ConnectParams, auth: HelloAuth },
    methods: Object.fromEntries(methods),
    events: Object.fromEntries(events),
    errors: ERRORS,
    refusals: REFUSALS,
    closes: Closes,
    limits: LIMITS,
    caps: CAPS,
  }
  return `${JSON.stringify(protocol, null, 2)}\n`
}

const HEARERS: { [scope: string]: string } = { everyone: 'everyone', node: 'the node it is told to' }

/** The same for people. */
export function protocolMarkdown(): string {
  const lines = [
    '# The protocol',
    '',
    '_Made by `npm run contract` from the blocks in this folder. Do not edit._',
    '',
    'One WebSocket, JSON text frames: requests `{type:"req", id, method, params?}`, responses `{type:"res", id, ok, payload?, error?}`,',
    'events `{type:"event", event, payload, seq?, stateVersion?}`. `seq` counts from 1 on each connection.',
    '',
    '## Handshake',
    '',
    'The gateway sends the event `connect.challenge` `{nonce, ts}`; the first request must be `connect`:',
    '',
    params(ConnectParams),
    '',
    `The highest protocol of ${PROTOCOLS.join(' and ')} that lies between \`minProtocol\` and \`maxProtocol\` is spoken; both missing means 3.`,
    'The answer is `hello-ok` with `protocol`, `server`, `features`, `snapshot`, `auth` and `policy`.',
    '',
    'A device proves itself with the member `device`. Its `id` is the SHA-256 of its Ed25519 public key (32 bytes) in hex; `publicKey` and',
    '`signature` are base64url. It signs, in UTF-8,',
    '',
    '```',
    'v2|id|client.id|client.mode|role|scopes|signedAt|token|nonce',
    'v3|id|client.id|client.mode|role|scopes|signedAt|token|nonce|platform|deviceFamily',
    '```',
    '',
    'with what it sends: the scopes with commas, `signedAt` in ms since 1970 (at most two minutes off), the token that it shows (empty',
    'without one), the nonce of the challenge, and in v3 `client.platform` and `client.deviceFamily`, each without blanks around it and',
    'with A to Z as a to z. Once it is paired, `hello-ok.auth.deviceToken` is a token of its own, which counts beside such a proof only.',
    '',
    'Capabilities (`caps`) change what a connection is sent: `delta-only` leaves out the cumulative text of deltas, `stream-offsets`',
    'adds `epoch` and `offset` to the events of a session (for `chat.resume`) and, to `hello-ok.auth`, the scopes that were `denied`,',
    '`tool-events` asks for what tools do.',
    '',
    'A slow reader, one that has half of `policy.maxBufferedBytes` waiting, hears pieces of a text joined: fewer events, nothing missing.',
    'With `stream-offsets` such an event says `from` and `offset`, the first and the last offset it stands for. It may tell what has a',
    'later offset, too: if `chat.resume` gives that again, its `seq` is not above the last one heard of this text. Whoever has more',
    'than the policy waiting, and goes on so, is disconnected with 1008 `slow consumer`.',
    '',
    '## Methods',
    '',
    ...Object.entries<MethodBlock>(METHODS).flatMap(([name, block]) => [
      `### \`${name}\``,
      '',
      `${block.summary} ${block.role ? 'For nodes only.' : `Needs \`${block.scope}\`.`} Unknown members are ${block.unknown}.${block.bySession ? ' A token for some sessions may call it, and finds those only.' : ''}${block.audited ? ' It leaves a row in the audit.' : ''}`,
      '',
      params(block.params),
      '',
      'not' in block.result ? 'Answers with the error `NOT_SERVED`.' : `Answers \`${typeOf(block.result)}\`.`,
      ...(block.meaningless
        ? ['', `Accepted without meaning here: ${block.meaningless.map((member) => `\`${member}\``).join(', ')}.`]
        : []),
      '',
    ]),
    '## Events',
    '',
    '| event | who hears it | a slow reader | what |',
    '|---|---|---|---|',
    ...Object.entries<EventBlock>(EVENTS).map(
      ([name, { scope, delivery, summary }]) =>
        `| \`${name}\` | ${HEARERS[scope] ?? `\`${scope}\``} | ${delivery === 'kept' ? 'hears it joined, or is disconnected' : 'misses it'} | ${summary.replaceAll('|', '\\|')} |`,
    ),
    '',
    '## Errors',
    '',
    '`code` is one of the few codes that protocol 3 knows; `details.code` is precise. With `retryable`, the same request may be sent',
    'again, after `retryAfterMs` where it is given.',
    '',
    '| details.code | code | retryable | when, and what to do |',
    '|---|---|---|---|',
    ...Object.entries<{ code: string; retryable?: true; meaning: string }>(ERRORS).map(
      ([name, { code, retryable, meaning }]) =>
        `| \`${name}\` | \`${code}\` | ${retryable ? 'yes' : 'no'} | ${meaning} |`,
    ),
    '',
    '## Refusals of connect',
    '',
    'The answer has one of these as `details.code`; the socket is closed after it.',
    '',
    '| details.code | why, and what to do |',
    '|---|---|',
    ...Object.entries(REFUSALS).map(([name, meaning]) => `| \`${name}\` | ${meaning} |`),
    '',
    '## Close codes',
    '',
    '| code | reason |',
    '|---|---|',
    ...Object.values(Closes).map(({ code, reason }) => `| ${code} | ${reason || '(none)'} |`),
    '',
  ]
  return lines.join('\n')
}

/** One line a member: name, type, whether it must be there. */
function params(schema: TSchema): string {
  const { properties = {}, required = [] } = schema as { properties?: Record<string, TSchema>; required?: string[] }
  const members = Object.entries(properties)
  if (members.length === 0) return 'No parameters.'
  return [
    '| member | type | |',
    '|---|---|---|',
    ...members.map(
      ([name, member]) =>
        `| \`${name}\` | ${typeOf(member).replaceAll('|', '\\|')} | ${required.includes(name) ? 'required' : ''} |`,
    ),
  ].join('\n')
}

interface Shape {
  type?: string
  const?: unknown
  enum?: unknown[]
  anyOf?: TSchema[]
  items?: TSchema
  properties?: Record<string, TSchema>
  required?: string[]
  minimum?: number
  maximum?: number
  maxLength?: number
}

function typeOf(schema: TSchema): string {
  const shape = schema as Shape
  if (shape.const !== undefined) return JSON.stringify(shape.const)
  if (shape.enum) return shape.enum.map((value) => JSON.stringify(value)).join(' | ')
  if (shape.anyOf) return shape.anyOf.map(typeOf).join(' | ')
  if (shape.type === 'array') return `${typeOf(shape.items ?? {})}[]`
  if (shape.type === 'object' && shape.properties) {
    const inner = Object.entries(shape.properties).map(
      ([name, member]) => `${name}${shape.required?.includes(name) ? '' : '?'}: ${typeOf(member)}`,
    )
    return `{ ${inner.join(', ')} }`
  }
  const bounds = [
    shape.minimum !== undefined && `≥ ${shape.minimum}`,
    shape.maximum !== undefined && `≤ ${shape.maximum}`,
    shape.maxLength !== undefined && `at most ${shape.maxLength} characters`,
  ].filter(Boolean)
  return `${shape.type ?? 'any'}${bounds.length > 0 ? ` (${bounds.join(', ')})` : ''}`
}

/** The generated files: where they are, and what they must hold. */
export const generated = [
  { path: 'src/contract/protocol.json', text: protocolJson },
  { path: 'src/contract/PROTOCOL.md', text: protocolMarkdown },
]

if (import.meta.filename === process.argv[1])
  for (const { path, text } of generated) writeFileSync(fileURLToPath(new URL(`../${path}`, import.meta.url)), text())

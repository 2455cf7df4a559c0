/** An event on its way to everyone who may hear it: in every way it can look, each made when it is first asked for. */
import type { EventBlock } from '../contract/block.ts'
import type { Protocol } from '../contract/errors.ts'
import { type EventName, eventBlock } from '../contract/index.ts'
import type { Gathered, Piece } from './backlog.ts'
import type { Position } from './replay.ts'

/** The ways one event can look. */
export interface Variant {
  protocol: Protocol
  deltaOnly: boolean
  /** How the peer spells the session the event is about. */
  sessionKey: string
  /** Where a piece of a text is to start, when it also stands for earlier ones. */
  start?: number
}

/** What of a peer decides how an event looks to it. */
export interface Hearer {
  readonly protocol: Protocol
  readonly deltaOnly: boolean
  readonly withOffsets: boolean
  /** How it spells sessions, where that is not the canonical key. */
  readonly spellings: ReadonlyMap<string, string>
}

export interface Announcement {
  /** The canonical key; empty for an event about no session. */
  readonly sessionKey: string
  readonly delivery: EventBlock['delivery']
  readonly piece: Piece | undefined
  readonly position: Position | undefined
  /**
   * The frame up to its number, made once for all who hear it alike.
   * @param waited what it says besides itself, when it waited for a slow reader
   */
  head(hearer: Hearer, waited?: Gathered<Announcement>): Buffer
  /** What follows the number. */
  readonly end: string
}

interface About {
  sessionKey: string
  position: Position | undefined
  piece: Piece | undefined
  stateVersion: { presence: number; health: number } | undefined
}

/** @param render makes the payload's JSON, an object, for a variant; it is called once for each */
export function announce(
  name: EventName,
  render: (variant: Variant) => string,
  { sessionKey, position, piece, stateVersion }: About,
): Announcement {
  // Nearly everybody spells the session as the gateway does and hears the event by itself: found without making a key.
  const usual: (Buffer | undefined)[] = []
  const others = new Map<string, Buffer>()

  /** Whether it stands for itself alone; then it looks as it always does. */
  const isAlone = ({ from, offset }: Gathered<Announcement>): boolean =>
    from === position?.offset && offset === position.offset

  function encode(variant: Variant, place: (Position & { from?: number }) | undefined): Buffer {
    const payload = render(variant)
    return Buffer.from(`{"type":"event","event":"${name}","payload":${place ? placed(payload, place) : payload},"seq":`)
  }

  return {
    sessionKey,
    delivery: eventBlock(name).delivery,
    piece,
    position,
    end: stateVersion ? `,"stateVersion":${JSON.stringify(stateVersion)}}` : '}',
    head({ protocol, deltaOnly, withOffsets, spellings }, waited) {
      const shape = protocol * 4 + Number(deltaOnly) * 2 + Number(withOffsets)
      const spelling = spellings.size === 0 ? sessionKey : (spellings.get(sessionKey) ?? sessionKey)
      const place = withOffsets ? position : undefined
      if (spelling === sessionKey && waited === undefined) {
        usual[shape] ??= encode({ protocol, deltaOnly, sessionKey }, place)
        return usual[shape]
      }
      const variant = { protocol, deltaOnly, sessionKey: spelling }
      if (waited === undefined || isAlone(waited))
        return remembered(others, `${shape} ${spelling}`, () => encode(variant, place))
      const { start, from, offset } = waited
      return remembered(others, `${shape} ${start} ${from} ${offset} ${spelling}`, () =>
        encode({ ...variant, start }, place && { ...place, from, offset }),
      )
    },
  }
}

function remembered(buffers: Map<string, Buffer>, key: string, make: () => Buffer): Buffer {
  const buffer = buffers.get(key) ?? make()
  buffers.set(key, buffer)
  return buffer
}

/** The payload with where it stands in its session's stream; `from` is said where it stands for more than one offset. */
export function placed(payload: string, { epoch, offset, from = offset }: Position & { from?: number }): string {
  return `${payload.slice(0, -1)},"epoch":"${epoch}",${from === offset ? '' : `"from":${from},`}"offset":${offset}}`
}

/** Schemas that several methods and events share. */
import { type Static, Type } from 'typebox'

/** An id, a name, a level: short, since such texts are compared, folded, listed and echoed. */
export const NonEmpty = Type.String({ minLength: 1, maxLength: 512 })
/** What is said: at least a character, and no more of them than a message may have bytes. */
export const Said = Type.String({ minLength: 1, maxLength: 256 * 1024 })
/** A name that may be missing or empty, and means nothing to the gateway itself. */
export const Short = Type.String({ maxLength: 512 })
/** How much to think before answering. */
export const Thinking = Type.String({ maxLength: 64 })
/** A session key as clients spell it: `main`, `mykey`, `agent:main:main`, `agent:Möngke:notes`. */
export const SessionKey = Type.String({ minLength: 1, maxLength: 512 })
export const IdempotencyKey = Type.String({ minLength: 1, maxLength: 512 })
export const Milliseconds = Type.Integer({ minimum: 0 })
/** A member that may hold anything. */
export const Anything = Type.Unknown()
/** An object whose members are not fixed. */
export const Open = Type.Record(Type.String(), Type.Unknown())

/** An entry of a transcript, as `chat.history` answers it. */
export const Message = Type.Object(
  {
    role: Type.String(),
    content: Type.Unknown(),
    timestamp: Type.Number(),
    stopReason: Type.Optional(Type.String()),
  },
  { additionalProperties: true },
)

export const AttachmentInput = Type.Object(
  {
    type: Type.Optional(Type.String()),
    mimeType: Type.Optional(Type.String()),
    fileName: Type.Optional(Type.String()),
    /** Base64, with or without a `data:` prefix. */
    content: Type.Optional(Type.Unknown()),
  },
  { additionalProperties: true },
)
export type AttachmentInput = Static<typeof AttachmentInput>

/** Makes every member of a patch optional and clearable with null. */
export const Clearable = <T extends Parameters<typeof Type.Union>[0][number]>(schema: T) =>
  Type.Optional(Type.Union([schema, Type.Null()]))

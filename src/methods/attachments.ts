/** Pictures that come with a message: decoded, bounded, named by what is in them. */
import { createHash } from 'node:crypto'
import { LIMITS } from '../contract/connect.ts'
import { GatewayError } from '../contract/errors.ts'
import { AttachmentInput } from '../contract/shapes.ts'
import { validator } from '../contract/validate.ts'
import type { NewTurn } from '../stores/store.ts'

const attachmentInput = validator(AttachmentInput)

/** Characters of the base64 of the largest picture, in lines as short as mail has them, behind a `data:` prefix. */
const MOST_CHARS = Math.ceil(((LIMITS.attachment / 3) * 4 * 78) / 76) + 256

/** How the first bytes of the images we take look: what a picture is, its bytes say, not its label. */
const SIGNATURES: [mimeType: string, test: (bytes: Buffer) => boolean][] = [
  ['image/png', (bytes) => bytes.subarray(0, 8).equals(Buffer.from('89504e470d0a1a0a', 'hex'))],
  ['image/jpeg', (bytes) => bytes.subarray(0, 3).equals(Buffer.from('ffd8ff', 'hex'))],
  ['image/gif', (bytes) => /^GIF8[79]a/.test(bytes.subarray(0, 6).toString('latin1'))],
  [
    'image/webp',
    (bytes) =>
      bytes.subarray(0, 4).toString('latin1') === 'RIFF' && bytes.subarray(8, 12).toString('latin1') === 'WEBP',
  ],
]

/**
 * Reads the attachments of a request.
 * @throws GatewayError BAD_ATTACHMENT, naming the attachment and what is wrong with it
 */
export function readAttachments(inputs: readonly unknown[] | undefined): NewTurn['attachments'] {
  return (inputs ?? []).map((input, index) => {
    const problem = attachmentInput.problem(input)
    if (problem !== undefined) throw bad(`${index + 1}`, problem)
    const { type, mimeType, fileName, content } = input as AttachmentInput
    const label = fileName ?? type ?? `${index + 1}`
    if (typeof content !== 'string') throw bad(label, 'content must be a base64 string')
    if (content.length > MOST_CHARS) throw bad(label, `more than ${LIMITS.attachment} bytes`)
    const base64 = content.replace(/^data:[^,]*,/, '')
    // Blanks are passed over, as the decoder does: to take them out first costs a piece of text for each.
    const end = base64.search(/[^A-Za-z0-9+/\s]/)
    const isPadded = end < 0 || /^(?:=\s*){1,2}$/.test(base64.slice(end))
    const bytes = Buffer.from(isPadded ? base64 : '', 'base64')
    if (bytes.length === 0) throw bad(label, 'invalid base64 content')
    if (bytes.length > LIMITS.attachment) throw bad(label, `more than ${LIMITS.attachment} bytes`)
    const kind = SIGNATURES.find(([, test]) => test(bytes))?.[0]
    if (!kind)
      throw bad(
        label,
        `only PNG, JPEG, GIF and WebP images are taken${mimeType ? `, this says ${mimeType.slice(0, 64)}` : ''}`,
      )
    return {
      sha256: createHash('sha256').update(bytes).digest('hex'),
      mimeType: kind,
      ...(fileName && { fileName: fileName.slice(0, 255) }),
      bytes,
    }
  })
}

const bad = (label: string, why: string) =>
  new GatewayError('BAD_ATTACHMENT', `attachment ${label.slice(0, 64)}: ${why}`)

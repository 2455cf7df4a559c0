import { describe, expect, it } from 'vitest'
import { readAttachments } from '../../src/methods/attachments.ts'

const GIF = Buffer.from('GIF89a and so on')
const base64 = GIF.toString('base64')
/** A picture with so many bytes more. */
const large = (bytes: number) => Buffer.concat([GIF, Buffer.alloc(bytes)])
const lines = (text: string) => text.replace(/.{76}/g, '$&\r\n')

describe('a picture', () => {
  it.each([
    ['plain', base64],
    ['behind a prefix', `data:image/gif;base64,${base64}`],
    ['in pieces', ` ${base64.slice(0, 5)}\n${base64.slice(5, 9)}\t ${base64.slice(9)} \n`],
    ['with its padding apart', base64.replace('==', ' = =\n')],
    ['without its padding', base64.replace('==', '')],
  ])('is read %s', (_, content) => {
    const [read] = readAttachments([{ content, fileName: 'x' }])
    expect([read?.mimeType, Buffer.from(read!.bytes)]).toEqual(['image/gif', GIF])
  })

  it.each(['', ' \n ', '=', '==', `${base64}!`, `${base64}=`, `=${base64}`, `${base64}== a`, 'é'])(
    'is not %j',
    (content) => {
      expect(() => readAttachments([{ content }])).toThrow('attachment 1: invalid base64 content')
    },
  )

  it('may have five million bytes, in lines too, and no more', () => {
    const most = large(5_000_000 - GIF.length)
    for (const content of [most.toString('base64'), lines(most.toString('base64'))])
      expect(readAttachments([{ content }])[0]!.bytes.length).toBe(5_000_000)
    expect(() => readAttachments([{ content: large(5_000_000).toString('base64') }])).toThrow('more than 5000000 bytes')
  })

  it('that is longer than any may be is refused by its length, whatever it is made of', () => {
    for (const content of [' a'.repeat(4_000_000), '!'.repeat(8_000_000)])
      expect(() => readAttachments([{ content }])).toThrow('attachment 1: more than 5000000 bytes')
  })
})

/** What RFC 6455 asks of the receiving side, as data: what is written after the handshake, and what must come of it. */
import { closing, type FrameShape, frame, OPCODE } from './raw-line.ts'

export interface Case {
  name: string
  /** Written as it stands, one write each. */
  writes: Buffer[]
  /** Each byte by itself, instead. */
  isTrickled?: boolean
  /** The ids of the requests that are answered, in this order; before a close some of them. */
  answered?: string[]
  /** What is in the pongs, as hex. */
  pongs?: string[]
  /** The code it is closed with, 1005 for none; absent: it stays open. */
  close?: number
  /** The subprotocol-free protocol of the gateway it speaks: 3 unless given. */
  protocol?: 3 | 4
}

interface Section {
  title: string
  cases: Case[]
}

/** A request that is answered under the id it has: as near to an echo as there is. */
const asking = (id: string, pad = ''): string =>
  `{"type":"req","id":"${id}","method":"health"${pad && `,"params":{"pad":"${pad}"}`}}`
/** The same of so many bytes. */
const asLongAs = (bytes: number, id = 'a'): string => asking(id, 'x').replace('"x"', () => `"${fill(bytes, id)}"`)
const fill = (bytes: number, id: string): string => 'x'.repeat(bytes - asking(id, 'x').length + 1)

const ping = (payload: Uint8Array | string = '', shape: FrameShape = {}) =>
  frame(payload, { opcode: OPCODE.ping, ...shape })
const pong = (payload: Uint8Array | string = '') => frame(payload, { opcode: OPCODE.pong })
const hex = (text: string): string => Buffer.from(text).toString('hex')

/** A message in as many frames as there are parts. */
function fragments(parts: (Uint8Array | string)[], opcode: number = OPCODE.text): Buffer[] {
  return parts.map((part, index) =>
    frame(part, { opcode: index === 0 ? opcode : OPCODE.continuation, isFinal: index === parts.length - 1 }),
  )
}

function cut(text: string | Buffer, size: number): Buffer[] {
  const bytes = Buffer.from(text as Buffer)
  return Array.from({ length: Math.ceil(bytes.length / size) }, (_, n) => bytes.subarray(n * size, (n + 1) * size))
}

const bytesOf = (text: string): Buffer => Buffer.from(text.replaceAll(' ', ''), 'hex')

const SIZES = [125, 126, 127, 128, 255, 256, 1_000, 65_535, 65_536, 200_000, 512 * 1024]
const lengths: Section = {
  title: 'a message of any length',
  cases: [
    ...[OPCODE.text, OPCODE.binary].flatMap((opcode) => [
      ...SIZES.map((size) => ({
        name: `${size} bytes in a ${opcode === 1 ? 'text' : 'binary'} frame`,
        writes: [frame(asLongAs(size), { opcode })],
        answered: ['a'],
      })),
      {
        name: `65,536 bytes in segments of 997, opcode ${opcode}`,
        writes: cut(frame(asLongAs(65_536), { opcode }), 997),
        answered: ['a'],
      },
    ]),
    { name: 'nothing, as text', writes: [frame('')], answered: ['invalid'] },
    { name: 'nothing, as binary', writes: [frame('', { opcode: OPCODE.binary })], answered: ['invalid'] },
    { name: 'nothing, in three frames', writes: fragments(['', '', '']), answered: ['invalid'] },
    {
      name: 'something between two empty frames',
      writes: fragments(['', asking('a'), '']),
      answered: ['a'],
    },
    { name: '4 MiB of protocol 4', writes: [frame(asLongAs(4 * 1024 * 1024))], answered: ['a'], protocol: 4 },
    { name: '8 MiB of protocol 4', writes: [frame(asLongAs(8 * 1024 * 1024))], answered: ['a'], protocol: 4 },
    {
      name: '8 MiB and a byte of protocol 4',
      writes: [frame(asLongAs(8 * 1024 * 1024 + 1))],
      close: 1009,
      protocol: 4,
    },
    { name: '512 KiB and a byte', writes: [frame(asLongAs(512 * 1024 + 1))], close: 1009 },
    {
      name: '512 KiB and a byte, in two frames',
      writes: fragments(cut(asLongAs(512 * 1024 + 1), 300_000)),
      close: 1009,
    },
    {
      name: '512 KiB in eight frames',
      writes: fragments(cut(asLongAs(512 * 1024), 65_536)),
      answered: ['a'],
    },
    { name: '1 GiB that is only claimed', writes: [frame('x', { claims: 1024 ** 3 })], close: 1009 },
    { name: '2^53 bytes that are only claimed', writes: [frame('x', { claims: 2n ** 53n })], close: 1009 },
    { name: '2^63 bytes that are only claimed', writes: [frame('x', { claims: 2n ** 63n })], close: 1009 },
    { name: '2^64 - 1 bytes that are only claimed', writes: [frame('x', { claims: 2n ** 64n - 1n })], close: 1009 },
    ...[16, 64, 256, 1_024].map((size) => ({
      name: `a hundred of ${size * 4} bytes in one write`,
      writes: [Buffer.concat(Array.from({ length: 100 }, (_, n) => frame(asLongAs(size * 4, `n${n}`))))],
      answered: Array.from({ length: 100 }, (_, n) => `n${n}`),
    })),
  ],
}

const pings: Section = {
  title: 'a ping or a pong',
  cases: [
    { name: 'a ping of nothing', writes: [ping()], pongs: [''] },
    { name: 'a ping with words', writes: [ping('Hello, world!')], pongs: [hex('Hello, world!')] },
    {
      name: 'a ping with bytes that are no text',
      writes: [ping(bytesOf('00 ff fe fd fc fb 00 ff'))],
      pongs: ['00fffefdfcfb00ff'],
    },
    { name: 'a ping of 125 bytes', writes: [ping(Buffer.alloc(125, 0xfe))], pongs: ['fe'.repeat(125)] },
    { name: 'a ping of 126 bytes', writes: [ping(Buffer.alloc(126, 0xfe))], close: 1002 },
    { name: 'a ping of 65,536 bytes', writes: [ping(Buffer.alloc(65_536))], close: 1002 },
    {
      name: 'a ping of 125 bytes, byte by byte',
      writes: [ping(Buffer.alloc(125, 0xfe))],
      isTrickled: true,
      pongs: ['fe'.repeat(125)],
    },
    { name: 'a pong nobody asked for', writes: [pong()] },
    { name: 'a pong with words nobody asked for', writes: [pong('unasked')] },
    { name: 'a pong of 126 bytes', writes: [pong(Buffer.alloc(126))], close: 1002 },
    { name: 'a pong nobody asked for, then a ping', writes: [pong('unasked'), ping('asked')], pongs: [hex('asked')] },
    {
      name: 'ten pings',
      writes: Array.from({ length: 10 }, (_, n) => ping(`p${n}`)),
      pongs: Array.from({ length: 10 }, (_, n) => hex(`p${n}`)),
    },
    {
      name: 'ten pings, byte by byte',
      writes: [Buffer.concat(Array.from({ length: 10 }, (_, n) => ping(`p${n}`)))],
      isTrickled: true,
      pongs: Array.from({ length: 10 }, (_, n) => hex(`p${n}`)),
    },
    {
      name: 'a ping whose length takes two bytes more than it needs',
      writes: [ping('p', { lengthBytes: 2 })],
      close: 1002,
    },
  ],
}

const reserved: Section = {
  title: 'a bit or an opcode that means nothing',
  cases: [
    ...[1, 2, 3, 4, 5, 6, 7].flatMap((bits): Case[] => [
      { name: `bits ${bits} on text`, writes: [frame(asking('a'), { reserved: bits })], close: 1002 },
      { name: `bits ${bits} on binary`, writes: [frame(asking('a'), { reserved: bits, opcode: 2 })], close: 1002 },
      { name: `bits ${bits} on a ping`, writes: [ping('p', { reserved: bits })], close: 1002 },
      { name: `bits ${bits} on a close`, writes: [frame(bytesOf('03e8'), { reserved: bits, opcode: 8 })], close: 1002 },
      {
        name: `bits ${bits} on a continuation`,
        writes: [frame('{', { isFinal: false }), frame('}', { opcode: 0, reserved: bits })],
        close: 1002,
      },
      {
        name: `bits ${bits} on the second message`,
        writes: [frame(asking('a')), frame(asking('b'), { reserved: bits }), ping('late')],
        answered: ['a'],
        close: 1002,
      },
      {
        name: `bits ${bits} on the second message, byte by byte`,
        writes: [Buffer.concat([frame(asking('a')), frame('x', { reserved: bits })])],
        isTrickled: true,
        answered: ['a'],
        close: 1002,
      },
    ]),
    ...[3, 4, 5, 6, 7, 11, 12, 13, 14, 15].flatMap((opcode): Case[] => [
      { name: `opcode ${opcode} with nothing`, writes: [frame('', { opcode })], close: 1002 },
      { name: `opcode ${opcode} with words`, writes: [frame('words', { opcode })], close: 1002 },
      {
        name: `opcode ${opcode} behind a request`,
        writes: [frame(asking('a')), frame('', { opcode }), ping('late')],
        answered: ['a'],
        close: 1002,
      },
      {
        name: `opcode ${opcode} behind a request, byte by byte`,
        writes: [Buffer.concat([frame(asking('a')), frame('words', { opcode })])],
        isTrickled: true,
        answered: ['a'],
        close: 1002,
      },
      { name: `opcode ${opcode} that is not the last`, writes: [frame('x', { opcode, isFinal: false })], close: 1002 },
    ]),
    ...[OPCODE.text, OPCODE.binary, OPCODE.ping, OPCODE.close].map((opcode) => ({
      name: `opcode ${opcode} without a mask`,
      writes: [frame('', { opcode, isMasked: false })],
      close: 1002,
    })),
    { name: 'a request without a mask', writes: [frame(asking('a'), { isMasked: false })], close: 1002 },
  ],
}

const [first, second] = cut(asking('a'), 20) as [Buffer, Buffer]
const inTwo = fragments([asking('a').slice(0, 20), asking('a').slice(20)])
const fragmented: Section = {
  title: 'a message in pieces',
  cases: [
    { name: 'a ping in two', writes: fragments(['a', 'b'], OPCODE.ping), close: 1002 },
    { name: 'a pong in two', writes: fragments(['a', 'b'], OPCODE.pong), close: 1002 },
    { name: 'a close in two', writes: fragments([bytesOf('03'), bytesOf('e8')], OPCODE.close), close: 1002 },
    { name: 'text in two', writes: inTwo, answered: ['a'] },
    { name: 'text in two, one write', writes: [Buffer.concat(inTwo)], answered: ['a'] },
    { name: 'text in two, byte by byte', writes: [Buffer.concat(inTwo)], isTrickled: true, answered: ['a'] },
    {
      name: 'binary in two',
      writes: fragments([first, ...cut(asking('a'), 20).slice(1)], OPCODE.binary),
      answered: ['a'],
    },
    { name: 'text in sixty', writes: fragments(cut(asLongAs(6_000), 100)), answered: ['a'] },
    { name: '64 KiB in fifty-one', writes: fragments(cut(asLongAs(65_536), 1_300)), answered: ['a'] },
    ...[false, true].map((isTrickled) => ({
      name: `a ping between two pieces${isTrickled ? ', byte by byte' : ''}`,
      writes: isTrickled
        ? [Buffer.concat([inTwo[0]!, ping('between'), inTwo[1]!])]
        : [inTwo[0]!, ping('between'), inTwo[1]!],
      isTrickled,
      answered: ['a'],
      pongs: [hex('between')],
    })),
    {
      name: 'pings and pongs between five pieces',
      writes: fragments(cut(asking('a'), 10)).flatMap((piece, n) => [piece, ping(`${n}`), pong('x')]),
      answered: ['a'],
      pongs: cut(asking('a'), 10).map((_, n) => hex(`${n}`)),
    },
    ...[true, false].flatMap((isFinal): Case[] => [
      {
        name: `a continuation of nothing, final ${isFinal}`,
        writes: [frame('x', { opcode: 0, isFinal })],
        close: 1002,
      },
      {
        name: `a continuation of nothing before a request, final ${isFinal}`,
        writes: [frame('x', { opcode: 0, isFinal }), frame(asking('a'))],
        close: 1002,
      },
      {
        name: `a continuation of nothing in one write with a request, final ${isFinal}`,
        writes: [Buffer.concat([frame('x', { opcode: 0, isFinal }), frame(asking('a'))])],
        close: 1002,
      },
      {
        name: `a continuation of nothing, byte by byte, final ${isFinal}`,
        writes: [Buffer.concat([frame('x', { opcode: 0, isFinal }), frame(asking('a'))])],
        isTrickled: true,
        close: 1002,
      },
      {
        name: `a continuation behind the last piece, final ${isFinal}`,
        writes: [...inTwo, frame('x', { opcode: 0, isFinal }), frame(asking('b'))],
        answered: ['a'],
        close: 1002,
      },
    ]),
    { name: 'a text inside a text', writes: [inTwo[0]!, frame(asking('b')), inTwo[1]!], close: 1002 },
    { name: 'a binary inside a text', writes: [inTwo[0]!, frame(asking('b'), { opcode: 2 })], close: 1002 },
    { name: 'two that begin and none that ends', writes: [inTwo[0]!, frame('{', { isFinal: false })], close: 1002 },
    { name: 'one that never ends', writes: [inTwo[0]!, ping('still here')], pongs: [hex('still here')] },
    {
      name: 'one that begins like another ends',
      writes: [...inTwo, ...fragments([asking('b')])],
      answered: ['a', 'b'],
    },
    {
      name: 'no rest',
      writes: [
        frame(first, { isFinal: false }),
        frame(Buffer.concat([second, ...cut(asking('a'), 20).slice(2)]), { opcode: 0 }),
      ],
      answered: ['a'],
    },
  ],
}

/** Text that is well formed, as hex, and what stands there. */
const WELL_FORMED = [
  'ce ba e1 bd b9 cf 83 ce bc ce b5',
  '48 65 6c 6c 6f 2d c2 b5 40 c3 9f c3 b6 c3 a4 c3 bc c3 a0 c3 a1 2d 55 54 46 2d 38',
  'c2 80',
  'e0 a0 80',
  'f0 90 80 80',
  '7f',
  'df bf',
  'ef bf bf',
  'f4 8f bf bf',
  'ed 9f bf',
  'ee 80 80',
  'ef bf bd',
  'ef bb bf',
  'f0 9f 98 80',
  // Characters that are none, and are well formed all the same.
  'ef b7 90',
  'ef b7 af',
  'ef bf be',
  ...Array.from({ length: 16 }, (_, plane) => [0x1fffe, 0x1ffff].map((at) => at + plane * 0x10000))
    .flat()
    .map((point) => Buffer.from(String.fromCodePoint(point)).toString('hex')),
  ...[0xfff9, 0xfffa, 0xfffb, 0xfffc, 0xfeff].map((point) => Buffer.from(String.fromCodePoint(point)).toString('hex')),
]

/** Bytes that are no UTF-8. */
const MALFORMED = [
  // Cut off.
  'ce',
  'ce ba e1',
  'ce ba e1 bd',
  'ce ba e1 bd b9 cf',
  'ce ba e1 bd b9 cf 83 ce bc ce',
  'e0 a0',
  'f0 90',
  'f0 90 80',
  'f4 8f bf',
  // Beyond the last character, or longer than any.
  'f4 90 80 80',
  'f7 bf bf bf',
  'f8 88 80 80 80',
  'fb bf bf bf bf',
  'fc 84 80 80 80 80',
  'fd bf bf bf bf bf',
  'ce ba e1 bd b9 cf 83 ce bc ce b5 f4 90 80 80 65 64 69 74 65 64',
  // Continuations of nothing.
  '80 bf',
  '80 bf 80',
  '80 bf 80 bf 80 bf',
  Array.from({ length: 64 }, (_, n) => (0x80 + n).toString(16)).join(''),
  ...Array.from({ length: 64 }, (_, n) => (0x80 + n).toString(16)),
  // Beginnings of nothing.
  ...Array.from({ length: 64 }, (_, n) => `${(0xc0 + n).toString(16)} 20`),
  'c0',
  'df',
  'ef bf',
  'f7 bf bf',
  'fb bf bf bf',
  'c0 e0 80 f0 80 80 df ef bf f7 bf bf',
  'fe fe ff ff',
  // Longer than need be.
  'c0 af',
  'e0 80 af',
  'f0 80 80 af',
  'f8 80 80 80 af',
  'fc 80 80 80 80 af',
  'c1 bf',
  'e0 9f bf',
  'f0 8f bf bf',
  'f8 87 bf bf bf',
  'c0 80',
  'e0 80 80',
  'f0 80 80 80',
  // Halves of pairs, and pairs of them.
  'ed a0 80',
  'ed ad bf',
  'ed ae 80',
  'ed af bf',
  'ed b0 80',
  'ed be 80',
  'ed bf bf',
  'ed a0 80 ed b0 80',
  'ed a0 80 ed bf bf',
  'ed ad bf ed b0 80',
  'ed ae 80 ed bf bf',
  'ed af bf ed b0 80',
  'ed af bf ed bf bf',
]

const [before, behind] = [asking('|').split('|')[0]!, asking('|').split('|')[1]!]
const around = (bytes: Buffer): Buffer => Buffer.concat([Buffer.from(before), bytes, Buffer.from(behind)])
const inBytes = (bytes: Buffer): Buffer[] => fragments([before, ...cut(bytes, 1), behind])

const utf8: Section = {
  title: 'text that is UTF-8, or is not',
  cases: [
    ...WELL_FORMED.flatMap((text): Case[] => {
      const bytes = bytesOf(text)
      const outcome = { answered: [bytes.toString('utf8')] }
      return [
        { name: `${text}`, writes: [frame(around(bytes))], ...outcome },
        { name: `${text} as binary`, writes: [frame(around(bytes), { opcode: OPCODE.binary })], ...outcome },
        { name: `${text}, each byte a frame`, writes: inBytes(bytes), ...outcome },
      ]
    }),
    ...MALFORMED.flatMap((text): Case[] => {
      const bytes = bytesOf(text)
      const malformed: Case[] = [
        { name: `${text}`, writes: [frame(around(bytes))], close: 1007 },
        { name: `${text} as binary`, writes: [frame(around(bytes), { opcode: OPCODE.binary })], close: 1007 },
      ]
      if (bytes.length < 60) malformed.push({ name: `${text}, each byte a frame`, writes: inBytes(bytes), close: 1007 })
      return malformed
    }),
    ...WELL_FORMED.slice(0, 8).map((text) => ({
      name: `${text}, byte by byte`,
      writes: [frame(around(bytesOf(text)))],
      isTrickled: true,
      answered: [bytesOf(text).toString('utf8')],
    })),
    ...MALFORMED.slice(0, 16).map((text) => ({
      name: `${text}, byte by byte`,
      writes: [frame(around(bytesOf(text)))],
      isTrickled: true,
      close: 1007,
    })),
  ],
}

const CODES = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4001, 4999]
const NO_CODES = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535]
const ends: Section = {
  title: 'a close',
  cases: [
    { name: 'behind a request', writes: [frame(asking('a')), closing(1000)], answered: ['a'], close: 1000 },
    { name: 'twice', writes: [closing(1000), closing(1001)], close: 1000 },
    { name: 'before a ping', writes: [closing(1000), ping('late')], close: 1000 },
    { name: 'before a request', writes: [closing(1000), frame(asking('a'))], close: 1000 },
    { name: 'between two pieces', writes: [inTwo[0]!, closing(1000), inTwo[1]!], close: 1000 },
    { name: 'before a frame that breaks the rules', writes: [closing(1000), frame('x', { reserved: 7 })], close: 1000 },
    {
      name: 'behind 256 KiB and before a ping',
      writes: [frame(asLongAs(262_144)), closing(1000), ping('late')],
      answered: ['a'],
      close: 1000,
    },
    { name: 'with nothing', writes: [closing()], close: 1005 },
    { name: 'with one byte', writes: [frame('x', { opcode: 8 })], close: 1002 },
    { name: 'with a reason', writes: [closing(1000, 'that is all')], close: 1000 },
    { name: 'with a reason of 123 bytes', writes: [closing(1000, '*'.repeat(123))], close: 1000 },
    { name: 'with a reason of 124 bytes', writes: [closing(1000, '*'.repeat(124))], close: 1002 },
    {
      name: 'with a reason that is no UTF-8',
      writes: [closing(1000, bytesOf('ce ba e1 bd b9 cf 83 ce bc ce b5 ed a0 80'))],
      close: 1007,
    },
    { name: 'byte by byte', writes: [closing(1000, 'that is all')], isTrickled: true, close: 1000 },
    ...CODES.map((code) => ({ name: `with the code ${code}`, writes: [closing(code)], close: code })),
    ...CODES.map((code) => ({
      name: `with the code ${code} and a reason`,
      writes: [closing(code, 'why')],
      close: code,
    })),
    ...NO_CODES.map((code) => ({ name: `with ${code}, which is no code`, writes: [closing(code)], close: 1002 })),
    ...NO_CODES.map((code) => ({
      name: `with ${code}, which is no code, and a reason`,
      writes: [closing(code, 'why')],
      close: 1002,
    })),
  ],
}

export const SECTIONS: Section[] = [lengths, pings, reserved, fragmented, utf8, ends]

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { MOST_DEPTH, MOST_TOKENS, scan } from '../../src/contract/json-bounds.ts'
import { absent, filesOf, isSent, readRecording } from '../wire/recording.ts'

const SEED = 1206
const judge = (text: string) => scan(Buffer.from(text))?.problem

/** The same rules, slow and plain: every piece is taken out of the text and looked at by itself. Of a text that is JSON only. */
function reference(text: string): { unbounded: boolean; problems: Set<string> } {
  const problems = new Set<string>()
  const open: (Set<string> | undefined)[] = []
  let tokens = 0
  let deepest = 0
  const pieces = text.match(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g) ?? []
  for (const [index, piece] of pieces.entries()) {
    if (piece === ',' || piece === ':') continue
    if (piece === '}' || piece === ']') {
      open.pop()
      continue
    }
    tokens += 1
    if (piece === '{' || piece === '[') open.push(piece === '{' ? new Set() : undefined)
    else if (piece.startsWith('"')) {
      const value = JSON.parse(piece) as string
      if (!value.isWellFormed()) problems.add('surrogate')
      if (pieces[index + 1] === ':') {
        const names = open.at(-1)!
        if (names.has(value)) problems.add('twice')
        names.add(value)
      }
    } else if (Math.abs(JSON.parse(piece) as number) > 2 ** 53 - 1) problems.add('exact')
    deepest = Math.max(deepest, open.length)
  }
  return { unbounded: tokens > 20_000 || deepest > 32, problems }
}

/** Holds the scan to the reference where the text is JSON; elsewhere it must only return. */
function compare(text: string): 'JSON' | 'no JSON' {
  const found = scan(Buffer.from(text))
  try {
    JSON.parse(text)
  } catch {
    return 'no JSON'
  }
  const { unbounded, problems } = reference(text)
  const said = found === undefined ? [] : [...problems].filter((word) => found.problem.includes(word))
  if ((found?.isUnbounded ?? false) ? !unbounded : unbounded || (found === undefined ? problems.size : !said.length))
    throw new Error(`${text.slice(0, 300)}: said ${found?.problem}, but there is ${[...problems]}, ${unbounded}`)
  return 'JSON'
}

/** JSON as clients write it and as nobody should: escapes, blanks, names twice, halves of pairs, numbers of every size. */
const text = fc.letrec<{ value: string; string: string; object: string; array: string; number: string }>((tie) => ({
  value: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    tie('string'),
    tie('number'),
    fc.constantFrom('true', 'false', 'null', '""', '[]', '{}', ' { } '),
    tie('object'),
    tie('array'),
  ),
  string: fc
    .array(
      fc.oneof(
        { weight: 8, arbitrary: fc.constantFrom('a', 'b', 'c', 'id', 'name', 'ü', '😀', '€', ' ', '{', '}', ',', ':') },
        {
          weight: 2,
          arbitrary: fc.constantFrom('\\"', '\\\\', '\\n', '\\/', '\\u0061', '\\u0022', '\\u005C', '\\uABCD'),
        },
        {
          weight: 1,
          arbitrary: fc.constantFrom(
            '\\ud83d\\ude00',
            '\\uD83D\\uDE00',
            '\\uDBFF\\udfff',
            '\\ud800\\uDC00',
            '\\ud83d\\\\ude00',
          ),
        },
        { weight: 1, arbitrary: fc.constantFrom('x'.repeat(47), 'y'.repeat(100), '\\u0000') },
      ),
      { maxLength: 6 },
    )
    .chain((parts) =>
      // One in twenty has half a pair in it.
      fc
        .nat(19)
        .map(
          (n) =>
            `"${(n === 0 ? [...parts, ['\\ud800', '\\uDFff', '\\udc00\\ud800'][parts.length % 3]!] : parts).join('')}"`,
        ),
    ),
  number: fc.oneof(
    { weight: 5, arbitrary: fc.integer().map(String) },
    { weight: 3, arbitrary: fc.double({ noNaN: true, noDefaultInfinity: true }).map((n) => JSON.stringify(n)) },
    {
      weight: 1,
      arbitrary: fc.constantFrom(
        ...['9007199254740991', '-9007199254740991', '9007199254740992', '-9007199254740992', '9007199254740991.4'],
        ...[
          '9007199254740991.5',
          '1e15',
          '9.1e15',
          '1e16',
          '1e309',
          '-1E+400',
          '1e-400',
          '0.1',
          '-0',
          '999999999999999',
        ],
        ...['0.9007199254740993', '123456789012345.678', '9'.repeat(400), `0.${'9'.repeat(400)}`],
      ),
    },
  ),
  object: fc
    .array(fc.tuple(fc.constantFrom('', ' ', '\n'), tie('string'), fc.constantFrom('', '\t '), tie('value')), {
      maxLength: 8,
    })
    .map((members) => `{${members.map(([a, name, b, value]) => `${a}${name}${b}:${a}${value}${b}`).join(',')}}`),
  array: fc.array(tie('value'), { maxLength: 6 }).map((values) => `[${values.join(' , ')}]`),
}))

describe('a scan of a JSON text', () => {
  it('says what a slow and plain reading says', () => {
    const seen = { sound: 0, unsound: 0 }
    fc.assert(
      fc.property(fc.oneof(text.object, text.value), (json) => {
        expect(compare(json)).toBe('JSON')
        seen[scan(Buffer.from(json)) === undefined ? 'sound' : 'unsound'] += 1
      }),
      { seed: SEED, numRuns: 6_000 },
    )
    // Both kinds come often enough to mean something.
    expect(Math.min(seen.sound, seen.unsound)).toBeGreaterThan(300)
  })

  it('counts the names of an object whether they are few or many, short or long', () => {
    for (const count of [2, 15, 16, 17, 18, 40, 4_000])
      for (const size of [1, 63, 64, 65, 300]) {
        if (count * size > 400_000) continue
        const names = Array.from({ length: count }, (_, n) => `${n}`.padStart(size, 'n'))
        const object = (list: string[]) => `{${list.map((name) => `"${name}":{"${name}":0}`).join(',')}}`
        expect(judge(object([...new Set(names)]))).toBeUndefined()
        for (const again of [0, count - 1, count >> 1])
          expect(judge(object([...new Set(names), names[again]!]))).toContain('is given twice')
      }
  })

  it.each([
    ['{"a":1,"\\u0061":2}', "property 'a' is given twice"],
    ['{"\\u0061":1,"a":2}', "property 'a' is given twice"],
    ['{"":1,"":2}', "property '' is given twice"],
    ['{"__proto__":1,"__proto__":2}', "property '__proto__' is given twice"],
    ['{"a":{"a":[{"a":1},{"a":1}]},"b":"a"}', undefined],
    ['["a","a",{"b":"b"}]', undefined],
    ['{"a\\\\":1,"a":2}', undefined],
    [`{"${'x'.repeat(200)}":1,"${'x'.repeat(200)}":2}`, `property '${'x'.repeat(64)}' is given twice`],
    ['"\\ud83d"', 'a string holds half of a surrogate pair'],
    ['"\\ude00\\ud83d"', 'a string holds half of a surrogate pair'],
    ['{"\\uDBFF":1}', 'a string holds half of a surrogate pair'],
    ['"\\ud83d\\ude00 \\\\ud83d"', undefined],
    ['{"n":9007199254740993}', 'a number is too large to be exact'],
    ['[1e999]', 'a number is too large to be exact'],
    ['[0.1,-1e15,9007199254740991]', undefined],
  ])('of %j says %s', (json, problem) => {
    expect(judge(json)).toBe(problem)
  })

  it('draws the line between so deep and deeper, and so many and more', () => {
    const nested = (depth: number, [open, close]: readonly [string, string]) =>
      `${open.repeat(depth)}0${close.repeat(depth)}`
    for (const pair of [
      ['[', ']'],
      ['{"a":', '}'],
      ['[{"":', '}]'],
    ] as const) {
      const levels = pair[0].length === 5 && pair[0].startsWith('[') ? MOST_DEPTH / 2 : MOST_DEPTH
      expect(judge(nested(levels, pair))).toBeUndefined()
      expect(scan(Buffer.from(nested(levels + 1, pair)))).toEqual({
        problem: 'it is nested more than 32 deep',
        isUnbounded: true,
      })
    }
    const list = (count: number) => `[${Array(count).fill('0').join()}]`
    expect(judge(list(MOST_TOKENS - 1))).toBeUndefined()
    expect(scan(Buffer.from(list(MOST_TOKENS)))).toEqual({
      problem: 'it has more than 20,000 values and names',
      isUnbounded: true,
    })
    const object = (count: number) => `{${Array.from({ length: count }, (_, n) => `"${n}":0`).join()}}`
    expect(judge(object(9_999))).toBeUndefined()
    expect(judge(object(10_000))).toContain('more than 20,000')
  })

  it('stops at the bound, however deep the text is and whatever is wrong before', () => {
    for (const depth of [33, 34, 100, 1_000, 10_000, 100_000, 1_000_000])
      for (const json of [
        '['.repeat(depth),
        `${'['.repeat(depth)}${']'.repeat(depth)}`,
        '{"a":'.repeat(depth),
        `{"a":1,"a":${'['.repeat(depth)}`,
      ])
        expect(scan(Buffer.from(json))?.isUnbounded).toBe(true)
  })

  it('tells the id of a text that is not to be parsed, where it stands before', () => {
    const idOf = (head: string) => scan(Buffer.from(`${head}${'['.repeat(40)}`))?.id
    expect(idOf('{"type":"req","id":"r1","params":')).toBe('r1')
    expect(idOf('{"id":"a\\u0062\\"","params":')).toBe('ab"')
    for (const head of [
      '',
      '[{"id":"r1"},',
      '{"params":',
      '{"id":7,"params":',
      '{"id":["r1"],"params":',
      '{"params":{"id":"r1"},"x":',
      '{"idx":"r1","x":',
      '{"x":"id","y":"r1","z":',
      `{"id":"${'r'.repeat(129)}","x":`,
    ])
      expect([head, idOf(head)]).toEqual([head, undefined])
  })

  it('keeps nothing of one text for the next', () => {
    const many = `{${Array.from({ length: 20 }, (_, n) => `"n${n}":1`).join()}`
    for (const left of [
      many,
      `${many},"x":{"a":1,"\\u0062":[`,
      `${many},"x":${'['.repeat(40)}`,
      `${many},"unfinished`,
    ]) {
      scan(Buffer.from(left))
      expect(judge('{"n1":1,"x":{"a":1,"b":{"b":1}}}')).toBeUndefined()
    }
  })

  it('takes bytes that are no text at all without a word or with one, but never throws', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
        scan(bytes)
      }),
      { seed: SEED, numRuns: 5_000 },
    )
  })
})

describe.skipIf(absent)('the frames of recorded conversations', () => {
  const frames = filesOf([
    '{agent,chat,connect,cron,devices,errors,nodes,scopes,send,sessions}*.json',
    'v4/*.json',
  ]).flatMap((file) =>
    readRecording(file).entries.flatMap((entry) => (isSent(entry) && entry.frame ? [JSON.stringify(entry.frame)] : [])),
  )

  it('are all sound', () => {
    expect(frames.length).toBeGreaterThan(200)
    expect(frames.filter((frame) => judge(frame) !== undefined)).toEqual([])
  })

  it('stay within the reference when they are bitten, doubled and mixed, 100,000 times', () => {
    let state = SEED
    const draw = (below: number) => {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
      return Math.floor((state / 2 ** 32) * below)
    }
    const bites = [
      '"',
      '\\',
      '{',
      '}',
      '[',
      ']',
      ',',
      ':',
      '\\ud800',
      '"type":1,',
      '1e999',
      '99999999999999999999',
      '{"a":{"a":',
      'é',
      '\u0000',
    ]
    const short = frames.filter(({ length }) => length < 2_000)
    const told = { JSON: 0, 'no JSON': 0 }
    for (let n = 0; n < 100_000; n++) {
      let frame = short[draw(short.length)]!
      for (let bite = draw(3); bite >= 0; bite--) {
        const [from, to] = [draw(frame.length + 1), draw(frame.length + 1)].sort((a, b) => a - b) as [number, number]
        switch (draw(5)) {
          case 0:
            frame = frame.slice(0, from) + frame.slice(to)
            break
          case 1:
            frame = frame.slice(0, to) + frame.slice(from)
            break
          case 2:
            frame = frame.slice(0, from) + bites[draw(bites.length)] + frame.slice(from)
            break
          case 3: {
            // A member twice: the text stays JSON.
            const members = frame.match(/"\w+":"[^"\\]*",/g) ?? ['"id":"1",']
            frame = frame.replace('{', `{${members[draw(members.length)]}`)
            break
          }
          default:
            frame = frame.replace(/"\w+":/g, (name) =>
              draw(8) === 0 ? `"\\u00${name.charCodeAt(1).toString(16)}${name.slice(2)}` : name,
            )
        }
      }
      told[compare(frame)] += 1
    }
    expect(Math.min(told.JSON, told['no JSON'])).toBeGreaterThan(10_000)
  })
})

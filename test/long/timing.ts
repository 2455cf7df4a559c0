/** Whether the time of a refusal tells how near a guess was: samples of several classes, compared by Welch's t. */
import { createHash, generateKeyPairSync } from 'node:crypto'
import { openDevices, sameSecret } from '../../src/auth/devices.ts'
import { SHARED } from '../../src/auth/principals.ts'
import { openTokens } from '../../src/auth/tokens.ts'
import { openMemoryStore } from '../../src/stores/memory.ts'
import { type Report, type Rounds, random, type Suite } from './suite.ts'

/** A difference between two classes counts when |t| is above this in each of so many measurements, with one sign. */
const LIMIT = 4.5
const MEASUREMENTS = 3
/** Comparisons in one sample: a single one is shorter than what the clock can tell. */
const PER_SAMPLE = 8
/** Half of what the best measurements over a local network have told apart, in ns. What is less is only counted. */
const NOTICEABLE_NS = 50
/** The slowest tenth of the samples belongs to the machine. */
const KEPT = 0.9

interface Classes {
  what: string
  /** A class each: what it does is timed. */
  classes: { [name: string]: () => void }
}

/** Samples of all classes, in an order that nothing else has. In ns. */
function measured({ classes }: Classes, count: number, next: () => number): Map<string, number[]> {
  const names = Object.keys(classes)
  const samples = new Map(names.map((name) => [name, [] as number[]]))
  for (const name of names) for (let n = 0; n < 2_000; n++) classes[name]!()
  for (let n = 0; n < count * names.length; n++) {
    const name = names[Math.floor(next() * names.length)]!
    const run = classes[name]!
    const begun = process.hrtime.bigint()
    for (let times = 0; times < PER_SAMPLE; times++) run()
    samples.get(name)!.push(Number(process.hrtime.bigint() - begun))
  }
  return samples
}

/** The samples below the tenth that is left out, of all classes alike. */
function cropped(samples: Map<string, number[]>): Map<string, number[]> {
  const all = [...samples.values()].flat().toSorted((a, b) => a - b)
  const highest = all[Math.floor(all.length * KEPT)]!
  return new Map([...samples].map(([name, values]) => [name, values.filter((value) => value <= highest)]))
}

const mean = (values: number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length

/** Welch's t of two samples. */
function welch(a: number[], b: number[]): number {
  const [meanA, meanB] = [mean(a), mean(b)]
  const variance = (values: number[], middle: number) =>
    values.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (values.length - 1)
  const spread = variance(a, meanA) / a.length + variance(b, meanB) / b.length
  return spread === 0 ? 0 : (meanA - meanB) / Math.sqrt(spread)
}

/** Compares every class with the first. */
function compared(classes: Classes, count: number, next: () => number): Map<string, { t: number; ns: number }> {
  const [[first, reference], ...others] = [...cropped(measured(classes, count, next))] as [string, number[]][] as [
    [string, number[]],
    ...[string, number[]][],
  ]
  const ns = (values: number[]) => (mean(values) - mean(reference)) / PER_SAMPLE
  return new Map(
    others.map(([name, values]) => [`${name} and ${first}`, { t: welch(values, reference), ns: ns(values) }]),
  )
}

interface Apart {
  /** The least |t| of all measurements, 0 where they disagree about the sign; and the least difference in ns. */
  pairs: Map<string, { t: number; ns: number }>
  differ: string[]
}

/** Measures several times, and names the pairs of classes that differ every time. */
function apart(classes: Classes, count: number, next: () => number): Apart {
  const all = Array.from({ length: MEASUREMENTS }, () => compared(classes, count, next))
  const pairs = new Map(
    [...all[0]!.keys()].map((pair) => {
      const values = all.map((one) => one.get(pair)!)
      const isOneSign = values.every(({ t }) => t > 0) || values.every(({ t }) => t < 0)
      const least = (list: number[]) => (isOneSign ? Math.min(...list.map(Math.abs)) : 0)
      return [pair, { t: least(values.map(({ t }) => t)), ns: least(values.map(({ ns }) => ns)) }]
    }),
  )
  return { pairs, differ: [...pairs].filter(([, { t, ns }]) => t > LIMIT && ns > NOTICEABLE_NS).map(([pair]) => pair) }
}

/** The text as it comes over the wire: in one piece, not as the parts it was made of here. */
const flat = (text: string): string => Buffer.from(text).toString()

const SECRET = 'kD83-xQ0v_71mZsYw2LtPbR9aUcEgHiJ'
const other = (character: string): string => (character === 'x' ? 'y' : 'x')

/** What is asked of the parts that compare credentials. */
async function questions(): Promise<Classes[]> {
  const store = openMemoryStore()
  const now = () => Date.now()
  const devices = await openDevices(store, Buffer.alloc(32, 7), { onRevoked() {}, now })
  const tokens = await openTokens({ store, now, onRevoked() {} })
  const { publicKey } = generateKeyPairSync('ed25519')
  const key = publicKey.export({ format: 'der', type: 'spki' }).subarray(-32).toString('base64url')
  const paired = await devices.pair({
    deviceId: 'd'.repeat(64),
    publicKey: key,
    role: 'operator',
    granted: ['operator.read'],
    platform: 'linux',
    clientId: 'cli',
    clientMode: 'cli',
  })
  const mine = devices.token(paired)
  const wrongMine = flat(mine.slice(0, -1) + (mine.endsWith('0') ? '1' : '0'))
  const guess = (text: string) => {
    const given = flat(text)
    return () => void sameSecret(SECRET, given)
  }
  const { text } = await tokens.create({ name: 'n', scopes: ['operator.read'] }, SHARED)
  const [, , id, secret] = text.reveal().split('_') as [string, string, string, string]
  const named = (ofId: string, ofSecret: string) => {
    const body = `kur_named_${ofId}_${ofSecret}`
    return flat(`${body}_${createHash('sha256').update(body).digest('hex').slice(0, 8)}`)
  }
  const wrongSecret = named(id, secret.slice(0, -1) + (secret.endsWith('0') ? '1' : '0'))
  const unknownId = named(id.split('').reverse().join(''), secret)
  if (tokens.check(text.reveal()).kind !== 'known' || tokens.check(wrongSecret).kind !== 'unknown')
    throw new Error('the tokens are not what they should be')
  return [
    {
      what: 'the shared token',
      classes: {
        'the last byte': guess(SECRET.slice(0, -1) + other(SECRET.at(-1)!)),
        'the first byte': guess(other(SECRET[0]!) + SECRET.slice(1)),
        'every byte': guess('x'.repeat(SECRET.length)),
        'the right one': guess(SECRET),
      },
    },
    {
      // How long a guess is, whoever guesses knows: what it is the beginning of must not show.
      what: 'a shorter guess',
      classes: {
        'what the secret begins with': guess(SECRET.slice(0, -1)),
        'anything of that length': guess('x'.repeat(SECRET.length - 1)),
      },
    },
    {
      what: 'a device',
      classes: {
        'a wrong token of a device that is known': () => void devices.credential(paired, wrongMine),
        'a token of a device that is not': () => void devices.credential(undefined, wrongMine),
      },
    },
    {
      what: 'a named token',
      classes: {
        'a wrong secret of a token that is known': () => void tokens.check(wrongSecret),
        'a token that is not': () => void tokens.check(unknownId),
      },
    },
  ]
}

export const timing: Suite = {
  summary: 'how long a refusal takes does not tell how near the guess was',
  few: 1_000,
  many: 1_000_000,
  async run({ rounds, seed, say }: Rounds): Promise<Report> {
    const next = random(seed)
    const counts: Report['counts'] = { 'samples of a class': rounds }
    const broken: string[] = []
    // What must be found, or nothing is proved: a comparison that stops at the first byte that differs.
    const long = flat(SECRET.repeat(16))
    const nearly = flat(long.slice(0, -1) + other(long.at(-1)!))
    const not = flat(other(long[0]!) + long.slice(1))
    const naive: Classes = {
      what: 'a comparison that stops early',
      classes: {
        'the last byte': () => void stopsEarly(long, nearly),
        'the first byte': () => void stopsEarly(long, not),
      },
    }
    if (apart(naive, Math.min(rounds, 50_000), next).differ.length === 0)
      broken.push(`the measurement does not even see a comparison that stops early (seed ${seed})`)
    for (const classes of await questions()) {
      const { pairs, differ } = apart(classes, rounds, next)
      for (const [pair, { t, ns }] of pairs)
        counts[`${classes.what}: ${pair}`] = `|t| ${t.toFixed(2)}, ${ns.toFixed(1)} ns apart`
      for (const pair of differ) broken.push(`${classes.what}: ${pair} can be told apart by time (seed ${seed})`)
      say(classes.what)
    }
    return { counts, broken }
  },
}

function stopsEarly(a: string, b: string): boolean {
  for (let at = 0; at < a.length; at++) if (a.charCodeAt(at) !== b.charCodeAt(at)) return false
  return true
}

/** Damaged files of a store, opened again: what is answered is right, or it is said what is not there any more. */
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openSqliteStore, type SqliteStore } from '../../src/stores/sqlite.ts'
import { type Babbler, startBabbler } from '../support/babbler.ts'
import { spawnProcess } from '../support/gateway-process.ts'
import { leave } from '../support/leftovers.ts'
import { type Image, keysProblem, type Life, live, place, SESSIONS, see } from './damage-image.ts'
import { openLine } from './line.ts'
import { type Rounds, random, type Suite } from './suite.ts'
import { createTally, type Tally } from './tally.ts'

const BREACHES = [
  'wrong answers',
  'silent losses',
  'old epochs',
  'crash loops',
  'files not set aside',
  'lost for nothing',
]
/** Openings that may fail before one that does not: damage that is only met when it is read is mended at the next. */
const OPENINGS = 3
const AT_ONCE = 3
/** One image in so many is given to a whole gateway, too. */
const WHOLE_GATEWAY_EVERY = 250

type Roll = () => number

interface Mutation {
  how: string
  image: Image
  /** The image it was made of. */
  of: Image
}

const copyOf = (bytes: Buffer): Buffer => Buffer.from(bytes)

const flip = (bytes: Buffer, roll: Roll, from = 0, to = bytes.length): Buffer => {
  const copy = copyOf(bytes)
  copy[from + Math.floor(roll() * (Math.min(to, bytes.length) - from))]! ^= 1 << Math.floor(roll() * 8)
  return copy
}
const cut = (bytes: Buffer, roll: Roll): Buffer => bytes.subarray(0, Math.floor(roll() * bytes.length))
const blank = (bytes: Buffer, roll: Roll, size: number): Buffer => {
  const at = Math.floor((roll() * bytes.length) / size) * size
  return copyOf(bytes).fill(0, at, at + size)
}
const garbage = (length: number, roll: Roll): Buffer =>
  Buffer.from(Array.from({ length }, () => Math.floor(roll() * 256)))
const swapPages = (bytes: Buffer, roll: Roll): Buffer => {
  const pick = () => Math.floor((roll() * bytes.length) / 4096) * 4096
  const [one, two] = [pick(), pick()]
  const copy = copyOf(bytes)
  bytes.copy(copy, one, two, two + 4096)
  bytes.copy(copy, two, one, one + 4096)
  return copy
}

/** What may happen to a main file alone, by name. */
const ofFile: { [how: string]: (bytes: Buffer, roll: Roll) => Buffer } = {
  'a bit of the file': flip,
  'another bit of the file': flip,
  'a bit of its header': (bytes, roll) => flip(bytes, roll, 0, 100),
  'a zeroed page': (bytes, roll) => blank(bytes, roll, 4096),
  'a zeroed sector': (bytes, roll) => blank(bytes, roll, 512),
  'a cut file': cut,
  'two pages in each other’s place': swapPages,
  'an empty file': () => Buffer.alloc(0),
  garbage: (bytes, roll) => garbage(1 + Math.floor(roll() * bytes.length), roll),
}

/** What may happen to a log. */
const ofLog: { [how: string]: (bytes: Buffer, roll: Roll, life: Life) => Buffer | undefined } = {
  'a bit of the log': (bytes, roll) => flip(bytes, roll),
  'another bit of the log': (bytes, roll) => flip(bytes, roll),
  'a bit of the log’s header': (bytes, roll) => flip(bytes, roll, 0, 32),
  'a bit of a frame’s header': (bytes, roll) => {
    const at = 32 + Math.floor((roll() * (bytes.length - 32)) / 4120) * 4120
    return flip(bytes, roll, at, at + 24)
  },
  'a zeroed part of the log': (bytes, roll) => blank(bytes, roll, 4096),
  'a cut log': cut,
  'a lost log': () => undefined,
  'an empty log': () => Buffer.alloc(0),
  'a log of another time': (_, roll, { foreignLogs }) => foreignLogs[Math.floor(roll() * foreignLogs.length)]!,
  'a garbage log': (bytes, roll) => garbage(bytes.length, roll),
}

function mutate(life: Life, roll: Roll): Mutation {
  const pick = <T>(list: T[]): T => list[Math.floor(roll() * list.length)]!
  const dice = roll()
  if (dice < 0.4) {
    const [how, change] = pick(Object.entries(ofFile))
    return { how, of: life.closed, image: { '': change(life.closed['']!, roll) } }
  }
  const of = pick([life.crashed, life.moved, life.resting])
  if (dice < 0.55) {
    const [how, change] = pick(Object.entries(ofFile))
    return { how: `${how}, beside a log`, of, image: { ...of, '': change(of['']!, roll) } }
  }
  if (dice < 0.6) return { how: 'a bit of the note', of, image: { ...of, '.note': flip(of['.note']!, roll) } }
  const [how, change] = pick(Object.entries(ofLog))
  const { '-wal': log, ...rest } = of
  const changed = change(log!, roll, life)
  return { how, of, image: { ...rest, ...(changed && { '-wal': changed }) } }
}

/** Opens what is there, and reads it all: until neither fails. */
async function openSound(
  path: string,
): Promise<{ store: SqliteStore; seen: Awaited<ReturnType<typeof see>>; failures: string[] }> {
  const failures: string[] = []
  for (;;) {
    try {
      const store = await openSqliteStore({ path })
      try {
        return { store, seen: await see(store), failures }
      } catch (error) {
        await store.close()
        throw error
      }
    } catch (error) {
      failures.push(String(error))
      if (failures.length >= OPENINGS) throw new Error(failures.join(', then '))
    }
  }
}

/** Opens one damaged image, and judges. */
async function judge(
  folder: string,
  life: Life,
  { how, image, of }: Mutation,
  tally: Tally,
  where: string,
): Promise<void> {
  const path = place(folder, image, life.backup)
  tally.add(how)
  const opened = await openSound(path).catch((error: Error) =>
    tally.breach('crash loops', `${error.message}; ${how} ${where}`),
  )
  if (!opened) return
  const { store, seen } = opened
  const { incident } = store
  const problems = await store.verify().catch((error: Error) => [error.message])
  const unknown = await keysProblem(store).catch((error: Error) => error.message)
  await store.close()
  if (problems.length > 0 || unknown) tally.breach('wrong answers', `${problems[0] ?? unknown}; ${how} ${where}`)
  const isWhole = seen.whole === life.whole.get(of)
  if (!incident) {
    if (isWhole) return tally.add('whole')
    const kind = life.states.has(seen.kept) ? 'silent losses' : 'wrong answers'
    return tally.breach(kind, `nothing was said, and something is not as it was; ${how} ${where}`)
  }
  tally.add(incident.restored ? 'restored from the backup' : 'gone on with what was sound')
  if (seen.streams > 0)
    tally.breach('old epochs', `${seen.streams} streams went on after: ${incident.reason}; ${how} ${where}`)
  if (incident.aside ? !existsSync(incident.aside) : how !== 'a lost log')
    tally.breach('files not set aside', `${incident.aside} is not there (${incident.reason}); ${how} ${where}`)
  if (incident.restored ? seen.kept !== life.backedUp : !life.states.has(seen.kept))
    tally.breach('wrong answers', `what is there never was: ${incident.reason}; ${how} ${where}`)
  const again = await openSqliteStore({ path })
  const then = await see(again)
  if (again.incident || then.kept !== seen.kept)
    tally.breach(
      'crash loops',
      `after it was mended: ${again.incident?.reason ?? 'something else is there'}; ${how} ${where}`,
    )
  await again.close()
}

/** Gives the same image to a whole gateway, twice: it serves, and nobody is told that an old epoch goes on. */
async function serve(
  folder: string,
  life: Life,
  { how, image }: Mutation,
  babbler: Babbler,
  tally: Tally,
  where: string,
): Promise<void> {
  const path = place(folder, image, life.backup)
  const probe = await openSound(place(`${folder}-probe`, image, life.backup))
  const isDamaged = probe.store.incident !== undefined
  await probe.store.close()
  tally.add('images served by a whole gateway')
  for (const time of ['first', 'second'] as const) {
    const starting = spawnProcess(folder, babbler.url)
    try {
      const gateway = await starting.running
      const health = (await (await fetch(new URL('/health', gateway.url.replace('ws', 'http')))).json()) as {
        status: string
      }
      if (time === 'first' && isDamaged !== (health.status === 'degraded'))
        tally.breach('silent losses', `the gateway is ${health.status}; ${how} ${where}`)
      const line = await openLine(gateway.url, { protocol: 4, caps: ['stream-offsets'], onEvent() {}, onGap() {} })
      for (const sessionKey of SESSIONS) {
        const answer = await line.ask('chat.resume', { sessionKey, epoch: 'epoch-1', offset: 1 })
        if (isDamaged && answer?.['payload']?.recovered !== false)
          tally.breach('old epochs', `chat.resume answered ${JSON.stringify(answer)}; ${how} ${where}`)
      }
      line.cut()
    } catch (error) {
      tally.breach(
        'crash loops',
        `the ${time} start of a gateway on ${path}: ${(error as Error).message}; ${how} ${where}`,
      )
    } finally {
      starting.terminate()
      await starting.exited
    }
  }
}

export const damage: Suite = {
  summary: 'damaged files never make a crash loop or a wrong answer; what is lost is said, and every epoch ends',
  few: 30,
  many: 10_000,
  async run({ rounds, seed, say }: Rounds) {
    const tally = createTally([
      'images',
      'whole',
      'restored from the backup',
      'gone on with what was sound',
      ...BREACHES,
    ])
    const folder = mkdtempSync(join(tmpdir(), 'long-damage-'))
    const removed = leave(() => rmSync(folder, { recursive: true, force: true }))
    let babbler: Babbler | undefined
    try {
      babbler = await startBabbler()
      const life = await live(join(folder, 'life'), random(seed))
      let next = 0
      const lane = async (name: number) => {
        for (let round = next++; round < rounds; round = next++) {
          const mutation = mutate(life, random(seed + 1 + round))
          const where = `(image ${round}, seed ${seed})`
          await judge(join(folder, `lane-${name}`), life, mutation, tally, where)
          tally.add('images')
          if (round % WHOLE_GATEWAY_EVERY === 0)
            await serve(join(folder, `served-${name}`), life, mutation, babbler!, tally, where)
          if (round % 250 === 249) say(`${round + 1} images, ${tally.broken.length} broken`)
        }
      }
      await Promise.all(Array.from({ length: AT_ONCE }, (_, name) => lane(name)))
    } finally {
      await babbler?.close()
      rmSync(folder, { recursive: true, force: true })
      removed()
    }
    return tally
  },
}
